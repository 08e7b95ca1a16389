"""The database: tables, engine, transactions, clock and migrations; every difference between the two engines.

Instants are stored as microseconds since the epoch, so that both engines compare them alike. One clock
counts: the database's. SQLite's is this machine's.

Transactions lock rows in this order, so that none waits for another in a circle: brakes, deliveries, packages,
what belongs to a package.
"""

from __future__ import annotations

import importlib
import os
import select
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, CursorResult, Engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.sql.expression import Executable

from service.errors import DatabaseOfAnotherOms, DatabaseOutdated, DatabaseUnavailable

HEAD = "0006"
# A sender is answered 503 when there was no commit within 5 s.
PATIENCE_S = 4.5
# For each process: more than the web's turns; the looks of a worker share them, as each needs one only for some
# milliseconds of its life.
CONNECTIONS = 10
WAKE_UP_EVERY_S = 0.02
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MIGRATION_LOCK = 7_305_271_109
_LISTEN_FOR_S = 0.5
_LOG_BYTES = 16 * 1024 * 1024
# What looks like a defect of ours but is a database that is not, or not yet again, as it was migrated.
_INSUFFICIENT_PRIVILEGE, _UNDEFINED_TABLE = "42501", "42P01"
_READ_ONLY = "25006"


class Instant(sa.types.TypeDecorator[datetime]):
    """An aware datetime, stored as microseconds since the epoch."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


# SQLite numbers rows by itself only where the key is its INTEGER.
_RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _index_where(condition: str, name: str, *columns: str) -> sa.Index:
    return sa.Index(name, *columns, postgresql_where=sa.text(condition), sqlite_where=sa.text(condition))


metadata = sa.MetaData()

packages = sa.Table(
    "packages",
    metadata,
    sa.Column("package_id", sa.BigInteger, primary_key=True, autoincrement=False),
    # When and by whom it is looked at.
    sa.Column("due_at", Instant),
    sa.Column("hint_seq", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("hinted", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("leased_until", Instant),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("first_hint", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("changed_at", Instant, nullable=False),
    # Where it stands.
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("held", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("evidence", sa.Text),
    # Its stays in Packed.
    sa.Column("episode", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("packed_since", Instant),
    sa.Column("left_packed_at", Instant),
    sa.Column("repacked_at", Instant),
    sa.Column("entry_log_id", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("modified_at", Instant),
    sa.Column("left_modified_at", Instant),
    # Budgets.
    sa.Column("looking_since", Instant),
    sa.Column("last_look_at", Instant),
    sa.Column("looks", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("failed_reads", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("read_problem", sa.Text),
    sa.Column("refusals", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("command_not_before", Instant),
    # The last snapshot's facts.
    sa.Column("state_class", sa.Text),
    sa.Column("state_value", sa.Text),
    sa.Column("number", sa.Text),
    sa.Column("order_number", sa.Text),
    sa.Column("facts", sa.JSON, nullable=False, server_default="{}"),
    sa.Column("checks", sa.JSON, nullable=False, server_default="[]"),
    _index_where("due_at IS NOT NULL", "packages_due", "hinted", "due_at"),
    sa.Index("packages_state", "state", "reason", "package_id"),
    sa.Index("packages_first_hint", "first_hint", "created_at"),
    sa.Index("packages_number", "number"),
    sa.Index("packages_order_number", "order_number"),
    # For lists, a page at a time.
    sa.Index("packages_listed", "state", "package_id"),
    _index_where("reason IS NOT NULL", "packages_reason", "reason", "package_id"),
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("delivery_id", _RowId, primary_key=True),
    sa.Column("event_uuid", sa.Text, unique=True),
    sa.Column("event_type", sa.Text),
    sa.Column("package_id", sa.BigInteger),
    sa.Column("state_class", sa.Text),
    sa.Column("state_value", sa.Text),
    sa.Column("fate", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("secret_index", sa.BigInteger),
    sa.Column("seen", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("received_at", Instant, nullable=False),
    sa.Column("last_seen_at", Instant, nullable=False),
    sa.Index("deliveries_package", "package_id", "received_at"),
    # All that counting them needs, so that it reads no row.
    sa.Index("deliveries_counted", "fate", "seen", "last_seen_at"),
)

quarantine = sa.Table(
    "quarantine",
    metadata,
    sa.Column("delivery_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("received_at", Instant, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("attempt_id", _RowId, primary_key=True),
    sa.Column("package_id", sa.BigInteger, nullable=False),
    sa.Column("episode", sa.BigInteger, nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("transition_id", sa.BigInteger),
    sa.Column("slug", sa.Text),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("deadline_at", Instant, nullable=False),
    sa.Column("answered_at", Instant),
    sa.Column("outcome", sa.Text),
    sa.Column("concluded", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("http_status", sa.BigInteger),
    sa.Column("words", sa.Text),
    sa.Column("read_backs", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("resolution", sa.Text),
    sa.Column("resolved_at", Instant),
    sa.Index("attempts_package", "package_id", "episode"),
    sa.Index("attempts_started", "started_at"),
)

timeline = sa.Table(
    "timeline",
    metadata,
    sa.Column("entry_id", _RowId, primary_key=True),
    sa.Column("package_id", sa.BigInteger, nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Index("timeline_package", "package_id", "at"),
)

brakes = sa.Table(
    "brakes",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("paused_at", Instant),
    sa.Column("pause_cause", sa.Text),
    sa.Column("breaker_opened_at", Instant),
    sa.Column("breaker_cause", sa.Text),
    sa.Column("breaker_operation", sa.Text),
    sa.Column("breaker_package_id", sa.BigInteger),
    sa.Column("probe_at", Instant),
    sa.Column("probe_package_id", sa.BigInteger),
    sa.Column("hold_off_until", Instant),
    sa.Column("forbidden", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("next_slot_at", Instant),
)

# One row: the pass over the packages in Packed that is under way, and how the last one ended.
sweep = sa.Table(
    "sweep",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("leased_until", Instant),
    sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("started_at", Instant),
    sa.Column("under_way", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("cursor", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("finished_at", Instant),
    sa.Column("listed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("hinted", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("missed", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("missed_until", Instant),
    sa.Column("problem", sa.Text),
)

# One row: the token of a login, shared by all processes, and when the last logins were.
login = sa.Table(
    "login",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("token", sa.Text),
    sa.Column("leased_until", Instant),
    sa.Column("recent", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("whose", sa.Text),
)

learned_shipped = sa.Table(
    "learned_shipped",
    metadata,
    sa.Column("package_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("state_value", sa.Text, nullable=False),
    sa.Column("at", Instant, nullable=False),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("worker", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("started_at", Instant, nullable=False),
    sa.Column("seen_at", Instant, nullable=False),
)

# For each alert that was ever told: what people heard last, and who is telling them now.
alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("alert", sa.Text, primary_key=True),
    sa.Column("is_open", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("told_at", Instant),
    sa.Column("leased_until", Instant),
)

deployment = sa.Table(
    "deployment",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("oms_base_url", sa.Text, nullable=False),
    sa.Column("migrated_at", Instant, nullable=False),
    sa.Column("probed_at", Instant),
)

_CLOCK = sa.select(sa.func.clock_timestamp())
_WAKE_UP = sa.text("NOTIFY autoship")
Insert = postgresql.Insert | sqlite.Insert


@dataclass
class Transaction:
    """An open transaction."""

    connection: Connection
    database: Database
    wakes_workers: bool = False

    @cached_property
    def now(self) -> datetime:
        """The database's time when it was first asked for; ask after the locks that order what depends on it."""
        if self.database.clock is not None:
            return self.database.clock()
        now: datetime = self.execute(_CLOCK).scalar_one()
        return now.astimezone(UTC)

    def told(self, now: datetime) -> None:
        """Takes the time that a statement brought along, instead of asking for it with one of its own."""
        self.__dict__.setdefault("now", now)

    def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[Any]:
        """Runs one statement."""
        return self.connection.execute(statement, parameters)

    def take_time(self) -> None:
        """Lets the statements to come run for as long as they need, however much is stored."""
        if not self.database.is_sqlite:
            self.execute(sa.text("SET LOCAL statement_timeout = 0"))

    def wake_workers(self) -> None:
        """Tells waiting workers, once this is committed, that there is something to do."""
        self.wakes_workers = True


