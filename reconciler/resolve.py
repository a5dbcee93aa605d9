"""Request + pipeline + settings at a commit -> plan: every default filled in, every digest taken. Pure."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from reconciler import agent, approve, codec, reviewed, roles, trust
from reconciler.model import (
    BUILT_IN,
    Child,
    ExecutionMode,
    Instructions,
    Name,
    Occasion,
    Pipeline,
    PipelineId,
    Plan,
    PlannedRoles,
    PlannedStage,
    Problem,
    Rejection,
    Request,
    RoleSettings,
    RunId,
    Scalar,
    Settings,
    Stage,
    StageId,
    StageKind,
    TaskDemand,
    Workspace,
)
from reconciler.values import frozen

INSTRUCTION_PATHS = ("AGENTS.md", "docs/AGENTS.md", ".agent/AGENTS.md")
"""Where instructions for agents are looked for, in the order in which they apply."""

DEPTH_MAX = 8
"""So deep pipelines may be nested, the request's own counted."""
RUNS_MAX = 256
"""So many nested runs a request may have, in all depths together."""
NAME_LENGTH_MAX = 91
"""As of any run: its id has 9 characters more and at most 100."""
ONCE = Occasion()
"""The occasion of a request that asks for one run."""

MATCHED_CHARACTERS_MAX = 256
"""A pattern that is slow on a long text must not hold up a pass; the parser bounds defaults in the same way."""


@frozen
class Place:
    """Where a plan is resolved: the commit everything is read from, its branch, its instructions, and what it says
    about the request's task; and on which occasion, if the request has several."""

    commit: str
    branch: str
    instructions: Instructions = Instructions()
    occasion: Occasion = ONCE
    task: TaskDemand = TaskDemand()


def run_id(request: Request, occasion: Occasion = ONCE) -> RunId:
    """Return `<name>-<8 hex>`, the hex being the start of the SHA-256 over what is executed.

    Title, priority, labels, suspend, cancel, comments and layout are not part of it, so a reformatted file is the
    same run and two reconcilers compute the same id. Of a request that asks for more than one run, the occasion is
    part of it.
    """
    executed: dict[str, object] = {
        "task": request.task,
        "pipeline": request.pipeline,
        "parameters": dict(request.parameters),
        "target": request.target,
        "execution_mode": request.execution.mode.value,
        "rerun": request.rerun,
    }
    if request.parent is not None:
        executed["parent"] = request.parent
    if occasion.fired_at:
        executed["fire"] = occasion.fired_at
    if occasion.inputs:
        executed["inputs"] = dict(occasion.inputs)
    return RunId(f"{request.name}-{codec.digest(executed)[:8]}")


def instructions_of(files: Iterable[tuple[str, bytes]]) -> Instructions:
    """Return the instruction files that say something, in the given order, and a hash over paths and bytes."""
    spoken = [(path, data) for path, data in files if data.strip()]
    if not spoken:
        return Instructions()
    whole = hashlib.sha256()
    for path, data in spoken:
        whole.update(f"{path}\0{len(data)}\0".encode() + data)
    return Instructions(hash=whole.hexdigest(), sources=tuple(path for path, _ in spoken))


def resolve(
    request: Request, pipelines: Mapping[PipelineId, Pipeline | Rejection], settings: Settings, place: Place
) -> Plan | Rejection:
    """Return the plan of a request, or every reason why there is none: that it is not the reviewed one is one."""
    plan = _resolve(request, pipelines, settings, place, Way())
    objection = reviewed.objection(request, plan, settings) if isinstance(plan, Plan) else None
    return plan if objection is None else _rejection(request, [objection])


@dataclass(slots=True)
class Way:
    """The pipelines that lead to a nested one, and how many nested runs a request has so far."""

    pipelines: tuple[PipelineId, ...] = ()
    runs: list[int] = field(default_factory=lambda: [0])

    def through(self, pipeline: PipelineId) -> Way:
        return Way((*self.pipelines, pipeline), self.runs)


