"""The simulated remote answers like a real one: to fetches, to looks, and to pushes that come too late."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from reconciler.git import Draft, Repository, open_repository
from reconciler.remote import DELETIONS_MANY, RefUpdate, Remote, open_remote, read_notes, write_notes
from reconciler.simulation.remote import Server, SimulatedRemote
from tests.contract.inside import inside, machines
from tests.scratch import ENVIRONMENT, Scratch

T = TypeVar("T")
MAIN, CLAIM, OTHER, HOST = (
    "refs/heads/main", "refs/reconciler/claims/a-00000001", "refs/reconciler/claims/b-00000002",
    "refs/reconciler/hosts/h-1",
)  # fmt: skip
NOBODY = "4" * 40


@dataclass(frozen=True)
class Clone:
    """One of two clones of one remote, and how to do something there."""

    repository: Repository
    remote: Remote
    do: Callable[[Callable[[], object]], object]

    def __call__(self, body: Callable[[], T]) -> T:
        return self.do(body)  # type: ignore[return-value]


def commit_on(clone: Clone, parent: str, text: str) -> str:
    draft = Draft(
        parent=parent, files={"out/a": text.encode()}, message="m\n", identity="A <a@b.invalid>", epoch_s=1_700_000_000
    )
    return clone(lambda: clone.repository.make_commit(draft))


def notes(clone: Clone, *messages: bytes) -> tuple[str, ...]:
    return clone(lambda: write_notes(clone.repository, messages, "A <a@b.invalid>", 1_700_000_000))


@pytest.fixture(params=["real", "simulated"])
def clones(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Clone, Clone, str]]:
    """Two clones and the commit that `main` is at."""
    if request.param == "simulated":
        hosts = machines(hosts=2, remote=True)
        base = hosts[0].repository.refs[MAIN]
        server = Server(hosts[0].scheduler, lambda ref, old, new: None)
        server.refs[MAIN] = base
        found = [
            Clone(
                host.repository,
                SimulatedRemote(host, host.repository, server),
                lambda body, host=host: inside(host, body),  # type: ignore[misc]
            )
            for host in hosts
        ]
        yield found[0], found[1], base
        return
    scratch = Scratch(tmp_path)
    scratch.write("README.md", "read\n")
    base = scratch.commit()
    bare = tmp_path / "bare.git"
    repositories = []
    _git("clone", "-q", "--bare", str(scratch.path), str(bare))
    for name in ("one", "two"):
        _git("clone", "-q", str(bare), str(tmp_path / name))
        repositories.append(open_repository(tmp_path / name))
    remotes = [open_remote(each, "origin") for each in repositories]
    real = [
        Clone(each, remote, lambda body: body()) for each, remote in zip(repositories, remotes, strict=True) if remote
    ]
    yield real[0], real[1], base
    for each in repositories:
        each.objects.close()


def _git(*words: str) -> None:
    subprocess.run(["git", *words], env=ENVIRONMENT, check=True, capture_output=True, timeout=60)


Clones = tuple[Clone, Clone, str]


def push(clone: Clone, *updates: tuple[str, str | None, str | None], atomic: bool = True) -> frozenset[str]:
    moves = [RefUpdate(ref=ref, old=old, new=new) for ref, old, new in updates]
    return clone(lambda: clone.remote.push(moves, atomic=atomic))


def test_what_one_pushes_the_other_fetches(clones: Clones) -> None:
    one, two, base = clones
    (note,) = notes(one, b"a note\n")
    commit = commit_on(one, base, "x")
    assert push(one, (MAIN, base, commit), (CLAIM, None, note)) == frozenset()
    assert two(lambda: two.remote.fetch(["main"])) == {MAIN: commit, CLAIM: note}
    assert two(lambda: two.remote.known(["main"])) == {MAIN: commit, CLAIM: note}
    assert two(lambda: two.remote.look([CLAIM, OTHER])) == {CLAIM: note}
    assert two(lambda: read_notes(two.repository, [note, NOBODY])) == {note: b"a note\n"}
    assert two(lambda: two.repository.is_ancestor(base, commit))


def test_a_claim_is_made_by_one_alone(clones: Clones) -> None:
    one, two, _ = clones
    (first,), (second,) = notes(one, b"one\n"), notes(two, b"two\n")
    assert push(one, (CLAIM, None, first)) == frozenset()
    assert push(two, (CLAIM, None, second)) == {CLAIM}
    assert two(lambda: two.remote.look([CLAIM])) == {CLAIM: first}


def test_all_or_nothing_is_nothing_if_one_has_moved(clones: Clones) -> None:
    one, two, base = clones
    (first,), (second, other) = notes(one, b"one\n"), notes(two, b"two\n", b"three\n")
    assert push(one, (CLAIM, None, first)) == frozenset()
    commit = commit_on(two, base, "y")
    assert push(two, (MAIN, base, commit), (CLAIM, None, second), (OTHER, None, other)) == {MAIN, CLAIM, OTHER}
    assert two(lambda: two.remote.fetch(["main"])) == {MAIN: base, CLAIM: first}


def test_without_that_each_ref_is_on_its_own(clones: Clones) -> None:
    one, two, _ = clones
    (first,), (second, other) = notes(one, b"one\n"), notes(two, b"two\n", b"three\n")
    push(one, (CLAIM, None, first))
    assert push(two, (CLAIM, None, second), (OTHER, None, other), atomic=False) == {CLAIM}
    assert one(lambda: one.remote.fetch(["main"])).keys() == {MAIN, CLAIM, OTHER}


def test_deleting_is_a_move_as_well(clones: Clones) -> None:
    one, two, _ = clones
    first, second = notes(one, b"one\n", b"two\n")
    push(one, (CLAIM, None, first), (HOST, None, second))
    two(lambda: two.remote.fetch(["main"]))
    assert push(two, (CLAIM, first, None), (HOST, second, None)) == frozenset()
    assert CLAIM not in one(lambda: one.remote.fetch(["main"]))
    assert push(one, (CLAIM, first, second)) == {CLAIM}


def test_a_branch_that_is_not_there_is_left_out(clones: Clones) -> None:
    one, _, base = clones
    assert one(lambda: one.remote.fetch(["main", "nowhere"])) == {MAIN: base}
    assert one(lambda: one.remote.known(["main", "nowhere"])) == {MAIN: base}


def test_what_was_pushed_can_be_noted_here(clones: Clones) -> None:
    one, _, base = clones
    (note,) = notes(one, b"one\n")
    one(lambda: one.remote.fetch(["main"]))
    one(lambda: one.remote.keep([RefUpdate(ref=CLAIM, old=None, new=note)]))
    assert one(lambda: one.remote.known(["main"])) == {MAIN: base, CLAIM: note}
    one(lambda: one.remote.keep([RefUpdate(ref=CLAIM, old=note, new=None)]))
    assert one(lambda: one.remote.known(["main"])) == {MAIN: base}


# ------------------------------------------------------------------------------------------------ many deletions

MANY = [f"refs/reconciler/claims/m{number:03d}-00000001" for number in range(DELETIONS_MANY + 10)]
NAMESAKE = f"{MANY[0]}0"


def published(clones: Clones) -> tuple[str, str, list[tuple[str, str | None, str | None]]]:
    """Make many claims and one that is named like the first of them and more; return two notes, and what publishes
    the runs of the many."""
    one, two, base = clones
    (first,), (second,) = notes(one, b"one\n"), notes(two, b"two\n")
    assert push(one, *((ref, None, first) for ref in [*MANY, NAMESAKE])) == frozenset()
    return first, second, [(MAIN, base, commit_on(one, base, "x")), *((ref, first, None) for ref in MANY)]


def test_many_claims_go_in_one_push_and_a_namesake_stays(clones: Clones) -> None:
    one, two, _ = clones
    first, _, moves = published(clones)
    assert push(one, *moves) == frozenset()
    assert two(lambda: two.remote.fetch(["main"])) == {MAIN: moves[0][2], NAMESAKE: first}


@pytest.mark.parametrize("ref", [MAIN, MANY[0], MANY[-1]])
@pytest.mark.parametrize("gone", [True, False])
def test_of_many_claims_none_goes_if_one_is_gone_or_has_moved(clones: Clones, ref: str, gone: bool) -> None:
    one, two, base = clones
    first, second, moves = published(clones)
    there = dict(two(lambda: two.remote.fetch(["main"])))
    other = None if gone and ref != MAIN else second if ref != MAIN else commit_on(two, base, "y")
    assert push(two, (ref, there[ref], other)) == frozenset()
    assert push(one, *moves) == {each[0] for each in moves}
    left = {name: oid for name, oid in {**there, ref: other}.items() if oid is not None}
    assert two(lambda: two.remote.fetch(["main"])) == left
    assert first in left.values()


def test_many_claims_that_were_deleted_already_are_not_deleted_again(clones: Clones) -> None:
    one, two, base = clones
    first, _, moves = published(clones)
    assert push(two, *moves[1:]) == frozenset()
    assert push(one, *moves) == {each[0] for each in moves}
    assert two(lambda: two.remote.fetch(["main"])) == {MAIN: base, NAMESAKE: first}
