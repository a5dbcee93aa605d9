"""`reconciler plan`: what a pass would do now, and what merging a pull request would do."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler import __version__, codec, sarif
from reconciler.actions import Action, Launch, Publish, Release, Wait
from reconciler.errors import UsageError
from reconciler.git import BLOB_BYTES_MAX
from reconciler.manifest import whole_command
from reconciler.model import Plan, PlannedStage, Request, Source
from reconciler.preview_text import command_shown
from reconciler.terminal import print_json, single_line
from reconciler.world import World, open_world

if TYPE_CHECKING:
    from reconciler.preview import Preview


@click.command(short_help="show what a pass, or merging a pull request, would do; write nothing")
@click.option("--base", metavar="REF", help="Show what merging into this would do (default: the settings' branch).")
@click.option("--head", metavar="REF", help="Show what merging this would do (default: HEAD).")
@click.option("--write", is_flag=True, help="Write the digest of each run's plan into its request, key 'plan'.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "markdown", "sarif", "github"]), default="text",
    show_default=True,
    help="Text for people, JSON for programs; of a merge: Markdown for a comment, SARIF, annotations for a log.",
)  # fmt: skip
@click.pass_obj
def command(repo: str, base: str | None, head: str | None, write: bool, form: str) -> int:
    """Show what a pass would do now and why; with --base or --head, what merging a pull request would do. Nothing of
    either side is executed, and nothing is written without --write.

    \b
    reconciler plan
    reconciler plan --format json | jq '.actions[].verb'
    reconciler plan --base origin/main --head HEAD
    reconciler plan --format markdown > comment.md    # of a merge, like SARIF and annotations
    reconciler plan --write && git commit -am "runs: the plan that was reviewed"

    Exit codes: 0 nothing wrong, 1 something at the tip was rejected, or the change brings problems or cannot be merged,
    2 wrong usage, or too little of the history is here.
    """
    if base is not None or head is not None or write or form in ("markdown", "sarif", "github"):
        return _of_merge(Path(repo), base, head, write, form)
    return _of_pass(repo, form)


def _of_pass(repo: str, form: str) -> int:
    """Print what a pass would do, and return the exit code."""
    from reconciler.survey import survey

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


def _of_merge(directory: Path, base: str | None, head: str | None, write: bool, form: str) -> int:
    """Print what merging would do, and return the exit code."""
    from reconciler.proposal import propose

    if write and head is not None:
        raise UsageError("--write writes into the working tree, so it goes with HEAD; leave --head out")
    world = open_world(directory)
    found = propose(world, base, head or "HEAD")
    if write:
        found = _written(world, found)
    _print(found, form)
    return 1 if found.fails else 0


def _print(found: Preview, form: str) -> None:
    match form:
        case "json":
            print_json(found)
        case "sarif":
            print_json(sarif.report(found.problems, __version__))
        case "markdown":
            from reconciler.preview_markdown import markdown

            click.echo(markdown(found))
        case "github":
            from reconciler.annotations import commands

            for each in commands(found.problems):
                click.echo(single_line(each))
        case _:
            from reconciler.preview_text import lines

            for each in lines(found):
                click.echo(each)


# ------------------------------------------------------------------------------------------------ --write


def _written(world: World, found: Preview) -> Preview:
    """Write the digest of each run's plan into its request in the working tree, and into those that HEAD holds and that
    lack theirs; return what is wrong without what that cures."""
    if world.repository.bare:
        raise UsageError("--write needs a working tree, and this clone has none")
    from reconciler.proposal import unreviewed

    plans = {**unreviewed(world), **{each.path: each.plan for each in found.runs if each.named != each.plan}}
    texts = {path: _rewritten(world, path, plan) for path, plan in plans.items()}
    for path, text in texts.items():
        world.disk.write_atomic(world.repository.directory / path, text)
        click.echo(single_line(f"wrote 'plan: {plans[path]}' into {path}; commit it"), err=True)
    if not plans:
        click.echo("no request needs its plan written; is --base the branch it shall be merged into?", err=True)
    cured = {(path, "unreviewed-plan") for path in plans}
    return replace(found, problems=tuple(each for each in found.problems if (each.path, each.rule) not in cured))


def _rewritten(world: World, name: str, plan: str) -> bytes:
    """Return a request with the digest of its plan. Raise UsageError if it is not as HEAD has it, or cannot be."""
    from reconciler import named_plan, parse

    path, repository = world.repository.directory / name, world.repository
    [entry] = repository.files_at("HEAD", [name]) or (None,)
    committed = next(repository.blobs([entry.oid]))[1] if entry is not None else None
    there = None
    with contextlib.suppress(OSError, codec.CodecError):
        there = world.disk.read_bounded(path, BLOB_BYTES_MAX)
    if path.is_symlink() or committed is None or there != committed:
        raise UsageError(f"{name}: the working tree does not hold it as HEAD does; commit it first")
    source = Source(path=name)
    text = named_plan.with_plan(committed, plan)
    was, now = (parse.parse_request(each, source, world.contracts) for each in (committed, text))
    if not isinstance(was, Request) or replace(was, plan=plan) != now:
        raise UsageError(f"{name}: it is not written key by key; write it yourself: plan: {plan}")
    return text


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
        does = command_shown(whole_command(stage))
        click.echo(single_line(f"  {stage.index + 1:2d}. {stage.id}{needs}: {does}{skipped}"))
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