def _resolve(
    request: Request,
    pipelines: Mapping[PipelineId, Pipeline | Rejection],
    settings: Settings,
    place: Place,
    way: Way,
) -> Plan | Rejection:
    pipeline = pipelines.get(request.pipeline)
    if pipeline is None:
        return _rejection(request, [_unknown_pipeline(request, pipelines)])
    if isinstance(pipeline, Rejection):
        return _rejection(request, [_broken_pipeline(request, pipeline)])
    problems = [*_parameter_problems(request, pipeline), *_target_problems(request, pipeline)]
    problems += _agent_problems(request, pipeline, settings)
    problems += _mode_problems(request, pipeline, place.task)
    problems += _reuse_problems(request, pipeline, settings)
    if problems:
        return _rejection(request, problems)
    way = way.through(pipeline.id)
    nested = {stage.id: _nested(request, stage, pipelines, settings, place, way) for stage in pipeline.stages}
    if problems := [each for found in nested.values() for each in found.problems]:
        return _rejection(request, problems)
    return _plan(request, pipeline, settings, place, nested)


def _plan(
    request: Request, pipeline: Pipeline, settings: Settings, place: Place, nested: Mapping[StageId, Nested]
) -> Plan:
    workspace = pipeline.workspace or settings.workspace
    parameters = _parameters(request, pipeline)
    frozen = replace(pipeline, stages=tuple(_frozen(each, settings) for each in pipeline.stages))
    stages = _stages(frozen, request.target, workspace, parameters, nested, settings.roles.builder)
    stages = tuple(_placed(_governed(each, request, settings), request, place.task) for each in stages)
    stages = tuple(
        replace(each, untrusted=trust.unbelieved(each, request, settings.trust, place.instructions)) for each in stages
    )
    plan = Plan(
        run_id=run_id(request, place.occasion),
        name=request.name,
        task_id=request.task,
        pipeline_id=pipeline.id,
        title=request.title or pipeline.title or pipeline.id,
        request=request.source,
        pipeline=pipeline.source,
        commit=place.commit,
        branch=place.branch,
        parameters=parameters,
        target=request.target,
        execution_mode=mode_of(request, pipeline, place.task),
        approval_policy=request.approval_policy or settings.approval_policy,
        workspace=workspace,
        keep_workspace=settings.keep_workspace,
        attempts_max=request.attempts_max or settings.attempts_max,
        timeout_s=request.timeout_s,
        stages_max=settings.stages_max,
        heartbeat=settings.heartbeat,
        grace_s=settings.grace_s,
        log_bytes_max=settings.evidence.log_bytes_max,
        redact=settings.redact,
        proves=request.proves,
        labels=request.labels,
        rerun=request.rerun,
        instructions=place.instructions,
        stages=stages,
        digest="",
        parent=request.parent,
        guardrails_required=pipeline.guardrails_required,
        sandbox_missing=settings.sandbox.missing,
        group=request.concurrency.group if request.concurrency is not None else "",
        fired_at=place.occasion.fired_at,
        roles=_roles(settings, len(stages), request, place),
        traced=settings.telemetry.otlp is not None,
        capabilities=_capabilities(request, pipeline, stages),
        resources=request.resources,
        only_here=ExecutionMode.MCP in (request.execution.mode, place.task.execution.mode),
    )
    return replace(plan, digest=digest_of(plan))


def _capabilities(request: Request, pipeline: Pipeline, stages: Iterable[PlannedStage]) -> tuple[str, ...]:
    """Return all that a request and the stages that are selected need of an executor; where a run is executed is no
    part of what is executed, so no digest covers it."""
    selected = {each.id for each in stages if each.selected}
    asked = (word for each in pipeline.stages if each.id in selected for word in each.capabilities)
    return tuple(sorted({*request.capabilities, *asked}))


