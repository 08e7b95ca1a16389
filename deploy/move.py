"""Moves everything from SQLite to PostgreSQL: `python deploy/move.py var/autoship.db`, with Autoship's own Python.

The target is the database that DATABASE_URL or DB_HOST names, and OMS_BASE_URL is what it was for `autoship up`,
which must have ended. All of it is copied, or nothing. The file is only read, so that going back is possible.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import click
import sqlalchemy as sa

from service import config as configuration
from service.database import Database, Transaction, metadata
from service.errors import AutoshipError, ConfigurationError, DatabaseOutdated

PATIENCE_S = 600.0
ROWS_AT_ONCE = 1000
# `autoship migrate` writes one row into each of these.
ONE_ROW = frozenset({"brakes", "deployment", "login", "sweep"})


def main() -> int:
    """Exit code 0 when all was copied, else that of the commands of `autoship`."""
    if len(sys.argv) != 2:
        click.echo("usage: python deploy/move.py PATH_OF_THE_SQLITE_FILE", err=True)
        return 2
    try:
        for table, count in move(Path(sys.argv[1])).items():
            click.echo(f"{table:<16} {count:>10}")
    except AutoshipError as problem:
        click.echo(f"move: {problem}", err=True)
        return problem.exit_code
    click.echo("moved; the file is as it was", err=True)
    return 0


def move(path: Path) -> dict[str, int]:
    """How many rows of each table were copied. Raises `AutoshipError` where nothing was."""
    config = configuration.load(configuration.environment())
    source = Database(f"sqlite:///{path}", patience_s=PATIENCE_S)
    target = Database(config.database_url, patience_s=PATIENCE_S)
    if target.is_sqlite:
        raise ConfigurationError("DATABASE_URL: must name the PostgreSQL database to move to")
    _check(source, path, config.oms.base_url)
    source.dispose()
    _refuse_in_use(path)
    target.migrate(config.oms.base_url)
    with source.transaction() as old, target.transaction() as new:
        _refuse_other_schema(old, new)
        _take_for_us_alone(new)
        return {table.name: _copy(table, old, new) for table in metadata.sorted_tables}


def _check(source: Database, path: Path, oms_base_url: str) -> None:
    if not path.exists():
        raise ConfigurationError(f"{path}: there is no such file")
    try:
        source.check(oms_base_url)
    except DatabaseOutdated as problem:  # its words are about DATABASE_URL, which is the target here
        how = f"DATABASE_URL=sqlite:///{path} autoship migrate"
        raise ConfigurationError(f"{path}: of an older version than this one; first: {how}") from problem


def _refuse_in_use(path: Path) -> None:
    # Leaving the write-ahead log is possible only for the last connection.
    connection = sqlite3.connect(path, timeout=0)
    try:
        connection.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as problem:
        raise ConfigurationError(f"{path}: still in use; end `autoship up` first") from problem
    finally:
        connection.close()


def _refuse_other_schema(old: Transaction, new: Transaction) -> None:
    found = [side.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() for side in (old, new)]
    if found[0] != found[1]:
        raise ConfigurationError(f"the file has schema {found[0]}, the target {found[1]}: use one version for both")


def _take_for_us_alone(new: Transaction) -> None:
    """Nobody writes meanwhile. Raises `ConfigurationError` where somebody has before."""
    new.execute(sa.text(f"LOCK TABLE {', '.join(metadata.tables)} IN EXCLUSIVE MODE"))
    for table in metadata.sorted_tables:
        if table.name in ONE_ROW:
            new.execute(sa.delete(table))
        elif new.execute(sa.select(sa.exists().select_from(table))).scalar():
            raise ConfigurationError(f"DATABASE_URL: the target is not empty: it has rows in {table.name}")


def _copy(table: sa.Table, old: Transaction, new: Transaction) -> int:
    count = sa.select(sa.func.count()).select_from(table)
    for rows in old.execute(sa.select(table)).mappings().partitions(ROWS_AT_ONCE):
        new.execute(sa.insert(table), [dict(row) for row in rows])
    counts = [int(side.execute(count).scalar_one()) for side in (old, new)]
    if counts[0] != counts[1]:
        raise ConfigurationError(f"{table.name}: {counts[0]} rows became {counts[1]}; nothing was moved")
    if table.autoincrement_column is not None and counts[1]:
        _go_on_numbering(table.autoincrement_column, new)
    return counts[1]


def _go_on_numbering(column: sa.Column[int], new: Transaction) -> None:
    """New rows get numbers after those of the copied ones."""
    sequence = sa.func.pg_get_serial_sequence(column.table.name, column.name)
    new.execute(sa.select(sa.func.setval(sequence, sa.select(sa.func.max(column)).scalar_subquery())))


if __name__ == "__main__":
    raise SystemExit(main())
