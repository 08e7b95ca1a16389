"""`autoship up`: everything on this machine in the foreground, each part a process of its own."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from service import config as configuration
from service import explain, logs, sandbox, worklist
from service.config import SANDBOX_DATABASE, SQLITE_DEFAULT, Config
from service.database import HEAD, Database
from service.errors import ConfigurationError, DatabaseUnavailable
from service.hooks import RECEIVER_PATH
from service.worker import on_signals

SANDBOX_FILE = Path("var/sandbox.json")
_OF_SOMETHING_REAL = (
    "ALERT_URLS",
    "COMMANDS_GATE",
    "DATABASE_URL",
    "DB_",
    "ITEM_PACKED_STATUS",
    "OMNITRON_",
    "OMS_",
    "PACKED_STATUS",
    "PUBLIC_URL",
    "RULES_FILE",
    "SHIPPED_STATUSES",
    "SHIP_",
    "WEBHOOK_",
)
_PROCESSES = ("web", "worker")
_POLL_S = 0.2
_RESTART_AFTER_S = 1.0
_STOP_WITHIN_S = 9.0
_CONFIGURATION_EXIT = 2

_MIGRATED = logs.Event("database.migrated", logging.INFO, "The schema was brought to this version.")
_RESTARTED = logs.Event(
    "process.restarted", logging.ERROR, "`autoship up` found a process ended and started it again.", alert=True
)


def serve(environ: Mapping[str, str]) -> int:
    """Migrates, then runs web and worker against the configured OMS until SIGTERM or SIGINT.

    Returns the exit code. Raises `ConfigurationError` and `DatabaseUnavailable` before anything is started.
    """
    stopping = _stopping()
    config = configuration.load(environ, default_database=SQLITE_DEFAULT)
    logs.configure(config)
    refuse_taken_port(config.port, "PORT")
    prepare(config)
    chosen = {"DATABASE_URL": config.database_url, "DATABASE_URL_FILE": ""}
    return _supervise(dict(environ) | chosen, stopping)


def serve_sandbox(environ: Mapping[str, str], say: Callable[[str], None]) -> int:
    """The same against a stand-in OMS on loopback that packs a few sample packages, with a database of its own.

    `say` is told what a newcomer should know. Raises `ConfigurationError` where a real OMS is configured.
    """
    if environ.get("OMS_BASE_URL") or environ.get("OMS_BASE_URL_FILE"):
        raise ConfigurationError("OMS_BASE_URL: is set; a sandbox must not be mistaken for the real thing")
    stopping = _stopping()
    kept = {name: value for name, value in environ.items() if not name.startswith(_OF_SOMETHING_REAL)}
    oms = sandbox.sample_oms()
    with sandbox.serve(oms) as server:
        variables = _sandbox_variables(server.url, oms)
        config = configuration.load(kept | variables)
        logs.configure(config)
        refuse_taken_port(config.port, "PORT")
        # Where other commands find this sandbox, which begins anew.
        SANDBOX_FILE.write_text(json.dumps(variables | {"PORT": str(config.port)}), encoding="utf-8")
        for stale in SANDBOX_FILE.parent.glob("sandbox.db*"):
            stale.unlink()
        try:
            prepare(config)
            webhooks_url = f"http://127.0.0.1:{config.port}{RECEIVER_PATH}"
            say(f"Sandbox: a stand-in OMS at {server.url} packs {len(oms.packages)} sample packages. Ctrl-C ends it.")
            oms.start(webhooks_url)
            for task in (lambda: sandbox.play(oms), lambda: _tell_when_settled(config, say, stopping)):
                threading.Thread(target=task, daemon=True).start()
            return _supervise(kept | variables, stopping)
        finally:
            SANDBOX_FILE.unlink(missing_ok=True)
            oms.stop()


def sandbox_environment(environ: Mapping[str, str]) -> dict[str, str] | None:
    """`environ` for the sandbox that runs in this folder, so that other commands find it without being told."""
    try:
        found: dict[str, str] = json.loads(SANDBOX_FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return dict(environ) | found


def not_of_a_sandbox(environ: Mapping[str, str]) -> str | None:
    """The first variable that is set and that a sandbox would not heed: who set it means something real."""
    return next((name for name, value in environ.items() if value and name.startswith(_OF_SOMETHING_REAL)), None)


def prepare(config: Config) -> str | None:
    """Brings the schema up to date and says so in the log. The version it had, None where there was nothing to do."""
    database = Database(config.database_url)
    before = database.migrate(config.oms.base_url) or "empty"
    database.dispose()
    if before != "empty" and before >= HEAD:
        return None
    _MIGRATED.emit(before=before, after=HEAD)
    return before


def refuse_taken_port(port: int, named: str, host: str = "0.0.0.0", within_s: float = 0.0) -> None:  # noqa: S104
    """Raises `ConfigurationError` where the port cannot be listened on, also not `within_s` from now."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            with socket.socket() as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind((host, port))
        except OSError as problem:
            if time.monotonic() >= deadline:
                cause = os.strerror(problem.errno or 0).lower()
                raise ConfigurationError(f"{named}: cannot listen on port {port}: {cause}") from problem
            time.sleep(_POLL_S)
        else:
            return


