"""The webhook endpoint over the real application and a real database."""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder

from service import inbox, sandbox
from service.case import CaseState
from service.config import Config
from service.database import Database, deliveries, metadata, packages, quarantine
from service.sandbox import Request
from service.web import MAX_BODY_BYTES, create_app
from tests import oms_faults, postgres
from tests.conftest import SECRET, a_document, deliver, locked, on_postgresql, on_sqlite, signed
from tests.integration.conftest import Clock, Floor
from tests.oms_faults import FaultyOms, Outcome
from tests.processes import wait_until

URL = "/webhooks/oms/packages"


def rows(database: Database, table: sa.Table) -> list[dict[str, Any]]:
    with database.reading() as transaction:
        return [dict(row) for row in transaction.execute(sa.select(table)).mappings()]


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


def test_accepted_delivery_is_stored_with_its_hint_before_it_is_answered(
    client: FlaskClient, database: Database
) -> None:
    answer = deliver(client, a_document())
    assert answer.status_code == 202
    assert answer.json == {
        "status": "accepted",
        "event_uuid": "c9591f0d1c1d4da58ade880921bd7e93",
        "package_id": 73,
        "reason": None,
    }
    [row] = rows(database, deliveries)
    assert (row["package_id"], row["fate"], row["seen"], row["secret_index"]) == (73, "accepted", 1, 0)
    [package] = rows(database, packages)
    assert package["state"] == "waiting"
    assert package["hinted"]
    assert package["due_at"] <= row["received_at"]


def test_the_same_uuid_a_thousand_times_is_one_row_seen_a_thousand_times(
    client: FlaskClient, database: Database
) -> None:
    answers = [deliver(client, a_document()).json["status"] for _ in range(1000)]
    assert answers == ["accepted"] + ["duplicate"] * 999
    [row] = rows(database, deliveries)
    assert row["seen"] == 1000


@pytest.mark.parametrize(
    ("state", "event_uuid", "hints"),
    [
        (CaseState.SHIPPED, None, 1),
        (CaseState.SHIPPED, "0" * 32, 2),
        (CaseState.ALREADY_SHIPPED, None, 2),
        (CaseState.WAITING, None, 2),
    ],
)
def test_what_comes_again_is_a_hint_unless_its_package_is_shipped(
    client: FlaskClient, database: Database, state: CaseState, event_uuid: str | None, hints: int
) -> None:
    deliver(client, a_document())
    with database.transaction() as transaction:
        transaction.execute(sa.update(packages).values(state=state))
    again = a_document(uuid=event_uuid) if event_uuid else a_document()
    assert deliver(client, again).json["status"] == ("accepted" if event_uuid else "duplicate")
    [package] = rows(database, packages)
    assert (package["hint_seq"], package["state"]) == (hints, state)


@on_postgresql
def test_a_sender_waits_for_one_statement(client: FlaskClient, database: Database) -> None:
    statements: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    with database.reading() as transaction:
        sa.event.listen(transaction.connection.engine, "before_cursor_execute", note)
    assert deliver(client, a_document()).status_code == 202
    assert len([one for one in statements if "NOTIFY" not in one]) == 1


def test_both_spellings_of_the_path_are_answered_and_never_by_a_redirect(client: FlaskClient) -> None:
    body = encoded(a_document())
    for path in (URL, URL + "/"):
        assert client.post(path, data=body, headers=signed(body)).status_code == 202


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_405(client: FlaskClient, method: str) -> None:
    assert client.open(URL, method=method).status_code == 405


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        "sha256=",
        "sha256=" + "0" * 64,
        "sha256=" + "0" * 63,
        "sha1=" + "0" * 40,
        "sha256=" + "\xe9" * 64,
        "\xff\xfe",
        "sha256=" + "g" * 64,
    ],
)
def test_a_bad_signature_is_401_and_nothing_is_stored(
    client: FlaskClient, database: Database, signature: str | None
) -> None:
    headers = {} if signature is None else {"X-Whisperer-Signature": signature}
    answer = client.post(URL, data=encoded(a_document()), headers=headers)
    assert (answer.status_code, answer.json) == (401, {"status": "error", "reason": "signature"})
    assert rows(database, deliveries) == []


def test_a_duplicated_signature_header_is_401(client: FlaskClient) -> None:
    body = encoded(a_document())
    signature = signed(body)["X-Whisperer-Signature"]
    answer = client.post(
        URL, data=body, headers=[("X-Whisperer-Signature", signature), ("X-Whisperer-Signature", signature)]
    )
    assert answer.status_code == 401


