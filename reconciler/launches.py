"""Wishes of which there is no run yet: which of them start now, in which order, and what the others wait for.

What they depend on of each other (`after`, concurrency groups, priority) is worked out by `queueing`, where they are
executed and which task has its turn by `placement`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from reconciler import codec, queueing
from reconciler.actions import Action, Launch, Wait
from reconciler.model import Instant, Limits, Name, Phase, Plan, Rejection, RunId, Wish, name_of_run
from reconciler.phases import ENDED, phase
from reconciler.placement import Refused, Slots, give
from reconciler.places import Placement
from reconciler.slots import misfits, of_wish, order
from reconciler.state import Actual, Desired, held_back


def about_absent(
    desired: Desired, actual: Actual, now: Instant, limits: Limits, room: Slots, stuck: Mapping[str, str]
) -> Iterable[Action]:
    """Decide about the wishes of which there is no run yet: by priority, which grows with waiting, and among those of
    one priority in turns of their tasks, then by path."""
    absent = sorted(_absent(desired, actual), key=lambda each: _turn(each, actual, now, limits))
    scene = _scene(desired, actual, now, stuck, limits)
    line = queueing.line_up(absent, scene, now, limits.ageing_s)
    held = _held(absent, line, desired, actual, now, limits)
    plans = {each.run_id: each.plan for each in absent if each.run_id not in held and isinstance(each.plan, Plan)}
    placed = give([of_wish(each, plans[each.run_id]) for each in absent if each.run_id in plans], room)
    turns = iter([*placed.assignments, *placed.waits])
    for wish in absent:
        if wish.run_id in held:
            yield held[wish.run_id]
        elif wish.run_id in plans:
            run_id = RunId(next(turns))
            yield _begun(run_id, plans[run_id], placed.assignments.get(run_id) or placed.waits[run_id])


def _begun(run_id: RunId, plan: Plan, place: Placement | Refused) -> Action:
    """Return how a run begins whose turn it is, or what it waits for."""
    if isinstance(place, Refused):
        return Wait(subject=run_id, reason=place.reason, settled=place.settled)
    return Launch(plan=plan, placement=place)


def _held(
    absent: Sequence[Wish], line: queueing.Line, desired: Desired, actual: Actual, now: Instant, limits: Limits
) -> dict[RunId, Wait]:
    """Return the wishes that do not ask for a slot yet, and why."""
    wanted, busy = {each.run_id for each in desired.wishes}, _busy_names(actual, now)
    found: dict[RunId, Wait] = {}
    for wish in absent:
        run_id, hold = wish.run_id, line.holds.get(wish.run_id)
        if reason := held_back(wish, actual, now):
            found[run_id] = Wait(subject=run_id, reason=reason, settled=True)
        elif isinstance(wish.plan, Rejection):
            continue
        elif older := busy.get(wish.request.name):
            which = "the run before it" if older in wanted else "which it supersedes"
            found[run_id] = Wait(subject=run_id, reason=f"waits for {older}, {which}, to end")
        elif hold is not None:
            found[run_id] = Wait(subject=run_id, reason=hold.reason, settled=hold.settled)
        elif not limits.online:
            found[run_id] = Wait(subject=run_id, reason="waits for the remote, where it must be claimed")
    return found


def _absent(desired: Desired, actual: Actual) -> list[Wish]:
    """Return the wishes of which there is no run yet, here or elsewhere."""
    held = actual.held or {}
    absent = [wish for wish in desired.wishes if wish.run_id not in actual.runs and wish.run_id not in held]
    return [wish for wish in absent if not actual.proves(wish.run_id, 1)]


def _busy_names(actual: Actual, now: Instant) -> dict[Name, RunId]:
    """Return by name the runs that have not ended, here or elsewhere."""
    here = [run for _, run in sorted(actual.runs.items()) if phase(run, now) not in ENDED]
    there = [run_id for run_id in sorted(actual.held or {}) if run_id not in actual.runs]
    return {name_of_run(run_id): run_id for run_id in there} | {run.name: run.run_id for run in here}


def _turn(wish: Wish, actual: Actual, now: Instant, limits: Limits) -> tuple[int, int, str, str]:
    """Return what orders wishes: their priority, then their path; where several hosts share the work, each begins
    somewhere else, so that they do not all reach for the same run."""
    path = wish.request.source.path
    shared = limits.host is not None and bool(actual.neighbours)
    digest = codec.digest([limits.host, path]) if shared else ""
    return *order(wish, now, limits.ageing_s), digest, path


# ---------------------------------------------------------------------------------------- queues


def with_displaced(desired: Desired, actual: Actual, now: Instant, limits: Limits) -> Desired:
    """Return what is wanted, with the runs that a newcomer of their group cancels: never while that could not start."""
    if not limits.online or not any(each.request.concurrency for each in desired.wishes):
        return desired
    scene = _scene(desired, actual, now, {}, limits)
    line = queueing.line_up(_absent(desired, actual), scene, now, limits.ageing_s)
    return replace(desired, displaced=line.displaced) if line.displaced else desired


def _scene(desired: Desired, actual: Actual, now: Instant, stuck: Mapping[str, str], limits: Limits) -> queueing.Scene:
    """Return what turns depend on; wishes that a person holds back, or that cannot be planned, are stuck as well, and
    without a remote those that no executor here can execute."""
    if not any(each.request.after or each.request.concurrency for each in desired.wishes):
        return queueing.Scene(names={}, evidence={}, under_way={}, groups={})
    back = {each.run_id: reason for each in desired.wishes if (reason := held_back(each, actual, now))}
    broken = {each.run_id: each.plan.problems[0].reason for each in desired.wishes if isinstance(each.plan, Rejection)}
    under_way = _unproven(desired, actual, now)
    runs = {RunId(each): reason for each, reason in stuck.items()}
    misfit = {run_id: each.reason for run_id, each in misfits(desired.wishes, limits).items()}
    shared = actual.held is not None
    held = {**({} if shared else misfit), **broken, **back}
    stopped = {run_id: why for run_id, why in held.items() if run_id not in under_way}
    return queueing.Scene(
        names=desired.names,
        evidence=actual.evidence,
        under_way=under_way,
        groups=_groups(desired, actual),
        stuck={**runs, **stopped},
        shared=shared,
        misfits=misfit if shared else {},
    )


def _unproven(desired: Desired, actual: Actual, now: Instant) -> dict[RunId, Phase]:
    """Return every run, here or elsewhere, that is not both ended and proven: also those that wait for decisions."""
    there = {
        run_id: Phase.STALE if each.silent else Phase.RUNNING
        for run_id, each in (actual.held or {}).items()
        if run_id not in actual.runs and not actual.settles(run_id, max(1, each.claim.number))
    }
    here = {run_id: phase(run, now) for run_id, run in actual.runs.items()}
    open_here = {
        run_id: each
        for run_id, each in here.items()
        if each not in ENDED or not actual.proves(run_id, actual.runs[run_id].number)
    }
    waiting = {each.run_id: Phase.WAITING for each in desired.wishes if actual.waits_elsewhere(each.run_id) is not None}
    return {**waiting, **there, **open_here}


def _groups(desired: Desired, actual: Actual) -> dict[RunId, set[str]]:
    """Return the concurrency groups of runs: those they were launched in, and those their requests name by now."""
    found: dict[RunId, set[str]] = {run_id: {run.group} for run_id, run in actual.runs.items() if run.group}
    for run_id, held in (actual.held or {}).items():
        plan = held.plan.group if isinstance(held.plan, Plan) else ""
        found.setdefault(run_id, set()).update(filter(None, (held.claim.group, plan)))
    for wish in desired.wishes:
        if wish.request.concurrency is not None:
            found.setdefault(wish.run_id, set()).add(wish.request.concurrency.group)
    return found


def groups_taken(desired: Desired, actual: Actual, now: Instant) -> Mapping[str, tuple[RunId, ...]]:
    """Return by concurrency group the runs that are under way in it, here or elsewhere."""
    under_way, groups = _unproven(desired, actual, now), _groups(desired, actual)
    shared = actual.held is not None
    scene = queueing.Scene(names={}, evidence={}, under_way=under_way, groups=groups, shared=shared)
    return queueing.groups_taken(scene)
