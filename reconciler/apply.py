"""Do what was decided: each action touches the world once, intent on disk before the effect.

Claims, ends and cancels are written here and nowhere else. Every function looks again before it acts, under the
run's lock: another reconciler may have decided the same a moment ago, and then there is nothing left to do.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from reconciler import codec, rundir
from reconciler.actions import (
    Abandon,
    Action,
    Adopt,
    Cancel,
    Forget,
    Launch,
    Quarantine,
    Reclaim,
    Release,
    Restore,
    Resume,
    Retire,
    TakeOver,
    Yield,
)
from reconciler.errors import InvariantError, LockHeld, TransientError
from reconciler.lease import LEASE, leased
from reconciler.model import (
    Attempt,
    CancelIntent,
    Claim,
    End,
    Held,
    Outcome,
    Plan,
    Process,
    RunId,
    SharedClaim,
    StageStatus,
    TaskId,
    Workspace,
)
from reconciler.notes import believed
from reconciler.places import Placement
from reconciler.process import Target
from reconciler.rundir import RunDirectory
from reconciler.values import frozen
from reconciler.work import change_ref
from reconciler.world import World

ACTOR = "reconciler"


Granted = Mapping[RunId, SharedClaim] | None


@frozen
class Done:
    """What became of one action: a sentence, and the error if the environment refused."""

    action: Action
    sentence: str
    error: TransientError | None = None

    @property
    def quiet(self) -> bool:
        """Whether a person need not be told: that a proven run is put away is no news."""
        tidy = isinstance(self.action, Retire) and not self.action.reason
        tidy = tidy or (isinstance(self.action, Release) and not self.action.gives_up)
        return tidy and self.error is None


FENCED = (Cancel, Abandon, Resume, TakeOver, Yield)
DOABLE = (
    Launch,
    Adopt,
    Resume,
    Cancel,
    Abandon,
    Quarantine,
    Restore,
    TakeOver,
    Reclaim,
    Release,
    Yield,
    Retire,
    Forget,
)
CLAIMING = (Launch, Adopt, Resume, TakeOver, Reclaim)
"""Actions that need a claim at the remote, where there is one."""


def apply(world: World, actions: Sequence[Action], granted: Granted = None, unclaimed: str = "") -> list[Done]:
    """Apply everything that concerns single runs, in order. Publishing is `publish.publish`.

    `granted` holds the claims at the remote that stand, None where there is no remote; what needs one and has none is
    left to whoever has it, or waits for what `unclaimed` says is in the way.
    """
    return [_apply_one(world, each, granted, unclaimed) for each in actions if isinstance(each, DOABLE)]


def _apply_one(world: World, action: Action, granted: Granted, unclaimed: str) -> Done:
    """Apply one action; that the environment refuses it stops nobody else."""
    try:
        if granted is not None and isinstance(action, CLAIMING) and subject_of(action) not in granted:
            why = unclaimed or "another reconciler was first"
            return Done(action=action, sentence=f"{subject_of(action)}: not claimed; {why}")
        return Done(action=action, sentence=_act(world, action, (granted or {}).get(subject_of(action))))
    except TransientError as error:
        return Done(action=action, sentence=str(error), error=error)
    except OSError as error:
        refused = TransientError(f"{error.filename or 'the system'}: {error.strerror}")
        return Done(action=action, sentence=str(refused), error=refused)


def subject_of(action: Action) -> RunId:
    """Return the run an action is about."""
    return action.plan.run_id if isinstance(action, Launch) else RunId(str(getattr(action, "run_id", "")))


def _act(world: World, action: Action, shared: SharedClaim | None) -> str:
    match action:
        case Launch():
            return launch(world, action, shared)
        case Resume():
            return resume(world, action, shared)
        case TakeOver() | Adopt():
            return take_over(world, action, shared)
        case Release():
            return release(world, action)
        case Reclaim():
            return f"{action.run_id}: claimed again at the remote ({action.reason})"
        case Yield():
            return yield_to_others(world, action)
        case Cancel():
            return cancel(world, action)
        case Abandon():
            return abandon(world, action)
        case Quarantine():
            return _quarantine(world, action)
        case Restore():
            return _restore(world, action)
        case Retire() | Forget():
            return retire(world, action) if isinstance(action, Retire) else forget(world, action)
        case _:
            raise InvariantError(f"{action!r} cannot be applied to a run")


# ------------------------------------------------------------------------------------------------ starting


def launch(world: World, action: Launch, shared: SharedClaim | None = None) -> str:
    """Freeze the plan, claim the first attempt on this machine and spawn its worker."""
    plan = action.plan
    directory = _settle(world, plan)
    with rundir.holding(directory):
        if directory.newest():
            return f"{plan.run_id}: already claimed"
        claim = shared.claims[-1] if shared else launching_claim(world, action)
        plan = _freeze(world, directory, replace(plan, resume_token_sha256=_make_token(world, directory)), claim.plan)
        _record_claim(world, directory, claim)
        if action.outcome is not None:
            _write_end(world, directory, claim.number, action.outcome, f"{action.outcome.value}: {action.reason}")
            return f"{plan.run_id}: {action.outcome.value} ({action.reason})"
    _spawn(world, directory, plan, claim.number)
    return f"{plan.run_id}: launched" + (f" as attempt {claim.number}" if claim.number > 1 else "")


def _settle(world: World, plan: Plan) -> RunDirectory:
    """Return the directory of a run that begins on this machine, marked and empty of what is not ours."""
    directory = world.runs.directory(plan.task_id, plan.run_id)
    if not world.disk.exists(directory.path) and world.runs.is_marked(plan.run_id):
        # Somebody removed the records of a run that was under way; its worker must not go on beside the new one.
        world.processes.kill_holders_of_removed(directory.lock)
    if not world.runs.is_ours(plan.run_id) and directory.newest():
        rundir.set_aside(directory, "untrusted")
    world.runs.mark(plan.task_id, plan.run_id)
    world.disk.make_directory(directory.path)
    # Its name is made durable with that of the plan, before there is a claim in it.
    world.disk.make_directory(directory.path / "claims", sync=False)
    return directory


def _freeze(world: World, directory: RunDirectory, plan: Plan, file: str) -> Plan:
    """Write a plan and remember its digest where no branch can put files; what a launch that was interrupted before
    its claim left is replaced, because nothing was executed on it."""
    data = codec.compact(plan)
    world.disk.make_directory((directory.path / file).parent)
    world.disk.write_atomic(directory.path / file, data)
    world.runs.mark(plan.task_id, plan.run_id, directory.name_of(file), data)
    return plan


def _make_token(world: World, directory: RunDirectory) -> str:
    """Write a new resume token for nobody but the owner to read and return its SHA-256."""
    token = world.chance.token()
    world.disk.write_atomic(directory.token, f"{token}\n".encode(), sync=False, mode=0o600)
    return hashlib.sha256(token.encode()).hexdigest()


def make_claim(
    world: World, plan: Plan, number: int, series: int, file: str, *, reason: str, actor: str, keeps_from: int = 1
) -> Claim:
    """Return the intent to execute attempt `number` of a plan."""
    return Claim(
        number=number,
        series=series,
        claimed=world.now(),
        claimer=world.processes.myself(),
        reason=reason,
        actor=actor,
        plan=file,
        plan_digest=plan.digest,
        commit=plan.commit,
        keeps_from=keeps_from,
        host=world.host() or "",
    )


def launching_claim(world: World, action: Launch) -> Claim:
    """Return the claim of the first attempt of a run on this machine."""
    number, reason = action.number, action.reason
    claim = make_claim(world, action.plan, number, number, _plan_file(number), reason=reason, actor=ACTOR)
    return replace(_placed(claim, action), decisions=action.decisions)


def _placed(claim: Claim, action: Launch | Resume | TakeOver) -> Claim:
    """Return a claim that says where its attempt is executed and why, and what became of the one before."""
    placement = replace(action.placement, at=claim.claimed.at) if action.placement is not None else None
    return replace(claim, placement=placement, recovery=None if isinstance(action, Launch) else action.recovery)


def resuming_claim(world: World, action: Resume) -> Claim:
    """Return the claim of the attempt behind `after`, on the frozen plan. Raise TransientError if that is lost."""
    directory = world.runs.directory(action.task_id, action.run_id)
    last = _last_claim(directory)
    plan = _frozen(world, action.task_id, action.run_id, last)
    series, file, keeps = (last.series, last.plan, last.keeps_from) if last else (1, "plan.json", 1)
    number = action.after + 1
    anew = _begins_anew(world, directory, action, last)
    keeps = number if anew is not None else keeps
    reason = f"{action.reason}; it begins anew: {anew}" if anew else action.reason
    # What it waited for has come: what the run used up until then does not count against it.
    series = number if action.decisions or action.children else series
    claim = make_claim(world, plan, number, series, file, reason=reason, actor=ACTOR, keeps_from=keeps)
    claim = replace(_placed(claim, action), children=action.children)
    if last is None or not _is_about(claim, last):
        return claim
    return replace(claim, decisions=(*last.decisions, *action.decisions), children=(*last.children, *action.children))


def _keeps_from(number: int, placement: Placement | None, last: Claim | None, otherwise: int) -> int:
    """Return from which attempt on successes count for attempt `number`. One at an engine begins with an empty
    workspace, so nothing that was done in another one counts for it, nor what it did for the next."""
    apart = _is_afar(placement) or (last is not None and _is_afar(last.placement))
    return number if apart else otherwise


def _is_afar(placement: Placement | None) -> bool:
    """Return whether an engine executes an attempt."""
    return placement is not None and bool(placement.handle)


def _begins_anew(world: World, directory: RunDirectory, action: Resume, last: Claim | None) -> str | None:
    """Return why an attempt begins with an empty workspace ("" where that goes without saying), so that nothing that
    was done in another one counts; None if it goes on in that of the attempt before.

    Workspaces stay where they are, but for that of an attempt that waits at an engine, and goes on at one.
    """
    there, here = _is_afar(action.placement), last is None or not _is_afar(last.placement)
    if here:
        return "" if there else None
    if not (action.decisions or action.children):
        return ""
    if not there:
        return "its workspace is at an engine"
    from reconciler.executors.changes import goes_on  # where engines are used alone

    assert last is not None
    return goes_on(world.repository, directory, last) or None


def _is_about(claim: Claim, earlier: Claim) -> bool:
    """Return whether two claims are to execute the same thing: decisions on the one are none on another."""
    return (claim.plan_digest, claim.commit) == (earlier.plan_digest, earlier.commit)


def taking_claims(world: World, action: TakeOver) -> tuple[Claim, ...]:
    """Return all claims of a run that is taken over, the newest on a plan that is frozen here. What was decided, and
    how nested runs ended, is found at the branch when the run comes to where it waits."""
    claims, number = believed(action.held.claim.claims), action.number
    if action.outcome is not None:
        return (*claims[:-1], replace(claims[-1], plan=_plan_file(number)))
    last = claims[-1] if claims else None
    series, keeps = (last.series, last.keeps_from) if last else (1, 1)
    file = _plan_file(number + 1)
    keeps = _keeps_from(number + 1, action.placement, last, keeps)
    newest = make_claim(
        world, action.plan, number + 1, series, file, reason=action.reason, actor=ACTOR, keeps_from=keeps
    )
    return (*claims, _placed(newest, action))


def claims_here(world: World, action: Reclaim) -> tuple[Claim, ...]:
    """Return the claims of a run as they are recorded here; one that was lost to damage is told of all the same."""
    directory = world.runs.directory(action.task_id, action.run_id)
    claims = tuple(claim for _, claim in sorted(rundir.read_all(directory, "claims", Claim).items()))
    if claims and claims[-1].number == action.number:
        return claims
    plan = _frozen(world, action.task_id, action.run_id, claims[-1] if claims else None)
    lost = make_claim(world, plan, action.number, 1, "plan.json", reason="its claim was damaged", actor=ACTOR)
    return (*claims, lost)


def claims_for(world: World, action: Action, held: Held | None) -> tuple[Claim, ...]:
    """Return what the claim at the remote must say before an action is applied, none if it needs none. Raise
    TransientError if it cannot be said, or if something of the run still lives."""
    match action:
        case Launch():
            return (launching_claim(world, action),)
        case Adopt():
            return believed(action.held.claim.claims)
        case Resume() | TakeOver():
            if world.disk.lock_is_held(world.runs.directory(action.task_id, action.run_id).lock):
                raise LockHeld(f"{action.run_id}: an attempt of this run is alive")
            if isinstance(action, TakeOver):
                return taking_claims(world, action)
            return (*(held.claim.claims if held else ()), resuming_claim(world, action))
        case Reclaim():
            return claims_here(world, action)
        case _:
            return ()


def is_recorded(world: World, shared: SharedClaim) -> bool:
    """Return whether the newest claim of a run that was claimed at the remote is recorded here as well."""
    directory = world.runs.directory(shared.task_id, shared.run_id)
    return world.disk.exists(directory.record("claims", shared.number))


def _plan_file(number: int) -> str:
    return f"plans/{number}.json" if number > 1 else "plan.json"


def _record_claim(world: World, directory: RunDirectory, claim: Claim) -> None:
    """Record the intent to execute an attempt. The caller holds the run's lock."""
    if not world.disk.write_new(directory.record("claims", claim.number), codec.compact(claim)):
        raise LockHeld(f"{directory.path}: attempt {claim.number} is claimed already")


