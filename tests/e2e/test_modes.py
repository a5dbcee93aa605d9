"""Where a run is executed: what asks for an executor elsewhere waits for one, and is never executed here instead."""

from __future__ import annotations

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
