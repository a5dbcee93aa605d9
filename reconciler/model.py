"""The nouns: every value that travels between modules.

Frozen dataclasses whose field names are the keys of the JSON or YAML they come from (a duration key `timeout`
becomes `timeout_s`, a size key becomes `..._bytes`), and enums whose values are the words in the files.
`schemas/*.json` is the contract outside, these classes are the contract inside;
`tests/unit/test_contracts_fields.py` fails when a field exists in one only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from datetime import tzinfo
from enum import StrEnum
from typing import NewType, Protocol

from reconciler.places import Executor, Placement, Quotas, Recovery, Resources, Sighting, Where
from reconciler.values import frozen

Name = NewType("Name", str)
RunId = NewType("RunId", str)
TaskId = NewType("TaskId", str)
PipelineId = NewType("PipelineId", str)
StageId = NewType("StageId", str)
HostId = NewType("HostId", str)

Scalar = str | int | float | bool


class Phase(StrEnum):
    """What a run is doing at an instant, judged by `phases.phase`."""

    ABSENT = "absent"
    STARTING = "starting"
    RUNNING = "running"
    STALE = "stale"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Status(StrEnum):
    """What a manifest says of its run."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    WAITING = "waiting"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self in (Status.SUCCEEDED, Status.FAILED, Status.CANCELLED)


class StageStatus(StrEnum):
    """What an attempt record and a manifest say of one stage."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"
    WAITING = "waiting"


class Outcome(StrEnum):
    """How an attempt ended. `interrupted` and `waiting` are no end of the run: a next attempt goes on, at once or when
    what it waits for has come."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    WAITING = "waiting"


class Workspace(StrEnum):
    WORKTREE = "worktree"
    CHECKOUT = "checkout"
    EMPTY = "empty"


class StageKind(StrEnum):
    COMMAND = "command"
    AGENT = "agent"
    GUARD = "guard"
    PIPELINE = "pipeline"


class Role(StrEnum):
    BUILD = "build"
    TEST = "test"
    REVIEW = "review"


class ApprovalPolicy(StrEnum):
    NEVER = "never"
    ON_REQUEST = "on-request"
    AUTO = "auto"


class ExecutionMode(StrEnum):
    AUTO = "auto"
    MCP = "mcp"
    CLOUD = "cloud"


class Choice(StrEnum):
    """What a decision on a gate says."""

    APPROVE = "approve"
    REJECT = "reject"


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"


# ---------------------------------------------------------------------------------------------- problems


@frozen
class Problem:
    """One thing that is wrong in one file.

    `line` and `column` count from 1, 0 when the whole file is meant; `pointer` is a JSON pointer into the
    document ("" for its root); `rule` is a stable kebab-case id (the SARIF rule id).
    """

    path: str
    reason: str
    rule: str
    cure: str = ""
    line: int = 0
    column: int = 0
    pointer: str = ""
    severity: Severity = Severity.ERROR

    def sentence(self) -> str:
        """Return `path:line:column: reason; cure`, leaving out what is not known."""
        place = f"{self.path}:{self.line}:{self.column}" if self.line else self.path
        return f"{place}: {self.reason}" + (f"; {self.cure}" if self.cure else "")


@frozen
class Rejection:
    """A file that cannot be used, and every reason why. `name` is None when its path gives no name."""

    path: str
    problems: tuple[Problem, ...]
    name: Name | None = None


# ---------------------------------------------------------------------------------------------- requests


@frozen
class Source:
    """Where a value was read: a repo-relative path and the object id of the blob ("" outside git)."""

    path: str
    blob: str = ""


@frozen
class Execution:
    mode: ExecutionMode = ExecutionMode.AUTO
    parallel: bool = False


@frozen
class TaskDemand:
    """What the registry of tasks says about where the runs of a task are executed."""

    requires_cloud: bool = False
    execution: Execution = Execution()


@frozen
class Concurrency:
    group: str
    on_conflict: str = "queue"


@frozen
class Schedule:
    """When a request fires. `missed` says what becomes of fires that nobody was there for; `until` is a UTC instant."""

    cron: str
    timezone: str = "UTC"
    missed: str = "run_once"
    grace_s: float = 600.0
    until: str | None = None


@frozen
class Occasion:
    """What makes one run of a request that asks for more: the instant it fires at, or its inputs, (path, id)."""

    fired_at: str = ""
    inputs: tuple[tuple[str, str], ...] = ()


