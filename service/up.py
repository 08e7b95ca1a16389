"""`autoship up`: everything on this machine in the foreground, each part a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from service import config as configuration
from service import logs, sandbox
from service.config import SANDBOX_DATABASE, SQLITE_DEFAULT
from service.database import Database
from service.errors import ConfigurationError
from service.worker import on_signals

SANDBOX_ENVIRONMENT = Path("var/sandbox.json")
_PROCESSES = ("web", "worker")
_POLL_S = 0.2
_RESTART_AFTER_S = 1.0
_STOP_WITHIN_S = 10.0
_CONFIGURATION_EXIT = 2


def serve(environ: Mapping[str, str]) -> int:
    """Migrates, then runs web and worker against the configured OMS until SIGTERM or SIGINT.

    Returns the exit code. Raises `ConfigurationError` and `DatabaseUnavailable` before anything is started.
    """
    config = configuration.load(environ, default_database=SQLITE_DEFAULT)
    logs.configure(config.log_level, config.log_format, config.display_tz)
    migrate(Database(config.database_url), config.oms.base_url)
    return _supervise(dict(environ) | {"DATABASE_URL": environ.get("DATABASE_URL") or config.database_url})


def serve_sandbox(environ: Mapping[str, str]) -> int:
    """The same against a stand-in OMS on loopback that packs a few sample packages, with a database of its own.

    Raises `ConfigurationError` where a real OMS is configured.
    """
    if environ.get("OMS_BASE_URL"):
        raise ConfigurationError("OMS_BASE_URL: is set; a sandbox must not be mistaken for the real thing")
    oms = sandbox.sample_oms()
    with sandbox.serve(oms) as server:
        mine = _sandbox_environment(server.url, oms)
        own = {name: value for name, value in environ.items() if not name.startswith(("OMS_", "DATABASE_URL"))}
        config = configuration.load(own | mine)
        logs.configure(config.log_level, config.log_format, config.display_tz)
        logs.emit("sandbox.started", url=server.url)
        migrate(Database(config.database_url), config.oms.base_url)
        oms.start(f"http://127.0.0.1:{config.port}/webhooks/oms/packages")
        player = threading.Thread(target=sandbox.play, args=(oms,), daemon=True)
        player.start()
        try:
            return _supervise(own | mine)
        finally:
            oms.stop()


def sandbox_environment() -> dict[str, str] | None:
    """The environment of the last sandbox in this folder, so that other commands find it without being told."""
    try:
        found: dict[str, str] = json.loads(SANDBOX_ENVIRONMENT.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def migrate(database: Database, oms_base_url: str) -> None:
    """Brings the schema up to date and says so where there was something to do."""
    before = database.migrate(oms_base_url)
    if before != database.head:
        logs.emit("database.migrated", before=before or "empty", after=database.head)
    database.dispose()


def _sandbox_environment(url: str, oms: sandbox.StandInOms) -> dict[str, str]:
    """Writes the sandbox's files anew under `var/` and returns the environment that uses them."""
    folder = SANDBOX_ENVIRONMENT.parent
    folder.mkdir(exist_ok=True)
    for stale in folder.glob("sandbox.db*"):
        stale.unlink()
    rules_file = folder / "sandbox-rules.toml"
    rules_file.write_text(sandbox.SANDBOX_RULES, encoding="utf-8")
    environment = {
        "DATABASE_URL": SANDBOX_DATABASE,
        "OMS_BASE_URL": url,
        "OMS_TOKEN": oms.token,
        "SHIP_TRANSITION_ID": str(oms.transition_id),
        "SHIP_SLUG": oms.slug,
        "WEBHOOK_SECRETS": sandbox.SANDBOX_SECRET,
        "RULES_FILE": str(rules_file),
        "SETTLE_S": "1",
        "RETRY_BASE_S": "1",
    }
    SANDBOX_ENVIRONMENT.write_text(json.dumps(environment), encoding="utf-8")
    return environment


def _supervise(environ: Mapping[str, str]) -> int:
    stopping = threading.Event()
    on_signals(stopping.set)
    running = {name: _start(name, environ) for name in _PROCESSES}
    exit_code = 0
    while not stopping.wait(_POLL_S):
        for name, process in running.items():
            ended = process.poll()
            if ended == _CONFIGURATION_EXIT:
                exit_code = ended
                stopping.set()
            elif ended is not None:
                logs.emit("process.restarted", process=name, exit_code=ended)
                stopping.wait(_RESTART_AFTER_S)
                running[name] = _start(name, environ)
    _stop(list(running.values()))
    return exit_code


def _start(name: str, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "service", name], env=dict(environ))


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + _STOP_WITHIN_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