def _stopping() -> threading.Event:
    """Set by the first SIGTERM or SIGINT from now on, and by the end of the terminal unless `nohup` keeps it away."""
    stopping = threading.Event()
    on_signals(stopping.set)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda signum, frame: stopping.set())
    return stopping


def _sandbox_variables(url: str, oms: sandbox.StandInOms) -> dict[str, str]:
    rules_file = SANDBOX_FILE.with_name("sandbox-rules.toml")
    try:
        rules_file.parent.mkdir(exist_ok=True)
        rules_file.write_text(sandbox.SANDBOX_RULES, encoding="utf-8")
    except OSError as problem:
        raise ConfigurationError(f"{rules_file}: cannot be written in this folder: {problem.strerror}") from problem
    own = {"DATABASE_URL": SANDBOX_DATABASE, "RULES_FILE": str(rules_file), "SETTLE_S": "1", "RETRY_BASE_S": "1"}
    return sandbox.environment(url, oms) | own


def _tell_when_settled(config: Config, say: Callable[[str], None], stopping: threading.Event) -> None:
    """Says once what became of the sample packages."""
    database = Database(config.database_url)
    while not stopping.wait(_POLL_S):
        try:
            with database.reading() as transaction:
                rows = worklist.listed(transaction, None, None)
        except DatabaseUnavailable:
            continue
        if {row["package_id"]: (row["state"], row["reason"]) for row in rows} == sandbox.SAMPLE_ENDS:
            table = "\n".join([explain.TABLE_HEADER, *(explain.table_line(row) for row in rows)])
            say(f"\nAll sample packages are settled:\n\n{table}\n")
            us = sys.argv[0] if Path(sys.argv[0]).name == "autoship" else "python -m service"
            say(f"Try in another terminal, in this folder: {us} packages, {us} explain 79\n")
            return


def _supervise(environ: Mapping[str, str], stopping: threading.Event) -> int:
    if stopping.is_set():
        return 0
    running = {name: _start(name, environ) for name in _PROCESSES}
    exit_code = 0
    while not stopping.wait(_POLL_S):
        for name, process in running.items():
            ended = process.poll()
            if ended == _CONFIGURATION_EXIT:
                exit_code = ended
                stopping.set()
            elif ended is not None:
                _RESTARTED.emit(process=name, exit_code=ended)
                stopping.wait(_RESTART_AFTER_S)
                running[name] = _start(name, environ)
    _stop(list(running.values()))
    return exit_code


def _start(name: str, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # In a session of its own: a terminal's Ctrl-C is for us, and gunicorn takes that and our SIGTERM for two wishes.
    return subprocess.Popen([sys.executable, "-m", "service", name], env=dict(environ), start_new_session=True)


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _STOP_WITHIN_S
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
