"""The least that keeps the promises, to see what they cost in plain code, before anything is decided or explained.

It stores a delivery before it answers, reads a package before it commands it, writes an attempt's row before it sends
the command, and its answer after, and reads back what was shipped; each with one statement of the driver alone, on
Flask and httpx. It keeps no reason, no timeline, no brakes and no budgets, and survives no fault. It is no proof of a
bound: nothing is written for several packages at once.
"""

from __future__ import annotations

import hmac
import os
import threading
from queue import Empty, SimpleQueue

import httpx
import psycopg
from flask import Flask, abort, request

from service import sender
from service.sandbox import PACKED

SETTLE_S = 3
_SCHEMA = """
    CREATE TABLE floor_deliveries (uuid text PRIMARY KEY);
    CREATE TABLE floor_packages (package_id bigint PRIMARY KEY, due_at timestamptz, state text NOT NULL,
        changed_at timestamptz NOT NULL);
    CREATE INDEX ON floor_packages (due_at) WHERE due_at IS NOT NULL;
    CREATE TABLE floor_attempts (package_id bigint PRIMARY KEY, status int)
"""
_STORED = """
    WITH delivery AS (INSERT INTO floor_deliveries VALUES (%s) ON CONFLICT DO NOTHING),
    told AS (SELECT pg_notify('floor', ''))
    INSERT INTO floor_packages SELECT %s, now(), 'waiting', now() FROM told ON CONFLICT DO NOTHING
"""
_CLAIMED = """
    UPDATE floor_packages SET due_at = now() + interval '1 minute' WHERE package_id IN
    (SELECT package_id FROM floor_packages WHERE due_at <= now() ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED)
    RETURNING package_id, state
"""
_OPENED = "INSERT INTO floor_attempts (package_id) VALUES (%s)"
_ANSWERED = """
    WITH answer AS (UPDATE floor_attempts SET status = %s WHERE package_id = %s)
    UPDATE floor_packages SET due_at = now() + %s * interval '1 second', state = 'commanded' WHERE package_id = %s
"""
_SHIPPED = (
    "UPDATE floor_packages SET due_at = NULL, state = 'shipped', changed_at = clock_timestamp() WHERE package_id = %s"
)
SHIPPED_AT = "SELECT extract(epoch FROM changed_at) FROM floor_packages WHERE state = 'shipped'"


def connection() -> psycopg.Connection:
    """One that commits each statement and prepares it when it first comes."""
    return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, prepare_threshold=0)


def create_app() -> Flask:
    """The web side."""
    app = Flask("floor")
    mine = threading.local()

    @app.post("/webhooks/oms/packages")
    def receive() -> tuple[str, int]:
        body = request.get_data()
        signature = sender.sign(os.environ["WEBHOOK_SECRETS"], body)
        if not hmac.compare_digest(request.headers.get("X-Whisperer-Signature", ""), signature):
            abort(401)
        document = request.get_json()
        if document["payload"]["state"]["enum_value"] == PACKED:
            if not hasattr(mine, "connection"):
                mine.connection = connection()
            mine.connection.execute(_STORED, (document["event"]["uuid"], document["payload"]["id"]))
        return "", 204

    @app.get("/livez")
    def alive() -> str:
        return "ok"

    return app


class Worker:
    """Claims for as many threads as are free."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._free = threads
        self._claimed: SimpleQueue[tuple[int, str]] = SimpleQueue()
        self._events: SimpleQueue[int] = SimpleQueue()

    def run(self) -> None:
        """Until it is killed."""
        for _ in range(self._threads):
            threading.Thread(target=self._work, daemon=True).start()
        threading.Thread(target=self._listen, daemon=True).start()
        with connection() as mine:
            print("worker.started", flush=True)
            while True:
                found = mine.execute(_CLAIMED, (self._free,)).fetchall() if self._free else []
                for one in found:
                    self._claimed.put(one)
                self._free -= len(found)
                self._wait()

    def _wait(self) -> None:
        try:
            self._free += self._events.get(timeout=0.5)
            while True:
                self._free += self._events.get_nowait()
        except Empty:
            return

    def _listen(self) -> None:
        with connection() as mine:
            mine.execute("LISTEN floor")
            for _ in mine.notifies():
                self._events.put(0)

    def _work(self) -> None:
        oms = httpx.Client(base_url=os.environ["OMS_BASE_URL"], timeout=10, trust_env=False)
        oms.headers["Authorization"] = f"Token {os.environ['OMS_TOKEN']}"
        with connection() as mine:
            while True:
                package_id, state = self._claimed.get()
                package = oms.get(f"/api/v1/oms/packages/{package_id}/").json()
                if state == "commanded":
                    if package["state"]["enum_value"] != PACKED:
                        mine.execute(_SHIPPED, (package_id,))
                elif all(one["state"]["enum_value"] == PACKED for one in (package, *package["packageitem_set"])):
                    mine.execute(_OPENED, (package_id,))
                    body = {"transition": int(os.environ["SHIP_TRANSITION_ID"]), "package": package_id}
                    answer = oms.post(f"/api/v1/oms/packages/{package_id}/command/", json=body)
                    mine.execute(_ANSWERED, (answer.status_code, package_id, SETTLE_S, package_id))
                self._events.put(1)


def prepare(url: str) -> None:
    """Makes its tables."""
    with psycopg.connect(url) as mine:
        mine.execute(_SCHEMA)


if __name__ == "__main__":
    Worker(int(os.environ["OMS_CONCURRENCY"])).run()
