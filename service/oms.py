"""The one door to the OMS: every call has a total deadline, every answer is one value of a closed set."""

from __future__ import annotations

import json
import math
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from urllib.parse import urljoin, urlsplit

import httpcore
import httpx

from service import __version__, hooks, outcome
from service.config import OmnitronConfig, OmsConfig
from service.hooks import Hook
from service.outcome import (
    Ambiguous,
    BadShape,
    Command,
    CommandAnswer,
    Misconfigured,
    NotFound,
    NotSent,
    ReadFailed,
    Reading,
    Throttled,
    Unauthorised,
)
from service.snapshot import (
    Items,
    PackageSnapshot,
    TransitionLog,
    parse_items,
    parse_listed,
    parse_package,
    parse_transitions,
)
from service.wire import clean

MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_PAGES = 100
_MOST_FIELDS = 10
LOGIN_FAILED = "no token: the login failed"
# A command whose first byte is not out this long after its attempt row was committed is not sent at all.
FIRST_BYTE_WITHIN_S = 1.0
# LEASE_S is more than twice OMS_TIMEOUT_S, so the reads of one look end within its lease, however many there are.
READS_WITHIN_TIMEOUTS = 2

_CANNOT_ANSWER = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpx.InvalidURL,
    UnicodeEncodeError,  # a lone surrogate in the link to a next page
)
_KNOWN_CAUSES: Mapping[type[BaseException], str] = {
    socket.gaierror: "the name is not found",
    ssl.SSLCertVerificationError: "its certificate is not trusted",
    ssl.SSLError: "it does not speak TLS",
    ConnectionRefusedError: "nothing listens there",
}
# httpx would keep the one and send it back, and parse the other, raising where it is broken.
_NOT_FOR_HTTPX = (b"set-cookie", b"location")
_HEADERS = {
    "Accept": "application/json",
    # Compressed answers are refused: their size is not known before they are unpacked.
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": f"autoship/{__version__}",
}


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


@dataclass(frozen=True, slots=True)
class _Document:
    """The JSON of a 200."""

    content: object


Unread = NotFound | ReadFailed | Unauthorised | Throttled | Misconfigured


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
    """One page of the packages the OMS lists, and where the next one is. `unread`: rows that name no package."""

    packages: tuple[PackageSnapshot, ...]
    next_address: str | None
    unread: int


@dataclass(frozen=True, slots=True)
class HookSaved:
    """The OMS stored the webhook."""


@dataclass(frozen=True, slots=True)
class HookRefused:
    """It did not. `fields` are those it names; its words are left out, as they may quote what was sent."""

    status: int
    fields: tuple[str, ...] = ()

    @property
    def already_registered(self) -> bool:
        """dj-whisperer 0.5.3, resources/views.py: there is one for this address and event type."""
        return self.status == 406


