"""The walks of the contributing page, taken literally on a fresh clone."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.commands import environment
from tests.deploy.conftest import run

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/contributing.md").read_text(encoding="utf-8")
WALKS = re.findall(r"^## ([^\n]+)\n[^#]*?^```diff\n(.*?)^```$.*?^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_has_the_walks_it_promises() -> None:
    assert [title for title, _, _ in WALKS] == ["Change what a rule means", "Add a reason", "Add a log event"]


@pytest.mark.parametrize("change", [walk[1] for walk in WALKS], ids=[walk[0] for walk in WALKS])
def test_a_walk_changes_one_file_of_the_product(change: str) -> None:
    changed = re.findall(r"^\+\+\+ b/(\S+)$", change, re.MULTILINE)
    assert len([path for path in changed if not path.startswith("tests/")]) == 1


@pytest.mark.parametrize(("change", "commands"), [walk[1:] for walk in WALKS], ids=[walk[0] for walk in WALKS])
def test_a_stranger_takes_the_walk_and_its_tests_pass(origin: Path, tmp_path: Path, change: str, commands: str) -> None:
    clone = tmp_path / "clone"
    run("git", "clone", "--quiet", os.fspath(origin), os.fspath(clone))
    (clone / ".venv").symlink_to(sys.prefix)
    (tmp_path / "change.diff").write_text(change, encoding="utf-8")
    run("git", "apply", "../change.diff", cwd=clone)
    # The environment is the checkout's, the code the clone's.
    environ = environment(PYTHONPATH=os.fspath(clone), PYTEST_ADDOPTS="-p no:cacheprovider")
    run(
        "sh",
        "-eu",
        "-c",
        commands,
        cwd=clone,
        env={name: value for name, value in environ.items() if "XDIST" not in name},
    )
