"""Rules for secrets of one's own: what a repository calls a secret, and what it does not. Pure.

A rule sees one line at a time, because the next one may not be here yet. How long it may take is for whoever calls to
bound; what then was not looked at is hidden as a whole, so that a rule that cannot be finished hides too much, never
too little.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from math import log2
from typing import NamedTuple

from reconciler.model import Rule

SLOW = "slow-rule"
SLOW_MAX = 4
"""How many blocks of one output may take too long, before all the rest of it is hidden unseen."""
UNTOUCHABLE = frozenset({"environment", "private-key", SLOW})
"""What no `allow` lets through: a value of the environment is a secret whatever it looks like."""

RESERVED = ("environment", "pattern", "private-key", "secret", "signature", SLOW, "url-credentials")
"""What a rule must not be called, because something else is counted under that name."""


class Find(NamedTuple):
    """A secret at `start:end`; what tells it from other text begins at `at`."""

    at: int
    start: int
    end: int
    kind: str


def unnamed(patterns: Iterable[str]) -> tuple[Rule, ...]:
    """Return patterns without names of their own as rules."""
    return tuple(Rule(id="pattern", pattern=each) for each in patterns)


class Rules:
    """The rules for one output; `bounded` gives what interrupts a match that takes too long with TimeoutError."""

    def __init__(
        self,
        rules: Sequence[Rule],
        allow: Sequence[str] = (),
        bounded: AbstractContextManager[object] | None = None,
    ) -> None:
        self._rules = tuple((rule, _compiled(rule.pattern)) for rule in rules)
        self._allow = tuple(map(_compiled, allow))
        self._bounded = bounded or nullcontext()
        self._slow = 0

    def judged(self, text: bytes, finds: Iterable[Find]) -> list[Find]:
        """Return what of `finds` is not allowed, and what the rules find in `text`."""
        if not self._rules and not self._allow:
            return list(finds)
        if self._slow >= SLOW_MAX:
            return [_whole(text)]
        try:
            with self._bounded:
                kept = [each for each in finds if not self._allowed(text, each)]
                return [*kept, *(each for each in self._matching(text) if not self._allowed(text, each))]
        except TimeoutError:
            self._slow += 1
            return [_whole(text)]

    def _allowed(self, text: bytes, find: Find) -> bool:
        if not self._allow or find.kind in UNTOUCHABLE:
            return False
        found = text[find.start : find.end].decode("utf-8", "surrogateescape")
        return any(each.fullmatch(found) for each in self._allow)

    def _matching(self, text: bytes) -> Iterator[Find]:
        at = 0
        for line in text.split(b"\n") if self._rules else ():
            decoded = line.decode("utf-8", "surrogateescape")
            for rule, pattern in self._rules:
                yield from _matching_line(decoded, rule, pattern, at)
            at += len(line) + 1


def _whole(text: bytes) -> Find:
    """Return all of a text as one find, but for the newline at its end."""
    return Find(0, 0, len(text) - text.endswith(b"\n"), SLOW)


_compiled = cache(re.compile)


def _matching_line(line: str, rule: Rule, pattern: re.Pattern[str], at: int) -> Iterator[Find]:
    """Yield what a rule finds in `line`, whose first byte is at `at`; to match nothing is no match."""
    done = 0
    for match in pattern.finditer(line):
        start, end = match.span("secret" if "secret" in pattern.groupindex and match["secret"] is not None else 0)
        first = at + size(line[done:start])
        at, done = first + size(line[start:end]), end
        if start < end and is_telling(rule, line[start:end]):
            yield Find(first, first, at, rule.id)


def is_telling(rule: Rule, found: str) -> bool:
    """Return whether what the pattern of a rule found is a secret by the rest of the rule."""
    if rule.entropy_min and entropy(found) < rule.entropy_min:
        return False
    return not any(_compiled(each).fullmatch(found) for each in rule.allow)


def entropy(text: str) -> float:
    """Return the bits that a character of a text carries: 0 for one letter repeated, almost 6 for random base64."""
    counts: Mapping[str, int] = {each: text.count(each) for each in set(text)}
    return -sum(count / len(text) * log2(count / len(text)) for count in counts.values())


def size(text: str) -> int:
    """Return the bytes of a text that was decoded with `surrogateescape`."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogateescape"))
