"""The console over HTTP: who may, what it tells, what it does; `tests/browser` looks at it with a browser."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import flask
import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service import brakes, lookup, operator, signin
from service.case import CaseState
from service.config import Config
from service.console import ENTRIES, NEEDING, PAGE
from service.database import Database, packages, timeline
from service.operator import MAX_NAME, MAX_WHY, Word
from service.outcome import Throttled
from service.sweep import Sweeper
from service.web import create_app
from tests.conftest import a_document, deliver, locked, on_sqlite
from tests.integration.conftest import Clock, Floor, beat
from tests.oms_faults import answers, meanwhile, words

TOKEN = "admin-token"
LOOPBACK = {"REMOTE_ADDR": "127.0.0.1"}
PAGES = ("/", "/packages", "/packages?state=waiting", "/packages/73", "/search?q=x", "/packages/73/recheck",
         "/packages/73/dismiss", "/pause", "/resume")  # fmt: skip
ACTS = ("/packages/73/recheck", "/packages/73/dismiss", "/pause", "/resume")
HOSTILE = "<script>alert('x')</script>\"&\u202e\x00\n" + "y" * 1000


@dataclass
class Person:
    """Somebody at a browser."""

    client: FlaskClient
    token: str = ""

    def get(self, path: str, status: int = 200) -> str:
        answer = self.client.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    def post(self, path: str, headers: Mapping[str, str] | None = None, **fields: str) -> TestResponse:
        """Sends the form that stands on the page, which carries the session's token."""
        page = self.client.get("/sign-in").text if not self.token else ""
        found = re.search(r'name="form_token" value="([^"]+)"', page)
        token = found[1] if found else self.token
        return self.client.post(path, data={"form_token": token, **fields}, headers=headers)

    def sign_in(self, name: str = "Ayşe", token: str = TOKEN, **fields: str) -> TestResponse:
        return self.post("/sign-in", None, name=name, token=token, **fields)

    def act(self, path: str, why: str = "because") -> str:
        """What is told after the act."""
        answer = self.post(path, why=why)
        assert answer.status_code == 303, answer.text
        flashed = re.search(r'class="flash" role="status">(.*?)</p>', self.get(answer.headers["Location"]))
        assert flashed is not None
        return html.unescape(flashed[1])


@pytest.fixture
def floor(floor_with: Callable[..., Floor]) -> Floor:
    return floor_with(ADMIN_TOKEN=TOKEN, COMMAND_MAX_ATTEMPTS="1")


@pytest.fixture
def stranger(floor: Floor) -> Person:
    return Person(create_app(floor.config, floor.store).test_client())


@pytest.fixture
def person(stranger: Person) -> Person:
    assert stranger.sign_in().status_code == 303
    return stranger


def pack(floor: Floor, *package_ids: int) -> None:
    for package_id in package_ids:
        floor.oms.create(package_id, ["500"], state="500")
        floor.hint(package_id)


def acts_on(floor: Floor, package_id: int) -> list[str]:
    """What people did to a package; 0 is the service itself."""
    query = sa.select(timeline.c.text).where(timeline.c.package_id == package_id, timeline.c.kind == "operator")
    with floor.store.reading() as transaction:
        return list(transaction.execute(query.order_by(timeline.c.entry_id)).scalars())


# Who may.


@on_sqlite
def test_without_an_admin_token_there_is_no_console(configured: Callable[..., Config], database: Database) -> None:
    client = create_app(configured(), database).test_client()
    answers = [client.get(path) for path in (*PAGES, "/sign-in", "/static/console.css")]
    answers += [client.post(path) for path in (*ACTS, "/sign-in", "/sign-out")]
    assert {answer.status_code for answer in answers} == {404}


@on_sqlite
def test_a_stranger_sees_the_sign_in_and_changes_nothing(stranger: Person, floor: Floor) -> None:
    for path in PAGES:
        answer = stranger.client.get(path)
        assert (answer.status_code, answer.headers["Location"].partition("?")[0]) == (303, "/sign-in")
    for path in ACTS:
        assert stranger.post(path, why="x").headers["Location"].startswith("/sign-in")
    assert floor.due_at(73) is None
    assert acts_on(floor, 0) == []


