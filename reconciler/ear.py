"""The edge by which a worker that is under way learns of secrets: from memory to memory, through no file.

A worker listens at a pipe that has lost its name as soon as it was made. Whoever may look at the worker in `/proc` can
open it there: its own user outside of any sandbox, which could read the worker's memory as well. A stage in a sandbox
does not even see the worker. A line is a secret in hex. Where there is no `/proc`, nobody is told.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
from pathlib import Path

from reconciler.model import Process
from reconciler.process import is_alive

NAME = ".ear"
BYTES_MAX = 128 * 1024
"""A line is no longer than this; what is longer is forgotten."""
READ_BYTES = 64 * 1024
GONE = " (deleted)"


class Ear:
    """Where a worker hears of secrets. Without a pipe it hears nothing."""

    def __init__(self, directory: Path) -> None:
        """Open the pipe; its name in the run directory is gone when this returns."""
        self.descriptor: int | None = None
        self._held = b""
        path = directory / f"{NAME}.{os.getpid()}"
        with contextlib.suppress(OSError):  # a full disk, or one without pipes: evidence is cleaned all the same
            if sys.platform == "linux":
                os.mkfifo(path, 0o600)
                # Open for writing too, so that there is no end when who told something goes away.
                self.descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        with contextlib.suppress(OSError):
            path.unlink()

    def close(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor = None

    def hear(self) -> tuple[str, ...]:
        """Return the secrets that were told since the last time; a torn line is none."""
        if self.descriptor is None:
            return ()
        with contextlib.suppress(BlockingIOError):
            while len(self._held) <= BYTES_MAX:
                self._held += os.read(self.descriptor, READ_BYTES)
        *lines, self._held = self._held.split(b"\n")
        self._held = self._held if len(self._held) <= BYTES_MAX else b""
        return tuple(each for each in map(_secret, lines) if each)


def _secret(line: bytes) -> str:
    with contextlib.suppress(ValueError):
        return bytes.fromhex(line.decode("ascii")).decode()
    return ""


def tell(worker: Process, secret: str) -> bool:
    """Tell a worker of a secret; return whether it was told. One that cannot be told now may be asked again."""
    descriptor = _reach(worker)
    if descriptor is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a long line is not written at once by itself
        data = b"\n" + secret.encode().hex().encode() + b"\n"
        return os.write(descriptor, data) == len(data)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _reach(worker: Process) -> int | None:
    """Return a descriptor of the pipe at which exactly this worker listens, None if it does not or is gone."""
    place = f"/proc/{worker.pid}/fd"
    with contextlib.suppress(OSError):
        for name in os.listdir(place):
            with contextlib.suppress(OSError):
                if not os.readlink(f"{place}/{name}").endswith(f"/{NAME}.{worker.pid}{GONE}"):
                    continue
                descriptor = os.open(f"{place}/{name}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                if stat.S_ISFIFO(os.fstat(descriptor).st_mode) and is_alive(worker):
                    return descriptor
                os.close(descriptor)
    return None
