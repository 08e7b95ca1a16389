"""The one door to the OMS: every call has a total deadline, every answer is one value of a closed set."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

import httpcore
import httpx

from service import __version__, outcome
from service.config import OmnitronConfig, OmsConfig
from service.outcome import Ambiguous, Command, CommandAnswer, Misconfigured, NotSent, Throttled, Unauthorised
from service.policy import BadShape, NotFound, ReadFailed, Reading
from service.snapshot import (
    Items,
    LoggedTransition,
    PackageSnapshot,
    parse_items,
    parse_listed,
    parse_package,
    parse_transitions,
)

MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_PAGES = 100
# A command whose first byte is not out this long after its attempt row was committed is not sent at all.
FIRST_BYTE_WITHIN_S = 1.0

_HEADERS = {
    "Accept": "application/json",
    # Compressed answers are refused: their size is not known before they are unpacked.
    "Accept-Encoding": "identity",
    "User-Agent": f"autoship/{__version__}",
}

_CANNOT_ANSWER = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpx.InvalidURL)


@dataclass(frozen=True, slots=True)
class _Answer:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _NoAnswer:
    """None, or not all of one. `sent`: at least one byte of the request had left."""

    cause: str
    sent: bool


class Credentials(Protocol):
    """Where the token comes from."""

    def current(self) -> str | None:
        """The token to send, or None where there is none to be had now."""

    def renew(self, rejected: str) -> str | None:
        """Another token than the one that was answered 401, or None."""


@dataclass(frozen=True, slots=True)
class FixedToken:
    """`OMS_TOKEN`: it is what it is."""

    token: str

    def current(self) -> str | None:
        """The configured token."""
        return self.token

    def renew(self, rejected: str) -> str | None:
        """There is no other one."""
        return None


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """Omnitron gave no token."""

    cause: str


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of the packages the OMS lists as Packed. `more`: the OMS says that another one follows."""

    packages: tuple[PackageSnapshot, ...]
    more: bool
    next_path: str | None