class Database:
    """One database. Connections are made when first needed, so it may be built before a fork.

    `clock` takes the place of the server's, for tests; for SQLite it is this machine's. `patience_s` is how long a
    lock, a statement or a connection is waited for.
    """

    def __init__(self, url: str, clock: Callable[[], datetime] | None = None, patience_s: float = PATIENCE_S) -> None:
        self._url = sa.make_url(url)
        self._engine = _engine(self._url, patience_s)
        self.clock = clock or (_this_machines_time if self.is_sqlite else None)
        self._bell = _Bell(self._notify)
        self._built: dict[Callable[[Database], Executable], Executable] = {}
        # No connection is left for the server to find dead.
        weakref.finalize(self, self._engine.dispose)

    @property
    def is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @property
    def poll_interval_s(self) -> float:
        """How often a worker asks for due packages."""
        return 0.5 if self.is_sqlite else 1.0

    @contextmanager
    def transaction(self, *, of_one_statement: bool = False) -> Iterator[Transaction]:
        """One transaction that writes, committed at the end of the block, or with its one statement.

        Raises `DatabaseUnavailable` where it cannot be finished.
        """
        with self._transaction(self._on_its_own if of_one_statement else {}) as transaction:
            yield transaction
        if transaction.wakes_workers and not self.is_sqlite:
            self._bell.ring()

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """For statements that only read; on PostgreSQL each sees what is committed by then.

        Raises `DatabaseUnavailable`.
        """
        with self._transaction({"read_only": True} | self._on_its_own) as transaction:
            yield transaction

    @contextmanager
    def _transaction(self, options: dict[str, Any]) -> Iterator[Transaction]:
        try:
            with self._engine.connect() as connection:
                connection.execution_options(**options)
                with connection.begin():
                    yield Transaction(connection, self)
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as problem:
            if _is_our_defect(problem):
                raise
            if _is_disk_full(problem):
                self._shorten_log()
            raise DatabaseUnavailable(f"the database cannot be used: {_first_line(problem)}") from problem

    def _shorten_log(self) -> None:
        # Only a commit does so by itself, and there is none where the log, kept long by somebody's backup, filled
        # the disk.
        with suppress(sqlite3.Error, sa.exc.SQLAlchemyError), closing(self._engine.raw_connection()) as connection:
            connection.cursor().execute("PRAGMA wal_checkpoint")

    @property
    def _on_its_own(self) -> dict[str, Any]:
        # Each statement by itself, which spares a BEGIN and a COMMIT and so two round trips; SQLite has none.
        return {} if self.is_sqlite else {"isolation_level": "AUTOCOMMIT"}

    @property
    def insert(self) -> Callable[[sa.Table], Insert]:
        """INSERT of this dialect, which has `on_conflict_do_update`."""
        return sqlite.insert if self.is_sqlite else postgresql.insert

    @cached_property
    def time(self) -> sa.ColumnElement[datetime]:
        """The time at which a statement begins, within that statement."""
        if self.clock is not None:
            return sa.bindparam("time", callable_=self.clock, type_=Instant())
        seconds = sa.extract("epoch", sa.func.statement_timestamp())
        return sa.type_coerce(sa.cast(seconds * 1_000_000, sa.BigInteger), Instant())

    def built(self, build: Callable[[Database], Executable]) -> Executable:
        """A statement that takes `insert` or `time` of this database, built once: building costs more than running."""
        if build not in self._built:
            self._built[build] = build(self)
        return self._built[build]

    def migrate(self, oms_base_url: str) -> str | None:
        """Brings the schema to `HEAD` and binds the database to its OMS, in one transaction.

        Safe to run from several machines at once. Returns the revision it found, None for an empty database.
        Creates SQLite's file and its folder. Raises `DatabaseOfAnotherOms` and `DatabaseUnavailable`.
        """
        if self.is_sqlite and self._url.database:
            file = Path(self._url.database).resolve()
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
            except OSError as problem:
                raise DatabaseUnavailable(f"{file} cannot be made: {problem.strerror}") from problem
        with self.transaction() as transaction:
            transaction.take_time()
            if not self.is_sqlite:
                transaction.execute(sa.text("SET LOCAL lock_timeout = 0"))
                transaction.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            found = _revision(transaction)
            if found is not None and found < HEAD and not self.is_sqlite:
                # Before any lock on packages, whichever migrations are to come: a delivery is stored before its hint.
                transaction.execute(sa.text("LOCK TABLE deliveries IN SHARE MODE"))
            if found is None or found < HEAD:
                _upgrade(transaction.connection)
            self._bind(transaction, oms_base_url)
            return found

    def check(self, oms_base_url: str) -> None:
        """Raises `DatabaseOutdated` or `DatabaseOfAnotherOms` where this code must not work on it."""
        if self.is_sqlite and not (file := Path(self._url.database or "").resolve()).exists():
            raise DatabaseOutdated(f"the database does not exist yet: run `autoship migrate` to make {file}")
        with self.reading() as transaction:
            revision = _revision(transaction)
            if revision is None or revision < HEAD:
                raise DatabaseOutdated("the database is not migrated to this version: run `autoship migrate`")
            self._refuse_another_oms(transaction, oms_base_url)

    def probe_write(self) -> None:
        """Commits one small write. Raises `DatabaseUnavailable` where that is not possible."""
        with self.transaction() as transaction:
            transaction.execute(sa.update(deployment).values(probed_at=transaction.now))

    def listen(self, heard: Callable[[], None], until: Callable[[], bool]) -> None:
        """Calls `heard` at each wake-up, on a connection of its own; returns soon after `until`.

        Best effort: a wake-up may be lost. SQLite has none, so there it returns at once. Raises
        `DatabaseUnavailable`.
        """
        if self.is_sqlite:
            return
        with self.reading() as transaction:
            connection = transaction.connection
            driver: Any = connection.connection.driver_connection
            connection.detach()
            connection.exec_driver_sql("LISTEN autoship")
            try:
                while not until():
                    for _ in driver.notifies(timeout=_LISTEN_FOR_S, stop_after=1):
                        heard()
            except driver.OperationalError as problem:
                raise DatabaseUnavailable(f"wake-ups cannot be heard: {_first_line(problem)}") from problem

    def dispose(self) -> None:
        """Closes the connections that are not in use, after a last wake-up."""
        self._bell.finish()
        self._engine.dispose()

    def _notify(self) -> None:
        # Polling is what workers rely on.
        with suppress(DatabaseUnavailable), self.reading() as transaction:
            transaction.execute(_WAKE_UP)

    def _bind(self, transaction: Transaction, oms_base_url: str) -> None:
        self._refuse_another_oms(transaction, oms_base_url)
        if transaction.execute(sa.select(deployment.c.id)).first() is None:
            row = {"id": 1, "oms_base_url": oms_base_url, "migrated_at": transaction.now}
            transaction.execute(sa.insert(deployment).values(row))
        for table in (brakes, sweep, login):
            # Not tried with an insert: that waits for whoever holds the row, and may wait for a table migrated here.
            if transaction.execute(sa.select(table.c.id)).first() is None:
                transaction.execute(sa.insert(table).values(id=1))

    @staticmethod
    def _refuse_another_oms(transaction: Transaction, oms_base_url: str) -> None:
        bound = transaction.execute(sa.select(deployment.c.oms_base_url)).scalar()
        if bound is not None and bound != oms_base_url:
            raise DatabaseOfAnotherOms(
                f"this database was made for {bound}, but OMS_BASE_URL is {oms_base_url}: "
                "use a database of its own for each OMS; where it is the same one, see deploy/README.md, "
                "The OMS gets another address"
            )


