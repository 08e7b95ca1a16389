"""The environment, read and checked in one place. All problems are reported together.

What each variable is for stands in docs/configuration.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from service import rules
from service.case import Settings
from service.delivery import Authentication
from service.errors import ConfigurationError, RulesError
from service.outcome import Command
from service.rules import Rules

SQLITE_DEFAULT = "sqlite:///var/autoship.db"
SANDBOX_DATABASE = "sqlite:///var/sandbox.db"
_MOST = 10**9
# The OMS stores a webhook's target in 255 characters.
_LONGEST_PUBLIC_URL = 230
# Texts that `redacted` shows as they are. Any other text is taken for a secret.
_NO_SECRETS = frozenset(
    {
        "OMS_AUTH_SCHEME",
        "OMS_BASE_URL",
        "OMS_ITEMS_PATH",
        "OMS_LOGS_PATH",
        "OMS_LIST_FILTER",
        "OMS_HOOKS_PATH",
        "OMNITRON_BASE_URL",
        "PUBLIC_URL",
        "SHIP_SLUG",
        "PACKED_STATUS",
        "ITEM_PACKED_STATUS",
        "SHIPPED_STATUSES",
        "RULES_FILE",
        "DISPLAY_TZ",
        "DB_HOST",
        "DB_NAME",
        "DB_USER",
    }
)

_Number = TypeVar("_Number", int, float)
_CALLED = {int: "whole number", float: "number"}


@dataclass(frozen=True, slots=True)
class OmnitronConfig:
    """Where and as whom to log in for a token."""

    base_url: str
    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OmsConfig:
    """How to reach the OMS.

    ASSUMED: the spelling of the paths and of the list's filter, which hold `{id}` or `{packed}`.
    """

    base_url: str
    token: str = field(repr=False)
    auth_scheme: str
    timeout_s: float
    items_path: str
    logs_path: str
    list_filter: str
    hooks_path: str
    omnitron: OmnitronConfig | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole effective configuration."""

    database_url: str = field(repr=False)
    port: int
    oms: OmsConfig
    authentication: Authentication = field(repr=False)
    public_url: str | None
    settings: Settings
    oms_concurrency: int
    oms_rate_per_s: float
    sweep_interval: timedelta
    adopt_max: int
    lease: timedelta
    admin_token: str = field(repr=False)
    alert_urls: tuple[str, ...] = field(repr=False)
    retention: timedelta
    display_tz: ZoneInfo
    log_level: str
    log_format: str | None


def environment() -> Mapping[str, str]:
    """The process's environment."""
    return os.environ


def load(environ: Mapping[str, str], *, default_database: str | None = None) -> Config:
    """The configuration in `environ`; `default_database` stands in for a missing `DATABASE_URL`.

    Reads the files that `NAME_FILE` variables and `RULES_FILE` name. Raises `ConfigurationError` with one
    line for each problem.
    """
    reader = _Reader(environ)
    config = _read(reader, default_database)
    reader.finish()
    return config


def load_authentication(environ: Mapping[str, str]) -> Authentication:
    """Only what a delivery must show. Raises `ConfigurationError`."""
    reader = _Reader(environ)
    authentication = _authentication(reader)
    reader.finish()
    return authentication


def rules_file(environ: Mapping[str, str]) -> str:
    """Where the rules file is; empty if there is none. Raises `ConfigurationError`."""
    reader = _Reader(environ)
    path = reader.text("RULES_FILE")
    reader.finish()
    return path


