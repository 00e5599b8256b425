"""A server on this machine, of files that misbehave when told to."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STALL_SECONDS = 1.0


class Site(ThreadingHTTPServer):
    """Files by path, and what goes wrong with the next answers."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content: dict[str, bytes] = {}
        self.faults: list[str] = []
        """For one GET of a file that is there each: a status, "cut", "long" or "stall"."""
        self.gets: list[str] = []
        """Paths of files that were there."""
        self.before_answer: Callable[[], None] = lambda: None
        """Called within each GET, when its file has been chosen."""
        self.head_status = 200
        self.redirects: dict[str, str] = {}
        """Where to go instead, by path."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Answers from the site's content."""

    server: Site

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def redirected(self) -> bool:
        where = self.server.redirects.get(self.path)
        if where is not None:
            self.send_response(302)
            self.send_header("Location", where)
            self.send_header("Content-Length", "0")
            self.end_headers()
        return where is not None

    def do_HEAD(self) -> None:
        if self.redirected():
            return
        data = self.server.content.get(self.path)
        self.start(404 if data is None else self.server.head_status, data or b"")

    def do_GET(self) -> None:
        if self.redirected():
            return
        data = self.server.content.get(self.path)
        if data is None:
            self.start(404, b"")
            return
        self.server.gets.append(self.path)
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault.isdigit():
            self.start(int(fault), b"")
            return
        self.server.before_answer()
        self.start(200, data, announced=fault != "long")
        self.wfile.write(data[:700] if fault in ("cut", "stall") else data + b"\0" * 100 if fault == "long" else data)
        self.wfile.flush()
        if fault == "stall":
            time.sleep(STALL_SECONDS)

    def start(self, status: int, data: bytes, announced: bool = True) -> None:
        self.send_response(status)
        if announced:
            self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hash(data)}"')
        self.end_headers()
