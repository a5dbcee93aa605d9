"""The edge to what a pass remembers for the next process: `<git directory>/reconciler/cache.json`.

Everything in it can be computed again from git objects, and is keyed by their ids, so it can be lost, stale or
damaged without harm: then the next pass takes longer, and that is all.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler import __version__
from reconciler.codec import CodecError
from reconciler.disk import DISK, Disk

FORMAT = f"4-{__version__}"
RECURRING = "*"
BYTES_MAX = 256 * 1024 * 1024


@dataclass(slots=True)
class Cache:
    """`requests` maps a path below runs.d to [blob, run id or None, task, problems], the run id being RECURRING where
    it follows from more than the request; of an approval to [blob, None, the run it is about, problems]. `evidence`
    maps a run id to [task, name, status, attempt, completed_at, duration_s, manifest blob, what it waits for or None,
    its stages that can be cited by their keys or None, the number of stages that cite others, the branch a pull request
    of it is wanted into or ""].
    `*_tree` is the git tree each speaks of.
    `arrivals` maps a path below runs.d to [number, committer time] as of the commit `arrivals_tip`, where
    runs.d is the tree `arrivals_tree`. `changed` says whether it differs from what is written down."""

    requests_tree: str | None = None
    requests: dict[str, list[Any]] = field(default_factory=dict)
    evidence_tree: str | None = None
    evidence: dict[str, list[Any]] = field(default_factory=dict)
    arrivals_tip: str | None = None
    arrivals_tree: str | None = None
    arrivals: dict[str, list[Any]] = field(default_factory=dict)
    changed: bool = field(default=False, init=False)


def read_cache(path: Path, disk: Disk = DISK) -> Cache:
    """Return what was remembered, or an empty cache."""
    with contextlib.suppress(OSError, CodecError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        data = json.loads(disk.read_bounded(path, BYTES_MAX) or b"{}")
        if data.pop("format", "") == FORMAT:
            return _checked(Cache(**data))
    return Cache()


def _checked(cache: Cache) -> Cache:
    sound = isinstance(cache.requests, dict) and isinstance(cache.evidence, dict)
    rows = all(type(row) is list and len(row) == 4 for row in cache.requests.values()) if sound else False
    rows = rows and all(type(row) is list and len(row) == 11 for row in cache.evidence.values())
    return cache if rows and all(_is_arrival(row) for row in cache.arrivals.values()) else Cache()


def _is_arrival(row: object) -> bool:
    return type(row) is list and len(row) == 2 and all(type(each) is int for each in row)


def write_cache(path: Path, cache: Cache, disk: Disk = DISK) -> None:
    disk.make_directory(path.parent)
    document = {
        "format": FORMAT,
        "requests_tree": cache.requests_tree,
        "requests": cache.requests,
        "evidence_tree": cache.evidence_tree,
        "evidence": cache.evidence,
        "arrivals_tip": cache.arrivals_tip,
        "arrivals_tree": cache.arrivals_tree,
        "arrivals": cache.arrivals,
    }
    disk.write_atomic(path, json.dumps(document, separators=(",", ":")).encode())
