"""What engines say of attempts: asked in their own time, beside the passes, and taken only while it is not old.

A look may go on beside several passes (`looks`): what counts is when its answer is taken, and what was done since it
began.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from reconciler.afar.engines import Engines
from reconciler.afar.looks import Look
from reconciler.afar.memory import Heard, Memory, placement_of
from reconciler.errors import TransientError
from reconciler.model import Run
from reconciler.places import Sighting, Standing
from reconciler.world import World


class Sightings:
    """The looks of one host at its engines."""

    def __init__(self, world: World, engines: Engines, memory: Memory) -> None:
        self.world, self.engines, self.memory = world, engines, memory

    def observe(self, runs: Iterable[Run]) -> None:
        """Ask every engine that is due what it says of the attempts it has, all of them at once."""
        by_executor: dict[str, list[str]] = {}
        for run in runs:
            placed = placement_of(run)
            by_executor.setdefault(placed.executor, []).append(placed.handle)
        taken = self._take_answers(by_executor, waits=False)
        for executor, handles in by_executor.items():
            # Not where it has just answered: it would never be given anything while there are always new attempts.
            if executor not in taken and self._is_due(executor, handles):
                self._begin_look(executor, handles)
        self._take_answers(by_executor, waits=True)

    def _begin_look(self, executor: str, handles: Sequence[str]) -> None:
        """Begin to ask an engine; while it is asked nobody else does."""
        known = {each: self.memory.heard(executor, each) for each in handles}
        try:
            self.engines.looks.begin(executor, Look(self.engines.open(executor), handles, known))
        except (TransientError, OSError) as error:
            self.engines.note_silent(executor, error)

    def _take_answers(self, handles: Mapping[str, Sequence[str]], *, waits: bool) -> list[str]:
        """Take what engines have said of attempts that are under way still; return the executors that were asked."""
        taken = []
        for executor, look in self.engines.looks.answered(waits=waits):
            taken.append(executor)
            if executor in self.engines.said:
                wanted = set(handles.get(executor, ()))
                with self.engines.asking(executor) as engine:
                    seen = look.answer() if engine is look.engine else {}  # settings have named another one
                    said = {each: found for each, found in seen.items() if each in wanted}
                    counts = {each: found for each, found in said.items() if self._counts(executor, each, found, look)}
                    self.note(executor, counts)
        return taken

    def _counts(self, executor: str, handle: str, found: Sighting, look: Look) -> bool:
        """Return whether an answer is to be believed: that an attempt is gone, only if nothing was heard of it and
        nothing done with it since the look began. What seems to live and does not is seen to be gone by the next."""
        if found.standing in (Standing.QUEUED, Standing.RUNNING):
            return True
        return _state(look.known.get(handle)) == _state(self.memory.heard(executor, handle))

    def _is_due(self, executor: str, handles: Sequence[str]) -> bool:
        """Return whether an engine is to be asked: in its own time, and at once about what it was never asked about."""
        if self.engines.unusable(executor, only_silence=True):
            return False
        new = any(self.memory.heard(executor, each).sighting is None for each in handles)
        asked_s = self.engines.pause(executor).asked_s
        return new or self.world.now().monotonic_s - asked_s >= self.engines.said[executor].poll_s

    def note(self, executor: str, seen: Mapping[str, Sighting]) -> None:
        """Remember what an engine has just said of attempts, by handle."""
        self.engines.pause(executor).asked_s = self.world.now().monotonic_s
        for handle, sighting in seen.items():
            before = self.memory.heard(executor, handle)
            gone = sighting.standing in (Standing.ENDED, Standing.ABSENT)
            self.memory.keep(
                handle,
                replace(
                    before,
                    sighting=sighting,
                    # What an engine has it has taken, though nobody may have lived to write that down.
                    submitted=before.submitted or sighting.standing != Standing.ABSENT,
                    ended=(before.ended or self.world.now()) if gone else None,
                ),
            )


def _state(heard: Heard | None) -> tuple[object, ...]:
    """Return what of an attempt changes when it is handed over, or says something."""
    return (heard.submitted, heard.order, heard.word, heard.turned, heard.alien) if heard is not None else ()
