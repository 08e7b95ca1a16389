"""Two versions side by side: the newer one migrates under the older one's rows, and the older one goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory

from service import database as schema
from service.config import Config
from service.database import Database, Transaction
from service.web import create_app
from tests.conftest import MINIMAL, a_document, deliver, on_postgresql
from tests.integration.test_concurrency import somebody_waits_for_a_lock
from tests.integration.test_worker import at_work, is_shipped, oms, pack, quick
from tests.oms_faults import FaultyOms
from tests.processes import wait_until

__all__ = ["oms", "quick"]

NOW_US = int(datetime.now(UTC).timestamp() * 1_000_000)
AN_HOUR_AGO_US = NOW_US - 3_600_000_000
# What the first version wrote: packages at every stage, and what belongs to them.
ROWS: dict[str, list[dict[str, Any]]] = {
    "packages": [
        {
            "package_id": 73,
            "state": "waiting",
            "first_hint": "webhook",
            "hint_seq": 1,
            "hinted": True,
            "due_at": NOW_US,
        },
        {"package_id": 74, "state": "shipping", "reason": "sending", "first_hint": "webhook", "episode": 1}
        | {"packed_since": NOW_US, "looking_since": NOW_US, "due_at": NOW_US, "fence": 7, "leased_until": NOW_US},
        {"package_id": 75, "state": "shipped", "evidence": "read_back", "first_hint": "webhook", "episode": 1}
        | {"left_packed_at": NOW_US, "facts": {"has_invoice": True}},
        {"package_id": 76, "state": "needs_attention", "reason": "refused", "held": True, "first_hint": "webhook"}
        | {"episode": 1, "packed_since": NOW_US, "refusals": 8},
    ],
    "attempts": [
        {"package_id": 74, "episode": 1, "fence": 7, "transition_id": 12, "started_at": AN_HOUR_AGO_US}
        | {"deadline_at": AN_HOUR_AGO_US},
        {"package_id": 75, "episode": 1, "fence": 3, "transition_id": 12, "started_at": NOW_US, "deadline_at": NOW_US}
        | {"outcome": "accepted", "resolution": "applied", "resolved_at": NOW_US},
    ],
    "deliveries": [
        {"event_uuid": "c" * 32, "event_type": "package.status.packed", "package_id": 73, "fate": "accepted"}
        | {"seen": 3, "received_at": NOW_US, "last_seen_at": NOW_US},
    ],
    "brakes": [{"id": 1}],
    "deployment": [{"id": 1, "oms_base_url": MINIMAL["OMS_BASE_URL"], "migrated_at": NOW_US}],
    "learned_shipped": [{"package_id": 75, "state_value": "737", "at": NOW_US}],
    "timeline": [{"package_id": 75, "at": NOW_US, "kind": "answer", "text": "x"}],
    "quarantine": [{"delivery_id": 9, "received_at": NOW_US, "body": b"[]"}],
    "workers": [{"worker": "old", "version": "0", "started_at": NOW_US, "seen_at": NOW_US}],
    "sweep": [{"id": 1, "finished_at": AN_HOUR_AGO_US, "listed": 7}],
    "login": [{"id": 1, "token": "t", "recent": []}],
}


def alembic() -> AlembicConfig:
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(schema.__file__).with_name("migrations")))
    return config


OLDER = [one.revision for one in ScriptDirectory.from_config(alembic()).walk_revisions() if one.revision < schema.HEAD]


def migrate_to(database: Database, url: str, revision: str) -> sa.MetaData:
    """Brings an empty database to a revision; its tables as that version knew them."""
    config, known = alembic(), sa.MetaData()
    if database.is_sqlite:
        Path(url.removeprefix("sqlite:///")).touch()
    with database.transaction() as transaction:
        config.attributes["connection"] = transaction.connection
        command.upgrade(config, revision)
        known.reflect(transaction.connection)
    return known


def fill(transaction: Transaction, known: sa.MetaData) -> None:
    """Writes the rows with every column a version knew that must have a value."""
    for name in ROWS.keys() & known.tables.keys():
        for row in ROWS[name]:
            required = {one.name: NOW_US for one in known.tables[name].c if one.name in ("created_at", "changed_at")}
            transaction.execute(sa.insert(known.tables[name]).values(required | row))


def content(transaction: Transaction, known: sa.MetaData) -> dict[str, list[tuple[Any, ...]]]:
    """All rows, as far as a version knew their columns."""
    tables = [table for table in known.sorted_tables if table.name != "alembic_version"]
    return {one.name: [tuple(row) for row in transaction.execute(sa.select(one)).all()] for one in tables}


@pytest.mark.parametrize("older", OLDER)
def test_rows_of_an_older_version_survive_the_migration_and_the_work_goes_on(
    database_url: str, oms: FaultyOms, quick: Callable[..., Config], older: str
) -> None:
    config = quick(OMS_TIMEOUT_S="1", LEASE_S="5")
    pack(oms, 73, 74, 75, 76)
    oms.ship_by_hand(75)
    database = Database(database_url)
    known = migrate_to(database, database_url, older)
    with database.transaction() as transaction:
        fill(transaction, known)
        transaction.execute(sa.update(known.tables["deployment"]).values(oms_base_url=config.oms.base_url))
        before = content(transaction, known)
    assert database.migrate(config.oms.base_url) == older
    with database.reading() as transaction:
        assert content(transaction, known) == before
    with at_work(config):
        wait_until(is_shipped(database, 73, 74, 75))
    assert [oms.commands_for(package_id) for package_id in (73, 74, 75, 76)] == [1, 1, 0, 0]
    database.dispose()


@pytest.mark.parametrize("older", OLDER)
def test_an_older_version_writes_and_reads_on_the_newer_schema(
    database_url: str, configured: Callable[..., Config], older: str
) -> None:
    database = Database(database_url)
    known = migrate_to(database, database_url, older)
    database.migrate(MINIMAL["OMS_BASE_URL"])
    client = create_app(configured(), database).test_client()
    assert deliver(client, a_document(1)).status_code == 202
    with database.transaction() as transaction:
        for name in {"brakes", "deployment", "sweep", "login"} & known.tables.keys():
            transaction.execute(sa.delete(known.tables[name]))
        fill(transaction, known)
        for table in known.sorted_tables:
            ours = [column for column in table.c if not column.primary_key]
            if table.name != "alembic_version":
                transaction.execute(sa.update(table).values({column: column for column in ours}))
        told = content(transaction, known)
    assert len(told["packages"]) == 1 + len(ROWS["packages"])
    # And the newer one lives with what it wrote.
    assert deliver(client, a_document(73, uuid="d" * 32)).json["status"] == "accepted"
    assert client.get("/readyz").status_code == 200
    database.dispose()


@on_postgresql
@pytest.mark.parametrize("from_revision", OLDER)
@pytest.mark.parametrize("held", ["brakes", "deliveries"])
def test_a_migration_ends_in_no_deadlock_with_the_work_of_the_older_version(
    database_url: str, held: str, from_revision: str
) -> None:
    """Such work locks brakes or a delivery first, and a package then."""
    database, found = Database(database_url, patience_s=60), []
    known = migrate_to(database, database_url, from_revision)
    with database.transaction() as transaction:
        fill(transaction, known)
    migrating = threading.Thread(target=lambda: found.append(database.migrate(MINIMAL["OMS_BASE_URL"])))
    with database.transaction() as transaction:
        for name in (held, "packages"):
            key = next(iter(known.tables[name].primary_key))
            transaction.execute(sa.update(known.tables[name]).values({key: key}))
            if name == held:
                migrating.start()
                wait_until(lambda: not migrating.is_alive() or somebody_waits_for_a_lock(database))
    migrating.join(60)
    assert found == [from_revision]
    database.dispose()


def test_a_database_of_a_newer_version_is_worked_with_and_left_as_it_is(database: Database) -> None:
    with database.transaction() as transaction:
        transaction.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    database.check(MINIMAL["OMS_BASE_URL"])
    assert database.migrate(MINIMAL["OMS_BASE_URL"]) == "9999"
