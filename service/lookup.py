"""What a person asks about one package, known or not: for the API and the console."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any

from werkzeug.exceptions import ServiceUnavailable

from service import explain
from service.config import Config
from service.database import Database
from service.login import credentials
from service.oms import Oms

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
        """The explanation of a package; `would` is None where neither we nor the OMS know it.

        Raises `OmsUnreachable`, and `ServiceUnavailable` while others keep the OMS busy.
        """
        with self._turn():
            told = explain.stored(self._database, package_id)
        if told is None:
            with self._oms() as oms:
                told = explain.unseen(self._database, oms, self._config.settings, package_id)
        return told

    @contextmanager
    def _oms(self) -> Iterator[Oms]:
        if not self._oms_is_free.acquire(timeout=OMS_PATIENCE_S):
            raise ServiceUnavailable
        try:
            with closing(Oms(self._config.oms, credentials(self._config.oms, self._database))) as oms:
                yield oms
        finally:
            self._oms_is_free.release()
