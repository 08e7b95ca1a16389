"""Every fault of the OMS at every operation, as often as real ones strike; the OMS's ledger is the judge.

python -m tests.reliability.matrix [--seed N]
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from random import Random

import sqlalchemy as sa

from service.case import CaseState
from service.sandbox import PACKED, READY
from tests.oms_faults import (
    DeadLine,
    Fault,
    answers,
    applied_then,
    closes,
    deaf_to,
    dripping,
    endless,
    gzip_bomb,
    hangs,
    html,
    lists,
    never_accepts,
    refuses,
    reset_within,
    resets,
    resets_after,
    sends,
    shows,
    truncated,
    words,
)
from tests.reliability.shift import Shift, a_shift, applied_later, on_pages, outdated, redirected, violations
from tests.simulation.run import Storage

OPERATIONS = ("list", "read", "items", "command", "read-back")
FREQUENCIES = ("once", "half", "outage", "shadow")
ELIGIBLE, MIXED, NOT_PACKED = (71, 72, 73), 74, 75
# How long a fault lasts that strikes more than once, and what comes after it.
OUTAGE_S = 20 * 60.0
LONGEST_S = 4 * 3600.0
AFTERWARDS_S = 2 * 60.0
PACKAGE = ("read", "read-back")
OTHER_HOST = "http://127.0.0.2:9/api/v1/oms/packages/?page=2"
OTHER_COMMAND = [{"id": 99, "transition": 99, "slug": "another"}]


@dataclass(frozen=True, slots=True)
class Row:
    """One fault. `line`: it is below HTTP."""

    name: str
    operations: tuple[str, ...] = OPERATIONS
    fault: Fault | None = None
    line: DeadLine | None = None


def _another_item(page: dict[str, object]) -> None:
    page["results"] = [{"id": 1, "package": 99, "state": {"enum_class": "PackageItemStatus", "enum_value": PACKED}}]
    page["count"] = 1


def _item_of(enum_class: str, enum_value: str) -> Callable[[dict[str, object]], None]:
    def change(page: dict[str, object]) -> None:
        rows = page["results"]
        assert isinstance(rows, list)
        rows[0]["state"] = {"enum_class": enum_class, "enum_value": enum_value}

    return change


ROWS = (
    Row("connection refused", line=refuses),
    Row("connection never accepted", line=never_accepts),
    Row("reset before the request is read", line=resets_after(0)),
    Row("reset within the request", line=resets_after(20)),
    Row("reset instead of an answer", fault=resets),
    Row("reset within the answer", fault=reset_within()),
    Row("closed instead of an answer", fault=closes),
    Row("no answer", fault=hangs),
    Row("one byte at a time", fault=dripping()),
    Row("truncated", fault=truncated()),
    Row("not HTTP", fault=sends(b"\x00\xff\xfe\r\n\r\n")),
    Row("endless body", fault=endless()),
    Row("gzip bomb", fault=gzip_bomb()),
    Row("malformed", fault=answers(200, b'{"id": 71, "state": ')),
    Row("another shape", fault=answers(200, b"[]")),
    Row("a page for people", fault=html(200)),
    *(Row(f"{status}", fault=html(status)) for status in (500, 501, 502, 503, 504)),
    Row("429", fault=answers(429)),
    Row("429, Retry-After 60", fault=answers(429, Retry_After="60")),
    Row("429, Retry-After absurd", fault=answers(429, Retry_After="99999999999999999999")),
    Row("429, Retry-After no number", fault=answers(429, Retry_After="soon")),
    *(Row(f"{status}", fault=words(status, "no")) for status in (400, 401, 403, 404, 406, 409)),
    *(Row(f"{status} to another host", fault=redirected(status)) for status in (301, 302, 307)),
    Row("applied, then no answer", ("command",), applied_then(hangs)),
    Row("applied, then reset", ("command",), applied_then(resets)),
    Row("applied, then reset within the answer", ("command",), applied_then(reset_within(204))),
    Row("applied, then 500", ("command",), applied_then(html(500))),
    Row("applied, then 504", ("command",), applied_then(html(504))),
    Row("applied, then 408", ("command",), applied_then(answers(408))),
    Row("applied, 200 instead of 204", ("command",), applied_then(answers(200))),
    Row("applied, 200 with a body", ("command",), applied_then(answers(200, b'{"ok": true}'))),
    Row("204 and not applied", ("command",), answers(204)),
    Row("204, applied 30 s late", ("command",), applied_later(30, answers(204))),
    Row("no answer, applied 25 s late", ("command",), applied_later(25, closes)),
    Row("503, applied 2 s late", ("command",), applied_later(2, html(503))),
    Row("outdated", PACKAGE, outdated),
    Row("unknown class of state", PACKAGE, shows(state={"enum_class": "Unheard", "enum_value": PACKED})),
    Row("unknown state", PACKAGE, shows(state={"enum_class": "PackageStatus", "enum_value": "777"})),
    Row("no state", PACKAGE, shows(state=None)),
    Row("another package", PACKAGE, shows(id=9999)),
    Row("no items in it", PACKAGE, shows(packageitem_set=[])),
    Row("ours not among the commands", PACKAGE, shows(commands=OTHER_COMMAND)),
    Row("no items", ("items",), lists(lambda page: page.update(results=[], count=0))),
    Row("items on two pages", ("items",), on_pages),
    Row("more items counted than listed", ("items",), lists(lambda page: page.update(count=9))),
    Row("a stranger's item", ("items",), lists(_another_item)),
    Row("unknown class of an item's state", ("items",), lists(_item_of("Unheard", PACKED))),
    Row("unknown state of an item", ("items",), lists(_item_of("PackageItemStatus", "777"))),
    Row("an empty list", ("list",), lists(lambda page: page.update(results=[], count=0))),
    Row("a row without an id", ("list",), lists(lambda page: page.update(results=[{"state": None}]))),
    Row("one row a page", ("list",), on_pages),
    Row("filter ignored", ("list",), deaf_to("state__enum_value")),
    Row("filter ignored", ("items",), deaf_to("package")),
    Row("cursor ignored", ("list",), deaf_to("id__gt")),
    Row("next page on another host", ("list", "items"), lists(lambda page: page.update(next=OTHER_HOST))),
)

# Where packages do not ship by themselves: fault and operation, how often it strikes, and as what some of them end.
# Nowhere else may one, and there some must.
REFUSED_TOO_OFTEN = (
    *(
        "reset within the request",
        "reset instead of an answer",
        "reset within the answer",
        "closed instead of an answer",
    ),
    *("no answer", "one byte at a time", "truncated", "not HTTP", "endless body", "gzip bomb", "malformed"),
    *("another shape", "a page for people", "500", "501", "502", "503", "504", "400", "404", "406", "409"),
)
FOR_A_PERSON: dict[tuple[str, str, str], tuple[str, ...]] = {
    # COMMAND_MAX_ATTEMPTS are used up before 20 minutes are over.
    **{(name, "command", "outage"): ("needs_attention/refused",) for name in REFUSED_TOO_OFTEN},
    # The same, where the reset comes late enough for a byte to have been sent; else no budget is used.
    ("reset before the request is read", "command", "outage"): ("needs_attention/refused", "shipped"),
    # Nothing readable for 15 minutes, of a package that never was.
    ("404", "read", "outage"): ("needs_attention/not_found",),
    **{
        (name, "read", "outage"): ("needs_attention/bad_shape",)
        for name in ("another shape", "no state", "another package")
    },
    # Accepted, and in Packed for 15 minutes.
    **{
        ("204 and not applied", "command", frequency): ("needs_attention/accepted_but_still_packed",)
        for frequency in ("once", "half", "outage")
    },
    ("outdated", "read-back", "outage"): ("needs_attention/accepted_but_still_packed", "needs_attention/refused"),
    # Read as gone, then as Packed with the same modified date: one of the reads was wrong.
    **{
        ("unknown state", "read-back", frequency): ("needs_attention/outcome_unknown",)
        for frequency in ("once", "half", "outage")
    },
    ("unknown state", "read", "shadow"): ("needs_attention/outcome_unknown",),
}


@dataclass
class Cell:
    """One fault at one operation. It strikes each package once, half the time or always, for a while."""

    row: Row
    operation: str
    frequency: str
    seed: int = 1
    rng: Random = field(init=False)
    _struck: set[int | None] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.rng = Random(f"{self.seed} {self.key}")

    @property
    def key(self) -> tuple[str, str, str]:
        return self.row.name, self.operation, self.frequency

    def run(self, storage: Storage) -> list[str]:
        """What went wrong."""
        mode = "shadow" if self.frequency == "shadow" else "live"
        with a_shift(storage, self.rng.getrandbits(32), keep_alive=self.row.line is None, MODE=mode) as shift:
            self._set_up(shift)
            shift.run(LONGEST_S, lambda: shift.world.now_s > self._heals_at_s and _is_settled(shift))
            shift.run(shift.world.now_s + AFTERWARDS_S)
            found = [*self._ends(shift), *violations(shift)]
            if mode == "live":
                found += _nothing_follows(shift)
                found += violations(shift)
        return list(dict.fromkeys(found))

    @property
    def _heals_at_s(self) -> float:
        return 0.0 if self.frequency == "once" else OUTAGE_S

    def _set_up(self, shift: Shift) -> None:
        shift.is_announced = self.operation != "list"
        shift.oms.inline_items = self.operation != "items"
        shift.oms.fault_for = lambda operation, package_id: self._fault(shift, operation, package_id)
        if self.row.line is not None:
            shift.line_for = lambda operation, package_id: self._line(shift, operation, package_id)
        for package_id in (*ELIGIBLE, MIXED):
            shift.oms.create(package_id, [READY, READY])
        shift.world.advance(60)
        for package_id in (*ELIGIBLE, MIXED):
            shift.oms.pack(package_id, [PACKED, READY if package_id == MIXED else PACKED])
        shift.oms.create(NOT_PACKED, [PACKED])

    def _fault(self, shift: Shift, operation: str, package_id: int | None) -> Fault | None:
        if self.row.fault is not None and self._strikes(shift, operation, package_id):
            return self.row.fault
        if self.operation == "read-back" and operation == "command" and not shift.oms.commands(package_id or 0):
            return FIRST_ANSWERS.get(package_id or 0)
        return None

    def _line(self, shift: Shift, operation: str, package_id: int | None) -> DeadLine | None:
        return self.row.line if self._strikes(shift, operation, package_id) else None

    def _strikes(self, shift: Shift, operation: str, package_id: int | None) -> bool:
        if operation != self.operation:
            return False
        if self.frequency == "once":
            is_first = package_id not in self._struck
            self._struck.add(package_id)
            return is_first
        return shift.world.now_s < OUTAGE_S and (self.frequency == "outage" or self.rng.random() < 0.5)

    def _ends(self, shift: Shift) -> Iterator[str]:
        rows = shift.rows()
        usual = "would_ship" if self.frequency == "shadow" else "shipped"
        wanted = FOR_A_PERSON.get(self.key, (usual,))
        ends = {_where(rows, package_id) for package_id in ELIGIBLE}
        if not ends & {*wanted} or ends - {*wanted, usual}:
            yield f"they end as {', '.join(sorted(ends))}, not {' or '.join(wanted)}"
        for package_id in (MIXED, NOT_PACKED):
            if shift.oms.commands(package_id):
                yield f"package {package_id} was commanded"


# In the cells of the read-back there is something to find out about two of three packages.
FIRST_ANSWERS = {72: applied_then(closes), 73: closes}


def _where(rows: Mapping[int, sa.RowMapping], package_id: int) -> str:
    row = rows.get(package_id)
    if row is None:
        return "unknown"
    return f"{row['state']}/{row['reason']}" if row["reason"] else str(row["state"])


def _is_settled(shift: Shift) -> bool:
    at_rest = (CaseState.SHIPPED, CaseState.WOULD_SHIP)
    rows = shift.rows()
    return all(one in rows and (rows[one]["state"] in at_rest or rows[one]["held"]) for one in ELIGIBLE)


def _nothing_follows(shift: Shift) -> Iterator[str]:
    """A person's word ships what is held; then nothing is commanded any more, whatever is delivered again."""
    held = [one for one, row in shift.rows().items() if row["held"]]
    if held:
        shift.recheck(*held)
        shift.run(shift.world.now_s + AFTERWARDS_S)
    commands = {one: len(shift.oms.commands(one)) for one in ELIGIBLE}
    shift.is_announced = True
    shift.redeliver()
    shift.run(shift.world.now_s + AFTERWARDS_S)
    for package_id in ELIGIBLE:
        if shift.oms.shipped_by_command(package_id) != 1:
            yield f"package {package_id} was shipped {shift.oms.shipped_by_command(package_id)} times"
        if len(shift.oms.commands(package_id)) != commands[package_id]:
            yield f"package {package_id} was commanded again when its events were delivered again"


