"""Files that a verb writes into a checkout for people: nothing of theirs is overwritten, nothing goes through a link.

Each file appears whole or not at all, and of several all or none.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from reconciler import codec
from reconciler.disk import DISK
from reconciler.errors import ContentError, GitFailed, TransientError, UsageError
from reconciler.git import Repository
from reconciler.terminal import table
from reconciler.values import frozen

DONE = {"write": "written", "update": "updated"}


@frozen
class File:
    """A file that shall be there. `action` is `write`, then `written`; `update`, then `updated`, where `before` is to
    be replaced; or `kept` if it is there and stays as it is."""

    path: str
    data: bytes
    action: str = "write"
    before: bytes | None = None


def refuse_bare(repository: Repository) -> None:
    """Raise UsageError if a repository has no checkout to write into."""
    if repository.bare:
        raise UsageError(f"{repository.directory}: a bare repository has no files; run this in a clone of it")


def refuse_detours(root: Path, path: str) -> None:
    """Raise UsageError if a folder on the way to a new file is none: a link may lead out of the repository."""
    for folder in list((root / path).relative_to(root).parents)[:-1]:
        if (root / folder).is_symlink() or ((root / folder).exists() and not (root / folder).is_dir()):
            raise UsageError(f"{root / folder}: is in the way, it is no folder; remove or rename it")


def refuse_existing(root: Path, paths: Sequence[str]) -> None:
    """Raise ContentError if one of these files is there, whatever it is."""
    for path in paths:
        if os.path.lexists(root / path):
            raise ContentError(f"{path}: is there already; choose another id, or remove or rename that file")


def write_new(root: Path, file: File) -> bool:
    """Write a new file and return True; return False if somebody has put one there. Raise TransientError."""
    try:
        return DISK.write_new(root / file.path, file.data)
    except OSError as error:
        raise TransientError(f"{root / file.path}: cannot be written: {error.strerror}") from None


def write_all(root: Path, files: Sequence[File]) -> list[File]:
    """Write new files, then replace those that are to be; leave nothing behind if one of them cannot be."""
    created: list[Path] = []
    try:
        for file in sorted(files, key=lambda each: each.action == "update"):
            if file.action == "update":
                _replace(root, file)
            elif write_new(root, file):
                created.append(root / file.path)
            else:
                raise ContentError(f"{file.path}: somebody has written it meanwhile; choose another id")
    except BaseException:
        for path in created:
            DISK.unlink(path)
        raise
    return [replace(each, action=DONE[each.action]) for each in files]


def _replace(root: Path, file: File) -> None:
    """Replace a file by what was made of its content, unless it says something else by now."""
    path = root / file.path
    try:
        with _alone(path.parent):
            if DISK.read_bounded(path) != file.before:
                raise TransientError(f"{path}: has changed meanwhile; try again")
            DISK.write_atomic(path, file.data, mode=stat.S_IMODE(path.stat().st_mode))
    except (OSError, codec.CodecError) as error:
        raise TransientError(f"{path}: cannot be written: {getattr(error, 'strerror', error)}") from None


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Let one of us at a time replace files of a directory: else one could replace what another has just written."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise TransientError(f"{directory}: another process is writing here; try again") from None
    finally:
        os.close(descriptor)


# ------------------------------------------------------------------------------------------------ what comes next


def to_commit(repository: Repository, words: Sequence[str], message: str) -> list[str]:
    """Return the commands that commit what `words` name, without what git ignores; none if it ignores everything."""
    there = [] if Path.cwd() == repository.directory else [f"cd {shlex.quote(str(repository.directory))}"]
    named = " ".join(map(shlex.quote, words))
    return [*there, *([f"git add {named} && git commit -m {_quoted(message)}"] if words else [])]


def _quoted(message: str) -> str:
    return f'"{message}"' if re.fullmatch(r"[\w :.,/-]*", message, re.ASCII) else shlex.quote(message)


def ignored(repository: Repository, paths: Sequence[str]) -> set[str]:
    """Return the paths that git ignores: naming one of these would make `git add` fail."""
    try:
        answer = repository.git("check-ignore", "-z", "--stdin", standard_input="\0".join(paths).encode())
    except GitFailed as error:
        if error.exit_status == 1:  # git check-ignore: none of them is
            return set()
        raise
    return set(answer.split("\0"))


# ------------------------------------------------------------------------------------------------ output


def show(root: Path, files: Sequence[File]) -> None:
    """Print which files there are to be, and what becomes of them."""
    click.echo(f"In {root}:")
    click.echo(
        table(("ACTION", "FILE", "BYTES"), [(each.action, each.path, str(_size(each) or "-")) for each in files])
    )


def _size(file: File) -> int | None:
    return None if file.action == "kept" else len(file.data)


def patch(file: File) -> str:
    """Return what a file becomes, as a patch that `git apply` takes."""
    import difflib

    before, after = (
        (each or b"").decode(errors="replace").splitlines(keepends=True) for each in (file.before, file.data)
    )
    old = f"a/{file.path}" if file.before is not None else "/dev/null"
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(before, after, old, f"b/{file.path}")
    )


def facts(root: Path, files: Sequence[File], following: Sequence[str]) -> dict[str, Any]:
    """Return the same for programs, and the commands that come next."""
    rows: list[Mapping[str, object]] = [
        {"path": each.path, "action": each.action, "bytes": _size(each)} for each in files
    ]
    return {"directory": str(root), "files": rows, "next": following}
