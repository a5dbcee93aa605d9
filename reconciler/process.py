"""The edge to processes: who is who, who still lives, and making sure that something runs no more.

A pid alone names nobody: it is reused. A process is its pid, its start time and the boot it belongs to.
Linux is the reference; elsewhere `ps` answers what `/proc` would.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from reconciler.errors import LockHeld, SpawnFailed
from reconciler.lease import Leased
from reconciler.model import Host, Instant, Process
from reconciler.values import frozen

PROC = Path("/proc")
KILL_PATIENCE_S = 5.0
"""How long KILLed processes may take to be gone; one in uninterruptible sleep can take longer."""
RECORD_MARGIN_S = 1.0
"""What a worker gets beyond the grace, which it gives to its stages in turn, to write down how they ended."""
NO_PIDFD = -1
HELD = re.compile(rb"lock:\s.*FLOCK\s+ADVISORY\s+WRITE")


@cache
def boot_id() -> str:
    """Return what tells this boot of this machine from every other one."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        asked = subprocess.run(
            ["sysctl", "-n", "kern.boottime"], capture_output=True, text=True, timeout=10, check=False
        )
        return asked.stdout.strip() or "unknown"


def instant() -> Instant:
    """Return this moment: wall clock for people, monotonic seconds and boot for decisions."""
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Instant(at=at, monotonic_s=time.monotonic(), boot_id=boot_id())


SUSPENSION_CLOCKS = (("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"), ("CLOCK_MONOTONIC_RAW", "CLOCK_UPTIME_RAW"))
"""A clock that goes on while a machine is suspended and one that does not: those of Linux, those of macOS."""


def suspended_s() -> float:
    """Return for how many seconds this machine has been suspended since it was booted, plus what is the same for the
    whole boot; 0.0 where the system has no clocks that tell.

    The monotonic clock stands still meanwhile. That is right for who judges the silence of others: who has slept has
    not listened. It is wrong for how long ago this host was heard itself: others were awake, and have waited.
    """
    for running, resting in SUSPENSION_CLOCKS:
        if hasattr(time, running) and hasattr(time, resting):
            return time.clock_gettime(getattr(time, running)) - time.clock_gettime(getattr(time, resting))
    return 0.0


def lease_clock_s() -> float:
    """Return this moment on the clock by which a host measures its own lease, in seconds."""
    return time.monotonic() + suspended_s()


def start_ticks(pid: int) -> int | None:
    """Return when `pid` started, in clock ticks since boot (elsewhere: seconds), None if it is not alive."""
    try:
        stat = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None if sys.platform == "linux" else _start_by_ps(pid)
    # The command name may hold spaces and parentheses: fields are counted behind the last parenthesis.
    after = stat[stat.rindex(b")") + 2 :].split()
    return None if after[0] in (b"Z", b"X") else int(after[19])


def _start_by_ps(pid: int) -> int | None:
    asked = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=10, check=False
    )
    text = asked.stdout.strip()
    return int(time.mktime(time.strptime(text))) if text else None


def identify(pid: int) -> Process | None:
    """Return the process that has `pid` now, None if there is none."""
    ticks = start_ticks(pid)
    return None if ticks is None else Process(pid=pid, start_ticks=ticks, boot_id=boot_id())


def myself() -> Process:
    """Return this process."""
    found = identify(os.getpid())
    assert found is not None
    return found


@cache
def this_machine() -> Host:
    """Return the facts about this machine that a manifest holds."""
    system = os.uname()
    return Host(
        name=system.nodename,
        system=f"{system.sysname} {system.release}",
        machine=system.machine,
        python=sys.version.split()[0],
        cpus=os.cpu_count() or 1,
    )


def is_alive(process: Process) -> bool:
    """Return whether exactly this process lives (a zombie does not)."""
    return process.boot_id == boot_id() and start_ticks(process.pid) == process.start_ticks


def send(process: Process, number: signal.Signals, *, group: bool = False) -> None:
    """Send a signal to exactly this process, or to the group it leads; nothing happens if it is gone."""
    if not is_alive(process) or process.pid in (0, 1, os.getpid()):
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number) if group else os.kill(process.pid, number)


def holders(lock: Path) -> tuple[Process, ...]:
    """Return the processes that hold the flock of `lock`, inherited descriptors included.

    `/proc/<pid>/fdinfo/<fd>` lists a `lock:` line for every descriptor of the locked open file, so a process that
    has the file open, or locked shared to look at it, is not taken for a holder.
    """
    try:
        wanted = lock.stat()
    except OSError:
        return ()
    found = []
    for pid in _pids():
        if pid != os.getpid() and _holds(PROC / str(pid), wanted):
            process = identify(pid)
            if process is not None:
                found.append(process)
    return tuple(found)


def _pids() -> tuple[int, ...]:
    """Return the pids there are, none where there is no `/proc`."""
    return tuple(int(name) for name in os.listdir(PROC) if name.isdigit()) if PROC.is_dir() else ()


