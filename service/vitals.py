"""How the whole service does, from one query over the database, and so the same whichever process is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from service import worklist
from service.brakes import has_to_wait, holds_up_work, is_by_person
from service.case import CaseState, Reason
from service.database import (
    Database,
    Instant,
    attempts,
    brakes,
    deliveries,
    deployment,
    packages,
    quarantine,
    sweep,
    workers,
)
from service.policy import UNKNOWN_TO_OMS

ATTEMPTS_WITHIN = timedelta(hours=24)
UNANNOUNCED_WITHIN = timedelta(hours=1)
LONG_WAIT = timedelta(minutes=30)
# What a package in Packed waits for where its items, or what it calls its states, cannot be taken as packed.
UNFIT = (Reason.ITEMS_MIXED, Reason.NO_ITEMS, Reason.ITEMS_INCOMPLETE, Reason.WRONG_ENUM_CLASS)
# With the usual backoff, after some minutes.
READ_FAILURES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """Counts and instants; an instant is None where there was none yet.

    `deliveries` counts what was answered 2xx and is kept, repetitions under `duplicate`. `attempts` are those of the
    last 24 h by outcome, `open` without one. `unannounced`: packages that the sweep alone found within the last hour.
    `failing`: packages whose last read failed, `unreadable`: whose last six reads or more all did; but those the OMS
    does not know. `held_back`: packages that have been in Packed for half an hour and wait behind a brake. `unfit`:
    those looked at for as long that wait for one of `UNFIT`, by reason. `held_up`: what is due may rightly wait.
    """

    now: datetime
    made_at: datetime
    packages: Mapping[tuple[str, str | None], int]
    deliveries: Mapping[str, int]
    attempts: Mapping[str, int]
    quarantined: int
    unannounced: int
    failing: int
    unreadable: int
    held_back: int
    unfit: Mapping[str, int]
    missed: int
    oldest_due_at: datetime | None
    worker_seen_at: datetime | None
    last_webhook_at: datetime | None
    last_sweep_at: datetime | None
    sweep_problem: str | None
    paused_at: datetime | None
    pause_cause: str | None
    breaker_opened_at: datetime | None
    breaker_cause: str | None
    hold_off_until: datetime | None
    held_up: bool

    @property
    def oldest_due_s(self) -> float:
        """For how long the oldest due package has waited for a worker."""
        return 0.0 if self.oldest_due_at is None else self._ago_s(self.oldest_due_at)

    @property
    def worker_seen_s(self) -> float | None:
        """How long ago any worker last said that it runs."""
        return None if self.worker_seen_at is None else self._ago_s(self.worker_seen_at)

    @property
    def worker_silent_s(self) -> float:
        """The same, and where no worker ever ran, how old the database is."""
        return self._ago_s(self.worker_seen_at or self.made_at)

    @property
    def asked_to_wait(self) -> bool:
        """Whether a `Retry-After` has not passed."""
        return has_to_wait(self.hold_off_until, self.now)

    @property
    def paused_by_person(self) -> bool:
        """Paused, and not by the hourly cap."""
        return self.paused_at is not None and is_by_person(self.pause_cause)

    def count(self, state: str, *reasons: str) -> int:
        """Packages in this state, with one of these reasons if any are named."""
        return sum(
            n for (its, reason), n in self.packages.items() if its == state and (not reasons or reason in reasons)
        )

    def _ago_s(self, moment: datetime) -> float:
        return max(0.0, (self.now - moment).total_seconds())


def read(database: Database, rate_per_s: float, *, count_deliveries: bool = True) -> Vitals:
    """The vitals now; `rate_per_s` is `OMS_RATE_PER_S`. Raises `DatabaseUnavailable`.

    Counting the deliveries is what takes time: up to a second for three million of them.
    """
    with database.reading() as transaction:
        now = transaction.now
        parts = (*_parts(now, rate_per_s), *([_counted_deliveries()] if count_deliveries else []))
        rows = transaction.execute(sa.union_all(*parts)).mappings().all()
    kept = [row for row in rows if row["part"] == "delivery"]
    fates = dict.fromkeys(("accepted", "ignored", "quarantined"), 0) | {row["a"]: row["n"] for row in kept}
    one = {row["part"]: row for row in rows}
    return Vitals(
        now=now,
        made_at=one["made"]["at"],
        packages={(row["a"], row["b"]): row["n"] for row in rows if row["part"] == "package"},
        deliveries=fates | {"duplicate": sum(row["m"] - row["n"] for row in kept)},
        attempts={row["a"]: row["n"] for row in rows if row["part"] == "attempt"},
        quarantined=one["quarantine"]["n"],
        unannounced=one["unannounced"]["n"],
        failing=one["failing"]["n"],
        unreadable=one["failing"]["m"],
        held_back=one["held_back"]["n"],
        unfit={row["a"]: row["n"] for row in rows if row["part"] == "unfit"},
        missed=one["sweep"]["n"],
        oldest_due_at=one["due"]["at"],
        worker_seen_at=one["worker"]["at"],
        last_webhook_at=max((row["at"] for row in rows if row["part"] in ("delivery", "newest")), default=None),
        last_sweep_at=one["sweep"]["at"],
        sweep_problem=one["sweep"]["a"],
        paused_at=one["pause"]["at"],
        pause_cause=one["pause"]["a"],
        breaker_opened_at=one["breaker"]["at"],
        breaker_cause=one["breaker"]["a"],
        hold_off_until=one["held_up"]["at"],
        held_up=bool(one["held_up"]["n"]),
    )


def _parts(now: datetime, rate_per_s: float) -> tuple[sa.Select[Any], ...]:
    count = sa.func.count()
    alone = (packages.c.first_hint == "sweep", packages.c.reason.is_distinct_from(Reason.BACKLOG_TO_CONFIRM))
    # That a package is not there is an answer.
    answered = packages.c.read_problem.is_distinct_from(UNKNOWN_TO_OMS)
    failing = packages.c.due_at.is_not(None), packages.c.failed_reads > 0, answered
    again_and_again = count.filter(packages.c.failed_reads >= READ_FAILURES)
    waiting, reason = packages.c.state == CaseState.WAITING, packages.c.reason
    unfit = waiting, reason.in_(UNFIT), packages.c.looking_since <= now - LONG_WAIT
    recent_attempts = attempts.c.started_at > now - ATTEMPTS_WITHIN
    outcome = sa.func.coalesce(attempts.c.outcome, "open")
    held_up = sa.case((holds_up_work(now, rate_per_s), 1), else_=0)
    state, newest = (packages.c.state, packages.c.reason), sa.select(sa.func.max(deliveries.c.delivery_id))
    return (
        _part("made", at=deployment.c.migrated_at),
        _part("package", a=state[0], b=state[1], n=count).group_by(*state),
        _part("newest", at=deliveries.c.last_seen_at).where(deliveries.c.delivery_id == newest.scalar_subquery()),
        _part("attempt", a=outcome, n=count).where(recent_attempts).group_by(outcome),
        _part("quarantine", n=sa.func.count(quarantine.c.delivery_id)),
        _part("unannounced", n=count).where(*alone, packages.c.created_at > now - UNANNOUNCED_WITHIN),
        _part("failing", n=count, m=again_and_again).where(*failing),
        _part("held_back", n=count).where(waiting, reason == Reason.BRAKE, packages.c.packed_since <= now - LONG_WAIT),
        _part("unfit", a=reason, n=count).where(*unfit).group_by(reason),
        _part("due", at=sa.func.min(packages.c.due_at)).where(*worklist.is_due(now)),
        _part("worker", at=sa.func.max(workers.c.seen_at)),
        _part("sweep", a=sweep.c.problem, n=sweep.c.missed, at=sweep.c.finished_at),
        _part("pause", a=brakes.c.pause_cause, at=brakes.c.paused_at),
        _part("breaker", a=brakes.c.breaker_cause, at=brakes.c.breaker_opened_at),
        _part("held_up", n=held_up, at=brakes.c.hold_off_until).select_from(brakes),
    )


def _counted_deliveries() -> sa.Select[Any]:
    fate, seen = deliveries.c.fate, sa.func.sum(deliveries.c.seen)
    heard_at = sa.func.max(deliveries.c.last_seen_at)
    return _part("delivery", a=fate, n=sa.func.count(), m=seen, at=heard_at).group_by(fate)


def _part(part: str, **columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """One kind of rows, in the columns that all kinds share."""
    shared: list[sa.ColumnElement[Any]] = [sa.cast(sa.literal(part), sa.Text).label("part")]
    for name, kind in (("a", sa.Text), ("b", sa.Text), ("n", sa.BigInteger), ("m", sa.BigInteger)):
        shared.append(sa.cast(columns.get(name, sa.null()), kind).label(name))
    moment = sa.cast(columns.get("at", sa.null()), sa.BigInteger)
    return sa.select(*shared, sa.type_coerce(moment, Instant()).label("at"))
