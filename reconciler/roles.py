"""What the tester and the reviewer of a run say, by default. Pure.

A run passes four roles. The planner is `resolve.resolve`, the builder is the worker. The tester looks whether the
results are what the plan demands; the reviewer approves, rejects or escalates. A run succeeds only if its reviewer
approves: by default that follows from the tester's verdict, and from what stages with `role: review` decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from reconciler import manifest
from reconciler.model import Plan, PlannedStage, Role, StageId, StageRecord, StageStatus

Records = Mapping[StageId, StageRecord]

DECISIONS = ("approve", "reject", "escalate")
"""What the answer of an agent with `role: review` may decide, as its key `decision`; `reasons` says why."""
REASON_CHARACTERS_MAX = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """The tester's verdict: `passed`, `failed`, or `none` where nothing was to be tested. `reasons` say what failed."""

    status: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reviewed:
    """The reviewer's decision: `approve`, `reject` or `escalate`, and why in one line."""

    decision: str
    reason: str


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
        return Reviewed(decision="reject", reason=_line("; ".join(tested.reasons)))
    for stage in _of_role(plan, records, Role.REVIEW):
        said = decided(records[stage.id].answer)
        if said is not None and said.decision != "approve":
            return Reviewed(decision=said.decision, reason=_line(f"stage '{stage.id}': {said.reason}"))
    reviewers = [each.id for each in _of_role(plan, records, Role.REVIEW)]
    if reviewers:
        return Reviewed(decision="approve", reason=_line(f"approved by {', '.join(reviewers)}"))
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
        return Reviewed(decision="escalate", reason=_line(wanted))
    reasons = said.get("reasons", said.get("reason", ""))
    text = "; ".join(map(str, reasons)) if isinstance(reasons, list) else str(reasons)
    return Reviewed(decision=str(said["decision"]), reason=_line(text or "no reason given"))


def objection(plan: Plan, records: Records) -> str:
    """Return why the reviewer does not approve a run in which no stage stands in the way, "" if it approves."""
    tested = test(plan, records)
    if tested.status == "failed":
        return _line("; ".join(tested.reasons))
    found = review(plan, records, tested)
    words = {"reject": "the reviewer rejects it", "escalate": "the reviewer leaves it to a person"}
    return f"{words[found.decision]}: {found.reason}" if found.decision in words else ""


def _is_unwanted(record: StageRecord) -> bool:
    """Return whether a stage was skipped by its condition, which is when that was judged; not reached is not passed."""
    return record.status == StageStatus.SKIPPED and record.completed_at is not None


def _of_role(plan: Plan, records: Records, role: Role) -> Iterator[PlannedStage]:
    return (each for each in plan.stages if each.role == role and each.id in records)


def _line(text: str) -> str:
    return " ".join(text.split())[:REASON_CHARACTERS_MAX]
