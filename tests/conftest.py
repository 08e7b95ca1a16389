"""What all tests share: a database, a configuration, the application, deliveries as the OMS sends them."""

from __future__ import annotations

import io
import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from service import cli, sender
from service import config as configuration
from service.config import Config
from service.database import Database
from service.web import create_app
from tests import commands, postgres
from tests.commands import Autoship

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

SECRET = "s3cr3t"
MINIMAL = {
    "OMS_BASE_URL": "http://127.0.0.1:9",
    "OMS_TOKEN": "token-canary",
    "SHIP_TRANSITION_ID": "12",
    "WEBHOOK_SECRETS": SECRET,
}
USUAL_SETTINGS = configuration.load({**MINIMAL, "DATABASE_URL": "sqlite:///unused.db"}).settings


@pytest.fixture
def unlogged() -> Iterator[None]:
    """For thousands of looks whose log nobody reads."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows what tests measured, also where they ran in other processes."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties if report.when == "call" else ():
            terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server."""
    with postgres.server_url() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with nothing in it, of each kind; `on_sqlite` and `on_postgresql` choose one."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/autoship.db"
        return
    with postgres.database(request.getfixturevalue("postgres_url")) as url:
        yield url


@pytest.fixture
def no_signal_is_ignored() -> Iterator[None]:
    """A job in the background of a shell ignores SIGINT, `nohup` SIGHUP; both hand that down to what they start."""
    handlers = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    }
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def configured(database_url: str) -> Callable[..., Config]:
    """The configuration of an environment with the given variables over a minimal one."""

    def configure(**variables: str) -> Config:
        return configuration.load({**MINIMAL, "DATABASE_URL": database_url, **variables})

    return configure


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A migrated, empty database."""
    database = Database(database_url)
    database.migrate(MINIMAL["OMS_BASE_URL"])
    yield database
    database.dispose()


@pytest.fixture
def app(configured: Callable[..., Config], database: Database) -> Flask:
    return create_app(configured(), database)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def autoship(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, database_url: str
) -> Autoship:
    """Runs a command in this process, in an empty folder; `answer` is what a person types, or where it is read from."""

    def run(*arguments: str, answer: str | io.StringIO = "", **variables: str) -> commands.Ended:
        environ = commands.environment(**{**MINIMAL, "DATABASE_URL": database_url, **variables})
        monkeypatch.setattr("os.environ", environ)
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer) if isinstance(answer, str) else answer)
        monkeypatch.chdir(tmp_path)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.run(arguments)
        assert isinstance(ended.value.code, int)
        return commands.Ended(ended.value.code, *capsys.readouterr())

    return run


@contextmanager
def locked(database_url: str) -> Iterator[None]:
    """Another process in the middle of a write that does not end."""
    blocker = Database(database_url, patience_s=60)
    with blocker.transaction() as transaction:  # all it takes on SQLite
        if not blocker.is_sqlite:
            # In this order, as a delivery is stored before its package is hinted at.
            transaction.execute(sa.text("LOCK TABLE brakes, deliveries, packages, deployment"))
        yield


def a_document(package_id: object = 73, **changes: Any) -> dict[str, Any]:
    """A package webhook saying Packed; `state`, `type` and `uuid` change those parts of it."""
    state = changes.pop("state", "500")
    return {
        "event": {
            "type": changes.pop("type", "package.status.packed"),
            "uuid": changes.pop("uuid", "c9591f0d1c1d4da58ade880921bd7e93"),
        },
        "payload": {
            "id": package_id,
            "city": "\u0130stanbul",
            "state": {"enum_class": "PackageStatus", "enum_value": state},
            **changes,
        },
    }


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    """The headers the sender puts on `body`."""
    return sender.headers("package.status.packed", body, secret)


def deliver(client: FlaskClient, document: object, **headers: str) -> Any:
    """The answer to a signed delivery of `document`."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return client.post("/webhooks/oms/packages", data=body, headers={**signed(body), **headers})
