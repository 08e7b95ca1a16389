"""Alerts: told once for all processes, told when it is over, and never in the way of anything else."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import responses
import sqlalchemy as sa
from requests import PreparedRequest

from service import brakes, operator, up, watch, worklist
from service.alerts import ALERTS, judge
from service.brakes import Operation
from service.config import Config
from service.database import Database, packages
from service.notices import LEASE, QUIET, REMIND_AFTER, Notice, Teller, Told, message, notice
from service.outcome import Unauthorised
from service.vitals import Vitals
from tests import commands
from tests.conftest import MINIMAL, on_sqlite
from tests.house.docs import TOLD_BY
from tests.house.events import EVENTS
from tests.integration.conftest import Clock, beat
from tests.processes import wait_until, web_process
from tests.recorder import recording

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
HEALTHY = Vitals(
    now=NOW,
    made_at=NOW - timedelta(days=1),
    packages={("shipped", None): 9, ("waiting", "grace"): 9, ("waiting", "retry_after_refusal"): 2},
    deliveries={"accepted": 9},
    attempts={"refused": 9},
    quarantined=9,
    unannounced=0,
    failing=0,
    unreadable=0,
    held_back=0,
    unfit={"items_mixed": 9, "no_items": 4},
    missed=9,
    oldest_due_at=NOW - 4 * MINUTE,
    worker_seen_at=NOW - 59 * SECOND,
    last_webhook_at=NOW - 59 * MINUTE,
    last_sweep_at=NOW - 59 * MINUTE,
    sweep_problem="the list was not answered: answered 502",
    paused_at=None,
    pause_cause=None,
    breaker_opened_at=None,
    breaker_cause=None,
    hold_off_until=None,
    held_up=True,
)
PAUSED: dict[str, Any] = {"pause_cause": brakes.BY_OPERATOR, "packages": {("waiting", "brake"): 2}}
SILENT: dict[str, Any] = {"last_webhook_at": NOW - 61 * MINUTE, "unannounced": 3}


@pytest.mark.parametrize(
    ("changes", "alerts"),
    [
        ({}, {}),
        ({"breaker_opened_at": NOW, "breaker_cause": "the token may not read"}, {"breaker_open": 1}),
        ({"breaker_opened_at": NOW, "breaker_cause": brakes.TOKEN_REJECTED}, {"token_rejected": 1}),
        ({"unreadable": 2}, {"oms_unreadable": 2}),
        ({"held_back": 2}, {"held_back": 2}),
        ({"held_back": 2, "paused_at": NOW, "pause_cause": brakes.BY_OPERATOR}, {}),
        ({"held_back": 2, "breaker_opened_at": NOW, "breaker_cause": "the token may not read"}, {"breaker_open": 1}),
        ({"hold_off_until": NOW + SECOND, "oldest_due_at": NOW - 30 * MINUTE}, {"held_back": 1}),
        ({"hold_off_until": NOW + SECOND, "oldest_due_at": NOW - 29 * MINUTE}, {}),
        ({"hold_off_until": NOW, "oldest_due_at": NOW - 30 * MINUTE}, {}),
        ({"hold_off_until": NOW + 16 * MINUTE, "oldest_due_at": NOW - 30 * MINUTE}, {}),  # before a clock was set back
        ({"paused_at": NOW, "pause_cause": "9 commands within an hour (SHIP_MAX_PER_HOUR)"}, {"hourly_cap": 1}),
        ({"paused_at": NOW, "pause_cause": brakes.BY_OPERATOR}, {}),
        (PAUSED | {"paused_at": NOW - 30 * MINUTE}, {"paused": 2}),
        (PAUSED | {"paused_at": NOW - 29 * MINUTE}, {}),
        (PAUSED | {"paused_at": NOW - 30 * MINUTE, "packages": {("waiting", "grace"): 2}}, {}),
        (PAUSED | {"paused_at": NOW - 30 * MINUTE, "pause_cause": "9 commands"}, {"hourly_cap": 1}),
        (
            {"packages": {("needs_attention", "refused"): 2, ("needs_attention", "bad_shape"): 1}},
            {"needs_attention": 3},
        ),
        ({"packages": {("waiting", "retry_after_refusal"): 3, ("waiting", "command_not_offered"): 2}}, {"refusals": 5}),
        ({"packages": {("waiting", "retry_after_refusal"): 4}}, {}),
        ({"sweep_problem": "filter_ignored: package 7 is not Packed"}, {"filter_ignored": 1}),
        ({"last_sweep_at": NOW - 60 * MINUTE}, {"sweep_failing": 1}),
        ({"last_sweep_at": None}, {"sweep_failing": 1}),
        ({"last_sweep_at": None, "made_at": NOW - 59 * MINUTE}, {}),
        ({"last_sweep_at": NOW - 60 * MINUTE, "sweep_problem": None}, {}),
        ({"packages": {("waiting", "rule_field_missing"): 5}}, {"rule_field_missing": 5}),
        ({"packages": {("waiting", "rule_field_missing"): 4}}, {}),
        (
            {"unfit": {"items_mixed": 9, "no_items": 2, "items_incomplete": 2, "wrong_enum_class": 1}},
            {"items_unfit": 5},
        ),
        ({"attempts": {}}, {"items_unfit": 13}),
        ({"attempts": {}, "unfit": {"items_mixed": 4}}, {}),
        ({"attempts": {}, "packages": {("would_ship", None): 1}}, {}),
        ({"packages": {("waiting", "backlog_to_confirm"): 7}}, {"backlog": 7}),
        (SILENT, {"webhooks_silent": 3}),
        (SILENT | {"last_webhook_at": None}, {"webhooks_silent": 3}),
        (SILENT | {"unannounced": 0}, {}),
        (SILENT | {"made_at": NOW - 59 * MINUTE}, {}),
        # The watch over the workers judges these.
        ({"worker_seen_at": None, "oldest_due_at": NOW - 6 * MINUTE, "held_up": False}, {}),
    ],
)
def test_what_is_wrong_opens_its_alert_and_nothing_else(changes: dict[str, Any], alerts: dict[str, int]) -> None:
    found = replace(HEALTHY, **changes)
    assert judge(found, None) == alerts
    assert judge(found, "no worker was seen for a minute") == alerts | {"worker_silent": 1}


NEVER = Told()
OPEN = Told(is_open=True, count=3, told_at=NOW - QUIET, leased_until=None)
OVER = replace(OPEN, is_open=False)


@pytest.mark.parametrize(
    ("told", "count", "expected"),
    [
        (NEVER, 0, None),
        (NEVER, 1, Notice.OPEN),
        (OPEN, 0, Notice.OVER),
        (OPEN, 3, None),
        (OPEN, 5, None),
        (OPEN, 6, Notice.OPEN),
        (OVER, 0, None),
        (OVER, 1, Notice.OPEN),
        (replace(OPEN, told_at=NOW - QUIET + SECOND), 0, None),
        (replace(OVER, told_at=NOW - QUIET + SECOND), 1, None),
        (replace(OPEN, told_at=NOW - REMIND_AFTER), 3, Notice.OPEN),
        (replace(OPEN, leased_until=NOW + SECOND), 0, None),
        (replace(NEVER, leased_until=NOW + LEASE), 1, None),
        (replace(NEVER, leased_until=NOW), 1, Notice.OPEN),
        # After a clock was set back.
        (replace(OPEN, told_at=NOW + timedelta(days=1)), 0, Notice.OVER),
        (replace(NEVER, leased_until=NOW + timedelta(days=1)), 1, Notice.OPEN),
    ],
)
def test_people_hear_what_they_do_not_know_yet(told: Told, count: int, expected: Notice | None) -> None:
    assert notice(told, count, NOW) is expected


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_to_do_and_an_event_of_the_logs_tells_the_same(name: str) -> None:
    _, text = message(name, Notice.OPEN, 3, "https://brand-oms.akinon.net")
    assert f"What to do: {ALERTS[name].advice}" in text
    assert text.endswith("OMS: https://brand-oms.akinon.net")
    assert TOLD_BY[name] in EVENTS


def test_who_is_told_of_the_hourly_cap_is_told_that_to_resume_is_not_enough() -> None:
    advice = ALERTS["hourly_cap"].advice
    assert "raise SHIP_MAX_PER_HOUR and restart, then: autoship resume" in advice
    assert "wait until the last hour holds fewer commands" in advice
    assert "it does not resume by itself" in advice


# Told over a real Apprise, once for all processes.


@pytest.fixture
def wire() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as wire:
        yield wire


@pytest.fixture
def watch_with(
    configured: Callable[..., Config], store: Database, wire: responses.RequestsMock
) -> Callable[..., Teller]:
    """A process that watches, telling these targets."""

    def make(
        *urls: str,
        send_within_s: float = 10.0,
        monotonic: Callable[[], float] = lambda: 0.0,
        silence: Callable[[], str | None] = lambda: None,
    ) -> Teller:
        return Teller(configured(ALERT_URLS="\n ".join(urls)), store, silence, send_within_s, monotonic)

    return make


ONE, TWO = "json://canary:canary@one.example/canary", "json://two.example/canary"
AT_ONE, AT_TWO = "http://one.example/canary", "http://two.example/canary"


def told(wire: responses.RequestsMock) -> list[str]:
    """The titles that went out, in order."""
    bodies = [call.request.body for call in wire.calls]
    return [json.loads(body or "")["title"] for body in bodies]


def open_breaker(store: Database) -> None:
    with store.transaction() as transaction:
        brakes.note_answer(transaction, 1, Operation.READ, Unauthorised(401, "canary"))


BEGAN = f"Autoship: {ALERTS['token_rejected'].title}"
IS_OVER = f"Autoship, over: {ALERTS['token_rejected'].title}"


@pytest.fixture
def watched(store: Database, clock: Clock) -> Callable[[Teller, timedelta], None]:
    """Looks after some time has passed in which a worker was seen."""

    def look(watch: Teller, after: timedelta) -> None:
        clock.turn(after)
        beat(store)
        watch.look()

    return look


Look = Callable[[Teller, timedelta], None]


def test_an_alert_is_told_once_for_all_processes_and_told_when_it_is_over(
    watch_with: Callable[..., Teller], watched: Look, store: Database, wire: responses.RequestsMock
) -> None:
    wire.post(AT_ONE)
    first, second = watch_with(ONE), watch_with(ONE)
    watched(first, SECOND)
    assert told(wire) == []
    open_breaker(store)
    for process in (first, second, first):
        watched(process, SECOND)
    assert told(wire) == [BEGAN]
    operator.resume(store)
    watched(second, SECOND)
    assert told(wire) == [BEGAN]
    for process in (second, first):
        watched(process, QUIET)
    assert told(wire) == [BEGAN, IS_OVER]


def test_an_alert_that_is_redirected_is_not_told_elsewhere_and_tried_again(
    watch_with: Callable[..., Teller], watched: Look, store: Database, wire: responses.RequestsMock
) -> None:
    """Another host may be anybody's, and its 200 would count as told."""
    wire.post(AT_ONE, status=307, headers={"Location": AT_TWO})
    wire.post(AT_TWO)
    open_breaker(store)
    process = watch_with(ONE)
    for _ in range(2):
        watched(process, LEASE)
    assert [call.request.url for call in wire.calls] == [AT_ONE] * 2


