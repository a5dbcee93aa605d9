"""The edge to the packs in which objects come that git was told to write for us.

`git gc` looks first, at refs and at what lies in the repository, and takes away later: with `--prune=now` all that no
ref led to when it looked, however young. So a loose object is not safe until a ref leads to it, and not even then while
a collection is at work that looked before. A pack is that is marked `.keep` until a ref leads to what is in it: a
collection takes only packs that it saw without that mark when it looked.

So what we make is made in an object directory of its own beside the others, where nobody collects, put whole into one
pack, and taken in with the mark. The newest `MARKED` packs keep it: by then a branch leads to what is in an older one,
or nothing ever will. What is fetched comes in a pack too, which git marks itself until it has moved its refs.

Many small packs make git slow, so those that came into being for us are listed, and put into one when there are
`PACKS_MAX` of them. Writes `<git directory>/reconciler/packs.json`, not synced: a pack that is on no list stays what it
is, one more for the next `git gc`.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from reconciler.disk import DISK
from reconciler.errors import GitFailed

KEPT = ("-c", "fastimport.unpackLimit=0", "-c", "fetch.unpackLimit=1")
"""Options that make git keep the pack of an import or a fetch, of however few objects."""

MARKED = 3
MARK = b"reconciler\n"
PACKS_MAX = 16
"""So many packs of ours lie beside each other. Git itself puts a person's packs together from 50 on."""
PACK_BYTES_MAX = 8 * 1024 * 1024
"""A pack that is larger stays as it is, so that putting together costs the same however much there is."""
LISTED_MAX = 1000
LIST_BYTES_MAX = 128 * 1024
LIST_NAME = "packs.json"
INCOMING = "incoming-reconciler-"
ABANDONED_S = 3600.0
"""What is left by a process that was KILLed is so old: nobody makes a commit for an hour."""

PACK = re.compile(r"(pack-(?:[0-9a-f]{40}|[0-9a-f]{64}))(\.[a-z]+)")
PLAIN = ({".pack", ".idx"}, {".pack", ".idx", ".rev"})
"""What belongs to a pack that may be put into another one. Any other file marks one that is kept, promised by a
remote, about to expire, or has a bitmap."""

Packs = dict[str, set[str]]
"""Pack by name, and the endings of its files."""


class Git(Protocol):
    """What is asked of the repository; a `Repository` is one."""

    @property
    def common(self) -> Path: ...

    @property
    def state(self) -> Path: ...

    def git(self, *arguments: str, standard_input: bytes = b"", config: Sequence[str] = ...) -> str: ...


@contextlib.contextmanager
def incoming(repository: Git) -> Iterator[Path]:
    """Lend an object directory that is gone afterwards; it lies where a pack can be moved from into the repository."""
    objects = repository.common / "objects"
    for each in objects.glob(f"{INCOMING}*"):
        if _is_abandoned(each):
            DISK.remove_tree(each)
    with tempfile.TemporaryDirectory(prefix=INCOMING, dir=objects) as name:
        yield Path(name)


def take_in(repository: Git, made: Path) -> None:
    """Move the packs in a directory into the repository, marked and durable, and list them."""
    place, new = _place(repository), sorted(_packs(made).items())
    DISK.make_directory(place)
    for name, endings in new:
        DISK.write_atomic(place / f"{name}.keep", MARK, sync=False)
        # The index last: by that git finds a pack.
        for ending in sorted(endings, key=lambda each: each == ".idx"):
            DISK.replace(made / f"{name}{ending}", place / f"{name}{ending}")
    DISK.sync_directory(place)
    _note(repository, [name for name, _ in new])


@contextlib.contextmanager
def noted(repository: Git) -> Iterator[None]:
    """List the packs that git takes in meanwhile."""
    before = _packs(_place(repository)).keys()
    try:
        yield
    finally:
        if new := _packs(_place(repository)).keys() - before:
            _note(repository, sorted(new))


def _place(repository: Git) -> Path:
    return repository.common / "objects" / "pack"