def digest_of(plan: Plan) -> str:
    """Return the digest of what a plan executes, and of who judges it where that is not us."""
    executed: dict[str, object] = {
        "stages": [each.digest for each in plan.stages if each.selected],
        "parameters": plan.parameters,
    }
    if plan.guardrails_required:
        executed["guardrails_required"] = True
    if plan.roles.judges:
        executed["judges"] = [each.digest for each in plan.roles.judges]
    return codec.digest(executed)


# ------------------------------------------------------------------------------------------------ roles


def _roles(settings: Settings, index: int, request: Request, place: Place) -> PlannedRoles:
    """Return who takes the roles of a run; `index` is that of the first stage behind those of the pipeline."""
    said, judges = settings.roles, []
    if said.tester != BUILT_IN:
        judges.append(_judge(said, roles.TESTER, index, {"use": said.tester}))
    if said.agent is not None:
        # It begins anew each time: what it would go on with is about another state of the run.
        reviewer = codec.dump(replace(agent.resolve(said.agent, settings.agents), resume=False))
        judge = _judge(said, roles.REVIEWER, index + len(judges), {"agent": said.agent}, reviewer)
        told = trust.unbelieved(judge, request, settings.trust, place.instructions)
        judges.append(replace(judge, untrusted=told))
    elif said.reviewer != BUILT_IN:
        judges.append(_judge(said, roles.REVIEWER, index + len(judges), {"use": said.reviewer}))
    return PlannedRoles(
        planner=said.planner,
        builder=said.builder,
        tester=said.tester,
        reviewer=said.reviewer if said.agent is None else f"agent {said.agent['use']}",
        judges=tuple(judges),
    )


def _judge(
    said: RoleSettings,
    judge: StageId,
    index: int,
    executed: Mapping[str, object],
    reviewer: Mapping[str, object] | None = None,
) -> PlannedStage:
    """Return the stage as which a tester or a reviewer is executed that is not ours."""
    return PlannedStage(
        index=index,
        id=judge,
        title=judge.removeprefix("_"),
        kind=StageKind.COMMAND if reviewer is None else StageKind.AGENT,
        argv=(),
        cwd=".",
        env={},
        needs=(),
        timeout_s=said.timeout_s,
        attempts_max=1,
        backoff_s=1.0,
        allow_failure=False,
        summary_hint="",
        role=None,
        selected=True,
        digest=codec.digest({"id": judge, **executed}),
        agent=reviewer,
    )


# ------------------------------------------------------------------------------------------------ nested pipelines


@frozen
class Nested:
    """The child runs of a stage, the digests of what they execute, and what is wrong with them."""

    children: tuple[Child, ...] = ()
    digests: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def _nested(
    request: Request,
    stage: Stage,
    pipelines: Mapping[PipelineId, Pipeline | Rejection],
    settings: Settings,
    place: Place,
    way: Way,
) -> Nested:
    """Return the child runs of a stage, none if its pipeline is not nested."""
    if stage.pipeline is None:
        return Nested()
    if wrong := _misled(stage.pipeline, way):
        return Nested(problems=(_problem(request, "/pipeline", f"stage '{stage.id}': {wrong}", "", "nesting"),))
    children, digests = [], []
    parent, inner = run_id(request, place.occasion), replace(place, occasion=ONCE)
    for parameters, suffix in _cells(stage)[: RUNS_MAX + 1]:
        child = _child(request, parent, stage, parameters, suffix)
        if isinstance(child, Problem):
            return Nested(problems=(child,))
        wish = nested_request(request, parent, child)
        way.runs[0] += 1
        plan = _resolve(wish, pipelines, settings, inner, way)
        if isinstance(plan, Rejection):
            return Nested(problems=tuple(_inside(stage, each) for each in plan.problems))
        if plan.execution_mode == ExecutionMode.CLOUD and request.execution.mode == ExecutionMode.MCP:
            reason = (
                f"the request wants this machine ('mode: mcp'), and pipeline '{child.pipeline}' requires an executor"
            )
            cure = "say 'mode: auto' or 'mode: cloud'"
            return Nested(problems=(_problem(request, "/execution", reason, cure, "mode"),))
        children.append(child)
        digests.append(plan.digest)
    return Nested(children=tuple(children), digests=tuple(digests))


