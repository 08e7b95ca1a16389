"""The database's clock is set a day ahead or back: nothing is lost or doubled, and nothing waits much longer for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from service import brakes, inbox, worklist
from service.brakes import Operation
from service.database import workers
from service.delivery import Delivery
from service.oms import Oms
from service.outcome import Throttled, Unauthorised
from service.wire import StateValue
from tests.integration.conftest import Clock, Floor
from tests.oms_faults import FaultyOms, answers, applied_then, html, meanwhile, resets, words

SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
# Until the next heartbeat follows the clock, and then some.
PATIENCE_S = 60


@dataclass
class Time:
    """Time as a worker spends it: each second it looks at what is due, every tenth it writes its heartbeat."""

    floor: Floor
    passed_s: int = 0

    def pass_until(self, met: Callable[[], bool], within_s: int = 3600) -> int:
        """How many seconds that took."""
        began = self.passed_s
        while not met():
            assert self.passed_s - began < within_s, "it never happened"
            self.second()
        return self.passed_s - began

    def seconds(self, count: int) -> None:
        for _ in range(count):
            self.second()

    def second(self) -> None:
        if self.passed_s % 10 == 0:
            self._beat()
        self.passed_s += 1
        self.turn(SECOND)
        for claimed in worklist.claim(self.floor.store, 8, 8, self.floor.config.lease, 10):
            self.floor.attendant.attend(claimed)

    def turn(self, by: timedelta) -> None:
        """For everybody: the OMS's clock, another machine's, takes no step."""
        for clock in (self.floor.clock, self.floor.oms.clock):
            assert isinstance(clock, Clock)
            clock.turn(by)

    def _beat(self) -> None:
        with self.floor.store.transaction() as transaction:
            worklist.follow_clock(transaction)
            now = transaction.now
            insert = self.floor.store.insert(workers).values(worker="w", version="1", started_at=now, seen_at=now)
            transaction.execute(insert.on_conflict_do_update(index_elements=["worker"], set_={"seen_at": now}))


def announce(floor: Floor, package_id: int) -> None:
    packed = Delivery(package_id, None, "package.status.packed", StateValue("PackageStatus", "500"), 0)
    inbox.accept(floor.store, packed, floor.config.settings)


def nothing_yet(time: Time, package_id: int) -> None:
    """Announced, and nobody has looked."""


def leased_by_the_dead(time: Time, package_id: int) -> None:
    assert worklist.claim(time.floor.store, 8, 8, time.floor.config.lease, 10)


def not_packed_yet(time: Time, package_id: int) -> None:
    time.floor.oms.unpack(package_id)
    time.seconds(30)
    time.floor.oms.pack(package_id)


def waits_for_its_items_since_the_morning(time: Time, package_id: int) -> None:
    time.floor.oms.set_items(package_id, ["500", "200"])
    time.second()
    time.turn(timedelta(hours=13))
    time.seconds(20)
    time.floor.oms.set_items(package_id, ["500", "500"])
    announce(time.floor, package_id)


def no_worker_for_two_hours(time: Time, package_id: int) -> None:
    time.turn(timedelta(hours=2))
    announce(time.floor, package_id)


def in_grace(time: Time, package_id: int) -> None:
    time.seconds(3)


def refused_often(time: Time, package_id: int) -> None:
    time.floor.oms.script("command", *[words(400, "x")] * 5)
    time.pass_until(lambda: time.floor.oms.commands_for(package_id) == 5)


def not_answered_and_not_applied(time: Time, package_id: int) -> None:
    time.floor.oms.script("command", resets)
    time.pass_until(lambda: time.floor.oms.commands_for(package_id) == 1)


def not_answered_and_applied(time: Time, package_id: int) -> None:
    time.floor.oms.script("command", applied_then(resets))
    time.pass_until(lambda: time.floor.oms.commands_for(package_id) == 1)


def accepted_and_not_confirmed(time: Time, package_id: int) -> None:
    time.floor.oms.script("read", answers(503), answers(503))
    time.pass_until(lambda: time.floor.oms.commands_for(package_id) == 1)


def reads_fail(time: Time, package_id: int) -> None:
    time.floor.oms.script("read", *[html(502)] * 4)
    time.seconds(60)


def asked_to_wait(time: Time, package_id: int) -> None:
    with time.floor.store.transaction() as transaction:
        brakes.note_answer(transaction, 1, Operation.READ, Throttled(timedelta(minutes=5)))


def behind_the_breaker(time: Time, package_id: int) -> None:
    with time.floor.store.transaction() as transaction:
        brakes.note_answer(transaction, 1, Operation.READ, Unauthorised(401, ""))


def rate_used_up(time: Time, package_id: int) -> None:
    for other in range(1, 31):
        with time.floor.store.transaction() as transaction:
            worklist.hint(transaction, other, "webhook")
    worklist.claim(time.floor.store, 30, 30, time.floor.config.lease, 10)


SITUATIONS: dict[Callable[[Time, int], None], dict[str, str]] = {
    nothing_yet: {},
    leased_by_the_dead: {},
    not_packed_yet: {},
    waits_for_its_items_since_the_morning: {},
    no_worker_for_two_hours: {},
    in_grace: {"GRACE_S": "120"},
    refused_often: {},
    not_answered_and_not_applied: {},
    not_answered_and_applied: {},
    accepted_and_not_confirmed: {},
    reads_fail: {},
    asked_to_wait: {},
    behind_the_breaker: {},
    rate_used_up: {},
}


def ship(time: Time, package_id: int, situation: Callable[[Time, int], None], step: timedelta) -> tuple[int, int]:
    """In how many seconds a package ships when the clock takes this step then, and by how many commands."""
    floor = time.floor
    floor.oms.create(package_id, ["100", "100"])
    floor.oms.pack(package_id)
    announce(floor, package_id)
    situation(time, package_id)
    floor.clock.turn(step)
    took_s = time.pass_until(lambda: floor.told(package_id)["state"] == "shipped")
    return took_s, floor.oms.commands_for(package_id)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda one: one.__name__)
def test_a_step_of_a_day_delays_no_package_by_more_than_a_minute_and_doubles_no_command(
    floor_with: Callable[..., Floor], situation: Callable[[Time, int], None]
) -> None:
    floor = floor_with(FaultyOms(clock=Clock()), **SITUATIONS[situation])
    time = Time(floor)
    time.second()
    undisturbed_s, commands = ship(time, 73, situation, timedelta(0))
    for package_id, step in ((74, -DAY), (75, DAY)):
        took_s, sent = ship(time, package_id, situation, step)
        assert took_s <= undisturbed_s + PATIENCE_S
        assert sent == commands
    assert {floor.oms.shipped_by_command(package_id) for package_id in (73, 74, 75)} == {1}


def test_a_command_under_way_is_not_sent_again_when_the_clock_is_set_ahead_meanwhile(
    floor_with: Callable[..., Floor],
) -> None:
    floor = floor_with(FaultyOms(clock=Clock()))
    time = Time(floor)
    with closing(Oms(floor.config.oms)) as client:
        heir = Time(replace(floor, attendant=replace(floor.attendant, oms=client, jitter=lambda: 0.0)))

        def step_and_go_on() -> None:
            floor.clock.turn(DAY)
            heir.seconds(int(floor.config.oms.timeout_s) - 1)  # longer than that the sender would not wait

        floor.oms.script("command", meanwhile(step_and_go_on))
        floor.oms.create(73)
        floor.oms.pack(73)
        announce(floor, 73)
        time.pass_until(lambda: floor.told(73)["state"] == "shipped")
    assert floor.oms.commands_for(73) == 1
