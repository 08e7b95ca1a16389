"""The inbox: every accepted delivery has one row, written with its hint before it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.dml import ReturningInsert

from service import delivery as boundary
from service import policy, worklist
from service.case import CaseState, Reason, Settings
from service.database import Database, Instant, Transaction, deliveries, packages, quarantine
from service.delivery import Delivery, Unusable
from service.errors import DeliveryRejected

MAX_QUARANTINED_BODIES = 1000
MAX_QUARANTINED_BYTES = 64 * 1024
QUARANTINE_AGE = timedelta(days=14)
# The columns of a delivery that its sender and our reading of it give.
_GIVEN = ("event_uuid", "event_type", "package_id", "state_class", "state_value", "fate", "reason", "secret_index")

_STANDING = sa.select(packages.c.state, packages.c.reason).where(packages.c.package_id == sa.bindparam("package_id"))
_IS_LATER = deliveries.c.received_at >= sa.bindparam("since", type_=Instant())
_SHIPPED = sa.func.count().filter(deliveries.c.event_type == "package.status.shipped", _IS_LATER)
_CANCELLED = sa.func.count().filter(deliveries.c.event_type == "package.status.cancelled")
_SIGNED_EVENTS = sa.select((_SHIPPED > 0).label("shipped"), (_CANCELLED > 0).label("cancelled")).where(
    deliveries.c.package_id == sa.bindparam("package_id"),
    deliveries.c.secret_index.is_not(None),
    sa.or_(deliveries.c.state_value.is_(None), deliveries.c.state_value == sa.bindparam("state_value")),
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a delivery: the answer to its sender."""

    status: str
    event_uuid: str | None
    package_id: int | None
    reason: str | None


def accept(database: Database, delivery: Delivery, settings: Settings) -> Receipt:
    """Stores a delivery and hints at its package, in one durable transaction.

    A delivery whose uuid is known raises that row's `seen` instead, and is still a hint unless the package
    is shipped. Raises `DatabaseUnavailable`, and then nothing was stored.
    """
    # What is worth a look of a package never seen is worth it of any.
    wanted = policy.hint(delivery, None, None, settings) is None
    if wanted and not database.is_sqlite:
        return _accept_at_once(database, delivery)
    with database.transaction() as transaction:
        ignored = None if wanted else policy.hint(delivery, *_standing(transaction, delivery.package_id), settings)
        row = _row(delivery, "ignored" if ignored else "accepted", ignored)
        duplicate, _ = _store(transaction, row)
        if ignored is None and not (duplicate and _standing(transaction, delivery.package_id)[0] is CaseState.SHIPPED):
            worklist.hint(transaction, delivery.package_id, "webhook")
    status = "duplicate" if duplicate else row["fate"]
    return Receipt(status, delivery.event_uuid, delivery.package_id, None if duplicate else ignored)


def _accept_at_once(database: Database, delivery: Delivery) -> Receipt:
    """The same in one statement: a sender waits for one round trip to the database instead of four."""
    with database.transaction(of_one_statement=True) as transaction:
        transaction.wake_workers()
        seen = transaction.execute(database.built(_accepting), _row(delivery, "accepted", None)).scalar_one()
    return Receipt("duplicate" if seen > 1 else "accepted", delivery.event_uuid, delivery.package_id, None)


def put_aside(database: Database, unusable: Unusable, body: bytes) -> Receipt:
    """Stores an authentic delivery nobody can work with, and its body while there is room.

    Raises `DatabaseUnavailable`, and then nothing was stored.
    """
    with database.transaction() as transaction:
        row = _row(unusable, "quarantined", unusable.reason)
        duplicate, delivery_id = _store(transaction, row)
        if not duplicate:
            _keep_body(transaction, delivery_id, body)
    return Receipt("duplicate" if duplicate else "quarantined", unusable.event_uuid, None, unusable.reason)


def quarantined(transaction: Transaction) -> Sequence[sa.RowMapping]:
    """Deliveries nobody can work with, oldest first; `body_bytes` is None where the body was not kept."""
    body_bytes = sa.func.length(quarantine.c.body).label("body_bytes")
    joined = deliveries.outerjoin(quarantine, quarantine.c.delivery_id == deliveries.c.delivery_id)
    query = sa.select(deliveries, body_bytes).select_from(joined).where(deliveries.c.fate == "quarantined")
    return transaction.execute(query.order_by(deliveries.c.delivery_id)).mappings().all()


def kept_body(transaction: Transaction, delivery_id: int) -> bytes | None:
    """The body of a quarantined delivery as it came, if it was kept."""
    query = sa.select(quarantine.c.body).where(quarantine.c.delivery_id == delivery_id)
    body: bytes | None = transaction.execute(query).scalar()
    return body


