"""What the doctor makes of what it saw: observations in, findings out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from service import rules
from service.case import Settings, command_for, is_packed, offer_finding
from service.errors import DatabaseOfAnotherOms, DatabaseOutdated, DatabaseUnavailable
from service.hooks import Plan
from service.outcome import (
    CLOCKS_DIFFER,
    BadShape,
    Misconfigured,
    NotFound,
    ReadFailed,
    Reading,
    Throttled,
    Unauthorised,
)
from service.snapshot import Items, PackageSnapshot, TransitionLog
from service.wire import PACKAGE_ITEM_STATUS, PACKAGE_STATUS
from service.words import lasting

DatabaseProblem = DatabaseOutdated | DatabaseOfAnotherOms | DatabaseUnavailable
WORKER_SILENT = timedelta(seconds=60)
NOT_CHECKED = "not checked"
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_OF_A_CONTAINER = frozenset({"overlay", "aufs"})


class Judgement(StrEnum):
    """`unknown`: it could not be seen, or is not there and Autoship does without it."""

    OK = "ok"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


# Each check with why it matters, in the order in which they are made. One that fails leaves those that need it unknown.
CHECKS: Mapping[str, str] = {
    "configuration": "No process starts with a variable it does not understand.",
    "database_reachable": "A delivery is only accepted once it is committed.",
    "database_migrated": "No process works on a schema it does not know.",
    "database_of_this_oms": "Package ids of two OMSs in one database would be mistaken for each other.",
    "database_durable": "What a database forgets is a delivery lost, or an attempt that is not read back.",
    "worker_seen": "Without a worker nothing ships.",
    "commands_held": "What holds commands back holds every package back.",
    "public_url": "The OMS's deliveries come this way; it does not repeat one that was redirected.",
    "oms_answers": "Nothing is commanded without a fresh read.",
    "token": "A token that is not accepted opens the breaker: nothing ships.",
    "read_rights": "Nothing is commanded without a fresh read, and the sweep needs the list.",
    "clock": "The transition log is dated by the OMS's clock and compared with the time of our commands.",
    "list_filter": "A filter the OMS does not know is ignored, and then the sweep stops.",
    "list_order": "Without order and cursor the sweep cannot resume and repeats whole passes.",
    "package_shape": "What cannot be read cannot be judged, and is never commanded.",
    "enum_class": "500 means Packed in PackageStatus and shipped in Omnitron; without the class only the number is "
    "compared.",
    "items": "A package ships only if all of its items are known and Packed.",
    "items_packed": "With a wrong ITEM_PACKED_STATUS nothing ships.",
    "rule_fields": "A package that lacks a field some rule asks waits.",
    "modified_date": "It guards against reads that are older than one before.",
    "commands_shape": "A command the OMS does not offer is not sent, but only if its offer can be read.",
    "command_offered": "With a wrong transition or slug every command is refused.",
    "transition_log": "It proves who shipped a package when an answer was lost; without it a person may be asked.",
    "webhooks": "What no webhook announces waits for the next sweep.",
    "deliveries": "Where signatures are made otherwise than we think, no webhook is accepted.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was seen, and what to do about it where it is not ok."""

    name: str
    judgement: Judgement
    what: str
    what_to_do: str = ""

    @property
    def why(self) -> str:
        """Why it matters."""
        return CHECKS[self.name]

    def told(self) -> dict[str, str]:
        """The finding for programs."""
        told = {"name": self.name, "verdict": self.judgement, "what": self.what, "why": self.why}
        return told | {"what_to_do": self.what_to_do}


def complete(found: Iterable[Finding]) -> list[Finding]:
    """All checks in their order; those without a finding need one that failed, or a package to look at."""
    seen = list(found)
    failed = {finding.name for finding in seen if finding.judgement is not Judgement.OK}
    findings = [finding for finding in seen if finding.judgement is not Judgement.OK or finding.name not in failed]
    names = {finding.name for finding in findings}
    findings += [_unknown(name, NOT_CHECKED, "See the findings above.") for name in CHECKS if name not in names]
    order = list(CHECKS)
    return sorted(findings, key=lambda finding: order.index(finding.name))


