"""The pages that are tables of the code. `python -m tests.house.docs` writes them; a test compares."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from service.alerts import ALERTS
from service.case import MEANINGS
from service.diagnosis import CHECKS
from service.metrics import METRICS
from tests.house.events import EVENTS, FIELDS
from tests.integration.test_states import SCENES

DOCS = Path(__file__).parents[2] / "docs"
# The places in the code that are marked as assumed, by the check of the doctor that puts them to the test.
ASSUMPTIONS: Mapping[str, tuple[str, ...]] = {
    "token": ("login", "oms.log_in"),
    "list_filter": ("config.OmsConfig",),
    "list_order": ("sweep.listing_query",),
    "enum_class": ("wire.State",),
    "items": ("config.OmsConfig",),
    "items_packed": ("config._settings",),
    "rule_fields": ("snapshot.parse_package",),
    "modified_date": ("snapshot.parse_package", "policy._not_repacked"),
    "commands_shape": ("snapshot.OfferedCommand",),
    "transition_log": ("config.OmsConfig",),
    "webhooks": ("config.OmsConfig", "hooks"),
    "deliveries": ("delivery",),
}
# The line of the logs that tells the same as an alert.
TOLD_BY: Mapping[str, str] = {
    "breaker_open": "brake.changed",
    "token_rejected": "brake.changed",
    "oms_unreadable": "read.failed",
    "held_back": "package.waiting",
    "hourly_cap": "brake.changed",
    "paused": "commands.held",
    "needs_attention": "package.needs_attention",
    "refusals": "package.waiting",
    "rule_field_missing": "package.waiting",
    "items_unfit": "package.waiting",
    "filter_ignored": "sweep.failed",
    "sweep_failing": "sweep.failed",
    "backlog": "sweep.finished",
    "webhooks_silent": "sweep.finished",
    "worker_silent": "worker.silent",
}


def pages() -> dict[str, str]:
    """Each page's text by its file name."""
    return {
        "alerts.md": _alerts(),
        "doctor.md": _doctor(),
        "logs.md": _logs(),
        "metrics.md": _metrics(),
        "states.md": _states(),
    }


def _alerts() -> str:
    rows = ((f"`{name}`", alert.title, alert.advice, f"`{TOLD_BY[name]}`") for name, alert in ALERTS.items())
    alone = ", ".join(
        f"`{name}`" for name, event in sorted(EVENTS.items()) if event.alert and name not in TOLD_BY.values()
    )
    return _ALERTS.replace("EVENTS", alone) + _table(
        ("alert", "what people are told", "what to do", "in the logs"), rows
    )


def _doctor() -> str:
    rows = (
        (f"`{name}`", why, "<br>".join(f"`{place}`" for place in ASSUMPTIONS.get(name, ())))
        for name, why in CHECKS.items()
    )
    return _DOCTOR + _table(("check", "why it matters", "assumption put to the test"), rows)


def _logs() -> str:
    rows = (
        (
            f"`{name}`",
            logging.getLevelName(event.level).lower(),
            event.meaning,
            " ".join(f"`{field}`" for field in FIELDS[name]),
            "yes" if event.alert else "",
        )
        for name, event in sorted(EVENTS.items())
    )
    return _LOGS + _table(("event", "level", "what it means", "fields", "alert"), rows)


def _metrics() -> str:
    rows = (
        (f"`{name}`", metric.kind, " ".join(f"`{label}`" for label in metric.labels), metric.meaning)
        for name, metric in METRICS.items()
    )
    return _METRICS + _table(("metric", "type", "labels", "what it says"), rows)


def _states() -> str:
    rows = (
        (
            f"`{scene.state}`",
            f"`{scene.reason}`" if scene.reason else "",
            *MEANINGS[scene.state, scene.reason],
            f"{scene.how}; {scene.step} → {_named(*scene.end)}",
        )
        for scene in SCENES
    )
    return _STATES + _table(("state", "reason", "what it means", "what to do", "as a test has seen it"), rows)


def _named(state: str, reason: str | None) -> str:
    return f"`{state}` / `{reason}`" if reason else f"`{state}`"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


_DOCTOR = """\
# Doctor

`autoship doctor` makes these checks in this order. It reads, sends one empty unsigned delivery to `PUBLIC_URL`, and
commands nothing. Each finding is ok, problem, or unknown: it could not be seen, or is not there and Autoship does
without it. It says what was seen, why it matters and what to do, and ends with 1 if there is a problem. Most of what
concerns packages needs one that is in Packed.

The last column names the places in the code that are marked `ASSUMED:` and are checked against the real OMS here.

This page is made from `service/diagnosis.py` by `python -m tests.house.docs`.

"""

_ALERTS = """\
# Alerts

With `ALERT_URLS` set ([Apprise](https://github.com/caronc/apprise) URLs with white space between them: mail, chat,
pager, a webhook of your own) people are told of these, once for all processes, and again when it is over. Nothing about
the same alert follows within 5 minutes; what is still open is told again after a day, or when it concerns twice as
many packages. An alert holds constant text, a number and the address of the OMS. The web processes watch, every 10 s.
No alert comes while the database takes no writes: the platform's probe of `/readyz` is the alarm for that.

These events, which [the logs](logs.md) mark as such that somebody should be told of, stand there alone:
EVENTS.

This page is made from `service/alerts.py` by `python -m tests.house.docs`.

"""

_METRICS = """\
# Metrics

`GET /metrics` with `Authorization: Bearer ADMIN_TOKEN`, for Prometheus. All of it comes from one query over the
database, so that it does not matter which web process answers: scrape one address. Alert rules that use it are in
`deploy/alerts.yml`.

This page is made from `service/metrics.py` by `python -m tests.house.docs`.

"""

_LOGS = """\
# Logs

One line on stdout for each event: JSON, or text on a terminal (`LOG_FORMAT`). A line of JSON has `at` (UTC), `level`
and `event`; one of text has the time of day in `DISPLAY_TZ` and no level. A field that has no value is left out. No
line holds a payload, a secret, personal data or the OMS's own words. An event marked under alert is one that somebody
should be told of.

This page is made from the events that the modules emit, by `python -m tests.house.docs`.

"""

_STATES = """\
# States

Where a package stands and why, as `autoship explain ID` shows it. A package that needs attention and is held is
commanded again only after `autoship recheck ID`, or when it is packed anew.

The last column: what a test made the OMS do, what it then did as advised, and where that ended. The page is made from
`service/case.py` and those cases, `tests/integration/test_states.py`, by `python -m tests.house.docs`.

"""

if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
