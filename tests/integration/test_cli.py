"""The command line: exit codes, streams, JSON everywhere, questions before bulk actions, no traceback ever."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
import sqlalchemy as sa

from service import brakes, cli, explain, inbox, operator, sandbox, worklist
from service import config as configuration
from service.brakes import Operation
from service.case import MEANINGS, Evidence, Reason
from service.config import Config
from service.database import HEAD, Database, deliveries, deployment, packages, quarantine
from service.delivery import Authentication, Delivery, Unusable, authenticate
from service.errors import AutoshipError, DatabaseOutdated, DatabaseUnavailable
from service.operator import Acted
from service.outcome import Throttled, Unauthorised
from service.wire import StateValue
from tests import commands
from tests.commands import Autoship
from tests.conftest import MINIMAL, SECRET, a_document, on_sqlite
from tests.house.events import EVENTS
from tests.integration.conftest import Floor, beat
from tests.oms_faults import FaultyOms, answers, applied_then, html, resets, shows, words

UNREACHABLE_DATABASE = "postgresql://ayse:canary@127.0.0.1:9/autoship"


@pytest.fixture
def oms() -> Iterator[FaultyOms]:
    oms = FaultyOms()
    yield oms
    oms.release.set()


@pytest.fixture
def at_oms(oms: FaultyOms, database_url: str) -> Iterator[dict[str, str]]:
    """The variables that reach the stand-in, and a database that belongs to it."""
    with sandbox.serve(oms) as server:
        database = Database(database_url)
        database.migrate(server.url)
        database.dispose()
        yield {"OMS_BASE_URL": server.url, "OMS_TOKEN": oms.token, "SHIP_TRANSITION_ID": str(oms.transition_id)}


def stored(database: Database, package_id: int, **columns: Any) -> None:
    """A package we know, with these columns."""
    with database.transaction() as transaction:
        worklist.hint(transaction, package_id, "webhook")
        changed = sa.update(packages).where(packages.c.package_id == package_id)
        transaction.execute(changed.values(due_at=None, **columns))


def states(database: Database) -> dict[int, tuple[str, str | None]]:
    with database.reading() as transaction:
        return {row["package_id"]: (row["state"], row["reason"]) for row in worklist.listed(transaction, None, None)}


def every_command() -> dict[str, click.Command]:
    groups = {"": cli.main} | {f"{n} ": c for n, c in cli.main.commands.items() if isinstance(c, click.Group)}
    return {f"{prefix}{name}": one for prefix, group in groups.items() for name, one in group.commands.items()}


# Exit codes.


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        (["explain", "--help"], 0),
        (["config"], 0),
        (["packages"], 0),
        (["packages", "--state", "shipped"], 0),
        ([], 2),
        (["shipp"], 2),
        (["rules", "chek"], 2),
        (["packages", "--state", "nonsense"], 2),
        (["explain"], 2),
        (["explain", "0"], 2),
        (["explain", "seventy"], 2),
        (["explain", str(2**53)], 2),
        (["dismiss"], 2),
        (["recheck"], 2),
        (["recheck", "73", "--reason", "refused"], 2),
        (["sandbox", "--port", "99999"], 2),
        (["sandbox", "--pace", "-1"], 2),
        (["dismiss", "73", "--reason", "items_mixed"], 2),
        (["rules", "check"], 2),
        (["sign", "missing.json"], 2),
        (["explain", "73"], 3),
        (["rules", "test", "73"], 3),
    ],
)
def test_exit_code_says_who_must_act(autoship: Autoship, database: Database, arguments: list[str], code: int) -> None:
    ended = autoship(*arguments)
    assert ended.code == code, ended
    assert bool(ended.out) == (code == 0 and "packages" not in arguments)
    assert "Traceback" not in ended.err


def test_every_problem_of_the_configuration_is_one_line_on_stderr(autoship: Autoship) -> None:
    ended = autoship("packages", OMS_TOKEN="", SHIP_TRANSITION_ID="", PORT="x")
    assert (ended.code, ended.out) == (2, "")
    assert [line.split(": ")[:2] for line in ended.err.splitlines()] == [
        ["autoship", "PORT"],
        ["autoship", "OMS_TOKEN"],
        ["autoship", "SHIP_TRANSITION_ID"],
    ]


@pytest.fixture
def in_sandbox(autoship: Autoship, database: Database, database_url: str, tmp_path: Path) -> Autoship:
    """Commands where no OMS is configured, in the folder of a sandbox that has run."""
    sandboxed = {**MINIMAL, "DATABASE_URL": database_url}
    (tmp_path / "var").mkdir()
    (tmp_path / "var/sandbox.json").write_text(json.dumps(sandboxed), encoding="utf-8")

    def run(*arguments: str, **variables: str) -> commands.Ended:
        return autoship(*arguments, **dict.fromkeys(sandboxed, "") | variables)

    return run


@on_sqlite
def test_commands_find_the_sandbox_of_their_folder_where_nothing_real_is_set(in_sandbox: Autoship) -> None:
    ended = in_sandbox("pause", PORT="8010", ADMIN_TOKEN="x", RULES_FILE="")
    assert (ended.code, ended.err.splitlines()) == (
        0,
        ["(no OMS is configured: this is the sandbox of this folder)", "paused"],
    )


@on_sqlite
@pytest.mark.parametrize(
    "name", ["DATABASE_URL", "DATABASE_URL_FILE", "DB_NAME", "RULES_FILE", "PUBLIC_URL", "PACKED_STATUS", "ALERT_URLS"]
)
def test_a_sandbox_takes_the_place_of_nothing_that_is_set(in_sandbox: Autoship, database: Database, name: str) -> None:
    ended = in_sandbox("pause", **{name: "json://127.0.0.1"})
    assert ended.code == 2
    first, *others = ended.err.splitlines()
    assert first == f"({name} is set: this is not the sandbox of this folder)"
    assert "autoship: OMS_BASE_URL: required" in others
    with database.reading() as transaction:
        assert brakes.read(transaction).paused_at is None


ON_THE_DATABASE = ("packages", "explain 73", "pause", "recheck 73", "register", "register --check", "rules test 73")


@pytest.mark.parametrize("command", [*ON_THE_DATABASE, "register --apply"])
def test_old_or_missing_database_is_exit_2_and_names_the_remedy(autoship: Autoship, command: str) -> None:
    ended = autoship(*command.split(), PUBLIC_URL="https://autoship.example.com")
    assert (ended.code, ended.out) == (2, "")
    assert "run `autoship migrate`" in ended.err


@pytest.mark.parametrize("command", [*ON_THE_DATABASE, "migrate"])
def test_database_of_another_oms_is_refused(autoship: Autoship, database: Database, command: str) -> None:
    variables = {"OMS_BASE_URL": "https://other-oms.akinon.net", "PUBLIC_URL": "https://autoship.example.com"}
    ended = autoship(*command.split(), **variables)
    assert ended.code == 2
    assert "this database was made for http://127.0.0.1:9, but OMS_BASE_URL is https://other" in ended.err


@pytest.mark.parametrize("command", [*ON_THE_DATABASE, "migrate"])
def test_unreachable_database_is_exit_4_in_one_line_without_its_password(autoship: Autoship, command: str) -> None:
    ended = autoship(*command.split(), DATABASE_URL=UNREACHABLE_DATABASE)
    assert (ended.code, ended.out) == (4, "")
    assert len(ended.err.splitlines()) == 1
    assert "canary" not in ended.err


def test_internal_error_is_exit_4_in_one_line_that_says_what_and_where_and_quotes_nothing(
    autoship: Autoship, database: Database
) -> None:
    stored(database, 73, state="canary")
    ended = autoship("explain", "73")
    assert (ended.code, ended.out) == (4, "")
    [line] = ended.err.splitlines()
    assert line.startswith("autoship: internal error: ValueError at enum.py:")
    assert "explain.py:" in line
    assert "canary" not in line


# Every answer for programs too.


def test_every_command_that_prints_data_has_json() -> None:
    processes_and_messages = {"up", "web", "worker", "migrate"}
    without = {name for name, one in every_command().items() if "as_json" not in {p.name for p in one.params}}
    assert without == processes_and_messages


def test_no_command_takes_a_secret_as_an_argument() -> None:
    names = {f"{name} {p.name}" for name, one in every_command().items() for p in one.params}
    assert len(names) > len(every_command())
    assert [name for name in names if any(word in name for word in ("secret", "token", "password", "auth"))] == []


def test_json_of_every_command_that_acts_or_shows(
    autoship: Autoship, oms: FaultyOms, at_oms: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    database = Database(database_url)
    oms.create(73, ["500"], state="500")
    stored(database, 7, state="waiting", reason="items_mixed", number="0007")
    (tmp_path / "rules.toml").write_text(sandbox.SANDBOX_RULES, encoding="utf-8")
    (tmp_path / "body.json").write_bytes(json.dumps(a_document()).encode())

    def told(*arguments: str) -> Any:
        ended = autoship(*arguments, "--json", RULES_FILE="rules.toml", **at_oms)
        assert ended.code == 0, ended
        [document] = ended.told
        return document

    listed = told("packages", "--reason", "items_mixed")
    assert listed["next_check_at"] is None
    assert (listed["id"], listed["state"], listed["reason"], listed["number"]) == (7, "waiting", "items_mixed", "0007")
    assert told("explain", "7")["reason"] == "items_mixed"
    assert told("config")["RULES_FILE"] == "rules.toml"
    [rule] = told("rules")["rules"]
    assert rule["when"] == {"channel_name": ["Marketplace"]}
    assert told("rules", "check") == {"path": "rules.toml", "rules": 1, "problems": []}
    ruled = told("rules", "test", "73")
    for arguments in (["check"], ["test", "73"]):
        of_the_group = autoship("rules", "--json", *arguments, RULES_FILE="rules.toml", **at_oms)
        assert of_the_group.told == [told("rules", *arguments)]
    assert (ruled["action"], ruled["rule"], ruled["facts"]["channel_name"]) == ("ship", None, "Shop")
    assert told("pause") == {"paused": True, "changed": True}
    assert told("pause") == {"paused": True, "changed": False}
    assert told("resume") == {"paused": False, "changed": True}
    assert told("recheck", "7") == {"id": 7, "done": True, "text": "is looked at again"}
    assert told("dismiss", "7", "--why", "sold out") == {"id": 7, "done": True, "text": "dismissed"}
    assert told("dismiss", "7")["done"] is False
    assert [entry["text"] for entry in told("explain", "7")["timeline"]][-1] == "dismissed: sold out"
    assert told("recheck", "8") == {"id": 8, "done": True, "text": "new to us; is looked at now"}
    assert told("sign", "body.json")["answered"] is None
    database.dispose()


def test_messages_go_to_stderr_and_data_to_stdout(autoship: Autoship, database: Database) -> None:
    stored(database, 7, state="shipped", evidence="read_back")
    ended = autoship("packages")
    assert [line.split()[0] for line in ended.out.splitlines()] == ["PACKAGE", "7"]
    assert ended.err == "1 package\n"
    ended = autoship("pause")
    assert (ended.out, ended.err) == ("", "paused\n")


def test_migrate_speaks_to_a_person_as_every_command_that_ends(autoship: Autoship) -> None:
    for changed in (f": its schema was empty and is {HEAD} now", ""):
        ended = autoship("migrate")
        assert (ended.code, ended.out, ended.err) == (0, "", f"the database is up to date{changed}\n")


# Rules and test deliveries.


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ('default = "ship"\n', 0, ["r.toml: 0 rules, default ship"]),
        (sandbox.SANDBOX_RULES, 0, ["r.toml: 1 rule, default ship"]),
        (
            'x = 1\n[[rule]]\naction = "go"\n',
            1,
            ["r.toml: line 1", "r.toml: line 1", "r.toml: line 2", "r.toml: line 3"],
        ),
        ("\ufeff" + sandbox.SANDBOX_RULES, 0, ["r.toml: 1 rule, default ship"]),
        ('default = "ship"\n# k\udcf6se\n', 1, ["r.toml: line 2: not UTF-8"]),
        (None, 1, ["cannot read r.toml: FileNotFoundError"]),
    ],
)
def test_rules_check_finds_what_is_wrong_with_a_file(
    autoship: Autoship, tmp_path: Path, text: str | None, code: int, said: list[str]
) -> None:
    if text is not None:
        (tmp_path / "r.toml").write_text(text, encoding="utf-8", errors="surrogateescape")
    ended = autoship("rules", "check", "r.toml")
    assert ended.code == code
    lines = ended.out.splitlines()
    assert [line[: len(start)] for line, start in zip(sorted(lines), said, strict=True)] == said
    (tmp_path / "path").write_text("r.toml\n", encoding="utf-8")
    assert autoship("rules", "check", RULES_FILE_FILE="path") == ended
    [told] = autoship("rules", "check", "r.toml", "--json").told
    assert len(told["problems"]) == (len(said) if code else 0)


def test_rules_are_shown_as_one_reads_them(autoship: Autoship, tmp_path: Path) -> None:
    rule = '[[rule]]\nname = "a"\nwhen = {channel_name = ["Web", "Shop"], has_invoice = true}\naction = "ship"\n'
    (tmp_path / "r.toml").write_text('default = "skip"\n' + rule, encoding="utf-8")
    assert autoship("rules", RULES_FILE="r.toml").out.splitlines() == [
        "1. a: ship when channel_name is Shop or Web and has_invoice is True",
        "default: skip",
    ]


def test_rules_test_says_which_rule_decides(
    autoship: Autoship, oms: FaultyOms, at_oms: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "r.toml").write_text(sandbox.SANDBOX_RULES, encoding="utf-8")
    oms.create(73, channel_name="Marketplace")
    with_rules = {**at_oms, "RULES_FILE": "r.toml"}
    assert "skip, by rule 'marketplace ships its own'" in autoship("rules", "test", "73", **with_rules).out
    oms.script("read", answers(200, b'{"id": 73, "packageitem_set": [{}]}'))
    assert "wait, by rule 'marketplace ships its own', which asks channel_name" in (
        autoship("rules", "test", "73", **with_rules).out
    )
    assert autoship("rules", "test", "9", **with_rules).code == 2


def test_sign_prints_headers_that_verify_and_never_the_secret(autoship: Autoship, tmp_path: Path) -> None:
    body = json.dumps(a_document(type="package.created")).encode()
    (tmp_path / "body.json").write_bytes(body)
    ended = autoship("sign", "body.json", WEBHOOK_SECRETS=f"{SECRET},old")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in ended.out.splitlines())}
    assert headers["x-whisperer-event"] == "package.created"
    assert authenticate(headers, body, Authentication((SECRET,))) == 0
    assert SECRET not in ended.out + ended.err
    assert autoship("sign", "body.json", WEBHOOK_SECRETS="").code == 2


@pytest.mark.parametrize(
    "event_type", ['"pa\\u00e7kage"', '"a\\r\\nX-Injected: 1"', '"a\\u0000"', '" a"', '""', "null", "7", "[" * 9999]
)
def test_an_event_type_that_no_header_can_hold_is_not_put_into_one(
    autoship: Autoship, oms: FaultyOms, at_oms: dict[str, str], tmp_path: Path, event_type: str
) -> None:
    (tmp_path / "body.json").write_text(f'{{"event": {{"type": {event_type}}}}}', encoding="utf-8")
    ended = autoship("sign", "body.json", "--send", at_oms["OMS_BASE_URL"], **at_oms)
    assert (ended.code, ended.err) == (0, "answered 401\n")
    assert ended.out.splitlines()[1] == "X-Whisperer-Event: package.status.packed"
    assert len(ended.out.splitlines()) == 3


@pytest.mark.parametrize("url", ["127.0.0.1:8008/", "ftp://h/", "http://", "https:///x", "http://:80", "http:/h", ""])
def test_a_url_that_cannot_be_sent_to_is_a_usage_error(autoship: Autoship, tmp_path: Path, url: str) -> None:
    (tmp_path / "body.json").write_text("{}", encoding="utf-8")
    ended = autoship("sign", "body.json", "--send", url)
    assert (ended.code, ended.out) == (2, "")
    assert "Error: --send: must be a URL that begins with http:// or https:// and names a host" in ended.err


def test_signed_delivery_can_be_sent_and_a_missing_answer_is_an_error(
    autoship: Autoship, oms: FaultyOms, at_oms: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "body.json").write_bytes(json.dumps(a_document()).encode())
    sent = autoship("sign", "body.json", "--send", at_oms["OMS_BASE_URL"] + "/", **at_oms)
    assert (sent.code, sent.err) == (0, "answered 401\n")
    unheard = autoship("sign", "body.json", "--send", f"http://127.0.0.1:{commands.free_port()}/")
    assert unheard.code == 2
    assert "no answer" in unheard.err


# Bulk actions.


@pytest.mark.parametrize(
    ("arguments", "answer", "code", "asked", "changed"),
    [
        (["recheck", "1"], "", 0, False, {1}),
        (["recheck", "1", "2"], "y\n", 0, True, {1, 2}),
        (["recheck", "1", "2"], "YES\n", 0, True, {1, 2}),
        (["recheck", "1", "2"], "n\n", 0, True, set()),
        (["recheck", "1", "2"], "\n", 0, True, set()),
        (["recheck", "1", "2"], "", 2, True, set()),
        (["recheck", "1", "2", "--yes"], "", 0, False, {1, 2}),
        (["recheck", "--reason", "refused"], "y\n", 0, True, {1, 2}),
        (["recheck", "--reason", "grace"], "", 0, False, set()),
        (["dismiss", "1", "2"], "n\n", 0, True, set()),
        (["dismiss", "--reason", "refused"], "n\n", 0, True, set()),
        (["dismiss", "--reason", "refused"], "y\n", 0, True, {1, 2}),
        (["dismiss", "--reason", "refused", "--yes"], "", 0, False, {1, 2}),
        (["dismiss", "--reason", "grace"], "", 0, False, set()),
    ],
)
def test_bulk_action_previews_and_asks_unless_told_yes(
    autoship: Autoship, database: Database, arguments: list[str], answer: str, code: int, asked: bool, changed: set[int]
) -> None:
    for package_id in (1, 2):
        stored(database, package_id, state="needs_attention", reason="refused", held=True)
    ended = autoship(*arguments, answer=answer)
    assert ended.code == code, ended
    assert ("? [y/N]" in ended.err) == asked
    if asked:
        assert [line.split()[:3] for line in ended.err.splitlines()[1:3]] == [
            ["1", "needs_attention", "refused"],
            ["2", "needs_attention", "refused"],
        ]
    now = states(database)
    assert {package_id for package_id in now if now[package_id] != ("needs_attention", "refused")} == changed


class Thinking(io.StringIO):
    """A person who says yes, after something else happened."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        super().__init__("y\n")
        self._meanwhile = meanwhile

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # typeshed has io.IOBase's here, of bytes
        self._meanwhile()
        return super().readline(size)


