"""Attempts and the timeline: what was done, written before it is done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

import sqlalchemy as sa

from service.case import Attempt, Case, CaseState, Note, Outcome, Resolution
from service.database import Transaction, attempts, learned_shipped, timeline
from service.outcome import Accepted, Command, CommandAnswer, Refused, Unauthorised

PACKAGES_TO_LEARN_FROM = 3
MAX_TOLD = 1000
# Stands where the package would in the timeline of the service itself.
SERVICE = 0

_OF_PACKAGES = (
    sa.select(attempts)
    .where(attempts.c.package_id.in_(sa.bindparam("package_ids", expanding=True)))
    .order_by(attempts.c.attempt_id)
)
_NEW = ("package_id", "episode", "fence", "transition_id", "slug", "started_at", "deadline_at")
_OPEN = sa.exists().where(
    attempts.c.package_id == sa.bindparam("package_id"),
    attempts.c.episode == sa.bindparam("episode"),
    attempts.c.resolution.is_(None),
)
_OPENED = (
    sa.insert(attempts)
    .from_select(_NEW, sa.select(*(sa.bindparam(name, type_=attempts.c[name].type) for name in _NEW)).where(~_OPEN))
    .returning(attempts.c.attempt_id)
)
_RESOLVED = sa.update(attempts).where(attempts.c.attempt_id == sa.bindparam("mine"))
_UNRESOLVED = attempts.c.resolution.is_(None)
_ANSWERED = _RESOLVED.where(_UNRESOLVED)
_NEWER = attempts.alias("newer")
_IS_NEWEST = ~sa.exists().where(
    _NEWER.c.package_id == attempts.c.package_id, _NEWER.c.attempt_id > attempts.c.attempt_id
)
_ACCEPTED = _RESOLVED.where(sa.or_(_UNRESOLVED, sa.and_(attempts.c.resolution == Resolution.NOT_APPLIED, _IS_NEWEST)))
_AS_SEEN = _RESOLVED.where(attempts.c.outcome.is_not_distinct_from(sa.bindparam("seen_outcome", type_=sa.Text)))
_READ_BACK = _RESOLVED.values(read_backs=attempts.c.read_backs + 1)
_NOTED = sa.insert(timeline).inline()  # nobody needs the key
_LEARNED = (
    sa.select(learned_shipped.c.state_value)
    .group_by(learned_shipped.c.state_value)
    .having(sa.func.count() >= PACKAGES_TO_LEARN_FROM)
)


def attempts_of(transaction: Transaction, package_ids: Sequence[int]) -> Sequence[sa.RowMapping]:
    """All attempts of some packages with the OMS's words, oldest first."""
    return transaction.execute(_OF_PACKAGES, {"package_ids": package_ids}).mappings().all()


def of_episode(rows: Iterable[sa.RowMapping], package_id: int, episode: int) -> tuple[Attempt, ...]:
    """The attempts of one episode of a package among these rows.

    Raises `ValueError` for what this version cannot read.
    """
    wanted = (package_id, episode)
    return tuple(_attempt(row) for row in rows if (row["package_id"], row["episode"]) == wanted)


def open_attempt(
    transaction: Transaction, case: Case, fence: int, command: Command, deadline: timedelta
) -> Attempt | None:
    """The row of an attempt that is about to be sent, or None where one of the case's episode is open already."""
    now = transaction.now
    row = {
        "package_id": case.package_id,
        "episode": case.episode,
        "fence": fence,
        "transition_id": command.transition_id,
        "slug": command.slug,
        "started_at": now,
        "deadline_at": now + deadline,
    }
    opened = transaction.execute(_OPENED, row).scalar()
    if opened is None:
        return None
    return Attempt(attempt_id=opened, command=command, started_at=now, deadline_at=now + deadline)


def record_answer(transaction: Transaction, attempt: Attempt, answer: CommandAnswer) -> None:
    """Writes what the OMS answered; `attempt` carries the outcome already.

    Not where reads have settled the attempt meanwhile: what they proved stands. But that it was not applied is no
    proof against a 2xx that comes late: no second command may follow that one.
    """
    answered = {
        "answered_at": transaction.now,
        "outcome": attempt.outcome,
        "concluded": attempt.concluded,
        "resolution": attempt.resolution,
        "resolved_at": None if attempt.resolution is None else transaction.now,
        "http_status": getattr(answer, "status", None),
        "words": answer.words if isinstance(answer, Refused | Unauthorised) else None,
    }
    statement = _ACCEPTED if isinstance(answer, Accepted) else _ANSWERED
    transaction.execute(statement, answered | {"mine": attempt.attempt_id})


