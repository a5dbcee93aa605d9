"""When another machine counts as silent: by this machine's own monotonic clock, between two answers of the remote.

The remote here is a table of refs and notes, the clock a number; everything else is as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reconciler import codec
from reconciler.disk import DISK
from reconciler.errors import GitFailed
from reconciler.hearing import Hearing
from reconciler.model import Announcement, Claim, HostId, Instant, Process, RunId, SharedClaim, TaskId

RUN, OTHER, THEM, ME = RunId("a-11111111"), RunId("b-11111111"), HostId("them-1"), HostId("me-1")
LEASE_S = 60.0


class Table:
    """A remote, and the objects behind its refs."""

    def __init__(self) -> None:
        self.refs: dict[str, str] = {}
        self.notes: dict[str, bytes] = {}
        self.answers = True

    def put(self, ref: str, note: Any) -> None:
        oid = f"{len(self.notes):040x}"
        self.refs[ref], self.notes[oid] = oid, codec.compact(note)

    def fetch(self, branches: Sequence[str]) -> Mapping[str, str]:
        if not self.answers:
            raise GitFailed("no answer")
        return dict(self.refs)

    def contents(self, oids: Sequence[str], kind: str = "") -> Iterator[tuple[str, bytes]]:
        return ((oid, b"tree 0\n\n" + self.notes[oid]) for oid in oids)

    def look_up(self, oids: Sequence[str]) -> tuple[str | None, ...]:
        return tuple(oid if oid in self.notes else None for oid in oids)


class Machine:
    """This machine: its clocks, and what it has heard."""

    def __init__(self, state: Path, table: Table) -> None:
        self.table, self.state = table, state
        self.now = Instant(at="2026-03-01T12:00:00.000Z", monotonic_s=1000.0, boot_id="boot")
        self.hearing = self.process()

    def process(self) -> Hearing:
        """Return what a new process of this machine knows."""
        repository = SimpleNamespace(state=self.state, objects=self.table, look_up=self.table.look_up)
        world: Any = SimpleNamespace(repository=repository, disk=DISK, remote=self.table, now=lambda: self.now)
        return Hearing(world)

    def wait(self, seconds: float) -> None:
        self.now = replace(self.now, monotonic_s=self.now.monotonic_s + seconds)

    def ask(self) -> float:
        """Ask the remote, and return for how long nothing was heard of the run."""
        with contextlib.suppress(GitFailed):
            self.hearing.ask(["main"])
        return self.silence()

    def silence(self) -> float:
        return self.hearing.held(ME)[RUN].silent_s


def claim_of(nonce: str, number: int = 1) -> SharedClaim:
    at = Instant(at="2031-01-01T00:00:00.000Z", monotonic_s=5.0, boot_id="theirs")
    process = Process(pid=1, start_ticks=1, boot_id="theirs")
    claim = Claim(
        number=number, series=1, claimed=at, claimer=process, reason="launched", actor="reconciler", plan="plan.json",
        plan_digest="d" * 64, commit="c" * 40, host=THEM,
    )  # fmt: skip
    return SharedClaim(run_id=RUN, task_id=TaskId("t"), host=THEM, claims=(claim,), nonce=nonce)


def living(nonce: str, *runs: RunId) -> Announcement:
    at = "2020-01-01T00:00:00.000Z"
    return Announcement(host=THEM, name="them", at=at, lease_s=LEASE_S, runs=dict.fromkeys(runs, 1), nonce=nonce)


@pytest.fixture
def table() -> Table:
    found = Table()
    found.put(f"refs/reconciler/claims/{RUN}", claim_of("n"))
    found.put(f"refs/reconciler/hosts/{THEM}", living("n", RUN))
    return found


@pytest.fixture
def machine(tmp_path: Path, table: Table) -> Machine:
    found = Machine(tmp_path, table)
    assert found.ask() == 0.0
    return found


def test_silence_grows_from_answer_to_answer(machine: Machine) -> None:
    for seconds in (10.0, 20.0, 30.0, 40.0, 50.0, 60.0):
        machine.wait(10)
        assert machine.ask() == seconds
    assert not machine.hearing.held(ME)[RUN].silent
    machine.wait(0.5)
    machine.ask()
    assert machine.hearing.held(ME)[RUN].silent


def test_a_remote_that_does_not_answer_makes_nobody_silent(machine: Machine, table: Table) -> None:
    table.answers = False
    for _ in range(10):
        machine.wait(100)
        assert machine.ask() == 0.0
    table.answers = True
    table.put(f"refs/reconciler/hosts/{THEM}", living("lived on", RUN))
    assert machine.ask() == 0.0


@pytest.mark.parametrize("year", [1970, 2025, 2027, 2099])
def test_wall_clocks_may_say_what_they_want(machine: Machine, year: int) -> None:
    machine.now = replace(machine.now, at=f"{year}-03-01T12:00:00.000Z")
    machine.wait(7)
    assert machine.ask() == 7.0


def test_a_new_announcement_that_lists_the_run_is_a_sign_of_life(machine: Machine, table: Table) -> None:
    machine.wait(50)
    table.put(f"refs/reconciler/hosts/{THEM}", living("again", RUN, OTHER))
    assert machine.ask() == 0.0
    machine.wait(50)
    assert machine.ask() == 50.0


def test_announcements_that_do_not_list_the_run_are_none(machine: Machine, table: Table) -> None:
    table.put(f"refs/reconciler/hosts/{THEM}", living("without it", OTHER))
    machine.ask()
    for number in range(6):
        machine.wait(20)
        table.put(f"refs/reconciler/hosts/{THEM}", living(f"without it {number}", OTHER))
        machine.ask()
    assert machine.hearing.held(ME)[RUN].silent


def test_a_claim_that_moved_is_a_sign_of_life(machine: Machine, table: Table) -> None:
    machine.wait(50)
    table.put(f"refs/reconciler/claims/{RUN}", claim_of("moved", number=2))
    assert machine.ask() == 0.0


def test_processes_that_come_one_after_the_other_add_up(machine: Machine) -> None:
    machine.hearing.remember()
    for seconds in (30.0, 60.0, 90.0):
        machine.wait(30)
        machine.hearing = machine.process()
        assert machine.ask() == seconds
        machine.hearing.remember()


def test_what_was_heard_before_this_boot_says_nothing(machine: Machine) -> None:
    machine.hearing.remember()
    machine.now = Instant(at=machine.now.at, monotonic_s=1e6, boot_id="another")
    machine.hearing = machine.process()
    assert machine.ask() == 0.0


def test_a_claim_that_cannot_be_read_belongs_to_nobody_and_falls_silent(machine: Machine, table: Table) -> None:
    table.put(f"refs/reconciler/claims/{RUN}", {"not": "a claim"})
    assert machine.ask() == 0.0
    machine.hearing.lease_unknown_s = 30.0
    machine.wait(31)
    machine.ask()
    held = machine.hearing.held(ME)[RUN]
    assert held.silent and not held.ours and held.claim.number == 0
