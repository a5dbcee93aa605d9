"""A remote repository, asked and moved for real: what is brought here, what a push may do, and what its answer means."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler import git
from reconciler import remote as module
from reconciler.errors import ContentError, GitFailed, NoAtomicPush, PushRefused, PushUnclear, UsageError
from reconciler.git import Repository, open_repository
from reconciler.remote import (
    NOTE_BYTES_MAX,
    UPDATES_MAX,
    RefUpdate,
    Remote,
    clone_of,
    is_url,
    open_remote,
    read_notes,
    write_notes,
)
from tests.scratch import ENVIRONMENT, Scratch

MAIN, CLAIM, HOST = "refs/heads/main", "refs/reconciler/claims/a-1a2b3c4d", "refs/reconciler/hosts/h1"
IDENTITY = "R <r@example.invalid>"
NOW = 1_700_000_000


class Ground:
    """A bare repository, `origin`, and clones of it."""

    def __init__(self, scratch: Scratch) -> None:
        self.scratch, self.place = scratch, scratch.outside
        self.bare = self.place / "origin.git"
        self.opened: list[Repository] = []
        in_tree(self.place, "init", "-q", "--bare", "-b", "main", str(self.bare))
        scratch.git("remote", "add", "origin", str(self.bare))
        scratch.write("README.md", "hello\n")
        self.first = scratch.commit("first")
        scratch.git("push", "-q", "origin", "main")
        self.remote = self.open(scratch.path)

    def open(self, path: Path) -> Remote:
        repository = open_repository(path)
        self.opened.append(repository)
        found = open_remote(repository, "origin")
        assert found is not None
        return found

    def clone(self, name: str, *words: str) -> Remote:
        in_tree(self.place, "clone", "-q", *words, self.bare.as_uri(), name)
        return self.open(self.place / name)

    def refs(self) -> dict[str, str]:
        """Return what the remote has, as another git sees it."""
        lines = in_tree(self.bare, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split(" ") for line in lines)

    def local(self, remote: Remote | None = None) -> dict[str, str]:
        place = (remote or self.remote).repository.directory
        lines = in_tree(place, "for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(line.split(" ") for line in lines)

    def commit(self, text: str = "x") -> str:
        self.scratch.write("file", text)
        return self.scratch.commit(text)

    def note(self, text: str, remote: Remote | None = None) -> str:
        [oid] = write_notes((remote or self.remote).repository, [text.encode()], IDENTITY, NOW)
        return oid

    def hook(self, name: str, script: str) -> None:
        path = self.bare / "hooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def script(self, name: str, text: str) -> str:
        path = self.place / name
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o755)
        return str(path)


def in_tree(directory: Path, *words: str) -> str:
    asked = subprocess.run(
        ["git", *words], cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=60
    )
    return asked.stdout.strip()


def move(ref: str, old: str | None, new: str | None) -> RefUpdate:
    return RefUpdate(ref=ref, old=old, new=new)


@pytest.fixture
def ground(scratch: Scratch) -> Iterator[Ground]:
    made = Ground(scratch)
    yield made
    for repository in made.opened:
        repository.objects.close()


# ------------------------------------------------------------------------------------------------ which remote


def test_a_remote_is_there_if_it_has_an_address(ground: Ground) -> None:
    repository = ground.remote.repository
    assert open_remote(repository, "origin") == Remote(repository, "origin")
    assert open_remote(repository, "elsewhere") is None
    assert open_remote(repository, None) is None
    ground.scratch.git("remote", "add", "team/my.origin", str(ground.bare))
    assert open_remote(repository, "team/my.origin") is not None


@pytest.mark.parametrize("name", ["-x", "--upload-pack=x", "", "a b", "a=b", "/tmp/x", "../x", "ext::sh", "a\nb"])
def test_what_is_no_name_is_no_remote(ground: Ground, name: str) -> None:
    with pytest.raises(UsageError, match="is not the name of a remote"):
        open_remote(ground.remote.repository, name)


@pytest.mark.parametrize("key", ["url", "pushurl"])
def test_a_remote_with_several_addresses_is_refused(ground: Ground, key: str) -> None:
    for number in range(2):
        ground.scratch.git("config", "--add", f"remote.two.{key}", f"/tmp/{number}")
    with pytest.raises(UsageError, match="'two' has several addresses"):
        open_remote(ground.remote.repository, "two")


# ------------------------------------------------------------------------------------------------ fetching


def test_a_fetch_brings_branches_claims_and_hosts_and_touches_nothing_else(ground: Ground) -> None:
    other = ground.clone("other")
    note, host = ground.note("claim"), ground.note("host")
    ground.remote.push([move(CLAIM, None, note), move(HOST, None, host)])
    in_tree(ground.bare, "update-ref", "refs/heads/main2", ground.first)
    in_tree(ground.bare, "update-ref", "refs/heads/feature/x", ground.first)
    in_tree(ground.bare, "update-ref", "refs/tags/v1", ground.first)
    before = ground.local(other)
    expected = {MAIN: ground.first, "refs/heads/feature/x": ground.first, CLAIM: note, HOST: host}
    assert other.fetch(["main", "feature/x"]) == expected
    assert other.known(["main", "feature/x"]) == expected
    ours = {f"refs/reconciler/remote/{ref.removeprefix('refs/').removeprefix('reconciler/')}" for ref in expected}
    assert ground.local(other).keys() - before.keys() == ours
    assert {ref: oid for ref, oid in ground.local(other).items() if ref in before} == before
    assert not (other.repository.common / "FETCH_HEAD").exists()
    assert read_notes(other.repository, [note, host]) == {note: b"claim", host: b"host"}


def test_a_fetch_follows_moves_back_and_deletions(ground: Ground) -> None:
    second, note = ground.commit(), ground.note("claim")
    ground.remote.push([move(MAIN, ground.first, second), move(CLAIM, None, note)])
    assert ground.remote.fetch(["main"]) == {MAIN: second, CLAIM: note}
    in_tree(ground.bare, "update-ref", MAIN, ground.first)
    in_tree(ground.bare, "update-ref", "-d", CLAIM)
    assert ground.remote.known(["main"]) == {MAIN: second, CLAIM: note}
    assert ground.remote.fetch(["main"]) == {MAIN: ground.first}
    assert ground.remote.known(["main"]) == {MAIN: ground.first}


@pytest.mark.parametrize("packed", [False, True])
def test_a_branch_that_is_missing_is_absent_and_forgotten(ground: Ground, packed: bool) -> None:
    in_tree(ground.bare, "update-ref", "refs/heads/evidence", ground.first)
    assert ground.remote.fetch(["main", "evidence", "never"]).keys() == {MAIN, "refs/heads/evidence"}
    if packed:
        ground.scratch.git("pack-refs", "--all")
    in_tree(ground.bare, "update-ref", "-d", "refs/heads/evidence")
    assert ground.remote.fetch(["main", "evidence", "never"]) == {MAIN: ground.first}
    assert "refs/reconciler/remote/heads/evidence" not in ground.local()
    assert ground.remote.fetch(["never"]) == {}
    assert ground.remote.fetch([]) == {}


def test_what_another_branch_left_is_kept_unless_it_is_in_the_way(ground: Ground) -> None:
    in_tree(ground.bare, "update-ref", "refs/heads/a", ground.first)
    assert ground.remote.fetch(["a", "main"]).keys() == {"refs/heads/a", MAIN}
    in_tree(ground.bare, "update-ref", "-d", "refs/heads/a")
    in_tree(ground.bare, "update-ref", "refs/heads/a/b", ground.first)
    assert ground.remote.fetch(["a/b"]) == {"refs/heads/a/b": ground.first}
    assert ground.remote.known(["main"]) == {MAIN: ground.first}


def test_a_claim_that_is_a_directory_of_an_older_one_is_no_obstacle(ground: Ground) -> None:
    in_tree(ground.bare, "update-ref", "refs/reconciler/claims/x", ground.first)
    ground.remote.fetch(["main"])
    in_tree(ground.bare, "update-ref", "-d", "refs/reconciler/claims/x")
    in_tree(ground.bare, "update-ref", "refs/reconciler/claims/x/y", ground.first)
    assert ground.remote.fetch(["main"]).keys() == {MAIN, "refs/reconciler/claims/x/y"}


@pytest.mark.parametrize("version", ["0", "1", "2"])
def test_a_remote_without_a_commit_is_empty_and_takes_the_first(ground: Ground, version: str) -> None:
    in_tree(ground.place, "init", "-q", "--bare", "empty.git")
    ground.scratch.git("config", "protocol.version", version)
    ground.scratch.git("remote", "add", "empty", (ground.place / "empty.git").as_uri())
    empty = Remote(ground.remote.repository, "empty")
    assert empty.fetch(["main"]) == {} == empty.look([MAIN])
    assert empty.push([move(MAIN, None, ground.first)]) == frozenset()
    assert empty.fetch(["main"]) == {MAIN: ground.first} == empty.look([MAIN])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("remote.origin.mirror", "true"),
        ("remote.origin.fetch", "+refs/*:refs/*"),
        ("remote.origin.fetch", "+refs/heads/*:refs/heads/*"),
        ("remote.origin.fetch", "^refs/heads/main"),
        ("remote.origin.push", "refs/heads/*:refs/heads/*"),
        ("remote.origin.prune", "true"),
        ("remote.origin.pruneTags", "true"),
        ("fetch.pruneTags", "true"),
        ("remote.origin.tagOpt", "--tags"),
        ("remote.origin.skipFetchAll", "true"),
        ("fetch.writeCommitGraph", "true"),
        ("fetch.recurseSubmodules", "true"),
        ("fetch.showForcedUpdates", "false"),
        ("fetch.output", "compact"),
        ("submodule.recurse", "true"),
        ("push.default", "nothing"),
        ("push.pushOption", "ci.skip"),
        ("push.followTags", "true"),
        ("push.gpgSign", "if-asked"),
        ("push.useForceIfIncludes", "true"),
        ("push.recurseSubmodules", "check"),
        ("push.negotiate", "true"),
        ("protocol.version", "0"),
        ("protocol.version", "1"),
        ("log.showSignature", "true"),
        ("core.logAllRefUpdates", "always"),
        ("core.packedRefsTimeout", "0"),
    ],
)
def test_what_is_configured_for_the_remote_changes_nothing(ground: Ground, key: str, value: str) -> None:
    ground.scratch.git("tag", "-a", "-m", "mine", "mine")
    ground.scratch.git("config", *(["--add"] if key == "remote.origin.fetch" else []), key, value)
    in_tree(ground.bare, "update-ref", "refs/tags/theirs", ground.first)
    before = ground.local()
    second = ground.commit()
    assert ground.remote.fetch(["main"]) == {MAIN: ground.first}
    ours = {ref for ref in ground.local() if ref.startswith("refs/reconciler/remote/")}
    assert ground.local().keys() - ours == before.keys()
    assert ground.local()["refs/remotes/origin/main"] == ground.first
    note = ground.note("claim")
    assert ground.remote.push([move(MAIN, ground.first, second), move(CLAIM, None, note)]) == frozenset()
    assert ground.refs() == {MAIN: second, CLAIM: note, "refs/tags/theirs": ground.first}
    assert ground.scratch.git("status", "--porcelain") == ""


def test_a_bare_repository_fetches_and_pushes_as_well(ground: Ground) -> None:
    bare = ground.clone("bare.git", "--mirror")
    assert bare.fetch(["main"]) == {MAIN: ground.first}
    note = ground.note("claim", bare)
    assert bare.push([move(CLAIM, None, note)]) == frozenset()
    assert bare.fetch(["main"]) == {MAIN: ground.first, CLAIM: note}


def _history(ground: Ground, commits: int = 5) -> str:
    tip = [ground.commit(str(number)) for number in range(commits)][-1]
    ground.scratch.git("push", "-q", "origin", "main")
    return tip


def test_a_shallow_clone_stays_shallow(ground: Ground) -> None:
    tip = _history(ground)
    shallow = ground.clone("shallow", "--depth=2")
    note = ground.note("claim")
    ground.remote.push([move(CLAIM, None, note)])
    boundary = (shallow.repository.common / "shallow").read_text()
    assert shallow.fetch(["main"]) == {MAIN: tip, CLAIM: note}
    newer = _history(ground)
    assert shallow.fetch(["main"]) == {MAIN: newer, CLAIM: note}
    assert (shallow.repository.common / "shallow").read_text() == boundary
    assert in_tree(shallow.repository.directory, "rev-list", "--count", newer) == "7"
    assert shallow.repository.is_ancestor(tip, newer) and not shallow.repository.is_ancestor(ground.first, newer)
    mine = ground.note("mine", shallow)
    assert shallow.push([move(CLAIM, note, mine), move(MAIN, newer, tip)]) == frozenset()
    assert ground.refs() == {MAIN: tip, CLAIM: mine}


def test_a_partial_clone_stays_partial(ground: Ground) -> None:
    in_tree(ground.bare, "config", "uploadpack.allowFilter", "true")
    _history(ground)
    partial = ground.clone("partial", "--filter=blob:none", "--no-checkout")
    note = ground.note("claim")
    ground.remote.push([move(CLAIM, None, note)])
    tip = _history(ground)
    assert partial.fetch(["main"]) == {MAIN: tip, CLAIM: note}
    assert read_notes(partial.repository, [note]) == {note: b"claim"}
    counted = in_tree(partial.repository.directory, "rev-list", "--objects", "--missing=print", tip)
    assert sum(line.startswith("?") for line in counted.splitlines()) == 6
    mine = ground.note("mine", partial)
    assert partial.push([move(CLAIM, note, mine)]) == frozenset()


@pytest.mark.parametrize("content", [b"", b"\0" * 41, b"1" * 40 + b"\n", b"not a ref\n"])
def test_a_ref_of_ours_that_lost_its_content_is_fetched_again(ground: Ground, content: bytes) -> None:
    note = ground.note("claim")
    ground.remote.push([move(CLAIM, None, note)])
    expected = ground.remote.fetch(["main"])
    ground.scratch.git("pack-refs", "--all")
    kept = ground.scratch.path / ".git/refs/reconciler/remote"
    for name in ("heads/main", "claims/a-1a2b3c4d", "claims/b"):
        path = kept / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert ground.remote.fetch(["main"]) == expected == {MAIN: ground.first, CLAIM: note}
    assert ground.remote.known(["main"]) == expected


def test_until_something_was_fetched_a_persons_own_view_counts(ground: Ground) -> None:
    ground.scratch.git("fetch", "-q", "origin")
    assert ground.remote.known(["main", "never"]) == {MAIN: ground.first}
    ground.remote.push([move(CLAIM, None, ground.first)])
    assert ground.remote.fetch(["main"]) == {MAIN: ground.first, CLAIM: ground.first}
    ground.scratch.git("update-ref", "refs/remotes/origin/main", ground.commit())
    assert ground.remote.known(["main"])[MAIN] == ground.first


def test_what_is_known_costs_no_network(ground: Ground) -> None:
    ground.remote.fetch(["main"])
    ground.bare.rename(ground.place / "gone")
    assert ground.remote.known(["main"]) == {MAIN: ground.first}


@pytest.mark.parametrize("name", ["a:refs/heads/main", "a b", "*", "a^", ""])
def test_what_is_no_branch_is_not_fetched(ground: Ground, name: str) -> None:
    with pytest.raises(ContentError, match="is not the name of a branch"):
        ground.remote.fetch([name])


def test_two_processes_may_fetch_at_once(ground: Ground) -> None:
    others = [open_repository(ground.scratch.path) for _ in range(4)]
    expected = {MAIN: ground.first}
    for number in range(5):
        note = ground.note(str(number))
        ref = f"{CLAIM}{number}"
        in_tree(ground.scratch.path, "push", "-q", "origin", f"{note}:{ref}")
        expected[ref] = note
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(lambda each: Remote(each, "origin").fetch(["main"]), others))
        assert found == [expected] * 4
    for each in others:
        each.objects.close()


# ------------------------------------------------------------------------------------------------ looking


def test_only_the_refs_asked_for_are_looked_at(ground: Ground) -> None:
    in_tree(ground.bare, "update-ref", f"refs/odd/{MAIN}", ground.first)
    ground.scratch.git("tag", "-a", "-m", "x", "v1")
    ground.scratch.git("push", "-q", "origin", "v1")
    tag = ground.scratch.git("rev-parse", "v1").strip()
    assert ground.remote.look([MAIN, CLAIM, "refs/tags/v1"]) == {MAIN: ground.first, "refs/tags/v1": tag}
    assert ground.remote.look(["refs/heads/*", "main", "-x", "--heads"]) == {}
    assert ground.remote.look([]) == {}


def test_many_refs_are_looked_at_in_parts(ground: Ground) -> None:
    refs = [f"refs/reconciler/claims/run-{number}" for number in range(2500)]
    lines = "".join(f"create {ref} {ground.first}\n" for ref in refs[1:])
    subprocess.run(["git", "update-ref", "--stdin"], cwd=ground.bare, input=lines, text=True, check=True)
    assert ground.remote.look(refs) == dict.fromkeys(refs[1:], ground.first)


# ------------------------------------------------------------------------------------------------ moving refs

ATOMIC = pytest.mark.parametrize("atomic", [True, False])


@ATOMIC
def test_refs_are_made_moved_back_and_forth_and_deleted(ground: Ground, atomic: bool) -> None:
    one, two, second = ground.note("one"), ground.note("two"), ground.commit()
    steps: list[tuple[list[RefUpdate], dict[str, str]]] = [
        ([move(CLAIM, None, one)], {MAIN: ground.first, CLAIM: one}),
        ([move(CLAIM, one, two), move(MAIN, ground.first, second)], {MAIN: second, CLAIM: two}),
        ([move(MAIN, second, ground.first), move(HOST, None, one)], {MAIN: ground.first, CLAIM: two, HOST: one}),
        ([move(CLAIM, two, None), move(HOST, one, None)], {MAIN: ground.first}),
    ]
    for updates, there in steps:
        assert ground.remote.push(updates, atomic=atomic) == frozenset()
        assert ground.refs() == there


@ATOMIC
@pytest.mark.parametrize("case", ["exists", "moved", "gone", "delete-moved", "delete-gone", "was-never", "already"])
def test_a_ref_that_is_not_where_it_must_be_is_rejected(ground: Ground, atomic: bool, case: str) -> None:
    one, two, three = (ground.note(each) for each in ("one", "two", "three"))
    there, update = {
        "exists": (one, move(CLAIM, None, two)),
        "moved": (one, move(CLAIM, two, three)),
        "gone": (None, move(CLAIM, one, two)),
        "delete-moved": (one, move(CLAIM, two, None)),
        "delete-gone": (None, move(CLAIM, one, None)),
        "was-never": (None, move(CLAIM, "1" * 40, two)),
        "already": (two, move(CLAIM, one, two)),
    }[case]
    if there is not None:
        in_tree(ground.scratch.path, "push", "-q", "origin", f"{there}:{CLAIM}")
    before = ground.refs()
    assert ground.remote.push([update], atomic=atomic) == {CLAIM}
    assert ground.refs() == before


def test_an_atomic_push_does_all_or_nothing(ground: Ground) -> None:
    one, two, second = ground.note("one"), ground.note("two"), ground.commit()
    ground.remote.push([move(CLAIM, None, one)])
    before = ground.refs()
    for updates in (
        [move(MAIN, ground.first, second), move(CLAIM, two, None), move(HOST, None, one)],
        [move(MAIN, second, ground.note("x")), move(CLAIM, one, None)],
        [move(MAIN, ground.first, second), move(CLAIM, one, None), move(HOST, one, None)],
    ):
        assert ground.remote.push(updates) == {each.ref for each in updates}
        assert ground.refs() == before


def test_a_push_that_is_not_atomic_does_what_can_be_done(ground: Ground) -> None:
    one, two, second = ground.note("one"), ground.note("two"), ground.commit()
    ground.remote.push([move(CLAIM, None, one)])
    updates = [
        move(MAIN, ground.first, second),
        move(CLAIM, two, None),
        move(HOST, None, one),
        move(f"{HOST}x", one, None),
    ]
    assert ground.remote.push(updates, atomic=False) == {CLAIM, f"{HOST}x"}
    assert ground.refs() == {MAIN: second, CLAIM: one, HOST: one}


def test_a_ref_that_somebody_else_moved_to_the_same_place_makes_an_atomic_push_unclear(ground: Ground) -> None:
    second, note = ground.commit(), ground.note("one")
    ground.scratch.git("push", "-q", "origin", "main")
    with pytest.raises(PushUnclear, match="a part of the refs had been moved before"):
        ground.remote.push([move(MAIN, ground.first, second), move(CLAIM, None, note)])
    assert ground.remote.look([MAIN, CLAIM]) == {MAIN: second, CLAIM: note}


@ATOMIC
def test_of_many_who_want_the_same_claim_one_gets_it(ground: Ground, atomic: bool) -> None:
    remotes = [ground.clone(f"clone-{number}") for number in range(4)]
    for round_ in range(5):
        ref = f"{CLAIM}{round_}"
        notes = [ground.note(f"{ref} {number}", each) for number, each in enumerate(remotes)]

        def claim(number: int, ref: str = ref, notes: Sequence[str] = notes) -> bool:
            try:
                return not remotes[number].push([move(ref, None, notes[number])], atomic=atomic)
            except PushRefused:
                return False

        with ThreadPoolExecutor() as pool:
            won = list(pool.map(claim, range(4)))
        assert won.count(True) == 1 and ground.refs()[ref] == notes[won.index(True)]


def test_who_moves_the_branch_between_the_look_of_a_push_and_its_effect_wins(ground: Ground) -> None:
    second, other, note = ground.commit(), ground.note("other"), ground.note("one")
    in_tree(ground.scratch.path, "push", "-q", "origin", f"{other}:refs/heads/side")
    ground.hook("pre-receive", f"unset GIT_QUARANTINE_PATH; git update-ref {MAIN} {other}")
    assert ground.remote.push([move(MAIN, ground.first, second), move(CLAIM, None, note)]) == {MAIN, CLAIM}
    in_tree(ground.bare, "update-ref", MAIN, ground.first)
    assert ground.remote.push([move(MAIN, ground.first, second), move(CLAIM, None, note)], atomic=False) == {MAIN}
    assert ground.refs() == {MAIN: other, CLAIM: note, "refs/heads/side": other}


def test_a_remote_that_cannot_move_refs_as_one_is_told_apart(ground: Ground) -> None:
    in_tree(ground.bare, "config", "receive.advertiseAtomic", "false")
    note = ground.note("one")
    with pytest.raises(NoAtomicPush):
        ground.remote.push([move(CLAIM, None, note)])
    assert ground.refs() == {MAIN: ground.first}
    assert ground.remote.push([move(CLAIM, None, note)], atomic=False) == frozenset()


def test_hundreds_of_refs_move_in_one_push(ground: Ground) -> None:
    refs = [f"refs/reconciler/claims/{'r' * 90}-{number:08}" for number in range(600)]
    lines = "".join(f"create {ref} {ground.first}\n" for ref in refs)
    subprocess.run(["git", "update-ref", "--stdin"], cwd=ground.bare, input=lines, text=True, check=True)
    updates = [move(MAIN, ground.first, ground.commit()), *(move(each, ground.first, None) for each in refs)]
    assert ground.remote.push(updates) == frozenset()
    assert ground.refs().keys() == {MAIN}


@pytest.mark.parametrize("hook", ["", "#!/bin/sh\nexit 1\n"])
def test_where_nobody_can_guard_a_push_its_refs_are_told_one_by_one(
    ground: Ground, hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hook:
        monkeypatch.setattr("reconciler.lent.GUARD", hook)
    else:
        monkeypatch.setattr("reconciler.lent.os.access", lambda path, mode: False)
    refs = [f"refs/reconciler/claims/r{number:03}-00000001" for number in range(module.DELETIONS_MANY)]
    lines = "".join(f"create {ref} {ground.first}\n" for ref in refs)
    subprocess.run(["git", "update-ref", "--stdin"], cwd=ground.bare, input=lines, text=True, check=True)
    commit, other = ground.commit(), ground.note("one")
    gone = [move(MAIN, ground.first, commit), *(move(each, other, None) for each in refs)]
    assert ground.remote.push(gone) == {each.ref for each in gone}
    assert ground.refs() == {MAIN: ground.first, **dict.fromkeys(refs, ground.first)}
    assert ground.remote.push([gone[0], *(move(each, ground.first, None) for each in refs)]) == frozenset()
    assert ground.refs() == {MAIN: commit}
    assert not list(ground.remote.repository.state.glob("push*"))


def test_the_longest_command_line_of_deletions_fits(ground: Ground) -> None:
    refs = [f"refs/{'r' * (module.REF_CHARACTERS_MAX - 13)}{number:08}" for number in range(UPDATES_MAX)]
    rejected = ground.remote.push([move(each, "1" * 40, None) for each in refs])
    assert rejected == set(refs)


def test_the_longest_command_line_fits(ground: Ground) -> None:
    refs = [f"refs/{'r' * (module.REF_CHARACTERS_MAX - 13)}{number:08}" for number in range(UPDATES_MAX)]
    with pytest.raises((PushUnclear, PushRefused)):
        ground.remote.push([move(each, "1" * 64, "2" * 64) for each in refs])


@pytest.mark.parametrize(
    ("ref", "old", "new"),
    [
        (MAIN, "1" * 40, "1" * 40),
        (MAIN, None, None),
        (MAIN, None, "main"),
        (MAIN, None, "1" * 7),
        (MAIN, "--x", "1" * 40),
        ("main", None, "1" * 40),
        ("--all", None, "1" * 40),
        ("refs/heads/a:b", None, "1" * 40),
        ("refs/heads/*", None, "1" * 40),
        ("refs/heads/a b", None, "1" * 40),
        (f"refs/{'x' * 200}", None, "1" * 40),
    ],
)
def test_an_update_that_means_nothing_cannot_be_made(ref: str, old: str | None, new: str | None) -> None:
    with pytest.raises(ValueError, match=ref[:4]):
        move(ref, old, new)


def test_a_push_has_bounds_and_names_each_ref_once(ground: Ground) -> None:
    assert ground.remote.push([]) == frozenset()
    with pytest.raises(ValueError, match="each ref once"):
        ground.remote.push([move(CLAIM, None, ground.first), move(CLAIM, ground.first, None)])
    with pytest.raises(ValueError, match="at most 2500"):
        ground.remote.push([move(f"refs/x/{number}", None, ground.first) for number in range(UPDATES_MAX + 1)])


@pytest.mark.parametrize("kind", ["bare", "worktree", "submodule", "sha256"])
def test_a_push_comes_from_any_kind_of_repository(ground: Ground, kind: str) -> None:
    place = ground.place / "kind"
    hub = ground.bare
    if kind == "bare":
        in_tree(ground.place, "clone", "-q", "--bare", str(hub), "kind")
    elif kind == "worktree":
        ground.scratch.git("worktree", "add", "-q", "--detach", str(place))
    elif kind == "submodule":
        whole = Scratch(ground.place, "whole")
        words = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(hub), "inner")
        in_tree(whole.path, *words)
        place = whole.path / "inner"
    else:
        hub = ground.place / "long.git"
        in_tree(ground.place, "init", "-q", "--bare", "-b", "main", "--object-format=sha256", str(hub))
        in_tree(ground.place, "init", "-q", "--object-format=sha256", "kind")
        in_tree(place, "remote", "add", "origin", str(hub))
    remote = ground.open(place)
    [note] = write_notes(remote.repository, [b"claim"], IDENTITY, NOW)
    assert remote.push([move(CLAIM, None, note)]) == frozenset()
    assert in_tree(hub, "rev-parse", CLAIM) == note
    assert not list(remote.repository.state.glob("push*"))


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
@pytest.mark.parametrize(
    "key",
    ["include.path", "includeIf.gitdir:{}/.path", "includeIf.gitdir:{}/.git.path", "includeIf.onbranch:mine.path"],
)
def test_a_push_obeys_what_the_configuration_includes(ground: Ground, key: str, many: bool) -> None:
    claims = [f"{CLAIM}-{number}" for number in range(60)] if many else []
    note = ground.note("claim")
    ground.remote.push([move(each, None, note) for each in claims])
    ground.scratch.git("checkout", "-q", "-b", "mine")
    ground.scratch.git("config", "remote.origin.url", "/nowhere")
    ground.scratch.git("config", key.format(ground.scratch.path), "near.config")
    (ground.remote.repository.common / "near.config").write_text(f'[remote "origin"]\n\tpushurl = {ground.bare}\n')
    assert ground.remote.push([move(CLAIM, None, note), *(move(each, note, None) for each in claims)]) == frozenset()
    assert ground.refs() == {MAIN: ground.first, CLAIM: note}


def test_a_push_from_a_linked_worktree_obeys_what_is_configured_for_that(ground: Ground) -> None:
    place = ground.place / "linked"
    ground.scratch.git("worktree", "add", "-q", "--detach", str(place))
    ground.scratch.git("config", "extensions.worktreeConfig", "true")
    ground.scratch.git("config", "--worktree", "remote.origin.pushurl", "/nowhere")
    in_tree(place, "config", "--worktree", "remote.origin.pushurl", str(ground.bare))
    note = ground.note("claim")
    assert ground.open(place).push([move(CLAIM, None, note)]) == frozenset()
    assert ground.refs()[CLAIM] == note


# ------------------------------------------------------------------------------------------------ refusals


@ATOMIC
@pytest.mark.parametrize("hook", ["pre-receive", "update"])
def test_a_hook_of_the_server_refuses_and_its_words_are_told(ground: Ground, atomic: bool, hook: str) -> None:
    ground.hook(hook, "echo 'No deploys on Friday: https://ann:hunter2@example.invalid/rules' >&2; exit 1")
    with pytest.raises(PushRefused) as refused:
        ground.remote.push(
            [move(CLAIM, None, ground.note("one")), move(MAIN, ground.first, ground.commit())], atomic=atomic
        )
    assert "hook declined; No deploys on Friday: https://example.invalid/rules" in str(refused.value)
    assert refused.value.refused | refused.value.rejected == {CLAIM, MAIN}
    assert ground.refs() == {MAIN: ground.first}


def test_of_a_push_that_is_not_atomic_only_a_part_may_be_refused(ground: Ground) -> None:
    ground.hook("update", f'[ "$1" != {MAIN} ]')
    note, other = ground.note("one"), ground.note("other")
    with pytest.raises(PushRefused, match=r"git push: refs/heads/main: hook declined") as refused:
        updates = [move(MAIN, ground.first, ground.commit()), move(CLAIM, None, note), move(HOST, other, note)]
        ground.remote.push(updates, atomic=False)
    assert (refused.value.refused, refused.value.rejected) == ({MAIN}, {HOST})
    assert ground.refs() == {MAIN: ground.first, CLAIM: note}


def test_the_words_of_a_server_are_one_line_of_bounded_length(ground: Ground) -> None:
    ground.hook("pre-receive", "printf 'a\\tb\\033[31m'; yes 'so it is' | head -1000; exit 1")
    with pytest.raises(PushRefused) as refused:
        ground.remote.push([move(CLAIM, None, ground.note("one"))])
    assert len(str(refused.value)) <= 300 and str(refused.value).isprintable()


@ATOMIC
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("receive.denyNonFastForwards", "true"),
        ("receive.denyDeletes", "true"),
        ("transfer.hideRefs", "refs/reconciler"),
    ],
)
def test_what_the_server_forbids_is_refused(ground: Ground, atomic: bool, key: str, value: str) -> None:
    note, second = ground.note("one"), ground.commit()
    ground.remote.push([move(CLAIM, None, note), move(MAIN, ground.first, second)])
    in_tree(ground.bare, "config", key, value)
    update = {
        "receive.denyNonFastForwards": move(MAIN, second, ground.first),
        "receive.denyDeletes": move("refs/heads/main", second, None),
        "transfer.hideRefs": move(HOST, None, note),
    }[key]
    with pytest.raises(PushRefused):
        ground.remote.push([update], atomic=atomic)
    assert ground.refs() == {CLAIM: note, MAIN: second}


def test_the_branch_that_is_checked_out_at_the_remote_is_refused(ground: Ground) -> None:
    in_tree(ground.place, "clone", "-q", str(ground.bare), "person")
    ground.scratch.git("remote", "set-url", "origin", str(ground.place / "person"))
    with pytest.raises(PushRefused, match="branch is currently checked out"):
        ground.remote.push([move(MAIN, ground.first, ground.commit())])


@ATOMIC
def test_a_lock_file_at_the_server_and_a_ref_in_the_way_are_no_lost_race(ground: Ground, atomic: bool) -> None:
    lock = ground.bare / "refs/heads/main.lock"
    lock.touch()
    with pytest.raises(PushRefused, match=r"main\.lock': File exists"):
        ground.remote.push([move(MAIN, ground.first, ground.commit())], atomic=atomic)
    lock.unlink()
    with pytest.raises(PushRefused, match="cannot create 'refs/heads/main/below'"):
        ground.remote.push([move(f"{MAIN}/below", None, ground.first)], atomic=atomic)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_remote_that_may_not_be_written_refuses(ground: Ground) -> None:
    for path in (ground.bare / "refs/heads", ground.bare / "objects"):
        path.chmod(0o555)
    try:
        with pytest.raises(PushRefused):
            ground.remote.push([move(MAIN, ground.first, ground.commit())])
    finally:
        for path in (ground.bare / "refs/heads", ground.bare / "objects"):
            path.chmod(0o755)


def test_hooks_of_the_server_run_and_hooks_here_do_not(ground: Ground) -> None:
    trace = ground.place / "trace"
    for name in ("pre-push", "reference-transaction", "post-merge", "post-checkout"):
        hook = ground.scratch.path / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\necho here {name} >> {trace}\n")
        hook.chmod(0o755)
    for name in ("pre-receive", "update", "post-receive", "post-update"):
        ground.hook(name, f'echo there {name} "$GIT_CONFIG_PARAMETERS" >> {trace}')
    assert ground.remote.push([move(CLAIM, None, ground.note("one"))]) == frozenset()
    ground.remote.fetch(["main"])
    assert [each.split() for each in trace.read_text().splitlines()] == [
        ["there", each] for each in ("pre-receive", "update", "post-receive", "post-update")
    ]


@pytest.mark.parametrize(
    "words",
    [
        "git@example.invalid: Permission denied (publickey).",
        "remote: Permission to a/b.git denied to ann.",
        "fatal: unable to access 'https://ann:hunter2@example.invalid/': The requested URL returned error: 403",
        "fatal: Authentication failed for 'https://ann:hunter2@example.invalid/'",
        "fatal: could not read Username for 'https://example.invalid': terminal prompts disabled",
    ],
)
def test_a_remote_that_lets_nobody_in_refuses(ground: Ground, words: str) -> None:
    script = ground.script("denied", f"import sys\nprint({words!r}, file=sys.stderr)\nsys.exit(128)\n")
    ground.scratch.git("config", "remote.origin.receivepack", script)
    with pytest.raises(PushRefused) as refused:
        ground.remote.push([move(CLAIM, None, ground.first)])
    assert "hunter2" not in str(refused.value) and words[-10:] in str(refused.value)


# ------------------------------------------------------------------------------------------------ nobody knows

RECEIVER = """
import os, subprocess, sys, time
git = subprocess.Popen(["git-receive-pack", sys.argv[-1]], stdin=0, stdout=subprocess.PIPE)
out = sys.stdout.buffer
while (size := git.stdout.read(4)) != b"0000":
    out.write(size + git.stdout.read(int(size, 16) - 4))
