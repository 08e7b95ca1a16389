"""Entry of the console script `autoship`, the same as `python -m service`."""

import importlib
import os
import signal
import sys
from types import FrameType

_PROCESSES = ("up", "web", "worker")


def run() -> None:
    """Runs the command line, and ends with its exit code.

    Importing it takes about a second. A signal meanwhile ends the process as it does later: with 0 what runs until it
    is told to end, with 130 whatever else is interrupted.
    """
    if sys.argv[1:2] and sys.argv[1] in _PROCESSES:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
    try:
        cli = importlib.import_module("service.cli")
    except KeyboardInterrupt:
        sys.exit(130)
    cli.run()


def _end(signum: int, frame: FrameType | None) -> None:
    os._exit(0)


if __name__ == "__main__":
    run()
