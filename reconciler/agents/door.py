"""The door through which an agent without trust reaches its model: a process outside of the sandbox, and nothing else.

The sandbox has no network but a loopback of its own. In there the stage's driver listens on it and hands the listening
socket out to this process (`doorway`), which accepts what the agent connects to, adds the real key to what may pass,
and forwards it to the one model that is configured. The key is in the memory of this process only. What an agent asks
for is refused unless it is one of the few requests its driver makes; answers are streamed as they come.

When whoever holds the other end of the control socket is gone, so is the door.
"""

from __future__ import annotations

import hmac
import http.client
import json
import os
import re
import secrets
import select
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import field
from email.message import Message
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from reconciler import codec
from reconciler.agent import Agent
from reconciler.values import frozen

ORDER_BYTES_MAX = 4 * 1024 * 1024
REQUEST_BYTES_MAX = 32 * 1024 * 1024
RESPONSE_BYTES_MAX = 64 * 1024 * 1024
CONNECTIONS_MAX = 16
"""At once; who comes when there are as many waits in front of it."""
FULL_S = 0.05
"""How often it is looked whether there is room again."""
IDLE_S_MAX = 600.0
"""So long nothing may be said, on either side."""
EXCHANGE_S_MAX = 3600.0
READ_BYTES = 64 * 1024
TARGET = re.compile(r"(/[A-Za-z0-9_.-]+)+(\?[A-Za-z0-9_.=&%,:+-]{0,2000})?|/")
LOOPBACK = ("127.0.0.1", "localhost", "::1")

FORWARDED = (
    *("accept", "content-type", "content-encoding", "user-agent", "anthropic-version", "anthropic-beta"),
    *("openai-beta", "originator", "session_id", "x-app"),
)
"""Headers of a request that reach the model; no others do."""
RETURNED = re.compile(
    r"content-(type|length|encoding)|retry-after(-ms)?|(x-)?request-id|(x|anthropic)-ratelimit-[a-z-]+|x-should-retry"
)
"""Headers of an answer that reach the agent."""


class Shut(Exception):
    """There can be no door; the message says why."""


@frozen
class Upstream:
    """Where a model is: `secure` for https, `path` before that of every request; what is added to each; and what may
    be asked, as method and path."""

    secure: bool
    host: str
    port: int
    path: str
    headers: Mapping[str, str] = field(repr=False)
    allowed: frozenset[tuple[str, str]]

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """What must not reach the agent whatever the model answers."""
        words = (each.removeprefix("Bearer ") for each in self.headers.values())
        return tuple(each.encode() for each in words if each)


# ------------------------------------------------------------------------------------------------ where it leads


def upstream_of(agent: Agent, environment: Mapping[str, str]) -> Upstream:
    """Return where the door of an agent leads. Raise Shut if that cannot be told, or is no place for a key."""
    match agent.driver:
        case "codex":
            return _codex(agent, environment)
        case "claude":
            return _claude(environment)
        case other:
            raise Shut(f"nobody knows how an agent of the driver '{other}' reaches its model")


def _codex(agent: Agent, environment: Mapping[str, str]) -> Upstream:
    provider = provider_of(agent, environment)
    name = str(provider.get("env_key") or "")
    key = environment.get(name, "") or (environment.get("CODEX_API_KEY", "") if name == "OPENAI_API_KEY" else "")
    if name and not key:
        raise Shut(f"the environment has no {name}, the key of its model")
    chat = provider.get("wire_api") == "chat"
    posts = ("/chat/completions",) if chat else ("/responses", "/responses/compact")
    named = {**_mapping(provider.get("http_headers"))}
    named |= {each: environment.get(str(var), "") for each, var in _mapping(provider.get("env_http_headers")).items()}
    headers = {each: str(value) for each, value in named.items() if value}
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    allowed = frozenset({("GET", "/models"), *(("POST", each) for each in posts)})
    return _upstream(str(provider.get("base_url", "")), headers, allowed)


