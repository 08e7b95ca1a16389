"""`autoship doctor`: what is wrong is found, what is right is not blamed, and nothing is ever commanded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import sqlalchemy as sa

from service import brakes, diagnosis, doctor, operator, sandbox
from service.brakes import Operation
from service.database import Database, deliveries, deployment, workers
from service.diagnosis import CHECKS, Judgement
from service.operator import Word
from service.outcome import Misconfigured, Throttled, Unauthorised
from service.sandbox import Request, Response
from tests.commands import Autoship, Ended
from tests.conftest import MINIMAL, on_postgresql, on_sqlite
from tests.integration.conftest import beat
from tests.oms_faults import Fault, FaultyOms, Outcome, answers, html, resets, sends, shows, truncated, words
from tests.recorder import recording

CANARIES = ("token-canary", "secret-canary", "pass-canary", "header-canary", "Zeynep", "words-canary")
NOT_SEEN = "not checked"
# What is not seen in the usual surroundings of these tests, where nothing is amiss.
USUAL = {"public_url": "unknown", "webhooks": "unknown"}


@pytest.fixture
def oms() -> Iterator[FaultyOms]:
    """The OMS with one package in Packed and one that is not."""
    oms = FaultyOms(token="token-canary")
    oms.create(72, ["400"])
    oms.create(73, ["400", "400"])
    oms.pack(73)
    yield oms
    oms.release.set()


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list of mounts of a machine that has one disk, wherever these tests run."""
    listed = tmp_path / "mountinfo"
    listed.write_text("27 1 254:1 / / rw,noatime shared:1 - ext4 /dev/vda rw\n", encoding="utf-8")
    monkeypatch.setattr(doctor, "MOUNTS", listed)
    return listed


@pytest.fixture
def examined(autoship: Autoship, oms: FaultyOms, database_url: str, mounts: Path) -> Iterator[Callable[..., Ended]]:
    """Runs the doctor on a database with a living worker."""
    with sandbox.serve(oms) as server:
        database = Database(database_url)
        database.migrate(server.url)
        see_worker(database, timedelta(0))
        with database.transaction() as transaction:
            now = transaction.now
            row = {"event_uuid": "1", "fate": "accepted", "secret_index": 0, "received_at": now, "last_seen_at": now}
            transaction.execute(sa.insert(deliveries).values(row))
        at_oms = {
            "OMS_BASE_URL": server.url,
            "OMS_TOKEN": oms.token,
            "SHIP_TRANSITION_ID": str(oms.transition_id),
            "SHIP_SLUG": oms.slug,
            "WEBHOOK_SECRETS": "secret-canary",
            "WEBHOOK_BASIC_AUTH": "oms:pass-canary",
            "WEBHOOK_HEADER": "X-Shop: header-canary",
            "OMS_TIMEOUT_S": "5",
        }
        yield lambda *arguments, **variables: autoship("doctor", *arguments, **at_oms | variables)
        database.dispose()


def see_worker(database: Database, ago: timedelta) -> None:
    with database.reading() as transaction:
        now = transaction.now
    beat(database, now - ago)


def judged(ended: Ended) -> dict[str, str]:
    """The verdicts that are not ok, each with what was seen, but for those usual here."""
    told = {finding["name"]: finding for finding in ended.told}
    assert list(told) == list(CHECKS), "every check once, in its order"
    assert all(one["why"] and (one["what_to_do"] or one["verdict"] == "ok") for one in told.values())
    assert ended.code == any(one["verdict"] == "problem" for one in told.values())
    assert [canary for canary in CANARIES if canary in ended.out + ended.err] == []
    unusual = {n: f"{one['verdict']}: {one['what']}" for n, one in told.items() if one["verdict"] != USUAL.get(n, "ok")}
    return {name: text for name, text in unusual.items() if text != f"unknown: {NOT_SEEN}"}


def test_nothing_is_blamed_where_all_is_well(examined: Callable[..., Ended], oms: FaultyOms) -> None:
    assert judged(examined("--json")) == {}
    text = examined()
    assert (text.code, text.err) == (0, "23 ok, 0 problem, 2 unknown\n")
    assert [line.split()[1] for line in text.out.splitlines() if line[0] != " "] == list(CHECKS)
    assert "Why it matters: " in text.out
    assert {one.operation for one in oms.received} == {"list", "read", "items", "log"}


