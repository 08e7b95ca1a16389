"""The webhook boundary: bytes and headers in, one delivery out, or one exception for any bytes."""

from __future__ import annotations

import base64
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

from marshmallow import ValidationError, fields

from service.errors import DeliveryRejected
from service.wire import MAX_ID, Id, State, StateValue, Text, TolerantSchema

# ASSUMED: the OMS signs as its sender library does: sha256=<hex of HMAC-SHA256(secret, body)> over the bytes sent
# (dj-whisperer 0.5.3, client.py).
SIGNATURE_HEADER = "x-whisperer-signature"
_SIGNATURE = re.compile(r"sha256=([0-9a-f]{64})\Z", re.ASCII)
_JSON_MEDIA_TYPE = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json\Z", re.ASCII)


# The package events of the OMS's webhook pages. Others are accepted too: the list may grow.
EVENT_TYPES = frozenset(
    {
        "package.created",
        "package.status.transitioned",
        "package.status.packed",
        "package.status.shipped",
        "package.status.cancelled",
        "package.status.packed_for_refund",
        "package.shipment.awb_number",
        "package.refused",
    }
)


@dataclass(frozen=True, slots=True)
class Authentication:
    """What a delivery must show. No secret means that unsigned deliveries were allowed on purpose."""

    secrets: tuple[str, ...]
    basic: str | None = None
    header: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """An authentic delivery that names a package. `state` is None when that part cannot be read."""

    package_id: int
    event_uuid: str | None
    event_type: str | None
    state: StateValue | None
    secret_index: int | None = None


@dataclass(frozen=True, slots=True)
class Unusable:
    """An authentic delivery that cannot be worked with and would not get better by being sent again."""

    reason: str
    event_uuid: str | None = None
    event_type: str | None = None
    secret_index: int | None = None


class EventUuid(fields.Field[str]):
    """32 lowercase hex digits. The sender sends them bare; the OMS's API may print dashes."""

    _HEX = re.compile(r"[0-9a-f]{32}\Z", re.ASCII)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = value.replace("-", "").lower() if isinstance(value, str) else ""
        if not self._HEX.match(text):
            raise ValidationError("not a uuid")
        return text


class _Event(TolerantSchema):
    type = Text()
    uuid = EventUuid()


class _Payload(TolerantSchema):
    id = Id()
    state = State()


_EVENT = _Event()
_PAYLOAD = _Payload()


def authenticate(headers: Mapping[str, str], body: bytes, required: Authentication) -> int | None:
    """The index of the secret that signed `body`, or None where unsigned deliveries are allowed.

    `headers` has lower-case names. Compares in constant time over the raw bytes. Raises `DeliveryRejected`
    (401) for everything else, whatever the headers hold.
    """
    if required.basic is not None and not _is_basic(headers.get("authorization", ""), required.basic):
        raise DeliveryRejected(401, "basic_auth")
    if required.header is not None:
        name, value = required.header
        if not _same(headers.get(name.lower(), ""), _spellings(value)):
            raise DeliveryRejected(401, "header")
    if not required.secrets:
        return None
    presented = _SIGNATURE.match(headers.get(SIGNATURE_HEADER, ""))
    if presented is None:
        raise DeliveryRejected(401, "signature")
    matching = [
        index
        for index, secret in enumerate(required.secrets)
        if hmac.compare_digest(_hmac(secret, body), presented.group(1))
    ]
    if not matching:
        raise DeliveryRejected(401, "signature")
    return matching[0]


def read(content_type: str | None, body: bytes, secret_index: int | None = None) -> Delivery | Unusable:
    """What an authentic body says. Raises `DeliveryRejected`: 415 for another media type, 400 for no JSON.

    A missing or empty content type is JSON. Everything RFC 8259 allows becomes a value.
    """
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type and not _JSON_MEDIA_TYPE.match(media_type):
        raise DeliveryRejected(415, "not_json")
    try:
        document, problem = _parse(body.decode())
    except UnicodeDecodeError as malformed:
        raise DeliveryRejected(400, "bad_utf8") from malformed
    except json.JSONDecodeError as malformed:
        raise DeliveryRejected(400, "bad_json") from malformed
    except RecursionError:
        return Unusable("too_deep", secret_index=secret_index)
    if problem is not None:
        return Unusable(problem, secret_index=secret_index)
    return _interpret(document, secret_index)


def _interpret(document: object, secret_index: int | None) -> Delivery | Unusable:
    if not isinstance(document, Mapping):
        return Unusable("not_an_object", secret_index=secret_index)
    event = _EVENT.read(document.get("event"))
    # The sender's code says `payload`, its old documentation `data` (dj-whisperer 0.5.3, tasks.py and README).
    content = document.get("payload", document.get("data"))
    payload = _PAYLOAD.read(content)
    uuid, event_type = event.get("uuid"), event.get("type")
    if "id" not in payload:
        given = content.get("id") if isinstance(content, Mapping) else None
        too_big = isinstance(given, int) and given > MAX_ID
        return Unusable("number_too_big" if too_big else "no_package_id", uuid, event_type, secret_index)
    return Delivery(payload["id"], uuid, event_type, payload.get("state"), secret_index)


def _parse(text: str) -> tuple[object, str | None]:
    """The document, and why it cannot be worked with although it is JSON to its end. Raises `JSONDecodeError`."""
    problems: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            problems.append("duplicate_keys")
        return members

    def integer(digits: str) -> int | None:
        try:
            return int(digits)
        except ValueError:
            problems.append("number_too_big")
            return None

    load = partial(json.loads, text, object_pairs_hook=unique, parse_constant=_refuse_constant)
    try:
        document = load()
    except json.JSONDecodeError:
        raise
    except ValueError:  # CPython's limit on the digits of one integer: once more, to see what else there is
        problems.clear()
        document = load(parse_int=integer)
    return document, problems[0] if problems else None


def _refuse_constant(_: str) -> NoReturn:
    raise DeliveryRejected(400, "bad_json")  # NaN and Infinity are not JSON


def _hmac(secret: str, body: bytes) -> str:
    return hmac.digest(secret.encode(), body, "sha256").hex()


def _spellings(text: str) -> list[bytes]:
    """A header's bytes: requests 2.34, the sender's HTTP library, writes ISO 8859-1 where it can, others UTF-8."""
    latin = text.encode("latin-1", "replace")
    return [text.encode(), latin] if latin.decode("latin-1") == text else [text.encode()]


def _same(presented: str, expected: list[bytes]) -> bool:
    # WSGI hands header bytes over as latin-1, so this compares the bytes that were sent.
    sent = presented.encode(errors="surrogatepass")
    return any(hmac.compare_digest(sent, one.decode("latin-1").encode()) for one in expected)


def _is_basic(authorization: str, expected: str) -> bool:
    scheme, _, presented = authorization.partition(" ")
    encoded = [base64.b64encode(one) for one in _spellings(expected)]
    return scheme.lower() == "basic" and _same(presented.strip(), encoded)
