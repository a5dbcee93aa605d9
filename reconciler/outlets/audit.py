"""The edge to `out/<task>/cloud-sync/audit.jsonl` of the checkout: a line for every try to deliver something.

It is never committed (`info/exclude`), bounded by rotation, and holds neither secrets nor traces of our code. It is
written by the thread that delivers, one at a time.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from reconciler import codec
from reconciler.disk import Disk
from reconciler.values import frozen

EXCLUDED = "/out/*/cloud-sync/"
BYTES_MAX = 1024 * 1024
"""A file of this size makes room: it is kept as `audit.1.jsonl`, and the one before it is gone."""


@frozen
class Line:
    """One try. `result` is `delivered`, `retry` or `dead`; `said` is what the other side answered, or why there was no
    answer."""

    at: str
    outlet: str
    delivery: str
    run_id: str
    attempt: int
    try_number: int
    result: str
    said: str
    duration_s: float


def write(disk: Disk, checkout: Path, task_id: str, line: Line) -> None:
    """Append a line to the audit of a task. Raise OSError if a link leads elsewhere, or the disk refuses."""
    directory = checkout / "out" / task_id / "cloud-sync"
    for each in (checkout / "out", directory.parent, directory):
        disk.make_directory(each, sync=False) if disk.look(each) is None else _real(each)
    path = directory / "audit.jsonl"
    found = disk.look(path)
    if found is not None and found.bytes >= BYTES_MAX:
        disk.replace(path, directory / "audit.1.jsonl")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o644)
    try:
        os.write(descriptor, codec.compact(line))
    finally:
        os.close(descriptor)


def _real(directory: Path) -> None:
    """Raise NotADirectoryError for what is no directory of the checkout itself."""
    if not stat.S_ISDIR(directory.lstat().st_mode):
        raise NotADirectoryError(20, "Not a directory", str(directory))
