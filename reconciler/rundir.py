"""The edge to `.runs/`: the live records of runs on this machine.

    .runs/<task>/cli/<run-id>/
      plan.json           frozen plan            written once by apply, before the first claim
      plans/<n>.json      refreshed plan         written once by the verb `resume`, before claim n
      claims/<n>.json     intent of attempt n    written once by apply, holding the lock
      attempts/<n>.json   attempt n as it went   written by the worker of attempt n only
      cancels/<n>.json    attempt n shall end    written once by apply
      ends/<n>.json       ended without a worker written once by apply, holding the lock
      refusals/<n>.json   a refused resume       written once by the verb `resume`
      lock                flock, held by a worker for life and inherited by its stages
      .heartbeat          written by the worker that holds the lock
      .resume-token       mode 0600, written once by apply
      manifest.json       a view for people while the run is not yet evidence, written by the worker
      commands/*.log      output, redacted, written by the worker

Numbers are attempt numbers from 1. A claim is only ever made while holding the lock, and a worker that gets the
lock looks for a newer claim before it does anything: so however late a worker starts, one attempt runs at a time.
A mark `<git directory>/reconciler/live/<run-id>` says that a run is not finished with; it is made before the first
claim and moved to `done/` when the tip proves the run, so a pass looks at what is under way and not at all that ever
was. The mark also holds the SHA-256 of every frozen plan: `.runs/` lies in the checkout, where a branch that somebody
else wrote can put files of its own, and what is executed must be what was frozen here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from reconciler import codec, process
from reconciler.errors import LockHeld
from reconciler.model import (
    Attempt,
    CancelIntent,
    Claim,
    End,
    Heartbeat,
    Instant,
    Name,
    Plan,
    Problem,
    Run,
    RunId,
    TaskId,
)

T = TypeVar("T")

RECORD_BYTES_MAX = 8 * 1024 * 1024
"""No record is larger: a plan holds at most 200 stages of 64 KiB command each, in practice a few KiB."""

ID_CHARACTERS_MAX = 100
MARK_BYTES_MAX = 64 * 1024
"""A task id and a line for every plan that was frozen for a run."""

CLAIM_PATIENCE_S = 0.2
"""How long a claimer waits for the lock: somebody who merely looks holds it, shared, for microseconds."""

ATTEMPTS_HELD_MAX = 10_000
"""A run with more claims than this is not read further; no setting allows as many."""


# ------------------------------------------------------------------------------------------------ files


def write_atomic(path: Path, data: bytes, *, sync: bool = True, mode: int = 0o644) -> None:
    """Replace `path` by `data`, whole or not at all, also when the machine loses power."""
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_synced(staging, data, sync, mode)
        clear_directory(path)
        os.replace(staging, path)
    except OSError:
        with contextlib.suppress(OSError):
            staging.unlink()
        raise
    if sync:
        sync_directory(path.parent)


def clear_directory(path: Path) -> None:
    """Move a directory that stands where a file belongs out of the way, keeping it."""
    if path.is_dir() and not path.is_symlink():
        names = (path.with_name(f"{path.name}.directory-{number}") for number in itertools.count(1))
        os.replace(path, next(each for each in names if not each.exists()))


def write_new(path: Path, data: bytes, *, mode: int = 0o644) -> bool:
    """Create `path` with `data` and return True; return False, touching nothing, if it exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write_synced(staging, data, True, mode)
        os.link(staging, path)
    except FileExistsError:
        return False
    finally:
        staging.unlink(missing_ok=True)
    sync_directory(path.parent)
    return True


def _write_synced(path: Path, data: bytes, sync: bool, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with open(descriptor, "wb", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) or 0 :]
        if sync:
            os.fsync(descriptor)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, bytes_max: int = RECORD_BYTES_MAX) -> bytes | None:
    """Return the bytes of a regular file, None if there is none. Raise CodecError if it is larger or no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise codec.CodecError(str(error.strerror)) from None
    try:
        data = _read_up_to(descriptor, bytes_max + 1)
    except OSError as error:
        raise codec.CodecError(str(error.strerror)) from None
    finally:
        os.close(descriptor)
    if len(data) > bytes_max:
        raise codec.CodecError(f"larger than {bytes_max} bytes")
    return data


def _read_up_to(descriptor: int, bytes_max: int) -> bytes:
    parts, left = [], bytes_max
    while left and (part := os.read(descriptor, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def read_record(kind: type[T], path: Path) -> T | None:
    """Return the record in `path`, None if there is none. Raise CodecError if it cannot be read."""
    data = read_bounded(path)
    return None if data is None else codec.parse(kind, data)


# ------------------------------------------------------------------------------------------------ one run


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The live records of one run. `path` is absolute."""

    path: Path

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def heartbeat(self) -> Path:
        return self.path / ".heartbeat"

    @property
    def token(self) -> Path:
        return self.path / ".resume-token"

    @property
    def workspace(self) -> Path:
        return self.path / "workspace"

    def record(self, family: str, number: int) -> Path:
        return self.path / family / f"{number}.json"

    def numbers(self, family: str) -> tuple[int, ...]:
        """Return the numbers of the records in `family`, ascending."""
        names = (name[:-5] for name in _names(self.path / family) if name.endswith(".json"))
        return tuple(sorted(int(name) for name in names if _is_number(name))[-ATTEMPTS_HELD_MAX:])

    def newest(self) -> int:
        """Return the number of the newest claim, 0 if there is none. A claim in quarantine keeps its number."""
        kept = (name.split(".")[0][7:] for name in _names(self.path / "quarantine") if name.startswith("claims-"))
        quarantined = max((int(number) for number in kept if _is_number(number)), default=0)
        return max(quarantined, *(max(self.numbers(each), default=0) for each in ("claims", "attempts")))

    @staticmethod
    def name_of(file: str) -> str:
        """Return the name a plan file goes by in the mark."""
        return file.rpartition("/")[2]

    def plan_path(self, claim: Claim | None) -> Path:
        """Return where the plan of a claimed attempt is frozen."""
        return self.path / (claim.plan if claim else "plan.json")

    def plan(self, claim: Claim | None) -> Plan | None:
        return read_record(Plan, self.plan_path(claim))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_frozen(directory: RunDirectory, claim: Claim | None, sha256: str) -> Plan | None:
    """Return the plan of an attempt, None if there is none. Raise CodecError if it is not the one with this digest."""
    data = read_bounded(directory.plan_path(claim))
    if data is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise codec.CodecError("it is not the plan that was frozen here")
    return None if data is None else codec.parse(Plan, data)


