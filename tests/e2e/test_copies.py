"""Copies of a repository on the machine of the original: what a copied record names is not of the copy."""

from __future__ import annotations

import os
from pathlib import Path

from tests.scratch import Hub, Scratch, wait_for


def patient(outside: Path) -> str:
    """Return a command that tells when it begins, and ends when it is let."""
    return f"echo $RECONCILER_ATTEMPT $$ >> {outside}/begun; until test -e {outside}/go; do sleep 0.05; done"


def begun(outside: Path) -> list[str]:
    path = outside / "begun"
    return path.read_text().splitlines() if path.exists() else []


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}/fd/0").is_symlink()


def test_copies_of_a_clone_leave_the_run_of_the_original_alone(hub: Hub) -> None:
    [a] = hub.clones("a", lease_s=30)
    a.simple("x", patient(hub.outside))
    a.push()
    first = a.start("reconcile", "--wait")
    wait_for(lambda: begun(hub.outside) and a.record("x", "attempts/1.json").exists())
    worker = a.attempt("x")["worker"]["pid"]
    for each in ("c1", "c2", "c3"):
        done = a.copied(each).run("reconcile")
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)
        assert f"attempt 1 of it is executed by {os.uname().nodename}" in done.stderr
        assert lives(worker), "a copy has ended what is not its own"
    (hub.outside / "go").touch()
    first.communicate(timeout=60)
    assert len(begun(hub.outside)) == 1
    assert hub.outcomes("x") == ["succeeded"] and hub.shared() == []


def test_a_copy_without_a_remote_ends_nothing_of_the_original_and_goes_on_by_itself(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("x", patient(scratch.outside))
    first = scratch.start("reconcile", "--wait")
    wait_for(lambda: begun(scratch.outside) and scratch.record("x", "attempts/1.json").exists())
    worker = scratch.attempt("x")["worker"]["pid"]
    copy = scratch.copied("copy")
    assert "is gone: its lock is free" in copy.run("reconcile").stderr
    wait_for(lambda: len(begun(scratch.outside)) == 2)
    assert lives(worker) and lives(int(begun(scratch.outside)[0].split()[1])), "neither worker nor stage was ended"
    (scratch.outside / "go").touch()
    first.communicate(timeout=60)
    copy.run("reconcile", "--wait")
    found = [[each["outcome"] for each in place.manifest("x")["attempts"]] for place in (scratch, copy)]
    assert found == [["succeeded"], ["lost", "succeeded"]]


def test_a_run_that_is_cancelled_in_a_copy_goes_on_in_the_original(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("x", patient(scratch.outside))
    first = scratch.start("reconcile", "--wait")
    wait_for(lambda: begun(scratch.outside) and scratch.record("x", "attempts/1.json").exists())
    copy = scratch.copied("copy")
    assert copy.run("cancel", "x", "--reason", "not here").returncode == 0
    (scratch.outside / "go").touch()
    first.communicate(timeout=60)
    assert scratch.manifest("x")["status"] == "succeeded"
