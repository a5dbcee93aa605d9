"""What the tester and the reviewer of a run say. Pure.

A run passes four roles. The planner is `resolve.resolve`, the builder is the worker. The tester looks whether the
results are what the plan demands; the reviewer approves, rejects or escalates. A run succeeds only if its reviewer
approves: by default that follows from the tester's verdict, and from what stages with `role: review` decided.

Each may be replaced (`role_protocols`). Then a process is asked, and what it answered is judged here: a tester waives
no guardrail that the pipeline requires, a reviewer is only asked about what our own would approve, and whoever answers
nothing that can be used has approved nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from reconciler import manifest
from reconciler.model import (
    BUILT_IN,
    Judgement,
    Plan,
    PlannedStage,
    Reviewed,
    Role,
    StageId,
    StageKind,
    StageRecord,
    StageStatus,
    Tested,
)

Records = Mapping[StageId, StageRecord]

DECISIONS = ("approve", "reject", "escalate")
"""What the answer of an agent with `role: review` may decide, as its key `decision`; `reasons` says why."""
VERDICTS = ("passed", "failed", "none")
"""What a tester may say, as its key `status`; `reasons` says what failed."""
REASON_CHARACTERS_MAX = 500
REASONS_MAX = 20

BUILT = (StageKind.COMMAND, StageKind.AGENT)
"""The kinds of stages that a builder executes."""

TESTER, REVIEWER = StageId("_tester"), StageId("_reviewer")
"""The ids of the stages as which these are executed where they are not ours: no stage of a pipeline can have them."""


def test(plan: Plan, records: Records) -> Tested:
    """Return whether every required guardrail and every stage with `role: test` passed.

    A stage that its condition skipped was not demanded; one whose failure is allowed was, if it is a test.
    """
    tests = [each for each in _of_role(plan, records, Role.TEST) if not _is_unwanted(records[each.id])]
    failed = [each.id for each in tests if records[each.id].status != StageStatus.SUCCEEDED]
    reasons = [f"test stage '{each}' did not pass" for each in failed]
    if fault := manifest.guardrail_fault(plan, records):
        reasons.append(fault)
    if reasons:
        return Tested(status="failed", reasons=tuple(reasons))
    return Tested(status="passed" if tests or plan.guardrails_required else "none")


def review(plan: Plan, records: Records, tested: Tested) -> Reviewed:
    """Return what the reviewer decides: what a stage with `role: review` said, else what follows from the tests."""
    if tested.status == "failed":
        return Reviewed(decision="reject", reason=line("; ".join(tested.reasons)))
    for stage in _of_role(plan, records, Role.REVIEW):
        said = decided(records[stage.id].answer)
        if said is not None and said.decision != "approve":
            return Reviewed(decision=said.decision, reason=line(f"stage '{stage.id}': {said.reason}"))
    reviewers = [each.id for each in _of_role(plan, records, Role.REVIEW)]
    if reviewers:
        return Reviewed(decision="approve", reason=line(f"approved by {', '.join(reviewers)}"))
    return Reviewed(decision="approve", reason="the tests passed" if tested.status == "passed" else "every stage did")


def decided(answer: Mapping[str, object] | None) -> Reviewed | None:
    """Return the decision in the answer of a reviewing agent, None if it holds none. What is none of the words is left
    to a person: a rejection that is misspelt approves nothing."""
    detail = answer.get("detail") if answer is not None else None
    said = detail.get("answer") if isinstance(detail, Mapping) else None
    if not isinstance(said, Mapping) or "decision" not in said:
        return None
    if said["decision"] not in DECISIONS:
        wanted = f"it decided {said['decision']!r}, which is none of: {', '.join(DECISIONS)}"
        return Reviewed(decision="escalate", reason=line(wanted))
    reasons = said.get("reasons", said.get("reason", ""))
    text = "; ".join(map(str, reasons)) if isinstance(reasons, list) else str(reasons)
    return Reviewed(decision=str(said["decision"]), reason=line(text or "no reason given"))


def builder_of(plan: Plan, stage: PlannedStage) -> str:
    """Return `builder` where a stage is executed by one that is not ours. Guardrails never are: their verdict is
    ours."""
    replaced = plan.roles.builder != BUILT_IN and stage.kind in BUILT
    return "builder" if replaced else ""


def role_of(judge: PlannedStage) -> str:
    """Return the role that a tester's or a reviewer's stage takes."""
    return judge.id.removeprefix("_")


def judge(plan: Plan, records: Records, told: Sequence[StageRecord] = ()) -> Judgement:
    """Return what the tester and the reviewer say. `told` are the records of those that are processes of their own, as
    far as they have been asked."""
    asked = {each.id: each for each in told}
    tested = test(plan, records)
    if TESTER in asked:
        tested = _stricter(plan, records, _tested(plan, asked[TESTER]))
    reviewed = review(plan, records, tested)
    if REVIEWER in asked and reviewed.decision == "approve":
        reviewed = _reviewed(plan, asked[REVIEWER])
    return Judgement(tested=tested, reviewed=reviewed, records=tuple(told))


def judge_to_ask(plan: Plan, records: Records, told: Sequence[StageRecord]) -> PlannedStage | None:
    """Return which tester or reviewer is to be asked next, None if nobody is: a reviewer only where nothing else stands
    in the way."""
    asked = {each.id for each in told}
    for each in plan.roles.judges:
        if each.id not in asked:
            open_ = each.id == TESTER or judge(plan, records, told).reviewed.decision == "approve"
            return each if open_ else None
    return None


def objection(judgement: Judgement) -> str:
    """Return why the reviewer does not approve a run in which no stage stands in the way, "" if it approves."""
    tested, found = judgement.tested, judgement.reviewed
    if tested.status == "failed":
        return line("; ".join(tested.reasons))
    words = {"reject": "the reviewer rejects it", "escalate": "the reviewer leaves it to a person"}
    return f"{words[found.decision]}: {found.reason}" if found.decision in words else ""


def _stricter(plan: Plan, records: Records, tested: Tested) -> Tested:
    """Return the verdict of a tester that is not ours: what the pipeline requires, none can waive."""
    fault = manifest.guardrail_fault(plan, records)
    return replace(tested, status="failed", reasons=(*tested.reasons, fault)) if fault else tested


def _tested(plan: Plan, record: StageRecord) -> Tested:
    """Return the verdict that a tester's process gave; one that gave none has passed nothing."""
    by = plan.roles.tester
    said = _said(record)
    if said is None:
        return Tested(status="failed", reasons=(line(f"tester '{by}' gave no verdict: {record.summary}"),), by=by)
    if fault := _misfit(plan, said, "status", VERDICTS):
        return Tested(status="failed", reasons=(line(f"tester '{by}' gave no verdict: {fault}"),), by=by)
    reasons = _reasons(said)
    if said["status"] == "failed":
        reasons = reasons or (f"tester '{by}' gave no reason",)
    return Tested(status=str(said["status"]), reasons=reasons, by=by)