@frozen
class Suspend:
    """A request that must not be launched or resumed now. `until` is a UTC instant in ISO 8601."""

    reason: str = ""
    until: str | None = None


@frozen
class Request:
    """A file's wish: one run of one pipeline. Durations are whole or fractional seconds. `plan` is the digest of the
    plan that was reviewed (`reviewed.digest`), None if it names none. `parent` is the run whose stage wishes it, None
    for what a file says itself."""

    name: Name
    source: Source
    task: TaskId
    pipeline: PipelineId
    title: str = ""
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    target: StageId | None = None
    approval_policy: ApprovalPolicy | None = None
    execution: Execution = Execution()
    attempts_max: int | None = None
    timeout_s: float | None = None
    priority: int = 0
    after: tuple[Name, ...] = ()
    concurrency: Concurrency | None = None
    schedule: Schedule | None = None
    on_change: tuple[str, ...] = ()
    suspend: Suspend | None = None
    cancel: str | None = None
    proves: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    resources: Resources = Resources()
    rerun: int = 0
    plan: str | None = None
    parent: RunId | None = None

    @property
    def recurring(self) -> bool:
        """Whether it asks for more than one run as time goes on."""
        return self.schedule is not None or bool(self.on_change)


@frozen
class Approval:
    """The file of a decision on a gate. `plan` is the digest of the plan it is for, None for whichever waits."""

    source: Source
    run: RunId
    stage: StageId
    decision: Choice
    reason: str
    plan: str | None = None


@frozen
class Decision:
    """A decision on a gate, and what git says of it.

    `actor` is the author of the commit that holds it (or the policy that decided by itself, then `commit` is None),
    `at` when that was committed, `signer` who signed it by the allowed signers, None if nobody did.
    """

    stage: StageId
    decision: Choice
    reason: str
    actor: str
    at: str
    commit: str | None = None
    signer: str | None = None
    plan: str | None = None
    policy: str = ""


@frozen
class Gate:
    """A stage that waits for a decision: what is asked, by which policy ("" for the default), since when."""

    stage: StageId
    reason: str
    policy: str
    asked_at: str


# ---------------------------------------------------------------------------------------------- pipelines


@frozen
class Parameter:
    default: Scalar | None = None
    pattern: str | None = None
    description: str = ""


@frozen
class Reuse:
    """What the success of a stage depends on beside its definition: paths (or patterns of them) at the run's commit,
    and variables of the environment, by name."""

    paths: tuple[str, ...] = ()
    env: tuple[str, ...] = ()


@frozen
class Stage:
    """One step of a pipeline as its file says it. Exactly one of command, agent, guard, pipeline is set.

    `needs` is None when the file does not say (then: the stage before it). A `command` that is a string goes
    to `sh -c`; a tuple is an argv. `guard` always names its kind as `use`.
    """

    id: StageId
    title: str = ""
    command: str | tuple[str, ...] | None = None
    agent: Mapping[str, object] | None = None
    guard: Mapping[str, object] | None = None
    pipeline: PipelineId | None = None
    approval: Mapping[str, object] | None = None
    cwd: str = "."
    env: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[StageId, ...] | None = None
    when: str | None = None
    timeout_s: float | None = None
    attempts_max: int = 1
    backoff_s: float = 1.0
    allow_failure: bool = False
    summary_hint: str = ""
    role: Role | None = None
    requires_cloud: bool = False
    capabilities: tuple[str, ...] = ()
    sandbox: Mapping[str, object] | None = None
    finally_: bool = False
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    matrix: Mapping[str, tuple[Scalar, ...]] = field(default_factory=dict)
    reuse: Reuse | None = None

    @property
    def kind(self) -> StageKind:
        if self.agent is not None:
            return StageKind.AGENT
        if self.guard is not None:
            return StageKind.GUARD
        if self.pipeline is not None:
            return StageKind.PIPELINE
        return StageKind.COMMAND


@frozen
class Pipeline:
    id: PipelineId
    source: Source
    stages: tuple[Stage, ...]
    title: str = ""
    description: str = ""
    workspace: Workspace | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    guardrails_required: bool = False


# ---------------------------------------------------------------------------------------------- settings


@frozen
class Heartbeat:
    interval_s: float = 5.0
    stale_after_s: float = 30.0


@frozen
class EvidenceSettings:
    log_bytes_max: int = 64 * 1024


