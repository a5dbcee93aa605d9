"""The decision: what is wanted and what is, to what shall be done. Pure, total, deterministic.

`diff` decides about all runs and about those that are there and go on here; it asks `elsewhere`, `waiting` and
`launches` about the others. The result is ordered: what frees something or keeps a promise comes before what starts
something new. Deciding twice about the same world gives the same actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from reconciler.actions import (
    Abandon,
    Action,
    Adopt,
    Cancel,
    Forget,
    Launch,
    Publish,
    Quarantine,
    Reclaim,
    Release,
    Restore,
    Resume,
    Retire,
    Submit,
    TakeOver,
    Wait,
    Yield,
)
from reconciler.elsewhere import about_claims, about_unshared, is_at_rest, is_ours, superseded
from reconciler.launches import about_absent, with_displaced
from reconciler.model import Instant, Limits, Phase, Rejection, Run, RunId, Wish, claim_ref
from reconciler.phases import ENDED, judge, phase
from reconciler.placement import Refused
from reconciler.places import FINAL
from reconciler.recovery import what_became_of
from reconciler.slots import again, slots_now, takes_a_slot
from reconciler.state import Actual, Desired, suspended, unwanted
from reconciler.waiting import awaited_runs, left_waiting, wake
from reconciler.work import of_ref


def diff(desired: Desired, actual: Actual, now: Instant, limits: Limits) -> tuple[Action, ...]:
    """Return the actions that lead from `actual` towards `desired`, in the order in which to do them."""
    wanted = {wish.run_id: wish for wish in desired.wishes}
    desired = with_displaced(desired, actual, now, limits)
    repairs = [
        action for run in actual.runs.values() for action in _about_run(run, wanted, desired, actual, now, limits)
    ]
    repairs = _without_lost_parents(repairs, actual)
    held_back = {each.subject for each in repairs if isinstance(each, Wait) and each.settled}
    under_way = sum(takes_a_slot(run, held_back, now) for run in actual.runs.values())
    room = slots_now(desired, actual, held_back, now, limits)
    # A nested run is not woken while its parent is ended, left to others or goes on.
    busy = {_run_of(each) for each in repairs}
    decided = {_subject(each) for each in repairs}
    decided |= {run.run_id for run in actual.runs.values() if run.parent is not None and run.parent in busy}
    decided |= {run_id for run_id in actual.runs if claim_ref(run_id) in decided}  # one push moves a ref once
    repairs += wake(wanted, desired, actual, decided, now, limits, room)
    repairs += about_claims(wanted, desired, actual, now, limits, room)
    stuck = {each.subject: each.reason for each in repairs if isinstance(each, Wait) and each.settled}
    asked = _without_orphans(desired, repairs)
    launches = [*about_absent(asked, actual, now, limits, room, stuck), *left_waiting(asked, actual, now, limits, room)]
    repairs += _unclaimed(actual, [*repairs, *launches])
    repairs += _done_with(actual, limits)
    more = _busy(repairs, launches, under_way)
    return (*_ordered(repairs), *launches, *_publish(actual, repairs, now, limits, more=more))


def _without_lost_parents(repairs: list[Action], actual: Actual) -> list[Action]:
    """Return what is done with the runs here, less how nested runs go on whose parents are left to others in this
    pass: whether anybody wants them still, the next pass knows."""
    left = {each.run_id for each in repairs if isinstance(each, Yield)}
    lost = {run.run_id for run in actual.runs.values() if run.parent in left}
    return [each for each in repairs if not (isinstance(each, Resume | TakeOver) and each.run_id in lost)]


def _without_orphans(desired: Desired, repairs: Sequence[Action]) -> Desired:
    """Return what is wanted, less the nested runs of those that are ended, left to others or go on in this pass."""
    if not any(each.request.parent for each in desired.wishes):
        return desired
    busy = {_run_of(each) for each in repairs}
    return replace(desired, wishes=tuple(each for each in desired.wishes if each.request.parent not in busy))


def _unclaimed(actual: Actual, decided: Sequence[Action]) -> Iterable[Action]:
    """Decide about marks of runs that were never claimed, because who made the mark did not live to: unless something
    is done with such a run now, its mark goes."""
    busy = {_run_of(each) for each in decided}
    for run_id in actual.unclaimed:
        if run_id not in busy:
            yield Forget(run_id=run_id, reason="nothing of it was ever claimed here")


# ---------------------------------------------------------------------------------------- one run that is there


def _about_run(
    run: Run, wanted: Mapping[RunId, Wish], desired: Desired, actual: Actual, now: Instant, limits: Limits
) -> Iterable[Action]:
    """Decide about one run that is there."""
    run_id, task_id, number = run.run_id, run.task_id, run.number
    if run.corrupt:
        names = tuple(problem.pointer for problem in run.corrupt)
        yield Quarantine(run_id=run_id, task_id=task_id, names=names, reason=run.corrupt[0].sentence())
        return
    now_phase, why = judge(run, now)
    wish = wanted.get(run_id)
    is_proven = actual.proves_as(run, now_phase)
    if not is_at_rest(run, now_phase, is_proven, actual) and actual.held is not None:
        unshared = about_unshared(run, wish, is_proven, desired, actual, limits)
        if unshared is not None:
            yield unshared
            return
    if now_phase in ENDED:
        yield from _about_ended(run, wish, is_proven, actual)
        return
    reason = run.cancel.sentence() if run.cancel else unwanted(run, wish, desired, now_phase)
    if reason:
        yield Cancel(run_id=run_id, task_id=task_id, number=number, reason=reason)
    elif not run.planned:
        yield from _restore(run, wish)
    elif now_phase == Phase.STALE:
        yield _repair(run, wish, why, now, limits)
    elif run.is_afar and run.afar is not None and not run.afar.submitted:
        yield _submit(run, run.afar.turned, limits)


def _submit(run: Run, turned: str, limits: Limits) -> Action:
    """Decide about an attempt that is claimed for an engine and that the engine has not taken yet."""
    if turned:
        return Abandon(
            run_id=run.run_id, task_id=run.task_id, number=run.number, reason=f"its engine refuses: {turned}"
        )
    if not limits.online:
        return Wait(subject=run.run_id, reason="waits for the remote, from which its engine gets its order")
    return Submit(run_id=run.run_id, task_id=run.task_id, number=run.number, reason="it is claimed for its engine")


def _about_ended(run: Run, wish: Wish | None, is_proven: bool, actual: Actual) -> Iterable[Action]:
    """Decide about a run that has ended, but for publishing it."""
    if actual.waits_later(run):
        yield superseded(run, actual)
    elif is_proven:
        yield Retire(run_id=run.run_id, task_id=run.task_id)
    elif not run.planned and wish is None:
        reason = "its frozen plan is lost and no request asks for it: it is given up without evidence"
        yield Retire(run_id=run.run_id, task_id=run.task_id, reason=reason)
    elif not run.planned:
        yield from _restore(run, wish)


def _restore(run: Run, wish: Wish | None) -> Iterable[Action]:
    """Decide about a run whose frozen plan is lost: its request gives another one, if it can be planned."""
    if wish is not None and not isinstance(wish.plan, Rejection):
        reason = "its frozen plan is lost; it is made anew from the request"
        yield Restore(run_id=run.run_id, task_id=run.task_id, plan=wish.plan, reason=reason)
    elif wish is not None:
        yield Wait(subject=run.run_id, reason="its frozen plan is lost and its request cannot be planned", settled=True)


def _repair(run: Run, wish: Wish | None, why: str, now: Instant, limits: Limits) -> Action:
    """Decide about a stale run: resume it, or give it up when its attempts are used."""
    used = run.number - (run.claim.series if run.claim else 1) + 1
    run_id, task_id, number = run.run_id, run.task_id, run.number
    if used >= run.attempts_max:
        reason = f"{why}; all {run.attempts_max} attempts are used"
        return Abandon(run_id=run_id, task_id=task_id, number=number, reason=reason)
    if wish is not None and (held := suspended(wish.request.suspend, now)):
        return Wait(subject=run.run_id, reason=f"{why}; not resumed: {held}", settled=True)
    if not limits.online:
        return Wait(subject=run_id, reason=f"{why}; waits for the remote to resume it")
    place = again(run, limits)
    if isinstance(place, Refused):
        return Wait(subject=run_id, reason=f"{why}; {place.reason}", settled=place.settled)
    recovery = what_became_of(run, now)
    if recovery is not None and recovery.cause in FINAL:
        reason = f"{why}; another attempt would come to the same end, so somebody must raise what bounds it"
        return Abandon(run_id=run_id, task_id=task_id, number=number, reason=reason)
    return Resume(run_id=run_id, task_id=task_id, after=number, reason=why, placement=place, recovery=recovery)


# ---------------------------------------------------------------------------------------- evidence and order


def _publish(
    actual: Actual, repairs: Sequence[Action], now: Instant, limits: Limits, *, more: bool
) -> Sequence[Action]:
    """Decide whether to commit evidence now: always, unless more is about to end and it is not due yet. A run that goes
    on in this very pass does not wait any more."""
    resumed = {each.run_id for each in repairs if isinstance(each, Resume)}
    ended = [
        (run.task_id, run.run_id)
        for run in actual.runs.values()
        if run.planned
        and not run.corrupt
        and (now_phase := phase(run, now)) in (*ENDED, Phase.WAITING)
        and not actual.proves_as(run, now_phase)
        and not (now_phase == Phase.WAITING and (awaited_runs(run) or run.run_id in resumed))
        and is_ours(run, actual)
    ]
    if not ended or not limits.online or (more and not limits.publish_due):
        return ()
    return (Publish(runs=tuple(sorted(ended))),)


def _done_with(actual: Actual, limits: Limits) -> Iterable[Action]:
    """Decide about refs of attempts that engines execute: those of attempts that nobody goes on with any more go. While
    another host holds the claim of a run, it may give back the one by which an attempt seems to be over."""
    for ref, oid in sorted(actual.work.items()):
        run_id, number = of_ref(ref) or ("", 0)
        run, held = actual.runs.get(RunId(run_id)), (actual.held or {}).get(RunId(run_id))
        here = run is not None and run.number <= number and run.is_afar and not actual.proves(run.run_id, number)
        kept = held is not None and (held.claim.number <= number or not held.ours)
        there = kept and not actual.proves(RunId(run_id), number)
        if limits.online and not here and not there:
            yield Release(ref=ref, oid=oid, reason=f"attempt {number} of {run_id} is over")


def _busy(repairs: Sequence[Action], launches: Iterable[Action], under_way: int) -> bool:
    tidying = (Retire, Forget, Release, Wait)
    return under_way > 0 or any(not isinstance(each, tidying) for each in (*repairs, *launches))


def _ordered(actions: Iterable[Action]) -> list[Action]:
    order = (
        Quarantine, Restore, Yield, Retire, Forget, Release, Reclaim, Adopt, Cancel, Abandon, TakeOver, Resume, Submit,
        Wait,
    )  # fmt: skip
    return sorted(actions, key=lambda each: (order.index(type(each)), _subject(each)))


def _run_of(action: Action) -> str:
    return action.plan.run_id if isinstance(action, Launch) else "" if isinstance(action, Wait) else _subject(action)


def _subject(action: Action) -> str:
    if isinstance(action, Release):
        return action.ref
    return action.subject if isinstance(action, Wait) else str(getattr(action, "run_id", ""))