def test_reserialised_json_with_the_original_signature_is_refused(client: FlaskClient) -> None:
    original = encoded(a_document())
    again = json.dumps(json.loads(original), separators=(",", ":")).encode()
    assert client.post(URL, data=again, headers=signed(original)).status_code == 401
    assert client.post(URL, data=original, headers=signed(original)).status_code == 202


def test_any_of_several_secrets_verifies_and_the_log_names_its_index(
    configured: Callable[..., Config],
    database: Database,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = create_app(configured(WEBHOOK_SECRETS=f"new,{SECRET}\nolder"), database).test_client()
    caplog.set_level("INFO", "autoship")
    for index, secret in enumerate(("new", SECRET, "older")):
        body = encoded(a_document(uuid=f"{index:032x}"))
        assert client.post(URL, data=body, headers=signed(body, secret)).status_code == 202
    assert [record.fields["secret_index"] for record in caplog.records] == [0, 1, 2]  # type: ignore[attr-defined]
    assert [row["secret_index"] for row in rows(database, deliveries)] == [0, 1, 2]


def test_unsigned_deliveries_are_accepted_only_where_that_was_allowed(
    configured: Callable[..., Config], database: Database
) -> None:
    config = configured(WEBHOOK_SECRETS="", WEBHOOK_ALLOW_UNSIGNED="1")
    answer = create_app(config, database).test_client().post(URL, data=encoded(a_document()))
    assert answer.status_code == 202
    assert rows(database, deliveries)[0]["secret_index"] is None


def test_basic_authentication_and_header_are_demanded_on_top_of_the_signature(
    configured: Callable[..., Config], database: Database
) -> None:
    config = configured(WEBHOOK_BASIC_AUTH="oms:pässword", WEBHOOK_HEADER="X-Shop: 7")
    client = create_app(config, database).test_client()
    body = encoded(a_document())
    basic = {"Authorization": "Basic " + base64.b64encode("oms:pässword".encode()).decode()}
    assert client.post(URL, data=body, headers=signed(body)).json["reason"] == "basic_auth"  # type: ignore[index]
    assert client.post(URL, data=body, headers=signed(body) | basic).json["reason"] == "header"  # type: ignore[index]
    assert client.post(URL, data=body, headers=signed(body) | basic | {"X-Shop": "8"}).status_code == 401
    assert client.post(URL, data=body, headers=basic | {"X-Shop": "7"}).status_code == 401
    assert client.post(URL, data=body, headers=signed(body) | basic | {"x-shop": "7"}).status_code == 202


def test_too_large_is_413_before_anything_else_is_looked_at(client: FlaskClient) -> None:
    answer = client.post(URL, data=b"x" * (MAX_BODY_BYTES + 1))
    assert (answer.status_code, answer.json["reason"]) == (413, "too_large")  # type: ignore[index]


def test_another_media_type_is_415_but_only_for_the_authentic(client: FlaskClient) -> None:
    assert client.post(URL, data=b"{}", headers={"Content-Type": "text/plain"}).status_code == 401
    assert deliver(client, a_document(), **{"Content-Type": "text/plain"}).status_code == 415


@pytest.mark.parametrize("media_type", ["", "application/json; charset=utf-8", "application/vnd.api+json"])
def test_a_missing_or_related_media_type_is_json(client: FlaskClient, media_type: str) -> None:
    assert deliver(client, a_document(), **{"Content-Type": media_type}).status_code == 202


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"NaN", b'{"a": Infinity}', '{"a": 1}'.encode("utf-16"), b"\xef\xbb\xbf{}"]
)
def test_what_is_no_json_is_400_and_nothing_is_stored(client: FlaskClient, database: Database, body: bytes) -> None:
    assert deliver(client, body).status_code == 400
    assert rows(database, deliveries) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[]", "not_an_object"),
        (b"null", "not_an_object"),
        (b"{}", "no_package_id"),
        (encoded(a_document("73")), "no_package_id"),
        (encoded(a_document(True)), "no_package_id"),
        (encoded(a_document(73.0)), "no_package_id"),
        (encoded(a_document(0)), "no_package_id"),
        (encoded(a_document(2**53)), "number_too_big"),
        (encoded(a_document(2**70)), "number_too_big"),
        (b'{"payload": {"id": ' + b"9" * 5000 + b"}}", "number_too_big"),
        (b'{"payload": {"id": 1, "id": 2}}', "duplicate_keys"),
        (b"[" * 200_000 + b"]" * 200_000, "too_deep"),
    ],
)
def test_unusable_but_authentic_deliveries_are_quarantined_so_that_they_are_not_sent_again(
    client: FlaskClient, database: Database, body: bytes, reason: str
) -> None:
    answer = deliver(client, body)
    assert answer.status_code == 202
    assert (answer.json["status"], answer.json["package_id"], answer.json["reason"]) == ("quarantined", None, reason)
    [row] = rows(database, deliveries)
    assert (row["fate"], row["reason"]) == ("quarantined", reason)
    kept = rows(database, quarantine)
    assert [one["body"] for one in kept] == ([body] if len(body) <= inbox.MAX_QUARANTINED_BYTES else [])
    assert rows(database, packages) == []


