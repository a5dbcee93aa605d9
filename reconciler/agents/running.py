"""An agent's program while it runs: its lines, its limits, and its end.

It stays in the process group of the stage, so whatever kills that group kills it as well, and it inherits the lock of
the run. This process adopts what it leaves behind (Linux) and ends all of it: nothing an agent started outlives it. For
the case that this process is killed itself, a keeper knows its children by their home: agents start commands in
sessions of their own and close what they inherited, so neither a group nor the lock tells of those.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from reconciler import process
from reconciler.agents.driver import Launch
from reconciler.agents.events import Event, Kind, Reader
from reconciler.agents.verdict import How
from reconciler.values import frozen

LINE_BYTES_MAX = 4 * 1024 * 1024
READ_BYTES = 64 * 1024
STDERR_BYTES_MAX = 1024 * 1024
STDERR_TAIL_BYTES = 4096
TICK_S = 0.5
"""How often limits are looked at while nothing is said."""
DRAIN_PATIENCE_S = 0.5
GRACE_S_MAX = 3.0
"""What an agent gets between TERM and KILL; the worker's own grace must not be over before."""
RECORD_READ_BYTES = 1024 * 1024
PR_SET_CHILD_SUBREAPER = 36
KEEPER_PATIENCE_S = 5.0
DESCRIPTORS_MAX = 65_536
TOLD_TO_STOP = 128 + signal.SIGTERM


@frozen
class Ending:
    how: How
    exit_code: int | None
    stderr: str


class Lines:
    """Pieces of output become lines; one that is too long is cut, said so, and skipped to its end."""

    def __init__(self, bytes_max: int = LINE_BYTES_MAX) -> None:
        self.bytes_max, self._held, self._skipping = bytes_max, bytearray(), False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        self._held += chunk
        while (end := self._held.find(b"\n")) >= 0:
            line = bytes(self._held[:end])
            del self._held[: end + 1]
            if not self._skipping:
                yield line[: self.bytes_max]
            self._skipping = False
        if len(self._held) > self.bytes_max:
            if not self._skipping:
                yield bytes(self._held[: self.bytes_max])
            self._held.clear()
            self._skipping = True

    def rest(self) -> bytes:
        """Return what stands behind the last line break."""
        return b"" if self._skipping else bytes(self._held)


