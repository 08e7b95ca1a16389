"""Pruning: what is old goes, what decisions rest on stays, and nothing is commanded because of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from service import inbox, journal, retention, worklist
from service.case import Note, Resolution
from service.database import Database, attempts, deliveries, packages, quarantine, timeline
from service.delivery import Delivery, Unusable
from service.wire import StateValue
from tests.integration.conftest import Clock, Floor
from tests.oms_faults import FaultyOms, answers, applied_then, resets, words

KEEP = timedelta(days=90)
DAY = timedelta(days=1)


def prune(store: Database) -> dict[str, int]:
    return dict(retention.prune(store, KEEP, lambda seconds: False))


def count(store: Database, table: sa.Table) -> int:
    with store.reading() as transaction:
        return int(transaction.execute(sa.select(sa.func.count()).select_from(table)).scalar_one())


def announce(floor: Floor, package_id: int) -> None:
    packed = Delivery(package_id, f"{package_id:032x}", "package.status.packed", StateValue("PackageStatus", "500"), 0)
    inbox.accept(floor.store, packed, floor.config.settings)


def test_what_is_older_than_it_is_kept_goes_over_as_many_pages_as_it_takes_and_what_is_repeated_stays(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PAGE", 2)
    for package_id in range(1, 8):
        announce(floor, package_id)
        with floor.store.transaction() as transaction:
            journal.note(transaction, package_id, [Note("test", "x")])
        floor.clock.turn(DAY)
    floor.clock.turn(KEEP - 2 * DAY - DAY / 2)  # five of them are older
    announce(floor, 1)
    assert prune(floor.store) == {"quarantine": 0, "deliveries": 4, "timeline": 5, "attempts": 0}
    with floor.store.reading() as transaction:
        assert set(transaction.execute(sa.select(deliveries.c.package_id)).scalars()) == {1, 6, 7}
    assert (count(floor.store, timeline), count(floor.store, packages)) == (2, 7)


def test_a_quarantined_body_goes_after_14_days_and_its_delivery_after_90(store: Database, clock: Clock) -> None:
    for _ in range(3):
        inbox.put_aside(store, Unusable("too_deep"), b"[[")
        clock.turn(10 * DAY)
    assert prune(store) == {"quarantine": 1, "deliveries": 0, "timeline": 0, "attempts": 0}
    assert count(store, quarantine) == 1
    clock.turn(KEEP)
    assert prune(store) == {"quarantine": 1, "deliveries": 3, "timeline": 0, "attempts": 0}


@pytest.mark.parametrize(
    ("state", "resolutions", "kept"),
    [
        ("shipped", [Resolution.NOT_APPLIED, Resolution.NOT_APPLIED, Resolution.APPLIED], 1),
        ("shipped", [Resolution.NOT_APPLIED, None], 1),
        ("shipped", [None, Resolution.APPLIED], 2),
        ("needs_attention", [Resolution.NOT_APPLIED, Resolution.NOT_APPLIED], 2),
    ],
)
def test_attempts_of_closed_cases_go_but_for_the_last_of_an_episode_and_open_ones(
    store: Database, clock: Clock, state: str, resolutions: list[Resolution | None], kept: int
) -> None:
    with store.transaction() as transaction:
        worklist.hint(transaction, 73, "webhook")
        transaction.execute(sa.update(packages).values(state=state))
        for episode in (1, 2):
            for resolution in resolutions:
                row = {"package_id": 73, "episode": episode, "fence": 1, "resolution": resolution}
                settled_at = clock.now if resolution else None
                times = {"started_at": clock.now, "deadline_at": clock.now, "resolved_at": settled_at}
                transaction.execute(sa.insert(attempts).values(row | times))
    clock.turn(KEEP + DAY)
    assert prune(store)["attempts"] == 2 * (len(resolutions) - kept)
    assert count(store, attempts) == 2 * kept


def test_pruning_may_cause_a_look_and_never_a_command(floor_with: Callable[..., Floor]) -> None:
    # No transition log: it alone could prove a new stay in Packed.
    floor = floor_with(COMMAND_MAX_ATTEMPTS="3", oms=FaultyOms(inline_items=True))
    floor.oms.always("log", answers(403))
    faults = {
        1: [],
        2: [words(400, "x")],
        3: [words(400, "x")] * 3,
        4: [answers(204)],
        5: [applied_then(resets)],
        6: [answers(503), applied_then(answers(502))],
    }
    for package_id, script in faults.items():
        floor.oms.create(package_id)
        floor.oms.pack(package_id)
        floor.oms.script("command", *script)
        announce(floor, package_id)
        floor.run(package_id)
    stood = {package_id: floor.where(package_id) for package_id in faults}
    assert {state for state, _ in stood.values()} == {"shipped", "needs_attention"}
    before = {package_id: floor.oms.commands_for(package_id) for package_id in faults}
    reads = sum(one.operation == "read" for one in floor.oms.received)
    floor.clock.turn(4 * KEEP)
    gone = prune(floor.store)
    assert gone["deliveries"] == len(faults)
    assert gone["attempts"] > 0
    for package_id in faults:
        announce(floor, package_id)
        floor.run(package_id)
    assert sum(one.operation == "read" for one in floor.oms.received) > reads
    assert {package_id: floor.oms.commands_for(package_id) for package_id in faults} == before
    assert {package_id: floor.where(package_id) for package_id in faults} == stood


def test_pruning_stops_between_two_pages_when_told_to(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PAGE", 2)
    for package_id in range(1, 6):
        announce(floor, package_id)
    floor.clock.turn(KEEP + DAY)
    pauses = iter([False, True])  # after the quarantine, then after the first page of deliveries
    retention.prune(floor.store, KEEP, lambda seconds: next(pauses))
    assert count(floor.store, deliveries) == 3
