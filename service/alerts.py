"""Alerts: what a person should hear of, told once for all processes, and told again when it is over.

Like everything else here they follow the state, not the event: each web process looks at the vitals every few seconds,
and a row for each alert says what people were told last. Whoever finds a difference takes that row's lease and sends;
what could not be sent is found again. So the queue is the table, and as long as the table of alerts at most.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa

from service import logs, vitals
from service.brakes import AFTER_401, AFTER_CAP, TOKEN_REJECTED
from service.case import CaseState, Reason
from service.config import Config
from service.database import Database, Transaction
from service.database import alerts as table
from service.errors import DatabaseUnavailable
from service.sweep import FILTER_IGNORED
from service.vitals import LONG_WAIT, Vitals

LOOK_EVERY_S = 10.0
SEND_WITHIN_S = 20.0
LEASE = timedelta(seconds=60)
# Not sooner after the last word about the same alert, so that what comes and goes is not told each time.
QUIET = timedelta(minutes=5)
REMIND_AFTER = timedelta(hours=24)
PILE = 5
# The watch over the workers begins with the process too; this is longer than it takes to find them silent.
WATCHED_FOR_S = 90.0
YOUNG = timedelta(hours=1)
LONG_WITHOUT_SWEEP = timedelta(hours=1)

_SENT = logs.declare("alert.sent", logging.INFO, "People were told that this began, or is over.", ("alert", "notice"))
_FAILED = logs.declare(
    "alert.failed",
    logging.WARNING,
    "One entry of `ALERT_URLS` (`target`, counted from 1) was not told; where none was, it is tried again.",
    ("alert", "target", "cause"),
)


@dataclass(frozen=True, slots=True)
class Alert:
    """What began and what to do. `event`: the line of the logs that tells the same.

    `count` is None for the one that the watch over the workers judges. `patience_s`: for how long a process watches
    before it speaks of this, be it that it began or that it is over.
    """

    title: str
    advice: str
    event: str
    count: Callable[[Vitals], int] | None
    patience_s: float = 0.0


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


def _breaker(found: Vitals) -> bool:
    return found.breaker_opened_at is not None and found.breaker_cause != TOKEN_REJECTED


def _token_rejected(found: Vitals) -> bool:
    return found.breaker_opened_at is not None and found.breaker_cause == TOKEN_REJECTED


def _capped(found: Vitals) -> bool:
    return found.paused_at is not None and not found.paused_by_person


def _forgotten_pause(found: Vitals) -> int:
    """What waits behind a pause that a person made long ago."""
    long_ago = found.paused_at is not None and found.now - found.paused_at >= LONG_WAIT
    return found.count(CaseState.WAITING, Reason.BRAKE) if long_ago and found.paused_by_person else 0


def _held_back(found: Vitals) -> int:
    """What nothing else tells of: where the breaker or a pause holds them back, that is known."""
    if found.paused_at is not None or found.breaker_opened_at is not None:
        return 0
    unread = found.asked_to_wait and found.oldest_due_s >= LONG_WAIT.total_seconds()
    return max(found.held_back, int(unread))


def _pile(found: Vitals, *reasons: Reason) -> int:
    piled = found.count(CaseState.WAITING, *reasons)
    return piled if piled >= PILE else 0


def _unfit(found: Vitals) -> int:
    """Half-packed packages are everyday business, but not where they are all there is."""
    others_pass = found.attempts or found.count(CaseState.WOULD_SHIP)
    piled = sum(n for reason, n in found.unfit.items() if reason != Reason.ITEMS_MIXED or not others_pass)
    return piled if piled >= PILE else 0


def _sweep_failing(found: Vitals) -> bool:
    went_through = found.now - (found.last_sweep_at or found.made_at) < LONG_WITHOUT_SWEEP
    return not went_through and found.sweep_problem is not None and not _filter_ignored(found)


def _filter_ignored(found: Vitals) -> bool:
    return (found.sweep_problem or "").startswith(FILTER_IGNORED)


def _webhooks_silent(found: Vitals) -> int:
    heard = found.last_webhook_at is not None and found.now - found.last_webhook_at < vitals.UNANNOUNCED_WITHIN
    return 0 if heard or found.now - found.made_at < YOUNG else found.unannounced


ALERTS: Mapping[str, Alert] = {
    "breaker_open": Alert(
        "the breaker is open: no command is sent",
        "Look for brake.changed in the logs for the cause: a right that the token's user lacks, or OMS_BASE_URL "
        "answering with a redirect. It closes by itself with the first good answer, or with: autoship resume",
        "brake.changed",
        _breaker,
    ),
    "token_rejected": Alert(
        "the OMS does not accept the token (401)",
        AFTER_401,
        "brake.changed",
        _token_rejected,
    ),
    "oms_unreadable": Alert(
        "the OMS gives no usable answer",
        "Look for read.failed and login.failed in the logs, and whether the OMS is up. Nothing is lost and no budget "
        "is used: it goes on by itself.",
        "read.failed",
        lambda found: found.unreadable,
    ),
    "held_back": Alert(
        "packages have waited for half an hour behind a brake",
        "autoship explain ID, for one of autoship packages --reason brake, says what holds it back. Look for "
        "brake.changed (429), read.failed and command.answered (not_sent) in the logs. It goes on by itself.",
        "package.waiting",
        _held_back,
    ),
    "hourly_cap": Alert(
        "paused: SHIP_MAX_PER_HOUR was reached",
        AFTER_CAP,
        "brake.changed",
        _capped,
    ),
    "paused": Alert(
        "commands have been paused for half an hour, and packages wait",
        "autoship explain ID, for one of autoship packages --reason brake, says who paused, and why if that was said. "
        "When that is over: autoship resume",
        "commands.held",
        _forgotten_pause,
    ),
    "needs_attention": Alert(
        "packages wait for a person",
        "List them with: autoship packages --state needs_attention. autoship explain ID says why and what to do.",
        "package.needs_attention",
        lambda found: found.count(CaseState.NEEDS_ATTENTION),
    ),
    "refusals": Alert(
        "the OMS refuses our command, or does not offer it, for several packages",
        "Compare SHIP_TRANSITION_ID and SHIP_SLUG with Settings > State Transitions in the OMS. The OMS's words: "
        "autoship explain ID, for one of autoship packages --reason retry_after_refusal or command_not_offered.",
        "package.waiting",
        lambda found: _pile(found, Reason.RETRY_AFTER_REFUSAL, Reason.COMMAND_NOT_OFFERED),
    ),
    "rule_field_missing": Alert(
        "rules ask fields that several packages do not have",
        "List them with: autoship packages --reason rule_field_missing. autoship explain ID names rule and field. They "
        "go on by themselves once RULES_FILE no longer asks it.",
        "package.waiting",
        lambda found: _pile(found, Reason.RULE_FIELD_MISSING),
    ),
    "items_unfit": Alert(
        "packages in Packed do not ship, as their items or states do not look packed",
        "autoship doctor, and autoship explain ID for one of autoship packages --state waiting, show what the OMS says."
        " If the items are packed, ITEM_PACKED_STATUS is wrong; if it shows none or others', OMS_ITEMS_PATH; if states "
        "are of another kind, OMS_BASE_URL. Corrected, restart: they ship by themselves.",
        "package.waiting",
        _unfit,
    ),
    "filter_ignored": Alert(
        "the OMS ignores OMS_LIST_FILTER: the sweep has stopped",
        "Find the spelling this OMS honours and set OMS_LIST_FILTER. Until then only webhooks announce packages.",
        "sweep.failed",
        _filter_ignored,
    ),
    "sweep_failing": Alert(
        "no sweep has gone through for an hour",
        "Look for the cause of sweep.failed in the logs: the OMS errs, the token's user lacks a right, or the package "
        "list asks another kind of token. Until then only webhooks announce packages.",
        "sweep.failed",
        _sweep_failing,
    ),
    "backlog": Alert(
        "packages that were Packed before Autoship first ran wait for your word",
        "Look at them with: autoship packages --reason backlog_to_confirm. Ship them all with: autoship sweep --adopt",
        "sweep.finished",
        lambda found: found.count(CaseState.WAITING, Reason.BACKLOG_TO_CONFIRM),
    ),
    "webhooks_silent": Alert(
        "no webhook has come for an hour, and the sweep finds packages",
        "Check that the webhooks are active in the OMS (Settings > Webhooks) and reach this service, and its list of "
        "undelivered ones. Packages still ship, only later.",
        "sweep.finished",
        _webhooks_silent,
    ),
    "worker_silent": Alert(
        "no worker is at work",
        "Start one (autoship worker), or restart the one that hangs. If /readyz answers 503, mend the database first: "
        "a worker that cannot write is not seen. What was accepted is not lost; it ships when a worker is back.",
        "worker.silent",
        None,
        patience_s=WATCHED_FOR_S,
    ),
}


def judge(found: Vitals, silence: str | None) -> dict[str, int]:
    """The alerts that are open, and how many packages each concerns, or 1. `silence`: why workers are silent."""
    silent = int(silence is not None)
    counts = {name: silent if alert.count is None else int(alert.count(found)) for name, alert in ALERTS.items()}
    return {name: count for name, count in counts.items() if count > 0}


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


class Watch:
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
            if watched_for_s >= alert.patience_s and notice(before, count, found.now) is not None:
                self._tell(name, count)
            elif before.is_open and 0 < count < before.count:
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
            fewer = sa.update(table).where(table.c.alert == name, table.c.count > count)
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
        watch = Watch(config, Database(config.database_url), silence)
        never = threading.Event()
        threading.Thread(target=watch.run, args=(never.wait,), name="alerts", daemon=True).start()


def _told(row: sa.RowMapping) -> Told:
    return Told(row["is_open"], row["count"], row["told_at"], row["leased_until"])
