"""The edge to lock files that git left behind.

Git that is KILLed, or loses power, leaves its `*.lock` files, and every later command that needs one fails until a
person removes it. One is removed here only with proof that its maker is dead: it is old by the clock of its own file
system, it is ours or we may see everything, no process has it open, and no git that may write is at work in the
repository. What cannot be seen counts as alive; without `/proc` nothing is removed. Machines that share a repository
over a network are not seen: there, the age is all there is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

PROC = Path("/proc")
LOCK_AGE_S = 10.0
ENTRIES_MAX = 10_000
"""How many directory entries are looked at; what lies behind them stays."""
DEPTH_MAX = 128

FLAT = ("", "info", "objects/info", "objects/info/commit-graphs", "refs", "reftable")
DEEP = ("refs/heads", "refs/reconciler", "refs/remotes")
SINGLE = ("packed-refs.new", "objects/pack/multi-pack-index.lock")
"""`packed-refs.new` is opened exclusively, so it locks as well."""

READERS = (b"cat-file", b"fsmonitor--daemon")
"""Git that stays for long and takes no lock."""
OPTIONS_WITH_VALUE = (b"-c", b"-C", b"--git-dir", b"--work-tree", b"--namespace", b"--config-env")

Identity = tuple[int, int]


def remove_stale_locks(common: Path, places: Sequence[Path]) -> list[str]:
    """Remove the stale lock files of the git directory `common`, and return their names below it.

    `places` are the directories in which git that works on this repository may stand.
    """
    if not (PROC / "self" / "fd").is_dir():
        return []
    with contextlib.suppress(OSError), _alone(common):
        old = _old_locks(common)
        if old and not _git_works_in(common, places):
            held = _opened()
            dead = [path for path, seen in old.items() if _identity(seen) not in held and _is_still(path, seen)]
            return [path.relative_to(common).as_posix() for path in dead if _removed(path)]
    return []


def old_locks(common: Path) -> list[str]:
    """Return the names of the lock files of the git directory `common` that are old enough to be stale, sorted."""
    with contextlib.suppress(OSError):
        return sorted(path.relative_to(common).as_posix() for path in _old_locks(common))
    return []


@contextlib.contextmanager
def _alone(common: Path) -> Iterator[None]:
    """Let one process at a time remove: else one could remove what was made anew behind another's removal.

    Raise BlockingIOError if another one does.
    """
    descriptor = os.open(common, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------ lock files


def _old_locks(common: Path) -> dict[Path, os.stat_result]:
    """Return the lock files that are old enough and made by this user."""
    with tempfile.TemporaryFile(dir=common) as new:
        now = os.fstat(new.fileno()).st_mtime
    found = {}
    for path in _locks(common):
        with contextlib.suppress(OSError):
            seen = path.lstat()
            ours = os.geteuid() in (0, seen.st_uid)
            if ours and stat.S_ISREG(seen.st_mode) and now - seen.st_mtime > LOCK_AGE_S:
                found[path] = seen
    return found


def _locks(common: Path) -> Iterator[Path]:
    """Return what may be lock files: no name that ends like one can be a ref, or a part of one."""
    entries = chain(
        *(_entries(common / each) for each in FLAT),
        *(_entries(Path(each.path)) for each in _entries(common / "worktrees")),
        *(_entries(common / each, deep=True) for each in DEEP),
    )
    found = (Path(each.path) for each in islice(entries, ENTRIES_MAX) if each.name.endswith(".lock"))
    return chain((common / each for each in SINGLE), found)


def _entries(directory: Path, *, deep: bool = False) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(directory) as listing:
        for entry in listing:
            yield entry
            if deep and entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path), deep=True)


def _identity(seen: os.stat_result) -> Identity:
    return seen.st_dev, seen.st_ino


def _is_still(path: Path, seen: os.stat_result) -> bool:
    """Return whether a file is the one that was seen, untouched since."""
    with contextlib.suppress(OSError):
        now = path.lstat()
        return (_identity(now), now.st_mtime_ns) == (_identity(seen), seen.st_mtime_ns)
    return False


def _removed(path: Path) -> bool:
    try:
        path.unlink()
    except OSError:
        return False
    return True


# ------------------------------------------------------------------------------------------------ processes


def _processes() -> list[Path]:
    return [PROC / name for name in os.listdir(PROC) if name.isdigit()]


def _opened() -> set[Identity]:
    """Return every file that a process we may look into has open."""
    found = set()
    for process in _processes():
        with contextlib.suppress(OSError):
            for descriptor in os.listdir(process / "fd"):
                with contextlib.suppress(OSError):
                    found.add(_identity(os.stat(f"{process}/fd/{descriptor}")))
    return found


def _git_works_in(common: Path, places: Sequence[Path]) -> bool:
    """Return whether git that may write is at work in a repository, or may be."""
    inside = set()
    for place in places:
        with contextlib.suppress(OSError):
            inside.add(_identity(place.stat()))
    return any(_is_writer(each) and _works_in(each, os.fsencode(common), inside) for each in _processes())


def _is_writer(process: Path) -> bool:
    """Return whether a process is git, unless it is known to take no lock."""
    with contextlib.suppress(OSError):
        if (process / "comm").read_bytes().startswith(b"git"):
            return _verb((process / "cmdline").read_bytes().split(b"\0")) not in READERS
    return False


def _verb(words: Sequence[bytes]) -> bytes:
    """Return the subcommand of a command line of git: the first word that is no option and no option's value."""
    rest = iter(words[1:])
    for word in rest:
        if word in OPTIONS_WITH_VALUE:
            next(rest, b"")
        elif not word.startswith(b"-"):
            return word
    return b""


def _works_in(process: Path, common: bytes, inside: set[Identity]) -> bool:
    try:
        return _stands_in(f"{process}/cwd", inside) or _names(process, common)
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has ended
    except OSError:
        return True  # it is not to be seen where it works


def _stands_in(path: str, inside: set[Identity]) -> bool:
    """Return whether a directory is one of those or below: by identity, since in another mount namespace the same
    directory has another name."""
    before = None
    for _ in range(DEPTH_MAX):
        here = _identity(os.stat(path))
        if here in inside:
            return True
        if here == before:
            return False
        before, path = here, f"{path}/.."
    return True


def _names(process: Path, common: bytes) -> bool:
    """Return whether a process was told of a git directory, or has a file below it open."""
    if any(common in (process / each).read_bytes() for each in ("cmdline", "environ")):
        return True
    for descriptor in os.listdir(process / "fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.fsencode(os.readlink(f"{process}/fd/{descriptor}")).startswith(common + b"/"):
                return True
    return False