def _misled(pipeline: PipelineId, way: Way) -> str:
    """Return why a pipeline cannot be nested here, "" if it can."""
    if pipeline in way.pipelines:
        return f"pipelines include each other: {' -> '.join([*way.pipelines, pipeline])}"
    if len(way.pipelines) >= DEPTH_MAX:
        return f"pipelines are nested deeper than {DEPTH_MAX}: {' -> '.join([*way.pipelines, pipeline])}"
    return f"the request has more than {RUNS_MAX} nested runs" if way.runs[0] >= RUNS_MAX else ""


def _cells(stage: Stage) -> list[tuple[dict[str, Scalar], str]]:
    """Return the parameters of each run of a stage and what tells its name from others: one a cell of its matrix."""
    if not stage.matrix:
        return [(dict(stage.parameters), "")]
    cells = itertools.product(*stage.matrix.values())
    return [
        ({**stage.parameters, **dict(zip(stage.matrix, cell, strict=True))}, f".{number}")
        for number, cell in enumerate(cells, 1)
    ]


def _child(
    request: Request, parent: RunId, stage: Stage, parameters: Mapping[str, Scalar], suffix: str
) -> Child | Problem:
    assert stage.pipeline is not None
    name = Name(f"{request.name}.{stage.id}{suffix}")
    if len(name) > NAME_LENGTH_MAX:
        reason = f"the nested run would have the name '{name}' of {len(name)} characters"
        return _problem(request, "/pipeline", reason, f"at most {NAME_LENGTH_MAX} are allowed", "nesting")
    unnamed = Child(run_id=RunId(""), name=name, pipeline=stage.pipeline, parameters=parameters)
    return replace(unnamed, run_id=run_id(nested_request(request, parent, unnamed)))


def nested_request(parent: Request | Plan, parent_run: RunId, child: Child) -> Request:
    """Return the wish for a child run: what its stage says, and all else as its parent has it."""
    match parent:
        case Plan(task_id=task, request=source):
            pass
        case Request(task=task, source=source):
            pass
    return Request(
        name=child.name,
        source=source,
        task=task,
        pipeline=child.pipeline,
        title=child.name,
        parameters=child.parameters,
        approval_policy=parent.approval_policy,
        labels=parent.labels,
        resources=parent.resources,
        rerun=parent.rerun,
        parent=parent_run,
    )


def _inside(stage: Stage, problem: Problem) -> Problem:
    return replace(problem, pointer="/pipeline", reason=f"stage '{stage.id}': {problem.reason}")


# ------------------------------------------------------------------------------------------------ stages


def _stages(
    pipeline: Pipeline,
    target: StageId | None,
    workspace: Workspace,
    parameters: Mapping[str, Scalar],
    nested: Mapping[StageId, Nested],
    builder: str,
) -> tuple[PlannedStage, ...]:
    needs = _needs(pipeline.stages)
    selected = _needed_by(target, needs) if target else set(needs)
    # What cleans up does so after a part of the pipeline as well.
    selected |= {stage.id for stage in pipeline.stages if stage.finally_}
    digests = _digests(pipeline.stages, needs, workspace, parameters, nested, builder)
    return tuple(
        PlannedStage(
            index=index,
            id=stage.id,
            title=stage.title or stage.id,
            kind=stage.kind,
            argv=_argv(stage),
            cwd=stage.cwd,
            env=stage.env,
            needs=needs[stage.id],
            timeout_s=stage.timeout_s,
            attempts_max=stage.attempts_max,
            backoff_s=stage.backoff_s,
            allow_failure=stage.allow_failure,
            summary_hint=stage.summary_hint,
            role=stage.role,
            selected=stage.id in selected,
            digest=digests[stage.id],
            children=nested[stage.id].children,
            reuse=stage.reuse,
            **_set(stage),
        )
        for index, stage in enumerate(pipeline.stages)
    )


