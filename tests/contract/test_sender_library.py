"""What the OMS's own sender library sends is what we accept, and what it records is what we mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from flask import Flask

from service import hooks, sender
from service.config import Config
from service.database import Database, deliveries
from service.delivery import EVENT_TYPES
from service.sandbox import StandInOms
from service.web import create_app
from tests.conftest import MINIMAL, SECRET, locked
from tests.contract.conftest import URL, Whisperer
from tests.processes import wait_until, web_process
from tests.recorder import Recorder, recording
from tests.samples import sample

PACKED = {"enum_class": "PackageStatus", "enum_value": "500"}
PACKAGE = {
    "id": 73,
    "city": "İstanbul",
    "state": PACKED,
    "number": "000000073",
    "order_notes": 'Çığlık ş, "tırnak" \\ \u2028 \U0001f4e6',
}
BASIC = {"auth": {"auth_type": "basic", "username": "oms", "password": "parola:1"}}

Carry = Callable[[Flask], None]


def stored(database: Database) -> list[sa.RowMapping]:
    with database.reading() as transaction:
        return list(transaction.execute(sa.select(deliveries)).mappings())


@pytest.mark.parametrize("event_type", sorted(EVENT_TYPES))
@pytest.mark.parametrize("secret", [SECRET, "gizli-şifre-İ", None])
def test_every_event_is_delivered_and_not_sent_again(
    whisperer: Whisperer,
    carried_to: Carry,
    configured: Callable[..., Config],
    database: Database,
    event_type: str,
    secret: str | None,
) -> None:
    known = {"WEBHOOK_SECRETS": secret} if secret else {"WEBHOOK_SECRETS": "", "WEBHOOK_ALLOW_UNSIGNED": "1"}
    carried_to(create_app(configured(**known), database))
    event, task = whisperer.deliver(whisperer.hook(event_type=event_type, secret_key=secret), PACKAGE)
    assert (event.delivered, event.response_http_status, task.countdowns) == (True, 202, [])
    [row] = stored(database)
    assert (row["event_uuid"], row["event_type"], row["package_id"]) == (event.uuid.hex, event_type, 73)
    assert (row["state_class"], row["state_value"]) == ("PackageStatus", "500")


def test_what_its_encoder_makes_of_dates_decimals_and_uuids_is_read(
    whisperer: Whisperer, carried_to: Carry, app: Flask
) -> None:
    carried_to(app)
    rich = PACKAGE | {"date_placed": datetime(2026, 11, 24, tzinfo=UTC), "total": Decimal("9.90"), "key": UUID(int=7)}
    event, _ = whisperer.deliver(whisperer.hook(secret_key=SECRET), rich)
    assert event.delivered


@pytest.mark.parametrize("url", [URL, URL + "/"])
def test_neither_spelling_of_the_address_is_a_redirect_which_it_would_follow_without_the_body(
    whisperer: Whisperer, carried_to: Carry, app: Flask, url: str
) -> None:
    carried_to(app)
    _, response = whisperer.tasks._deliver_event(
        whisperer.hook(url, secret_key=SECRET), PACKAGE, "package.status.packed"
    )
    assert (response.status_code, response.history) == (202, [])


def test_basic_authentication_and_an_additional_header_come_as_we_demand_them(
    whisperer: Whisperer, carried_to: Carry, configured: Callable[..., Config], database: Database
) -> None:
    carried_to(create_app(configured(WEBHOOK_BASIC_AUTH="oms:parola:1", WEBHOOK_HEADER="X-Shop: 7"), database))
    hook = whisperer.hook(secret_key=SECRET, config=BASIC, additional_headers={"X-Shop": "7"})
    assert whisperer.deliver(hook, PACKAGE)[0].delivered


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"WEBHOOK_BASIC_AUTH": "oms:pässword"}, {"config": {"auth": BASIC["auth"] | {"password": "pässword"}}}),
        ({"WEBHOOK_HEADER": "X-Shop: Köse"}, {"additional_headers": {"X-Shop": "Köse"}}),
    ],
)
def test_umlauts_in_a_password_or_header_arrive_as_requests_sends_them(
    whisperer: Whisperer,
    carried_to: Carry,
    configured: Callable[..., Config],
    database: Database,
    ours: dict[str, str],
    theirs: dict[str, Any],
) -> None:
    carried_to(create_app(configured(**ours), database))
    assert whisperer.deliver(whisperer.hook(secret_key=SECRET, **theirs), PACKAGE)[0].delivered


@pytest.mark.parametrize(
    "settings",
    [
        {"secret_key": "another"},
        {"secret_key": None},
        {"secret_key": ""},
        {"secret_key": SECRET, "additional_headers": {"X-Whisperer-Signature": "sha256=" + "0" * 64}},
    ],
)
def test_what_is_not_signed_by_our_secret_is_recorded_as_refused_and_sent_again(
    whisperer: Whisperer, carried_to: Carry, app: Flask, database: Database, settings: dict[str, Any]
) -> None:
    carried_to(app)
    event, task = whisperer.deliver(whisperer.hook(**settings), PACKAGE)
    assert (event.delivered, event.response_http_status, task.countdowns) == (False, 401, [1])
    assert stored(database) == []


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        ({"id": 73, "state": PACKED}, "accepted"),
        ({"id": 73, "state": PACKED | {"enum_value": "400"}}, "ignored"),
        ({"pk": 73}, "quarantined"),
        ({"id": 2**60}, "quarantined"),
        ({"id": "73", "state": None}, "quarantined"),
    ],
)
def test_what_sending_again_cannot_mend_counts_as_delivered(
    whisperer: Whisperer, carried_to: Carry, app: Flask, payload: dict[str, Any], status: str
) -> None:
    carried_to(app)
    event, task = whisperer.deliver(whisperer.hook(secret_key=SECRET), payload)
    assert (event.delivered, task.countdowns) == (True, [])
    assert f'"status":"{status}"' in event.response_content


def test_an_event_we_could_not_store_is_sent_again_and_then_accepted_once(
    whisperer: Whisperer, carried_to: Carry, configured: Callable[..., Config], database: Database, database_url: str
) -> None:
    carried_to(create_app(configured(), Database(database_url, patience_s=0.5)))
    hook = whisperer.hook(secret_key=SECRET)
    with locked(database_url):
        event, task = whisperer.deliver(hook, PACKAGE)
        assert (event.delivered, event.response_http_status, task.countdowns) == (False, 503, [1])
    event, task = whisperer.deliver(hook, PACKAGE, task)
    assert (event.delivered, event.retry_count, task.countdowns) == (True, 2, [1])
    whisperer.tasks._deliver_event(hook, None, hook.event_type, event_uuid=event.uuid, force=True)
    [row] = stored(database)
    assert (row["event_uuid"], row["seen"]) == (event.uuid.hex, 2)


def test_it_gives_up_after_eleven_attempts_in_seventeen_minutes_as_the_stand_in_does(
    whisperer: Whisperer, carried_to: Carry, app: Flask
) -> None:
    carried_to(app)
    hook, attempts = whisperer.hook(secret_key="another"), 1
    event, task = whisperer.deliver(hook, PACKAGE)
    while len(task.countdowns) == attempts:
        event, task = whisperer.deliver(hook, PACKAGE, task)
        attempts += 1
    assert attempts == event.retry_count == 11
    assert task.countdowns == [2**n for n in range(10)]


def test_time_until_the_sender_gives_up_is_the_sum_of_its_own_pauses(whisperer: Whisperer) -> None:
    hook = whisperer.models.Webhook(retry_countdown_config=dict(hooks.COUNTDOWN))
    pauses_s = [hook.countdown.get_value(repetition) for repetition in range(hooks.REPETITIONS)]
    assert hooks.time_until_given_up().total_seconds() == sum(pauses_s)


def test_the_published_example_verifies(app: Flask) -> None:
    headers, body = sample("webhook_package_packed")
    document = json.loads(body)
    made = sender.headers("package.status.packed", body, SECRET)
    assert made["X-Whisperer-Signature"] == headers["x-whisperer-signature"]
    assert sender.encode("package.status.packed", document["event"]["uuid"], document["payload"]) == body
    answer = app.test_client().post(URL, data=body, headers=headers)
    assert answer.status_code == 202


@pytest.mark.parametrize("secret", [SECRET, "gizli-şifre-İ", "", None])
@pytest.mark.parametrize(
    "additional",
    [
        {},
        {"X-Shop": "7"},
        {"content-type": "text/plain"},
        {"X-Whisperer-Signature": "mine", "Authorization": "Token x"},
    ],
)
def test_our_own_sender_puts_the_same_bytes_on_the_wire(
    whisperer: Whisperer, recorder: Recorder, secret: str | None, additional: dict[str, str]
) -> None:
    hook = whisperer.hook(recorder.url, secret_key=secret, additional_headers=additional)
    event, _ = whisperer.deliver(hook, PACKAGE)
    body = sender.encode(hook.event_type, event.uuid.hex, PACKAGE)
    answer = sender.post(recorder.url, body, sender.headers(hook.event_type, body, secret, additional))
    assert answer is not None
    assert answer.status == 202
    theirs, ours = map(_made, recorder.heard)
    assert ours == theirs
    assert event.delivered


def test_a_repetition_of_the_stand_in_shows_what_the_webhook_is_registered_with_by_then(recorder: Recorder) -> None:
    oms, recorder.status = StandInOms(), 401
    hook = {"target_url": recorder.url, "event_type": "package.created", "is_active": True, "secret_key": "old"}
    oms.hooks[1] = hook | {"additional_headers": {}, "config": {}}
    oms.start()
    oms.create(73)
    wait_until(lambda: recorder.heard)
    oms.hooks[1] |= {"secret_key": "new", "config": BASIC}
    wait_until(lambda: "authorization" in dict(recorder.heard[-1][0]))
    oms.stop()
    headers, body = recorder.heard[-1]
    assert dict(headers)["x-whisperer-signature"] == sender.sign("new", body)


def test_over_real_http_the_real_process_accepts_what_the_library_posts(
    whisperer: Whisperer, database: Database, database_url: str, tmp_path: Path
) -> None:
    variables = {**MINIMAL, "DATABASE_URL": database_url, "WEBHOOK_BASIC_AUTH": "oms:parola:1"}
    with web_process(variables, tmp_path) as url:
        hook = whisperer.hook(url + "/webhooks/oms/packages", secret_key=SECRET, config=BASIC)
        event, task = whisperer.deliver(hook, PACKAGE)
        refused = whisperer.hook(url + "/webhooks/oms/packages/", secret_key=SECRET)
        unauthenticated, _ = whisperer.deliver(refused, PACKAGE)
    assert (event.delivered, event.response_http_status, task.countdowns) == (True, 202, [])
    assert (unauthenticated.delivered, unauthenticated.response_http_status) == (False, 401)
    [row] = stored(database)
    assert row["event_uuid"] == event.uuid.hex


# What every client adds of its own accord.
_THE_CLIENTS_OWN = {"host", "user-agent", "accept", "accept-encoding", "connection"}


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording(202) as recorder:
        yield recorder


def _made(heard: tuple[list[tuple[str, str]], bytes]) -> tuple[list[tuple[str, str]], bytes]:
    """A request without what its HTTP client adds."""
    headers, body = heard
    return sorted(pair for pair in headers if pair[0] not in _THE_CLIENTS_OWN), body
