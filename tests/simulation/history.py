"""A history: what the OMS, its people, the sender, the operator and the machines do to us, drawn from a seed.

The events are independent of each other, so any of them may be left out and the rest is still a history: that is
how a violation is made small. Without events everything goes well: one prompt delivery, prompt and true answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from service.outcome import (
    Accepted,
    Ambiguous,
    BadShape,
    CommandAnswer,
    Misconfigured,
    NotFound,
    NotSent,
    ReadFailed,
    Reading,
    Refused,
    Throttled,
    Unauthorised,
)

TIMEOUT_S = 10.0
# How far behind a read may be: less than SETTLE_S, and less than EPISODE_S once a package is known to have left.
STALE_MOST_S = 2.0
OUTDATED_MOST_S = 25.0
# An effect of the command is visible to every read 3 × OMS_TIMEOUT_S after the send, or never.
EARLIER_SHARE = 0.2
LATE_MOST_S = 3 * TIMEOUT_S - STALE_MOST_S - 0.1


@dataclass(frozen=True, slots=True)
class Move:
    """People at work in the OMS: pack, pack_mixed, settle (its items), unpack, cancel, ship."""

    at_s: float
    package_id: int
    what: str


@dataclass(frozen=True, slots=True)
class Earlier:
    """Before we were there, the package was Packed, shipped by the very transition that we command, and taken back."""

    package_id: int


@dataclass(frozen=True, slots=True)
class Post:
    """How the package's next event is delivered: after so many seconds, under a fresh uuid or its own. () is lost."""

    package_id: int
    deliveries: tuple[tuple[float, bool], ...]


@dataclass(frozen=True, slots=True)
class Stray:
    """An event of another family whose id happens to be the package's."""

    at_s: float
    package_id: int


@dataclass(frozen=True, slots=True)
class Shown:
    """The package's next read. Without a reading it is shown as it was `stale_s` ago."""

    package_id: int
    takes_s: float
    stale_s: float = 0.0
    reading: Reading | None = None
    offered: bool = True


@dataclass(frozen=True, slots=True)
class Outdated:
    """For a while packages that we have closed are shown as they were `by_s` ago."""

    at_s: float
    until_s: float
    by_s: float


@dataclass(frozen=True, slots=True)
class Logged:
    """The package's next look into the transition log: what happened in the last `lag_s` is missing yet."""

    package_id: int
    lag_s: float


@dataclass(frozen=True, slots=True)
class Answered:
    """The package's next command: what it is answered, and when it takes effect, if it does."""

    package_id: int
    answer: CommandAnswer
    takes_s: float
    applied_after_s: float | None


@dataclass(frozen=True, slots=True)
class Outage:
    """For a while every command is answered so and takes no effect, and every read too if one is given."""

    at_s: float
    until_s: float
    reading: Reading | None
    answer: CommandAnswer


@dataclass(frozen=True, slots=True)
class Order:
    """The operator: pause, resume, recheck, dismiss."""

    at_s: float
    package_id: int
    what: str


@dataclass(frozen=True, slots=True)
class Disruption:
    """The worker that takes the `steps`-th step after this time has a crash, a freeze or no database."""

    at_s: float
    steps: int
    kind: str
    frozen_s: float = 0.0


