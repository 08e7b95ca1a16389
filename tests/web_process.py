"""The web process as it is deployed: `python -m service web`, gunicorn and all, on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

READY_WITHIN_S = 30.0
ENDED_WITHIN_S = 10.0


@dataclass(frozen=True)
class WebProcess:
    """Where it listens, and the files that take its output."""

    url: str
    stdout: Path
    stderr: Path


@contextmanager
def web_process(variables: Mapping[str, str], folder: Path) -> Iterator[WebProcess]:
    """Runs it on a migrated database for the length of a block."""
    port = _free_port()
    web = WebProcess(f"http://127.0.0.1:{port}", folder / "web.out", folder / "web.err")
    environment = {**os.environ, **variables, "PORT": str(port)}
    with web.stdout.open("wb") as stdout, web.stderr.open("wb") as stderr:
        command = [sys.executable, "-m", "service", "web"]
        process = subprocess.Popen(command, env=environment, stdout=stdout, stderr=stderr)
        try:
            _wait_until_ready(process, web)
            yield web
        finally:
            process.terminate()
            process.wait(ENDED_WITHIN_S)


def _wait_until_ready(process: subprocess.Popen[bytes], web: WebProcess) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            if httpx.get(web.url + "/readyz", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None, web.stderr.read_text()
        assert time.monotonic() < deadline, "the web process did not become ready"
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
