"""gunicorn for the web process. One process with threads: SQLite has one writer, and PostgreSQL deployments
add web processes by the platform's own means."""

import os

from service import __version__, alerts, garbage, logs, watch
from service import config as configuration
from service.database import Database
from service.server import STARTED

bind = f"0.0.0.0:{os.environ.get('PORT') or '8008'}"
worker_class = "service.server.Worker"
workers = 1
# A thread for each client that is still sending; how many work at a time, service/web.py says.
threads = 256
worker_connections = 1000
keepalive = 10
timeout = 30
graceful_timeout = 7
preload_app = False
accesslog = None
loglevel = "warning"
control_socket_disable = True


def on_starting(server: object) -> None:
    """The master's own lines look like everybody's."""
    config = configuration.load(configuration.environment())
    logs.configure(config.log_level, config.log_format, config.display_tz)


def post_worker_init(worker: object) -> None:
    """Tells that deliveries are accepted from now on, and begins to watch for what people should hear of."""
    STARTED.emit(version=__version__)
    config = configuration.load(configuration.environment())
    over_workers = watch.start(Database(config.database_url))
    alerts.start(config, lambda: over_workers.cause)
    garbage.settle()
