"""The manifests of Akinon Commerce Cloud (ACC) and of Heroku, and Autoship built, released and run as ACC does it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import config as configuration
from service import sandbox
from tests import postgres
from tests.conftest import MINIMAL, SECRET
from tests.deploy.conftest import Built, run
from tests.deploy.rehearsal import CLEAN, opened
from tests.house.events import EVENTS
from tests.processes import free_port, wait_until
from tests.reliability.campaign import books_of
from tests.reliability.courier import Courier
from tests.reliability.ledger import WitnessOms, judge

ROOT = Path(__file__).parents[2]
# A URL that is put together without care breaks on this password.
USER, PASSWORD = "acc_user", "p@ss:w/rd%41"
ENDED_WITHIN_S = 12.0


def _json(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((ROOT / name).read_text(encoding="utf-8"))
    return document


ACC, HEROKU = _json("akinon.json"), _json("app.json")
PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("manifest", [ACC, HEROKU], ids=["akinon.json", "app.json"])
def test_the_manifest_runs_the_processes_of_the_procfile(manifest: dict[str, Any]) -> None:
    assert set(manifest["formation"]) == set(PROCFILE) - {"release"}


def test_both_platforms_release_with_the_same_command() -> None:
    assert ACC["scripts"]["release"] == PROCFILE["release"]


def test_the_runtime_is_a_python_we_support() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    oldest, runtime = project["requires-python"].removeprefix(">="), ACC["runtime"]
    image, version = runtime.removesuffix("-slim").split(":")
    assert image == "python"
    assert tuple(map(int, version.split("."))) >= tuple(map(int, oldest.split(".")))


def test_what_heroku_asks_for_is_enough_and_commands_nothing_yet() -> None:
    asked = {name: one.get("value") or MINIMAL.get(name, "generated") for name, one in HEROKU["env"].items()}
    config = configuration.load(asked | {"DATABASE_URL": "postgres://user:password@host/name"})
    assert not config.settings.live


@contextmanager
def _postgresql_addon() -> Iterator[dict[str, str]]:
    """The variables that lead to a PostgreSQL on the network."""
    port = free_port()
    with postgres.server(port) as server:
        postgres.administer(server.url, f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
        postgres.administer(server.url, f"CREATE DATABASE acc OWNER {USER}")
        yield {
            "DB_HOST": "127.0.0.1",
            "DB_PORT": str(port),
            "DB_NAME": "acc",
            "DB_USER": USER,
            "DB_PASSWORD": PASSWORD,
        }


@contextmanager
def _replica(built: Built, name: str, number: int, variables: dict[str, str]) -> Iterator[Path]:
    """A process of the Procfile in the application's folder; its output. SIGTERM ends it with 0."""
    output = built.app.parent / f"{name}-{number}.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {PROCFILE[name]}"], cwd=built.app, env=variables, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield output
            process.terminate()
            assert process.wait(ENDED_WITHIN_S) == 0, output.read_text(encoding="utf-8")
        finally:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        health = ACC["formation"]["web"]["healthcheck"]
        return httpx.get(f"http://127.0.0.1:{port}{health}", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_acc_builds_releases_and_runs_it_and_its_replicas_ship_each_package_once(built: Built) -> None:
    oms = WitnessOms(doubles=0.2)
    with _postgresql_addon() as addon, sandbox.serve(oms) as server, contextlib.ExitStack() as stack:
        given = {"ACC_PROJECT_APP_UUID": "0c6d2c5e", "OMS_BASE_URL": server.url, "OMS_TOKEN": oms.token}
        given |= {"SHIP_SLUG": oms.slug, "WEBHOOK_SECRETS": SECRET, "SETTLE_S": "0.2", "RETRY_BASE_S": "0.5"}
        variables = built.environment(**addon, **given)
        told = json.loads(run("autoship", "config", "--json", cwd=built.app, env=variables))
        assert told["PORT"] == 8008
        shipped_files = _files(built.app)
        run("sh", "-c", ACC["scripts"]["release"], cwd=built.app, env=variables)
        ports = [free_port() for _ in range(ACC["formation"]["web"]["min"])]
        replicas = [("web", variables | {"PORT": str(port)}) for port in ports]
        replicas += [("worker", variables)] * ACC["formation"]["worker"]["min"]
        logs = [stack.enter_context(_replica(built, name, n, given)) for n, (name, given) in enumerate(replicas)]
        wait_until(lambda: all(map(_answers, ports)))
        courier = Courier(oms, ports, SECRET, duplicates=0.5, seed=1)
        stack.callback(courier.stop)
        oms.announced = courier.take
        for package_id in range(1, 21):
            oms.create(package_id)
            oms.pack(package_id)
        database = stack.enter_context(opened(configuration.load(variables).database_url))
        wait_until(lambda: courier.is_idle and judge(oms, courier.tallies, books_of(database)) == CLEAN)
        assert [oms.commands_for(package_id) for package_id in range(1, 21)] == [1] * 20
        assert _files(built.app) == shipped_files, "the platform's disk does not last"
    lines = [json.loads(line) for log in logs for line in log.read_text(encoding="utf-8").splitlines()]
    assert {line["event"] for line in lines} <= set(EVENTS)
    assert {line["version"] for line in lines if line["event"] == "web.started"}
