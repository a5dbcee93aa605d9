"""Clones that speak with one name: the disk of a virtual machine was copied, and everything that names a host with it.

Each of them takes what the other one claims for its own, and goes on with it at once. Nothing on the disk tells them
apart, but what they say does: this clone notes every claim and announcement before it is pushed, so what the remote
holds in its name and is not noted was said by another one. Whoever sees that takes a new name. From then on all that
stands there in the old one is somebody else's, whoever of the two said it: what runs here by it is ended, and nobody
goes on with it before that name was silent for its lease.
"""

from __future__ import annotations

from reconciler.hearing import Hearing
from reconciler.host import Said, note_said, read_said, rename_host
from reconciler.model import claim_ref, host_ref
from reconciler.world import World


def strangers(world: World, hearing: Hearing) -> tuple[str, ...]:
    """Return what the remote holds in the name of this host and was not said by this clone, by object id."""
    spoken = _in_the_name_of(world.host() or "", hearing)
    said = read_said(world.disk, world.repository.state) if spoken else None
    # Nothing was noted by an earlier version: what stands in its name there is taken for its own, once.
    return tuple(each for each in spoken if each not in said.oids) if said is not None else ()


def note(world: World, hearing: Hearing, oids: tuple[str, ...]) -> None:
    """Note, synced, what this clone is about to say at the remote. Raise OSError if that cannot be written."""
    state = world.repository.state
    said = read_said(world.disk, state) or Said(oids=_in_the_name_of(world.host() or "", hearing))
    note_said(world.disk, state, said, oids, frozenset(hearing.refs.values()))


def part(world: World, hearing: Hearing) -> str:
    """Take a new name if another clone speaks with the one of this host; return what is to be said of that for as long
    as the remote holds anything in the old one, "" if nothing is."""
    state = world.repository.state
    if strangers(world, hearing):
        rename_host(world.disk, state, world.machine, world.chance)
    said, me = read_said(world.disk, state), world.host()
    if said is None or said.was in ("", me) or not _in_the_name_of(said.was, hearing):
        return ""
    return (
        f"another clone speaks as {said.was}, as this one did: a copy of its machine? This one is {me} now, and what "
        f"was claimed as {said.was} is left alone until nobody has spoken so for a lease"
    )


def _in_the_name_of(host: str, hearing: Hearing) -> tuple[str, ...]:
    """Return what the remote holds in a name: claims and the announcement, by object id."""
    refs = [claim_ref(run_id) for run_id, claim in hearing.claims.items() if claim.host == host]
    refs += [host_ref(host)] if host_ref(host) in hearing.refs else []
    return tuple(hearing.refs[each] for each in refs)
