"""The lease of a host: how long the runs that it executes are its own. Passes write it, workers read it.

A lease that ran out is not renewed, it begins anew: others may have taken runs over meanwhile. A worker goes by the
lease under which it was spawned and by no later one, since on a machine that was suspended it may not have looked at
the clock when the next pass is heard by the remote.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from reconciler import codec
from reconciler.disk import Disk
from reconciler.model import Instant
from reconciler.values import frozen

LEASE = "lease.json"
OVER = float("-inf")


@frozen
class Lease:
    """`lease.json`: since when without a break, and until when, in seconds of the clock that goes on while a machine is
    suspended (`World.lease_now`)."""

    boot_id: str
    since_s: float
    until_s: float


@frozen
class Leased:
    """What an attempt goes by: where its host writes the lease down, and since when it held when the worker was
    spawned."""

    path: Path
    since_s: float

    def until_s(self, disk: Disk, boot_id: str) -> float:
        """Return until when the attempt is this machine's, OVER if the lease has run out since, or cannot be read."""
        found = read_lease(disk, self.path)
        if found is None or found.boot_id != boot_id or found.since_s != self.since_s:
            return OVER
        return found.until_s


def read_lease(disk: Disk, path: Path) -> Lease | None:
    """Return the lease that is written down; a damaged file counts as none, and the next renewal replaces it."""
    with contextlib.suppress(codec.CodecError):
        data = disk.read_bounded(path)
        return None if data is None else codec.parse(Lease, data)
    return None


def leased(disk: Disk, path: Path) -> Leased:
    """Return what an attempt goes by that is spawned now."""
    found = read_lease(disk, path)
    return Leased(path=path, since_s=found.since_s if found is not None else OVER)


def renew_lease(disk: Disk, path: Path, began: Instant, now: Instant, seconds: float) -> None:
    """Take the lease for some seconds from when the remote was about to hear of this host. It goes on if it has not run
    out by now: while the remote answered, too, others may have taken runs over. Raise OSError."""
    before, since_s = read_lease(disk, path), began.monotonic_s
    if before is not None and before.boot_id == now.boot_id and now.monotonic_s < before.until_s:
        since_s = before.since_s
    lease = Lease(boot_id=began.boot_id, since_s=since_s, until_s=began.monotonic_s + seconds)
    disk.write_atomic(path, codec.compact(lease), sync=False)
