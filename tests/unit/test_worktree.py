"""A directory compared with commits, with real git: what changed, what is there, and what nobody can hide."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from reconciler.errors import ContentError
from reconciler.git import BLOB_BYTES_MAX, Repository, open_repository
from reconciler.guards.scene import Scene, scene_at
from reconciler.worktree import CommitFiles, WorkTree
from tests.scratch import Scratch


@pytest.fixture
def repository(scratch: Scratch) -> Iterator[Repository]:
    scratch.write(".gitignore", "*.o\n/build/\n")
    scratch.write("a.txt", "1\n2\n3\n")
    scratch.write("gone.txt", "1\n2\n")
    scratch.write("sub/b.txt", "1\n")
    scratch.write("kept.o", "forced\n")
    scratch.git("add", "-f", "kept.o")
    scratch.commit("first")
    found = open_repository(scratch.path)
    yield found
    found.objects.close()


@pytest.fixture
def tree(scratch: Scratch, repository: Repository) -> Iterator[WorkTree]:
    """The worktree of a run, as the worker gets it."""
    place = scratch.path / ".runs/t/cli/a-1a2b3c4d/workspace"
    place.parent.mkdir(parents=True)
    commit = repository.commit_of("main") or ""
    repository.add_worktree(place, commit)
    found = WorkTree(repository, place, commit)
    yield found
    found.close()


def numbers(tree: WorkTree | CommitFiles, base: str | None = None) -> dict[str, tuple[int, int]]:
    commit = tree.commit if isinstance(tree, CommitFiles) else tree.repository.commit_of("main") or ""
    return {each.path: (each.added, each.removed) for each in tree.changed(base or commit)}


PATHS = {".gitignore", "a.txt", "gone.txt", "sub/b.txt", "kept.o"}


def test_nothing_differs_at_first(tree: WorkTree) -> None:
    assert numbers(tree) == {}
    assert tree.paths == PATHS


def test_every_kind_of_change_is_counted(tree: WorkTree) -> None:
    place = tree.directory
    (place / "a.txt").write_text("1\n2b\n3\n4\n")
    (place / "gone.txt").unlink()
    (place / "new.txt").write_text("1\n2\nno newline at the end")
    (place / "nothing").touch()
    (place / "image").write_bytes(b"\x89\0\n\n\n")
    (place / "deep/er").mkdir(parents=True)
    (place / "deep/er/münchen 🦊\n.txt").write_text("1\n")
    (place / "ignored.o").write_text("1\n")
    (place / "build").mkdir()
    (place / "build/x").write_text("1\n")
    (place / "link").symlink_to("/etc/passwd")
    (place / "kept.o").write_text("forced\nand changed\n")
    assert numbers(tree) == {
        "a.txt": (2, 1),
        "gone.txt": (0, 2),
        "new.txt": (3, 0),
        "nothing": (0, 0),
        "image": (0, 0),
        "deep/er/münchen 🦊\n.txt": (1, 0),
        "link": (0, 0),
        "kept.o": (1, 0),
    }
    new = {"new.txt", "nothing", "image", "deep/er/münchen 🦊\n.txt", "link"}
    assert tree.paths == PATHS - {"gone.txt"} | new


def test_a_file_that_was_renamed_went_and_came(tree: WorkTree) -> None:
    (tree.directory / "a.txt").rename(tree.directory / "c.txt")
    assert numbers(tree) == {"a.txt": (0, 3), "c.txt": (3, 0)}


def test_what_was_committed_in_the_workspace_is_a_change_too(scratch: Scratch, tree: WorkTree) -> None:
    (tree.directory / "a.txt").write_text("other\n")
    scratch.git("-C", str(tree.directory), "commit", "-qam", "by a stage")
    assert numbers(tree) == {"a.txt": (1, 3)}


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_no_mark_in_the_index_hides_a_change(scratch: Scratch, tree: WorkTree, flag: str) -> None:
    scratch.git("-C", str(tree.directory), "update-index", flag, "a.txt")
    (tree.directory / "a.txt").write_text("hidden\n")
    assert numbers(tree) == {"a.txt": (1, 3)}


def test_the_git_of_the_workspace_is_not_asked(scratch: Scratch, tree: WorkTree) -> None:
    (tree.directory / ".git").unlink()
    scratch.git("init", "-q", str(tree.directory))
    scratch.git("-C", str(tree.directory), "config", "core.fsmonitor", f"touch {scratch.outside}/ran")
    scratch.git("-C", str(tree.directory), "config", "filter.x.clean", f"touch {scratch.outside}/ran; cat")
    (tree.directory / ".gitattributes").write_text("* filter=x\n")
    (tree.directory / "a.txt").write_text("changed\n")
    assert numbers(tree) == {"a.txt": (1, 3), ".gitattributes": (1, 0)}
    assert list(scratch.outside.iterdir()) == []


def test_nothing_of_the_repository_is_touched(scratch: Scratch, tree: WorkTree) -> None:
    before = scratch.git("-C", str(tree.directory), "status", "--porcelain"), scratch.git("count-objects", "-v")
    (tree.directory / "new.txt").write_text("new\n" * 1000)
    index = (scratch.path / ".git/worktrees/workspace/index").read_bytes()
    numbers(tree)
    assert (scratch.path / ".git/worktrees/workspace/index").read_bytes() == index
    assert scratch.git("count-objects", "-v") == before[1]


def test_a_file_is_read_and_nothing_else_is(tree: WorkTree) -> None:
    place = tree.directory
    (place / "link").symlink_to("a.txt")
    (place / "outside").symlink_to("/etc")
    os.mkfifo(place / "fifo")
    (place / "large").write_bytes(b"x" * (BLOB_BYTES_MAX + 1))
    assert tree.read("a.txt") == b"1\n2\n3\n"
    for path in ("link", "outside/passwd", "fifo", "large", "sub", "missing", "../workspace/a.txt", "/etc/passwd", ""):
        assert tree.read(path) is None, path


def test_a_commit_is_compared_with_another(scratch: Scratch, repository: Repository) -> None:
    older = repository.commit_of("main") or ""
    scratch.write("a.txt", "1\n")
    scratch.git("rm", "-q", "gone.txt")
    files = CommitFiles(repository, scratch.commit())
    assert numbers(files, older) == {"a.txt": (0, 2), "gone.txt": (0, 2)}
    assert files.paths == PATHS - {"gone.txt"}
    assert files.read("a.txt") == b"1\n"
    assert files.read("gone.txt") is files.read("sub") is None


# ------------------------------------------------------------------------------------------------ the change


def changed(scratch: Scratch, since: str = "") -> list[str]:
    repository = open_repository(scratch.path)
    commit = scratch.git("rev-parse", "HEAD").strip()
    with scene_at(repository, commit, scratch.path, scratch.path) as scene:
        return sorted(scene.change(since).paths)


def test_the_change_is_what_differs_here_else_the_last_commit(scratch: Scratch, repository: Repository) -> None:
    assert changed(scratch) == sorted(PATHS), "of a root, everything is new"
    scratch.write("a.txt", "second\n")
    scratch.commit("second")
    assert changed(scratch) == ["a.txt"]
    scratch.write("new.txt", "x\n")
    assert changed(scratch) == ["new.txt"]
    assert changed(scratch, "HEAD") == ["new.txt"]
    assert changed(scratch, "HEAD~1") == ["a.txt", "new.txt"]
    assert changed(scratch, "HEAD^") == ["a.txt", "new.txt"]


def test_since_a_branch_means_since_it_was_left(scratch: Scratch, repository: Repository) -> None:
    scratch.git("checkout", "-q", "-b", "feature/x")
    scratch.write("mine.txt", "x\n")
    scratch.commit("mine")
    scratch.git("checkout", "-q", "main")
    scratch.write("theirs.txt", "x\n")
    scratch.commit("theirs")
    scratch.git("tag", "-am", "v1", "v1")
    scratch.git("checkout", "-q", "feature/x")
    assert changed(scratch, "main") == changed(scratch, "v1") == changed(scratch, "main~0") == ["mine.txt"]


@pytest.mark.parametrize(
    "since", ["nowhere", "HEAD~99", "--output=x", "main:a.txt", "main main", "a\nb", "f" * 40, "@"]
)
def test_since_what_is_no_commit_is_refused(scratch: Scratch, repository: Repository, since: str) -> None:
    if since == "@":
        assert changed(scratch, since) == []
        return
    with pytest.raises(Exception, match=r"there is no commit|line break"):
        changed(scratch, since)


def test_a_merge_is_judged_against_what_it_was_merged_into(scratch: Scratch, repository: Repository) -> None:
    scratch.git("checkout", "-q", "-b", "feature")
    for name in ("x", "y"):
        scratch.write(name, "x\n")
        scratch.commit(name)
    scratch.git("checkout", "-q", "main")
    scratch.write("other", "x\n")
    scratch.commit("other")
    scratch.git("merge", "-q", "--no-ff", "-m", "merge", "feature")
    assert changed(scratch) == ["x", "y"]


def test_where_a_shallow_clone_ends_nothing_is_guessed(scratch: Scratch, repository: Repository) -> None:
    scratch.write("a.txt", "second\n")
    scratch.commit("second")
    scratch.git("clone", "-q", "--depth", "1", f"file://{scratch.path}", str(scratch.outside / "shallow"))
    shallow = open_repository(scratch.outside / "shallow")
    commit = shallow.commit_of("main") or ""
    with (
        scene_at(shallow, commit, shallow.directory, shallow.directory) as scene,
        pytest.raises(ContentError) as raised,
    ):
        scene.change()
    assert "shallow" in str(raised.value)


def test_manifests_are_known_by_the_newest_commit_of_evidence(scratch: Scratch, repository: Repository) -> None:
    for number, digest in enumerate(("a" * 64, "b" * 64)):
        scratch.write("n", str(number))
        scratch.commit(f"evidence\n\nReconciler-Manifest: .runs/t/cli/a/manifest.json sha256:{digest}\n"
                       f"Reconciler-Manifest: .runs/t/cli/{number}/manifest.json sha256:{digest}")  # fmt: skip
    scratch.write("n", "odd")
    scratch.commit("odd\n\nReconciler-Manifest: odd\nReconciler-Manifest: x sha256:short\n")
    with scene_at(repository, scratch.git("rev-parse", "HEAD").strip(), scratch.path, scratch.path) as scene:
        assert isinstance(scene, Scene)
        assert scene.manifest_digests == {
            ".runs/t/cli/a/manifest.json": "b" * 64,
            ".runs/t/cli/1/manifest.json": "b" * 64,
            ".runs/t/cli/0/manifest.json": "a" * 64,
        }
