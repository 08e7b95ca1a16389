"""The simulator can fail: each of these takes one safeguard out of the product, and some history shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.sql.visitors import ExternallyTraversible, replacement_traverse

from service import inbox, journal, policy, worklist
from service.case import Attempt, Case
from service.database import Transaction, attempts, packages
from service.outcome import Accepted, Ambiguous, Command, CommandAnswer, NotSent
from service.policy import Verdict, View
from service.worklist import Claim
from tests.simulation.__main__ import found_in
from tests.simulation.history import Answered, History, Move, Outdated, Post, draw
from tests.simulation.run import Storage
from tests.simulation.test_histories import a_history

pytestmark = pytest.mark.usefixtures("unlogged")
SEEDS = range(1, 501)


def fence_unchecked(patch: pytest.MonkeyPatch) -> None:
    """Whoever once held the lease may write for ever."""
    patch.setattr(worklist, "_ours", lambda claimed: {"mine": claimed.case.package_id})
    for statement in ("_RELEASED", "_RENEWED"):
        unchecked: sa.Update = getattr(worklist, statement)
        patch.setattr(worklist, statement, replacement_traverse(unchecked, {}, _any_fence))


def gate_open(patch: pytest.MonkeyPatch) -> None:
    """The gate asks neither for the lease nor for open attempts: a worker that slept since its read sends too."""
    patch.setattr(worklist, "renew", lambda *_: True)
    patch.setattr(journal, "open_attempt", _opened_regardless)


def attempt_written_after_the_send(patch: pytest.MonkeyPatch) -> None:
    """A worker that ends while it waits for the answer leaves no trace of what it sent."""
    unwritten: dict[int, dict[str, Any]] = {}
    opened, answered = journal.open_attempt, journal.record_answer

    def open_attempt(transaction: Transaction, *what: Any) -> Attempt | None:
        attempt = opened(transaction, *what)
        if attempt is not None:
            row = attempts.c.attempt_id == attempt.attempt_id
            unwritten[attempt.attempt_id] = dict(transaction.execute(sa.select(attempts).where(row)).mappings().one())
            transaction.execute(sa.delete(attempts).where(row))
        return attempt

    def record_answer(transaction: Transaction, attempt: Attempt, answer: CommandAnswer) -> None:
        row = {key: value for key, value in unwritten[attempt.attempt_id].items() if key != "attempt_id"}
        added = transaction.execute(sa.insert(attempts).values(row).returning(attempts.c.attempt_id)).scalar_one()
        answered(transaction, replace(attempt, attempt_id=added), answer)

    patch.setattr(journal, "open_attempt", open_attempt)
    patch.setattr(journal, "record_answer", record_answer)


def no_read_back(patch: pytest.MonkeyPatch) -> None:
    """No answer is taken for a no."""
    answered = policy.after_command

    def after_command(view: View, attempt: Attempt, answer: CommandAnswer) -> tuple[Verdict, Attempt]:
        return answered(view, attempt, NotSent(answer.cause) if isinstance(answer, Ambiguous) else answer)

    patch.setattr(policy, "after_command", after_command)


def hints_under_a_lease_lost(patch: pytest.MonkeyPatch) -> None:
    """Giving a package back overwrites what was said about it meanwhile."""
    released = worklist.release

    def release(transaction: Transaction, claimed: Claim, *what: Any) -> bool:
        row = worklist.find(transaction, claimed.case.package_id)
        return released(transaction, replace(claimed, hint_seq=row["hint_seq"] if row else 0), *what)

    patch.setattr(worklist, "release", release)


def one_read_opens_an_episode(patch: pytest.MonkeyPatch) -> None:
    """A single read of Packed, which may be outdated, is taken for a new stay."""
    patch.setattr(policy, "_opening", lambda view, _: "a read in Packed")


def uuids_unknown(patch: pytest.MonkeyPatch) -> None:
    """The same event is a new one each time it arrives."""
    store, no_uuid = inbox._store, {"event_uuid": None}
    patch.setattr(inbox, "_store", lambda transaction, row: store(transaction, {**row, **no_uuid}))


# Acknowledged, and applied only later: long enough in Packed for an outdated node to show it so once it is closed.
OUTDATED = a_history(
    Move(1, 71, "pack"),
    Post(71, ((0.2, False), (9, True), (12, True))),
    Answered(71, Accepted(204), 0.1, applied_after_s=8),
    Outdated(12, 40, by_s=8),
)


# With each the history that showed it last, which is tried before the 500.
@pytest.mark.parametrize(
    ("sabotage", "likely"),
    [
        (fence_unchecked, draw(84)),
        (gate_open, draw(88)),
        (attempt_written_after_the_send, draw(16)),
        (no_read_back, draw(2)),
        (hints_under_a_lease_lost, draw(19)),
        (one_read_opens_an_episode, OUTDATED),
        (uuids_unknown, draw(1)),
    ],
)
def test_a_safeguard_taken_out_is_missed_within_500_histories(
    sabotage: Callable[[pytest.MonkeyPatch], None], likely: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage()
    assert found_in(likely, storage) == []
    sabotage(monkeypatch)
    assert found_in(likely, storage) or any(found_in(draw(seed), storage) for seed in SEEDS)


def _any_fence(element: ExternallyTraversible, **_: Any) -> ExternallyTraversible | None:
    return packages.c.fence if isinstance(element, sa.BindParameter) and element.key == "my_fence" else None


def _opened_regardless(
    transaction: Transaction, case: Case, fence: int, command: Command, deadline: timedelta
) -> Attempt:
    row: dict[str, Any] = {"package_id": case.package_id, "episode": case.episode, "fence": fence}
    row |= {"transition_id": command.transition_id}
    row |= {"started_at": transaction.now, "deadline_at": transaction.now + deadline}
    opened = transaction.execute(sa.insert(attempts).values(row).returning(attempts)).mappings().one()
    return journal._attempt(opened)
