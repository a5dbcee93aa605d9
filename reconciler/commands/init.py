"""`reconciler init`: make a repository ready. It only ever creates files; from then on they are people's."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from reconciler import scaffold
from reconciler.errors import UsageError
from reconciler.git import Repository, open_repository
from reconciler.newfiles import File, facts, ignored, refuse_bare, refuse_detours, show, to_commit, write_new
from reconciler.terminal import format_option, print_json


@click.command(short_help="make a repository ready")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--yes", "-y", is_flag=True, help="Write without asking.")
@format_option
@click.pass_obj
def command(repo: str, dry_run: bool, yes: bool, form: str) -> int:
    """Make a repository ready: a first request with its pipeline and task, and the schemas for an editor.

    \b
    reconciler init             # shows what it would write, and asks
    reconciler init --dry-run

    What is there is kept as it is, so doing this twice does no harm. Nothing is committed: that is yours to do.
    """
    repository = open_repository(Path(repo))
    refuse_bare(repository)
    root = repository.directory
    files = _files(root)
    if form == "text":
        show(root, files)
    missing = [each for each in files if each.action == "write"]
    if missing and not dry_run:
        if not _agreed(len(missing), yes=yes, can_ask=form == "text" and sys.stdin.isatty()):
            click.echo("nothing was written")
            return 0
        files = [_written(root, each) if each in missing else each for each in files]
    following = _following(repository, missing) if missing else []
    if form == "json":
        print_json(facts(root, files, following))
    else:
        _conclude(files, following)
    return 0


def _files(root: Path) -> list[File]:
    """Return the files of the skeleton, and which of them are there."""
    found = []
    for path, data in scaffold.skeleton(_requests(root)).items():
        there = os.path.lexists(root / path)
        if not there:
            refuse_detours(root, path)
        found.append(File(path=path, data=data, action="kept" if there else "write"))
    return found


def _requests(root: Path) -> list[str]:
    found = (each.relative_to(root).as_posix() for each in (root / "runs.d").rglob("*.yaml"))
    return [each for each in found if not each.endswith(".approval.yaml")]


def _written(root: Path, file: File) -> File:
    """Write a file, unless somebody has put one there meanwhile."""
    return replace(file, action="written" if write_new(root, file) else "kept")


def _agreed(count: int, *, yes: bool, can_ask: bool) -> bool:
    if yes:
        return True
    if not can_ask:
        raise UsageError("nothing was written; say --yes to write without being asked, or --dry-run to only look")
    return click.confirm(f"Write {count} file{'s' if count > 1 else ''}?", default=True)


def _following(repository: Repository, missing: Sequence[File]) -> list[str]:
    """Return the commands that come next."""
    left_out = ignored(repository, [each.path for each in missing])
    added = dict.fromkeys(each.path.split("/")[0] for each in missing if each.path not in left_out)
    first = any(each.path == scaffold.REQUEST_PATH for each in missing)
    message = "runs: ask for the first one" if first else "tasks and schemas for the reconciler"
    commands = to_commit(repository, list(added), message)
    return [*commands, "reconciler reconcile --wait" if first else "reconciler plan"]


# ------------------------------------------------------------------------------------------------ output


def _conclude(files: Sequence[File], following: Sequence[str]) -> None:
    count = sum(each.action == "written" for each in files)
    if not following:
        click.echo("nothing to write: everything is there")
    elif count:
        click.echo(f"{count} file{'s' if count > 1 else ''} written. Next:")
        for each in following:
            click.echo(f"  {each}")
    else:
        click.echo("nothing was written")
