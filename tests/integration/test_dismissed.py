"""A dismissal holds for one stay in Packed, and a delivery is how we see that stay end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from service import inbox, worklist
from service.delivery import Delivery
from service.wire import StateValue
from tests.integration.conftest import Floor


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
    floor.oms.pack(73)
    assert look_on_delivery(floor, "500") == ("waiting", "grace")
    assert floor.run(73)["state"] == "shipped"
    assert floor.oms.commands_for(73) == 1
