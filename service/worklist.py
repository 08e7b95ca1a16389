"""The work list: one row for each package, with its due time, its lease and its fence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from service import brakes, journal, logs
from service.case import Attempt, Case, CaseState, Check, Evidence, Reason
from service.database import (
    Database,
    Insert,
    Instant,
    Transaction,
    attempts,
    deliveries,
    login,
    packages,
    sweep,
    workers,
)
from service.database import brakes as brakes_table
from service.wire import StateValue, id_in

MIN_LOOK_INTERVAL = timedelta(seconds=1)
# A little less than the three hours between Istanbul and UTC.
CLOCK_STEP = timedelta(hours=2, minutes=30)
# How much later than ours another transaction, which runs at the same time, may have read the clock.
_SAME_TIME = timedelta(seconds=30)
# States in which a person may say to leave a package alone.
DISMISSIBLE = (CaseState.WAITING, CaseState.WOULD_SHIP, CaseState.NEEDS_ATTENTION)
# What is written at once keeps nobody waiting for long, and stays far below the time that a statement has.
_PAGE = 500
_OMS_TIMES = {"modified_at", "left_modified_at"}
# Instants that may rightly be in the future; all others say when something was.
_PLANNED = {"due_at", "leased_until", "command_not_before", "deadline_at", "probe_at", "hold_off_until", "next_slot_at"}
_FOLLOW_THE_CLOCK = (brakes_table, deliveries, packages, attempts, workers, sweep, login)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on a package, for as long as its lease from `claimed_at` on, and its episode's attempts.

    Every write of its holder names the fence.
    """

    case: Case
    fence: int
    hint_seq: int
    hinted: bool
    claimed_at: datetime
    attempts: tuple[Attempt, ...]


def hint(transaction: Transaction, package_id: int, source: str) -> None:
    """Says "look at this package": soon, but not within a second of the last look.

    Never touches what a command has to wait for, a budget or a held case.
    """
    transaction.wake_workers()
    given = {"package_id": package_id, "source": source, "now": transaction.now}
    transaction.execute(transaction.database.built(_hinting), given)


def hinting(
    database: Database,
    package_id: sa.ColumnElement[int],
    source: sa.ColumnElement[str],
    now: sa.ColumnElement[datetime],
    where: sa.ColumnElement[bool],
) -> Insert:
    """A `hint` as a statement, or as a part of one. Whoever runs that must wake workers."""
    row: dict[str, sa.ColumnElement[Any]] = {"package_id": package_id, "first_hint": source}
    row |= {"state": sa.literal(CaseState.WAITING, sa.Text), "hint_seq": sa.literal(1), "hinted": sa.true()}
    row |= dict.fromkeys(("due_at", "created_at", "changed_at"), now)
    hint = database.insert(packages).from_select(list(row), sa.select(*row.values()).where(where))
    asked_at: sa.ColumnElement[Any] = hint.excluded.due_at
    # A second after the last look; now, if that is past or, after a clock was set back, far away.
    after_last_look = _earlier(packages.c.last_look_at, -MIN_LOOK_INTERVAL)
    near = sa.and_(after_last_look > asked_at, after_last_look <= _earlier(asked_at, -MIN_LOOK_INTERVAL))
    soonest = sa.case((near, after_last_look), else_=asked_at)
    later = sa.or_(packages.c.due_at.is_(None), packages.c.due_at > soonest)
    return hint.on_conflict_do_update(
        index_elements=[packages.c.package_id],
        set_={
            "hint_seq": packages.c.hint_seq + 1,
            "hinted": True,
            "due_at": sa.case((later, soonest), else_=packages.c.due_at),
        },
    )


def put_in_backlog(transaction: Transaction, package_id: int) -> None:
    """A package that no webhook announced waits for `sweep --adopt`, or for its webhook."""
    now = transaction.now
    row = {"package_id": package_id, "first_hint": "sweep", "created_at": now, "changed_at": now}
    row |= {"state": CaseState.WAITING, "reason": Reason.BACKLOG_TO_CONFIRM}
    transaction.execute(transaction.database.insert(packages).values(row).on_conflict_do_nothing())


def backlog(transaction: Transaction) -> Sequence[int]:
    """The packages that wait to be adopted."""
    waiting = (packages.c.state == CaseState.WAITING, packages.c.reason == Reason.BACKLOG_TO_CONFIRM)
    query = sa.select(packages.c.package_id).where(*waiting).order_by(packages.c.package_id)
    return transaction.execute(query).scalars().all()


def found_by_sweep(transaction: Transaction) -> int:
    """How many packages the sweep took up that no webhook had announced before; the backlog apart."""
    backlog = packages.c.reason.is_distinct_from(Reason.BACKLOG_TO_CONFIRM)
    query = sa.select(sa.func.count()).where(packages.c.first_hint == "sweep", backlog)
    return int(transaction.execute(query).scalar_one())


