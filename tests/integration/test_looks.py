"""Looks at packages: what makes one ship, what keeps it from shipping, and what stops the command at the gate."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from service import attend, brakes, inbox, journal, operator, worklist
from service.brakes import Operation
from service.case import Case, Note
from service.delivery import Delivery
from service.oms import FIRST_BYTE_WITHIN_S, Oms
from service.outcome import Command, Throttled, Unauthorised
from service.sandbox import CANCELLED, PACKED, READY, Request, Response
from service.wire import StateValue
from tests.integration.conftest import Floor, ledger, packed
from tests.oms_faults import Fault, FaultyOms, answers, closes, meanwhile, shows

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def deliver(floor: Floor, package_id: int, event: str, state: str, uuid: int | None = None) -> str:
    """An authentic delivery of the package as it was in `state`; what became of it."""
    event_uuid = None if uuid is None else UUID(int=uuid).hex
    delivery = Delivery(package_id, event_uuid, f"package.{event}", StateValue("PackageStatus", state), 0)
    return inbox.accept(floor.store, delivery, floor.config.settings).status


def operations(floor: Floor) -> list[str]:
    return [one.operation for one in floor.oms.received]


def outcomes(floor: Floor, package_id: int = 73) -> list[tuple[str | None, str | None]]:
    return [(attempt["outcome"], attempt["resolution"]) for attempt in floor.told(package_id)["attempts"]]


# One transition, one command.


def test_one_transition_under_a_thousand_uuids_is_one_command(floor: Floor) -> None:
    floor.oms.create(73, [PACKED], state=PACKED)
    for number in range(1000):
        event = "status.packed" if number % 2 else "status.transitioned"
        assert deliver(floor, 73, event, PACKED, number) == "accepted"
        if number % 100 == 0:
            floor.look()
    floor.run(73)
    assert floor.where(73) == ("shipped", None)
    assert ledger(floor) == (1, 1)


def test_our_own_echo_causes_no_command_and_not_even_a_read(floor: Floor) -> None:
    packed(floor)
    floor.run(73)
    before = len(floor.oms.received)
    for event in ("status.transitioned", "status.shipped"):
        assert deliver(floor, 73, event, floor.oms.shipped) == "ignored"
    floor.run(73)
    assert len(floor.oms.received) == before


def test_a_late_packed_delivery_of_a_shipped_package_is_a_look_and_no_command(floor: Floor) -> None:
    packed(floor)
    floor.run(73)
    assert deliver(floor, 73, "status.packed", PACKED, 1) == "accepted"
    floor.run(73)
    assert floor.where(73) == ("shipped", None)
    assert ledger(floor) == (1, 1)


# Nothing is commanded unless a fresh read shows all of it.


def rules(path: Path, text: str) -> dict[str, str]:
    file = path / "rules.toml"
    file.write_text(text)
    return {"RULES_FILE": str(file)}


SKIP = 'default = "ship"\n[[rule]]\nname = "shop"\nwhen = {channel_name = ["Shop"]}\naction = "skip"\n'
OMNITRON = {"enum_class": "OrderStatus", "enum_value": "500"}


def item(number: int, state: Any, package: int = 73) -> dict[str, Any]:
    return {"id": number, "package": package, "state": state}


ITEM_PACKED = {"enum_class": "PackageItemStatus", "enum_value": "500"}


@pytest.mark.parametrize(
    ("read", "where"),
    [
        (shows(state={"enum_class": "PackageStatus", "enum_value": "400"}), ("waiting", "not_packed_yet")),
        (shows(state=OMNITRON), ("waiting", "wrong_enum_class")),
        (shows(packageitem_set=[]), ("waiting", "no_items")),
        (shows(packageitem_set=[item(1, ITEM_PACKED), item(2, "400")]), ("waiting", "items_mixed")),
        (shows(packageitem_set=[item(1, ITEM_PACKED), item(2, None)]), ("waiting", "items_mixed")),
        (shows(packageitem_set=[item(1, OMNITRON)]), ("waiting", "wrong_enum_class")),
        (shows(packageitem_set=[item(1, ITEM_PACKED, 74)]), ("waiting", "items_incomplete")),
        (shows(packageitem_set=[item(1, ITEM_PACKED)] * 2), ("waiting", "items_incomplete")),
        (shows(commands=[{"slug": "another"}]), ("waiting", "command_not_offered")),
        (shows(commands=[{"transition": 99}]), ("waiting", "command_not_offered")),
        (shows(commands=[{"id": 99}]), ("waiting", "command_not_offered")),
        (
            shows(commands=[{"slug": "ship-without-integration", "transition": 99}]),
            ("needs_attention", "transition_slug_mismatch"),
        ),
        (shows(id=74), ("waiting", None)),
        (answers(404), ("waiting", None)),
    ],
)
def test_no_command_unless_a_fresh_read_shows_every_condition(
    floor: Floor, read: Fault, where: tuple[str, str | None]
) -> None:
    if where[1] == "no_items":
        floor.oms.script("items", answers(200, b'{"results": [], "count": 0}'))
        floor.oms.script("read", read)
    packed(floor)
    floor.oms.script("read", read)
    floor.look()
    assert floor.where(73) == where
    assert ledger(floor) == (0, 0)
    floor.run(73)
    assert floor.where(73) == ("shipped", None)


@pytest.mark.parametrize(
    "state",
    [
        {"enum_class": "PackageStatus", "enum_value": 500, "name": "Kargoya Verildi"},
        {"enum_class": "PackageStatus", "enum_value": " 500 "},
        {"enum_value": "500"},
        "500",
    ],
)
def test_packed_is_a_number_of_its_enumeration_and_no_name(floor: Floor, state: object) -> None:
    packed(floor)
    floor.oms.script("read", shows(state=state))
    floor.look()
    assert ledger(floor) == (1, 1)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (SKIP, ("skipped", "rule")),
        (SKIP.replace("channel_name", "stock_location_erp_code").replace("Shop", "369"), ("skipped", "rule")),
        (SKIP.replace('"skip"', '"ship"\ngrace_s = 60'), ("waiting", "grace")),
    ],
)
def test_no_command_against_the_rules_or_before_grace_is_over(
    floor_with: Callable[..., Floor], tmp_path: Path, text: str, where: tuple[str, str]
) -> None:
    floor = floor_with(**rules(tmp_path, text))
    packed(floor)
    floor.look()
    assert floor.where(73) == where
    floor.clock.turn(59 * SECOND)
    floor.hint(73)
    floor.look()
    assert ledger(floor) == (0, 0)
    floor.run(73)
    assert ledger(floor) == ((1, 1) if where[0] == "waiting" else (0, 0))


def test_a_rule_that_asks_a_field_the_oms_leaves_out_holds_the_package_back(
    floor_with: Callable[..., Floor], tmp_path: Path
) -> None:
    def without_channel(faulty: FaultyOms, request: Request) -> Response:
        body = faulty.answer_well(request).body
        return Response(200, body.replace(b"channel_name", b"channel"))

    floor = floor_with(**rules(tmp_path, SKIP))
    packed(floor)
    floor.oms.script("read", without_channel)
    floor.look()
    assert floor.where(73) == ("waiting", "rule_field_missing")
    assert ledger(floor) == (0, 0)


@pytest.fixture
def paging(floor: Floor) -> Floor:
    """Packages do not carry their items; the list shows two at a time."""
    floor.oms.inline_items = False
    floor.oms.page_size = 2
    return floor


def test_an_item_on_the_second_page_counts_like_one_on_the_first(paging: Floor) -> None:
    packed(paging, 73, (PACKED, PACKED, READY))
    paging.look()
    assert paging.where(73) == ("waiting", "items_mixed")
    paging.oms.set_items(73, [PACKED] * 3)
    paging.run(73)
    assert ledger(paging) == (1, 1)


@pytest.mark.parametrize("filtered", [b"package=73", b""])
def test_items_of_strangers_or_fewer_than_counted_are_no_complete_list(paging: Floor, filtered: bytes) -> None:
    def unfiltered(faulty: FaultyOms, request: Request) -> Response:
        return faulty.answer_well(replace(request, query={}))

    def one_too_many(faulty: FaultyOms, request: Request) -> Response:
        return Response(200, faulty.answer_well(request).body.replace(b'"count": 2', b'"count": 3'))

    paging.oms.create(74, [PACKED], state=PACKED)
    packed(paging)
    paging.oms.script("items", one_too_many if filtered else unfiltered)
    paging.look()
    assert paging.where(73) == ("waiting", "items_incomplete")
    assert ledger(paging) == (0, 0)


def test_items_are_read_first_and_the_package_last_so_that_its_state_is_the_freshest(paging: Floor) -> None:
    packed(paging)
    paging.oms.script("items", meanwhile(lambda: paging.oms.unpack(73)))
    paging.look()
    assert operations(paging) == ["read", "items", "read"]
    assert paging.where(73) == ("waiting", "not_packed_yet")


def test_a_package_said_to_be_packed_but_not_read_as_packed_is_looked_at_again_soon(floor: Floor) -> None:
    floor.oms.create(73, [READY])
    deliver(floor, 73, "status.packed", PACKED)
    floor.look()
    due = floor.due_at(73)
    assert due is not None
    assert due <= floor.clock.now + 5 * SECOND
    floor.oms.pack(73)
    floor.run(73)
    assert ledger(floor) == (1, 1)


@pytest.mark.parametrize(
    ("leaves", "where"),
    [
        (FaultyOms.unpack, ("skipped", "left_packed")),
        (FaultyOms.cancel, ("skipped", "cancelled")),
        (FaultyOms.ship_by_hand, ("already_shipped", None)),
    ],
)
def test_a_package_that_left_packed_is_not_commanded(
    floor_with: Callable[..., Floor], leaves: Callable[[FaultyOms, int], None], where: tuple[str, str | None]
) -> None:
    floor = floor_with(GRACE_S="60", SHIPPED_STATUSES="737")
    floor.oms.shipped = "737"
    packed(floor)
    floor.look()
    leaves(floor.oms, 73)
    if where[1] == "cancelled":
        deliver(floor, 73, "status.cancelled", CANCELLED)
    floor.run(73)
    assert floor.where(73) == where
    assert ledger(floor) == (0, 0)


# Repacked: a new episode, evaluated again.


@pytest.fixture
def unpacked(floor: Floor) -> Floor:
    """Package 73 was shipped by us and is Ready again, which nobody has seen."""
    packed(floor)
    floor.run(73)
    floor.clock.turn(MINUTE)
    floor.oms.unpack(73)
    return floor


def test_a_logged_entry_into_packed_opens_a_new_episode_at_once(unpacked: Floor) -> None:
    unpacked.oms.pack(73)
    unpacked.hint(73)
    unpacked.look()
    assert ledger(unpacked) == (2, 2)
    assert unpacked.run(73)["episode"] == 2


def test_without_a_log_two_reads_apart_open_a_new_episode(unpacked: Floor) -> None:
    unpacked.oms.always("log", answers(403))
    unpacked.oms.pack(73)
    unpacked.hint(73)
    unpacked.look()
    assert ledger(unpacked) == (1, 1)
    unpacked.clock.turn(29 * SECOND)
    unpacked.hint(73)
    unpacked.look()
    assert ledger(unpacked) == (1, 1)
    told = unpacked.run(73)
    assert ledger(unpacked) == (2, 2)
    assert told["episode"] == 2
    assert any("two reads" in entry["text"] for entry in told["timeline"])


def test_a_stale_read_of_packed_opens_no_new_episode(unpacked: Floor) -> None:
    unpacked.oms.always("log", answers(403))
    shipped_at = unpacked.oms.packages[73].modified_at
    unpacked.oms.pack(73)
    unpacked.oms.packages[73].modified_at = shipped_at - 2 * MINUTE
    unpacked.hint(73)
    unpacked.run(73)
    assert unpacked.told(73)["episode"] == 1
    assert ledger(unpacked) == (1, 1)


def test_a_package_that_stays_older_than_it_was_comes_to_a_person_whose_word_ships_it(floor: Floor) -> None:
    floor.oms.create(73)
    floor.oms.packages[73].modified_at = floor.clock.now + 2 * SECOND  # by another server's clock
    floor.hint(73)
    floor.look()
    floor.oms.pack(73)
    floor.run(73, timedelta(days=3))
    assert floor.where(73) == ("needs_attention", "bad_shape")
    assert "older version" in floor.told(73)["summary"]
    with floor.store.transaction() as transaction:
        worklist.recheck(transaction, 73)
    floor.run(73)
    assert ledger(floor) == (1, 1)


# Whatever the order of the deliveries, the outcome is that of the OMS.

DELIVERIES = (
    ("created", READY),
    ("status.packed", PACKED),
    ("status.cancelled", CANCELLED),
    ("status.shipped", "737"),
)


@pytest.mark.parametrize(
    ("truth", "where", "commands"),
    [
        ("737", ("already_shipped", None), (0, 0)),
        (CANCELLED, ("skipped", "cancelled"), (0, 0)),
        (PACKED, ("shipped", None), (1, 1)),
    ],
)
def test_every_permutation_of_the_deliveries_ends_in_the_same_outcome(
    floor_with: Callable[..., Floor], truth: str, where: tuple[str, str | None], commands: tuple[int, int]
) -> None:
    floor = floor_with(SHIPPED_STATUSES="737")
    floor.oms.shipped = "737"
    orders = dict(enumerate(permutations(DELIVERIES), start=1))
    for package_id in orders:
        floor.oms.create(package_id, [PACKED], state=truth)
    for step in range(len(DELIVERIES)):
        for package_id, order in orders.items():
            deliver(floor, package_id, *order[step])
        floor.clock.turn(2 * SECOND)
        floor.look()
    for package_id in orders:
        floor.run(package_id)
    assert {floor.where(package_id) for package_id in orders} == {where}
    assert {ledger(floor, package_id) for package_id in orders} == {commands}


# The command gate: what changes between the read and the send stops the command.


def another_attempt(floor: Floor) -> None:
    with floor.store.transaction() as transaction:
        journal.open_attempt(transaction, Case(package_id=73, episode=1), 0, Command(12, None), SECOND)


def note(floor: Floor, answer: Throttled | Unauthorised) -> None:
    with floor.store.transaction() as transaction:
        brakes.note_answer(transaction, 999, Operation.COMMAND, answer)


def pause(floor: Floor) -> None:
    with floor.store.transaction() as transaction:
        brakes.pause(transaction, "by an operator")


def resume(floor: Floor) -> None:
    with floor.store.transaction() as transaction:
        brakes.resume(transaction)


def recheck(floor: Floor) -> None:
    with floor.store.transaction() as transaction:
        worklist.recheck(transaction, 73)


def take_over(floor: Floor) -> None:
    floor.clock.turn(floor.config.lease)
    assert len(worklist.claim(floor.store, 1, 1, floor.config.lease, 0)) == 1


MIXED = ("waiting", "items_mixed")


@pytest.mark.parametrize(
    ("happens", "where"),
    [
        pytest.param(pause, ("waiting", "brake"), id="paused"),
        pytest.param(lambda floor: note(floor, Unauthorised(401, "")), ("waiting", "brake"), id="breaker"),
        pytest.param(lambda floor: note(floor, Throttled(MINUTE)), ("waiting", "brake"), id="Retry-After"),
        pytest.param(lambda floor: floor.clock.turn(floor.config.lease), MIXED, id="lease ran out"),
        pytest.param(take_over, MIXED, id="another holder"),
        pytest.param(recheck, ("waiting", None), id="operator"),
        pytest.param(another_attempt, MIXED, id="an attempt is open"),
    ],
)
def test_what_happens_between_the_read_and_the_gate_stops_the_command(
    floor: Floor, happens: Callable[[Floor], None], where: tuple[str, str | None]
) -> None:
    packed(floor, 73, (PACKED, READY))
    floor.look()
    assert floor.where(73) == MIXED
    floor.clock.turn(5 * SECOND)
    floor.oms.set_items(73, [PACKED, PACKED])
    floor.oms.script("read", meanwhile(lambda: happens(floor)))
    floor.look()
    assert floor.where(73) == where
    assert ledger(floor) == (0, 0)
    floor.clock.turn(floor.config.lease)
    resume(floor)
    floor.run(73)
    assert floor.where(73) == ("shipped", None)
    assert ledger(floor) == (1, 1)


def test_a_read_that_is_too_old_at_the_gate_is_read_again(floor: Floor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attend.MAX_READ_AGE_S == 5
    packed(floor)
    monkeypatch.setattr(attend, "MAX_READ_AGE_S", 0)
    floor.look()
    assert floor.where(73) == ("waiting", "brake")
    assert ledger(floor) == (0, 0)
    monkeypatch.undo()
    floor.run(73)
    assert ledger(floor) == (1, 1)


def test_hints_bring_no_command_forward_that_has_to_wait(floor: Floor) -> None:
    packed(floor)
    floor.oms.packages[73].lag = 1
    floor.look()
    floor.clock.turn(3 * SECOND)
    floor.look()
    assert floor.where(73) == ("waiting", "retry_after_refusal")
    floor.clock.turn(SECOND)
    for _ in range(100):
        floor.hint(73)
    floor.look()
    assert ledger(floor) == (1, 0)
    floor.run(73)
    assert ledger(floor) == (2, 1)


def test_in_shadow_no_command_is_ever_sent(floor_with: Callable[..., Floor]) -> None:
    floor = floor_with(MODE="shadow")
    packed(floor)
    floor.run(73)
    assert floor.where(73) == ("would_ship", None)
    live = replace(floor.config.settings, live=True)
    floor.oms.ship_by_hand(73)
    floor.attendant = replace(floor.attendant, settings=live)
    floor.run(73)
    assert ledger(floor) == (0, 0)


# From the gate to the first byte.


AtEvent = Callable[[str, Callable[[], None]], None]


class At(logging.Handler):
    """Does something where the log comes to a certain event."""

    def __init__(self, event: str, act: Callable[[], None]) -> None:
        super().__init__(logging.INFO)
        self._event = event
        self._act = act

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == self._event:
            self._act()


@pytest.fixture
def at(caplog: pytest.LogCaptureFixture) -> Iterator[AtEvent]:
    caplog.set_level(logging.INFO, logger="autoship")
    logger = logging.getLogger("autoship")
    added: list[At] = []

    def add(event: str, act: Callable[[], None]) -> None:
        added.append(At(event, act))
        logger.addHandler(added[-1])

    yield add
    for handler in added:
        logger.removeHandler(handler)


def test_a_command_whose_first_byte_is_late_is_dropped_and_uses_no_budget(floor: Floor, at: AtEvent) -> None:
    stalls = [FIRST_BYTE_WITHIN_S + 0.1]
    at("command.sending", lambda: time.sleep(stalls.pop() if stalls else 0))
    packed(floor)
    floor.look()
    assert ledger(floor) == (0, 0)
    assert floor.where(73) == ("waiting", "brake")
    with floor.store.reading() as transaction:
        row = worklist.find(transaction, 73)
    assert row is not None
    assert row["refusals"] == 0
    floor.run(73)
    assert outcomes(floor) == [("not_sent", "not_applied"), ("accepted", "applied")]
    assert ledger(floor) == (1, 1)


# A process that dies between the gate and the answer leaves an open attempt.


class Crash(BaseException):
    """The end of the process."""


def crash() -> None:
    raise Crash


@pytest.mark.parametrize(
    ("event", "applied"),
    [
        pytest.param("command.sending", False, id="before the send"),
        pytest.param("command.answered", True, id="after the answer was stored"),
    ],
)
def test_an_attempt_found_after_a_crash_is_read_back_before_anything_is_commanded(
    floor: Floor, at: AtEvent, event: str, applied: bool
) -> None:
    crashes = [crash]
    at(event, lambda: crashes.pop()() if crashes else None)
    packed(floor)
    with pytest.raises(Crash):
        floor.look()
    before = len(floor.oms.received)
    floor.clock.turn(floor.config.lease)
    floor.look()
    assert operations(floor)[before] == "read"
    assert ledger(floor) == ((1, 1) if applied else (0, 0))
    told = floor.run(73)
    assert (told["state"], told["evidence"]) == ("shipped", "read_back")
    assert ledger(floor) == (1, 1)


@pytest.mark.parametrize("applied", [True, False])
def test_an_answer_that_was_lost_with_its_process_is_found_by_reading(floor: Floor, applied: bool) -> None:
    calls = iter([0.5])

    def jitter() -> float:
        try:
            return next(calls)
        except StopIteration:
            raise Crash from None

    packed(floor)
    if not applied:
        floor.oms.script("command", answers(204))
    surviving = floor.attendant
    floor.attendant = replace(surviving, jitter=jitter)
    with pytest.raises(Crash):
        floor.look()
    floor.attendant = surviving
    assert outcomes(floor) == [(None, None)]
    floor.clock.turn(floor.config.lease)
    told = floor.run(73)
    assert told["state"] == "shipped"
    assert told["evidence"] == ("transition_log" if applied else "read_back")
    assert ledger(floor) == ((1, 1) if applied else (2, 1))


def test_before_the_deadline_of_an_open_attempt_nothing_is_read_or_commanded(floor: Floor, at: AtEvent) -> None:
    crashes = [crash]
    at("command.sending", lambda: crashes.pop()() if crashes else None)
    packed(floor)
    with pytest.raises(Crash):
        floor.look()
    before = len(floor.oms.received)
    recheck(floor)
    floor.look()
    assert len(floor.oms.received) == before
    assert floor.due_at(73) == floor.clock.now + 7 * SECOND


def test_the_answer_is_kept_where_an_operator_took_the_package_away_during_the_send(floor: Floor) -> None:
    def taken_away(faulty: FaultyOms, request: Request) -> Response:
        recheck(floor)
        return Response(204)

    packed(floor)
    floor.oms.script("command", taken_away)
    floor.look()
    assert outcomes(floor) == [("accepted", None)]
    told = floor.run(73)
    assert (told["state"], told["reason"]) == ("needs_attention", "accepted_but_still_packed")
    assert ledger(floor) == (1, 0)


def test_a_holder_frozen_in_its_send_writes_nothing_over_what_its_heir_has_proven(floor: Floor) -> None:
    second_oms = Oms(floor.config.oms)
    heir = replace(floor, attendant=replace(floor.attendant, oms=second_oms))

    def frozen(faulty: FaultyOms, request: Request) -> Response:
        floor.clock.turn(floor.config.lease)
        heir.run(73)
        return Response(400)

    packed(floor)
    floor.oms.script("command", frozen)
    floor.look()
    second_oms.close()
    assert outcomes(floor) == [(None, "not_applied"), ("accepted", "applied")]
    assert floor.where(73) == ("shipped", None)
    assert ledger(floor) == (2, 1)


# What a person says.


def test_a_dismissed_package_is_left_alone_until_it_is_packed_again(floor: Floor) -> None:
    packed(floor, 73, (PACKED, READY))
    floor.look()
    with floor.store.transaction() as transaction:
        assert worklist.dismiss(transaction, 73)
    floor.oms.set_items(73, [PACKED, PACKED])
    floor.clock.turn(MINUTE)
    floor.hint(73)
    floor.run(73)
    assert floor.where(73) == ("skipped", "dismissed")
    assert ledger(floor) == (0, 0)
    floor.oms.unpack(73)
    floor.hint(73)
    floor.run(73)
    floor.clock.turn(MINUTE)
    floor.oms.pack(73)
    floor.hint(73)
    floor.run(73)
    assert floor.where(73) == ("shipped", None)
    assert ledger(floor) == (1, 1)


def test_recheck_takes_a_dismissed_package_up_again(floor: Floor) -> None:
    packed(floor, 73, (PACKED, READY))
    floor.look()
    with floor.store.transaction() as transaction:
        worklist.dismiss(transaction, 73)
    floor.oms.set_items(73, [PACKED, PACKED])
    recheck(floor)
    floor.run(73)
    assert ledger(floor) == (1, 1)


def test_recheck_of_a_shipped_package_is_a_read_and_no_command(floor: Floor) -> None:
    packed(floor)
    floor.run(73)
    recheck(floor)
    floor.run(73)
    assert floor.where(73) == ("shipped", None)
    assert ledger(floor) == (1, 1)


@pytest.mark.parametrize("fault", [answers(204), closes])
def test_recheck_while_a_command_is_unconfirmed_is_no_second_command(floor: Floor, fault: Fault) -> None:
    packed(floor)
    floor.oms.script("command", fault)
    floor.look()
    recheck(floor)
    floor.look()
    assert ledger(floor) == (1, 0)
    assert floor.where(73)[0] == "shipping"
    with floor.store.transaction() as transaction:
        assert not worklist.dismiss(transaction, 73)


def test_403_for_three_packages_in_a_row_opens_the_breaker_though_each_was_read_well(floor: Floor) -> None:
    for package_id in (1, 2, 3):
        floor.oms.create(package_id, [PACKED], state=PACKED)
        floor.hint(package_id)
        floor.oms.script("command", answers(403))
        floor.look()
    with floor.store.reading() as transaction:
        found = brakes.read(transaction)
    assert found.breaker_opened_at is not None
    assert found.breaker_package_id == 3


def test_the_hourly_cap_pauses_before_the_command_that_would_exceed_it(floor_with: Callable[..., Floor]) -> None:
    floor = floor_with(SHIP_MAX_PER_HOUR="2")
    for package_id in (1, 2, 3):
        floor.oms.create(package_id, [PACKED], state=PACKED)
        floor.hint(package_id)
        floor.look()
    assert [floor.oms.commands_for(package_id) for package_id in (1, 2, 3)] == [1, 1, 0]
    assert floor.where(3) == ("waiting", "brake")
    with floor.store.reading() as transaction:
        assert "SHIP_MAX_PER_HOUR" in (brakes.read(transaction).against_command(3, floor.clock.now) or "")
    assert operator.resume(floor.store).text.startswith("resumed; it pauses again")
    operator.pause(floor.store)
    assert operator.resume(floor.store).text == "resumed"


def test_the_newest_of_a_long_timeline_are_told(floor: Floor) -> None:
    with floor.store.transaction() as transaction:
        journal.note(transaction, 73, [Note("x", str(number)) for number in range(journal.MAX_TOLD + 1)])
        told = [row["text"] for row in journal.timeline_of(transaction, 73)]
    assert told == [str(number) for number in range(1, journal.MAX_TOLD + 1)]
