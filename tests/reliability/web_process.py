"""The real web process, `python -m service web`, as its clients and its operator see it."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import sqlalchemy as sa

from service.database import Database, deliveries
from tests.conftest import MINIMAL, a_document, signed
from tests.processes import free_port, wait_until

PATH = "/webhooks/oms/packages"
START_WITHIN_S = 120.0


class WebProcess:
    """A web process over a migrated database, on a free port of loopback; its output goes to `log`."""

    def __init__(self, database_url: str, log: Path, **environ: str) -> None:
        self.database = Database(database_url)
        self.database.migrate(MINIMAL["OMS_BASE_URL"])
        self.port = free_port()
        self.log = log
        own = {"DATABASE_URL": database_url, "PORT": str(self.port), "LOG_LEVEL": "WARNING"}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service", "web"],
                env=os.environ | MINIMAL | own | environ,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            wait_until(self._is_up, START_WITHIN_S)
        except BaseException:
            self.close()
            raise

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self.log.read_text(encoding="utf-8")
        try:
            return get(self.port, "/livez") == 200
        except OSError:
            return False

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def stop(self, within_s: float = 30.0) -> tuple[int, float]:
        """Sends SIGTERM. The exit code, and how long it took."""
        began = time.monotonic()
        self._process.terminate()
        try:
            return self._process.wait(within_s), time.monotonic() - began
        finally:
            self.close()

    def close(self) -> None:
        """Leaves nothing behind, whatever happened."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self.database.dispose()

    def worker_pids(self) -> list[int]:
        """gunicorn's children, which do the work. Linux only."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in children.read_text(encoding="ascii").split()]

    def resident_bytes(self) -> int:
        """The memory of the children. Linux only."""
        pages = (Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1] for pid in self.worker_pids())
        return sum(int(count) for count in pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu_s(self) -> float:
        """The processor time the children have used, which says more than a clock on a shared machine. Linux only."""
        stats = (Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1] for pid in self.worker_pids())
        ticks = (sum(map(int, stat.split()[11:13])) for stat in stats)
        return sum(ticks) / os.sysconf("SC_CLK_TCK")


def seen(database: Database) -> int:
    """How many deliveries the inbox says were answered 2xx."""
    with database.reading() as transaction:
        return int(transaction.execute(sa.select(sa.func.coalesce(sa.func.sum(deliveries.c.seen), 0))).scalar_one())


def connect(port: int, timeout_s: float = 10.0, receive_buffer: int | None = None) -> socket.socket:
    """A connection; a small receive buffer makes a reader that is slow from the start."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(timeout_s)
    connection.connect(("127.0.0.1", port))
    return connection


def get(port: int, path: str, timeout_s: float = 10.0) -> int:
    """The status of a GET on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def post(connection: http.client.HTTPConnection, number: int) -> int:
    """Delivers package `number`, signed, under a uuid of its own; the status of the answer."""
    body = json.dumps(a_document(number, uuid=f"{number:032x}")).encode()
    connection.request("POST", PATH, body, signed(body))
    answer = connection.getresponse()
    answer.read()
    return answer.status
