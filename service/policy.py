"""What to do about a package: pure functions from what is known to what happens next.

`hint` says whether a delivery is worth a look. `decide` turns one read of the OMS into a verdict.
`after_command` turns the answer to a command into one. Nothing here reads a clock or does I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from service import outcome, rules
from service.case import (
    CLOSED,
    Attempt,
    Case,
    CaseState,
    Check,
    Evidence,
    Finding,
    Note,
    Outcome,
    Reason,
    Resolution,
    Settings,
    command_for,
    grace_finding,
    is_packed,
    items_findings,
    offer_finding,
    packed_check,
    rules_finding,
)
from service.delivery import Delivery
from service.outcome import (
    CLOCKS_DIFFER,
    Accepted,
    Ambiguous,
    BadShape,
    Command,
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
from service.rules import FieldMissing, Match
from service.snapshot import LoggedTransition, PackageSnapshot, TransitionLog
from service.wire import PACKAGE_STATUS, StateValue

POLLING_WINDOW = timedelta(minutes=15)
# What the OMS guide documents as Waiting, Preparing, Ready for Packaging, Out of Stock and Packed for Refund (command
# pages complete-packaging-without-shipment and package-packed-for-refund); and 150 and 300, which it only names beside
# Waiting and Preparing, in examples of the package list's filter: too little to claim a package as shipped.
NOT_SHIPPED = frozenset({"100", "150", "200", "300", "400", "920", "1100"})
# With the usual backoff, in about ten minutes.
_READS_IN_DISORDER = 8
UNANNOUNCED = "no webhook announced it"
UNKNOWN_TO_OMS = "the OMS does not know this package"
_STRANGER = "the state is not a PackageStatus"
_RENAMED = "it is where it was when it was Packed: PACKED_STATUS was changed since"
# Waiting for one of these has its own due time, or a person's word.
_NOT_FOR_THE_SWEEP = frozenset({None, Reason.BRAKE, Reason.RETRY_AFTER_REFUSAL, Reason.BACKLOG_TO_CONFIRM})
_MAY_HAVE_BEEN_APPLIED = frozenset({None, Outcome.ACCEPTED, Outcome.AMBIGUOUS})


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a decision rests on besides the read itself.

    `read_began_at` is when the OMS was asked, `now` where that is not told: what a slow read shows may be that old.
    `attempts` are those of this episode, oldest first. `log` is empty where it was not asked or not answered.
    `shipped_event` and `cancelled_event`: a signed delivery said so; the first one after the last send, and without
    telling another state than is read now.
    """

    case: Case
    settings: Settings
    now: datetime
    jitter: float
    read_began_at: datetime | None = None
    attempts: tuple[Attempt, ...] = ()
    log: TransitionLog = ()
    shipped_values: frozenset[str] = frozenset()
    shipped_event: bool = False
    cancelled_event: bool = False

    @property
    def open_attempt(self) -> Attempt | None:
        return next((attempt for attempt in self.attempts if attempt.resolution is None), None)

    @property
    def possible_attempt(self) -> Attempt | None:
        """The newest attempt that may have been applied."""
        possible = (attempt for attempt in reversed(self.attempts) if attempt.outcome in _MAY_HAVE_BEEN_APPLIED)
        return next(possible, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What happens next. With `command`, everything a fresh read can show speaks for sending it now.

    `resolution` closes the open attempt; `read_back` counts one more read that left it open.
    """

    case: Case
    next_look_at: datetime | None = None
    notes: tuple[Note, ...] = ()
    command: Command | None = None
    resolution: Resolution | None = None
    read_back: bool = False
    learned: str | None = None


# Is a delivery worth a look?


def hint(delivery: Delivery, state: CaseState | None, reason: Reason | None, settings: Settings) -> str | None:
    """None: look at the package. Otherwise why not: the reason an ignored delivery is recorded with.

    `state` and `reason` are the package's, None if it was never seen. The sender's other event families (shipment,
    order, transfer) carry ids of their own, so they must not name a package by accident. A dismissed package is
    dismissed for one stay in Packed: it is looked at, so that we see it leave.
    """
    if delivery.event_type is not None and not delivery.event_type.startswith("package"):
        return "not_a_package_event"
    if delivery.state is None or is_packed(delivery.state, settings):
        return None
    if state is None:
        return "not_packed"
    return "closed_case" if state in CLOSED and reason is not Reason.DISMISSED else None


def worth_a_look(case: Case | None, listed: PackageSnapshot, settings: Settings, now: datetime) -> str | None:
    """Why the sweep should have a package looked at that the OMS lists as Packed, or None.

    `case` is None for a package never seen. Never for one that waits for a person, was dismissed, has a command under
    way, or is due at a time of its own.
    """
    if case is None:
        return UNANNOUNCED
    if case.held or case.state is CaseState.SHIPPING:
        return None
    if case.state is CaseState.WAITING and case.reason in _NOT_FOR_THE_SWEEP:
        return None
    ruling = rules.judge(settings.rules, listed.facts)
    match case.state:
        case CaseState.WAITING | CaseState.NEEDS_ATTENTION:
            view = View(case=case, settings=settings, now=now, jitter=0.0)
            against = {reason for _, reason in _findings(view, listed, ruling)} - {None}
            if case.reason is Reason.GRACE and against & {Reason.GRACE, Reason.RULE_FIELD_MISSING}:
                return None  # it is due then; sooner only where the list shows that its grace was made shorter
            return "it would ship now" if listed.items is None or against <= {Reason.GRACE} else None
        case CaseState.WOULD_SHIP:
            return "MODE is live now" if settings.live else None
        case CaseState.SKIPPED if case.reason is Reason.RULE:
            same = isinstance(ruling, Match) and ruling.action == "skip"
            return None if same else "the rules decide otherwise now"
        case _:
            return "it is in Packed again"


# One read, one verdict.


def needs_transition_log(view: View, reading: Reading) -> bool:
    """Whether the transition log could decide what the read alone cannot."""
    if not isinstance(reading, PackageSnapshot) or reading.state is None:
        return False
    if is_packed(reading.state, view.settings):
        return view.case.packed_since is None and view.case.left_packed_at is not None
    return view.possible_attempt is not None and not is_confirmed(view, reading.state) and _is_unsettled(view)


def is_confirmed(view: View, state: StateValue) -> bool:
    """Whether a state other than Packed proves by itself that the last command, an accepted one, was applied."""
    attempt = view.possible_attempt
    if attempt is None or attempt.outcome is not Outcome.ACCEPTED or attempt.resolution is not None:
        return False
    return state.value not in NOT_SHIPPED - view.settings.shipped_statuses


def decide(view: View, reading: Reading) -> Verdict:
    """The verdict on one read. Total: every reading has one, none raises."""
    view = _ageing_by_answers(view, reading)
    match reading:
        case PackageSnapshot():
            return _on_snapshot(view, reading)
        case NotFound():
            return _unreadable(view, UNKNOWN_TO_OMS, Reason.NOT_FOUND)
        case BadShape():
            return _unreadable(view, reading.problem, Reason.BAD_SHAPE)
        case ReadFailed():
            return _look_again(view, reading.cause)
        case Unauthorised() | Throttled():
            return _look_again(view, f"the OMS answered {reading.status} to the read")
        case Misconfigured():  # pragma: no branch - mypy proves that there is no other
            return _look_again(view, f"the OMS answered {reading.status}, a redirect, to the read")


def after_command(view: View, attempt: Attempt, answer: CommandAnswer) -> tuple[Verdict, Attempt]:
    """What an answer to the command makes of the case, and the attempt with the answer in it."""
    settings, attempt = view.settings, replace(attempt, answered_at=view.now)
    match answer:
        case Accepted():
            return _unconfirmed(view, Reason.CONFIRMING), replace(attempt, outcome=Outcome.ACCEPTED)
        case Ambiguous():
            answered = replace(attempt, outcome=Outcome.AMBIGUOUS, concluded=answer.concluded)
            return _unconfirmed(view, Reason.AMBIGUOUS), answered
        case Refused():
            return _unconfirmed(view, Reason.CONFIRMING), replace(attempt, outcome=Outcome.REFUSED)
        case Unauthorised():
            if answer.status == 403:
                return _unconfirmed(view, Reason.CONFIRMING), replace(attempt, outcome=Outcome.UNAUTHORISED)
            return _braked_by_answer(view, attempt, Outcome.UNAUTHORISED, settings.retry_base)
        case Throttled():
            return _braked_by_answer(view, attempt, Outcome.THROTTLED, answer.retry_after)
        case Misconfigured():
            return _braked_by_answer(view, attempt, Outcome.MISCONFIGURED, settings.retry_base)
        case NotSent():  # pragma: no branch - mypy proves that there is no other
            return _braked_by_answer(view, attempt, Outcome.NOT_SENT, _backoff(view, view.case.looks))


def braked(view: View, cause: str, notes: tuple[Note, ...] = ()) -> Verdict:
    """The command gate stayed shut: nothing was sent, no budget is used, look again."""
    again = view.now + _backoff(view, view.case.looks)
    verdict = _moved(view, CaseState.WAITING, Reason.BRAKE, f"not commanded: {cause}", again)
    return replace(verdict, notes=(*notes, *verdict.notes))


# From here on: the steps of the above, in the order a package meets them.


def _on_snapshot(view: View, snapshot: PackageSnapshot) -> Verdict:
    case, settings = view.case, view.settings
    if case.modified_at and snapshot.modified_at and snapshot.modified_at < case.modified_at:
        return _unreadable(view, "the OMS showed an older version of the package than before", Reason.BAD_SHAPE)
    if snapshot.state is None:
        return _unreadable(view, "the package has no readable state", Reason.BAD_SHAPE)
    stranger = not snapshot.state.is_of(PACKAGE_STATUS)
    if stranger and (case.state in CLOSED or view.open_attempt is not None):
        return _unreadable(view, _STRANGER, Reason.BAD_SHAPE)
    in_packed = is_packed(snapshot.state, settings)
    unmoved = case.packed_since is not None and snapshot.state == case.state_seen
    if not in_packed and unmoved and (case.held or view.possible_attempt is not None):
        return _unreadable(view, _RENAMED, Reason.BAD_SHAPE)
    view = replace(view, case=_with_snapshot(view, snapshot))
    if stranger:
        view = _with_checks(view, packed_check(snapshot.state, settings))
        return _wait(view, Reason.WRONG_ENUM_CLASS, _STRANGER)
    if in_packed:
        return _in_packed(view, snapshot)
    return _not_in_packed(view, snapshot.state)


def _with_snapshot(view: View, snapshot: PackageSnapshot) -> Case:
    case = view.case
    return replace(
        case,
        looking_since=case.looking_since or view.now,
        last_look_at=view.now,
        looks=case.looks + 1,
        failed_reads=0,
        read_problem=None,
        modified_at=snapshot.modified_at or case.modified_at,
        state_seen=snapshot.state,
        number=snapshot.number or case.number,
        order_number=snapshot.order_number or case.order_number,
        facts=snapshot.facts,
    )


def _in_packed(view: View, snapshot: PackageSnapshot) -> Verdict:
    if view.case.packed_since is None:
        evidence = _opening(view, snapshot.modified_at)
        return evidence if isinstance(evidence, Verdict) else _opened(view, snapshot, evidence)
    attempt = view.open_attempt
    if attempt is not None:
        return _still_packed(view, attempt)
    return _judged(view, snapshot)


def _opening(view: View, modified_at: datetime | None) -> str | Verdict:
    """What proves a new episode, else a verdict that leaves the case as it was."""
    case = view.case
    if case.left_packed_at is None:
        return "first read in Packed"
    entry = _newer_entry(view, case.left_packed_at)
    if entry is not None:
        return f"transition log entry {entry.log_id} went into Packed"
    if case.repacked_at is None:
        seen = replace(case, repacked_at=view.now)
        return Verdict(case=seen, next_look_at=view.now + view.settings.episode)
    if view.now - case.repacked_at < view.settings.episode:
        return Verdict(case=case, next_look_at=case.repacked_at + view.settings.episode)
    if case.left_modified_at and modified_at and modified_at <= case.left_modified_at:
        return _not_repacked(view)
    seconds = (view.now - case.repacked_at).total_seconds()
    return f"two reads {seconds:.0f} s apart show Packed"


def _newer_entry(view: View, left_packed_at: datetime) -> LoggedTransition | None:
    """The logged move into Packed that began a new stay. Log and read may be old pictures, of the same moment."""
    packed = view.settings.packed_status
    entry, left = outcome.last_entry(view.log, packed), outcome.last_departure(view.log, packed)
    if entry is None or left is None or entry.at is None or entry.at <= left_packed_at + CLOCKS_DIFFER:
        return None
    return entry if entry.log_id > max(left.log_id, view.case.entry_log_id) else None


def _not_repacked(view: View) -> Verdict:
    """Packed, with the date it left Packed with: what is shown now or was shown then is not true.

    ASSUMED: the date changes with the state. Where it does not, a person hears of a package that was packed again.
    """
    if view.case.held:
        return Verdict(case=view.case)
    if _age(view) >= POLLING_WINDOW:
        text = "read as Packed again, with the modified date it left Packed with"
        return _attention(view, Reason.OUTCOME_UNKNOWN, text, held=True)
    return Verdict(case=view.case, next_look_at=view.now + _poll_delay(view))


def _opened(view: View, snapshot: PackageSnapshot, evidence: str) -> Verdict:
    """The first verdict of a new episode."""
    dismissed_before_packed = view.case.reason is Reason.DISMISSED and view.case.left_packed_at is None
    case = replace(
        view.case,
        state=view.case.state if dismissed_before_packed else CaseState.WAITING,
        reason=view.case.reason if dismissed_before_packed else None,
        held=dismissed_before_packed,
        evidence=None,
        episode=view.case.episode + 1,
        packed_since=view.now,
        left_packed_at=None,
        repacked_at=None,
        left_modified_at=None,
        entry_log_id=max([view.case.entry_log_id, *(entry.log_id for entry in view.log)]),
        looking_since=view.now,
        looks=1,
        refusals=0,
        command_not_before=None,
    )
    opened = Note("episode", f"episode {case.episode} opened: {evidence}")
    verdict = _judged(replace(view, case=case), snapshot)
    resolution = Resolution.UNKNOWN if view.open_attempt else None
    return replace(verdict, notes=(opened, *verdict.notes), resolution=resolution)


def _still_packed(view: View, attempt: Attempt) -> Verdict:
    """The read-back shows Packed: too early to tell, proven not applied, or a contradiction."""
    match attempt.outcome:
        case Outcome.ACCEPTED:
            return _accepted_still_packed(view, attempt)
        case Outcome.AMBIGUOUS | None:
            return _ambiguous_still_packed(view, attempt)
        case _:
            return _proven_not_applied(view, "the OMS refused the command")


def _accepted_still_packed(view: View, attempt: Attempt) -> Verdict:
    until = attempt.started_at + POLLING_WINDOW
    if view.case.held or view.now < until:
        next_look_at = min(view.now + _backoff(view, attempt.read_backs + 1), until)
        return _keep_confirming(view, Reason.CONFIRMING, next_look_at)
    text = "the OMS accepted the command 15 minutes ago and the package is still Packed"
    return _attention(view, Reason.ACCEPTED_BUT_STILL_PACKED, text, held=True)


def _ambiguous_still_packed(view: View, attempt: Attempt) -> Verdict:
    """Once the OMS has finished with the request, one later read is proof; else two, the later late enough.

    Late by the clock: where that was set ahead, the request may still be under way. So the next command waits for as
    long as one can be, and for another read.
    """
    if attempt.concluded:
        certain_at, reads_needed = (attempt.answered_at or attempt.started_at) + view.settings.settle, 1
        pause = timedelta(0)
    else:
        certain_at, reads_needed = attempt.started_at + 3 * view.settings.oms_timeout, 2
        pause = view.settings.oms_timeout
    if (view.read_began_at or view.now) >= certain_at and attempt.read_backs + 1 >= reads_needed:
        return _proven_not_applied(view, "reads after the send show it was not applied", pause)
    return _keep_confirming(view, Reason.AMBIGUOUS, max(certain_at, view.now + timedelta(seconds=1)))


def _keep_confirming(view: View, reason: Reason, next_look_at: datetime) -> Verdict:
    if view.case.held:
        return Verdict(case=view.case, read_back=True)
    verdict = _moved(view, CaseState.SHIPPING, reason, "read back: still Packed", next_look_at)
    return replace(verdict, read_back=True)


def _proven_not_applied(view: View, text: str, pause: timedelta = timedelta(0)) -> Verdict:
    settings = view.settings
    refusals = view.case.refusals + 1
    view = replace(view, case=replace(view.case, refusals=refusals))
    if view.case.held:
        verdict = Verdict(case=view.case)
    elif refusals >= settings.command_max_attempts or _commanded_for(view) >= settings.retry_max_age:
        tried = f"{text}; tried {refusals} times in this episode"
        verdict = _attention(view, Reason.REFUSED, tried, held=True)
    else:
        again = view.now + max(_backoff(view, refusals), pause)
        case = replace(view.case, command_not_before=again)
        verdict = _until_command(replace(view, case=case), again, text)
    return replace(verdict, resolution=Resolution.NOT_APPLIED)


def _commanded_for(view: View) -> timedelta:
    """The age of the case, but for the time before its first command: it may have waited long, in shadow mode or so."""
    return min(_age(view), view.now - view.attempts[0].started_at)


def _until_command(view: View, again: datetime, text: str) -> Verdict:
    reason = Reason.BRAKE if view.case.reason is Reason.BRAKE else Reason.RETRY_AFTER_REFUSAL
    return _moved(view, CaseState.WAITING, reason, text, again)


def _judged(view: View, snapshot: PackageSnapshot) -> Verdict:
    """Packed, and no attempt open: do our rules, its items and the OMS's own offer speak for the command?"""
    ruling = rules.judge(view.settings.rules, snapshot.facts)
    if view.case.reason is Reason.RULE:
        # Nobody has looked since: it may have left Packed and come back, and then its grace begins now.
        view = replace(view, case=replace(view.case, packed_since=view.now))
    findings = _findings(view, snapshot, ruling)
    view = _with_checks(view, *(check for check, _ in findings))
    if view.case.held:
        return Verdict(case=view.case)
    for check, reason in findings:
        if reason is not None:
            return _ineligible(view, check, reason, _grace_until(view, ruling))
    return _eligible(view, command_for(ruling, view.settings))


def _findings(view: View, snapshot: PackageSnapshot, ruling: Match | FieldMissing) -> tuple[Finding, ...]:
    settings = view.settings
    return (
        (packed_check(snapshot.state, settings), None),
        rules_finding(ruling),
        *items_findings(snapshot, settings),
        offer_finding(snapshot.offered, command_for(ruling, settings), settings),
        grace_finding(view.now, _grace_until(view, ruling)),
    )


def _grace_until(view: View, ruling: Match | FieldMissing) -> datetime | None:
    rule = ruling.rule
    grace = rule.grace if rule is not None and rule.grace is not None else view.settings.grace
    return (view.case.packed_since or view.now) + grace if grace else None


def _eligible(view: View, command: Command) -> Verdict:
    case = view.case
    if not view.settings.live:
        text = "every check passed; MODE=shadow sends no command"
        return _moved(view, CaseState.WOULD_SHIP, None, text, view.now + _poll_delay(view))
    if case.command_not_before and view.now < case.command_not_before:
        text = "every check passed; too early for another command"
        return _until_command(view, case.command_not_before, text)
    return Verdict(case=case, command=command)


def _ineligible(view: View, failed: Check, reason: Reason, grace_until: datetime | None) -> Verdict:
    text = f"{failed.name}: expected {failed.expected}, observed {failed.observed}"
    if reason is Reason.RULE:
        return _closed(view, CaseState.SKIPPED, reason, text)
    if reason is Reason.GRACE:
        return replace(_wait(view, reason, text), next_look_at=grace_until)
    if reason is Reason.TRANSITION_SLUG_MISMATCH:
        return _attention(view, reason, text, held=False)
    return _wait(view, reason, text)


def _not_in_packed(view: View, state: StateValue) -> Verdict:
    case = view.case
    if case.packed_since is not None:
        left = replace(case, packed_since=None, left_packed_at=view.now, left_modified_at=case.modified_at)
        return _left_packed(replace(view, case=replace(left, looking_since=view.now, looks=1)), state)
    if case.left_packed_at is not None and _is_unsettled(view):
        return _left_packed(replace(view, case=replace(case, repacked_at=None)), state)
    if case.left_packed_at is not None or case.state is CaseState.ALREADY_SHIPPED:
        return Verdict(case=replace(case, repacked_at=None, looking_since=None))
    if case.held:
        return Verdict(case=case)
    return _never_packed(view, state)


def _left_packed(view: View, state: StateValue) -> Verdict:
    """It was Packed and is not any more: by us or by others? In the order of what proves most."""
    attempt = view.possible_attempt
    if attempt is None:
        return _left_by_others(view, state)
    if is_confirmed(view, state):
        first_read_back = attempt.read_backs == 0
        verdict = _shipped(view, Evidence.READ_BACK, f"accepted, then read as {state}")
        return replace(verdict, learned=state.value if first_read_back else None)
    departure = _departure(view, attempt)
    ours = outcome.names_transition(departure, attempt.command) if departure else None
    if ours:
        return _shipped(view, Evidence.TRANSITION_LOG, "the transition log names our transition")
    if ours is False or attempt.resolution is Resolution.NOT_APPLIED:
        return _left_by_others(view, state)
    if state.value in view.shipped_values:
        return _shipped(view, Evidence.READ_BACK, f"read as {state}: by us, or by somebody at the same moment")
    if view.shipped_event:
        return _shipped(view, Evidence.EVENT, "a signed package.status.shipped delivery came after the send")
    return _outcome_unknown(view, state)


def _departure(view: View, attempt: Attempt) -> LoggedTransition | None:
    """The logged move that ended this episode. A log that lags still shows an earlier one."""
    packed = view.settings.packed_status
    left = outcome.last_departure(view.log, packed)
    if left is None or outcome.last_entry(view.log, packed) is not None or left.log_id <= view.case.entry_log_id:
        return None
    was_before = left.at is not None and left.at < attempt.started_at - CLOCKS_DIFFER
    return None if was_before else left


def _outcome_unknown(view: View, state: StateValue) -> Verdict:
    text = f"left Packed for {state} after a command whose outcome nothing proves"
    if view.case.reason is Reason.DISMISSED:
        return Verdict(case=view.case)
    if view.case.held or _age(view) >= POLLING_WINDOW:
        return _attention(view, Reason.OUTCOME_UNKNOWN, text, held=True)
    return _moved(view, CaseState.WAITING, Reason.OUTCOME_UNKNOWN, text, view.now + _poll_delay(view))


def _shipped(view: View, evidence: Evidence, text: str) -> Verdict:
    verdict = _closed(view, CaseState.SHIPPED, None, text, evidence)
    return replace(verdict, resolution=Resolution.APPLIED if view.open_attempt else None)


def _left_by_others(view: View, state: StateValue) -> Verdict:
    left = _closed(view, CaseState.SKIPPED, Reason.LEFT_PACKED, f"left Packed for {state}; not by us")
    verdict = _ended_by_others(view, state) or left
    return replace(verdict, resolution=Resolution.NOT_APPLIED if view.open_attempt else None)


def _ended_by_others(view: View, state: StateValue) -> Verdict | None:
    if state.value in view.shipped_values:
        return _closed(view, CaseState.ALREADY_SHIPPED, None, f"read as {state}; not by us")
    if view.cancelled_event:
        return _closed(view, CaseState.SKIPPED, Reason.CANCELLED, f"cancelled, read as {state}")
    return None


def _never_packed(view: View, state: StateValue) -> Verdict:
    # From here on two reads are needed to prove that it went into Packed: one may be an old picture.
    gone = replace(view, case=replace(view.case, left_packed_at=view.now))
    if (ended := _ended_by_others(gone, state)) is not None:
        return ended
    view = _with_checks(view, packed_check(state, view.settings))
    if _age(view) >= POLLING_WINDOW:
        return _closed(view, CaseState.SKIPPED, Reason.NOT_PACKED, f"not Packed for 15 minutes, read as {state}")
    return _wait(view, Reason.NOT_PACKED_YET, f"read as {state}")


# How verdicts are made.


def _is_unsettled(view: View) -> bool:
    """Whether a read outside Packed still has something to decide about the episode."""
    in_work = view.case.packed_since is not None or view.case.state not in CLOSED
    return in_work or view.open_attempt is not None


# Grace ends by itself, and what is not Packed for 15 minutes is left alone.
_WITHOUT_AGE_LIMIT = frozenset({Reason.GRACE, Reason.NOT_PACKED_YET})


def _with_checks(view: View, *checks: Check) -> View:
    return replace(view, case=replace(view.case, checks=checks))


def _wait(view: View, reason: Reason, text: str) -> Verdict:
    """Not now. What stays so for too long needs a person, told once while looks go on."""
    if view.case.held:
        return Verdict(case=view.case)
    age = _age(view)
    if reason is Reason.COMMAND_NOT_OFFERED and age >= POLLING_WINDOW:
        return _attention(view, reason, text, held=False)
    if age >= view.settings.retry_max_age and reason not in _WITHOUT_AGE_LIMIT:
        if reason is Reason.ITEMS_MIXED:
            return _attention(view, reason, text, held=False)
        if view.case.reason is reason:  # not where it is the first look that finds this
            return _attention(view, Reason.BAD_SHAPE, text, held=True)
    return _moved(view, CaseState.WAITING, reason, text, view.now + _poll_delay(view))


def _attention(view: View, reason: Reason, text: str, *, held: bool) -> Verdict:
    next_look_at = None if held else view.now + _poll_delay(view)
    return _moved(view, CaseState.NEEDS_ATTENTION, reason, text, next_look_at, held=held)


def _closed(
    view: View, state: CaseState, reason: Reason | None, text: str, evidence: Evidence | None = None
) -> Verdict:
    verdict = _moved(view, state, reason, text, None)
    return replace(verdict, case=replace(verdict.case, evidence=evidence, looking_since=None, looks=0))


def _look_again(view: View, problem: str) -> Verdict:
    """Nothing usable was read: the case stays as it is."""
    failed = view.case.failed_reads + 1
    case = replace(view.case, failed_reads=failed, read_problem=problem, last_look_at=view.now)
    notes = (Note("read_failed", problem),) if problem != view.case.read_problem else ()
    return Verdict(case=case, next_look_at=view.now + _backoff(view, failed), notes=notes)


def _unreadable(view: View, problem: str, reason: Reason) -> Verdict:
    """Answered, but with nothing to decide on: lag, or a gateway's own 404.

    A package that was readable before is given as long as a refused command, and some reads in a row, so that no short
    disorder of the OMS leaves every waiting package to a person.
    """
    view = replace(view, case=replace(view.case, looking_since=view.case.looking_since or view.now))
    patience = view.settings.retry_max_age if view.case.looks else POLLING_WINDOW
    verdict = _look_again(view, problem)
    in_disorder = view.case.looks > 0 and verdict.case.failed_reads < _READS_IN_DISORDER
    if _age(view) < patience or in_disorder:
        return verdict
    if view.case.held or view.case.state in CLOSED:
        return replace(verdict, case=replace(verdict.case, looking_since=None), next_look_at=None)
    return _attention(replace(view, case=verdict.case), reason, problem, held=True)


def _unconfirmed(view: View, reason: Reason) -> Verdict:
    case = replace(view.case, state=CaseState.SHIPPING, reason=reason)
    return Verdict(case=case, next_look_at=view.now + view.settings.settle)


def _braked_by_answer(view: View, attempt: Attempt, told: Outcome, delay: timedelta) -> tuple[Verdict, Attempt]:
    again = view.now + delay
    case = replace(view.case, state=CaseState.WAITING, reason=Reason.BRAKE, command_not_before=again)
    settled = replace(attempt, outcome=told, resolution=Resolution.NOT_APPLIED)
    return Verdict(case=case, next_look_at=again), settled


def _moved(
    view: View, state: CaseState, reason: Reason | None, text: str, next_look_at: datetime | None, *, held: bool = False
) -> Verdict:
    """The case as it stands now, and a line where that is new; looks that change nothing leave none."""
    before, note = view.case, Note(f"{state}/{reason}" if reason else str(state), text)
    is_new = (before.state, before.reason, before.held) != (state, reason, held)
    case = replace(before, state=state, reason=reason, held=held)
    return Verdict(case=case, next_look_at=next_look_at, notes=(note,) if is_new else ())


def _poll_delay(view: View) -> timedelta:
    return _longest_poll(view) if _age(view) >= POLLING_WINDOW else _backoff(view, view.case.looks)


def _longest_poll(view: View) -> timedelta:
    return 4 * max(view.settings.retry_cap, timedelta(seconds=1))


def _backoff(view: View, failures: int) -> timedelta:
    return outcome.backoff(failures, view.settings.retry_base, view.settings.retry_cap, view.jitter)


def _age(view: View) -> timedelta:
    return view.now - (view.case.looking_since or view.now)


def _ageing_by_answers(view: View, reading: Reading) -> View:
    """Time behind a brake, without an answer, or in which nobody could look does not age a case."""
    case = view.case
    if case.looking_since is None or case.last_look_at is None:
        return view
    since_last_look = max(view.now - case.last_look_at, timedelta(0))
    ageing = case.reason is not Reason.BRAKE and isinstance(reading, PackageSnapshot | NotFound | BadShape)
    counted = min(since_last_look, _longest_poll(view)) if ageing else timedelta(0)
    return replace(view, case=replace(case, looking_since=case.looking_since + since_last_look - counted))
