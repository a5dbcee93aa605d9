"""Which engine an executor has: one of ours, or one that a package beside us brings."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from reconciler.errors import TransientError
from reconciler.executors.engine import GROUP, Engine, Opening
from reconciler.installed import cure, entry_points
from reconciler.model import ExecutorSettings

MODULES = {"process": "local_process", "slurm": "slurm", "kubernetes": "kubernetes"}

Opener = Callable[[Opening], Engine]


def open_engine(executor: str, said: ExecutorSettings, directory: Path) -> Engine:
    """Return the engine of an executor; what it keeps, it keeps in `directory`. Raise TransientError if there is none
    here, or what it needs is missing: other hosts may have it."""
    opening = Opening(executor=executor, options=said.options, directory=directory)
    if said.engine in MODULES:
        opener: Opener = import_module(f"reconciler.executors.{MODULES[said.engine]}").open_engine
        return opener(opening)
    found = entry_points(said.engine, GROUP)
    if not found:
        raise TransientError(f"executor '{executor}' has no engine '{said.engine}'; {cure(said.engine, GROUP)}")
    try:
        opener = found[0].load()
        return opener(opening)
    except Exception as error:  # whatever a package of somebody else does must not end the pass
        raise TransientError(f"executor '{executor}': engine '{said.engine}' cannot be used: {error}") from error
