"""Every history keeps every promise; those that once did not are kept, as small as they could be made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.outcome import Accepted, Ambiguous
from tests.simulation.__main__ import first_violation, found_in, told
from tests.simulation.history import Answered, Disruption, Event, History, Logged, Move, Order, Post, Shown, draw
from tests.simulation.run import Simulation, Storage

pytestmark = pytest.mark.usefixtures("unlogged")
LATE = Answered(71, Ambiguous("ReadTimeout"), 10, applied_after_s=19.2)

# What each of them once led to.
ONCE_BROKEN: dict[str, tuple[Event, ...]] = {
    "a shipped event of an earlier stay that comes late is taken for the proof of a command that did nothing": (
        Post(71, ()),
        Post(71, ((28.456, True),)),
        Answered(71, Ambiguous("ReadError"), 0.731, applied_after_s=27.454),
        Move(2.233, 71, "pack"),
        Move(3.95, 71, "ship"),
        Move(5.883, 71, "pack"),
        Move(6.663, 71, "unpack"),
    ),
    "a log that lags names the departure from an earlier stay, and our own is taken for somebody else's": (
        Move(1.7, 71, "pack_mixed"),
        Disruption(22.4, 5, "freeze", 64.6),
        Move(60.9, 71, "ship"),
        Move(102.9, 71, "pack"),
        LATE,
        Logged(71, 60),
    ),
    "a package that left Packed is rechecked, and waits for ever": (
        Move(7.9, 71, "pack"),
        Post(71, ((10.5, True),)),
        Shown(71, 9.1),
        Move(26.3, 71, "cancel"),
        Order(59.6, 71, "recheck"),
    ),
    "a read that began before the command took effect is taken for one that ended 3 × OMS_TIMEOUT_S after it": (
        Move(1, 71, "pack"),
        Post(71, ((0.2, False), (26.5, True))),
        Answered(71, Ambiguous("ReadTimeout"), 10, applied_after_s=27.5),
        Shown(71, 0.1),
        Shown(71, 0.1),
        Shown(71, 6),
    ),
    "a package is dismissed while its command is under way, and nobody looks what became of it": (
        Answered(71, Accepted(204), 0.93, applied_after_s=0.0),
        Move(80.96, 71, "pack"),
        Order(81.98, 71, "recheck"),
        Order(82.63, 71, "dismiss"),
    ),
    "a worker is frozen right after the gate's commit, and sends": (
        Move(1, 71, "pack"),
        Disruption(0.5, 4, "freeze", 9.5),
    ),
}


def a_history(*events: Event) -> History:
    """One package, and nothing but these events."""
    return History(
        seed=1,
        packages=(71,),
        foreign=frozenset(),
        live=True,
        dated=False,
        log=True,
        offers=True,
        shipped_known=False,
        workers=2,
        events=events,
    )


def test_500_histories_keep_every_promise() -> None:
    violation = first_violation(range(1, 501), Storage())
    assert violation is None, told(*violation)


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("led_to", ONCE_BROKEN)
def test_a_history_that_once_broke_a_promise_keeps_it(led_to: str, log: bool) -> None:
    assert found_in(replace(a_history(*ONCE_BROKEN[led_to]), log=log), Storage()) == []


def test_a_history_without_events_of_the_world_ships_each_packed_package_with_one_command() -> None:
    simulation = Simulation(a_history(Move(1, 71, "pack")), Storage())
    simulation.run()
    assert [one.package_id for one in simulation.oms.received] == [71]
    assert [stay.effects for stay in simulation.oms.packages[71].stays] == [1]


def test_the_same_seed_is_the_same_history_to_the_last_step() -> None:
    storage = Storage()
    ledgers = []
    for _ in range(2):
        simulation = Simulation(draw(7), storage)
        simulation.run()
        ledgers.append([(one.at_s, one.package_id, one.answer) for one in simulation.oms.received])
    assert ledgers[0] == ledgers[1] != []
