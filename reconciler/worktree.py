"""The edge to a directory of files that is compared with commits: what a run's stages made of its workspace.

Whoever works in the workspace can rewrite its `.git`, and mark files in its index as never changed. So neither is
asked: git reads the repository that the workspace was made from, and an index of our own, made from the commit.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Protocol

from reconciler.errors import GitFailed
from reconciler.git import BLOB_BYTES_MAX, Repository, run
from reconciler.values import frozen

COUNTED_BYTES_MAX = 64 * 1024 * 1024
"""A file larger than this is no text: its lines are not counted."""
_BINARY_BYTES = 8000
"""git takes a file for binary that has a NUL among its first bytes; so do we."""
_NUMBERS = ("diff", "--numstat", "-z", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-relative")


@frozen
class Changed:
    """A file that differs, and how many lines came and went; 0 for what is no text."""

    path: str
    added: int = 0
    removed: int = 0


class Files(Protocol):
    """Files that can be looked at: those of a directory, or those of a commit."""

    @property
    def paths(self) -> frozenset[str]:
        """Every file there is, less what git ignores."""
        ...

    def read(self, path: str) -> bytes | None:
        """Return the bytes of a regular file, None for anything else and for one that is too large."""
        ...

    def changed(self, base: str) -> tuple[Changed, ...]:
        """Return what differs from a commit or tree, by path."""
        ...


class CommitFiles:
    """The files of a commit, as `Files`."""

    def __init__(self, repository: Repository, commit: str) -> None:
        self.repository, self.commit = repository, commit

    @cached_property
    def paths(self) -> frozenset[str]:
        tree = self.repository.look_up([f"{self.commit}^{{tree}}"])[0]
        return frozenset(each.path for each in self.repository.entries(tree))

    def read(self, path: str) -> bytes | None:
        found = self.repository.files_at(self.commit, [path])
        return next(self.repository.blobs([found[0].oid]))[1] if found else None

    def changed(self, base: str) -> tuple[Changed, ...]:
        words = (*_NUMBERS, "--end-of-options", base, self.commit, "--")
        return tuple(sorted(_numbers(self.repository.git(*words)), key=lambda each: each.path))


class WorkTree:
    """The files of a directory, as `Files`: tracked or not, less those that are ignored. Its index is made from
    `commit` and gone after `close`."""

    def __init__(self, repository: Repository, directory: Path, commit: str) -> None:
        self.repository, self.directory = repository, directory.resolve()
        self._own = tempfile.TemporaryDirectory(prefix="reconciler-index-")
        self._index = Path(self._own.name) / "index"
        try:
            self._git("read-tree", commit)
            # Hashes every file once, so that the questions that follow need not. What differs is no error here.
            with contextlib.suppress(GitFailed):
                self._git("update-index", "-q", "--refresh")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._own.cleanup()

    @cached_property
    def untracked(self) -> frozenset[str]:
        """Every file that the commit does not have, less those that are ignored."""
        return frozenset(_split(self._git("ls-files", "-z", "--others", "--exclude-standard")))

    @cached_property
    def paths(self) -> frozenset[str]:
        tracked = set(_split(self._git("ls-files", "-z", "--cached")))
        gone = set(_split(self._git("ls-files", "-z", "--deleted")))
        return frozenset(tracked - gone | self.untracked)

    def read(self, path: str) -> bytes | None:
        with contextlib.suppress(OSError), self._open(path) as descriptor:
            if os.fstat(descriptor).st_size > BLOB_BYTES_MAX:
                return None
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(BLOB_BYTES_MAX + 1)
                return data if len(data) <= BLOB_BYTES_MAX else None
        return None

    def changed(self, base: str) -> tuple[Changed, ...]:
        words = (*_NUMBERS, "--ignore-submodules=dirty", "--end-of-options", base, "--")
        found = {each.path: each for each in _numbers(self._git(*words))}
        for path in self.untracked:
            removed = found[path].removed if path in found else 0
            found[path] = Changed(path=path, added=self._lines(path), removed=removed)
        return tuple(found[path] for path in sorted(found))

    def _git(self, *words: str) -> str:
        """Return what git prints about this directory."""
        places = (f"--git-dir={self.repository.common}", f"--work-tree={self.directory}")
        output = run((*places, *words), directory=self.directory, variables={"GIT_INDEX_FILE": str(self._index)})
        return output.decode(errors="surrogateescape")

    @contextlib.contextmanager
    def _open(self, path: str) -> Iterator[int]:
        """Open a regular file of this directory. Raise OSError for anything else, and for what lies elsewhere: a
        workspace may hold links to any place of this machine."""
        place = self.directory / path
        if ".." in place.parts or place.parent.resolve() != place.parent or path.startswith("/"):
            raise OSError(f"{path}: lies elsewhere")
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(f"{path}: no regular file")
            yield descriptor
        finally:
            os.close(descriptor)

    def _lines(self, path: str) -> int:
        """Return how many lines a file has; 0 if it is no text."""
        with contextlib.suppress(OSError), self._open(path) as descriptor:
            if os.fstat(descriptor).st_size <= COUNTED_BYTES_MAX:
                return _count(descriptor)
        return 0


def _count(descriptor: int) -> int:
    chunk = last = os.read(descriptor, 1 << 20)
    if b"\0" in chunk[:_BINARY_BYTES]:
        return 0
    lines, left = 0, COUNTED_BYTES_MAX
    while chunk and left > 0:
        lines, left, last = lines + chunk.count(b"\n"), left - len(chunk), chunk
        chunk = os.read(descriptor, 1 << 20)
    return lines + (1 if last and not last.endswith(b"\n") else 0)


def _split(listed: str) -> Iterator[str]:
    return (each for each in listed.split("\0") if each)


def _numbers(output: str) -> Iterator[Changed]:
    """Yield what `git diff --numstat -z` says: `<added> TAB <removed> TAB <path> NUL`, `-` for what is no text."""
    for record in _split(output):
        added, removed, path = record.split("\t", 2)
        yield Changed(path=path, added=_number(added), removed=_number(removed))


def _number(text: str) -> int:
    return 0 if text == "-" else int(text)
