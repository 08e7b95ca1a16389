"""The full run goes on where it stood, and its page says what came out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.reliability import full, matrix
from tests.reliability.full import Part, Progress, Result

RUN = {"commit": "abc", "scale": 1.0, "seed": 1}


def a_part(number: int, ran: list[int], result: Result | None) -> Part:
    def run() -> Result:
        ran.append(number)
        if result is None:
            raise KeyboardInterrupt
        return result

    return Part("kills", number, 5, run)


def test_what_was_finished_before_ctrl_c_is_not_run_again(tmp_path: Path) -> None:
    ran: list[int] = []
    done = Result({"kills": 5}, recoveries_s=[1.0])
    with pytest.raises(KeyboardInterrupt):
        full._finish([a_part(0, ran, done), a_part(1, ran, None)], Progress(tmp_path / "state.json", RUN))
    again = Progress(tmp_path / "state.json", RUN)
    full._finish([a_part(0, ran, done), a_part(1, ran, done)], again)
    assert ran == [0, 1, 1]
    assert again.results == {"kills 0": done, "kills 1": done}


@pytest.mark.parametrize("other", [{"commit": "def"}, {"scale": 0.1}, {"seed": 2}])
def test_what_came_of_another_run_is_not_taken_over(tmp_path: Path, other: dict[str, object]) -> None:
    full._finish([a_part(0, [], Result({"kills": 5}))], Progress(tmp_path / "state.json", RUN))
    assert Progress(tmp_path / "state.json", RUN | other).results == {}


@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_the_page_adds_up_the_parts_and_says_where_it_is_scaled_down(scale: float) -> None:
    results = {
        "kills 0": Result({"deliveries": 900, "kills": 5}, lost=1, recoveries_s=[1.0, 9.0]),
        "kills 1": Result({"deliveries": 600, "kills": 5}, double=2, false_success=3, unresolved=4),
    }
    wanted = [a_part(number, [], None) for number in (0, 1)]
    page = full.page(RUN | {"scale": scale}, wanted, results, machine="2 cores", day="2026-11-24")
    assert "| kills | 1,500 deliveries, 10 kills | 1 | 2 | 3 | 4 | 9.0 s |" in page
    assert ("A run at 0.01 of the full size" in page) is (scale < 1)


def test_at_full_size_it_is_what_was_promised() -> None:
    sizes = Counter[str]()
    for part in full.parts(scale=1, seed=1):
        sizes[part.campaign] += part.size
    assert sizes == {
        "killed processes, SQLite": 1000,
        "killed processes, PostgreSQL": 1000,
        "commands that time out": 5000,
        "every webhook dropped": 5000,
        "fault matrix": len(matrix.cells()),
        "simulated histories": 100_000,
    }
    assert 1000 * full.DELIVERIES_A_KILL == 50_000


def test_a_tenth_of_it_has_a_hundred_kills_on_each_database_and_every_fault_at_every_operation() -> None:
    sizes = Counter[str]()
    for part in full.parts(scale=0.1, seed=1):
        sizes[part.campaign] += part.size
    assert sizes["killed processes, SQLite"] == sizes["killed processes, PostgreSQL"] == 100
    assert sizes["fault matrix"] == len(matrix.cells())
    assert sizes["simulated histories"] == 10_000
