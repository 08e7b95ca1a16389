"""The OMS client on real sockets: whatever answers there, each call ends in time with one value."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service import oms as client
from service import sandbox
from service.config import OmsConfig
from service.oms import Oms
from service.outcome import (
    Accepted,
    Ambiguous,
    BadShape,
    Command,
    Misconfigured,
    NotFound,
    NotSent,
    ReadFailed,
    Refused,
    Throttled,
    Unauthorised,
)
from service.sandbox import PACKED, Request, Response
from service.snapshot import PackageSnapshot
from tests.oms_faults import (
    Fault,
    FaultyOms,
    answers,
    closes,
    dripping,
    endless,
    hangs,
    html,
    raw,
    resets,
    sends,
    shows,
    truncated,
)
from tests.recorder import Recorder, recording

TIMEOUT_S = 10.0
IMPATIENT_S = 0.3
COMMAND = Command(12, None)
TOKEN = "token-canary"


def configured(url: str, **changes: Any) -> OmsConfig:
    usual: dict[str, Any] = {
        "base_url": url,
        "token": TOKEN,
        "auth_scheme": "Token",
        "timeout_s": TIMEOUT_S,
        "items_path": "/api/v1/oms/packages/package-items/?package={id}",
        "logs_path": "/api/v1/oms/state-transition-logs/?object_id={id}",
        "list_filter": "state__enum_value={packed}",
        "hooks_path": "/whisperer/hooks/",
        "omnitron": None,
    }
    return OmsConfig(**usual | changes)


@pytest.fixture
def stand_in() -> FaultyOms:
    """An OMS with package 73 in Packed."""
    stand_in = FaultyOms(token=TOKEN)
    stand_in.create(73, [PACKED, PACKED], state=PACKED)
    return stand_in


@pytest.fixture
def url(stand_in: FaultyOms) -> Iterator[str]:
    with sandbox.serve(stand_in) as server:
        yield server.url
        stand_in.release.set()


@pytest.fixture
def oms(url: str) -> Iterator[Oms]:
    oms = Oms(configured(url))
    yield oms
    oms.close()


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port nobody listens on, kept from others."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


# Signed by nobody but itself; made for this test and good for nothing else.
CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgEGtUH5io4BUF29eZ
IN23DsieL1ae3gCEGN8x8rw8oXqhRANCAAS4AyGpe/vTlvJk8Ve52V6J2c1eWebG
G0AfAF3wFh3ET5WOLdbFhn8zoMeeO4o0m7a7I1D8a5br0dJyfc5uDH+d
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBkTCCATagAwIBAgIUZFg3Gb2Q+wCzvgABZojVeK/dhnQwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJMTI3LjAuMC4xMCAXDTI2MTEyNDIyMTQ1OVoYDzIxMjYxMDMx
MjIxNDU5WjAUMRIwEAYDVQQDDAkxMjcuMC4wLjEwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAS4AyGpe/vTlvJk8Ve52V6J2c1eWebGG0AfAF3wFh3ET5WOLdbFhn8z
oMeeO4o0m7a7I1D8a5br0dJyfc5uDH+do2QwYjAdBgNVHQ4EFgQUtywIdZa80/qQ
2/+owR0gLJOH/iYwHwYDVR0jBBgwFoAUtywIdZa80/qQ2/+owR0gLJOH/iYwDwYD
VR0TAQH/BAUwAwEB/zAPBgNVHREECDAGhwR/AAABMAoGCCqGSM49BAMCA0kAMEYC
IQCdddIjZGuFXLQXX1URKKisLhib15kQ07ZvJAyTtKI7OgIhAK7p4ZAkSs+E1w4n
JT1wQQhUkfopr63FrCrtsoi9t11l
-----END CERTIFICATE-----
"""


@pytest.fixture
def tls_heard() -> list[bytes]:
    return []


