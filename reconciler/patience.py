"""How long a match of a regular expression may take: the interpreter looks for signals while it matches.

The time is that of the processor, so a machine that is busy with other things interrupts nobody. Only the main thread
of a process can be interrupted; there is no bound elsewhere.
"""

from __future__ import annotations

import signal
import threading
from types import TracebackType

MATCH_S = 0.5
"""What all rules together may take for one block of output (at most 64 KiB) of the processor."""


class Patience:
    """Raise TimeoutError in what is done within, once that has taken `seconds` of the processor.

    It can be entered again and again, never twice at once."""

    def __init__(self, seconds: float = MATCH_S) -> None:
        self.seconds = seconds
        self._before: object = None
        self._bounds = False

    def __enter__(self) -> None:
        self._bounds = threading.current_thread() is threading.main_thread()
        if self._bounds:
            self._before = signal.signal(signal.SIGVTALRM, _interrupt)
            signal.setitimer(signal.ITIMER_VIRTUAL, self.seconds)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bounds:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, self._before or signal.SIG_DFL)  # type: ignore[arg-type]


def _interrupt(number: int, frame: object) -> None:
    raise TimeoutError("a rule for secrets takes too long")