@on_sqlite
def test_a_wrong_token_is_answered_alike_and_one_right_one_is_enough(
    stranger: Person, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="autoship")
    wrong = ("", "admin-toke", "admin-token2", "ADMIN-TOKEN", "\u0130", "x" * 5000)
    refused = [stranger.sign_in(token=token) for token in wrong] + [stranger.sign_in(name="", token="x")]
    said = {re.sub(r'value="[^"]*"', "", answer.text) for answer in refused}
    assert ({answer.status_code for answer in refused}, len(said)) == ({403}, 1)
    assert stranger.sign_in(name=" \u202e\t ").status_code == 400
    assert stranger.sign_in().headers["Location"] == "/"
    assert "Ayşe" in stranger.get("/")
    events = [(record.getMessage(), record.__dict__["fields"].get("reason")) for record in caplog.records]
    assert events == [("console.refused", "token")] * 7 + [("console.signed_in", None)]


@on_sqlite
def test_wrong_tokens_are_slowed_down_and_the_right_one_waits_with_them(stranger: Person) -> None:
    refused = [stranger.sign_in(token="x").status_code for _ in range(signin.TRIES + 1)]
    assert refused == [403] * signin.TRIES + [429]
    answer = stranger.sign_in()
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "5")


def test_a_try_comes_back_with_time_and_a_right_token_takes_none() -> None:
    now = [100.0]
    tries = signin.Tries(lambda: now[0])
    for _ in range(50):
        assert tries.take()
        tries.give_back()
    assert [tries.take() for _ in range(signin.TRIES + 1)] == [True] * signin.TRIES + [False]
    now[0] += signin.TRY_EVERY_S
    assert [tries.take(), tries.take()] == [True, False]
    now[0] += 3600
    assert sum(tries.take() for _ in range(100)) == signin.TRIES


@on_sqlite
@pytest.mark.parametrize(
    ("base_url", "headers", "is_secure"),
    [
        ("http://127.0.0.1:8008", {}, False),
        ("http://localhost:8008", {}, False),
        ("http://[::1]:8008", {}, False),
        ("https://127.0.0.1:8008", {}, True),
        ("http://autoship.example.com", {}, True),
        ("http://localhost.example.com", {}, True),
        ("http://127.0.0.1:8008", {"X-Forwarded-For": "192.0.2.1"}, True),
        ("http://127.0.0.1:8008", {"Via": "1.1 x"}, True),
    ],
)
def test_the_cookie_is_kept_to_tls_but_for_plain_http_on_loopback(
    floor: Floor, base_url: str, headers: dict[str, str], is_secure: bool
) -> None:
    client = create_app(floor.config, floor.store).test_client()
    cookie = client.get("/sign-in", base_url=base_url, headers=headers).headers["Set-Cookie"]
    name, flags = cookie.partition("=")[0], set(cookie.split("; ")[1:])
    assert name == ("__Host-autoship" if is_secure else "autoship")
    assert flags == {"HttpOnly", "Path=/", "SameSite=Lax"} | ({"Secure"} if is_secure else set())


@on_sqlite
@pytest.mark.parametrize(
    ("path", "is_page"),
    [
        ("/", True),
        ("/packages/73", True),
        ("/webhooks/oms/packages", False),
        ("/api/v1/packages/73", False),
        ("/metrics", False),
        ("/livez", False),
        ("/healthz", False),
        ("/readyz", False),
    ],
)
def test_only_pages_look_at_the_cookie(floor: Floor, path: str, is_page: bool) -> None:
    app = create_app(floor.config, floor.store)
    with app.test_request_context(path):
        assert app.session_interface.is_null_session(flask.session) != is_page


@on_sqlite
def test_a_session_ends_with_sign_out_after_12_hours_and_with_a_new_token(person: Person, floor: Floor) -> None:
    def is_in(client: FlaskClient) -> bool:
        return client.get("/").status_code == 200

    assert is_in(person.client)
    for until in (-1, signin.LASTS_S + 60):
        with person.client.session_transaction(environ_overrides=LOOPBACK) as session:
            kept, session["until"] = session["until"], session["until"] - signin.LASTS_S + until
        assert not is_in(person.client)
        with person.client.session_transaction(environ_overrides=LOOPBACK) as session:
            session["until"] = kept
    cookie = person.client.get_cookie("autoship")
    assert cookie is not None
    elsewhere = create_app(floor.config, floor.store).test_client()
    elsewhere.set_cookie("autoship", cookie.value)
    assert is_in(elsewhere)
    renewed = create_app(replace(floor.config, admin_token="another"), floor.store).test_client()
    renewed.set_cookie("autoship", cookie.value)
    assert not is_in(renewed)
    assert person.post("/sign-out").headers["Location"] == "/sign-in"
    assert not is_in(person.client)


