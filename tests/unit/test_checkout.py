"""Moving a checkout, git run for real: what a person does in the same instant is kept or refused, never lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator

import pytest

from reconciler.checkout import INTENT_PATH, Checkout
from reconciler.errors import GitFailed, PublishBlocked, TipMoved
from reconciler.git import Draft, Repository, open_repository
from tests.scratch import ENVIRONMENT, Scratch

LOSER = """#!/bin/sh
if [ "$1" = "$(cat '{outside}/when')" ] && [ ! -e '{outside}/done' ]; then
  : > '{outside}/done'
  cd '{checkout}' && git add mine.txt 2> '{outside}/said' && : > '{outside}/added'
fi
cat
"""
"""A filter of contents who stages a person's file: git calls it in the middle of what it does with the index."""


@pytest.fixture
def repository(scratch: Scratch) -> Iterator[Repository]:
    """A repository whose branch main has a tracked file that evidence changes, and one that it does not."""
    scratch.write("tasks/t.md", "- [ ] Green\n")
    scratch.write("README.md", "hello\n")
    scratch.commit("first")
    found = open_repository(scratch.path)
    yield found
    found.objects.close()


def tip(repository: Repository, branch: str = "main") -> str:
    found = repository.commit_of(branch)
    assert found is not None
    return found


def evidence(repository: Repository, **files: bytes) -> str:
    wanted = files or {"tasks/t.md": b"- [x] Green\n", "out/t/state.json": b"{}\n"}
    who = {"message": "evidence: a\n", "identity": "R <r@example.invalid>", "epoch_s": 1_700_000_000}
    return repository.make_commit(Draft(parent=tip(repository), files=wanted, **who))  # type: ignore[arg-type]


def filtered(scratch: Scratch, when: str, path: str) -> None:
    """Let a filter stage `mine.txt` when git reads (`clean`) or writes (`smudge`) a file."""
    program = scratch.outside / "filter"
    program.write_text(LOSER.format(outside=scratch.outside, checkout=scratch.path))
    program.chmod(0o755)
    (scratch.outside / "when").write_text(when)
    (scratch.path / ".git/info/attributes").write_text(f"{path} filter=race\n")
    for each in ("clean", "smudge"):
        scratch.git("config", f"filter.race.{each}", f"{program} {each}")


@pytest.mark.parametrize("path", ["README.md", "tasks/t.md"])
@pytest.mark.parametrize("when", ["clean", "smudge"])
def test_what_a_person_stages_while_git_moves_the_checkout_is_kept_or_refused(
    repository: Repository, scratch: Scratch, when: str, path: str
) -> None:
    commit = evidence(repository)
    scratch.write("mine.txt", "mine\n")
    filtered(scratch, when, path)
    (scratch.path / path).write_bytes((scratch.path / path).read_bytes())
    repository.advance("main", tip(repository), commit)
    assert tip(repository) == commit
    if (scratch.outside / "added").exists():
        assert "mine.txt" in scratch.git("ls-files")
    elif (scratch.outside / "done").exists():
        assert "index.lock" in (scratch.outside / "said").read_text()
    scratch.git("add", "mine.txt")
    assert scratch.git("status", "--porcelain") == "A  mine.txt\n"


# ------------------------------------------------------------------------------------------------ dead in between


class Died(BaseException):
    """The process is no more."""


