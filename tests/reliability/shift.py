"""A shift: a stand-in OMS on a real socket and a clock of ours, one worker and the sweep, and a judge.

Hours pass in a second, as only the sockets take real time. What the client may wait for an answer is real and short,
what decisions reckon with is `TIMEOUT_S` of the shift's own time.
"""

from __future__ import annotations

import json
import math
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any

import sqlalchemy as sa

from service import config as configuration
from service import delivery, inbox, journal, sandbox, sender, worklist
from service.attend import Attendant
from service.case import CaseState
from service.config import Config
from service.database import Database, deliveries, packages
from service.delivery import Delivery
from service.oms import Oms
from service.sandbox import PACKED, READY, Package, Request, Response, Sent
from service.sweep import Sweeper
from tests.conftest import MINIMAL
from tests.oms_faults import DeadLine, Fault, FaultyOms, Outcome
from tests.reliability.ledger import Judgement
from tests.simulation.run import Storage
from tests.simulation.world import START, World

SOCKET_TIMEOUT_S = 0.1
TIMEOUT_S = 10.0
SETTLE_S = 3.0
SWEEP_POLL_S = 100.0
BRAKED_POLL_S = 5.0
# The database's time ends at microseconds.
ROUNDING_S = 1e-5
ELSEWHERE = b"where-a-redirect-leads"


@dataclass(frozen=True, slots=True)
class Step:
    """One request about a package. `shows_packed`: what a read was shown; `proves`: what a command was told.

    `proves` is `accepted` (never again), `open` (may have been applied or may yet be), `concluded` (may have been
    applied, and nothing is under way) or `no`.
    """

    at_s: float
    operation: str
    shows_packed: bool = False
    proves: str = ""


@dataclass(kw_only=True)
class ShiftOms(FaultyOms):
    """Keeps every step about each package. `fault_for` says which fault an operation meets.

    A read of a package that a command has arrived for is a `read-back`. `before_answer` is told that the answer to a
    read is on its way: the last moment to cut the line before the items or the command.
    """

    world: World
    keep_alive: bool = True
    fault_for: Callable[[str, int | None], Fault | None] = lambda operation, package_id: None
    before_answer: Callable[[int], None] = lambda package_id: None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.steps: dict[int, list[Step]] = defaultdict(list)
        self.before: dict[int, Package] = {}
        self.unsent: list[Sent] = []
        self.elsewhere = socket.create_server(("127.0.0.1", 0))
        self.elsewhere.setblocking(False)

    def send(self, package_id: int, event_type: str, document: Mapping[str, Any] | None = None) -> Sent:
        sent = super().send(package_id, event_type, document)
        self.unsent.append(sent)
        return sent

    def answer(self, request: Request) -> Outcome:
        operation, package_id = self._meant(request)
        fault = self.fault_for(operation, package_id)
        outcome = fault(self, request) if fault else self.answer_well(request)
        if package_id is not None:
            self.steps[package_id].append(_step(self.world.now_s, operation, outcome))
            if operation in ("read", "read-back"):
                self.before_answer(package_id)
        if isinstance(outcome, Response) and not self.keep_alive:
            return replace(outcome, headers={**outcome.headers, "Connection": "close"})
        return outcome

    def commands(self, package_id: int) -> list[Step]:
        return [one for one in self.steps[package_id] if one.operation == "command"]

    def was_called_elsewhere(self) -> bool:
        """Whether a redirect was followed. The port was another test's before, whose clients may still try it."""
        while True:
            try:
                connection, _ = self.elsewhere.accept()
            except BlockingIOError:
                return False
            with connection, suppress(OSError):
                if ELSEWHERE in connection.recv(1000, socket.MSG_DONTWAIT):
                    return True

    def _move(self, package_id: int, *what: Any, **how: Any) -> None:
        self.before[package_id] = replace(self.packages[package_id])
        super()._move(package_id, *what, **how)

    def _meant(self, request: Request) -> tuple[str, int | None]:
        if request.operation in ("read", "command"):
            package_id = int(request.path.split("/")[5])
            again = request.operation == "read" and bool(self.commands(package_id))
            return "read-back" if again else request.operation, package_id
        named = request.query.get("package") if request.operation == "items" else None
        return request.operation, None if named is None else int(named)