def _reviewed(plan: Plan, record: StageRecord) -> Reviewed:
    """Return what a reviewer's process decided; one that decided nothing leaves it to a person."""
    by = plan.roles.reviewer
    said = _said(record)
    if said is None:
        reason = f"reviewer '{by}' decided nothing: {record.summary}"
        return Reviewed(decision="escalate", reason=line(reason), by=by)
    if fault := _misfit(plan, said, "decision", DECISIONS):
        return Reviewed(decision="escalate", reason=line(f"reviewer '{by}' decided nothing: {fault}"), by=by)
    reason = line("; ".join(_reasons(said))) or "no reason given"
    return Reviewed(decision=str(said["decision"]), reason=reason, by=by)


def _said(record: StageRecord) -> Mapping[str, object] | None:
    """Return what a judge's process answered, None if it failed to."""
    detail = record.answer.get("detail") if record.answer is not None else None
    said = detail.get("answer") if isinstance(detail, Mapping) else None
    usable = record.status == StageStatus.SUCCEEDED and isinstance(said, Mapping)
    return said if usable and isinstance(said, Mapping) else None


def _misfit(plan: Plan, said: Mapping[str, object], key: str, words: Sequence[str]) -> str:
    """Return why an answer cannot be used, "" if it can: it is about this run, and says one of the words."""
    run_id = said.get("run_id", plan.run_id)
    if run_id != plan.run_id:
        return f"its answer is about run {str(run_id)[:120]!r}"
    return (
        "" if said.get(key) in words else f"its '{key}' is {str(said.get(key))[:120]!r}, not one of {', '.join(words)}"
    )


def _reasons(said: Mapping[str, object]) -> tuple[str, ...]:
    reasons = said.get("reasons", ())
    listed = reasons if isinstance(reasons, list | tuple) else [reasons]
    return tuple(line(str(each)) for each in listed[:REASONS_MAX])


def _is_unwanted(record: StageRecord) -> bool:
    """Return whether a stage was skipped by its condition, which is when that was judged; not reached is not passed."""
    return record.status == StageStatus.SKIPPED and record.completed_at is not None


def _of_role(plan: Plan, records: Records, role: Role) -> Iterator[PlannedStage]:
    return (each for each in plan.stages if each.role == role and each.id in records)


def line(text: str) -> str:
    """Return a text as one line, bounded."""
    return " ".join(text.split())[:REASON_CHARACTERS_MAX]