def die_before_the_branch_moves(repository: Repository, commit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bring = Checkout._bring

    def dying(self: Checkout, old: str, new: str) -> str:
        assert bring(self, old, new) == ""
        raise Died

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(Checkout, "_bring", dying)
        repository.advance("main", tip(repository), commit)


def die_while_files_are_written(repository: Repository, scratch: Scratch, commit: str, path: str) -> None:
    """Let git be KILLed when it is about to write a file: those before it in the order of names are there by then."""
    program = scratch.outside / "killer"
    program.write_text("#!/bin/sh\nkill -9 0\n")
    program.chmod(0o755)
    attributes = scratch.path / ".git/info/attributes"
    attributes.write_text(f"{path} filter=killer\n")
    scratch.git("config", "filter.killer.smudge", str(program))
    with pytest.raises(GitFailed):
        repository.advance("main", tip(repository), commit)
    attributes.unlink()
    (scratch.path / ".git/index.lock").unlink()


def finish(repository: Repository, old: str, commit: str) -> None:
    """Let a later pass, which has made another commit for the same place, find what the dead one left."""
    with pytest.raises(TipMoved):
        repository.advance("main", old, evidence(repository, **{"out/t/state.json": b'{"later": true}\n'}))
    assert tip(repository) == commit


def test_a_move_that_died_before_the_branch_moved_is_brought_to_its_end(
    repository: Repository, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, commit = tip(repository), evidence(repository)
    die_before_the_branch_moves(repository, commit, monkeypatch)
    assert tip(repository) == old
    assert not list((scratch.path / ".git").rglob("*.lock"))
    scratch.write("mine.txt", "mine\n")
    scratch.git("add", "mine.txt")
    finish(repository, old, commit)
    assert scratch.git("status", "--porcelain") == "A  mine.txt\n"
    later = evidence(repository, **{"out/t/state.json": b'{"later": true}\n'})
    repository.advance("main", commit, later)
    assert (scratch.path / "out/t/state.json").read_text() == '{"later": true}\n'
    assert scratch.git("status", "--porcelain") == "A  mine.txt\n"


@pytest.mark.parametrize("path", ["out/t/b.json", "tasks/t.md", "tasks/u.md"])
@pytest.mark.parametrize("torn", [False, True])
def test_a_move_that_died_among_the_files_is_brought_to_its_end(
    repository: Repository, scratch: Scratch, path: str, torn: bool
) -> None:
    repository.exclude("/.runs/")
    files = {
        ".runs/t/live.json": b"{}\n",
        "out/t/a.json": b"a\n",
        "out/t/b.json": b"b\n",
        "tasks/t.md": b"- [x] Green\n",
    }
    files["tasks/u.md"] = b"new\n"
    old, commit = tip(repository), evidence(repository, **files)
    scratch.write("README.md", "edited\n")
    die_while_files_are_written(repository, scratch, commit, path)
    assert tip(repository) == old
    assert (scratch.path / "out/t/a.json").exists()
    if torn:
        scratch.write(path, files[path][:1])
    finish(repository, old, commit)
    assert {name: (scratch.path / name).read_bytes() for name in files} == files
    assert scratch.git("status", "--porcelain") == " M README.md\n"


def test_files_that_an_orphaned_git_still_writes_are_left_to_it(repository: Repository, scratch: Scratch) -> None:
    old, commit = tip(repository), evidence(repository)
    die_while_files_are_written(repository, scratch, commit, "tasks/t.md")
    lock = scratch.write(".git/index.lock", "")
    with pytest.raises(PublishBlocked, match=r"index\.lock"):
        repository.advance("main", old, evidence(repository, later=b"1"))
    assert (scratch.path / "out/t/state.json").read_bytes() == b"{}\n"
    assert lock.exists()
    lock.unlink()
    finish(repository, old, commit)
    assert scratch.git("status", "--porcelain") == ""


def test_a_git_that_is_at_work_for_a_moment_is_waited_for(
    repository: Repository, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reconciler.checkout.LOCK_PATIENCE_S", 30.0)
    lock = scratch.write(".git/index.lock", "")
    threading.Timer(0.1, lock.unlink).start()
    repository.advance("main", tip(repository), evidence(repository))
    assert scratch.git("status", "--porcelain") == ""


def test_a_person_s_edit_after_an_interrupted_move_is_kept_and_named(
    repository: Repository, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, commit = tip(repository), evidence(repository)
    die_before_the_branch_moves(repository, commit, monkeypatch)
    scratch.write("tasks/t.md", "- [x] Green\nmine\n")
    scratch.git("add", "tasks/t.md")
    for _ in range(2):
        with pytest.raises(PublishBlocked, match=r"your work in .*tasks/t\.md"):
            repository.advance("main", old, evidence(repository, later=b"1"))
        assert (tip(repository), (scratch.path / "tasks/t.md").read_text()) == (old, "- [x] Green\nmine\n")
    theirs = scratch.commit("mine, with what was staged")
    repository.advance("main", theirs, evidence(repository, later=b"1"))
    assert scratch.git("status", "--porcelain") == ""
    assert (scratch.path / "tasks/t.md").read_text() == "- [x] Green\nmine\n"
    assert not (repository.common / INTENT_PATH).exists()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"branch": 1}', b'{"branch": "main", "old": "x", "new": "--x"}'])
def test_an_intent_that_cannot_be_read_is_forgotten(repository: Repository, scratch: Scratch, data: bytes) -> None:
    scratch.write(f".git/{INTENT_PATH}", data)
    repository.advance("main", tip(repository), evidence(repository))
    assert not (repository.common / INTENT_PATH).exists()


def test_an_intent_whose_commit_is_gone_is_forgotten(repository: Repository, scratch: Scratch) -> None:
    intent = {"branch": "main", "old": tip(repository), "new": "1" * 40}
    scratch.write(f".git/{INTENT_PATH}", json.dumps(intent))
    commit = evidence(repository)
    repository.advance("main", tip(repository), commit)
    assert tip(repository) == commit


# ------------------------------------------------------------------------------------------------ beside a person


def test_the_branch_and_head_are_locked_while_files_move(repository: Repository, scratch: Scratch) -> None:
    program = scratch.outside / "filter"
    program.write_text(
        f"#!/bin/sh\ncat\ncd '{scratch.path}'\n(git symbolic-ref HEAD refs/heads/other;"
        f" git commit --allow-empty -qm mine) > '{scratch.outside}/said' 2>&1\n"
    )
    program.chmod(0o755)
    scratch.git("config", "core.filesRefLockTimeout", "0")
    scratch.git("config", "filter.x.smudge", str(program))
    (scratch.path / ".git/info/attributes").write_text("tasks/t.md filter=x\n")
    commit = evidence(repository)
    repository.advance("main", tip(repository), commit)
    said = (scratch.outside / "said").read_text()
    assert "HEAD.lock" in said and "index.lock" in said
    assert (tip(repository), scratch.git("symbolic-ref", "HEAD").strip()) == (commit, "refs/heads/main")
    assert scratch.git("status", "--porcelain") == ""


def test_a_move_says_who_moved_and_leaves_the_marks_of_a_person(repository: Repository, scratch: Scratch) -> None:
    scratch.git("update-ref", "ORIG_HEAD", tip(repository))
    marked = tip(repository)
    for _ in range(2):
        repository.advance("main", tip(repository), evidence(repository, **{"out/x": tip(repository).encode()}))
    assert scratch.git("rev-parse", "ORIG_HEAD").strip() == marked
    for name in ("HEAD", "main"):
        assert scratch.git("log", "-g", "-1", "--format=%gs", name).startswith("reconciler: ")


@pytest.mark.parametrize("kind", ["merge", "cherry-pick"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_merge_whose_conflicts_are_solved_is_to_be_concluded_first(
    repository: Repository, scratch: Scratch, kind: str, linked: bool
) -> None:
    place = scratch.path
    if linked:
        place = scratch.outside / "linked"
        scratch.git("switch", "-q", "-c", "away")
        scratch.git("worktree", "add", "-q", str(place), "main")

    def do(*words: str) -> None:
        scratch.git("-C", str(place), *words)

    do("switch", "-q", "-c", "theirs")
    (place / "README.md").write_text("theirs\n")
    do("commit", "-qam", "theirs")
    do("switch", "-q", "main")
    (place / "README.md").write_text("mine\n")
    do("commit", "-qam", "mine")
    with pytest.raises(subprocess.CalledProcessError):
        do(kind, "theirs")
    (place / "README.md").write_text("both\n")
    do("add", "README.md")
    old, commit = tip(repository), evidence(repository)
    with pytest.raises(PublishBlocked, match=f"a {kind} is in progress; conclude or abort it"):
        repository.advance("main", old, commit)
    assert tip(repository) == old and (place / "README.md").read_text() == "both\n"
    do("commit", "-qm", "concluded")
    repository.advance("main", tip(repository), evidence(repository))


def test_a_sparse_checkout_stays_sparse(repository: Repository, scratch: Scratch) -> None:
    scratch.git("sparse-checkout", "set", "--cone", "tasks")
    commit = evidence(repository)
    repository.advance("main", tip(repository), commit)
    assert (scratch.path / "tasks/t.md").read_text() == "- [x] Green\n"
    assert not (scratch.path / "out").exists()
    assert (tip(repository), scratch.git("status", "--porcelain")) == (commit, "")


def test_an_edit_within_the_tick_of_the_clock_in_which_the_index_was_written_is_seen(
    repository: Repository, scratch: Scratch
) -> None:
    """Same length, same times: only the content tells, and git compares it where the index is not younger."""
    place = scratch.path / "tasks/t.md"
    seen = place.stat()
    place.write_bytes(b"- [?] Green\n")
    for each in (place, scratch.path / ".git/index"):
        os.utime(each, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    scratch.git("config", "core.trustctime", "false")
    with pytest.raises(PublishBlocked, match=r"tasks/t\.md"):
        repository.advance("main", tip(repository), evidence(repository))
    assert place.read_bytes() == b"- [?] Green\n"


def test_a_checkout_that_was_copied_moves(repository: Repository, scratch: Scratch) -> None:
    copy = scratch.outside / "copy"
    shutil.copytree(scratch.path, copy)
    found = open_repository(copy)
    try:
        commit = evidence(found)
        found.advance("main", tip(found), commit)
        assert tip(found) == commit and (copy / "tasks/t.md").read_text() == "- [x] Green\n"
    finally:
        found.objects.close()


def test_of_many_files_staged_beside_many_moves_none_is_forgotten(repository: Repository, scratch: Scratch) -> None:
    """Git says of each `git add` whether it was done; what was done must still be done at the end."""
    names = [f"mine/{number}.txt" for number in range(60)]
    for each in names:
        scratch.write(each, "mine\n")
    script = 'for each in "$@"; do git add "$each" 2> /dev/null && echo "$each"; done'
    person = subprocess.Popen(
        ["sh", "-c", script, "sh", *names], cwd=scratch.path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    moves = 0
    while person.poll() is None:
        with contextlib.suppress(PublishBlocked):
            repository.advance("main", tip(repository), evidence(repository, **{"out/t/n": b"%d\n" % moves}))
            moves += 1
    assert person.stdout is not None
    done = person.stdout.read().split()
    person.stdout.close()
    assert moves > 0
    assert set(done) <= set(scratch.git("ls-files").split())


SLOW = """#!/bin/sh
: > '{outside}/busy'
while [ ! -e '{outside}/go' ] && [ "$(git rev-parse refs/heads/main)" != {commit} ]; do sleep 0.01; done
cat
"""
"""A filter that keeps `git switch` in the middle until the branch that it goes to has moved."""


def test_a_checkout_follows_a_branch_that_moved_while_somebody_switched_to_it(
    repository: Repository, scratch: Scratch
) -> None:
    old, commit = tip(repository), evidence(repository)
    scratch.git("switch", "-q", "-c", "topic")
    scratch.write("README.md", "on the topic\n")
    scratch.commit("topic")
    program = scratch.outside / "slow"
    program.write_text(SLOW.format(outside=scratch.outside, commit=commit))
    program.chmod(0o755)
    (scratch.path / ".git/info/attributes").write_text("README.md filter=slow\n")
    scratch.git("config", "filter.slow.smudge", str(program))
    with subprocess.Popen(["git", "switch", "-q", "main"], cwd=scratch.path, env=ENVIRONMENT) as switching:
        try:
            scratch.wait_for((scratch.outside / "busy").exists)
            repository.advance("main", old, commit)
        finally:
            (scratch.outside / "go").touch()
        assert switching.wait(timeout=60) == 0
    assert scratch.git("rev-parse", "HEAD").strip() == commit
    assert scratch.git("status", "--porcelain") == ""
    assert (scratch.path / "tasks/t.md").read_text() == "- [x] Green\n"
