"""SIGKILL wherever something is done and not yet written down, or the reverse; then a clean process takes over."""

from __future__ import annotations

import http.client
import json
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service import config as configuration
from service import sandbox
from service.database import Database
from service.web import create_app
from tests.conftest import a_document, deliver, signed
from tests.processes import free_port, wait_until
from tests.reliability.campaign import books_of, service_variables
from tests.reliability.courier import PATH
from tests.reliability.crashing import POINTS
from tests.reliability.fleet import Member, end
from tests.reliability.ledger import Tally, WitnessOms, judge

LEASE_S = 2.0
DOCUMENT = a_document(73)
# What the OMS was asked: r and c, read and command, by the process that died; R and C by the one that took over.
ASKED = {
    "after the insert, before the answer": "R+CR+",
    "after the claim": "R+CR+",
    # Two reads prove that nothing was applied, a third one is fresh.
    "after the attempt's row, before the send": "r+R{3,}CR+",
    "after the send, before its record": "r+cR+",
    "after the record, before confirmation": "r+cR+",
    "during migration": "R+CR+",
}


@dataclass
class Scene:
    """A packed package, a database and the processes around it."""

    oms: WitnessOms
    variables: dict[str, str]
    database: Database
    folder: Path
    tally: Tally = field(default_factory=Tally)
    members: list[Member] = field(default_factory=list)

    def member(self, name: str, *arguments: str, port: int | None = None) -> Member:
        variables = self.variables | {"OMS_TOKEN": f"{self.oms.token}.{name}", "PORT": str(port or "")}
        self.members.append(Member(name, arguments, variables, self.folder, port))
        return self.members[-1]

    def crash(self, point: str, port: int | None = None) -> Member:
        return self.member("crashed", "tests.reliability.crashing", point, POINTS[point].command, port=port)

    def deliver(self) -> None:
        """Through the web process's own code."""
        app = create_app(configuration.load(self.variables), self.database)
        assert deliver(app.test_client(), DOCUMENT).status_code == 202
        self.tally = Tally(tried=1, answered=1)

    def deliver_to(self, port: int) -> None:
        body = json.dumps(DOCUMENT).encode()
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        self.tally.tried += 1
        try:
            line.request("POST", PATH, body, signed(body))
            assert line.getresponse().status == 202
            self.tally.answered += 1
        finally:
            line.close()

    @property
    def asked(self) -> str:
        letters = ((touch.operation[0], touch.who) for touch in self.oms.touches[73])
        return "".join(letter if who == "crashed" else letter.upper() for letter, who in letters)


@pytest.fixture
def scene(database_url: str, tmp_path: Path) -> Iterator[Scene]:
    oms = WitnessOms(rng=random.Random(1))
    oms.create(73)
    oms.pack(73)
    with sandbox.serve(oms) as server:
        variables = service_variables(database_url, server.url, oms, "web")
        variables |= {"OMS_TIMEOUT_S": "0.5", "LEASE_S": f"{LEASE_S:g}"}
        scene = Scene(oms, variables, Database(database_url), tmp_path)
        yield scene
        end(scene.members)
        scene.database.dispose()


def die(scene: Scene, point: str) -> float:
    """Lets a process die there with the delivery on its way; when it was dead."""
    match POINTS[point].command:
        case "migrate":
            died_at = scene.crash(point).wait_until_dead()
            assert scene.member("migrate", "service", "migrate").run() == 0
            scene.deliver()
        case "worker":
            scene.database.migrate(scene.variables["OMS_BASE_URL"])
            scene.deliver()
            died_at = scene.crash(point).wait_until_dead()
        case _:
            scene.database.migrate(scene.variables["OMS_BASE_URL"])
            port = free_port()
            crashed = scene.crash(point, port)
            crashed.wait_until_ready()
            with pytest.raises((OSError, http.client.HTTPException)):
                scene.deliver_to(port)
            died_at = crashed.wait_until_dead()
            scene.member("web", "service", "web", port=port).wait_until_ready()
            scene.deliver_to(port)
    return died_at


@pytest.mark.parametrize("point", POINTS)
def test_a_process_killed_anywhere_loses_no_delivery_and_doubles_no_command(scene: Scene, point: str) -> None:
    died_at = die(scene, point)
    heir = scene.member("heir", "service", "worker")
    heir.wait_until_ready()
    ready_at = time.monotonic()
    wait_until(lambda: books_of(scene.database).states[73] == "shipped")
    judgement = judge(scene.oms, {DOCUMENT["event"]["uuid"]: scene.tally}, books_of(scene.database))
    assert judgement.is_clean, judgement
    assert re.fullmatch(ASKED[point], scene.asked)
    resumed_at = next(touch.at for touch in scene.oms.touches[73] if touch.who == "heir")
    assert resumed_at - max(died_at, ready_at) < LEASE_S + 5
