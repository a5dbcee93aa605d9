"""The shortest history that still goes wrong: a story with everything taken away that can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from reconciler.simulation.history import History, Result
from reconciler.simulation.story import Story

T = TypeVar("T")

TRIES_MAX = 200
MOVES_MAX = 600_000
"""So many moves all tries take together at most: some twenty seconds."""
TRIES_ENDLESS_MAX, ENDLESS_MOVES = 30, 12_000
"""A history without end takes long, so it is tried less often, and what takes this long is taken for one."""


class Shrinker:
    """Takes parts away again and again, as long as what is left breaks the same promise."""

    def __init__(self, result: Result, tries_max: int = TRIES_MAX) -> None:
        self.best, self.kind = result, kind_of(result.violation)
        self.endless = "there is no end" in result.violation
        self.left = TRIES_ENDLESS_MAX if self.endless else tries_max
        self.moves_left = MOVES_MAX

    def shrink(self) -> Result:
        """Return the shortest history that was found, with its trace."""
        before = None
        while before != self.best.story and self.left > 0:
            before = self.best.story
            self._cut_at_end()
            self._thin(before.happenings, lambda story, parts: replace(story, happenings=tuple(parts)))
            self._thin(self.best.story.deeds, lambda story, parts: replace(story, deeds=tuple(parts)))
            self._thin(self._asked(), _only_asking)
            self._with_fewer_reconcilers()
        return History(self.best.story, trace=True).tell()

    def _asked(self) -> tuple[str, ...]:
        return tuple(path for path in self.best.story.files if path.startswith("runs.d/"))

    def _try(self, story: Story) -> bool:
        """Return whether a story goes wrong in the same way; then it is the best so far."""
        if self.left <= 0 or story == self.best.story:
            return False
        self.left -= 1
        result = History(story, moves_max=ENDLESS_MOVES if self.endless else 2 * self.best.moves + 500).tell()
        self.moves_left -= result.moves
        if self.moves_left <= 0:
            self.left = 0
        if kind_of(result.violation) != self.kind:
            return False
        self.best = result
        return True

    def _cut_at_end(self) -> None:
        """Leave out what would have happened after the end."""
        story = self.best.story
        self._try(replace(story, happenings=tuple(each for each in story.happenings if each.move <= self.best.moves)))

    def _thin(self, parts: Sequence[T], make: Callable[[Story, Sequence[T]], Story]) -> None:
        """Take parts away, half of them at once, then a quarter, then one by one."""
        size = max(1, len(parts) // 2)
        while parts and self.left > 0:
            at = 0
            while at < len(parts) and self.left > 0:
                fewer = [*parts[:at], *parts[at + size :]]
                if self._try(make(self.best.story, fewer)):
                    parts = fewer
                else:
                    at += size
            if size == 1:
                return
            size //= 2

    def _with_fewer_reconcilers(self) -> None:
        hosts = self.best.story.hosts
        for index in reversed(range(len(hosts))):
            if hosts[index] > 1:
                self._try(replace(self.best.story, hosts=(*hosts[:index], 1, *hosts[index + 1 :])))
            elif len(self.best.story.hosts) > 1 and index == len(self.best.story.hosts) - 1:
                self._try(replace(self.best.story, hosts=self.best.story.hosts[:-1]))


def _only_asking(story: Story, paths: Sequence[str]) -> Story:
    files = {path: data for path, data in story.files.items() if not path.startswith("runs.d/") or path in paths}
    return replace(story, files=files)


def kind_of(violation: str) -> str:
    """Return what kind of promise was broken: the sentence without names and numbers."""
    words = violation.splitlines()[-1].split() if violation else []
    return " ".join(word for word in words if word.isalpha())


def shortest(result: Result, tries_max: int = TRIES_MAX) -> Result:
    """Return the shortest history that breaks the same promise as `result`, told with a trace."""
    return Shrinker(result, tries_max).shrink()