@frozen
class Rule:
    """A secret of one's own: what `pattern` matches within a line, or the group `secret` in it, unless its characters
    carry less than `entropy_min` bits each or one of `allow` matches all of it."""

    id: str
    pattern: str
    entropy_min: float = 0.0
    allow: tuple[str, ...] = ()


@frozen
class Redact:
    """With the mode `enforce` every detection is replaced before the first byte is written, with `shadow` it is only
    counted, with `off` nobody looks. What one of `allow` matches as a whole is no secret."""

    mode: str = "enforce"
    patterns: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    allow: tuple[str, ...] = ()


@frozen
class SandboxSettings:
    """`missing` says what becomes of a stage whose sandbox cannot be had: `refuse` fails it, `record` runs it without
    and says so."""

    missing: str = "refuse"


@frozen
class PublishSettings:
    """`branch` is where `mode: branch` puts evidence; with `direct` it goes onto the branch that is reconciled."""

    mode: str = "direct"
    branch: str = "reconciler/evidence"


@frozen
class ForgeSettings:
    """Where the repository is at its forge, as far as CI and the remote's address do not tell; "" says nothing.

    `token_env` and `proxy_env` name environment variables: settings never hold what is secret.
    """

    kind: str = "auto"
    url: str = ""
    api_url: str = ""
    repository: str = ""
    token_env: str = ""
    proxy_env: str = ""


@frozen
class McpSettings:
    """How requests get into the repository that agents make through `reconciler mcp`: `submit` is `direct`, `branch` or
    `pull_request`; `ask` is the pipeline whose gate a question to a person waits at, None for none."""

    submit: str = "direct"
    ask: PipelineId | None = None


@frozen
class Policy:
    """`approvals.<name>`: where it holds (every rule that is given must match), and what it demands of decisions.

    `approvers` are e-mail addresses with `*`; empty means whoever may commit. `within_s` None means for ever.
    """

    name: str
    pipelines: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    authors: tuple[str, ...] = ()
    approvers: tuple[str, ...] = ()
    approvals_min: int = 1
    within_s: float | None = None
    other_person: bool = False
    signed: bool = False


@frozen
class Trust:
    """Which text is believed: what matches `paths`, and what was last changed by a commit that is signed by one of
    `allowed_signers`, the path of such a file (ssh-keygen(1)) in the repository. Where neither is said, all text is."""

    allowed_signers: str | None = None
    paths: tuple[str, ...] | None = None

    @property
    def judges(self) -> bool:
        """Whether there is text that is not believed."""
        return self.paths is not None or self.allowed_signers is not None


@frozen
class Watch:
    """Code that may not change without its spec: path patterns, and the path of the spec."""

    paths: tuple[str, ...]
    spec: str


@frozen
class SpecSettings:
    """Which files are specs, and how long ago they may have been reviewed."""

    paths: tuple[str, ...] = ("docs/specs/**/*.md", "specs/**/*.md", ".agent/specs/**/*.md")
    age_max_s: float = 30 * 86400.0
    watch: tuple[Watch, ...] = ()


@frozen
class PatternSettings:
    """Where rules about code lie: a folder, from the root."""

    rules: str = "patterns"


@frozen
class GuardSettings:
    """What guardrails know of a repository beside what their stage says."""

    specs: SpecSettings = SpecSettings()
    patterns: PatternSettings = PatternSettings()


@frozen
class AgentSettings:
    """A coding agent that people named: `driver` is how it is driven, `command` the program and its first arguments,
    `config` the agent's own configuration."""

    driver: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None
    config: Mapping[str, object] = field(default_factory=dict)


@frozen
class ExecutorSettings:
    """An executor of every host that shares the repository: how many runs it takes at once on each (None: as many as
    the host), what it offers, and its share among those that fit (None: 1, or 0 where it has an engine).

    `engine` is what executes its runs elsewhere ("" for the host itself), `runs_max` bounds all of those then;
    `options` are for the engine alone. An attempt there clones `url` ("" for the address of the remote, without one
    the repository itself), with `depth` commits of history (0: all), says a word every `beat_s`, is given up when
    none was heard for `silent_max_s`, and hands back `bytes_max` of files at most. The engine is asked every
    `poll_s`. `resources` are those of requests that ask for none. `credential` names the one by which attempts reach
    `url` ("" for what the node has)."""

    runs_max: int | None = None
    capabilities: tuple[str, ...] = ()
    weight: int | None = None
    engine: str = ""
    options: Mapping[str, object] = field(default_factory=dict)
    url: str = ""
    depth: int = 0
    beat_s: float = 30.0
    silent_max_s: float = 3600.0
    poll_s: float = 10.0
    bytes_max: int = 64 * 1024 * 1024
    resources: Resources = Resources()
    credential: str = ""


