"""`reconciler control`: run requests for a control plane, and the reference control plane itself."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler import codec
from reconciler.errors import ContentError, TransientError, UsageError
from reconciler.installed import need_modules
from reconciler.listening import LOOPBACK_HOSTS, bind, http_server, parse_address, read_secret, refuse_openness, shown
from reconciler.model import ControlError, Plan, RunId
from reconciler.terminal import format_option, print_json, single_line
from reconciler.world import World, open_world

if TYPE_CHECKING:
    from reconciler.observe import Observer
    from reconciler.survey import Survey

FILE_BYTES_MAX = 1024 * 1024
MODULES = ("fastapi", "uvicorn")
CONNECTIONS_MAX = 128


@click.group(short_help="export, convert and validate run requests; serve a control plane")
def command() -> None:
    """Show a control plane what runs will do before they begin, and serve one.

    \b
    reconciler control export 0001-diagnostics > request.json
    reconciler control validate request.json
    reconciler control convert old-request.json > request.json
    reconciler control serve --data control.sqlite

    Passes ask a control plane by themselves where the setting control_plane names one.
    """


# ------------------------------------------------------------------------------------------------ documents


@command.command(short_help="print the run request of a run, or of all that would begin")
@click.argument("run", required=False, metavar="[RUN|REQUEST]")
@click.pass_obj
def export(repo: str, run: str | None) -> int:
    """Print what a control plane is shown of a run: version 2 of the run request, as JSON. Without a name, one line for
    each run that a pass would launch now. Nothing is sent anywhere.

    \b
    reconciler control export 0001-diagnostics
    reconciler control export | jq .pipeline.capabilities

    Exit codes: 0 printed, 1 the request cannot be planned, 2 there is no such run.
    """
    from reconciler.observe import Observer
    from reconciler.survey import find_run, survey

    world = open_world(Path(repo))
    found = survey(world, complete=True)
    if run is not None:
        observer = Observer(world)
        observer.recall()
        observer.observe()
        plan = _plan_of(world, observer, found, find_run(found, run))
        click.echo(codec.render(_document(world, found, plan)).decode(), nl=False)
        return 0
    for plan in _launched(found):
        click.echo(codec.compact(_document(world, found, plan)).decode(), nl=False)
    return 0


def _launched(found: Survey) -> Iterator[Plan]:
    from reconciler.actions import Launch

    yield from (each.plan for each in found.actions if isinstance(each, Launch) and each.outcome is None)


def _plan_of(world: World, observer: Observer, found: Survey, run_id: RunId) -> Plan:
    """Return the frozen plan of a run, or what its request comes to at the tip. Raise ContentError if that is none."""
    from reconciler.records import read_records
    from reconciler.survey import task_of

    there = world.runs.observe(task_of(found, run_id), run_id)
    if there is not None:
        try:
            return read_records(world, there.task_id, run_id).plan
        except TransientError:
            pass  # its plan is lost here; the request says it again
    wish = observer.wish_of(run_id, there.fired_at if there is not None else "")
    if wish is None:
        raise ContentError(f"{run_id}: no request at the tip asks for it, and its plan is not here")
    if not isinstance(wish.plan, Plan):
        raise ContentError("\n".join(each.sentence() for each in wish.plan.problems))
    return wish.plan


def _document(world: World, found: Survey, plan: Plan) -> Any:
    from reconciler.control.request import run_request

    change = world.repository.last_change(plan.commit, plan.request.path)
    level = found.seen.settings.control_plane.privacy_level
    actor = change.author if change is not None else ""
    return run_request(plan, privacy_level=level, actor=actor, at=world.now().at)


@command.command(short_help="print an older run request as version 2")
@click.argument("file", metavar="FILE")
def convert(file: str) -> int:
    """Print a run request of version 1, or one of the Node orchestrator, as version 2. What has no place there is told
    on standard error. FILE is JSON; `-` reads standard input.

    \b
    reconciler control convert old-request.json > request.json

    Exit codes: 0 converted, 1 it is no run request, or would not be a valid one.
    """
    from reconciler.control.convert import convert as converted
    from reconciler.process import instant

    found = converted(_read(file), at=instant().at)
    click.echo(codec.render(found.document).decode(), nl=False)
    for each in found.dropped:
        click.echo(single_line(f"{file}: {each} has no equivalent and is left out"), err=True)
    errors = _errors(found.document)
    _tell(file, errors, err=True)
    return 1 if errors else 0


@command.command(short_help="say what is wrong with a run request, by place")
@click.argument("file", metavar="FILE")
@format_option
def validate(file: str, form: str) -> int:
    """Hold a run request against the published schema and the rules a schema cannot say. FILE is JSON; `-` reads
    standard input.

    \b
    reconciler control validate request.json
    reconciler control export 0001-diagnostics | reconciler control validate - --format json

    Exit codes: 0 valid, 1 not.
    """
    errors = _errors(_read(file))
    if form == "json":
        print_json({"outcome": "invalid" if errors else "valid", "errors": errors})
    else:
        _tell(file, errors)
        if not errors:
            click.echo(f"{file}: valid")
    return 1 if errors else 0


def _errors(document: object) -> tuple[ControlError, ...]:
    from reconciler.contracts import Contracts
    from reconciler.control.rules import errors_of

    return errors_of(document, Contracts())


def _tell(file: str, errors: tuple[ControlError, ...], *, err: bool = False) -> None:
    for each in errors:
        click.echo(single_line(f"{file} at {each.path or 'the whole'}: {each.message}"), err=err)


def _read(file: str) -> object:
    """Return what a file says. Raise UsageError if it cannot be read, ContentError if it is no document."""
    from reconciler.control.reading import Unreadable, read

    try:
        if file == "-":
            data = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with open(file, "rb") as stream:
                data = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}; name a file that can be read") from None
    if len(data) > FILE_BYTES_MAX:
        raise ContentError(f"{file}: more than {FILE_BYTES_MAX} bytes; a run request is smaller")
    try:
        return read(data)
    except Unreadable as reason:
        raise ContentError(f"{file}: {reason}; a run request is a JSON object") from None


# ------------------------------------------------------------------------------------------------ the server


@command.command(short_help="serve the reference control plane")
@click.option("--listen", default="127.0.0.1:8090", show_default=True, metavar="HOST:PORT", help="Where to listen.")
@click.option(
    "--data", default="control.sqlite", show_default=True, metavar="FILE", help="The SQLite file of what is kept."
)
@click.option("--token-file", metavar="FILE", help="A file that holds the token that clients must bear.")
@click.option(
    "--token-env", default="RECONCILER_CONTROL_TOKEN", show_default=True, metavar="NAME",
    help="The environment variable that holds it instead.",
)  # fmt: skip
@click.option(
    "--capability", "capabilities", multiple=True, metavar="NAME",
    help="What is offered to stages; a run that needs something else is refused (default: everything).",
)  # fmt: skip
@click.option("--public-name", "names", multiple=True, metavar="HOST", help="A further host name it is reached by.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without a token.")
def serve(
    listen: str,
    data: str,
    token_file: str | None,
    token_env: str,
    capabilities: tuple[str, ...],
    names: tuple[str, ...],
    insecure: bool,
) -> int:
    """Serve a control plane: it judges run requests, keeps them and the manifests of ended runs, and compares both.

    \b
    reconciler control serve                                    # http://127.0.0.1:8090, kept in control.sqlite
    reconciler control serve --listen 127.0.0.1:0               # any free port; it is printed
    openssl rand -hex 24 > ~/.control && reconciler control serve --token-file ~/.control
    reconciler control serve --capability command --capability agent:codex
    curl -H "Authorization: Bearer $(cat ~/.control)" http://127.0.0.1:8090/v2/requests

    It describes itself at /openapi.json and says at /healthz whether it is well. Beyond this machine it listens only
    with a token or --insecure; put a proxy with TLS before it there, and name the host it is reached by with
    --public-name. SIGTERM and Ctrl-C let what is under way come to its end.

    Exit codes: 0 ended by SIGTERM or Ctrl-C, 2 wrong usage.
    """
    need_modules("control serve", "serve", MODULES)
    host, port = parse_address("--listen", listen)
    token = read_secret("token-file", token_file, token_env)
    refuse_openness("--listen", host, token, insecure)
    from reconciler.contracts import Contracts
    from reconciler.control.server import House, build
    from reconciler.control.store import Store

    hosts = frozenset({*LOOPBACK_HOSTS, host.lower(), *(each.lower() for each in names)})
    store = Store(Path(data))
    listening = bind(host, port)
    app = build(store, Contracts(), House(hosts=hosts, token=token, capabilities=frozenset(capabilities)))
    click.echo(f"http://{shown(host)}:{listening.getsockname()[1]}/", err=True)
    try:
        _serve(app, listening)
    finally:
        listening.close()
        store.close()
    return 0


def _serve(app: Any, listening: Any) -> None:
    """Answer until a signal asks to end; what is under way has three seconds to come to its end."""
    server = http_server(app, connections_max=CONNECTIONS_MAX, grace_s=3)

    def end(number: int, frame: object) -> None:
        server.should_exit = True

    # Its own handlers would let the signal end the process once more behind them.
    server.install_signal_handlers = lambda: None
    server.capture_signals = _no_signals
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    server.run(sockets=[listening])


def _no_signals() -> Any:
    from contextlib import nullcontext

    return nullcontext()
