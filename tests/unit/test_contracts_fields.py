"""The contract outside and the contract inside are one: no field, word or key exists in a schema or in a class only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry

from reconciler import aggregate, drift, manifest, parse, patterns, places
from reconciler.agent import Agent, Budget, Demand
from reconciler.contracts import Contracts
from reconciler.control.asking import Answer
from reconciler.control.request import (
    Constraints,
    FanOut,
    Measured,
    Observers,
    Origin,
    Placement,
    Recovery,
    RequestedBy,
    RequestedPipeline,
    RequestedStage,
    RunRequestV2,
    Streaming,
    Task,
)
from reconciler.forges.forge import Kind, PullRequest, Site, Wanted
from reconciler.model import (
    AgentSettings,
    Approval,
    ApprovalPolicy,
    Attempt,
    Claim,
    Concurrency,
    ControlError,
    ControlSettings,
    ControlVerdict,
    End,
    EvidenceSettings,
    Execution,
    ExecutionMode,
    ExecutorSettings,
    Expected,
    ForgeSettings,
    GuardSettings,
    Heartbeat,
    Host,
    Instant,
    McpSettings,
    Name,
    Otlp,
    Outcome,
    Parameter,
    PatternSettings,
    Pipeline,
    PipelineId,
    Plan,
    Policy,
    Problem,
    Process,
    PublishSettings,
    Redact,
    Refusal,
    Rejection,
    Request,
    Reuse,
    Role,
    RoleSettings,
    Rule,
    RunId,
    SandboxSettings,
    Schedule,
    Settings,
    Severity,
    Source,
    SpecSettings,
    Stage,
    StageId,
    StageKind,
    StageRecord,
    StageStatus,
    Status,
    Suspend,
    TaskId,
    TelemetrySettings,
    Trust,
    Watch,
    Workspace,
)
from reconciler.outgoing import (
    CloudSync,
    Credential,
    Desktop,
    Email,
    KeyringEntry,
    Notification,
    Slack,
    To,
    Webhook,
    When,
)
from reconciler.places import Cause, Quotas, Resources
from reconciler.power import Power
from reconciler.preview import Coming, Doing, Effect, Preview, Touched, Verdict
from reconciler.preview_gates import Asked, Judged
from reconciler.pulls import receipt
from reconciler.resolve import Place, resolve
from reconciler.scenarios import Expect, File, Fixture, Scenario
from reconciler.settings import parse_settings

SCHEMAS: dict[str, dict[str, Any]] = {
    path.name.removesuffix(".schema.json"): json.loads(path.read_bytes())
    for path in (Path(__file__).resolve().parents[2] / "schemas").glob("*.schema.json")
}


def at(name: str, pointer: str) -> dict[str, Any]:
    """Return the part of a schema that a pointer leads to, references followed."""
    schema = SCHEMAS[name]
    for each in filter(None, pointer.split("/")):
        schema = resolved(name, schema)[each]
    return resolved(name, schema)


def resolved(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return SCHEMAS[name]["$defs"][reference.removeprefix("#/$defs/")] if reference else schema


# ------------------------------------------------------------------------------------------------ fields

FIELDS: list[tuple[str, str, type, set[str]]] = [
    ("request", "", Request, {"name", "source", "parent"}),
    ("request", "properties/execution", Execution, set()),
    ("request", "properties/concurrency", Concurrency, set()),
    ("request", "$defs/resources", Resources, set()),
    ("settings", "$defs/resources", Resources, set()),
    ("request", "properties/schedule", Schedule, set()),
    ("request", "properties/suspend", Suspend, set()),
    ("approval", "", Approval, {"source"}),
    ("pipeline", "", Pipeline, {"id", "source"}),
    ("pipeline", "$defs/stage", Stage, set()),
    ("pipeline", "$defs/stage/properties/reuse", Reuse, set()),
    ("pipeline", "properties/parameters/additionalProperties", Parameter, set()),
    ("settings", "", Settings, set()),
    ("settings", "properties/heartbeat", Heartbeat, set()),
    ("settings", "properties/evidence", EvidenceSettings, set()),
    ("settings", "properties/redact", Redact, set()),
    ("settings", "properties/redact/properties/rules/items", Rule, set()),
    ("settings", "properties/telemetry", TelemetrySettings, set()),
    ("settings", "properties/telemetry/properties/otlp", Otlp, set()),
    ("settings", "properties/publish", PublishSettings, set()),
    ("settings", "properties/forge", ForgeSettings, set()),
    ("settings", "properties/mcp", McpSettings, set()),
    ("settings", "$defs/policy", Policy, {"name"}),
    ("settings", "properties/trust", Trust, set()),
    ("settings", "properties/guards", GuardSettings, set()),
    ("settings", "properties/guards/properties/specs", SpecSettings, set()),
    ("settings", "properties/guards/properties/patterns", PatternSettings, set()),
    ("pattern", "", patterns.Rule, {"id"}),
    ("eval", "", Scenario, {"source"}),
    ("eval", "properties/fixture", Fixture, set()),
    ("eval", "properties/expect", Expect, set()),
    ("eval", "$defs/file", File, set()),
    ("settings", "properties/guards/properties/specs/properties/watch/items", Watch, set()),
    ("settings", "properties/sandbox", SandboxSettings, set()),
    ("settings", "properties/control_plane", ControlSettings, set()),
    ("plan-preview", "", Preview, set()),
    ("plan-preview", "$defs/power", Power, set()),
    ("plan-preview", "$defs/request", Touched, set()),
    ("plan-preview", "$defs/run", Coming, set()),
    ("plan-preview", "$defs/doing", Doing, set()),
    ("plan-preview", "$defs/gate", Asked, set()),
    ("plan-preview", "$defs/decision", Judged, set()),
    ("plan-preview", "$defs/problem", Problem, set()),
    ("settings", "properties/agents/additionalProperties", AgentSettings, set()),
    ("settings", "properties/roles", RoleSettings, {"agent"}),
    ("settings", "$defs/credential", Credential, set()),
    ("settings", "$defs/credential/properties/keyring", KeyringEntry, set()),
    ("settings", "properties/cloud_sync", CloudSync, set()),
    ("settings", "$defs/notification", Notification, set()),
    ("settings", "$defs/notification/properties/to", To, set()),
    ("settings", "$defs/notification/properties/to/properties/webhook", Webhook, set()),
    ("settings", "$defs/notification/properties/to/properties/slack", Slack, set()),
    ("settings", "$defs/notification/properties/to/properties/email", Email, set()),
    ("settings", "$defs/notification/properties/to/properties/desktop", Desktop, set()),
    ("settings", "$defs/notification/properties/when", When, set()),
    ("settings", "properties/executors/additionalProperties", ExecutorSettings, set()),
    ("settings", "properties/quotas", Quotas, set()),
    (
        "settings",
        "$defs/reviewing_agent",
        Agent,
        {"driver", "config", "output_schema", "demand", "deliver", "resume"},
    ),
    ("settings", "$defs/reviewing_agent/properties/budget", Budget, set()),
    ("pipeline", "$defs/agent", Agent, {"driver", "config"}),
    ("pipeline", "$defs/agent/properties/budget", Budget, set()),
    ("pipeline", "$defs/agent/properties/demand", Demand, set()),
    ("manifest", "properties/request", Source, set()),
    ("manifest", "properties/pipeline", Source, set()),
    ("manifest", "properties/host", Host, set()),
    ("manifest", "properties/control_plane", ControlVerdict, set()),
    ("manifest", "$defs/control_error", ControlError, set()),
    ("manifest", "$defs/control_expected", Expected, set()),
    ("control-answer", "", Answer, set()),
    ("control-answer", "$defs/error", ControlError, set()),
    ("control-answer", "$defs/expected", Expected, set()),
    ("drift", "properties/samples", drift.Counts, set()),
    ("drift", "$defs/sample", drift.Sample, set()),
    ("run-request-v2", "", RunRequestV2, set()),
    ("run-request-v2", "properties/task", Task, set()),
    ("run-request-v2", "properties/pipeline", RequestedPipeline, set()),
    ("run-request-v2", "properties/schedule", Placement, set()),
    ("run-request-v2", "properties/schedule/properties/recovery", Recovery, set()),
    ("run-request-v2", "properties/streaming", Streaming, set()),
    ("run-request-v2", "properties/streaming/properties/observers", Observers, set()),
    ("run-request-v2", "properties/constraints", Constraints, set()),
    ("run-request-v2", "properties/metrics", Measured, set()),
    ("run-request-v2", "properties/requested_by", RequestedBy, set()),
    ("run-request-v2", "properties/source", Origin, set()),
    ("run-request-v2", "$defs/stage", RequestedStage, set()),
    ("run-request-v2", "$defs/fan_out", FanOut, set()),
    ("manifest", "$defs/attempt/properties/placement", places.Placement, set()),
]


@pytest.mark.parametrize(("name", "pointer", "kind", "not_in_the_file"), FIELDS)
def test_a_field_exists_in_both(name: str, pointer: str, kind: type, not_in_the_file: set[str]) -> None:
    # What programs exchange says its units in its keys; what people write says them in its values.
    in_seconds = name == "run-request-v2"
    inside = {
        (each.name if in_seconds else each.name.removesuffix("_s").removesuffix("_bytes")).rstrip("_")
        for each in fields(kind)  # type: ignore[arg-type]
    } - not_in_the_file
    assert inside == set(at(name, pointer)["properties"])


def _objects(schema: dict[str, Any], pointer: str = "") -> Iterator[str]:
    """Yield where a schema describes an object with keys of its own."""
    if "properties" in schema:
        yield pointer
    for keyword in ("properties", "$defs"):
        for key, each in schema.get(keyword, {}).items():
            yield from _objects(each, f"{pointer}/{keyword}/{key}")
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from _objects(schema[keyword], f"{pointer}/{keyword}")


@pytest.mark.parametrize("name", ["request", "approval", "pipeline", "settings"])
def test_every_object_of_a_format_that_people_write_has_a_class(name: str) -> None:
    opaque = {
        "$defs/guard",
        "$defs/sandbox",
        "$defs/stage/properties/approval",
        "properties/roles/properties/reviewer",
    }
    known = {pointer for schema, pointer, *_ in FIELDS if schema == name}
    assert {each.removeprefix("/") for each in _objects(SCHEMAS[name])} - opaque == known


# ------------------------------------------------------------------------------------------------ words

ENDED = {each for each in Status if each.ended}
ENUMS: list[tuple[str, str, set[str | None]]] = [
    ("request", "properties/approval_policy", set(ApprovalPolicy)),
    ("request", "properties/execution/properties/mode", set(ExecutionMode)),
    ("pipeline", "properties/workspace", set(Workspace)),
    ("pipeline", "$defs/stage/properties/role", set(Role)),
    ("settings", "properties/workspace", set(Workspace)),
    ("settings", "properties/approval_policy", set(ApprovalPolicy)),
    ("manifest", "properties/status", set(Status)),
    ("manifest", "properties/approval_policy", set(ApprovalPolicy)),
    ("manifest", "properties/execution_mode", set(ExecutionMode)),
    ("manifest", "properties/workspace", set(Workspace)),
    ("manifest", "$defs/command/properties/kind", set(StageKind)),
    ("manifest", "$defs/command/properties/status", set(StageStatus)),
    ("manifest", "$defs/command/properties/role", {*Role, None}),
    ("manifest", "$defs/attempt/properties/outcome", {*Outcome, "lost", None}),
    ("manifest", "$defs/recovery/properties/cause", set(Cause)),
    ("run-summary", "properties/status", {*ENDED, Status.WAITING}),
    ("run-summary", "properties/build/properties/status", {*ENDED, Status.WAITING}),
    ("run-summary", "$defs/stage/properties/status", set(StageStatus)),
    ("metrics", "properties/last_status", ENDED),
    ("metrics", "$defs/pipeline/properties/last_status", ENDED),
    ("state", "properties/status", set(Status)),
    ("state", "$defs/run/properties/status", set(Status)),
    ("task-index", "$defs/item/properties/gate/properties/status", ENDED),
    ("plan-preview", "properties/verdict", set(Verdict)),
    ("plan-preview", "$defs/request/properties/effect", set(Effect)),
    ("plan-preview", "$defs/problem/properties/severity", set(Severity)),
]


@pytest.mark.parametrize(("name", "pointer", "words"), ENUMS)
def test_a_word_exists_in_both(name: str, pointer: str, words: set[str | None]) -> None:
    inside = {each.value if isinstance(each, StrEnum) else each for each in words}
    assert set(at(name, pointer)["enum"]) == inside


def test_what_the_privacy_mode_of_a_manifest_can_be_is_what_settings_can_say() -> None:
    inside = at("settings", "properties/redact/properties/mode")["enum"]
    assert at("manifest", "properties/privacy/properties/mode")["enum"] == inside


def test_severities_are_the_words_of_the_report_for_scanners() -> None:
    assert {each.value for each in Severity} <= {"none", "note", "warning", "error"}


# ------------------------------------------------------------------------------------------------ defaults


def defaults(name: str, pointer: str = "") -> dict[str, Any]:
    return {
        key: resolved(name, each).get("default", each.get("default"))
        for key, each in at(name, pointer)["properties"].items()
        if "default" in each or "default" in resolved(name, each)
    }


def parsed(name: str, document: Mapping[str, Any]) -> Any:
    data, contracts = json.dumps(document).encode(), Contracts()
    if name == "settings":
        value = parse_settings(data, Source(path="reconciler.yaml"), contracts)
    elif name == "request":
        value = parse.parse_request(data, Source(path="runs.d/a.yaml"), contracts)
    else:
        value = parse.parse_pipeline(data, Source(path="pipelines/p.yaml"), contracts)
    assert not isinstance(value, Rejection), value
    return value


NOT_AVAILABLE: set[str] = set()
MINIMAL: dict[str, dict[str, Any]] = {
    "settings": {},
    "request": {"task": "t", "pipeline": "p"},
    "pipeline": {"stages": [{"id": "a", "command": "x"}]},
}


@pytest.mark.parametrize("name", MINIMAL)
def test_to_spell_a_default_out_changes_nothing(name: str) -> None:
    spelled = {key: value for key, value in defaults(name).items() if key not in NOT_AVAILABLE}
    assert spelled
    assert parsed(name, MINIMAL[name] | spelled) == parsed(name, MINIMAL[name])


def test_to_spell_the_defaults_of_a_stage_out_changes_nothing() -> None:
    [plain] = MINIMAL["pipeline"]["stages"]
    spelled = {"stages": [plain | defaults("pipeline", "$defs/stage")]}
    assert parsed("pipeline", spelled) == parsed("pipeline", MINIMAL["pipeline"])


# ------------------------------------------------------------------------------------------------ documents

NOW = "2026-03-01T12:00:00.000Z"
MOMENT = Instant(at=NOW, monotonic_s=1.0, boot_id="boot")
PROCESS = Process(pid=2, start_ticks=3, boot_id="boot")
HOST = Host(name="build-1", system="Linux 6.1", machine="x86_64", python="3.12.1", cpus=4)


def plan_of(stages: int = 3, target: str | None = None) -> Plan:
    request = Request(
        name=Name("0001-a"),
        source=Source(path="runs.d/0001-a.yaml", blob="b" * 40),
        task=TaskId("t"),
        pipeline=PipelineId("p"),
        parameters={"python": "3.12", "deep": True, "count": 3, "share": 0.5},
        target=StageId(target) if target else None,
        labels=("nightly",),
        proves=("t/green",),
    )
    pipeline = Pipeline(
        id=PipelineId("p"),
        source=Source(path="pipelines/p.yaml", blob="a" * 40),
        parameters={each: Parameter(default="") for each in request.parameters},
        stages=tuple(
            Stage(id=StageId(f"s{number}"), command="x" * 3000, role=Role.TEST if number % 2 else None)
            for number in range(stages)
        ),
    )
    plan = resolve(request, {pipeline.id: pipeline}, Settings(), Place(commit="c" * 40, branch="main"))
    assert isinstance(plan, Plan)
    return replace(plan, resume_token_sha256="e" * 64)


def record(plan: Plan, index: int, status: StageStatus) -> StageRecord:
    stage = plan.stages[index]
    return StageRecord(
        id=stage.id,
        digest=stage.digest,
        status=status,
        attempt=1,
        tries=1,
        started_at=NOW,
        completed_at=NOW,
        duration_s=0.5,
        exit_code=None if status == StageStatus.INTERRUPTED else 1,
        signal="SIGKILL" if status == StageStatus.INTERRUPTED else None,
        summary="s" * 200,
        log_path=manifest.log_name(index, stage.id, 1),
        log_bytes=1,
        log_sha256="f" * 64,
        redactions=1,
        redactions_by_rule={"acme": 1},
        cpu_user_s=0.1,
        memory_peak_bytes=1,
        process=PROCESS,
        sandbox={"enforced": ["environment"], "unenforced": ["filesystem", "network"], "reason": "r" * 1000},
    )


def attempt_of(plan: Plan, number: int, status: StageStatus, outcome: Outcome | None) -> Attempt:
    return Attempt(
        number=number,
        worker=PROCESS,
        host=HOST,
        started=MOMENT,
        stages=tuple(record(plan, index, status) for index in range(len(plan.stages))),
        elapsed_s=1.5,
        ended_at=NOW if outcome else None,
        outcome=outcome,
        detail="d" * 600,
    )


def claim_of(plan: Plan, number: int) -> Claim:
    return Claim(
        number=number,
        series=1,
        claimed=MOMENT,
        claimer=PROCESS,
        reason="r" * 600,
        actor="Ann <ann@example.invalid>",
        plan="plan.json",
        plan_digest=plan.digest,
        commit=plan.commit,
    )


def records_of(
    *outcomes: Outcome | str | None,
    ends: Mapping[int, Outcome] | None = None,
    plan: Plan | None = None,
    claims: int | None = None,
    status: StageStatus = StageStatus.SUCCEEDED,
) -> manifest.Records:
    """Return a run whose attempts ended like this: None is still going on, "claimed" has no record."""
    plan = plan or plan_of()
    numbered = [(number, each) for number, each in enumerate(outcomes, 1) if each != "claimed"]
    return manifest.Records(
        plan=plan,
        claims={number: claim_of(plan, number) for number in range(1, (claims or len(outcomes)) + 1)},
        attempts={number: attempt_of(plan, number, status, each and Outcome(each)) for number, each in numbered},
        ends={number: End(number=number, at=NOW, outcome=each, detail="x") for number, each in (ends or {}).items()},
        refusals=(Refusal(number=1, at=NOW, actor="bob", reason="", detail="the token does not fit"),),
    )


def with_recovery(found: manifest.Records) -> manifest.Records:
    """Return a run whose attempts were placed, and whose second one followed a silence."""
    place = places.Placement(
        executor="local", instance="build-1", asked=("gpu",), offered=("gpu",), weight=1, reason="r" * 600, at=NOW
    )
    lost = places.Recovery(
        lost=1, cause=Cause.SILENT, silent_s=31.25, executor="local", instance="build-1", detail="d" * 600
    )
    claims = {number: replace(each, placement=place) for number, each in found.claims.items()}
    return replace(found, claims={**claims, 2: replace(claims[2], recovery=lost)})


def with_nonsense(found: manifest.Records) -> manifest.Records:
    """Return a run whose second claim says what no claim of ours says."""
    words = ("w" * 300,) * 300
    place = places.Placement(
        executor="e" * 300, instance="i" * 300, asked=words, offered=words, weight=-(10**9), reason="r" * 9000
    )
    lost = places.Recovery(
        lost=-7, cause=Cause.HOST_SILENT, silent_s=1e300, executor="e" * 300, instance="i" * 300, detail="d" * 9000
    )
    second = replace(found.claims[2], placement=place, recovery=lost)
    return replace(found, claims={**found.claims, 2: second})


RUNS = {
    "claimed": records_of("claimed"),
    "running": records_of(None, status=StageStatus.RUNNING),
    "succeeded": records_of(Outcome.SUCCEEDED),
    "failed": records_of(Outcome.FAILED, status=StageStatus.FAILED),
    "cancelled before it started": records_of("claimed", ends={1: Outcome.CANCELLED}),
    "given up": records_of(Outcome.INTERRUPTED, None, ends={2: Outcome.FAILED}, status=StageStatus.INTERRUPTED),
    "resumed": records_of(Outcome.INTERRUPTED, Outcome.SUCCEEDED),
    "lost, then cancelled": records_of(None, Outcome.CANCELLED),
    "a target only": records_of(Outcome.SUCCEEDED, plan=plan_of(target="s1")),
    "with 200 stages": records_of(Outcome.SUCCEEDED, plan=plan_of(stages=200)),
    "recovered": with_recovery(records_of(None, Outcome.SUCCEEDED)),
    "with a claim that says nonsense": with_nonsense(records_of(None, Outcome.SUCCEEDED)),
    "with a damaged claim": records_of(Outcome.FAILED, Outcome.SUCCEEDED, claims=1),
}


def written(found: manifest.Records, heartbeat_at: str | None = NOW) -> dict[str, Any]:
    return manifest.manifest(found, updated_at=NOW, heartbeat_at=heartbeat_at)


DOCUMENTS = {title: written(found) for title, found in RUNS.items()}
PROVEN = {title: each for title, each in DOCUMENTS.items() if Status(each["status"]).ended}


def problems(name: str, document: object) -> list[str]:
    registry: Any = Registry()
    validator = Draft202012Validator(SCHEMAS[name], registry=registry)
    return [f"{each.json_path}: {each.message}" for each in validator.iter_errors(document)]


def keys_differ(name: str, schema: dict[str, Any], value: object, where: str = "") -> Iterator[str]:
    """Yield every place where a document has other keys than its schema names."""
    meant = resolved(name, schema)
    if isinstance(value, dict):
        named = meant.get("properties")
        if named is not None and set(named) != set(value):
            yield f"{where}: {sorted(set(named) ^ set(value))}"
        for key, each in value.items():
            inner = (named or {}).get(key) or meant.get("additionalProperties")
            if isinstance(inner, dict):
                yield from keys_differ(name, inner, each, f"{where}/{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from keys_differ(name, meant["items"], each, f"{where}/{index}")


def holds(name: str, document: dict[str, Any]) -> None:
    assert problems(name, document) == []
    assert list(keys_differ(name, SCHEMAS[name], document)) == []
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_a_receipt_keeps_its_contract() -> None:
    wanted = Wanted(head="runs/r-0123abcd", base="main", title="t", body="b")
    found = PullRequest(number=42, url="https://github.com/acme/billing/pull/42", open=True)
    site = Site(kind=Kind.GITHUB, url="https://github.com", api_url="https://api.github.com", repository="acme/billing")
    holds("pull-request", receipt(site, RunId("r-0123abcd"), wanted, found))


@pytest.mark.parametrize("title", DOCUMENTS)
def test_a_manifest_keeps_its_contract(title: str) -> None:
    holds("manifest", DOCUMENTS[title])
    assert problems("manifest", written(RUNS[title], heartbeat_at=None)) == []


@pytest.mark.parametrize("title", PROVEN)
def test_a_run_summary_keeps_its_contract(title: str) -> None:
    holds("run-summary", manifest.run_summary(PROVEN[title], "f" * 64, RUNS[title]))


@pytest.mark.parametrize("title", PROVEN)
def test_the_aggregates_of_one_run_keep_their_contracts(title: str) -> None:
    metrics = aggregate.metrics(None, "t", [PROVEN[title]], [], NOW)
    holds("metrics", metrics)
    holds("state", aggregate.state(None, metrics, [PROVEN[title]], NOW))


def test_the_aggregates_of_very_many_runs_keep_their_contracts() -> None:
    document = DOCUMENTS["succeeded"]
    many = [
        {**document, "run_id": f"0001-a-{number:08x}", "pipeline_id": f"p{number % 80}"}
        | {"artifact_root": f".runs/t/cli/0001-a-{number:08x}"}
        for number in range(160)
    ]
    metrics = aggregate.metrics(None, "t", many, [], NOW)
    holds("metrics", metrics)
    holds("state", aggregate.state(None, metrics, many, NOW))


def test_the_files_of_failed_stages_hold_only_what_json_can_say() -> None:
    for command in DOCUMENTS["failed"]["commands"]:
        assert json.loads(json.dumps(manifest.error_document(command, "tail"), allow_nan=False))["id"] == command["id"]
