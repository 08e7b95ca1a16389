"""Secrets and personal data in every field: the real processes log and show none of them.

Two marks: what holds `canary` must appear nowhere; what holds `raven` is the OMS's own words of a refusal, which stand
in the attempt's row and in what people ask for. `canary-kept` is in the few fields that are stored and shown to people
(package number, state, offered commands), and must not be logged either.
"""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from service import config as configuration
from service import explain, sandbox
from service.cli import main
from service.database import Database
from service.sandbox import Package, Request
from service.web import create_app
from tests.conftest import MINIMAL, a_document, signed
from tests.house.events import FIELDS
from tests.integration.test_console import Person
from tests.oms_faults import Fault, FaultyOms, Outcome, answers, hangs, sends, shows, words
from tests.processes import running, wait_until, web_process

SECRET = "canary-of-a-secret"
ADMIN_TOKEN = "canary-of-an-admin-token"
MARKS = re.compile("canary|raven", re.IGNORECASE)
NOT_FOR_PEOPLE = re.compile("canary(?!-kept)", re.IGNORECASE)
PERSONAL = {
    "city": "canary of İstanbul",
    "order_notes": "canary, +90 555 000 00 00",
    "customer": {"name": "canary", "email": "canary@example.com", "phone": ["canary"]},
    "billing_address": {"line": "canary street 1"},
    "canary-of-a-key": "canary",
}


@dataclass(kw_only=True)
class CanaryOms(FaultyOms):
    """Every field of a document that we do not need holds a canary; each package meets its own fault."""

    token: str = "canary-of-a-token"
    faults: dict[tuple[str, int], Fault] = field(default_factory=dict)

    def answer(self, request: Request) -> Outcome:
        named = re.search(r"packages/(\d+)/", request.path)
        fault = self.faults.get((request.operation, int(named[1]) if named else 0))
        return fault(self, request) if fault else super().answer(request)

    def document(self, package: Package) -> dict[str, Any]:
        document = super().document(package) | PERSONAL
        document["number"] = document["order_number"] = "canary-kept"
        document["state"]["name"] = "canary of a name"
        document["stock_location"] |= {"name": "canary", "email": "canary", "address": PERSONAL}
        for command in document["commands"]:
            command["name"] = "canary"
        for item in document["packageitem_set"]:
            item |= {"order_item": PERSONAL, "serial_no": "canary"}
        return document


FAULTS: Mapping[tuple[str, int], Fault] = {
    ("command", 74): words(400, "raven: Zeynep does not live here " * 100),
    ("command", 75): answers(204, b"canary"),
    ("command", 76): hangs,
    ("command", 77): answers(500, b"canary", Retry_After="canary"),
    ("read", 78): answers(500, b"<html>canary</html>", X_Canary="canary"),
    ("read", 79): answers(200, b'{"canary'),
    ("read", 80): sends(b"HTTP/1.1 canary canary\r\n\r\n"),
    ("read", 81): shows(id=1, state={"canary": "canary"}),
    ("read", 82): shows(state={"enum_class": "canary-kept", "enum_value": "canary-kept", "name": "canary"}),
    ("read", 83): shows(commands=[{"slug": "canary-kept", "name": "canary"}]),
    ("read", 84): answers(404, b'{"detail": "canary"}'),
    ("log", 0): answers(403, b"canary"),
}
BARRED = 90
_DEFECT = "BEGIN SELECT RAISE(ABORT, 'canary'); END"


