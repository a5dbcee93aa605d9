"""Looks at engines beside the passes: who goes on with passes does not wait for an engine that is slow.

A look begins in one pass and is over in that or a later one. It is executed in a thread that does nothing else and
touches nothing of ours; its answer is taken by a pass. An engine need not be fit for several threads: while it is
looked at it is given nothing, and is told to end nothing.

An answer may be old by then. Everything that was known of an attempt when the look began is kept with it, so that who
takes the answer sees what has happened since: that an attempt is gone is not believed of one that was heard of, or
handed over, after the look began.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.errors import TransientError
from reconciler.executors.engine import Engine, Sighting
from reconciler.values import frozen

PATIENCE_S = 0.25
"""So long a pass waits for the looks that it begins: a quick engine is heard in the pass that asks it."""

Do = Callable[[], None]


def in_a_thread(ask: Do, end: Do) -> None:
    """Ask beside this thread, and end the look when that is done."""

    def both() -> None:
        try:
            ask()
        finally:
            end()

    threading.Thread(target=both, name="look", daemon=True).start()


@frozen
class Beside:
    """How a look is executed beside the passes: `start` executes the first and then the second of two things, and
    `patience_s` is how long a pass waits for the looks that it begins."""

    start: Callable[[Do, Do], None] = in_a_thread
    patience_s: float = PATIENCE_S


@dataclass(slots=True, eq=False)
class Look:
    """One look at what an engine says of handles. `known` is what was known of each when it began."""

    engine: Engine
    handles: Sequence[str]
    known: Mapping[str, Any]
    seen: Mapping[str, Sighting] = field(default_factory=dict)
    error: Exception | None = None
    over: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Ask the engine, whatever comes of it."""
        try:
            self.seen = self.engine.observe(self.handles)
        except Exception as error:  # it belongs to the pass that takes the answer
            self.error = error

    def answer(self) -> Mapping[str, Sighting]:
        """Return what the engine said, or raise what it raised."""
        if self.error is not None:
            raise self.error
        return self.seen


class Looks:
    """The looks that are under way, one an executor. `ring` is called when one is over, by whatever thread; without it
    nobody goes on meanwhile, and every look is executed at once."""

    def __init__(self, beside: Beside) -> None:
        self.beside = beside
        self.ring: Do | None = None
        self.under_way: dict[str, Look] = {}

    def begin(self, executor: str, look: Look) -> None:
        """Begin to look. Raise TransientError if that cannot be done."""
        if self.ring is None:
            look.seen = look.engine.observe(look.handles)
            look.over.set()
        else:
            self._start(look, self.ring)
        self.under_way[executor] = look

    def _start(self, look: Look, ring: Do) -> None:
        def end() -> None:
            look.over.set()
            ring()

        try:
            self.beside.start(look.ask, end)
        except RuntimeError as error:  # there can be no more threads
            raise TransientError(f"an engine cannot be looked at: {error}") from None

    def answered(self, *, waits: bool) -> Iterator[tuple[str, Look]]:
        """Yield by executor the looks that are over, and let go of them; with `waits`, after a moment, or after all of
        them where nobody goes on meanwhile."""
        patience_s = None if self.ring is None else self.beside.patience_s if waits else 0.0
        until_s = None if patience_s is None else time.monotonic() + patience_s
        for executor, look in list(self.under_way.items()):
            if look.over.wait(None if until_s is None else max(0.0, until_s - time.monotonic())):
                del self.under_way[executor]
                yield executor, look
