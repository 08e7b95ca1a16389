"""The shadow report: what would have been shipped against what people did, and what live mode makes of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from service import operator, shadow
from service.shadow import Fate, compare
from service.sweep import Sweeper
from tests.commands import Autoship
from tests.integration.conftest import Floor
from tests.oms_faults import FaultyOms

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
WOULD, THEY_SHIPPED, LEFT = ("would_ship", ""), ("already_shipped", ""), ("skipped/left_packed", "")
DISMISSED, AGAIN = ("operator", "dismissed"), ("operator", "asked to look again")


def timeline(*lines: tuple[str, str]) -> list[dict[str, object]]:
    """A line each minute."""
    return [{"at": NOW + number * MINUTE, "kind": kind, "text": text} for number, (kind, text) in enumerate(lines)]


@pytest.mark.parametrize(
    ("lines", "fates"),
    [
        ([], []),
        ([THEY_SHIPPED], []),
        ([WOULD], [Fate.STILL_PACKED]),
        ([WOULD, ("read_failed", "x"), AGAIN, WOULD], [Fate.STILL_PACKED]),
        ([WOULD, THEY_SHIPPED], [Fate.AGREED]),
        ([WOULD, LEFT], [Fate.DISAGREED]),
        ([WOULD, ("skipped/cancelled", "")], [Fate.DISAGREED]),
        ([WOULD, DISMISSED], [Fate.DISAGREED]),
        ([WOULD, DISMISSED, THEY_SHIPPED], [Fate.AGREED]),
        ([WOULD, ("waiting/items_mixed", "")], [Fate.WITHDRAWN]),
        ([WOULD, ("waiting/items_mixed", ""), LEFT], [Fate.WITHDRAWN]),
        ([WOULD, ("waiting/items_mixed", ""), WOULD, THEY_SHIPPED], [Fate.WITHDRAWN, Fate.AGREED]),
        ([WOULD, ("skipped/rule", "")], [Fate.WITHDRAWN]),
        ([WOULD, ("command", "attempt 1: sending"), ("shipped", "")], [Fate.WITHDRAWN]),
        ([WOULD, LEFT, ("episode", "episode 2 opened"), WOULD, THEY_SHIPPED], [Fate.DISAGREED, Fate.AGREED]),
    ],
)
def test_what_followed_decides_whether_people_agreed(lines: list[tuple[str, str]], fates: list[Fate]) -> None:
    assert [one.fate for one in compare(73, timeline(*lines), last_seen_shipped=False)] == fates


def test_a_state_that_is_known_as_shipped_only_by_now_counts_as_shipped() -> None:
    entries = timeline(WOULD, LEFT, WOULD, LEFT)
    assert [one.fate for one in compare(73, entries, last_seen_shipped=True)] == [Fate.DISAGREED, Fate.AGREED]


@pytest.fixture
def shadowed(floor_with: Callable[..., Floor]) -> Floor:
    """Five packages that shadow mode would have shipped at noon, and what became of them an hour later."""
    floor = floor_with(FaultyOms(shipped="600"), MODE="shadow", SHIPPED_STATUSES="600")
    for package_id in range(1, 6):
        floor.oms.create(package_id, ["500"], state="500")
        floor.hint(package_id)
    floor.look()
    floor.clock.turn(60 * MINUTE)
    floor.oms.ship_by_hand(1)
    floor.oms.ship_by_hand(2)
    floor.oms.unpack(3)
    floor.oms.set_items(4, ["500", "400"])
    for package_id in range(1, 5):
        floor.hint(package_id)
    floor.look()
    return floor


def test_the_report_counts_agreement_lists_disagreements_and_says_what_would_have_been_saved(shadowed: Floor) -> None:
    told = shadow.summary(shadow.report(shadowed.store, shadowed.config.settings))
    [disagreement] = told.pop("disagreements")
    assert told == {
        "would_ship": 5, "agreed": 2, "disagreed": 1, "still_packed": 1, "withdrawn": 1,
        "since": "2026-11-24T12:00:00.000Z", "saved_s": {"total": 7200, "median": 3600},
    }  # fmt: skip
    assert disagreement == {
        "id": 3,
        "would_ship_at": "2026-11-24T12:00:00.000Z",
        "at": "2026-11-24T13:00:00.000Z",
        "what": "left Packed for PackageStatus 400; not by us",
    }


def test_the_command_exits_1_for_a_disagreement_and_0_without_one(shadowed: Floor, autoship: Autoship) -> None:
    variables = {"MODE": "shadow", "SHIPPED_STATUSES": "600"}
    ended = autoship("shadow-report", **variables)
    assert ended.code == 1
    [line] = [line for line in ended.out.splitlines() if "left Packed for PackageStatus 400" in line]
    assert line.split()[:9] == ["3", "24", "Nov", "2026", "15:00:00", "24", "Nov", "2026", "16:00:00"]
    assert ended.out.splitlines()[-1] == "Times are of Europe/Istanbul, UTC+03:00."
    assert "1:00:00 for the median package, 2:00:00 in all" in ended.out
    ended = autoship("shadow-report", "--json", **variables)
    assert (ended.code, ended.told[0]["disagreed"]) == (1, 1)
    ended = autoship("shadow-report", **variables | {"SHIPPED_STATUSES": "600,400"})
    assert (ended.code, "Disagreements" in ended.out) == (0, False)


def test_an_empty_report_agrees(floor: Floor) -> None:
    told = shadow.summary(shadow.report(floor.store, floor.config.settings))
    assert (told["would_ship"], told["since"], told["saved_s"]) == (0, None, {"total": 0, "median": None})


def test_live_mode_ships_what_shadow_mode_would_have_shipped(shadowed: Floor, floor_with: Callable[..., Floor]) -> None:
    operator.dismiss(shadowed.store, 5)
    shadowed.oms.create(6, ["500"], state="500")
    shadowed.hint(6)
    shadowed.look()
    assert shadowed.where(6) == ("would_ship", None)
    live = floor_with(shadowed.oms, SHIPPED_STATUSES="600", ADOPT_MAX="0")
    assert Sweeper(live.config, live.store, live.attendant.oms, lambda _: False).sweep_if_due() is not None
    assert live.run(6)["state"] == "shipped"
    assert [live.oms.commands_for(package_id) for package_id in range(1, 7)] == [0, 0, 0, 0, 0, 1]
    assert live.where(5) == ("skipped", "dismissed")
