"""The sending side at speed: the real sender's requests over connections that stay open, until each is answered 2xx."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from queue import Empty, PriorityQueue

from service import sender
from service.sandbox import Sent, StandInOms
from tests.reliability.ledger import Tally

PATH = "/webhooks/oms/packages"
THREADS = 6
TIMEOUT_S = 10.0
RETRY_AFTER_S = 0.2


class Courier:
    """Delivers events to any of several ports, `duplicates` of them twice under their uuid.

    Ports and secret may be changed under way; without any port, deliveries wait.
    """

    def __init__(self, oms: StandInOms, ports: Sequence[int], secret: str, duplicates: float, seed: int) -> None:
        self._oms = oms
        self.ports = ports
        self.secret = secret
        self._duplicates = duplicates
        self._rng = random.Random(seed)
        self._lock = threading.Lock()
        self._pending = 0
        self._number = 0
        self._due: PriorityQueue[tuple[float, int, Sent]] = PriorityQueue()
        self._stopping = threading.Event()
        self.tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def take(self, sent: Sent) -> None:
        """An event to deliver."""
        with self._lock:
            times = 2 if self._rng.random() < self._duplicates else 1
            self._pending += times
        for _ in range(times):
            self._post(sent, 0.0)

    @property
    def is_idle(self) -> bool:
        return self._pending == 0

    @property
    def answered(self) -> int:
        """How many deliveries were answered 2xx."""
        with self._lock:
            return sum(tally.answered for tally in self.tallies.values())

    def stop(self) -> None:
        """Delivers nothing more."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _post(self, sent: Sent, delay_s: float) -> None:
        with self._lock:
            self._number += 1
            self._due.put((time.monotonic() + delay_s, self._number, sent))

    def _work(self, number: int) -> None:
        lines: dict[int, http.client.HTTPConnection] = {}
        rng = random.Random(number)
        while not self._stopping.is_set():
            try:
                due, order, sent = self._due.get(timeout=0.05)
            except Empty:
                continue
            if due > time.monotonic():
                self._due.put((due, order, sent))
                self._stopping.wait(0.02)
            elif (ports := self.ports) and self._deliver(sent, lines, rng.choice(ports)):
                with self._lock:
                    self._pending -= 1
            else:
                self._post(sent, RETRY_AFTER_S)
        for line in lines.values():
            line.close()

    def _deliver(self, sent: Sent, lines: dict[int, http.client.HTTPConnection], port: int) -> bool:
        with self._lock:
            if sent.document is None:
                sent.document = self._oms.document(self._oms.packages[sent.package_id])
            tally = self.tallies[sent.event_uuid]
            tally.tried += 1
        body = sender.encode(sent.event_type, sent.event_uuid, sent.document)
        line = lines.setdefault(port, http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S))
        try:
            line.request("POST", PATH, body, sender.headers(sent.event_type, body, self.secret))
            answer = line.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            line.close()
            return False
        if not 200 <= answer.status < 300:
            return False
        with self._lock:
            tally.answered += 1
        return True