@pytest.fixture
def tls_url(tmp_path: Path, tls_heard: list[bytes]) -> Iterator[str]:
    """A server with that certificate; what it could decrypt is in `tls_heard`."""
    (tmp_path / "certificate.pem").write_text(CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem")

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # the test is over
            with connection, suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                tls_heard.append(tls.recv(65536))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


DEEP = b"[" * 200_000
UNUSABLE = [
    pytest.param(closes, "RemoteProtocolError", id="closed"),
    pytest.param(resets, "ReadError", id="reset"),
    pytest.param(truncated(), "RemoteProtocolError", id="cut off"),
    pytest.param(sends(b"\x00\xff\xfe not HTTP\r\n\r\n"), "RemoteProtocolError", id="not HTTP"),
    pytest.param(raw("200 OK\r\nContent-Length: abc"), "RemoteProtocolError", id="length is no number"),
    pytest.param(raw("200 OK\r\nTransfer-Encoding: chunked", b"zz\r\n"), "RemoteProtocolError", id="bad chunk"),
    pytest.param(raw("200 OK\r\nX: " + "x" * 200_000), "RemoteProtocolError", id="endless headers"),
    pytest.param(endless(), f"the answer is larger than {client.MAX_BODY_BYTES} bytes", id="endless body"),
    pytest.param(
        answers(200, b"\x1f\x8b", Content_Encoding="gzip"),
        "the answer is compressed though we did not ask for that",
        id="compressed",
    ),
]


@pytest.mark.parametrize(("fault", "cause"), UNUSABLE)
def test_a_read_without_a_whole_answer_failed_and_says_how(
    stand_in: FaultyOms, oms: Oms, fault: Fault, cause: str
) -> None:
    stand_in.script("read", fault)
    assert oms.read(73) == ReadFailed(cause)
    assert isinstance(oms.read(73), PackageSnapshot)


@pytest.mark.parametrize(("fault", "cause"), UNUSABLE)
def test_a_command_without_a_whole_answer_may_have_been_applied(
    stand_in: FaultyOms, oms: Oms, fault: Fault, cause: str
) -> None:
    stand_in.script("command", fault)
    assert oms.command(73, COMMAND) == Ambiguous(cause)
    assert stand_in.commands_for(73) == 1


@pytest.fixture
def impatient(url: str) -> Iterator[Oms]:
    """A client that gives up after 0.3 s."""
    impatient = Oms(configured(url, timeout_s=IMPATIENT_S))
    yield impatient
    impatient.close()


@pytest.mark.parametrize("fault", [hangs, dripping()], ids=["no answer", "one byte at a time"])
def test_each_call_has_one_deadline_for_all_of_it(stand_in: FaultyOms, impatient: Oms, fault: Fault) -> None:
    for operation in ("read", "command"):
        stand_in.script(operation, fault)
    began = time.monotonic()
    assert impatient.read(73) == ReadFailed("ReadTimeout")
    assert impatient.command(73, COMMAND) == Ambiguous("ReadTimeout")
    assert time.monotonic() - began < 10  # either fault lasts 20 s


@pytest.mark.parametrize(
    ("fault", "reading"),
    [
        (html(500), ReadFailed("answered 500")),
        (answers(204), ReadFailed("answered 204")),
        (answers(418), ReadFailed("answered 418")),
        (answers(200, b"<html>"), ReadFailed("the answer is not JSON")),
        (answers(200, b"\xff\xfe\xff"), ReadFailed("the answer is not JSON")),
        (answers(200, DEEP), ReadFailed("the answer is not JSON")),
        (answers(200, b"9" * 5000), ReadFailed("the answer is not JSON")),
        (answers(200, b"[]"), BadShape("the answer is not a document of this package")),
        (shows(id=74), BadShape("the answer is not a document of this package")),
        (answers(404), NotFound()),
        (answers(401, b"who?"), Unauthorised(401, "who?")),
        (answers(403), Unauthorised(403, "")),
        (answers(302, Location="/login"), Misconfigured(302)),
        (answers(301, Location="http://[not-an-address"), Misconfigured(301)),
    ],
)
def test_every_whole_answer_to_a_read_has_a_meaning(
    stand_in: FaultyOms, oms: Oms, fault: Fault, reading: object
) -> None:
    stand_in.script("read", fault)
    assert oms.read(73) == reading


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        (answers(204, Content_Encoding="gzip"), Accepted(204)),
        (answers(422, b"no", Content_Encoding="Identity"), Refused(422, "no")),
        (answers(401, b"\x1f\x8b", Content_Encoding="gzip"), Unauthorised(401, "")),
        (answers(422, b"\x1f\x8b", Content_Encoding="br"), Refused(422, "")),
        (answers(429, b"\x1f\x8b", Content_Encoding="gzip", Retry_After="7"), Throttled(timedelta(seconds=7))),
        (answers(500, b"\x1f\x8b", Content_Encoding="zstd"), Ambiguous("answered 500", 500, concluded=True)),
    ],
)
def test_what_a_status_says_by_itself_it_says_with_a_compressed_page_too(
    stand_in: FaultyOms, oms: Oms, fault: Fault, answer: object
) -> None:
    stand_in.script("command", fault)
    assert oms.command(73, COMMAND) == answer


