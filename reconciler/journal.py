"""The edge to `events.jsonl` in a run directory: what happened, a line an event, in order.

Whoever holds the run's lock writes: the worker for its attempt, and a pass for the end of a run whose worker could
not say it. Lines are appended, in batches, and never changed. After a crash the last line may be torn: who reads takes
whole lines only, and who writes next begins on a line of its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from reconciler import events
from reconciler.events import ENDS, Event, EventName
from reconciler.values import frozen

NAME = "events.jsonl"
BYTES_MAX = 8 * 1024 * 1024
"""A journal is not longer than this: what would not fit is not told, and the records still hold it."""
STAGES_BYTES_MAX = BYTES_MAX // 2
"""From here on events of stages are left out, so that the end of the run is told."""
READ_BYTES_MAX = 1024 * 1024
"""So much of a journal is read at once."""
TAIL_BYTES = 4 * events.LINE_BYTES_MAX
_OF_STAGES = (EventName.STAGE_STARTED, EventName.STAGE_COMPLETED)


class Journal:
    """Where one writer, who holds the lock of the run, says what happens. That a disk refuses a line stops no run."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._waiting: list[Event] = []

    def say(self, *told: Event) -> None:
        """Keep events for the next `flush`."""
        self._waiting.extend(told)

    def flush(self, *, sync: bool = False) -> None:
        """Append what was said since the last time, all with one write; `sync` makes it durable."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        with contextlib.suppress(OSError):
            append(self.path, waiting, sync=sync)


def append(path: Path, told: Sequence[Event], *, sync: bool = False) -> None:
    """Append events to a journal as far as they fit. Raise OSError if the disk refuses; a link is not followed."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        lines = list(_fitting(told, size))
        torn = bool(lines) and size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = b"\n" * torn + b"".join(lines)
        while data:
            data = data[os.write(descriptor, data) :]
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fitting(told: Sequence[Event], size: int) -> list[bytes]:
    lines = []
    for event in told:
        line = events.line(event)
        room = STAGES_BYTES_MAX if event.name in _OF_STAGES else BYTES_MAX
        if len(line) <= events.LINE_BYTES_MAX and size + len(line) < room:
            lines.append(line)
            size += len(line)
    return lines


# ------------------------------------------------------------------------------------------------ reading


@frozen
class Heard:
    """What stands in a journal from one byte on: events, and the byte behind the last whole line."""

    events: tuple[Event, ...]
    end: int


def read(path: Path, start: int = 0, bytes_max: int = READ_BYTES_MAX) -> Heard:
    """Return what a journal tells from a byte on, which begins a line; nothing where there is no journal."""
    data = _bytes(path, start, bytes_max)
    whole = data[: data.rfind(b"\n") + 1]
    if not whole and len(data) >= bytes_max:
        whole = data  # no line of ours is as long: what stands there is skipped
    found = (events.parse(each) for each in whole.split(b"\n") if each)
    return Heard(events=tuple(each for each in found if each is not None), end=start + len(whole))


def tells_end(path: Path, attempt: int) -> bool:
    """Return whether a journal tells that its run ended with an attempt."""
    with contextlib.suppress(OSError):
        size = path.lstat().st_size
        lines = _bytes(path, max(0, size - TAIL_BYTES), TAIL_BYTES).split(b"\n")
        found = (events.parse(each) for each in reversed(lines) if each)
        return any(each is not None and each.name in ENDS and each.attempt == attempt for each in found)
    return False


def _bytes(path: Path, start: int, bytes_max: int) -> bytes:
    """Return bytes of a regular file, none if it cannot be read."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            return os.pread(descriptor, bytes_max, start)
        finally:
            os.close(descriptor)
    return b""
