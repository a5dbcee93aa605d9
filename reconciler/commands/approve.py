"""`reconciler approve`: a decision on a gate, written and committed; `reject` is its twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from reconciler import completing, deciding
from reconciler.model import Choice
from reconciler.session import Session
from reconciler.survey import find_run, survey
from reconciler.terminal import format_option, print_json, single_line


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb what both decisions need."""
    for each in reversed(
        (
            click.argument("run", shell_complete=completing.runs),
            click.option("--stage", help="The stage behind the gate (default: the one that waits)."),
            click.option("--reason", required=True, help="Why; it is recorded in the manifest."),
            click.option("--sign", is_flag=True, help="Sign the commit, as git is configured to."),
            format_option,
        )
    ):
        function = each(function)
    return function


@click.command(short_help="let a run that waits at a gate go on")
@options
@click.pass_obj
def command(repo: str, run: str, stage: str | None, reason: str, sign: bool, form: str) -> int:
    """Approve what a run asks at a gate: write the decision to runs.d/ and commit it as yourself.

    \b
    reconciler approve 0001-release --reason "changelog checked"
    reconciler approve 0001-release --stage ship --reason "changelog checked" --sign

    The decision holds for this run and this plan only. The next pass goes on with the run, wherever it is made.
    """
    return decide(repo, run, stage, reason, Choice.APPROVE, sign=sign, form=form)


def decide(repo: str, run: str, stage: str | None, reason: str, choice: Choice, *, sign: bool, form: str) -> int:
    """Commit a decision on the tip and say so."""
    session = Session(Path(repo), quiet=True)
    run_id = find_run(survey(session.world), run)
    decided = deciding.decide(session.loop, run_id, stage, reason, choice, sign=sign)
    if form == "json":
        facts = {"run_id": run_id, "stage": decided.stage, "decision": choice.value, "path": decided.path}
        print_json({**facts, "settled": decided.settled, "told": decided.told})
    else:
        click.echo(f"{choice.value}: stage '{decided.stage}' of {run_id}, committed as {decided.path}")
        click.echo(single_line(decided.told))
    return 0
