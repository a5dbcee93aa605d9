"""Who will be asked, and whether decisions that a change brings along would count. Pure.

The policies are those of the base: a change does not choose who reviews it. Where its own would ask for something else
once it is merged, that is told as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from reconciler import approve
from reconciler.approve import GOVERNED, Case
from reconciler.model import Approval, ApprovalPolicy, Decision, Gate, Plan, PlannedStage, Policy, Settings
from reconciler.values import frozen


@frozen
class Cast:
    """A decision that the change brings along: its file, and what git says of it. `gate` and `case` are those of a run
    that waits for it at the base, None if none does."""

    approval: Approval
    decision: Decision
    gate: Gate | None = None
    case: Case | None = None


@frozen
class Asked:
    """One gate of a run to come, and what its policy demands at the base. `answer` is what will become of it by what
    is known; `instead` what the policies after the merge demand, "" if the same."""

    stage: str
    reason: str
    policy: str
    approvals_min: int
    approvers: tuple[str, ...]
    other_person: bool
    signed: bool
    within: str
    answer: str
    instead: str


@frozen
class Judged:
    """A decision in the change, and whether it would count: if not, `why` says so."""

    path: str
    run: str
    stage: str
    decision: str
    reason: str
    actor: str
    counts: bool
    why: str


def asked(
    plan: Plan, case: Case, casts: Sequence[Cast], base: Settings, merged: Settings, now_at: str
) -> tuple[Asked, ...]:
    """Return every gate that a run will come to."""
    decisions = [each.decision for each in casts if each.approval.run == plan.run_id]
    stages = (each for each in plan.stages if each.selected and each.approval is not None)
    return tuple(_asked(each, plan, case, decisions, base, merged, now_at) for each in stages)


def judged(casts: Iterable[Cast], coming: Sequence[tuple[Plan, Case]], base: Settings) -> tuple[Judged, ...]:
    """Return what the decisions of the change are worth: about runs that wait, and about `coming` ones."""
    plans = {plan.run_id: (plan, case) for plan, case in coming}
    return tuple(_judged(each, plans.get(each.approval.run), base) for each in casts)


# ------------------------------------------------------------------------------------------------ gates


def gate_of(stage: PlannedStage, now_at: str) -> Gate:
    """Return the gate before a stage as it will ask."""
    approval = stage.approval or {}
    reason, policy = str(approval.get("reason", "")), str(approval.get("policy", ""))
    return Gate(stage=stage.id, reason=reason, policy=policy, asked_at=now_at)


def _asked(
    stage: PlannedStage,
    plan: Plan,
    case: Case,
    decisions: Sequence[Decision],
    base: Settings,
    merged: Settings,
    now_at: str,
) -> Asked:
    gate = gate_of(stage, now_at)
    policy = approve.policy_of(gate, case, base.approvals)
    later = approve.policy_of(gate, case, merged.approvals)
    terms = policy or Policy(name=gate.policy)
    differs = _terms(policy) != _terms(later)
    return Asked(
        stage=stage.id,
        reason=gate.reason,
        policy=terms.name,
        approvals_min=terms.approvals_min,
        approvers=terms.approvers,
        other_person=terms.other_person,
        signed=terms.signed,
        within=f"{terms.within_s:g}s" if terms.within_s is not None else "",
        answer=_answer(stage, gate, plan, case, decisions, base, now_at),
        instead=_demand(later, gate) if differs else "",
    )


def _answer(
    stage: PlannedStage, gate: Gate, plan: Plan, case: Case, decisions: Sequence[Decision], base: Settings, now_at: str
) -> str:
    said = {key: value for key, value in (stage.approval or {}).items() if key != GOVERNED}
    governed = approve.is_governed(said, case, stage.id, base.approvals)
    weighed = approve.weigh(gate, case, decisions, base.approvals, now_at)
    if weighed.choice is not None:
        people = ", ".join(each.actor for each in weighed.decisions)
        return f"{weighed.choice.value} of {people} is in this change"
    if plan.approval_policy == ApprovalPolicy.NEVER:
        return "denied without asking (approval_policy never)"
    if plan.approval_policy == ApprovalPolicy.AUTO and not governed:
        return "granted without asking (approval_policy auto)"
    return weighed.missing


def _terms(policy: Policy | None) -> Policy | None:
    """Return what a policy demands, whatever it is called and wherever it holds."""
    if policy is None:
        return None
    return replace(policy, name="", pipelines=(), stages=(), labels=(), paths=(), authors=())


def _demand(policy: Policy | None, gate: Gate) -> str:
    if policy is None:
        return f"there is no policy '{gate.policy}'"
    return "; ".join(demands(policy.approvals_min, policy.approvers, policy.other_person, policy.signed))


def demands(count: int, approvers: Sequence[str], other_person: bool, signed: bool) -> Iterator[str]:
    """Yield in words what a policy demands."""
    who = f" of {' or '.join(approvers)}" if approvers else " of whoever may commit"
    yield f"{count} {'signed ' if signed else ''}{'decision' if count == 1 else 'decisions'}{who}"
    if other_person:
        yield "of another person than who asked"


# ------------------------------------------------------------------------------------------------ decisions


def _judged(cast: Cast, coming: tuple[Plan, Case] | None, base: Settings) -> Judged:
    why = _why_not(cast, coming, base)
    said = cast.approval
    return Judged(
        path=said.source.path,
        run=said.run,
        stage=said.stage,
        decision=said.decision.value,
        reason=said.reason,
        actor=cast.decision.actor,
        counts=not why,
        why=why,
    )


def _why_not(cast: Cast, coming: tuple[Plan, Case] | None, base: Settings) -> str:
    """Return why a decision counts for nothing, "" if it counts."""
    if cast.gate is not None and cast.case is not None:
        return approve.objection(cast.decision, cast.gate, cast.case, base.approvals)
    if coming is None:
        return f"no run '{cast.approval.run}' waits at that gate, and this change launches none"
    plan, case = coming
    stage = next((each for each in plan.stages if each.id == cast.approval.stage), None)
    if stage is None or stage.approval is None:
        return f"the run has no gate before a stage '{cast.approval.stage}'"
    return approve.objection(cast.decision, gate_of(stage, cast.decision.at), case, base.approvals)
