"""All that is written down about one run on this machine, put together."""

from __future__ import annotations

import contextlib

from reconciler import codec, manifest, rundir
from reconciler.errors import TransientError
from reconciler.model import Attempt, Claim, End, Refusal
from reconciler.world import World


def read_records(world: World, task_id: str, run_id: str) -> manifest.Records:
    """Return everything that is written down about a run. Raise TransientError if its plan cannot be read."""
    directory = world.runs.directory(task_id, run_id)
    claims = rundir.read_all(directory, "claims", Claim)
    with contextlib.suppress(codec.CodecError):
        plan = world.runs.frozen_plan(task_id, run_id, claims[max(claims)] if claims else None)
        if plan is not None:
            return manifest.Records(
                plan=plan,
                claims=claims,
                attempts=rundir.read_all(directory, "attempts", Attempt),
                ends=rundir.read_all(directory, "ends", End),
                refusals=tuple(rundir.read_all(directory, "refusals", Refusal).values()),
            )
    raise TransientError(f"{directory.path}: plan.json cannot be read")
