"""Every campaign at full size, for as long as it takes, and what came of it in docs/reliability.md.

python -m tests.reliability.full [--scale 0.1] [--seed N]

Ctrl-C ends it, and the same command goes on where it stood. At a smaller scale the page is written to
var/reliability.md instead. A tenth has every cell of the fault matrix.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path

from tests import postgres
from tests.reliability import campaign, matrix, volume
from tests.reliability.campaign import percentile
from tests.reliability.fleet import ROOT
from tests.reliability.ledger import Judgement
from tests.simulation.__main__ import PART, found_in
from tests.simulation.history import draw
from tests.simulation.run import Storage

ENGINES = ("SQLite", "PostgreSQL")
_CORES = os.cpu_count() or 1
DELIVERIES_A_KILL = 50
PAGE, SCALED_PAGE = ROOT / "docs/reliability.md", ROOT / "var/reliability.md"


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of a part of a campaign, as counts. `sizes` says how much of what there was."""

    sizes: Mapping[str, int]
    lost: int = 0
    double: int = 0
    false_success: int = 0
    unresolved: int = 0
    recoveries_s: Sequence[float] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a campaign, run at one go. `size`: how many kills, commands, packages, cells or histories."""

    campaign: str
    number: int
    size: int
    run: Callable[[], Result]

    @property
    def key(self) -> str:
        return f"{self.campaign} {self.number}"


def parts(scale: float, seed: int) -> list[Part]:
    """All that there is to run: at scale 1 what the page promises."""
    seeds = range(seed, seed + _scaled(10, scale))
    kills, many, histories = _scaled(100, 10 * scale), _scaled(500, 10 * scale), _scaled(2000, scale)
    return [
        *(
            Part(f"killed processes, {one}", n, kills, partial(_killed, one, kills, n))
            for n in seeds
            for one in ENGINES
        ),
        *(Part("commands that time out", n, many, partial(_timed_out, many, n)) for n in seeds),
        *(Part("every webhook dropped", n, many, partial(_dropped, many, n)) for n in seeds),
        *(
            Part("fault matrix", number, len(_cells(one, scale, seed)), partial(_matrix, one, scale, seed))
            for number, one in enumerate(matrix.FREQUENCIES)
        ),
        *(
            Part("simulated histories", first, histories, partial(_simulated, range(first, first + histories)))
            for first in range(seed, seed + 50 * histories, histories)
        ),
    ]


def _cells(frequency: str, scale: float, seed: int) -> list[matrix.Cell]:
    return matrix.cells((frequency,), seed)[:: max(1, round(0.1 / scale))]


def _scaled(number: int, scale: float) -> int:
    return max(1, round(number * min(1.0, scale)))


def _counts(sizes: Mapping[str, int], judged: Sequence[Judgement], recoveries_s: Sequence[float] = ()) -> Result:
    return Result(
        sizes,
        lost=sum(len(one.lost) for one in judged),
        double=sum(len(one.double) for one in judged),
        false_success=sum(len(one.false_success) for one in judged),
        unresolved=sum(len(one.unresolved) for one in judged),
        recoveries_s=tuple(round(one, 2) for one in recoveries_s),
    )


def _killed(engine: str, kills: int, seed: int) -> Result:
    with _database(engine) as url, campaign.autoship(url, 1 if engine == "SQLite" else 2, seed) as one:
        report = one.run(kills * DELIVERIES_A_KILL, kills, kills // 20)
    sizes = {"deliveries": report.deliveries, "SIGKILLs": report.kills, "freezes": report.freezes}
    return _counts(sizes, [report.judgement], report.recoveries_s)


@contextmanager
def _database(engine: str) -> Iterator[str]:
    with ExitStack() as stack:
        if engine == "SQLite":
            yield f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/autoship.db"
        else:
            yield stack.enter_context(postgres.database(stack.enter_context(postgres.server_url())))


def _timed_out(number: int, seed: int) -> Result:
    found = volume.timeouts(Storage(), number, seed)
    sizes = {"timeouts": sum(one.timeouts for one in found), "of them applied": sum(one.applied for one in found)}
    return _counts(sizes, [one.judgement for one in found])


def _dropped(number: int, seed: int) -> Result:
    found = volume.dropped_webhooks(Storage(), number, seed)
    return _counts({"packages": found.packages}, [found.judgement], found.waited_s)


def _matrix(frequency: str, scale: float, seed: int) -> Result:
    count = len(_cells(frequency, scale, seed))
    shares = [slice(start, None, _CORES) for start in range(_CORES)]
    with ProcessPoolExecutor(_CORES) as processes:
        broken = [*chain.from_iterable(processes.map(partial(_broken_cells, frequency, scale, seed), shares))]
    # Which promise a broken cell breaks is in its words; here it counts as open.
    for one in broken:
        print(one, flush=True)
    return Result({"cells": count}, unresolved=len(broken))


def _broken_cells(frequency: str, scale: float, seed: int, share: slice) -> list[str]:
    logging.disable()
    return matrix.problems(list(matrix.judged(_cells(frequency, scale, seed)[share])))


# What the judge of the histories finds, by the promise it breaks; all else leaves something open.
_LOST, _DOUBLE, _FALSE = ("hints", "accounting"), ("commands", "effects", "holds"), ("claims",)


def _simulated(seeds: range) -> Result:
    shares = [range(start, min(start + PART, seeds.stop)) for start in seeds[::PART]]
    with ProcessPoolExecutor() as processes:
        found = sum(processes.map(_violations, shares), Counter[str]())
    lost, double, false_success = (sum(found[kind] for kind in kinds) for kinds in (_LOST, _DOUBLE, _FALSE))
    return Result({"histories": len(seeds)}, lost, double, false_success, found.total() - lost - double - false_success)


def _violations(seeds: range) -> Counter[str]:
    logging.disable()
    storage = Storage()
    return Counter(one.partition(":")[0] for seed in seeds for one in found_in(draw(seed), storage))


# What is finished already.


class Progress:
    """The file of finished parts. Those of another commit, scale or seed are not ours."""

    def __init__(self, path: Path, run: Mapping[str, object]) -> None:
        self._path = path
        self._run = dict(run)
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        same = stored.get("run") == self._run
        self.results: dict[str, Result] = {
            key: Result(**result) for key, result in (stored["results"] if same else {}).items()
        }

    def add(self, part: Part, result: Result) -> None:
        """Written at once, and whole or not at all."""
        self.results[part.key] = result
        stored = {"run": self._run, "results": {key: asdict(one) for key, one in self.results.items()}}
        self._path.parent.mkdir(exist_ok=True)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(stored), encoding="utf-8")
        fresh.replace(self._path)


def page(
    run: Mapping[str, object], wanted: Sequence[Part], results: Mapping[str, Result], machine: str, day: str
) -> str:
    """The page: a row for each campaign, out of what really came of its parts."""
    names = dict.fromkeys(one.campaign for one in wanted)
    rows = [_row(name, [results[one.key] for one in wanted if one.campaign == name]) for name in names]
    scaled = "" if run["scale"] == 1 else _SCALED.format(scale=run["scale"])
    return _PAGE.format(**run, scaled=scaled, machine=machine, day=day, rows="\n".join(rows))


def _row(name: str, found: Sequence[Result]) -> str:
    sizes = {size: sum(one.sizes[size] for one in found) for size in found[0].sizes}
    recoveries_s = [one for result in found for one in result.recoveries_s]
    cells = (
        name,
        ", ".join(f"{number:,} {size}" for size, number in sizes.items()),
        *(sum(getattr(one, what) for one in found) for what in ("lost", "double", "false_success", "unresolved")),
        f"{percentile(recoveries_s, 0.99):.1f} s" if recoveries_s else "",
    )
    return f"| {' | '.join(map(str, cells))} |"


_SCALED = """\
**A run at {scale:g} of the full size.**

