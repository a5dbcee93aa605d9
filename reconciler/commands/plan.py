"""`reconciler plan`: what a pass would do now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from reconciler import codec
from reconciler.actions import Action, Launch, Publish, Release, Wait
from reconciler.manifest import command_text
from reconciler.model import Plan, PlannedStage
from reconciler.survey import survey
from reconciler.terminal import format_option, print_json, single_line
from reconciler.world import open_world


@click.command(short_help="show what a pass would do now, and why; write nothing")
@format_option
@click.pass_obj
def command(repo: str, form: str) -> int:
    """Show what a pass would do now and why, without writing anything.

    \b
    reconciler plan
    reconciler plan --format json | jq '.actions[].verb'

    Exit code 1 if something at the tip was rejected.
    """
    found = survey(open_world(Path(repo)), complete=True)
    rejections = found.seen.desired.rejections
    if form == "json":
        print_json({
            "branch": found.seen.branch,
            "tip": found.seen.tip,
            "actions": [_document(each) for each in found.actions],
            "rejections": rejections,
        })  # fmt: skip
        return 1 if rejections else 0
    for action in found.actions:
        click.echo(single_line(sentence(action)))
        if isinstance(action, Launch):
            _show_stages(action.plan)
    for rejection in rejections:
        for problem in rejection.problems:
            click.echo(single_line(f"reject {problem.sentence()}"))
    if not found.actions and not rejections:
        click.echo("nothing to do: every request at the tip is proven")
    return 1 if rejections else 0


def sentence(action: Action) -> str:
    """Return an action in words."""
    match action:
        case Launch(plan=plan):
            return (
                f"launch {plan.run_id}: pipeline '{plan.pipeline_id}' of task '{plan.task_id}' "
                f"at {plan.commit[:12]} in {_place(plan)}"
            )
        case Release(ref=ref, reason=reason):
            return f"release {ref}: {reason}"
        case Publish(runs=runs):
            return f"publish the evidence of {', '.join(run_id for _, run_id in runs)}"
        case Wait(subject=subject, reason=reason):
            return f"wait {subject}: {reason}"
        case _:
            reason = getattr(action, "reason", "")
            verb = type(action).__name__.lower()
            return f"{verb} {action.run_id}" + (f": {reason}" if reason else "")


def _place(plan: Plan) -> str:
    return {"worktree": "a worktree", "checkout": "this checkout", "empty": "an empty directory"}[plan.workspace.value]


def _show_stages(plan: Plan) -> None:
    for stage in plan.stages:
        needs = f" (needs {', '.join(stage.needs)})" if stage.needs else ""
        skipped = "" if stage.selected else " - not needed by the target"
        click.echo(single_line(f"  {stage.index + 1:2d}. {stage.id}{needs}: {command_text(stage)[:80]}{skipped}"))
        for line in _notes(stage):
            click.echo(single_line(f"      {line}"))


def _notes(stage: PlannedStage) -> list[str]:
    """Return what else is to be known of a stage before it is started."""
    paths = ", ".join(each.path for each in stage.untrusted)
    said = [f"no secrets and no network: nobody who is trusted signed {paths}"] if paths else []
    cited = stage.cited
    return [*said, f"not executed: it succeeded in {cited.run_id} on the same inputs"] if cited is not None else said


def _document(action: Action) -> dict[str, Any]:
    facts: dict[str, Any] = codec.dump(action)
    if isinstance(action, Launch):
        facts = {"run_id": action.plan.run_id, "task_id": action.plan.task_id, "plan": facts["plan"]}
    return {"verb": type(action).__name__.lower(), "sentence": sentence(action), **facts}