def test_text_no_database_can_store_is_cleaned(client: FlaskClient, database: Database) -> None:
    state = b'{"enum_class": "\\udfff", "enum_value": "5\\u000000"}'
    event = b'{"type": "package.\\u0000\\ud800' + b"x" * 300 + b'"}'
    assert (
        deliver(client, b'{"event": ' + event + b', "payload": {"id": 5, "state": ' + state + b"}}").status_code == 202
    )
    [row] = rows(database, deliveries)
    assert row["event_type"] == "package.\ufffd\ufffd" + "x" * 190
    assert (row["state_class"], row["state_value"]) == ("\ufffd", "5\ufffd00")


def test_a_delivery_without_uuid_is_accepted_and_every_time_a_row_of_its_own(
    client: FlaskClient, database: Database
) -> None:
    for _ in range(2):
        answer = deliver(client, a_document(uuid=None))
        assert (answer.status_code, answer.json["event_uuid"]) == (202, None)
    assert len(rows(database, deliveries)) == 2


def test_a_uuid_with_dashes_is_the_same_uuid(client: FlaskClient) -> None:
    deliver(client, a_document())
    answer = deliver(client, a_document(uuid="C9591F0D-1C1D-4DA5-8ADE-880921BD7E93"))
    assert answer.json["status"] == "duplicate"


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (a_document(type="shipment.created"), "not_a_package_event"),
        (a_document(type="order.created", state="500"), "not_a_package_event"),
        (a_document(state="400"), "not_packed"),
    ],
)
def test_deliveries_that_ask_for_no_look_are_recorded_and_ignored(
    client: FlaskClient, database: Database, document: object, reason: str
) -> None:
    answer = deliver(client, document)
    assert (answer.json["status"], answer.json["reason"]) == ("ignored", reason)
    assert rows(database, packages) == []
    assert len(rows(database, deliveries)) == 1


def test_the_documented_key_data_stands_in_for_payload(client: FlaskClient) -> None:
    document = a_document()
    document["data"] = document.pop("payload")
    assert deliver(client, document).json["package_id"] == 73


def test_no_field_of_the_payload_that_the_rules_do_not_need_is_stored(client: FlaskClient, database: Database) -> None:
    canary = "canary-of-a-customer"
    deliver(client, a_document(customer={"name": canary}, order_notes=canary, stock_location={"address": canary}))
    stored = [row for table in metadata.sorted_tables for row in rows(database, table)]
    assert "c9591f0d1c1d4da58ade880921bd7e93" in repr(stored)
    assert canary not in repr(stored)


def test_a_locked_database_is_503_with_retry_after_and_nothing_is_lost_or_stored(
    configured: Callable[..., Config], database: Database, database_url: str
) -> None:
    client = create_app(configured(), Database(database_url, patience_s=0.2)).test_client()
    assert client.get("/readyz").status_code == 200
    with locked(database_url):
        answer = deliver(client, a_document())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert client.get("/readyz").status_code == 503
        assert client.get("/livez").status_code == client.get("/healthz").status_code == 200
    assert rows(database, deliveries) == []
    assert deliver(client, a_document()).json["status"] == "accepted"
    assert client.get("/readyz").status_code == 200


def test_readiness_is_told_in_time_also_while_a_trial_write_hangs(
    configured: Callable[..., Config], database_url: str, database: Database
) -> None:
    app = create_app(configured(), Database(database_url, patience_s=30))
    statuses = list[int]()
    threads = [
        threading.Thread(target=lambda: statuses.append(app.test_client().get("/readyz").status_code)) for _ in range(2)
    ]
    try:
        with locked(database_url):
            for thread in threads:
                thread.start()
            wait_until(lambda: statuses == [503], 6)
    finally:
        for thread in threads:
            thread.join()


