"""The command line: `autoship`, the same as `python -m service`. Data goes to stdout, messages to stderr."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import click
import sqlalchemy as sa

from service import __version__, brakes, explain, journal, logs, rules, sandbox, sender, up, worker, worklist
from service import config as configuration
from service.config import Config
from service.database import Database, Transaction
from service.errors import AutoshipError, ConfigurationError, DatabaseOutdated, DatabaseUnavailable, OmsUnreachable
from service.oms import Oms
from service.policy import CaseState, Note, Reason
from service.snapshot import PackageSnapshot

MIGRATION_WAIT_S = 60
_PAGE = 500
_SANDBOX_MARKS = ("OMS_", "OMNITRON_", "SHIP_", "WEBHOOK_", "DATABASE_URL", "DB_")


def run() -> NoReturn:
    """Entry of the console script. Ends the process with the exit code of the contract."""
    try:
        main(standalone_mode=False)
    except click.ClickException as problem:
        problem.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except AutoshipError as problem:
        for line in str(problem).splitlines():
            click.echo(f"autoship: {line}", err=True)
        sys.exit(problem.exit_code)
    sys.exit(0)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="autoship")
def main() -> None:
    """Ships fully packed Akinon OMS packages, once, and says why when it does not."""


def _json_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def _yes_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)


# The processes.


@main.command("up")
@click.option("--sandbox", "in_sandbox", is_flag=True, help="Against a stand-in OMS with sample packages.")
def up_command(in_sandbox: bool) -> None:
    """Migrate, then run web and worker in the foreground."""
    environ = configuration.environment()
    sys.exit(up.serve_sandbox(environ) if in_sandbox else up.serve(environ))


@main.command()
def web() -> None:
    """Run the web process."""
    _ready()
    arguments = ["gunicorn", "--config", os.fspath(_gunicorn_config()), "service.web:create_app()"]
    os.execv(sys.executable, [sys.executable, "-m", *arguments])


@main.command("worker")
def worker_command() -> None:
    """Run a worker process."""
    config, database = _ready()
    worker.run(config, database)
    # Looks that outlived the drain are left to their lease; their threads must not hold the process back.
    sys.stdout.flush()
    os._exit(0)


@main.command()
def migrate() -> None:
    """Create the database or bring it up to date."""
    config = _config()
    logs.configure(config.log_level, config.log_format, config.display_tz)
    up.migrate(Database(config.database_url), config.oms.base_url)
    click.echo("the database is up to date", err=True)


@main.command("sandbox")
@click.option("--port", default=8009, show_default=True, help="Where the stand-in OMS listens on loopback.")
def sandbox_command(port: int) -> None:
    """Run the stand-in OMS alone."""
    sandbox.run_alone(port, click.echo)


# What is known.


@main.command("explain")
@click.argument("package_id", type=click.IntRange(min=1))
@_json_option
def explain_command(package_id: int, as_json: bool) -> None:
    """Say why a package is where it is, and what to do."""
    config, database = _stored()
    told = explain.stored(database, package_id)
    if told is None:
        told = explain.unseen(Oms(config.oms), config.settings, package_id, datetime.now(UTC))
    if as_json:
        _print_json(told)
    else:
        _print_explanation(told, config)


@main.command("packages")
@click.option("--state", type=click.Choice([state.value for state in CaseState]))
@click.option("--reason", type=click.Choice([reason.value for reason in Reason]))
@_json_option
def packages_command(state: str | None, reason: str | None, as_json: bool) -> None:
    """List the packages we know."""
    _, database = _stored()
    after, printed = 0, 0
    while True:
        with database.reading() as transaction:
            rows = worklist.listed(transaction, state, reason, after, _PAGE)
        for row in rows:
            _print_row(row, as_json, header=printed == 0)
            printed += 1
        if len(rows) < _PAGE:
            break
        after = rows[-1]["package_id"]
    click.echo(f"{printed} packages", err=True)


@main.command("config")
@_json_option
def config_command(as_json: bool) -> None:
    """Show the effective configuration without secrets."""
    shown = configuration.redacted(_config())
    if as_json:
        _print_json(shown)
    else:
        for name, value in shown.items():
            click.echo(f"{name:<22} {value}")


@main.group("rules", invoke_without_command=True)
@click.pass_context
def rules_group(context: click.Context) -> None:
    """Show, check or test the rules file."""
    if context.invoked_subcommand is None:
        configured = _config().settings.rules
        for number, rule in enumerate(configured.rules, 1):
            when = ", ".join(f"{name} in {sorted(map(str, values))}" for name, values in rule.when.items())
            click.echo(f"{number}. {rule.name}: {rule.action} when {when or 'always'}")
        click.echo(f"default: {configured.default}")


@rules_group.command("check")
@click.argument("path", required=False)
def rules_check(path: str | None) -> None:
    """Check a rules file (RULES_FILE, or the one given). Exit 1 if it cannot be used."""
    path = path or _environment().get("RULES_FILE")
    if not path:
        raise ConfigurationError("RULES_FILE: not set, and no file given")
    try:
        checked = configuration.load_rules(path)
    except ConfigurationError as problem:
        click.echo(str(problem))
        sys.exit(1)
    click.echo(f"{path}: {len(checked.rules)} rules, default {checked.default}")


@rules_group.command("test")
@click.argument("package_id", type=click.IntRange(min=1))
def rules_test(package_id: int) -> None:
    """Read a package from the OMS and say which rule decides about it."""
    config = _config()
    reading = Oms(config.oms).read(package_id)
    if not isinstance(reading, PackageSnapshot):
        raise OmsUnreachable(f"the OMS did not show package {package_id}: {reading}")
    for name, value in sorted(reading.facts.items()):
        click.echo(f"  {name} = {value!r}")
    ruling = rules.judge(config.settings.rules, reading.facts)
    if isinstance(ruling, rules.FieldMissing):
        click.echo(f"waits: rule {ruling.rule.name!r} asks {ruling.field}, which the package does not have")
    else:
        click.echo(f"{ruling.action}, by {f'rule {ruling.rule.name!r}' if ruling.rule else 'default'}")


# What a person does.


@main.command()
@click.argument("package_ids", type=click.IntRange(min=1), nargs=-1, required=True)
@_yes_option
def recheck(package_ids: Sequence[int], yes: bool) -> None:
    """Look at packages again with fresh budgets, also those that wait for a person."""
    _, database = _stored()
    _confirm(f"recheck {len(package_ids)} packages", package_ids, yes)
    for package_id in package_ids:
        with database.transaction() as transaction:
            done = _recheck(transaction, package_id)
        _report("recheck", package_id, done, "never seen; nothing to recheck")


@main.command()
@click.argument("package_ids", type=click.IntRange(min=1), nargs=-1)
@click.option("--reason", type=click.Choice([reason.value for reason in Reason]), help="All that have this reason.")
@_yes_option
def dismiss(package_ids: Sequence[int], reason: str | None, yes: bool) -> None:
    """Leave packages alone for as long as they stay Packed."""
    if bool(package_ids) == bool(reason):
        raise click.UsageError("name packages or a --reason, one of the two")
    _, database = _stored()
    chosen = list(package_ids) or _with_reason(database, str(reason))
    _confirm(f"dismiss {len(chosen)} packages", chosen, yes)
    for package_id in chosen:
        with database.transaction() as transaction:
            done = worklist.dismiss(transaction, package_id)
            if done:
                journal.note(transaction, package_id, [Note("operator", "dismissed")])
        _report("dismiss", package_id, done, "no open case, or a command is under way")


@main.command()
def pause() -> None:
    """Send no more commands until resume; deliveries are still accepted."""
    _, database = _stored()
    with database.transaction() as transaction:
        changed = brakes.pause(transaction, "by an operator")
    click.echo("paused" if changed else "was paused already", err=True)


@main.command()
def resume() -> None:
    """Allow commands again and close the breaker."""
    _, database = _stored()
    with database.transaction() as transaction:
        changed = brakes.resume(transaction)
        worklist.look_again_at(transaction, Reason.BRAKE)
    click.echo("resumed" if changed else "nothing held commands back", err=True)


@main.command()
@click.argument("file", type=click.File("rb"))
@click.option("--send", "url", help="Send it to this URL and print the answer's status.")
def sign(file: Any, url: str | None) -> None:
    """Print the headers of a signed test delivery of FILE, as the OMS would send it."""
    secrets = configuration.load_secrets(_environment())
    if not secrets:
        raise ConfigurationError("WEBHOOK_SECRETS: required to sign")
    body = file.read()
    headers = sender.headers(_event_type(body), body, secrets[0])
    for name, value in headers.items():
        click.echo(f"{name}: {value}")
    if url is not None:
        status = sender.post(url, body, headers)
        click.echo(f"answered {status}" if status else "no answer", err=True)


# What the commands share.


def _environment() -> Mapping[str, str]:
    """The environment, or the sandbox's of this folder where none of our variables is set."""
    environ = configuration.environment()
    if any(name.startswith(_SANDBOX_MARKS) and value for name, value in environ.items()):
        return environ
    found = up.sandbox_environment()
    if found is None:
        return environ
    click.echo("(no OMS is configured: this is the sandbox of this folder)", err=True)
    return dict(environ) | found