# This side.


def configuration(problems: Sequence[str]) -> list[Finding]:
    """One finding for each problem."""
    advice = "Correct it in the environment; `autoship config` shows what was read."
    found = [_problem("configuration", problem, advice) for problem in problems]
    return found or [_ok("configuration", "every variable is understood")]


def database(problem: DatabaseProblem | None) -> list[Finding]:
    """What checking the database and committing to it came to."""
    reachable = _ok("database_reachable", "a commit succeeded")
    migrated = _ok("database_migrated", "it has this version's schema")
    match problem:
        case None:
            this_oms = _ok("database_of_this_oms", "it was made for OMS_BASE_URL")
            return [reachable, migrated, this_oms]
        case DatabaseOutdated():
            return [_problem("database_migrated", str(problem), "Run `autoship migrate`, or `autoship up`.")]
        case DatabaseOfAnotherOms():
            advice = "Correct OMS_BASE_URL, set another DATABASE_URL, or do as that page says."
            return [migrated, _problem("database_of_this_oms", str(problem), advice)]
        case DatabaseUnavailable():  # pragma: no branch - mypy proves that there is no other
            advice = "Check DATABASE_URL, and that the server or disk takes writes."
            return [_problem("database_reachable", str(problem), advice)]


def file_system(path: str, mounts: str) -> str | None:
    """The kind of file system an absolute path lies on, by Linux's list of mounts (proc(5), mountinfo)."""
    found: dict[str, str] = {}
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        place = before.split(" ")[4].replace("\\040", " ").rstrip("/")
        if path.startswith(f"{place}/"):
            found[place] = after.partition(" ")[0]
    return found[max(found, key=len)] if found else None


def durable_file(kind: str | None) -> Finding:
    """Whether SQLite's file outlives this machine's next start, by the kind of its file system."""
    if kind in _IN_MEMORY:
        what = f"a file in memory ({kind}): the next start of this machine begins with nothing"
        return _problem("database_durable", what, "Put DATABASE_URL on a disk, or use PostgreSQL.")
    if kind in _OF_A_CONTAINER:
        what = f"a file within a container ({kind}): it goes with the container"
        return _unknown("database_durable", what, "Put DATABASE_URL on a volume, or use PostgreSQL.")
    if kind is None:
        advice = "See to it that DATABASE_URL is on a disk that lasts."
        return _unknown("database_durable", "a file, on what kind of disk is not known here", advice)
    return _ok("database_durable", f"a file on this machine's disk ({kind})")


def durable_server(fsync: str) -> Finding:
    """Whether what PostgreSQL commits outlives a crash of its machine."""
    if fsync == "off":
        what = "a PostgreSQL server that forgets: fsync is off"
        return _problem("database_durable", what, "Switch it on in PostgreSQL's configuration.")
    return _ok("database_durable", "a PostgreSQL server that writes before it answers")


def worker(seen_at: datetime | None, now: datetime) -> Finding:
    """`seen_at` is the newest heartbeat of any worker."""
    advice = "Start one: `autoship worker`, or `autoship up`."
    if seen_at is None:
        return _problem("worker_seen", "no worker has ever run", advice)
    ago = f"a worker was seen {max(0, int((now - seen_at).total_seconds()))} s ago"
    return _ok("worker_seen", ago) if now - seen_at <= WORKER_SILENT else _problem("worker_seen", ago, advice)


def commands_held(cause: str | None, advice: str, *, live: bool) -> Finding:
    """`cause`: what holds commands back now, or None."""
    if cause is not None:
        return _problem("commands_held", cause, advice)
    return _ok("commands_held", "nothing holds them back" if live else "nothing but MODE=shadow, which sends none")


def no_public_url() -> Finding:
    """It is not configured where the OMS reaches us."""
    return _unknown("public_url", "PUBLIC_URL is not set", "Set it to the address at which the OMS reaches us.")


