"""Migrations, and whose database it is."""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
from tests import postgres
from tests.conftest import MINIMAL, on_postgresql, on_sqlite

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
    assert sorted(found, key=str) == [schema.HEAD] * 3 + [None]


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


_KILLED_BEFORE_ITS_COMMIT = """
import os, signal, sys
import sqlalchemy as sa
from service.database import Database
sa.event.listen(sa.Engine, "commit", lambda connection: os.kill(os.getpid(), signal.SIGKILL))
Database(sys.argv[1]).migrate(sys.argv[2])
"""


def test_a_migration_that_is_killed_leaves_nothing(database_url: str) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED_BEFORE_ITS_COMMIT, database_url, OMS], timeout=60)
    assert killed.returncode == -9
    database = Database(database_url)
    with database.reading() as transaction:
        assert sa.inspect(transaction.connection).get_table_names() == []
    assert database.migrate(OMS) is None
    database.check(OMS)


def _raising(sqlstate: str) -> sa.TextClause:
    return sa.text(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{sqlstate}'; END $$")


@on_postgresql
@pytest.mark.parametrize(
    ("sqlstate", "meaning"),
    [
        ("08006", "connection failure"),
        ("25006", "read-only transaction"),
        ("25P03", "idle in transaction for too long"),
        ("40001", "serialization failure"),
        ("40P01", "deadlock"),
        ("42501", "privilege taken away"),
        ("42P01", "table gone: the database is being restored"),
        ("53100", "disk full"),
        ("53200", "out of memory"),
        ("53300", "too many connections"),
        ("55P03", "lock timeout"),
        ("57014", "statement timeout"),
        ("57P01", "administrator shutdown"),
        ("57P03", "cannot connect now"),
        ("58030", "disk error"),
        ("XX000", "internal error"),
        ("XX001", "data corrupted"),
    ],
)
def test_whatever_the_server_cannot_do_is_unavailable(database: Database, sqlstate: str, meaning: str) -> None:
    with pytest.raises(DatabaseUnavailable), database.transaction() as transaction:
        transaction.execute(_raising(sqlstate))
    database.probe_write()


@on_postgresql
@pytest.mark.parametrize("sqlstate", ["22003", "23505", "42601", "42703"])
def test_a_defect_of_ours_is_not_called_unavailable(database: Database, sqlstate: str) -> None:
    with pytest.raises(sa.exc.DBAPIError), database.transaction() as transaction:
        transaction.execute(_raising(sqlstate))


def test_a_lock_that_another_process_keeps_is_waited_for_but_not_for_ever(
    database: Database, database_url: str
) -> None:
    impatient = Database(database_url, patience_s=0.2)
    with database.transaction() as transaction:
        transaction.execute(sa.update(schema.deployment).values(probed_at=transaction.now))
        with pytest.raises(DatabaseUnavailable):
            impatient.probe_write()
    impatient.probe_write()


@on_postgresql
def test_a_search_path_in_the_url_says_where_the_tables_are(database_url: str) -> None:
    postgres.administer(database_url, "CREATE SCHEMA elsewhere")
    url = sa.make_url(database_url).update_query_dict({"options": "-c search_path=elsewhere"})
    database = Database(url.render_as_string(hide_password=False), patience_s=2)
    database.migrate(OMS)
    with database.reading() as transaction:
        there = sa.inspect(transaction.connection).get_table_names(schema="elsewhere")
        assert schema.packages.name in there
        assert transaction.execute(sa.text("SHOW statement_timeout")).scalar() == "2s"
    database.dispose()


@on_postgresql
def test_writers_wait_for_each_other_also_where_the_server_isolates_more_by_default(database_url: str) -> None:
    name = sa.make_url(database_url).database
    postgres.administer(database_url, f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
    database = Database(database_url)
    with database.transaction() as transaction:
        assert transaction.execute(sa.text("SHOW transaction_isolation")).scalar() == "read committed"
    database.dispose()


@on_postgresql
def test_connections_to_a_server_that_became_a_standby_are_given_up(
    database: Database, database_url: str, postgres_url: str
) -> None:
    """After a failover: those made while the address still led there take no writes for good, new ones do."""
    name = sa.make_url(database_url).database
    database.dispose()
    postgres.administer(postgres_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(DatabaseUnavailable, match="read-only"):
        database.probe_write()
    postgres.administer(postgres_url, f"ALTER DATABASE {name} RESET default_transaction_read_only")
    database.probe_write()


@on_postgresql
def test_a_process_that_froze_does_not_keep_its_locks(database_url: str, database: Database) -> None:
    def freeze() -> None:
        with Database(database_url, patience_s=0.5).transaction() as frozen:
            frozen.execute(sa.update(schema.deployment).values(probed_at=frozen.now))
            database.probe_write()  # waits until the server has had enough of the other

    with pytest.raises(DatabaseUnavailable):
        freeze()


def test_no_server_is_unavailable_not_a_traceback(tmp_path: Path) -> None:
    nobody = Database(f"postgresql+psycopg://test@/x?host={tmp_path}")
    with pytest.raises(DatabaseUnavailable):
        nobody.probe_write()


@on_postgresql
def test_a_connection_the_server_closed_is_replaced_before_it_is_used(database: Database, database_url: str) -> None:
    database.probe_write()
    closing = Database(database_url)
    with closing.reading() as transaction:
        others = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        closed = transaction.execute(sa.text(f"{others} AND datname = current_database()")).scalars().all()
    assert closed == [True]
    database.probe_write()


@on_sqlite
def test_a_file_that_took_the_place_of_ours_is_the_one_that_is_used(database: Database, database_url: str) -> None:
    file = Path(database_url.removeprefix("sqlite:///"))
    copy = file.with_name("restored.db")
    with sqlite3.connect(file) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    connection.close()
    database.probe_write()
    for old in file.parent.glob(f"{file.name}*"):
        old.unlink()
    copy.rename(file)
    another = Database(database_url)
    with another.transaction() as transaction:
        transaction.execute(sa.update(schema.brakes).values(pause_cause="by a person"))
    with database.reading() as transaction:
        assert transaction.execute(sa.select(schema.brakes.c.pause_cause)).scalar() == "by a person"


@on_sqlite
def test_a_file_that_is_gone_takes_nothing_and_is_not_made_anew(database: Database, database_url: str) -> None:
    database.probe_write()
    for file in (files := list(Path(database_url.removeprefix("sqlite:///")).parent.glob("*.db*"))):
        file.unlink()
    for using in (database.transaction, database.reading, Database(database_url).transaction):
        with pytest.raises(DatabaseUnavailable, match="No such file"), using():
            pass
    assert not any(file.exists() for file in files)


@contextmanager
def _backup(database_url: str) -> Iterator[None]:
    """Somebody reads for the length of a block, so that nothing written meanwhile leaves the log."""
    reader = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM deployment").fetchall()
    yield
    reader.close()


@contextmanager
def _room_for(file: Path) -> Iterator[None]:
    """No file may grow beyond the size of this one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@on_sqlite
def test_a_disk_that_a_long_backup_filled_is_usable_again_after_it(database: Database, database_url: str) -> None:
    log = Path(database_url.removeprefix("sqlite:///") + "-wal")
    database.probe_write()
    with ExitStack() as stack:
        with _backup(database_url):
            while log.stat().st_size < 1_000_000:
                database.probe_write()
            stack.enter_context(_room_for(log))
            with pytest.raises(DatabaseUnavailable):
                database.probe_write()
        with pytest.raises(DatabaseUnavailable):
            database.probe_write()
        database.probe_write()


@on_sqlite
def test_what_a_long_backup_took_of_the_disk_is_given_back(database: Database, database_url: str) -> None:
    log = Path(database_url.removeprefix("sqlite:///") + "-wal")
    with _backup(database_url), database.transaction() as transaction:
        row = {"delivery_id": 1, "received_at": transaction.now, "body": bytes(20_000_000)}
        transaction.execute(sa.insert(schema.quarantine).values(row))
    assert log.stat().st_size > 20_000_000
    for _ in range(3):
        database.probe_write()
    assert log.stat().st_size <= 16 * 1024 * 1024
