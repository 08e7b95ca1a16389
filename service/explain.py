"""Why a package is where it is: one function for the command line, the API and the console."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from service import brakes, journal, policy, worklist
from service.brakes import Brakes
from service.case import CLOSED, MEANINGS, Case, CaseState, Evidence, Outcome, Reason, Settings
from service.database import Database, Transaction, deliveries, deployment, workers
from service.diagnosis import WORKER_SILENT
from service.errors import OmsUnreachable
from service.oms import Oms, why_unread
from service.outcome import BadShape, NotFound
from service.policy import Verdict, View
from service.snapshot import PackageSnapshot

# What makes us say that a package is shipped.
PROOFS: Mapping[Evidence, str] = {
    Evidence.READ_BACK: "Shipped by us: the OMS accepted our command, then the package left Packed.",
    Evidence.EVENT: "Shipped: a signed webhook said so after our command.",
    Evidence.TRANSITION_LOG: "Shipped by us: the OMS's transition log names our transition.",
}
_START_A_WORKER = "Start a worker (autoship worker), or restart the one that hangs. Nothing is lost meanwhile."
_NOT_ALONE = "Shipped by us, or by somebody at the same moment: our command's own answer proves nothing."

TABLE_HEADER = f"{'PACKAGE':>10}  {'NUMBER':<12} {'STATE':<16} {'REASON':<25} MEANING"


def stored(database: Database, package_id: int) -> dict[str, Any] | None:
    """The explanation of a package we know, or None."""
    with database.reading() as transaction:
        row = worklist.find(transaction, package_id)
        if row is None:
            return None
        case = worklist.case_of(row)
        attempts = [_attempt(attempt) for attempt in journal.attempts_of(transaction, [package_id])]
        found = brakes.read(transaction)
        held_back = _held_back(case, row, found, transaction.now)
        advice = found.advice(transaction.now) if held_back else MEANINGS[case.state, case.reason][1]
        summary = _summary(case, attempts, held_back)
        if _next_look(row) is not None and _no_worker(transaction):
            summary = f"{summary} No worker was seen for a minute, so nobody looks at it."
            advice = f"{_START_A_WORKER} {advice}" if held_back else _START_A_WORKER
        return _frame(case, summary, _advice(advice, package_id)) | {
            "next_check_at": _next_look(row),
            "attempts": attempts,
            "timeline": _timeline(transaction, package_id),
        }


def unseen(database: Database, oms: Oms, settings: Settings, package_id: int) -> dict[str, Any]:
    """What would happen to a package nothing asked us to look at: the OMS is read, nothing is stored or commanded.

    Raises `OmsUnreachable` where it gives no answer to judge.
    """
    with database.reading() as transaction:
        now, deliveries_of_it = transaction.now, _timeline(transaction, package_id)
        shipped_values = settings.shipped_statuses or journal.shipped_values_learned(transaction)
    reading, case = oms.read(package_id), Case(package_id=package_id)
    match reading:
        case PackageSnapshot():
            view = View(case=case, settings=settings, now=now, jitter=0.0, shipped_values=shipped_values)
            told = _projected(policy.decide(view, reading))
        case NotFound():
            told = _unseen(case, "Neither we nor the OMS know it.", "Check the number.", None)
        case BadShape():
            told = _unseen(case, f"We cannot judge it: {reading.problem}.", "Look at it in the OMS.", "wait")
        case _:
            raise OmsUnreachable(
                f"package {package_id} is new to us, and the OMS did not show it: {why_unread(reading)}"
            )
    return told | {"timeline": deliveries_of_it}


def listed(row: sa.RowMapping) -> dict[str, Any]:
    """One package of a list, for programs."""
    names = ("state", "reason", "held", "evidence", "episode", "number")
    return {"id": row["package_id"], **{name: row[name] for name in names}, "next_check_at": _next_look(row)}


def meaning_of(row: sa.RowMapping) -> tuple[str, str]:
    """What the state of a package's row means, and what to do."""
    reason = None if row["reason"] is None else Reason(row["reason"])
    meaning, advice = MEANINGS[CaseState(row["state"]), reason]
    return meaning, _advice(advice, row["package_id"])


def table_line(row: sa.RowMapping) -> str:
    """One package in a line under `TABLE_HEADER`."""
    meaning, _ = meaning_of(row)
    number, reason = row["number"] or "", row["reason"] or ""
    return f"{row['package_id']:>10}  {number:<12} {row['state']:<16} {reason:<25} {meaning}"


