"""The service's processes as they are deployed: `python -m service web`, gunicorn and all, and `worker`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests import commands

READY_WITHIN_S = 30.0
ENDED_WITHIN_S = 12.0


@dataclass(frozen=True)
class Running:
    """A process and the files that take its output."""

    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path


@contextmanager
def running(command: str, variables: Mapping[str, str], folder: Path) -> Iterator[Running]:
    """Runs one command of the service for the length of a block; SIGTERM ends it."""
    files = folder / f"{command}.out", folder / f"{command}.err"
    with files[0].open("wb") as stdout, files[1].open("wb") as stderr:
        arguments = [sys.executable, "-m", "service", command]
        process = subprocess.Popen(arguments, env={**os.environ, **variables}, stdout=stdout, stderr=stderr)
        try:
            yield Running(process, *files)
        finally:
            process.terminate()
            try:
                process.wait(ENDED_WITHIN_S)
            finally:
                process.kill()


@contextmanager
def web_process(variables: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Runs the web process on a free port of loopback and a migrated database; its URL, once it is ready."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert web.process.poll() is None, web.stderr.read_text()
        try:
            return httpx.get(url + "/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    with running("web", {**variables, "PORT": str(port)}, folder) as web:
        wait_until(is_ready)
        yield url


def wait_until(met: Callable[[], object], within_s: float = READY_WITHIN_S) -> None:
    """Waits for a condition, and fails where it is not met in time."""
    deadline = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < deadline, "not met in time"
        time.sleep(0.01)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    return int(commands.free_port())
