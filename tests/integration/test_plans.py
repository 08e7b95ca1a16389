"""What must not grow with the store is found by an index: the plan of the very statement that is run says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from service import explain, inbox, vitals, worklist
from service.database import Database
from tests.bench import store

FINISHED = 2000


@pytest.fixture
def full(database: Database) -> Database:
    store.fill(database, FINISHED, 200)
    return database


def listed(**only: str) -> Callable[[Database], object]:
    def ask(database: Database) -> object:
        with database.reading() as transaction:
            return worklist.listed(transaction, only.get("state"), only.get("reason"))

    return ask


def quarantined(database: Database) -> object:
    with database.reading() as transaction:
        return inbox.quarantined(transaction)


def planned(database: Database, ask: Callable[[Database], object]) -> str:
    """The plans of all statements that this runs, a step in a line."""
    ran: list[tuple[str, Any]] = []
    with database.reading() as transaction:
        engine = transaction.connection.engine

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        ran.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    ask(database)
    sa.event.remove(engine, "before_cursor_execute", note)
    with database.reading() as transaction:
        if not database.is_sqlite:  # a table this small is read whole wherever that is allowed
            transaction.execute(sa.text("SET enable_seqscan = off"))
        how = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
        plans = [transaction.connection.exec_driver_sql(how + statement, parameters) for statement, parameters in ran]
        return "".join(f"{row[-1]}\n" for plan in plans for row in plan)


@pytest.mark.parametrize(
    ("ask", "indexes"),
    [
        (listed(state="waiting"), {"packages_listed"}),
        (listed(reason="refused"), {"packages_reason"}),
        (listed(state="needs_attention", reason="refused"), {"packages_reason|packages_state|packages_listed"}),
        (lambda database: explain.stored(database, FINISHED // 2), {"deliveries_package", "timeline_package"}),
        (
            lambda database: vitals.read(database, 10),
            {"deliveries_counted", "packages_state", "packages_due", "attempts_started"},
        ),
        (quarantined, {"deliveries_counted"}),
    ],
    ids=["by state", "by reason", "by both", "explain", "vitals", "quarantine"],
)
def test_it_is_found_by_an_index_and_no_table_of_packages_or_deliveries_is_read_whole(
    full: Database, ask: Callable[[Database], object], indexes: set[str]
) -> None:
    plan = planned(full, ask)
    for index in indexes:
        assert any(name in plan for name in index.split("|")), plan
    whole = (
        "SCAN packages\n",
        "SCAN deliveries\n",
        "SCAN timeline\n",
        "Seq Scan on packages",
        "Seq Scan on deliveries",
    )
    assert not any(scan in plan for scan in whole), plan
