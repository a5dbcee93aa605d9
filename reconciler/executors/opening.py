"""Which engine an executor has: one of ours, or one that a package beside us brings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TypeVar

from reconciler.errors import TransientError
from reconciler.executors.engine import (
    GROUP,
    Engine,
    EngineSilent,
    Opening,
    Renewing,
    Sighting,
    Submission,
    Turned,
)
from reconciler.installed import cure, entry_points
from reconciler.model import ExecutorSettings

MODULES = {"process": "local_process", "slurm": "slurm", "kubernetes": "kubernetes"}

Opener = Callable[[Opening], Engine]
T = TypeVar("T")


def open_engine(executor: str, said: ExecutorSettings, directory: Path, withheld: tuple[str, ...] = ()) -> Engine:
    """Return the engine of an executor; what it keeps, it keeps in `directory`, and nothing that it starts inherits the
    variables that are `withheld`. Raise TransientError if there is none here, or what it needs is missing: other hosts
    may have it."""
    opening = Opening(executor=executor, options=said.options, directory=directory, withheld=withheld)
    if said.engine in MODULES:
        opener: Opener = import_module(f"reconciler.executors.{MODULES[said.engine]}").open_engine
        return opener(opening)
    found = entry_points(said.engine, GROUP)
    if not found:
        raise TransientError(f"executor '{executor}' has no engine '{said.engine}'; {cure(said.engine, GROUP)}")
    try:
        opener = found[0].load()
        return guarded(opener(opening), said.engine)
    except Exception as error:  # whatever a package of somebody else does must not end the pass
        raise TransientError(f"executor '{executor}': engine '{said.engine}' cannot be used: {error}") from error


def guarded(engine: Engine, name: str) -> Guarded:
    """Return an engine of somebody else's so that it can throw nothing but what an engine may."""
    return GuardedRenewing(engine, name) if isinstance(engine, Renewing) else Guarded(engine, name)


class Guarded:
    """An engine of somebody else's: whatever it throws is no answer, and ends no pass."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self._name = engine, name

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Turned]:
        return self._ask(lambda: self._engine.submit(submissions))

    def observe(self, handles: Collection[str]) -> Mapping[str, Sighting]:
        return self._ask(lambda: self._engine.observe(handles))

    def cancel(self, handles: Collection[str]) -> None:
        self._ask(lambda: self._engine.cancel(handles))

    def adopt(self, repository: str) -> Mapping[str, Mapping[str, str]]:
        return self._ask(lambda: self._engine.adopt(repository))

    def logs(self, handle: str, bytes_max: int) -> bytes:
        return self._ask(lambda: self._engine.logs(handle, bytes_max))

    def _ask(self, question: Callable[[], T]) -> T:
        try:
            return question()
        except TransientError:
            raise
        except Exception as error:
            raise EngineSilent(f"engine '{self._name}' failed: {type(error).__name__}: {error}") from error


class GuardedRenewing(Guarded):
    """One that can change a secret of an attempt that is there."""

    def renew(self, secrets: Mapping[str, Mapping[str, str]]) -> Collection[str]:
        engine = self._engine
        assert isinstance(engine, Renewing)
        return self._ask(lambda: frozenset(engine.renew(secrets)))
