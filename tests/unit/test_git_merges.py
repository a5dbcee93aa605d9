"""A merge that is only looked at: what it gives, what is in conflict, and that nothing of the repository is touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.git import Repository, open_repository
from tests.scratch import Scratch


@pytest.fixture
def repository(scratch: Scratch) -> Iterator[Repository]:
    scratch.write("a.txt", "one\ntwo\nthree\n")
    scratch.commit("first")
    found = open_repository(scratch.path)
    yield found
    found.objects.close()


def branched(scratch: Scratch, ours: str, theirs: str, path: str = "a.txt") -> tuple[str, str]:
    """Commit two texts of one file on two branches and return both commits."""
    scratch.git("checkout", "-q", "-b", "topic")
    scratch.write(path, theirs)
    head = scratch.commit("theirs")
    scratch.git("checkout", "-q", "main")
    scratch.write(path, ours)
    return scratch.commit("ours"), head


def objects(scratch: Scratch) -> set[Path]:
    return set((scratch.path / ".git").rglob("*"))


def test_both_sides_are_in_the_result_and_nothing_is_touched(
    scratch: Scratch, repository: Repository, tmp_path: Path
) -> None:
    base, head = branched(scratch, "ONE\ntwo\nthree\n", "one\ntwo\nTHREE\n")
    place = tmp_path / 'with "quotes" and : colons'
    place.mkdir()
    before = objects(scratch)
    merged = repository.merged(base, head, place)
    assert merged.conflicts == ()
    assert objects(scratch) == before
    assert repository.look_up([merged.tree]) == (None,)
    there = repository.with_objects(place)
    [oid] = there.look_up([f"{merged.tree}:a.txt"])
    assert list(there.blobs([oid or ""])) == [(oid, b"ONE\ntwo\nTHREE\n")]
    assert there.look_up([base]) == (base,)
    there.objects.close()


def test_conflicts_are_named(scratch: Scratch, repository: Repository, tmp_path: Path) -> None:
    base, head = branched(scratch, "ours\n", "theirs\n", "böse name.txt")
    assert repository.merged(base, head, _made(tmp_path)).conflicts == ("böse name.txt",)


def test_nobodys_merge_driver_runs(scratch: Scratch, repository: Repository, tmp_path: Path) -> None:
    mark = scratch.outside / "driven"
    scratch.git("config", "merge.evil.driver", f"touch {mark}; true")
    scratch.write(".gitattributes", "* merge=evil\n")
    scratch.commit("attributes")
    base, head = branched(scratch, "ours\n", "theirs\n")
    assert repository.merged(base, head, _made(tmp_path)).conflicts == ("a.txt",)
    assert not mark.exists()


def _made(place: Path) -> Path:
    (place / "objects").mkdir()
    return place / "objects"
