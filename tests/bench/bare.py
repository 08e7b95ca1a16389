"""The least a webhook's receiver can do: Flask that reads the body and answers 204."""

from __future__ import annotations

from flask import Flask, request


def create_app() -> Flask:
    app = Flask("bare")

    @app.post("/webhooks/oms/packages")
    def receive() -> tuple[str, int]:
        request.get_data(cache=False)
        return "", 204

    @app.get("/livez")
    def alive() -> str:
        return "ok"

    return app
