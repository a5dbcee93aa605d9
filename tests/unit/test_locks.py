"""Lock files of git: what a dead one left is removed, and nothing that may still be held."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler import locks
from reconciler.git import Repository, open_repository
from tests.scratch import Scratch

OLD_S = 60.0


@pytest.fixture
def repository(scratch: Scratch) -> Iterator[Repository]:
    scratch.write("README.md", "hello\n")
    scratch.commit("first")
    found = open_repository(scratch.path)
    yield found
    found.objects.close()


def leave(repository: Repository, name: str, age_s: float = OLD_S) -> Path:
    """Leave a lock file behind, as git that was KILLed does."""
    path = repository.common / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    at = time.time() - age_s
    os.utime(path, (at, at))
    return path


@contextlib.contextmanager
def living(scratch: Scratch, name: str, directory: Path, *words: str, **environment: str) -> Iterator[None]:
    """Let a process of that name live in a directory."""
    program = scratch.outside / name
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "600", *words], cwd=directory, env=os.environ | environment) as process:
        try:
            comm = Path(f"/proc/{process.pid}/comm")
            scratch.wait_for(lambda: comm.read_text().strip() == name[:15])
            yield
        finally:
            process.kill()


LOCKS = [
    "HEAD.lock",
    "config.lock",
    "index.lock",
    "objects/info/commit-graph.lock",
    "packed-refs.lock",
    "packed-refs.new",
    "refs/heads/feature/x.lock",
    "refs/heads/main.lock",
    "refs/reconciler/remote/claims/a.lock",
    "refs/remotes/origin/main.lock",
    "refs/stash.lock",
    "shallow.lock",
    "worktrees/linked/index.lock",
]


def test_what_the_dead_left_is_removed_and_git_works_again(repository: Repository, scratch: Scratch) -> None:
    linked = scratch.outside / "linked"
    scratch.git("worktree", "add", "-q", str(linked))
    for name in LOCKS:
        leave(repository, name)
    scratch.write("a", "1")
    with pytest.raises(subprocess.CalledProcessError):
        scratch.commit()
    assert sorted(repository.clear_stale_locks()) == LOCKS
    assert repository.clear_stale_locks() == []
    scratch.commit()
    scratch.git("pack-refs", "--all")


def test_git_that_was_killed_is_recovered_from(repository: Repository, scratch: Scratch) -> None:
    hook = repository.common / "hooks/reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    prepared = scratch.outside / "prepared"
    hook.write_text(f'#!/bin/sh\n[ "$1" != prepared ] || {{ touch {prepared}; exec sleep 600; }}\n')
    hook.chmod(0o755)
    with subprocess.Popen(["git", "branch", "other"], cwd=scratch.path) as process:
        scratch.wait_for(prepared.exists)  # by then git has written what it writes to its lock file
        leave(repository, "refs/heads/other.lock")
        assert repository.clear_stale_locks() == []
        process.kill()
    hook.unlink()
    scratch.kill()
    assert repository.clear_stale_locks() == ["refs/heads/other.lock"]
    scratch.git("branch", "other")


def test_a_young_lock_stays(repository: Repository) -> None:
    path = leave(repository, "index.lock", 5.0)
    leave(repository, "HEAD.lock", -3600.0)
    assert repository.clear_stale_locks() == [] and path.exists()


def test_a_lock_that_somebody_has_open_stays(repository: Repository) -> None:
    path = leave(repository, "index.lock")
    leave(repository, "HEAD.lock")
    with path.open("rb"):
        assert repository.clear_stale_locks() == ["HEAD.lock"]
    assert repository.clear_stale_locks() == ["index.lock"]


def test_while_git_is_at_work_in_the_repository_every_lock_stays(repository: Repository, scratch: Scratch) -> None:
    linked, below = scratch.outside / "linked", scratch.path / "below"
    scratch.git("worktree", "add", "-q", str(linked))
    below.mkdir()
    path = leave(repository, "index.lock")
    for name, directory in (("git", below), ("git", linked), ("git-receive-pack", repository.common)):
        with living(scratch, name, directory):
            assert repository.clear_stale_locks() == []
    with living(scratch, "git", scratch.outside, GIT_DIR=str(repository.common)):
        assert repository.clear_stale_locks() == []
    assert path.exists() and repository.clear_stale_locks() == ["index.lock"]


def test_git_that_is_elsewhere_or_only_reads_holds_nothing(repository: Repository, scratch: Scratch) -> None:
    assert repository.commit_of("main") is not None  # a `git cat-file` stays
    for name, directory in (("git", scratch.outside), ("editor", scratch.path)):
        leave(repository, "index.lock")
        with living(scratch, name, directory):
            assert repository.clear_stale_locks() == ["index.lock"]


@pytest.mark.parametrize(
    ("words", "verb"),
    [
        (b"git cat-file --batch", b"cat-file"),
        (b"git -c a=b -C /x --git-dir y --bare cat-file", b"cat-file"),
        (b"git commit -m cat-file", b"commit"),
        (b"git -c cat-file gc", b"gc"),
        (b"git", b""),
        (b"git -c", b""),
    ],
)
def test_the_verb_of_a_command_line(words: bytes, verb: bytes) -> None:
    assert locks._verb(words.split(b" ")) == verb


def test_only_lock_files_are_removed(repository: Repository, scratch: Scratch) -> None:
    kept = [
        leave(repository, name)
        for name in ("index.locked", "lock", "refs/heads/lock", "objects/ab/x.lock", "hooks/x.lock")
    ]
    directory = repository.common / "odd.lock"
    directory.mkdir()
    link = repository.common / "link.lock"
    link.symlink_to("HEAD")
    (repository.common / "reconciler").mkdir(exist_ok=True)
    at = time.time() - OLD_S
    for path in (directory, link):
        os.utime(path, (at, at), follow_symlinks=False)
    assert repository.clear_stale_locks() == []
    assert all(path.exists() for path in [*kept, directory, link])


def test_where_processes_are_not_to_be_seen_nothing_is_removed(
    repository: Repository, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(repository, "index.lock")
    monkeypatch.setattr(locks, "PROC", scratch.outside)
    assert repository.clear_stale_locks() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_lock_of_another_user_is_removed_by_nobody_but_root(repository: Repository) -> None:
    path = leave(repository, "index.lock")
    os.chown(path, 65534, -1)
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.seteuid(65533)
            status = 0 if locks.remove_stale_locks(repository.common, [repository.common]) == [] else 1
        os._exit(status)
    assert os.waitpid(child, 0)[1] == 0 and path.exists()
    assert repository.clear_stale_locks() == ["index.lock"]


def test_one_process_at_a_time_removes(repository: Repository) -> None:
    leave(repository, "index.lock")
    descriptor = os.open(repository.common, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert repository.clear_stale_locks() == []
    os.close(descriptor)
    assert repository.clear_stale_locks() == ["index.lock"]


def test_the_search_has_an_end(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    leave(repository, "index.lock")
    for number in range(50):
        leave(repository, f"refs/heads/{number:02}.lock")
    monkeypatch.setattr(locks, "ENTRIES_MAX", 45)
    assert 0 < len(repository.clear_stale_locks()) < 45


def test_a_bare_repository_is_cleared_too(scratch: Scratch) -> None:
    subprocess.run(["git", "init", "-q", "--bare", "bare.git"], cwd=scratch.outside, check=True)
    bare = open_repository(scratch.outside / "bare.git")
    leave(bare, "HEAD.lock")
    assert bare.clear_stale_locks() == ["HEAD.lock"]
