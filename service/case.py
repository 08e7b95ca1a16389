"""What a decision is made of: the words for where a package stands, what is known, what is configured, and the checks.

A reason, what it means and the check that gives it stand here together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from service import outcome
from service.outcome import Command
from service.rules import FieldMissing, Match, Rules
from service.snapshot import Fact, OfferedCommand, PackageSnapshot
from service.wire import PACKAGE_ITEM_STATUS, PACKAGE_STATUS, StateValue, clean
from service.words import counted


class CaseState(StrEnum):
    """Where a package stands with us."""

    WAITING = "waiting"
    SHIPPING = "shipping"
    SHIPPED = "shipped"
    ALREADY_SHIPPED = "already_shipped"
    SKIPPED = "skipped"
    WOULD_SHIP = "would_ship"
    NEEDS_ATTENTION = "needs_attention"


CLOSED = frozenset({CaseState.SHIPPED, CaseState.ALREADY_SHIPPED, CaseState.SKIPPED})


class Reason(StrEnum):
    """Why it stands there."""

    NOT_PACKED_YET = "not_packed_yet"
    ITEMS_MIXED = "items_mixed"
    NO_ITEMS = "no_items"
    ITEMS_INCOMPLETE = "items_incomplete"
    WRONG_ENUM_CLASS = "wrong_enum_class"
    GRACE = "grace"
    COMMAND_NOT_OFFERED = "command_not_offered"
    BRAKE = "brake"
    RETRY_AFTER_REFUSAL = "retry_after_refusal"
    RULE_FIELD_MISSING = "rule_field_missing"
    BACKLOG_TO_CONFIRM = "backlog_to_confirm"
    OUTCOME_UNKNOWN = "outcome_unknown"
    SENDING = "sending"
    CONFIRMING = "confirming"
    AMBIGUOUS = "ambiguous"
    RULE = "rule"
    CANCELLED = "cancelled"
    LEFT_PACKED = "left_packed"
    NOT_PACKED = "not_packed"
    DISMISSED = "dismissed"
    REFUSED = "refused"
    ACCEPTED_BUT_STILL_PACKED = "accepted_but_still_packed"
    NOT_FOUND = "not_found"
    BAD_SHAPE = "bad_shape"
    TRANSITION_SLUG_MISMATCH = "transition_slug_mismatch"


# For each state and reason: what it means, and what to do.
MEANINGS: Mapping[tuple[CaseState, Reason | None], tuple[str, str]] = {
    (CaseState.WAITING, None): (
        "It is to be looked at.",
        "Nothing to do. If it stays so, see the logs: worker.silent, brake.changed, read.failed, database.unavailable.",
    ),
    (CaseState.WAITING, Reason.NOT_PACKED_YET): (
        "The OMS does not show it as Packed.",
        "Nothing to do: it is looked at again for 15 minutes, and after any later webhook that says Packed.",
    ),
    (CaseState.WAITING, Reason.ITEMS_MIXED): (
        "The package is Packed, but not all of its items are.",
        "Finish or correct the items in the OMS; it ships by itself once all are Packed.",
    ),
    (CaseState.WAITING, Reason.NO_ITEMS): (
        "The package is Packed, but the OMS lists no items.",
        "Check the package's items in the OMS; if they are there, check OMS_ITEMS_PATH.",
    ),
    (CaseState.WAITING, Reason.ITEMS_INCOMPLETE): (
        "The item list cannot be taken as the whole list of this package.",
        "Check OMS_ITEMS_PATH: the OMS may ignore the filter in it.",
    ),
    (CaseState.WAITING, Reason.WRONG_ENUM_CLASS): (
        "A state belongs to another enumeration than expected.",
        "Check that OMS_BASE_URL is an OMS and not another Akinon service.",
    ),
    (CaseState.WAITING, Reason.GRACE): (
        "Everything passed; the grace period is not over.",
        "Nothing to do. To stop it: autoship dismiss ID.",
    ),
    (CaseState.WAITING, Reason.COMMAND_NOT_OFFERED): (
        "The OMS does not offer our command for this package now.",
        "Compare SHIP_TRANSITION_ID and SHIP_SLUG with Settings > State Transitions in the OMS.",
    ),
    (CaseState.WAITING, Reason.BRAKE): (
        "It is eligible, but commands are held back, or the OMS cannot be reached.",
        "Look for brake.changed and read.failed in the logs; if it was paused: autoship resume.",
    ),
    (CaseState.WAITING, Reason.RETRY_AFTER_REFUSAL): (
        "The command was refused or proven not applied; it is tried again later.",
        "Read the OMS's words under Commands. Omnitron may not have the items' states yet.",
    ),
    (CaseState.WAITING, Reason.RULE_FIELD_MISSING): (
        "A rule asks a field that the OMS does not send for this package.",
        "Change the rule, or find out why the OMS leaves the field out.",
    ),
    (CaseState.WAITING, Reason.BACKLOG_TO_CONFIRM): (
        "It was Packed before Autoship first ran, and no webhook has announced it.",
        "Look at autoship packages --reason backlog_to_confirm; autoship sweep --adopt ships them all.",
    ),
    (CaseState.WAITING, Reason.OUTCOME_UNKNOWN): (
        "It left Packed after a command of ours that may or may not have been applied.",
        "Nothing to do yet: evidence is looked for during 15 minutes.",
    ),
    (CaseState.SHIPPING, Reason.SENDING): (
        "The command is being sent.",
        "Nothing to do: if the sender died, the package is read back before anything else.",
    ),
    (CaseState.SHIPPING, Reason.CONFIRMING): (
        "The OMS answered the command; the package is read back.",
        "Nothing to do. No second command is sent before the first one is settled.",
    ),
    (CaseState.SHIPPING, Reason.AMBIGUOUS): (
        "The command may or may not have been applied; it is read back.",
        "Nothing to do. It is sent again only when reads prove that it was not applied.",
    ),
    (CaseState.SHIPPED, None): ("Shipped after our command.", "Nothing to do."),
    (CaseState.ALREADY_SHIPPED, None): ("Shipped by somebody else.", "Nothing to do."),
    (CaseState.SKIPPED, Reason.RULE): (
        "A rule says it is not ours.",
        "If it should be, change RULES_FILE and run autoship recheck ID.",
    ),
    (CaseState.SKIPPED, Reason.CANCELLED): ("It was cancelled.", "Nothing to do."),
    (CaseState.SKIPPED, Reason.LEFT_PACKED): (
        "It left Packed without us, for a state we do not know as shipped.",
        "If that state means shipped, name it in SHIPPED_STATUSES; autoship recheck ID then judges it anew.",
    ),
    (CaseState.SKIPPED, Reason.NOT_PACKED): (
        "It was not Packed during the 15 minutes we looked.",
        "Nothing to do: any later webhook that says Packed opens it again. Or run autoship recheck ID.",
    ),
    (CaseState.SKIPPED, Reason.DISMISSED): (
        "A person dismissed it.",
        "autoship recheck ID takes it up again.",
    ),
    (CaseState.WOULD_SHIP, None): (
        "Shadow mode: everything passed and no command was sent.",
        "Set MODE=live to ship such packages.",
    ),
    (CaseState.NEEDS_ATTENTION, Reason.REFUSED): (
        "The OMS refused the command as often as we try.",
        "Read the OMS's words under Commands, remove the cause, then run autoship recheck ID.",
    ),
    (CaseState.NEEDS_ATTENTION, Reason.ACCEPTED_BUT_STILL_PACKED): (
        "The OMS accepted the command and the package is still Packed 15 minutes later.",
        "Look at the package in the OMS. autoship recheck ID allows one more command.",
    ),
    (CaseState.NEEDS_ATTENTION, Reason.OUTCOME_UNKNOWN): (
        "Nothing proves what became of it: it left Packed after a command, or is Packed again with its old date.",
        "Look at the package's history in the OMS. If it is Packed, autoship recheck ID; else autoship dismiss ID.",
    ),
    (CaseState.NEEDS_ATTENTION, Reason.NOT_FOUND): (
        "We were told of it, but the OMS does not know it.",
        "Check that the webhooks come from the OMS at OMS_BASE_URL; then autoship recheck ID.",
    ),
    (CaseState.NEEDS_ATTENTION, Reason.BAD_SHAPE): (
        "The OMS shows the package in a form we cannot judge, or only older than before.",
        "See the checks below; once mended, autoship recheck ID.",
    ),
    (CaseState.NEEDS_ATTENTION, Reason.ITEMS_MIXED): (
        "The package is Packed, but its items have not been for a long time.",
        "Correct the items in the OMS; it ships by itself then.",
    ),
    (CaseState.NEEDS_ATTENTION, Reason.COMMAND_NOT_OFFERED): (
        "The OMS has not offered our command for this package for 15 minutes.",
        "Compare SHIP_TRANSITION_ID and SHIP_SLUG with Settings > State Transitions in the OMS.",
    ),
    (CaseState.NEEDS_ATTENTION, Reason.TRANSITION_SLUG_MISMATCH): (
        "SHIP_TRANSITION_ID and SHIP_SLUG name two different transitions.",
        "Correct one of them, or set only one; packages go on by themselves.",
    ),
}


class Evidence(StrEnum):
    """What proves that we shipped it."""

    READ_BACK = "read_back"
    EVENT = "event"
    TRANSITION_LOG = "transition_log"


class Outcome(StrEnum):
    """How an attempt was answered; an attempt without one may have been sent or not."""

    NOT_SENT = "not_sent"
    ACCEPTED = "accepted"
    AMBIGUOUS = "ambiguous"
    REFUSED = "refused"
    UNAUTHORISED = "unauthorised"
    THROTTLED = "throttled"
    MISCONFIGURED = "misconfigured"


class Resolution(StrEnum):
    """What became of an attempt in the end."""

    APPLIED = "applied"
    NOT_APPLIED = "not_applied"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the operator configured, as far as decisions go."""

    command: Command
    rules: Rules
    packed_status: str
    item_packed_status: str
    shipped_statuses: frozenset[str]
    enforce_offered: bool
    live: bool
    grace: timedelta
    settle: timedelta
    episode: timedelta
    oms_timeout: timedelta
    retry_base: timedelta
    retry_cap: timedelta
    retry_max_age: timedelta
    command_max_attempts: int
    ship_max_per_hour: int


