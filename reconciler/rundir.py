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
      events.jsonl        what happened, by whoever holds the lock (`journal`)
      home/               mode 0700, made by the worker for stages in a sandbox, who write it

Numbers are attempt numbers from 1. A claim is only ever made while holding the lock, and a worker that gets the
lock looks for a newer claim before it does anything: so however late a worker starts, one attempt runs at a time.
A mark `<git directory>/reconciler/live/<run-id>` says that a run is not finished with; it is made before the first
claim and moved to `done/` when the tip proves the run, so a pass looks at what is under way and not at all that ever
was. The mark also holds the SHA-256 of every frozen plan: `.runs/` lies in the checkout, where a branch that somebody
else wrote can put files of its own, and what is executed must be what was frozen here.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import field
from pathlib import Path
from typing import TypeVar

from reconciler import codec, process
from reconciler.disk import DISK, Disk
from reconciler.errors import LockHeld
from reconciler.model import (
    Attempt,
    CancelIntent,
    Claim,
    End,
    Heartbeat,
    Instant,
    Plan,
    Problem,
    Process,
    Run,
    RunId,
    TaskId,
    name_of_run,
)
from reconciler.places import Where
from reconciler.values import frozen

T = TypeVar("T")

TASK_ID = re.compile(r"[a-z0-9](\.?[a-z0-9_-]){0,99}")
MARK_BYTES_MAX = 64 * 1024
"""A task id and a line for every plan that was frozen for a run."""

CLAIM_PATIENCE_S = 0.2
"""How long a claimer waits for the lock: somebody who merely looks holds it, shared, for microseconds."""

ATTEMPTS_HELD_MAX = 10_000
"""A run with more claims than this is not read further; no setting allows as many."""


DIRECTORIES_KNOWN_MAX = 5_000
"""So many run directories are named once and not again."""


# ------------------------------------------------------------------------------------------------ one run


@frozen(kw_only=False)
class RunDirectory:
    """The live records of one run. `path` is absolute. What is only read is named by text: every pass reads a dozen
    records of every run that is under way, and to make a Path of each name takes as long as to read it."""

    path: Path
    disk: Disk = DISK

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

    @property
    def home(self) -> Path:
        """The home of the stages that run in a sandbox."""
        return self.path / "home"

    def record(self, family: str, number: int) -> Path:
        return self.path / f"{family}/{number}.json"

    def place(self, name: str) -> str:
        return f"{self.path}/{name}"

    def numbers(self, family: str) -> tuple[int, ...]:
        """Return the numbers of the records in `family`, ascending."""
        names = [name[:-5] for name in self.disk.names(self.place(family)) if name.endswith(".json")]
        return tuple(sorted([int(name) for name in names if _is_number(name)])[-ATTEMPTS_HELD_MAX:])

    def newest(self) -> int:
        """Return the number of the newest claim, 0 if there is none. A claim in quarantine keeps its number."""
        names = self.disk.names(self.place("quarantine"))
        kept = (name.split(".")[0][7:] for name in names if name.startswith("claims-"))
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
        return self.read(Plan, self.plan_path(claim))

    def read(self, kind: type[T], path: Path | str) -> T | None:
        """Return the record in `path`, None if there is none. Raise CodecError if it cannot be read."""
        data = self.disk.read_bounded(path)
        return None if data is None else codec.parse(kind, data)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


def read_frozen(directory: RunDirectory, claim: Claim | None, sha256: str) -> Plan | None:
    """Return the plan of an attempt, None if there is none. Raise CodecError if it is not the one with this digest."""
    data = directory.disk.read_bounded(directory.place(claim.plan if claim else "plan.json"))
    if data is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise codec.CodecError("it is not the plan that was frozen here")
    return None if data is None else codec.parse(Plan, data)


def set_aside(directory: RunDirectory, why: str) -> None:
    """Move a run directory whose records do not count out of the way, keeping it as `<run-id>.<why>-<n>`. Raise
    LockHeld if something of it lives."""
    disk = directory.disk
    if disk.lock_is_held(directory.lock):
        raise LockHeld(f"{directory.lock}: held by an attempt that is not known here")
    names = (directory.path.with_name(f"{directory.path.name}.{why}-{each}") for each in itertools.count(1))
    disk.replace(directory.path, next(each for each in names if not disk.exists(each)))
    disk.sync_directory(directory.path.parent)