def load_rules(path: str) -> Rules:
    """Rules from the file at `path`. Raises `RulesError` where it cannot be read or used."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as problem:
        raise RulesError(f"cannot read {path}: {type(problem).__name__}") from problem
    except UnicodeDecodeError as problem:
        line = problem.object[: problem.start].count(b"\n") + 1
        raise RulesError(f"{path}: line {line}: not UTF-8") from problem
    try:
        return rules.parse(text)
    except RulesError as problem:
        raise RulesError(*(f"{path}: {line}" for line in problem.problems)) from problem


def redacted(environ: Mapping[str, str]) -> dict[str, object]:
    """What each variable is taken for, defaults included; secrets only as "set". Raises `ConfigurationError`."""
    reader = _Reader(environ)
    _read(reader, None)
    reader.finish()
    return reader.shown


def _read(reader: _Reader, default_database: str | None) -> Config:
    timeout_s = reader.number("OMS_TIMEOUT_S", 10, at_least=0.1)
    lease_s = reader.number("LEASE_S", 60, at_least=1)
    if lease_s < 2 * timeout_s + 1:
        reader.problem("LEASE_S", f"must be at least 2 × OMS_TIMEOUT_S + 1 = {2 * timeout_s + 1:g}")
    return Config(
        database_url=_database_url(reader, default_database),
        port=reader.whole("PORT", 8008, at_least=1, at_most=65535),
        oms=_oms(reader, timeout_s),
        authentication=_authentication(reader),
        public_url=_public_url(reader),
        settings=_settings(reader, timeout_s),
        oms_concurrency=reader.whole("OMS_CONCURRENCY", 8, at_least=1, at_most=256),
        oms_rate_per_s=reader.number("OMS_RATE_PER_S", 10, at_least=0),
        sweep_interval=reader.seconds("SWEEP_INTERVAL_S", 300),
        adopt_max=reader.whole("ADOPT_MAX", 20, at_least=0),
        lease=timedelta(seconds=lease_s),
        admin_token=_header_text(reader, "ADMIN_TOKEN"),
        alert_urls=_alert_urls(reader),
        retention=timedelta(days=reader.whole("RETENTION_DAYS", 90, at_least=1, at_most=36500)),
        display_tz=_time_zone(reader),
        log_level=reader.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR")),
        log_format=reader.choice("LOG_FORMAT", "", ("", "json", "text")) or None,
    )


def _oms(reader: _Reader, timeout_s: float) -> OmsConfig:
    omnitron = _omnitron(reader)
    return OmsConfig(
        base_url=_base_url(reader, "OMS_BASE_URL"),
        token=_header_text(reader, "OMS_TOKEN"),
        auth_scheme=_header_text(reader, "OMS_AUTH_SCHEME", "Token"),
        timeout_s=timeout_s,
        items_path=_path(reader, "OMS_ITEMS_PATH", "/api/v1/oms/packages/package-items/?package={id}"),
        logs_path=_path(reader, "OMS_LOGS_PATH", "/api/v1/oms/state-transition-logs/?object_id={id}"),
        list_filter=_filter(reader),
        hooks_path=_hooks_path(reader),
        omnitron=omnitron,
    )


def _omnitron(reader: _Reader) -> OmnitronConfig | None:
    token, names = reader.text("OMS_TOKEN"), ("OMNITRON_BASE_URL", "OMNITRON_USERNAME", "OMNITRON_PASSWORD")
    given = [name for name in names if reader.text(name)]
    if token and given:
        reader.problem("OMS_TOKEN", f"set either it or {', '.join(names)}, not both")
    elif not token and not given:
        reader.problem("OMS_TOKEN", f"required (or {', '.join(names)} to log in)")
    elif given:
        base_url = _base_url(reader, "OMNITRON_BASE_URL")
        return OmnitronConfig(base_url, reader.required("OMNITRON_USERNAME"), reader.required("OMNITRON_PASSWORD"))
    return None


def _settings(reader: _Reader, timeout_s: float) -> Settings:
    packed = reader.bare("PACKED_STATUS", "500")
    shipped_statuses = frozenset(reader.items("SHIPPED_STATUSES"))
    if packed in shipped_statuses:
        reader.problem("SHIPPED_STATUSES", f"names {packed}, which is PACKED_STATUS: name only states after Packed")
    # ASSUMED: items have the numbers of packages; the OMS guide gives no more than 100 Waiting for them.
    return Settings(
        command=_command(reader),
        rules=_rules(reader),
        packed_status=packed,
        item_packed_status=reader.bare("ITEM_PACKED_STATUS", packed),
        shipped_statuses=shipped_statuses,
        enforce_offered=reader.choice("COMMANDS_GATE", "auto", ("auto", "off")) == "auto",
        live=reader.choice("MODE", "live", ("live", "shadow")) == "live",
        grace=reader.seconds("GRACE_S", 0),
        settle=reader.seconds("SETTLE_S", 3),
        episode=reader.seconds("EPISODE_S", 30),
        oms_timeout=timedelta(seconds=timeout_s),
        retry_base=reader.seconds("RETRY_BASE_S", 5),
        retry_cap=reader.seconds("RETRY_CAP_S", 900),
        retry_max_age=reader.seconds("RETRY_MAX_AGE_S", 86400),
        command_max_attempts=reader.whole("COMMAND_MAX_ATTEMPTS", 8, at_least=1),
        ship_max_per_hour=reader.whole("SHIP_MAX_PER_HOUR", 0, at_least=0),
    )


def _command(reader: _Reader) -> Command:
    number, slug = reader.text("SHIP_TRANSITION_ID"), reader.text("SHIP_SLUG")
    if not number and not slug:
        reader.problem(
            "SHIP_TRANSITION_ID", "set it or SHIP_SLUG: the transition that ships, as reported at installation"
        )
    transition_id = reader.whole("SHIP_TRANSITION_ID", 0, at_least=0) if number else None
    return Command(transition_id, slug or None)


def _authentication(reader: _Reader) -> Authentication:
    secrets = reader.items("WEBHOOK_SECRETS")
    unsigned = reader.flag("WEBHOOK_ALLOW_UNSIGNED")
    if secrets and unsigned:
        reader.problem("WEBHOOK_ALLOW_UNSIGNED", "cannot be set together with WEBHOOK_SECRETS")
    if not secrets and not unsigned:
        reader.problem("WEBHOOK_SECRETS", "required (or WEBHOOK_ALLOW_UNSIGNED=1)")
    basic, header = reader.text("WEBHOOK_BASIC_AUTH"), reader.text("WEBHOOK_HEADER")
    if basic and ":" not in basic:
        reader.problem("WEBHOOK_BASIC_AUTH", "must be user:password")
    name, colon, value = header.partition(":")
    # gunicorn lets no name with an underscore through: behind it nobody could tell that from a hyphen.
    if header and not (re.fullmatch("[A-Za-z0-9-]+", name.strip()) and colon and value.strip()):
        reader.problem("WEBHOOK_HEADER", "must be Name: value, the name of letters, digits and hyphens")
    return Authentication(secrets, basic or None, (name.strip(), value.strip()) if header else None)


def _header_text(reader: _Reader, name: str, default: str = "") -> str:
    value = reader.text(name, default)
    if not (value.isascii() and value.isprintable()) or value != value.strip():
        reader.problem(name, "must be printable ASCII without spaces or line breaks around it")
    return value


def _base_url(reader: _Reader, name: str) -> str:
    text = reader.required(name)
    if text and (problem := _url_problem(text, "https://brand-oms.akinon.net", may_have_path=False)):
        reader.problem(name, problem)
    return text.rstrip("/")


def _public_url(reader: _Reader) -> str | None:
    text = reader.text("PUBLIC_URL")
    if text and (problem := _url_problem(text, "https://autoship.example.com", may_have_path=True)):
        reader.problem("PUBLIC_URL", problem)
    elif len(text) > _LONGEST_PUBLIC_URL:
        reader.problem("PUBLIC_URL", f"must have at most {_LONGEST_PUBLIC_URL} characters")
    return text.rstrip("/") or None


def _url_problem(text: str, example: str, *, may_have_path: bool) -> str | None:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")  # as whoever looks the name up does
    except ValueError:
        return "not a URL"
    if parts.scheme not in ("http", "https") or not host or not text.isprintable() or " " in text:
        return f"must look like {example}"
    must = []
    if parts.scheme == "http" and not _is_loopback(host):
        must.append("be https unless it is on loopback")
    if any(mark in text for mark in "?#@") or not (may_have_path or parts.path in ("", "/")):
        must.append("have no query or user" if may_have_path else "have no path, query or user")
    return f"must {' and '.join(must)}" if must else None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _hooks_path(reader: _Reader) -> str:
    path = reader.text("OMS_HOOKS_PATH", "/whisperer/hooks/")
    plain = path.startswith("/") and not path.startswith("//") and path.endswith("/")
    if not plain or not path.isprintable() or any(mark in path for mark in " ?#"):
        reader.problem("OMS_HOOKS_PATH", "must be a path on the OMS that begins and ends with a slash")
    return path


def _filter(reader: _Reader) -> str:
    query = reader.text("OMS_LIST_FILTER", "state__enum_value={packed}")
    if not query.isprintable() or " " in query:
        reader.problem("OMS_LIST_FILTER", "must be a query without spaces and line breaks")
    return query


def _path(reader: _Reader, name: str, default: str) -> str:
    path = reader.text(name, default)
    around = path.replace("{id}", "")
    plain = path.startswith("/") and not path.startswith("//") and path.isprintable()
    if not plain or around == path or "{" in around or "}" in around:
        reader.problem(name, "must be a path on the OMS that holds {id} and no other braces")
    return path


def _database_url(reader: _Reader, default: str | None) -> str:
    text = reader.text("DATABASE_URL") or _database_url_of_parts(reader) or default
    on_platform = bool(reader.text("ACC_PROJECT_APP_UUID"))
    if not text:
        how = "add the postgresql add-on" if on_platform else f"for one machine: {SQLITE_DEFAULT}"
        reader.problem("DATABASE_URL", f"required ({how})")
        return ""
    try:
        url = sa.make_url(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", text))
    except (sa.exc.ArgumentError, ValueError):
        reader.problem("DATABASE_URL", "not a URL; in user and password percent-encode what is no letter or digit")
        return ""
    shown = sa.URL.create(url.drivername, url.username, host=url.host, port=url.port, database=url.database)
    reader.shown["DATABASE_URL"] = shown.render_as_string()
    problem = _database_problem(url, on_platform=on_platform)
    if problem is not None:
        reader.problem("DATABASE_URL", problem)
    return url.render_as_string(hide_password=False)


def _database_problem(url: sa.URL, *, on_platform: bool) -> str | None:
    if url.drivername == "postgresql+psycopg":
        return "an @ in user or password must be written %40" if "@" in (url.host or "") else None
    if url.drivername != "sqlite":
        return "must begin with postgresql:// or sqlite:///"
    if on_platform:
        return "SQLite does not last on this platform's disk; add the postgresql add-on"
    named = url.database not in (None, "", ":memory:") and not url.host
    return None if named else "must name a file after three slashes, as sqlite:///var/autoship.db does"


def _database_url_of_parts(reader: _Reader) -> str | None:
    host = reader.text("DB_HOST")
    if not host:
        part = next((name for name in ("DB_NAME", "DB_USER", "DB_PASSWORD", "DB_PORT") if reader.text(name)), None)
        if part is None:
            return None
        reader.problem("DB_HOST", f"required where {part} is set (or set DATABASE_URL)")
    url = sa.URL.create(
        "postgresql",
        reader.required("DB_USER"),
        reader.text("DB_PASSWORD"),
        host,
        reader.whole("DB_PORT", 5432, at_least=1, at_most=65535),
        reader.required("DB_NAME"),
    )
    return url.render_as_string(hide_password=False)


def _rules(reader: _Reader) -> Rules:
    path = reader.text("RULES_FILE")
    if not path:
        return Rules()
    try:
        return load_rules(path)
    except ConfigurationError as found:
        reader.problem("RULES_FILE", "\nRULES_FILE: ".join(found.problems))
        return Rules()


def _alert_urls(reader: _Reader) -> tuple[str, ...]:
    urls = tuple(reader.text("ALERT_URLS").split())
    if urls:
        # Imported here: it is slow, and few need it.
        import apprise

        refused = [str(number) for number, url in enumerate(urls, 1) if not apprise.Apprise().add(url)]
        if refused:
            must_be = "all must be Apprise URLs (service://…) with white space between them"
            reader.problem("ALERT_URLS", f"Apprise cannot send to entry {', '.join(refused)}; {must_be}")
    return urls


def _time_zone(reader: _Reader) -> ZoneInfo:
    try:
        return ZoneInfo(reader.text("DISPLAY_TZ", "Europe/Istanbul"))
    except (ValueError, OSError, KeyError):
        reader.problem("DISPLAY_TZ", "not a known time zone")
        return ZoneInfo("UTC")


class _Reader:
    """Typed access to variables that notes problems instead of raising them, and what may be shown of each."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._noted: dict[str, str] = {}
        self.shown: dict[str, object] = {}

    def finish(self) -> None:
        """Raises `ConfigurationError` with every problem that was noted."""
        if self._noted:
            raise ConfigurationError(*(f"{name}: {problem}" for name, problem in self._noted.items()))

    def problem(self, name: str, problem: str) -> None:
        self._noted.setdefault(name, problem)

    def text(self, name: str, default: str = "") -> str:
        """The value, that of the file `NAME_FILE` names, or the default; an empty value is unset."""
        value = self._value(name) or default
        self.shown[name] = value if name in _NO_SECRETS or not value else "set"
        return value

    def bare(self, name: str, default: str) -> str:
        """A text that is compared with the OMS's, so without spaces around it, as that is read."""
        self.shown[name] = self.text(name).strip() or default
        return str(self.shown[name])

    def _value(self, name: str) -> str:
        value, path = self._environ.get(name, ""), self._environ.get(f"{name}_FILE", "")
        if value != value.encode(errors="replace").decode():  # other bytes arrive as lone surrogates
            self.problem(name, "must be UTF-8")
        if not path:
            return value
        if value:
            self.problem(name, f"set either it or {name}_FILE, not both")
            return value
        try:
            # Universal newlines: CR LF at the end counts as the one newline that is removed.
            return Path(path).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as problem:
            self.problem(f"{name}_FILE", f"cannot read {path}: {type(problem).__name__}")
            return ""

    def required(self, name: str) -> str:
        value = self.text(name)
        if not value:
            self.problem(name, "required")
        return value

    def items(self, name: str) -> tuple[str, ...]:
        parts = (part.strip() for part in re.split(r"[,\n]", self.text(name)))
        return tuple(part for part in parts if part)

    def flag(self, name: str) -> bool:
        value = self.text(name, "0").lower()
        if value not in ("1", "0", "true", "false"):
            self.problem(name, "must be 1, 0, true or false")
        self.shown[name] = value in ("1", "true")
        return value in ("1", "true")

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in choices:
            self.problem(name, f"must be one of {', '.join(filter(None, choices))}")
        self.shown[name] = value
        return value

    def number(self, name: str, default: float, *, at_least: float) -> float:
        return self._bounded(name, float, default, at_least, _MOST)

    def whole(self, name: str, default: int, *, at_least: int, at_most: int = _MOST) -> int:
        return self._bounded(name, int, default, at_least, at_most)

    def seconds(self, name: str, default: float) -> timedelta:
        return timedelta(seconds=self.number(name, default, at_least=0))

    def _bounded(self, name: str, kind: type[_Number], default: _Number, least: float, most: float) -> _Number:
        text = self.text(name)
        try:
            value = kind(text) if text else default
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            has_end = most < _MOST or (value is not None and value > most)
            limit = f"from {least:g} to {most:g}" if has_end else f"of at least {least:g}"
            self.problem(name, f"must be a {_CALLED[kind]} {limit}")
            value = default
        self.shown[name] = value
        return value
