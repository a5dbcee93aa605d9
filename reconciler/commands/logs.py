"""`reconciler logs`: the output of a run's stages, while it runs or afterwards."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from reconciler import manifest
from reconciler.errors import TransientError, UsageError
from reconciler.model import RunId, TaskId
from reconciler.phases import ENDED, phase
from reconciler.publish import full_log, read_records
from reconciler.survey import Survey, find_run, survey, task_of
from reconciler.terminal import format_option, print_json, single_line
from reconciler.values import frozen
from reconciler.world import World, open_world

READ_BYTES = 1 << 16
POLL_S = 0.1


@click.command(short_help="print the output of a run's stages")
@click.argument("run")
@click.argument("stage", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on printing until the run has ended.")
@format_option
@click.pass_obj
def command(repo: str, run: str, stage: str | None, follow: bool, form: str) -> int:
    """Print what the stages of a run printed, redacted; all stages in order, or one.

    \b
    reconciler logs 0001-diagnostics
    reconciler logs 0001-diagnostics lint --follow

    With --format json the logs are listed with path, size and digest instead. The whole log is shown where this
    machine has it, the bounded copy from git elsewhere.
    """
    world = open_world(Path(repo))
    found = survey(world)
    run_id = find_run(found, run)
    source = Source(world, found, run_id, task_of(found, run_id))
    commands = source.commands(stage)
    if form == "json":
        print_json([_facts(each) for each in commands])
    else:
        _print(source, stage, commands, follow)
        for line in source.elsewhere(stage):
            click.echo(single_line(line), err=True)
    return 0


@frozen(kw_only=False)
class Source:
    """Where the logs of one run are: its records on this machine, or the manifest and blobs at the tip."""

    world: World
    found: Survey
    run_id: RunId
    task_id: TaskId

    def commands(self, stage: str | None) -> list[dict[str, Any]]:
        """Return the entries of stages that have a log. Raise UsageError for a stage that is none."""
        every: list[dict[str, Any]] = list(self._document()["commands"])
        if stage is not None and stage not in {each["id"] for each in every}:
            raise UsageError(f"{self.run_id} has no stage '{stage}'; its stages: {', '.join(e['id'] for e in every)}")
        return [each for each in every if each["log_path"] and stage in (None, each["id"])]

    def elsewhere(self, stage: str | None) -> list[str]:
        """Return where the logs are of stages that were not executed in this run."""
        entries = [each for each in self._document()["commands"] if stage in (None, each["id"])]
        cited = {each["id"]: each["reused"] for each in entries if each.get("reused")}
        return [
            f"stage '{name}' was not executed; see: reconciler logs {each['run_id']} {each['stage']}"
            for name, each in cited.items()
        ]

    def _document(self) -> Mapping[str, Any]:
        try:
            records = read_records(self.world, self.task_id, self.run_id)
            return manifest.manifest(records, updated_at="", heartbeat_at=None)
        except TransientError:
            evidence = self.found.seen.actual.evidence.get(self.run_id)
            if evidence is None:
                raise UsageError(f"{self.run_id} has not started yet; see: reconciler why {self.run_id}") from None
            document: Mapping[str, Any] = json.loads(
                next(self.world.repository.blobs([evidence.manifest_blob]))[1] or b""
            )
            return document

    def file(self, log_path: str) -> Path:
        return full_log(self.world.disk, self.world.checkout / log_path)

    def committed(self, log_path: str) -> bytes:
        """Return the bounded copy of a log at the tip."""
        oid = self.world.repository.look_up([f"{self.found.seen.tip}:{log_path}"])[0]
        data = next(self.world.repository.blobs([oid]))[1] if oid else None
        return data or b""

    def ended(self) -> bool:
        run = self.world.runs.observe(self.task_id, self.run_id)
        return run is None or phase(run, self.world.now()) in ENDED


def _print(source: Source, stage: str | None, commands: list[dict[str, Any]], follow: bool) -> None:
    offsets: dict[str, int] = {}
    headed = stage is None
    while True:
        over = not follow or source.ended()
        for each in commands:
            _print_new(source, each, offsets, headed)
        if over:
            return
        time.sleep(POLL_S)
        commands = source.commands(stage)


def _print_new(source: Source, entry: Mapping[str, Any], offsets: dict[str, int], headed: bool) -> None:
    """Print what a log has gained since it was printed last."""
    path = entry["log_path"]
    if headed and path not in offsets:
        click.echo(click.style(f"== {entry['id']} ({entry['status']}) ==", bold=True), err=False)
    offset = offsets.setdefault(path, 0)
    for chunk in _chunks(source, path, offset):
        sys.stdout.buffer.write(chunk)
        offsets[path] += len(chunk)
    sys.stdout.buffer.flush()


def _chunks(source: Source, path: str, offset: int) -> Iterator[bytes]:
    sys.stdout.flush()
    file = source.file(path)
    if not file.exists():
        yield source.committed(path)[offset:]
        return
    with open(file, "rb") as stream:
        stream.seek(offset)
        while chunk := stream.read(READ_BYTES):
            yield chunk


def _facts(entry: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("id", "status", "log_path", "log_bytes", "log_sha256", "attempt")
    return {key: entry[key] for key in keys}
