"""Runs a history: the product's own inbox, work list, brakes, journal and attendant against the simulated world."""

from __future__ import annotations

from collections import Counter, deque
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from random import Random

import sqlalchemy as sa

from service import brakes, delivery, inbox, journal, sender, worklist
from service import database as tables
from service.attend import Attendant
from service.case import CLOSED, CaseState, Reason
from service.database import Database
from service.delivery import Delivery
from service.errors import DatabaseUnavailable
from service.rules import Rule, Rules
from service.worklist import Claim
from tests.conftest import USUAL_SETTINGS
from tests.simulation.history import TIMEOUT_S, Disruption, History, Move, Order, Post, Stray
from tests.simulation.oms import COMMAND, FOREIGN_CHANNEL, PACKED, SHIPPED, Client, SimulatedOms
from tests.simulation.world import START, Crashed, SteppedDatabase, World

LEASE = timedelta(seconds=60)
POLL_S = 10.0
# By then every fault is over; people finish what they began, the operator resumes, and the sweep comes by.
CALM_S = 180
SWEEPS_S = (CALM_S, 600, 1100, 1700)
# A package that is read only then, after one more pause, may be commanded and stay in Packed for 15 minutes.
END_S = 3600
RULES = Rules((Rule("marketplace ships its own", {"channel_name": frozenset({FOREIGN_CHANNEL})}, "skip"),))


class Storage:
    """One database for all histories that follow each other in this process; its time is that of the one under way."""

    def __init__(self) -> None:
        self._world = World([])
        self.database = Database("sqlite://", clock=lambda: self._world.clock())
        self.database.migrate("https://oms.example")

    def begin(self, world: World) -> Database:
        """The database, empty, under that world's clock."""
        self._world = world
        with self.database.transaction() as transaction:
            for table in tables.metadata.sorted_tables:
                if table is not tables.deployment:
                    transaction.execute(sa.delete(table))
            for table in (tables.brakes, tables.sweep, tables.login):
                transaction.execute(sa.insert(table).values(id=1))
        return self.database


