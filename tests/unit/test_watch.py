"""What wakes a watcher: refs that move however git stores them, events that fail in every manner, a bell."""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler import process
from reconciler.watch import HINT, Bell, Events, Refs
from tests.scratch import ENVIRONMENT


def git(directory: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=directory, env=ENVIRONMENT, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    path = tmp_path / "repo"
    path.mkdir()
    git(path, "init", "-q", "-b", "team/main")
    commit(path)
    return path


def commit(path: Path) -> None:
    git(path, "commit", "-q", "--allow-empty", "-m", "change")


def refs(path: Path) -> Refs:
    common = Path(git(path, "rev-parse", "--path-format=absolute", "--git-common-dir").strip())
    (common / "reconciler/live").mkdir(parents=True, exist_ok=True)
    return Refs(common, common / "reconciler", ("HEAD", "refs/heads/team/main"))


@pytest.fixture
def bell() -> Iterator[Bell]:
    made = Bell()
    yield made
    made.close()


class Deaf:
    """An observer that never says anything, as on a network file system; `alive` says whether it admits that."""

    alive = True
    emitters: tuple[object, ...] = ()

    def schedule(self, *_: object, **__: object) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def join(self, timeout: float) -> None: ...

    def is_alive(self) -> bool:
        return self.alive


# ------------------------------------------------------------------------------------------------ refs


def test_a_commit_is_seen_in_a_checkout_and_in_its_worktrees(repo: Path, tmp_path: Path) -> None:
    git(repo, "worktree", "add", "-q", "-b", "other", str(tmp_path / "tree"))
    here, there = refs(repo), refs(tmp_path / "tree")
    assert here == there
    before = there.look()
    assert there.look() == before
    commit(repo)
    assert there.look() != before


def test_refs_are_seen_packed_bare_and_by_their_marks(repo: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(repo), "bare.git")
    bare = refs(tmp_path / "bare.git")
    before = bare.look()
    commit(repo)
    git(tmp_path / "bare.git", "fetch", "-q", "origin", "+team/main:team/main")
    moved = bare.look()
    assert moved != before
    git(tmp_path / "bare.git", "pack-refs", "--all")
    packed = bare.look()
    assert packed != moved
    (bare.state / "live/a-1a2b3c4d").write_text("t\n")
    assert bare.look() != packed


def test_refs_in_a_reftable_are_seen(tmp_path: Path) -> None:
    try:
        git(tmp_path, "init", "-q", "--ref-format=reftable", "-b", "team/main", "repo")
    except subprocess.CalledProcessError:
        pytest.skip("this git knows no reftable")
    commit(tmp_path / "repo")
    found = refs(tmp_path / "repo")
    before = found.look()
    commit(tmp_path / "repo")
    assert found.look() != before
    assert found.common / "reftable" in found.directories()


def test_what_is_not_there_is_not_looked_at(tmp_path: Path) -> None:
    gone = Refs(tmp_path / "gone", tmp_path / "gone/reconciler", ("refs/heads/main",))
    assert (gone.identity(), gone.directories()) == (None, [])
    assert set(gone.look()) == {b"", None}


def test_only_directories_on_the_way_to_the_refs_are_watched(repo: Path) -> None:
    git(repo, "branch", "some/where/else")
    found = refs(repo)
    names = [each.relative_to(found.common).as_posix() for each in found.directories()]
    assert names == [".", "refs", "refs/heads", "refs/heads/team", "reconciler/live"]


# ------------------------------------------------------------------------------------------------ events


def wait_for_hint(bell: Bell, timeout_s: float = 10.0) -> float:
    began = time.monotonic()
    bell.wait((), timeout_s)
    assert bell.take() == (HINT,)
    return time.monotonic() - began


def test_a_commit_rings(repo: Path, bell: Bell) -> None:
    events = Events(refs(repo), bell.ring)
    events.start()
    try:
        assert (events.why, events.sound()) == ("", True)
        commit(repo)
        wait_for_hint(bell)
    finally:
        events.stop()
    assert not events.sound()


def test_git_that_moves_nothing_rings_for_nothing(repo: Path, bell: Bell) -> None:
    events = Events(refs(repo), bell.ring)
    events.start()
    try:
        (repo / "file").write_text("x")
        git(repo, "add", "file")
        git(repo, "status")
        assert not bell.wait((), 0.3)
        assert bell.take() == ()
    finally:
        events.stop()


def test_a_directory_that_was_replaced_is_not_sound_and_is_watched_anew(repo: Path, bell: Bell) -> None:
    found = refs(repo)
    events = Events(found, bell.ring)
    events.start()
    try:
        heads = found.common / "refs/heads/team"
        heads.rename(heads.with_name("away"))
        heads.mkdir()
        assert not events.sound()
        events.start()
        assert events.sound()
        bell.take()
        (heads / "main").write_text("0" * 40)
        wait_for_hint(bell)
    finally:
        events.stop()


def test_an_observer_that_cannot_start_is_said_and_harms_nobody(repo: Path, bell: Bell) -> None:
    class Refusing(Deaf):
        def start(self) -> None:
            raise OSError(28, "inotify watch limit reached")

    events = Events(refs(repo), bell.ring, Refusing)
    events.start()
    assert "inotify watch limit reached" in events.why
    assert not events.sound()


def test_an_observer_that_died_is_not_sound(repo: Path, bell: Bell) -> None:
    events = Events(refs(repo), bell.ring, Deaf)
    events.start()
    assert events.sound()
    Deaf.alive = False
    try:
        assert not events.sound()
    finally:
        Deaf.alive = True


def test_a_queue_that_overflows_rings(repo: Path, bell: Bell) -> None:
    """watchdog says of lost events in its log that they are, and nowhere else."""
    events = Events(refs(repo), bell.ring)
    events.start()
    try:
        logging.getLogger("watchdog.observers.inotify_c").warning("Kernel event queue overflowed")
        wait_for_hint(bell)
    finally:
        events.stop()


# ------------------------------------------------------------------------------------------------ the bell


def test_a_bell_that_was_rung_before_wakes_at_once_and_bursts_are_one(bell: Bell) -> None:
    for number in range(100_000):
        bell.ring(HINT if number else "asked")
    began = time.monotonic()
    bell.wait((), 10)
    assert time.monotonic() - began < 5
    assert bell.take() == ("asked", HINT)
    assert not bell.wait((), 0.0)
    assert bell.take() == ()


def test_a_bell_is_rung_from_another_thread(bell: Bell) -> None:
    threading.Timer(0.05, bell.ring, ["from outside"]).start()
    assert not bell.wait((), 10)
    assert bell.take() == ("from outside",)


def test_a_process_that_ends_wakes_and_is_told_apart(bell: Bell) -> None:
    started = subprocess.Popen(["sleep", "30"])
    who = process.identify(started.pid)
    assert who is not None
    assert not bell.wait([who], 0.01)
    threading.Timer(0.05, started.kill).start()
    assert bell.wait([who], 10)
    started.wait()
    assert bell.wait([who], 10), "one that is gone already wakes as well"


def test_a_closed_bell_is_rung_in_vain() -> None:
    made = Bell()
    made.close()
    made.ring("nobody hears")
