"""What is measured: this product and the baselines, each as processes of its own, and what they use of the machine."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from service import config as configuration
from service.database import Database, Transaction, sweep
from service.oms import FixedToken, Oms
from service.outcome import Command
from service.sandbox import SANDBOX_SECRET, StandInOms
from tests import postgres
from tests.bench import floor
from tests.bench.load import PATH, Plan, Told
from tests.bench.oms import BENCH
from tests.processes import free_port, wait_until
from tests.reliability.fleet import ROOT, Member, end

AT_ONCE = 8
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_GUNICORN = ("gunicorn", "--config", os.fspath(Path(__file__).with_name("gunicorn_settings.py")))
_CELERY = ("celery", "--app", "tests.bench.textbook:queue", "worker", "--loglevel=INFO", f"--concurrency={AT_ONCE}")

# A claim raises the fence and gives a lease from the moment on at which the rate was taken.
_NOTING_CLAIMS = (
    "CREATE TABLE claims (at bigint)",
    """CREATE FUNCTION note_claim() RETURNS trigger LANGUAGE plpgsql AS
       $$ BEGIN INSERT INTO claims VALUES (NEW.leased_until); RETURN NULL; END $$""",
    """CREATE TRIGGER noting_claims AFTER UPDATE OF fence ON packages FOR EACH ROW
       WHEN (NEW.fence > OLD.fence AND NEW.leased_until IS NOT NULL) EXECUTE FUNCTION note_claim()""",
)


@dataclass(frozen=True)
class Side:
    """One solution, running. `processes` are web and worker; `store` is the server they keep things in, if any."""

    port: int
    processes: list[Member]
    store: int | None = None
    place: Database | None = None
    shipped_at: str = "SELECT changed_at / 1e6 FROM packages WHERE state = 'shipped'"
    environment: Mapping[str, str] = field(default_factory=dict)

    def pids(self) -> set[int]:
        return {pid for member in self.processes for pid in member.pids()}

    def swept(self) -> bool:
        """Whether the first sweep is over; the next is minutes away."""
        if self.place is None:
            raise TypeError("only Autoship sweeps")
        with self.place.reading() as transaction:
            return transaction.execute(sa.select(sweep.c.finished_at)).scalar() is not None

    def shipped(self) -> tuple[int, float]:
        """How many packages are known to be shipped, and when the last of them became so."""
        if self.place is None:
            raise TypeError("it does not know what became of a package")
        with self.place.reading() as transaction:
            moments = transaction.execute(sa.text(self.shipped_at)).scalars().all()
        return len(moments), float(max(moments, default=0.0))

    def note_claims(self) -> None:
        """From now on the database remembers when each package was taken up, by the worker's own count of time."""
        if self.place is None:
            raise TypeError("only Autoship claims")
        with self.place.transaction() as transaction:
            for statement in _NOTING_CLAIMS:
                transaction.execute(sa.text(statement))

    def claimed_at(self) -> list[float]:
        """Those moments, in their order, as seconds since the epoch."""
        if self.place is None:
            raise TypeError("only Autoship claims")
        with self.place.reading() as transaction:
            return list(map(float, transaction.execute(sa.text("SELECT at / 1e6 FROM claims ORDER BY at")).scalars()))