@pytest.mark.parametrize(
    ("command", "other_act"), [("recheck", operator.dismiss), ("dismiss", operator.recheck)], ids=["recheck", "dismiss"]
)
def test_bulk_action_leaves_alone_what_somebody_else_acted_on_meanwhile(
    autoship: Autoship, database: Database, command: str, other_act: Callable[[Database, int], Acted]
) -> None:
    for package_id in (1, 2):
        stored(database, package_id, state="needs_attention", reason="refused", held=True)
    person = Thinking(lambda: other_act(database, 2))
    ended = autoship(command, "--json", "--reason", "refused", answer=person)
    assert [(one["id"], one["done"]) for one in ended.told] == [(1, True), (2, False)]
    assert ended.told[1]["text"] == "it has another reason by now"
    assert states(database)[2] == {"recheck": ("skipped", "dismissed"), "dismiss": ("waiting", None)}[command]


def test_recheck_of_a_package_no_webhook_named_has_it_looked_at(autoship: Autoship, floor: Floor) -> None:
    floor.oms.create(73, ["500"], state="500")
    assert autoship("recheck", "73").code == 0
    floor.clock.now = datetime.now(UTC) + timedelta(minutes=1)  # the command's clock is the real one
    told = floor.run(73)
    assert told["state"] == "shipped"
    assert (told["timeline"][0]["kind"], told["timeline"][0]["text"]) == ("operator", "asked to look")


