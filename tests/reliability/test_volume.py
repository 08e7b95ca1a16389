"""Small campaigns of many packages and one kind of trouble."""

from __future__ import annotations

import pytest

from tests.reliability import volume
from tests.simulation.run import Storage

pytestmark = pytest.mark.usefixtures("unlogged")


def test_commands_that_time_out_are_settled_by_what_is_read_and_never_repeated_where_they_were_applied() -> None:
    [found] = volume.timeouts(Storage(), 30, seed=1)
    assert found.judgement.is_clean, found.judgement
    assert 0 < found.applied < found.timeouts == 30
    assert found.repeated == 0


def test_packages_ship_within_two_sweep_intervals_though_every_webhook_is_lost() -> None:
    found = volume.dropped_webhooks(Storage(), 60, seed=1)
    assert found.judgement.is_clean, found.judgement
    assert len(found.waited_s) == 60
    assert found.waited_s[-1] <= 2 * volume.SWEEP_INTERVAL_S


def test_in_an_hour_long_brown_out_retries_take_only_what_first_looks_leave_of_the_rate() -> None:
    rate_per_s, share = 0.05, 0.8
    found = volume.brown_out(Storage(), rate_per_s, share, seed=1)
    assert found.judgement.is_clean, found.judgement
    assert found.repeated <= 0.25 * found.first
    assert found.first + found.repeated <= rate_per_s * volume.HOUR_S + 1
