"""The gunicorn worker: threads that no client can hold for longer than it takes to receive one request.

gunicorn's own threaded worker reads a request without any time limit, and closes connections in the thread that
accepts them: eight stalled clients stop it for good.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import time
from http import HTTPStatus
from typing import Any

from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.workers.gthread import ThreadWorker

from service import logs

RECEIVE_S = 10.0
SEND_S = 5.0
LINGER_S = 2.0
_PIECE_BYTES = 64 * 1024

STARTED = logs.Event("web.started", logging.INFO, "The web process accepts deliveries.")


class TooSlow(NoMoreData, TimeoutError):  # type: ignore[misc]  # gunicorn has no types
    """A request was not there in time. For gunicorn its sender has hung up."""


class TimedSocket(socket.socket):
    """A connection whose request must arrive by a deadline, however it is cut into pieces."""

    def __init__(self, accepted: socket.socket) -> None:
        super().__init__(fileno=accepted.detach())
        self.expect_request()

    def expect_request(self) -> None:
        """Starts the time for one request."""
        self._deadline = time.monotonic() + RECEIVE_S

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TooSlow
        self.settimeout(left_s)
        try:
            return super().recv(size, flags)
        except TimeoutError as problem:
            raise TooSlow from problem

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        self.settimeout(SEND_S)
        try:
            super().sendall(data, flags)
        except TimeoutError as problem:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)) from problem

    def linger(self) -> None:
        """Ends the answer and waits for the client to have read it: closing at once could take it back."""
        self._deadline = time.monotonic() + LINGER_S
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_WR)
            while self.recv(_PIECE_BYTES):
                pass
        # Whoever reads on finds the connection at its end.
        self._deadline = 0.0


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn's threaded worker with a time limit for each request, and its errors in our words."""

    def enqueue_req(self, conn: Any) -> None:
        """Hands a connection with a request on it to a thread."""
        if not isinstance(conn.sock, TimedSocket):
            conn.sock = TimedSocket(conn.sock)
        elif conn.initialized:
            conn.sock.expect_request()
        super().enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        """Serves one request in a thread; whatever waits for the client is done here, not where others wait too."""
        result = super().handle(conn)
        if result is False:
            conn.sock.linger()
        return result

    def handle_error(self, req: object, client: socket.socket, addr: object, exc: BaseException) -> None:
        """Answers what is no HTTP request; the line says nothing of what was sent."""
        status, reason = (400, "bad_request") if isinstance(exc, ParseException | OSError) else (500, "internal")
        if status == 500:
            logs.WEB_CRASHED.emit(error=type(exc).__name__, trace=logs.trace_of(exc))
        else:
            logs.DELIVERY_REJECTED.emit(http_status=status, reason=reason)
        with contextlib.suppress(OSError):
            client.sendall(_refusal(status, reason))


def _refusal(status: int, reason: str) -> bytes:
    body = json.dumps({"status": "error", "reason": reason}).encode()
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nConnection: close\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