def set_aside(directory: RunDirectory) -> None:
    """Move a run directory that this machine did not make out of the way, keeping it. Raise LockHeld if it lives."""
    if lock_is_held(directory):
        raise LockHeld(f"{directory.lock}: held by an attempt that is not known here")
    names = (directory.path.with_name(f"{directory.path.name}.untrusted-{each}") for each in itertools.count(1))
    os.replace(directory.path, next(each for each in names if not each.exists()))


def read_all(directory: RunDirectory, family: str, kind: type[T]) -> dict[int, T]:
    """Return every readable record of a family by number; one that cannot be read is left out."""
    found = {}
    for number in directory.numbers(family):
        with contextlib.suppress(codec.CodecError):
            record = read_record(kind, directory.record(family, number))
            if record is not None:
                found[number] = record
    return found


def next_number(directory: RunDirectory, family: str) -> int:
    return max(directory.numbers(family), default=0) + 1


# ------------------------------------------------------------------------------------------------ the lock


def lock_is_held(directory: RunDirectory) -> bool:
    """Return whether anything of the run's current attempt lives, as the kernel says."""
    try:
        descriptor = os.open(directory.lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def take_lock(directory: RunDirectory) -> int | None:
    """Take the exclusive lock and return its descriptor, None if somebody has it now."""
    clear_directory(directory.lock)
    descriptor = os.open(directory.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def holding(directory: RunDirectory) -> Iterator[None]:
    """Hold the lock of a run. Raise LockHeld if an attempt of it lives."""
    deadline = time.monotonic() + CLAIM_PATIENCE_S
    while (descriptor := take_lock(directory)) is None and time.monotonic() < deadline:
        time.sleep(0.002)
    if descriptor is None:
        raise LockHeld(f"{directory.lock}: an attempt of this run is alive")
    try:
        yield
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------ all runs


@dataclass(frozen=True, slots=True)
class Runs:
    """All runs of a repository on this machine: `root` is `<checkout>/.runs`, `state` is where marks live."""

    root: Path
    state: Path

    def directory(self, task_id: str, run_id: str) -> RunDirectory:
        return RunDirectory(self.root / task_id / "cli" / run_id)

    def marked(self) -> tuple[tuple[TaskId, RunId], ...]:
        """Return the runs that are not finished with, in the order of their ids."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for entry in sorted(os.scandir(self.state / "live"), key=lambda each: each.name):
                if not entry.name.startswith(".") and (task := self._marked_task(entry)):
                    found.append((task, RunId(entry.name)))
        return tuple(found)

    def _marked_task(self, entry: os.DirEntry[str]) -> TaskId | None:
        """Return the task a mark names; where the mark is damaged, the task that has a directory for the run."""
        with contextlib.suppress(codec.CodecError, UnicodeDecodeError):
            text = (read_bounded(Path(entry.path), MARK_BYTES_MAX) or b"").decode("ascii").partition("\n")[0]
            if 0 < len(text) <= ID_CHARACTERS_MAX and self.directory(text, entry.name).path.is_dir():
                return TaskId(text)
        candidates = sorted(self.root.glob(f"*/cli/{entry.name}"))
        return TaskId(candidates[0].parent.parent.name) if candidates else None

    def mark(self, task_id: str, run_id: str, plan: str = "", data: bytes = b"") -> None:
        """Remember that a run is under way, before anything of it exists, and the digest of a plan once frozen."""
        digests = self.plan_digests(run_id) | ({plan: hashlib.sha256(data).hexdigest()} if plan else {})
        lines = [task_id, *(f"{file} {digest}" for file, digest in digests.items())]
        (self.state / "live").mkdir(parents=True, exist_ok=True)
        write_atomic(self.state / "live" / run_id, "".join(f"{line}\n" for line in lines).encode(), sync=not plan)

    def is_marked(self, run_id: str) -> bool:
        return (self.state / "live" / run_id).exists()

    def is_ours(self, run_id: str) -> bool:
        """Return whether this machine ever executed a run: only then are its records to be believed."""
        return self.is_marked(run_id) or (self.state / "done" / run_id).exists()

    def unmark(self, run_id: str) -> None:
        """Remember that a run is finished with."""
        (self.state / "done").mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.state / "live" / run_id, self.state / "done" / run_id)

    def plan_digests(self, run_id: str) -> dict[str, str]:
        """Return plan file -> SHA-256 as it was frozen; none where the mark is lost or damaged."""
        for family in ("live", "done"):
            with contextlib.suppress(codec.CodecError, UnicodeDecodeError):
                data = read_bounded(self.state / family / run_id, MARK_BYTES_MAX)
                if data is not None:
                    words = [line.split(" ") for line in data.decode("ascii").splitlines()[1:]]
                    return {each[0]: each[1] for each in words if len(each) == 2}
        return {}

    def frozen_plan(self, task_id: str, run_id: str, claim: Claim | None) -> Plan | None:
        """Return the plan of a claimed attempt, None if there is none. Raise CodecError if it is not the frozen one."""
        directory = self.directory(task_id, run_id)
        return read_frozen(directory, claim, self.plan_digests(run_id).get(directory.plan_path(claim).name, ""))

    def observe(self, task_id: TaskId, run_id: RunId) -> Run | None:
        """Return the run as it is now, None if nothing of it was ever claimed here."""
        directory = self.directory(task_id, run_id)
        number = directory.newest()
        return _observe(self, task_id, run_id, number) if number else None


def _observe(runs: Runs, task_id: TaskId, run_id: RunId, number: int) -> Run:
    directory = runs.directory(task_id, run_id)
    # The lock is looked at before the records: a worker writes its end first and lets go of the lock after, so a
    # lock seen free means that the record read next is final.
    held = lock_is_held(directory)
    corrupt: list[Problem] = []

    def read(kind: type[T], path: Path) -> T | None:
        try:
            return read_record(kind, path)
        except codec.CodecError as error:
            corrupt.append(_corrupt(directory, path, str(error)))
            return None

    claim = read(Claim, directory.record("claims", number))
    plan = None
    try:
        plan = runs.frozen_plan(task_id, run_id, claim)
    except codec.CodecError as error:
        corrupt.append(_corrupt(directory, directory.plan_path(claim), str(error)))
    attempt = read(Attempt, directory.record("attempts", number))
    return Run(
        run_id=run_id,
        task_id=task_id,
        name=name_of_run(run_id),
        attempts_max=plan.attempts_max if plan else 1,
        heartbeat=plan.heartbeat if plan else Heartbeat(),
        number=number,
        claim=claim,
        attempt=attempt,
        beat=read_beat(directory),
        lock_held=held,
        claimer_alive=claim is not None and process.is_alive(claim.claimer),
        worker_alive=attempt is not None and process.is_alive(attempt.worker),
        planned=plan is not None,
        cancel=read(CancelIntent, directory.record("cancels", number)),
        end=read(End, directory.record("ends", number)),
        corrupt=tuple(corrupt),
    )


def name_of_run(run_id: str) -> Name:
    """Return the request's name in `<name>-<8 hex>`: known even where the plan is lost."""
    return Name(run_id[:-9])


def read_beat(directory: RunDirectory) -> Instant | None:
    """Return the newest heartbeat; a damaged one counts as none, because the next one replaces it."""
    with contextlib.suppress(codec.CodecError):
        return read_record(Instant, directory.heartbeat)
    return None


def _corrupt(directory: RunDirectory, path: Path, reason: str) -> Problem:
    name = path.relative_to(directory.path).as_posix()
    return Problem(
        path=f".runs/{directory.path.parent.parent.name}/cli/{directory.path.name}/{name}",
        pointer=name,
        reason=f"this record cannot be read: {reason}",
        cure="it is moved to quarantine/ beside it and kept",
        rule="record-corrupt",
    )


def quarantine(directory: RunDirectory, name: str) -> Path:
    """Move a record out of the way into `quarantine/`, keeping every earlier one, and return where it is."""
    kept = directory.path / "quarantine"
    kept.mkdir(exist_ok=True)
    flat = name.replace("/", "-")
    target = next(each for each in (kept / f"{flat}.{number}" for number in itertools.count(1)) if not each.exists())
    os.replace(directory.path / name, target)
    sync_directory(kept)
    return target


def remove_tree(path: Path) -> None:
    """Remove a directory, also where a stage has taken the right to write away; nothing happens if there is none."""

    def allow_and_retry(_: object, name: str, __: object) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(name), 0o700)
            os.chmod(name, 0o700)
            os.rmdir(name) if os.path.isdir(name) else os.unlink(name)

    if path.is_dir():
        shutil.rmtree(path, onerror=allow_and_retry)
        shutil.rmtree(path, ignore_errors=True)
