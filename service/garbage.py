"""Python's garbage collector, which need not look at everything again and again."""

from __future__ import annotations

import gc

# A request or a look leaves next to nothing in cycles, but makes enough objects for several collections.
_NEW_OBJECTS, _YOUNG, _MIDDLE = 20_000, 50, 100


def settle() -> None:
    """Once a process is ready: what it has by now it keeps, and the rest is collected less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _YOUNG, _MIDDLE)
