"""What a run hands over beside its evidence: the change of its coding agents, as a branch of its own.

Whether a pull request of the branch is wanted is said with it, in the evidence; `pulls` opens it.

The branch `runs/<run-id>` is made once, from what is in the workspace when the run has succeeded, and never moved: a
commit that follows from the run alone, so that to deliver again after a crash is to find it there. Where the attempt
was executed at an engine, what it handed over takes the place of the workspace (`executors/changes`); the branch is
made here all the same, and one that somebody else has put there is not taken for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from reconciler.agent import wants_pull_request
from reconciler.disclosure import revealed, revealed_by
from reconciler.errors import ContentError, PushUnclear, TransientError
from reconciler.model import Claim, Plan, Workspace
from reconciler.remote import HEADS, RefUpdate, Remote
from reconciler.rundir import RunDirectory
from reconciler.values import frozen
from reconciler.work import Change, change_ref
from reconciler.world import World

Delivered = Mapping[str, str | None]


@frozen
class Making:
    """How the commit of a branch is made: who, when, on top of what, from what."""

    world: World
    plan: Plan
    directory: RunDirectory
    message: str
    identity: str
    epoch_s: int


def deliver(
    world: World, plan: Plan, directory: RunDirectory, completed_at: str, identity: str
) -> tuple[Delivered | None, str]:
    """Make the branch of a run that has succeeded; return branch and commit, or None and why there is none."""
    branch, into = f"runs/{plan.run_id}", plan.branch if wants_pull_request(plan) else None
    if plan.workspace != Workspace.WORKTREE:
        return None, f"{plan.run_id}: only a worktree can be delivered, its workspace is '{plan.workspace.value}'"
    there, away = _there(world, branch), _handed_over(directory)
    if there is not None and (away is None or not _is_kept(world, plan, away)):
        return {"branch": branch, "commit": there, "pull_request": into}, ""
    making = Making(
        world=world,
        plan=plan,
        directory=directory,
        message=f"{plan.title}\n\nReconciler-Run: {plan.run_id}\n",
        identity=identity,
        epoch_s=int(datetime.fromisoformat(completed_at).timestamp()),
    )
    commit, why = _of_workspace(making) if away is None else _of_engine(making, away)
    if commit is None:
        return None, f"{plan.run_id}: nothing is delivered, because {why}"
    if there is None and world.remote is None:
        world.repository.create_branch(branch, commit)
    elif refused := _refused(world, branch, there, commit):
        return None, f"{plan.run_id}: {branch} is not delivered: {refused}"
    return {"branch": branch, "commit": commit, "pull_request": into}, ""


def _of_workspace(making: Making) -> tuple[str | None, str]:
    """Return the commit of what is in the workspace here, or None and why there is none."""
    world, plan, workspace = making.world, making.plan, making.directory.workspace
    if not world.disk.exists(making.directory.path / "workspace.json"):
        return None, "its workspace is gone"
    if secret := revealed(world.repository, workspace, plan):
        return None, secret
    commit = world.repository.snapshot(
        workspace, plan.commit, message=making.message, identity=making.identity, epoch_s=making.epoch_s
    )
    return commit, "" if commit is not None else "nothing was changed"


def _of_engine(making: Making, change: Change) -> tuple[str | None, str]:
    """Return the commit of what an attempt at an engine has handed over, judged as what is in a workspace here, or None
    and why there is none."""
    from reconciler.executors.changes import delivered_files

    world, plan = making.world, making.plan
    if not change.tree:
        return None, change.why
    if not _is_kept(world, plan, change):
        return None, "what was handed over is gone"
    try:
        files = delivered_files(world.repository, plan, change.tree)
    except ContentError as error:
        return None, str(error)
    if not files:
        return None, "nothing was changed"
    if secret := revealed_by(world.repository, plan, files):
        return None, secret
    commit = world.repository.committed(
        change.tree, plan.commit, message=making.message, identity=making.identity, epoch_s=making.epoch_s
    )
    return commit, ""


def _handed_over(directory: RunDirectory) -> Change | None:
    """Return what the newest attempt handed over, None if it was executed here."""
    number = max(directory.numbers("claims"), default=0)
    claim = directory.read(Claim, directory.record("claims", number))
    if claim is None or claim.placement is None or not claim.placement.handle:
        return None
    from reconciler.executors.changes import read_change

    return read_change(directory, number) or Change(number=number, why="its attempt handed over no change")


def _is_kept(world: World, plan: Plan, change: Change) -> bool:
    """Return whether what was handed over is still here: it is until the run is retired."""
    return world.repository.look_up([change_ref(plan.run_id, change.number)])[0] is not None


def _refused(world: World, branch: str, there: str | None, commit: str) -> str:
    """Put a branch at the remote that is not there; return why it is not there then, "" if it is."""
    if there == commit:
        return ""
    where = world.remote.name if world.remote is not None else "this repository"
    if there is not None or world.remote is None:
        return f"there is another one at {where}"
    return _push(world.remote, branch, commit)


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
