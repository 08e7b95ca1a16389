"""The database goes and comes back under real processes: 503 meanwhile, then everything goes on without a hand."""

from __future__ import annotations

import http.client
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from service import sandbox
from service.database import Database
from service.sandbox import Request
from tests import postgres
from tests.conftest import MINIMAL, a_document, locked, signed
from tests.integration.test_worker import QUICK, is_shipped, pack
from tests.oms_faults import FaultyOms, Outcome
from tests.processes import free_port, wait_until
from tests.reliability.fleet import Member, end
from tests.reliability.web_process import PATH, get

ANSWER_WITHIN_S = 5
FULL = """
CREATE FUNCTION disk_is_full() RETURNS trigger AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$ LANGUAGE plpgsql;
"""
TABLES = ("deployment", "deliveries", "packages", "attempts")


@dataclass
class Scene:
    """A web process and a worker over one database."""

    oms: FaultyOms
    url: str
    server: postgres.Server | None
    web: Member
    worker: Member

    def deliver(self, package_id: int) -> tuple[int, str | None]:
        """The status of the answer and its Retry-After."""
        body = json.dumps(a_document(package_id, uuid=f"{package_id:032x}")).encode()
        assert self.web.port is not None
        connection = http.client.HTTPConnection("127.0.0.1", self.web.port, timeout=30)
        try:
            connection.request("POST", PATH, body, signed(body))
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers["Retry-After"]
        finally:
            connection.close()

    def readiness(self) -> int:
        assert self.web.port is not None
        return get(self.web.port, "/readyz")


@contextmanager
def is_locked(scene: Scene) -> Iterator[None]:
    with locked(scene.url):
        yield


@contextmanager
def is_gone(scene: Scene) -> Iterator[None]:
    assert scene.server is not None
    scene.server.kill()
    yield
    scene.server.start()


@contextmanager
def is_elsewhere(scene: Scene) -> Iterator[None]:
    file = Path(scene.url.removeprefix("sqlite:///"))
    elsewhere = file.rename(file.with_name("elsewhere.db"))
    yield
    elsewhere.rename(file)


@contextmanager
def is_full(scene: Scene) -> Iterator[None]:
    """No process may write a file beyond its first KiB; on PostgreSQL the server says that its disk is full."""
    if scene.server is None:
        _limit_files(scene, 1024)
        yield
        _limit_files(scene, resource.RLIM_INFINITY)
        return
    database = Database(scene.url)
    with database.transaction() as transaction:
        transaction.execute(sa.text(FULL))
        for table in TABLES:
            when = f"BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION disk_is_full()"
            transaction.execute(sa.text(f"CREATE TRIGGER full_disk {when}"))
    yield
    with database.transaction() as transaction:
        transaction.execute(sa.text("DROP FUNCTION disk_is_full CASCADE"))
    database.dispose()


def _limit_files(scene: Scene, most_bytes: int) -> None:
    for pid in (*scene.web.pids(), *scene.worker.pids()):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))


@pytest.fixture(params=["sqlite", "postgresql"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        server, url = None, f"sqlite:///{tmp_path}/autoship.db"
        if request.param == "postgresql":
            server = stack.enter_context(postgres.server())
            url = stack.enter_context(postgres.database(server.url))
        oms = FaultyOms()
        stack.callback(oms.release.set)
        served = stack.enter_context(sandbox.serve(oms))
        database = Database(url)
        database.migrate(served.url)
        database.dispose()
        variables = MINIMAL | QUICK | {"OMS_BASE_URL": served.url, "OMS_TOKEN": oms.token, "DATABASE_URL": url}
        variables |= {"OMS_TIMEOUT_S": "2", "LEASE_S": "5", "SWEEP_INTERVAL_S": "0"}
        members: list[Member] = []
        stack.callback(end, members)
        port = free_port()
        members.append(Member("web", ["service", "web"], variables | {"PORT": str(port)}, tmp_path, port))
        members.append(Member("worker", ["service", "worker"], variables, tmp_path))
        for member in members:
            member.wait_until_ready()
        yield Scene(oms, url, server, *members)


@pytest.mark.parametrize(
    ("scene", "outage"),
    [
        ("sqlite", is_locked),
        ("sqlite", is_full),
        ("sqlite", is_elsewhere),
        ("postgresql", is_locked),
        ("postgresql", is_full),
        ("postgresql", is_gone),
    ],
    indirect=["scene"],
)
def test_while_the_database_cannot_be_used_senders_get_503_and_afterwards_all_goes_on_by_itself(
    scene: Scene, outage: Callable[[Scene], AbstractContextManager[None]]
) -> None:
    commanded, go = threading.Event(), threading.Event()

    def answered_during_the_outage(oms: FaultyOms, request: Request) -> Outcome:
        commanded.set()
        go.wait(30)
        return oms.answer_well(request)

    pack(scene.oms, 73, 74, 75)
    pids = scene.web.pids() | scene.worker.pids()
    assert scene.deliver(73) == (202, None)
    database = Database(scene.url)
    wait_until(is_shipped(database, 73))
    database.dispose()
    scene.oms.script("command", answered_during_the_outage)
    assert scene.deliver(74) == (202, None)
    assert commanded.wait(30)
    with outage(scene):
        go.set()
        began = time.monotonic()
        assert scene.deliver(75) == (503, "5")
        assert time.monotonic() - began < ANSWER_WITHIN_S
        assert scene.readiness() == 503
        wait_until(lambda: "database.unavailable" in scene.worker.log)
    wait_until(lambda: scene.deliver(75) == (202, None))
    assert scene.readiness() == 200
    wait_until(is_shipped(database, 73, 74, 75))
    database.dispose()
    assert [scene.oms.commands_for(package_id) for package_id in (73, 74, 75)] == [1, 1, 1]
    assert scene.web.pids() | scene.worker.pids() == pids