@pytest.mark.parametrize("command", ["recheck", "dismiss"])
def test_preview_shows_packages_that_are_new_to_us_too(autoship: Autoship, database: Database, command: str) -> None:
    stored(database, 1, state="needs_attention", reason="refused")
    ended = autoship(command, "9", "1", answer="n\n")
    assert [line.split()[:2] for line in ended.err.splitlines()[1:3]] == [["9", "new"], ["1", "needs_attention"]]
    assert ended.out == ""


def test_preview_of_many_is_cut_short_and_a_package_under_command_is_left_out(
    autoship: Autoship, database: Database
) -> None:
    for package_id in range(1, 26):
        stored(database, package_id, state="needs_attention", reason="refused")
    stored(database, 26, state="shipped", reason="refused")
    ended = autoship("dismiss", "--reason", "refused", answer="n\n")
    assert "and 5 more" in ended.err
    assert "Dismiss 25 packages? [y/N]" in ended.err


def test_sweep_tells_what_it_did_from_what_it_would_do(
    autoship: Autoship, oms: FaultyOms, at_oms: dict[str, str]
) -> None:
    oms.create(73, ["500"], state="500")
    found = {"id": 73, "done": False, "text": "no webhook announced it"}
    dry = autoship("sweep", "--dry-run", "--json", **at_oms)
    assert (dry.code, dry.told) == (1, [found])
    asked = autoship("sweep", "--adopt", "--json", answer="n\n", **at_oms)
    assert (asked.code, asked.out) == (0, "")
    assert "        73  no webhook announced it\n1 package in Packed, 1 to look at\nadopt 1 package? [y/N]" in asked.err
    adopted = autoship("sweep", "--adopt", "--json", answer="y\n", **at_oms)
    assert (adopted.code, adopted.told) == (0, [found | {"done": True}])
    oms.create(74, ["500"], state="500")
    assert autoship("sweep", "--json", **at_oms).told == [found | {"id": 74, "done": True}]


