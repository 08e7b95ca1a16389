"""Logging in to Omnitron: once for all processes, again after a 401, three times in six minutes at most."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from service import sandbox
from service.config import Config
from service.database import Database, login
from service.login import credentials
from service.oms import Credentials, Oms
from service.outcome import Accepted, Command, NotSent, ReadFailed, Unauthorised
from service.snapshot import PackageSnapshot
from tests.integration.conftest import Clock
from tests.oms_faults import FaultyOms, answers, hangs


@pytest.fixture
def oms(clock: Clock) -> Iterator[FaultyOms]:
    oms = FaultyOms(clock=clock)
    oms.create(73)
    oms.pack(73)
    yield oms
    oms.release.set()


@pytest.fixture
def config(oms: FaultyOms, configured: Callable[..., Config]) -> Iterator[Config]:
    with sandbox.serve(oms) as server:
        login = {"OMNITRON_BASE_URL": server.url, "OMNITRON_USERNAME": "autoship", "OMNITRON_PASSWORD": oms.password}
        yield configured(OMS_TOKEN="", OMS_BASE_URL=server.url, OMS_TIMEOUT_S="2", **login)


@pytest.fixture
def client(config: Config, store: Database) -> Iterator[Oms]:
    oms = Oms(config.oms, credentials(config.oms, store))
    yield oms
    oms.close()


def logins(oms: FaultyOms) -> int:
    return sum(one.operation == "login" for one in oms.received)


def test_the_token_of_one_login_serves_every_call_and_every_process(
    oms: FaultyOms, client: Oms, config: Config, store: Database
) -> None:
    assert isinstance(client.read(73), PackageSnapshot)
    assert isinstance(client.read(73), PackageSnapshot)
    another = Oms(config.oms, credentials(config.oms, store))
    assert isinstance(another.read(73), PackageSnapshot)
    another.close()
    assert logins(oms) == 1


def test_another_user_who_is_configured_gets_a_token_of_its_own_though_that_of_the_last_one_still_serves(
    oms: FaultyOms, client: Oms, config: Config, store: Database
) -> None:
    client.read(73)
    assert config.oms.omnitron is not None
    other = replace(config.oms, omnitron=replace(config.oms.omnitron, username="ayse"))
    oms.script("login", answers(200, b'{"key": "of-ayse"}'))
    assert [credentials(other, store).current() for _ in range(2)] == ["of-ayse"] * 2
    assert credentials(config.oms, store).current() == oms.token
    assert logins(oms) == 3


def test_a_token_of_an_older_version_which_does_not_say_whose_it_is_serves(
    oms: FaultyOms, config: Config, store: Database
) -> None:
    with store.transaction() as transaction:
        transaction.execute(sa.update(login).values(token=oms.token))
    assert credentials(config.oms, store).current() == oms.token
    assert logins(oms) == 0


def test_processes_that_need_a_token_at_once_log_in_once(oms: FaultyOms, config: Config, store: Database) -> None:
    processes: list[Credentials] = [credentials(config.oms, store) for _ in range(8)]
    tokens: list[str | None] = []
    threads = [threading.Thread(target=lambda one=one: tokens.append(one.current())) for one in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tokens == [oms.token] * 8
    assert logins(oms) == 1


def test_a_read_that_is_answered_401_logs_in_again_and_is_repeated_once(oms: FaultyOms, client: Oms) -> None:
    client.read(73)
    oms.revoke_token()
    assert isinstance(client.read(73), PackageSnapshot)
    assert logins(oms) == 2
    oms.always("read", answers(401))
    assert client.read(73) == Unauthorised(401, "")
    assert logins(oms) == 3


def test_a_command_that_is_answered_401_is_not_repeated(oms: FaultyOms, client: Oms) -> None:
    client.read(73)
    oms.revoke_token()
    command = Command(oms.transition_id, None)
    assert isinstance(client.command(73, command), Unauthorised)
    assert oms.commands_for(73) == 1
    client.read(73)
    assert client.command(73, command) == Accepted(204)


def test_three_logins_in_six_minutes_are_the_most(oms: FaultyOms, client: Oms, clock: Clock) -> None:
    oms.always("login", answers(400, b'{"non_field_errors": ["no"]}'))
    for _ in range(5):
        assert client.read(73) == ReadFailed("no token: the login failed")
    assert logins(oms) == 3
    assert client.command(73, Command(12, None)) == NotSent("no token: the login failed")
    oms.always("login", None)
    clock.turn(timedelta(minutes=6))
    assert isinstance(client.read(73), PackageSnapshot)


def test_a_log_that_refuses_the_token_costs_no_login(oms: FaultyOms, client: Oms) -> None:
    client.read(73)
    oms.always("log", answers(401))
    assert client.transition_log(73) == Unauthorised(401, "")
    assert isinstance(client.read(73), PackageSnapshot)
    assert logins(oms) == 1


def test_a_token_that_one_address_refused_serves_the_others_while_no_better_one_is_to_be_had(
    oms: FaultyOms, client: Oms, config: Config, store: Database
) -> None:
    client.read(73)
    oms.always("login", answers(429))
    oms.always("list", answers(401))
    for _ in range(4):
        assert client.list_packed("?") == Unauthorised(401, "")
    another = Oms(config.oms, credentials(config.oms, store))
    assert isinstance(another.read(73), PackageSnapshot)
    assert isinstance(client.read(73), PackageSnapshot)
    another.close()


def test_a_clock_set_back_does_not_keep_us_from_logging_in(oms: FaultyOms, client: Oms, clock: Clock) -> None:
    for _ in range(3):
        client.read(73)
        oms.revoke_token()
    clock.turn(-timedelta(days=1))
    assert isinstance(client.read(73), PackageSnapshot)


def test_a_login_that_hangs_ends_at_its_deadline_and_frees_the_turn(oms: FaultyOms, client: Oms, clock: Clock) -> None:
    oms.script("login", hangs)
    assert isinstance(client.read(73), ReadFailed)
    assert isinstance(client.read(73), PackageSnapshot)


def test_the_other_address_of_the_login_is_asked_where_the_first_is_not_there(oms: FaultyOms, client: Oms) -> None:
    oms.script("login", answers(404))
    assert isinstance(client.read(73), PackageSnapshot)
    assert [one.status for one in oms.received] == [404, 200, 200]
