"""The phase of a run: one row for every fact that changes it, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.model import (
    Attempt,
    Claim,
    End,
    Evidence,
    Heartbeat,
    Host,
    Instant,
    Name,
    Outcome,
    Phase,
    Process,
    Run,
    RunId,
    Status,
    Suspend,
    TaskId,
)
from reconciler.phases import START_PATIENCE_S, judge, phase, silence
from reconciler.state import Actual, suspended

PROCESS = Process(pid=2, start_ticks=2, boot_id="boot")
HOST = Host(name="here", system="Linux", machine="x86_64", python="3.12.1", cpus=2)


def at(monotonic_s: float, boot_id: str = "boot", wall: str = "2026-03-01T12:00:00.000Z") -> Instant:
    return Instant(at=wall, monotonic_s=monotonic_s, boot_id=boot_id)


NOW = at(1000.0)
CLAIM = Claim(
    number=1,
    series=1,
    claimed=at(999.0),
    claimer=PROCESS,
    reason="launched",
    actor="reconciler",
    plan="plan.json",
    plan_digest="d" * 64,
    commit="c" * 40,
)
ATTEMPT = Attempt(number=1, worker=PROCESS, host=HOST, started=at(900.0), stages=(), detail="as told")
CLAIMED = Run(
    run_id=RunId("a-1a2b3c4d"),
    task_id=TaskId("t"),
    name=Name("a"),
    attempts_max=3,
    heartbeat=Heartbeat(interval_s=5.0, stale_after_s=30.0),
    number=1,
    claim=CLAIM,
    attempt=None,
    beat=None,
    lock_held=False,
    claimer_alive=True,
    worker_alive=False,
)
RUNNING = replace(CLAIMED, attempt=ATTEMPT, beat=at(999.0), lock_held=True, worker_alive=True)


def ended(outcome: Outcome) -> Attempt:
    return replace(ATTEMPT, outcome=outcome)


def noted(outcome: Outcome) -> End:
    return End(number=1, at=NOW.at, outcome=outcome, detail="as noted")


# ------------------------------------------------------------------------------------------------ phases


@pytest.mark.parametrize(
    ("run", "changed", "expected", "why"),
    [
        (CLAIMED, {}, "starting", ""),
        (CLAIMED, {"claim": replace(CLAIM, claimed=at(1000.0 - START_PATIENCE_S))}, "starting", ""),
        (CLAIMED, {"claim": replace(CLAIM, claimed=at(969.9))}, "stale", "attempt 1 did not start within 30 s"),
        (CLAIMED, {"claim": replace(CLAIM, claimed=at(999.0, "old"))}, "stale", "attempt 1 did not start within 30 s"),
        (CLAIMED, {"claimer_alive": False}, "stale", "attempt 1 was claimed and its claimer ended before it started"),
        (CLAIMED, {"claim": None}, "stale", "the record of attempt 1 is lost"),
        (CLAIMED, {"lock_held": True, "claimer_alive": False}, "starting", ""),
        (CLAIMED, {"lock_held": True, "claim": None}, "stale", "attempt 1 holds the lock without a record"),
        (CLAIMED, {"worker_alive": True}, "starting", ""),
        (RUNNING, {}, "running", ""),
        (RUNNING, {"claimer_alive": False}, "running", ""),
        (RUNNING, {"claim": None}, "running", ""),
        (RUNNING, {"planned": False}, "running", ""),
        (RUNNING, {"lock_held": False}, "stale", "the worker of attempt 1 is gone: its lock is free"),
        (RUNNING, {"worker_alive": False}, "stale", "the worker of attempt 1 is dead; something of it is left"),
        (RUNNING, {"beat": at(970.0)}, "running", ""),
        (RUNNING, {"beat": at(969.0)}, "stale", "no heartbeat of attempt 1 for 31 s"),
        (RUNNING, {"beat": None}, "stale", "no heartbeat of attempt 1 for 100 s"),
        (RUNNING, {"beat": at(999.0, "old")}, "stale", "no heartbeat of attempt 1 for 100 s"),
        (RUNNING, {"heartbeat": Heartbeat(stale_after_s=0.5)}, "stale", "no heartbeat of attempt 1 for 1 s"),
        (RUNNING, {"attempt": ended(Outcome.SUCCEEDED)}, "succeeded", "as told"),
        (RUNNING, {"attempt": ended(Outcome.FAILED)}, "failed", "as told"),
        (RUNNING, {"attempt": ended(Outcome.CANCELLED)}, "cancelled", "as told"),
        (RUNNING, {"attempt": ended(Outcome.INTERRUPTED)}, "stale", "attempt 1 was interrupted: as told"),
        (RUNNING, {"end": noted(Outcome.CANCELLED)}, "cancelled", "as noted"),
        (CLAIMED, {"end": noted(Outcome.FAILED)}, "failed", "as noted"),
        (CLAIMED, {"end": noted(Outcome.INTERRUPTED)}, "stale", "as noted"),
    ],
)
def test_the_phase_follows_from_the_facts(run: Run, changed: dict[str, Any], expected: str, why: str) -> None:
    assert judge(replace(run, **changed), NOW) == (Phase(expected), why)


def test_a_run_that_is_not_there_is_absent() -> None:
    assert judge(None, NOW) == (Phase.ABSENT, "")


@pytest.mark.parametrize("wall", ["1970-01-01T00:00:00.000Z", "2999-01-01T00:00:00.000Z", "nonsense"])
def test_wall_clocks_decide_nothing_about_a_run(wall: str) -> None:
    assert phase(RUNNING, at(1000.0, wall=wall)) == Phase.RUNNING
    assert phase(replace(RUNNING, beat=at(999.0, wall=wall)), NOW) == Phase.RUNNING


# ------------------------------------------------------------------------------------------------ silence


@pytest.mark.parametrize(
    ("started", "beat", "seconds"),
    [
        (at(900.0), at(990.0), 10.0),
        (at(990.0), at(900.0), 10.0),
        (at(900.0), None, 100.0),
        (None, at(990.0), 10.0),
        (None, None, float("inf")),
        (at(900.0, "old"), at(990.0, "old"), float("inf")),
        (at(900.0), at(990.0, "old"), 100.0),
    ],
)
def test_silence_counts_from_what_was_heard_last_in_this_boot(
    started: Instant | None, beat: Instant | None, seconds: float
) -> None:
    attempt = None if started is None else replace(ATTEMPT, started=started)
    assert silence(replace(RUNNING, attempt=attempt, beat=beat), NOW) == seconds


@settings(deadline=None)
@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_a_worker_that_was_heard_later_is_never_more_silent(first: float, second: float) -> None:
    earlier, later = sorted([first, second])
    now = at(1e9)
    assert silence(replace(RUNNING, beat=at(later)), now) <= silence(replace(RUNNING, beat=at(earlier)), now)


# ------------------------------------------------------------------------------------------------ suspension


@pytest.mark.parametrize(
    ("suspend", "said"),
    [
        (None, ""),
        (Suspend(), "suspended"),
        (Suspend(reason="budget"), "suspended: budget"),
        (Suspend(until="2026-03-01T12:00:01Z"), "suspended until 2026-03-01T12:00:01Z"),
        (Suspend(until="2026-03-01T12:00:01Z", reason="freeze"), "suspended until 2026-03-01T12:00:01Z: freeze"),
        (Suspend(until="2026-03-01T12:00:00Z"), ""),
        (Suspend(until="2026-03-01T11:59:59Z", reason="freeze"), ""),
        (Suspend(until="9999-12-31T23:59:59Z"), "suspended until 9999-12-31T23:59:59Z"),
    ],
)
def test_a_suspension_holds_until_its_moment(suspend: Suspend | None, said: str) -> None:
    assert suspended(suspend, at(0.0, wall="2026-03-01T12:00:00.999Z")) == said


# ------------------------------------------------------------------------------------------------ evidence


@pytest.mark.parametrize(
    ("proves", "number", "expected"), [(None, 1, False), (1, 1, True), (1, 2, False), (2, 1, True)]
)
def test_evidence_proves_an_attempt_and_all_before_it(proves: int | None, number: int, expected: bool) -> None:
    evidence = proves and Evidence(
        run_id=CLAIMED.run_id,
        task_id=CLAIMED.task_id,
        name=Name("a"),
        status=Status.FAILED,
        attempt=proves,
        completed_at=NOW.at,
        duration_s=1.0,
        manifest_blob="b" * 40,
    )
    found = {RUNNING.run_id: evidence} if evidence else {}
    assert Actual(runs={}, evidence=found).proves(RUNNING.run_id, number) == expected
