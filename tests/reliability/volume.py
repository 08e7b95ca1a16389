"""Many packages and one kind of trouble: commands that time out, webhooks that are all lost, an OMS in a brown-out."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from service.case import CaseState
from tests.oms_faults import Fault, applied_then, hangs, html
from tests.reliability.ledger import Judgement
from tests.reliability.shift import Shift, a_shift, judgement
from tests.simulation.run import Storage

HOUR_S = 3600.0
SWEEP_INTERVAL_S = 300.0
# So many packages at once keep the work list short, as a shift of one worker is.
AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Commands that were not answered: half of them were applied. `repeated`: sent again though they had been."""

    timeouts: int
    applied: int
    repeated: int
    judgement: Judgement


def timeouts(storage: Storage, number: int, seed: int) -> list[TimedOut]:
    """So many commands time out, before or after they are applied; then the OMS is well."""
    sizes = [min(AT_ONCE, number - begun) for begun in range(0, number, AT_ONCE)]
    return [_timeouts(storage, size, Random(f"{seed} {part}")) for part, size in enumerate(sizes)]


def _timeouts(storage: Storage, number: int, rng: Random) -> TimedOut:
    packages = range(1, number + 1)
    applied = {one for one in packages if rng.random() < 0.5}

    def fault_for(operation: str, package_id: int | None) -> Fault | None:
        if operation != "command" or package_id is None or shift.oms.commands(package_id):
            return None
        return applied_then(hangs) if package_id in applied else hangs

    with a_shift(storage, rng.getrandbits(32)) as shift:
        shift.oms.fault_for = fault_for
        for package_id in packages:
            shift.pack(package_id)
        shift.run(HOUR_S, lambda: _all_shipped(shift, number))
        shift.run(shift.world.now_s + 60)
        repeated = sum(len(shift.oms.commands(one)) > 1 for one in applied)
        return TimedOut(number, len(applied), repeated, judgement(shift))


@dataclass(frozen=True, slots=True)
class Dropped:
    """Packages that no webhook announced. `waited_s`: from Packed to shipped, each."""

    packages: int
    waited_s: tuple[float, ...]
    judgement: Judgement


def dropped_webhooks(storage: Storage, number: int, seed: int) -> Dropped:
    """So many packages are packed within an hour, and every webhook is lost."""
    rng = Random(seed)
    with a_shift(storage, rng.getrandbits(32), SWEEP_INTERVAL_S=f"{SWEEP_INTERVAL_S:g}") as shift:
        shift.is_announced = False
        shift.run(1)  # the first sweep of all takes up no more than ADOPT_MAX
        packed_s = {package_id: 2 + rng.random() * HOUR_S for package_id in range(1, number + 1)}
        for package_id, at_s in packed_s.items():
            shift.world.at(at_s, lambda package_id=package_id: shift.pack(package_id))  # type: ignore[misc]
        shift.run(2 * HOUR_S, lambda: _all_shipped(shift, number))
        commanded_s = {one: shift.oms.commands(one)[-1].at_s for one in packed_s if shift.oms.commands(one)}
        waited_s = tuple(sorted(commanded_s[one] - packed_s[one] for one in commanded_s))
        return Dropped(number, waited_s, judgement(shift))


@dataclass(frozen=True, slots=True)
class BrownOut:
    """An hour in which half of all calls fail. `first` and `repeated` count the looks of that hour."""

    packages: int
    first: int
    repeated: int
    judgement: Judgement


def brown_out(storage: Storage, rate_per_s: float, share: float, seed: int) -> BrownOut:
    """For an hour half of all calls are answered 503, and packages are packed at this share of the rate."""
    rng = Random(seed)
    looked_at: list[int] = []

    def fault_for(operation: str, package_id: int | None) -> Fault | None:
        if shift.world.now_s >= HOUR_S:
            return None
        if operation in ("read", "read-back") and package_id is not None:
            looked_at.append(package_id)
        return html(503) if rng.random() < 0.5 else None

    number = int(HOUR_S * rate_per_s * share)
    with a_shift(storage, seed, OMS_RATE_PER_S=f"{rate_per_s:g}") as shift:
        shift.oms.fault_for = fault_for
        for package_id in range(1, number + 1):
            at_s = package_id / (rate_per_s * share)
            shift.world.at(at_s, lambda package_id=package_id: shift.pack(package_id))  # type: ignore[misc]
        shift.run(24 * HOUR_S, lambda: shift.world.now_s > HOUR_S and _all_shipped(shift, number))
        first = len(set(looked_at))
        return BrownOut(number, first, len(looked_at) - first, judgement(shift))


def _all_shipped(shift: Shift, number: int) -> bool:
    if len(shift.oms.applied) < 2 * number:  # packed and shipped, each: cheaper to ask than the database
        return False
    states = [row["state"] for row in shift.rows().values()]
    return states.count(CaseState.SHIPPED) == number
