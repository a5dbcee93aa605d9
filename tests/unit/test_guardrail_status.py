"""What the guardrails of a run come to, in its manifest and in its end; and what the plan freezes for them."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler import codec
from reconciler.manifest import guardrail_fault, guardrail_status
from reconciler.model import (
    GuardSettings,
    Name,
    Pipeline,
    PipelineId,
    Plan,
    Request,
    Settings,
    Source,
    SpecSettings,
    Stage,
    StageId,
    StageRecord,
    StageStatus,
    TaskId,
    Watch,
)
from reconciler.order import Answer, Verdict
from reconciler.resolve import Place, resolve


def plan_of(
    *stages: Stage, required: bool = False, target: str | None = None, settings: Settings | None = None
) -> Plan:
    request = Request(
        name=Name("a"),
        source=Source(path="runs.d/a.yaml"),
        task=TaskId("t"),
        pipeline=PipelineId("p"),
        target=StageId(target) if target else None,
    )
    pipeline = Pipeline(
        id=PipelineId("p"), source=Source(path="pipelines/p.yaml"), stages=stages, guardrails_required=required
    )
    plan = resolve(request, {pipeline.id: pipeline}, settings or Settings(), Place(commit="c" * 40, branch="main"))
    assert isinstance(plan, Plan)
    return plan


def guard(id: str, use: str = "docs", **keys: Any) -> Stage:
    return Stage(id=StageId(id), guard={"use": use, **keys}, needs=())


BUILD = Stage(id=StageId("build"), command="echo guardrail passed", title="guardrail", needs=())


def records(plan: Plan, **ends: tuple[str, str | None]) -> dict[StageId, StageRecord]:
    """Return records by stage: status and verdict, if one was given."""
    digests = {each.id: each.digest for each in plan.stages}
    return {
        StageId(id): StageRecord(
            id=StageId(id),
            digest=digests[StageId(id)],
            status=StageStatus(status),
            attempt=1,
            answer=codec.dump(Answer(verdict=Verdict(verdict))) if verdict else None,
        )
        for id, (status, verdict) in ends.items()
    }


def lists(**given: list[str]) -> dict[str, list[str]]:
    return {key: given.get(key, []) for key in ("required", "passed", "failed", "missing", "advisory")}


GOOD, BAD, DRY = ("succeeded", "passed"), ("failed", "failed"), ("succeeded", "advisory")


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize(
    ("ends", "status", "fault"),
    [
        ({"a": GOOD, "b": GOOD}, {"passed": ["a", "b"]}, ""),
        ({"a": GOOD, "b": BAD}, {"passed": ["a"], "failed": ["b"]}, "guardrails are required: b did not pass"),
        ({"a": BAD, "b": BAD}, {"failed": ["a", "b"]}, "guardrails are required: a, b did not pass"),
        ({"a": GOOD, "b": DRY}, {"passed": ["a"], "advisory": ["b"]}, ""),
        ({"a": DRY, "b": DRY}, {"advisory": ["a", "b"]}, "guardrails are required: a, b only advised"),
        ({"a": GOOD}, {"passed": ["a"], "missing": ["b"]}, "guardrails are required: b gave no verdict"),
        ({}, {"missing": ["a", "b"]}, "guardrails are required: a, b gave no verdict"),
        ({"a": GOOD, "b": ("skipped", None)}, {"passed": ["a"], "missing": ["b"]}, "guardrails are required: b gave no"),
        # A stage that was killed gave no verdict, and what an earlier try said counts while nothing newer does.
        ({"a": GOOD, "b": ("failed", None)}, {"passed": ["a"], "missing": ["b"]}, "guardrails are required: b gave no"),
        ({"a": GOOD, "b": ("interrupted", None)}, {"passed": ["a"], "missing": ["b"]}, "guardrails are required: b gave"),
        ({"a": GOOD, "b": ("pending", "failed")}, {"passed": ["a"], "missing": ["b"]}, "guardrails are required: b gave"),
        ({"a": GOOD, "b": ("running", "passed")}, {"passed": ["a"], "missing": ["b"]}, "guardrails are required: b gave"),
        # Its log could not be kept: the stage failed, so it did not pass, whatever it said.
        ({"a": GOOD, "b": ("failed", "passed")}, {"passed": ["a"], "failed": ["b"]}, "guardrails are required: b did not"),
    ],
)  # fmt: skip
def test_what_guardrails_come_to(
    required: bool, ends: dict[str, tuple[str, str | None]], status: dict[str, list[str]], fault: str
) -> None:
    plan = plan_of(BUILD, guard("a"), guard("b", use="specs"), required=required)
    known = records(plan, build=("succeeded", None), **ends)
    wanted = lists(**status) | ({"required": ["a", "b"]} if required else {"missing": []})
    assert guardrail_status(plan, known) == wanted
    found = guardrail_fault(plan, known)
    assert found.startswith(fault) if required and fault else found == ""


def test_a_pipeline_without_guardrails_has_no_status() -> None:
    plan = plan_of(BUILD)
    assert guardrail_status(plan, records(plan, build=("succeeded", None))) is None
    assert guardrail_fault(plan, {}) == ""


def test_a_command_is_no_guardrail_whatever_it_says() -> None:
    plan = plan_of(BUILD, required=True)
    known = records(plan, build=("succeeded", "passed"))
    assert guardrail_status(plan, known) == lists(missing=["any"])
    assert guardrail_fault(plan, known) == "guardrails are required, and no stage that ran is one"


def test_a_guardrail_that_the_target_leaves_out_is_not_there() -> None:
    plan = plan_of(BUILD, guard("a"), required=True, target="build")
    assert guardrail_status(plan, records(plan, build=("succeeded", None))) == lists(missing=["any"])
    relaxed = plan_of(BUILD, guard("a"), target="build")
    assert guardrail_status(relaxed, {}) == lists()


# ------------------------------------------------------------------------------------------------ the plan


def test_a_plan_holds_what_guardrails_need_of_the_settings() -> None:
    watch = Watch(paths=("src/**",), spec="docs/specs/a.md")
    settings = Settings(
        checklists=("tasks/*.md",),
        guards=GuardSettings(specs=SpecSettings(paths=("specs/*.md",), age_max_s=86400.0, watch=(watch,))),
    )
    plan = plan_of(guard("a", use="specs"), guard("b", use="checklists"), guard("c"), settings=settings)
    assert [each.guard for each in plan.stages] == [
        {
            "use": "specs",
            "paths": ["specs/*.md"],
            "age_max_s": 86400.0,
            "watch": [{"paths": ["src/**"], "spec": "docs/specs/a.md"}],
        },
        {"use": "checklists", "checklists": ["tasks/*.md"]},
        {"use": "docs"},
    ]
    assert codec.parse(Plan, codec.compact(plan)) == plan


def test_what_a_stage_says_counts_more_than_the_settings() -> None:
    plan = plan_of(guard("a", use="specs", paths=["x.md"], all=True))
    assert plan.stages[0].guard is not None
    assert (plan.stages[0].guard["paths"], plan.stages[0].guard["all"]) == (["x.md"], True)


def test_other_settings_make_another_guardrail_and_no_other_command() -> None:
    older = plan_of(BUILD, guard("a", use="specs"))
    newer = plan_of(
        BUILD, guard("a", use="specs"), settings=Settings(guards=GuardSettings(specs=SpecSettings(age_max_s=1.0)))
    )
    assert older.stages[0].digest == newer.stages[0].digest
    assert older.stages[1].digest != newer.stages[1].digest


def test_whether_guardrails_are_required_is_part_of_what_is_executed() -> None:
    assert plan_of(BUILD, required=True).guardrails_required
    assert plan_of(BUILD, required=True).digest != plan_of(BUILD).digest
