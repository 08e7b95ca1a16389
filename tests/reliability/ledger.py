"""The judge: a stand-in OMS that remembers who asked what and when, and what its ledger proves in the end."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from service.sandbox import PACKED, Applied, Package, Request, Sent
from tests.oms_faults import FaultyOms, Outcome, applied_then, html, resets


@dataclass(frozen=True, slots=True)
class Touch:
    """One read or command of a package, and whose. `stay`: in which stay it found all Packed, None otherwise."""

    at: float
    who: str
    operation: str
    stay: int | None


@dataclass(slots=True)
class Tally:
    """One event: how often it was delivered and how often that was answered 2xx."""

    tried: int = 0
    answered: int = 0


@dataclass(frozen=True, slots=True)
class Books:
    """What the judged one claims: how often it saw which event, and where it says each package stands."""

    seen: Mapping[str, int]
    states: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What went wrong, each in words."""

    lost: tuple[str, ...]
    double: tuple[str, ...]
    false_success: tuple[str, ...]
    unresolved: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.double or self.false_success or self.unresolved)


@dataclass(kw_only=True)
class WitnessOms(FaultyOms):
    """Every caller has a token of its own, `<token>.<name>`, so that the ledger says who asked.

    `faults` is the share of commands that meet one: half are applied and never answered, half are answered 503
    and not applied. `announced` is told of every event instead of a sender.
    """

    faults: float = 0.0
    announced: Callable[[Sent], None] = lambda sent: None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.touches: dict[int, list[Touch]] = defaultdict(list)
        self._stays: Counter[int] = Counter()
        self._witnessing = threading.Lock()
        self._luck = random.Random(self.rng.random())

    def send(self, package_id: int, event_type: str, document: Mapping[str, object] | None = None) -> Sent:
        sent = super().send(package_id, event_type, document)
        self.announced(sent)
        return sent

    def pack(self, package_id: int, items: Iterable[str] | None = None) -> None:
        with self._witnessing:
            self._stays[package_id] += 1
        super().pack(package_id, items)

    def answer(self, request: Request) -> Outcome:
        token, _, who = request.token.partition(".")
        request = replace(request, token=token)
        # With a token that is not accepted, no package is reached.
        if request.operation not in ("read", "command") or request.token != f"Token {self.token}":
            return super().answer(request)
        package_id = int(request.path.split("/")[5])
        # Commands one at a time: otherwise the second of two could still find the package Packed.
        with self._witnessing:
            stay = self._stays[package_id] if _is_eligible(self.packages[package_id]) else None
            self.touches[package_id].append(Touch(time.monotonic(), who, request.operation, stay))
            return self._unlucky(request) if request.operation == "command" else super().answer(request)

    def _unlucky(self, request: Request) -> Outcome:
        luck = self._luck.random()
        if luck < self.faults / 2:
            return applied_then(resets)(self, request)
        return html(503)(self, request) if luck < self.faults else super().answer(request)

    def begun_by(self, who: str, within_s: float) -> list[int]:
        """The packages this caller asked about last and just now, and has not finished: to be shipped or confirmed."""
        since = time.monotonic() - within_s
        with self._witnessing:
            last = {package_id: touches[-1] for package_id, touches in self.touches.items()}
        return [
            package_id
            for package_id, touch in last.items()
            if touch.who == who and touch.at >= since
            if touch.operation == "command" or _is_eligible(self.packages[package_id])
        ]


def judge(oms: WitnessOms, deliveries: Mapping[str, Tally], books: Books | None) -> Judgement:
    """What the ledger proves. Without books only what the OMS itself saw counts.

    A delivery that was stored and could not be answered any more may be counted or not: the sender repeats it.
    """
    departures: dict[int, Applied] = {one.package_id: one for one in oms.applied if one.old == PACKED}
    lost = [f"package {one.package_id} was never shipped" for one in oms.packages.values() if _is_eligible(one)]
    double = [said for package_id in list(oms.touches) for said in _doubles(package_id, oms.touches[package_id])]
    if books is None:
        return Judgement(tuple(lost), tuple(double), (), ())
    lost += [
        f"event {uuid}: {tally.tried} deliveries, {tally.answered} answered 2xx, {books.seen.get(uuid, 0)} seen"
        for uuid, tally in dict(deliveries).items()
        if not tally.answered <= books.seen.get(uuid, 0) <= tally.tried
    ]
    by_command = {package_id for package_id, departure in departures.items() if departure.by_command}
    shipped = {package_id for package_id, state in books.states.items() if state == "shipped"}
    stuck = {package_id for package_id, state in books.states.items() if state in ("shipping", "needs_attention")}
    return Judgement(
        tuple(lost),
        tuple(double),
        tuple(f"package {one} is said to be shipped and is not" for one in sorted(shipped - by_command)),
        tuple(f"package {one} is {books.states.get(one)}" for one in sorted((by_command - shipped) | stuck)),
    )


def _is_eligible(package: Package) -> bool:
    return package.state == PACKED and set(package.items) == {PACKED}


def _doubles(package_id: int, touches: Iterable[Touch]) -> list[str]:
    """Commands that nothing justifies: where not all was Packed, or again in one stay without two reads in between.

    Two, because nothing is sent again before one read proved that the last command was not applied, nor ever
    without a fresh read.
    """
    found: list[str] = []
    commanded_in: int | None = None
    reads = 0
    for touch in touches:
        if touch.operation == "read":
            reads += 1
            continue
        if touch.stay is None:
            found.append(f"package {package_id} was commanded though not all of it was Packed")
        elif touch.stay == commanded_in and reads < 2:
            found.append(f"package {package_id} was commanded again after {reads} reads")
        commanded_in, reads = touch.stay, 0
    return found
