"""A machine that is suspended past its lease: what it has slept through counts for itself and not for others.

No machine is suspended here: the tests say how long one was.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler import codec, process
from reconciler.disk import DISK
from reconciler.lease import Lease, read_lease
from reconciler.loop import Loop
from reconciler.model import Attempt, Heartbeat, Outcome
from reconciler.observe import Observer
from reconciler.rundir import RunDirectory
from reconciler.world import open_world
from tests.contract.test_worker import Scenario, plan_of, prepare
from tests.scratch import Hub, wait_for

WORKER = """
import sys
from pathlib import Path
from reconciler import process, worker
from reconciler.lease import Leased
from reconciler.rundir import RunDirectory
asleep, directory, checkout, lease = map(Path, sys.argv[1:5])
process.suspended_s = lambda: float(asleep.read_text())
worker.run_attempt(RunDirectory(directory), 1, checkout, sys.argv[5], (), Leased(path=lease, since_s=float(sys.argv[6])))
"""
LEASED_S, SLEPT_S = 60.0, 3600.0


class Bench:
    """One attempt whose host was heard a moment ago, and a machine that sleeps when it is told to."""

    def __init__(self, place: Path) -> None:
        self.place, self.directory = place, RunDirectory(place / "run")
        self.asleep, self.began = place / "asleep", place / "began"
        self.sleep(0.0)
        self.lease, now = place / "lease.json", process.instant()
        self.hold(now.monotonic_s)
        scenario = Scenario(stages=f"  - {{id: a, command: 'echo $$ > {self.began}; exec sleep 600'}}")
        plan = replace(plan_of(scenario), heartbeat=Heartbeat(interval_s=0.2))
        digest = prepare(self.directory, plan, scenario, now, process.myself())
        words = (str(self.asleep), str(self.directory.path), str(place), str(self.lease), digest, repr(now.monotonic_s))
        self.worker = subprocess.Popen((sys.executable, "-c", WORKER, *words), start_new_session=True)
        wait_for(lambda: self.began.exists() and self.began.read_text().strip())
        self.stage = process.identify(int(self.began.read_text()))

    def hold(self, since_s: float, later_s: float = 0.0) -> None:
        """Write the lease as a pass does that was heard."""
        until_s = process.lease_clock_s() - process.suspended_s() + later_s + LEASED_S
        lease = Lease(boot_id=process.boot_id(), since_s=since_s, until_s=until_s)
        DISK.write_atomic(self.lease, codec.compact(lease))

    def sleep(self, seconds: float) -> None:
        DISK.write_atomic(self.asleep, str(seconds).encode())

    def is_over(self) -> bool:
        assert self.stage is not None
        return not process.is_alive(self.stage)

    def close(self) -> None:
        for each in process.holders(self.directory.lock):
            process.send(each, signal.SIGKILL)
        self.worker.kill()
        self.worker.wait()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    yield found
    found.close()


def test_a_worker_that_was_suspended_past_its_lease_ends_its_stages(bench: Bench) -> None:
    time.sleep(0.5)
    assert not bench.is_over()
    bench.sleep(SLEPT_S)
    woke = time.monotonic()
    wait_for(bench.is_over)
    assert time.monotonic() - woke < 5.0, "at its next heartbeat"
    bench.worker.wait(10)
    attempt = bench.directory.read(Attempt, bench.directory.record("attempts", 1))
    assert attempt is not None and attempt.outcome == Outcome.INTERRUPTED
    assert "two thirds of the lease" in attempt.detail


def test_a_worker_that_was_suspended_does_not_go_by_the_lease_that_began_after_it(bench: Bench) -> None:
    bench.hold(process.instant().monotonic_s + SLEPT_S, SLEPT_S)
    bench.sleep(SLEPT_S)
    wait_for(bench.is_over)
    bench.worker.wait(10)
    attempt = bench.directory.read(Attempt, bench.directory.record("attempts", 1))
    assert attempt is not None and attempt.outcome == Outcome.INTERRUPTED


def test_a_worker_goes_by_a_lease_that_was_renewed_in_time(bench: Bench) -> None:
    lease = read_lease(DISK, bench.lease)
    assert lease is not None
    bench.hold(lease.since_s, SLEPT_S)
    bench.sleep(SLEPT_S)
    time.sleep(1.0)
    assert not bench.is_over()


def test_a_guard_ends_what_a_worker_that_does_not_wake_up_has_left(bench: Bench) -> None:
    os.kill(bench.worker.pid, signal.SIGSTOP)
    bench.sleep(SLEPT_S)
    wait_for(bench.is_over)
    assert bench.worker.wait(10) == -signal.SIGKILL


def test_a_host_that_was_suspended_announces_itself_at_once_and_thinks_nobody_silent(hub: Hub) -> None:
    a, b = hub.clones("a", "b", lease_s=30.0)
    slept: list[float] = [0.0]
    for each in (a, b):
        each.simple(each.name, f"until test -e {hub.outside}/go; do sleep 0.05; done", capabilities=f"[of-{each.name}]")
        each.push()
    loops = []
    for each in (a, b):
        each.git("pull", "-q", "origin", "main")
        world = replace(open_world(each.path), capabilities=(f"of-{each.name}",), suspended_s=lambda: slept[0])
        loops.append(Loop(world, Observer(world)))
    try:
        for loop in loops:
            loop.run_pass()
        first, lease = loops[0], loops[0].world.repository.state / "lease.json"
        hosts, until = hub.refs("refs/reconciler/hosts"), read_lease(DISK, lease)
        first.run_pass()
        assert len(hosts) == 2 and hub.refs("refs/reconciler/hosts") == hosts, "nothing is due"
        slept[0] = SLEPT_S
        result = first.run_pass()
        assert hub.refs("refs/reconciler/hosts") != hosts and hub.refs("refs/reconciler/hosts").keys() == hosts.keys()
        assert until is not None and _until_s(lease) - until.until_s > SLEPT_S - 5.0
        others = [each for each in (result.seen.actual.held or {}).values() if not each.ours]
        assert len(others) == 1 and not others[0].silent, "who has slept has not listened"
    finally:
        (hub.outside / "go").touch()
        for loop in loops:
            loop.close()
            loop.world.workers.close()
            loop.world.repository.objects.close()


def _until_s(lease: Path) -> float:
    found = read_lease(DISK, lease)
    assert found is not None
    return found.until_s


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="the system has no such clock")
def test_the_clock_of_a_lease_is_the_one_that_goes_on_while_a_machine_is_suspended() -> None:
    assert abs(process.lease_clock_s() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 0.1
