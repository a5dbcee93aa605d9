"""What a run hands over beside its evidence: the change of its coding agents, as a branch of its own.

Whether a pull request of the branch is wanted is said with it, in the evidence; `pulls` opens it.

The branch `runs/<run-id>` is made once, from what is in the workspace when the run has succeeded, and never moved: a
commit that follows from the run alone, so that to deliver again after a crash is to find it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from reconciler.disclosure import revealed
from reconciler.errors import PushUnclear, TransientError
from reconciler.model import Plan, Workspace
from reconciler.remote import HEADS, RefUpdate, Remote
from reconciler.rundir import RunDirectory
from reconciler.world import World

Delivered = Mapping[str, str | None]


def wants_delivery(plan: Plan) -> bool:
    """Return whether a stage of a plan asks for its change to leave the run."""
    return any(each.selected and each.agent is not None and each.agent.get("deliver") for each in plan.stages)


def wants_pull_request(plan: Plan) -> bool:
    """Return whether the branch of a run shall become a pull request."""
    stages = (each for each in plan.stages if each.selected and each.agent is not None)
    return any(each.agent.get("deliver") == "pull_request" for each in stages if each.agent is not None)


def deliver(
    world: World, plan: Plan, directory: RunDirectory, completed_at: str, identity: str
) -> tuple[Delivered | None, str]:
    """Make the branch of a run that has succeeded; return branch and commit, or None and why there is none."""
    branch, into = f"runs/{plan.run_id}", plan.branch if wants_pull_request(plan) else None
    if plan.workspace != Workspace.WORKTREE:
        return None, f"{plan.run_id}: only a worktree can be delivered, its workspace is '{plan.workspace.value}'"
    there = _there(world, branch)
    if there is not None:
        return {"branch": branch, "commit": there, "pull_request": into}, ""
    if not world.disk.exists(directory.path / "workspace.json"):
        return None, f"{plan.run_id}: nothing is delivered, because its workspace is gone"
    if secret := revealed(world.repository, directory.workspace, plan):
        return None, f"{plan.run_id}: nothing is delivered, because {secret}"
    commit = world.repository.snapshot(
        directory.workspace,
        plan.commit,
        message=f"{plan.title}\n\nReconciler-Run: {plan.run_id}\n",
        identity=identity,
        epoch_s=int(datetime.fromisoformat(completed_at).timestamp()),
    )
    if commit is None:
        return None, f"{plan.run_id}: nothing is delivered, because nothing was changed"
    if world.remote is None:
        world.repository.create_branch(branch, commit)
    elif refused := _push(world.remote, branch, commit):
        return None, f"{plan.run_id}: {branch} is not delivered: {refused}"
    return {"branch": branch, "commit": commit, "pull_request": into}, ""


def _there(world: World, branch: str) -> str | None:
    """Return the commit of a branch where it would be delivered to, None if it is not there."""
    if world.remote is None:
        return world.repository.commit_of(branch)
    return world.remote.look([f"{HEADS}{branch}"]).get(f"{HEADS}{branch}")


def _push(remote: Remote, branch: str, commit: str) -> str:
    """Create a branch at the remote; return why that was refused, "" if it is there. Raise PushUnclear if nobody
    knows: then the evidence, which would name it, waits too."""
    try:
        rejected = remote.push([RefUpdate(ref=f"{HEADS}{branch}", old=None, new=commit)], atomic=False)
    except PushUnclear:
        raise
    except TransientError as error:
        return str(error)
    return f"there is another one at {remote.name}" if rejected else ""
