"""Arbitrary bytes and headers: `python -m tests.reliability.fuzz --count 100000 --in-process 900000`.

Each case knows its pinned answer from how it was made. The real web process is asked over raw sockets, several
connections at a time, kept alive where the server keeps them; the rest goes through the WSGI application in this
process, which is faster. Afterwards: no answer but the pinned ones, as many deliveries seen as were answered 2xx,
and the memory is where it was.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from service import config as configuration
from service import logs, sender
from service.database import Database
from service.web import MAX_BODY_BYTES, create_app
from tests.conftest import MINIMAL, SECRET, a_document
from tests.reliability.web_process import PATH, WebProcess, connect, seen

SIGNATURE = b"X-Whisperer-Signature"
TENTHS = 10
WARM_UP_TENTHS = 5
MAX_GROWTH = 1.05


@dataclass(frozen=True)
class Case:
    """One request and the statuses its sender may be answered with."""

    name: str
    body: bytes
    expected: frozenset[int]
    headers: tuple[tuple[bytes, bytes], ...] = ()
    method: bytes = b"POST"
    target: bytes = PATH.encode()
    # What goes over the socket in place of the request as it would be written properly.
    raw: bytes | None = field(default=None, repr=False)

    def written(self) -> bytes:
        """The bytes of the request."""
        if self.raw is not None:
            return self.raw
        head = b"%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n" % (
            self.method,
            self.target,
            len(self.body),
        )
        return head + _lines(self.headers) + b"\r\n" + self.body

    def environ(self) -> dict[str, Any]:
        """The same as a WSGI server hands it over."""
        made = {
            "REQUEST_METHOD": self.method.decode(),
            "SCRIPT_NAME": "",
            "PATH_INFO": self.target.decode("latin-1").partition("?")[0],
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_LENGTH": str(len(self.body)),
            "wsgi.input": io.BytesIO(self.body),
            "wsgi.errors": sys.stderr,
            "wsgi.url_scheme": "http",
        }
        for name, value in self.headers:
            key = name.decode("latin-1").upper().replace("-", "_")
            key = key if key == "CONTENT_TYPE" else f"HTTP_{key}"
            made[key] = f"{made[key]},{value.decode('latin-1')}" if key in made else value.decode("latin-1")
        return made


# Bodies.

_VALUES = (
    b"0", b"-1", b"-0", b"1.0", b"1e400", b"true", b"null", b"[]", b"{}", b'""', b'"\\u0000"', b'"\\ud800"', b'"73"',
    b'"\xf0\x9f\x93\xa6"', b"9007199254740991", b"9007199254740992", str(2**70).encode(), b"9" * 4300, b"9" * 5000,
    b"-" + b"9" * 5000, b"NaN", b"Infinity", b"-Infinity", b'"' + b"x" * 5000 + b'"', b"\xff", b"01", b"'", b'"\x00"',
    b'{"enum_class": 5, "enum_value": {}}', b'{"enum_value": "5\\u000000"}', b'{"id": 1, "id": 2}', b"[" * 2000,
    b'{"enum_class": "\\udfff", "enum_value": "500"}', b'"' + "\u0130".encode() * 300 + b'"',
)  # fmt: skip
_SPOTS = (b"73", b'"500"', b'"PackageStatus"', b'"package.status.packed"', b'"payload"', b'"event"')
_ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "utf-7")
_NESTINGS = (b"[", b'{"a":', b'[{"":')


def _document(rng: random.Random) -> bytes:
    made = a_document(rng.choice((73, rng.randrange(1, 2**53))), uuid=f"{rng.randrange(5000):032x}")
    return json.dumps(made, ensure_ascii=rng.random() < 0.5).encode()


def _with_hostile_values(rng: random.Random) -> bytes:
    body = _document(rng)
    for spot in rng.sample(_SPOTS, rng.randrange(1, 3)):
        body = body.replace(spot, rng.choice(_VALUES))
    return body


def _mutated(rng: random.Random) -> bytes:
    body = bytearray(_document(rng))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(body))
        kept = rng.choice((0, 1, rng.randrange(9)))
        body[at : at + kept] = rng.choice((b"", rng.randbytes(1), b'"', b"\\", b"{", bytes(body[:at])))
        body = body or bytearray(b" ")
    return bytes(body)


def _nested(rng: random.Random) -> bytes:
    opening = rng.choice(_NESTINGS)
    depth = rng.choice((900, 1100, 5000))
    closing = opening.replace(b'"a":', b"").translate(bytes.maketrans(b"[{", b"]}"))[::-1]
    return opening * depth + rng.choice((b"1", b"")) + closing.replace(b'""', b"").replace(b":", b"") * depth


def _large(rng: random.Random) -> bytes:
    inner = b"x" * rng.choice((64 * 1024, MAX_BODY_BYTES - 2, MAX_BODY_BYTES - 1, MAX_BODY_BYTES * 2))
    return rng.choice((b'"' + inner + b'"', b"[" * 200_000, b"[" * 200_000 + b"]" * 200_000))


_BODIES: tuple[tuple[float, Callable[[random.Random], bytes]], ...] = (
    (30, _mutated),
    (30, _with_hostile_values),
    (20, lambda rng: rng.randbytes(rng.randrange(200))),
    (10, _document),
    (6, lambda rng: _document(rng).decode().encode(rng.choice(_ENCODINGS), "replace")),
    (3, _nested),
    (0.1, _large),
)


def status_of(body: bytes) -> int:
    """The pinned answer to an authentic body: 202 for all that RFC 8259 allows."""
    try:
        # However many digits a number has, it is JSON.
        json.loads(body.decode("utf-8"), parse_constant=_no_constant, parse_int=len)
    except (ValueError, ArithmeticError):
        return 400
    except RecursionError:
        return 202  # our limit, not the sender's mistake
    return 202


def _no_constant(_: str) -> None:
    raise ArithmeticError


# Requests whose head is in order.


def an_authentic_case(rng: random.Random, body: bytes) -> Case:
    """Signed; what the body says decides, and before it the media type."""
    media_type, status = rng.choice(_MEDIA_TYPES)
    headers = ((SIGNATURE, sender.sign(SECRET, body).encode()), (b"Content-Type", media_type))
    expected = 413 if len(body) > MAX_BODY_BYTES else status or status_of(body)
    target = rng.choice((PATH, PATH, PATH, PATH + "/", PATH + "?a=%00")).encode()
    return Case("authentic", body, frozenset({expected}), headers, target=target)


def an_unsigned_case(rng: random.Random, body: bytes) -> Case:
    """Not signed, or wrongly: 401 whatever else is wrong with it, unless it is too large."""
    right = sender.sign(SECRET, body).encode()
    headers = rng.choice(
        (
            (),
            ((SIGNATURE, b""),),
            ((SIGNATURE, right), (SIGNATURE, right)),
            ((SIGNATURE, right.upper()),),
            ((SIGNATURE, right[:-1]),),
            ((SIGNATURE, right + b"\xe9"),),
            ((SIGNATURE, rng.choice((b"sha1=", b"", b"sha256=")) + bytes(rng.choices(range(0x80, 0x100), k=64))),),
            ((SIGNATURE, sender.sign("another", body).encode()),),
            ((b"X-Whisperer-Event", bytes(rng.choices(range(0x20, 0x7F), k=30))), (b"Cookie", b"a=\xff")),
        )
    )
    return Case("unsigned", body, frozenset({413} if len(body) > MAX_BODY_BYTES else {401}), headers)


def an_elsewhere_case(rng: random.Random, body: bytes) -> Case:
    """Another method or path."""
    if rng.random() < 0.5:
        method = rng.choice((b"GET", b"HEAD", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"PROPFIND"))
        return Case("method", body[:1000], frozenset({405}), method=method)
    return Case("path", body[:1000], frozenset({404}), target=rng.choice(_ELSEWHERE))


_MEDIA_TYPES = (
    *((b"application/json", 0),) * 6,
    (b"", 0),
    (b"application/vnd.api+json; charset=utf-16", 0),
    (b"text/plain", 415),
    (b"application/x-www-form-urlencoded", 415),
    (b"multipart/form-data; boundary=x", 415),
    (b"application/json\xe9", 415),
)
_ELSEWHERE = (
    b"/", b"/webhooks//oms/packages", b"/webhooks/oms/packages//", b"/WEBHOOKS/OMS/PACKAGES",
    b"/webhooks/oms/packages/73", b"/webhooks/oms", b"/static/x", b"/api/v1/status", b"/metrics", b"/%ff%fe", b"/..",
    b"/webhooks/oms/../oms/packages",
)  # fmt: skip

# Requests that a proper client does not write.

_BAD = frozenset({400})


def a_malformed_case(rng: random.Random, body: bytes) -> Case:
    """A request line, a header or a framing that is none: 400, or no answer where it never ends."""
    name, raw = rng.choice(_malformed(rng, body[:2000], sender.sign(SECRET, body[:2000]).encode()))
    return Case(name, b"", _BAD, raw=raw)


def _malformed(rng: random.Random, body: bytes, signature: bytes) -> tuple[tuple[str, bytes], ...]:
    post = b"POST " + PATH.encode() + b" HTTP/1.1\r\nHost: localhost\r\n" + _lines(((SIGNATURE, signature),))
    chunked = post + b"Transfer-Encoding: chunked\r\n"
    chunk = b"%x\r\n%s\r\n" % (len(body) + 1, body + b" ")
    junk = bytes(rng.choices(range(1, 0x100), k=40)).replace(b"\n", b"").replace(b"\r", b"")
    length = rng.choice((b"-1", b"+5", b"1e3", b"0x5", b"5, 6", b"\xb2"))
    coding = rng.choice((b"gzip", b"chunked, gzip", b"xchunked"))
    size = rng.choice((b"-1", b"g", b"0x5", b"", b" 5", b"5;\r\r"))
    return (
        ("request line", b"\x16\x03\x01" + junk + b"\r\n\r\n"),
        ("version", b"POST " + PATH.encode() + b" HTTP/9.9\r\n\r\n"),
        ("long line", b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n"),
        ("header name", post + b"X\x00(" + junk + b": 1\r\n\r\n"),
        ("header value", post + b"X-A: a\x00b\r\n\r\n"),
        ("folded", post + b"X-A: a\r\n b\r\n\r\n"),
        ("many headers", post + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n"),
        ("long header", post + b"X-A: " + b"a" * 9000 + b"\r\n\r\n"),
        ("length", post + b"Content-Length: " + length + b"\r\n\r\n"),
        ("two lengths", post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345"),
        ("length and chunks", chunked + b"Content-Length: 5\r\n\r\n0\r\n\r\n"),
        ("coding", post + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n"),
        ("expectation", post + b"Content-Length: 0\r\nExpect: " + rng.choice((b"tea", b"100-continued")) + b"\r\n\r\n"),
        ("chunk size", chunked + b"\r\n" + size + b"\r\n12345\r\n0\r\n\r\n"),
        ("chunk end", chunked + b"\r\n" + chunk[:-2] + b"xx0\r\n\r\n"),
        ("trailer", chunked + b"\r\n" + chunk + b"0\r\nX\x00(: 1\r\n\r\n"),
        ("cut off", post + b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body),
        ("cut off in a chunk", chunked + b"\r\n" + chunk[:-3]),
    )  # fmt: skip


def a_chunked_case(rng: random.Random, body: bytes) -> Case:
    """An authentic body in pieces, perhaps asking first."""
    pieces, rest = [], body
    while rest:
        size = rng.randrange(1, max(2, len(body)))
        pieces.append(b"%x%s\r\n%s\r\n" % (len(rest[:size]), rng.choice((b"", b";a=b")), rest[:size]))
        rest = rest[size:]
    case = an_authentic_case(rng, body)
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" % case.target
    head += _lines(case.headers) + rng.choice((b"", b"Expect: 100-continue\r\n"))
    return replace(case, name="chunked", raw=head + b"\r\n" + b"".join(pieces) + b"0\r\n\r\n")


def a_body(rng: random.Random) -> bytes:
    """Arbitrary bytes, most of them near to JSON that is near to a delivery."""
    return rng.choices([make for _, make in _BODIES], [weight for weight, _ in _BODIES])[0](rng)


def a_case(rng: random.Random, *, over_sockets: bool) -> Case:
    """One request of any kind."""
    makers = [an_authentic_case, an_unsigned_case, an_elsewhere_case, a_chunked_case, a_malformed_case]
    weights = [30, 40, 10, 10, 10] if over_sockets else [30, 60, 10, 0, 0]
    return rng.choices(makers, weights)[0](rng, a_body(rng))


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join(b"%s: %s\r\n" % header for header in headers)


# Asking.


class Tally:
    """What was answered, and what should not have been."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    def count(self, case: Case, status: int) -> None:
        self.statuses[status] += 1
        if status not in case.expected:
            self.wrong.append(f"{status} for {case}"[:2000])

    @property
    def accepted(self) -> int:
        return sum(count for status, count in self.statuses.items() if 200 <= status < 300)


