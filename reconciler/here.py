"""The runs of this machine as their records say, read again only where something has changed.

What a worker here does is seen in a lock, a heartbeat and a process, so a run that is executed here is read in every
pass. Of one that an engine executes there are records alone, and whoever writes one changes the directory that it is
in: so as long as no directory has changed, nothing is read. A file system tells the time of a change in ticks of some
milliseconds, and a second change in one tick does not show: what was read counts only if the directories had been as
they are for `TICK_S` before.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import field

from reconciler.model import Run, RunId, TaskId, Wish
from reconciler.phases import ENDED, phase
from reconciler.values import frozen
from reconciler.world import World

TICK_S = 0.1
"""No file system that run directories lie on tells times more coarsely."""
KEPT_S = 60.0
"""So long, and up to twice as long, a run is taken for what it was when it was read: somebody may have damaged a record
in its place."""
FAMILIES = ("", "claims", "attempts", "cancels", "ends", "quarantine")
"""Where the records of a run are, below its directory."""


@frozen
class Quiet:
    """A run that an engine executes: when its directories had changed last, by path; since when (monotonic seconds) it
    was not otherwise; what was read after that, and until when it is believed."""

    changed: Mapping[str, int]
    since_s: float
    run: Run | None = None
    until_s: float = field(default=0.0)


class Here:
    """Looks at the run directories of this machine, remembering the runs that have ended."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.root, self.done = str(world.runs.root), str(world.runs.state / "done")
        self.live = str(world.runs.state / "live")
        self.ended: dict[RunId, tuple[int, Run]] = {}
        self.quiet: dict[RunId, Quiet] = {}

    def runs(self, marked: Sequence[tuple[TaskId, RunId]], wishes: Sequence[Wish]) -> dict[RunId, Run]:
        """Return every run that is under way here, and every wished one that has records although it is not marked."""
        known = {run_id: task_id for task_id, run_id in marked}
        for wish in wishes:
            if wish.run_id not in known and self._changed_ns(f"{self.done}/{wish.run_id}"):
                known[wish.run_id] = wish.request.task
        found = {run_id: self.run(task_id, run_id) for run_id, task_id in known.items()}
        return {run_id: run for run_id, run in found.items() if run is not None}

    def run(self, task_id: TaskId, run_id: RunId) -> Run | None:
        """Return a run as it is. One that has ended is read again only when it has been claimed again."""
        stamp = self._changed_ns(f"{self._place(task_id, run_id)}/claims")
        if run_id in self.ended and self.ended[run_id][0] == stamp:
            return self.ended[run_id][1]
        quiet = self.quiet.get(run_id)
        if quiet is not None and quiet.run is not None and self._is_as_it_was(task_id, run_id, quiet):
            return quiet.run
        run = self._read(task_id, run_id, quiet)
        if run is not None and run.planned and not run.corrupt and phase(run, self.world.now()) in ENDED:
            self.ended[run_id] = (stamp, run)
        return run

    def _read(self, task_id: TaskId, run_id: RunId, quiet: Quiet | None) -> Run | None:
        """Read a run, and keep it if an engine executes it and nothing has changed for a while."""
        changed, now_s = self._changed(task_id, run_id), self.world.now().monotonic_s
        run = self.world.runs.observe(task_id, run_id)
        if run is None or not _is_elsewhere(run):
            self.quiet.pop(run_id, None)
        elif quiet is None or quiet.changed != changed:
            self.quiet[run_id] = Quiet(changed=changed, since_s=now_s)
        elif now_s - quiet.since_s >= TICK_S:
            until_s = now_s + KEPT_S + zlib.crc32(run_id.encode()) % KEPT_S  # not all of them in one pass
            self.quiet[run_id] = Quiet(changed=changed, since_s=quiet.since_s, run=run, until_s=until_s)
        return run

    def _is_as_it_was(self, task_id: TaskId, run_id: RunId, quiet: Quiet) -> bool:
        """Return whether no directory of a run has changed; one that comes into being changes the one above."""
        if self.world.now().monotonic_s >= quiet.until_s:
            return False
        return all(self._changed_ns(path) == then for path, then in quiet.changed.items())

    def _changed(self, task_id: TaskId, run_id: RunId) -> dict[str, int]:
        """Return by path when the directories of a run, and its mark, have changed, of those that are there."""
        place = self._place(task_id, run_id)
        paths = (*(f"{place}/{each}" if each else place for each in FAMILIES), f"{self.live}/{run_id}")
        return {path: changed for path in paths if (changed := self._changed_ns(path))}

    def _place(self, task_id: TaskId, run_id: RunId) -> str:
        """Return a run directory as text: this is asked for every unsettled run in every pass, and Paths are slow."""
        return f"{self.root}/{task_id}/cli/{run_id}"

    def _changed_ns(self, path: str) -> int:
        found = self.world.disk.look(path)
        return found.changed_ns if found else 0


def _is_elsewhere(run: Run) -> bool:
    """Return whether an engine executes a run and nothing of it lives here, so that its records say everything."""
    return run.is_afar and run.planned and not (run.corrupt or run.lock_held or run.worker_alive)
