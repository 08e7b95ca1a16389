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
from service.wire import Moment, OwnerId, PackageId, State, StateValue, Text, TolerantSchema, clean

ANY_TEXT = st.text(st.characters())
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=8,
)


class Parcel(TolerantSchema):
    """Two fields of different strictness, to see one fail without the other."""

    number = fields.Integer(strict=True)
    label = Text()


def refusal(field: fields.Field[Any], value: object) -> str:
    """The one message with which `field` refuses `value`."""
    with pytest.raises(ValidationError) as refused:
        field.deserialize(value)
    [message] = refused.value.messages
    return str(message)


# Text


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        ("", ""),
        ("İstanbul Şişli", "İstanbul Şişli"),
        ("a\x00b", "a\ufffdb"),
        ("\x01\x7f", "\x01\x7f"),
        ("\ud7ff\ud800\udbff\udc00\udfff\ue000", "\ud7ff\ufffd\ufffd\ufffd\ufffd\ue000"),
        ("\U0001f4e6", "\U0001f4e6"),
    ],
)
def test_nul_and_lone_surrogates_become_the_replacement_character(text: str, stored: str) -> None:
    assert clean(text) == stored


def test_stored_text_is_cut_after_200_characters() -> None:
    assert clean("ş" * 200) == "ş" * 200
    assert clean("ş" * 200 + "x") == "ş" * 200
    assert wire.MAX_TEXT == 200


def test_another_limit_can_be_asked_for() -> None:
    assert clean("abcdef", 3) == "abc"


@given(ANY_TEXT)
def test_cleaned_text_can_always_be_encoded_and_cleaning_it_again_changes_nothing(text: str) -> None:
    stored = clean(text)
    assert "\x00" not in stored
    assert stored.encode().decode() == stored
    assert clean(stored) == stored


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Shop", "Shop"),
        ("000000000", "000000000"),
        (" a ", " a "),
        ("", ""),
        (0, "0"),
        (-7, "-7"),
        (2**70, str(2**70)),
    ],
)
def test_a_text_is_a_string_or_an_integer_written_as_one(value: object, text: str) -> None:
    assert Text().deserialize(value) == text


def test_a_text_is_cleaned() -> None:
    assert Text().deserialize("\x00" + "x" * 300) == "\ufffd" + "x" * 199


@pytest.mark.parametrize("value", [True, False, 1.0, float("nan"), [], ["a"], {}, {"a": 1}])
def test_what_is_no_text_is_refused(value: object) -> None:
    assert refusal(Text(), value) == "not a text"


# Package id


@pytest.mark.parametrize("value", [1, 2, 73, 2**31, 2**53 - 1])
def test_a_package_id_is_an_integer_from_1_to_2_to_the_53_minus_1(value: int) -> None:
    assert PackageId().deserialize(value) == value


@pytest.mark.parametrize("value", [0, -1, -(2**70), True, False, 1.0, "1", "73", "", [1], {"id": 1}, float("inf")])
def test_what_is_no_package_id_is_refused(value: object) -> None:
    assert refusal(PackageId(), value) == "not a package id"


@pytest.mark.parametrize("value", [2**53, 2**53 + 1, 2**70, pytest.param(10**4000, id="4001 digits")])
def test_a_package_id_that_readers_of_json_would_round_is_too_big(value: int) -> None:
    assert refusal(PackageId(), value) == "number_too_big"


# A reference to another object


@pytest.mark.parametrize(
    ("value", "owner"), [(203, 203), (0, 0), (-1, -1), ({"id": 203}, 203), ({"id": 203, "number": "1"}, 203)]
)
def test_a_reference_is_an_id_or_the_object_that_has_it(value: object, owner: int) -> None:
    assert OwnerId().deserialize(value) == owner


@pytest.mark.parametrize(
    "value",
    [True, "203", 203.0, [], [203], {}, {"pk": 203}, {"id": None}, {"id": True}, {"id": "203"}, {"id": {}}],
)
def test_what_names_no_object_is_refused(value: object) -> None:
    assert refusal(OwnerId(), value) == "not a reference"


# State


@pytest.mark.parametrize("value", ["500", " 500\n", 500, "\t500"])
def test_a_state_number_is_compared_as_a_text_without_blanks_around_it(value: object) -> None:
    assert State().deserialize({"enum_class": "PackageStatus", "enum_value": value}) == StateValue(
        "PackageStatus", "500"
    )


@pytest.mark.parametrize("value", ["500", " 500 ", 500])
def test_a_bare_number_or_text_is_a_state_that_does_not_name_its_enumeration(value: object) -> None:
    assert State().deserialize(value) == StateValue(None, "500")


@pytest.mark.parametrize("document", [{"enum_value": "500"}, {"enum_class": None, "enum_value": "500"}])
def test_a_state_may_leave_its_enumeration_out(document: dict[str, object]) -> None:
    assert State().deserialize(document) == StateValue(None, "500")


def test_the_editable_name_of_a_state_means_nothing() -> None:
    named = {"enum_class": "PackageStatus", "enum_value": "100", "name": "Packed", "id": 500}
    assert State().deserialize(named) == StateValue("PackageStatus", "100")


def test_both_parts_of_a_state_are_cleaned() -> None:
    hostile = {"enum_class": "\x00" + "c" * 300, "enum_value": "\ud800" + "v" * 300}
    assert State().deserialize(hostile) == StateValue("\ufffd" + "c" * 199, "\ufffd" + "v" * 199)