class Simulation:
    """One history under way, and what the judge needs of it."""

    def __init__(self, history: History, storage: Storage) -> None:
        self.history = history
        self.world = World([one for one in history.events if isinstance(one, Disruption)])
        self.database = storage.begin(self.world)
        self.oms = SimulatedOms(history, self.world, self._announce, self._is_closed)
        self.settings = replace(
            USUAL_SETTINGS,
            command=COMMAND,
            rules=RULES,
            shipped_statuses=frozenset({SHIPPED} if history.shipped_known else ()),
            live=history.live,
            command_max_attempts=3,
            oms_timeout=timedelta(seconds=TIMEOUT_S),
        )
        self.delivered: Counter[str] = Counter()
        self.hinted: list[tuple[float, int]] = []
        self.rechecked: list[tuple[float, int]] = []
        self.paused: list[tuple[float, float]] = []
        self._jitter = Random(history.seed)
        self._posts = {one: deque[Post]() for one in history.packages}
        self._busy = self._looks = self._events = 0
        self._wake_at_s = 0.0

    def run(self) -> None:
        """Everything that happens, then the sweeps, then quiet."""
        for event in self.history.events:
            match event:
                case Post():
                    self._posts[event.package_id].append(event)
                case Move():
                    self.world.at(event.at_s, partial(self.oms.move, event))
                case Stray():
                    stray = partial(self._deliver, event.package_id, "order.created", PACKED, self._uuid())
                    self.world.at(event.at_s, stray)
                case Order():
                    self.world.at(event.at_s, partial(self._order, event))
                case _:
                    pass  # the OMS's and the workers'
        for package_id in self.history.packages:
            self.world.at(CALM_S, partial(self.oms.move, Move(CALM_S, package_id, "settle")))
        self.world.at(CALM_S, partial(self._order, Order(CALM_S, 0, "resume")))
        for at_s in SWEEPS_S:
            self.world.at(at_s, self._sweep)
        self.world.advance(END_S)

    def seconds(self, moment: datetime) -> float:
        """An instant of the database in seconds since the start."""
        return (moment - START).total_seconds()

    def _is_closed(self, package_id: int) -> bool:
        row = rows_of(self.database).get(package_id)
        return row is not None and row["state"] in CLOSED

    # The sender: at least once, in any order, or never.

    def _announce(self, package_id: int, event_type: str) -> None:
        state, uuid = self.oms.packages[package_id].state, self._uuid()
        posts = self._posts[package_id]
        post = posts.popleft() if posts else Post(package_id, ((0.2, False),))
        for delay_s, fresh in post.deliveries:
            known = self._uuid() if fresh else uuid
            self.world.at(self.world.now_s + delay_s, partial(self._deliver, package_id, event_type, state, known))

    def _uuid(self) -> str:
        self._events += 1
        return f"{self._events:032x}"

    def _deliver(self, package_id: int, event_type: str, state: str, uuid: str) -> None:
        payload = {"id": package_id, "state": {"enum_class": "PackageStatus", "enum_value": state}}
        received = delivery.read("application/json", sender.encode(event_type, uuid, payload), secret_index=0)
        assert isinstance(received, Delivery)
        receipt = inbox.accept(self.database, received, self.settings)
        self.delivered[uuid] += 1
        if receipt.status == "accepted":
            self.hinted.append((self.world.now_s, package_id))
        self._wake(0.0)

    # The operator and the sweep.

    def _order(self, order: Order) -> None:
        with self.database.transaction() as transaction:
            match order.what:
                case "pause":
                    if brakes.pause(transaction, "by an operator"):
                        self.paused.append((self.world.now_s, float("inf")))
                case "resume":
                    brakes.resume(transaction)
                    self.paused = [(since, min(until, self.world.now_s)) for since, until in self.paused]
                case "dismiss":
                    worklist.dismiss(transaction, order.package_id)
                case _:
                    row = worklist.find(transaction, order.package_id)
                    if row is not None and row["reason"] == Reason.ACCEPTED_BUT_STILL_PACKED:
                        journal.give_up_open(transaction, order.package_id)
                    worklist.recheck(transaction, order.package_id)
                    self.rechecked.append((self.world.now_s, order.package_id))
        if order.what == "resume":
            worklist.look_at_held_back(self.database)
        self._wake(0.0)

    def _sweep(self) -> None:
        rows = rows_of(self.database)
        with self.database.transaction() as transaction:
            for package_id, package in self.oms.packages.items():
                row = rows.get(package_id)
                if package.state == PACKED and (row is None or not (row["held"] or row["reason"] == Reason.RULE)):
                    worklist.hint(transaction, package_id, "sweep")
        self._wake(0.0)

    # The workers: as many looks at once as there are.

    def _wake(self, in_s: float) -> None:
        self._wake_at_s = self.world.now_s + in_s
        self.world.at(self._wake_at_s, partial(self._take_up, self._wake_at_s))

    def _take_up(self, planned_s: float) -> None:
        if planned_s != self._wake_at_s:
            return  # woken earlier or later than this
        free, due_s = self.history.workers - self._busy, self._next_due_s()
        if free == 0 or due_s is None:
            return
        if due_s > self.world.now_s:
            self._wake(due_s - self.world.now_s)
            return
        claims = worklist.claim(self.database, free, free, LEASE, rate_per_s=0)
        self._busy += len(claims)
        for claimed in claims:
            self.world.at(self.world.now_s, partial(self._look, claimed))
        self._wake(0.0 if claims else POLL_S)

    def _look(self, claimed: Claim) -> None:
        self._looks += 1
        database, client = SteppedDatabase(self.database, self.world), Client(self.oms, self._looks)
        attendant = Attendant(database, client, self.settings, LEASE, self._jitter.random, self.world.monotonic)
        # What a look that ends here held is free after its lease.
        with suppress(Crashed, DatabaseUnavailable):
            attendant.attend(claimed)
        self._busy -= 1
        self._wake(0.0)

    def _next_due_s(self) -> float | None:
        with self.database.reading() as transaction:
            due_us = transaction.connection.exec_driver_sql(
                "SELECT min(max(due_at, coalesce(leased_until, 0))) FROM packages"
            ).scalar()
        return None if due_us is None else due_us / 1e6 - START.timestamp()


def rows_of(database: Database) -> dict[int, sa.RowMapping]:
    """Every package's row."""
    with database.reading() as transaction:
        return {row["package_id"]: row for row in worklist.listed(transaction, None, None)}


def is_dismissed(row: sa.RowMapping) -> bool:
    """Whether the operator told us to leave it alone."""
    return bool(row["state"] == CaseState.SKIPPED and row["reason"] == Reason.DISMISSED)
