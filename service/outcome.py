"""What the OMS can answer, what an answer to the command proves, and how long to wait before the next try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from service.snapshot import LoggedTransition, PackageSnapshot, TransitionLog
from service.wire import PACKAGE_STATUS, StateValue, clean

MAX_WORDS = 500
# A gateway's word that it waits no longer (524 is Cloudflare's): the OMS behind it may still be at work.
_GATEWAY_TIMEOUTS = frozenset({504, 524})
MAX_RETRY_AFTER = timedelta(minutes=15)
_DEFAULT_RETRY_AFTER = timedelta(seconds=30)
# How far the OMS's clock, which dates the transition log, may be from ours.
CLOCKS_DIFFER = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Command:
    """How to name the transition: by number, by slug or by both. What is absent is not sent."""

    transition_id: int | None
    slug: str | None

    def body(self, package_id: int) -> dict[str, int | str]:
        """The JSON of the command request."""
        named: dict[str, int | str | None] = {"transition": self.transition_id, "slug": self.slug}
        return {key: value for key, value in named.items() if value is not None} | {"package": package_id}


@dataclass(frozen=True, slots=True)
class NotSent:
    """Not one byte of the request left this machine."""

    cause: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """A 2xx with an empty body: the OMS took the command. Not yet evidence that it was applied."""

    status: int


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """The command may or may not have been applied.

    `concluded`: the OMS has finished with the request (a complete 5xx, but no gateway's timeout), so one later read
    settles it; otherwise it may still be at work on it.
    """

    cause: str
    status: int | None = None
    concluded: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The OMS says no; `words` are its own, for people only, never parsed to decide."""

    status: int
    words: str


@dataclass(frozen=True, slots=True)
class Unauthorised:
    """401: the token is not accepted. 403: not for this package."""

    status: int
    words: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """429: nobody sends before this has passed."""

    retry_after: timedelta
    status: int = 429


@dataclass(frozen=True, slots=True)
class Misconfigured:
    """A redirect: this is not the address of the OMS."""

    status: int


CommandAnswer = NotSent | Accepted | Ambiguous | Refused | Unauthorised | Throttled | Misconfigured


@dataclass(frozen=True, slots=True)
class NotFound:
    """The OMS does not know the package."""


@dataclass(frozen=True, slots=True)
class BadShape:
    """A complete answer that is no package as we know them."""

    problem: str


@dataclass(frozen=True, slots=True)
class ReadFailed:
    """No usable answer: not reached, too slow, cut off, an error of the OMS's own."""

    cause: str


Reading = PackageSnapshot | NotFound | BadShape | ReadFailed | Unauthorised | Throttled | Misconfigured


def classify(status: int, headers: Mapping[str, str], body: bytes, now: datetime) -> CommandAnswer:
    """The meaning of a complete answer to the command.

    204 is the documented success; 400, 406 and the others are told apart by status alone, as the error
    bodies are not documented.
    """
    if 200 <= status < 300:
        return Ambiguous("unexpected body", status) if body else Accepted(status)
    if 300 <= status < 400:
        return Misconfigured(status)
    if status in (401, 403):
        return Unauthorised(status, words_of(body))
    if status == 429:
        return Throttled(retry_after(headers, now))
    if status in (408, 425):
        return Ambiguous(f"answered {status}", status)
    if 400 <= status < 500:
        return Refused(status, words_of(body))
    concluded = 500 <= status < 600 and status not in _GATEWAY_TIMEOUTS
    return Ambiguous(f"answered {status}", status, concluded)


def words_of(body: bytes) -> str:
    """The OMS's own words, storable, at most 500 characters."""
    return clean(body[: MAX_WORDS * 4].decode(errors="replace").strip(), MAX_WORDS)


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta:
    """How long a 429 asks to wait: seconds or an HTTP date, at most 15 minutes; 30 s if it does not say."""
    wanted = headers.get("retry-after", "").strip()
    if wanted.isascii() and wanted.isdigit():
        asked = timedelta(seconds=int(wanted[:9]))
    else:
        moment = moment_of(wanted)
        asked = _DEFAULT_RETRY_AFTER if moment is None else moment - now
    return min(max(asked, timedelta(seconds=1)), MAX_RETRY_AFTER)


def moment_of(http_date: str) -> datetime | None:
    """The instant an HTTP date names, or None if it is none."""
    try:
        moment = parsedate_to_datetime(http_date)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def backoff(failures: int, base: timedelta, cap: timedelta, jitter: float) -> timedelta:
    """Capped exponential backoff with full jitter: `jitter` in [0, 1) picks from zero to the whole delay.

    At least one second, so that a package is never looked at in a tight loop.
    """
    whole_s = min(cap.total_seconds(), base.total_seconds() * 2.0 ** min(failures, 30))
    return timedelta(seconds=max(1.0, whole_s * jitter))


def names_transition(entry: LoggedTransition, command: Command) -> bool | None:
    """Whether a logged transition is the one we command: yes, no, or None where the log does not say.

    The log's slug may be that of a generic command, so another slug alone proves nothing.
    """
    if command.transition_id is not None and entry.transition is not None:
        return entry.transition == str(command.transition_id)
    return True if command.slug is not None and entry.slug == command.slug else None


def last_departure(log: TransitionLog, packed: str) -> LoggedTransition | None:
    """The newest logged move of the package out of Packed."""
    return next((entry for entry in log if is_packed(entry.old, packed) and not is_packed(entry.new, packed)), None)


def last_entry(log: TransitionLog, packed: str) -> LoggedTransition | None:
    """The newest logged move, if it went into Packed."""
    newest = next((entry for entry in log if entry.new is not None and entry.new.is_of(PACKAGE_STATUS)), None)
    return newest if newest is not None and is_packed(newest.new, packed) else None


def is_packed(state: StateValue | None, packed: str) -> bool:
    """Whether a state is the package status `packed`."""
    return state is not None and state.is_of(PACKAGE_STATUS) and state.value == packed
