"""Hostile requests: the application in this process, and the real web process behind its sockets."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from flask.testing import FlaskClient

from service.config import Config
from service.database import Database
from service.web import MAX_BODY_BYTES, create_app
from tests.conftest import a_document, deliver, locked, signed
from tests.reliability.fuzz import in_process, over_sockets
from tests.reliability.web_process import PATH, WebProcess, connect, seen

POST = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n".encode()
CHUNKED = POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
FORM = b"\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
TOO_LARGE = b"x" * (MAX_BODY_BYTES + 1)


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebProcess]:
    folder = tmp_path_factory.mktemp("web")
    process = WebProcess(f"sqlite:///{folder}/autoship.db", folder / "web.log")
    yield process
    process.close()


@pytest.fixture
def web_with_console(tmp_path: Path) -> Iterator[WebProcess]:
    process = WebProcess(f"sqlite:///{tmp_path}/autoship.db", tmp_path / "web.log", ADMIN_TOKEN="admin-token")
    yield process
    process.close()


def answer_to(web: WebProcess, request: bytes) -> bytes:
    """Everything the server says until it closes the connection."""
    with closing(connect(web.port)) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


# The real process.


def test_arbitrary_requests_over_sockets_get_their_pinned_answers_and_every_2xx_is_in_the_inbox(
    web: WebProcess,
) -> None:
    pids = web.worker_pids()
    tally = over_sockets(web.port, seed=2026, count=2000)
    assert tally.wrong == []
    assert {202, 400, 401, 404, 405, 415} <= set(tally.statuses)
    assert seen(web.database) == tally.accepted
    assert web.worker_pids() == pids


def test_a_header_does_not_say_under_which_path_we_are(web: WebProcess) -> None:
    """A proxy that lets only the webhooks' path through would let everything through."""
    request = f"GET {PATH}/livez HTTP/1.1\r\nHost: localhost\r\nSCRIPT_NAME: {PATH}\r\nConnection: close\r\n\r\n"
    assert answer_to(web, request.encode()).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"canary-of-a-secret\r\n\r\n",
        POST + b"canary-of-a-secret(: 1\r\n\r\n",
        POST + b"Authorization: canary-of-a-secret\x00\r\n\r\n",
        POST + b"Transfer-Encoding: canary-of-a-secret\r\n\r\n",
        b"POST " + PATH.encode() + b" HTTP/canary-of-a-secret\r\n\r\n",
    ],
)
def test_what_is_no_http_is_400_in_our_words_and_nothing_of_it_is_logged(web: WebProcess, request_bytes: bytes) -> None:
    answer = answer_to(web, request_bytes)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b'{"status": "error", "reason": "bad_request"}')
    assert "canary" not in web.log.read_text(encoding="utf-8")


@pytest.mark.parametrize("head", [CHUNKED, CHUNKED.replace(PATH.encode(), b"/sign-in").replace(b"\r\n\r\n", FORM)])
def test_a_body_of_bad_chunks_is_400_in_a_form_too(web_with_console: WebProcess, head: bytes) -> None:
    assert answer_to(web_with_console, head + b"canary-of-a-secret\r\n").startswith(b"HTTP/1.1 400 ")
    assert "canary" not in web_with_console.log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % (2 * MAX_BODY_BYTES),
        POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(TOO_LARGE), TOO_LARGE),
        CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(TOO_LARGE), TOO_LARGE),
        CHUNKED + (b"10000\r\n%s\r\n" % (b"x" * 0x10000)) * 32 + b"0\r\n\r\n",
    ],
    ids=["declared and not sent", "declared and sent", "in one chunk", "in many chunks"],
)
def test_too_large_is_413_whatever_its_sender_says_of_it(web: WebProcess, request_bytes: bytes) -> None:
    answer = answer_to(web, request_bytes)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"reason":"too_large"' in answer


# The application.


def test_arbitrary_requests_to_the_application_get_their_pinned_answers(database: Database) -> None:
    tally = in_process(database, seed=2026, count=2000)
    assert tally.wrong == []
    assert seen(database) == tally.accepted > 0


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (TOO_LARGE, {"Content-Type": "text/plain"}, 413),
        (b"{", {"Content-Type": "text/plain"}, 401),
        (b"{", {"Content-Type": "text/plain", **signed(b"{")} | {"Content-Type": "text/plain"}, 415),
        (b"{", signed(b"{"), 400),
        (b"{}", signed(b"{}"), 202),
    ],
)
def test_the_order_of_refusals_is_the_same_for_a_body_in_chunks(
    client: FlaskClient, body: bytes, headers: dict[str, str], status: int
) -> None:
    answer = client.post(
        PATH, input_stream=io.BytesIO(body), headers=headers, environ_overrides={"wsgi.input_terminated": True}
    )
    assert answer.status_code == status


def test_a_body_that_was_cut_off_is_400(client: FlaskClient) -> None:
    # What arrived is signed and whole; the client said that there is more.
    answer = client.post(
        PATH,
        input_stream=io.BytesIO(b"{}"),
        headers=signed(b"{}"),
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": "3"},
    )
    assert (answer.status_code, answer.json) == (400, {"status": "error", "reason": "cut_off"})


@pytest.mark.parametrize(
    "path", ["/", "/webhooks//oms/packages", "/webhooks/oms/packages//", "/static/x", "/livez/x", "/\U0001f4e6"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD"])
def test_another_path_is_404_and_never_a_redirect(client: FlaskClient, path: str, method: str) -> None:
    answer = client.open(path, method=method)
    assert answer.status_code == 404
    assert "Location" not in answer.headers
    if method != "HEAD":
        assert answer.json == {"status": "error", "reason": "not_found"}


def test_a_defect_of_ours_is_500_and_one_line_that_quotes_nothing(
    client: FlaskClient, database: Database, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with database.transaction() as transaction:
        transaction.execute(sa.text("CREATE UNIQUE INDEX canary ON deliveries (fate)"))
    deliver(client, a_document(73, uuid="1" * 32))
    caplog.clear()
    answer = deliver(client, a_document(74, uuid="2" * 32))
    assert (answer.status_code, answer.json) == (500, {"status": "error", "reason": "internal"})
    [record] = caplog.records
    assert record.getMessage() == "web.crashed"
    assert record.fields["error"] == "IntegrityError"  # type: ignore[attr-defined]
    assert "canary" not in str(vars(record))
    assert record.exc_info is None


def test_twenty_deliveries_at_once_are_503_within_5_s_while_the_database_is_locked(
    configured: Callable[..., Config], database: Database, database_url: str
) -> None:
    app = create_app(configured())
    answers: list[tuple[int, float]] = []

    def send(number: int) -> None:
        began = time.monotonic()
        status = deliver(app.test_client(), a_document(number, uuid=f"{number:032x}")).status_code
        answers.append((status, time.monotonic() - began))

    with locked(database_url):
        threads = [threading.Thread(target=send, args=(number,)) for number in range(1, 21)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [status for status, _ in answers] == [503] * 20
    assert max(waited for _, waited in answers) < 5
    assert seen(database) == 0