@dataclass(frozen=True, slots=True)
class Check:
    """One condition for shipping, as found. `verdict` is pass, fail or unknown."""

    name: str
    expected: str
    observed: str
    verdict: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try to send the command. It is open while `resolution` is None.

    `read_backs` counts the reads since, all of which showed the package still Packed.
    """

    attempt_id: int
    command: Command
    started_at: datetime
    deadline_at: datetime
    answered_at: datetime | None = None
    outcome: Outcome | None = None
    concluded: bool = False
    resolution: Resolution | None = None
    read_backs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """All we know about one package. An episode (one stay in Packed) is open while `packed_since` is set."""

    package_id: int
    state: CaseState = CaseState.WAITING
    reason: Reason | None = None
    held: bool = False
    evidence: Evidence | None = None
    episode: int = 0
    packed_since: datetime | None = None
    left_packed_at: datetime | None = None
    repacked_at: datetime | None = None
    entry_log_id: int = 0
    modified_at: datetime | None = None
    left_modified_at: datetime | None = None
    looking_since: datetime | None = None
    last_look_at: datetime | None = None
    looks: int = 0
    failed_reads: int = 0
    read_problem: str | None = None
    refusals: int = 0
    command_not_before: datetime | None = None
    state_seen: StateValue | None = None
    number: str | None = None
    order_number: str | None = None
    facts: Mapping[str, Fact] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """One line of the package's timeline."""

    kind: str
    text: str


