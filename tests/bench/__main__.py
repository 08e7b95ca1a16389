"""How fast it is, against what else one could run: into docs/performance.md, .json and plots.

python -m tests.bench [--rounds 5] [--scale 1] [--only burst …]

Needs what tests/bench/requirements.txt pins, and Debian's redis-server. At a smaller scale, or of some scenarios only,
the page is written to var/performance instead: its figures prove no more than that it runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from tests.bench import report, scenarios
from tests.bench.sides import Ground
from tests.reliability.fleet import ROOT

DOCS, SCALED = ROOT / "docs", ROOT / "var/performance"
_NAMES = [one.__name__ for one in (*scenarios.SCENARIOS, scenarios.full_store)]
_PACKAGES = ("flask", "gunicorn", "httpx", "sqlalchemy", "psycopg", "celery", "redis")


def measured(ground: Ground, rounds: int, scale: float, only: list[str]) -> dict[str, list[float]]:
    """Each sample's values, one for each round."""
    found: dict[str, list[float]] = {}
    chosen = [one for one in scenarios.SCENARIOS if not only or one.__name__ in only]
    for turn, scenario in itertools.product(range(rounds), chosen):
        began = time.monotonic()
        for name, value in scenario(scenarios.Round(ground, scale, turn)).items():
            found.setdefault(name, []).append(value)
        print(f"round {turn + 1}: {scenario.__name__} in {time.monotonic() - began:.0f} s", flush=True)
    return found


def write(folder: Path, result: dict[str, Any]) -> None:
    """The result, the page and the plots."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"performance.json": json.dumps(result, indent=1) + "\n", "performance.md": report.page(result)}
    for name, text in (texts | report.plots(result)).items():
        (folder / name).write_text(text, encoding="utf-8")


def _machine() -> str:
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line)
    kept_on = _said("stat", "--file-system", "--format=%T", tempfile.gettempdir())
    return f"{os.cpu_count()} cores, {model.partition(': ')[2]}, {platform.system()} {platform.release()}, {kept_on}"


def _versions(postgres_version: str) -> str:
    redis = _said("redis-server", "--version").split()[2].removeprefix("v=")
    libraries = (f"{name} {metadata.version(name)}" for name in _PACKAGES)
    return f"Python {platform.python_version()}, {postgres_version}, Redis {redis}, {', '.join(libraries)}"


def _said(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", default=[], choices=_NAMES)
    asked = parser.parse_args()
    if asked.scale == 1 and _said("stat", "--file-system", "--format=%T", tempfile.gettempdir()) == "tmpfs":
        parser.error("TMPDIR lies in memory, where a commit costs nothing: set it to a folder on a disk")
    about = {"machine": _machine(), "day": f"{datetime.now(UTC):%Y-%m-%d}"}
    about |= {"commit": _said("git", "describe", "--always", "--dirty", "--abbrev=12")}
    with ExitStack() as stack:
        ground = Ground(stack)
        about |= {"versions": _versions(ground.postgres_version())}
        samples = measured(ground, asked.rounds, asked.scale, asked.only)
    if not asked.only or scenarios.full_store.__name__ in asked.only:
        samples |= scenarios.full_store(asked.scale, asked.rounds)
    folder = DOCS if asked.scale == 1 and not asked.only else SCALED
    write(folder, about | {"scale": asked.scale, "rounds": asked.rounds, "samples": samples})
    print((folder / "performance.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
