"""Which packages are ours: a TOML file, checked whole, first match wins."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from service.errors import RulesError
from service.snapshot import Fact

Action = Literal["ship", "skip"]

TEXT_FIELDS = ("channel_name", "stock_location_erp_code", "payment_type")
YES_NO_FIELDS = ("has_shipment", "has_invoice")
MAX_NUMBER = 10**9  # as in the environment; every database can store it
# A key, or the names of the tables around it; a rule's own number follows "rule".
_Path = tuple[str | int, ...]
_PART = r"""[\w-]+|"[^"]*"|'[^']*'"""
_DOTTED = rf"\s*((?:{_PART})(?:\s*\.\s*(?:{_PART}))*)\s*"
_HEADER = re.compile(rf"\s*(\[\[?){_DOTTED}\]")
_SETTING = re.compile(rf"{_DOTTED}=")
_INLINE_RULE = re.compile(r"(\s*rule\s*=\s*\[)?\s*\{")
_LONG_TEXT = re.compile(r"""\"{3}.*?\"{3}|'{3}.*?'{3}""", re.DOTALL)
_NEEDED = {"name": "a name", "action": 'an action, "ship" or "skip"'}
_RULE_KEYS = {"name", "when", "action", "transition_id", "slug", "grace_s"}


@dataclass(frozen=True, slots=True)
class Rule:
    """`when` maps a field to the values that match it; an empty `when` matches every package."""

    name: str
    when: Mapping[str, frozenset[Fact]]
    action: Action
    transition_id: int | None = None
    slug: str | None = None
    grace: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    rules: tuple[Rule, ...] = ()
    default: Action = "ship"


@dataclass(frozen=True, slots=True)
class Match:
    """The rule that decided; `rule` is None for the default."""

    action: Action
    rule: Rule | None = None


@dataclass(frozen=True, slots=True)
class FieldMissing:
    """The snapshot does not say what this rule asks, so no later rule may decide."""

    rule: Rule
    field: str


def judge(rules: Rules, facts: Mapping[str, Fact]) -> Match | FieldMissing:
    """The first rule that matches, or the default."""
    for rule in rules.rules:
        contradicted = any(field in facts and facts[field] not in allowed for field, allowed in rule.when.items())
        if contradicted:
            continue
        missing = next((field for field in rule.when if field not in facts), None)
        return FieldMissing(rule, missing) if missing else Match(rule.action, rule)
    return Match(rules.default)


def parse(text: str) -> Rules:
    """Rules from the text of a TOML file. Raises `RulesError` with every problem and its line."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as problem:
        last = text.rstrip().count("\n") + 1
        where = str(problem).replace("at end of document", f"at end of document, line {last}")
        raise RulesError(f"not TOML: {where}") from problem
    reader = _Reader(text)
    rules = reader.rules(document)
    if reader.problems:
        raise RulesError(*(f"line {line}: {problem}" for line, problem in sorted(reader.problems)))
    return rules


class _Places:
    """The line that sets each key and opens each table, as one sees it without parsing, to say where a problem is."""

    def __init__(self, text: str) -> None:
        self._seen: list[tuple[_Path, int]] = []
        table, rules = _Path(), 0
        without_long_texts = _LONG_TEXT.sub(lambda found: "\n" * found[0].count("\n"), text)
        for number, line in enumerate(without_long_texts.split("\n"), 1):
            if header := _HEADER.match(line):
                table = _path(header[2])
                rules += header[1] == "[[" and table == ("rule",)
                if rules and table[0] == "rule":
                    table = ("rule", rules - 1, *table[1:])
                self._seen.append((table, number))
            elif setting := _SETTING.match(line):
                self._seen.append(((*table, *_path(setting[1])), number))
            if not table and _INLINE_RULE.match(line):
                self._seen.append((("rule", rules), number))
                rules += 1

    def line(self, path: _Path) -> int:
        """The number of the line where what is at `path` begins, or else what is around it."""
        for depth in range(len(path), 0, -1):
            for seen, number in self._seen:
                if seen[:depth] == path[:depth]:
                    return number
        return 1


def _path(dotted: str) -> _Path:
    return tuple(part.strip("\"'") for part in re.findall(_PART, dotted))


class _Reader:
    """Collects problems instead of stopping at the first."""

    def __init__(self, text: str) -> None:
        self._places = _Places(text)
        self.problems: list[tuple[int, str]] = []

    def rules(self, document: Mapping[str, Any]) -> Rules:
        for key in document.keys() - {"rule", "default"}:
            self._problem((key,), f"unknown key {key!r}")
        tables = document.get("rule", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._problem(("rule",), "write each rule as [[rule]]")
            tables = []
        if tables and "default" not in document:
            self._problem((), 'default = "ship" or "skip" is required when there are rules')
        default = self._action(document.get("default", "ship"), ("default",))
        return Rules(tuple(self._rule(table, ("rule", number)) for number, table in enumerate(tables)), default)

    def _rule(self, table: Mapping[str, Any], at: _Path) -> Rule:
        for key in table.keys() - _RULE_KEYS:
            self._problem((*at, key), f"unknown key {key!r}")
        for key in _NEEDED.keys() - table.keys():
            self._problem(at, f"a rule needs {_NEEDED[key]}")
        return Rule(
            name=str(self._text(table, "name", at)),
            when=self._when(table.get("when", {}), (*at, "when")),
            action=self._action(table.get("action", "skip"), (*at, "action")),
            transition_id=self._number(table, "transition_id", at),
            slug=self._text(table, "slug", at),
            grace=self._grace(table, at),
        )

    def _when(self, when: object, at: _Path) -> dict[str, frozenset[Fact]]:
        if not isinstance(when, dict):
            self._problem(at, "when must be a table of fields")
            return {}
        return {field: self._values(field, wanted, (*at, field)) for field, wanted in when.items()}

    def _values(self, field: str, wanted: object, at: _Path) -> frozenset[Fact]:
        if field in YES_NO_FIELDS:
            if isinstance(wanted, bool):
                return frozenset({wanted})
            self._problem(at, f"{field} must be true or false")
        elif field in TEXT_FIELDS:
            if isinstance(wanted, list) and wanted and all(isinstance(value, str) for value in wanted):
                return frozenset(wanted)
            self._problem(at, f"{field} must be a list of texts")
        else:
            self._problem(at, f"unknown field {field!r}; known: {', '.join(TEXT_FIELDS + YES_NO_FIELDS)}")
        return frozenset()

    def _action(self, action: object, at: _Path) -> Action:
        if action == "ship" or action == "skip":
            return action
        self._problem(at, f'action and default are "ship" or "skip", not {action!r}')
        return "skip"

    def _number(self, table: Mapping[str, Any], key: str, at: _Path) -> int | None:
        value = table.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_NUMBER):
            return value
        self._problem((*at, key), f"{key} must be a whole number from 0 to {MAX_NUMBER}")
        return None

    def _text(self, table: Mapping[str, Any], key: str, at: _Path) -> str | None:
        text = table.get(key)
        if text is None or (isinstance(text, str) and text):
            return text
        self._problem((*at, key), f"{key} must be a text")
        return None

    def _grace(self, table: Mapping[str, Any], at: _Path) -> timedelta | None:
        seconds = self._number(table, "grace_s", at)
        return None if seconds is None else timedelta(seconds=seconds)

    def _problem(self, at: _Path, problem: str) -> None:
        self.problems.append((self._places.line(at), problem))
