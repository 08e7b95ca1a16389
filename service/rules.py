"""Which packages are ours: a TOML file, checked whole, first match wins."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from service.errors import RulesError
from service.snapshot import Fact

Action = Literal["ship", "skip"]

TEXT_FIELDS = ("channel_name", "stock_location_erp_code", "payment_type")
YES_NO_FIELDS = ("has_shipment", "has_invoice")
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
    except tomllib.TOMLDecodeError as problem:
        raise RulesError(f"not TOML: {problem}") from problem
    reader = _Reader(text)
    rules = reader.rules(document)
    if reader.problems:
        raise RulesError(*reader.problems)
    return rules


class _Reader:
    """Collects problems instead of stopping at the first."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self.problems: list[str] = []

    def rules(self, document: Mapping[str, Any]) -> Rules:
        for key in document.keys() - {"rule", "default"}:
            self._problem(self._line(key), f"unknown key {key!r}")
        tables = document.get("rule", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._problem(self._line("rule"), "write each rule as [[rule]]")
            tables = []
        if tables and "default" not in document:
            self._problem(1, 'default = "ship" or "skip" is required when there are rules')
        default = self._action(document.get("default", "ship"), self._line("default"))
        return Rules(tuple(self._rule(index, table) for index, table in enumerate(tables)), default)

    def _rule(self, index: int, table: Mapping[str, Any]) -> Rule:
        start = self._header(index)
        name = table.get("name")
        if not isinstance(name, str) or not name:
            self._problem(start, "a rule needs a name")
        for key in table.keys() - _RULE_KEYS:
            self._problem(self._line(key, start), f"unknown key {key!r}")
        return Rule(
            name=str(name),
            when=self._when(table.get("when", {}), start),
            action=self._action(table.get("action"), self._line("action", start)),
            transition_id=self._number(table, "transition_id", start),
            slug=self._slug(table, start),
            grace=self._grace(table, start),
        )

    def _when(self, when: object, start: int) -> dict[str, frozenset[Fact]]:
        line = self._line("when", start)
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

    def _number(self, table: Mapping[str, Any], key: str, start: int) -> int | None:
        value = table.get(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
            return value
        self._problem(self._line(key, start), f"{key} must be a whole number, not negative")
        return None

    def _slug(self, table: Mapping[str, Any], start: int) -> str | None:
        slug = table.get("slug")
        if slug is None or (isinstance(slug, str) and slug):
            return slug
        self._problem(self._line("slug", start), "slug must be a text")
        return None

    def _grace(self, table: Mapping[str, Any], start: int) -> timedelta | None:
        seconds = self._number(table, "grace_s", start)
        return None if seconds is None else timedelta(seconds=seconds)

    def _problem(self, line: int, problem: str) -> None:
        self.problems.append(f"line {line}: {problem}")

    def _header(self, index: int) -> int:
        headers = self._matching(r"\s*\[\[\s*[\"']?rule[\"']?\s*\]\]", 1)
        return headers[index] if index < len(headers) else 1

    def _line(self, key: str, start: int = 1) -> int:
        """The line, counted from 1, where `key` is set or opened at or after `start`; else `start`."""
        found = self._matching(rf"\s*(\[+\s*)?[\"']?{re.escape(key)}\b", start)
        return found[0] if found else start

    def _matching(self, pattern: str, start: int) -> Sequence[int]:
        return [number for number, line in enumerate(self._lines, 1) if number >= start and re.match(pattern, line)]