# What explain says.


@pytest.mark.parametrize(
    ("package", "would", "summary"),
    [
        ({"items": ["500"], "state": "500"}, "ship", "Every check passes."),
        ({"items": ["500", "200"], "state": "500"}, "wait", "The package is Packed, but not all of its items are."),
        ({"items": ["400"]}, "wait", "The OMS does not show it as Packed."),
        ({"items": ["500"], "state": "500", "channel_name": "Marketplace"}, "skip", "A rule says it is not ours."),
        (None, None, "Neither we nor the OMS know it."),
    ],
)
def test_explain_of_a_package_never_seen_reads_the_oms_and_changes_nothing(
    autoship: Autoship,
    oms: FaultyOms,
    at_oms: dict[str, str],
    tmp_path: Path,
    package: dict[str, Any] | None,
    would: str | None,
    summary: str,
) -> None:
    (tmp_path / "r.toml").write_text(sandbox.SANDBOX_RULES, encoding="utf-8")
    if package is not None:
        oms.create(73, **package)
    variables = {**at_oms, "RULES_FILE": "r.toml"}
    [told] = autoship("explain", "73", "--json", **variables).told
    assert (told["state"], told["reason"], told["would"]) == (None, None, would)
    assert told["summary"] == f"Nothing has asked us to look at it. {summary}"
    text = autoship("explain", "73", **variables)
    assert text.code == 0
    assert text.out.startswith("Package 73: new to us\n")
    assert autoship("packages", **variables).out == ""
    assert oms.commands_for(73) == 0


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (answers(200, b"[]"), 0, "We cannot judge it: the answer is not a document of this package."),
        (shows(state=None), 0, "We cannot judge it: the package has no readable state."),
        (answers(401), 3, "it does not accept OMS_TOKEN here (401)"),
        (words(403, "canary"), 3, "it does not accept OMS_TOKEN here (403)"),
        (answers(429, Retry_After="7"), 3, "it asks to wait 7 s (429)"),
        (answers(302, Location="/"), 3, "it answers with a redirect (302); check OMS_BASE_URL"),
        (html(502), 3, "502"),
        (resets, 3, ""),
    ],
)
def test_explain_of_a_package_the_oms_does_not_show_says_why(
    autoship: Autoship, oms: FaultyOms, at_oms: dict[str, str], fault: Any, code: int, said: str
) -> None:
    oms.create(73, ["500"], state="500")
    oms.always("read", fault)
    ended = autoship("explain", "73", **at_oms)
    assert ended.code == code, ended
    assert said in (ended.err if code else ended.out)
    assert "canary" not in ended.err


