"""The edge of a pass to planners that are not ours: one process for each, asked line by line, bounded in time and size.

A planner that hangs, dies or says nothing that can be used costs its own requests a rejection, and a pass some seconds
at most: what failed is not asked again for a while, and one that hangs again and again is left alone for as long.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache

from reconciler import codec
from reconciler.asking import PLANNING_BYTES_MAX
from reconciler.model import Plan
from reconciler.planning import planned
from reconciler.role_protocols import Planned, PlanningOrder
from reconciler.stage import PACKAGE

PLANNER = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from reconciler.asking import plan_for_ever as p; sys.exit(p(*sys.argv[2:]))"
)
PATIENCE_S_MAX = 10.0
"""So long one answer may take, whatever the settings allow: a pass waits for it."""
RETRY_S = 60.0
"""So long what failed is not asked again."""
HANGS_MAX = 5
"""So many requests of one planner may hang in that time before it is not asked at all."""
ANSWERS_MAX = 10_000
START_S = 5.0
"""What the process may take beyond the first answer: it has to start."""


class PlannerProcess:
    """One planner while it lives, and what it answered."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self.name, self.timeout_s = name, min(timeout_s, PATIENCE_S_MAX)
        self.process: subprocess.Popen[bytes] | None = None
        self.answers = -1
        self.known: dict[str, Planned] = {}
        self.failed: dict[str, str] = {}
        self.hangs, self.forget_at = 0, 0.0
        atexit.register(self.end)

    def ask(self, order: PlanningOrder) -> Plan | str:
        """Return the plan as the planner wants it, or a sentence about why there is none."""
        # Where a plan is made says nothing about what it should be: a moved tip asks nobody again.
        key = codec.digest(replace(order, plan=replace(order.plan, commit="", branch="")))
        if key not in self.known:
            if reason := self._remembered(key):
                return reason
            said = self._said(order)
            if isinstance(said, str):
                self.failed[key] = said
                return said
            if len(self.known) >= ANSWERS_MAX:
                self.known.clear()
            self.known[key] = said
        return planned(order.plan, order.request, self.known[key])

    def stamp(self) -> int:
        """Return a number that is another one when what failed may be asked again."""
        return int(self.forget_at) + (time.monotonic() >= self.forget_at) if self.failed else 0

    def _remembered(self, key: str) -> str:
        """Return why a request is not asked about now, "" if it is."""
        now = time.monotonic()
        if now >= self.forget_at:
            self.failed.clear()
            self.hangs, self.forget_at = 0, now + RETRY_S
        if self.hangs >= HANGS_MAX and key not in self.failed:
            return f"planner '{self.name}' did not answer {HANGS_MAX} times; it is asked again in a minute"
        return self.failed.get(key, "")

    def _said(self, order: PlanningOrder) -> Planned | str:
        try:
            said = json.loads(self._exchange(codec.compact(order)))
            found = said["error"] if "error" in said else codec.load(Planned, said["planned"])
        except _Hangs:
            self.end()
            self.hangs += 1
            return f"planner '{self.name}' did not answer within {self.timeout_s:g} s"
        except OSError as error:
            self.end()
            return f"planner '{self.name}' cannot be asked: {error.strerror or 'its process ended'}"
        except (ValueError, KeyError, TypeError, RecursionError):
            self.end()
            return f"planner '{self.name}' ended without an answer, or said what is none"
        return found if isinstance(found, Planned) else str(found)[:1000]

    # -------------------------------------------------------------------------------------------- the process

    def _exchange(self, line: bytes) -> bytes:
        """Return the line that answers one. Raise _Hangs if that takes too long, OSError if there is nobody."""
        patience_s = self.timeout_s
        if self.process is None or self.process.poll() is not None:
            self._start()
            patience_s += START_S
        assert self.process is not None and self.process.stdin is not None
        deadline = time.monotonic() + patience_s
        self._write(self.process.stdin.fileno(), line, deadline)
        found = b""
        while not found.endswith(b"\n"):
            self._wait(deadline, reading=[self.answers])
            chunk = os.read(self.answers, 65536)
            found += chunk
            if not chunk or len(found) > 2 * PLANNING_BYTES_MAX:
                raise _Hangs if self._was_late() else ValueError
        return found

    def _was_late(self) -> bool:
        """Return whether the kernel ended the process because it took too long."""
        assert self.process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(1.0) == -signal.SIGALRM
        return False

    def _write(self, descriptor: int, line: bytes, deadline: float) -> None:
        view = memoryview(line)
        while view:
            self._wait(deadline, writing=[descriptor])
            view = view[os.write(descriptor, view[:65536]) :]

    def _wait(self, deadline: float, *, reading: list[int] | None = None, writing: list[int] | None = None) -> None:
        left = deadline - time.monotonic()
        if left <= 0 or not any(select.select(reading or [], writing or [], [], left)[:2]):
            raise _Hangs

    def _start(self) -> None:
        self.end()
        self.answers, answering = os.pipe()
        try:
            self.process = subprocess.Popen(
                (sys.executable, "-I", "-c", PLANNER, PACKAGE, self.name, str(answering), str(self.timeout_s)),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(answering,),
            )
        finally:
            os.close(answering)
        assert self.process.stdin is not None
        os.set_blocking(self.process.stdin.fileno(), False)

    def end(self) -> None:
        """KILL the process and what it left in its group, if it lives."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                self.process.stdin.close()  # type: ignore[union-attr]
            self.process.wait()
            os.close(self.answers)
            self.process = None


class _Hangs(Exception):
    """The planner did not answer in time."""


@cache
def planner(name: str, timeout_s: float) -> PlannerProcess:
    """Return the process of a planner, the same one for all who ask in this process."""
    return PlannerProcess(name, timeout_s)
