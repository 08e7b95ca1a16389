"""All events of the logs: each module declares its own, so all modules are imported here."""

from __future__ import annotations

import importlib
import pkgutil

import service
from service.logs import EVENTS as EVENTS

MODULES = tuple(
    importlib.import_module(f"service.{module.name}")
    for module in pkgutil.iter_modules(service.__path__)
    if module.name != "__main__"
)
