"""The command line: `autoship`, the same as `python -m service`. Data goes to stdout, messages to stderr."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import click
import sqlalchemy as sa

from service import (
    __version__,
    doctor,
    explain,
    hooks,
    inbox,
    logs,
    operator,
    register,
    retention,
    rules,
    sandbox,
    sender,
    shadow,
    up,
    worker,
    worklist,
)
from service import config as configuration
from service.case import CaseState, Reason
from service.config import Config
from service.database import HEAD, Database
from service.diagnosis import NOT_CHECKED, Finding, Judgement
from service.errors import AutoshipError, ConfigurationError, DatabaseOutdated, DatabaseUnavailable, OmsUnreachable
from service.hooks import Plan
from service.inbox import Receipt
from service.login import credentials
from service.oms import Oms, why_unread
from service.operator import Acted, Word
from service.outcome import NotFound
from service.rules import Rule, Rules
from service.snapshot import PackageSnapshot
from service.sweep import FILTER_IGNORED, RETRY_AFTER, Sweeper, Swept
from service.wire import MAX_ID
from service.words import Words, counted

MIGRATION_WAIT_S = 60.0
# Longer than what is left of a killed web process holds on to its port: up to 1 s until it notices, then
# `graceful_timeout` of deploy/gunicorn.conf.py while a client is still sending.
PORT_WAIT_S = 10.0
_SWEEP_WAIT_S = 2.0
_PAGE = 500
_PREVIEW = 20
_HTTP_URL = re.compile(r"https?://[^/?#:\s]", re.IGNORECASE)


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Carries out what is asked, and ends the process with the exit code of the contract."""
    _fill_closed_streams()
    logging.getLogger("autoship").addHandler(logging.NullHandler())  # commands tell in words of their own
    os.umask(0o077)  # what SQLite holds is for nobody else on this machine
    exit_code = _carry_out(list(sys.argv[1:] if arguments is None else arguments))
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _write_to_nobody()
    sys.exit(exit_code)


def _carry_out(arguments: list[str]) -> int:
    try:
        with main.make_context("autoship", arguments) as context:
            main.invoke(context)
    except click.exceptions.Exit as asked:
        return asked.exit_code
    except click.ClickException as problem:
        problem.show()
        return 2
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        _write_to_nobody()
    except AutoshipError as problem:
        for line in str(problem).splitlines():
            click.echo(f"autoship: {line}", err=True)
        return problem.exit_code
    except Exception as problem:  # noqa: BLE001 - the last resort: a defect is told in one line that quotes nothing
        click.echo(f"autoship: internal error: {type(problem).__name__} at {logs.trace_of(problem)}", err=True)
        return 4
    return 0


