"""The screen of a watcher on a terminal, drawn with rich, which is loaded only for this.

The picture is made by `screen`; here is when to draw it: when a pass was done, once a second for the ages in it, when
the window has another size, and never more than four times a second. It has a screen of its own, and gives the terminal
back as it was, however the watcher ends.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text

from reconciler.actions import Action
from reconciler.explain import Row, rows
from reconciler.loop import Loop, Pass
from reconciler.model import Evidence, Phase, RunId
from reconciler.observe import Observation
from reconciler.phases import ENDED
from reconciler.screen import Line, View, screen
from reconciler.terminal import COLOURS
from reconciler.tidings import condition
from reconciler.watcher import Face, Turn

DRAWN_MIN_S = 0.25
LOOK_S = 1.0
RESULTS_MAX = 50
PROBLEMS_MAX = 20
COMMITS_MAX = 1_000
STYLES = {**COLOURS, "title": "bold", "dim": "bright_black", "bad": "red", "": ""}


class Screen(Face):
    """Shows what is under way, what waits and what came of the rest, until the watcher ends."""

    look_s = LOOK_S

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.live = Live(console=self.console, screen=True, auto_refresh=False, redirect_stderr=False)
        self.loop: Loop | None = None
        self.turn: Turn | None = None
        self.passed: Pass | None = None
        self.shown: tuple[Row, ...] = ()
        self.problems: tuple[str, ...] = ()
        self.note = self.since = self.remote = ""
        self.drawn_s = self.seen_s = float("-inf")
        self.newest: tuple[str, tuple[RunId, ...]] = ("", ())
        self.commits: dict[str, str] = {}
        self.passes, self.took_s = 0, 0.0

    def begin(self, loop: Loop) -> None:
        self.loop = loop
        self.since = self.since or datetime.fromisoformat(loop.world.now().at).astimezone().strftime("%H:%M")
        if not self.live.is_started:
            self.live.start()

    def end(self) -> None:
        self.live.stop()

    def say(self, what: str, detail: str) -> None:
        self.note = "" if what == "reloaded" else detail

    def tell(self, turn: Turn) -> None:
        assert self.loop is not None
        self.turn, self.passes, self.took_s = turn, self.passes + 1, turn.took_s
        if turn.result is not None:
            self._take(turn.result)
        self.problems = tuple(self._problems(turn))[:PROBLEMS_MAX]
        self.remote = self._remote(self.loop)
        self.refresh()

    def refresh(self) -> None:
        """Draw, unless that was done a moment ago."""
        now_s = time.monotonic()
        if self.turn is None or now_s - self.drawn_s < DRAWN_MIN_S:
            return
        self.drawn_s = now_s
        width, height = self.console.size
        self.live.update(painted(screen(self.view(), width, height)), refresh=True)

    # -------------------------------------------------------------------------------------------- what is shown

    def _take(self, result: Pass) -> None:
        """Keep what a pass has seen."""
        self.passed, self.seen_s = result, time.monotonic()
        if result.publication is not None:
            self.commits.update(dict.fromkeys(result.publication.runs, result.publication.commit))
            self.commits = dict(list(self.commits.items())[-COMMITS_MAX:])
        seen = result.seen
        shown = self._evidence(seen, result.actions)
        actual = replace(seen.actual, evidence=shown)
        self.shown = tuple(rows(seen.desired, actual, result.actions, self.commits, seen.now))

    def _evidence(self, seen: Observation, actions: tuple[Action, ...]) -> Mapping[RunId, Evidence]:
        """Return the evidence of what is shown: the newest results, and all that is spoken of."""
        evidence = seen.actual.evidence
        if self.newest[0] != seen.evidence_tip:
            found = heapq.nlargest(RESULTS_MAX, evidence, key=lambda each: evidence[each].completed_at)
            self.newest = (seen.evidence_tip, tuple(found))
        wished = (each.run_id for each in seen.desired.wishes)
        spoken = {*self.newest[1], *wished, *seen.actual.runs, *(seen.actual.held or {})}
        return {each: evidence[each] for each in spoken if each in evidence}

    def _problems(self, turn: Turn) -> list[str]:
        found = [each for each in (self.note, turn.trouble) if each]
        if turn.deaf:
            found.append(f"no events from the file system ({turn.deaf}); looking once a second")
        result = self.passed
        if result is not None:
            found += [f"evidence waits: {result.blocked}"] if result.blocked else []
            found += [each.sentence for each in result.done if each.error is not None]
            found += [each.sentence() for rejection in result.seen.desired.rejections for each in rejection.problems]
        return found

    @staticmethod
    def _remote(loop: Loop) -> str:
        if loop.world.remote is None:
            return ""
        asked = loop.observer.hearing.asked if loop.observer.hearing is not None else None
        wrong = condition(loop, "remote")
        at = f"{loop.world.remote.name} answered at {asked.at[11:19]}Z" if asked is not None else "not asked yet"
        return wrong or at

    def _settled(self) -> int:
        """Return how many runs are proven and over."""
        open_ = sum(each.phase == Phase.WAITING and bool(each.evidence) for each in self.shown)
        return len(self.passed.seen.actual.evidence) - open_ if self.passed is not None else 0

    def view(self) -> View:
        """Return what is shown now: ages have grown since the last pass."""
        assert self.loop is not None and self.turn is not None
        now_s = time.monotonic()
        passed_s = now_s - self.seen_s if self.passed is not None else 0.0
        return View(
            where=self.loop.world.checkout.name
            if not self.loop.world.repository.bare
            else str(self.loop.world.repository.common),
            branch=self.passed.seen.branch if self.passed is not None else "",
            tip=self.passed.seen.tip if self.passed is not None else "",
            rows=[_older(each, passed_s) for each in self.shown],
            settled=self._settled(),
            problems=self.problems,
            remote=self.remote,
            next_s=max(0.0, self.turn.due_at_s - now_s),
            next_what=self.turn.due.what,
            since=self.since,
            passes=self.passes,
            passed_s=self.took_s,
            ages=_ages(self.shown, self.loop.world.now().at),
        )


def _older(row: Row, seconds: float) -> Row:
    return row if row.heartbeat_age_s is None else replace(row, heartbeat_age_s=row.heartbeat_age_s + seconds)


def _ages(shown: tuple[Row, ...], at: str) -> dict[str, float]:
    """Return for how many seconds results have been there, by the wall clock, which is for people."""
    found: dict[str, float] = {}
    now = datetime.fromisoformat(at)
    for each in shown:
        if each.completed_at and each.phase in ENDED:
            try:
                found[each.run_id] = (now - datetime.fromisoformat(each.completed_at)).total_seconds()
            except (ValueError, TypeError):
                continue  # what a manifest says there is shown nowhere
    return found


def painted(lines: tuple[Line, ...]) -> Text:
    """Return the picture as rich draws it."""
    whole = Text(no_wrap=True, overflow="crop", end="")
    for number, line in enumerate(lines):
        for each in line:
            whole.append(each.text, style=STYLES.get(each.style, ""))
        if number + 1 < len(lines):
            whole.append("\n")
    return whole
