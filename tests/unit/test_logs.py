"""Log lines: one to an event in either form, and what a library logs without its values."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from zoneinfo import ZoneInfo

import pytest

from service import logs

SECRET = "postgresql://autoship:canary@db"


def broken() -> None:
    raise ValueError(f"canary\nin {SECRET}")


# Each logs as a library may.
LIBRARIES: dict[str, tuple[Callable[[logging.Logger], None], str | None]] = {
    "values": (lambda library: library.error("cannot reach\n%s: %d", SECRET, 5), "cannot reach %s: %d"),
    "put together": (lambda library: library.error(f"cannot reach {SECRET}"), None),
    "an exception": (lambda library: library.error(ValueError(SECRET)), None),
    "named values": (lambda library: library.error("at %(url)s", {"url": SECRET}), "at %(url)s"),
    "values that do not fit": (lambda library: library.error("at %d", SECRET), "at %d"),
}


def written(form: str, log: Callable[[logging.Logger], None]) -> str:
    """What a fresh process's logging writes for a library that came with a handler of its own."""
    stream = io.StringIO()
    library = logging.Logger("library")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs._JsonFormatter() if form == "json" else logs._TextFormatter(ZoneInfo("Europe/Istanbul")))
    library.addHandler(handler)
    log(library)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("case", LIBRARIES)
def test_a_line_of_a_library_is_told_without_its_values(form: str, case: str) -> None:
    log, message = LIBRARIES[case]
    line = written(form, log)
    assert line.count("\n") == 1
    assert "canary" not in line
    assert "library.message" in line
    assert "test_logs.py" in line
    if form == "json":
        assert json.loads(line).get("message") == message


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_traceback_is_where_it_came_from_on_one_line_without_its_message(form: str) -> None:
    def log(library: logging.Logger) -> None:
        try:
            broken()
        except ValueError:
            library.exception("request %s failed", SECRET)

    line = written(form, log)
    assert line.count("\n") == 1
    assert "canary" not in line
    assert "ValueError" in line
    assert "broken < " in line


def test_an_event_is_one_object_with_its_fields_and_without_those_that_are_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "autoship")
    logs.Event("read.failed", logging.WARNING, "").emit(package_id=73, cause="ReadTimeout", failures=None)
    [record] = caplog.records
    record.created = 0.5
    told = {"level": "warning", "event": "read.failed", "package_id": 73, "cause": "ReadTimeout"}
    assert json.loads(logs._JsonFormatter().format(record)) == {"at": "1970-01-01T00:00:00.500Z"} | told
    text = logs._TextFormatter(ZoneInfo("Europe/Istanbul")).format(record)
    assert text == "02:00:00  read.failed                   73  cause=ReadTimeout"


_PROGRAM = """
import logging, sys, warnings
from service import config, logs
from tests.conftest import MINIMAL
own = logging.getLogger("gunicorn.error")
own.propagate = False
own.addHandler(logging.StreamHandler(sys.stderr))
logs.configure(config.load({**MINIMAL, "DATABASE_URL": "sqlite:///none.db", "LOG_LEVEL": "DEBUG"}))
own.warning("worker %s", "canary")
logging.getLogger("httpx").info("GET %s", "canary")
warnings.warn("canary")
logs.DATABASE_UNAVAILABLE.emit(where="web")
"""


def test_every_line_of_a_process_is_json_on_stdout_where_that_is_no_terminal() -> None:
    ended = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line.get("logger", line["event"]) for line in told] == [
        "gunicorn.error",
        "py.warnings",
        "database.unavailable",
    ]
    assert "canary" not in ended.stdout
    assert ended.stderr == ""
