"""What the hand-written pages name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.house.events import EVENTS, FIELDS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.md")])
SYMPTOMS = (ROOT / "deploy/README.md").read_text(encoding="utf-8").partition("## Logs by symptom")[2]
LOGGED = {field for fields in FIELDS.values() for field in fields}


def test_every_event_and_field_that_a_log_query_asks_for_is_logged() -> None:
    table = SYMPTOMS.partition("| service |")[0]
    conditions = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]
    names = set(re.findall(r"[a-z]+\.[a-z_]+", " ".join(conditions)))
    fields = set(re.findall(r"`(\w+)(?: [=>] [^`]+)?`", " ".join(conditions))) - {"event"}
    assert (names - set(EVENTS), fields - LOGGED) == (set(), set())
    assert (len(names), len(fields)) >= (10, 8)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
