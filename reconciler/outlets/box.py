"""The edge to one outlet's files: `<git directory>/reconciler/outlets/<outlet>/`.

    mark.json         the tree of evidence up to which all that is wanted was noted
    open/<key>.json   what is to be delivered, how often it was tried, and when it is due
    done/<key>.json   a receipt
    dead/<key>.json   a dead letter: what was given up, and why

A key is in one of the three. What moves is written at its new place before it leaves the old one, so a crash leaves it
in both, and the newer one counts. Whoever holds `outlets/lock` writes; `deliveries --retry` only adds to `open`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from reconciler import codec
from reconciler.disk import Disk
from reconciler.model import RunId, TaskId
from reconciler.values import frozen

T = TypeVar("T")
KEPT_MAX = 1000
"""So many receipts, and so many dead letters, are kept: the mark says what came before."""
RECORD_BYTES_MAX = 64 * 1024
KEY = re.compile(r"[a-z0-9](\.?[a-z0-9_-]){0,150}")


@frozen
class Mark:
    """`tree` is the tree of evidence, None where there was none; `since` when it was noted."""

    tree: str | None
    since: str


@frozen
class Open:
    """A delivery that is owed. `due_at_s` is in seconds since 1970, by the clock of this machine."""

    key: str
    run_id: RunId
    task_id: TaskId
    attempt: int
    blob: str
    since: str
    previous: str | None = None
    tries: int = 0
    due_at_s: float = 0.0
    reason: str = ""


@frozen
class Done:
    """A receipt."""

    key: str
    at: str
    tries: int
    said: str


@frozen
class Dead:
    """A dead letter: what was owed, when it was given up, and why."""

    owed: Open
    at: str
    reason: str


@frozen
class Box:
    """The files of one outlet."""

    directory: Path
    disk: Disk

    @property
    def name(self) -> str:
        return self.directory.name

    def mark(self) -> Mark | None:
        return self._read(Mark, self.directory / "mark.json")

    def set_mark(self, mark: Mark) -> None:
        self._write(self.directory / "mark.json", codec.compact(mark))

    def keys(self, family: str) -> list[str]:
        """Return the keys of a family, in order."""
        names = (name.removesuffix(".json") for name in self.disk.names(self.directory / family))
        return sorted(each for each in names if KEY.fullmatch(each))

    def opened(self, key: str) -> Open | None:
        return self._read(Open, self._path("open", key))

    def dead(self) -> Iterator[Dead]:
        """Yield the dead letters that can be read."""
        found = (self._read(Dead, self._path("dead", key)) for key in self.keys("dead"))
        return (each for each in found if each is not None)

    def done(self) -> Iterator[Done]:
        """Yield the receipts that can be read."""
        found = (self._read(Done, self._path("done", key)) for key in self.keys("done"))
        return (each for each in found if each is not None)

    def note(self, owed: Open) -> bool:
        """Note something as owed, unless it is known; return whether it was new."""
        if any(self.disk.exists(self._path(each, owed.key)) for each in ("open", "done", "dead")):
            return False
        self.put_off(owed)
        return True

    def put_off(self, owed: Open) -> None:
        self._write(self._path("open", owed.key), codec.compact(owed))

    def drop(self, key: str) -> None:
        """Forget what is owed."""
        self.disk.unlink(self._path("open", key))

    def receipt(self, done: Done) -> None:
        """Write a receipt; nothing is owed any more."""
        self._write(self._path("done", done.key), codec.compact(done))
        self.drop(done.key)
        self.disk.unlink(self._path("dead", done.key))
        self._prune("done")

    def bury(self, dead: Dead) -> None:
        """Write a dead letter; nothing is owed any more."""
        self._write(self._path("dead", dead.owed.key), codec.compact(dead))
        self.drop(dead.owed.key)
        self._prune("dead")

    def revive(self, dead: Dead) -> None:
        """Owe a dead letter again, from now on and as if it had never been tried."""
        owed = dead.owed
        self.put_off(replace(owed, tries=0, due_at_s=0.0, reason=""))
        self.disk.unlink(self._path("dead", owed.key))

    def _prune(self, family: str) -> None:
        """Remove the oldest of many, a tenth at once."""
        names = self.disk.names(self.directory / family)
        if len(names) <= KEPT_MAX + KEPT_MAX // 10:
            return
        ages = {name: self.disk.look(self.directory / family / name) for name in names}
        oldest = sorted(names, key=lambda name: (found.changed_ns if (found := ages[name]) else 0, name))
        for name in oldest[: len(names) - KEPT_MAX]:
            self.disk.unlink(self.directory / family / name)

    def _path(self, family: str, key: str) -> Path:
        return self.directory / family / f"{key}.json"

    def _read(self, kind: type[T], path: Path) -> T | None:
        """Return a record, None where there is none or it is damaged: then it is made anew, or was a receipt."""
        with contextlib.suppress(codec.CodecError):
            data = self.disk.read_bounded(path, RECORD_BYTES_MAX)
            return None if data is None else codec.parse(kind, data)
        return None

    def _write(self, path: Path, data: bytes) -> None:
        self.disk.make_directory(path.parent)
        self.disk.write_atomic(path, data)


def boxes(state: Path, disk: Disk) -> list[Box]:
    """Return the boxes of all outlets that there ever were, by name."""
    root = state / "outlets"
    names = sorted(name for name in disk.names(root) if KEY.fullmatch(name) and name != "lock")
    return [Box(directory=root / name, disk=disk) for name in names]


def listed(state: Path, disk: Disk, receipts_max: int) -> dict[str, list[dict[str, object]]]:
    """Return what is owed, what was given up and the newest receipts of all outlets, as plain values."""
    found: dict[str, list[dict[str, object]]] = {"open": [], "dead": [], "done": []}
    for box in boxes(state, disk):
        owed = filter(None, (box.opened(key) for key in box.keys("open")))
        found["open"] += [{"outlet": box.name, **codec.dump(each)} for each in owed]
        found["dead"] += [_letter(box, each) for each in box.dead()]
        found["done"] += [{"outlet": box.name, **codec.dump(each)} for each in box.done()]
    found["done"] = sorted(found["done"], key=lambda each: str(each["at"]), reverse=True)[:receipts_max]
    return found


def letters(state: Path, disk: Disk) -> list[dict[str, object]]:
    """Return the dead letters of all outlets, as plain values."""
    return [_letter(box, each) for box in boxes(state, disk) for each in box.dead()]


def _letter(box: Box, dead: Dead) -> dict[str, object]:
    owed = dead.owed
    known = {"key": owed.key, "run_id": owed.run_id, "task_id": owed.task_id, "attempt": owed.attempt}
    return {"outlet": box.name, **known, "tries": owed.tries, "at": dead.at, "reason": dead.reason}
