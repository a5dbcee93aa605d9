"""From a request to evidence by way of pods, with the command line: at the stand-in, or at a cluster with an image that has
git and this package (RECONCILER_TESTS_IMAGE) and an address of an empty repository that both sides may push to
(RECONCILER_TESTS_REMOTE)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.bench import CLUSTER, CLUSTER_IMAGE, CLUSTER_REMOTE, Bench
from tests.scratch import Scratch

COURIER = ["-m", "reconciler.executors.courier"]
MANY = 50 if os.environ.get(CLUSTER) else 4


class Placed(Scratch):
    """A repository whose runs go to a cluster."""

    def engine(self, bench: Bench, **options: Any) -> None:
        """Write the settings; at a cluster with a branch of its own at the remote that both sides know."""
        python = sys.executable if bench.stand_in is not None else "python3"
        said = {**bench.options, "program": [python, *COURIER], **options}
        executors = {"far": {"engine": "kubernetes", "weight": 1, "poll": "1s", "beat": "1s", "options": said}}
        more = f"branch: {self.branch}\nremote: origin\n" if self.branch else ""
        self.settings(f"executors: {json.dumps(executors | {'local': {'weight': 0}})}\n{more}")

    branch: str = ""
    x: str = "x"
    """The name of a request: one of its own at a cluster, where what an earlier trial had by that name is still there."""

    def begin(self) -> None:
        """Let the reconciler have what was committed."""
        if self.branch:
            self.git("push", "-q", "origin", f"HEAD:refs/heads/{self.branch}")

    def reconcile(self) -> subprocess.CompletedProcess[str]:
        """Reconcile until nothing is under way, and have here what was published."""
        said = self.run("reconcile", "--wait", timeout=600 if self.branch else 90)
        if self.branch:
            self.git("pull", "-q", "--ff-only", "origin", self.branch)
        return said


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Placed]:
    found = Placed(tmp_path)
    remote = os.environ.get(CLUSTER_REMOTE, "")
    if os.environ.get(CLUSTER):
        if not remote or not os.environ.get(CLUSTER_IMAGE):
            pytest.skip(f"whole runs at a cluster need {CLUSTER_IMAGE} and {CLUSTER_REMOTE}")
        found.branch = f"trial-{uuid.uuid4().hex[:8]}"
        found.x = found.branch.replace("trial-", "x")
        found.git("symbolic-ref", "HEAD", f"refs/heads/{found.branch}")
        found.git("remote", "add", "origin", remote)
    yield found
    if found.branch:
        found.git("push", "-q", "origin", f":refs/heads/{found.branch}")


def handle(repo: Scratch, name: str, number: int = 1) -> str:
    claim = json.loads(repo.record(name, f"claims/{number}.json").read_bytes())
    return str(claim["placement"]["handle"])


def test_a_request_becomes_evidence_by_way_of_a_pod(bench: Bench, repo: Placed) -> None:
    repo.engine(bench)
    repo.simple(repo.x, 'echo in a pod; test -n "$RECONCILER_RUN_ID"')
    repo.begin()
    said = repo.reconcile()
    assert said.returncode == 0, (said.stdout, said.stderr)
    found = repo.manifest(repo.x)
    placement = found["attempts"][0]["placement"]
    assert (placement["executor"], placement["instance"]) == ("far", "kubernetes")
    assert repo.git("show", f"HEAD:{found['commands'][0]['log_path']}") == "in a pod\n"


def test_many_runs_and_a_reconciler_that_is_restarted_in_between(bench: Bench, repo: Placed) -> None:
    repo.engine(bench)
    for number in range(MANY):
        repo.simple(f"{repo.x}-{number:02}", f"echo {number}")
    repo.begin()
    for _ in range(2):
        repo.run("reconcile")
    said = repo.reconcile()
    assert said.returncode == 0, (said.stdout, said.stderr)
    for number in range(MANY):
        found = repo.manifest(f"{repo.x}-{number:02}")
        assert (found["status"], len(found["attempts"])) == ("succeeded", 1)


def test_an_attempt_that_is_evicted_is_followed_by_another(away: Bench, repo: Placed) -> None:
    assert away.stand_in is not None
    repo.engine(away)
    up = repo.outside / "up"
    repo.simple(repo.x, f"test -e {up} && exit 0; touch {up}; exec sleep 600")
    repo.begin()
    deadline_s = time.monotonic() + away.wait_s
    while not up.exists():
        assert time.monotonic() < deadline_s
        repo.run("reconcile")
    away.stand_in.take_away(handle(repo, repo.x), "evicted")
    said = repo.reconcile()
    assert said.returncode == 0, (said.stdout, said.stderr)
    found = repo.manifest(repo.x)
    assert [each["outcome"] for each in found["attempts"]][-1] == "succeeded"
    assert [each["cause"] for each in found["recoveries"]] == ["evicted"]


def test_an_image_that_is_not_there_fails_the_run(bench: Bench, repo: Placed) -> None:
    repo.engine(bench, image="registry.invalid/none:1", start_patience="1s")
    repo.simple(repo.x, "true")
    repo.begin()
    said = repo.reconcile()
    assert said.returncode == 1, (said.stdout, said.stderr)
    assert "ImagePull" in repo.manifest(repo.x)["status_detail"]


def test_a_run_that_is_cancelled_is_ended_in_the_cluster(bench: Bench, repo: Placed) -> None:
    repo.engine(bench)
    repo.simple(repo.x, "exec sleep 600")
    repo.begin()
    engine = bench.open()
    repo.run("reconcile")
    named = handle(repo, repo.x)
    deadline_s = time.monotonic() + bench.wait_s
    while engine.observe([named])[named].standing != "running":
        assert time.monotonic() < deadline_s
        repo.run("reconcile")
    repo.simple(repo.x, "exec sleep 600", cancel="not needed")
    repo.begin()
    said = repo.reconcile()
    assert said.returncode == 1, (said.stdout, said.stderr)
    assert bench.ended(engine, named).standing in ("ended", "absent")
    assert repo.manifest(repo.x)["status"] == "cancelled"


def test_a_quota_makes_a_run_wait_with_its_reason(away: Bench, repo: Placed) -> None:
    assert away.stand_in is not None
    away.stand_in.jobs_max = 0
    repo.engine(away)
    repo.simple(repo.x, "true")
    repo.begin()
    repo.run("reconcile")
    assert "waits: Kubernetes answered 403" in repo.run("reconcile").stderr
    away.stand_in.jobs_max = None
    said = repo.reconcile()
    assert said.returncode == 0, (said.stdout, said.stderr)