def provider_of(agent: Agent, environment: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the provider that Codex is configured with: one of the settings, else OpenAI."""
    used = agent.config.get("model_provider", "openai")
    found = _mapping(_mapping(agent.config.get("model_providers")).get(str(used)))
    if not found and used != "openai":
        raise Shut(f"its configuration names the provider '{used}' and does not say where that is")
    default = environment.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
    return found or {"base_url": default, "env_key": "OPENAI_API_KEY", "wire_api": "responses"}


def _claude(environment: Mapping[str, str]) -> Upstream:
    key, bearer = environment.get("ANTHROPIC_API_KEY", ""), environment.get("ANTHROPIC_AUTH_TOKEN", "")
    if not (key or bearer):
        raise Shut("the environment has no ANTHROPIC_API_KEY, the key of its model")
    headers = {"x-api-key": key} if key else {"Authorization": f"Bearer {bearer}"}
    allowed = {("POST", "/v1/messages"), ("POST", "/v1/messages/count_tokens"), ("GET", "/v1/models")}
    return _upstream(environment.get("ANTHROPIC_BASE_URL") or "https://api.anthropic.com", headers, frozenset(allowed))


def _upstream(url: str, headers: Mapping[str, str], allowed: frozenset[tuple[str, str]]) -> Upstream:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise Shut("the address of its model is no URL") from None
    secure = parts.scheme == "https"
    if not host or not (secure or (parts.scheme == "http" and host in LOOPBACK)):
        raise Shut("the address of its model must be https, or http on this machine's loopback")
    if parts.username or parts.query or parts.fragment:
        raise Shut("the address of its model must be a plain URL")
    path = parts.path.rstrip("/")
    return Upstream(
        secure=secure, host=host, port=port or (443 if secure else 80), path=path, headers=headers, allowed=allowed
    )


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# ------------------------------------------------------------------------------------------------ what may pass


def refusal(
    method: str, target: str, headers: Message, *, hosts: frozenset[str], token: str, upstream: Upstream
) -> tuple[int, str] | None:
    """Return the status and the reason with which a request is turned away, None if it may pass."""
    if not TARGET.fullmatch(target) or ".." in target:
        return 400, "only plain paths are asked for here"
    if len(headers.get_all("Host", [])) != 1 or headers["Host"] not in hosts:
        return 421, "this door leads to one place"
    if (method, target.partition("?")[0]) not in upstream.allowed:
        return 403, "this is no request of a driver"
    given = headers.get("Authorization", "").removeprefix("Bearer ") or headers.get("x-api-key", "")
    if not hmac.compare_digest(given.encode(errors="replace"), token.encode()):
        return 401, "this is not the token of this door"
    return _unfit(headers)


def _unfit(headers: Message) -> tuple[int, str] | None:
    """Return what is wrong with how long a request says it is."""
    lengths = headers.get_all("Content-Length", [])
    if "Transfer-Encoding" in headers or "Upgrade" in headers:
        return 411, "say how long it is"
    if len(lengths) > 1 or any(not re.fullmatch(r"[0-9]{1,12}", each) for each in lengths):
        return 400, "say once how long it is"
    return (413, "it is too long") if lengths and int(lengths[0]) > REQUEST_BYTES_MAX else None


class Scrub:
    """A stream in which secrets become asterisks, as many as they have bytes. It holds back nothing but what may be the
    beginning of one."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        self.secrets, self.held = secrets, b""

    def feed(self, chunk: bytes) -> bytes:
        data = self.held + chunk
        for each in self.secrets:
            data = data.replace(each, b"*" * len(each))
        kept = max((_beginning(data, each) for each in self.secrets), default=0)
        self.held = data[len(data) - kept :]
        return data[: len(data) - kept]

    def flush(self) -> bytes:
        held, self.held = self.held, b""
        return held


def _beginning(data: bytes, secret: bytes) -> int:
    """Return how many bytes at the end of `data` are the beginning of a secret."""
    longest = min(len(secret) - 1, len(data))
    return next((size for size in range(longest, 0, -1) if data.endswith(secret[:size])), 0)


# ------------------------------------------------------------------------------------------------ one exchange


class Door:
    """What all exchanges share: where it leads, who may come in, and how many at once."""

    def __init__(self, upstream: Upstream, port: int) -> None:
        self.upstream, self.token = upstream, secrets.token_urlsafe(24)
        self.hosts = frozenset(f"{each}:{port}" for each in ("127.0.0.1", "localhost"))
        self.room = threading.BoundedSemaphore(CONNECTIONS_MAX)

    def take(self, connection: socket.socket) -> None:
        """Answer what comes on a connection in a thread of its own; the caller has made room for it."""
        threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection, suppress(OSError):
                connection.settimeout(IDLE_S_MAX)
                Exchange(connection, self)
        finally:
            self.room.release()

    def connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self.upstream.secure else http.client.HTTPConnection
        return kind(self.upstream.host, self.upstream.port, timeout=IDLE_S_MAX)


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer; the connection is closed after it."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "door", ""

    def __init__(self, connection: socket.socket, door: Door) -> None:
        self.door = door
        super().__init__(connection, ("127.0.0.1", 0), None)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: what passes here is nobody's business."""

    def handle(self) -> None:
        self.close_connection = True
        self.handle_one_request()
        self.close_connection = True

    def do_HEAD(self) -> None:
        """Answer the question whether somebody is there; it is no question for the model."""
        self._say(200, "", body=False)

    def do_GET(self) -> None:
        self._pass()

    def do_POST(self) -> None:
        self._pass()

    def _refuse_method(self) -> None:
        self._say(405, "only what a driver asks for is asked here")

    do_CONNECT = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = _refuse_method  # noqa: N815

    def _pass(self) -> None:
        door = self.door
        target = [*self.requestline.split(" "), ""][1]
        said = refusal(self.command, target, self.headers, hosts=door.hosts, token=door.token, upstream=door.upstream)
        if said is not None:
            self._say(*said)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        model = door.connect()
        try:
            answer = self._asked(model, target, body)
            if answer is not None:
                self._relay(answer)
        finally:
            model.close()

    def _asked(self, model: http.client.HTTPConnection, target: str, body: bytes) -> http.client.HTTPResponse | None:
        """Return what the model begins to answer; where it cannot be reached, say so and return None."""
        upstream = self.door.upstream
        kept = {each: self.headers[each] for each in FORWARDED if each in self.headers}
        kept = {each: value for each, value in kept.items() if value.isprintable()}
        try:
            model.request(self.command, upstream.path + target, body=body or None, headers={**kept, **upstream.headers})
            return model.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self._say(502, f"the model cannot be reached: {type(error).__name__}")
            return None

    def _relay(self, answer: http.client.HTTPResponse) -> None:
        """Pass an answer on as it comes. One that is cut is cut here as well: its end is not made up."""
        scrub, deadline = Scrub(self.door.upstream.secrets), time.monotonic() + EXCHANGE_S_MAX
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if RETURNED.fullmatch(name.lower()) and value.isprintable():
                self.send_header(name, (scrub.feed(value.encode()) + scrub.flush()).decode())
        chunked = answer.length is None and self.command != "HEAD" and answer.status not in (204, 304)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        passed = 0
        with suppress(OSError, http.client.HTTPException):
            while chunk := answer.read1(READ_BYTES):
                passed += len(chunk)
                if passed > RESPONSE_BYTES_MAX or time.monotonic() > deadline:
                    return
                self._write(scrub.feed(chunk), chunked)
            if not answer.length:
                self._write(scrub.flush(), chunked)
                self.wfile.write(b"0\r\n\r\n" if chunked else b"")

    def _write(self, data: bytes, chunked: bool) -> None:
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
            self.wfile.flush()

    def _say(self, status: int, reason: str, *, body: bool = True) -> None:
        data = json.dumps({"error": {"type": "door", "message": reason}}).encode() if body else b""
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)