def _frozen(stage: Stage, settings: Settings) -> Stage:
    """Return a stage whose guardrail or agent holds what it needs of the settings: whoever executes it reads the plan
    alone."""
    if stage.guard is not None:
        return replace(stage, guard=guard_of(stage.guard, settings))
    if stage.agent is not None:
        return replace(stage, agent=codec.dump(agent.resolve(stage.agent, settings.agents)))
    return stage


def _governed(stage: PlannedStage, request: Request, settings: Settings) -> PlannedStage:
    """Return a stage whose gate says that a policy of the settings may hold for it: then no request can grant it."""
    case = approve.Case(pipeline=request.pipeline, plan_digest="", labels=request.labels)
    if stage.approval is None or not approve.is_governed(stage.approval, case, stage.id, settings.approvals):
        return stage
    return replace(stage, approval={**stage.approval, approve.GOVERNED: True})


def _placed(stage: PlannedStage, request: Request, task: TaskDemand) -> PlannedStage:
    """Return a stage that says where it wants to be executed."""
    remote = stage.requires_cloud or _wants_cloud(request, task)
    return replace(stage, mode=ExecutionMode.CLOUD) if remote else stage


def guard_of(said: Mapping[str, object], settings: Settings) -> dict[str, object]:
    """Return what a guardrail is told, as JSON values: its own options, and the settings where they say nothing."""
    known: dict[str, object] = {}
    match said["use"]:
        case "specs":
            known = codec.dump(settings.guards.specs)
        case "checklists":
            known = {"checklists": list(settings.checklists)}
        case "patterns":
            known = {"rules": settings.guards.patterns.rules}
    return {**known, **said}


def _set(stage: Stage) -> dict[str, Any]:
    """Return what a stage says beside its command and is executed as it says it."""
    keys = ("agent", "guard", "pipeline", "approval", "when", "requires_cloud", "sandbox", "finally_")
    said = {key: getattr(stage, key) for key in keys}
    return {key: value for key, value in said.items() if value not in (None, False)}


def _argv(stage: Stage) -> tuple[str, ...]:
    """Return what is executed: a text goes to `sh -c`, a list sees no shell."""
    return ("sh", "-c", stage.command) if isinstance(stage.command, str) else stage.command or ()


def _needs(stages: tuple[Stage, ...]) -> dict[StageId, tuple[StageId, ...]]:
    """Return what every stage needs; one that does not say needs the stage before it, or nothing if it is marked
    `finally`."""
    before: tuple[StageId, ...] = ()
    found = {}
    for stage in stages:
        if stage.finally_:
            found[stage.id] = stage.needs or ()
            continue
        found[stage.id] = before if stage.needs is None else stage.needs
        before = (stage.id,)
    return found


def _needed_by(target: StageId, needs: Mapping[StageId, tuple[StageId, ...]]) -> set[StageId]:
    found, ahead = set(), [target]
    while ahead:
        stage_id = ahead.pop()
        if stage_id not in found:
            found.add(stage_id)
            ahead += needs[stage_id]
    return found


