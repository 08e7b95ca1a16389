"""What the API and the console are asked alike: about one package, known or not, and for a list of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

from flask import request
from werkzeug.exceptions import BadRequest, NotFound, ServiceUnavailable

from service import explain
from service.case import CaseState, Reason
from service.config import Config
from service.database import Database
from service.login import credentials
from service.oms import Oms
from service.wire import MAX_ID

OMS_PATIENCE_S = 5.0

# Waits for the right to use the database, as everybody does.
Turn = Callable[[], AbstractContextManager[None]]


class Lookup:
    """Explains packages. One at a time is read from the OMS: who asks for those never seen must not be its load."""

    def __init__(self, config: Config, database: Database, turn: Turn) -> None:
        self._config = config
        self._database = database
        self._turn = turn
        self._oms_is_free = threading.Lock()

    def explain(self, package_id: int) -> dict[str, Any]:
        """The explanation of a package.

        Raises `NotFound` where neither we nor the OMS know it, `OmsUnreachable`, and `ServiceUnavailable` while others
        keep the OMS busy.
        """
        checked(package_id)
        with self._turn():
            told = explain.stored(self._database, package_id)
        if told is None:
            told = self._unseen(package_id)
            if told["would"] is None:
                raise NotFound(f"Neither we nor the OMS know package {package_id}.")
        return told

    def _unseen(self, package_id: int) -> dict[str, Any]:
        token = credentials(self._config.oms, self._database)
        with taken(self._oms_is_free, OMS_PATIENCE_S, ServiceUnavailable), closing(Oms(self._config.oms, token)) as oms:
            return explain.unseen(self._database, oms, self._config.settings, package_id)


@contextmanager
def taken(
    right: threading.Lock | threading.Semaphore, patience_s: float, otherwise: Callable[[], Exception]
) -> Iterator[None]:
    """The right to something that not everybody may use at a time; raises `otherwise` where it takes too long."""
    if not right.acquire(timeout=patience_s):
        raise otherwise()
    try:
        yield
    finally:
        right.release()


def checked(package_id: int) -> int:
    """The number in an address. Raises `NotFound` where no package can have it."""
    if not 1 <= package_id <= MAX_ID:
        raise NotFound("There is no such package number.")
    return package_id


def choice(name: str, choices: type[CaseState] | type[Reason]) -> str | None:
    """What a list is narrowed down to, if to anything. Raises `BadRequest` where there is no such choice."""
    value = request.args.get(name)
    if value and value not in set(choices):
        raise BadRequest
    return value or None