def _spawn(world: World, directory: RunDirectory, plan: Plan, number: int) -> Process | None:
    """Prepare the workspace and start the worker; a failure to is written down as the end of the attempt. What an
    engine executes is handed to it by another pass (`afar`)."""
    claim = _last_claim(directory)
    if claim is not None and _is_afar(claim.placement):
        return None
    world.workers.prepare()
    try:
        _prepare_workspace(world, directory, plan)
        digests = world.runs.plan_digests(plan.run_id)
        file = directory.plan_path(claim).name
        lease = leased(world.disk, world.repository.state / LEASE) if world.remote is not None else None
        return world.workers.spawn(directory.path, number, world.checkout, digests.get(file, ""), lease)
    except (TransientError, OSError) as error:
        detail = f"attempt {number} could not be started: {error}"
        _write_end(world, directory, number, Outcome.INTERRUPTED, detail)
        raise


def _prepare_workspace(world: World, directory: RunDirectory, plan: Plan) -> None:
    """Make the place where stages work, once for all attempts of a run; `workspace.json` says that it is whole."""
    ready = directory.path / "workspace.json"
    if plan.workspace == Workspace.EMPTY:
        world.disk.make_directory(directory.workspace, sync=False)
    elif plan.workspace == Workspace.WORKTREE:
        made_for = None
        with contextlib.suppress(codec.CodecError):
            made_for = world.disk.read_bounded(ready)
        if made_for is None:
            world.repository.add_worktree(directory.workspace, plan.commit)
        elif made_for != codec.render({"commit": plan.commit}):
            world.repository.move_worktree(directory.workspace, plan.commit)
        else:
            return
        world.disk.write_atomic(ready, codec.render({"commit": plan.commit}))


