"""What a person does to packages and brakes: one function for each act, however it was asked for.

Each leaves a line in the package's timeline and one in the log of the process that carried it out.
"""

from __future__ import annotations

from dataclasses import dataclass

from service import brakes, journal, logs, worklist
from service.brakes import BY_OPERATOR
from service.database import Database
from service.policy import Note, Reason


@dataclass(frozen=True, slots=True)
class Acted:
    """Whether anything was changed, and what came of it in words."""

    done: bool
    text: str


def recheck(database: Database, package_id: int) -> Acted:
    """Looks at a package with fresh budgets, held or not, known or not."""
    with database.transaction() as transaction:
        row = worklist.find(transaction, package_id)
        if row is None:
            worklist.hint(database, transaction, package_id, "operator")
        elif row["reason"] == Reason.ACCEPTED_BUT_STILL_PACKED:
            journal.give_up_open(transaction, package_id)
        journal.note(transaction, package_id, [Note("operator", "asked to look again" if row else "asked to look")])
        known = row is not None and worklist.recheck(transaction, package_id)
    text = "is looked at again" if known else "new to us; is looked at now"
    return _recorded("recheck", Acted(True, text), package_id)


def dismiss(database: Database, package_id: int) -> Acted:
    """Leaves a package alone for as long as it stays Packed."""
    with database.transaction() as transaction:
        done = worklist.dismiss(transaction, package_id)
        if done:
            journal.note(transaction, package_id, [Note("operator", "dismissed")])
    text = "dismissed" if done else "no open case, or a command is under way"
    return _recorded("dismiss", Acted(done, text), package_id)


def pause(database: Database) -> Acted:
    """Stops new commands; deliveries are still accepted."""
    with database.transaction() as transaction:
        changed = brakes.pause(transaction, BY_OPERATOR)
    return _recorded("pause", Acted(changed, "paused" if changed else "was paused already"))


def resume(database: Database) -> Acted:
    """Allows commands again and closes the breaker."""
    with database.transaction() as transaction:
        changed = brakes.resume(transaction)
        worklist.look_again_at(transaction, Reason.BRAKE)
    return _recorded("resume", Acted(changed, "resumed" if changed else "nothing held commands back"))


def _recorded(action: str, acted: Acted, package_id: int | None = None) -> Acted:
    logs.emit("operator.acted", action=action, package_id=package_id, changed=acted.done)
    return acted