def _step(at_s: float, operation: str, outcome: Outcome) -> Step:
    answer = outcome if isinstance(outcome, Response) else None
    if operation == "command":
        return Step(at_s, operation, proves=proven_by(answer))
    return Step(at_s, operation, shows_packed=answer is not None and _shows_packed(answer))


def proven_by(answer: Response | None) -> str:
    """The table of answers in few words, made without the product's own."""
    if answer is None or "Content-Encoding" in answer.headers or answer.status in (408, 425):
        return "open"
    if answer.status < 300:
        return "open" if answer.body else "accepted"
    return "concluded" if answer.status >= 500 else "no"


def _shows_packed(answer: Response) -> bool:
    try:
        state = json.loads(answer.body)["state"]
    except (ValueError, LookupError, TypeError):
        return False
    return answer.status == 200 and isinstance(state, dict) and state.get("enum_value") == PACKED


def applied_later(after_s: float, fault: Fault) -> Fault:
    """The command takes effect so much later, whatever it was answered."""

    def apply(oms: FaultyOms, request: Request) -> Outcome:
        assert isinstance(oms, ShiftOms)
        package_id = int(request.path.split("/")[5])
        oms.world.at(oms.world.now_s + after_s, lambda: _apply_if_packed(oms, package_id))
        return fault(oms, request)

    return apply


def _apply_if_packed(oms: ShiftOms, package_id: int) -> None:
    if oms.packages[package_id].state == PACKED:
        oms.apply(package_id)


def outdated(oms: FaultyOms, request: Request) -> Outcome:
    """The package as it was before it last moved."""
    assert isinstance(oms, ShiftOms)
    package = oms.before[int(request.path.split("/")[5])]
    return Response(200, json.dumps(oms.document(package)).encode())


def on_pages(oms: FaultyOms, request: Request) -> Outcome:
    """One row on each page."""
    size, oms.page_size = oms.page_size, 1
    try:
        return oms.answer_well(request)
    finally:
        oms.page_size = size


def redirected(status: int) -> Fault:
    """To another host, which remembers that it was called."""

    def redirect(oms: FaultyOms, request: Request) -> Outcome:
        assert isinstance(oms, ShiftOms)
        port = oms.elsewhere.getsockname()[1]
        return Response(status, b"", {"Location": f"http://127.0.0.1:{port}/{ELSEWHERE.decode()}{request.path}"})

    return redirect


