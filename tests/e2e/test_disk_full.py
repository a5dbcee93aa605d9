"""A disk that is full, or that does not keep what it was given: the record is true, and the run goes on afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scratch import ENVIRONMENT, Hub, Scratch, wait_for


@contextlib.contextmanager
def small(place: Path, size: str = "2m") -> Iterator[None]:
    """Put a small file system over a directory, with what was in it."""
    kept = place.with_name(f"{place.name}.kept")
    place.mkdir(parents=True, exist_ok=True)
    place.rename(kept)
    place.mkdir()
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, check=False
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("mounting a small tmpfs needs root and a kernel that lets it")
    try:
        subprocess.run(["cp", "-a", f"{kept}/.", str(place)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, but_bytes: int = 0) -> Path:
    """Fill the file system of a directory but for some bytes, and return what fills it."""
    ballast = place / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(4096)) == 4096:
                pass
        file.truncate(max(0, file.tell() - but_bytes))
    return ballast


def all_records_are_valid(scratch: Scratch) -> None:
    for path in (scratch.path / ".runs").rglob("*.json"):
        if not path.name.startswith(".") and "workspace/" not in str(path):
            json.loads(path.read_bytes())


def ran(scratch: Scratch) -> list[str]:
    path = scratch.outside / "ran"
    return path.read_text().split() if path.exists() else []


PLACES = [".runs", ".git/reconciler", ".git/objects"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shared", [False, True], ids=["local", "shared"])
def test_a_disk_that_is_full_before_anything_began(hub: Hub, place: str, shared: bool) -> None:
    # A claim that is made at the remote and cannot be recorded here costs an attempt.
    [a] = hub.clones("a", more="attempts_max: 50\n" if shared else "remote: null\n", lease_s=60)
    a.simple("x", f"echo $RECONCILER_ATTEMPT >> {hub.outside}/ran")
    a.push()
    with small(a.path / place):
        ballast = fill(a.path / place)
        try:
            for _ in range(2):
                done = a.run("reconcile", "--wait", "--timeout", "3s")
                assert done.returncode == 75, (done.returncode, done.stdout, done.stderr)
                assert "No space left" in done.stderr or place == ".git/objects", done.stderr
                assert "Traceback" not in done.stderr
            assert len(ran(a)) <= (place == ".git/objects")
            all_records_are_valid(a)
        finally:
            ballast.unlink()
        done = a.run("reconcile", "--wait")
        assert done.returncode == 0, (done.stdout, done.stderr)
        assert len(ran(a)) == 1
        all_records_are_valid(a)
        assert a.git("fsck", "--no-dangling") == ""
        assert (hub.outcomes("x") if shared else [a.manifest("x")["status"]])[-1] == "succeeded"
        assert hub.shared() == []
        a.crash()


def test_a_full_disk_costs_a_shared_run_no_attempts(hub: Hub) -> None:
    [a] = hub.clones("a", more="attempts_max: 2\n", lease_s=60)
    a.simple("x", f"echo $RECONCILER_ATTEMPT >> {hub.outside}/ran")
    a.push()
    with small(a.path / ".runs"):
        ballast = fill(a.path / ".runs")
        for _ in range(3):
            assert a.run("reconcile").returncode == 75
        ballast.unlink()
        done = a.run("reconcile", "--wait")
        a.crash()
    assert done.returncode == 0, done.stderr
    assert len(ran(a)) == 1


@pytest.mark.parametrize("free_kib", [4, 16, 64, 270, 400])
def test_a_disk_with_a_little_room_ends_in_a_true_record(scratch: Scratch, free_kib: int) -> None:
    scratch.settings("attempts_max: 50\n")
    scratch.simple(
        "x",
        f"echo $RECONCILER_ATTEMPT >> {scratch.outside}/ran; head -c 600000 /dev/zero | tr '\\0' 'x'; echo; echo end",
    )
    (scratch.path / ".runs").mkdir()
    with small(scratch.path / ".runs"):
        ballast = fill(scratch.path / ".runs", free_kib * 1024)
        try:
            for _ in range(2):
                done = scratch.run("reconcile", "--wait", "--timeout", "3s")
                assert done.returncode in (0, 1, 3, 75), (done.stdout, done.stderr)
                assert "Traceback" not in done.stderr
            all_records_are_valid(scratch)
        finally:
            ballast.unlink()
        done = scratch.run("reconcile", "--wait")
        assert done.returncode in (0, 1), (done.stdout, done.stderr)
        manifest = scratch.manifest("x")
        [stage] = manifest["commands"]
        if manifest["status"] == "succeeded":
            assert stage["exit_code"] == 0
            assert stage["log_bytes"] == 600005
        else:
            assert "No space left" in f"{manifest['status_detail']} {stage['summary']}"
        assert len(ran(scratch)) == len(set(ran(scratch))), "an attempt was executed twice"
        all_records_are_valid(scratch)
        scratch.kill()


def test_a_disk_that_fills_up_while_evidence_is_made(hub: Hub) -> None:
    [a] = hub.clones("a", lease_s=60)
    a.simple("x", f"head -c 40000 /dev/urandom | base64; echo $RECONCILER_ATTEMPT >> {hub.outside}/ran")
    a.push()
    a.run("reconcile")
    wait_for(lambda: a.record("x", "attempts/1.json").exists() and a.attempt("x")["outcome"] == "succeeded")
    with small(a.path / ".git/objects"):
        ballast = fill(a.path / ".git/objects", 8192)
        try:
            done = a.run("reconcile")
            assert (done.returncode, "Traceback" in done.stderr) == (75, False), done.stderr
            assert "waits" in a.run("status").stdout
            assert hub.manifests() == {}
        finally:
            ballast.unlink()
        assert a.run("reconcile", "--wait").returncode == 0
        assert hub.outcomes("x") == ["succeeded"]
        assert ran(a) == ["1"]
        assert a.git("fsck", "--no-dangling") == ""
        a.crash()


def test_a_server_without_room_is_quoted_and_gets_evidence_later(hub: Hub) -> None:
    [a] = hub.clones("a", lease_s=60)
    a.simple("x", f"head -c 40000 /dev/urandom | base64; echo $RECONCILER_ATTEMPT >> {hub.outside}/ran")
    a.push()
    a.run("reconcile")
    wait_for(lambda: a.record("x", "attempts/1.json").exists() and a.attempt("x")["outcome"] == "succeeded")
    with small(hub.path / "objects"):
        ballast = fill(hub.path / "objects", 8192)
        try:
            done = a.run("reconcile")
            assert (done.returncode, "Traceback" in done.stderr) == (75, False), done.stderr
            assert "No space left" in a.run("status").stdout
        finally:
            ballast.unlink()
        assert a.run("reconcile", "--wait").returncode == 0
        assert hub.outcomes("x") == ["succeeded"]
        assert ran(a) == ["1"]
        assert hub.git("fsck", "--no-dangling") == ""


# ------------------------------------------------------------------------------------------------ fsync

FAILING = """
import errno, os, sys
from dataclasses import replace
from reconciler import cli, session, world
from reconciler.disk import Disk

