"""The worker: claims due packages and looks at them, a few at once, until it is told to stop."""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType

import sqlalchemy as sa

from service import __version__, garbage, logs, retention, worklist
from service.attend import Attendant
from service.config import Config
from service.database import Database, workers
from service.errors import DatabaseUnavailable
from service.login import credentials
from service.oms import Oms
from service.sweep import Sweeper
from service.worklist import Claim

HEARTBEAT_S = 10
PRUNE_EVERY_S = 3600
# Where processes are restarted often, none may live for an hour.
FIRST_PRUNE_AFTER_S = 60
DRAIN_WITHIN_S = 8
# A claim for one package costs nearly as much as one for eight.
TOGETHER_S = 0.01
# Where the database cannot be used: each failure is a line in the log.
_AGAIN_AFTER_S = 5

_STARTED = logs.Event("worker.started", logging.INFO, "A worker looks for due packages.")
_STOPPED = logs.Event(
    "worker.stopped", logging.INFO, "A worker stopped; `unfinished` looks are taken up again after their lease."
)
_PRUNED = logs.Event(
    "database.pruned", logging.INFO, "What was older than RETENTION_DAYS was deleted: so many rows of each table."
)
_CLOCK_SET_BACK = logs.Event(
    "clock.set_back",
    logging.WARNING,
    "The database's clock was set back; what was put off is put off as long as before.",
)


