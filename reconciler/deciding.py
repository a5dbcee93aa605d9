"""A decision on a gate, written and committed. The shared middle of `approve`, `reject` and the Python API."""

from __future__ import annotations

from datetime import UTC, datetime

from reconciler.errors import UsageError
from reconciler.git import Draft
from reconciler.loop import Loop
from reconciler.model import Choice, Gate, Rejection, RunId, Source, StageId
from reconciler.observe import Observation
from reconciler.parse import parse_approval
from reconciler.phases import ENDED, phase
from reconciler.submitting import on_the_tip, render
from reconciler.values import frozen
from reconciler.waiting import open_gates
from reconciler.world import World


@frozen
class Decided:
    """A decision that is committed: on which gate, and the path of its file."""

    run_id: RunId
    stage: StageId
    decision: Choice
    path: str


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
    return Decided(run_id=run_id, stage=gate.stage, decision=choice, path=path)


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
