"""The edge to signals: what has been begun is finished, and whoever says it again ends it at once.

A pass that is broken off between a claim and its worker costs an attempt of which nothing was executed. So SIGINT and
SIGTERM wait for its end. Whoever has handlers of its own, as a watcher has, keeps them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

GO_ON = "runs under way go on, and the next pass picks everything up"
FINISHING = b"\nfinishing what has been begun; Ctrl-C once more ends at once\n"
NOTICE_S = 0.5
"""After so long a person who pressed Ctrl-C is told why it takes longer."""
SAME_S = 0.2
"""`timeout`, `npm` and others pass on what a terminal has sent to us as well: so close together, it was said once."""


@dataclass(slots=True)
class Told:
    """Whether this process was told to end, and when it was told first."""

    at_s: float = field(default=float("inf"))

    def again(self) -> bool:
        """Note that it was told to end; return whether that was said before."""
        now_s = time.monotonic()
        self.at_s = min(self.at_s, now_s)
        return now_s - self.at_s > SAME_S


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Do what is within to its end before SIGINT or SIGTERM ends this process; a second one ends it at once.

    Nothing changes where somebody else takes care of these signals, or in a thread that is not the first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting = _Waiting()
    waiting.begin()
    try:
        yield
    finally:
        waiting.end()


class _Waiting:
    """The signals that came while something was finished."""

    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}
        self.first: int = 0
        self.told = Told()
        self.notice: threading.Timer | None = None

    def begin(self) -> None:
        usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
        self.kept = {number: each for number, each in usual.items() if signal.getsignal(number) == each}
        for number in self.kept:
            signal.signal(number, self._on_signal)

    def end(self) -> None:
        """Put back how signals were taken before, and take the one that came meanwhile."""
        for number, handler in self.kept.items():
            signal.signal(number, handler)
        if self.notice is not None:
            self.notice.cancel()
        if self.first:
            _take(self.first)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.told.again():
            signal.signal(number, self.kept[number])
            _take(number)
        elif not self.first:
            self.first = number
            if number == signal.SIGINT:
                self.notice = threading.Timer(NOTICE_S, os.write, (2, FINISHING))
                self.notice.daemon = True
                self.notice.start()


def _take(number: int) -> None:
    """End as a process does that has no handlers."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    signal.raise_signal(signal.Signals(number))
