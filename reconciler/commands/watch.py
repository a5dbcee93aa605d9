"""`reconciler watch`: stay, and do a pass whenever something has happened or is due."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.process import Workers
from reconciler.readiness import take_readiness
from reconciler.signals import GO_ON
from reconciler.terminal import format_option

if TYPE_CHECKING:
    from reconciler.loop import Loop
    from reconciler.watcher import Face, Watcher
    from reconciler.world import World

INTERRUPTED = 130

WARM_REQUEST = b"task: t\npipeline: p\n"
WARM_PIPELINE = b"stages:\n  - id: s\n    command: 'true'\n"


@click.command(short_help="stay, and do a pass whenever something has happened or is due")
@click.option("--lines", is_flag=True, help="Print lines on a terminal as well, instead of the screen.")
@format_option
@click.pass_obj
def command(repo: str, lines: bool, form: str) -> int:
    """Stay, and do a pass whenever a branch moves, a worker ends, something is due or the remote has news.

    \b
    reconciler watch                  # a screen on a terminal, a line an event elsewhere
    reconciler watch --format json    # one JSON object a line: launched, resumed, ended, published, waiting, problem
    reconciler service install        # let systemd keep it running

    Everything is looked at again at least once a minute, whatever the file system tells. SIGHUP opens the repository
    anew; SIGTERM and Ctrl-C end after the pass that is under way, a second Ctrl-C ends at once. Runs go on in any case,
    and the next pass picks them up.

    Exit codes: 0 ended by SIGTERM, 130 by Ctrl-C, 75 another watcher is at work in this clone.
    """
    readiness = take_readiness()
    workers = Workers()
    workers.prepare()
    from reconciler.watcher import Watcher

    # Where it is by name, now: a directory that is moved away takes who stands in it along.
    begin = beginning(Path(repo).resolve(), workers)
    watcher = Watcher(begin, _face(lines or form == "json", form), readiness, warm=warm)
    watcher.run()
    return conclude(watcher)


def beginning(directory: Path, workers: Workers) -> Callable[[], Loop]:
    """Return what opens a repository anew, for a loop that stays."""
    from reconciler.loop import Loop, open_telemetry
    from reconciler.observe import Observer
    from reconciler.pulls import open_when_owed
    from reconciler.world import open_world

    def begin() -> Loop:
        world = open_world(directory, workers)
        return Loop(world, Observer(world), opener=open_when_owed, tells=True, teller=open_telemetry)

    return begin


def conclude(watcher: Watcher) -> int:
    """Say why a watcher ended, if a person ended it, and return the exit code."""
    if watcher.stopping != signal.SIGINT.name:
        return 0
    click.echo(f"interrupted; {GO_ON}", err=True)
    return INTERRUPTED


def _face(lines: bool, form: str) -> Face:
    if not lines and sys.stdout.isatty():
        from reconciler.watchface import Screen

        return Screen()
    from reconciler.tidings import Lines

    return Lines(form)


def warm(world: World) -> None:
    """Load what launching and publishing need before somebody waits for it."""
    from reconciler import checklist, parse, publish, resolve, settings  # noqa: F401
    from reconciler.model import Source

    parse.parse_request(WARM_REQUEST, Source(path="runs.d/warm.yaml"), world.contracts)
    parse.parse_pipeline(WARM_PIPELINE, Source(path="pipelines/p.yaml"), world.contracts)
