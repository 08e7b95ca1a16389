"""`/metrics`: what Prometheus can read, right whichever process is asked, and what the alert rules rest on."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from prometheus_client.parser import text_string_to_metric_families

from service import metrics, operator, vitals
from service.database import Database, attempts, packages, sweep, workers
from service.metrics import METRICS
from service.web import create_app
from tests.conftest import a_document, deliver
from tests.integration.conftest import Clock, Floor
from tests.oms_faults import answers

RULES = Path(__file__).parents[2] / "deploy" / "alerts.yml"
BEARER = {"Authorization": "Bearer admin-token"}

Samples = dict[tuple[str, tuple[str, ...]], float]


def samples(text: str) -> Samples:
    """Every sample of a scrape by its name and the values of its labels."""
    families = list(text_string_to_metric_families(text))
    return {(one.name, tuple(one.labels.values())): float(one.value) for family in families for one in family.samples}


def scrape(floor: Floor) -> str:
    answer = create_app(floor.config, floor.store).test_client().get("/metrics", headers=BEARER)
    assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
    return answer.text


@pytest.fixture
def busy(floor_with: Callable[..., Floor], clock: Clock) -> Floor:
    """A service in which something of everything has happened, an hour ago."""
    floor = floor_with(ADMIN_TOKEN="admin-token")
    client = create_app(floor.config, floor.store).test_client()
    for package_id in (1, 2):
        floor.oms.create(package_id, ["500"], state="500")
    with floor.store.transaction() as transaction:
        long_ago = {"package_id": 9, "episode": 1, "fence": 1, "started_at": clock.now - timedelta(hours=24)}
        transaction.execute(sa.insert(attempts).values(**long_ago, deadline_at=clock.now, outcome="refused"))
        row = {"worker": "a", "version": "1", "started_at": clock.now, "seen_at": clock.now}
        transaction.execute(sa.insert(workers).values(row))
        transaction.execute(sa.update(sweep).values(finished_at=clock.now, missed=3))
    for _ in range(2):
        deliver(client, a_document(1))
    assert floor.run(1)["state"] == "shipped"
    operator.pause(floor.store)
    deliver(client, a_document(2, uuid="2" * 32))
    floor.look()
    deliver(client, a_document("x", uuid="3" * 32))
    clock.now = floor.due_at(2) or clock.now
    clock.turn(timedelta(seconds=30))
    return floor


def test_a_scrape_counts_everything_once(busy: Floor, clock: Clock) -> None:
    found = samples(scrape(busy))
    assert {one for one in found if one[0] == "autoship_packages"} == {
        ("autoship_packages", ("shipped", "")),
        ("autoship_packages", ("waiting", "brake")),
    }
    fates = {labels[0]: count for (name, labels), count in found.items() if name == "autoship_deliveries"}
    assert fates == {"accepted": 2, "duplicate": 1, "ignored": 0, "quarantined": 1}
    outcomes = {labels[0]: count for (name, labels), count in found.items() if name == "autoship_attempts"}
    assert outcomes == {"accepted": 1}
    assert found["autoship_quarantined", ()] == 1
    assert found["autoship_oldest_due_seconds", ()] == 30
    assert found["autoship_worker_seen_seconds", ()] > 30
    assert 0 < found["autoship_last_webhook_timestamp_seconds", ()] < clock.now.timestamp()
    assert found["autoship_missed_webhooks_total", ()] == 3
    assert [found[f"autoship_{name}", ()] for name in ("paused", "held_up", "breaker_open")] == [1, 1, 0]


def test_every_process_tells_the_same(busy: Floor, clock: Clock, database_url: str) -> None:
    another = Database(database_url, clock=clock)
    assert metrics.render(vitals.read(another, 10)) == scrape(busy)
    another.dispose()


def test_an_empty_database_has_every_metric_with_what_it_means(database: Database) -> None:
    families = list(text_string_to_metric_families(metrics.render(vitals.read(database, 10))))
    told = {(one.name.removesuffix("_total"), one.type, one.documentation) for one in families}
    assert told == {(name.removesuffix("_total"), one.kind, one.meaning) for name, one in METRICS.items()}


def test_a_package_counts_as_unreadable_after_six_failed_reads_and_until_one_succeeds(floor: Floor) -> None:
    floor.oms.create(73)
    floor.oms.always("read", answers(500))
    floor.hint(73)
    told: list[int] = []
    while len(told) < 6:
        floor.clock.now = floor.due_at(73) or floor.clock.now
        floor.look()
        found = vitals.read(floor.store, 10)
        told.append(found.unreadable)
        assert found.failing == 1
    assert told == [0, 0, 0, 0, 0, 1]
    floor.oms.always("read", None)
    floor.clock.now = floor.due_at(73) or floor.clock.now
    floor.look()
    found = vitals.read(floor.store, 10)
    assert (found.failing, found.unreadable) == (0, 0)


def test_a_package_that_the_oms_does_not_know_is_not_unreadable(floor: Floor) -> None:
    floor.hint(73)
    for _ in range(7):
        floor.clock.now = floor.due_at(73) or floor.clock.now
        floor.look()
    assert vitals.read(floor.store, 10).unreadable == 0


def test_a_package_is_held_back_once_it_has_waited_for_half_an_hour_behind_a_brake(floor: Floor) -> None:
    floor.oms.create(73, ["500"], state="500")
    floor.hint(73)
    floor.oms.always("command", answers(429, Retry_After="900"))
    told = []
    for _ in range(4):
        floor.clock.now = max(floor.due_at(73) or floor.clock.now, floor.clock.now)
        floor.look()
        told.append(vitals.read(floor.store, 10).held_back)
        floor.clock.turn(timedelta(minutes=15))
    assert (told[0], told[-1]) == (0, 1)


def test_a_package_is_unfit_once_its_items_have_kept_it_waiting_for_half_an_hour(floor: Floor) -> None:
    floor.oms.create(73, ["400"], state="500")
    floor.oms.create(74, [], state="500")
    for package_id in (73, 74):
        floor.hint(package_id)
    floor.look()
    floor.clock.turn(timedelta(minutes=29))
    assert vitals.read(floor.store, 10).unfit == {}
    floor.clock.turn(timedelta(minutes=1))
    assert vitals.read(floor.store, 10).unfit == {"items_mixed": 1, "no_items": 1}


def test_what_a_newer_version_wrote_cannot_break_the_format(busy: Floor) -> None:
    strange = 'a"b\\c\nd'
    with busy.store.transaction() as transaction:
        transaction.execute(sa.update(packages).where(packages.c.package_id == 1).values(state=strange))
    assert samples(scrape(busy))["autoship_packages", (strange, "")] == 1


# The alert rules that come with it.


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    [group] = document["groups"]
    return list(group["rules"])


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_rule_asks_metrics_and_labels_that_exist_and_says_what_to_do(rule: dict[str, Any]) -> None:
    asked = set(re.findall(r"autoship_\w+", rule["expr"]))
    assert asked <= set(METRICS)
    assert asked or rule["expr"].startswith("up{")
    labels = {label for name in asked for label in METRICS[name].labels}
    assert set(re.findall(r"(\w+)=~?\"", rule["expr"])) - {"job"} <= labels
    assert set(rule["annotations"]) == {"summary", "action"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_a_scrape_and_the_alert_rules(busy: Floor) -> None:
    checks: list[tuple[list[str], str]] = [(["metrics"], scrape(busy)), (["rules", str(RULES)], "")]
    for arguments, given in checks:
        checked = subprocess.run(
            ["promtool", "check", *arguments], input=given, capture_output=True, text=True, timeout=60, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, ""), checked


# For each rule the series it judges, with the last value that is right and the first that is wrong.
UP, WAITING = 'up{job="autoship"}', 'autoship_packages{state="waiting", reason="%s"}'
LIMITS: dict[str, tuple[str, str, str]] = {
    "AutoshipDown": (UP, "1", "0"),
    "AutoshipNoWorker": ("autoship_worker_seen_seconds", "60", "61"),
    "AutoshipOverdue": ("autoship_oldest_due_seconds", "300", "301"),
    "AutoshipBreakerOpen": ("autoship_breaker_open", "0", "1"),
    "AutoshipOmsUnreadable": ("autoship_unreadable_packages", "0", "1"),
    "AutoshipPaused": ("autoship_paused", "0", "1"),
    "AutoshipNeedsAttention": ('autoship_packages{state="needs_attention", reason="refused"}', "0", "1"),
    "AutoshipRefusals": (WAITING % "retry_after_refusal", "4", "5"),
    "AutoshipItemsUnfit": (WAITING % "no_items", "4", "5"),
    "AutoshipBacklog": (WAITING % "backlog_to_confirm", "0", "1"),
    "AutoshipWebhooksMissed": ("autoship_missed_webhooks_total", "3", "3+0x90 4"),
    "AutoshipSweepOverdue": ("autoship_last_sweep_timestamp_seconds", "3600", "3599"),
    "AutoshipQuarantine": ("autoship_quarantined", "0", "1"),
}


def firing(names: tuple[str, ...], held_up: str, **wrong: str) -> dict[str, Any]:
    """A test of promtool: with this wrong, these and no others fire after two hours."""
    values = {series: right for series, right, _ in LIMITS.values()} | wrong | {"autoship_held_up": held_up}
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names]
    expr = 'count by (alertname) (ALERTS{alertstate="firing"})'
    return {
        "name": f"{wrong} held_up={held_up}",
        "interval": "1m",
        "input_series": [{"series": series, "values": f"{value}+0x120"} for series, value in values.items()],
        "promql_expr_test": [{"expr": expr, "eval_time": "2h", "exp_samples": expected}],
    }


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_each_alert_rule_fires_one_beyond_its_limit_and_no_rule_fires_at_it(tmp_path: Path) -> None:
    assert set(LIMITS) == {rule["alert"] for rule in rules()}
    tests = [
        firing((), "0"),
        *(firing((name,), "0", **{series: beyond}) for name, (series, _, beyond) in LIMITS.items()),
    ]
    tests.append(firing((), "1", autoship_oldest_due_seconds="301"))
    # Never a sweep: known for an hour, and for less.
    tests.append(firing(("AutoshipSweepOverdue",), "0", autoship_last_sweep_timestamp_seconds="0"))
    tests.append(firing((), "0", autoship_last_sweep_timestamp_seconds="_x61 0"))
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "limits.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    checked = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "limits.yml")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_the_alert_rules_fire_on_a_real_scrape_for_what_is_wrong_and_for_nothing_else(
    busy: Floor, clock: Clock, tmp_path: Path
) -> None:
    clock.turn(timedelta(minutes=10))
    named = {name: METRICS[name].labels if name in METRICS else () for name, _ in samples(scrape(busy))}
    series = [
        {"series": name + "{" + ",".join(f'{k}="{v}"' for k, v in zip(named[name], values, strict=True)) + "}",
         "values": f"{number:.3f}+0x180"}
        for (name, values), number in samples(scrape(busy)).items()
    ]  # fmt: skip
    wrong = ("AutoshipDown", "AutoshipNoWorker", "AutoshipPaused", "AutoshipQuarantine")
    firing = {
        "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": "2h",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in wrong],
    }
    down = {"series": 'up{job="autoship"}', "values": "0+0x180"}
    test = {"interval": "1m", "input_series": [*series, down], "promql_expr_test": [firing]}
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    checked = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "test.yml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