class Oms:
    """A client for one thread: one connection, kept open between calls.

    Follows no redirects, verifies TLS, ignores proxies in the environment, sends the token to no other host.
    """

    def __init__(
        self,
        config: OmsConfig,
        credentials: Credentials | None = None,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._config = config
        self._credentials = credentials or FixedToken(config.token)
        self._wall_clock = wall_clock
        self._line = _Line()
        self._client = httpx.Client(
            base_url=config.base_url,
            transport=_DeadlineTransport(self._line),
            trust_env=False,
            headers=_HEADERS,
        )

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def read(self, package_id: int) -> Reading:
        """The package now: `GET /api/v1/oms/packages/{id}/`, commands page of the OMS guide.

        A package that does not carry its items is read again after them, so that its state is the last thing
        that was read.
        """
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
        path = f"/api/v1/oms/packages/{package_id}/command/"
        answer = self._call("POST", path, command.body(package_id), first_byte_by)
        if isinstance(answer, _Answer):
            return outcome.classify(answer.status, answer.headers, answer.body, self._wall_clock())
        return Ambiguous(answer.cause) if answer.sent else NotSent(answer.cause)

    def transition_log(self, package_id: int) -> tuple[LoggedTransition, ...] | None:
        """The package's newest logged transitions, or None where the log does not answer.

        It is optional evidence: a token may well not be allowed to read it.
        """
        answer = self._call("GET", self._config.logs_path.format(id=package_id))
        page = _json_of(answer)
        rows = page.get("results") if isinstance(page, Mapping) else None
        return parse_transitions(package_id, rows) if isinstance(rows, list) else None

    def list_packed(self, path: str) -> ListPage | Reading:
        """One page of packages in Packed. Raises nothing; an unreadable row makes the page `BadShape`."""
        answer = self._call("GET", path)
        failed = self._failed(answer)
        if failed is not None:
            return failed
        page = _json_of(answer)
        rows = page.get("results") if isinstance(page, Mapping) else None
        if not isinstance(page, Mapping) or not isinstance(rows, list):
            return BadShape("the package list is not a list")
        packages = tuple(parse_listed(row) for row in rows)
        link, following = page.get("next"), self._next(page.get("next"))
        if None in packages or (link and following is None):
            return BadShape("a row of the package list cannot be read, or its next page is on another host")
        return ListPage(tuple(filter(None, packages)), bool(link), following)

    def _read_package(self, package_id: int) -> Reading:
        answer = self._call("GET", f"/api/v1/oms/packages/{package_id}/")
        failed = self._failed(answer)
        if failed is not None:
            return failed
        snapshot = parse_package(package_id, _json_of(answer))
        return snapshot or BadShape("the answer is not a document of this package")

    def _read_items(self, package_id: int) -> Items | Reading:
        rows: list[object] = []
        count: int | None = None
        path: str | None = self._config.items_path.format(id=package_id)
        for _ in range(MAX_PAGES):
            answer = self._call("GET", path)
            failed = self._failed(answer)
            if failed is not None:
                return failed
            page = _json_of(answer)
            if not isinstance(page, Mapping) or not isinstance(page.get("results"), list):
                return Items((), "the item list is not a list")
            rows += page["results"]
            count = page["count"] if isinstance(page.get("count"), int) else -1
            path = self._next(page.get("next"))
            if path is None:
                break
        return parse_items(package_id, rows, count)

    def _next(self, link: object) -> str | None:
        """The next page's address if it is on the same scheme, host and port; it may be given as a path."""
        if not isinstance(link, str) or not link:
            return None
        url = urljoin(self._config.base_url + "/", link)
        return url if _origin(url) == _origin(self._config.base_url) else None

    def _failed(self, answer: _Answer | _NoAnswer) -> Reading | None:
        if isinstance(answer, _NoAnswer):
            return ReadFailed(answer.cause)
        if answer.status == 200:
            return ReadFailed("the answer is not JSON") if _json_of(answer) is _NOT_JSON else None
        if answer.status == 404:
            return NotFound()
        meaning = outcome.classify(answer.status, answer.headers, answer.body, self._wall_clock())
        if isinstance(meaning, Unauthorised | Throttled | Misconfigured):
            return meaning
        return ReadFailed(f"answered {answer.status}")

    def _call(
        self, method: str, path: str | None, body: Mapping[str, Any] | None = None, first_byte_by: float | None = None
    ) -> _Answer | _NoAnswer:
        token = self._credentials.current()
        if token is None:
            return _NoAnswer("no token: the login failed", sent=False)
        answer = self._exchange(method, path, body, first_byte_by, token)
        # A command is not repeated here: each send has an attempt row of its own.
        if method == "GET" and isinstance(answer, _Answer) and answer.status == 401:
            renewed = self._credentials.renew(token)
            if renewed is not None:
                return self._exchange(method, path, body, first_byte_by, renewed)
        return answer

    def _exchange(
        self, method: str, path: str | None, body: Mapping[str, Any] | None, first_byte_by: float | None, token: str
    ) -> _Answer | _NoAnswer:
        self._line.begin(time.monotonic() + self._config.timeout_s, first_byte_by)
        headers = {"Authorization": f"{self._config.auth_scheme} {token}"}
        return _exchange(self._client, self._line, method, path or "", body, headers)


def log_in(config: OmnitronConfig, timeout_s: float) -> str | LoginFailed:
    """A token of Omnitron, which its other services accept: `POST /api/i1/auth/login/`, integration guide.

    Akinon's own SDK (omnisdk 0.0.103) asks `/api/v1/auth/login/`, tried where the first is not there.
    """
    line = _Line()
    answer: _Answer | _NoAnswer = _NoAnswer("not asked", sent=False)
    with httpx.Client(
        base_url=config.base_url, transport=_DeadlineTransport(line), trust_env=False, headers=_HEADERS
    ) as client:
        for path in ("/api/i1/auth/login/", "/api/v1/auth/login/"):
            line.begin(time.monotonic() + timeout_s, None)
            body = {"username": config.username, "password": config.password}
            answer = _exchange(client, line, "POST", path, body, {})
            if not isinstance(answer, _Answer) or answer.status != 404:
                break
    if isinstance(answer, _NoAnswer):
        return LoginFailed(answer.cause)
    document = _json_of(answer)
    token = document.get("key") if isinstance(document, Mapping) else None
    return token if isinstance(token, str) and token else LoginFailed(f"answered {answer.status} without a token")


def _exchange(
    client: httpx.Client,
    line: _Line,
    method: str,
    path: str,
    body: Mapping[str, Any] | None,
    headers: Mapping[str, str],
) -> _Answer | _NoAnswer:
    try:
        with client.stream(method, path, json=body, headers=headers) as response:
            if response.headers.get("content-encoding", "identity") != "identity":
                return _NoAnswer("the answer is compressed though we did not ask for that", sent=True)
            content = bytearray()
            for chunk in response.iter_raw():
                content += chunk
                if len(content) > MAX_BODY_BYTES:
                    return _NoAnswer(f"the answer is larger than {MAX_BODY_BYTES} bytes", sent=True)
            return _Answer(response.status_code, response.headers, bytes(content))
    except _TooLateToSend:
        return _NoAnswer("not under way within a second of its attempt row", sent=line.sent)
    except _CANNOT_ANSWER as problem:
        return _NoAnswer(type(problem).__name__, sent=line.sent)


_NOT_JSON = object()


def _json_of(answer: _Answer | _NoAnswer) -> object:
    if isinstance(answer, _NoAnswer) or answer.status != 200:
        return _NOT_JSON
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return _NOT_JSON


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None


# httpx and httpcore bound each socket operation, not the call. Here every operation gets the time that is left
# of the whole call, and the line knows whether a byte of the request has been sent.


class _TooLateToSend(Exception):
    """The moment by which the first byte had to be out has passed."""


class _Line:
    """The call that is under way on this thread's connection."""

    def __init__(self) -> None:
        self.sent = False
        self._deadline = 0.0
        self._first_byte_by: float | None = None

    def begin(self, deadline: float, first_byte_by: float | None) -> None:
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


class _DeadlineTransport(httpx.BaseTransport):
    """httpx over an httpcore pool of one connection with the backend above."""

    def __init__(self, line: _Line) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_connections=1,
            http1=True,
            retries=0,
            network_backend=_DeadlineBackend(line),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        response = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                content=request.stream,
            )
        )
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    """The answer's body as httpx wants it."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()
