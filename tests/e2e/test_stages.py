"""What a stage may do to its worker, and what a pipeline may ask of it: the record stays true."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.scratch import Scratch


def test_output_of_50_mb_is_bounded_digested_and_cheap(scratch: Scratch) -> None:
    line = "all work and no play makes a dull log line of eighty characters, more or less...\n"
    count = 50 * 1024 * 1024 // len(line)
    scratch.pipeline(
        "p",
        f"workspace: empty\nstages:\n  - id: s\n    command: yes '{line.strip()}' | head -n {count}; grep VmHWM /proc/$PPID/status > {scratch.outside}/peak\n",
    )
    scratch.request("a", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    stage = scratch.stages("a")["s"]
    whole = line.encode() * count
    assert stage["log_bytes"] == len(whole)
    assert stage["log_sha256"] == hashlib.sha256(whole).hexdigest()
    committed = scratch.git("show", f"HEAD:{stage['log_path']}")
    assert len(committed.encode()) == stage["log_committed_bytes"] <= 64 * 1024
    assert committed.startswith(line) and committed.endswith(line) and "bytes left out" in committed
    assert len(json.dumps(scratch.manifest("a"))) < 50 * 1024
    assert int((scratch.outside / "peak").read_text().split()[1]) < 60 * 1024
    assert scratch.run("logs", "a", "s").stdout.count("\n") == count


@pytest.mark.parametrize(
    ("command", "log"),
    [
        ("printf 'no newline'", b"no newline"),
        (r"printf '\000\001\377\r\n\200'", b"\x00\x01\xff\r\n\x80"),
        ("true", b""),
        ("echo out; echo err >&2", b"out\nerr\n"),
    ],
)
def test_output_is_kept_byte_for_byte(scratch: Scratch, command: str, log: bytes) -> None:
    scratch.simple("a", command)
    assert scratch.run("reconcile", "--wait").returncode == 0
    path = scratch.stages("a")["s"]["log_path"]
    assert (scratch.path / path).read_bytes() == log


def test_a_secret_reaches_no_file(scratch: Scratch) -> None:
    secret, token = "hunter2" * 3, "gh" + "p_" + "A1b2" * 9
    scratch.simple("a", f"printf %s {token[:20]}; sleep 0.2; echo {token[20:]}; echo value=$SOME_TOKEN; exit 1")
    done = scratch.run("reconcile", "--wait", SOME_TOKEN=secret)
    assert done.returncode == 1
    assert scratch.stages("a")["s"]["redactions"] >= 2
    assert "redacted" in (scratch.path / scratch.stages("a")["s"]["log_path"]).read_text()
    # The command itself is committed content; what must not appear is the whole secret, anywhere but there.
    for path in scratch.path.rglob("*"):
        if path.is_file() and ".git/objects" not in str(path):
            assert secret.encode() not in path.read_bytes(), path
            assert token.encode() not in path.read_bytes(), path
    objects = scratch.git("cat-file", "--batch-all-objects", "--batch-check").splitlines()
    for oid in (each.split()[0] for each in objects if " blob " in each):
        data = subprocess.run(["git", "cat-file", "blob", oid], cwd=scratch.path, capture_output=True, check=True)
        assert secret.encode() not in data.stdout and token.encode() not in data.stdout


def test_a_stage_that_ignores_term_is_killed_after_the_grace(scratch: Scratch) -> None:
    scratch.settings()
    scratch.pipeline(
        "p",
        "workspace: empty\nstages:\n  - id: s\n    command: trap '' TERM; while true; do sleep 0.1; done\n    timeout: 500ms\n",
    )
    scratch.request("a", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    stage = scratch.stages("a")["s"]
    assert (stage["status"], stage["timed_out"], stage["signal"]) == ("failed", True, "SIGKILL")
    assert 0.9 < stage["duration_s"] < 5


@pytest.mark.parametrize("leave", ["sleep 60 &", "setsid sleep 60 &", "setsid sh -c 'trap \"\" TERM; sleep 60' &"])
def test_what_a_stage_leaves_behind_holds_up_nobody(scratch: Scratch, leave: str) -> None:
    scratch.settings()
    scratch.simple("a", f"{leave} echo said")
    began = time.monotonic()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert time.monotonic() - began < 15
    assert (scratch.path / scratch.stages("a")["s"]["log_path"]).read_text() == "said\n"
    assert scratch.processes(scratch.directory("a")) == []


def test_what_is_still_dying_is_waited_for_before_the_next_try(scratch: Scratch) -> None:
    """A process that was KILLed takes a while to give back a lot of memory, and keeps its locks until it has."""
    scratch.settings()
    own, ready = scratch.outside / "own", scratch.outside / "ready"
    deaf = f"import signal, time; signal.signal(15, signal.SIG_IGN); held = b'x' * 2**29; open('{ready}', 'w'); time.sleep(60)"
    command = f"""exec 9>> {own}
