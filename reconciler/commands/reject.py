"""`reconciler reject`: a decision against what a run asks at a gate, written and committed."""

from __future__ import annotations

import click

from reconciler.commands.approve import decide, options
from reconciler.model import Choice


@click.command(short_help="refuse a run that waits at a gate")
@options
@click.pass_obj
def command(repo: str, run: str, stage: str | None, reason: str, sign: bool, form: str) -> int:
    """Reject what a run asks at a gate: its stage fails, and the run with it. `finally` stages still run.

    \b
    reconciler reject 0001-release --reason "the changelog is empty"

    The decision is written to runs.d/ and committed as yourself; it holds for this run and this plan only.
    """
    return decide(repo, run, stage, reason, Choice.REJECT, sign=sign, form=form)
