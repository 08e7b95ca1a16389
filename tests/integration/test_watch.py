"""The watch: when a dead worker, or one that does not keep up, is told of; and that the web process keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from service import operator, vitals
from service.brakes import TOKEN_REJECTED, Operation, note_answer
from service.database import Database, brakes
from service.operator import Word
from service.outcome import Unauthorised
from service.watch import Signs, Watch
from tests.conftest import MINIMAL
from tests.integration.conftest import Clock, beat
from tests.integration.test_worklist import hint
from tests.processes import free_port, wait_until
from tests.reliability.fleet import Member, end

BEAT_1, BEAT_2 = (frozenset({("w", Clock().now + timedelta(seconds=n))}) for n in (1, 2))
RATE_PER_S = 2
ON_TIME, LATE = timedelta(0), timedelta(minutes=4)
DEAD, BEHIND = "no worker was seen for a minute", "the oldest due package is 5 minutes late"


@pytest.mark.parametrize(
    ("signs", "cause"),
    [
        ([(0, BEAT_1, ON_TIME), (59, BEAT_1, ON_TIME)], None),
        ([(0, BEAT_1, ON_TIME), (60, BEAT_1, ON_TIME)], DEAD),
        ([(0, BEAT_1, ON_TIME), (60, BEAT_2, ON_TIME)], None),
        ([(0, BEAT_2, ON_TIME), (60, BEAT_1, ON_TIME)], None),
        ([(59, frozenset(), ON_TIME)], None),
        ([(60, frozenset(), ON_TIME)], DEAD),
        ([(0, BEAT_1, LATE), (59, BEAT_2, LATE)], None),
        ([(0, BEAT_1, LATE), (60, BEAT_2, LATE)], BEHIND),
        ([(0, BEAT_1, LATE), (30, BEAT_2, LATE - timedelta(seconds=1)), (60, BEAT_1, LATE)], None),
        ([(0, BEAT_1, LATE), (60, BEAT_1, LATE)], DEAD),
    ],
)
def test_silence_is_a_minute_without_a_changed_heartbeat_or_with_something_late(
    signs: list[tuple[float, frozenset[tuple[str, datetime]], timedelta]], cause: str | None
) -> None:
    seconds = iter((0.0, *(now_s for now_s, _, _ in signs)))
    watched = Watch(Database("sqlite:///never-opened.db"), RATE_PER_S, lambda: next(seconds))
    for _, heartbeats, late_by in signs:
        watched.see(Signs(heartbeats, late_by))
    assert watched.cause == cause


class Minutes:
    """Monotonic time that passes while the watch waits; `happens` is done at its second."""

    def __init__(self, until_s: float, happens: Mapping[float, Callable[[], object]]) -> None:
        self._now_s = 0.0
        self._until_s = until_s
        self._happens = happens

    def monotonic(self) -> float:
        return self._now_s

    def wait(self, seconds: float) -> bool:
        self._now_s += seconds
        self._happens.get(self._now_s, lambda: None)()
        return self._now_s > self._until_s


def beat_later(store: Database, clock: Clock) -> None:
    clock.turn(timedelta(seconds=10))
    beat(store)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str | None]]:
    said = [one for one in caplog.records if one.getMessage().startswith("worker.")]
    return [(one.getMessage(), one.__dict__["fields"].get("cause")) for one in said]


def test_a_worker_that_died_is_told_of_once_and_its_return_once(
    store: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "autoship")
    beat(store, worker="long dead, and ahead of a clock that was set back")
    clock.turn(-timedelta(hours=2))

    beats = dict.fromkeys((10.0, 20.0, 30.0, 200.0, 210.0), partial(beat_later, store, clock))
    minutes = Minutes(220, beats)
    Watch(store, RATE_PER_S, minutes.monotonic).run(minutes.wait)
    assert told(caplog) == [("worker.silent", DEAD), ("worker.seen", None)]


def test_a_package_that_is_late_is_told_of_and_that_its_worker_dies_too(
    store: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "autoship")
    hint(store, 73)
    clock.turn(timedelta(minutes=10))

    minutes = Minutes(200, {10.0 * n: partial(beat_later, store, clock) for n in range(1, 11)})
    Watch(store, RATE_PER_S, minutes.monotonic).run(minutes.wait)
    assert told(caplog) == [("worker.silent", BEHIND), ("worker.silent", DEAD)]


@pytest.mark.parametrize(
    ("brake", "heard", "said"),
    [
        ({"paused_at": Clock().now}, True, []),
        ({"breaker_opened_at": Clock().now}, True, []),
        ({"hold_off_until": Clock().now + timedelta(minutes=30)}, True, []),
        ({"next_slot_at": Clock().now + timedelta(hours=1)}, True, []),
        ({"next_slot_at": Clock().now + timedelta(minutes=20, seconds=100.55)}, True, []),
        ({"next_slot_at": Clock().now + timedelta(minutes=20, seconds=0.45)}, True, [("worker.silent", BEHIND)]),
        ({"hold_off_until": Clock().now, "next_slot_at": Clock().now}, True, [("worker.silent", BEHIND)]),
        ({"paused_at": Clock().now}, False, [("worker.silent", DEAD)]),
    ],
    ids=[
        "pause",
        "breaker",
        "Retry-After",
        "rate",
        "rate used up",
        "a share of the rate left",
        "brakes of the past",
        "no heartbeat",
    ],
)
def test_what_waits_behind_a_brake_is_not_late_but_a_worker_is_still_expected_to_live(
    store: Database,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    brake: Mapping[str, datetime],
    heard: bool,
    said: list[tuple[str, str]],
) -> None:
    caplog.set_level("INFO", "autoship")
    hint(store, 73)
    with store.transaction() as transaction:
        transaction.execute(sa.update(brakes).values(brake))
    clock.turn(timedelta(minutes=20))

    beats = {10.0 * n: partial(beat_later, store, clock) for n in range(1, 11)} if heard else {}
    minutes = Minutes(100, beats)
    Watch(store, RATE_PER_S, minutes.monotonic).run(minutes.wait)
    assert told(caplog) == said


def test_what_waits_for_its_share_of_the_rate_for_half_an_hour_is_late(
    store: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing else tells of a rate that is too low for what comes."""
    caplog.set_level("INFO", "autoship")
    hint(store, 73)
    with store.transaction() as transaction:
        transaction.execute(sa.update(brakes).values(next_slot_at=clock.now + timedelta(hours=1)))
    clock.turn(timedelta(minutes=29))
    assert vitals.read(store, RATE_PER_S).held_up
    beats = {10.0 * n: partial(beat_later, store, clock) for n in range(1, 15)}
    minutes = Minutes(140, beats)
    Watch(store, RATE_PER_S, minutes.monotonic).run(minutes.wait)
    assert told(caplog) == [("worker.silent", BEHIND)]
    assert not vitals.read(store, RATE_PER_S).held_up