class _Bell:
    """Rings soon, at most once in 20 ms, and never makes its caller wait."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._lock = threading.Lock()
        self._wanted = False
        self._ringer: threading.Thread | None = None

    def ring(self) -> None:
        with self._lock:
            self._wanted = True
            # Not alive before its time: a fork, or a defect.
            if self._ringer is None or not self._ringer.is_alive():
                self._ringer = threading.Thread(target=self._ring_while_wanted, name="bell")
                self._ringer.start()

    def finish(self) -> None:
        """Returns when nothing is left to ring."""
        with self._lock:
            ringer = self._ringer
        if ringer is not None:
            ringer.join()

    def _ring_while_wanted(self) -> None:
        while self._take_wish():
            self._ring()
            time.sleep(WAKE_UP_EVERY_S)

    def _take_wish(self) -> bool:
        with self._lock:
            wanted, self._wanted = self._wanted, False
            if not wanted:
                self._ringer = None
            return wanted


def _this_machines_time() -> datetime:
    return datetime.now(UTC)


def _engine(url: sa.URL, patience_s: float) -> Engine:
    options: dict[str, Any] = {
        "hide_parameters": True,
        "poolclass": sa.QueuePool,
        "pool_size": CONNECTIONS,
        "max_overflow": 0,
        "pool_timeout": patience_s,
    }
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, connect_args={"timeout": patience_s}, **options)
        event.listen(engine, "do_connect", _remember_file)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "checkout", _refuse_other_file)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    engine = sa.create_engine(url, connect_args=_postgresql_arguments(url, int(patience_s * 1000)), **options)
    event.listen(engine, "connect", _prepare_postgresql)
    event.listen(engine, "checkout", _refuse_closed)
    event.listen(engine, "handle_error", _leave_standby)
    return engine


def _postgresql_arguments(url: sa.URL, patience_ms: int) -> dict[str, Any]:
    settings = {
        "statement_timeout": patience_ms,
        "lock_timeout": patience_ms,
        # A process that froze within a transaction must not keep its locks.
        "idle_in_transaction_session_timeout": patience_ms + 1000,
        "timezone": "UTC",
        # Whoever waited for a row goes on with what it holds by then, whatever this server does by default.
        "default_transaction_isolation": r"read\ committed",
    }
    # Those of the URL first, such as a search_path: what is given here takes their place.
    given = url.normalized_query.get("options", ())
    return {
        "options": " ".join([*given, *(f"-c {name}={value}" for name, value in settings.items())]),
        "connect_timeout": max(2, patience_ms // 1000),
        # A server that went away without a word is noticed as fast as a statement that hangs.
        "tcp_user_timeout": patience_ms,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
    }


def _prepare_postgresql(connection: Any, _: object) -> None:
    # What was committed is on the disk before anybody acts on it. For which standbys that waits is the server's to say.
    connection.execute(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    )
    connection.commit()


def _refuse_closed(connection: Any, pooled: ConnectionPoolEntry, _: object) -> None:
    # Instead of a statement to try the connection with: a server that was not asked anything says nothing, so
    # what can be read is the end of the connection. A new one is left to its first statement.
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    if pooled.info.get("used") and waiting.poll(0):
        raise sa.exc.InvalidatePoolError
    pooled.info["used"] = True


def _leave_standby(context: sa.ExceptionContext) -> None:
    # After a failover the address leads to another server; a connection to the old one, a standby now, stays there.
    if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY:
        context.is_disconnect = True


def _remember_file(_: sa.Dialect, pooled: ConnectionPoolEntry, arguments: Sequence[str], __: object) -> None:
    pooled.info["file"] = arguments[0], _file_at(arguments[0])


def _refuse_other_file(_: object, pooled: ConnectionPoolEntry, __: object) -> None:
    # A file that was deleted or replaced is still there for whoever has it open, and for nobody else: what is
    # accepted into it ends with this process, and what other processes say, such as a pause, is not heard.
    path, opened = pooled.info["file"]
    if _file_at(path) != opened:
        raise sa.exc.InvalidatePoolError


def _file_at(path: str) -> tuple[int, int] | None:
    if path == ":memory:":
        return None
    try:
        found = Path(path).stat()
    except OSError as problem:  # to connect would make an empty one
        raise sqlite3.OperationalError(f"{path}: {problem.strerror}") from problem
    return found.st_dev, found.st_ino


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # sqlite3 must not begin transactions by itself: BEGIN IMMEDIATE below takes the write lock first,
    # so that a transaction never fails half-way because another one wrote meanwhile.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # What the log takes of the disk while somebody reads for long is given back afterwards.
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _revision(transaction: Transaction) -> str | None:
    if not sa.inspect(transaction.connection).has_table("alembic_version"):
        return None
    return transaction.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: Connection) -> None:
    # Imported here: only `up` and `migrate` need it, and it costs every start a tenth of a second.
    command = importlib.import_module("alembic.command")
    config = importlib.import_module("alembic.config").Config()
    config.set_main_option("script_location", os.fspath(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _is_our_defect(problem: sa.exc.SQLAlchemyError) -> bool:
    if not isinstance(problem, sa.exc.ProgrammingError | sa.exc.IntegrityError | sa.exc.DataError):
        return False
    return getattr(problem.orig, "sqlstate", None) not in (_INSUFFICIENT_PRIVILEGE, _UNDEFINED_TABLE)


def _is_disk_full(problem: sa.exc.SQLAlchemyError) -> bool:
    """Whether SQLite could not write; the first byte of its code says so, the others where."""
    code = getattr(getattr(problem, "orig", None), "sqlite_errorcode", 0)
    return code & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def _first_line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0]
