"""gunicorn for the web process. One process with threads: SQLite has one writer, and PostgreSQL deployments
add web processes by the platform's own means."""

import os
import signal
from functools import partial

from service import __version__, garbage, logs, notices, watch
from service import config as configuration
from service.server import STARTED

worker_class = "service.server.Worker"
workers = 1
# A thread for each client that is still sending; how many work at a time, service/web.py says.
threads = 256
keepalive = 10
graceful_timeout = 7
loglevel = "warning"
# A header must not say under which path we are mounted: that would pass a proxy's rules about paths.
forwarder_headers = ""
control_socket_disable = True

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def on_starting(server: object) -> None:
    """The master's own lines look like everybody's, and it handles signals once it has a worker to end.

    They wait for that since before gunicorn began (service/cli.py). A worker has no handlers of its own at first, and
    would take one for the master's: nobody would end it before `graceful_timeout`.
    """
    config = configuration.load(configuration.environment())
    logs.configure(config)
    block, unblock = (partial(signal.pthread_sigmask, how, _ENDING) for how in (signal.SIG_BLOCK, signal.SIG_UNBLOCK))
    os.register_at_fork(before=block, after_in_parent=unblock)


def post_worker_init(worker: object) -> None:
    """Tells that deliveries are accepted from now on, and begins to watch for what people should hear of."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
    STARTED.emit(version=__version__)
    config = configuration.load(configuration.environment())
    over_workers = watch.start(config)
    notices.start(config, lambda: over_workers.cause)
    garbage.settle()