def test_a_throttled_read_says_how_long_to_wait(stand_in: FaultyOms, oms: Oms) -> None:
    stand_in.script("read", answers(429, Retry_After="7"))
    answer = oms.read(73)
    assert isinstance(answer, Throttled)
    assert answer.retry_after.total_seconds() == 7


# What left this machine, and where to.


def test_a_refused_connection_sent_nothing(refusing_port: int) -> None:
    oms = Oms(configured(f"http://127.0.0.1:{refusing_port}"))
    assert oms.command(73, COMMAND) == NotSent("ConnectError: nothing listens there")
    assert oms.read(73) == ReadFailed("ConnectError: nothing listens there")
    oms.close()


def test_a_server_that_does_not_speak_tls_is_told_as_such(url: str) -> None:
    oms = Oms(configured(url.replace("http:", "https:")))
    assert oms.read(73) == ReadFailed("ConnectError: it does not speak TLS")
    oms.close()


def test_a_command_that_is_not_under_way_in_time_is_not_sent(stand_in: FaultyOms, oms: Oms) -> None:
    late = oms.command(73, COMMAND, first_byte_by=time.monotonic() - 0.001)
    assert late == NotSent("not under way within a second of its attempt row")
    assert stand_in.commands_for(73) == 0
    assert oms.command(73, COMMAND, first_byte_by=time.monotonic() + 60) == Accepted(204)
    assert stand_in.shipped_by_command(73) == 1


def test_a_handshake_that_does_not_come_about_sent_nothing_within_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        oms = Oms(configured(f"https://127.0.0.1:{silent.getsockname()[1]}", timeout_s=IMPATIENT_S))
        assert oms.command(73, COMMAND) == NotSent("ConnectTimeout")
        oms.close()


def silent(at: tuple[str, int]) -> list[socket.socket]:
    """Takes connections and never answers."""
    return [socket.create_server(at)]


