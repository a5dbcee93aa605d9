"""The edge to who this machine is among those that share a remote: `<git directory>/reconciler/host.json`.

A host is one clone on one machine, because claims and locks live in the clone. A copied clone (a snapshot, a restored
cache) must not speak with the name of its original: the name counts only where machine and directory are the same.
Where these are the same too (a copied virtual machine), what was said tells the copies apart (`namesakes`): so it is
noted in `said.json` beside it, synced, before the remote hears of it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from reconciler import codec
from reconciler.disk import Disk
from reconciler.model import HostId
from reconciler.process import Chance
from reconciler.values import frozen

SAID_MAX = 256
"""So many of the newest notes are kept beside those that the remote holds: a push can arrive late."""
SAID_BYTES_MAX = 16 * 1024 * 1024


@frozen
class Identity:
    host: HostId
    machine: str


@frozen
class Said:
    """`said.json`: the claims and announcements of this clone by object id, the newest last. `was` is the name that it
    gave up last because another clone speaks with it."""

    oids: tuple[str, ...] = ()
    was: str = ""


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
    return give_name(disk, state, machine, _new_name(machine, chance))


def give_name(disk: Disk, state: Path, machine: str, name: HostId) -> HostId:
    """Let this host have a name in which it has said nothing yet, and return it."""
    disk.make_directory(state)
    _write_said(disk, state, Said())
    return _write_name(disk, state, machine, name)


def rename_host(disk: Disk, state: Path, machine: str, chance: Chance) -> HostId:
    """Give this host another name than it has, because somebody else speaks with that one, and return it. Who dies
    before it has the new name does the same again."""
    said = read_said(disk, state) or Said()
    _write_said(disk, state, Said(oids=said.oids, was=read_host(disk, state, machine) or ""))
    return _write_name(disk, state, machine, _new_name(machine, chance))


def _new_name(machine: str, chance: Chance) -> HostId:
    word = re.sub(r"[^a-z0-9]+", "-", machine.split(" ")[-2].lower()).strip("-")[:40] or "host"
    return HostId(f"{word}-{chance.nonce()[:8]}")


def _write_name(disk: Disk, state: Path, machine: str, name: HostId) -> HostId:
    disk.write_atomic(state / "host.json", codec.compact(Identity(host=name, machine=machine)))
    return name


def read_said(disk: Disk, state: Path) -> Said | None:
    """Return what this clone has said, None if nobody ever noted it; what cannot be read any more says nothing."""
    try:
        data = disk.read_bounded(state / "said.json", SAID_BYTES_MAX)
        return None if data is None else codec.parse(Said, data)
    except (codec.CodecError, OSError):
        return Said()


def note_said(disk: Disk, state: Path, said: Said, oids: Sequence[str], there: Collection[str]) -> None:
    """Add to what this clone has said what it is about to say; of the rest, what the remote holds (`there`) and the
    newest is kept."""
    recent = set(said.oids[-SAID_MAX:])
    kept = tuple(each for each in said.oids if each in recent or each in there)
    _write_said(disk, state, Said(oids=(*kept, *oids), was=said.was))


def _write_said(disk: Disk, state: Path, said: Said) -> None:
    disk.write_atomic(state / "said.json", codec.compact(said))
