"""Webhooks: desired and existing become a plan; a countdown becomes the time we may be down."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from service import hooks
from service.delivery import Authentication
from service.hooks import COUNTDOWN, EVENT_TYPES, Action, Hook, Wanted

TARGET = "https://autoship.example.com/webhooks/oms/packages"
PACKED = EVENT_TYPES[0]
WANTED = Wanted(TARGET, Authentication(("new", "old"), "oms:pass:1", ("X-Shop", "7")))
BASIC = {"auth": {"auth_type": "basic", "username": "oms", "password": "pass:1"}}
RIGHT: dict[str, Any] = {
    "secret_key": "new",
    "retry_countdown_config": COUNTDOWN,
    "additional_headers": {"X-Shop": "7"},
    "config": BASIC,
}


def a_hook(hook_id: int = 1, *, is_active: bool = True, url: str = TARGET, **settings: Any) -> Hook:
    return Hook(hook_id, url, PACKED, is_active, RIGHT | settings)


def packed_step(*existing: Hook, wanted: Wanted = WANTED) -> tuple[Action, int | None, dict[str, Any]]:
    step = hooks.plan(wanted, existing, None).steps[0]
    assert step.event_type == PACKED
    return step.action, step.hook_id, dict(step.values)


def test_from_nothing_each_event_type_is_created_with_everything_a_delivery_must_show() -> None:
    plan = hooks.plan(WANTED, (), frozenset(EVENT_TYPES))
    assert [(step.event_type, step.action) for step in plan.steps] == [(one, Action.CREATE) for one in EVENT_TYPES]
    assert plan.changes == plan.steps
    assert plan.steps[0].values == {"target_url": TARGET, "event_type": PACKED, "is_active": True} | RIGHT


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ([a_hook()], (Action.KEEP, 1, {})),
        ([a_hook(url=TARGET + "/")], (Action.KEEP, 1, {})),
        ([a_hook(is_active=False)], (Action.REACTIVATE, 1, {"is_active": True})),
        ([a_hook(secret_key="old")], (Action.CORRECT, 1, {"secret_key": "new"})),
        ([a_hook(secret_key=None)], (Action.CORRECT, 1, {"secret_key": "new"})),
        ([a_hook(is_active=False, config={})], (Action.REACTIVATE, 1, {"is_active": True, "config": BASIC})),
        ([a_hook(config={"shop": 7} | BASIC)], (Action.KEEP, 1, {})),
        ([a_hook(config={"shop": 7})], (Action.CORRECT, 1, {"config": {"shop": 7} | BASIC})),
        ([a_hook(config=None)], (Action.CORRECT, 1, {"config": BASIC})),
        ([a_hook(additional_headers={"X-Shop": "7", "X-Gateway": "1"})], (Action.KEEP, 1, {})),
        (
            [a_hook(additional_headers={"x-shop": "8", "Content-Type": "text/plain", "X-WHISPERER-SIGNATURE": "x"})],
            (Action.CORRECT, 1, {"additional_headers": {"X-Shop": "7"}}),
        ),
        ([a_hook(7, is_active=False), a_hook(8, secret_key="old"), a_hook(9)], (Action.KEEP, 9, {})),
        ([a_hook(9), a_hook(8)], (Action.KEEP, 8, {})),
    ],
)
def test_existing_webhook_is_kept_reactivated_or_corrected_in_nothing_but_what_is_wrong(
    existing: list[Hook], expected: tuple[Action, int, dict[str, Any]]
) -> None:
    assert packed_step(*existing) == expected


def test_what_else_delivers_to_this_address_is_corrected_after_all_that_is_kept_or_made() -> None:
    others = [a_hook(2, secret_key="old"), a_hook(3), a_hook(4, is_active=False, secret_key="old")]
    plan = hooks.plan(WANTED, [a_hook(1), *others, a_hook(5, url=TARGET + "/", secret_key="old")], None)
    steps = [(step.event_type, step.action, step.hook_id, dict(step.values)) for step in plan.steps]
    assert steps[:1] + steps[4:] == [
        (PACKED, Action.KEEP, 1, {}),
        (PACKED, Action.CORRECT, 2, {"secret_key": "new"}),
        (PACKED, Action.CORRECT, 5, {"secret_key": "new"}),
    ]
    assert [step[:2] for step in steps[1:4]] == [(one, Action.CREATE) for one in EVENT_TYPES[1:]]


def test_what_else_delivers_to_this_address_may_be_of_any_event_type() -> None:
    created = Hook(2, TARGET, "package.created", is_active=True, settings=RIGHT | {"secret_key": "old"})
    step = hooks.plan(WANTED, [created], None).steps[-1]
    assert (step.event_type, step.action, step.values) == ("package.created", Action.CORRECT, {"secret_key": "new"})


def test_what_is_kept_is_corrected_once() -> None:
    plan = hooks.plan(WANTED, [a_hook(1, secret_key="old")], None)
    assert [step.hook_id for step in plan.steps] == [1, None, None, None]


def test_webhook_of_another_address_is_left_alone() -> None:
    assert packed_step(a_hook(url=TARGET + "X"))[:2] == (Action.CREATE, None)


def test_what_the_oms_does_not_show_is_not_corrected_on_suspicion() -> None:
    assert packed_step(Hook(1, TARGET, PACKED, True, {})) == (Action.KEEP, 1, {})


def test_where_unsigned_deliveries_are_allowed_a_secret_does_no_harm() -> None:
    unsigned = Wanted(TARGET, Authentication(()))
    assert packed_step(a_hook(), wanted=unsigned) == (Action.KEEP, 1, {})
    assert "secret_key" not in packed_step(wanted=unsigned)[2]


def test_event_type_the_registry_does_not_list_is_told_and_not_asked_for() -> None:
    plan = hooks.plan(WANTED, (), frozenset(EVENT_TYPES[1:]))
    assert (plan.unknown, [step.event_type for step in plan.steps]) == ((PACKED,), list(EVENT_TYPES[1:]))


def test_nothing_secret_is_in_what_a_plan_or_a_webhook_looks_like_in_a_trace() -> None:
    assert "new" not in repr(hooks.plan(WANTED, (), None)) + repr(a_hook()) + repr(WANTED)


def test_rows_that_name_no_webhook_are_left_out_and_unreadable_fields_are_absent() -> None:
    row = {"id": 7, "target_url": TARGET, "event_type": PACKED, "is_active": False, "secret_key": None, "user": 3}
    rows: list[object] = [row, row | {"id": "x"}, {"id": 8}, "text", None, row | {"is_active": "perhaps"}]
    assert hooks.parse(rows) == (
        Hook(7, TARGET, PACKED, False, {"secret_key": None}),
        Hook(7, TARGET, PACKED, True, {"secret_key": None}),
    )


def test_sender_gives_up_after_the_sum_of_its_pauses() -> None:
    assert hooks.time_until_given_up() == timedelta(seconds=10 + 20 + 40 + 80 + 160 + 320 + 640 + 1280 + 2560 + 3600)


def test_loss_budget_is_told_in_words() -> None:
    assert hooks.loss_budget() == (
        "Registered so, a sender like dj-whisperer 0.5.3 tries a delivery 11 times within 2 h 25 min: that long we may "
        "be down. Whether a job of its own then tries up to 8 times more is unknown. What is lost all the same is "
        "found by the sweep while the package is still in Packed."
    )