def test_whoever_asks_for_readiness_while_others_wait_shares_their_write(
    configured: Callable[..., Config], database: Database, database_url: str
) -> None:
    app = create_app(configured(), Database(database_url, patience_s=30))
    writes, statuses = list[str](), list[int]()

    def note(connection: object, cursor: object, statement: str, *others: object) -> None:
        if statement.startswith("UPDATE deployment"):
            writes.append(statement)

    def asking() -> int:
        frames = sys._current_frames().values()
        return sum("came_at" in f.f_locals for one in frames for f, _ in traceback.walk_stack(one))

    threads = [
        threading.Thread(target=lambda: statuses.append(app.test_client().get("/readyz").status_code))
        for _ in range(20)
    ]
    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        with locked(database_url):
            for thread in threads:
                thread.start()
            wait_until(lambda: asking() == len(threads))
        for thread in threads:
            thread.join()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert statuses == [200] * 20
    assert len(writes) == 2  # of who came first, and one for all who came while it waited


def test_a_locked_database_is_answered_503_within_five_seconds(
    configured: Callable[..., Config], database: Database, database_url: str
) -> None:
    with locked(database_url):
        began = time.monotonic()
        answer = deliver(create_app(configured(), Database(database_url)).test_client(), a_document())
        took_s = time.monotonic() - began
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert took_s < 5


def test_the_answer_begins_only_after_the_commit(app: Flask, database_url: str) -> None:
    """Another connection sees the delivery and its hint at the moment the status line is made."""
    seen: list[tuple[str, list[Any]]] = []
    query = sa.select(deliveries.c.fate, packages.c.hinted).where(deliveries.c.package_id == packages.c.package_id)

    def start_response(status: str, headers: object, exc_info: object = None) -> Callable[[bytes], object]:
        with Database(database_url).reading() as transaction:
            seen.append((status, [tuple(row) for row in transaction.execute(query)]))
        return lambda chunk: None

    body = encoded(a_document())
    environ = EnvironBuilder(URL, method="POST", data=body, headers=Headers(signed(body))).get_environ()
    b"".join(app(environ, start_response))
    assert seen == [("202 ACCEPTED", [("accepted", True)])]


@on_postgresql
def test_a_delivery_whose_commit_fails_is_503_and_not_stored(client: FlaskClient, database: Database) -> None:
    """By then the statement's rows have come back: they prove nothing."""
    with database.transaction() as transaction:
        transaction.execute(sa.text(_FAILS_AT_COMMIT))
    assert [deliver(client, a_document()).status_code for _ in range(10)] == [503] * 10
    assert rows(database, deliveries) == []


_FAILS_AT_COMMIT = """
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$;
    CREATE CONSTRAINT TRIGGER fails AFTER INSERT ON deliveries DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION fail()
"""


@on_sqlite
def test_a_commit_is_on_the_disk_before_it_returns(database: Database) -> None:
    with database.reading() as transaction:
        for pragma, wanted in (("synchronous", 2), ("journal_mode", "wal")):
            assert transaction.execute(sa.text(f"PRAGMA {pragma}")).scalar() == wanted


