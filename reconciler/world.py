"""The one impure value: the repository, its runs, the workers and the clock.

A function that takes a `World` may touch things; one that does not, may not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reconciler import process
from reconciler.contracts import Contracts
from reconciler.disk import DISK, Disk
from reconciler.git import Repository, open_repository
from reconciler.model import Instant
from reconciler.process import Chance, Processes, Workers
from reconciler.rundir import Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    repository: Repository
    disk: Disk
    runs: Runs
    processes: Processes
    workers: Workers
    contracts: Contracts
    chance: Chance
    now: Callable[[], Instant]

    @property
    def checkout(self) -> Path:
        """The repository's own directory, above `.runs`, whichever worktree of it one stands in."""
        return self.runs.root.parent


def open_world(directory: Path, workers: Workers | None = None) -> World:
    """Return the world around the repository that `directory` is in. Raise UsageError if it is in none."""
    repository = open_repository(directory)
    return World(
        repository=repository,
        disk=DISK,
        processes=Processes(),
        chance=Chance(),
        runs=Runs(_root(repository) / ".runs", repository.state),
        workers=workers or Workers(),
        contracts=Contracts(),
        now=process.instant,
    )


def _root(repository: Repository) -> Path:
    """Return where live records are kept: one place for all worktrees of a repository."""
    if repository.bare:
        return repository.state
    return repository.common.parent if repository.common.name == ".git" else repository.directory
