"""`reconciler guard`: a guardrail on the checkout, here and now."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler.errors import ContentError, GitFailed, UsageError
from reconciler.guards import KINDS
from reconciler.model import Settings
from reconciler.terminal import format_option, print_json, single_line

if TYPE_CHECKING:
    from reconciler.guards.scene import Scene

SETTINGS_PATH = "reconciler.yaml"


@click.command(
    short_help="run a guardrail on this checkout, here and now",
    context_settings={"allow_interspersed_args": True},
)
@click.argument("kind", type=click.Choice(KINDS), metavar="KIND")
@click.argument("words", nargs=-1, metavar="[-- COMMAND...]")
@click.option("--dry-run", is_flag=True, help="Report and end with 0, whatever is found; that is no pass.")
@click.option("--all", "everything", is_flag=True, help="Of specs: judge every spec, not those of the change alone.")
@click.option("--since", metavar="REV", help="Of specs and diff: where the change begins, such as main or v1.2.")
@click.option("--files-max", type=click.IntRange(min=0), metavar="N", help="Of diff: how many files. Default: 25.")
@click.option("--lines-max", type=click.IntRange(min=0), metavar="N", help="Of diff: how many lines. Default: 800.")
@click.option(
    "--path", "paths", multiple=True, metavar="GLOB", help="Of all but checklists and command: files to look at."
)
@click.option("--exclude", multiple=True, metavar="GLOB", help="Of all but checklists and command: files to leave out.")
@click.option("--strict", is_flag=True, help="Of checklists and patterns: let warnings fail, too.")
@format_option
@click.pass_obj
def command(repo: str, /, kind: str, words: tuple[str, ...], form: str, **said: Any) -> int:
    """Run a guardrail on the files of this checkout, as a stage with 'guard: KIND' runs it on those of a run.

    KIND is specs, checklists, diff, docs, patterns, eval or command. The change that is judged is what is not
    committed here; if there is nothing of that, the last commit.

    \b
    reconciler guard specs --all             # every spec was reviewed lately
    reconciler guard diff --since main       # this branch is small enough to be reviewed
    reconciler guard docs                    # links, paths and commands in documents exist
    reconciler guard patterns                # no committed rule about code finds anything
    reconciler guard eval                    # the committed scenarios come out as they say
    reconciler guard checklists --strict     # every ticked item is proven by evidence
    reconciler guard command -- make lint    # a check of your own

    Exit codes: 0 passed, or a dry run, 1 failed, 2 wrong usage.
    """
    options = options_of(kind, words, said)
    # Data is alone on standard output: what a command prints goes elsewhere then.
    found = _report(Path(repo), options, sys.stderr.fileno() if form == "json" else None)
    dry_run = "dry_run" in options
    from reconciler.guards.findings import answer_of, conclusion

    if form == "json":
        print_json(answer_of(kind, found, dry_run=dry_run))
    else:
        for each in found.findings:
            click.echo(single_line(each.sentence()))
        click.echo(conclusion(kind, found, dry_run=dry_run))
    return 1 if found.failed and not dry_run else 0


def options_of(kind: str, words: tuple[str, ...], said: Mapping[str, Any]) -> Mapping[str, object]:
    """Return the options of a guardrail, held against what a pipeline may say. Raise UsageError for what it may not."""
    from reconciler.contracts import Contracts
    from reconciler.model import Rejection, Source
    from reconciler.parse import parse_pipeline

    if kind == "command" and not words:
        raise UsageError("guard 'command' has no command; for example: reconciler guard command -- make lint")
    known = {"all": said["everything"], **{key: each for key, each in said.items() if key != "everything"}}
    options = {key: each for key, each in known.items() if each not in (None, False, ())}
    guard = {"use": kind, **options, **({"command": words} if words else {})}
    pipeline = json.dumps({"stages": [{"id": "guard", "guard": guard}]}, ensure_ascii=False)
    parsed = parse_pipeline(pipeline.encode(errors="replace"), Source(path="pipelines/guard.yaml"), Contracts())
    if isinstance(parsed, Rejection):
        first = parsed.problems[0]
        raise UsageError(f"{first.reason}; {first.cure or 'see reconciler guard --help'}")
    return parsed.stages[0].guard or {}


def _report(directory: Path, options: Mapping[str, object], output: int | None) -> Any:
    from reconciler.git import open_repository
    from reconciler.guards import judge
    from reconciler.guards.scene import scene_at
    from reconciler.resolve import guard_of

    repository = open_repository(directory)
    if repository.bare:
        raise UsageError(f"{directory}: a bare repository has no checkout; run it in a clone")
    try:
        commit = repository.git("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except GitFailed:
        raise ContentError("there is no commit here yet; commit something first") from None
    place = repository.directory
    with scene_at(repository, commit, place, place) as scene:
        scene.output = output
        return judge(scene, guard_of(options, settings_of(scene)))


def settings_of(scene: Scene) -> Settings:
    """Return the settings as they lie in the checkout. Raise ContentError if they are wrong."""
    from reconciler.contracts import Contracts
    from reconciler.model import Rejection, Source
    from reconciler.settings import parse_settings

    found = parse_settings(scene.read([SETTINGS_PATH])[SETTINGS_PATH], Source(path=SETTINGS_PATH), Contracts())
    if isinstance(found, Rejection):
        raise ContentError(found.problems[0].sentence())
    return found