@on_postgresql
@pytest.mark.parametrize(("by_default", "here"), [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply")])
def test_a_commit_is_on_the_disk_before_it_returns_also_where_the_server_forgets_by_default(
    database: Database, database_url: str, by_default: str, here: str
) -> None:
    """Which standbys a commit waits for is left to the server."""
    name = sa.make_url(database_url).database
    database.dispose()
    postgres.administer(database_url, f"ALTER DATABASE {name} SET synchronous_commit = {by_default}")
    for _ in range(2):
        with database.reading() as transaction:
            assert transaction.execute(sa.text("SHOW synchronous_commit")).scalar() == here


def test_no_delivery_makes_the_web_process_talk_to_the_oms(
    configured: Callable[..., Config], database: Database
) -> None:
    """The OMS hangs: its connections are never accepted. None was even asked for."""
    with socket.create_server(("127.0.0.1", 0)) as oms:
        oms.setblocking(False)
        config = configured(OMS_BASE_URL=f"http://127.0.0.1:{oms.getsockname()[1]}")
        client = create_app(config, database).test_client()
        answers = [deliver(client, document).status_code for document in (a_document(), a_document(), a_document("x"))]
        assert answers == [202, 202, 202]
        assert client.get("/readyz").status_code == 200
        with pytest.raises(BlockingIOError):
            oms.accept()


def test_one_transition_under_a_thousand_uuids_is_one_command(floor: Floor) -> None:
    floor.oms.create(73, [sandbox.PACKED], state=sandbox.PACKED)
    client = create_app(floor.config, floor.store).test_client()
    for n in range(1000):
        assert deliver(client, a_document(uuid=f"{n:032x}")).status_code == 202
    floor.run(73)
    assert floor.where(73) == ("shipped", None)
    assert floor.oms.commands_for(73) == 1
    assert {(row["fate"], row["seen"]) for row in rows(floor.store, deliveries)} == {("accepted", 1)}


HOSTILE = "../74/command/?package=74#\r\nHost: evil.example\r\n\r\nhttp://evil.example/%2e%2e/@{id}"


@dataclass(kw_only=True)
class HostileOms(FaultyOms):
    """Keeps where it was asked, and fills every text of its documents that may hold anything."""

    asked: list[str] = field(default_factory=list)

    def answer(self, request: Request) -> Outcome:
        self.asked.append(f"{request.method} {request.path} {dict(request.query)}")
        return super().answer(request)

    def document(self, package: sandbox.Package) -> dict[str, Any]:
        document = super().document(package)
        texts = {key: HOSTILE for key, value in document.items() if isinstance(value, str) and key != "modified_date"}
        links = {"url": HOSTILE, "next": HOSTILE, "href": HOSTILE, "shipment": {"id": HOSTILE}, HOSTILE: HOSTILE}
        return document | texts | links | {"stock_location": {"erp_code": HOSTILE}}


def test_the_package_id_is_the_only_value_of_a_payload_or_document_that_reaches_a_url(
    floor_with: Callable[..., Floor], clock: Clock
) -> None:
    oms = HostileOms(clock=clock, inline_items=False)
    floor = floor_with(oms)
    oms.create(73, [sandbox.PACKED], state=sandbox.PACKED)
    document = a_document(type=f"package.{HOSTILE}", number=HOSTILE, city=HOSTILE, order_id=HOSTILE, url=HOSTILE)
    document |= {"url": HOSTILE, "callback": HOSTILE}
    document["payload"]["state"] |= {"name": HOSTILE, "enum_class": None}
    oms.script("command", oms_faults.applied_then(oms_faults.hangs))
    assert deliver(create_app(floor.config, floor.store).test_client(), document).status_code == 202
    assert floor.run(73)["state"] == "shipped"
    assert set(oms.asked) == {
        "GET /api/v1/oms/packages/73/ {}",
        "GET /api/v1/oms/packages/package-items/ {'package': '73'}",
        "POST /api/v1/oms/packages/73/command/ {}",
        "GET /api/v1/oms/state-transition-logs/ {'object_id': '73'}",
    }


@pytest.mark.parametrize(
    ("length", "is_kept"), [(inbox.MAX_QUARANTINED_BYTES, True), (inbox.MAX_QUARANTINED_BYTES + 1, False)]
)
def test_a_quarantined_body_is_kept_whole_up_to_64_kib(
    client: FlaskClient, database: Database, length: int, is_kept: bool
) -> None:
    body = b"[" + b" " * (length - 2) + b"]"
    assert deliver(client, body).json["status"] == "quarantined"
    assert [row["body"] for row in rows(database, quarantine)] == [body] * is_kept
    assert len(rows(database, deliveries)) == 1


def test_a_thousand_quarantined_bodies_are_kept_at_most_and_each_for_14_days(
    configured: Callable[..., Config], store: Database, clock: Clock
) -> None:
    client = create_app(configured(), store).test_client()
    with store.transaction() as transaction:
        kept = [{"delivery_id": -n, "received_at": transaction.now, "body": b"[]"} for n in range(1, 1000)]
        transaction.execute(sa.insert(quarantine), kept)
    clock.turn(timedelta(days=14))
    for _ in range(2):
        assert deliver(client, b"[]").json["status"] == "quarantined"
    assert len(rows(store, quarantine)) == 1000
    clock.turn(timedelta(seconds=1))
    assert deliver(client, b"[1]").json["status"] == "quarantined"
    assert [row["body"] for row in rows(store, quarantine)] == [b"[]", b"[1]"]
    assert len(rows(store, deliveries)) == 3
