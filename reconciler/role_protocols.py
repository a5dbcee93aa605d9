"""The four roles of a run as protocols, for who wants to replace one. Pure.

A package does so with an entry point of the group `reconciler.roles`, whose name the settings then name
(`roles: {tester: strict}`). The entry point is a class that is made without arguments, or a value that has the method.
A planner is asked in a process that lives beside the reconciler, the others each in a process of the attempt: what
they print is a log, and what they return is all that counts. Whoever raises, hangs or returns anything else has said
nothing.

    [project.entry-points."reconciler.roles"]
    strict = "my_package:StrictTester"

Ours are `BuiltInPlanner`, `BuiltInTester` and `BuiltInReviewer` here and `reconciler.drive.BuiltInBuilder`; whoever
only wants to add something may ask them first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Protocol

from reconciler import roles
from reconciler.checklist import Item
from reconciler.model import ExecutionMode, Pipeline, Plan, Request, RunId, Settings, StageId, Tested
from reconciler.order import Answer, Order
from reconciler.values import frozen

METHODS: Mapping[str, str] = {"planner": "plan", "builder": "build", "tester": "test", "reviewer": "review"}
"""The one method of each role."""


@frozen
class PlanningOrder:
    """What a planner is told. `plan` is the plan as ours makes it: ids, digests, the commit and every default are taken
    from there, whatever the planner says. `checklist` are the items of the task's checklist at the commit."""

    request: Request
    pipeline: Pipeline
    checklist: tuple[Item, ...]
    settings: Settings
    plan: Plan


@frozen
class Planned:
    """What a planner wants: which stages shall run (`selection`, by id), and where each wants to be executed (`modes`;
    those that are not named stay as they are). `reason` is a line for people."""

    run_id: RunId
    selection: tuple[StageId, ...]
    modes: Mapping[StageId, ExecutionMode] = field(default_factory=dict)
    reason: str = ""


@frozen
class TesterAnswer:
    """A tester's verdict: `status` is `passed`, `failed` or `none`; `reasons` say what failed."""

    run_id: RunId
    status: str
    reasons: tuple[str, ...] = ()


@frozen
class ReviewerAnswer:
    """A reviewer's decision: `approve`, `reject` or `escalate`, and why."""

    run_id: RunId
    decision: str
    reasons: tuple[str, ...] = ()


class Planner(Protocol):
    """Makes the plan of a request, its pipeline and its task."""

    def plan(self, order: PlanningOrder) -> Planned:
        """Return which stages shall run and where. Told the same it should say the same: another machine that takes a
        run over plans it again."""
        ...


class Builder(Protocol):
    """Runs stages, one in a process: those with a command or an agent. Guardrails and nested runs are not built."""

    def build(self, order: Order) -> Answer:
        """Execute `order.planned` in `order.workspace` and return how it went; the stage's timeout ends the process."""
        ...


class Tester(Protocol):
    """Judges whether the results are what the plan demands."""

    def test(self, order: Order) -> TesterAnswer:
        """Return the verdict on `order.records`, the records of all stages of `order.plan` that were selected."""
        ...


class Reviewer(Protocol):
    """Has the last word: a run succeeds only if it approves."""

    def review(self, order: Order) -> ReviewerAnswer:
        """Return the decision on `order.plan`, `order.records` and `order.tested`, the verdict of the tester."""
        ...


class BuiltInPlanner:
    """Selects what the request's target needs, and leaves every stage where it wants to be."""

    def plan(self, order: PlanningOrder) -> Planned:
        selected = tuple(each.id for each in order.plan.stages if each.selected)
        return Planned(run_id=order.plan.run_id, selection=selected)


class BuiltInTester:
    """Passes if every required guardrail and every stage with `role: test` passed."""

    def test(self, order: Order) -> TesterAnswer:
        found = roles.test(order.plan, {each.id: each for each in order.records})
        return TesterAnswer(run_id=order.plan.run_id, status=found.status, reasons=found.reasons)


class BuiltInReviewer:
    """Approves what the tester passed, unless a stage with `role: review` decided otherwise."""

    def review(self, order: Order) -> ReviewerAnswer:
        records = {each.id: each for each in order.records}
        found = roles.review(order.plan, records, order.tested or Tested(status="none"))
        return ReviewerAnswer(run_id=order.plan.run_id, decision=found.decision, reasons=(found.reason,))
