"""A floor: a stand-in OMS, a database, and an attendant that looks at packages when told to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from service import explain, sandbox, worklist
from service.attend import Attendant
from service.config import Config
from service.database import Database, workers
from service.oms import Oms
from service.sandbox import PACKED
from tests.conftest import MINIMAL
from tests.oms_faults import FaultyOms


@dataclass
class Clock:
    """A machine clock that stands still until it is turned."""

    now: datetime = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def turn(self, by: timedelta) -> None:
        self.now += by


def beat(store: Database, seen_at: datetime | None = None, worker: str = "w") -> None:
    """A worker is seen, now or then."""
    with store.transaction() as transaction:
        at = seen_at or transaction.now
        beat = store.insert(workers).values(worker=worker, version="1", started_at=at, seen_at=at)
        transaction.execute(beat.on_conflict_do_update(index_elements=["worker"], set_={"seen_at": at}))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(database_url: str, clock: Clock) -> Iterator[Database]:
    """A migrated, empty database under the clock."""
    store = Database(database_url, clock=clock)
    store.migrate(MINIMAL["OMS_BASE_URL"])
    yield store
    store.dispose()


@dataclass
class Floor:
    """One OMS, one database, one pair of eyes, and the time in the test's hands."""

    oms: FaultyOms
    store: Database
    clock: Clock
    config: Config
    attendant: Attendant
    server: sandbox.Server

    def hint(self, package_id: int) -> None:
        with self.store.transaction() as transaction:
            worklist.hint(transaction, package_id, "webhook")

    def look(self) -> int:
        """Looks once at everything that is due; how much that was."""
        claims = worklist.claim(self.store, 100, 100, self.config.lease, 0)
        for claimed in claims:
            self.attendant.attend(claimed)
        return len(claims)

    def run(self, package_id: int, within: timedelta = timedelta(hours=1)) -> dict[str, Any]:
        """Turns the clock from look to look until nothing is due within that time; the explanation then."""
        end = self.clock.now + within
        self.look()
        while (due := self.due_at(package_id)) is not None and max(due, self.clock.now) <= end:
            self.clock.now = max(due, self.clock.now)
            if self.look() == 0:  # a brake holds it back
                self.clock.turn(timedelta(seconds=1))
        return self.told(package_id)

    def due_at(self, package_id: int) -> datetime | None:
        with self.store.reading() as transaction:
            row = worklist.find(transaction, package_id)
        due: datetime | None = row["due_at"] if row else None
        return due

    def told(self, package_id: int) -> dict[str, Any]:
        told = explain.stored(self.store, package_id)
        assert told is not None
        return told

    def where(self, package_id: int) -> tuple[str, str | None]:
        told = self.told(package_id)
        return told["state"], told["reason"]


def packed(floor: Floor, package_id: int = 73, items: tuple[str, ...] = (PACKED, PACKED)) -> None:
    """A package in Packed that somebody hinted at."""
    floor.oms.create(package_id, items, state=PACKED)
    floor.hint(package_id)


def ledger(floor: Floor, package_id: int = 73) -> tuple[int, int]:
    """How many commands the OMS saw for the package, and how many it applied."""
    return floor.oms.commands_for(package_id), floor.oms.shipped_by_command(package_id)


@pytest.fixture
def floor_with(configured: Callable[..., Config], store: Database, clock: Clock) -> Iterator[Callable[..., Floor]]:
    """Makes the floor, with settings over the usual ones."""
    opened: list[tuple[sandbox.Server, Oms, FaultyOms]] = []

    def make(oms: FaultyOms | None = None, **variables: str) -> Floor:
        oms = oms or FaultyOms(clock=clock)
        server = sandbox.Server(oms)
        usual = {"OMS_BASE_URL": server.url, "OMS_TOKEN": oms.token, "SHIP_SLUG": oms.slug, "OMS_TIMEOUT_S": "5"}
        config = configured(**usual | {"SHIP_TRANSITION_ID": str(oms.transition_id)} | variables)
        client = Oms(config.oms, wall_clock=clock)
        opened.append((server, client, oms))
        attendant = Attendant(store, client, config.settings, config.lease, lambda: 0.5)
        return Floor(oms, store, clock, config, attendant, server)

    yield make
    for server, client, oms in opened:
        oms.release.set()
        client.close()
        server.stop()


@pytest.fixture
def floor(floor_with: Callable[..., Floor]) -> Floor:
    return floor_with()