def resume(world: World, action: Resume, shared: SharedClaim | None = None) -> str:
    """Claim the attempt behind `after` on the frozen plan and spawn its worker."""
    directory = world.runs.directory(action.task_id, action.run_id)
    number = action.after + 1
    with rundir.holding(directory):
        if directory.newest() != action.after:
            return f"{action.run_id}: attempt {number} is claimed already"
        if _has_ended(directory, action.after):
            return f"{action.run_id}: attempt {action.after} has ended meanwhile"
        claim = shared.claims[-1] if shared else resuming_claim(world, action)
        plan = _frozen(world, action.task_id, action.run_id, claim)
        _record_claim(world, directory, claim)
    _spawn(world, directory, plan, number)
    return f"{action.run_id}: resumed as attempt {number} ({claim.reason})"


def take_over(world: World, action: TakeOver | Adopt, shared: SharedClaim | None) -> str:
    """Record what is known of a run's earlier attempts, and execute the next one, or end the run, or go on with the
    newest where that is executed elsewhere."""
    assert shared is not None
    directory = _settle(world, action.plan)
    newest = shared.claims[-1]
    with rundir.holding(directory):
        plan = replace(action.plan, resume_token_sha256=_make_token(world, directory))
        plan = _freeze(world, directory, plan, newest.plan)
        for claim in shared.claims:
            world.disk.write_new(directory.record("claims", claim.number), codec.compact(claim))
        if isinstance(action, Adopt):
            return f"{action.run_id}: attempt {newest.number} adopted ({action.reason})"
        if action.outcome is not None:
            _write_end(world, directory, newest.number, action.outcome, action.reason)
            return f"{action.run_id}: taken over to end it ({action.reason})"
    _spawn(world, directory, plan, newest.number)
    return f"{action.run_id}: taken over as attempt {newest.number} ({action.reason})"


