"""Campaigns: real processes, killed at random under a stream of deliveries, and the OMS's ledger as the judge.

python -m tests.reliability.campaign [--deliveries N] [--kills N] [--seed N]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from service import sandbox
from service.database import Database, deliveries, packages
from service.sandbox import PACKED, READY
from tests import postgres
from tests.conftest import SECRET
from tests.processes import free_port
from tests.reliability.courier import Courier
from tests.reliability.fleet import Member, end
from tests.reliability.ledger import Books, Judgement, WitnessOms, judge

OMS_TIMEOUT_S, LEASE_S = 1.0, 3.0
DUPLICATES, DOUBLES, FAULTS = 0.2, 0.2, 0.04
# How many deliveries one package makes at least: created, transitioned and packed, and the echoes of its shipping.
DELIVERIES_A_PACKAGE = 5
SETTLED_WITHIN_S = 120.0
QUICK = {
    "OMS_TIMEOUT_S": f"{OMS_TIMEOUT_S:g}",
    "LEASE_S": f"{LEASE_S:g}",
    "SETTLE_S": "0.2",
    "RETRY_BASE_S": "0.5",
    "RETRY_CAP_S": "2",
    "EPISODE_S": "2",
    "OMS_RATE_PER_S": "0",
    # What no webhook announced is not to be found in another way.
    "SWEEP_INTERVAL_S": "0",
}


@dataclass(frozen=True, slots=True)
class Report:
    """One campaign: what was done to it, and what came of it."""

    name: str
    deliveries: int
    packages: int
    kills: int
    freezes: int
    commands: int
    judgement: Judgement
    recoveries_s: tuple[float, ...]
    took_s: float

    @property
    def row(self) -> str:
        judged = self.judgement
        counts = (judged.lost, judged.double, judged.false_success, judged.unresolved)
        p99 = f"{percentile(self.recoveries_s, 0.99):.1f}" if self.recoveries_s else "-"
        numbers = (self.deliveries, self.packages, self.kills, self.freezes, self.commands, *map(len, counts), p99)
        return f"{self.name:<12}" + "".join(f"{number:>12}" for number in (*numbers, f"{self.took_s:.0f}"))


HEADER = f"{'':<12}" + "".join(
    f"{title:>12}"
    for title in (
        *("deliveries", "packages", "kills", "freezes", "commands"),
        *("lost", "double", "false", "unresolved", "recov. p99", "took s"),
    )
)


@dataclass
class Story:
    """What people do with the packages, in the order of `rng`. `is_confirmed` tells when a package may be repacked."""

    oms: WitnessOms
    rng: random.Random
    is_confirmed: Callable[[int], bool]
    told: int = 0
    _to_complete: list[int] = field(default_factory=list)
    _to_repack: list[int] = field(default_factory=list)

    def tell(self, most: int) -> None:
        """Follows up what was begun, and begins so many packages."""
        self.follow_up()
        for _ in range(most):
            self.told += 1
            self._begin(self.told)

    def follow_up(self) -> bool:
        """Whether nothing is left to follow up."""
        while self._to_complete:
            package_id = self._to_complete.pop()
            self.oms.set_items(package_id, [PACKED] * len(self.oms.packages[package_id].items))
        for package_id in [one for one in self._to_repack if self.is_confirmed(one)]:
            self._to_repack.remove(package_id)
            self.oms.unpack(package_id)
            self.oms.pack(package_id, [PACKED])
        return not self._to_repack

    def _begin(self, package_id: int) -> None:
        luck = self.rng.random()
        lag = self.rng.choice((1, 2)) if luck > 0.94 else 0
        self.oms.create(package_id, [READY] * self.rng.choice((1, 2, 3)), lag=lag)
        if luck < 0.08:
            self._stale(package_id)
        elif luck < 0.16:
            self.oms.pack(package_id, [PACKED, READY])
            self._to_complete.append(package_id)
        else:
            self.oms.pack(package_id)
            if luck < 0.26:
                self._to_repack.append(package_id)

    def _stale(self, package_id: int) -> None:
        """Serialised while Packed, delivered when it is cancelled or shipped by a person."""
        packed = sandbox.Package(package_id, PACKED, [PACKED])
        gone = self.oms.cancel if package_id % 2 else self.oms.ship_by_hand
        gone(package_id)
        self.oms.send(package_id, "package.status.packed", self.oms.document(packed))


@dataclass
class Campaign:
    """A fleet under fire. `books` are those of the judged one, None where it keeps none we could read."""

    name: str
    oms: WitnessOms
    fleet: Sequence[Member]
    courier: Courier
    story: Story
    rng: random.Random
    books: Callable[[], Books | None]
    _killed: list[tuple[float, int]] = field(default_factory=list)

    def run(self, deliveries: int, kills: int, freezes: int = 0, settled_within_s: float = SETTLED_WITHIN_S) -> Report:
        """So many deliveries at least, and so many strikes meanwhile; then it may settle."""
        began = time.monotonic()
        strikes = [self._kill] * kills + [self._freeze] * freezes
        self.rng.shuffle(strikes)
        wanted = -(-deliveries // DELIVERIES_A_PACKAGE)
        for number, strike in enumerate(strikes, 1):
            strike(wanted * number // len(strikes) - self.story.told)
        self._settle(settled_within_s)
        return Report(
            name=self.name,
            deliveries=self.courier.answered,
            packages=self.story.told,
            kills=kills,
            freezes=freezes,
            commands=sum(one.operation == "command" for touches in self.oms.touches.values() for one in touches),
            judgement=self._judged(),
            recoveries_s=tuple(self._recoveries()),
            took_s=time.monotonic() - began,
        )

    @property
    def _workers(self) -> list[Member]:
        return [member for member in self.fleet if member.port is None]

    def _kill(self, packages: int) -> None:
        victim = self.rng.choice(self.fleet)
        victim.wait_until_ready()
        self.story.tell(packages)
        time.sleep(self.rng.uniform(0, 0.5))  # where it dies is left to chance
        victim.kill()
        now = time.monotonic()
        if victim.port is None:
            self._killed += [(now, package_id) for package_id in self.oms.begun_by(victim.name, OMS_TIMEOUT_S)]
        victim.start()

    def _freeze(self, packages: int) -> None:
        """A worker stands still for longer than its leases last, then goes on as if nothing had happened."""
        victim = self.rng.choice(self._workers)
        victim.wait_until_ready()
        self.story.tell(packages)
        time.sleep(self.rng.uniform(0, 0.3))
        victim.signal(signal.SIGSTOP)
        time.sleep(LEASE_S + 1)
        victim.signal(signal.SIGCONT)

    def _settle(self, within_s: float) -> None:
        """Until all that was announced is done, or it is plain that it never will be."""
        deadline = time.monotonic() + within_s
        while not self._is_settled() and time.monotonic() < deadline:
            time.sleep(0.2)

    def _is_settled(self) -> bool:
        if not self.story.follow_up():
            return False
        judgement = self._judged()
        # In this order: once nothing is left to ship, no further event can be announced.
        return not (judgement.lost or judgement.unresolved) and self.courier.is_idle

    def _judged(self) -> Judgement:
        return judge(self.oms, self.courier.tallies, self.books())

    def _recoveries(self) -> Iterator[float]:
        """From the death of a worker to the next question about each package it had begun."""
        for killed_at, package_id in self._killed:
            again = [touch.at for touch in self.oms.touches[package_id] if touch.at > killed_at]
            if again:
                yield again[0] - killed_at


def books_of(database: Database) -> Books:
    """What our database says."""
    with database.reading() as transaction:
        seen = transaction.execute(sa.select(deliveries.c.event_uuid, deliveries.c.seen))
        states = transaction.execute(sa.select(packages.c.package_id, packages.c.state))
        return Books({row.event_uuid: row.seen for row in seen}, {row.package_id: row.state for row in states})


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@contextmanager
def autoship(database_url: str, each: int, seed: int) -> Iterator[Campaign]:
    """Autoship with so many web and worker processes over an empty database."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autoship-campaign-")))
        oms = WitnessOms(rng=random.Random(seed), doubles=DOUBLES, faults=FAULTS)
        server = stack.enter_context(sandbox.serve(oms))
        database = Database(database_url)
        stack.callback(database.dispose)
        database.migrate(server.url)
        fleet: list[Member] = []
        stack.callback(end, fleet)
        for number in range(1, each + 1):
            variables = service_variables(database_url, server.url, oms, f"worker-{number}")
            port = free_port()
            fleet.append(Member(f"web-{number}", ["service", "web"], variables | {"PORT": str(port)}, folder, port))
            fleet.append(Member(f"worker-{number}", ["service", "worker"], variables, folder))
        name = "sqlite" if database.is_sqlite else "postgresql"
        is_shipped = partial(_is_shipped, database)
        yield stack.enter_context(_under_way(name, oms, fleet, seed, is_shipped, lambda: books_of(database)))


