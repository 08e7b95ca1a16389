"""`autoship register` against the real registration service of dj-whisperer, on real HTTP."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import doctor, hooks, register
from service.config import Config
from service.database import Database
from service.diagnosis import Finding
from service.oms import Oms
from tests.commands import Autoship, Ended
from tests.conftest import MINIMAL, SECRET, on_sqlite
from tests.contract.hook_server import COLLEAGUE, SUPERUSER

ROOT = Path(__file__).parents[2]
TOKEN = MINIMAL["OMS_TOKEN"]
PUBLIC = "https://autoship.example.com"
TARGET = PUBLIC + "/webhooks/oms/packages"
STARTED_WITHIN_S = 60.0

pytestmark = on_sqlite


@dataclass(frozen=True)
class Service:
    """The service and somebody else who uses it with the same token."""

    url: str

    token: str = TOKEN

    def ask(self, method: str, path: str = "", **values: Any) -> Any:
        address = f"{self.url}/whisperer/hooks/{path}"
        answer = httpx.request(
            method, address, headers={"Authorization": f"Token {self.token}"}, json=values, trust_env=False
        )
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def registered(self) -> list[dict[str, Any]]:
        """All webhooks by id, page after page."""
        found: list[dict[str, Any]] = []
        page: dict[str, Any] = {"next": "?page=1"}
        while page["next"]:
            page = self.ask("GET", "?" + page["next"].partition("?")[2])
            found += page["results"]
        return sorted(found, key=lambda hook: int(hook["id"]))

    def create(self, event_type: str = "package.status.packed", **values: Any) -> int:
        named = {"target_url": TARGET, "event_type": event_type, "retry_countdown_config": hooks.COUNTDOWN}
        created: dict[str, Any] = self.ask("POST", **named | values)
        return int(created["id"])


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """Starts the service with these event types."""
    processes = []

    def start(*event_types: str) -> Service:
        command = [sys.executable, "-m", "tests.contract.hook_server", str(tmp_path / "oms.db"), TOKEN, *event_types]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        processes.append(process)
        assert process.stdout is not None
        return Service(f"http://127.0.0.1:{int(process.stdout.readline())}")

    yield start
    for process in processes:
        process.terminate()
        process.communicate(timeout=STARTED_WITHIN_S)


@pytest.fixture
def service(started: Callable[..., Service]) -> Service:
    return started(*hooks.EVENT_TYPES)


@pytest.fixture
def run(autoship: Autoship, service: Service, database_url: str) -> Callable[..., Ended]:
    """`autoship register` at that service, with a database that belongs to it."""

    def run(*arguments: str, answer: str = "", **variables: str) -> Ended:
        at_service = {"OMS_BASE_URL": service.url, "OMS_TOKEN": TOKEN, "PUBLIC_URL": PUBLIC} | variables
        Database(database_url).migrate(at_service["OMS_BASE_URL"])
        return autoship("register", *arguments, answer=answer, **at_service)

    return run


def test_from_nothing_all_four_are_created_and_a_second_run_changes_nothing(
    service: Service, run: Callable[..., Ended]
) -> None:
    assert run("--check").code == 1
    assert service.registered() == []
    assert run("--apply").code == 0
    made = service.registered()
    assert [(hook["event_type"], hook["target_url"]) for hook in made] == [(name, TARGET) for name in hooks.EVENT_TYPES]
    assert all(hook["is_active"] and hook["secret_key"] == SECRET for hook in made)
    assert all(hook["retry_countdown_config"] == hooks.COUNTDOWN for hook in made)
    assert run("--apply").code == run("--check").code == 0
    assert service.registered() == made


def test_secret_basic_auth_and_header_are_registered_and_never_printed(
    service: Service, run: Callable[..., Ended]
) -> None:
    demanded = {
        "WEBHOOK_SECRETS": "new-canary,old-canary",
        "WEBHOOK_BASIC_AUTH": "oms:pass-canary",
        "WEBHOOK_HEADER": "X-Shop: header-canary",
    }
    told = [run("--check", **demanded), run("--apply", "--json", **demanded), run(**demanded)]
    assert [one.code for one in told] == [1, 0, 0]
    assert "canary" not in "".join(one.out + one.err for one in told)
    for hook in service.registered():
        assert hook["secret_key"] == "new-canary"
        assert hook["additional_headers"] == {"X-Shop": "header-canary"}
        assert hook["config"] == {"auth": {"auth_type": "basic", "username": "oms", "password": "pass-canary"}}


@pytest.mark.parametrize(
    ("drift", "action", "fields"),
    [
        ({"is_active": False}, "reactivate", ["is_active"]),
        (
            {"retry_countdown_config": {"choice": "fixed", "kwargs": {"seconds": 1}}},
            "correct",
            ["retry_countdown_config"],
        ),
        ({"secret_key": "another"}, "correct", ["secret_key"]),
        ({"secret_key": None}, "correct", ["secret_key"]),
        (
            {"additional_headers": {"x-whisperer-signature": "sha256=0", "X-Gateway": "1"}},
            "correct",
            ["additional_headers"],
        ),
        ({"is_active": False, "secret_key": None}, "reactivate", ["is_active", "secret_key"]),
    ],
)
def test_what_drifted_is_found_and_put_right_and_nothing_else_is_touched(
    service: Service, run: Callable[..., Ended], drift: dict[str, Any], action: str, fields: list[str]
) -> None:
    run("--apply")
    hook_id, before = service.registered()[0]["id"], service.registered()
    service.ask("PATCH", f"{hook_id}/", **drift)
    found = run("--check", "--json")
    assert found.code == 1
    steps = {step["event_type"]: step for step in found.told[0]["webhooks"]}
    packed = {"event_type": "package.status.packed", "action": action, "hook_id": hook_id, "fields": fields}
    assert steps.pop("package.status.packed") == packed
    assert {step["action"] for step in steps.values()} == {"keep"}
    assert run("--apply").code == 0
    [mended, *others] = service.registered()
    assert others == before[1:]
    expected = before[0] | {"modified_date": mended["modified_date"]}
    if "additional_headers" in drift:
        expected |= {"additional_headers": {"X-Gateway": "1"}}
    assert mended == expected


def test_deleted_webhook_is_only_inactive_there_and_is_reactivated(service: Service, run: Callable[..., Ended]) -> None:
    run("--apply")
    hook_id = service.registered()[0]["id"]
    service.ask("DELETE", f"{hook_id}/")
    assert service.registered()[0]["is_active"] is False
    assert run("--apply").code == 0
    assert service.registered()[0]["is_active"] is True


@pytest.mark.parametrize(
    ("answer", "arguments", "code", "made"),
    [("n\n", (), 0, 0), ("", (), 2, 0), ("y\n", (), 0, 4), ("", ("--yes",), 0, 4)],
)
def test_without_a_flag_the_plan_is_shown_and_a_person_asked(
    service: Service, run: Callable[..., Ended], answer: str, arguments: tuple[str, ...], code: int, made: int
) -> None:
    ended = run(*arguments, answer=answer)
    assert ended.code == code
    assert [line.split()[:2] for line in ended.out.splitlines()[1:5]] == [
        ["create", name] for name in hooks.EVENT_TYPES
    ]
    assert "2 h 25 min" in ended.out
    assert ("change 4 webhooks" in ended.err) == (not arguments)
    assert len(service.registered()) == made


def test_one_that_somebody_registers_meanwhile_counts_as_existing_and_is_corrected(
    service: Service, configured: Callable[..., Config]
) -> None:
    config = configured(OMS_BASE_URL=service.url, OMS_TOKEN=TOKEN, PUBLIC_URL=PUBLIC)
    target = register.wanted(config)
    with closing(Oms(config.oms)) as oms:
        agreed = register.plan(oms, target)
        hook_id = service.create(secret_key="theirs")
        assert register.apply(oms, target, agreed).changes == ()
    theirs = service.registered()[0]
    assert (theirs["id"], theirs["secret_key"], len(service.registered())) == (hook_id, SECRET, 4)


def test_webhooks_of_others_and_one_written_with_a_slash_are_left_as_they_are(
    service: Service, run: Callable[..., Ended]
) -> None:
    service.create(target_url="https://elsewhere.example.com/")
    service.create(target_url=TARGET + "/", secret_key=SECRET)
    before = service.registered()
    assert run("--apply").code == 0
    assert [hook for hook in service.registered() if hook["id"] in {one["id"] for one in before}] == before
    assert len(service.registered()) == 5


def test_superuser_rotates_the_secret_of_everybody_whose_webhooks_deliver_to_this_address(
    service: Service, run: Callable[..., Ended]
) -> None:
    for token in (TOKEN, COLLEAGUE):
        assert run("--apply", OMS_TOKEN=token, WEBHOOK_SECRETS="old").code == 0
    rotated = {"OMS_TOKEN": SUPERUSER, "WEBHOOK_SECRETS": "new,old"}
    assert run("--check", **rotated).code == 1
    assert run("--apply", **rotated).code == run("--check", **rotated).code == 0
    everybodys = replace(service, token=SUPERUSER).registered()
    assert [hook["secret_key"] for hook in everybodys] == ["new"] * 2 * len(hooks.EVENT_TYPES)


def test_webhook_that_the_oms_cannot_correct_is_named_once_all_others_are_corrected(
    service: Service, run: Callable[..., Ended]
) -> None:
    for token in (SUPERUSER, COLLEAGUE):  # dj-whisperer 0.5.3 would take the latter's for one more of the former
        assert run("--apply", OMS_TOKEN=token, WEBHOOK_SECRETS="old").code == 0
    ended = run("--apply", OMS_TOKEN=SUPERUSER, WEBHOOK_SECRETS="new,old")
    assert (ended.code, ended.err) == (3, "autoship: correct package.status.packed (webhook 5): answered 500\n")
    everybodys = replace(service, token=SUPERUSER).registered()
    assert [hook["secret_key"] for hook in everybodys] == ["new"] * 4 + ["old"] * 4


def test_event_type_the_oms_does_not_know_is_told_and_the_others_are_registered(
    started: Callable[..., Service], autoship: Autoship, database_url: str
) -> None:
    service = started(*hooks.EVENT_TYPES[:2], "package-shipped")
    Database(database_url).migrate(service.url)
    variables = {"OMS_BASE_URL": service.url, "OMS_TOKEN": TOKEN, "PUBLIC_URL": PUBLIC}
    assert autoship("register", "--check", **variables).code == 1
    ended = autoship("register", "--apply", **variables)
    assert ended.code == 2
    missing = "package.status.shipped, package.status.cancelled"
    assert f"the OMS knows no event type {missing}: not registered" in ended.err
    assert [hook["event_type"] for hook in service.registered()] == list(hooks.EVENT_TYPES[:2])
    assert autoship("register", "--check", **variables).code == 1


@pytest.mark.parametrize(
    ("variables", "code", "said"),
    [
        ({"OMS_TOKEN": "wrong"}, 3, "the OMS did not show its webhooks: it does not accept OMS_TOKEN here (401)"),
        ({"OMS_HOOKS_PATH": "/hooks/"}, 3, "the OMS did not show its webhooks: nothing is at OMS_HOOKS_PATH (404)"),
        (
            {"OMS_BASE_URL": "http://127.0.0.1:9"},
            3,
            "the OMS did not show its webhooks: ConnectError: nothing listens there",
        ),
        ({"PUBLIC_URL": ""}, 2, "PUBLIC_URL: required to register webhooks"),
        (
            {"WEBHOOK_SECRETS": "canary" * 30},
            2,
            "create package.status.packed: the OMS refuses it (400), as it says because of secret_key",
        ),
    ],
)
def test_what_stands_in_the_way_is_one_sentence(
    run: Callable[..., Ended], variables: dict[str, str], code: int, said: str
) -> None:
    ended = run("--apply", **variables)
    assert (ended.code, "canary" in ended.err, "Traceback" in ended.err) == (code, False, False)
    assert f"autoship: {said}" in ended.err


def test_check_and_apply_exclude_each_other(run: Callable[..., Ended]) -> None:
    assert run("--check", "--apply").code == 2


@pytest.mark.parametrize(
    ("variables", "before", "judgement", "what"),
    [
        ({}, "--apply", "ok", "4 are registered as they should be"),
        ({}, "--check", "problem", "package.status.packed: create"),
        ({"PUBLIC_URL": ""}, "--apply", "unknown", "PUBLIC_URL: required"),
        ({"OMS_TOKEN": "wrong"}, "--apply", "unknown", "it does not accept OMS_TOKEN here (401)"),
        ({"OMS_HOOKS_PATH": "/hooks/"}, "--apply", "unknown", "nothing is at OMS_HOOKS_PATH (404)"),
    ],
)
def test_doctor_says_how_the_registration_stands(
    service: Service,
    run: Callable[..., Ended],
    configured: Callable[..., Config],
    variables: dict[str, str],
    before: str,
    judgement: str,
    what: str,
) -> None:
    run(before)
    config = configured(**{"OMS_BASE_URL": service.url, "OMS_TOKEN": TOKEN, "PUBLIC_URL": PUBLIC} | variables)
    with closing(Oms(config.oms)) as oms:
        finding: Finding = doctor.webhooks(config, oms)
    assert (finding.judgement, what in finding.what) == (judgement, True), finding
