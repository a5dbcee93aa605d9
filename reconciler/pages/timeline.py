"""The stages of a run as a picture: when each worked, in hundredths of the width. Pure.

A long time in which nothing worked (a night at a gate, a machine that was off) takes a fixed small part of the width,
so that it does not press the stages together until nothing can be seen.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from reconciler.pages.text import seconds_of
from reconciler.values import frozen

GAP_SHARE_MIN = 0.2
"""A pause is cut short if it is longer than this share of the time in which something worked."""
GAP_SHARE_SHOWN = 0.06
WIDTH_MIN = 0.6
"""The narrowest bar that can be seen, in hundredths of the width."""


@frozen
class Bar:
    """Where a stage stands: `at` and `width` in hundredths of the whole width; `began_s` after the first stage."""

    at: float
    width: float
    began_s: float


@frozen
class Gap:
    """A pause that is cut short: where it stands, and how long it was."""

    at: float
    width: float
    seconds: float


@frozen
class Timeline:
    """`bars` by stage id; a stage that never began has none. `busy_s` is how long something worked."""

    bars: Mapping[str, Bar]
    gaps: tuple[Gap, ...]
    busy_s: float
    total_s: float


Span = tuple[float, float]


def timeline(commands: Sequence[Mapping[str, Any]], until: str | None) -> Timeline:
    """Return the picture of the stages of a manifest; what still runs goes on to `until`."""
    spans = {str(each["id"]): span for each in commands if (span := _span(each, until)) is not None}
    if not spans:
        return Timeline(bars={}, gaps=(), busy_s=0.0, total_s=0.0)
    busy = _merged(sorted(spans.values()))
    busy_s = sum(end - start for start, end in busy)
    scale = _Scale(busy, busy_s)
    first_s = busy[0][0]
    bars = {each: _bar(scale, span, first_s) for each, span in spans.items()}
    return Timeline(bars=bars, gaps=scale.gaps, busy_s=busy_s, total_s=busy[-1][1] - first_s)


def _span(command: Mapping[str, Any], until: str | None) -> Span | None:
    start = seconds_of(command["started_at"])
    end = seconds_of(command["completed_at"] or until)
    return None if start is None else (start, max(start, end if end is not None else start))


def _merged(spans: Sequence[Span]) -> list[Span]:
    """Return the times in which anything worked; `spans` are sorted."""
    found = [spans[0]]
    for start, end in spans[1:]:
        if start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


class _Scale:
    """Maps instants to hundredths of the width, piece by piece."""

    def __init__(self, busy: Sequence[Span], busy_s: float) -> None:
        pauses = [(one[1], other[0]) for one, other in pairwise(busy)]
        cut = [each for each in pauses if each[1] - each[0] > GAP_SHARE_MIN * busy_s]
        self.starts, self.places = [busy[0][0]], [0.0]
        shown_s = max(GAP_SHARE_SHOWN * busy_s, 1e-6)
        for start, end in cut:
            self._add(start, start - self.starts[-1])
            self._add(end, shown_s)
        self._add(busy[-1][1], busy[-1][1] - self.starts[-1])
        self.whole = max(self.places[-1], 1e-6)
        self.gaps = tuple(
            Gap(at=self.at(start), width=round(100 * shown_s / self.whole, 2), seconds=end - start)
            for start, end in cut
        )

    def _add(self, instant_s: float, width_s: float) -> None:
        self.places.append(self.places[-1] + width_s)
        self.starts.append(instant_s)

    def at(self, instant_s: float) -> float:
        index = min(max(bisect_right(self.starts, instant_s) - 1, 0), len(self.starts) - 2)
        start, end = self.starts[index], self.starts[index + 1]
        share = (instant_s - start) / (end - start) if end > start else 0.0
        return round(100 * (self.places[index] + share * (self.places[index + 1] - self.places[index])) / self.whole, 2)


def _bar(scale: _Scale, span: Span, first_s: float) -> Bar:
    at, end = scale.at(span[0]), scale.at(span[1])
    width = max(WIDTH_MIN, round(end - at, 2))
    return Bar(at=min(at, round(100 - width, 2)), width=width, began_s=span[0] - first_s)
