"""How an old store answers: 1,000,000 finished and 100,000 waiting packages against next to none, in the same run.

    python -m tests.bench.million                      # SQLite, in a temporary folder
    python -m tests.bench.million --database postgres  # a PostgreSQL of its own; or the URL of an empty database

Needs a few gigabytes of disk and ends by itself. Seconds are medians (minimum to maximum), of a machine that does
nothing else; what carries over to another one is the ratio.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import httpx

from service import sender, worklist
from service.database import Database
from tests import commands, postgres
from tests.bench import store
from tests.conftest import MINIMAL, SECRET, a_document
from tests.processes import web_process

Seconds = Mapping[str, Sequence[float]]
ACKNOWLEDGED, EXPLAINED = "a webhook's acknowledgement", "`GET /api/v1/packages/ID`"
CLAIMED = 8
CLAIM = f"a claim of {CLAIMED}"
ADMIN = {"ADMIN_TOKEN": "admin-token"}
BEARER = {"Authorization": "Bearer admin-token"}
# The webhooks of packages that nobody has heard of.
_FRESH = itertools.count(10**9)


@contextmanager
def questions(url: str, finished: int, folder: Path) -> Iterator[Mapping[str, Callable[[], object]]]:
    """Everything an operator or a sender waits for, of a web process on this database and of commands."""
    variables = MINIMAL | ADMIN | {"DATABASE_URL": url}
    # In the middle of the store: neither the first page nor the last.
    middle, database = str(finished // 2 + 1), Database(url)

    def run(*arguments: str) -> None:
        ended = commands.autoship(*arguments, cwd=folder, **variables)
        assert ended.code == 0, ended.err

    with web_process(variables, folder) as at, httpx.Client(base_url=at, headers=BEARER, trust_env=False) as client:
        yield {
            "`autoship --version`, a process and nothing else": lambda: run("--version"),
            "`autoship explain ID`": lambda: run("explain", middle),
            "`autoship packages --state needs_attention`": lambda: run("packages", "--state", "needs_attention"),
            "`autoship packages --reason refused`": lambda: run("packages", "--reason", "refused"),
            "`autoship shadow-report`": lambda: run("shadow-report"),
            "`autoship quarantine`": lambda: run("quarantine"),
            "`autoship resume`": lambda: run("resume"),
            EXPLAINED: lambda: _get(client, f"/api/v1/packages/{middle}"),
            "`GET /api/v1/packages?state=waiting`": lambda: _get(client, "/api/v1/packages?state=waiting"),
            "`GET /api/v1/packages?reason=refused`": lambda: _get(client, "/api/v1/packages?reason=refused"),
            "`GET /api/v1/status`": lambda: _get(client, "/api/v1/status"),
            "`GET /metrics`": lambda: _get(client, "/metrics"),
            ACKNOWLEDGED: lambda: _deliver(client),
            CLAIM: lambda: worklist.claim(database, CLAIMED, CLAIMED, timedelta(seconds=60), rate_per_s=0),
        }
    database.dispose()


def report(empty: Seconds, full: Seconds) -> str:
    """The table."""
    lines = ["| asked | s, next to nothing stored | s, full | ratio of medians |", "|---|---|---|---|"]
    for name, seconds in full.items():
        ratio = statistics.median(seconds) / statistics.median(empty[name])
        lines.append(f"| {name} | {_shown(empty[name])} | {_shown(seconds)} | {ratio:.1f} |")
    return "\n".join(lines)


@contextmanager
def stores(database: str | None, folder: Path) -> Iterator[tuple[str, str]]:
    """The URLs of two empty databases: one to fill, and one to compare it with."""
    if database is None:
        yield f"sqlite:///{folder}/full.db", f"sqlite:///{folder}/empty.db"
        return
    with ExitStack() as stack:
        at = stack.enter_context(postgres.server()).url if database == "postgres" else database
        yield stack.enter_context(postgres.database(at)), stack.enter_context(postgres.database(at))


def measured(
    finished: int, waiting: int, rounds: int, database: str | None, only: Collection[str] = ()
) -> tuple[Seconds, Seconds]:
    """Fills, and asks everything, or `only` some of it, of the empty store and of the full one.

    The empty one has no more than one finished package, and those that will be claimed.
    """
    due = CLAIMED * rounds  # of those that wait not quite half are
    sizes = {"empty": (1, max(100, 3 * due)), "full": (finished, waiting)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autoship-million-")))
        urls = stack.enter_context(stores(database, folder))
        asked = {}
        for (name, counts), url in zip(sizes.items(), urls, strict=True):
            place = Database(url)
            place.migrate(MINIMAL["OMS_BASE_URL"])
            store.fill(place, *counts)
            place.dispose()
            (folder / name).mkdir()
            asked[name] = stack.enter_context(questions(url, counts[0], folder / name))
        # Turn by turn, so that whatever else this machine does meets both.
        seconds: dict[str, dict[str, list[float]]] = {name: {one: [] for one in asked[name]} for name in sizes}
        for question, _ in itertools.product(only or asked["full"], range(rounds)):
            for name in sizes:
                seconds[name][question].append(_timed(asked[name][question]))
    return seconds["empty"], seconds["full"]


def _get(client: httpx.Client, path: str) -> None:
    client.get(path, timeout=30).raise_for_status()


def _deliver(client: httpx.Client) -> None:
    number = next(_FRESH)
    body = json.dumps(a_document(number, uuid=f"{number:032x}")).encode()
    headers = sender.headers("package.status.packed", body, SECRET)
    client.post("/webhooks/oms/packages", content=body, headers=headers).raise_for_status()


def _timed(ask: Callable[[], object]) -> float:
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


def _shown(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--finished", type=int, default=1_000_000, help="packages that have shipped (1,000,000)")
    parser.add_argument("--waiting", type=int, default=100_000, help="packages that wait (100,000)")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is asked (7)")
    parser.add_argument("--database", help="`postgres`, or the URL of a PostgreSQL; SQLite without it")
    options = parser.parse_args()
    print(report(*measured(options.finished, options.waiting, options.rounds, options.database)))


if __name__ == "__main__":
    main()