def claim(
    database: Database,
    most: int,
    most_relooks: int,
    lease: timedelta,
    rate_per_s: float,
    *,
    more_expected: bool = False,
) -> tuple[Claim, ...]:
    """Takes up due packages: hinted ones first, the others at most `most_relooks`, oldest due first.

    So retries never take the rate from first looks; the OMS's echo of a command hints at what waits for its read-back.
    The rate is taken here, so a package taken up can finish. Packages whose lease ran out are due again. Where none
    is due, as it is most of the time, that takes one statement and no lock; not asked where `more_expected`.
    """
    if not more_expected and not _anything_due(database):
        return ()
    with database.transaction() as transaction:
        found = brakes.read(transaction, lock=True)
        due = _due(transaction, hinted=True, most=most)
        due += _due(transaction, hinted=False, most=min(most - len(due), most_relooks))
        if not due:
            return ()
        allowed = brakes.admit(transaction, found, due, rate_per_s)
        return _take(transaction, allowed, lease) if allowed else ()


def release(transaction: Transaction, claimed: Claim, case: Case, next_look_at: datetime | None) -> bool:
    """Gives a package back with its new case. False where the fence is not ours any more: nothing was written.

    A hint that came meanwhile makes it due at once.
    """
    changed = _columns(case) | {
        "changed_at": transaction.now,
        "seen_hint_seq": claimed.hint_seq,
        "next_look_at": next_look_at,
        "hinted_look_at": transaction.now + MIN_LOOK_INTERVAL,
    }
    return transaction.execute(_RELEASED, changed | _ours(claimed)).rowcount == 1


def renew(transaction: Transaction, claimed: Claim, case: Case, lease: timedelta) -> bool:
    """Writes the case and extends a lease that still runs. False where it does not, or is not ours."""
    now = transaction.now
    changed = _columns(case) | {"changed_at": now, "leased_until": now + lease, "now": now}
    return transaction.execute(_RENEWED, changed | _ours(claimed)).rowcount == 1


def find(transaction: Transaction, package_id: int) -> sa.RowMapping | None:
    """The whole row of a package."""
    return transaction.execute(_ROW, {"package_id": package_id}).mappings().first()


def cases_of(transaction: Transaction, package_ids: Sequence[int]) -> dict[int, Case]:
    """The cases of those packages that we know."""
    found = transaction.execute(sa.select(packages).where(packages.c.package_id.in_(package_ids))).mappings()
    return {row["package_id"]: case_of(row) for row in found}


def listed(
    transaction: Transaction, state: str | None, reason: str | None, after: int = 0, limit: int = 100
) -> list[sa.RowMapping]:
    """Rows by package id, beginning behind `after`."""
    query = sa.select(packages).where(packages.c.package_id > after).order_by(packages.c.package_id).limit(limit)
    if state is not None:
        query = query.where(packages.c.state == state)
    if reason is not None:
        query = query.where(packages.c.reason == reason)
    return list(transaction.execute(query).mappings())


def found_by_number(transaction: Transaction, text: str, limit: int) -> list[sa.RowMapping]:
    """Packages with this number, of this order or, where it is a number, with this id."""
    same = [packages.c.number == text, packages.c.order_number == text]
    if (package_id := id_in(text)) is not None:
        same.append(packages.c.package_id == package_id)
    query = sa.select(packages).where(sa.or_(*same)).order_by(packages.c.package_id).limit(limit)
    return list(transaction.execute(query).mappings())


def recheck(transaction: Transaction, package_id: int, reason: str | None = None) -> bool:
    """An operator's word: look again with fresh budgets, held or not. False for a package never seen.

    With `reason`, only while it stands there for that. One whose command is under way goes on standing there for that,
    so that nobody can dismiss it meanwhile.
    """
    transaction.wake_workers()
    stays = packages.c.state.in_([CaseState.SHIPPING, CaseState.SHIPPED, CaseState.ALREADY_SHIPPED])
    changed = (
        sa.update(packages)
        .where(packages.c.package_id == package_id)
        .values(
            state=sa.case((stays, packages.c.state), else_=CaseState.WAITING),
            reason=sa.case((stays, packages.c.reason), else_=None),
            held=False,
            refusals=0,
            looking_since=None,
            looks=0,
            failed_reads=0,
            command_not_before=None,
            # A person has seen that it is in Packed, whatever the dates say.
            left_modified_at=sa.case((stays, packages.c.left_modified_at), else_=None),
            modified_at=None,
            # Whoever works on it with the old budgets must not write them back.
            fence=packages.c.fence + 1,
            leased_until=None,
            hint_seq=packages.c.hint_seq + 1,
            hinted=True,
            due_at=transaction.now,
            changed_at=transaction.now,
        )
    )
    if reason is not None:
        changed = changed.where(packages.c.reason == reason)
    return transaction.execute(changed).rowcount == 1