def _fill_closed_streams() -> None:
    """A closed stdout would give its number to the next file that is opened, and what is printed with it."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _write_to_nobody() -> None:
    """Whoever read our output has seen enough: `autoship packages | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="autoship")
def main() -> None:
    """Ships fully packed Akinon OMS packages, once, and says why when it does not."""


def _or_of_the_group(context: click.Context, _: click.Parameter, given: bool) -> bool:
    return given or (context.parent is not None and context.parent.params.get("as_json", False))


_PACKAGE_ID = click.IntRange(1, MAX_ID)
_REASON = click.Choice([reason.value for reason in Reason])
# A group hands it down to its commands.
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.", callback=_or_of_the_group)
_reason_option = click.option("--reason", type=_REASON, metavar="REASON", help="All that have this reason.")
_why_option = click.option("--why", default="", help="Kept in the timeline.")
_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


# The processes.


@main.command("up")
@click.option("--sandbox", "in_sandbox", is_flag=True, help="Against a stand-in OMS with sample packages.")
@click.pass_context
def up_command(context: click.Context, in_sandbox: bool) -> None:
    """Migrate, then run web and worker in the foreground."""
    environ = configuration.environment()
    context.exit(up.serve_sandbox(environ, _say_on_terminal) if in_sandbox else up.serve(environ))


@main.command()
def web() -> None:
    """Run the web process."""
    config, _ = _ready()
    up.refuse_taken_port(config.port, "PORT", within_s=PORT_WAIT_S)
    # gunicorn has no handlers yet for a second: until its configuration lets them through, signals wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    # Beside the installed package, or in the checkout.
    installed = Path(__file__).with_name("gunicorn.conf.py")
    settings = installed if installed.exists() else Path(__file__).parents[1] / "deploy" / "gunicorn.conf.py"
    gunicorn = ["gunicorn", "--config", os.fspath(settings), "--bind", f"0.0.0.0:{config.port}"]
    os.execv(sys.executable, [sys.executable, "-m", *gunicorn, "service.web:create_app()"])


@main.command("worker")
def worker_command() -> None:
    """Run a worker process."""
    config, database = _ready()
    worker.run(config, database)
    # Looks that outlived the drain are left to their lease; their threads must not hold the process back.
    os._exit(0)


@main.command()
def migrate() -> None:
    """Create the database or bring it up to date."""
    before = up.prepare(_config())
    changed = f": its schema was {before} and is {HEAD} now" if before else ""
    click.echo(f"the database is up to date{changed}", err=True)


@main.command("sandbox")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8009,
    show_default=True,
    help="Where the stand-in OMS listens on loopback.",
)
@click.option("--webhooks", "webhooks_url", help="Send the sample packages' webhooks here; nothing need be registered.")
@click.option(
    "--pace",
    "pace_s",
    type=click.FloatRange(0.01, 3600),
    default=5.0,
    show_default=True,
    help="Seconds from one packed package to the next.",
)
@_json_option
def sandbox_command(port: int, webhooks_url: str | None, pace_s: float, as_json: bool) -> None:
    """Run the stand-in OMS alone, and print the variables that reach it.

    Without --webhooks a package is packed every few seconds, webhooks go where they are registered (autoship
    register), and people ship what nobody else has shipped after six more.
    """

    def say(variables: Mapping[str, str]) -> None:
        _print(variables, "\n".join(f"{name}={value}" for name, value in variables.items()), as_json)
        sys.stdout.flush()

    up.refuse_taken_port(port, "--port", "127.0.0.1")
    sandbox.run_alone(port, webhooks_url, pace_s, say)


# What is known.


@main.command("explain")
@click.argument("package_id", type=_PACKAGE_ID)
@_json_option
def explain_command(package_id: int, as_json: bool) -> None:
    """Say why a package is where it is, and what to do."""
    config, database = _stored()
    told = explain.stored(database, package_id)
    if told is None:
        with closing(_oms(config, database)) as oms:
            told = explain.unseen(database, oms, config.settings, package_id)
    _print(told, _explanation(told, config.display_tz), as_json)


@main.command("packages")
@click.option("--state", type=click.Choice([state.value for state in CaseState]))
@click.option("--reason", type=_REASON, metavar="REASON")
@_json_option
def packages_command(state: str | None, reason: str | None, as_json: bool) -> None:
    """List the packages we know."""
    _, database = _stored()
    printed = 0
    for printed, row in enumerate(_listed(database, state, reason), 1):
        if printed == 1 and not as_json:
            click.echo(explain.TABLE_HEADER)
        _print(explain.listed(row), explain.table_line(row), as_json)
    click.echo(counted(printed, "package"), err=True)


@main.command("shadow-report")
@_json_option
@click.pass_context
def shadow_report(context: click.Context, as_json: bool) -> None:
    """Compare what MODE=shadow would have shipped with what people did. Exit 1 if they disagree."""
    config, database = _stored()
    told = shadow.summary(shadow.report(database, config.settings))
    _print(told, _comparison(told, config.display_tz), as_json)
    context.exit(1 if told["disagreements"] else 0)


@main.command("config")
@_json_option
def config_command(as_json: bool) -> None:
    """Show the effective configuration without secrets."""
    shown = configuration.redacted(_environment())
    _print(shown, "\n".join(f"{name:<22} {value}".rstrip() for name, value in shown.items()), as_json)


@main.group("rules", invoke_without_command=True)
@_json_option
@click.pass_context
def rules_group(context: click.Context, as_json: bool) -> None:
    """Show, check or test the rules file."""
    if context.invoked_subcommand is not None:
        return
    configured = _config().settings.rules
    text = ""
    for number, rule in enumerate(configured.rules, 1):
        when = " and ".join(f"{name} is {' or '.join(sorted(map(str, values)))}" for name, values in rule.when.items())
        text += f"{number}. {rule.name}: {rule.action} when {when or 'always'}\n"
    told = {"rules": [_told_rule(rule) for rule in configured.rules], "default": configured.default}
    _print(told, f"{text}default: {configured.default}", as_json)


@rules_group.command("check")
@click.argument("path", required=False)
@_json_option
@click.pass_context
def rules_check(context: click.Context, path: str | None, as_json: bool) -> None:
    """Check a rules file (RULES_FILE, or the one given). Exit 1 if it cannot be used."""
    path = path or configuration.rules_file(_environment())
    if not path:
        raise ConfigurationError("RULES_FILE: not set, and no file given")
    checked, problems = Rules(), list[str]()
    try:
        checked = configuration.load_rules(path)
    except ConfigurationError as problem:
        problems.extend(problem.problems)
    text = "\n".join(problems) or f"{path}: {counted(len(checked.rules), 'rule')}, default {checked.default}"
    _print({"path": path, "rules": len(checked.rules), "problems": problems}, text, as_json)
    context.exit(1 if problems else 0)


@rules_group.command("test")
@click.argument("package_id", type=_PACKAGE_ID)
@_json_option
def rules_test(package_id: int, as_json: bool) -> None:
    """Read a package from the OMS and say which rule decides about it."""
    config, database = _stored()
    with closing(_oms(config, database)) as oms:
        reading = oms.read(package_id)
    if isinstance(reading, NotFound):
        raise click.ClickException(f"the OMS does not know package {package_id}")
    if not isinstance(reading, PackageSnapshot):
        raise OmsUnreachable(f"the OMS did not show package {package_id}: {why_unread(reading)}")
    ruling = rules.judge(config.settings.rules, reading.facts)
    action, missing = ("wait", ruling.field) if isinstance(ruling, rules.FieldMissing) else (ruling.action, None)
    by = ruling.rule.name if ruling.rule else None
    facts = "".join(f"  {name:<24} {value}\n" for name, value in sorted(reading.facts.items()))
    asks = f", which asks {missing}; the package does not have it" if missing else ""
    told = {"id": package_id, "action": action, "rule": by, "missing": missing, "facts": reading.facts}
    _print(told, f"{facts}{action}, by {f'rule {by!r}' if by else 'default'}{asks}", as_json)


@main.command("doctor")
@_json_option
@click.pass_context
def doctor_command(context: click.Context, as_json: bool) -> None:
    """Check everything that can be checked without commanding anything. Exit 1 if there is a problem."""
    findings = doctor.examine(_environment())
    for finding in findings:
        _print(finding.told(), _finding(finding), as_json)
    counts = {judgement: sum(one.judgement is judgement for one in findings) for judgement in Judgement}
    click.echo(", ".join(f"{count} {judgement}" for judgement, count in counts.items()), err=True)
    context.exit(1 if counts[Judgement.PROBLEM] else 0)


# What a person does.


@main.command()
@click.argument("package_ids", type=_PACKAGE_ID, nargs=-1)
@_reason_option
@_why_option
@_yes_option
@_json_option
def recheck(package_ids: Sequence[int], reason: str | None, why: str, yes: bool, as_json: bool) -> None:
    """Look at packages with fresh budgets: new ones, waiting ones, and those that wait for a person."""
    database, chosen = _chosen("Recheck", package_ids, reason, tuple(CaseState), yes)
    for package_id in chosen:
        _report(package_id, operator.recheck(database, package_id, Word(why=why), reason), as_json)


@main.command()
@click.argument("package_ids", type=_PACKAGE_ID, nargs=-1)
@_reason_option
@_why_option
@_yes_option
@_json_option
def dismiss(package_ids: Sequence[int], reason: str | None, why: str, yes: bool, as_json: bool) -> None:
    """Leave packages alone for as long as they stay Packed."""
    database, chosen = _chosen("Dismiss", package_ids, reason, worklist.DISMISSIBLE, yes)
    for package_id in chosen:
        _report(package_id, operator.dismiss(database, package_id, Word(why=why), reason), as_json)


@main.command()
@_why_option
@_json_option
def pause(why: str, as_json: bool) -> None:
    """Send no more commands until resume; deliveries are still accepted."""
    _, database = _stored()
    _report_brakes(True, operator.pause(database, Word(why=why)), as_json)


@main.command()
@_why_option
@_json_option
def resume(why: str, as_json: bool) -> None:
    """Allow commands again and close the breaker."""
    _, database = _stored()
    _report_brakes(False, operator.resume(database, Word(why=why)), as_json)


@main.command("sweep")
@click.option("--dry-run", is_flag=True, help="Only list what would be looked at; exit 1 if there is anything.")
@click.option("--adopt", is_flag=True, help="Take on all that is Packed, also what no webhook announced.")
@_yes_option
@_json_option
def sweep_command(dry_run: bool, adopt: bool, yes: bool, as_json: bool) -> None:
    """List all packages in Packed now, and have those looked at that no webhook announced."""
    if dry_run and adopt:
        raise click.UsageError("--dry-run and --adopt exclude each other: --adopt shows what it would do and asks")
    config, database = _stored()
    with closing(_oms(config, database)) as oms:
        # A stale token in somebody's shell must not hold back the workers.
        sweeper = Sweeper(config, database, oms, _pause, _told_listed, may_brake=False)
        if adopt:
            preview = sweeper.dry_run(adopt=True)
            for one in preview.found:
                click.echo(f"{one.package_id:>10}  {one.why}", err=True)
            _conclude(preview)
            if not preview.found:
                return
            _ask(f"adopt {counted(len(preview.found), 'package')}", yes)
        swept = sweeper.dry_run() if dry_run else _sweep_at_once(sweeper, adopt)
        for one in swept.found:
            _report(one.package_id, Acted(not dry_run, one.why), as_json)
        _conclude(swept)
    if dry_run and swept.found:
        sys.exit(1)


@main.command("register")
@click.option("--check", is_flag=True, help="Only show what differs; exit 1 if anything does.")
@click.option("--apply", "at_once", is_flag=True, help="Make it so without asking.")
@_yes_option
@_json_option
@click.pass_context
def register_command(context: click.Context, check: bool, at_once: bool, yes: bool, as_json: bool) -> None:
    """Register the webhooks the OMS should send us, and mend those that are there."""
    if check and at_once:
        raise click.UsageError("--check and --apply exclude each other")
    config, database = _stored()
    target = register.wanted(config)
    with closing(_oms(config, database)) as oms:
        plan = register.plan(oms, target)
        _print_plan(target.target_url, plan, as_json)
        if check:
            context.exit(1 if plan.changes or plan.unknown else 0)
        if plan.changes:
            _ask(f"change {counted(len(plan.changes), 'webhook')} at {config.oms.base_url}", yes or at_once)
            register.apply(oms, target, plan)
            click.echo("done, and read back", err=True)
    if plan.unknown:
        raise ConfigurationError(f"the OMS knows no event type {', '.join(plan.unknown)}: not registered")


@main.command()
@_json_option
def prune(as_json: bool) -> None:
    """Delete now what is older than RETENTION_DAYS, as a worker does every hour."""
    config, database = _stored()
    deleted = retention.prune(database, config.retention, _pause)
    _print(deleted, "\n".join(f"{name:<12} {rows}" for name, rows in deleted.items()), as_json)


# Deliveries nobody can work with.


@main.group("quarantine", invoke_without_command=True)
@_json_option
@click.pass_context
def quarantine_group(context: click.Context, as_json: bool) -> None:
    """List, show or retry authentic deliveries that cannot be worked with."""
    if context.invoked_subcommand is None:
        context.invoke(quarantine_list, as_json=as_json)


@quarantine_group.command("list")
@_json_option
def quarantine_list(as_json: bool) -> None:
    """List them with the reason of each."""
    config, database = _stored()
    with database.reading() as transaction:
        rows = inbox.quarantined(transaction)
    for row in rows:
        told = {"id": row["delivery_id"], "received_at": explain.instant(row["received_at"])}
        told |= {name: row[name] for name in ("reason", "event_type", "seen", "body_bytes")}
        _print(told, _quarantine_line(row, config.display_tz), as_json)
    click.echo(counted(len(rows), "delivery", "deliveries"), err=True)


@quarantine_group.command("show")
@click.argument("delivery_id", type=_PACKAGE_ID)
@_json_option
def quarantine_show(delivery_id: int, as_json: bool) -> None:
    """Print the body of one."""
    _, database = _stored()
    with database.reading() as transaction:
        body = inbox.kept_body(transaction, delivery_id)
    if body is None:
        raise click.ClickException(f"there is no body of a quarantined delivery {delivery_id}")
    click.echo("a webhook's body may hold personal data: keep it to yourself", err=True)
    _print({"id": delivery_id, "body": body.decode(errors="replace")}, body, as_json)


@quarantine_group.command("retry")
@click.argument("delivery_ids", type=_PACKAGE_ID, nargs=-1, required=True)
@_yes_option
@_json_option
def quarantine_retry(delivery_ids: Sequence[int], yes: bool, as_json: bool) -> None:
    """Read bodies again as if they were delivered now, as after an upgrade."""
    config, database = _stored()
    if len(delivery_ids) > 1:
        with database.reading() as transaction:
            rows = inbox.quarantined(transaction)
        lines = {row["delivery_id"]: _quarantine_line(row, config.display_tz) for row in rows}
        _preview([lines.get(one, f"{one:>10}  not in quarantine") for one in delivery_ids], len(delivery_ids))
        _ask(f"retry {len(delivery_ids)} deliveries", yes)
    for delivery_id in delivery_ids:
        receipt = inbox.retry(database, delivery_id, config.settings)
        done = receipt is not None and receipt.status != "quarantined"
        _report(delivery_id, Acted(done, _became(receipt)), as_json)


@main.command()
@click.argument("file", type=click.File("rb"))
@click.option("--send", "url", help="Send it to this URL and print the answer's status.")
@_json_option
def sign(file: BinaryIO, url: str | None, as_json: bool) -> None:
    """Print the headers of a signed test delivery of FILE, as the OMS would send it."""
    if url is not None and not _HTTP_URL.match(url):
        raise click.UsageError("--send: must be a URL that begins with http:// or https:// and names a host")
    required = configuration.load_authentication(_environment())
    body = file.read()
    headers = sandbox.headers(hooks.settings(required, {}), _event_type(body), body)
    answer = None if url is None else sender.post(url, body, headers)
    status = None if answer is None else answer.status
    text = "\n".join(f"{name}: {value}" for name, value in headers.items())
    _print({"headers": headers, "answered": status}, text, as_json)
    if status is not None:
        click.echo(f"answered {status}", err=True)
    elif url is not None:
        raise click.ClickException(f"no answer from {url}")


# What the commands share.


def _quarantine_line(row: sa.RowMapping, zone: tzinfo) -> str:
    body = "body not kept" if row["body_bytes"] is None else f"{row['body_bytes']} bytes"
    at = _local(zone, row["received_at"].isoformat())
    return f"{row['delivery_id']:>10}  {at}  {row['reason']:<16} {body:<13}  {row['event_type'] or ''}".rstrip()


def _became(receipt: Receipt | None) -> str:
    """What came of a retried delivery."""
    if receipt is None:
        return "no such delivery in quarantine, or its body was not kept"
    if receipt.status == "quarantined":
        return f"still cannot be worked with: {receipt.reason}"
    if receipt.status == "ignored":
        return f"package {receipt.package_id}: ignored, {receipt.reason}"
    return f"package {receipt.package_id} is looked at"


def _environment() -> Mapping[str, str]:
    """The environment, or the sandbox's of this folder where nothing is set that speaks of anything real."""
    environ = configuration.environment()
    found = up.sandbox_environment(environ)
    if found is None:
        return environ
    name = up.not_of_a_sandbox(environ)
    if name is None:
        click.echo("(no OMS is configured: this is the sandbox of this folder)", err=True)
        return found
    if not any(environ.get(base) for base in ("OMS_BASE_URL", "OMS_BASE_URL_FILE")):
        click.echo(f"({name} is set: this is not the sandbox of this folder)", err=True)
    return environ


def _config() -> Config:
    return configuration.load(_environment())


def _stored() -> tuple[Config, Database]:
    """Configuration and database for a command that exits 2 on an old schema."""
    config = _config()
    database = Database(config.database_url)
    database.check(config.oms.base_url)
    return config, database


def _chosen(
    action: str, named: Sequence[int], reason: str | None, states: Sequence[CaseState], yes: bool
) -> tuple[Database, Sequence[int]]:
    """The database, and the packages to act on: those named, or all in these states that have the reason.

    More than one are shown first, and somebody must say yes.
    """
    if bool(named) == bool(reason):
        raise click.UsageError("name packages or a --reason, one of the two")
    _, database = _stored()
    if len(named) == 1:
        return database, named
    chosen = named or [row["package_id"] for row in _listed(database, None, reason) if row["state"] in states]
    with database.reading() as transaction:
        rows = [(package_id, worklist.find(transaction, package_id)) for package_id in chosen[:_PREVIEW]]
    lines = [explain.table_line(row) if row else f"{package_id:>10}  new to us" for package_id, row in rows]
    click.echo(explain.TABLE_HEADER, err=True)
    _preview(lines, len(chosen))
    if chosen:
        _ask(f"{action} {counted(len(chosen), 'package')}", yes)
    return database, chosen


def _ready() -> tuple[Config, Database]:
    """The same for a process, which waits for somebody to migrate. SIGTERM and SIGINT end it meanwhile."""
    worker.on_signals(lambda: sys.exit(0))
    config = configuration.load(configuration.environment())
    logs.configure(config)
    database = Database(config.database_url)
    wait_until_migrated(database, config.oms.base_url, MIGRATION_WAIT_S)
    return config, database


def wait_until_migrated(database: Database, oms_base_url: str, within_s: float) -> None:
    """Returns once the schema fits. Raises `DatabaseOutdated` or `DatabaseUnavailable` where it never does."""
    deadline, told = time.monotonic() + within_s, False
    while True:
        try:
            database.check(oms_base_url)
        except (DatabaseOutdated, DatabaseUnavailable) as problem:
            if time.monotonic() >= deadline:
                raise
            if not told:
                click.echo(f"autoship: waiting up to {within_s:g} s, as {problem}", err=True)
            told = True
            time.sleep(min(1.0, within_s))
        else:
            return


def _listed(database: Database, state: str | None, reason: str | None) -> Iterator[sa.RowMapping]:
    """All packages with this state and reason, a page at a time."""
    after = 0
    while True:
        with database.reading() as transaction:
            rows = worklist.listed(transaction, state, reason, after, _PAGE)
        yield from rows
        if len(rows) < _PAGE:
            return
        after = rows[-1]["package_id"]


def _preview(lines: Sequence[str], of: int) -> None:
    """Shows the first lines of what would be acted on."""
    for line in lines[:_PREVIEW]:
        click.echo(line, err=True)
    if of > _PREVIEW:
        click.echo(f"{'…':>10}  and {of - _PREVIEW} more", err=True)


def _ask(what: str, yes: bool) -> None:
    """Ends the command unless somebody says yes."""
    if yes:
        return
    click.echo(f"{what}? [y/N] ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer:
        raise click.UsageError("nobody is there to answer; add --yes")
    if answer.strip().lower() not in ("y", "yes"):
        click.echo("nothing was changed", err=True)
        click.get_current_context().exit(0)


def _report(package_id: int, acted: Acted, as_json: bool) -> None:
    _print({"id": package_id, "done": acted.done, "text": acted.text}, f"{package_id:>10}  {acted.text}", as_json)


def _oms(config: Config, database: Database) -> Oms:
    return Oms(config.oms, credentials(config.oms, database))


def _pause(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _told_listed(listed: int) -> None:
    click.echo(f"listed {listed}", err=True)


def _sweep_at_once(sweeper: Sweeper, adopt: bool) -> Swept:
    while (swept := sweeper.sweep_if_due(at_once=True, adopt=adopt)) is None:
        rest = RETRY_AFTER.total_seconds()
        click.echo(f"another process sweeps, or a pass failed within the last {rest:g} s; waiting", err=True)
        time.sleep(_SWEEP_WAIT_S)
    return swept


def _conclude(swept: Swept) -> None:
    """Says how much was found. Raises `ConfigurationError` or `OmsUnreachable` where not all could be listed."""
    if swept.problem is None:
        click.echo(f"{counted(swept.listed, 'package')} in Packed, {len(swept.found)} to look at", err=True)
    elif swept.problem.startswith(FILTER_IGNORED):
        raise ConfigurationError(f"OMS_LIST_FILTER: the OMS ignores it ({swept.problem})")
    else:
        raise OmsUnreachable(swept.problem)


def _report_brakes(paused: bool, acted: Acted, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"paused": paused, "changed": acted.done}))
    click.echo(acted.text, err=True)


def _event_type(body: bytes) -> str:
    """What stands in the body, where a header can hold it: a test delivery may be any bytes."""
    try:
        found = json.loads(body)["event"]["type"]
    except (ValueError, TypeError, LookupError, RecursionError):
        found = None
    plain = isinstance(found, str) and found.isascii() and found.isprintable() and found.strip() == found != ""
    return found if plain else "package.status.packed"


def _told_rule(rule: Rule) -> dict[str, object]:
    return {
        "name": rule.name,
        "when": {field: sorted(values, key=str) for field, values in rule.when.items()},
        "action": rule.action,
        "transition_id": rule.transition_id,
        "slug": rule.slug,
        "grace_s": None if rule.grace is None else rule.grace.total_seconds(),
    }


def _finding(finding: Finding) -> str:
    text = f"{finding.judgement:<8} {finding.name:<22} {finding.what}"
    if finding.judgement is Judgement.OK or finding.what == NOT_CHECKED:
        return text
    return f"{text}\n{'':<31} Why it matters: {finding.why}\n{'':<31} What to do: {finding.what_to_do}"


def _print_plan(target_url: str, plan: Plan, as_json: bool) -> None:
    """With the names of the fields that are sent, never what is in them."""
    steps, lines, budget = [], [target_url], hooks.loss_budget()
    for step in plan.steps:
        named = {"event_type": step.event_type, "action": step.action, "hook_id": step.hook_id}
        steps.append(named | {"fields": sorted(step.values)})
        what = ", ".join(sorted(step.values)) if step.hook_id is not None else ""
        lines.append(f"  {step.action:<10} {step.event_type:<28} {what}".rstrip())
    lines += [f"  {'unknown':<10} {one:<28} the OMS's registry does not list it" for one in plan.unknown]
    told = {"target_url": target_url, "webhooks": steps, "unknown": plan.unknown, "loss_budget": budget}
    _print(told, "\n".join([*lines, budget]), as_json)


def _say_on_terminal(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(text, err=True)


def _print(told: object, text: str | bytes, as_json: bool) -> None:
    click.echo(json.dumps(told, ensure_ascii=False) if as_json else text)


def _explanation(told: dict[str, Any], zone: tzinfo) -> str:
    state = told["state"] or "new to us"
    lines = [f"Package {told['id']}: {state}" + (f" / {told['reason']}" if told["reason"] else "")]
    lines.append(f"  {told['summary']}")
    if told.get("would"):
        lines.append(f"  On a first look we would: {told['would']}")
    lines.append(f"  Advice: {told['advice']}")
    if told["next_check_at"]:
        is_past = datetime.fromisoformat(told["next_check_at"]) < datetime.now(UTC)
        lines.append(f"  {'Due since' if is_past else 'Next look'}: {_local(zone, told['next_check_at'])}")
    checks = [(check["verdict"], check["name"], check["expected"], check["observed"]) for check in told["checks"]]
    timeline = [(_local(zone, entry["at"]), entry["kind"], entry["text"]) for entry in told["timeline"]]
    lines += _table("Checks, as last judged", ("", "CHECK", "EXPECTED", "OBSERVED"), checks)
    lines += _table("Timeline", (), timeline)
    lines += _table("Commands", (), [_attempt_cells(zone, attempt) for attempt in told["attempts"]])
    return "\n".join([*lines, _of_zone(zone)])


def _comparison(told: dict[str, Any], zone: tzinfo) -> str:
    since = f" since {_local(zone, told['since'])}" if told["since"] else ""
    lines = [
        f"Would have shipped{since}: {told['would_ship']}",
        f"  {told['agreed']:>6}  agreed: people shipped them too",
        f"  {told['disagreed']:>6}  disagreed: they left Packed otherwise, or a person dismissed them",
        f"  {told['still_packed']:>6}  still Packed: nobody has acted yet",
        f"  {told['withdrawn']:>6}  withdrawn: a check failed, or live mode took them up, before anybody acted",
    ]
    if told["agreed"]:
        median, total = (timedelta(seconds=round(told["saved_s"][name])) for name in ("median", "total"))
        lines.append(f"Time saved on those agreed: {median} for the median package, {total} in all")
    rows = [
        (str(one["id"]), _local(zone, one["would_ship_at"]), _local(zone, one["at"]), one["what"])
        for one in told["disagreements"]
    ]
    lines += _table("Disagreements", ("PACKAGE", "WOULD SHIP", "ENDED", "WHAT HAPPENED"), rows)
    if rows:
        lines.append("\nWhere the state it left for means shipped, name that state in SHIPPED_STATUSES.")
    return "\n".join([*lines, _of_zone(zone)])


def _attempt_cells(zone: tzinfo, attempt: Mapping[str, Any]) -> tuple[str, ...]:
    answered = f"{attempt['outcome'] or 'no answer recorded'} {attempt['http_status'] or ''}".strip()
    said = f"the OMS said: {attempt['words']}" if attempt["words"] else ""
    number, at = f"attempt {attempt['attempt_id']}", _local(zone, attempt["started_at"])
    return at, number, answered, attempt["resolution"] or "open", said


def _table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows under a title, each column as wide as its widest cell. Nothing where there is none."""
    if not rows:
        return []
    cells = [header, *rows] if header else rows
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [f"\n{title}", *("  ".join(["", *map(str.ljust, row, widths)]).rstrip() for row in cells)]


def _of_zone(zone: tzinfo) -> str:
    """The logs beside it are in UTC."""
    return f"\nTimes are of {Words(zone, datetime.now(UTC)).zone_name}."


def _local(zone: tzinfo, at: str) -> str:
    return datetime.fromisoformat(at).astimezone(zone).strftime("%d %b %Y %H:%M:%S")
