"""The verbs of a pass: what `diff` may decide and `apply` can do, and nothing else."""

from __future__ import annotations

from reconciler.model import ChildEnd, Decision, Held, Outcome, Plan, RunId, TaskId
from reconciler.places import Placement, Recovery
from reconciler.values import frozen


@frozen
class Launch:
    """Freeze the plan, claim its first attempt here, spawn its worker. `number` is above 1 for a run that another
    machine left waiting, and goes on because of `decisions`; with an `outcome` it ends by that, and nothing is spawned.
    `placement` is where it is executed, None where it is not.
    """

    plan: Plan
    number: int = 1
    decisions: tuple[Decision, ...] = ()
    reason: str = "launched"
    outcome: Outcome | None = None
    placement: Placement | None = None


@frozen
class Submit:
    """Hand the claimed attempt `number` to its engine, which may have it already."""

    run_id: RunId
    task_id: TaskId
    number: int
    reason: str


@frozen
class Adopt:
    """Move the shared claim of a run here whose newest attempt an engine executes, and go on with that attempt."""

    run_id: RunId
    task_id: TaskId
    number: int
    plan: Plan
    held: Held
    reason: str


@frozen
class Resume:
    """Fence what is left of attempt `after`, claim the next one on the frozen plan, spawn its worker. `decisions` are
    those on gates that it waited for, `children` the ends of nested runs. `placement` is where it goes on, `recovery`
    what became of attempt `after`, None where that was not lost."""

    run_id: RunId
    task_id: TaskId
    after: int
    reason: str
    decisions: tuple[Decision, ...] = ()
    children: tuple[ChildEnd, ...] = ()
    placement: Placement | None = None
    recovery: Recovery | None = None


@frozen
class Cancel:
    """Record that attempt `number` shall end, fence it, and record the end."""

    run_id: RunId
    task_id: TaskId
    number: int
    reason: str


@frozen
class Abandon:
    """Fence attempt `number` and record the run as failed: its attempts are used up."""

    run_id: RunId
    task_id: TaskId
    number: int
    reason: str


@frozen
class Quarantine:
    """Move record files that cannot be read out of the way, keeping them."""

    run_id: RunId
    task_id: TaskId
    names: tuple[str, ...]
    reason: str


@frozen
class Restore:
    """Freeze the plan anew where the frozen one is lost. What was done on another plan counts by its digests only."""

    run_id: RunId
    task_id: TaskId
    plan: Plan
    reason: str


@frozen
class TakeOver:
    """Move the shared claim of a run here, with all that it says of earlier attempts, and execute the next one; with
    `outcome`, end the run instead. `number` is that of the newest attempt so far; `placement` and `recovery` are
    as of a `Resume`."""

    run_id: RunId
    task_id: TaskId
    number: int
    plan: Plan
    held: Held
    reason: str
    outcome: Outcome | None = None
    placement: Placement | None = None
    recovery: Recovery | None = None


@frozen
class Reclaim:
    """Make the shared claim of a run that is executed here and has none, or `held`, an older one of ours."""

    run_id: RunId
    task_id: TaskId
    number: int
    held: Held | None
    reason: str


@frozen
class Yield:
    """Fence attempt `number` and set its records aside: the run is somebody else's now."""

    run_id: RunId
    task_id: TaskId
    number: int
    reason: str


@frozen
class Release:
    """Delete a ref at the remote that has done its duty; `gives_up` where a run is lost with it."""

    ref: str
    oid: str
    reason: str
    gives_up: bool = False


@frozen
class Publish:
    """Commit the evidence of these runs, all in one commit."""

    runs: tuple[tuple[TaskId, RunId], ...]


@frozen
class Retire:
    """Remove the workspace of a run and forget that it was under way: the tip proves it, or nothing ever can."""

    run_id: RunId
    task_id: TaskId
    reason: str = ""


@frozen
class Forget:
    """Remove the mark of a run of which nothing else is here; the mark may be damaged, and say not even its task."""

    run_id: RunId
    reason: str


@frozen
class Wait:
    """Do nothing now, for a reason a person can read. `settled` is True when only a person can change it."""

    subject: str
    reason: str
    settled: bool = False


Action = (
    Launch | Submit | Adopt | Resume | Cancel | Abandon | Quarantine | Restore | TakeOver | Reclaim | Yield | Release
    | Publish | Retire | Forget | Wait
)  # fmt: skip
