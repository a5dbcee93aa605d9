"""Commits that are more than files on a parent: merges, other trees, copies and removals. Refs of our own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import git as oracle
import pytest

from reconciler.errors import GitFailed
from reconciler.git import Draft, Repository, open_repository
from tests.scratch import ENVIRONMENT, Scratch

ODD_PATHS = ["with space", 'quote"', "back\\slash", "new\nline", "tab\t", "ü/ß", "-x", os.fsdecode(b"\xff"), "a/b/c"]


@pytest.fixture
def repository(scratch: Scratch) -> Iterator[Repository]:
    scratch.write("README.md", "hello\n")
    scratch.write("d/a", "1\n")
    scratch.write("d/run.sh", "run\n").chmod(0o755)
    scratch.commit("first")
    found = open_repository(scratch.path)
    yield found
    found.objects.close()


def make(repository: Repository, parent: str, **keys: Any) -> oracle.Commit:
    plain = {"message": "m\n", "identity": "R <r@example.invalid>", "epoch_s": 1_700_000_000, "files": {}}
    commit = repository.make_commit(Draft(parent=parent, **(plain | keys)))
    return oracle.Repo(repository.directory).commit(commit)


def files(commit: oracle.Commit) -> dict[str, str]:
    """Return path -> mode and id of every file, as `git ls-tree` tells them."""
    listed = subprocess.run(
        ["git", "ls-tree", "-r", "-z", commit.hexsha], cwd=commit.repo.git_dir, env=ENVIRONMENT, capture_output=True,
        check=True,
    ).stdout  # fmt: skip
    lines = [os.fsdecode(each).split("\t", 1) for each in listed.split(b"\0") if each]
    return {path: " ".join(what.split()[::2]) for what, path in lines}


def branches(scratch: Scratch) -> tuple[str, str]:
    """Return two commits that follow the first, with different files."""
    scratch.git("checkout", "-q", "-b", "side")
    scratch.write("side", "side\n")
    scratch.write("d/a", "2\n")
    side = scratch.commit("side")
    scratch.git("checkout", "-q", "main")
    scratch.write("main", "main\n")
    return scratch.commit("second"), side


# ------------------------------------------------------------------------------------------------ drafts


def test_a_merge_has_its_parents_in_order(repository: Repository, scratch: Scratch) -> None:
    main, side = branches(scratch)
    first = scratch.git("rev-parse", "main~").strip()
    commit = make(repository, main, merges=(side, first), files={"x": b"x"})
    assert [each.hexsha for each in commit.parents] == [main, side, first]
    assert files(commit).keys() == {"README.md", "d/a", "d/run.sh", "main", "x"}
    assert scratch.git("show", f"{commit}:d/a") == "1\n"


@pytest.mark.parametrize("as_tree", [False, True])
def test_a_commit_starts_from_another_tree(repository: Repository, scratch: Scratch, as_tree: bool) -> None:
    main, side = branches(scratch)
    base = scratch.git("rev-parse", f"{side}^{{tree}}").strip() if as_tree else side
    commit = make(repository, main, merges=(side,), base_tree=base)
    assert commit.tree == oracle.Repo(scratch.path).commit(side).tree
    assert [each.hexsha for each in commit.parents] == [main, side]
    more = make(repository, main, base_tree=base, files={"side": b"changed", "d/new": b"new"})
    assert files(more).keys() == {"README.md", "d/a", "d/run.sh", "side", "d/new"}
    assert scratch.git("show", f"{more}:side") == "changed"


def test_a_merge_of_git_is_made_again_from_its_parts(repository: Repository, scratch: Scratch) -> None:
    main, side = branches(scratch)
    scratch.git("merge", "-q", "--no-edit", "side")
    merged = oracle.Repo(scratch.path).head.commit
    first = scratch.git("merge-base", main, side).strip()
    trees = [repository.look_up([f"{each}^{{tree}}"])[0] for each in (first, side)]
    changes = dict(repository.changes(trees[0], trees[1]))
    copies = {path: (entry.mode, entry.oid) for path, entry in changes.items() if entry is not None}
    assert make(repository, main, merges=(side,), copies=copies).tree == merged.tree


def test_entries_are_copied_with_their_modes(repository: Repository, scratch: Scratch) -> None:
    (scratch.path / "link").symlink_to("README.md")
    first = scratch.commit()
    known = {each.path: each for each in repository.entries(repository.look_up([f"{first}^{{tree}}"])[0])}
    copies = {f"copy/{path}": (each.mode, each.oid) for path, each in known.items()}
    copies |= dict.fromkeys(ODD_PATHS, ("100644", known["README.md"].oid)) | {"sub": ("160000", first)}
    commit = make(repository, first, copies=copies)
    found = files(commit)
    assert {path: found[path] for path in copies} == {path: f"{mode} {oid}" for path, (mode, oid) in copies.items()}
    assert found.keys() == known.keys() | copies.keys()


def test_files_and_directories_are_removed(repository: Repository, scratch: Scratch) -> None:
    first = make(repository, scratch.git("rev-parse", "main").strip(), files=dict.fromkeys(ODD_PATHS, b"x"))
    commit = make(repository, first.hexsha, removals=(*ODD_PATHS, "d", "never/there"))
    assert files(commit).keys() == {"README.md"}
    assert files(make(repository, first.hexsha, removals=("d/a",), copies={})).keys() == {
        "README.md",
        "d/run.sh",
        *ODD_PATHS,
    }


def test_removals_go_before_copies_and_files_come_last(repository: Repository, scratch: Scratch) -> None:
    first = scratch.git("rev-parse", "main").strip()
    blob = scratch.git("rev-parse", "main:d/a").strip()
    commit = make(
        repository, first, removals=("d", "README.md"), copies={"d/x": ("100644", blob), "README.md/y": ("100644", blob)},
        files={"d/x": b"last", "z": b"z"},
    )  # fmt: skip
    assert files(commit).keys() == {"d/x", "README.md/y", "z"}
    assert scratch.git("show", f"{commit}:d/x") == "last"


def test_a_file_replaces_a_directory_and_the_other_way_round(repository: Repository, scratch: Scratch) -> None:
    first = scratch.git("rev-parse", "main").strip()
    commit = make(repository, first, files={"d": b"a file", "README.md/below": b"x"})
    assert files(commit).keys() == {"d", "README.md/below"}


@pytest.mark.parametrize(
    "keys",
    [
        {"base_tree": "1" * 40},
        {"merges": ("1" * 40,)},
        {"copies": {"x": ("100644", "1" * 40)}},
    ],
)
def test_what_is_missing_cannot_be_used(repository: Repository, scratch: Scratch, keys: dict[str, Any]) -> None:
    with pytest.raises(GitFailed):
        make(repository, scratch.git("rev-parse", "main").strip(), **keys)


def test_a_file_is_no_tree_to_start_from(repository: Repository, scratch: Scratch) -> None:
    with pytest.raises(GitFailed, match="has no tree"):
        make(
            repository, scratch.git("rev-parse", "main").strip(), base_tree=scratch.git("rev-parse", "main:d/a").strip()
        )


# ------------------------------------------------------------------------------------------------ history and refs


def test_what_is_in_the_history_of_a_commit(repository: Repository, scratch: Scratch) -> None:
    main, side = branches(scratch)
    first = scratch.git("merge-base", main, side).strip()
    known = oracle.Repo(scratch.path)
    for old in (first, main, side):
        for new in (first, main, side):
            assert repository.is_ancestor(old, new) == known.is_ancestor(old, new)
    for old, new in (("1" * 40, main), (main, "1" * 40), ("--all", main), ("", main)):
        assert not repository.is_ancestor(old, new)


def test_refs_of_our_own_are_set_and_deleted(repository: Repository, scratch: Scratch) -> None:
    main, side = branches(scratch)
    for packed in (False, True):
        for oid in (main, side, main):
            repository.update_ref("refs/reconciler/x/y", oid)
            assert repository.look_up(["refs/reconciler/x/y"]) == (oid,)
        if packed:
            scratch.git("pack-refs", "--all")
        repository.delete_ref("refs/reconciler/x/y")
        repository.delete_ref("refs/reconciler/x/y")
        assert repository.look_up(["refs/reconciler/x/y"]) == (None,)
    with pytest.raises(GitFailed):
        repository.update_ref("refs/reconciler/x", "1" * 40)


@pytest.mark.parametrize("ref", ["refs/heads/main", "HEAD", "main", "-d", "refs/reconciler", "refs/reconcilers/x"])
def test_no_other_ref_is_touched(repository: Repository, ref: str) -> None:
    [before] = repository.look_up(["refs/heads/main"])
    with pytest.raises(ValueError, match="not a ref of the reconciler"):
        repository.update_ref(ref, before or "")
    with pytest.raises(ValueError, match="not a ref of the reconciler"):
        repository.delete_ref(ref)
    assert repository.look_up(["refs/heads/main"]) == (before,)