out.write(size)
out.flush()
"""


@ATOMIC
@pytest.mark.parametrize(
    ("after", "is_applied"),
    [
        ("git.stdout.read()", True),
        ("git.stdout.read(); sys.exit(1)", True),
        ("git.kill()", False),
        ("git.stdout.read(); time.sleep(600)", True),
        ("rest = git.stdout.read(); out.write(rest[:20])", True),
    ],
)
def test_without_an_answer_it_is_unclear_what_was_applied(
    ground: Ground, atomic: bool, after: str, is_applied: bool
) -> None:
    ground.scratch.git("config", "remote.origin.receivepack", ground.script("cut", RECEIVER + after))
    note = ground.note("one")
    remote = replace(ground.remote, timeout_s=2.0)
    with pytest.raises(PushUnclear):
        remote.push([move(CLAIM, None, note)], atomic=atomic)
    assert remote.look([CLAIM]) == ({CLAIM: note} if is_applied else {})


def test_a_remote_that_is_not_there_is_told_without_credentials(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    for address in ("https://ann:hunter2@127.0.0.1:1/repo", str(ground.place / "nowhere.git")):
        ground.scratch.git("remote", "set-url", "origin", address)
        with pytest.raises(GitFailed) as fetched:
            ground.remote.fetch(["main"])
        with pytest.raises(GitFailed) as looked:
            ground.remote.look([MAIN])
        with pytest.raises(PushUnclear) as pushed:
            ground.remote.push([move(CLAIM, None, ground.first)])
        said = f"{fetched.value} {fetched.value.stderr} {looked.value} {pushed.value}"
        assert "hunter2" not in said and "git fetch: " in said


@pytest.mark.parametrize("deaf", ["", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"])
def test_a_remote_that_hangs_is_left_in_time(ground: Ground, monkeypatch: pytest.MonkeyPatch, deaf: str) -> None:
    monkeypatch.setattr(git, "END_PATIENCE_S", 0.3)
    script = ground.script("hang", f"{deaf}import time\ntime.sleep(600)\n")
    for key in ("uploadpack", "receivepack"):
        ground.scratch.git("config", f"remote.origin.{key}", script)
    remote = replace(ground.remote, timeout_s=0.3)
    began = time.monotonic()
    with pytest.raises(GitFailed, match=r"git fetch: no answer within 0\.3 s"):
        remote.fetch(["main"])
    with pytest.raises(GitFailed, match=r"git ls-remote: no answer"):
        remote.look([MAIN])
    with pytest.raises(PushUnclear, match=r"git push: no answer"):
        remote.push([move(CLAIM, None, ground.first)])
    assert time.monotonic() - began < 15
    assert not ground.scratch.processes(ground.place)


def test_a_push_that_is_broken_off_leaves_no_lock_at_a_local_remote(ground: Ground) -> None:
    ground.hook("reference-transaction", '[ "$1" != prepared ] || sleep 600')
    with pytest.raises(PushUnclear):
        replace(ground.remote, timeout_s=1.0).push([move(MAIN, ground.first, ground.commit())])
    ground.scratch.wait_for(lambda: not list(ground.bare.rglob("*.lock")))
    (ground.bare / "hooks/reference-transaction").unlink()
    assert ground.refs() == {MAIN: ground.first}


# ------------------------------------------------------------------------------------------------ notes


MESSAGES = [
    b"{}",
    b"",
    b"\n",
    b"a\n\nb\n",
    b"  spaces  \n\n\n",
    b"# not a comment\n",
    b"\x00\xff\xfe bytes \x00",
    "ü 🦊".encode(),
    b"done\nreset refs/heads/main\ndata 3\n",
    bytes(range(256)),
    b"x" * NOTE_BYTES_MAX,
]


def test_notes_come_back_as_they_were(ground: Ground) -> None:
    repository = ground.remote.repository
    before = ground.local()
    oids = write_notes(repository, MESSAGES, IDENTITY, NOW)
    assert list(read_notes(repository, oids).items()) == list(zip(oids, MESSAGES, strict=True))
    assert ground.local() == before
    for oid, message in zip(oids, MESSAGES, strict=True):
        shown = ground.scratch.git("cat-file", "-p", oid) if message.isascii() and b"\0" not in message else ""
        assert not shown or shown.encode().endswith(b"\n\n" + message)
        lines = ground.scratch.git("log", "-1", "--format=%T%n%P%n%cn <%ce> %ct", oid).splitlines()
        assert lines == ["4b825dc642cb6eb9a060e54bf8d69288fbee4904", "", f"{IDENTITY} {NOW}"]


def test_notes_survive_a_push_and_a_fetch(ground: Ground) -> None:
    other = ground.clone("other")
    oids = write_notes(ground.remote.repository, MESSAGES, IDENTITY, NOW)
    updates = [move(f"{CLAIM}-{number}", None, oid) for number, oid in enumerate(oids)]
    assert ground.remote.push(updates) == frozenset()
    found = other.fetch([])
    assert found == {each.ref: each.new for each in updates}
    assert read_notes(other.repository, list(found.values())) == dict(zip(oids, MESSAGES, strict=True))


def test_what_is_no_note_is_left_out(ground: Ground) -> None:
    repository = ground.remote.repository
    [tree, blob] = [
        each or "" for each in repository.look_up([f"{ground.first}^{{tree}}", f"{ground.first}:README.md"])
    ]
    large = ground.scratch.git(
        "commit-tree", "-F", str(ground.scratch.write("large", "x" * (NOTE_BYTES_MAX + 1))), tree
    )
    note = ground.note("one")
    assert read_notes(repository, ["1" * 40, tree, blob, large.strip(), note]) == {note: b"one"}
    assert read_notes(repository, []) == {}
    assert write_notes(repository, [], IDENTITY, NOW) == ()
    with pytest.raises(ValueError, match="a note is larger"):
        write_notes(repository, [b"x" * (NOTE_BYTES_MAX + 1)], IDENTITY, NOW)


def test_a_thousand_notes_are_one_process(ground: Ground) -> None:
    messages = [str(number).encode() for number in range(1000)]
    oids = write_notes(ground.remote.repository, messages, IDENTITY, NOW)
    assert list(read_notes(ground.remote.repository, oids).values()) == messages


def test_notes_are_made_by_several_processes_at_once(ground: Ground) -> None:
    def make(number: int) -> tuple[str, ...]:
        return write_notes(ground.remote.repository, [b"%d" % number], IDENTITY, NOW)

    with ThreadPoolExecutor() as pool:
        assert len(set(pool.map(make, range(20)))) == 20


# ------------------------------------------------------------------------------------------------ a clone to work in


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("https://example.invalid/a/b.git", True),
        ("ssh://git@example.invalid:22/a", True),
        ("file:///srv/a.git", True),
        ("git@example.invalid:a/b.git", True),
        ("example.invalid:a/b.git", True),
        ("[::1]:a/b", True),
        ("-oProxyCommand=x:y", False),
        ("--upload-pack=x://y", False),
        ("git@-oProxyCommand=x:y", False),
        ("ext::sh -c x", False),
        ("ext::sh", False),
        ("fd::17", False),
        ("/srv/a.git", False),
        ("./a:b", False),
        ("a/b:c", False),
        ("a", False),
        ("", False),
        (".", False),
        ("https://x y", False),
        ("a:b\nc", False),
    ],
)
def test_what_is_an_address(text: str, is_one: bool) -> None:
    assert is_url(text) == is_one


def test_a_directory_that_is_there_is_no_address(scratch: Scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    (scratch.outside / "host:path").mkdir()
    monkeypatch.chdir(scratch.outside)
    assert not is_url("host:path") and is_url("host:elsewhere")


def test_a_clone_is_made_once_and_works(ground: Ground) -> None:
    in_tree(ground.bare, "update-ref", "refs/heads/trunk", ground.first)
    in_tree(ground.bare, "symbolic-ref", "HEAD", "refs/heads/trunk")
    root, url = ground.place / "deep/cache", ground.bare.as_uri()
    directory = clone_of(url, root)
    assert (
        directory.parent == root and directory.name.startswith("origin-") and len(directory.name) == len("origin-") + 8
    )
    remote = ground.open(directory)
    assert remote.repository.bare and remote.repository.head_branch() == "trunk"
    assert remote.fetch(["trunk", "main"]) == {"refs/heads/trunk": ground.first, MAIN: ground.first}
    ground.bare.rename(ground.place / "away")
    assert clone_of(url, root) == directory
    assert os.listdir(root) == [directory.name]


def test_a_clone_of_an_empty_repository_is_empty(ground: Ground) -> None:
    in_tree(ground.place, "init", "-q", "--bare", "empty.git")
    remote = ground.open(clone_of((ground.place / "empty.git").as_uri(), ground.place / "cache"))
    assert remote.fetch(["main"]) == {}


def test_a_clone_of_a_repository_with_sha256_has_sha256(ground: Ground) -> None:
    in_tree(ground.place, "init", "-q", "--object-format=sha256", "-b", "main", "sha256")
    in_tree(ground.place / "sha256", "commit", "-q", "--allow-empty", "-m", "first")
    remote = ground.open(clone_of((ground.place / "sha256").as_uri(), ground.place / "cache"))
    [tip] = remote.fetch(["main"]).values()
    assert len(tip) == 64
    [note] = write_notes(remote.repository, [b"one"], IDENTITY, NOW)
    assert remote.push([move(CLAIM, None, note)]) == frozenset()
    assert remote.push([move(CLAIM, tip, None)]) == {CLAIM}
    assert remote.fetch(["main"]) == {MAIN: tip, CLAIM: note}


def test_many_processes_make_a_clone_at_once(ground: Ground) -> None:
    root, url = ground.place / "cache", ground.bare.as_uri()
    gate = threading.Barrier(6)

    def make(_: int) -> Path:
        gate.wait()
        return clone_of(url, root)

    with ThreadPoolExecutor(6) as pool:
        [directory] = set(pool.map(make, range(6)))
    assert os.listdir(root) == [directory.name]
    assert ground.open(directory).fetch(["main"]) == {MAIN: ground.first}


@pytest.mark.parametrize("address", ["https://ann:hunter2@127.0.0.1:1/repo", "file:///nowhere/at/all"])
def test_an_address_that_does_not_answer_is_told(ground: Ground, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(UsageError, match="cannot be reached; git says: ") as failed:
        clone_of(address, ground.place / "cache")
    assert "hunter2" not in str(failed.value)
    assert os.listdir(ground.place / "cache") == []


@pytest.mark.parametrize("text", ["-x", "ext::sh -c 'touch /tmp/x'", "/srv/a"])
def test_what_is_no_address_is_not_cloned(ground: Ground, text: str) -> None:
    with pytest.raises(UsageError, match="not the address of a repository"):
        clone_of(text, ground.place / "cache")
