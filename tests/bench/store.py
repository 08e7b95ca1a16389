"""A store as years leave it behind: a million finished packages and what waits, written by the database itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from service.database import Database, Instant, Transaction, attempts, deliveries, learned_shipped, packages, timeline

KEPT = timedelta(days=90)
_HOUR = timedelta(hours=1)
# Prime, and larger than the count of deliveries: multiplying modulo it scatters them without a collision.
_SCATTER, _PRIME = 48_271, 15_485_863
_CHECKS = [
    {"name": name, "expected": "what it should be", "observed": "what it is", "verdict": "pass"}
    for name in ("package is Packed", "rules", "items are complete", "items are Packed", "the OMS offers the command")
]
_FACTS = {"channel_name": "Shop", "payment_type": "credit_card", "has_shipment": False, "has_invoice": False}


def fill(database: Database, finished: int, waiting: int) -> None:
    """Packages 1 to `finished` have shipped, evenly over the time that is kept; behind them those that wait.

    Of these half are due, and one in a hundred waits for a person.
    """
    with database.transaction() as transaction:
        if not database.is_sqlite:
            transaction.execute(sa.text("SET LOCAL statement_timeout = 0"))
        _packages(transaction, finished, waiting)
        _deliveries(transaction, finished, waiting)
        _attempts(transaction, finished)
        _timeline(transaction, finished, waiting)
        learned = [{"package_id": one, "state_value": "600", "at": transaction.now} for one in (1, 2, 3)]
        transaction.execute(sa.insert(learned_shipped), learned)
    analyze(database)


def analyze(database: Database) -> None:
    """What autovacuum does sooner or later; SQLite has nothing of the kind, and Autoship asks for nothing."""
    if not database.is_sqlite:
        with database.reading() as transaction:
            transaction.execute(sa.text("SET statement_timeout = 0"))
            transaction.execute(sa.text("VACUUM ANALYZE"))
        database.dispose()  # with that connection


def _packages(transaction: Transaction, finished: int, waiting: int) -> None:
    number = _numbers(finished)
    moved = _moment(transaction, number, finished)
    columns: dict[str, sa.ColumnElement[Any]] = {
        "package_id": number,
        "first_hint": sa.literal("webhook"),
        "created_at": moved,
        "changed_at": moved,
        "last_look_at": moved,
        "left_packed_at": moved,
        "state": sa.literal("shipped"),
        "evidence": sa.literal("read_back"),
        "episode": sa.literal(1),
        "looks": sa.literal(0),
        "state_class": sa.literal("PackageStatus"),
        "state_value": sa.literal("600"),
        "number": sa.cast(number, sa.Text),
        "facts": sa.literal(_FACTS, sa.JSON),
        "checks": sa.literal(_CHECKS, sa.JSON),
    }
    _insert(transaction, packages, columns)
    number = _numbers(waiting)
    due_in_us = number * (_microseconds(2 * _HOUR) // max(waiting, 1)) - _microseconds(_HOUR)
    attention = number % 100 == 0
    columns |= {
        "package_id": number + finished,
        "due_at": _shifted(transaction, due_in_us),
        "state": sa.case((attention, "needs_attention"), else_="waiting"),
        "reason": sa.case((attention, "refused"), (number % 3 == 0, "not_packed_yet"), else_="items_mixed"),
        "evidence": sa.null(),
        "looks": sa.literal(3),
        "created_at": _shifted(transaction, sa.literal(0)),
        "changed_at": _shifted(transaction, sa.literal(0)),
        "last_look_at": _shifted(transaction, sa.literal(-_microseconds(_HOUR))),
        "left_packed_at": sa.null(),
        "number": sa.cast(number, sa.Text),
    }
    _insert(transaction, packages, columns)


def _deliveries(transaction: Transaction, finished: int, waiting: int) -> None:
    for place, event in enumerate(("packed", "transitioned", "shipped")):
        count = finished + waiting if event != "shipped" else finished
        number = _numbers(count)
        at = _moment(transaction, number, count)
        scattered = 1_000_000_000 + ((number * 3 + place) * _SCATTER) % _PRIME
        columns: dict[str, sa.ColumnElement[Any]] = {
            "event_uuid": sa.literal("c9591f0d1c1d4da58ade88") + sa.cast(scattered, sa.Text),
            "event_type": sa.literal(f"package.status.{event}"),
            "package_id": number,
            "state_class": sa.literal("PackageStatus"),
            "state_value": sa.literal("600" if event == "shipped" else "500"),
            "fate": sa.literal("ignored" if event == "shipped" else "accepted"),
            "reason": sa.literal("closed_case") if event == "shipped" else sa.null(),
            "secret_index": sa.literal(0),
            "seen": sa.case((number % 10 == 0, 2), else_=1),
            "received_at": at,
            "last_seen_at": at,
        }
        _insert(transaction, deliveries, columns)


def _attempts(transaction: Transaction, finished: int) -> None:
    number = _numbers(finished)
    at = _moment(transaction, number, finished)
    columns: dict[str, sa.ColumnElement[Any]] = {
        "package_id": number,
        "episode": sa.literal(1),
        "fence": sa.literal(1),
        "transition_id": sa.literal(12),
        "started_at": at,
        "deadline_at": at,
        "answered_at": at,
        "outcome": sa.literal("accepted"),
        "concluded": sa.true(),
        "http_status": sa.literal(204),
        "read_backs": sa.literal(1),
        "resolution": sa.literal("applied"),
        "resolved_at": at,
    }
    _insert(transaction, attempts, columns)


def _timeline(transaction: Transaction, finished: int, waiting: int) -> None:
    told = [
        (finished + waiting, "episode", "episode 1 opened: first read in Packed"),
        (finished, "command", "attempt 1: sending transition 12"),
        (finished, "answer", "attempt 1: accepted (204)"),
        (finished, "shipped", "accepted, then read as PackageStatus 600"),
    ]
    for count, kind, text in told:
        number = _numbers(count)
        at = _moment(transaction, number, count)
        _insert(
            transaction, timeline, {"package_id": number, "at": at, "kind": sa.literal(kind), "text": sa.literal(text)}
        )


def _numbers(count: int) -> sa.ColumnElement[Any]:
    """1 to `count`, as a column of its own rows."""
    numbers = sa.select(sa.literal(1, sa.BigInteger).label("n")).cte("numbers", recursive=True)
    following = sa.select(numbers.c.n + 1).where(numbers.c.n < count)
    return numbers.union_all(following).c.n


def _moment(transaction: Transaction, number: sa.ColumnElement[Any], count: int) -> sa.ColumnElement[Any]:
    """When the package of this number had its turn: the last of them now."""
    return _shifted(transaction, (number - count) * (_microseconds(KEPT) // max(count, 1)))


def _shifted(transaction: Transaction, by_us: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    now_us = _microseconds(transaction.now - datetime(1970, 1, 1, tzinfo=UTC))
    return sa.type_coerce(sa.literal(now_us, sa.BigInteger) + by_us, Instant())


def _microseconds(duration: timedelta) -> int:
    return duration // timedelta(microseconds=1)


def _insert(transaction: Transaction, table: sa.Table, columns: Mapping[str, sa.ColumnElement[Any]]) -> None:
    transaction.execute(sa.insert(table).from_select(list(columns), sa.select(*columns.values())))
