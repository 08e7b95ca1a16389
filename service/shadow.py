"""The shadow report: what would have been shipped, against what people did.

It rests on the timeline, which keeps every entry into and out of `would_ship` for `RETENTION_DAYS`, and on what the
last read of a package showed. When a package left Packed is known as exactly as we looked.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from itertools import groupby
from typing import Any

import sqlalchemy as sa

from service import explain, journal, operator
from service.case import CaseState, Reason, Settings
from service.database import Database, packages, timeline


class Fate(StrEnum):
    """What became of a package that would have been shipped."""

    AGREED = "agreed"
    DISAGREED = "disagreed"
    STILL_PACKED = "still_packed"
    # Something came in between before anybody acted: an item was taken back, live mode shipped it, and the like.
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Compared:
    """One time that a package would have been shipped, and what happened then."""

    package_id: int
    would_ship_at: datetime
    fate: Fate = Fate.STILL_PACKED
    ended_at: datetime | None = None
    what: str = ""


def compare(package_id: int, entries: Iterable[Mapping[Any, Any]], *, last_seen_shipped: bool) -> list[Compared]:
    """Every time this package would have been shipped. `entries` are its timeline, oldest first.

    `last_seen_shipped`: the last read showed a value that is known as shipped by now, perhaps not yet when it left.
    """
    told: list[Compared] = []
    for entry in entries:
        before = told[-1].fate if told else None
        if entry["kind"] == CaseState.WOULD_SHIP:
            if before is not Fate.STILL_PACKED:
                told.append(Compared(package_id, entry["at"]))
        elif before is not None and (after := _fate(before, entry)) is not before:
            told[-1] = replace(told[-1], fate=after, ended_at=entry["at"], what=entry["text"])
    if told and last_seen_shipped and told[-1].fate is Fate.DISAGREED:
        told[-1] = replace(told[-1], fate=Fate.AGREED)
    return told


def _fate(before: Fate, entry: Mapping[Any, Any]) -> Fate:
    """What an entry makes of it. Who dismissed a package may have shipped it later all the same."""
    state, _, reason = entry["kind"].partition("/")
    if state == CaseState.ALREADY_SHIPPED and before in (Fate.STILL_PACKED, Fate.DISAGREED):
        return Fate.AGREED
    if before is not Fate.STILL_PACKED:
        return before
    dismissed = entry["kind"] == "operator" and entry["text"].startswith(operator.DISMISSED)
    if dismissed or (state == CaseState.SKIPPED and reason in (Reason.LEFT_PACKED, Reason.CANCELLED)):
        return Fate.DISAGREED
    return Fate.WITHDRAWN if state in set(CaseState) or entry["kind"] == "command" else before


def report(database: Database, settings: Settings) -> list[Compared]:
    """The comparison for all packages the timeline still tells of. Raises `DatabaseUnavailable`."""
    shadowed = sa.select(timeline.c.package_id).where(timeline.c.kind == CaseState.WOULD_SHIP)
    query = (
        sa.select(timeline, packages.c.state_value)
        .join(packages, packages.c.package_id == timeline.c.package_id)
        .where(timeline.c.package_id.in_(shadowed))
        .order_by(timeline.c.package_id, timeline.c.entry_id)
    )
    found: list[Compared] = []
    with database.reading() as transaction:
        shipped_values = settings.shipped_statuses or journal.shipped_values_learned(transaction)
        for package_id, rows in groupby(transaction.execute(query).mappings(), lambda row: row["package_id"]):
            history = list(rows)
            found += compare(package_id, history, last_seen_shipped=history[0]["state_value"] in shipped_values)
    return found


def summary(compared: Sequence[Compared]) -> dict[str, Any]:
    """The report for programs."""
    agreed = [one for one in compared if one.fate is Fate.AGREED]
    saved = [(one.ended_at - one.would_ship_at).total_seconds() for one in agreed if one.ended_at]
    return {
        "would_ship": len(compared),
        **{fate: sum(one.fate is fate for one in compared) for fate in Fate},
        "since": explain.instant(min((one.would_ship_at for one in compared), default=None)),
        "saved_s": {"total": sum(saved), "median": statistics.median(saved) if saved else None},
        "disagreements": [_disagreement(one) for one in compared if one.fate is Fate.DISAGREED],
    }


def _disagreement(one: Compared) -> Mapping[str, Any]:
    ended_at = explain.instant(one.ended_at)
    return {"id": one.package_id, "would_ship_at": explain.instant(one.would_ship_at), "at": ended_at, "what": one.what}
