"""Say it to a person: what a run is doing and why, in sentences. Pure.

`describe` makes one row of `status` out of facts; `reasons` makes the chain of `why`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from reconciler.actions import Action, Launch, Publish, Wait
from reconciler.model import (
    Evidence,
    Held,
    Instant,
    Name,
    Phase,
    Rejection,
    Run,
    RunId,
    StageRecord,
    StageStatus,
    Status,
    TaskId,
    Wish,
    name_of_run,
)
from reconciler.phases import ENDED, judge, silence
from reconciler.state import Actual, Desired
from reconciler.values import frozen


@frozen
class Row:
    """One run as `status` shows it. `heartbeat_age_s` is None where nothing beats; `evidence` says where the proof
    is: a commit id, "committed" where that was not looked up, "" where there is none."""

    run_id: RunId
    task_id: TaskId
    name: Name | None
    phase: Phase
    stage: str
    done: int
    total: int
    attempts: int
    heartbeat_age_s: float | None
    duration_s: float | None
    completed_at: str | None
    evidence: str
    reason: str


def rows(
    desired: Desired, actual: Actual, actions: Sequence[Action], commits: Mapping[str, str], now: Instant
) -> list[Row]:
    """Return every run that is wanted or under way, and every one the tip proves: what is under way first."""
    waits = {each.subject: each.reason for each in actions if isinstance(each, Wait)}
    live = [_live(run, actual.proves(run.run_id, run.number), waits, commits, now) for run in actual.runs.values()]
    held = {run_id: each for run_id, each in (actual.held or {}).items() if run_id not in actual.runs}
    elsewhere = [
        _elsewhere(each, waits) for run_id, each in held.items() if not actual.proves(run_id, each.claim.number)
    ]
    there = {*actual.runs, *held}
    absent = [
        _absent(wish, actions, waits)
        for wish in desired.wishes
        if wish.run_id not in there and wish.run_id not in actual.evidence
    ]
    shown = {each.run_id for each in elsewhere}
    proved = [each for each in actual.evidence.values() if each.run_id not in actual.runs and each.run_id not in shown]
    newest = sorted(proved, key=lambda each: (each.completed_at, each.run_id), reverse=True)
    return [*live, *elsewhere, *absent, *(_proved(each, commits, waits) for each in newest)]


def _live(run: Run, is_proven: bool, waits: Mapping[str, str], commits: Mapping[str, str], now: Instant) -> Row:
    run_phase, why = judge(run, now)
    stages = run.attempt.stages if run.attempt else ()
    ended = run_phase in ENDED
    shown = StageStatus.WAITING if run_phase == Phase.WAITING else StageStatus.RUNNING
    return Row(
        run_id=run.run_id,
        task_id=run.task_id,
        name=run.name,
        phase=run_phase,
        stage=", ".join(each.id for each in stages if each.status == shown) if not ended else "",
        done=sum(each.status == StageStatus.SUCCEEDED for each in stages),
        total=len(stages),
        attempts=run.number,
        heartbeat_age_s=None if ended or run_phase == Phase.WAITING or run.attempt is None else _age(silence(run, now)),
        duration_s=run.attempt.elapsed_s if run.attempt and ended else None,
        completed_at=run.attempt.ended_at if run.attempt else None,
        evidence=commits.get(run.run_id, "committed") if is_proven else "",
        reason=waits.get(run.run_id, "") or why or (run.corrupt[0].sentence() if run.corrupt else ""),
    )


def _elsewhere(held: Held, waits: Mapping[str, str]) -> Row:
    """Return the row of a run that another host executes: of its stages nothing is known here."""
    claim = held.claim
    return Row(
        run_id=claim.run_id,
        task_id=claim.task_id,
        name=name_of_run(claim.run_id),
        phase=Phase.STALE if held.silent else Phase.RUNNING,
        stage=f"at {held.host_name}",
        done=0,
        total=0,
        attempts=claim.number,
        heartbeat_age_s=_age(held.silent_s),
        duration_s=None,
        completed_at=None,
        evidence="",
        reason=waits.get(claim.run_id, ""),
    )


def _age(seconds: float) -> float | None:
    """Return an age that JSON can say: of a heartbeat from before a reboot nothing is known."""
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _absent(wish: Wish, actions: Sequence[Action], waits: Mapping[str, str]) -> Row:
    launching = any(isinstance(each, Launch) and each.plan.run_id == wish.run_id for each in actions)
    rejected = wish.plan.problems[0].sentence() if isinstance(wish.plan, Rejection) else ""
    total = 0 if isinstance(wish.plan, Rejection) else sum(each.selected for each in wish.plan.stages)
    return Row(
        run_id=wish.run_id,
        task_id=wish.request.task,
        name=wish.request.name,
        phase=Phase.ABSENT,
        stage="",
        done=0,
        total=total,
        attempts=0,
        heartbeat_age_s=None,
        duration_s=None,
        completed_at=None,
        evidence="",
        reason=rejected or waits.get(wish.run_id, "") or ("the next pass launches it" if launching else ""),
    )


def _proved(evidence: Evidence, commits: Mapping[str, str], waits: Mapping[str, str]) -> Row:
    return Row(
        run_id=evidence.run_id,
        task_id=evidence.task_id,
        name=evidence.name,
        phase=Phase(evidence.status.value),
        stage=", ".join(each.stage for each in evidence.waiting.gates) if evidence.waiting else "",
        done=0,
        total=0,
        attempts=evidence.attempt,
        heartbeat_age_s=None,
        duration_s=evidence.duration_s,
        completed_at=evidence.completed_at,
        evidence=commits.get(evidence.run_id, "committed"),
        reason=waits.get(evidence.run_id, "") or _cited(evidence.cited),
    )


def _cited(count: int) -> str:
    """Return in words of how many stages an earlier success stands for their own, "" for none."""
    return "" if not count else f"{count} {'stage was' if count == 1 else 'stages were'} not executed: reused"


# ------------------------------------------------------------------------------------------------ why


def reasons(
    run_id: RunId,
    desired: Desired,
    actual: Actual,
    actions: Sequence[Action],
    now: Instant,
    resumes: Sequence[Mapping[str, object]] = (),
    blocked: str = "",
    of_stages: Sequence[str] = (),
    hindrances: Sequence[str] = (),
) -> list[str]:
    """Return, oldest cause first, why a run is where it is and what happens to it next. `of_stages` is what is to be
    known of single stages, `hindrances` what is in the way of what passes do."""
    wish = next((each for each in desired.wishes if each.run_id == run_id), None)
    run, evidence = actual.runs.get(run_id), actual.evidence.get(run_id)
    said = [_asked(run_id, wish, desired)]
    said += [f"attempt {each['attempt']} began because {each['reason']}" for each in resumes if _accepted(each)]
    said += [f"a resume was refused: {each['detail']}" for each in resumes if not _accepted(each)]
    if run is not None:
        said += _of_run(run, now)
    elif (held := (actual.held or {}).get(run_id)) is not None and not actual.proves(run_id, held.claim.number):
        heard = f"heard of {held.silent_s:.0f} s ago; after {held.lease_s:g} s of silence others take it over"
        said.append(f"attempt {held.claim.number} of it is executed by {held.host_name}, {heard}")
    elif evidence is not None:
        was = "was " if evidence.status == Status.CANCELLED else ""
        said.append(f"it {was}{evidence.status} in attempt {evidence.attempt}, ended {evidence.completed_at}")
    else:
        said.append("nothing of it was ever claimed here")
    said += of_stages
    said += _next(run_id, run, evidence, actions, blocked)
    if any(is_about(each, run_id) for each in actions):
        said += hindrances
    return [each for each in said if each]


def condition_line(name: str, condition: Mapping[str, str]) -> str:
    """Return what is in the way of passes, and since when."""
    return f"{name} waits since {condition['since']}: {condition['reason']}"


def is_about(action: Action, run_id: RunId) -> bool:
    """Return whether the next pass has to do with a run."""
    match action:
        case Wait(subject=subject):
            return subject == run_id
        case Launch(plan=plan):
            return plan.run_id == run_id
        case Publish(runs=runs):
            return any(each == run_id for _, each in runs)
        case _:
            return getattr(action, "run_id", None) == run_id


def _accepted(event: Mapping[str, object]) -> bool:
    return event["outcome"] == "accepted"


def _asked(run_id: RunId, wish: Wish | None, desired: Desired) -> str:
    if wish is not None:
        asked, titled = wish.request, f": {wish.request.title}" if wish.request.title else ""
        return f"{asked.source.path} asks for pipeline '{asked.pipeline}' of task '{asked.task}'{titled}"
    if run_id in desired.names.values():
        return "its request is at the tip"
    return "no request at the tip asks for it (any more)"


def _of_run(run: Run, now: Instant) -> list[str]:
    run_phase, why = judge(run, now)
    said = [f"it is {run_phase}" + (f": {why}" if why else "")]
    if run_phase == Phase.RUNNING and run.attempt is not None:
        said += [_running(each) for each in run.attempt.stages if each.status == StageStatus.RUNNING]
        said.append(
            f"its last heartbeat is {silence(run, now):.0f} s old; after {run.heartbeat.stale_after_s:g} s"
            " of silence it counts as stale"
        )
    return said + [f"{problem.sentence()}" for problem in run.corrupt]


def _running(record: StageRecord) -> str:
    return f"stage '{record.id}' has been running since {record.started_at} (try {record.tries})"


def _next(
    run_id: RunId, run: Run | None, evidence: Evidence | None, actions: Sequence[Action], blocked: str
) -> list[str]:
    """Return what the next pass does about a run."""
    for action in actions:
        match action:
            case Wait(subject=subject, reason=reason) if subject == run_id:
                return [f"next: it waits, because it {reason}" if reason.startswith("waits") else f"next: {reason}"]
            case Launch(plan=plan) if plan.run_id == run_id:
                return ["next: a pass launches it (run: reconciler reconcile)"]
            case Publish(runs=runs) if any(each == run_id for _, each in runs):
                return [
                    f"next: its evidence is committed; so far it could not be: {blocked}"
                    if blocked
                    else "next: a pass commits its evidence (run: reconciler reconcile)"
                ]
            case _ if getattr(action, "run_id", None) == run_id:
                reason = getattr(action, "reason", "")
                return [
                    f"next: a pass will {type(action).__name__.lower()} it" + (f", because {reason}" if reason else "")
                ]
    if run is None and evidence is not None:
        return ["next: nothing; it is proven, and only a new 'rerun' or another change of its request starts it again"]
    return []
