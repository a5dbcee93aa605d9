"""Where a run is executed: what asks for an executor elsewhere waits for one, and is never executed here instead."""

from __future__ import annotations

import json

import pytest

from tests.scratch import Scratch


@pytest.mark.parametrize("execution", ["{mode: cloud}", "{parallel: true}", "{}"])
def test_what_asks_for_an_executor_elsewhere_waits_with_a_reason(scratch: Scratch, execution: str) -> None:
    scratch.settings()
    remote = ", requires_cloud: true" if execution == "{}" else ""
    scratch.pipeline("p", f"workspace: empty\nstages: [{{id: s, command: touch {scratch.outside}/ran{remote}}}]\n")
    scratch.write("runs.d/r.yaml", f"task: t\npipeline: p\nexecution: {execution}\n")
    scratch.commit()
    waited = scratch.run("reconcile", "--wait")
    assert waited.returncode == 0, waited.stderr
    assert "waits for an executor elsewhere (cloud): none is configured" in waited.stdout
    assert not (scratch.outside / "ran").exists()


def test_a_request_for_this_machine_cannot_have_stages_that_need_another(scratch: Scratch) -> None:
    scratch.settings()
    scratch.pipeline("p", "stages: [{id: s, command: 'true', requires_cloud: true}]\n")
    scratch.write("runs.d/r.yaml", "task: t\npipeline: p\nexecution: {mode: mcp}\n")
    scratch.commit()
    said = scratch.run("validate").stdout
    assert "the request wants this machine ('mode: mcp'), and stage 's' of pipeline 'p' requires an executor" in said


@pytest.mark.parametrize(
    "said", [{"requires_cloud": True}, {"execution": {"parallel": True}}, {"execution": {"mode": "cloud"}}]
)
def test_a_task_that_needs_an_executor_makes_its_runs_wait(scratch: Scratch, said: dict[str, object]) -> None:
    scratch.settings()
    items = [{"id": "t", "title": "T", **said}, {"id": "other", "title": "Other"}]
    scratch.write("tasks/index.json", json.dumps({"items": items}))
    scratch.write("tasks/t.md", "# T\n")
    scratch.write("tasks/other.md", "# Other\n")
    scratch.pipeline(
        "p", f"workspace: empty\nstages: [{{id: s, command: touch {scratch.outside}/ran-$RECONCILER_TASK_ID}}]\n"
    )
    scratch.write("runs.d/r.yaml", "task: t\npipeline: p\n")
    scratch.write("runs.d/o.yaml", "task: other\npipeline: p\n")
    scratch.commit()
    assert scratch.run("validate").returncode == 0
    waited = scratch.run("reconcile", "--wait")
    assert "waits for an executor elsewhere (cloud): none is configured" in waited.stdout
    assert [each.name for each in scratch.outside.iterdir()] == ["ran-other"]


def test_a_task_that_needs_none_any_more_lets_its_run_begin(scratch: Scratch) -> None:
    scratch.settings()
    scratch.write("tasks/index.json", json.dumps({"items": [{"id": "t", "title": "T", "requires_cloud": True}]}))
    scratch.write("tasks/t.md", "# T\n")
    scratch.simple("r", "true")
    [waiting] = json.loads(scratch.run("status", "--format", "json").stdout)["runs"]
    assert scratch.run("reconcile", "--wait").returncode == 0
    scratch.write("tasks/index.json", json.dumps({"items": [{"id": "t", "title": "T"}]}))
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert scratch.manifest("r")["status"] == "succeeded"
    assert scratch.manifest("r")["run_id"] == waiting["run_id"]


@pytest.mark.parametrize(
    ("execution", "registry", "reason"),
    [
        (
            "{mode: mcp}",
            {"requires_cloud": True},
            "the request wants this machine ('mode: mcp'), and task 't' requires",
        ),
        ("{mode: cloud}", {"execution": {"mode": "mcp"}}, "task 't' wants this machine ('mode: mcp'), and the request"),
        (
            "{parallel: true}",
            {"execution": {"mode": "mcp"}},
            "task 't' wants this machine ('mode: mcp'), and 'parallel'",
        ),
    ],
)
def test_a_task_and_a_request_that_contradict_each_other_are_rejected(
    scratch: Scratch, execution: str, registry: dict[str, object], reason: str
) -> None:
    scratch.settings()
    scratch.write("tasks/index.json", json.dumps({"items": [{"id": "t", "title": "T", **registry}]}))
    scratch.write("tasks/t.md", "# T\n")
    scratch.pipeline("p", "stages: [{id: s, command: 'true'}]\n")
    scratch.write("runs.d/r.yaml", f"task: t\npipeline: p\nexecution: {execution}\n")
    scratch.commit()
    assert reason in scratch.run("validate").stdout
    assert reason in scratch.run("reconcile").stderr
