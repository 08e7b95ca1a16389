"""Structured logs on stdout: one line for each event, with a constant name and ids beside it.

No log holds a payload, a secret, personal data or the OMS's own words.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from service.config import Config

_logger = logging.getLogger("autoship")


@dataclass(frozen=True, slots=True)
class Event:
    """A kind of line and what it means, made once, in the module where it happens. `alert`: somebody should be told."""

    name: str
    level: int
    meaning: str
    alert: bool = False

    def emit(self, **fields: object) -> None:
        """Writes one line. Fields that are None are left out."""
        if not _logger.isEnabledFor(self.level):
            return
        told = {name: value for name, value in fields.items() if value is not None}
        # Not by `_logger.log`, which looks for the line of code that logs: the event's name says that.
        record = _logger.makeRecord(_logger.name, self.level, "", 0, self.name, (), None, extra={"fields": told})
        _logger.handle(record)


# What happens in several modules.
WEB_CRASHED = Event(
    "web.crashed",
    logging.ERROR,
    "A defect of ours; a request was answered 500, or one look for alerts or after the workers failed.",
    alert=True,
)
LOOK_CRASHED = Event(
    "look.crashed",
    logging.ERROR,
    "A defect of ours, or in a claim a row that a newer version wrote (`where`); it is tried again later.",
    alert=True,
)
DATABASE_UNAVAILABLE = Event(
    "database.unavailable",
    logging.ERROR,
    "A transaction could not be finished; what it was for is done again.",
    alert=True,
)
DELIVERY_REJECTED = Event("delivery.rejected", logging.WARNING, "A delivery was refused and stored nowhere.")
_LIBRARY_MESSAGE = Event(
    "library.message",
    logging.WARNING,
    "A line of a library, at its own level: its text without the values, none where they cannot be told apart.",
)


def trace_of(problem: BaseException) -> str:
    """Where an exception came from, on one line, without its message, which may quote anything."""
    frames = traceback.extract_tb(problem.__traceback__)
    return " < ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in reversed(frames))


def configure(config: Config) -> None:
    """Sends every line of this process to stdout: as text on a terminal, else as JSON, unless LOG_FORMAT says which.

    That includes the lines of libraries that came with handlers of their own, gunicorn above all.
    """
    handler = logging.StreamHandler(sys.stdout)
    as_text = config.log_format == "text" or (config.log_format is None and sys.stdout.isatty())
    handler.setFormatter(_TextFormatter(config.display_tz) if as_text else _JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in list(logging.root.manager.loggerDict):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    _logger.setLevel(config.log_level)
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
        others = sorted((name for name in fields if name != "package_id"), key=lambda name: name == "event_uuid")
        told = " ".join(f"{name}={fields[name]}" for name in others)
        return f"{moment:%H:%M:%S}  {event:<23} {package_id:>8}  {told}".rstrip()


def _event_of(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    fields = getattr(record, "fields", None)
    return (_LIBRARY_MESSAGE.name, _library_fields(record)) if fields is None else (record.getMessage(), fields)


def _library_fields(record: logging.LogRecord) -> dict[str, Any]:
    """What is safe of a library's line: its values may quote a request, a password or an answer."""
    told = {"logger": record.name, "where": f"{record.filename}:{record.lineno} {record.funcName}"}
    if record.args and isinstance(record.msg, str):
        told["message"] = " ".join(record.msg.split())
    if record.exc_info and record.exc_info[1] is not None:
        told |= {"error": type(record.exc_info[1]).__name__, "trace": trace_of(record.exc_info[1])}
    return told
