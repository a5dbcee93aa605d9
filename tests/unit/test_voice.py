"""Words move a ref by compare-and-swap, whatever becomes of the answers to pushes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from reconciler.errors import PushUnclear
from reconciler.executors import clone, ordering
from reconciler.executors.clone import NoRef
from reconciler.executors.voice import Fenced, Voice
from reconciler.remote import RefUpdate, Remote
from tests.placed import Placed, placed
from tests.scratch import Scratch

Answer = Callable[[Remote, Sequence[RefUpdate]], None]


class Line(Remote):
    """A remote behind a bad line: what happens to the next pushes is said before."""

    ahead: list[Answer] = []  # noqa: RUF012  one test at a time

    def push(self, updates: Sequence[RefUpdate], *, atomic: bool = True) -> frozenset[str]:
        if self.ahead:
            self.ahead.pop(0)(Remote(self.repository, self.name), updates)
            raise PushUnclear("the line went dead")
        return Remote(self.repository, self.name).push(updates, atomic=atomic)


def lost(remote: Remote, updates: Sequence[RefUpdate]) -> None:
    """The push never arrives."""


def unanswered(remote: Remote, updates: Sequence[RefUpdate]) -> None:
    """The push arrives, its answer does not."""
    remote.push(updates, atomic=False)


@pytest.fixture
def run(scratch: Scratch) -> Iterator[Placed]:
    scratch.write("README.md", "hello\n")
    scratch.commit()
    found = placed(scratch, "  - {id: a, command: 'true'}\n")
    found.place()
    yield found
    found.close()


@pytest.fixture
def voice(run: Placed, tmp_path: Path) -> Iterator[Voice]:
    Line.ahead = []
    remote = clone.open_clone(str(run.repository.common), run.ref, tmp_path / "node.git")
    there = clone.bring(remote, run.ref, 1)
    assert there == run.order
    line = Line(remote.repository, remote.name)
    order = ordering.read_order(remote.repository, there)
    yield Voice(line, run.ref, there, order, there, run.key)
    remote.repository.objects.close()


def beat(run: Placed) -> int:
    word = ordering.read_word(run.repository, run.at() or "", run.key)
    return word.beat if word is not None else 0


def test_words_follow_each_other(run: Placed, voice: Voice) -> None:
    for number in (1, 2, 3):
        voice.say({"attempts/1.json": b"%d" % number})
        assert beat(run) == number
    voice.say({}, ended=True)
    word = ordering.read_word(run.repository, run.at() or "", run.key)
    assert word is not None and word.ended
    assert run.repository.parent(run.at() or "") == run.order


@pytest.mark.parametrize("ahead", [[lost], [unanswered], [lost, unanswered], [lost, lost]])
def test_after_an_answer_that_was_lost_the_truth_is_looked_for(run: Placed, voice: Voice, ahead: list[Answer]) -> None:
    Line.ahead = list(ahead)
    voice.say({})
    assert beat(run) == 1
    voice.say({})
    assert beat(run) == 2


def test_a_word_that_arrives_late_is_still_ours(run: Placed, voice: Voice) -> None:
    late: list[Sequence[RefUpdate]] = []
    Line.ahead = [lambda _, updates: late.append(updates)] * 3
    with pytest.raises(PushUnclear):
        voice.say({})
    assert beat(run) == 0
    Remote(voice.remote.repository, voice.remote.name).push(late[0], atomic=False)
    voice.say({})
    assert beat(run) == 2


@pytest.mark.parametrize("ahead", [[], [lost]])
def test_who_finds_its_ref_moved_or_gone_is_fenced(run: Placed, voice: Voice, ahead: list[Answer]) -> None:
    voice.say({})
    Line.ahead = list(ahead)
    run.repository.update_ref(run.ref, run.plan.commit)
    with pytest.raises(Fenced):
        voice.say({})
    assert run.at() == run.plan.commit
    run.repository.delete_ref(run.ref)
    Line.ahead = list(ahead)
    with pytest.raises(Fenced):
        voice.say({})
    assert run.at() is None


def test_of_two_that_begin_at_once_one_is_heard(run: Placed, voice: Voice) -> None:
    other = Voice(voice.remote, voice.ref, voice.oid, voice.order, voice.there, run.key)
    voice.say({"courier.json": b"one"})
    with pytest.raises(Fenced):
        other.say({"courier.json": b"other"})


def test_words_that_nothing_leads_to_are_removed(run: Placed, voice: Voice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.executors.voice.PRUNED_EVERY", 4)
    for number in range(8):
        voice.say({"attempts/1.json": b"%d" % number})
    objects = voice.remote.repository.common / "objects"
    assert len(list(objects.glob("[0-9a-f][0-9a-f]/*"))) < 30
    voice.say({})
    assert beat(run) == 9


def test_a_clone_is_as_deep_as_it_was_asked_to_be(run: Placed, voice: Voice, scratch: Scratch) -> None:
    remote = Remote(voice.remote.repository, voice.remote.name)
    commits = [scratch.commit(str(number)) for number in range(3) if scratch.write("n", str(number))]
    run.repository.update_ref(run.ref, commits[-1])
    counted = ("rev-list", "--count", run.ref)
    for depth, there in ((1, "1"), (2, "2"), (0, "4")):
        assert clone.bring(remote, run.ref, depth) == commits[-1]
        assert remote.repository.git(*counted) == there
    run.repository.delete_ref(run.ref)
    with pytest.raises(NoRef):
        clone.bring(remote, run.ref, 1)