@contextmanager
def naive(seed: int) -> Iterator[Campaign]:
    """The same against a handler that commands within the request."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autoship-campaign-")))
        oms = WitnessOms(rng=random.Random(seed), doubles=DOUBLES, faults=FAULTS)
        server = stack.enter_context(sandbox.serve(oms))
        port = free_port()
        variables = service_variables("", server.url, oms, "naive")
        variables["NAIVE_DATABASE"] = os.fspath(folder / "naive.db")
        arguments = [
            "gunicorn",
            "--bind",
            f"127.0.0.1:{port}",
            "--threads",
            "8",
            "tests.reliability.naive:create_app()",
        ]
        fleet = [Member("naive", arguments, variables, folder, port)]
        stack.callback(end, fleet)
        is_shipped = partial(_has_state, oms, oms.shipped)
        yield stack.enter_context(_under_way("naive", oms, fleet, seed, is_shipped, lambda: None))


def service_variables(database_url: str, oms_url: str, oms: WitnessOms, who: str) -> dict[str, str]:
    """The environment of a process that calls this OMS under the name `who`."""
    return QUICK | {
        "DATABASE_URL": database_url,
        "OMS_BASE_URL": oms_url,
        "OMS_TOKEN": f"{oms.token}.{who}",
        "SHIP_TRANSITION_ID": str(oms.transition_id),
        "SHIP_SLUG": oms.slug,
        "WEBHOOK_SECRETS": SECRET,
    }


@contextmanager
def _under_way(
    name: str,
    oms: WitnessOms,
    fleet: Sequence[Member],
    seed: int,
    is_confirmed: Callable[[int], bool],
    books: Callable[[], Books | None],
) -> Iterator[Campaign]:
    for member in fleet:
        member.wait_until_ready()
    ports = [member.port for member in fleet if member.port is not None]
    courier = Courier(oms, ports, SECRET, DUPLICATES, seed)
    oms.announced = courier.take
    rng = random.Random(seed)
    try:
        yield Campaign(name, oms, fleet, courier, Story(oms, rng, is_confirmed), rng, books)
    finally:
        courier.stop()


def _is_shipped(database: Database, package_id: int) -> bool:
    query = sa.select(packages.c.state).where(packages.c.package_id == package_id)
    with database.reading() as transaction:
        return transaction.execute(query).scalar() == "shipped"


def _has_state(oms: WitnessOms, state: str, package_id: int) -> bool:
    return oms.packages[package_id].state == state


def main() -> int:
    """Runs the campaigns and prints their table; 1 if one of ours was not clean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deliveries", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args()
    print(HEADER, flush=True)
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder, postgres.server_url() as url, postgres.database(url) as empty:
        ours = (autoship(f"sqlite:///{folder}/autoship.db", 1, wanted.seed), autoship(empty, 2, wanted.seed))
        for campaign in ours:
            with campaign as one:
                report = one.run(wanted.deliveries, wanted.kills, wanted.kills // 20)
            print(report.row, flush=True)
            judged = report.judgement
            found += [*judged.lost, *judged.double, *judged.false_success, *judged.unresolved]
    with naive(wanted.seed) as one:
        print(one.run(wanted.deliveries // 10, wanted.kills // 10, settled_within_s=10).row, flush=True)
    print(*found, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
