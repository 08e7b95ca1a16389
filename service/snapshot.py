"""A package as the OMS shows it now, and its transition log: JSON in, values out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from marshmallow import fields

from service.wire import Id, Moment, OwnerId, State, StateValue, Text, TextOrOwner, TolerantSchema

Fact = str | bool | None


@dataclass(frozen=True, slots=True)
class Item:
    item_id: int | None
    state: StateValue | None
    package_id: int | None


@dataclass(frozen=True, slots=True)
class Items:
    """The items of one package; `problem` says why they cannot be taken as all of them."""

    items: tuple[Item, ...]
    problem: str | None = None

    def counts(self) -> Mapping[str, int]:
        """How many items are in which state, by number."""
        return Counter(item.state.value if item.state else "unreadable" for item in self.items)


@dataclass(frozen=True, slots=True)
class OfferedCommand:
    """A command the OMS offers for the package now.

    ASSUMED: the elements of `commands` name themselves by `slug`, `transition` (or `transition_id`) or `id`; their
    shape is not documented.
    """

    slug: str | None
    transition: str | None
    command_id: str | None


@dataclass(frozen=True, slots=True)
class PackageSnapshot:
    """One read of one package. `items` is None where the package does not carry them.

    `offered` is None where no command is listed, or not each in a shape we recognise.
    `facts` holds only what the package has: a missing key means the OMS did not say.
    """

    package_id: int
    state: StateValue | None
    items: Items | None
    offered: tuple[OfferedCommand, ...] | None = None
    modified_at: datetime | None = None
    number: str | None = None
    order_number: str | None = None
    facts: Mapping[str, Fact] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoggedTransition:
    """One entry of the state transition log, and the command that caused it where it says so."""

    log_id: int
    old: StateValue | None
    new: StateValue | None
    transition: str | None
    slug: str | None
    at: datetime | None = None


# Newest first.
TransitionLog = tuple[LoggedTransition, ...]


class _ItemSchema(TolerantSchema):
    id = Id()
    state = State()
    package = OwnerId()


class _CommandSchema(TolerantSchema):
    slug = Text()
    transition = TextOrOwner()
    transition_id = Text()
    id = Text()


class _StockLocationSchema(TolerantSchema):
    erp_code = Text(allow_none=True)


class _PackageSchema(TolerantSchema):
    id = Id()
    state = State()
    modified_date = Moment()
    number = Text()
    order_number = Text()
    channel_name = Text(allow_none=True)
    payment_type = Text(allow_none=True)
    shipment = fields.Raw(allow_none=True)
    invoice_number = fields.Raw(allow_none=True)


class _TransitionSchema(TolerantSchema):
    id = Id()
    object_id = Text()
    old_state = State()
    new_state = State()
    attributes = fields.Dict()
    created_date = Moment()


_ITEM = _ItemSchema()
_STOCK_LOCATION = _StockLocationSchema()
_PACKAGE = _PackageSchema()
_TRANSITION = _TransitionSchema()
_COMMAND = _CommandSchema()


def parse_package(package_id: int, document: object) -> PackageSnapshot | None:
    """The snapshot in a package document, or None if it is not a document of this package.

    Keys: `packageitem_set`, `commands` and `stock_location` are those of the OMS's package service pages.
    ASSUMED: `modified_date` of the package itself, and that the fields rules ask are named as in the package webhook.
    """
    package = _PACKAGE.read(document)
    if not isinstance(document, Mapping) or package.get("id") != package_id:
        return None
    inline = document.get("packageitem_set")
    return PackageSnapshot(
        package_id=package_id,
        state=package.get("state"),
        items=parse_items(package_id, inline) if inline and isinstance(inline, list) else None,
        offered=_offered(document.get("commands")),
        modified_at=package.get("modified_date"),
        number=package.get("number"),
        order_number=package.get("order_number"),
        facts=_facts(package, document),
    )


def parse_listed(document: object) -> PackageSnapshot | None:
    """The snapshot in a row of the package list, or None if it names no package."""
    package_id = _PACKAGE.read(document).get("id")
    return None if package_id is None else parse_package(package_id, document)


def parse_items(package_id: int, rows: Sequence[object], announced: int | None = None) -> Items:
    """Items from rows. `announced` is the count a list answer gave; given, every row must name the package.

    A filter the OMS does not know is ignored, not refused: rows of another package make all of it unusable.
    """
    items = tuple(_item(row) for row in rows)
    return Items(items, _problem(package_id, items, announced))


def parse_transitions(package_id: int, rows: Iterable[object]) -> TransitionLog:
    """The package's own entries, newest first; packages and transfer orders share that table."""
    entries = []
    for row in rows:
        entry = _TRANSITION.read(row)
        if "id" not in entry or entry.get("object_id") != str(package_id):
            continue
        command = _COMMAND.read(entry.get("attributes", {}).get("command"))
        entries.append(
            LoggedTransition(
                log_id=entry["id"],
                old=entry.get("old_state"),
                new=entry.get("new_state"),
                transition=command.get("transition_id"),
                slug=command.get("slug"),
                at=entry.get("created_date"),
            )
        )
    return tuple(sorted(entries, key=lambda entry: entry.log_id, reverse=True))


def _item(row: object) -> Item:
    item = _ITEM.read(row)
    return Item(item.get("id"), item.get("state"), item.get("package"))


def _problem(package_id: int, items: tuple[Item, ...], announced: int | None) -> str | None:
    ids = [item.item_id for item in items]
    if None in ids:
        return "an item has no id"
    if len(set(ids)) != len(ids):
        return "an item is listed twice"
    allowed = {package_id, None} if announced is None else {package_id}
    if any(item.package_id not in allowed for item in items):
        return "an item does not name this package"
    if announced is not None and announced != len(items):
        return f"the OMS counts {announced} items and lists {len(items)}"
    return None


def _offered(commands: object) -> tuple[OfferedCommand, ...] | None:
    if not isinstance(commands, list) or not commands:
        return None
    offered = tuple(_command(command) for command in commands)
    recognised = all(command.slug or command.transition or command.command_id for command in offered)
    return offered if recognised else None


def _command(value: object) -> OfferedCommand:
    command = _COMMAND.read(value)
    transition = command.get("transition") or command.get("transition_id")
    return OfferedCommand(command.get("slug"), transition, command.get("id"))


def _facts(package: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Fact]:
    facts: dict[str, Fact] = {key: package[key] for key in ("channel_name", "payment_type") if key in package}
    location = _STOCK_LOCATION.read(document.get("stock_location"))
    if "erp_code" in location:
        facts["stock_location_erp_code"] = location["erp_code"]
    for fact, key in (("has_shipment", "shipment"), ("has_invoice", "invoice_number")):
        if key in package:
            facts[fact] = package[key] not in (None, "")
    return facts
