"""A git server on loopback that wants a password: `git http-backend` behind http.server."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.scratch import ENVIRONMENT

BODY_BYTES_MAX = 16 * 1024 * 1024


@dataclass
class GitServer:
    url: str
    asked: list[str] = field(default_factory=list)
    """The header `Authorization` of each request."""


@contextmanager
def git_server(place: Path, password: str) -> Iterator[GitServer]:
    """Serve the repositories below a directory to whoever knows the password, whatever name is said with it."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    http.daemon_threads = True
    server = GitServer(f"http://127.0.0.1:{http.server_address[1]}")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            pass

        def do_GET(self) -> None:
            said = self.headers.get("Authorization", "")
            server.asked.append(said)
            known = base64.b64decode(said.partition(" ")[2] or "").decode().partition(":")[2]
            if known != password:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="git"')
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            head, _, body = self._backend().partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.send_response(int(fields.pop("Status", "200").split()[0]))
            for name, value in fields.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def _backend(self) -> bytes:
            parts = urlsplit(self.path)
            told = {
                "GIT_PROJECT_ROOT": str(place), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": parts.path,
                "QUERY_STRING": parts.query, "REQUEST_METHOD": self.command, "REMOTE_USER": "ci",
                "CONTENT_TYPE": self.headers.get("Content-Type", ""), "REMOTE_ADDR": "127.0.0.1",
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            }  # fmt: skip
            length = int(self.headers.get("Content-Length") or 0)
            assert length <= BODY_BYTES_MAX
            data = self._chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
            told["CONTENT_LENGTH"] = str(len(data))
            return subprocess.run(
                ["git", "http-backend"], input=data, env={**os.environ, **ENVIRONMENT, **told}, capture_output=True,
                check=True, timeout=30,
            ).stdout  # fmt: skip

        def _chunks(self) -> bytes:
            found = b""
            while size := int(self.rfile.readline(20), 16):
                found += self.rfile.read(size)
                assert len(found) <= BODY_BYTES_MAX
                self.rfile.readline(20)
            self.rfile.readline(20)
            return found

    http.RequestHandlerClass = Handler
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