def release(world: World, action: Release) -> str:
    """Remove a ref that has done its duty; with a remote, the push of claims has removed it there already."""
    if world.remote is None:
        world.repository.delete_ref(action.ref)
        return f"{action.ref}: removed ({action.reason})"
    return f"{action.ref}: removed at the remote ({action.reason})"


def yield_to_others(world: World, action: Yield) -> str:
    """Set the records of a fenced run aside, and forget that it was ours."""
    directory = world.runs.directory(action.task_id, action.run_id)
    if world.disk.exists(directory.path / "workspace.json"):
        world.repository.remove_worktree(directory.workspace)
    _let_changes_go(world, directory, action.run_id)
    rundir.set_aside(directory, "yielded")
    world.runs.forget(action.run_id)
    return f"{action.run_id}: left to others ({action.reason})"


def _frozen(world: World, task_id: TaskId, run_id: RunId, claim: Claim | None) -> Plan:
    """Return the frozen plan of a claimed attempt. Raise TransientError if it is not there: a pass restores it."""
    try:
        plan = world.runs.frozen_plan(task_id, run_id, claim)
    except codec.CodecError as error:
        raise TransientError(f"{run_id}: its plan cannot be read: {error}") from None
    if plan is None:
        raise TransientError(f"{run_id}: its frozen plan is gone")
    return plan