BUILT_IN = "built-in"
"""How settings and records name the role that is ours."""


@frozen
class RoleSettings:
    """Who takes the roles of a run, each the name of an entry point of the group `reconciler.roles`. `agent` is the
    coding agent that is the reviewer, where the settings name one instead. `timeout_s` bounds what a planner, a tester
    and a reviewer may take."""

    planner: str = BUILT_IN
    builder: str = BUILT_IN
    tester: str = BUILT_IN
    reviewer: str = BUILT_IN
    agent: Mapping[str, object] | None = None
    timeout_s: float = 300.0


@frozen
class ControlSettings:
    """Which control plane is shown each run before it begins, and what its answer counts for. `url` "" means that run
    requests are validated here alone; `credential_env` names the environment variable of the token, unless a
    `credential` is named."""

    mode: str = "off"
    url: str = ""
    credential_env: str = "RECONCILER_CONTROL_TOKEN"
    credential: str = ""
    timeout_s: float = 5.0
    privacy_level: str = "standard"


@frozen
class Otlp:
    """A collector of OpenTelemetry. What is "" or None the standard variables of the environment say; `headers_env`
    names the variable that holds headers."""

    endpoint: str = ""
    protocol: str = "http/protobuf"
    headers_env: str = ""
    timeout_s: float | None = None
    signals: tuple[str, ...] = ("traces", "metrics", "logs")


@frozen
class TelemetrySettings:
    """Where what runs came to is told; None: nowhere."""

    otlp: Otlp | None = None


@frozen
class Settings:
    """`reconciler.yaml`. `branch` None means the branch HEAD names; `runs_max` None twice the cores; `remote` None
    that there is none, whatever is configured. `credentials`, `cloud_sync` and `notifications` are as the file says
    them."""

    branch: str | None = None
    remote: str | None = "origin"
    poll_interval_s: float = 30.0
    lease_s: float = 300.0
    runs_max: int | None = None
    stages_max: int = 4
    attempts_max: int = 3
    heartbeat: Heartbeat = Heartbeat()
    grace_s: float = 10.0
    workspace: Workspace = Workspace.WORKTREE
    keep_workspace: str = "never"
    approval_policy: ApprovalPolicy = ApprovalPolicy.ON_REQUEST
    evidence: EvidenceSettings = EvidenceSettings()
    checklists: tuple[str, ...] = ("tasks/**/*.md", "docs/**/*.md", ".agent/**/*.md")
    redact: Redact = Redact()
    publish: PublishSettings = PublishSettings()
    forge: ForgeSettings = ForgeSettings()
    mcp: McpSettings = McpSettings()
    approvals: tuple[Policy, ...] = ()
    trust: Trust = Trust()
    guards: GuardSettings = GuardSettings()
    sandbox: SandboxSettings = SandboxSettings()
    agents: Mapping[str, AgentSettings] = field(default_factory=dict)
    ageing_s: float = 3600.0
    require_plan: bool = False
    roles: RoleSettings = RoleSettings()
    subscribers: tuple[str, ...] = ()
    credentials: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    cloud_sync: Mapping[str, object] | None = None
    notifications: tuple[Mapping[str, object], ...] = ()

    @property
    def tells_others(self) -> bool:
        """Whether anything leaves the repository; as values it is `outlet_settings.outgoing`."""
        return self.cloud_sync is not None or bool(self.notifications)

    @property
    def withheld(self) -> tuple[str, ...]:
        """The environment variables that hold credentials of the reconciler's own: nothing that executes runs gets
        them."""
        return tuple(sorted(str(each["env"]) for each in self.credentials.values() if "env" in each))

    control_plane: ControlSettings = ControlSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    executors: Mapping[str, ExecutorSettings] = field(default_factory=dict)
    quotas: Quotas = Quotas()


# ---------------------------------------------------------------------------------------------- plans


@frozen
class Child:
    """A run that a stage of another run wishes: its id follows from that run, the stage and its parameters."""

    run_id: RunId
    name: Name
    pipeline: PipelineId
    parameters: Mapping[str, Scalar]