def dismiss(transaction: Transaction, package_id: int, reason: str | None = None) -> bool:
    """An operator's word: leave this package alone for this episode. False where there is no open case.

    With `reason`, only while it stands there for that. A look that is due stays due: it commands nothing, and tells
    what became of an earlier command.
    """
    in_backlog = packages.c.reason == Reason.BACKLOG_TO_CONFIRM
    is_open = attempts.c.package_id == packages.c.package_id, attempts.c.resolution.is_(None)
    # Rechecked during a command that did nothing, and nobody has looked since.
    is_idle = sa.and_(packages.c.state == CaseState.SHIPPING, ~sa.exists().where(*is_open))
    changed = (
        sa.update(packages)
        .where(packages.c.package_id == package_id)
        .where(sa.or_(packages.c.state.in_(DISMISSIBLE), is_idle))
        .values(
            state=CaseState.SKIPPED,
            reason=Reason.DISMISSED,
            held=True,
            # Listed as Packed: it is this stay that the word is about, and a read elsewhere is its end.
            packed_since=sa.case((in_backlog, sa.literal(transaction.now, Instant())), else_=packages.c.packed_since),
            episode=sa.case((in_backlog, packages.c.episode + 1), else_=packages.c.episode),
            # Read as Packed again meanwhile: the same.
            left_packed_at=sa.case((packages.c.repacked_at.is_(None), packages.c.left_packed_at), else_=None),
            fence=packages.c.fence + 1,
            leased_until=None,
            changed_at=transaction.now,
        )
    )
    if reason is not None:
        changed = changed.where(packages.c.reason == reason)
    return transaction.execute(changed).rowcount == 1


def look_at_held_back(database: Database) -> None:
    """Makes every package that a brake held back due now, a page at a time: it may be what came in days."""
    held_back = (packages.c.state == CaseState.WAITING, packages.c.reason == Reason.BRAKE)
    page = sa.select(packages.c.package_id).where(*held_back).order_by(packages.c.package_id).limit(_PAGE)
    page = page.with_for_update()
    found: Sequence[int] = (0,)
    while found:
        with database.transaction() as transaction:
            found = transaction.execute(page.where(packages.c.package_id > found[-1])).scalars().all()
            # By their ids alone: what else is known of them misleads a planner whose statistics are of before.
            due_now = sa.update(packages).where(packages.c.package_id.in_(found)).values(due_at=transaction.now)
            transaction.execute(due_now)
            transaction.wake_workers()


def is_due(now: datetime | sa.ColumnElement[Any]) -> tuple[sa.ColumnElement[bool], ...]:
    """The condition for being due and in nobody's hands."""
    free = sa.or_(packages.c.leased_until.is_(None), packages.c.leased_until <= now)
    return packages.c.due_at <= now, free


def follow_clock(transaction: Transaction) -> timedelta | None:
    """Finds that the database's clock was set back, by heartbeats of the future, and takes every time along.

    By how much, or None. What says when something was is of the clock before if it is in the future. What is planned
    is so if it is further away than half a step: nothing is put off by more than half of the least step that is
    noticed.
    """
    now = transaction.now
    last_heartbeat: datetime | None = transaction.execute(sa.select(sa.func.max(workers.c.seen_at))).scalar()
    if last_heartbeat is None or last_heartbeat - now < CLOCK_STEP:
        return None
    transaction.take_time()
    # Where no worker ran for a while before, others wrote the latest time of that clock.
    step = max(filter(None, (_latest(transaction, table) for table in _FOLLOW_THE_CLOCK))) - now
    for table in _FOLLOW_THE_CLOCK:
        ahead = {
            column.name: column > now + (step / 2 if column.name in _PLANNED else _SAME_TIME)
            for column in _our_times(table)
        }
        earlier = {
            name: sa.case((is_ahead, _earlier(table.c[name], step)), else_=table.c[name])
            for name, is_ahead in ahead.items()
        }
        transaction.execute(sa.update(table).where(sa.or_(*ahead.values())).values(earlier))
    return step


def _our_times(table: sa.Table) -> list[sa.Column[Any]]:
    return [column for column in table.c if isinstance(column.type, Instant) and column.name not in _OMS_TIMES]


def _latest(transaction: Transaction, table: sa.Table) -> datetime | None:
    """When something was last written into a table."""
    past = [sa.func.max(column) for column in _our_times(table) if column.name not in _PLANNED]
    return max(filter(None, transaction.execute(sa.select(*past)).one()), default=None) if past else None


def _earlier(column: sa.ColumnElement[Any], step: timedelta) -> sa.ColumnElement[Any]:
    step_us = step // timedelta(microseconds=1)
    return sa.type_coerce(sa.type_coerce(column, sa.BigInteger) - step_us, Instant())


