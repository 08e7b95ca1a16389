"""The watch over workers and brakes, kept by the web process.

A worker that died cannot say so itself, and who pauses at a command line writes into no log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from service import logs
from service.brakes import holds_up_work, is_by_person
from service.config import Config
from service.database import Database, brakes, packages, workers
from service.diagnosis import WORKER_SILENT
from service.errors import DatabaseUnavailable

EVERY_S = 10.0
SILENT_AFTER_S = WORKER_SILENT.total_seconds()
# What is late at this moment and still a minute later is 5 minutes late.
LATE_AFTER = timedelta(minutes=4)
UNSEEN = "no worker was seen for a minute"
LATE = "the oldest due package is 5 minutes late"

_SILENT = logs.Event(
    "worker.silent",
    logging.ERROR,
    "No worker has been seen for a minute, or the oldest due package is 5 minutes late (`cause`).",
    alert=True,
)
_HELD = logs.Event(
    "commands.held",
    logging.WARNING,
    "Commands are held back from now on, or since before this process began (`cause`): a person or `SHIP_MAX_PER_HOUR` "
    "paused, or the breaker is open. Each web process says it; `autoship explain` says who paused.",
)
_FREE = logs.Event(
    "commands.free", logging.INFO, "Nothing holds commands back any more: somebody resumed, or it ended."
)
_SEEN = logs.Event("worker.seen", logging.INFO, "The silence is over: a worker is at work and nothing is late.")


@dataclass(frozen=True, slots=True)
class Signs:
    """What one look at the database shows: each worker's last heartbeat, and by how much the oldest package is late.

    Behind a brake nothing is: what is due waits there without a fault of the workers. `held`: why commands are held
    back by pause or breaker, without the words of people.
    """

    heartbeats: frozenset[tuple[str, datetime]]
    late_by: timedelta
    held: str | None = None


class Watch:
    """Looks at the database every 10 s, and says once that there is silence and once that it is over; of brakes too.

    `cause` is what is wrong with the workers by the last look, or None. It goes by monotonic time, so that neither a
    step of the database's clock nor the time without a database is taken for silence.
    """

    def __init__(self, database: Database, rate_per_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._rate_per_s = rate_per_s
        self._monotonic = monotonic
        self._heartbeats = frozenset[tuple[str, datetime]]()
        self._heard_at = self._on_time_at = monotonic()
        self._held: str | None = None
        self.cause: str | None = None

    def run(self, wait: Callable[[float], bool]) -> None:
        """Looks until `wait(seconds)` is True."""
        while not wait(EVERY_S):
            try:
                self._look()
            except Exception as problem:  # noqa: BLE001 - the last resort: the next look may well work
                logs.WEB_CRASHED.emit(error=type(problem).__name__, trace=logs.trace_of(problem))

    def see(self, signs: Signs) -> None:
        """Judges one more look, and tells what changed. A heartbeat is whatever is not as at the last look."""
        now_s = self._monotonic()
        if signs.heartbeats != self._heartbeats:
            self._heartbeats, self._heard_at = signs.heartbeats, now_s
        if signs.late_by < LATE_AFTER:
            self._on_time_at = now_s
        self._tell_of_brakes(signs.held)
        silent, late = (now_s - since >= SILENT_AFTER_S for since in (self._heard_at, self._on_time_at))
        self._tell_of_workers(UNSEEN if silent else LATE if late else None)

    def _look(self) -> None:
        try:
            signs = _signs(self._database, self._rate_per_s)
        except DatabaseUnavailable:
            if self.cause is None:  # an outage is no silence, nor the end of one
                self._heard_at = self._on_time_at = self._monotonic()
            return
        self.see(signs)

    def _tell_of_brakes(self, held: str | None) -> None:
        before, self._held = self._held, held
        if held is not None and held != before:
            _HELD.emit(cause=held)
        elif held is None and before is not None:
            _FREE.emit()

    def _tell_of_workers(self, cause: str | None) -> None:
        before, self.cause = self.cause, cause
        if cause is not None and cause != before:
            _SILENT.emit(cause=cause)
        elif cause is None and before is not None:
            _SEEN.emit()


def start(config: Config) -> Watch:
    """Watches from now on, in a thread that ends with the process."""
    watch = Watch(Database(config.database_url), config.oms_rate_per_s)
    threading.Thread(target=watch.run, args=(threading.Event().wait,), name="watch", daemon=True).start()
    return watch


def _signs(database: Database, rate_per_s: float) -> Signs:
    """One statement, on the brakes' one row so that there is one without workers too."""
    with database.reading() as transaction:
        now = transaction.now
        held_up = sa.case((holds_up_work(now, rate_per_s), 1), else_=0)
        columns = (held_up, _earliest(hinted=True), _earliest(hinted=False), workers.c.worker, workers.c.seen_at)
        query = sa.select(*columns, brakes).select_from(brakes.outerjoin(workers, sa.true()))
        rows = transaction.execute(query).all()
    oldest: Sequence[datetime | None] = () if rows[0][0] else rows[0][1:3]
    late_by = max((now - due_at for due_at in oldest if due_at is not None), default=timedelta(0))
    heartbeats = frozenset((row.worker, row.seen_at) for row in rows if row.worker is not None)
    return Signs(heartbeats, late_by, _held(rows[0]))


def _held(row: sa.Row[Any]) -> str | None:
    if row.paused_at is not None:
        return "paused by a person" if is_by_person(row.pause_cause) else f"paused: {row.pause_cause}"
    return None if row.breaker_opened_at is None else f"breaker open: {row.breaker_cause}"


def _earliest(*, hinted: bool) -> sa.ScalarSelect[datetime]:
    """The first due time, one end of an index."""
    return sa.select(sa.func.min(packages.c.due_at)).where(packages.c.hinted == hinted).scalar_subquery()
