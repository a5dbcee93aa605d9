"""The decision: what is wanted and what is, to what shall be done. Pure, total, deterministic.

`phase` judges one run, `diff` decides about all. The result is ordered: what frees something or keeps a promise comes
before what starts something new. Deciding twice about the same world gives the same actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler import codec, queueing
from reconciler.actions import (
    Abandon,
    Action,
    Cancel,
    Launch,
    Publish,
    Quarantine,
    Reclaim,
    Release,
    Restore,
    Resume,
    Retire,
    TakeOver,
    Wait,
    Yield,
)
from reconciler.approve import Case, weigh
from reconciler.model import (
    ChildEnd,
    Choice,
    Decision,
    Evidence,
    ExecutionMode,
    Gate,
    Held,
    HostId,
    Instant,
    Limits,
    Name,
    Neighbour,
    Outcome,
    Phase,
    Plan,
    Policy,
    Rejection,
    Run,
    RunId,
    StageStatus,
    Status,
    Suspend,
    TaskId,
    Waiting,
    Wish,
    claim_ref,
    host_ref,
    name_of_run,
)

START_PATIENCE_S = 30.0
"""A claimed attempt whose worker has not written its first record by then is lost, even if its claimer lives."""

ENDED = (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """What the tip asks for and does not prove yet. `names` holds every name that has a request at all; `displaced`
    the runs that another one of their group cancels, and why: `diff` works that out first.

    Of runs that wait for decisions, `cases` says what policies look at and `decisions` what was committed. `ended` are
    the parents of nested runs that are over.
    """

    wishes: tuple[Wish, ...]
    rejections: tuple[Rejection, ...] = ()
    names: Mapping[Name, RunId | None]
    policies: tuple[Policy, ...] = ()
    cases: Mapping[RunId, Case] = field(default_factory=dict)
    decisions: Mapping[RunId, tuple[Decision, ...]] = field(default_factory=dict)
    ended: frozenset[RunId] = frozenset()
    displaced: Mapping[RunId, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Actual:
    """Runs that are under way or not yet proven on this machine, and what the tip proves of them.

    `held` and `neighbours` are the refs at the remote by which machines agree who executes what, `held` None where
    there is no remote; `lost` says of runs that were proven once in which commit, where history was rewritten.
    """

    runs: Mapping[RunId, Run]
    evidence: Mapping[RunId, Evidence]
    held: Mapping[RunId, Held] | None = None
    neighbours: Mapping[HostId, Neighbour] = field(default_factory=dict)
    lost: Mapping[RunId, str] = field(default_factory=dict)
    unclaimed: tuple[tuple[TaskId, RunId], ...] = ()

    def proves(self, run_id: RunId, number: int) -> bool:
        """Return whether the tip holds evidence of attempt `number` of a run, or of a later one."""
        found = self.evidence.get(run_id)
        return found is not None and found.attempt >= number

    def proves_as(self, run: Run, now_phase: Phase) -> bool:
        """Return whether the tip holds evidence of a run as it is here: that it waits does not prove how it ended."""
        found = self.evidence.get(run.run_id)
        if found is None or found.attempt != run.number:
            return found is not None and found.attempt > run.number
        return found.waiting is None or now_phase not in ENDED

    def waits_elsewhere(self, run_id: RunId) -> Waiting | None:
        """Return what a run waits for of which nothing is here, None if it does not."""
        found = self.evidence.get(run_id)
        there = run_id in self.runs or run_id in (self.held or {})
        return found.waiting if found is not None and not there else None


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
    desired = _with_displaced(desired, actual, now, limits)
    repairs = [
        action for run in actual.runs.values() for action in _about_run(run, wanted, desired, actual, now, limits)
    ]
    under_way = _under_way(actual, repairs, now)
    room = Room(limits.runs_max - under_way)
    repairs += _wake(wanted, desired, actual, {_subject(each) for each in repairs}, now, limits, room)
    repairs += _elsewhere(wanted, desired, actual, now, limits, room)
    stuck = {each.subject: each.reason for each in repairs if isinstance(each, Wait) and each.settled}
    launches = list(_launches(_without_orphans(desired, repairs), actual, now, limits, room, stuck))
    repairs += _unclaimed(actual, [*repairs, *launches])
    more = _busy(repairs, launches, under_way)
    return (*_ordered(repairs), *launches, *_publish(actual, repairs, now, limits, more=more))


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
    for task_id, run_id in actual.unclaimed:
        if run_id not in busy:
            yield Retire(run_id=run_id, task_id=task_id, reason="nothing of it was ever claimed here")


def _run_of(action: Action) -> str:
    return action.plan.run_id if isinstance(action, Launch) else "" if isinstance(action, Wait) else _subject(action)


@dataclass(slots=True)
class Room:
    """How many runs may still be started."""

    left: int

    def take(self) -> bool:
        """Return whether there is room for one more, and take it."""
        self.left -= 1
        return self.left >= 0


def _under_way(actual: Actual, repairs: Sequence[Action], now: Instant) -> int:
    held_back = {each.subject for each in repairs if isinstance(each, Wait) and each.settled}
    return sum(_takes_a_slot(run, held_back, now) for run in actual.runs.values())


def _takes_a_slot(run: Run, held_back: set[str], now: Instant) -> bool:
    """Return whether a run counts against `runs_max`: one that a person holds back and of which nothing lives does
    not."""
    if run.run_id in held_back and not run.lock_held:
        return False
    return phase(run, now) in (Phase.STARTING, Phase.RUNNING, Phase.STALE)


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
    if not _is_at_rest(run, now_phase, is_proven, actual) and actual.held is not None:
        unshared = _unshared(run, wish, is_proven, desired, actual, limits)
        if unshared is not None:
            yield unshared
            return
    if now_phase in ENDED:
        yield from _about_ended(run, wish, is_proven)
        return
    reason = run.cancel.sentence() if run.cancel else _unwanted(run, wish, desired, now_phase)
    if reason:
        yield Cancel(run_id=run_id, task_id=task_id, number=number, reason=reason)
    elif not run.planned:
        yield from _restore(run, wish)
    elif now_phase == Phase.STALE:
        yield _repair(run, wish, why, now, limits)


def _is_at_rest(run: Run, now_phase: Phase, is_proven: bool, actual: Actual) -> bool:
    """Return whether a run needs no claim: the tip proves its end, or that it waits, and nobody has gone on with it."""
    if not is_proven:
        return False
    if now_phase != Phase.WAITING:
        return now_phase in ENDED
    return run.run_id not in (actual.held or {}) and actual.evidence[run.run_id].attempt == run.number


def _unshared(
    run: Run, wish: Wish | None, is_proven: bool, desired: Desired, actual: Actual, limits: Limits
) -> Action | None:
    """Decide about a run here whose shared claim is not the one this machine executes it by; None if it is."""
    run_id, task_id, number = run.run_id, run.task_id, run.number
    held = actual.held.get(run_id) if actual.held is not None else None
    if held is not None and not held.ours:
        reason = f"attempt {held.claim.number} of it is executed by {held.host_name}"
        return Yield(run_id=run_id, task_id=task_id, number=number, reason=reason)
    if is_proven:
        reason = f"the tip proves attempt {actual.evidence[run_id].attempt}, so attempt {number} here is over"
        return Yield(run_id=run_id, task_id=task_id, number=number, reason=reason)
    if held is not None and held.claim.number == number:
        return None
    if not limits.online:
        return Wait(subject=run_id, reason="waits for the remote, where its claim must be made again")
    if not run.planned:
        return None
    if held is None or held.claim.number < number:
        reason = "its claim at the remote is gone" if held is None else "its claim at the remote is an older one"
        return Reclaim(run_id=run_id, task_id=task_id, number=number, held=held, reason=reason)
    if isinstance(held.plan, Plan):
        reason = f"attempt {held.claim.number} was claimed here and never begun"
        return _take_over(held, held.plan, desired, reason, wish)
    return Wait(subject=run_id, reason="it was claimed here and cannot be planned any more", settled=True)


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
    displaced = desired.displaced.get(run.run_id, "")
    if wish is not None:
        return f"the request says: {wish.request.cancel}" if wish.request.cancel else displaced
    successor = desired.names.get(run.name)
    if successor is not None and successor != run.run_id:
        return f"superseded by {successor}"
    if displaced:
        return displaced
    # A run that goes on after its request was deleted is left to finish; one that has to be resumed is not.
    if wish is None and run.parent is not None:
        return f"its parent run {run.parent} is over" if run.parent in desired.ended else ""
    idle = now_phase in (Phase.STALE, Phase.WAITING)
    return "its request was deleted" if run.name not in desired.names and idle else ""


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
    return Resume(run_id=run_id, task_id=task_id, after=number, reason=why)


# ------------------------------------------------------------------------------------------------ gates


def _wake(
    wanted: Mapping[RunId, Wish],
    desired: Desired,
    actual: Actual,
    decided: set[str],
    now: Instant,
    limits: Limits,
    room: Room,
) -> Iterable[Action]:
    """Decide about the runs here that wait: go on with what was decided, say what is missing of the rest. Of those in
    `decided` something else is done in this pass."""
    for run_id, run in sorted(actual.runs.items()):
        wish = wanted.get(run_id)
        idle = phase(run, now) == Phase.WAITING and not run.cancel and not run.corrupt and run.planned
        if run_id in decided or not idle or _unwanted(run, wish, desired, Phase.WAITING):
            continue
        if wish is None:
            what = f"its parent run {run.parent} asks for it" if run.parent else "its request can be read"
            yield Wait(subject=run_id, reason=f"waits until {what} again", settled=True)
        else:
            yield _about_waiting(run, wish, wanted, desired, actual, now, limits, room)


def _about_waiting(
    run: Run,
    wish: Wish,
    wanted: Mapping[RunId, Wish],
    desired: Desired,
    actual: Actual,
    now: Instant,
    limits: Limits,
    room: Room,
) -> Action:
    decisions, missing = _weighed(run.run_id, open_gates(run), desired, now)
    children, awaited = _ended_children(run, actual)
    if not decisions and not children:
        settled = all(_is_settled(each, wanted, actual, now) for each in awaited)
        reasons = [missing] if missing else []
        reasons += [f"waits for its runs: {', '.join(awaited)}"] if awaited else []
        return Wait(subject=run.run_id, reason="; ".join(reasons), settled=settled)
    if held := suspended(wish.request.suspend, now):
        return Wait(subject=run.run_id, reason=f"decided, and not resumed: {held}", settled=True)
    if not limits.online:
        return Wait(subject=run.run_id, reason="waits for the remote, where it must be claimed")
    if not room.take():
        return Wait(subject=run.run_id, reason="waits for a free slot (runs_max)")
    reason = "; ".join([*([_told(decisions)] if decisions else []), *([_told_of(children)] if children else [])])
    return Resume(
        run_id=run.run_id,
        task_id=run.task_id,
        after=run.number,
        reason=reason,
        decisions=decisions,
        children=children,
    )


def _is_settled(run_id: RunId, wanted: Mapping[RunId, Wish], actual: Actual, now: Instant) -> bool:
    """Return whether only a person can bring a nested run on."""
    run, wish = actual.runs.get(run_id), wanted.get(run_id)
    if run is not None:
        return phase(run, now) == Phase.WAITING
    return wish is None or isinstance(wish.plan, Rejection) or bool(_held_back(wish, actual, now))


def open_gates(run: Run) -> list[Gate]:
    """Return the gates at which a run waits for people."""
    stages = run.attempt.stages if run.attempt is not None else ()
    waiting = [each for each in stages if each.status == StageStatus.WAITING and not each.waits_for]
    return [each.gate for each in waiting if each.gate is not None]


def awaited_runs(run: Run) -> list[RunId]:
    """Return the nested runs that a run waits for."""
    stages = run.attempt.stages if run.attempt is not None else ()
    return [child for each in stages if each.status == StageStatus.WAITING for child in each.waits_for]


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


def _told_of(children: Sequence[ChildEnd]) -> str:
    failed = [each.run_id for each in children if each.status != Status.SUCCEEDED]
    return f"{len(children)} nested runs ended" + (f", {len(failed)} of them without success" if failed else "")


def _weighed(run_id: RunId, gates: Sequence[Gate], desired: Desired, now: Instant) -> tuple[tuple[Decision, ...], str]:
    """Return the decisions on gates that open or close them, and in words what the others wait for."""
    case = desired.cases.get(run_id)
    if not gates:
        return (), ""
    if case is None:
        return (), "waits for approval"
    weighed = [weigh(gate, case, desired.decisions.get(run_id, ()), desired.policies, now.at) for gate in gates]
    decisions = tuple(decision for each in weighed for decision in each.decisions if each.choice is not None)
    missing = [f"'{each.gate.stage}' ({each.gate.reason}): {each.missing}" for each in weighed if each.choice is None]
    return decisions, f"waits for approval of {'; '.join(missing)}"


def _told(decisions: Sequence[Decision]) -> str:
    words = {Choice.APPROVE: "approved", Choice.REJECT: "rejected"}
    return "; ".join(f"stage '{each.stage}' was {words[each.decision]} by {each.actor}" for each in decisions)


# ------------------------------------------------------------------------------------------------ other machines


def _elsewhere(
    wanted: Mapping[RunId, Wish], desired: Desired, actual: Actual, now: Instant, limits: Limits, room: Room
) -> Iterable[Action]:
    """Decide about shared claims of runs of which nothing is here, and about hosts that fell silent."""
    for run_id in sorted(actual.held or {}):
        if actual.held is not None and run_id not in actual.runs:
            yield _about_held(run_id, actual.held[run_id], wanted.get(run_id), desired, actual, now, limits, room)
    with_claims = {each.claim.host for each in (actual.held or {}).values()}
    for host, seen in sorted(actual.neighbours.items()):
        if limits.online and host not in with_claims and seen.silent_s > seen.lease_s:
            yield Release(ref=host_ref(host), oid=seen.oid, reason=f"{host} holds no run and fell silent")


def _about_held(
    run_id: RunId,
    held: Held,
    wish: Wish | None,
    desired: Desired,
    actual: Actual,
    now: Instant,
    limits: Limits,
    room: Room,
) -> Action:
    """Decide about one shared claim of a run of which nothing is here."""
    number, where = held.claim.number, f"attempt {held.claim.number} is executed by {held.host_name}"
    if limits.online and actual.proves(run_id, max(1, number)):
        return Release(ref=claim_ref(run_id), oid=held.oid, reason=f"the tip proves {run_id}")
    if not limits.online or not (held.ours or held.silent):
        return Wait(subject=run_id, reason=where)
    why = f"{held.host_name} fell silent" if not held.ours else f"attempt {number} was claimed here and never begun"
    if not isinstance(held.plan, Plan):
        reason = f"{why}, and {run_id} cannot be planned any more: it is given up without evidence"
        return Release(ref=claim_ref(run_id), oid=held.oid, reason=reason, gives_up=True)
    if held.plan.parent is not None and wish is None and not _is_left(held.plan.parent, actual):
        return Wait(subject=run_id, reason=f"{why}; it goes on where its parent run {held.plan.parent} does")
    if wish is not None and not wish.request.cancel and (suspend := suspended(wish.request.suspend, now)):
        return Wait(subject=run_id, reason=f"{why}; not resumed: {suspend}", settled=True)
    action = _take_over(held, held.plan, desired, why, wish)
    if action.outcome is None and not room.take():
        return Wait(subject=run_id, reason=f"{why}; waits for a free slot (runs_max)")
    return action


def _is_left(parent: RunId, actual: Actual) -> bool:
    """Return whether nobody goes on with the parent of a nested run: it is over, or nothing is known of it any more."""
    found = actual.evidence.get(parent)
    if found is not None and found.waiting is None:
        return True
    return found is None and parent not in actual.runs and parent not in (actual.held or {})


def _take_over(held: Held, plan: Plan, desired: Desired, why: str, wish: Wish | None) -> TakeOver:
    """Return how a run goes on here: as its next attempt, or by its end if it is not wanted or its attempts are
    used."""
    number, claims = held.claim.number, held.claim.claims
    used = number - (claims[-1].series if claims else 1) + 1
    successor = desired.names.get(plan.name)
    outcome = None
    if wish is not None and wish.request.cancel:
        why, outcome = f"{why}, and the request says: {wish.request.cancel}", Outcome.CANCELLED
    elif wish is None and successor is not None and successor != plan.run_id:
        why, outcome = f"{why}, and it is superseded by {successor}", Outcome.CANCELLED
    elif plan.name not in desired.names:
        gone = f"its parent run {plan.parent} is over" if plan.parent else "its request was deleted"
        why, outcome = f"{why}, and {gone}", Outcome.CANCELLED
    elif plan.run_id in desired.displaced:
        why, outcome = f"{why}, and {desired.displaced[plan.run_id]}", Outcome.CANCELLED
    elif used >= plan.attempts_max:
        why, outcome = f"{why}; all {plan.attempts_max} attempts are used", Outcome.FAILED
    return TakeOver(
        run_id=plan.run_id,
        task_id=plan.task_id,
        number=number,
        plan=plan,
        held=held,
        reason=why,
        outcome=outcome if number else None,
    )


# ------------------------------------------------------------------------------------------------ starting


def _launches(
    desired: Desired, actual: Actual, now: Instant, limits: Limits, room: Room, stuck: Mapping[str, str]
) -> Iterable[Action]:
    """Decide about the wishes of which there is no run yet: by priority, which grows with waiting, then by path."""
    absent = _absent(desired, actual)
    wanted = {each.run_id for each in desired.wishes}
    busy = _busy_names(actual, now)
    line = queueing.line_up(absent, _scene(desired, actual, now, stuck), now, limits.ageing_s)
    for wish in sorted(absent, key=lambda each: _turn(each, actual, now, limits)):
        reason, hold = _held_back(wish, actual, now), line.holds.get(wish.run_id)
        if reason:
            yield Wait(subject=wish.run_id, reason=reason, settled=True)
        elif isinstance(wish.plan, Rejection):
            continue
        elif older := busy.get(wish.request.name):
            which = "the run before it" if older in wanted else "which it supersedes"
            yield Wait(subject=wish.run_id, reason=f"waits for {older}, {which}, to end")
        elif hold is not None:
            yield Wait(subject=wish.run_id, reason=hold.reason, settled=hold.settled)
        elif not limits.online:
            yield Wait(subject=wish.run_id, reason="waits for the remote, where it must be claimed")
        elif room.take():
            yield Launch(plan=wish.plan)
        else:
            yield Wait(subject=wish.run_id, reason="waits for a free slot (runs_max)")
    yield from _left_waiting(desired, actual, now, limits, room)


def _left_waiting(desired: Desired, actual: Actual, now: Instant, limits: Limits, room: Room) -> Iterable[Action]:
    """Decide about the runs that another machine left waiting, and that any machine may go on with."""
    for wish in desired.wishes:
        if actual.waits_elsewhere(wish.run_id) is None:
            continue
        cancel, reason = wish.request.cancel, _held_back(wish, actual, now)
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


def _go_on(wish: Wish, plan: Plan, desired: Desired, actual: Actual, now: Instant, room: Room) -> Action:
    """Decide about a run that another machine left waiting: go on with what was decided, else say what is missing."""
    evidence = actual.evidence[wish.run_id]
    assert evidence.waiting is not None
    if plan.digest != evidence.waiting.plan_digest:
        reason = "waits, and the plan it waits on cannot be made again from its commit; raise 'rerun'"
        return Wait(subject=wish.run_id, reason=reason, settled=True)
    decisions, missing = _weighed(wish.run_id, evidence.waiting.gates, desired, now)
    if not decisions:
        return Wait(subject=wish.run_id, reason=missing, settled=True)
    if not room.take():
        return Wait(subject=wish.run_id, reason="waits for a free slot (runs_max)")
    return Launch(plan=plan, number=evidence.attempt + 1, decisions=decisions, reason=_told(decisions))


def _absent(desired: Desired, actual: Actual) -> list[Wish]:
    """Return the wishes of which there is no run yet, here or elsewhere."""
    held = actual.held or {}
    absent = [wish for wish in desired.wishes if wish.run_id not in actual.runs and wish.run_id not in held]
    return [wish for wish in absent if not actual.proves(wish.run_id, 1)]


def _with_displaced(desired: Desired, actual: Actual, now: Instant, limits: Limits) -> Desired:
    """Return what is wanted, with the runs that a newcomer of their group cancels: never while that could not start."""
    if not limits.online or not any(each.request.concurrency for each in desired.wishes):
        return desired
    line = queueing.line_up(_absent(desired, actual), _scene(desired, actual, now, {}), now, limits.ageing_s)
    return replace(desired, displaced=line.displaced) if line.displaced else desired


def _scene(desired: Desired, actual: Actual, now: Instant, stuck: Mapping[str, str]) -> queueing.Scene:
    """Return what turns depend on; wishes that a person holds back, or that cannot be planned, are stuck as well."""
    if not any(each.request.after or each.request.concurrency for each in desired.wishes):
        return queueing.Scene(names={}, evidence={}, under_way={}, groups={})
    back = {each.run_id: reason for each in desired.wishes if (reason := _held_back(each, actual, now))}
    broken = {each.run_id: each.plan.problems[0].reason for each in desired.wishes if isinstance(each.plan, Rejection)}
    under_way = _unproven(desired, actual, now)
    runs = {RunId(each): reason for each, reason in stuck.items()}
    held_back = {run_id: why for run_id, why in {**broken, **back}.items() if run_id not in under_way}
    return queueing.Scene(
        names=desired.names,
        evidence=actual.evidence,
        under_way=under_way,
        groups=_groups(desired, actual),
        stuck={**runs, **held_back},
        shared=actual.held is not None,
    )


def _unproven(desired: Desired, actual: Actual, now: Instant) -> dict[RunId, Phase]:
    """Return every run, here or elsewhere, that is not both ended and proven: also those that wait for decisions."""
    there = {
        run_id: Phase.STALE if each.silent else Phase.RUNNING
        for run_id, each in (actual.held or {}).items()
        if run_id not in actual.runs and not actual.proves(run_id, max(1, each.claim.number))
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


def _busy_names(actual: Actual, now: Instant) -> dict[Name, RunId]:
    """Return by name the runs that have not ended, here or elsewhere."""
    here = [run for _, run in sorted(actual.runs.items()) if phase(run, now) not in ENDED]
    there = [run_id for run_id in sorted(actual.held or {}) if run_id not in actual.runs]
    return {name_of_run(run_id): run_id for run_id in there} | {run.name: run.run_id for run in here}


def _turn(wish: Wish, actual: Actual, now: Instant, limits: Limits) -> tuple[int, str, str]:
    """Return what orders wishes: their priority, then their path; where several hosts share the work, each begins
    somewhere else, so that they do not all reach for the same run."""
    path = wish.request.source.path
    shared = limits.host is not None and bool(actual.neighbours)
    digest = codec.digest([limits.host, path]) if shared else ""
    return -queueing.priority(wish, now, limits.ageing_s), digest, path


def _held_back(wish: Wish, actual: Actual, now: Instant) -> str:
    """Return why a person does not want this run now, "" if nobody says so."""
    if wish.run_id in actual.lost:
        return (
            f"its evidence was in {actual.lost[wish.run_id][:12]}, which the branch does not hold any more;"
            " bring that commit back, let the machine that ran it publish again, or raise 'rerun'"
        )
    if wish.request.cancel:
        return f"cancelled before it started: {wish.request.cancel}"
    if isinstance(wish.plan, Plan) and wish.plan.execution_mode == ExecutionMode.CLOUD:
        return "waits for an executor elsewhere (cloud): none is configured, and it is never executed here instead"
    early = f"waits for its time, {wish.due_at}" if wish.due_at[:19] > now.at[:19] else ""
    return suspended(wish.request.suspend, now) or early


def suspended(suspend: Suspend | None, now: Instant) -> str:
    """Return in words that a request is suspended at this instant, "" if it is not.

    `until` is compared with the wall clock, because it is a person's date; both are UTC in ISO 8601, which orders
    as text.
    """
    if suspend is None or (suspend.until is not None and suspend.until[:19] <= now.at[:19]):
        return ""
    until = f" until {suspend.until}" if suspend.until else ""
    return f"suspended{until}" + (f": {suspend.reason}" if suspend.reason else "")


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
        and _is_ours(run, actual)
    ]
    if not ended or not limits.online or (more and not limits.publish_due):
        return ()
    return (Publish(runs=tuple(sorted(ended))),)


def _is_ours(run: Run, actual: Actual) -> bool:
    """Return whether this machine may publish a run: with a remote, who holds its claim by this very attempt."""
    if actual.held is None:
        return True
    held = actual.held.get(run.run_id)
    return held is not None and held.ours and held.claim.number == run.number


def _busy(repairs: Sequence[Action], launches: Iterable[Action], under_way: int) -> bool:
    return under_way > 0 or any(not isinstance(each, Retire | Release | Wait) for each in (*repairs, *launches))


def _ordered(actions: Iterable[Action]) -> list[Action]:
    order = (Quarantine, Restore, Yield, Retire, Release, Reclaim, Cancel, Abandon, TakeOver, Resume, Wait)
    return sorted(actions, key=lambda each: (order.index(type(each)), _subject(each)))


def _subject(action: Action) -> str:
    if isinstance(action, Release):
        return action.ref
    return action.subject if isinstance(action, Wait) else str(getattr(action, "run_id", ""))
