"""What the code logs and what the table of events declares are the same."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.logs import EVENTS

ROOT = Path(__file__).parents[2]
SOURCES = (*(ROOT / "service").rglob("*.py"), ROOT / "deploy" / "gunicorn.conf.py")
# Made by the formatter of whatever another library logs.
OF_LIBRARIES = "library.message"


@dataclass(frozen=True)
class Emitted:
    """One call of `logs.emit`. A name made at run time is known by its beginning."""

    where: str
    name: str
    is_beginning: bool
    fields: frozenset[str]


def _emitted() -> Iterator[Emitted]:
    for source in SOURCES:
        module = ast.parse(source.read_text(encoding="utf-8"))
        for function in ast.walk(module):
            if isinstance(function, ast.FunctionDef):
                for call in ast.walk(function):
                    if isinstance(call, ast.Call) and ast.unparse(call.func) == "logs.emit":
                        yield _emission(f"{source.name}:{call.lineno}", call, function)


def _emission(where: str, call: ast.Call, function: ast.FunctionDef) -> Emitted:
    name, beginning = call.args[0], False
    if isinstance(name, ast.JoinedStr):
        name, beginning = name.values[0], True
    assert isinstance(name, ast.Constant), f"{where}: an event's name must begin with a constant"
    fields = {keyword.arg for keyword in call.keywords if keyword.arg}
    if any(keyword.arg is None for keyword in call.keywords):
        fields |= set(_keys_written_in(function))
    return Emitted(where, str(name.value), beginning, frozenset(fields))


def _keys_written_in(function: ast.FunctionDef) -> Iterator[str]:
    """The keys of the dictionaries a function builds, one of which it passes with `**`."""
    for node in ast.walk(function):
        keys = node.keys if isinstance(node, ast.Dict) else [node.slice] if isinstance(node, ast.Subscript) else []
        yield from (key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


EMITTED = tuple(_emitted())
NAMED = {one.name for one in EMITTED if not one.is_beginning}


def _events_of(emitted: Emitted) -> set[str]:
    if not emitted.is_beginning:
        return {emitted.name}
    return {name for name in EVENTS if name.startswith(emitted.name) and name not in NAMED}


def test_every_event_that_is_emitted_is_declared_and_every_declared_one_is_emitted() -> None:
    emitted = {name for one in EMITTED for name in _events_of(one) or {one.name}}
    assert emitted | {OF_LIBRARIES} == set(EVENTS)


@pytest.mark.parametrize("emitted", EMITTED, ids=lambda one: one.where)
def test_no_field_is_emitted_that_is_not_declared(emitted: Emitted) -> None:
    declared = {field for name in _events_of(emitted) for field in EVENTS[name].fields}
    assert emitted.fields - declared == set()


def test_no_field_is_declared_that_is_never_emitted() -> None:
    fields: dict[str, set[str]] = defaultdict(set)
    for one in EMITTED:
        for name in _events_of(one):
            fields[name] |= one.fields
    unused = {name: set(event.fields) - fields[name] for name, event in EVENTS.items() if name != OF_LIBRARIES}
    assert {name: left for name, left in unused.items() if left} == {}


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_named_subject_dot_participle_and_explained_in_one_sentence(name: str) -> None:
    subject, _, what = name.partition(".")
    assert subject.isalpha()
    assert what.replace("_", "").isalpha()
    assert EVENTS[name].meaning.endswith(".")
