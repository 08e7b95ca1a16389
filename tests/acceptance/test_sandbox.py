"""`autoship up` as a newcomer and an operator run it: real processes, a real terminal, real signals."""

from __future__ import annotations

import http.client
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service import sandbox
from tests import commands
from tests.commands import Running, eventually

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """A folder in which `up` runs, and the variables its operator has set."""

    up: Running
    folder: Path
    variables: dict[str, str]

    def packages(self) -> dict[int, tuple[str, str | None]]:
        listed = commands.autoship("packages", "--json", cwd=self.folder, **self.variables)
        return {one["id"]: (one["state"], one["reason"]) for one in listed.told} if listed.code == 0 else {}

    def explain(self, package_id: int) -> dict[str, Any]:
        [told] = commands.autoship("explain", str(package_id), "--json", cwd=self.folder, **self.variables).told
        assert isinstance(told, dict)
        return told

    def wait_until_settled(self) -> None:
        eventually(
            lambda: self.packages() == sandbox.SAMPLE_ENDS,
            lambda: f"{self.packages()} {self.up.told()}",
            every_s=2.0,
        )

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.variables['PORT']}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def child(self, name: str) -> int | None:
        """The process that `up` started under this name; gunicorn takes the place of `web`."""
        wanted = {"web": r"gunicorn|service\0web", "worker": r"service\0worker"}[name]
        children = commands.children(self.up.process.pid)
        return next((pid for pid in children if re.search(wanted, commands.command_line(pid))), None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A sandbox that all tests of this file may look at."""
    folder, port = tmp_path_factory.mktemp("sandbox"), commands.free_port()
    with commands.running("up", "--sandbox", cwd=folder, variables={"PORT": port}) as up:
        yield Place(up, folder, {"PORT": port})


def test_every_sample_package_comes_to_its_end_and_explain_says_why(place: Place) -> None:
    place.wait_until_settled()
    shipped = place.explain(73)
    assert (shipped["state"], shipped["evidence"], shipped["held"]) == ("shipped", "read_back", False)
    assert [(one["outcome"], one["resolution"]) for one in shipped["attempts"]] == [("accepted", "applied")]
    assert {one["verdict"] for one in shipped["checks"]} == {"pass"}
    mixed = place.explain(79)
    assert [one["observed"] for one in mixed["checks"] if one["verdict"] == "fail"] == ["1 in 200, 1 in 500"]
    assert mixed["next_check_at"] is not None
    assert "item" in mixed["summary"] + mixed["advice"]
    assert "marketplace ships its own" in str(place.explain(82)["checks"])
    for package_id in (79, 80, 81, 82, 83, 85):
        told = place.explain(package_id)
        assert (told["state"], told["reason"]) == sandbox.SAMPLE_ENDS[package_id]
        assert told["attempts"] == []


def test_lines_are_json_where_stdout_is_no_terminal_and_stderr_stays_silent(place: Place) -> None:
    place.up.wait_for("package.shipped")
    lines = [json.loads(line) for line in place.up.out]
    assert all({"at", "level", "event"} <= line.keys() for line in lines)
    assert {"database.migrated", "worker.started", "delivery.accepted"} <= {line["event"] for line in lines}
    assert place.up.err == []


def test_second_up_on_a_taken_port_says_so_and_leaves_the_first_alone(place: Place) -> None:
    place.wait_until_settled()
    second = commands.autoship("up", "--sandbox", cwd=place.folder, **place.variables)
    assert (second.code, second.out) == (2, "")
    assert second.err == f"autoship: PORT: cannot listen on port {place.variables['PORT']}: address already in use\n"
    assert place.packages() == sandbox.SAMPLE_ENDS


@pytest.mark.parametrize("name", ["web", "worker"])
def test_child_that_was_killed_is_started_again(place: Place, name: str) -> None:
    eventually(lambda: place.answers(), place.up.told)
    old = eventually(lambda: place.child(name), place.up.told)
    os.kill(old, signal.SIGKILL)
    eventually(lambda: place.child(name) not in (None, old), place.up.told)
    eventually(lambda: place.answers(), place.up.told)
    restarted = [json.loads(line) for line in place.up.out if "process.restarted" in line]
    assert {"process": name, "exit_code": -signal.SIGKILL} in [
        {key: line[key] for key in ("process", "exit_code")} for line in restarted
    ]


def test_terminal_shows_readable_lines_then_a_summary_and_ctrl_c_ends_all(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "service", "up", "--sandbox"]
    environ = commands.environment(PORT=commands.free_port(), TERM="xterm-256color")
    process = subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command], cwd=tmp_path, env=environ, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    shown: list[str] = []
    reader = threading.Thread(target=_read_terminal, args=(master, shown), daemon=True)
    reader.start()
    try:
        eventually(lambda: "Try in another terminal" in "".join(shown), lambda: "".join(shown))
        family = commands.family(process.pid)
        os.write(master, b"\x03")
        assert process.wait(10) == 0
        assert [pid for pid in family if commands.is_alive(pid)] == []
    finally:
        for pid in commands.family(process.pid) if process.poll() is None else ():
            os.kill(pid, signal.SIGKILL)
        process.wait()
        os.close(master)
        reader.join()
    text = "".join(shown)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert any(
        re.fullmatch(r"\d\d:\d\d:\d\d  package\.shipped +73  evidence=read_back episode=1", line) for line in lines
    )
    assert any(re.fullmatch(r" +79  0+79 +waiting +items_mixed +The package is Packed, but .*", line) for line in lines)
    assert sum(line.startswith("All sample packages are settled") for line in lines) == 1
    assert "SIGKILL" not in text


@pytest.mark.usefixtures("no_signal_is_ignored")
def test_the_end_of_the_terminal_ends_all_and_no_command_acts_on_what_is_over(tmp_path: Path) -> None:
    with commands.running("up", "--sandbox", cwd=tmp_path, variables={"PORT": commands.free_port()}) as up:
        for started in ("worker.started", "web.started"):
            up.wait_for(started)
        family = commands.family(up.process.pid)
        assert up.end(signal.SIGHUP) == 0
        assert [pid for pid in family if commands.is_alive(pid)] == []
    paused = commands.autoship("pause", cwd=tmp_path)
    assert (paused.code, paused.out) == (2, "")
    assert "OMS_BASE_URL: required" in paused.err


def test_up_ships_from_the_configured_oms_though_nobody_reads_its_output(tmp_path: Path, database_url: str) -> None:
    is_default = database_url.startswith("sqlite")
    stored = {} if is_default else {"DATABASE_URL": database_url}
    signum = signal.SIGTERM if is_default else signal.SIGINT
    port = commands.free_port()
    webhooks_url = f"http://127.0.0.1:{port}/webhooks/oms/packages"
    stand_in = ("sandbox", "--json", "--port", commands.free_port(), "--webhooks", webhooks_url)
    reading, writing = os.pipe()
    os.close(reading)
    with commands.running(*stand_in, cwd=tmp_path, variables={}) as oms:
        variables = json.loads(oms.wait_for("OMS_BASE_URL")) | {"PORT": port}
        (tmp_path / "rules.toml").write_text(sandbox.SANDBOX_RULES, encoding="utf-8")
        variables |= {"RULES_FILE": "rules.toml", "SETTLE_S": "1", "RETRY_BASE_S": "1"} | stored
        with commands.running("up", cwd=tmp_path, variables=variables, stdout=writing) as up:
            os.close(writing)
            elsewhere = {"DATABASE_URL": "sqlite:///var/autoship.db"} | variables
            Place(up, tmp_path, elsewhere).wait_until_settled()
            family = commands.family(up.process.pid)
            assert len(family) >= 3
            assert up.end(signum) == 0
            assert [pid for pid in family if commands.is_alive(pid)] == []
            assert up.err == []


@pytest.mark.parametrize("variable", ["OMS_BASE_URL", "OMS_BASE_URL_FILE"])
def test_sandbox_refuses_to_be_mistaken_for_the_real_thing(tmp_path: Path, variable: str) -> None:
    ended = commands.autoship("up", "--sandbox", cwd=tmp_path, **{variable: "https://brand-oms.akinon.net"})
    assert (ended.code, ended.out) == (2, "")
    assert "OMS_BASE_URL: is set" in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/api/v1/oms/packages/73/command/", ""),
        ("POST", "/api/v1/oms/packages/73/command/", "[12]"),
        ("POST", "/whisperer/hooks/", "[12]"),
        ("GET", "/api/v1/oms/packages/?page=x", ""),
        ("GET", "/api/v1/oms/state-transition-logs/?page=x", ""),
    ],
)
def test_the_stand_in_answers_400_to_what_is_malformed_as_the_oms_does(
    method: str, path: str, body: str, capsys: pytest.CaptureFixture[str]
) -> None:
    oms = sandbox.StandInOms()
    oms.create(73)
    with sandbox.serve(oms) as server:
        line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        line.request(method, path, body, headers={"Authorization": f"Token {oms.token}"})
        assert line.getresponse().status == 400
        line.close()
    assert capsys.readouterr().err == ""


def test_up_without_a_complete_configuration_starts_nothing(tmp_path: Path) -> None:
    ended = commands.autoship("up", cwd=tmp_path, OMS_BASE_URL="https://brand-oms.akinon.net")
    assert (ended.code, ended.out) == (2, "")
    assert {line.split(": ")[1] for line in ended.err.splitlines()} == {
        "OMS_TOKEN",
        "SHIP_TRANSITION_ID",
        "WEBHOOK_SECRETS",
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "make run: no OMS, ship or webhook variable is set: autoship up --sandbox (Ctrl-C ends it)"),
        ({"SHIP_SLUG": "ship"}, "make run: OMS, ship or webhook variables are set: autoship up"),
        ({"WEBHOOK_SECRETS": ""}, "make run: no OMS, ship or webhook variable is set: autoship up --sandbox"),
    ],
)
def test_make_run_says_which_of_both_it_does(variables: dict[str, str], said: str) -> None:
    # The environment is taken as built, and a port that is none ends both ways before anything starts.
    environ = {k: v for k, v in commands.environment(PORT="none", **variables).items() if not k.startswith("MAKE")}
    command = ["make", "run", "--assume-old=.venv/run.stamp", f"BIN={Path(sys.executable).parent}"]
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=commands.PATIENCE_S, check=False
    )
    assert done.stderr.splitlines()[0].startswith(said)
    assert "autoship: PORT: must be a whole number from 1 to 65535" in done.stderr
    assert ("OMS_TOKEN: required" in done.stderr) == bool(variables.get("SHIP_SLUG"))


def _read_terminal(master: int, shown: list[str]) -> None:
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # how Linux says that the last writer is gone
            return
        if not data:
            return
        shown.append(data.decode(errors="replace"))
