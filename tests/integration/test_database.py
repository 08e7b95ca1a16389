"""Migrations, and whose database it is."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config as AlembicConfig
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from service import database as schema
from service.database import Database, Instant
from service.errors import DatabaseOfAnotherOms, DatabaseOutdated, DatabaseUnavailable
from tests.conftest import MINIMAL, on_sqlite

OMS = MINIMAL["OMS_BASE_URL"]


def test_migrations_lead_from_nothing_to_exactly_the_tables_in_the_code(database: Database) -> None:
    def same_type(context: object, column: object, mapped: object, theirs: object, ours: object) -> bool | None:
        return False if isinstance(ours, Instant) and isinstance(theirs, sa.BigInteger) else None

    with database.reading() as transaction:
        context = MigrationContext.configure(transaction.connection, opts={"compare_type": same_type})
        assert compare_metadata(context, schema.metadata) == []


def test_the_code_names_the_newest_migration() -> None:
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(schema.__file__).with_name("migrations")))
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD


def test_migrating_again_changes_nothing_and_says_so(database: Database) -> None:
    assert database.migrate(OMS) == schema.HEAD


def test_several_machines_may_migrate_at_once(database_url: str) -> None:
    found: list[str | None] = []
    threads = [threading.Thread(target=lambda: found.append(Database(database_url).migrate(OMS))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found, key=str) == ["0001", "0001", "0001", None]


def test_a_database_belongs_to_one_oms(database: Database) -> None:
    with pytest.raises(DatabaseOfAnotherOms):
        database.check("https://another-oms.akinon.net")
    with pytest.raises(DatabaseOfAnotherOms):
        database.migrate("https://another-oms.akinon.net")
    database.check(OMS)


def test_a_missing_or_empty_database_is_refused_with_what_to_do(database_url: str) -> None:
    with pytest.raises(DatabaseOutdated, match="autoship migrate"):
        Database(database_url).check(OMS)


@on_sqlite
def test_an_empty_file_is_refused_like_a_missing_one(database_url: str) -> None:
    Path(database_url.removeprefix("sqlite:///")).touch()
    with pytest.raises(DatabaseOutdated, match="autoship migrate"):
        Database(database_url).check(OMS)


def test_a_file_that_is_no_database_is_unavailable_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("no database" * 1000)
    with pytest.raises(DatabaseUnavailable):
        Database(f"sqlite:///{tmp_path}/x.db").check(OMS)


@on_sqlite
def test_sqlite_is_as_durable_as_promised(database: Database) -> None:
    with database.reading() as transaction:
        assert transaction.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"
        assert transaction.execute(sa.text("PRAGMA synchronous")).scalar() == 2
