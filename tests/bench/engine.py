"""Rows with leases against job queues: how fast due work drains, and what becomes of it after SIGKILL.

Starts a PostgreSQL of its own (fsync on, Unix socket in a temporary folder) and ends it. The table it prints
is the one of docs/decisions/0002-engine.md. For the competitors: pip install procrastinate huey
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import pwd
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg

from service import worklist
from service.database import Database
from tests.bench.job_queues import FAR, THREADS, Huey, Procrastinate, say, seconds_until

LEASE = timedelta(seconds=5)


class Rows:
    """Ours: `worklist.claim` and `worklist.release`, called as the worker calls them."""

    def __init__(self, _: str, place: str) -> None:
        self.database = Database(place.replace("postgresql:", "postgresql+psycopg:"))
        self.database.migrate("https://oms.example")

    def enqueue(self, count: int) -> None:
        for package_id in range(1, count + 1):
            with self.database.transaction() as transaction:
                worklist.hint(transaction, package_id, "webhook")

    def drain(self, count: int) -> None:
        busy: set[Future[None]] = set()
        with ThreadPoolExecutor(THREADS) as threads:
            while count:
                busy |= {threads.submit(self._look, claimed) for claimed in self._claim(THREADS - len(busy))}
                finished, busy = wait(busy, return_when=FIRST_COMPLETED)
                count -= sum(done.result() is None for done in finished)

    def hold(self) -> None:
        seconds_until(lambda: bool(self._claim(1)), 3600, self.database.poll_interval_s)
        say("began")
        signal.pause()

    def after_far_retry(self, within_s: float) -> float | None:
        self.enqueue(1)
        self._look(self._claim(1)[0], next_look=FAR)
        self.enqueue(1)
        return seconds_until(lambda: bool(self._claim(1)), within_s, self.database.poll_interval_s)

    def _claim(self, most: int) -> tuple[worklist.Claim, ...]:
        return worklist.claim(self.database, most, most, LEASE, rate_per_s=0)

    def _look(self, claimed: worklist.Claim, next_look: timedelta | None = None) -> None:
        with self.database.transaction() as transaction:
            case = replace(claimed.case, last_look_at=transaction.now)
            at = None if next_look is None else transaction.now + next_look
            if not worklist.release(transaction, claimed, case, at):
                raise RuntimeError("a lease of 5 s ran out: this machine is too busy to measure on")


ENGINES: dict[str, type[Rows | Procrastinate | Huey]] = {
    "autoship": Rows,
    "autoship sqlite": Rows,
    "procrastinate": Procrastinate,
    "procrastinate + rescue": Procrastinate,
    "huey sqlite": Huey,
}


@contextmanager
def databases(binaries: Path) -> Iterator[Callable[[str], str]]:
    """Gives an engine, by its name, a new database of its own each time."""
    folder = Path(tempfile.mkdtemp(prefix="engine-"))
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    shutil.chown(folder, account.pw_uid)
    child: dict[str, Any] = {"user": account.pw_uid, "cwd": folder, "stdout": subprocess.DEVNULL}
    subprocess.run([f"{binaries}/initdb", "-D", "data", "-U", "bench", "-A", "trust"], check=True, **child)
    options = ["-D", "data", "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=on"]
    server = subprocess.Popen([f"{binaries}/postgres", *options], stderr=subprocess.DEVNULL, **child)
    numbers = itertools.count(1)

    def create(name: str) -> str:
        number = next(numbers)
        place = f"{'sqlite:///' if ENGINES[name] is Rows else ''}{folder}/{number}.db"
        if "sqlite" not in name:
            with psycopg.connect(f"postgresql://bench@/postgres?host={folder}", autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE engine_{number}".encode())
            place = f"postgresql://bench@/engine_{number}?host={folder}"
        ENGINES[name](name, place).enqueue(0)  # makes the tables
        return place

    try:
        ready = [f"{binaries}/pg_isready", "-q", "-h", str(folder)]
        seconds_until(lambda: subprocess.run(ready).returncode == 0, within_s=30, pause_s=0.1)
        yield create
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def drained(name: str, place: str, count: int) -> tuple[float, float]:
    """Due packages stored in a second, and worked off in a second."""
    storing, working = ENGINES[name](name, place), ENGINES[name](name, place)
    began = time.monotonic()
    storing.enqueue(count)
    stored = time.monotonic()
    if "sqlite" not in name:  # else it is chance whether autovacuum did it before the queries were planned
        with psycopg.connect(place, autocommit=True) as connection:
            connection.execute("ANALYZE")
    analyzed = time.monotonic()
    working.drain(count)
    return count / (stored - began), count / (time.monotonic() - analyzed)


def resumed(name: str, place: str, within_s: float) -> float | None:
    """Two workers, one piece of work: seconds from killing who began it until the other one begins it."""
    command = [sys.executable, "-m", "tests.bench.engine", "--hold", name, place]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) for _ in range(2)]
    try:
        time.sleep(5)  # both have started and wait for work
        ENGINES[name](name, place).enqueue(1)
        outputs = {worker.stdout.fileno(): worker for worker in workers if worker.stdout}
        first = select.select(outputs, [], [], 30)[0][0]
        outputs.pop(first).kill()
        killed = time.monotonic()
        began = select.select(outputs, [], [], within_s)[0]
        return time.monotonic() - killed if began and os.read(began[0], 1) else None
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def shown(values: Sequence[float | None], digits: int, bound_s: float = 0) -> str:
    """Median (min to max), or how often it did not happen."""
    seen = [value for value in values if value is not None]
    if not values or len(seen) < len(values):
        return f"{len(values) - len(seen)} of {len(values)} not within {bound_s:.0f} s" if values else ""
    return f"{statistics.median(seen):,.{digits}f} ({min(seen):,.{digits}f} to {max(seen):,.{digits}f})"


def report(names: list[str], options: argparse.Namespace, create: Callable[[str], str]) -> None:
    plain = [name for name in names if "rescue" not in name]
    speeds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    kills: dict[str, list[float | None]] = {name: [] for name in names}
    behind: dict[str, list[float | None]] = {name: [] for name in names}
    for turn in range(options.rounds):
        for name in plain[turn % len(plain) :] + plain[: turn % len(plain)]:
            speeds[name].append(drained(name, create(name), options.packages))
            engine = ENGINES[name](name, create(name))
            if not isinstance(engine, Huey):
                behind[name].append(engine.after_far_retry(within_s=10))
        with ThreadPoolExecutor(len(names)) as threads:
            found = {name: threads.submit(resumed, name, create(name), options.wait) for name in names}
        for name, seconds in found.items():
            kills[name].append(seconds.result())
    say("| | stored/s | drained/s | drained, × autoship | begun again after SIGKILL, s | behind a far retry, s |")
    say("|---|---|---|---|---|---|")
    for name in names:
        ratios = [rate / ours for (_, ours), (_, rate) in zip(speeds["autoship"], speeds[name], strict=False)]
        stored, worked = shown([one for one, _ in speeds[name]], 0), shown([one for _, one in speeds[name]], 0)
        waited = f"{shown(kills[name], 1, options.wait)} | {shown(behind[name], 1, 10)}"
        say(f"| {name} | {stored} | {worked} | {shown(ratios, 2)} | {waited} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--packages", type=int, default=2000, help="due packages to drain in each (2000)")
    parser.add_argument("--wait", type=float, default=60, help="seconds to wait after SIGKILL (60)")
    newest = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/bin"))
    parser.add_argument("--postgres", type=Path, default=newest, help=f"folder of initdb and postgres ({newest})")
    parser.add_argument("--hold", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.hold:
        ENGINES[options.hold[0]](*options.hold).hold()
        return
    names = [name for name in ENGINES if "autoship" in name or importlib.util.find_spec(name.split()[0])]
    for name in ENGINES.keys() - names:
        print(f"{name}: skipped, it is not installed", file=sys.stderr)
    with databases(options.postgres) as create:
        report(names, options, create)


if __name__ == "__main__":
    main()
