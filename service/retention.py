"""What is deleted when it is old, so that no table grows for ever.

Deleting may cause a look, never a command: package rows, open attempts, the last attempt of an episode and all attempts
of a case that is not closed stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from service.case import CLOSED
from service.database import Database, attempts, deliveries, packages, quarantine, timeline
from service.inbox import QUARANTINE_AGE

PAGE = 500
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class _Kind:
    """Rows of one table: walked by `key`, which grows with `at`, and deleted where `doomed` holds."""

    key: sa.Column[int]
    at: sa.Column[datetime]
    before: datetime
    doomed: sa.ColumnElement[bool]


def prune(database: Database, keep: timedelta, pause: Callable[[float], bool]) -> Mapping[str, int]:
    """Deletes what is older than `keep`, a page at a time, so that nobody waits for it.

    How many rows of each table. `pause(seconds)` is True once it is to stop. Raises `DatabaseUnavailable`; what was
    deleted until then stays deleted.
    """
    with database.reading() as transaction:
        kinds = tuple(_kinds(transaction.now, keep))
    deleted = {kind.key.table.name: 0 for kind in kinds}
    for kind in kinds:
        for count in _delete(database, kind):
            deleted[kind.key.table.name] += count
            if pause(_PAUSE_S):
                return deleted
    return deleted


def _kinds(now: datetime, keep: timedelta) -> Iterator[_Kind]:
    # A body goes before its delivery, whose number SQLite may give to another one then.
    bodies_before = now - min(keep, QUARANTINE_AGE)
    old_body = quarantine.c.received_at < bodies_before
    yield _Kind(quarantine.c.delivery_id, quarantine.c.received_at, bodies_before, old_body)
    before = now - keep
    without_body = deliveries.c.delivery_id.not_in(sa.select(quarantine.c.delivery_id))
    old_delivery = sa.and_(deliveries.c.last_seen_at < before, without_body)
    yield _Kind(deliveries.c.delivery_id, deliveries.c.received_at, before, old_delivery)
    yield _Kind(timeline.c.entry_id, timeline.c.at, before, timeline.c.at < before)
    yield _Kind(attempts.c.attempt_id, attempts.c.started_at, before, _old_attempt(before))


def _old_attempt(before: datetime) -> sa.ColumnElement[bool]:
    later = attempts.alias("later")
    followed = sa.exists().where(
        later.c.package_id == attempts.c.package_id,
        later.c.episode == attempts.c.episode,
        later.c.attempt_id > attempts.c.attempt_id,
    )
    closed = sa.exists().where(packages.c.package_id == attempts.c.package_id, packages.c.state.in_(CLOSED))
    # One that is open has no `resolved_at`.
    return sa.and_(attempts.c.resolved_at < before, followed, closed)


def _delete(database: Database, kind: _Kind) -> Iterator[int]:
    """How many rows went from each page, up to the first page that holds nothing old."""
    key, after = kind.key, 0
    page = sa.select(key, kind.at.label("at"), kind.doomed.label("doomed")).order_by(key).limit(PAGE)
    while True:
        with database.reading() as transaction:
            rows = transaction.execute(page.where(key > after)).all()
        doomed = [row[0] for row in rows if row.doomed]
        yield _delete_rows(database, kind, doomed) if doomed else 0
        if len(rows) < PAGE or all(row.at >= kind.before for row in rows):
            return
        after = rows[-1][0]


def _delete_rows(database: Database, kind: _Kind, keys: list[int]) -> int:
    """Deletes these rows, but for those that another transaction holds or has changed meanwhile."""
    table = kind.key.table
    free = sa.select(kind.key).where(kind.key.in_(keys), kind.doomed).with_for_update(skip_locked=True, of=table)
    with database.transaction() as transaction:
        held = transaction.execute(free).scalars().all()
        return transaction.execute(sa.delete(table).where(kind.key.in_(held))).rowcount
