"""What Prometheus is told: the vitals as text, in its exposition format 0.0.4."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from service.vitals import Vitals

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Sample = tuple[tuple[str | None, ...], float]


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. `value` gives its number or, where it has labels, their values with the number for each."""

    meaning: str
    value: Callable[[Vitals], float | Iterable[Sample]]
    labels: tuple[str, ...] = ()
    kind: str = "gauge"


METRICS: Mapping[str, Metric] = {
    "autoship_packages": Metric(
        "Packages we know, by where they stand.", lambda vitals: vitals.packages.items(), ("state", "reason")
    ),
    "autoship_deliveries": Metric(
        "Deliveries answered 2xx within RETENTION_DAYS, repetitions of a known uuid as duplicate.",
        lambda vitals: [((fate,), count) for fate, count in vitals.deliveries.items()],
        ("fate",),
    ),
    "autoship_attempts": Metric(
        "Commands of the last 24 hours by outcome, open without an answer yet.",
        lambda vitals: [((outcome,), count) for outcome, count in vitals.attempts.items()],
        ("outcome",),
    ),
    "autoship_quarantined": Metric("Bodies of unusable deliveries that are kept.", lambda vitals: vitals.quarantined),
    "autoship_unreadable_packages": Metric(
        "Packages whose last six reads or more all failed.", lambda vitals: vitals.unreadable
    ),
    "autoship_oldest_due_seconds": Metric(
        "For how long the oldest due package has waited for a worker; 0 where none waits.",
        lambda vitals: vitals.oldest_due_s,
    ),
    "autoship_held_up": Metric(
        "1 while what is due may rightly wait: for a person, for the OMS or, half an hour, for its share of "
        "OMS_RATE_PER_S.",
        lambda vitals: vitals.held_up,
    ),
    "autoship_worker_seen_seconds": Metric(
        "How long ago a worker was seen; where none ever was, how old the database is.",
        lambda vitals: vitals.worker_silent_s,
    ),
    "autoship_last_webhook_timestamp_seconds": Metric(
        "When the last delivery was accepted; 0 for never.", lambda vitals: _at(vitals.last_webhook_at)
    ),
    "autoship_last_sweep_timestamp_seconds": Metric(
        "When a sweep last listed all that is Packed; 0 for never.", lambda vitals: _at(vitals.last_sweep_at)
    ),
    "autoship_missed_webhooks_total": Metric(
        "Packages the sweep found and no webhook announced within an interval.",
        lambda vitals: vitals.missed,
        kind="counter",
    ),
    "autoship_breaker_open": Metric(
        "1 while the breaker holds commands back.", lambda vitals: vitals.breaker_opened_at is not None
    ),
    "autoship_paused": Metric(
        "1 while commands are paused, by a person or by SHIP_MAX_PER_HOUR.",
        lambda vitals: vitals.paused_at is not None,
    ),
}


def render(vitals: Vitals) -> str:
    """The text of a scrape."""
    return "".join(line for name, metric in METRICS.items() for line in _family(name, metric, vitals))


def _family(name: str, metric: Metric, vitals: Vitals) -> Iterable[str]:
    yield f"# HELP {name} {metric.meaning}\n"
    yield f"# TYPE {name} {metric.kind}\n"
    value = metric.value(vitals)
    samples: Iterable[Sample] = value if isinstance(value, Iterable) else [((), value)]
    for values, number in sorted(samples, key=str):
        pairs = zip(metric.labels, values, strict=True)
        labels = ",".join(f'{label}="{_escaped(value or "")}"' for label, value in pairs)
        yield f"{name}{{{labels}}} {number:.15g}\n" if labels else f"{name} {number:.15g}\n"


def _at(moment: datetime | None) -> float:
    return 0 if moment is None else moment.timestamp()


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
