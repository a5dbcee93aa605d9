"""The web server of `serve`: a thread of its own, beside the loop and never in its way.

What it may do to the loop is to wake it, at most once a second. All that reads the repository happens in one further
thread, one request after the other; more than so many at once are told to come again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from reconciler import hooks
from reconciler.board import Board
from reconciler.events import Event
from reconciler.eventstream import Streams
from reconciler.listening import host_of, http_server
from reconciler.pages.render import POLICY
from reconciler.values import frozen
from reconciler.webface import TEXT, Answer, WebFace

REQUESTS_MAX = 64
"""So many are answered or wait at once."""
WAKE_PAUSE_S = 1.0
DEAF_S = 180.0
"""A loop that has done no turn for so long is not well: at least one a minute is due."""
RESTART_PAUSE_S = 30.0
END_PATIENCE_S = 3.0
ELSEWHERE = "421: this is not the host that is meant; name it with --public-name\n"
METRICS_KIND = "text/plain; version=0.0.4; charset=utf-8"

HEADERS = {
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-cache",
}


@frozen
class Door:
    """Who may come in: the hosts a request may name, and the secrets that let one wake the loop, b"" for none."""

    hosts: frozenset[str]
    token: bytes = b""
    hook_secret: bytes = b""


@dataclass(slots=True)
class Waker:
    """Wakes the loop at most once in WAKE_PAUSE_S seconds; what comes in between wakes it once, at the end of them."""

    wake: Callable[[str], None]
    woken_s: float = float("-inf")
    pending: bool = False
    counts: dict[str, int] = field(default_factory=dict)

    def __call__(self, reason: str) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        left_s = self.woken_s + WAKE_PAUSE_S - time.monotonic()
        if left_s <= 0:
            self._now(reason)
        elif not self.pending:
            self.pending = True
            asyncio.get_running_loop().call_later(left_s, self._now, reason)

    def _now(self, reason: str) -> None:
        self.pending, self.woken_s = False, time.monotonic()
        self.wake(f"woken by {reason}")


class App:
    """What is answered where."""

    def __init__(self, face: WebFace, board: Board, door: Door, wake: Callable[[str], None]) -> None:
        self.face, self.board, self.door, self.waker = face, board, door, Waker(wake)
        self.reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="web-reader")
        self.waiting = 0
        self.streams = Streams(source=face, ask=self._ask, headers=HEADERS)
        self.starlette = Starlette(
            routes=[
                Route("/healthz", self._guarded(self.healthz)),
                Route("/readyz", self._guarded(self.readyz)),
                Route("/metrics", self._guarded(self.metrics)),
                Route("/wake", self._guarded(self.wake), methods=["POST"]),
                Route("/hooks/{forge}", self._guarded(self.hook), methods=["POST"]),
                Route("/events/{task}/{run}", self.events, methods=["GET"]),
                Route("/{place:path}", self._guarded(self.page), methods=["GET"]),
            ]
        )

    async def events(self, request: Request) -> Response:
        """Stream what happens to a run, from behind the event that a client names as its last one."""
        if not self._is_meant(request):
            return _response(_plain(421, ELSEWHERE), request)
        task, run = request.path_params["task"], request.path_params["run"]
        return await self.streams.answer(task, run, request.headers.get("last-event-id", ""))

    async def _ask(self, question: Callable[[], tuple[Event, ...]]) -> tuple[Event, ...]:
        return await asyncio.get_running_loop().run_in_executor(self.reader, question)

    def _is_meant(self, request: Request) -> bool:
        return host_of(request.headers.get("host", "")) in self.door.hosts

    def _guarded(self, answer: Callable[[Request], Awaitable[Answer]]) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that answers only who names one of our hosts, and everything with our headers."""

        async def endpoint(request: Request) -> Response:
            if not self._is_meant(request):
                return _response(_plain(421, ELSEWHERE), request)
            try:
                found = await answer(request)
            except ClientDisconnect:
                found = _plain(400, "400: the request ended early\n")
            return _response(found, request)

        return endpoint

    async def _read(self, question: Callable[[], Answer]) -> Answer:
        """Return what the reading thread answers; too many questions at once are refused."""
        if self.waiting >= REQUESTS_MAX:
            return _plain(503, "503: too many requests at once; come again\n", {"Retry-After": "2"})
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.reader, question)
        except Exception as error:  # a page that cannot be made must not end the others
            return _plain(500, f"500: this page cannot be made ({type(error).__name__}); this is a bug\n")
        finally:
            self.waiting -= 1

    async def page(self, request: Request) -> Answer:
        place, query = request.path_params["place"], dict(request.query_params)
        return await self._read(lambda: self.face.answer(place, query))

    async def metrics(self, request: Request) -> Answer:
        return await self._read(lambda: Answer(body=self.face.metrics(), kind=METRICS_KIND))

    # -------------------------------------------------------------------------------------------- health

    async def healthz(self, request: Request) -> Answer:
        """Answer whether the loop turns."""
        snapshot = self.board.snapshot
        if self.board.ended or (snapshot is not None and time.monotonic() - snapshot.at_s > DEAF_S):
            return _plain(503, "the loop does not turn\n")
        return _plain(200, "ok\n")

    async def readyz(self, request: Request) -> Answer:
        """Answer whether passes are done."""
        if self.board.snapshot is None:
            return _plain(503, f"no pass was done yet{': ' if self.board.trouble else ''}{self.board.trouble}\n")
        if self.board.trouble:
            return _plain(503, f"passes are not done: {self.board.trouble}\n")
        return _plain(200, "ok\n")

    # -------------------------------------------------------------------------------------------- waking

    async def wake(self, request: Request) -> Answer:
        """Wake the loop for who knows the token."""
        if not self.door.token:
            return _plain(403, "403: this is for reading only; start it with a token (reconciler serve --help)\n")
        said = request.headers.get("authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(said, b"Bearer " + self.door.token):
            return _plain(401, "401: a token is needed\n", {"WWW-Authenticate": "Bearer"})
        self.waker("a request")
        return _plain(202, "woken\n")

    async def hook(self, request: Request) -> Answer:
        """Wake the loop for a forge that knows the secret."""
        forge = request.path_params["forge"]
        if forge not in hooks.FORGES:
            return _plain(404, f"404: no such forge; known are {', '.join(hooks.FORGES)}\n")
        if not self.door.hook_secret:
            return _plain(403, "403: webhooks are off; start it with their secret (reconciler serve --help)\n")
        body = await bounded_body(request)
        if body is None:
            return _plain(413, f"413: more than {hooks.BODY_BYTES_MAX} bytes\n")
        headers = {name.lower(): value for name, value in request.headers.items()}
        if not hooks.is_signed(forge, headers, body, self.door.hook_secret, time.time()):
            return _plain(401, "401: the signature is not right\n")
        self.waker(forge)
        return _plain(202, "woken\n")


async def bounded_body(request: Request) -> bytes | None:
    """Return the body of a request, None if it is larger than a webhook may be."""
    said = request.headers.get("content-length", "")
    if said.isascii() and said.isdigit() and int(said[:20]) > hooks.BODY_BYTES_MAX:
        return None
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > hooks.BODY_BYTES_MAX:
            return None
    return bytes(found)


def _plain(status: int, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(body=text.encode(), kind=TEXT, status=status, headers=headers or {})


def _response(answer: Answer, request: Request) -> Response:
    """Return an answer with our headers, or that what the client has is still right."""
    headers = {**HEADERS, **answer.headers}
    if answer.status == 200 and request.method in ("GET", "HEAD"):
        headers["ETag"] = f'"{hashlib.sha256(answer.body).hexdigest()[:32]}"'
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
    return Response(answer.body, status_code=answer.status, headers=headers, media_type=answer.kind)


# ------------------------------------------------------------------------------------------------ the thread


class WebServer:
    """The server in its thread. `watch` starts it anew where it has ended although nobody asked it to."""

    def __init__(self, app: App, listening: socket.socket) -> None:
        self.app, self.listening = app, listening
        self.server: Any = None
        self.thread: threading.Thread | None = None
        self.began_s = float("-inf")
        self.why = ""

    def start(self) -> None:
        self.server = http_server(self.app.starlette, connections_max=2 * REQUESTS_MAX, grace_s=1, date_header=False)
        self.began_s = time.monotonic()
        self.thread = threading.Thread(target=self._serve, name="web", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        try:
            self.server.run(sockets=[self.listening.dup()])
        except BaseException as error:  # it ends with its thread, and `watch` says so
            self.why = f"{type(error).__name__}: {error}"

    def watch(self) -> str:
        """Return what is wrong with the server, "" for nothing, and cure it."""
        if self.thread is None or self.thread.is_alive():
            return ""
        if time.monotonic() - self.began_s >= RESTART_PAUSE_S:
            self.start()
        return f"the web face has ended ({self.why or 'it does not say why'}); it is started again"

    def stop(self) -> None:
        if self.server is not None:
            self.server.should_exit = True
        if self.thread is not None:
            self.thread.join(END_PATIENCE_S)
        self.app.reader.shutdown(wait=False, cancel_futures=True)
        self.listening.close()
