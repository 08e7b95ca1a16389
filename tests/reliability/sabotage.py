"""Takes one protection at a time out of a copy of the tree and demands that a test notices.

python -m tests.reliability.sabotage [NAME…]
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.fleet import ROOT

WITHIN_S = 240
_CRASH_POINTS = "tests/reliability/test_crash_points.py"
_KILLED_ANYWHERE = "test_a_process_killed_anywhere_loses_no_delivery_and_doubles_no_command"
_NOT_LOOKING = """case Outcome.AMBIGUOUS | None:
            return _proven_not_applied(view, "nobody looked")
        """
_CONFIRMING = "return _unconfirmed(view, Reason.CONFIRMING), replace(attempt, outcome=Outcome.ACCEPTED)"
_TRUSTING = """return (
                _shipped(view, Evidence.READ_BACK, "nobody looked"),
                replace(attempt, outcome=Outcome.ACCEPTED, resolution=Resolution.APPLIED),
            )"""


def _dying(point: str) -> str:
    return f"{_CRASH_POINTS}::{_KILLED_ANYWHERE}[sqlite-{point}]"


@dataclass(frozen=True, slots=True)
class Sabotage:
    """Replacements of (file, text that occurs there once, other text), and the tests that must notice."""

    name: str
    replacements: tuple[tuple[str, str, str], ...]
    tests: tuple[str, ...]


SABOTAGES = (
    Sabotage(
        "no fence in release and renew",
        (("service/worklist.py", ', packages.c.fence == sa.bindparam("my_fence")', ""),),
        ("tests/integration/test_worklist.py",),
    ),
    Sabotage(
        "no look for an open attempt at the gate",
        (("service/journal.py", ".where(~_OPEN)", ""),),
        ("tests/integration/test_worklist.py",),
    ),
    Sabotage(
        "the attempt's row is committed after the send",
        (
            (
                "service/attend.py",
                "        attempt = journal.open_attempt(\n",
                "        self.oms.command(case.package_id, command)\n        attempt = journal.open_attempt(\n",
            ),
            (
                "service/attend.py",
                "answer = self.oms.command(",
                "answer: CommandAnswer = (lambda *_: brakes.Accepted(204))(",
            ),
        ),
        (_dying("after the send, before its record"),),
    ),
    Sabotage(
        "no read-back of an attempt found open",
        (("service/policy.py", "case Outcome.AMBIGUOUS | None:\n", _NOT_LOOKING + "case Outcome.AMBIGUOUS | None:\n"),),
        (_dying("after the attempt's row, before the send"),),
    ),
    Sabotage(
        "no read-back after an accepted command",
        (("service/policy.py", _CONFIRMING, _TRUSTING),),
        (_dying("after the claim"),),
    ),
    Sabotage(
        "a hint under a lease is forgotten",
        (("service/worklist.py", 'packages.c.hint_seq == sa.bindparam("seen_hint_seq")', "sa.true()"),),
        ("tests/integration/test_worklist.py",),
    ),
    Sabotage(
        "no recognition of a uuid",
        (("service/inbox.py", '"event_uuid": delivery.event_uuid,', '"event_uuid": None,'),),
        ("tests/integration/test_ingress.py",),
    ),
)


def copy_tree(to: Path) -> None:
    """What is under version control or about to be, as it is now."""
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in names:
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)


def apply(sabotage: Sabotage, tree: Path) -> None:
    """Raises `SystemExit` where the code is not as the sabotage expects it."""
    for file, old, new in sabotage.replacements:
        text = (tree / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise SystemExit(f"{sabotage.name}: {file} has this {text.count(old)} times, not once: {old.strip()}")
        (tree / file).write_text(text.replace(old, new), encoding="utf-8")


def first_failure(tree: Path, tests: Sequence[str]) -> str | None:
    """The first test that fails on SQLite in this tree. Raises `SystemExit` where the tests cannot be run."""
    # Each sabotage shows on SQLite too; that saves a server each time.
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-k", "not postgresql", *tests]
    environment = {**os.environ, "PYTHONPATH": os.fspath(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=WITHIN_S)
    found = re.search(r"^FAILED (\S+::[^\n]*?)(?: - |$)", done.stdout, re.MULTILINE)
    if done.returncode == 0:
        return None
    if done.returncode != 1 or found is None:
        raise SystemExit(f"the tests could not be run:\n{done.stdout}{done.stderr}")
    return found[1]


def main(names: Sequence[str]) -> int:
    """Prints what each sabotage was noticed by; 1 if one was not noticed."""
    chosen = [one for one in SABOTAGES if not names or one.name in names]
    unnoticed = 0
    with tempfile.TemporaryDirectory(prefix="autoship-sabotage-") as folder:
        for number, sabotage in enumerate((None, *chosen)):
            tree = Path(folder) / str(number)
            copy_tree(tree)
            if sabotage is None:
                tests = sorted({test for one in chosen for test in one.tests})
                failed = first_failure(tree, tests)
                if failed is not None:
                    raise SystemExit(f"without any sabotage this fails already: {failed}")
                continue
            apply(sabotage, tree)
            failed = first_failure(tree, sabotage.tests)
            unnoticed += failed is None
            print(f"{sabotage.name:<48} {failed or 'NOT NOTICED'}", flush=True)
    return 1 if unnoticed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