class Tail:
    """A file that grows: its new lines, read from where it ended when this began."""

    def __init__(self, path: Path, reader: Reader, at: int) -> None:
        self.path, self.reader, self.at, self.lines = path, reader, at, Lines()

    def read(self) -> Iterator[Event]:
        """Yield what is new, at most a MiB of it at a time."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.at)
                chunk = file.read(RECORD_READ_BYTES)
        except OSError:
            return
        self.at += len(chunk)
        for line in self.lines.feed(chunk):
            yield from self.reader.feed(line)


class Running:
    """One program from its start to its end. `heard` takes every event, `limit` says whether a bound is reached."""

    def __init__(
        self,
        reader: Reader,
        heard: Callable[[Event], None],
        limit: Callable[[], How | None],
        *,
        stall_after_s: float,
        grace_s: float,
    ) -> None:
        self.reader, self.heard, self.limit = reader, heard, limit
        self.stall_after_s, self.grace_s = stall_after_s, min(grace_s / 2, GRACE_S_MAX)
        self.lines, self.stderr, self.stderr_bytes = Lines(), b"", 0
        self.tail: Tail | None = None
        self.keeper = 0
        self.last_heard = time.monotonic()
        self.told_to_stop = False
        self.selector = selectors.DefaultSelector()
        self.open: set[int] = set()

    def run(self, launch: Launch, work: Path, told: Path | None, environment: Mapping[str, str], lock: Path) -> Ending:
        """Start the program, hear it to its end or end it. Raise OSError if it cannot be started."""
        self._watch_signals()
        _adopt_orphans()
        self.keeper = _post_keeper(environment["HOME"])
        with open(told or os.devnull, "rb") as standard_input:
            program = subprocess.Popen(
                launch.argv,
                cwd=work,
                env=environment,
                stdin=standard_input,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=sys.platform != "linux",
                pass_fds=_descriptors_of(lock),
            )
        try:
            how = self._hear(program)
        finally:
            self._end(program)
        self._drain()
        if self.told_to_stop:
            raise SystemExit(TOLD_TO_STOP)
        return Ending(how=how, exit_code=program.returncode, stderr=self.stderr.decode(errors="replace"))

    # -------------------------------------------------------------------------------------------- hearing

    def _hear(self, program: subprocess.Popen[bytes]) -> How:
        assert program.stdout is not None and program.stderr is not None
        for stream, take in ((program.stdout, self._take), (program.stderr, self._take_stderr)):
            os.set_blocking(stream.fileno(), False)
            self.open.add(stream.fileno())
            self.selector.register(stream.fileno(), selectors.EVENT_READ, take)
        ended_at = float("inf")
        while not self.told_to_stop:
            self._wait()
            self._read_tail()
            if program.poll() is not None:
                ended_at = min(ended_at, time.monotonic())
                if not self.open or time.monotonic() - ended_at > DRAIN_PATIENCE_S:
                    return How.EXITED
                continue
            if how := self._due():
                return how
        return How.EXITED

    def _wait(self) -> None:
        for key, _ in self.selector.select(TICK_S if len(self.open) == 2 else TICK_S / 10):
            key.data(key.fd)

    def _due(self) -> How | None:
        if (how := self.limit()) is not None:
            return how
        return How.STALLED if time.monotonic() - self.last_heard >= self.stall_after_s else None

    def _read(self, descriptor: int) -> bytes:
        """Return what is there now; at its end, forget the stream."""
        try:
            chunk = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return b""
        if not chunk:
            self.selector.unregister(descriptor)
            self.open.discard(descriptor)
        return chunk

    def _take(self, descriptor: int) -> None:
        for line in self.lines.feed(self._read(descriptor)):
            self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        for event in self.reader.feed(line):
            self._tell(event)

    def _tell(self, event: Event) -> None:
        self.last_heard = time.monotonic()
        self.heard(event)

    def _take_stderr(self, descriptor: int) -> None:
        chunk = self._read(descriptor)
        self.stderr = (self.stderr + chunk)[-STDERR_TAIL_BYTES:]
        if self.stderr_bytes < STDERR_BYTES_MAX:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        self.stderr_bytes += len(chunk)

    def _read_tail(self) -> None:
        for event in self.tail.read() if self.tail is not None else ():
            # What is spent and refused is taken from there; it is no second voice.
            if event.kind in (Kind.USAGE, Kind.COMMAND):
                self._tell(event)

    def _drain(self) -> None:
        """Hear what was still in the pipes when the last writer was gone."""
        deadline = time.monotonic() + DRAIN_PATIENCE_S
        while self.open and time.monotonic() < deadline:
            self._wait()
        self._take_line(self.lines.rest())
        self._read_tail()
        self.selector.close()

    # -------------------------------------------------------------------------------------------- ending

    def _watch_signals(self) -> None:
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if sys.platform == "linux" else os.pipe()
        for each in (reading, writing):
            os.set_blocking(each, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(reading, selectors.EVENT_READ, _empty)

    def _on_stop(self, *_: object) -> None:
        # Only noted here: a handler runs between any two instructions.
        self.told_to_stop = True

    def _end(self, program: subprocess.Popen[bytes]) -> None:
        """End the program and all it left: TERM, the grace, KILL."""
        for number, patience_s in ((signal.SIGTERM, self.grace_s), (signal.SIGKILL, 5.0)):
            deadline = time.monotonic() + patience_s
            told: set[int] = set()
            while (living := _living(program) - {self.keeper}) and time.monotonic() < deadline:
                for pid in living - told if number == signal.SIGTERM else living:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
                told |= living
                self._wait_quietly()
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(5)
        _reap()

    def _wait_quietly(self) -> None:
        """Let a moment pass in which output is read: whoever ends may want to say something, and must not block."""
        for key, _ in self.selector.select(0.01):
            key.data(key.fd)
        time.sleep(0.005)


def _living(program: subprocess.Popen[bytes]) -> set[int]:
    """Return the pids of what is left of a program: where descendants can be found, all of them."""
    if sys.platform == "linux":
        return set(process.descendants(os.getpid()))
    return {program.pid} if program.poll() is None else set()


def end_marked(home: str) -> None:
    """KILL what an earlier try left, which knows this home, and wait until it is gone. Its own home is no program's of
    ours but the agent's."""
    deadline = time.monotonic() + KEEPER_PATIENCE_S
    while (found := process.marked(f"HOME={home}")) and time.monotonic() < deadline:
        for each in found:
            process.send(each, signal.SIGKILL)
        time.sleep(0.01)


def _post_keeper(home: str) -> int:
    """Start a process that ends what is left of the agent when this one dies, however that happens (Linux).

    It holds nothing but the end of a pipe: not the lock, or it would be ended first, and no output.
    """
    if sys.platform != "linux":
        return 0
    reading, _ = os.pipe2(os.O_CLOEXEC)  # the other end stays open for as long as this process lives
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = _keep(reading, home)
        finally:
            os._exit(status)
    os.close(reading)
    return pid


def _keep(reading: int, home: str) -> int:
    """Wait until nobody holds the other end of the pipe, and end what is left."""
    os.setsid()
    os.chdir("/")
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    os.dup2(reading, 3)
    os.closerange(4, DESCRIPTORS_MAX)
    os.read(3, 1)
    end_marked(home)
    return 0


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _empty(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 4096):
            pass


def _adopt_orphans() -> None:
    """Become the parent of processes whose own parent dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _descriptors_of(lock: Path) -> tuple[int, ...]:
    """Return by which descriptors this process holds the lock of the run: whoever works for it holds it, too."""
    try:
        wanted = os.stat(lock)
        numbers = [int(each) for each in os.listdir("/dev/fd") if each.isdigit()]
    except OSError:
        return ()
    found = []
    for number in numbers:
        with contextlib.suppress(OSError):
            seen = os.fstat(number)
            if number > 2 and (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
                found.append(number)
    return tuple(found)
