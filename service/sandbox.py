"""A stand-in OMS on loopback: packages, items, commands, transition logs, and webhooks sent as the real one does.

It behaves as Akinon's documentation and its sender library (dj-whisperer 0.5.3) say, knows nothing of how we decide,
and keeps a ledger of what it was asked and what it applied, so that it can judge.
"""

from __future__ import annotations

import base64
import json
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from queue import Empty, PriorityQueue
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

from service import sender

PACKED, READY, CANCELLED = "500", "400", "990"
SANDBOX_SECRET = "sandbox-webhook-secret"
SANDBOX_RULES = """\
# The sandbox's rules: packages of the marketplace are shipped by the marketplace.
default = "ship"

[[rule]]
name = "marketplace ships its own"
when = {channel_name = ["Marketplace"]}
action = "skip"
"""
_LOGINS = ("/api/i1/auth/login/", "/api/v1/auth/login/")
_PACKAGES = "/api/v1/oms/packages/"
_ITEMS = "/api/v1/oms/packages/package-items/"
_LOGS = "/api/v1/oms/state-transition-logs/"
_HOOKS = "/whisperer/hooks/"
# dj-whisperer names no types of its own; these are the OMS's.
_EVENT_TYPES = (
    "package.created",
    "package.status.transitioned",
    "package.status.packed",
    "package.status.cancelled",
    "package.status.shipped",
    "package.status.packed_for_refund",
    "package.shipment.awb_number",
    "package.refused",
)
_PACKAGE_STATUS, _ITEM_STATUS = "PackageStatus", "PackageItemStatus"
_MOST_RETRIES = 10
# A webhook as its registration shows it.
_Hook = Mapping[str, Any]


@dataclass(slots=True)
class Package:
    """A package of the stand-in. `lag` counts the commands Omnitron will still refuse for it."""

    package_id: int
    state: str
    items: list[str]
    channel_name: str = "Shop"
    lag: int = 0
    modified_at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    token: str
    body: bytes

    @property
    def operation(self) -> str:
        """Which service is asked: Omnitron's login, or the OMS's list, read, items, log, command or hooks."""
        if self.path.startswith(_HOOKS):
            return "hooks"
        if self.method == "POST":
            return "login" if self.path in _LOGINS else "command"
        if self.path.startswith(_LOGS):
            return "log"
        if self.path.startswith(_ITEMS):
            return "items"
        return "list" if self.path == _PACKAGES else "read"


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received:
    """One line of the ledger: a request and what it was answered."""

    operation: str
    package_id: int | None
    body: bytes
    status: int


@dataclass(frozen=True, slots=True)
class Applied:
    """One line of the ledger: a package moved."""

    package_id: int
    old: str
    new: str
    by_command: bool


@dataclass(slots=True)
class Sent:
    """One event of the sender."""

    event_uuid: str
    event_type: str
    package_id: int
    document: Mapping[str, Any] | None = None


