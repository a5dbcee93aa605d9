"""What we make stays where somebody collects garbage at any instant, and does not lie about in many packs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reconciler.errors import GitFailed
from reconciler.git import Draft, Repository, open_repository
from reconciler.packs import INCOMING, LIST_NAME, MARK, MARKED, PACK_BYTES_MAX, PACKS_MAX
from reconciler.remote import RefUpdate, open_remote, read_notes, write_notes
from tests.scratch import Hub, Scratch

WHO = "R <r@example.invalid>"
NOW = 1_700_000_000
FOLDER = {".runs/t/cli/r/commands/01-s.log": b"the same log\n", ".runs/t/cli/r/commands/02-s.log": b"another\n"}


@pytest.fixture
def repository(scratch: Scratch) -> Iterator[Repository]:
    scratch.write("README.md", "hello\n")
    scratch.write("d/a", "1\n")
    scratch.commit("first")
    found = open_repository(scratch.path)
    yield found
    found.objects.close()


def tip(repository: Repository) -> str:
    return repository.commit_of("main") or ""


def make(repository: Repository, *, message: str = "m", **files: bytes) -> str:
    wanted = {**FOLDER, **files}
    draft = Draft(parent=tip(repository), files=wanted, message=f"{message}\n", identity=WHO, epoch_s=NOW)
    return repository.make_commit(draft)


def place(repository: Repository) -> Path:
    return repository.common / "objects/pack"


def packs(repository: Repository, ending: str = ".pack") -> set[str]:
    return {each.stem for each in place(repository).glob(f"*{ending}")}


def unmark(repository: Repository) -> None:
    for each in place(repository).glob("*.keep"):
        each.unlink()


def age(path: Path) -> None:
    os.utime(path, (NOW, NOW))


def is_sound(scratch: Scratch) -> bool:
    """Return whether every ref leads to what is there, as a person's git sees it."""
    scratch.git("rev-list", "--objects", "--all", "--quiet")
    return scratch.git("fsck", "--full", "--no-dangling") == ""


# ------------------------------------------------------------------------------------------------ garbage collection


def snapshot(repository: Repository) -> str:
    workspace = repository.common / "work"
    workspace.mkdir()
    (workspace / "README.md").write_text("changed\n")
    found = repository.snapshot(workspace, tip(repository), message="m", identity=WHO, epoch_s=NOW)
    assert found is not None
    return found


@pytest.mark.parametrize("made", [make, snapshot])
def test_a_collection_before_a_ref_leads_to_a_commit_takes_nothing_of_it(
    repository: Repository, scratch: Scratch, made: Callable[[Repository], str]
) -> None:
    commit = made(repository)
    assert repository.look_up(["refs/reconciler/publish"]) == (None,)
    scratch.git("gc", "-q", "--prune=now")
    repository.create_branch("made", commit)
    assert is_sound(scratch)
    scratch.git("gc", "-q", "--prune=now")
    assert is_sound(scratch)


def test_a_collection_before_a_checkout_moves_takes_nothing(repository: Repository, scratch: Scratch) -> None:
    old, commit = tip(repository), make(repository)
    scratch.git("gc", "-q", "--prune=now")
    repository.advance("main", old, commit)
    assert is_sound(scratch)
    assert scratch.git("status", "--porcelain") == ""


def test_what_is_shared_with_a_pack_that_a_collection_at_work_takes_is_copied(
    repository: Repository, scratch: Scratch
) -> None:
    make(repository, message="never published")
    unmark(repository)
    seen = packs(repository)
    scratch.git("repack", "-q", "-a")  # a collection that has looked, and has yet to take what it saw
    commit = make(repository, message="shares a log and its folder")
    for each in seen:
        for file in place(repository).glob(f"{each}.*"):
            file.unlink()
    scratch.git("prune-packed")
    repository.create_branch("made", commit)
    assert is_sound(scratch)