def _last_claim(directory: RunDirectory) -> Claim | None:
    """Return the newest claim that can be read."""
    claims = rundir.read_all(directory, "claims", Claim)
    return claims[max(claims)] if claims else None


def restarting_claim(
    world: World, plan: Plan, place: Placement, *, after: int, actor: str, reason: str, afresh: bool = False
) -> Claim:
    """Return the claim of an attempt on a refreshed plan, because a person asked (the verb `resume`)."""
    number = after + 1
    last = _last_claim(world.runs.directory(plan.task_id, plan.run_id))
    first = number if afresh else _keeps_from(number, place, last, 1)
    file = f"plans/{number}.json"
    claim = make_claim(world, plan, number, number, file, reason=reason, actor=actor, keeps_from=first)
    return replace(claim, placement=replace(place, at=claim.claimed.at))


def restart(world: World, plan: Plan, claim: Claim) -> str:
    """Record a claim that a person asked for, freeze its plan and spawn its worker."""
    directory = world.runs.directory(plan.task_id, plan.run_id)
    world.runs.mark(plan.task_id, plan.run_id)
    with rundir.holding(directory):
        if directory.newest() != claim.number - 1:
            raise LockHeld(f"{plan.run_id}: attempt {directory.newest()} was claimed meanwhile")
        _freeze(world, directory, plan, claim.plan)
        _record_claim(world, directory, claim)
    _spawn(world, directory, plan, claim.number)
    return f"{plan.run_id}: resumed as attempt {claim.number} ({claim.reason})"