def test_what_grows_again_after_it_had_become_less_is_told_again(
    watch_with: Callable[..., Teller], watched: Look, store: Database, wire: responses.RequestsMock
) -> None:
    wire.post(AT_ONE)
    process = watch_with(ONE)

    def need_a_person(number: int) -> None:
        with store.transaction() as transaction:
            transaction.execute(sa.update(packages).values(state="shipped"))
            some = sa.update(packages).where(packages.c.package_id <= number)
            transaction.execute(some.values(state="needs_attention"))

    with store.transaction() as transaction:
        for package_id in range(1, 11):
            worklist.hint(transaction, package_id, "webhook")
        transaction.execute(sa.update(packages).values(due_at=None))
    for number in (10, 2, 8):
        need_a_person(number)
        watched(process, QUIET)
    assert told(wire) == [f"Autoship: {ALERTS['needs_attention'].title}"] * 2


def test_what_is_over_and_begins_anew_within_the_quiet_time_is_told_once_that_has_passed(
    watch_with: Callable[..., Teller], watched: Look, store: Database, wire: responses.RequestsMock
) -> None:
    """Else who has dealt with the one package hears of the next a day later."""
    wire.post(AT_ONE)
    process = watch_with(ONE)

    def need_a_person(package_id: int) -> None:
        with store.transaction() as transaction:
            worklist.hint(transaction, package_id, "webhook")
            transaction.execute(sa.update(packages).values(state="needs_attention", due_at=None))

    need_a_person(73)
    watched(process, SECOND)
    operator.dismiss(store, 73)
    watched(process, MINUTE)
    need_a_person(74)
    with store.transaction() as transaction:
        transaction.execute(sa.update(packages).where(packages.c.package_id == 73).values(state="skipped"))
    watched(process, MINUTE)
    assert len(told(wire)) == 1
    for _ in range(2):
        watched(process, QUIET)
    assert told(wire) == [f"Autoship: {ALERTS['needs_attention'].title}"] * 2


