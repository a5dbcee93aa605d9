"""What happened to one run, from where one who listens has stopped: of its journal, else of its manifest.

The journal is there while a run is under way on this machine, and after that as long as its records are. A feed tells
nothing twice, whichever of the two it is told by, and goes on behind the event that somebody says they heard last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler import events, journal
from reconciler.confided import confided
from reconciler.events import Event
from reconciler.retold import events_of
from reconciler.scrub import scrubbed_text

LATE_LOOKS_MAX = 4
"""A worker writes the end of its journal after its record: so often one looks for it, before the manifest tells it."""


@dataclass(slots=True)
class Feed:
    """One who listens: `after` is the id of the event that was heard last, "" for none. `over` is whether everything
    was told of a run that has ended."""

    after: str = ""
    over: bool = False
    start: int = 0
    told: set[str] = field(default_factory=set)
    looks: int = 0

    def news(self, path: Path, ended: bool, document: Callable[[], Mapping[str, Any] | None]) -> tuple[Event, ...]:
        """Return what is new. `path` is where the journal would be; whether the run has `ended` was found out before
        this look; `document` gives the manifest where the journal does not do."""
        found = self._heard(path)
        retold = _retold(document) if ended or not self.start else []
        if not self.start:
            found = retold
        last = retold[-1:] if ended else []
        if last and last[0].id not in self.told | {each.id for each in found}:
            self.looks += 1
            found += last if self.looks >= LATE_LOOKS_MAX else []
        fresh = self._fresh(found)
        self.over = ended and all(each.id in self.told for each in last)
        return fresh

    def _heard(self, path: Path) -> list[Event]:
        """Return all that is new in the journal."""
        found: list[Event] = []
        while (heard := journal.read(path, self.start)).end > self.start:
            self.start = heard.end
            found += map(_clean, heard.events)
        return found

    def _fresh(self, found: Sequence[Event]) -> tuple[Event, ...]:
        """Return what was not told, from behind the event that was heard last; from the beginning where nobody knows
        that one."""
        if self.after and found:
            index = max((index for index, each in enumerate(found) if each.id == self.after), default=-1)
            self.told.update(each.id for each in found[: index + 1])
            self.after = ""
        return tuple(self._untold(found))

    def _untold(self, found: Sequence[Event]) -> Iterable[Event]:
        for each in found:
            if each.id not in self.told:
                self.told.add(each.id)
                yield each


def _retold(document: Callable[[], Mapping[str, Any] | None]) -> list[Event]:
    said = document()
    return [_clean(each) for each in events_of(said)] if said is not None else []


def _clean(event: Event) -> Event:
    """Return an event without what was handed out since it was written."""
    values = confided()
    return events.cleaned(event, lambda text: scrubbed_text(text, values)) if values else event
