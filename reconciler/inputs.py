"""What a request with `on_change` is run for: paths at a commit, by the object ids of what lies there. Pure.

What the reconciler itself writes must never ask for another run: records cannot be named, and of a checklist the lines
of items do not count.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from reconciler.globs import matches

RECORDS = (".runs", "out")
REGISTRY = "tasks/index.json"
ITEM = b"<!-- item:"


def path_fault(path: str) -> tuple[str, str] | None:
    """Return what is wrong with a path in `on_change` and what would be right, None if nothing is."""
    first = path.split("/", maxsplit=1)[0]
    if path.rstrip("/") in (".", ""):
        return "it names the whole repository, evidence included", "name what the run reads, such as src"
    if "" in path.split("/") or "." in path.split("/"):
        return f"'{path}' is not a plain path", "write it without a '/' at the end, '//' and '.'"
    if first in RECORDS or path == REGISTRY:
        return f"'{path}' is written by the reconciler, so every run would ask for the next", "remove it"
    if set(path) & set("*?["):
        return f"'{path}' is a pattern", "name the folder or the file"
    return None


def may_hold_checklists(path: str, checklists: Sequence[str]) -> bool:
    """Return whether a path is, or may hold, something that the publisher edits."""
    return any(_meets(path, start) for start in (*(start_of(each) for each in checklists), REGISTRY))


def start_of(pattern: str) -> str:
    """Return the folders of a pattern before its first sign that stands for others."""
    literal = re.split(r"[*?]", pattern)[0]
    return literal if literal == pattern else literal.rpartition("/")[0]


def _meets(path: str, start: str) -> bool:
    return not start or path == start or path.startswith(f"{start}/") or start.startswith(f"{path}/")


def is_record(path: str) -> bool:
    """Return whether a file is written by the reconciler as a whole."""
    return path.split("/", maxsplit=1)[0] in RECORDS or path == REGISTRY


def is_edited(path: str, checklists: Sequence[str]) -> bool:
    """Return whether the publisher may edit single lines of a file."""
    return matches(checklists, path)


def of_checklist(data: bytes) -> str:
    """Return an id for what a checklist says beside its items."""
    lines = (each for each in data.splitlines(keepends=True) if ITEM not in each)
    return hashlib.sha256(b"".join(lines)).hexdigest()


def of_files(files: Iterable[tuple[str, str]]) -> str:
    """Return an id for files by path and id, in their order."""
    whole = hashlib.sha256()
    for path, oid in files:
        whole.update(f"{path}\0{oid}\0".encode(errors="surrogateescape"))
    return whole.hexdigest()
