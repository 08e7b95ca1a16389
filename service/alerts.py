"""Alerts: what is wrong with the service, judged from the vitals alone; each says what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from service.brakes import AFTER_401, AFTER_CAP, TOKEN_REJECTED
from service.case import CaseState, Reason
from service.sweep import FILTER_IGNORED
from service.vitals import LONG_WAIT, UNANNOUNCED_WITHIN, Vitals

PILE = 5
YOUNG = timedelta(hours=1)
LONG_WITHOUT_SWEEP = timedelta(hours=1)
# What to do about the two causes of `worker.silent`.
IF_UNSEEN = (
    "Start one (autoship worker), or restart the one that hangs; if /readyz answers 503, mend the database first: a "
    "worker that cannot write is not seen."
)
IF_LATE = (
    "Look in the logs for look.crashed and read.failed; else start more workers, or raise OMS_CONCURRENCY or "
    "OMS_RATE_PER_S."
)


@dataclass(frozen=True, slots=True)
class Alert:
    """What began and what to do. `count` is None for the one that the watch over the workers judges."""

    title: str
    advice: str
    count: Callable[[Vitals], int] | None


def _forgotten_pause(found: Vitals) -> int:
    """What waits behind a pause that a person made long ago."""
    long_ago = found.paused_at is not None and found.now - found.paused_at >= LONG_WAIT
    return found.count(CaseState.WAITING, Reason.BRAKE) if long_ago and found.paused_by_person else 0


def _held_back(found: Vitals) -> int:
    """What nothing else tells of: where the breaker or a pause holds them back, that is known."""
    if found.paused_at is not None or found.breaker_opened_at is not None:
        return 0
    unread = found.asked_to_wait and found.oldest_due_s >= LONG_WAIT.total_seconds()
    return max(found.held_back, int(unread))


def _pile(found: Vitals, *reasons: Reason) -> int:
    piled = found.count(CaseState.WAITING, *reasons)
    return piled if piled >= PILE else 0


def _unfit(found: Vitals) -> int:
    """Half-packed packages are everyday business, but not where they are all there is."""
    others_pass = found.attempts or found.count(CaseState.WOULD_SHIP)
    piled = sum(n for reason, n in found.unfit.items() if reason != Reason.ITEMS_MIXED or not others_pass)
    return piled if piled >= PILE else 0


def _sweep_failing(found: Vitals) -> bool:
    went_through = found.now - (found.last_sweep_at or found.made_at) < LONG_WITHOUT_SWEEP
    return not went_through and found.sweep_problem is not None and not _filter_ignored(found)


def _filter_ignored(found: Vitals) -> bool:
    return (found.sweep_problem or "").startswith(FILTER_IGNORED)


def _webhooks_silent(found: Vitals) -> int:
    heard = found.last_webhook_at is not None and found.now - found.last_webhook_at < UNANNOUNCED_WITHIN
    return 0 if heard or found.now - found.made_at < YOUNG else found.unannounced


ALERTS: Mapping[str, Alert] = {
    "breaker_open": Alert(
        "the breaker is open: no command is sent",
        "Look for brake.changed in the logs for the cause: a right that the token's user lacks, or OMS_BASE_URL "
        "answering with a redirect. It closes by itself with the first good answer, or with: autoship resume",
        lambda found: found.breaker_cause not in (None, TOKEN_REJECTED),
    ),
    "token_rejected": Alert(
        "the OMS does not accept the token (401)",
        AFTER_401,
        lambda found: found.breaker_cause == TOKEN_REJECTED,
    ),
    "oms_unreadable": Alert(
        "the OMS gives no usable answer",
        "Look for read.failed and login.failed in the logs, and whether the OMS is up. Nothing is lost and no budget "
        "is used: it goes on by itself.",
        lambda found: found.unreadable,
    ),
    "held_back": Alert(
        "packages have waited for half an hour behind a brake",
        "autoship explain ID, for one of autoship packages --reason brake, says what holds it back. Look for "
        "brake.changed (429), read.failed and command.answered (not_sent) in the logs. It goes on by itself.",
        _held_back,
    ),
    "hourly_cap": Alert(
        "paused: SHIP_MAX_PER_HOUR was reached",
        AFTER_CAP,
        lambda found: found.paused_at is not None and not found.paused_by_person,
    ),
    "paused": Alert(
        "commands have been paused for half an hour, and packages wait",
        "autoship explain ID, for one of autoship packages --reason brake, says who paused, and why if that was said. "
        "When that is over: autoship resume",
        _forgotten_pause,
    ),
    "needs_attention": Alert(
        "packages wait for a person",
        "List them with: autoship packages --state needs_attention. autoship explain ID says why and what to do.",
        lambda found: found.count(CaseState.NEEDS_ATTENTION),
    ),
    "refusals": Alert(
        "the OMS refuses our command, or does not offer it, for several packages",
        "Compare SHIP_TRANSITION_ID and SHIP_SLUG with Settings > State Transitions in the OMS. The OMS's words: "
        "autoship explain ID, for one of autoship packages --reason retry_after_refusal or command_not_offered.",
        lambda found: _pile(found, Reason.RETRY_AFTER_REFUSAL, Reason.COMMAND_NOT_OFFERED),
    ),
    "rule_field_missing": Alert(
        "rules ask fields that several packages do not have",
        "List them with: autoship packages --reason rule_field_missing. autoship explain ID names rule and field. They "
        "go on by themselves once RULES_FILE no longer asks it.",
        lambda found: _pile(found, Reason.RULE_FIELD_MISSING),
    ),
    "items_unfit": Alert(
        "packages in Packed do not ship, as their items or states do not look packed",
        "autoship doctor, and autoship explain ID for one of autoship packages --state waiting, show what the OMS says."
        " If the items are packed, ITEM_PACKED_STATUS is wrong; if it shows none or others', OMS_ITEMS_PATH; if states "
        "are of another kind, OMS_BASE_URL. Corrected, restart: they ship by themselves.",
        _unfit,
    ),
    "filter_ignored": Alert(
        "the OMS ignores OMS_LIST_FILTER: the sweep has stopped",
        "Find the spelling this OMS honours and set OMS_LIST_FILTER. Until then only webhooks announce packages.",
        _filter_ignored,
    ),
    "sweep_failing": Alert(
        "no sweep has gone through for an hour",
        "Look for the cause of sweep.failed in the logs: the OMS errs, the token's user lacks a right, or the package "
        "list asks another kind of token. Until then only webhooks announce packages.",
        _sweep_failing,
    ),
    "backlog": Alert(
        "packages that were Packed before Autoship first ran wait for your word",
        "Look at them with: autoship packages --reason backlog_to_confirm. Ship them all with: autoship sweep --adopt",
        lambda found: found.count(CaseState.WAITING, Reason.BACKLOG_TO_CONFIRM),
    ),
    "webhooks_silent": Alert(
        "no webhook has come for an hour, and the sweep finds packages",
        "Check that the webhooks are active in the OMS (Settings > Webhooks) and reach this service, and its list of "
        "undelivered ones. Packages still ship, only later.",
        _webhooks_silent,
    ),
    "worker_silent": Alert(
        "no worker is at work, or they do not keep up",
        f"worker.silent in the logs says which. No worker was seen? {IF_UNSEEN} Packages are late? {IF_LATE} "
        "Nothing is lost.",
        None,
    ),
}


def judge(found: Vitals, silence: str | None) -> dict[str, int]:
    """The alerts that are open, and how many packages each concerns, or 1. `silence`: why workers are silent."""
    silent = int(silence is not None)
    counts = {name: silent if alert.count is None else int(alert.count(found)) for name, alert in ALERTS.items()}
    return {name: count for name, count in counts.items() if count > 0}
