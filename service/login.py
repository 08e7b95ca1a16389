"""The token of a login: one for all processes, kept in the database, renewed by one of them at a time."""

from __future__ import annotations

import hashlib
import logging
import time
from datetime import datetime, timedelta
from enum import Enum, auto

import sqlalchemy as sa

from service import logs
from service.config import OmnitronConfig, OmsConfig
from service.database import Database, Transaction, login
from service.oms import Credentials, FixedToken, LoginFailed, log_in

# ASSUMED: the server limits logins to what Akinon's channel-app 0.0.161 allows itself.
MOST_LOGINS = 3
WITHIN = timedelta(minutes=6)
_MARGIN = timedelta(seconds=2)
_POLL_S = 0.1

_SUCCEEDED = logs.Event("login.succeeded", logging.INFO, "Omnitron gave a new token.")
_FAILED = logs.Event(
    "login.failed", logging.ERROR, "Omnitron gave no token; nothing can be read until it does.", alert=True
)


def credentials(config: OmsConfig, database: Database) -> Credentials:
    """`OMS_TOKEN`, or the token of a login; may be shared by all threads of a process."""
    if config.omnitron is None:
        return FixedToken(config.token)
    return Login(database, config.omnitron, config.timeout_s)


class Login:
    """Where the token comes from if `OMNITRON_*` is configured. One for each thread, or shared."""

    def __init__(self, database: Database, config: OmnitronConfig, timeout_s: float) -> None:
        self._database = database
        self._config = config
        self._timeout_s = timeout_s
        self._token: str | None = None
        # Not the name itself: it may be a person's address.
        self._whose = hashlib.sha256(f"{config.base_url} {config.username}".encode()).hexdigest()

    def current(self) -> str | None:
        """The token all processes share, or that of a login now; None where that failed.

        Raises `DatabaseUnavailable`.
        """
        return self._token or self.renew(None)

    def renew(self, rejected: str | None) -> str | None:
        """A token other than `rejected`, which was answered 401: another process's, or that of a login now.

        Raises `DatabaseUnavailable`.
        """
        self._token = None
        give_up_at = time.monotonic() + self._timeout_s
        while time.monotonic() < give_up_at:
            with self._database.transaction() as transaction:
                lease = timedelta(seconds=self._timeout_s) + _MARGIN
                found = _token_or_turn(transaction, rejected, self._whose, lease)
            if found is _Turn.NOBODYS:
                return None
            if found is not _Turn.ANOTHERS:
                self._token = self._log_in(rejected) if found is _Turn.OURS else found
                return self._token
            time.sleep(_POLL_S)
        return None

    def _log_in(self, rejected: str | None) -> str | None:
        answer = log_in(self._config, self._timeout_s)
        token = None if isinstance(answer, LoginFailed) else answer
        with self._database.transaction() as transaction:
            # One address that refuses a token does not make it useless for the others: it is given up for a better one.
            stored = {"token": token or rejected, "whose": self._whose, "leased_until": None}
            transaction.execute(sa.update(login).values(stored))
        if isinstance(answer, LoginFailed):
            _FAILED.emit(cause=answer.cause)
        else:
            _SUCCEEDED.emit()
        return token


class _Turn(Enum):
    """Whose turn it is to log in; nobody's after too many logins."""

    OURS = auto()
    ANOTHERS = auto()
    NOBODYS = auto()


def _token_or_turn(transaction: Transaction, rejected: str | None, whose: str, lease: timedelta) -> str | _Turn:
    """A usable token of this user, or whose turn it is; ours is taken by this."""
    row = transaction.execute(sa.select(login).with_for_update()).mappings().one()
    # Older versions do not say whose it is.
    token: str | None = row["token"] if row["whose"] in (None, whose) else None
    if token is not None and token != rejected:
        return token
    if row["leased_until"] is not None and transaction.now < row["leased_until"]:
        return _Turn.ANOTHERS
    logins = map(datetime.fromisoformat, row["recent"])
    recent = [at for at in logins if transaction.now - WITHIN < at <= transaction.now]
    if len(recent) >= MOST_LOGINS:
        return _Turn.NOBODYS
    begun = [at.isoformat() for at in (*recent, transaction.now)]
    turn = {"token": None, "leased_until": transaction.now + lease, "recent": begun}
    transaction.execute(sa.update(login).values(**turn))
    return _Turn.OURS
