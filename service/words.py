"""Instants and durations as people say them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from markupsafe import Markup

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


@dataclass(frozen=True, slots=True)
class Words:
    """How a page tells times: in one zone, and as seen at one moment."""

    zone: tzinfo
    now: datetime

    @property
    def zone_name(self) -> str:
        """The zone with its offset now: `Europe/Istanbul, UTC+03:00`."""
        return f"{self.zone}, UTC{self.now.astimezone(self.zone).isoformat()[-6:]}"

    def when(self, moment: datetime | str | None) -> Markup:
        """The moment for eyes, and for programs."""
        if moment is None:
            return Markup("never")
        at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
        local = at.astimezone(self.zone)
        today = local.date() == self.now.astimezone(self.zone).date()
        shown = f"{local:%H:%M:%S}" if today else f"{local:%d %b %Y %H:%M:%S}"
        return Markup('<time datetime="{}">{}</time>').format(local.isoformat(timespec="seconds"), shown)

    def ago(self, moment: datetime | None) -> str:
        """How long ago it was."""
        return "never" if moment is None else f"{lasting(self.now - moment)} ago"

    def since(self, moment: datetime | None) -> str:
        """How long it has lasted; empty where nobody knows."""
        return "" if moment is None else lasting(self.now - moment)


def lasting(duration: timedelta) -> str:
    """A duration in its two largest units: `2 h 10 min`, `45 s`."""
    left, parts = max(0, round(duration.total_seconds())), list[str]()
    for unit, size_s in _UNITS:
        number, left = divmod(left, size_s)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])


def counted(number: int, thing: str, things: str = "") -> str:
    """`1 package`, `2,000 packages`."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"
