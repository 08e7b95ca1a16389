"""The page about speed, made of a run's result and nothing else, so that its text and its numbers cannot disagree."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.bench.scenarios import LEAST, OMS_S, THREE_CALLS
from tests.bench.sides import AT_ONCE
from tests.bench.svg import bars

Values = Mapping[str, Sequence[float]]
TEMPLATE = Path(__file__).with_name("performance.md")
# Assumed for planning: a package's webhooks before and after it is shipped, and the busiest time of a day.
DELIVERIES, PEAK = 4, 5
PER_DAY = {"10 thousand": 10_000, "1 million": 1_000_000, "100 million": 100_000_000}
KEPT_DAYS = 90
_DAY_S = 86_400
# How much of a core a process may be asked for: Python runs one thread at a time, and queues grow beyond this.
_SHARE = 0.7


@dataclass(frozen=True, slots=True)
class Figure:
    """One promise: a sample, divided by another of the same round where one is named, against its bound."""

    title: str
    must: float
    aim: float
    of: str
    by: str | None = None
    at_least: bool = True

    def values(self, samples: Values) -> list[float]:
        """One for each round; empty where it was not measured."""
        of = samples.get(self.of, ())
        if self.by is None:
            return list(of)
        return [one / other for one, other in zip(of, samples.get(self.by, ()), strict=False)]

    def of_the_least(self, samples: Values) -> list[float]:
        """The same of the least that keeps the promises; empty where that has no such figure."""
        least = re.sub("Autoship|PostgreSQL", LEAST, self.of)
        return [] if least == self.of else replace(self, of=least).values(samples)

    def verdict(self, values: Sequence[float]) -> str:
        """By the median."""
        if not values:
            return "not measured"
        median = statistics.median(values)
        for bound, word in ((self.aim, "aim reached"), (self.must, "yes")):
            if median >= bound if self.at_least else median <= bound:
                return word
        return "**no**"


FIGURES = (
    Figure(
        "durable acknowledgements a second ÷ bare Flask; 8 KB, signed, one in ten sent twice; PostgreSQL",
        0.30,
        0.45,
        "acknowledged/s: PostgreSQL",
        "acknowledged/s: bare Flask",
    ),
    Figure("the same on SQLite as `up` runs it", 0.25, 0.35, "acknowledged/s: SQLite", "acknowledged/s: bare Flask"),
    Figure(
        "p99 of acknowledgement with the OMS hanging ÷ with the OMS fast, 100 a second",
        1.5,
        1.1,
        "p99 ms: OMS hangs",
        "p99 ms: OMS fast",
        at_least=False,
    ),
    Figure(
        f"drain of due packages, OMS at {1000 * OMS_S:.0f} ms a call, ÷ ideal",
        0.92,
        0.97,
        "drained/s: one worker",
        "drained/s: ideal",
    ),
    Figure(
        f"calls at once in that drain, of {AT_ONCE} allowed",
        AT_ONCE,
        AT_ONCE,
        "calls at once: one worker",
        at_least=False,
    ),
    Figure("packages taken up ÷ what the rate allows, two workers", 1.0, 1.0, "taken up ÷ allowed", at_least=False),
    Figure("two workers ÷ one, the same drain", 1.9, 1.98, "drained/s: two workers", "drained/s: one worker"),
    Figure(
        "packages finished a second in a burst, OMS at 0 ms, ÷ Celery",
        1.0,
        2.0,
        "finished/s: Autoship",
        "finished/s: Celery",
    ),
    Figure(
        "CPU a package, web and worker, ÷ the same Celery",
        0.9,
        0.6,
        "CPU ms a package: Autoship",
        "CPU ms a package: Celery",
        at_least=False,
    ),
    Figure(
        "webhook to command on the wire, p50 at 100 a second, ÷ the same Celery",
        1.0,
        0.7,
        "webhook to command p50 ms: Autoship",
        "webhook to command p50 ms: Celery",
        at_least=False,
    ),
    Figure("OMS calls a shipped package in the calm case", 3, 2, "OMS calls a package", at_least=False),
    Figure(
        "resident memory (PSS) of web and worker ÷ Celery and its web",
        1.0,
        0.8,
        "memory MB: Autoship",
        "memory MB: Celery",
        at_least=False,
    ),
    *(
        Figure(f"{what}, a full store ÷ an empty one", 0.90, 0.97, f"{what}/s: full", f"{what}/s: empty")
        for what in ("one acknowledged", "one claimed", "one explained")
    ),
    Figure("database statements a second, idle worker", 2, 0.5, "idle statements/s", at_least=False),
    Figure("webhook to read, idle worker, PostgreSQL, p50 ms", 50, 50, "webhook to read p50 ms: idle", at_least=False),
)
# The samples of each plot begin with these words.
PLOTS = {
    "acknowledged": ("Webhooks acknowledged a second", "acknowledged/s: "),
    "finished": ("Packages finished a second, burst, OMS at 0 ms", "finished/s: "),
    "cpu": ("CPU ms a package, web and worker", "CPU ms a package: "),
    "delay": ("Webhook to command, p50 ms at 100 a second", "webhook to command p50 ms: "),
    "memory": ("Memory of web and worker, MB", "memory MB: "),
    "drained": (f"Packages drained a second, OMS at {1000 * OMS_S:.0f} ms", "drained/s: "),
}


def page(result: Mapping[str, Any]) -> str:
    """`docs/performance.md`."""
    samples: Values = result["samples"]
    return TEMPLATE.read_text(encoding="utf-8").format(
        scaled="" if result["scale"] == 1 else _SCALED.format(scale=result["scale"]),
        figures=_table(("figure", "must", "aim", "seen", "kept", "the least"), (_row(one, samples) for one in FIGURES)),
        samples=_table(("sample", "median (lowest to highest)"), ((name, shown(samples[name])) for name in samples)),
        plots="\n".join(f"![{title}](performance-{name}.svg)" for name, (title, _) in PLOTS.items()),
        capacity=capacity(samples),
        least=least(samples),
        **{name: result[name] for name in ("rounds", "machine", "versions", "day", "commit")},
    )


def plots(result: Mapping[str, Any]) -> dict[str, str]:
    """The SVG files by their name."""
    samples: Values = result["samples"]
    return {
        f"performance-{name}.svg": bars(
            title, {one.removeprefix(first): samples[one] for one in samples if one.startswith(first)}
        )
        for name, (title, first) in PLOTS.items()
    }


def capacity(samples: Values) -> str:
    """What so many packages a day need, from the measured costs; nothing where some were not measured."""
    if not samples.keys() >= _COSTS:
        return "Not measured."
    medians = {name: statistics.median(samples[name]) for name in _COSTS}
    return _table(_CAPACITY, ((name, *_need(medians, per_day)) for name, per_day in PER_DAY.items()))


def least(samples: Values) -> str:
    """What a package costs before any of it is accounted for; nothing where that was not measured."""
    if not samples.keys() >= {THREE_CALLS, _BARE, _CELERY}:
        return "Not measured."
    bare, calls, celery = (statistics.median(samples[name]) for name in (_BARE, THREE_CALLS, _CELERY))
    share = _digits((bare + calls) / celery)
    return f"{_digits(bare)} ms and {_digits(calls)} ms: together {share} of all that Celery takes."


def _need(costs: Mapping[str, float], per_day: int) -> tuple[str, ...]:
    peak_per_s = PEAK * per_day / _DAY_S
    calls_per_s = peak_per_s * costs["OMS calls a package"]
    delivery_s, delivery_store_s = costs[_DELIVERY] / 1000, costs[_DELIVERY_STORE] / 1000
    # A package of the burst had one delivery.
    worker_s = costs["CPU ms a package: Autoship"] / 1000 - delivery_s
    store_s = costs["CPU ms a package, store: Autoship"] / 1000 + (DELIVERIES - 1) * delivery_store_s
    web_cores, worker_cores = peak_per_s * DELIVERIES * delivery_s, peak_per_s * worker_s
    return (
        f"{peak_per_s:,.1f}",
        f"{calls_per_s:,.1f}",
        f"{math.ceil(web_cores / _SHARE):,}",
        f"{math.ceil(max(calls_per_s * OMS_S / AT_ONCE, worker_cores / _SHARE)):,}",
        f"{web_cores + worker_cores:,.2f}",
        f"{peak_per_s * store_s:,.2f}",
        f"{per_day * KEPT_DAYS * costs['stored bytes a package'] / 1e9:,.1f}",
    )


def shown(values: Sequence[float]) -> str:
    """Median (lowest to highest), with three digits that mean something."""
    if not values:
        return ""
    return "{} ({} to {})".format(*map(_digits, (statistics.median(values), min(values), max(values))))


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _row(figure: Figure, samples: Values) -> tuple[str, ...]:
    values = figure.values(samples)
    sign = "≥" if figure.at_least else "≤"
    bounds = f"{sign} {figure.must:g}", f"{figure.aim:g}"
    return figure.title, *bounds, shown(values), figure.verdict(values), shown(figure.of_the_least(samples))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows))


_BARE, _CELERY = "CPU ms a delivery: bare Flask", "CPU ms a package: Celery"
_DELIVERY, _DELIVERY_STORE = "CPU ms a delivery: PostgreSQL", "CPU ms a delivery: PostgreSQL itself"
_COSTS = {
    _DELIVERY,
    _DELIVERY_STORE,
    "CPU ms a package: Autoship",
    "CPU ms a package, store: Autoship",
    "OMS calls a package",
    "stored bytes a package",
}
_CAPACITY = (
    "packages a day",
    "at peak, /s",
    "OMS calls/s",
    "web processes",
    "workers",
    "cores for both",
    "cores of PostgreSQL",
    f"GB in {KEPT_DAYS} days",
)
_SCALED = """\
**Scaled down to {scale:g} of its size: these figures show that it runs, and nothing else.**

"""