class Oms:
    """A client for one thread: one connection, kept open between calls.

    Follows no redirects, verifies TLS, ignores proxies in the environment, keeps no cookies, sends the token to
    no other host.
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
        self._reads_end_at = math.inf
        self._client = _client(self._line)
        self.clock_ahead: timedelta | None = None
        """How far the OMS's clock was ahead of `wall_clock` at its last answer that told the time."""

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def read(self, package_id: int) -> Reading:
        """The package now: `GET /api/v1/oms/packages/{id}/`, commands page of the OMS guide.

        A package that does not carry its items is read again after them, so that its state is the last thing
        that was read. All of it, with the transition log asked for afterwards, ends within twice the timeout.
        """
        self._reads_end_at = time.monotonic() + READS_WITHIN_TIMEOUTS * self._config.timeout_s
        reading = self.read_alone(package_id)
        if not isinstance(reading, PackageSnapshot) or reading.items is not None:
            return reading
        items = self.read_items(package_id)
        if not isinstance(items, Items):
            return items
        again = self.read_alone(package_id)
        return replace(again, items=items) if isinstance(again, PackageSnapshot) else again

    def read_alone(self, package_id: int) -> Reading:
        """The package now, without its items where it does not carry them."""
        found = self._get(self._address(f"/api/v1/oms/packages/{package_id}/"))
        if not isinstance(found, _Document):
            return found
        snapshot = parse_package(package_id, found.content)
        return snapshot or BadShape("the answer is not a document of this package")

    def read_items(self, package_id: int) -> Items | Unread:
        """The package's items, from the list at `OMS_ITEMS_PATH`."""
        rows, counts = list[object](), list[object]()
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
            counts.append(page.get("count"))
            address = self._next(page.get("next"))
        count = counts[0]
        if not isinstance(count, int):
            return Items(parse_items(package_id, rows).items, "the item list does not say how many there are")
        if any(one != count for one in counts):  # what a page lost, the next one skipped
            return Items(parse_items(package_id, rows).items, "the item list changed while it was read")
        return parse_items(package_id, rows, count)

    def command(self, package_id: int, command: Command, first_byte_by: float | None = None) -> CommandAnswer:
        """Ship The Package without Shipment Integration, once: `POST …/packages/{id}/command/`, 204 on success.

        `first_byte_by` is a monotonic time; past it nothing is sent. Never retries.
        """
        address = self._address(f"/api/v1/oms/packages/{package_id}/command/")
        token = self._credentials.current()
        if token is None:
            return NotSent(LOGIN_FAILED)
        self._line.begin(time.monotonic() + self._config.timeout_s, first_byte_by)
        answer = self._call("POST", address, token, command.body(package_id))
        if isinstance(answer, _Answer):
            return outcome.classify(answer.status, answer.headers, answer.body, self._wall_clock())
        return Ambiguous(answer.cause) if answer.sent else NotSent(answer.cause)

    def transition_log(self, package_id: int) -> TransitionLog | BadShape | Unread:
        """The package's newest logged transitions, or why the log does not show them.

        It is optional evidence, and Akinon's pages ask another kind of token for it than for packages: where ours is
        refused, there is no login for another one.
        """
        page = self._get(self._address(self._config.logs_path.format(id=package_id)), renewing=False)
        if not isinstance(page, _Document):
            return page
        rows = page.content.get("results") if isinstance(page.content, Mapping) else None
        return parse_transitions(package_id, rows) if isinstance(rows, list) else BadShape("the log is not a list")

    def list_packed(self, query_or_address: str) -> ListPage | Reading:
        """One page of `GET /api/v1/oms/packages/`: by its query (`?…`), or at the address a page gave for the next."""
        address = query_or_address
        if address.startswith("?"):
            address = self._address("/api/v1/oms/packages/" + query_or_address)
        self._reads_end_at = math.inf
        found = self._get(address)
        if not isinstance(found, _Document):
            return found
        page = found.content
        rows = page.get("results") if isinstance(page, Mapping) else None
        if not isinstance(page, Mapping) or not isinstance(rows, list):
            return BadShape("the package list is not a list")
        packages = tuple(filter(None, map(parse_listed, rows)))
        link, following = page.get("next"), self._next(page.get("next"))
        if (rows and not packages) or (link and following is None):
            return BadShape("no row of the package list can be read, or its next page is on another host")
        return ListPage(packages, following, unread=len(rows) - len(packages))

    def registered_hooks(self) -> tuple[Hook, ...] | BadShape | Unread:
        """The webhooks that the token's user may see; read whole, as a filter could be ignored."""
        self._reads_end_at = math.inf
        rows: list[object] = []
        address: str | None = self._address(self._config.hooks_path)
        for _ in range(MAX_PAGES):
            if address is None:
                break
            found = self._get(address)
            if not isinstance(found, _Document):
                return found
            page = found.content if isinstance(found.content, Mapping) else {"results": found.content}
            listed = page.get("results")
            if not isinstance(listed, list):
                return BadShape("the list of webhooks is not a list")
            rows += listed
            if not page.get("next"):
                return hooks.parse(rows)
            address = self._next(page["next"])
        return BadShape("the list of webhooks goes on on another host or without end")

    def event_types(self) -> frozenset[str] | None:
        """The event types a webhook can be registered for, or None where the OMS does not list them."""
        found = self._get(self._address(self._config.hooks_path + "registry/"))
        names = found.content if isinstance(found, _Document) else None
        return frozenset(map(str, names)) if isinstance(names, list) else None

    def save_hook(self, values: Mapping[str, object], hook_id: int | None = None) -> HookSaved | HookRefused | Unread:
        """Registers a webhook, or changes these fields of one. Never retries."""
        path = self._config.hooks_path + ("" if hook_id is None else f"{hook_id}/")
        token = self._credentials.current()
        if token is None:
            return ReadFailed(LOGIN_FAILED)
        self._line.begin(time.monotonic() + self._config.timeout_s)
        answer = self._call("POST" if hook_id is None else "PATCH", self._address(path), token, values)
        if isinstance(answer, _NoAnswer):
            return ReadFailed(answer.cause)
        if answer.status in (200, 201):
            return HookSaved()
        if answer.status in (400, 406):
            return HookRefused(answer.status, _fields_named(answer.body))
        return self._unread(answer)

    def _address(self, path: str) -> str:
        return self._config.base_url + path

    def _next(self, link: object) -> str | None:
        """The next page's address if it is on the same scheme, host and port; it may be given as a path."""
        if not isinstance(link, str) or not link:
            return None
        try:
            address = urljoin(self._address("/"), link)
            same = _origin(address) == _origin(self._config.base_url)
            # A user in the address would take the place of the token.
            return address if same and urlsplit(address).username is None else None
        except ValueError:
            return None

    def _get(self, address: str, *, renewing: bool = True) -> _Document | Unread:
        """What is there; where the token is refused, asked once more with a new one if there is one to be had."""
        token = self._credentials.current()
        if token is None:
            return ReadFailed(LOGIN_FAILED)
        answer = self._get_once(address, token)
        refused = renewing and isinstance(answer, _Answer) and answer.status == 401
        if refused and (renewed := self._credentials.renew(token)) is not None:
            answer = self._get_once(address, renewed)
        if isinstance(answer, _NoAnswer):
            out_of_time = time.monotonic() >= self._reads_end_at
            return ReadFailed("its reads took too long together" if out_of_time else answer.cause)
        return _document(answer.body) if answer.status == 200 else self._unread(answer)

    def _unread(self, answer: _Answer) -> Unread:
        if answer.status == 404:
            return NotFound()
        meaning = outcome.classify(answer.status, answer.headers, answer.body, self._wall_clock())
        if isinstance(meaning, Unauthorised | Throttled | Misconfigured):
            return meaning
        return ReadFailed(f"answered {answer.status}")

    def _get_once(self, address: str, token: str) -> _Answer | _NoAnswer:
        self._line.begin(min(time.monotonic() + self._config.timeout_s, self._reads_end_at))
        return self._call("GET", address, token)

    def _call(
        self, method: str, address: str, token: str, body: Mapping[str, object] | None = None
    ) -> _Answer | _NoAnswer:
        headers = {"Authorization": f"{self._config.auth_scheme} {token}"}
        answer = _exchange(self._client, self._line, method, address, headers, body)
        if isinstance(answer, _Answer) and (told := outcome.moment_of(answer.headers.get("date", ""))) is not None:
            self.clock_ahead = told - self._wall_clock()
        return answer


