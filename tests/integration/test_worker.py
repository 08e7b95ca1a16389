"""The worker as it runs: threads, claims, wake-ups, heartbeat and end, against the stand-in OMS."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from service import brakes, operator, sandbox, worker, worklist
from service import config as configuration
from service.config import Config
from service.database import Database, attempts, packages, workers
from service.database import brakes as brakes_table
from service.web import create_app
from service.worker import Worker
from tests import postgres
from tests.conftest import MINIMAL, a_document, deliver, on_postgresql
from tests.integration.test_worklist import hint
from tests.oms_faults import FaultyOms, hangs
from tests.processes import wait_until

QUICK = {"SHIP_SLUG": "ship-without-integration", "SETTLE_S": "0.1", "RETRY_BASE_S": "0.2", "OMS_RATE_PER_S": "0"}


@contextmanager
def at_work(config: Config, name: str = "w") -> Iterator[Worker]:
    """A worker with a database handle of its own; at the end it must stop by itself."""
    database = Database(config.database_url)
    one = Worker(config, database, name)
    thread = threading.Thread(target=one.run)
    thread.start()
    try:
        yield one
    finally:
        one.stop()
        thread.join(worker.DRAIN_WITHIN_S + 2)
        assert not thread.is_alive()
        database.dispose()


@pytest.fixture
def oms() -> Iterator[FaultyOms]:
    oms = FaultyOms()
    yield oms
    oms.release.set()


@pytest.fixture
def quick(oms: FaultyOms, configured: Callable[..., Config]) -> Iterator[Callable[..., Config]]:
    """A configuration for the stand-in OMS that waits for nothing long."""
    with sandbox.serve(oms) as server:
        usual = QUICK | {"OMS_BASE_URL": server.url, "OMS_TOKEN": oms.token}
        yield lambda **variables: configured(**usual | variables)


def pack(oms: FaultyOms, *package_ids: int) -> None:
    for package_id in package_ids:
        oms.create(package_id)
        oms.pack(package_id)


def is_shipped(database: Database, *package_ids: int) -> Callable[[], bool]:
    def shipped() -> bool:
        query = sa.select(packages.c.package_id).where(packages.c.state == "shipped")
        with database.reading() as transaction:
            return set(package_ids) <= set(transaction.execute(query).scalars())

    return shipped


def test_two_workers_ship_every_package_once(oms: FaultyOms, quick: Callable[..., Config], database: Database) -> None:
    package_ids = range(1, 41)
    pack(oms, *package_ids)
    with at_work(quick(), "a"), at_work(quick(), "b"):
        hint(database, *package_ids)
        wait_until(is_shipped(database, *package_ids))
    assert {oms.commands_for(package_id) for package_id in package_ids} == {1}


def test_a_crash_of_one_look_stops_no_other(
    oms: FaultyOms, quick: Callable[..., Config], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    pack(oms, 73, 74, 75)
    hint(database, 73, 74, 75)
    row = {"package_id": 73, "episode": 1, "fence": 1, "outcome": "of_the_future"}
    with database.transaction() as transaction:
        transaction.execute(sa.update(packages).where(packages.c.package_id == 73).values(episode=1))
        times = {"started_at": transaction.now, "deadline_at": transaction.now}
        transaction.execute(sa.insert(attempts).values(row | times))
    with at_work(quick(OMS_CONCURRENCY="1")):
        wait_until(is_shipped(database, 74, 75))
    crashed = [record for record in caplog.records if record.message == "look.crashed"]
    assert [record.__dict__["fields"]["package_id"] for record in crashed] == [73]


def test_a_worker_without_its_database_writes_a_line_in_some_seconds_not_one_for_each_poll(
    quick: Callable[..., Config], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_AGAIN_AFTER_S", 2.0)

    def told() -> list[float]:
        named = [one for one in caplog.records if one.message == "database.unavailable"]
        return [one.created for one in named if one.__dict__["fields"]["where"] == "worker"]

    with at_work(quick(DATABASE_URL="postgresql://ayse@127.0.0.1:9/autoship")):
        wait_until(lambda: len(told()) == 2)
    first, second = told()
    assert second - first >= 2.0


def test_no_more_is_claimed_than_threads_are_free(
    oms: FaultyOms, quick: Callable[..., Config], database: Database
) -> None:
    pack(oms, 1, 2, 3, 4)
    oms.script("read", hangs, hangs)
    hint(database, 1, 2, 3, 4)
    with at_work(quick(OMS_CONCURRENCY="2")):
        wait_until(lambda: leased(database) == 2)
        oms.release.set()
        wait_until(is_shipped(database, 1, 2, 3, 4))


def leased(database: Database) -> int:
    query = sa.select(sa.func.count()).where(packages.c.leased_until.is_not(None))
    with database.reading() as transaction:
        found: int = transaction.execute(query).scalar_one()
    return found


def test_the_heartbeat_goes_on_while_every_thread_is_busy(
    oms: FaultyOms, quick: Callable[..., Config], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "HEARTBEAT_S", 0.1)
    pack(oms, 73)
    oms.script("read", hangs)
    hint(database, 73)
    with at_work(quick(OMS_CONCURRENCY="1")):
        wait_until(lambda: leased(database) == 1)
        busy_at = last_heartbeat(database)
        wait_until(lambda: last_heartbeat(database) > busy_at)
        assert leased(database) == 1
        oms.release.set()


def last_heartbeat(database: Database) -> datetime:
    with database.reading() as transaction:
        seen: datetime | None = transaction.execute(sa.select(workers.c.seen_at)).scalar()
    return seen or datetime.min.replace(tzinfo=UTC)


def test_a_look_that_is_under_way_is_finished_before_the_worker_ends(
    oms: FaultyOms, quick: Callable[..., Config], database: Database
) -> None:
    pack(oms, 73, 74)
    oms.script("read", hangs)
    hint(database, 73)
    with at_work(quick(OMS_CONCURRENCY="1")) as stopped:
        wait_until(lambda: leased(database) == 1)
        hint(database, 74)
        stopped.stop()
        oms.release.set()
    with database.reading() as transaction:
        rows = [worklist.find(transaction, package_id) for package_id in (73, 74)]
    assert [row and (row["leased_until"], row["fence"]) for row in rows] == [(None, 1), (None, 0)]


def commands_after_the_pause(database: Database) -> int:
    query = sa.select(sa.func.count()).where(
        attempts.c.started_at > sa.select(brakes_table.c.paused_at).scalar_subquery()
    )
    with database.reading() as transaction:
        found: int = transaction.execute(query).scalar_one()
    return found


def test_a_pause_stops_new_commands_of_all_workers_at_once_and_outlives_them_while_the_inbox_stays_open(
    oms: FaultyOms, quick: Callable[..., Config], database: Database
) -> None:
    package_ids = range(1, 61)
    pack(oms, *package_ids)
    config = quick()
    client = create_app(config, database).test_client()

    def looked_at(package_id: int) -> bool:
        with database.reading() as transaction:
            row = worklist.find(transaction, package_id)
        return row is not None and (row["state"], row["reason"]) == ("waiting", "brake")

    with at_work(config, "a"), at_work(config, "b"):
        hint(database, *package_ids[:40])
        wait_until(lambda: sum(oms.commands_for(package_id) for package_id in package_ids) >= 5)
        with database.transaction() as transaction:
            assert brakes.pause(transaction, "by an operator")
        for package_id in package_ids[40:50]:
            assert deliver(client, a_document(package_id, uuid=f"{package_id:032x}")).status_code == 202
        wait_until(lambda: all(looked_at(package_id) for package_id in package_ids[40:50]))
    with at_work(config, "c"), at_work(config, "d"):
        for package_id in package_ids[50:]:
            assert deliver(client, a_document(package_id, uuid=f"{package_id:032x}")).status_code == 202
        wait_until(lambda: all(looked_at(package_id) for package_id in package_ids[40:]))
        assert commands_after_the_pause(database) == 0
        assert operator.resume(database).done
        wait_until(is_shipped(database, *package_ids))
    assert {oms.commands_for(package_id) for package_id in package_ids} == {1}


@on_postgresql
def test_a_waiting_worker_is_woken_by_the_commit_of_a_hint(database: Database, database_url: str) -> None:
    heard, done = threading.Event(), threading.Event()
    listening = Database(database_url)
    thread = threading.Thread(target=listening.listen, args=(heard.set, done.is_set))
    thread.start()

    def hinted_and_heard() -> bool:  # one before the LISTEN is not
        hint(database, 73)
        return heard.wait(0.2)

    wait_until(hinted_and_heard)
    done.set()
    thread.join(10)
    assert not thread.is_alive()


def test_a_server_that_is_killed_and_comes_back_is_worked_with_again(oms: FaultyOms) -> None:
    pack(oms, 73, 74)
    with ExitStack() as stack:
        server = stack.enter_context(postgres.server())
        usual = MINIMAL | QUICK | {"OMS_BASE_URL": stack.enter_context(sandbox.serve(oms)).url, "OMS_TOKEN": oms.token}
        url = stack.enter_context(postgres.database(server.url))
        config = configuration.load(usual | {"DATABASE_URL": url})
        database = Database(url)
        database.migrate(config.oms.base_url)
        client = create_app(config, database).test_client()
        stack.enter_context(at_work(config))
        assert deliver(client, a_document(73)).status_code == 202
        wait_until(is_shipped(database, 73))
        server.kill()
        assert deliver(client, a_document(74)).status_code == client.get("/readyz").status_code == 503
        server.start()
        assert deliver(client, a_document(74)).status_code == 202
        assert client.get("/readyz").status_code == 200
        wait_until(is_shipped(database, 74))
    assert (oms.commands_for(73), oms.commands_for(74)) == (1, 1)
