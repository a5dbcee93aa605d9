"""The verbs as people and scripts use them."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest

from reconciler.cli import VERBS
from tests.preloaded import RECONCILER
from tests.scratch import ENVIRONMENT, Scratch


def ready(scratch: Scratch) -> None:
    scratch.pipeline(
        "build",
        "workspace: empty\nparameters: {python: {default: '3.12', pattern: '3\\.\\d+'}}\n"
        "stages:\n  - id: compile\n    command: echo compiled with $PARAM_PYTHON\n"
        "  - id: check\n    command: echo checked\n",
    )
    scratch.write("README.md", "x\n")
    scratch.commit()


def test_start_commits_a_request_and_tells_scripts_where_the_proof_is(scratch: Scratch) -> None:
    ready(scratch)
    done = scratch.run("start", "build", "--task", "t", "--param", "python=3.10", "--format", "json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["status"] == "succeeded"
    assert facts["artifact_root"] == f".runs/t/cli/{facts['run_id']}"
    assert facts["manifest"] == f"{facts['artifact_root']}/manifest.json"
    assert (scratch.path / facts["log_path"]).read_text() == "checked\n"
    assert scratch.git("show", "HEAD~1:runs.d/0001-build.yaml") == (
        "task: t\npipeline: build\nparameters:\n  python: '3.10'\n"
    )
    assert scratch.git("log", "-1", "--format=%an %s", "HEAD~1") == "Ann Author runs: start build for t\n"
    assert "compiled with 3.10\n" in scratch.run("logs", facts["run_id"], "compile").stdout


def test_start_takes_task_and_target_from_the_environment(scratch: Scratch) -> None:
    ready(scratch)
    old = {"MCP_RUNNER_TASK_ID": "t", "CODEX_ORCHESTRATOR_TARGET_STAGE": "compile"}
    assert scratch.run("start", "build", **old).returncode == 0
    assert scratch.stages("0001-build")["check"]["status"] == "skipped"
    new = old | {"RECONCILER_TASK_ID": "t", "RECONCILER_TARGET_STAGE": "check"}
    assert scratch.run("start", "build", **new).returncode == 0
    assert scratch.manifest("0002-build")["plan_target_id"] == "check"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["start", "biuld", "--task", "t"], "did you mean 'build'?"),
        (["start", "build", "--task", "t", "--target", "chek"], "did you mean 'check'?"),
        (["start", "build", "--task", "t", "--param", "python=2"], "does not match the pattern"),
        (["start", "build", "--task", "T x"], "is not an id"),
    ],
)
def test_start_commits_nothing_that_would_be_rejected(scratch: Scratch, words: list[str], said: str) -> None:
    ready(scratch)
    tip = scratch.git("rev-parse", "HEAD")
    done = scratch.run(*words)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert scratch.git("rev-parse", "HEAD") == tip
    assert "Traceback" not in done.stderr


def test_start_s_exit_code_is_that_of_its_own_run(scratch: Scratch) -> None:
    scratch.simple("bad", "exit 7")
    done = scratch.run("start", "bad", "--task", "t")
    assert done.returncode == 1
    assert "exit code 7" in done.stderr


def test_cancel_ends_a_run_and_its_evidence_says_who_and_why(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", "sleep 60")
    scratch.run("reconcile")
    scratch.wait_for(lambda: scratch.record("a", "attempts/1.json").exists())
    assert scratch.run("cancel", "a", "--reason", "too slow").returncode == 0
    manifest = scratch.manifest("a")
    assert (manifest["status"], "too slow" in manifest["status_detail"]) == ("cancelled", True)
    again = scratch.run("cancel", "a", "--reason", "again")
    assert (again.returncode, "not under way" in again.stderr) == (2, True)


def test_status_shows_what_is_under_way(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", "sleep 60")
    assert "the next pass launches it" in scratch.run("status").stdout
    scratch.run("reconcile")
    scratch.wait_for(lambda: '"running"' in scratch.run("status", "--format", "json").stdout)
    row = json.loads(scratch.run("status", "a", "--format", "json").stdout)["runs"][0]
    assert (row["phase"], row["stage"], row["attempts"], row["evidence"]) == ("running", "s", 1, "")
    assert row["heartbeat_age_s"] < 5
    assert "its last heartbeat is" in scratch.run("why", "a").stdout


def test_status_names_the_commit_of_the_evidence(scratch: Scratch) -> None:
    scratch.simple("a", "true")
    scratch.run("reconcile", "--wait")
    tip = scratch.git("rev-parse", "HEAD").strip()
    assert json.loads(scratch.run("status", "--format", "json").stdout)["runs"][0]["evidence"] == tip


def test_plan_says_what_a_pass_would_do(scratch: Scratch) -> None:
    ready(scratch)
    scratch.request("a", "build")
    scratch.request("b", "nope")
    scratch.commit()
    done = scratch.run("plan")
    assert done.returncode == 1
    assert re.search(
        r"^launch a-[0-9a-f]{8}: pipeline 'build' of task 't' at [0-9a-f]{12} in an empty dir", done.stdout
    )
    assert "reject runs.d/b.yaml:2:1: there is no pipeline 'nope'" in done.stdout
    actions = json.loads(scratch.run("plan", "--format", "json").stdout)["actions"]
    assert [each["verb"] for each in actions] == ["launch"]


def test_a_heading_of_logs_stands_on_a_line_of_its_own(scratch: Scratch) -> None:
    scratch.settings()
    stages = [{"id": name, "command": f"printf {name}"} for name in ("one", "two")]
    scratch.pipeline("p", json.dumps({"workspace": "empty", "stages": stages}))
    scratch.request("a", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    said = scratch.run("logs", "a").stdout
    assert said.splitlines() == ["== one (succeeded) ==", "one", "== two (succeeded) ==", "two"]


def test_one_is_not_spoken_of_as_many(scratch: Scratch) -> None:
    scratch.settings()
    stages = [{"id": "one", "command": "true"}, {"id": "two", "command": f"test -e {scratch.outside}/go"}]
    scratch.pipeline("p", json.dumps({"workspace": "empty", "stages": stages}))
    scratch.request("a", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    (scratch.outside / "go").touch()
    assert "note: one keeps its success, but the workspace it worked in is gone" in scratch.run("resume", "a").stderr
    assert "index.html: 1 run as commit" in scratch.run("report", "--output", str(scratch.outside / "site")).stdout


def test_run_ids_stand_below_each_other(scratch: Scratch) -> None:
    scratch.settings()
    scratch.pipeline("q", "workspace: empty\nstages: [{id: s, command: 'false'}]\n")
    scratch.request("b", "q")
    scratch.simple("a", "true")
    lines = scratch.run("reconcile", "--wait").stdout.splitlines()
    assert lines == [f"succeeded  {scratch.run_id('a')}", f"failed     {scratch.run_id('b')}"]


def test_a_terminal_that_can_do_nothing_is_not_cleared(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", "true")
    said = [_seen(scratch, term) for term in ("dumb", "xterm")]
    assert [b"\x1b[2J" in each for each in said] == [False, True]
    assert all(b"PHASE" in each for each in said)


def _seen(scratch: Scratch, term: str) -> bytes:
    """Return what `status --watch` shows on a terminal until its table is there."""
    ours, theirs = os.openpty()
    words = [*RECONCILER, "status", "--watch"]
    with subprocess.Popen(words, cwd=scratch.path, env=ENVIRONMENT | {"TERM": term}, stdout=theirs) as process:
        os.close(theirs)
        said = b""
        while b"absent" not in said:
            said += os.read(ours, 4096)
        process.kill()
    os.close(ours)
    return said


def test_logs_follow_a_run_to_its_end(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", "for i in 1 2 3; do echo line $i; sleep 0.3; done")
    scratch.run("reconcile")
    scratch.wait_for(lambda: scratch.record("a", "attempts/1.json").exists())
    done = scratch.run("logs", "a", "s", "--follow")
    assert done.stdout == "line 1\nline 2\nline 3\n"


def test_a_clone_shows_the_evidence_of_runs_it_never_saw(scratch: Scratch) -> None:
    ready(scratch)
    scratch.run("start", "build", "--task", "t")
    scratch.git("clone", "-q", ".", str(scratch.outside / "clone"))
    scratch.path = scratch.outside / "clone"
    assert "nothing to do" in scratch.run("reconcile").stdout
    assert "compiled" in scratch.run("logs", "0001-build").stdout
    refused = scratch.run("resume", "0001-build")
    assert (refused.returncode, "no records on this machine" in refused.stderr) == (2, True)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_teaches_with_an_example(scratch: Scratch, verb: str) -> None:
    done = scratch.run(verb, "--help")
    assert done.returncode == 0
    assert f"reconciler {verb}" in done.stdout.partition("Usage:")[2].partition("\n")[2]


def test_mistakes_are_one_sentence(scratch: Scratch) -> None:
    for words, said in (
        (["statsu"], "did you mean 'status'?"),
        (["status", "nothing"], "has no commit"),
        (["reconcile", "--wait", "--timeout", "soon"], "is not a duration"),
        (["-C", "/nowhere", "status"], "no such directory"),
    ):
        done = scratch.run(*words)
        assert said in done.stderr, done.stderr
        assert done.returncode in (1, 2)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(scratch: Scratch, shell: str) -> None:
    assert "_RECONCILER_COMPLETE" in scratch.run("completion", shell).stdout


def test_broken_settings_stop_a_pass_with_the_place_and_the_cure(scratch: Scratch) -> None:
    scratch.simple("a", "true")
    scratch.write("reconciler.yaml", "runs_max: many\n")
    scratch.commit()
    done = scratch.run("reconcile")
    assert (done.returncode, "reconciler.yaml:1:1" in done.stderr) == (1, True)


def test_closed_standard_streams_are_no_trouble(scratch: Scratch) -> None:
    scratch.simple("a", "echo said")
    words = " ".join([*RECONCILER, "reconcile", "--wait"])
    done = subprocess.run(
        ["sh", "-c", f"exec {words} <&- >&- 2>&-"], cwd=scratch.path, env=ENVIRONMENT, check=False, timeout=60
    )
    assert done.returncode == 0
    assert scratch.manifest("a")["status"] == "succeeded"


def test_what_a_stage_prints_cannot_command_the_terminal(scratch: Scratch) -> None:
    scratch.simple("a", r"printf '\033[2Jevil\033]0;title\007\n'; exit 1")
    done = scratch.run("reconcile", "--wait")
    shown = done.stdout + done.stderr + scratch.run("status").stdout + scratch.run("why", "a").stdout
    assert "evil" in shown
    assert "\033" not in shown and "\007" not in shown
