"""From nothing to live, as the README tells a newcomer: every step is a command, against the stand-in OMS alone."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import commands
from tests.commands import Ended, eventually

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
OWN, STAND_INS, *_ = re.findall(r"\bDATABASE_URL=(sqlite:[\w/.-]+)", README)


@dataclass
class Newcomer:
    """A terminal: a folder, and what was exported in it."""

    folder: Path
    exported: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str) -> Ended:
        return commands.autoship(*arguments, cwd=self.folder, **self.exported)

    def until(self, *arguments: str, code: int, said: str = "") -> Ended:
        """Repeats a command until it ends like this, as a person does who waits for something."""
        last: list[Ended] = []

        def look() -> Ended | None:
            last[:] = [self.run(*arguments)]
            return last[0] if last[0].code == code and said in last[0].out else None

        return eventually(look, lambda: f"{arguments}: {last}", every_s=1.0)

    def until_settled(self, but: dict[str, str]) -> None:
        """Asks the doctor until nothing else is amiss: a worker needs a moment to be seen."""
        last: list[Ended] = []

        def look() -> bool:
            last[:] = [self.run("doctor", "--json")]
            return unsettled(last[0]) == but

        eventually(look, lambda: str(last), every_s=1.0)


def unsettled(ended: Ended) -> dict[str, str]:
    """What the doctor does not find ok; how long this machine's temporary folder lasts is no matter here."""
    found = {one["name"]: one["verdict"] for one in ended.told if one["verdict"] != "ok"}
    found.pop("database_durable", None)
    return found


def test_a_newcomer_comes_from_nothing_to_live_with_the_commands_of_the_readme(tmp_path: Path) -> None:
    newcomer, port = Newcomer(tmp_path), commands.free_port()
    stand_in = ("sandbox", "--json", "--port", commands.free_port(), "--pace", "1")
    with commands.running(*stand_in, cwd=tmp_path, variables={}) as oms:
        newcomer.exported |= json.loads(oms.wait_for("OMS_BASE_URL"))
        newcomer.exported |= {"PORT": port, "DATABASE_URL": STAND_INS, "MODE": "shadow"}

        with commands.running("up", cwd=tmp_path, variables=newcomer.exported) as up:
            up.wait_for("web.started")
            newcomer.until_settled({"public_url": "unknown", "webhooks": "unknown", "deliveries": "unknown"})

            newcomer.exported["PUBLIC_URL"] = f"http://127.0.0.1:{port}"
            assert newcomer.run("register", "--check").code == 1
            registered = newcomer.run("register", "--apply")
            assert (registered.code, registered.out.count("  create ")) == (0, 4)
            assert "within 2 h 25 min: that long we may be down" in registered.out
            assert newcomer.run("register", "--check").code == 0
            newcomer.until_settled({})
            up.wait_for("delivery.accepted")

            report = newcomer.until("shadow-report", code=1, said="name that state in SHIPPED_STATUSES")
            [shipped] = set(re.findall(r"left Packed for PackageStatus (\d+); not by us", report.out))
            newcomer.exported["SHIPPED_STATUSES"] = shipped
            agreed = newcomer.run("shadow-report", "--json")
            assert agreed.code == 0
            assert agreed.told[0]["agreed"] > 0
            assert up.end(signal.SIGTERM) == 0
        assert not newcomer.run("packages", "--state", "shipped").out

        newcomer.exported["MODE"] = "live"
        with commands.running("up", cwd=tmp_path, variables=newcomer.exported) as up:
            [first, *_] = newcomer.until("packages", "--state", "shipped", "--json", code=0, said='"id"').told
            assert up.end(signal.SIGTERM) == 0
        told: dict[str, Any] = newcomer.run("explain", str(first["id"]), "--json").told[0]
        assert (told["state"], told["attempts"][-1]["resolution"]) == ("shipped", "applied")
        assert {"delivery", "command", "answer", "shipped"} <= {entry["kind"] for entry in told["timeline"]}
    newcomer.exported |= {"OMS_BASE_URL": "https://brand-oms.akinon.net", "DATABASE_URL": OWN}
    assert newcomer.run("migrate").code == 0  # what was tried with the stand-in is not in the way
