"""The edge to what `doctor` looks at: this machine, its programs, its file systems. Every look is bounded.

Nothing is left behind: what has to be tried on a disk is tried in a temporary directory inside the git directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from reconciler.values import frozen

ANSWER_S = 10.0
"""How long a program may take to say its version, or bubblewrap to do nothing."""
ANSWER_BYTES_MAX = 64 * 1024
MOUNTS_BYTES_MAX = 4 * 1024 * 1024
PR_GET_CHILD_SUBREAPER = 37


@frozen(kw_only=False)
class Said:
    """How a program answered: its exit status, None if it did not end in time, and its first line."""

    status: int | None
    line: str


def ask(words: Sequence[str]) -> Said | None:
    """Return what a program on PATH says, None if there is none. It gets no input, and what it starts ends with it."""
    path = shutil.which(words[0])
    if path is None:
        return None
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                [path, *words[1:]],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            return Said(127, str(error.strerror))
        try:
            status: int | None = process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        lines = output.read(ANSWER_BYTES_MAX).decode(errors="replace").strip().splitlines()
    return Said(status, lines[0] if lines else "")


def version_of(program: str) -> str | None:
    """Return what a program says of itself, None if it is not there or does not answer."""
    said = ask([program, "--version"])
    return said.line if said is not None and said.status == 0 else None


def kernel_settings(names: Sequence[str]) -> dict[str, str]:
    """Return those settings of the kernel that can be read."""
    found = {}
    for name in names:
        with contextlib.suppress(OSError):
            found[name] = Path("/proc/sys", *name.split(".")).read_text(encoding="ascii").strip()
    return found


def open_files_max() -> int:
    """Return how many files a process may have open, -1 for any number."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return -1 if soft == resource.RLIM_INFINITY else soft


def has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def has_subreaper() -> bool:
    if sys.platform != "linux":
        return False
    found = ctypes.c_int()
    return bool(ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0) == 0)


def has_proc() -> bool:
    return Path("/proc/self/fdinfo").is_dir()


def mounts() -> str:
    """Return what is mounted where, "" where nobody says."""
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        return file.read(MOUNTS_BYTES_MAX)
    return ""


def free_space(directory: Path) -> tuple[int, int | None]:
    """Return the bytes and the files that this user may still write; None where files are not counted."""
    seen = os.statvfs(directory)
    return seen.f_bavail * seen.f_frsize, seen.f_favail if seen.f_files else None


def try_storage(directory: Path) -> tuple[bool, bool]:
    """Return whether locks of files in a directory exclude, and whether a file can have a second name. Raise OSError
    if nothing can be written there."""
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=directory) as place:
        file = Path(place, "file")
        file.write_bytes(b"")
        return _locks_exclude(file), _links(file)


def _locks_exclude(file: Path) -> bool:
    with open(file, "rb") as one, open(file, "rb") as other:
        try:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def _links(file: Path) -> bool:
    try:
        os.link(file, file.with_name("link"))
    except OSError:
        return False
    return file.stat().st_nlink == 2
