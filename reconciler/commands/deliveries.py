"""`reconciler deliveries`: what is owed to other places, what was given up, and what was delivered last."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from reconciler.errors import UsageError
from reconciler.terminal import format_option, print_json, single_line, table
from reconciler.world import World, open_world

SHOWN_MAX = 20
ALL = "all"


@click.command(short_help="show what is owed to other places, and revive what was given up")
@click.option("--retry", metavar="ID", help=f"Deliver a dead letter after all, with the next pass; '{ALL}' for all.")
@format_option
@click.pass_obj
def command(repo: str, retry: str | None, form: str) -> int:
    """Show deliveries: what is owed and was not delivered yet, dead letters and why, and the newest receipts.

    \b
    reconciler deliveries
    reconciler deliveries --retry 0001-diagnostics-1a2b3c4d.1   # by its id, as the list shows it
    reconciler deliveries --retry all && reconciler reconcile

    Uploads and notifications of runs are tried by passes, again and again with growing pauses; what is refused, or
    fails too often, is a dead letter. Each try is told in out/<task>/cloud-sync/audit.jsonl.
    """
    world = open_world(Path(repo))
    if retry is not None:
        return _revive(world, retry)
    found = _document(world)
    print_json(found) if form == "json" else _show(found)
    return 0


def _revive(world: World, wanted: str) -> int:
    from reconciler.outlets.box import boxes

    found = [(box, each) for box in boxes(world.repository.state, world.disk) for each in box.dead()]
    chosen = [(box, each) for box, each in found if wanted in (ALL, each.owed.key)]
    if not chosen and wanted != ALL:
        raise UsageError(f"there is no dead letter '{wanted}'; see: reconciler deliveries")
    for box, each in chosen:
        box.revive(each)
        click.echo(f"{each.owed.key} is owed to {box.name} again; the next pass delivers it")
    if not chosen:
        click.echo("no dead letters")
    return 0


def _document(world: World) -> dict[str, Any]:
    from reconciler.outlets.box import listed

    return dict(listed(world.repository.state, world.disk, SHOWN_MAX))


def _show(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    if not any(found.values()):
        click.echo("nothing is owed, and nothing was delivered")
        return
    rows = [
        *(_row("owed", each, _when(each)) for each in found["open"]),
        *(_row("dead", each, each["reason"]) for each in found["dead"]),
        *(_row("delivered", each, each["said"]) for each in found["done"]),
    ]
    click.echo(table(("STATE", "ID", "OUTLET", "TRIES", "SAID"), rows))


def _row(state: str, delivery: Mapping[str, Any], said: str) -> tuple[str, ...]:
    """Return the line of the table that tells a delivery."""
    cells = (state, delivery["key"], delivery["outlet"], delivery["tries"], said)
    return tuple(single_line(str(each)) for each in cells)


def _when(owed: Mapping[str, Any]) -> str:
    """Return why something was not delivered yet, and when it is tried again."""
    left_s = owed["due_at_s"] - time.time()
    when = f"in {left_s:.0f} s" if left_s > 0 else "with the next pass"
    return f"{owed['reason']}; again {when}" if owed["reason"] else when
