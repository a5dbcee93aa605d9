"""The world as a pass on a simulated machine sees it: what is a system call elsewhere is a move here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from reconciler.afar.looks import Beside
from reconciler.contracts import Contracts
from reconciler.errors import LockHeld, SpawnFailed
from reconciler.lease import Leased
from reconciler.model import Process
from reconciler.process import RECORD_MARGIN_S, Chance, Processes, Target, Workers
from reconciler.rundir import Runs
from reconciler.simulation.disk import File
from reconciler.simulation.engine import Cluster
from reconciler.simulation.host import Host
from reconciler.simulation.remote import Server, SimulatedRemote
from reconciler.simulation.scheduler import Actor
from reconciler.simulation.worker import SimulatedWorker
from reconciler.world import World

KILL_PATIENCE_S = 5.0
LOOK_MAX_S = 20.0
"""So long an engine takes at most to say how attempts stand."""
CONTRACTS = Contracts()


def world_of(host: Host, server: Server | None, cluster: Cluster | None = None) -> World:
    """Return the world as a process of a machine sees it; `cluster` is what engines are there."""
    here: dict[str, Any] = {}
    if cluster is not None:
        here = {
            "node": host.name,
            "open_engine": cluster.opener(host),
            "beside": Beside(start=_later(host), patience_s=0.0),
        }
    return World(
        repository=host.repository,
        disk=host.disk,
        runs=Runs(host.checkout / ".runs", host.repository.state, host.disk, host.is_alive),
        processes=SimulatedProcesses(host),
        workers=SimulatedWorkers(host),
        contracts=CONTRACTS,
        chance=SimulatedChance(host),
        now=host.now,
        sleep=host.sleep,
        suspended_s=host.suspended_s,
        undisturbed=nullcontext,
        cpus=2,
        machine=host.machine,
        remote=SimulatedRemote(host, host.repository, server) if server is not None else None,
        **here,
    )


def _later(host: Host) -> Callable[[Callable[[], None], Callable[[], None]], None]:
    """Return how an engine is looked at beside the passes: at once, and the answer is there only some time later."""

    def start(ask: Callable[[], None], end: Callable[[], None]) -> None:
        ask()
        scheduler = host.scheduler
        draw = host.history.story.draw("look", host.name, scheduler.moves)
        scheduler.call_at(scheduler.now + LOOK_MAX_S * draw**2, end)

    return start


class SimulatedChance(Chance):
    """What nobody can foresee, told by the seed."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def _word(self) -> str:
        self.host.history.drawn += 1
        return f"{self.host.history.drawn:08x}" * 2  # names are made of the first half

    def token(self) -> str:
        return f"token-{self._word()}"

    def nonce(self) -> str:
        return self._word()

    def fraction(self) -> float:
        return self.host.history.story.draw("fraction", self._word())


class SimulatedProcesses(Processes):
    """The processes of a simulated machine, as a pass sees them."""

    def __init__(self, host: Host) -> None:
        self.host, self.scheduler = host, host.scheduler

    def myself(self) -> Process:
        assert self.scheduler.current is not None
        return self.scheduler.current.me

    def is_alive(self, process: Process) -> bool:
        return self.host.is_alive(process)

    def holders(self, lock: Path) -> tuple[Process, ...]:
        self.scheduler.move("look for holders of", lock)
        return tuple(each.me for each in self._holders(lock))

    def _holders(self, lock: Path) -> list[Actor]:
        node = None
        try:
            node = self.host.disk.node(str(lock))
        except NotADirectoryError:
            return []
        found = node.holders if isinstance(node, File) else []
        return [each for each in found if each is not self.scheduler.current]

    def fence(self, targets: Sequence[Target]) -> None:
        if not targets:
            return
        self.scheduler.move("fence", ", ".join(each.lock.parent.name for each in targets))
        for target in targets:
            self._signal(target, kill=False)
        patience_s = max(each.grace_s for each in targets) + RECORD_MARGIN_S
        self._until_gone(targets, patience_s)
        deadline = self.scheduler.now + KILL_PATIENCE_S
        while remaining := [each for each in targets if self._living(each)]:
            if self.scheduler.now > deadline:
                raise LockHeld(f"{remaining[0].lock}: still held after KILL; a process in uninterruptible sleep?")
            for target in remaining:
                self._signal(target, kill=True)
            self.scheduler.move("kill", remaining[0].lock.parent.name)
        self.scheduler.move("")

    def _living(self, target: Target) -> list[Actor]:
        """Return what of a target lives: its worker first."""
        known = (target.worker, *target.leaders) if target.worker else target.leaders
        found = [actor for each in known if (actor := self.host.find(each)) is not None]
        return found + [each for each in self._holders(target.lock) if each not in found]

    def _signal(self, target: Target, *, kill: bool) -> None:
        living = self._living(target)
        worker = self.host.find(target.worker) if target.worker is not None else None
        for actor in [worker] if worker is not None and not kill else living:
            if actor is self.scheduler.current:
                continue
            if kill:
                self.scheduler.kill(actor)
            else:
                self.scheduler.terminate(actor)

    def _until_gone(self, targets: Sequence[Target], patience_s: float) -> None:
        deadline = self.scheduler.now + patience_s
        while living := [actor for each in targets for actor in self._living(each)]:
            if self.scheduler.now >= deadline:
                return
            self._wait_for(living, min(deadline - self.scheduler.now, 2.0))

    def _wait_for(self, actors: Sequence[Actor], seconds: float) -> None:
        current = self.scheduler.current
        assert current is not None
        current.waits_for = tuple(actors)
        self.scheduler.sleep(seconds)
        current.waits_for = ()

    def kill_holders_of_removed(self, lock: Path) -> None:
        self.scheduler.move("kill holders of removed", lock)
        disk = self.host.disk
        for node, path in list(disk.lock_paths.items()):
            if path == str(lock) and node is not disk.node(path):
                for actor in list(node.holders):
                    if actor is not self.scheduler.current:
                        self.scheduler.kill(actor)

    def wait_any(self, processes: Iterable[Process], timeout_s: float) -> None:
        """Return when one has ended; a simulated pass takes its time, so that history is not mostly looking."""
        found = [self.host.find(each) for each in sorted(processes, key=lambda each: each.pid)]
        if None in found:
            self.scheduler.sleep(0.01)
            return
        self._wait_for([each for each in found if each], max(timeout_s, self.host.history.story.pause_s))


class SimulatedWorkers(Workers):
    """Starts simulated workers, late now and then."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.started: list[Actor] = []

    def prepare(self) -> None:
        return

    def spawn(
        self, directory: Path, number: int, checkout: Path, plan_sha256: str, lease: Leased | None = None
    ) -> Process | None:
        host, scheduler = self.host, self.host.scheduler
        scheduler.move("spawn", f"{directory.name} {number}")
        if host.armed("spawn fails"):
            raise SpawnFailed(f"{directory}: cannot start a worker: the server that forks workers has ended")
        host.history.watch.spawned(host, directory, number)
        actor = host.new_actor(f"worker {directory.name} {number}", "worker")
        worker = SimulatedWorker(host, actor, directory, number, plan_sha256, lease)
        scheduler.start(actor, worker.main, host.history.late_s(directory.name, number))
        self.started.append(actor)
        scheduler.move("")
        return None if actor.dead else actor.me

    def alive(self) -> tuple[Process, ...]:
        self.started = [each for each in self.started if not each.dead]
        return tuple(each.me for each in self.started)

    def close(self) -> None:
        return
