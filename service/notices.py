"""Notices: people are told of an alert, once for all processes, and told again when it is over.

Like everything else here they follow the state, not the event: each web process looks at the vitals every few seconds,
and a row for each alert says what people were told last. Whoever finds a difference takes that row's lease and sends;
what could not be sent is found again. So the queue is the table, and as long as the table of alerts at most.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa

from service import logs, vitals
from service.alerts import ALERTS, judge
from service.config import Config
from service.database import Database, Transaction
from service.database import alerts as table
from service.errors import DatabaseUnavailable

LOOK_EVERY_S = 10.0
SEND_WITHIN_S = 20.0
LEASE = timedelta(seconds=60)
# Before that a process does not speak of the workers, as the watch over them begins with it; it is longer than it takes
# to find them silent.
WATCHED_FOR_S = 90.0
# Not sooner after the last word about the same alert, so that what comes and goes is not told each time.
QUIET = timedelta(minutes=5)
REMIND_AFTER = timedelta(hours=24)
# Each process notices a silence by itself, some seconds sooner or later; by then all have.
NOTICED_WITHIN = timedelta(seconds=30)

_SENT = logs.Event("alert.sent", logging.INFO, "People were told that this began, or is over.")
_FAILED = logs.Event(
    "alert.failed",
    logging.WARNING,
    "One entry of `ALERT_URLS` (`target`, counted from 1) was not told; where none was, it is tried again.",
)


class Notice(StrEnum):
    """What people are told of an alert."""

    OPEN = "open"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Told:
    """What people were told last. `count` is how many it concerned."""

    is_open: bool = False
    count: int = 0
    told_at: datetime | None = None
    leased_until: datetime | None = None


def notice(told: Told, count: int, now: datetime) -> Notice | None:
    """What people should hear of an alert that concerns `count` by now; None where they know, or are being told."""
    since_told = timedelta.max if told.told_at is None else now - told.told_at
    is_quiet = timedelta(0) <= since_told < QUIET
    is_leased = told.leased_until is not None and now < told.leased_until <= now + LEASE
    if is_quiet or is_leased:
        return None
    if not told.is_open:
        return Notice.OPEN if count else None
    if not count:
        return Notice.OVER
    return Notice.OPEN if count >= 2 * told.count or since_told >= REMIND_AFTER else None


def message(name: str, what: Notice, count: int, oms_base_url: str) -> tuple[str, str]:
    """Title and text: constants, a number and the address of the OMS, so nothing that is secret or personal."""
    alert = ALERTS[name]
    if what is Notice.OVER:
        return f"Autoship, over: {alert.title}", f"There is nothing more to do.\n\nOMS: {oms_base_url}"
    concerned = f"Packages concerned: {count}\n\n" if count > 1 else ""
    return f"Autoship: {alert.title}", f"{concerned}What to do: {alert.advice}\n\nOMS: {oms_base_url}"


class Target:
    """One entry of `ALERT_URLS`."""

    def __init__(self, url: str) -> None:
        # Imported here: it is slow, and few need it.
        import apprise

        asset = apprise.AppriseAsset(app_id="Autoship", async_mode=False, http_redirects=False)
        self._apprise = apprise.Apprise(url, asset=asset)
        self._thread: threading.Thread | None = None
        self._problem: str | None = None

    def begin(self, what: Notice, title: str, text: str) -> bool:
        """Begins to send. False while the last sending is still under way: one that hangs keeps its thread."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self._problem = "too slow"
        self._thread = threading.Thread(target=self._send, args=(what, title, text), name="alert", daemon=True)
        self._thread.start()
        return True

    def problem(self, deadline: float) -> str | None:
        """Why it is not told by the deadline, a monotonic time; None where it is."""
        if self._thread is not None:
            self._thread.join(max(0.0, deadline - time.monotonic()))
        return self._problem

    def _send(self, what: Notice, title: str, text: str) -> None:
        kind = "success" if what is Notice.OVER else "failure"
        try:
            self._problem = None if self._apprise.notify(text, title, kind) else "not reached or refused"
        except Exception as problem:  # noqa: BLE001 - a message of the library's may quote the URL, a secret
            self._problem = type(problem).__name__


