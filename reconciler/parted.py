"""Attempts that are over for their host and that their engine may show again: for a while they are looked for. Pure.

An engine can be wrong about the end of an attempt: a node that was given up comes back with all that runs on it. By
then the run goes on elsewhere, and the ref of the old attempt is gone, so that nothing it says is heard; but it is told
to end as well, by its engine, because it may not reach the remote.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from reconciler.model import Instant
from reconciler.places import Sighting, Standing
from reconciler.values import frozen

KEPT_S = 3600.0
"""How long an attempt is looked for after it was over."""
KEPT_MAX = 200
ASKED_S = 30.0
"""How often engines are asked about them."""
TOLD_MAX = 20
"""So often one is told to end at most."""


@frozen
class Parted:
    """An attempt that is over for its host since `at`: where it was, and how often it was told to end since then."""

    executor: str
    at: Instant
    told: int = 0


def kept(parted: Mapping[str, Parted], now: Instant) -> dict[str, Parted]:
    """Return those that are still looked for: of this boot, not for too long, and the newest of many."""
    found = {
        handle: each
        for handle, each in parted.items()
        if each.at.boot_id == now.boot_id and now.monotonic_s - each.at.monotonic_s < KEPT_S
    }
    newest = sorted(found, key=lambda handle: found[handle].at.monotonic_s)[-KEPT_MAX:]
    return found if len(found) <= KEPT_MAX else {handle: found[handle] for handle in newest}


def by_executor(parted: Mapping[str, Parted]) -> dict[str, list[str]]:
    """Return the handles that an engine is asked about, by its executor."""
    found: dict[str, list[str]] = {}
    for handle, each in parted.items():
        found.setdefault(each.executor, []).append(handle)
    return found


def came_back(parted: Mapping[str, Parted], seen: Mapping[str, Sighting]) -> list[str]:
    """Return those that an engine executes again, or will, and that are told to end."""
    living = [handle for handle, each in seen.items() if each.standing in (Standing.QUEUED, Standing.RUNNING)]
    return [handle for handle in living if handle in parted and parted[handle].told < TOLD_MAX]


def told(each: Parted) -> Parted:
    """Return one that was told to end once more."""
    return replace(each, told=each.told + 1)
