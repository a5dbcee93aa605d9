"""What was written before a secret was handed out, gone through again before it becomes evidence.

A worker redacts what it knows. What the broker handed out later may stand in the records of a run that was under way by
then, or was executed under a reconciler that knew other secrets. The publisher commits none of it, and takes it out of
the logs on this machine, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler.confided import confided
from reconciler.disk import Disk
from reconciler.errors import TransientError
from reconciler.manifest import Records
from reconciler.scrub import scrubbed, scrubbed_attempt

LOG_BYTES_MAX = 256 * 1024 * 1024
"""A worker keeps a quarter of that at most; a log that is longer was written by somebody else."""


def unsayable(mode: str) -> tuple[bytes, ...]:
    """Return what no evidence may say, the longest first: nothing where settings let everything pass."""
    return confided() if mode == "enforce" else ()


def clean_records(records: Records, values: Sequence[bytes]) -> Records:
    """Return records without the values in what stages, agents and roles said."""
    if not values:
        return records
    return replace(records, attempts={each: scrubbed_attempt(said, values) for each, said in records.attempts.items()})


def clean_log(disk: Disk, path: str, command: dict[str, Any], values: Sequence[bytes]) -> None:
    """Take values out of a log on disk, and note in the manifest what it is now. Raise TransientError if it is too long
    to be gone through."""
    found = disk.look(path) if values else None
    if found is None:
        return
    if found.bytes > LOG_BYTES_MAX:
        raise TransientError(f"{path}: it has {found.bytes} bytes; at most {LOG_BYTES_MAX} are searched for secrets")
    data = disk.read(path, found.bytes)
    clean = scrubbed(data, values)
    if clean is not data:
        disk.write_atomic(Path(path), clean)
        command["log_bytes"], command["log_sha256"] = len(clean), hashlib.sha256(clean).hexdigest()


def clean_file(data: bytes, named: dict[str, Any], values: Sequence[bytes]) -> bytes:
    """Return a file of evidence without the values, and note in what names it what it is now."""
    clean = scrubbed(data, values)
    if clean is not data:
        named["bytes"], named["sha256"] = len(clean), hashlib.sha256(clean).hexdigest()
    return clean
