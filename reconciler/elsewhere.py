"""Machines that share a remote: whose a run is, and what becomes of the runs of a machine that fell silent.

Who executes a run is said by its claim at the remote. A run here without the claim that it needs is let go or claimed
again; a claim without a run here is left alone until its host is silent for longer than its lease.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from reconciler.actions import Action, Adopt, Reclaim, Release, TakeOver, Wait, Yield
from reconciler.model import Held, Instant, Limits, Outcome, Phase, Plan, Run, RunId, Wish, claim_ref, host_ref
from reconciler.phases import ENDED
from reconciler.placement import Refused, Slots, keep
from reconciler.recovery import of_silent_host
from reconciler.slots import executors, needs_of, of_plan
from reconciler.state import Actual, Desired, suspended


def is_at_rest(run: Run, now_phase: Phase, is_proven: bool, actual: Actual) -> bool:
    """Return whether a run needs no claim: the tip proves its end, or that it waits, and nobody has gone on with it."""
    if now_phase != Phase.WAITING:
        return is_proven and now_phase in ENDED
    return run.run_id not in (actual.held or {}) and actual.is_waiting(run.run_id, run.number)


def about_unshared(
    run: Run, wish: Wish | None, is_proven: bool, desired: Desired, actual: Actual, limits: Limits
) -> Action | None:
    """Decide about a run here whose shared claim is not the one this machine executes it by; None if it is."""
    run_id, task_id, number = run.run_id, run.task_id, run.number
    held = actual.held.get(run_id) if actual.held is not None else None
    if held is not None and not held.ours:
        reason = f"attempt {held.claim.number} of it is executed by {held.host_name}"
        return Yield(run_id=run_id, task_id=task_id, number=number, reason=reason)
    if is_proven and held is not None and actual.is_waiting(run_id, number) and held.claim.number == number:
        # The push that made the claim was doubled on its way, or came late: all that the run has done is here.
        return Release(ref=claim_ref(run_id), oid=held.oid, reason=f"the tip proves that {run_id} waits")
    if is_proven:
        return superseded(run, actual)
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
        place = keep(needs_of(held.plan), executors(limits), "")
        if isinstance(place, Refused):
            return Wait(subject=run_id, reason=f"{reason}; {place.reason}", settled=place.settled)
        return replace(take_over(held, held.plan, desired, actual, reason, wish), placement=place)
    return Wait(subject=run_id, reason="it was claimed here and cannot be planned any more", settled=True)


def superseded(run: Run, actual: Actual) -> Yield:
    """Return how records are let go that the tip has gone beyond."""
    reason = f"the tip proves attempt {actual.evidence[run.run_id].attempt}, so attempt {run.number} here is over"
    return Yield(run_id=run.run_id, task_id=run.task_id, number=run.number, reason=reason)


def is_ours(run: Run, actual: Actual) -> bool:
    """Return whether this machine may publish a run: with a remote, who holds its claim by this very attempt."""
    if actual.held is None:
        return True
    held = actual.held.get(run.run_id)
    return held is not None and held.ours and held.claim.number == run.number


# ---------------------------------------------------------------------------------------- nothing of it is here


def about_claims(
    wanted: Mapping[RunId, Wish], desired: Desired, actual: Actual, now: Instant, limits: Limits, room: Slots
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
    room: Slots,
) -> Action:
    """Decide about one shared claim of a run of which nothing is here."""
    number, where = held.claim.number, f"attempt {held.claim.number} is executed by {held.host_name}"
    if limits.online and actual.settles(run_id, max(1, number)):
        return Release(ref=claim_ref(run_id), oid=held.oid, reason=f"the tip proves {run_id}")
    if not limits.online or not (held.ours or held.silent):
        return Wait(subject=run_id, reason=where)
    why = f"{held.host_name} fell silent" if not held.ours else f"attempt {number} was claimed here and never begun"
    if not isinstance(held.plan, Plan):
        reason = f"{why}, and {run_id} cannot be planned any more: it is given up without evidence"
        return Release(ref=claim_ref(run_id), oid=held.oid, reason=reason, gives_up=True)
    if (adopted := _about_afar(held, held.plan, why, limits)) is not None:
        return adopted
    if not held.ours and held.plan.parent is not None and wish is None and not _is_left(held.plan.parent, actual):
        return Wait(subject=run_id, reason=f"{why}; it goes on where its parent run {held.plan.parent} does")
    if wish is not None and not wish.request.cancel and (suspend := suspended(wish.request.suspend, now)):
        return Wait(subject=run_id, reason=f"{why}; not resumed: {suspend}", settled=True)
    action = take_over(held, held.plan, desired, actual, why, wish)
    if action.outcome is not None:
        return action
    place = room.take(of_plan(held.plan))
    if isinstance(place, Refused):
        return Wait(subject=run_id, reason=f"{why}; {place.reason}", settled=place.settled)
    return replace(action, placement=place)


def _about_afar(held: Held, plan: Plan, why: str, limits: Limits) -> Action | None:
    """Decide about a claimed run whose newest attempt an engine executes: whoever has that engine goes on with that
    very attempt. None if none does, if it is one more than the plan allows, or on another plan: then it is fenced, and
    the run ends or the next one is made."""
    newest = held.claim.claims[-1] if held.claim.claims else None
    placed = newest.placement if newest is not None else None
    if newest is None or placed is None or not placed.handle or newest.number - newest.series >= plan.attempts_max:
        return None
    if not any(each.engine for each in limits.executors if each.name == placed.executor):
        reason = f"{why}; attempt {newest.number} is at executor '{placed.executor}', which has no engine here"
        return Wait(subject=plan.run_id, reason=reason, settled=True)
    if newest.plan_digest != plan.digest:
        return None
    reason = f"{why}, and attempt {newest.number} goes on at executor '{placed.executor}'"
    return Adopt(run_id=plan.run_id, task_id=plan.task_id, number=newest.number, plan=plan, held=held, reason=reason)


def _is_left(parent: RunId, actual: Actual) -> bool:
    """Return whether nobody goes on with the parent of a nested run: it is over, or nothing is known of it any more."""
    found = actual.evidence.get(parent)
    if found is not None and found.waiting is None:
        return True
    return found is None and parent not in actual.runs and parent not in (actual.held or {})


def take_over(held: Held, plan: Plan, desired: Desired, actual: Actual, why: str, wish: Wish | None) -> TakeOver:
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
    elif plan.name not in desired.names and (plan.parent is None or _is_left(plan.parent, actual)):
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
        recovery=of_silent_host(held) if held.silent else None,
    )
