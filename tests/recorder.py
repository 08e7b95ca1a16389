"""A server on loopback that keeps what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Recorder:
    """The headers, with lower-case names and in their order, and the body of each request; all are answered alike."""

    url: str
    status: int
    headers: dict[str, str]
    heard: list[tuple[list[tuple[str, str]], bytes]] = field(default_factory=list)


@contextmanager
def recording(status: int = 200, **headers: str) -> Iterator[Recorder]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            named = [(name.lower(), value) for name, value in self.headers.items()]
            recorder.heard.append((named, self.rfile.read(int(self.headers.get("Content-Length", 0)))))
            self.send_response(recorder.status)
            for name, value in {**recorder.headers, "Content-Length": "2"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST = answer  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """What was heard is the log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        recorder = Recorder(f"http://127.0.0.1:{server.server_port}", status, headers)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield recorder
        finally:
            server.shutdown()
            thread.join()
