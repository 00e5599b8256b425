"""``mae-lite watch``: the report of runs that are going on, on this machine alone, read-only."""

from __future__ import annotations

import http.server
import logging
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from mae_lite.errors import DiskError, MaeLiteError
from mae_lite.report import page, read
from mae_lite.report.compose import Report, compose

_log = logging.getLogger(__name__)
HOST = "127.0.0.1"


class Watch:
    """A server of one page about some runs; it reads their folders anew for every request and nothing else."""

    def __init__(self, paths: Sequence[Path], port: int, title: str | None = None) -> None:
        """Bind to ``port`` of this machine; 0 takes any free one.

        Raises:
            CheckpointError: when a path holds no run.
            DiskError: when the port is taken.
        """
        self._paths, self._title = list(paths), title
        self._lock = threading.Lock()  # matplotlib draws one figure at a time
        self._kept: tuple[list[tuple[str, int, int]], Report] | None = None
        self.report()
        watch = self

        class Handler(_Handler):
            owner = watch

        try:
            self._server = http.server.ThreadingHTTPServer((HOST, port), Handler)
        except OSError as error:
            raise DiskError(
                f"port {port} of {HOST} cannot be used",
                found=str(error.strerror or error),
                fix="give another one with --port 0, which takes any that is free",
            ) from error
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        """The page's address."""
        return f"http://{HOST}:{self._server.server_address[1]}/"

    def report(self) -> Report:
        """Read the runs as they are now; what has not changed since the last time is not read again."""
        with self._lock:
            state = self._state()
            if self._kept is None or self._kept[0] != state:
                self._kept = state, compose(self._paths, self._title, live=True)
            return self._kept[1]

    def _state(self) -> list[tuple[str, int, int]]:
        """Return size and time of every file that a report reads."""
        found = []
        for folder in dict.fromkeys([*read.find(self._paths), *read.find_analyses(self._paths)]):
            for pattern in ("*.json", "*.jsonl", "*.csv", "*.svg", "*.png", "eval/*.json", "previews/*.png"):
                for path in folder.glob(pattern):
                    with suppress(OSError):  # replaced at this moment
                        status = path.stat()
                        found.append((str(path), status.st_size, status.st_mtime_ns))
        alive = [(run.name, 0, int(run.state == "running")) for run in self._runs()]
        return sorted(found) + alive

    def _runs(self) -> list[read.Run]:
        return [] if self._kept is None else [item.run for item in self._kept[1].details]

    def serve(self) -> None:
        """Answer requests until :meth:`close`."""
        self._server.serve_forever(poll_interval=0.2)

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Two pages and no files: there is no path that could lead anywhere else."""

    owner: Watch
    timeout = 10  # a client that says nothing does not keep its thread

    def do_HEAD(self) -> None:
        """Answer as to GET, without the page."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer with the page, or with its content for an update."""
        # A page of another site must not read this one through a name that it points here.
        if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):
            self._answer(403, "text/plain", "only for this machine")
            return
        path = urlsplit(self.path).path
        if path not in ("/", "/content"):
            self._answer(404, "text/plain", "there is nothing here but /")
            return
        try:
            report = self.owner.report()
            text = page.render(report) if path == "/" else page.render_content(report)
        except MaeLiteError as error:  # the folder has gone
            self._answer(500, "text/plain", str(error))
            return
        except Exception as error:  # whatever a run folder holds, the server goes on
            _log.exception("the page cannot be made")
            self._answer(500, "text/plain", f"the page cannot be made: {type(error).__name__}: {error}")
            return
        states = ", ".join(f"{count} {state}" for state, count in sorted(report.states.items()))
        self._answer(200, "text/html", text, states)

    def _answer(self, status: int, kind: str, text: str, states: str = "") -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if states:
            self.send_header("X-State", states.encode("ascii", "replace").decode())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, text: str, *args: object) -> None:
        """Say nothing of ordinary requests."""
        _log.debug(text, *args)
