"""An OMS in which people pack all the time, its sender, and processes of Autoship that come and go meanwhile."""

from __future__ import annotations

import itertools
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from service import sandbox
from service.database import Database
from service.sandbox import PACKED, READY
from tests import postgres
from tests.commands import environment
from tests.conftest import SECRET
from tests.processes import free_port, wait_until
from tests.reliability.campaign import DOUBLES, DUPLICATES, books_of, service_variables
from tests.reliability.courier import Courier
from tests.reliability.fleet import Member, end
from tests.reliability.ledger import Judgement, WitnessOms, judge

ROOT = Path(__file__).parents[2]
PACE_S = 0.05
# People stop while so many packages wait: however slow the machine is, there is an end to wait for.
MOST_ON_THE_TABLE = 40
SETTLED_WITHIN_S = 60.0
CLEAN = Judgement((), (), (), ())


class Site:
    """`members` are those that run now; each pair calls the OMS under the name it was started with."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.oms = WitnessOms(rng=random.Random(1), doubles=DOUBLES)
        self.members: list[Member] = []
        self._server = sandbox.Server(self.oms)
        self.courier = Courier(self.oms, [], SECRET, DUPLICATES, seed=1)
        self.oms.announced = self.courier.take
        self._closing = threading.Event()
        self._people = threading.Thread(target=self._pack)
        self.database_url = database_url

    def migrate(self) -> None:
        with opened(self.database_url) as database:
            database.migrate(self._server.url)

    def variables(self, who: str) -> dict[str, str]:
        return service_variables(self.database_url, self._server.url, self.oms, who)

    def start(self, who: str, **changes: str) -> list[Member]:
        """A web and a worker process, ready, and known to the sender."""
        port, variables = free_port(), self.variables(who) | changes
        pair = [
            Member(f"{who}-web", ["service", "web"], variables | {"PORT": str(port)}, self.folder, port),
            Member(f"{who}-worker", ["service", "worker"], variables, self.folder),
        ]
        self.members += pair
        for member in pair:
            member.wait_until_ready()
        self.courier.ports = [*self.courier.ports, port]
        return pair

    def stop(self, pair: list[Member]) -> None:
        """As a platform does it: no more deliveries, then SIGTERM, which ends a process with 0."""
        self._leave(pair)
        for member in pair:
            member.signal(signal.SIGTERM)
        assert [member.run() for member in pair] == [0, 0]

    def lose(self, pair: list[Member]) -> None:
        """The machine is gone."""
        self._leave(pair)
        end(pair)

    def open(self) -> None:
        """People begin to pack."""
        self._people.start()

    def wait_for_commands(self, *callers: str, count: int = 5) -> None:
        """Until each of these pairs has sent so many commands more."""
        reached = {who: self.commands_of(who) + count for who in callers}
        wait_until(lambda: all(self.commands_of(who) >= least for who, least in reached.items()))

    def commands_of(self, who: str) -> int:
        """How many commands this pair has sent."""
        touches = [touch for of_one in list(self.oms.touches.values()) for touch in list(of_one)]
        return sum((touch.who, touch.operation) == (who, "command") for touch in touches)

    def settled(self, *, by_the_ledger_alone: bool = False) -> Judgement:
        """People stop; what came of it, once nothing is wrong any more or our patience ends."""
        self._closing.set()
        self._people.join()
        deadline = time.monotonic() + SETTLED_WITHIN_S
        with opened(self.database_url) as database:
            while True:
                books = None if by_the_ledger_alone else books_of(database)
                judgement = judge(self.oms, self.courier.tallies, books)
                # In this order: once nothing is left to ship, no further event can be announced.
                if (judgement == CLEAN and self.courier.is_idle) or time.monotonic() > deadline:
                    return judgement
                time.sleep(0.1)

    def close(self) -> None:
        self._closing.set()
        if self._people.is_alive():
            self._people.join()
        self.courier.stop()
        end(self.members)
        self._server.stop()

    def _leave(self, pair: list[Member]) -> None:
        self.courier.ports = [port for port in self.courier.ports if port not in {one.port for one in pair}]
        self.members = [one for one in self.members if one not in pair]

    def _pack(self) -> None:
        """One package after another; every tenth only in part, and a little later the rest of it."""
        for package_id in itertools.count(1):
            self.oms.create(package_id, [READY] * (1 + package_id % 3))
            self.oms.pack(package_id, None if package_id % 10 else [READY, PACKED])
            if self._closing.wait(PACE_S):
                break
            if package_id % 10 == 0:
                self.oms.set_items(package_id, [PACKED, PACKED])
            while self._on_the_table() >= MOST_ON_THE_TABLE and not self._closing.wait(PACE_S):
                pass

    def _on_the_table(self) -> int:
        return sum(package.state == PACKED for package in list(self.oms.packages.values()))


@contextmanager
def opened(database_url: str) -> Iterator[Database]:
    """The database for the length of a block, after which no connection to it is left."""
    database = Database(database_url)
    try:
        yield database
    finally:
        database.dispose()


def procedure(title: str) -> str:
    """The commands under this heading of the operations page."""
    page = (ROOT / "deploy/README.md").read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(title)}(?: ✓)?\n.*?^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert found is not None, f"deploy/README.md has no commands under {title}"
    return found[1]


def carry_out(title: str, folder: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Runs them literally, in a folder that looks like a checkout, with the PostgreSQL programs of our servers."""
    command = ["sh", "-eu", "-c", procedure(title)]
    environ = environment(**variables)
    environ["PATH"] = f"{postgres.binaries()}:{environ['PATH']}"
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)


def furnish(folder: Path, python: Path) -> None:
    """Makes the folder look like a checkout whose `.venv` is the environment of this Python."""
    (folder / "var").mkdir()
    for name, there in (("deploy", ROOT / "deploy"), (".venv", python.parents[1])):
        os.symlink(there, folder / name)
