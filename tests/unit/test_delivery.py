"""The webhook boundary: what authenticates, what is refused, what any bytes are read as."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import ValidationError

from service.delivery import (
    EVENT_TYPES,
    SIGNATURE_HEADER,
    Authentication,
    Delivery,
    EventUuid,
    Unusable,
    authenticate,
    read,
)
from service.errors import DeliveryRejected
from service.wire import StateValue
from tests.samples import sample
from tests.unit.any_json import ANY_TEXT, JSON, objects

SECRET = "s3cr3t"
UUID = "c9591f0d1c1d4da58ade880921bd7e93"
BODY = b'{"event": {}, "payload": {"id": 73}}'
JSON_TYPE = "application/json"
BASIC = "kullanıcı:şifre:2"
DEEP = 200_000
DIGITS = b"9" * 5000


def a_signature(body: bytes = BODY, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def the_headers(signature: str | None = None, **others: str) -> dict[str, str]:
    return ({} if signature is None else {SIGNATURE_HEADER: signature}) | others


def requires(*secrets: str, basic: str | None = None, header: tuple[str, str] | None = None) -> Authentication:
    return Authentication(secrets, basic, header)


def basic_of(text: str, scheme: str = "Basic") -> str:
    return f"{scheme} {base64.b64encode(text.encode()).decode()}"


def refused(headers: dict[str, str], required: Authentication, body: bytes = BODY) -> tuple[int, str]:
    """Status and reason with which the delivery is turned away."""
    with pytest.raises(DeliveryRejected) as rejected:
        authenticate(headers, body, required)
    return rejected.value.status, rejected.value.reason


def unread(body: bytes, content_type: str | None = JSON_TYPE) -> tuple[int, str]:
    """Status and reason with which an authentic body is turned away."""
    with pytest.raises(DeliveryRejected) as rejected:
        read(content_type, body)
    return rejected.value.status, rejected.value.reason


def a_body(**changes: Any) -> bytes:
    """A delivery saying that package 73 is Packed; a change of None leaves that part out."""
    event = {"type": "package.status.packed", "uuid": UUID}
    document = {"event": event, "payload": a_payload()} | changes
    return json.dumps({key: value for key, value in document.items() if value is not None}).encode()


def a_payload(**changes: Any) -> dict[str, Any]:
    return {"id": 73, "state": {"enum_class": "PackageStatus", "enum_value": "500"}} | changes


def a_delivery(**changes: Any) -> Delivery:
    """What `a_body()` is read as, with changes."""
    expected: dict[str, Any] = {
        "package_id": 73,
        "event_uuid": UUID,
        "event_type": "package.status.packed",
        "state": StateValue("PackageStatus", "500"),
    }
    return Delivery(**(expected | changes))


# Authentication


def test_the_published_test_vector_verifies_with_its_secret_and_says_packed() -> None:
    headers, body = sample("webhook_package_packed")
    assert headers["x-whisperer-signature"].startswith("sha256=7ed029b0d13740ac33ac1843eebce41d")
    assert authenticate(headers, body, requires(SECRET)) == 0
    assert read(headers["content-type"], body, 0) == a_delivery(secret_index=0)


def test_the_whole_package_created_payload_verifies_and_is_read() -> None:
    headers, body = sample("webhook_package_created")
    index = authenticate(headers, body, requires("another", SECRET))
    assert read(headers["content-type"], body, index) == Delivery(
        package_id=73,
        event_uuid="5f0a1f6e4a0c4b8c9d2e7a3b6c1d8e90",
        event_type="package.created",
        state=StateValue("PackageStatus", "920"),
        secret_index=1,
    )


@pytest.mark.parametrize(
    "presented",
    [
        None,
        "",
        "sha256=",
        a_signature()[:-1],
        a_signature() + "0",
        a_signature() + "\n",
        " " + a_signature(),
        a_signature().upper(),
        "sha256=" + a_signature()[7:].upper(),
        a_signature().replace("sha256", "sha1"),
        a_signature().removeprefix("sha256="),
        a_signature() + "," + a_signature(),
        *("sha256=" + digit * 64 for digit in "g٣éĀ\ud800\x00"),
        a_signature()[:-1] + ("0" if a_signature()[-1] != "0" else "1"),
        a_signature(b"another body"),
        a_signature(secret="another secret"),
    ],
)
def test_missing_empty_malformed_non_ascii_doubled_or_wrong_signature_is_401(presented: str | None) -> None:
    assert refused(the_headers(presented), requires(SECRET)) == (401, "signature")


def test_signatures_are_compared_in_constant_time_and_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    really = hmac.compare_digest

    def noting(one: str, other: str) -> bool:
        compared.append({one, other})
        return really(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    assert authenticate(the_headers(a_signature()), BODY, requires(SECRET, "old")) == 0
    presented = a_signature()[7:]
    assert compared == [{presented}, {presented, a_signature(secret="old")[7:]}]


@pytest.mark.parametrize(("signed_with", "index"), [("new", 0), ("eski şifre", 1), ("same", 2)])
def test_any_of_several_secrets_verifies_and_the_index_of_the_first_is_told(signed_with: str, index: int) -> None:
    signature = a_signature(secret=signed_with)
    assert authenticate(the_headers(signature), BODY, requires("new", "eski şifre", "same", "same")) == index


@pytest.mark.parametrize("case", ["webhook_package_packed", "webhook_package_created"])
def test_re_serialised_json_with_the_original_signature_is_refused(case: str) -> None:
    headers, body = sample(case)
    compact = json.dumps(json.loads(body), separators=(",", ":")).encode()
    readable = json.dumps(json.loads(body), ensure_ascii=False).encode()
    for re_serialised in (compact, readable, body + b"\n"):
        assert refused(headers, requires(SECRET), re_serialised) == (401, "signature")


def test_where_no_secret_is_required_unsigned_deliveries_pass_with_no_index() -> None:
    assert authenticate({}, BODY, requires()) is None
    assert authenticate(the_headers("sha256=nonsense"), BODY, requires()) is None


@pytest.mark.parametrize("presented", [basic_of(BASIC), basic_of(BASIC, "basic"), basic_of(BASIC, "BASIC  ") + " "])
def test_the_right_basic_credentials_pass(presented: str) -> None:
    assert authenticate({"authorization": presented}, BODY, requires(basic=BASIC)) is None


@pytest.mark.parametrize(
    "presented",
    [
        *("", "Basic", "Basic ", "Basic " + BASIC, "Basic \ud800"),
        basic_of("kullanıcı:şifre:3"),
        basic_of(BASIC, "Token"),
        basic_of(BASIC, "Bāsic"),
        basic_of(BASIC).removeprefix("Basic "),
        basic_of(BASIC) + "Ā",
    ],
)
def test_wrong_or_missing_basic_credentials_are_401(presented: str) -> None:
    assert refused({"authorization": presented}, requires(basic=BASIC)) == (401, "basic_auth")
    assert refused({}, requires(basic="")) == (401, "basic_auth")


@pytest.mark.parametrize("name", ["x-key", "X-KEY"])
def test_the_required_header_is_found_under_any_case_of_its_name_and_compared_as_the_bytes_sent(name: str) -> None:
    as_wsgi_shows_it = "açıl susam".encode().decode("latin-1")
    assert authenticate({"x-key": as_wsgi_shows_it}, BODY, requires(header=(name, "açıl susam"))) is None


def test_a_header_may_come_in_either_encoding_a_sender_writes() -> None:
    assert authenticate({"x-key": "Köse"}, BODY, requires(header=("X-Key", "Köse"))) is None
    latin = base64.b64encode("oms:Köse".encode("latin-1")).decode()
    assert authenticate({"authorization": f"Basic {latin}"}, BODY, requires(basic="oms:Köse")) is None
    assert refused({"x-key": "aç?k"}, requires(header=("X-Key", "açık"))) == (401, "header")


@pytest.mark.parametrize("presented", ["", "open", "k?y ", "K?y", "kĀy", "k\ud800y", "kéy"])
def test_a_wrong_or_missing_required_header_is_401(presented: str) -> None:
    assert refused({"x-key": presented}, requires(header=("X-Key", "k?y"))) == (401, "header")
    assert refused({}, requires(header=("X-Key", "XXXX"))) == (401, "header")


def test_every_requirement_must_be_met_and_a_rejection_names_the_first_that_is_not() -> None:
    required = requires(SECRET, basic="user:password", header=("X-Key", "open"))
    basic, key = {"authorization": basic_of("user:password")}, {"x-key": "open"}
    signature = the_headers(a_signature())
    assert authenticate(basic | key | signature, BODY, required) == 0
    assert refused(key | signature, required) == (401, "basic_auth")
    assert refused(basic | signature, required) == (401, "header")
    assert refused(basic | key, required) == (401, "signature")
    assert str(DeliveryRejected(401, "signature")) == "delivery answered 401: signature"


# Media types


@pytest.mark.parametrize(
    "content_type",
    [
        *(None, "", " ", "; charset=utf-8", "application/json", " Application/JSON ", "application/json;charset=x"),
        "application/vnd.akinon.oms-2+json",
        "application/problem+json; v=1",
    ],
)
def test_a_json_media_type_or_none_at_all_is_read(content_type: str | None) -> None:
    assert read(content_type, a_body()) == a_delivery()


@pytest.mark.parametrize(
    "content_type",
    [
        *("text/plain", "text/json", "multipart/form-data; boundary=json", "application/json-seq", "json"),
        *("application/+json", "application/xjson", "xapplication/json", "application/json\n+xml"),
        *("application/json, application/json", "é", "\ud800", "\x00"),
    ],
)
def test_another_media_type_is_415_whatever_the_body(content_type: str) -> None:
    assert unread(a_body(), content_type) == unread(b"\xff", content_type) == (415, "not_json")


# Bodies


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"nope", b"{", b'{"a": 1,}', b"{'a': 1}", b"[1] 2", b'"\n"', b'"\\ud8', b"01", b"+1", b"\x00"),
        *(b"NaN", b"Infinity", b"-Infinity", b'{"payload": {"id": 73, "weight": NaN}}'),
        *(b'{"a": 1, "a": 2} x', b'[{"a": 1, "a": 2}, NaN]', b'{"a": 1, "a": 2'),
        *(
            pytest.param(b"[%b%b" % (DIGITS, rest), id=f"5000 digits, then {rest!r}")
            for rest in (b"] x", b", NaN]", b"")
        ),
        b"\xef\xbb\xbf" + a_body(),
        a_body().decode().encode("utf-16-le"),
    ],
)
def test_what_is_not_json_is_400_wherever_its_fault_stands(body: bytes) -> None:
    assert unread(body) == (400, "bad_json")


@pytest.mark.parametrize(
    "body", [b"\xff", b'"\xc3"', b'"\xed\xa0\x80"', b'"\xc0\x80"', a_body().decode().encode("utf-16")]
)
def test_what_is_not_utf_8_is_400(body: bytes) -> None:
    assert unread(body) == (400, "bad_utf8")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"[" * DEEP + b"]" * DEEP, "too_deep", id="deep lists"),
        pytest.param(b'{"payload": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}", "too_deep", id="deep objects"),
        pytest.param(b'{"payload": {"id": %b}}' % DIGITS, "number_too_big", id="an id of 5000 digits"),
        pytest.param(b'{"payload": {"id": 7, "kg": -%b}}' % DIGITS, "number_too_big", id="a weight of 5000 digits"),
        pytest.param(b'[{"a": 1, "a": 2}, %b]' % DIGITS, "duplicate_keys", id="the first problem is told"),
        (b'{"payload": {"id": 73}, "payload": {"id": 74}}', "duplicate_keys"),
        (b'{"payload": {"id": 73, "x": [{"a": 1, "\\u0061": 1}]}}', "duplicate_keys"),
        *((scalar, "not_an_object") for scalar in (b"null", b"true", b"0", b"-0.0", b"1e999", b'"\\u0000\\ud800"')),
        (b'[{"payload": {"id": 73}}]', "not_an_object"),
        *((b'{"payload": %b}' % payload, "no_package_id") for payload in (b"null", b"[]", b"{}", b'"73"')),
        (b"{}", "no_package_id"),
        (b'{"id": 73}', "no_package_id"),
        (b'{"payload": null, "data": {"id": 73}}', "no_package_id"),
    ],
)
def test_json_that_cannot_be_worked_with_is_a_value_with_its_reason(body: bytes, reason: str) -> None:
    assert read(JSON_TYPE, body, 1) == Unusable(reason, None, None, 1)


@pytest.mark.parametrize(
    ("package_id", "reason"),
    [
        *((value, "no_package_id") for value in (True, 1.0, "1", "../../1", None, [73], {"id": 73}, 0, -(2**70))),
        *((value, "number_too_big") for value in (2**53, 2**70)),
        pytest.param(int("9" * 4300), "number_too_big", id="4300 digits"),
    ],
)
def test_a_package_id_that_is_none_leaves_the_rest_of_the_delivery_readable(package_id: object, reason: str) -> None:
    body = a_body(payload=a_payload(id=package_id))
    assert read(JSON_TYPE, body, 1) == Unusable(reason, UUID, "package.status.packed", 1)


@pytest.mark.parametrize("package_id", [1, 73, 2**53 - 1])
def test_the_package_ids_that_can_be_worked_with_reach_to_2_to_the_53_minus_1(package_id: int) -> None:
    assert read(JSON_TYPE, a_body(payload=a_payload(id=package_id))) == a_delivery(package_id=package_id)


def test_ordinary_depth_ordinary_numbers_and_unknown_keys_are_no_obstacle() -> None:
    nested: object = [int("9" * 4300), -1.5, None]
    for _ in range(300):
        nested = {"a": nested}
    event = {"type": "package.status.packed", "uuid": UUID, "attempt": 2}
    assert read(JSON_TYPE, a_body(event=event, payload=a_payload(nested=nested), extra=[1])) == a_delivery()


def test_the_payload_may_be_called_data_but_payload_is_preferred() -> None:
    assert read(JSON_TYPE, a_body(payload=None, data=a_payload())) == a_delivery()
    assert read(JSON_TYPE, a_body(data=a_payload(id=74))) == a_delivery()


@pytest.mark.parametrize("uuid", [UUID.upper(), "C9591f0d-1c1d-4da5-8ade-880921bd7e93"])
def test_a_uuid_is_the_same_in_either_spelling(uuid: str) -> None:
    assert read(JSON_TYPE, a_body(event={"type": "package.status.packed", "uuid": uuid})) == a_delivery()


@pytest.mark.parametrize(
    "uuid", [None, "", UUID[:-1], UUID + "0", UUID + "\n", "g" * 32, "٣" * 32, "-" * 32, 73, True, [UUID], "\x00"]
)
def test_a_delivery_without_a_readable_uuid_is_a_delivery_still(uuid: object) -> None:
    event = {"type": "package.status.packed", "uuid": uuid}
    assert read(JSON_TYPE, a_body(event=event)) == a_delivery(event_uuid=None)


def test_what_is_no_uuid_is_refused_by_its_field() -> None:
    with pytest.raises(ValidationError) as wrong:
        EventUuid().deserialize("73")
    assert wrong.value.messages == ["not a uuid"]


@pytest.mark.parametrize("event", [None, [], "packed", 7, {}, {"uuid": None, "type": None}, {"type": True}])
def test_a_delivery_without_a_readable_event_is_a_delivery_still(event: object) -> None:
    assert read(JSON_TYPE, a_body(event=event)) == a_delivery(event_uuid=None, event_type=None)


def test_the_event_type_is_kept_as_text_that_can_be_stored() -> None:
    event = {"type": "a\x00\ud800" + "x" * 200, "uuid": UUID}
    assert read(JSON_TYPE, a_body(event=event)) == a_delivery(event_type="a\ufffd\ufffd" + "x" * 197)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"enum_class": "OrderItemStatus", "enum_value": 500}, StateValue("OrderItemStatus", "500")),
        (500, StateValue(None, "500")),
        (None, None),
        (5.0, None),
        ({"enum_class": 26, "enum_value": "500"}, None),
    ],
)
def test_a_state_that_cannot_be_read_is_none_and_the_package_is_named_still(
    state: object, expected: StateValue | None
) -> None:
    assert read(JSON_TYPE, a_body(payload=a_payload(state=state))) == a_delivery(state=expected)


def test_the_event_types_are_those_of_the_webhook_pages() -> None:
    names = ["transitioned", "packed", "shipped", "cancelled", "packed_for_refund"]
    status = {f"package.status.{name}" for name in names}
    assert status | {"package.created", "package.refused", "package.shipment.awb_number"} == EVENT_TYPES


# Anything at all

HEADERS = {
    SIGNATURE_HEADER: st.sampled_from(["sha256=" + "0" * 64]) | ANY_TEXT,
    "authorization": ANY_TEXT | ANY_TEXT.map("Basic ".__add__),
    "x-key": ANY_TEXT,
    "content-type": st.sampled_from([JSON_TYPE, "text/plain"]) | ANY_TEXT,
}


@settings(max_examples=300)
@given(
    st.fixed_dictionaries({}, optional=HEADERS),
    st.binary(max_size=60) | st.text('{}[]":,\\u0123eE+-.NaInfity \n', max_size=40).map(str.encode),
    st.sampled_from([requires(SECRET), requires(basic=BASIC), requires(header=("X-Key", "açıl"))]),
)
def test_any_headers_and_any_bytes_are_a_value_or_exactly_one_exception(
    headers: dict[str, str], body: bytes, required: Authentication
) -> None:
    assert refused(headers, required, body)[0] == 401
    answer: object
    try:
        answer = read(headers.get("content-type"), body)
    except DeliveryRejected as rejected:
        answer = (rejected.status, rejected.reason)
    rejections = [(415, "not_json"), (400, "bad_json"), (400, "bad_utf8")]
    assert isinstance(answer, Delivery | Unusable) or answer in rejections


@settings(max_examples=100)
@given(
    objects(event=objects(type=JSON, uuid=JSON), payload=objects(id=JSON, state=JSON, number=JSON), data=JSON),
    st.booleans(),
)
def test_everything_rfc_8259_allows_becomes_a_value(document: object, ascii_only: bool) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, allow_nan=False)
    delivery = read(JSON_TYPE, text.encode("utf-8", "replace"), 0)
    assert isinstance(delivery, Delivery | Unusable)
    assert delivery.secret_index == 0
