"""Runs many histories and shows the first one that breaks a promise, as small as it can be made.

python -m tests.simulation --histories 10000 --seed 1
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from dataclasses import replace

from tests.simulation import judge
from tests.simulation.history import History, draw
from tests.simulation.run import Simulation, Storage


def found_in(history: History, storage: Storage) -> list[str]:
    """The violations of one history."""
    simulation = Simulation(history, storage)
    simulation.run()
    return judge.violations(simulation)


def smallest(history: History, storage: Storage, kind: str) -> History:
    """The history without every event that the violation of this kind does not need."""
    size = len(history.events)
    while size:
        for start in range(0, len(history.events), size):
            fewer = replace(history, events=history.events[:start] + history.events[start + size :])
            if len(fewer.events) < len(history.events) and _has(fewer, storage, kind):
                history = fewer
                break
        else:
            size //= 2
    return history


def first_violation(seeds: range, storage: Storage) -> tuple[History, list[str]] | None:
    """The first history of these seeds that breaks a promise, made small, with what it breaks."""
    for seed in seeds:
        found = found_in(draw(seed), storage)
        if found:
            history = smallest(draw(seed), storage, _kind(found))
            return history, found_in(history, storage)
    return None


def told(history: History, found: list[str]) -> str:
    """A history and its violations for people."""
    timed = sorted(history.events, key=lambda event: getattr(event, "at_s", -1.0))
    lines = [
        str(replace(history, events=())),
        *(f"  {event}" for event in timed),
        *(f"violates {one}" for one in found),
    ]
    return "\n".join(lines)


def _kind(found: list[str]) -> str:
    return found[0].partition(":")[0]


def _has(history: History, storage: Storage, kind: str) -> bool:
    return any(one.startswith(kind) for one in found_in(history, storage))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    logging.disable()
    began_s = time.process_time()
    violation = first_violation(range(chosen.seed, chosen.seed + chosen.histories), Storage())
    if violation is not None:
        print(told(*violation))
        return 1
    per_minute = chosen.histories / (time.process_time() - began_s) * 60
    print(f"{chosen.histories} histories without a violation, {per_minute:.0f} a minute of one core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
