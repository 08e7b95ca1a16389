"""SIGTERM with work in flight: the process ends with 0 within 10 s, and what it left is settled by reading first."""

from __future__ import annotations

import http.client
import itertools
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from service import sandbox
from service.database import Database, attempts, packages
from service.sandbox import Request
from tests import commands
from tests.conftest import MINIMAL, locked
from tests.integration.test_worker import QUICK, is_shipped, pack
from tests.integration.test_worklist import hint
from tests.oms_faults import Fault, FaultyOms, Outcome, applied_then, hangs
from tests.processes import wait_until
from tests.reliability.web_process import WebProcess, post, seen

END_WITHIN_S = 10


@pytest.fixture
def oms() -> Iterator[FaultyOms]:
    oms = FaultyOms(hang_s=60)
    yield oms
    oms.release.set()


def reaching(reached: threading.Event, fault: Fault) -> Fault:
    """The same fault, and the test knows when it began."""

    def begin(oms: FaultyOms, request: Request) -> Outcome:
        outcome = fault(oms, request)
        reached.set()
        return outcome

    return begin


def let_leases_run_out(database: Database) -> None:
    """As if the time of everything that is left had passed."""
    with database.transaction() as transaction:
        transaction.execute(sa.update(packages).values(leased_until=transaction.now))
        transaction.execute(sa.update(attempts).values(deadline_at=transaction.now))


def test_a_worker_told_to_end_leaves_what_hangs_open_and_its_heir_reads_before_anything_else(
    oms: FaultyOms, database_url: str, tmp_path: Path
) -> None:
    commanded, asked = threading.Event(), threading.Event()
    pack(oms, 73, 74)
    with sandbox.serve(oms) as server:
        variables = MINIMAL | QUICK | {"OMS_BASE_URL": server.url, "OMS_TOKEN": oms.token}
        # Longer than a worker may take to end.
        variables |= {"DATABASE_URL": database_url, "OMS_TIMEOUT_S": "60", "LEASE_S": "121", "SWEEP_INTERVAL_S": "0"}
        database = Database(database_url)
        database.migrate(server.url)
        with commands.running("worker", cwd=tmp_path, variables=variables) as worker:
            oms.script("command", reaching(commanded, applied_then(hangs)))
            hint(database, 73)
            assert commanded.wait(commands.PATIENCE_S)
            oms.script("read", reaching(asked, hangs))
            hint(database, 74)
            assert asked.wait(commands.PATIENCE_S)
            assert worker.end(signal.SIGTERM, END_WITHIN_S) == 0
            assert '"unfinished": 2' in worker.wait_for("worker.stopped")
        oms.release.set()
        let_leases_run_out(database)
        already = len(oms.received)
        with commands.running("worker", cwd=tmp_path, variables=variables) as heir:
            wait_until(is_shipped(database, 73, 74))
            assert heir.end(signal.SIGTERM, END_WITHIN_S) == 0
        database.dispose()
    asked_of_73 = [one.operation for one in oms.received[already:] if one.package_id == 73 and one.status]
    assert asked_of_73[0] == "read"
    assert "command" not in asked_of_73
    assert [oms.shipped_by_command(package_id) for package_id in (73, 74)] == [1, 1]


@pytest.fixture
def web(database_url: str, tmp_path: Path) -> Iterator[WebProcess]:
    process = WebProcess(database_url, tmp_path / "web.log")
    yield process
    process.close()


def test_a_web_process_told_to_end_while_senders_wait_ends_with_0_and_has_stored_what_it_acknowledged(
    web: WebProcess, database_url: str
) -> None:
    numbers, statuses = itertools.count(1), list[int | None]()

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=30)
        try:
            while True:
                statuses.append(None)
                statuses[-1:] = [post(connection, next(numbers))]
        except (OSError, http.client.HTTPException):
            return  # the process has ended
        finally:
            connection.close()

    senders = [threading.Thread(target=send) for _ in range(4)]
    with ExitStack() as silent:
        for _ in range(8):
            silent.enter_context(socket.create_connection(("127.0.0.1", web.port)))
        for sender in senders:
            sender.start()
        wait_until(lambda: statuses.count(202) >= 20)
        with locked(database_url):
            exit_code, took_s = web.stop()
        for sender in senders:
            sender.join(30)
    assert exit_code == 0
    assert took_s < END_WITHIN_S
    assert statuses.count(202) <= seen(web.database) <= len(statuses)
    assert set(statuses) <= {202, 503, None}
