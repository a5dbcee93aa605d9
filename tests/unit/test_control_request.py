"""Run requests for a control plane: made of plans, held against their rules, converted from older versions."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.contracts import Contracts
from reconciler.control.convert import convert
from reconciler.control.rules import content_digest, errors_of, expected_of
from reconciler.errors import ContentError
from reconciler.model import (
    Plan,
    StageId,
)
from tests.control_plans import AT, document_of, plan_of, plans, stage

CONTRACTS = Contracts()
EXAMPLE: dict[str, Any] = CONTRACTS.schema("run-request-v2")["examples"][0]


# ------------------------------------------------------------------------------------------------ of a plan


def test_a_plan_is_told_by_names_kinds_and_digests() -> None:
    agent = {"use": "codex", "prompt": "tell nobody"}
    plan = plan_of(
        stage("build", env={"TOKEN": "tell nobody"}),
        stage("implement", command=None, agent=agent, sandbox={}),
        stage("fresh", command=None, guard={"use": "specs"}, allow_failure=True, needs=()),
        target=StageId("implement"),
        labels=("nightly",),
        parameters={},
    )
    found = document_of(plan)
    assert errors_of(found, CONTRACTS) == ()
    assert found["request_id"] == plan.run_id and found["pipeline"]["digest"] == plan.digest
    assert [each["selected"] for each in found["pipeline"]["stages"]] == [True, True, False]
    assert found["pipeline"]["capabilities"] == ["command", "agent", "agent:codex", "sandbox", "guard", "guard:specs"]
    assert found["schedule"]["recovery"] == {"heartbeat_interval_s": 5.0, "heartbeat_timeout_s": 30.0, "retries_max": 2}
    assert found["task"]["tags"] == ["nightly"]
    assert "tell nobody" not in json.dumps(found) and "make build" not in json.dumps(found)


def test_what_is_expected_of_a_manifest_follows_from_the_request() -> None:
    plan = plan_of(stage("build"), stage("lint", allow_failure=True), stage("ship", when="true"))
    expected = expected_of(document_of(plan))
    assert expected.stages == {"build": "succeeded"}
    assert (expected.commit, expected.plan_digest, expected.attempts_max) == (plan.commit, plan.digest, None)


def test_asking_again_is_asking_for_the_same() -> None:
    first = document_of(plan_of(stage("build")))
    assert content_digest(first) == content_digest({**first, "requested_at": "2027-01-01T00:00:00Z"})
    assert content_digest(first) != content_digest({**first, "request_id": "other-00000000"})


@given(plans(), st.text(max_size=600))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_can_be_planned_is_a_valid_request(plan: Plan, actor: str) -> None:
    found = document_of(plan, actor)
    assert errors_of(found, CONTRACTS) == ()
    assert json.loads(json.dumps(found)) == found


# ------------------------------------------------------------------------------------------------ rules


def changed(*keys: str | int, to: object) -> dict[str, Any]:
    found = copy.deepcopy(EXAMPLE)
    place: Any = found
    for each in keys[:-1]:
        place = place[each]
    place[keys[-1]] = to
    return found


ROW = EXAMPLE["pipeline"]["stages"][0]
FAN = EXAMPLE["schedule"]["fan_out"][0]
WRONG: list[tuple[dict[str, Any], str, str]] = [
    (changed("schema", to="other"), "/schema", "is not what its schema wants"),
    (changed("pipeline", "stages", to=[]), "/pipeline/stages", "is empty"),
    (changed("surprise", to=1), "/surprise", "unknown key"),
    (changed("pipeline", "stages", to=[ROW, ROW]), "/pipeline/stages/1/id", "two stages are called 'build'"),
    (changed("pipeline", "stages", 0, "needs", to=["x"]), "/pipeline/stages/0/needs/0", "there is no such stage"),
    (changed("pipeline", "stages", 0, "needs", to=["build"]), "/pipeline/stages/0/needs", "needs itself"),
    (
        changed("pipeline", "stages", 0, "capabilities", to=["gpu"]),
        "/pipeline/stages/0/capabilities/0",
        "no capability",
    ),
    (changed("schedule", "fan_out", to=[FAN, FAN]), "/schedule/fan_out/1/capability", "there twice"),
    (changed("schedule", "fan_out", 0, "capability", to="gpu"), "/schedule/fan_out/0/capability", "no capability"),
    (changed("schedule", "instances_min", to=3), "/schedule/instances_max", "instances_min is 3"),
    (changed("schedule", "recovery", "heartbeat_timeout_s", to=1), "/schedule/recovery/heartbeat_timeout_s", "lost"),
    (changed("constraints", "privacy_level", to="secret"), "/constraints/privacy_level", "expected one of"),
]


@pytest.mark.parametrize(("document", "path", "words"), WRONG, ids=[path for _, path, _ in WRONG])
def test_what_is_wrong_is_told_by_its_place(document: dict[str, Any], path: str, words: str) -> None:
    found = errors_of(document, CONTRACTS)
    assert found[0].path == path
    assert words in found[0].message


@pytest.mark.parametrize("document", [None, 1, "x", [], {}, {"schema": {}}], ids=str)
def test_what_is_no_request_is_told(document: object) -> None:
    assert errors_of(document, CONTRACTS)


# ------------------------------------------------------------------------------------------------ older ones

FLAT: dict[str, Any] = {
    "runId": "run-123",
    "taskId": "autonomy",
    "pipelineId": "diagnostics",
    "stages": ["build", {"id": "test", "title": "Test", "allowFailure": True}],
    "tags": ["General", "needs gpu"],
    "privacyLevel": "restricted",
    "requestedAt": AT,
    "requestedBy": "codex-cli",
    "metadata": {"runsRoot": "/home/ann/.runs"},
}
NODE: dict[str, Any] = {
    "schema": "codex.control-plane.run-request",
    "version": "2.0.0",
    "requestId": "run-123",
    "task": {"id": "autonomy", "slug": "autonomy", "title": "Autonomy", "tags": ["control-plane"]},
    "pipeline": {
        "id": "diagnostics-with-eval",
        "version": "1.0.0",
        "title": "Diagnostics",
        "capabilities": ["general", "sandbox"],
        "stages": [
            {"id": "build", "kind": "command", "title": "Build", "capabilities": ["session:7"]},
            {"id": "eval", "kind": "subpipeline", "title": "Eval", "optional": False},
        ],
    },
    "schedule": {
        "strategy": "auto",
        "minInstances": 1,
        "maxInstances": 2,
        "fanOut": [
            {"capability": "general", "weight": 1},
            {"capability": "sandbox", "weight": 0.5, "maxConcurrency": 1},
        ],
        "recovery": {"heartbeatIntervalSeconds": 30, "missingHeartbeatTimeoutSeconds": 120, "maxRetries": 3},
    },
    "streaming": {
        "handles": True,
        "resumeSupported": True,
        "observers": {"maxSubscribers": 5, "defaultBackpressureMs": 250},
    },
    "constraints": {"privacyLevel": "standard", "policyVersion": "2025-10-01"},
    "metrics": {"emitIntervalSeconds": 30, "requiredDimensions": ["instanceId", "phase", "status"]},
    "requestedAt": AT,
    "requestedBy": {"actorId": "codex-cli", "channel": "cli", "name": "Codex CLI"},
    "metadata": {"artifactRoot": ".runs/autonomy/cli/run-123"},
}


def test_a_flat_request_becomes_one_of_version_2() -> None:
    found = convert(FLAT, at=AT)
    assert errors_of(found.document, CONTRACTS) == ()
    assert found.dropped == ("/metadata",)
    assert found.document["request_id"] == "run-123"
    assert found.document["pipeline"]["capabilities"] == ["general", "needs-gpu"]
    assert [each["id"] for each in found.document["pipeline"]["stages"]] == ["build", "test"]
    assert found.document["requested_by"] == {"actor": "codex-cli", "channel": "cli", "name": None}
    assert found.document["constraints"]["privacy_level"] == "restricted"


def test_the_smallest_flat_request_has_its_pipeline_for_a_stage() -> None:
    found = convert({"requestId": "r", "taskId": "t", "pipelineId": "p"}, at=AT)
    assert errors_of(found.document, CONTRACTS) == ()
    assert [each["kind"] for each in found.document["pipeline"]["stages"]] == ["pipeline"]
    assert found.document["requested_at"] == AT


def test_a_request_of_the_node_orchestrator_becomes_one_of_ours() -> None:
    found = convert(NODE, at=AT)
    assert errors_of(found.document, CONTRACTS) == ()
    assert found.dropped == ("/metadata", "/task/slug")
    assert [each["kind"] for each in found.document["pipeline"]["stages"]] == ["command", "pipeline"]
    assert found.document["pipeline"]["capabilities"] == ["general", "sandbox", "session:7"]
    assert found.document["schedule"]["fan_out"][1] == {"capability": "sandbox", "weight": 0.5, "concurrency_max": 1}


def test_one_of_ours_is_left_as_it_is() -> None:
    assert convert(EXAMPLE, at=AT).document == EXAMPLE


@pytest.mark.parametrize("old", [None, [], "x", {}, {"runId": "x"}, {"pipelineId": "x"}], ids=str)
def test_what_cannot_be_converted_is_refused(old: object) -> None:
    with pytest.raises(ContentError, match="no run request"):
        convert(old, at=AT)


NOISE: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NODE, *FLAT, "id"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*NODE, *FLAT]), NOISE), st.booleans())
@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_noise_is_refused_or_told_by_place(old: dict[str, object], as_node: bool) -> None:
    said = {**NODE, **old, "schema": NODE["schema"]} if as_node else {**FLAT, **old, "schema": "x"}
    errors_of(convert(said, at=AT).document, CONTRACTS)
