"""Making sure that attempts at engines end which must run no more, and that those stay ended which come back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from reconciler import parted
from reconciler.actions import Abandon, Action, Cancel, Resume, TakeOver
from reconciler.afar.engines import Engines
from reconciler.afar.memory import Memory, placement_of
from reconciler.afar.sightings import Sightings
from reconciler.errors import LockHeld
from reconciler.model import Run, RunId
from reconciler.phases import is_silent
from reconciler.places import Sighting, Standing
from reconciler.work import handle_of
from reconciler.world import World

TOLD_S = 2.0
"""How long an engine that was told to end an attempt is left to do that before it is told again."""
FENCED = (Cancel, Abandon, Resume, TakeOver)


class Ends:
    """Ends attempts for one host."""

    def __init__(self, world: World, engines: Engines, memory: Memory, sightings: Sightings) -> None:
        self.world, self.engines, self.memory, self.sightings = world, engines, memory, sightings
        self.parted_s = float("-inf")

    def fence(self, actions: Sequence[Action], runs: Mapping[RunId, Run]) -> dict[RunId, str]:
        """Have the attempts ended that must run no more, all of an engine at once; return by run what still lives, or
        may."""
        fenced = [each for each in actions if isinstance(each, FENCED)]
        return self._end_all((each.run_id, runs.get(each.run_id), each) for each in fenced)

    def end(self, run: Run) -> None:
        """Have the newest attempt of a run ended. Raise LockHeld if it still lives, or may."""
        for why in self._end_all([(run.run_id, run, None)]).values():
            raise LockHeld(f"{run.run_id}: {why}; try again soon")

    def _end_all(self, ending: Iterable[tuple[RunId, Run | None, Action | None]]) -> dict[RunId, str]:
        """Have attempts ended that are not gone for certain, and return by run what may live all the same."""
        by_executor: dict[str, list[tuple[RunId, Run | None, str]]] = {}
        for run_id, run, action in ending:
            for executor, handle in self._handles(action, run) if not _is_gone(run) else ():
                by_executor.setdefault(executor, []).append((run_id, run, handle))
                self._note_given_up(executor, handle, run)
        self.memory.write()  # why it is told to end, before it is: afterwards only its engine could say
        living: dict[RunId, str] = {}
        for executor, those in by_executor.items():
            seen = self._cancel(executor, [handle for _, _, handle in those])
            found = {run_id: self._lives(executor, handle, seen, run) for run_id, run, handle in those}
            living |= {run_id: why for run_id, why in found.items() if why}
        return living

    def _handles(self, action: Action | None, run: Run | None) -> Iterator[tuple[str, str]]:
        """Yield executor and handle of what an action is to end: where the claim is lost, at whichever engine it
        was."""
        if run is None and isinstance(action, TakeOver):
            placed = [each.placement for each in action.held.claim.claims[-1:] if each.placement is not None]
            yield from ((each.executor, each.handle) for each in placed if each.handle)
        elif run is not None and run.is_afar:
            yield placement_of(run).executor, placement_of(run).handle
        elif run is not None and run.claim is None:
            for name in self.engines.said:
                yield name, handle_of(self.engines.repository(name), run.run_id, run.number)

    def _note_given_up(self, executor: str, handle: str, run: Run | None) -> None:
        """Note that an attempt is told to end because it is silent, where that is so."""
        known = run.afar if run is not None else None
        heard = self.memory.heard(executor, handle)
        if known is not None and is_silent(known) and heard.given_up_s is None:
            self.memory.keep(handle, replace(heard, given_up_s=known.silent_s))

    def _cancel(self, executor: str, handles: Sequence[str]) -> Mapping[str, Sighting]:
        """Have an engine end attempts, and return how they stand after that; nothing where it cannot be asked now. What
        was told a moment ago is not told again."""
        now_s = self.world.now().monotonic_s
        due = [each for each in handles if now_s - self.memory.told.get(each, float("-inf")) >= TOLD_S]
        seen = {each: self.memory.heard(executor, each).sighting for each in handles if each not in due}
        if due and not self.engines.unusable(executor, only_silence=True):
            with self.engines.asking(executor) as engine:
                engine.cancel(due)
                found = engine.observe(due)
                self.sightings.note(executor, found)
                self.memory.told |= dict.fromkeys(due, now_s)
                seen |= found
        return {handle: each for handle, each in seen.items() if each is not None}

    def _lives(self, executor: str, handle: str, seen: Mapping[str, Sighting], run: Run | None) -> str:
        """Return why an attempt that was to end may live all the same, "" if it is gone for certain."""
        if handle not in seen:
            return f"attempt {handle} may live: {self.engines.unusable(executor) or 'its engine does not answer'}"
        if seen[handle].standing in (Standing.QUEUED, Standing.RUNNING):
            return f"executor '{executor}' was told to end attempt {handle}"
        # Its last word may be on its way; without a run here nobody wants to hear it.
        waits = run is not None and run.afar is not None and run.afar.submitted
        return f"attempt {handle} has ended at executor '{executor}'; its last word is looked for" if waits else ""

    # -------------------------------------------------------------------------------------------- what comes back

    def look_for_parted(self) -> None:
        """Tell attempts to end once more that are over for us and that their engines show again. Nothing waits for
        that."""
        now = self.world.now()
        if not self.memory.parted or now.monotonic_s - self.parted_s < parted.ASKED_S:
            return
        self.parted_s = now.monotonic_s
        known = parted.kept(self.memory.parted, now)
        for executor, handles in parted.by_executor(known).items():
            if not self.engines.unusable(executor, only_silence=True):
                with self.engines.asking(executor) as engine:
                    back = parted.came_back(known, engine.observe(handles))
                    if back:
                        engine.cancel(back)
                    known |= {each: parted.told(known[each]) for each in back}
        self.memory.keep_parted(known)


def _is_gone(run: Run | None) -> bool:
    """Return whether nothing of the newest attempt of a run lives at an engine, for certain."""
    known = run.afar if run is not None else None
    return known is not None and (known.is_final or bool(known.turned))