def why_unread(reading: Reading) -> str:
    """Why a read showed no package, in words that hold nothing secret."""
    match reading:
        case ReadFailed():
            return reading.cause
        case Unauthorised():
            return f"it does not accept OMS_TOKEN here ({reading.status})"
        case Throttled():
            return f"it asks to wait {reading.retry_after.total_seconds():.0f} s (429)"
        case Misconfigured():
            return f"it answers with a redirect ({reading.status}); check OMS_BASE_URL"
        case BadShape():
            return reading.problem
        case _:
            return "it has no such thing (404)"


def log_in(config: OmnitronConfig, timeout_s: float) -> str | LoginFailed:
    """A token of Omnitron: `POST /api/i1/auth/login/`, integration guide. ASSUMED: the OMS accepts it.

    Akinon's own SDK (omnisdk 0.0.103) asks `/api/v1/auth/login/`; that is tried where the first is not there.
    """
    line = _Line()
    answer: _Answer | _NoAnswer = _NoAnswer("not asked", sent=False)
    with _client(line) as client:
        for path in ("/api/i1/auth/login/", "/api/v1/auth/login/"):
            line.begin(time.monotonic() + timeout_s)
            body = {"username": config.username, "password": config.password}
            answer = _exchange(client, line, "POST", config.base_url + path, {}, body)
            if not isinstance(answer, _Answer) or answer.status != 404:
                break
    if isinstance(answer, _NoAnswer):
        return LoginFailed(answer.cause)
    document = _document(answer.body)
    content = document.content if isinstance(document, _Document) else None
    token = content.get("key") if isinstance(content, Mapping) else None
    return token if isinstance(token, str) and token else LoginFailed(f"answered {answer.status} without a token")


