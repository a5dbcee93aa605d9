"""What merging a change would do: two desired states become one value that people and programs can review. Pure.

`State` is what a commit asks for, as far as the change may matter; `preview` holds two of them against each other. The
digest covers what merging does: run ids, plans, gates, decisions, changes of power. It does not cover layout, the clock
or what else is under way at the base.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from enum import StrEnum

from reconciler import codec, preview_gates, queueing, reviewed
from reconciler.approve import Case
from reconciler.manifest import whole_command
from reconciler.model import (
    Evidence,
    Instant,
    Name,
    Plan,
    PlannedStage,
    Problem,
    Rejection,
    Request,
    RunId,
    Scalar,
    Settings,
    Severity,
    StageKind,
    Status,
    Suspend,
    Wish,
)
from reconciler.power import Power
from reconciler.preview_gates import Asked, Cast, Judged
from reconciler.values import frozen


class Verdict(StrEnum):
    """What becomes of the merge itself."""

    NOTHING = "nothing"
    CLEAN = "clean"
    CONFLICT = "conflict"


class Effect(StrEnum):
    """What a change does to one request."""

    NEW = "new"
    SUPERSEDES = "supersedes"
    REMOVED = "removed"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    AGAIN = "again"
    REPLANNED = "replanned"
    EDITED = "edited"


@frozen
class Wanted:
    """A request as one commit has it, with the run it asks for and the plan it leads to, reviewed or not.

    `status` is what the commit proves of the run, None if nothing; `fires_at` the instant at which a schedule asks for
    the run next, "" for at once; `case` what policies look at.
    """

    request: Request
    run_id: RunId
    plan: Plan | Rejection
    status: Status | None = None
    fires_at: str = ""
    case: Case | None = None


@frozen
class State:
    """What a commit asks for. `wanted` holds the requests that the change may concern, `names` all of them."""

    wanted: Mapping[Name, Wanted]
    names: Mapping[Name, RunId | None]
    settings: Settings
    evidence: Mapping[RunId, Evidence] = field(default_factory=dict)


@frozen
class Change:
    """What is known of a change beside the two states: full object ids, and what was found out about its files.

    `problems` are those that it brings, `standing` those that were there before.
    """

    base: str
    head: str
    merge_base: str | None = None
    verdict: Verdict = Verdict.CLEAN
    conflicts: tuple[str, ...] = ()
    casts: tuple[Cast, ...] = ()
    powers: tuple[Power, ...] = ()
    problems: tuple[Problem, ...] = ()
    standing: tuple[Problem, ...] = ()


@frozen
class Touched:
    """One request that the change concerns: the run it asks for after and before, "" for none."""

    name: Name
    path: str
    effect: Effect
    run_id: str
    before: str
    detail: str


@frozen
class Doing:
    """One stage of a run to come, as it will be executed."""

    id: str
    kind: str
    command: str
    needs: tuple[str, ...]
    selected: bool
    gate: bool
    sandbox: str
    runs: tuple[str, ...]


@frozen
class Coming:
    """A run that merging brings about. `begins` is "at once", an instant, or what keeps it back, in words; `plan` the
    digest that the request would name (`reviewed.digest`), `named` what it names."""

    run_id: RunId
    name: Name
    path: str
    task: str
    pipeline: str
    title: str
    workspace: str
    mode: str
    priority: int
    parameters: Mapping[str, Scalar]
    target: str | None
    begins: str
    after: tuple[str, ...]
    group: str
    on_conflict: str
    stages: tuple[Doing, ...]
    gates: tuple[Asked, ...]
    guardrails_required: bool
    guardrails: tuple[str, ...]
    plan: str
    named: str | None


@frozen
class Preview:
    """What merging does. `digest` is `sha256:<hex>` over what it does."""

    base: str
    head: str
    merge_base: str | None
    verdict: Verdict
    conflicts: tuple[str, ...]
    powers: tuple[Power, ...]
    requests: tuple[Touched, ...]
    runs: tuple[Coming, ...]
    decisions: tuple[Judged, ...]
    problems: tuple[Problem, ...]
    standing: tuple[Problem, ...]
    digest: str

    @property
    def fails(self) -> bool:
        """Whether the change brings something that is wrong."""
        return any(each.severity == Severity.ERROR for each in self.problems)


NOWHERE = State(wanted={}, names={}, settings=Settings())
"""Stands in for what is not looked at: nothing is merged, or nothing can be."""


def preview(before: State, after: State, change: Change, now: Instant) -> Preview:
    """Return what becomes of `before` when a change makes it `after`."""
    requests = tuple(_touched(before, after))
    effects = {each.name: each.effect for each in requests}
    coming = [each for name, each in after.wanted.items() if name in effects and _comes(each, effects[name])]
    coming.sort(key=lambda each: (-each.request.priority, each.request.source.path))
    holds = _holds(coming, after, now)
    runs = tuple(_coming(each, change.casts, before.settings, after.settings, holds, now) for each in coming)
    cases = [(each.plan, each.case or _case(each)) for each in coming if isinstance(each.plan, Plan)]
    decisions = preview_gates.judged(change.casts, cases, before.settings)
    problems = (*_conflicting(change.conflicts), *change.problems, *_unreviewed(after, effects), *_void(decisions))
    return Preview(
        base=change.base,
        head=change.head,
        merge_base=change.merge_base,
        verdict=change.verdict,
        conflicts=change.conflicts,
        powers=change.powers,
        requests=requests,
        runs=runs,
        decisions=decisions,
        problems=tuple(sorted(_once(problems), key=lambda each: (each.path, each.line, each.column))),
        standing=change.standing,
        digest=_digest(requests, runs, decisions, change, _scheduled(before, after)),
    )


# ------------------------------------------------------------------------------------------------ requests


def _touched(before: State, after: State) -> Iterator[Touched]:
    for name in sorted({*before.wanted, *after.wanted}):
        old, new = before.wanted.get(name), after.wanted.get(name)
        effect = _effect(old, new, name in after.names)
        if effect is None:
            continue
        meant = new or old
        assert meant is not None
        yield Touched(
            name=name,
            path=meant.request.source.path,
            effect=effect,
            run_id=new.run_id if new is not None else "",
            before=old.run_id if old is not None else "",
            detail=_detail(effect, old, new),
        )


def _effect(old: Wanted | None, new: Wanted | None, named: bool) -> Effect | None:
    """Return what a change does to a request, None if nothing; `named` is whether a file of its name is there after."""
    if new is None:
        return None if old is None or named else Effect.REMOVED
    if old is None:
        return Effect.NEW
    was, now = old.request, new.request
    if _executed(was) != _executed(now):
        return Effect.SUPERSEDES
    if was.cancel != now.cancel:
        return Effect.CANCELLED if now.cancel else Effect.RESUMED
    if was.suspend != now.suspend:
        return Effect.SUSPENDED if now.suspend else Effect.RESUMED
    if old.run_id != new.run_id and not now.schedule:
        return Effect.AGAIN
    if was.source != now.source and _said(was) != _said(now):
        return Effect.EDITED
    return Effect.REPLANNED if _differ(old.plan, new.plan) else None


def _executed(request: Request) -> object:
    """Return what makes a run of a request another one, whatever occasion there is for it."""
    return (
        request.task,
        request.pipeline,
        dict(request.parameters),
        request.target,
        request.execution.mode,
        request.rerun,
        request.recurring,
    )


def _said(request: Request) -> Request:
    return replace(request, source=replace(request.source, blob=""))


def _differ(old: Plan | Rejection, new: Plan | Rejection) -> bool:
    if isinstance(old, Rejection) or isinstance(new, Rejection):
        return isinstance(old, Rejection) != isinstance(new, Rejection)
    return _kept(old) != _kept(new)


def _kept(plan: Plan) -> object:
    """Return what people review of a plan; intervals and limits of the settings are no reason to review it again."""
    stages = tuple((each.selected, each.approval, each.allow_failure, each.timeout_s) for each in plan.stages)
    read = plan.instructions if any(each.agent for each in plan.stages) else None
    return (plan.digest, stages, plan.approval_policy, plan.execution_mode, plan.sandbox_missing, read)


def _detail(effect: Effect, old: Wanted | None, new: Wanted | None) -> str:
    """Return in words what a change does to a request, beyond the word for it."""
    if new is not None and isinstance(new.plan, Rejection):
        return "it cannot be planned, so nothing of it begins"
    match effect:
        case Effect.SUPERSEDES if old is not None:
            return f"another run than {old.run_id}, which is cancelled if it is under way"
        case Effect.REMOVED if old is not None:
            return "its run is not begun any more; one that is under way is left to finish" if not old.status else ""
        case Effect.CANCELLED if new is not None:
            return str(new.request.cancel)
        case Effect.SUSPENDED if new is not None and new.request.suspend is not None:
            return _suspended(new.request.suspend)
        case Effect.AGAIN:
            return "its inputs change"
        case Effect.REPLANNED:
            return "its request is the same, and what it executes is not; what is under way keeps its plan"
        case _:
            return ""


def _suspended(suspend: Suspend) -> str:
    until = f" until {suspend.until}" if suspend.until else ""
    return f"suspended{until}" + (f": {suspend.reason}" if suspend.reason else "")


# ------------------------------------------------------------------------------------------------ runs to come


def _comes(wanted: Wanted, effect: Effect) -> bool:
    """Return whether merging brings a run about, or brings it about in another way."""
    if isinstance(wanted.plan, Rejection) or wanted.request.cancel or effect == Effect.REMOVED:
        return False
    return wanted.status is None or (wanted.status == Status.WAITING and effect == Effect.NEW)


def _coming(
    wanted: Wanted,
    casts: Sequence[Cast],
    base: Settings,
    merged: Settings,
    holds: Mapping[RunId, queueing.Hold],
    now: Instant,
) -> Coming:
    plan, request = wanted.plan, wanted.request
    assert isinstance(plan, Plan)
    concurrency, chosen = request.concurrency, [each for each in plan.stages if each.selected]
    guards = [each for each in chosen if each.guard is not None]
    return Coming(
        run_id=wanted.run_id,
        name=request.name,
        path=request.source.path,
        task=plan.task_id,
        pipeline=plan.pipeline_id,
        title=plan.title,
        workspace=plan.workspace.value,
        mode=plan.execution_mode.value,
        priority=request.priority,
        parameters=plan.parameters,
        target=plan.target,
        begins=_begins(wanted, holds),
        after=request.after,
        group=concurrency.group if concurrency is not None else "",
        on_conflict=concurrency.on_conflict if concurrency is not None else "",
        stages=tuple(_doing(each) for each in plan.stages),
        gates=preview_gates.asked(plan, wanted.case or _case(wanted), casts, base, merged, now.at),
        guardrails_required=plan.guardrails_required,
        guardrails=tuple(f"{each.id} ({(each.guard or {}).get('use')})" for each in guards),
        plan=reviewed.digest(plan, merged),
        named=request.plan,
    )


def _begins(wanted: Wanted, holds: Mapping[RunId, queueing.Hold]) -> str:
    """Return when a run begins, or what keeps it back, in words."""
    if wanted.request.suspend is not None:
        return _suspended(wanted.request.suspend)
    if wanted.request.schedule is not None:
        return wanted.fires_at or "its schedule fires no more"
    return holds[wanted.run_id].reason if wanted.run_id in holds else "at once"


def _doing(stage: PlannedStage) -> Doing:
    sandbox = stage.sandbox or {}
    agent = stage.agent or {}
    return Doing(
        id=stage.id,
        kind=stage.kind.value,
        command=whole_command(stage),
        needs=stage.needs,
        selected=stage.selected,
        gate=stage.approval is not None,
        sandbox=", ".join(f"{key} {value}" for key, value in sandbox.items())
        or (str(agent.get("sandbox") or "") if stage.kind == StageKind.AGENT else ""),
        runs=tuple(each.name for each in stage.children),
    )


def _case(wanted: Wanted) -> Case:
    digest = wanted.plan.digest if isinstance(wanted.plan, Plan) else ""
    return Case(pipeline=wanted.request.pipeline, plan_digest=digest, labels=wanted.request.labels)


def _holds(coming: Iterable[Wanted], after: State, now: Instant) -> Mapping[RunId, queueing.Hold]:
    """Return who waits for whom among the runs to come, and for what the base proves of others."""
    wishes = [Wish(request=each.request, run_id=each.run_id, plan=each.plan) for each in coming]
    scene = queueing.Scene(names=after.names, evidence=after.evidence, under_way={}, groups={})
    return queueing.line_up(wishes, scene, now, after.settings.ageing_s).holds


# ------------------------------------------------------------------------------------------------ problems


def _conflicting(paths: Iterable[str]) -> Iterator[Problem]:
    for path in paths:
        reason, cure = "base and head change this in ways that cannot be merged", "merge the base into the branch"
        yield Problem(path=path, reason=reason, cure=cure, rule="merge-conflict")


def _unreviewed(after: State, effects: Mapping[Name, Effect]) -> Iterator[Problem]:
    """Yield why runs to come would not be launched although their plans are sound."""
    for name in effects.keys() & after.wanted.keys():
        wanted = after.wanted[name]
        if isinstance(wanted.plan, Plan) and wanted.status is None and not wanted.request.cancel:
            found = reviewed.objection(wanted.request, wanted.plan, after.settings)
            if found is not None:
                yield found


def _void(decisions: Iterable[Judged]) -> Iterator[Problem]:
    for each in decisions:
        if not each.counts:
            reason = f"this decision about {each.run} would not count: {each.why}"
            yield Problem(path=each.path, reason=reason, rule="void-decision", severity=Severity.WARNING)


def _once(problems: Iterable[Problem]) -> list[Problem]:
    """Return problems without those that say of a file again what was said with its line."""
    found: dict[tuple[str, str, str], Problem] = {}
    for each in problems:
        key = (each.path, each.rule, each.reason)
        if key not in found or (each.line and not found[key].line):
            found[key] = each
    return list(found.values())


# ------------------------------------------------------------------------------------------------ digest


def _digest(
    requests: Iterable[Touched],
    runs: Iterable[Coming],
    decisions: Iterable[Judged],
    change: Change,
    scheduled: Collection[Name],
) -> str:
    """Return what merging does, as a digest; which run a schedule asks for is a matter of the clock and not covered."""
    covered = {
        "conflicts": change.conflicts,
        "requests": [[e.name, e.effect, "" if e.name in scheduled else e.run_id] for e in requests],
        "runs": [[each.name, each.plan, [_terms(gate) for gate in each.gates]] for each in runs],
        "decisions": [[e.run, e.stage, e.decision] for e in decisions],
        "powers": [[e.path, e.effect, e.digest] for e in change.powers],
    }
    return reviewed.PREFIX + codec.digest(covered)


def _scheduled(*states: State) -> set[Name]:
    return {name for state in states for name, each in state.wanted.items() if each.request.schedule is not None}


def _terms(gate: Asked) -> list[object]:
    return [gate.stage, gate.policy, gate.approvals_min, gate.approvers, gate.other_person, gate.signed]
