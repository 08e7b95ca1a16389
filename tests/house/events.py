"""All events of the logs: each module has its own, so all modules are imported here. And the fields of each."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import runpy
from collections.abc import Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import service
from service import logs

MODULES = tuple(
    importlib.import_module(f"service.{module.name}")
    for module in pkgutil.iter_modules(service.__path__)
    if module.name != "__main__"
)
GUNICORN = Path(__file__).parents[2] / "deploy" / "gunicorn.conf.py"
# Each source with what its names stand for.
SOURCES: Mapping[Path, object] = {Path(module.__file__ or ""): module for module in MODULES} | {
    GUNICORN: SimpleNamespace(**runpy.run_path(str(GUNICORN)))
}
# Made by the formatter of whatever another library logs.
OF_LIBRARIES = "library.message"


def made() -> Iterator[logs.Event]:
    """Each event that a module has, by itself or in a mapping."""
    for module in MODULES:
        for value in vars(module).values():
            several = value.values() if isinstance(value, dict) else (value,)
            yield from (one for one in several if isinstance(one, logs.Event))


def _emitted() -> Iterator[tuple[logs.Event, ast.Call]]:
    """Each event with each line of code that emits it."""
    for source, module in SOURCES.items():
        for call in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "emit":
                for event in _events(call.func.value, module):
                    yield event, call


def _events(told: ast.expr, module: object) -> tuple[logs.Event, ...]:
    """What is emitted: `_FINISHED`, `brakes.CHANGED`, or one of the values where it is `_MOVED[state]`."""
    if isinstance(told, ast.Subscript):
        return tuple(attrgetter(ast.unparse(told.value))(module).values())
    return (attrgetter(ast.unparse(told))(module),)


def _fields() -> dict[str, tuple[str, ...]]:
    """Each event that is emitted, with the fields that any line of code gives it."""
    found: dict[str, dict[str | None, None]] = {}
    for event, call in _emitted():
        found.setdefault(event.name, {}).update(dict.fromkeys(keyword.arg for keyword in call.keywords))
    return {name: tuple(map(str, fields)) for name, fields in found.items()}


EVENTS = {event.name: event for event in made()}
FIELDS = _fields() | {OF_LIBRARIES: ("logger", "where", "message", "error", "trace")}
