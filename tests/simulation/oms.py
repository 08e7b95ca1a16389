"""The OMS of a history: what is true in it, what it shows of that, and the ledger it judges us by.

It takes a command only for a package that is Packed with all its items, checked when the command arrives and not
again when it takes effect: two commands under way at once would ship twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from service.oms import Oms
from service.outcome import Accepted, Ambiguous, Command, CommandAnswer, NotFound, NotSent, ReadFailed, Reading, Refused
from service.snapshot import Item, Items, LoggedTransition, OfferedCommand, PackageSnapshot
from service.wire import PACKAGE_ITEM_STATUS, PACKAGE_STATUS, StateValue
from tests.simulation.history import TIMEOUT_S, Answered, Earlier, Event, History, Logged, Move, Outage, Outdated, Shown
from tests.simulation.world import START, World

READY, PACKED, CANCELLED, SHIPPED = "400", "500", "990", "737"
COMMAND = Command(12, None)
BY_HAND = "13"
FOREIGN_CHANNEL = "Marketplace"


@dataclass(slots=True)
class Stay:
    """One stay in Packed. `effects`: how often our commands shipped it."""

    number: int
    left_for: str | None = None
    effects: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """A read that was answered with a snapshot."""

    look: int
    began_s: float
    ended_s: float
    shows_packed: bool
    allows_command: bool


@dataclass(slots=True)
class Received:
    """A command that arrived in this stay, and what it was answered."""

    package_id: int
    stay: Stay
    at_s: float
    answer: CommandAnswer
    basis: Seen | None


@dataclass(slots=True)
class Package:
    """All that ever was true of one package, oldest first."""

    package_id: int
    versions: list[tuple[float, PackageSnapshot]] = field(default_factory=list)
    log: list[tuple[float, LoggedTransition]] = field(default_factory=list)
    stays: list[Stay] = field(default_factory=list)
    read_at_s: list[float] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)

    @property
    def now(self) -> PackageSnapshot:
        return self.versions[-1][1]

    @property
    def state(self) -> str:
        state = self.now.state
        return state.value if state else ""

    @property
    def is_all_packed(self) -> bool:
        return self.state == PACKED and _all_packed(self.now)

    def version(self, at_s: float) -> PackageSnapshot:
        """How it was at that time."""
        return next((shown for since_s, shown in reversed(self.versions) if since_s <= at_s), self.versions[0][1])


class SimulatedOms:
    """`announce` is called for each event, as the sender would be; `is_closed` says what we hold of a package."""

    def __init__(
        self,
        history: History,
        world: World,
        announce: Callable[[int, str], None],
        is_closed: Callable[[int], bool],
    ) -> None:
        self.world = world
        self._history = history
        self._announce = announce
        self._is_closed = is_closed
        self.received: list[Received] = []
        self.packages = {one: Package(one) for one in history.packages}
        self._scripts: dict[tuple[type[Event], int], deque[Event]] = {}
        self.outages = [one for one in history.events if isinstance(one, Outage)]
        self._outdated = [one for one in history.events if isinstance(one, Outdated)]
        for one in history.events:
            if isinstance(one, Shown | Logged | Answered):
                self._scripts.setdefault((type(one), one.package_id), deque()).append(one)
        for package in self.packages.values():
            self._write(package, READY, (READY, READY), None)
        for one in history.events:
            if isinstance(one, Earlier):
                package = self.packages[one.package_id]
                self._write(package, PACKED, (PACKED, PACKED), None)
                self._write(package, SHIPPED, (SHIPPED, SHIPPED), None, str(COMMAND.transition_id))
                self._write(package, READY, (READY, READY), None)

    # People.

    def move(self, move: Move) -> None:
        """What a person does, if the package's state allows it."""
        package = self.packages[move.package_id]
        match move.what, package.state:
            case ("pack", state) if state != PACKED:
                self._write(package, PACKED, (PACKED, PACKED), "package.status.packed")
            case ("pack_mixed", state) if state != PACKED:
                self._write(package, PACKED, (PACKED, READY), "package.status.packed")
            case ("settle", "500"):
                self._write(package, PACKED, (PACKED, PACKED), None)
            case ("unpack", "500"):
                self._write(package, READY, (READY, READY), "package.status.transitioned")
            case ("cancel", state) if state in (READY, PACKED):
                self._write(package, CANCELLED, (CANCELLED, CANCELLED), "package.status.cancelled")
            case ("ship", "500"):
                self._write(package, SHIPPED, (SHIPPED, SHIPPED), "package.status.shipped", BY_HAND)
            case _:
                pass

    # What we see of it.

    def outage(self) -> Outage | None:
        """The outage that goes on now."""
        return next((one for one in self.outages if one.at_s <= self.world.now_s < one.until_s), None)

    def shown(self, package_id: int) -> Shown:
        """What the next read meets."""
        outage = self.outage()
        if outage is not None and outage.reading is not None:
            return Shown(package_id, 0.1, reading=outage.reading)
        scripted = self._scripted(Shown, package_id)
        return scripted if isinstance(scripted, Shown) else Shown(package_id, 0.1)

    def answered(self, package_id: int) -> Answered:
        """What the next command meets."""
        outage = self.outage()
        if outage is not None:
            return Answered(package_id, outage.answer, 0.1, None)
        scripted = self._scripted(Answered, package_id)
        return scripted if isinstance(scripted, Answered) else Answered(package_id, Accepted(204), 0.1, 0.0)

    def snapshot(self, shown: Shown) -> PackageSnapshot:
        """The package as this read shows it."""
        package = self.packages[shown.package_id]
        snapshot = package.version(self.world.now_s - max(shown.stale_s, self._outdated_by_s(shown.package_id)))
        return snapshot if shown.offered or snapshot.offered is None else _offering_another(snapshot)

    def _outdated_by_s(self, package_id: int) -> float:
        now_s = self.world.now_s
        by_s = max((one.by_s for one in self._outdated if one.at_s <= now_s < one.until_s), default=0.0)
        return by_s if by_s and self._is_closed(package_id) else 0.0

    def log_of(self, package_id: int) -> tuple[LoggedTransition, ...] | None:
        """The package's transition log as it answers now, newest first."""
        if not self._history.log or self.outage() is not None:
            return None
        scripted = self._scripted(Logged, package_id)
        until_s = self.world.now_s - (scripted.lag_s if isinstance(scripted, Logged) else 0.0)
        return tuple(entry for at_s, entry in reversed(self.packages[package_id].log) if at_s <= until_s)

    def receive(self, meets: Answered, basis: Seen | None) -> CommandAnswer:
        """Takes a command or refuses it, and writes it into the ledger."""
        package = self.packages[meets.package_id]
        stay = package.stays[-1] if package.stays else Stay(0)
        takes_it = isinstance(meets.answer, Accepted | Ambiguous)
        fit = package.is_all_packed
        answer = meets.answer if fit or not takes_it else Refused(406, "not in this state")
        self.received.append(Received(meets.package_id, stay, self.world.now_s, answer, basis))
        if fit and takes_it and meets.applied_after_s is not None:
            self.world.at(self.world.now_s + meets.applied_after_s, lambda: self._take_effect(package, stay))
        return answer

    def _take_effect(self, package: Package, stay: Stay) -> None:
        if stay.effects or (package.stays[-1] is stay and package.state == PACKED):
            stay.effects += 1
        if package.stays[-1] is stay and package.state == PACKED:
            transition = str(COMMAND.transition_id)
            self._write(package, SHIPPED, (SHIPPED, SHIPPED), "package.status.shipped", transition)

    def _write(
        self, package: Package, new: str, items: tuple[str, ...], event_type: str | None, transition: str | None = None
    ) -> None:
        old = package.state if package.versions else ""
        package.versions.append((self.world.now_s, self._version(package.package_id, new, items)))
        if old == new:
            return
        entry = LoggedTransition(
            len(package.log) + 1, _state(old or READY), _state(new), transition, None, self.world.clock()
        )
        package.log.append((self.world.now_s, entry))
        if old == PACKED:
            package.stays[-1].left_for = new
        if new == PACKED:
            package.stays.append(Stay(len(package.stays) + 1))
        if event_type is not None:
            self._announce(package.package_id, event_type)

    def _version(self, package_id: int, state: str, items: tuple[str, ...]) -> PackageSnapshot:
        offers = self._history.offers and state == PACKED
        return PackageSnapshot(
            package_id=package_id,
            state=_state(state),
            items=Items(
                tuple(Item(n, StateValue(PACKAGE_ITEM_STATUS, one), package_id) for n, one in enumerate(items))
            ),
            offered=(OfferedCommand(None, str(COMMAND.transition_id), None),) if offers else None,
            modified_at=START + timedelta(seconds=self.world.now_s) if self._history.dated else None,
            facts={"channel_name": FOREIGN_CHANNEL if package_id in self._history.foreign else "Shop"},
        )

    def _scripted(self, kind: type[Event], package_id: int) -> Event | None:
        script = self._scripts.get((kind, package_id))
        return script.popleft() if script else None


