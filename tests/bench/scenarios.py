"""What is measured. A scenario starts its sides, one after the other, and gives one sample for each name."""

from __future__ import annotations

import signal
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import sqlalchemy as sa

from tests.bench import million
from tests.bench.load import Told
from tests.bench.sides import AT_ONCE, Ground, Side, cpu_s, memory_mb
from tests.commands import family
from tests.processes import wait_until

# A read, the command, the read-back.
CALLS_NEEDED = 3
OMS_S = 0.2
LIMIT_PER_S = 20
LEAST = "the least"
THREE_CALLS = "CPU ms: the three calls of a package alone"
_OF_A_STORE = {
    "one acknowledged": million.ACKNOWLEDGED,
    "one claimed": million.CLAIM,
    "one explained": million.EXPLAINED,
}
_HANGS_S = 3600.0
_FINISHED_WITHIN_S = 900.0
Samples = dict[str, float]
Sides = Mapping[str, Callable[[], AbstractContextManager[Side]]]


@dataclass(frozen=True)
class Round:
    """One round. At `scale` 1 it has its full size; with each `turn` another side goes first."""

    ground: Ground
    scale: float
    turn: int

    def size(self, full: int, at_least: int = 20) -> int:
        return max(int(full * self.scale), at_least)

    def started(self, sides: Sides) -> list[tuple[str, AbstractContextManager[Side]]]:
        named = list(sides.items())
        first = self.turn % len(named)
        return [(name, start()) for name, start in named[first:] + named[:first]]


def stand_in(one: Round) -> Samples:
    """What the stand-in OMS itself can do, to see that it is not what is measured."""
    return {"stand-in: calls/s": one.ground.ceiling(one.size(10_000))}


def called(one: Round) -> Samples:
    """What the HTTP client and the reading of its answers take of a package's CPU, with nothing else going on."""
    count = one.size(1000)
    return {THREE_CALLS: 1000 * one.ground.three_calls_s(count) / count}


def acknowledged(one: Round) -> Samples:
    """Webhooks answered in a second, eight at once, one in ten sent twice."""
    ground, count = one.ground, one.size(3000)
    sides: Sides = {
        "bare Flask": ground.bare,
        "PostgreSQL": lambda: ground.autoship(workers=0),
        LEAST: ground.floor,
        "SQLite": ground.autoship_on_sqlite,
    }
    samples: Samples = {}
    for name, starting in one.started(sides):
        with starting as side:
            ground.begin(count)
            before = _used(side)
            told = ground.load(side, count, repeated_every=10)
            web_s, store_s = _used(side, before)
            deliveries = len(told.took_s)
            samples[f"acknowledged/s: {name}"] = deliveries / (told.ended_at - told.began_at)
            samples[f"CPU ms a delivery: {name}"] = 1000 * web_s / deliveries
            samples[f"load, share of a core: {name}"] = told.share_of_a_core
            if name == "PostgreSQL":
                samples["CPU ms a delivery: PostgreSQL itself"] = 1000 * store_s / deliveries
    return samples


def hanging(one: Round) -> Samples:
    """How long answers take at 100 a second, with an OMS that answers at once and one that never does."""
    samples: Samples = {}
    for name, starting in one.started(dict.fromkeys(("fast", "hangs"), one.ground.autoship)):
        with starting as side:
            one.ground.begin(one.size(2000), _HANGS_S if name == "hangs" else 0.0)
            took_s = one.ground.load(side, one.size(2000), rate_per_s=100).took_s
            samples[f"p99 ms: OMS {name}"] = 1000 * statistics.quantiles(took_s, n=100)[98]
    return samples


def drained(one: Round) -> Samples:
    """Due packages shipped in a second where each call takes 200 ms; the OMS tells of each that it has shipped."""
    samples = Samples()
    plans = {"one worker": (1, True, 2000), "two workers": (2, True, 2000), "one worker, no echo": (1, False, 200)}
    for name, starting in one.started(dict.fromkeys(plans, lambda: one.ground.autoship(0, OMS_RATE_PER_S="0"))):
        workers, echo, packages = plans[name]
        count = one.size(packages)
        with starting as side:
            one.ground.begin(count, OMS_S, side if echo else None)
            one.ground.load(side, count)
            one.ground.add_workers(side, workers)
            ended_at = _all_shipped(side, count)
            asked = one.ground.asked()
            samples[f"drained/s: {name}"] = count / (ended_at - asked["reads"][0][1])
            samples[f"calls at once: {name}"] = asked["most_under_way"]
    return samples | {"drained/s: ideal": AT_ONCE / (CALLS_NEEDED * OMS_S)}


def limited(one: Round) -> Samples:
    """The most packages taken up in any span of five seconds or more, by what the rate allows in it."""
    count = one.size(200, at_least=80)
    with one.ground.autoship(workers=0, OMS_RATE_PER_S=str(LIMIT_PER_S)) as side:
        side.note_claims()
        one.ground.begin(count)
        one.ground.load(side, count)
        one.ground.add_workers(side, 2)
        _all_shipped(side, count)
        asked_at = [at for _, at in one.ground.asked()["reads"]]
        return {
            "taken up ÷ allowed": _most_by_allowed(side.claimed_at()),
            "taken up ÷ allowed, as it arrives at the OMS": _most_by_allowed(asked_at),
        }


