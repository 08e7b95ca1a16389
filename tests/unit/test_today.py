"""Today in numbers: where the plot draws what, and what it says where it draws nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from service.today import Today

BERLIN = ZoneInfo("Europe/Berlin")
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("at", "hour"),
    [
        (datetime(2026, 10, 24, 22, 0, tzinfo=UTC), 0),
        (datetime(2026, 10, 25, 11, 0, tzinfo=UTC), 12),  # the day has 25 hours
        (datetime(2026, 10, 25, 22, 30, tzinfo=UTC), 23.5),
        (datetime(2026, 3, 29, 10, 0, tzinfo=UTC), 12),  # 23 hours
        (datetime(2026, 7, 1, 10, 0, tzinfo=UTC), 12),
    ],
)
def test_a_package_is_drawn_at_the_hour_that_the_clock_on_the_wall_showed(at: datetime, hour: float) -> None:
    midnight = at.astimezone(BERLIN).replace(hour=0, minute=0)
    [(x, _)] = Today(midnight, 1, {}, ((at, SECOND),)).points()
    assert x == pytest.approx(hour / 24)


@pytest.mark.parametrize(
    ("shipped", "said"), [(0, "Nothing has shipped yet today."), (2, "What shipped had been packed before.")]
)
def test_that_nothing_is_drawn_is_not_taken_for_nothing_shipped(shipped: int, said: str) -> None:
    assert Today(datetime(2026, 7, 1, tzinfo=BERLIN), shipped, {}, ()).summary() == said
