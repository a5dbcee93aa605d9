"""Git, run for real: what is read by object id, what a commit holds, and what moving a branch never destroys."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler import git
from reconciler.errors import ContentError, GitFailed, PublishBlocked, TipMoved, UsageError
from reconciler.git import BLOB_BYTES_MAX, Draft, Entry, Repository, open_repository
from tests.scratch import ENVIRONMENT, Scratch

ODD_PATHS = [
    "plain.txt",
    "with space.txt",
    'quote".txt',
    "it's.txt",
    "back\\slash.txt",
    "münchen/straße.txt",
    "🦊.txt",
    "new\nline.txt",
    "tab\t.txt",
    "\x01control.txt",
    "-dash.txt",
    "--option/--other",
    ":colon.txt",
    ":(glob)magic",
    "a/b/c/d/e",
    os.fsdecode(b"not-utf8-\xff.txt"),
]


@pytest.fixture
def repository(scratch: Scratch) -> Iterator[Repository]:
    """A repository with one commit, on branch main."""
    scratch.write("README.md", "hello\n")
    scratch.commit("first")
    found = open_repository(scratch.path)
    yield found
    found.objects.close()


def tip(repository: Repository, branch: str = "main") -> str:
    found = repository.commit_of(branch)
    assert found is not None
    return found


def tree(repository: Repository, commit: str) -> str | None:
    return repository.look_up([f"{commit}^{{tree}}"])[0]


def draft(parent: str, files: dict[str, Any], **keys: Any) -> Draft:
    plain = {"message": "evidence: a\n", "identity": "R <r@example.invalid>", "epoch_s": 1_700_000_000}
    return Draft(parent=parent, files=files, **(plain | keys))


def content(repository: Repository, commit: str, path: str) -> bytes | None:
    """Return what a file holds at a commit, however odd its path."""
    entries = {each.path: each.oid for each in repository.entries(tree(repository, commit))}
    return dict(repository.blobs([entries[path]]))[entries[path]] if path in entries else None


def in_tree(directory: Path, *words: str, feed: bytes = b"") -> str:
    """Run git somewhere else than in the repository at hand."""
    asked = subprocess.run(
        ["git", *words], cwd=directory, env=ENVIRONMENT, input=feed, capture_output=True, check=True, timeout=60
    )
    return asked.stdout.decode().strip()


# ------------------------------------------------------------------------------------------------ opening


def test_a_repository_is_found_from_any_directory_in_it(repository: Repository, scratch: Scratch) -> None:
    inner = scratch.path / "a" / "b"
    inner.mkdir(parents=True)
    found = open_repository(inner)
    assert (found.directory, found.common, found.bare) == (scratch.path, scratch.path / ".git", False)
    assert found.state == scratch.path / ".git" / "reconciler"


def test_all_worktrees_of_a_repository_share_their_state(repository: Repository, scratch: Scratch) -> None:
    linked = scratch.outside / "linked"
    scratch.git("worktree", "add", "-q", "--detach", str(linked))
    found = open_repository(linked)
    assert (found.directory, found.common, found.state) == (linked, repository.common, repository.state)


def test_a_bare_repository_is_its_own_directory(scratch: Scratch) -> None:
    bare = scratch.outside / "bare.git"
    in_tree(scratch.outside, "init", "-q", "--bare", str(bare))
    found = open_repository(bare)
    assert (found.directory, found.common, found.bare) == (bare, bare, True)


def test_where_no_repository_is_the_cure_is_told(scratch: Scratch) -> None:
    with pytest.raises(UsageError, match=r"not in a git repository; run 'git init' first"):
        open_repository(scratch.outside)
    with pytest.raises(UsageError, match="no such directory"):
        open_repository(scratch.outside / "missing")


@pytest.mark.parametrize(
    "name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"]
)
def test_variables_that_name_another_repository_are_ignored(
    repository: Repository, scratch: Scratch, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    other = scratch.outside / "other"
    in_tree(scratch.outside, "init", "-q", str(other))
    monkeypatch.setenv(name, str(other / ".git" if name != "GIT_WORK_TREE" else other))
    found = open_repository(scratch.path)
    try:
        assert (found.directory, found.common) == (scratch.path, scratch.path / ".git")
        commit = found.make_commit(draft(tip(found), {"a": b"1"}))
        found.advance("main", tip(found), commit)
    finally:
        found.objects.close()
    assert (scratch.path / "a").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("GIT_DIR", False),
        ("GIT_NAMESPACE", False),
        ("GIT_CONFIG", False),
        ("GIT_TRACE", False),
        ("GIT_EXTERNAL_DIFF", False),
        ("GIT_PAGER", False),
        ("GIT_SSH_COMMAND", True),
        ("GIT_CONFIG_GLOBAL", True),
        ("GIT_AUTHOR_NAME", True),
        ("PATH", True),
    ],
)
def test_git_inherits_how_to_reach_and_not_which_repository(
    monkeypatch: pytest.MonkeyPatch, name: str, kept: bool
) -> None:
    monkeypatch.setenv(name, "x")
    assert (git.environment().get(name) == "x") == kept


# ------------------------------------------------------------------------------------------------ looking up


def test_what_is_there_has_an_id_and_what_is_not_has_none(repository: Repository, scratch: Scratch) -> None:
    for path in ("a b.txt", "ü/é.txt", "-x", "x missing"):
        scratch.write(path, path)
    commit = scratch.commit()
    names = [
        commit,
        "refs/heads/main",
        f"{commit}:a b.txt",
        f"{commit}:ü/é.txt",
        f"{commit}:-x",
        f"{commit}:x missing",
        f"{commit}:ü",
        f"{commit}:",
        "refs/heads/other",
        f"{commit}:no/such",
        "0" * 40,
        "-x",
        "--batch-all-objects",
        "a 1",
        "",
        " ",
        "^",
    ]
    found = repository.look_up(names)
    assert [each is not None for each in found] == [True] * 8 + [False] * 9
    assert found[:2] == (commit, commit)
    assert found[6] == scratch.git("rev-parse", f"{commit}:ü").strip()
    assert repository.look_up([]) == ()


def test_more_is_looked_up_at_once_than_fits_into_a_pipe(repository: Repository) -> None:
    commit = tip(repository)
    names = [f"{commit}:README.md", f"{commit}:{'x' * 3000}"] * 300
    assert [each is not None for each in repository.look_up(names)] == [True, False] * 300


def test_a_name_with_a_line_break_is_refused(repository: Repository) -> None:
    with pytest.raises(GitFailed, match="line break"):
        repository.look_up(["main\ncontents HEAD"])
    assert repository.commit_of("main") is not None


def test_a_branch_that_moves_is_seen_at_once(repository: Repository, scratch: Scratch) -> None:
    before = tip(repository)
    scratch.write("a", "1")
    after = scratch.commit()
    assert (tip(repository), before) == (after, scratch.git("rev-parse", "HEAD~").strip())
    scratch.git("repack", "-a", "-d", "-q")
    scratch.git("pack-refs", "--all")
    assert tip(repository) == after


def test_a_tag_or_another_branch_is_never_taken_for_the_branch(repository: Repository, scratch: Scratch) -> None:
    first = tip(repository)
    scratch.git("tag", "main")
    scratch.git("tag", "release")
    scratch.git("update-ref", "refs/heads/heads/main", first)
    scratch.write("a", "1")
    second = scratch.commit()
    assert (tip(repository), tip(repository, "heads/main")) == (second, first)
    assert repository.commit_of("release") is None


def test_git_that_died_is_started_again(repository: Repository) -> None:
    commit = tip(repository)
    process = repository.objects._process
    assert process is not None
    process.kill()
    process.wait()
    assert tip(repository) == commit


# ------------------------------------------------------------------------------------------------ contents


def test_blobs_come_in_order_and_what_is_missing_or_too_large_is_none(repository: Repository, scratch: Scratch) -> None:
    largest = scratch.write("largest", b"x" * BLOB_BYTES_MAX)
    (scratch.path / "too-large").write_bytes(largest.read_bytes() + b"x")
    scratch.write("empty", "")
    scratch.write("binary", b"\x00\n\xff 3\n")
    commit = scratch.commit()
    paths = ["empty", "too-large", "binary", "largest", "empty"]
    oids = [each or "" for each in repository.look_up([f"{commit}:{path}" for path in paths])]
    asked = [*oids[:2], "0" * 40, *oids[2:]]
    found = list(repository.blobs(asked))
    assert [oid for oid, _ in found] == asked
    sizes = [None if data is None else len(data) for _, data in found]
    assert sizes == [0, None, None, 6, BLOB_BYTES_MAX, 0]
    assert found[3][1] == b"\x00\n\xff 3\n"


def test_who_stops_reading_in_the_middle_does_not_spoil_the_next_question(
    repository: Repository, scratch: Scratch
) -> None:
    for number in range(3):
        scratch.write(f"f{number}", str(number) * 100_000)
    commit = scratch.commit()
    oids = [each or "" for each in repository.look_up([f"{commit}:f{number}" for number in range(3)])]
    next(repository.blobs(oids))
    assert tip(repository) == commit
    assert dict(repository.blobs(oids[2:]))[oids[2]] == b"2" * 100_000


# ------------------------------------------------------------------------------------------------ trees


def test_the_entries_of_a_tree_are_its_files_by_path(repository: Repository, scratch: Scratch) -> None:
    scratch.write("b/x.sh", "run").chmod(0o755)
    scratch.write("b/y", "y")
    scratch.write("a.txt", "a")
    (scratch.path / "link").symlink_to("a.txt")
    commit = scratch.commit()
    found = repository.entries(tree(repository, commit))
    assert [(each.path, each.mode, each.is_file) for each in found] == [
        ("README.md", "100644", True),
        ("a.txt", "100644", True),
        ("b/x.sh", "100755", True),
        ("b/y", "100644", True),
        ("link", "120000", False),
    ]
    assert repository.entries(None) == ()
    assert repository.tree(None) == {}


def test_a_submodule_is_an_entry_and_no_file(repository: Repository, scratch: Scratch) -> None:
    scratch.git("update-index", "--add", "--cacheinfo", f"160000,{tip(repository)},sub")
    scratch.git("commit", "-q", "-m", "sub")
    entries = {each.path: each for each in repository.entries(tree(repository, tip(repository)))}
    assert (entries["sub"].mode, entries["sub"].is_file, entries["sub"].is_tree) == ("160000", False, False)


Change = tuple[str, str | bytes | None]


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ([("a", "1")], [("a", "1")], {}),
        ([("a", "1")], [("a", "2")], {"a": True}),
        ([("a", "1")], [], {"a": False}),
        ([], [("d/e/f", "1")], {"d/e/f": True}),
        ([("d/a", "1"), ("d/b", "1")], [("d/a", "1"), ("d/b", "2")], {"d/b": True}),
        ([("d/a", "1"), ("d/b", "1")], [], {"d/a": False, "d/b": False}),
        ([("x", "1")], [("x/y", "1")], {"x": False, "x/y": True}),
        ([("x/y", "1")], [("x", "1")], {"x": True, "x/y": False}),
        ([("a-b", "1"), ("a/b", "1"), ("a.b", "1")], [("a-b", "1"), ("a/b", "2"), ("a.b", "1")], {"a/b": True}),
        ([], [(path, "x") for path in ODD_PATHS], dict.fromkeys(ODD_PATHS, True)),
    ],
)
def test_what_differs_between_two_trees(
    repository: Repository, before: list[Change], after: list[Change], changed: dict[str, bool]
) -> None:
    first, second = (
        repository.make_commit(draft(_orphan(repository), {path: _bytes(text) for path, text in files}))
        for files in (before, after)
    )
    found = list(repository.changes(tree(repository, first), tree(repository, second)))
    assert {path: entry is not None for path, entry in found} == changed
    assert len(found) == len(changed)


def _bytes(text: str | bytes | None) -> bytes:
    return text if isinstance(text, bytes) else (text or "").encode()


def _orphan(repository: Repository) -> str:
    """Return a commit of an empty tree."""
    empty = in_tree(repository.directory, "mktree")
    return in_tree(repository.directory, "commit-tree", "-m", "empty", empty)


def test_from_nothing_to_a_tree_everything_differs(repository: Repository, scratch: Scratch) -> None:
    commit = tip(repository)
    assert [path for path, _ in repository.changes(None, tree(repository, commit))] == ["README.md"]
    assert list(repository.changes(tree(repository, commit), None)) == [("README.md", None)]
    assert list(repository.changes(None, None)) == []


def test_what_is_out_of_sight_is_not_looked_at(repository: Repository, scratch: Scratch) -> None:
    for path in ("runs/a", "runs/b/c", "other/a", "other/b"):
        scratch.write(path, path)
    after = tree(repository, scratch.commit())
    found = [path for path, _ in repository.changes(None, after, lambda path: path.startswith("runs"))]
    assert sorted(found) == ["runs/a", "runs/b/c"]


def test_a_changed_mode_is_a_change(repository: Repository, scratch: Scratch) -> None:
    path = scratch.write("x.sh", "run")
    before = tree(repository, scratch.commit())
    path.chmod(0o755)
    after = tree(repository, scratch.commit())
    found = [(path, entry and entry.mode) for path, entry in repository.changes(before, after)]
    assert found == [("x.sh", "100755")]


def test_files_are_found_by_path_and_nothing_else_is_taken_for_one(repository: Repository, scratch: Scratch) -> None:
    scratch.write("d/a", "1")
    scratch.write("d/sub/b", "2")
    (scratch.path / "d" / "link").symlink_to("a")
    commit = scratch.commit()
    asked = ["README.md", "d/a", "d/sub", "d/link", "d/none", "none/a", "d/sub/b", "-x"]
    found = repository.files_at(commit, asked)
    assert [each.path for each in found] == ["README.md", "d/a", "d/sub/b"]
    assert found[1] == Entry("100644", scratch.git("rev-parse", f"{commit}:d/a").strip(), "d/a")


# ------------------------------------------------------------------------------------------------ searching


@pytest.mark.parametrize(
    ("texts", "globs", "found"),
    [
        (["t/green"], ["tasks/**/*.md"], ["tasks/a.md", "tasks/deep/b.md"]),
        (["t/green"], ["tasks/*.md"], ["tasks/a.md"]),
        (["t/green", "t/red"], ["**/*.md"], ["docs/c.md", "tasks/a.md", "tasks/deep/b.md"]),
        (["t.green"], ["**/*.md"], []),
        (["nowhere"], ["**/*.md"], []),
        (["t/green"], ["nowhere/*.md"], []),
        (["t/green"], [], []),
        ([], ["**/*.md"], []),
        (["--open-files-in-pager=false"], ["**/*.md"], []),
        (["-v"], ["**/*.md"], []),
        (["t/green"], ["--cached", "-v"], []),
        (["t/green"], [":(exclude)x", "!x"], []),
    ],
)
def test_files_are_searched_for_literal_text(
    repository: Repository, scratch: Scratch, texts: list[str], globs: list[str], found: list[str]
) -> None:
    scratch.write("tasks/a.md", "- [ ] a <!-- item: t/green -->\n")
    scratch.write("tasks/deep/b.md", "t/green\n")
    scratch.write("docs/c.md", "t/red\n")
    scratch.write("tasks/binary.md", b"\x00t/green")
    scratch.write("elsewhere.txt", "t/green")
    commit = scratch.commit()
    scratch.write("tasks/not-committed.md", "t/green")
    assert sorted(repository.search(commit, texts, globs)) == found


def test_a_file_is_found_however_its_path_is_spelled(repository: Repository, scratch: Scratch) -> None:
    paths = ["tasks/with space.md", "tasks/ü.md", "tasks/a:b.md", 'tasks/".md']
    for path in paths:
        scratch.write(path, "t/green")
    assert sorted(repository.search(scratch.commit(), ["t/green"], ["tasks/*.md"])) == sorted(paths)


# ------------------------------------------------------------------------------------------------ who, where


def test_the_branch_is_the_one_head_names_also_before_its_first_commit(scratch: Scratch) -> None:
    found = open_repository(scratch.path)
    assert found.head_branch() == "main"
    scratch.git("checkout", "-q", "-b", "feature/x")
    assert found.head_branch() == "feature/x"


def test_a_tag_with_the_name_of_the_branch_confuses_nobody(repository: Repository, scratch: Scratch) -> None:
    scratch.git("tag", "main")
    assert repository.head_branch() == "main"


def test_a_detached_head_is_told_with_the_cure(repository: Repository, scratch: Scratch) -> None:
    scratch.git("checkout", "-q", "--detach")
    with pytest.raises(ContentError, match=r"HEAD is detached; say in reconciler\.yaml which 'branch' is meant"):
        repository.head_branch()


@pytest.mark.parametrize("name", [os.fsdecode(b"b\xff"), "a" * 200 + "/" + "b" * 44])
def test_a_branch_whose_name_no_record_can_hold_is_told_with_the_cure(
    repository: Repository, scratch: Scratch, name: str
) -> None:
    scratch.git("checkout", "-q", "-b", name)
    with pytest.raises(ContentError, match="git branch -m NAME gives it another one") as told:
        repository.head_branch()
    assert str(told.value).isprintable()


def test_who_sits_at_this_machine(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    assert repository.identity() == "Ann Author <ann@example.invalid>"
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    repository.git("config", "user.useConfigOnly", "true")
    with pytest.raises(UsageError, match=r"git config user\.name"):
        repository.identity()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, b"/.runs/\n"),
        (b"", b"/.runs/\n"),
        (b"*.log\n", b"*.log\n/.runs/\n"),
        (b"*.log", b"*.log\n/.runs/\n"),
        (b"# \xff\n", b"# \xff\n/.runs/\n"),
        (b"/.runs/\n", b"/.runs/\n"),
    ],
)
def test_what_git_shall_not_show_is_told_once(repository: Repository, before: bytes | None, after: bytes) -> None:
    path = repository.common / "info" / "exclude"
    path.unlink(missing_ok=True)
    if before is not None:
        path.write_bytes(before)
    repository.exclude("/.runs/")
    repository.exclude("/.runs/")
    assert path.read_bytes() == after


def test_evidence_is_found_by_run_and_the_newest_commit_counts(repository: Repository, scratch: Scratch) -> None:
    def publish(*runs: str) -> str:
        message = "evidence: x\n\n" + "".join(f"Reconciler-Run: {each}\nReconciler-Nonce: 1\n" for each in runs)
        commit = repository.make_commit(draft(tip(repository), {"n": message.encode()}, message=message))
        repository.advance("main", tip(repository), commit)
        return commit

    first = publish("a-1a2b3c4d failed", "b-1a2b3c4d succeeded")
    scratch.write("x", "Reconciler-Run: z-1a2b3c4d succeeded")
    scratch.commit("not a trailer: Reconciler-Run: y-1a2b3c4d succeeded")
    second = publish("a-1a2b3c4d succeeded")
    assert repository.evidence_commits("main") == {"a-1a2b3c4d": second, "b-1a2b3c4d": first}
    assert repository.evidence_commits("main", 1) == {"a-1a2b3c4d": second}


# ------------------------------------------------------------------------------------------------ making commits


def test_a_commit_holds_exactly_what_was_asked_for_and_all_of_its_parent(repository: Repository) -> None:
    parent = tip(repository)
    files = {path: f"{path}\n".encode(errors="surrogateescape") for path in ODD_PATHS}
    commit = repository.make_commit(draft(parent, files | {"empty": b"", "binary": b"\x00\ndata 3\n\xff"}))
    found = {each.path: each.mode for each in repository.entries(tree(repository, commit))}
    assert found == dict.fromkeys([*ODD_PATHS, "README.md", "empty", "binary"], "100644")
    assert {path: content(repository, commit, path) for path in ODD_PATHS} == files
    assert content(repository, commit, "README.md") == b"hello\n"
    assert (content(repository, commit, "empty"), content(repository, commit, "binary")) == (b"", b"\x00\ndata 3\n\xff")


def test_a_commit_says_who_when_and_what(repository: Repository, scratch: Scratch) -> None:
    message = "evidence: ü\n\nwith a body\ndata 3\n\nReconciler-Run: a-1a2b3c4d succeeded\n"
    commit = repository.make_commit(draft(tip(repository), {"a": b"1"}, message=message))
    said = scratch.git("log", "-1", "--format=%an <%ae>%n%cn <%ce>%n%at %ct%n%P%n%B", commit)
    assert said.splitlines()[:4] == [
        "R <r@example.invalid>",
        "R <r@example.invalid>",
        "1700000000 1700000000",
        tip(repository),
    ]
    assert said.split("\n", 4)[4].strip() == message.strip()


def test_making_a_commit_moves_no_branch_and_touches_no_checkout(repository: Repository, scratch: Scratch) -> None:
    before = tip(repository)
    scratch.write("README.md", "edited\n")
    repository.make_commit(draft(before, {"README.md": b"evidence", "a": b"1"}))
    assert tip(repository) == before
    assert (scratch.path / "README.md").read_text() == "edited\n"
    assert scratch.git("status", "--porcelain").split() == ["M", "README.md"]


@pytest.mark.parametrize("mode", ["100644", "100755"])
def test_a_file_keeps_its_mode(repository: Repository, mode: str) -> None:
    commit = repository.make_commit(draft(tip(repository), {"x.sh": b"run"}, modes={"x.sh": mode}))
    entries = {each.path: each.mode for each in repository.entries(tree(repository, commit))}
    assert entries["x.sh"] == mode


def test_a_commit_is_made_for_any_parent(repository: Repository) -> None:
    first = tip(repository)
    one = repository.make_commit(draft(first, {"a": b"1"}))
    two = repository.make_commit(draft(first, {"b": b"2"}))
    assert repository.look_up([f"{one}~", f"{two}~"]) == (first, first)
    assert content(repository, two, "a") is None


def test_many_commits_are_made_at_once_and_are_those_that_one_by_one_are_made(repository: Repository) -> None:
    first = tip(repository)
    nothing = repository.empty_tree()
    drafts = [
        draft(first, {"a": b"1"}),
        draft(first, {"run/b": b"2"}, base_tree=nothing),
        draft(first, {"a": b"1"}),
        draft(first, {}, removals=("README.md",)),
    ]
    packs = len(list((repository.common / "objects/pack").glob("*.pack")))
    made = repository.make_commits(drafts)
    assert len(list((repository.common / "objects/pack").glob("*.pack"))) == packs + 1
    assert made == tuple(repository.make_commit(each) for each in drafts)
    assert [each.path for each in repository.entries(tree(repository, made[1]))] == ["run/b"]
    assert repository.make_commits([]) == ()
    with pytest.raises(GitFailed):
        repository.make_commits([drafts[0], draft("1" * 40, {"a": b"1"})])


def test_a_commit_for_a_parent_that_is_not_there_fails(repository: Repository) -> None:
    with pytest.raises(GitFailed):
        repository.make_commit(draft("1" * 40, {"a": b"1"}))


# ------------------------------------------------------------------------------------------------ moving branches


def published(repository: Repository, branch: str = "main", **files: bytes) -> str:
    return repository.make_commit(draft(tip(repository, branch), files or {"evidence.txt": b"proof\n"}))


def advance(repository: Repository, commit: str, branch: str = "main") -> None:
    repository.advance(branch, tip(repository, branch), commit)


def test_a_branch_that_is_checked_out_moves_with_its_checkout(repository: Repository, scratch: Scratch) -> None:
    commit = published(repository)
    advance(repository, commit)
    assert tip(repository) == commit
    assert (scratch.path / "evidence.txt").read_bytes() == b"proof\n"
    assert scratch.git("status", "--porcelain") == ""


@pytest.mark.parametrize("branch", ["quiet", "feature/deep", "münchen", "a@b", "heads/main"])
def test_a_branch_that_is_not_checked_out_moves_alone(repository: Repository, scratch: Scratch, branch: str) -> None:
    scratch.git("branch", branch)
    commit = published(repository, branch)
    advance(repository, commit, branch)
    assert tip(repository, branch) == commit != tip(repository)
    assert not (scratch.path / "evidence.txt").exists()


def test_a_bare_repository_has_branches_too(repository: Repository, scratch: Scratch) -> None:
    in_tree(scratch.outside, "clone", "-q", "--bare", str(scratch.path), "bare.git")
    bare = open_repository(scratch.outside / "bare.git")
    try:
        commit = published(bare)
        advance(bare, commit)
        assert tip(bare) == commit
    finally:
        bare.objects.close()


def test_a_branch_that_a_linked_worktree_has_checked_out_moves_with_it(
    repository: Repository, scratch: Scratch
) -> None:
    linked = scratch.outside / "linked tree"
    scratch.git("worktree", "add", "-q", "-b", "linked", str(linked))
    commit = published(repository, "linked")
    advance(repository, commit, "linked")
    assert (linked / "evidence.txt").read_bytes() == b"proof\n"
    assert in_tree(linked, "status", "--porcelain") == ""
    assert not (scratch.path / "evidence.txt").exists()


def test_a_branch_moves_when_the_worktree_that_had_it_was_deleted_by_hand(
    repository: Repository, scratch: Scratch
) -> None:
    linked = scratch.outside / "linked"
    scratch.git("worktree", "add", "-q", "-b", "linked", str(linked))
    linked.rename(scratch.outside / "moved away")
    commit = published(repository, "linked")
    advance(repository, commit, "linked")
    assert tip(repository, "linked") == commit


def _edit(scratch: Scratch) -> None:
    scratch.write("README.md", "edited\n")


def _stage(scratch: Scratch) -> None:
    scratch.write("README.md", "staged\n")
    scratch.git("add", "README.md")
    scratch.write("new.txt", "new\n")
    scratch.git("add", "new.txt")


def _untracked(scratch: Scratch) -> None:
    scratch.write("notes.txt", "mine\n")


@pytest.mark.parametrize("work", [_edit, _stage, _untracked])
def test_work_that_is_not_in_the_way_is_kept(
    repository: Repository, scratch: Scratch, work: Callable[[Scratch], None]
) -> None:
    work(scratch)
    before = scratch.git("status", "--porcelain")
    advance(repository, published(repository))
    assert scratch.git("status", "--porcelain") == before != ""
    assert (scratch.path / "evidence.txt").exists()


@pytest.mark.parametrize(
    ("path", "staged"),
    [
        ("README.md", False),
        ("README.md", True),
        ("evidence.txt", False),
        ("evidence.txt", True),
        ("with space.md", False),
        ("ü.md", False),
    ],
)
def test_work_that_is_in_the_way_is_kept_and_named(
    repository: Repository, scratch: Scratch, path: str, staged: bool
) -> None:
    scratch.write(path, "my own work\n")
    if staged:
        scratch.git("add", path)
    before, status = tip(repository), scratch.git("status", "--porcelain")
    commit = published(repository, **{path: b"evidence\n"})
    with pytest.raises(PublishBlocked) as blocked:
        advance(repository, commit)
    assert path in str(blocked.value)
    assert tip(repository) == before
    assert (scratch.path / path).read_text() == "my own work\n"
    assert scratch.git("status", "--porcelain") == status
    (scratch.path / path).unlink()
    scratch.git("reset", "-q", "--hard")
    advance(repository, commit)
    assert (scratch.path / path).read_bytes() == b"evidence\n"


def test_of_much_work_that_is_in_the_way_only_some_is_named(repository: Repository, scratch: Scratch) -> None:
    paths = [f"file-{number}.txt" for number in range(50)]
    for path in paths:
        scratch.write(path, "mine\n")
    with pytest.raises(PublishBlocked, match=r"file-0\.txt, file-1\.txt, .* and 47 more; commit, stash or remove it"):
        advance(repository, published(repository, **dict.fromkeys(paths, b"x")))


def test_a_live_record_gives_way_to_the_evidence_made_of_it(repository: Repository, scratch: Scratch) -> None:
    repository.exclude("/.runs/")
    path = ".runs/t/cli/a-1a2b3c4d/manifest.json"
    scratch.write(path, "live")
    advance(repository, published(repository, **{path: b"evidence"}))
    assert (scratch.path / path).read_bytes() == b"evidence"
    assert scratch.git("status", "--porcelain") == ""


def test_a_directory_in_the_place_of_a_file_blocks(repository: Repository, scratch: Scratch) -> None:
    scratch.write("evidence.txt/mine", "mine\n")
    with pytest.raises(PublishBlocked):
        advance(repository, published(repository))
    assert (scratch.path / "evidence.txt/mine").read_text() == "mine\n"


@pytest.mark.parametrize("branch", ["main", "quiet"])
def test_a_branch_that_has_moved_meanwhile_is_left_where_it_is(
    repository: Repository, scratch: Scratch, branch: str
) -> None:
    scratch.git("branch", "quiet")
    old = tip(repository, branch)
    commit = published(repository, branch)
    scratch.git("checkout", "-q", branch)
    scratch.write("theirs", "x")
    theirs = scratch.commit()
    if branch != "main":
        scratch.git("checkout", "-q", "main")
    with pytest.raises(TipMoved):
        repository.advance(branch, old, commit)
    assert tip(repository, branch) == theirs
    assert not (scratch.path / "evidence.txt").exists()


@pytest.mark.parametrize("branch", ["main", "quiet"])
def test_a_branch_that_is_gone_meanwhile_is_not_made_again(
    repository: Repository, scratch: Scratch, branch: str
) -> None:
    old = tip(repository)
    scratch.git("branch", "quiet")
    commit = published(repository)
    scratch.git("checkout", "-q", "--detach")
    scratch.git("branch", "-q", "-D", branch)
    with pytest.raises(TipMoved):
        repository.advance(branch, old, commit)
    assert repository.commit_of(branch) is None


def test_a_commit_that_does_not_follow_the_tip_is_refused(repository: Repository, scratch: Scratch) -> None:
    first = tip(repository)
    scratch.write("a", "1")
    second = scratch.commit()
    elsewhere = repository.make_commit(draft(first, {"b": b"2"}))
    with pytest.raises(PublishBlocked):
        repository.advance("main", second, elsewhere)
    assert tip(repository) == second and not (scratch.path / "b").exists()


@pytest.mark.parametrize("how", [["--apply"], ["--merge"]])
@pytest.mark.parametrize("linked", [False, True])
def test_a_branch_is_not_moved_while_it_is_rebased(
    repository: Repository, scratch: Scratch, how: list[str], linked: bool
) -> None:
    scratch.git("checkout", "-q", "-b", "mine")
    scratch.write("README.md", "mine\n")
    before = scratch.commit()
    scratch.git("checkout", "-q", "main")
    scratch.write("README.md", "theirs\n")
    scratch.commit()
    place = scratch.outside / "linked" if linked else scratch.path
    scratch.git(*(["worktree", "add", "-q", str(place), "mine"] if linked else ["checkout", "-q", "mine"]))
    with pytest.raises(subprocess.CalledProcessError):
        in_tree(place, "rebase", "-q", *how, "main")
    commit = repository.make_commit(draft(before, {"evidence.txt": b"proof\n"}))
    with pytest.raises(PublishBlocked, match="a rebase of 'mine' is in progress; finish or abort it"):
        repository.advance("mine", before, commit)
    assert tip(repository, "mine") == before
    in_tree(place, "rebase", "--abort")
    repository.advance("mine", before, commit)
    assert tip(repository, "mine") == commit


def test_an_unfinished_merge_is_kept(repository: Repository, scratch: Scratch) -> None:
    scratch.git("checkout", "-q", "-b", "theirs")
    scratch.write("README.md", "theirs\n")
    scratch.commit()
    scratch.git("checkout", "-q", "main")
    scratch.write("README.md", "mine\n")
    scratch.commit()
    with pytest.raises(subprocess.CalledProcessError):
        scratch.git("merge", "-q", "theirs")
    before = (scratch.path / "README.md").read_text()
    with pytest.raises(PublishBlocked):
        advance(repository, published(repository))
    assert (scratch.path / "README.md").read_text() == before
    assert scratch.git("rev-parse", "MERGE_HEAD") == scratch.git("rev-parse", "theirs")


def test_a_person_who_commits_at_this_moment_blocks_and_loses_nothing(repository: Repository, scratch: Scratch) -> None:
    (repository.common / "index.lock").touch()
    before = tip(repository)
    with pytest.raises(PublishBlocked):
        advance(repository, published(repository))
    assert tip(repository) == before
    (repository.common / "index.lock").unlink()
    advance(repository, published(repository))


# ------------------------------------------------------------------------------------------------ hostile ground

HOOKS = ["post-checkout", "post-commit", "post-merge", "pre-commit", "pre-push", "reference-transaction", "update"]


def test_hooks_never_run(repository: Repository, scratch: Scratch) -> None:
    trace = scratch.outside / "trace"
    hooks = scratch.path / ".git" / "hooks"
    hooks.mkdir(exist_ok=True)
    scratch.git("branch", "quiet")
    for name in HOOKS:
        (hooks / name).write_text(f"#!/bin/sh\necho {name} >> {trace}\n")
        (hooks / name).chmod(0o755)
    advance(repository, published(repository))
    advance(repository, published(repository, "quiet"), "quiet")
    workspace = scratch.outside / "workspace"
    repository.add_worktree(workspace, tip(repository))
    repository.move_worktree(workspace, tip(repository, "quiet"))
    repository.remove_worktree(workspace)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("core.hooksPath", "."),
        ("merge.ff", "false"),
        ("commit.gpgSign", "true"),
        ("merge.verifySignatures", "true"),
        ("core.quotePath", "true"),
        ("color.ui", "always"),
        ("core.pager", "false"),
        ("log.showSignature", "true"),
        ("grep.patternType", "perl"),
        ("grep.patternType", "fixed"),
        ("grep.extendedRegexp", "true"),
        ("core.commentChar", "R"),
        ("grep.lineNumber", "true"),
        ("grep.fullName", "true"),
        ("grep.column", "true"),
        ("color.grep", "always"),
        ("trailer.separators", "="),
        ("i18n.logOutputEncoding", "latin1"),
        ("format.pretty", "oneline"),
        ("log.mailmap", "true"),
        ("fastimport.unpackLimit", "1"),
        ("core.logAllRefUpdates", "false"),
        ("status.showUntrackedFiles", "no"),
        ("core.fsmonitor", "false && exit 1"),
        ("merge.autoStash", "true"),
        ("core.autocrlf", "true"),
        ("core.precomposeUnicode", "false"),
        ("alias.merge", "!false"),
    ],
)
def test_what_a_repository_configures_changes_nothing(
    repository: Repository, scratch: Scratch, key: str, value: str
) -> None:
    scratch.git("config", key, value)
    named = f"m.json sha256:{'0' * 64}"
    message = f"evidence: x\n\nReconciler-Run: a-1a2b3c4d succeeded\nReconciler-Manifest: {named}\n"
    commit = repository.make_commit(draft(tip(repository), {"tasks/ü.md": b"t/green\n"}, message=message))
    advance(repository, commit)
    assert tip(repository) == commit and repository.head_branch() == "main"
    assert repository.search(commit, ["t/green"], ["tasks/*.md"]) == ("tasks/ü.md",)
    assert repository.evidence_commits("main") == {"a-1a2b3c4d": commit}
    assert repository.manifest_digests("main") == {"m.json": "0" * 64}
    assert content(repository, commit, "tasks/ü.md") == b"t/green\n"


@pytest.mark.parametrize("name", ["-x", "--help", "--output=x", "-c", "--exec=touch x", "-u", "--"])
def test_a_name_that_looks_like_an_option_is_a_name(repository: Repository, scratch: Scratch, name: str) -> None:
    old = tip(repository)
    files = {f"{name}/below": b"1", f"d/{name}": b"2"}
    commit = repository.make_commit(draft(old, files))
    advance(repository, commit)
    assert {each.path for each in repository.files_at(commit, list(files))} == set(files)
    assert repository.commit_of(name) is None
    assert repository.search(commit, [name], [name]) == ()
    with pytest.raises((TipMoved, GitFailed)):
        repository.advance(name, commit, published(repository))
    assert tip(repository) == commit
    assert set(os.listdir(scratch.path)) == {".git", "README.md", "d", name}


def test_replaced_objects_are_not_what_is_read(repository: Repository, scratch: Scratch) -> None:
    [oid] = repository.look_up(["HEAD:README.md"])
    scratch.write("forged", "forged\n")
    forged = scratch.git("hash-object", "-w", "forged").strip()
    assert oid is not None
    scratch.git("replace", oid, forged)
    assert dict(repository.blobs([oid]))[oid] == b"hello\n"


@pytest.mark.parametrize(
    "person", ["ann:hunter2", "hunter2", "ann:hun@ter2", "ann:hun%40ter2", "ann@x.invalid:hunter2"]
)
def test_credentials_in_an_address_are_never_repeated(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, person: str
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    address = f"https://{person}@127.0.0.1:1/repo"
    with pytest.raises(GitFailed) as failed:
        git.run(("fetch", "--", address), directory=repository.directory)
    assert "ter2" not in f"{failed.value} {failed.value.stderr}"


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        (
            b"fatal: unable to access 'https://ann:hunter2@example.invalid/r/': refused",
            "git fetch: fatal: unable to access 'https://example.invalid/r/': refused",
        ),
        (
            b"hint: x\nerror: failed to push to ssh://hun@ter2@example.invalid:22/r\n",
            "git fetch: error: failed to push to ssh://example.invalid:22/r",
        ),
        (b"fatal: https://example.invalid/~ann/r@main is gone", None),
        (b"", "git fetch: exit status 128"),
        (b"\xff", "git fetch: \ufffd"),
    ],
)
def test_an_error_of_git_is_told_without_credentials(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch, errors: bytes, said: str | None
) -> None:
    fake = scratch.outside / "git"
    fake.write_text('#!/bin/sh\ncat "$(dirname "$0")/errors" >&2\nexit 128\n')
    fake.chmod(0o755)
    (scratch.outside / "errors").write_bytes(errors)
    monkeypatch.setenv("PATH", f"{scratch.outside}:{os.environ['PATH']}")
    with pytest.raises(GitFailed) as failed:
        git.run(("fetch",), directory=scratch.path)
    assert str(failed.value) == (said or f"git fetch: {errors.decode()}")
    assert failed.value.exit_status == 128


def test_git_that_does_not_answer_is_ended(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = scratch.outside / "git"
    fake.write_text("#!/bin/sh\nexec sleep 600\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{scratch.outside}:{os.environ['PATH']}")
    with pytest.raises(GitFailed, match=r"git fetch: no answer within 0\.1 s"):
        git.run(("fetch",), directory=scratch.path, timeout_s=0.1)
    assert scratch.processes() == []


def test_where_git_is_missing_the_cure_is_told(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(scratch.outside))
    with pytest.raises(UsageError, match="git is not installed or not on PATH"):
        git.run(("version",), directory=scratch.path)


# ------------------------------------------------------------------------------------------------ workspaces


def test_a_workspace_is_a_checkout_of_one_commit_and_leaves_nothing_behind(
    repository: Repository, scratch: Scratch
) -> None:
    first = tip(repository)
    scratch.write("a", "1")
    second = scratch.commit()
    place = scratch.outside / "-work space"
    repository.add_worktree(place, first)
    assert sorted(os.listdir(place)) == [".git", "README.md"]
    (place / "README.md").write_text("changed by a stage\n")
    (place / "made").write_text("by a stage\n")
    repository.move_worktree(place, second)
    assert sorted(os.listdir(place)) == [".git", "README.md", "a", "made"]
    assert (place / "README.md").read_text() == "hello\n"
    repository.remove_worktree(place)
    repository.remove_worktree(place)
    assert not place.exists()
    assert scratch.git("worktree", "list", "--porcelain").count("worktree ") == 1
    assert tip(repository) == second


def test_half_a_workspace_is_made_anew(repository: Repository, scratch: Scratch) -> None:
    place = scratch.outside / "workspace"
    repository.add_worktree(place, tip(repository))
    (place / ".git").unlink()
    (place / "README.md").unlink()
    repository.add_worktree(place, tip(repository))
    assert (place / "README.md").read_text() == "hello\n"
    assert in_tree(place, "status", "--porcelain") == ""


def test_to_remove_a_workspace_forgets_no_worktree_of_a_person(repository: Repository, scratch: Scratch) -> None:
    linked, away = scratch.outside / "linked", scratch.outside / "unplugged"
    scratch.git("worktree", "add", "-q", "-b", "linked", str(linked))
    (linked / "README.md").write_text("staged\n")
    in_tree(linked, "add", "README.md")
    linked.rename(away)
    repository.add_worktree(scratch.outside / "workspace", tip(repository))
    repository.remove_worktree(scratch.outside / "workspace")
    away.rename(linked)
    assert in_tree(linked, "status", "--porcelain", "--branch").splitlines() == ["## linked", "M  README.md"]


# ------------------------------------------------------------------------------------------------ sha256


def test_repositories_with_sha256_work_as_well(scratch: Scratch) -> None:
    path = scratch.outside / "sha256"
    try:
        in_tree(scratch.outside, "init", "-q", "-b", "main", "--object-format=sha256", str(path))
    except subprocess.CalledProcessError:
        pytest.skip("this git knows no SHA-256")
    (path / "d").mkdir()
    (path / "d" / "a").write_text("1")
    in_tree(path, "add", "-A")
    in_tree(path, "commit", "-q", "-m", "first")
    found = open_repository(path)
    try:
        old = tip(found)
        assert len(old) == 64
        assert [each.path for each in found.entries(tree(found, old))] == ["d/a"]
        commit = found.make_commit(draft(old, {"d/b": b"2"}))
        assert [path for path, _ in found.changes(tree(found, old), tree(found, commit))] == ["d/b"]
        found.advance("main", old, commit)
        assert (tip(found), (path / "d" / "b").read_text()) == (commit, "2")
        assert [each.path for each in found.files_at(commit, ["d/a", "d/b", "d/c"])] == ["d/a", "d/b"]
    finally:
        found.objects.close()


# ------------------------------------------------------------------------------------------------ changes


def test_a_change_holds_every_path_whatever_its_name(repository: Repository, scratch: Scratch) -> None:
    commit = tip(repository)
    for path in ODD_PATHS:
        scratch.write(path, "one\n")
    (scratch.path / "README.md").unlink()
    change = repository.change(scratch.path, commit, scratch.outside / "index", 1 << 20)
    assert {path: counts for path, *counts in change.stats} == {
        **{path: [1, 0] for path in ODD_PATHS}, "README.md": [0, 1],
    }  # fmt: skip
    assert change.whole and change.nested == ()
    assert scratch.git("status", "--porcelain", "README.md") == " D README.md\n", "an index was touched"


def test_a_change_that_is_too_large_is_cut_and_counted(repository: Repository, scratch: Scratch) -> None:
    scratch.write("big.txt", "line\n" * 100_000)
    change = repository.change(scratch.path, tip(repository), scratch.outside / "index", 1000)
    assert (len(change.patch), change.whole, change.stats) == (1000, False, (("big.txt", 100_000, 0),))


def test_a_change_of_nothing_and_against_nothing(repository: Repository, scratch: Scratch) -> None:
    index = scratch.outside / "index"
    assert repository.change(scratch.path, tip(repository), index, 1000) == git.Change(patch=b"", whole=True, stats=())
    assert repository.change(scratch.path, None, index, 1000).stats == (("README.md", 1, 0),)


def test_a_change_against_what_is_not_there_fails(repository: Repository, scratch: Scratch) -> None:
    with pytest.raises(GitFailed, match="read-tree"):
        repository.change(scratch.path, "0" * 40, scratch.outside / "index", 1000)


def test_refs_that_were_packed_twice_in_a_second_are_read_as_they_are(repository: Repository, scratch: Scratch) -> None:
    for number in range(10):
        for again in range(2):
            scratch.write("count", f"{number} {again}\n")
            newest = scratch.commit()
            scratch.git("pack-refs", "--all", "--prune")
        assert repository.commit_of("main") == newest
