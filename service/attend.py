"""Look at one package: the only place where the rules meet I/O."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from service import brakes, inbox, journal, logs, policy, worklist
from service.brakes import Operation
from service.case import Attempt, Case, CaseState, Note, Outcome, Reason, Settings, is_packed, named
from service.database import Database, Transaction
from service.oms import FIRST_BYTE_WITHIN_S, Oms, Unread
from service.outcome import BadShape, Command, Reading, Throttled
from service.policy import Verdict, View
from service.snapshot import PackageSnapshot, TransitionLog
from service.worklist import Claim

MAX_READ_AGE_S = 5.0
_ANSWER_MARGIN = timedelta(seconds=2)

_READ_FAILED = logs.Event("read.failed", logging.WARNING, "The OMS gave no usable answer to a read; it is repeated.")
_SENDING = logs.Event("command.sending", logging.INFO, "The attempt's row is committed; the command is sent now.")
_ANSWERED = logs.Event("command.answered", logging.INFO, "What the OMS answered to the command.")
_LEASE_LOST = logs.Event(
    "lease.lost",
    logging.WARNING,
    "Another worker has the package by now, or has just written what its command was answered; this one wrote nothing.",
)
_MOVED: Mapping[CaseState, logs.Event] = {
    CaseState.WAITING: logs.Event("package.waiting", logging.INFO, "Not now; the package is looked at again."),
    CaseState.SHIPPED: logs.Event("package.shipped", logging.INFO, "Shipped by us, proven by `evidence`."),
    CaseState.ALREADY_SHIPPED: logs.Event("package.already_shipped", logging.INFO, "Shipped by somebody else."),
    CaseState.SKIPPED: logs.Event("package.skipped", logging.INFO, "Not ours, or no longer."),
    CaseState.WOULD_SHIP: logs.Event(
        "package.would_ship", logging.INFO, "Shadow mode: every check passed, no command is sent."
    ),
    CaseState.NEEDS_ATTENTION: logs.Event(
        "package.needs_attention",
        logging.ERROR,
        "A person must look; `autoship explain ID` says why and what to do.",
        alert=True,
    ),
}


class _LeaseLost(Exception):
    """The package is somebody else's by now: nothing of this transaction may be written."""


