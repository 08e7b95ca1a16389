"""The console at `/`: pages for a person, made here, that need no JavaScript.

What a state means, what is wrong and what becomes of an act is judged elsewhere (`explain`, `standing`, `operator`);
this module asks, and shows.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from flask import Blueprint, Flask, Response, flash, redirect, render_template, request, url_for
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest, HTTPException, NotFound, ServiceUnavailable
from werkzeug.wrappers import Response as BaseResponse

from service import __version__, brakes, explain, journal, logs, operator, signin, standing, today, vitals, worklist
from service.brakes import Brakes
from service.case import CLOSED, MEANINGS, CaseState, Reason
from service.config import Config
from service.database import Database
from service.errors import DatabaseUnavailable, OmsUnreachable
from service.lookup import Lookup, Turn, checked, choice
from service.operator import MAX_NAME, MAX_WHY, Acted, Word, tidy
from service.vitals import Vitals
from service.wire import id_in
from service.words import Words, counted

PAGE = 50
NEEDING = 20
ACTS = 8
ENTRIES = 200
MAX_QUERY = 100
# Enough for every form of ours; more fields than that cost more than reading them is worth.
MAX_FORM_BYTES = 16 * 1024
_OPEN_TO_ALL = {"console.sign_in", "console.static"}
_HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

_SIGNED_IN = logs.Event(
    "console.signed_in", logging.INFO, "A person signed in to the console; the name stands with what is done."
)
_REFUSED = logs.Event(
    "console.refused",
    logging.WARNING,
    "A sign-in with a wrong token (`token`), one too soon after others (`too_many`), or a form that was not from "
    "the session it came with (`form`).",
)

Page = str | BaseResponse | tuple[str, int] | tuple[str, int, dict[str, str]]


# Why deliveries cannot be stored now, by a trial write.
Probe = Callable[[], DatabaseUnavailable | None]


def install(app: Flask, config: Config, database: Database, lookup: Lookup, turn: Turn, probe: Probe) -> None:
    """Adds the pages to an application, and the cookie they need."""
    app.secret_key = signin.key_of(config.admin_token)
    app.session_interface = signin.Sessions()
    app.config["PERMANENT_SESSION_LIFETIME"] = signin.LASTS_S
    # Not Strict: who comes by a link of an alert is still signed in, and no GET changes anything.
    app.config["SESSION_COOKIE_SAMESITE"] = "Lax"
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    app.jinja_env.filters["plain"] = _plain
    app.jinja_env.globals.update(
        counted=counted,
        form_token=signin.form_token,
        max_name=MAX_NAME,
        max_why=MAX_WHY,
        meaning_of=explain.meaning_of,
        version=__version__,
    )
    console = _Console(config, database, lookup, turn, probe)
    pages = Blueprint("console", __name__, static_folder="static", static_url_path="/static")
    pages.before_request(console.check)
    pages.after_request(_guarded)
    pages.register_error_handler(HTTPException, _refused)
    pages.register_error_handler(ParseException, lambda problem: _refused(BadRequest()))
    pages.register_error_handler(DatabaseUnavailable, _without_database)
    pages.register_error_handler(Exception, _crashed)
    both = ["GET", "POST"]
    pages.add_url_rule("/", "start", console.start)
    pages.add_url_rule("/sign-in", "sign_in", console.sign_in, methods=both)
    pages.add_url_rule("/sign-out", "sign_out", console.sign_out, methods=["POST"])
    pages.add_url_rule("/search", "search", console.search)
    pages.add_url_rule("/packages", "listed", console.listed)
    pages.add_url_rule("/packages/<int:package_id>", "package", console.package)
    pages.add_url_rule(
        "/packages/<int:package_id>/<any(recheck, dismiss):act>", "on_package", console.on_package, methods=both
    )
    pages.add_url_rule("/<any(pause, resume):act>", "on_service", console.on_service, methods=both)
    app.register_blueprint(pages)


class _Console:
    """The pages."""

    def __init__(self, config: Config, database: Database, lookup: Lookup, turn: Turn, probe: Probe) -> None:
        self._config = config
        self._live = config.settings.live
        self._database = database
        self._lookup = lookup
        self._turn = turn
        self._probe = probe
        self._tries = signin.Tries()

    # Who may.

    def check(self) -> Page | None:
        """Before every page: forms must be ours, and all but the way in is for who has signed in."""
        request.max_content_length = MAX_FORM_BYTES
        if request.method == "POST" and not signin.is_from_our_form(self._config.public_url):
            _REFUSED.emit(reason="form")
            return _problem(403, "This form is not from this session", _NOT_OUR_FORM)
        if request.endpoint in _OPEN_TO_ALL or signin.name() is not None:
            return None
        return _see_other("console.sign_in", package=(request.view_args or {}).get("package_id"))

    def sign_in(self) -> Page:
        """The way in. A wrong token is answered alike whatever else is wrong."""
        package_id, name = id_in(request.values.get("package", "")), tidy(request.form.get("name", ""), MAX_NAME)
        page = partial(render_template, "sign_in.html", package_id=package_id, typed=name)
        if request.method == "GET":
            return page()
        if not self._tries.take():
            _REFUSED.emit(reason="too_many")
            return page(problem="Too many wrong tokens. Wait some seconds, then try again."), 429, _RETRY
        if not hmac.compare_digest(request.form.get("token", "").strip().encode(), self._config.admin_token.encode()):
            _REFUSED.emit(reason="token")
            return page(problem="That is not the token. It is what ADMIN_TOKEN is set to."), 403
        self._tries.give_back()
        if not name:
            return page(problem="Type your name: it is kept with what you do here."), 400
        signin.begin(name)
        _SIGNED_IN.emit()
        return _see_other("console.package", package_id=package_id) if package_id else _see_other("console.start")

    def sign_out(self) -> Page:
        """The way out."""
        signin.end()
        return _see_other("console.sign_in")

    # What is told.

    def start(self) -> Page:
        """Whether anything needs a person, and how today goes."""
        unwritable = self._probe()
        with self._turn():
            found = vitals.read(self._database, self._config.oms_rate_per_s, count_deliveries=False)
            with self._database.reading() as transaction:
                day = today.read(transaction, self._config.display_tz)
                needing = worklist.listed(transaction, CaseState.NEEDS_ATTENTION, None, limit=NEEDING)
                came_at = journal.needed_a_person_at(transaction, [row["package_id"] for row in needing])
                acts = journal.newest_of_service(transaction, ACTS)
        return self._page(
            "start.html",
            found,
            standing=standing.judge(found, day.shipped, live=self._live, writable=unwritable is None),
            day=day,
            needing=needing,
            came_at=came_at,
            needing_in_all=found.count(CaseState.NEEDS_ATTENTION),
            waiting=list(_waiting(found)),
            acts=acts,
            scale=lambda seconds: today.height(timedelta(seconds=seconds)),
        )

    def listed(self) -> Page:
        """Packages with a state and a reason, a page at a time."""
        state, reason = choice("state", CaseState), choice("reason", Reason)
        after = id_in(request.args.get("after", "")) or 0
        with self._turn(), self._database.reading() as transaction:
            rows = worklist.listed(transaction, state, reason, after, PAGE + 1)
            now = transaction.now
        return self._render(
            "packages.html",
            now,
            title=f"Packages: {_plain(state or 'all')}{', ' + _plain(reason) if reason else ''}",
            packages=rows[:PAGE],
            states=list(CaseState),
            state=state,
            following={"state": state, "reason": reason, "after": rows[PAGE - 1]["package_id"]}
            if len(rows) > PAGE
            else None,
        )

    def search(self) -> Page:
        """A package by its id or number, or by its order's number. One that nobody has seen is asked of the OMS."""
        text = tidy(request.args.get("q", ""), MAX_QUERY)
        with self._turn(), self._database.reading() as transaction:
            rows, now = worklist.found_by_number(transaction, text, PAGE) if text else [], transaction.now
        only = rows[0]["package_id"] if len(rows) == 1 else id_in(text) if not rows else None
        if only is not None:
            return _see_other("console.package", package_id=only)
        title = f"Packages under {text}" if rows else f"Nothing is known under {text}" if text else "Search"
        return self._render("packages.html", now, title=title, packages=rows, searched=text, state=None)

    def package(self, package_id: int) -> Page:
        """Everything about one package."""
        try:
            told = self._lookup.explain(package_id)
        except OmsUnreachable as problem:
            text = str(problem)
            return _problem(502, f"Package {package_id} cannot be shown", f"{text[0].upper()}{text[1:]}.")
        with self._turn():
            found = vitals.read(self._database, self._config.oms_rate_per_s, count_deliveries=False)
            with self._database.reading() as transaction:
                row = worklist.find(transaction, package_id)
        newest = list(reversed(told["timeline"]))
        return self._page(
            "package.html",
            found,
            told=told,
            row=row,
            dismissible=told["state"] in worklist.DISMISSIBLE,
            entries=newest[:ENTRIES],
            older=max(0, len(newest) - ENTRIES),
        )

    # What is done.

    def on_package(self, package_id: int, act: str) -> Page:
        """Recheck or dismiss: first what will happen, then, with a reason, the act."""
        with self._turn(), self._database.reading() as transaction:
            row = worklist.find(transaction, checked(package_id))
            shut = brakes.read(transaction).against_command(package_id, transaction.now)
            now = transaction.now
        if act == "recheck":
            possible, consequence = True, _after_recheck(row, shut, live=self._live)
            perform = partial(operator.recheck, self._database, package_id)
        else:
            possible = row is not None and row["state"] in worklist.DISMISSIBLE
            consequence = _AFTER_DISMISS if possible else _CANNOT_DISMISS
            perform = partial(operator.dismiss, self._database, package_id)
        title, back = f"{act.capitalize()} package {package_id}", url_for("console.package", package_id=package_id)
        return self._confirmed(title, back, now, perform, consequence, possible)

    def on_service(self, act: str) -> Page:
        """Pause or resume, for all workers."""
        with self._turn(), self._database.reading() as transaction:
            now, found = transaction.now, brakes.read(transaction)
        is_paused = found.paused_at is not None
        if act == "pause":
            possible = not (is_paused and brakes.is_by_person(found.pause_cause))
            consequence, perform = _AFTER_PAUSE if possible else _PAUSED_ALREADY, operator.pause
        else:
            possible = is_paused or found.breaker_opened_at is not None
            consequence = _after_resume(found, now, live=self._live) if possible else _NOT_PAUSED
            perform = operator.resume
        title, back = f"{act.capitalize()} shipping", url_for("console.start")
        return self._confirmed(title, back, now, partial(perform, self._database), consequence, possible)

    def _confirmed(
        self, title: str, back: str, now: datetime, act: Callable[[Word], Acted], consequence: str, possible: bool
    ) -> Page:
        """The page that asks why, or the act once that is said. Not `possible`: it would change nothing."""
        why = tidy(request.form.get("why", ""), MAX_WHY)
        if request.method == "POST" and why:
            with self._turn():
                acted = act(Word(by=signin.name() or "", why=why))
            flash(f"{title}: {acted.text}.")
            return redirect(back, 303)
        problem = "Say why: it is kept with what you do." if request.method == "POST" else None
        told = {"title": title, "consequence": consequence, "back": back, "possible": possible, "problem": problem}
        page = self._render("confirm.html", now, **told)
        return (page, 400) if problem else page

    def _page(self, template: str, found: Vitals, **values: Any) -> str:
        """A page that also shows how the service does."""
        service = {"vitals": found, "live": self._live, "oms": self._config.oms.base_url.partition("://")[2]}
        return self._render(template, found.now, service=service, **values)

    def _render(self, template: str, now: datetime, **values: Any) -> str:
        return render_template(template, words=Words(self._config.display_tz, now), name=signin.name(), **values)


