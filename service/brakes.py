"""What holds every worker back at once: pause, breaker, `Retry-After`, rate. One row, shared by all."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sa

from service import logs
from service.database import Database, Transaction, brakes, packages
from service.outcome import (
    MAX_RETRY_AFTER,
    Accepted,
    Ambiguous,
    BadShape,
    CommandAnswer,
    Misconfigured,
    NotFound,
    NotSent,
    ReadFailed,
    Reading,
    Refused,
    Throttled,
    Unauthorised,
)
from service.snapshot import PackageSnapshot

RATE_USED_UP = "the rate is used up"
ASKED_TO_WAIT = "the OMS asked to wait (Retry-After)"
TOKEN_REJECTED = "the OMS does not accept the token (401)"  # noqa: S105 - no token, a sentence about one
FORBIDDEN = "the token may not"
BY_OPERATOR = "by an operator"
_BY = "by "
# Stands where the package would that an answer is about.
SWEEP = 0
PROBE_INTERVAL = timedelta(seconds=30)
RATE_BURST = timedelta(seconds=1)
# What has waited for its share of the rate for so long will not be served by waiting: it is too low.
_RATE_PATIENCE = timedelta(minutes=30)
FORBIDDEN_IN_A_ROW = 3

CHANGED = logs.Event(
    "brake.changed", logging.WARNING, "The OMS made all workers wait, or may be asked again.", alert=True
)

# What to do about what holds commands back.
AFTER_401 = (
    "Put in a new OMS_TOKEN and restart; with OMNITRON_* look for login.failed in the logs. Nothing is lost: it goes "
    "on by itself with the first good answer."
)
AFTER_CAP = (
    "Look at what ships: autoship packages --state shipped. If it is right, raise SHIP_MAX_PER_HOUR and restart, then: "
    "autoship resume. Or wait until the last hour holds fewer commands, then: autoship resume. Sooner it pauses again "
    "at once; it does not resume by itself."
)
AFTER_PAUSE = "Find out whether what it was paused for is over. Then: autoship resume"
_AFTER_429 = "It goes on by itself once that time is over. Where it comes often, lower OMS_RATE_PER_S."
_AFTER_403 = (
    "Give the token's user that right. It goes on by itself with the first good answer, or with: autoship resume"
)
_AFTER_REDIRECT = (
    "Correct OMS_BASE_URL as deploy/README.md says (The OMS gets another address). It goes on by itself with the first "
    "good answer."
)

_READ = sa.select(*(column for column in brakes.c if column is not brakes.c.id))
_READ_LOCKED = _READ.with_for_update()
_WRITTEN = sa.update(brakes)


class Operation(StrEnum):
    """What was asked of the OMS when it answered."""

    READ = "read"
    COMMAND = "command"


@dataclass(frozen=True, slots=True)
class Brakes:
    """How the brakes stand. `probe_package_id` may pass an open breaker to see whether it can be closed."""

    paused_at: datetime | None
    pause_cause: str | None
    breaker_opened_at: datetime | None
    breaker_cause: str | None
    breaker_operation: str | None
    breaker_package_id: int | None
    probe_at: datetime | None
    probe_package_id: int | None
    hold_off_until: datetime | None
    forbidden: tuple[tuple[str, int], ...]
    next_slot_at: datetime | None

    def against_command(self, package_id: int, now: datetime) -> str | None:
        """Why this package must not be commanded now, or None."""
        if self.paused_at is not None:
            return f"paused: {self.pause_cause}"
        shut = self.against_look(now)
        return None if shut != ASKED_TO_WAIT and package_id == self.probe_package_id else shut

    def against_look(self, now: datetime) -> str | None:
        """Why no package is looked at now, but for a probe, or None."""
        if self.asks_to_wait(now):
            return ASKED_TO_WAIT
        return f"breaker open: {self.breaker_cause}" if self.breaker_opened_at is not None else None

    def advice(self, now: datetime) -> str:
        """What to do about what these two tell."""
        if self.paused_at is not None:
            return AFTER_PAUSE if is_by_person(self.pause_cause) else AFTER_CAP
        if self.asks_to_wait(now):
            return _AFTER_429
        if self.breaker_cause == TOKEN_REJECTED:
            return AFTER_401
        return _AFTER_403 if (self.breaker_cause or "").startswith(FORBIDDEN) else _AFTER_REDIRECT

    def asks_to_wait(self, now: datetime) -> bool:
        """Whether a `Retry-After` has not passed."""
        return has_to_wait(self.hold_off_until, now)

    def waits_for_probe(self, now: datetime) -> bool:
        """Whether the breaker is open and it is too early for a probe."""
        if self.breaker_opened_at is None or self.probe_at is None:
            return False
        return now < self.probe_at <= now + PROBE_INTERVAL


def has_to_wait(until: datetime | None, now: datetime) -> bool:
    """Whether the OMS asked to wait until then; what is too far ahead was said before a clock was set back."""
    return until is not None and now < until <= now + MAX_RETRY_AFTER


def read(transaction: Transaction, *, lock: bool = False) -> Brakes:
    """The brakes; `lock` keeps other transactions from changing them until this one ends."""
    row = transaction.execute(_READ_LOCKED if lock else _READ).mappings().one()
    return Brakes(
        **dict(row) | {"forbidden": tuple((operation, package_id) for operation, package_id in row["forbidden"])}
    )


def holds_up_work(now: datetime, rate_per_s: float) -> sa.ColumnElement[bool]:
    """In a statement: whether what is due may rightly wait: for a person, for the OMS or, for a while, for the rate."""
    free_until = now if rate_per_s == 0 else now + _burst(rate_per_s) - _interval(rate_per_s)
    either, long_ago = packages.c.hinted.in_([True, False]), now - _RATE_PATIENCE
    return sa.or_(
        brakes.c.paused_at.is_not(None),
        brakes.c.breaker_opened_at.is_not(None),
        sa.and_(brakes.c.hold_off_until > now, brakes.c.hold_off_until <= now + MAX_RETRY_AFTER),
        sa.and_(brakes.c.next_slot_at > free_until, ~sa.exists().where(either, packages.c.due_at <= long_ago)),
    )


def admit(transaction: Transaction, found: Brakes, due: Sequence[int], rate_per_s: float) -> Sequence[int]:
    """Which of the due packages may be taken up now; takes their share of the rate (GCRA, 1 s of burst).

    `found` was read under the lock. Behind an open breaker one package at a time is let through as the probe, and
    not the one that failed last while another one is due. A rate of 0 is none.
    """
    now = transaction.now
    if found.asks_to_wait(now) or found.waits_for_probe(now):
        return ()
    if found.breaker_opened_at is not None:
        due = ([one for one in due if one != found.breaker_package_id] or due)[:1]
        _write(transaction, probe_at=now + PROBE_INTERVAL, probe_package_id=due[0])
    return due[: _take_slots(transaction, found, len(due), rate_per_s)]


def admit_sweep(transaction: Transaction, rate_per_s: float) -> str | None:
    """Takes the rate's share of one call for the sweep. Why it must not be made now, or None.

    Behind an open breaker it may be the probe too: no package that could be one may be known.
    """
    now, found = transaction.now, read(transaction, lock=True)
    if found.asks_to_wait(now):
        return ASKED_TO_WAIT
    if found.waits_for_probe(now):
        return f"breaker open: {found.breaker_cause}"
    if found.breaker_opened_at is not None:
        _write(transaction, probe_at=now + PROBE_INTERVAL)
    return None if _take_slots(transaction, found, 1, rate_per_s) else RATE_USED_UP


def _take_slots(transaction: Transaction, found: Brakes, wanted: int, rate_per_s: float) -> int:
    if rate_per_s == 0:
        return wanted
    now, interval, burst = transaction.now, _interval(rate_per_s), _burst(rate_per_s)
    next_slot = max(found.next_slot_at or now, now)
    if next_slot > now + burst:  # only a clock that was set back leads here
        next_slot = now
    admitted = min(wanted, int((now + burst - next_slot) / interval))
    if admitted > 0:
        _write(transaction, next_slot_at=next_slot + admitted * interval)
    return admitted


def _interval(rate_per_s: float) -> timedelta:
    return timedelta(seconds=1 / rate_per_s)


def _burst(rate_per_s: float) -> timedelta:
    return max(RATE_BURST, _interval(rate_per_s))


def note_answer(
    transaction: Transaction, package_id: int, operation: Operation, answer: Reading | CommandAnswer
) -> str | None:
    """Puts a brake on or takes it off as the answer demands. What changed, in words for the log, or None."""
    if not _may_be_closed(transaction) and not isinstance(answer, Throttled | Unauthorised | Misconfigured):
        return None  # nearly always: no reason to make the others wait
    found, now = read(transaction, lock=True), transaction.now
    match answer:
        case Throttled():
            before = found.hold_off_until if found.asks_to_wait(now) else None
            until = max(before or now, now + answer.retry_after)
            _write(transaction, hold_off_until=until)
            return f"the OMS asked to wait {answer.retry_after.total_seconds():.0f} s"
        case Unauthorised(status=401):
            return _open(transaction, found, package_id, operation, TOKEN_REJECTED)
        case Unauthorised():
            this = (operation.value, package_id)
            forbidden = (*(one for one in found.forbidden if one[0] == operation and one != this), this)
            _write(transaction, forbidden=forbidden[-FORBIDDEN_IN_A_ROW:])
            if len(forbidden) < FORBIDDEN_IN_A_ROW:
                return None
            cause = f"{FORBIDDEN} {operation} (403 for three packages in a row)"
            return _open(transaction, found, package_id, operation, cause)
        case Misconfigured():
            cause = f"OMS_BASE_URL answers with a redirect ({answer.status})"
            return _open(transaction, found, package_id, operation, cause)
        case PackageSnapshot() | NotFound() | BadShape() | Accepted() | Refused():
            return _note_progress(transaction, found, operation)
        case ReadFailed() | Ambiguous() | NotSent():
            return None  # says nothing about what the OMS allows


def note_listed(transaction: Transaction) -> str | None:
    """The list was answered: takes off the brake that its refusal had put on. What changed, in words, or None."""
    found = read(transaction, lock=True)
    return _note_progress(transaction, found, Operation.READ) if found.breaker_package_id == SWEEP else None


def _may_be_closed(transaction: Transaction) -> bool:
    """Whether an answer may take a brake off. Brings the time along: most transactions begin with this."""
    row = transaction.execute(transaction.database.built(_closable)).one()
    transaction.told(row.now)
    return row.breaker_opened_at is not None or bool(row.forbidden)


def _closable(database: Database) -> sa.Executable:
    return sa.select(brakes.c.breaker_opened_at, brakes.c.forbidden, database.time.label("now"))


def is_by_person(cause: str | None) -> bool:
    """Whether a person paused: that cause names one, ours do not."""
    return (cause or "").startswith(_BY)


def pause(transaction: Transaction, cause: str) -> bool:
    """Stops new commands. False if they were stopped already; a person's cause takes the place of ours."""
    found = read(transaction, lock=True)
    if found.paused_at is not None and (is_by_person(found.pause_cause) or not is_by_person(cause)):
        return False
    _write(transaction, paused_at=transaction.now, pause_cause=cause)
    return True