@dataclass
class Shift:
    """One worker, its database and the OMS it works with.

    `line_for` says how the line to the OMS is cut before an operation. `false_success`: packages that were said to be
    shipped before they were.
    """

    oms: ShiftOms
    world: World
    database: Database
    config: Config
    attendant: Attendant
    sweeper: Sweeper
    server: sandbox.Server
    is_announced: bool = True
    line_for: Callable[[str, int | None], DeadLine | None] = lambda operation, package_id: None
    accepted: Counter[str] = field(default_factory=Counter)
    false_success: set[int] = field(default_factory=set)
    _mend: Callable[[], None] | None = None
    _next_sweep_s: float = 0.0

    def pack(self, package_id: int, items: int = 2) -> None:
        """A package is created and packed."""
        self.oms.create(package_id, [READY] * items)
        self.oms.pack(package_id)

    def run(self, until_s: float, is_over: Callable[[], bool] = lambda: False) -> None:
        """Delivers, sweeps and looks as time passes, until then or until it is over."""
        while self.world.now_s < until_s and not is_over():
            self._deliver()
            if self.world.now_s >= self._next_sweep_s:
                self._next_sweep_s = self.world.now_s + SWEEP_POLL_S
                self._sweep()
            self._advance(until_s, self._look())

    def redeliver(self) -> None:
        """Every event that said Packed once more under its uuid, and once more under a fresh one."""
        for sent in [one for one in self.oms.sent if one.event_type == "package.status.packed"]:
            self.oms.unsent.append(sent)
            self.oms.send(sent.package_id, sent.event_type, sent.document)

    def recheck(self, *package_ids: int) -> None:
        """A person's word."""
        with self.database.transaction() as transaction:
            for package_id in package_ids:
                journal.give_up_open(transaction, package_id)
                worklist.recheck(transaction, package_id)
                self.oms.steps[package_id].append(Step(self.world.now_s, "recheck"))

    def rows(self) -> dict[int, sa.RowMapping]:
        """Every package's row."""
        with self.database.reading() as transaction:
            return {row["package_id"]: row for row in worklist.listed(transaction, None, None, limit=100_000)}

    def seen(self) -> dict[str, int]:
        """How often each event came, as our inbox says."""
        with self.database.reading() as transaction:
            found = transaction.execute(sa.select(deliveries.c.event_uuid, deliveries.c.seen))
            return {row.event_uuid: row.seen for row in found}

    def cut(self, operation: str, package_id: int | None) -> None:
        """The line is dead before this operation, if it is to be, and until it is mended."""
        line = self.line_for(operation, package_id)
        if line is not None and self._mend is None:
            self.server.stop()
            self._mend = line(self.server.port)

    def cut_within_look(self, package_id: int) -> None:
        """The same, after a read and before what follows it."""
        self.cut("items", package_id)
        self.cut("command", package_id)

    def close(self) -> None:
        """Ends all that it holds open."""
        self.oms.release.set()
        self.attendant.oms.close()
        self._restore_line()
        self.server.stop()
        self.oms.elsewhere.close()

    def _deliver(self) -> None:
        unsent, self.oms.unsent = self.oms.unsent, []
        for sent in unsent if self.is_announced else ():
            sent.document = sent.document or self.oms.document(self.oms.packages[sent.package_id])
            body = sender.encode(sent.event_type, sent.event_uuid, sent.document)
            received = delivery.read("application/json", body, secret_index=0)
            assert isinstance(received, Delivery)
            inbox.accept(self.database, received, self.config.settings)
            self.accepted[sent.event_uuid] += 1

    def _sweep(self) -> None:
        self.cut("list", None)
        self.sweeper.sweep_if_due()
        self._restore_line()

    def _look(self) -> int:
        claims = worklist.claim(self.database, 8, 4, self.config.lease, self.config.oms_rate_per_s)
        for claimed in claims:
            package_id = claimed.case.package_id
            self.cut("read-back" if self.oms.commands(package_id) else "read", package_id)
            self.attendant.attend(claimed)
            self._restore_line()
            self._note_false_success(package_id)
        return len(claims)

    def _restore_line(self) -> None:
        if self._mend is not None:
            self._mend()
            self._mend = None
            self.server = sandbox.Server(self.oms, self.server.port)

    def _note_false_success(self, package_id: int) -> None:
        query = sa.select(packages.c.state).where(packages.c.package_id == package_id)
        with self.database.reading() as transaction:
            state = transaction.execute(query).scalar()
        if state == CaseState.SHIPPED and not self.oms.shipped_by_command(package_id):
            self.false_success.add(package_id)

    def _advance(self, until_s: float, looked: int) -> None:
        due_s = self._next_due_s()
        if due_s <= self.world.now_s:  # a brake holds it back, or more is due than is claimed at once
            due_s = self.world.now_s + (0.0 if looked else BRAKED_POLL_S)
        next_s = min(due_s, self._next_sweep_s, until_s, self.world.next_s)
        self.world.advance(max(0.0, next_s - self.world.now_s))

    def _next_due_s(self) -> float:
        with self.database.reading() as transaction:
            due_at = transaction.execute(sa.select(sa.func.min(packages.c.due_at))).scalar()
        return math.inf if due_at is None else (due_at - START).total_seconds()


