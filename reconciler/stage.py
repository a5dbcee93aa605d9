"""One stage while it runs: its process group, its output, its limits.

The loop of the worker owns time; a stage only says when something of it is due. A stage is over when its process
has exited, its group is empty and its output is read to the end: what it left in the background is told to
go (TERM), then made to (KILL), and output that nobody closes is given up on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler import codec, process, sandbox
from reconciler.disk import DISK
from reconciler.model import PlannedStage, Process, StageRecord, StageStatus
from reconciler.order import ANSWER_BYTES_MAX, ARTIFACT_BYTES_MAX, ARTIFACTS, Answer, Artifact, Verdict
from reconciler.redact import Redactor
from reconciler.scrub import scrubbed

READ_BYTES = 64 * 1024
LIVE_LOG_BYTES_MAX = 64 * 1024 * 1024
"""The log on disk keeps this much from the start and `log_bytes_max` from the end, whatever a stage prints."""
SUMMARY_CHARACTERS_MAX = 200
DRAIN_PATIENCE_S = 0.5
"""How long output is waited for that a process outside the group still holds open."""
BACKGROUND_GRACE_S = 1.0
"""How long what a stage left in the background gets between TERM and KILL, if the grace is longer."""

MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024
"""The unit of ru_maxrss: KiB on Linux, bytes on macOS (getrusage(2))."""

PACKAGE = str(Path(__file__).resolve().parent.parent)
DRIVER = "import sys; sys.path.insert(0, sys.argv[1]); from reconciler.drive import main; sys.exit(main(*sys.argv[2:]))"
"""How the process of a stage that is no command starts: isolated, with this very package."""
DOOR = (
    "import sys; sys.path.insert(0, sys.argv[1]); from reconciler.agents.door import main; sys.exit(main(sys.argv[2]))"
)
"""How the door to an agent's model starts: outside of the sandbox, with the environment of the worker."""

CONDITION = "import sys; sys.path.insert(0, sys.argv[1]); from reconciler.drive import judge_condition as j; j()"
CONDITION_PATIENCE_S = 30.0

ANSI = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]")


