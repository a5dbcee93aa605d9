"""`reconciler resume`: let a run that ended or hangs go on, on a plan refreshed from the tip."""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import click

from reconciler import codec, manifest, rundir
from reconciler.apply import fence_attempt, restart, restarting_claim
from reconciler.commands.reconcile import duration
from reconciler.errors import ContentError, TransientError, UsageError
from reconciler.launches import groups_taken
from reconciler.loop import pass_lock
from reconciler.model import Phase, Plan, Refusal, Rejection, Run, RunId, Wish, Workspace
from reconciler.phases import phase
from reconciler.placement import Refused, keep
from reconciler.publish import read_records
from reconciler.session import Session, exit_code, outcomes, run_document
from reconciler.slots import executors
from reconciler.state import suspended
from reconciler.survey import Survey, find_run, survey, task_of
from reconciler.terminal import coloured, format_option, print_json
from reconciler.world import World


@click.command(short_help="let a run that ended or hangs go on, on a refreshed plan")
@click.argument("run")
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
        said = _resume(session, run_id, token, asker, reason, afresh)
    click.echo(said, err=True)
    session.loop.concerned.add(run_id)
    deadline_s = time.monotonic() + duration(timeout) if timeout else None
    result = session.run(wait=not no_wait, deadline_s=deadline_s, goal=run_id)
    if form == "json":
        print_json(run_document(session, result, run_id))
    else:
        click.echo(f"{coloured(outcomes(session, result).get(run_id, 'starting'))}  {run_id}")
    return exit_code(session, result, waited=not no_wait, goal=run_id)


def _resume(session: Session, run_id: RunId, token: str | None, actor: str, reason: str, afresh: bool) -> str:
    """Claim the next attempt on a refreshed plan, or record the refusal and raise UsageError."""
    world = session.world
    found = survey(world)
    task_id = task_of(found, run_id)
    there = world.runs.observe(task_id, run_id)
    if there is None:
        raise UsageError(f"{run_id} has no records on this machine; add or raise 'rerun' in its request instead")
    wish = session.loop.observer.wish_of(run_id, there.fired_at)
    plan = wish.plan if wish is not None else None
    frozen = read_records(world, task_id, run_id).plan
    objection = _held_elsewhere(found, run_id) or _objection(world, there, wish, token, frozen)
    if objection := objection or _crowded(found, run_id, plan):
        _refuse(world, there, actor, reason, objection)
    if isinstance(plan, Rejection):
        raise ContentError("\n".join(each.sentence() for each in plan.problems))
    assert plan is not None
    place = keep(plan.capabilities, executors(found.seen.limits), "")
    if isinstance(place, Refused):
        _refuse(world, there, actor, reason, place.reason)
    fence_attempt(world, task_id, run_id, there.number)
    plan = session.loop.freezer.complete(plan, cites=False)
    refreshed = replace(plan, resume_token_sha256=frozen.resume_token_sha256)
    note = _note(world, there, refreshed) if not afresh else ""
    claim = restarting_claim(world, refreshed, place, after=there.number, actor=actor, reason=reason, afresh=afresh)
    if world.remote is not None:
        claim = session.loop.claim_for_person(refreshed, claim)
    try:
        return restart(world, refreshed, claim) + note
    except (TransientError, OSError):
        record = world.runs.directory(task_id, run_id).record("claims", claim.number)
        if world.remote is not None and not world.disk.exists(record):
            session.loop.claims.give_back(())
        raise


def _held_elsewhere(found: Survey, run_id: RunId) -> str:
    """Return who else executes a run, "" if nobody does."""
    held = (found.seen.actual.held or {}).get(run_id)
    return f"it is executed by {held.host_name}" if held is not None and not held.ours else ""


def _crowded(found: Survey, run_id: RunId, plan: Plan | Rejection | None) -> str:
    """Return which other run takes up the concurrency group of a run, "" if none does."""
    group = plan.group if isinstance(plan, Plan) else ""
    taken = groups_taken(found.seen.desired, found.seen.actual, found.seen.now).get(group, ()) if group else ()
    other = next((each for each in taken if each != run_id), None)
    return f"{other} of its group '{group}' is under way; resume it when that has ended" if other else ""


def _note(world: World, there: Run, plan: Plan) -> str:
    """Return a warning where the files that kept stages left are gone with the workspace."""
    records = read_records(world, there.task_id, there.run_id)
    kept = manifest.kept(plan, records.counting)
    if not kept or plan.workspace == Workspace.CHECKOUT:
        return ""
    if world.runs.directory(there.task_id, there.run_id).workspace.is_dir():
        return ""
    return (
        f"\nnote: {', '.join(kept)} keep their success, but the workspace they worked in is gone; "
        "if later stages need its files, use --afresh, or 'keep_workspace: failed' in reconciler.yaml"
    )


def _objection(world: World, there: Run, wish: Wish | None, token: str | None, frozen: Plan) -> str:
    """Return why a resume must not be, "" if it may."""
    now = world.now()
    if token is not None and not _matches(token, frozen.resume_token_sha256):
        return "the token does not match"
    if phase(there, now) in (Phase.STARTING, Phase.RUNNING):
        return "it is under way"
    if phase(there, now) == Phase.SUCCEEDED:
        return "it has succeeded; to run it again, raise 'rerun' in its request"
    if wish is None:
        return "no request at the tip asks for it any more"
    if wish.request.cancel:
        return f"its request says cancel: {wish.request.cancel}"
    return suspended(wish.request.suspend, now)


def _matches(token: str, sha256: str) -> bool:
    return hmac.compare_digest(hashlib.sha256(token.strip().encode()).hexdigest(), sha256)


def _refuse(world: World, there: Run, actor: str, reason: str, objection: str) -> NoReturn:
    directory = world.runs.directory(there.task_id, there.run_id)
    number = rundir.next_number(directory, "refusals")
    refusal = Refusal(number=number, at=world.now().at, actor=actor, reason=reason, detail=objection)
    world.disk.write_new(directory.record("refusals", number), codec.render(refusal))
    raise UsageError(f"{there.run_id} is not resumed: {objection}")
