"""What a person asks of one run: to end it, or to go on. The shared middle of `cancel`, `resume` and the Python API."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from typing import NoReturn

from reconciler import codec, manifest, rundir
from reconciler.apply import cancel_run, fence_attempt, restart, restarting_claim
from reconciler.errors import ContentError, TransientError, UsageError
from reconciler.launches import groups_taken
from reconciler.loop import Loop
from reconciler.model import Phase, Plan, Refusal, Rejection, Run, RunId, Wish, Workspace
from reconciler.phases import ENDED, phase
from reconciler.placement import Refused, keep
from reconciler.records import read_records
from reconciler.slots import executors, needs_of
from reconciler.state import suspended
from reconciler.survey import Survey, survey, task_of
from reconciler.world import World


def cancel(world: World, found: Survey, run_id: RunId, *, actor: str, reason: str) -> None:
    """Record that a run that is under way here shall end; the next pass ends it. Raise UsageError if it is not."""
    there = found.seen.actual.runs.get(run_id)
    cure = "add 'cancel: <reason>' to its request and commit that"
    if there is None and found.seen.actual.waits_elsewhere(run_id) is not None:
        raise UsageError(f"{run_id} was left waiting by another machine; {cure}")
    if there is None and (where := _held_elsewhere(found, run_id)):
        raise UsageError(f"{run_id}: {where}; {cure}, or cancel it there")
    if there is None or phase(there, found.seen.now) in ENDED:
        raise UsageError(f"{run_id} is not under way; there is nothing to cancel")
    cancel_run(world, there.task_id, run_id, there.number, actor=actor, reason=reason)


def resume(loop: Loop, run_id: RunId, *, token: str | None, actor: str, reason: str, afresh: bool) -> str:
    """Claim the next attempt on a refreshed plan and say so; record the refusal and raise UsageError if it may not be.
    The pass lock is held."""
    world = loop.world
    found = survey(world)
    task_id = task_of(found, run_id)
    there = world.runs.observe(task_id, run_id)
    if there is None:
        raise UsageError(f"{run_id} has no records on this machine; add or raise 'rerun' in its request instead")
    wish = loop.observer.wish_of(run_id, there.fired_at)
    plan = wish.plan if wish is not None else None
    frozen = read_records(world, task_id, run_id).plan
    objection = _held_elsewhere(found, run_id) or _objection(world, there, wish, token, frozen)
    if objection := objection or _crowded(found, run_id, plan):
        _refuse(world, there, actor, reason, objection)
    if isinstance(plan, Rejection):
        raise ContentError("\n".join(each.sentence() for each in plan.problems))
    assert plan is not None
    place = keep(needs_of(plan), executors(found.seen.limits), "")
    if isinstance(place, Refused):
        _refuse(world, there, actor, reason, place.reason)
    if loop.observer.afar is not None:
        place = loop.observer.afar.name(place, run_id, there.number + 1)
        loop.observer.afar.end(found.seen.actual.runs.get(run_id, there))
    plan = loop.freezer.complete(plan, cites=False)
    plan, objection = loop.gate.for_person(plan, loop.observer.settings)
    if objection:
        _refuse(world, there, actor, reason, objection)
    fence_attempt(world, task_id, run_id, there.number)
    refreshed = replace(plan, resume_token_sha256=frozen.resume_token_sha256)
    note = _note(world, there, refreshed) if not afresh else ""
    claim = restarting_claim(world, refreshed, place, after=there.number, actor=actor, reason=reason, afresh=afresh)
    if world.remote is not None:
        claim = loop.claim_for_person(refreshed, claim)
    try:
        return restart(world, refreshed, claim) + note
    except (TransientError, OSError):
        record = world.runs.directory(task_id, run_id).record("claims", claim.number)
        if world.remote is not None and not world.disk.exists(record):
            loop.claims.give_back(())
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
        f"\nnote: {', '.join(kept)} {'keeps its' if len(kept) == 1 else 'keep their'} success, but the workspace "
        f"{'it' if len(kept) == 1 else 'they'} worked in is gone; "
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
