"""A replica that lags shows the package, its log or both as they were: no look at an old picture commands anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from service import inbox, operator
from service.delivery import Delivery
from service.sandbox import PACKED, Request, Response
from service.wire import StateValue
from tests.integration.conftest import Floor
from tests.oms_faults import Fault, FaultyOms, answers, applied_then, closes, shows

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)


Document = dict[str, Any]


def undated(document: Document) -> Document:
    """The package as an OMS shows it that gives packages no modified date."""
    return {name: value for name, value in document.items() if name != "modified_date"}


def dated_at_creation(document: Document) -> Document:
    """The package with a date that its state does not change."""
    return document | {"modified_date": "2026-11-01T00:00:00Z"}


def shown_as(form: Callable[[Document], Document]) -> Fault:
    """Every read shows the package in this form."""

    def show(oms: FaultyOms, request: Request) -> Response:
        return Response(200, json.dumps(form(json.loads(oms.answer_well(request).body))).encode())

    return show


def picture(floor: Floor, form: Callable[[Document], Document] = dict) -> tuple[Fault, Fault]:
    """How package and log look now, for a replica to show later."""
    oms = floor.oms
    body = json.dumps(form(oms.document(oms.packages[73]))).encode()
    until = len(oms.logs)

    def log(oms: FaultyOms, request: Request) -> Response:
        page: Document = json.loads(oms.answer_well(request).body)
        page["results"] = [entry for entry in page["results"] if entry["id"] <= until]
        return Response(200, json.dumps(page).encode())

    return answers(200, body), log


def look_at(floor: Floor, old: tuple[Fault, Fault]) -> None:
    """One look that meets a replica which is behind."""
    read, log = old
    floor.oms.script("read", read)
    floor.oms.script("log", log)
    floor.clock.turn(10 * SECOND)
    floor.hint(73)
    assert floor.look() == 1


def webhook(floor: Floor, name: str, state: str) -> None:
    delivery = Delivery(73, None, f"package.status.{name}", StateValue("PackageStatus", state), 0)
    inbox.accept(floor.store, delivery, floor.config.settings)


def packed_before(floor: Floor, ship: Callable[[int], object]) -> None:
    """A package that left Packed once before Autoship was there, and is Packed again."""
    floor.oms.create(73)
    floor.oms.pack(73)
    ship(73)
    floor.oms.applied.clear()
    floor.clock.turn(DAY)
    floor.oms.pack(73)


@pytest.mark.parametrize("form", [undated, dated_at_creation])
@pytest.mark.parametrize("before", ["by our transition", "by hand"])
def test_an_old_picture_after_our_command_is_no_new_stay(
    floor: Floor, form: Callable[[Document], Document], before: str
) -> None:
    floor.oms.always("read", shown_as(form))
    packed_before(floor, floor.oms.apply if before == "by our transition" else floor.oms.ship_by_hand)
    old = picture(floor, form)
    floor.hint(73)
    assert floor.run(73)["state"] == "shipped"
    look_at(floor, old)
    assert floor.run(73)["state"] == "shipped"
    assert floor.oms.commands_for(73) == 1


def test_an_old_picture_after_a_recheck_is_no_new_stay(floor: Floor) -> None:
    packed_before(floor, floor.oms.apply)
    old = picture(floor)
    floor.clock.turn(5 * SECOND)
    floor.hint(73)
    assert floor.run(73)["state"] == "shipped"
    operator.recheck(floor.store, 73)
    look_at(floor, old)
    floor.run(73)
    assert floor.oms.commands_for(73) == 1


def test_an_old_picture_of_a_cancelled_package_commands_nothing(floor: Floor) -> None:
    floor.oms.always("read", shown_as(undated))
    packed_before(floor, floor.oms.ship_by_hand)
    floor.oms.set_items(73, [PACKED, "200"])
    floor.hint(73)
    floor.run(73, within=60 * SECOND)
    floor.oms.set_items(73, [PACKED, PACKED])
    old = picture(floor, undated)
    floor.clock.turn(5 * SECOND)
    floor.oms.cancel(73)
    webhook(floor, "cancelled", floor.oms.packages[73].state)
    floor.run(73, within=60 * SECOND)
    assert floor.where(73) == ("skipped", "cancelled")
    look_at(floor, old)
    assert floor.run(73)["state"] == "skipped"
    assert floor.oms.commands_for(73) == 0


def test_two_old_pictures_with_a_true_one_between_them_are_no_new_stay(floor: Floor) -> None:
    floor.oms.always("read", shown_as(undated))
    floor.oms.always("log", answers(401))
    floor.oms.create(73, [PACKED], state=PACKED)
    old = picture(floor, undated)
    floor.oms.script("command", applied_then(closes))
    floor.hint(73)
    floor.look()
    floor.clock.turn(3 * SECOND)
    floor.look()
    assert floor.where(73) == ("waiting", "outcome_unknown")
    look_at(floor, old)
    webhook(floor, "shipped", floor.oms.shipped)
    assert floor.run(73)["evidence"] == "event"
    floor.clock.turn(3 * 60 * 60 * SECOND)
    look_at(floor, old)
    told = floor.run(73)
    assert (told["state"], told["evidence"]) == ("shipped", "event")
    assert floor.oms.commands_for(73) == 1


@pytest.mark.parametrize("goes", ["into Packed", "on by hand"])
def test_a_cancellation_of_long_ago_says_nothing_about_another_state(floor: Floor, goes: str) -> None:
    floor.oms.create(73, ["400", "400"])
    webhook(floor, "cancelled", "990")
    floor.clock.turn(DAY)
    if goes == "into Packed":
        floor.oms.script("read", shows(state={"enum_class": "PackageStatus", "enum_value": "400"}))
        floor.oms.pack(73)
        webhook(floor, "packed", PACKED)
        assert floor.run(73)["state"] == "shipped"
    else:
        floor.oms.pack(73, [PACKED, "200"])
        webhook(floor, "packed", PACKED)
        floor.run(73, within=60 * SECOND)
        floor.oms.ship_by_hand(73)
        assert floor.run(73)["reason"] == "left_packed"
