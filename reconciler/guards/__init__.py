"""Guardrails as stages: one module for each kind of check.

A stage is a guardrail by its kind, never by what it prints or is called. Each module has a core that judges values,
and `check`, which fetches them from a `Scene`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from reconciler.errors import ReconcilerError
from reconciler.order import Answer, Artifact, Order

if TYPE_CHECKING:
    from reconciler.guards.findings import Report
    from reconciler.guards.scene import Scene

KINDS = ("specs", "checklists", "diff", "docs", "patterns", "eval", "command")


def run_guard(order: Order) -> Answer:
    """Check what the stage names, print what was found, and answer."""
    from reconciler.guards.findings import EVERYWHERE, Finding, Report, answer_of, conclusion
    from reconciler.guards.scene import scene_of

    options = order.planned.guard or {}
    try:
        with scene_of(order) as scene:
            report = judge(scene, options)
    except ReconcilerError as error:
        # What could not be looked at has not passed.
        report = Report(findings=(Finding(path=EVERYWHERE, reason=f"nothing could be checked: {error}"),))
    for each in report.findings:
        print(each.sentence(), flush=True)
    dry_run = options.get("dry_run") is True
    print(conclusion(str(options["use"]), report, dry_run=dry_run), flush=True)
    answer = answer_of(str(options["use"]), report, dry_run=dry_run)
    return replace(answer, files=_left(order, report)) if report.artifacts else answer


def _left(order: Order, report: Report) -> tuple[Artifact, ...]:
    """Write the files that a guardrail leaves as evidence, without secrets, and return what proves them."""
    from pathlib import Path

    from reconciler.agents.evidence import leave
    from reconciler.order import ARTIFACT_BYTES_MAX
    from reconciler.redact import redact_text

    texts = {name: redact_text(data.decode(errors="replace")).encode() for name, data in report.artifacts.items()}
    fitting = {name: data for name, data in texts.items() if len(data) <= ARTIFACT_BYTES_MAX}
    return leave(Path(order.run_directory), order.artifacts, fitting)


def judge(scene: Scene, options: Mapping[str, object]) -> Report:
    """Check what `options` say (`parse.GUARD_OPTIONS`, and the settings of `resolve.guard_of`), and report."""
    kind = str(options["use"])
    if kind not in KINDS:
        raise ValueError(f"there is no guardrail '{kind}'")
    report: Report = import_module(f"reconciler.guards.{kind}").check(scene, options)
    return report
