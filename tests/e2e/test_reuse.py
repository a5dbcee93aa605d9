"""Stages that were executed once and are cited from then on: which are, which are not, and what the manifest says."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tests.scratch import Scratch

REUSE: dict[str, Any] = {"paths": ["src"], "env": ["FLAVOUR"]}


def stage(scratch: Scratch, **keys: Any) -> dict[str, Any]:
    """Return a stage that leaves a line outside whenever it is executed."""
    return {"id": "s", "command": f"echo ran >> {scratch.outside}/ran", "reuse": REUSE, **keys}


def pipeline(scratch: Scratch, *stages: dict[str, Any]) -> None:
    scratch.write("src/a.txt", "one\n")
    scratch.pipeline("p", json.dumps({"stages": list(stages)}))


def ask(scratch: Scratch, name: str, expected: int = 0, **keys: Any) -> dict[str, Any]:
    """Commit a request, let it run, and return its stage `s`."""
    environment = {key: keys.pop(key) for key in ("FLAVOUR",) if key in keys}
    scratch.request(name, "p", **keys)
    scratch.commit()
    done = scratch.run("reconcile", "--wait", **environment)
    assert done.returncode == expected, done.stderr
    return scratch.stages(name)["s"]


def times(scratch: Scratch) -> int:
    ran = scratch.outside / "ran"
    return ran.read_text().count("ran") if ran.exists() else 0


def test_a_second_request_cites_the_first(scratch: Scratch) -> None:
    pipeline(scratch, stage(scratch))
    first = ask(scratch, "a")
    second = ask(scratch, "b")
    assert times(scratch) == 1
    assert first["reused"] is None and len(first["reuse_key"]) == 64
    assert (second["status"], second["tries"], second["log_path"]) == ("succeeded", 0, None)
    assert second["reuse_key"] == first["reuse_key"]
    path = f".runs/t/cli/{scratch.run_id('a')}/manifest.json"
    committed = scratch.git("show", f"HEAD:{path}").encode()
    assert second["reused"] == {
        "run_id": scratch.run_id("a"),
        "stage": "s",
        "manifest": {"path": path, "sha256": hashlib.sha256(committed).hexdigest()},
    }
    assert scratch.manifest("b")["status"] == "succeeded"


def test_a_citation_leads_to_where_the_stage_was_executed(scratch: Scratch) -> None:
    pipeline(scratch, stage(scratch))
    for name in ("a", "b", "c"):
        found = ask(scratch, name)
    assert found["reused"]["run_id"] == scratch.run_id("a")
    assert times(scratch) == 1


@pytest.mark.parametrize("changed", ["input", "environment", "command", "what it needs"])
def test_what_is_not_the_same_is_executed(scratch: Scratch, changed: str) -> None:
    needed = {"id": "n", "command": "true"}
    pipeline(scratch, needed, stage(scratch))
    ask(scratch, "a", FLAVOUR="plain")
    if changed == "input":
        scratch.write("src/a.txt", "two\n")
    elif changed == "command":
        pipeline(scratch, needed, stage(scratch, command=f"echo ran again >> {scratch.outside}/ran"))
    elif changed == "what it needs":
        pipeline(scratch, {**needed, "command": "echo other"}, stage(scratch))
    found = ask(scratch, "b", FLAVOUR="spicy" if changed == "environment" else "plain")
    assert (found["reused"], times(scratch)) == (None, 2)


def test_what_no_path_means_may_change(scratch: Scratch) -> None:
    pipeline(scratch, stage(scratch, reuse={"paths": ["src/*.txt", "missing/**"]}))
    ask(scratch, "a")
    scratch.write("src/b.md", "not meant\n")
    scratch.write("docs/x.md", "nor this\n")
    assert ask(scratch, "b")["reused"] is not None
    scratch.write("src/b.txt", "meant\n")
    assert ask(scratch, "c")["reused"] is None


def test_a_rerun_is_executed(scratch: Scratch) -> None:
    pipeline(scratch, stage(scratch))
    ask(scratch, "a")
    assert ask(scratch, "a", rerun=1)["reused"] is None
    assert times(scratch) == 2


def test_a_failure_is_never_reused_even_where_it_is_allowed(scratch: Scratch) -> None:
    pipeline(scratch, stage(scratch, command=f"echo ran >> {scratch.outside}/ran; exit 3", allow_failure=True))
    ask(scratch, "a")
    assert ask(scratch, "b")["reused"] is None
    assert times(scratch) == 2


def test_a_gate_before_it_is_asked_all_the_same(scratch: Scratch) -> None:
    scratch.settings("approval_policy: on-request\n")
    pipeline(scratch, stage(scratch))
    ask(scratch, "a")
    pipeline(scratch, stage(scratch, approval={"reason": "Costs money"}))
    ask(scratch, "b", expected=4)
    assert times(scratch) == 1


def test_a_guardrail_that_is_cited_counts_as_passed(scratch: Scratch) -> None:
    scratch.write("src/a.txt", "one\n")
    guard = {"id": "s", "guard": {"use": "command", "command": "true"}, "reuse": {"paths": ["src"]}}
    scratch.pipeline("p", json.dumps({"guardrails_required": True, "stages": [guard]}))
    ask(scratch, "a")
    assert ask(scratch, "b")["reused"]["run_id"] == scratch.run_id("a")
    assert scratch.manifest("b")["guardrail_status"]["passed"] == ["s"]


def test_a_manifest_that_was_altered_is_not_cited(scratch: Scratch) -> None:
    """A failure is made a success by hand: its digest is not the one that its run summary names."""
    pipeline(scratch, stage(scratch, command=f"echo ran >> {scratch.outside}/ran; exit 1"))
    ask(scratch, "a", expected=1)
    path = f".runs/t/cli/{scratch.run_id('a')}/manifest.json"
    text = scratch.git("show", f"HEAD:{path}").replace('"status": "failed"', '"status": "succeeded"')
    scratch.write(path, text)
    scratch.git("add", "-f", path)
    assert ask(scratch, "b", expected=1)["reused"] is None
    assert times(scratch) == 2


def test_a_manifest_on_another_branch_is_not_cited(scratch: Scratch) -> None:
    pipeline(scratch, stage(scratch))
    base = scratch.commit()
    scratch.git("checkout", "-q", "-b", "other")
    ask(scratch, "a")
    assert times(scratch) == 1
    scratch.git("checkout", "-q", "main")
    assert scratch.git("rev-parse", "HEAD").strip() == base
    assert ask(scratch, "b")["reused"] is None
    assert times(scratch) == 2


def test_it_is_shown_before_and_after(scratch: Scratch) -> None:
    pipeline(scratch, stage(scratch))
    ask(scratch, "a")
    scratch.request("b", "p")
    scratch.commit()
    assert f"not executed: it succeeded in {scratch.run_id('a')}" in scratch.run("plan").stdout
    scratch.run("reconcile", "--wait")
    assert "1 stage was not executed" in scratch.run("status", "--all").stdout
    assert f"stage 's' was not executed: it succeeded in {scratch.run_id('a')}" in scratch.run("why", "b").stdout
    assert f"see: reconciler logs {scratch.run_id('a')} s" in scratch.run("logs", "b", "s").stderr
    assert "1 of 1 stages succeeded" in scratch.manifest("b")["summary"]
