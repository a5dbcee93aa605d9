"""The edge to a checkout that moves with its branch.

Git's porcelain reads the index, looks at every file, and only then locks what it read: what a person stages in between
is overwritten without a word. So the parts are put together here in an order in which nobody can come between. The
branch is locked first, and HEAD with it, where it must be now; then `git read-tree -m -u` moves index and files, which
locks the index before it reads it and touches nothing if it would overwrite something; then the branch moves. Whoever
comes meanwhile is told by git that a lock is in the way.

Dead in between, index and files are ahead of the branch, which looks like work of a person. So the intent is written
down before, in the git directory of the checkout, and whoever moves the checkout next brings the interrupted move to
its end first. It is never taken back: that would delete live records, which evidence was laid over.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from reconciler.disk import DISK
from reconciler.errors import GitFailed, PublishBlocked, TipMoved
from reconciler.values import frozen

INTENT_PATH = "reconciler/advance.json"
"""Below the git directory of a checkout: which branch moves from where to where."""
INTENT_BYTES_MAX = 4096
TIMEOUT_S = 600.0
"""How long git may take to write the files."""
LOCK_PATIENCE_S = 1.0
"""How long another git that is at work on the index is waited for: most are at it for some milliseconds."""

UNDER_WAY = (
    ("MERGE_HEAD", "a merge is in progress; conclude or abort it"),
    ("CHERRY_PICK_HEAD", "a cherry-pick is in progress; conclude or abort it"),
)

REFUSED = re.compile(
    r"not uptodate|would be (overwritten|removed)|would lose|resolve your current index|cannot checkout|overlaps with"
    r"|Refusing to remove|index\.lock"
)
"""What `git read-tree` says when it has touched nothing: it looks at everything before it writes anything."""

NAMED = re.compile(r"'([^']+)'")
SHOWN = 3


class Git(Protocol):
    """What is asked of the repository; a `Repository` is one."""

    def commit_of(self, branch: str) -> str | None: ...

    def look_up(self, names: Sequence[str]) -> tuple[str | None, ...]: ...

    def changes(self, old: str | None, new: str | None) -> Iterator[tuple[str, File | None]]: ...

    def blobs(self, oids: Sequence[str]) -> Iterator[tuple[str, bytes | None]]: ...

    def prepared(
        self, branch: str, old: str, new: str, directory: Path
    ) -> AbstractContextManager[Callable[[], None]]: ...

    def ask(self, directory: Path, *arguments: str, standard_input: bytes = b"", timeout_s: float = ...) -> bytes: ...


class File(Protocol):
    """A file of a tree."""

    @property
    def oid(self) -> str: ...

    @property
    def is_file(self) -> bool: ...


@frozen
class Checkout:
    """The checkout of a branch in `directory`."""

    repository: Git
    directory: Path
    branch: str

    def move(self, old: str, new: str) -> None:
        """Move the branch with its checkout from `old` to `new`, which follows it.

        Raise TipMoved if the branch, or HEAD, is elsewhere by now, and PublishBlocked with the reason if something of a
        person would be overwritten; nothing has moved then.
        """
        lock = self._git_directory() / "index.lock"
        DISK.wait_for(lambda: None if lock.exists() else True, LOCK_PATIENCE_S)
        self.finish(old)
        intent = self._git_directory() / INTENT_PATH
        self._intend(intent, old, new)
        reason = self._move(old, new)
        intent.unlink(missing_ok=True)
        if reason:
            raise PublishBlocked(reason)

    def follow(self, old: str, new: str) -> None:
        """Bring index and files from `old`, where they may still be, to `new`, where the branch is by now. What is at
        `new` already stays, and so does all if something of a person would be overwritten."""
        with contextlib.suppress(GitFailed):
            self._bring(old, new)

    def _git_directory(self) -> Path:
        """Return the git directory of this checkout alone."""
        if (self.directory / ".git").is_dir():
            return self.directory / ".git"
        return Path(os.fsdecode(self._ask("rev-parse", "--absolute-git-dir").removesuffix(b"\n")))

    def _ask(self, *arguments: str, standard_input: bytes = b"") -> bytes:
        return self.repository.ask(self.directory, *arguments, standard_input=standard_input, timeout_s=TIMEOUT_S)

    # -------------------------------------------------------------------------------------------- one move

    def _move(self, old: str, new: str) -> str:
        """Move branch, index and files; return why that cannot be, and then nothing has moved.

        What fails in any other way may have moved a part: then the intent stays, for who comes next.
        """
        try:
            with self.repository.prepared(self.branch, old, new, self.directory) as commit:
                reason = self._standing() or self._bring(old, new)
                if not reason:
                    commit()
                return reason
        except GitFailed:
            tip = self.repository.commit_of(self.branch)
            if tip == new:
                return ""
            if tip != old:
                raise TipMoved(f"{self.branch}: moved while evidence was made for {old[:12]}") from None
            raise

    def _standing(self) -> str:
        """Return what a person has begun that must be ended first. Raise TipMoved if HEAD has left the branch: as long
        as the branch is locked, it cannot leave it."""
        place = self._git_directory()
        if not self._is_named_by(place / "HEAD"):
            raise TipMoved(f"{self.branch}: {self.directory} has another branch checked out by now")
        return next((reason for name, reason in UNDER_WAY if (place / name).exists()), "")

    def _is_named_by(self, head: Path) -> bool:
        ref = f"refs/heads/{self.branch}"
        with contextlib.suppress(OSError):
            if head.read_bytes() == b"ref: %s\n" % os.fsencode(ref):
                return True
        with contextlib.suppress(GitFailed):  # refs that are stored in another way
            return os.fsdecode(self._ask("symbolic-ref", "--quiet", "HEAD")).removesuffix("\n") == ref
        return False

    def _bring(self, old: str, new: str) -> str:
        """Move index and files; return why that cannot be. Raise GitFailed if it was begun and did not end."""
        if self._read_tree(old, new) is None:
            return ""
        # Files that were written anew with what they held look changed until git has compared them.
        with contextlib.suppress(GitFailed):
            self._ask("update-index", "-q", "--refresh")
        error = self._read_tree(old, new)
        return "" if error is None else self._reason(error, old, new)

    def _read_tree(self, old: str, new: str) -> GitFailed | None:
        """Return the refusal of git, None if it has done it."""
        try:
            self._ask("read-tree", "-m", "-u", "--no-recurse-submodules", old, new)
        except GitFailed as error:
            if error.exit_status is None or not REFUSED.search(error.stderr):
                raise
            return error
        return None

    # -------------------------------------------------------------------------------------------- what a crash left

    def _intend(self, intent: Path, old: str, new: str) -> None:
        DISK.make_directory(intent.parent)
        DISK.write_atomic(intent, json.dumps({"branch": self.branch, "old": old, "new": new}).encode() + b"\n")

    def finish(self, old: str) -> None:
        """Bring a move from `old` to its end that was interrupted. Raise TipMoved if there was one: the branch has
        moved now, and PublishBlocked if work of a person is in its way."""
        intent = self._git_directory() / INTENT_PATH
        new = self._interrupted(intent, old)
        if not new:
            intent.unlink(missing_ok=True)
            return
        with self._index_locked(self._git_directory() / "index.lock"):
            self._clear(old, new)
        reason = self._move(old, new)
        if reason:
            raise PublishBlocked(reason)
        intent.unlink(missing_ok=True)
        raise TipMoved(f"{self.branch}: an interrupted move to {new[:12]} has been brought to its end")

    @contextlib.contextmanager
    def _index_locked(self, lock: Path) -> Iterator[None]:
        """Lock the index as git does. Raise PublishBlocked if somebody else has: that may be the git whose move was
        interrupted, which goes on when only we have died, and writes the files at this moment."""
        try:
            descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            raise PublishBlocked(f"git is at work on the index; if it is not, remove {lock}") from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            os.close(descriptor)  # until then everybody sees that the lock is in use

    def _interrupted(self, intent: Path, old: str) -> str:
        """Return where the branch was to move to from `old`, "" if nothing was begun or it has become void: a person
        who has moved the branch since then has decided what becomes of it."""
        try:
            found = json.loads(DISK.read(intent, INTENT_BYTES_MAX))
            branch, begun, new = (str(found[name]) for name in ("branch", "old", "new"))
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        if (branch, begun) != (self.branch, old) or not re.fullmatch(r"[0-9a-f]{40,64}", new):
            return ""
        return self.repository.look_up([f"{new}^{{commit}}"])[0] or ""

    def _clear(self, old: str, new: str) -> None:
        """Remove the files that git had written when it died, for it to write them again.

        They hold what the commit holds, or the beginning of it, and the index does not know of them yet. What is
        ignored stays: git overwrites that, and it may be a live record.
        """
        staged = set(self._names("diff-index", "--cached", "--name-only", "-z", old))
        trees = self.repository.look_up([f"{each}^{{tree}}" for each in (old, new)])
        files = {path: each for path, each in self.repository.changes(*trees) if each is not None and each.is_file}
        written = {path: each for path, each in files.items() if path not in staged}
        contents = self.repository.blobs([each.oid for each in written.values()])
        ours = [
            path
            for path, (_, data) in zip(written, contents, strict=True)
            if data is not None and self._holds(path, data)
        ]
        for path in set(ours) - self._ignored(ours):
            (self.directory / path).unlink(missing_ok=True)

    def _holds(self, path: str, data: bytes) -> bool:
        """Return whether a file is there and holds these bytes, or the beginning of them, with any ends of lines."""
        place = self.directory / path
        try:
            if any(each.is_symlink() for each in place.parents if each.is_relative_to(self.directory)):
                return False
            seen = place.lstat()
            if not stat.S_ISREG(seen.st_mode) or seen.st_size > 2 * len(data):
                return False
            found = place.read_bytes()
        except OSError:
            return False
        return data.startswith((found, found.replace(b"\r\n", b"\n")))

    # -------------------------------------------------------------------------------------------- the reason

    def _reason(self, error: GitFailed, old: str, new: str) -> str:
        """Return in one line what stands in the way of moving the checkout."""
        if "index.lock" in error.stderr or "resolve your current index" in error.stderr:
            return str(error)
        trees = self.repository.look_up([f"{each}^{{tree}}" for each in (old, new)])
        changed = {path for path, _ in self.repository.changes(*trees)}
        edited = self._names("diff-index", "--name-only", "-z", "--ignore-submodules", old)
        new_ones = self._names("ls-files", "--others", "--exclude-standard", "-z")
        found = sorted(changed.intersection(edited + new_ones)) or NAMED.findall(error.stderr)
        if not found:
            return str(error)
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        return f"it would overwrite your work in {', '.join(found[:SHOWN])}{more}; commit, stash or remove it"

    def _names(self, *arguments: str, standard_input: bytes = b"") -> list[str]:
        answer = self._ask(*arguments, standard_input=standard_input)
        return [os.fsdecode(each) for each in answer.split(b"\0") if each]

    def _ignored(self, paths: Sequence[str]) -> set[str]:
        """Return which of these paths git ignores."""
        if not paths:
            return set()
        try:
            feed = b"\0".join(map(os.fsencode, paths))
            return set(self._names("check-ignore", "-z", "--stdin", standard_input=feed))
        except GitFailed as error:
            if error.exit_status == 1:  # git check-ignore: none
                return set()
            raise
