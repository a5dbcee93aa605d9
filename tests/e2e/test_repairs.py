"""What is killed is repaired by the next pass: reconcilers, workers, stages, and git in the middle of its work."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from reconciler.locks import LOCK_AGE_S
from reconciler.model import Process
from reconciler.process import descendants, is_alive
from tests.scratch import Scratch

STAGE = """  - id: s{n}
    attempts_max: 20
    backoff: 20ms
    command: |
      exec 9>> {out}/$RECONCILER_RUN_ID.lock
      flock -n 9 || test $? -ne 1 || echo "s{n} of $RECONCILER_RUN_ID, attempt $RECONCILER_ATTEMPT" >> {out}/twice
      echo start s{n} $RECONCILER_ATTEMPT >> {out}/$RECONCILER_RUN_ID.trace
      sleep 0.{n}
      echo end s{n} $RECONCILER_ATTEMPT >> {out}/$RECONCILER_RUN_ID.trace
"""
"""The kernel keeps the lock for as long as anything of a stage lives, so `twice` is written by what really overlaps: 1 is
what `flock` exits with when another has the lock, and not when it is among the victims itself."""


def traced(scratch: Scratch, count: int) -> str:
    stages = "".join(STAGE.format(n=n, out=scratch.outside) for n in range(1, count + 1))
    return f"workspace: empty\nstages:\n{stages}"


def repeated(scratch: Scratch, name: str) -> list[str]:
    """Return the starts of a stage in an attempt behind the one whose record says that it had succeeded."""
    done: dict[str, int] = {}
    for path in sorted((scratch.directory(name) / "attempts").glob("*.json"), key=lambda each: int(each.stem)):
        for record in json.loads(path.read_bytes())["stages"]:
            if record["status"] == "succeeded":
                done.setdefault(record["id"], record["attempt"])
    lines = (scratch.outside / f"{scratch.run_id(name)}.trace").read_text().splitlines()
    starts = [line.split()[1:] for line in lines if line.startswith("start")]
    return [f"{stage} in attempt {attempt}" for stage, attempt in starts if int(attempt) > done[stage]]


@pytest.mark.parametrize("seed", range(3))
def test_no_two_stages_of_a_run_ever_live_at_once_and_none_is_repeated(scratch: Scratch, seed: int) -> None:
    chance = random.Random(seed)
    scratch.settings("attempts_max: 100\nruns_max: 4\n")
    scratch.pipeline("p", traced(scratch, 3))
    names = [f"r{number}" for number in range(4)]
    for name in names:
        scratch.request(name, "p")
    scratch.commit()
    for _ in range(12):
        reconcilers = [scratch.start("reconcile", "--wait") for _ in range(chance.choice([1, 2]))]
        ends_at = time.monotonic() + chance.uniform(0.1, 0.9)
        while time.monotonic() < ends_at and any(each.poll() is None for each in reconcilers):
            victims = scratch.processes(scratch.path / ".runs")
            if victims and chance.random() < 0.2:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(chance.choice(victims), signal.SIGKILL)
            time.sleep(0.03)
        for each in reconcilers:
            each.kill()
            each.communicate()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    assert not (scratch.outside / "twice").exists(), (scratch.outside / "twice").read_text()
    for name in names:
        assert scratch.manifest(name)["status"] == "succeeded"
        assert repeated(scratch, name) == []
    assert scratch.git("status", "--porcelain") == ""


@pytest.mark.parametrize("record", ["plan.json", "lock", "claims/1.json", "attempts/1.json", "manifest.json"])
def test_a_reconciler_that_is_killed_when_a_record_appears_loses_nothing(scratch: Scratch, record: str) -> None:
    scratch.settings()
    scratch.pipeline("p", traced(scratch, 2))
    scratch.request("a", "p")
    scratch.commit()
    reconciler = scratch.start("reconcile", "--wait")
    scratch.wait_for(lambda: scratch.record("a", record).exists() or reconciler.poll() is not None)
    reconciler.kill()
    reconciler.communicate()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    assert not (scratch.outside / "twice").exists()
    assert scratch.manifest("a")["status"] == "succeeded"
    assert repeated(scratch, "a") == []


def test_a_request_whose_start_was_killed_is_run_by_the_next_pass(scratch: Scratch) -> None:
    scratch.settings()
    scratch.pipeline("p", traced(scratch, 1))
    scratch.commit()
    start = scratch.start("start", "p", "--task", "t")
    scratch.wait_for(lambda: "runs.d" in scratch.git("ls-tree", "--name-only", "HEAD"))
    start.kill()
    start.communicate()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert scratch.manifest("0001-p")["status"] == "succeeded"
    assert scratch.git("status", "--porcelain") == ""


def test_a_reconciler_that_ends_leaves_its_workers_and_nothing_else(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", f"until test -e {scratch.outside}/go; do sleep 0.05; done")
    reconciler = scratch.start("reconcile", "--wait")
    scratch.wait_for(lambda: "running" in [each["status"] for each in stages_of_attempt(scratch, "a")])
    worker = Process(**scratch.attempt("a")["worker"])
    below = set(descendants(reconciler.pid)) - {worker.pid, *descendants(worker.pid)}
    os.kill(reconciler.pid, signal.SIGTERM)
    reconciler.communicate(timeout=10)
    scratch.wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in below))
    assert is_alive(worker)
    (scratch.outside / "go").touch()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert len(scratch.manifest("a")["attempts"]) == 1


def stages_of_attempt(scratch: Scratch, name: str) -> list[dict[str, str]]:
    return scratch.attempt(name)["stages"] if scratch.record(name, "attempts/1.json").exists() else []


def test_a_worker_that_is_told_to_stop_kills_a_stage_that_does_not_listen(scratch: Scratch) -> None:
    scratch.settings()
    until = f"until test -e {scratch.outside}/go; do sleep 0.05; done"
    # Deaf before it says that it is there, and so is everything it starts: an ignored signal is inherited.
    scratch.simple("a", f"trap '' TERM; (setsid sh -c '{until}' &); touch {scratch.outside}/on; {until}")
    scratch.run("reconcile")
    scratch.wait_for((scratch.outside / "on").exists)
    worker = Process(**scratch.attempt("a")["worker"])
    began = time.monotonic()
    os.kill(worker.pid, signal.SIGTERM)
    scratch.wait_for(lambda: not is_alive(worker))
    assert 0.4 < time.monotonic() - began < 4
    assert scratch.processes(scratch.directory("a")) == []
    attempt = scratch.attempt("a")
    assert (attempt["outcome"], attempt["stages"][0]["status"]) == ("interrupted", "interrupted")
    (scratch.outside / "go").touch()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert [each["outcome"] for each in scratch.manifest("a")["attempts"]] == ["interrupted", "succeeded"]


def test_the_time_of_an_attempt_that_was_killed_counts(scratch: Scratch) -> None:
    """A run's timeout is that of all its attempts together, also of one whose worker could not say how long it took."""
    scratch.settings()
    scratch.simple("a", "sleep 60", timeout="3s")
    scratch.run("reconcile")

    def lived_s() -> float:
        with contextlib.suppress(ValueError, OSError):
            beat = json.loads(scratch.record("a", ".heartbeat").read_bytes())
            return float(beat["monotonic_s"] - scratch.attempt("a")["started"]["monotonic_s"])
        return 0.0

    scratch.wait_for(lambda: lived_s() > 1.5)
    scratch.kill_run("a")
    assert scratch.run("reconcile", "--wait").returncode == 1
    assert "the run timed out after 3 s" in scratch.manifest("a")["status_detail"]
    assert scratch.attempt("a", 2)["elapsed_s"] < 2.2


