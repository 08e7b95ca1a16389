"""What an answer to the command proves, and how an attempt that may have been applied is settled."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from service import brakes, inbox, sandbox, worklist
from service.delivery import Delivery
from service.oms import Oms
from service.sandbox import Request, Response
from service.wire import StateValue
from service.worklist import Claim
from tests.integration.conftest import Clock, Floor, ledger, packed
from tests.oms_faults import (
    Fault,
    FaultyOms,
    Outcome,
    answers,
    applied_then,
    closes,
    dripping,
    endless,
    hangs,
    html,
    meanwhile,
    raw,
    resets,
    sends,
    shows,
    truncated,
    words,
)

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def attempts(floor: Floor, package_id: int = 73) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = floor.told(package_id)["attempts"]
    return found


def refusals(floor: Floor) -> int:
    with floor.store.reading() as transaction:
        row = worklist.find(transaction, 73)
    assert row is not None
    return int(row["refusals"])


# The table of answers. Each row: what the OMS does with the first command, and the outcome that is recorded.
# Afterwards it behaves, so whatever was not applied is applied by a second command, and never by a third.

NO_ANSWER = {
    "reset": resets,
    "closed": closes,
    "no answer": hangs,
    "cut off": truncated(200),
    "cut off refusal": truncated(400),
    "not HTTP": sends(b"\x00\xff\xfe\r\n\r\n"),
    "length is no number": raw("204 No Content\r\nContent-Length: abc"),
    "endless body": endless(400),
    "one byte at a time": dripping(),
    "compressed": answers(200, b"\x1f\x8b", Content_Encoding="gzip"),
}
# Only these last as long as the client waits.
TIMEOUTS_S = {"no answer": "1", "one byte at a time": "1"}
ANSWERS: list[tuple[str, Fault, str, int | None]] = [
    *((name, fault, "ambiguous", None) for name, fault in NO_ANSWER.items()),
    ("2xx with a body", answers(200, b'{"ok": true}'), "ambiguous", 200),
    *((f"{status}", answers(status), "ambiguous", status) for status in (408, 425)),
    *((f"{status}", html(status), "ambiguous", status) for status in (500, 501, 502, 503, 504)),
    *((f"{status}", words(status, "no"), "refused", status) for status in (400, 404, 405, 406, 409, 422)),
    ("401", words(401, "no"), "unauthorised", 401),
    ("403", words(403, "no"), "unauthorised", 403),
    ("429", answers(429), "throttled", 429),
    *((f"{status}", answers(status, Location="/elsewhere/"), "misconfigured", status) for status in (301, 302, 307)),
]


@pytest.mark.parametrize(
    ("timeout_s", "fault", "outcome", "status"),
    [pytest.param(TIMEOUTS_S.get(name, "5"), *row, id=name) for name, *row in ANSWERS],
)
def test_what_was_not_applied_is_sent_again_once_and_only_when_that_is_proven(
    floor_with: Callable[..., Floor], timeout_s: str, fault: Fault, outcome: str, status: int | None
) -> None:
    floor = floor_with(OMS_TIMEOUT_S=timeout_s)
    packed(floor)
    floor.oms.script("command", fault)
    told = floor.run(73)
    first, second = told["attempts"]
    assert (first["outcome"], first["resolution"], first["http_status"]) == (outcome, "not_applied", status)
    assert (second["outcome"], second["resolution"]) == ("accepted", "applied")
    assert (told["state"], told["evidence"]) == ("shipped", "read_back")
    assert ledger(floor) == (2, 1)


@pytest.mark.parametrize(
    ("timeout_s", "fault", "outcome", "evidence"),
    [
        *(
            pytest.param(TIMEOUTS_S.get(name, "5"), fault, "ambiguous", "transition_log", id=name)
            for name, fault in NO_ANSWER.items()
        ),
        pytest.param("5", html(500), "ambiguous", "transition_log", id="500"),
        pytest.param("5", answers(408), "ambiguous", "transition_log", id="408"),
        pytest.param("5", answers(200, b"{}"), "ambiguous", "transition_log", id="2xx with a body"),
        pytest.param("5", answers(200), "accepted", "read_back", id="200"),
        pytest.param("5", answers(202), "accepted", "read_back", id="202"),
    ],
)
def test_what_was_applied_is_found_by_reading_and_never_sent_again(
    floor_with: Callable[..., Floor], timeout_s: str, fault: Fault, outcome: str, evidence: str
) -> None:
    floor = floor_with(OMS_TIMEOUT_S=timeout_s)
    packed(floor)
    floor.oms.script("command", applied_then(fault))
    told = floor.run(73)
    [only] = told["attempts"]
    assert (only["outcome"], only["resolution"]) == (outcome, "applied")
    assert (told["state"], told["evidence"]) == ("shipped", evidence)
    assert ledger(floor) == (1, 1)


def test_a_command_that_took_effect_after_reads_seemed_to_prove_the_contrary_is_still_found(floor: Floor) -> None:
    packed(floor)
    floor.oms.script("command", closes, applied_then(words(406, "This command cannot run in this state.")))
    told = floor.run(73)
    assert [attempt["outcome"] for attempt in told["attempts"]] == ["ambiguous", "refused"]
    assert (told["state"], told["evidence"]) == ("shipped", "transition_log")
    assert ledger(floor) == (2, 1)


def test_a_refusal_is_not_taken_for_an_effect_of_ours(floor: Floor) -> None:
    def somebody_was_first(oms: FaultyOms, request: Request) -> Outcome:
        oms.ship_by_hand(73)
        return words(406, "This command cannot run in this state.")(oms, request)

    packed(floor)
    floor.oms.script("command", somebody_was_first)
    floor.run(73)
    assert settled(floor) == ("skipped", "left_packed", None)
    assert ledger(floor) == (1, 0)


def test_an_accepted_command_that_changed_nothing_is_never_repeated_but_shown_to_a_person(floor: Floor) -> None:
    packed(floor)
    floor.oms.script("command", answers(204))
    floor.run(73, within=14 * MINUTE)
    assert floor.where(73) == ("shipping", "confirming")
    told = floor.run(73)
    assert (told["state"], told["reason"], told["held"]) == ("needs_attention", "accepted_but_still_packed", True)
    floor.hint(73)
    floor.run(73)
    assert ledger(floor) == (1, 0)


@pytest.mark.parametrize("claimed_before_the_answer", [True, False])
def test_a_2xx_that_its_sender_writes_after_reads_seemed_to_prove_the_contrary_is_never_followed_by_a_command(
    floor: Floor, claimed_before_the_answer: bool
) -> None:
    """The sender was frozen beyond its lease; meanwhile another worker looked twice."""
    another = Oms(floor.config.oms, wall_clock=floor.clock)
    colleague = replace(floor.attendant, oms=another)

    def claim() -> Claim:
        [claimed] = worklist.claim(floor.store, 9, 9, floor.config.lease, 0)
        return claimed

    def meanwhile_elsewhere() -> None:
        floor.clock.turn(floor.config.lease + SECOND)
        colleague.attend(claim())
        floor.clock.turn(2 * SECOND)
        late.append(claim())
        if not claimed_before_the_answer:
            colleague.attend(late.pop())

    late: list[Claim] = []
    packed(floor)
    floor.oms.script("command", meanwhile(meanwhile_elsewhere, answers(204)))
    floor.look()
    for claimed in late:
        colleague.attend(claimed)
    floor.run(73, within=5 * MINUTE)
    another.close()
    assert floor.where(73) == ("shipping", "confirming")
    floor.oms.apply(73)
    assert floor.run(73)["evidence"] == "read_back"
    assert ledger(floor) == (1, 1)


def test_an_accepted_command_that_takes_effect_late_is_confirmed(floor: Floor) -> None:
    packed(floor)
    floor.oms.script("command", answers(204))
    floor.run(73, within=5 * MINUTE)
    floor.oms.apply(73)
    assert floor.run(73)["evidence"] == "read_back"
    assert ledger(floor) == (1, 1)


def test_a_refused_connection_costs_no_budget(floor: Floor) -> None:
    def goes_away(oms: FaultyOms, request: Request) -> Response:
        floor.server.stop()
        return Response(200, oms.answer_well(request).body, {"Connection": "close"})

    packed(floor)
    floor.oms.script("read", goes_away)
    floor.look()
    [attempt] = attempts(floor)
    assert (attempt["outcome"], attempt["resolution"]) == ("not_sent", "not_applied")
    assert floor.where(73) == ("waiting", "brake")
    assert refusals(floor) == 0
    with sandbox.serve(floor.oms, floor.server.port):
        assert floor.run(73)["state"] == "shipped"
        floor.attendant.oms.close()
    assert ledger(floor) == (1, 1)


# When a second command may follow.


def pause_between_commands(floor: Floor) -> timedelta:
    first, second = (datetime.fromisoformat(attempt["started_at"]) for attempt in attempts(floor))
    return second - first


@pytest.mark.parametrize("fault", [closes, answers(408), answers(200, b"{}")])
def test_after_an_ambiguous_answer_two_reads_must_show_packed_the_later_three_timeouts_after_the_send(
    floor: Floor, fault: Fault
) -> None:
    packed(floor)
    floor.oms.script("command", fault)
    floor.look()
    for _ in range(2):
        floor.hint(73)
        floor.clock.turn(7 * SECOND)
        floor.look()
    assert attempts(floor)[0]["resolution"] is None
    floor.clock.turn(SECOND)
    floor.hint(73)
    floor.look()
    assert attempts(floor)[0]["resolution"] == "not_applied"
    assert floor.run(73)["state"] == "shipped"
    assert pause_between_commands(floor) >= 15 * SECOND


def test_after_a_complete_5xx_one_read_after_settling_is_enough(floor: Floor) -> None:
    packed(floor)
    floor.oms.script("command", html(500))
    floor.look()
    floor.clock.turn(2.9 * SECOND)
    floor.hint(73)
    floor.look()
    assert attempts(floor)[0]["resolution"] is None
    floor.clock.turn(SECOND)
    floor.hint(73)
    floor.look()
    assert attempts(floor)[0]["resolution"] == "not_applied"


@pytest.mark.parametrize(
    ("retry_after", "at_least", "at_most"),
    [
        ("60", MINUTE, 2 * MINUTE),
        ("date", MINUTE, 2 * MINUTE),
        ("99999999999999999999", 15 * MINUTE, 16 * MINUTE),
        ("soon", 30 * SECOND, MINUTE),
        (None, 30 * SECOND, MINUTE),
    ],
)
def test_a_throttled_command_holds_all_packages_back_for_as_long_as_asked_within_15_minutes(
    floor: Floor, clock: Clock, retry_after: str | None, at_least: timedelta, at_most: timedelta
) -> None:
    if retry_after == "date":
        retry_after = format_datetime(clock.now + MINUTE, usegmt=True)
    packed(floor)
    floor.oms.script("command", answers(429, Retry_After=retry_after) if retry_after else answers(429))
    floor.look()
    packed(floor, 74)
    floor.clock.turn(at_least - SECOND)
    assert floor.look() == 0
    floor.run(74)
    assert floor.run(73)["state"] == "shipped"
    assert at_least <= pause_between_commands(floor) <= at_most
    assert refusals(floor) == 0


def test_a_token_that_is_not_accepted_stops_every_package_until_one_probe_gets_through(floor: Floor) -> None:
    packed(floor)
    floor.oms.script("command", answers(401))
    floor.look()
    packed(floor, 74)
    floor.clock.turn(29 * SECOND)
    assert floor.look() == 0
    floor.run(73)
    floor.run(74)
    assert (floor.where(73), floor.where(74)) == (("shipped", None), ("shipped", None))
    assert ledger(floor) == (2, 1)
    assert ledger(floor, 74) == (1, 1)


def test_a_redirected_command_reaches_nobody_else_and_opens_the_breaker(floor: Floor) -> None:
    elsewhere = FaultyOms()
    with sandbox.serve(elsewhere) as server:
        packed(floor)
        floor.oms.script("command", answers(307, Location=f"{server.url}/api/v1/oms/packages/73/command/"))
        floor.look()
    assert elsewhere.received == []
    with floor.store.reading() as transaction:
        assert brakes.read(transaction).breaker_opened_at is not None


# Omnitron lags: a uniform package is refused a bounded number of times.


def test_what_omnitron_refuses_while_it_lags_is_tried_again(floor: Floor) -> None:
    packed(floor)
    floor.oms.packages[73].lag = 2
    assert floor.run(73)["state"] == "shipped"
    assert [attempt["outcome"] for attempt in attempts(floor)] == ["refused", "refused", "accepted"]
    assert ledger(floor) == (3, 1)


def test_what_is_refused_for_too_often_goes_to_a_person_who_can_have_it_tried_again(
    floor_with: Callable[..., Floor],
) -> None:
    floor = floor_with(COMMAND_MAX_ATTEMPTS="3")
    packed(floor)
    floor.oms.packages[73].lag = 1000
    told = floor.run(73)
    assert (told["state"], told["reason"], told["held"]) == ("needs_attention", "refused", True)
    assert "Item statuses differ on Omnitron." in attempts(floor)[-1]["words"]
    floor.clock.turn(MINUTE)
    floor.hint(73)
    floor.run(73)
    assert ledger(floor) == (3, 0)
    floor.oms.packages[73].lag = 1
    with floor.store.transaction() as transaction:
        worklist.recheck(transaction, 73)
    assert floor.run(73)["state"] == "shipped"
    assert ledger(floor) == (5, 1)


# It left Packed after a command that may have been applied: by us or by others, in the order of what proves most.


def shipped_by_somebody(oms: FaultyOms, request: Request) -> Outcome:
    oms.ship_by_hand(73)
    return closes(oms, request)


def unpacked_meanwhile(oms: FaultyOms, request: Request) -> Outcome:
    oms.unpack(73)
    return closes(oms, request)


def logged_without_a_name(oms: FaultyOms, request: Request) -> Response:
    page = json.loads(oms.answer_well(request).body)
    for entry in page["results"]:
        entry["attributes"] = None
    return Response(200, json.dumps(page).encode())


SILENT_LOGS = [
    pytest.param(answers(401), id="log 401"),
    pytest.param(answers(403), id="log 403"),
    pytest.param(closes, id="log does not answer"),
    pytest.param(logged_without_a_name, id="log names nothing"),
    pytest.param(answers(200, b'{"results": []}'), id="log is empty"),
]


def shipped_event(floor: Floor, secret_index: int | None = 0) -> None:
    state = StateValue("PackageStatus", floor.oms.shipped)
    inbox.accept(floor.store, Delivery(73, None, "package.status.shipped", state, secret_index), floor.config.settings)


def settled(floor: Floor) -> tuple[str, str | None, str | None]:
    told = floor.told(73)
    return told["state"], told["reason"], told["evidence"]


def test_a_log_that_asks_everybody_to_wait_is_obeyed(floor: Floor) -> None:
    packed(floor)
    floor.oms.script("command", applied_then(closes))
    floor.look()
    floor.oms.always("log", answers(429, Retry_After="600"))
    floor.clock.now = floor.due_at(73) or floor.clock.now
    floor.look()
    with floor.store.reading() as transaction:
        assert brakes.read(transaction).hold_off_until == floor.clock.now + timedelta(minutes=10)


def test_first_a_log_that_names_our_transition_proves_that_we_shipped_it(floor: Floor) -> None:
    packed(floor)
    floor.oms.script("command", applied_then(closes))
    floor.run(73)
    assert settled(floor) == ("shipped", None, "transition_log")


@pytest.mark.parametrize(
    ("known", "where"), [("", ("skipped", "left_packed", None)), ("737", ("already_shipped", None, None))]
)
def test_first_a_log_that_names_another_transition_proves_that_we_did_not(
    floor_with: Callable[..., Floor], known: str, where: tuple[str, str | None, str | None]
) -> None:
    floor = floor_with(SHIPPED_STATUSES=known)
    floor.oms.shipped = "737"
    packed(floor)
    floor.oms.script("command", shipped_by_somebody)
    floor.run(73)
    shipped_event(floor)
    floor.run(73)
    assert settled(floor) == where
    assert [attempt["resolution"] for attempt in attempts(floor)] == ["not_applied"]
    assert ledger(floor) == (1, 0)


@pytest.mark.parametrize("log", SILENT_LOGS)
def test_then_a_state_configured_as_shipped_does(floor_with: Callable[..., Floor], log: Fault) -> None:
    floor = floor_with(SHIPPED_STATUSES="700,737")
    floor.oms.shipped = "737"
    floor.oms.always("log", log)
    packed(floor)
    floor.oms.script("command", applied_then(closes))
    told = floor.run(73)
    assert settled(floor) == ("shipped", None, "read_back")
    assert any("somebody at the same moment" in entry["text"] for entry in told["timeline"])


@pytest.mark.parametrize(("packages", "where"), [(3, ("shipped", None)), (2, ("waiting", "outcome_unknown"))])
def test_then_a_state_that_three_packages_showed_right_after_a_clean_answer(
    floor: Floor, packages: int, where: tuple[str, str | None]
) -> None:
    floor.oms.always("log", answers(403))
    for package_id in range(1, packages + 1):
        packed(floor, package_id)
        floor.run(package_id)
    packed(floor)
    floor.oms.script("command", applied_then(closes))
    floor.run(73, within=5 * MINUTE)
    assert floor.where(73) == where


def test_configured_states_switch_learning_off(floor_with: Callable[..., Floor]) -> None:
    floor = floor_with(SHIPPED_STATUSES="999")
    floor.oms.always("log", answers(403))
    for package_id in range(1, 5):
        packed(floor, package_id)
        assert floor.run(package_id)["state"] == "shipped"
    packed(floor)
    floor.oms.script("command", applied_then(closes))
    floor.run(73, within=5 * MINUTE)
    assert floor.where(73) == ("waiting", "outcome_unknown")


@pytest.mark.parametrize("log", SILENT_LOGS)
def test_then_a_signed_shipped_event_after_the_send(floor: Floor, log: Fault) -> None:
    floor.oms.always("log", log)
    packed(floor)
    floor.oms.script("command", applied_then(closes))
    floor.run(73, within=MINUTE)
    assert settled(floor) == ("waiting", "outcome_unknown", None)
    shipped_event(floor)
    floor.run(73)
    assert settled(floor) == ("shipped", None, "event")


def test_a_shipped_event_before_the_send_or_without_a_signature_proves_nothing(floor: Floor) -> None:
    floor.oms.always("log", answers(403))
    packed(floor)
    shipped_event(floor)
    floor.clock.turn(SECOND)
    floor.oms.script("command", applied_then(closes))
    floor.run(73, within=MINUTE)
    shipped_event(floor, secret_index=None)
    floor.run(73, within=MINUTE)
    assert settled(floor) == ("waiting", "outcome_unknown", None)


@pytest.mark.parametrize(("told", "where"), [("shipped", ("waiting", None)), ("nothing", ("shipped", "event"))])
def test_a_late_shipped_event_of_an_earlier_stay_tells_another_state_than_is_read_and_proves_nothing(
    floor: Floor, told: str, where: tuple[str, str | None]
) -> None:
    floor.oms.always("log", answers(403))
    packed(floor)
    floor.oms.script("command", unpacked_meanwhile)
    floor.run(73, within=MINUTE)
    state = StateValue("PackageStatus", floor.oms.shipped) if told == "shipped" else None
    inbox.accept(floor.store, Delivery(73, None, "package.status.shipped", state, 0), floor.config.settings)
    floor.run(73, within=MINUTE)
    assert settled(floor)[::2] == where


def test_without_any_evidence_it_waits_15_minutes_and_then_for_a_person_and_is_not_claimed_as_shipped(
    floor: Floor,
) -> None:
    floor.oms.always("log", answers(403))
    packed(floor)
    floor.oms.script("command", applied_then(closes))
    floor.run(73, within=14 * MINUTE)
    assert settled(floor) == ("waiting", "outcome_unknown", None)
    told = floor.run(73)
    assert settled(floor) == ("needs_attention", "outcome_unknown", None)
    assert told["held"]
    assert floor.due_at(73) is None
    assert ledger(floor) == (1, 1)


def test_a_repacked_package_whose_last_attempt_stayed_unknown_is_evaluated_again(floor: Floor) -> None:
    floor.oms.always("log", answers(403))
    packed(floor)
    floor.oms.script("command", applied_then(closes))
    floor.run(73)
    floor.oms.unpack(73)
    floor.clock.turn(MINUTE)
    floor.oms.pack(73)
    floor.hint(73)
    told = floor.run(73)
    assert [attempt["resolution"] for attempt in told["attempts"]] == ["unknown", "applied"]
    assert (told["state"], told["episode"]) == ("shipped", 2)


def test_a_read_that_falsely_showed_it_gone_leaves_it_to_a_person_whose_word_ships_it(floor: Floor) -> None:
    packed(floor)
    floor.oms.script("command", closes)
    floor.oms.script("read", shows(), shows(state={"enum_class": "PackageStatus", "enum_value": "777"}))
    told = floor.run(73)
    assert (told["state"], told["reason"], told["held"]) == ("needs_attention", "outcome_unknown", True)
    with floor.store.transaction() as transaction:
        worklist.recheck(transaction, 73)
    assert floor.run(73)["state"] == "shipped"
    assert ledger(floor) == (2, 1)


def test_what_changes_while_the_read_back_is_under_way_is_not_overlooked(floor: Floor) -> None:
    packed(floor)
    floor.oms.script("command", answers(204))
    floor.look()
    floor.clock.turn(3 * SECOND)
    floor.oms.script("read", meanwhile(lambda: floor.hint(73)))
    floor.look()
    assert floor.due_at(73) == floor.clock.now + SECOND
