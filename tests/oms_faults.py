"""Scripted faults around the stand-in OMS: what real servers and networks do, on real sockets."""

from __future__ import annotations

import gzip
import json
import socket
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from service.sandbox import READY, Request, Response, StandInOms

Outcome = Response | Callable[[socket.socket], None]
Fault = Callable[["FaultyOms", Request], Outcome]
# What is wrong below HTTP: it takes the port while no server holds it, and returns what gives the port back.
DeadLine = Callable[[int], Callable[[], None]]


@dataclass(kw_only=True)
class FaultyOms(StandInOms):
    """Answers as scripted while the script lasts, then as the stand-in does.

    `release` ends every hang at once; nothing hangs longer than `hang_s`.
    """

    hang_s: float = 20.0
    release: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._script: dict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}

    def script(self, operation: str, *faults: Fault) -> None:
        """The next requests of this operation meet these faults, one each."""
        self._script[operation].extend(faults)

    def always(self, operation: str, fault: Fault | None) -> None:
        """Every request of this operation meets this fault, or none any more."""
        if fault is None:
            self._always.pop(operation, None)
        else:
            self._always[operation] = fault

    def answer(self, request: Request) -> Outcome:
        queue = self._script[request.operation]
        fault = queue.popleft() if queue else self._always.get(request.operation)
        return fault(self, request) if fault else super().answer(request)

    def answer_well(self, request: Request) -> Response:
        """What it would have answered without a fault."""
        response = super().answer(request)
        assert isinstance(response, Response)
        return response

    def unpack(self, package_id: int) -> None:
        """Back from Packed to Ready for Packaging."""
        self._move(package_id, READY, None, None)

    def revoke_token(self) -> None:
        """Only the next login gives a token that is accepted."""
        with self._lock:
            self.token = f"{self.token}+"

    def commands_for(self, package_id: int) -> int:
        """How many commands for a package arrived, whatever they were answered."""
        return sum(one.operation == "command" and one.package_id == package_id for one in self.received)

    def shipped_by_command(self, package_id: int) -> int:
        """How often a command moved this package to shipped."""
        return sum(one.package_id == package_id and one.by_command for one in self.applied)


def answers(status: int, body: bytes = b"", **headers: str) -> Fault:
    """A complete answer, and nothing applied."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda oms, request: Response(status, body, named)


def words(status: int, text: str) -> Fault:
    """A refusal in the OMS's style."""
    return answers(status, json.dumps({"non_field_errors": [text], "code": "x"}).encode())


def html(status: int) -> Fault:
    """An error page of whatever stands in front of the OMS."""
    return answers(status, b"<html>Bad Gateway</html>", Content_Type="text/html")


def applied_then(fault: Fault) -> Fault:
    """The command takes effect, then this happens."""

    def apply(oms: FaultyOms, request: Request) -> Outcome:
        oms.answer_well(request)
        return fault(oms, request)

    return apply


def meanwhile(happens: Callable[[], object], then: Fault = FaultyOms.answer_well) -> Fault:
    """An answer, a good one if none is named, and something else happens before it is given."""

    def answer(oms: FaultyOms, request: Request) -> Outcome:
        happens()
        return then(oms, request)

    return answer


def hangs(oms: FaultyOms, request: Request) -> Outcome:
    """No answer until released."""

    def hang(connection: socket.socket) -> None:
        oms.release.wait(oms.hang_s)

    return hang


def resets(oms: FaultyOms, request: Request) -> Outcome:
    """The connection is reset instead of an answer."""

    return _reset


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def closes(oms: FaultyOms, request: Request) -> Outcome:
    """The connection is closed instead of an answer."""
    return lambda connection: None


def sends(*chunks: bytes, pause_s: float = 0.0) -> Fault:
    """Raw bytes in the place of an answer, then the connection is closed."""

    def raw(oms: FaultyOms, request: Request) -> Outcome:
        def send(connection: socket.socket) -> None:
            try:
                for chunk in chunks:
                    connection.sendall(chunk)
                    if oms.release.wait(pause_s):
                        return
            except OSError:
                return  # the client gave up, as it should

        return send

    return raw


def raw(head: str, body: bytes = b"") -> Fault:
    """An answer byte for byte, then the connection is closed."""
    return sends(f"HTTP/1.1 {head}\r\n\r\n".encode() + body)


def truncated(status: int = 200) -> Fault:
    """Less than was announced."""
    return sends(f"HTTP/1.1 {status} X\r\nContent-Length: 100\r\n\r\n".encode() + b'{"id": 7')


def reset_within(status: int = 200) -> Fault:
    """The connection is reset in the middle of an answer."""

    def cut(oms: FaultyOms, request: Request) -> Outcome:
        def send(connection: socket.socket) -> None:
            connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: 100\r\n\r\n".encode())
            _reset(connection)

        return send

    return cut


def gzip_bomb(status: int = 200) -> Fault:
    """A few kilobytes that would become 16 MB."""
    return answers(status, gzip.compress(bytes(16 * 1024 * 1024)), Content_Encoding="gzip")


def dripping() -> Fault:
    """One byte at a time, each well within a timeout for one read."""
    answer = b"HTTP/1.1 200 OK\r\nX-Padding: " + b"x" * 400 + b"\r\nContent-Length: 2\r\n\r\n{}"
    return sends(*(bytes([byte]) for byte in answer), pause_s=0.05)


def endless(status: int = 200) -> Fault:
    """A body that does not end."""
    return sends(f"HTTP/1.1 {status} X\r\n\r\n".encode(), *[b"x" * 65536] * 1000)


def shows(**changes: object) -> Fault:
    """The package's own document with other values."""

    def show(oms: FaultyOms, request: Request) -> Outcome:
        document = json.loads(oms.answer_well(request).body)
        return Response(200, json.dumps(document | changes).encode())

    return show


def lists(change: Callable[[dict[str, Any]], object]) -> Fault:
    """A page with something changed in it."""

    def show(oms: FaultyOms, request: Request) -> Outcome:
        page = json.loads(oms.answer_well(request).body)
        change(page)
        return Response(200, json.dumps(page).encode())

    return show


def deaf_to(*names: str) -> Fault:
    """These parameters of the query are ignored, as those an OMS does not know are."""

    def answer(oms: FaultyOms, request: Request) -> Outcome:
        heard = {name: value for name, value in request.query.items() if name not in names}
        return oms.answer_well(replace(request, query=heard))

    return answer


# Below HTTP.


def refuses(port: int) -> Callable[[], None]:
    """Nobody listens."""
    return lambda: None


def never_accepts(port: int) -> Callable[[], None]:
    """Connections are neither accepted nor refused: the backlog is full."""
    listener = _listening(port, backlog=0)
    waiting = [socket.socket() for _ in range(2)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))

    def mend() -> None:
        for one in (*waiting, listener):
            one.close()

    return mend


def resets_after(bytes_read: int) -> DeadLine:
    """Connections are accepted, and reset when so much of the request has been read."""

    def break_down(port: int) -> Callable[[], None]:
        listener = _listening(port, backlog=16)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return  # mended
                if bytes_read:
                    connection.recv(bytes_read)
                _reset(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()

        def mend() -> None:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            listener.close()

        return mend

    return break_down


def _listening(port: int, backlog: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(backlog)
    return listener