def test_explain_of_a_package_only_ignored_deliveries_named_shows_them(
    autoship: Autoship, oms: FaultyOms, at_oms: dict[str, str], configured: Callable[..., Config], database_url: str
) -> None:
    created = Delivery(73, None, "package.created", StateValue("PackageStatus", "400"))
    database = Database(database_url)
    inbox.accept(database, created, configured().settings)
    database.dispose()
    oms.create(73)
    [told] = autoship("explain", "73", "--json", **at_oms).told
    [entry] = told["timeline"]
    assert (entry["kind"], entry["text"]) == ("delivery", "package.created saying state 400 (ignored: not_packed)")


@pytest.mark.parametrize(
    ("fault", "log", "evidence", "summary"),
    [
        (None, None, "read_back", "Shipped by us: the OMS accepted our command, then the package left Packed."),
        (
            applied_then(resets),
            answers(403),
            "read_back",
            "Shipped by us, or by somebody at the same moment: our command's own answer proves nothing.",
        ),
        (
            applied_then(resets),
            None,
            "transition_log",
            "Shipped by us: the OMS's transition log names our transition.",
        ),
    ],
)
def test_explain_claims_no_more_than_the_evidence_shows(
    floor_with: Callable[..., Floor], fault: Any, log: Any, evidence: str, summary: str
) -> None:
    floor = floor_with(SHIPPED_STATUSES="600", oms=FaultyOms(shipped="600"))
    floor.oms.create(73, ["500"], state="500")
    if fault is not None:
        floor.oms.script("command", fault)
    floor.oms.always("log", log)
    floor.hint(73)
    told = floor.run(73)
    assert (told["state"], told["evidence"], told["summary"]) == ("shipped", evidence, summary)


# The states of the contract. A reason that this version does not know yet is left out below.
CONTRACT = {
    "waiting": "not_packed_yet items_mixed no_items items_incomplete wrong_enum_class grace command_not_offered brake "
    "retry_after_refusal backlog_to_confirm rule_field_missing outcome_unknown",
    "shipping": "sending confirming ambiguous",
    "shipped": "",
    "already_shipped": "",
    "skipped": "rule cancelled left_packed not_packed dismissed",
    "would_ship": "",
    "needs_attention": "refused accepted_but_still_packed outcome_unknown not_found bad_shape items_mixed "
    "command_not_offered transition_slug_mismatch",
}


def test_every_state_and_reason_of_the_contract_has_a_meaning_and_no_other() -> None:
    known = {reason.value for reason in Reason}
    expected = {(state, reason) for state, reasons in CONTRACT.items() for reason in reasons.split() if reason in known}
    without_reason = {("waiting", None), ("shipped", None), ("already_shipped", None), ("would_ship", None)}
    assert set(MEANINGS) == expected | without_reason
    assert {reason for _, reason in MEANINGS} == {*known, None}
    assert set(explain.PROOFS) == set(Evidence)


@pytest.mark.parametrize(
    ("meaning", "advice"),
    [*MEANINGS.values(), *((proof, "Nothing to do.") for proof in explain.PROOFS.values())],
)
def test_meaning_is_one_sentence_and_advice_names_only_what_exists(meaning: str, advice: str) -> None:
    assert re.fullmatch(r"[A-Z][^.!?]*\.", meaning.replace("package.status.shipped", ""))
    assert set(re.findall(r"autoship ([a-z-]+)", advice)) <= set(cli.main.commands)
    variables = configuration.redacted({**MINIMAL, "DATABASE_URL": "sqlite:///x.db"})
    assert set(re.findall(r"\b[A-Z]+_[A-Z_]+|\bMODE\b", advice)) <= set(variables)
    assert set(re.findall(r"\b[a-z]+\.[a-z]+\b", advice)) <= set(EVENTS)


