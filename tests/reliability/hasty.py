"""Runs the real command line with heartbeats, the watch over them and pruning in a fraction of their time.

python -m tests.reliability.hasty COMMAND
"""

from __future__ import annotations

import os
import sys

from service import cli, watch, worker
from tests.reliability.crashing import in_this_process

if __name__ == "__main__":
    worker.HEARTBEAT_S, worker.FIRST_PRUNE_AFTER_S = 0.2, 0.5  # type: ignore[assignment]
    watch.EVERY_S, watch.SILENT_AFTER_S = 0.2, 2.0
    os.execv = in_this_process  # type: ignore[assignment]
    sys.argv = ["autoship", sys.argv[1]]
    cli.run()
