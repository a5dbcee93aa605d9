"""Servers that fork workers, themselves forked from a process that has the worker loaded: nearly all that starting one
costs are imports. The processes of stages that are no commands are forked by their workers in turn.

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
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from tests import forking

INHERITED = -1
"""What `Popen` says of a standard stream that the new process shares with this one."""
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


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen` in a worker: a program of ours that Python is to execute by itself is forked from here."""

    def _execute_child(self, args: Any, *rest: Any) -> None:  # type: ignore[override]
        words = [args] if isinstance(args, str) else list(args)
        given, place, environment, pipes, new_session = rest[3], rest[4] or ".", rest[5], rest[9:15], rest[-2]
        ours = words[:3] == [sys.executable, "-I", "-c"] and "from reconciler." in words[3]
        if not ours or not os.path.isdir(place):
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        pid = os.fork()
        if not pid:
            try:
                become(
                    dict(os.environ) if environment is None else environment,
                    [pipes[0], pipes[3], pipes[5]],
                    place,
                    new_session,
                )
                execute(words[3:], [*given])
            finally:
                os._exit(70)
        self.pid, self._child_created = pid, True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def execute(words: Sequence[str], given: Sequence[int]) -> NoReturn:
    """Be the program that `python -I -c` executes, with these descriptors and no others, and end as it does."""
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    _close_all_but(given)
    for each in given:
        os.set_inheritable(each, True)
    status: object = 70
    try:
        _find_packages()
        sys.argv = ["-c", *words[1:]]
        exec(words[0], {"__name__": "__main__"})
        status = 0
    except SystemExit as ending:
        status = ending.code
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


def _find_packages() -> None:
    """Let installed packages be found, as an interpreter does at its start and one that loads workers does not."""
    if sys.flags.no_site and "site-packages" not in "".join(sys.path):
        import site

        site.main()


def start_server(address: bytes, descriptor: int, environment: Mapping[str, str]) -> Started:
    """Let the process at an address fork a server that takes its orders from a descriptor."""
    return Started(forking.ask(address, dict(environment), [descriptor, 2]))


# ------------------------------------------------------------------------------------------------ who forks


@cache
def preload(python: str) -> bytes:
    """Start the process that forks servers as long as this one lives, and return its address."""
    alive, ours = os.pipe()
    with forking.listen() as listening:
        given = (listening.fileno(), alive)
        subprocess.Popen(
            [python, "-I", "-S", "-c", PROGRAM, ROOT, *map(str, given)], cwd="/", pass_fds=given,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        ).returncode = 0  # fmt: skip
        os.close(alive)
        os.set_inheritable(ours, False)
        return bytes(listening.getsockname())


def fork_servers(listening_descriptor: int, alive: int) -> None:
    """Fork a server for every connection, until nobody holds the other end of the pipe `alive`."""
    from reconciler import condition, drive, guards, process, worker  # noqa: F401
    from reconciler.agents import stage  # noqa: F401

    compile_values()
    process.boot_id()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listening = socket.socket(fileno=listening_descriptor)
    gc.freeze()
    while alive not in select.select([listening, alive], [], [])[0]:
        if (forked := forking.fork(listening)) is None:
            continue
        pid, environment, descriptors = forked
        if not pid:
            silent = os.open(os.devnull, os.O_RDWR)
            become(environment, [silent, silent, descriptors[1]], "/")
            _close_all_but(descriptors[:1])
            subprocess.Popen = Popen  # type: ignore[misc]
            worker.serve(descriptors[0])
            os._exit(0)
        for each in descriptors:
            os.close(each)


def compile_values() -> None:
    """Compile of all values that are loaded here what is compiled when one is made or read first."""
    from reconciler import codec, model, order, values

    for module in [each for name, each in sys.modules.items() if name.startswith("reconciler.")]:
        for each in [each for each in vars(module).values() if isinstance(each, type) and values.is_frozen(each)]:
            if each.__init__.__qualname__.startswith("_first_init"):
                each.__init__ = values._compiled(each)  # type: ignore[misc]
    codec.prepare(model.Plan, model.Claim, model.Attempt, model.Instant, order.Order, order.Answer)


def become(
    environment: Mapping[str, str], streams: Sequence[int], place: str | os.PathLike[str], new_session: bool = True
) -> None:
    """Take on what a process has that was executed."""
    if new_session:
        os.setsid()
    copies = [os.dup(each if each != INHERITED else target) for target, each in enumerate(streams)]
    for target, source in enumerate(copies):
        os.dup2(source, target)
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()


def _close_all_but(descriptors: Sequence[int]) -> None:
    first = 3
    for each in (*sorted(descriptors), 1024):
        os.closerange(first, each)
        first = each + 1
