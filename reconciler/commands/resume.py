"""`reconciler resume`: let a run that ended or hangs go on, on a plan refreshed from the tip."""

from __future__ import annotations

import time
from pathlib import Path

import click

from reconciler import completing
from reconciler.byhand import resume
from reconciler.commands.reconcile import duration
from reconciler.loop import pass_lock
from reconciler.session import BLOCKED, Session, exit_code, outcomes, run_document
from reconciler.survey import find_run, survey
from reconciler.terminal import coloured, format_option, print_json


@click.command(short_help="let a run that ended or hangs go on, on a refreshed plan")
@click.argument("run", shell_complete=completing.runs)
@click.option("--token", help="The run's resume token; when given it must match.")
@click.option("--actor", help="Who asks (default: git's user).")
@click.option("--reason", default="asked for by hand", show_default=True, help="Why; recorded in the manifest.")
@click.option("--afresh", is_flag=True, help="Run every stage again; keep no success.")
@click.option("--timeout", metavar="DURATION", help="Stop waiting after this long; the run goes on.")
@click.option("--no-wait", is_flag=True, help="Launch the attempt and return.")
@format_option
@click.pass_obj
def command(
    repo: str,
    run: str,
    token: str | None,
    actor: str | None,
    reason: str,
    afresh: bool,
    timeout: str | None,
    no_wait: bool,
    form: str,
) -> int:
    """Let a failed, cancelled or silent run go on as its next attempt.

    The plan is refreshed from the tip first: stages whose id and definition are unchanged keep their success, all
    others run. The manifest holds both plan digests, who asked, and every refusal.

    \b
    reconciler resume 0001-diagnostics --reason "registry is back"
    reconciler resume 0001-diagnostics --afresh
    """
    session = Session(Path(repo), quiet=form == "json")
    run_id = find_run(survey(session.world), run)
    asker = actor or session.world.repository.identity()
    with pass_lock(session.world):
        said = resume(session.loop, run_id, token=token, actor=asker, reason=reason, afresh=afresh)
    click.echo(said, err=True)
    session.loop.concerned.add(run_id)
    deadline_s = time.monotonic() + duration(timeout) if timeout else None
    result = session.run(wait=not no_wait, deadline_s=deadline_s, goal=run_id)
    if form == "json":
        print_json(run_document(session, result, run_id))
    else:
        click.echo(f"{coloured(outcomes(session, result).get(run_id, 'starting'))}  {run_id}")
    code = exit_code(session, result, waited=not no_wait, goal=run_id)
    if code == BLOCKED:
        session.say_hindrance(result)
    return code
