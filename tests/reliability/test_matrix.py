"""Every fault once at every operation, and that the judge of the matrix can find fault."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from service.sandbox import Request, Response
from tests.oms_faults import answers
from tests.reliability import matrix
from tests.reliability.matrix import FOR_A_PERSON, OPERATIONS, Row, cells
from tests.reliability.shift import SOCKET_TIMEOUT_S, Shift, Step, a_shift, proven_by, redirected, violations
from tests.simulation.run import Storage

pytestmark = pytest.mark.usefixtures("unlogged")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_fault_that_strikes_an_operation_once_loses_nothing_and_doubles_nothing(operation: str) -> None:
    chosen = [one for one in cells(("once",)) if one.operation == operation]
    assert chosen
    assert matrix.problems(list(matrix.judged(chosen))) == []


@pytest.mark.parametrize("fault", ["no answer", "502", "unknown state"])
def test_in_shadow_nothing_is_commanded_whatever_the_oms_does(fault: str) -> None:
    chosen = [one for one in cells(("shadow",)) if one.row.name == fault and one.operation == "read"]
    assert chosen
    assert matrix.problems(list(matrix.judged(chosen))) == []


def test_every_cell_that_needs_a_person_is_a_cell() -> None:
    assert FOR_A_PERSON.keys() <= {one.key for one in cells()}


def test_a_cell_whose_packages_end_otherwise_is_broken() -> None:
    never_shipped = Row("never applied", ("command",), answers(204))
    [result] = matrix.judged([matrix.Cell(never_shipped, "command", "once")])
    assert result.mark == "BROKEN"
    assert result.found == ["they end as needs_attention/accepted_but_still_packed, not shipped"]


# The judge.


@pytest.fixture
def shift() -> Iterator[Shift]:
    """Package 71 was shipped by a command, as it should."""
    with a_shift(Storage(), seed=1) as shift:
        shift.pack(71)
        shift.run(60)
        assert violations(shift) == []
        yield shift


def test_what_shipped_twice_is_seen(shift: Shift) -> None:
    shift.oms.apply(71)
    assert violations(shift) == ["package 71 was shipped twice"]


def test_an_inbox_that_lost_a_delivery_is_seen(shift: Shift) -> None:
    shift.accepted["an event that is not there"] += 1
    assert violations(shift) == ["the inbox does not hold what was accepted"]


def test_a_redirect_that_is_followed_is_seen_and_no_other_call(shift: Shift) -> None:
    redirect = redirected(307)(shift.oms, Request("GET", "/packages/71/", {}, "", b""))
    assert isinstance(redirect, Response)
    leads_to = httpx.URL(redirect.headers["Location"])

    with pytest.raises(httpx.ReadTimeout):
        httpx.get(leads_to.copy_with(path="/readyz"), timeout=SOCKET_TIMEOUT_S, trust_env=False)
    assert violations(shift) == []

    with pytest.raises(httpx.ReadTimeout):
        httpx.get(leads_to, timeout=SOCKET_TIMEOUT_S, trust_env=False)
    assert violations(shift) == ["another host was called"]


def test_a_success_that_is_claimed_and_none_is_seen(shift: Shift) -> None:
    shift.oms.applied.clear()
    shift.recheck(71)
    shift.run(120)
    assert "package 71 is said to be shipped and is not" in violations(shift)


@pytest.mark.parametrize(
    ("answer", "looks_at_s", "justified"),
    [
        (Response(204), (100, 200), False),
        (None, (100,), False),
        (None, (5, 29), False),
        (None, (5, 30), True),
        (Response(408), (5, 29), False),
        (Response(200, b"{}"), (5, 29), False),
        (Response(200, b"", {"Content-Encoding": "gzip"}), (5, 29), False),
        (Response(503), (), False),
        (Response(503), (2.9,), False),
        (Response(503), (3,), True),
        (Response(406), (), True),
    ],
)
def test_a_second_command_needs_what_the_first_ones_answer_asks_for(
    shift: Shift, answer: Response | None, looks_at_s: tuple[float, ...], justified: bool
) -> None:
    looks = [Step(at_s, "read-back", shows_packed=True) for at_s in (*looks_at_s, 500)]
    first = Step(0, "read", shows_packed=True), Step(0, "command", proves=proven_by(answer))
    shift.oms.steps[71] = [*first, *looks, Step(500, "command", proves="accepted")]
    assert (violations(shift) == []) is justified


def test_a_command_without_a_read_of_its_own_is_seen(shift: Shift) -> None:
    shift.oms.steps[71] = [Step(0, "read", shows_packed=True), Step(1, "command", proves="accepted")]
    assert violations(shift) == ["package 71: commanded at 1 s without a fresh read"]