def resume(transaction: Transaction) -> bool:
    """Allows commands again and closes the breaker. False if they were, and it was."""
    found = read(transaction, lock=True)
    _write(transaction, paused_at=None, pause_cause=None, **_CLOSED_BREAKER)
    return found.paused_at is not None or found.breaker_opened_at is not None


_CLOSED_BREAKER: dict[str, object] = {
    "breaker_opened_at": None,
    "breaker_cause": None,
    "breaker_operation": None,
    "breaker_package_id": None,
    "probe_at": None,
    "probe_package_id": None,
    "forbidden": [],
}


def _open(transaction: Transaction, found: Brakes, package_id: int, operation: Operation, cause: str) -> str | None:
    _write(
        transaction,
        breaker_opened_at=found.breaker_opened_at or transaction.now,
        breaker_cause=cause,
        breaker_operation=operation,
        breaker_package_id=package_id,
        probe_at=transaction.now + PROBE_INTERVAL,
        probe_package_id=None,
    )
    return None if found.breaker_opened_at is not None and found.breaker_cause == cause else f"breaker opened: {cause}"


def _note_progress(transaction: Transaction, found: Brakes, operation: Operation) -> str | None:
    """An answer that is no refusal of us: it closes what the same operation opened."""
    if found.breaker_opened_at is not None and found.breaker_operation == operation:
        _write(transaction, **_CLOSED_BREAKER)
        return f"breaker closed: {found.breaker_cause} is over"
    if any(one[0] == operation for one in found.forbidden):
        _write(transaction, forbidden=[])
    return None


def _write(transaction: Transaction, **values: object) -> None:
    transaction.execute(_WRITTEN, values)
