"""`reconciler cancel`: end a run that is under way."""

from __future__ import annotations

from pathlib import Path

import click

from reconciler import completing
from reconciler.byhand import cancel
from reconciler.session import Session, outcomes, run_document
from reconciler.survey import find_run, survey
from reconciler.terminal import format_option, print_json
from reconciler.world import open_world


@click.command(short_help="end a run that is under way")
@click.argument("run", shell_complete=completing.runs)
@click.option("--reason", required=True, help="Why; it is recorded in the manifest.")
@click.option("--actor", help="Who asks (default: git's user).")
@format_option
@click.pass_obj
def command(repo: str, run: str, reason: str, actor: str | None, form: str) -> int:
    """End a run that is under way: its stages get TERM, then KILL after the grace; the evidence says who and why.

    \b
    reconciler cancel 0001-diagnostics --reason "wrong branch"

    To cancel by commit instead, add `cancel: wrong branch` to the request.
    """
    world = open_world(Path(repo))
    found = survey(world)
    run_id = find_run(found, run)
    cancel(world, found, run_id, actor=actor or world.repository.identity(), reason=reason)
    session = Session(Path(repo), quiet=form == "json")
    session.loop.concerned.add(run_id)
    result = session.run(wait=True, goal=run_id)
    if form == "json":
        print_json(run_document(session, result, run_id))
    else:
        click.echo(f"{outcomes(session, result).get(run_id, 'cancelled')}  {run_id}")
    return 0
