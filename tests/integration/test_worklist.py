"""Claims, leases, fences and hints on a real database under a clock the tests turn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from service import brakes, journal, worklist
from service.brakes import Operation
from service.case import Case, CaseState, Reason
from service.database import Database, login, sweep
from service.database import brakes as brakes_table
from service.outcome import (
    Ambiguous,
    Command,
    CommandAnswer,
    NotFound,
    NotSent,
    ReadFailed,
    Reading,
    Throttled,
    Unauthorised,
)
from service.worklist import Claim
from tests.conftest import on_postgresql
from tests.integration.conftest import Clock, beat
from tests.processes import wait_until

LEASE = timedelta(seconds=60)
SECOND = timedelta(seconds=1)


def hint(store: Database, *package_ids: int) -> None:
    for package_id in package_ids:
        with store.transaction() as transaction:
            worklist.hint(transaction, package_id, "webhook")


def claim(store: Database, most: int = 8, relooks: int = 4, rate: float = 0) -> dict[int, Claim]:
    claimed = worklist.claim(store, most, relooks, LEASE, rate)
    return {one.case.package_id: one for one in claimed}


def release(store: Database, claimed: Claim, next_look_at: datetime | None) -> bool:
    with store.transaction() as transaction:
        return worklist.release(transaction, claimed, claimed.case, next_look_at)


def due_at(store: Database, package_id: int) -> datetime | None:
    with store.reading() as transaction:
        row = worklist.find(transaction, package_id)
    assert row is not None
    due: datetime | None = row["due_at"]
    return due


def test_a_thousand_hints_for_one_package_are_one_piece_of_work(store: Database) -> None:
    hint(store, *[73] * 1000)
    assert list(claim(store)) == [73]
    assert claim(store) == {}


def test_a_claimed_package_is_nobody_elses_until_the_lease_runs_out(store: Database, clock: Clock) -> None:
    hint(store, 73)
    first = claim(store)[73]
    clock.turn(LEASE - SECOND)
    assert claim(store) == {}
    clock.turn(SECOND)
    second = claim(store)[73]
    assert second.fence == first.fence + 1


def test_a_holder_whose_lease_was_taken_over_writes_nothing(store: Database, clock: Clock) -> None:
    hint(store, 73)
    zombie = claim(store)[73]
    clock.turn(LEASE)
    heir = claim(store)[73]
    changed = replace(zombie, case=replace(zombie.case, state=CaseState.SHIPPED))
    assert not release(store, changed, None)
    with store.transaction() as transaction:
        assert not worklist.renew(transaction, zombie, zombie.case, LEASE)
    assert release(store, heir, None)
    with store.reading() as transaction:
        assert worklist.find(transaction, 73)["state"] == "waiting"  # type: ignore[index]


def test_a_lease_that_ran_out_cannot_be_renewed_even_by_its_own_holder(store: Database, clock: Clock) -> None:
    hint(store, 73)
    late = claim(store)[73]
    clock.turn(LEASE)
    with store.transaction() as transaction:
        assert not worklist.renew(transaction, late, late.case, LEASE)


def test_a_hint_under_a_lease_is_not_lost(store: Database, clock: Clock) -> None:
    hint(store, 73)
    claimed = claim(store)[73]
    hint(store, 73)
    assert release(store, claimed, clock.now + timedelta(hours=1))
    assert due_at(store, 73) == clock.now + SECOND
    clock.turn(SECOND)
    assert claim(store)[73].hinted


def test_without_a_hint_the_package_is_due_when_its_look_said(store: Database, clock: Clock) -> None:
    hint(store, 73)
    assert release(store, claim(store)[73], clock.now + timedelta(hours=1))
    assert claim(store) == {}
    clock.turn(timedelta(hours=1))
    assert not claim(store)[73].hinted


def test_a_hint_makes_a_package_due_sooner_but_not_within_a_second_of_its_last_look(
    store: Database, clock: Clock
) -> None:
    hint(store, 73)
    claimed = claim(store)[73]
    looked = replace(claimed, case=replace(claimed.case, last_look_at=clock.now))
    assert release(store, looked, clock.now + timedelta(hours=1))
    hint(store, 73)
    assert due_at(store, 73) == clock.now + SECOND
    clock.turn(timedelta(minutes=1))
    hint(store, 73)
    assert due_at(store, 73) == clock.now - timedelta(seconds=59)


def test_hints_never_touch_what_a_command_waits_for_or_a_held_case(store: Database, clock: Clock) -> None:
    hint(store, 73)
    claimed = claim(store)[73]
    held = replace(
        claimed.case,
        state=CaseState.NEEDS_ATTENTION,
        reason=Reason.REFUSED,
        held=True,
        refusals=8,
        command_not_before=clock.now + timedelta(hours=1),
    )
    release(store, replace(claimed, case=held), None)
    hint(store, *[73] * 10)
    with store.reading() as transaction:
        row = worklist.find(transaction, 73)
    assert row is not None
    assert worklist.case_of(row) == held


def test_hinted_packages_come_first_and_re_looks_get_at_most_their_share(store: Database, clock: Clock) -> None:
    hint(store, *range(1, 9))
    for claimed in claim(store).values():
        release(store, claimed, clock.now)
    clock.turn(SECOND)
    hint(store, 101, 102)
    taken = claim(store, most=8, relooks=4)
    assert {101, 102} <= set(taken)
    assert len(taken) == 6


def test_never_more_packages_are_taken_than_asked_for(store: Database) -> None:
    hint(store, *range(1, 9))
    assert len(claim(store, most=3)) == 3


def test_the_rate_holds_over_all_claims_with_a_burst_of_one_second(store: Database, clock: Clock) -> None:
    hint(store, *range(1, 101))
    taken = len(claim(store, most=100, rate=10))
    assert taken == 10
    assert claim(store, most=100, rate=10) == {}
    for _ in range(5):
        clock.turn(SECOND)
        taken += len(claim(store, most=100, rate=10))
    assert taken == 60


def test_a_clock_set_back_by_a_day_does_not_stall_the_rate(store: Database, clock: Clock) -> None:
    hint(store, *range(1, 21))
    claim(store, most=10, rate=10)
    clock.turn(-timedelta(days=1))
    hint(store, *range(31, 41))
    clock.turn(timedelta(seconds=2))
    assert claim(store, most=10, rate=10)


def test_a_clock_set_back_by_a_day_does_not_keep_a_hint_waiting(store: Database, clock: Clock) -> None:
    hint(store, 73)
    claimed = claim(store)[73]
    release(store, replace(claimed, case=replace(claimed.case, last_look_at=clock.now)), None)
    clock.turn(-timedelta(days=1))
    hint(store, 73)
    assert claim(store)[73].hinted


def test_after_a_clock_was_set_back_everything_is_due_as_soon_as_before(store: Database, clock: Clock) -> None:
    hint(store, 73, 74, 75)
    claims = claim(store)
    release(store, claims[73], clock.now + timedelta(hours=1))
    beat(store)
    with store.transaction() as transaction:
        brakes.note_answer(transaction, 75, Operation.READ, Throttled(timedelta(minutes=15)))
        journal.open_attempt(transaction, Case(package_id=74, episode=1), 1, Command(12, None), timedelta(seconds=12))
        assert worklist.follow_clock(transaction) is None
    clock.turn(-timedelta(days=1))
    with store.transaction() as transaction:
        assert worklist.follow_clock(transaction) == timedelta(days=1)
    with store.transaction() as transaction:
        assert worklist.follow_clock(transaction) is None
        [attempt] = journal.attempts_of(transaction, [74])
        assert attempt["deadline_at"] == clock.now + timedelta(seconds=12)
        assert brakes.read(transaction).hold_off_until == clock.now + timedelta(minutes=15)
    assert due_at(store, 73) == clock.now + timedelta(hours=1)
    clock.turn(timedelta(minutes=15))
    assert set(claim(store)) == {74, 75}


def test_after_a_clock_was_set_back_a_login_and_the_count_of_what_was_missed_wait_no_longer_than_before(
    store: Database, clock: Clock
) -> None:
    beat(store)
    with store.transaction() as transaction:
        transaction.execute(sa.update(login).values(leased_until=clock.now + 12 * SECOND))
        transaction.execute(sa.update(sweep).values(missed_until=clock.now))
    clock.turn(-timedelta(days=1))
    with store.transaction() as transaction:
        worklist.follow_clock(transaction)
        leased_until = transaction.execute(sa.select(login.c.leased_until)).scalar()
        missed_until = transaction.execute(sa.select(sweep.c.missed_until)).scalar()
    assert (leased_until, missed_until) == (clock.now + 12 * SECOND, clock.now)


@on_postgresql
def test_a_clock_that_was_set_back_is_followed_however_long_it_takes_to_write_all_times(
    store: Database, database_url: str, clock: Clock
) -> None:
    hint(store, 73)
    beat(store)
    with store.transaction() as transaction:
        slowly = "BEGIN PERFORM pg_sleep(0.6); RETURN NEW; END"
        transaction.execute(sa.text(f"CREATE FUNCTION slow() RETURNS trigger AS $$ {slowly} $$ LANGUAGE plpgsql"))
        many = "BEFORE UPDATE ON packages FOR EACH ROW EXECUTE FUNCTION slow()"
        transaction.execute(sa.text(f"CREATE TRIGGER like_many_rows {many}"))
    clock.turn(-timedelta(days=1))
    impatient = Database(database_url, clock=clock, patience_s=0.5)
    with impatient.transaction() as transaction:
        assert worklist.follow_clock(transaction) == timedelta(days=1)
    impatient.dispose()
    assert due_at(store, 73) == clock.now


@pytest.mark.parametrize("said", [ReadFailed("ReadTimeout"), Ambiguous("ReadTimeout"), NotSent("ConnectTimeout")])
def test_no_answer_closes_no_breaker(store: Database, said: Reading | CommandAnswer) -> None:
    with store.transaction() as transaction:
        brakes.note_answer(transaction, 73, Operation.READ, Unauthorised(401, ""))
        assert brakes.note_answer(transaction, 73, Operation.READ, said) is None
        assert brakes.read(transaction).breaker_opened_at is not None
        assert brakes.note_answer(transaction, 73, Operation.READ, NotFound()) is not None
        assert brakes.read(transaction).breaker_opened_at is None


def test_asking_an_idle_database_for_work_is_one_statement_that_locks_nothing(store: Database) -> None:
    statements: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    with store.reading() as transaction:
        engine = transaction.connection.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    assert claim(store) == {}
    assert [one for one in statements if one != "BEGIN"] == [one for one in statements if one.startswith("SELECT")]
    assert sum(one.startswith("SELECT") for one in statements) == 1


def test_a_second_attempt_of_an_episode_is_not_opened_while_one_is_open(store: Database) -> None:
    case, sending = Case(package_id=73, episode=1), (1, Command(12, None), timedelta(seconds=12))
    with store.transaction() as transaction:
        assert journal.open_attempt(transaction, case, *sending) is not None
        assert journal.open_attempt(transaction, case, *sending) is None
        assert journal.open_attempt(transaction, replace(case, episode=2), *sending) is not None


def test_behind_an_open_breaker_one_probe_at_a_time_is_admitted(store: Database, clock: Clock) -> None:
    with store.transaction() as transaction:
        said = brakes.note_answer(transaction, 73, Operation.READ, Unauthorised(401, ""))
    assert said is not None
    hint(store, 73, 74, 75)
    assert claim(store) == {}
    clock.turn(brakes.PROBE_INTERVAL)
    [probe] = claim(store)
    assert claim(store) == {}
    with store.transaction() as transaction:
        found = brakes.read(transaction)
        assert found.against_command(probe, clock.now) is None
        assert found.against_command(999, clock.now) is not None
        assert brakes.note_answer(transaction, probe, Operation.COMMAND, Unauthorised(403, "")) is None
    with store.reading() as transaction:
        assert brakes.read(transaction).breaker_opened_at is not None


def test_a_learned_shipped_value_needs_three_packages(store: Database) -> None:
    for package_id in (1, 1, 2):
        with store.transaction() as transaction:
            journal.learn_shipped(transaction, package_id, "737")
    with store.reading() as transaction:
        assert journal.shipped_values_learned(transaction) == frozenset()
    with store.transaction() as transaction:
        journal.learn_shipped(transaction, 3, "737")
    with store.reading() as transaction:
        assert journal.shipped_values_learned(transaction) == {"737"}


@on_postgresql
def test_a_zombie_and_its_heir_may_learn_from_one_package_at_the_same_moment(store: Database) -> None:
    def learn() -> None:
        with store.transaction() as transaction:
            journal.learn_shipped(transaction, 73, "737")

    def waits() -> bool:
        query = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        with store.reading() as transaction:
            return bool(transaction.execute(query).scalar_one() == 1)

    with ThreadPoolExecutor() as pool:
        with store.transaction() as transaction:
            journal.learn_shipped(transaction, 73, "737")
            heir = pool.submit(learn)
            wait_until(waits)
        heir.result(timeout=30)


@pytest.mark.parametrize(("ahead_s", "taken"), [(899, 0), (900, 0), (901, 1)])
def test_a_retry_after_that_is_further_ahead_than_any_is_one_of_a_clock_before(
    store: Database, clock: Clock, ahead_s: int, taken: int
) -> None:
    hint(store, 73)
    with store.transaction() as transaction:
        transaction.execute(sa.update(brakes_table).values(hold_off_until=clock.now + timedelta(seconds=ahead_s)))
    assert len(claim(store)) == taken
    with store.transaction() as transaction:
        brakes.note_answer(transaction, 73, Operation.READ, Throttled(timedelta(seconds=60)))
        expected = max(ahead_s if ahead_s <= 900 else 0, 60)
        assert brakes.read(transaction).hold_off_until == clock.now + timedelta(seconds=expected)


def test_a_persons_pause_takes_the_place_of_ours_and_not_the_other_way_round(store: Database) -> None:
    def pause(cause: str) -> tuple[bool, str | None]:
        with store.transaction() as transaction:
            return brakes.pause(transaction, cause), brakes.read(transaction).pause_cause

    assert pause("the cap") == (True, "the cap")
    assert pause("by Ayşe: recall") == (True, "by Ayşe: recall")
    assert pause("by Mehmet") == (False, "by Ayşe: recall")
    assert pause("the cap") == (False, "by Ayşe: recall")
