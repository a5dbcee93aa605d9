"""Observe, diff, apply, sleep; and again until nothing is under way.

A pass holds the repository's pass lock, so that of several reconcilers on one machine one acts at a time. That
keeps `runs_max` exact and commits few; the promise that nothing runs twice rests on claims and run locks alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from reconciler.actions import Abandon, Action, Cancel, Publish, Quarantine, Restore, Retire, Wait
from reconciler.apply import Done, apply
from reconciler.conditions import set_condition
from reconciler.diff import ENDED, diff, phase, proven
from reconciler.errors import InvariantError, LockHeld, PublishBlocked, TipMoved, TransientError
from reconciler.model import Phase, Process, RunId
from reconciler.observe import Observation, Observer
from reconciler.publish import Publication, publish
from reconciler.world import World

PASS_LOCK_PATIENCE_S = 60.0
GATHER_S = 1.0
"""While runs are under way, evidence is committed at most this often: many runs that end share a commit."""
REFUSALS_MAX = 20
"""After so many passes in a row in which the environment refused something, waiting longer is not the cure."""

SETTLING = (Cancel, Abandon, Quarantine, Restore, Retire)
"""Actions after which another pass finds the world changed at once."""
POLL_S = 0.25
"""How often the loop looks whether the tip has moved while it waits for workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What one pass saw, decided and did. `blocked` says why evidence could not be committed."""

    seen: Observation
    actions: tuple[Action, ...]
    done: tuple[Done, ...] = ()
    publication: Publication | None = None
    blocked: str = ""
    tip_moved: bool = False

    @property
    def phases(self) -> dict[RunId, Phase]:
        return {run_id: phase(run, self.seen.now) for run_id, run in self.seen.actual.runs.items()}

    @property
    def acted(self) -> bool:
        return self.tip_moved or any(not isinstance(each, Wait | Publish) for each in self.actions)

    @property
    def idle(self) -> bool:
        """Return whether another pass would find nothing to do until somebody commits something."""
        held = {each.subject for each in self.actions if isinstance(each, Wait) and each.settled}
        under_way = any(each not in ENDED and run_id not in held for run_id, each in self.phases.items())
        waiting = any(isinstance(each, Wait) and not each.settled for each in self.actions)
        return not (self.acted or under_way or waiting or self.publication)


@dataclass(slots=True)
class Loop:
    """Passes over one repository by one process."""

    world: World
    observer: Observer
    published_s: float = -GATHER_S
    last: Publication | None = None
    concerned: set[RunId] = field(default_factory=set)

    def run_pass(self) -> Pass:
        """Do one pass. Raise LockHeld if another reconciler does not let go of the repository."""
        with pass_lock(self.world):
            seen = self.observer.observe()
            due = self.world.now().monotonic_s - self.published_s >= GATHER_S
            seen = replace(seen, limits=replace(seen.limits, publish_due=due))
            actions = diff(seen.desired, seen.actual, seen.now, seen.limits)
            self._note_concerned(seen)
            result = self._act(seen, actions)
            self.observer.remember()
        return result

    def run_until_idle(
        self, watch: Callable[[Pass], None], deadline_s: float | None = None, goal: RunId | None = None
    ) -> Pass:
        """Pass until nothing is under way (or `goal` is proven), evidence is blocked, or the deadline (monotonic
        seconds) is reached."""
        refused = 0
        while True:
            result = self.run_pass()
            watch(result)
            refused = refused + 1 if any(each.error for each in result.done) else 0
            over = deadline_s is not None and self.world.now().monotonic_s >= deadline_s
            reached = goal in result.seen.actual.evidence and goal not in result.seen.actual.runs
            if result.idle or result.blocked or over or reached or refused >= REFUSALS_MAX:
                return result
            self.sleep(result, deadline_s)

    def sleep(self, result: Pass, deadline_s: float | None = None) -> None:
        """Sleep until a worker ends, but not longer than until the tip should be looked at again; not at all when
        the pass changed something itself, because what that leads to is there already."""
        if result.publication or result.tip_moved or any(isinstance(each, SETTLING) for each in result.actions):
            return
        patience_s = POLL_S if deadline_s is None else max(0.0, min(POLL_S, deadline_s - self.world.now().monotonic_s))
        self.world.processes.wait_any(self._workers(result), patience_s)

    def _workers(self, result: Pass) -> set[Process]:
        runs = result.seen.actual.runs.values()
        known = {run.attempt.worker for run in runs if run.attempt and not run.attempt.outcome and run.worker_alive}
        return known | set(self.world.workers.alive())

    def _note_concerned(self, seen: Observation) -> None:
        self.concerned.update(wish.run_id for wish in seen.desired.wishes)
        self.concerned.update(seen.actual.runs)

    def _act(self, seen: Observation, actions: tuple[Action, ...]) -> Pass:
        if any(not isinstance(each, Wait) for each in actions):
            self.world.repository.exclude("/.runs/")
        done = tuple(apply(self.world, actions))
        wanted = next((each for each in actions if isinstance(each, Publish)), None)
        result = Pass(seen=seen, actions=actions, done=done)
        return self._publish(result, wanted) if wanted else self._unblocked(result)

    def _publish(self, result: Pass, wanted: Publish) -> Pass:
        """Publish, and turn what can stand in the way of it into something `status` can say."""
        if self.last is not None and self.last.commit == result.seen.tip and set(self.last.runs) & set(_ids(wanted)):
            raise InvariantError(f"evidence committed in {self.last.commit} is not recognised: {_ids(wanted)[:3]}")
        try:
            publication = publish(self.world, result.seen, wanted.runs)
        except TipMoved:
            return replace(result, tip_moved=True)
        except (PublishBlocked, TransientError) as error:
            set_condition(self.world.repository.state, "publish", str(error), result.seen.now.at, self.world.disk)
            return replace(result, blocked=str(error))
        self.published_s, self.last = self.world.now().monotonic_s, publication
        return self._unblocked(replace(result, publication=publication))

    def _unblocked(self, result: Pass) -> Pass:
        set_condition(self.world.repository.state, "publish", "", result.seen.now.at, self.world.disk)
        return result


def _ids(wanted: Publish) -> list[RunId]:
    return [run_id for _, run_id in wanted.runs]


def unproven(seen: Observation) -> list[RunId]:
    """Return the runs that have ended and whose evidence the tip does not hold."""
    runs = seen.actual.runs
    ended = [run_id for run_id, run in runs.items() if phase(run, seen.now) in ENDED]
    return [run_id for run_id in ended if not proven(runs[run_id], seen.actual.evidence.get(run_id))]


# ------------------------------------------------------------------------------------------------ the pass lock


@contextlib.contextmanager
def pass_lock(world: World) -> Iterator[None]:
    """Hold the lock under which one reconciler of this machine acts. Raise LockHeld after a minute."""
    disk, path = world.disk, world.repository.state / "pass.lock"
    disk.make_directory(path.parent)
    disk.clear_directory(path)
    handle = disk.wait_for(lambda: disk.take_lock(path), PASS_LOCK_PATIENCE_S)
    if handle is None:
        who = ", ".join(str(each.pid) for each in world.processes.holders(path)) or "unknown"
        raise LockHeld(f"another reconciler (pid {who}) has been busy here for a minute")
    try:
        yield
    finally:
        disk.let_go(handle)
