"""Runs that wait, for the decisions of people or for their nested runs: go on, or say what is missing.

One that waits here is resumed here. One that another machine left waiting may be gone on with by any machine: the tip
says what it waits for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reconciler.actions import Action, Launch, Resume, Wait
from reconciler.approve import weigh
from reconciler.model import (
    ChildEnd,
    Choice,
    Decision,
    Gate,
    Instant,
    Limits,
    Outcome,
    Phase,
    Plan,
    Rejection,
    Run,
    RunId,
    StageStatus,
    Status,
    Wish,
)
from reconciler.phases import phase
from reconciler.placement import Refused, Slots
from reconciler.slots import misfits, of_plan, of_run
from reconciler.state import Actual, Desired, held_back, suspended, unwanted


def open_gates(run: Run) -> list[Gate]:
    """Return the gates at which a run waits for people."""
    stages = run.attempt.stages if run.attempt is not None else ()
    waiting = [each for each in stages if each.status == StageStatus.WAITING and not each.waits_for]
    return [each.gate for each in waiting if each.gate is not None]


def awaited_runs(run: Run) -> list[RunId]:
    """Return the nested runs that a run waits for."""
    stages = run.attempt.stages if run.attempt is not None else ()
    return [child for each in stages if each.status == StageStatus.WAITING for child in each.waits_for]


# ---------------------------------------------------------------------------------------- here


def wake(
    wanted: Mapping[RunId, Wish],
    desired: Desired,
    actual: Actual,
    decided: set[str],
    now: Instant,
    limits: Limits,
    room: Slots,
) -> Iterable[Action]:
    """Decide about the runs here that wait: go on with what was decided, say what is missing of the rest. Of those in
    `decided` something else is done in this pass."""
    for run_id, run in sorted(actual.runs.items()):
        wish = wanted.get(run_id)
        idle = phase(run, now) == Phase.WAITING and not run.cancel and not run.corrupt and run.planned
        if run_id in decided or not idle or unwanted(run, wish, desired, Phase.WAITING):
            continue
        if wish is None and not (run.parent and _ended_children(run, actual)[0]):
            what = f"its parent run {run.parent} asks for it" if run.parent else "its request can be read"
            yield Wait(subject=run_id, reason=f"waits until {what} again", settled=True)
        else:
            # A nested run whose parent another machine executes by now goes on once its own nested runs have ended.
            yield _about_waiting(run, wish, wanted, desired, actual, now, limits, room)


def _about_waiting(
    run: Run,
    wish: Wish | None,
    wanted: Mapping[RunId, Wish],
    desired: Desired,
    actual: Actual,
    now: Instant,
    limits: Limits,
    room: Slots,
) -> Action:
    decisions, missing = weighed(run.run_id, open_gates(run), desired, now)
    children, awaited = _ended_children(run, actual)
    if not decisions and not children:
        settled = all(_is_settled(each, wanted, actual, now, limits) for each in awaited)
        reasons = [missing] if missing else []
        reasons += [f"waits for its runs: {', '.join(awaited)}"] if awaited else []
        return Wait(subject=run.run_id, reason="; ".join(reasons), settled=settled)
    if wish is not None and (held := suspended(wish.request.suspend, now)):
        return Wait(subject=run.run_id, reason=f"decided, and not resumed: {held}", settled=True)
    if not limits.online:
        return Wait(subject=run.run_id, reason="waits for the remote, where it must be claimed")
    place = room.take(of_run(run))
    if isinstance(place, Refused):
        return Wait(subject=run.run_id, reason=place.reason, settled=place.settled)
    reason = "; ".join([*([told(decisions)] if decisions else []), *([_told_of(children)] if children else [])])
    return Resume(
        run_id=run.run_id,
        task_id=run.task_id,
        after=run.number,
        reason=reason,
        decisions=decisions,
        children=children,
        placement=place,
    )


def _is_settled(run_id: RunId, wanted: Mapping[RunId, Wish], actual: Actual, now: Instant, limits: Limits) -> bool:
    """Return whether only a person can bring a nested run on, which waits here or where another machine left it."""
    run, wish = actual.runs.get(run_id), wanted.get(run_id)
    if run is not None:
        return phase(run, now) == Phase.WAITING
    if actual.waits_elsewhere(run_id) is not None:
        return True
    if wish is None or isinstance(wish.plan, Rejection) or held_back(wish, actual, now):
        return True
    return run_id in misfits([wish], limits)


def _ended_children(run: Run, actual: Actual) -> tuple[tuple[ChildEnd, ...], list[RunId]]:
    """Return how the nested runs ended of the stages that wait for nothing else, and the runs still waited for."""
    stages = run.attempt.stages if run.attempt is not None else ()
    ends: list[ChildEnd] = []
    awaited: list[RunId] = []
    for record in stages:
        if record.status == StageStatus.WAITING and record.waits_for:
            found = {each: actual.evidence.get(each) for each in record.waits_for}
            ended = {each: proof for each, proof in found.items() if proof is not None and proof.waiting is None}
            if len(ended) == len(found):
                ends += [
                    ChildEnd(run_id=each, status=proof.status, manifest_blob=proof.manifest_blob)
                    for each, proof in ended.items()
                ]
            awaited += [each for each in found if each not in ended]
    return tuple(ends), awaited


# ---------------------------------------------------------------------------------------- left by another machine


def left_waiting(desired: Desired, actual: Actual, now: Instant, limits: Limits, room: Slots) -> Iterable[Action]:
    """Decide about the runs that another machine left waiting, and that any machine may go on with."""
    for wish in desired.wishes:
        if actual.waits_elsewhere(wish.run_id) is None:
            continue
        cancel, reason = wish.request.cancel, held_back(wish, actual, now)
        if cancel and limits.online and isinstance(wish.plan, Plan) and wish.run_id not in actual.lost:
            yield _cancelled_elsewhere(wish, wish.plan, actual)
        elif reason:
            yield Wait(subject=wish.run_id, reason=reason, settled=True)
        elif isinstance(wish.plan, Rejection):
            yield Wait(subject=wish.run_id, reason="waits, and cannot be planned any more", settled=True)
        elif not limits.online:
            yield Wait(subject=wish.run_id, reason="waits for the remote, where it must be claimed")
        else:
            yield _go_on(wish, wish.plan, desired, actual, now, room)


def _cancelled_elsewhere(wish: Wish, plan: Plan, actual: Actual) -> Launch:
    """Return how a run ends that another machine left waiting: nothing of it lives anywhere."""
    number, reason = actual.evidence[wish.run_id].attempt + 1, f"the request says: {wish.request.cancel}"
    return Launch(plan=plan, number=number, reason=reason, outcome=Outcome.CANCELLED)


def _go_on(wish: Wish, plan: Plan, desired: Desired, actual: Actual, now: Instant, room: Slots) -> Action:
    """Decide about a run that another machine left waiting: go on with what was decided, else say what is missing."""
    evidence = actual.evidence[wish.run_id]
    assert evidence.waiting is not None
    if plan.digest != evidence.waiting.plan_digest:
        reason = "waits, and the plan it waits on cannot be made again from its commit; raise 'rerun'"
        return Wait(subject=wish.run_id, reason=reason, settled=True)
    decisions, missing = weighed(wish.run_id, evidence.waiting.gates, desired, now)
    if not decisions:
        return Wait(subject=wish.run_id, reason=missing, settled=True)
    place = room.take(of_plan(plan))
    if isinstance(place, Refused):
        return Wait(subject=wish.run_id, reason=place.reason, settled=place.settled)
    number, reason = evidence.attempt + 1, told(decisions)
    return Launch(plan=plan, number=number, decisions=decisions, reason=reason, placement=place)


# ---------------------------------------------------------------------------------------- decisions


def weighed(run_id: RunId, gates: Sequence[Gate], desired: Desired, now: Instant) -> tuple[tuple[Decision, ...], str]:
    """Return the decisions on gates that open or close them, and in words what the others wait for."""
    case = desired.cases.get(run_id)
    if not gates:
        return (), ""
    if case is None:
        return (), "waits for approval"
    found = [weigh(gate, case, desired.decisions.get(run_id, ()), desired.policies, now.at) for gate in gates]
    decisions = tuple(decision for each in found for decision in each.decisions if each.choice is not None)
    missing = [f"'{each.gate.stage}' ({each.gate.reason}): {each.missing}" for each in found if each.choice is None]
    return decisions, f"waits for approval of {'; '.join(missing)}"


def told(decisions: Sequence[Decision]) -> str:
    words = {Choice.APPROVE: "approved", Choice.REJECT: "rejected"}
    return "; ".join(f"stage '{each.stage}' was {words[each.decision]} by {each.actor}" for each in decisions)


def _told_of(children: Sequence[ChildEnd]) -> str:
    failed = [each.run_id for each in children if each.status != Status.SUCCEEDED]
    return f"{len(children)} nested runs ended" + (f", {len(failed)} of them without success" if failed else "")