def test_explanation_lines_up(autoship: Autoship, oms: FaultyOms, at_oms: dict[str, str]) -> None:
    oms.create(73, ["500", "200"], state="500")
    lines = autoship("explain", "73", **at_oms).out.splitlines()
    start = lines.index("Checks, as last judged")
    header, *checks = lines[start + 1 : start + 8]
    for title in ("CHECK", "EXPECTED", "OBSERVED"):
        column = header.index(title)
        assert all(line[column - 1] == " " and line[column] != " " for line in checks), lines


def test_times_are_told_with_their_year_and_their_zone(autoship: Autoship, database: Database) -> None:
    """Last attempts are kept for good, and the logs beside them are in UTC."""
    stored(database, 73, state="needs_attention", reason="items_mixed")
    due_at = datetime(2027, 11, 24, 21, 30, tzinfo=UTC)
    with database.transaction() as transaction:
        transaction.execute(sa.update(packages).values(due_at=due_at))
    lines = autoship("explain", "73").out.splitlines()
    assert "  Next look: 25 Nov 2027 00:30:00" in lines
    assert lines[-1] == "Times are of Europe/Istanbul, UTC+03:00."


# Real processes.


def test_process_waits_for_the_migration_then_works_and_ends_with_0(tmp_path: Path) -> None:
    variables = {**MINIMAL, "DATABASE_URL": f"sqlite:///{tmp_path}/w.db"}
    with commands.running("worker", cwd=tmp_path, variables=variables) as worker:
        assert "waiting up to 60 s, as the database does not exist yet" in worker.wait_for("waiting up to")
        assert commands.autoship("migrate", cwd=tmp_path, **variables).code == 0
        worker.wait_for("worker.started")
        assert worker.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("name", ["web", "worker"])
