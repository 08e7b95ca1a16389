"""What Akinon's JSON is made of: texts, ids, states and instants out of values nobody vouches for."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marshmallow import ValidationError, fields

from service import wire
from service.wire import Id, Moment, OwnerId, State, StateValue, Text, TolerantSchema, clean, id_in
from tests.unit.any_json import ANY_TEXT, JSON


class Parcel(TolerantSchema):
    """Two fields of different strictness, to see one fail without the other."""

    number = Id()
    label = Text()


def refusal(field: fields.Field[Any], value: object) -> str:
    """The one message with which `field` refuses `value`."""
    with pytest.raises(ValidationError) as refused:
        field.deserialize(value)
    [message] = refused.value.messages
    return str(message)


# What a person types


@pytest.mark.parametrize(
    ("text", "package_id"),
    [
        ("73", 73),
        ("73".zfill(16), 73),
        ("73".zfill(17), None),
        ("1", 1),
        (str(2**53 - 1), 2**53 - 1),
        (str(2**53), None),
        ("0", None),
        ("", None),
    ]
    + [(text, None) for text in ("-1", "7.0", " 73", "73a", "٧٣", "²", "9" * 5000)],
)
def test_a_typed_id_is_a_decimal_number_from_1_to_2_to_the_53(text: str, package_id: int | None) -> None:
    assert id_in(text) == package_id


# Text


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("İstanbul \U0001f4e6 ~", "İstanbul \U0001f4e6 ~"),
        ("a\x01b\x1b[2K\x7f\x9b", "a\ufffdb\ufffd[2K\ufffd\ufffd"),
        ("one\r\ntwo\tthree", "one two three"),
        ("a\u2028b\u202ec\u2066d", "a\ufffdb\ufffdc\ufffdd"),
        ("a\x00b", "a\ufffdb"),
        ("\ud7ff\ud800\udbff\udc00\udfff\ue000", "\ud7ff\ufffd\ufffd\ufffd\ufffd\ue000"),
        ("ş" * 201, "ş" * 200),
    ],
)
def test_stored_text_is_one_line_of_200_characters_that_every_database_and_terminal_takes(
    text: str, stored: str
) -> None:
    assert clean(text) == stored
    assert Text().deserialize(text) == stored


@given(ANY_TEXT, st.integers(0, 9))
def test_cleaned_text_can_always_be_encoded_and_cleaning_it_again_changes_nothing(text: str, limit: int) -> None:
    stored = clean(text, limit)
    assert len(stored) == min(len(text), limit)
    assert stored.encode().decode() == stored
    assert clean(stored) == stored


@pytest.mark.parametrize(
    ("value", "text"), [("000", "000"), (" a ", " a "), ("", ""), (0, "0"), (-7, "-7"), (2**70, str(2**70))]
)
def test_a_text_is_a_string_or_an_integer_written_as_one(value: object, text: str) -> None:
    assert Text().deserialize(value) == text


@pytest.mark.parametrize("value", [True, False, 1.0, [], ["a"], {}])
def test_what_is_no_text_is_refused(value: object) -> None:
    assert refusal(Text(), value) == "not a text"


# Ids


@pytest.mark.parametrize("value", [1, 73, 2**53 - 1])
def test_an_id_is_an_integer_from_1_to_2_to_the_53_minus_1(value: int) -> None:
    assert Id().deserialize(value) == value


@pytest.mark.parametrize(
    "value",
    [0, -1, -(2**70), 2**53, pytest.param(10**4000, id="4001 digits"), True, False, 1.0, "1", "", [1], {"id": 1}],
)
def test_what_is_no_id_is_refused(value: object) -> None:
    assert refusal(Id(), value) == "not an id"


@pytest.mark.parametrize(("value", "owner"), [(203, 203), ({"id": 203, "number": "1"}, 203), (-1, -1)])
def test_a_reference_is_an_id_or_the_object_that_has_it(value: object, owner: int) -> None:
    assert OwnerId().deserialize(value) == owner


@pytest.mark.parametrize("value", [True, "203", 203.0, [203], {}, {"pk": 203}, {"id": True}, {"id": "203"}])
def test_what_names_no_object_is_refused(value: object) -> None:
    assert refusal(OwnerId(), value) == "not a reference"


# State


@pytest.mark.parametrize("value", ["500", " 500\n", 500])
@pytest.mark.parametrize("enum_class", ["PackageStatus", None])
def test_a_state_is_a_number_as_text_within_an_enumeration_that_may_be_left_out(
    value: object, enum_class: str | None
) -> None:
    document = {"enum_class": enum_class, "enum_value": value, "name": "Shipped", "id": 7}
    assert State().deserialize(document) == StateValue(enum_class, "500")
    assert State().deserialize({"enum_value": value}) == State().deserialize(value) == StateValue(None, "500")


def test_both_parts_of_a_state_are_cleaned() -> None:
    hostile = {"enum_class": "\x00" + "c" * 300, "enum_value": "\ud800" + "v" * 300}
    assert State().deserialize(hostile) == StateValue("\ufffd" + "c" * 199, "\ufffd" + "v" * 199)


@pytest.mark.parametrize("value", [True, 500.0, [], ["500"], {}, {"enum_value": "500"}])
def test_a_state_that_is_neither_number_nor_text_is_refused(value: object) -> None:
    assert refusal(State(), {"enum_value": value}) == "enum_value is not a number or text"


@pytest.mark.parametrize("document", [False, [], {}, {"enum_class": "PackageStatus"}, {"enum_value": None}])
def test_a_state_without_a_number_is_refused(document: object) -> None:
    assert refusal(State(), document) == "enum_value is not a number or text"


@pytest.mark.parametrize("value", ["", " \n"])
def test_an_empty_state_number_is_refused(value: str) -> None:
    assert refusal(State(), value) == refusal(State(), {"enum_value": value}) == "enum_value is empty"


@pytest.mark.parametrize("enum_class", [26, False, [], {}])
def test_an_enumeration_that_is_no_text_makes_the_state_unreadable(enum_class: object) -> None:
    assert refusal(State(), {"enum_class": enum_class, "enum_value": "500"}) == "enum_class is not a text"


def test_the_same_number_of_another_enumeration_is_another_state() -> None:
    packed, shipped = StateValue("PackageStatus", "500"), StateValue("OrderItemStatus", "500")
    assert packed.is_of(wire.PACKAGE_STATUS)
    assert not packed.is_of(wire.PACKAGE_ITEM_STATUS)
    assert not shipped.is_of(wire.PACKAGE_STATUS)
    assert not StateValue("", "500").is_of(wire.PACKAGE_STATUS)
    assert StateValue(None, "500").is_of(wire.PACKAGE_STATUS)


def test_the_enumerations_are_spelled_as_the_oms_spells_them() -> None:
    assert (wire.PACKAGE_STATUS, wire.PACKAGE_ITEM_STATUS) == ("PackageStatus", "PackageItemStatus")


def test_a_state_is_shown_with_its_enumeration_if_it_has_one() -> None:
    assert str(StateValue("PackageStatus", "500")) == "PackageStatus 500"
    assert str(StateValue(None, "500")) == "500"


# Instants


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)), st.integers(-23, 23))  # noqa: DTZ001 bounds are naive
def test_an_instant_is_utc_whatever_offset_it_is_written_with(moment: datetime, hours: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    read = Moment().deserialize(aware.isoformat())
    assert (read, read.tzinfo) == (aware, UTC)


@pytest.mark.parametrize("text", ["2020-05-12T14:11:10.580441", "2020-05-12T14:11:10.580441Z"])
def test_an_instant_without_an_offset_is_utc_wherever_the_machine_is(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    with monkeypatch.context() as abroad:
        abroad.setenv("TZ", "XXX-03:00")
        time.tzset()
        moment = Moment().deserialize(text)
    time.tzset()
    assert (moment, moment.utcoffset()) == (datetime(2020, 5, 12, 14, 11, 10, 580441, UTC), timedelta(0))


@pytest.mark.parametrize("value", ["", "yesterday", "2020-13-01", "\ud800", "\x00", 1589292670, True, [], {}])
def test_what_is_no_instant_is_refused(value: object) -> None:
    assert refusal(Moment(), value) == "not an instant"


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_an_instant_outside_the_calendar_is_refused(text: str) -> None:
    assert refusal(Moment(), text) == "not an instant"


# Schemas


def test_a_field_that_cannot_be_read_is_absent_and_unknown_ones_are_left_out() -> None:
    parcel = {"number": "1", "label": "a", "customer": "Ayşe"}
    assert Parcel().read(parcel) == {"label": "a"}
    assert Parcel().read(parcel | {"number": 1}) == {"number": 1, "label": "a"}


@pytest.mark.parametrize("value", [None, True, 1, "a", [], [{"number": 1}]])
def test_what_is_no_object_is_read_as_nothing(value: object) -> None:
    assert Parcel().read(value) == {}


@settings(max_examples=100)
@given(st.sampled_from([Text(), Id(), OwnerId(), State(), Moment()]), JSON)
def test_every_field_returns_or_refuses_whatever_json_holds(field: fields.Field[Any], value: object) -> None:
    try:
        read = field.deserialize(value)
    except ValidationError:
        return
    assert isinstance(read, str | int | StateValue | datetime)
