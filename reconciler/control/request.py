"""A plan as a control plane is shown it: version 2 of the run request. Pure.

It says by names, kinds and digests what will be executed. No command, no parameter and no prompt is in it, so nothing
that could be secret leaves the machine with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from reconciler.model import Plan, PlannedStage, StageKind
from reconciler.values import frozen

SCHEMA = "gitops-reconciler.run-request"
VERSION = "2.0.0"
TEXT_CHARACTERS_MAX = 200
ACTOR_CHARACTERS_MAX = 500
SUBSCRIBERS_MAX = 64
"""As the web face answers at once."""
BACKPRESSURE_MS = 250
DIMENSIONS = ("task_id", "run_id", "pipeline_id", "status")
CHANNEL = "git"
UNKNOWN_ACTOR = "unknown"


@frozen
class Task:
    id: str
    title: str
    tags: tuple[str, ...] = ()


@frozen
class RequestedStage:
    """One stage. `selected` is False for what the run leaves out, `optional` True where the run may succeed without its
    success: it may fail, or it may be skipped."""

    id: str
    kind: str
    title: str
    selected: bool
    optional: bool
    needs: tuple[str, ...]
    capabilities: tuple[str, ...]


@frozen
class RequestedPipeline:
    """`version` is the blob of the pipeline's file, `digest` that of the plan, None where another system planned."""

    id: str
    version: str
    title: str
    digest: str | None
    capabilities: tuple[str, ...]
    stages: tuple[RequestedStage, ...]


@frozen
class FanOut:
    """How much of the work asks for a capability: its share, and how many stages at once."""

    capability: str
    weight: float
    concurrency_max: int


@frozen
class Recovery:
    heartbeat_interval_s: float
    heartbeat_timeout_s: float
    retries_max: int


@frozen
class Placement:
    strategy: str
    instances_min: int
    instances_max: int
    fan_out: tuple[FanOut, ...]
    recovery: Recovery


@frozen
class Observers:
    subscribers_max: int
    backpressure_ms: int


@frozen
class Streaming:
    handles: bool
    resume_supported: bool
    observers: Observers


@frozen
class Constraints:
    """`policy_version` is the commit whose settings hold; `data_residency` None where nothing is said."""

    privacy_level: str
    policy_version: str
    redaction: str
    data_residency: str | None = None


@frozen
class Measured:
    interval_s: float
    dimensions: tuple[str, ...]


@frozen
class RequestedBy:
    actor: str
    channel: str
    name: str | None = None


@frozen
class Origin:
    """Where the request stands in git."""

    commit: str
    branch: str
    path: str
    blob: str


@frozen
class RunRequestV2:
    """`schemas/run-request-v2.schema.json`."""

    schema: str
    version: str
    request_id: str
    parent_request_id: str | None
    task: Task
    pipeline: RequestedPipeline
    schedule: Placement
    streaming: Streaming
    constraints: Constraints
    metrics: Measured
    requested_at: str
    requested_by: RequestedBy
    source: Origin | None = None


def run_request(plan: Plan, *, privacy_level: str, actor: str, at: str) -> RunRequestV2:
    """Return the run request of a plan. `actor` is who changed its request last, "" where nobody knows."""
    stages = tuple(_stage(each) for each in plan.stages)
    capabilities = tuple(dict.fromkeys(each for stage in stages for each in stage.capabilities))
    return RunRequestV2(
        schema=SCHEMA,
        version=VERSION,
        request_id=plan.run_id,
        parent_request_id=plan.parent,
        task=Task(id=plan.task_id, title=line(plan.title), tags=tuple(dict.fromkeys(plan.labels))),
        pipeline=RequestedPipeline(
            id=plan.pipeline_id,
            version=plan.pipeline.blob or "unknown",
            title=line(plan.title),
            digest=plan.digest,
            capabilities=capabilities,
            stages=stages,
        ),
        schedule=_placement(plan, stages, capabilities),
        streaming=streaming(),
        constraints=Constraints(
            privacy_level=privacy_level, policy_version=plan.commit, redaction=plan.redact.mode, data_residency=None
        ),
        metrics=Measured(interval_s=plan.heartbeat.interval_s, dimensions=DIMENSIONS),
        requested_at=at,
        requested_by=RequestedBy(actor=line(actor, ACTOR_CHARACTERS_MAX) or UNKNOWN_ACTOR, channel=CHANNEL),
        source=Origin(commit=plan.commit, branch=plan.branch, path=plan.request.path, blob=plan.request.blob),
    )


def streaming() -> Streaming:
    """Return how output can be followed: logs grow on disk, and whoever follows one knows where it was."""
    observers = Observers(subscribers_max=SUBSCRIBERS_MAX, backpressure_ms=BACKPRESSURE_MS)
    return Streaming(handles=True, resume_supported=True, observers=observers)


def capabilities_of(stage: PlannedStage) -> tuple[str, ...]:
    """Return what a stage needs of who executes it: its kind, the agent or guardrail it names, a sandbox, an executor
    elsewhere."""
    found = [stage.kind.value]
    if stage.agent is not None:
        found.append(f"agent:{stage.agent.get('use', 'command')}")
    if stage.guard is not None:
        found.append(f"guard:{stage.guard.get('use', 'command')}")
    if stage.sandbox is not None:
        found.append("sandbox")
    if stage.requires_cloud:
        found.append("cloud")
    return tuple(dict.fromkeys(found))


def _stage(stage: PlannedStage) -> RequestedStage:
    return RequestedStage(
        id=stage.id,
        kind=stage.kind.value,
        title=line(stage.title),
        selected=stage.selected,
        optional=stage.allow_failure or stage.when is not None,
        needs=stage.needs,
        capabilities=capabilities_of(stage),
    )


def _placement(plan: Plan, stages: tuple[RequestedStage, ...], capabilities: Iterable[str]) -> Placement:
    """Return how a run is placed: on one instance, its nested runs where they like, and resumed as settings say."""
    children = sum(len(each.children) for each in plan.stages if each.kind == StageKind.PIPELINE)
    counts = {each: sum(each in stage.capabilities for stage in stages) for each in capabilities}
    return Placement(
        strategy="auto",
        instances_min=1,
        instances_max=1 + children,
        fan_out=tuple(
            FanOut(capability=each, weight=float(count), concurrency_max=min(plan.stages_max, count))
            for each, count in counts.items()
        ),
        recovery=Recovery(
            heartbeat_interval_s=plan.heartbeat.interval_s,
            heartbeat_timeout_s=plan.heartbeat.stale_after_s,
            retries_max=plan.attempts_max - 1,
        ),
    )


def line(text: str, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """Return text on one line, bounded; what cannot be shown is left out."""
    words = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return words[:characters_max]
