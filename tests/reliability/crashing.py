"""Runs the real command line with one function wrapped so that the process kills itself there.

python -m tests.reliability.crashing POINT COMMAND
"""

from __future__ import annotations

import functools
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from service import cli, database, inbox, worklist
from service.attend import Attendant
from service.oms import Oms


@dataclass(frozen=True, slots=True)
class Point:
    """Before or after which function it dies; after: only once the function gave something."""

    command: str
    owner: Any
    function: str
    before: bool = False


POINTS = {
    "after the insert, before the answer": Point("web", inbox, "accept"),
    "after the claim": Point("worker", worklist, "claim"),
    "after the attempt's row, before the send": Point("worker", Oms, "command", before=True),
    "after the send, before its record": Point("worker", Oms, "command"),
    "after the record, before confirmation": Point("worker", Attendant, "_send"),
    "during migration": Point("migrate", database, "_upgrade"),
}


def arm(point: Point) -> None:
    """Wraps the point's function."""
    original: Callable[..., object] = getattr(point.owner, point.function)

    @functools.wraps(original)
    def wrapped(*arguments: Any, **named: Any) -> object:
        if point.before:
            _die()
        given = original(*arguments, **named)
        if given != ():
            _die()
        return given

    setattr(point.owner, point.function, wrapped)


def _die() -> NoReturn:
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("alive")


def in_this_process(_: str, command: Sequence[str]) -> NoReturn:
    """gunicorn in the place of this process would forget the wrapping."""
    sys.argv = list(command[2:])
    runpy.run_module(sys.argv[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)  # it must take nobody else along
    arm(POINTS[sys.argv[1]])
    os.execv = in_this_process  # type: ignore[assignment]
    sys.argv = ["autoship", sys.argv[2]]
    cli.run()