@on_sqlite
def test_a_session_is_no_bearers_token_and_a_bearers_token_no_session(person: Person, stranger: Person) -> None:
    assert person.client.get("/api/v1/status").status_code == 401
    assert person.client.post("/api/v1/control/pause").status_code == 401
    fresh = stranger.client.application.test_client()
    assert fresh.get("/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 303


@on_sqlite
@pytest.mark.parametrize(
    ("package", "to"),
    [("73", "/packages/73"), ("", "/"), ("0", "/"), ("//evil.example", "/"), ("https://evil.example", "/"), ("٧", "/")],
)
def test_after_the_sign_in_there_is_nowhere_to_go_but_to_our_own_pages(stranger: Person, package: str, to: str) -> None:
    assert stranger.sign_in(package=package, next="//evil.example", to="//evil.example").headers["Location"] == to


@on_sqlite
@pytest.mark.parametrize(
    ("headers", "token", "status"),
    [
        ({}, None, 303),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, None, 303),
        ({"Origin": "http://localhost"}, None, 303),
        ({"Origin": "https://autoship.example.com"}, None, 303),
        ({}, "", 403),
        ({}, "x", 403),
        ({}, "\u0130", 403),
        ({"Origin": "https://evil.example"}, None, 403),
        ({"Origin": "http://localhost.evil.example"}, None, 403),
        ({"Sec-Fetch-Site": "same-site"}, None, 403),
        ({"Sec-Fetch-Site": "cross-site"}, None, 403),
        ({"Origin": "null", "Sec-Fetch-Site": "cross-site"}, None, 403),
    ],
)
def test_only_a_form_of_this_session_acts(
    floor: Floor, headers: dict[str, str], token: str | None, status: int
) -> None:
    config = replace(floor.config, public_url="https://autoship.example.com/oms")
    person = Person(create_app(config, floor.store).test_client())
    person.sign_in()
    fields = {} if token is None else {"form_token": token}
    assert person.post("/pause", headers, **{"why": "x"} | fields).status_code == status
    assert bool(acts_on(floor, 0)) == (status == 303)


