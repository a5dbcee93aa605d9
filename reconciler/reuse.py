"""Success that stands for another: of which stages, by which key, and where committed evidence holds it. Pure.

A stage that says `reuse` depends on its definition, on what lies at its paths, and on its variables. All of that makes
its key; a stage with the same key that succeeded in an earlier run need not be executed again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from reconciler import codec, inputs
from reconciler.model import PlannedStage, StageId, StageKind

STAGES_MAX = 200
"""As many as a pipeline has at most."""
KEY = re.compile(r"[0-9a-f]{64}")
OUTSIDE: Mapping[str, str] = {
    "specs": "the calendar",
    "diff": "the history of the branch",
    "checklists": "the evidence that is committed meanwhile",
    "eval": "the programs that are installed",
}
"""Guardrails that look at what no paths tell of."""


def stage_fault(stage: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return why the success of a stage, as its file says it, cannot stand for another, and what would be right; None
    if it can."""
    for kind in ("agent", "pipeline"):
        if kind in stage:
            return f"only a command or a guardrail can be reused, and this is a stage of kind '{kind}'", "remove it"
    said = stage.get("guard")
    guard = said if isinstance(said, dict) else {"use": said}
    if (what := OUTSIDE.get(str(guard.get("use")))) is not None:
        return f"guard '{guard['use']}' depends on {what}, not on paths alone", "remove it"
    if guard.get("dry_run") is True:
        return "a guardrail that only advises proves nothing that could be reused", "remove 'dry_run' or 'reuse'"
    return None


def path_fault(path: str) -> tuple[str, str] | None:
    """Return what is wrong with a path in `reuse`, and what would be right; None if nothing is."""
    if path.split("/", maxsplit=1)[0] in inputs.RECORDS or path == inputs.REGISTRY:
        return f"'{path}' is written by the reconciler, so no key would be there twice", "remove it"
    if not set(path) & set("*?"):
        return inputs.path_fault(path)
    if {"", "."} & set(path.split("/")):
        return f"'{path}' is not a plain pattern", "write it without a '/' at the end, '//' and '.'"
    return None


def key(
    stage: PlannedStage,
    *,
    found: Mapping[str, str | None],
    variables: Mapping[str, str | None],
    platform: str,
    missing: str,
    needs: Mapping[str, str],
) -> str:
    """Return the SHA-256 of all that the success of a stage depends on, as hex digits.

    `found` are ids of what lies at its paths and `variables` digests of values, None for what is not there; `missing`
    says what became of it without the walls it should have; `needs` are the keys of the stages it needs that have one.
    """
    walls = missing if stage.sandbox is not None or stage.untrusted else ""
    return codec.digest(
        {
            "digest": stage.digest,
            "paths": dict(found),
            "env": dict(variables),
            "platform": platform,
            "trusted": not stage.untrusted,
            "sandbox_missing": walls,
            "needs": dict(needs),
        }
    )


def reusable(document: Mapping[str, Any]) -> dict[str, StageId]:
    """Return the stages, by key, that were executed in a run and succeeded, as its manifest says. What cites another
    success is none of them: so every citation leads to where the stage was executed."""
    commands = document.get("commands")
    found = [each for each in commands[:STAGES_MAX] if _is_proof(each)] if isinstance(commands, list) else []
    return {each["reuse_key"]: StageId(str(each["id"])) for each in found}


def cited(document: Mapping[str, Any]) -> int:
    """Return of how many stages a manifest cites an earlier success."""
    commands = document.get("commands")
    return sum(bool(each.get("reused")) for each in commands[:STAGES_MAX]) if isinstance(commands, list) else 0


def _is_proof(command: Mapping[str, Any]) -> bool:
    said = command.get("reuse_key")
    if not isinstance(said, str) or not KEY.fullmatch(said) or command.get("reused"):
        return False
    answer = command.get("answer")
    passed = answer is None or answer["verdict"] == "passed"
    kinds = (StageKind.COMMAND.value, StageKind.GUARD.value)
    return passed and command["status"] == "succeeded" and command["kind"] in kinds


def holds(document: Mapping[str, Any], run_id: str, stage_key: str) -> StageId | None:
    """Return the stage of this run that a manifest proves to have succeeded with a key, None if it proves none."""
    return reusable(document).get(stage_key) if document.get("run_id") == run_id else None
