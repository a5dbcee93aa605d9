"""Runs that an engine executes: read again where a directory has changed, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace

import pytest

from reconciler import codec, process
from reconciler.here import KEPT_S, TICK_S
from reconciler.loop import Loop
from reconciler.model import CancelIntent, Instant, Run, RunId, TaskId
from reconciler.observe import Observer
from reconciler.rundir import Runs
from reconciler.world import open_world
from tests.scratch import Scratch
from tests.unit.test_looks import FAR, Engine


class Counted(Runs):
    """Runs that count how often one is read."""

    reads = 0

    def observe(self, task_id: TaskId, run_id: RunId) -> Run | None:
        Counted.reads += 1
        return super().observe(task_id, run_id)


class Looker:
    """A loop with a clock of its own, and one run at an engine."""

    def __init__(self, scratch: Scratch) -> None:
        self.now_s, engine = 1000.0, Engine()
        engine.go.set()
        world = open_world(scratch.path)
        runs = Counted(**{each.name: getattr(world.runs, each.name) for each in fields(Runs)})
        self.world = replace(world, runs=runs, now=self.now, open_engine=lambda *_: engine)
        self.loop = Loop(self.world, Observer(self.world))
        while not engine.submitted:
            self.loop.run_pass()

    def now(self) -> Instant:
        return replace(process.instant(), monotonic_s=self.now_s)

    def reads(self, after_s: float) -> int:
        """Return how often the run is read in a pass so much later."""
        self.now_s, before = self.now_s + after_s, Counted.reads
        self.loop.run_pass()
        return Counted.reads - before

    def run(self) -> Run:
        [found] = self.loop.observer.observe().actual.runs.values()
        return found


@pytest.fixture
def looker(scratch: Scratch) -> Iterator[Looker]:
    scratch.settings(FAR)
    scratch.simple("x", "true")
    found = Looker(scratch)
    yield found
    found.loop.close()
    found.world.repository.objects.close()


def test_a_run_at_an_engine_is_read_until_nothing_has_changed_for_a_while(looker: Looker) -> None:
    assert [looker.reads(after_s) for after_s in (0.0, 0.0, TICK_S, 1.0, 1.0)] == [1, 1, 1, 0, 0]


def test_a_record_that_somebody_writes_is_seen_at_once(looker: Looker) -> None:
    assert [looker.reads(1.0) for _ in range(3)][-1] == 0
    run = looker.run()
    directory = looker.world.runs.directory(run.task_id, run.run_id)
    intent = CancelIntent(number=1, at=looker.now().at, reason="not needed", actor="ann")
    directory.disk.write_new(directory.record("cancels", 1), codec.compact(intent))
    assert looker.run().cancel == intent


def test_a_run_directory_that_is_taken_away_is_missed(looker: Looker) -> None:
    assert [looker.reads(1.0) for _ in range(3)][-1] == 0
    run = looker.run()
    looker.world.disk.remove_tree(looker.world.runs.directory(run.task_id, run.run_id).path)
    assert looker.loop.observer.observe().actual.runs == {}


def test_what_somebody_damaged_in_its_place_is_found_later(looker: Looker) -> None:
    assert [looker.reads(1.0) for _ in range(3)][-1] == 0
    run = looker.run()
    looker.world.runs.directory(run.task_id, run.run_id).record("claims", 1).write_bytes(b"{")
    looker.now_s += 2 * KEPT_S
    assert looker.run().corrupt
