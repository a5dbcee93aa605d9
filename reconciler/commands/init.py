"""`reconciler init`: make a repository ready. It only ever creates files; from then on they are people's."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from reconciler import scaffold
from reconciler.disk import DISK
from reconciler.errors import GitFailed, TransientError, UsageError
from reconciler.git import Repository, open_repository
from reconciler.terminal import format_option, print_json, table


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file that `init` would like to be there. `action` is `write`, `written`, or `kept` if there was one."""

    path: str
    data: bytes
    action: str


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
    if repository.bare:
        raise UsageError(f"{repository.directory}: a bare repository has no files; run this in a clone of it")
    root = repository.directory
    files = _files(root)
    if form == "text":
        _show(root, files)
    missing = [each for each in files if each.action == "write"]
    if missing and not dry_run:
        if not _agreed(len(missing), yes=yes, can_ask=form == "text" and sys.stdin.isatty()):
            click.echo("nothing was written")
            return 0
        files = [_written(root, each) if each in missing else each for each in files]
    following = _following(repository, missing) if missing else []
    if form == "json":
        print_json(_document(root, files, following))
    else:
        _conclude(files, following)
    return 0


def _files(root: Path) -> list[File]:
    """Return the files of the skeleton, and which of them are there."""
    found = []
    for path, data in scaffold.skeleton(_requests(root)).items():
        there = os.path.lexists(root / path)
        if not there:
            _refuse_detours(root, path)
        found.append(File(path=path, data=data, action="kept" if there else "write"))
    return found


def _requests(root: Path) -> list[str]:
    found = (each.relative_to(root).as_posix() for each in (root / "runs.d").rglob("*.yaml"))
    return [each for each in found if not each.endswith(".approval.yaml")]


def _refuse_detours(root: Path, path: str) -> None:
    """Raise UsageError if a folder on the way to a new file is none: a link may lead out of the repository."""
    for folder in list((root / path).relative_to(root).parents)[:-1]:
        if (root / folder).is_symlink() or ((root / folder).exists() and not (root / folder).is_dir()):
            raise UsageError(f"{root / folder}: is in the way, it is no folder; remove or rename it")


def _agreed(count: int, *, yes: bool, can_ask: bool) -> bool:
    if yes:
        return True
    if not can_ask:
        raise UsageError("nothing was written; say --yes to write without being asked, or --dry-run to only look")
    return click.confirm(f"Write {count} file{'s' if count > 1 else ''}?", default=True)


def _written(root: Path, file: File) -> File:
    """Write a file, unless somebody has put one there meanwhile."""
    try:
        created = DISK.write_new(root / file.path, file.data)
    except OSError as error:
        raise TransientError(f"{root / file.path}: cannot be written: {error.strerror}") from None
    return File(path=file.path, data=file.data, action="written" if created else "kept")


def _following(repository: Repository, missing: Sequence[File]) -> list[str]:
    """Return the commands that come next."""
    ignored = _ignored(repository, [each.path for each in missing])
    added = dict.fromkeys(each.path.split("/")[0] for each in missing if each.path not in ignored)
    first = any(each.path == scaffold.REQUEST_PATH for each in missing)
    commands = [] if Path.cwd() == repository.directory else [f"cd {shlex.quote(str(repository.directory))}"]
    if added:
        message = "runs: ask for the first one" if first else "tasks and schemas for the reconciler"
        commands.append(f'git add {" ".join(added)} && git commit -m "{message}"')
    return [*commands, "reconciler reconcile --wait" if first else "reconciler plan"]


def _ignored(repository: Repository, paths: Sequence[str]) -> set[str]:
    """Return the paths that git ignores: naming one of these would make `git add` fail."""
    try:
        answer = repository.git("check-ignore", "-z", "--stdin", standard_input="\0".join(paths).encode())
    except GitFailed as error:
        if error.exit_status == 1:  # git check-ignore: none of them is
            return set()
        raise
    return set(answer.split("\0"))


# ------------------------------------------------------------------------------------------------ output


def _show(root: Path, files: Sequence[File]) -> None:
    click.echo(f"In {root}:")
    click.echo(table(("ACTION", "FILE", "BYTES"), [(each.action, each.path, _size(each)) for each in files]))


def _size(file: File) -> str:
    return "-" if file.action == "kept" else str(len(file.data))


def _document(root: Path, files: Sequence[File], following: Sequence[str]) -> dict[str, Any]:
    sizes = [None if each.action == "kept" else len(each.data) for each in files]
    rows = [{"path": each.path, "action": each.action, "bytes": size} for each, size in zip(files, sizes, strict=True)]
    return {"directory": str(root), "files": rows, "next": following}


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
