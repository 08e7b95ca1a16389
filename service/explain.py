"""Why a package is where it is: one function for the command line, and later for the API and the console."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from service import journal, policy, worklist
from service.database import Database, Transaction, deliveries
from service.errors import OmsUnreachable
from service.oms import Oms
from service.policy import Case, CaseState, NotFound, Reason, Settings, View
from service.snapshot import PackageSnapshot

# For each state and reason: what it means, and what to do.
MEANINGS: Mapping[tuple[CaseState, Reason | None], tuple[str, str]] = {
    (CaseState.WAITING, None): (
        "It is to be looked at.",
        "Nothing to do. If this stays so, look for read.failed and database.unavailable in the logs.",
    ),
    (CaseState.WAITING, Reason.NOT_PACKED_YET): (
        "A webhook said Packed, but the OMS does not show it as Packed.",
        "Nothing to do: it is looked at again for 15 minutes, and at any later webhook.",
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
        "Read the OMS's words in the attempts. Omnitron may not have the items' states yet.",
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
    (CaseState.SHIPPED, None): ("Shipped by us.", "Nothing to do."),
    (CaseState.ALREADY_SHIPPED, None): ("Shipped by somebody else.", "Nothing to do."),
    (CaseState.SKIPPED, Reason.RULE): (
        "A rule says it is not ours.",
        "If it should be, change RULES_FILE and run autoship recheck ID.",
    ),
    (CaseState.SKIPPED, Reason.CANCELLED): ("It was cancelled.", "Nothing to do."),
    (CaseState.SKIPPED, Reason.LEFT_PACKED): (
        "It left Packed without us, for a state we do not know as shipped.",
        "If that state means shipped, name it in SHIPPED_STATUSES.",
    ),
    (CaseState.SKIPPED, Reason.NOT_PACKED): (
        "It was not Packed during the 15 minutes we looked.",
        "Nothing to do: any later webhook opens it again. Or run autoship recheck ID.",
    ),
    (CaseState.SKIPPED, Reason.DISMISSED): (
        "A person dismissed it.",
        "To take it up again: autoship recheck ID.",
    ),
    (CaseState.WOULD_SHIP, None): (
        "Shadow mode: everything passed and no command was sent.",
        "Set MODE=live to ship such packages.",
    ),
    (CaseState.NEEDS_ATTENTION, Reason.REFUSED): (
        "The OMS refused the command as often as we try.",
        "Read the OMS's words in the attempts, remove the cause, then run autoship recheck ID.",
    ),
    (CaseState.NEEDS_ATTENTION, Reason.ACCEPTED_BUT_STILL_PACKED): (
        "The OMS accepted the command and the package is still Packed 15 minutes later.",
        "Look at the package in the OMS. autoship recheck ID allows one more command.",
    ),
    (CaseState.NEEDS_ATTENTION, Reason.OUTCOME_UNKNOWN): (
        "It left Packed after a command of ours, and nothing proves who shipped it.",
        "Look at the package's history in the OMS, then autoship dismiss ID.",
    ),
    (CaseState.NEEDS_ATTENTION, Reason.NOT_FOUND): (
        "A webhook named it, but the OMS does not know it.",
        "Check that the webhooks come from the OMS at OMS_BASE_URL; then autoship recheck ID.",
    ),
    (CaseState.NEEDS_ATTENTION, Reason.BAD_SHAPE): (
        "The OMS shows the package in a form we cannot judge.",
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


def stored(database: Database, package_id: int) -> dict[str, Any] | None:
    """The explanation of a package we know, or None."""
    with database.reading() as transaction:
        row = worklist.find(transaction, package_id)
        if row is None:
            return None
        case = worklist.case_of(row)
        meaning, advice = MEANINGS[case.state, case.reason]
        return _frame(case, _summary(case, meaning), advice.replace("ID", str(package_id))) | {
            "next_check_at": instant(row["due_at"]),
            "attempts": [_attempt(attempt) for attempt in journal.attempt_rows(transaction, package_id)],
            "timeline": _timeline(transaction, package_id),
        }


def unseen(oms: Oms, settings: Settings, package_id: int, now: datetime) -> dict[str, Any]:
    """What would happen to a package no webhook has named: the OMS is read, nothing is stored or commanded.

    Raises `OmsUnreachable` where it gives no usable answer.
    """
    reading = oms.read(package_id)
    case = Case(package_id=package_id)
    if isinstance(reading, NotFound):
        return _unseen(case, "Neither we nor the OMS know this package.", None)
    if not isinstance(reading, PackageSnapshot):
        raise OmsUnreachable(f"package {package_id} was never seen, and the OMS did not show it: {reading}")
    view = View(case=case, settings=settings, now=now, jitter=0.0, shipped_values=settings.shipped_statuses)
    verdict = policy.decide(view, reading)
    would = "ship" if verdict.command or verdict.case.state is CaseState.WOULD_SHIP else "wait"
    if verdict.case.state in policy.CLOSED:
        would = "skip"
    meaning = "Every check passes." if would == "ship" else MEANINGS[verdict.case.state, verdict.case.reason][0]
    return _unseen(verdict.case, f"No webhook has named it. {meaning} We would {would}.", would)


def instant(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with `Z`."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _summary(case: Case, meaning: str) -> str:
    if case.read_problem is None:
        return meaning
    return f"{meaning} The last {case.failed_reads} reads failed: {case.read_problem}."


def _frame(case: Case, summary: str, advice: str) -> dict[str, Any]:
    return {
        "id": case.package_id,
        "state": case.state,
        "reason": case.reason,
        "held": case.held,
        "summary": summary,
        "episode": case.episode,
        "evidence": case.evidence,
        "next_check_at": None,
        "attempts": [],
        "checks": [asdict(check) for check in case.checks],
        "advice": advice,
        "timeline": [],
    }


def _unseen(case: Case, summary: str, would: str | None) -> dict[str, Any]:
    advice = "If it should have been announced, check the webhooks in the OMS." if would else "Check the number."
    return _frame(case, summary, advice) | {"state": None, "reason": None, "episode": 0, "would": would}


def _attempt(row: sa.RowMapping) -> dict[str, Any]:
    names = ("attempt_id", "episode", "transition_id", "slug", "outcome", "http_status", "words", "resolution")
    moments = ("started_at", "answered_at", "resolved_at")
    return {name: row[name] for name in names} | {name: instant(row[name]) for name in moments}


def _timeline(transaction: Transaction, package_id: int) -> list[dict[str, Any]]:
    """Deliveries and everything we noted, oldest first."""
    query = sa.select(deliveries).where(deliveries.c.package_id == package_id)
    entries = [(row["received_at"], "delivery", _delivery(row)) for row in transaction.execute(query).mappings()]
    entries += [(row["at"], row["kind"], row["text"]) for row in journal.timeline_of(transaction, package_id)]
    entries.sort(key=lambda entry: entry[0])
    return [{"at": instant(at), "kind": kind, "text": text} for at, kind, text in entries]


def _delivery(row: sa.RowMapping) -> str:
    fate = row["fate"] if row["reason"] is None else f"{row['fate']}: {row['reason']}"
    repeats = f", seen {row['seen']} times" if row["seen"] > 1 else ""
    return f"{row['event_type']} saying state {row['state_value']} ({fate}{repeats})"
