"""The engine `process`: attempts as processes of this machine, which outlive the reconciler that started them.

Files of a handle, in a directory of the host's own that nobody else may read:

    <handle>.json    what was placed, written before anything is started, and again when it is known who executes it
    <handle>.lock    held by the process from the instant it is forked, and by what it forks: so the kernel says whether
                     it lives, also where the host was killed before it could write down whom it had started
    <handle>.began   written by the process itself before it becomes the program: without it, and with the lock free,
                     nothing was ever executed, and it may be started (again)
    <handle>.log     what it prints
    <handle>.<NAME>  a secret that may change, as it is now; the attempt removes it when it needs it no more, and the
                     next look if it did not live to do that

Whoever was told to end and does not is ended by force by the next look (`observe`) after its grace.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import field, replace
from pathlib import Path

from reconciler import codec, git, process
from reconciler.confided import is_ours
from reconciler.disk import DISK
from reconciler.executors.engine import FILE_SUFFIX, EngineSilent, Opening, Sighting, Standing, Submission, Turned
from reconciler.model import Instant, Process
from reconciler.values import frozen
from reconciler.work import HANDLE

PROGRAM = (sys.executable, "-P", "-m", "reconciler.executors.courier")
SHELL = "/bin/sh"
BEGIN = 'echo $$ >"$0" && exec "$@"'
"""Executed by the process: it says that it begins, and becomes the program. All that others wrote are arguments."""
SCRATCH = "scratch"
NAME = re.compile(r"[A-Z][A-Z0-9_]{0,99}")
"""The name of a secret that may change: an end of a file's name, and no other one of ours."""
SECRET_FILE = re.compile(rf"\.?(?P<handle>{HANDLE.pattern})\.(?P<name>{NAME.pattern})(\.[0-9]+\.tmp)?")
"""The file of such a secret, or what is left of one by who was killed while he wrote it."""
KEPT_MAX = 2000
"""Of so many handles it is known what became of them; those that ended longest ago are forgotten first."""
SECRETS_S = 7 * 86_400.0
"""How long the secrets of what has ended are kept: nobody comes later than that to read what it said."""
FORCE_MARGIN_S = 1.0
"""What a process gets beyond its grace."""
ALL_MARGIN_S = 10.0
"""How long after that what it started may take to be gone, before that is ended by force as well."""
DETAIL_UNKNOWN = "it ended while no reconciler was there to see how"


_CHILDREN: dict[Path, subprocess.Popen[bytes]] = {}
"""Whom this process started, by the path of their record: only their parent can be told what they exited with."""
ABSENT = Sighting(standing=Standing.ABSENT)


@frozen
class Options:
    """What the settings say: the program with its first arguments, where attempts work, how many at once, and which
    variables of this process are not for them."""

    program: tuple[str, ...] = PROGRAM
    scratch: str = ""
    processes_max: int | None = None
    withheld: tuple[str, ...] = ()


@frozen
class Placed:
    """`<handle>.json`. `process` is who executes it, None until that is known; `told` is when it was told to end,
    `status` what it exited with, negative for a signal. The secrets are kept for a while when it has ended, for who
    comes late to read its last word. `place` is the directory as the host that wrote this saw it (`Disk.identity`): in
    a copy of it the record names a process that is not of the copy."""

    handle: str
    repository: str
    grace_s: float
    secrets: Mapping[str, str] = field(default_factory=dict)
    process: Process | None = None
    told: Instant | None = None
    status: int | None = None
    place: str = ""


def open_engine(opening: Opening) -> LocalProcess:
    """Return the engine of an executor with these options."""
    given = opening.options
    options = Options(
        program=tuple(given.get("program", PROGRAM)),
        scratch=given.get("scratch", ""),
        processes_max=given.get("processes_max"),
        withheld=opening.withheld,
    )
    return LocalProcess(opening.directory, options)


