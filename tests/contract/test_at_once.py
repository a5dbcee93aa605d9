"""Hosts that claim in one instant what only one of them may begin: real git, real loops, in step by a barrier."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import field, replace
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


@frozen(kw_only=False)
class Late(Remote):
    """A remote that a push of claims reaches late: `meanwhile` happens before the first one does."""

    meanwhile: list[Callable[[], None]] = field(default_factory=list)

    def push(self, updates: Sequence[RefUpdate], *, atomic: bool) -> frozenset[str]:
        while self.meanwhile and any(each.ref.startswith(CLAIMS) for each in updates):
            self.meanwhile.pop()()
        return Remote.push(self, updates, atomic=atomic)


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


def test_a_run_that_began_elsewhere_and_waits_there_does_not_begin_once_more(tmp_path: Path) -> None:
    """Its claim is gone because it waits for people, and the push that claims it comes after that."""
    a, b = Hub(tmp_path).clones("a", "b", lease_s=60.0)
    stages = "  - {id: s, command: 'echo x >> OUT'}\n  - {id: ship, command: 'true', approval: {reason: r}}\n"
    a.pipeline("p", "workspace: empty\nstages:\n" + stages.replace("OUT", f"{a.outside}/ran"))
    a.request("x", "p")
    a.push()
    world = open_world(a.path)
    assert world.remote is not None
    remote = Late(world.remote.repository, world.remote.name, world.remote.timeout_s)
    remote.meanwhile.append(lambda: [b.run("reconcile", "--wait"), None][1])
    world = replace(world, remote=remote)
    loop = Loop(world, Observer(world))
    try:
        loop.run_pass()
        assert a.hub.outcomes("x") == ["waiting"] and remote.meanwhile == []
        assert not a.record("x", "claims/1.json").exists(), "this host has no part in it"
        loop.run_pass()
        assert (a.outside / "ran").read_text() == "x\n" and a.hub.refs(CLAIMS) == {}
    finally:
        loop.close()
        world.workers.close()
        world.repository.objects.close()
        for each in (a, b):
            each.kill()