class FailingDisk(Disk):
    left = int(sys.argv[1])

    def count(self, path):
        FailingDisk.left -= 1
        if FailingDisk.left == 0:
            print("it failed:", path)
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    def create(self, path, data, *, sync, mode=0o644):
        super().create(path, data, sync=sync, mode=mode)
        if sync:
            self.count(path)

    def sync_directory(self, directory):
        super().sync_directory(directory)
        self.count(directory)

def open_world(directory, workers=None):
    found = world.open_world(directory, workers)
    return replace(found, disk=FailingDisk(), runs=replace(found.runs, disk=FailingDisk()))

session.open_world = open_world
sys.argv[1:] = ["reconcile"]
cli.main()
"""


def pass_that_fails(scratch: Scratch, number: int) -> bool:
    """Do a pass in which sync number `number` fails, and return whether there were so many."""
    done = subprocess.run(
        [sys.executable, "-c", FAILING, str(number)], cwd=scratch.path, env=ENVIRONMENT, capture_output=True,
        text=True, check=False, timeout=90, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    reached = "it failed:" in done.stdout
    assert "Traceback" not in done.stderr, (done.stdout, done.stderr)
    assert done.returncode in ((75, 0) if reached else (0,)), (number, done.stdout, done.stderr)
    assert not reached or done.returncode == 75 or "Input/output error" not in done.stdout, done.stdout
    return reached


ONE = "workspace: empty\nstages:\n  - id: s\n    command: echo ${RECONCILER_RUN_ID%-*} >> OUTSIDE/ran\n"


def fail_every_sync(hub: Hub, first: int, step: int) -> None:
    """Let sync number `first`, `first + step` and so on of a launching pass fail, each in a pass of its own."""
    [a] = hub.clones("a", more="attempts_max: 9\n", lease_s=60)
    a.pipeline("p", ONE.replace("OUTSIDE", str(hub.outside)))
    number, asked, more = first, [], True
    while more:
        asked.append(f"r{number}")
        a.request(asked[-1], "p")
        a.push()
        more = pass_that_fails(a, number)
        done = a.run("reconcile", "--wait")
        assert done.returncode == 0, (number, done.stdout, done.stderr)
        number += step
    assert number > 5
    assert sorted(ran(a)) == sorted(asked), "each ran once"
    all_records_are_valid(a)


def test_a_sync_that_fails_is_reported_and_made_good_by_the_next_pass(hub: Hub) -> None:
    fail_every_sync(hub, 1, 3)