def ignoring(operation: str, *names: str) -> Fault:
    """A filter or order the OMS does not know and therefore ignores."""

    def answer(oms: FaultyOms, request: Request) -> Outcome:
        kept = {name: value for name, value in request.query.items() if name not in names}
        return oms.answer_well(Request(request.method, request.path, kept, request.token, request.body))

    return answer


def bare(oms: FaultyOms, request: Request) -> Outcome:
    """States as the OMS's short package model describes them: the number alone."""

    def strip(value: Any) -> Any:
        if isinstance(value, list):
            return [strip(one) for one in value]
        if isinstance(value, dict):
            return {name: one["enum_value"] if name == "state" else strip(one) for name, one in value.items()}
        return value

    return Response(200, json.dumps(strip(json.loads(oms.answer_well(request).body))).encode())


def without(*names: str) -> Fault:
    """The package without these fields."""

    def answer(oms: FaultyOms, request: Request) -> Outcome:
        document = json.loads(oms.answer_well(request).body)
        return Response(200, json.dumps({n: value for n, value in document.items() if n not in names}).encode())

    return answer


TRANSFERRED = [
    {"id": number, "package": 73, "state": {"enum_class": "PackageItemStatus", "enum_value": "300"}}
    for number in (1, 2)
]
ORDER = {"enum_class": "OrderStatus", "enum_value": "500"}
OFFER = [{"id": 7, "transition": 99, "slug": "another", "name": "Ship"}]
OLD = sends(b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: 2\r\n\r\n{}")
TWO = [{"transition": 99, "slug": "ship-without-integration"}]


@on_sqlite
@pytest.mark.parametrize(
    ("operation", "fault", "found"),
    [
        ("list", resets, {"oms_answers": "problem: "}),
        ("list", truncated(), {"oms_answers": "problem: RemoteProtocolError"}),
        ("list", html(502), {"oms_answers": "problem: answered 502"}),
        ("list", html(200), {"oms_answers": "problem: the answer is not JSON"}),
        ("list", answers(404), {"oms_answers": "problem: it has no such page (404)"}),
        ("list", answers(302, Location="/x/"), {"oms_answers": "problem: it redirects (302)"}),
        ("list", answers(429, Retry_After="7"), {"oms_answers": "unknown: it asks to wait 7 s (429)"}),
        ("list", words(401, "words-canary"), {"token": "problem: it is not accepted (401)"}),
        ("list", words(403, "words-canary"), {"read_rights": "problem: packages may not be read (403)"}),
        ("read", words(403, "words-canary"), {"read_rights": "problem: packages may not be read (403)"}),
        ("list", answers(200, b'{"results": 1}'), {"list_filter": "problem: the package list is not a list"}),
        (
            "list",
            ignoring("list", "state__enum_value"),
            {"list_filter": "problem: package 72 is listed and is PackageStatus 400, not Packed"},
        ),
        ("list", ignoring("list", "id__gt"), {"list_order": "unknown: the OMS ignores or refuses id__gt or sort"}),
        ("read", answers(404), {"package_shape": "problem: it is listed, and unknown when read (404)"}),
        ("read", answers(200, b"[]"), {"package_shape": "problem: the answer is not a document of this package"}),
        ("read", shows(state=None), {"package_shape": "problem: the package has no readable state"}),
        ("read", shows(state=ORDER), {"enum_class": "problem: a state is OrderStatus 500, not PackageStatus"}),
        ("read", bare, {"enum_class": "unknown: states do not name their enumeration"}),
        ("read", shows(packageitem_set=[{"id": 1}, {"id": 1}]), {"items": "problem: packageitem_set: an item is"}),
        ("read", without("modified_date"), {"modified_date": "unknown: the package has none"}),
        (
            "read",
            shows(packageitem_set=TRANSFERRED),
            {"items_packed": "unknown: the items of a Packed package are in 300"},
        ),
        ("read", shows(commands=[]), {"commands_shape": "unknown: no commands in", "command_offered": "unknown: "}),
        ("read", shows(commands=["Ship"]), {"commands_shape": "unknown: no comm", "command_offered": "unknown: "}),
        ("read", shows(commands=OFFER), {"command_offered": "problem: transition 12, slug 'ship-without-integration'"}),
        ("read", shows(commands=TWO), {"command_offered": "problem: transition 12, slug 'ship-without-integration'"}),
        ("log", answers(403), {"transition_log": "unknown: it does not answer"}),
        ("log", answers(401), {"transition_log": "unknown: the token is not accepted there (401)"}),
        ("log", answers(200, b'{"results": []}'), {"transition_log": "unknown: it shows no transition of the package"}),
        ("list", OLD, {"clock": "problem: the OMS's clock is "}),
    ],
)
def test_what_is_wrong_with_the_oms_is_found(
    examined: Callable[..., Ended], oms: FaultyOms, operation: str, fault: Fault, found: dict[str, str]
) -> None:
    oms.always(operation, fault)
    seen = judged(examined("--json"))
    assert {name: seen.get(name, "")[: len(text)] for name, text in found.items()} == found, seen
    assert set(seen) - set(found) <= {"list_filter", "command_offered"}
    assert oms.commands_for(73) == 0


@on_sqlite
@pytest.mark.parametrize(
    ("variables", "found"),
    [
        (
            {"SHIP_TRANSITION_ID": "13", "SHIP_SLUG": ""},
            {"command_offered": "problem: transition 13: offered: transition 12, slug 'ship-w"},
        ),
        ({"SHIP_SLUG": "wrong"}, {"command_offered": "problem: transition 12, slug 'wrong': offered: transition 12"}),
        ({"COMMANDS_GATE": "off"}, {"command_offered": "unknown: not checked: COMMANDS_GATE=off"}),
        ({"OMS_TOKEN": "wrong"}, {"token": "problem: it is not accepted (401)"}),
        ({"OMS_LIST_FILTER": "status={packed}"}, {"list_filter": "problem: package 72 is listed"}),
        ({"OMS_LOGS_PATH": "/logs/?id={id}"}, {"transition_log": "unknown: it does not answer"}),
        ({"SHIP_TRANSITION_ID": ""}, {"transition_log": "unknown: it names transitions by number, and only"}),
        ({"PORT": "x", "GRACE_S": "y"}, {"configuration": "problem: "}),
        ({"ALERT_URLS": "nosuch://canary"}, {"configuration": "problem: "}),
    ],
)
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # Apprise looks at all its plugins for an unknown one
def test_what_is_wrong_with_the_configuration_is_found(
    examined: Callable[..., Ended], variables: dict[str, str], found: dict[str, str]
) -> None:
    told = examined("--json", **variables)
    if "configuration" in found:
        problems = [one["what"] for one in told.told if one["name"] == "configuration"]
        assert [problem.partition(":")[0] for problem in problems] == list(variables)
        assert (told.code, {one["verdict"] for one in told.told}) == (1, {"problem", "unknown"})
        return
    seen = judged(told)
    assert {name: seen.get(name, "")[: len(text)] for name, text in found.items()} == found, seen
    assert len(seen) == len(found)


@on_sqlite
@pytest.mark.parametrize(
    ("fault", "found"),
    [
        (None, ""),
        (ignoring("items", "package"), "an item does not name this package"),
        (answers(404), "the OMS has no item list at OMS_ITEMS_PATH"),
        (answers(500), "it was not answered"),
    ],
)
def test_items_that_are_read_apart_must_be_all_of_the_package_and_no_others(
    examined: Callable[..., Ended], oms: FaultyOms, fault: Fault | None, found: str
) -> None:
    oms.create(74)
    oms.inline_items = False
    oms.always("items", fault)
    before = "problem: the package does not carry its items, and at OMS_ITEMS_PATH "
    assert judged(examined("--json")) == ({"items": before + found} if found else {})


@on_sqlite
def test_a_rule_that_asks_what_the_package_does_not_show_is_found(
    examined: Callable[..., Ended], oms: FaultyOms, tmp_path: Path
) -> None:
    rules = tmp_path / "rules.toml"
    when = 'when = {channel_name = ["Shop"], has_invoice = true}'
    rules.write_text(f'default = "skip"\n[[rule]]\nname = "shop"\n{when}\naction = "ship"\n', encoding="utf-8")
    assert judged(examined("--json", RULES_FILE=str(rules))) == {}
    oms.always("read", without("channel_name"))
    assert judged(examined("--json", RULES_FILE=str(rules))) == {
        "rule_fields": "problem: the package does not show channel_name"
    }


@on_sqlite
def test_that_no_delivery_was_ever_accepted_is_told(examined: Callable[..., Ended], database_url: str) -> None:
    database = Database(database_url)
    with database.transaction() as transaction:
        transaction.execute(sa.delete(deliveries))
    assert judged(examined("--json")) == {"deliveries": "unknown: none has been accepted yet"}
    database.dispose()


@on_sqlite
def test_without_a_package_in_packed_what_needs_one_is_unknown(examined: Callable[..., Ended], oms: FaultyOms) -> None:
    oms.unpack(73)
    ended = examined("--json")
    assert judged(ended) == {"list_filter": "unknown: no package is in Packed now"}
    told = {one["name"]: one["what"] for one in ended.told}
    assert {told[name] for name in ("package_shape", "items", "command_offered", "transition_log")} == {NOT_SEEN}


def test_database_that_is_missing_or_another_oms_s_is_found(examined: Callable[..., Ended], database_url: str) -> None:
    database = Database(database_url)
    with database.transaction() as transaction:
        transaction.execute(sa.update(deployment).values(oms_base_url="https://other-oms.akinon.net"))
    seen = judged(examined("--json"))
    assert set(seen) == {"database_of_this_oms"}
    assert "made for https://other-oms.akinon.net" in seen["database_of_this_oms"]
    with database.transaction() as transaction:
        transaction.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    assert set(judged(examined("--json"))) == {"database_migrated"}
    database.dispose()


@on_postgresql
def test_database_that_cannot_be_reached_is_found_and_the_oms_is_examined_all_the_same(
    examined: Callable[..., Ended],
) -> None:
    ended = examined("--json", DATABASE_URL="postgresql://oms:pass-canary@127.0.0.1:9/autoship")
    assert set(judged(ended)) == {"database_reachable"}
    assert {one["name"]: one["verdict"] for one in ended.told}["command_offered"] == "ok"


@on_sqlite
def test_sqlite_where_the_disk_does_not_last_is_found(examined: Callable[..., Ended]) -> None:
    ended = examined("--json", ACC_PROJECT_APP_UUID="7")
    assert ended.code == 1
    assert ended.told[0]["what"].startswith("DATABASE_URL: SQLite does not last on this platform's disk")


@pytest.mark.parametrize(("ago_s", "found"), [(50, ""), (90, "problem: a worker was seen 9"), (None, "problem: no wo")])
def test_worker_that_has_not_been_seen_lately_is_found(
    examined: Callable[..., Ended], database_url: str, ago_s: int | None, found: str
) -> None:
    database = Database(database_url)
    see_worker(database, timedelta(seconds=ago_s or 0))
    if ago_s is None:
        with database.transaction() as transaction:
            transaction.execute(sa.delete(workers))
    assert judged(examined("--json")).get("worker_seen", "")[: len(found)] == found
    database.dispose()


@pytest.mark.parametrize(
    ("answer", "cause", "advice"),
    [
        (Unauthorised(401, ""), "breaker open: the OMS does not accept the token (401)", "Put in a new OMS_TOKEN"),
        (Misconfigured(302), "breaker open: OMS_BASE_URL answers with a redirect (302)", "Correct OMS_BASE_URL"),
        (
            Throttled(timedelta(minutes=9)),
            "the OMS asked to wait (Retry-After)",
            "It goes on by itself once that time is over",
        ),
        (None, "paused: by an operator: stock count", "autoship resume"),
    ],
)
def test_that_commands_are_held_back_is_found_with_the_cause_and_what_to_do(
    examined: Callable[..., Ended], database_url: str, answer: Any, cause: str, advice: str
) -> None:
    database = Database(database_url)
    if answer is None:
        operator.pause(database, Word(why="stock count"))
    else:
        with database.transaction() as transaction:
            brakes.note_answer(transaction, 73, Operation.COMMAND, answer)
    ended = examined("--json")
    assert judged(ended) == {"commands_held": f"problem: {cause}"}
    assert advice in {one["name"]: one["what_to_do"] for one in ended.told}["commands_held"]
    database.dispose()


@on_sqlite
@pytest.mark.parametrize(
    ("mode", "what"), [("live", "nothing holds them back"), ("shadow", "nothing but MODE=shadow, which sends none")]
)
def test_that_shadow_mode_sends_no_command_is_told_and_is_no_problem(
    examined: Callable[..., Ended], mode: str, what: str
) -> None:
    ended = examined("--json", MODE=mode)
    assert judged(ended) == {}
    assert {one["name"]: one["what"] for one in ended.told}["commands_held"] == what


@on_sqlite
@pytest.mark.parametrize(
    ("status", "found"),
    [
        (401, "problem: it is not Autoship that refuses an empty delivery (401)"),
        (301, "problem: it redirects (301)"),
        (308, "problem: it redirects (308)"),
        (202, "problem: it accepts what nobody signed (202)"),
        (404, "problem: it answers 404 instead of 401"),
        (None, "problem: nothing answers from this machine"),
    ],
)
def test_public_url_must_refuse_what_is_not_signed_and_must_not_redirect(
    examined: Callable[..., Ended], status: int | None, found: str
) -> None:
    with recording(status or 200, Location="/elsewhere") as public:
        url = MINIMAL["OMS_BASE_URL"] if status is None else public.url
        told = {one["name"]: one for one in examined("--json", PUBLIC_URL=url).told}["public_url"]
    assert (f"{told['verdict']}: {told['what']}" if told["verdict"] != "ok" else "") == found


@on_sqlite
@pytest.mark.parametrize(
    "demanded",
    [
        {},
        {"WEBHOOK_BASIC_AUTH": "oms:pass-canary", "WEBHOOK_HEADER": "X-Shop: header-canary"},
        {"WEBHOOK_SECRETS": "", "WEBHOOK_ALLOW_UNSIGNED": "1"},
        {"WEBHOOK_SECRETS": "", "WEBHOOK_ALLOW_UNSIGNED": "1", "WEBHOOK_BASIC_AUTH": "oms:pass-canary"},
        {"WEBHOOK_SECRETS": "", "WEBHOOK_ALLOW_UNSIGNED": "1", "WEBHOOK_HEADER": "X-Shop: header-canary"},
    ],
)
def test_our_own_web_process_passes_whatever_it_demands(
    examined: Callable[..., Ended], configured: Callable[..., Any], database_url: str, demanded: dict[str, str]
) -> None:
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    from service.web import create_app

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    database = Database(database_url)
    server = make_server("127.0.0.1", 0, create_app(configured(**demanded), database), handler_class=Quiet)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    usual = {"WEBHOOK_SECRETS": "s3cr3t", "WEBHOOK_BASIC_AUTH": "", "WEBHOOK_HEADER": ""} | demanded
    told = examined("--json", PUBLIC_URL=f"http://127.0.0.1:{server.server_port}", **usual).told
    server.shutdown()
    server.server_close()
    database.dispose()
    assert {one["name"]: one["verdict"] for one in told}["public_url"] == "ok"


# A disk that does not last.


@on_sqlite
@pytest.mark.parametrize(
    ("kind", "place", "verdict"),
    [
        ("ext4", "", None),
        ("tmpfs", "", "problem: a file in memory (tmpfs): the next start of this machine begins with nothing"),
        ("ramfs", "", "problem: a file in memory (ramfs): the next start of this machine begins with nothing"),
        ("overlay", "", "unknown: a file within a container (overlay): it goes with the container"),
        ("tmpfs", "/elsewhere", None),
    ],
)
def test_a_file_that_does_not_outlive_the_machine_is_found(
    examined: Callable[..., Ended], mounts: Path, tmp_path: Path, kind: str, place: str, verdict: str | None
) -> None:
    with mounts.open("a", encoding="utf-8") as listed:
        listed.write(f"30 27 0:27 / {tmp_path}{place} rw - {kind} {kind} rw\n")
    assert judged(examined("--json")) == ({"database_durable": verdict} if verdict else {})


@on_sqlite
def test_where_nothing_says_what_is_mounted_the_disk_is_unknown(examined: Callable[..., Ended], mounts: Path) -> None:
    mounts.unlink()
    assert judged(examined("--json")) == {"database_durable": "unknown: a file, on what kind of disk is not known here"}


def test_a_server_that_answers_before_it_has_written_is_found() -> None:
    found = diagnosis.durable_server("off")
    assert (found.judgement, found.what) == (Judgement.PROBLEM, "a PostgreSQL server that forgets: fsync is off")
