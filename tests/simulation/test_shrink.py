"""What an engine does wrong is taken out of a broken history, as far as the history stays broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.afar.handover import Handover
from reconciler.executors import ordering
from reconciler.executors.engine import Submission
from reconciler.executors.voice import Voice
from reconciler.simulation.courier import SimulatedCourier
from reconciler.simulation.disk import SimulatedDisk
from reconciler.simulation.engine_story import Trouble
from reconciler.simulation.history import History, Result
from reconciler.simulation.memory import remembering
from reconciler.simulation.shrink import shortest
from reconciler.simulation.story import story_of
from reconciler.simulation.tell import report

TRIES_MAX = 60


def shrunk(why: str) -> Result:
    """Return the shortest form of the first history with an engine that breaks a promise so."""
    with remembering():
        results = (History(story_of(seed, engine=True)).tell() for seed in range(60))
        broken = next(each for each in results if why in each.violation)
        assert broken.story.trouble is not None and broken.story.trouble.until_s
        return shortest(broken, TRIES_MAX)


def test_only_the_trouble_that_matters_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where couriers execute what others began, an engine that starts attempts once does no harm."""

    def execute(self: SimulatedCourier, voice: Voice) -> None:
        ordering.lay_down(self.repository, self.order, voice.order, self.directory)
        plan = self._plan(voice.order)
        self._prepare(plan, voice.order)
        self._patiently(lambda: voice.say(self._with_card({})))
        self._execute(voice, plan)

    monkeypatch.setattr(SimulatedCourier, "_find_it_begun", execute)
    short = shrunk("left alone")
    trouble = short.story.trouble
    assert trouble is not None and not trouble.silences
    # What starts an attempt once more, and what makes it follow another one, if it is not the first.
    assert {"twice", "twice late", "requeued"} & set(trouble.wrongs) and len(trouble.wrongs) <= 2
    # An attempt can follow another one because of faults of its machine, too.
    assert len([each for each in short.story.happenings if each.kind != "switch"]) <= 2
    assert f"s: {', '.join(trouble.wrongs)}\n" in report(short, shrink=False)


def test_an_engine_that_does_what_it_should_is_left_where_that_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Handover._submission

    def without_order(self: Handover, *about: Any) -> Submission:
        said = whole(self, *about)
        return replace(said, arguments=said.arguments[:4])

    monkeypatch.setattr(Handover, "_submission", without_order)
    short = shrunk("not told which order")
    assert short.story.trouble is not None
    assert short.story.trouble == Trouble(where=short.story.trouble.where)
    assert "the engine: does all that it should" in report(short, shrink=False)


def test_no_engine_is_left_where_none_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(self: SimulatedDisk, path: Path, data: bytes, *, mode: int = 0o644) -> bool:
        self.make_directory(path.parent)
        self.create(path, data, sync=False, mode=mode)
        return True

    monkeypatch.setattr(SimulatedDisk, "write_new", forgetful)
    short = shrunk("durable")
    assert short.story.trouble is None
    assert b"executors" not in short.story.files["reconciler.yaml"]