def _config() -> Config:
    return configuration.load(_environment())


def _stored() -> tuple[Config, Database]:
    """Configuration and database for a command that exits 2 on an old schema."""
    config = _config()
    database = Database(config.database_url)
    database.check(config.oms.base_url)
    return config, database


def _ready() -> tuple[Config, Database]:
    """The same for a process, which waits up to 60 s for somebody to migrate."""
    config = configuration.load(configuration.environment())
    logs.configure(config.log_level, config.log_format, config.display_tz)
    database = Database(config.database_url)
    deadline = time.monotonic() + MIGRATION_WAIT_S
    while True:
        try:
            database.check(config.oms.base_url)
        except (DatabaseOutdated, DatabaseUnavailable):
            if time.monotonic() >= deadline:
                raise
            time.sleep(1)
        else:
            return config, database


def _gunicorn_config() -> Path:
    """Beside the installed package, or in the checkout."""
    installed = Path(__file__).with_name("gunicorn.conf.py")
    return installed if installed.exists() else Path(__file__).parents[1] / "deploy" / "gunicorn.conf.py"


def _recheck(transaction: Transaction, package_id: int) -> bool:
    row = worklist.find(transaction, package_id)
    if row is None:
        return False
    if row["reason"] == Reason.ACCEPTED_BUT_STILL_PACKED:
        journal.give_up_open(transaction, package_id)
    journal.note(transaction, package_id, [Note("operator", "asked to look again")])
    return worklist.recheck(transaction, package_id)


