"""A day at a warehouse, played through the product in seconds: what the console is looked at with."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import sqlalchemy as sa

from service import config as configuration
from service import sandbox, worklist
from service.attend import Attendant
from service.config import Config
from service.database import Database, packages
from service.oms import Oms
from service.sandbox import Request, Response
from service.sweep import Sweeper
from service.web import create_app
from tests.conftest import MINIMAL, a_document, deliver
from tests.integration.conftest import Clock, beat
from tests.oms_faults import FaultyOms, Outcome, shows, words

TOKEN = "a-long-token-for-tests"
REFUSED, IGNORED, MIXED, LONG, NEVER_SEEN, SHIPPED = 301, 302, 311, 313, 950, 100
HOSTILE = '<script>document.title="owned"</script> "Zeynep" & <b>co</b>'
SETTINGS = {"ADMIN_TOKEN": TOKEN, "COMMAND_MAX_ATTEMPTS": "2", "SHIP_SLUG": "ship-without-integration"}
# For tests: nothing is waited for long, and only the console asks for packages never seen.
QUICK = {"SETTLE_S": "0.2", "RETRY_BASE_S": "0.2", "SWEEP_INTERVAL_S": "0"}

Event = tuple[datetime, Callable[[], object]]


@dataclass
class Warehouse(FaultyOms):
    """Refuses one package's command in words, takes another one's without doing anything, and has a long number."""

    def answer(self, request: Request) -> Outcome:
        if request.operation == "command" and f"/{REFUSED}/" in request.path:
            return words(406, HOSTILE)(self, request)
        if request.operation == "command" and f"/{IGNORED}/" in request.path:
            return Response(204)
        if request.operation == "read" and f"/{LONG}/" in request.path:
            return shows(order_number="9" * 200)(self, request)
        return super().answer(request)


@dataclass
class Stage:
    """The warehouse, its OMS, and a service that looks whenever something is due."""

    oms: FaultyOms
    config: Config
    store: Database
    clock: Clock
    variables: Mapping[str, str]
    shipped: int
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    def play(self, until: datetime) -> None:
        """The day, so that it ends at this moment."""
        client = create_app(self.config, self.store).test_client()
        oms = Oms(self.config.oms, wall_clock=self.clock)
        attendant = Attendant(self.store, oms, self.config.settings, self.config.lease, self.rng.random)

        def announce(package_id: int) -> None:
            assert deliver(client, a_document(package_id, uuid=f"{package_id:032x}")).status_code == 202

        self._sweep(oms)
        for at, happens in sorted(self._plan(until, announce), key=lambda event: event[0]):
            self._run(attendant, at)
            happens()
        self._run(attendant, until)
        beat(self.store)
        oms.close()

    def _plan(self, until: datetime, announce: Callable[[int], None]) -> Iterator[Event]:
        """What happens when; most packages are packed and announced in the last nine hours."""
        for number in range(self.shipped):
            package_id, at = SHIPPED + number, until - timedelta(minutes=self.rng.uniform(20, 540))
            is_late = number % 8 == 5
            self.oms.create(package_id, ["200" if is_late else sandbox.PACKED], state=sandbox.PACKED)
            self.oms.packages[package_id].lag = int(number % 5 == 3)
            yield at, partial(announce, package_id)
            if is_late:
                minutes = self.rng.choice([0.2, 0.5, 2, 10])
                yield at + timedelta(minutes=minutes), partial(self.oms.set_items, package_id, [sandbox.PACKED])
        for package_id in (REFUSED, IGNORED, *range(MIXED, MIXED + 3)):
            items = [sandbox.PACKED, "200"] if package_id >= MIXED else [sandbox.PACKED]
            self.oms.create(package_id, items, state=sandbox.PACKED)
            yield until - timedelta(minutes=self.rng.uniform(70, 200)), partial(announce, package_id)
        for package_id in range(320, 324):
            self.oms.create(package_id, ["400"])
            yield until - timedelta(minutes=5), partial(announce, package_id)
        for package_id in range(330, 336):
            self.oms.create(package_id, [sandbox.PACKED], state=sandbox.PACKED)
            end = self.oms.ship_by_hand if package_id % 2 else self.oms.cancel
            yield until - timedelta(minutes=181), partial(end, package_id)
            yield until - timedelta(minutes=180), partial(announce, package_id)

    def _sweep(self, oms: Oms) -> None:
        swept = Sweeper(self.config, self.store, oms, lambda seconds: False).sweep_if_due(at_once=True)
        assert swept is not None
        self.oms.create(NEVER_SEEN, [sandbox.PACKED], state=sandbox.PACKED)

    def _run(self, attendant: Attendant, until: datetime) -> None:
        while (due_at := self._due_at()) is not None and due_at <= until:
            self.clock.now = max(self.clock.now, due_at)
            claims = worklist.claim(self.store, 100, 100, self.config.lease, 0)
            for claimed in claims:
                attendant.attend(claimed)
            if not claims:
                self.clock.now += timedelta(seconds=1)
        self.clock.now = max(self.clock.now, until)

    def _due_at(self) -> datetime | None:
        with self.store.reading() as transaction:
            due_at: datetime | None = transaction.execute(sa.select(sa.func.min(packages.c.due_at))).scalar()
        return due_at


@contextmanager
def staged(database_url: str, until: datetime, zone: str, shipped: int, **settings: str) -> Iterator[Stage]:
    """The day, played to its end at this moment."""
    clock = Clock(until - timedelta(hours=12))
    oms = Warehouse(clock=clock, shipped="600")
    with sandbox.serve(oms) as server:
        variables = {**MINIMAL, **SETTINGS, **settings, "DATABASE_URL": database_url, "DISPLAY_TZ": zone}
        variables |= {"OMS_BASE_URL": server.url, "OMS_TOKEN": oms.token, "SHIP_TRANSITION_ID": str(oms.transition_id)}
        store = Database(database_url, clock=clock)
        store.migrate(server.url)
        stage = Stage(oms, configuration.load(variables), store, clock, variables, shipped)
        stage.play(until)
        yield stage
        store.dispose()
