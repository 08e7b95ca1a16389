"""What happens next to a package: worth a look, one verdict for every read, and what an answer makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import diagnosis, policy
from service.case import (
    CLOSED,
    Attempt,
    Case,
    CaseState,
    Check,
    Evidence,
    Note,
    Outcome,
    Reason,
    Resolution,
    Settings,
    is_packed,
    named,
)
from service.delivery import Delivery
from service.outcome import (
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
from service.policy import Verdict, View, decide, needs_transition_log
from service.rules import Action, Rule, Rules
from service.snapshot import Item, Items, LoggedTransition, OfferedCommand, PackageSnapshot
from service.wire import StateValue
from tests.conftest import USUAL_SETTINGS

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
QUARTER = 15 * MINUTE
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
JITTER = 0.5

PACKED = StateValue("PackageStatus", "500")
READY = StateValue("PackageStatus", "400")
SHIPPED = StateValue("PackageStatus", "550")
ORDER_SHIPPED = StateValue("OrderStatus", "500")  # Omnitron's 500 is shipped
COMMAND = Command(12, "ship")

WAITING, SHIPPING, WOULD_SHIP = CaseState.WAITING, CaseState.SHIPPING, CaseState.WOULD_SHIP
SKIPPED, ATTENTION = CaseState.SKIPPED, CaseState.NEEDS_ATTENTION
Standing = tuple[CaseState, Reason | None, bool]


def some_settings(**changes: Any) -> Settings:
    return replace(USUAL_SETTINGS, **{"command": COMMAND} | changes)


def a_case(**changes: Any) -> Case:
    """A package that was read as Packed a moment ago, for the first time."""
    packed = Case(
        package_id=73,
        episode=1,
        packed_since=NOW - SECOND,
        looking_since=NOW - SECOND,
        last_look_at=NOW - SECOND,
        looks=1,
        state_seen=PACKED,
    )
    return replace(packed, **changes)


def a_left_case(**changes: Any) -> Case:
    """A package that left Packed without us a minute ago."""
    left = a_case(state=SKIPPED, reason=Reason.LEFT_PACKED, packed_since=None, left_packed_at=NOW - MINUTE)
    return replace(left, **{"looking_since": None, "looks": 0, **changes})


def aged(age: timedelta, **changes: Any) -> Case:
    """A package looked at for so long."""
    return a_case(**{"looking_since": NOW - age, "packed_since": NOW - age, **changes})


NEW = Case(package_id=73)
DISMISSED = a_case(state=SKIPPED, reason=Reason.DISMISSED, held=True)


def some_items(*values: str, problem: str | None = None) -> Items:
    states = (StateValue("PackageItemStatus", value) for value in values)
    return Items(tuple(Item(number, state, 73) for number, state in enumerate(states)), problem)


def a_snapshot(state: StateValue | None = PACKED, **changes: Any) -> PackageSnapshot:
    return replace(PackageSnapshot(73, state, some_items("500", "500")), **changes)


def an_attempt(outcome: Outcome | None = Outcome.ACCEPTED, ago: timedelta = 5 * SECOND, **changes: Any) -> Attempt:
    """An open attempt, sent so long ago and, if it was, answered at once."""
    sent = Attempt(attempt_id=1, command=COMMAND, started_at=NOW - ago, deadline_at=NOW - ago + 12 * SECOND)
    return replace(sent, **{"outcome": outcome, "answered_at": NOW - ago if outcome else None, **changes})


def a_move(
    log_id: int, old: StateValue, new: StateValue, transition: str | None = None, slug: str | None = None
) -> LoggedTransition:
    return LoggedTransition(log_id, old, new, transition, slug)


def a_view(case: Case, *attempts: Attempt, **changes: Any) -> View:
    view = View(case=case, settings=some_settings(), now=NOW, jitter=JITTER, attempts=attempts)
    return replace(view, **changes)


def decided(case: Case, reading: Reading | None = None, *attempts: Attempt, **changes: Any) -> Verdict:
    """The verdict on a read, one that shows all Packed where none is given."""
    return decide(a_view(case, *attempts, **changes), reading or a_snapshot())


def standing(verdict: Verdict) -> Standing:
    return verdict.case.state, verdict.case.reason, verdict.case.held


def wait_of(verdict: Verdict) -> timedelta | None:
    return verdict.next_look_at - NOW if verdict.next_look_at else None


def failing(verdict: Verdict) -> list[Check]:
    return [check for check in verdict.case.checks if check.verdict == "fail"]


# Is a delivery worth a look?


@pytest.mark.parametrize(
    ("event_type", "state", "case_state", "reason", "ignored"),
    [
        ("package.status.packed", PACKED, None, None, None),
        ("package.status.packed", PACKED, CaseState.SHIPPED, None, None),
        ("package.created", None, None, None, None),
        (None, None, CaseState.SHIPPED, None, None),
        (None, StateValue(None, "500"), None, None, None),
        ("package-created", READY, None, None, "not_packed"),
        (None, ORDER_SHIPPED, None, None, "not_packed"),
        ("package.status.shipped", SHIPPED, WAITING, Reason.GRACE, None),
        ("package.status.shipped", SHIPPED, SHIPPING, Reason.CONFIRMING, None),
        ("package.status.shipped", SHIPPED, WOULD_SHIP, None, None),
        ("package.status.shipped", SHIPPED, ATTENTION, Reason.REFUSED, None),
        ("package.status.shipped", SHIPPED, CaseState.SHIPPED, None, "closed_case"),
        ("package.status.shipped", SHIPPED, CaseState.ALREADY_SHIPPED, None, "closed_case"),
        ("package.status.shipped", SHIPPED, SKIPPED, Reason.RULE, "closed_case"),
        ("package.status.transitioned", READY, SKIPPED, Reason.DISMISSED, None),
        ("shipment.created", PACKED, WAITING, None, "not_a_package_event"),
        ("order.created", None, None, None, "not_a_package_event"),
    ],
)
def test_a_delivery_is_looked_into_if_it_may_concern_packed_or_an_open_case(
    event_type: str | None,
    state: StateValue | None,
    case_state: CaseState | None,
    reason: Reason | None,
    ignored: str | None,
) -> None:
    delivery = Delivery(73, None, event_type, state)
    assert policy.hint(delivery, case_state, reason, some_settings()) == ignored


def test_what_packed_means_is_configured() -> None:
    ready = some_settings(packed_status="400")
    assert policy.hint(Delivery(73, None, None, READY), None, None, ready) is None
    assert policy.hint(Delivery(73, None, None, PACKED), None, None, ready) == "not_packed"
    assert is_packed(READY, ready)


# Reads that show nothing to decide on

OLDER = a_snapshot(READY, modified_at=NOW - HOUR)
STATELESS = a_snapshot(None)
NOT_ANSWERED: list[tuple[Reading, str]] = [
    (ReadFailed("ReadTimeout"), "ReadTimeout"),
    (Unauthorised(401, "no"), "the OMS answered 401 to the read"),
    (Throttled(MINUTE), "the OMS answered 429 to the read"),
    (Misconfigured(302), "the OMS answered 302, a redirect, to the read"),
]
STALE = (OLDER, "the OMS showed an older version of the package than before")
NOT_READABLE: list[tuple[Reading, str]] = [
    (NotFound(), "the OMS does not know this package"),
    (BadShape("not a package"), "not a package"),
    (STATELESS, "the package has no readable state"),
]
SEVERAL_STANDINGS = [
    NEW,
    a_case(state=WAITING, reason=Reason.ITEMS_MIXED),
    a_case(state=SHIPPING, reason=Reason.CONFIRMING),
    a_left_case(),
    DISMISSED,
]


@pytest.mark.parametrize(("reading", "problem"), [*NOT_ANSWERED, *NOT_READABLE, STALE])
@pytest.mark.parametrize("case", SEVERAL_STANDINGS, ids=lambda case: f"{case.state}-{case.reason}")
def test_a_read_that_shows_nothing_leaves_the_case_and_is_repeated(case: Case, reading: Reading, problem: str) -> None:
    before = replace(case, modified_at=NOW)
    verdict = decided(before, reading)
    looked = replace(before, failed_reads=1, read_problem=problem, last_look_at=NOW)
    assert replace(verdict.case, looking_since=None) == replace(looked, looking_since=None)
    assert verdict == Verdict(case=verdict.case, next_look_at=NOW + 5 * SECOND, notes=(Note("read_failed", problem),))


def test_reads_that_fail_in_the_same_way_back_off_and_leave_one_line() -> None:
    verdict = decided(a_case(failed_reads=3, read_problem="ReadTimeout"), ReadFailed("ReadTimeout"))
    assert (verdict.case.failed_reads, wait_of(verdict), verdict.notes) == (4, 40 * SECOND, ())


def test_a_read_that_succeeds_forgets_the_failures() -> None:
    case = decided(a_case(failed_reads=3, read_problem="ReadTimeout")).case
    assert (case.failed_reads, case.read_problem, case.last_look_at, case.looks) == (0, None, NOW, 2)


@pytest.mark.parametrize("modified_at", [NOW, NOW + SECOND, None])
def test_only_an_older_snapshot_is_stale(modified_at: datetime | None) -> None:
    verdict = decided(a_case(modified_at=NOW), a_snapshot(modified_at=modified_at))
    assert verdict.command == COMMAND
    assert verdict.case.modified_at == (modified_at or NOW)


@pytest.mark.parametrize(("reading", "problem"), NOT_READABLE)
def test_a_package_never_readable_needs_a_person_after_15_minutes(reading: Reading, problem: str) -> None:
    reason = Reason.NOT_FOUND if isinstance(reading, NotFound) else Reason.BAD_SHAPE
    assert decided(NEW, reading).case.looking_since == NOW
    early = decided(replace(NEW, looking_since=NOW - QUARTER + SECOND), reading)
    late = decided(replace(NEW, looking_since=NOW - QUARTER), reading)
    assert standing(early) == (WAITING, None, False)
    assert standing(late) == (ATTENTION, reason, True)
    assert (late.next_look_at, late.case.read_problem, late.case.last_look_at) == (None, problem, NOW)
    assert late.notes == (Note(f"needs_attention/{reason}", problem),)


@pytest.mark.parametrize(("reading", "problem"), [*NOT_READABLE, STALE])
def test_a_package_that_was_readable_before_has_longer_until_it_needs_a_person(reading: Reading, problem: str) -> None:
    old = aged(DAY - SECOND, state=WAITING, reason=Reason.ITEMS_MIXED, failed_reads=7, modified_at=NOW)
    assert standing(decided(old, reading)) == (WAITING, Reason.ITEMS_MIXED, False)
    older = replace(old, looking_since=NOW - DAY)
    assert standing(decided(replace(older, failed_reads=6), reading)) == (WAITING, Reason.ITEMS_MIXED, False)
    reason = Reason.NOT_FOUND if isinstance(reading, NotFound) else Reason.BAD_SHAPE
    assert standing(decided(older, reading)) == (ATTENTION, reason, True)


@pytest.mark.parametrize(("reading", "problem"), NOT_ANSWERED)
def test_an_oms_that_does_not_answer_never_makes_it_a_persons_matter(reading: Reading, problem: str) -> None:
    verdict = decided(aged(9 * DAY, reason=Reason.ITEMS_MIXED, modified_at=NOW), reading)
    assert standing(verdict) == (WAITING, Reason.ITEMS_MIXED, False)
    assert verdict.next_look_at is not None


@pytest.mark.parametrize(
    "case",
    [a_left_case(state=CaseState.SHIPPED, reason=None), a_case(state=ATTENTION, reason=Reason.REFUSED, held=True)],
)
@pytest.mark.parametrize(("reading", "problem"), [*NOT_READABLE, STALE])
def test_a_closed_or_held_case_stays_as_it_is_and_is_given_up_on_in_the_end(
    case: Case, reading: Reading, problem: str
) -> None:
    verdict = decided(replace(case, looking_since=NOW - DAY, failed_reads=7, modified_at=NOW), reading)
    assert standing(verdict) == (case.state, case.reason, case.held)
    assert (verdict.next_look_at, verdict.case.looking_since) == (None, None)


# Packed: the checks


def test_all_that_a_command_needs_is_checked_and_said() -> None:
    offered = (OfferedCommand("ship", "12", "7"),)
    verdict = decided(a_case(), a_snapshot(offered=offered), settings=some_settings(grace=SECOND))
    assert verdict.command == COMMAND
    assert verdict.case.checks == (
        Check("package is Packed", "PackageStatus 500", "PackageStatus 500", "pass"),
        Check("rules", "ship", "ship by default", "pass"),
        Check("items are complete", "all items of the package", "2 items", "pass"),
        Check("items are Packed", "all PackageItemStatus 500", "2 in 500", "pass"),
        Check("the OMS offers the command", "transition 12, slug 'ship'", "offered", "pass"),
        Check("grace is over", "now at or after 2026-11-24 12:00:00 UTC", "2026-11-24 12:00:00 UTC", "pass"),
    )


def test_without_a_grace_period_no_end_of_one_is_shown_and_one_item_is_one_item() -> None:
    verdict = decided(a_case(), a_snapshot(items=some_items("500")))
    assert verdict.case.checks[-1] == Check("grace is over", "no grace period", "none is set", "pass")
    assert verdict.case.checks[2].observed == "1 item"


B2B = {"channel_name": frozenset({"B2B"})}
SKIP_B2B = Rules((Rule("no b2b", B2B, "skip"),), "ship")
UNREADABLE_ITEM = Items((Item(1, PACKED, 73), Item(2, None, 73)))


@pytest.mark.parametrize(
    ("snapshot", "changes", "reason", "failed"),
    [
        (
            a_snapshot(items=None),
            {},
            Reason.NO_ITEMS,
            Check("items are complete", "at least one item", "none", "fail"),
        ),
        (
            a_snapshot(items=Items(())),
            {},
            Reason.NO_ITEMS,
            Check("items are complete", "at least one item", "none", "fail"),
        ),
        (
            a_snapshot(items=some_items("500", problem="one is missing")),
            {},
            Reason.ITEMS_INCOMPLETE,
            Check("items are complete", "all items of the package", "one is missing", "fail"),
        ),
        (
            a_snapshot(items=some_items("500", "400", "500")),
            {},
            Reason.ITEMS_MIXED,
            Check("items are Packed", "all PackageItemStatus 500", "1 in 400, 2 in 500", "fail"),
        ),
        (
            a_snapshot(items=Items((Item(1, StateValue(None, "500"), None), Item(2, None, None)))),
            {},
            Reason.ITEMS_MIXED,
            Check("items are Packed", "all PackageItemStatus 500", "1 in 500, 1 in unreadable", "fail"),
        ),
        (
            a_snapshot(),
            {"item_packed_status": "510"},
            Reason.ITEMS_MIXED,
            Check("items are Packed", "all PackageItemStatus 510", "2 in 500", "fail"),
        ),
        (
            a_snapshot(items=Items((Item(1, ORDER_SHIPPED, None),))),
            {},
            Reason.WRONG_ENUM_CLASS,
            Check("items are Packed", "all PackageItemStatus 500", "an item is OrderStatus 500", "fail"),
        ),
        (
            a_snapshot(),
            {"rules": SKIP_B2B},
            Reason.RULE_FIELD_MISSING,
            Check("rules", "ship", "rule 'no b2b' asks channel_name, which the package does not have", "fail"),
        ),
        (
            a_snapshot(),
            {"grace": 2 * SECOND},
            Reason.GRACE,
            Check("grace is over", "now at or after 2026-11-24 12:00:01 UTC", "2026-11-24 12:00:00 UTC", "fail"),
        ),
        (
            a_snapshot(offered=(OfferedCommand("ship-by-courier", "12", None), OfferedCommand(None, "13", None))),
            {},
            Reason.COMMAND_NOT_OFFERED,
            Check(
                "the OMS offers the command",
                "transition 12, slug 'ship'",
                "offered: transition 12, slug 'ship-by-courier'; transition 13",
                "fail",
            ),
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Reason) else "",
)
def test_a_check_that_fails_makes_the_package_wait_and_says_why(
    snapshot: PackageSnapshot, changes: dict[str, Any], reason: Reason, failed: Check
) -> None:
    verdict = decided(a_case(), snapshot, settings=some_settings(**changes))
    assert standing(verdict) == (WAITING, reason, False)
    assert (verdict.command, failing(verdict)) == (None, [failed])
    said = f"{failed.name}: expected {failed.expected}, observed {failed.observed}"
    assert verdict.notes == (Note(f"waiting/{reason}", said),)
    assert wait_of(verdict) == (SECOND if reason is Reason.GRACE else 10 * SECOND)


def test_items_that_do_not_name_their_enumeration_are_taken_to_be_of_it() -> None:
    items = Items((Item(1, StateValue(None, "500"), 73),))
    assert decided(a_case(), a_snapshot(StateValue(None, "500"), items=items)).command == COMMAND


@pytest.mark.parametrize(
    ("facts", "default", "said"),
    [
        ({"channel_name": "B2B"}, "ship", "skip by rule 'no b2b'"),
        ({"channel_name": "Shop"}, "skip", "skip by default"),
    ],
)
def test_a_package_that_is_not_ours_is_skipped_until_it_is(facts: dict[str, str], default: Action, said: str) -> None:
    ours = some_settings(rules=replace(SKIP_B2B, default=default))
    verdict = decided(a_case(), a_snapshot(facts=facts), settings=ours)
    assert standing(verdict) == (SKIPPED, Reason.RULE, False)
    assert failing(verdict) == [Check("rules", "ship", said, "fail")]
    assert verdict.notes == (Note("skipped/rule", f"rules: expected ship, observed {said}"),)
    assert (verdict.next_look_at, verdict.case.packed_since) == (None, NOW - SECOND)
    assert (verdict.case.looking_since, verdict.case.looks) == (None, 0)
    assert decided(verdict.case, a_snapshot(facts=facts)).command == COMMAND


def test_grace_begins_anew_for_a_package_that_was_not_ours_before() -> None:
    """Nobody looks at it meanwhile: it may have left Packed and come back."""
    skipped = aged(DAY, state=SKIPPED, reason=Reason.RULE)
    ours = decided(skipped, a_snapshot(), settings=some_settings(grace=HOUR))
    assert (standing(ours), ours.next_look_at) == ((WAITING, Reason.GRACE, False), NOW + HOUR)
    assert decided(ours.case, a_snapshot(), settings=some_settings(grace=HOUR), now=NOW + HOUR).command == COMMAND


def test_the_first_check_that_fails_gives_the_reason() -> None:
    snapshot = a_snapshot(facts={"channel_name": "B2B"}, items=None)
    verdict = decided(a_case(), snapshot, settings=some_settings(rules=SKIP_B2B, grace=DAY))
    assert verdict.case.reason is Reason.RULE
    assert len(failing(verdict)) == 3


@pytest.mark.parametrize(
    ("transition_id", "slug", "command"),
    [(99, None, Command(99, None)), (None, "b2b", Command(None, "b2b")), (None, None, COMMAND)],
)
def test_a_rule_that_names_a_command_names_all_of_it(
    transition_id: int | None, slug: str | None, command: Command
) -> None:
    rules = Rules((Rule("b2b", B2B, "ship", transition_id, slug),), "skip")
    verdict = decided(a_case(), a_snapshot(facts={"channel_name": "B2B"}), settings=some_settings(rules=rules))
    assert verdict.command == command
    assert verdict.case.checks[1].observed == "ship by rule 'b2b'"


@pytest.mark.parametrize(("of_rule", "wait"), [(None, 59 * SECOND), (10 * SECOND, 9 * SECOND), (0 * SECOND, None)])
def test_a_rules_grace_takes_the_place_of_the_usual_one(of_rule: timedelta | None, wait: timedelta | None) -> None:
    rules = Rules((Rule("all", {}, "ship", grace=of_rule),), "skip")
    assert wait_of(decided(a_case(), settings=some_settings(rules=rules, grace=MINUTE))) == wait


def test_grace_counts_from_the_first_read_as_packed() -> None:
    first = decided(NEW, settings=some_settings(grace=MINUTE))
    assert (first.next_look_at, first.command) == (NOW + MINUTE, None)
    assert decided(first.case, settings=some_settings(grace=MINUTE), now=NOW + MINUTE).command == COMMAND


# Packed: what the OMS offers

BY_BOTH, BY_NUMBER, BY_SLUG = COMMAND, Command(12, None), Command(None, "ship")
ANY_SLUG = OfferedCommand("other", None, None)
NOT_COMPARABLE = "the offered commands cannot be compared with ours"
UNRECOGNISED = "no commands listed in a shape we recognise"


@pytest.mark.parametrize(
    ("command", "offered", "observed", "reason"),
    [
        (BY_BOTH, None, UNRECOGNISED, None),
        (BY_BOTH, [OfferedCommand("ship", "12", None)], "offered", None),
        (BY_BOTH, [OfferedCommand("ship", None, "99")], "offered", None),
        (BY_BOTH, [ANY_SLUG, OfferedCommand("ship", "12", None), OfferedCommand("ship", "13", None)], "offered", None),
        (BY_BOTH, [OfferedCommand("ship", "13", None)], "slug 'ship' is transition 13", "mismatch"),
        (BY_BOTH, [OfferedCommand("ship", "14", None), OfferedCommand("ship", "13", None)], "13, 14", "mismatch"),
        (BY_BOTH, [ANY_SLUG], "offered: slug 'other'", "not offered"),
        (BY_BOTH, [OfferedCommand(None, "12", "99")], "offered", None),
        (BY_BOTH, [OfferedCommand(None, None, "12")], "offered", None),
        (BY_BOTH, [OfferedCommand(None, None, "13")], "offered: id 13", "not offered"),
        (BY_SLUG, [OfferedCommand("ship", "13", None)], "offered", None),
        (BY_SLUG, [ANY_SLUG], "offered: slug 'other'", "not offered"),
        (BY_SLUG, [OfferedCommand(None, "12", None)], NOT_COMPARABLE, None),
        (BY_NUMBER, [OfferedCommand("other", "12", None)], "offered", None),
        (BY_NUMBER, [OfferedCommand("other", "13", "12")], "offered: transition 13, slug 'other'", "not offered"),
        (BY_NUMBER, [OfferedCommand("other", None, "12")], "offered", None),
        (BY_NUMBER, [ANY_SLUG], NOT_COMPARABLE, None),
    ],
)
def test_offered_commands_are_compared_by_slug_then_by_transition_then_by_id(
    command: Command, offered: list[OfferedCommand] | None, observed: str, reason: str | None
) -> None:
    snapshot = a_snapshot(offered=None if offered is None else tuple(offered))
    verdict = decided(a_case(), snapshot, settings=some_settings(command=command))
    check = verdict.case.checks[4]
    unknown = observed in (NOT_COMPARABLE, UNRECOGNISED)
    assert check.observed.endswith(observed)
    assert check.verdict == ("fail" if reason else "unknown" if unknown else "pass")
    assert (check.name, check.expected) == ("the OMS offers the command", named(command))
    expected: dict[str | None, Standing] = {
        None: (WAITING, None, False),
        "not offered": (WAITING, Reason.COMMAND_NOT_OFFERED, False),
        "mismatch": (ATTENTION, Reason.TRANSITION_SLUG_MISMATCH, False),
    }
    assert standing(verdict) == expected[reason]
    assert verdict.command == (None if reason else command)


def test_the_command_whose_offer_is_looked_for_may_be_a_rule_s() -> None:
    by_rule = some_settings(rules=Rules((Rule("b2b", B2B, "ship", 13),), "skip"))
    offered = (OfferedCommand(None, "13", None),)
    _, found = diagnosis.offer(a_snapshot(offered=offered, facts={"channel_name": "B2B"}), by_rule)
    assert (found.judgement, found.what) == ("ok", "transition 13 is offered")


def test_the_gate_can_be_switched_off() -> None:
    verdict = decided(a_case(), a_snapshot(offered=(ANY_SLUG,)), settings=some_settings(enforce_offered=False))
    assert verdict.command == COMMAND
    check = verdict.case.checks[4]
    assert check == Check(
        "the OMS offers the command", "transition 12, slug 'ship'", "not checked: COMMANDS_GATE=off", "unknown"
    )


@pytest.mark.parametrize(
    ("command", "words"),
    [(BY_BOTH, "transition 12, slug 'ship'"), (BY_NUMBER, "transition 12"), (BY_SLUG, "slug 'ship'")],
)
def test_a_command_is_named_by_what_is_sent(command: Command, words: str) -> None:
    assert named(command) == words


def test_slug_and_transition_that_contradict_each_other_need_a_person_while_looks_go_on() -> None:
    mismatch = a_snapshot(offered=(OfferedCommand("ship", "13", None),))
    verdict = decided(a_case(), mismatch)
    assert wait_of(verdict) == 10 * SECOND
    [failed] = failing(verdict)
    said = f"{failed.name}: expected {failed.expected}, observed {failed.observed}"
    assert verdict.notes == (Note("needs_attention/transition_slug_mismatch", said),)
    again = decided(verdict.case, mismatch)
    assert (again.notes, standing(again)) == ((), standing(verdict))
    assert decided(verdict.case, a_snapshot(offered=(OfferedCommand("ship", "12", None),))).command == COMMAND


# Packed: now, later, or only in the shadow


@pytest.mark.parametrize("reason", [Reason.BRAKE, Reason.RETRY_AFTER_REFUSAL])
def test_nothing_is_commanded_before_its_time(reason: Reason) -> None:
    case = a_case(reason=reason, command_not_before=NOW + SECOND)
    verdict = decided(case)
    assert (verdict.command, wait_of(verdict), standing(verdict)) == (None, SECOND, (WAITING, reason, False))
    assert decided(replace(case, command_not_before=NOW)).command == COMMAND


@pytest.mark.parametrize("state", [WAITING, SKIPPED, ATTENTION])
def test_what_has_become_eligible_again_before_its_time_waits_for_the_retry(state: CaseState) -> None:
    verdict = decided(a_case(state=state, reason=Reason.ITEMS_MIXED, command_not_before=NOW + SECOND))
    assert standing(verdict) == (WAITING, Reason.RETRY_AFTER_REFUSAL, False)
    assert verdict.notes == (Note("waiting/retry_after_refusal", "every check passed; too early for another command"),)


def test_in_the_shadow_nothing_is_commanded_and_looks_go_on() -> None:
    verdict = decided(a_case(reason=Reason.GRACE), settings=some_settings(live=False))
    assert (verdict.command, wait_of(verdict), standing(verdict)) == (None, 10 * SECOND, (WOULD_SHIP, None, False))
    assert verdict.notes == (Note("would_ship", "every check passed; MODE=shadow sends no command"),)
    assert decided(verdict.case, settings=some_settings(live=False)).notes == ()
    assert decided(verdict.case).command == COMMAND


HELD = a_case(state=ATTENTION, reason=Reason.REFUSED, held=True)


@pytest.mark.parametrize(
    ("case", "reading"),
    [
        (DISMISSED, a_snapshot()),
        (DISMISSED, a_snapshot(items=None)),
        (HELD, a_snapshot()),
        (HELD, a_snapshot(offered=(ANY_SLUG,))),
        (HELD, a_snapshot(ORDER_SHIPPED)),
    ],
)
def test_a_held_case_is_not_moved_by_what_it_shows_in_packed(case: Case, reading: Reading) -> None:
    verdict = decided(case, reading)
    assert standing(verdict) == (case.state, case.reason, True)
    assert (verdict.command, verdict.next_look_at, verdict.notes) == (None, None, ())
    assert verdict.case.checks


# Waiting: polls for 15 minutes, then once in four times the cap; a day in the end

MIXED = a_snapshot(items=some_items("500", "400"))


@pytest.mark.parametrize(
    ("age", "looks", "wait"),
    [
        (SECOND, 0, 5 * SECOND),
        (SECOND, 3, 40 * SECOND),
        (QUARTER - SECOND, 9, 450 * SECOND),
        (QUARTER, 9, HOUR),
    ],
)
def test_a_waiting_package_is_polled_more_and_more_rarely(age: timedelta, looks: int, wait: timedelta) -> None:
    assert wait_of(decided(aged(age, looks=looks), MIXED)) == wait


def test_a_backoff_without_a_cap_still_lets_a_case_age() -> None:
    settings = some_settings(retry_cap=timedelta(0))
    assert wait_of(decided(aged(QUARTER), MIXED, settings=settings)) == 4 * SECOND


@pytest.mark.parametrize(
    ("snapshot", "changes", "age", "expected"),
    [
        (a_snapshot(offered=(ANY_SLUG,)), {}, QUARTER - SECOND, (WAITING, Reason.COMMAND_NOT_OFFERED, False)),
        (a_snapshot(offered=(ANY_SLUG,)), {}, QUARTER, (ATTENTION, Reason.COMMAND_NOT_OFFERED, False)),
        (MIXED, {}, DAY - SECOND, (WAITING, Reason.ITEMS_MIXED, False)),
        (MIXED, {}, DAY, (ATTENTION, Reason.ITEMS_MIXED, False)),
        (a_snapshot(items=None), {}, DAY - SECOND, (WAITING, Reason.NO_ITEMS, False)),
        (a_snapshot(), {"grace": 9 * DAY}, DAY, (WAITING, Reason.GRACE, False)),
        (a_snapshot(), {"live": False}, 9 * DAY, (WOULD_SHIP, None, False)),
    ],
)
def test_what_waits_too_long_needs_a_person(
    snapshot: PackageSnapshot, changes: dict[str, Any], age: timedelta, expected: Standing
) -> None:
    verdict = decided(aged(age, state=WOULD_SHIP), snapshot, settings=some_settings(**changes))
    assert standing(verdict) == expected
    assert (verdict.next_look_at is None) == verdict.case.held
    assert all(note.text for note in verdict.notes)


@pytest.mark.parametrize(
    ("snapshot", "changes", "reason"),
    [
        (a_snapshot(items=None), {}, Reason.NO_ITEMS),
        (a_snapshot(ORDER_SHIPPED), {}, Reason.WRONG_ENUM_CLASS),
        (a_snapshot(), {"rules": SKIP_B2B}, Reason.RULE_FIELD_MISSING),
    ],
)
def test_what_cannot_be_judged_for_a_day_is_left_to_a_person_by_the_second_look_that_finds_it(
    snapshot: PackageSnapshot, changes: dict[str, Any], reason: Reason
) -> None:
    mixed = aged(DAY, state=ATTENTION, reason=Reason.ITEMS_MIXED)
    first = decided(mixed, snapshot, settings=some_settings(**changes))
    assert standing(first) == (WAITING, reason, False)
    second = decided(first.case, snapshot, settings=some_settings(**changes))
    assert (standing(second), second.next_look_at) == ((ATTENTION, Reason.BAD_SHAPE, True), None)
    assert [note.text for note in second.notes] == [note.text for note in first.notes]


def test_a_short_retry_age_makes_no_unpacked_package_a_persons_matter() -> None:
    verdict = decided(
        replace(NEW, looking_since=NOW - MINUTE), a_snapshot(READY), settings=some_settings(retry_max_age=SECOND)
    )
    assert standing(verdict) == (WAITING, Reason.NOT_PACKED_YET, False)


@pytest.mark.parametrize(
    ("reason", "reading", "since_last_look", "counted"),
    [
        (Reason.ITEMS_MIXED, MIXED, HOUR, HOUR),
        (Reason.ITEMS_MIXED, NotFound(), HOUR, HOUR),
        (Reason.ITEMS_MIXED, BadShape("?"), HOUR, HOUR),
        (Reason.ITEMS_MIXED, MIXED, 3 * DAY, HOUR),
        (Reason.ITEMS_MIXED, ReadFailed("ReadTimeout"), HOUR, 0 * HOUR),
        (Reason.ITEMS_MIXED, Throttled(SECOND), HOUR, 0 * HOUR),
        (Reason.BRAKE, MIXED, HOUR, 0 * HOUR),
        (Reason.ITEMS_MIXED, MIXED, -HOUR, -HOUR),
    ],
)
def test_time_behind_a_brake_without_an_answer_or_without_looks_does_not_age_a_case(
    reason: Reason, reading: Reading, since_last_look: timedelta, counted: timedelta
) -> None:
    last_look_at = NOW - since_last_look
    case = a_case(reason=reason, last_look_at=last_look_at, looking_since=last_look_at - MINUTE)
    assert decided(case, reading).case.looking_since == NOW - MINUTE - counted


@pytest.mark.parametrize("missing", [{"looking_since": None}, {"last_look_at": None, "looking_since": NOW - HOUR}])
def test_the_first_look_ages_nothing(missing: dict[str, Any]) -> None:
    case = a_case(reason=Reason.BRAKE, **missing)
    assert decided(case, MIXED).case.looking_since == (missing["looking_since"] or NOW)


def test_a_state_of_another_enumeration_is_waited_out() -> None:
    verdict = decided(a_case(), a_snapshot(ORDER_SHIPPED))
    assert standing(verdict) == (WAITING, Reason.WRONG_ENUM_CLASS, False)
    assert verdict.notes == (Note("waiting/wrong_enum_class", "the state is not a PackageStatus"),)
    assert verdict.case.checks == (Check("package is Packed", "PackageStatus 500", "OrderStatus 500", "fail"),)
    assert (verdict.case.packed_since, wait_of(verdict)) == (NOW - SECOND, 10 * SECOND)


@pytest.mark.parametrize(
    ("case", "attempts"),
    [(a_left_case(), ()), (a_case(state=SHIPPING, reason=Reason.CONFIRMING), (an_attempt(),))],
)
def test_a_state_of_another_enumeration_moves_no_closed_case_and_no_open_attempt(
    case: Case, attempts: tuple[Attempt, ...]
) -> None:
    verdict = decided(case, a_snapshot(ORDER_SHIPPED), *attempts)
    assert standing(verdict) == standing(Verdict(case=case))
    assert (verdict.case.read_problem, wait_of(verdict)) == ("the state is not a PackageStatus", 5 * SECOND)


def test_an_open_attempt_that_no_read_can_settle_for_a_day_needs_a_person() -> None:
    case = aged(DAY, state=SHIPPING, reason=Reason.CONFIRMING, failed_reads=7)
    verdict = decided(case, a_snapshot(ORDER_SHIPPED), an_attempt())
    assert standing(verdict) == (ATTENTION, Reason.BAD_SHAPE, True)


def test_a_snapshot_leaves_its_facts_in_the_case() -> None:
    shown = a_snapshot(facts={"has_invoice": True}, number="0042", order_number="007", modified_at=NOW)
    case = decided(NEW, shown).case
    assert (case.state_seen, case.number, case.order_number) == (PACKED, "0042", "007")
    assert (case.facts, case.modified_at, case.looking_since) == ({"has_invoice": True}, NOW, NOW)
    later = decided(case, a_snapshot()).case
    assert (later.number, later.order_number, later.modified_at, later.facts) == ("0042", "007", NOW, {})


# The answer to the command

SENDING = a_case(state=SHIPPING, reason=Reason.SENDING, looks=2)


@pytest.mark.parametrize(
    ("answer", "outcome", "concluded", "reason", "wait"),
    [
        (Accepted(204), Outcome.ACCEPTED, False, Reason.CONFIRMING, 3 * SECOND),
        (Ambiguous("ReadTimeout"), Outcome.AMBIGUOUS, False, Reason.AMBIGUOUS, 3 * SECOND),
        (Ambiguous("answered 500", 500, concluded=True), Outcome.AMBIGUOUS, True, Reason.AMBIGUOUS, 3 * SECOND),
        (Refused(406, "no"), Outcome.REFUSED, False, Reason.CONFIRMING, 3 * SECOND),
        (Unauthorised(403, "no"), Outcome.UNAUTHORISED, False, Reason.CONFIRMING, 3 * SECOND),
    ],
)
def test_an_answer_that_may_mean_something_is_read_back(
    answer: CommandAnswer, outcome: Outcome, concluded: bool, reason: Reason, wait: timedelta
) -> None:
    sent = an_attempt(None)
    verdict, answered = policy.after_command(a_view(replace(SENDING, state=WAITING)), sent, answer)
    assert answered == replace(sent, outcome=outcome, concluded=concluded, answered_at=NOW)
    assert verdict == Verdict(case=replace(SENDING, reason=reason), next_look_at=NOW + wait)


@pytest.mark.parametrize(
    ("answer", "outcome", "wait"),
    [
        (NotSent("ConnectError"), Outcome.NOT_SENT, 10 * SECOND),
        (Unauthorised(401, "no"), Outcome.UNAUTHORISED, 5 * SECOND),
        (Throttled(2 * MINUTE), Outcome.THROTTLED, 2 * MINUTE),
        (Misconfigured(302), Outcome.MISCONFIGURED, 5 * SECOND),
    ],
)
@pytest.mark.parametrize("age", [SECOND, 3 * DAY])
def test_an_answer_that_shows_nothing_was_done_costs_time_and_no_budget(
    answer: CommandAnswer, outcome: Outcome, wait: timedelta, age: timedelta
) -> None:
    sending, sent = replace(SENDING, looking_since=NOW - age), an_attempt(None)
    verdict, answered = policy.after_command(a_view(sending), sent, answer)
    assert answered == replace(sent, outcome=outcome, resolution=Resolution.NOT_APPLIED, answered_at=NOW)
    braked = replace(sending, state=WAITING, reason=Reason.BRAKE, command_not_before=NOW + wait)
    assert verdict == Verdict(case=braked, next_look_at=NOW + wait)


@pytest.mark.parametrize("age", [SECOND, 3 * DAY])
def test_a_shut_gate_costs_time_and_no_budget(age: timedelta) -> None:
    case = aged(age, state=WOULD_SHIP, looks=2)
    verdict = policy.braked(a_view(case), "paused by an operator", (Note("episode", "opened"),))
    assert verdict.case == replace(case, state=WAITING, reason=Reason.BRAKE)
    assert wait_of(verdict) == 10 * SECOND
    assert verdict.notes == (Note("episode", "opened"), Note("waiting/brake", "not commanded: paused by an operator"))
    assert policy.braked(a_view(verdict.case), "paused by an operator").notes == ()


# Read back, still Packed

UNCONFIRMED = a_case(state=SHIPPING, reason=Reason.AMBIGUOUS)
CONCLUDED = {"concluded": True}


@pytest.mark.parametrize(
    ("attempt", "wait", "reason"),
    [
        (an_attempt(Outcome.ACCEPTED, 5 * SECOND), 5 * SECOND, Reason.CONFIRMING),
        (an_attempt(Outcome.ACCEPTED, MINUTE, read_backs=3), 40 * SECOND, Reason.CONFIRMING),
        (an_attempt(Outcome.ACCEPTED, QUARTER - SECOND, read_backs=9), SECOND, Reason.CONFIRMING),
        (an_attempt(Outcome.AMBIGUOUS, 3 * SECOND), 27 * SECOND, Reason.AMBIGUOUS),
        (an_attempt(Outcome.AMBIGUOUS, 29 * SECOND, read_backs=5), SECOND, Reason.AMBIGUOUS),
        (an_attempt(Outcome.AMBIGUOUS, HOUR), SECOND, Reason.AMBIGUOUS),
        (an_attempt(None, 13 * SECOND), 17 * SECOND, Reason.AMBIGUOUS),
        (an_attempt(None, HOUR), SECOND, Reason.AMBIGUOUS),
        (an_attempt(Outcome.AMBIGUOUS, 2 * SECOND, **CONCLUDED), SECOND, Reason.AMBIGUOUS),
        (
            an_attempt(Outcome.AMBIGUOUS, 9 * SECOND, answered_at=NOW - SECOND, **CONCLUDED),
            2 * SECOND,
            Reason.AMBIGUOUS,
        ),
    ],
)
@pytest.mark.parametrize("age", [MINUTE, HOUR])
def test_what_the_reads_do_not_settle_yet_is_read_again(
    attempt: Attempt, wait: timedelta, reason: Reason, age: timedelta
) -> None:
    verdict = decided(aged(age, state=WAITING, reason=None), None, attempt)
    assert standing(verdict) == (SHIPPING, reason, False)
    assert (wait_of(verdict), verdict.read_back, verdict.resolution) == (wait, True, None)
    assert verdict.notes == (Note(f"shipping/{reason}", "read back: still Packed"),)


@pytest.mark.parametrize(
    ("attempt", "said"),
    [
        (an_attempt(Outcome.AMBIGUOUS, 30 * SECOND, read_backs=1), "reads after the send show it was not applied"),
        (an_attempt(None, 30 * SECOND, read_backs=1), "reads after the send show it was not applied"),
        (an_attempt(Outcome.AMBIGUOUS, 3 * SECOND, **CONCLUDED), "reads after the send show it was not applied"),
        (an_attempt(Outcome.REFUSED, SECOND), "the OMS refused the command"),
        (an_attempt(Outcome.UNAUTHORISED, SECOND), "the OMS refused the command"),
    ],
)
def test_a_command_proven_not_applied_is_tried_again_later(attempt: Attempt, said: str) -> None:
    verdict = decided(replace(UNCONFIRMED, refusals=1), None, attempt)
    assert standing(verdict) == (WAITING, Reason.RETRY_AFTER_REFUSAL, False)
    assert (verdict.resolution, verdict.read_back, verdict.command) == (Resolution.NOT_APPLIED, False, None)
    assert (verdict.case.refusals, wait_of(verdict)) == (2, 10 * SECOND)
    assert verdict.case.command_not_before == verdict.next_look_at
    assert verdict.notes == (Note("waiting/retry_after_refusal", said),)


@pytest.mark.parametrize(
    ("attempt", "refusals", "wait"),
    [
        (an_attempt(None, DAY, read_backs=1), 0, 10 * SECOND),
        (an_attempt(Outcome.AMBIGUOUS, DAY, read_backs=1), 0, 10 * SECOND),
        (an_attempt(Outcome.AMBIGUOUS, DAY, read_backs=1), 3, 40 * SECOND),
        (an_attempt(Outcome.AMBIGUOUS, DAY, **CONCLUDED), 0, 5 * SECOND),
        (an_attempt(Outcome.REFUSED), 0, 5 * SECOND),
    ],
)
def test_after_a_command_that_may_still_be_under_way_the_next_one_waits_for_as_long_as_one_can_be(
    attempt: Attempt, refusals: int, wait: timedelta
) -> None:
    verdict = decided(replace(UNCONFIRMED, refusals=refusals), None, attempt)
    assert verdict.resolution is Resolution.NOT_APPLIED
    assert verdict.case.command_not_before == NOW + wait


@pytest.mark.parametrize(("refusals", "age", "tries"), [(7, MINUTE, 8), (1, DAY, 2)])
def test_refused_as_often_or_as_long_as_we_try_it_needs_a_person(refusals: int, age: timedelta, tries: int) -> None:
    case = aged(age, state=SHIPPING, reason=Reason.CONFIRMING, refusals=refusals)
    first = an_attempt(Outcome.REFUSED, ago=age, resolution=NOT_APPLIED)
    verdict = decided(case, None, first, an_attempt(Outcome.REFUSED))
    assert standing(verdict) == (ATTENTION, Reason.REFUSED, True)
    assert (verdict.resolution, verdict.next_look_at) == (Resolution.NOT_APPLIED, None)
    said = f"the OMS refused the command; tried {tries} times in this episode"
    assert verdict.notes == (Note("needs_attention/refused", said),)


@pytest.mark.parametrize(("age", "ago"), [(9 * DAY, DAY - SECOND), (DAY - SECOND, 9 * DAY)])
def test_time_before_the_first_command_or_behind_a_brake_ages_no_refusal(age: timedelta, ago: timedelta) -> None:
    case = aged(age, state=SHIPPING, reason=Reason.CONFIRMING)
    verdict = decided(case, None, an_attempt(Outcome.REFUSED, ago))
    assert standing(verdict) == (WAITING, Reason.RETRY_AFTER_REFUSAL, False)


def test_accepted_and_still_packed_after_15_minutes_needs_a_person() -> None:
    verdict = decided(UNCONFIRMED, None, an_attempt(Outcome.ACCEPTED, QUARTER))
    assert standing(verdict) == (ATTENTION, Reason.ACCEPTED_BUT_STILL_PACKED, True)
    assert (verdict.resolution, verdict.command) == (None, None)
    [note] = verdict.notes
    assert note.text == "the OMS accepted the command 15 minutes ago and the package is still Packed"


@pytest.mark.parametrize(
    ("attempt", "resolution"),
    [
        (an_attempt(Outcome.ACCEPTED, HOUR), None),
        (an_attempt(Outcome.AMBIGUOUS, SECOND), None),
        (an_attempt(Outcome.AMBIGUOUS, HOUR, read_backs=1), Resolution.NOT_APPLIED),
        (an_attempt(Outcome.REFUSED), Resolution.NOT_APPLIED),
    ],
)
def test_a_held_case_stays_held_whatever_becomes_of_its_attempt(
    attempt: Attempt, resolution: Resolution | None
) -> None:
    verdict = decided(DISMISSED, None, attempt)
    assert standing(verdict) == (SKIPPED, Reason.DISMISSED, True)
    assert (verdict.command, verdict.next_look_at, verdict.resolution) == (None, None, resolution)
    assert verdict.read_back == (resolution is None)


def test_an_attempt_that_was_settled_does_not_keep_the_next_from_being_sent() -> None:
    settled = an_attempt(Outcome.REFUSED, HOUR, resolution=Resolution.NOT_APPLIED)
    assert decided(a_case(), None, settled).command == COMMAND


# It left Packed

BY_US = a_move(9, PACKED, SHIPPED, "12", "PKG_STATE_TRANSITION")
BY_OTHERS = a_move(9, PACKED, SHIPPED, "77", "PKG_STATE_TRANSITION")
LONG_AGO_BY_US = replace(BY_US, at=NOW - HOUR)
UNNAMED = a_move(9, PACKED, SHIPPED)
KNOWN = frozenset({"550"})
NOT_APPLIED = Resolution.NOT_APPLIED


@pytest.mark.parametrize(
    ("attempts", "changes", "expected", "resolution"),
    [
        # Nothing of ours may have done it.
        ([], {}, (SKIPPED, Reason.LEFT_PACKED, None), None),
        ([], {"shipped_values": KNOWN}, (CaseState.ALREADY_SHIPPED, None, None), None),
        ([], {"cancelled_event": True}, (SKIPPED, Reason.CANCELLED, None), None),
        ([], {"cancelled_event": True, "shipped_values": KNOWN}, (CaseState.ALREADY_SHIPPED, None, None), None),
        ([], {"log": (BY_US,), "shipped_event": True}, (SKIPPED, Reason.LEFT_PACKED, None), None),
        ([an_attempt(Outcome.REFUSED)], {}, (SKIPPED, Reason.LEFT_PACKED, None), NOT_APPLIED),
        ([an_attempt(Outcome.NOT_SENT, resolution=NOT_APPLIED)], {}, (SKIPPED, Reason.LEFT_PACKED, None), None),
        # A clean 2xx, then not Packed.
        ([an_attempt()], {}, (CaseState.SHIPPED, None, Evidence.READ_BACK), Resolution.APPLIED),
        ([an_attempt()], {"log": (BY_OTHERS,)}, (CaseState.SHIPPED, None, Evidence.READ_BACK), Resolution.APPLIED),
        # It may have been applied: the log, then the value, then the event.
        *(
            ([an_attempt(unclear)], changes, expected, resolution)
            for unclear in (Outcome.AMBIGUOUS, None)
            for changes, expected, resolution in [
                ({"log": (BY_US,)}, (CaseState.SHIPPED, None, Evidence.TRANSITION_LOG), Resolution.APPLIED),
                ({"log": (BY_OTHERS,), "shipped_event": True}, (SKIPPED, Reason.LEFT_PACKED, None), NOT_APPLIED),
                (
                    {"log": (BY_OTHERS,), "shipped_values": KNOWN},
                    (CaseState.ALREADY_SHIPPED, None, None),
                    NOT_APPLIED,
                ),
                (
                    {"log": (UNNAMED,), "shipped_values": KNOWN, "shipped_event": True},
                    (CaseState.SHIPPED, None, Evidence.READ_BACK),
                    Resolution.APPLIED,
                ),
                ({"shipped_event": True}, (CaseState.SHIPPED, None, Evidence.EVENT), Resolution.APPLIED),
                ({"log": (UNNAMED,)}, (WAITING, Reason.OUTCOME_UNKNOWN, None), None),
                ({"log": (LONG_AGO_BY_US,)}, (WAITING, Reason.OUTCOME_UNKNOWN, None), None),
                ({"shipped_values": frozenset({"551"})}, (WAITING, Reason.OUTCOME_UNKNOWN, None), None),
                ({"cancelled_event": True}, (WAITING, Reason.OUTCOME_UNKNOWN, None), None),
            ]
        ),
        # Reads had shown that it was not applied: the log may still know better.
        (
            [an_attempt(Outcome.AMBIGUOUS, resolution=NOT_APPLIED)],
            {"shipped_event": True},
            (SKIPPED, Reason.LEFT_PACKED, None),
            None,
        ),
        (
            [an_attempt(Outcome.AMBIGUOUS, resolution=NOT_APPLIED), an_attempt(Outcome.REFUSED)],
            {},
            (SKIPPED, Reason.LEFT_PACKED, None),
            NOT_APPLIED,
        ),
        (
            [an_attempt(Outcome.AMBIGUOUS, resolution=NOT_APPLIED)],
            {"log": (BY_US,)},
            (CaseState.SHIPPED, None, Evidence.TRANSITION_LOG),
            None,
        ),
        # An operator had given an accepted one up.
        ([an_attempt(resolution=Resolution.UNKNOWN)], {}, (WAITING, Reason.OUTCOME_UNKNOWN, None), None),
        # The newest that may have been applied is the one that counts.
        (
            [an_attempt(Outcome.AMBIGUOUS, resolution=NOT_APPLIED), an_attempt()],
            {},
            (CaseState.SHIPPED, None, Evidence.READ_BACK),
            Resolution.APPLIED,
        ),
    ],
)
def test_who_moved_it_is_told_by_what_proves_most(
    attempts: Sequence[Attempt],
    changes: dict[str, Any],
    expected: tuple[CaseState, Reason | None, Evidence | None],
    resolution: Resolution | None,
) -> None:
    verdict = decided(UNCONFIRMED, a_snapshot(SHIPPED), *attempts, **changes)
    case = verdict.case
    assert (case.state, case.reason, case.evidence) == expected
    assert (verdict.resolution, verdict.command) == (resolution, None)
    assert (case.packed_since, case.left_packed_at) == (None, NOW)
    assert (verdict.next_look_at is None) == (case.state in CLOSED)


@pytest.mark.parametrize(
    ("log", "entry_log_id"),
    [
        ((a_move(9, PACKED, SHIPPED, "12"),), 9),
        ((a_move(10, READY, PACKED), a_move(9, PACKED, SHIPPED, "12")), 0),
    ],
)
def test_a_logged_move_from_before_this_episode_is_no_evidence(
    log: tuple[LoggedTransition, ...], entry_log_id: int
) -> None:
    case = replace(UNCONFIRMED, entry_log_id=entry_log_id)
    verdict = decided(case, a_snapshot(SHIPPED), an_attempt(Outcome.AMBIGUOUS), log=log)
    assert standing(verdict) == (WAITING, Reason.OUTCOME_UNKNOWN, False)


@pytest.mark.parametrize(("logged_s_after", "counts"), [(-5.001, False), (-5, True), (0, True), (60, True)])
def test_a_logged_move_counts_from_five_seconds_before_the_command_it_is_to_explain(
    logged_s_after: float, counts: bool
) -> None:
    sent = an_attempt(Outcome.AMBIGUOUS)
    left = replace(BY_US, at=sent.started_at + timedelta(seconds=logged_s_after))
    verdict = decided(UNCONFIRMED, a_snapshot(SHIPPED), sent, log=(left,))
    assert verdict.case.state is (CaseState.SHIPPED if counts else WAITING)


@pytest.mark.parametrize(("read_backs", "learned"), [(0, "550"), (1, None)])
def test_a_shipped_value_is_learned_from_the_first_read_back_after_a_clean_2xx(
    read_backs: int, learned: str | None
) -> None:
    verdict = decided(UNCONFIRMED, a_snapshot(SHIPPED), an_attempt(read_backs=read_backs))
    assert (verdict.case.state, verdict.learned) == (CaseState.SHIPPED, learned)
    assert verdict.notes == (Note("shipped", "accepted, then read as PackageStatus 550"),)


@pytest.mark.parametrize("value", ["100", "150", "200", "300", "400", "920", "1100"])
def test_a_state_that_is_documented_as_another_one_is_no_proof_that_the_command_was_applied(value: str) -> None:
    elsewhere = a_snapshot(StateValue("PackageStatus", value))
    verdict = decided(UNCONFIRMED, elsewhere, an_attempt())
    assert standing(verdict) == (WAITING, Reason.OUTCOME_UNKNOWN, False)
    assert (verdict.learned, verdict.resolution) == (None, None)
    moved_by_hand = decided(UNCONFIRMED, elsewhere, an_attempt(), log=(a_move(9, PACKED, READY, "77"),))
    assert (standing(moved_by_hand), moved_by_hand.resolution) == ((SKIPPED, Reason.LEFT_PACKED, False), NOT_APPLIED)
    moved_on_after_us = decided(UNCONFIRMED, elsewhere, an_attempt(), log=(BY_US,))
    assert (moved_on_after_us.case.state, moved_on_after_us.learned) == (CaseState.SHIPPED, None)


@pytest.mark.parametrize(
    "attempt", [an_attempt(), an_attempt(None), an_attempt(Outcome.AMBIGUOUS, resolution=NOT_APPLIED)]
)
def test_another_packed_status_under_a_command_proves_nothing_about_a_package_that_did_not_move(
    attempt: Attempt,
) -> None:
    renamed = some_settings(packed_status="600", shipped_statuses=frozenset({"500"}))
    verdict = decided(UNCONFIRMED, a_snapshot(), attempt, settings=renamed)
    assert standing(verdict) == standing(Verdict(case=UNCONFIRMED))
    assert "PACKED_STATUS was changed" in (verdict.case.read_problem or "")
    assert (verdict.case.packed_since, verdict.resolution) == (UNCONFIRMED.packed_since, None)
    long_ago = replace(UNCONFIRMED, looking_since=NOW - DAY, failed_reads=7)
    assert standing(decided(long_ago, a_snapshot(), attempt, settings=renamed)) == (ATTENTION, Reason.BAD_SHAPE, True)
    assert decided(verdict.case, a_snapshot(), attempt).case.read_problem is None


def test_another_packed_status_before_any_command_ends_the_stay() -> None:
    verdict = decided(a_case(), a_snapshot(), settings=some_settings(packed_status="600"))
    assert standing(verdict) == (SKIPPED, Reason.LEFT_PACKED, False)


def test_a_state_that_an_operator_configured_as_shipped_is_believed() -> None:
    settings = some_settings(shipped_statuses=frozenset({"920"}))
    verdict = decided(UNCONFIRMED, a_snapshot(StateValue("PackageStatus", "920")), an_attempt(), settings=settings)
    assert (verdict.case.state, verdict.case.evidence) == (CaseState.SHIPPED, Evidence.READ_BACK)


@pytest.mark.parametrize(
    ("attempts", "changes", "note"),
    [
        ([], {}, Note("skipped/left_packed", "left Packed for PackageStatus 550; not by us")),
        ([], {"cancelled_event": True}, Note("skipped/cancelled", "cancelled, read as PackageStatus 550")),
        ([], {"shipped_values": KNOWN}, Note("already_shipped", "read as PackageStatus 550; not by us")),
        ([an_attempt(None)], {"log": (BY_US,)}, Note("shipped", "the transition log names our transition")),
        (
            [an_attempt(None)],
            {"shipped_values": KNOWN},
            Note("shipped", "read as PackageStatus 550: by us, or by somebody at the same moment"),
        ),
        (
            [an_attempt(None)],
            {"shipped_event": True},
            Note("shipped", "a signed package.status.shipped delivery came after the send"),
        ),
        (
            [an_attempt(None)],
            {},
            Note(
                "waiting/outcome_unknown",
                "left Packed for PackageStatus 550 after a command whose outcome nothing proves",
            ),
        ),
    ],
)
def test_the_timeline_says_how_it_ended(attempts: Sequence[Attempt], changes: dict[str, Any], note: Note) -> None:
    verdict = decided(UNCONFIRMED, a_snapshot(SHIPPED), *attempts, **changes)
    assert verdict.notes == (note,)


def test_evidence_for_an_unknown_outcome_is_looked_for_during_15_minutes_then_by_a_person() -> None:
    attempt = an_attempt(Outcome.AMBIGUOUS)
    left = decided(aged(HOUR, state=SHIPPING, reason=Reason.AMBIGUOUS), a_snapshot(SHIPPED), attempt)
    assert (standing(left), wait_of(left)) == ((WAITING, Reason.OUTCOME_UNKNOWN, False), 5 * SECOND)
    early, late = NOW + QUARTER - SECOND, NOW + QUARTER
    assert standing(decided(left.case, a_snapshot(SHIPPED), attempt, now=early)) == standing(left)
    asked = decided(left.case, a_snapshot(SHIPPED), attempt, now=late)
    assert (standing(asked), asked.next_look_at) == ((ATTENTION, Reason.OUTCOME_UNKNOWN, True), None)
    assert asked.notes == (replace(left.notes[0], kind="needs_attention/outcome_unknown"),)
    proven = decided(asked.case, a_snapshot(SHIPPED), attempt, now=late + DAY, shipped_event=True)
    assert (standing(proven), proven.case.evidence) == ((CaseState.SHIPPED, None, False), Evidence.EVENT)


def test_a_held_case_whose_outcome_is_unknown_stays_a_persons_matter() -> None:
    held = replace(UNCONFIRMED, state=ATTENTION, reason=Reason.NOT_FOUND, held=True)
    verdict = decided(held, a_snapshot(SHIPPED), an_attempt(None))
    assert standing(verdict) == (ATTENTION, Reason.OUTCOME_UNKNOWN, True)


def test_a_dismissed_package_stays_dismissed_where_nothing_proves_what_our_command_did() -> None:
    attempt = an_attempt(Outcome.AMBIGUOUS)
    for case in (DISMISSED, replace(DISMISSED, packed_since=None, left_packed_at=NOW - HOUR)):
        verdict = decided(case, a_snapshot(SHIPPED), attempt)
        assert standing(verdict) == (SKIPPED, Reason.DISMISSED, True)
        assert verdict.next_look_at is None
    assert decided(DISMISSED, a_snapshot(SHIPPED), attempt, log=(BY_US,)).case.state is CaseState.SHIPPED


@pytest.mark.parametrize(
    ("case", "shipped_values"),
    [
        (a_left_case(), KNOWN),
        (a_left_case(state=CaseState.SHIPPED, reason=None, evidence=Evidence.EVENT), frozenset()),
        (replace(NEW, state=CaseState.ALREADY_SHIPPED), frozenset()),
    ],
)
def test_a_closed_case_is_not_moved_by_where_the_package_goes_next(case: Case, shipped_values: frozenset[str]) -> None:
    verdict = decided(replace(case, repacked_at=NOW - SECOND), a_snapshot(SHIPPED), shipped_values=shipped_values)
    assert standing(verdict) == standing(Verdict(case=case))
    assert (verdict.next_look_at, verdict.notes, verdict.case.evidence) == (None, (), case.evidence)
    assert (verdict.case.repacked_at, verdict.case.looking_since) == (None, None)


@pytest.mark.parametrize(
    ("attempts", "changes", "expected"),
    [
        ((), {}, (SKIPPED, Reason.LEFT_PACKED, False)),
        ((), {"shipped_values": KNOWN}, (CaseState.ALREADY_SHIPPED, None, False)),
        ((an_attempt(None, resolution=Resolution.UNKNOWN),), {}, (WAITING, Reason.OUTCOME_UNKNOWN, False)),
        ((an_attempt(None, resolution=Resolution.UNKNOWN),), {"log": (BY_US,)}, (CaseState.SHIPPED, None, False)),
    ],
)
def test_a_package_that_left_is_judged_again_when_an_operator_asks(
    attempts: tuple[Attempt, ...], changes: dict[str, Any], expected: Standing
) -> None:
    asked = a_left_case(state=WAITING, reason=None)
    assert standing(decided(asked, a_snapshot(SHIPPED), *attempts, **changes)) == expected


# It was never seen Packed


@pytest.mark.parametrize(
    ("age", "changes", "expected", "note"),
    [
        (SECOND, {}, (WAITING, Reason.NOT_PACKED_YET, False), "read as PackageStatus 400"),
        (QUARTER - SECOND, {}, (WAITING, Reason.NOT_PACKED_YET, False), "read as PackageStatus 400"),
        (
            QUARTER,
            {},
            (SKIPPED, Reason.NOT_PACKED, False),
            "not Packed for 15 minutes, read as PackageStatus 400",
        ),
        (
            SECOND,
            {"cancelled_event": True},
            (SKIPPED, Reason.CANCELLED, False),
            "cancelled, read as PackageStatus 400",
        ),
        (
            SECOND,
            {"cancelled_event": True, "shipped_values": {"400"}},
            (CaseState.ALREADY_SHIPPED, None, False),
            "read as PackageStatus 400; not by us",
        ),
    ],
)
def test_an_announced_package_that_is_not_packed_is_looked_at_for_15_minutes(
    age: timedelta, changes: dict[str, Any], expected: Standing, note: str
) -> None:
    case = replace(NEW, looking_since=NOW - age, looks=1, last_look_at=NOW)
    verdict = decided(case, a_snapshot(READY), **changes)
    assert standing(verdict) == expected
    assert [one.text for one in verdict.notes] == [note]
    assert wait_of(verdict) == (10 * SECOND if expected[0] is WAITING else None)
    if expected[1] in (Reason.NOT_PACKED_YET, Reason.NOT_PACKED):
        assert failing(verdict) == [Check("package is Packed", "PackageStatus 500", "PackageStatus 400", "fail")]


def test_a_later_hint_opens_it_again_for_another_15_minutes() -> None:
    given_up = decided(replace(NEW, looking_since=NOW - QUARTER, last_look_at=NOW), a_snapshot(READY))
    verdict = decided(given_up.case, a_snapshot(READY), now=NOW + DAY)
    assert standing(verdict) == (WAITING, Reason.NOT_PACKED_YET, False)
    assert verdict.case.looking_since == NOW + DAY


@pytest.mark.parametrize("reason", [Reason.NOT_FOUND, Reason.DISMISSED])
def test_a_held_case_is_not_moved_by_a_package_that_is_not_packed(reason: Reason) -> None:
    held = replace(NEW, state=ATTENTION, reason=reason, held=True, looking_since=NOW - DAY)
    verdict = decided(held, a_snapshot(READY))
    assert (standing(verdict), verdict.next_look_at) == ((ATTENTION, reason, True), None)


@pytest.mark.parametrize("held", [DISMISSED, a_case(state=ATTENTION, reason=Reason.REFUSED, held=True)])
def test_a_held_package_does_not_leave_packed_because_packed_status_was_changed(held: Case) -> None:
    verdict = decided(replace(held, packed_since=NOW - HOUR), settings=some_settings(packed_status="501"))
    assert (standing(verdict), verdict.case.packed_since) == ((held.state, held.reason, True), NOW - HOUR)


# Is a package that the OMS lists as Packed worth a look?

MIXED_ITEMS = {"items": Items((Item(1, StateValue("PackageItemStatus", "500"), 73), Item(2, None, 73)))}
SKIPPED_BY_RULE = a_case(state=SKIPPED, reason=Reason.RULE)
SHOP = {"channel_name": "Shop"}


@pytest.mark.parametrize(
    ("case", "listed", "changes", "why"),
    [
        (None, {}, {}, "no webhook announced it"),
        (a_case(reason=Reason.ITEMS_MIXED), {}, {}, "it would ship now"),
        (a_case(reason=Reason.ITEMS_MIXED), MIXED_ITEMS, {}, None),
        (a_case(reason=Reason.ITEMS_MIXED), {"items": None}, {}, "it would ship now"),
        (a_case(reason=Reason.ITEMS_MIXED), {}, {"grace": DAY}, "it would ship now"),
        (a_case(reason=Reason.RULE_FIELD_MISSING), {"facts": SHOP}, {"rules": SKIP_B2B}, "it would ship now"),
        (a_case(reason=Reason.RULE_FIELD_MISSING), {}, {"rules": SKIP_B2B}, None),
        (NEW, {}, {}, None),
        (a_case(reason=Reason.GRACE), {}, {"grace": 2 * SECOND}, None),
        (a_case(reason=Reason.GRACE), {"items": None}, {"grace": 2 * SECOND}, None),
        (a_case(reason=Reason.GRACE), {}, {"grace": SECOND}, "it would ship now"),
        (a_case(reason=Reason.GRACE), {"items": None, "facts": {}}, {"grace": SECOND, "rules": SKIP_B2B}, None),
        (a_case(reason=Reason.GRACE), {}, {}, "it would ship now"),
        (a_case(reason=Reason.GRACE), MIXED_ITEMS, {}, None),
        (a_case(reason=Reason.BRAKE), {}, {}, None),
        (a_case(reason=Reason.BACKLOG_TO_CONFIRM), {}, {}, None),
        (a_case(reason=Reason.RETRY_AFTER_REFUSAL), {}, {}, None),
        (a_case(state=ATTENTION, reason=Reason.COMMAND_NOT_OFFERED), {}, {}, "it would ship now"),
        (a_case(state=ATTENTION, reason=Reason.REFUSED, held=True), {}, {}, None),
        (DISMISSED, {}, {}, None),
        (a_case(state=SHIPPING, reason=Reason.CONFIRMING), {}, {}, None),
        (a_case(state=WOULD_SHIP), {}, {}, "MODE is live now"),
        (a_case(state=WOULD_SHIP), {}, {"live": False}, None),
        (SKIPPED_BY_RULE, {"facts": {"channel_name": "B2B"}}, {"rules": SKIP_B2B}, None),
        (SKIPPED_BY_RULE, {"facts": SHOP}, {"rules": SKIP_B2B}, "the rules decide otherwise now"),
        (SKIPPED_BY_RULE, {}, {"rules": SKIP_B2B}, "the rules decide otherwise now"),
        (a_left_case(), {}, {}, "it is in Packed again"),
        (a_left_case(state=CaseState.SHIPPED, reason=None), {}, {}, "it is in Packed again"),
    ],
)
def test_the_sweep_asks_for_a_look_only_where_one_could_change_something(
    case: Case | None, listed: dict[str, Any], changes: dict[str, Any], why: str | None
) -> None:
    assert policy.worth_a_look(case, a_snapshot(**listed), some_settings(**changes), NOW) == why


# Episodes


def test_the_first_read_in_packed_opens_the_first_episode() -> None:
    verdict = decided(NEW)
    assert (verdict.case.episode, verdict.case.packed_since, verdict.command) == (1, NOW, COMMAND)
    assert verdict.notes == (Note("episode", "episode 1 opened: first read in Packed"),)
    assert verdict.resolution is None


@pytest.mark.parametrize("reason", [Reason.NOT_FOUND, Reason.BAD_SHAPE])
def test_a_new_episode_lifts_what_held_the_case(reason: Reason) -> None:
    assert decided(replace(NEW, state=ATTENTION, reason=reason, held=True)).command == COMMAND


def test_a_package_dismissed_before_it_was_packed_stays_dismissed_in_its_first_episode() -> None:
    dismissed = replace(NEW, state=SKIPPED, reason=Reason.DISMISSED, held=True)
    verdict = decided(dismissed)
    assert (standing(verdict), verdict.case.episode) == ((SKIPPED, Reason.DISMISSED, True), 1)
    assert (verdict.command, verdict.next_look_at) == (None, None)


LEFT_AT = NOW - MINUTE
REPACKED = (a_move(11, READY, PACKED), a_move(10, PACKED, READY))
NEWLY_REPACKED = (replace(REPACKED[0], at=NOW), REPACKED[1])


def test_a_newer_logged_entry_into_packed_opens_a_new_episode_with_fresh_budgets() -> None:
    spent = {"refusals": 7, "command_not_before": NOW + DAY, "evidence": Evidence.EVENT, "repacked_at": NOW}
    before = a_left_case(**spent, entry_log_id=8, left_modified_at=NOW, looks=40, looking_since=NOW - 9 * DAY)
    verdict = decided(before, None, an_attempt(Outcome.AMBIGUOUS, 6 * SECOND), log=NEWLY_REPACKED)
    case = verdict.case
    assert (case.state, case.reason, case.held, case.episode) == (WAITING, None, False, 2)
    assert (case.refusals, case.command_not_before, case.evidence, case.looks) == (0, None, None, 1)
    assert (case.packed_since, case.looking_since, case.left_packed_at) == (NOW, NOW, None)
    assert (case.repacked_at, case.left_modified_at, case.entry_log_id) == (None, None, 11)
    assert (verdict.command, verdict.resolution) == (COMMAND, Resolution.UNKNOWN)
    assert verdict.notes == (Note("episode", "episode 2 opened: transition log entry 11 went into Packed"),)


@pytest.mark.parametrize(
    ("log", "entry_log_id"),
    [
        ((), 0),
        ((a_move(11, READY, PACKED),), 0),
        ((a_move(10, PACKED, READY),), 0),
        ((a_move(12, PACKED, SHIPPED), *REPACKED), 0),
        (REPACKED, 0),
        (NEWLY_REPACKED, 11),
        (NEWLY_REPACKED, 12),
    ],
)
def test_a_log_that_shows_no_newer_entry_leaves_it_to_a_second_read(
    log: tuple[LoggedTransition, ...], entry_log_id: int
) -> None:
    verdict = decided(a_left_case(entry_log_id=entry_log_id), log=log)
    assert standing(verdict) == (SKIPPED, Reason.LEFT_PACKED, False)
    assert (verdict.case.episode, verdict.case.repacked_at, wait_of(verdict)) == (1, NOW, 30 * SECOND)
    assert verdict.notes == ()


@pytest.mark.parametrize("sent", [(), (an_attempt(ago=2 * MINUTE, resolution=Resolution.APPLIED),)])
@pytest.mark.parametrize(("entered", "episode"), [(None, 1), (LEFT_AT + 5 * SECOND, 1), (LEFT_AT + 6 * SECOND, 2)])
@pytest.mark.parametrize("transition", [None, "12", "77"])
def test_a_logged_entry_counts_only_if_it_came_after_the_package_was_read_outside_packed(
    transition: str | None, entered: datetime | None, episode: int, sent: tuple[Attempt, ...]
) -> None:
    """Log and read may lag together, and then show an earlier time, when it had been moved back into Packed once."""
    log = (replace(REPACKED[0], at=entered), a_move(10, PACKED, READY, transition))
    assert decided(a_left_case(state=CaseState.SHIPPED), None, *sent, log=log).case.episode == episode


def test_a_package_read_as_shipped_by_others_needs_two_reads_to_be_packed() -> None:
    shipped = decided(NEW, a_snapshot(SHIPPED), shipped_values=KNOWN)
    assert standing(shipped) == (CaseState.ALREADY_SHIPPED, None, False)
    once = decided(shipped.case, a_snapshot())
    assert (once.command, once.case.episode, wait_of(once)) == (None, 0, 30 * SECOND)
    again = decided(once.case, a_snapshot(), now=NOW + 30 * SECOND)
    assert (again.command, again.case.episode) == (COMMAND, 1)


def test_a_read_outside_packed_in_between_makes_the_next_read_in_packed_a_first_one() -> None:
    life = Life(case=UNCONFIRMED, attempts=(an_attempt(Outcome.AMBIGUOUS),), commands=[(1, Ambiguous("ReadTimeout"))])
    for reading in (a_snapshot(SHIPPED), a_snapshot(), a_snapshot(SHIPPED), a_snapshot()):
        life.now += 40 * SECOND
        life.look(reading)
    assert (life.case.reason, life.case.episode, life.case.repacked_at) == (Reason.OUTCOME_UNKNOWN, 1, life.now)


@pytest.mark.parametrize(("since", "episode"), [(29 * SECOND, 1), (30 * SECOND, 2), (DAY, 2)])
def test_two_reads_in_packed_half_a_minute_apart_open_a_new_episode(since: timedelta, episode: int) -> None:
    verdict = decided(a_left_case(repacked_at=NOW - since, entry_log_id=8))
    assert verdict.case.episode == episode
    if episode == 2:
        said = f"episode 2 opened: two reads {since.total_seconds():.0f} s apart show Packed"
        assert verdict.notes == (Note("episode", said),)
        assert (verdict.command, verdict.case.entry_log_id) == (COMMAND, 8)
    else:
        assert (verdict.command, wait_of(verdict), verdict.notes) == (None, SECOND, ())


@pytest.mark.parametrize(("known", "remembered"), [(8, 10), (12, 12)])
def test_what_was_logged_before_an_episode_is_remembered_as_older(known: int, remembered: int) -> None:
    verdict = decided(a_left_case(repacked_at=NOW - MINUTE, entry_log_id=known), log=(a_move(10, PACKED, SHIPPED),))
    assert (verdict.case.episode, verdict.case.entry_log_id) == (2, remembered)


@pytest.mark.parametrize(
    ("left", "shown", "episode"),
    [
        (NOW, NOW, 1),
        (NOW, NOW + SECOND, 2),
        (NOW, None, 2),
        (None, NOW, 2),
    ],
)
def test_the_packages_own_modified_date_must_be_newer_if_there_is_one(
    left: datetime | None, shown: datetime | None, episode: int
) -> None:
    case = a_left_case(repacked_at=NOW - MINUTE, left_modified_at=left, modified_at=left)
    verdict = decided(case, a_snapshot(modified_at=shown))
    assert verdict.case.episode == episode
    assert (verdict.command is None) == (episode == 1)
    assert wait_of(verdict) == (5 * SECOND if episode == 1 else None)


def test_an_open_case_is_looked_at_again_while_packed_may_be_an_old_picture() -> None:
    case = a_left_case(state=WAITING, reason=Reason.OUTCOME_UNKNOWN, repacked_at=NOW - MINUTE, left_modified_at=NOW)
    verdict = decided(case, a_snapshot(modified_at=NOW), an_attempt(None))
    assert standing(verdict) == (WAITING, Reason.OUTCOME_UNKNOWN, False)
    assert wait_of(verdict) == 5 * SECOND


def test_packed_again_with_the_date_it_left_with_is_shown_to_a_person_where_nothing_settled_the_command() -> None:
    """One of the reads was wrong, and nothing says which."""
    case = replace(
        a_left_case(state=WAITING, reason=Reason.OUTCOME_UNKNOWN, repacked_at=NOW - MINUTE, left_modified_at=NOW),
        looking_since=NOW,
        last_look_at=NOW,
    )
    attempt, shown = an_attempt(None), a_snapshot(modified_at=NOW)
    early = decided(case, shown, attempt, now=NOW + QUARTER - SECOND)
    assert (standing(early), early.notes) == ((WAITING, Reason.OUTCOME_UNKNOWN, False), ())
    late = decided(case, shown, attempt, now=NOW + QUARTER)
    assert (standing(late), late.next_look_at) == ((ATTENTION, Reason.OUTCOME_UNKNOWN, True), None)
    assert late.notes == (
        Note("needs_attention/outcome_unknown", "read as Packed again, with the modified date it left Packed with"),
    )


@pytest.mark.parametrize("state", sorted(CLOSED))
def test_a_closed_case_in_packed_again_with_its_old_date_is_shown_to_a_person_too(state: CaseState) -> None:
    """Whether the date moves with the state is only assumed: it must not leave a package in Packed unseen."""
    first = decided(a_left_case(state=state, left_modified_at=NOW), a_snapshot(modified_at=NOW))
    early = decided(first.case, a_snapshot(modified_at=NOW), now=NOW + QUARTER - SECOND)
    assert (early.case.state, early.command, early.notes) == (state, None, ())
    assert early.next_look_at is not None
    late = decided(early.case, a_snapshot(modified_at=NOW), now=NOW + QUARTER)
    assert (standing(late), late.next_look_at) == ((ATTENTION, Reason.OUTCOME_UNKNOWN, True), None)
    later = decided(late.case, a_snapshot(modified_at=NOW), now=NOW + 2 * QUARTER)
    assert (standing(later), later.next_look_at, later.notes) == (standing(late), None, ())


def test_leaving_packed_remembers_the_modified_date_it_left_with() -> None:
    case = decided(a_case(), a_snapshot(READY, modified_at=NOW)).case
    assert (case.left_modified_at, case.left_packed_at) == (NOW, NOW)


# When to ask for the transition log


@pytest.mark.parametrize(
    ("case", "attempts", "reading", "needed"),
    [
        (a_case(), [an_attempt(None)], NotFound(), False),
        (a_case(), [an_attempt(None)], STATELESS, False),
        (a_case(), [an_attempt(None)], a_snapshot(), False),
        (NEW, [], a_snapshot(), False),
        (a_left_case(), [], a_snapshot(), True),
        (a_case(), [], a_snapshot(SHIPPED), False),
        (a_case(), [an_attempt(Outcome.REFUSED)], a_snapshot(SHIPPED), False),
        (a_case(), [an_attempt(Outcome.ACCEPTED)], a_snapshot(SHIPPED), False),
        (a_case(), [an_attempt(Outcome.ACCEPTED)], a_snapshot(READY), True),
        (a_case(), [an_attempt(Outcome.ACCEPTED, resolution=Resolution.UNKNOWN)], a_snapshot(SHIPPED), True),
        (a_case(), [an_attempt(Outcome.AMBIGUOUS)], a_snapshot(SHIPPED), True),
        (a_case(), [an_attempt(Outcome.AMBIGUOUS, resolution=NOT_APPLIED)], a_snapshot(SHIPPED), True),
        (a_left_case(), [an_attempt(None)], a_snapshot(SHIPPED), True),
        (a_left_case(), [an_attempt(None, resolution=Resolution.APPLIED)], a_snapshot(SHIPPED), False),
        (a_left_case(state=WAITING), [an_attempt(None, resolution=Resolution.UNKNOWN)], a_snapshot(SHIPPED), True),
    ],
)
def test_the_transition_log_is_asked_only_where_it_may_decide(
    case: Case, attempts: Sequence[Attempt], reading: Reading, needed: bool
) -> None:
    assert needs_transition_log(a_view(case, *attempts), reading) is needed


# Laws, for any read of any case. What speaks for a command is drawn more often than what speaks against it.


def mostly(likely: Any, *others: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([likely] * (1 + len(others)) + [*others])


MOMENTS = mostly(None, NOW - 9 * DAY, NOW - HOUR, NOW - 20 * SECOND, NOW, NOW + MINUTE)
SNAPSHOTS = st.builds(
    PackageSnapshot,
    package_id=st.just(73),
    state=mostly(PACKED, READY, SHIPPED, ORDER_SHIPPED, StateValue(None, "500"), StateValue(None, "é"), None),
    items=mostly(
        some_items("500"), None, Items(()), some_items("400"), some_items("500", problem="short"), UNREADABLE_ITEM
    ),
    offered=mostly(None, (OfferedCommand("ship", "12", None),), (OfferedCommand("ship", "13", None),), (ANY_SLUG,)),
    modified_at=MOMENTS,
    facts=mostly({"channel_name": "Shop"}, {"channel_name": "B2B"}, {}),
)
UNUSABLE = [reading for reading, _ in [*NOT_ANSWERED, *NOT_READABLE, STALE]]
READINGS: st.SearchStrategy[Reading] = st.integers(0, 5).flatmap(
    lambda number: SNAPSHOTS if number else st.sampled_from(UNUSABLE)
)
CASES = st.builds(
    Case,
    package_id=st.just(73),
    state=st.sampled_from(CaseState),
    reason=st.one_of(st.none(), st.sampled_from(Reason)),
    held=mostly(False, True),
    episode=st.integers(0, 3),
    packed_since=mostly(NOW - MINUTE, None, NOW),
    left_packed_at=MOMENTS,
    repacked_at=MOMENTS,
    entry_log_id=st.sampled_from([0, 10, 99]),
    modified_at=MOMENTS,
    left_modified_at=MOMENTS,
    looking_since=MOMENTS,
    last_look_at=MOMENTS,
    looks=st.sampled_from([0, 1, 10**6]),
    failed_reads=st.sampled_from([0, 1, 10**6]),
    refusals=st.sampled_from([0, 7, 8]),
    command_not_before=MOMENTS,
)
ATTEMPTS = st.builds(
    an_attempt,
    st.sampled_from([None, *Outcome]),
    st.sampled_from([-HOUR, SECOND, MINUTE, HOUR]),
    concluded=st.booleans(),
    resolution=st.sampled_from([None, *Resolution]),
    read_backs=st.integers(0, 2),
)
VIEWS = st.builds(
    View,
    case=CASES,
    settings=st.builds(
        some_settings,
        rules=mostly(SKIP_B2B, Rules()),
        live=mostly(True, False),
        enforce_offered=mostly(True, False),
        grace=mostly(timedelta(0), MINUTE, HOUR),
    ),
    now=st.just(NOW),
    jitter=st.sampled_from([0.0, 0.5, 0.999]),
    attempts=st.lists(ATTEMPTS, max_size=2).map(tuple),
    log=st.sampled_from([(), REPACKED, (BY_US,), (BY_OTHERS,), (UNNAMED,)]),
    shipped_values=st.sampled_from([frozenset(), KNOWN]),
    shipped_event=st.booleans(),
    cancelled_event=st.booleans(),
)


def a_command_rests_on_everything_a_fresh_read_must_show(view: View, reading: Reading, verdict: Verdict) -> None:
    if verdict.command is None:
        return
    case, new_episode = verdict.case, verdict.case.episode > view.case.episode
    assert isinstance(reading, PackageSnapshot)
    assert reading.state in (PACKED, StateValue(None, "500"))
    assert reading.items == some_items("500")
    assert view.settings.live
    assert view.settings.rules == Rules() or reading.facts == {"channel_name": "Shop"}
    assert not view.settings.enforce_offered or reading.offered in (None, (OfferedCommand("ship", "12", None),))
    assert case.packed_since is not None
    assert case.packed_since + view.settings.grace <= NOW
    assert case.command_not_before is None or case.command_not_before <= NOW
    assert not case.held
    assert new_episode or not (view.open_attempt or view.case.held)
    assert not failing(verdict)


def a_held_case_is_let_go_only_by_a_new_episode_or_by_its_end(view: View, reading: Reading, verdict: Verdict) -> None:
    if view.case.held and verdict.case.episode == view.case.episode:
        assert verdict.command is None
        assert verdict.case.held or verdict.case.state in CLOSED


def shipped_is_never_claimed_without_evidence(view: View, reading: Reading, verdict: Verdict) -> None:
    if verdict.case.state is CaseState.SHIPPED and view.case.state is not CaseState.SHIPPED:
        assert verdict.case.evidence is not None
        assert view.possible_attempt is not None


def an_open_case_that_is_not_held_is_looked_at_again(view: View, reading: Reading, verdict: Verdict) -> None:
    done = verdict.case.held or verdict.case.state in CLOSED
    assert done or verdict.command is not None or verdict.next_look_at is not None
    assert verdict.next_look_at is None or verdict.next_look_at > NOW


def a_stale_snapshot_decides_nothing(view: View, reading: Reading, verdict: Verdict) -> None:
    newest = view.case.modified_at
    if isinstance(reading, PackageSnapshot) and newest and reading.modified_at and reading.modified_at < newest:
        undecided = replace(verdict.case, failed_reads=0, read_problem=None, last_look_at=None, looking_since=None)
        assert undecided == replace(view.case, failed_reads=0, last_look_at=None, looking_since=None)
        assert (verdict.command, verdict.resolution, verdict.read_back) == (None, None, False)


def an_episode_opens_on_the_first_read_a_logged_entry_or_two_reads(
    view: View, reading: Reading, verdict: Verdict
) -> None:
    case = view.case
    if verdict.case.episode == case.episode:
        return
    logged = view.log == REPACKED and case.entry_log_id < 11
    twice = case.repacked_at is not None and case.repacked_at <= NOW - view.settings.episode
    assert isinstance(reading, PackageSnapshot)
    assert reading.state in (PACKED, StateValue(None, "500"))
    assert case.packed_since is None
    assert case.left_packed_at is None or logged or twice
    assert verdict.notes[0].kind == "episode"


LAWS = (
    a_command_rests_on_everything_a_fresh_read_must_show,
    a_held_case_is_let_go_only_by_a_new_episode_or_by_its_end,
    shipped_is_never_claimed_without_evidence,
    an_open_case_that_is_not_held_is_looked_at_again,
    a_stale_snapshot_decides_nothing,
    an_episode_opens_on_the_first_read_a_logged_entry_or_two_reads,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(VIEWS, READINGS)
def test_every_read_of_every_case_has_a_verdict_that_keeps_every_law(view: View, reading: Reading) -> None:
    needs_transition_log(view, reading)
    verdict = decide(view, reading)
    for law in LAWS:
        law(view, reading, verdict)


# The same laws over the life of a package


ACCEPTED = Accepted(204)


@dataclass
class Life:
    """A package, looked at again and again as a worker does it."""

    case: Case = NEW
    attempts: tuple[Attempt, ...] = ()
    now: datetime = NOW
    commands: list[tuple[int, CommandAnswer]] = field(default_factory=list)

    def look(self, reading: Reading, answer: CommandAnswer = ACCEPTED, **changes: Any) -> Verdict:
        view = View(
            case=self.case,
            settings=some_settings(),
            now=self.now,
            jitter=JITTER,
            attempts=self._of_episode(),
            **changes,
        )
        verdict = decide(view, reading)
        if view.open_attempt is not None and (verdict.resolution or verdict.read_back):
            self._replace(self._read_back(view.open_attempt, verdict))
        self.case = verdict.case
        if verdict.command is not None:
            self._send(verdict.command, answer)
        return verdict

    def _send(self, command: Command, answer: CommandAnswer) -> None:
        sent = Attempt(attempt_id=len(self.attempts), command=command, started_at=self.now, deadline_at=self.now)
        verdict, answered = policy.after_command(a_view(self.case, now=self.now), sent, answer)
        self.case, self.attempts = verdict.case, (*self.attempts, answered)
        self.commands.append((self.case.episode, answer))

    def _read_back(self, attempt: Attempt, verdict: Verdict) -> Attempt:
        return replace(attempt, resolution=verdict.resolution, read_backs=attempt.read_backs + verdict.read_back)

    def _replace(self, changed: Attempt) -> None:
        self.attempts = tuple(changed if one.attempt_id == changed.attempt_id else one for one in self.attempts)

    def _of_episode(self) -> tuple[Attempt, ...]:
        sent = zip(self.attempts, self.commands, strict=True)
        return tuple(attempt for attempt, (episode, _) in sent if episode == self.case.episode)


ANSWERS: st.SearchStrategy[CommandAnswer] = st.sampled_from(
    [
        Accepted(204),
        Ambiguous("ReadTimeout"),
        Ambiguous("answered 500", 500, concluded=True),
        Refused(406, ""),
        Unauthorised(403, ""),
        NotSent("ConnectError"),
        Throttled(MINUTE),
    ]
)
STEPS = st.tuples(
    st.sampled_from([SECOND, 40 * SECOND, 20 * MINUTE, DAY]),
    mostly(a_snapshot(), MIXED, a_snapshot(READY), a_snapshot(SHIPPED), NotFound()),
    ANSWERS,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(STEPS, min_size=4, max_size=20))
def test_in_no_life_of_a_package_does_a_command_follow_an_accepted_one_in_the_same_episode(
    steps: list[tuple[timedelta, Reading, CommandAnswer]],
) -> None:
    life = Life()
    for gap, reading, answer in steps:
        life.now += gap
        life.look(reading, answer)
        assert (life.case.state is CaseState.SHIPPED) == (life.case.evidence is not None)
    accepted = {episode for episode, answer in life.commands if isinstance(answer, Accepted)}
    for episode in accepted:
        last_answer = [answer for of_episode, answer in life.commands if of_episode == episode][-1]
        assert isinstance(last_answer, Accepted)
    assert len(accepted) == sum(isinstance(answer, Accepted) for _, answer in life.commands)


def test_a_dismissed_package_that_is_unpacked_and_packed_again_ships() -> None:
    life = Life(case=DISMISSED)
    assert life.look(a_snapshot()).command is None
    assert standing(life.look(a_snapshot(READY))) == (SKIPPED, Reason.LEFT_PACKED, False)
    life.look(a_snapshot())
    life.now += 30 * SECOND
    assert life.look(a_snapshot()).command == COMMAND
    assert life.commands == [(2, Accepted(204))]


def test_a_package_that_is_shipped_taken_back_and_packed_again_ships_again() -> None:
    life = Life()
    life.look(a_snapshot())
    life.now += 3 * SECOND
    assert life.look(a_snapshot(SHIPPED)).case.evidence is Evidence.READ_BACK
    by_us = a_move(10, PACKED, SHIPPED, str(COMMAND.transition_id))
    life.look(a_snapshot(), log=(by_us, a_move(9, READY, PACKED)))
    assert [episode for episode, _ in life.commands] == [1]
    life.now += MINUTE
    repacked = replace(a_move(11, READY, PACKED), at=life.now)
    life.look(a_snapshot(), log=(repacked, by_us, a_move(9, READY, PACKED)))
    assert [episode for episode, _ in life.commands] == [1, 2]