def test_a_pause_and_a_resume_at_a_command_line_stand_in_the_log_of_the_web_process(
    store: Database, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "autoship")

    def forbid() -> None:
        with store.transaction() as transaction:
            note_answer(transaction, 73, Operation.READ, Unauthorised(401, ""))

    happens: dict[float, Callable[[], object]] = {
        10.0: lambda: operator.pause(store, Word(by="Ayşe", why="stock count")),
        30.0: lambda: operator.resume(store),
        40.0: forbid,
        50.0: lambda: operator.resume(store),
    }
    minutes = Minutes(59, happens)
    caplog.clear()
    Watch(store, RATE_PER_S, minutes.monotonic).run(minutes.wait)
    said = [one for one in caplog.records if one.getMessage().startswith("commands.")]
    assert [(one.getMessage(), one.__dict__["fields"].get("cause")) for one in said] == [
        ("commands.held", "paused by a person"),
        ("commands.free", None),
        ("commands.held", f"breaker open: {TOKEN_REJECTED}"),
        ("commands.free", None),
    ]


@pytest.mark.parametrize(
    ("gone_at", "said"), [(20.0, []), (100.0, [("worker.silent", DEAD)])], ids=["no silence", "no end"]
)
def test_a_database_that_cannot_be_asked_is_no_silence_and_no_end_of_one(
    store: Database, clock: Clock, caplog: pytest.LogCaptureFixture, gone_at: float, said: list[tuple[str, str]]
) -> None:
    caplog.set_level("INFO", "autoship")
    beat(store)

    def rename(table: str, name: str) -> None:
        with store.transaction() as transaction:
            transaction.execute(sa.text(f"ALTER TABLE {table} RENAME TO {name}"))

    happens = {gone_at: lambda: rename("workers", "gone"), 240.0: lambda: rename("gone", "workers")}
    minutes = Minutes(280, happens)
    Watch(store, RATE_PER_S, minutes.monotonic).run(minutes.wait)
    assert told(caplog) == said


def test_a_look_that_fails_ends_no_watch(store: Database, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """As while a backup is being restored: the tables are there, their rows are not yet."""
    caplog.set_level("INFO", "autoship")
    beat(store)

    def restore(rows: int) -> None:
        with store.transaction() as transaction:
            transaction.execute(sa.delete(brakes))
            if rows:
                transaction.execute(sa.insert(brakes).values(id=1))

    minutes = Minutes(120, {20.0: lambda: restore(0), 30.0: lambda: restore(1)})
    Watch(store, RATE_PER_S, minutes.monotonic).run(minutes.wait)
    assert told(caplog) == [("worker.silent", DEAD)]
    assert [one.getMessage() for one in caplog.records].count("web.crashed") == 1


def test_the_web_process_says_that_no_worker_runs_and_that_one_came(database_url: str, tmp_path: Path) -> None:
    database = Database(database_url)
    database.migrate(MINIMAL["OMS_BASE_URL"])
    database.dispose()
    variables, port = MINIMAL | {"DATABASE_URL": database_url}, free_port()
    hasty = "tests.reliability.hasty"
    members = [Member("web", [hasty, "web"], variables | {"PORT": str(port)}, tmp_path, port)]
    try:
        wait_until(lambda: "worker.silent" in members[0].log)
        members.append(Member("worker", [hasty, "worker"], variables, tmp_path))
        wait_until(lambda: "worker.seen" in members[0].log)
        wait_until(lambda: "database.pruned" in members[1].log)
    finally:
        end(members)
