"""What an answer to the command proves, how long to wait, and what the transition log says about it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service import outcome
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

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
QUARTER = timedelta(minutes=15)
ANY_TEXT = st.text(st.characters())

PACKAGE = "PackageStatus"
PACKED = StateValue(PACKAGE, "500")
SHIPPED = StateValue(PACKAGE, "550")


def answered(status: int, body: bytes = b"", **headers: str) -> CommandAnswer:
    return classify(status, {name.replace("_", "-"): value for name, value in headers.items()}, body, NOW)


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
        (Command(12, None), {"transition": 12, "package": 73}),
        (Command(None, "ship"), {"slug": "ship", "package": 73}),
        (Command(0, None), {"transition": 0, "package": 73}),
    ],
)
def test_what_the_command_does_not_name_is_not_sent(command: Command, body: dict[str, object]) -> None:
    assert command.body(73) == body


# The table of answers


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_an_empty_2xx_is_accepted(status: int) -> None:
    assert answered(status) == Accepted(status)


@pytest.mark.parametrize("status", [200, 204, 299])
@pytest.mark.parametrize("body", [b"{}", b" ", b"\n", b"\x00", b"\xff"])
def test_a_2xx_with_a_body_is_ambiguous_and_the_oms_may_still_be_at_work(status: int, body: bytes) -> None:
    assert answered(status, body) == Ambiguous("unexpected body", status, concluded=False)


@pytest.mark.parametrize("status", [300, 301, 302, 304, 307, 308, 399])
def test_a_redirect_is_a_misconfiguration(status: int) -> None:
    assert answered(status, b"moved", location="https://elsewhere.example") == Misconfigured(status)


@pytest.mark.parametrize("status", [401, 403])
def test_401_and_403_are_unauthorised_with_the_words_of_the_oms(status: int) -> None:
    assert answered(status, b'{"detail": "no"}') == Unauthorised(status, '{"detail": "no"}')


def test_429_is_throttled_for_as_long_as_it_asks() -> None:
    assert answered(429, b"slow down", retry_after="7") == Throttled(timedelta(seconds=7))
    assert answered(429) == Throttled(timedelta(seconds=30))
    assert answered(429, retry_after="Tue, 24 Nov 2026 12:00:40 GMT") == Throttled(timedelta(seconds=40))


@pytest.mark.parametrize("status", [408, 425])
def test_408_and_425_are_ambiguous_and_the_oms_may_still_be_at_work(status: int) -> None:
    assert answered(status, b"late") == Ambiguous(f"answered {status}", status, concluded=False)


@pytest.mark.parametrize("status", [400, 402, 404, 405, 406, 407, 409, 422, 424, 426, 428, 430, 451, 499])
def test_any_other_4xx_is_a_refusal_with_the_words_of_the_oms(status: int) -> None:
    assert answered(status, "Geçersiz geçiş".encode()) == Refused(status, "Geçersiz geçiş")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_a_complete_5xx_is_ambiguous_and_settled_by_one_later_read(status: int) -> None:
    assert answered(status, b"oops", retry_after="9") == Ambiguous(f"answered {status}", status, concluded=True)


@pytest.mark.parametrize("status", [100, 199, 600, 999, 0, -1])
def test_a_status_of_no_known_class_is_ambiguous(status: int) -> None:
    assert answered(status) == Ambiguous(f"answered {status}", status, concluded=False)


@pytest.mark.parametrize(("status", "body"), [(400, b""), (403, b"")])
def test_the_oms_may_refuse_without_a_word(status: int, body: bytes) -> None:
    answer = answered(status, body)
    assert isinstance(answer, Refused | Unauthorised)
    assert answer.words == ""


def test_without_an_answer_there_is_no_status_and_the_oms_may_still_be_at_work() -> None:
    silence = Ambiguous("ReadTimeout")
    assert (silence.status, silence.concluded) == (None, False)


def test_what_the_words_say_never_decides() -> None:
    assert answered(400, b"already shipped, accepted, 204") == Refused(400, "already shipped, accepted, 204")


KINDS = {
    2: (Accepted, Ambiguous),
    3: (Misconfigured,),
    4: (Refused, Unauthorised, Throttled, Ambiguous),
    5: (Ambiguous,),
}


@settings(max_examples=200, deadline=None)
@given(
    st.integers(100, 599),
    st.dictionaries(st.sampled_from(["retry-after", "location", "x"]), ANY_TEXT),
    st.binary(max_size=20),
)
@example(429, {"retry-after": "9" * 5000}, b"")
@example(429, {"retry-after": "\ud800"}, b"")
def test_every_answer_has_a_meaning_and_only_an_empty_2xx_is_accepted(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    answer = classify(status, headers, body, NOW)
    assert isinstance(answer, KINDS.get(status // 100, (Ambiguous,)))
    assert isinstance(answer, Accepted) == (200 <= status < 300 and not body)


# The OMS's words


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ""),
        (b" \n no \t", "no"),
        ("sipariş hazır değil".encode(), "sipariş hazır değil"),
        (b"a\x00b", "a\ufffdb"),
        (b"\xff", "\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
    ],
)
def test_the_words_of_the_oms_are_text_that_can_be_stored(body: bytes, words: str) -> None:
    assert words_of(body) == words


@pytest.mark.parametrize("character", ["a", "ş", "€", "\U0001f4e6"])
def test_the_words_of_the_oms_are_cut_after_500_characters(character: str) -> None:
    assert words_of((character * 500).encode()) == character * 500
    assert words_of((character * 501).encode()) == character * 500
    assert outcome.MAX_WORDS == 500


def test_blanks_around_the_words_do_not_count() -> None:
    assert words_of(b"  " + b"a" * 501 + b"  ") == "a" * 500


def test_no_more_of_an_answer_is_decoded_than_500_characters_can_take() -> None:
    assert words_of(b" " * 1999 + b"ab") == "a"
    assert words_of(b"a" * 1_000_000) == "a" * 500


# Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 1),
        ("1", 1),
        ("2", 2),
        (" 12 ", 12),
        ("007", 7),
        ("0000000000012", 12),
        ("899", 899),
        ("900", 900),
        ("901", 900),
        ("999999999", 900),
        ("9999999999", 900),
        ("1000000000", 900),
        ("9" * 5000, 900),
    ],
)
def test_seconds_are_taken_from_1_second_to_15_minutes(value: str, seconds: int) -> None:
    assert waits(value) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("ahead", "wait"),
    [
        (timedelta(seconds=100), timedelta(seconds=100)),
        (timedelta(seconds=899), timedelta(seconds=899)),
        (timedelta(minutes=15), timedelta(minutes=15)),
        (timedelta(seconds=901), timedelta(minutes=15)),
        (timedelta(days=365), timedelta(minutes=15)),
        (timedelta(seconds=1), timedelta(seconds=1)),
        (timedelta(0), timedelta(seconds=1)),
        (timedelta(days=-365), timedelta(seconds=1)),
    ],
)
def test_a_date_is_waited_for_from_1_second_to_15_minutes(ahead: timedelta, wait: timedelta) -> None:
    assert waits(format_datetime(NOW + ahead, usegmt=True)) == wait


def test_a_date_keeps_its_offset_and_is_utc_without_one() -> None:
    assert waits("Tue, 24 Nov 2026 15:01:40 +0300") == timedelta(seconds=100)
    assert waits("Tue, 24 Nov 2026 12:01:40 -0000") == timedelta(seconds=100)
    assert waits("Tue, 24 Nov 2026 12:01:40") == timedelta(seconds=100)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "soon",
        "-5",
        "1.5",
        "5 s",
        "²",
        "٣",
        "Tue, 99 Nov 2026 12:00:00 GMT",
        "\ud800",
        "\x00",
    ],
)
def test_what_cannot_be_read_asks_for_30_seconds(value: str) -> None:
    assert waits(value) == timedelta(seconds=30)


@pytest.mark.parametrize(
    "value",
    [
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2026 99999999999999999999:00:00 GMT",
        "Mon, 01 Jan 2026 00:00:00 +9999999999999",
        "Mon, 01 Jan 2026 00:00:00 +99999999999999999999",
    ],
)
def test_a_date_no_calendar_holds_asks_for_30_seconds(value: str) -> None:
    assert waits(value) == timedelta(seconds=30)


def test_no_header_asks_for_30_seconds() -> None:
    assert retry_after({}, NOW) == timedelta(seconds=30)


PIECES = [
    "Mon,",
    "01",
    "Jan",
    "2026",
    "9" * 12,
    "9" * 20,
    "00:00:00",
    "GMT",
    "+0300",
    "+" + "9" * 13,
    ",",
    ":",
    "-",
]


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT | st.lists(st.sampled_from(PIECES), max_size=7).map(" ".join))
def test_any_retry_after_is_a_wait_from_1_second_to_15_minutes(value: str) -> None:
    assert SECOND <= waits(value) <= QUARTER


# Backoff


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(-(10**9), 2.5), (-1, 2.5), (0, 2.5), (1, 5), (2, 10), (7, 320), (8, 450), (9, 450), (10**9, 450)],
)
def test_the_delay_doubles_with_each_failure_up_to_the_cap(failures: int, seconds: float) -> None:
    delay = backoff(failures, timedelta(seconds=5), timedelta(seconds=900), 0.5)
    assert delay == timedelta(seconds=seconds)


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 1), (0.09, 1), (0.1, 1), (0.11, 1.1), (0.5, 5), (0.75, 7.5)])
def test_jitter_picks_from_the_whole_delay_but_never_less_than_a_second(jitter: float, seconds: float) -> None:
    assert backoff(1, timedelta(seconds=5), timedelta(seconds=900), jitter) == timedelta(seconds=seconds)


@pytest.mark.parametrize(("failures", "doublings"), [(29, 29), (30, 30), (31, 30), (1000, 30)])
def test_the_delay_stops_doubling_after_30_failures(failures: int, doublings: int) -> None:
    microsecond = timedelta(microseconds=1)
    assert backoff(failures, microsecond, timedelta(days=1), 0.5) == microsecond * 2 ** (doublings - 1)


def test_a_cap_below_a_second_still_waits_a_second() -> None:
    assert backoff(5, timedelta(seconds=5), timedelta(0), 0.9) == timedelta(seconds=1)
    assert backoff(5, timedelta(0), timedelta(seconds=9), 0.9) == timedelta(seconds=1)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(-5, 10**6),
    st.floats(0, 80_000),
    st.floats(0, 10**9),
    st.floats(0, 1, exclude_max=True),
)
def test_the_delay_is_at_least_a_second_and_at_most_the_cap_and_the_jitters_share(
    failures: int, base_s: float, cap_s: float, jitter: float
) -> None:
    base, cap = timedelta(seconds=base_s), timedelta(seconds=cap_s)
    delay = backoff(failures, base, cap, jitter)
    assert SECOND <= delay <= max(SECOND, cap * jitter)
    assert delay <= backoff(failures + 1, base, cap, jitter)


@pytest.mark.parametrize("base", [timedelta(days=1), timedelta(seconds=10**9)])
def test_a_base_of_any_length_is_capped_and_never_overflows(base: timedelta) -> None:
    assert backoff(1000, base, timedelta(seconds=900), 0.5) == timedelta(seconds=450)


# The transition log as evidence


@pytest.mark.parametrize(
    ("command", "transition", "slug", "ours"),
    [
        (Command(12, "ship"), "12", "ship", True),
        (Command(12, "ship"), "12", "other", True),
        (Command(12, "ship"), "13", "ship", False),
        (Command(12, None), "13", None, False),
        (Command(0, None), "0", None, True),
        (Command(0, None), "1", None, False),
        (Command(12, "ship"), None, "ship", True),
        (Command(12, "ship"), None, "PKG_STATE_TRANSITION", None),
        (Command(12, "ship"), None, None, None),
        (Command(12, None), None, "ship", None),
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
    "entry",
    [
        an_entry(),
        an_entry(new=StateValue(PACKAGE, "920")),
        an_entry(old=StateValue(None, "500")),
        an_entry(new=StateValue("TransferOrderStatus", "500")),
        an_entry(new=None),
    ],
)
def test_a_move_out_of_packed_is_a_departure(entry: LoggedTransition) -> None:
    assert last_departure((entry,), PACKAGE, "500") is entry


@pytest.mark.parametrize(
    "entry",
    [
        an_entry(old=StateValue(PACKAGE, "400"), new=PACKED),
        an_entry(old=StateValue(PACKAGE, "400")),
        an_entry(old=None),
        an_entry(new=PACKED),
        an_entry(new=StateValue(None, "500")),
        an_entry(old=StateValue("OrderItemStatus", "500")),
    ],
)
def test_any_other_move_is_no_departure(entry: LoggedTransition) -> None:
    assert last_departure((entry,), PACKAGE, "500") is None


def test_the_newest_departure_is_found_behind_later_moves() -> None:
    entered, left, before = an_entry(old=SHIPPED, new=PACKED), an_entry(log_id=2), an_entry(log_id=1)
    assert last_departure((entered, left, before), PACKAGE, "500") is left
    assert last_departure((), PACKAGE, "500") is None


@pytest.mark.parametrize(("logged_s_after", "counts"), [(-5.001, False), (-5, True), (0, True), (60, True)])
def test_a_departure_counts_from_five_seconds_before_what_it_is_to_explain(logged_s_after: float, counts: bool) -> None:
    left = replace(an_entry(), at=NOW + timedelta(seconds=logged_s_after))
    assert (last_departure((left,), PACKAGE, "500", NOW) is left) is counts
    assert last_departure((left,), PACKAGE, "500") is left


def test_a_departure_the_log_does_not_date_counts() -> None:
    assert last_departure((an_entry(),), PACKAGE, "500", NOW) == an_entry()


@pytest.mark.parametrize("new", [PACKED, StateValue(None, "500")])
def test_the_newest_move_into_packed_is_an_entry(new: StateValue) -> None:
    entry = an_entry(old=SHIPPED, new=new)
    assert last_entry((entry, an_entry()), PACKAGE, "500") is entry


def test_a_packed_package_that_moved_on_has_no_entry() -> None:
    assert last_entry((an_entry(), an_entry(old=None, new=PACKED)), PACKAGE, "500") is None
    assert last_entry((), PACKAGE, "500") is None


@pytest.mark.parametrize(
    "new", [None, StateValue("TransferOrderStatus", "500"), StateValue("TransferOrderStatus", "1")]
)
def test_moves_of_other_things_and_unreadable_ones_are_passed_over(new: StateValue | None) -> None:
    entry = an_entry(old=SHIPPED, new=PACKED)
    assert last_entry((an_entry(new=new), entry), PACKAGE, "500") is entry
    assert last_entry((an_entry(new=new),), PACKAGE, "500") is None


def test_another_number_may_be_configured_as_packed() -> None:
    assert last_departure((an_entry(),), PACKAGE, "501") is None
    assert last_entry((an_entry(),), PACKAGE, "550") == an_entry()