"""
_PAGE = """\
# Reliability

{scaled}What came of `make reliability-full` at commit {commit} on {day}, with seed {seed}, on {machine}.

| campaign | size | lost | double | false success | unresolved | recovery p99 |
|---|---|---|---|---|---|---|
{rows}

- Lost: a delivery that was acknowledged and is not in the inbox, or a packed package that was never shipped.
- Double: a command that nothing justified, or that was applied a second time.
- False success: said to be shipped before the OMS had shipped it.
- Unresolved: shipped without our saying so, left without an end, or, in the matrix, a cell that broke a promise.
- Recovery: from the death of a worker to the next question about a package it had begun; where every webhook is
  dropped, from packed to commanded.

The judge is the ledger of the stand-in OMS, never our own database. `make reliability-full` runs it all again, for
hours; Ctrl-C ends it, and the same command goes on where it stood. `make reliability` is a tenth of it, with every cell
of the matrix, in a quarter of an hour.
"""


def _commit() -> str:
    described = ("git", "describe", "--always", "--dirty", "--abbrev=12")
    return subprocess.run(described, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def main() -> int:
    """Runs what is not finished yet and writes the page; 1 if a promise was broken, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    logging.disable()
    run: dict[str, object] = {"commit": _commit(), "scale": asked.scale, "seed": asked.seed}
    wanted, progress = parts(asked.scale, asked.seed), Progress(ROOT / f"var/reliability-{asked.scale:g}.json", run)
    try:
        _finish(wanted, progress)
    except KeyboardInterrupt:
        print(f"\n{len(progress.results)} of {len(wanted)} parts are finished; the same command goes on from here")
        return 130
    written = PAGE if asked.scale == 1 else SCALED_PAGE
    written.write_text(
        page(run, wanted, progress.results, _machine(), f"{datetime.now(UTC):%Y-%m-%d}"), encoding="utf-8"
    )
    print(written.read_text(encoding="utf-8"))
    broken = [one for one in progress.results.values() if one.lost or one.double or one.false_success or one.unresolved]
    return 1 if broken else 0


def _finish(wanted: Sequence[Part], progress: Progress) -> None:
    for number, part in enumerate(wanted, 1):
        if part.key in progress.results:
            continue
        began = time.monotonic()
        progress.add(part, part.run())
        print(f"{number}/{len(wanted)} {part.key}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
