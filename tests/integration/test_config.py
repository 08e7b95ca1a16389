"""The environment: what each variable accepts, what is said about the ones it does not, and what is never shown."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service import config as configuration
from service.config import Config
from service.errors import ConfigurationError
from service.outcome import Command
from tests.conftest import MINIMAL

HERE = {**MINIMAL, "DATABASE_URL": "sqlite:///var/autoship.db"}


def loaded(**variables: str) -> Config:
    return configuration.load({**HERE, **variables})


def problems_of(environ: Mapping[str, str]) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        configuration.load(environ)
    assert refused.value.exit_code == 2
    return str(refused.value).splitlines()


@pytest.mark.parametrize(
    ("variables", "where", "value"),
    [
        ({}, "port", 8008),
        ({"PORT": ""}, "port", 8008),
        ({"PORT": "80"}, "port", 80),
        ({}, "oms.auth_scheme", "Token"),
        ({"OMS_AUTH_SCHEME": "Bearer"}, "oms.auth_scheme", "Bearer"),
        ({"OMS_BASE_URL": "https://brand-oms.akinon.net/"}, "oms.base_url", "https://brand-oms.akinon.net"),
        ({"OMS_BASE_URL": "http://[::1]:8009"}, "oms.base_url", "http://[::1]:8009"),
        ({"OMS_BASE_URL": "http://localhost"}, "oms.base_url", "http://localhost"),
        ({"OMS_BASE_URL": "http://127.0.0.2:8009"}, "oms.base_url", "http://127.0.0.2:8009"),
        ({"OMS_BASE_URL": "http://[0:0:0:0:0:0:0:1]"}, "oms.base_url", "http://[0:0:0:0:0:0:0:1]"),
        ({}, "oms.timeout_s", 10),
        ({}, "settings.command", Command(12, None)),
        ({"SHIP_TRANSITION_ID": "", "SHIP_SLUG": "ship"}, "settings.command", Command(None, "ship")),
        ({"SHIP_SLUG": "ship"}, "settings.command", Command(12, "ship")),
        ({"PACKED_STATUS": "510"}, "settings.item_packed_status", "510"),
        ({"PACKED_STATUS": "510", "ITEM_PACKED_STATUS": "500"}, "settings.item_packed_status", "500"),
        ({"PACKED_STATUS": " 510\n"}, "settings.packed_status", "510"),
        ({"PACKED_STATUS": " "}, "settings.packed_status", "500"),
        ({"ITEM_PACKED_STATUS": "\t510 "}, "settings.item_packed_status", "510"),
        ({}, "settings.shipped_statuses", frozenset()),
        ({"SHIPPED_STATUSES": "600, 610\n620,,"}, "settings.shipped_statuses", frozenset({"600", "610", "620"})),
        ({}, "settings.enforce_offered", True),
        ({"COMMANDS_GATE": "off"}, "settings.enforce_offered", False),
        ({"MODE": "shadow"}, "settings.live", False),
        ({"GRACE_S": "1.5"}, "settings.grace", timedelta(seconds=1.5)),
        ({"LEASE_S": "21", "OMS_TIMEOUT_S": "10"}, "lease", timedelta(seconds=21)),
        ({}, "retention", timedelta(days=90)),
        ({"RETENTION_DAYS": "1"}, "retention", timedelta(days=1)),
        ({}, "authentication.secrets", ("s3cr3t",)),
        ({"WEBHOOK_SECRETS": "new, old\noldest"}, "authentication.secrets", ("new", "old", "oldest")),
        ({"WEBHOOK_SECRETS": "", "WEBHOOK_ALLOW_UNSIGNED": "1"}, "authentication.secrets", ()),
        ({"WEBHOOK_SECRETS": "", "WEBHOOK_ALLOW_UNSIGNED": "TRUE"}, "authentication.secrets", ()),
        ({"WEBHOOK_ALLOW_UNSIGNED": "false"}, "authentication.secrets", ("s3cr3t",)),
        ({"WEBHOOK_ALLOW_UNSIGNED": "0"}, "authentication.secrets", ("s3cr3t",)),
        ({"WEBHOOK_BASIC_AUTH": "oms:p:w"}, "authentication.basic", "oms:p:w"),
        ({"WEBHOOK_HEADER": "X-Key:  a: b "}, "authentication.header", ("X-Key", "a: b")),
        ({}, "admin_token", ""),
        ({"ALERT_URLS": " json://a/?x=1,2\n jsons://b "}, "alert_urls", ("json://a/?x=1,2", "jsons://b")),
        ({"DISPLAY_TZ": "UTC"}, "display_tz.key", "UTC"),
        ({}, "public_url", None),
        ({"PUBLIC_URL": "https://autoship.example.com/"}, "public_url", "https://autoship.example.com"),
        ({"PUBLIC_URL": "https://example.com/autoship"}, "public_url", "https://example.com/autoship"),
        ({"PUBLIC_URL": "http://127.0.0.1:8008"}, "public_url", "http://127.0.0.1:8008"),
        ({}, "oms.hooks_path", "/whisperer/hooks/"),
        ({}, "log_format", None),
        ({"LOG_FORMAT": "text"}, "log_format", "text"),
    ],
)
def test_variable_means_what_it_says(variables: dict[str, str], where: str, value: object) -> None:
    found: Any = loaded(**variables)
    for name in where.split("."):
        found = getattr(found, name)
    assert found == value


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("sqlite:///var/autoship.db", "sqlite:///var/autoship.db"),
        ("postgres://u:p@db/x", "postgresql+psycopg://u:p@db/x"),
        (
            "postgresql://u:p%40%2F@db:5433/x?sslmode=require",
            "postgresql+psycopg://u:p%40%2F@db:5433/x?sslmode=require",
        ),
        ("postgresql+psycopg://u:p@db/x", "postgresql+psycopg://u:p@db/x"),
    ],
)
def test_database_url_is_taken_in_the_spellings_of_platforms(url: str, meant: str) -> None:
    assert loaded(DATABASE_URL=url, DB_HOST="ignored").database_url == meant


def test_database_of_parts_quotes_what_a_url_would_take_for_itself() -> None:
    parts = {"DB_HOST": "::1", "DB_PORT": "5433", "DB_NAME": "auto ship", "DB_USER": "a@b", "DB_PASSWORD": "p:/@?#%w"}
    assert loaded(DATABASE_URL="", **parts).database_url == (
        "postgresql+psycopg://a%40b:p%3A%2F%40%3F%23%25w@[::1]:5433/auto ship"
    )


@pytest.mark.parametrize("part", ["DB_NAME", "DB_USER", "DB_PASSWORD", "DB_PORT"])
def test_a_part_of_a_database_without_its_host_is_a_problem_and_never_a_new_sqlite_file(part: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        configuration.load({**MINIMAL, part: "5432"}, default_database="sqlite:///d.db")
    assert f"DB_HOST: required where {part} is set (or set DATABASE_URL)" in refused.value.problems
    assert {problem.split(": ")[0] for problem in refused.value.problems} <= {"DB_HOST", "DB_NAME", "DB_USER"}
    assert loaded(**{part: "5432"}).database_url == HERE["DATABASE_URL"]


def test_a_missing_database_is_not_to_be_sqlite_where_sqlite_is_refused() -> None:
    [problem] = problems_of({**MINIMAL, "ACC_PROJECT_APP_UUID": "7f"})
    assert problem == "DATABASE_URL: required (add the postgresql add-on)"


def test_default_database_stands_in_only_where_none_is_named() -> None:
    environ = {**MINIMAL}
    assert configuration.load(environ, default_database="sqlite:///d.db").database_url == "sqlite:///d.db"
    named = {**environ, "DATABASE_URL": "sqlite:///n.db"}
    assert configuration.load(named, default_database="sqlite:///d.db").database_url == "sqlite:///n.db"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("DATABASE_URL", "", "required (for one machine: sqlite:///var/autoship.db)"),
        ("DATABASE_URL", "mysql://u:canary@h/d", "must begin with postgresql:// or sqlite:///"),
        ("DATABASE_URL", "canary", "not a URL; in user and password percent-encode what is no letter or digit"),
        ("DATABASE_URL", "postgresql://u:p@h:canary/d", "not a URL; in user and password percent-encode"),
        ("DATABASE_URL", "postgresql://u:p@canary@h/d", "an @ in user or password must be written %40"),
        ("DATABASE_URL", "sqlite://", "must name a file after three slashes, as sqlite:///var/autoship.db does"),
        (
            "DATABASE_URL",
            "sqlite://var/autoship.db",
            "must name a file after three slashes, as sqlite:///var/autoship.db does",
        ),
        ("ACC_PROJECT_APP_UUID", "7f", "SQLite does not last on this platform's disk; add the postgresql add-on"),
        ("OMS_BASE_URL", "", "required"),
        ("OMS_BASE_URL", "brand-oms.akinon.net", "must look like https://brand-oms.akinon.net"),
        ("OMS_BASE_URL", "https://brand\n.net", "must look like https://brand-oms.akinon.net"),
        ("OMS_BASE_URL", "https://h:x", "not a URL"),
        ("OMS_BASE_URL", "https://brand-oms..akinon.net", "not a URL"),
        ("OMS_BASE_URL", "http://brand-oms.akinon.net", "must be https unless it is on loopback"),
        ("OMS_BASE_URL", "http://127.0.0.1.example.com", "must be https unless it is on loopback"),
        (
            "OMS_BASE_URL",
            "http://10.0.0.1/api",
            "must be https unless it is on loopback and have no path, query or user",
        ),
        ("OMS_BASE_URL", "https://h/api/v1", "must have no path, query or user"),
        ("OMS_BASE_URL", "https://h?a=b", "must have no path, query or user"),
        ("OMS_BASE_URL", "https://:canary@h", "must have no path, query or user"),
        ("OMS_TOKEN", "", "required (or OMNITRON_BASE_URL, OMNITRON_USERNAME, OMNITRON_PASSWORD to log in)"),
        ("WEBHOOK_HEADER", "X-Shop: k\udcf6se", "must be UTF-8"),
        ("OMS_TOKEN", "canary\n", "must be printable ASCII without spaces or line breaks around it"),
        ("OMS_TOKEN", "çanary", "must be printable ASCII without spaces or line breaks around it"),
        ("OMS_ITEMS_PATH", "https://elsewhere/{id}", "must be a path on the OMS that holds {id} and no other braces"),
        ("OMS_ITEMS_PATH", "//elsewhere/{id}", "must be a path on the OMS that holds {id} and no other braces"),
        ("OMS_LOGS_PATH", "/logs/", "must be a path on the OMS that holds {id} and no other braces"),
        ("OMS_LOGS_PATH", "/logs/{id}/{packed}", "must be a path on the OMS that holds {id} and no other braces"),
        ("OMS_LOGS_PATH", "/logs/{id[0]}", "must be a path on the OMS that holds {id} and no other braces"),
        ("OMS_ITEMS_PATH", "/items/{id:1000000000}", "must be a path on the OMS that holds {id} and no other braces"),
        ("OMS_LIST_FILTER", "a={packed} &b=c", "must be a query without spaces and line breaks"),
        ("OMS_LIST_FILTER", "a={packed}\nb=c", "must be a query without spaces and line breaks"),
        ("OMS_HOOKS_PATH", "https://elsewhere/hooks/", "must be a path on the OMS that begins and ends with a slash"),
        ("OMS_HOOKS_PATH", "//elsewhere/hooks/", "must be a path on the OMS that begins and ends with a slash"),
        ("OMS_HOOKS_PATH", "/hooks", "must be a path on the OMS that begins and ends with a slash"),
        ("OMS_HOOKS_PATH", "/hooks/?a=/", "must be a path on the OMS that begins and ends with a slash"),
        ("PUBLIC_URL", "autoship.example.com", "must look like https://autoship.example.com"),
        ("PUBLIC_URL", "https://h:x", "not a URL"),
        ("PUBLIC_URL", f"https://{'h' * 64}.example.com", "not a URL"),
        ("PUBLIC_URL", "http://autoship.example.com", "must be https unless it is on loopback"),
        ("PUBLIC_URL", "http://h/?a=b", "must be https unless it is on loopback and have no query or user"),
        ("PUBLIC_URL", "https://h/?a=b", "must have no query or user"),
        ("PUBLIC_URL", "https://u:canary@h", "must have no query or user"),
        ("PUBLIC_URL", "https://h/" + "x" * 230, "must have at most 230 characters"),
        ("SHIP_TRANSITION_ID", "", "set it or SHIP_SLUG: the transition that ships, as reported at installation"),
        ("SHIP_TRANSITION_ID", "12.5", "must be a whole number of at least 0"),
        ("SHIP_TRANSITION_ID", "-1", "must be a whole number of at least 0"),
        ("WEBHOOK_SECRETS", " ,\n", "required (or WEBHOOK_ALLOW_UNSIGNED=1)"),
        ("WEBHOOK_ALLOW_UNSIGNED", "1", "cannot be set together with WEBHOOK_SECRETS"),
        ("WEBHOOK_ALLOW_UNSIGNED", "yes", "must be 1, 0, true or false"),
        ("WEBHOOK_BASIC_AUTH", "canary", "must be user:password"),
        ("WEBHOOK_HEADER", "canary", "must be Name: value"),
        ("WEBHOOK_HEADER", ": canary", "must be Name: value"),
        ("WEBHOOK_HEADER", "X_Api_Key: canary", "must be Name: value, the name of letters, digits and hyphens"),
        ("WEBHOOK_HEADER", "X-Küche: canary", "must be Name: value, the name of letters, digits and hyphens"),
        ("ADMIN_TOKEN", "canary\n", "must be printable ASCII without spaces or line breaks around it"),
        (
            "ALERT_URLS",
            "json://h canary json://",
            "Apprise cannot send to entry 2, 3; all must be Apprise URLs (service",
        ),
        (
            "ALERT_URLS",
            "canary://canary",
            "Apprise cannot send to entry 1; all must be Apprise URLs (service://…) with",
        ),
        ("PORT", "65536", "must be a whole number from 1 to 65535"),
        ("PORT", "80.5", "must be a whole number from 1 to 65535"),
        ("OMS_TIMEOUT_S", "soon", "must be a number of at least 0.1"),
        ("OMS_TIMEOUT_S", "nan", "must be a number of at least 0.1"),
        ("GRACE_S", "-1", "must be a number of at least 0"),
        ("RETRY_CAP_S", "inf", "must be a number from 0 to 1e+09"),
        ("SHIP_TRANSITION_ID", "9" * 20, "must be a whole number from 0 to 1e+09"),
        ("LEASE_S", "20.9", "must be at least 2 × OMS_TIMEOUT_S + 1 = 21"),
        ("RETENTION_DAYS", "0", "must be a whole number from 1 to 36500"),
        ("COMMANDS_GATE", "on", "must be one of auto, off"),
        ("MODE", "dry", "must be one of live, shadow"),
        ("SHIPPED_STATUSES", "600, 500", "names 500, which is PACKED_STATUS: name only states after Packed"),
        ("DISPLAY_TZ", "Europe/Atlantis", "not a known time zone"),
        ("DISPLAY_TZ", "../etc", "not a known time zone"),
        ("LOG_LEVEL", "loud", "must be one of DEBUG, INFO, WARNING, ERROR"),
        ("LOG_FORMAT", "xml", "must be one of json, text"),
        ("RULES_FILE", "missing.toml", "cannot read missing.toml: FileNotFoundError"),
    ],
)
def test_problem_names_the_variable_and_what_it_wants_but_never_a_secret(name: str, value: str, said: str) -> None:
    [problem] = problems_of({**HERE, name: value})
    # The platform's mark is fine by itself; it is SQLite that is not.
    variable = "DATABASE_URL" if name == "ACC_PROJECT_APP_UUID" else name
    assert problem.startswith(f"{variable}: {said}")
    assert "anary" not in problem


def test_a_packed_status_that_another_variable_calls_shipped_is_refused_however_it_is_spelled() -> None:
    [problem] = problems_of({**HERE, "PACKED_STATUS": "600 ", "SHIPPED_STATUSES": "610,600"})
    assert problem == "SHIPPED_STATUSES: names 600, which is PACKED_STATUS: name only states after Packed"


def test_all_problems_are_listed_together_one_line_each(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nname = "a"\nwhen = {chanel_name = ["Shop"]}\naction = "send"\n', encoding="utf-8")
    found = problems_of({"PORT": "x", "MODE": "x", "RULES_FILE": str(rules), "DB_HOST": "db", "ALERT_URLS": "x://x"})
    assert sorted(line.split(": ", 1)[0] for line in found) == [
        "ALERT_URLS",
        "DB_NAME",
        "DB_USER",
        "MODE",
        "OMS_BASE_URL",
        "OMS_TOKEN",
        "PORT",
        *["RULES_FILE"] * 3,
        "SHIP_TRANSITION_ID",
        "WEBHOOK_SECRETS",
    ]
    of_rules = [line.removeprefix(f"RULES_FILE: {rules}: ") for line in found if line.startswith("RULES_FILE")]
    assert [line.split(": ")[0] for line in of_rules] == ["line 1", "line 3", "line 4"]


@pytest.mark.parametrize(
    ("content", "token"),
    [
        (b"token", "token"),
        (b"token\n", "token"),
        (b"token\r\n", "token"),
        (b"token\n\n", "OMS_TOKEN: must be printable ASCII without spaces or line breaks around it"),
        (b"\n", "OMS_TOKEN: required (or OMNITRON_BASE_URL, OMNITRON_USERNAME, OMNITRON_PASSWORD to log in)"),
        (b"\xff", "OMS_TOKEN_FILE: cannot read {path}: UnicodeDecodeError"),
        (None, "OMS_TOKEN_FILE: cannot read {path}: FileNotFoundError"),
    ],
)
def test_variable_can_be_read_from_a_file_less_one_newline(tmp_path: Path, content: bytes | None, token: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    environ = {**HERE, "OMS_TOKEN": "", "OMS_TOKEN_FILE": str(path)}
    if ":" in token:
        assert token.format(path=path) in problems_of(environ)
    else:
        assert configuration.load(environ).oms.token == token


def test_the_path_of_the_rules_file_can_be_read_from_a_file_as_well(tmp_path: Path) -> None:
    rules, path = tmp_path / "rules.toml", tmp_path / "path"
    rules.write_text('default = "skip"\n', encoding="utf-8")
    path.write_text(f"{rules}\n", encoding="utf-8")
    assert loaded(RULES_FILE_FILE=str(path)).settings.rules.default == "skip"
    both = problems_of({**HERE, "RULES_FILE": str(rules), "RULES_FILE_FILE": str(path)})
    assert both == ["RULES_FILE: set either it or RULES_FILE_FILE, not both"]


def test_variable_and_its_file_cannot_both_be_set(tmp_path: Path) -> None:
    path = tmp_path / "secrets"
    path.write_text("canary", encoding="utf-8")
    [problem] = problems_of({**HERE, "WEBHOOK_SECRETS_FILE": str(path)})
    assert problem == "WEBHOOK_SECRETS: set either it or WEBHOOK_SECRETS_FILE, not both"


def test_redacted_shows_every_variable_with_its_default_and_no_secret() -> None:
    shown = configuration.redacted(
        {
            **MINIMAL,
            "DATABASE_URL": "postgresql://ayse:canary-1@db:5433/autoship?password=canary-2&sslkey=can@ry",
            "OMS_TOKEN": "canary-3",
            "WEBHOOK_SECRETS": "canary-4,canary-5",
            "WEBHOOK_BASIC_AUTH": "user:canary-6",
            "WEBHOOK_HEADER": "X-Key: canary-7",
            "ADMIN_TOKEN": "canary-8",
            "ALERT_URLS": "json://canary-9@h",
            "MODE": "shadow",
        }
    )
    assert "canary" not in repr(shown)
    assert "can@ry" not in repr(shown)
    assert shown["DATABASE_URL"] == "postgresql+psycopg://ayse@db:5433/autoship"
    assert (shown["MODE"], shown["SETTLE_S"], shown["PACKED_STATUS"]) == ("shadow", 3, "500")
    secrets = ("OMS_TOKEN", "WEBHOOK_SECRETS", "WEBHOOK_HEADER", "ADMIN_TOKEN", "ALERT_URLS")
    assert [shown[name] for name in secrets] == ["set"] * 5
    of_parts = {**MINIMAL, "DB_HOST": "db", "DB_NAME": "n", "DB_USER": "u", "DB_PASSWORD": "canary-10"}
    assert "canary" not in repr(configuration.redacted(of_parts))


def test_configuration_written_to_a_log_by_accident_shows_no_secret() -> None:
    config = loaded(
        DATABASE_URL="postgresql://u:canary@h/d",
        OMS_TOKEN="canary",
        WEBHOOK_SECRETS="canary",
        WEBHOOK_BASIC_AUTH="u:canary",
        WEBHOOK_HEADER="X: canary",
        ADMIN_TOKEN="canary",
        ALERT_URLS="json://canary",
    )
    login = {
        "OMNITRON_BASE_URL": "https://omnitron.akinon.net",
        "OMNITRON_USERNAME": "u",
        "OMNITRON_PASSWORD": "canary",
    }
    assert "canary" not in repr(config) + repr(loaded(OMS_TOKEN="", **login))
