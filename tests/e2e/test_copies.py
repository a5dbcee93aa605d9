"""Copies of a repository: what a copied record names is not of the copy, and neither is what is said in a copied name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reconciler.conditions import read_conditions
from reconciler.host import machine_of
from tests.scratch import Clone, Hub, Scratch, wait_for


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


# ------------------------------------------------------------------------------------------------ one name for two


def twin(clone: Clone, name: str) -> Clone:
    """Return a copy of a clone that has its name as well, as a copy of a virtual machine has with its whole disk."""
    found = clone.copied(name)
    path = found.path / ".git/reconciler/host.json"
    known = json.loads(path.read_bytes())
    path.write_text(json.dumps({**known, "machine": machine_of(found.path / ".git")}))
    return found


def name_of(clone: Clone) -> str:
    return str(json.loads((clone.path / ".git/reconciler/host.json").read_bytes())["host"])


def conditions(clone: Clone) -> dict[str, str]:
    return {each: said["reason"] for each, said in read_conditions(clone.path / ".git/reconciler").items()}


def named(hub: Hub, lease_s: float = 30) -> Clone:
    """Return a clone that has a name, because it has executed a run."""
    [a] = hub.clones("a", lease_s=lease_s)
    a.simple("before", "true")
    a.push()
    assert a.run("reconcile", "--wait").returncode == 0
    a.git("pull", "-q")
    return a


def test_what_a_clone_of_the_same_name_has_claimed_is_not_taken_over_before_its_lease(hub: Hub) -> None:
    a = named(hub)
    b = twin(a, "b")
    assert name_of(a) == name_of(b)
    a.simple("x", patient(hub.outside))
    a.push()
    first = a.start("reconcile", "--wait")
    wait_for(lambda: begun(hub.outside))
    before = name_of(a)
    for _ in range(3):
        done = b.run("reconcile")
        assert (done.returncode, "taken over" in done.stderr, "Traceback" in done.stderr) == (0, False, False)
    assert name_of(b) != before == name_of(a)
    assert f"another clone speaks as {before}" in conditions(b)["host"] and name_of(b) in conditions(b)["host"]
    assert "another clone speaks as" in b.run("status").stdout
    (hub.outside / "go").touch()
    first.communicate(timeout=60)
    assert len(begun(hub.outside)) == 1 and hub.outcomes("x") == ["succeeded"] and hub.shared() == []
    assert "host" not in conditions(a) and b.run("reconcile").returncode == 0 and "host" not in conditions(b)


def test_of_two_clones_of_one_name_the_one_that_hears_the_other_takes_another_name(hub: Hub) -> None:
    """The copy speaks first, and the original finds words in its name that it never said."""
    a = named(hub)
    b = twin(a, "b")
    b.simple("x", patient(hub.outside))
    b.push()
    second = b.start("reconcile", "--wait")
    wait_for(lambda: begun(hub.outside))
    before = name_of(b)
    for _ in range(3):
        assert "taken over" not in a.run("reconcile").stderr
    assert name_of(a) != before == name_of(b)
    (hub.outside / "go").touch()
    second.communicate(timeout=60)
    assert len(begun(hub.outside)) == 1 and hub.outcomes("x") == ["succeeded"] and hub.shared() == []


def test_a_copy_of_a_machine_in_the_middle_of_a_run_leaves_that_to_the_original(hub: Hub) -> None:
    """What was said in its name since then was not said by the copy."""
    lease_s = 6.0
    a = named(hub, lease_s)
    a.simple("x", patient(hub.outside))
    a.push()
    first = a.start("reconcile", "--wait")
    wait_for(lambda: begun(hub.outside) and a.record("x", "attempts/1.json").exists())
    said = hub.refs("refs/reconciler/hosts")
    b = twin(a, "b")
    wait_for(lambda: hub.refs("refs/reconciler/hosts") != said, lease_s)
    for _ in range(3):
        assert b.run("reconcile").returncode == 0
    assert name_of(b) != name_of(a) and len(begun(hub.outside)) == 1
    (hub.outside / "go").touch()
    first.communicate(timeout=60)
    assert len(begun(hub.outside)) == 1 and hub.outcomes("x") == ["succeeded"]


def test_what_was_claimed_by_a_clone_of_the_same_name_that_is_gone_is_taken_over_after_its_lease(hub: Hub) -> None:
    a = named(hub, 3.0)
    b = twin(a, "b")
    a.simple("x", f"echo $RECONCILER_ATTEMPT $$ >> {hub.outside}/begun; test $RECONCILER_ATTEMPT != 1 || sleep 300")
    a.push()
    first = a.start("reconcile", "--wait")
    wait_for(lambda: begun(hub.outside) and a.record("x", "attempts/1.json").exists())
    a.crash()
    assert first.returncode != 0
    assert b.run("reconcile", "--wait").returncode == 0
    assert [each.split()[0] for each in begun(hub.outside)] == ["1", "2"] and hub.outcomes("x") == ["lost", "succeeded"]
    assert hub.shared() == []


@pytest.mark.parametrize("noted", [True, False])
def test_a_run_is_kept_by_its_host_whatever_an_earlier_version_did_not_note(hub: Hub, noted: bool) -> None:
    a = named(hub)
    a.simple("x", patient(hub.outside))
    a.push()
    a.run("reconcile")
    wait_for(lambda: begun(hub.outside))
    before = name_of(a)
    if not noted:
        (a.path / ".git/reconciler/said.json").unlink()
    for _ in range(2):
        a.run("reconcile")
    assert name_of(a) == before and "host" not in conditions(a)
    (hub.outside / "go").touch()
    assert a.run("reconcile", "--wait").returncode == 0
    assert len(begun(hub.outside)) == 1 and hub.outcomes("x") == ["succeeded"]