@dataclass(kw_only=True)
class StandInOms:
    """The OMS. All methods may be called from any thread.

    What the documentation leaves open is made up: error bodies, the state after Packed, what stands in `commands`.
    `duplicates` is the share of events sent again under their uuid, `doubles` that under a fresh one.
    """

    token: str = "sandbox-token"
    password: str = "sandbox-password"
    transition_id: int = 12
    slug: str = "ship-without-integration"
    shipped: str = ""
    inline_items: bool = True
    page_size: int = 20
    duplicates: float = 0.0
    doubles: float = 0.0
    rng: random.Random = field(default_factory=random.Random)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        # Nobody outside can know beforehand which number means shipped.
        self.shipped = self.shipped or str(self.rng.choice([n for n in range(510, 900, 10) if n not in (550, 600)]))
        self.packages: dict[int, Package] = {}
        self.logs: list[dict[str, Any]] = []
        self.received: list[Received] = []
        self.applied: list[Applied] = []
        self.sent: list[Sent] = []
        self.hooks: dict[int, dict[str, Any]] = {}
        self._lock = threading.RLock()
        self._sender: _Sender | None = None
        self._for_all: _Hook | None = None

    # People at work in the OMS.

    def create(self, package_id: int, items: Iterable[str] = ("100",), **changes: Any) -> Package:
        """A new package, announced by package.created."""
        with self._lock:
            package = Package(package_id, changes.pop("state", READY), list(items), **changes)
            package.modified_at = self.clock()
            self.packages[package_id] = package
            self._announce(package, "package.created")
            return package

    def pack(self, package_id: int, items: Iterable[str] | None = None) -> None:
        """Moves a package to Packed, and its items unless they are given."""
        package = self.packages[package_id]
        new = list(items) if items is not None else [PACKED] * len(package.items)
        self._move(package_id, PACKED, new, "package.status.packed")

    def set_items(self, package_id: int, items: Iterable[str]) -> None:
        """Changes items without any webhook."""
        with self._lock:
            self.packages[package_id].items = list(items)
            self.packages[package_id].modified_at = self.clock()

    def cancel(self, package_id: int) -> None:
        """Cancels a package."""
        self._move(package_id, CANCELLED, None, "package.status.cancelled")

    def ship_by_hand(self, package_id: int) -> None:
        """A person presses Ship."""
        items = [self.shipped] * len(self.packages[package_id].items)
        self._move(package_id, self.shipped, items, "package.status.shipped", self.transition_id + 1)

    # The service.

    def answer(self, request: Request) -> Response | Callable[[socket.socket], None]:
        """Answers one request, or says what to do to the bare connection. Tests wrap this to misbehave."""
        if request.operation == "login":
            return self._log_in(request)
        if request.token != f"Token {self.token}":
            return _json(401, {"detail": "Invalid token."})
        with self._lock:
            match request.operation:
                case "command":
                    return self._command(request)
                case "log":
                    return self._page(request, self._log_rows(request))
                case "items":
                    return self._page(request, self._item_rows(request))
                case "list":
                    return self._page(request, self._package_rows(request))
                case "hooks":
                    return self._hooks(request)
                case _:
                    package = self.packages.get(_id_in(request.path) or 0)
                    return _json(200, self.document(package)) if package else _json(404, {"detail": "Not found."})

    def note(self, request: Request, status: int) -> None:
        """Writes the ledger's line for a request that was answered; status 0 for one that was not."""
        with self._lock:
            self.received.append(Received(request.operation, _id_in(request.path), request.body, status))

    def document(self, package: Package) -> dict[str, Any]:
        """The package as the package service and the webhook show it; the customer is made up."""
        offered = [{"id": 7, "transition": self.transition_id, "slug": self.slug, "name": "Ship"}]
        document: dict[str, Any] = {
            "id": package.package_id,
            "city": "\u0130stanbul",
            "state": _state(package.state, _PACKAGE_STATUS),
            "number": f"{package.package_id:09}",
            "commands": offered if package.state == PACKED else [],
            "shipment": None,
            "order_notes": "Leave it with Zeynep Canary, +90 555 000 00 00",
            "channel_name": package.channel_name,
            "order_number": f"{package.package_id:011}",
            "payment_type": "credit_card",
            "modified_date": _stamp(package.modified_at),
            "invoice_number": None,
            "stock_location": {"id": 1, "erp_code": "369", "address": {"line": "Canary Street 1"}},
        }
        if self.inline_items:
            document["packageitem_set"] = self._items_of(package)
        return document

    def _log_in(self, request: Request) -> Response:
        if json.loads(request.body) != {"username": "autoship", "password": self.password}:
            return _json(400, {"non_field_errors": ["Unable to log in with provided credentials."]})
        return _json(200, {"key": self.token})

    def _command(self, request: Request) -> Response:
        package = self.packages.get(_id_in(request.path) or 0)
        if package is None:
            return _json(404, {"detail": "Not found."})
        body = _object(request.body)
        named = body.get("transition") == self.transition_id or body.get("slug") == self.slug
        if not named or body.get("package") != package.package_id:
            return _json(400, {"non_field_errors": ["Unknown transition."], "code": "transition_100_1"})
        if package.state != PACKED or set(package.items) != {PACKED}:
            return _json(406, {"code": "package_100_3", "en": "This command cannot run in this state."})
        if package.lag > 0:
            package.lag -= 1
            return _json(400, {"non_field_errors": ["Item statuses differ on Omnitron."], "code": "transition_100_2"})
        self.apply(package.package_id)
        return Response(204)

    def apply(self, package_id: int) -> None:
        """The command's effect."""
        items = [self.shipped] * len(self.packages[package_id].items)
        self._move(package_id, self.shipped, items, "package.status.shipped", self.transition_id)

    def _move(
        self, package_id: int, new: str, items: list[str] | None, event_type: str | None, transition: int | None = None
    ) -> None:
        with self._lock:
            package = self.packages[package_id]
            self.applied.append(Applied(package_id, package.state, new, by_command=transition == self.transition_id))
            command = None if transition is None else {"slug": "PKG_STATE_TRANSITION", "transition_id": transition}
            entry = {
                "id": len(self.logs) + 1,
                "old_state": _state(package.state, _PACKAGE_STATUS),
                "new_state": _state(new, _PACKAGE_STATUS),
                "user": None,
                "attributes": {"command": command} if command else None,
                "created_date": _stamp(self.clock()),
                "object_id": package_id,
                "content_type": 26,
            }
            self.logs.append(entry)
            package.state, package.modified_at = new, self.clock()
            if items is not None:
                package.items = items
            self._announce(package, "package.status.transitioned")
            if event_type is not None:
                self._announce(package, event_type)

    def _items_of(self, package: Package) -> list[dict[str, Any]]:
        return [
            {"id": package.package_id * 100 + n, "state": _state(value, _ITEM_STATUS), "package": package.package_id}
            for n, value in enumerate(package.items)
        ]

    def _item_rows(self, request: Request) -> list[dict[str, Any]]:
        wanted = request.query.get("package")
        chosen = [p for p in self.packages.values() if wanted is None or str(p.package_id) == wanted]
        return [item for package in chosen for item in self._items_of(package)]

    def _log_rows(self, request: Request) -> list[dict[str, Any]]:
        wanted = request.query.get("object_id")
        return [entry for entry in reversed(self.logs) if wanted is None or str(entry["object_id"]) == wanted]

    def _package_rows(self, request: Request) -> list[dict[str, Any]]:
        state, above = request.query.get("state__enum_value"), int(request.query.get("id__gt", 0))
        chosen = [p for p in self.packages.values() if state in (None, p.state) and p.package_id > above]
        return [self.document(package) for package in sorted(chosen, key=lambda p: p.package_id)]

    def _page(self, request: Request, rows: list[dict[str, Any]]) -> Response:
        number, size = int(request.query.get("page", 1)), self.page_size
        following = "&".join(f"{k}={v}" for k, v in {**request.query, "page": str(number + 1)}.items())
        more = number * size < len(rows)
        page = {
            "count": len(rows),
            "next": f"{request.path}?{following}" if more else None,
            "previous": None,
            "results": rows[(number - 1) * size : number * size],
        }
        return _json(200, page)

    # The registration of webhooks.

    def _hooks(self, request: Request) -> Response:
        rest = request.path.removeprefix(_HOOKS).strip("/")
        if request.method == "GET":
            return _json(200, _EVENT_TYPES) if rest == "registry" else self._page(request, list(self.hooks.values()))
        values = _object(request.body)
        if request.method == "POST" and not rest:
            return self._register(values)
        hook = self.hooks.get(int(rest)) if rest.isdecimal() else None
        if request.method != "PATCH" or hook is None:
            return _json(404, {"detail": "Not found."})
        hook.update(values)
        return _json(200, hook)

    def _register(self, values: Mapping[str, Any]) -> Response:
        required = ("target_url", "event_type", "retry_countdown_config")
        if missing := [name for name in required if not values.get(name)]:
            return _json(400, {name: ["This field is required."] for name in missing})
        if values["event_type"] not in _EVENT_TYPES:
            return _json(400, {"event_type": ["This is not a valid choice."]})
        named = ("target_url", "event_type")
        if any(all(hook[name] == values[name] for name in named) for hook in self.hooks.values()):
            return _json(406, {"code": "webhook_100_2", "en": "Webhook already registered"})
        hook_id = len(self.hooks) + 1
        usual: dict[str, Any] = {"is_active": True, "secret_key": None, "additional_headers": {}, "config": {}}
        self.hooks[hook_id] = {"id": hook_id} | usual | dict(values)
        return _json(201, self.hooks[hook_id])

    def _hooks_for(self, event_type: str) -> list[_Hook]:
        registered = [one for one in self.hooks.values() if one["is_active"] and one["event_type"] == event_type]
        return [*([self._for_all] if self._for_all else []), *registered]

    # The sender.

    def start(self, target_url: str | None = None, secret: str = SANDBOX_SECRET) -> None:
        """Begins to send each event to whoever is registered for it by then.

        And all to `target_url`, where events that were announced before are sent now.
        """
        with self._lock:
            self._sender = _Sender(self)
            if target_url is not None:
                hook = {"target_url": target_url, "secret_key": secret, "additional_headers": {}, "config": {}}
                self._for_all = hook
                for sent in self.sent:
                    self._sender.post(sent, hook)

    def stop(self) -> None:
        """Sends nothing more and waits for the delivery under way."""
        if self._sender is not None:
            self._sender.stop()

    def send(self, package_id: int, event_type: str, document: Mapping[str, Any] | None = None) -> Sent:
        """An event under a fresh uuid. Without a document the package is shown as it is at the first attempt."""
        with self._lock:
            sent = Sent(UUID(int=self.rng.getrandbits(128)).hex, event_type, package_id, document)
            self.sent.append(sent)
            if self._sender is not None:
                for hook in self._hooks_for(event_type):
                    self._sender.post(sent, hook)
                    if self.rng.random() < self.duplicates:
                        self._sender.post(sent, hook)
            return sent

    def _announce(self, package: Package, event_type: str) -> None:
        self.send(package.package_id, event_type)
        if self.rng.random() < self.doubles:
            self.send(package.package_id, event_type)


