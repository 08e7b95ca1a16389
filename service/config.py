"""The environment, read and checked in one place. All problems are reported together."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo

from service import rules
from service.delivery import Authentication
from service.errors import ConfigurationError, RulesError
from service.outcome import Command
from service.policy import Settings
from service.rules import Rules

SQLITE_DEFAULT = "sqlite:///var/autoship.db"
SANDBOX_DATABASE = "sqlite:///var/sandbox.db"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class OmnitronConfig:
    """Where and as whom to log in for a token."""

    base_url: str
    username: str = field(repr=False)
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class OmsConfig:
    """How to reach the OMS. Paths hold `{id}` or `{packed}`; all of them are inferred spellings."""

    base_url: str
    token: str = field(repr=False)
    auth_scheme: str
    timeout_s: float
    items_path: str
    logs_path: str
    list_filter: str
    omnitron: OmnitronConfig | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole effective configuration."""

    database_url: str = field(repr=False)
    port: int
    oms: OmsConfig
    authentication: Authentication = field(repr=False)
    settings: Settings
    oms_concurrency: int
    oms_rate_per_s: float
    sweep_interval: timedelta
    adopt_max: int
    lease: timedelta
    display_tz: ZoneInfo
    log_level: str
    log_format: str | None

    @property
    def lease_s(self) -> float:
        return self.lease.total_seconds()


def environment() -> Mapping[str, str]:
    """The process's environment."""
    return os.environ


def load(environ: Mapping[str, str], *, default_database: str | None = None) -> Config:
    """The configuration in `environ`; `default_database` stands in for a missing `DATABASE_URL`.

    Reads the files that `NAME_FILE` variables and `RULES_FILE` name. Raises `ConfigurationError` with one
    line for each problem.
    """
    reader = _Reader(environ)
    config = _read(reader, default_database)
    if reader.problems:
        raise ConfigurationError(*reader.problems)
    return config


def load_secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Only the webhook secrets. Raises `ConfigurationError`."""
    reader = _Reader(environ)
    secrets = reader.items("WEBHOOK_SECRETS")
    if reader.problems:
        raise ConfigurationError(*reader.problems)
    return secrets


def load_log(environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Level and format of the logs, which are set up before the rest is known to be right."""
    reader = _Reader(environ)
    level, form = _log_level(reader), _log_format(reader)
    if reader.problems:
        raise ConfigurationError(*reader.problems)
    return level, form