def case_of(row: sa.RowMapping) -> Case:
    """The case in a row of `packages`."""
    values = {name: row[name] for name in ("package_id", *_SAME_NAMED)} | {
        "state": CaseState(row["state"]),
        "reason": None if row["reason"] is None else Reason(row["reason"]),
        "evidence": None if row["evidence"] is None else Evidence(row["evidence"]),
    }
    state_value = row["state_value"]
    seen = None if state_value is None else StateValue(row["state_class"], state_value)
    return Case(**values, state_seen=seen, checks=tuple(Check(**check) for check in row["checks"]))


_OTHERS = {"package_id", "state_seen", "checks"}
_SAME_NAMED = tuple(one.name for one in dataclasses.fields(Case) if one.name not in _OTHERS)


def _columns(case: Case) -> dict[str, Any]:
    columns: dict[str, Any] = {name: getattr(case, name) for name in _SAME_NAMED}
    return columns | {
        "state_class": case.state_seen.enum_class if case.state_seen else None,
        "state_value": case.state_seen.value if case.state_seen else None,
        "checks": [{name: getattr(check, name) for name in Check.__slots__} for check in case.checks],
    }


def _anything_due(database: Database) -> bool:
    with database.reading() as transaction:
        return transaction.execute(database.built(_one_due)).first() is not None


def _one_due(database: Database) -> sa.Executable:
    either = packages.c.hinted.in_([True, False])
    return sa.select(packages.c.package_id).where(either, *is_due(database.time)).limit(1)


def _due(transaction: Transaction, *, hinted: bool, most: int) -> list[int]:
    if most <= 0:
        return []
    found = transaction.execute(_DUE, {"hinted": hinted, "now": transaction.now, "most": most})
    return list(found.scalars())


def _take(transaction: Transaction, package_ids: Sequence[int], lease: timedelta) -> tuple[Claim, ...]:
    leased = {"package_ids": package_ids, "leased_until": transaction.now + lease}
    taken = transaction.execute(_TAKEN, leased).mappings().all()
    commanded = [row["package_id"] for row in taken if row["episode"] > 0]  # there is no attempt outside an episode
    sent = journal.attempts_of(transaction, commanded) if commanded else ()
    return tuple(claimed for row in taken if (claimed := _claim_of(row, sent, transaction.now)) is not None)


def _claim_of(row: sa.RowMapping, sent: Sequence[sa.RowMapping], now: datetime) -> Claim | None:
    """None for a row this version cannot read, as a newer one may write: it must not hold up the others."""
    try:
        case = case_of(row)
        of_episode = journal.of_episode(sent, case.package_id, case.episode)
        return Claim(case, row["fence"], row["hint_seq"], row["hinted"], now, of_episode)
    except (TypeError, ValueError) as problem:
        trace = logs.trace_of(problem)
        logs.LOOK_CRASHED.emit(where="claim", package_id=row["package_id"], error=type(problem).__name__, trace=trace)
        return None


def _hinting(database: Database) -> sa.Executable:
    package_id, source = sa.bindparam("package_id", type_=sa.BigInteger), sa.bindparam("source", type_=sa.Text)
    return hinting(database, package_id, source, _instant("now"), sa.true())


def _instant(name: str) -> sa.BindParameter[datetime]:
    return sa.bindparam(name, type_=Instant())


def _ours(claimed: Claim) -> dict[str, int]:
    return {"mine": claimed.case.package_id, "my_fence": claimed.fence}


_ROW = sa.select(packages).where(packages.c.package_id == sa.bindparam("package_id"))
_DUE = (
    sa.select(packages.c.package_id)
    .where(packages.c.hinted == sa.bindparam("hinted"), *is_due(_instant("now")))
    .order_by(packages.c.due_at)
    .limit(sa.bindparam("most", type_=sa.BigInteger))
    .with_for_update(skip_locked=True)
)
_TAKEN = (
    sa.update(packages)
    .where(packages.c.package_id.in_(sa.bindparam("package_ids", expanding=True)))
    .values(fence=packages.c.fence + 1)
    .returning(packages)
)
_WITH_MY_FENCE = sa.update(packages).where(
    packages.c.package_id == sa.bindparam("mine"), packages.c.fence == sa.bindparam("my_fence")
)
_RENEWED = _WITH_MY_FENCE.where(packages.c.leased_until > _instant("now"))
_UNHINTED = packages.c.hint_seq == sa.bindparam("seen_hint_seq")
_RELEASED = _WITH_MY_FENCE.values(
    due_at=sa.case((_UNHINTED, _instant("next_look_at")), else_=_instant("hinted_look_at")),
    hinted=sa.case((_UNHINTED, sa.false()), else_=sa.true()),
    leased_until=None,
)
