"""gunicorn for the web process. One process with threads: SQLite has one writer, and PostgreSQL deployments
add web processes by the platform's own means."""

import os

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
