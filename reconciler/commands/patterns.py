"""`reconciler patterns`: rules about code, held against the files of this checkout; and their fixes, applied."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reconciler import __version__
from reconciler.errors import ContentError, UsageError
from reconciler.model import Severity
from reconciler.terminal import format_option, print_json, single_line

if TYPE_CHECKING:
    from reconciler.git import Repository
    from reconciler.guards.patterns import Look
    from reconciler.model import Problem
    from reconciler.newfiles import File

F = TypeVar("F", bound=Callable[..., Any])


@click.group(short_help="hold rules about code against this checkout, or apply their fixes")
def command() -> None:
    """Hold rules about code against this checkout, or apply their fixes.

    A rule is a file, patterns/ID.yaml, in the language of ast-grep, which the extra `patterns` installs.

    \b
    reconciler patterns check                # all rules, all files
    reconciler patterns check src tests      # files, or what is below folders
    reconciler patterns apply --dry-run      # what the fixes would change, as a patch
    reconciler patterns apply                # change it

    The rules are those that lie here. As a stage of a run, `guard: patterns`, they are those of the run's commit.
    """


def options(function: F) -> F:
    """Add what both take: what is looked at, and by which rules."""
    for each in (
        click.option("--rules", metavar="DIR", help="The folder of the rules. Default: as settings say."),
        click.option("--rule", "chosen", multiple=True, metavar="ID", help="Use this rule only; repeat for more."),
        click.argument("paths", nargs=-1),
    ):  # fmt: skip
        function = each(function)
    return function


@command.command("check", short_help="say what rules about code find")
@options
@click.option("--strict", is_flag=True, help="Let warnings fail, too.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "sarif"]), default="text", show_default=True,
    help="Text for people, JSON for programs, SARIF for code scanning.",
)  # fmt: skip
@click.pass_obj
def check(
    repo: str, paths: tuple[str, ...], rules: str | None, chosen: tuple[str, ...], strict: bool, form: str
) -> int:
    """Say what rules about code find, with file, line and column.

    \b
    reconciler patterns check
    reconciler patterns check src --rule no-print
    reconciler patterns check --format sarif > patterns.sarif

    Exit codes: 0 nothing found, or warnings only, 1 something found (with --strict: or warnings), 2 wrong usage,
    75 ast-grep is not installed.
    """
    from reconciler import patterns

    _, found = _look(Path(repo), paths, rules, chosen)
    problems = [*found.problems, *patterns.problems_of(found.matches)]
    _print(form, found, problems)
    return 1 if any(strict or each.severity is Severity.ERROR for each in problems) else 0


@command.command("apply", short_help="apply the fixes of rules about code")
@options
@click.option("--dry-run", is_flag=True, help="Show what would be changed, as a patch, and change nothing.")
@format_option
@click.pass_obj
def apply(
    repo: str, paths: tuple[str, ...], rules: str | None, chosen: tuple[str, ...], dry_run: bool, form: str
) -> int:
    """Apply the fixes of rules about code. A file is replaced as a whole, and only if nobody has changed it meanwhile.

    \b
    reconciler patterns apply --dry-run | git apply --stat
    reconciler patterns apply src --rule no-print

    Of two pieces of code that overlap one is changed; apply again for the other. Nothing is committed. Exit codes:
    0 done, or nothing to do, 1 a rule is wrong, then nothing is changed, 2 wrong usage, 75 ast-grep is not installed.
    """
    from reconciler.newfiles import write_all

    root, found = _look(Path(repo), paths, rules, chosen)
    if found.problems:
        raise ContentError("\n".join(each.sentence() for each in found.problems))
    files, left = _rewritten(found)
    done = files if dry_run or not files else write_all(root, files)
    _tell(done, left, dry_run=dry_run, form=form)
    return 0


# ------------------------------------------------------------------------------------------------ looking


def _look(directory: Path, words: Sequence[str], rules: str | None, chosen: Sequence[str]) -> tuple[Path, Look]:
    """Hold the rules against the files of the checkout, and return its root with what was found."""
    from reconciler.commands.guard import settings_of
    from reconciler.git import open_repository
    from reconciler.guards.patterns import look, rule_paths
    from reconciler.guards.scene import scene_at
    from reconciler.newfiles import refuse_bare

    repository = open_repository(directory)
    refuse_bare(repository)
    root = repository.directory
    base = directory.resolve()
    wanted = [inside(root, base, word) for word in words]
    with scene_at(repository, head_of(repository), root, root) as scene:
        where = inside(root, base, rules) if rules is not None else settings_of(scene).guards.patterns.rules
        there = rule_paths(scene.paths, where)
        contents = _chosen(scene.read(there), chosen)
        if not contents:
            raise ContentError(f"{where}/: there is no rule; write one, for example {where}/no-print.yaml")
        paths = [each for each in scene.paths if not wanted or any(below(each, one) for one in wanted)]
        return root, look(scene, contents, paths)


def head_of(repository: Repository) -> str:
    """Return the commit that is checked out; the empty tree where there is none yet."""
    return repository.look_up(["HEAD^{commit}"])[0] or repository.empty_tree()


def _chosen(contents: Mapping[str, bytes | None], chosen: Sequence[str]) -> dict[str, bytes | None]:
    """Return the rules that were named, all if none was. Raise UsageError for one that is not there."""
    ids = {Path(path).stem: path for path in contents}
    for each in chosen:
        if each not in ids:
            raise UsageError(f"--rule {each}: there is no such rule; there are {', '.join(sorted(ids)[:10]) or 'none'}")
    return {path: data for path, data in contents.items() if not chosen or Path(path).stem in chosen}


def inside(root: Path, base: Path, word: str) -> str:
    """Return a path as it is spelled from the root. Raise UsageError for one that lies outside."""
    path = os.path.relpath(os.path.normpath(base / word), root.resolve())
    if path.split("/")[0] == "..":
        raise UsageError(f"{word}: is not in the repository {root}")
    if not (root / path).exists():
        raise UsageError(f"{word}: no such file or directory")
    return path


def below(path: str, folder: str) -> bool:
    return folder in (".", path) or path.startswith(f"{folder}/")


def _rewritten(found: Look) -> tuple[list[File], int]:
    """Return the files that fixes change, and how many fixes are left because they overlap others."""
    from reconciler import patterns
    from reconciler.newfiles import File

    files, left = [], 0
    for path in sorted({each.path for each in found.matches if each.replacement is not None}):
        before = found.files[path]
        after, more = patterns.rewritten(before, [each for each in found.matches if each.path == path])
        left += more
        if after != before:
            files.append(File(path=path, data=after, action="update", before=before))
    return files, left


# ------------------------------------------------------------------------------------------------ output


def _print(form: str, found: Look, problems: Sequence[Problem]) -> None:
    if form == "json":
        print_json({"rules": len(found.rules), "files": len(found.files), "problems": problems})
    elif form == "sarif":
        from reconciler import sarif

        print_json(sarif.report(problems, __version__))
    else:
        for each in problems:
            warning = "warning: " if each.severity is Severity.WARNING else ""
            place = f"{each.path}:{each.line}:{each.column}" if each.line else each.path
            cure = f"; {each.cure}" if each.cure else ""
            click.echo(single_line(f"{place}: {warning}{each.reason}{cure} [{each.rule}]"))
        click.echo(f"{_counted(len(found.rules), 'rule')}, {_counted(len(found.files), 'file')}: {len(problems)} found")


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _tell(files: Sequence[File], left: int, *, dry_run: bool, form: str) -> None:
    from reconciler.newfiles import patch

    if form == "json":
        rows = [
            {"path": each.path, "action": each.action, **({"patch": patch(each)} if dry_run else {})} for each in files
        ]
        print_json({"files": rows, "left": left})
        return
    if dry_run:
        click.echo("".join(map(patch, files)), nl=False)
    for each in files if not dry_run else ():
        click.echo(single_line(f"{each.action} {each.path}"))
    more = f"; {_counted(left, 'fix')} overlap others, apply again" if left else ""
    # A patch is alone on standard output.
    click.echo(f"{_counted(len(files), 'file')} {'would change' if dry_run else 'changed'}{more}", err=dry_run)