@dataclass(frozen=True)
class Scene:
    """What all of it left behind."""

    folder: Path
    variables: Mapping[str, str]
    oms: CanaryOms

    @property
    def printed(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.out")))

    @property
    def complained(self) -> str:
        return "".join(path.read_text() for path in sorted(self.folder.glob("*.err")))


def cli(variables: Mapping[str, str], *arguments: str) -> str:
    """What a command prints on both streams, and the problem it ends with."""
    ended = CliRunner(env=variables).invoke(main, arguments)
    return ended.output + str(ended.exception or "")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Web and worker, everything planted, everything that can go wrong gone wrong."""
    folder = tmp_path_factory.mktemp("canaries")
    oms = CanaryOms(faults=dict(FAULTS))
    for package_id in (*range(73, 85), BARRED):
        oms.create(package_id, [sandbox.PACKED], state=sandbox.PACKED)
    with sandbox.serve(oms) as server:
        variables = {
            "DATABASE_URL": f"sqlite:///{folder}/autoship.db",
            "OMS_BASE_URL": server.url,
            "OMS_TOKEN": oms.token,
            "SHIP_TRANSITION_ID": str(oms.transition_id),
            "SHIP_SLUG": oms.slug,
            "WEBHOOK_SECRETS": f"{SECRET},canary-of-an-older-secret",
            "WEBHOOK_BASIC_AUTH": "canary:canary",
            "WEBHOOK_HEADER": "X-Shop: canary",
            "ADMIN_TOKEN": ADMIN_TOKEN,
            "ALERT_URLS": "json://canary:canary@127.0.0.1:9/canary",
            "LOG_LEVEL": "DEBUG",
            "LOG_FORMAT": "json",
            "OMS_TIMEOUT_S": "0.5",
            "SETTLE_S": "0.1",
            "RETRY_BASE_S": "0.1",
            "RETRY_CAP_S": "1",
            "COMMAND_MAX_ATTEMPTS": "2",
        }
        scene = Scene(folder, variables, oms)
        _play(scene, server.url)
        oms.release.set()
        yield scene


def _play(scene: Scene, oms_url: str) -> None:
    database = Database(scene.variables["DATABASE_URL"])
    database.migrate(oms_url)

    def reached(package_id: int, *told: object) -> Callable[[], bool]:
        def is_reached() -> bool:
            found = explain.stored(database, package_id) or {"state": None, "reason": None, "summary": ""}
            return all(one in (found["state"], found["reason"]) or str(one) in found["summary"] for one in told)

        return is_reached

    with web_process(scene.variables, scene.folder) as web, running("worker", scene.variables, scene.folder):
        _deliver_everything(web)
        for condition in (
            reached(73, "shipped"),
            reached(74, "needs_attention", "refused"),
            *(reached(package_id, "shipping") for package_id in (75, 76)),
            reached(77, "needs_attention", "refused"),
            *(reached(package_id, "reads failed") for package_id in (78, 79, 80, 81, 84)),
            reached(82, "waiting", "wrong_enum_class"),
            reached(83, "waiting", "command_not_offered"),
        ):
            wait_until(condition)
        _break_everything(scene, web)
    database.dispose()


def _deliver_everything(web: str) -> None:
    for package_id in range(73, 85):
        assert _deliver(web, _planted(package_id)) == 202
    assert _deliver(web, _planted(73)) == 202  # duplicate
    assert _deliver(web, _planted(72, state="canary-kept")) == 202  # ignored
    assert _deliver(web, _planted("canary")) == 202  # quarantined
    assert _deliver(web, _planted(73), **{"X-Whisperer-Signature": "canary"}) == 401
    assert _deliver(web, _planted(73), Authorization="Basic canary") == 401
    assert _deliver(web, _planted(73), **{"Content-Type": "canary/canary"}) == 415
    assert _deliver(web, b'{"canary') == 400
    assert _deliver(web, _planted(73), path="/canary?canary=canary") == 404
    with socket.create_connection(("127.0.0.1", int(web.rpartition(":")[2])), timeout=5) as connection:
        connection.sendall(b"POST /canary HTTP/1.1\r\nHost: x\r\nContent-Length: canary\r\ncanary canary\r\n\r\n")
        assert b" 400 " in connection.recv(1000)


def _break_everything(scene: Scene, web: str) -> None:
    """Defects of ours with tell-tale messages, then a token that is not accepted any more."""
    with closing(sqlite3.connect(scene.folder / "autoship.db", isolation_level=None)) as connection:
        connection.execute(f"CREATE TRIGGER no BEFORE INSERT ON deliveries {_DEFECT}")
        assert _deliver(web, _planted(85)) == 500
        connection.execute("DROP TRIGGER no")
        connection.execute(f"CREATE TRIGGER no BEFORE UPDATE OF checks ON packages {_DEFECT}")
        wait_until(lambda: "look.crashed" in scene.printed)
        connection.execute("DROP TRIGGER no")
        connection.execute("ALTER TABLE deliveries RENAME TO gone")
        assert _deliver(web, _planted(85)) == 503
        connection.execute("ALTER TABLE gone RENAME TO deliveries")
    scene.oms.faults["read", BARRED] = answers(401, b'{"detail": "canary"}', WWW_Authenticate="canary")
    assert _deliver(web, _planted(BARRED)) == 202
    wait_until(lambda: "brake.changed" in scene.printed and "alert.failed" in scene.printed)


def _planted(package_id: object, **changes: Any) -> dict[str, Any]:
    number = package_id if isinstance(package_id, int) else 0
    document = a_document(package_id, **{"type": "package.canary-kept", "uuid": f"{number:032x}"} | changes)
    document["payload"] |= PERSONAL
    document["event"]["canary"] = document["canary"] = PERSONAL
    return document


def _deliver(web: str, document: object, path: str = "/webhooks/oms/packages", **headers: str) -> int:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    usual = {
        "X-Shop": "canary",
        "X-Customer": "canary",
        "User-Agent": "canary",
        "Cookie": "canary",
        "Referer": "canary",
    }
    answer = httpx.post(
        web + path,
        content=body,
        headers={**signed(body, SECRET), **usual, "Authorization": "Basic Y2FuYXJ5OmNhbmFyeQ==", **headers},
        trust_env=False,
        timeout=10,
    )
    assert not MARKS.search(answer.text)
    return answer.status_code


def test_no_log_line_holds_a_secret_personal_data_or_the_words_of_the_oms(scene: Scene) -> None:
    assert [line for line in scene.printed.splitlines() if MARKS.search(line) or "Y2FuYXJ5" in line] == []
    assert scene.complained == ""


def test_every_line_is_one_declared_event_with_declared_fields(scene: Scene) -> None:
    seen = set()
    for line in scene.printed.splitlines():
        told = json.loads(line)
        seen.add(told["event"])
        assert set(told) - {"at", "level", "event"} <= set(FIELDS[told["event"]]), line
    assert seen >= {
        "web.started", "worker.started", "worker.stopped", "database.unavailable", "look.crashed",
        "delivery.accepted", "delivery.duplicate", "delivery.ignored", "delivery.quarantined", "delivery.rejected",
        "package.shipped", "package.waiting", "package.needs_attention", "read.failed",
        "command.sending", "command.answered", "brake.changed", "alert.failed",
    }  # fmt: skip


def test_the_words_of_the_oms_stand_in_the_attempt_alone_and_at_most_500_characters_of_them(scene: Scene) -> None:
    told = json.loads(cli(scene.variables, "explain", "74", "--json"))
    spoken = [attempt.pop("words") for attempt in told["attempts"]]
    assert len(spoken) == 2
    assert all("raven" in said and len(said) == 500 for said in spoken)
    assert "raven" not in json.dumps(told)
    with closing(sqlite3.connect(scene.folder / "autoship.db")) as connection:
        holding = [line for line in connection.iterdump() if "raven" in line]
    assert len(holding) == 2
    assert all(line.startswith('INSERT INTO "attempts"') for line in holding)


def test_the_database_keeps_of_a_canary_only_what_decisions_and_explanations_use(scene: Scene) -> None:
    with closing(sqlite3.connect(scene.folder / "autoship.db")) as connection:
        dump = "\n".join(line for line in connection.iterdump() if 'INTO "quarantine"' not in line)
    assert "canary-kept" in dump
    assert NOT_FOR_PEOPLE.findall(dump) == []


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_the_command_line_shows_no_secret_and_no_personal_data(scene: Scene, form: tuple[str, ...]) -> None:
    shown = [cli(scene.variables, "explain", str(package_id), *form) for package_id in (*range(73, 85), BARRED)]
    shown += [cli(scene.variables, command, *form) for command in ("packages", "config")]
    assert "canary-kept" in "".join(shown)
    assert [text for text in shown if NOT_FOR_PEOPLE.search(text)] == []
    assert "raven" in "".join(shown)


def test_the_api_and_the_metrics_show_no_secret_and_no_personal_data(scene: Scene) -> None:
    database = Database(scene.variables["DATABASE_URL"])
    client = create_app(configuration.load(scene.variables), database).test_client()
    addresses = ["/metrics", "/api/v1/status", "/api/v1/packages"]
    addresses += [f"/api/v1/packages/{package_id}" for package_id in (*range(73, 85), BARRED)]
    answers = [client.get(address, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}) for address in addresses]
    database.dispose()
    assert {answer.status_code for answer in answers} == {200}
    shown = [answer.text for answer in answers]
    assert "canary-kept" in "".join(shown)
    assert [text for text in shown if NOT_FOR_PEOPLE.search(text)] == []


def test_the_console_shows_no_secret_and_no_personal_data(scene: Scene) -> None:
    database = Database(scene.variables["DATABASE_URL"])
    person = Person(create_app(configuration.load(scene.variables), database).test_client())
    person.sign_in(token=ADMIN_TOKEN)
    shown = [person.get(f"/packages/{package_id}") for package_id in (*range(73, 85), BARRED)]
    shown += [person.get(path) for path in ("/", "/packages", "/search?q=canary-kept", "/packages/74/recheck")]
    database.dispose()
    assert "canary-kept" in "".join(shown)
    assert [page for page in shown if NOT_FOR_PEOPLE.search(page)] == []
    assert "raven" in shown[1]
    assert "raven" not in "".join(shown[:1] + shown[2:])


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://autoship:canary@127.0.0.1:1/autoship",
        "postgresql://:canary@127.0.0.1:1/autoship",
        "postgresql://autoship:can/canary@127.0.0.1:1/autoship",
        "postgresql://127.0.0.1:1/autoship?user=autoship&password=canary",
    ],
)
def test_the_database_password_is_never_shown(url: str) -> None:
    shown = [cli({**MINIMAL, "OMS_TOKEN": "token", "DATABASE_URL": url}, command) for command in ("config", "packages")]
    assert "127.0.0.1" in shown[0]
    assert [text for text in shown if NOT_FOR_PEOPLE.search(text)] == []