class Client(Oms):
    """What one look asks the OMS, in the place of the real client; time passes during each call."""

    def __init__(self, oms: SimulatedOms, look: int) -> None:
        self._oms = oms
        self._look = look
        self._basis: Seen | None = None

    def read(self, package_id: int) -> Reading:
        oms, world = self._oms, self._oms.world
        world.step()
        began_s, shown = world.now_s, oms.shown(package_id)
        oms.packages[package_id].read_at_s.append(began_s)
        reading = shown.reading or oms.snapshot(shown)
        world.advance(shown.takes_s)
        world.step()
        if world.now_s - began_s > TIMEOUT_S + 1:
            return ReadFailed("the answer came after the deadline")
        if isinstance(reading, PackageSnapshot):
            allowed = _is_packed(reading) and _all_packed(reading) and _offers_ours(reading)
            self._basis = Seen(self._look, began_s, world.now_s, _is_packed(reading), allowed)
            oms.packages[package_id].seen.append(self._basis)
        return reading

    def transition_log(self, package_id: int) -> tuple[LoggedTransition, ...] | NotFound:
        self._oms.world.advance(0.1)
        log = self._oms.log_of(package_id)
        return NotFound() if log is None else log

    def command(self, package_id: int, command: Command, first_byte_by: float | None = None) -> CommandAnswer:
        world = self._oms.world
        world.step()
        if first_byte_by is not None and world.monotonic() > first_byte_by:
            return NotSent("not under way in time")
        meets = self._oms.answered(package_id)
        sent = not isinstance(meets.answer, NotSent)
        answer = self._oms.receive(meets, self._basis) if sent else meets.answer
        world.advance(meets.takes_s)
        world.step()
        return answer


def _state(value: str) -> StateValue:
    return StateValue(PACKAGE_STATUS, value)


def _is_packed(snapshot: PackageSnapshot) -> bool:
    return snapshot.state == _state(PACKED)


def _all_packed(snapshot: PackageSnapshot) -> bool:
    items = snapshot.items
    return items is not None and items.counts() == {PACKED: len(items.items)}


def _offers_ours(snapshot: PackageSnapshot) -> bool:
    return snapshot.offered is None or snapshot.offered[0].transition == str(COMMAND.transition_id)


def _offering_another(snapshot: PackageSnapshot) -> PackageSnapshot:
    return replace(snapshot, offered=(OfferedCommand(None, "99", None),))
