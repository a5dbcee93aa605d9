"""Engines that are slow: passes go on beside a look, and nothing is taken from what is old."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from reconciler.executors.engine import EngineSilent, Sighting, Standing, Submission, Turned
from reconciler.loop import Loop, Pass
from reconciler.observe import Observer
from reconciler.world import open_world
from tests.scratch import Scratch

PATIENCE_S = 30.0
FAR = "executors:\n  far: {engine: process, weight: 1, poll: 1s, beat: 1s}\n  local: {weight: 0}\n"


class Engine:
    """An engine in memory that answers when it is let. `found` is what a look sees when it begins."""

    def __init__(self) -> None:
        self.there: dict[str, Standing] = {}
        self.submitted: list[str] = []
        self.cancelled: list[str] = []
        self.trouble = ""
        self.asked, self.go = threading.Semaphore(0), threading.Event()
        self.looks = 0

    def observe(self, handles: Collection[str]) -> Mapping[str, Sighting]:
        self.looks += 1
        found = {each: Sighting(standing=self.there.get(each, Standing.ABSENT)) for each in handles}
        self.asked.release()
        assert self.go.wait(PATIENCE_S)
        if self.trouble:
            raise EngineSilent(self.trouble)
        return found

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Turned]:
        self.submitted += [each.handle for each in submissions]
        self.there |= {each.handle: Standing.RUNNING for each in submissions}
        return {}

    def cancel(self, handles: Collection[str]) -> None:
        self.cancelled += handles

    def adopt(self, repository: str) -> Mapping[str, Mapping[str, str]]:
        return {}


class Beside:
    """A loop whose passes go on while its engine is asked."""

    def __init__(self, scratch: Scratch) -> None:
        self.engine, self.rung = Engine(), threading.Semaphore(0)
        world = replace(open_world(scratch.path), open_engine=lambda *_: self.engine)
        self.loop = Loop(world, Observer(world))
        self.loop.observer.ring = self.rung.release
        self.scratch = scratch

    @property
    def afar(self) -> Any:
        return self.loop.observer.afar

    def run_pass(self) -> Pass:
        return self.loop.run_pass()

    def until_asked(self) -> None:
        """Do passes until a look is under way."""
        for _ in range(10):
            self.run_pass()
            if self.engine.asked.acquire(blocking=False):
                return
        raise AssertionError("its engine is not asked")

    def answered(self) -> None:
        """Let the engine answer, and wait until that is told."""
        self.engine.go.set()
        assert self.rung.acquire(timeout=PATIENCE_S)
        self.engine.go.clear()

    def heard(self) -> Any:
        [found] = self.afar.memory.attempts.values()
        return found

    def forget_the_clock(self) -> None:
        """Let the engine be asked again, though it was a moment ago."""
        self.afar.engines.pauses["far"].asked_s = float("-inf")


@pytest.fixture
def beside(scratch: Scratch) -> Iterator[Beside]:
    scratch.settings(FAR)
    scratch.simple("x", "true")
    found = Beside(scratch)
    yield found
    found.engine.go.set()
    found.loop.close()
    found.loop.world.repository.objects.close()


def test_passes_go_on_and_the_engine_is_given_nothing_meanwhile(beside: Beside) -> None:
    beside.until_asked()
    beside.scratch.request("y", "x", suspend=True)
    beside.scratch.commit()
    later = [beside.run_pass() for _ in range(3)]
    assert "y" in {each.request.name for each in later[-1].seen.desired.wishes}, "what is new is seen"
    assert (beside.engine.looks, beside.engine.submitted) == (1, [])
    assert any("is asked how its attempts stand" in each.sentence for each in later[-1].done)
    assert beside.afar.patience_s() == float("inf"), "nobody looks for the answer: it is told"
    beside.answered()
    beside.run_pass()
    assert len(beside.engine.submitted) == 1
    assert beside.engine.looks == 1, "what has just answered is given what waits before it is asked again"


def test_who_does_one_pass_waits_for_the_answer(beside: Beside) -> None:
    beside.loop.observer.ring = None
    beside.engine.go.set()
    beside.run_pass()
    beside.run_pass()
    assert (beside.engine.looks, len(beside.engine.submitted)) == (1, 1)


def test_who_goes_on_no_more_takes_the_answer_that_is_on_its_way(beside: Beside) -> None:
    beside.until_asked()
    beside.loop.observer.ring = None
    threading.Timer(0.05, beside.engine.go.set).start()
    beside.run_pass()
    assert (beside.engine.looks, len(beside.engine.submitted)) == (1, 1)


def test_a_quick_engine_is_heard_in_the_pass_that_asks_it(beside: Beside) -> None:
    beside.engine.go.set()
    beside.run_pass()
    beside.run_pass()
    assert (beside.engine.looks, len(beside.engine.submitted)) == (1, 1)


@pytest.mark.parametrize("standing", [Standing.ABSENT, Standing.ENDED])
def test_an_old_look_does_not_end_what_was_handed_over_since(beside: Beside, standing: Standing) -> None:
    """Another process of this host hands the attempt over while the look goes on, and its first word is heard."""
    beside.until_asked()
    [handle] = beside.afar.memory.attempts
    beside.afar.memory.keep(handle, replace(beside.heard(), submitted=True, order="0" * 40))
    [look] = beside.afar.engines.looks.under_way.values()
    beside.engine.there[handle] = standing
    beside.answered()
    look.seen = {handle: Sighting(standing=standing)}
    result = beside.run_pass()
    assert beside.heard().ended is None
    assert [each.afar.is_final for each in result.seen.actual.runs.values()] == [False]


def test_what_lives_is_believed_though_it_has_spoken_since(beside: Beside) -> None:
    beside.until_asked()
    [handle] = beside.afar.memory.attempts
    [look] = beside.afar.engines.looks.under_way.values()
    beside.answered()
    beside.afar.memory.keep(handle, replace(beside.heard(), submitted=True, word="1" * 40))
    look.seen = {handle: Sighting(standing=Standing.RUNNING)}
    beside.run_pass()
    assert beside.heard().sighting.standing == Standing.RUNNING


def test_an_engine_that_does_not_answer_is_left_alone(beside: Beside) -> None:
    beside.engine.trouble = "no answer in time"
    beside.until_asked()
    beside.answered()
    result = beside.run_pass()
    assert beside.afar.engines.refusals() == {"far": "no answer in time"}
    assert beside.engine.submitted == []
    assert any("no answer in time" in each.sentence for each in result.done)


def test_an_attempt_is_told_to_end_when_the_look_is_over(beside: Beside) -> None:
    beside.engine.go.set()
    beside.run_pass()
    beside.run_pass()
    beside.run_pass()
    beside.engine.go.clear()
    while beside.engine.asked.acquire(blocking=False):
        pass
    while beside.rung.acquire(blocking=False):
        pass
    beside.forget_the_clock()
    beside.until_asked()
    beside.scratch.request("x", "x", cancel="not needed")
    beside.scratch.commit()
    result = beside.run_pass()
    assert beside.engine.cancelled == []
    assert result.untouched, "it may live, and nothing is said of it"
    beside.answered()
    beside.engine.go.set()
    beside.run_pass()
    assert beside.engine.cancelled == beside.engine.submitted


def test_an_engine_that_took_nothing_is_given_something_again_when_its_pause_is_over(beside: Beside) -> None:
    beside.until_asked()
    beside.answered()
    engines = beside.afar.engines
    assert engines.patience_s([]) == float("inf"), "it rests from nothing"
    engines.keep_waiting("far", "the quota is used up")
    assert 0 < engines.patience_s([]) <= 1.0