class Client:
    """One client over raw sockets, which keeps its connection for as long as the server does."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: socket.socket | None = None
        self._answers: Any = None

    def ask(self, case: Case) -> int:
        """The status of the answer; 0 where there was none.

        A server may close a kept connection at any time: then the client asks again on a new one.
        """
        kept = self._connection is not None
        status, closes = self._ask(case)
        if status == 0 and kept:
            self.close()
            status, closes = self._ask(case)
        if closes:
            self.close()
        return status

    def _ask(self, case: Case) -> tuple[int, bool]:
        if self._connection is None:
            self._connection = connect(self._port, timeout_s=30)
            self._answers = self._connection.makefile("rb")
        # A server that has refused already may take no more; its answer is there to be read.
        with suppress(ConnectionError):
            self._connection.sendall(case.written())
            if case.name.startswith("cut off"):
                self._connection.shutdown(socket.SHUT_WR)
        try:
            return self._answer(case)
        except ConnectionError:
            return 0, True

    def _answer(self, case: Case) -> tuple[int, bool]:
        status, headers = self._head()
        if status == 100:
            status, headers = self._head()
        if case.method != b"HEAD":
            self._answers.read(int(headers.get(b"content-length", 0)))
        return status, headers.get(b"connection", b"close").lower() == b"close"

    def _head(self) -> tuple[int, dict[bytes, bytes]]:
        line = self._answers.readline()
        headers: dict[bytes, bytes] = {}
        if not line:
            return 0, headers
        while header := self._answers.readline().strip():
            name, _, value = header.partition(b":")
            headers[name.lower()] = value.strip()
        return int(line.split()[1]), headers

    def close(self) -> None:
        if self._connection is not None:
            self._answers.close()
            self._connection.close()
        self._connection = None


def over_sockets(port: int, seed: int, count: int, clients: int = 4) -> Tally:
    """Asks the web process, from several clients at once."""
    tallies = [Tally() for _ in range(clients)]

    def run(number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        client = Client(port)
        for _ in range(count // clients):
            case = a_case(rng, over_sockets=True)
            tallies[number].count(case, client.ask(case))
        client.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _sum(tallies)


def in_process(database: Database, seed: int, count: int) -> Tally:
    """Asks the application in this process."""
    config = configuration.load({**MINIMAL, "DATABASE_URL": "sqlite:///unused.db"})
    app = create_app(config, database)
    rng = random.Random(seed)
    tally = Tally()
    answered: list[int] = []

    def start_response(status: str, *_: object) -> None:
        answered.append(int(status[:3]))

    for _ in range(count):
        case = a_case(rng, over_sockets=False)
        b"".join(app(case.environ(), start_response))  # type: ignore[arg-type]
        tally.count(case, answered.pop())
    return tally


def _sum(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.statuses += tally.statuses
        total.wrong += tally.wrong
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--count", type=int, default=100_000, help="requests over sockets")
    parser.add_argument("--in-process", type=int, default=0, help="requests through the application in this process")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        failed = [
            ask(Path(folder), options)
            for ask, count in ((_sockets, options.count), (_application, options.in_process))
            if count
        ]
    sys.exit(int(any(failed)))


def _sockets(folder: Path, options: argparse.Namespace) -> bool:
    web = WebProcess(f"sqlite:///{folder}/sockets.db", folder / "web.log", LOG_LEVEL="ERROR")
    try:
        began = time.monotonic()
        pids, tallies, resident = web.worker_pids(), [], []
        for number in range(TENTHS):
            tallies.append(over_sockets(web.port, options.seed * TENTHS + number, options.count // TENTHS))
            resident.append(web.resident_bytes())
        failed = _report("over sockets", _sum(tallies), seen(web.database), time.monotonic() - began)
        growth = resident[-1] / resident[WARM_UP_TENTHS - 1]
        print(f"memory after each tenth, MiB: {[bytes_ >> 20 for bytes_ in resident]}; × {growth:.3f} since warm")
        print(f"same worker: {pids == web.worker_pids()}; its log: {web.log.read_text(encoding='utf-8')[-2000:]!r}")
        return failed or growth > MAX_GROWTH or pids != web.worker_pids()
    finally:
        web.close()


def _application(folder: Path, options: argparse.Namespace) -> bool:
    url = f"sqlite:///{folder}/in-process.db"
    logs.configure(configuration.load({**MINIMAL, "DATABASE_URL": url, "LOG_LEVEL": "ERROR", "LOG_FORMAT": "json"}))
    database = Database(url)
    database.migrate(MINIMAL["OMS_BASE_URL"])
    began = time.monotonic()
    tally = in_process(database, options.seed, options.in_process)
    took_s = time.monotonic() - began
    failed = _report("in process", tally, seen(database), took_s)
    database.dispose()
    return failed


def _report(where: str, tally: Tally, seen: int, took_s: float) -> bool:
    count = tally.statuses.total()
    print(f"{where}: {count} requests in {took_s:.0f} s: {dict(sorted(tally.statuses.items()))}", flush=True)
    print(f"{where}: {len(tally.wrong)} not as pinned; {seen} seen, {tally.accepted} answered 2xx", flush=True)
    for wrong in tally.wrong[:20]:
        print(f"  {wrong}")
    return bool(tally.wrong) or seen != tally.accepted


if __name__ == "__main__":
    main()
