"""`reconciler why`: the chain of reasons behind a run or a request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from reconciler import completing, logbook
from reconciler.errors import UsageError
from reconciler.explain import condition_line, reasons
from reconciler.model import Rejection, RunId
from reconciler.survey import Survey, find_run, survey
from reconciler.terminal import format_option, print_json, single_line
from reconciler.world import World, open_world

IN_THE_WAY = ("remote", "control plane", "engines")
"""What keeps passes from launching, resuming and publishing."""


@click.command(short_help="explain a run or a request: waiting for what, rejected where")
@click.argument("run", shell_complete=completing.runs)
@format_option
@click.pass_obj
def command(repo: str, run: str, form: str) -> int:
    """Explain why a run is where it is: who asked for it, what happened, what it waits for, what comes next.

    \b
    reconciler why 0001-diagnostics
    reconciler why runs.d/0001-diagnostics.yaml
    """
    world = open_world(Path(repo))
    found = survey(world)
    rejection = _rejection(found, run)
    if rejection is not None:
        said = [f"{rejection.path} was rejected", *(each.sentence() for each in rejection.problems)]
        run_id = None
    else:
        run_id = find_run(found, run)
        blocked = found.conditions.get("publish", {}).get("reason", "")
        document, seen = _document(world, found, run_id), found.seen
        said = reasons(
            run_id,
            seen.desired,
            seen.actual,
            found.actions,
            seen.now,
            document.get("resume_events", ()),
            blocked,
            _of_stages(document),
            _hindrances(found),
        )
    if form == "json":
        print_json({"run_id": run_id, "reasons": said})
    else:
        for line in said:
            click.echo(single_line(line))
    return 0


def _hindrances(found: Survey) -> list[str]:
    """Return what is in the way of passes, as `status` says it; of evidence alone, what comes next says it."""
    return [condition_line(name, each) for name, each in found.conditions.items() if name in IN_THE_WAY]


def _rejection(found: Survey, word: str) -> Rejection | None:
    """Return the rejection a word means: the path or the name of a request that cannot be used."""
    name = word.removeprefix("runs.d/").removesuffix(".yaml").replace("/", ".")
    return next((each for each in found.seen.desired.rejections if word == each.path or each.name == name), None)


def _document(world: World, found: Survey, run_id: RunId) -> Mapping[str, Any]:
    """Return the manifest of a run: of its records here, else the one at the tip, nothing where there is neither."""
    try:
        return logbook.of(world, found, run_id).document()
    except UsageError:
        return {}


def _of_stages(document: Mapping[str, Any]) -> list[str]:
    """Return what is to be known of stages that were not executed, or were not trusted."""
    said = []
    for each in document.get("commands", ()):
        if (reused := each.get("reused")) is not None:
            said.append(f"stage '{each['id']}' was not executed: it succeeded in {reused['run_id']} on the same inputs")
        elif (trust := each.get("trust")) is not None:
            paths = ", ".join(text["path"] for text in trust["text"])
            left = f"; not enforced: {', '.join(trust['not_enforced'])}" if trust["not_enforced"] else ""
            said.append(f"stage '{each['id']}' gets no secrets and no network, because of {paths}{left}")
    return said