@contextmanager
def a_shift(storage: Storage, seed: int, *, keep_alive: bool = True, **variables: str) -> Iterator[Shift]:
    """A shift that begins with nothing to do, for the length of a block."""
    world = World([])
    database = storage.begin(world)
    rng = Random(seed)
    oms = ShiftOms(world=world, clock=world.clock, rng=rng, keep_alive=keep_alive, hang_s=2 * SOCKET_TIMEOUT_S)
    server = sandbox.Server(oms)
    config = _configured(oms, server.url, variables)
    client = Oms(config.oms, wall_clock=world.clock)
    attendant = Attendant(database, client, config.settings, config.lease, rng.random)
    sweeper = Sweeper(config, database, client, partial(_wait, world))
    shift = Shift(oms, world, database, config, attendant, sweeper, server)
    oms.before_answer = shift.cut_within_look
    try:
        yield shift
    finally:
        shift.close()


def _wait(world: World, seconds: float) -> bool:
    world.advance(seconds)
    return False


def _configured(oms: ShiftOms, url: str, variables: Mapping[str, str]) -> Config:
    usual = {
        "OMS_BASE_URL": url,
        "OMS_TOKEN": oms.token,
        "SHIP_TRANSITION_ID": str(oms.transition_id),
        "SHIP_SLUG": oms.slug,
        "OMS_TIMEOUT_S": f"{SOCKET_TIMEOUT_S:g}",
        "OMS_RATE_PER_S": "0",
        "DATABASE_URL": "sqlite:///unused.db",
    }
    config = configuration.load({**MINIMAL, **usual, **variables})
    return replace(config, settings=replace(config.settings, oms_timeout=timedelta(seconds=TIMEOUT_S)))


# The judge.


def violations(shift: Shift) -> list[str]:
    """Every broken promise, in words. The OMS's own ledger decides, and what it answered."""
    found = [f"package {one} is said to be shipped and is not" for one in sorted(shift.false_success)]
    found += doubles(shift)
    if shift.seen() != shift.accepted:
        found.append("the inbox does not hold what was accepted")
    if shift.oms.was_called_elsewhere():
        found.append("another host was called")
    return found


def doubles(shift: Shift) -> list[str]:
    """Commands that should not have been sent."""
    oms, found = shift.oms, list[str]()
    for package_id in oms.packages:
        found += [f"package {package_id}: {said}" for said in _unjustified(oms.steps[package_id])]
        if oms.shipped_by_command(package_id) > 1:
            found.append(f"package {package_id} was shipped twice")
    if not shift.config.settings.live and any(oms.commands(one) for one in oms.packages):
        found.append("a command was sent in shadow")
    return found


def judgement(shift: Shift) -> Judgement:
    """What the ledger proves of a shift in which every package was to be shipped."""
    rows = shift.rows()
    return Judgement(
        lost=tuple(
            f"package {one} was not shipped" for one in shift.oms.packages if not shift.oms.shipped_by_command(one)
        ),
        double=tuple(doubles(shift)),
        false_success=tuple(f"package {one} was not shipped yet" for one in sorted(shift.false_success)),
        unresolved=tuple(
            f"package {one} is {rows[one]['state']}" for one in rows if rows[one]["state"] != CaseState.SHIPPED
        ),
    )


def _unjustified(steps: list[Step]) -> Iterator[str]:
    """Commands without a fresh read in Packed, or again before the last one was proven not to have been applied."""
    last: Step | None = None
    shown_at_s: set[float] = set()
    for step in steps:
        if step.operation == "recheck":
            last = None
        if step.operation != "command":
            shown_at_s |= {step.at_s} if step.shows_packed else set()
            continue
        if step.at_s not in shown_at_s:
            yield f"commanded at {step.at_s:.0f} s without a fresh read"
        if last is not None and not _allows_another(last, shown_at_s):
            yield f"commanded at {step.at_s:.0f} s, after {last.proves} at {last.at_s:.0f} s"
        last, shown_at_s = step, set()


def _allows_another(last: Step, shown_at_s: set[float]) -> bool:
    """Whether what reads showed since, the fresh one apart, settles the last command."""
    proofs = sorted(shown_at_s)[:-1]
    match last.proves:
        case "accepted":
            return False
        case "open":
            return len(proofs) > 1 and proofs[-1] >= last.at_s + 3 * TIMEOUT_S - ROUNDING_S
        case "concluded":
            return bool(proofs) and proofs[-1] >= last.at_s + SETTLE_S - ROUNDING_S
        case _:
            return True