@frozen
class ChildEnd:
    """How a child run ended, as the tip proves it by a manifest."""

    run_id: RunId
    status: Status
    manifest_blob: str


@frozen
class Text:
    """Text that a stage is given and that nobody vouches for: its path, its blob at the run's commit, and the commit
    that changed it last, "" for what nobody has looked up or a shallow clone does not know."""

    path: str
    blob: str = ""
    commit: str = ""


@frozen
class Cited:
    """The success of a stage of an earlier run, as committed evidence holds it."""

    run_id: RunId
    stage: StageId
    manifest_path: str
    manifest_sha256: str


@frozen
class PlannedStage:
    """A stage with every default filled in. `digest` is the SHA-256 of what it executes and of what it needs.

    `selected` is False for a stage the run's target does not need or the planner left out; it is never run. `mode` is
    where it wants to be executed: `cloud` makes the whole run one for an executor. `untrusted` is the text it is given
    and that is not believed: all of it, until somebody has looked whose it is. `reuse_key` is the SHA-256 of all that
    its success depends on ("" where that is not said), `cited` an earlier success with this key, which stands for its.
    """

    index: int
    id: StageId
    title: str
    kind: StageKind
    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]
    needs: tuple[StageId, ...]
    timeout_s: float | None
    attempts_max: int
    backoff_s: float
    allow_failure: bool
    summary_hint: str
    role: Role | None
    selected: bool
    digest: str
    agent: Mapping[str, object] | None = None
    guard: Mapping[str, object] | None = None
    pipeline: PipelineId | None = None
    approval: Mapping[str, object] | None = None
    when: str | None = None
    requires_cloud: bool = False
    sandbox: Mapping[str, object] | None = None
    finally_: bool = False
    children: tuple[Child, ...] = ()
    mode: ExecutionMode = ExecutionMode.MCP
    untrusted: tuple[Text, ...] = ()
    reuse: Reuse | None = None
    reuse_key: str = ""
    cited: Cited | None = None


@frozen
class Instructions:
    """The instruction files of the commit, in order, and the SHA-256 over their paths and bytes."""

    hash: str | None = None
    sources: tuple[str, ...] = ()


@frozen
class PlannedRoles:
    """Who takes the roles of one run. `answer` is what a planner said that is not ours, as it said it; `judges` are the
    tester and the reviewer where they are processes of their own, each as the stage it is executed as."""

    planner: str = BUILT_IN
    builder: str = BUILT_IN
    tester: str = BUILT_IN
    reviewer: str = BUILT_IN
    answer: Mapping[str, object] | None = None
    judges: tuple[PlannedStage, ...] = ()


@frozen
class ControlError:
    """One thing that is wrong in a run request: a JSON pointer into it, and a sentence."""

    path: str
    message: str


@frozen
class Expected:
    """What a control plane expects the manifest of a run to say; None where it expects nothing. `stages` holds the
    status that stages end with, by id."""

    task_id: str | None = None
    pipeline_id: str | None = None
    commit: str | None = None
    plan_digest: str | None = None
    redaction: str | None = None
    attempts_max: int | None = None
    stages: Mapping[str, str] = field(default_factory=dict)


@frozen
class ControlVerdict:
    """What a control plane said of a run before it began. `outcome` is `valid`, `invalid`, or `unreachable` where there
    was no answer that can be used, and then `reason` says why."""

    mode: str
    outcome: str
    at: str
    request_id: str
    remote_id: str | None = None
    reason: str = ""
    errors: tuple[ControlError, ...] = ()
    expected: Expected | None = None


