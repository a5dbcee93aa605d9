"""Pipelines in pipelines: runs of their own, linked both ways."""

from __future__ import annotations

import json
from typing import Any

from tests.scratch import Scratch

INNER = """\
workspace: empty
parameters: {python: {default: "3.12"}, code: {default: 0}}
stages:
  - {id: say, command: 'echo python $PARAM_PYTHON; exit $PARAM_CODE'}
"""


def committed(scratch: Scratch) -> dict[str, dict[str, Any]]:
    """Return the committed manifests by name."""
    listed = scratch.git("ls-tree", "-r", "--name-only", "HEAD", ".runs/t/cli/").splitlines()
    found = [json.loads(scratch.git("show", f"HEAD:{each}")) for each in listed if each.endswith("/manifest.json")]
    return {each["name"]: each for each in found}


def outer(scratch: Scratch, text: str, settings: str = "") -> None:
    scratch.settings(settings)
    scratch.pipeline("inner", INNER)
    scratch.pipeline("outer", f"workspace: empty\nstages:\n{text}")
    scratch.request("r", "outer")
    scratch.commit()


def test_a_nested_pipeline_is_a_run_of_its_own_with_evidence_of_its_own(scratch: Scratch) -> None:
    outer(
        scratch,
        "  - {id: before, command: 'true'}\n  - {id: docs, pipeline: inner, parameters: {python: '3.13'}}\n"
        "  - {id: after, command: 'true'}\n",
        "runs_max: 1\n",
    )
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    found = committed(scratch)
    parent, child = found["r"], found["r.docs"]
    assert child["parent_run_id"] == parent["run_id"]
    assert parent["child_runs"] == [child["run_id"]] == [parent["commands"][1]["sub_run_id"]]
    assert [each["status"] for each in parent["commands"]] == ["succeeded"] * 3
    assert parent["commands"][1]["summary"] == "1 of 1 runs succeeded"
    assert child["parameters"]["python"] == "3.13"
    assert child["commit"] == parent["commit"]
    assert scratch.run("reconcile", "--wait").stdout == "nothing to do: every request is proven\n"


def test_each_cell_of_a_matrix_is_a_run_and_an_optional_failure_is_told_as_it_is(scratch: Scratch) -> None:
    outer(
        scratch,
        "  - {id: all, pipeline: inner, allow_failure: true, matrix: {python: ['3.11', '3.12'], code: [0, 1]}}\n"
        "  - {id: after, command: 'true'}\n",
    )
    done = scratch.run("reconcile", "--wait")
    found = committed(scratch)
    cells = {name: each["status"] for name, each in found.items() if name != "r"}
    assert cells == {"r.all.1": "succeeded", "r.all.2": "failed", "r.all.3": "succeeded", "r.all.4": "failed"}
    assert found["r"]["status"] == "succeeded", done.stdout
    assert found["r"]["commands"][0]["status"] == "failed"
    assert found["r"]["commands"][0]["summary"].startswith("2 of 4 runs succeeded; r.all.2-")
    assert len(found["r"]["child_runs"]) == 4


def test_a_nested_failure_fails_the_run(scratch: Scratch) -> None:
    outer(scratch, "  - {id: docs, pipeline: inner, parameters: {code: 3}}\n  - {id: after, command: 'true'}\n")
    assert scratch.run("reconcile", "--wait").returncode == 1
    parent = committed(scratch)["r"]
    assert [each["status"] for each in parent["commands"]] == ["failed", "skipped"]


def test_pipelines_that_include_each_other_and_what_is_too_deep_are_rejected(scratch: Scratch) -> None:
    scratch.settings()
    scratch.pipeline("a", "stages: [{id: s, pipeline: b}]\n")
    scratch.pipeline("b", "stages: [{id: s, pipeline: a}]\n")
    for depth in range(9):
        scratch.pipeline(f"d{depth}", f"stages: [{{id: s, pipeline: d{depth + 1}}}]\n")
    scratch.pipeline("d9", "stages: [{id: s, command: 'true'}]\n")
    scratch.pipeline("wide", "stages: [{id: s, pipeline: d9, matrix: {x: [1, 2]}}]\n")
    for name in ("a", "d0", "d2", "wide"):
        scratch.request(name, name)
    scratch.commit()
    said = scratch.run("validate")
    assert "stage 's': stage 's': pipelines include each other: a -> b -> a" in said.stdout + said.stderr
    assert "pipelines are nested deeper than 8: d0 -> d1" in said.stdout + said.stderr
    assert "stage 's': pipeline 'd9' has no parameter 'x'" in said.stdout + said.stderr
    assert "runs.d/d2.yaml" not in said.stdout + said.stderr


def test_a_nested_run_ends_with_its_parent(scratch: Scratch) -> None:
    outer(scratch, "  - {id: docs, pipeline: slow}\n")
    scratch.pipeline("slow", "workspace: empty\nstages: [{id: s, command: sleep 60}]\n")
    scratch.commit()
    waiting = scratch.start("reconcile", "--wait")
    scratch.wait_for(lambda: scratch.record("r.docs", "attempts/1.json").exists())
    waiting.terminate()
    waiting.communicate()
    assert scratch.run("cancel", "r", "--reason", "enough").returncode == 0
    scratch.run("reconcile", "--wait")
    found = committed(scratch)
    assert (found["r"]["status"], found["r.docs"]["status"]) == ("cancelled", "cancelled")
    assert "its parent run" in found["r.docs"]["status_detail"]


