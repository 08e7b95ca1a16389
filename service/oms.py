"""The one door to the OMS: every call has a total deadline, every answer is one value of a closed set."""

from __future__ import annotations

import json
import math
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpcore

from service import __version__, outcome
from service.config import OmsConfig
from service.outcome import Ambiguous, Command, CommandAnswer, Misconfigured, NotSent, Throttled, Unauthorised
from service.policy import BadShape, NotFound, ReadFailed, Reading
from service.snapshot import Items, LoggedTransition, PackageSnapshot, parse_items, parse_package, parse_transitions

MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_PAGES = 100
# A command whose first byte is not out this long after its attempt row was committed is not sent at all.
FIRST_BYTE_WITHIN_S = 1.0
# LEASE_S is more than twice OMS_TIMEOUT_S, so the reads of one look end within its lease, however many there are.
READS_WITHIN_TIMEOUTS = 2

_CANNOT_ANSWER = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)
_KEPT_IN_ADDRESSES = "%/:=&?~#+!$,;'@()*[]"


@dataclass(frozen=True, slots=True)
class _Answer:
    """A complete answer; its headers' names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _NoAnswer:
    """None, or not all of one. `sent`: at least one byte of the request had left."""

    cause: str
    sent: bool


@dataclass(frozen=True, slots=True)
class _Document:
    """The JSON of a 200."""

    content: object


_Unread = NotFound | ReadFailed | Unauthorised | Throttled | Misconfigured


class Oms:
    """A client for one thread: one connection, kept open between calls.

    Follows no redirects, verifies TLS, ignores proxies in the environment, keeps no cookies, sends the token to
    no other host.
    """

    def __init__(self, config: OmsConfig, wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._config = config
        self._wall_clock = wall_clock
        self._line = _Line()
        self._reads_end_at = math.inf
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpcore.default_ssl_context(),
            max_connections=1,
            network_backend=_DeadlineBackend(self._line),
        )
        self._headers = [
            (b"Authorization", f"{config.auth_scheme} {config.token}".encode()),
            (b"Accept", b"application/json"),
            # Compressed answers are refused: their size is not known before they are unpacked.
            (b"Accept-Encoding", b"identity"),
            (b"Content-Type", b"application/json"),
            (b"User-Agent", f"autoship/{__version__}".encode()),
        ]

    def close(self) -> None:
        """Closes the connection."""
        self._pool.close()

    def read(self, package_id: int) -> Reading:
        """The package now: `GET /api/v1/oms/packages/{id}/`, commands page of the OMS guide.

        A package that does not carry its items is read again after them, so that its state is the last thing
        that was read. All of it, with the transition log asked for afterwards, ends within twice the timeout.
        """
        self._reads_end_at = time.monotonic() + READS_WITHIN_TIMEOUTS * self._config.timeout_s
        reading = self._read_package(package_id)
        if not isinstance(reading, PackageSnapshot) or reading.items is not None:
            return reading
        items = self._read_items(package_id)
        if not isinstance(items, Items):
            return items
        again = self._read_package(package_id)
        return again.with_items(items) if isinstance(again, PackageSnapshot) else again

    def command(self, package_id: int, command: Command, first_byte_by: float | None = None) -> CommandAnswer:
        """Ship The Package without Shipment Integration, once: `POST …/packages/{id}/command/`, 204 on success.

        `first_byte_by` is a monotonic time; past it nothing is sent. Never retries.
        """
        address = self._address(f"/api/v1/oms/packages/{package_id}/command/")
        body = json.dumps(command.body(package_id)).encode()
        self._line.begin(time.monotonic() + self._config.timeout_s, first_byte_by)
        answer = self._call("POST", address, body)
        if isinstance(answer, _Answer):
            return outcome.classify(answer.status, answer.headers, answer.body, self._wall_clock())
        return Ambiguous(answer.cause) if answer.sent else NotSent(answer.cause)

    def transition_log(self, package_id: int) -> tuple[LoggedTransition, ...] | None:
        """The package's newest logged transitions, or None where the log does not answer.

        It is optional evidence: a token may well not be allowed to read it.
        """
        page = self._get(self._address(self._config.logs_path.format(id=package_id)))
        content = page.content if isinstance(page, _Document) else None
        rows = content.get("results") if isinstance(content, Mapping) else None
        return parse_transitions(package_id, rows) if isinstance(rows, list) else None

    def _read_package(self, package_id: int) -> Reading:
        found = self._get(self._address(f"/api/v1/oms/packages/{package_id}/"))
        if not isinstance(found, _Document):
            return found
        snapshot = parse_package(package_id, found.content)
        return snapshot or BadShape("the answer is not a document of this package")

    def _read_items(self, package_id: int) -> Items | _Unread:
        rows: list[object] = []
        count: object = None
        address: str | None = self._address(self._config.items_path.format(id=package_id))
        for _ in range(MAX_PAGES):
            if address is None:
                break
            found = self._get(address)
            if isinstance(found, NotFound):
                return Items((), "the OMS has no item list at OMS_ITEMS_PATH")
            if not isinstance(found, _Document):
                return found
            page = found.content
            if not isinstance(page, Mapping) or not isinstance(page.get("results"), list):
                return Items((), "the item list is not a list")
            rows += page["results"]
            count, address = page.get("count"), self._next(page.get("next"))
        if not isinstance(count, int):
            return Items(parse_items(package_id, rows).items, "the item list does not say how many there are")
        return parse_items(package_id, rows, count)

    def _address(self, path: str) -> str:
        return self._config.base_url + path

    def _next(self, link: object) -> str | None:
        """The next page's address if it is on the same scheme, host and port; it may be given as a path."""
        if not isinstance(link, str) or not link:
            return None
        try:
            address = urljoin(self._address("/"), link)
            return address if _origin(address) == _origin(self._config.base_url) else None
        except ValueError:
            return None

    def _get(self, address: str) -> _Document | _Unread:
        self._line.begin(min(time.monotonic() + self._config.timeout_s, self._reads_end_at))
        answer = self._call("GET", address)
        if isinstance(answer, _NoAnswer):
            out_of_time = time.monotonic() >= self._reads_end_at
            return ReadFailed("its reads took too long together" if out_of_time else answer.cause)
        if answer.status == 200:
            return _document(answer.body)
        if answer.status == 404:
            return NotFound()
        meaning = outcome.classify(answer.status, answer.headers, answer.body, self._wall_clock())
        if isinstance(meaning, Unauthorised | Throttled | Misconfigured):
            return meaning
        return ReadFailed(f"answered {answer.status}")

    def _call(self, method: str, address: str, body: bytes | None = None) -> _Answer | _NoAnswer:
        url = quote(address, safe=_KEPT_IN_ADDRESSES, errors="replace")
        try:
            with self._pool.stream(method, url, headers=self._headers, content=body) as response:
                return _whole(response)
        except _TooLateToSend:
            return _NoAnswer("not under way within a second of its attempt row", sent=False)
        except _CANNOT_ANSWER as problem:
            return _NoAnswer(type(problem).__name__, sent=self._line.sent)


