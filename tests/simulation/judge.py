"""What must be true of every history. The OMS's ledger is the judge, not our database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import sqlalchemy as sa

from service import journal
from service.case import CaseState
from service.database import attempts, deliveries
from service.outcome import Accepted, Ambiguous, Misconfigured, Throttled, Unauthorised
from tests.simulation.history import TIMEOUT_S, Disruption, Outage
from tests.simulation.oms import PACKED, SHIPPED, Package, Received
from tests.simulation.run import Simulation, is_dismissed, rows_of

READ_AGE_S, FIRST_BYTE_S, SLACK_S = 5.0, 1.0, 0.1
SETTLE_S = 3.0
HEARD_WITHIN_S = 60.0


def violations(simulation: Simulation) -> list[str]:
    """Every broken promise, in words."""
    judges = (_commands, _holds, _hints, _effects, _claims, _accounting, _ends)
    return [f"{judge.__name__[1:]}: {found}" for judge in judges for found in judge(simulation)]


def _commands(simulation: Simulation) -> Iterator[str]:
    """Each command rests on a fresh read of its own look, and on what the ones before it have proven."""
    before: dict[int, list[Received]] = defaultdict(list)
    for one in simulation.oms.received:
        named = f"command for {one.package_id} at {one.at_s:.1f} s"
        if not simulation.history.live:
            yield f"{named} in shadow mode"
        if one.package_id in simulation.history.foreign:
            yield f"{named}, which a rule leaves to others"
        basis = one.basis
        if basis is None or not basis.allows_command:
            yield f"{named} though its read did not allow it"
        elif one.at_s - basis.ended_s > READ_AGE_S + FIRST_BYTE_S + SLACK_S:
            yield f"{named} rests on a read that ended at {basis.ended_s:.1f} s"
        for earlier in before[one.package_id]:
            if earlier.stay is one.stay and not _allows_another(simulation, earlier, one):
                yield f"{named} after the one at {earlier.at_s:.1f} s, which was answered {earlier.answer}"
        before[one.package_id].append(one)
        yield from _budget(simulation, before[one.package_id], named)


def _allows_another(simulation: Simulation, earlier: Received, later: Received) -> bool:
    """Whether, after the earlier command, the reads since prove that another may be sent in the same stay."""
    if any(one == later.package_id and earlier.at_s < at_s < later.at_s for at_s, one in simulation.rechecked):
        return True
    if isinstance(earlier.answer, Accepted) and _is_recorded(simulation, earlier):
        return False
    if not isinstance(earlier.answer, Accepted | Ambiguous):
        return True
    seen = simulation.oms.packages[later.package_id].seen
    since = [
        one.began_s for one in seen if one.shows_packed and earlier.at_s < one.began_s and one.ended_s < later.at_s
    ]
    if isinstance(earlier.answer, Ambiguous) and earlier.answer.concluded:
        return any(began_s >= earlier.at_s + SETTLE_S for began_s in since)
    return len(since) >= 2 and max(since) >= earlier.at_s + 3 * TIMEOUT_S


def _is_recorded(simulation: Simulation, received: Received) -> bool:
    """Whether the worker lived to write the acceptance down."""
    with simulation.database.reading() as transaction:
        rows = journal.attempts_of(transaction, [received.package_id])
    sent = (row for row in rows if 0 <= received.at_s - simulation.seconds(row["started_at"]) <= FIRST_BYTE_S + SLACK_S)
    return any(row["outcome"] == "accepted" for row in sent)


def _budget(simulation: Simulation, sent: list[Received], named: str) -> Iterator[str]:
    """Refused or proven not applied: so many in an episode, then a person."""
    newest = sent[-1]
    spent = [one for one in sent if one.stay is newest.stay and not _is_brake(one)]
    rechecks = sum(package_id == newest.package_id for _, package_id in simulation.rechecked)
    if len(spent) > simulation.settings.command_max_attempts * (1 + rechecks):
        yield f"{named} is number {len(spent)} of its stay"


def _is_brake(one: Received) -> bool:
    answer = one.answer
    return isinstance(answer, Throttled | Misconfigured) or (isinstance(answer, Unauthorised) and answer.status == 401)


def _holds(simulation: Simulation) -> Iterator[str]:
    """Pause and breaker hold; only a probe passes an open breaker."""
    for since_s, until_s in simulation.paused:
        late = [one.at_s for one in simulation.oms.received if since_s + FIRST_BYTE_S + SLACK_S < one.at_s < until_s]
        if late:
            yield f"paused from {since_s:.1f} s, but commands at {late}"
    for outage in simulation.oms.outages:
        sent = [one for one in simulation.oms.received if outage.at_s <= one.at_s < outage.until_s and _is_brake(one)]
        probes = 1 + (outage.until_s - outage.at_s) // _interval_s(outage)
        if len(sent) > simulation.history.workers + probes:
            yield f"{len(sent)} commands while the OMS answered {outage.answer}"


def _interval_s(outage: Outage) -> float:
    return outage.answer.retry_after.total_seconds() if isinstance(outage.answer, Throttled) else 30.0


def _hints(simulation: Simulation) -> Iterator[str]:
    """While nothing is out of order, whoever says "look at this package" is heard within a minute."""
    if any(isinstance(event, Outage | Disruption) for event in simulation.history.events):
        return
    for at_s, package_id in simulation.hinted:
        reads = simulation.oms.packages[package_id].read_at_s
        if not any(at_s <= read_at_s <= at_s + HEARD_WITHIN_S for read_at_s in reads):
            yield f"{package_id} was hinted at {at_s:.1f} s and not read within {HEARD_WITHIN_S:.0f} s"


def _effects(simulation: Simulation) -> Iterator[str]:
    """One stay in Packed is shipped by us at most once."""
    for package in simulation.oms.packages.values():
        for stay in package.stays:
            if stay.effects > 1:
                yield f"{package.package_id} was shipped {stay.effects} times in its stay {stay.number}"


def _claims(simulation: Simulation) -> Iterator[str]:
    """Shipped is claimed only of what was shipped while a command of ours could have done it, and not denied."""
    for package_id, row in rows_of(simulation.database).items():
        package = simulation.oms.packages[package_id]
        if row["state"] == CaseState.SHIPPED and not _was_shipped(simulation, package):
            yield f"{package_id} is claimed as shipped by {row['evidence']}"
        denied = row["state"] == CaseState.ALREADY_SHIPPED or row["reason"] in ("left_packed", "cancelled")
        if denied and package.stays and package.stays[-1].effects:
            yield f"{package_id} was shipped by us but is {row['state']}/{row['reason']}"


def _was_shipped(simulation: Simulation, package: Package) -> bool:
    ours = [one for one in simulation.oms.received if one.package_id == package.package_id]
    if not ours:
        return _might_have_sent(simulation, package) and any(stay.left_for == SHIPPED for stay in package.stays)
    stays = package.stays[ours[-1].stay.number - 1 :]
    # An OMS that answers 204 and does nothing is believed once the package leaves Packed.
    return isinstance(ours[-1].answer, Accepted) or any(stay.left_for == SHIPPED for stay in stays)


def _might_have_sent(simulation: Simulation, package: Package) -> bool:
    """Whether a sender stopped between its attempt's row and its first byte: nobody can know that nothing left."""
    unanswered = (attempts.c.package_id == package.package_id, attempts.c.outcome.is_(None))
    with simulation.database.reading() as transaction:
        return transaction.execute(sa.select(attempts.c.attempt_id).where(*unanswered)).first() is not None


