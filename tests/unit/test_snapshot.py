"""A package as the OMS shows it: what is read of a document, its items, its commands and its log."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.snapshot import (
    Item,
    Items,
    LoggedTransition,
    OfferedCommand,
    PackageSnapshot,
    parse_items,
    parse_listed,
    parse_package,
    parse_transitions,
)
from service.wire import StateValue
from tests.samples import sample
from tests.unit.any_json import JSON, objects

PACKED = StateValue("PackageStatus", "500")
ITEM_PACKED = StateValue("PackageItemStatus", "500")

UNREADABLE: tuple[object, ...] = (..., None, {}, [])


def a_state(value: object = "500", enum_class: object = "PackageStatus") -> dict[str, object]:
    return {"enum_class": enum_class, "enum_value": value}


def present(document: dict[str, Any]) -> dict[str, Any]:
    """The document without the keys whose value is `...`."""
    return {key: value for key, value in document.items() if value is not ...}


def an_item(item_id: object = 1, value: object = "500", **changes: Any) -> dict[str, Any]:
    """A row as the package-item example has it; a change of `...` leaves that key out."""
    state = a_state(value, "PackageItemStatus")
    return present({"id": item_id, "state": state, "package": 73, "order_item": 118} | changes)


def a_log_row(log_id: object = 9, **changes: Any) -> dict[str, Any]:
    """The entry of a move from Packed to 550, by transition 12; a change of `...` leaves that key out."""
    attributes = {"command": {"slug": "PKG_STATE_TRANSITION", "transition_id": 12}}
    states = {"old_state": a_state("500"), "new_state": a_state("550")}
    return present({"id": log_id, "object_id": 73, "attributes": attributes} | states | changes)


def a_logged(log_id: int = 9, **changes: Any) -> LoggedTransition:
    """What `a_log_row()` is read as, with changes."""
    expected: dict[str, Any] = {
        "log_id": log_id,
        "old": StateValue("PackageStatus", "500"),
        "new": StateValue("PackageStatus", "550"),
        "transition": "12",
        "slug": "PKG_STATE_TRANSITION",
    }
    return LoggedTransition(**(expected | changes))


def parsed(**changes: Any) -> PackageSnapshot:
    """The snapshot in the smallest document of package 73, with changes; `...` leaves that key out."""
    snapshot = parse_package(73, present({"id": 73, "state": a_state()} | changes))
    assert snapshot is not None
    return snapshot


# The package


def test_the_recorded_package_is_read_whole() -> None:
    _, body = sample("oms_package")
    assert parse_package(73, json.loads(body)) == PackageSnapshot(
        package_id=73,
        state=PACKED,
        items=Items((Item(201, ITEM_PACKED, 73), Item(202, ITEM_PACKED, 73))),
        offered=None,
        modified_at=datetime(2020, 5, 12, 15, 2, 31, 801245, UTC),
        number="000000000",
        order_number="00000000000",
        facts={
            "channel_name": "Shop",
            "payment_type": "credit_card",
            "stock_location_erp_code": "369",
            "has_shipment": False,
            "has_invoice": True,
        },
    )


def test_the_payload_of_a_webhook_is_the_same_document_without_items() -> None:
    _, body = sample("webhook_package_created")
    snapshot = parse_package(73, json.loads(body)["payload"])
    assert snapshot is not None
    assert (snapshot.state, snapshot.items) == (StateValue("PackageStatus", "920"), None)
    assert snapshot.facts["has_invoice"] is False


def test_a_document_that_says_nothing_more_is_a_snapshot_without_facts() -> None:
    snapshot = parse_package(73, {"id": 73})
    assert snapshot == PackageSnapshot(73, None, None, None, None, None, None, {})


@pytest.mark.parametrize(
    "document", [None, True, 1, "1", [{"id": 1}], {}, {"id": 2}, {"id": "1"}, {"id": 1.0}, {"id": True}, {"pk": 1}]
)
def test_what_is_no_document_of_this_package_is_none(document: object) -> None:
    assert parse_package(1, document) is None


def test_the_state_is_its_number_within_its_enumeration_and_never_its_name() -> None:
    assert parsed(state=a_state(" 500 ") | {"name": "Shipped"}).state == PACKED
    assert parsed(state=a_state(500, "OrderItemStatus")).state == StateValue("OrderItemStatus", "500")
    assert parsed(state={"enum_class": "PackageStatus", "name": "Packed", "id": 500}).state is None


def test_what_cannot_be_read_is_absent_and_the_rest_of_the_package_is_kept() -> None:
    snapshot = parsed(state=[], modified_date="soon", number={}, order_number=7, commands={}, channel_name=[])
    assert snapshot == PackageSnapshot(73, None, None, order_number="7")


def test_texts_are_cleaned_for_storing() -> None:
    snapshot = parsed(number="a\x00", order_number="\ud800", channel_name="x" * 201)
    assert (snapshot.number, snapshot.order_number) == ("a\ufffd", "\ufffd")
    assert snapshot.facts == {"channel_name": "x" * 200}


def test_the_packages_own_modification_is_not_that_of_its_state() -> None:
    state = a_state() | {"modified_date": "2020-01-01T00:00:00Z"}
    assert parsed(state=state).modified_at is None
    assert parsed(state=state, modified_date="2021-01-01").modified_at == datetime(2021, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("row", [None, [], {}, {"id": "73"}, {"state": {"enum_value": "500"}}])
def test_a_row_of_the_list_that_names_no_package_is_none(row: object) -> None:
    assert parse_listed(row) is None


def test_a_row_of_the_list_is_read_as_the_package_it_names() -> None:
    document = {"id": 73, "state": {"enum_class": "PackageStatus", "enum_value": "500"}}
    assert parse_listed(document) == parse_package(73, document)


# Facts


@pytest.mark.parametrize("key", ["channel_name", "payment_type"])
def test_a_text_the_package_has_is_a_fact_even_when_it_is_null(key: str) -> None:
    for value, fact in (("Shop", "Shop"), ("", ""), (None, None), (7, "7")):
        assert parsed(**{key: value}).facts == {key: fact}
    for unreadable in (..., [None], {"a": 1}, True, 1.5):
        assert parsed(**{key: unreadable}).facts == {}


@pytest.mark.parametrize("erp_code", ["369", None])
def test_the_stock_locations_erp_code_is_a_fact_where_it_is_given(erp_code: str | None) -> None:
    assert parsed(stock_location={"erp_code": erp_code}).facts == {"stock_location_erp_code": erp_code}


@pytest.mark.parametrize("location", [{"erp_code": []}, {"id": 369}, {}, None, [], "369", ...])
def test_a_stock_location_without_a_readable_erp_code_is_no_fact(location: object) -> None:
    assert parsed(stock_location=location).facts == {}


@pytest.mark.parametrize(("key", "fact"), [("shipment", "has_shipment"), ("invoice_number", "has_invoice")])
@pytest.mark.parametrize(
    ("value", "has"), [(None, False), ("", False), ("ABC1", True), ({"id": 1}, True), (17, True), ({}, True)]
)
def test_shipment_and_invoice_are_there_unless_null_or_empty(key: str, fact: str, value: object, has: bool) -> None:
    assert parsed(**{key: value}).facts == {fact: has}


# Offered commands


@pytest.mark.parametrize(
    ("command", "offered"),
    [
        ({"slug": "ship", "transition": 12, "id": 3}, OfferedCommand("ship", "12", "3")),
        ({"slug": "ship"}, OfferedCommand("ship", None, None)),
        ({"transition": "12", "slug": None}, OfferedCommand(None, "12", None)),
        ({"transition": {"id": 12, "slug": "ship"}}, OfferedCommand(None, "12", None)),
        ({"transition": {"slug": "ship"}, "transition_id": 12}, OfferedCommand(None, "12", None)),
        ({"id": 0, "name": "Ship"}, OfferedCommand(None, None, "0")),
    ],
)
def test_an_offered_command_names_itself_by_slug_transition_or_id(command: object, offered: OfferedCommand) -> None:
    assert parsed(commands=[command, {"id": 1}]).offered == (offered, OfferedCommand(None, None, "1"))


@pytest.mark.parametrize("commands", [..., None, [], {}, {"slug": "ship"}, "ship", 12])
def test_where_no_commands_are_listed_none_are_known(commands: object) -> None:
    assert parsed(commands=commands).offered is None


@pytest.mark.parametrize("command", ["ship", 12, {}, {"name": "Ship"}, {"slug": ""}, {"slug": {"id": 1}}])
def test_one_command_in_a_shape_we_do_not_recognise_makes_all_of_them_unknown(command: object) -> None:
    assert parsed(commands=[command]).offered is None
    assert parsed(commands=[{"slug": "ship"}, command]).offered is None


# Items


@pytest.mark.parametrize("rows", [..., None, [], {}, {"id": 1}, "items", 3, True])
def test_a_package_that_does_not_carry_its_items_has_none(rows: object) -> None:
    assert parsed(packageitem_set=rows).items is None


@pytest.mark.parametrize(
    ("package", "inside", "apart"),
    [
        (73, True, True),
        ({"id": 73, "number": "1"}, True, True),
        *((nothing, True, False) for nothing in (*UNREADABLE, "73", True, {"pk": 73})),
        *((another, False, False) for another in (74, {"id": 74}, 0, -1)),
    ],
)
def test_items_listed_apart_must_name_the_package_and_nowhere_another(
    package: object, inside: bool, apart: bool
) -> None:
    rows = [an_item(1), an_item(2, package=package)]
    carried, listed = parsed(packageitem_set=rows).items, parse_items(73, rows, 2)
    assert carried is not None
    assert len(carried.items) == len(listed.items) == 2
    problem = "an item does not name this package"
    assert carried.problem == (None if inside else problem)
    assert listed.problem == (None if apart else problem)


@pytest.mark.parametrize("item_id", [..., None, "1", True, 1.0, 0, 2**70, [], {}])
def test_an_item_without_an_id_is_a_problem(item_id: object) -> None:
    items = parse_items(73, [an_item(1), an_item(item_id)])
    assert items == Items((Item(1, ITEM_PACKED, 73), Item(None, ITEM_PACKED, 73)), "an item has no id")


@pytest.mark.parametrize("row", [None, True, 1, "1", [], [an_item()]])
def test_a_row_that_is_no_item_is_a_problem(row: object) -> None:
    assert parse_items(73, [row]) == Items((Item(None, None, None),), "an item has no id")


@pytest.mark.parametrize(("announced", "rows"), [(2, 1), (1, 2), (0, 1), (1, 0), (-1, 0)])
def test_another_count_than_announced_is_a_problem(announced: int, rows: int) -> None:
    items = parse_items(73, [an_item(number) for number in range(1, rows + 1)], announced)
    assert items.problem == f"the OMS counts {announced} items and lists {rows}"


def test_the_worst_problem_is_told_first() -> None:
    rows = [an_item(None), an_item(1), an_item(1, package=74)]
    assert parse_items(73, rows, 9).problem == "an item has no id"
    assert parse_items(73, rows[1:], 9).problem == "an item is listed twice"
    assert parse_items(73, rows[2:], 9).problem == "an item does not name this package"
    assert parse_items(73, [], 0) == Items(())


@pytest.mark.parametrize("order_item", [118, {"id": 119}, ...])
def test_order_item_may_be_an_id_or_an_object_or_absent(order_item: object) -> None:
    assert parse_items(73, [an_item(order_item=order_item)], 1) == Items((Item(1, ITEM_PACKED, 73),))


@pytest.mark.parametrize(
    ("state", "read"),
    [
        *((bare, StateValue(None, "500")) for bare in ("500", 500, {"enum_value": 500})),
        *((unreadable, None) for unreadable in (*UNREADABLE, True, {"name": "Packed"})),
    ],
)
def test_an_items_state_may_be_bare_or_unreadable(state: object, read: StateValue | None) -> None:
    assert parse_items(73, [an_item(state=state)]) == Items((Item(1, read, 73),))


def test_items_are_counted_by_their_state_number() -> None:
    rows = [an_item(1), an_item(2), an_item(3, "100"), an_item(4, state=None)]
    assert parse_items(73, rows).counts() == {"500": 2, "100": 1, "unreadable": 1}
    assert Items(()).counts() == {}


# The transition log


def test_the_log_is_newest_first_in_whatever_order_it_came() -> None:
    rows = [a_log_row(2), a_log_row(30), a_log_row(9, object_id="73")]
    assert parse_transitions(73, rows) == (a_logged(30), a_logged(9), a_logged(2))


@pytest.mark.parametrize(
    ("created_date", "at"),
    [
        ("2020-05-12T17:11:10.580441+03:00", datetime(2020, 5, 12, 14, 11, 10, 580441, tzinfo=UTC)),
        ("yesterday", None),
        (..., None),
    ],
)
def test_an_entry_is_dated_where_the_log_says_when(created_date: object, at: datetime | None) -> None:
    assert parse_transitions(73, [a_log_row(created_date=created_date)]) == (a_logged(at=at),)


@pytest.mark.parametrize("object_id", [..., None, 74, "74", 73.0, True, [73], {"id": 73}, "073", " 73"])
def test_entries_of_other_objects_are_left_out(object_id: object) -> None:
    assert parse_transitions(73, [a_log_row(1, object_id=object_id), a_log_row(2)]) == (a_logged(2),)


@pytest.mark.parametrize("log_id", [..., None, "9", 9.0, True, [], 2**70])
def test_entries_without_an_id_are_left_out_as_their_order_is_not_known(log_id: object) -> None:
    assert parse_transitions(73, [a_log_row(log_id), a_log_row(2)]) == (a_logged(2),)


@pytest.mark.parametrize("row", [None, True, 9, "9", [], [a_log_row()]])
def test_rows_that_are_no_entries_are_left_out(row: object) -> None:
    assert parse_transitions(73, [row, a_log_row()]) == (a_logged(),)


@pytest.mark.parametrize(
    ("attributes", "transition", "slug"),
    [
        *((nothing, None, None) for nothing in (*UNREADABLE, "x", {"slug": "ship"})),
        *(({"command": nothing}, None, None) for nothing in (*UNREADABLE, "ship", {"transition": 12})),
        ({"command": {"transition_id": "12", "slug": None}}, "12", None),
        ({"command": {"transition_id": [], "slug": "ship"}}, None, "ship"),
    ],
)
def test_an_entry_may_name_its_command_in_part_or_not_at_all(
    attributes: object, transition: str | None, slug: str | None
) -> None:
    rows = [a_log_row(attributes=attributes)]
    assert parse_transitions(73, rows) == (a_logged(transition=transition, slug=slug),)


@pytest.mark.parametrize("state", UNREADABLE)
def test_a_logged_state_that_cannot_be_read_is_none(state: object) -> None:
    assert parse_transitions(73, [a_log_row(old_state=state)]) == (a_logged(old=None),)
    assert parse_transitions(73, [a_log_row(new_state=state)]) == (a_logged(new=None),)


# Any JSON

STATES = objects(enum_class=JSON, enum_value=JSON)
ITEM_ROWS = st.lists(objects(id=st.integers(1, 3), state=STATES, package=st.just(73) | objects(id=JSON)), max_size=3)
COMMANDS = objects(slug=JSON, transition=JSON, transition_id=JSON, id=JSON)
LOG_ROW = objects(
    id=st.integers(1, 9) | JSON, object_id=st.just(73), old_state=STATES, attributes=objects(command=COMMANDS)
)
FIELDS = ["modified_date", "number", "channel_name", "shipment", "invoice_number"]


@settings(max_examples=100)
@given(
    objects(
        id=st.just(73),
        state=STATES,
        packageitem_set=ITEM_ROWS | JSON,
        commands=st.lists(COMMANDS, max_size=3) | JSON,
        stock_location=objects(erp_code=JSON),
        **dict.fromkeys(FIELDS, JSON),
    )
)
def test_any_json_is_read_as_this_package_or_as_none(document: object) -> None:
    named = isinstance(document, dict) and document.get("id") == 73
    assert (parse_package(73, document) is not None) == named


@settings(max_examples=100)
@given(ITEM_ROWS, st.none() | st.integers(-1, 3), st.lists(LOG_ROW, max_size=3))
def test_any_rows_are_items_and_a_log(rows: list[object], announced: int | None, log: list[object]) -> None:
    read, ids = parse_items(73, rows, announced), [entry.log_id for entry in parse_transitions(73, log)]
    assert len(read.items) == sum(read.counts().values()) == len(rows)
    assert read.problem is not None or announced in (None, len(rows))
    assert ids == sorted(ids, reverse=True)
