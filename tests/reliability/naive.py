"""What one writes in an afternoon: command in the request, remember the uuid. For comparison, never for use."""

from __future__ import annotations

import hmac
import json
import os
import sqlite3

import httpx
from flask import Flask, abort, request

from service import sender


def create_app() -> Flask:
    """The WSGI application; everything comes from the environment."""
    app = Flask("naive")
    database, secret = os.environ["NAIVE_DATABASE"], os.environ["WEBHOOK_SECRETS"]
    oms = httpx.Client(base_url=os.environ["OMS_BASE_URL"], timeout=10, trust_env=False)
    oms.headers["Authorization"] = f"Token {os.environ['OMS_TOKEN']}"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS seen (uuid TEXT PRIMARY KEY)")

    @app.post("/webhooks/oms/packages")
    def receive() -> str:
        body = request.get_data()
        if not hmac.compare_digest(request.headers.get("X-Whisperer-Signature", ""), sender.sign(secret, body)):
            abort(401)
        document = json.loads(body)
        uuid, package = document["event"]["uuid"], document["payload"]
        with sqlite3.connect(database, timeout=5) as connection:
            known = connection.execute("SELECT 1 FROM seen WHERE uuid = ?", (uuid,)).fetchone()
        if known is None:
            if _is_packed(package):
                command = {"transition": int(os.environ["SHIP_TRANSITION_ID"]), "package": package["id"]}
                oms.post(f"/api/v1/oms/packages/{package['id']}/command/", json=command)
            with sqlite3.connect(database, timeout=5) as connection:
                connection.execute("INSERT OR IGNORE INTO seen VALUES (?)", (uuid,))
        return "ok"

    @app.get("/livez")
    def alive() -> str:
        return "ok"

    return app


def _is_packed(package: dict[str, object]) -> bool:
    states = [package["state"], *(item["state"] for item in package["packageitem_set"])]  # type: ignore[attr-defined]
    return all(state["enum_value"] == "500" for state in states)