@frozen
class Plan:
    """A request and a pipeline at one commit, resolved: all a worker needs, frozen in `plan.json`.

    `resume_token_sha256` is the digest of the token in `.resume-token`; `digest` covers the stages, the
    workspace and the parameters, so two plans with one digest execute the same thing. `group` is the concurrency
    group it was launched in, `fired_at` the fire of a schedule it was launched for, "" for none; `control` what the
    control plane said, None where none was asked. `capabilities` are all
    that its request and its stages need.
    """

    run_id: RunId
    name: Name
    task_id: TaskId
    pipeline_id: PipelineId
    title: str
    request: Source
    pipeline: Source
    commit: str
    branch: str
    parameters: Mapping[str, Scalar]
    target: StageId | None
    execution_mode: ExecutionMode
    approval_policy: ApprovalPolicy
    workspace: Workspace
    keep_workspace: str
    attempts_max: int
    timeout_s: float | None
    stages_max: int
    heartbeat: Heartbeat
    grace_s: float
    log_bytes_max: int
    redact: Redact
    proves: tuple[str, ...]
    labels: tuple[str, ...]
    rerun: int
    instructions: Instructions
    stages: tuple[PlannedStage, ...]
    digest: str
    guardrails_required: bool = False
    resume_token_sha256: str = ""
    parent: RunId | None = None
    sandbox_missing: str = "refuse"
    group: str = ""
    fired_at: str = ""
    roles: PlannedRoles = PlannedRoles()
    control: ControlVerdict | None = None
    traced: bool = False
    capabilities: tuple[str, ...] = ()
    resources: Resources = Resources()
    only_here: bool = False

    @property
    def where(self) -> Where:
        """Where it may be executed; the checkout of this host is nowhere else."""
        if self.execution_mode == ExecutionMode.CLOUD:
            return Where.CLOUD
        return Where.HERE if self.only_here or self.workspace == Workspace.CHECKOUT else Where.ANYWHERE


# ---------------------------------------------------------------------------------------------- runs


@frozen
class Instant:
    """One moment on one machine: wall clock for people, monotonic seconds for decisions, and the boot they
    belong to (monotonic values of two boots must never be compared)."""

    at: str
    monotonic_s: float
    boot_id: str


@frozen
class Process:
    """A process that can be told from a later one with the same pid (start time in clock ticks since boot)."""

    pid: int
    start_ticks: int
    boot_id: str


@frozen
class Host:
    name: str
    system: str
    machine: str
    python: str
    cpus: int


@frozen
class Claim:
    """Intent to execute attempt `number`, on disk before the worker exists.

    `series` is the number of the first attempt since a person last asked (launch or `resume`); the bound
    `attempts_max` counts from there. `plan` is the file of the frozen plan this attempt executes. Successes of
    attempts before `keeps_from` do not count. `host` is who executes it, "" where no remote is shared. `decisions` are
    those on gates that have opened or closed them, `children` the ends of nested runs. `placement` says where it is
    executed and why there, `recovery` what became of the attempt before, where that was lost.
    """

    number: int
    series: int
    claimed: Instant
    claimer: Process
    reason: str
    actor: str
    plan: str
    plan_digest: str
    commit: str
    keeps_from: int = 1
    host: str = ""
    decisions: tuple[Decision, ...] = ()
    children: tuple[ChildEnd, ...] = ()
    placement: Placement | None = None
    recovery: Recovery | None = None


@frozen
class StageRecord:
    """What happened to one stage in one attempt. `tries` counts executions within the attempt.

    `log_bytes` and `log_sha256` are of the whole redacted output, even where the file keeps less of it;
    `memory_peak_bytes` is the largest resident set of any one of its processes. `answer` is what a stage that is no
    command said of itself (`order.Answer`), None before; `sandbox` is what was enforced of the sandbox it asked for.
    `untrusted`, `reuse_key` and `cited` are what the plan said of the stage when it was started.
    """

    id: StageId
    digest: str
    status: StageStatus
    attempt: int
    tries: int = 0
    started_at: str | None = None
    completed_at: str | None = None
    duration_s: float | None = None
    exit_code: int | None = None
    signal: str | None = None
    timed_out: bool = False
    summary: str = ""
    log_path: str | None = None
    log_bytes: int = 0
    log_sha256: str | None = None
    redactions: int = 0
    redactions_by_rule: Mapping[str, int] = field(default_factory=dict)
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    memory_peak_bytes: int = 0
    process: Process | None = None
    answer: Mapping[str, object] | None = None
    gate: Gate | None = None
    decisions: tuple[Decision, ...] = ()
    waits_for: tuple[RunId, ...] = ()
    children: tuple[ChildEnd, ...] = ()
    sandbox: Mapping[str, object] | None = None
    untrusted: tuple[Text, ...] = ()
    reuse_key: str = ""
    cited: Cited | None = None


@frozen
class Tested:
    """The tester's verdict: `passed`, `failed`, or `none` where nothing was to be tested. `reasons` say what failed,
    `by` who says it."""

    status: str
    reasons: tuple[str, ...] = ()
    by: str = BUILT_IN


@frozen
class Reviewed:
    """The reviewer's decision: `approve`, `reject` or `escalate`, why in one line, and who says it."""

    decision: str
    reason: str
    by: str = BUILT_IN


