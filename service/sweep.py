"""The sweep: every package in Packed is listed, so that what no webhook announced is looked at too.

It only hints; the worker reads, decides and commands. One pass at a time over all workers, resumable where the OMS
lists by ascending id behind a cursor; where it does not, whole passes are repeated until one finds nothing new.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from service import brakes, journal, logs, policy, worklist
from service.brakes import SWEEP, Operation
from service.case import Note, Reason, Settings, is_packed
from service.config import Config
from service.database import Database, Transaction, deliveries, packages, sweep
from service.oms import ListPage, Oms, why_unread
from service.outcome import Misconfigured, ReadFailed, Reading, Throttled, Unauthorised
from service.snapshot import PackageSnapshot

MAX_UNORDERED_PASSES = 5
RETRY_AFTER = timedelta(seconds=30)
RESUMED_FOR = timedelta(hours=1)
FILTER_IGNORED = "filter_ignored"
NOT_REACHED = "the list was not answered"
STOPPED = "stopped"
_RATE_POLL_S = 0.1
_UNLISTED_PAGE = 100

_FINISHED = logs.Event(
    "sweep.finished",
    logging.INFO,
    "All packages in Packed were listed: `found` of them are looked at, `missed` no webhook announced within an "
    "interval, `backlog` wait for `autoship sweep --adopt`.",
)
_FAILED = logs.Event(
    "sweep.failed", logging.ERROR, "The packages in Packed could not all be listed; tried again.", alert=True
)
_ROWS_UNREAD = logs.Event(
    "sweep.rows_unread",
    logging.WARNING,
    "So many rows of a page of the list name no package that can be read; they are left out, the others are not.",
    alert=True,
)


@dataclass(frozen=True, slots=True)
class Found:
    """A package that is worth a look."""

    package_id: int
    why: str


@dataclass(frozen=True, slots=True)
class Swept:
    """How a pass ended. `problem` is None where all packages in Packed were listed."""

    listed: int
    found: tuple[Found, ...]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class _Page:
    """Listed packages; all with an id up to `cursor` are listed by now, where the list is ordered."""

    packages: tuple[PackageSnapshot, ...]
    cursor: int = 0


@dataclass(frozen=True, slots=True)
class _Turn:
    """The right to sweep, proven by the fence."""

    fence: int
    cursor: int
    first_ever: bool


class _TurnLost(Exception):
    """Another worker sweeps by now."""


def listing_query(config: Config, after: int | None = None) -> str:
    """What lists the packages in Packed; with `after` those with a higher id, in ascending order.

    ASSUMED: `id__gt` and `sort=id`, as the state transition log names them. The sweep verifies them on every page.
    """
    packed = "?" + config.oms.list_filter.replace("{packed}", config.settings.packed_status)
    return packed if after is None else f"{packed}&id__gt={after}&sort=id"


class Sweeper:
    """Sweeps with one client of the OMS.

    `wait(seconds)` pauses, and is True once the sweep is to stop. `told` hears how many are listed by now. `may_brake`:
    what the OMS answers holds back all workers where it must.
    """

    def __init__(
        self,
        config: Config,
        database: Database,
        oms: Oms,
        wait: Callable[[float], bool],
        told: Callable[[int], None] = lambda listed: None,
        *,
        may_brake: bool = True,
    ) -> None:
        self._config = config
        self._database = database
        self._oms = oms
        self._wait = wait
        self._told = told
        self._may_brake = may_brake

    @property
    def poll_interval_s(self) -> float:
        """How often to ask whether a pass is due."""
        return max(0.2, min(10.0, self._config.sweep_interval.total_seconds() / 4))

    def sweep_if_due(self, *, at_once: bool = False, adopt: bool = False) -> Swept | None:
        """One pass, if one is due (or `at_once`) and no other worker is at it; else None.

        `adopt` takes on all that no webhook announced. Raises `DatabaseUnavailable`.
        """
        at_once = at_once or adopt
        turn = self._take_turn(at_once=at_once, adopt=adopt) if at_once or self._is_due() else None
        if turn is None:
            return None
        try:
            swept = self._pass(turn.cursor, lambda page: self._take_in(turn, page, adopt))
            return self._end(turn, swept, adopt)
        except _TurnLost:
            return None

    def dry_run(self, *, adopt: bool = False) -> Swept:
        """What a pass would have looked at; with `adopt` the backlog too. Stores and hints nothing."""

        def judge(page: _Page) -> list[Found]:
            with self._database.reading() as transaction:
                return _worth_a_look(transaction, page.packages, self._config.settings, adopt=adopt)

        swept = self._pass(0, judge)
        if not adopt or swept.problem is not None:
            return swept
        with self._database.reading() as transaction:
            return replace(swept, found=swept.found + _unlisted(transaction, swept.found))

    # One pass.

    def _pass(self, cursor: int, take: Callable[[_Page], list[Found]]) -> Swept:
        listed, found = set[int](), dict[int, Found]()
        for page in self._pages(cursor):
            if isinstance(page, str):
                return Swept(len(listed), tuple(found.values()), page)
            found |= {one.package_id: one for one in take(page)}
            listed |= {package.package_id for package in page.packages}
            self._told(len(listed))
        return Swept(len(listed), tuple(found.values()))

    def _pages(self, cursor: int) -> Iterator[_Page | str]:
        """The pages behind `cursor`, or a problem as the last of them."""
        while True:
            page = self._list(listing_query(self._config, after=cursor))
            if isinstance(page, str):
                yield page
                return
            ids = [package.package_id for package in page.packages]
            if ids != sorted(set(ids)) or (ids and ids[0] <= cursor):
                yield from self._unordered_pages()
                return
            cursor = ids[-1] if ids else cursor
            yield _Page(page.packages, cursor)
            if page.next_address is None or not ids:
                return

    def _unordered_pages(self) -> Iterator[_Page | str]:
        """All pages, again and again: what ships meanwhile moves others to a page that was read already."""
        seen: set[int] = set()
        for _ in range(MAX_UNORDERED_PASSES):
            known, shown = len(seen), set[frozenset[int]]()
            at: str | None = listing_query(self._config)
            while at is not None:
                page = self._list(at)
                if isinstance(page, str):
                    yield page
                    return
                ids = frozenset(package.package_id for package in page.packages)
                if ids in shown:
                    yield "the list goes in a circle"
                    return
                shown.add(ids)
                fresh = tuple(package for package in page.packages if package.package_id not in seen)
                seen.update(package.package_id for package in fresh)
                yield _Page(fresh)
                at = page.next_address if ids else None
            if len(seen) == known:
                return
        yield "the list kept changing"

    def _list(self, query_or_address: str) -> ListPage | str:
        """One page, once the rate allows it, or why there is none."""
        while (shut := self._admitted()) is not None:
            if shut != brakes.RATE_USED_UP:
                return shut
            if self._wait(_RATE_POLL_S):
                return STOPPED
        page = self._oms.list_packed(query_or_address)
        if not isinstance(page, ListPage):
            return self._unlisted(page)
        if self._may_brake:
            self._note_brake(brakes.note_listed)
        if page.unread:
            _ROWS_UNREAD.emit(rows=page.unread)
        strangers = [one for one in page.packages if not is_packed(one.state, self._config.settings)]
        return f"{FILTER_IGNORED}: package {strangers[0].package_id} is not Packed" if strangers else page

    def _unlisted(self, reading: Reading) -> str:
        """Puts the brakes on where the answer demands it. Its problem in words.

        Akinon's pages ask another kind of token for the list than for a package. So where the list refuses ours, the
        newest package that we know is read, and its answer counts: the sweep must not stop what works without it.
        """
        what = NOT_REACHED if isinstance(reading, ReadFailed) else "the list cannot be used"
        problem, package_id, answer = f"{what}: {why_unread(reading)}", SWEEP, reading
        if not self._may_brake:
            return problem
        refused = isinstance(reading, Unauthorised) and reading.status == 401
        if refused and (known := self._newest_package()) is not None:
            package_id, answer = known, self._oms.read_alone(known)
        if refused or isinstance(answer, Throttled | Misconfigured):
            self._note_brake(lambda transaction: brakes.note_answer(transaction, package_id, Operation.READ, answer))
        return problem

    def _newest_package(self) -> int | None:
        with self._database.reading() as transaction:
            newest: int | None = transaction.execute(sa.select(sa.func.max(packages.c.package_id))).scalar()
        return newest

    def _note_brake(self, note: Callable[[Transaction], str | None]) -> None:
        with self._database.transaction() as transaction:
            cause = note(transaction)
        if cause is not None:
            brakes.CHANGED.emit(cause=cause)

    def _admitted(self) -> str | None:
        with self._database.transaction() as transaction:
            return brakes.admit_sweep(transaction, self._config.oms_rate_per_s)

    def _take_in(self, turn: _Turn, page: _Page, adopt: bool) -> list[Found]:
        """Hints at what is worth a look and moves the cursor, in one transaction.

        Of what no webhook announced, the first sweep ever takes up only `ADOPT_MAX` without a person's word.
        """
        with self._database.transaction() as transaction:
            found = _worth_a_look(transaction, page.packages, self._config.settings, adopt=adopt)
            backlog: list[Found] = []
            if turn.first_ever and not adopt:
                may_adopt = max(0, self._config.adopt_max - worklist.found_by_sweep(transaction))
                backlog = [one for one in found if one.why == policy.UNANNOUNCED][may_adopt:]
            for one in found:
                if one in backlog:
                    worklist.put_in_backlog(transaction, one.package_id)
                else:
                    worklist.hint(transaction, one.package_id, "sweep")
                journal.note(transaction, one.package_id, [Note("sweep", f"listed as Packed: {one.why}")])
            progress = {
                "cursor": page.cursor,
                "listed": sweep.c.listed + len(page.packages),
                "hinted": sweep.c.hinted + len(found) - len(backlog),
                "leased_until": transaction.now + self._config.lease,
            }
            _write(transaction, turn, progress)
        return [one for one in found if one not in backlog]

    def _take_in_unlisted(self, turn: _Turn, found: tuple[Found, ...]) -> tuple[Found, ...]:
        """Hints at the backlog that is not listed any more, a page at a time. Returns it."""
        with self._database.reading() as transaction:
            unlisted = _unlisted(transaction, found)
        for begin in range(0, len(unlisted), _UNLISTED_PAGE):
            with self._database.transaction() as transaction:
                for one in unlisted[begin : begin + _UNLISTED_PAGE]:
                    worklist.hint(transaction, one.package_id, "sweep")
                    journal.note(transaction, one.package_id, [Note("sweep", one.why)])
                _write(transaction, turn, {"leased_until": transaction.now + self._config.lease})
        return unlisted

    # Whose turn it is.

    def _is_due(self) -> bool:
        """One statement and no lock: most of the time no pass is due."""
        with self._database.reading() as transaction:
            row = transaction.execute(sa.select(sweep, self._database.time.label("now"))).mappings().one()
        return self._may_begin(row, row["now"], at_once=False)

    def _take_turn(self, *, at_once: bool, adopt: bool) -> _Turn | None:
        with self._database.transaction() as transaction:
            row = transaction.execute(sa.select(sweep).with_for_update()).mappings().one()
            now = transaction.now
            if not self._may_begin(row, now, at_once):
                return None
            # What a broken-off pass has put into the backlog must be listed again to be adopted; and what came into
            # Packed behind a page that is never answered must not wait for that page.
            resumed = row["under_way"] and not adopt and now - row["started_at"] < RESUMED_FOR
            turn = _Turn(row["fence"] + 1, row["cursor"] if resumed else 0, row["finished_at"] is None)
            begun = {"fence": turn.fence, "leased_until": now + self._config.lease}
            if not resumed:
                begun |= {"started_at": now, "under_way": True, "cursor": 0, "listed": 0, "hinted": 0, "problem": None}
            transaction.execute(sa.update(sweep).values(**begun))
            return turn

    def _may_begin(self, row: sa.RowMapping, now: datetime, at_once: bool) -> bool:
        if row["leased_until"] is not None and now < row["leased_until"] <= now + self._config.lease:
            return False
        began, interval = row["started_at"], self._config.sweep_interval
        rested = began is None or not began <= now < began + interval
        return row["under_way"] or rested or at_once

    def _end(self, turn: _Turn, swept: Swept, adopt: bool) -> Swept:
        if swept.problem is not None:
            self._break_off(turn, swept.problem)
            return swept
        if adopt:
            swept = replace(swept, found=swept.found + self._take_in_unlisted(turn, swept.found))
        with self._database.transaction() as transaction:
            missed = self._count_missed(transaction)
            backlog = len(worklist.backlog(transaction))
            ended = {"under_way": False, "finished_at": transaction.now, "leased_until": None, "problem": None}
            _write(transaction, turn, ended)
        _FINISHED.emit(listed=swept.listed, found=len(swept.found), missed=missed, backlog=backlog)
        return swept

    def _break_off(self, turn: _Turn, problem: str) -> None:
        """The pass goes on later where it stood, but after a wrong filter begins anew, an interval later."""
        with self._database.transaction() as transaction:
            rest = None if problem == STOPPED else transaction.now + RETRY_AFTER
            resumed = {"under_way": not problem.startswith(FILTER_IGNORED), "leased_until": rest, "problem": problem}
            _write(transaction, turn, resumed)
        if problem != STOPPED:
            _FAILED.emit(cause=problem)

    def _count_missed(self, transaction: Transaction) -> int:
        """Packages the sweep found an interval ago and no webhook has announced since; not those of the first pass."""
        counted_until = transaction.execute(sa.select(sweep.c.missed_until)).scalar()
        if counted_until is None:
            transaction.execute(sa.update(sweep).values(missed_until=transaction.now))
            return 0
        until = max(counted_until, transaction.now - self._config.sweep_interval)
        announced = sa.exists().where(deliveries.c.package_id == packages.c.package_id, deliveries.c.fate == "accepted")
        query = sa.select(sa.func.count()).where(
            packages.c.first_hint == "sweep",
            packages.c.created_at > counted_until,
            packages.c.created_at <= until,
            ~announced,
        )
        missed = int(transaction.execute(query).scalar_one())
        transaction.execute(sa.update(sweep).values(missed=sweep.c.missed + missed, missed_until=until))
        return missed


def _worth_a_look(
    transaction: Transaction, page: tuple[PackageSnapshot, ...], settings: Settings, *, adopt: bool
) -> list[Found]:
    found, cases = [], worklist.cases_of(transaction, [package.package_id for package in page])
    for package in page:
        case = cases.get(package.package_id)
        why = policy.worth_a_look(case, package, settings, transaction.now)
        if adopt and case is not None and case.reason is Reason.BACKLOG_TO_CONFIRM:
            why = "it waits to be adopted"
        if why is not None:
            found.append(Found(package.package_id, why))
    return found


def _unlisted(transaction: Transaction, found: tuple[Found, ...]) -> tuple[Found, ...]:
    """What waits to be adopted and is not listed any more: only a look ends its waiting."""
    listed = {one.package_id for one in found}
    why = "it waits to be adopted, but is not listed as Packed any more"
    return tuple(Found(one, why) for one in worklist.backlog(transaction) if one not in listed)


def _write(transaction: Transaction, turn: _Turn, values: Mapping[str, object]) -> None:
    mine = sa.update(sweep).where(sweep.c.fence == turn.fence).values(**values)
    if transaction.execute(mine).rowcount != 1:
        raise _TurnLost
