"""`autoship doctor`: looks at everything a shipment rests on and commands nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from service import brakes, diagnosis, hooks, register, sender, sweep
from service import config as configuration
from service.case import is_packed
from service.config import Config
from service.database import Database, deliveries, workers
from service.delivery import Authentication
from service.diagnosis import DatabaseProblem, Finding
from service.errors import (
    ConfigurationError,
    DatabaseOfAnotherOms,
    DatabaseOutdated,
    DatabaseUnavailable,
    OmsUnreachable,
)
from service.login import credentials
from service.oms import ListPage, Oms
from service.outcome import BadShape, NotFound, ReadFailed
from service.snapshot import Items, PackageSnapshot

# Linux's list of what is mounted where; elsewhere there is none.
MOUNTS = Path("/proc/self/mountinfo")


def examine(environ: Mapping[str, str]) -> list[Finding]:
    """Every check in its order."""
    try:
        config = configuration.load(environ)
    except ConfigurationError as problem:
        return diagnosis.complete(diagnosis.configuration(problem.problems))
    return diagnosis.complete([*diagnosis.configuration(()), *_examine(config, Database(config.database_url))])


def webhooks(config: Config, oms: Oms) -> Finding:
    """The registered webhooks."""
    try:
        return diagnosis.webhooks(register.plan(oms, register.wanted(config)))
    except (ConfigurationError, OmsUnreachable) as problem:
        return diagnosis.webhooks(str(problem))


def _examine(config: Config, database: Database) -> Iterator[Finding]:
    problem = _problem_of(config, database)
    yield from diagnosis.database(problem)
    if problem is None:
        yield _durability(config, database)
    if config.public_url is None:
        yield diagnosis.no_public_url()
    else:
        yield _public_url(config.public_url + hooks.RECEIVER_PATH, config.authentication)
    if problem is None:
        with database.reading() as transaction:
            seen_at = transaction.execute(sa.select(sa.func.max(workers.c.seen_at)))
            yield diagnosis.worker(seen_at.scalar(), transaction.now)
            found = brakes.read(transaction)
            held_back = found.against_command(brakes.SWEEP, transaction.now)
            yield diagnosis.commands_held(held_back, found.advice(transaction.now), live=config.settings.live)
            newest = sa.select(deliveries.c.last_seen_at).order_by(deliveries.c.delivery_id.desc()).limit(1)
            yield diagnosis.deliveries(transaction.execute(newest).scalar(), transaction.now)
    if problem is None or config.oms.omnitron is None:
        token = credentials(config.oms, database)
        # The clock that dates our attempts is the database's.
        oms = Oms(config.oms, token, lambda: _now(database)) if problem is None else Oms(config.oms, token)
        with closing(oms):
            yield from _oms(config, oms)
    database.dispose()


def _public_url(target_url: str, required: Authentication) -> Finding:
    """An empty delivery that shows nothing of what is required. Whatever stands in between may refuse it too."""
    answer = sender.post(target_url, b"", {"Content-Type": "application/json"}, follow_redirects=False)
    expected = 400 if required == Authentication(()) else 401
    if answer is None:
        return diagnosis.public_url(None, expected, by_us=False)
    return diagnosis.public_url(answer.status, expected, by_us=_is_error_of_ours(answer.body))


def _is_error_of_ours(body: bytes) -> bool:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(told, dict) and told.keys() == {"status", "reason"} and told["status"] == "error"


def _durability(config: Config, database: Database) -> Finding:
    if database.is_sqlite:
        file = Path(sa.make_url(config.database_url).database or "").resolve()
        mounts = MOUNTS.read_text(encoding="utf-8") if MOUNTS.exists() else ""
        return diagnosis.durable_file(diagnosis.file_system(str(file), mounts))
    with database.reading() as transaction:
        fsync = transaction.execute(sa.text("SHOW fsync")).scalar_one()
    return diagnosis.durable_server(fsync)


def _problem_of(config: Config, database: Database) -> DatabaseProblem | None:
    try:
        database.check(config.oms.base_url)
        database.probe_write()
    except (DatabaseOutdated, DatabaseOfAnotherOms, DatabaseUnavailable) as problem:
        return problem
    return None


def _oms(config: Config, oms: Oms) -> Iterator[Finding]:
    listed = oms.list_packed(sweep.listing_query(config))
    yield from diagnosis.answers(None if isinstance(listed, ListPage) else listed)
    if not isinstance(listed, ReadFailed):
        yield diagnosis.clock(oms.clock_ahead)
    if isinstance(listed, BadShape):
        yield diagnosis.list_filter(listed, config.settings)
    if not isinstance(listed, ListPage):
        return
    yield webhooks(config, oms)
    yield diagnosis.list_filter(listed.packages, config.settings)
    if listed.packages:
        after = min(package.package_id for package in listed.packages)
        behind = oms.list_packed(sweep.listing_query(config, after=after))
        yield diagnosis.list_order(after, behind.packages if isinstance(behind, ListPage) else None)
    chosen = diagnosis.sample(listed.packages, config.settings)
    if chosen is not None:
        yield from _package(config, oms, chosen.package_id)


def _package(config: Config, oms: Oms, package_id: int) -> Iterator[Finding]:
    read = oms.read_alone(package_id)
    if isinstance(read, PackageSnapshot | BadShape | NotFound):
        yield diagnosis.shape(read)
    else:
        yield from diagnosis.answers(read)
    if not isinstance(read, PackageSnapshot):
        return
    listed = oms.read_items(package_id)
    apart = listed if isinstance(listed, Items) else None
    yield diagnosis.items(read.items, apart)
    found = read.items or apart
    yield diagnosis.enum_class(read, found)
    if found is not None and found.items and found.problem is None and is_packed(read.state, config.settings):
        yield diagnosis.items_packed(found, config.settings)
    yield diagnosis.rule_fields(read, config.settings)
    yield diagnosis.modified_date(read)
    yield from diagnosis.offer(read, config.settings)
    yield diagnosis.transition_log(oms.transition_log(package_id), config.settings)


def _now(database: Database) -> datetime:
    with database.reading() as transaction:
        return transaction.now