def test_a_process_that_just_started_says_of_the_workers_neither_that_they_are_silent_nor_that_they_are_not(
    watch_with: Callable[..., Teller], clock: Clock, wire: responses.RequestsMock
) -> None:
    wire.post(AT_ONE)
    silent = [f"Autoship: {ALERTS['worker_silent'].title}"]

    def process(silence: str | None) -> Teller:
        return watch_with(ONE, monotonic=lambda: clock.now.timestamp(), silence=lambda: silence)

    first = process("no worker was seen for a minute")
    clock.turn(89 * SECOND)
    first.look()
    assert told(wire) == []
    clock.turn(SECOND)
    first.look()
    assert told(wire) == silent
    clock.turn(QUIET)
    restarted = process(None)
    restarted.look()
    first.look()
    assert told(wire) == silent
    clock.turn(90 * SECOND)
    restarted.look()
    assert told(wire) == [*silent, f"Autoship, over: {ALERTS['worker_silent'].title}"]


def test_a_process_that_notices_some_seconds_later_that_workers_are_silent_has_nobody_told_again(
    watch_with: Callable[..., Teller], clock: Clock, wire: responses.RequestsMock
) -> None:
    wire.post(AT_ONE)
    begins, silent = iter((0.0, 0.0)), [True, False]
    first, second = (
        watch_with(
            ONE, monotonic=lambda: next(begins, 3600.0), silence=lambda n=n: "no worker was seen" if silent[n] else None
        )
        for n in (0, 1)
    )
    first.look()
    clock.turn(20 * SECOND)
    second.look()
    silent[1] = True
    clock.turn(QUIET)
    second.look()
    assert told(wire) == [f"Autoship: {ALERTS['worker_silent'].title}"]
    silent[:] = [False, False]
    second.look()
    assert len(told(wire)) == 2


