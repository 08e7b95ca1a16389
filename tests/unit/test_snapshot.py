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
    parse_package,
    parse_transitions,
)
from service.wire import StateValue
from tests.samples import sample

PACKED = StateValue("PackageStatus", "500")
ITEM_PACKED = StateValue("PackageItemStatus", "500")

ANY_TEXT = st.text(st.characters())
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
STATES = st.fixed_dictionaries({}, optional={"enum_class": JSON, "enum_value": JSON}) | JSON


def objects(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects with any of these keys, or no object at all."""
    return st.fixed_dictionaries({}, optional=keys) | JSON


ITEM_ROWS = objects(id=JSON, state=STATES, package=objects(id=JSON))
LOG_ROWS = objects(
    id=st.integers() | JSON,
    object_id=st.sampled_from([73, "73"]) | JSON,
    old_state=STATES,
    new_state=STATES,
    attributes=objects(command=objects(slug=JSON, transition_id=JSON)),
)


def a_state(value: object = "500", enum_class: object = "PackageStatus") -> dict[str, object]:
    return {"enum_class": enum_class, "enum_value": value}


def an_item(item_id: object = 1, value: object = "500", **changes: Any) -> dict[str, Any]:
    """A row as the package-item example has it; a change of `...` leaves that key out."""
    row = {
        "id": item_id,
        "state": a_state(value, "PackageItemStatus"),
        "package": 73,
        "order_item": 118,
    } | changes
    return {key: value for key, value in row.items() if value is not ...}


def a_document(**changes: Any) -> dict[str, Any]:
    """The smallest document of package 73; a change of `...` leaves that key out."""
    document = {"id": 73, "state": a_state()} | changes
    return {key: value for key, value in document.items() if value is not ...}


def a_log_row(log_id: object = 9, **changes: Any) -> dict[str, Any]:
    """The entry of a move from Packed to 550, by transition 12; a change of `...` leaves that key out."""
    row = {
        "id": log_id,
        "object_id": 73,
        "old_state": a_state("500"),
        "new_state": a_state("550"),
        "attributes": {"command": {"slug": "PKG_STATE_TRANSITION", "transition_id": 12}},
    } | changes
    return {key: value for key, value in row.items() if value is not ...}


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
    """The snapshot in `a_document(**changes)`."""
    snapshot = parse_package(73, a_document(**changes))
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
    assert parse_package(73, {"id": 73}) == PackageSnapshot(73, None, None)
    assert PackageSnapshot(73, None, None).facts == {}


@pytest.mark.parametrize(
    "document",
    [
        None,
        True,
        73,
        "73",
        [],
        [{"id": 73}],
        {},
        {"id": 74},
        {"id": "73"},
        {"id": 73.0},
        {"id": None},
        {"pk": 73},
    ],
)
def test_what_is_no_document_of_this_package_is_none(document: object) -> None:
    assert parse_package(73, document) is None


def test_a_document_whose_id_is_true_is_not_that_of_package_1() -> None:
    assert parse_package(1, {"id": True}) is None


@pytest.mark.parametrize("value", ["500", 500, " 500 "])
def test_the_state_number_is_compared_as_normalised_text_with_its_enumeration(value: object) -> None:
    assert parsed(state=a_state(value)).state == PACKED


def test_500_of_omnitrons_order_status_is_not_packed() -> None:
    state = parsed(state=a_state("500", "OrderItemStatus")).state
    assert state is not None
    assert not state.is_of("PackageStatus")


def test_a_state_by_name_only_is_none() -> None:
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
    snapshot = parsed(state=state, modified_date="2021-01-01T00:00:00Z")
    assert snapshot.modified_at == datetime(2021, 1, 1, tzinfo=UTC)


def test_items_read_apart_replace_those_of_the_snapshot_and_nothing_else() -> None:
    snapshot, items = parsed(number="1"), Items((Item(1, ITEM_PACKED, 73),))
    assert snapshot.with_items(items) == parsed(number="1", packageitem_set=[an_item()])
    assert snapshot.items is None


# Facts


@pytest.mark.parametrize("key", ["channel_name", "payment_type"])
@pytest.mark.parametrize(("value", "fact"), [("Shop", "Shop"), ("", ""), (None, None), (7, "7")])
def test_a_text_the_package_has_is_a_fact_even_when_it_is_null(key: str, value: object, fact: object) -> None:
    assert parsed(**{key: value}).facts == {key: fact}


@pytest.mark.parametrize("key", ["channel_name", "payment_type"])
@pytest.mark.parametrize("value", [..., [], {}, True, 1.5])
def test_a_text_that_is_absent_or_unreadable_is_no_fact(key: str, value: object) -> None:
    assert parsed(**{key: value}).facts == {}


@pytest.mark.parametrize(
    ("location", "facts"),
    [
        ({"erp_code": "369"}, {"stock_location_erp_code": "369"}),
        ({"erp_code": 369}, {"stock_location_erp_code": "369"}),
        ({"erp_code": None}, {"stock_location_erp_code": None}),
        ({"erp_code": []}, {}),
        ({"id": 369}, {}),
        ({}, {}),
        (None, {}),
        ([], {}),
        ("369", {}),
        (..., {}),
    ],
)
def test_the_stock_locations_erp_code_is_a_fact_where_it_is_given(location: object, facts: object) -> None:
    assert parsed(stock_location=location).facts == facts


@pytest.mark.parametrize(("key", "fact"), [("shipment", "has_shipment"), ("invoice_number", "has_invoice")])
@pytest.mark.parametrize(
    ("value", "has"), [(None, False), ("", False), ("ABC1", True), ({"id": 1}, True), (17, True), ({}, True)]
)
def test_shipment_and_invoice_are_there_unless_null_or_empty(key: str, fact: str, value: object, has: bool) -> None:
    assert parsed(**{key: value}).facts == {fact: has}


def test_an_absent_shipment_or_invoice_is_no_fact() -> None:
    assert parsed(shipment=..., invoice_number=...).facts == {}


# Offered commands


@pytest.mark.parametrize(
    ("command", "offered"),
    [
        ({"slug": "ship", "transition": 12, "id": 3}, OfferedCommand("ship", "12", "3")),
        ({"slug": "ship"}, OfferedCommand("ship", None, None)),
        ({"transition": 12}, OfferedCommand(None, "12", None)),
        ({"transition": "12", "slug": None}, OfferedCommand(None, "12", None)),
        ({"id": 12, "name": "Ship"}, OfferedCommand(None, None, "12")),
        ({"id": 0}, OfferedCommand(None, None, "0")),
    ],
)
def test_an_offered_command_names_itself_by_slug_transition_or_id(command: object, offered: OfferedCommand) -> None:
    assert parsed(commands=[command]).offered == (offered,)


def test_offered_commands_keep_their_order() -> None:
    offered = parsed(commands=[{"id": 2}, {"id": 1}]).offered
    assert offered == (OfferedCommand(None, None, "2"), OfferedCommand(None, None, "1"))


@pytest.mark.parametrize(
    "commands",
    [
        ...,
        None,
        [],
        {},
        {"slug": "ship"},
        "ship",
        12,
        True,
        ["ship"],
        [12],
        [{}],
        [{"name": "Ship"}],
        [{"slug": ""}],
        [{"slug": {"id": 1}}],
        [{"slug": "ship"}, "ship"],
        [{"slug": "ship"}, {"name": "Block"}],
        [{"name": "Block"}, {"slug": "ship"}],
    ],
)
def test_commands_in_a_shape_we_do_not_recognise_are_none(commands: object) -> None:
    assert parsed(commands=commands).offered is None


# Items


@pytest.mark.parametrize("rows", [..., None, [], {}, {"id": 1}, "items", 3, True])
def test_a_package_that_does_not_carry_its_items_has_none(rows: object) -> None:
    assert parsed(packageitem_set=rows).items is None


@pytest.mark.parametrize("package", [..., None, 73, {"id": 73}, {"id": 73, "number": "1"}])
def test_items_inside_the_package_need_not_name_it(package: object) -> None:
    items = parsed(packageitem_set=[an_item(1, package=package), an_item(2)]).items
    assert items is not None
    assert (len(items.items), items.problem) == (2, None)


@pytest.mark.parametrize("package", [73, {"id": 73}])
def test_items_listed_apart_name_the_package_by_id_or_object(package: object) -> None:
    assert parse_items(73, [an_item(package=package)], 1) == Items((Item(1, ITEM_PACKED, 73),))


@pytest.mark.parametrize("package", [..., None, "73", True, {"pk": 73}, 74, {"id": 74}])
def test_items_listed_apart_that_do_not_name_the_package_are_a_problem(package: object) -> None:
    items = parse_items(73, [an_item(1), an_item(2, package=package)], 2)
    assert items.problem == "an item does not name this package"
    assert len(items.items) == 2


@pytest.mark.parametrize("package", [74, {"id": 74}, 0, -1])
def test_an_item_of_another_package_is_a_problem_wherever_it_is_listed(package: object) -> None:
    items = parsed(packageitem_set=[an_item(1), an_item(2, package=package)]).items
    assert items is not None
    assert items.problem == "an item does not name this package"


@pytest.mark.parametrize("item_id", [..., None, "1", True, 1.0, [], {}])
def test_an_item_without_an_id_is_a_problem(item_id: object) -> None:
    items = parse_items(73, [an_item(1), an_item(item_id)])
    assert items == Items((Item(1, ITEM_PACKED, 73), Item(None, ITEM_PACKED, 73)), "an item has no id")


@pytest.mark.parametrize("row", [None, True, 1, "1", [], [an_item()]])
def test_a_row_that_is_no_item_is_a_problem(row: object) -> None:
    assert parse_items(73, [row]) == Items((Item(None, None, None),), "an item has no id")


def test_an_item_listed_twice_is_a_problem() -> None:
    assert parse_items(73, [an_item(1), an_item(2), an_item(1)]).problem == "an item is listed twice"
    assert parse_items(73, [an_item(1), an_item(2), an_item(3)]).problem is None


@pytest.mark.parametrize(("announced", "rows"), [(2, 1), (1, 2), (0, 1), (1, 0), (-1, 1), (-1, 0)])
def test_another_count_than_announced_is_a_problem(announced: int, rows: int) -> None:
    items = parse_items(73, [an_item(number) for number in range(rows)], announced)
    assert items.problem == f"the OMS counts {announced} items and lists {rows}"


@pytest.mark.parametrize("announced", [0, 1, 2])
def test_the_count_that_was_announced_is_no_problem(announced: int) -> None:
    items = parse_items(73, [an_item(number) for number in range(announced)], announced)
    assert (len(items.items), items.problem) == (announced, None)


def test_the_worst_problem_is_told_first() -> None:
    rows = [an_item(None), an_item(1), an_item(1, package=74)]
    assert parse_items(73, rows, 9).problem == "an item has no id"
    assert parse_items(73, rows[1:], 9).problem == "an item is listed twice"
    assert parse_items(73, rows[2:], 9).problem == "an item does not name this package"


def test_quantity_may_be_absent_and_order_item_an_id_or_an_object() -> None:
    rows = [
        an_item(1, order_item=118),
        an_item(2, order_item={"id": 119}, quantity=3),
        an_item(3, order_item=...),
    ]
    assert parse_items(73, rows, 3).problem is None


@pytest.mark.parametrize("state", ["500", 500, {"enum_value": 500}])
def test_an_items_state_may_be_bare(state: object) -> None:
    assert parse_items(73, [an_item(state=state)]).items == (Item(1, StateValue(None, "500"), 73),)


@pytest.mark.parametrize("state", [..., None, {}, [], True, {"name": "Packed"}])
def test_an_item_whose_state_cannot_be_read_is_an_item_without_a_state(state: object) -> None:
    assert parse_items(73, [an_item(state=state)]) == Items((Item(1, None, 73),))


def test_items_are_counted_by_their_state_number() -> None:
    rows = [an_item(1), an_item(2), an_item(3, "100"), an_item(4, state=None)]
    assert parse_items(73, rows).counts() == {"500": 2, "100": 1, "unreadable": 1}
    assert Items(()).counts() == {}


# The transition log


def test_a_logged_transition_names_states_and_command() -> None:
    assert parse_transitions(73, [a_log_row()]) == (a_logged(),)


def test_the_log_is_newest_first_in_whatever_order_it_came() -> None:
    rows = [a_log_row(2), a_log_row(30), a_log_row(9)]
    assert [entry.log_id for entry in parse_transitions(73, rows)] == [30, 9, 2]


@pytest.mark.parametrize("object_id", [73, "73"])
def test_the_packages_own_entries_are_found_by_number_or_text(object_id: object) -> None:
    assert parse_transitions(73, [a_log_row(object_id=object_id)]) == (a_logged(),)


@pytest.mark.parametrize("object_id", [..., None, 74, "74", 73.0, True, [73], {"id": 73}, "073", " 73"])
def test_entries_of_other_objects_are_left_out(object_id: object) -> None:
    assert parse_transitions(73, [a_log_row(1, object_id=object_id), a_log_row(2)]) == (a_logged(2),)


@pytest.mark.parametrize("log_id", [..., None, "9", 9.0, True, []])
def test_entries_without_an_id_are_left_out_as_their_order_is_not_known(log_id: object) -> None:
    assert parse_transitions(73, [a_log_row(log_id), a_log_row(2)]) == (a_logged(2),)


@pytest.mark.parametrize("row", [None, True, 9, "9", [], [a_log_row()]])
def test_rows_that_are_no_entries_are_left_out(row: object) -> None:
    assert parse_transitions(73, [row]) == ()


@pytest.mark.parametrize(
    "attributes",
    [..., None, [], "x", {}, {"command": None}, {"command": "ship"}, {"command": []}, {"slug": "ship"}],
)
def test_an_entry_that_does_not_say_which_command_caused_it_is_kept(attributes: object) -> None:
    rows = [a_log_row(attributes=attributes)]
    assert parse_transitions(73, rows) == (a_logged(transition=None, slug=None),)


@pytest.mark.parametrize(
    ("command", "transition", "slug"),
    [
        ({"transition_id": "12"}, "12", None),
        ({"slug": "ship"}, None, "ship"),
        ({"transition_id": [], "slug": "ship"}, None, "ship"),
        ({"transition_id": 12, "slug": None}, "12", None),
        ({"transition": 12}, None, None),
    ],
)
def test_a_command_may_be_named_in_part(command: object, transition: str | None, slug: str | None) -> None:
    rows = [a_log_row(attributes={"command": command})]
    assert parse_transitions(73, rows) == (a_logged(transition=transition, slug=slug),)


@pytest.mark.parametrize("state", [..., None, {}, []])
def test_a_logged_state_that_cannot_be_read_is_none(state: object) -> None:
    assert parse_transitions(73, [a_log_row(old_state=state)]) == (a_logged(old=None),)
    assert parse_transitions(73, [a_log_row(new_state=state)]) == (a_logged(new=None),)


# Any JSON


@settings(max_examples=70, deadline=None)
@given(
    objects(
        id=st.just(73) | JSON,
        state=STATES,
        packageitem_set=st.lists(ITEM_ROWS, max_size=3) | JSON,
        commands=st.lists(objects(slug=JSON, transition=JSON, id=JSON), max_size=3) | JSON,
        stock_location=objects(erp_code=JSON),
        modified_date=JSON,
        number=JSON,
        channel_name=JSON,
        shipment=JSON,
        invoice_number=JSON,
    )
)
def test_any_json_is_read_as_this_package_or_as_none(document: object) -> None:
    snapshot = parse_package(73, document)
    named = isinstance(document, dict) and type(document.get("id")) is int and document["id"] == 73
    assert (snapshot is not None) == named
    if snapshot is not None:
        assert snapshot.package_id == 73
        assert snapshot.items is None or snapshot.items.items


@settings(max_examples=70, deadline=None)
@given(st.lists(ITEM_ROWS, max_size=4), st.none() | st.integers(-1, 4))
def test_any_rows_are_items_and_without_a_problem_only_if_complete_distinct_and_ours(
    rows: list[object], announced: int | None
) -> None:
    read = parse_items(73, rows, announced)
    assert len(read.items) == len(rows)
    assert sum(read.counts().values()) == len(rows)
    ids = [item.item_id for item in read.items]
    ours = {73} if announced is not None else {73, None}
    complete = announced is None or announced == len(rows)
    sound = (
        None not in ids
        and len(set(ids)) == len(ids)
        and all(item.package_id in ours for item in read.items)
        and complete
    )
    assert (read.problem is None) == sound


@settings(max_examples=70, deadline=None)
@given(st.lists(LOG_ROWS, max_size=4))
def test_any_rows_are_a_log_newest_first(rows: list[object]) -> None:
    ids = [entry.log_id for entry in parse_transitions(73, rows)]
    assert ids == sorted(ids, reverse=True)
    assert all(type(log_id) is int for log_id in ids)