class _Sender:
    """Delivers events with the retries of dj-whisperer: 11 attempts, exponential, on 400 and above or no answer."""

    _THREADS = 4

    def __init__(self, oms: StandInOms) -> None:
        self._oms = oms
        self._due: PriorityQueue[tuple[float, int, Sent, _Hook, int]] = PriorityQueue()
        self._stopping = threading.Event()
        self._sequence = count()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._THREADS)]
        for thread in self._threads:
            thread.start()

    def post(self, sent: Sent, hook: _Hook, retries: int = 0, delay_s: float = 0.0) -> None:
        self._due.put((time.monotonic() + delay_s, next(self._sequence), sent, hook, retries))

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while not self._stopping.is_set():
            try:
                due, sequence, sent, hook, retries = self._due.get(timeout=0.05)
            except Empty:
                continue
            if due > time.monotonic():
                self._due.put((due, sequence, sent, hook, retries))
                self._stopping.wait(0.01)
                continue
            self._deliver(sent, hook, retries)

    def _deliver(self, sent: Sent, hook: _Hook, retries: int) -> None:
        if sent.document is None:
            sent.document = self._oms.document(self._oms.packages[sent.package_id])
        elif retries:
            # A retry is read back from a jsonb column, which orders keys by length: other bytes, same event.
            sent.document = dict(sorted(sent.document.items(), key=lambda member: (len(member[0]), member[0])))
        body = sender.encode(sent.event_type, sent.event_uuid, sent.document)
        # As it is registered by now, also for a repetition (dj-whisperer 0.5.3, tasks.py).
        answer = sender.post(hook["target_url"], body, headers(hook, sent.event_type, body))
        status = None if answer is None else answer.status
        if (status is None or status >= 400) and retries < _MOST_RETRIES:
            self.post(sent, hook, retries + 1, delay_s=2**retries)


