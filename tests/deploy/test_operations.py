"""The procedures of deploy/README.md, carried out on real processes while deliveries stream in. Nothing is lost, and
nothing is done twice: the OMS's ledger judges."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from service import database as schema
from service.database import deliveries, workers
from service.sandbox import PACKED, READY
from tests import commands, postgres
from tests.conftest import MINIMAL, SECRET
from tests.deploy.rehearsal import CLEAN, ROOT, Site, carry_out, furnish, opened
from tests.integration.test_versions import OLDER, fill, migrate_to
from tests.processes import wait_until

NEWER, NEWER_SCHEMA = "99.0.0", f"{int(schema.HEAD) + 1:04}"
MIGRATION = f"""
import sqlalchemy as sa
from alembic import op
revision, down_revision = "{NEWER_SCHEMA}", "{schema.HEAD}"
def upgrade() -> None:
    op.add_column("packages", sa.Column("of_the_newer", sa.Text()))
"""
NEW_SECRET = "the-next-secret"
# A package that a person dismisses after the backup.
LEFT_ALONE = 1_000_000


@pytest.fixture
def site_on(tmp_path: Path) -> Iterator[Callable[[str], Site]]:
    """Opens a site on a database, which it migrates; one web and one worker process are at work as `first`."""
    sites: list[Site] = []
    furnish(tmp_path, Path(sys.executable))

    def make(database_url: str) -> Site:
        sites.append(Site(tmp_path, database_url))
        sites[0].migrate()
        return sites[0]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    with postgres.database(postgres_url) as url:
        yield url


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """This very code under another version, with one column and one migration more."""
    place = tmp_path / "newer"
    shutil.copytree(ROOT / "service", place / "service", ignore=shutil.ignore_patterns("__pycache__"))
    (place / "deploy").mkdir()
    shutil.copy(ROOT / "deploy/gunicorn.conf.py", place / "deploy")
    _change(place / "service/__init__.py", r'__version__ = ".*"', f'__version__ = "{NEWER}"')
    _change(place / "service/database.py", f'HEAD = "{schema.HEAD}"', f'HEAD = "{NEWER_SCHEMA}"')
    column = 'sa.Column("read_problem", sa.Text),'
    _change(place / "service/database.py", re.escape(column), f'sa.Column("of_the_newer", sa.Text), {column}')
    (place / f"service/migrations/versions/{NEWER_SCHEMA}_newer.py").write_text(MIGRATION, encoding="utf-8")
    return place


def test_two_versions_work_side_by_side_while_one_takes_the_others_place_and_back(
    site_on: Callable[[str], Site], database_url: str, newer: Path
) -> None:
    site = site_on(database_url)
    older_pair = site.start("older")
    site.open()
    site.wait_for_commands("older")
    code = {"PYTHONPATH": os.fspath(newer)}
    migrated = commands.autoship("migrate", cwd=newer, **site.variables("migrate") | code)
    assert (migrated.code, f"and is {NEWER_SCHEMA} now" in migrated.err) == (0, True)
    newer_pair = site.start("newer", **code)
    site.wait_for_commands("older", "newer")
    site.stop(older_pair)
    site.wait_for_commands("newer")
    site.start("rolled-back")
    site.wait_for_commands("newer", "rolled-back")
    site.stop(newer_pair)
    site.wait_for_commands("rolled-back")
    assert site.settled() == CLEAN
    assert NEWER in _column(database_url, workers.c.version)


def test_secret_and_token_are_rotated_and_nothing_is_refused_or_lost(
    site_on: Callable[[str], Site], database_url: str
) -> None:
    site = site_on(database_url)
    old = site.start("old")
    site.open()
    site.wait_for_commands("old")
    both = site.start("both", WEBHOOK_SECRETS=f"{NEW_SECRET},{SECRET}")
    site.stop(old)
    site.wait_for_commands("both")
    site.courier.secret = NEW_SECRET
    wait_until(lambda: 0 in _column(database_url, deliveries.c.secret_index)[-20:])
    site.oms.revoke_token()
    wait_until(lambda: "breaker opened" in both[1].log)
    new = site.start("new", WEBHOOK_SECRETS=NEW_SECRET)
    site.stop(both)
    assert commands.autoship("resume", cwd=site.folder, **site.variables("operator")).code == 0
    site.wait_for_commands("new")
    assert site.settled() == CLEAN
    assert [member.name for member in (*old, *both, *new) if "delivery.rejected" in member.log] == []


def test_a_postgresql_backup_made_under_load_is_restored_after_more_was_shipped(
    site_on: Callable[[str], Site], database_url: str, postgres_url: str
) -> None:
    site = site_on(database_url)
    with postgres.database(postgres_url) as other:
        _restore(
            site, "PostgreSQL", _of_libpq(database_url), lambda: setattr(site, "database_url", other), _of_libpq(other)
        )


def test_a_sqlite_backup_made_under_load_is_restored_after_more_was_shipped(
    site_on: Callable[[str], Site], tmp_path: Path
) -> None:
    site = site_on(f"sqlite:///{tmp_path}/var/autoship.db")
    _restore(site, "SQLite", {}, lambda: None, {})


@pytest.mark.parametrize("kind", ["PostgreSQL", "SQLite"])
def test_the_oms_gets_another_address_and_the_database_is_kept(kind: str, postgres_url: str, tmp_path: Path) -> None:
    furnish(tmp_path, Path(sys.executable))
    with postgres.database(postgres_url) as in_postgresql:
        url = in_postgresql if kind == "PostgreSQL" else f"sqlite:///{tmp_path}/var/autoship.db"
        variables = MINIMAL | {"DATABASE_URL": url, "OMS_BASE_URL": "https://new-oms.akinon.net"}
        with opened(url) as database:
            database.migrate(MINIMAL["OMS_BASE_URL"])
        refused = commands.autoship("packages", cwd=tmp_path, **variables)
        assert (refused.code, "see deploy/README.md, The OMS gets another address" in refused.err) == (2, True)
        done = carry_out(f"Another address in {kind}", tmp_path, variables | _of_libpq(url))
        assert done.returncode == 0, done.stderr
        assert commands.autoship("packages", cwd=tmp_path, **variables).code == 0


def _restore(
    site: Site, kind: str, backed_up: dict[str, str], turn_to_the_new_one: Callable[[], None], restored: dict[str, str]
) -> None:
    lost = site.start("lost")
    site.open()
    site.oms.create(LEFT_ALONE, [READY, READY])
    site.oms.pack(LEFT_ALONE, [PACKED, READY])
    site.wait_for_commands("lost")
    wait_until(lambda: LEFT_ALONE in _listed(site, "items_mixed"))
    done = carry_out(f"Back up {kind}", site.folder, backed_up)
    assert (done.returncode, done.stderr) == (0, "")
    backup = site.folder / {"PostgreSQL": "autoship.dump", "SQLite": "var/autoship.backup"}[kind]
    assert backup.stat().st_mode & 0o077 == 0, "it may hold a token"
    _operate(site, "dismiss", str(LEFT_ALONE))
    site.oms.set_items(LEFT_ALONE, [PACKED, PACKED])
    site.wait_for_commands("lost", count=20)
    site.lose(lost)
    turn_to_the_new_one()
    done = carry_out(f"Restore {kind}", site.folder, restored)
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("migrate", "pause"):
        _operate(site, command)
    site.start("restored", SWEEP_INTERVAL_S="1")
    _operate(site, "sweep")
    wait_until(lambda: LEFT_ALONE in _listed(site, "brake"))
    _operate(site, "dismiss", str(LEFT_ALONE))
    assert site.commands_of("restored") == 0, "nobody has looked at what would be commanded"
    _operate(site, "resume")
    site.wait_for_commands("restored")
    assert site.oms.commands_for(LEFT_ALONE) == 0
    site.oms.ship_by_hand(LEFT_ALONE)
    # Deliveries since the backup are in nobody's books; the packages they spoke of are found by the sweep.
    assert site.settled(by_the_ledger_alone=True) == CLEAN


def _operate(site: Site, *arguments: str) -> commands.Ended:
    """A command of `autoship` that must succeed."""
    ended = commands.autoship(*arguments, cwd=site.folder, **site.variables("operator"))
    assert ended.code == 0, ended.err
    return ended


def _listed(site: Site, reason: str) -> list[int]:
    return [told["id"] for told in _operate(site, "packages", "--reason", reason, "--json").told]


def test_all_moves_from_sqlite_to_postgresql_and_the_work_goes_on_there(
    site_on: Callable[[str], Site], database_url: str, tmp_path: Path
) -> None:
    site = site_on(f"sqlite:///{tmp_path}/var/autoship.db")
    on_sqlite = site.start("sqlite")
    site.open()
    site.wait_for_commands("sqlite", count=20)
    target = site.variables("move") | {"DATABASE_URL": database_url}
    refused = carry_out("Move from SQLite to PostgreSQL", tmp_path, target)
    assert (refused.returncode, "still in use" in refused.stderr) == (2, True)
    site.stop(on_sqlite)
    before = _content(site.database_url)
    moved = carry_out("Move from SQLite to PostgreSQL", tmp_path, target)
    assert moved.returncode == 0, moved.stderr
    assert _content(database_url) == before == _content(site.database_url)
    again = carry_out("Move from SQLite to PostgreSQL", tmp_path, target)
    assert (again.returncode, "the target is not empty" in again.stderr) == (2, True)
    assert _content(database_url) == before
    site.database_url = database_url
    on_postgresql = site.start("postgresql")
    site.wait_for_commands("postgresql")
    assert site.settled() == CLEAN
    assert [member.name for member in on_postgresql if "crashed" in member.log] == []


def test_a_file_of_an_older_version_or_none_is_not_moved_and_what_to_do_about_it_is_done_to_the_file(
    database_url: str, tmp_path: Path
) -> None:
    furnish(tmp_path, Path(sys.executable))
    target = MINIMAL | {"DATABASE_URL": database_url, "PYTHONPATH": os.fspath(ROOT)}
    missing = carry_out("Move from SQLite to PostgreSQL", tmp_path, target)
    assert (missing.returncode, missing.stderr) == (2, "move: var/autoship.db: there is no such file\n")
    in_file = f"sqlite:///{tmp_path}/var/autoship.db"
    with opened(in_file) as database:
        known = migrate_to(database, in_file, OLDER[0])
        with database.transaction() as transaction:
            fill(transaction, known)
    refused = carry_out("Move from SQLite to PostgreSQL", tmp_path, target)
    assert refused.returncode == 2
    advised = re.search(r"first: DATABASE_URL=(\S+) autoship migrate$", refused.stderr.strip())
    assert advised is not None, refused.stderr
    assert commands.autoship("migrate", cwd=tmp_path, **MINIMAL | {"DATABASE_URL": advised[1]}).code == 0
    moved = carry_out("Move from SQLite to PostgreSQL", tmp_path, target)
    assert moved.returncode == 0, moved.stderr


def _change(path: Path, pattern: str, replacement: str) -> None:
    text, changed = re.subn(pattern, replacement, path.read_text(encoding="utf-8"))
    assert changed == 1, f"{path.name}: {pattern}"
    path.write_text(text, encoding="utf-8")


def _column(database_url: str, column: sa.ColumnElement[object]) -> list[object]:
    with opened(database_url) as database, database.reading() as transaction:
        return list(transaction.execute(sa.select(column)).scalars())


def _content(database_url: str) -> dict[str, list[str]]:
    """All rows of all tables, in an order that both engines agree on."""
    with opened(database_url) as database, database.reading() as transaction:
        tables = schema.metadata.sorted_tables
        return {table.name: sorted(map(repr, transaction.execute(sa.select(table)).all())) for table in tables}


def _of_libpq(database_url: str) -> dict[str, str]:
    """The variables by which PostgreSQL's own programs find this database."""
    url = sa.make_url(database_url)
    host, port = url.host or url.query.get("host"), url.port
    given = {
        "PGHOST": host,
        "PGPORT": port,
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "DB_NAME": url.database,
    }
    return {name: str(value) for name, value in given.items() if value}