def cells(frequencies: tuple[str, ...] = FREQUENCIES, seed: int = 1) -> list[Cell]:
    """All of the matrix. Nothing is commanded, and so nothing read back, in shadow."""
    return [
        Cell(row, operation, frequency, seed)
        for row, frequency in product(ROWS, frequencies)
        for operation in row.operations
        if frequency != "shadow" or operation not in ("command", "read-back")
    ]


@dataclass(frozen=True, slots=True)
class Judged:
    """A cell and what went wrong in it."""

    cell: Cell
    found: list[str]

    @property
    def mark(self) -> str:
        """`person` where it went as it should, and a person has to say what next."""
        if self.found:
            return "BROKEN"
        return "person" if self.cell.key in FOR_A_PERSON else "ok"


def judged(wanted: Sequence[Cell]) -> Iterator[Judged]:
    """Runs the cells one after the other."""
    storage = Storage()
    for cell in wanted:
        yield Judged(cell, cell.run(storage))


def table(results: Sequence[Judged]) -> str:
    """Fault × operation, with a mark for each frequency."""
    marks = {one.cell.key: one.mark for one in results}
    frequencies = [one for one in FREQUENCIES if any(key[2] == one for key in marks)]
    width = 7 * len(frequencies) + 3
    lines = [f"{'':<34}" + "".join(f"{one:<{width}}" for one in OPERATIONS)]
    lines.append(f"{'':<34}" + "".join(f"{one:<7}" for one in frequencies).ljust(width) * len(OPERATIONS))
    for name in dict.fromkeys(one.cell.row.name for one in results):
        shown = (
            "".join(f"{marks.get((name, operation, one), '-'):<7}" for one in frequencies) for operation in OPERATIONS
        )
        lines.append((f"{name:<34}" + "".join(one.ljust(width) for one in shown)).rstrip())
    return "\n".join(lines)


def problems(results: Sequence[Judged]) -> list[str]:
    """What went wrong, with where."""
    return [f"{' / '.join(one.cell.key)}: {'; '.join(one.found)}" for one in results if one.found]


def main() -> int:
    """Prints the table; 1 if a cell broke a promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="cells whose fault or operation contains this")
    wanted = parser.parse_args()
    logging.disable()
    began = time.monotonic()
    chosen = [one for one in cells(seed=wanted.seed) if wanted.only in f"{one.row.name} {one.operation}"]
    results = list(judged(chosen))
    broken = problems(results)
    print(table(results), *broken, sep="\n")
    print(f"{len(results)} cells, {len(broken)} broken, {time.monotonic() - began:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
