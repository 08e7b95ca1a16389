"""What an answer to the command proves, how long to wait, and what the transition log says about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.outcome import (
    Accepted,
    Ambiguous,
    Command,
    CommandAnswer,
    Misconfigured,
    Refused,
    Throttled,
    Unauthorised,
    backoff,
    classify,
    last_departure,
    last_entry,
    names_transition,
    retry_after,
    words_of,
)
from service.snapshot import LoggedTransition
from service.wire import StateValue
from tests.unit.any_json import ANY_TEXT

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
QUARTER = timedelta(minutes=15)

PACKAGE = "PackageStatus"
PACKED = StateValue(PACKAGE, "500")
SHIPPED = StateValue(PACKAGE, "550")


def waits(value: str) -> timedelta:
    """How long this `Retry-After` asks to wait."""
    return retry_after({"retry-after": value}, NOW)


def an_entry(
    old: StateValue | None = PACKED,
    new: StateValue | None = SHIPPED,
    *,
    log_id: int = 1,
    transition: str | None = None,
    slug: str | None = None,
) -> LoggedTransition:
    return LoggedTransition(log_id, old, new, transition, slug)


# The command


@pytest.mark.parametrize(
    ("command", "body"),
    [
        (Command(12, "ship"), {"transition": 12, "slug": "ship", "package": 73}),
        (Command(0, None), {"transition": 0, "package": 73}),
        (Command(None, "ship"), {"slug": "ship", "package": 73}),
    ],
)
def test_what_the_command_does_not_name_is_not_sent(command: Command, body: dict[str, object]) -> None:
    assert command.body(73) == body


# The table of answers


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        *((status, Ambiguous("unexpected body", status, concluded=False)) for status in (200, 204, 299)),
        *((status, Misconfigured(status)) for status in (300, 301, 304, 399)),
        *((status, Refused(status, "no")) for status in (400, 402, 404, 406, 409, 422, 499)),
        *((status, Unauthorised(status, "no")) for status in (401, 403)),
        *((status, Ambiguous(f"answered {status}", status, concluded=False)) for status in (408, 425, 504, 524)),
        (429, Throttled(timedelta(seconds=30))),
        *((status, Ambiguous(f"answered {status}", status, concluded=True)) for status in (500, 502, 599)),
        *((status, Ambiguous(f"answered {status}", status, concluded=False)) for status in (100, 199, 600, 0, -1)),
    ],
)
def test_the_status_alone_says_what_an_answer_with_a_body_proves(status: int, answer: CommandAnswer) -> None:
    assert classify(status, {}, b" no\n", NOW) == answer


@pytest.mark.parametrize("status", [200, 204, 299])
def test_only_a_2xx_without_a_single_byte_is_accepted(status: int) -> None:
    assert classify(status, {}, b"", NOW) == Accepted(status)
    for body in (b" ", b"\x00", b"\xff"):
        assert classify(status, {}, body, NOW) == Ambiguous("unexpected body", status)


def test_429_is_throttled_for_as_long_as_it_asks_and_only_429() -> None:
    headers = {"retry-after": "7"}
    assert classify(429, headers, b"", NOW) == Throttled(timedelta(seconds=7))
    date = {"retry-after": "Tue, 24 Nov 2026 12:00:40 GMT"}
    assert classify(429, date, b"", NOW) == Throttled(timedelta(seconds=40))
    assert classify(503, headers, b"", NOW) == Ambiguous("answered 503", 503, concluded=True)


def test_without_an_answer_there_is_no_status_and_the_oms_may_still_be_at_work() -> None:
    assert Ambiguous("ReadTimeout") == Ambiguous("ReadTimeout", status=None, concluded=False)


# The OMS's words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b" \n no \t", "no"),
        ("sipariş hazır değil".encode(), "sipariş hazır değil"),
        (b"a\x00b", "a\ufffdb"),
        (b"\xff", "\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b" " * 1999 + b"ab", "a"),
    ],
)
def test_the_words_of_the_oms_are_text_that_can_be_stored(body: bytes, words: str) -> None:
    assert words_of(body) == words


@pytest.mark.parametrize("character", ["a", "ş", "€", "\U0001f4e6"])
def test_the_words_of_the_oms_are_cut_after_500_characters(character: str) -> None:
    assert words_of((character * 500).encode()) == character * 500
    assert words_of((character * 1_000_000).encode()) == character * 500


# Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        *(("0", 1), ("1", 1), ("2", 2), (" 12 ", 12), ("007", 7)),
        *(("899", 899), ("901", 900), ("1000000000", 900), pytest.param("9" * 5000, 900, id="many digits")),
    ],
)
def test_seconds_are_taken_from_1_second_to_15_minutes(value: str, seconds: int) -> None:
    assert waits(value) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("ahead_s", "wait_s"), [(100, 100), (899, 899), (901, 900), (31_536_000, 900), (0, 1), (-31_536_000, 1)]
)
def test_a_date_is_waited_for_from_1_second_to_15_minutes(ahead_s: int, wait_s: int) -> None:
    moment = NOW + timedelta(seconds=ahead_s)
    assert waits(format_datetime(moment, usegmt=True)) == timedelta(seconds=wait_s)


@pytest.mark.parametrize("offset", [" +0300", " -0000", ""])
def test_a_date_keeps_its_offset_and_is_utc_without_one(offset: str) -> None:
    hour = 15 if offset == " +0300" else 12
    assert waits(f"Tue, 24 Nov 2026 {hour}:01:40{offset}") == timedelta(seconds=100)


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "soon", "-5", "1.5", "5 s", "²", "٣", "Tue, 99 Nov 2026 12:00:00 GMT", "\ud800", "\x00"),
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2026 99999999999999999999:00:00 GMT",
        "Mon, 01 Jan 2026 00:00:00 +99999999999999999999",
    ],
)
def test_what_cannot_be_read_or_no_calendar_holds_asks_for_30_seconds(value: str) -> None:
    assert waits(value) == retry_after({}, NOW) == timedelta(seconds=30)


DATES = ["Mon,", "01", "Jan", "2026", "9" * 12, "9" * 20, "00:00:00", "GMT", "+0300", "+" + "9" * 13, ",", ":", "-"]


@settings(max_examples=200)
@given(ANY_TEXT | st.lists(st.sampled_from(DATES), max_size=7).map(" ".join))
def test_any_retry_after_is_a_wait_from_1_second_to_15_minutes(value: str) -> None:
    assert SECOND <= waits(value) <= QUARTER


# Backoff


@pytest.mark.parametrize(
    ("failures", "seconds"), [(0, 2.5), (1, 5), (2, 10), (7, 320), (8, 450), (9, 450), (10**9, 450)]
)
def test_the_delay_doubles_with_each_failure_up_to_the_cap(failures: int, seconds: float) -> None:
    assert backoff(failures, timedelta(seconds=5), QUARTER, 0.5) == timedelta(seconds=seconds)


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 1), (0.1, 1), (0.11, 1.1), (0.5, 5), (0.75, 7.5)])
def test_jitter_picks_from_the_whole_delay_but_never_less_than_a_second(jitter: float, seconds: float) -> None:
    assert backoff(1, timedelta(seconds=5), QUARTER, jitter) == timedelta(seconds=seconds)


def test_the_delay_stops_doubling_after_30_failures() -> None:
    microsecond = timedelta(microseconds=1)
    delays = [backoff(failures, microsecond, timedelta(days=1), 0.5) for failures in (29, 30, 31, 1000)]
    assert delays == [microsecond * 2**28, *[microsecond * 2**29] * 3]


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_the_delay_of_any_configuration_is_at_least_a_second_and_at_most_the_cap(
    failures: int, base_s: int, cap_s: int, jitter: float
) -> None:
    base, cap = timedelta(seconds=base_s), timedelta(seconds=cap_s)
    delay = backoff(failures, base, cap, jitter)
    assert SECOND <= delay <= max(SECOND, cap)
    assert delay <= backoff(failures + 1, base, cap, jitter)


# The transition log as evidence


@pytest.mark.parametrize(
    ("command", "transition", "slug", "ours"),
    [
        (Command(12, "ship"), "12", "other", True),
        (Command(12, "ship"), "13", "ship", False),
        (Command(0, None), "0", None, True),
        (Command(0, None), "1", None, False),
        (Command(12, "ship"), None, "ship", True),
        (Command(12, "ship"), None, "PKG_STATE_TRANSITION", None),
        (Command(12, None), None, None, None),
        (Command(None, "ship"), "13", "ship", True),
        (Command(None, "ship"), "13", "other", None),
        (Command(None, "ship"), None, None, None),
    ],
)
def test_a_logged_transition_is_ours_by_number_then_by_slug_and_another_slug_proves_nothing(
    command: Command, transition: str | None, slug: str | None, ours: bool | None
) -> None:
    assert names_transition(an_entry(transition=transition, slug=slug), command) is ours


@pytest.mark.parametrize(
    ("old", "new", "departed"),
    [
        (PACKED, SHIPPED, True),
        (StateValue(None, "500"), SHIPPED, True),
        (PACKED, StateValue("TransferOrderStatus", "500"), True),
        (PACKED, None, True),
        (SHIPPED, PACKED, False),
        (StateValue(PACKAGE, "400"), SHIPPED, False),
        (None, SHIPPED, False),
        (PACKED, PACKED, False),
        (PACKED, StateValue(None, "500"), False),
        (StateValue("OrderItemStatus", "500"), SHIPPED, False),
    ],
)
def test_only_a_move_out_of_packed_is_a_departure(
    old: StateValue | None, new: StateValue | None, departed: bool
) -> None:
    entry = an_entry(old, new)
    assert last_departure((entry,), "500") == (entry if departed else None)


def test_the_newest_departure_is_found_behind_later_moves() -> None:
    entered, left, before = an_entry(SHIPPED, PACKED), an_entry(log_id=2), an_entry(log_id=1)
    assert last_departure((entered, left, before), "500") is left
    assert last_departure((entered, left), "501") is last_departure((), "500") is None


@pytest.mark.parametrize("new", [PACKED, StateValue(None, "500")])
def test_the_newest_move_into_packed_is_an_entry_unless_the_package_moved_on(new: StateValue) -> None:
    entry = an_entry(SHIPPED, new)
    assert last_entry((entry, an_entry()), "500") is entry
    assert last_entry((an_entry(), entry), "500") is last_entry((), "500") is None


@pytest.mark.parametrize("new", [None, StateValue("TransferOrderStatus", "500")])
def test_moves_of_other_things_and_unreadable_ones_are_passed_over(new: StateValue | None) -> None:
    entry = an_entry(SHIPPED, PACKED)
    assert last_entry((an_entry(new=new), entry), "500") is entry
    assert last_entry((an_entry(new=new),), "500") is None