class Ground:
    """The machine on which sides are started: a PostgreSQL, a stand-in OMS, a folder, free ports."""

    def __init__(self, stack: ExitStack) -> None:
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autoship-bench-")))
        self._server = stack.enter_context(postgres.server())
        self._numbers = iter(range(10**6))
        self._oms_port = free_port()
        oms = Member("oms", ["tests.bench.oms", str(self._oms_port)], {}, self._folder, self._oms_port)
        stack.callback(end, [oms])
        oms.wait_until_ready()
        self._postmaster, self._postgres_log = _postmaster(self._server.url)

    def postgres_version(self) -> str:
        """As it calls itself."""
        with Database(self._server.url).reading() as transaction:
            version = transaction.execute(sa.text("SHOW server_version")).scalar_one()
        return f"PostgreSQL {version.split()[0]}"

    def begin(self, packages: int, latency_s: float = 0.0, echo: Side | None = None) -> None:
        """The OMS forgets what it was asked, and has so many packed packages."""
        url = f"http://127.0.0.1:{echo.port}{PATH}" if echo else None
        self._bench("PUT", json.dumps({"packages": packages, "latency_s": latency_s, "echo": url}))

    def asked(self) -> dict[str, Any]:
        """The OMS's `Asked`."""
        asked: dict[str, Any] = self._bench("GET", "")
        return asked

    def load(self, side: Side, packages: int, rate_per_s: float = 0.0, repeated_every: int = 0) -> Told:
        """Sends webhooks to a side until all are answered."""
        return _load(Plan(side.port, packages, rate_per_s, repeated_every))

    def ceiling(self, calls: int) -> float:
        """How many calls a second the stand-in OMS itself answers."""
        self.begin(calls)
        told = _load(Plan(self._oms_port, calls, asks_oms=True))
        return calls / (told.ended_at - told.began_at)

    def three_calls_s(self, packages: int) -> float:
        """The CPU seconds in which the OMS client reads, commands and reads back so many packages, one by one."""
        self.begin(packages)
        config = configuration.load(self._environment(self._server.url, {})).oms
        oms, command = Oms(config, FixedToken(config.token)), Command(StandInOms().transition_id, None)
        before_s = time.process_time()
        for package_id in range(1, packages + 1):
            oms.read(package_id)
            oms.command(package_id, command)
            oms.read(package_id)
        taken_s = time.process_time() - before_s
        oms.close()
        return taken_s

    def statements(self, while_s: float) -> int:
        """How many statements PostgreSQL is asked to run in so many seconds from now."""
        with Database(self._server.url).reading() as transaction:
            _log_statements(transaction, "all")
            time.sleep(0.5)
            before = self._postgres_log.stat().st_size
            time.sleep(while_s)
            said = self._postgres_log.read_bytes()[before:]
            _log_statements(transaction, "none")
        return len(re.findall(rb"LOG:  (?:statement|execute [^:]*):", said))

    @contextmanager
    def autoship(self, workers: int = 1, **variables: str) -> Iterator[Side]:
        """Web and workers on PostgreSQL."""
        with postgres.database(self._server.url) as url, self._members() as members:
            environment = self._environment(url, variables)
            port, database = int(environment["PORT"]), Database(url)
            database.migrate(environment["OMS_BASE_URL"])
            members.append(Member("web", ["service", "web"], environment, self._new_folder(), port))
            members[0].wait_until_ready()
            side = Side(port, members, self._postmaster, database, environment=environment)
            self.add_workers(side, workers)
            yield side
            database.dispose()

    def add_workers(self, side: Side, number: int) -> None:
        """So many workers more; returns when they work."""
        added = [Member("worker", ["service", "worker"], side.environment, self._new_folder()) for _ in range(number)]
        side.processes.extend(added)
        for worker in added:
            worker.wait_until_ready()

    @contextmanager
    def autoship_on_sqlite(self, **variables: str) -> Iterator[Side]:
        """`autoship up`."""
        folder = self._new_folder()
        environment = self._environment(f"sqlite:///{folder}/autoship.db", variables)
        port = int(environment["PORT"])
        with self._members() as members:
            members.append(Member("up", ["service", "up"], environment, folder, port))
            members[0].wait_until_ready()
            yield Side(port, members, place=Database(environment["DATABASE_URL"]))

    @contextmanager
    def bare(self) -> Iterator[Side]:
        """Flask that reads the body."""
        with self._flask("tests.bench.bare:create_app()", {}) as (port, members):
            yield Side(port, members)

    @contextmanager
    def naive(self) -> Iterator[Side]:
        """Flask that sends the command within the request."""
        variables = {"NAIVE_DATABASE": f"{self._new_folder()}/naive.db"}
        with self._flask("tests.reliability.naive:create_app()", variables) as (port, members):
            yield Side(port, members)

    @contextmanager
    def textbook(self) -> Iterator[Side]:
        """Flask, Redis as Debian configures it, and Celery."""
        with (
            self._redis() as (url, redis),
            self._flask("tests.bench.textbook:create_app()", {"BROKER_URL": url}) as (
                port,
                members,
            ),
        ):
            environment = self._environment("", {"BROKER_URL": url})
            members.append(Member("celery", list(_CELERY), environment, self._new_folder()))
            members[-1].wait_until_ready()
            yield Side(port, members, redis.pid)

    @contextmanager
    def floor(self) -> Iterator[Side]:
        """The least that keeps the promises, on PostgreSQL."""
        with postgres.database(self._server.url) as url:
            environment = self._environment(url, {})
            floor.prepare(environment["DATABASE_URL"])
            variables = {"DATABASE_URL": environment["DATABASE_URL"]}
            with self._flask("tests.bench.floor:create_app()", variables) as (port, members):
                members.append(Member("floor", ["tests.bench.floor"], environment, self._new_folder()))
                members[-1].wait_until_ready()
                place = Database(url)
                yield Side(port, members, self._postmaster, place, floor.SHIPPED_AT)
                place.dispose()

    @contextmanager
    def _flask(self, app: str, variables: dict[str, str]) -> Iterator[tuple[int, list[Member]]]:
        environment = self._environment("", variables)
        port = int(environment["PORT"])
        with self._members() as members:
            members.append(Member("web", [*_GUNICORN, app], environment, self._new_folder(), port))
            members[0].wait_until_ready()
            yield port, members

    @contextmanager
    def _redis(self) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
        port, folder = free_port(), self._new_folder()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", os.fspath(folder)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as redis:
            try:
                wait_until(lambda: subprocess.run(["redis-cli", "-p", str(port), "ping"], capture_output=True).stdout)
                yield f"redis://127.0.0.1:{port}/0", redis
            finally:
                redis.kill()

    @contextmanager
    def _members(self) -> Iterator[list[Member]]:
        members: list[Member] = []
        try:
            yield members
        finally:
            end(members)

    def _new_folder(self) -> Path:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        return folder

    def _environment(self, url: str, variables: dict[str, str]) -> dict[str, str]:
        oms = StandInOms()
        return {
            "OMS_BASE_URL": f"http://127.0.0.1:{self._oms_port}",
            "OMS_TOKEN": oms.token,
            "SHIP_TRANSITION_ID": str(oms.transition_id),
            "WEBHOOK_SECRETS": SANDBOX_SECRET,
            "DATABASE_URL": url.replace("postgresql+psycopg:", "postgresql:"),
            "PORT": str(free_port()),
            "OMS_CONCURRENCY": str(AT_ONCE),
            "LOG_FORMAT": "json",
        } | variables

    def _bench(self, method: str, body: str) -> Any:
        line = http.client.HTTPConnection("127.0.0.1", self._oms_port, timeout=60)
        line.request(method, BENCH, body, {"Content-Length": str(len(body))})
        found = json.loads(line.getresponse().read())
        line.close()
        return found


