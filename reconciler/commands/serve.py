"""`reconciler serve`: the loop of `watch` with a web face."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.installed import need_modules
from reconciler.listening import (
    LOOPBACK_HOSTS,
    bind,
    parse_address,
    read_secret,
    refuse_openness,
    shown,
)
from reconciler.process import Workers
from reconciler.readiness import take_readiness
from reconciler.terminal import format_option

if TYPE_CHECKING:
    from reconciler.board import Board
    from reconciler.webserver import Door, WebServer

INTERRUPTED = 130
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
    place = parse_address("--address", address)
    token = read_secret("token", token_file, token_env)
    door = _door(place[0], names, token, read_secret("hook", hook_secret_file, hook_secret_env))
    refuse_openness("--address", place[0], door.token, insecure)
    return _serve(Path(repo).resolve(), place, door, title, form)


def _serve(directory: Path, place: tuple[str, int], door: Door, title: str | None, form: str) -> int:
    """Watch a repository and show it at a host and a port, until a signal ends that; return the exit code."""
    readiness, workers = take_readiness(), Workers()
    workers.prepare()
    from reconciler.board import Board
    from reconciler.commands.watch import beginning, conclude, warm
    from reconciler.tidings import Lines
    from reconciler.watcher import Watcher

    board = Board(Lines(form))
    watcher = Watcher(beginning(directory, workers), board, readiness, warm=warm)
    server = _web_server(directory, place, door, title, board, watcher.wake)
    board.watch = server.watch
    server.start()
    try:
        watcher.run()
    finally:
        server.stop()
    return conclude(watcher)


def _web_server(
    directory: Path,
    place: tuple[str, int],
    door: Door,
    title: str | None,
    board: Board,
    wake: Callable[[str], None],
) -> WebServer:
    """Return the server of the web face, which listens by now; say where."""
    from reconciler.webface import WebFace
    from reconciler.webserver import App, WebServer
    from reconciler.world import open_world

    listening = bind(*place)
    face = WebFace(lambda: open_world(directory), board, (title or directory.name or "runs")[:100])
    click.echo(f"http://{shown(place[0])}:{listening.getsockname()[1]}/", err=True)
    return WebServer(App(face, board, door, wake), listening)


def _door(host: str, names: tuple[str, ...], token: bytes, hook_secret: bytes) -> Door:
    from reconciler.webserver import Door

    hosts = {*LOOPBACK_HOSTS, host.lower(), *(each.lower() for each in names)}
    return Door(hosts=frozenset(hosts), token=token, hook_secret=hook_secret)