# ------------------------------------------------------------------------------------------------ git


def kill_git_at(scratch: Scratch, pattern: str) -> None:
    """Let git and everything it started be SIGKILLed, once, when it checks out a file that matches."""
    (scratch.outside / "armed").touch()
    script = scratch.outside / "smudge"
    script.write_text(
        "#!/bin/sh\n"
        f"test -e {scratch.outside}/armed || exec cat\n"
        f'test "$(cut -d" " -f5 /proc/$$/stat)" != {os.getpgrp()} || exec cat\n'
        f"rm {scratch.outside}/armed\nkill -9 0\n"
    )
    script.chmod(0o755)
    scratch.write(".gitattributes", f"{pattern} filter=deadly\n")
    for key, value in (("clean", "cat"), ("smudge", str(script)), ("required", "true")):
        scratch.git("config", f"filter.deadly.{key}", value)


def test_a_worktree_is_made_although_git_was_killed_while_it_made_one(scratch: Scratch) -> None:
    scratch.write("file.txt", "x\n")
    scratch.pipeline("p", "workspace: worktree\nstages:\n  - id: s\n    command: cat file.txt\n")
    scratch.request("a", "p")
    kill_git_at(scratch, "file.txt")
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert not (scratch.outside / "armed").exists(), done.stderr
    assert done.returncode == 0, done.stderr
    assert scratch.manifest("a")["status"] == "succeeded"
    assert scratch.git("worktree", "list").count("\n") == 1
    assert list((scratch.path / ".git").glob("worktrees/*")) == []


def test_what_a_git_that_was_killed_among_the_files_has_written_is_nobody_s_work(scratch: Scratch) -> None:
    scratch.settings("runs_max: 2\n")
    scratch.pipeline("p", "workspace: empty\nstages:\n  - {id: s, command: 'true'}\n")
    until = f"until test -e {scratch.outside}/go; do sleep 0.05; done"
    scratch.pipeline("q", f"workspace: empty\nstages:\n  - {{id: s, command: '{until}'}}\n")
    scratch.write("tasks/t.md", "- [ ] Done <!-- item: t/done -->\n")
    scratch.request("a", "p", proves=["t/done"])
    scratch.request("b", "q")
    kill_git_at(scratch, "tasks/t.md")
    scratch.commit()
    scratch.run("reconcile")
    scratch.wait_for(lambda: not scratch.processes(scratch.directory("a")))
    scratch.run("reconcile")
    assert not (scratch.outside / "armed").exists()
    assert (scratch.path / "out/t/README.md").exists()
    assert not scratch.git("ls-files", "out")
    lock = scratch.path / ".git/index.lock"
    os.utime(lock, (lock.stat().st_mtime - LOCK_AGE_S - 1,) * 2)
    (scratch.outside / "go").touch()
    scratch.wait_for(lambda: not scratch.processes(scratch.directory("b")))
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    assert [scratch.manifest(each)["status"] for each in "ab"] == ["succeeded", "succeeded"]
    assert scratch.git("status", "--porcelain") == ""
