"""Runs many histories and shows the first one that breaks a promise, as small as it can be made.

python -m tests.simulation --histories 10000 --seed 1
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from tests.simulation import judge
from tests.simulation.history import History, draw
from tests.simulation.run import Simulation, Storage

# Seeds a process runs before it reports.
PART = 100


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
    began_s, end = time.monotonic(), chosen.seed + chosen.histories
    parts = [range(start, min(start + PART, end)) for start in range(chosen.seed, end, PART)]
    with ProcessPoolExecutor() as processes:
        for violation in processes.map(_quietly, parts):
            if violation is not None:
                print(told(*violation))
                processes.shutdown(cancel_futures=True)
                return 1
    per_minute = chosen.histories / (time.monotonic() - began_s) * 60
    print(f"{chosen.histories} histories without a violation, {per_minute:.0f} a minute")
    return 0


def _quietly(seeds: range) -> tuple[History, list[str]] | None:
    logging.disable()
    return first_violation(seeds, Storage())


if __name__ == "__main__":
    sys.exit(main())