class Worker:
    """Claims as many packages as it has free threads, so that whatever is claimed is begun at once."""

    def __init__(self, config: Config, database: Database, name: str) -> None:
        self._config = config
        self._database = database
        self._name = name
        self._credentials = credentials(config.oms, database)
        self._stop_at: float | None = None
        self._stopping = threading.Event()
        self._claimed: SimpleQueue[Claim | None] = SimpleQueue()
        # What the main loop waits for: a finished look, or None for a wake-up.
        self._events: SimpleQueue[Claim | None] = SimpleQueue()
        self._busy = 0
        self._relooks = 0
        self._claimed_at = 0.0
        self._more_expected = False
        self._heard_at: float | None = None

    def stop(self) -> None:
        """Claims nothing more; what is under way may finish. Safe to call from a signal handler."""
        self._stop_at = self._stop_at or time.monotonic()
        self._wake()

    def run(self) -> None:
        """Works until `stop`; looks still under way 8 s later are left to their leases."""
        threads = [
            threading.Thread(target=self._work, name=f"look-{number}", daemon=True)
            for number in range(self._config.oms_concurrency)
        ]
        others = [
            threading.Thread(target=self._listen, name="wake-ups", daemon=True),
            threading.Thread(target=self._prune, name="prune", daemon=True),
        ]
        if self._config.sweep_interval:
            others.append(threading.Thread(target=self._sweep, name="sweep", daemon=True))
        for thread in (*threads, *others):
            thread.start()
        _STARTED.emit(
            worker=self._name,
            version=__version__,
            mode="live" if self._config.settings.live else "shadow",
            threads=len(threads),
        )
        while self._stop_at is None:
            self._wait(self._database.poll_interval_s if self._claim() else _AGAIN_AFTER_S)
        self._stopping.set()
        self._drain(len(threads), self._stop_at + DRAIN_WITHIN_S)

    def _claim(self) -> bool:
        """Takes up what is due and finds a free thread. False where the database cannot be used."""
        most = self._config.oms_concurrency
        free, relooks = most - self._busy, max(1, most // 2) - self._relooks
        try:
            self._beat()
            if free <= 0:
                return True
            claims = worklist.claim(
                self._database,
                free,
                relooks,
                self._config.lease,
                self._config.oms_rate_per_s,
                more_expected=self._more_expected,
            )
        except DatabaseUnavailable as problem:
            logs.DATABASE_UNAVAILABLE.emit(where="worker", cause=str(problem))
            return False
        self._claimed_at = time.monotonic()
        self._more_expected = len(claims) > 0 and len(claims) in (free, relooks)
        for claimed in claims:
            self._busy += 1
            self._relooks += not claimed.hinted
            self._claimed.put(claimed)
        return True

    def _wait(self, most_s: float) -> None:
        """Until something happened, and counts the looks that finished.

        Looks that finish one after the other are claimed for together; a wake-up ends the wait at once.
        """
        together_until = self._claimed_at + TOGETHER_S
        try:
            while True:
                finished = self._events.get(timeout=most_s)
                if finished is None:
                    together_until = 0.0
                else:
                    self._busy -= 1
                    self._relooks -= not finished.hinted
                most_s = max(0.0, together_until - time.monotonic())
        except Empty:
            return

    def _wake(self) -> None:
        self._events.put(None)  # unlike an Event's `set`, safe within a signal handler

    def _work(self) -> None:
        oms = Oms(self._config.oms, self._credentials)
        attendant = Attendant(self._database, oms, self._config.settings, self._config.lease, random.random)
        while (claimed := self._claimed.get()) is not None:
            self._guarded("look", partial(attendant.attend, claimed), claimed.case.package_id)
            self._events.put(claimed)
        oms.close()

    @staticmethod
    def _guarded(where: str, work: Callable[[], object], package_id: int | None = None) -> None:
        try:
            work()
        except DatabaseUnavailable as problem:
            logs.DATABASE_UNAVAILABLE.emit(where=where, cause=str(problem))
        except Exception as problem:  # noqa: BLE001 - the last resort: one package must not stop the others
            error, trace = type(problem).__name__, logs.trace_of(problem)
            logs.LOOK_CRASHED.emit(where=where, package_id=package_id, error=error, trace=trace)

    def _sweep(self) -> None:
        """Sweeps when it is due and no other worker does."""
        oms = Oms(self._config.oms, self._credentials)
        sweeper = Sweeper(self._config, self._database, oms, self._stopping.wait)
        while not self._stopping.wait(sweeper.poll_interval_s):
            self._guarded("sweep", sweeper.sweep_if_due)
        oms.close()

    def _prune(self) -> None:
        """Deletes what is old soon after the start, and then once an hour; several workers may do so at once."""
        pause_s = FIRST_PRUNE_AFTER_S
        while not self._stopping.wait(pause_s):
            self._guarded("prune", self._prune_once)
            pause_s = PRUNE_EVERY_S

    def _prune_once(self) -> None:
        deleted = retention.prune(self._database, self._config.retention, self._stopping.wait)
        _PRUNED.emit(
            deliveries=deleted["deliveries"],
            quarantine=deleted["quarantine"],
            timeline=deleted["timeline"],
            attempts=deleted["attempts"],
        )

    def _listen(self) -> None:
        """Waits for wake-ups on a connection of its own; without one, polling goes on."""
        while self._stop_at is None:
            try:
                self._database.listen(self._wake, until=lambda: self._stop_at is not None)
                return
            except DatabaseUnavailable as problem:
                logs.DATABASE_UNAVAILABLE.emit(where="wake-ups", cause=str(problem))
                time.sleep(_AGAIN_AFTER_S)

    def _beat(self) -> None:
        """Writes the heartbeat row, once in 10 s."""
        if self._heard_at is not None and time.monotonic() - self._heard_at < HEARTBEAT_S:
            return
        with self._database.transaction() as transaction:
            set_back = worklist.follow_clock(transaction)
            now = transaction.now
            insert = self._database.insert(workers).values(
                worker=self._name, version=__version__, started_at=now, seen_at=now
            )
            beat = insert.on_conflict_do_update(index_elements=[workers.c.worker], set_={"seen_at": now})
            transaction.execute(beat)
            transaction.execute(sa.delete(workers).where(workers.c.seen_at < now - 360 * self._config.lease))
        self._heard_at = time.monotonic()
        if set_back is not None:
            _CLOCK_SET_BACK.emit(by_s=set_back.total_seconds())

    def _drain(self, threads: int, deadline: float) -> None:
        for _ in range(threads):
            self._claimed.put(None)
        while self._busy and (left_s := deadline - time.monotonic()) > 0:
            self._wait(left_s)
        _STOPPED.emit(worker=self._name, unfinished=self._busy)


def run(config: Config, database: Database) -> None:
    """Runs a worker in this process until SIGTERM or SIGINT; ends within 10 s of it.

    A look that is still waiting for the OMS by then is left as it is: its lease and its attempt row are what
    the next worker goes by.
    """
    worker = Worker(config, database, f"{socket.gethostname()}:{os.getpid()}")
    on_signals(worker.stop)
    garbage.settle()
    worker.run()


def on_signals(stop: Callable[[], None]) -> None:
    """Calls `stop` on SIGTERM and SIGINT."""

    def handle(signum: int, frame: FrameType | None) -> None:
        stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
