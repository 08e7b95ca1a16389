"""Many workers and web processes at once on one database: threads over two handles, which share nothing else."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from service import brakes, inbox, journal, operator, worklist
from service.brakes import Operation
from service.case import Outcome, Reason
from service.config import Config
from service.database import Database, deliveries, packages
from service.delivery import Delivery
from service.outcome import Accepted, Command, Unauthorised
from service.wire import StateValue
from service.worklist import Claim
from tests.conftest import MINIMAL, on_postgresql
from tests.integration.conftest import Clock
from tests.integration.test_worklist import LEASE, SECOND, hint
from tests.processes import wait_until

AT_ONCE = 8
T = TypeVar("T")


# A deadlock is found within a second; a busy machine may take its time.
PATIENT_S = 60


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[Database]:
    """A migrated, empty database as one process has it."""
    store = Database(database_url, clock=clock, patience_s=PATIENT_S)
    store.migrate(MINIMAL["OMS_BASE_URL"])
    yield store
    store.dispose()


@pytest.fixture
def other(database_url: str, clock: Clock) -> Iterator[Database]:
    """The same database as another process has it."""
    other = Database(database_url, clock=clock, patience_s=PATIENT_S)
    yield other
    other.dispose()


def at_once(work: Callable[[int], T]) -> list[T]:
    """What `work` gives in each of several threads that begin together; raises what any of them raised."""
    start = threading.Barrier(AT_ONCE)

    def begin(number: int) -> T:
        start.wait(10)
        return work(number)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(begin, range(AT_ONCE)))


def test_no_package_is_claimed_twice_and_none_is_left(store: Database, other: Database) -> None:
    hint(store, *range(1, 101))

    def claim_all(number: int) -> list[int]:
        taken: list[int] = []
        while claims := worklist.claim((store, other)[number % 2], 3, 3, LEASE, 0):
            taken += [one.case.package_id for one in claims]
        return taken

    taken = Counter(package_id for one in at_once(claim_all) for package_id in one)
    assert taken == dict.fromkeys(range(1, 101), 1)


def test_no_hint_is_lost_between_claims_and_releases(store: Database, other: Database, clock: Clock) -> None:
    hinted: list[int] = []
    seen: list[int] = []

    def hint_or_look(number: int) -> None:
        database = (store, other)[number % 2]
        if number < AT_ONCE // 2:
            hint(database, *[73] * 10)
            hinted.append(number)
            return
        while len(hinted) < AT_ONCE // 2:
            look(database)
            clock.turn(SECOND)

    def look(database: Database) -> bool:
        # Whoever finds nothing turns the clock on, thousands of times while a holder waits for the lock.
        claims = worklist.claim(database, 1, 1, timedelta(days=365), 0)
        for claimed in claims:
            seen.append(claimed.hint_seq)
            with database.transaction() as transaction:
                assert worklist.release(transaction, claimed, claimed.case, None)
        return bool(claims)

    at_once(hint_or_look)
    clock.turn(SECOND)
    while look(store):
        clock.turn(SECOND)
    assert max(seen) == AT_ONCE // 2 * 10


def test_the_rate_holds_over_processes_that_claim_at_once(database: Database, database_url: str) -> None:
    hint(database, *range(1, 101))
    began, until = time.monotonic(), time.monotonic() + 1

    def claim_for_a_second(number: int) -> int:
        mine, taken = Database(database_url, patience_s=PATIENT_S), 0
        while time.monotonic() < until:
            taken += len(worklist.claim(mine, 5, 5, LEASE, 20))
        mine.dispose()
        return taken

    taken = sum(at_once(claim_for_a_second))
    assert 20 <= taken <= 20 + (time.monotonic() - began) * 20


def test_behind_an_open_breaker_one_process_gets_one_probe(store: Database, other: Database, clock: Clock) -> None:
    with store.transaction() as transaction:
        brakes.note_answer(transaction, 73, Operation.READ, Unauthorised(401, ""))
    hint(store, *range(1, 21))
    clock.turn(brakes.PROBE_INTERVAL)
    claims = at_once(lambda number: worklist.claim((store, other)[number % 2], 5, 5, LEASE, 0))
    assert sum(map(len, claims)) == 1


def test_refusals_of_different_packages_at_the_same_time_all_count(store: Database, other: Database) -> None:
    def refused(number: int) -> str | None:
        with (store, other)[number % 2].transaction() as transaction:
            return brakes.note_answer(transaction, number, Operation.COMMAND, Unauthorised(403, ""))

    said = at_once(refused)
    with store.reading() as transaction:
        found = brakes.read(transaction)
    assert found.breaker_opened_at is not None
    assert len(set(found.forbidden)) == brakes.FORBIDDEN_IN_A_ROW
    assert len([one for one in said if one]) == 1


def test_one_event_delivered_several_times_at_once_is_one_row(
    store: Database, other: Database, configured: Callable[..., Config]
) -> None:
    settings, packed = configured().settings, StateValue("PackageStatus", "500")

    def accept(number: int) -> str:
        delivery = Delivery(
            event_uuid="c9591f0d1c1d4da58ade880921bd7e93",
            event_type="package.status.packed",
            secret_index=0,
            package_id=73,
            state=packed,
        )
        return inbox.accept((store, other)[number % 2], delivery, settings).status

    assert Counter(at_once(accept)) == {"accepted": 1, "duplicate": AT_ONCE - 1}
    with store.reading() as transaction:
        assert transaction.execute(sa.select(deliveries.c.seen)).scalars().all() == [AT_ONCE]
        assert transaction.execute(sa.select(packages.c.hint_seq)).scalars().all() == [AT_ONCE]


def test_nothing_that_locks_waits_for_another_in_a_circle(store: Database, other: Database, clock: Clock) -> None:
    """Hints, claims, looks, operators and zombies on the same few packages: a deadlock would raise."""
    package_ids = range(1, 9)
    hint(store, *package_ids)

    def look(database: Database, round_: int) -> None:
        for claimed in worklist.claim(database, 4, 4, timedelta(0), 0):  # a lease of 0: many holders of each
            with database.transaction() as transaction:
                answer = Unauthorised(403, "") if round_ % 2 else Accepted(204)
                brakes.note_answer(transaction, claimed.case.package_id, Operation.COMMAND, answer)
                brakes.read(transaction, lock=True)
                worklist.release(transaction, claimed, claimed.case, clock.now)

    def interfere(database: Database, round_: int) -> None:
        package_id = round_ % len(package_ids) + 1
        with database.transaction() as transaction:
            worklist.recheck(transaction, package_id)
        hint(database, *package_ids)
        operator.resume(database)

    with store.transaction() as transaction:
        transaction.execute(sa.update(packages).values(reason=Reason.BRAKE))
    at_once(lambda n: [(look, interfere)[n % 2]((store, other)[n // 2 % 2], round_) for round_ in range(15)])


@on_postgresql
def test_a_resume_writes_few_of_many_packages_at_a_time_and_makes_all_due(store: Database, clock: Clock) -> None:
    package_ids = range(1, 1202)
    with store.transaction() as transaction:
        for package_id in package_ids:
            worklist.hint(transaction, package_id, "webhook")
        paused = sa.update(packages).values(reason=Reason.BRAKE, due_at=clock.now + timedelta(minutes=15))
        transaction.execute(paused)
        assert brakes.pause(transaction, "by an operator")
        engine = transaction.connection.engine
    written: list[int] = []

    def count(connection: object, cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE packages"):
            # A statement has 3 s: too little for tens of thousands of rows.
            written.append(cursor.rowcount)

    sa.event.listen(engine, "after_cursor_execute", count)
    assert operator.resume(store).done
    sa.event.remove(engine, "after_cursor_execute", count)
    assert max(written) <= 500
    assert len(worklist.claim(store, 2000, 2000, LEASE, 0)) == len(package_ids)


def somebody_waits_for_a_lock(database: Database) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with database.reading() as transaction:  # of its own: what it shows stays the same within one
        return bool(transaction.execute(sa.text(waiting)).scalar())


@on_postgresql
def test_a_recheck_locks_the_package_before_its_attempts_as_a_look_does(store: Database, other: Database) -> None:
    """Else each waits for what the other has, and the server ends one of them."""
    hint(store, 73)
    [claimed] = worklist.claim(store, 1, 1, LEASE, 0)
    with store.transaction() as transaction:
        case = replace(claimed.case, episode=1, reason=Reason.ACCEPTED_BUT_STILL_PACKED)
        attempt = journal.open_attempt(transaction, case, claimed.fence, Command(12, None), LEASE)
        assert attempt is not None
        answered = replace(attempt, outcome=Outcome.ACCEPTED)
        journal.record_answer(transaction, answered, Accepted(204))
        worklist.renew(transaction, claimed, case, LEASE)
    with ThreadPoolExecutor(1) as threads:
        with store.transaction() as transaction:
            assert worklist.release(transaction, claimed, case, None)
            rechecked = threads.submit(operator.recheck, other, 73)
            wait_until(lambda: somebody_waits_for_a_lock(store))
            assert journal.record_read_back(transaction, answered, None)
        assert rechecked.result().done


def test_more_threads_than_connections_all_get_their_turn(store: Database) -> None:
    with ThreadPoolExecutor(64) as threads:
        list(threads.map(lambda package_id: hint(store, package_id), range(1, 129)))
    with store.reading() as transaction:
        assert transaction.execute(sa.select(sa.func.count()).select_from(packages)).scalar() == 128


def test_a_row_this_version_cannot_read_does_not_hold_up_the_others(store: Database, clock: Clock) -> None:
    hint(store, 73, 74)
    with store.transaction() as transaction:
        transaction.execute(sa.update(packages).where(packages.c.package_id == 73).values(state="of_the_future"))
    assert claimed_ids(worklist.claim(store, 8, 4, LEASE, 0)) == [74]


def claimed_ids(claims: tuple[Claim, ...]) -> list[int]:
    return [one.case.package_id for one in claims]
