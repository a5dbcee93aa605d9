"""The simulated repository answers like git: same object ids, same changes, same refusals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from reconciler.errors import TipMoved
from reconciler.git import Draft, Repository, open_repository
from reconciler.simulation.repository import SimulatedRepository
from tests.contract.inside import inside, machines
from tests.scratch import Scratch

FIRST = {
    "README.md": b"# Read me\n",
    "docs/a.md": b"- [ ] one <!-- item: t/one -->\n",
    "docs/deep/b.md": b"nothing\n",
    "runs.d/a.yaml": b"task: t\npipeline: p\n",
    "runs.d/team/b.yaml": b"task: t\npipeline: p\n",
    "run.txt": b"sorts beside a directory\n",
}
SECOND = {
    "docs/a.md": b"- [x] one <!-- item: t/one -->\n",
    "runs.d/c.yaml": b"task: t\npipeline: q\n",
    ".runs/t/metrics.json": b"{}\n",
}


class Real:
    """A repository that git made, and its commits."""

    def __init__(self, scratch: Scratch) -> None:
        for path, data in FIRST.items():
            scratch.write(path, data)
        self.base = scratch.commit()
        self.repository: Repository = open_repository(scratch.path)
        self.next = self.repository.make_commit(draft(self.base))


class Simulated:
    def __init__(self) -> None:
        (self.host,) = machines()
        self.host.moved = lambda ref, old, new: None  # type: ignore[method-assign]
        self.repository: SimulatedRepository = self.host.repository
        self.base = self.repository.store.make(None, dict(FIRST), "base")
        self.repository.refs["refs/heads/main"] = self.base
        self.next = self.repository.make_commit(draft(self.base))


def draft(parent: str) -> Draft:
    return Draft(parent=parent, files=SECOND, message="more\n", identity="A <a@b.invalid>", epoch_s=1_700_000_000)


@pytest.fixture
def both(scratch: Scratch) -> Iterator[tuple[Real, Simulated]]:
    real = Real(scratch)
    yield real, Simulated()
    real.repository.objects.close()


def trees(each: Real | Simulated, path: str) -> tuple[str | None, ...]:
    return each.repository.look_up([f"{commit}{path}" for commit in (each.base, each.next)])


PLACES = [":runs.d", ":docs/deep", ":README.md", ":.runs/t/metrics.json", ":nothing", ":README.md/x"]


@pytest.mark.parametrize("path", PLACES)
def test_objects_have_the_same_ids(both: tuple[Real, Simulated], path: str) -> None:
    real, simulated = both
    assert trees(real, path) == trees(simulated, path)


def test_branches_and_heads_are_found_by_name(both: tuple[Real, Simulated]) -> None:
    for each in both:
        assert each.repository.commit_of("main") == each.base
        assert each.repository.commit_of("other") is None
        assert each.repository.head_branch() == "main"
        assert each.repository.look_up(["HEAD:runs.d"]) == trees(each, ":runs.d")[:1]


def test_changes_and_entries_are_the_same(both: tuple[Real, Simulated]) -> None:
    real, simulated = both
    for path in (":runs.d", ":docs", ":.runs"):
        old, new = trees(real, path)
        found = [sorted(each.repository.changes(old, new), key=lambda pair: pair[0]) for each in both]
        assert found[0] == found[1]
        assert real.repository.entries(new) == simulated.repository.entries(new)


def test_blobs_and_files_are_the_same(both: tuple[Real, Simulated]) -> None:
    oids = [oid for oid in trees(both[0], ":README.md") if oid]
    paths = ["README.md", "docs/a.md", "docs", "no", "docs/no.md"]
    found = [
        (list(each.repository.blobs([*oids, "0" * 40])), each.repository.files_at(each.next, paths)) for each in both
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("globs", [("docs/**/*.md",), ("**/*.md",), ("*.md",), ("docs/*.md", "runs.d/**")])
def test_searching_finds_the_same(both: tuple[Real, Simulated], globs: tuple[str, ...]) -> None:
    found = [sorted(each.repository.search(each.base, ("t/one", "task: t"), globs)) for each in both]
    assert found[0] == found[1]


def test_a_branch_moves_by_compare_and_swap(both: tuple[Real, Simulated]) -> None:
    for each in both:
        each.repository.advance("main", each.base, each.next)
        assert each.repository.commit_of("main") == each.next
        with pytest.raises(TipMoved):
            each.repository.advance("main", each.base, each.next)
        assert each.repository.is_ancestor(each.base, each.next)
        assert not each.repository.is_ancestor(each.next, each.base)
        assert not each.repository.is_ancestor("0" * 40, each.next)


def test_a_worktree_comes_and_goes(both: tuple[Real, Simulated]) -> None:
    real, simulated = both
    place = real.repository.directory / ".runs" / "workspace"
    place.parent.mkdir()
    real.repository.add_worktree(place, real.base)
    real.repository.move_worktree(place, real.next)
    assert (place / ".git").exists()
    real.repository.remove_worktree(place)
    assert not place.exists()
    host = simulated.host

    def body(path: Path = host.checkout / ".runs" / "workspace") -> list[bool]:
        host.disk.make_directory(path.parent)
        host.repository.add_worktree(path, simulated.base)
        host.repository.move_worktree(path, simulated.next)
        there = host.disk.exists(path / ".git")
        host.repository.remove_worktree(path)
        return [there, host.disk.exists(path)]

    assert inside(host, body) == [True, False]


@pytest.mark.parametrize("path", ["docs/a.md", "runs.d/c.yaml", ".runs/t/metrics.json", "docs", "nothing.md"])
def test_the_last_change_of_a_path_is_the_same_commit(both: tuple[Real, Simulated], path: str) -> None:
    """Of a path, a folder, one that was changed, removed or never there, in a line of commits and behind a merge."""
    found = []
    for each in both:
        removed = each.repository.make_commit(
            later(each.next, {"runs.d/a.yaml": b"task: t\npipeline: r\n"}, ["docs/a.md"])
        )
        side = each.repository.make_commit(later(each.next, {"notes.txt": b"aside\n"}))
        merged = each.repository.make_commit(later(removed, {}, merges=(side,)))
        commits = {each.next: "next", removed: "removed", side: "side", merged: "merged"}
        for tip, name in commits.items():
            last = each.repository.last_change(tip, path)
            known = None if last is None else (commits.get(last.commit), last.author, last.at, last.signer)
            found.append((name, known))
    half = len(found) // 2
    assert found[:half] == found[half:]


def test_the_paths_that_a_commit_changed_are_the_same(both: tuple[Real, Simulated]) -> None:
    real, simulated = (each.repository.first_parent_changes(each.next) for each in both)
    assert real == simulated == tuple(sorted(SECOND))
    assert both[0].repository.first_parent_changes(both[0].base) == tuple(sorted(FIRST))
    assert both[1].repository.first_parent_changes(both[1].base) == tuple(sorted(FIRST))
    assert all(each.repository.first_parent_changes("0" * 40) == () for each in both)


def later(parent: str, files: dict[str, bytes], removals: Sequence[str] = (), merges: tuple[str, ...] = ()) -> Draft:
    return Draft(
        parent=parent, files=files, removals=tuple(removals), merges=merges, message="later\n",
        identity="B <b@b.invalid>", epoch_s=1_700_000_500,
    )  # fmt: skip
