"""The digest of a reviewed plan: which change asks for another review, and what is not launched without one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler import reviewed
from reconciler.model import (
    ApprovalPolicy,
    Name,
    Pipeline,
    PipelineId,
    Plan,
    Policy,
    Rejection,
    Request,
    RunId,
    SandboxSettings,
    Settings,
    Source,
    Stage,
    StageId,
    TaskId,
)
from reconciler.resolve import Place, resolve, run_id

REQUEST = Request(
    name=Name("a"), source=Source(path="runs.d/a.yaml"), task=TaskId("t"), pipeline=PipelineId("p"), title="A"
)
STAGE = Stage(id=StageId("s"), command="make")
GATED = replace(STAGE, approval={"reason": "it ships"})
DEMANDING = Settings(require_plan=True)


def plan_of(request: Request = REQUEST, stage: Stage = STAGE, settings: Settings = Settings(), **place: str) -> Any:
    pipeline = Pipeline(
        id=PipelineId("p"), source=Source(path="pipelines/p.yaml", blob=place.get("blob", "")), stages=(stage,)
    )
    where = Place(commit=place.get("commit", "c"), branch=place.get("branch", "main"))
    return resolve(request, {pipeline.id: pipeline}, settings, where)


def digest_of(*words: Any, settings: Settings = Settings(), **more: Any) -> str:
    plan = plan_of(*words, settings=settings, **more)
    assert isinstance(plan, Plan)
    return reviewed.digest(plan, settings)


BASE = digest_of()
TWO = (Policy(name="two", stages=("s",), approvals_min=2),)


def test_it_survives_a_merge_and_what_only_people_read() -> None:
    assert digest_of(commit="d", branch="other", blob="b" * 40) == BASE
    assert digest_of(replace(REQUEST, title="B", priority=5, labels=("x",), timeout_s=9.0)) == BASE
    assert digest_of(REQUEST, replace(STAGE, title="other", timeout_s=5.0)) == BASE


@pytest.mark.parametrize(
    ("request_", "stage"),
    [
        (REQUEST, replace(STAGE, command="make evil")),
        (REQUEST, replace(STAGE, env={"A": "1"})),
        (REQUEST, replace(STAGE, allow_failure=True)),
        (REQUEST, GATED),
        (replace(REQUEST, task=TaskId("u")), STAGE),
        (replace(REQUEST, proves=("t/done",)), STAGE),
    ],
)
def test_what_is_executed_or_claimed_makes_another(request_: Request, stage: Stage) -> None:
    assert digest_of(request_, stage) != BASE


def test_policies_count_where_there_is_a_gate() -> None:
    assert digest_of(settings=Settings(approvals=TWO)) == BASE
    gated = digest_of(REQUEST, GATED)
    assert digest_of(REQUEST, GATED, settings=Settings(approvals=TWO)) != gated
    assert digest_of(replace(REQUEST, approval_policy=ApprovalPolicy.AUTO), GATED) != gated
    assert digest_of(settings=Settings(sandbox=SandboxSettings(missing="record"))) != BASE


def test_it_is_no_part_of_the_run_id() -> None:
    assert run_id(replace(REQUEST, plan=BASE)) == run_id(REQUEST)
    assert digest_of(replace(REQUEST, plan=BASE)) == BASE


def test_the_reviewed_plan_is_launched_and_any_plan_where_none_is_demanded() -> None:
    assert isinstance(plan_of(replace(REQUEST, plan=BASE), settings=DEMANDING), Plan)
    assert isinstance(plan_of(), Plan)


def said(plan: Plan | Rejection) -> str:
    assert isinstance(plan, Rejection)
    [problem] = plan.problems
    assert problem.rule == "unreviewed-plan"
    return problem.sentence()


def test_a_request_without_a_plan_is_told_how_to_get_one() -> None:
    assert said(plan_of(settings=DEMANDING)) == (
        "runs.d/a.yaml: the settings require a reviewed plan, and the request names none; "
        "look at what it does now, then write that down: reconciler plan --write"
    )


@pytest.mark.parametrize("settings", [DEMANDING, Settings()])
def test_another_plan_than_the_reviewed_one_is_not_launched(settings: Settings) -> None:
    sentence = said(plan_of(replace(REQUEST, plan=BASE), replace(STAGE, command="make evil"), settings))
    assert sentence.startswith(f"runs.d/a.yaml: the request was reviewed with plan {BASE[:19]}, and what would run is")


def test_a_nested_run_is_reviewed_with_its_parent() -> None:
    assert isinstance(plan_of(replace(REQUEST, parent=RunId("b-12345678")), settings=DEMANDING), Plan)
