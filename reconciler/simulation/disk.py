"""A disk in memory that can lose power: what was not synced is then there, old, empty or gone, by chance.

A file has its content and the content that is durable. A name is durable once its directory was synced; until then the
change of names is pending, and a change that concerns two directories (a rename) survives as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TypeVar

from reconciler import codec
from reconciler.disk import RECORD_BYTES_MAX, Disk, Seen
from reconciler.simulation.scheduler import Actor
from reconciler.simulation.seams import Machine

T = TypeVar("T")

LOOKS_AGAIN_AFTER_S = 0.05
"""The first pause of somebody who waits; every next one is twice as long."""

PENDING_MAX = 120
NOTHING: tuple[None, int] = (None, 0)


@dataclass(eq=False, slots=True)
class File:
    """`durable` is None while no content was ever synced. `holders` have its lock, `lookers` hold it shared."""

    data: bytes = b""
    durable: bytes | None = None
    changed_ns: int = 0
    mode: int = 0o644
    seen: Seen | None = None
    holders: list[Actor] = field(default_factory=list)
    lookers: list[Actor] = field(default_factory=list)
    inode: int = 0


@dataclass(eq=False, slots=True)
class Folder:
    """`names` is what a process sees, `durable` maps a name to what is there after a power loss, and since when.
    `changes` are those since the last sync, of which some may be durable by now."""

    names: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, tuple[Node | None, int]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    changed_ns: int = 0
    seen: Seen | None = None
    inode: int = 0


Node = File | Folder


@dataclass(eq=False, slots=True)
class Change:
    """A change of names that is not durable yet."""

    number: int
    parts: tuple[tuple[Folder, str, Node | None], ...]


class SimulatedDisk(Disk):
    """The files of one simulated machine."""

    def __init__(self, host: Machine) -> None:
        super().__init__()
        self.host, self.scheduler = host, host.scheduler
        self.move = host.scheduler.move
        self.root = Folder()
        self.forget_places()
        self.pending: dict[int, Change] = {}
        self.count, self.inodes = 0, 0
        self.acknowledged: dict[str, tuple[File, bytes]] = {}
        self.handles: dict[int, tuple[File, Actor]] = {}
        self.handle = 2
        self.lock_paths: dict[File, str] = {}

    # -------------------------------------------------------------------------------------------- finding

    def _folder(self, path: str) -> Folder | None:
        """Return the directory at a path. Raise NotADirectoryError if a file stands in the way."""
        found = self.folders.get(path)
        if found is not None:
            return found
        parent, _, name = path.rpartition("/")
        above = self._folder(parent)
        node = above.names.get(name) if above is not None else None
        if isinstance(node, File):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", path)
        if node is not None:
            self.folders[path] = node
        return node

    def forget_places(self) -> None:
        """Forget where paths lead: a directory is no longer where it was."""
        self.folders: dict[str, Folder] = {"": self.root, "/": self.root}
        self.places: dict[str, tuple[Folder, str]] = {}

    def _place_or_none(self, path: str) -> tuple[Folder, str] | None:
        """Return the directory that a path leads to, and the name in it."""
        place = self.places.get(path)
        if place is None:
            parent, _, name = path.rpartition("/")
            folder = self.folders.get(parent) or self._folder(parent)
            if folder is None:
                return None
            place = self.places[path] = (folder, name)
        return place

    def _place(self, path: str) -> tuple[Folder, str]:
        place = self.places.get(path) or self._place_or_none(path)
        if place is None:
            raise _missing(path)
        return place

    def node(self, path: str) -> Node | None:
        place = self.places.get(path) or self._place_or_none(path)
        return place[0].names.get(place[1]) if place is not None else None

    def _node_or_none(self, path: str) -> Node | None:
        try:
            place = self.places.get(path) or self._place_or_none(path)
        except NotADirectoryError:
            return None
        return place[0].names.get(place[1]) if place is not None else None

    def file(self, path: str) -> File:
        node = self.node(path)
        if node is None:
            raise _missing(path)
        if isinstance(node, Folder):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", path)
        return node

    # -------------------------------------------------------------------------------------------- changing

    def _change(self, *parts: tuple[Folder, str, Node | None]) -> None:
        self.count += 1
        at = self.host.stamp()
        for folder, name, node in parts:
            names = folder.names
            old = names.pop(name, None) if node is None else names.get(name)
            if node is not None:
                names[name] = node
            folder.changed_ns = at
            if type(old) is Folder and old is not node:
                self.forget_places()
        change = self.pending[self.count] = Change(self.count, parts)
        for folder, _, _ in parts:
            folder.changes.append(change)
        if len(self.pending) > PENDING_MAX:
            # The kernel writes back by itself what is old enough.
            for number in list(self.pending)[: PENDING_MAX // 2]:
                _make_durable(self.pending.pop(number))

    def _sync(self, folder: Folder) -> None:
        for change in folder.changes:
            if self.pending.pop(change.number, None) is not None:
                _make_durable(change)
        folder.changes.clear()

    def is_durable(self, path: Path) -> bool:
        """Return whether a file, as it is now, would survive a power loss."""
        folder: Node | None = self.root
        for name in str(path).split("/")[1:]:
            if not isinstance(folder, Folder):
                return False
            node = folder.durable.get(name, NOTHING)[0]
            if node is None or node is not folder.names.get(name):
                return False
            folder = node
        return isinstance(folder, Folder) or (isinstance(folder, File) and folder.durable == folder.data)

    def lose_power(self, chance: Random) -> None:
        """Forget what was not synced, by chance, and every lock."""
        likelihood = chance.choice((0.0, 0.5, 1.0))
        for change in self.pending.values():
            if chance.random() < likelihood:
                _make_durable(change)
        self.pending.clear()
        self.handles.clear()
        self.lock_paths.clear()
        self.forget_places()
        self._restore(self.root, chance)

    def _restore(self, folder: Folder, chance: Random) -> None:
        folder.names = {name: node for name, (node, _) in folder.durable.items() if node is not None}
        for node in folder.names.values():
            if isinstance(node, Folder):
                self._restore(node, chance)
                continue
            node.holders, node.lookers = [], []
            if node.durable is None or node.durable is not node.data:
                node.data = chance.choice((node.data, node.durable or b"", b""))
            node.durable = node.data

    # -------------------------------------------------------------------------------------------- primitives

    def create(self, path: Path, data: bytes, *, sync: bool, mode: int = 0o644) -> None:
        text = str(path)
        self.move("create", text)
        if self.host.armed("disk full"):
            raise OSError(errno.ENOSPC, "No space left on device", text)
        folder, name = self._place(text)
        node = folder.names.get(name)
        if isinstance(node, Folder):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", text)
        if node is None:
            node = File(mode=mode)
            self._change((folder, name, node))
        node.data = b""
        self.move("write", text)
        node.data, node.changed_ns = data, self.host.stamp()
        if sync:
            self.move("sync", text)
            node.durable = data
        self.move("")

    def read(self, path: Path | str, bytes_max: int, at: int = 0) -> bytes:
        text = str(path)
        self.move("read", text)
        return self.file(text).data[at : at + bytes_max]

    def read_bounded(self, path: Path | str, bytes_max: int = RECORD_BYTES_MAX) -> bytes | None:
        """As it is, but without an error for what is not there: that is most of what is asked for."""
        text = str(path)
        self.move("read", text)
        node = self._node_or_none(text)
        if node is None:
            return None
        if not isinstance(node, File):
            raise codec.CodecError("Is a directory")
        if len(node.data) > bytes_max:
            raise codec.CodecError(f"larger than {bytes_max} bytes")
        return node.data

    def replace(self, old: Path, new: Path) -> None:
        source, target = str(old), str(new)
        self.move("rename", f"{source} to {target.rpartition('/')[2]}" if self.scheduler.trace is not None else "")
        from_folder, from_name = self._place(source)
        to_folder, to_name = self._place(target)
        node, there = from_folder.names.get(from_name), to_folder.names.get(to_name)
        if node is None:
            raise _missing(source)
        if isinstance(there, Folder) and isinstance(node, File):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", target)
        if isinstance(there, File) and isinstance(node, Folder):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", target)
        if isinstance(there, Folder) and there.names:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", target)
        if there is node:  # two names of one file: the kernel leaves both
            return
        self._change((from_folder, from_name, None), (to_folder, to_name, node))
        self.move("")

    def link(self, old: Path | str, new: Path | str) -> None:
        source, target = str(old), str(new)
        self.move("link", target)
        node = self.node(source)
        if node is None:
            raise _missing(source)
        folder, name = self._place(target)
        if name in folder.names:
            raise FileExistsError(errno.EEXIST, "File exists", target)
        if isinstance(node, Folder):
            raise PermissionError(errno.EPERM, "Operation not permitted", source)
        self._change((folder, name, node))
        self.move("")

    def unlink(self, path: Path) -> None:
        text = str(path)
        self.move("unlink", text)
        place = self._place_or_none(text)
        node = place[0].names.get(place[1]) if place is not None else None
        if place is None or node is None:
            return
        if isinstance(node, Folder):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", text)
        self._change((*place, None))
        self.move("")

    def sync_directory(self, directory: Path) -> None:
        text = str(directory)
        self.move("sync names", text)
        found = self.folders.get(text) or self.node(text)
        if found is None:
            raise _missing(text)
        if isinstance(found, File):
            found.durable = found.data
        else:
            self._sync(found)
        self.move("")

    def make_directory(self, path: Path, *, sync: bool = True) -> None:
        text = str(path)
        known, place = self.folders.get(text), self.places.get(text)
        if known and place and (not sync or place[0].durable.get(place[1], NOTHING)[0] is known):
            return
        made = []
        while (node := self._node_or_none(text)) is None and text:
            made.append(text)
            text = text.rpartition("/")[0]
        if isinstance(node, File):
            raise FileExistsError(errno.EEXIST, "File exists", text)
        place = self._place_or_none(text)
        if sync and place is not None and place[0].durable.get(place[1], NOTHING)[0] is not node:
            # Whoever made it may have died before its name was synced.
            self.sync_directory(Path(text.rpartition("/")[0] or "/"))
        for each in reversed(made):
            self.make_folder(each)
            if sync:
                self.sync_directory(Path(each.rpartition("/")[0] or "/"))

    def make_folder(self, path: Path | str) -> None:
        """Make one directory, its name not synced; nothing happens if it is there."""
        text = str(path)
        self.move("mkdir", text)
        folder, name = self._place(text)
        if name not in folder.names:
            self._change((folder, name, Folder()))
        elif isinstance(folder.names[name], File):
            raise FileExistsError(errno.EEXIST, "File exists", text)
        self.move("")

    def names(self, directory: Path | str) -> list[str]:
        text = str(directory)
        self.move("list", text)
        try:
            found = self.folders.get(text) or self._folder(text)
        except NotADirectoryError:
            return []
        return list(found.names) if found is not None else []

    def identity(self, path: Path | str) -> str:
        node = self._node_or_none(str(path))
        if node is None:
            return ""
        if not node.inode:
            self.inodes += 1
            node.inode = self.inodes
        return f"1:{node.inode}"

    def look(self, path: Path | str) -> Seen | None:
        text = str(path)
        self.move("look at", text)
        node = self._node_or_none(text)
        if node is None:
            return None
        size = len(node.data) if type(node) is File else 4096
        seen = node.seen
        if seen is None or seen.changed_ns != node.changed_ns or seen.bytes != size:
            seen = node.seen = Seen(type(node) is Folder, node.changed_ns, size)
        return seen

    def exists(self, path: Path | str) -> bool:
        text = str(path)
        self.move("look at", text)
        return self._node_or_none(text) is not None

    def remove_tree(self, path: Path) -> None:
        text = str(path)
        self.move("remove", text)
        with contextlib.suppress(NotADirectoryError):
            node = self.node(text)
            if isinstance(node, Folder):
                self._empty(node)
                folder, name = self._place(text)
                if folder.names.get(name) is node:
                    self._change((folder, name, None))
                self.move("")

    def _empty(self, folder: Folder) -> None:
        for name in list(folder.names):
            node = folder.names.get(name)
            if isinstance(node, Folder):
                self._empty(node)
            if name in folder.names:
                self._change((folder, name, None))
                self.move("")

    # -------------------------------------------------------------------------------------------- locks

    def take_lock(self, path: Path) -> int | None:
        text = str(path)
        self.move("lock", text)
        folder, name = self._place(text)
        node = folder.names.get(name)
        if isinstance(node, Folder):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", text)
        if node is None:
            node = File()
            self._change((folder, name, node))
        if node.holders or node.lookers:
            return None
        actor = self.scheduler.current
        assert actor is not None
        node.holders.append(actor)
        actor.handles.append(node)
        self.lock_paths[node] = text
        self.handle += 1
        handle = self.handle
        self.handles[handle] = (node, actor)
        self.move("")
        return handle

    def let_go(self, handle: int) -> None:
        self.move("unlock")
        node, actor = self.handles.pop(handle)
        _without(node.holders, actor)
        _without(actor.handles, node)
        self.move("")

    def lock_is_held(self, path: Path | str) -> bool:
        node = self.node(str(path))
        self.move("try the lock", path)
        if not isinstance(node, File):
            return False
        if node.holders:
            return True
        actor = self.scheduler.current
        assert actor is not None
        node.lookers.append(actor)
        actor.handles.append(node)
        self.move("")
        _without(node.lookers, actor)
        _without(actor.handles, node)
        return False

    def locked(self, handle: int) -> File:
        """Return the file whose lock a handle stands for."""
        return self.handles[handle][0]

    def forget(self, actor: Actor) -> None:
        """Give back what a dead process held."""
        for node in actor.handles:
            assert isinstance(node, File)
            _without(node.holders, actor)
            _without(node.lookers, actor)
        actor.handles.clear()

    def wait_for(self, found: Callable[[], T | None], patience_s: float) -> T | None:
        deadline, pause_s = self.scheduler.now + patience_s, LOOKS_AGAIN_AFTER_S
        while (answer := found()) is None and self.scheduler.now < deadline:
            self.scheduler.sleep(min(pause_s, deadline - self.scheduler.now))
            pause_s *= 2
        return answer

    # -------------------------------------------------------------------------------------------- for the simulation

    def append(self, path: Path, data: bytes) -> bytes:
        """Add to a log that is open, make its content durable, and return the whole of it."""
        text = str(path)
        self.move("append", text)
        try:
            node = self.file(text)
        except FileNotFoundError:
            return data  # whoever has it open goes on writing to it; nobody will read it
        node.data, node.changed_ns = node.data + data, self.host.stamp()
        self.move("sync", text)
        node.durable = node.data
        self.move("")
        return node.data

    def staging(self, path: Path) -> Path:
        actor = self.scheduler.current
        return path.with_name(f".{path.name}.{actor.me.pid if actor else 0}.tmp")

    def acknowledge(self, path: Path) -> None:
        """Remember that somebody was told: this file is durable."""
        node = self.node(str(path))
        if isinstance(node, File):
            self.acknowledged[str(path)] = (node, node.data)

    def write_new(self, path: Path, data: bytes, *, mode: int = 0o644) -> bool:
        written = super().write_new(path, data, mode=mode)
        if written:
            self.acknowledge(path)
        return written

    def write_atomic(self, path: Path, data: bytes, *, sync: bool = True, mode: int = 0o644) -> None:
        super().write_atomic(path, data, sync=sync, mode=mode)
        if sync:
            self.acknowledge(path)

    def standing(self) -> Iterator[str]:
        """Yield the acknowledged files that are there, unchanged."""
        for path, (node, data) in self.acknowledged.items():
            with contextlib.suppress(NotADirectoryError):
                if self.node(path) is node and node.data == data:
                    yield path


def _make_durable(change: Change) -> None:
    for folder, name, node in change.parts:
        if folder.durable.get(name, NOTHING)[1] < change.number:
            folder.durable[name] = (node, change.number)


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, "No such file or directory", path)


def _without(actors: list[T], actor: T) -> None:
    if actor in actors:
        actors.remove(actor)
