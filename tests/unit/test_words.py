"""Instants and durations as people say them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from service.words import Words, counted, lasting

NOW = datetime(2026, 11, 24, 22, 30, tzinfo=UTC)
WORDS = Words(ZoneInfo("Europe/Istanbul"), NOW)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "0 s"), (0, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (61, "1 min 1 s"), (7800, "2 h 10 min"), (7200, "2 h"),
     (3601, "1 h 1 s"), (90061, "1 d 1 h"), (864000, "10 d")],
)  # fmt: skip
def test_a_duration_is_said_in_its_two_largest_units(seconds: float, said: str) -> None:
    assert lasting(timedelta(seconds=seconds)) == said


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        (datetime(2026, 11, 24, 21, 30, 5, tzinfo=UTC), '<time datetime="2026-11-25T00:30:05+03:00">00:30:05</time>'),
        ("2026-11-24T20:30:05.123Z", '<time datetime="2026-11-24T23:30:05+03:00">24 Nov 2026 23:30:05</time>'),
        (None, "never"),
    ],
)
def test_a_moment_is_shown_in_the_zone_with_its_day_unless_that_is_today(
    moment: datetime | str | None, shown: str
) -> None:
    assert WORDS.when(moment) == shown


def test_how_long_ago_and_since_when() -> None:
    earlier = NOW - timedelta(minutes=61)
    assert (WORDS.ago(earlier), WORDS.since(earlier)) == ("1 h 1 min ago", "1 h 1 min")
    assert (WORDS.ago(None), WORDS.since(None)) == ("never", "")
    assert WORDS.zone_name == "Europe/Istanbul, UTC+03:00"


def test_things_are_counted_with_their_plural() -> None:
    assert [counted(n, "entry", "entries") for n in (0, 1, 2000)] == ["0 entries", "1 entry", "2,000 entries"]
    assert counted(2, "package") == "2 packages"