def _holds(process: Path, wanted: os.stat_result) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(process / "fd"):
            with contextlib.suppress(OSError):
                seen = os.stat(f"{process}/fd/{descriptor}")
                if (seen.st_dev, seen.st_ino) != (wanted.st_dev, wanted.st_ino):
                    continue
                if HELD.search((process / "fdinfo" / descriptor).read_bytes()):
                    return True
    return False


def marked(variable: str) -> tuple[Process, ...]:
    """Return the other processes that were started with `NAME=value` in their environment (Linux; else none): those of
    a program that closes what it inherited and begins sessions of its own."""
    wanted, found = os.fsencode(variable), []
    for pid in _pids():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and wanted in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                process = identify(pid)
                if process is not None:
                    found.append(process)
    return tuple(found)


def kill_holders_of_removed(lock: Path) -> None:
    """KILL the groups of processes that have a lock open whose file was removed, and wait until they are gone."""
    name = f"{lock} (deleted)"

    def left() -> list[Process]:
        found = (identify(pid) for pid in _pids() if pid != os.getpid() and _has_open(pid, name))
        return [each for each in found if each is not None]

    deadline = time.monotonic() + KILL_PATIENCE_S
    while (processes := left()) and time.monotonic() < deadline:
        for each in processes:
            send(each, signal.SIGKILL, group=leads_group(each))
        time.sleep(0.01)