# The checks. Each says what it expected and observed, and the reason if it fails.

Finding = tuple[Check, Reason | None]


def is_packed(state: StateValue | None, settings: Settings) -> bool:
    """Whether a state is the package status that is configured to mean Packed."""
    return outcome.is_packed(state, settings.packed_status)


def packed_check(state: StateValue | None, settings: Settings) -> Check:
    """The package itself is in Packed."""
    expected = f"{PACKAGE_STATUS} {settings.packed_status}"
    passed = is_packed(state, settings)
    return Check("package is Packed", expected, str(state), "pass" if passed else "fail")


def rules_finding(ruling: Match | FieldMissing) -> Finding:
    """Our rules say that it is to be shipped."""
    if isinstance(ruling, FieldMissing):
        observed = f"rule {ruling.rule.name!r} asks {ruling.field}, which the package does not have"
        return _finding("rules", "ship", observed, Reason.RULE_FIELD_MISSING)
    observed = f"{ruling.action} by rule {ruling.rule.name!r}" if ruling.rule else f"{ruling.action} by default"
    return _finding("rules", "ship", observed, None if ruling.action == "ship" else Reason.RULE)


def items_findings(snapshot: PackageSnapshot, settings: Settings) -> tuple[Finding, ...]:
    """All items are listed, and each is in Packed."""
    items = snapshot.items
    if items is None or not items.items:
        return (_finding("items are complete", "at least one item", "none", Reason.NO_ITEMS),)
    if items.problem is not None:
        return (_finding("items are complete", "all items of the package", items.problem, Reason.ITEMS_INCOMPLETE),)
    complete = _finding("items are complete", "all items of the package", counted(len(items.items), "item"))
    expected = f"all {PACKAGE_ITEM_STATUS} {settings.item_packed_status}"
    states = [item.state for item in items.items]
    strangers = [state for state in states if state is not None and not state.is_of(PACKAGE_ITEM_STATUS)]
    if strangers:
        stranger = f"an item is {strangers[0]}"
        return (complete, _finding("items are Packed", expected, stranger, Reason.WRONG_ENUM_CLASS))
    by_state = clean(", ".join(f"{count} in {value}" for value, count in sorted(items.counts().items())))
    packed = all(state is not None and state.value == settings.item_packed_status for state in states)
    return (complete, _finding("items are Packed", expected, by_state, None if packed else Reason.ITEMS_MIXED))