_RETRY = {"Retry-After": str(int(signin.TRY_EVERY_S))}
_NOT_OUR_FORM = (
    "Nothing was done. Go back, reload the page and try again. If this page is not reached over https, and not on "
    "this very machine, the browser does not keep its cookie."
)
_AFTER_DISMISS = (
    "It is left alone for as long as it stays Packed: no command is sent for it, and somebody has to ship it by hand. "
    "Packed anew, it is taken up again. Recheck takes it back."
)
_CANNOT_DISMISS = "Nothing would change: it has no open case, or a command for it is under way."
_AFTER_PAUSE = (
    "From now on no worker sends a command, until somebody resumes. Webhooks are still accepted and packages are still "
    "read, so that nothing is lost. A command that is under way is not called back."
)
_PAUSED_ALREADY = "Nothing would change: commands are paused already."
_AFTER_RESUME = (
    "Commands are sent again, the breaker is closed, and every package that waited for this is read now and shipped "
    "if it still passes every check. If the cause is not over, the breaker opens again with the next answer."
)
_NOT_PAUSED = "Nothing would change: commands are not paused, and the breaker is closed."


def _after_resume(found: Brakes, now: datetime, *, live: bool) -> str:
    """What a resume leads to, as things stand."""
    if not live:
        return f"{_AFTER_RESUME} But MODE is shadow: nothing is commanded."
    return f"{_AFTER_RESUME} But not yet: {brakes.ASKED_TO_WAIT}." if found.asks_to_wait(now) else _AFTER_RESUME


