"""A dismissal holds for one stay in Packed, and a delivery is how we see that stay end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from service import inbox, operator, worklist
from service.delivery import Delivery
from service.sweep import Sweeper
from service.wire import StateValue
from tests.integration.conftest import Floor, packed
from tests.oms_faults import answers, applied_then, closes, meanwhile


def look_on_delivery(floor: Floor, state: str) -> tuple[str, str | None]:
    """Where the package stands after the look that a delivery saying this state leads to."""
    floor.clock.turn(timedelta(minutes=5))
    delivery = Delivery(73, None, "package.status.transitioned", StateValue("PackageStatus", state))
    inbox.accept(floor.store, delivery, floor.config.settings)
    floor.look()
    return floor.where(73)


def test_a_dismissed_package_ships_once_it_is_unpacked_and_packed_again(floor_with: Callable[..., Floor]) -> None:
    floor = floor_with(GRACE_S="60")
    floor.oms.create(73)
    floor.oms.pack(73)
    assert look_on_delivery(floor, "500") == ("waiting", "grace")
    with floor.store.transaction() as transaction:
        assert worklist.dismiss(transaction, 73)
    assert look_on_delivery(floor, "500") == ("skipped", "dismissed")
    floor.oms.unpack(73)
    assert look_on_delivery(floor, "400") == ("skipped", "left_packed")
    floor.clock.turn(timedelta(minutes=1))
    floor.oms.pack(73)
    assert look_on_delivery(floor, "500") == ("waiting", "grace")
    assert floor.run(73)["state"] == "shipped"
    assert floor.oms.commands_for(73) == 1


def test_a_dismissal_while_it_is_read_as_packed_again_is_about_that_stay(floor: Floor) -> None:
    floor.oms.create(73, ["500"], state="500")
    floor.oms.always("log", answers(403))
    floor.oms.script("command", applied_then(closes))
    floor.hint(73)
    floor.run(73, timedelta(hours=3))
    assert floor.where(73) == ("needs_attention", "outcome_unknown")
    floor.oms.pack(73)
    assert look_on_delivery(floor, "500") == ("needs_attention", "outcome_unknown")
    assert operator.dismiss(floor.store, 73).done
    for _ in range(3):
        assert look_on_delivery(floor, "500") == ("skipped", "dismissed")
    assert floor.oms.commands_for(73) == 1


def test_a_dismissal_from_the_backlog_is_about_that_stay_alone(floor_with: Callable[..., Floor]) -> None:
    floor = floor_with(ADOPT_MAX="0")
    floor.oms.create(73, ["500"], state="500")
    Sweeper(floor.config, floor.store, floor.attendant.oms, lambda _: False).sweep_if_due()
    assert floor.where(73) == ("waiting", "backlog_to_confirm")
    assert operator.dismiss(floor.store, 73, reason="backlog_to_confirm").done
    floor.oms.unpack(73)
    assert look_on_delivery(floor, "400") == ("skipped", "left_packed")
    floor.clock.turn(timedelta(minutes=1))
    floor.oms.pack(73)
    look_on_delivery(floor, "500")
    assert (floor.run(73)["state"], floor.oms.commands_for(73)) == ("shipped", 1)


def test_a_package_dismissed_from_the_backlog_and_rechecked_is_commanded_once_and_followed_up(
    floor_with: Callable[..., Floor],
) -> None:
    floor = floor_with(ADOPT_MAX="0")
    floor.oms.create(73, ["500"], state="500")
    Sweeper(floor.config, floor.store, floor.attendant.oms, lambda _: False).sweep_if_due()
    operator.dismiss(floor.store, 73)
    operator.recheck(floor.store, 73)
    floor.oms.script("command", answers(204))
    assert floor.run(73)["reason"] == "accepted_but_still_packed"
    assert floor.oms.commands_for(73) == 1


def test_a_dismissal_for_a_reason_leaves_alone_what_no_longer_has_it(floor_with: Callable[..., Floor]) -> None:
    floor = floor_with(GRACE_S="60")
    floor.oms.create(73, ["500"], state="500")
    assert look_on_delivery(floor, "500") == ("waiting", "grace")
    assert not operator.dismiss(floor.store, 73, reason="items_mixed").done
    assert operator.dismiss(floor.store, 73, reason="grace").done


def test_no_package_is_said_to_be_dismissed_while_its_command_is_under_way(floor: Floor) -> None:
    done: list[bool] = []

    def act() -> None:
        operator.recheck(floor.store, 73)
        done.append(operator.dismiss(floor.store, 73).done)

    floor.oms.script("command", meanwhile(act))
    packed(floor)
    floor.look()
    assert (done, floor.run(73)["state"], floor.oms.commands_for(73)) == ([False], "shipped", 1)


def test_a_package_that_was_rechecked_during_a_command_that_did_nothing_can_be_dismissed(floor: Floor) -> None:
    recheck = meanwhile(lambda: operator.recheck(floor.store, 73), answers(429))
    floor.oms.script("command", recheck)
    packed(floor)
    floor.look()
    assert operator.dismiss(floor.store, 73).done
    assert (floor.run(73)["reason"], floor.oms.commands_for(73)) == ("dismissed", 1)
