"""What is installed is what was pinned, under licences we know; what we make works away from the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service import __version__
from tests.commands import eventually, free_port
from tests.deploy import licences
from tests.deploy.conftest import Built, run

ROOT = Path(__file__).parents[2]
# Free to use in a service; none obliges us to publish anything of ours.
ACCEPTED = {
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "LGPL-3.0-only",
    "MIT",
    "MPL-2.0",
    "PSF-2.0",
}


def test_the_licence_list_is_what_the_packages_say() -> None:
    assert licences.PAGE.read_text(encoding="utf-8") == licences.page(), "run: python -m tests.deploy.licences"


def test_every_deployed_package_has_a_licence_we_accept() -> None:
    found = {name: licences.licence_of(name) for name, _ in licences.pins()}
    assert {name: licence for name, licence in found.items() if licence not in {*ACCEPTED, licences.NOT_HERE}} == {}


def test_a_package_that_is_not_what_was_pinned_is_not_installed(built: Built, tmp_path: Path) -> None:
    forged = re.sub(r"sha256:\w{6}", "sha256:000000", (ROOT / "deploy/requirements-build.txt").read_text("utf-8"))
    (tmp_path / "forged.txt").write_text(forged, encoding="utf-8")
    pip = (os.fspath(built.python), "-m", "pip", "download", "--no-deps", "--require-hashes", "-r", "forged.txt")
    done = subprocess.run(
        pip, cwd=tmp_path, env=built.environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr


@pytest.fixture(scope="module")
def made(origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built without asking anybody for anything."""
    place = tmp_path_factory.mktemp("made")
    run("git", "clone", "--quiet", os.fspath(origin), os.fspath(place / "clone"))
    run(sys.executable, "-m", "hatchling", "build", "--directory", os.fspath(place), cwd=place / "clone")
    return place


def test_the_wheel_holds_the_service_and_nothing_else(made: Path) -> None:
    [wheel] = made.glob("*.whl")
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"service", f"oms_autoship-{__version__}.dist-info"}


def test_the_sdist_makes_the_same_wheel(made: Path, tmp_path: Path) -> None:
    [wheel], [sdist] = made.glob("*.whl"), made.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", os.fspath(tmp_path), cwd=source)
    again = zipfile.ZipFile(tmp_path / wheel.name)
    first = zipfile.ZipFile(wheel)
    assert {one.filename: one.CRC for one in again.infolist()} == {one.filename: one.CRC for one in first.infolist()}


@pytest.fixture
def without_autoship(built: Built, tmp_path: Path) -> Iterator[Built]:
    """A copy of the environment that was built from the pinned packages, away from any checkout."""
    run(sys.executable, "-m", "venv", "--without-pip", os.fspath(tmp_path / "python"))
    packages = Path(f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages")
    shutil.copytree(built.python.parents[1] / packages, tmp_path / "python" / packages, dirs_exist_ok=True)
    copy = Built(tmp_path, tmp_path / "python/bin/python")
    _pip(copy, "uninstall", "--yes", "oms-autoship")
    yield copy
    shutil.rmtree(tmp_path / "python")


def test_both_install_and_ship_where_there_is_no_checkout(made: Path, without_autoship: Built) -> None:
    place = without_autoship
    variables = place.environment(PORT=free_port())
    for kind in ("*.tar.gz", "*.whl"):
        [package] = made.glob(kind)
        again = ("--force-reinstall", "--no-index", "--no-deps", "--no-build-isolation")
        _pip(place, "install", *again, os.fspath(package))
        assert run("autoship", "--version", cwd=place.app, env=variables).split()[-1] == __version__
    with (place.app / "log").open("w") as log:
        up = subprocess.Popen(["autoship", "up", "--sandbox"], cwd=place.app, env=variables, stdout=log, stderr=log)
        try:
            told: Callable[[], str] = (place.app / "log").read_text
            eventually(lambda: '"package.shipped"' in told(), told)
            up.terminate()
            assert up.wait(12) == 0
        finally:
            up.kill()
            up.wait()


def _pip(place: Built, *arguments: str) -> None:
    run(os.fspath(place.python), "-m", "pip", *arguments, env=place.environment())
