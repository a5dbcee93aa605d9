"""`reconciler logs`: the output of a run's stages, while it runs or afterwards."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from reconciler import completing, logbook
from reconciler.logbook import Logbook
from reconciler.survey import find_run, survey
from reconciler.terminal import format_option, print_json, single_line
from reconciler.world import open_world

POLL_S = 0.1


@click.command(short_help="print the output of a run's stages")
@click.argument("run", shell_complete=completing.runs)
@click.argument("stage", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on printing until the run has ended.")
@format_option
@click.pass_obj
def command(repo: str, run: str, stage: str | None, follow: bool, form: str) -> int:
    """Print what the stages of a run printed, redacted; all stages in order, or one.

    \b
    reconciler logs 0001-diagnostics
    reconciler logs 0001-diagnostics lint --follow

    Of an attempt that an engine executes, what it has printed there so far is shown until its logs are home.

    With --format json the logs are listed with path, size and digest instead. The whole log is shown where this
    machine has it, the bounded copy from git elsewhere.
    """
    world = open_world(Path(repo))
    found = survey(world)
    run_id = find_run(found, run)
    source = logbook.of(world, found, run_id)
    commands = source.commands(stage)
    if form == "json":
        print_json([_facts(each) for each in commands])
    else:
        page = _Page(headed=stage is None)
        _print(page, source, stage, commands, follow)
        if stage is None:
            _print_from_engine(page, source)
        for line in source.elsewhere(stage):
            click.echo(single_line(line), err=True)
    return 0


def _print(page: _Page, source: Logbook, stage: str | None, commands: list[dict[str, Any]], follow: bool) -> None:
    while True:
        over = not follow or source.ended()
        for each in commands:
            page.print_new(source, each)
        if over:
            return
        time.sleep(POLL_S)
        commands = source.commands(stage)


def _print_from_engine(page: _Page, source: Logbook) -> None:
    """Print what an attempt has printed at its engine, as long as its logs are not home."""
    said = source.at_engine()
    if said:
        page.head("printed at its engine so far")
        sys.stdout.flush()
        sys.stdout.buffer.write(said)
        sys.stdout.buffer.flush()


@dataclass(slots=True)
class _Page:
    """What was printed of each log so far, and whether the last line is complete: a heading begins one."""

    headed: bool
    offsets: dict[str, int] = field(default_factory=dict)
    open: bool = False

    def head(self, words: str) -> None:
        """Print a heading on a line of its own."""
        click.echo(("\n" if self.open else "") + click.style(f"== {words} ==", bold=True))
        self.open = False

    def print_new(self, source: Logbook, entry: Mapping[str, Any]) -> None:
        """Print what a log has gained since it was printed last."""
        path = entry["log_path"]
        if self.headed and path not in self.offsets:
            self.head(f"{entry['id']} ({entry['status']})")
        sys.stdout.flush()
        for chunk in source.chunks(path, self.offsets.setdefault(path, 0)):
            sys.stdout.buffer.write(chunk)
            self.offsets[path] += len(chunk)
            self.open = not chunk.endswith(b"\n") if chunk else self.open
        sys.stdout.buffer.flush()


def _facts(entry: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("id", "status", "log_path", "log_bytes", "log_sha256", "attempt")
    return {key: entry[key] for key in keys}
