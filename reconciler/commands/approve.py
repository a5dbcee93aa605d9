"""`reconciler approve`: a decision on a gate, written and committed; `reject` is its twin."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from reconciler.errors import TipMoved, TransientError, UsageError
from reconciler.git import Draft
from reconciler.loop import pass_lock
from reconciler.model import Choice, Gate, Rejection, RunId, Source
from reconciler.observe import Observation
from reconciler.parse import parse_approval
from reconciler.phases import ENDED, phase
from reconciler.session import Session
from reconciler.survey import find_run, survey
from reconciler.terminal import format_option, print_json
from reconciler.waiting import open_gates
from reconciler.world import World

TRIES_MAX = 10


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb what both decisions need."""
    for each in reversed(
        (
            click.argument("run"),
            click.option("--stage", help="The stage behind the gate (default: the one that waits)."),
            click.option("--reason", required=True, help="Why; it is recorded in the manifest."),
            click.option("--sign", is_flag=True, help="Sign the commit, as git is configured to."),
            format_option,
        )
    ):
        function = each(function)
    return function


@click.command(short_help="let a run that waits at a gate go on")
@options
@click.pass_obj
def command(repo: str, run: str, stage: str | None, reason: str, sign: bool, form: str) -> int:
    """Approve what a run asks at a gate: write the decision to runs.d/ and commit it as yourself.

    \b
    reconciler approve 0001-release --reason "changelog checked"
    reconciler approve 0001-release --stage ship --reason "changelog checked" --sign

    The decision holds for this run and this plan only. The next pass goes on with the run, wherever it is made.
    """
    return decide(repo, run, stage, reason, Choice.APPROVE, sign=sign, form=form)


def decide(repo: str, run: str, stage: str | None, reason: str, choice: Choice, *, sign: bool, form: str) -> int:
    """Commit a decision on the tip, again if the tip moves meanwhile, and say so."""
    session = Session(Path(repo), quiet=True)
    found = survey(session.world)
    run_id = find_run(found, run)
    identity = session.world.repository.identity()
    for _ in range(TRIES_MAX):
        try:
            with pass_lock(session.world):
                path, gate = _commit(session, run_id, stage, reason, choice, identity, sign)
                break
        except TipMoved:
            session.loop.observer.online = False
            session.loop.contact.spread()
    else:
        raise TransientError(f"the branch moved {TRIES_MAX} times while the decision was committed; try again")
    if form == "json":
        print_json({"run_id": run_id, "stage": gate.stage, "decision": choice.value, "path": path})
    else:
        click.echo(f"{choice.value}: stage '{gate.stage}' of {run_id}, committed as {path}")
        click.echo("the next pass acts on it; run: reconciler reconcile --wait")
    return 0


def _commit(
    session: Session, run_id: RunId, stage: str | None, reason: str, choice: Choice, identity: str, sign: bool
) -> tuple[str, Gate]:
    world, loop = session.world, session.loop
    loop.contact.ask_if_due()
    seen = loop.observer.observe()
    if world.remote is not None and not loop.observer.online:
        raise TransientError(
            f"{world.remote.name} does not answer, and a decision must be pushed there; try again later"
        )
    gate, plan = _gate(seen, run_id, stage)
    path = f"runs.d/approvals/{run_id}.{gate.stage}.{world.chance.nonce()[:8]}.approval.yaml"
    data = _render({"run": run_id, "stage": gate.stage, "decision": choice.value, "reason": reason, "plan": plan})
    _check(data, path, world)
    draft = Draft(
        parent=seen.tip,
        files={path: data},
        message=f"runs: {choice.value} stage {gate.stage} of {run_id}\n",
        identity=identity,
        epoch_s=int(datetime.now(UTC).timestamp()),
    )
    loop.commit(seen, draft, sign=sign)
    return path, gate


def _check(data: bytes, path: str, world: World) -> None:
    """Raise UsageError if what would be committed is no decision: a reason may be anything."""
    found = parse_approval(data, Source(path=path), world.contracts)
    if isinstance(found, Rejection):
        raise UsageError(f"--reason: {'; '.join(each.reason for each in found.problems)}")


def _gate(seen: Observation, run_id: RunId, stage: str | None) -> tuple[Gate, str]:
    """Return the gate that is meant and the digest of the plan that waits at it. Raise UsageError with what waits."""
    gates, plan = _waiting(seen, run_id)
    if not gates:
        raise UsageError(f"{run_id} waits at no gate; see: reconciler why {run_id}")
    names = ", ".join(each.stage for each in gates)
    if stage is None and len(gates) > 1:
        raise UsageError(f"{run_id} waits at several gates: {names}; name one with --stage")
    meant = next((each for each in gates if stage in (None, each.stage)), None)
    if meant is None:
        raise UsageError(f"{run_id} does not wait at a gate before '{stage}'; it waits at: {names}")
    return meant, plan


def _waiting(seen: Observation, run_id: RunId) -> tuple[list[Gate], str]:
    """Return the gates at which a run waits, here or by the evidence at the tip, and the digest of its plan."""
    run, evidence = seen.actual.runs.get(run_id), seen.actual.evidence.get(run_id)
    if run is not None and phase(run, seen.now) in ENDED:
        return [], ""
    if run is not None and run.attempt is not None and run.claim is not None:
        return open_gates(run), run.claim.plan_digest
    if evidence is not None and evidence.waiting is not None:
        return list(evidence.waiting.gates), evidence.waiting.plan_digest
    return [], ""


def _render(said: dict[str, str]) -> bytes:
    from ruamel.yaml import YAML

    buffer = io.BytesIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 4096
    yaml.dump({key: str(value) for key, value in said.items()}, buffer)
    return buffer.getvalue()