def test_a_worker_that_died_before_the_clock_was_set_back_is_told_of_all_the_same(
    watch_with: Callable[..., Teller], store: Database, clock: Clock, wire: responses.RequestsMock
) -> None:
    wire.post(AT_ONE)
    beat(store, clock.now + timedelta(hours=2))
    seconds = iter(range(0, 1000, 10))
    over_workers = watch.Watch(store, 10, lambda: next(seconds))
    waits = iter([False] * 7 + [True])
    over_workers.run(lambda seconds: next(waits))
    process_of_an_hour = watch_with(ONE, silence=lambda: over_workers.cause, monotonic=iter((0.0, 3600.0)).__next__)
    process_of_an_hour.look()
    assert told(wire) == [f"Autoship: {ALERTS['worker_silent'].title}"]


def test_a_clock_that_is_set_back_silences_nothing(
    watch_with: Callable[..., Teller], watched: Look, store: Database, wire: responses.RequestsMock
) -> None:
    wire.post(AT_ONE)
    open_breaker(store)
    process = watch_with(ONE)
    watched(process, SECOND)
    operator.resume(store)
    watched(process, -timedelta(days=1))
    assert told(wire) == [BEGAN, IS_OVER]


def test_processes_that_look_at_the_same_moment_tell_it_once(
    watch_with: Callable[..., Teller], watched: Look, store: Database, wire: responses.RequestsMock
) -> None:
    wire.post(AT_ONE)
    processes = [watch_with(ONE) for _ in range(4)]
    watched(processes[0], SECOND)
    open_breaker(store)
    together = threading.Barrier(4)

    def look(process: Teller) -> None:
        together.wait(10)
        process.look()

    threads = [threading.Thread(target=look, args=(process,)) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told(wire) == [BEGAN]


def test_what_no_target_took_is_sent_again_and_one_target_is_enough(
    watch_with: Callable[..., Teller], watched: Look, store: Database, wire: responses.RequestsMock,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    refusing, taking = wire.post(AT_ONE, status=500, body="canary"), wire.post(AT_TWO, status=503)
    process = watch_with(ONE, TWO)
    watched(process, SECOND)
    open_breaker(store)
    watched(process, SECOND)
    watched(process, LEASE - SECOND)
    assert (refusing.call_count, taking.call_count) == (1, 1)
    wire.replace(responses.POST, AT_TWO, status=200)
    watched(process, SECOND)
    watched(process, LEASE)
    assert (refusing.call_count, len(wire.calls)) == (2, 4)
    logged = [record for record in caplog.records if record.name == "autoship"]
    assert [record.getMessage() for record in logged].count("alert.failed") == 3
    assert "canary" not in str([record.__dict__ for record in logged])


def test_a_target_that_hangs_delays_no_other_and_is_given_one_thread_only(
    watch_with: Callable[..., Teller], watched: Look, store: Database, wire: responses.RequestsMock,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    release, hanging = threading.Event(), list[str]()

    def hang(request: PreparedRequest) -> tuple[int, dict[str, str], str]:
        hanging.append(threading.current_thread().name)
        release.wait(60)
        return 200, {}, ""

    wire.add_callback(responses.POST, AT_ONE, callback=hang)
    taking = wire.post(AT_TWO)
    process = watch_with(ONE, TWO, send_within_s=0.5)
    watched(process, SECOND)
    open_breaker(store)
    watched(process, SECOND)
    operator.resume(store)
    watched(process, QUIET)
    assert (len(hanging), taking.call_count) == (1, 2)
    causes = [record.__dict__["fields"]["cause"] for record in caplog.records if "alert.failed" in record.getMessage()]
    assert causes == ["too slow", "still busy with the last one"]
    release.set()
    wait_until(lambda: all(thread.name != "alert" for thread in threading.enumerate()))


@pytest.mark.parametrize("command", ["up", "web", "worker", "migrate", "config", "packages", "doctor"])
def test_what_apprise_cannot_send_to_is_refused_at_the_start_and_not_quoted(tmp_path: Path, command: str) -> None:
    ended = commands.autoship(command, cwd=tmp_path, **MINIMAL, ALERT_URLS=f"{ONE} canary://canary", PORT="x")
    told = ended.out + ended.err
    assert ended.code == (1 if command == "doctor" else 2)
    assert "ALERT_URLS: Apprise cannot send to entry 2;" in told
    assert "PORT: must be" in told
    assert "canary" not in told
    assert list(tmp_path.iterdir()) == []


def test_apprise_which_is_slow_is_imported_only_where_somebody_is_to_be_told() -> None:
    loaded = "import sys, service.cli, service.notices; sys.exit('apprise' in sys.modules)"
    subprocess.run([sys.executable, "-c", loaded], check=True)


@on_sqlite
def test_the_web_process_tells_a_real_target(database: Database, database_url: str, tmp_path: Path) -> None:
    with database.transaction() as transaction:
        worklist.put_in_backlog(transaction, 73)
        transaction.execute(sa.update(packages).values(number="canary"))
    variables = {**MINIMAL, "DATABASE_URL": database_url}
    with recording() as target:
        url = target.url.replace("http://", "json://user:canary@") + "/canary"
        with web_process({**variables, "ALERT_URLS": url}, tmp_path):
            wait_until(lambda: target.heard)
    bodies = [body.decode() for _, body in target.heard]
    assert json.loads(bodies[0])["title"] == f"Autoship: {ALERTS['backlog'].title}"
    assert "canary" not in "".join([*bodies, *(path.read_text() for path in tmp_path.glob("web.*"))])


def test_a_sandbox_alerts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    up.SANDBOX_FILE.parent.mkdir()
    up.SANDBOX_FILE.write_text('{"PORT": "1"}', encoding="utf-8")
    assert up.sandbox_environment({"ADMIN_TOKEN": "x"}) == {"ADMIN_TOKEN": "x", "PORT": "1"}
    assert up.not_of_a_sandbox({"ADMIN_TOKEN": "x", "OMS_TOKEN": "", "ALERT_URLS": ONE}) == "ALERT_URLS"
