"""When something is due next: one row for everything that time alone brings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.approve import Case
from reconciler.diff import diff
from reconciler.due import Due, due, earliest
from reconciler.model import (
    Afar,
    Evidence,
    Gate,
    Instant,
    Limits,
    Outcome,
    Phase,
    PipelineId,
    Policy,
    Problem,
    Rejection,
    Request,
    Run,
    RunId,
    Source,
    StageId,
    StageRecord,
    StageStatus,
    Status,
    Suspend,
    TaskId,
    Waiting,
    Wish,
)
from reconciler.phases import phase
from reconciler.places import Placement
from reconciler.state import Actual, Desired
from tests.unit.test_phase import ATTEMPT, CLAIM, CLAIMED, NOW, RUNNING, at

PLAN = Rejection(path="runs.d/a.yaml", problems=(Problem(path="runs.d/a.yaml", reason="r", rule="r"),))
REQUEST = Request(name=RUNNING.name, source=Source(path="runs.d/a.yaml"), task=TaskId("t"), pipeline=PipelineId("p"))
GATE = Gate(stage=StageId("ship"), reason="Publishes", policy="quick", asked_at="2026-03-01T11:59:30Z")
QUICK = Policy(name="quick", within_s=60.0)


def wish(due_at: str = "", **keys: Any) -> Wish:
    return Wish(request=replace(REQUEST, **keys), run_id=RUNNING.run_id, plan=PLAN, due_at=due_at)


def desired(*wishes: Wish, **keys: Any) -> Desired:
    return Desired(wishes=wishes, names={}, **keys)


def actual(*runs: Run, **keys: Any) -> Actual:
    return Actual(runs={each.run_id: each for each in runs}, evidence=keys)


def seconds(*found: Due) -> list[float]:
    return [round(each.in_s, 2) for each in found]


GATED = StageRecord(id=StageId("ship"), digest="d", status=StageStatus.WAITING, attempt=1, gate=GATE)
PLACED = Placement(executor="far", instance="", reason="", handle="x-1", asked=(), offered=(), weight=1.0)
AFAR = replace(CLAIMED, claim=replace(CLAIM, claimed=at(9.0), placement=PLACED))
AT_GATE = replace(
    CLAIMED, attempt=replace(ATTEMPT, outcome=Outcome.WAITING, stages=(GATED,)), beat=None, worker_alive=False
)
CASE = Case(pipeline="p", plan_digest="d", labels=(), author="", commit="", changed=())


@pytest.mark.parametrize(
    ("what", "wanted", "there", "expected"),
    [
        ("nothing", desired(), actual(), []),
        ("a beat a second old", desired(), actual(RUNNING), [29.01]),
        ("a beat long ago", desired(), actual(replace(RUNNING, beat=at(900.0))), [-69.99]),
        ("a worker that is gone", desired(), actual(replace(RUNNING, lock_held=False)), []),
        ("ended", desired(), actual(replace(RUNNING, attempt=replace(ATTEMPT, outcome=Outcome.FAILED))), []),
        ("claimed a second ago", desired(), actual(CLAIMED), [29.01]),
        ("claimed, and the lock held", desired(), actual(replace(CLAIMED, lock_held=True)), [29.01]),
        (
            "claimed before a reboot",
            desired(),
            actual(replace(CLAIMED, claim=replace(CLAIM, claimed=at(1, "old")))),
            [],
        ),
        ("at an engine, and long ago", desired(), actual(AFAR), []),
        (
            "at an engine, and heard of",
            desired(),
            actual(replace(AFAR, afar=Afar(silent_s=5, silent_max_s=60))),
            [55.01],
        ),
        ("at an engine, and silent", desired(), actual(replace(AFAR, afar=Afar(silent_s=70, silent_max_s=60))), []),
        ("suspended for good", desired(wish(suspend=Suspend())), actual(), []),
        ("suspended", desired(wish(suspend=Suspend(until="2026-03-01T12:00:07Z"))), actual(), [7.01]),
        ("suspended until before", desired(wish(suspend=Suspend(until="2026-03-01T11:00:00Z"))), actual(), [-3599.99]),
        ("a fire to come", desired(wish(due_at="2026-03-01T12:10:00Z")), actual(), [600.01]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_time_alone_brings(what: str, wanted: Desired, there: Actual, expected: list[float]) -> None:
    assert seconds(*due(wanted, there, NOW)) == expected


def test_a_gate_is_closed_by_its_policy() -> None:
    cases = {AT_GATE.run_id: CASE}
    assert phase(AT_GATE, NOW) == Phase.WAITING
    for policies, expected in (((QUICK,), [31.02]), ((replace(QUICK, within_s=None),), []), ((), [])):
        found = due(desired(cases=cases, policies=policies), actual(AT_GATE), NOW)
        assert seconds(*found) == expected


def test_a_gate_of_a_run_that_waits_elsewhere_is_closed_too() -> None:
    evidence = Evidence(
        run_id=AT_GATE.run_id, task_id=TaskId("t"), name="a", status=Status.WAITING, attempt=1, completed_at="",
        duration_s=0.0, manifest_blob="b", waiting=Waiting(plan_digest="d", commit="c", gates=(GATE,)),
    )  # fmt: skip
    there = Actual(runs={}, evidence={AT_GATE.run_id: evidence})
    assert seconds(*due(desired(cases={AT_GATE.run_id: CASE}, policies=(QUICK,)), there, NOW)) == [31.02]


def test_the_earliest_that_is_not_over_counts() -> None:
    over, soon, late = (Due(in_s=each, what="") for each in (-1.0, 2.0, 3.0))
    assert earliest([late, over, soon]) is soon
    assert earliest([over]) is None


def later(in_s: float) -> Instant:
    return replace(NOW, monotonic_s=NOW.monotonic_s + in_s)


def test_when_a_heartbeat_is_due_the_decision_is_another_one_and_not_before() -> None:
    (found,) = due(desired(), actual(RUNNING), NOW)
    limits = Limits(runs_max=4)
    assert diff(desired(), actual(RUNNING), later(found.in_s - 0.02), limits) == ()
    assert diff(desired(), actual(RUNNING), later(found.in_s), limits) != ()


def test_the_second_in_which_a_suspension_ends_has_begun_when_it_is_due() -> None:
    now = replace(NOW, at="2026-03-01T12:00:00.750Z")
    (found,) = due(desired(wish(suspend=Suspend(until="2026-03-01T12:00:02Z"))), actual(), now)
    assert round(found.in_s, 2) == 1.26
    assert found.subject == RunId(RUNNING.run_id)