# ------------------------------------------------------------------------------------------------ the process


def main(control: str) -> int:
    """Serve the agent that standard input describes until nobody holds the other end of the socket with this number."""
    with socket.socket(fileno=int(control)) as inside:
        inside.set_inheritable(False)
        agent = codec.load(Agent, json.loads(sys.stdin.buffer.read(ORDER_BYTES_MAX)))
        _, descriptors, _, _ = socket.recv_fds(inside, 64, 1)
        if not descriptors:
            return 0
        with socket.socket(fileno=descriptors[0]) as listener:
            try:
                upstream = upstream_of(agent, {**os.environ, **agent.env})
            except Shut as shut:
                inside.sendall(json.dumps({"reason": str(shut)}).encode() + b"\n")
                return 0
            door = Door(upstream, listener.getsockname()[1])
            inside.sendall(json.dumps({"token": door.token}).encode() + b"\n")
            _serve(door, listener, inside)
    # Whatever is still under way ends with the process.
    os._exit(0)


def _serve(door: Door, listener: socket.socket, inside: socket.socket) -> None:
    """Take every connection for which there is room, until the other end of the control socket is closed."""
    listener.setblocking(False)
    while True:
        room = door.room.acquire(blocking=False)
        ready, _, _ = select.select([inside, *([listener] if room else [])], [], [], None if room else FULL_S)
        taken = False
        with suppress(OSError):
            if listener in ready:
                connection, _ = listener.accept()
                connection.setblocking(True)
                door.take(connection)
                taken = True
        if room and not taken:
            door.room.release()
        if inside in ready and not _still_held(inside):
            return


def _still_held(inside: socket.socket) -> bool:
    try:
        return bool(inside.recv(64))
    except OSError:
        return False