def _whole(response: httpcore.Response) -> _Answer | _NoAnswer:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
    if headers.get("content-encoding", "identity") != "identity":
        return _NoAnswer("the answer is compressed though we did not ask for that", sent=True)
    content = bytearray()
    for chunk in response.iter_stream():
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            return _NoAnswer(f"the answer is larger than {MAX_BODY_BYTES} bytes", sent=True)
    return _Answer(response.status, headers, bytes(content))


def _document(body: bytes) -> _Document | ReadFailed:
    try:
        return _Document(json.loads(body))
    except (ValueError, RecursionError):
        return ReadFailed("the answer is not JSON")


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


# httpcore bounds each socket operation, not the call. Here every operation gets the time that is left of the
# whole call, and the line knows whether a byte of the request has been sent.


class _TooLateToSend(Exception):
    """The moment by which the first byte had to be out has passed."""


class _Line:
    """The call that is under way on this thread's connection."""

    def __init__(self) -> None:
        self.sent = False
        self._deadline = 0.0
        self._first_byte_by: float | None = None

    def begin(self, deadline: float, first_byte_by: float | None = None) -> None:
        self.sent = False
        self._deadline = deadline
        self._first_byte_by = first_byte_by

    def remaining(self, expired: type[Exception]) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise expired
        return left

    def before_write(self) -> None:
        if not self.sent and self._first_byte_by is not None and time.monotonic() > self._first_byte_by:
            raise _TooLateToSend


class _DeadlineStream(httpcore.NetworkStream):
    """A socket whose operations share the call's deadline."""

    def __init__(self, inner: httpcore.NetworkStream, line: _Line) -> None:
        self._inner = inner
        self._line = line

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._line.remaining(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._line.before_write()
        remaining = self._line.remaining(httpcore.WriteTimeout)
        self._line.sent = True
        self._inner.write(buffer, remaining)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        remaining = self._line.remaining(httpcore.ConnectTimeout)
        return _DeadlineStream(self._inner.start_tls(ssl_context, server_hostname, remaining), self._line)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _DeadlineBackend(httpcore.NetworkBackend):
    """Opens connections within the call's deadline."""

    def __init__(self, line: _Line) -> None:
        self._inner = httpcore.SyncBackend()
        self._line = line

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        remaining = self._line.remaining(httpcore.ConnectTimeout)
        stream = self._inner.connect_tcp(host, port, remaining, local_address, socket_options)
        return _DeadlineStream(stream, self._line)