Event = Move | Earlier | Post | Stray | Shown | Outdated | Logged | Answered | Outage | Order | Disruption


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Who takes part and what happens.

    `dated`: packages carry `modified_date`. `log`: we may read the transition log. `foreign`: the packages a rule
    leaves to others.
    """

    seed: int
    packages: tuple[int, ...]
    foreign: frozenset[int]
    live: bool
    dated: bool
    log: bool
    offers: bool
    shipped_known: bool
    workers: int
    events: tuple[Event, ...]


def draw(seed: int) -> History:
    """The history of this seed."""
    rng = Random(seed)
    packages = tuple(range(71, 71 + rng.choice((1, 1, 1, 1, 2, 3))))
    events: list[Event] = []
    for package_id in packages:
        events += _story(rng, package_id)
        events += [_post(rng, package_id) for _ in range(rng.randint(0, 4))]
        events += [_shown(rng, package_id) for _ in range(rng.randint(0, 5))]
        events += [Logged(package_id, rng.choice((0.0, 5.0, 60.0))) for _ in range(rng.randint(0, 2))]
        events += [_answered(rng, package_id) for _ in range(rng.randint(0, 3))]
        events += [Stray(rng.uniform(0, 60), package_id) for _ in range(rng.randint(0, 1))]
    events += [_outage(rng) for _ in range(rng.randint(0, 1))]
    events += [_outdated(rng) for _ in range(rng.randint(0, 1))]
    events += [_order(rng, packages) for _ in range(rng.randint(0, 2))]
    events += [_disruption(rng) for _ in range(rng.randint(0, 3))]
    # Drawn apart, so that all else of a seed's history stays as it was.
    apart = Random(~seed)
    events += [Earlier(package_id) for package_id in packages if apart.random() < EARLIER_SHARE]
    return History(
        seed=seed,
        packages=packages,
        foreign=frozenset(one for one in packages if rng.random() < 0.1),
        live=rng.random() < 0.95,
        dated=rng.random() < 0.5,
        log=rng.random() < 0.7,
        offers=rng.random() < 0.7,
        shipped_known=rng.random() < 0.6,
        workers=rng.choice((1, 2, 3)),
        events=tuple(events),
    )


def _story(rng: Random, package_id: int) -> Iterator[Event]:
    at_s = rng.uniform(0.5, 10)
    yield Move(at_s, package_id, rng.choice(("pack", "pack", "pack", "pack_mixed")))
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        at_s += rng.choice((rng.uniform(0, 2), rng.uniform(0, 20), rng.uniform(0, 60)))
        yield Move(at_s, package_id, rng.choice(("pack", "pack", "pack_mixed", "settle", "unpack", "cancel", "ship")))


def _post(rng: Random, package_id: int) -> Post:
    delays_s = (rng.uniform(0, rng.choice((1, 30, 120))) for _ in range(rng.randint(0, 3)))
    return Post(package_id, tuple((delay_s, rng.random() < 0.4) for delay_s in delays_s))


def _shown(rng: Random, package_id: int) -> Shown:
    takes_s = rng.choice((rng.uniform(0, 0.5), rng.uniform(0, 0.5), rng.uniform(0, TIMEOUT_S)))
    if rng.random() < 0.3:
        readings = (ReadFailed("ReadTimeout"), ReadFailed("answered 502"), NotFound(), BadShape("no object"))
        return Shown(package_id, takes_s, reading=rng.choice((*readings, Unauthorised(403, ""))))
    stale_s = rng.choice((0.0, 0.0, rng.uniform(0, STALE_MOST_S)))
    return Shown(package_id, takes_s, stale_s, offered=rng.random() < 0.9)


def _answered(rng: Random, package_id: int) -> Answered:
    quick_s, late_s = rng.uniform(0, 1), rng.uniform(0, LATE_MOST_S)
    return rng.choice(
        (
            Answered(package_id, Accepted(204), quick_s, 0.0),
            Answered(package_id, Accepted(204), quick_s, late_s),
            Answered(package_id, Accepted(204), quick_s, None),
            Answered(package_id, Refused(400, "Omnitron lags"), quick_s, None),
            Answered(package_id, Refused(406, "not now"), quick_s, None),
            Answered(package_id, Unauthorised(403, "no"), quick_s, None),
            Answered(package_id, Ambiguous("ReadTimeout"), TIMEOUT_S, None),
            Answered(package_id, Ambiguous("ReadTimeout"), TIMEOUT_S, 0.0),
            Answered(package_id, Ambiguous("ReadTimeout"), TIMEOUT_S, late_s),
            Answered(package_id, Ambiguous("ReadError"), quick_s, late_s),
            Answered(package_id, Ambiguous("ReadError"), quick_s, None),
            Answered(package_id, Ambiguous("answered 502", 502, concluded=True), quick_s, 0.0),
            Answered(package_id, Ambiguous("answered 500", 500, concluded=True), quick_s, None),
            Answered(package_id, NotSent("ConnectError"), quick_s, None),
        )
    )


def _outage(rng: Random) -> Outage:
    at_s = rng.uniform(0, 60)
    throttled, moved = Throttled(timedelta(seconds=rng.randint(1, 60))), Misconfigured(302)
    reading, answer = rng.choice(
        (
            (ReadFailed("ConnectTimeout"), NotSent("ConnectTimeout")),
            (ReadFailed("answered 503"), Ambiguous("answered 503", 503, concluded=True)),
            (Unauthorised(401, ""), Unauthorised(401, "")),
            (None, Unauthorised(401, "")),
            (None, Unauthorised(403, "")),
            (throttled, throttled),
            (None, throttled),
            (moved, moved),
        )
    )
    return Outage(at_s, at_s + rng.uniform(1, 120), reading, answer)


def _outdated(rng: Random) -> Outdated:
    at_s = rng.uniform(0, 60)
    return Outdated(at_s, at_s + rng.uniform(1, 60), rng.uniform(STALE_MOST_S, OUTDATED_MOST_S))


def _order(rng: Random, packages: tuple[int, ...]) -> Order:
    return Order(rng.uniform(0, 120), rng.choice(packages), rng.choice(("pause", "resume", "recheck", "dismiss")))


def _disruption(rng: Random) -> Disruption:
    frozen_s = rng.choice((rng.uniform(0, 10), rng.uniform(55, 130)))
    kind = rng.choice(("crash", "crash", "freeze", "freeze", "database"))
    return Disruption(rng.uniform(0, 60), rng.randint(0, 12), kind, frozen_s)
