"""Many claims are deleted over HTTP, and somebody moves one in the worst moments: all or nothing, by the old values."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reconciler.errors import PushUnclear, TransientError
from reconciler.git import END_PATIENCE_S, Draft, Repository, open_repository
from reconciler.remote import DELETIONS_MANY, RefUpdate, Remote
from tests.scratch import ENVIRONMENT, Scratch
from tests.smart_http import ADVERTISEMENT, PUSH, SmartServer

MAIN = "refs/heads/main"
CLAIMS = [f"refs/reconciler/claims/m{number:03d}-00000001" for number in range(DELETIONS_MANY + 10)]
SECRET = f"Basic {base64.b64encode(b'ann:hunter2').decode()}"


@dataclass
class Ground:
    """A bare repository with many claims, served over HTTP, and a clone that wants to publish and delete them."""

    server: SmartServer
    repository: Repository
    first: str
    updates: list[RefUpdate] = field(default_factory=list)

    def refs(self) -> dict[str, str]:
        said = _git(self.server.bare, "for-each-ref", "--format=%(refname) %(objectname)")
        return dict(line.split(" ") for line in said.splitlines())

    def move(self, ref: str, oid: str) -> None:
        _git(self.server.bare, "update-ref", ref, oid)

    def push(self, timeout_s: float = 60.0) -> frozenset[str]:
        return Remote(self.repository, "origin", timeout_s).push(self.updates)


def _git(directory: Path, *words: str, feed: str = "") -> str:
    done = subprocess.run(
        ["git", *words], cwd=directory, env=ENVIRONMENT, input=feed, check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture(params=["", SECRET], ids=["open", "secret"])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    scratch = Scratch(tmp_path)
    scratch.write("README.md", "read\n")
    first = scratch.commit()
    bare = tmp_path / "bare.git"
    _git(tmp_path, "clone", "-q", "--bare", str(scratch.path), str(bare))
    _git(bare, "update-ref", "--stdin", feed="".join(f"create {each} {first}\n" for each in CLAIMS))
    server = SmartServer(bare, request.param)
    scratch.git("remote", "add", "origin", server.url)
    found = Ground(server, open_repository(scratch.path), first)
    draft = Draft(parent=first, files={"a": b"1"}, message="m\n", identity="A <a@b.invalid>", epoch_s=1_700_000_000)
    moves = [(MAIN, first, found.repository.make_commit(draft)), *((each, first, None) for each in CLAIMS)]
    found.updates = [RefUpdate(ref=ref, old=old, new=new) for ref, old, new in moves]
    yield found
    found.repository.objects.close()
    server.close()


def once(wanted: str, act: Callable[[], object]) -> Callable[[str], None]:
    """Return what acts at the first request of a kind."""
    left = [act]

    def asked(request: str) -> None:
        if request == wanted and left:
            left.pop()()

    return asked


def other_commit(ground: Ground) -> str:
    tree = _git(ground.server.bare, "rev-parse", f"{ground.first}^{{tree}}").strip()
    return _git(ground.server.bare, "commit-tree", "-m", "theirs", tree).strip()


@pytest.mark.parametrize("version", ["0", "1", "2"])
def test_many_claims_go_in_one_push_told_by_one_advertisement(ground: Ground, version: str) -> None:
    _git(ground.repository.directory, "config", "protocol.version", version)
    assert ground.push() == frozenset()
    assert ground.refs() == {MAIN: ground.updates[0].new}
    heard = [each for each in ground.server.asked if each == ADVERTISEMENT]
    assert len(heard) == (2 if ground.server.secret else 1)  # the first one without the secret


@pytest.mark.parametrize("version", ["0", "1", "2"])
@pytest.mark.parametrize("ref", [MAIN, CLAIMS[0], CLAIMS[-1]])
@pytest.mark.parametrize("when", ["before", "told", "post"])
def test_whatever_is_moved_between_the_requests_of_a_push_stops_it(
    ground: Ground, when: str, ref: str, version: str
) -> None:
    _git(ground.repository.directory, "config", "protocol.version", version)
    before, other = ground.refs(), other_commit(ground)

    def move() -> None:
        ground.move(ref, other)

    if when == "before":
        ground.server.before = once(ADVERTISEMENT, move)
    elif when == "told":
        ground.server.after = once(ADVERTISEMENT, move)
    else:
        ground.server.before = once(PUSH, move)
    assert ground.push() == {each.ref for each in ground.updates}
    if when == "post" or when == "told":
        assert PUSH in ground.server.asked
    assert ground.refs() == before | {ref: other}


def test_a_claim_that_is_gone_when_the_push_arrives_stops_it(ground: Ground) -> None:
    before = ground.refs()
    ground.server.before = once(PUSH, lambda: _git(ground.server.bare, "update-ref", "-d", CLAIMS[7]))
    assert ground.push() == {each.ref for each in ground.updates}
    del before[CLAIMS[7]]
    assert ground.refs() == before


def test_a_claim_that_appears_under_a_longer_name_stays(ground: Ground) -> None:
    namesake = f"{CLAIMS[3]}0"
    ground.server.after = once(ADVERTISEMENT, lambda: ground.move(namesake, ground.first))
    assert ground.push() == frozenset()
    assert ground.refs() == {MAIN: ground.updates[0].new, namesake: ground.first}


@pytest.mark.parametrize("request_that_hangs", [ADVERTISEMENT, PUSH])
def test_a_server_that_never_answers_is_waited_for_no_longer_than_a_push_may_take(
    ground: Ground, request_that_hangs: str
) -> None:
    ground.server.before = lambda request: request == request_that_hangs and ground.server.ended.wait(60)
    before, began = ground.refs(), time.monotonic()
    with pytest.raises(TransientError):
        ground.push(timeout_s=6.0)
    assert time.monotonic() - began < 6.0 + END_PATIENCE_S
    assert ground.refs() == before
    assert not list(ground.repository.state.glob("push-*"))


def test_a_push_that_was_let_pass_has_all_the_time(ground: Ground) -> None:
    ground.server.before = lambda request: request == PUSH and ground.server.ended.wait(4)
    assert ground.push(timeout_s=6.0) == frozenset()
    assert ground.server.asked.count(PUSH) <= 2, "it was pushed twice"


@pytest.mark.parametrize("silent", [False, True])
def test_a_guard_that_hangs_takes_no_longer_than_one_push_may(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setattr("reconciler.lent.GUARD", "#!/bin/sh\nsleep 1000\n")
    if silent:
        ground.server.before = lambda request: request == PUSH and ground.server.ended.wait(60)
    before, began = ground.refs(), time.monotonic()
    if silent:
        with pytest.raises(PushUnclear):
            ground.push(timeout_s=6.0)
    else:
        assert ground.push(timeout_s=6.0) == frozenset()
    assert time.monotonic() - began < 6.0 + END_PATIENCE_S
    assert ground.refs() == (before if silent else {MAIN: ground.updates[0].new})