def _accounting(simulation: Simulation) -> Iterator[str]:
    """Every delivery that was answered is counted on its event's one row."""
    with simulation.database.reading() as transaction:
        rows = transaction.execute(sa.select(deliveries.c.event_uuid, deliveries.c.seen)).all()
    seen = {row.event_uuid: row.seen for row in rows}
    if seen != simulation.delivered or len(rows) != len(seen):
        answered = sum(simulation.delivered.values())
        yield f"{answered} deliveries were answered, the inbox has {sum(seen.values())} in {len(rows)} rows"


def _ends(simulation: Simulation) -> Iterator[str]:
    """After the last fault and some sweeps: shipped, or with a person and a reason; nothing waits for nothing."""
    rows = rows_of(simulation.database)
    for package in simulation.oms.packages.values():
        row = rows.get(package.package_id)
        where = (
            f"{package.package_id} ends as {row['state']}/{row['reason']}"
            if row
            else f"{package.package_id} is unknown"
        )
        if row is not None and row["leased_until"] is not None:
            yield f"{where} under a lease"
        if row is not None and row["state"] in ("waiting", "would_ship") and row["due_at"] is None:
            yield f"{where} and is never looked at again"
        if row is not None and row["state"] == CaseState.SHIPPING:
            yield f"{where}, unconfirmed"
        if package.state == PACKED and not _is_settled(simulation, package, row):
            yield f"{where}, though it is Packed"


def _is_settled(simulation: Simulation, package: Package, row: sa.RowMapping | None) -> bool:
    if row is None:
        return False
    if package.package_id in simulation.history.foreign:
        return bool(row["reason"] == "rule") or bool(row["held"])
    if row["state"] == CaseState.NEEDS_ATTENTION or is_dismissed(row):
        return bool(row["held"])
    return not simulation.history.live and row["state"] == CaseState.WOULD_SHIP
