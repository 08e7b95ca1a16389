"""The light and its sentence: whoever looks at 3 a.m. knows in five seconds whether anything needs them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from service import alerts, brakes, sweep
from service.standing import Light, judge
from tests.integration.test_alerts import HEALTHY, MINUTE, NOW, SECOND, SILENT

HOUR = timedelta(hours=1)
CALM: dict[str, Any] = {"packages": {("shipped", None): 9, ("waiting", "grace"): 3}}
ONE_NEEDS: dict[str, Any] = {
    "packages": {("waiting", "grace"): 3, ("shipping", "sending"): 1, ("needs_attention", "refused"): 1}
}
PAUSED: dict[str, Any] = {"paused_at": NOW - HOUR, "pause_cause": "by Ayşe: stock count"}
BEHIND: dict[str, Any] = {"packages": {("waiting", "brake"): 3}}
SHADOW: dict[str, Any] = {"packages": {("would_ship", None): 1200}}
BREAKER: dict[str, Any] = {"breaker_opened_at": NOW - HOUR, "breaker_cause": "the token may not read"}
LATE: dict[str, Any] = {"oldest_due_at": NOW - 6 * MINUTE, "held_up": False}
IGNORED: dict[str, Any] = {"unreadable": 1, "sweep_problem": f"{sweep.FILTER_IGNORED}: package 9 is not Packed"}
NOTHING_YET: dict[str, Any] = {"packages": {}, "last_webhook_at": None, "made_at": NOW}


@pytest.mark.parametrize(
    ("changes", "live", "light", "sentence"),
    [
        (CALM, True, Light.CALM, "Shipping normally. 412 shipped today, 3 waiting, no package needs you."),
        (
            ONE_NEEDS,
            True,
            Light.NEEDS_YOU,
            "Shipping normally. 412 shipped today, 1 under way, 3 waiting, 1 needs you.",
        ),
        (NOTHING_YET, True, Light.CALM, "Nothing has come yet: no webhook, and no package in Packed. 412 shipped"),
        (CALM | PAUSED, True, Light.HELD, "Paused for 1 h by Ayşe: stock count. 412 shipped today"),
        (CALM | PAUSED | {"pause_cause": brakes.BY_OPERATOR}, True, Light.HELD, "Paused for 1 h by an operator. 412"),
        (PAUSED | BEHIND, True, Light.STOPPED, "Commands have been paused for half an hour, and packages wait. 412"),
        (ONE_NEEDS | PAUSED, True, Light.NEEDS_YOU, "Paused for 1 h by Ayşe: stock count."),
        (SHADOW, False, Light.HELD, "Shadow mode: packages are judged, nothing is commanded. 1,200 would ship, 412"),
        (SHADOW | PAUSED, False, Light.HELD, "Paused for 1 h by Ayşe"),
        (CALM | {"hold_off_until": NOW + 90 * SECOND}, True, Light.CALM, "The OMS asked everybody to wait, for 1 min "),
        (CALM | {"hold_off_until": NOW + 960 * SECOND}, True, Light.CALM, "Shipping normally."),  # a clock was set back
        (CALM | SILENT, True, Light.NEEDS_YOU, "No webhook has come for an hour, and the sweep finds packages. 412"),
        ({"packages": {("waiting", "backlog_to_confirm"): 7}}, True, Light.NEEDS_YOU, "Packages that were "),
        (CALM | {"unreadable": 1}, True, Light.STOPPED, "The OMS gives no usable answer. 412"),
        (CALM | {"unreadable": 1, "sweep_problem": None}, True, Light.NEEDS_YOU, "The OMS gives no usable answer. 412"),
        (CALM | IGNORED, True, Light.NEEDS_YOU, "The OMS gives no usable answer. 412"),
        (CALM | {"failing": 1}, True, Light.STOPPED, "The OMS gives no usable answer. 412"),
        (CALM | {"failing": 1, "sweep_problem": "the list cannot be used"}, True, Light.CALM, "Shipping normally."),
        (CALM | BREAKER, True, Light.STOPPED, "The breaker is open: no command is sent. 412 shipped"),
        (CALM | BREAKER | {"breaker_cause": brakes.TOKEN_REJECTED}, True, Light.STOPPED, "The OMS does not accept"),
        (CALM | PAUSED | {"pause_cause": "9 commands"}, True, Light.STOPPED, "Paused: SHIP_MAX_PER_HOUR was reached."),
        (CALM | {"worker_seen_at": None}, True, Light.STOPPED, "No worker was seen for a minute. 412"),
        (CALM | LATE, True, Light.NEEDS_YOU, "The workers do not keep up. 412"),
        (CALM | LATE | {"worker_seen_at": None}, True, Light.STOPPED, "No worker was seen for a minute. 412"),
        (ONE_NEEDS | BREAKER | SILENT | PAUSED | {"worker_seen_at": None}, False, Light.STOPPED, "The breaker is open"),
    ],
)
def test_the_light_and_the_sentence_say_how_it_stands(
    changes: dict[str, Any], live: bool, light: Light, sentence: str
) -> None:
    found = judge(replace(HEALTHY, **changes), 412, live=live)
    assert (found.light, f"{found.headline} {found.numbers}"[: len(sentence)]) == (light, sentence)
    assert (found.light is Light.CALM) == (found.label == "Nothing needs you")


def test_what_needs_a_person_comes_with_cause_and_age_the_most_pressing_first() -> None:
    found = judge(replace(HEALTHY, **CALM | SILENT | BREAKER), 0, live=True)
    assert [(one.name, one.cause, one.since, one.can_be_resumed, one.is_stopping) for one in found.concerns] == [
        ("breaker_open", "the token may not read", NOW - HOUR, True, True),
        ("webhooks_silent", None, SILENT["last_webhook_at"], False, False),
    ]
    assert found.concerns[0].advice == alerts.ALERTS["breaker_open"].advice


def test_a_database_that_takes_no_writes_stops_everything_and_is_told_first() -> None:
    found = judge(replace(HEALTHY, **CALM | BREAKER), 0, live=True, writable=False)
    assert (found.light, [one.name for one in found.concerns]) == (Light.STOPPED, ["no_writes", "breaker_open"])
    assert found.headline == "The database takes no writes: deliveries are answered 503."


def test_a_forgotten_pause_says_who_paused_and_can_be_resumed() -> None:
    [concern] = judge(replace(HEALTHY, **PAUSED | BEHIND), 0, live=True).concerns
    assert (concern.cause, concern.since, concern.can_be_resumed) == ("by Ayşe: stock count", NOW - HOUR, True)


def test_workers_that_do_not_keep_up_are_not_said_to_be_gone() -> None:
    [concern] = judge(replace(HEALTHY, **LATE), 0, live=True).concerns
    assert (concern.title, concern.since) == ("the workers do not keep up", LATE["oldest_due_at"])


def test_packages_that_need_a_person_are_told_one_by_one_and_not_as_a_concern() -> None:
    assert judge(replace(HEALTHY, **ONE_NEEDS), 0, live=True).concerns == ()