@pytest.mark.parametrize("value", [True, False, 500.0, [], ["500"]])
def test_a_state_that_is_neither_number_nor_text_is_refused(value: object) -> None:
    assert refusal(State(), value) == "enum_value is not a number or text"
    assert refusal(State(), {"enum_value": value}) == "enum_value is not a number or text"


@pytest.mark.parametrize("document", [{}, {"enum_class": "PackageStatus"}, {"enum_value": None}, {"enum_value": {}}])
def test_a_state_object_without_a_value_is_refused(document: dict[str, object]) -> None:
    assert refusal(State(), document) == "enum_value is not a number or text"


@pytest.mark.parametrize("value", ["", "   ", "\n"])
def test_an_empty_state_number_is_refused(value: str) -> None:
    assert refusal(State(), value) == "enum_value is empty"
    assert refusal(State(), {"enum_value": value}) == "enum_value is empty"


@pytest.mark.parametrize("enum_class", [26, True, [], {}, 0, False])
def test_an_enumeration_that_is_no_text_makes_the_state_unreadable(enum_class: object) -> None:
    assert refusal(State(), {"enum_class": enum_class, "enum_value": "500"}) == "enum_class is not a text"


def test_the_same_number_of_another_enumeration_is_another_state() -> None:
    packed, shipped = StateValue("PackageStatus", "500"), StateValue("OrderItemStatus", "500")
    assert packed.is_of(wire.PACKAGE_STATUS)
    assert not shipped.is_of(wire.PACKAGE_STATUS)
    assert not packed.is_of(wire.PACKAGE_ITEM_STATUS)
    assert packed != shipped


def test_a_state_that_does_not_name_its_enumeration_is_taken_to_be_of_the_one_asked_for() -> None:
    assert StateValue(None, "500").is_of("PackageStatus")
    assert StateValue(None, "500").is_of("PackageItemStatus")


def test_an_empty_enumeration_is_not_the_one_asked_for() -> None:
    assert not StateValue("", "500").is_of("PackageStatus")


def test_the_enumerations_are_spelled_as_the_oms_spells_them() -> None:
    assert (wire.PACKAGE_STATUS, wire.PACKAGE_ITEM_STATUS) == ("PackageStatus", "PackageItemStatus")


def test_a_state_is_shown_with_its_enumeration_if_it_has_one() -> None:
    assert str(StateValue("PackageStatus", "500")) == "PackageStatus 500"
    assert str(StateValue(None, "500")) == "500"


# Instants


@pytest.mark.parametrize(
    "text",
    [
        "2020-05-12T14:11:10.580441Z",
        "2020-05-12T14:11:10.580441",
        "2020-05-12T17:11:10.580441+03:00",
        "2020-05-12 09:11:10.580441-05:00",
    ],
)
def test_an_instant_is_utc_whatever_offset_it_came_with(text: str) -> None:
    moment = Moment().deserialize(text)
    assert moment == datetime(2020, 5, 12, 14, 11, 10, 580441, UTC)
    assert moment.tzinfo is UTC


def test_an_instant_without_an_offset_is_utc_wherever_the_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as abroad:
        abroad.setenv("TZ", "XXX-03:00")
        time.tzset()
        moment = Moment().deserialize("2020-05-12T14:11:10")
    time.tzset()
    assert moment == datetime(2020, 5, 12, 14, 11, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "yesterday",
        "2020-13-01",
        "2020-05-12T25:00:00Z",
        "2020-05-12\ud800",
        "\x00",
        1589292670,
        1.5,
        True,
        [],
        {},
    ],
)
def test_what_is_no_instant_is_refused(value: object) -> None:
    assert refusal(Moment(), value) == "not an instant"


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"])
def test_an_instant_outside_the_calendar_is_refused(text: str) -> None:
    assert refusal(Moment(), text) == "not an instant"


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31)), st.integers(-23, 23))  # noqa: DTZ001 bounds are naive
def test_an_instant_survives_being_written_with_any_offset(moment: datetime, hours: int) -> None:
    aware = moment.replace(tzinfo=timezone(timedelta(hours=hours)))
    assert Moment().deserialize(aware.isoformat()) == aware


# Schemas


def test_unknown_keys_are_left_out() -> None:
    assert Parcel().read_with_problems({"number": 1, "label": "a", "customer": "Ayşe"}) == (
        {"number": 1, "label": "a"},
        {},
    )


def test_a_field_that_cannot_be_read_is_absent_and_the_others_are_kept() -> None:
    loaded, problems = Parcel().read_with_problems({"number": "1", "label": "a"})
    assert loaded == {"label": "a"}
    assert set(problems) == {"number"}
    assert Parcel().read({"number": "1", "label": "a"}) == {"label": "a"}


@pytest.mark.parametrize("value", [None, True, 1, "a", [], [{"number": 1}]])
def test_what_is_no_object_is_read_as_nothing(value: object) -> None:
    assert Parcel().read(value) == {}
    assert Parcel().read_with_problems(value) == ({}, {"_schema": ["not an object"]})


def test_an_empty_object_is_read_as_nothing_without_a_problem() -> None:
    assert Parcel().read_with_problems({}) == ({}, {})


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([Text(), PackageId(), OwnerId(), State(), Moment()]), JSON)
def test_every_field_returns_or_refuses_whatever_json_holds(field: fields.Field[Any], value: object) -> None:
    try:
        read = field.deserialize(value)
    except ValidationError:
        return
    assert isinstance(read, str | int | StateValue | datetime)
