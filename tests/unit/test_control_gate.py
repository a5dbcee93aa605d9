"""The gate before a run: what becomes of actions when a control plane says yes, no, or nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reconciler import codec
from reconciler.actions import Abandon, Action, Launch, Publish, Restore, TakeOver, Wait
from reconciler.conditions import read_conditions
from reconciler.contracts import Contracts
from reconciler.control.asking import Answer
from reconciler.control.gate import Gate
from reconciler.control.request import run_request
from reconciler.control.rules import content_digest
from reconciler.disk import DISK
from reconciler.model import ControlError, ControlSettings, Instant, Outcome, Plan, Settings
from reconciler.observe import Observation
from reconciler.world import World
from tests.control_plans import plan_of, stage

URL = "http://127.0.0.1:9"
PLAN = plan_of(stage("build"))
NOW = Instant(at="2026-03-01T12:00:00.000Z", monotonic_s=1000.0, boot_id="b")


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> Instant:
        return Instant(at=NOW.at, monotonic_s=self.s, boot_id="b")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(tmp_path: Path, clock: Clock) -> Gate:
    repository = SimpleNamespace(state=tmp_path, last_change=lambda commit, path: None)
    chance = SimpleNamespace(fraction=lambda: 0.5)
    parts = {
        "repository": repository,
        "chance": chance,
        "now": clock,
        "disk": DISK,
        "contracts": Contracts(),
        "remote": None,
    }
    return Gate(cast(World, SimpleNamespace(**parts)))


def seen(mode: str, url: str = URL) -> Observation:
    settings = Settings(control_plane=ControlSettings(mode=mode, url=url))
    run = SimpleNamespace(number=3)
    found: Any = SimpleNamespace(settings=settings, actual=SimpleNamespace(runs={PLAN.run_id: run}))
    return cast(Observation, found)


def knows(gate: Gate, outcome: str, *errors: ControlError, at_s: float = 1000.0) -> None:
    """Let the gate remember an answer to PLAN."""
    document = codec.dump(run_request(PLAN, privacy_level="standard", actor="", at=NOW.at))
    answer = Answer(
        schema_version=1, request_id=PLAN.run_id, remote_id="r", outcome=outcome, errors=errors, expected=None
    )
    gate.known[f"{URL} {content_digest(document)}"] = (at_s, answer)


REFUSED = ControlError(path="/pipeline/title", message="no")
LAUNCH = Launch(plan=PLAN)
RESTORE = Restore(run_id=PLAN.run_id, task_id=PLAN.task_id, plan=PLAN, reason="lost")
TAKE_OVER = TakeOver(
    run_id=PLAN.run_id, task_id=PLAN.task_id, number=1, plan=PLAN, held=cast(Any, None), reason="silent"
)


def test_where_no_control_plane_is_named_nothing_is_asked_and_nothing_written(gate: Gate, tmp_path: Path) -> None:
    assert gate.judge_all(seen("off"), [LAUNCH]) == (LAUNCH,)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("action", [LAUNCH, RESTORE, TAKE_OVER], ids=lambda each: type(each).__name__)
def test_a_valid_run_passes_with_the_verdict_on_its_plan(gate: Gate, action: Any) -> None:
    knows(gate, "valid")
    (found,) = gate.judge_all(seen("enforce"), [action])
    control = cast(Any, found).plan.control
    assert (control.mode, control.outcome, control.remote_id, control.errors) == ("enforce", "valid", "r", ())
    assert type(found) is type(action) and getattr(found, "outcome", None) is None


def test_without_an_address_a_run_is_held_against_the_rules_alone(gate: Gate) -> None:
    (found,) = gate.judge_all(seen("enforce", url=""), [LAUNCH])
    control = cast(Launch, found).plan.control
    assert control is not None and control.outcome == "valid"
    assert control.expected is not None and control.expected.stages == {"build": "succeeded"}


@pytest.mark.parametrize("action", [LAUNCH, TAKE_OVER], ids=lambda each: type(each).__name__)
def test_a_refused_run_fails_before_any_stage(gate: Gate, action: Any) -> None:
    knows(gate, "invalid", *[REFUSED] * 5)
    (found,) = gate.judge_all(seen("enforce"), [action])
    assert cast(Launch, found).outcome == Outcome.FAILED
    one = "/pipeline/title: no"
    assert cast(Launch, found).reason == f"the control plane refuses it: {one}; {one}; {one}; and 2 more"
    assert cast(Any, gate.judge_all(seen("shadow"), [action])[0]).outcome is None


def test_a_run_whose_plan_was_lost_and_is_refused_now_is_given_up(gate: Gate) -> None:
    knows(gate, "invalid", REFUSED)
    restored, abandoned = gate.judge_all(seen("enforce"), [RESTORE])
    assert isinstance(restored, Restore) and restored.plan.control is not None
    reason = "the control plane refuses it: /pipeline/title: no"
    assert abandoned == Abandon(run_id=PLAN.run_id, task_id=PLAN.task_id, number=3, reason=reason)


@pytest.mark.parametrize("action", [LAUNCH, RESTORE, TAKE_OVER], ids=lambda each: type(each).__name__)
def test_a_run_waits_while_there_is_no_answer_and_the_pause_grows(
    gate: Gate, clock: Clock, action: Action, tmp_path: Path
) -> None:
    pauses = []
    for number in range(1, 6):
        gate.failed("nobody is there")
        pauses.append(gate.due_s - clock.s)
        (found,) = gate.judge_all(seen("enforce"), [action])
        assert found == Wait(
            subject=PLAN.run_id, reason="waits for the control plane: nobody is there", settled=number > 3
        )
        assert gate.patience_s() == pauses[-1]
    assert pauses == [1, 2, 4, 8, 16]
    assert read_conditions(tmp_path)["control plane"]["reason"] == "nobody is there"
    assert gate.told == ("control plane: nobody is there",)


def test_shadow_waits_for_nobody(gate: Gate) -> None:
    gate.failed("nobody is there")
    (found,) = gate.judge_all(seen("shadow"), [LAUNCH])
    control = cast(Launch, found).plan.control
    assert control is not None and (control.outcome, control.reason) == ("unreachable", "nobody is there")
    assert gate.patience_s() == float("inf")


def test_when_time_is_up_the_others_come_in_the_next_pass(gate: Gate, clock: Clock) -> None:
    settings = seen("shadow")

    def late(commit: str, path: str) -> None:
        clock.s += 11

    cast(Any, gate.world.repository).last_change = late
    (found,) = gate.judge_all(settings, [LAUNCH])
    assert found == Wait(subject=PLAN.run_id, reason="waits to be shown to the control plane")


def test_an_answer_is_remembered_for_a_moment(gate: Gate, clock: Clock) -> None:
    knows(gate, "valid")
    gate.failed("gone since")
    clock.s += 59
    gate.due_s = clock.s + 100
    assert cast(Launch, gate.judge_all(seen("enforce"), [LAUNCH])[0]).plan.control is not None
    clock.s += 2
    assert isinstance(gate.judge_all(seen("enforce"), [LAUNCH])[0], Wait)


def test_what_ends_a_run_or_has_no_plan_is_nobodys_business(gate: Gate) -> None:
    gate.failed("nobody is there")
    others: list[Action] = [
        Launch(plan=PLAN, outcome=Outcome.CANCELLED), Publish(runs=()), Wait(subject="x", reason="y"),
    ]  # fmt: skip
    assert gate.judge_all(seen("enforce"), others) == tuple(others)


def test_a_person_is_told_why_a_resume_must_not_be(gate: Gate) -> None:
    settings = seen("enforce").settings
    gate.failed("nobody is there")
    assert gate.for_person(PLAN, settings)[1] == "the control plane gives no answer: nobody is there"
    gate.known.clear()
    knows(gate, "invalid", REFUSED)
    plan, objection = gate.for_person(PLAN, settings)
    assert isinstance(plan, Plan) and objection == "the control plane refuses it: /pipeline/title: no"
    assert gate.for_person(PLAN, Settings()) == (PLAN, "")