def read_all(directory: RunDirectory, family: str, kind: type[T]) -> dict[int, T]:
    """Return every readable record of a family by number; one that cannot be read is left out."""
    found = {}
    for number in directory.numbers(family):
        with contextlib.suppress(codec.CodecError):
            record = directory.read(kind, directory.place(f"{family}/{number}.json"))
            if record is not None:
                found[number] = record
    return found


def next_number(directory: RunDirectory, family: str) -> int:
    return max(directory.numbers(family), default=0) + 1


# ------------------------------------------------------------------------------------------------ the lock


def take_lock(directory: RunDirectory) -> int | None:
    """Take the exclusive lock and return its handle, None if somebody has it now."""
    directory.disk.clear_directory(directory.lock)
    return directory.disk.take_lock(directory.lock)


@contextlib.contextmanager
def holding(directory: RunDirectory) -> Iterator[None]:
    """Hold the lock of a run. Raise LockHeld if an attempt of it lives."""
    handle = directory.disk.wait_for(lambda: take_lock(directory), CLAIM_PATIENCE_S)
    if handle is None:
        raise LockHeld(f"{directory.lock}: an attempt of this run is alive")
    try:
        yield
    finally:
        directory.disk.let_go(handle)


# ------------------------------------------------------------------------------------------------ all runs


@frozen(kw_only=False)
class Runs:
    """All runs of a repository on this machine: `root` is `<checkout>/.runs`, `state` is where marks live."""

    root: Path
    state: Path
    disk: Disk = DISK
    is_alive: Callable[[Process], bool] = process.is_alive
    known: dict[tuple[str, str], RunDirectory] = field(default_factory=dict, compare=False, repr=False)

    def directory(self, task_id: str, run_id: str) -> RunDirectory:
        found = self.known.get((task_id, run_id))
        if found is None:
            if len(self.known) >= DIRECTORIES_KNOWN_MAX:
                self.known.clear()
            found = RunDirectory(self.root / task_id / f"cli/{run_id}", self.disk)
            self.known[task_id, run_id] = found
        return found

    def marks(self) -> dict[RunId, TaskId | None]:
        """Return the runs that are not finished with, in the order of their ids, and the task of each: None where the
        mark is damaged and nothing is there of its run."""
        names = sorted(name for name in self.disk.names(f"{self.state}/live") if not name.startswith("."))
        return {RunId(name): self._marked_task(name) for name in names}

    def _marked_task(self, name: str) -> TaskId | None:
        """Return the task a mark names; where the mark is damaged, or nothing is there of what it names, the task that
        has a directory for the run."""
        said = None
        with contextlib.suppress(codec.CodecError, UnicodeDecodeError):
            data = self.disk.read_bounded(f"{self.state}/live/{name}", MARK_BYTES_MAX)
            text = (data or b"").decode("ascii").partition("\n")[0]
            if TASK_ID.fullmatch(text):
                said = TaskId(text)
                if self.disk.exists(self.directory(text, name).path):
                    return said
        tasks = sorted(self.disk.names(self.root))
        return next((TaskId(each) for each in tasks if self.disk.exists(self.directory(each, name).path)), said)

    def mark(self, task_id: str, run_id: str, plan: str = "", data: bytes = b"") -> None:
        """Remember that a run is under way, before anything of it exists, and the digest of a plan once frozen."""
        digests = self.plan_digests(run_id) | ({plan: hashlib.sha256(data).hexdigest()} if plan else {})
        lines = [task_id, *(f"{file} {digest}" for file, digest in digests.items()), ""]
        self.disk.make_directory(self.state / "live")
        # Only with the digest of its plan must a mark outlive a power failure: before that nothing is claimed.
        self.disk.write_atomic(self.state / "live" / run_id, "\n".join(lines).encode(), sync=bool(plan))

    def is_marked(self, run_id: str) -> bool:
        return self.disk.exists(f"{self.state}/live/{run_id}")

    def is_ours(self, run_id: str) -> bool:
        """Return whether this machine ever executed a run: only then are its records to be believed."""
        return self.is_marked(run_id) or self.disk.exists(f"{self.state}/done/{run_id}")

    def unmark(self, run_id: str) -> None:
        """Remember that a run is finished with."""
        self.disk.make_directory(self.state / "done")
        with contextlib.suppress(FileNotFoundError):
            self.disk.replace(self.state / "live" / run_id, self.state / "done" / run_id)

    def forget(self, run_id: str) -> None:
        """Remove the marks of a run that this machine has no part in, or not any more."""
        for family in ("live", "done"):
            try:
                self.disk.unlink(self.state / family / run_id)
            except IsADirectoryError:
                self.disk.remove_tree(self.state / family / run_id)

    def plan_digests(self, run_id: str) -> dict[str, str]:
        """Return plan file -> SHA-256 as it was frozen; none where the mark is lost or damaged."""
        for family in ("live", "done"):
            with contextlib.suppress(codec.CodecError, UnicodeDecodeError):
                data = self.disk.read_bounded(f"{self.state}/{family}/{run_id}", MARK_BYTES_MAX)
                if data is not None:
                    words = [line.split(" ") for line in data.decode("ascii").splitlines()[1:]]
                    return {each[0]: each[1] for each in words if len(each) == 2}
        return {}

    def frozen_plan(self, task_id: str, run_id: str, claim: Claim | None) -> Plan | None:
        """Return the plan of a claimed attempt, None if there is none. Raise CodecError if it is not the frozen one."""
        directory = self.directory(task_id, run_id)
        name = directory.name_of(claim.plan if claim else "plan.json")
        return read_frozen(directory, claim, self.plan_digests(run_id).get(name, ""))

    def observe(self, task_id: TaskId, run_id: RunId) -> Run | None:
        """Return the run as it is now, None if nothing of it was ever claimed here."""
        directory = self.directory(task_id, run_id)
        number = directory.newest()
        return _observe(self, task_id, run_id, number) if number else None