def _after_recheck(row: sa.RowMapping | None, shut: str | None, *, live: bool) -> str:
    """What a recheck leads to, as things stand."""
    looked_at = "It is read from the OMS now, with fresh budgets."
    if row is not None and row["state"] in CLOSED and row["state"] != CaseState.SKIPPED:
        return f"{looked_at} It stays as it is unless the OMS shows that it was packed anew since."
    if row is not None and row["state"] == CaseState.SHIPPING:
        return f"{looked_at} A command for it is under way: no other one is sent before that one is settled."
    if not live:
        return f"{looked_at} Nothing is commanded: MODE is shadow."
    if shut is not None:
        return f"{looked_at} Nothing is commanded yet ({shut}); if every check passes, it ships once that is over."
    if row is not None and row["reason"] == Reason.ACCEPTED_BUT_STILL_PACKED:
        return (
            f"{looked_at} If it is still Packed, one more command is sent. The OMS accepted one before: make sure "
            "there that it was not shipped."
        )
    return f"{looked_at} If every check passes, it is shipped at once."


def _waiting(found: Vitals) -> Iterator[dict[str, Any]]:
    """The packages that wait by their reason, most of them first."""
    groups = [(n, reason) for (state, reason), n in found.packages.items() if state == CaseState.WAITING]
    for count, reason in sorted(groups, key=lambda group: -group[0]):
        meaning, advice = MEANINGS[CaseState.WAITING, None if reason is None else Reason(reason)]
        yield {"count": count, "reason": reason, "meaning": meaning, "advice": advice}


