"""How a simulated reconciler passes the time between passes: as commands do that wait for something, or as `watch`.

Who watches sleeps until something is due, so that this is put to the test as well: what a pass finds only because
everything is looked at now and then was found too late, and what is due again and again for nothing lets nobody rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from reconciler.actions import Publish, Submit, Wait
from reconciler.due import Due
from reconciler.loop import FULL_LOOK, Loop, Pass
from reconciler.pacing import Pacing
from reconciler.simulation.host import Host
from reconciler.simulation.scheduler import Actor, Violation

IDLE_PAUSES = 4
"""Where nothing is to be done, a command that is asked again and again is asked so much less often."""
SPINS_MAX = 10
"""So many passes in a row that found nothing to do may be due at once: what was due may just not be there yet."""
SPIN_S = 2.0
"""A pass that takes longer, since an engine keeps it waiting, may be late for the next one."""


class Rest(Protocol):
    """What a reconciler does between two passes."""

    def ring(self) -> None:
        """Note that an engine has answered."""

    def sleep(self, loop: Loop, result: Pass) -> None: ...


@dataclass(slots=True)
class Asked:
    """A command that passes until nothing is under way, and is begun again after that."""

    host: Host
    pause_s: float

    def ring(self) -> None:
        return

    def sleep(self, loop: Loop, result: Pass) -> None:
        if result.idle:
            self.host.scheduler.sleep(IDLE_PAUSES * self.pause_s)
        else:
            loop.sleep(result)


@dataclass(slots=True)
class Watching:
    """A watcher: it sleeps until a worker ends, a ref of its clone moves, an engine answers, or something is due."""

    host: Host
    actor: Actor
    rests: bool = False
    slept_long: bool = False
    """Whether nothing ended its sleep but that a watcher looks at everything now and then."""
    heard: bool = False
    spins: int = 0
    woke_s: float = 0.0
    pacing: Pacing = field(default_factory=Pacing)

    def ring(self) -> None:
        """Note that an engine has answered, or that a ref has moved: also while a pass is under way."""
        self.heard = True
        if self.rests:
            self.host.scheduler.wake(self.actor)

    def sleep(self, loop: Loop, result: Pass) -> None:
        """Sleep. Raise Violation if the pass came too late, or if this watcher does nothing but pass."""
        self._check_in_time(result)
        self.slept_long = False
        self.pacing.note(result)
        due = self.pacing.due(loop, result)
        if result.tip_moved and loop.world.remote is not None:
            loop.contact.spread()
        if self.heard or (result.leads_on and not self.pacing.failures):
            self.heard, self.woke_s = False, self.host.scheduler.now
            return
        self._check_rest(due, result)
        self._rest(loop, result, due)

    def _rest(self, loop: Loop, result: Pass, due: Due) -> None:
        workers, began_s = loop.workers(result), self.host.scheduler.now
        self.rests = True
        try:
            loop.world.processes.wait_any(workers, due.in_s)
        finally:
            self.rests = False
        self.woke_s = self.host.scheduler.now
        self.slept_long = not self.heard and due == FULL_LOOK and self.host.scheduler.now - began_s >= FULL_LOOK.in_s
        self.heard = False

    def _check_rest(self, due: Due, result: Pass) -> None:
        passed_s = self.host.scheduler.now - self.woke_s
        self.spins = self.spins + 1 if due.in_s <= 0 and not result.acted and passed_s < SPIN_S else 0
        if self.spins > SPINS_MAX:
            raise Violation(f"{self.host.name} passes again and again and finds nothing to do: {due.what}, it thinks")

    def _check_in_time(self, result: Pass) -> None:
        """What nobody made known was to be foreseen, where no other process acts here."""
        alone = sum(each.kind == "reconciler" for each in self.host.actors) == 1
        found = [each for each in result.actions if not isinstance(each, Wait | Publish | Submit)]
        if self.slept_long and alone and found:
            raise Violation(f"{self.host.name} found only because it looks at everything now and then: {found[0]}")
