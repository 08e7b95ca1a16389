"""What a person does to packages and brakes: one function for each act, however it was asked for.

Each leaves a line in the package's timeline, acts on the brakes one in the service's own, and one in the log of the
web process if that carried it out. Who and why stand in the timeline alone: the log holds no words of people.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from service import brakes, journal, logs, worklist
from service.brakes import BY_OPERATOR
from service.case import Note, Reason
from service.database import Database, Transaction

MAX_NAME = 60
MAX_WHY = 200
DISMISSED = "dismissed"
_OTHER_REASON = "it has another reason by now"

_ACTED = logs.Event(
    "operator.acted",
    logging.INFO,
    "A person did this through the console or the API; `changed` is false where there was nothing to change. Acts at "
    "the command line stand in the timeline alone.",
)


@dataclass(frozen=True, slots=True)
class Word:
    """Who asks for an act and why, as they said it; empty where they did not."""

    by: str = ""
    why: str = ""

    def added_to(self, act: str) -> str:
        """The act with who and why: `dismissed, by Ayşe: shipped by hand`."""
        by = f", by {tidy(self.by, MAX_NAME)}" if self.by else ""
        return f"{act}{by}{self._because()}"

    def as_cause(self) -> str:
        """The same as the cause of a pause: `by Ayşe: stock count`."""
        return (f"by {tidy(self.by, MAX_NAME)}" if self.by else BY_OPERATOR) + self._because()

    def _because(self) -> str:
        return f": {tidy(self.why, MAX_WHY)}" if self.why else ""


NO_WORD = Word()


@dataclass(frozen=True, slots=True)
class Acted:
    """Whether anything was changed, and what came of it in words."""

    done: bool
    text: str


def tidy(text: str, limit: int) -> str:
    """What a person typed, on one line: without what cannot be seen or turns the line around, cut to `limit`."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:limit].rstrip()


def recheck(database: Database, package_id: int, word: Word = NO_WORD, reason: str | None = None) -> Acted:
    """Looks at a package with fresh budgets, held or not, known or not; with `reason`, only if that is its reason."""
    with database.transaction() as transaction:
        row = worklist.find(transaction, package_id)
        done = row is None or worklist.recheck(transaction, package_id, reason)
        if row is None:
            worklist.hint(transaction, package_id, "operator")
        elif done and row["reason"] == Reason.ACCEPTED_BUT_STILL_PACKED:
            journal.give_up_open(transaction, package_id)
        if done:
            _note(transaction, package_id, word.added_to("asked to look again" if row else "asked to look"))
    text = "is looked at again" if row else "new to us; is looked at now"
    return _recorded("recheck", Acted(done, text if done else _OTHER_REASON), package_id)


def dismiss(database: Database, package_id: int, word: Word = NO_WORD, reason: str | None = None) -> Acted:
    """Leaves a package alone for as long as it stays Packed; with `reason`, only if that is still its reason."""
    with database.transaction() as transaction:
        done = worklist.dismiss(transaction, package_id, reason)
        if done:
            _note(transaction, package_id, word.added_to(DISMISSED))
    undone = "no open case, or a command is under way" if reason is None else _OTHER_REASON
    text = "dismissed" if done else undone
    return _recorded("dismiss", Acted(done, text), package_id)


def pause(database: Database, word: Word = NO_WORD) -> Acted:
    """Stops new commands; deliveries are still accepted."""
    with database.transaction() as transaction:
        changed = brakes.pause(transaction, word.as_cause())
        if changed:
            _note(transaction, journal.SERVICE, word.added_to("paused"))
    return _recorded("pause", Acted(changed, "paused" if changed else "was paused already"))


def resume(database: Database, word: Word = NO_WORD) -> Acted:
    """Allows commands again and closes the breaker; what the OMS asked to wait is waited all the same."""
    with database.transaction() as transaction:
        before = brakes.read(transaction, lock=True)
        changed = brakes.resume(transaction)
        if changed:
            _note(transaction, journal.SERVICE, word.added_to("resumed"))
        must_wait = before.asks_to_wait(transaction.now)
    worklist.look_at_held_back(database)
    text = "resumed" if changed else "was not paused"
    if before.paused_at is not None and not brakes.is_by_person(before.pause_cause):
        text = "resumed; it pauses again for as long as an hour's commands reach SHIP_MAX_PER_HOUR"
    if must_wait:
        text = f"{text}; but {brakes.ASKED_TO_WAIT}"
    return _recorded("resume", Acted(changed, text))


def _note(transaction: Transaction, package_id: int, text: str) -> None:
    journal.note(transaction, package_id, [Note("operator", text)])


def _recorded(action: str, acted: Acted, package_id: int | None = None) -> Acted:
    _ACTED.emit(action=action, package_id=package_id, changed=acted.done)
    return acted
