"""`reconciler start`: a request written and committed, then reconciled."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from reconciler import completing
from reconciler.commands.reconcile import duration
from reconciler.errors import UsageError
from reconciler.model import RunId
from reconciler.session import BLOCKED, Session, exit_code, outcomes, run_document
from reconciler.submitting import submit
from reconciler.terminal import coloured, format_option, print_json


@click.command(short_help="write and commit a request, then reconcile it")
@click.argument("pipeline", shell_complete=completing.pipelines)
@click.option(
    "--task",
    required=True,
    shell_complete=completing.tasks,
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
    said = _said({"pipeline": pipeline, **asked, "parameters": parameters(asked["parameters"])})
    run_id = submit(session.loop, said).run_id
    session.loop.concerned.add(run_id)
    deadline_s = time.monotonic() + duration(timeout) if timeout else None
    result = session.run(wait=not no_wait, deadline_s=deadline_s, goal=run_id)
    if form == "json":
        print_json(run_document(session, result, run_id))
    else:
        _conclude(
            session, run_id, outcomes(session, result).get(run_id, "absent"), run_document(session, result, run_id)
        )
    code = exit_code(session, result, waited=not no_wait, goal=run_id)
    if code == BLOCKED:
        session.say_hindrance(result)
    return code


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


def _said(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request, leaving out what was not said."""
    keys = ("task", "pipeline", "title", "target", "parameters", "proves")
    return {key: asked[key] for key in keys if asked.get(key)}
