"""The sandbox's stand-in OMS behind an HTTP server that keeps up with a benchmark; a process of its own.

It answers what `service.sandbox` answers, each after a given latency, and remembers what was asked when. `PUT /bench/`
begins anew with so many packed packages; `GET /bench/` tells what was asked since.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from service import sender
from service.sandbox import PACKED, Package, Request, Response, StandInOms
from tests.bench.load import ECHO_CONNECTIONS, request_bytes

BENCH = "/bench/"
PACKAGES = "/api/v1/oms/packages/"
# Else the sweep would find packages before their webhooks are sent.
NOTHING_LISTED = Response(200, b'{"count": 0, "next": null, "previous": null, "results": []}')

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Asked:
    """What was asked since the last beginning. Times are of the machine's clock, which all processes share."""

    calls: int = 0
    under_way: int = 0
    most_under_way: int = 0
    reads: list[tuple[int, float]] = field(default_factory=list)
    commands: list[tuple[int, float]] = field(default_factory=list)

    def note(self, request: Request) -> None:
        """A call about one package; the sweep's lists are not counted."""
        self.calls += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        package_id = int(request.path.removeprefix(PACKAGES).partition("/")[0])
        (self.commands if request.operation == "command" else self.reads).append((package_id, time.time()))


class Oms:
    """The packages, what was asked about them, and the webhooks that are still to be sent."""

    def __init__(self) -> None:
        self._senders: list[asyncio.Future[None]] = []
        self.begin({"packages": 0, "latency_s": 0.0, "echo": None})

    def begin(self, wanted: dict[str, Any]) -> None:
        """Forgets everything. `echo` is where to tell, as the real one does, that a package has left Packed."""
        self.asked = Asked()
        self.latency_s: float = wanted["latency_s"]
        self._echo: str | None = wanted["echo"]
        self._oms = StandInOms()
        self._oms.packages = {one: Package(one, PACKED, [PACKED]) for one in range(1, wanted["packages"] + 1)}
        self._webhooks: asyncio.Queue[bytes] = asyncio.Queue()
        for one in self._senders:
            one.cancel()
        self._senders = [asyncio.ensure_future(self._send()) for _ in range(ECHO_CONNECTIONS if self._echo else 0)]

    def answer(self, request: Request) -> Response:
        """What the sandbox answers; its webhooks are sent from here."""
        answer = self._oms.answer(request)
        if not isinstance(answer, Response):
            raise TypeError("the stand-in never misbehaves by itself")
        announced, self._oms.sent = self._oms.sent, []
        for sent in announced if self._echo else ():
            document = self._oms.document(self._oms.packages[sent.package_id])
            body = sender.encode(sent.event_type, sent.event_uuid, document)
            self._webhooks.put_nowait(request_bytes(sent.event_type, body))
        return answer

    async def _send(self) -> None:
        line: Line | None = None
        while True:
            webhook = await self._webhooks.get()
            try:
                line = await self._sent(webhook, line)
            except (ConnectionError, asyncio.IncompleteReadError):
                # It was closed meanwhile, as nothing had been sent for long.
                line = await self._sent(webhook, None)

    async def _sent(self, webhook: bytes, line: Line | None) -> Line:
        target = urlsplit(self._echo or "")
        reader, writer = line or await asyncio.open_connection(target.hostname, target.port)
        writer.write(webhook)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]))
        return reader, writer


class Connection(asyncio.Protocol):
    """One connection of HTTP/1.1, kept open; requests follow one another."""

    def __init__(self, oms: Oms) -> None:
        self._oms = oms
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
        if not end or len(rest) < length:
            return
        self._received = rest[length:]
        method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
        if target == BENCH:
            self._respond(self._bench(method, rest[:length]))
        else:
            token = head.partition(b"uthorization: ")[2].split(b"\r\n", 1)[0].decode()
            parts = urlsplit(target)
            self._begin(Request(method, parts.path, {}, token, rest[:length]))

    def _begin(self, request: Request) -> None:
        if not request.path.startswith(PACKAGES) or request.path == PACKAGES:
            self._respond(NOTHING_LISTED)
            return
        oms = self._oms
        oms.asked.note(request)
        if oms.latency_s:
            asyncio.get_running_loop().call_later(oms.latency_s, self._end, oms.asked, request)
        else:
            self._end(oms.asked, request)

    def _end(self, asked: Asked, request: Request) -> None:
        asked.under_way -= 1
        if asked is self._oms.asked and not self._transport.is_closing():
            self._respond(self._oms.answer(request))

    def _bench(self, method: str, body: bytes) -> Response:
        if method == "PUT":
            self._oms.begin(json.loads(body))
        return Response(200, json.dumps(vars(self._oms.asked)).encode())

    def _respond(self, response: Response) -> None:
        head = f"HTTP/1.1 {response.status} X\r\nContent-Type: application/json\r\nContent-Length: {len(response.body)}"
        self._transport.write(f"{head}\r\n\r\n".encode() + response.body)


async def serve(port: int) -> None:
    """Until it is killed."""
    oms = Oms()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(oms), "127.0.0.1", port, backlog=256)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
