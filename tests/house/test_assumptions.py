"""Whatever the code assumes about the OMS is marked, and put to the test by a check of the doctor."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from service.diagnosis import CHECKS
from tests.house.docs import ASSUMPTIONS, DOCS

SERVICE = Path(__file__).parents[2] / "service"


def _assumed() -> Iterator[str]:
    """The outermost class or function around each mark, as `module.Name`; `module` where there is none."""
    for source in sorted(SERVICE.glob("*.py")):
        text = source.read_text(encoding="utf-8")
        definitions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        for number, line in enumerate(text.splitlines(), 1):
            if "ASSUMED:" in line:
                around = [one for one in definitions if one.lineno <= number <= (one.end_lineno or 0)]
                names = [one.name for one in sorted(around, key=lambda one: one.lineno)]
                yield ".".join([source.stem, *names[:1]])


def test_every_assumption_is_put_to_the_test_by_the_doctor_and_every_check_names_one_that_is_there() -> None:
    assumed = set(_assumed())
    assert "snapshot.OfferedCommand" in assumed
    assert {place for places in ASSUMPTIONS.values() for place in places} == assumed


def test_no_mark_is_written_in_another_way() -> None:
    spelled = [
        f"{source.name}: {line.strip()}"
        for source in SERVICE.glob("*.py")
        for line in source.read_text(encoding="utf-8").splitlines()
        if re.search(r"\bassumed\b", line, re.IGNORECASE) and "ASSUMED:" not in line
    ]
    assert spelled == []


def test_every_check_that_the_page_about_the_oms_names_is_one() -> None:
    text = (DOCS / "oms.md").read_text(encoding="utf-8")
    named = {name for part in re.findall(r"[Cc]hecked by ([^|.]+)", text) for name in re.findall(r"`(\w+)`", part)}
    assert named - set(CHECKS) == set()
    assert set(ASSUMPTIONS) - named == set()
