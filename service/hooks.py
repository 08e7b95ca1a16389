"""The webhooks the OMS keeps for us: what is there, what should be, and the steps from one to the other.

ASSUMED: the OMS's registration service is that of its sender library, dj-whisperer 0.5.3 (models.py and
resources/serializers.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

from marshmallow import fields

from service.delivery import SIGNATURE_HEADER, Authentication
from service.wire import Id, TolerantSchema

RECEIVER_PATH = "/webhooks/oms/packages"
EVENT_TYPES = (
    "package.status.packed",
    "package.status.transitioned",
    "package.status.shipped",
    "package.status.cancelled",
)
# 10 s, 20 s, 40 s … and at most an hour before each of the repetitions.
COUNTDOWN: Mapping[str, Any] = {"choice": "exponential", "kwargs": {"base": 2, "factor": 10, "limit": 3600}}
# dj-whisperer 0.5.3, tasks.py: repetitions of its own, and tries of a job that somebody has to schedule.
REPETITIONS = 10
LATER_TRIES = 8
# Additional headers replace those the sender makes, and these two it must make itself.
_THE_SENDERS_OWN = frozenset({SIGNATURE_HEADER, "content-type"})


@dataclass(frozen=True, slots=True)
class Hook:
    """A registered webhook. `settings` holds what the OMS shows of the fields that may be wrong."""

    hook_id: int
    target_url: str
    event_type: str
    is_active: bool
    settings: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One webhook for each of our event types, to this address, and with what a delivery must show."""

    target_url: str
    authentication: Authentication = field(repr=False)


class Action(StrEnum):
    """What is done about one event type."""

    CREATE = "create"
    REACTIVATE = "reactivate"
    CORRECT = "correct"
    KEEP = "keep"


@dataclass(frozen=True, slots=True)
class Step:
    """What is done about one event type. `values` are the fields that are sent, the secret among them."""

    event_type: str
    action: Action
    hook_id: int | None
    values: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """A step for each event type, but for those the OMS does not know; then what else delivers here and is wrong."""

    steps: tuple[Step, ...]
    unknown: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[Step, ...]:
        """The steps that change something."""
        return tuple(step for step in self.steps if step.action is not Action.KEEP)


class _HookSchema(TolerantSchema):
    id = Id()
    target_url = fields.String()
    event_type = fields.String()
    is_active = fields.Boolean()
    secret_key = fields.Raw(allow_none=True)
    retry_countdown_config = fields.Raw(allow_none=True)
    additional_headers = fields.Raw(allow_none=True)
    config = fields.Raw(allow_none=True)


_HOOK = _HookSchema()


def parse(rows: Iterable[object]) -> tuple[Hook, ...]:
    """The webhooks in the rows of a list; a row that names none is left out."""
    hooks, naming = [], ("id", "target_url", "event_type")
    for row in rows:
        read = _HOOK.read(row)
        if all(name in read for name in naming):
            hook_id, target_url, event_type = map(read.pop, naming)
            hooks.append(Hook(hook_id, target_url, event_type, read.pop("is_active", True), settings=read))
    return tuple(hooks)


def plan(wanted: Wanted, existing: Sequence[Hook], known: frozenset[str] | None) -> Plan:
    """What is to be done. `known` are the event types the OMS's registry lists, None where it does not say."""
    unknown = tuple(one for one in EVENT_TYPES if known is not None and one not in known)
    ours = [hook for hook in existing if hook.target_url.rstrip("/") == wanted.target_url]
    # Two of one event type are two users': the one that delivers already is the one to keep.
    ours.sort(key=lambda one: (not one.is_active, len(_corrections(wanted, one)), one.hook_id))
    fittest = {hook.event_type: hook for hook in reversed(ours) if hook.event_type in EVENT_TYPES}
    steps = [_step(wanted, one, fittest.get(one)) for one in EVENT_TYPES if one not in unknown]
    # What the others deliver must be accepted too, or it is refused and repeated for ever.
    others = (hook for hook in ours if hook.is_active and hook is not fittest.get(hook.event_type))
    steps += (step for hook in others if (step := _step(wanted, hook.event_type, hook)).values)
    return Plan(tuple(steps), unknown)


def time_until_given_up() -> timedelta:
    """How long after its first try the last repetition of a sender with our countdown comes.

    Pauses as in dj-whisperer 0.5.3, countdown.py.
    """
    given = COUNTDOWN["kwargs"]
    pauses = (given["base"] ** repetition * given["factor"] for repetition in range(REPETITIONS))
    return timedelta(seconds=sum(min(pause_s, given["limit"]) for pause_s in pauses))


def loss_budget() -> str:
    """How long we may be down before the sender gives up, in words."""
    minutes = int(time_until_given_up().total_seconds()) // 60
    return (
        f"Registered so, a sender like dj-whisperer 0.5.3 tries a delivery {REPETITIONS + 1} times within "
        f"{minutes // 60} h {minutes % 60} min: that long we may be down. Whether a job of its own then tries up to "
        f"{LATER_TRIES} times more is unknown. What is lost all the same is found by the sweep while the package is "
        "still in Packed."
    )


def _step(wanted: Wanted, event_type: str, hook: Hook | None) -> Step:
    if hook is None:
        named = {"target_url": wanted.target_url, "event_type": event_type, "is_active": True}
        return Step(event_type, Action.CREATE, None, named | settings(wanted.authentication, {}))
    values = _corrections(wanted, hook)
    if not hook.is_active:
        return Step(event_type, Action.REACTIVATE, hook.hook_id, {"is_active": True} | values)
    return Step(event_type, Action.CORRECT if values else Action.KEEP, hook.hook_id, values)


def _corrections(wanted: Wanted, hook: Hook) -> dict[str, Any]:
    """The fields that are shown and wrong."""
    right = settings(wanted.authentication, hook.settings)
    return {name: value for name, value in right.items() if hook.settings.get(name, value) != value}


def settings(required: Authentication, shown: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as they should be. What others put into headers and configuration stays, if it does no harm."""
    right: dict[str, Any] = {
        "retry_countdown_config": dict(COUNTDOWN),
        "additional_headers": _headers(required, _mapping(shown.get("additional_headers"))),
        "config": _mapping(shown.get("config")),
    }
    if required.basic is not None:
        username, _, password = required.basic.partition(":")
        right["config"]["auth"] = {"auth_type": "basic", "username": username, "password": password}
    if required.secrets:
        right["secret_key"] = required.secrets[0]
    return right


def _headers(required: Authentication, shown: dict[str, Any]) -> dict[str, Any]:
    ours = dict([required.header] if required.header else [])
    replaced = _THE_SENDERS_OWN | {name.lower() for name in ours}
    return {name: value for name, value in shown.items() if name.lower() not in replaced} | ours


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