class LocalProcess:
    """Processes of this machine, known by files in a directory."""

    def __init__(self, directory: Path, options: Options) -> None:
        self._directory, self._options = directory, options

    # -------------------------------------------------------------------------------------------- what an engine does

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Turned]:
        """Start attempts; return by handle those that were not taken."""
        turned = {}
        with self._asking():
            DISK.make_directory(self._directory)
            self._directory.chmod(0o700)
            self._forget()
            self._sweep()
            free = self._free()
            for each in submissions:
                if (problem := _problem_of(each)) is not None:
                    turned[each.handle] = Turned(reason=problem, settled=True)
                elif (lock := DISK.take_lock(self._path(each.handle, "lock"))) is not None:
                    try:
                        if not self._is_known(each.handle) and (no := self._start(each, lock, free)) is not None:
                            turned[each.handle] = no
                    finally:
                        DISK.let_go(lock)
                    free = self._free()
        return turned

    def observe(self, handles: Collection[str]) -> Mapping[str, Sighting]:
        """Return what is known of these handles; end by force what was told to end and is over its grace."""
        with self._asking():
            self._reap()
            self._sweep()
            there = frozenset(self._handles())
            return {each: self._sighting(each) if each in there else ABSENT for each in handles}

    def cancel(self, handles: Collection[str]) -> None:
        """Tell these to end."""
        with self._asking():
            there = frozenset(self._handles())
            for handle in there.intersection(handles):
                placed = self._read(handle)
                if placed is not None and self._lives(placed):
                    if placed.told is None:
                        self._write(replace(placed, told=process.instant()))
                    for each in self._leaders(placed):
                        process.send(each, signal.SIGTERM, group=process.leads_group(each))

    def adopt(self, repository: str) -> Mapping[str, Mapping[str, str]]:
        """Return what there is of a repository, with its secrets."""
        with self._asking():
            self._sweep()
            found = filter(None, map(self._read, self._handles()))
            mine = (each for each in found if each.repository == repository)
            return {each.handle: each.secrets for each in mine if self._lives(each) or self._is_known(each.handle)}

    def logs(self, handle: str, bytes_max: int) -> bytes:
        """Return the end of what a process has printed."""
        with self._asking():
            known = handle in self._handles()
            found = DISK.look(self._path(handle, "log")) if known else None
            if found is None or found.is_directory or bytes_max <= 0:
                return b""
            return DISK.read(self._path(handle, "log"), bytes_max, max(0, found.bytes - bytes_max))

    def renew(self, secrets: Mapping[str, Mapping[str, str]]) -> Collection[str]:
        """Write anew the secrets of attempts that live, as far as they have them."""
        with self._asking():
            self._sweep()
            there = self._secret_files().keys()
            for handle, wanted in secrets.items():
                known = {name: each for name, each in wanted.items() if self._path(handle, name).name in there}
                self._write_secrets(handle, known)
            return secrets.keys()

    # -------------------------------------------------------------------------------------------- starting

    def _free(self) -> int | None:
        """Return how many more processes there may be, None for any number."""
        if self._options.processes_max is None:
            return None
        living = sum(self._is_held(each) for each in self._handles())
        return max(0, self._options.processes_max - living)

    def _is_known(self, handle: str) -> bool:
        """Return whether an attempt whose lock is free was started before."""
        placed = self._read(handle)
        if placed is None:
            return False
        alive = placed.process is not None and process.is_alive(placed.process)
        return alive or placed.status is not None or DISK.exists(self._path(handle, "began"))

    def _start(self, each: Submission, lock: int, free: int | None) -> Turned | None:
        """Start an attempt whose lock is held here; return why not."""
        if free == 0:
            most = self._options.processes_max
            return Turned(reason=f"{most} of {most} processes are running; one of them has to end first")
        placed = Placed(
            handle=each.handle,
            repository=each.repository,
            grace_s=each.grace_s,
            secrets=dict(each.secrets),
        )
        self._write(placed)
        self._write_secrets(each.handle, each.renewed)
        try:
            started = self._spawn(each, lock)
        except OSError as error:
            for name in each.renewed:
                DISK.unlink(self._path(each.handle, name))
            DISK.unlink(self._path(each.handle, "json"))
            return Turned(reason=f"{SHELL}: cannot be started: {error.strerror}")
        _CHILDREN[self._path(each.handle, "json")] = started
        self._write(replace(placed, process=process.identify(started.pid)))
        return None

    def _spawn(self, each: Submission, lock: int) -> subprocess.Popen[bytes]:
        scratch = self._options.scratch or str(self._directory / SCRATCH)
        words = (*self._options.program, *each.arguments)
        ours = ("--scratch", scratch) if self._options.scratch or self._options.program == PROGRAM else ()
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        log = os.open(self._path(each.handle, "log"), flags, 0o600)
        try:
            return subprocess.Popen(
                (SHELL, "-c", BEGIN, str(self._path(each.handle, "began")), *words, *ours),
                cwd="/",
                env={**_environment(self._options.withheld), **each.secrets, **self._places(each)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock,),
                start_new_session=True,
            )
        finally:
            os.close(log)

    # -------------------------------------------------------------------------------------------- looking

    def _sighting(self, handle: str) -> Sighting:
        placed = self._read(handle)
        if placed is None:
            return ABSENT
        if self._lives(placed):
            self._insist(placed)
            return Sighting(standing=Standing.RUNNING, place=os.uname().nodename)
        if not self._is_known(handle):
            return Sighting(standing=Standing.ABSENT, detail="it was never started")
        return Sighting(standing=Standing.ENDED, detail=_detail(placed.status), place=os.uname().nodename)

    def _lives(self, placed: Placed) -> bool:
        return self._is_held(placed.handle) or (placed.process is not None and process.is_alive(placed.process))

    def _is_held(self, handle: str) -> bool:
        return DISK.lock_is_held(self._path(handle, "lock"))

    def _leaders(self, placed: Placed) -> tuple[Process, ...]:
        """Return who is told to end: the process itself, and where nobody wrote down who that is, whoever holds its
        lock and leads a session."""
        if placed.process is not None:
            return (placed.process,)
        return tuple(each for each in self._holders(placed) if process.leads_group(each))

    def _holders(self, placed: Placed) -> tuple[Process, ...]:
        return process.holders(self._path(placed.handle, "lock"))

    def _insist(self, placed: Placed) -> None:
        """KILL what does not end although it was told to. What a process started gets time to end by itself, for that
        is who cleans up behind it."""
        if placed.told is None:
            return
        now, told = process.instant(), placed.told
        over_s = now.monotonic_s - told.monotonic_s - placed.grace_s if now.boot_id == told.boot_id else float("inf")
        if over_s < FORCE_MARGIN_S:
            return
        targets = self._holders(placed) if over_s >= ALL_MARGIN_S else self._leaders(placed)
        for each in targets:
            process.send(each, signal.SIGKILL, group=process.leads_group(each))

    def _reap(self) -> None:
        """Write down what those of our children exited with that have ended."""
        for path, child in list(_CHILDREN.items()):
            status = child.poll() if path.parent == self._directory else None
            if status is not None:
                del _CHILDREN[path]
                placed = self._read(path.stem)
                if placed is not None:
                    self._write(replace(placed, status=status))

    # -------------------------------------------------------------------------------------------- files

    def _path(self, handle: str, suffix: str) -> Path:
        return self._directory / f"{handle}.{suffix}"

    def _handles(self) -> list[str]:
        """Return the handles of which there is a record. Raise OSError if the directory cannot be read."""
        names = os.listdir(self._directory) if DISK.exists(self._directory) else []
        return [each[:-5] for each in names if each.endswith(".json") and HANDLE.fullmatch(each[:-5])]

    def _read(self, handle: str) -> Placed | None:
        """Return what is known of a handle; a damaged record is that of nothing that could be ended, so it counts only
        while something lives."""
        try:
            data = DISK.read_bounded(self._path(handle, "json"))
            placed = None if data is None else codec.parse(Placed, data)
        except codec.CodecError:
            return Placed(handle=handle, repository="", grace_s=0.0)
        if placed is not None and placed.place not in ("", DISK.identity(self._directory)):
            return replace(placed, process=None, told=None)
        return placed

    def _write(self, placed: Placed) -> None:
        placed = replace(placed, place=DISK.identity(self._directory))
        DISK.write_atomic(self._path(placed.handle, "json"), codec.compact(placed), mode=0o600)

    def _write_secrets(self, handle: str, secrets: Mapping[str, str]) -> None:
        for name, value in secrets.items():
            DISK.write_atomic(self._path(handle, name), value.encode(), mode=0o600)

    def _secret_files(self) -> dict[str, tuple[str, str]]:
        """Return the files that hold secrets, each with handle and name; also those that somebody began to write."""
        names = os.listdir(self._directory) if DISK.exists(self._directory) else []
        found = {each: SECRET_FILE.fullmatch(each) for each in names}
        return {each: (said["handle"], said["name"]) for each, said in found.items() if said is not None}

    def _sweep(self) -> None:
        """Remove the secrets of attempts that do not live."""
        for file, (handle, _) in self._secret_files().items():
            placed = self._read(handle)
            if not self._is_held(handle) and (placed is None or not self._lives(placed)):
                DISK.unlink(self._directory / file)

    def _places(self, submission: Submission) -> dict[str, str]:
        """Return the variables that say where secrets are that may change."""
        return {f"{name}{FILE_SUFFIX}": str(self._path(submission.handle, name)) for name in submission.renewed}

    def _forget(self) -> None:
        """Forget those that ended longest ago, when there are too many, and the secrets of all that ended long ago."""
        handles = self._handles()
        changed = {each: seen.changed_ns for each in handles if (seen := DISK.look(self._path(each, "json")))}
        for handle in [each for each, at_ns in changed.items() if time.time() - at_ns / 1e9 > SECRETS_S]:
            placed = self._read(handle)
            if placed is not None and placed.secrets and not self._lives(placed):
                self._write(replace(placed, secrets={}))
        ended = [each for each in sorted(changed, key=changed.__getitem__) if not self._is_held(each)]
        for handle in ended[: max(0, len(handles) - KEPT_MAX)]:
            for suffix in ("log", "began", "json", "lock"):
                DISK.unlink(self._path(handle, suffix))

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        """Raise EngineSilent where files cannot be read or written."""
        try:
            yield
        except OSError as error:
            raise EngineSilent(f"{error.filename or self._directory}: {error.strerror}") from None


def _problem_of(submission: Submission) -> str | None:
    """Return why a submission can never be started."""
    if not HANDLE.fullmatch(submission.handle):
        return f"'{submission.handle}' is no handle"
    if not all(map(NAME.fullmatch, submission.renewed)):
        return "a secret of it has a name that no environment variable has"
    said = (*submission.arguments, *submission.secrets, *submission.secrets.values())
    return "its arguments or secrets hold a NUL, which no program can be given" if "\0" in "".join(said) else None


def _environment(withheld: Collection[str]) -> dict[str, str]:
    """Return what a courier inherits: what a worker here does and how to reach repositories, without what the broker
    reads or has handed out."""
    reaching = {name: value for name, value in os.environ.items() if git.KEPT_VARIABLES.fullmatch(name)}
    inherited = {**process.worker_environment(os.environ), **reaching}
    return {name: value for name, value in inherited.items() if name not in withheld and not is_ours(name, value)}


def _detail(status: int | None) -> str:
    if status is None:
        return DETAIL_UNKNOWN
    return f"signal {-status}" if status < 0 else f"exit status {status}"