def dead(at: tuple[str, int]) -> list[socket.socket]:
    """Takes no connections either, as too many wait."""
    listener = socket.create_server(at, backlog=0)
    waiting = [socket.socket() for _ in range(2)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(at)
    return [listener, *waiting]


@pytest.fixture
def also_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Gives an OMS a name that leads to such addresses, and only then to it."""
    held: list[socket.socket] = []
    look_up = socket.getaddrinfo

    def named(url: str, *others: Callable[[tuple[str, int]], list[socket.socket]]) -> str:
        port = int(url.rpartition(":")[2])
        addresses = [f"127.0.0.{number}" for number, _ in enumerate(others, 2)]
        for address, listen in zip(addresses, others, strict=True):
            held.extend(listen((address, port)))

        def several(host: str, *rest: Any, **options: Any) -> Any:
            hosts = [*addresses, "127.0.0.1"] if host == "localhost" else [host]
            return [found for one in hosts for found in look_up(one, *rest, **options)]

        monkeypatch.setattr(socket, "getaddrinfo", several)
        return url.replace("127.0.0.1", "localhost")

    yield named
    for one in held:
        one.close()


def test_an_address_that_does_not_answer_keeps_nobody_from_the_next_one_of_the_same_name(
    stand_in: FaultyOms, url: str, also_at: Callable[..., str]
) -> None:
    oms = Oms(configured(also_at(url, dead, dead), timeout_s=3))
    stand_in.script("read", sends(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
    assert oms.read_alone(73) == ReadFailed("answered 500")
    assert oms.command(73, COMMAND, first_byte_by=time.monotonic() + 1) == Accepted(204)
    oms.close()


def test_addresses_that_do_not_answer_share_one_deadline(refusing_port: int, also_at: Callable[..., str]) -> None:
    oms = Oms(configured(also_at(f"http://127.0.0.1:{refusing_port}", dead, dead), timeout_s=IMPATIENT_S))
    began = time.monotonic()
    assert isinstance(oms.read_alone(73), ReadFailed)
    assert time.monotonic() - began < 2 * IMPATIENT_S
    oms.close()


def test_an_address_that_connects_and_never_answers_is_not_asked_again_before_the_others(
    stand_in: FaultyOms, url: str, also_at: Callable[..., str]
) -> None:
    oms = Oms(configured(also_at(url, silent), timeout_s=IMPATIENT_S))
    assert oms.read_alone(73) == ReadFailed("ReadTimeout")
    stand_in.always("read", sends(b"HTTP/1.1 500 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
    assert [oms.read_alone(73) for _ in range(3)] == [ReadFailed("answered 500")] * 3
    oms.close()


def test_a_connection_the_oms_closed_between_two_calls_does_not_make_the_command_ambiguous(
    stand_in: FaultyOms, oms: Oms
) -> None:
    closed = threading.Event()

    def answers_and_closes(faulty: FaultyOms, request: Request) -> Callable[[socket.socket], None]:
        body = faulty.answer_well(request).body

        def close(connection: socket.socket) -> None:
            connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            connection.shutdown(socket.SHUT_WR)
            closed.set()

        return close

    stand_in.script("read", answers_and_closes)
    assert isinstance(oms.read(73), PackageSnapshot)
    assert closed.wait(5)
    assert oms.command(73, COMMAND) == Accepted(204)
    assert (stand_in.commands_for(73), stand_in.shipped_by_command(73)) == (1, 1)


def test_nothing_is_ever_sent_twice_by_the_client_itself(stand_in: FaultyOms, oms: Oms) -> None:
    for fault in (closes, resets, html(503), answers(429, Retry_After="0"), answers(307, Location="/")):
        stand_in.script("command", fault)
        oms.command(73, COMMAND)
    assert stand_in.commands_for(73) == 5


@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        (answers(204), Accepted(204)),
        (answers(200), Accepted(200)),
        # A 204 has no body, whatever its headers say or the server appends.
        (raw("204 No Content\r\nContent-Length: 5", b"hello"), Accepted(204)),
        (raw("204 No Content\r\nContent-Length: abc"), Ambiguous("RemoteProtocolError")),
        (answers(200, b"{}"), Ambiguous("unexpected body", 200)),
        (html(502), Ambiguous("answered 502", 502, concluded=True)),
        (answers(408), Ambiguous("answered 408", 408)),
        (answers(406, b"no"), Refused(406, "no")),
        (answers(404), Refused(404, "")),
        (answers(307, Location="http://[not-an-address"), Misconfigured(307)),
    ],
)
def test_every_whole_answer_to_a_command_has_a_meaning(
    stand_in: FaultyOms, oms: Oms, fault: Fault, answer: object
) -> None:
    stand_in.script("command", fault)
    assert oms.command(73, COMMAND) == answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(stand_in: FaultyOms, oms: Oms, recorder: Recorder, status: int) -> None:
    redirect = answers(status, Location=recorder.url + "/")
    stand_in.script("read", redirect)
    stand_in.script("command", redirect)
    assert oms.read(73) == Misconfigured(status)
    assert oms.command(73, COMMAND) == Misconfigured(status)
    assert recorder.heard == []


def test_each_request_carries_the_token_asks_for_no_compression_and_keeps_no_cookie(recorder: Recorder) -> None:
    recorder.headers["Set-Cookie"] = "sessionid=stolen; Path=/"
    oms = Oms(configured(recorder.url, auth_scheme="Bearer"))
    oms.read(73)
    oms.read(73)
    oms.close()
    for heard in (dict(headers) for headers, _ in recorder.heard):
        assert heard["authorization"] == f"Bearer {TOKEN}"
        assert heard["accept-encoding"] == "identity"
        assert heard["content-type"] == "application/json"
        assert "cookie" not in heard
    assert len(recorder.heard) == 2


def test_a_server_whose_certificate_is_not_trusted_never_sees_the_token(tls_url: str, tls_heard: list[bytes]) -> None:
    oms = Oms(configured(tls_url))
    assert oms.command(73, COMMAND) == NotSent("ConnectError: its certificate is not trusted")
    assert oms.read(73) == ReadFailed("ConnectError: its certificate is not trusted")
    oms.close()
    assert tls_heard == []


def test_the_command_names_the_package_and_only_what_is_configured(stand_in: FaultyOms, oms: Oms) -> None:
    oms.command(73, Command(None, stand_in.slug))
    assert [json.loads(one.body) for one in stand_in.received] == [{"slug": stand_in.slug, "package": 73}]


# Items on pages of their own.


@pytest.fixture
def paged(stand_in: FaultyOms) -> FaultyOms:
    """Package 73 does not carry its five items; the list shows two at a time."""
    stand_in.inline_items = False
    stand_in.page_size = 2
    stand_in.set_items(73, [PACKED] * 4 + ["400"])
    return stand_in


def operations(stand_in: FaultyOms) -> list[str]:
    return [one.operation for one in stand_in.received]


def items_of(oms: Oms) -> tuple[int, str | None]:
    snapshot = oms.read(73)
    assert isinstance(snapshot, PackageSnapshot)
    assert snapshot.items is not None
    return len(snapshot.items.items), snapshot.items.problem


def next_page(link: object) -> Fault:
    """The item list with another link to the next page."""

    def show(faulty: FaultyOms, request: Request) -> Response:
        page = json.loads(faulty.answer_well(request).body)
        return Response(200, json.dumps(page | {"next": link}).encode())

    return show


def test_items_are_read_page_by_page_and_the_package_last(paged: FaultyOms, oms: Oms) -> None:
    assert items_of(oms) == (5, None)
    assert operations(paged) == ["read", "items", "items", "items", "read"]


def test_the_next_page_may_be_given_as_a_whole_address_of_the_same_origin(paged: FaultyOms, oms: Oms, url: str) -> None:
    paged.script("items", next_page(f"{url}/api/v1/oms/packages/package-items/?package=73&page=2"))
    assert items_of(oms) == (5, None)


@pytest.mark.parametrize(
    "link",
    [
        "{elsewhere}/api/v1/oms/packages/package-items/?page=2",
        "//{elsewhere_host}/?page=2",
        "https://{host}/api/v1/oms/packages/package-items/?package=73&page=2",
        "http://somebody:else@{host}/api/v1/oms/packages/package-items/?package=73&page=2",
        "http://[not-an-address",
        "http://127.0.0.1:port/",
        "http://\ud800/",
        "javascript:alert(1)",
        73,
    ],
)
def test_the_token_follows_no_link_to_another_origin(
    paged: FaultyOms, oms: Oms, url: str, recorder: Recorder, link: object
) -> None:
    if isinstance(link, str):
        link = link.replace("{elsewhere}", recorder.url).replace("{host}", url.removeprefix("http://"))
        link = link.replace("{elsewhere_host}", recorder.url.removeprefix("http://"))
    paged.always("items", next_page(link))
    assert items_of(oms) == (2, "the OMS counts 5 items and lists 2")
    assert operations(paged) == ["read", "items", "read"]
    assert recorder.heard == []


@pytest.mark.parametrize("link", ["/ü?package=73", "/\ud800", "/a b\r\nX: y", "?page=%00"])
def test_any_text_as_a_link_of_the_same_origin_is_asked_for_without_harm(paged: FaultyOms, oms: Oms, link: str) -> None:
    paged.script("items", next_page(link))
    oms.read(73)
    assert isinstance(oms.read(73), PackageSnapshot)


def test_pages_without_end_are_left_after_the_hundredth(paged: FaultyOms, oms: Oms) -> None:
    paged.always("items", next_page("/api/v1/oms/packages/package-items/?package=73"))
    assert items_of(oms)[1] == "an item is listed twice"
    assert operations(paged).count("items") == client.MAX_PAGES


def test_the_reads_of_one_look_together_end_within_twice_the_timeout(paged: FaultyOms, impatient: Oms) -> None:
    endless_list = next_page("/api/v1/oms/packages/package-items/?package=73")

    def slowly(faulty: FaultyOms, request: Request) -> Any:
        faulty.release.wait(IMPATIENT_S / 3)
        return endless_list(faulty, request)

    paged.always("items", slowly)
    began = time.monotonic()
    assert isinstance(impatient.read(73), ReadFailed)
    assert isinstance(impatient.transition_log(73), ReadFailed)
    assert time.monotonic() - began < 5  # a hundred pages last 10 s


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (answers(404), "the OMS has no item list at OMS_ITEMS_PATH"),
        (answers(200, b"[]"), "the item list is not a list"),
        (answers(200, b'{"results": {}}'), "the item list is not a list"),
        (answers(200, b'{"results": []}'), "the item list does not say how many there are"),
        (answers(200, b'{"results": [], "count": "0"}'), "the item list does not say how many there are"),
    ],
)
def test_what_is_no_item_list_is_never_taken_for_a_complete_one(
    paged: FaultyOms, oms: Oms, fault: Fault, problem: str
) -> None:
    paged.script("items", fault)
    assert items_of(oms) == (0, problem)


def test_an_item_that_slips_to_a_page_already_read_is_missed_however_many_were_collected(
    paged: FaultyOms, oms: Oms
) -> None:
    paged.set_items(73, [PACKED, "400", PACKED, PACKED])

    def before_one_was_taken_out(faulty: FaultyOms, request: Request) -> Response:
        page = json.loads(faulty.answer_well(request).body)
        first = page["results"][0]
        return Response(200, json.dumps(page | {"count": 5, "results": [first | {"id": 1}, first]}).encode())

    paged.script("items", before_one_was_taken_out)
    assert items_of(oms) == (4, "the item list changed while it was read")


@pytest.mark.parametrize(
    ("fault", "reading"), [(html(502), ReadFailed("answered 502")), (answers(403), Unauthorised(403, ""))]
)
def test_without_its_items_a_package_is_not_read(paged: FaultyOms, oms: Oms, fault: Fault, reading: object) -> None:
    paged.script("items", next_page("/api/v1/oms/packages/package-items/?package=73&page=2"), fault)
    assert oms.read(73) == reading


@pytest.mark.parametrize("link", ["https://elsewhere.example.com/whisperer/hooks/?page=2", "/whisperer/hooks/?page=1"])
def test_webhooks_that_are_not_all_shown_are_none_to_judge(stand_in: FaultyOms, oms: Oms, link: str) -> None:
    stand_in.always("hooks", next_page(link))
    assert oms.registered_hooks() == BadShape("the list of webhooks goes on on another host or without end")


# The transition log is evidence where there is one, and nothing where not.


def test_the_log_names_the_transition_that_shipped_the_package(stand_in: FaultyOms, oms: Oms) -> None:
    oms.command(73, COMMAND)
    log = oms.transition_log(73)
    assert isinstance(log, tuple)
    assert [(entry.transition, entry.new and entry.new.value) for entry in log] == [("12", stand_in.shipped)]


@pytest.mark.parametrize(
    "fault",
    [
        *(answers(status) for status in (204, 302, 401, 403, 404, 429, 500)),
        answers(200, b"{}"),
        answers(200, b"no JSON"),
        closes,
    ],
)
def test_a_log_that_does_not_answer_is_no_evidence(stand_in: FaultyOms, oms: Oms, fault: Fault) -> None:
    stand_in.script("log", fault)
    assert not isinstance(oms.transition_log(73), tuple)
