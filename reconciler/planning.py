"""What a planner that is not ours may make of a plan. Pure.

Ids, digests, the commit and every definition are ours: a planner leaves stages out and sends stages elsewhere, nothing
more. What it may not leave out is what the pipeline requires of every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from reconciler import codec
from reconciler.model import ExecutionMode, Plan, PlannedStage, Request, StageId, StageKind
from reconciler.resolve import digest_of
from reconciler.role_protocols import Planned

REASON_CHARACTERS_MAX = 500


def planned(plan: Plan, request: Request, said: Planned) -> Plan | str:
    """Return the plan as a planner wants it, with the planner's answer in it; or why that cannot be, as a sentence."""
    name = plan.roles.planner
    fault = next(_faults(plan, request, said), "")
    if fault:
        return f"planner '{name}' {fault}"
    stages = tuple(
        replace(each, selected=each.id in said.selection, mode=said.modes.get(each.id, each.mode))
        for each in plan.stages
    )
    remote = any(each.mode == ExecutionMode.CLOUD for each in stages if each.selected)
    mode = ExecutionMode.CLOUD if remote else plan.execution_mode
    if mode == ExecutionMode.CLOUD and request.execution.mode == ExecutionMode.MCP:
        return f"planner '{name}' wants an executor, and the request this machine ('mode: mcp')"
    answer = codec.dump(replace(said, reason=" ".join(said.reason.split())[:REASON_CHARACTERS_MAX]))
    made = replace(plan, stages=stages, execution_mode=mode, roles=replace(plan.roles, answer=answer))
    return replace(made, digest=digest_of(made))


def _faults(plan: Plan, request: Request, said: Planned) -> Iterator[str]:
    """Yield what is wrong in a planner's answer."""
    known = {each.id: each for each in plan.stages}
    selected = set(said.selection)
    if said.run_id != plan.run_id:
        yield f"answered for run {said.run_id[:120]!r}, and was asked about {plan.run_id}"
    if not selected:
        yield "selects no stage"
    for each in (*said.selection, *said.modes):
        if each not in known:
            yield f"names stage {each[:120]!r}, which pipeline '{plan.pipeline_id}' does not have"
    if len(selected) != len(said.selection):
        yield "selects a stage twice"
    for stage in plan.stages:
        yield from _stage_faults(plan, stage, selected, said)


def _stage_faults(plan: Plan, stage: PlannedStage, selected: set[StageId], said: Planned) -> Iterator[str]:
    mode = said.modes.get(stage.id, stage.mode)
    if mode == ExecutionMode.AUTO:
        yield f"gives stage '{stage.id}' the mode 'auto'; only mcp and cloud are places"
    if stage.mode == ExecutionMode.CLOUD and mode != ExecutionMode.CLOUD:
        yield f"wants stage '{stage.id}' on this machine, and it requires an executor"
    if stage.id in selected:
        if not stage.selected:
            yield f"selects stage '{stage.id}', which target '{plan.target}' does not need"
        if missing := [each for each in stage.needs if each not in selected]:
            yield f"selects stage '{stage.id}' without '{missing[0]}', which that needs"
    elif stage.selected and stage.finally_:
        yield f"leaves out stage '{stage.id}', which is there to clean up ('finally')"
    elif stage.selected and stage.kind == StageKind.GUARD and plan.guardrails_required:
        yield f"leaves out guardrail '{stage.id}', and pipeline '{plan.pipeline_id}' requires its guardrails"
