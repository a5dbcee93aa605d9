"""What the files of the Node orchestrator come to: pipelines that can be read, records that are no evidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reconciler import ancestor, ancestor_records, parse
from reconciler.check import Kind, check
from reconciler.contracts import Contracts
from reconciler.guards import checklists
from reconciler.model import Pipeline, Source, StageKind

SAMPLE = Path(__file__).resolve().parent.parent / "ancestor"
OLD_RUN = "2026-01-31T10-00-00-000Z-1a2b3c4d"
OLD = json.loads((SAMPLE / f".runs/0001-demo/cli/{OLD_RUN}/manifest.json").read_bytes())
CONTRACTS = Contracts()


def converted(document: object = None) -> ancestor.Converted:
    said = json.loads((SAMPLE / ancestor.CONFIG_NAME).read_bytes()) if document is None else document
    return ancestor.convert(said, ancestor.CONFIG_NAME)


def pipelines(found: ancestor.Converted) -> dict[str, Pipeline]:
    """Return the pipelines that were made, read as any pipeline is."""
    read = {path: parse.parse_pipeline(data, Source(path=path), CONTRACTS) for path, data in found.files.items()}
    assert all(isinstance(each, Pipeline) for each in read.values()), read
    return {each.id: each for each in read.values() if isinstance(each, Pipeline)}


def one(stage: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"pipelines": [{"id": "p", "stages": [{"kind": "command", "id": "a", "command": "true", **stage}], **more}]}


def source() -> ancestor_records.Source:
    return ancestor_records.Source(path=".runs/0001-demo/cli/x/manifest.json", sha256="0" * 64, bytes=1)


# ------------------------------------------------------------------------------------------------ pipelines


def test_stages_of_stage_sets_stand_where_they_were_used() -> None:
    found = pipelines(converted())
    assert set(found) == {"diagnostics", "nightly-run"}
    stages = found["diagnostics"].stages
    assert [each.id for each in stages] == ["build", "test", "spec-guard", "build-2"]
    assert [each.kind for each in stages] == [StageKind.COMMAND, StageKind.COMMAND, StageKind.GUARD, StageKind.COMMAND]
    assert stages[1].env == {"CI": "1", "NOTES": ""}
    assert stages[1].allow_failure and stages[1].summary_hint == "tested"
    assert found["diagnostics"].guardrails_required
    assert found["nightly-run"].stages[0].pipeline == "diagnostics"
    assert found["nightly-run"].stages[0].allow_failure


def test_what_has_no_equivalent_is_told_with_its_place() -> None:
    told = {(each.pointer, each.rule) for each in converted().problems}
    assert told == {
        ("/runtimeMode", "left-out"),
        ("/stageSets/unused", "left-out"),
        ("/pipelines/0/tags", "left-out"),
        ("/pipelines/0/stages/0", "left-out"),
        ("/stageSets/checks/1/env/GIT_DIR", "left-out"),
        ("/stageSets/specs/0", "replaced"),
        ("/pipelines/0/stages/3/id", "renamed"),
        ("/pipelines/1/id", "renamed"),
        ("/pipelines/1/stages/2", "left-out"),
        ("/pipelines/1/stages/3", "left-out"),
        ("/pipelines/1/stages/1", "old-package"),
        ("/pipelines/1/stages/1/cwd", "left-out"),
        ("/pipelines/1/stages/1/session", "left-out"),
        ("/pipelines/1/stages/1/plan/aliases", "left-out"),
        ("/pipelines/1/guardrailsRequired", "left-out"),
        ("/pipelines/2", "left-out"),
    }


@pytest.mark.parametrize(
    "command",
    ["npm run build", "no", "a: b # c", "echo 'x' \"y\" $Z", "first\nsecond\n", "\ttab", "- [x]", "é ✓", "{a: 1}"],
)
def test_a_command_is_written_as_it_was(command: str) -> None:
    assert pipelines(converted(one({"command": command})))["p"].stages[0].command == command


def test_a_script_of_the_old_package_among_others_stays_a_command() -> None:
    (stage,) = pipelines(converted(one({"command": "make && node scripts/spec-guard.mjs"})))["p"].stages
    assert stage.kind == StageKind.COMMAND


def test_a_dry_run_stays_one_and_demands_no_guardrail() -> None:
    found = pipelines(converted(one({"command": "node scripts/spec-guard.mjs --dry-run"}, guardrailsRequired=True)))
    assert found["p"].stages[0].guard == {"use": "specs", "dry_run": True}
    assert not found["p"].guardrails_required


@pytest.mark.parametrize(
    "document",
    [None, [], 1, {"pipelines": {}}, {"pipelines": [1, {}, {"id": "p", "stages": [1, {"kind": 1}, {"kind": "command"}]}]},
     {"pipelines": [], "stageSets": []}, {"pipelines": [{"id": "p", "stages": [{"kind": "stage-set", "ref": []}]}]},
     one({"env": ["x"], "title": 3, "cwd": 1, "plan": [], "summaryHint": {}}), one({"id": None}), one({}, title="x" * 999)],
)  # fmt: skip
def test_what_is_no_configuration_breaks_nothing(document: object) -> None:
    found = ancestor.convert(document, "x.json")
    assert found.problems or found.files
    pipelines(found)


# ------------------------------------------------------------------------------------------------ records


def test_a_past_run_becomes_a_record_that_says_what_was_said() -> None:
    record = ancestor_records.record_of(OLD, source())
    assert isinstance(record, ancestor_records.Imported)
    assert record.path == f".runs/0001-demo/imported/{OLD_RUN}/manifest.json"
    assert check({record.path: record.data}, {record.path: Kind.IMPORTED}, CONTRACTS, alone=True) == ()
    said = json.loads(record.data)
    assert said["said"]["status"] == "succeeded" and said["said"]["commands"][0]["exit_code"] == 0
    assert "resume_token" in said["left_out"]
    assert OLD["resume_token"].encode() not in record.data and b"ghp_" not in record.data


def test_a_record_proves_no_item() -> None:
    record = ancestor_records.record_of(OLD, source())
    assert isinstance(record, ancestor_records.Imported)
    line = f"- [x] Green; Evidence: [{OLD_RUN}](../{record.path}) <!-- item: 0001-demo/green -->\n"
    places, _ = checklists.places_of({"tasks/0001-demo.md": line.encode()})
    proofs = {record.path: checklists.proof_of(record.path, record.data, {}, {})}
    (found,) = checklists.unproven(places, proofs, strict=False)
    assert found.reason.endswith(f"is no manifest ({record.path})")


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": "Über"},
        {"task_id": None},
        {"run_id": "../x"},
        {"run_id": "a/b"},
        {"run_id": ".."},
        {"status": "odd"},
    ],
)
def test_a_manifest_that_has_no_place_here_is_told(change: dict[str, object]) -> None:
    reason, cure = ancestor_records.record_of({**OLD, **change}, source())  # type: ignore[misc]
    assert reason and cure


def test_ours_are_not_taken_for_old_ones() -> None:
    assert ancestor_records.is_old(OLD)
    assert not ancestor_records.is_old({**OLD, "schema_version": 1})
    assert not ancestor_records.is_old([])


def test_tasks_keep_their_id_or_are_told() -> None:
    tasks, faults = ancestor_records.tasks_of(json.loads((SAMPLE / "tasks/index.json").read_bytes()))
    assert [each.entry for each in tasks] == [{"id": "0001-demo", "title": "Demo", "path": "tasks/tasks-0001-demo.md"}]
    assert [index for index, *_ in faults] == [0, 1]
    assert ancestor_records.tasks_of({"items": [1, {"id": "a", "path": "../x.md"}]})[0][0].entry == {
        "id": "a",
        "title": "a",
    }