def _packs(place: Path) -> Packs:
    found: Packs = {}
    for each in DISK.names(place):
        if named := PACK.fullmatch(each):
            found.setdefault(named[1], set()).add(named[2])
    return found


def _is_abandoned(path: Path) -> bool:
    found = DISK.look(path)
    return found is not None and time.time() - found.changed_ns / 1e9 > ABANDONED_S


# ------------------------------------------------------------------------------------------------ the list


def _note(repository: Git, new: Sequence[str]) -> None:
    """Add packs to the list, take the mark from older ones, and put many into one. What cannot be done now is another
    time: nobody waits for that."""
    with contextlib.suppress(OSError):
        path, place = repository.state / LIST_NAME, _place(repository)
        listed = list(dict.fromkeys((*_listed(path), *new)))
        there = _packs(place)
        left = [each for each in there if each not in listed and _is_left_behind(place, each, there)]
        known = [each for each in (*left, *listed) if ".pack" in there.get(each, ())][-LISTED_MAX:]
        marked = [each for each in known if _is_ours(place, each, there)]
        for each in marked[:-MARKED]:
            DISK.unlink(place / f"{each}.keep")
            there[each].discard(".keep")
        small = [each for each in known if each in marked[-MARKED:] or _bytes(place, each) <= PACK_BYTES_MAX]
        DISK.make_directory(path.parent)
        kept = _gathered(repository, place, there, small)
        DISK.write_atomic(path, json.dumps(kept).encode() + b"\n", sync=False)


def _listed(path: Path) -> list[str]:
    """Return the names on the list, none if it cannot be read."""
    try:
        found = json.loads(DISK.read(path, LIST_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return []
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _is_left_behind(place: Path, name: str, there: Packs) -> bool:
    """Return whether a pack has our mark and was never listed: whoever took it in died over it."""
    return _is_ours(place, name, there) and _is_abandoned(place / f"{name}.keep")


def _is_ours(place: Path, name: str, there: Packs) -> bool:
    """Return whether a pack has our mark. Git marks what it fetches with words of its own."""
    with contextlib.suppress(OSError):
        return ".keep" in there[name] and DISK.read(place / f"{name}.keep", len(MARK) + 1) == MARK
    return False


def _bytes(place: Path, name: str) -> int:
    found = DISK.look(place / f"{name}.pack")
    return found.bytes if found is not None else 0


# ------------------------------------------------------------------------------------------------ many into one


def _gathered(repository: Git, place: Path, there: Packs, names: list[str]) -> list[str]:
    """Put packs into one if they are many, and return what is listed then. All their objects stay, whether a ref leads
    to them or not.

    Where git has an index over many packs it would miss those that are taken away; whoever has it made has small packs
    put together as well.
    """
    plain = [each for each in names if there[each] in PLAIN]
    indexed = any(DISK.exists(place / each) for each in ("multi-pack-index", "multi-pack-index.d"))
    if len(plain) < PACKS_MAX or indexed:
        return names
    try:
        one = _one_of(repository, place, plain)
    except GitFailed:  # one of them is gone by now, or there is no room
        return names
    DISK.sync_directory(place)
    for each in plain:
        if each != one:
            _remove(place, each)
    return [one, *(each for each in names if each not in plain)]


def _one_of(repository: Git, place: Path, names: Sequence[str]) -> str:
    """Write a pack of all objects of these and return its name."""
    feed = "".join(f"{each}.pack\n" for each in names).encode()
    words = ("pack-objects", "--quiet", "--delta-base-offset", "--stdin-packs", str(place / "pack"))
    answer = repository.git(*words, standard_input=feed, config=("pack.packSizeLimit=0",))
    if not PACK.fullmatch(f"pack-{answer}.pack"):
        raise GitFailed(f"git pack-objects: {answer[:100]!r} is not the name of one pack")
    return f"pack-{answer}"


def _remove(place: Path, name: str) -> None:
    """Remove a pack; its index first, by which git finds it."""
    for ending in (".idx", ".rev", ".pack"):
        DISK.unlink(place / f"{name}{ending}")
