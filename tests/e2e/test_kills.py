"""Kill anything at any moment: the next pass repairs it, nothing of one run runs twice at once."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from reconciler.model import Process
from reconciler.process import is_alive
from tests.scratch import Scratch

pytestmark = pytest.mark.executed

FOUR = "".join(
    f"  - id: s{n}\n    attempts_max: 10\n    backoff: 50ms\n"
    f"    command: echo start s{n} $$ >> $LOG; sleep 0.{n + 1}; echo end s{n} $$ >> $LOG\n"
    for n in range(4)
)


def traced(scratch: Scratch) -> str:
    """Return a pipeline of four stages that write down when they begin and end."""
    stages = FOUR.replace("$LOG", f"{scratch.outside}/$RECONCILER_RUN_ID")
    return f"workspace: empty\nstages:\n{stages}"


def overlaps(text: str) -> list[str]:
    """Return the stages that began while the same stage of the same run had not ended and was alive."""
    running: dict[str, str] = {}
    found = []
    for line in text.splitlines():
        what, stage, pid = line.split()
        if what == "start":
            if stage in running and _lived(running[stage], text):
                found.append(line)
            running[stage] = pid
        else:
            running.pop(stage, None)
    return found


def _lived(pid: str, text: str) -> bool:
    """Return whether a process that another one followed went on to its end: then both ran at once."""
    return any(line.startswith("end") and line.endswith(f" {pid}") for line in text.splitlines())


@pytest.mark.parametrize("seed", range(4))
def test_random_kills_of_reconcilers_workers_and_stages(scratch: Scratch, seed: int) -> None:
    chance = random.Random(seed)
    scratch.settings("attempts_max: 50\nruns_max: 3\n")
    scratch.pipeline("p", traced(scratch))
    names = [f"r{number}" for number in range(5)]
    for name in names:
        scratch.request(name, "p")
    scratch.commit()
    for _ in range(12):
        reconciler = scratch.start("reconcile", "--wait")
        ends_at = time.monotonic() + chance.uniform(0.2, 1.2)
        while reconciler.poll() is None and time.monotonic() < ends_at:
            time.sleep(0.05)
            victims = [pid for pid in scratch.processes(scratch.path / ".runs") if pid != reconciler.pid]
            if victims and chance.random() < 0.15:
                try:
                    os.kill(chance.choice(victims), signal.SIGKILL)
                except ProcessLookupError:
                    continue
        reconciler.kill()
        reconciler.communicate()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    for name in names:
        assert scratch.manifest(name)["status"] == "succeeded"
        text = (scratch.outside / scratch.run_id(name)).read_text()
        assert overlaps(text) == [], text
    assert scratch.git("status", "--porcelain") == ""
    assert scratch.git("fsck", "--no-dangling") == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_go_on_when_the_reconciler_is_told_to_stop(scratch: Scratch, number: signal.Signals) -> None:
    scratch.settings()
    scratch.simple("a", f"sleep 1.5; echo done >> {scratch.outside}/ran")
    reconciler = scratch.start("reconcile", "--wait")
    scratch.wait_for(lambda: scratch.record("a", "attempts/1.json").exists())
    os.killpg(reconciler.pid, number)
    _, errors = reconciler.communicate(timeout=10)
    assert "Traceback" not in errors
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert (scratch.outside / "ran").read_text() == "done\n"
    assert len(scratch.manifest("a")["attempts"]) == 1


def test_a_worker_that_is_told_to_stop_ends_its_stages_and_can_be_resumed(scratch: Scratch) -> None:
    scratch.settings()
    scratch.pipeline(
        "p",
        "workspace: empty\nstages:\n"
        f"  - id: quick\n    command: echo quick >> {scratch.outside}/ran\n"
        f"  - id: slow\n    command: test -e {scratch.outside}/go || sleep 60; echo slow >> {scratch.outside}/ran\n",
    )
    scratch.request("a", "p")
    scratch.commit()
    scratch.run("reconcile")
    scratch.wait_for(lambda: "running" in [each["status"] for each in _stages(scratch)[1:]])
    worker = scratch.attempt("a")["worker"]
    os.kill(worker["pid"], signal.SIGTERM)
    scratch.wait_for(lambda: not is_alive(Process(**worker)), 5)
    assert scratch.processes(scratch.directory("a")) == []
    assert scratch.attempt("a")["outcome"] == "interrupted"
    (scratch.outside / "go").touch()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert (scratch.outside / "ran").read_text() == "quick\nslow\n"
    assert [each["outcome"] for each in scratch.manifest("a")["attempts"]] == ["interrupted", "succeeded"]
    assert scratch.stages("a")["quick"]["attempt"] == 1


def _stages(scratch: Scratch) -> list[dict[str, str]]:
    return scratch.attempt("a")["stages"] if scratch.record("a", "attempts/1.json").exists() else []


def test_a_worker_that_hangs_is_fenced_and_its_run_resumed(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", f"echo ran >> {scratch.outside}/ran; test -e {scratch.outside}/go || sleep 60")
    scratch.run("reconcile")
    scratch.wait_for(lambda: (scratch.outside / "ran").exists())
    worker = scratch.attempt("a")["worker"]
    os.kill(worker["pid"], signal.SIGSTOP)
    (scratch.outside / "go").touch()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    assert "no heartbeat of attempt 1" in done.stderr
    assert not is_alive(Process(**worker))
    assert [each["outcome"] for each in scratch.manifest("a")["attempts"]] == ["lost", "succeeded"]


def test_a_stage_that_outlives_its_heartbeat_limit_is_not_stale(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", "sleep 2.5")
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert len(scratch.manifest("a")["attempts"]) == 1


def test_a_stage_that_survives_its_worker_is_ended_before_the_next_attempt(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", f"echo $$ >> {scratch.outside}/pids; test -e {scratch.outside}/go || (setsid sleep 60 & wait)")
    scratch.run("reconcile")
    scratch.wait_for(lambda: (scratch.outside / "pids").exists() and scratch.record("a", "attempts/1.json").exists())
    os.kill(scratch.attempt("a")["worker"]["pid"], signal.SIGKILL)
    survivor = scratch.processes(scratch.directory("a"))
    assert survivor
    (scratch.outside / "go").touch()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert not set(survivor) & set(scratch.processes())
    assert len(scratch.manifest("a")["attempts"]) == 2


def test_attempts_are_bounded(scratch: Scratch) -> None:
    scratch.settings("attempts_max: 2\n")
    scratch.simple("a", "kill -9 $PPID; sleep 60")
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 1
    manifest = scratch.manifest("a")
    assert manifest["status"] == "failed"
    assert "all 2 attempts are used" in manifest["status_detail"]
    assert [each["outcome"] for each in manifest["attempts"]] == ["lost", "lost"]