@on_sqlite
def test_a_form_that_is_larger_than_ours_are_is_not_read(stranger: Person) -> None:
    answer = stranger.client.post("/sign-in", data=b"a&" * 10_000, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 413


@on_sqlite
def test_a_form_of_another_session_does_not_act(person: Person, floor: Floor) -> None:
    other = Person(create_app(floor.config, floor.store).test_client())
    page = other.client.get("/sign-in").text
    found = re.search(r'name="form_token" value="([^"]+)"', page)
    assert found is not None
    for path in (*ACTS, "/sign-out", "/sign-in"):
        assert person.post(path, form_token=found[1], why="x", token=TOKEN, name="x").status_code == 403
    assert acts_on(floor, 0) == []


@on_sqlite
def test_every_page_and_every_refusal_forbids_what_it_does_not_need(person: Person, floor: Floor) -> None:
    pack(floor, 73)
    answers = [
        person.client.get(path) for path in (*PAGES, "/sign-in", "/packages/0", "/packages/74", "/packages?state=x")
    ]
    answers += [person.client.post("/pause"), person.post("/pause"), person.sign_in(token="x")]
    answers += [person.client.get(path) for path in ("/static/console.css", "/static/icon.svg")]
    assert {answer.status_code for answer in answers} == {200, 400, 403, 404}
    for answer in answers:
        assert answer.headers["Content-Security-Policy"] == (
            "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; "
            "base-uri 'none'"
        )
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        text = answer.get_data(as_text=True)
        answer.close()
        if "/static/" not in answer.request.path:
            assert answer.headers["Cache-Control"] == "no-store"
            assert re.findall(r"<script|\sstyle=|\son\w+=|https?://", text) == []


# What is told.


def test_the_start_page_tells_how_it_stands_what_waits_and_what_needs_a_person(
    person: Person, floor: Floor, clock: Clock
) -> None:
    pack(floor, 1, 2)
    for package_id in (1, 2):
        floor.run(package_id)
    floor.oms.always("command", words(406, "no"))
    pack(floor, 3)
    floor.oms.create(4, ["500", "200"], state="500")
    floor.hint(4)
    floor.run(3)
    clock.turn(timedelta(hours=2))
    beat(floor.store)
    with floor.store.transaction() as transaction:
        transaction.execute(sa.update(packages).values(due_at=None))
    page = person.get("/")
    assert "Shipping normally. 2 shipped today, 1 waiting, 1 needs you." in page
    assert "The OMS refused the command as often as we try." in page
    assert "for 2 h" in page
    assert re.findall(r"state=waiting&amp;reason=(\w+)", page) == ["items_mixed"]
    assert "Half shipped within" in page
    clock.turn(timedelta(days=1))
    assert "0 shipped today, 1 waiting, 1 needs you." in person.get("/")


def test_only_so_many_packages_are_told_at_once(person: Person, floor: Floor) -> None:
    most = max(NEEDING, PAGE) + 5
    pack(floor, *range(1, most + 1))
    held = {"state": CaseState.NEEDS_ATTENTION, "reason": "refused", "held": True}
    with floor.store.transaction() as transaction:
        transaction.execute(sa.update(packages).values(held))
        rows = [
            {"package_id": 7, "at": transaction.now, "kind": "answer", "text": f"entry {n}"} for n in range(ENTRIES + 3)
        ]
        transaction.execute(sa.insert(timeline), rows)
    start, listed = person.get("/"), person.get("/packages?state=needs_attention&reason=refused")
    assert start.count("/dismiss") == NEEDING
    assert f"All {most} packages that need you" in start
    following = re.search(r'href="([^"]+)">More', listed)
    assert following is not None
    rest = person.get(html.unescape(following[1]))
    assert (listed.count('<li class="card">'), rest.count('<li class="card">')) == (PAGE, most - PAGE)
    page = person.get("/packages/7")
    assert "entry 202" in page
    assert "entry 2<" not in page
    assert "3 older entries" in page


def test_a_package_is_found_by_its_id_its_number_and_its_orders_number(person: Person, floor: Floor) -> None:
    pack(floor, 73, 74)
    floor.look()
    with floor.store.transaction() as transaction:
        transaction.execute(sa.update(packages).values(order_number="B-7"))
        transaction.execute(sa.update(packages).where(packages.c.package_id == 74).values(number="P/73 x"))
    for text in ("73", " 73 ", "000000073", "0073"):
        assert person.client.get("/search", query_string={"q": text}).headers["Location"] == "/packages/73"
    assert person.client.get("/search", query_string={"q": "P/73 x"}).headers["Location"] == "/packages/74"
    assert person.client.get("/search?q=9007199254740991").headers["Location"] == "/packages/9007199254740991"
    both = person.get("/search?q=B-7")
    assert [int(one) for one in re.findall(r"Package (\d+)</a>", both)] == [73, 74]
    for text in ("B-8", "%", "9007199254740992", "0", "", HOSTILE):
        page = person.client.get("/search", query_string={"q": text})
        assert (page.status_code, "Package 7" in page.text) == (200, False)


@on_sqlite
def test_a_package_never_seen_is_read_from_the_oms_and_its_trouble_told_in_words(
    person: Person, floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    floor.oms.create(5, ["500"], state="500")
    page = person.get("/packages/5")
    assert "On a first look we would: <b>ship</b>" in page
    assert "/packages/5/recheck" in page
    assert "/packages/5/dismiss" not in page
    assert "Neither we nor the OMS know package 6." in person.get("/packages/6", 404)
    floor.oms.always("read", answers(500))
    page = person.get("/packages/5", 502)
    assert "<p>Package 5 is new to us, and the OMS did not show it: answered 500.</p>" in page
    assert page.count("new to us") == 1
    monkeypatch.setattr(lookup, "OMS_PATIENCE_S", 0.1)
    floor.oms.always("read", None)
    other, told = Person(person.client.application.test_client()), list[str]()
    other.sign_in()
    floor.oms.script("read", meanwhile(lambda: told.append(other.get("/packages/5", 503))))
    person.get("/packages/5")
    assert "Somebody else is asking the OMS just now" in told[0]
    assert floor.due_at(5) is None


def test_what_others_wrote_is_shown_as_text(person: Person, floor: Floor) -> None:
    floor.oms.always("command", words(406, HOSTILE))
    pack(floor, 73)
    floor.run(73, timedelta(minutes=1))
    with floor.store.transaction() as transaction:
        hostile = {"number": HOSTILE.replace("\x00", ""), "order_number": "<b>1</b>"}
        transaction.execute(sa.update(packages).values(hostile))
    person.sign_in(name="<i>Zeynep</i>" + "z" * 100)
    person.act("/packages/73/recheck", why=HOSTILE)
    person.act("/pause", why=HOSTILE)
    shown = [person.get(path) for path in ("/", "/packages/73", "/packages", "/search?q=<script>", "/pause")]
    for page in shown:
        assert re.findall(r"<script|<b>1|<i>", page) == []
    assert "&lt;script&gt;alert" in shown[1]
    assert "&lt;i&gt;Zeynep" in shown[0]
    [asked] = acts_on(floor, 73)
    assert "\u202e" not in asked + shown[0]
    assert asked.startswith("asked to look again, by <i>Zeynep</i>zzz")
    assert len(asked) <= len("asked to look again, by : ") + MAX_NAME + MAX_WHY


# What is done.


def test_every_act_asks_why_says_what_will_happen_and_is_recorded_with_name_and_why(
    person: Person, floor: Floor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="autoship")
    floor.oms.create(73, ["500"], state="500")
    assert "no worker sends a command" in person.get("/pause")
    assert person.act("/pause", "stock count") == "Pause shipping: paused."
    assert "paused by Ayşe: stock count" in person.get("/")
    assert "Nothing would change" in person.get("/pause")
    assert "Nothing is commanded yet (paused: by Ayşe: stock count)" in person.get("/packages/73/recheck")
    assert person.act("/packages/73/recheck") == "Recheck package 73: new to us; is looked at now."
    floor.look()
    assert floor.where(73) == ("waiting", "brake")
    assert "somebody has to ship it by hand" in person.get("/packages/73/dismiss")
    assert person.act("/packages/73/dismiss", "a  \n return") == "Dismiss package 73: dismissed."
    assert "Nothing would change" in person.get("/packages/73/dismiss")
    assert "<dt>Next look</dt><dd>none is planned</dd>" in person.get("/packages/73")
    assert "Commands are sent again" in person.get("/resume")
    assert person.act("/resume", "counted") == "Resume shipping: resumed."
    assert "commands are not paused, and the breaker is closed" in person.get("/resume")
    assert "it is shipped at once" in person.get("/packages/73/recheck")
    assert person.act("/packages/73/recheck") == "Recheck package 73: is looked at again."
    assert floor.run(73)["state"] == "shipped"
    assert "unless the OMS shows that it was packed anew" in person.get("/packages/73/recheck")
    assert acts_on(floor, 73) == [
        "asked to look, by Ayşe: because",
        "dismissed, by Ayşe: a return",
        "asked to look again, by Ayşe: because",
    ]
    assert acts_on(floor, 0) == ["paused, by Ayşe: stock count", "resumed, by Ayşe: counted"]
    assert "paused, by Ayşe: stock count" in person.get("/")
    logged = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "operator.acted"]
    assert [line["action"] for line in logged] == ["pause", "recheck", "dismiss", "resume", "recheck"]
    assert "Ayşe" not in str(logged)


def test_what_the_oms_asked_to_wait_is_waited_whoever_resumes(person: Person, floor: Floor) -> None:
    with floor.store.transaction() as transaction:
        brakes.note_answer(transaction, 73, brakes.Operation.READ, Throttled(timedelta(minutes=9)))
    assert operator.resume(floor.store).text == f"was not paused; but {brakes.ASKED_TO_WAIT}"
    assert person.act("/pause") == "Pause shipping: paused."
    assert f"But not yet: {brakes.ASKED_TO_WAIT}." in person.get("/resume")
    assert person.act("/resume") == f"Resume shipping: resumed; but {brakes.ASKED_TO_WAIT}."


def test_a_recheck_promises_no_second_command_while_one_is_under_way(person: Person, floor: Floor) -> None:
    pack(floor, 73)
    floor.oms.script("command", answers(204))
    floor.look()
    assert floor.where(73) == ("shipping", "confirming")
    page = person.get("/packages/73/recheck")
    assert "no other one is sent before that one is settled" in page
    assert "it is shipped at once" not in page


@on_sqlite
@pytest.mark.parametrize("path", ACTS)
@pytest.mark.parametrize("why", ["", "  ", "\u202e\x00\n"])
def test_nothing_is_done_without_a_reason(person: Person, floor: Floor, path: str, why: str) -> None:
    pack(floor, 73)
    answer = person.post(path, why=why)
    assert (answer.status_code, "Say why" in answer.text) == (400, path != "/resume")
    assert acts_on(floor, 73) == acts_on(floor, 0) == []


@on_sqlite
def test_in_shadow_mode_a_recheck_promises_no_command(floor_with: Callable[..., Floor]) -> None:
    floor = floor_with(ADMIN_TOKEN=TOKEN, MODE="shadow")
    person = Person(create_app(floor.config, floor.store).test_client())
    person.sign_in()
    pack(floor, 73)
    floor.look()
    assert "Nothing is commanded: MODE is shadow." in person.get("/packages/73/recheck")
    assert person.act("/pause") == "Pause shipping: paused."
    assert "MODE is shadow: nothing is commanded." in person.get("/resume")
    assert "1 would ship" in person.get("/")


def test_without_a_database_the_pages_say_so_and_nothing_is_done(
    configured: Callable[..., Config], database: Database, database_url: str
) -> None:
    client = create_app(configured(ADMIN_TOKEN=TOKEN), Database(database_url, patience_s=0.1)).test_client()
    person = Person(client)
    person.sign_in()
    with locked(database_url):
        answer = person.post("/pause", why="x")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "Nothing was changed." in answer.text
    assert "not paused" in person.get("/")


@on_sqlite
def test_the_start_page_says_that_the_database_takes_no_writes(
    configured: Callable[..., Config], database: Database, database_url: str
) -> None:
    person = Person(create_app(configured(ADMIN_TOKEN=TOKEN), Database(database_url, patience_s=0.1)).test_client())
    person.sign_in()
    assert "Nothing needs you" in person.get("/")
    with locked(database_url):
        assert deliver(person.client, a_document()).status_code == 503
        page = person.get("/")
    assert "Standing still" in page
    assert "The database takes no writes: deliveries are answered 503." in page
    assert "still accepted" not in page
    assert "Nothing needs you" in person.get("/")


@on_sqlite
def test_an_oms_that_does_not_answer_is_told_as_soon_as_neither_sweep_nor_read_gets_through(
    person: Person, floor: Floor
) -> None:
    pack(floor, 73)
    for operation in ("list", "read"):
        floor.oms.always(operation, answers(502))
    floor.look()
    assert "Nothing needs you" in person.get("/")
    Sweeper(floor.config, floor.store, floor.attendant.oms, lambda _: False).sweep_if_due(at_once=True)
    page = person.get("/")
    assert "Standing still" in page
    assert "The OMS gives no usable answer. 0 shipped today, 1 waiting, no package needs you." in page


@on_sqlite
def test_a_defect_of_ours_is_told_without_a_trace_of_it(
    person: Person, floor: Floor, caplog: pytest.LogCaptureFixture
) -> None:
    with floor.store.transaction() as transaction:
        transaction.execute(sa.text("UPDATE packages SET state = 'x'"))
        transaction.execute(sa.text("INSERT INTO packages (package_id, first_hint, created_at, changed_at, state)"
                                    " VALUES (9, 'webhook', 0, 0, 'canary')"))  # fmt: skip
    page = person.get("/packages/9", 500)
    assert "This is a defect of ours" in page
    assert "canary" not in page
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == ["web.crashed"]


# The same, elsewhere.


@pytest.mark.parametrize(
    ("word", "added", "cause"),
    [
        (Word(), "dismissed", "by an operator"),
        (Word(by="Ayşe"), "dismissed, by Ayşe", "by Ayşe"),
        (Word(why="sold\nout"), "dismissed: sold out", "by an operator: sold out"),
        (Word("Ayşe", "sold out"), "dismissed, by Ayşe: sold out", "by Ayşe: sold out"),
    ],
)
def test_who_and_why_are_added_where_they_are_known(word: Word, added: str, cause: str) -> None:
    assert (word.added_to(operator.DISMISSED), word.as_cause()) == (added, cause)
    assert brakes.is_by_person(word.as_cause())


@on_sqlite
def test_a_delivery_is_answered_as_ever_beside_the_console(person: Person) -> None:
    answer = deliver(person.client, a_document())
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (202, False)


@on_sqlite
def test_a_person_can_pause_where_the_hourly_cap_has_paused_already(person: Person, floor: Floor) -> None:
    with floor.store.transaction() as transaction:
        brakes.pause(transaction, "2 commands within an hour (SHIP_MAX_PER_HOUR)")
    assert "Pause shipping…" in person.get("/")
    assert person.act("/pause", "recall") == "Pause shipping: paused."
    assert "Pause shipping…" not in person.get("/")
    with floor.store.reading() as transaction:
        assert brakes.read(transaction).pause_cause == "by Ayşe: recall"