def offer_finding(offered: tuple[OfferedCommand, ...] | None, command: Command, settings: Settings) -> Finding:
    """The OMS offers our command, as far as what it lists can be compared with ours."""

    def found(observed: str, verdict: str, reason: Reason | None = None) -> Finding:
        return Check("the OMS offers the command", named(command), observed, verdict), reason

    if not settings.enforce_offered:
        return found("not checked: COMMANDS_GATE=off", "unknown")
    if offered is None:
        return found("no commands listed in a shape we recognise", "unknown")
    number = None if command.transition_id is None else str(command.transition_id)
    if command.slug is not None and any(one.slug for one in offered):
        by_slug = [one for one in offered if one.slug == command.slug]
        transitions = {one.transition for one in by_slug} - {None}
        if number is not None and transitions and number not in transitions:
            observed = f"slug {command.slug!r} is transition {', '.join(sorted(filter(None, transitions)))}"
            return found(observed, "fail", Reason.TRANSITION_SLUG_MISMATCH)
        is_offered = bool(by_slug)
    else:
        numbers = {one.transition for one in offered} - {None} or {one.command_id for one in offered} - {None}
        if number is None or not numbers:
            return found("the offered commands cannot be compared with ours", "unknown")
        is_offered = number in numbers
    if is_offered:
        return found("offered", "pass")
    return found(clean(f"offered: {'; '.join(map(_offer, offered))}"), "fail", Reason.COMMAND_NOT_OFFERED)


def grace_finding(now: datetime, grace_until: datetime | None) -> Finding:
    """The grace period is over, if there is one."""
    if grace_until is None:
        return _finding("grace is over", "no grace period", "none is set")
    expected, observed = f"now at or after {grace_until:%Y-%m-%d %H:%M:%S} UTC", f"{now:%Y-%m-%d %H:%M:%S} UTC"
    return _finding("grace is over", expected, observed, None if now >= grace_until else Reason.GRACE)


def command_for(ruling: Match | FieldMissing, settings: Settings) -> Command:
    """The configured command, or the rule's own: a rule that names one names all of it."""
    rule = ruling.rule
    if rule is None or (rule.transition_id is None and rule.slug is None):
        return settings.command
    return Command(rule.transition_id, rule.slug)


def named(command: Command) -> str:
    """The command in words."""
    return _in_words(None if command.transition_id is None else str(command.transition_id), command.slug)


def _offer(one: OfferedCommand) -> str:
    """All it says of itself; its own id only where it names no transition."""
    return _in_words(one.transition, one.slug) or f"id {one.command_id}"


def _in_words(transition: str | None, slug: str | None) -> str:
    parts = [f"transition {transition}" if transition else "", f"slug {slug!r}" if slug else ""]
    return ", ".join(filter(None, parts))


def _finding(name: str, expected: str, observed: str, reason: Reason | None = None) -> Finding:
    """A check that fails for this reason, or passes."""
    return Check(name, expected, observed, "fail" if reason else "pass"), reason