def _with_reason(database: Database, reason: str) -> list[int]:
    with database.reading() as transaction:
        return [row["package_id"] for row in worklist.listed(transaction, None, reason, limit=sys.maxsize)]


def _confirm(what: str, package_ids: Sequence[int], yes: bool) -> None:
    if yes or len(package_ids) == 1:
        return
    click.echo(" ".join(str(package_id) for package_id in package_ids), err=True)
    click.confirm(f"{what}?", abort=True, err=True)


def _report(action: str, package_id: int, done: bool, otherwise: str) -> None:
    click.echo(f"{package_id}\t{action if done else otherwise}")


def _event_type(body: bytes) -> str:
    try:
        return str(json.loads(body)["event"]["type"])
    except (ValueError, TypeError, LookupError):
        return "package.status.packed"


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def _print_row(row: sa.RowMapping, as_json: bool, *, header: bool) -> None:
    told = {
        "id": row["package_id"],
        "state": row["state"],
        "reason": row["reason"],
        "held": row["held"],
        "evidence": row["evidence"],
        "episode": row["episode"],
        "number": row["number"],
        "next_check_at": explain.instant(row["due_at"]),
    }
    if as_json:
        _print_json(told)
        return
    if header:
        click.echo(f"{'PACKAGE':>10}  {'STATE':<16} {'REASON':<24} {'EVIDENCE':<14} NUMBER")
    reason, evidence, number = told["reason"] or "", told["evidence"] or "", told["number"] or ""
    click.echo(f"{told['id']:>10}  {told['state']:<16} {reason:<24} {evidence:<14} {number}".rstrip())


def _print_explanation(told: dict[str, Any], config: Config) -> None:
    local = functools.partial(_local, config)
    state = told["state"] or "never seen"
    click.echo(f"Package {told['id']}: {state}" + (f" / {told['reason']}" if told["reason"] else ""))
    click.echo(f"  {told['summary']}")
    click.echo(f"  To do: {told['advice']}")
    if told["next_check_at"]:
        click.echo(f"  Next look: {local(told['next_check_at'])}")
    for check in told["checks"]:
        click.echo(
            f"  {check['verdict']:<8}{check['name']}: expected {check['expected']}; observed {check['observed']}"
        )
    for entry in told["timeline"]:
        click.echo(f"  {local(entry['at'])}  {entry['kind']:<14} {entry['text']}")
    for attempt in told["attempts"]:
        answered = f"{attempt['outcome'] or 'no answer recorded'} {attempt['http_status'] or ''}".strip()
        click.echo(f"  attempt {attempt['attempt_id']}: {answered}, {attempt['resolution'] or 'open'}")
        if attempt["words"]:
            click.echo(f"    the OMS said: {attempt['words']}")


def _local(config: Config, at: str) -> str:
    return datetime.fromisoformat(at).astimezone(config.display_tz).strftime("%d %b %H:%M:%S")
