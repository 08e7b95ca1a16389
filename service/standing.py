"""How the service stands, in a light and a sentence, and what needs a person: judged from the vitals alone.

What is wrong is judged where alerts are (`alerts.judge`), so that the page and the message at night agree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from service import alerts, sweep, watch
from service.case import CaseState
from service.vitals import Vitals
from service.words import lasting


class Light(StrEnum):
    """Whether somebody is needed. The value is the name of its colour and shape in the style sheet."""

    CALM = "calm"
    HELD = "held"
    NEEDS_YOU = "needs-you"
    STOPPED = "stopped"


LABELS: Mapping[Light, str] = {
    Light.CALM: "Nothing needs you",
    Light.HELD: "Held on purpose",
    Light.NEEDS_YOU: "Needs you",
    Light.STOPPED: "Standing still",
}
_UNREADABLE, _SILENT = "oms_unreadable", "worker_silent"
# While one of these is open no package ships, most pressing first.
_STOPPING = ("no_writes", "token_rejected", "breaker_open", _UNREADABLE, "hourly_cap", _SILENT, "paused")
# Told package by package.
_BY_PACKAGE = "needs_attention"
_RESUMABLE = ("token_rejected", "breaker_open", "hourly_cap", "paused")


@dataclass(frozen=True, slots=True)
class Concern:
    """Something about the service as a whole that needs a person. `is_stopping`: no package ships because of it."""

    name: str
    title: str
    advice: str
    is_stopping: bool
    count: int = 1
    cause: str | None = None
    since: datetime | None = None

    @property
    def can_be_resumed(self) -> bool:
        """Whether `resume` is an answer to it."""
        return self.name in _RESUMABLE


@dataclass(frozen=True, slots=True)
class Standing:
    """The light, what it means, and the numbers behind it."""

    light: Light
    headline: str
    numbers: str
    concerns: tuple[Concern, ...]

    @property
    def label(self) -> str:
        """The light in words: never colour alone."""
        return LABELS[self.light]


# No alert: people are told through the database. The platform's probe of /readyz tells them.
NO_WRITES = Concern(
    "no_writes",
    "the database takes no writes: deliveries are answered 503",
    "Look whether its disk is full, whether another process locks it, and for database.unavailable in the logs. What "
    "was answered 503 should come again, for 2 h 25 min with what autoship register sets; a sweep finds the rest.",
    is_stopping=True,
)


def judge(found: Vitals, shipped_today: int, *, live: bool, writable: bool = True) -> Standing:
    """How the service stands by these vitals, and by whether a trial write went through."""
    counts = alerts.judge(found, _silence(found))
    if _not_reached(found):
        counts.setdefault(_UNREADABLE, found.failing)
    concerns = [_concern(name, count, found) for name, count in counts.items() if name != _BY_PACKAGE]
    concerns += [] if writable else [NO_WRITES]
    concerns.sort(key=lambda one: _STOPPING.index(one.name) if one.is_stopping else len(_STOPPING))
    return Standing(
        light=_light(concerns, needed=bool(counts), paused=found.paused_at is not None, live=live),
        headline=_headline(found, concerns, live=live),
        numbers=_numbers(found, shipped_today, live=live),
        concerns=tuple(concerns),
    )


def _not_reached(found: Vitals) -> bool:
    """What the alert will say once six reads in a row have failed: neither a sweep nor a read gets through."""
    return found.failing > 0 and (found.sweep_problem or "").startswith(sweep.NOT_REACHED)


def _silence(found: Vitals) -> str | None:
    """What the watch over the workers will say of this within a minute, which a page cannot wait for."""
    if found.worker_silent_s >= watch.SILENT_AFTER_S:
        return watch.UNSEEN
    late_s = watch.LATE_AFTER.total_seconds() + watch.SILENT_AFTER_S
    return watch.LATE if found.oldest_due_s >= late_s and not found.held_up else None


def _light(concerns: Sequence[Concern], *, needed: bool, paused: bool, live: bool) -> Light:
    if any(one.is_stopping for one in concerns):
        return Light.STOPPED
    if needed:
        return Light.NEEDS_YOU
    return Light.HELD if paused or not live else Light.CALM


def _headline(found: Vitals, concerns: Sequence[Concern], *, live: bool) -> str:
    if concerns and concerns[0].is_stopping:
        return _sentence(concerns[0].title)
    if found.paused_at is not None:
        return f"Paused for {lasting(found.now - found.paused_at)} {found.pause_cause}."
    if found.asked_to_wait and found.hold_off_until is not None:
        return f"The OMS asked everybody to wait, for {lasting(found.hold_off_until - found.now)} more."
    if not live:
        return "Shadow mode: packages are judged, nothing is commanded."
    if concerns:
        return _sentence(concerns[0].title)
    if not found.packages and found.last_webhook_at is None:
        return "Nothing has come yet: no webhook, and no package in Packed."
    return "Shipping normally."


def _sentence(title: str) -> str:
    return f"{title[0].upper()}{title[1:]}."


def _numbers(found: Vitals, shipped_today: int, *, live: bool) -> str:
    under_way, needing = found.count(CaseState.SHIPPING), found.count(CaseState.NEEDS_ATTENTION)
    parts = [
        "" if live else f"{found.count(CaseState.WOULD_SHIP):,} would ship",
        f"{shipped_today:,} shipped today",
        f"{under_way:,} under way" if under_way else "",
        f"{found.count(CaseState.WAITING):,} waiting",
        f"{needing:,} {'needs' if needing == 1 else 'need'} you" if needing else "no package needs you",
    ]
    return ", ".join(filter(None, parts)) + "."


def _concern(name: str, count: int, found: Vitals) -> Concern:
    if name == _SILENT:
        return _of_silence(found)
    alert = alerts.ALERTS[name]
    cause, since = _TRACES[name](found) if name in _TRACES else (None, None)
    # One package that cannot be read stops no other: where a sweep was shown packages, the OMS answers.
    went_through = found.sweep_problem is None and found.last_sweep_at is not None
    answers = went_through or (found.sweep_problem or "").startswith(sweep.FILTER_IGNORED)
    stops = name in _STOPPING and not (name == _UNREADABLE and answers)
    return Concern(name, alert.title, alert.advice, stops, count, cause, since)


def _of_silence(found: Vitals) -> Concern:
    """Which of its two causes the alert is about: here that is known."""
    if _silence(found) == watch.LATE:
        title = "the workers do not keep up"
        return Concern(_SILENT, title, alerts.IF_LATE, is_stopping=False, since=found.oldest_due_at)
    since = found.worker_seen_at or found.made_at
    return Concern(_SILENT, watch.UNSEEN, alerts.IF_UNSEEN, is_stopping=True, since=since)


# What the vitals know of the cause, and since when.
_TRACES: Mapping[str, Callable[[Vitals], tuple[str | None, datetime | None]]] = {
    "token_rejected": lambda found: (None, found.breaker_opened_at),
    "breaker_open": lambda found: (found.breaker_cause, found.breaker_opened_at),
    "hourly_cap": lambda found: (found.pause_cause, found.paused_at),
    "paused": lambda found: (found.pause_cause, found.paused_at),
    "webhooks_silent": lambda found: (None, found.last_webhook_at or found.made_at),
    "filter_ignored": lambda found: (found.sweep_problem, found.last_sweep_at),
    "sweep_failing": lambda found: (found.sweep_problem, found.last_sweep_at or found.made_at),
}