def _observe(runs: Runs, task_id: TaskId, run_id: RunId, number: int) -> Run:
    directory = runs.directory(task_id, run_id)
    # The lock is looked at before the records: a worker writes its end first and lets go of the lock after, so a
    # lock seen free means that the record read next is final.
    held = directory.disk.lock_is_held(directory.place("lock"))
    corrupt: list[Problem] = []

    def read(kind: type[T], family: str) -> T | None:
        name = f"{family}/{number}.json"
        try:
            return directory.read(kind, directory.place(name))
        except codec.CodecError as error:
            corrupt.append(_corrupt(directory, name, str(error)))
            return None

    claim = read(Claim, "claims")
    plan = None
    try:
        plan = runs.frozen_plan(task_id, run_id, claim)
    except codec.CodecError as error:
        corrupt.append(_corrupt(directory, claim.plan if claim else "plan.json", str(error)))
    attempt = read(Attempt, "attempts")
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
        claimer_alive=claim is not None and runs.is_alive(claim.claimer),
        worker_alive=attempt is not None and runs.is_alive(attempt.worker),
        planned=plan is not None,
        cancel=read(CancelIntent, "cancels"),
        end=read(End, "ends"),
        corrupt=tuple(corrupt),
        parent=plan.parent if plan else None,
        group=plan.group if plan else "",
        fired_at=plan.fired_at if plan else "",
        labels=plan.labels if plan else (),
        capabilities=plan.capabilities if plan else (),
        where=plan.where if plan else Where.ANYWHERE,
    )


def read_beat(directory: RunDirectory) -> Instant | None:
    """Return the newest heartbeat; a damaged one counts as none, because the next one replaces it."""
    with contextlib.suppress(codec.CodecError):
        return directory.read(Instant, directory.place(".heartbeat"))
    return None


def _corrupt(directory: RunDirectory, name: str, reason: str) -> Problem:
    return Problem(
        path=f".runs/{directory.path.parent.parent.name}/cli/{directory.path.name}/{name}",
        pointer=name,
        reason=f"this record cannot be read: {reason}",
        cure="it is moved to quarantine/ beside it and kept",
        rule="record-corrupt",
    )


def quarantine(directory: RunDirectory, name: str) -> Path:
    """Move a record out of the way into `quarantine/`, keeping every earlier one, and return where it is."""
    disk, kept = directory.disk, directory.path / "quarantine"
    disk.make_directory(kept)
    flat = name.replace("/", "-")
    names = (kept / f"{flat}.{number}" for number in itertools.count(1))
    target = next(each for each in names if not disk.exists(each))
    disk.replace(directory.path / name, target)
    disk.sync_directory(kept)
    return target
