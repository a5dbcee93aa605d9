"""Servers that fork workers, themselves forked from a process that has the worker loaded: nearly all that starting one
costs are imports.

`start_server` stands for the one of `reconciler.process` in a command line that `tests.preloaded` has forked. What it
starts has a session, environment and standard streams of its own, the same modules on the same path as one that was
executed, and forks and ends its workers as that does. Limits of resources and the umask are those of the process that forks.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests import forking

ROOT = str(Path(__file__).resolve().parent.parent)
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from tests.preloaded_workers import fork_servers; fork_servers(int(sys.argv[2]), int(sys.argv[3]))"
)


class Started:
    """A server that was forked for us, with what `Workers` asks of a `Popen`; its parent is not this process."""

    def __init__(self, pid: int) -> None:
        self.pid, self._ended = pid, None if pid else 0
        with contextlib.suppress(ProcessLookupError):
            self._pidfd = os.pidfd_open(pid)
            return
        self._ended = 0

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self) -> int | None:
        return self._look(None)

    def kill(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self._ended is None and select.select([self._pidfd], [], [], timeout)[0]:
            os.close(self._pidfd)
            self._ended = 0
        return self._ended


def start_server(address: bytes, descriptor: int, environment: Mapping[str, str]) -> Started:
    """Let the process at an address fork a server that takes its orders from a descriptor."""
    return Started(forking.ask(address, dict(environment), [descriptor, 2]))


# ------------------------------------------------------------------------------------------------ who forks


def preload() -> bytes:
    """Start the process that forks servers as long as this one lives, and return its address."""
    alive, ours = os.pipe()
    with forking.listen() as listening:
        given = (listening.fileno(), alive)
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PROGRAM, ROOT, *map(str, given)], cwd="/", pass_fds=given,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        ).returncode = 0  # fmt: skip
        os.close(alive)
        os.set_inheritable(ours, False)
        return bytes(listening.getsockname())


def fork_servers(listening_descriptor: int, alive: int) -> None:
    """Fork a server for every connection, until nobody holds the other end of the pipe `alive`."""
    from reconciler import codec, process, worker
    from reconciler.model import Attempt, Claim, Instant, Plan

    codec.prepare(Plan, Claim, Attempt, Instant)
    process.boot_id()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(fileno=listening_descriptor)
    gc.freeze()
    while alive not in select.select([listening, alive], [], [])[0]:
        if (forked := forking.fork(listening)) is None:
            continue
        pid, environment, descriptors = forked
        if not pid:
            _become(environment, descriptors[1])
            _close_all_but(descriptors[0])
            worker.serve(descriptors[0])
            os._exit(0)
        for each in descriptors:
            os.close(each)


def _become(environment: Mapping[str, str], errors: int) -> None:
    """Take on what a server has that was executed."""
    os.setsid()
    silent = os.open(os.devnull, os.O_RDWR)
    for target, source in enumerate((silent, silent, errors)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()


def _close_all_but(descriptor: int) -> None:
    os.closerange(3, descriptor)
    os.closerange(descriptor + 1, 1024)