def _digests(
    stages: tuple[Stage, ...],
    needs: Mapping[StageId, tuple[StageId, ...]],
    workspace: Workspace,
    parameters: Mapping[str, Scalar],
    nested: Mapping[StageId, Nested],
    builder: str,
) -> dict[StageId, str]:
    """Return the definition digest of every stage.

    It covers what is executed and, by their digests, the stages it needs: a stage whose input is made in another
    way has not succeeded yet. Limits and titles are not part of it.
    """
    by_id = {stage.id: stage for stage in stages}
    found: dict[StageId, str] = {}
    for stage_id in _in_order(needs):
        stage = by_id[stage_id]
        found[stage_id] = codec.digest(
            {
                "id": stage.id,
                "argv": _argv(stage),
                "cwd": stage.cwd,
                "env": stage.env,
                "workspace": workspace,
                "parameters": parameters,
                "needs": {each: found[each] for each in needs[stage_id]},
                **({"runs": nested[stage.id].digests} if nested[stage.id].digests else {}),
                **_executed(stage),
                **({"builder": builder} if builder != BUILT_IN and stage.kind in roles.BUILT else {}),
            }
        )
    return found


def _executed(stage: Stage) -> dict[str, Any]:
    """Return what a stage executes beside its command: less what only bounds an agent, so that one which is given more
    goes on where it was."""
    said = _set(stage)
    if stage.agent is not None:
        said["agent"] = {key: value for key, value in stage.agent.items() if key not in agent.LIMITS}
    return said


def _in_order(needs: Mapping[StageId, tuple[StageId, ...]]) -> list[StageId]:
    """Return the stages so that each stands behind what it needs; the parser has refused cycles."""
    done: dict[StageId, None] = {}
    while len(done) < len(needs):
        ready = [each for each in needs if each not in done and all(need in done for need in needs[each])]
        done.update(dict.fromkeys(ready))
    return list(done)


# ------------------------------------------------------------------------------------------------ parameters


def _parameters(request: Request, pipeline: Pipeline) -> dict[str, Scalar]:
    given = request.parameters
    found = {name: given.get(name, spec.default) for name, spec in pipeline.parameters.items()}
    return {name: value for name, value in found.items() if value is not None}


def _parameter_problems(request: Request, pipeline: Pipeline) -> Iterable[Problem]:
    for name, value in request.parameters.items():
        spec = pipeline.parameters.get(name)
        pointer = f"/parameters/{name}"
        if spec is None:
            known = ", ".join(sorted(pipeline.parameters)) or "none"
            cure = _suggestion(name, pipeline.parameters) or f"its parameters: {known}"
            yield _problem(request, pointer, f"pipeline '{pipeline.id}' has no parameter '{name}'", cure, "parameter")
        elif spec.pattern and len(_text(value)) > MATCHED_CHARACTERS_MAX:
            reason = f"parameter '{name}' has {len(_text(value))} characters, too many to be matched with a pattern"
            cure = f"at most {MATCHED_CHARACTERS_MAX} are"
            yield _problem(request, pointer, reason, cure, "parameter")
        elif spec.pattern and not re.fullmatch(spec.pattern, _text(value)):
            reason = f"parameter '{name}' is {_text(value)!r}, which does not match the pattern {spec.pattern}"
            yield _problem(request, pointer, reason, f"see {pipeline.source.path}", "parameter")
    for name, spec in pipeline.parameters.items():
        if spec.default is None and name not in request.parameters:
            reason = f"parameter '{name}' of pipeline '{pipeline.id}' has no default and no value"
            yield _problem(request, "/parameters", reason, f"add 'parameters: {{{name}: ...}}'", "parameter")


