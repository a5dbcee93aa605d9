"""`reconciler mcp`: the door for agents, over standard input and output or over HTTP."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.errors import UsageError
from reconciler.installed import need_modules
from reconciler.listening import LOOPBACK_HOSTS, bind, is_loopback, parse_address, read_secret, shown

if TYPE_CHECKING:
    from reconciler.mcpface import Door

ALLOWED = ("submit", "ask", "cancel", "resume", "reconcile")
MODULES = ("mcp", "starlette", "uvicorn")


@click.command(short_help="let agents look, and ask for runs, through the Model Context Protocol")
@click.option(
    "--allow",
    default="",
    metavar="WORDS",
    help=f"What agents may do beside looking: {', '.join(ALLOWED)}; with commas.",
)
@click.option("--http", "address", metavar="HOST:PORT", help="Listen there instead of speaking on standard streams.")
@click.option("--token-file", metavar="FILE", help="With --http: a file that holds the token clients must know.")
@click.option(
    "--token-env", default="RECONCILER_MCP_TOKEN", show_default=True, metavar="NAME",
    help="The environment variable that holds it instead.",
)  # fmt: skip
@click.option("--public-name", "names", multiple=True, metavar="HOST", help="A further host name it is reached by.")
@click.pass_obj
def command(
    repo: str, allow: str, address: str | None, token_file: str | None, token_env: str, names: tuple[str, ...]
) -> int:
    """Let a coding agent validate and plan requests, look at runs, wait for them, and read logs and evidence.

    \b
    reconciler mcp                               # a client starts it and speaks on its standard streams
    reconciler mcp --allow submit,ask            # agents may also ask for runs, and ask people
    reconciler mcp --http 127.0.0.1:8765         # at http://127.0.0.1:8765/mcp, for this machine only
    openssl rand -hex 24 > ~/.mcp && reconciler mcp --http 0.0.0.0:8765 --token-file ~/.mcp --public-name ci.example.com

    Without --allow nothing can be changed through it. Nothing in it decides at a gate: people do. The setting 'mcp'
    says whether a request of an agent is committed onto the branch, onto one of its own, or as a pull request. With
    'reconcile' passes are done while an agent waits; without, a watcher must run. Beyond this machine it listens only
    with a token.

    Exit codes: 0 the client has gone, or it was told to end while it listened, 130 Ctrl-C, 2 wrong usage.
    """
    allowed = _allowed(allow)
    need_modules("mcp", "agents", MODULES)
    token = read_secret("token", token_file, token_env)
    if address is None and (token_file or names):
        raise UsageError("--token-file and --public-name need --http HOST:PORT")
    from reconciler.mcpface import Door, server
    from reconciler.world import open_world

    directory = Path(repo).resolve()
    # What is wrong here is said before a client waits for an answer.
    open_world(directory).repository.objects.close()
    door = Door(directory, allowed)
    try:
        if address is None:
            from reconciler.mcpserver import serve_stdio

            serve_stdio(server(door))
        else:
            _listen(door, address, token, names)
    finally:
        door.close()
    return 0


def _allowed(text: str) -> frozenset[str]:
    """Return what is allowed. Raise UsageError for a word that is none."""
    words = [each.strip() for each in text.split(",") if each.strip()]
    unknown = next((each for each in words if each not in ALLOWED), None)
    if unknown is not None:
        raise UsageError(f"--allow {unknown}: nothing of that name can be allowed; known are {', '.join(ALLOWED)}")
    return frozenset(words)


def _listen(door: Door, address: str, token: bytes, names: tuple[str, ...]) -> None:
    from reconciler.mcpface import server
    from reconciler.mcpserver import PATH, Guard, serve_http

    host, port = parse_address("--http", address)
    if not (is_loopback(host) or token):
        cure = "give a token (--token-file), or listen on 127.0.0.1"
        raise UsageError(f"--http {host}: others can reach it, and there is no token; {cure}")
    hosts = {*LOOPBACK_HOSTS, host.lower(), *(each.lower() for each in names)}
    listening = bind(host, port)
    click.echo(f"http://{shown(host)}:{listening.getsockname()[1]}{PATH}", err=True)
    # The server ends what it is at, and then raises the signal that ended it once more.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    serve_http(server(door), Guard(hosts=frozenset(hosts), token=token), listening)
