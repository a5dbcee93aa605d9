"""Gates before stages: what a policy demands, which committed decisions count, whether the gate opens. Pure.

The worker asks `at_gate` with the decisions its claim holds; a pass asks `weigh` with all that the tip holds, and
claims a further attempt when that says something. Instants here are people's dates in UTC, which order as text.
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from reconciler.model import (
    ApprovalPolicy,
    Choice,
    Decision,
    Gate,
    PlannedStage,
    Policy,
    StageId,
    StageRecord,
    StageStatus,
)
from reconciler.values import frozen

GOVERNED = "governed"
"""What a plan says of a gate that a policy of the settings may hold for."""


@frozen
class Case:
    """What policies look at, of one run that waits: its pipeline, labels, the digest of its plan, who committed its
    request and in which commit, and the paths that the commit it works on has changed.

    `asked` are all (commit, author) that ever touched the request, where a policy looks at authors; `early` the
    commits of decisions that were there before the commit that the run works on; `decisions_left` how many decisions
    are there beyond those that are looked at.
    """

    pipeline: str
    plan_digest: str
    labels: tuple[str, ...] = ()
    author: str = ""
    commit: str = ""
    changed: tuple[str, ...] = ()
    asked: tuple[tuple[str, str], ...] = ()
    early: frozenset[str] = frozenset()
    decisions_left: int = 0


@frozen
class Weighed:
    """What became of one gate: the choice (None while it waits), the decisions that count, and in words what is
    missing."""

    gate: Gate
    choice: Choice | None
    decisions: tuple[Decision, ...] = ()
    missing: str = ""


# ------------------------------------------------------------------------------------------------ in the worker


def at_gate(
    stage: PlannedStage, record: StageRecord, policy: ApprovalPolicy, decisions: Sequence[Decision], now_at: str
) -> StageRecord:
    """Return the record of a stage that is ready to start, as its gate leaves it: unchanged but for the decisions
    where it may start, failed where it was rejected, waiting where nobody has decided."""
    if stage.approval is None:
        return record
    counted = tuple(each for each in decisions if each.stage == stage.id) or _by_policy(stage, policy, now_at)
    gate = record.gate or Gate(
        stage=stage.id,
        reason=str(stage.approval["reason"]),
        policy=str(stage.approval.get("policy", "")),
        asked_at=now_at,
    )
    record = replace(record, gate=gate, decisions=counted)
    if not counted:
        return replace(record, status=StageStatus.WAITING, summary=f"waits for approval: {gate.reason}")
    rejection = next((each for each in counted if each.decision == Choice.REJECT), None)
    if rejection is not None:
        summary = f"rejected by {rejection.actor}: {rejection.reason}"
        return replace(record, status=StageStatus.FAILED, completed_at=now_at, summary=summary)
    return record


def _by_policy(stage: PlannedStage, policy: ApprovalPolicy, now_at: str) -> tuple[Decision, ...]:
    """Return what the policies that ask nobody decide. What a policy of the settings may govern, no request grants."""
    governed = stage.approval is not None and stage.approval.get(GOVERNED)
    if policy == ApprovalPolicy.ON_REQUEST or (policy == ApprovalPolicy.AUTO and governed):
        return ()
    choice = Choice.APPROVE if policy == ApprovalPolicy.AUTO else Choice.REJECT
    reason = "granted without asking" if choice == Choice.APPROVE else "denied without asking"
    actor = f"approval_policy {policy.value}"
    return (Decision(stage=stage.id, decision=choice, reason=reason, actor=actor, at=now_at, policy=policy.value),)


def is_rejected(record: StageRecord) -> bool:
    """Return whether a stage failed at its gate: that ends the run, even where its failure is allowed."""
    return any(each.decision == Choice.REJECT for each in record.decisions)


# ------------------------------------------------------------------------------------------------ in a pass


def weigh(gate: Gate, case: Case, decisions: Iterable[Decision], policies: Sequence[Policy], now_at: str) -> Weighed:
    """Return what becomes of a gate by the decisions that the tip holds for its run."""
    policy = policy_of(gate, case, policies)
    if policy is None:
        return Weighed(gate=gate, choice=None, missing=f"there is no policy '{gate.policy}' in reconciler.yaml")
    if case.decisions_left:
        return Weighed(gate=gate, choice=None, missing=_crowd(case))
    deadline = _deadline(gate, policy)
    about = [each for each in decisions if each.stage == gate.stage]
    objections = {each: _objection(each, case, policy, deadline) for each in about}
    latest = {_person(each, policy): each for each in sorted(about, key=_order) if not objections[each]}
    counted = tuple(replace(each, policy=policy.name) for each in latest.values())
    rejections = tuple(each for each in counted if each.decision == Choice.REJECT)
    if rejections:
        return Weighed(gate=gate, choice=Choice.REJECT, decisions=rejections)
    if len(counted) >= policy.approvals_min:
        return Weighed(gate=gate, choice=Choice.APPROVE, decisions=counted)
    if deadline is not None and now_at[:19] > deadline[:19]:
        return Weighed(gate=gate, choice=Choice.REJECT, decisions=(_expired(gate, policy, deadline),))
    told = [f"that of {each.actor} does not count: {why}" for each, why in objections.items() if why]
    return Weighed(gate=gate, choice=None, missing="; ".join([_missing(counted, policy, deadline), *told]))


def _order(decision: Decision) -> tuple[str, bool]:
    """Return what orders decisions: their second, and in the same second a rejection is the later word."""
    return decision.at[:19], decision.decision == Choice.REJECT


def policy_of(gate: Gate, case: Case, policies: Sequence[Policy]) -> Policy | None:
    """Return the policy of a gate: the one it names, else the first whose rules match, else one that demands a
    single decision of anybody. None if the one it names does not exist."""
    if gate.policy:
        return next((each for each in policies if each.name == gate.policy), None)
    return next((each for each in policies if _holds(each, gate, case)), Policy(name=""))


def _holds(policy: Policy, gate: Gate, case: Case) -> bool:
    """Return whether a policy has rules and all of them match. One without rules holds only where it is named."""
    rules: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "pipelines": (policy.pipelines, (case.pipeline,)),
        "stages": (policy.stages, (gate.stage,)),
        "labels": (policy.labels, case.labels),
        "paths": (policy.paths, case.changed),
        "authors": (policy.authors, _askers(case)),
    }
    given = [(patterns, words) for patterns, words in rules.values() if patterns]
    return bool(given) and all(_any_matches(patterns, words) for patterns, words in given)


def decide_by(gate: Gate, case: Case, policies: Sequence[Policy]) -> str | None:
    """Return the instant by which a gate must be decided, None if there is none."""
    policy = policy_of(gate, case, policies)
    return _deadline(gate, policy) if policy is not None else None


def is_governed(approval: Mapping[str, object], case: Case, stage: StageId, policies: Sequence[Policy]) -> bool:
    """Return whether a policy of the settings may hold for a gate, whatever its paths and author turn out to be."""
    gate = Gate(stage=stage, reason="", policy=str(approval.get("policy", "")), asked_at="")
    known = (replace(each, paths=(), authors=(), stages=each.stages or ("*",)) for each in policies if _has_rules(each))
    return bool(gate.policy) or any(_holds(each, gate, case) for each in known)


def _has_rules(policy: Policy) -> bool:
    return any((policy.pipelines, policy.stages, policy.labels, policy.paths, policy.authors))


def _any_matches(patterns: Iterable[str], words: Iterable[str]) -> bool:
    said = [each.casefold() for each in words]
    return any(fnmatch.fnmatchcase(word, pattern.casefold()) for pattern in patterns for word in said)


def address_of(actor: str) -> str:
    """Return the address in `Name <address>`, the whole text where there is none."""
    before, bracket, rest = actor.rpartition("<")
    return (rest.rstrip(">") if bracket else before or rest).strip().casefold()


def _person(decision: Decision, policy: Policy) -> str:
    """Return who decided: where signatures are demanded, who signed, because anybody can write any author."""
    return (decision.signer or "").casefold() if policy.signed else address_of(decision.actor)


def objection(decision: Decision, gate: Gate, case: Case, policies: Sequence[Policy]) -> str:
    """Return why a decision on a gate does not count, "" if it does."""
    policy = policy_of(gate, case, policies)
    if policy is None:
        return f"there is no policy '{gate.policy}' in reconciler.yaml"
    return _objection(decision, case, policy, _deadline(gate, policy))


def _objection(decision: Decision, case: Case, policy: Policy, deadline: str | None) -> str:
    """Return why a decision does not count, "" if it does."""
    if decision.plan is not None and decision.plan != case.plan_digest:
        return "it is for another plan; what runs has changed since"
    if not decision.actor:
        return "nobody knows whose it is, because this clone is shallow; run: git fetch --unshallow"
    if policy.signed and not decision.signer:
        return "it is not signed by anybody whom trust.allowed_signers names"
    person = _person(decision, policy)
    if policy.approvers and not _any_matches(policy.approvers, [person]):
        return f"policy '{policy.name}' does not let {person} decide"
    if policy.other_person and person in _askers(case):
        return "another person must decide than who asked for the run"
    if policy.other_person and decision.commit in _asking(case):
        return "it was committed together with the request"
    if decision.commit in case.early and decision.commit not in _asking(case):
        return "it was committed before what the run works on; decide again"
    if deadline is not None and decision.at[:19] > deadline[:19]:
        return f"it came after {deadline}"
    return ""


def _askers(case: Case) -> tuple[str, ...]:
    """Return the addresses of who asked for a run: all who ever touched its request, as far as that is known."""
    return tuple(address_of(each) for each in (case.author, *(who for _, who in case.asked)))


def _asking(case: Case) -> set[str]:
    """Return the commits that asked for a run."""
    return {case.commit, *(commit for commit, _ in case.asked)}


def _crowd(case: Case) -> str:
    left = f"{case.decisions_left} decisions more than are looked at"
    return f"there are {left}, so nothing is decided; remove those that count for nothing"


def _deadline(gate: Gate, policy: Policy) -> str | None:
    """Return the instant by which a gate must be decided, None if there is none, or none that a calendar knows."""
    if policy.within_s is None:
        return None
    with contextlib.suppress(OverflowError):
        asked = datetime.fromisoformat(gate.asked_at)
        return (asked + timedelta(seconds=policy.within_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return None


def _expired(gate: Gate, policy: Policy, deadline: str) -> Decision:
    reason = f"nobody decided by {deadline}"
    actor = f"policy {policy.name}"
    return Decision(
        stage=gate.stage, decision=Choice.REJECT, reason=reason, actor=actor, at=deadline, policy=policy.name
    )


def _missing(counted: Sequence[Decision], policy: Policy, deadline: str | None) -> str:
    who = f" of {' or '.join(policy.approvers)}" if policy.approvers else ""
    signed = "signed " if policy.signed else ""
    until = f" by {deadline}" if deadline else ""
    if policy.approvals_min == 1:
        return f"a {signed}decision{who} is missing{until}"
    return f"{len(counted)} of {policy.approvals_min} {signed}decisions{who} are there{until}"