def _load(plan: Plan) -> Told:
    command = [sys.executable, "-m", "tests.bench.load", json.dumps(asdict(plan))]
    told = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    if told["failed"]:
        raise RuntimeError(f"{told['failed']} of the requests failed")
    return Told(**told | {"sent_at": {int(one): at for one, at in told["sent_at"].items()}})


def _log_statements(transaction: Transaction, which: str) -> None:
    transaction.execute(sa.text(f"ALTER SYSTEM SET log_statement = '{which}'"))
    transaction.execute(sa.text("SELECT pg_reload_conf()"))


def _postmaster(url: str) -> tuple[int, Path]:
    """Its process id and its log."""
    database = Database(url)
    with database.reading() as transaction:
        folder = Path(transaction.execute(sa.text("SELECT current_setting('data_directory')")).scalar_one())
    database.dispose()
    return int((folder / "postmaster.pid").read_text(encoding="utf-8").split()[0]), folder.parent / "log"


def cpu_s(pids: set[int]) -> float:
    """The CPU that processes and their ended children have used."""
    found = 0.0
    for pid in pids:
        with suppress(FileNotFoundError):  # it has ended, and its parent counts for it
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            found += sum(map(int, fields[11:15])) * _TICK_S
    return found


def memory_mb(pids: set[int]) -> float:
    """Their proportional set size: what they share counts once."""
    rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8") for pid in pids)
    return sum(int(text.partition("Pss:")[2].split()[0]) for text in rollups) / 1024
