"""What comes together stays together: one pack is durable with a few syncs, loose objects take one each."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.git import PACKED_OBJECTS_MIN, PACKS_MAX, Draft, Repository, open_repository
from reconciler.remote import RefUpdate, open_remote, write_notes
from tests.scratch import ENVIRONMENT, Scratch

MAIN = "refs/heads/main"


@dataclass(frozen=True)
class Ground:
    """Two clones of one remote, and the commit that its branch is at."""

    writer: Repository
    reader: Repository
    base: str


@pytest.fixture
def ground(scratch: Scratch) -> Iterator[Ground]:
    scratch.write("README.md", "read\n")
    base = scratch.commit()
    bare = scratch.outside / "bare.git"
    clones = []
    git("clone", "-q", "--bare", str(scratch.path), str(bare))
    for name in ("writer", "reader"):
        git("clone", "-q", str(bare), str(scratch.outside / name))
        clones.append(open_repository(scratch.outside / name))
    yield Ground(clones[0], clones[1], base)
    for each in clones:
        each.objects.close()


def git(*words: str) -> None:
    subprocess.run(["git", *words], env=ENVIRONMENT, check=True, capture_output=True, timeout=60)


def packs(repository: Repository) -> int:
    return len(list((repository.common / "objects/pack").glob("*.pack")))


def fill(repository: Repository) -> None:
    """Let there be as many packs as git shall have to open at most."""
    for number in range(PACKS_MAX):
        Path(repository.common, f"objects/pack/pack-{number:040x}.pack").touch()


def commit(ground: Ground, files: int) -> str:
    made = {f"out/{number}": b"%d of %d\n" % (number, files) for number in range(files)}
    draft = Draft(parent=ground.base, files=made, message="m\n", identity="A <a@b.invalid>", epoch_s=1_700_000_000)
    return ground.writer.make_commit(draft)


def bring(ground: Ground, new: str) -> None:
    """Push a commit, and fetch it into the other clone."""
    writer, reader = (open_remote(each, "origin") for each in (ground.writer, ground.reader))
    assert writer is not None and reader is not None
    assert not writer.push([RefUpdate(ref=MAIN, old=ground.base, new=new)])
    assert reader.fetch(["main"])[MAIN] == new


def test_a_commit_of_evidence_is_one_pack_here_and_where_it_is_fetched(ground: Ground) -> None:
    before = packs(ground.writer), packs(ground.reader)
    new = commit(ground, PACKED_OBJECTS_MIN)
    bring(ground, new)
    assert (packs(ground.writer), packs(ground.reader)) == (before[0] + 1, before[1] + 1)
    assert ground.reader.look_up([f"{new}:out/0"]) == ground.writer.look_up([f"{new}:out/0"]) != (None,)


def test_where_there_are_many_packs_no_more_are_made(ground: Ground) -> None:
    for each in (ground.writer, ground.reader):
        fill(each)
    before = packs(ground.writer), packs(ground.reader)
    new = commit(ground, PACKED_OBJECTS_MIN)
    bring(ground, new)
    assert (packs(ground.writer), packs(ground.reader)) == before
    assert ground.reader.look_up([f"{new}:out/0"]) != (None,)


def test_a_note_and_what_is_small_are_no_packs(ground: Ground) -> None:
    before = packs(ground.writer)
    write_notes(ground.writer, [b"a note\n"], "A <a@b.invalid>", 1_700_000_000)
    commit(ground, 1)
    assert packs(ground.writer) == before


def test_what_a_killed_git_leaves_beside_packs_is_none(ground: Ground) -> None:
    for number in range(PACKS_MAX):
        Path(ground.writer.common, f"objects/pack/tmp_pack_{number}").touch()
    assert ground.writer.packing()