@frozen
class Judgement:
    """What the tester and the reviewer said of an attempt that came to its end by itself. `records` are those of the
    processes that said it, where they are not ours."""

    tested: Tested
    reviewed: Reviewed
    records: tuple[StageRecord, ...] = ()


@frozen
class Attempt:
    """`attempts/<n>.json`: one execution of a run, written only by its worker. `judgement` is there once it has come to
    its end by itself and waits for nothing. `place` is the run directory as its worker saw it (`Disk.identity`): in a
    copy of that directory the processes that are named here are not those of this record."""

    number: int
    worker: Process
    host: Host
    started: Instant
    stages: tuple[StageRecord, ...]
    elapsed_s: float = 0.0
    ended_at: str | None = None
    outcome: Outcome | None = None
    detail: str = ""
    judgement: Judgement | None = None
    place: str = ""


@frozen
class CancelIntent:
    """`cancels/<n>.json`: attempt n shall be ended, and why. `actor` is empty where a request or an edit says so."""

    number: int
    at: str
    actor: str
    reason: str

    def sentence(self) -> str:
        return f"{self.reason} (asked by {self.actor})" if self.actor else self.reason


@frozen
class End:
    """`ends/<n>.json`: attempt n ended and no worker could say so itself. Unless `outcome` is interrupted, the run
    ended with it."""

    number: int
    at: str
    outcome: Outcome
    detail: str


@frozen
class Refusal:
    """`refusals/<n>.json`: a resume that was asked for and not done."""

    number: int
    at: str
    actor: str
    reason: str
    detail: str


@frozen
class Afar:
    """What is known of an attempt that an engine executes. `sighting` is what the engine said last, None where nobody
    could ask it yet; `submitted` is whether it has taken the attempt. `is_final` says that the engine has ended it and
    that no word of it can be on its way any more. `silent_s` is for how long nothing new was heard of it by git, and
    `silent_max_s` from when on that counts; `turned` says why the engine will never take it, "" if it may; `alien` that
    what is known of it was lost with the host that made its order; `unread` that a word of it is there which nobody
    here can read. `given_up_s` is for how long it was silent when it was told to end for that, None if it never was."""

    sighting: Sighting | None = None
    submitted: bool = False
    is_final: bool = False
    silent_s: float = 0.0
    silent_max_s: float = float("inf")
    turned: str = ""
    alien: bool = False
    unread: bool = False
    given_up_s: float | None = None


@frozen
class Run:
    """A run as it was observed on this machine at one instant; every field is a fact, none a judgement.

    `number` is that of the newest claim, and all the rest speaks of that attempt; `planned` is False when its frozen
    plan cannot be read; `beat` is the newest heartbeat as an instant
    on this machine, None before the first. `corrupt` lists record files that could not be read. `afar` is what is known
    of the attempt where an engine executes it, None where this machine does.
    """

    run_id: RunId
    task_id: TaskId
    name: Name
    attempts_max: int
    heartbeat: Heartbeat
    number: int
    claim: Claim | None
    attempt: Attempt | None
    beat: Instant | None
    lock_held: bool
    claimer_alive: bool
    worker_alive: bool
    planned: bool = True
    cancel: CancelIntent | None = None
    end: End | None = None
    corrupt: tuple[Problem, ...] = ()
    parent: RunId | None = None
    group: str = ""
    fired_at: str = ""
    labels: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    where: Where = Where.ANYWHERE
    afar: Afar | None = None

    @property
    def is_afar(self) -> bool:
        """Whether an engine executes the newest attempt."""
        return self.claim is not None and self.claim.placement is not None and bool(self.claim.placement.handle)


@frozen
class Waiting:
    """What evidence says of a run that waits for decisions: at which gates, on which plan, made from which commit."""

    plan_digest: str
    commit: str
    gates: tuple[Gate, ...]


@frozen
class Evidence:
    """A run as the tip of the branch proves it: ended, or `waiting` for decisions. `reusable` are the stages that were
    executed in it and succeeded, by reuse key; `cited` is of how many stages it cites an earlier success instead.
    `pull_request` is the branch that one of what it delivered is wanted into, "" for none."""

    run_id: RunId
    task_id: TaskId
    name: Name
    status: Status
    attempt: int
    completed_at: str
    duration_s: float
    manifest_blob: str
    waiting: Waiting | None = None
    reusable: Mapping[str, StageId] = field(default_factory=dict)
    cited: int = 0
    pull_request: str = ""