def _client(line: _Line) -> httpx.Client:
    return httpx.Client(transport=_DeadlineTransport(line), trust_env=False, headers=_HEADERS)


def _exchange(
    client: httpx.Client,
    line: _Line,
    method: str,
    address: str,
    headers: Mapping[str, str],
    body: Mapping[str, object] | None,
) -> _Answer | _NoAnswer:
    try:
        with client.stream(method, address, headers=headers, json=body) as response:
            return _whole(response)
    except _TooLateToSend:
        return _NoAnswer("not under way within a second of its attempt row", sent=False)
    except _CANNOT_ANSWER as problem:
        return _NoAnswer(_in_words(problem), sent=line.sent)


def _in_words(problem: BaseException) -> str:
    """The kind of a failure and, where it is known, its cause; never what was sent or received."""
    kind, cause = type(problem).__name__, problem.__cause__ or problem.__context__
    while cause is not None:
        for known, words in _KNOWN_CAUSES.items():
            if isinstance(cause, known):
                return f"{kind}: {words}"
        cause = cause.__cause__ or cause.__context__
    return kind


def _whole(response: httpx.Response) -> _Answer | _NoAnswer:
    content = bytearray()
    for chunk in response.iter_raw():
        content += chunk
        if len(content) > MAX_BODY_BYTES:
            return _NoAnswer(f"the answer is larger than {MAX_BODY_BYTES} bytes", sent=True)
    if content and response.headers.get("content-encoding", "identity").lower() != "identity":
        if response.is_success:
            return _NoAnswer("the answer is compressed though we did not ask for that", sent=True)
        content.clear()  # any other status says by itself what is to be done
    return _Answer(response.status_code, response.headers, bytes(content))


def _document(body: bytes) -> _Document | ReadFailed:
    try:
        return _Document(json.loads(body))
    except (ValueError, RecursionError):
        return ReadFailed("the answer is not JSON")


def _fields_named(body: bytes) -> tuple[str, ...]:
    """The field names of an error body in Django REST framework's style."""
    document = _document(body)
    content = document.content if isinstance(document, _Document) else None
    return tuple(sorted(map(clean, content))[:_MOST_FIELDS]) if isinstance(content, Mapping) else ()


def _origin(address: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(address)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


# httpx and httpcore bound each socket operation, not the call. Here every operation gets the time that is left of the
# whole call, and the line knows whether a byte of the request has been sent.


class _TooLateToSend(Exception):
    """The moment by which the first byte had to be out has passed."""


class _Line:
    """The call that is under way on this thread's connection."""

    def __init__(self) -> None:
        self.sent = False
        self.answered = False
        """Whether anything was read since the last connection was made."""
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
        read = self._inner.read(max_bytes, self._line.remaining(httpcore.ReadTimeout))
        self._line.answered |= bool(read)
        return read

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
        self._last: str | None = None

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        *others, last = self._addresses(host, port)
        for number, address in enumerate(others):
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return self._connect(address, port, untried=len(others) + 1 - number)
        return self._connect(last, port, untried=1)

    def _addresses(self, host: str, port: int) -> list[str]:
        """All of the host's. That of the last connection comes first if it answered, else last.

        No command has the time to find out which one is dead.
        """
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as problem:
            raise httpcore.ConnectError from problem
        addresses = dict.fromkeys(str(one[4][0]) for one in found)
        return sorted(addresses, key=lambda address: (address == self._last) is not self._line.answered)

    def _connect(self, address: str, port: int, untried: int) -> httpcore.NetworkStream:
        share = self._line.remaining(httpcore.ConnectTimeout) / untried
        stream = self._inner.connect_tcp(address, port, share)
        self._last, self._line.answered = address, False
        return _DeadlineStream(stream, self._line)


class _DeadlineTransport(httpx.BaseTransport):
    """httpx over an httpcore pool of one connection with the backend above."""

    def __init__(self, line: _Line) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpcore.default_ssl_context(), max_connections=1, network_backend=_DeadlineBackend(line)
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
        headers = [one for one in response.headers if one[0].lower() not in _NOT_FOR_HTTPX]
        return httpx.Response(response.status, headers=headers, stream=_Body(response))

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
