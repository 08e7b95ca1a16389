"""`/api/v1` and `/metrics`: what an operator's programs ask and do, behind `ADMIN_TOKEN`."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable
from functools import partial

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import BadRequest

from service import explain, metrics, operator, vitals, worklist
from service.case import CaseState, Reason
from service.config import Config
from service.database import Database
from service.lookup import Lookup, Turn, checked, choice
from service.operator import Acted, Word
from service.vitals import Vitals
from service.wire import MAX_ID

PAGE = 100
MAX_PAGE = 500
_PACKAGE = "/api/v1/packages/<int:package_id>"


def blueprint(config: Config, database: Database, lookup: Lookup, turn: Turn) -> Blueprint:
    """The pages of operators' programs."""
    pages = _Pages(config, database, lookup, turn)
    api = Blueprint("api", __name__)
    api.before_request(pages.check)
    api.after_request(_not_stored)
    api.add_url_rule("/metrics", view_func=pages.scrape)
    api.add_url_rule("/api/v1/status", view_func=pages.status)
    api.add_url_rule("/api/v1/packages", view_func=pages.listed)
    api.add_url_rule(_PACKAGE, view_func=pages.explained)
    for name, act in (("recheck", operator.recheck), ("dismiss", operator.dismiss)):
        api.add_url_rule(f"{_PACKAGE}/{name}", name, partial(pages.act_on, act), methods=["POST"])
    for name, brake, paused in (("pause", operator.pause, True), ("resume", operator.resume, False)):
        api.add_url_rule(f"/api/v1/control/{name}", name, partial(pages.brake, brake, paused=paused), methods=["POST"])
    return api


class _Pages:
    """The answers."""

    def __init__(self, config: Config, database: Database, lookup: Lookup, turn: Turn) -> None:
        self._config = config
        self._database = database
        self._lookup = lookup
        self._turn = turn

    def check(self) -> tuple[Response, int, dict[str, str]] | None:
        """Asks for the token as a bearer's; how long that takes says nothing about it."""
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        shown = given.strip().encode("utf-8", "replace")
        if scheme.lower() == "bearer" and hmac.compare_digest(shown, self._config.admin_token.encode()):
            return None
        return jsonify(status="error", reason="unauthorised"), 401, {"WWW-Authenticate": "Bearer"}

    def scrape(self) -> Response:
        return Response(metrics.render(self._vitals()), content_type=metrics.CONTENT_TYPE)

    def status(self) -> Response:
        found = self._vitals()
        return jsonify(
            mode="live" if self._config.settings.live else "shadow",
            paused=found.paused_at is not None,
            breaker="closed" if found.breaker_opened_at is None else "open",
            counts={state: found.count(state) for state in CaseState},
            deliveries=found.deliveries,
            oldest_due_s=found.oldest_due_s,
            worker_seen_s=found.worker_seen_s,
            last_webhook_at=explain.instant(found.last_webhook_at),
            last_sweep_at=explain.instant(found.last_sweep_at),
        )

    def listed(self) -> Response:
        state, reason = choice("state", CaseState), choice("reason", Reason)
        after, limit = _number("cursor", 0, 0, MAX_ID), _number("limit", PAGE, 1, MAX_PAGE)
        with self._turn(), self._database.reading() as transaction:
            rows = worklist.listed(transaction, state, reason, after, limit + 1)
        shown = [explain.listed(row) for row in rows[:limit]]
        return jsonify(results=shown, next=shown[-1]["id"] if len(rows) > limit else None)

    def explained(self, package_id: int) -> Response:
        return jsonify(self._lookup.explain(package_id))

    def act_on(self, act: Callable[[Database, int, Word], Acted], package_id: int) -> tuple[Response, int]:
        word = _word()
        with self._turn():
            acted = act(self._database, checked(package_id), word)
        return jsonify(id=package_id, done=acted.done, text=acted.text), 202

    def brake(self, act: Callable[[Database, Word], Acted], *, paused: bool) -> tuple[Response, int]:
        word = _word()
        with self._turn():
            acted = act(self._database, word)
        return jsonify(paused=paused, changed=acted.done), 202

    def _vitals(self) -> Vitals:
        with self._turn():
            return vitals.read(self._database, self._config.oms_rate_per_s)


def _not_stored(response: Response) -> Response:
    response.headers["Cache-Control"] = "no-store"
    return response


def _word() -> Word:
    """Why the act is asked for: `why` of a JSON object, if there is a body at all."""
    body = request.get_data()
    try:
        document = json.loads(body) if body else {}
    except (ValueError, RecursionError) as problem:
        raise BadRequest from problem
    why = document.get("why", "") if isinstance(document, dict) else None
    if not isinstance(why, str):
        raise BadRequest
    return Word(why=why)


def _number(name: str, default: int, least: int, most: int) -> int:
    text = request.args.get(name) or str(default)
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
    if not least <= number <= most:
        raise BadRequest
    return number
