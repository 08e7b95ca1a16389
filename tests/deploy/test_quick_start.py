"""The quick start, followed literally on a fresh clone: every command block, in order, in terminals of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service import sandbox
from tests.commands import eventually, free_port
from tests.deploy.conftest import bare_environment, run
from tests.oms_faults import FaultyOms

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/quick-start.md").read_text(encoding="utf-8")
ADDRESS = "https://git.example.com/autoship.git"
SHIPPED_WITHIN_S = 60.0


class Reader:
    """Somebody who follows the page, block by block."""

    def __init__(self, home: Path, variables: dict[str, str]) -> None:
        self._home = home
        self._variables = variables
        self._blocks = iter(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))

    def types(self, change: Callable[[str], str] = lambda block: block) -> str:
        """The next block to its end; what it prints."""
        return run("sh", "-eu", "-c", change(next(self._blocks)), cwd=self._home, env=self._variables)

    @contextmanager
    def leaves_running(self) -> Iterator[Callable[[], str]]:
        """The next block, whose last command runs until Ctrl-C; what it has printed so far."""
        screen = self._home / "screen"
        with screen.open("w") as out:
            process = subprocess.Popen(
                ["sh", "-eu", "-c", next(self._blocks)],
                cwd=self._home,
                env=self._variables,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
            try:
                yield screen.read_text
                os.killpg(process.pid, signal.SIGINT)
                process.wait(15)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()

    @property
    def is_at_the_end(self) -> bool:
        return next(self._blocks, None) is None


@pytest.fixture
def home() -> Iterator[Path]:
    """On a disk: what the tests keep in memory, `doctor` says, is gone with the machine's next start."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


def test_the_quick_start_works_as_it_stands_and_the_first_package_ships_within_a_minute(
    origin: Path, home: Path, record_property: Callable[[str, object], None]
) -> None:
    # git finds the repository under the address on the page, and the port is one that is free.
    found_at = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{origin}.insteadOf", "GIT_CONFIG_VALUE_0": ADDRESS}
    port = free_port()
    path = {"PATH": os.environ["PATH"], "PORT": port}
    reader = Reader(home, bare_environment() | found_at | path)
    began = time.monotonic()
    with reader.leaves_running() as screen:
        eventually(lambda: '"event": "package.shipped"' in screen(), screen)
        took_s = time.monotonic() - began
        ends = ('"package.shipped", "package_id": 73', '"package.waiting", "package_id": 79')
        eventually(lambda: all(end in screen() for end in ends), screen)
        told = reader.types()
    assert "Package 73: shipped" in told
    assert "Package 79: waiting / items_mixed" in told
    record_property("git clone to the first package shipped, in seconds", round(took_s, 1))
    _follow_with_an_oms(reader, port)
    assert (home / "autoship/var/autoship.env").stat().st_mode & 0o077 == 0
    assert reader.is_at_the_end
    assert took_s < SHIPPED_WITHIN_S


def _follow_with_an_oms(reader: Reader, port: str) -> None:
    """The second half of the page, with the address and the token of the stand-in as what only the reader knows."""
    oms = FaultyOms(token="t$oken&;#(1)")
    with sandbox.serve(oms) as server:
        own = {"OMS_BASE_URL": server.url, "OMS_TOKEN": oms.token, "SHIP_TRANSITION_ID": str(oms.transition_id)}
        own["WEBHOOK_SECRETS"] = secret = "s3cr$t&;#(1)"
        for package_id in (101, 102):
            oms.create(package_id, state=sandbox.PACKED, items=[sandbox.PACKED])
        reader.types(lambda block: _fill_in(block, own))
        with reader.leaves_running() as screen:
            eventually(lambda: screen().count('"event": "package.would_ship"') >= 2, screen)
            told = reader.types()
            assert told.count("would_ship") == 2
        assert oms.applied == []
        with reader.leaves_running() as screen:
            eventually(lambda: '"event": "worker.started"' in screen(), screen)
            oms.start(f"http://127.0.0.1:{port}/webhooks/oms/packages", secret)
            oms.create(103)
            oms.pack(103)
            eventually(lambda: oms.shipped_by_command(103), screen)
        oms.stop()


def _fill_in(block: str, values: dict[str, str]) -> str:
    """What a reader puts in the place of the examples; each of them is on the page."""
    for name, value in values.items():
        block, times = re.subn(rf"^{name}=('?)[^'\n]*\1$", rf"{name}=\g<1>{value}\g<1>", block, flags=re.MULTILINE)
        assert times == 1, name
    return block
