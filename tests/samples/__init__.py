"""Exchanges byte for byte as they are on the wire: one folder each, with `headers.json` and `body`."""

from __future__ import annotations

import json
from pathlib import Path


def sample(case: str) -> tuple[dict[str, str], bytes]:
    """The headers, with lower-case names, and the body of a case."""
    folder = Path(__file__).parent / case
    headers = json.loads((folder / "headers.json").read_text(encoding="utf-8"))
    return {name.lower(): value for name, value in headers.items()}, (folder / "body").read_bytes()
