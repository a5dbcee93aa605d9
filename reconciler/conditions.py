"""The edge to what stands in the way: `<git directory>/reconciler/conditions.json`, written by passes.

A condition is a name with a reason and since when: `publish` waits because a person's work is in the way, say.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from reconciler.codec import CodecError
from reconciler.disk import DISK, Disk

BYTES_MAX = 1024 * 1024

Conditions = dict[str, dict[str, str]]


def read_conditions(state: Path, disk: Disk = DISK) -> Conditions:
    """Return name -> {reason, since} of every condition that holds."""
    with contextlib.suppress(OSError, CodecError, ValueError, RecursionError, AttributeError):
        data = disk.read_bounded(state / "conditions.json", BYTES_MAX)
        found = json.loads(data) if data else {}
        return {
            name: each for name, each in found.items() if isinstance(each, dict) and {"reason", "since"} <= each.keys()
        }
    return {}


def set_condition(state: Path, name: str, reason: str, at: str, disk: Disk = DISK) -> None:
    """Remember a condition, or with an empty reason that it is over; nothing is written if that is known."""
    known = read_conditions(state, disk)
    if known.get(name, {}).get("reason", "") == reason:
        return
    kept = {each: value for each, value in known.items() if each != name}
    if reason:
        kept[name] = {"reason": reason, "since": at}
    disk.make_directory(state)
    disk.write_atomic(state / "conditions.json", json.dumps(kept, indent=2).encode() + b"\n")
