"""Today in numbers: what became of the packages that are new, and how long those that shipped took.

Every query walks an index over the rows of a day, however many there are of all days.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta, tzinfo

import sqlalchemy as sa

from service.case import CaseState, Resolution
from service.database import Transaction, attempts, packages
from service.words import lasting

# The newest of the day: a plot of more says no more.
MOST_POINTS = 500
# How long before midnight a command may have been sent that is settled today.
_SETTLED_WITHIN = timedelta(days=1)
_FIRST_HINTS = ("webhook", "sweep", "operator")
_FUNNEL = (
    ("Shipped by us", (CaseState.SHIPPED,)),
    ("Shipped by somebody else", (CaseState.ALREADY_SHIPPED,)),
    ("Left alone", (CaseState.SKIPPED,)),
    ("Would ship", (CaseState.WOULD_SHIP,)),
    ("Waiting or under way", (CaseState.WAITING, CaseState.SHIPPING)),
    ("Needs you", (CaseState.NEEDS_ATTENTION,)),
)
SHORTEST_S, LONGEST_S = 1.0, 86400.0


@dataclass(frozen=True, slots=True)
class Today:
    """The day so far. `times`: when each of the newest packages was proven shipped, and after how long."""

    midnight: datetime
    shipped: int
    new: dict[str, int]
    times: tuple[tuple[datetime, timedelta], ...]

    def funnel(self) -> Iterator[tuple[str, int, float]]:
        """The packages first heard of today and where they stand now: name, count, and share of all from 0 to 1."""
        total = sum(self.new.values())
        yield "First heard of today", total, 1.0 if total else 0.0
        for name, states in _FUNNEL:
            count = sum(self.new.get(state, 0) for state in states)
            if count:
                yield name, count, count / total

    def points(self) -> Iterator[tuple[float, float]]:
        """The plot of the times, newest first: when within the day, and the height of how long it took, from 0 to 1.

        By the clock on the wall: not every day has 24 hours.
        """
        for at, took in self.times:
            on_the_wall = at.astimezone(self.midnight.tzinfo).replace(tzinfo=None)
            yield (on_the_wall - self.midnight.replace(tzinfo=None)) / timedelta(days=1), height(took)

    def summary(self) -> str:
        """The plot in a sentence."""
        if not self.times:
            return "What shipped had been packed before." if self.shipped else "Nothing has shipped yet today."
        took = sorted(took.total_seconds() for _, took in self.times)
        middle, most = statistics.median(took), took[math.ceil(len(took) * 0.95) - 1]
        middle_in, most_in, longest = (lasting(timedelta(seconds=each)) for each in (middle, most, took[-1]))
        return f"Half shipped within {middle_in}, 95 % within {most_in}; the slowest took {longest}."


def height(took: timedelta) -> float:
    """A duration on the plot's scale: 1 s is at 0, a day at 1."""
    bounded = min(max(took.total_seconds(), SHORTEST_S), LONGEST_S)
    return math.log(bounded / SHORTEST_S) / math.log(LONGEST_S / SHORTEST_S)


def read(transaction: Transaction, zone: tzinfo) -> Today:
    """The day in this zone."""
    midnight = datetime.combine(transaction.now.astimezone(zone).date(), time(), zone)
    applied = (
        attempts.c.started_at >= midnight - _SETTLED_WITHIN,
        attempts.c.resolution == Resolution.APPLIED,
        attempts.c.resolved_at >= midnight,
    )
    shipped = transaction.execute(sa.select(sa.func.count()).select_from(attempts).where(*applied)).scalar_one()
    return Today(midnight, int(shipped), _new_packages(transaction, midnight), _times(transaction, applied))


def _new_packages(transaction: Transaction, midnight: datetime) -> dict[str, int]:
    new = packages.c.first_hint.in_(_FIRST_HINTS), packages.c.created_at >= midnight
    query = sa.select(packages.c.state, sa.func.count().label("n")).where(*new).group_by(packages.c.state)
    return {row["state"]: int(row["n"]) for row in transaction.execute(query).mappings()}


def _times(
    transaction: Transaction, applied: Sequence[sa.ColumnElement[bool]]
) -> tuple[tuple[datetime, timedelta], ...]:
    """Only of a first stay in Packed: when we first heard of a later one is not kept."""
    first_stay = packages.join(attempts, attempts.c.package_id == packages.c.package_id)
    query = (
        sa.select(attempts.c.resolved_at, packages.c.created_at)
        .select_from(first_stay)
        .where(*applied, attempts.c.episode == 1)
        .order_by(attempts.c.started_at.desc())
        .limit(MOST_POINTS)
    )
    rows = transaction.execute(query).mappings()
    return tuple((row["resolved_at"], row["resolved_at"] - row["created_at"]) for row in rows)