class Server(ThreadingHTTPServer):
    """The stand-in's HTTP server, on a thread of its own."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, oms: StandInOms, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.oms = oms
        self.port = self.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Closes the socket; connections under way end by themselves."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away is no defect of ours."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serve(oms: StandInOms, port: int = 0) -> Iterator[Server]:
    """The stand-in on loopback for the length of a block."""
    server = Server(oms, port)
    try:
        yield server
    finally:
        server.stop()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if len(body) < length:  # the caller died within its request, which is then none
            self.close_connection = True
            return
        token = self.headers.get("Authorization", "")
        request = Request(self.command, parts.path, dict(parse_qsl(parts.query)), token, body)
        if not parts.path.endswith("/"):
            self._respond(Response(301, headers={"Location": parts.path + "/"}))
            return
        try:
            response = self.server.oms.answer(request)
        except ValueError:  # a body that is no object of JSON, a page that is no number
            response = _json(400, {"detail": "Malformed request."})
        if isinstance(response, Response):
            self.server.oms.note(request, response.status)
            self._respond(response)
        else:
            self.server.oms.note(request, 0)
            self.close_connection = True
            response(self.connection)

    do_GET = do_POST = do_PATCH = _serve

    def _respond(self, response: Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(response.body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """The ledger is the log."""


# What `autoship up --sandbox` shows.


def sample_oms() -> StandInOms:
    """The OMS of the sandbox, before anything happens in it."""
    oms = StandInOms(duplicates=0.3, doubles=0.2)
    for package_id in range(73, 79):
        oms.create(package_id, ["400"] * (1 + package_id % 3))
    oms.create(79, ["400", "400"])
    oms.create(80, ["400"])
    oms.create(81, ["400"])
    for package_id in (82, 83):
        oms.create(package_id, ["400"], channel_name="Marketplace")
    oms.create(84, ["400", "400"])
    oms.create(85, ["400"])
    return oms


# What they come to, as state and reason. Number 80 is given up after 15 minutes, as skipped and not_packed.
SAMPLE_ENDS: Mapping[int, tuple[str, str | None]] = {
    **dict.fromkeys((73, 74, 75, 76, 77, 78, 84), ("shipped", None)),
    79: ("waiting", "items_mixed"),
    80: ("waiting", "not_packed_yet"),
    81: ("skipped", "cancelled"),
    **dict.fromkeys((82, 83), ("skipped", "rule")),
    85: ("already_shipped", None),
}


def play(oms: StandInOms) -> None:
    """A few seconds in a warehouse: most packages are packed, some go their own ways."""
    for package_id in (73, 74, 82, 75, 76, 83, 77, 78):
        oms.pack(package_id)
        time.sleep(0.4)
    oms.pack(79, [PACKED, "200"])
    for package_id in (80, 81, 85):
        # Serialised while Packed, read later: 80 was unpacked meanwhile, 81 cancelled, 85 shipped by a person.
        oms.send(package_id, "package.status.packed", oms.document(oms.packages[package_id]) | _PACKED_STATE)
    oms.cancel(81)
    oms.ship_by_hand(85)
    oms.pack(84, [PACKED, READY])
    time.sleep(4)
    oms.set_items(84, [PACKED, PACKED])


def run_alone(port: int, webhooks_url: str | None, pace_s: float, say: Callable[[Mapping[str, str]], None]) -> None:
    """The stand-in OMS in the foreground until Ctrl-C; `say` is told the variables that reach it.

    The sample packages' webhooks go to `webhooks_url`, repeated for 17 minutes until somebody answers there;
    without it work goes on in the warehouse for ever, and webhooks go where they are registered.
    """
    oms = sample_oms() if webhooks_url else StandInOms(duplicates=0.3, doubles=0.2)
    with serve(oms, port) as server:
        say(environment(server.url, oms))
        oms.start(webhooks_url)
        if webhooks_url:
            play(oms)
            threading.Event().wait()
        for package_id in count(FIRST_PACKAGE):
            work(oms, package_id)
            time.sleep(pace_s)


FIRST_PACKAGE = 101
# People ship a package when so many others have been packed after it; one in so many is packed in part only.
SHIPPED_BY_HAND_AFTER, PACKED_IN_PART = 6, 10


def work(oms: StandInOms, package_id: int) -> None:
    """One package is packed, and people ship an earlier one if nobody else has."""
    oms.create(package_id, [READY, READY])
    oms.pack(package_id, [PACKED, READY] if package_id % PACKED_IN_PART == 0 else None)
    old = oms.packages.get(package_id - SHIPPED_BY_HAND_AFTER)
    if old is not None and old.state == PACKED and set(old.items) == {PACKED}:
        oms.ship_by_hand(old.package_id)


def headers(hook: Mapping[str, Any], event_type: str, body: bytes) -> dict[str, str]:
    """What comes with a delivery of a webhook that is registered so."""
    additional, basic = dict(hook["additional_headers"]), hook["config"].get("auth")
    if basic:
        pair = base64.b64encode(f"{basic['username']}:{basic['password']}".encode()).decode()
        additional["Authorization"] = f"Basic {pair}"
    return sender.headers(event_type, body, hook.get("secret_key"), additional)


def environment(url: str, oms: StandInOms) -> dict[str, str]:
    """The variables that make a service work with this stand-in."""
    return {
        "OMS_BASE_URL": url,
        "OMS_TOKEN": oms.token,
        "SHIP_TRANSITION_ID": str(oms.transition_id),
        "SHIP_SLUG": oms.slug,
        "WEBHOOK_SECRETS": SANDBOX_SECRET,
    }


def _state(value: str, enum_class: str) -> dict[str, Any]:
    return {"id": 50, "name": f"State {value}", "config": {}, "enum_class": enum_class, "enum_value": value}


_PACKED_STATE = {"state": _state(PACKED, _PACKAGE_STATUS)}


def _object(body: bytes) -> dict[str, Any]:
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("an object is asked for")
    return found


def _stamp(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _id_in(path: str) -> int | None:
    found = path.removeprefix(_PACKAGES).partition("/")[0]
    return int(found) if path.startswith(_PACKAGES) and found.isdigit() else None


def _json(status: int, document: object) -> Response:
    return Response(status, json.dumps(document).encode(), {"Content-Type": "application/json"})
