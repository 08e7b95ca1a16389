"""Virtual time, and everything that happens in it, in one thread and always in the same order.

Whoever waits calls `advance`, and whatever falls due meanwhile happens inside that call: a worker that waits for
the OMS lets the sender deliver, people work and other workers look at packages, then goes on. So the looks of
several workers nest: one may run from end to end between any two steps of another, as when that one is frozen.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from service.database import Database, Transaction
from service.errors import DatabaseUnavailable
from tests.simulation.history import Disruption

START = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
STEP_S = 0.002


class Crashed(BaseException):
    """A worker's process ends here; nobody in the product catches it."""


class World:
    """What falls due when. Seconds count from the history's start."""

    def __init__(self, disruptions: list[Disruption]) -> None:
        self.now_s = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._disruptions = {one: one.steps for one in disruptions}

    def clock(self) -> datetime:
        """The time of every database and machine."""
        return START + timedelta(seconds=self.now_s)

    def monotonic(self) -> float:
        """The same, as processes measure durations."""
        return self.now_s

    @property
    def next_s(self) -> float:
        """When the next thing falls due."""
        return self._due[0][0] if self._due else math.inf

    def at(self, at_s: float, action: Callable[[], None]) -> None:
        """Has something happen at that time, or now if it is past."""
        heapq.heappush(self._due, (max(at_s, self.now_s), next(self._order), action))

    def advance(self, seconds: float) -> None:
        """Time passes, and what falls due in it happens. May take longer: who does it may wait too."""
        until_s = self.now_s + seconds
        while self._due and self._due[0][0] <= until_s:
            at_s, _, action = heapq.heappop(self._due)
            self.now_s = max(self.now_s, at_s)
            action()
        self.now_s = max(self.now_s, until_s)

    def step(self) -> None:
        """A worker is between two of its steps. Here it may be frozen, lose its database, or end."""
        self.advance(STEP_S)
        disruption = self._falling_due()
        if disruption is None:
            return
        if disruption.kind == "crash":
            raise Crashed
        if disruption.kind == "database":
            raise DatabaseUnavailable("simulated")
        self.advance(disruption.frozen_s)

    def _falling_due(self) -> Disruption | None:
        begun = [one for one in self._disruptions if one.at_s <= self.now_s]
        for disruption in begun:
            self._disruptions[disruption] -= 1
            if self._disruptions[disruption] < 0:
                del self._disruptions[disruption]
                return disruption
        return None


class SteppedDatabase(Database):
    """The same database for a worker: before and after each of its transactions is a step."""

    def __init__(self, inner: Database, world: World) -> None:
        self._inner = inner
        self._world = world

    def insert(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        return self._inner.insert(table)

    @contextmanager
    def transaction(self, *, of_one_statement: bool = False) -> Iterator[Transaction]:
        self._world.step()
        with self._inner.transaction(of_one_statement=of_one_statement) as transaction:
            yield transaction
        self._world.step()

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        self._world.step()
        with self._inner.reading() as transaction:
            yield transaction
