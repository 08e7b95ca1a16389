"""A repository of what is in the checkout, and an environment that a platform's build makes of it, once for all."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.commands import environment

ROOT = Path(__file__).parents[2]
_PATIENCE_S = 300.0
# What pip and git need to reach what they reach anyway; nothing else of this environment is left.
_KEPT = (
    "PIP_",
    "SSL_",
    "REQUESTS_CA_BUNDLE",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "XDG_",
    "HOME",
    "LANG",
    "TMPDIR",
)


@dataclass(frozen=True)
class Built:
    """The application's folder on the platform, and the Python its build script installed into."""

    app: Path
    python: Path

    @property
    def manifest(self) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = json.loads((self.app / "akinon.json").read_text(encoding="utf-8"))
        return found

    def environment(self, **variables: str) -> dict[str, str]:
        """Of a container: this Python comes first, and nothing but these variables is set."""
        return bare_environment() | {"PATH": f"{self.python.parent}:/usr/bin:/bin"} | variables


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose only commit is the checkout as it is now, which may be a plain export without one."""
    repository = tmp_path_factory.mktemp("origin") / "autoship.git"
    author = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    git = ("git", *author, f"--git-dir={repository}", f"--work-tree={ROOT}")
    run("git", "init", "--quiet", "--bare", os.fspath(repository))
    run(*git, "add", "--all")
    run(*git, "commit", "--quiet", "--message", "the checkout")
    return repository


@pytest.fixture(scope="session")
def built(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """The application built in a clean environment; test processes that run at the same time share it."""
    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "built"
    built = Built(place / "app", place / "python/bin/python")
    with _one_more_user(place, +1) as users:
        if users == 1:
            run("git", "clone", "--quiet", os.fspath(origin), os.fspath(built.app))
            run(sys.executable, "-m", "venv", os.fspath(place / "python"))
            run("sh", "-c", built.manifest["scripts"]["build"], cwd=built.app, env=built.environment())
    yield built
    # It is large, and may lie in memory.
    with _one_more_user(place, -1) as users:
        if users == 0:
            shutil.rmtree(place)


@contextmanager
def _one_more_user(place: Path, more: int) -> Iterator[int]:
    """How many test processes use it from now on; nobody else is told meanwhile."""
    with place.with_suffix(".users").open("a+", encoding="utf-8") as counted:
        fcntl.flock(counted, fcntl.LOCK_EX)
        counted.seek(0)
        users = int(counted.read() or 0) + more
        yield users
        counted.truncate(0)
        counted.write(str(users))


def bare_environment() -> dict[str, str]:
    return {name: value for name, value in environment().items() if name.upper().startswith(_KEPT)}


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """What a command that must succeed prints."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
