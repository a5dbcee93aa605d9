"""The tester and the reviewer: what counts, and who has the last word."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler import roles
from reconciler.model import (
    Pipeline,
    PipelineId,
    Plan,
    Request,
    Role,
    Settings,
    Source,
    Stage,
    StageId,
    StageRecord,
    StageStatus,
)
from reconciler.resolve import Place, resolve

STATES = {each.value: each for each in StageStatus} | {"unreached": StageStatus.SKIPPED}


def plan(*stages: tuple[str, Role | None], required: bool = False) -> Plan:
    pipeline = Pipeline(
        id=PipelineId("p"),
        source=Source(path="pipelines/p.yaml"),
        stages=tuple(
            Stage(id=StageId(name), command="true", role=role, needs=(), allow_failure=True) for name, role in stages
        ),
        guardrails_required=required,
    )
    request = Request(name="r", source=Source(path="runs.d/r.yaml"), task="t", pipeline=PipelineId("p"))  # type: ignore[arg-type]
    found = resolve(request, {PipelineId("p"): pipeline}, Settings(), Place(commit="c", branch="main"))
    assert isinstance(found, Plan)
    return found


def records(made: Plan, answers: dict[str, Any] | None = None, **states: str) -> dict[StageId, StageRecord]:
    return {
        each.id: StageRecord(
            id=each.id,
            digest=each.digest,
            status=STATES[states.get(each.id, "succeeded")],
            attempt=1,
            completed_at="2026-03-01T09:30:00Z" if states.get(each.id) != "unreached" else None,
            answer={"verdict": "passed", "detail": {"answer": answers[each.id]}}
            if answers and each.id in answers
            else None,
        )
        for each in made.stages
    }


BOTH = plan(("build", Role.BUILD), ("unit", Role.TEST), ("load", Role.TEST))


def test_nothing_to_test_is_no_verdict_and_the_reviewer_approves() -> None:
    made = plan(("a", None))
    assert roles.test(made, records(made)).status == "none"
    assert roles.objection(roles.judge(made, records(made))) == ""


@pytest.mark.parametrize(
    ("states", "status", "objection"),
    [
        ({}, "passed", ""),
        ({"build": "failed"}, "passed", ""),
        ({"unit": "failed"}, "failed", "test stage 'unit' did not pass"),
        ({"load": "skipped"}, "passed", ""),
        ({"load": "unreached"}, "failed", "test stage 'load' did not pass"),
    ],
)
def test_every_test_must_pass_even_if_its_failure_is_allowed(
    states: dict[str, str], status: str, objection: str
) -> None:
    found = records(BOTH, **states)
    assert roles.test(BOTH, found).status == status
    assert roles.objection(roles.judge(BOTH, found)) == objection


def test_required_guardrails_that_are_not_there_fail_the_test() -> None:
    made = plan(("a", None), required=True)
    assert "guardrails are required" in roles.objection(roles.judge(made, records(made)))


REVIEWED = plan(("unit", Role.TEST), ("review", Role.REVIEW))


@pytest.mark.parametrize(
    ("answer", "decision", "reason"),
    [
        ({"decision": "approve", "reasons": []}, "approve", "approved by review"),
        ({"decision": "reject", "reasons": ["too large", "no test"]}, "reject", "stage 'review': too large; no test"),
        ({"decision": "escalate", "reason": "touches\nbilling"}, "escalate", "stage 'review': touches billing"),
        ({"decision": "reject"}, "reject", "stage 'review': no reason given"),
        (
            {"decision": "Reject"},
            "escalate",
            "stage 'review': it decided 'Reject', which is none of: approve, reject, escalate",
        ),
        (
            {"decision": ["reject"]},
            "escalate",
            "stage 'review': it decided ['reject'], which is none of: approve, reject, escalate",
        ),
        ({"reasons": []}, "approve", "approved by review"),
        ("reject", "approve", "approved by review"),
    ],
)
def test_a_reviewing_stage_has_the_last_word(answer: object, decision: str, reason: str) -> None:
    found = records(REVIEWED, {"review": answer})
    reviewed = roles.review(REVIEWED, found, roles.test(REVIEWED, found))
    assert (reviewed.decision, reviewed.reason) == (decision, reason)


def test_no_reviewer_approves_what_the_tester_failed() -> None:
    found = records(REVIEWED, {"review": {"decision": "approve"}}, unit="failed")
    assert roles.review(REVIEWED, found, roles.test(REVIEWED, found)).decision == "reject"


def test_an_escalation_says_who_must_look() -> None:
    found = records(REVIEWED, {"review": {"decision": "escalate", "reasons": ["unsure"]}})
    assert roles.objection(roles.judge(REVIEWED, found)) == "the reviewer leaves it to a person: stage 'review': unsure"
