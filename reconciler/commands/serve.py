"""`reconciler serve`: the loop of `watch` with a web face."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.errors import UsageError
from reconciler.process import Workers
from reconciler.readiness import take_readiness
from reconciler.terminal import format_option

if TYPE_CHECKING:
    from reconciler.webserver import Door
    from reconciler.world import World

INTERRUPTED = 130
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 16, 1024
MODULES = ("jinja2", "prometheus_client", "starlette", "uvicorn")


@click.command(short_help="watch, and show runs, logs and metrics on a web page")
@click.option("--address", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="Where to listen.")
@click.option("--token-file", metavar="FILE", help="A file that holds the token for POST /wake.")
@click.option(
    "--token-env", default="RECONCILER_SERVE_TOKEN", show_default=True, metavar="NAME",
    help="The environment variable that holds it instead.",
)  # fmt: skip
@click.option("--hook-secret-file", metavar="FILE", help="A file that holds the secret of webhooks.")
@click.option(
    "--hook-secret-env", default="RECONCILER_HOOK_SECRET", show_default=True, metavar="NAME",
    help="The environment variable that holds it instead.",
)  # fmt: skip
@click.option("--public-name", "names", multiple=True, metavar="HOST", help="A further host name it is reached by.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without a token.")
@click.option("--title", metavar="TEXT", help="What the pages are called (default: the name of the repository).")
@format_option
@click.pass_obj
def command(
    repo: str,
    address: str,
    token_file: str | None,
    token_env: str,
    hook_secret_file: str | None,
    hook_secret_env: str,
    names: tuple[str, ...],
    insecure: bool,
    title: str | None,
    form: str,
) -> int:
    """Do what `reconciler watch` does, and show it: runs with their stages, logs that follow, the queue, checklists.

    \b
    reconciler serve                                   # http://127.0.0.1:8080
    reconciler serve --address 127.0.0.1:0             # any free port; it is printed
    openssl rand -hex 24 > ~/.wake && reconciler serve --token-file ~/.wake
    curl -X POST -H "Authorization: Bearer $(cat ~/.wake)" http://127.0.0.1:8080/wake

    Whoever reaches it can read: on a machine of many people, or beyond it, put a proxy before it that asks who they
    are, and name the host it is reached by with --public-name. Beyond this machine it listens only with a token or
    --insecure. A token lets one wake the loop, no more. Webhooks of forges go to /hooks/github, /hooks/gitlab and
    /hooks/gitea, signed with the secret; all they do is wake the loop. For machines: /healthz, /readyz, /metrics.

    Exit codes: 0 ended by SIGTERM, 130 by Ctrl-C, 2 wrong usage, 75 another watcher is at work in this clone.
    """
    need_modules("serve", "serve", MODULES)
    host, port = address_of(address)
    door = _door(
        host, names, secret_of("token", token_file, token_env), secret_of("hook", hook_secret_file, hook_secret_env)
    )
    _refuse_openness(host, door, insecure)
    readiness = take_readiness()
    workers = Workers()
    workers.prepare()
    from reconciler.board import Board
    from reconciler.commands.watch import beginning, conclude, warm
    from reconciler.tidings import Lines
    from reconciler.watcher import Watcher
    from reconciler.webface import WebFace
    from reconciler.webserver import App, WebServer, bind
    from reconciler.world import open_world

    directory = Path(repo).resolve()

    def beside() -> World:
        return open_world(directory)

    board = Board(Lines(form))
    watcher = Watcher(beginning(directory, workers), board, readiness, warm=warm)
    listening = bind(host, port)
    face = WebFace(beside, board, (title or directory.name or "runs")[:100])
    server = WebServer(App(face, board, door, watcher.wake), listening)
    board.watch = server.watch
    click.echo(f"http://{shown(host)}:{listening.getsockname()[1]}/", err=True)
    server.start()
    try:
        watcher.run()
    finally:
        server.stop()
    return conclude(watcher)


def need_modules(verb: str, extra: str, modules: Sequence[str]) -> None:
    """Raise UsageError, with the cure, where an extra is not installed."""
    from importlib.util import find_spec

    missing = [each for each in modules if find_spec(each) is None]
    if missing:
        cure = f"run: python3 -m pip install 'gitops-reconciler[{extra}]'"
        raise UsageError(f"{verb} needs {', '.join(missing)}, which the extra '{extra}' brings; {cure}")


def address_of(text: str) -> tuple[str, int]:
    """Return host and port. Raise UsageError if the text is not both."""
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UsageError(f"--address {text}: not a host and a port; for example 127.0.0.1:8080 or [::1]:8080")
    return host.removeprefix("[").removesuffix("]"), int(port)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_openness(host: str, door: Door, insecure: bool) -> None:
    if not (is_loopback(host) or door.token or insecure):
        cure = "give a token (--token-file), listen on 127.0.0.1, or say --insecure"
        raise UsageError(f"--address {host}: others can reach it, and there is no token; {cure}")


def _door(host: str, names: tuple[str, ...], token: bytes, hook_secret: bytes) -> Door:
    from reconciler.webserver import Door

    hosts = {"localhost", "127.0.0.1", "::1", host.lower(), *(each.lower() for each in names)}
    return Door(hosts=frozenset(hosts), token=token, hook_secret=hook_secret)


def secret_of(what: str, file: str | None, variable: str) -> bytes:
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


def shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
