"""`/api/v1` and `/metrics`: only for who has the token, the same as the command line, from any process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from service import explain, lookup
from service.case import CaseState
from service.config import Config
from service.database import Database, packages
from service.sandbox import Request, Response
from service.web import create_app
from tests.conftest import a_document, deliver, locked, on_sqlite
from tests.integration.conftest import Clock, Floor, beat
from tests.oms_faults import FaultyOms, answers

TOKEN = "admin-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ADDRESSES = (
    ("GET", "/metrics"),
    ("GET", "/api/v1/status"),
    ("GET", "/api/v1/packages"),
    ("GET", "/api/v1/packages/73"),
    ("POST", "/api/v1/packages/73/recheck"),
    ("POST", "/api/v1/packages/73/dismiss"),
    ("POST", "/api/v1/control/pause"),
    ("POST", "/api/v1/control/resume"),
)


@pytest.fixture
def floor(floor_with: Callable[..., Floor]) -> Floor:
    return floor_with(ADMIN_TOKEN=TOKEN)


@pytest.fixture
def client(floor: Floor) -> FlaskClient:
    return create_app(floor.config, floor.store).test_client()


def get(client: FlaskClient, address: str, status: int = 200) -> Any:
    answer = client.get(address, headers=BEARER)
    assert answer.status_code == status, answer.text
    return answer.json


def post(client: FlaskClient, address: str) -> Any:
    answer = client.post(address, headers=BEARER)
    assert answer.status_code == 202, answer.text
    return answer.json


# Who may.


@on_sqlite
@pytest.mark.parametrize("headers", [{}, BEARER, {"Authorization": "Bearer "}])
def test_without_an_admin_token_there_is_no_such_page(
    configured: Callable[..., Config], database: Database, headers: dict[str, str]
) -> None:
    client = create_app(configured(), database).test_client()
    answers = [client.open(address, method=method, headers=headers) for method, address in ADDRESSES]
    assert {answer.status_code for answer in answers} == {404}


@on_sqlite
@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer admin-toke",
        "Bearer admin-token2",
        f"Basic {TOKEN}",
        TOKEN,
        "Bearer \xc4\xb0",
        f"Bearer {TOKEN},Bearer {TOKEN}",
    ],
)
def test_who_does_not_show_the_token_is_answered_401_and_changes_nothing(
    client: FlaskClient, floor: Floor, given: str | None
) -> None:
    headers = {} if given is None else {"Authorization": given}
    for method, address in ADDRESSES:
        answer = client.open(address, method=method, headers=headers)
        assert (answer.status_code, answer.json) == (401, {"status": "error", "reason": "unauthorised"})
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert floor.due_at(73) is None
    assert get(client, "/api/v1/status")["paused"] is False


def test_deliveries_and_health_ask_for_no_admin_token(client: FlaskClient) -> None:
    assert deliver(client, a_document()).status_code == 202
    assert [client.get(path).status_code for path in ("/livez", "/healthz", "/readyz")] == [200] * 3


def test_no_answer_is_kept_by_whatever_stands_between(client: FlaskClient) -> None:
    assert client.get("/api/v1/status", headers=BEARER).headers["Cache-Control"] == "no-store"


# What is told.


def test_status_tells_how_it_does(client: FlaskClient, floor: Floor, clock: Clock) -> None:
    assert get(client, "/api/v1/status") == {
        "mode": "live",
        "paused": False,
        "breaker": "closed",
        "counts": dict.fromkeys(CaseState, 0),
        "deliveries": {"accepted": 0, "duplicate": 0, "ignored": 0, "quarantined": 0},
        "oldest_due_s": 0,
        "worker_seen_s": None,
        "last_webhook_at": None,
        "last_sweep_at": None,
    }
    for _ in range(3):
        deliver(client, a_document())
    deliver(client, a_document(74, uuid="1" * 32, state="400"))
    deliver(client, a_document("none", uuid="2" * 32))
    beat(floor.store)
    clock.turn(timedelta(seconds=7))
    told = get(client, "/api/v1/status")
    assert told["deliveries"] == {"accepted": 1, "duplicate": 2, "ignored": 1, "quarantined": 1}
    assert told["counts"]["waiting"] == 1
    assert (told["oldest_due_s"], told["worker_seen_s"]) == (7, 7)
    assert told["last_webhook_at"] == "2026-11-24T12:00:00.000Z"


def test_packages_are_listed_page_by_page_and_by_state_and_reason(client: FlaskClient, floor: Floor) -> None:
    for package_id in range(1, 6):
        floor.hint(package_id)
    with floor.store.transaction() as transaction:
        transaction.execute(sa.update(packages).where(packages.c.package_id == 4).values(reason="grace"))
    pages = [get(client, "/api/v1/packages?limit=2")]
    while (cursor := pages[-1]["next"]) is not None:
        pages.append(get(client, f"/api/v1/packages?limit=2&cursor={cursor}"))
    assert [[one["id"] for one in page["results"]] for page in pages] == [[1, 2], [3, 4], [5]]
    assert get(client, "/api/v1/packages?state=shipped")["results"] == []
    [found] = get(client, "/api/v1/packages?state=waiting&reason=grace")["results"]
    assert found == {
        "id": 4, "state": "waiting", "reason": "grace", "held": False, "evidence": None, "episode": 0, "number": None,
        "next_check_at": "2026-11-24T12:00:00.000Z",
    }  # fmt: skip


@on_sqlite
@pytest.mark.parametrize(
    "query",
    ["state=nonsense", "reason=nonsense", "limit=0", "limit=501", "limit=x", "limit=-1", "limit=²", "cursor=-1",
     "cursor=1.5", f"cursor={2**53}", f"cursor={'9' * 5000}"],
)  # fmt: skip
def test_a_question_nobody_can_answer_is_answered_400(client: FlaskClient, query: str) -> None:
    assert get(client, f"/api/v1/packages?{query}", 400) == {"status": "error", "reason": "bad_request"}


def test_a_known_package_is_told_as_explain_tells_it(client: FlaskClient, floor: Floor) -> None:
    floor.oms.create(73)
    floor.oms.pack(73)
    deliver(client, a_document())
    assert floor.run(73)["state"] == "shipped"
    told = get(client, "/api/v1/packages/73")
    assert told == explain.stored(floor.store, 73)
    assert {entry["at"][-1] for entry in told["timeline"]} == {"Z"}


def test_a_package_never_seen_is_read_from_the_oms_and_stays_unseen(client: FlaskClient, floor: Floor) -> None:
    for package_id, states in ((1, ["500"]), (2, ["500", "400"])):
        floor.oms.create(package_id, states, state="500")
    assert [get(client, f"/api/v1/packages/{one}")["would"] for one in (1, 2)] == ["ship", "wait"]
    assert get(client, "/api/v1/packages/1")["state"] is None
    assert get(client, "/api/v1/packages")["results"] == []
    assert get(client, "/api/v1/packages/3", 404) == {"status": "error", "reason": "not_found"}
    floor.oms.always("read", answers(500))
    assert get(client, "/api/v1/packages/4", 502) == {"status": "error", "reason": "oms_unreachable"}


@on_sqlite
def test_one_package_at_a_time_is_read_from_the_oms_and_others_are_told_so(
    client: FlaskClient, floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "OMS_PATIENCE_S", 0.1)
    reading, release = threading.Event(), threading.Event()

    def read_slowly(oms: FaultyOms, request: Request) -> Response:
        reading.set()
        release.wait(10)
        return oms.answer_well(request)

    floor.oms.create(1)
    floor.oms.script("read", read_slowly)
    first = threading.Thread(target=get, args=(client, "/api/v1/packages/1"))
    first.start()
    assert reading.wait(10)
    assert get(client, "/api/v1/packages/2", 503) == {"status": "error", "reason": "busy"}
    assert get(client, "/api/v1/status")["mode"] == "live"
    release.set()
    first.join()
    assert get(client, "/api/v1/packages/1")["would"] == "wait"


@on_sqlite
@pytest.mark.parametrize("number", ["0", str(2**53), "9" * 5000, "-1", "x"])
def test_what_is_no_package_number_is_not_found_and_asks_the_oms_nothing(
    client: FlaskClient, floor: Floor, number: str
) -> None:
    for act in ("", "/recheck", "/dismiss"):
        answer = client.open(f"/api/v1/packages/{number}{act}", method="POST" if act else "GET", headers=BEARER)
        assert answer.status_code == 404
    assert floor.oms.received == []
    assert get(client, "/api/v1/packages")["results"] == []


# What is done.


def test_an_operator_rechecks_dismisses_pauses_and_resumes(
    client: FlaskClient, floor: Floor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="autoship")
    floor.oms.create(73, ["500"], state="500")
    assert post(client, "/api/v1/control/pause") == {"paused": True, "changed": True}
    assert post(client, "/api/v1/control/pause") == {"paused": True, "changed": False}
    assert post(client, "/api/v1/packages/73/recheck")["text"] == "new to us; is looked at now"
    floor.look()
    assert floor.where(73) == ("waiting", "brake")
    assert post(client, "/api/v1/packages/73/dismiss") == {"id": 73, "done": True, "text": "dismissed"}
    assert post(client, "/api/v1/packages/73/dismiss")["done"] is False
    assert floor.where(73) == ("skipped", "dismissed")
    assert post(client, "/api/v1/control/resume") == {"paused": False, "changed": True}
    assert post(client, "/api/v1/packages/73/recheck")["text"] == "is looked at again"
    told = floor.run(73)
    assert told["state"] == "shipped"
    acts = [entry["text"] for entry in told["timeline"] if entry["kind"] == "operator"]
    assert acts == ["asked to look", "dismissed", "asked to look again"]
    logged = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "operator.acted"]
    assert [(line["action"], line.get("package_id"), line["changed"]) for line in logged] == [
        ("pause", None, True),
        ("pause", None, False),
        ("recheck", 73, True),
        ("dismiss", 73, True),
        ("dismiss", 73, False),
        ("resume", None, True),
        ("recheck", 73, True),
    ]


@on_sqlite
def test_an_act_may_say_why_and_what_is_no_reason_is_answered_400(client: FlaskClient, floor: Floor) -> None:
    for body in (b'{"why": 7}', b"[]", b"x", b"[" * 5000, b"\xff"):
        refused = [client.post(address, data=body, headers=BEARER) for method, address in ADDRESSES if method == "POST"]
        assert {answer.status_code for answer in refused} == {400}
    assert floor.due_at(73) is None
    for said in ({"why": "sold\nout"}, {}):
        assert client.post("/api/v1/packages/73/recheck", json=said, headers=BEARER).status_code == 202
    acts = [entry["text"] for entry in floor.told(73)["timeline"] if entry["kind"] == "operator"]
    assert acts == ["asked to look: sold out", "asked to look again"]


def test_without_a_database_every_act_is_answered_503_and_nothing_is_done(
    configured: Callable[..., Config], database: Database, database_url: str
) -> None:
    client = create_app(configured(ADMIN_TOKEN=TOKEN), Database(database_url, patience_s=0.1)).test_client()
    with locked(database_url):
        refused = [client.post(address, headers=BEARER) for method, address in ADDRESSES if method == "POST"]
    assert [(answer.status_code, answer.headers["Retry-After"]) for answer in refused] == [(503, "5")] * 4
    assert get(client, "/api/v1/packages")["results"] == []
    assert get(client, "/api/v1/status")["paused"] is False
