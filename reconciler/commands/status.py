"""`reconciler status`: all runs, or one."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import click

from reconciler import completing
from reconciler.aggregate import duration
from reconciler.explain import Row, condition_line
from reconciler.model import Rejection, RunId
from reconciler.survey import Survey, find_run, survey
from reconciler.terminal import age, coloured, format_option, print_json, single_line, table
from reconciler.world import World, open_world

SETTLED_SHOWN = 20
HEADER = ("PHASE", "RUN", "STAGE", "BEAT", "ATTEMPTS", "TOOK", "EVIDENCE")


@click.command(short_help="show runs: phase, stage, heartbeat, attempts, evidence")
@click.argument("run", required=False, shell_complete=completing.runs)
@click.option("--all", "everything", is_flag=True, help=f"All settled runs, not only the newest {SETTLED_SHOWN}.")
@click.option("--watch", is_flag=True, help="Show again every two seconds, until Ctrl-C.")
@format_option
@click.pass_obj
def command(repo: str, run: str | None, everything: bool, watch: bool, form: str) -> int:
    """Show what is under way, what waits and why, what was rejected, and the newest results.

    \b
    reconciler status                  # everything at a glance
    reconciler status 0001-diagnostics # one run (its id, or the name of its request)
    reconciler status --watch

    Nothing is written. A run that has not been launched is `absent`; the reason stands below the table.
    """
    world = open_world(Path(repo))
    while True:
        seen = survey(world)
        shown = _shown(world, seen, run, everything)
        dead = _dead_letters(world)
        if form == "json":
            print_json({**_document(seen, shown), "dead_letters": dead})
        else:
            _show(seen, shown, one=run is not None, clear=watch)
            _show_dead_letters(dead if run is None else [])
        if not watch:
            return 0
        time.sleep(2)


def _shown(world: World, seen: Survey, run: str | None, everything: bool) -> Sequence[Row]:
    if run is not None:
        wanted: RunId = find_run(seen, run)
        return [each for each in seen.rows if each.run_id == wanted]
    settled = [each for each in seen.rows if each.evidence]
    limit = len(settled) if everything else SETTLED_SHOWN
    return [each for each in seen.rows if not each.evidence] + settled[:limit]


def _document(seen: Survey, shown: Sequence[Row]) -> dict[str, object]:
    return {
        "branch": seen.seen.branch,
        "tip": seen.seen.tip,
        "runs": shown,
        "settled_total": sum(bool(each.evidence) for each in seen.rows),
        "rejections": seen.seen.desired.rejections,
        "conditions": seen.conditions,
        "remote_asked_s": seen.asked_s,
    }


def _show(seen: Survey, shown: Sequence[Row], *, one: bool, clear: bool) -> None:
    if clear and os.environ.get("TERM") != "dumb":
        click.clear()
    if shown:
        click.echo(table(HEADER, [_cells(each) for each in shown]))
    for row in shown:
        if row.reason:
            click.echo(single_line(f"{row.run_id}: {row.reason}"))
    if one:
        return
    left_out = len(seen.rows) - len(shown)
    if left_out:
        click.echo(f"and {left_out} settled run{'s' * (left_out != 1)} more (--all shows them)")
    _show_rejections(seen.seen.desired.rejections)
    for name, condition in seen.conditions.items():
        click.echo(single_line(condition_line(name, condition)))
    if seen.asked_s is not None:
        click.echo(f"as the remote was {age(seen.asked_s)} ago")
    if not seen.rows and not seen.seen.desired.rejections:
        click.echo("no runs yet: runs.d/ holds no request at the tip")


def _dead_letters(world: World) -> list[dict[str, object]]:
    """Return what was given up to deliver; where nothing ever was to be delivered, nothing is loaded to look."""
    if not world.disk.exists(world.repository.state / "outlets"):
        return []
    from reconciler.outlets.box import letters

    return letters(world.repository.state, world.disk)


def _show_dead_letters(dead: Sequence[dict[str, object]]) -> None:
    for each in dead[:SETTLED_SHOWN]:
        click.echo(single_line(f"not delivered: {each['key']} to {each['outlet']}: {each['reason']}"))
    if dead:
        click.echo("reconciler deliveries --retry all  # delivers what was given up after all")


def _show_rejections(rejections: Sequence[Rejection]) -> None:
    for rejection in rejections:
        for problem in rejection.problems:
            click.echo(f"{coloured('rejected')}  {single_line(problem.sentence())}")


def _cells(row: Row) -> tuple[str, ...]:
    progress = f"{row.stage or '-'} {row.done}/{row.total}" if row.total and not row.evidence else row.stage or "-"
    took = duration(row.duration_s) if row.duration_s is not None else "-"
    beat = age(row.heartbeat_age_s)
    return (coloured(row.phase.value), row.run_id, progress, beat, str(row.attempts), took, row.evidence[:12] or "-")