@frozen
class SharedClaim:
    """What the ref of a run at the remote says: which host executes it, and the claims of its attempts so far.

    It names a commit and never says what to execute: whoever takes over makes the plan anew from that commit, so
    that a right to write refs is no right to run commands. `nonce` makes every one unmistakable. `group` is the
    concurrency group the run takes up, which every host must know, whatever becomes of its request; `fired_at` the fire
    of a schedule it was launched for, from which with the request its id follows.
    """

    run_id: RunId
    task_id: TaskId
    host: HostId
    claims: tuple[Claim, ...]
    nonce: str
    group: str = ""
    fired_at: str = ""

    @property
    def number(self) -> int:
        """The number of the newest attempt, 0 if the ref could not be read."""
        return self.claims[-1].number if self.claims else 0


@frozen
class Announcement:
    """What the ref of a host at the remote says: I live, and these runs are mine, by number of attempt.

    A host that announces nothing new for `lease_s` has lost its runs; it ends them itself before that.
    """

    host: HostId
    name: str
    at: str
    lease_s: float
    runs: Mapping[RunId, int]
    nonce: str


@frozen
class Held:
    """A shared claim as this machine sees it.

    `silent_s` is for how long nothing new was heard of its host about it, by this machine's monotonic clock between
    answers of the remote; timestamps of other machines are never compared. `plan` is what a takeover would execute,
    None where that was not asked or cannot be known any more.
    """

    claim: SharedClaim
    oid: str
    ours: bool
    host_name: str
    silent_s: float
    lease_s: float
    plan: Plan | Rejection | None = None

    @property
    def silent(self) -> bool:
        return not self.ours and self.silent_s > self.lease_s


@frozen
class Neighbour:
    """Another host's announcement as this machine sees it."""

    oid: str
    silent_s: float
    lease_s: float


@frozen
class Link:
    """What proves a checklist item: a run, and the repo-relative path of its manifest."""

    run_id: str
    manifest_path: str


@frozen
class Arrival:
    """When a request came to the branch, or was changed there last. `number` orders arrivals by commits, 0 for those
    before all that is known; `at_s` is the time its committer saw, in seconds since 1970, None where it is unknown."""

    number: int = 0
    at_s: int | None = None


@frozen
class Wish:
    """A valid request that the tip does not prove fulfilled, with the plan a launch would freeze.

    `plan` is a Rejection when request and pipeline do not fit together; it then prevents a launch, not the
    resume of a plan that is already frozen. `arrival` is looked up only where an order is asked for. `due_at` is the
    UTC instant before which it is not to be launched, "" for none.
    """

    request: Request
    run_id: RunId
    plan: Plan | Rejection
    arrival: Arrival = Arrival()
    due_at: str = ""


@frozen
class Limits:
    """Bounds a pass obeys. `publish_due` is False while ended runs may still be gathered into one commit; `online`
    is False while the remote cannot be asked; `host` is this one where several share the work; `ageing_s` is how long
    a request waits for one more point of priority. `executors` are those here, none for one that takes anything."""

    runs_max: int
    publish_due: bool = True
    online: bool = True
    host: HostId | None = None
    ageing_s: float = 3600.0
    executors: tuple[Executor, ...] = ()
    quotas: Quotas = Quotas()


def name_of_run(run_id: str) -> Name:
    """Return the request's name in `<name>-<8 hex>`: known even where the plan is lost."""
    return Name(run_id[:-9])


CLAIMS = "refs/reconciler/claims/"
HOSTS = "refs/reconciler/hosts/"


def claim_ref(run_id: str) -> str:
    """Return the ref at the remote that says who executes a run."""
    return f"{CLAIMS}{run_id}"


def host_ref(host: str) -> str:
    """Return the ref at the remote by which a host says that it lives."""
    return f"{HOSTS}{host}"


# ---------------------------------------------------------------------------------------------- contracts


@frozen
class Violation:
    """One way in which a value breaks its schema. `path` leads from the root to the key or item that is meant."""

    path: tuple[str | int, ...]
    reason: str
    cure: str
    rule: str


class Contract(Protocol):
    """What parsing needs of the schemas, so that it need not read them itself."""

    def check(self, name: str, value: object) -> tuple[Violation, ...]:
        """Return every way in which `value` breaks the schema `name`; none means it keeps it."""
        ...

    def zone(self, name: str) -> tzinfo | None:
        """Return a time zone of the IANA database, None if there is none of that name."""
        ...