class Log:
    """The output of a stage on its way to disk: redacted first, bounded, counted and digested as a whole."""

    def __init__(self, path: str, file: Path, redactor: Redactor, tail_bytes_max: int) -> None:
        self.path, self.file = path, file
        self.redactor, self.tail_bytes_max = redactor, tail_bytes_max
        self.bytes, self.sha256, self.error = 0, hashlib.sha256(), ""
        self.recent = b""
        self.tail: deque[bytes] = deque()
        self.tail_bytes = 0
        self.descriptor: int | None = None
        self.unsynced = [file.parent]

    def open(self) -> None:
        """Open the file; the log of a stage that is tried again goes on where the last try ended."""
        try:
            if not self.file.parent.is_dir():
                self.file.parent.mkdir(exist_ok=True)
                self.unsynced.append(self.file.parent.parent)
            self.descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self.error = str(error.strerror)

    def learn(self, values: Sequence[bytes]) -> None:
        """Let nothing that is written from now on hold these values."""
        self.redactor.learn(values)
        if self.redactor.enforces:
            self.recent = scrubbed(self.recent, values)
            self.tail = deque(scrubbed(each, values) for each in self.tail)
            self.tail_bytes = sum(map(len, self.tail))

    def write(self, chunk: bytes) -> None:
        self._put(self.redactor.feed(chunk))

    def close(self) -> None:
        """Write what is held back and make the log durable."""
        self._put(self.redactor.flush())
        if self.tail:
            left_out = self.bytes - LIVE_LOG_BYTES_MAX - self.tail_bytes
            marker = f"\n[... {left_out} bytes left out ...]\n".encode() if left_out > 0 else b""
            self._to_disk(marker + b"".join(self.tail))
            self.tail.clear()
            self.tail_bytes = 0
        if self.descriptor is not None:
            with contextlib.suppress(OSError):
                os.fsync(self.descriptor)
                while self.unsynced:
                    _sync_names(self.unsynced.pop())
            os.close(self.descriptor)
            self.descriptor = None

    def last_line(self) -> str:
        """Return the last line that says something, without colours, bounded."""
        lines = ANSI.sub(b"", self.recent).replace(b"\r", b"\n").split(b"\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), b"")
        text = "".join(each if each.isprintable() else "�" for each in said.decode(errors="replace"))
        return text[:SUMMARY_CHARACTERS_MAX]

    def _put(self, data: bytes) -> None:
        if not data:
            return
        self.sha256.update(data)
        self.recent = (self.recent + data)[-4096:] if len(data) < 4096 else data[-4096:]
        room = max(0, LIVE_LOG_BYTES_MAX - self.bytes)
        self.bytes += len(data)
        if room:
            self._to_disk(data[:room])
        if len(data) > room:
            self._keep_tail(data[room:])

    def _keep_tail(self, data: bytes) -> None:
        self.tail.append(data[-self.tail_bytes_max :])
        self.tail_bytes += len(self.tail[-1])
        while self.tail_bytes - len(self.tail[0]) >= self.tail_bytes_max:
            self.tail_bytes -= len(self.tail.popleft())

    def _to_disk(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view and self.descriptor is not None and not self.error:
                view = view[os.write(self.descriptor, view) :]
        except OSError as error:
            self.error = str(error.strerror)


class Ongoing:
    """A stage between its start and its record."""

    def __init__(self, *, stage: PlannedStage, record: StageRecord, log: Log, grace_s: float) -> None:
        self.stage, self.grace_s, self.log = stage, grace_s, log
        self.record = replace(record, log_path=log.path)
        self.pid: int | None = None
        self.pipe: int | None = None
        self.started_s = time.monotonic()
        self.exit_code: int | None = None
        self.ended = False
        self.kill_at = self.give_up_at = self.gone_by = float("inf")
        self.killed = False
        self.verdict: StageStatus | None = None
        self.reason = ""
        self.usage: resource.struct_rusage | None = None
        self.wall: sandbox.Wall | None = None
        self.inner = sandbox.Inner()
        self.hopeless = False
        self.driven = False
        self.answers: int | None = None
        self.said = b""
        self.answer: Answer | None = None

    def start(
        self,
        place: Path,
        environment: Mapping[str, str],
        lock: int,
        selector: selectors.BaseSelector,
        order: bytes | None = None,
        wall: sandbox.Wall | None = None,
        door: int | None = None,
    ) -> None:
        """Start the process in a group of its own, with the run's lock inherited; a failure to is its exit 127.

        With an `order` it is a driver's process, which reads that and must answer. With a `wall` it is started behind
        that, or not at all if it is refused. `door` is a descriptor that it is given, and that is closed here.
        """
        self.log.open()
        self.wall, self.selector = wall, selector
        if self.record.tries > 1:
            self.log.write(f"--- try {self.record.tries} ---\n".encode())
            self.log.recent = b""
        reading, writing = _pipe()
        try:
            pid = self._spawn(place, environment, lock, writing, order, () if door is None else (door,))
        except sandbox.Refused as error:
            os.close(reading)
            self._refused(str(error))
        except (OSError, ValueError) as error:
            os.close(reading)
            self._not_started(error, place)
        else:
            self._watch(pid, reading)
        finally:
            os.close(writing)
            if self.pid is None:
                self.inner.close()
                self._hear_nothing()
        self.record = replace(
            self.record,
            started_at=process.instant().at,
            process=self._identity(),
            sandbox=self.wall.record() if self.wall else None,
        )

    def _spawn(
        self,
        place: Path,
        environment: Mapping[str, str],
        lock: int,
        writing: int,
        order: bytes | None,
        doors: tuple[int, ...],
    ) -> int:
        """Start the process, what it prints going to `writing`, and return its pid; what it alone is given is closed
        here. Raise Refused, OSError or ValueError."""
        argv, told, given = self.stage.argv, subprocess.DEVNULL, [lock]
        with contextlib.ExitStack() as handed_over:
            for each in doors:
                handed_over.callback(os.close, each)
            if order is not None:
                told, answering = self._tell(order, handed_over)
                argv = (sys.executable, "-I", "-c", DRIVER, PACKAGE, str(answering), *map(str, doors))
                given += [answering, *doors]
            launch = sandbox.Launch()
            if self.wall is not None:
                launch = sandbox.launch(self.wall, argv, environment, lock)
            handed_over.callback(launch.close)
            self.inner = launch.inner
            popen = subprocess.Popen(
                launch.argv or argv,
                cwd="/" if launch.argv else place / self.stage.cwd,
                env={} if launch.argv else environment,
                stdin=told,
                stdout=writing,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(*given, *launch.given),
            )
        # The worker reaps with wait4 to learn what a stage used; this keeps Popen from reaping as well.
        popen.returncode = 0
        return popen.pid

    def _tell(self, order: bytes, handed_over: contextlib.ExitStack) -> tuple[int, int]:
        """Return the descriptors from which a driver's process reads its order and to which it writes its answer."""
        self.driven = True
        told = _file_of(order, self.log.file.with_suffix(".order"))
        handed_over.callback(os.close, told)
        self.answers, answering = _pipe()
        handed_over.callback(os.close, answering)
        return told, answering

    def _identity(self) -> Process | None:
        return process.identify(self.pid) if self.pid else None

    def _watch(self, pid: int, reading: int) -> None:
        self.pid, self.pipe = pid, reading
        os.set_blocking(reading, False)
        self.selector.register(reading, selectors.EVENT_READ, self._read)
        if self.answers is not None:
            os.set_blocking(self.answers, False)
            self.selector.register(self.answers, selectors.EVENT_READ, self._hear)

    def _not_started(self, error: OSError | ValueError, place: Path) -> None:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        missing = not (place / self.stage.cwd).is_dir()
        what = f"directory '{self.stage.cwd}'" if missing else f"'{self.stage.argv[0]}'"
        self.reason = f"cannot start {what}: {reason}"
        self.log.write(f"{self.reason}\n".encode())
        self.exit_code, self.ended = 127, True

    def _hear_nothing(self) -> None:
        """Close what a driver's process would have answered on: it was never started, and nobody reads it."""
        if self.answers is not None:
            os.close(self.answers)
            self.answers = None

    def _refused(self, reason: str) -> None:
        """Note that the stage cannot have its sandbox, and that another try would change nothing."""
        assert self.wall is not None
        self.wall = self.wall.refusing(reason)
        self.reason = reason
        self.log.write(f"{reason}\n".encode())
        self.exit_code, self.ended, self.hopeless = 127, True, True

    @property
    def walled(self) -> bool:
        """Whether the process was started by bubblewrap, in a pid namespace that ends when its first process does."""
        return self.wall is not None and self.wall.scene is not None

    def _read(self) -> None:
        """Read what is there now; at the end of the output, close it."""
        assert self.pipe is not None
        try:
            chunk = os.read(self.pipe, READ_BYTES)
        except BlockingIOError:
            return
        if chunk:
            self.log.write(chunk)
        else:
            self._close_pipe()

    def _hear(self) -> None:
        """Read what there is of the answer now; at its end, or when it is too long, close it."""
        assert self.answers is not None
        try:
            chunk = os.read(self.answers, READ_BYTES)
        except BlockingIOError:
            return
        self.said += chunk
        if not chunk or len(self.said) > ANSWER_BYTES_MAX:
            self.selector.unregister(self.answers)
            os.close(self.answers)
            self.answers = None

    def _answer(self) -> Answer | None:
        """Return what a driver's process answered, redacted; None if that is no answer. The process has exited and the
        log is closed: all that was said is in the pipe, and the redactor is free."""
        heard = -1
        while self.answers is not None and len(self.said) > heard:
            heard = len(self.said)
            self._hear()
        with contextlib.suppress(codec.CodecError, ValueError, RecursionError):
            answer = codec.load(Answer, _redacted(json.loads(self.said), self.log.redactor))
            directory = self.log.file.parent.parent
            return replace(answer, files=tuple(clean_file(directory, each, self.log.redactor) for each in answer.files))
        return None

    def _close_pipe(self) -> None:
        if self.pipe is not None:
            self.selector.unregister(self.pipe)
            os.close(self.pipe)
            self.pipe = None

    # ---------------------------------------------------------------------------------------------- ending

    def due(self) -> float:
        """Return the monotonic second at which `enforce` has something to do."""
        if self.ended:
            # A group of which only the leader exited is looked at again soon: nobody tells us when it is empty.
            return min(self.kill_at, self.give_up_at, time.monotonic() + 0.02)
        timeout = self.started_s + self.stage.timeout_s if self.stage.timeout_s is not None else float("inf")
        return min(timeout if self.verdict is None else float("inf"), self.kill_at, self.give_up_at)

    def reaped(self, pid: int, status: int, usage: resource.struct_rusage) -> None:
        """Note that a child of the worker is gone, if it was of this stage."""
        if pid == self.pid:
            self.exited(status, usage)
        elif self.inner.is_it(pid):
            # It has waited for all that was in the sandbox, and is adopted when bubblewrap itself ends.
            self.usage = usage

    def exited(self, status: int, usage: resource.struct_rusage) -> None:
        """Note that the stage's own process is gone, and tell its background processes to go, too."""
        self.exit_code, self.usage, self.ended = status, usage, True
        self.inner.end()
        if self._group_lives():
            self._signal_group(signal.SIGTERM)
            self.kill_at = min(self.kill_at, time.monotonic() + min(self.grace_s, BACKGROUND_GRACE_S))
        else:
            self.give_up_at = time.monotonic() + DRAIN_PATIENCE_S

    def stop(self, verdict: StageStatus, reason: str) -> None:
        """End the stage: TERM now, KILL after the grace."""
        if self.verdict is None:
            self.verdict, self.reason = verdict, reason
            self._signal_group(signal.SIGTERM)
            self.kill_at = time.monotonic() + self.grace_s

    def enforce(self) -> None:
        """Apply what is due: the timeout, the KILL after the grace, the end of patience with the output."""
        now = time.monotonic()
        timeout_s = self.stage.timeout_s
        if timeout_s is not None and not self.ended and self.verdict is None and now >= self.started_s + timeout_s:
            self.record = replace(self.record, timed_out=True)
            self.stop(StageStatus.FAILED, f"timed out after {timeout_s:g} s")
        if now >= self.kill_at and not self.killed:
            self._signal_group(signal.SIGKILL)
            self.killed, self.kill_at = True, float("inf")
            self.give_up_at, self.gone_by = now + DRAIN_PATIENCE_S, now + process.KILL_PATIENCE_S
        if now >= self.give_up_at and self.ended:
            self._close_pipe()

    def settled(self) -> bool:
        """Return whether nothing more of this stage can happen."""
        now = time.monotonic()
        if not self.ended or self.pipe is not None or (self.inner.lives() and now < self.give_up_at):
            return False
        # What was KILLed takes its time to give back memory, and keeps its locks and ports until it has.
        return now >= self.gone_by or not self._group_lives()

    def finish(self) -> StageRecord:
        """Return the record of this try."""
        self.log.close()
        self.inner.close()
        self.answer = self._answer() if self.driven else None
        status = self._status()
        used = self.usage
        return replace(
            self.record,
            status=status,
            completed_at=process.instant().at,
            duration_s=round(time.monotonic() - self.started_s, 3),
            exit_code=self.exit_code if self.exit_code is not None and self.exit_code >= 0 else None,
            signal=_signal_name(self.exit_code),
            summary=self._summary(status),
            log_bytes=self.log.bytes,
            log_sha256=self.log.sha256.hexdigest(),
            redactions=self.log.redactor.count,
            redactions_by_rule=dict(sorted(self.log.redactor.counts.items())),
            process=None,
            answer=codec.dump(self.answer) if self.answer is not None else self.record.answer,
            cpu_user_s=round(used.ru_utime, 3) if used else 0.0,
            cpu_system_s=round(used.ru_stime, 3) if used else 0.0,
            memory_peak_bytes=used.ru_maxrss * MAXRSS_BYTES if used else 0,
        )

    def _status(self) -> StageStatus:
        if self.verdict is not None:
            return self.verdict
        # Output that could not be kept proves nothing, whatever the exit code.
        if self.driven and (self.answer is None or self.answer.verdict == Verdict.FAILED):
            return StageStatus.FAILED
        return StageStatus.SUCCEEDED if self.exit_code == 0 and not self.log.error else StageStatus.FAILED

    def _summary(self, status: StageStatus) -> str:
        if self.log.error:
            return f"its log could not be written: {self.log.error}"
        if self.reason:
            return self.reason
        if self.answer is not None and self.answer.summary:
            return self.answer.summary[:SUMMARY_CHARACTERS_MAX]
        if status == StageStatus.FAILED:
            name = _signal_name(self.exit_code)
            how = f"killed by {name}" if name else f"exit code {self.exit_code}"
            said = self.log.last_line()
            return f"{how}: {said}" if said else how
        return self.log.last_line() or self.stage.summary_hint

    def _group_lives(self) -> bool:
        if self.pid is None:
            return False
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def _signal_group(self, number: signal.Signals) -> None:
        if self.pid is None:
            return
        # TERM would end bubblewrap, and its end KILLs all that is in the sandbox: there would be no grace.
        inside = process.descendants(self.pid) if self.walled and number == signal.SIGTERM and not self.ended else ()
        if len(inside) > 1:
            for each in inside:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(each, number)
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def clean_file(directory: Path, named: Artifact, redactor: Redactor) -> Artifact:
    """Take out of a file of evidence what its own process could not know for a secret; return what it is now.

    One that is not what was answered, lies elsewhere or cannot be written is left: it is no evidence, or the publisher
    cleans what is committed of it.
    """
    parts, path = named.path.split("/"), directory / named.path
    if not redactor.enforces or named.bytes > ARTIFACT_BYTES_MAX or not _is_ours(directory, parts):
        return named
    with contextlib.suppress(OSError):
        data = DISK.read(path, named.bytes + 1)
        clean = scrubbed(data, redactor.values)
        if clean is not data and hashlib.sha256(data).hexdigest() == named.sha256:
            DISK.write_atomic(path, clean)
            return replace(named, bytes=len(clean), sha256=hashlib.sha256(clean).hexdigest())
    return named


def _is_ours(directory: Path, parts: Sequence[str]) -> bool:
    """Return whether a path leads to where artifacts are, by no link: a stage names its files, and must not have us
    write another one."""
    if parts[0] != ARTIFACTS or {"", ".", ".."} & set(parts):
        return False
    return directory.joinpath(*parts[:-1]).resolve() == directory.resolve().joinpath(*parts[:-1])


def judged(
    order: bytes, environment: Mapping[str, str], meanwhile: Callable[[], None], interval_s: float
) -> tuple[bool | None, str]:
    """Return whether the condition of a stage holds, None and the reason if it cannot be judged. As long as that takes,
    `meanwhile` is called every `interval_s` seconds."""
    try:
        said = json.loads(_asked(order, environment, meanwhile, interval_s))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return None, f"{type(error).__name__}: {error}"
    return said.get("holds"), str(said.get("error", ""))


def _asked(order: bytes, environment: Mapping[str, str], meanwhile: Callable[[], None], interval_s: float) -> bytes:
    """Return what the process that judges a condition prints. Raise TimeoutExpired if it takes too long."""
    command, pipe = (sys.executable, "-I", "-c", CONDITION, PACKAGE), subprocess.PIPE
    deadline = time.monotonic() + CONDITION_PATIENCE_S
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment) as process:
        feed: bytes | None = order
        while True:
            try:
                return process.communicate(feed, timeout=interval_s)[0]
            except subprocess.TimeoutExpired:
                feed = None
                meanwhile()
                if time.monotonic() > deadline:
                    process.kill()
                    raise


def open_door(agent: Mapping[str, object], environment: Mapping[str, str], lock: int, place: Path) -> int:
    """Start the process that leads an agent to its model and to nothing else; return the descriptor by which the
    agent's driver tells it where to stand. It ends when nobody holds that any more. Raise OSError if it cannot start.

    It finds the key in the `environment`, and holds the lock of the run like all that works for it. `place` is a
    directory for a file that has no name by then.
    """
    ours, its = socket.socketpair()
    with its:
        try:
            told = _file_of(codec.compact(agent), place / ".door")
            try:
                started = subprocess.Popen(
                    (sys.executable, "-I", "-c", DOOR, PACKAGE, str(its.fileno())),
                    cwd="/",
                    env=environment,
                    stdin=told,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    pass_fds=(lock, its.fileno()),
                )
            finally:
                os.close(told)
        except OSError:
            ours.close()
            raise
    started.returncode = 0  # the worker reaps all its children itself
    return ours.detach()


def _pipe() -> tuple[int, int]:
    return os.pipe2(os.O_CLOEXEC) if sys.platform == "linux" else os.pipe()


def _file_of(data: bytes, path: Path) -> int:
    """Return a descriptor to read `data` from; its file has no name by then."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    path.unlink()
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _redacted(value: Any, redactor: Redactor) -> Any:
    """Return JSON values without the secrets in their texts."""
    if isinstance(value, str):
        return (redactor.feed(value.encode()) + redactor.flush()).decode(errors="replace")
    if isinstance(value, list):
        return [_redacted(each, redactor) for each in value]
    if isinstance(value, dict):
        return {_redacted(key, redactor): _redacted(each, redactor) for key, each in value.items()}
    return value


def _sync_names(directory: Path) -> None:
    """Make the names in a directory durable: a log whose name is lost is lost."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _signal_name(exit_code: int | None) -> str | None:
    if exit_code is None or exit_code >= 0:
        return None
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"
