"""The job queues that `tests.bench.engine` compares with: each keeps due work and runs it.

`enqueue` stores work, one commit each. `drain` does nothing about each piece and records that it is done. `hold` begins
one and never finishes it. `after_far_retry` puts a package off by an hour, adds new work for it, and returns the
seconds until that begins.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import signal
import time
from collections.abc import Callable
from datetime import timedelta

THREADS = 8
FAR = timedelta(hours=1)


class Procrastinate:
    """A job for each hint, a lock for each package; as "procrastinate + rescue" it retries stalled jobs."""

    def __init__(self, name: str, place: str) -> None:
        library = importlib.import_module("procrastinate")
        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        self.app = library.App(connector=library.PsycopgConnector(conninfo=place, max_size=THREADS + 2))
        self.rescues = name.endswith("rescue")
        self.ran = 0
        postponed = library.RetryStrategy(max_attempts=2, wait=int(FAR.total_seconds()))
        self.task = self.app.task(name="task", retry=postponed)(self._run)

    def enqueue(self, count: int) -> None:
        asyncio.run(self._enqueue(count, "stick" if count == 1 else "nothing"))

    def drain(self, count: int) -> None:
        asyncio.run(self._work())
        if self.ran != count:
            raise RuntimeError(f"procrastinate ran {self.ran} of {count} jobs")

    def hold(self) -> None:
        asyncio.run(self._work(waits=True))

    def after_far_retry(self, within_s: float) -> float | None:
        asyncio.run(self._enqueue(1, "fail"))
        asyncio.run(self._work())
        asyncio.run(self._enqueue(1, "nothing"))
        return seconds_until(self._has_run, within_s, pause_s=1)

    def _has_run(self) -> bool:
        asyncio.run(self._work())
        return self.ran > 0

    async def _enqueue(self, count: int, what: str) -> None:
        async with self.app.open_async():
            if not await self.app.check_connection_async():
                await self.app.schema_manager.apply_schema_async()
            for package_id in range(1, count + 1):
                await self.task.configure(lock=f"package {package_id}").defer_async(what=what)

    async def _work(self, waits: bool = False) -> None:
        async with self.app.open_async():
            worker = asyncio.create_task(self.app.run_worker_async(concurrency=THREADS, wait=waits))
            while self.rescues and not worker.done():
                for job in await self.app.job_manager.get_stalled_jobs():
                    await self.app.job_manager.retry_job(job)
                await asyncio.sleep(1)
            await worker

    async def _run(self, what: str) -> None:
        if what == "fail":
            raise RuntimeError("not now")
        if what == "stick":
            say("began")
            await asyncio.Event().wait()
        self.ran += 1


class Huey:
    """A task for each hint, in SQLite with fsync on. It has no lock that waits, so it runs without one."""

    def __init__(self, _: str, place: str) -> None:
        self.huey = importlib.import_module("huey").SqliteHuey(filename=place, fsync=True)
        self.ran: list[bool] = []
        self.task = self.huey.task(name="task")(self._run)

    def enqueue(self, count: int) -> None:
        for _ in range(count):
            self.task(sticks=count == 1)

    def drain(self, count: int) -> None:
        consumer = self.huey.create_consumer(workers=THREADS, periodic=False)
        consumer.start()
        seconds_until(lambda: len(self.ran) >= count, within_s=120, pause_s=0.001)
        consumer.stop(graceful=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def hold(self) -> None:
        self.huey.create_consumer(workers=1).run()

    def _run(self, sticks: bool) -> None:
        if sticks:
            say("began")
            time.sleep(3600)
        self.ran.append(sticks)


def say(word: str) -> None:
    print(word, flush=True)


def seconds_until(happened: Callable[[], bool], within_s: float, pause_s: float) -> float | None:
    began = time.monotonic()
    while not happened():
        if time.monotonic() - began > within_s:
            return None
        time.sleep(pause_s)
    return time.monotonic() - began
