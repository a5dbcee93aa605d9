"""Whether what a run is about to hand over holds a secret: then it stays here.

The files of a branch are an agent's work and cannot be redacted without being broken, so a secret in them is a reason
not to make the branch at all: not one of its objects is written. A guess by the name before a value (`password = ...`)
is none, because source code is full of those; neither is what the file held before.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from reconciler.confided import confided
from reconciler.git import Entry, Repository
from reconciler.model import Plan, Redact
from reconciler.patience import Patience
from reconciler.redact import Redactor, secret_values

CHUNK_BYTES = 1024 * 1024
PATCH_BYTES_MAX = 1024
"""Of the change only the names are wanted."""
GUESSED = frozenset({"secret"})


def revealed(repository: Repository, workspace: Path, plan: Plan) -> str:
    """Return which secrets the change in a workspace would reveal, "" if none or if nobody is to look."""
    if plan.redact.mode != "enforce":
        return ""
    with tempfile.TemporaryDirectory() as place:
        change = repository.change(workspace, plan.commit, Path(place) / "index", PATCH_BYTES_MAX)
    paths = [path for path, _, _ in change.stats]
    return _first(repository, plan, paths, lambda path: _content(workspace / path), ())


def revealed_by(
    repository: Repository, plan: Plan, files: Mapping[str, Entry | None], hidden: Sequence[bytes] = ()
) -> str:
    """Return which secrets files of a tree would reveal, "" if none or if nobody is to look; None for a file is one
    that goes. `hidden` are further secrets."""
    if plan.redact.mode != "enforce":
        return ""
    there = {path: entry.oid for path, entry in files.items() if entry is not None}
    return _first(repository, plan, sorted(files), lambda path: _blob(repository, there.get(path)), hidden)


def _first(
    repository: Repository,
    plan: Plan,
    paths: Sequence[str],
    content: Callable[[str], Iterable[bytes]],
    hidden: Sequence[bytes],
) -> str:
    """Return what the first path would reveal that holds a secret which it did not hold at the commit of the run."""
    values = (*hidden, *confided(), *secret_values(os.environ))
    before = _before(repository, plan, paths, values)
    for path in paths:
        new = _found(plan.redact, values, (os.fsencode(path), b"\n", *content(path)))
        if more := sorted(kind for kind, count in new.items() if count > before.get(path, {}).get(kind, 0)):
            shown = Redactor.of(plan.redact, values, Patience())
            name = (shown.feed(os.fsencode(path)) + shown.flush()).decode(errors="replace")
            return f"{name} would reveal a secret ({', '.join(more)})"
    return ""


def _before(
    repository: Repository, plan: Plan, paths: Sequence[str], values: Sequence[bytes]
) -> Mapping[str, Mapping[str, int]]:
    """Return what each file already held at the commit of the run."""
    entries = repository.files_at(plan.commit, paths)
    blobs = repository.blobs([each.oid for each in entries])
    named = ((each.path, data) for each, (_, data) in zip(entries, blobs, strict=True))
    return {path: _found(plan.redact, values, (os.fsencode(path), b"\n", data or b"")) for path, data in named}


def _found(redact: Redact, values: Sequence[bytes], data: Iterable[bytes]) -> dict[str, int]:
    """Return how many secrets of which kind are in bytes that come in any pieces."""
    redactor = Redactor.of(redact, values, Patience())
    for chunk in data:
        redactor.feed(chunk)
    redactor.flush()
    return {kind: count for kind, count in redactor.counts.items() if kind not in GUESSED}


def _blob(repository: Repository, oid: str | None) -> Iterator[bytes]:
    """Yield what is in a blob; of none nothing."""
    for _, data in repository.blobs([oid] if oid is not None else []):
        large = data is None and oid is not None
        yield repository.blob(oid) if large and oid is not None else data or b""


def _content(path: Path) -> Iterator[bytes]:
    """Yield what git would keep of a file: of a link where it leads to, of one that was removed nothing."""
    if path.is_symlink():
        yield os.fsencode(os.readlink(path))
    elif path.is_file():
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
