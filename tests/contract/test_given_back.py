"""Claims that could not be recorded are given back, and never any other: real git, a real loop, an answer that is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path

from reconciler.errors import PushUnclear
from reconciler.loop import Loop
from reconciler.model import CLAIMS
from reconciler.observe import Observer
from reconciler.remote import RefUpdate, Remote
from reconciler.values import frozen
from reconciler.world import open_world
from tests.scratch import Hub, wait_for


@frozen(kw_only=False)
class Forgetful(Remote):
    """A remote of which the answer to the first deletion of a claim is lost."""

    lost: list[str] = field(default_factory=list)

    def push(self, updates: Sequence[RefUpdate], *, atomic: bool) -> frozenset[str]:
        failed = Remote.push(self, updates, atomic=atomic)
        if not self.lost and any(each.ref.startswith(CLAIMS) and each.new is None for each in updates):
            self.lost.extend(each.ref for each in updates)
            raise PushUnclear("git push: the connection was closed")
        return failed


def test_what_is_executed_is_not_given_back_after_an_answer_was_lost(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    [clone] = hub.clones("a", lease_s=60.0)
    until = f"until test -e {hub.outside}/go; do sleep 0.05; done"
    clone.pipeline("p", f"workspace: empty\nstages:\n  - id: s\n    command: echo x >> {hub.outside}/ran; {until}\n")
    clone.request("x", "p")
    clone.write("runs.d/y.yaml", "task: u\npipeline: p\n")
    clone.push()
    in_the_way = clone.path / ".runs/u"
    in_the_way.parent.mkdir()
    in_the_way.write_text("nothing of a run can be recorded here")
    world = open_world(clone.path)
    assert world.remote is not None
    remote = Forgetful(world.remote.repository, world.remote.name, world.remote.timeout_s)
    loop = Loop(replace(world, remote=remote), Observer(replace(world, remote=remote)))
    try:
        loop.run_pass()
        wait_for((hub.outside / "ran").exists)
        executed = CLAIMS + clone.run_id("x")
        assert len(remote.lost) == 1 and executed not in remote.lost
        for _ in range(3):
            loop.run_pass()
            assert executed in hub.refs()
        (hub.outside / "go").touch()
    finally:
        (hub.outside / "go").touch()
        loop.close()
        world.workers.close()
        world.repository.objects.close()
    in_the_way.unlink()
    assert clone.run("reconcile", "--wait").returncode == 0
    assert hub.outcomes("x") == ["succeeded"]
