"""What the code logs and what its events declare are the same."""

from __future__ import annotations

import ast
import runpy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace

import pytest

from service import logs
from tests.house.events import EVENTS, MODULES

GUNICORN = Path(__file__).parents[2] / "deploy" / "gunicorn.conf.py"
# Each source with what its names stand for.
SOURCES: Mapping[Path, object] = {Path(module.__file__ or ""): module for module in MODULES} | {
    GUNICORN: SimpleNamespace(**runpy.run_path(str(GUNICORN)))
}
# Made by the formatter of whatever another library logs.
OF_LIBRARIES = "library.message"


@dataclass(frozen=True)
class Emitted:
    """One call of `emit`, of an event or of any in a mapping of events."""

    where: str
    names: frozenset[str]
    fields: frozenset[str]


def _emitted() -> Iterator[Emitted]:
    for source, module in SOURCES.items():
        for call in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "emit":
                names = frozenset(event.name for event in _events(call.func.value, module))
                fields = frozenset(keyword.arg or "**" for keyword in call.keywords)
                yield Emitted(f"{source.name}:{call.lineno}", names, fields)


def _events(told: ast.expr, module: object) -> tuple[logs.Event, ...]:
    """What is emitted: `_FINISHED`, `brakes.CHANGED`, or one of the values where it is `_MOVED[state]`."""
    if isinstance(told, ast.Subscript):
        return tuple(attrgetter(ast.unparse(told.value))(module).values())
    return (attrgetter(ast.unparse(told))(module),)


EMITTED = tuple(_emitted())


def test_every_event_that_is_emitted_is_declared_and_every_declared_one_is_emitted() -> None:
    emitted = {name for one in EMITTED for name in one.names}
    assert emitted | {OF_LIBRARIES} == set(EVENTS)


@pytest.mark.parametrize("emitted", EMITTED, ids=lambda one: one.where)
def test_no_field_is_emitted_that_is_not_declared(emitted: Emitted) -> None:
    declared = {field for name in emitted.names for field in EVENTS[name].fields}
    assert emitted.fields - declared == set()


def test_no_field_is_declared_that_is_never_emitted() -> None:
    fields: dict[str, set[str]] = defaultdict(set)
    for one in EMITTED:
        for name in one.names:
            fields[name] |= one.fields
    unused = {name: set(event.fields) - fields[name] for name, event in EVENTS.items() if name != OF_LIBRARIES}
    assert {name: left for name, left in unused.items() if left} == {}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_named_subject_dot_participle_and_explained_in_one_sentence(name: str) -> None:
    subject, _, what = name.partition(".")
    assert subject.isalpha()
    assert what.replace("_", "").isalpha()
    assert EVENTS[name].meaning.endswith(".")
