"""The output of stages, told again on standard output while they run, so that an engine's own log shows it live.

What is told is read from the logs of the attempt, which are redacted as settings want it, and redacted once more by
what everybody calls a secret: an engine's log is seen by others. A reader of ours that does not read holds up nobody.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

from reconciler import manifest
from reconciler.model import Plan
from reconciler.redact import Redactor
from reconciler.rundir import RunDirectory
from reconciler.stage import ANSI

LOOK_S = 0.2
END_PATIENCE_S = 2.0
READ_BYTES = 64 * 1024
LINE_BYTES_MAX = 4096
TOLD_BYTES_MAX = 16 * 1024 * 1024
"""So much is told of an attempt in all; the logs hold more."""
STANDARD_OUTPUT = 1


class _Tail:
    """One log, read on from where it was left."""

    def __init__(self, directory: RunDirectory, path: str, stage: str, redactor: Redactor) -> None:
        self.path, self.stage, self.redactor = directory.place(path), stage.encode(), redactor
        self.disk, self.at, self.rest = directory.disk, 0, b""

    def lines(self, *, last: bool) -> list[bytes]:
        """Return what is new, in lines of their own; with `last` also one that is not finished."""
        data = b""
        with contextlib.suppress(OSError):
            data = self.disk.read(self.path, READ_BYTES, at=self.at)
        self.at += len(data)
        text = self.rest + self.redactor.feed(data) + (self.redactor.flush() if last and not data else b"")
        *whole, self.rest = text.split(b"\n")
        if self.rest and ((last and not data) or len(self.rest) > LINE_BYTES_MAX):
            whole, self.rest = [*whole, self.rest], b""
        return [b"[%s] %s\n" % (self.stage, _plain(each)) for each in whole]


def _plain(line: bytes) -> bytes:
    """Return a line as one of text that can do nothing to a terminal."""
    text = ANSI.sub(b"", line[:LINE_BYTES_MAX]).decode(errors="replace")
    return "".join(each if each.isprintable() or each == "\t" else " " for each in text).rstrip().encode()


class Echo:
    """Tells what the stages of an attempt print, in a thread of its own."""

    def __init__(self, directory: RunDirectory, plan: Plan, number: int, secrets: Sequence[bytes]) -> None:
        self._left = TOLD_BYTES_MAX
        self._tails = [
            _Tail(
                directory,
                manifest.log_name(each.index, each.id, number),
                each.id,
                Redactor(values=secrets),
            )
            for each in (*plan.stages, *plan.roles.judges)
        ]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell_all, name="echo", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def learn(self, secrets: Sequence[bytes]) -> None:
        """Hide these as well, in what is told from now on."""
        for each in self._tails:
            each.redactor.learn(secrets)

    def end(self) -> None:
        """Tell the rest, as far as somebody reads it."""
        self._over.set()
        self._thread.join(END_PATIENCE_S)

    def _tell_all(self) -> None:
        with contextlib.suppress(OSError):  # nobody reads any more
            while not self._over.wait(LOOK_S):
                self._tell(last=False)
            while self._tell(last=True):
                pass

    def _tell(self, *, last: bool) -> bool:
        """Tell what is new; return whether there was anything."""
        lines = [line for each in self._tails for line in each.lines(last=last)]
        data = b"".join(lines)[: self._left]
        self._left -= len(data)
        if data and self._left == 0:
            data += b"\n[... the rest is in the logs ...]\n"
        while data:
            data = data[os.write(STANDARD_OUTPUT, data) :]
        return bool(lines) and self._left > 0