# ------------------------------------------------------------------------------------------------ ending


def cancel(world: World, action: Cancel) -> str:
    """Record the end of a fenced attempt, unless its worker recorded one: the fence told it to cancel."""
    directory = world.runs.directory(action.task_id, action.run_id)
    _write_end_if_open(world, directory, action.number, Outcome.CANCELLED, f"cancelled: {action.reason}")
    return f"{action.run_id}: cancelled ({action.reason})"


def abandon(world: World, action: Abandon) -> str:
    """Record that a run failed because its attempts are used up or its plan is lost."""
    directory = world.runs.directory(action.task_id, action.run_id)
    _write_end_if_open(world, directory, action.number, Outcome.FAILED, action.reason)
    return f"{action.run_id}: given up ({action.reason})"


def _write_end_if_open(world: World, directory: RunDirectory, number: int, outcome: Outcome, detail: str) -> None:
    with rundir.holding(directory):
        if not _has_ended(directory, number) and directory.newest() == number:
            _write_end(world, directory, number, outcome, detail)


def _has_ended(directory: RunDirectory, number: int) -> bool:
    """Return whether the worker of an attempt ended the run with it. The caller holds the run's lock: a worker that was
    judged to hang may have come to its end between that and the fence."""
    attempt = directory.read(Attempt, directory.record("attempts", number))
    return attempt is not None and attempt.outcome not in (None, Outcome.INTERRUPTED, Outcome.WAITING)


def _write_end(world: World, directory: RunDirectory, number: int, outcome: Outcome, detail: str) -> None:
    # Records become evidence, and evidence names no directory of this machine.
    detail = detail.replace(f"{world.checkout}/", "")
    end = End(number=number, at=world.now().at, outcome=outcome, detail=detail)
    path = directory.record("ends", number)
    if not world.disk.write_new(path, codec.compact(end)):
        # An attempt that could not be started is open still; the end of the run replaces that note.
        earlier = directory.read(End, path)
        if earlier is not None and earlier.outcome == Outcome.INTERRUPTED:
            world.disk.write_atomic(path, codec.compact(end))


def _quarantine(world: World, action: Quarantine) -> str:
    directory = world.runs.directory(action.task_id, action.run_id)
    for name in action.names:
        with contextlib.suppress(FileNotFoundError):
            rundir.quarantine(directory, name)
    return action.reason


def _restore(world: World, action: Restore) -> str:
    """Freeze a plan where the frozen one is lost, with a new resume token."""
    directory = world.runs.directory(action.task_id, action.run_id)
    path = directory.plan_path(_last_claim(directory))
    if not world.disk.exists(path):
        plan = replace(action.plan, resume_token_sha256=_make_token(world, directory))
        _freeze(world, directory, plan, path.relative_to(directory.path).as_posix())
    return f"{action.run_id}: {action.reason}"


def retire(world: World, action: Retire) -> str:
    """Remove the workspace of a run, unless settings keep it, and forget that it was under way."""
    directory = world.runs.directory(action.task_id, action.run_id)
    if not _keeps_workspace(directory):
        ready = directory.path / "workspace.json"
        if world.disk.exists(ready):
            world.repository.remove_worktree(directory.workspace)
            world.disk.clear_directory(ready)
            world.disk.unlink(ready)
        else:
            world.disk.remove_tree(directory.workspace)
        if world.disk.exists(directory.home):
            world.disk.remove_tree(directory.home)
    _let_changes_go(world, directory, action.run_id)
    world.runs.unmark(action.run_id)
    return f"{action.run_id}: {action.reason or 'its evidence is committed'}"