class Teller:
    """Compares the vitals, and what `silence` says of the workers, with what people were told: tells the difference."""

    def __init__(
        self,
        config: Config,
        database: Database,
        silence: Callable[[], str | None],
        send_within_s: float = SEND_WITHIN_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._oms_base_url = config.oms.base_url
        self._rate_per_s = config.oms_rate_per_s
        self._database = database
        self._silence = silence
        self._targets = [Target(url) for url in config.alert_urls]
        self._send_within_s = send_within_s
        self._monotonic = monotonic
        self._began = monotonic()

    def look(self) -> None:
        """Looks once. Raises `DatabaseUnavailable`."""
        found = vitals.read(self._database, self._rate_per_s, count_deliveries=False)
        counts = judge(found, self._silence())
        with self._database.reading() as transaction:
            rows = transaction.execute(sa.select(table)).mappings()
            told = {row["alert"]: _told(row) for row in rows}
        watched_for_s = self._monotonic() - self._began
        for name, alert in ALERTS.items():
            count, before = counts.get(name, 0), told.get(name, Told())
            due = alert.count is not None or watched_for_s >= WATCHED_FOR_S
            if due and notice(before, count, found.now) is not None:
                self._tell(name, count)
            elif due and before.is_open and count < before.count:
                self._remember_fewer(name, count)

    def run(self, wait: Callable[[float], bool]) -> None:
        """Looks again and again until `wait(seconds)` is True."""
        while True:
            try:
                self.look()
            except DatabaseUnavailable as problem:
                logs.DATABASE_UNAVAILABLE.emit(where="alerts", cause=str(problem))
            except Exception as problem:  # noqa: BLE001 - the last resort: the next look may well work
                logs.WEB_CRASHED.emit(error=type(problem).__name__, trace=logs.trace_of(problem))
            if wait(LOOK_EVERY_S):
                return

    def _tell(self, name: str, count: int) -> None:
        """Sends under the alert's lease, and writes down what was sent; if that fails, the lease runs out."""
        with self._database.transaction() as transaction:
            what = self._take(transaction, name, count)
        if what is None or not self._send(name, what, count):
            return
        with self._database.transaction() as transaction:
            told = {"is_open": what is Notice.OPEN, "count": count, "told_at": transaction.now, "leased_until": None}
            transaction.execute(sa.update(table).where(table.c.alert == name).values(told))
        _SENT.emit(alert=name, notice=what)

    def _remember_fewer(self, name: str, count: int) -> None:
        """What grows again from there is news."""
        with self._database.transaction() as transaction:
            noticed = table.c.told_at <= transaction.now - NOTICED_WITHIN
            fewer = sa.update(table).where(table.c.alert == name, table.c.count > count, noticed)
            transaction.execute(fewer.values(count=count))

    def _take(self, transaction: Transaction, name: str, count: int) -> Notice | None:
        """The right to tell it, under the row's lock, or None where another process was faster."""
        transaction.execute(self._database.insert(table).values(alert=name).on_conflict_do_nothing())
        mine = sa.select(table).where(table.c.alert == name).with_for_update()
        told = _told(transaction.execute(mine).mappings().one())
        what = notice(told, count, transaction.now)
        if what is not None:
            leased = sa.update(table).where(table.c.alert == name)
            transaction.execute(leased.values(leased_until=transaction.now + LEASE))
        return what

    def _send(self, name: str, what: Notice, count: int) -> bool:
        """Whether at least one target was told in time; each that was not is logged."""
        title, text = message(name, what, count, self._oms_base_url)
        deadline = time.monotonic() + self._send_within_s
        begun = [target.begin(what, title, text) for target in self._targets]
        problems = [
            target.problem(deadline) if has_begun else "still busy with the last one"
            for target, has_begun in zip(self._targets, begun, strict=True)
        ]
        for number, problem in enumerate(problems, 1):
            if problem is not None:
                _FAILED.emit(alert=name, target=number, cause=problem)
        return None in problems


def start(config: Config, silence: Callable[[], str | None]) -> None:
    """Watches in a thread of its own for as long as this process lives, if there is anybody to tell."""
    if config.alert_urls:
        teller = Teller(config, Database(config.database_url), silence)
        never = threading.Event()
        threading.Thread(target=teller.run, args=(never.wait,), name="alerts", daemon=True).start()


def _told(row: sa.RowMapping) -> Told:
    return Told(row["is_open"], row["count"], row["told_at"], row["leased_until"])
