"""The sending side of the OMS's webhooks, as dj-whisperer 0.5.3 does it: for test deliveries and the sandbox."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a delivery was answered."""

    status: int
    body: bytes


def encode(event_type: str, uuid_hex: str, payload: Mapping[str, object]) -> bytes:
    """The body: JSON with default separators and ASCII escapes (tasks.py and client.py)."""
    return json.dumps({"event": {"type": event_type, "uuid": uuid_hex}, "payload": payload}).encode()


def sign(secret: str, body: bytes) -> str:
    """The signature of `body` (client.py)."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def headers(
    event_type: str, body: bytes, secret: str | None, additional: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The request's headers; `additional` ones win whatever their case, and an empty secret signs nothing."""
    made = {"Content-Type": "application/json", "X-Whisperer-Event": event_type}
    if secret:
        made["X-Whisperer-Signature"] = sign(secret, body)
    added = additional or {}
    taken = {name.lower() for name in added}
    return {name: value for name, value in made.items() if name.lower() not in taken} | dict(added)


def post(url: str, body: bytes, headers: Mapping[str, str], *, follow_redirects: bool = True) -> Answer | None:
    """Sends one delivery. None where no answer came. Follows redirects, as that sender does."""
    try:
        answer = httpx.post(
            url,
            content=body,
            headers=dict(headers),
            timeout=_TIMEOUT_S,
            follow_redirects=follow_redirects,
            trust_env=False,
        )
    except (httpx.HTTPError, httpx.InvalidURL):
        return None
    return Answer(answer.status_code, answer.content)
