"""How the door for agents is reached: over standard input and output, or over HTTP with a guard before it.

The guard answers before anything else does: who names another host, comes from the page of another one, or has not got
the token, learns nothing.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from reconciler.listening import host_of, http_server
from reconciler.values import frozen

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PATH = "/mcp"
BODY_BYTES_MAX = 1024 * 1024
SESSIONS_MAX = 64
SESSION_IDLE_S = 900.0
CONNECTIONS_MAX = 128


@frozen
class Guard:
    """Who may come in: the hosts a request may name, also as where it comes from, and the token, b"" for none."""

    hosts: frozenset[str]
    token: bytes = b""

    def refusal(self, headers: Headers) -> tuple[int, str] | None:
        """Return status and sentence for who may not come in, None for who may."""
        if host_of(headers.get("host", "")) not in self.hosts:
            return 421, "421: this is not the host that is meant; name it with --public-name\n"
        origin = headers.get("origin")
        if origin is not None and _host_of_origin(origin) not in self.hosts:
            return 403, "403: a page of another host may not ask here\n"
        said = headers.get("authorization", "").encode("utf-8", "replace")
        if self.token and not hmac.compare_digest(said, b"Bearer " + self.token):
            return 401, "401: a token is needed\n"
        return None


def _host_of_origin(origin: str) -> str:
    """Return the host of the page that asks, "" for one that says none (`null`)."""
    try:
        return (urlsplit(origin).hostname or "").lower()
    except ValueError:
        return ""


def guarded(app: App, guard: Guard) -> App:
    """Return an application that lets in only whom the guard does."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        refused = guard.refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        if refused is None:
            await app(scope, receive, send)
            return
        status, text = refused
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        await PlainTextResponse(text, status, headers)(scope, receive, send)

    return answer


def application(server: MCPServer[Any], guard: Guard) -> App:
    """Return the application that speaks the protocol at PATH, bounded, behind the guard."""
    # The guard knows hosts by their names, whatever the port; the check of the SDK would ask for it again.
    checked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    found = server.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=BODY_BYTES_MAX,
        max_sessions=SESSIONS_MAX,
        session_idle_timeout=SESSION_IDLE_S,
        transport_security=checked,
    )
    return guarded(found, guard)


def serve_http(server: MCPServer[Any], guard: Guard, listening: socket.socket) -> None:
    """Answer at a socket until SIGINT or SIGTERM."""
    app = application(server, guard)
    http_server(app, connections_max=CONNECTIONS_MAX, grace_s=2, lifespan="on").run(sockets=[listening])


def serve_stdio(server: MCPServer[Any]) -> None:
    """Answer on standard input and output until the client closes them."""
    anyio.run(server.run_stdio_async)
