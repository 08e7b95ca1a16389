"""What Akinon's JSON is made of, as marshmallow fields shared by deliveries and snapshots.

Every field takes untrusted values and raises nothing but marshmallow's `ValidationError`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from marshmallow import EXCLUDE, Schema, ValidationError, fields

PACKAGE_STATUS = "PackageStatus"
PACKAGE_ITEM_STATUS = "PackageItemStatus"

MAX_ID = 2**53 - 1
MAX_TEXT = 200

# NUL and lone surrogates no database stores; the others move a terminal's cursor, break its lines or turn them around.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_BREAKS = re.compile("[\t\r\n]+")


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """One line that any database stores and any terminal shows, cut to `limit` characters.

    Tabs and line ends become a space, other control characters and lone surrogates U+FFFD.
    """
    text = text[:limit]
    return text if text.isascii() and text.isprintable() else _UNFIT.sub("\ufffd", _BREAKS.sub(" ", text))


def id_in(text: str) -> int | None:
    """The id that a person or an address names, or None where it is none."""
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_ID)) else 0
    return number if 1 <= number <= MAX_ID else None


@dataclass(frozen=True, slots=True)
class StateValue:
    """A state as the OMS names it: by number within an enumeration, never by its editable name."""

    enum_class: str | None
    value: str

    def is_of(self, enum_class: str) -> bool:
        """Whether the number belongs to this enumeration. A state that does not say is taken to.

        In Omnitron's order status 500 means shipped, in the OMS's PackageStatus it means Packed.
        """
        return self.enum_class is None or self.enum_class == enum_class

    def __str__(self) -> str:
        return self.value if self.enum_class is None else f"{self.enum_class} {self.value}"


class Text(fields.Field[str]):
    """A string, or a number written as one, cleaned for storing."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        return _text(value)


class TextOrOwner(fields.Field[str]):
    """A text, or an object that has one as its id."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        return _text(value.get("id") if isinstance(value, Mapping) else value)


class Id(fields.Field[int]):
    """A JSON integer from 1 to 2**53 - 1: what every JSON reader on the way keeps exactly."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_ID:
            raise ValidationError("not an id")
        return value


class OwnerId(fields.Field[int]):
    """A reference to another object: its id, or the object itself.

    The package-item example shows an integer, the item model an object.
    """

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        inner = value.get("id") if isinstance(value, Mapping) else value
        if isinstance(inner, bool) or not isinstance(inner, int):
            raise ValidationError("not a reference")
        return inner


class State(fields.Field[StateValue]):
    """`{"enum_class": …, "enum_value": …}`.

    ASSUMED: a bare number or string, as the OMS's short package model describes it, is the value.
    """

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> StateValue:
        if isinstance(value, Mapping):
            enum_class = value.get("enum_class")
            if enum_class is not None and not isinstance(enum_class, str):
                raise ValidationError("enum_class is not a text")
            return StateValue(None if enum_class is None else clean(enum_class), _number(value.get("enum_value")))
        return StateValue(None, _number(value))


class Moment(fields.Field[datetime]):
    """An ISO 8601 instant; without an offset it is UTC."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        try:
            moment = datetime.fromisoformat(value)
            return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        except (TypeError, ValueError, OverflowError) as problem:
            raise ValidationError("not an instant") from problem


class TolerantSchema(Schema):
    """Unknown keys are left out; a field that cannot be read is absent, the others are kept."""

    class Meta:
        unknown = EXCLUDE

    def read(self, value: object) -> dict[str, Any]:
        """What could be read of `value`; nothing at all if it is not an object."""
        if not isinstance(value, Mapping):
            return {}
        try:
            return dict(self.load(value))
        except ValidationError as problem:
            return cast(dict[str, Any], problem.valid_data)


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValidationError("not a text")
    return clean(str(value))


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValidationError("enum_value is not a number or text")
    text = clean(str(value).strip())
    if not text:
        raise ValidationError("enum_value is empty")
    return text
