"""`reconciler report`: the pages of what a commit proves, as a static site."""

from __future__ import annotations

from pathlib import Path

import click

from reconciler.errors import UsageError
from reconciler.terminal import format_option, print_json

RUNS_SHOWN = 1_000


@click.command(short_help="write the evidence of a commit as a static site")
@click.option("--output", required=True, metavar="DIR", help="Where to: an empty directory, or an earlier report.")
@click.option("--ref", metavar="REF", help="Whose evidence (default: the tip of the branch that evidence goes to).")
@click.option(
    "--runs-max", type=click.IntRange(1, 10_000), default=RUNS_SHOWN, show_default=True, metavar="N",
    help="How many runs, the newest first; the pages say what is left out.",
)  # fmt: skip
@click.option("--title", metavar="TEXT", help="What the site is called (default: the name of the repository).")
@format_option
@click.pass_obj
def command(repo: str, output: str, ref: str | None, runs_max: int, title: str | None, form: str) -> int:
    """Write the runs, stages, logs and checklists of a commit as a static site: for Pages, an artifact, or a disk.

    \b
    reconciler report --output site
    reconciler report --output site --ref v1.4 --title "Release 1.4"
    reconciler report --output public && xdg-open public/index.html

    All links are relative, so it can be opened from a file or served below any path. The same commit gives the same
    bytes; a report into the directory of an earlier one writes only what has changed. A directory that is not empty and
    not a report's is refused. Logs are what is committed of them, redacted. What waits now is no evidence: see
    reconciler serve, or reconciler status.
    """
    from reconciler.world import open_world

    _need_pages()
    from reconciler.report import report
    from reconciler.survey import commit_of

    world = open_world(Path(repo))
    commit, cache = commit_of(world, ref)
    name = title or world.checkout.name or "runs"
    found = report(world, commit, Path(output).absolute(), runs_max, name[:100], cache)
    if form == "json":
        print_json(found)
        return 0
    shown = (
        f"{found.runs} run{'s' * (found.runs != 1)}"
        if found.runs == found.runs_total
        else f"the newest {found.runs} of {found.runs_total} runs"
    )
    click.echo(f"{output}/index.html: {shown} as commit {commit[:12]} proves them")
    files = f"{found.files_written} file{'s' * (found.files_written != 1)}"
    click.echo(f"{files} written, {found.files_removed} removed", err=True)
    return 0


def _need_pages() -> None:
    """Raise UsageError, with the cure, where what makes pages is not installed."""
    from importlib.util import find_spec

    if find_spec("jinja2") is None:
        raise UsageError("pages need the extra 'serve'; run: python3 -m pip install 'gitops-reconciler[serve]'")