def public_url(status: int | None, expected: int, *, by_us: bool) -> Finding:
    """`status` is the answer to an empty, unsigned delivery; `by_us`: it is told as Autoship tells it."""
    name = "public_url"
    if status == expected and by_us:
        return _ok(name, f"an empty unsigned delivery is refused ({status})")
    if status is None:
        advice = "Check PUBLIC_URL, DNS, certificate and that the web process runs. Inside a cluster it may be closed."
        return _problem(name, "nothing answers from this machine", advice)
    if 300 <= status < 400:
        return _problem(name, f"it redirects ({status})", "Set PUBLIC_URL to where the redirect leads.")
    if 200 <= status < 300:
        return _problem(name, f"it accepts what nobody signed ({status})", "Check that Autoship answers there.")
    if status == expected:
        advice = "Check that Autoship answers there: what stands in front of it may keep the OMS out, too."
        return _problem(name, f"it is not Autoship that refuses an empty delivery ({status})", advice)
    return _problem(name, f"it answers {status} instead of {expected}", "Check that Autoship answers there.")


# The OMS.


def answers(reading: Reading | None) -> list[Finding]:
    """What came in the place of a list or a package; None where it did come."""
    answered = _ok("oms_answers", "it answers")
    accepted = _ok("token", "it is accepted")
    match reading:
        case None | PackageSnapshot() | BadShape():
            return [answered, accepted, _ok("read_rights", "packages can be read")]
        case ReadFailed():
            advice = "Check OMS_BASE_URL and the network; with OMNITRON_* the login."
            return [_problem("oms_answers", reading.cause, advice)]
        case NotFound():
            return [_problem("oms_answers", "it has no such page (404)", "Check OMS_BASE_URL.")]
        case Misconfigured():
            return [_problem("oms_answers", f"it redirects ({reading.status})", "Correct OMS_BASE_URL.")]
        case Throttled():
            wait_s = reading.retry_after.total_seconds()
            return [_unknown("oms_answers", f"it asks to wait {wait_s:.0f} s (429)", "Try again then.")]
        case Unauthorised(status=401):
            advice = "Check OMS_TOKEN and OMS_AUTH_SCHEME: some of Akinon's pages, that of the list too, say Bearer."
            return [answered, _problem("token", "it is not accepted (401)", advice)]
        case Unauthorised():  # pragma: no branch - mypy proves that there is no other
            advice = "Give the token's user the right to read packages."
            return [answered, accepted, _problem("read_rights", "packages may not be read (403)", advice)]


def clock(ahead: timedelta | None) -> Finding:
    """`ahead`: how far the OMS's clock is ahead of the database's, to the second."""
    if ahead is None:
        return _unknown("clock", "the OMS does not tell the time", "Nothing, if your clocks are synchronised.")
    told = f"the OMS's clock is {abs(ahead.total_seconds()):.0f} s {'ahead' if ahead > timedelta() else 'behind'}"
    if abs(ahead) <= CLOCKS_DIFFER:
        return _ok("clock", told)
    return _problem("clock", told, "Synchronise the clock of the database's machine (NTP).")


def list_filter(listed: Sequence[PackageSnapshot] | BadShape, settings: Settings) -> Finding:
    """Whether only packages in Packed are listed."""
    if isinstance(listed, BadShape):
        return _problem("list_filter", listed.problem, "Check that OMS_BASE_URL is an OMS.")
    strangers = [one for one in listed if not is_packed(one.state, settings)]
    if strangers:
        what = f"package {strangers[0].package_id} is listed and is {strangers[0].state}, not Packed"
        return _problem("list_filter", what, "Find the spelling this OMS knows, for OMS_LIST_FILTER.")
    if not listed:
        return _unknown("list_filter", "no package is in Packed now", "Try again when there is one.")
    return _ok("list_filter", f"packages on its first page, all of them Packed: {len(listed)}")