def test_what_is_taken_between_the_import_and_the_copy_is_imported_again(
    repository: Repository, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(repository, message="never published")
    unmark(repository)
    taken = sorted(packs(repository))
    after(scratch, monkeypatch, "fast-import", "".join(f"rm -f .git/objects/pack/{each}.*\n" for each in taken))
    commit = make(repository, message="shares a log and its folder")
    assert (scratch.outside / "imports").read_text() == "done\ndone\n"
    repository.create_branch("made", commit)
    assert is_sound(scratch)


def after(scratch: Scratch, monkeypatch: pytest.MonkeyPatch, verb: str, script: str) -> None:
    """Put a git before the real one that runs a script whenever it has done one thing."""
    git = shutil.which("git")
    wrapper = scratch.outside / "bin" / "git"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\n{git} "$@"\nstatus=$?\ncase " $* " in *\' {verb} \'*)\n'
        f'{script}echo done >> {scratch.outside}/imports\nesac\nexit "$status"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")


def test_what_can_not_be_made_is_said_and_leaves_nothing(repository: Repository, scratch: Scratch) -> None:
    before = packs(repository)
    missing = Draft(parent="1" * 40, files=FOLDER, message="m\n", identity=WHO, epoch_s=NOW)
    with pytest.raises(GitFailed, match="fast-import"):
        repository.make_commit(missing)
    assert packs(repository) == before and not packs(repository, ".keep")
    assert not list((repository.common / "objects").glob(f"{INCOMING}*"))


# ------------------------------------------------------------------------------------------------ notes, and the remote


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def test_a_collection_before_a_note_is_pushed_takes_nothing_of_it(hub: Hub) -> None:
    [clone] = hub.clones("a")
    repository = open_repository(clone.path)
    remote = open_remote(repository, "origin")
    assert remote is not None
    oids = write_notes(repository, [b"one", b"two"], WHO, NOW)
    clone.git("gc", "-q", "--prune=now")
    updates = [RefUpdate(ref=f"refs/reconciler/claims/{each}", old=None, new=each) for each in oids]
    assert not remote.push(updates)
    remote.keep(updates)
    assert read_notes(repository, oids) == dict(zip(oids, [b"one", b"two"], strict=True))
    unmark(repository)
    clone.git("gc", "-q", "--prune=now")
    assert is_sound(clone)
    repository.objects.close()


def test_what_is_fetched_comes_in_a_pack_that_is_listed(hub: Hub) -> None:
    a, b = (open_repository(each.path) for each in hub.clones("a", "b"))
    for repository in (a, b):
        remote = open_remote(repository, "origin")
        assert remote is not None
        if repository is a:
            [oid] = write_notes(a, [b"one"], WHO, NOW)
            assert not remote.push([RefUpdate(ref="refs/reconciler/claims/x-11111111", old=None, new=oid)])
        before = packs(repository)
        remote.fetch(["main"])
    [new] = packs(b) - before
    assert new in (b.state / LIST_NAME).read_text()
    assert not packs(b, ".keep")
    assert not (b.common / "objects" / oid[:2] / oid[2:]).exists()
    for repository in (a, b):
        repository.objects.close()


# ------------------------------------------------------------------------------------------------ many packs


def test_many_packs_become_one_and_nothing_is_lost(repository: Repository, scratch: Scratch) -> None:
    commits, most = [], 0
    for number in range(2 * PACKS_MAX):
        commits.append(make(repository, message=str(number), n=b"%d" % number))
        most = max(most, len(packs(repository)))
        assert len(packs(repository, ".keep")) <= MARKED
    assert most <= PACKS_MAX + MARKED
    for number, each in enumerate(commits):
        assert scratch.git("show", f"{each}:n") == str(number)
        scratch.git("rev-list", "--objects", "--quiet", each)
    assert set(commits) <= set(scratch.git("cat-file", "--batch-all-objects", "--batch-check").split())


def many(repository: Repository, count: int = PACKS_MAX + MARKED + 2) -> None:
    write_notes(repository, [b"first"], WHO, NOW)
    for number in range(count):
        write_notes(repository, [b"%d" % number], WHO, NOW)


def test_packs_of_a_person_are_left_as_they_are(repository: Repository, scratch: Scratch) -> None:
    scratch.git("repack", "-q", "-a", "-d")
    theirs = {each.name: each.read_bytes() for each in place(repository).iterdir()}
    many(repository)
    found = {each.name: each.read_bytes() for each in place(repository).iterdir()}
    assert found.items() >= theirs.items()
    assert len(packs(repository)) <= PACKS_MAX + MARKED + 1


def test_a_pack_that_somebody_else_keeps_is_not_put_together(repository: Repository) -> None:
    write_notes(repository, [b"kept"], WHO, NOW)
    [kept] = packs(repository)
    (place(repository) / f"{kept}.keep").write_bytes(b"a person's reason\n")
    many(repository)
    assert kept in packs(repository) and (place(repository) / f"{kept}.keep").read_bytes() != MARK


def test_under_an_index_over_many_packs_none_is_taken_away(repository: Repository, scratch: Scratch) -> None:
    write_notes(repository, [b"one"], WHO, NOW)
    scratch.git("multi-pack-index", "write")
    many(repository)
    assert len(packs(repository)) > PACKS_MAX + MARKED
    assert is_sound(scratch)


def test_a_large_pack_stays_as_it_is_without_its_mark(repository: Repository) -> None:
    make(repository, large=os.urandom(PACK_BYTES_MAX + 1))
    [large] = packs(repository)
    many(repository)
    assert large in packs(repository) - packs(repository, ".keep")
    assert large not in (repository.state / LIST_NAME).read_text()


@pytest.mark.parametrize("text", ["", "{", "[1, {}]", "{}", "[" * 10_000, '["../../HEAD", "pack-x"]'])
def test_a_list_that_is_damaged_is_made_anew(repository: Repository, text: str) -> None:
    write_notes(repository, [b"one"], WHO, NOW)
    (repository.state / LIST_NAME).write_text(text)
    write_notes(repository, [b"two"], WHO, NOW)
    [new] = packs(repository) - {"HEAD"} - packs_but_newest(repository)
    assert new in (repository.state / LIST_NAME).read_text()


def packs_but_newest(repository: Repository) -> set[str]:
    newest = max(place(repository).glob("*.keep"), key=lambda each: each.stat().st_mtime_ns)
    return packs(repository) - {newest.stem}


def test_what_a_process_left_that_was_killed_is_cleared_away(repository: Repository) -> None:
    write_notes(repository, [b"taken in and never listed"], WHO, NOW)
    [left] = packs(repository)
    (repository.state / LIST_NAME).unlink()
    age(place(repository) / f"{left}.keep")
    half, young = (repository.common / "objects" / f"{INCOMING}{each}" for each in ("old", "young"))
    for each in (half, young):
        (each / "pack").mkdir(parents=True)
    age(half)
    many(repository, MARKED)
    assert left not in packs(repository, ".keep")
    assert left in (repository.state / LIST_NAME).read_text()
    assert young.exists() and not half.exists()


def test_objects_in_another_hash_are_taken_in_as_well(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path, "other")
    shutil.rmtree(scratch.path / ".git")
    scratch.git("init", "-q", "-b", "main", "--object-format=sha256")
    scratch.write("a", "1\n")
    scratch.commit("first")
    repository = open_repository(scratch.path)
    commit = make(repository)
    unmark(repository)
    repository.create_branch("made", commit)
    subprocess.run(["git", "gc", "-q", "--prune=now"], cwd=scratch.path, check=True)
    assert is_sound(scratch)
    repository.objects.close()
