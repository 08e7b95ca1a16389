"""Small campaigns, and that the judge of the large ones can find fault."""

from __future__ import annotations

import json
import random
import socket

import pytest

from service import sandbox
from service.outcome import Command
from service.sandbox import Request
from tests.reliability import campaign
from tests.reliability.ledger import Books, Tally, WitnessOms, judge

UUID = "c9591f0d1c1d4da58ade880921bd7e93"


def test_killed_and_frozen_processes_lose_nothing_double_nothing_and_claim_nothing_false(database_url: str) -> None:
    each = 1 if database_url.startswith("sqlite") else 2
    with campaign.autoship(database_url, each, seed=3) as one:
        report = one.run(deliveries=100, kills=4, freezes=1)
    assert report.judgement.is_clean, report.judgement
    assert report.deliveries >= 100


def test_the_same_campaign_finds_a_naive_handler_commanding_twice_and_losing_packages() -> None:
    with campaign.naive(seed=2) as one:
        report = one.run(deliveries=100, kills=2, settled_within_s=3)
    assert report.judgement.double
    assert report.judgement.lost


@pytest.fixture
def oms() -> WitnessOms:
    """Package 73 is Packed."""
    oms = WitnessOms(rng=random.Random(1))
    oms.create(73)
    oms.pack(73)
    return oms


def ask(oms: WitnessOms, *operations: str) -> None:
    path = "/api/v1/oms/packages/73/"
    body = json.dumps(Command(oms.transition_id, oms.slug).body(73)).encode()
    for operation in operations:
        if operation == "read":
            oms.answer(Request("GET", path, {}, f"Token {oms.token}", b""))
        else:
            oms.answer(Request("POST", f"{path}command/", {}, f"Token {oms.token}", body))


@pytest.mark.parametrize(
    ("lag", "operations", "double"),
    [
        (0, ["read", "command", "read"], 0),
        (0, ["read", "command", "read", "read", "command"], 1),
        (1, ["read", "command", "read", "read", "command"], 0),
        (1, ["read", "command", "read", "command"], 1),
        (1, ["read", "command", "command"], 1),
    ],
)
def test_the_judge_counts_every_command_that_no_reads_justify(
    oms: WitnessOms, lag: int, operations: list[str], double: int
) -> None:
    oms.packages[73].lag = lag
    ask(oms, *operations)
    assert len(judge(oms, {}, None).double) == double


@pytest.mark.parametrize(
    ("operations", "seen", "state", "found"),
    [
        (["read", "command"], 2, "shipped", (0, 0, 0, 0)),
        (["read", "command"], 3, "shipped", (0, 0, 0, 0)),
        (["read", "command"], 1, "shipped", (1, 0, 0, 0)),
        (["read", "command"], 4, "shipped", (1, 0, 0, 0)),
        (["read", "command"], 2, "waiting", (0, 0, 0, 1)),
        (["read"], 2, "waiting", (1, 0, 0, 0)),
        (["read"], 2, "shipped", (1, 0, 1, 0)),
        (["read"], 2, "shipping", (1, 0, 0, 1)),
    ],
)
def test_the_judge_holds_the_books_against_the_ledger(
    oms: WitnessOms, operations: list[str], seen: int, state: str, found: tuple[int, ...]
) -> None:
    ask(oms, *operations)
    judged = judge(oms, {UUID: Tally(tried=3, answered=2)}, Books({UUID: seen}, {73: state}))
    assert tuple(map(len, (judged.lost, judged.double, judged.false_success, judged.unresolved))) == found


def test_a_command_that_its_caller_did_not_finish_sending_is_none(oms: WitnessOms) -> None:
    head = f"POST /api/v1/oms/packages/73/command/ HTTP/1.1\r\nAuthorization: Token {oms.token}\r\n"
    with sandbox.serve(oms) as server, socket.create_connection(("127.0.0.1", server.port), timeout=5) as caller:
        caller.sendall(head.encode() + b"Content-Length: 40\r\n\r\n" + b'{"transition": ')
        caller.shutdown(socket.SHUT_WR)
        assert caller.recv(1) == b""
    assert oms.received == []
    assert not oms.touches
