"""Many histories, and what a person is told about them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from reconciler.simulation.history import History, Result
from reconciler.simulation.memory import remembering
from reconciler.simulation.shrink import shortest
from reconciler.simulation.story import Story, story_of

TRACE_HEAD, TRACE_TAIL = 300, 60
"""How much of a trace is printed; what never comes to an end repeats itself in between."""
HISTORIES_KEPT = 25
"""After so many histories, what is left of them is let go."""


@dataclass(slots=True)
class Tally:
    """What a number of histories had in them."""

    histories: int = 0
    moves: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        self.histories += 1
        self.moves += result.moves
        self.seconds += result.seconds
        for what, count in result.counts.items():
            self.counts[what] = self.counts.get(what, 0) + count


def tell(stories: Iterable[Story], watch: Callable[[Result], None] | None = None) -> tuple[Tally, list[Result]]:
    """Tell stories and return what was in them, and every history in which a promise was broken."""
    tally, broken = Tally(), []
    with remembering(), _collecting_seldom() as collect:
        for story in stories:
            result = History(story).tell()
            tally.add(result)
            if result.violation:
                broken.append(result)
            if watch is not None:
                watch(result)
            if tally.histories % HISTORIES_KEPT == 0:
                collect()
    return tally, broken


@contextlib.contextmanager
def _collecting_seldom() -> Iterator[Callable[[], object]]:
    """Let nobody look for garbage in the middle of a history, nor in what lives from one history to the next: there is
    much of that, and little to find."""

    def collect() -> None:
        gc.collect()
        gc.freeze()

    was = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield collect
    finally:
        gc.unfreeze()
        if was:
            gc.enable()


def tell_seeds(seeds: Iterable[int], *, waits: bool = False, engine: bool = False) -> tuple[Tally, list[Result]]:
    """Tell the stories of these seeds; with `waits`, as they are where all have gates or nested pipelines, with
    `engine`, where all have an engine."""
    return tell(story_of(seed, waits=waits, engine=engine) for seed in seeds)


def shortest_told(result: Result) -> Result:
    """Return the shortest history that breaks the same promise, with its trace."""
    with remembering():
        return shortest(result)


def report(result: Result, *, shrink: bool = True) -> str:
    """Return in words what went wrong in a history, with the shortest one in which it does."""
    with remembering():
        short = shortest(result) if shrink else History(result.story, trace=True).tell()
    story = short.story
    faults = [each for each in story.happenings if each.kind != "switch"]
    asked = sorted(path for path in story.files if path.startswith("runs.d/"))
    lines = [
        f"seed {story.seed}: {short.violation or result.violation}",
        f"  {sum(story.hosts)} reconcilers on {len(story.hosts)} machines; asked at the beginning: {', '.join(asked)}",
        f"  people: {', '.join(f'{each.kind} {each.about} at {each.at_s:.1f} s' for each in story.deeds) or 'nothing'}",
        f"  faults: {', '.join(f'{each.kind} at move {each.move}' for each in faults) or 'none'}, "
        f"{len(story.happenings) - len(faults)} changes of who moves",
        *([f"  the engine: {story.trouble.words()}"] if story.trouble is not None else ()),
        "  seconds and moves, machine and process, what it does:",
        *(f"  {line}" for line in _bounded(short.trace)),
    ]
    return "\n".join(lines)


def _bounded(trace: list[str]) -> list[str]:
    """Return a trace whole or, if it is long, its beginning and its end."""
    left_out = len(trace) - TRACE_HEAD - TRACE_TAIL
    if left_out <= 0:
        return trace
    return [*trace[:TRACE_HEAD], f"... {left_out} lines ...", *trace[-TRACE_TAIL:]]
