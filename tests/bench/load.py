"""Sends signed webhooks as fast as they are answered, or at a rate, and tells how long each answer took.

A process of its own: python -m tests.bench.load PLAN, where PLAN is a `Plan` as JSON; prints a `Told` as JSON. All
requests are made and signed beforehand, and the connections are open.
"""

from __future__ import annotations

import itertools
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from service import sender
from service.sandbox import PACKED, READY, SANDBOX_SECRET, Package, StandInOms

CONNECTIONS = 8
ECHO_CONNECTIONS = 4
PATH = "/webhooks/oms/packages"
_ITEMS = 25
_PRODUCT = {"id": 4711, "name": "Cotton shirt, long sleeves", "sku": "1KSU10", "base_code": "1KSU", "attributes": {}}
_WARM_UP = 50
_FIRST_WARM_UP_ID = 10**9


@dataclass(frozen=True, slots=True)
class Plan:
    """Which packages to announce as packed. `rate_per_s` 0: the next as soon as the last one is answered.

    `repeated_every` 10: one in ten is sent twice, as the sender does where an answer was lost. `asks_oms`: at the port
    is the stand-in OMS, which is asked for the packages instead.
    """

    port: int
    packages: int
    rate_per_s: float = 0.0
    repeated_every: int = 0
    asks_oms: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """`sent_at` and `took_s` by the order of sending; with a rate, an answer's time counts from when it was due."""

    began_at: float
    ended_at: float
    sent_at: dict[int, float]
    took_s: list[float]
    failed: int
    share_of_a_core: float


def request_bytes(event_type: str, body: bytes) -> bytes:
    """The request as the OMS's sender writes it, on a connection that stays open."""
    headers = {"Host": "127.0.0.1", "Content-Length": str(len(body))}
    lines = [f"{name}: {value}" for name, value in (headers | sender.headers(event_type, body, SANDBOX_SECRET)).items()]
    return "\r\n".join([f"POST {PATH} HTTP/1.1", *lines, "", ""]).encode() + body


def delivery(package_id: int, state: str = PACKED) -> bytes:
    """A webhook of 8 KB about a package, most of it what the OMS tells of the items."""
    document = StandInOms().document(Package(package_id, state, [state] * _ITEMS))
    for item in document["packageitem_set"]:
        item |= {"price": "129.90", "quantity": 1, "product": _PRODUCT}
    return request_bytes(
        "package.status.packed", sender.encode("package.status.packed", f"{package_id:032x}", document)
    )


def _question(package_id: int) -> bytes:
    token = StandInOms().token
    return f"GET /api/v1/oms/packages/{package_id}/ HTTP/1.1\r\nAuthorization: Token {token}\r\n\r\n".encode()


def run(plan: Plan) -> Told:
    """Sends it all."""
    lines = [_Line(plan.port) for _ in range(CONNECTIONS)]
    for line, package_id in zip(itertools.cycle(lines), range(0 if plan.asks_oms else _WARM_UP), strict=False):
        line.send(delivery(_FIRST_WARM_UP_ID + package_id, READY))
    made = _question if plan.asks_oms else delivery
    requests = [(package_id, made(package_id)) for package_id in _order(plan)]
    turns, sent_at, took_s = itertools.count(), dict[int, float](), list[float]()
    statuses: list[int] = []
    began_at, began = time.time(), time.monotonic()

    def work(line: _Line) -> None:
        while (turn := next(turns)) < len(requests):
            package_id, request = requests[turn]
            due = began + turn / plan.rate_per_s if plan.rate_per_s else time.monotonic()
            time.sleep(max(0.0, due - time.monotonic()))
            sent_at.setdefault(package_id, time.time())
            statuses.append(line.send(request))
            took_s.append(time.monotonic() - due)

    busy_s = time.process_time()
    threads = [threading.Thread(target=work, args=(line,)) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    share = (time.process_time() - busy_s) / (time.monotonic() - began)
    return Told(began_at, time.time(), sent_at, took_s, sum(not 200 <= one < 300 for one in statuses), share)


def _order(plan: Plan) -> Iterator[int]:
    for package_id in range(1, plan.packages + 1):
        yield package_id
        if plan.repeated_every and package_id % plan.repeated_every == 0:
            yield package_id


class _Line:
    """One connection, kept open. `http.client` would cost several times as much."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> int:
        """The answer's status."""
        self._socket.sendall(request)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._some()
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        while len(body) < length:
            body += self._some()
        return int(head[9:12])

    def _some(self) -> bytes:
        some = self._socket.recv(65536)
        if not some:
            raise ConnectionError("the connection was closed")
        return some


if __name__ == "__main__":
    print(json.dumps(asdict(run(Plan(**json.loads(sys.argv[1]))))))
