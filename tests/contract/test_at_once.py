"""Hosts that claim in one instant what only one of them may begin: real git, real loops, in step by a barrier."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.loop import Loop
from reconciler.observe import Observer
from reconciler.remote import RefUpdate, Remote
from reconciler.values import frozen
from reconciler.world import open_world
from tests.scratch import Clone, Hub

PATIENCE_S = 60.0
CLAIMS = "refs/reconciler/claims/"


@frozen(kw_only=False)
class InStep(Remote):
    """A remote at which all hosts have pushed their claims before one of them looks again."""

    meet: threading.Barrier | None = None

    def push(self, updates: Sequence[RefUpdate], *, atomic: bool) -> frozenset[str]:
        failed = Remote.push(self, updates, atomic=atomic)
        if self.meet is not None and any(each.ref.startswith(CLAIMS) and each.new for each in updates):
            self.meet.wait(PATIENCE_S)
        return failed


def loop_of(clone: Clone, capability: str, meet: threading.Barrier) -> Loop:
    world = open_world(clone.path)
    assert world.remote is not None
    remote = InStep(world.remote.repository, world.remote.name, world.remote.timeout_s, meet=meet)
    world = replace(world, remote=remote, capabilities=(capability,))
    return Loop(world, Observer(world))


@pytest.fixture
def clones(tmp_path: Path) -> Iterator[list[Clone]]:
    hub = Hub(tmp_path)
    found = hub.clones("a", "b", "c", more="quotas: {labels: {heavy: 1}}\n", lease_s=60.0)
    yield found
    for each in found:
        each.kill()


def test_of_hosts_that_claim_at_once_one_goes_on_at_once(clones: list[Clone]) -> None:
    """Each host can execute another one of the runs, so that no claim is refused."""
    names = [each.name for each in clones]
    for name in names:
        clones[0].pipeline(name, "workspace: empty\nstages:\n  - {id: s, command: 'exec sleep 600'}\n")
        clones[0].request(name, name, labels="[heavy]", capabilities=f"[of-{name}]")
    clones[0].push()
    for each in clones[1:]:
        each.git("pull", "-q", "origin", "main")
    meet = threading.Barrier(len(clones))
    loops = [loop_of(each, f"of-{each.name}", meet) for each in clones]
    try:
        with ThreadPoolExecutor(len(loops)) as pool:
            passes = list(pool.map(Loop.run_pass, loops))
        hub = clones[0].hub
        began = [len(each.world.workers.alive()) for each in loops]
        assert sorted(began) == [0, 0, 1], [each.done for each in passes]
        assert len(hub.refs(CLAIMS)) == 1
    finally:
        for loop in loops:
            loop.close()
            loop.world.workers.close()
            loop.world.repository.objects.close()
