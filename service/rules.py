"""Which packages are ours: a TOML file, checked whole, first match wins."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any, Literal

from service.errors import RulesError
from service.snapshot import Fact

Action = Literal["ship", "skip"]

TEXT_FIELDS = ("channel_name", "stock_location_erp_code", "payment_type")
YES_NO_FIELDS = ("has_shipment", "has_invoice")
MAX_NUMBER = 10**9  # as in the environment; every database can store it
_RULE_HEADER = re.compile(r"\s*\[\[\s*[\"']?rule[\"']?\s*\]\]")
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
        raise RulesError(f"not TOML: {problem}") from problem
    reader = _Reader(text)
    rules = reader.rules(document)
    if reader.problems:
        raise RulesError(*(f"line {line}: {problem}" for line, problem in sorted(reader.problems)))
    return rules


@dataclass(frozen=True, slots=True)
class _Lines:
    """Some lines of the file, numbered from `first`, to say where a problem is."""

    first: int
    lines: Sequence[str]

    def of(self, key: str) -> int:
        """The number of the line that sets or opens `key`; else of the first one."""
        opening = re.compile(rf"[\s\[]*(rule\.)?[\"']?{re.escape(key)}(?![\w-])")
        found = (number for number, line in enumerate(self.lines, self.first) if opening.match(line))
        return next(found, self.first)

    def by_rule(self) -> list[_Lines]:
        """The lines of each `[[rule]]`, from its header to the next."""
        starts = [index for index, line in enumerate(self.lines) if _RULE_HEADER.match(line)]
        return [_Lines(start + 1, self.lines[start:end]) for start, end in pairwise([*starts, len(self.lines)])]


class _Reader:
    """Collects problems instead of stopping at the first."""

    def __init__(self, text: str) -> None:
        self._file = _Lines(1, text.split("\n"))
        self.problems: list[tuple[int, str]] = []

    def rules(self, document: Mapping[str, Any]) -> Rules:
        for key in document.keys() - {"rule", "default"}:
            self._problem(self._file.of(key), f"unknown key {key!r}")
        tables = document.get("rule", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._problem(self._file.of("rule"), "write each rule as [[rule]]")
            tables = []
        if tables and "default" not in document:
            self._problem(1, 'default = "ship" or "skip" is required when there are rules')
        default = self._action(document.get("default", "ship"), self._file.of("default"))
        places = self._file.by_rule()
        if len(places) != len(tables):  # written as one list, or a text holds what looks like a header
            places = [self._file] * len(tables)
        return Rules(tuple(map(self._rule, tables, places)), default)

    def _rule(self, table: Mapping[str, Any], lines: _Lines) -> Rule:
        name = table.get("name")
        if not isinstance(name, str) or not name:
            self._problem(lines.first, "a rule needs a name")
        for key in table.keys() - _RULE_KEYS:
            self._problem(lines.of(key), f"unknown key {key!r}")
        return Rule(
            name=str(name),
            when=self._when(table.get("when", {}), lines.of("when")),
            action=self._action(table.get("action"), lines.of("action")),
            transition_id=self._number(table, "transition_id", lines),
            slug=self._slug(table, lines),
            grace=self._grace(table, lines),
        )

    def _when(self, when: object, line: int) -> dict[str, frozenset[Fact]]:
        if not isinstance(when, dict):
            self._problem(line, "when must be a table of fields")
            return {}
        return {field: self._values(field, wanted, line) for field, wanted in when.items()}

    def _values(self, field: str, wanted: object, line: int) -> frozenset[Fact]:
        if field in YES_NO_FIELDS:
            if isinstance(wanted, bool):
                return frozenset({wanted})
            self._problem(line, f"{field} must be true or false")
        elif field in TEXT_FIELDS:
            if isinstance(wanted, list) and wanted and all(isinstance(value, str) for value in wanted):
                return frozenset(wanted)
            self._problem(line, f"{field} must be a list of texts")
        else:
            self._problem(line, f"unknown field {field!r}; known: {', '.join(TEXT_FIELDS + YES_NO_FIELDS)}")
        return frozenset()

    def _action(self, action: object, line: int) -> Action:
        if action == "ship" or action == "skip":
            return action
        self._problem(line, f'action and default are "ship" or "skip", not {action!r}')
        return "skip"

    def _number(self, table: Mapping[str, Any], key: str, lines: _Lines) -> int | None:
        value = table.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_NUMBER):
            return value
        self._problem(lines.of(key), f"{key} must be a whole number from 0 to {MAX_NUMBER}")
        return None

    def _slug(self, table: Mapping[str, Any], lines: _Lines) -> str | None:
        slug = table.get("slug")
        if slug is None or (isinstance(slug, str) and slug):
            return slug
        self._problem(lines.of("slug"), "slug must be a text")
        return None

    def _grace(self, table: Mapping[str, Any], lines: _Lines) -> timedelta | None:
        seconds = self._number(table, "grace_s", lines)
        return None if seconds is None else timedelta(seconds=seconds)

    def _problem(self, line: int, problem: str) -> None:
        self.problems.append((line, problem))
