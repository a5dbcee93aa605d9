"""The edge to whoever connects to us: where to listen, which hosts are meant, and the secrets that let one in."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Any, Literal

from reconciler.errors import UsageError

SECRET_BYTES_MIN, SECRET_BYTES_MAX = 16, 1024
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


def parse_address(option: str, text: str) -> tuple[str, int]:
    """Return host and port. Raise UsageError if the text is not both."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(f"{option} {text}: not a host and a port; for example 127.0.0.1:8080 or [::1]:8080")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_openness(option: str, host: str, token: bytes, insecure: bool) -> None:
    """Raise UsageError where others could reach what nobody needs a token for."""
    if not (is_loopback(host) or token or insecure):
        cure = "give a token (--token-file), listen on 127.0.0.1, or say --insecure"
        raise UsageError(f"{option} {host}: others can reach it, and there is no token; {cure}")


def read_secret(what: str, file: str | None, variable: str) -> bytes:
    """Return a secret from a file or the environment, b"" if there is none. It is taken out of the environment, so that
    no stage of a run inherits it."""
    if file is None:
        said = os.environ.pop(variable, "").strip().encode("utf-8", "surrogateescape")
        return _checked(said, f"${variable}") if said else b""
    try:
        with open(file, "rb") as stream:
            said = stream.read(SECRET_BYTES_MAX + 1).strip()
    except OSError as error:
        raise UsageError(f"--{what}: {file}: {error.strerror}") from None
    return _checked(said, file)


def _checked(secret: bytes, where: str) -> bytes:
    """Return a secret. Raise UsageError if it can be guessed, or is none."""
    if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        cure = "for example: openssl rand -hex 24"
        raise UsageError(f"{where}: a secret has {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} characters; {cure}")
    return secret


def bind(address: str, port: int) -> socket.socket:
    """Return a socket that listens. Raise UsageError if the address cannot be had."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(place)
        found.listen(128)
    except OSError as error:
        cure = "end what listens there, or name another address"
        raise UsageError(f"{address}:{port}: {error.strerror or error}; {cure}") from None
    return found


def http_server(
    app: Any, *, connections_max: int, grace_s: int, lifespan: Literal["on", "off"] = "off", date_header: bool = True
) -> Any:
    """Return a server of uvicorn that says nothing of itself, believes no proxy and is bounded in all that clients can
    make it hold. What is under way when it ends has `grace_s` seconds."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan=lifespan,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=date_header,
        proxy_headers=False,
        limit_concurrency=connections_max,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=grace_s,
        h11_max_incomplete_event_size=16 * 1024,
    )
    return uvicorn.Server(config)


def host_of(header: str) -> str:
    """Return the name in a Host header, without the port, in lower case."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].removesuffix(".")


def shown(host: str) -> str:
    """Return a host as it stands in an address."""
    return f"[{host}]" if ":" in host else host
