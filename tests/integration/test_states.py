"""Every state and reason: brought about in the OMS, explained, and left by the very step that `explain` advises.

docs/states.md is made from these cases.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service import brakes, inbox, operator
from service.case import MEANINGS, CaseState, Reason
from service.delivery import Delivery
from service.outcome import Misconfigured, Throttled, Unauthorised
from service.sandbox import CANCELLED, PACKED, Request, Response
from service.sweep import Sweeper
from service.wire import StateValue
from tests.conftest import on_sqlite
from tests.integration.conftest import Clock, Floor, beat
from tests.oms_faults import FaultyOms, Outcome, answers, applied_then, meanwhile, resets, shows, words

MINUTES, A_DAY = timedelta(minutes=20), timedelta(hours=26)
TRANSFERS = {"enum_class": "TransferOrderStatus", "enum_value": "500"}
SHOP = 'default = "ship"\n[[rule]]\nname = "shop"\nwhen = {channel_name = ["Shop"]}\naction = "skip"\n'
IGNORED_FILTER = {"OMS_ITEMS_PATH": "/api/v1/oms/packages/package-items/?parcel={id}"}
MISNAMED = {"SHIP_SLUG": "ship", "SHIP_TRANSITION_ID": "99"}

Explained = dict[str, Any]


@dataclass(frozen=True)
class Scene:
    """How a package came to where it stands, and what became of it.

    `bring` does what `how` says, under `variables`, and may return what was explained in the middle of it. `cause` is
    what the explanation must name. `mend` is the part of the advice that is done in the OMS, `restarted` the part that
    is done in the configuration; the commands in the advice are run as they stand there.
    """

    state: CaseState
    reason: Reason | None
    how: str
    bring: Callable[[Floor], Explained | None]
    cause: str
    end: tuple[str, str | None]
    step: str
    variables: Mapping[str, str] = field(default_factory=dict)
    mend: Callable[[Floor], object] = lambda floor: None
    restarted: Mapping[str, str] | None = None
    does_nothing: bool = False

    @property
    def name(self) -> str:
        return f"{self.state}/{self.reason}" if self.reason else str(self.state)


SHIPPED = (CaseState.SHIPPED, None)


# What happens in the OMS, and what we are told of it.


def told_of(floor: Floor, items: tuple[str, ...] = (PACKED, PACKED), *, state: str = PACKED) -> None:
    floor.oms.create(73, items, state=state)
    floor.hint(73)


def looked(floor: Floor, items: tuple[str, ...] = (PACKED, PACKED), *, state: str = PACKED) -> None:
    told_of(floor, items, state=state)
    floor.look()


def running(within: timedelta, *, state: str = PACKED, items: tuple[str, ...] = (PACKED,)) -> Callable[[Floor], None]:
    def run(floor: Floor) -> None:
        told_of(floor, items, state=state)
        floor.run(73, within)

    return run


def reading(fault: Any, then: Callable[[Floor], None] = looked) -> Callable[[Floor], None]:
    def bring(floor: Floor) -> None:
        floor.oms.always("read", fault)
        then(floor)

    return bring


def answering(fault: Any, then: Callable[[Floor], None]) -> Callable[[Floor], None]:
    def bring(floor: Floor) -> None:
        floor.oms.script("command", fault)
        then(floor)

    return bring


def read_well(floor: Floor) -> None:
    floor.oms.always("read", None)


def without_channel(oms: FaultyOms, request: Request) -> Outcome:
    document = json.loads(oms.answer_well(request).body)
    del document["channel_name"]
    return Response(200, json.dumps(document).encode())


def items_apart(floor: Floor) -> None:
    floor.oms.inline_items = False
    floor.oms.create(74, [PACKED], state=PACKED)
    looked(floor)


def paused(floor: Floor) -> None:
    operator.pause(floor.store)
    looked(floor)


def token_revoked(floor: Floor) -> None:
    told_of(floor)
    floor.oms.script("command", answers(401))
    floor.run(73, timedelta(seconds=4))


def swept(floor: Floor, *, adopt: bool = False) -> None:
    done = Sweeper(floor.config, floor.store, floor.attendant.oms, lambda _: False).sweep_if_due(
        at_once=True, adopt=adopt
    )
    assert done is not None
    assert done.problem is None


def listed_only(floor: Floor) -> None:
    floor.oms.create(73, [PACKED], state=PACKED)
    swept(floor)


def lost_answer(within: timedelta) -> Callable[[Floor], None]:
    """The command took effect, its answer was lost, and the transition log cannot be asked."""

    def bring(floor: Floor) -> None:
        floor.oms.always("log", answers(403))
        floor.oms.script("command", applied_then(resets))
        told_of(floor)
        floor.run(73, within)

    return bring


def sending(floor: Floor) -> Explained:
    seen: list[Explained] = []
    floor.oms.script("command", meanwhile(lambda: seen.append(floor.told(73))))
    looked(floor)
    return seen[0]


def shipped_by_hand(floor: Floor) -> None:
    looked(floor)
    floor.oms.ship_by_hand(73)
    floor.run(73)


def cancelled(floor: Floor) -> None:
    told_of(floor)
    floor.oms.cancel(73)
    state = StateValue("PackageStatus", CANCELLED)
    inbox.accept(floor.store, Delivery(73, "1" * 32, "package.status.cancelled", state, 0), floor.config.settings)
    floor.look()


def dismissed(floor: Floor) -> None:
    told_of(floor)
    operator.dismiss(floor.store, 73)


SCENES = (
    Scene(
        CaseState.WAITING, None, "a webhook names it; nobody has looked yet", told_of,
        "It is to be looked at", SHIPPED, "left alone", does_nothing=True,
    ),
    Scene(
        CaseState.WAITING, Reason.NOT_PACKED_YET, "a webhook says Packed, the OMS shows 400",
        lambda floor: looked(floor, state="400"), "PackageStatus 400",
        SHIPPED, "it is packed", mend=lambda floor: floor.oms.pack(73), does_nothing=True,
    ),
    Scene(
        CaseState.WAITING, Reason.ITEMS_MIXED, "one of its two items is still in 200",
        lambda floor: looked(floor, (PACKED, "200")), "1 in 200, 1 in 500",
        SHIPPED, "the item is packed", mend=lambda floor: floor.oms.set_items(73, [PACKED, PACKED]),
    ),
    Scene(
        CaseState.WAITING, Reason.NO_ITEMS, "it has no items in the OMS",
        lambda floor: looked(floor, ()), "items are complete: none",
        SHIPPED, "its items appear", mend=lambda floor: floor.oms.set_items(73, [PACKED]),
    ),
    Scene(
        CaseState.WAITING, Reason.ITEMS_INCOMPLETE, "the OMS ignores the filter in `OMS_ITEMS_PATH`",
        items_apart, "an item does not name this package",
        SHIPPED, "`OMS_ITEMS_PATH` as the OMS spells it", variables=IGNORED_FILTER, restarted={},
    ),
    Scene(
        CaseState.WAITING, Reason.WRONG_ENUM_CLASS, "something answers whose state is a TransferOrderStatus",
        reading(shows(state=TRANSFERS)), "TransferOrderStatus 500",
        SHIPPED, "the OMS answers", mend=read_well,
    ),
    Scene(
        CaseState.WAITING, Reason.GRACE, "everything passed, with `GRACE_S=60`", looked,
        "now at or after 2026-11-24 12:01:00 UTC",
        SHIPPED, "left alone", variables={"GRACE_S": "60"}, does_nothing=True,
    ),
    Scene(
        CaseState.WAITING, Reason.GRACE, "everything passed, with `GRACE_S=60`", looked,
        "now at or after 2026-11-24 12:01:00 UTC", (CaseState.SKIPPED, Reason.DISMISSED), "`autoship dismiss`",
        variables={"GRACE_S": "60"},
    ),
    Scene(
        CaseState.WAITING, Reason.COMMAND_NOT_OFFERED, "the OMS offers another command", looked,
        "offered: transition 12, slug 'ship-without-integration'",
        SHIPPED, "the right `SHIP_*`", variables=MISNAMED, restarted={},
    ),
    Scene(
        CaseState.WAITING, Reason.BRAKE, "commands are paused", paused,
        "paused: by an operator", SHIPPED, "`autoship resume`",
    ),
    Scene(
        CaseState.WAITING, Reason.BRAKE, "the OMS answers 401 to the command", token_revoked,
        "the OMS does not accept the token", SHIPPED, "the token is accepted again", does_nothing=True,
    ),
    Scene(
        CaseState.WAITING, Reason.RETRY_AFTER_REFUSAL, "the OMS refuses once, as Omnitron lags",
        answering(words(400, "Item statuses differ on Omnitron."), lambda floor: running(timedelta(seconds=4))(floor)),
        "Item statuses differ on Omnitron", SHIPPED, "left alone",
    ),
    Scene(
        CaseState.WAITING, Reason.RULE_FIELD_MISSING, "a rule asks the channel, which the OMS leaves out",
        reading(without_channel), "asks channel_name, which the package does not have",
        SHIPPED, "the rule is taken out", variables={"RULES_FILE": SHOP}, restarted={},
    ),
    Scene(
        CaseState.WAITING, Reason.BACKLOG_TO_CONFIRM, "the first sweep finds it, with `ADOPT_MAX=0`", listed_only,
        "no webhook has announced it", SHIPPED, "`autoship sweep --adopt`", variables={"ADOPT_MAX": "0"},
    ),
    Scene(
        CaseState.WAITING, Reason.OUTCOME_UNKNOWN, "the command's answer was lost and the transition log refuses",
        lost_answer(MINUTES / 4), "left Packed for PackageStatus",
        SHIPPED, "the log answers", mend=lambda floor: floor.oms.always("log", None), does_nothing=True,
    ),
    Scene(
        CaseState.SHIPPING, Reason.SENDING, "the command is under way", sending,
        "sending transition 12", SHIPPED, "left alone", does_nothing=True,
    ),
    Scene(
        CaseState.SHIPPING, Reason.CONFIRMING, "the OMS answered 204", looked,
        "accepted (204)", SHIPPED, "left alone", does_nothing=True,
    ),
    Scene(
        CaseState.SHIPPING, Reason.AMBIGUOUS, "the connection was reset after the command",
        answering(applied_then(resets), looked), "ambiguous", SHIPPED, "left alone", does_nothing=True,
    ),
    Scene(
        CaseState.SHIPPED, None, "the OMS accepted the command and it left Packed", running(MINUTES),
        "the OMS accepted our command, then the package left Packed", SHIPPED, "left alone",
    ),
    Scene(
        CaseState.ALREADY_SHIPPED, None, "a person pressed Ship within the grace period", shipped_by_hand,
        "not by us", (CaseState.ALREADY_SHIPPED, None), "left alone",
        variables={"GRACE_S": "600", "SHIPPED_STATUSES": "510"},
    ),
    Scene(
        CaseState.SKIPPED, Reason.RULE, "a rule skips its channel", looked,
        "skip by rule 'shop'", SHIPPED, "the rule is taken out, `autoship recheck`",
        variables={"RULES_FILE": SHOP}, restarted={},
    ),
    Scene(
        CaseState.SKIPPED, Reason.CANCELLED, "it was cancelled, and a signed webhook said so", cancelled,
        "cancelled, read as PackageStatus 990", (CaseState.SKIPPED, Reason.CANCELLED), "left alone",
    ),
    Scene(
        CaseState.SKIPPED, Reason.LEFT_PACKED, "it left Packed for 510 within the grace period", shipped_by_hand,
        "left Packed for PackageStatus 510", (CaseState.ALREADY_SHIPPED, None),
        "`SHIPPED_STATUSES=510`, `autoship recheck`",
        variables={"GRACE_S": "600"}, restarted={"SHIPPED_STATUSES": "510"},
    ),
    Scene(
        CaseState.SKIPPED, Reason.NOT_PACKED, "it was never Packed for 15 minutes", running(MINUTES, state="400"),
        "not Packed for 15 minutes, read as PackageStatus 400",
        SHIPPED, "it is packed, `autoship recheck`", mend=lambda floor: floor.oms.pack(73),
    ),
    Scene(
        CaseState.SKIPPED, Reason.DISMISSED, "a person dismissed it", dismissed,
        "dismissed", SHIPPED, "`autoship recheck`",
    ),
    Scene(
        CaseState.WOULD_SHIP, None, "everything passed, with `MODE=shadow`", looked,
        "MODE=shadow sends no command", SHIPPED, "`MODE=live`", variables={"MODE": "shadow"}, restarted={},
    ),
    Scene(
        CaseState.NEEDS_ATTENTION, Reason.REFUSED, "the OMS refused, with `COMMAND_MAX_ATTEMPTS=1`",
        answering(words(406, "This package is blocked."), running(MINUTES)), "This package is blocked",
        SHIPPED, "the cause is gone, `autoship recheck`", variables={"COMMAND_MAX_ATTEMPTS": "1"},
    ),
    Scene(
        CaseState.NEEDS_ATTENTION, Reason.ACCEPTED_BUT_STILL_PACKED, "the OMS answered 204 and did nothing",
        answering(answers(204), running(MINUTES)), "accepted the command 15 minutes ago",
        SHIPPED, "`autoship recheck`",
    ),
    Scene(
        CaseState.NEEDS_ATTENTION, Reason.OUTCOME_UNKNOWN, "the same as while waiting, for 15 minutes",
        lost_answer(MINUTES), "a command whose outcome nothing proves",
        (CaseState.SKIPPED, Reason.DISMISSED), "`autoship dismiss`",
    ),
    Scene(
        CaseState.NEEDS_ATTENTION, Reason.NOT_FOUND, "the OMS answers 404 for 15 minutes",
        reading(answers(404), running(MINUTES)), "the OMS does not know this package",
        SHIPPED, "the OMS has it, `autoship recheck`", mend=read_well,
    ),
    Scene(
        CaseState.NEEDS_ATTENTION, Reason.BAD_SHAPE, "the OMS shows it without a state for 15 minutes",
        reading(shows(state=None), running(MINUTES)), "the package has no readable state",
        SHIPPED, "the OMS shows the state, `autoship recheck`", mend=read_well,
    ),
    Scene(
        CaseState.NEEDS_ATTENTION, Reason.ITEMS_MIXED, "an item is in 200 for a day",
        running(A_DAY, items=(PACKED, "200")), "1 in 200, 1 in 500",
        SHIPPED, "the item is packed", mend=lambda floor: floor.oms.set_items(73, [PACKED, PACKED]),
    ),
    Scene(
        CaseState.NEEDS_ATTENTION, Reason.COMMAND_NOT_OFFERED, "the OMS offers another command for 15 minutes",
        running(MINUTES), "offered: transition 12, slug 'ship-without-integration'",
        SHIPPED, "the right `SHIP_*`", variables=MISNAMED, restarted={},
    ),
    Scene(
        CaseState.NEEDS_ATTENTION, Reason.TRANSITION_SLUG_MISMATCH, "our slug is another transition in the OMS", looked,
        "slug 'ship-without-integration' is transition 12",
        SHIPPED, "the right `SHIP_TRANSITION_ID`", variables={"SHIP_TRANSITION_ID": "99"}, restarted={},
    ),
)  # fmt: skip


def test_every_state_and_reason_has_its_scene() -> None:
    assert {(scene.state, scene.reason) for scene in SCENES} == set(MEANINGS)


@on_sqlite
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: f"{scene.name}, {scene.step}")
def test_explain_names_the_true_cause_and_its_advice_works(
    floor_with: Callable[..., Floor], clock: Clock, tmp_path: Path, scene: Scene
) -> None:
    floor = floor_with(FaultyOms(shipped="510", clock=clock), **variables_of(scene, tmp_path))
    beat(floor.store, clock.now + A_DAY)  # a worker is at work all the time
    told = scene.bring(floor) or floor.told(73)
    assert (told["state"], told["reason"]) == (scene.state, scene.reason)
    assert told["held"] == (scene.name in HELD)
    meaning, advice = MEANINGS[scene.state, scene.reason]
    assert told["advice"] == re.sub(r"\bID\b", "73", advice) or scene.reason is Reason.BRAKE
    assert told["summary"].startswith(meaning.rstrip(".")) or (scene.state, scene.reason) in RETOLD
    assert scene.cause in said(told)
    scene.mend(floor)
    if scene.restarted is not None:
        floor = floor_with(floor.oms, **scene.restarted)
    if scene.does_nothing:
        assert "Nothing to do" in advice or scene.reason is Reason.BRAKE
    else:
        follow(floor, told["advice"])
    floor.run(73, A_DAY)
    assert floor.where(73) == scene.end
    assert floor.oms.shipped_by_command(73) == (scene.end == SHIPPED or scene.reason is Reason.OUTCOME_UNKNOWN)


@pytest.mark.parametrize(
    ("answer", "cause", "advice"),
    [
        (Unauthorised(401, ""), "breaker open: the OMS does not accept the token (401)", brakes.AFTER_401),
        (Unauthorised(403, ""), "breaker open: the token may not command", "Give the token's user that right."),
        (Misconfigured(302), "breaker open: OMS_BASE_URL answers with a redirect (302)", "Correct OMS_BASE_URL"),
        (Throttled(timedelta(minutes=9)), "the OMS asked to wait", "It goes on by itself once that time is over."),
        ("by Ayşe: stock count", "paused: by Ayşe: stock count", brakes.AFTER_PAUSE),
        ("9 commands within an hour (SHIP_MAX_PER_HOUR)", "paused: 9 commands within an hour", brakes.AFTER_CAP),
    ],
)
def test_what_holds_a_package_back_decides_what_is_advised(floor: Floor, answer: Any, cause: str, advice: str) -> None:
    with floor.store.transaction() as transaction:
        if isinstance(answer, str):
            brakes.pause(transaction, answer)
        else:
            for package_id in (1, 2, 3):
                brakes.note_answer(transaction, package_id, brakes.Operation.COMMAND, answer)
    told_of(floor)
    told = floor.told(73)
    assert told["summary"].startswith("It is to be looked at, and commands are held back: " + cause)
    assert told["advice"].startswith(advice)


def test_a_pause_is_not_told_to_hold_back_the_looks_that_go_on(floor: Floor) -> None:
    with floor.store.transaction() as transaction:
        brakes.pause(transaction, "by Ayşe")
    told_of(floor)
    floor.oms.script("read", answers(502))
    assert floor.look() == 1
    assert floor.told(73)["summary"] == (
        "It is to be looked at, and commands are held back: paused: by Ayşe. The last read failed: answered 502."
    )


# What proves it, what holds it back, and what the OMS answered stand in the place of the general words.
RETOLD = {SHIPPED, (CaseState.WAITING, Reason.BRAKE), (CaseState.SHIPPING, Reason.CONFIRMING)}
HELD = {f"needs_attention/{reason}" for reason in ("refused", "accepted_but_still_packed", "outcome_unknown")}
HELD |= {"needs_attention/not_found", "needs_attention/bad_shape", "skipped/dismissed"}


def variables_of(scene: Scene, folder: Path) -> dict[str, str]:
    """The scene's variables; rules are given as the text of their file."""
    variables = dict(scene.variables)
    if "RULES_FILE" in variables:
        rules = folder / "rules.toml"
        rules.write_text(variables["RULES_FILE"], encoding="utf-8")
        variables["RULES_FILE"] = str(rules)
    return variables


def said(told: Explained) -> str:
    """What the explanation says of the cause: in its sentence, its failed checks, its last lines and attempt."""
    failed = [f"{one['name']}: {one['observed']} instead of {one['expected']}" for one in told["checks"]
              if one["verdict"] == "fail"]  # fmt: skip
    words_of_the_oms = [str(one["words"]) for one in told["attempts"][-1:]]
    lines = [one["text"] for one in told["timeline"][-2:]]
    return "\n".join([told["summary"], *failed, *words_of_the_oms, *lines])


def follow(floor: Floor, advice: str) -> None:
    """Runs the commands in an advice, each of which does something."""
    for command in re.findall(r"autoship (recheck 73|dismiss 73|resume|sweep --adopt)", advice):
        match command.split()[0]:
            case "recheck":
                assert operator.recheck(floor.store, 73).done
            case "dismiss":
                assert operator.dismiss(floor.store, 73).done
            case "resume":
                assert operator.resume(floor.store).done
            case _:
                swept(floor, adopt=True)