def list_order(after: int, listed: Sequence[PackageSnapshot] | None) -> Finding:
    """Whether the list behind a cursor is that; None where it was not answered."""
    ids = None if listed is None else [one.package_id for one in listed]
    if ids is not None and ids == sorted(set(ids)) and all(one > after for one in ids):
        return _ok("list_order", "by ascending id behind a cursor")
    return _unknown("list_order", "the OMS ignores or refuses id__gt or sort", "Nothing: sweeps take longer.")


def sample(listed: Sequence[PackageSnapshot], settings: Settings) -> PackageSnapshot | None:
    """The package to look at closely, best one whose items are all Packed."""
    packed = [one for one in listed if is_packed(one.state, settings)]
    whole = [one for one in packed if one.items and set(one.items.counts()) == {settings.item_packed_status}]
    return next(iter(whole or packed), None)


def shape(package: PackageSnapshot | BadShape | NotFound) -> Finding:
    """Whether a single read shows what the list does."""
    match package:
        case PackageSnapshot(state=None):
            return _problem("package_shape", "the package has no readable state", "Report it: the OMS has changed.")
        case PackageSnapshot():
            return _ok("package_shape", f"package {package.package_id} is {package.state}")
        case BadShape():
            return _problem("package_shape", package.problem, "Check that OMS_BASE_URL is an OMS.")
        case NotFound():  # pragma: no branch - mypy proves that there is no other
            return _problem("package_shape", "it is listed, and unknown when read (404)", "Check OMS_BASE_URL.")


def enum_class(package: PackageSnapshot, items: Items | None) -> Finding:
    """Whether states name the enumeration they belong to."""
    states = [(PACKAGE_STATUS, package.state)]
    states += [(PACKAGE_ITEM_STATUS, item.state) for item in (items.items if items else ())]
    named = [(expected, state) for expected, state in states if state is not None]
    strangers = [(expected, state) for expected, state in named if not state.is_of(expected)]
    if strangers:
        expected, state = strangers[0]
        return _problem("enum_class", f"a state is {state}, not {expected}", "Check OMS_BASE_URL, and report it.")
    if any(state.enum_class is None for _, state in named):
        return _unknown("enum_class", "states do not name their enumeration", "Nothing: their numbers are compared.")
    return _ok("enum_class", "states name their enumeration")


def items(carried: Items | None, apart: Items | None) -> Finding:
    """`carried` by the package under packageitem_set, or read `apart` at OMS_ITEMS_PATH; None where not."""
    if carried is not None and carried.problem is None:
        used = "" if apart is None or apart.problem is not None else "; OMS_ITEMS_PATH shows them too"
        return _ok("items", f"items in packageitem_set: {len(carried.items)}{used}")
    if carried is not None:
        return _problem("items", f"packageitem_set: {carried.problem}", "Report it: the OMS has changed.")
    problem = "it was not answered" if apart is None else apart.problem or ("" if apart.items else "it lists no items")
    if problem:
        advice = "Find the spelling this OMS knows, for OMS_ITEMS_PATH."
        return _problem("items", f"the package does not carry its items, and at OMS_ITEMS_PATH {problem}", advice)
    return _ok("items", f"items at OMS_ITEMS_PATH, and no others: {len(apart.items) if apart else 0}")


def items_packed(found: Items, settings: Settings) -> Finding:
    """Whether the items of a Packed package are in the state that is configured to mean so."""
    states = sorted(found.counts())
    if states == [settings.item_packed_status]:
        return _ok("items_packed", f"all items of a Packed package are in {settings.item_packed_status}")
    what = f"the items of a Packed package are in {', '.join(states)}, not all in {settings.item_packed_status}"
    return _unknown("items_packed", what, "If they are packed, ITEM_PACKED_STATUS is wrong. Else nothing.")


def rule_fields(package: PackageSnapshot, settings: Settings) -> Finding:
    """Whether the package shows what the rules ask."""
    asked = sorted({name for rule in settings.rules.rules for name in rule.when})
    missing = [name for name in asked if name not in package.facts]
    if missing:
        what = f"the package does not show {', '.join(missing)}"
        return _problem("rule_fields", what, "Change the rules in RULES_FILE that ask it.")
    return _ok("rule_fields", f"the package shows {', '.join(asked)}" if asked else "no rule asks for a field")


