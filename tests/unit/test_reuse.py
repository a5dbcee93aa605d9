"""The key of a stage that may be reused, and what evidence holds for it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from reconciler import reuse
from reconciler.contracts import Contracts
from reconciler.evidence import Proven, evidence_row
from reconciler.model import Pipeline, Plan, PlannedStage, Rejection, Request, Settings, Source, Text, Workspace
from reconciler.parse import parse_pipeline, parse_request
from reconciler.resolve import Place, resolve

CONTRACTS = Contracts()
STAGE: dict[str, Any] = {"id": "s", "command": "make", "reuse": {"paths": ["src"], "env": ["CC"]}}
KNOWN: dict[str, Any] = {
    "found": {"src": "40000 a"},
    "variables": {"CC": "c"},
    "platform": "Linux x86_64",
    "missing": "refuse",
    "needs": {"n": "k"},
}


def planned(*stages: dict[str, Any], parameters: str = "", **keys: Any) -> Plan | Rejection:
    said = {"parameters": {"x": {"default": "1"}}, "stages": list(stages), **keys}
    pipeline = parse_pipeline(json.dumps(said).encode(), Source(path="pipelines/p.yaml"), CONTRACTS)
    assert isinstance(pipeline, Pipeline), pipeline
    request = parse_request(f"task: t\npipeline: p\n{parameters}".encode(), Source(path="runs.d/a.yaml"), CONTRACTS)
    assert isinstance(request, Request)
    return resolve(request, {pipeline.id: pipeline}, Settings(), Place(commit="c" * 40, branch="main"))


def stage_of(*stages: dict[str, Any], **keys: Any) -> PlannedStage:
    plan = planned(*(stages or (STAGE,)), **keys)
    assert isinstance(plan, Plan), plan
    return plan.stages[-1]


def key(stage: PlannedStage | None = None, **changed: Any) -> str:
    return reuse.key(stage or stage_of(), **{**KNOWN, **changed})


SANDBOXED = {**STAGE, "sandbox": {}}
UNTRUSTED = replace(stage_of(), untrusted=(Text(path="x"),))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (key(), key(found={"src": "40000 b"})),
        (key(), key(found={"src": None})),
        (key(), key(found={"lib": "40000 a"})),
        (key(), key(variables={"CC": "d"})),
        (key(), key(variables={"CC": None})),
        (key(), key(platform="Linux aarch64")),
        (key(), key(needs={"n": "l"})),
        (key(), key(needs={})),
        (key(), key(stage_of({**STAGE, "command": "make test"}))),
        (key(), key(stage_of({**STAGE, "env": {"A": "b"}}))),
        (key(), key(stage_of({**STAGE, "cwd": "src"}))),
        (key(), key(stage_of({**STAGE, "id": "other"}))),
        (key(), key(stage_of({"id": "before", "command": "true"}, STAGE))),
        (key(), key(stage_of(STAGE, parameters="parameters: {x: '2'}\n"))),
        (key(), key(stage_of(STAGE, workspace="empty"))),
        (key(), key(stage_of(SANDBOXED))),
        (key(), key(UNTRUSTED)),
        (key(stage_of(SANDBOXED)), key(stage_of(SANDBOXED), missing="record")),
    ],
)
def test_what_a_success_depends_on_is_in_its_key(one: str, other: str) -> None:
    assert one != other
    assert reuse.KEY.fullmatch(one)


@pytest.mark.parametrize(
    "other",
    [
        key(stage_of({**STAGE, "title": "Another", "timeout": "1m", "attempts_max": 3, "allow_failure": True})),
        key(stage_of(STAGE, title="Another")),
        key(missing="record"),
        key(found=dict(KNOWN["found"]), variables=dict(KNOWN["variables"])),
    ],
)
def test_what_it_does_not_depend_on_is_not(other: str) -> None:
    assert other == key()


def test_that_a_stage_may_be_reused_changes_no_digest() -> None:
    plain = {name: value for name, value in STAGE.items() if name != "reuse"}
    assert stage_of(STAGE).digest == stage_of(plain).digest


def test_a_checkout_holds_other_files_than_the_commit() -> None:
    plan = resolve_in_checkout()
    assert isinstance(plan, Rejection)
    assert "works in the checkout" in plan.problems[0].reason


def resolve_in_checkout() -> Plan | Rejection:
    said = json.dumps({"stages": [STAGE]}).encode()
    pipeline = parse_pipeline(said, Source(path="pipelines/p.yaml"), CONTRACTS)
    request = parse_request(b"task: t\npipeline: p\n", Source(path="runs.d/a.yaml"), CONTRACTS)
    assert isinstance(pipeline, Pipeline) and isinstance(request, Request)
    settings = Settings(workspace=Workspace.CHECKOUT)
    return resolve(request, {pipeline.id: pipeline}, settings, Place(commit="c" * 40, branch="main"))


# ------------------------------------------------------------------------------------------------ evidence


def command(**keys: Any) -> dict[str, Any]:
    said = {"id": "s", "kind": "command", "status": "succeeded", "reuse_key": "a" * 64, "reused": None, "answer": None}
    return said | keys


def document(*commands: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {
        "run_id": "a-11111111",
        "task_id": "t",
        "name": "a",
        "status": "succeeded",
        "attempts": [{"number": 1}],
        "resources": {"duration_s": 1.0},
        "completed_at": "2026-01-01T00:00:00Z",
        "commands": list(commands),
        **keys,
    }


def row(found: dict[str, Any]) -> list[Any]:
    result = evidence_row("a-11111111", "b" * 40, json.dumps(found).encode())
    assert result is not None
    return result


def test_evidence_tells_which_stages_can_be_cited() -> None:
    rows = {"a-11111111": row(document(command()))}
    assert dict(Proven(rows)["a-11111111"].reusable) == {"a" * 64: "s"}  # type: ignore[index]


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_a_stage_that_succeeded_did_so_whatever_became_of_its_run(status: str) -> None:
    assert row(document(command(), status=status))[8] == {"a" * 64: "s"}


@pytest.mark.parametrize(
    "said",
    [
        {"status": "failed"},
        {"status": "skipped"},
        {"reuse_key": None},
        {"reuse_key": "A" * 64},
        {"reuse_key": ["a"]},
        {"kind": "agent"},
        {"kind": "pipeline"},
        {"answer": {"verdict": "advisory"}},
        {"answer": {"verdict": "failed"}},
        {"reused": {"run_id": "b-22222222", "stage": "s", "manifest": {}}},
    ],
)
def test_what_proves_nothing_is_not_cited(said: dict[str, Any]) -> None:
    assert row(document(command(**said)))[8] is None


def test_manifests_of_before_prove_no_key_and_are_evidence_all_the_same() -> None:
    old = {name: value for name, value in command().items() if name not in ("reuse_key", "reused")}
    assert row(document(old))[8:] == [None, 0, ""]


def test_a_run_that_cites_others_says_so() -> None:
    assert row(document(command(reused={"run_id": "b-22222222"}), command()))[9] == 1
