"""The edge to what stands in the way: `<git directory>/reconciler/conditions.json`, written by passes.

A condition is a name with a reason and since when: `publish` waits because a person's work is in the way, say.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from reconciler.rundir import write_atomic

Conditions = dict[str, dict[str, str]]


def read_conditions(state: Path) -> Conditions:
    """Return name -> {reason, since} of every condition that holds."""
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
        found = json.loads((state / "conditions.json").read_bytes())
        return {
            name: each for name, each in found.items() if isinstance(each, dict) and {"reason", "since"} <= each.keys()
        }
    return {}


def set_condition(state: Path, name: str, reason: str, at: str) -> None:
    """Remember a condition, or with an empty reason that it is over; nothing is written if that is known."""
    known = read_conditions(state)
    if known.get(name, {}).get("reason", "") == reason:
        return
    kept = {each: value for each, value in known.items() if each != name}
    if reason:
        kept[name] = {"reason": reason, "since": at}
    state.mkdir(parents=True, exist_ok=True)
    write_atomic(state / "conditions.json", json.dumps(kept, indent=2).encode() + b"\n")
