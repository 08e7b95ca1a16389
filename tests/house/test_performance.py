"""The page about speed is what the result beside it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench import report

DOCS = Path(__file__).parents[2] / "docs"
RESULT = DOCS / "performance.json"
SAMPLES = {
    "acknowledged/s: PostgreSQL": [310.0, 460.0, 290.0],
    "acknowledged/s: bare Flask": [1000.0, 1000.0, 1000.0],
    "p99 ms: OMS hangs": [30.0],
    "p99 ms: OMS fast": [10.0],
}


def test_the_page_and_the_plots_are_made_of_the_result_and_without_one_there_are_none() -> None:
    if not RESULT.exists():
        assert list(DOCS.glob("performance*")) == []
        return
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    for name, text in ({"performance.md": report.page(result)} | report.plots(result)).items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, name


@pytest.mark.parametrize(
    ("number", "values", "verdict"),
    [(0, [0.31, 0.46, 0.29], "yes"), (2, [3.0], "**no**"), (3, [], "not measured")],
)
def test_a_figure_is_the_median_of_the_rounds_ratios_against_its_bounds(
    number: int, values: list[float], verdict: str
) -> None:
    figure = report.FIGURES[number]
    assert figure.values(SAMPLES) == values
    assert figure.verdict(values) == verdict
    assert figure.verdict([figure.aim]) == "aim reached"
