"""A simulated machine: its clocks, its disk, its repository and its processes."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from math import modf
from pathlib import Path
from random import Random

from reconciler import codec
from reconciler.host import give_name
from reconciler.lease import LEASE, OVER, Lease
from reconciler.model import HostId, Instant, Process
from reconciler.simulation.disk import SimulatedDisk
from reconciler.simulation.repository import SimulatedRepository, Store
from reconciler.simulation.scheduler import Actor
from reconciler.simulation.seams import Telling
from reconciler.simulation.story import EPOCH_S

FIRST_PID = 100
OUTSLEPT_S = 15.0
"""So long after a machine woke up the last stage may live that was there before: the longest grace, and a beat."""
PATHS_MAX = 50_000
"""So many paths are remembered."""


class QuickPath(type(Path())):  # type: ignore[misc]
    """A path that remembers what was found around it: making Paths would be a quarter of all work here."""

    __slots__ = ("above", "below")
    made = 0
    above: QuickPath
    below: dict[str | Path, QuickPath]

    def __truediv__(self, name: str | Path) -> QuickPath:
        try:
            return self.below[name]
        except AttributeError:
            self.below = {}
        except KeyError:
            pass
        found: QuickPath = super().__truediv__(name)
        self.below[name] = found
        QuickPath.made += 1
        if type(name) is str and "/" not in name:
            found.above = self
        return found

    def with_name(self, name: str) -> QuickPath:
        return self.parent / name

    @property
    def parent(self) -> QuickPath:
        try:
            return self.above
        except AttributeError:
            self.above = super().parent
            return self.above


_checkouts: dict[str, QuickPath] = {}


def _checkout(name: str) -> QuickPath:
    """Return where the repository of a machine is, and all that is known below it, from one history to the next."""
    if QuickPath.made > PATHS_MAX:
        _checkouts.clear()
        QuickPath.made = 0
    return _checkouts.setdefault(name, QuickPath(f"/{name}/repo"))


@lru_cache(10_000)
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).isoformat()[:19]


def spelled(seconds: float) -> str:
    """Return an instant as text, in whole milliseconds; `seconds` since 1970 are rounded to microseconds first, as
    `datetime` does it."""
    part, whole = modf(seconds)
    micros = round(part * 1e6)
    return f"{_second(int(whole) + micros // 1_000_000)}.{micros % 1_000_000 // 1000:03d}Z"


class Host:
    """One machine. Its monotonic clock starts anywhere, runs up to one percent fast or slow, and stands still while it
    is suspended; its wall clock is whatever somebody set it to."""

    def __init__(self, history: Telling, store: Store, name: str, index: int) -> None:
        self.history, self.scheduler, self.name = history, history.scheduler, name
        self.rate = 1.0 + (history.story.draw("rate", name) - 0.5) * 0.02
        self.wall_s = 0.0
        self.boot = 0
        self.booted_at = self.asleep_until = self.slept_s = 0.0
        self.stamps = 0
        self.asked: tuple[float, float, int] = (-1.0, 0.0, 0)
        self.pid = FIRST_PID
        self.away_until = self.cut_off_until = 0.0
        self.actors: list[Actor] = []
        self.by_pid: dict[int, Actor] = {}
        self.arms: dict[str, int] = {}
        self.disk = SimulatedDisk(self)
        self.checkout = _checkout(name)
        self.repository = SimulatedRepository(self, self.disk, store, self.checkout)
        self.disk.make_directory(self.checkout)
        self.index = index

    @property
    def machine(self) -> str:
        """Return what tells this machine from all others."""
        return f"simulated {self.name} 0:0"

    def take_name(self, name: HostId) -> None:
        """Begin with the name of a host that has said nothing yet."""
        give_name(self.disk, self.repository.state, self.machine, name)

    # -------------------------------------------------------------------------------------------- clocks

    def monotonic(self) -> float:
        return (self.scheduler.now - self.booted_at) * self.rate + 7.0 * self.index - self.suspended_s()

    def suspended_s(self) -> float:
        """Return for how long this machine has been suspended since it was booted."""
        return (self.slept_s - max(0.0, self.asleep_until - self.scheduler.now)) * self.rate if self.slept_s else 0.0

    def lease_clock(self) -> float:
        return self.monotonic() + self.suspended_s()

    def leased_until_s(self) -> float:
        """Return until when the runs of this machine are its own, as its disk says."""
        path = str(self.repository.state / LEASE)
        try:
            return codec.parse(Lease, self.disk.file(path).data).until_s if self.disk.node(path) is not None else OVER
        except codec.CodecError:
            return OVER  # it is not synced, and did not survive a power loss

    def seconds(self, by_this_clock: float) -> float:
        """Return true seconds for seconds by this machine's clock."""
        return by_this_clock / self.rate

    def now(self) -> Instant:
        asked = (self.scheduler.now, self.wall_s, self.boot)
        if asked != self.asked:
            self.asked, self.instant = asked, self._now()
        return self.instant

    def _now(self) -> Instant:
        return Instant(
            at=spelled(EPOCH_S + self.scheduler.now + self.wall_s),
            monotonic_s=self.monotonic(),
            boot_id=f"{self.name}-boot-{self.boot}",
        )

    def stamp(self) -> int:
        """Return a time of change for a file: by the wall clock, and never the same twice."""
        self.stamps += 1
        return int((EPOCH_S + self.scheduler.now + self.wall_s) * 1000) * 1_000_000 + self.stamps % 1_000_000

    # -------------------------------------------------------------------------------------------- processes

    def new_actor(self, name: str, kind: str) -> Actor:
        self.pid += 1
        ticks = int((self.scheduler.now - self.booted_at) * 100) + 1
        me = Process(pid=self.pid, start_ticks=ticks, boot_id=f"{self.name}-boot-{self.boot}")
        actor = Actor(name=name, host=self, me=me, kind=kind)
        self.actors.append(actor)
        self.by_pid[self.pid] = actor
        return actor

    def find(self, process: Process) -> Actor | None:
        """Return the living process that this is, None if it is gone."""
        actor = self.by_pid.get(process.pid)
        return actor if actor is not None and actor.me == process and not actor.dead else None

    def forget(self, actor: Actor) -> None:
        self.actors.remove(actor)
        self.by_pid.pop(actor.me.pid, None)
        self.disk.forget(actor)

    def suspend(self, seconds: float) -> None:
        """Let this machine sleep, as a laptop does whose lid is closed."""
        self.asleep_until = self.scheduler.now + seconds
        self.slept_s += seconds
        self.scheduler.suspend(list(self.actors), seconds)

    def outslept(self) -> bool:
        """Return whether this machine is suspended, or woke up only now: then its workers have yet to see that their
        lease is over, and to end their stages."""
        return self.slept_s > 0 and self.scheduler.now < self.asleep_until + OUTSLEPT_S

    def lose_power(self, value: float) -> None:
        """End everything at once and come back with what was durable."""
        standing = list(self.disk.standing())
        for actor in list(self.actors):
            if actor is not self.scheduler.current:
                self.scheduler.kill(actor)
        self.boot += 1
        self.booted_at, self.slept_s, self.asleep_until = self.scheduler.now, 0.0, 0.0
        self.pid = FIRST_PID
        self.disk.lose_power(Random(value))
        self.history.watch.power_lost(self, standing)

    def armed(self, what: str) -> bool:
        """Return whether this goes wrong now; it then does so once."""
        if not self.arms or self.scheduler.current is None or self.scheduler.current.dead:
            return False
        left = self.arms.pop(what, 0)
        if left > 1:
            self.arms[what] = left - 1
        if left:
            self.scheduler.say(f"FAULT {what}")
        return left > 0

    @property
    def branch(self) -> str:
        return self.history.story.branch

    def latency(self) -> float:
        return self.history.latency()

    def moved(self, ref: str, old: str | None, new: str | None) -> None:
        self.history.watch.branch_moved(ref, old, new)

    def sleep(self, seconds: float) -> None:
        self.scheduler.sleep(self.seconds(seconds))

    def is_alive(self, process: Process) -> bool:
        return self.find(process) is not None