def test_nested_runs_survive_the_death_of_everything(scratch: Scratch) -> None:
    outer(scratch, "  - {id: docs, pipeline: slow}\n  - {id: after, command: 'true'}\n")
    scratch.pipeline("slow", "workspace: empty\nstages: [{id: s, command: sleep 1}]\n")
    scratch.commit()
    waiting = scratch.start("reconcile", "--wait")
    scratch.wait_for(lambda: scratch.record("r.docs", "attempts/1.json").exists())
    waiting.kill()
    waiting.communicate()
    scratch.kill()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: each["status"] for name, each in committed(scratch).items()} == {
        "r": "succeeded",
        "r.docs": "succeeded",
    }
    assert len(committed(scratch)["r.docs"]["attempts"]) == 2


GATED = "workspace: empty\nstages: [{id: s, approval: {reason: R}, command: 'true'}]\n"


def test_a_nested_run_may_wait_for_approval_itself_and_so_may_the_stage_it_is_of(scratch: Scratch) -> None:
    outer(scratch, "  - {id: docs, pipeline: gated, approval: {reason: Starts it}}\n  - {id: after, command: 'true'}\n")
    scratch.pipeline("gated", GATED)
    scratch.commit()
    waits = scratch.run("reconcile", "--wait")
    assert waits.returncode == 4, waits.stdout + waits.stderr
    assert "r.docs" not in committed(scratch), "nothing of it is begun before it is approved"
    assert scratch.run("approve", "r", "--reason", "begin").returncode == 0
    inner = scratch.run("reconcile", "--wait")
    assert inner.returncode == 4, inner.stdout + inner.stderr
    assert committed(scratch)["r.docs"]["status"] == "waiting"
    again = scratch.run("approve", "r", "--reason", "x")
    assert again.returncode == 2, again.stdout
    assert scratch.run("approve", "r.docs", "--reason", "go on").returncode == 0
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: each["status"] for name, each in committed(scratch).items()} == {
        "r": "succeeded",
        "r.docs": "succeeded",
    }


def test_a_rejected_nested_run_fails_its_parent(scratch: Scratch) -> None:
    outer(scratch, "  - {id: docs, pipeline: gated}\n  - {id: after, command: 'true'}\n")
    scratch.pipeline("gated", GATED)
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 4
    assert scratch.run("reject", "r.docs", "--reason", "no").returncode == 0
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 1, done.stdout + done.stderr
    assert {name: each["status"] for name, each in committed(scratch).items()} == {"r": "failed", "r.docs": "failed"}


def test_a_cancelled_nested_run_fails_its_parent_and_the_verb_resume_lets_both_go_on(scratch: Scratch) -> None:
    outer(scratch, "  - {id: before, command: 'true'}\n  - {id: docs, pipeline: gated}\n")
    scratch.pipeline("gated", GATED)
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 4
    assert scratch.run("cancel", "r.docs", "--reason", "no").returncode == 0
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 1, done.stdout + done.stderr
    found = committed(scratch)
    assert (found["r.docs"]["status"], found["r"]["status"]) == ("cancelled", "failed")
    resumed = scratch.run("resume", "r", "--reason", "again")
    assert resumed.returncode in (1, 4), resumed.stdout + resumed.stderr
    assert committed(scratch)["r"]["attempts"][-1]["outcome"] in ("waiting", "failed")


def test_a_request_that_has_the_name_of_a_nested_run_is_told_and_nothing_runs_twice(scratch: Scratch) -> None:
    outer(scratch, "  - {id: docs, pipeline: inner}\n")
    scratch.write("runs.d/r/docs.yaml", "task: t\npipeline: inner\n")
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert "the name 'r.docs' of a nested run is claimed by a request" in done.stdout + done.stderr
    assert done.returncode != 0, done.stdout + done.stderr
    scratch.git("mv", "runs.d/r/docs.yaml", "runs.d/docs.yaml")
    scratch.commit("rename it")
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_nested_pipeline_closes_a_run_as_well(scratch: Scratch) -> None:
    outer(scratch, "  - {id: a, command: 'true'}\n  - {id: clean, pipeline: inner, finally: true}\n")
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert committed(scratch)["r.clean"]["status"] == "succeeded"


def test_a_nested_pipeline_closes_a_run_that_failed_and_what_failed_is_not_done_again(scratch: Scratch) -> None:
    log = scratch.outside / "log"
    outer(
        scratch,
        f"  - {{id: a, command: 'echo a >> {log}; exit 1'}}\n  - {{id: b, command: 'true'}}\n"
        "  - {id: clean, pipeline: inner, finally: true}\n"
        f"  - {{id: last, needs: [clean], command: 'echo last >> {log}', finally: true}}\n",
    )
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 1, done.stdout + done.stderr
    found = committed(scratch)
    assert found["r.clean"]["status"] == "succeeded"
    assert [each["status"] for each in found["r"]["commands"]] == ["failed", "skipped", "succeeded", "succeeded"]
    assert found["r"]["status_detail"].startswith("stage 'a' failed")
    assert log.read_text() == "a\nlast\n"


def test_a_matrix_of_256_is_planned_and_one_more_is_not(scratch: Scratch) -> None:
    numbers = ", ".join(str(each) for each in range(16))
    scratch.settings()
    scratch.pipeline("inner", INNER)
    for name, more in (("wide", numbers), ("wider", f"{numbers}, 16")):
        stage = f"{{id: all, pipeline: inner, matrix: {{python: [{numbers}], code: [{more}]}}}}"
        scratch.pipeline(name, f"workspace: empty\nstages: [{stage}]\n")
        scratch.request(name, name)
    scratch.pipeline("two", "workspace: empty\nstages: [{id: a, pipeline: wide}, {id: b, pipeline: inner}]\n")
    scratch.request("two", "two")
    scratch.commit()
    said = scratch.run("validate")
    told = said.stdout + said.stderr
    assert "runs.d/wide.yaml" not in told
    assert "pipelines/wider.yaml" in told
    assert "the request has more than 256 nested runs" in told
