"""The pages that are tables of the code are equal to it, and the tables are complete."""

from __future__ import annotations

import re

import pytest

from service import config
from service.case import MEANINGS, CaseState, Reason
from tests.conftest import MINIMAL
from tests.house import docs

_PICTURE = re.compile(r"^```\n( +OMS ──.*?)^```$", re.MULTILINE | re.DOTALL)
_CAMPAIGNS = re.compile(r"^\| campaign \|.*\n(?:\|.*\n)+", re.MULTILINE)


@pytest.mark.parametrize("name", docs.pages())
def test_the_page_is_what_the_code_says(name: str) -> None:
    written = (docs.DOCS / name).read_text(encoding="utf-8")
    assert written == docs.pages()[name], "run: python -m tests.house.docs"


def test_every_state_and_every_reason_is_explained() -> None:
    assert {state for state, _ in MEANINGS} == set(CaseState)
    assert {reason for _, reason in MEANINGS} == {*Reason, None}


def test_every_variable_that_is_read_is_explained_with_its_default_and_no_other() -> None:
    page = (docs.DOCS / "configuration.md").read_text(encoding="utf-8")
    explained = dict(re.findall(r"^\| `(\w+)` \| (required|empty|`[^`]+`) \| [^|]+ \|$", page, re.MULTILINE))
    in_parts = {"DB_HOST": "x", "DB_NAME": "x", "DB_USER": "x"}
    defaults = {name: _shown(value) for name, value in config.redacted(MINIMAL | in_parts).items()}
    given = dict.fromkeys((*MINIMAL, "DATABASE_URL"), "required") | dict.fromkeys(in_parts, "empty")
    assert explained == defaults | given


def _shown(value: object) -> str:
    return "empty" if value == "" else f"`{int(value) if isinstance(value, bool) else value}`"


def test_the_picture_is_the_same_on_both_pages() -> None:
    pages = [docs.DOCS / "how-it-works.md", docs.DOCS.parent / "README.md"]
    [first], [second] = (_PICTURE.findall(page.read_text(encoding="utf-8")) for page in pages)
    assert first == second


def test_the_table_of_reliability_is_the_same_on_both_pages() -> None:
    pages = [docs.DOCS / "reliability.md", docs.DOCS.parent / "README.md"]
    [first], [second] = (_CAMPAIGNS.findall(page.read_text(encoding="utf-8")) for page in pages)
    assert first == second
