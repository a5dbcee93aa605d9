"""The plan that people reviewed: its digest, and why another one is not launched. Pure.

A request names the digest in its key `plan`, so reviewers see it in the pull request. It covers what is executed and
who may allow it, and nothing that a merge changes by itself: no commit, no blob, no clock.
"""

from __future__ import annotations

from reconciler import codec
from reconciler.model import Plan, Problem, Request, Settings

PREFIX = "sha256:"
CURE = "look at what it does now, then write that down: reconciler plan --write"


def digest(plan: Plan, settings: Settings) -> str:
    """Return `sha256:<hex>` of what a plan executes, what it proves and who may allow it.

    The plan's own digest covers the selected stages with their gates and sandboxes, nested ones included, and the
    parameters. Policies and signers count where there is, or may be in a nested run, a gate. Limits and titles do not.
    """
    chosen = [each for each in plan.stages if each.selected]
    covered: dict[str, object] = {
        "plan": plan.digest,
        "task": plan.task_id,
        "pipeline": plan.pipeline_id,
        "execution_mode": plan.execution_mode,
        "workspace": plan.workspace,
        "proves": plan.proves,
        "sandbox_missing": plan.sandbox_missing,
        "may_fail": [each.id for each in chosen if each.allow_failure],
    }
    if any(each.approval is not None or each.children for each in chosen):
        covered |= {"approval_policy": plan.approval_policy, "labels": plan.labels}
        covered |= {"policies": settings.approvals, "trust": settings.trust}
    return PREFIX + codec.digest(covered)


def objection(request: Request, plan: Plan, settings: Settings) -> Problem | None:
    """Return why a plan is not the one that was reviewed, None if it is or need not be: that of a nested run need not,
    because the plan of its parent covers it."""
    if request.parent is not None or (request.plan is None and not settings.require_plan):
        return None
    if request.plan is None:
        return _problem(request, "", "the settings require a reviewed plan, and the request names none")
    now = digest(plan, settings)
    if request.plan == now:
        return None
    was = f"the request was reviewed with plan {_short(request.plan)}, and what would run is {_short(now)}"
    return _problem(request, "/plan", was)


def _short(text: str) -> str:
    return text[: len(PREFIX) + 12]


def _problem(request: Request, pointer: str, reason: str) -> Problem:
    return Problem(path=request.source.path, pointer=pointer, reason=reason, cure=CURE, rule="unreviewed-plan")