def burst(one: Round) -> Samples:
    """Packages finished in a second, from the first webhook on, and what that costs; the OMS answers at once."""
    count, samples = one.size(2000), Samples()
    for name, starting in one.started(_solutions(one.ground)):
        with starting as side:
            one.ground.begin(count)
            before = _used(side)
            told = one.ground.load(side, count)
            ended_at = _finished(one.ground, side, count)
            own_s, store_s = _used(side, before)
            samples[f"finished/s: {name}"] = count / (ended_at - told.began_at)
            samples[f"CPU ms a package: {name}"] = 1000 * own_s / count
            samples[f"CPU ms a package, store: {name}"] = 1000 * store_s / count
            samples[f"memory MB: {name}"] = memory_mb(side.pids())
            if name == "Autoship":
                samples["stored bytes a package"] = _stored_bytes(side) / count
    return samples


def at_a_rate(one: Round) -> Samples:
    """From sending the webhook to the command's arrival at the OMS, at 100 a second."""
    count, samples = one.size(1000), Samples()
    for name, starting in one.started(_solutions(one.ground)):
        with starting as side:
            one.ground.begin(count)
            told = one.ground.load(side, count, rate_per_s=100)
            _finished(one.ground, side, count)
            samples[f"webhook to command p50 ms: {name}"] = 1000 * statistics.median(
                _delays(told, one.ground.asked()["commands"])
            )
    return samples


def calm(one: Round) -> Samples:
    """Calls for each package where five are packed a second and nothing goes wrong."""
    count = one.size(100)
    with one.ground.autoship() as side:
        one.ground.begin(count, echo=side)
        one.ground.load(side, count, rate_per_s=5)
        _all_shipped(side, count)
        return {"OMS calls a package": one.ground.asked()["calls"] / count}


def idle(one: Round) -> Samples:
    """What a worker asks the database when there is nothing to do, and how soon it begins when there is."""
    watched_s, count = max(60 * one.scale, 10), one.size(60, at_least=10)
    with one.ground.autoship() as side:
        one.ground.begin(count)
        told = one.ground.load(side, count, rate_per_s=2)
        _all_shipped(side, count)
        delays_s = _delays(told, one.ground.asked()["reads"])
        wait_until(side.swept)
        side.processes[0].signal(signal.SIGSTOP)  # the web process has questions of its own
        statements = one.ground.statements(watched_s)
    return {
        "idle statements/s": statements / watched_s,
        "webhook to read p50 ms: idle": 1000 * statistics.median(delays_s),
        "webhook to read worst ms: idle": 1000 * max(delays_s),
    }


SCENARIOS: tuple[Callable[[Round], Samples], ...] = (
    stand_in,
    called,
    acknowledged,
    hanging,
    drained,
    limited,
    burst,
    at_a_rate,
    calm,
    idle,
)


def full_store(scale: float, rounds: int) -> dict[str, list[float]]:
    """What one client is answered in a second by a store of years and by an empty one, in turn."""
    sizes, asked = (int(1_000_000 * scale), int(100_000 * scale)), 5 * rounds
    stores = million.measured(*sizes, asked, "postgres", _OF_A_STORE.values())
    return {
        f"{name}/s: {state}": [1 / seconds for seconds in store[question]]
        for state, store in zip(("empty", "full"), stores, strict=True)
        for name, question in _OF_A_STORE.items()
    }


def _solutions(ground: Ground) -> Sides:
    return {
        "Autoship": lambda: ground.autoship(OMS_RATE_PER_S="0"),
        LEAST: ground.floor,
        "Celery": ground.textbook,
        "naive Flask": ground.naive,
    }


def _used(side: Side, before: tuple[float, float] = (0.0, 0.0)) -> tuple[float, float]:
    """The CPU seconds of the side's processes and of its store, since `before`."""
    store = family(side.store) if side.store else set()
    return cpu_s(side.pids()) - before[0], cpu_s(store) - before[1]


def _finished(ground: Ground, side: Side, count: int) -> float:
    """When the last package was: with us the one known to be shipped, else the one commanded."""
    if side.place is not None:
        return _all_shipped(side, count)
    wait_until(lambda: len({one for one, _ in ground.asked()["commands"]}) == count, _FINISHED_WITHIN_S)
    return float(max(at for _, at in ground.asked()["commands"]))


def _all_shipped(side: Side, count: int) -> float:
    wait_until(lambda: side.shipped()[0] == count, _FINISHED_WITHIN_S)
    return side.shipped()[1]


def _delays(told: Told, arrived: Sequence[tuple[int, float]]) -> list[float]:
    """From sending each package's webhook to the first of what arrived about it."""
    first: dict[int, float] = {}
    for package_id, at in arrived:
        first.setdefault(package_id, at)
    return [first[package_id] - sent_at for package_id, sent_at in told.sent_at.items()]


def _most_by_allowed(taken_at: Sequence[float]) -> float:
    """The rate allows a second's worth at once and its share of any time that passes; moments in their order."""
    spans = (
        ((end - begin + 1) / (LIMIT_PER_S * (taken_at[end] - taken_at[begin] + 1)))
        for begin in range(len(taken_at))
        for end in range(begin, len(taken_at))
        if taken_at[end] - taken_at[begin] >= 5
    )
    return max(spans, default=0.0)


def _stored_bytes(side: Side) -> int:
    if side.place is None:
        raise TypeError("only Autoship has a database here")
    with side.place.reading() as transaction:
        tables = sa.text("SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables")
        return int(transaction.execute(tables).scalar_one())
