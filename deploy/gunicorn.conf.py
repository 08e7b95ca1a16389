"""gunicorn for the web process. One process with threads: SQLite has one writer, and PostgreSQL deployments
add web processes by the platform's own means."""

import os

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
