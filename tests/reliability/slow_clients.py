"""What slow clients do to the others: `python -m tests.reliability.slow_clients --help`.

Starts the real web process, lets a crowd stall and drip, and measures how long healthy deliveries wait meanwhile,
when the crowd is cut off, how long SIGTERM takes with a new crowd connected, and the memory. `--server` gives
gunicorn other settings than those of `deploy/gunicorn.conf.py`, so that they can be compared.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import selectors
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.reliability.web_process import PATH, WebProcess, connect, post

DRIP_S = 0.5
PIPELINED = 20
_POST = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\n".encode()
# What is sent at once, and what then drips byte by byte.
STALLED = {
    "silent": b"",
    "half of the headers": _POST + b"X-Whisperer-Sig",
    "half of the body": _POST + b"Content-Length: 1000\r\n\r\n" + b'{"event": {',
    "half a chunk": _POST + b"Transfer-Encoding: chunked\r\n\r\n400\r\n" + b'{"event": {',
    "never reads": (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n" * PIPELINED),
}
DRIPPING = {
    "headers": (_POST + b"X-Long: ", b"a"),
    "body": (_POST + b"Content-Length: 1000\r\n\r\n{", b" "),
    "chunks": (_POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
}


class Crowd:
    """Clients that hold their connections for as long as they are let, and never close one themselves."""

    def __init__(self, port: int, stalled: int, dripping: int) -> None:
        self._selector = selectors.DefaultSelector()
        self._left = threading.Event()
        self._connections: list[socket.socket] = []
        self._received: dict[socket.socket, bytes] = {}
        self._drips: dict[socket.socket, Iterator[int]] = {}
        for _, opening in zip(range(stalled), itertools.cycle(STALLED.values()), strict=False):
            self._join(port, opening)
        for _, (opening, drip) in zip(range(dripping), itertools.cycle(DRIPPING.values()), strict=False):
            self._drips[self._join(port, opening)] = itertools.cycle(drip)
        self._thread = threading.Thread(target=self._drip, daemon=True)
        self._thread.start()

    @property
    def held(self) -> int:
        """How many connections the server has not ended yet."""
        return len(self._selector.get_map() or ())

    @property
    def answers(self) -> list[bytes]:
        """All that each connection has received, in however many pieces it came."""
        return list(self._received.values())

    def leave(self) -> None:
        """Closes every connection."""
        self._left.set()
        self._thread.join()
        for connection in self._connections:
            connection.close()
        self._selector.close()

    def _join(self, port: int, opening: bytes) -> socket.socket:
        never_reads = opening == STALLED["never reads"]
        connection = connect(port, receive_buffer=2048 if never_reads else None)
        connection.setblocking(False)
        if opening:
            connection.send(opening)
        self._connections.append(connection)
        self._selector.register(connection, selectors.EVENT_READ, (connection, never_reads))
        return connection

    def _drip(self) -> None:
        while not self._left.wait(DRIP_S):
            for connection, drip in self._drips.items():
                # Whether the server has ended it is found out below.
                with suppress(OSError):
                    connection.send(bytes([next(drip)]))
            for key in list(self._selector.get_map().values()):
                connection, never_reads = key.data
                if self._has_ended(connection, never_reads=never_reads):
                    self._selector.unregister(connection)

    def _has_ended(self, connection: socket.socket, *, never_reads: bool) -> bool:
        try:
            if never_reads:  # it finds out only by sending more
                return connection.send(b"\r") == 0
            piece = connection.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self._received[connection] = self._received.get(connection, b"") + piece
        return piece == b""


@contextmanager
def crowd(port: int, stalled: int, dripping: int) -> Iterator[Crowd]:
    """A crowd that leaves at the end."""
    came = Crowd(port, stalled, dripping)
    try:
        yield came
    finally:
        came.leave()


def healthy(port: int, numbers: Iterator[int], seconds: float) -> list[tuple[int, float]]:
    """Status and waiting time of deliveries made meanwhile, one after the other, each on a connection of its own."""
    answers = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        began = time.monotonic()
        try:
            status = post(connection, next(numbers))
        except OSError:
            status = 0
        finally:
            connection.close()
        answers.append((status, time.monotonic() - began))
    return answers


def throughput(port: int, numbers: Iterator[int], clients: int, seconds: float) -> tuple[float, float]:
    """Deliveries per second over so many kept connections, and the 99th percentile of their waiting times."""
    waits: list[float] = []
    end = time.monotonic() + seconds

    def deliver() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        while time.monotonic() < end:
            began = time.monotonic()
            assert post(connection, next(numbers)) == 202
            waits.append(time.monotonic() - began)
        connection.close()

    threads = [threading.Thread(target=deliver) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(waits) / seconds, sorted(waits)[int(len(waits) * 0.99)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--stalled", type=int, default=64)
    parser.add_argument("--dripping", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20, help="how long the crowd is watched")
    parser.add_argument("--load", type=float, default=5, help="seconds of undisturbed load before it")
    parser.add_argument("--database", help="an empty database; default: a new SQLite file")
    parser.add_argument("--server", default="", help="gunicorn settings, such as '--worker-class gthread --threads 8'")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = options.database or f"sqlite:///{folder}/slow.db"
        web = WebProcess(url, Path(folder, "web.log"), GUNICORN_CMD_ARGS=options.server)
        try:
            _report(web, options)
        finally:
            web.close()


def _report(web: WebProcess, options: argparse.Namespace) -> None:
    numbers = itertools.count(time.time_ns() // 1000 % 2**40)
    used_s = web.cpu_s()
    per_s, p99 = throughput(web.port, numbers, 16, options.load)
    cpu_ms = (web.cpu_s() - used_s) / (per_s * options.load) * 1000
    print(
        f"undisturbed: {per_s:.0f} deliveries/s over 16 connections, p99 {p99 * 1000:.0f} ms, {cpu_ms:.2f} ms CPU each"
    )
    before = web.resident_bytes()
    with crowd(web.port, options.stalled, options.dripping) as slow:
        answers = healthy(web.port, numbers, options.seconds)
        held, memory = slow.held, web.resident_bytes()
    good = [wait for status, wait in answers if status == 202]
    print(f"with the crowd: {len(good)} of {len(answers)} answered 202, longest {max(w for _, w in answers):.2f} s")
    print(f"after {options.seconds:.0f} s the crowd holds {held} of {options.stalled + options.dripping} connections")
    print(f"memory: {before / 2**20:.0f} MiB before, {memory / 2**20:.0f} MiB with the crowd")
    with crowd(web.port, options.stalled, options.dripping):
        exit_code, took = web.stop()
    print(f"SIGTERM under a crowd: exit {exit_code} after {took:.1f} s")


if __name__ == "__main__":
    main()
