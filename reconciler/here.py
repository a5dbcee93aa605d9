"""The runs of this machine as their records say, read again only where something has changed."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.model import Run, RunId, TaskId, Wish
from reconciler.phases import ENDED, phase
from reconciler.world import World


class Here:
    """Looks at the run directories of this machine, remembering the runs that have ended."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.root, self.done = str(world.runs.root), str(world.runs.state / "done")
        self.ended: dict[RunId, tuple[int, Run]] = {}

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
        run = self.world.runs.observe(task_id, run_id)
        if run is not None and run.planned and not run.corrupt and phase(run, self.world.now()) in ENDED:
            self.ended[run_id] = (stamp, run)
        return run

    def _place(self, task_id: TaskId, run_id: RunId) -> str:
        """Return a run directory as text: this is asked for every unsettled run in every pass, and Paths are slow."""
        return f"{self.root}/{task_id}/cli/{run_id}"

    def _changed_ns(self, path: str) -> int:
        found = self.world.disk.look(path)
        return found.changed_ns if found else 0
