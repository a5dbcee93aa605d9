"""Where runs are executed and whose turn it is, with real workers: what is recorded is what happened."""

from __future__ import annotations

import json
import os
import signal

from tests.scratch import Scratch, wait_for


def noted(scratch: Scratch, name: str, task: str, **keys: object) -> None:
    """Write a request whose stage notes its name, and goes on once `outside/go` is there."""
    told = f"echo {name} >> {scratch.outside}/noted; until test -e {scratch.outside}/go; do sleep 0.05; done"
    scratch.pipeline(name, f"workspace: empty\nstages:\n  - id: s\n    command: {json.dumps(told)}\n")
    more = "".join(f"{key}: {value}\n" for key, value in keys.items())
    scratch.write(f"runs.d/{name}.yaml", f"task: {task}\npipeline: {name}\n{more}")


def begun(scratch: Scratch) -> list[str]:
    file = scratch.outside / "noted"
    return file.read_text().split() if file.exists() else []


def test_tasks_take_turns_and_a_killed_worker_is_told_as_one_that_died(scratch: Scratch) -> None:
    scratch.settings("runs_max: 1\n")
    for name, task in (("a", "t"), ("b", "t"), ("x", "u")):
        noted(scratch, name, task)
    scratch.commit()
    scratch.run("reconcile")
    wait_for(lambda: begun(scratch) == ["a"])
    turn = "waits for a free slot (runs_max); tasks take turns, and"
    assert f"next: it waits, because it {turn} it is next" in scratch.run("why", "x").stdout
    assert f"{turn} another one goes first" in scratch.run("status").stdout
    scratch.kill_run("a")
    (scratch.outside / "go").touch()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert begun(scratch) == ["a", "a", "x", "b"]
    first, second = (each["placement"] for each in scratch.manifest("a")["attempts"])
    here = os.uname().nodename
    assert (first["executor"], first["instance"], first["reason"]) == ("local", here, "the only one that fits")
    assert (second["executor"], second["instance"], second["reason"]) == ("local", here, "it goes on where it was")
    [recovery] = scratch.manifest("a")["recoveries"]
    assert (recovery["attempt"], recovery["lost"]) == (2, 1)
    assert (recovery["cause"], recovery["silent_s"], recovery["instance"]) == ("worker_died", None, here)
    assert scratch.manifest("b")["recoveries"] == [], "nothing was lost, and nothing is told"


def test_a_worker_that_hangs_is_told_with_its_silence(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "a", "t")
    scratch.commit()
    scratch.run("reconcile")
    wait_for(lambda: begun(scratch) == ["a"])
    os.kill(scratch.attempt("a")["worker"]["pid"], signal.SIGSTOP)
    (scratch.outside / "go").touch()
    assert scratch.run("reconcile", "--wait").returncode == 0
    [recovery] = scratch.manifest("a")["recoveries"]
    assert recovery["cause"] == "silent"
    assert recovery["silent_s"] > 1, "the setting is 1 s"
    assert recovery["detail"].startswith("no heartbeat of attempt 1 for ")


def test_a_run_waits_for_what_its_host_does_not_offer(scratch: Scratch) -> None:
    scratch.settings()
    (scratch.outside / "go").touch()
    noted(scratch, "a", "t", capabilities="[gpu]")
    scratch.commit()
    scratch.run("reconcile", "--wait")
    assert begun(scratch) == []
    said = "waits for an executor with gpu: those of this host offer none"
    assert said in scratch.run("why", "a").stdout
    wrong = scratch.run("reconcile", RECONCILER_CAPABILITIES="GPU")
    assert (wrong.returncode, "RECONCILER_CAPABILITIES: 'GPU' is no capability" in wrong.stderr) == (2, True)
    assert scratch.run("reconcile", "--wait", RECONCILER_CAPABILITIES="gpu, cuda").returncode == 0
    [attempt] = scratch.manifest("a")["attempts"]
    assert attempt["placement"]["asked"] == ["gpu"]
    assert attempt["placement"]["offered"] == ["cuda", "gpu"]
