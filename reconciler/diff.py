"""The decision: what is wanted and what is, to what shall be done. Pure, total, deterministic.

`phase` judges one run, `diff` decides about all. The result is ordered: what frees something or keeps a promise comes
before what starts something new. Deciding twice about the same world gives the same actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from reconciler.actions import Abandon, Action, Cancel, Launch, Publish, Quarantine, Restore, Resume, Retire, Wait
from reconciler.model import (
    Evidence,
    Instant,
    Limits,
    Name,
    Outcome,
    Phase,
    Rejection,
    Run,
    RunId,
    Suspend,
    Wish,
)

START_PATIENCE_S = 30.0
"""A claimed attempt whose worker has not written its first record by then is lost, even if its claimer lives."""

ENDED = (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the tip asks for and does not prove yet. `names` holds every name that has a request at all."""

    wishes: tuple[Wish, ...]
    rejections: tuple[Rejection, ...] = ()
    names: Mapping[Name, RunId | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Actual:
    """Runs that are under way or not yet proven on this machine, and what the tip proves of them."""

    runs: Mapping[RunId, Run]
    evidence: Mapping[RunId, Evidence]


def phase(run: Run | None, now: Instant) -> Phase:
    """Return what a run is doing, from facts alone; `judge` says why as well."""
    return judge(run, now)[0]


def judge(run: Run | None, now: Instant) -> tuple[Phase, str]:
    """Return the phase of a run and, for a stale one, the reason."""
    if run is None:
        return Phase.ABSENT, ""
    if run.end is not None and run.end.outcome != Outcome.INTERRUPTED:
        return Phase(run.end.outcome.value), run.end.detail
    if run.attempt is None:
        return _judge_claimed(run, now)
    outcome = run.attempt.outcome
    if outcome == Outcome.INTERRUPTED:
        return Phase.STALE, f"attempt {run.number} was interrupted: {run.attempt.detail}"
    if outcome is not None:
        return Phase(outcome.value), run.attempt.detail
    return _judge_started(run, now)


def _judge_claimed(run: Run, now: Instant) -> tuple[Phase, str]:
    """Judge an attempt that is claimed and has no record of its worker."""
    if run.end is not None:
        return Phase.STALE, run.end.detail
    if run.lock_held:
        late = run.claim is None or _age_s(run.claim.claimed, now) > run.heartbeat.stale_after_s
        return (Phase.STALE, f"attempt {run.number} holds the lock without a record") if late else (Phase.STARTING, "")
    if run.claim is None:
        return Phase.STALE, f"the record of attempt {run.number} is lost"
    if not run.claimer_alive:
        return Phase.STALE, f"attempt {run.number} was claimed and its claimer ended before it started"
    if _age_s(run.claim.claimed, now) > START_PATIENCE_S:
        return Phase.STALE, f"attempt {run.number} did not start within {START_PATIENCE_S:g} s"
    return Phase.STARTING, ""


def _judge_started(run: Run, now: Instant) -> tuple[Phase, str]:
    """Judge an attempt that has a record without an end."""
    assert run.attempt is not None
    if not run.lock_held:
        return Phase.STALE, f"the worker of attempt {run.number} is gone: its lock is free"
    if not run.worker_alive:
        return Phase.STALE, f"the worker of attempt {run.number} is dead; something of it is left"
    silence_s = silence(run, now)
    if silence_s > run.heartbeat.stale_after_s:
        return Phase.STALE, f"no heartbeat of attempt {run.number} for {silence_s:.0f} s"
    return Phase.RUNNING, ""


def silence(run: Run, now: Instant) -> float:
    """Return for how many seconds nothing was heard of the newest attempt, by this machine's monotonic clock."""
    heard = [each for each in (run.attempt.started if run.attempt else None, run.beat) if each is not None]
    return min((_age_s(each, now) for each in heard), default=float("inf"))


def _age_s(then: Instant, now: Instant) -> float:
    """Return seconds between two instants of one boot; monotonic values of different boots say nothing: infinite."""
    return now.monotonic_s - then.monotonic_s if then.boot_id == now.boot_id else float("inf")


# ------------------------------------------------------------------------------------------------ the decision


def diff(desired: Desired, actual: Actual, now: Instant, limits: Limits) -> tuple[Action, ...]:
    """Return the actions that lead from `actual` towards `desired`, in the order in which to do them."""
    wanted = {wish.run_id: wish for wish in desired.wishes}
    repairs = [action for run in actual.runs.values() for action in _about_run(run, wanted, desired, actual, now)]
    held = {each.subject for each in repairs if isinstance(each, Wait) and each.settled}
    under_way = sum(_takes_a_slot(run, held, now) for run in actual.runs.values())
    room = max(0, limits.runs_max - under_way)
    launches = list(_launches(desired, actual, now, room))
    return (*_ordered(repairs), *launches, *_publish(actual, now, limits, more=_busy(repairs, launches, under_way)))


def _takes_a_slot(run: Run, held: set[str], now: Instant) -> bool:
    """Return whether a run counts against `runs_max`: one that a person holds back and of which nothing lives does
    not."""
    if run.run_id in held and not run.lock_held:
        return False
    return phase(run, now) in (Phase.STARTING, Phase.RUNNING, Phase.STALE)


def _about_run(
    run: Run, wanted: Mapping[RunId, Wish], desired: Desired, actual: Actual, now: Instant
) -> Iterable[Action]:
    """Decide about one run that is there."""
    run_id, task_id, number = run.run_id, run.task_id, run.number
    if run.corrupt:
        names = tuple(problem.pointer for problem in run.corrupt)
        yield Quarantine(run_id=run_id, task_id=task_id, names=names, reason=run.corrupt[0].sentence())
        return
    now_phase, why = judge(run, now)
    wish = wanted.get(run_id)
    if now_phase in ENDED:
        yield from _about_ended(run, wish, proven(run, actual.evidence.get(run_id)))
        return
    reason = run.cancel.sentence() if run.cancel else _unwanted(run, wish, desired, now_phase)
    if reason:
        yield Cancel(run_id=run_id, task_id=task_id, number=number, reason=reason)
    elif not run.planned:
        yield from _restore(run, wish)
    elif now_phase == Phase.STALE:
        yield _repair(run, wish, why, now)


def _about_ended(run: Run, wish: Wish | None, is_proven: bool) -> Iterable[Action]:
    """Decide about a run that has ended, but for publishing it."""
    if is_proven:
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


def _unwanted(run: Run, wish: Wish | None, desired: Desired, now_phase: Phase) -> str:
    """Return why a run that has not ended is no longer wanted, "" if it is."""
    if wish is not None:
        return f"the request says: {wish.request.cancel}" if wish.request.cancel else ""
    successor = desired.names.get(run.name)
    if successor is not None and successor != run.run_id:
        return f"superseded by {successor}"
    # A run that goes on after its request was deleted is left to finish; one that has to be resumed is not.
    return "its request was deleted" if run.name not in desired.names and now_phase == Phase.STALE else ""


def _repair(run: Run, wish: Wish | None, why: str, now: Instant) -> Action:
    """Decide about a stale run: resume it, or give it up when its attempts are used."""
    used = run.number - (run.claim.series if run.claim else 1) + 1
    run_id, task_id, number = run.run_id, run.task_id, run.number
    if used >= run.attempts_max:
        reason = f"{why}; all {run.attempts_max} attempts are used"
        return Abandon(run_id=run_id, task_id=task_id, number=number, reason=reason)
    if wish is not None and (held := suspended(wish.request.suspend, now)):
        return Wait(subject=run.run_id, reason=f"{why}; not resumed: {held}", settled=True)
    return Resume(run_id=run_id, task_id=task_id, after=number, reason=why)


def _launches(desired: Desired, actual: Actual, now: Instant, room: int) -> Iterable[Action]:
    """Decide about the wishes of which there is no run yet: by priority, then by path."""
    absent = [wish for wish in desired.wishes if wish.run_id not in actual.runs]
    in_order = sorted(actual.runs.values(), key=lambda run: run.run_id)
    busy = {run.name: run.run_id for run in in_order if phase(run, now) not in ENDED}
    for wish in sorted(absent, key=lambda each: (-each.request.priority, each.request.source.path)):
        reason = _held_back(wish, now)
        if reason:
            yield Wait(subject=wish.run_id, reason=reason, settled=True)
        elif isinstance(wish.plan, Rejection):
            continue
        elif older := busy.get(wish.request.name):
            yield Wait(subject=wish.run_id, reason=f"waits for {older}, which it supersedes, to end")
        elif room > 0:
            room -= 1
            yield Launch(plan=wish.plan)
        else:
            yield Wait(subject=wish.run_id, reason="waits for a free slot (runs_max)")


def _held_back(wish: Wish, now: Instant) -> str:
    """Return why a person does not want this run now, "" if nobody says so."""
    if wish.request.cancel:
        return f"cancelled before it started: {wish.request.cancel}"
    return suspended(wish.request.suspend, now)


def suspended(suspend: Suspend | None, now: Instant) -> str:
    """Return in words that a request is suspended at this instant, "" if it is not.

    `until` is compared with the wall clock, because it is a person's date; both are UTC in ISO 8601, which orders
    as text.
    """
    if suspend is None or (suspend.until is not None and suspend.until[:19] <= now.at[:19]):
        return ""
    until = f" until {suspend.until}" if suspend.until else ""
    return f"suspended{until}" + (f": {suspend.reason}" if suspend.reason else "")


def proven(run: Run, evidence: Evidence | None) -> bool:
    """Return whether the tip holds the evidence of this run's newest attempt."""
    return evidence is not None and evidence.attempt >= run.number


def _publish(actual: Actual, now: Instant, limits: Limits, *, more: bool) -> Sequence[Action]:
    """Decide whether to commit evidence now: always, unless more is about to end and it is not due yet."""
    ended = [
        (run.task_id, run.run_id)
        for run in actual.runs.values()
        if run.planned
        and not run.corrupt
        and phase(run, now) in ENDED
        and not proven(run, actual.evidence.get(run.run_id))
    ]
    if not ended or (more and not limits.publish_due):
        return ()
    return (Publish(runs=tuple(sorted(ended))),)


def _busy(repairs: Sequence[Action], launches: Iterable[Action], under_way: int) -> bool:
    return under_way > 0 or any(not isinstance(each, Retire | Wait) for each in (*repairs, *launches))


def _ordered(actions: Iterable[Action]) -> list[Action]:
    order = (Quarantine, Restore, Retire, Cancel, Abandon, Resume, Wait)
    return sorted(actions, key=lambda each: (order.index(type(each)), _subject(each)))


def _subject(action: Action) -> str:
    return action.subject if isinstance(action, Wait) else str(getattr(action, "run_id", ""))
