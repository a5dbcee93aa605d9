"""What the parts of a simulation know of each other: a machine for its disk, a history for its machines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from reconciler.executors.engine import Submission
from reconciler.model import Attempt, Plan, PlannedStage, StageRecord
from reconciler.rundir import RunDirectory
from reconciler.simulation.scheduler import Actor, Scheduler
from reconciler.simulation.story import Behaviour, Story


class Machine(Protocol):
    """A simulated machine."""

    name: str
    scheduler: Scheduler
    actors: list[Actor]
    cut_off_until: float

    @property
    def branch(self) -> str:
        """The branch that is reconciled."""
        ...

    def stamp(self) -> int: ...

    def armed(self, what: str) -> bool: ...

    def moved(self, ref: str, old: str | None, new: str | None) -> None: ...

    def latency(self) -> float: ...


class Watching(Protocol):
    """Whoever is told what happens, and says when a promise is broken."""

    def progress(self, host: Any, run_id: str, number: int, worker: Actor, stage: str) -> None: ...

    def alone(self, host: Any, plan: Plan, run: RunDirectory, number: int, worker: Actor) -> None: ...

    def spawned(self, host: Any, directory: Path, number: int) -> None: ...

    def ended(self, host: Any, run: RunDirectory, number: int) -> None: ...

    def succeeded(self, run_id: str, stage: PlannedStage) -> None: ...

    def cited(self, run_id: str, stage: PlannedStage) -> None: ...

    def passed_gate(self, plan: Plan, stage: PlannedStage, number: int) -> None: ...

    def nested(self, run_id: str, stage: PlannedStage, record: StageRecord) -> None: ...

    def power_lost(self, host: Any, standing: list[str]) -> None: ...

    def submitted(self, host: Any, submission: Submission) -> None: ...

    def says(self, about: tuple[str, int], known: Attempt | None, files: Mapping[str, bytes]) -> None: ...

    def fenced(self, host: Any, ref: str) -> None: ...

    def branch_moved(self, ref: str, old: str | None, new: str | None) -> None: ...


class Telling(Protocol):
    """A history, while it is told."""

    story: Story
    scheduler: Scheduler
    drawn: int

    @property
    def watch(self) -> Watching: ...

    def count(self, what: str) -> None: ...

    def behaviour(self, run_id: str, stage: PlannedStage, number: int, tries: int) -> Behaviour: ...

    def late_s(self, run_id: str, number: int) -> float: ...

    def latency(self) -> float: ...
