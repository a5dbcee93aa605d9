"""The edge to who this machine is among those that share a remote: `<git directory>/reconciler/host.json`.

A host is one clone on one machine, because claims and locks live in the clone. A copied clone (a snapshot, a restored
cache) must not speak with the name of its original: the name counts only where machine and directory are the same.
Written once, by the first pass that needs it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from pathlib import Path

from reconciler import codec
from reconciler.disk import Disk
from reconciler.model import HostId
from reconciler.process import Chance
from reconciler.values import frozen


@frozen
class Identity:
    host: HostId
    machine: str


def machine_of(directory: Path) -> str:
    """Return what tells this machine and this directory from every copy of them."""
    seen = os.stat(directory)
    known = ""
    with contextlib.suppress(OSError):
        known = Path("/etc/machine-id").read_text(encoding="ascii", errors="replace").strip()
    return f"{known} {platform.node()} {seen.st_dev}:{seen.st_ino}"


def read_host(disk: Disk, state: Path, machine: str) -> HostId | None:
    """Return the name of this host, None if it has none yet."""
    with contextlib.suppress(codec.CodecError, OSError):
        data = disk.read_bounded(state / "host.json", 4096)
        found = None if data is None else codec.parse(Identity, data)
        return found.host if found is not None and found.machine == machine else None
    return None


def name_host(disk: Disk, state: Path, machine: str, chance: Chance) -> HostId:
    """Give this host a name nobody else has, unless it has one, and return it."""
    known = read_host(disk, state, machine)
    if known is not None:
        return known
    word = re.sub(r"[^a-z0-9]+", "-", machine.split(" ")[-2].lower()).strip("-")[:40] or "host"
    identity = Identity(host=HostId(f"{word}-{chance.nonce()[:8]}"), machine=machine)
    disk.make_directory(state)
    disk.write_atomic(state / "host.json", codec.compact(identity))
    return identity.host
