"""How much comes with a fetch: what attempts at engines say is bounded, and one that says too much harms nobody else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler import remote as module
from reconciler.git import open_repository
from reconciler.remote import HEADS, Remote
from reconciler.work import WORK
from tests.scratch import Clone, Hub

MUCH = 300_000


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Hub, Clone, Remote]]:
    monkeypatch.setattr(module, "FETCHED_BYTES_MAX", MUCH // 2)
    hub = Hub(tmp_path)
    clone = hub.clone("a")
    clone.write("README.md", "hello\n")
    clone.push()
    remote = Remote(open_repository(clone.path), "origin")
    yield hub, clone, remote
    remote.repository.objects.close()


def say(hub: Hub, ref: str, size: int) -> str:
    """Let a ref at the hub be a commit of a file that nothing makes smaller."""
    (hub.path / "large").write_bytes(os.urandom(size))
    blob = hub.git("hash-object", "-w", "large").strip()
    (hub.path / "lines").write_text(f"100644 blob {blob}\tlarge\n")
    hub.git("update-index", "--add", "--cacheinfo", f"100644,{blob},large")
    commit = hub.git("commit-tree", hub.git("write-tree").strip(), "-m", "word").strip()
    hub.git("update-ref", ref, commit)
    return commit


def test_an_attempt_that_says_too_much_is_not_heard_and_everybody_else_is(
    shared: tuple[Hub, Clone, Remote],
) -> None:
    hub, clone, remote = shared
    small = say(hub, f"{WORK}small-00000000/1", 10)
    gone = say(hub, f"{WORK}gone-00000000/1", 10)
    assert remote.fetch(["main"])[f"{WORK}gone-00000000/1"] == gone
    hub.git("update-ref", "-d", f"{WORK}gone-00000000/1")
    say(hub, f"{WORK}large-00000000/1", MUCH)
    next_one = say(hub, f"{WORK}small-00000000/2", 11)
    clone.write("more.txt", "more\n")
    tip = clone.push()
    for _ in range(2):
        assert remote.fetch(["main"]) == {
            f"{HEADS}main": tip,
            f"{WORK}small-00000000/1": small,
            f"{WORK}small-00000000/2": next_one,
        }
    assert not list((clone.path / ".git/objects/pack").glob("tmp_*")), "what was begun is not left behind"


def test_what_people_have_pushed_may_be_as_large_as_it_is(shared: tuple[Hub, Clone, Remote]) -> None:
    hub, _, remote = shared
    large = say(hub, f"{HEADS}large", MUCH)
    small = say(hub, f"{WORK}small-00000000/1", 10)
    assert remote.fetch(["large"]) == {f"{HEADS}large": large, f"{WORK}small-00000000/1": small}