def _text(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _target_problems(request: Request, pipeline: Pipeline) -> Iterable[Problem]:
    ids = [stage.id for stage in pipeline.stages]
    if request.target is not None and request.target not in ids:
        cure = _suggestion(request.target, ids) or f"its stages: {', '.join(ids)}"
        reason = f"pipeline '{pipeline.id}' has no stage '{request.target}'"
        yield _problem(request, "/target", reason, cure, "target")


def _agent_problems(request: Request, pipeline: Pipeline, settings: Settings) -> Iterable[Problem]:
    for stage in pipeline.stages:
        used = str((stage.agent or {}).get("use", ""))
        known = sorted({*agent.BUILT_IN, *settings.agents})
        if stage.agent is not None and used not in known:
            cure = _suggestion(used, known) or f"name it in reconciler.yaml below 'agents', or use: {', '.join(known)}"
            reason = f"stage '{stage.id}' of pipeline '{pipeline.id}' uses agent '{used}', which is not known"
            yield _problem(request, "/pipeline", reason, cure, "unknown-agent")


def mode_of(request: Request, pipeline: Pipeline, task: TaskDemand) -> ExecutionMode:
    """Return where a run is executed: `mcp`, this machine, unless something asks for an executor elsewhere."""
    remote = any(stage.requires_cloud for stage in pipeline.stages)
    return ExecutionMode.CLOUD if remote or _wants_cloud(request, task) else ExecutionMode.MCP


def _wants_cloud(request: Request, task: TaskDemand) -> bool:
    """Return whether a request or its task asks for an executor elsewhere for the whole run."""
    asked = (request.execution, task.execution)
    return task.requires_cloud or any(each.parallel or each.mode == ExecutionMode.CLOUD for each in asked)


def _mode_problems(request: Request, pipeline: Pipeline, task: TaskDemand) -> Iterable[Problem]:
    here = request.execution.mode == ExecutionMode.MCP
    if not here and task.execution.mode != ExecutionMode.MCP:
        return
    if mode_of(request, pipeline, task) == ExecutionMode.CLOUD:
        who = "the request" if here else f"task '{request.task}'"
        reason = f"{who} wants this machine ('mode: mcp'), and {_why_cloud(request, pipeline, task)}"
        yield _problem(request, "/execution", reason, "say 'mode: auto' or 'mode: cloud'", "mode")


def _why_cloud(request: Request, pipeline: Pipeline, task: TaskDemand) -> str:
    """Return what asks for an executor, in a run that needs one."""
    remote = next((stage.id for stage in pipeline.stages if stage.requires_cloud), None)
    if remote:
        return f"stage '{remote}' of pipeline '{pipeline.id}' requires an executor"
    if request.execution.parallel:
        return "'parallel' needs one"
    if request.execution.mode == ExecutionMode.CLOUD:
        return "the request wants an executor ('mode: cloud')"
    return f"task '{request.task}' requires an executor, as tasks/index.json says"


def _reuse_problems(request: Request, pipeline: Pipeline, settings: Settings) -> Iterable[Problem]:
    reused = next((stage.id for stage in pipeline.stages if stage.reuse is not None), None)
    if reused is not None and (pipeline.workspace or settings.workspace) == Workspace.CHECKOUT:
        reason = (
            f"stage '{reused}' of pipeline '{pipeline.id}' may be reused, and works in the checkout, whose files are "
            "not those of the commit"
        )
        yield _problem(request, "/pipeline", reason, "let the pipeline say 'workspace: worktree'", "reuse")


def _unknown_pipeline(request: Request, pipelines: Iterable[str]) -> Problem:
    known = sorted(pipelines)
    cure = _suggestion(request.pipeline, known) or f"known pipelines: {', '.join(known[:10]) or 'none'}"
    return _problem(request, "/pipeline", f"there is no pipeline '{request.pipeline}'", cure, "unknown-pipeline")


def _broken_pipeline(request: Request, rejection: Rejection) -> Problem:
    reason = f"pipeline '{request.pipeline}' cannot be used: {rejection.problems[0].sentence()}"
    return _problem(request, "/pipeline", reason, "", "broken-pipeline")


def _suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean '{close[0]}'?" if close else ""


def _problem(request: Request, pointer: str, reason: str, cure: str, rule: str) -> Problem:
    return Problem(path=request.source.path, pointer=pointer, reason=reason, cure=cure, rule=rule)


def _rejection(request: Request, problems: Iterable[Problem]) -> Rejection:
    return Rejection(path=request.source.path, problems=tuple(problems), name=request.name)
