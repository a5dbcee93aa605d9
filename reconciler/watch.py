"""The edge to what happens meanwhile: files that change, signals, other threads, workers that end.

Everything here is a hint and wakes the loop, no more. Events can be lost (a queue that overflows only logs), and file
systems of other machines tell nothing; then `Refs.look` sees what has moved, a little later. What is watched are the
few directories of the git directory in which refs move, never all of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler import process
from reconciler.model import Process
from reconciler.values import frozen

REF_BYTES_MAX = 256
DRAINED_BYTES = 4096
REASONS_MAX = 16
"""So many different reasons to wake up are kept until somebody looks; the others wake as well."""
HINT = "a ref may have moved"
"""The reason of events; any other one is an order to look at everything."""
NAMES = frozenset({"HEAD", "packed-refs", "tables.list"})


@frozen(kw_only=False)
class Refs:
    """Where the refs that matter lie: the git directory that all worktrees share, and the names of the refs."""

    common: Path
    state: Path
    names: tuple[str, ...]

    def look(self) -> tuple[object, ...]:
        """Return what tells these refs, and the marks of runs, from what they were before, without asking git."""
        loose = (_start(self.common / each) for each in self.names)
        packed = (_stamp(self.common / each) for each in ("packed-refs", "reftable/tables.list"))
        return (*loose, *packed, _stamp(self.state / "live"))

    def identity(self) -> tuple[int, int] | None:
        """Return what tells this git directory from another one in its place, None if there is none."""
        try:
            found = self.common.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def directories(self) -> list[Path]:
        """Return the directories in which something that `look` sees changes, as far as they are there."""
        below = dict.fromkeys(self.common / each for each in _folders(self.names))
        wanted = (self.common, *below, self.common / "reftable", self.state / "live")
        return [each for each in wanted if each.is_dir()]


def _folders(names: Iterable[str]) -> Iterable[str]:
    """Yield every folder on the way to a ref, `refs` first."""
    for name in names:
        parts = name.split("/")[:-1]
        yield from ("/".join(parts[:end]) for end in range(1, len(parts) + 1))


def _start(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, REF_BYTES_MAX)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


class Bell:
    """Wakes whoever waits. `ring` may be called from any thread and from a signal handler."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else _pipe()
        self._reasons: deque[str] = deque(maxlen=REASONS_MAX)

    @property
    def descriptor(self) -> int:
        """Readable when somebody has rung. Python writes to the other end when a signal arrives."""
        return self._in

    def ring(self, reason: str) -> None:
        if reason not in self._reasons:
            self._reasons.append(reason)
        with contextlib.suppress(BlockingIOError, OSError):  # full: it will wake anyway; closed: nobody waits
            os.write(self._in, b"!")

    def wait(self, processes: Iterable[Process], timeout_s: float) -> bool:
        """Return when somebody rings, one of the processes ends (then True), or after `timeout_s` seconds."""
        return process.wait_any(processes, max(0.0, timeout_s), (self._out,))

    def take(self) -> tuple[str, ...]:
        """Return why it was rung since the last time somebody asked, and be silent again."""
        with contextlib.suppress(BlockingIOError, OSError):
            while len(os.read(self._out, DRAINED_BYTES)) == DRAINED_BYTES:
                pass
        found: list[str] = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._reasons.popleft())
        return tuple(found)

    def close(self) -> None:
        for each in (self._in, self._out):
            with contextlib.suppress(OSError):
                os.close(each)


def _pipe() -> tuple[int, int]:
    ends = os.pipe()
    for each in ends:
        os.set_blocking(each, False)
    return ends


@dataclass(slots=True)
class Events:
    """The file system's events about the directories in which refs move. `why` says why there are none."""

    refs: Refs
    tell: Callable[[str], None]
    factory: Callable[[], Any] | None = None
    why: str = ""
    began_s: float = field(default=float("-inf"))
    _observer: Any = None
    _watched: tuple[tuple[str, int], ...] = ()

    def start(self) -> None:
        """Begin to listen; where that is refused, say so in `why`."""
        self.stop()
        self.began_s, self.why = time.monotonic(), ""
        self._watched = self._wanted()
        try:
            self._observer = self._observe()
        except Exception as error:  # an observer may fail in any manner, and nothing depends on it
            self.stop()
            self.why = str(error) or type(error).__name__

    def _observe(self) -> Any:
        from watchdog import events
        from watchdog.observers import Observer

        kinds = [events.FileMovedEvent, events.FileCreatedEvent, events.FileDeletedEvent, events.FileClosedEvent]
        kinds += [events.DirMovedEvent, events.DirCreatedEvent, events.DirDeletedEvent]
        _listen_to_log(self.tell)
        observer: Any = (self.factory or Observer)()
        handler = _Handler(self.tell)
        for directory, _ in self._watched:
            observer.schedule(handler, directory, recursive=False, event_filter=kinds)
        observer.daemon = True
        observer.start()
        return observer

    def _wanted(self) -> tuple[tuple[str, int], ...]:
        """Return the directories to watch with what tells each from another one of its name."""
        found = []
        for each in self.refs.directories():
            with contextlib.suppress(OSError):
                found.append((str(each), each.stat().st_ino))
        return tuple(found)

    def sound(self) -> bool:
        """Return whether events come, and about the directories that are there now."""
        observer = self._observer
        if observer is None or not observer.is_alive() or self._watched != self._wanted():
            return False
        return all(each.is_alive() for each in observer.emitters)

    def stop(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            with contextlib.suppress(Exception):
                observer.stop()
                observer.join(timeout=5.0)


def _listen_to_log(tell: Callable[[str], None]) -> None:
    """Take what watchdog logs for a hint: of events that were lost it says so there and nowhere else."""

    class Hint(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell(HINT)

    logger = logging.getLogger("watchdog")
    logger.handlers, logger.propagate = [Hint(logging.WARNING)], False


class _Handler:
    """Tells of events about names that matter; git makes and removes many others."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def dispatch(self, event: Any) -> None:
        paths: Sequence[str] = [os.fsdecode(each) for each in (event.src_path, event.dest_path) if each]
        if any(map(_matters, paths)):
            self._tell(HINT)


def _matters(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    if name.endswith(".lock"):
        return False
    return name in NAMES or "/refs" in folder or folder.endswith("/live") or name in ("refs", "reftable")