def record_read_back(transaction: Transaction, attempt: Attempt, resolution: Resolution | None) -> bool:
    """Counts a read-back, or closes the attempt with what reads proved.

    False, and nothing was written, where whoever sent it has written its answer meanwhile.
    """
    mine = {"mine": attempt.attempt_id}
    if resolution is None:
        transaction.execute(_READ_BACK, mine)
        return True
    seen = {"seen_outcome": attempt.outcome, "resolution": resolution, "resolved_at": transaction.now}
    return transaction.execute(_AS_SEEN, mine | seen).rowcount == 1


def give_up_open(transaction: Transaction, package_id: int) -> None:
    """An operator looks into it: what an open attempt that was answered did stays unknown."""
    given_up = {"resolution": Resolution.UNKNOWN, "resolved_at": transaction.now}
    where = (attempts.c.package_id == package_id, attempts.c.resolution.is_(None))
    transaction.execute(sa.update(attempts).where(*where, attempts.c.outcome.is_not(None)).values(**given_up))


def sends_since(transaction: Transaction, since: datetime) -> int:
    """How many commands were sent, or may have been, at or after an instant."""
    sent = attempts.c.outcome.is_distinct_from(Outcome.NOT_SENT)
    query = sa.select(sa.func.count()).where(attempts.c.started_at >= since, sent)
    return int(transaction.execute(query).scalar_one())


def note(transaction: Transaction, package_id: int, notes: Iterable[Note]) -> None:
    """Appends to the package's timeline."""
    rows = [{"package_id": package_id, "at": transaction.now, "kind": one.kind, "text": one.text} for one in notes]
    if rows:
        transaction.execute(_NOTED, rows if len(rows) > 1 else rows[0])


def timeline_of(transaction: Transaction, package_id: int) -> Sequence[sa.RowMapping]:
    """The package's newest `MAX_TOLD` timeline entries, oldest first."""
    newest = timeline.c.entry_id.desc()
    query = sa.select(timeline).where(timeline.c.package_id == package_id).order_by(newest).limit(MAX_TOLD)
    return transaction.execute(query).mappings().all()[::-1]


def needed_a_person_at(transaction: Transaction, package_ids: Sequence[int]) -> dict[int, datetime]:
    """When each of these packages last came to need a person, as far as the timeline goes back."""
    into = timeline.c.package_id.in_(package_ids), timeline.c.kind.like(f"{CaseState.NEEDS_ATTENTION}/%")
    query = sa.select(timeline.c.package_id, sa.func.max(timeline.c.at).label("at")).where(*into)
    found = transaction.execute(query.group_by(timeline.c.package_id)).mappings()
    return {row["package_id"]: row["at"] for row in found}


def newest_of_service(transaction: Transaction, limit: int) -> Sequence[sa.RowMapping]:
    """The service's own timeline, newest first."""
    query = sa.select(timeline).where(timeline.c.package_id == SERVICE).order_by(timeline.c.at.desc()).limit(limit)
    return transaction.execute(query).mappings().all()


def learn_shipped(transaction: Transaction, package_id: int, state_value: str) -> None:
    """Remembers what a package showed on the first read-back after a clean 2xx.

    Once for each package, also where a holder that lost its lease learns the same at the same moment.
    """
    shown = sa.select(sa.func.count()).where(learned_shipped.c.state_value == state_value)
    if transaction.execute(shown).scalar_one() < PACKAGES_TO_LEARN_FROM:
        row = {"package_id": package_id, "state_value": state_value, "at": transaction.now}
        transaction.execute(transaction.database.insert(learned_shipped).values(row).on_conflict_do_nothing())


def shipped_values_learned(transaction: Transaction) -> frozenset[str]:
    """State values that enough packages showed right after our command."""
    return frozenset(transaction.execute(_LEARNED).scalars())


def _attempt(row: sa.RowMapping) -> Attempt:
    outcome, resolution = row["outcome"], row["resolution"]
    return Attempt(
        attempt_id=row["attempt_id"],
        command=Command(row["transition_id"], row["slug"]),
        started_at=row["started_at"],
        deadline_at=row["deadline_at"],
        answered_at=row["answered_at"],
        outcome=None if outcome is None else Outcome(outcome),
        concluded=row["concluded"],
        resolution=None if resolution is None else Resolution(resolution),
        read_backs=row["read_backs"],
    )
