"""The course of an attempt: which stages may start now, what became of it all. Pure.

The worker and its simulated twin do what this says; neither decides by itself. `records` maps the id of every selected
stage to its record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from reconciler import codec, manifest, roles
from reconciler.approve import is_rejected
from reconciler.model import (
    ChildEnd,
    Gate,
    Judgement,
    Outcome,
    Plan,
    PlannedStage,
    Reviewed,
    StageId,
    StageKind,
    StageRecord,
    StageStatus,
    Status,
)
from reconciler.order import Answer, Verdict

Records = Mapping[StageId, StageRecord]

UNTOUCHED = (StageStatus.PENDING, StageStatus.WAITING)
OVER = (StageStatus.SUCCEEDED, StageStatus.FAILED, StageStatus.SKIPPED)


def first_records(records: manifest.Records, number: int) -> dict[StageId, StageRecord]:
    """Return a record for every selected stage: what earlier attempts finished, and the rest pending.

    An attempt that goes on where the one before it waited, on the same plan, does nothing again: not what failed as
    allowed either, nor what its condition skipped.
    """
    plan = records.plan
    done = _over(records, number) | manifest.kept(plan, records.counting)
    asked = _asked(records)
    return {
        stage.id: manifest.carried(done[stage.id])
        if stage.id in done
        else StageRecord(
            id=stage.id, digest=stage.digest, status=StageStatus.PENDING, attempt=number, gate=asked.get(stage.id)
        )
        for stage in plan.stages
        if stage.selected
    }


def _over(records: manifest.Records, number: int) -> dict[StageId, StageRecord]:
    """Return what is over in the attempt that waited and that this one goes on with, nothing if it begins anew."""
    plans = {each: claim.plan for each, claim in records.claims.items()}
    first = records.claims[number].keeps_from if number in records.claims else 1
    for earlier in range(number - 1, first - 1, -1):
        if plans.get(earlier, "") != plans.get(number):
            break
        found = records.attempts.get(earlier)
        if found is not None and found.outcome == Outcome.WAITING:
            return {each.id: each for each in found.stages if each.status in OVER}
    return {}


def _asked(records: manifest.Records) -> dict[StageId, Gate | None]:
    """Return the gates at which nobody has decided yet: a further attempt does not begin to wait anew."""
    known = manifest.fold(records.plan, records.counting)
    return {each: record.gate for each, record in known.items() if record.status == StageStatus.WAITING}


def failure(plan: Plan, records: Records) -> StageRecord | None:
    """Return the first stage whose failure ends the run. A rejection does, whatever else is allowed."""
    allowed = {stage.id for stage in plan.stages if stage.allow_failure}
    failed = (each for each in records.values() if each.status == StageStatus.FAILED)
    return next((each for each in failed if each.id not in allowed or is_rejected(each)), None)


def ready(plan: Plan, records: Records) -> Iterator[PlannedStage]:
    """Yield the pending stages that nothing but time and room keeps from starting, in the order of the pipeline.

    Stages marked `finally` start when all others are over, also after a failure.
    """
    failed = failure(plan, records) is not None
    main_is_over = _main_is_over(plan, records, failed)
    for stage in plan.stages:
        record = records.get(stage.id)
        if record is None or record.status != StageStatus.PENDING:
            continue
        may = main_is_over if stage.finally_ else not failed
        if may and all(records[each].status in OVER for each in stage.needs):
            yield stage


def _main_is_over(plan: Plan, records: Records, failed: bool) -> bool:
    """Return whether nothing of the stages that are not marked `finally` runs or is still to run."""
    main = [records[stage.id].status for stage in plan.stages if stage.selected and not stage.finally_]
    return not any(each == StageStatus.RUNNING or (each in UNTOUCHED and not failed) for each in main)


def at_nested(
    stage: PlannedStage, record: StageRecord, ends: Sequence[ChildEnd], number: int, now_at: str
) -> StageRecord:
    """Return the record of a stage whose pipeline is nested: waiting until the tip proves how all its runs ended."""
    known = {each.run_id: each for each in ends}
    children = tuple(known[each.run_id] for each in stage.children if each.run_id in known)
    record = replace(
        record,
        attempt=number,
        started_at=record.started_at or now_at,
        waits_for=tuple(each.run_id for each in stage.children),
        children=children,
    )
    missing = len(stage.children) - len(children)
    if missing:
        names = ", ".join(each.run_id for each in stage.children if each.run_id not in known)
        return replace(record, status=StageStatus.WAITING, summary=f"waits for {missing} of its runs: {names}"[:500])
    failed = [each for each in children if each.status != Status.SUCCEEDED]
    summary = f"{len(children) - len(failed)} of {len(children)} runs succeeded"
    told = f"{summary}; {', '.join(f'{each.run_id} {each.status.value}' for each in failed)}" if failed else summary
    status = StageStatus.FAILED if failed else StageStatus.SUCCEEDED
    return replace(record, status=status, tries=1, completed_at=now_at, summary=told[:500])


def cited(stage: PlannedStage, record: StageRecord, number: int, now_at: str) -> StageRecord:
    """Return the record of a stage for which an earlier success stands: succeeded, and never executed."""
    assert stage.cited is not None
    summary = f"reused: it succeeded in {stage.cited.run_id} on the same inputs"
    answer = Answer(verdict=Verdict.PASSED, summary=summary) if stage.kind == StageKind.GUARD else None
    return replace(
        record,
        status=StageStatus.SUCCEEDED,
        attempt=number,
        started_at=now_at,
        completed_at=now_at,
        duration_s=0.0,
        summary=summary,
        answer=codec.dump(answer) if answer is not None else None,
        untrusted=stage.untrusted,
        reuse_key=stage.reuse_key,
        cited=stage.cited,
    )


def untouched_skipped(plan: Plan, records: Records) -> dict[StageId, StageRecord]:
    """Return the records of an attempt that has come to its end by itself: what a failure kept from starting is
    skipped; what waits, and what waits for that, stays as it is. What closes the run may wait after a failure, too."""
    failed = failure(plan, records)
    if failed is None:
        return dict(records)
    reason = f"not started: {failed.id} failed"
    closing = {stage.id for stage in plan.stages if stage.finally_} if _closes_later(plan, records) else set()
    return {
        each: replace(record, status=StageStatus.SKIPPED, summary=reason)
        if record.status in UNTOUCHED and each not in closing
        else record
        for each, record in records.items()
    }


def _closes_later(plan: Plan, records: Records) -> bool:
    """Return whether a stage that closes the run waits."""
    closing = (records[stage.id] for stage in plan.stages if stage.finally_ and stage.id in records)
    return any(each.status == StageStatus.WAITING for each in closing)


def judge_to_ask(plan: Plan, records: Records, told: Sequence[StageRecord]) -> PlannedStage | None:
    """Return the tester or reviewer that is to be asked before an attempt may end whose stages are over, None if none
    is. Where something waits, there is nothing to judge yet; what failed, no reviewer is asked about."""
    settled = untouched_skipped(plan, records)
    if not plan.roles.judges or _waiting(settled):
        return None
    found = roles.judge_to_ask(plan, settled, told)
    return None if found is not None and found.id == roles.REVIEWER and failure(plan, settled) else found


def judgement(plan: Plan, records: Records, told: Sequence[StageRecord] = ()) -> Judgement | None:
    """Return what the tester and the reviewer say of an attempt that came to its end by itself, None if it waits. What
    failed is rejected, whoever the reviewer is."""
    if _waiting(records):
        return None
    found = roles.judge(plan, records, told)
    if failed := failure(plan, records):
        return replace(found, reviewed=Reviewed(decision="reject", reason=roles.line(_failed(failed))))
    return found


def _waiting(records: Records) -> list[StageRecord]:
    return [each for each in records.values() if each.status == StageStatus.WAITING]


def _failed(record: StageRecord) -> str:
    return f"stage '{record.id}' failed: {record.summary or _reason(record)}"


def verdict(plan: Plan, records: Records, judged: Judgement | None) -> tuple[Outcome, str]:
    """Return how an attempt ended that came to its end by itself, and a sentence about why."""
    failed = failure(plan, records)
    told = [_failed(failed)] if failed is not None else []
    if waiting := _waiting(records):
        return Outcome.WAITING, "; ".join([*told, *(f"stage '{each.id}' {each.summary}" for each in waiting)])
    if told:
        return Outcome.FAILED, told[0]
    if judged is not None and (reason := roles.objection(judged)):
        return Outcome.FAILED, reason
    allowed = [each.id for each in records.values() if each.status == StageStatus.FAILED]
    return Outcome.SUCCEEDED, f"failed, as allowed: {', '.join(allowed)}" if allowed else ""


def _reason(record: StageRecord) -> str:
    return f"killed by {record.signal}" if record.signal else f"exit code {record.exit_code}"