def _plain(name: str | None) -> str:
    return (name or "").replace("_", " ")


def _see_other(endpoint: str, **values: Any) -> BaseResponse:
    """To a page of ours, by GET."""
    return redirect(url_for(endpoint, **values), 303)


def _guarded(response: Response) -> Response:
    response.headers.update(_HEADERS)
    if request.endpoint != "console.static":
        response.headers["Cache-Control"] = "no-store"
    return response


def _problem(status: int, title: str, text: str) -> tuple[str, int]:
    return render_template("problem.html", title=title, text=text, name=signin.name()), status


def _refused(problem: HTTPException) -> Page:
    if isinstance(problem, ServiceUnavailable):
        return _problem(503, "Somebody else is asking the OMS just now", "Try again in some seconds.")
    status = problem.code or 500
    told = problem.description if isinstance(problem, NotFound) else None
    return _problem(status, "Not found" if status == 404 else "That cannot be answered", told or "Check the address.")


def _without_database(problem: DatabaseUnavailable) -> Page:
    logs.DATABASE_UNAVAILABLE.emit(where="console", cause=str(problem))
    text = "Nothing was changed. Deliveries are answered 503 meanwhile, and their sender repeats them."
    return *_problem(503, "The database cannot be used just now", text), _RETRY


def _crashed(problem: Exception) -> Page:
    logs.WEB_CRASHED.emit(error=type(problem).__name__, trace=logs.trace_of(problem))
    return _problem(500, "This is a defect of ours", "The log says more (web.crashed). Deliveries are not concerned.")