def _let_changes_go(world: World, directory: RunDirectory, run_id: RunId) -> None:
    """Remove the refs to what attempts of a run have changed at engines."""
    for number in directory.numbers("changes"):
        world.repository.delete_ref(change_ref(run_id, number))


def forget(world: World, action: Forget) -> str:
    """Remove the mark of a run that was never claimed here, so that this machine does not count as one that ran it."""
    world.runs.forget(action.run_id)
    return f"{action.run_id}: {action.reason}"


def _keeps_workspace(directory: RunDirectory) -> bool:
    number = directory.newest()
    plan = None
    with contextlib.suppress(codec.CodecError):
        plan = directory.plan(_last_claim(directory))
    if plan is None or plan.keep_workspace != "failed":
        return plan is not None and plan.keep_workspace == "always"
    attempt = directory.read(Attempt, directory.record("attempts", number))
    return attempt is None or attempt.outcome != Outcome.SUCCEEDED


# ------------------------------------------------------------------------------------------------ fencing


def fence(world: World, actions: Sequence[Action]) -> None:
    """Make sure that nothing of these runs' attempts lives, all at once; intents to cancel are recorded first.

    What survives is no reason to stop: its lock is held, so the action that needs the lock says so, and only that one.
    """
    targets = []
    for action in actions:
        if not isinstance(action, FENCED):
            continue
        directory = world.runs.directory(action.task_id, action.run_id)
        number = action.after if isinstance(action, Resume) else action.number
        if isinstance(action, Cancel):
            with contextlib.suppress(OSError):
                cancel_run(world, action.task_id, action.run_id, number, actor="", reason=action.reason)
        targets.append(_target(directory, min(number, directory.newest())))
    with contextlib.suppress(LockHeld):
        world.processes.fence(targets)


def fence_attempt(world: World, task_id: TaskId, run_id: RunId, number: int) -> None:
    """Make sure that nothing of one attempt lives."""
    world.processes.fence([_target(world.runs.directory(task_id, run_id), number)])


def _target(directory: RunDirectory, number: int) -> Target:
    """Return what of an attempt may live here: its worker, its stages' groups, whoever holds the lock. What an engine
    executes is ended by that engine (`afar`), wherever its processes are.

    What a record names lives here only if its worker saw this very directory: in a copy of it (of the clone, or from a
    snapshot) pid, start time and boot are those of a worker of the original, which has nothing to do with this one."""
    attempt = plan = None
    with contextlib.suppress(codec.CodecError):
        claim = _last_claim(directory)
        if claim is not None and claim.number == number and _is_afar(claim.placement):
            return Target(worker=None, leaders=(), lock=directory.lock, grace_s=0.0)
        attempt = directory.read(Attempt, directory.record("attempts", number))
        plan = directory.plan(claim)
    if attempt is not None and attempt.place and attempt.place != directory.disk.identity(directory.path):
        attempt = None
    running = [each for each in attempt.stages if each.status == StageStatus.RUNNING] if attempt else []
    return Target(
        worker=attempt.worker if attempt else None,
        leaders=tuple(each.process for each in running if each.process),
        lock=directory.lock,
        grace_s=plan.grace_s if plan else 0.0,
    )


def cancel_run(world: World, task_id: TaskId, run_id: RunId, number: int, *, actor: str, reason: str) -> None:
    """Record that attempt `number` shall end; the worker reads it when it is told to stop."""
    directory = world.runs.directory(task_id, run_id)
    intent = CancelIntent(number=number, at=world.now().at, actor=actor, reason=reason)
    world.disk.write_new(directory.record("cancels", number), codec.compact(intent))
