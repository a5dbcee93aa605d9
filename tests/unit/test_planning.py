"""What a planner may make of a plan: it leaves out and sends elsewhere, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler import codec
from reconciler.model import (
    Execution,
    ExecutionMode,
    Pipeline,
    PipelineId,
    Plan,
    Request,
    Settings,
    Source,
    Stage,
    StageId,
)
from reconciler.planning import planned
from reconciler.resolve import Place, resolve
from reconciler.role_protocols import BuiltInPlanner, Planned, PlanningOrder

STAGES: tuple[Stage, ...] = (
    Stage(id=StageId("a"), command="true"),
    Stage(id=StageId("b"), command="true", needs=(StageId("a"),)),
    Stage(id=StageId("far"), command="true", needs=(), requires_cloud=True),
    Stage(id=StageId("g"), guard={"use": "docs"}, needs=()),
    Stage(id=StageId("clean"), command="true", finally_=True),
)
PIPELINE = Pipeline(id=PipelineId("p"), source=Source(path="pipelines/p.yaml"), stages=STAGES, guardrails_required=True)


def request(**keys: Any) -> Request:
    source = Source(path="runs.d/r.yaml")
    return Request(name="r", source=source, task="t", pipeline=PipelineId("p"), **keys)  # type: ignore[arg-type]


def plan(wanted: Request, pipeline: Pipeline = PIPELINE) -> Plan:
    found = resolve(wanted, {pipeline.id: pipeline}, Settings(), Place(commit="c" * 40, branch="main"))
    assert isinstance(found, Plan)
    return found


WHOLE = ("a", "b", "far", "g", "clean")


def asked(*selection: str, run_id: str | None = None, modes: dict[str, str] | None = None, **keys: Any) -> Plan | str:
    wanted = request(**keys)
    made = plan(wanted)
    said = {"run_id": run_id or made.run_id, "selection": list(selection), "modes": modes or {}}
    return planned(made, wanted, codec.load(Planned, said))


def test_what_ours_says_changes_nothing_but_the_answer() -> None:
    wanted = request()
    made = plan(wanted)
    order = PlanningOrder(request=wanted, pipeline=PIPELINE, checklist=(), settings=Settings(), plan=made)
    found = planned(made, wanted, BuiltInPlanner().plan(order))
    assert isinstance(found, Plan)
    assert (found.stages, found.digest, found.run_id) == (made.stages, made.digest, made.run_id)


def test_a_planner_selects_and_places_and_its_answer_is_frozen() -> None:
    found = asked("a", "g", "clean", modes={"a": "cloud"})
    assert isinstance(found, Plan)
    assert [each.id for each in found.stages if each.selected] == ["a", "g", "clean"]
    assert found.stages[0].mode == ExecutionMode.CLOUD and found.execution_mode == ExecutionMode.CLOUD
    whole = plan(request())
    assert found.run_id == whole.run_id and found.digest != whole.digest
    assert [each.digest for each in found.stages] == [each.digest for each in whole.stages]
    assert found.roles.answer is not None and found.roles.answer["selection"] == ["a", "g", "clean"]


@pytest.mark.parametrize(
    ("selection", "keys", "reason"),
    [
        ((), {}, "selects no stage"),
        (("a", "a", "g", "clean"), {}, "selects a stage twice"),
        (("a", "x" * 500), {}, f"names stage '{'x' * 120}', which pipeline 'p' does not have"),
        (WHOLE, {"modes": {"z": "mcp"}}, "names stage 'z', which pipeline 'p' does not have"),
        (("b", "g", "clean"), {}, "selects stage 'b' without 'a', which that needs"),
        (("a", "g"), {}, "leaves out stage 'clean', which is there to clean up ('finally')"),
        (("a", "clean"), {}, "leaves out guardrail 'g', and pipeline 'p' requires its guardrails"),
        (WHOLE, {"modes": {"far": "mcp"}}, "wants stage 'far' on this machine, and it requires an executor"),
        (WHOLE, {"modes": {"a": "auto"}}, "gives stage 'a' the mode 'auto'; only mcp and cloud are places"),
        (WHOLE, {"run_id": "x-00000000"}, "answered for run 'x-00000000', and was asked about r-"),
        (("a", "b", "clean"), {"target": StageId("a")}, "selects stage 'b', which target 'a' does not need"),
    ],
)
def test_what_it_may_not_is_a_sentence(selection: tuple[str, ...], keys: dict[str, Any], reason: str) -> None:
    found = asked(*selection, **keys)
    assert isinstance(found, str) and found.startswith(f"planner 'built-in' {reason}")


def test_no_planner_sends_a_run_elsewhere_that_is_for_this_machine() -> None:
    near = Pipeline(id=PipelineId("p"), source=PIPELINE.source, stages=STAGES[:1])
    wanted = request(execution=Execution(mode=ExecutionMode.MCP))
    made = plan(wanted, near)
    said = Planned(run_id=made.run_id, selection=(StageId("a"),), modes={StageId("a"): ExecutionMode.CLOUD})
    assert planned(made, wanted, said) == (
        "planner 'built-in' wants an executor, and the request this machine ('mode: mcp')"
    )
