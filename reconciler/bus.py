"""The bus: what journals of runs under way tell that is new, handed to whoever subscribed. Part of a pass.

Where to go on is written down per subscriber, in `<git directory>/reconciler/subscribers/<name>.json`, after it was
told: so each event is heard at least once, and after a crash some are heard again, with the same `id`. A subscriber
runs in a thread of its own: one that throws is named in a warning, one that hangs hears nothing until it returns, and
neither holds up a run or another subscriber. The same pass tells the end of a run whose worker could not.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler import events, journal, rundir
from reconciler.codec import CodecError
from reconciler.confided import cleaned
from reconciler.errors import LockHeld
from reconciler.events import Event
from reconciler.model import Phase, Run, RunId
from reconciler.observe import Observation
from reconciler.phases import ENDED, phase
from reconciler.world import World

if TYPE_CHECKING:
    import threading

PATIENCE_S = 5.0
"""So long a pass waits for a subscriber; after that it goes on without."""
CLOSED_MAX = 10_000
POSITIONS_BYTES_MAX = 4 * 1024 * 1024

Call = Callable[[Event], object]
Finder = Callable[[str], "Call | str"]


@dataclass(slots=True)
class Telling:
    """A batch of events that a subscriber is being told, and where to go on after it."""

    thread: threading.Thread
    positions: Mapping[str, int]
    troubles: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Bus:
    """The subscribers of one process. `find` returns the subscriber of a name, or what is in the way of it."""

    world: World
    find: Finder | None = None
    patience_s: float = PATIENCE_S
    found: dict[str, Call | str] = field(default_factory=dict)
    telling: dict[str, Telling] = field(default_factory=dict)
    positions: dict[str, dict[str, int]] = field(default_factory=dict)
    closed: set[tuple[RunId, int]] = field(default_factory=set)

    def tell(self, seen: Observation) -> tuple[str, ...]:
        """Tell subscribers what is new of the runs under way; return warnings."""
        for run in seen.actual.runs.values():
            word = phase(run, seen.now)
            if word in ENDED and (run.run_id, run.number) not in self.closed:
                self._close(seen, run, word)
        warnings: list[str] = []
        for name in seen.settings.subscribers:
            warnings += self._tell_one(seen, name)
        return tuple(self._clean(seen, each) for each in warnings)

    # -------------------------------------------------------------------------------------------- the last event

    def _close(self, seen: Observation, run: Run, word: Phase) -> None:
        """Tell the end of a run in its journal, if nobody did: its worker died, or there never was one."""
        directory = self.world.runs.directory(run.task_id, run.run_id)
        path = directory.path / journal.NAME
        with contextlib.suppress(LockHeld, OSError):  # whoever holds the lock may be about to say it
            if not journal.tells_end(path, run.number):
                with rundir.holding(directory):
                    if not journal.tells_end(path, run.number):
                        journal.append(path, [self._end(seen, run, word)], sync=True)
            if len(self.closed) >= CLOSED_MAX:
                self.closed.clear()
            self.closed.add((run.run_id, run.number))

    def _end(self, seen: Observation, run: Run, word: Phase) -> Event:
        summary = run.end.detail if run.end is not None else run.attempt.detail if run.attempt is not None else ""
        kind = events.RunCompleted if word == Phase.SUCCEEDED else events.RunFailed
        at = run.end.at if run.end is not None else seen.now.at
        data = kind(status=word.value, summary=summary)
        told = Event(run_id=run.run_id, task_id=run.task_id, attempt=run.number, at=at, data=data)
        return events.cleaned(told, lambda text: self._clean(seen, text))

    def _clean(self, seen: Observation, text: str) -> str:
        return cleaned(text, seen.settings.redact.patterns)

    # -------------------------------------------------------------------------------------------- subscribers

    def _tell_one(self, seen: Observation, name: str) -> list[str]:
        """Tell one subscriber what it has not heard yet; return warnings."""
        troubles = self._settled(name)
        if name in self.telling:
            return [f"subscriber '{name}': it has not returned yet, and hears nothing until it does"]
        subscriber = self._subscriber(name)
        if isinstance(subscriber, str):
            return [*troubles, f"subscriber '{name}': {subscriber}"]
        batch, positions = self._news(seen, name)
        if not batch:
            return troubles
        import threading

        said: list[str] = []
        thread = threading.Thread(target=_call, args=(name, subscriber, batch, said), daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            return [*troubles, f"subscriber '{name}': {error}"]
        self.telling[name] = Telling(thread, positions, said)
        thread.join(self.patience_s)
        late = [f"subscriber '{name}': it takes longer than {self.patience_s:g} s"] if thread.is_alive() else []
        return [*troubles, *self._settled(name), *late]

    def _settled(self, name: str) -> list[str]:
        """Write down what a subscriber has heard, if it has returned; return what it threw."""
        telling = self.telling.get(name)
        if telling is None or telling.thread.is_alive():
            return []
        del self.telling[name]
        self.positions[name] = dict(telling.positions)
        path = self._path(name)
        with contextlib.suppress(OSError):  # then it hears the same again
            self.world.disk.make_directory(path.parent)
            self.world.disk.write_atomic(path, json.dumps(telling.positions).encode(), sync=False)
        return telling.troubles

    def _subscriber(self, name: str) -> Call | str:
        if name not in self.found:
            self.found[name] = (self.find or installed)(name)
        return self.found[name]

    def _news(self, seen: Observation, name: str) -> tuple[list[Event], dict[str, int]]:
        """Return what a subscriber has not heard, and where to go on after it, by run."""
        if name not in self.positions:
            self.positions[name] = self._read(name)
        known = self.positions[name]
        batch: list[Event] = []
        positions: dict[str, int] = {}
        for run in seen.actual.runs.values():
            path = self.world.runs.directory(run.task_id, run.run_id).path / journal.NAME
            start = known.get(run.run_id, 0)
            size = _size(path)
            if size != start:
                heard = journal.read(path, start if start < size else 0)
                batch += (events.cleaned(each, partial(self._clean, seen)) for each in heard.events)
                start = heard.end
            positions[run.run_id] = start
        return batch, positions

    def _read(self, name: str) -> dict[str, int]:
        with contextlib.suppress(CodecError, ValueError, RecursionError):
            said = json.loads(self.world.disk.read_bounded(self._path(name), POSITIONS_BYTES_MAX) or b"{}")
            return {str(run_id): at for run_id, at in said.items() if type(at) is int and at >= 0}
        return {}

    def _path(self, name: str) -> Path:
        return self.world.repository.state / "subscribers" / f"{name}.json"


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.lstat().st_size
    return 0


def _call(name: str, subscriber: Call, batch: Sequence[Event], troubles: list[str]) -> None:
    """Tell a subscriber a batch, in order; what it throws at one event keeps it from no other."""
    for event in batch:
        try:
            subscriber(event)
        except BaseException as error:  # whatever a stranger's code does, it is no end of ours
            said = " ".join(str(error).split())[:300]
            troubles.append(f"subscriber '{name}': {type(error).__name__} at {event.name.value}: {said}")


def installed(name: str) -> Call | str:
    """Return the subscriber that an installed package has under a name, or what is in the way."""
    from reconciler.installed import SUBSCRIBERS, cure, entry_points

    points = entry_points(name, SUBSCRIBERS)
    if not points:
        return f"no installed package has it; {cure(name, SUBSCRIBERS)}"
    try:
        made: Any = points[0].load()
        made = made() if isinstance(made, type) else made
    except BaseException as error:  # whatever a stranger's module does when it is loaded
        return f"it cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return made if callable(made) else "it is nothing that can be called with an event"
