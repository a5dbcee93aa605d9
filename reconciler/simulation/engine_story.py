"""What a story has of an engine: which requests it may execute, and everything that it does wrong.

It is drawn from a stream of its own, so that all else of a seed is as it would be without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from random import Random

from reconciler.values import frozen

ENGINE = "simulated"
"""How settings name it; nobody else brings an engine of that name."""
ADDRESS = "/shared.git"
COMMON = f"engine: {ENGINE}, url: {ADDRESS}"

OWN = "own"

WHERE: Mapping[str, tuple[str, str]] = {
    "cloud": (
        "executors:\n  cloud: {" + COMMON + ", beat: 6s, poll: 2s, silent_max: 50s, runs_max: 3}\n",
        "execution: {mode: cloud}\n",
    ),
    "capable": (
        "executors:\n  local: {}\n  farm: {"
        + COMMON
        + ", beat: 10s, poll: 5s, silent_max: 70s, capabilities: [gpu]}\n",
        "capabilities: [gpu]\n",
    ),
    "shared": (
        "executors:\n  local: {runs_max: 1}\n  farm: {"
        + COMMON
        + ", beat: 8s, poll: 3s, silent_max: 60s, weight: 3, runs_max: 2}\n",
        "",
    ),
}
"""By what a run gets to the engine: what settings say, and what a request says for it."""

FATES = (
    ("", 25), ("preempted", 7), ("node fails", 7), ("time limit", 3), ("requeued", 7), ("twice", 8), ("twice late", 5),
    ("returns", 10), ("unseen", 5), ("refused", 2), ("evicted", 2), ("killed", 4),
)  # fmt: skip
"""What becomes of an attempt there, and how often among all."""

WRONGS = (
    *(name for name, _ in FATES if name),
    "queues",
    "ends slowly",
    "lost calls",
    "late calls",
    "throttles",
    "forges",
)
"""Everything that may go wrong until the trouble with an engine is over: fates of attempts, how it answers, and that
somebody forges what attempts and hosts say to each other."""


@frozen
class Trouble:
    """How an engine behaves. Until `until_s` attempts meet the fates that are drawn for them, calls are lost, come late
    or are turned away as often as `calls`, all as far as `wrongs` says so, and answers take up to `slow_s` longer; in
    each of `silences` (from, to) it does not answer at all; at `forgeries` somebody forges. What has ended it forgets
    after `forgets_s`; of secrets it tells what it should only if it `tells`. `where` says by what runs get there, of
    `WHERE`, or `OWN` where somebody's own settings do."""

    where: str
    until_s: float = 0.0
    calls: float = 0.0
    silences: tuple[tuple[float, float], ...] = ()
    forgets_s: float = float("inf")
    tells: bool = True
    forgeries: tuple[float, ...] = ()
    slow_s: float = 0.0
    wrongs: tuple[str, ...] = WRONGS

    def is_silent(self, now_s: float) -> bool:
        return any(since <= now_s < until for since, until in self.silences)

    def words(self) -> str:
        """Return in words what is wrong with the engine."""
        wrongs = f"until {self.until_s:.1f} s: {', '.join(self.wrongs)}" if self.until_s and self.wrongs else ""
        share = f"{self.calls:.0%} of calls" if wrongs and self.calls else ""
        slow = f"answers take up to {self.slow_s:g} s longer" if self.slow_s and self.until_s else ""
        silences = [f"silent from {since:.1f} to {until:.1f} s" for since, until in self.silences]
        forgets = f"forgets after {self.forgets_s:g} s" if self.forgets_s < float("inf") else ""
        said = (wrongs, share, slow, *silences, forgets, "" if self.tells or not self.until_s else "tells no keys")
        return "; ".join(each for each in said if each) or "does all that it should"


@frozen
class AtEngine:
    """What a story has of an engine: the settings, what requests say by number, and what goes wrong."""

    trouble: Trouble
    settings: str
    wishes: Mapping[int, str]


def at_engine(seed: int, requests: int, *, always: bool) -> AtEngine | None:
    """Return what the story of a seed has of an engine: one in sixteen has one, or every one of them."""
    chance = Random(f"engine 2 of {seed}")
    if (chance.random() < 0.9375 and not always) or not requests:
        return None
    where = chance.choice(tuple(WHERE))
    settings, wish = WHERE[where]
    share = chance.choice((0.5, 1.0, 1.0))
    wishes = {number: wish for number in range(requests) if chance.random() < share}
    return AtEngine(trouble=trouble_of(chance, where), settings=settings, wishes=wishes)


def trouble_of(chance: Random, where: str) -> Trouble:
    """Return how an engine behaves: one in ten as it should."""
    silences = [_silence(chance) for _ in range(chance.choice((0, 0, 1, 1, 2)))]
    calm = chance.random() < 0.1
    trouble = Trouble(
        where=where,
        until_s=0.0 if calm else max([chance.uniform(20, 240), *(until for _, until in silences)]),
        calls=chance.choice((0.0, 0.02, 0.1)),
        silences=() if calm else tuple(sorted(silences)),
        forgets_s=chance.choice((0.0, 5.0, 60.0, float("inf"), float("inf"))),
        tells=chance.random() < 0.6,
    )
    if calm:
        return trouble
    trouble = replace(trouble, slow_s=chance.choice((0.0, 0.0, 0.0, 3.0, 8.0)))
    if chance.random() < 0.8:
        return trouble
    forgeries = tuple(sorted(chance.uniform(2, 90) for _ in range(chance.choice((1, 2, 4)))))
    return replace(trouble, forgeries=forgeries, until_s=max(trouble.until_s, *forgeries))


def without_engine(text: str, where: str) -> str:
    """Return a text of a story, settings or a request, as it would be without an engine; `where` is one of `WHERE`."""
    settings, wish = WHERE[where]
    kept = text.replace(settings, "")
    return kept.replace(wish, "") if wish else kept


def _silence(chance: Random) -> tuple[float, float]:
    """Return from when until when an engine does not answer: a moment, minutes, or an hour."""
    since = chance.uniform(0, 100)
    return since, since + chance.choices((15.0, 90.0, 3600.0), (6, 5, 1))[0]
