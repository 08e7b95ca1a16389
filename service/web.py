"""The web process: deliveries in, health out, and the operator's pages. No delivery waits for a call of the OMS."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial

from flask import Flask, Request, Response, jsonify, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge

from service import api, console, delivery, inbox, logs
from service import config as configuration
from service.config import Config
from service.database import PATIENCE_S, Database
from service.delivery import Delivery
from service.errors import DatabaseUnavailable, DeliveryRejected, OmsUnreachable
from service.hooks import RECEIVER_PATH
from service.inbox import Receipt
from service.lookup import Lookup, Turn, taken

MAX_BODY_BYTES = 1024 * 1024
RETRY_AFTER_S = 5
# No commit within 5 s is a 503: the wait for a turn, then the database's own patience. There are fewer turns than the
# pool has connections, so that nobody waits a third time.
TURNS = 5
TURN_PATIENCE_S = 1.5
DATABASE_PATIENCE_S = 3.0

# By the status of the receipt.
_RECEIVED: Mapping[str, logs.Event] = {
    "accepted": logs.Event("delivery.accepted", logging.INFO, "A delivery was stored and its package is looked at."),
    "duplicate": logs.Event("delivery.duplicate", logging.INFO, "A delivery's uuid was known."),
    "ignored": logs.Event("delivery.ignored", logging.INFO, "A delivery was stored; it asks for no look."),
    "quarantined": logs.Event(
        "delivery.quarantined",
        logging.WARNING,
        "An authentic delivery cannot be worked with; see `autoship quarantine`.",
        alert=True,
    ),
}


class _Probe:
    """A trial write. Anybody may ask, any number at a time: whoever waits shares the next one."""

    def __init__(self, database: Database, turn: Turn) -> None:
        self._database = database
        self._turn = turn
        self._lock = threading.Lock()
        self._began_at = -math.inf
        self._found: DatabaseUnavailable | None = None

    def problem(self) -> DatabaseUnavailable | None:
        """Why deliveries cannot be stored now, or None."""
        came_at = time.monotonic()
        # A commit may hang for as long as a standby is away, and whoever asks keeps a thread of the server.
        if not self._lock.acquire(timeout=PATIENCE_S):
            return _too_slow()
        try:
            if self._began_at <= came_at:
                self._began_at = time.monotonic()
                self._found = self._write()
            return self._found
        finally:
            self._lock.release()

    def answer(self) -> Response:
        """The same for the platform."""
        if (problem := self.problem()) is not None:
            raise problem
        return _alive()

    def _write(self) -> DatabaseUnavailable | None:
        try:
            with self._turn():
                self._database.probe_write()
        except DatabaseUnavailable as problem:
            return problem
        return None


def create_app(config: Config | None = None, database: Database | None = None) -> Flask:
    """The WSGI application; reads the environment where it is not given a configuration."""
    if config is None:
        config = configuration.load(configuration.environment())
        logs.configure(config)
    database = database or Database(config.database_url, patience_s=DATABASE_PATIENCE_S)
    turn = partial(taken, threading.BoundedSemaphore(TURNS), TURN_PATIENCE_S, _too_slow)
    app = Flask("service", static_folder=None)
    # Never a redirect: senders that follow one repeat a POST as a GET.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    # One more, because a body in chunks is cut there without a word.
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES + 1
    app.add_url_rule(
        RECEIVER_PATH, view_func=_receiver(config, database, turn), methods=["POST"], provide_automatic_options=False
    )
    app.add_url_rule("/livez", "livez", _alive)
    app.add_url_rule("/healthz", "healthz", _alive)
    probe = _Probe(database, turn)
    app.add_url_rule("/readyz", "readyz", probe.answer)
    if config.admin_token:
        lookup = Lookup(config, database, turn)
        app.register_blueprint(api.blueprint(config, database, lookup, turn))
        console.install(app, config, database, lookup, turn, probe.problem)
    app.register_error_handler(HTTPException, _refused)
    app.register_error_handler(ParseException, lambda problem: _error(400, "bad_request"))
    app.register_error_handler(DeliveryRejected, _rejected)
    app.register_error_handler(DatabaseUnavailable, _unavailable)
    app.register_error_handler(OmsUnreachable, lambda problem: _error(502, "oms_unreachable"))
    app.register_error_handler(Exception, _crashed)
    return app


def _receiver(config: Config, database: Database, turn: Turn) -> Callable[[], tuple[Response, int]]:
    def receive() -> tuple[Response, int]:
        body = _body(request)
        headers = {name.lower(): value for name, value in request.headers}
        secret_index = delivery.authenticate(headers, body, config.authentication)
        read = delivery.read(headers.get("content-type"), body, secret_index)
        with turn():
            if isinstance(read, Delivery):
                receipt = inbox.accept(database, read, config.settings)
            else:
                receipt = inbox.put_aside(database, read, body)
        _log_receipt(receipt, read.event_type, secret_index)
        return jsonify(asdict(receipt)), 202

    return receive


def _body(request: Request) -> bytes:
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge as problem:
        raise DeliveryRejected(413, "too_large") from problem
    except ClientDisconnected as problem:
        if isinstance(problem.__context__, TimeoutError):
            raise DeliveryRejected(408, "too_slow") from problem
        raise DeliveryRejected(400, "cut_off") from problem
    except ParseException as problem:  # a chunk or a trailer that is none
        raise DeliveryRejected(400, "bad_request") from problem
    if len(body) > MAX_BODY_BYTES:
        raise DeliveryRejected(413, "too_large")
    # Behind gunicorn the end of the stream is the end of the body, also where its client hung up before.
    if len(body) < (request.content_length or 0):
        raise DeliveryRejected(400, "cut_off")
    return body


def _log_receipt(receipt: Receipt, event_type: str | None, secret_index: int | None) -> None:
    # What is no event type we know may be anything, so it stays out of the log.
    known_type = event_type if event_type in delivery.EVENT_TYPES else None if event_type is None else "other"
    _RECEIVED[receipt.status].emit(
        event_uuid=receipt.event_uuid,
        event_type=known_type,
        package_id=receipt.package_id,
        reason=receipt.reason,
        secret_index=secret_index,
    )


def _alive() -> Response:
    return jsonify(status="ok")


def _refused(problem: HTTPException) -> tuple[Response, int]:
    reasons = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large", 503: "busy"}
    status = problem.code or 500
    return _error(status, reasons.get(status, "refused"))


def _rejected(problem: DeliveryRejected) -> tuple[Response, int]:
    logs.DELIVERY_REJECTED.emit(http_status=problem.status, reason=problem.reason)
    return _error(problem.status, problem.reason)


def _too_slow() -> DatabaseUnavailable:
    return DatabaseUnavailable("the database does not keep up")


def _unavailable(problem: DatabaseUnavailable) -> tuple[Response, int, dict[str, str]]:
    logs.DATABASE_UNAVAILABLE.emit(where="web", cause=str(problem))
    return *_error(503, "database_unavailable"), {"Retry-After": str(RETRY_AFTER_S)}


def _crashed(problem: Exception) -> tuple[Response, int]:
    logs.WEB_CRASHED.emit(error=type(problem).__name__, trace=logs.trace_of(problem))
    return _error(500, "internal")


def _error(status: int, reason: str) -> tuple[Response, int]:
    return jsonify(status="error", reason=reason), status
