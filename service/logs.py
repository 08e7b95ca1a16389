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
        logging.ERROR,
        "A defect of ours; a request was answered 500, or one look for alerts failed.",
        ("error", "trace"),
        alert=True,
    ),
    "worker.started": Event(logging.INFO, "A worker looks for due packages.", ("worker", "version", "mode", "threads")),
    "worker.stopped": Event(
        logging.INFO,
        "A worker stopped; `unfinished` looks are taken up again after their lease.",
        ("worker", "unfinished"),
    ),
    "worker.silent": Event(
        logging.ERROR,
        "No worker has been seen for a minute, or the oldest due package is 5 minutes late (`cause`); deliveries are "
        "still accepted.",
        ("cause",),
        alert=True,
    ),
    "worker.seen": Event(logging.INFO, "The silence is over: a worker is at work and nothing is late."),
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
    "database.pruned": Event(
        logging.INFO,
        "What was older than RETENTION_DAYS was deleted: so many rows of each table.",
        ("deliveries", "quarantine", "timeline", "attempts"),
    ),
    "clock.set_back": Event(
        logging.WARNING, "The database's clock was set back; what was put off is put off as long as before.", ("by_s",)
    ),
    "delivery.accepted": Event(
        logging.INFO,
        "A delivery was stored and its package is looked at.",
        ("event_uuid", "event_type", "package_id", "secret_index"),
    ),
    "delivery.duplicate": Event(
        logging.INFO,
        "A delivery's uuid was known.",
        ("event_uuid", "event_type", "package_id", "reason", "secret_index"),
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
    "login.succeeded": Event(logging.INFO, "Omnitron gave a new token."),
    "login.failed": Event(
        logging.ERROR, "Omnitron gave no token; nothing can be read until it does.", ("cause",), alert=True
    ),
    "sweep.finished": Event(
        logging.INFO,
        "All packages in Packed were listed: `found` of them are looked at, `missed` no webhook announced within an "
        "interval, `backlog` wait for `autoship sweep --adopt`.",
        ("listed", "found", "missed", "backlog"),
    ),
    "sweep.failed": Event(
        logging.ERROR, "The packages in Packed could not all be listed; tried again.", ("cause",), alert=True
    ),
    "brake.changed": Event(
        logging.WARNING, "The OMS made all workers wait, or may be asked again.", ("package_id", "cause"), alert=True
    ),
    "console.signed_in": Event(logging.INFO, "A person signed in to the console; the name stands with what is done."),
    "console.refused": Event(
        logging.WARNING,
        "A sign-in with a wrong token (`token`), one too soon after others (`too_many`), or a form that was not from "
        "the session it came with (`form`).",
        ("reason",),
    ),
    "operator.acted": Event(
        logging.INFO,
        "A person did this to a package or to the brakes; `changed` is false where there was nothing to change.",
        ("action", "package_id", "changed"),
    ),
    "alert.sent": Event(logging.INFO, "People were told that this began, or is over.", ("alert", "notice")),
    "alert.failed": Event(
        logging.WARNING,
        "One entry of `ALERT_URLS` (`target`, counted from 1) was not told; where none was, it is tried again.",
        ("alert", "target", "cause"),
    ),
    "lease.lost": Event(
        logging.WARNING, "Another worker has the package by now; this one wrote nothing.", ("package_id", "fence")
    ),
    "look.crashed": Event(
        logging.ERROR,
        "A defect of ours, in a look, the sweep or the pruning (`where`); it is done again later.",
        ("where", "package_id", "error", "trace"),
        alert=True,
    ),
    "library.message": Event(
        logging.WARNING,
        "A line of a library, at its own level: its text without the values, none where they cannot be told apart.",
        ("logger", "where", "message", "error", "trace"),
    ),
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
    """Sends every line of this process to stdout: as text on a terminal, else as JSON, unless `form` says which.

    That includes the lines of libraries that came with handlers of their own, gunicorn above all.
    """
    handler = logging.StreamHandler(sys.stdout)
    as_text = form == "text" or (form is None and sys.stdout.isatty())
    handler.setFormatter(_TextFormatter(zone) if as_text else _JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in list(logging.root.manager.loggerDict):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    _logger.setLevel(level)
    logging.captureWarnings(True)
    # A line that cannot be written is lost; Python would print its values and a traceback instead.
    logging.raiseExceptions = False


class _JsonFormatter(logging.Formatter):
    """One JSON object to a line; `at` is UTC."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _event_of(record)
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": moment.replace("+00:00", "Z"), "level": record.levelname.lower(), "event": event}
        return json.dumps(line | fields, default=str)


class _TextFormatter(logging.Formatter):
    """For eyes: local time, event, package, then the other fields, the long uuid last."""

    def __init__(self, zone: tzinfo) -> None:
        super().__init__()
        self._zone = zone

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _event_of(record)
        moment = datetime.fromtimestamp(record.created, self._zone)
        package_id = fields.get("package_id", "")
        others = sorted(
            fields.keys() - {"package_id"}, key=lambda name: (name == "event_uuid", list(fields).index(name))
        )
        told = " ".join(f"{name}={fields[name]}" for name in others)
        return f"{moment:%H:%M:%S}  {event:<23} {package_id:>8}  {told}".rstrip()


def _event_of(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    fields = getattr(record, "fields", None)
    return ("library.message", _library_fields(record)) if fields is None else (record.getMessage(), fields)


def _library_fields(record: logging.LogRecord) -> dict[str, Any]:
    """What is safe of a library's line: its values may quote a request, a password or an answer."""
    told = {"logger": record.name, "where": f"{record.filename}:{record.lineno} {record.funcName}"}
    if record.args and isinstance(record.msg, str):
        told["message"] = " ".join(record.msg.split())
    if record.exc_info and record.exc_info[1] is not None:
        told |= {"error": type(record.exc_info[1]).__name__, "trace": trace_of(record.exc_info[1])}
    return told