def instant(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with `Z`."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _next_look(row: sa.RowMapping) -> str | None:
    """That a dismissed package is looked at once more to see it leave Packed is none that anybody waits for."""
    return None if row["reason"] == Reason.DISMISSED else instant(row["due_at"])


def _no_worker(transaction: Transaction) -> bool:
    """Whether no worker was seen lately; where none ever was, since the database was made."""
    seen_at = sa.func.coalesce(sa.func.max(workers.c.seen_at), sa.func.max(deployment.c.migrated_at))
    query = sa.select(seen_at).select_from(deployment.outerjoin(workers, sa.true()))
    return bool(transaction.now - transaction.execute(query).scalar_one() >= WORKER_SILENT)


def _held_back(case: Case, row: sa.RowMapping, found: Brakes, now: datetime) -> str | None:
    """What keeps a command from it that it waits for, or a look. A pause keeps nobody from looking."""
    if _waits_for_command(case):
        return found.against_command(case.package_id, now)
    settled = case.state in (CaseState.SHIPPED, CaseState.ALREADY_SHIPPED) or _next_look(row) is None
    return None if settled else found.against_look(now)


def _waits_for_command(case: Case) -> bool:
    return case.state is CaseState.WAITING and case.reason in (None, Reason.BRAKE)


def _summary(case: Case, attempts: Sequence[Mapping[str, Any]], held_back: str | None) -> str:
    if case.state is CaseState.SHIPPED and case.evidence is not None:
        accepted = bool(attempts) and attempts[-1]["outcome"] == Outcome.ACCEPTED
        return PROOFS[case.evidence] if accepted or case.evidence is not Evidence.READ_BACK else _NOT_ALONE
    meaning = MEANINGS[case.state, case.reason][0]
    if case.reason is Reason.CONFIRMING and attempts:
        answered = "accepted" if attempts[-1]["outcome"] == Outcome.ACCEPTED else "refused"
        meaning = f"The OMS {answered} the command ({attempts[-1]['http_status']}); the package is read back."
    if held_back is not None and not _waits_for_command(case):
        meaning = f"{meaning} No package is looked at now: {held_back}."
    elif held_back is not None:
        waits = "It is eligible, but" if case.reason else "It is to be looked at, and"
        meaning = f"{waits} commands are held back: {held_back}."
    if case.read_problem is None:
        return meaning
    reads = "read" if case.failed_reads == 1 else f"{case.failed_reads} reads"
    return f"{meaning} The last {reads} failed: {case.read_problem}."


def _advice(advice: str, package_id: int) -> str:
    return re.sub(r"\bID\b", str(package_id), advice)


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


def _projected(verdict: Verdict) -> dict[str, Any]:
    """What the first look at a package would come to."""
    case = verdict.case
    advice = "If it should have been announced, check the webhooks in the OMS."
    if verdict.command is not None or case.state is CaseState.WOULD_SHIP:
        taking_up = f"autoship recheck {case.package_id} takes it up now."
        return _unseen(case, "Every check passes.", f"{taking_up} {advice}", "ship")
    would = "skip" if case.state in CLOSED else "wait"
    unreadable = f"We cannot judge it: {case.read_problem}."
    return _unseen(case, unreadable if case.read_problem else MEANINGS[case.state, case.reason][0], advice, would)


def _unseen(case: Case, meaning: str, advice: str, would: str | None) -> dict[str, Any]:
    nothing_stored = {"state": None, "reason": None, "held": False, "episode": 0, "evidence": None}
    summary = f"Nothing has asked us to look at it. {meaning}"
    return _frame(case, summary, advice) | nothing_stored | {"would": would}


def _attempt(row: sa.RowMapping) -> dict[str, Any]:
    names = ("attempt_id", "episode", "transition_id", "slug", "outcome", "http_status", "words", "resolution")
    moments = ("started_at", "answered_at", "resolved_at")
    return {name: row[name] for name in names} | {name: instant(row[name]) for name in moments}


def _timeline(transaction: Transaction, package_id: int) -> list[dict[str, Any]]:
    """The newest deliveries and notes, oldest first."""
    newest = deliveries.c.received_at.desc()
    query = sa.select(deliveries).where(deliveries.c.package_id == package_id).order_by(newest).limit(journal.MAX_TOLD)
    entries = [(row["received_at"], "delivery", _delivery(row)) for row in transaction.execute(query).mappings()]
    entries += [(row["at"], row["kind"], row["text"]) for row in journal.timeline_of(transaction, package_id)]
    entries.sort(key=lambda entry: entry[0])
    return [{"at": instant(at), "kind": kind, "text": text} for at, kind, text in entries]


def _delivery(row: sa.RowMapping) -> str:
    fate = row["fate"] if row["reason"] is None else f"{row['fate']}: {row['reason']}"
    repeats = f", seen {row['seen']} times" if row["seen"] > 1 else ""
    said = "no state" if row["state_value"] is None else f"state {row['state_value']}"
    return f"{row['event_type'] or 'an event without a type'} saying {said} ({fate}{repeats})"
