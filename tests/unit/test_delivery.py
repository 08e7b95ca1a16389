"""The webhook boundary: what authenticates, what is refused, what any bytes are read as."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
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
from service.errors import AutoshipError, DeliveryRejected
from service.wire import StateValue
from tests.samples import sample

SECRET = "s3cr3t"
UUID = "c9591f0d1c1d4da58ade880921bd7e93"
BODY = b'{"event": {}, "payload": {"id": 73}}'
JSON_TYPE = "application/json"

ANY_TEXT = st.text(st.characters())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


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


def test_the_recorded_delivery_verifies_with_its_secret_and_says_packed() -> None:
    headers, body = sample("webhook_package_packed")
    index = authenticate(headers, body, requires(SECRET))
    assert index == 0
    assert read(headers["content-type"], body, index) == a_delivery(secret_index=0)


def test_the_sample_is_the_published_test_vector() -> None:
    headers, body = sample("webhook_package_packed")
    assert headers[SIGNATURE_HEADER] == ("sha256=7ed029b0d13740ac33ac1843eebce41d62b6b81ad69fd9fd196c94aa8811ff1c")
    assert rb"\u0130stanbul" in body


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
        a_signature() + " ",
        a_signature().upper(),
        "sha256=" + a_signature()[7:].upper(),
        a_signature().replace("sha256", "sha1"),
        a_signature().removeprefix("sha256="),
        a_signature() + "," + a_signature(),
        a_signature() + ", " + a_signature(),
        "sha256=" + "g" * 64,
        "sha256=" + "٣" * 64,
        "sha256=" + "é" * 64,
        "sha256=" + "Ā" * 64,
        "sha256=" + "\ud800" * 64,
        "sha256=" + "\x00" * 64,
        a_signature()[:-1] + "é",
        a_signature(b"another body"),
        a_signature(secret="another secret"),
    ],
)
def test_missing_empty_malformed_non_ascii_or_doubled_signature_is_401(presented: str | None) -> None:
    assert refused(the_headers(presented), requires(SECRET)) == (401, "signature")


@pytest.mark.parametrize("at", [7, 38, 70])
def test_one_wrong_digit_anywhere_in_the_signature_is_401(at: int) -> None:
    right = a_signature()
    wrong = right[:at] + ("0" if right[at] != "0" else "1") + right[at + 1 :]
    assert refused(the_headers(wrong), requires(SECRET)) == (401, "signature")


def test_signatures_are_compared_in_constant_time_and_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    really = hmac.compare_digest

    def noting(one: str, other: str) -> bool:
        compared.append({one, other})
        return really(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    assert authenticate(the_headers(a_signature()), BODY, requires(SECRET, "old", "older")) == 0
    presented = a_signature()[7:]
    assert compared == [{presented, a_signature(secret=secret)[7:]} for secret in (SECRET, "old", "older")]


@pytest.mark.parametrize(("signed_with", "index"), [("new", 0), ("old", 1), ("oldest", 2)])
def test_any_of_several_secrets_verifies_and_its_index_is_told(signed_with: str, index: int) -> None:
    signature = a_signature(secret=signed_with)
    assert authenticate(the_headers(signature), BODY, requires("new", "old", "oldest")) == index


def test_the_first_of_two_equal_secrets_is_told() -> None:
    assert authenticate(the_headers(a_signature()), BODY, requires("x", SECRET, SECRET)) == 1


def test_a_secret_outside_ascii_signs_with_its_utf_8_bytes() -> None:
    expected = hmac.new("şifre".encode(), BODY, hashlib.sha256).hexdigest()
    assert authenticate(the_headers("sha256=" + expected), BODY, requires("şifre")) == 0


@pytest.mark.parametrize("case", ["webhook_package_packed", "webhook_package_created"])
def test_re_serialised_json_with_the_original_signature_is_refused(case: str) -> None:
    headers, body = sample(case)
    document = json.loads(body)
    for re_serialised in (
        json.dumps(document, ensure_ascii=False).encode(),
        json.dumps(document, separators=(",", ":")).encode(),
        json.dumps(document, indent=1).encode(),
        body + b"\n",
    ):
        assert json.loads(re_serialised) == document
        assert refused(headers, requires(SECRET), re_serialised) == (401, "signature")


def test_without_a_secret_unsigned_and_wrongly_signed_deliveries_pass_with_no_index() -> None:
    assert authenticate({}, BODY, requires()) is None
    assert authenticate(the_headers("sha256=nonsense"), BODY, requires()) is None


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
@pytest.mark.parametrize("credentials", ["user:password", "kullanıcı:şifre:2", ":"])
def test_the_right_basic_credentials_pass(scheme: str, credentials: str) -> None:
    headers = {"authorization": basic_of(credentials, scheme)}
    assert authenticate(headers, BODY, requires(basic=credentials)) is None


def test_blanks_around_basic_credentials_do_not_matter() -> None:
    headers = {"authorization": basic_of("user:password").replace(" ", "   ") + " "}
    assert authenticate(headers, BODY, requires(basic="user:password")) is None


@pytest.mark.parametrize(
    "presented",
    [
        None,
        "",
        "Basic",
        "Basic ",
        "Basic user:password",
        basic_of("user:passwore"),
        basic_of("user:password", "Token"),
        basic_of("user:password", "Basic2"),
        basic_of("user:password").removeprefix("Basic "),
        basic_of("user:password") + "Ā",
        "Basic \ud800",
        "Bāsic " + basic_of("user:password")[6:],
    ],
)
def test_wrong_or_missing_basic_credentials_are_401(presented: str | None) -> None:
    headers = {} if presented is None else {"authorization": presented}
    assert refused(headers, requires(basic="user:password")) == (401, "basic_auth")


def test_empty_basic_credentials_are_a_requirement_too() -> None:
    assert refused({}, requires(basic="")) == (401, "basic_auth")


@pytest.mark.parametrize("name", ["X-Key", "x-key", "X-KEY"])
def test_the_required_header_is_found_under_any_case_of_its_name(name: str) -> None:
    assert authenticate({"x-key": "open sesame"}, BODY, requires(header=(name, "open sesame"))) is None


@pytest.mark.parametrize("presented", [None, "", "open", "open sesame ", "Open sesame", "açıl susam", "\ud800", "Ā"])
def test_a_wrong_or_missing_required_header_is_401(presented: str | None) -> None:
    headers = {} if presented is None else {"x-key": presented}
    assert refused(headers, requires(header=("X-Key", "open sesame"))) == (401, "header")


def test_an_absent_header_is_not_any_value_that_was_required() -> None:
    assert refused({}, requires(header=("X-Key", "XXXX"))) == (401, "header")
    assert authenticate({}, BODY, requires(header=("X-Key", ""))) is None


def test_a_required_header_outside_ascii_is_compared_as_the_bytes_that_were_sent() -> None:
    as_wsgi_shows_it = "açıl susam".encode().decode("latin-1")
    assert authenticate({"x-key": as_wsgi_shows_it}, BODY, requires(header=("X-Key", "açıl susam"))) is None


def test_a_character_no_header_can_hold_is_not_a_question_mark() -> None:
    assert refused({"x-key": "kĀy"}, requires(header=("X-Key", "k?y"))) == (401, "header")


def test_every_requirement_must_be_met_and_the_first_that_is_not_is_named() -> None:
    required = requires(SECRET, basic="user:password", header=("X-Key", "open"))
    basic, key, signature = (
        {"authorization": basic_of("user:password")},
        {"x-key": "open"},
        the_headers(a_signature()),
    )
    assert authenticate(basic | key | signature, BODY, required) == 0
    assert refused(key | signature, required) == (401, "basic_auth")
    assert refused(basic | signature, required) == (401, "header")
    assert refused(basic | key, required) == (401, "signature")
    assert refused({}, required) == (401, "basic_auth")


def test_a_rejection_tells_status_and_reason_and_never_what_was_presented() -> None:
    with pytest.raises(AutoshipError) as rejected:
        authenticate(the_headers("sha256=canary"), BODY, requires(SECRET))
    assert str(rejected.value) == "delivery answered 401: signature"


PARTS = {
    SIGNATURE_HEADER: st.sampled_from([a_signature(), a_signature(secret="old")]) | ANY_TEXT,
    "authorization": st.sampled_from([basic_of("user:password")]) | ANY_TEXT,
    "x-key": st.sampled_from(["open"]) | ANY_TEXT,
}


@settings(max_examples=100, deadline=None)
@given(
    headers=st.fixed_dictionaries({}, optional=PARTS),
    body=st.sampled_from([BODY]) | st.binary(max_size=40),
    secrets=st.sampled_from([(), (SECRET,), ("old", SECRET)]),
    basic=st.sampled_from([None, "user:password"]),
    header=st.sampled_from([None, ("X-Key", "open")]),
)
def test_any_headers_and_body_authenticate_exactly_when_all_is_right_and_are_401_otherwise(
    headers: dict[str, str],
    body: bytes,
    secrets: tuple[str, ...],
    basic: str | None,
    header: tuple[str, str] | None,
) -> None:
    signers = [a_signature(body, secret) for secret in secrets]
    presented = headers.get(SIGNATURE_HEADER)
    right = (
        (basic is None or headers.get("authorization") == basic_of("user:password"))
        and (header is None or headers.get("x-key") == "open")
        and (not secrets or presented in signers)
    )
    required = Authentication(secrets, basic, header)
    if right:
        expected = signers.index(presented or "") if secrets else None
        assert authenticate(headers, body, required) == expected
    else:
        assert refused(headers, required, body)[0] == 401


# Media types


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        " ",
        "; charset=utf-8",
        "application/json",
        "Application/JSON",
        " application/json ",
        "application/json; charset=utf-8",
        "application/json;charset=iso-8859-9",
        "application/vnd.akinon+json",
        "application/vnd.akinon.oms-2+json",
        "application/problem+json; v=1",
    ],
)
def test_a_json_media_type_or_none_at_all_is_read(content_type: str | None) -> None:
    assert read(content_type, a_body()) == a_delivery()


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/json",
        "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=json",
        "application/jsonl",
        "application/json-seq",
        "application/+json",
        "application/xjson",
        "xapplication/json",
        "application/json\n+xml",
        "application/json, application/json",
        "json",
        "é",
        "\ud800",
        "\x00",
    ],
)
def test_another_media_type_is_415_even_if_the_body_is_json(content_type: str) -> None:
    assert unread(a_body(), content_type) == (415, "not_json")


def test_the_media_type_is_looked_at_before_the_body() -> None:
    assert unread(b"\xff", "text/plain") == (415, "not_json")


# Bodies


def test_a_delivery_is_read_with_its_secret_index() -> None:
    assert read(JSON_TYPE, a_body(), 2) == a_delivery(secret_index=2)
    assert read(JSON_TYPE, a_body()) == a_delivery(secret_index=None)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"nope",
        b"{",
        b'{"a": 1,}',
        b"{'a': 1}",
        b"[1] 2",
        b'"\n"',
        b'"\\ud8',
        b"01",
        b"+1",
        b"\x00",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b'{"payload": {"id": 73, "weight": NaN}}',
        b"\xef\xbb\xbf" + a_body(),
        a_body().decode().encode("utf-16-le"),
        a_body().decode().encode("utf-16-be"),
    ],
)
def test_what_is_not_json_is_400(body: bytes) -> None:
    assert unread(body) == (400, "bad_json")


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b'"\xc3"',
        b'"\xed\xa0\x80"',
        b'"\xc0\x80"',
        a_body().decode().encode("utf-16"),
        b"\xff\xfe{\x00}\x00",
    ],
)
def test_what_is_not_utf_8_is_400(body: bytes) -> None:
    assert unread(body) == (400, "bad_utf8")


DEEP = 200_000


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[" * DEEP + b"]" * DEEP, "too_deep"),
        (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "too_deep"),
        (b'{"payload": {"id": 73, "x": ' + b"[" * DEEP + b"]" * DEEP + b"}}", "too_deep"),
        (b"9" * 5000, "number_too_big"),
        (b'{"payload": {"id": ' + b"9" * 5000 + b"}}", "number_too_big"),
        (b'{"payload": {"id": 73, "weight": -' + b"9" * 5000 + b"}}", "number_too_big"),
        (b'{"payload": {"id": 73}, "payload": {"id": 74}}', "duplicate_keys"),
        (b'{"payload": {"id": 73, "id": 73}}', "duplicate_keys"),
        (b'{"payload": {"id": 73, "x": [{"a": 1, "\\u0061": 2}]}}', "duplicate_keys"),
        (b"null", "not_an_object"),
        (b"true", "not_an_object"),
        (b"0", "not_an_object"),
        (b"-0.0", "not_an_object"),
        (b"1e999", "not_an_object"),
        (b'"{}"', "not_an_object"),
        (b"[]", "not_an_object"),
        (b'[{"payload": {"id": 73}}]', "not_an_object"),
        (b'"\\u0000\\ud800"', "not_an_object"),
        (b"{}", "no_package_id"),
        (b'{"payload": null}', "no_package_id"),
        (b'{"payload": []}', "no_package_id"),
        (b'{"payload": {}}', "no_package_id"),
        (b'{"payload": "73"}', "no_package_id"),
        (b'{"id": 73}', "no_package_id"),
        (b'{"payload": {"pk": 73}}', "no_package_id"),
    ],
)
def test_json_that_cannot_be_worked_with_is_a_value_with_its_reason(body: bytes, reason: str) -> None:
    assert read(JSON_TYPE, body, 1) == Unusable(reason, None, None, 1)


@pytest.mark.parametrize("body", [b'{"a": 1, "a": 2} x', b'[{"a": 1, "a": 2}, NaN]', b'{"a": 1, "a": 2'])
def test_bad_syntax_after_a_doubled_key_is_400_all_the_same(body: bytes) -> None:
    assert unread(body) == (400, "bad_json")


@pytest.mark.parametrize("body", [b"9" * 5000 + b" x", b"[" + b"9" * 5000 + b", NaN]", b"[" + b"9" * 5000])
def test_bad_syntax_after_a_number_too_big_is_400_all_the_same(body: bytes) -> None:
    assert unread(body) == (400, "bad_json")


@pytest.mark.parametrize(
    ("package_id", "reason"),
    [
        (True, "no_package_id"),
        (False, "no_package_id"),
        (1.0, "no_package_id"),
        (1e300, "no_package_id"),
        ("1", "no_package_id"),
        ("../../1", "no_package_id"),
        (None, "no_package_id"),
        ([73], "no_package_id"),
        ({"id": 73}, "no_package_id"),
        (0, "no_package_id"),
        (-1, "no_package_id"),
        (-(2**70), "no_package_id"),
        (2**53, "number_too_big"),
        (2**70, "number_too_big"),
        pytest.param(int("9" * 4300), "number_too_big", id="4300 digits"),
    ],
)
def test_a_package_id_that_is_none_leaves_the_rest_of_the_delivery_readable(package_id: object, reason: str) -> None:
    body = a_body(payload=a_payload(id=package_id))
    assert read(JSON_TYPE, body, 1) == Unusable(reason, UUID, "package.status.packed", 1)


@pytest.mark.parametrize("package_id", [1, 73, 2**53 - 1])
def test_the_package_ids_that_can_be_worked_with_reach_to_2_to_the_53_minus_1(package_id: int) -> None:
    assert read(JSON_TYPE, a_body(payload=a_payload(id=package_id))) == a_delivery(package_id=package_id)


@settings(max_examples=70, deadline=None)
@given(JSON)
def test_the_package_id_that_reaches_a_url_is_an_integer_and_nothing_else(package_id: object) -> None:
    delivery = read(JSON_TYPE, a_body(payload=a_payload(id=package_id)))
    usable = type(package_id) is int and 1 <= package_id <= 2**53 - 1
    assert isinstance(delivery, Delivery if usable else Unusable)
    if isinstance(delivery, Delivery):
        assert type(delivery.package_id) is int
        assert delivery.package_id == package_id


@pytest.mark.parametrize("depth", [1, 300])
def test_ordinary_depth_is_no_obstacle(depth: int) -> None:
    nested: object = 1
    for _ in range(depth):
        nested = {"a": nested}
    assert read(JSON_TYPE, a_body(payload=a_payload(nested=nested))) == a_delivery()


def test_the_number_of_digits_that_is_no_obstacle() -> None:
    assert read(JSON_TYPE, a_body(payload=a_payload(weight=int("9" * 4300)))) == a_delivery()


def test_the_payload_may_be_called_data_as_in_the_senders_old_documentation() -> None:
    assert read(JSON_TYPE, a_body(payload=None, data=a_payload())) == a_delivery()


def test_the_payload_is_preferred_where_both_names_are_given() -> None:
    assert read(JSON_TYPE, a_body(data=a_payload(id=74))) == a_delivery()
    body = json.dumps({"payload": None, "data": a_payload()}).encode()
    assert read(JSON_TYPE, body) == Unusable("no_package_id")


def test_unknown_keys_anywhere_are_tolerated() -> None:
    event = {"type": "package.status.packed", "uuid": UUID, "attempt": 2}
    assert read(JSON_TYPE, a_body(event=event, payload=a_payload(extra={}), extra=[1])) == a_delivery()


@pytest.mark.parametrize(
    "uuid",
    [UUID, UUID.upper(), "c9591f0d-1c1d-4da5-8ade-880921bd7e93", "C9591F0D-1C1D-4DA5-8ADE-880921BD7E93"],
)
def test_a_uuid_is_the_same_in_either_spelling(uuid: str) -> None:
    assert read(JSON_TYPE, a_body(event={"type": "package.status.packed", "uuid": uuid})) == a_delivery()


@pytest.mark.parametrize(
    "uuid",
    [None, "", UUID[:-1], UUID + "0", UUID + "\n", "g" * 32, "٣" * 32, "-" * 32, 73, True, [UUID], "\x00"],
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


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("order.created", "order.created"), ("a\x00\ud800", "a\ufffd\ufffd"), ("x" * 201, "x" * 200)],
)
def test_the_event_type_is_kept_as_text_that_can_be_stored(sent: str, kept: str) -> None:
    assert read(JSON_TYPE, a_body(event={"type": sent, "uuid": UUID})) == a_delivery(event_type=kept)


@pytest.mark.parametrize(
    "state", [None, [], True, 5.0, {}, {"enum_value": None}, {"enum_class": 26, "enum_value": "500"}, ""]
)
def test_a_state_that_cannot_be_read_is_none_and_the_package_is_named_still(state: object) -> None:
    assert read(JSON_TYPE, a_body(payload=a_payload(state=state))) == a_delivery(state=None)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"enum_class": "PackageStatus", "enum_value": 500}, StateValue("PackageStatus", "500")),
        ({"enum_class": "OrderItemStatus", "enum_value": "500"}, StateValue("OrderItemStatus", "500")),
        ({"enum_value": " 500 "}, StateValue(None, "500")),
        (500, StateValue(None, "500")),
        ("500", StateValue(None, "500")),
    ],
)
def test_the_state_number_is_normalised_and_keeps_its_enumeration(state: object, expected: StateValue) -> None:
    assert read(JSON_TYPE, a_body(payload=a_payload(state=state))) == a_delivery(state=expected)


def test_the_event_types_are_those_of_the_webhook_pages() -> None:
    assert sorted(EVENT_TYPES) == [
        "package.created",
        "package.refused",
        "package.shipment.awb_number",
        "package.status.cancelled",
        "package.status.packed",
        "package.status.packed_for_refund",
        "package.status.shipped",
        "package.status.transitioned",
    ]


def test_the_signature_header_is_spelled_in_lower_case_as_headers_are_looked_up() -> None:
    assert SIGNATURE_HEADER == "x-whisperer-signature"


REJECTIONS = [(415, "not_json"), (400, "bad_json"), (400, "bad_utf8")]


@settings(max_examples=200, deadline=None)
@given(
    st.none() | st.sampled_from([JSON_TYPE, "text/plain"]) | ANY_TEXT,
    st.binary(max_size=60) | st.text('{}[]":,\\u0123eE+-.NaInfity \n', max_size=40).map(str.encode),
)
@example(JSON_TYPE, b'{"payload": {"id": 1}}')
@example(None, b"{" * 3000)
def test_any_bytes_under_any_media_type_are_a_value_or_exactly_one_exception(
    content_type: str | None, body: bytes
) -> None:
    answer: object
    try:
        answer = read(content_type, body)
    except DeliveryRejected as rejected:
        answer = (rejected.status, rejected.reason)
    assert isinstance(answer, Delivery | Unusable) or answer in REJECTIONS


@settings(max_examples=100, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "event": st.fixed_dictionaries({}, optional={"type": JSON, "uuid": JSON}) | JSON,
            "payload": st.fixed_dictionaries({}, optional={"id": JSON, "state": JSON, "number": JSON}) | JSON,
            "data": JSON,
        },
    )
    | JSON,
    st.booleans(),
)
def test_everything_rfc_8259_allows_becomes_a_value(document: object, ascii_only: bool) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, allow_nan=False)
    delivery = read(JSON_TYPE, text.encode("utf-8", "replace"), 0)
    assert isinstance(delivery, Delivery | Unusable)
    assert delivery.secret_index == 0