def retry(database: Database, delivery_id: int, settings: Settings) -> Receipt | None:
    """Reads a quarantined body again as if it were delivered now; its row gets the new fate.

    None where there is no such body. The row keeps its uuid: another delivery may have brought the same one by now.
    Raises `DatabaseUnavailable`, and then nothing has changed.
    """
    with database.transaction() as transaction:
        mine = deliveries.c.delivery_id == delivery_id
        secret_index = transaction.execute(sa.select(deliveries.c.secret_index).where(mine).with_for_update()).scalar()
        body = kept_body(transaction, delivery_id)
        if body is None:
            return None
        try:
            read = boundary.read(None, body, secret_index)
        except DeliveryRejected as problem:  # this version would not even have let it in
            read = Unusable(problem.reason, secret_index=secret_index)
        if isinstance(read, Unusable):
            transaction.execute(sa.update(deliveries).where(mine).values(reason=read.reason))
            return Receipt("quarantined", read.event_uuid, None, read.reason)
        ignored = policy.hint(read, *_standing(transaction, read.package_id), settings)
        row = _row(read, "ignored" if ignored else "accepted", ignored)
        del row["event_uuid"]
        transaction.execute(sa.update(deliveries).where(mine).values(row))
        transaction.execute(sa.delete(quarantine).where(quarantine.c.delivery_id == delivery_id))
        if ignored is None:
            worklist.hint(transaction, read.package_id, "webhook")
    return Receipt(row["fate"], read.event_uuid, read.package_id, ignored)


def signed_events(
    transaction: Transaction, package_id: int, sent_at: datetime | None, state_value: str
) -> tuple[bool, bool]:
    """Whether signed deliveries said that the package was shipped, and that it was cancelled.

    Only those that tell this state, or none that we can read: one that tells another state may be late, and of an
    earlier stay in Packed. Shipped: one that first arrived at or after `sent_at`. Cancelled: one that arrived at all.
    """
    wanted = {"package_id": package_id, "since": sent_at, "state_value": state_value}
    row = transaction.execute(_SIGNED_EVENTS, wanted).one()
    return row.shipped, row.cancelled


def _standing(transaction: Transaction, package_id: int) -> tuple[CaseState | None, Reason | None]:
    row = transaction.execute(_STANDING, {"package_id": package_id}).first()
    if row is None:
        return None, None
    return CaseState(row.state), None if row.reason is None else Reason(row.reason)


def _row(delivery: Delivery | Unusable, fate: str, reason: str | None) -> dict[str, Any]:
    package_id, state = (delivery.package_id, delivery.state) if isinstance(delivery, Delivery) else (None, None)
    return {
        "event_uuid": delivery.event_uuid,
        "event_type": delivery.event_type,
        "package_id": package_id,
        "state_class": state.enum_class if state else None,
        "state_value": state.value if state else None,
        "fate": fate,
        "reason": reason,
        "secret_index": delivery.secret_index,
    }


def _store(transaction: Transaction, row: dict[str, Any]) -> tuple[bool, int]:
    """Whether the row was there already, and its id."""
    stored = transaction.execute(transaction.database.built(_storing), row).one()
    transaction.told(stored.last_seen_at)
    return stored.seen > 1, stored.delivery_id


def _storing(database: Database) -> ReturningInsert[int, int, datetime]:
    given = {name: sa.bindparam(name, type_=deliveries.c[name].type) for name in _GIVEN}
    delivery = database.insert(deliveries).values(**given, received_at=database.time, last_seen_at=database.time)
    return delivery.on_conflict_do_update(
        index_elements=[deliveries.c.event_uuid],
        set_={"seen": deliveries.c.seen + 1, "last_seen_at": delivery.excluded.last_seen_at},
    ).returning(deliveries.c.seen, deliveries.c.delivery_id, deliveries.c.last_seen_at)


def _accepting(database: Database) -> sa.Executable:
    stored = _storing(database).cte("stored")
    package_id = sa.bindparam("package_id", type_=sa.BigInteger)
    shipped = sa.exists().where(packages.c.package_id == package_id, packages.c.state == CaseState.SHIPPED)
    wanted = sa.or_(stored.c.seen == 1, ~shipped)
    hinting = worklist.hinting(database, package_id, sa.literal("webhook"), stored.c.last_seen_at, wanted)
    return sa.select(stored.c.seen).add_cte(hinting.cte("hinted"))


def _keep_body(transaction: Transaction, delivery_id: int, body: bytes) -> None:
    transaction.execute(sa.delete(quarantine).where(quarantine.c.received_at < transaction.now - QUARANTINE_AGE))
    kept = transaction.execute(sa.select(sa.func.count()).select_from(quarantine)).scalar_one()
    if kept >= MAX_QUARANTINED_BODIES or len(body) > MAX_QUARANTINED_BYTES:
        return
    row = {"delivery_id": delivery_id, "received_at": transaction.now, "body": body}
    transaction.execute(sa.insert(quarantine).values(row))
