"""Properties are tried on the same examples every time, whatever an earlier run found."""

from __future__ import annotations

from hypothesis import settings

settings.load_profile("ci")
