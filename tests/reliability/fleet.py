"""Processes that are killed, frozen and started again, each in a folder and a process group of its own."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.commands import family
from tests.processes import wait_until

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 60.0


class Member:
    """One process. `port` is that of a web process, which is ready when it answers; a worker says so in its log."""

    def __init__(
        self, name: str, arguments: Sequence[str], variables: Mapping[str, str], folder: Path, port: int | None = None
    ) -> None:
        self.name = name
        self.port = port
        self._arguments = [sys.executable, "-m", *arguments]
        self._folder = folder / name
        self._folder.mkdir()
        self._environment = {**os.environ, "PYTHONPATH": os.fspath(ROOT), **variables}
        self._starts = 0
        self.start()

    def start(self) -> None:
        self._starts += 1
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._arguments,
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        wait_until(self._is_ready, READY_WITHIN_S)

    def kill(self) -> None:
        """SIGKILL to the process and its children."""
        self.signal(signal.SIGKILL)
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return  # it ended by itself

    def wait_until_dead(self) -> float:
        """Until it ended by SIGKILL; the moment it was found so."""
        wait_until(lambda: self._process.poll() is not None, READY_WITHIN_S)
        assert self._process.returncode == -signal.SIGKILL, self.log
        return time.monotonic()

    def pids(self) -> set[int]:
        """The process and its children."""
        return family(self._process.pid)

    def run(self) -> int:
        """Waits for its end; the exit code."""
        return self._process.wait(READY_WITHIN_S)

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    @property
    def _log(self) -> Path:
        return self._folder / f"{self._starts}.log"

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self.log
        if self.port is None:
            return "worker.started" in self.log
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            line.request("GET", "/livez")
            line.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        else:
            return True
        finally:
            line.close()


def end(members: Sequence[Member]) -> None:
    """Leaves none of them behind, and none of their children."""
    for member in members:
        for pid in member.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        member.kill()
