"""A loopback server of git over HTTP: `git http-backend`, with a place to do something between its requests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.scratch import ENVIRONMENT

ADVERTISEMENT, PUSH = "GET /info/refs?service=git-receive-pack", "POST /git-receive-pack"
BACKEND_TIMEOUT_S = 60


class SmartServer:
    """Serves one bare repository.

    `before` and `after` are called with `<method> <path in the repository>` around each answer; `after` is called
    before the first byte of it is sent. With `secret` nobody is heard who does not say it: who says another
    one is answered `refusal`.
    """

    def __init__(self, bare: Path, secret: str = "") -> None:
        self.bare, self.secret = bare, secret
        self.refusal, self.refused = (401, ""), 0
        self.asked: list[str] = []
        self.before: Callable[[str], object] = lambda request: None
        self.after: Callable[[str], object] = lambda request: None
        self.ended = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.http.daemon_threads = True
        subprocess.run(["git", "config", "http.receivepack", "true"], cwd=bare, env=ENVIRONMENT, check=True)
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{'ann:hunter2@' if self.secret else ''}127.0.0.1:{self.http.server_address[1]}/bare.git"

    def close(self) -> None:
        self.ended.set()
        self.http.shutdown()
        self.http.server_close()


def _handler(server: SmartServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def log_message(self, *words: object) -> None:
            return

        def _answer(self) -> None:
            body = self._body()
            request = f"{self.command} {self.path.removeprefix('/bare.git')}"
            server.asked.append(request)
            if server.secret and self.headers.get("Authorization") != server.secret:
                status, words = server.refusal if self.headers.get("Authorization") else (401, "")
                server.refused += bool(self.headers.get("Authorization"))
                headers = [("WWW-Authenticate", 'Basic realm="git"'), ("Content-Type", "text/plain")]
                self._say(status, headers, words.encode())
                return
            server.before(request)
            status, headers, content = _backend(server.bare, self, body)
            server.after(request)
            self._say(status, headers, content)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _say(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            with contextlib.suppress(ConnectionError):  # who asked may be gone
                self.end_headers()
                self.wfile.write(content)

    return Handler


def _backend(bare: Path, asked: BaseHTTPRequestHandler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return status, headers and content that git answers, by CGI."""
    path, _, query = asked.path.partition("?")
    variables = {
        **ENVIRONMENT,
        "GIT_PROJECT_ROOT": str(bare.parent),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "REQUEST_METHOD": asked.command,
        "CONTENT_TYPE": asked.headers.get("Content-Type") or "",
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": asked.headers.get("Content-Encoding") or "",
        "GIT_PROTOCOL": asked.headers.get("Git-Protocol") or "",
        "REMOTE_ADDR": "127.0.0.1",
        "PATH": os.environ["PATH"],
    }
    said = subprocess.run(
        ["git", "http-backend"], env=variables, input=body, stdout=subprocess.PIPE, timeout=BACKEND_TIMEOUT_S
    ).stdout
    head, _, content = said.partition(b"\r\n\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in head.decode().split("\r\n"))]
    status = next((int(value.split()[0]) for name, value in headers if name == "Status"), 200)
    return status, [each for each in headers if each[0] != "Status"], content