@dataclass(frozen=True, slots=True)
class Attendant:
    """What looking at packages needs. One for each thread: an OMS client is not shared.

    `monotonic` measures how old a read and an attempt's row are when a command is about to be sent.
    """

    database: Database
    oms: Oms
    settings: Settings
    lease: timedelta
    jitter: Callable[[], float]
    monotonic: Callable[[], float] = time.monotonic

    def attend(self, claimed: Claim) -> None:
        """Reads a claimed package, decides, commands at most once, and gives the package back.

        Raises `DatabaseUnavailable`; what was begun is then resolved by whoever claims the package next.
        """
        try:
            self._attend(claimed)
        except _LeaseLost:
            _LEASE_LOST.emit(package_id=claimed.case.package_id, fence=claimed.fence)

    def _attend(self, claimed: Claim) -> None:
        case, began_at = claimed.case, claimed.claimed_at
        unanswered = next((one for one in claimed.attempts if one.outcome is None and one.resolution is None), None)
        if unanswered is not None and began_at < unanswered.deadline_at:
            # Another process may still be sending this very command.
            with self.database.transaction() as transaction:
                _release(transaction, claimed, Verdict(case=case, next_look_at=unanswered.deadline_at))
            return
        view = View(
            case=case,
            settings=self.settings,
            now=began_at,
            jitter=self.jitter(),
            read_began_at=began_at,
            attempts=claimed.attempts,
        )
        reading = self.oms.read(case.package_id)
        read_ended = self.monotonic()
        log = self.oms.transition_log(case.package_id) if policy.needs_transition_log(view, reading) else ()
        sending = self._decide(claimed, view, reading, log, read_ended)
        if sending is not None:
            self._send(claimed, *sending)

    def _decide(
        self,
        claimed: Claim,
        view: View,
        reading: Reading,
        log: TransitionLog | BadShape | Unread,
        read_ended: float,
    ) -> tuple[Case, Attempt, float] | None:
        """One transaction: the verdict with all its traces and, if it commands, the attempt's row.

        What to send then, and the monotonic time by which its first byte is out.
        """
        package_id, attempt = claimed.case.package_id, None
        with self.database.transaction() as transaction:
            brake = brakes.note_answer(transaction, package_id, Operation.READ, reading)
            if isinstance(log, Throttled):
                brake = brakes.note_answer(transaction, package_id, Operation.READ, log)
            view = replace(view, now=transaction.now, log=log if isinstance(log, tuple) else ())
            view = self._with_evidence(transaction, view, reading)
            verdict = decided = policy.decide(view, reading)
            if decided.command is not None:
                shut = self._gate_is_shut(transaction, decided.case, read_ended)
                if shut is None:
                    attempt, verdict = self._open_attempt(transaction, claimed, decided, decided.command)
                else:
                    verdict = policy.braked(replace(view, case=decided.case), shut, decided.notes)
            if attempt is None:
                _release(transaction, claimed, verdict)
            self._record_resolution(transaction, view, decided)
            journal.note(transaction, package_id, verdict.notes)
            # Taken before the commit: whatever stalls this process afterwards counts.
            first_byte_by = self.monotonic() + FIRST_BYTE_WITHIN_S
        _log_look(claimed.case, verdict.case, brake)
        return None if attempt is None else (verdict.case, attempt, first_byte_by)

    def _with_evidence(self, transaction: Transaction, view: View, reading: Reading) -> View:
        state = reading.state if isinstance(reading, PackageSnapshot) else None
        if state is None or is_packed(state, self.settings) or policy.is_confirmed(view, state):
            return view
        sent_at = max((one.started_at for one in view.attempts if one.outcome is not Outcome.NOT_SENT), default=None)
        shipped, cancelled = inbox.signed_events(transaction, view.case.package_id, sent_at, state.value)
        return replace(
            view,
            shipped_values=self.settings.shipped_statuses or journal.shipped_values_learned(transaction),
            shipped_event=shipped,
            cancelled_event=cancelled,
        )

    def _record_resolution(self, transaction: Transaction, view: View, verdict: Verdict) -> None:
        attempt = view.open_attempt
        if attempt is not None and (verdict.resolution is not None or verdict.read_back):
            is_written = journal.record_read_back(transaction, attempt, verdict.resolution)
            if not is_written:
                raise _LeaseLost
        if verdict.learned is not None and not self.settings.shipped_statuses:
            journal.learn_shipped(transaction, view.case.package_id, verdict.learned)

    # The command gate: the last thing before a send. Lease and fence are checked by `worklist.renew`.

    def _gate_is_shut(self, transaction: Transaction, case: Case, read_ended: float) -> str | None:
        """Why no command may be sent now, or None."""
        if not self.settings.live:
            return "MODE is not live"
        if case.command_not_before is not None and transaction.now < case.command_not_before:
            return "too early after the last command"
        shut = brakes.read(transaction, lock=True).against_command(case.package_id, transaction.now)
        if shut is not None:
            return shut
        if self.monotonic() - read_ended > MAX_READ_AGE_S:  # after the lock, which may have been waited for
            return "the read this rests on is more than 5 s old"
        return self._hourly_cap(transaction)

    def _hourly_cap(self, transaction: Transaction) -> str | None:
        """Pauses where an hour's commands reach `SHIP_MAX_PER_HOUR`: more than that nobody expected."""
        most = self.settings.ship_max_per_hour
        if most == 0 or journal.sends_since(transaction, transaction.now - timedelta(hours=1)) < most:
            return None
        cause = f"{most} commands within an hour (SHIP_MAX_PER_HOUR)"
        brakes.pause(transaction, cause)
        brakes.CHANGED.emit(cause=f"paused: {cause}")
        return f"paused: {cause}"

    def _open_attempt(
        self, transaction: Transaction, claimed: Claim, verdict: Verdict, command: Command
    ) -> tuple[Attempt, Verdict]:
        case = replace(verdict.case, state=CaseState.SHIPPING, reason=Reason.SENDING)
        if not worklist.renew(transaction, claimed, case, self.lease):
            raise _LeaseLost
        attempt = journal.open_attempt(
            transaction, case, claimed.fence, command, self.settings.oms_timeout + _ANSWER_MARGIN
        )
        if attempt is None:
            raise _LeaseLost
        sending = Note("command", f"attempt {attempt.attempt_id}: sending {named(command)}")
        return attempt, replace(verdict, case=case, notes=(*verdict.notes, sending))

    def _send(self, claimed: Claim, case: Case, attempt: Attempt, first_byte_by: float) -> None:
        """Sends the command and writes its answer. A crash in between leaves the attempt open, as it must.

        The answer is written even where an operator took the package away meanwhile: the attempt is ours.
        """
        _SENDING.emit(package_id=case.package_id, attempt_id=attempt.attempt_id, episode=case.episode)
        answer = self.oms.command(case.package_id, attempt.command, first_byte_by)
        # Without the OMS's words, which may quote anything: they stand in the attempt's row alone.
        cause, http_status = getattr(answer, "cause", None), getattr(answer, "status", None)
        with self.database.transaction() as transaction:
            brake = brakes.note_answer(transaction, case.package_id, Operation.COMMAND, answer)
            view = View(case=case, settings=self.settings, now=transaction.now, jitter=self.jitter())
            verdict, answered = policy.after_command(view, attempt, answer)
            ours = worklist.release(transaction, claimed, verdict.case, verdict.next_look_at)
            journal.record_answer(transaction, answered, answer)
            told = f"attempt {attempt.attempt_id}: {answered.outcome} ({cause or http_status})"
            journal.note(transaction, case.package_id, (Note("answer", told), *verdict.notes))
        _ANSWERED.emit(
            package_id=case.package_id,
            attempt_id=attempt.attempt_id,
            outcome=answered.outcome,
            http_status=http_status,
            cause=cause,
        )
        _log_look(case, verdict.case if ours else case, brake)
        if not ours:
            raise _LeaseLost


def _release(transaction: Transaction, claimed: Claim, verdict: Verdict) -> None:
    if not worklist.release(transaction, claimed, verdict.case, verdict.next_look_at):
        raise _LeaseLost


def _log_look(before: Case, after: Case, brake: str | None) -> None:
    if brake is not None:
        brakes.CHANGED.emit(package_id=after.package_id, cause=brake)
    if after.read_problem is not None:
        _READ_FAILED.emit(package_id=after.package_id, cause=after.read_problem, failures=after.failed_reads)
    moved = (before.state, before.reason, before.episode) != (after.state, after.reason, after.episode)
    if moved and after.state is not CaseState.SHIPPING:  # the command's own lines tell that
        _MOVED[after.state].emit(
            package_id=after.package_id, reason=after.reason, evidence=after.evidence, episode=after.episode
        )
