"""`reconciler init`: make a repository ready. It only ever creates files; from then on they are people's."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler import codec, scaffold
from reconciler.disk import DISK
from reconciler.errors import UsageError
from reconciler.git import Repository, open_repository
from reconciler.newfiles import File, facts, ignored, refuse_bare, refuse_detours, show, to_commit, write_new
from reconciler.terminal import format_option, print_json, single_line, table

if TYPE_CHECKING:
    from reconciler.detect import Detected

TEXT_BYTES_MAX = 1024 * 1024
SKIPPED = frozenset({"node_modules", "vendor", "venv", "build", "dist", "target", "out"})


@click.command(short_help="make a repository ready")
@click.option(
    "--detect", "detecting", is_flag=True,
    help="Find out how this project is built, linted and tested (Python, Node, Go, make), and write a pipeline of it.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--yes", "-y", is_flag=True, help="Write without asking.")
@format_option
@click.pass_obj
def command(repo: str, detecting: bool, dry_run: bool, yes: bool, form: str) -> int:
    """Make a repository ready: a first request with its pipeline and task, and the schemas for an editor.

    \b
    reconciler init             # shows what it would write, and asks
    reconciler init --dry-run
    reconciler init --detect    # with a pipeline of this project's own build, lint and test

    What is there is kept as it is, so doing this twice does no harm. Nothing is committed: that is yours to do.
    """
    repository = open_repository(Path(repo))
    refuse_bare(repository)
    root = repository.directory
    detected = _detected(repository) if detecting else None
    files = _files(root, detected)
    if form == "text":
        _say(detected)
        show(root, files)
    missing = [each for each in files if each.action == "write"]
    if missing and not dry_run:
        if not _agreed(len(missing), yes=yes, can_ask=form == "text" and sys.stdin.isatty()):
            click.echo("nothing was written")
            return 0
        files = [_written(root, each) if each in missing else each for each in files]
    following = _following(repository, missing) if missing else []
    if form == "json":
        print_json(facts(root, files, following) | _detected_facts(detected))
    else:
        _conclude(files, following)
    return 0


def _files(root: Path, detected: Detected | None) -> list[File]:
    """Return the files of the skeleton, and which of them are there."""
    found = []
    for path, data in _wanted(root, detected).items():
        there = os.path.lexists(root / path)
        if not there:
            refuse_detours(root, path)
        found.append(File(path=path, data=data, action="kept" if there else "write"))
    return found


def _wanted(root: Path, detected: Detected | None) -> dict[str, bytes]:
    """Return what shall be there. The first request asks for the pipeline that was detected."""
    requests = _requests(root)
    if detected is None or not detected.stages:
        return scaffold.skeleton(requests)
    from reconciler import detect

    return {**scaffold.skeleton(requests, detect.PIPELINE_ID), detect.PIPELINE_PATH: detect.pipeline(detected.stages)}


def _detected(repository: Repository) -> Detected:
    """Look at the root and the folders directly below it, and return what they say of the project."""
    from reconciler import detect

    root = repository.directory
    folders = [each.name for each in os.scandir(root) if each.is_dir(follow_symlinks=False)]
    plain = sorted(
        each for each in folders if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", each) and each not in SKIPPED
    )
    hidden = ignored(repository, plain)
    starts = ["", *(f"{each}/" for each in plain if each not in hidden)][: detect.FOLDERS_MAX + 1]
    paths = (f"{start}{name}" for start in starts for name in detect.MARKERS)
    there = (path for path in paths if os.path.lexists(root / path))
    return detect.detect({path: _text(root / path) if Path(path).name in detect.TEXTS else "" for path in there})


def _text(path: Path) -> str:
    """Return the text of a file, "" for what is no regular file of a reasonable size."""
    try:
        return (DISK.read_bounded(path, TEXT_BYTES_MAX) or b"").decode(errors="replace")
    except codec.CodecError:
        return ""


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


def _say(detected: Detected | None) -> None:
    """Print what was detected, and why."""
    if detected is None:
        return
    from reconciler import detect

    for each in detected.notes:
        click.echo(single_line(f"warning: {each}"), err=True)
    if not detected.stages:
        click.echo("nothing of Python, Node, Go or make was detected; this is the pipeline that works anywhere\n")
        return
    rows = zip(detect.ids(detected.stages), detected.stages, strict=True)
    lines: list[tuple[str, ...]]
    lines = [(name, shlex.join(each.command), each.directory or ".", single_line(each.why)) for name, each in rows]
    click.echo(table(("STAGE", "COMMAND", "IN", "BECAUSE"), lines) + "\n")


def _detected_facts(detected: Detected | None) -> dict[str, Any]:
    """Return the same for programs."""
    if detected is None:
        return {}
    from reconciler import detect

    rows = zip(detect.ids(detected.stages), detected.stages, strict=True)
    stages = [
        {"id": name, "command": each.command, "cwd": each.directory or ".", "why": each.why} for name, each in rows
    ]
    return {"detected": stages, "notes": detected.notes}


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
