"""The worker: claims due packages and looks at them, a few at once, until it is told to stop."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType

import sqlalchemy as sa

from service import __version__, logs, worklist
from service.attend import Attendant
from service.config import Config
from service.database import Database, workers
from service.errors import DatabaseUnavailable
from service.oms import Oms
from service.worklist import Claim

HEARTBEAT_S = 10
DRAIN_WITHIN_S = 8


class Worker:
    """Claims as many packages as it has free threads, so that whatever is claimed is begun at once."""

    def __init__(self, config: Config, database: Database, name: str) -> None:
        self._config = config
        self._database = database
        self._name = name
        self._stopping = threading.Event()
        self._claimed: SimpleQueue[Claim | None] = SimpleQueue()
        self._changed = threading.Condition()
        self._busy = 0
        self._relooks = 0
        self._heard_at = 0.0

    def stop(self) -> None:
        """Claims nothing more; what is under way may finish. Safe to call from a signal handler."""
        self._stopping.set()

    def run(self) -> int:
        """Works until `stop`. Returns how many looks were still under way 8 s later."""
        threads = [
            threading.Thread(target=self._work, name=f"look-{number}", daemon=True)
            for number in range(self._config.oms_concurrency)
        ]
        for thread in threads:
            thread.start()
        logs.emit(
            "worker.started",
            worker=self._name,
            version=__version__,
            mode="live" if self._config.settings.live else "shadow",
            threads=len(threads),
        )
        while not self._stopping.is_set():
            self._claim_or_wait()
        return self._drain(len(threads))

    def _claim_or_wait(self) -> None:
        try:
            self._beat()
            claims = self._claim()
        except DatabaseUnavailable as problem:
            logs.emit("database.unavailable", where="worker", cause=str(problem))
            claims = ()
        for claimed in claims:
            self._claimed.put(claimed)
        if claims:
            with self._changed:
                self._changed.wait_for(lambda: self._busy < self._config.oms_concurrency, timeout=1)
        else:
            self._stopping.wait(self._database.poll_interval_s)

    def _claim(self) -> tuple[Claim, ...]:
        most = self._config.oms_concurrency
        with self._changed:
            free, relooks = most - self._busy, max(1, most // 2) - self._relooks
        if free <= 0:
            return ()
        claims = worklist.claim(self._database, free, relooks, self._config.lease, self._config.oms_rate_per_s)
        with self._changed:
            self._busy += len(claims)
            self._relooks += sum(not claimed.hinted for claimed in claims)
        return claims

    def _work(self) -> None:
        oms = Oms(self._config.oms)
        attendant = Attendant(self._database, oms, self._config.settings, self._config.lease, random.random)
        while (claimed := self._claimed.get()) is not None:
            try:
                attendant.attend(claimed)
            except DatabaseUnavailable as problem:
                logs.emit("database.unavailable", where="look", cause=str(problem))
            except Exception as problem:  # noqa: BLE001 - the last resort: one package must not stop the others
                trace = logs.trace_of(problem)
                logs.emit("look.crashed", package_id=claimed.case.package_id, error=type(problem).__name__, trace=trace)
            with self._changed:
                self._busy -= 1
                self._relooks -= not claimed.hinted
                self._changed.notify()
        oms.close()

    def _beat(self) -> None:
        """Writes the heartbeat row, once in 10 s."""
        if time.monotonic() - self._heard_at < HEARTBEAT_S and self._heard_at:
            return
        with self._database.transaction() as transaction:
            now = transaction.now
            insert = self._database.insert(workers).values(
                worker=self._name, version=__version__, started_at=now, seen_at=now
            )
            beat = insert.on_conflict_do_update(index_elements=[workers.c.worker], set_={"seen_at": now})
            transaction.execute(beat)
            transaction.execute(sa.delete(workers).where(workers.c.seen_at < now - 360 * self._config.lease))
        self._heard_at = time.monotonic()

    def _drain(self, threads: int) -> int:
        for _ in range(threads):
            self._claimed.put(None)
        with self._changed:
            self._changed.wait_for(lambda: self._busy == 0, timeout=DRAIN_WITHIN_S)
            unfinished = self._busy
        logs.emit("worker.stopped", worker=self._name, unfinished=unfinished)
        return unfinished


def run(config: Config, database: Database) -> None:
    """Runs a worker in this process until SIGTERM or SIGINT; ends within 10 s of it.

    A look that is still waiting for the OMS by then is left as it is: its lease and its attempt row are what
    the next worker goes by.
    """
    worker = Worker(config, database, f"{socket.gethostname()}:{os.getpid()}")
    on_signals(worker.stop)
    worker.run()


def on_signals(stop: Callable[[], None]) -> None:
    """Calls `stop` on SIGTERM and SIGINT."""

    def handle(signum: int, frame: FrameType | None) -> None:
        stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
