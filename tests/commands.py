"""Real processes of the command line, as an operator starts them, and always ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

_OF_A_REAL_OMS = ("OMS_", "OMNITRON_", "SHIP", "WEBHOOK_", "DATABASE_URL", "DB_", "PORT", "RULES_FILE", "LOG_", "MODE")
# Generous: a busy machine takes its time to start a few processes.
PATIENCE_S = 120.0
T = TypeVar("T")


def environment(**variables: str) -> dict[str, str]:
    """This machine's environment without anything of ours in it, and these variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(_OF_A_REAL_OMS)}
    return clean | variables


@dataclass(frozen=True)
class Ended:
    """A command that ran to its end."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> list[dict[str, Any]]:
        """Its JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


def autoship(*arguments: str, cwd: Path, **variables: str) -> Ended:
    """One command in a process of its own."""
    command = [sys.executable, "-m", "service", *arguments]
    done = subprocess.run(
        command, cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


# Runs a command in the test's own process.
Autoship = Callable[..., Ended]


@dataclass
class Running:
    """A process under way; its output is collected meanwhile."""

    process: subprocess.Popen[str]
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)

    def wait_for(self, text: str) -> str:
        """The first line of either stream that holds this text."""
        return eventually(lambda: next((line for line in [*self.out, *self.err] if text in line), None), self.told)

    def end(self, signum: int, within_s: float = 10.0) -> int:
        """The exit code after this signal."""
        self.process.send_signal(signum)
        return self.process.wait(within_s)

    def told(self) -> str:
        return f"exit code {self.process.poll()}\n" + "\n".join([*self.out, "--", *self.err])


@contextmanager
def running(
    *arguments: str, cwd: Path, variables: Mapping[str, str], stdout: int = subprocess.PIPE
) -> Iterator[Running]:
    """The command in the background, in a session of its own. Whatever is left of it at the end is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        cwd=cwd,
        env=environment(**variables),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started = Running(process)
    readers = [
        threading.Thread(target=_collect, args=pair, daemon=True)
        for pair in ((process.stdout, started.out), (process.stderr, started.err))
    ]
    for reader in readers:
        reader.start()
    try:
        yield started
    finally:
        for pid in family(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        for reader in readers:
            reader.join()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def eventually(look: Callable[[], T | None], otherwise: Callable[[], str], every_s: float = 0.05) -> T:
    """What `look` finds as soon as it finds something."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, otherwise()
        time.sleep(every_s)
    return found


def free_port() -> str:
    """A port nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def is_alive(pid: int) -> bool:
    """Whether a process still runs; one that ended and was not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def family(pid: int) -> set[int]:
    """A process, its children and theirs."""
    found, new = set[int](), {pid}
    while new:
        found |= new
        new = {child for parent in new for child in children(parent)} - found
    return found


def children(pid: int) -> set[int]:
    """The processes whose parent this one is."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return {int(child) for child in found.stdout.split()}


def command_line(pid: int) -> str:
    """How a process was started, its arguments apart by NUL; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _collect(stream: Iterable[str] | None, lines: list[str]) -> None:
    lines.extend(line.rstrip("\n") for line in stream or ())
