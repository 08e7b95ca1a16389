"""Under which licences the pinned packages are: `python -m tests.deploy.licences` writes the list; a test compares."""

from __future__ import annotations

import re
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "deploy/licences.md"
NOT_HERE = "not needed on this platform"
# What packages without an SPDX expression call their licences.
_SPDX = {
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
}


def page() -> str:
    """The list, from what is installed."""
    lines = [f"| {name} | {version} | {licence_of(name)} |\n" for name, version in pins()]
    return _HEAD + "".join(lines)


def pins() -> list[tuple[str, str]]:
    """Each package that is deployed, with its version; those of other platforms are left out."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    return re.findall(r"^([a-z0-9-]+)==([\w.]+)", text, re.MULTILINE)


def licence_of(name: str) -> str:
    """Its SPDX expression, or what comes nearest to one."""
    try:
        told = metadata(name)
    except PackageNotFoundError:
        return NOT_HERE
    return _first(told, "License-Expression") or _named(told)


def _named(told: PackageMetadata) -> str:
    written = _first(told, "License")
    classified = [one.rpartition(" :: ")[2] for one in told.get_all("Classifier") or [] if one.startswith("License ::")]
    named = written if written and "\n" not in written else ", ".join(classified)
    return _SPDX.get(named, named)


def _first(told: PackageMetadata, field: str) -> str:
    return str((told.get_all(field) or [""])[0]).strip()


_HEAD = """\
# Licences

What is deployed with Autoship (which is under the MIT licence), as the packages themselves say: `requirements.txt`,
nothing else. psycopg is used as it is and loaded at run time, as its LGPL asks.

This page is made by `python -m tests.deploy.licences`.

| package | version | licence |
| --- | --- | --- |
"""

if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
