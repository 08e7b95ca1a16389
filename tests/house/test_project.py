"""The project's own files keep their promises: what they name exists, and what must not be in them is not."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = (
    "requirements.txt",
    "tests/requirements.txt",
    "tests/bench/requirements.txt",
    "deploy/requirements-build.txt",
)

# Written in pieces, so that this file does not find itself.
FORBIDDEN = (
    re.compile(r"pypi" + r"\.org"),
    re.compile(r"python" + r"hosted"),
    re.compile(r"npm" + r"js\.(org|com)"),
    re.compile(r"deb\." + r"debian|debian\." + r"org"),
    re.compile(r"/opt/" + r"pypi"),
    re.compile(r"(?<![\w.-])/" + r"work(/|\b)"),
    re.compile(r"\.\./" + r"shared"),
    re.compile(r"work" + r"place", re.IGNORECASE),
)


def _run(*command: str) -> str:
    # Inside `make test` the inherited flags would change what a nested make prints.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def _project_files() -> list[Path]:
    listed = _run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


def _pins(lock: str) -> list[str]:
    """The lines of a lock file, continuation lines joined."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip()]


def _names(requirements: list[str]) -> set[str]:
    found = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


def test_every_process_of_the_procfile_is_a_command_of_the_console_script() -> None:
    from service.cli import main

    lines = (ROOT / "Procfile").read_text(encoding="utf-8").splitlines()
    processes = dict(line.split(": ", 1) for line in lines)
    assert set(processes) == {"release", "web", "worker"}
    for command in processes.values():
        program, name = command.split()
        assert program == "autoship"
        assert name in main.commands


def test_make_help_lists_every_target() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert phony is not None
    listed = {line.split()[0] for line in _run("make", "help").splitlines() if line.strip()}
    assert listed == set(phony[1].split())


def test_no_file_names_a_package_registry_or_a_path_of_somebodys_machine() -> None:
    files = _project_files()
    assert ROOT / "pyproject.toml" in files
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in files
        for pattern in FORBIDDEN
        if (match := pattern.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert found == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_holds_names_versions_and_hashes_only(lock: str) -> None:
    pin = re.compile(r"[a-z0-9-]+==[\w.]+( ; [^@#/]+?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*")
    assert [line[:80] for line in _pins(lock) if not pin.fullmatch(line)] == []


def test_every_declared_dependency_is_pinned() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    runtime = _names(document["project"]["dependencies"])
    for_tests = _names(document["project"]["optional-dependencies"]["test"])
    builder = _names(document["build-system"]["requires"])
    assert runtime - _names(_pins("requirements.txt")) == set()
    assert (runtime | for_tests) - _names(_pins("tests/requirements.txt")) == set()
    assert builder - _names(_pins("deploy/requirements-build.txt")) == set()


def test_tests_run_with_the_very_versions_that_are_deployed() -> None:
    deployed, tested = ({line.split(" ")[0] for line in _pins(lock)} for lock in LOCKS[:2])
    assert deployed - tested == set()


@pytest.mark.parametrize("command", ["make run", "make test"])
def test_the_readme_names_the_command(command: str) -> None:
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
