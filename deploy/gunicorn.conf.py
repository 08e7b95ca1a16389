"""gunicorn for the web process. One process with threads: SQLite has one writer, and PostgreSQL deployments
add web processes by the platform's own means."""

import os

from service import __version__, logs
from service import config as configuration

bind = f"0.0.0.0:{os.environ.get('PORT') or '8008'}"
worker_class = "gthread"
workers = 1
threads = 8
keepalive = 15
timeout = 30
graceful_timeout = 8
preload_app = False
accesslog = None
loglevel = "warning"


def on_starting(server: object) -> None:
    """The master's own lines look like everybody's."""
    config = configuration.load(configuration.environment())
    logs.configure(config.log_level, config.log_format, config.display_tz)


def post_worker_init(worker: object) -> None:
    """Tells that deliveries are accepted from now on."""
    logs.emit("web.started", version=__version__)
