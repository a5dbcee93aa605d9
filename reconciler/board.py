"""Between the loop and those who look at it: what the last turn came to, and what is counted over all of them.

The loop writes here, in its own thread, and never waits; what it leaves is not changed any more. Who reads reads a
whole turn or the one before. What goes wrong here is told and kept away from the loop.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from reconciler.actions import Action
from reconciler.evidence import Proven
from reconciler.loop import Loop
from reconciler.model import Phase, RunId
from reconciler.observe import Observation
from reconciler.values import frozen
from reconciler.watcher import Face, Turn

WAITING = (Phase.ABSENT, Phase.WAITING)
PASS_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@frozen
class Snapshot:
    """What the newest pass saw and decided; `trouble` is what has kept passes from being done since then, "" for
    nothing. `at_s` is the monotonic time of the last turn."""

    seen: Observation
    actions: tuple[Action, ...]
    trouble: str
    blocked: str
    at_s: float


@frozen
class Tally:
    """What is counted since the start. `buckets` are passes by the seconds they took at most, not added up."""

    passes: int = 0
    passes_refused: int = 0
    publish_failures: int = 0
    pass_s_total: float = 0.0
    pass_s_last: float = 0.0
    buckets: tuple[int, ...] = (0,) * (len(PASS_BUCKETS_S) + 1)

    def after(self, turn: Turn) -> Tally:
        place = next((n for n, s in enumerate(PASS_BUCKETS_S) if turn.took_s <= s), len(PASS_BUCKETS_S))
        return Tally(
            passes=self.passes + 1,
            passes_refused=self.passes_refused + bool(turn.trouble),
            publish_failures=self.publish_failures + bool(turn.result is not None and turn.result.blocked),
            pass_s_total=self.pass_s_total + turn.took_s,
            pass_s_last=turn.took_s,
            buckets=tuple(count + (n == place) for n, count in enumerate(self.buckets)),
        )


@dataclass(slots=True)
class Board(Face):
    """Tells `lines` what it is told, and keeps it for pages. `watch` is called after every turn, to see to whoever
    shows them."""

    lines: Face
    watch: Callable[[], str] = lambda: ""
    snapshot: Snapshot | None = None
    trouble: str = ""
    tally: Tally = Tally()
    since: Mapping[RunId, float] = field(default_factory=dict)
    """Since when each run that waits has been seen waiting, by the monotonic clock."""
    generation: int = 0
    ended: bool = False
    said: str = ""

    def begin(self, loop: Loop) -> None:
        self.generation += 1
        self.lines.begin(loop)

    def tell(self, turn: Turn) -> None:
        self.lines.tell(turn)
        try:
            self._take(turn)
            wrong = self.watch()
        except Exception as error:  # a picture that cannot be drawn must not end who works
            wrong = f"the web face: {type(error).__name__}: {error}"
        if wrong and wrong != self.said:
            self.lines.say("problem", wrong)
        self.said = wrong

    def say(self, what: str, detail: str) -> None:
        self.lines.say(what, detail)

    def refresh(self) -> None:
        self.lines.refresh()

    def end(self) -> None:
        self.ended = True
        self.lines.end()

    def _take(self, turn: Turn) -> None:
        self.tally, self.trouble = self.tally.after(turn), turn.trouble
        now_s = time.monotonic()
        if turn.result is None:
            if self.snapshot is not None:
                self.snapshot = replace(self.snapshot, trouble=turn.trouble, at_s=now_s)
            return
        seen = _kept(turn.result.seen, self.snapshot)
        self.since = {each: self.since.get(each, now_s) for each in _waiting(seen, turn.result.phases)}
        self.snapshot = Snapshot(
            seen=seen,
            actions=tuple(turn.result.actions),
            trouble=turn.trouble,
            blocked=turn.result.blocked,
            at_s=now_s,
        )


def _kept(seen: Observation, before: Snapshot | None) -> Observation:
    """Return an observation whose evidence does not change with the next one: it speaks of commits, so where they are
    the same ones the copy that was made last will do."""
    if before is not None and (before.seen.tip, before.seen.evidence_tip) == (seen.tip, seen.evidence_tip):
        evidence = before.seen.actual.evidence
    else:
        found = seen.actual.evidence
        evidence = found.frozen() if isinstance(found, Proven) else dict(found)
    runs = dict(seen.actual.runs)
    return replace(seen, actual=replace(seen.actual, evidence=evidence, runs=runs))


def _waiting(seen: Observation, phases: Mapping[RunId, Phase]) -> set[RunId]:
    here = {run_id for run_id, phase in phases.items() if phase == Phase.WAITING}
    return here | {each.run_id for each in seen.desired.wishes if each.run_id not in seen.actual.runs}
