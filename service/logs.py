"""Structured logs on stdout: one line for each event, with a constant name and ids beside it.

No log holds a payload, a secret, personal data or the OMS's own words.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """What a line means. `alert`: somebody should be told."""

    level: int
    meaning: str
    fields: tuple[str, ...] = ()
    alert: bool = False


_PACKAGE = ("package_id", "reason", "evidence", "episode")

EVENTS: Mapping[str, Event] = {
    "web.started": Event(logging.INFO, "The web process accepts deliveries.", ("version",)),
    "web.crashed": Event(
        logging.ERROR, "A defect of ours; the request was answered 500.", ("error", "trace"), alert=True
    ),
    "worker.started": Event(logging.INFO, "A worker looks for due packages.", ("worker", "version", "mode", "threads")),
    "worker.stopped": Event(
        logging.INFO,
        "A worker stopped; `unfinished` looks are taken up again after their lease.",
        ("worker", "unfinished"),
    ),
    "process.restarted": Event(
        logging.ERROR, "`autoship up` found a process ended and started it again.", ("process", "exit_code"), alert=True
    ),
    "database.migrated": Event(logging.INFO, "The schema was brought to this version.", ("before", "after")),
    "database.unavailable": Event(
        logging.ERROR,
        "A transaction could not be finished; what it was for is done again.",
        ("where", "cause"),
        alert=True,
    ),
    "delivery.accepted": Event(
        logging.INFO,
        "A delivery was stored and its package is looked at.",
        ("event_uuid", "event_type", "package_id", "secret_index"),
    ),
    "delivery.duplicate": Event(
        logging.INFO, "A delivery's uuid was known.", ("event_uuid", "event_type", "package_id", "secret_index")
    ),
    "delivery.ignored": Event(
        logging.INFO,
        "A delivery was stored; it asks for no look.",
        ("event_uuid", "event_type", "package_id", "reason", "secret_index"),
    ),
    "delivery.quarantined": Event(
        logging.WARNING,
        "An authentic delivery cannot be worked with; see `autoship quarantine`.",
        ("event_uuid", "event_type", "reason", "secret_index"),
        alert=True,
    ),
    "delivery.rejected": Event(
        logging.WARNING, "A delivery was refused and stored nowhere.", ("http_status", "reason")
    ),
    "package.waiting": Event(logging.INFO, "Not now; the package is looked at again.", _PACKAGE),
    "package.shipped": Event(logging.INFO, "Shipped by us, proven by `evidence`.", _PACKAGE),
    "package.already_shipped": Event(logging.INFO, "Shipped by somebody else.", _PACKAGE),
    "package.skipped": Event(logging.INFO, "Not ours, or no longer.", _PACKAGE),
    "package.would_ship": Event(logging.INFO, "Shadow mode: every check passed, no command is sent.", _PACKAGE),
    "package.needs_attention": Event(
        logging.ERROR, "A person must look; `autoship explain ID` says why and what to do.", _PACKAGE, alert=True
    ),
    "read.failed": Event(
        logging.WARNING, "The OMS gave no usable answer to a read; it is repeated.", ("package_id", "cause", "failures")
    ),
    "command.sending": Event(
        logging.INFO,
        "The attempt's row is committed; the command is sent now.",
        ("package_id", "attempt_id", "episode"),
    ),
    "command.answered": Event(
        logging.INFO,
        "What the OMS answered to the command.",
        ("package_id", "attempt_id", "outcome", "http_status", "cause"),
    ),
    "brake.changed": Event(
        logging.WARNING, "The OMS made all workers wait, or may be asked again.", ("package_id", "cause"), alert=True
    ),
    "lease.lost": Event(
        logging.WARNING, "Another worker has the package by now; this one wrote nothing.", ("package_id", "fence")
    ),
    "look.crashed": Event(
        logging.ERROR,
        "A defect of ours; the package is looked at again after its lease.",
        ("package_id", "error", "trace"),
        alert=True,
    ),
    "operator.acted": Event(logging.INFO, "A person used the command line.", ("action", "package_id")),
    "sandbox.started": Event(logging.INFO, "The stand-in OMS listens on loopback.", ("url",)),
    "library.message": Event(logging.INFO, "A line of a library.", ("logger", "message")),
}

_logger = logging.getLogger("autoship")


def emit(event: str, **fields: object) -> None:
    """Writes one line. Fields that are None are left out. Raises `KeyError` for an event not in the table."""
    _logger.log(EVENTS[event].level, event, extra={"fields": {k: v for k, v in fields.items() if v is not None}})


def trace_of(problem: BaseException) -> str:
    """Where an exception came from, on one line, without its message, which may quote anything."""
    frames = traceback.extract_tb(problem.__traceback__)
    return " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in reversed(frames))


def configure(level: str, form: str | None, zone: tzinfo) -> None:
    """Sends every line of this process to stdout: as text on a terminal, else as JSON, unless `form` says which."""
    handler = logging.StreamHandler(sys.stdout)
    as_text = form == "text" or (form is None and sys.stdout.isatty())
    handler.setFormatter(_TextFormatter(zone) if as_text else _JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    _logger.setLevel(level)


class _JsonFormatter(logging.Formatter):
    """One JSON object to a line; `at` is UTC."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _event_of(record)
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": moment.replace("+00:00", "Z"), "level": record.levelname.lower(), "event": event}
        return json.dumps(line | fields, default=str)


class _TextFormatter(logging.Formatter):
    """For eyes: local time, event, fields."""

    def __init__(self, zone: tzinfo) -> None:
        super().__init__()
        self._zone = zone

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _event_of(record)
        moment = datetime.fromtimestamp(record.created, self._zone)
        return f"{moment:%H:%M:%S}  {event:<24} " + " ".join(f"{name}={value}" for name, value in fields.items())


def _event_of(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    fields = getattr(record, "fields", None)
    if fields is not None:
        return record.getMessage(), fields
    message = " ".join(record.getMessage().split())
    found = {"logger": record.name, "message": message}
    if record.exc_info and record.exc_info[1] is not None:
        found |= {"error": type(record.exc_info[1]).__name__, "trace": trace_of(record.exc_info[1])}
    return "library.message", found