def _has_open(pid: int, name: str) -> bool:
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(PROC / str(pid) / "fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"{PROC}/{pid}/fd/{descriptor}") == name:
                    return True
    return False


@frozen
class Target:
    """What must run no more: a worker, the leaders of its stages' groups, whoever holds its lock."""

    worker: Process | None
    leaders: tuple[Process, ...]
    lock: Path
    grace_s: float


def fence(targets: Sequence[Target]) -> None:
    """Make sure that nothing of `targets` runs any more: TERM, grace, KILL.

    The worker is asked first, because it can end its stages and write a true record; when it is dead or deaf, its
    stages are ended directly. Raise LockHeld if something survives KILL.
    """
    for target in targets:
        _signal_target(target, signal.SIGTERM)
    patience_s = max((each.grace_s for each in targets), default=0.0) + RECORD_MARGIN_S
    _until(lambda: not any(_lives(each) for each in targets), patience_s)
    deadline = time.monotonic() + KILL_PATIENCE_S
    while remaining := [each for each in targets if _lives(each)]:
        if time.monotonic() > deadline:
            raise LockHeld(f"{remaining[0].lock}: still held after KILL; a process in uninterruptible sleep?")
        for target in remaining:
            _signal_target(target, signal.SIGKILL)
        time.sleep(0.01)


def _signal_target(target: Target, number: signal.Signals) -> None:
    worker = target.worker if target.worker is not None and is_alive(target.worker) else None
    if worker is not None:
        send(worker, number)
    if worker is None or number == signal.SIGKILL:
        for process in {*target.leaders, *holders(target.lock)}:
            send(process, number, group=leads_group(process))


def leads_group(process: Process) -> bool:
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(process.pid) == process.pid
    return False


def _lives(target: Target) -> bool:
    alive = target.worker is not None and is_alive(target.worker)
    return alive or any(map(is_alive, target.leaders)) or bool(holders(target.lock))


def _until(done: Callable[[], bool], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while not done() and time.monotonic() < deadline:
        time.sleep(0.01)


def wait_any(processes: Iterable[Process], timeout_s: float, wakes: Sequence[int] = ()) -> bool:
    """Return when one of `processes` has ended, one of the descriptors `wakes` can be read, or after `timeout_s`
    seconds: True if a process may have ended."""
    poll, descriptors = select.poll(), []
    for each in wakes:
        poll.register(each, select.POLLIN)
    try:
        for process in processes:
            if (descriptor := _pidfd(process)) is None:
                return True
            if descriptor == NO_PIDFD:
                timeout_s = min(timeout_s, 0.05)
            else:
                descriptors.append(descriptor)
                poll.register(descriptor, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(math.ceil(timeout_s * 1000))]
        return not set(ready) <= set(wakes)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _pidfd(process: Process) -> int | None:
    """Return a descriptor that becomes readable when `process` ends, NO_PIDFD without such, None if it ended."""
    if not hasattr(os, "pidfd_open"):
        return NO_PIDFD if is_alive(process) else None
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return None
    if is_alive(process):
        return descriptor
    os.close(descriptor)
    return None


def descendants(ancestor: int) -> tuple[int, ...]:
    """Return the pids of all living descendants of a process (Linux; elsewhere none can be found)."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        with contextlib.suppress(OSError, ValueError):
            stat = (PROC / str(pid) / "stat").read_bytes()
            state, parent = stat[stat.rindex(b")") + 2 :].split()[:2]
            if state not in (b"Z", b"X"):
                children.setdefault(int(parent), []).append(pid)
    found, ahead = [], list(children.get(ancestor, ()))
    while ahead:
        pid = ahead.pop()
        found.append(pid)
        ahead += children.get(pid, ())
    return tuple(found)


class Chance:
    """What nobody can foresee."""

    def token(self) -> str:
        """Return a secret of 256 bits, safe in an address."""
        return secrets.token_urlsafe(32)

    def nonce(self) -> str:
        """Return 16 hex digits that nobody else has."""
        return os.urandom(8).hex()

    def fraction(self) -> float:
        """Return a number from 0 to below 1."""
        return random.random()  # noqa: S311  spreads retries, keeps no secret


class Processes:
    """The processes of this machine, as a pass sees them."""

    def myself(self) -> Process:
        return myself()

    def is_alive(self, process: Process) -> bool:
        return is_alive(process)

    def holders(self, lock: Path) -> tuple[Process, ...]:
        return holders(lock)

    def fence(self, targets: Sequence[Target]) -> None:
        fence(targets)

    def kill_holders_of_removed(self, lock: Path) -> None:
        kill_holders_of_removed(lock)

    def wait_any(self, processes: Iterable[Process], timeout_s: float) -> None:
        wait_any(processes, timeout_s)


# ------------------------------------------------------------------------------------------------ workers

SERVER = "import sys; sys.path.insert(0, sys.argv[1]); from reconciler.worker import serve; serve(int(sys.argv[2]))"
ANSWER_PATIENCE_S = 20.0


class Workers:
    """Starts workers by forking them from a preloaded server, itself started on demand.

    A fork costs 2 ms where a fresh interpreter costs 40. The server ends when this process does, however that
    happens, because its socket closes; the workers it forked have sessions of their own and go on. Neither they nor
    their stages inherit the environment variables that are `withheld`.
    """

    def __init__(self, withheld: frozenset[str] = frozenset()) -> None:
        self._withheld = withheld
        self._hidden: tuple[bytes, ...] = ()
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._spawned: list[Process] = []

    def withhold(self, names: Iterable[str]) -> None:
        """Let workers that are spawned from now on, and their stages, not inherit these variables either."""
        self._withheld |= frozenset(names)

    def hide(self, secrets: Iterable[bytes]) -> None:
        """Let workers that are started from now on redact these too. They are told over the socket alone."""
        self._hidden = tuple(secrets)

    def prepare(self) -> None:
        """Start the server if it is not there, without waiting for it to be ready."""
        if self._server is not None and self._server.poll() is None:
            return
        self.close()
        ours, theirs = socket.socketpair()
        inherited = worker_environment(os.environ)
        environment = {name: each for name, each in inherited.items() if name not in self._withheld}
        try:
            self._server = start_server(theirs.fileno(), environment)
        except OSError as error:
            ours.close()
            raise SpawnFailed(f"cannot start {sys.executable}: {error.strerror}") from None
        finally:
            theirs.close()
        ours.settimeout(ANSWER_PATIENCE_S)
        self._connection = ours

    def spawn(
        self, directory: Path, number: int, checkout: Path, plan_sha256: str, lease: Leased | None = None
    ) -> Process | None:
        """Start the worker of attempt `number` on the plan with this digest, under the lease of this host if there is
        one; return who it is, None if it is gone already. Raise SpawnFailed."""
        self.prepare()
        assert self._connection is not None
        order = {"directory": str(directory), "number": str(number), "checkout": str(checkout), "plan": plan_sha256}
        order["lease"], order["since_s"] = (str(lease.path), repr(lease.since_s)) if lease else ("", "")
        order["withheld"] = " ".join(sorted(self._withheld))
        order["hidden"] = " ".join(each.hex() for each in self._hidden)
        try:
            self._connection.sendall(json.dumps(order).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                received = self._connection.recv(4096)
                if not received:
                    raise OSError("the server that forks workers has ended")
                answer += received
        except OSError as error:
            self.close()
            raise SpawnFailed(f"{directory}: cannot start a worker: {error}") from None
        worker = identify(json.loads(answer)["pid"])
        if worker is not None:
            self._spawned.append(worker)
        return worker

    def alive(self) -> tuple[Process, ...]:
        """Return the workers started from here that live."""
        self._spawned = [each for each in self._spawned if is_alive(each)]
        return tuple(self._spawned)

    def close(self) -> None:
        """Let the server go; workers stay."""
        if self._connection is not None:
            self._connection.close()
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        self._server = self._connection = None


def start_server(descriptor: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the process that forks a worker for every order that arrives on this descriptor. Raise OSError."""
    package = str(Path(__file__).resolve().parent.parent)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", SERVER, package, str(descriptor)],
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        start_new_session=True,
    )


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what workers and stages inherit: everything but `GIT_*`, which would point them at another
    repository or index, and `RECONCILER_*`: our own credentials, and what an outer run says of itself."""
    return {name: value for name, value in environment.items() if not name.startswith(("GIT_", "RECONCILER_"))}
