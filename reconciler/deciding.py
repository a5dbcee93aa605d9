"""A decision on a gate, written and committed. The shared middle of `approve`, `reject` and the Python API."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

from reconciler.approve import Weighed, weigh
from reconciler.errors import ReconcilerError, UsageError
from reconciler.git import Draft
from reconciler.loop import Loop
from reconciler.model import Choice, Gate, Rejection, RunId, Source, StageId
from reconciler.observe import Observation
from reconciler.parse import parse_approval
from reconciler.phases import ENDED, phase
from reconciler.submitting import on_the_tip, render
from reconciler.values import frozen
from reconciler.waiting import open_gates, told
from reconciler.world import World

ACTS = "the next pass acts on it; run: reconciler reconcile --wait"


@frozen
class Decided:
    """A decision that is committed: on which gate, and the path of its file. `settled` is what becomes of the gate by
    all decisions that count, None while it waits; `told` says that to people."""

    run_id: RunId
    stage: StageId
    decision: Choice
    path: str
    settled: Choice | None = None
    told: str = ""


def decide(loop: Loop, run_id: RunId, stage: str | None, reason: str, choice: Choice, *, sign: bool = False) -> Decided:
    """Commit a decision onto the tip. Raise UsageError if the run does not wait for it, or the reason is none."""
    identity = loop.world.repository.identity()
    return on_the_tip(loop, "decision", lambda seen: _commit(loop, seen, run_id, stage, reason, choice, identity, sign))


def _commit(
    loop: Loop,
    seen: Observation,
    run_id: RunId,
    stage: str | None,
    reason: str,
    choice: Choice,
    identity: str,
    sign: bool,
) -> Decided:
    gate, plan = _gate(seen, run_id, stage)
    before = _weighed(seen, run_id, gate)
    path = f"runs.d/approvals/{run_id}.{gate.stage}.{loop.world.chance.nonce()[:8]}.approval.yaml"
    said = {"run": run_id, "stage": gate.stage, "decision": choice.value, "reason": reason, "plan": plan}
    data = render({key: str(value) for key, value in said.items()})
    _check(data, path, loop.world)
    draft = Draft(
        parent=seen.tip,
        files={path: data},
        message=f"runs: {choice.value} stage {gate.stage} of {run_id}\n",
        identity=identity,
        epoch_s=int(datetime.now(UTC).timestamp()),
    )
    loop.commit(seen, draft, sign=sign)
    after = None
    with contextlib.suppress(ReconcilerError):  # it is committed, whatever keeps us from looking again
        after = _weighed(loop.observer.observe(), run_id, gate)
    settled = after.choice if after is not None else None
    told = _told(before, after) if before is not None and after is not None else ACTS
    return Decided(run_id=run_id, stage=gate.stage, decision=choice, path=path, settled=settled, told=told)


def _weighed(seen: Observation, run_id: RunId, gate: Gate) -> Weighed | None:
    """Return what becomes of a gate by the decisions at the tip, None where it is not known who asked."""
    case, decisions = seen.desired.cases.get(run_id), seen.desired.decisions.get(run_id, ())
    return weigh(gate, case, decisions, seen.desired.policies, seen.now.at) if case is not None else None


def _told(before: Weighed, after: Weighed) -> str:
    """Return what a further decision comes to: nothing where the gate was decided, and who decides again takes the
    place of what the same person said before."""
    if after.choice is None:
        return f"the gate waits on: {after.missing}"
    if before.choice is None:
        return ACTS
    if before.choice == after.choice:
        return f"it was decided already: {told(before.decisions)}; this changes nothing, and {ACTS}"
    return f"it takes the place of an earlier decision ({told(before.decisions)}); {ACTS}"


def _check(data: bytes, path: str, world: World) -> None:
    """Raise UsageError if what would be committed is no decision: a reason may be anything."""
    found = parse_approval(data, Source(path=path), world.contracts)
    if isinstance(found, Rejection):
        raise UsageError(f"--reason: {'; '.join(each.reason for each in found.problems)}")


def _gate(seen: Observation, run_id: RunId, stage: str | None) -> tuple[Gate, str]:
    """Return the gate that is meant and the digest of the plan that waits at it. Raise UsageError with what waits."""
    gates, plan = waiting_at(seen, run_id)
    if not gates:
        raise UsageError(f"{run_id} waits at no gate; see: reconciler why {run_id}")
    names = ", ".join(each.stage for each in gates)
    if stage is None and len(gates) > 1:
        raise UsageError(f"{run_id} waits at several gates: {names}; name one with --stage")
    meant = next((each for each in gates if stage in (None, each.stage)), None)
    if meant is None:
        raise UsageError(f"{run_id} does not wait at a gate before '{stage}'; it waits at: {names}")
    return meant, plan


def waiting_at(seen: Observation, run_id: RunId) -> tuple[list[Gate], str]:
    """Return the gates at which a run waits, here or by the evidence at the tip, and the digest of its plan."""
    run, evidence = seen.actual.runs.get(run_id), seen.actual.evidence.get(run_id)
    if run is not None and phase(run, seen.now) in ENDED:
        return [], ""
    if run is not None and run.attempt is not None and run.claim is not None:
        return open_gates(run), run.claim.plan_digest
    if evidence is not None and evidence.waiting is not None:
        return list(evidence.waiting.gates), evidence.waiting.plan_digest
    return [], ""