def load_rules(path: str) -> Rules:
    """Rules from the file at `path`. Raises `RulesError` where it cannot be read or used."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise RulesError(f"cannot read {path}: {type(problem).__name__}") from problem
    try:
        return rules.parse(text)
    except RulesError as problem:
        raise RulesError(*(f"{path}: {line}" for line in problem.problems)) from problem


def redacted(config: Config) -> dict[str, Any]:
    """The effective configuration for people: secrets only as whether they are set."""
    flat: dict[str, Any] = {}
    for section in (config, config.oms, config.settings):
        for one in fields(section):
            value = getattr(section, one.name)
            if one.name not in ("oms", "settings", "rules", "omnitron"):
                flat[one.name] = _shown(one.name, value)
    flat["login"] = config.oms.omnitron.base_url if config.oms.omnitron else None
    flat["rules"] = [rule.name for rule in config.settings.rules.rules] + [config.settings.rules.default]
    flat["authentication"] = {
        "secrets": len(config.authentication.secrets),
        "basic": config.authentication.basic is not None,
        "header": config.authentication.header is not None,
    }
    return flat


def _shown(name: str, value: object) -> object:
    match value:
        case timedelta():
            return f"{value.total_seconds():g} s"
        case Command():
            return {"transition": value.transition_id, "slug": value.slug}
        case frozenset():
            return sorted(value)
        case ZoneInfo():
            return value.key
        case _ if name == "token":
            return "set"
        case _ if name == "database_url":
            return re.sub(r"//([^:@/]*)(:[^@/]*)?@", r"//\1:***@", str(value))
    return value


def _read(reader: _Reader, default_database: str | None) -> Config:
    timeout_s = reader.number("OMS_TIMEOUT_S", 10, at_least=0.1)
    lease_s = reader.number("LEASE_S", 60, at_least=1)
    if lease_s < 2 * timeout_s + 1:
        reader.problem("LEASE_S", f"must be at least 2 × OMS_TIMEOUT_S + 1 = {2 * timeout_s + 1:g}")
    return Config(
        database_url=_database_url(reader, default_database),
        port=int(reader.number("PORT", 8008, at_least=1, at_most=65535)),
        oms=_oms(reader, timeout_s),
        authentication=_authentication(reader),
        settings=_settings(reader, timeout_s),
        oms_concurrency=int(reader.number("OMS_CONCURRENCY", 8, at_least=1, at_most=256)),
        oms_rate_per_s=reader.number("OMS_RATE_PER_S", 10, at_least=0),
        sweep_interval=reader.seconds("SWEEP_INTERVAL_S", 300),
        adopt_max=int(reader.number("ADOPT_MAX", 20, at_least=0)),
        lease=timedelta(seconds=lease_s),
        display_tz=_time_zone(reader),
        log_level=_log_level(reader),
        log_format=_log_format(reader),
    )


def _oms(reader: _Reader, timeout_s: float) -> OmsConfig:
    omnitron = _omnitron(reader)
    return OmsConfig(
        base_url=_base_url(reader, "OMS_BASE_URL"),
        token=reader.text("OMS_TOKEN"),
        auth_scheme=reader.text("OMS_AUTH_SCHEME", "Token"),
        timeout_s=timeout_s,
        items_path=_path(reader, "OMS_ITEMS_PATH", "/api/v1/oms/packages/package-items/?package={id}"),
        logs_path=_path(reader, "OMS_LOGS_PATH", "/api/v1/oms/state-transition-logs/?object_id={id}"),
        list_filter=reader.text("OMS_LIST_FILTER", "state__enum_value={packed}"),
        omnitron=omnitron,
    )


def _omnitron(reader: _Reader) -> OmnitronConfig | None:
    token, names = reader.text("OMS_TOKEN"), ("OMNITRON_BASE_URL", "OMNITRON_USERNAME", "OMNITRON_PASSWORD")
    given = [name for name in names if reader.text(name)]
    if token and given:
        reader.problem("OMS_TOKEN", f"set either it or {', '.join(names)}, not both")
    elif not token and not given:
        reader.problem("OMS_TOKEN", f"required (or {', '.join(names)} to log in)")
    elif given:
        base_url = _base_url(reader, "OMNITRON_BASE_URL")
        return OmnitronConfig(base_url, reader.required("OMNITRON_USERNAME"), reader.required("OMNITRON_PASSWORD"))
    return None


def _settings(reader: _Reader, timeout_s: float) -> Settings:
    packed = reader.text("PACKED_STATUS", "500")
    return Settings(
        command=_command(reader),
        rules=_rules(reader),
        packed_status=packed,
        item_packed_status=reader.text("ITEM_PACKED_STATUS", packed),
        shipped_statuses=frozenset(reader.items("SHIPPED_STATUSES")),
        enforce_offered=reader.choice("COMMANDS_GATE", "auto", ("auto", "off")) == "auto",
        live=reader.choice("MODE", "live", ("live", "shadow")) == "live",
        grace=reader.seconds("GRACE_S", 0),
        settle=reader.seconds("SETTLE_S", 3),
        episode=reader.seconds("EPISODE_S", 30),
        oms_timeout=timedelta(seconds=timeout_s),
        retry_base=reader.seconds("RETRY_BASE_S", 5),
        retry_cap=reader.seconds("RETRY_CAP_S", 900),
        retry_max_age=reader.seconds("RETRY_MAX_AGE_S", 86400),
        command_max_attempts=int(reader.number("COMMAND_MAX_ATTEMPTS", 8, at_least=1)),
        ship_max_per_hour=int(reader.number("SHIP_MAX_PER_HOUR", 0, at_least=0)),
    )


def _command(reader: _Reader) -> Command:
    number, slug = reader.text("SHIP_TRANSITION_ID"), reader.text("SHIP_SLUG")
    if not number and not slug:
        reader.problem(
            "SHIP_TRANSITION_ID", "set it or SHIP_SLUG: the transition that ships, as reported at installation"
        )
    transition_id = int(reader.number("SHIP_TRANSITION_ID", 0, at_least=0)) if number else None
    return Command(transition_id, slug or None)


def _authentication(reader: _Reader) -> Authentication:
    secrets = reader.items("WEBHOOK_SECRETS")
    unsigned = reader.flag("WEBHOOK_ALLOW_UNSIGNED")
    if secrets and unsigned:
        reader.problem("WEBHOOK_ALLOW_UNSIGNED", "cannot be set together with WEBHOOK_SECRETS")
    if not secrets and not unsigned:
        reader.problem("WEBHOOK_SECRETS", "required (or WEBHOOK_ALLOW_UNSIGNED=1)")
    basic, header = reader.text("WEBHOOK_BASIC_AUTH"), reader.text("WEBHOOK_HEADER")
    if basic and ":" not in basic:
        reader.problem("WEBHOOK_BASIC_AUTH", "must be user:password")
    name, colon, value = header.partition(":")
    if header and (not colon or not name.strip() or not value.strip()):
        reader.problem("WEBHOOK_HEADER", "must be Name: value")
    return Authentication(secrets, basic or None, (name.strip(), value.strip()) if header else None)


def _base_url(reader: _Reader, name: str) -> str:
    text = reader.required(name)
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        reader.problem(name, "not a URL")
        return text
    if parts.scheme not in ("http", "https") or not host:
        if text:
            reader.problem(name, "must look like https://brand-oms.akinon.net")
    elif parts.scheme == "http" and host not in _LOOPBACK:
        reader.problem(name, "must be https unless it is on loopback")
    elif parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        reader.problem(name, "must have no path, query or user")
    return text.rstrip("/")


def _path(reader: _Reader, name: str, default: str) -> str:
    path = reader.text(name, default)
    if not path.startswith("/") or path.startswith("//") or "{id}" not in path:
        reader.problem(name, "must be a path on the OMS that holds {id}")
    return path


def _database_url(reader: _Reader, default: str | None) -> str:
    url = reader.text("DATABASE_URL") or _database_url_of_parts(reader) or default
    if not url:
        reader.problem("DATABASE_URL", f"required (for one machine: {SQLITE_DEFAULT})")
        return ""
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql", "postgresql+psycopg") and separator:
        return f"postgresql+psycopg://{rest}"
    if scheme != "sqlite" or not separator:
        reader.problem("DATABASE_URL", "must begin with postgresql:// or sqlite:///")
    elif reader.text("ACC_PROJECT_APP_UUID"):
        reader.problem("DATABASE_URL", "SQLite does not last on this platform's disk; add the postgresql add-on")
    return url


def _database_url_of_parts(reader: _Reader) -> str | None:
    if not reader.text("DB_HOST"):
        return None
    user, password = quote(reader.text("DB_USER"), safe=""), quote(reader.text("DB_PASSWORD"), safe="")
    port = int(reader.number("DB_PORT", 5432, at_least=1, at_most=65535))
    return f"postgresql://{user}:{password}@{reader.text('DB_HOST')}:{port}/{quote(reader.text('DB_NAME'), safe='')}"


def _rules(reader: _Reader) -> Rules:
    path = reader.text("RULES_FILE")
    if not path:
        return Rules()
    try:
        return load_rules(path)
    except ConfigurationError as found:
        reader.problem("RULES_FILE", "\nRULES_FILE: ".join(found.problems))
        return Rules()


def _time_zone(reader: _Reader) -> ZoneInfo:
    try:
        return ZoneInfo(reader.text("DISPLAY_TZ", "Europe/Istanbul"))
    except (ValueError, OSError, KeyError):
        reader.problem("DISPLAY_TZ", "not a known time zone")
        return ZoneInfo("UTC")


def _log_level(reader: _Reader) -> str:
    return reader.choice("LOG_LEVEL", "INFO", ("DEBUG", "INFO", "WARNING", "ERROR"))


def _log_format(reader: _Reader) -> str | None:
    return reader.choice("LOG_FORMAT", "", ("", "json", "text")) or None


class _Reader:
    """Typed access to variables that notes problems instead of raising them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._noted: dict[str, str] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        return tuple(f"{name}: {problem}" for name, problem in self._noted.items())

    def problem(self, name: str, problem: str) -> None:
        self._noted.setdefault(name, problem)

    def text(self, name: str, default: str = "") -> str:
        """The value, that of the file `NAME_FILE` names, or the default; an empty value is unset."""
        value, path = self._environ.get(name, ""), self._environ.get(f"{name}_FILE", "")
        if name.endswith("_FILE") or not path:
            return value or default
        if value:
            self.problem(name, f"set either it or {name}_FILE, not both")
            return value
        try:
            return Path(path).read_text(encoding="utf-8").removesuffix("\n") or default
        except (OSError, UnicodeDecodeError) as problem:
            self.problem(f"{name}_FILE", f"cannot read {path}: {type(problem).__name__}")
            return default

    def required(self, name: str) -> str:
        value = self.text(name)
        if not value:
            self.problem(name, "required")
        return value

    def items(self, name: str) -> tuple[str, ...]:
        parts = (part.strip() for part in re.split(r"[,\n]", self.text(name)))
        return tuple(part for part in parts if part)

    def flag(self, name: str) -> bool:
        value = self.text(name, "0").lower()
        if value not in ("1", "0", "true", "false"):
            self.problem(name, "must be 1, 0, true or false")
        return value in ("1", "true")

    def choice(self, name: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in choices:
            self.problem(name, f"must be one of {', '.join(filter(None, choices))}")
        return value

    def number(self, name: str, default: float, *, at_least: float, at_most: float = 10**9) -> float:
        text = self.text(name)
        try:
            value = float(text) if text else default
        except ValueError:
            value = float("nan")
        if not at_least <= value <= at_most:
            limit = f"from {at_least:g} to {at_most:g}" if at_most < 10**9 else f"of at least {at_least:g}"
            self.problem(name, f"must be a number {limit}")
            return default
        return value

    def seconds(self, name: str, default: float) -> timedelta:
        return timedelta(seconds=self.number(name, default, at_least=0))
