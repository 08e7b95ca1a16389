"""The textbook's solution: a queue. Flask puts a task into Redis, Celery's worker sends the command, acknowledged late.

It remembers no uuid and reads nothing back: what comes twice is commanded twice, and what fails is an error in a log.
"""

from __future__ import annotations

import hmac
import importlib
import os
from typing import Any

import httpx
from flask import Flask, abort, request

from service import sender
from service.sandbox import PACKED

_celery = importlib.import_module("celery")
queue = _celery.Celery("textbook", broker=os.environ["BROKER_URL"])
queue.conf.update(task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=1)
_oms = httpx.Client(base_url=os.environ["OMS_BASE_URL"], timeout=10, trust_env=False)
_oms.headers["Authorization"] = f"Token {os.environ['OMS_TOKEN']}"


@queue.task  # type: ignore[untyped-decorator]  # Celery has no types
def ship(package_id: int) -> None:
    """One command."""
    body = {"transition": int(os.environ["SHIP_TRANSITION_ID"]), "package": package_id}
    _oms.post(f"/api/v1/oms/packages/{package_id}/command/", json=body).raise_for_status()


def create_app() -> Flask:
    """The web side."""
    app = Flask("textbook")

    @app.post("/webhooks/oms/packages")
    def receive() -> tuple[str, int]:
        body = request.get_data()
        signature = sender.sign(os.environ["WEBHOOK_SECRETS"], body)
        if not hmac.compare_digest(request.headers.get("X-Whisperer-Signature", ""), signature):
            abort(401)
        package = request.get_json()["payload"]
        if _is_packed(package):
            ship.delay(package["id"])
        return "", 204

    @app.get("/livez")
    def alive() -> str:
        return "ok"

    return app


def _is_packed(package: dict[str, Any]) -> bool:
    return all(one["state"]["enum_value"] == PACKED for one in (package, *package["packageitem_set"]))


@importlib.import_module("celery.signals").worker_ready.connect  # type: ignore[untyped-decorator]
def _ready(**_: object) -> None:
    print("worker.started", flush=True)
