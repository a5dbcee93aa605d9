"""The edge to files: what is written is whole or not there, and what must last is synced.

`Disk` is two things. Its *primitives* are one system call each, give or take an open and a close: they are all that a
simulated disk replaces, so that it can stop between any two of them and forget what was never synced. Everything else
here is made of them and is the same on a real disk and on a simulated one.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from reconciler import codec
from reconciler.values import frozen

T = TypeVar("T")

RECORD_BYTES_MAX = 8 * 1024 * 1024
"""No record is larger: a plan holds at most 200 stages of 64 KiB command each, in practice a few KiB."""


DURABLE_MAX = 10_000
"""Of so many directories a process remembers that their names are durable."""


@frozen(kw_only=False)
class Seen:
    """What is known of a path without reading it. `changed_ns` is the time of the last change of its content."""

    is_directory: bool
    changed_ns: int
    bytes: int


class Disk:
    """The files of this machine."""

    def __init__(self) -> None:
        self._durable: set[Path] = set()

    # -------------------------------------------------------------------------------------------- primitives

    def create(self, path: Path, data: bytes, *, sync: bool, mode: int = 0o644) -> None:
        """Write a file of this content, replacing it in place if there is one; `sync` makes the content durable, not
        the name."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with open(descriptor, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) or 0 :]
            if sync:
                os.fsync(descriptor)

    def read(self, path: Path | str, bytes_max: int, at: int = 0) -> bytes:
        """Return `bytes_max` bytes of a regular file from `at`, fewer at its end; never waits for a pipe, never
        follows a link."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if at:
                os.lseek(descriptor, at, os.SEEK_SET)
            parts, left = [], bytes_max
            while left and (part := os.read(descriptor, min(left, 1 << 20))):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)
        finally:
            os.close(descriptor)

    def replace(self, old: Path, new: Path) -> None:
        os.replace(old, new)

    def link(self, old: Path | str, new: Path | str) -> None:
        """Give a file a second name. Raise FileExistsError if that is taken."""
        os.link(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a name; nothing happens if it is not there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def sync_directory(self, directory: Path) -> None:
        """Make the names in a directory durable."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def make_directory(self, path: Path, *, sync: bool = True) -> None:
        """Make a directory and those above it, where they are not there yet, and make their names durable: what is
        synced in a directory whose own name is lost is lost."""
        made = []
        while not path.is_dir():
            made.append(path)
            path = path.parent
        # Whoever made what is there may have died before its name was synced: this process makes sure of that once.
        if sync and path not in self._durable:
            self.sync_directory(path.parent)
            self._remember(path)
        for each in reversed(made):
            each.mkdir(exist_ok=True)
            if sync:
                self.sync_directory(each.parent)
                self._remember(each)

    def _remember(self, directory: Path) -> None:
        if len(self._durable) >= DURABLE_MAX:
            self._durable.clear()
        self._durable.add(directory)

    def names(self, directory: Path | str) -> list[str]:
        """Return the names in a directory in no order, none if there is no such directory."""
        try:
            return os.listdir(directory)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def look(self, path: Path | str) -> Seen | None:
        """Return what is at a path, None if nothing is; a link is not followed."""
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a name no file can have
            return None
        return Seen(stat.S_ISDIR(found.st_mode), found.st_mtime_ns, found.st_size)

    def identity(self, path: Path | str) -> str:
        """Return what tells the file or directory at a path from every other one of this machine, copies of it
        included, "" if nothing is there."""
        try:
            found = os.stat(path)
        except OSError:
            return ""
        return f"{found.st_dev}:{found.st_ino}"

    def remove_tree(self, path: Path) -> None:
        """Remove a directory, also where a stage took the right to write away; nothing happens if there is none."""

        def allow_and_retry(_: object, name: str, __: object) -> None:
            with contextlib.suppress(OSError):
                os.chmod(os.path.dirname(name), 0o700)
                os.chmod(name, 0o700)
                os.rmdir(name) if os.path.isdir(name) else os.unlink(name)

        if path.is_dir():
            shutil.rmtree(path, onerror=allow_and_retry)
            shutil.rmtree(path, ignore_errors=True)

    def take_lock(self, path: Path) -> int | None:
        """Take the exclusive flock of a file that is made if need be; return a handle, None if somebody has it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor

    def let_go(self, handle: int) -> None:
        """Give a lock back."""
        os.close(handle)

    def lock_is_held(self, path: Path | str) -> bool:
        """Return whether anybody holds the flock of a file, as the kernel says."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def wait_for(self, found: Callable[[], T | None], patience_s: float) -> T | None:
        """Ask again and again until there is an answer, or patience is at its end."""
        deadline = time.monotonic() + patience_s
        while (answer := found()) is None and time.monotonic() < deadline:
            time.sleep(0.002)
        return answer

    # -------------------------------------------------------------------------------------------- made of them

    def exists(self, path: Path | str) -> bool:
        return self.look(path) is not None

    def write_atomic(self, path: Path, data: bytes, *, sync: bool = True, mode: int = 0o644) -> None:
        """Replace `path` by `data`, whole or not at all, also when the machine loses power."""
        staging = self.staging(path)
        try:
            self.create(staging, data, sync=sync, mode=mode)
            self.clear_directory(path)
            self.replace(staging, path)
        except OSError:
            with contextlib.suppress(OSError):
                self.unlink(staging)
            raise
        if sync:
            self.sync_directory(path.parent)

    def write_new(self, path: Path, data: bytes, *, mode: int = 0o644) -> bool:
        """Create `path` with `data` and return True; return False, touching nothing, if it exists."""
        self.make_directory(path.parent)
        staging = self.staging(path)
        try:
            self.create(staging, data, sync=True, mode=mode)
            self.link(staging, path)
        except FileExistsError:
            return False
        finally:
            self.unlink(staging)
        self.sync_directory(path.parent)
        return True

    def staging(self, path: Path) -> Path:
        """Return the name under which a file is made before it gets its own."""
        return path.with_name(f".{path.name}.{os.getpid()}.tmp")

    def clear_directory(self, path: Path) -> None:
        """Move a directory that stands where a file belongs out of the way, keeping it."""
        found = self.look(path)
        if found is not None and found.is_directory:
            names = (path.with_name(f"{path.name}.directory-{number}") for number in itertools.count(1))
            self.replace(path, next(each for each in names if not self.exists(each)))

    def read_bounded(self, path: Path | str, bytes_max: int = RECORD_BYTES_MAX) -> bytes | None:
        """Return the bytes of a regular file, None if there is none. Raise CodecError if it is larger or no file."""
        try:
            data = self.read(path, bytes_max + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise codec.CodecError(str(error.strerror)) from None
        if len(data) > bytes_max:
            raise codec.CodecError(f"larger than {bytes_max} bytes")
        return data


DISK = Disk()
"""The disk of this machine."""