def test_process_that_waits_for_the_migration_ends_with_0_when_told_to(tmp_path: Path, name: str) -> None:
    with commands.running(name, cwd=tmp_path, variables={**MINIMAL, "DATABASE_URL": "sqlite:///w.db"}) as process:
        process.wait_for("waiting up to 60 s")
        assert process.end(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    ("url", "problem"), [("sqlite:///missing.db", DatabaseOutdated), (UNREACHABLE_DATABASE, DatabaseUnavailable)]
)
def test_wait_for_the_migration_ends(
    url: str, problem: type[AutoshipError], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(problem):
        cli.wait_until_migrated(Database(url), MINIMAL["OMS_BASE_URL"], within_s=0.2)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_sweep_that_waits_after_a_failed_one_does_not_say_that_another_process_is_at_it(tmp_path: Path) -> None:
    variables = {**MINIMAL, "DATABASE_URL": f"sqlite:///{tmp_path}/o.db"}
    assert commands.autoship("migrate", cwd=tmp_path, **variables).code == 0
    assert commands.autoship("sweep", cwd=tmp_path, **variables).code == 3
    with commands.running("sweep", cwd=tmp_path, variables=variables) as waiting:
        assert "or a pass failed within the last 30 s" in waiting.wait_for("another process sweeps")


def test_process_refuses_a_database_of_another_oms_at_once(tmp_path: Path) -> None:
    variables = {**MINIMAL, "DATABASE_URL": f"sqlite:///{tmp_path}/o.db"}
    assert commands.autoship("migrate", cwd=tmp_path, **variables).code == 0
    for name in ("web", "worker"):
        ended = commands.autoship(name, cwd=tmp_path, **variables | {"OMS_BASE_URL": "http://127.0.0.1:8"})
        assert (ended.code, ended.out) == (2, "")
        assert "this database was made for http://127.0.0.1:9" in ended.err


@pytest.mark.usefixtures("no_signal_is_ignored")
@pytest.mark.parametrize(
    ("name", "imports", "signum", "code"),
    [
        ("up", "click", signal.SIGINT, 0),
        ("worker", "click", signal.SIGTERM, 0),
        ("web", "gunicorn.arbiter", signal.SIGTERM, 0),
        ("web", "gunicorn.arbiter", signal.SIGINT, 0),
        ("doctor", "click", signal.SIGINT, 130),
    ],
)
def test_signal_to_what_is_still_being_imported_ends_it_as_later(
    name: str, imports: str, signum: int, code: int, tmp_path: Path
) -> None:
    variables = MINIMAL | {"DATABASE_URL": f"sqlite:///{tmp_path}/s.db", "PORT": commands.free_port()}
    Database(variables["DATABASE_URL"]).migrate(MINIMAL["OMS_BASE_URL"])
    telling = variables | {"PYTHONPROFILEIMPORTTIME": "1"}
    with commands.running(name, cwd=tmp_path, variables=telling) as process:
        imported = re.compile(rf"import time: .* {re.escape(imports)}")
        commands.eventually(lambda: any(map(imported.fullmatch, process.err[-500:])), process.told, every_s=0.001)
        assert process.end(signum) == code
        assert not [line for line in process.err if "Traceback" in line or "interrupted" in line]


@pytest.mark.usefixtures("no_signal_is_ignored")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_to_gunicorn_just_after_its_fork_ends_its_worker_too(signum: int, tmp_path: Path) -> None:
    """Not after `graceful_timeout`."""
    root = Path(__file__).parents[2]
    settings = f"""
import runpy, time
ours = runpy.run_path({os.fspath(root / "deploy/gunicorn.conf.py")!r})
globals().update({{name: value for name, value in ours.items() if not name.startswith("__")}})
graceful_timeout = 60

def post_fork(server, worker):
    print("forked", flush=True)
    time.sleep(1)
"""
    (tmp_path / "slow.conf.py").write_text(settings)
    variables = MINIMAL | {"DATABASE_URL": f"sqlite:///{tmp_path}/s.db", "PYTHONPATH": os.fspath(root)}
    Database(variables["DATABASE_URL"]).migrate(MINIMAL["OMS_BASE_URL"])
    bound = ("--config", "slow.conf.py", "--bind", f"127.0.0.1:{commands.free_port()}")
    gunicorn = [sys.executable, "-m", "gunicorn", *bound, "service.web:create_app()"]
    environment = commands.environment(**variables)
    with subprocess.Popen(gunicorn, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert "forked\n" in process.stdout
            process.send_signal(signum)
            assert process.wait(30) == 0
        finally:
            process.kill()


@pytest.mark.usefixtures("no_signal_is_ignored")
def test_ctrl_c_is_exit_130(tmp_path: Path) -> None:
    with commands.running("sandbox", "--port", commands.free_port(), cwd=tmp_path, variables={}) as stand_in:
        stand_in.wait_for("OMS_BASE_URL=")
        assert stand_in.end(signal.SIGINT) == 130
        assert stand_in.err == ["interrupted"]


@pytest.mark.parametrize("redirection", ["| true", ">&-", ">&- 2>&-"])
def test_output_nobody_reads_is_no_error(tmp_path: Path, redirection: str) -> None:
    variables = {**MINIMAL, "DATABASE_URL": f"sqlite:///{tmp_path}/p.db"}
    database = Database(variables["DATABASE_URL"])
    database.migrate(MINIMAL["OMS_BASE_URL"])
    stored(database, 7, state="shipped")
    database.dispose()
    command = f'{{ "$0" -m service packages --json; echo "exit $?" >> ended; }} {redirection}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable],
        cwd=tmp_path,
        env=commands.environment(**variables),
        capture_output=True,
        text=True,
        timeout=commands.PATIENCE_S,
        check=True,
    )
    assert (tmp_path / "ended").read_text(encoding="utf-8") == "exit 0\n"
    assert done.stderr in ("1 package\n", "")
    with sqlite3.connect(tmp_path / "p.db") as whole:
        assert whole.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    whole.close()


# Quarantine and pruning.


@pytest.fixture
def put_aside(database: Database) -> Callable[..., None]:
    """Puts a body into quarantine, as a version of ours that could not work with it did."""

    def put(body: bytes, reason: str = "too_deep") -> None:
        inbox.put_aside(database, Unusable(reason, None, "package.status.packed", 0), body)

    return put


def test_quarantine_is_listed_with_reason_and_time_and_a_body_is_shown_with_a_warning(
    autoship: Autoship, put_aside: Callable[..., None]
) -> None:
    put_aside(b"[1]", "not_an_object")
    put_aside(b"x" * (64 * 1024 + 1))
    ended = autoship("quarantine")
    assert [line.split()[5] for line in ended.out.splitlines()] == ["not_an_object", "too_deep"]
    assert "3 bytes" in ended.out.splitlines()[0]
    assert "body not kept" in ended.out.splitlines()[1]
    assert ended.err == "2 deliveries\n"
    assert autoship("quarantine", "list").out == ended.out
    told = autoship("quarantine", "list", "--json").told
    assert [(one["id"], one["reason"], one["body_bytes"]) for one in told] == [
        (1, "not_an_object", 3),
        (2, "too_deep", None),
    ]
    assert [one["received_at"][-1] for one in told] == ["Z", "Z"]
    assert autoship("quarantine", "--json").told == autoship("quarantine", "--json", "list").told == told
    shown = autoship("quarantine", "show", "1")
    assert (shown.code, shown.out) == (0, "[1]\n")
    assert "personal data" in shown.err
    assert autoship("quarantine", "show", "1", "--json").told == [{"id": 1, "body": "[1]"}]
    assert autoship("quarantine", "--json", "show", "1").told == [{"id": 1, "body": "[1]"}]
    missing = autoship("quarantine", "show", "2")
    assert (missing.code, missing.out) == (2, "")


@pytest.mark.parametrize(
    ("body", "done", "said", "fate", "known"),
    [
        (json.dumps(a_document()).encode(), True, "package 73 is looked at", "accepted", {73: ("waiting", None)}),
        (json.dumps(a_document(state="400")).encode(), True, "package 73: ignored, not_packed", "ignored", {}),
        (b"[]", False, "still cannot be worked with: not_an_object", "quarantined", {}),
        (b"\xff", False, "still cannot be worked with: bad_utf8", "quarantined", {}),
    ],
)
def test_a_retried_body_is_read_again_as_if_it_were_delivered_now(
    autoship: Autoship,
    database: Database,
    put_aside: Callable[..., None],
    body: bytes,
    done: bool,
    said: str,
    fate: str,
    known: dict[int, tuple[str, str | None]],
) -> None:
    put_aside(body)
    ended = autoship("quarantine", "retry", "1", "--json")
    assert (ended.code, ended.told) == (0, [{"id": 1, "done": done, "text": said}])
    with database.reading() as transaction:
        [row] = transaction.execute(sa.select(deliveries)).mappings()
    assert (row["fate"], row["seen"], row["secret_index"]) == (fate, 1, 0)
    assert states(database) == known
    again = autoship("quarantine", "retry", "1").out
    assert ("no such delivery in quarantine" in again) == done


def test_retrying_several_asks_and_a_missing_one_stops_no_other(
    autoship: Autoship, database: Database, put_aside: Callable[..., None]
) -> None:
    put_aside(json.dumps(a_document()).encode())
    asked = autoship("quarantine", "retry", "9", "1", answer="n\n")
    assert (asked.code, asked.out, states(database)) == (0, "", {})
    unknown, known, question = asked.err.splitlines()
    assert unknown == "         9  not in quarantine"
    assert known == autoship("quarantine").out.rstrip("\n")
    assert question.startswith("retry 2 deliveries? [y/N]")
    ended = autoship("quarantine", "retry", "9", "1", "--yes")
    assert len(ended.out.splitlines()) == 2
    assert set(states(database)) == {73}


def test_prune_says_how_much_it_deleted(autoship: Autoship, database: Database, put_aside: Callable[..., None]) -> None:
    put_aside(b"[1]")
    long_ago = datetime.now(UTC) - timedelta(days=8)
    with database.transaction() as transaction:
        transaction.execute(sa.update(deliveries).values(received_at=long_ago, last_seen_at=long_ago))
        transaction.execute(sa.update(quarantine).values(received_at=long_ago))
    nothing = {"quarantine": 0, "deliveries": 0, "timeline": 0, "attempts": 0}
    assert autoship("prune", "--json", RETENTION_DAYS="9").told == [nothing]
    rows = [line.split() for line in autoship("prune", RETENTION_DAYS="7").out.splitlines()]
    assert rows == [["quarantine", "1"], ["deliveries", "1"], ["timeline", "0"], ["attempts", "0"]]


def test_what_a_refused_command_waits_for_and_a_delivery_without_a_state_are_told_as_they_are(floor: Floor) -> None:
    floor.oms.create(73, ["500"], state="500")
    floor.oms.script("command", answers(406))
    for event_type in ("package.updated", None):
        inbox.accept(floor.store, Delivery(73, None, event_type, None), floor.config.settings)
    floor.look()
    told = floor.told(73)
    assert (told["state"], told["reason"]) == ("shipping", "confirming")
    assert told["summary"] == "The OMS refused the command (406); the package is read back."
    assert {entry["text"] for entry in told["timeline"] if entry["kind"] == "delivery"} == {
        "package.updated saying no state (accepted)",
        "an event without a type saying no state (accepted)",
    }


def test_a_command_that_was_throttled_is_told_with_its_status(floor: Floor) -> None:
    floor.oms.create(73, ["500"], state="500")
    floor.oms.script("command", answers(429))
    floor.hint(73)
    floor.look()
    told = floor.told(73)
    assert told["attempts"][0]["http_status"] == 429
    assert [entry["text"] for entry in told["timeline"] if entry["kind"] == "answer"] == ["attempt 1: throttled (429)"]


def test_a_package_that_no_worker_looks_at_is_explained_by_that(autoship: Autoship, database: Database) -> None:
    stored(database, 73, state="waiting", reason="grace")
    with database.transaction() as transaction:
        transaction.execute(sa.update(packages).values(due_at=transaction.now - timedelta(seconds=1)))
    told = autoship("explain", "73").out
    assert "Nothing to do." in told
    assert "Due since: " in told
    assert "Next look" not in told
    with database.transaction() as transaction:
        long_ago = transaction.now - timedelta(minutes=1)
        transaction.execute(sa.update(deployment).values(migrated_at=long_ago))
    told = autoship("explain", "73").out
    assert "No worker was seen for a minute, so nobody looks at it." in told
    assert "Advice: Start a worker (autoship worker)" in told
    stored(database, 74, state="waiting", reason="brake")
    with database.transaction() as transaction:
        transaction.execute(sa.update(packages).values(due_at=transaction.now))
        brakes.pause(transaction, brakes.BY_OPERATOR)
    told = autoship("explain", "74").out
    assert "Advice: Start a worker (autoship worker)" in told
    assert "Then: autoship resume" in told
    beat(database)
    with database.transaction() as transaction:
        transaction.execute(sa.update(packages).values(due_at=transaction.now + timedelta(hours=1)))
    told = autoship("explain", "73").out
    assert "Nothing to do." in told
    assert "Next look: " in told


def test_a_package_that_nobody_may_look_at_yet_is_explained_by_the_brake(
    autoship: Autoship, database: Database
) -> None:
    stored(database, 73, state="waiting", reason=None)
    with database.transaction() as transaction:
        brakes.note_answer(transaction, 74, Operation.READ, Unauthorised(401, ""))
    [told] = autoship("explain", "73", "--json").told
    held_back = f"commands are held back: breaker open: {brakes.TOKEN_REJECTED}."
    assert told["summary"] == f"It is to be looked at, and {held_back}"
    assert told["advice"] == brakes.AFTER_401


@pytest.mark.parametrize(
    ("answer", "cause", "advice"),
    [
        (Unauthorised(401, ""), f"breaker open: {brakes.TOKEN_REJECTED}", brakes.AFTER_401),
        (Throttled(timedelta(minutes=9)), brakes.ASKED_TO_WAIT, "It goes on by itself once that time is over."),
    ],
)
def test_a_package_whose_looks_are_held_back_is_explained_by_that_whatever_it_waits_for(
    autoship: Autoship, database: Database, answer: Unauthorised | Throttled, cause: str, advice: str
) -> None:
    stood = {
        73: ("waiting", "items_mixed"),
        74: ("shipping", "ambiguous"),
        75: ("shipped", None),
        76: ("skipped", "rule"),
    }
    for package_id, (state, reason) in stood.items():
        stored(database, package_id, state=state, reason=reason)
    due = sa.update(packages).where(packages.c.package_id.in_((73, 74, 75)))
    with database.transaction() as transaction:
        transaction.execute(due.values(due_at=transaction.now))
        brakes.note_answer(transaction, 77, Operation.READ, answer)
    told = {package_id: autoship("explain", str(package_id), "--json").told[0] for package_id in stood}
    for package_id in (73, 74):
        assert told[package_id]["summary"].endswith(f" No package is looked at now: {cause}.")
        assert told[package_id]["advice"].startswith(advice)
    for package_id in (75, 76):
        assert cause not in told[package_id]["summary"]


def test_the_files_of_sqlite_are_for_their_owner_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/var/autoship.db"
    assert commands.autoship("migrate", cwd=tmp_path, **MINIMAL | {"DATABASE_URL": url}).code == 0
    modes = [path.stat().st_mode & 0o077 for path in (tmp_path / "var", tmp_path / "var/autoship.db")]
    assert modes == [0, 0]