flock -n 9 || exit 7
test -e {ready} && exit 0
{sys.executable} -c "{deaf}" > /dev/null 2>&1 &
until test -e {ready}; do sleep 0.02; done
exit 1"""
    stage = {"id": "s", "command": command, "attempts_max": 2, "backoff": "1ms"}
    scratch.pipeline("p", json.dumps({"workspace": "empty", "stages": [stage]}))
    scratch.request("a", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0, scratch.manifest("a")
    assert scratch.stages("a")["s"]["tries"] == 2


def test_a_stage_that_kills_its_own_group_is_told_truly(scratch: Scratch) -> None:
    scratch.simple("a", "echo before; kill -9 0; echo after")
    assert scratch.run("reconcile", "--wait").returncode == 1
    stage = scratch.stages("a")["s"]
    assert (stage["status"], stage["signal"], stage["exit_code"]) == ("failed", "SIGKILL", None)
    assert scratch.manifest("a")["status"] == "failed"


def test_a_full_disk_ends_in_a_true_record(scratch: Scratch, tmp_path: Path) -> None:
    runs = scratch.path / ".runs"
    runs.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(runs)], capture_output=True, check=False
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("mounting a small tmpfs needs root and a kernel that lets it")
    try:
        scratch.settings()
        scratch.simple("a", "head -c 20000000 /dev/zero > big; echo filled; head -c 100000 /dev/zero")
        scratch.start("reconcile").communicate(timeout=30)
        scratch.wait_for(lambda: scratch.record("a", "attempts/1.json").exists())
        scratch.wait_for(lambda: scratch.attempt("a")["outcome"] is not None, 60)
        attempt = scratch.attempt("a")
        assert attempt["outcome"] == "failed"
        assert "No space left" in attempt["stages"][0]["summary"]
        for path in (scratch.directory("a") / "workspace").iterdir():
            path.unlink()
        assert scratch.run("reconcile", "--wait").returncode == 1
        assert scratch.manifest("a")["status"] == "failed"
    finally:
        scratch.kill()
        subprocess.run(["umount", "-l", str(runs)], check=True)


# ------------------------------------------------------------------------------------------------ pipelines


def test_stages_run_in_parallel_as_their_needs_allow(scratch: Scratch) -> None:
    stages = "".join(f"  - id: {name}\n    command: sleep 0.6\n    needs: []\n" for name in ("a", "b"))
    scratch.pipeline("p", f"workspace: empty\nstages:\n{stages}  - id: c\n    command: 'true'\n    needs: [a, b]\n")
    scratch.request("r", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    stages_run = scratch.stages("r")
    assert stages_run["b"]["started_at"] < stages_run["a"]["completed_at"]
    assert stages_run["c"]["started_at"] >= max(stages_run[each]["completed_at"] for each in "ab")


def test_a_stage_is_tried_again_after_its_backoff(scratch: Scratch) -> None:
    command = f"echo x >> {scratch.outside}/n; test $(wc -l < {scratch.outside}/n) -ge 3"
    scratch.pipeline(
        "p", f"workspace: empty\nstages:\n  - id: s\n    attempts_max: 3\n    backoff: 200ms\n    command: {command}\n"
    )
    scratch.request("a", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    stage = scratch.stages("a")["s"]
    assert (stage["tries"], stage["status"]) == (3, "succeeded")
    log = (scratch.path / stage["log_path"]).read_bytes()
    assert b"--- try 3 ---" in log
    assert hashlib.sha256(log).hexdigest() == stage["log_sha256"]


def test_failures_stop_what_needs_them_unless_they_are_allowed(scratch: Scratch) -> None:
    scratch.pipeline(
        "p",
        "workspace: empty\nstages:\n  - id: lint\n    command: exit 4\n    allow_failure: true\n"
        "  - id: build\n    command: exit 5\n  - id: ship\n    command: 'true'\n",
    )
    scratch.request("a", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    stages = scratch.stages("a")
    assert [(each["status"], each["exit_code"]) for each in stages.values()] == [
        ("failed", 4), ("failed", 5), ("skipped", None),
    ]  # fmt: skip
    assert stages["ship"]["summary"] == "not started: build failed"
    error = json.loads(scratch.git("show", f"HEAD:{stages['build']['error_file']}"))
    assert error["exit_code"] == 5


def test_a_target_runs_what_it_needs_and_nothing_else(scratch: Scratch) -> None:
    stages = "  - id: a\n    command: 'true'\n  - id: b\n    command: 'true'\n    needs: []\n  - id: c\n    command: 'true'\n    needs: [a]\n"
    scratch.pipeline("p", f"workspace: empty\nstages:\n{stages}")
    scratch.request("r", "p", target="c")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert {name: each["status"] for name, each in scratch.stages("r").items()} == {
        "a": "succeeded", "b": "skipped", "c": "succeeded",
    }  # fmt: skip


def test_a_run_times_out_as_a_whole(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", "sleep 60", timeout="700ms")
    assert scratch.run("reconcile", "--wait").returncode == 1
    manifest = scratch.manifest("a")
    assert "the run timed out after 0.7 s" in manifest["status_detail"]


def test_context_and_parameters_come_as_environment(scratch: Scratch) -> None:
    scratch.pipeline(
        "p",
        "workspace: empty\nparameters: {python: {default: '3.12'}, fast: {default: true}}\n"
        "stages:\n  - id: s\n    env: {GREETING: hi}\n"
        '    command: env | sort; echo quoted="$PARAM_PYTHON"\n',
    )
    scratch.write("runs.d/a.yaml", "task: t\npipeline: p\nparameters: {python: '$(touch /tmp/x); 3.10'}\n")
    commit = scratch.commit()
    assert (
        scratch.run("reconcile", "--wait", GIT_DIR="/nowhere", OUTER="seen", RECONCILER_TOKEN="t0k3n-value").returncode
        == 0
    )
    printed = (scratch.path / scratch.stages("a")["s"]["log_path"]).read_text()
    said = dict(line.partition("=")[::2] for line in printed.splitlines())
    assert said["PARAM_PYTHON"] == "$(touch /tmp/x); 3.10" == said["quoted"]
    assert (said["PARAM_FAST"], said["GREETING"], said["OUTER"]) == ("true", "hi", "seen")
    run_id = scratch.run_id("a")
    assert (said["RECONCILER_RUN_ID"], said["RECONCILER_TASK_ID"], said["RECONCILER_STAGE_ID"]) == (run_id, "t", "s")
    assert (said["RECONCILER_ATTEMPT"], said["RECONCILER_COMMIT"]) == ("1", commit)
    assert said["RECONCILER_MANIFEST_PATH"] == f"{said['RECONCILER_RUN_DIR']}/manifest.json"
    assert "GIT_DIR" not in said and "RECONCILER_TOKEN" not in said


@pytest.mark.parametrize("workspace", ["worktree", "checkout", "empty"])
def test_the_three_workspaces(scratch: Scratch, workspace: str) -> None:
    scratch.write("sub/file.txt", "committed\n")
    scratch.pipeline(
        "p",
        f"workspace: {workspace}\nstages:\n  - id: s\n    command: pwd; cat sub/file.txt || true; git rev-parse HEAD || true\n",
    )
    scratch.request("a", "p")
    commit = scratch.commit()
    scratch.write("sub/file.txt", "edited\n")
    assert scratch.run("reconcile", "--wait").returncode == 0
    log = (scratch.path / scratch.stages("a")["s"]["log_path"]).read_text()
    place = str(scratch.path) if workspace == "checkout" else str(scratch.directory("a") / "workspace")
    assert log.startswith(f"{place}\n")
    assert ("edited" in log, "committed\n" in log) == (workspace == "checkout", workspace == "worktree")
    assert (commit in log) == (workspace != "empty" or commit in log)
    assert not (scratch.directory("a") / "workspace").exists()
    assert scratch.git("worktree", "list").count("\n") == 1


def test_a_command_or_directory_that_is_not_there_is_said(scratch: Scratch) -> None:
    scratch.pipeline("p", "workspace: empty\nstages:\n  - id: s\n    command: [no-such-command]\n")
    scratch.pipeline("q", "workspace: empty\nstages:\n  - id: s\n    command: [ls]\n    cwd: nowhere\n")
    scratch.request("a", "p")
    scratch.request("b", "q")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    assert scratch.stages("a")["s"]["summary"] == "cannot start 'no-such-command': No such file or directory"
    assert scratch.stages("b")["s"]["summary"] == "cannot start directory 'nowhere': No such file or directory"
