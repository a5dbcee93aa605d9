"""A place to try the engine at: the stand-in, or a cluster that the environment names."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.executors.engine import Engine, Opening, Sighting, Standing, Submission
from reconciler.executors.kubernetes import Kubernetes, open_engine
from reconciler.places import Resources
from reconciler.work import handle_of
from tests.kubernetes_server import Cluster, Server, kubeconfig, serving

IMAGE = "registry.example.com/runs:1"
CLUSTER = "RECONCILER_TESTS_CLUSTER"
"""Set by `make test-kubernetes`: the kubeconfig of a cluster, in whose namespace Jobs may be made and removed."""
CLUSTER_IMAGE = "RECONCILER_TESTS_IMAGE"
"""What is executed there: an image with Python. For whole runs it has git and this package too."""
CLUSTER_REMOTE = "RECONCILER_TESTS_REMOTE"
"""The address of an empty repository that this machine and pods there may push to."""
KEY = "key-of-an-attempt-0123456789"


@dataclass
class Bench:
    """An engine, and how to give it something to do. `stand_in` and `server` are None at a real cluster."""

    directory: Path
    options: dict[str, Any]
    wait_s: float
    stand_in: Cluster | None = None
    server: Server | None = None
    repository: str = ""
    made: list[str] = field(default_factory=list)

    def open(self, **options: Any) -> Kubernetes:
        """Return an engine that knows nothing yet, as after a restart."""
        opening = Opening(executor="cloud", options={**self.options, **options}, directory=self.directory)
        engine: Engine = open_engine(opening)
        assert isinstance(engine, Kubernetes)
        return engine

    def submission(self, run_id: str, code: str, number: int = 1, **fields: Any) -> Submission:
        """Return an attempt that executes some Python."""
        handle = handle_of(self.repository, run_id, number)
        self.made.append(handle)
        defaults: dict[str, Any] = {"secrets": {"RECONCILER_WORK_KEY": KEY}, "grace_s": 5.0}
        return Submission(
            handle=handle,
            repository=self.repository,
            run_id=run_id,
            task_id="0001-demo",
            number=number,
            arguments=(code,),
            **{**defaults, **fields},
        )

    def until(self, engine: Kubernetes, handle: str, right: Callable[[Sighting], bool]) -> Sighting:
        """Return the first sighting of an attempt that is right."""
        deadline_s = time.monotonic() + self.wait_s
        while not right(found := engine.observe([handle])[handle]):
            assert time.monotonic() < deadline_s, found
            time.sleep(0.02 if self.stand_in is not None else 1.0)
        return found

    def ended(self, engine: Kubernetes, handle: str) -> Sighting:
        return self.until(engine, handle, lambda each: each.standing in (Standing.ENDED, Standing.ABSENT))

    def running(self, engine: Kubernetes, handle: str) -> Sighting:
        return self.until(engine, handle, lambda each: each.standing is not Standing.QUEUED)

    def logged(self, engine: Kubernetes, handle: str, wanted: bytes) -> bytes:
        """Return the log of an attempt, once it says something."""
        deadline_s = time.monotonic() + self.wait_s
        while wanted not in (found := engine.logs(handle, 10_000)):
            assert time.monotonic() < deadline_s, found
            time.sleep(0.02 if self.stand_in is not None else 1.0)
        return found

    def out_of_memory(self, engine: Kubernetes, handle: str) -> None:
        """Have an attempt use more memory than it may; at a cluster its program does that itself."""
        if self.stand_in is not None:
            self.stand_in.take_away(handle, "oom")


@contextmanager
def stand_in(directory: Path, **options: Any) -> Iterator[Bench]:
    """Serve the stand-in and give an engine for it."""
    with serving(directory) as (cluster, server):
        path = kubeconfig(directory / "kubeconfig", server.url)
        common = {
            "image": IMAGE,
            "program": [sys.executable, "-c"],
            "kubeconfig": str(path),
            "scratch": str(directory / "scratch"),
            **options,
        }
        yield Bench(directory, common, 60.0, cluster, server, repository=name_of(directory))


@contextmanager
def real(directory: Path, variables: Mapping[str, str], **options: Any) -> Iterator[Bench]:
    """Give an engine for the cluster that the environment names, and remove what was made there."""
    common = {
        "image": variables.get(CLUSTER_IMAGE, "docker.io/library/python:3-slim"),
        "program": ["python3", "-c"],
        "kubeconfig": variables[CLUSTER],
        **options,
    }
    bench = Bench(directory, common, 300.0, repository=name_of(directory))
    try:
        yield bench
    finally:
        bench.open().cancel(bench.made)


def name_of(directory: Path) -> str:
    """Return the digest of a repository that only this test has."""
    return hashlib.sha256(f"{directory} {os.getpid()} {time.time_ns()}".encode()).hexdigest()[:8]


def resources(**asked: Any) -> Resources:
    return Resources(**asked)
