"""The edge to whose turn it was: `<git directory>/reconciler/turns.json`, when this host launched what task last.

Written by the pass that launches, read by the next one, so that tasks take turns across processes. It moves tasks in a
line and does nothing else: lost, stale or damaged, it costs each task one turn.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from reconciler.codec import CodecError
from reconciler.disk import DISK, Disk

TASKS_MAX = 1000
BYTES_MAX = 256 * 1024


def read_turns(path: Path, disk: Disk = DISK) -> dict[str, float]:
    """Return when tasks were served last, in seconds since 1970; none where that cannot be read."""
    with contextlib.suppress(OSError, CodecError, ValueError, RecursionError):
        found = json.loads(disk.read_bounded(path, BYTES_MAX) or b"{}")
        if isinstance(found, dict) and all(_is_time(each) for each in found.values()):
            return found
    return {}


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def note_turns(path: Path, served: Mapping[str, float], tasks: Iterable[str], now_s: float, disk: Disk = DISK) -> None:
    """Write down that these tasks were served now; of very many, those are forgotten that were served longest ago."""
    known = {**served, **dict.fromkeys(tasks, now_s)}
    newest = sorted(known.items(), key=lambda each: (-each[1], each[0]))[:TASKS_MAX]
    disk.make_directory(path.parent)
    disk.write_atomic(path, json.dumps(dict(newest), separators=(",", ":")).encode(), sync=False)
