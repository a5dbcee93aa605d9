"""`reconciler start`: a request written and committed, then reconciled."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from reconciler import parse, resolve
from reconciler.commands.reconcile import duration
from reconciler.errors import ContentError, TipMoved, TransientError, UsageError
from reconciler.git import Draft
from reconciler.loop import pass_lock
from reconciler.model import Rejection, Request, RunId, Source
from reconciler.session import Session, exit_code, outcomes, run_document
from reconciler.terminal import coloured, format_option, print_json

TRIES_MAX = 10


@click.command(short_help="write and commit a request, then reconcile it")
@click.argument("pipeline")
@click.option(
    "--task",
    required=True,
    envvar=["RECONCILER_TASK_ID", "MCP_RUNNER_TASK_ID"],
    show_envvar=True,
    help="The task the run belongs to.",
)
@click.option(
    "--target",
    envvar=["RECONCILER_TARGET_STAGE", "CODEX_ORCHESTRATOR_TARGET_STAGE"],
    show_envvar=True,
    help="Run this stage and what it needs, nothing else.",
)
@click.option("--param", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter; repeat for more.")
@click.option("--title", help="What people read in tables.")
@click.option("--proves", multiple=True, metavar="ITEM", help="A checklist item that success ticks; repeat for more.")
@click.option("--timeout", metavar="DURATION", help="Stop waiting after this long; the run goes on.")
@click.option("--no-wait", is_flag=True, help="Launch it and return.")
@format_option
@click.pass_obj
def command(repo: str, /, pipeline: str, timeout: str | None, no_wait: bool, form: str, **asked: Any) -> int:
    """Write a request to runs.d/, commit it, and reconcile until its evidence is committed.

    \b
    reconciler start diagnostics --task 0001-demo
    reconciler start build --task 0001-demo --target lint --param python=3.12 --format json

    Your index and working tree are not touched, only the new file appears. Exit codes as for reconcile --wait.
    """  # fmt: skip
    session = Session(Path(repo), quiet=form == "json")
    content = _render({"pipeline": pipeline, **asked, "parameters": parameters(asked["parameters"])})
    request = _commit(session, pipeline, content)
    run_id = resolve.run_id(request)
    session.loop.concerned.add(run_id)
    deadline_s = time.monotonic() + duration(timeout) if timeout else None
    result = session.run(wait=not no_wait, deadline_s=deadline_s, goal=run_id)
    if form == "json":
        print_json(run_document(session, result, run_id))
    else:
        _conclude(
            session, run_id, outcomes(session, result).get(run_id, "absent"), run_document(session, result, run_id)
        )
    return exit_code(session, result, waited=not no_wait, goal=run_id)


def _conclude(session: Session, run_id: RunId, word: str, facts: Mapping[str, Any]) -> None:
    click.echo(f"{coloured(word)}  {run_id}")
    click.echo(f"manifest  {facts['manifest']}")
    if facts["log_path"]:
        click.echo(f"log       {facts['log_path']}")


def parameters(given: tuple[str, ...]) -> dict[str, Any]:
    """Return KEY=VALUE words as parameters; values stay text, so that 3.10 does not become 3.1."""
    found: dict[str, Any] = {}
    for word in given:
        key, separator, value = word.partition("=")
        if not separator or not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", key):
            raise UsageError(f"--param {word!r}: write KEY=VALUE, KEY in lower-case letters, digits and '_'")
        found[key] = value
    return found


def _render(asked: Mapping[str, Any]) -> bytes:
    """Return the request as YAML, leaving out what was not said."""
    from ruamel.yaml import YAML

    keys = ("task", "pipeline", "title", "target", "parameters", "proves")
    said = {key: list(asked[key]) if isinstance(asked[key], tuple) else asked[key] for key in keys if asked.get(key)}
    buffer = io.BytesIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 4096
    yaml.dump(said, buffer)
    return buffer.getvalue()


def _commit(session: Session, pipeline: str, content: bytes) -> Request:
    """Commit the request under the next free number on the tip, again if the tip moves meanwhile."""
    identity = session.world.repository.identity()
    for _ in range(TRIES_MAX):
        try:
            with pass_lock(session.world):
                return _commit_once(session, pipeline, content, identity)
        except TipMoved:
            session.loop.observer.online = False
            session.loop.contact.spread()
    raise TransientError(f"the branch moved {TRIES_MAX} times while the request was committed; try again")


def _commit_once(session: Session, pipeline: str, content: bytes, identity: str) -> Request:
    world, observer = session.world, session.loop.observer
    session.loop.contact.ask_if_due()
    seen = observer.observe()
    if world.remote is not None and not observer.online:
        raise TransientError(
            f"{world.remote.name} does not answer, and a request must be pushed there; try again later"
        )
    path = f"runs.d/{_next_name(set(seen.desired.names), pipeline)}.yaml"
    request = parse.parse_request(content, Source(path=path), world.contracts)
    plan = request if isinstance(request, Rejection) else observer.tip.plan_for(request)
    if isinstance(plan, Rejection) or isinstance(request, Rejection):
        problems = plan.problems if isinstance(plan, Rejection) else ()
        raise ContentError("\n".join(each.sentence().removeprefix(f"{path}: ") for each in problems))
    draft = Draft(
        parent=seen.tip,
        files={path: content},
        message=f"runs: start {pipeline} for {request.task}\n",
        identity=identity,
        epoch_s=int(datetime.now(UTC).timestamp()),
    )
    session.loop.commit(seen, draft)
    return request


def _next_name(names: set[Any], pipeline: str) -> str:
    """Return `NNNN-<pipeline>`, one above the highest number in use."""
    numbers = [int(found[0]) for name in names if (found := re.match(r"\d{1,8}", name))]
    return f"{max(numbers, default=0) + 1:04d}-{pipeline}"