def modified_date(package: PackageSnapshot) -> Finding:
    """Whether the package is dated."""
    if package.modified_at is None:
        return _unknown("modified_date", "the package has none", "Nothing: Autoship does without it.")
    return _ok("modified_date", "the package has one; whether it changes with the state cannot be seen")


def offer(package: PackageSnapshot, settings: Settings) -> list[Finding]:
    """Whether the OMS's offer can be read, and our command is in it."""
    advice = "Nothing; no command is held back for it. Compare SHIP_* with Settings > State Transitions yourself."
    if package.offered is None:
        unread = _unknown("commands_shape", "no commands in a shape we recognise", advice)
        return [unread, _unknown("command_offered", "the OMS's offer cannot be read", advice)]
    readable = _ok("commands_shape", f"commands that name themselves: {len(package.offered)}")
    if not is_packed(package.state, settings):
        return [readable, _unknown("command_offered", "the package is no longer Packed", "Try again.")]
    command = command_for(rules.judge(settings.rules, package.facts), settings)
    check, _ = offer_finding(package.offered, command, settings)
    if check.verdict == "pass":
        return [readable, _ok("command_offered", f"{check.expected} is offered")]
    if check.verdict == "unknown":
        return [readable, _unknown("command_offered", check.observed, advice)]
    mend = "Compare SHIP_TRANSITION_ID and SHIP_SLUG with Settings > State Transitions in the OMS."
    return [readable, _problem("command_offered", f"{check.expected}: {check.observed}", mend)]


def transition_log(log: TransitionLog | Reading, settings: Settings) -> Finding:
    """What the log showed of a package that is in Packed, or why it showed nothing."""
    advice = "Give the token's user the right to read it, or correct OMS_LOGS_PATH."
    if isinstance(log, Unauthorised) and log.status == 401:
        advice = "Nothing, if packages can be read: Akinon's page of the log asks for a Bearer token."
        return _unknown("transition_log", "the token is not accepted there (401)", advice)
    if not isinstance(log, tuple):
        return _unknown("transition_log", "it does not answer", advice)
    if not log:
        return _unknown("transition_log", "it shows no transition of the package", advice)
    if settings.command.transition_id is None:
        advice = "Set SHIP_TRANSITION_ID too: the log's slug may be that of all transitions."
        return _unknown("transition_log", "it names transitions by number, and only SHIP_SLUG is set", advice)
    return _ok("transition_log", f"transitions of the package: {len(log)}")


def webhooks(plan: Plan | str) -> Finding:
    """What registering would change, or why that is not known."""
    if isinstance(plan, str):
        return _unknown(
            "webhooks",
            plan,
            "Set PUBLIC_URL and run `autoship register --check`, or compare Settings > Webhooks in the OMS yourself.",
        )
    wrong = [f"{step.event_type}: {step.action}" for step in plan.changes]
    wrong += [f"{event_type}: unknown to the OMS" for event_type in plan.unknown]
    if wrong:
        return _problem("webhooks", "; ".join(wrong), "Run `autoship register`.")
    return _ok("webhooks", f"{len(plan.steps)} are registered as they should be")


def deliveries(newest_at: datetime | None, now: datetime) -> Finding:
    """`newest_at` is when the newest delivery that was accepted came."""
    if newest_at is None:
        advice = "Look again after the next packing; then for delivery.rejected in the logs of the web process."
        return _unknown("deliveries", "none has been accepted yet", advice)
    return _ok("deliveries", f"the newest was accepted {lasting(now - newest_at)} ago")


def _ok(name: str, what: str) -> Finding:
    return Finding(name, Judgement.OK, what)


def _problem(name: str, what: str, what_to_do: str) -> Finding:
    return Finding(name, Judgement.PROBLEM, what, what_to_do)


def _unknown(name: str, what: str, what_to_do: str) -> Finding:
    return Finding(name, Judgement.UNKNOWN, what, what_to_do)
