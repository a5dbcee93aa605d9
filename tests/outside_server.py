"""The other side of outlets: a real HTTP server on loopback that notes what it is sent and answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """A request as it arrived; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Said:
    """An answer. A `status` of 0 is none at all: the connection is cut."""

    status: int = 201
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"


class Outside:
    """A server; `answer` says what becomes of a request, 201 if it is not told."""

    def __init__(self, answer: Callable[[Asked], Said] = lambda asked: Said()) -> None:
        self.answer, self.asked = answer, list[Asked]()
        outside = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                asked = Asked(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                outside.asked.append(asked)
                said = outside.answer(asked)
                if said.status:
                    self.send_response(said.status)
                    for name, value in {**said.headers, "Content-Length": str(len(said.body))}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(said.body)
                self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
