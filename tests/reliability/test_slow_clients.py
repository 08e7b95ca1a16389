"""Clients that stall and drip against the real web process."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from service import cli, server, up
from service.server import TimedSocket, TooSlow
from tests.conftest import on_sqlite
from tests.processes import wait_until
from tests.reliability.slow_clients import crowd, healthy
from tests.reliability.web_process import WebProcess, connect, get, seen


@pytest.fixture
def web(database_url: str, tmp_path: Path) -> Iterator[WebProcess]:
    process = WebProcess(database_url, tmp_path / "web.log")
    yield process
    process.close()


def test_128_slow_clients_delay_nobody_are_cut_off_and_do_not_hold_up_the_end(web: WebProcess) -> None:
    numbers = itertools.count(1)
    undisturbed = healthy(web.port, numbers, seconds=1)
    with crowd(web.port, stalled=64, dripping=64) as slow:
        answers = healthy(web.port, numbers, seconds=2)
        assert slow.held == 128  # or nothing was shown
        # The crowd never closes a connection itself: also being cut off must not hold up the others.
        answers += healthy(web.port, numbers, seconds=12)
        # 10 s for a request, or 5 s and 10 s more for who says nothing at all.
        wait_until(lambda: slow.held == 0, 25)
        late = [answer for answer in slow.answers if b" 408 " in answer]
    assert {status for status, _ in undisturbed + answers} == {202}
    assert max(wait for _, wait in answers) < 1 + max(wait for _, wait in undisturbed)
    assert seen(web.database) == len(undisturbed + answers)
    assert late
    assert all(b'"reason":"too_slow"' in answer for answer in late)
    with crowd(web.port, stalled=64, dripping=64):
        exit_code, took_s = web.stop()
    assert exit_code == 0
    assert took_s < 10


@on_sqlite
def test_a_killed_web_process_gives_its_port_back_before_the_next_one_gives_up(web: WebProcess) -> None:
    """A client that still sends keeps what is left of it, and with it the port, for as long as an end may take."""
    with connect(web.port) as client:
        client.sendall(b"POST /webhooks/oms/packages HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
        wait_until(lambda: get(web.port, "/livez") == 200)
        web.close()
        up.refuse_taken_port(web.port, "PORT", within_s=cli.PORT_WAIT_S)


@pytest.fixture
def pair() -> Iterator[tuple[TimedSocket, socket.socket]]:
    ours, theirs = socket.socketpair()
    timed = TimedSocket(ours)
    yield timed, theirs
    timed.close()
    theirs.close()


def test_the_time_for_a_request_does_not_begin_anew_with_its_pieces(
    pair: tuple[TimedSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    theirs.sendall(b"xyz")
    assert ours.recv(1) == b"x"
    monkeypatch.setattr(server, "RECEIVE_S", 0.0)
    ours.expect_request()
    with pytest.raises(TooSlow):
        ours.recv(1)
    monkeypatch.setattr(server, "RECEIVE_S", 60.0)
    ours.expect_request()
    assert ours.recv(1) == b"y"


def test_a_silent_client_is_waited_for_until_the_deadline(
    pair: tuple[TimedSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RECEIVE_S", 0.1)
    pair[0].expect_request()
    with pytest.raises(TooSlow):
        pair[0].recv(1)


def test_an_answer_nobody_reads_is_given_up(
    pair: tuple[TimedSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "SEND_S", 0.1)
    ours, _ = pair
    with pytest.raises(ConnectionResetError):
        ours.sendall(b"x" * 10_000_000)


def test_lingering_ends_although_the_client_never_does(
    pair: tuple[TimedSocket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LINGER_S", 0.1)
    ours, theirs = pair
    ours.sendall(b"answer")
    ours.linger()
    assert theirs.recv(100) == b"answer"
    assert theirs.recv(100) == b""
    with pytest.raises(TooSlow):
        ours.recv(1)
