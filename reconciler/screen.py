"""The screen of a watcher, as lines of styled text that fit its size. Pure: the same facts give the same picture.

What is under way comes first, then what is wrong, what waits and why, the newest results. Where there is little room,
lists are cut with a count of what is left out, and columns go before words do.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from reconciler.explain import Row
from reconciler.model import Phase
from reconciler.shown import visible
from reconciler.values import frozen

NARROW = 64
"""Below so many columns, stages are counted and not drawn."""
SHORT = 24
"""Below so many lines, none is left blank between the lists."""
BAR_MAX = 12
ALIVE = (Phase.RUNNING, Phase.STARTING, Phase.STALE)
MARKS = {"succeeded": "✓", "failed": "✗", "cancelled": "-", "waiting": "◷"}


@frozen(kw_only=False)
class Span:
    """A piece of a line in one style: the name of a phase, `title`, `dim`, `bad` or "" for plain text."""

    text: str
    style: str = ""


Line = tuple[Span, ...]


@frozen
class View:
    """What the screen shows. `ages` say for how many seconds results have been there, by run; `next_s` and `beat_s` are
    counted from when the picture is drawn."""

    where: str
    branch: str
    tip: str
    rows: Sequence[Row]
    settled: int
    problems: Sequence[str]
    remote: str
    next_s: float
    next_what: str
    since: str
    passes: int
    passed_s: float
    ages: dict[str, float]


def screen(view: View, width: int, height: int) -> tuple[Line, ...]:
    """Return at most `height` lines of at most `width` columns."""
    width, height = max(20, width), max(4, height)
    head, foot = _head(view, width), _foot(view, width)
    live = [each for each in view.rows if each.phase in ALIVE]
    queue = [each for each in view.rows if each.phase in (Phase.ABSENT, Phase.WAITING)]
    ended = [each for each in view.rows if each not in live and each not in queue]
    sections = [
        _Section("under way", [_live(each, view, width) for each in live]),
        _Section("wrong", [(Span("  "), Span(plain(each), "bad")) for each in view.problems]),
        _Section("waiting", [_queued(each, width) for each in queue]),
        _Section("newest results", [_ended(each, view, width) for each in ended]),
    ]
    room, gap = height - len(head) - len(foot), 1 if height >= SHORT else 0
    body = _fitted([each for each in sections if each.lines], room, gap)
    if not any(each.lines for each in sections):
        body = [(), (Span("  nothing is under way, and nothing waits", "dim"),)][: max(0, room)]
    return tuple(_cut(each, width) for each in (*head, *body, *foot)[:height])


@frozen(kw_only=False)
class _Section:
    title: str
    lines: Sequence[Line]


def _fitted(sections: Sequence[_Section], room: int, gap: int) -> list[Line]:
    """Return sections one below the other in so many lines; the first ones get what they need, all get some."""
    found: list[Line] = []
    least = gap + 2
    for index, each in enumerate(sections):
        left = room - len(found)
        if left < least:
            break
        found += _section(each, max(least, left - least * (len(sections) - index - 1)), gap)
    return found


def _section(section: _Section, room: int, gap: int) -> list[Line]:
    """Return a title and as many lines as there is room for; the title says how many there are where some are left
    out."""
    lines = section.lines[: room - gap - 1]
    cut = f"  {len(lines)} of {len(section.lines)}" if len(lines) < len(section.lines) else ""
    return [*([()] * gap), (Span(section.title.upper(), "title"), Span(cut, "dim")), *lines]


# ------------------------------------------------------------------------------------------------ lines


def _head(view: View, width: int) -> list[Line]:
    place = plain(f"{view.branch} @ {view.tip[:10]}" if view.tip else view.branch)
    counts = _counts(view)
    if width < NARROW:
        return [(Span(plain(view.where), "title"),), (Span(place, "dim"),), (Span(counts),)]
    right = f"watching since {view.since}"
    room = width - cells(right) - 1
    left = _cut((Span(plain(view.where), "title"), Span(f"  {place}", "dim")), room)
    gap = " " * (width - sum(cells(each.text) for each in left) - cells(right))
    return [(*left, Span(f"{gap}{right}", "dim")), (Span(counts),)]


def _counts(view: View) -> str:
    words = [
        (sum(each.phase in ALIVE for each in view.rows), "under way"),
        (sum(each.phase == Phase.ABSENT for each in view.rows), "queued"),
        (sum(each.phase == Phase.WAITING for each in view.rows), "at a gate"),
        (view.settled, "proven"),
    ]
    return " · ".join(f"{count} {word}" for count, word in words if count or word == "proven")


def _foot(view: View, width: int) -> list[Line]:
    """Return what is known of the remote, and when the next pass is due and why."""
    remote = (Span("remote: "), Span(plain(view.remote), "bad" if view.remote.startswith("the remote") else "dim"))
    due = f"next pass in {span(view.next_s)}" + (f": {plain(view.next_what)}" if width >= NARROW else "")
    last = f" · pass {view.passes} took {view.passed_s * 1000:.0f} ms" if width >= NARROW else ""
    return [(), *([remote] if view.remote else []), (Span(due + last, "dim"),)]


def _live(row: Row, view: View, width: int) -> Line:
    """Return a run that is under way: how far it is, at which stages, when it was heard of last."""
    beat = "" if row.heartbeat_age_s is None else f"♥ {span(row.heartbeat_age_s)}"
    tries = f"attempt {row.attempts}" if row.attempts > 1 else ""
    counted = f"{row.done}/{row.total}" if row.total else ""
    bar = "█" * row.done + "░" * (row.total - row.done) + " " if 0 < row.total <= BAR_MAX and width >= NARROW else ""
    word = f"{row.phase.value:<8} " if width >= NARROW else ""
    tail = "  ".join(filter(None, (f"{bar}{counted}", beat)))
    room = max(8, width - cells(word) - cells(tail) - 5)
    stage = plain(" · ".join(filter(None, (row.stage, tries))))
    shown = _shortened(row.run_id, room if not stage else max(8, room * 2 // 3))
    stage = _shortened(stage, max(0, room - cells(shown) - 2))
    gap = " " * max(2, width - 2 - cells(word) - cells(shown) - cells(stage) - cells(tail) - 2)
    return (
        Span("  "),
        Span(word, row.phase.value),
        Span(shown, "" if word else row.phase.value),
        Span(f"  {stage}" if stage else "", "dim"),
        Span(gap),
        Span(tail),
    )


def _queued(row: Row, width: int) -> Line:
    shown = _shortened(row.run_id, max(12, width // 2 - 4))
    reason = plain(row.reason) or (
        "waits for a decision" if row.phase == Phase.WAITING else "the next pass launches it"
    )
    return (Span("  "), Span(f"{shown}  ", row.phase.value if row.phase == Phase.WAITING else ""), Span(reason, "dim"))


def _ended(row: Row, view: View, width: int) -> Line:
    age = span(view.ages[row.run_id]) + " ago" if row.run_id in view.ages else ""
    took = f"{row.duration_s:.1f} s" if row.duration_s is not None else ""
    proof = row.evidence[:10] if row.evidence not in ("", "committed") else "" if row.evidence else "not yet committed"
    tail = "  ".join(filter(None, (took if width >= NARROW else "", age, proof if width >= NARROW else "")))
    room = max(8, width - cells(tail) - 6)
    shown = _shortened(row.run_id, room)
    gap = " " * max(2, width - 4 - cells(shown) - cells(tail))
    mark = MARKS.get(row.phase.value, "?")
    return (Span("  "), Span(f"{mark} ", row.phase.value), Span(shown), Span(gap), Span(tail, "dim"))


# ------------------------------------------------------------------------------------------------ text


def span(seconds: float) -> str:
    """Return a duration for people, in its largest unit: `3s`, `4m`, `2h`, `5d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def plain(text: str) -> str:
    """Return text that cannot move the cursor or end its line: what a repository says is shown, not obeyed."""
    return visible(text)


def cells(text: str) -> int:
    """Return how many columns a text takes."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def _cell(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def _shortened(text: str, room: int) -> str:
    """Return a text in so many columns, its end cut off if need be."""
    if cells(text) <= room:
        return text
    found, used = "", 0
    for each in text:
        if used + _cell(each) > room - 1:
            break
        found, used = found + each, used + _cell(each)
    return f"{found}…" if room > 0 else ""


def _cut(line: Line, width: int) -> Line:
    """Return a line that is no wider than that."""
    found: list[Span] = []
    for each in line:
        if width <= 0:
            break
        shown = _shortened(each.text, width)
        found.append(Span(shown, each.style))
        width = 0 if shown != each.text else width - cells(shown)
    return tuple(found)


def text(lines: Sequence[Line]) -> str:
    """Return the picture without its styles."""
    return "".join("".join(each.text for each in line).rstrip() + "\n" for line in lines)
