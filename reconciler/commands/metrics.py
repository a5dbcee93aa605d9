"""`reconciler metrics`: what the evidence of all runs comes to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler import completing
from reconciler.errors import UsageError

if TYPE_CHECKING:
    from reconciler.measures import Measured, PipelineMeasures
    from reconciler.meter import Wanted
    from reconciler.world import World

HEADER = ("TASK", "PIPELINE", "RUNS", "OK", "P50", "P90", "P99", "MAX", "RESUMED", "GUARDED", "RECOVERY", "EXITS")
STAGES_HEADER = ("PIPELINE", "STAGE", "RAN", "OK", "P50", "P90", "P99", "MAX", "EXITS")
EXITS_SHOWN = 4


@click.command(short_help="measure runs by their evidence: durations, exits, guardrails, recovery")
@click.option(
    "--task", metavar="TASK", shell_complete=completing.tasks, help="Only the runs of this task, with their stages."
)
@click.option("--since", metavar="TIME", help="Only runs that ended since then: 7d, 2026-01-31, 2026-01-31T12:00:00Z.")
@click.option("--ref", metavar="REF", help="At which commit (default: the tip of the branch that evidence goes to).")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "csv", "prometheus"]), default="text", show_default=True,
    help="Text for people, JSON or CSV for programs, or what Prometheus reads.",
)  # fmt: skip
@click.option("--output", metavar="FILE", help="Write into this file instead, whole or not at all.")
@click.pass_obj
def command(repo: str, task: str | None, since: str | None, ref: str | None, form: str, output: str | None) -> int:
    """Say what the runs of a commit came to: durations, exit codes, guardrails, successes, recoveries, resumes.

    \b
    reconciler metrics --task 0001-demo
    reconciler metrics --since 30d --format json
    reconciler metrics --format prometheus --output /var/lib/node_exporter/reconciler.prom

    All of it is computed from committed manifests: the same commit gives the same numbers, on any machine. Recovery is
    the time from the end of a failed run to the end of the next run of its request that succeeded. Nothing else is
    written.
    """
    from reconciler.archive import Archive
    from reconciler.meter import Meter, Wanted
    from reconciler.survey import commit_of
    from reconciler.world import open_world

    world = open_world(Path(repo))
    commit, cache = commit_of(world, ref)
    wanted = Wanted(task_id=task or "", since=_instant(world, since))
    runs = Archive(world, cache).runs(commit)
    if task and not any(each.task_id == task for each in runs.values()):
        raise UsageError(f"--task {task}: no run of it is proven at {commit[:12]}; see reconciler status --all")
    text = _rendered(Meter(wanted).measured(world.repository, runs.values()), wanted, commit, form)
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(world, Path(output).absolute(), text)
    return 0


def _instant(world: World, said: str | None) -> str:
    """Return the instant since which runs count, as manifests write it, "" for ever. Raise UsageError if it is none."""
    from reconciler.parse import parse_duration

    if said is None:
        return ""
    try:
        ago = timedelta(seconds=parse_duration(said))
        found = datetime.fromisoformat(world.now().at) - ago
    except ValueError:
        found = _date(said)
    except OverflowError:
        return ""
    return found.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _date(said: str) -> datetime:
    """Return a date, at its beginning in UTC, or an instant. Raise UsageError if it is neither."""
    try:
        found = datetime.fromisoformat(said)
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except ValueError:
        raise UsageError(f"--since {said}: is no time; say 7d, 12h, 2026-01-31 or 2026-01-31T12:00:00Z") from None


def _rendered(measured: Measured, wanted: Wanted, commit: str, form: str) -> str:
    from reconciler import codec, exposition

    if form == "prometheus":
        return exposition.prometheus(measured, exposition.info(commit))
    if form == "csv":
        return exposition.table(measured)
    if form == "json":
        import json

        about = {"commit": commit, "task_id": wanted.task_id or None, "since": wanted.since or None}
        return json.dumps({**about, **codec.dump(measured)}, indent=2, ensure_ascii=False) + "\n"
    return _text(measured, stages=bool(wanted.task_id)) + "\n"


def _write(world: World, path: Path, text: str) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"--output {path}: there is no directory {path.parent}; make it first")
    world.disk.write_atomic(path, text.encode())
    click.echo(f"{path}: written", err=True)


# ------------------------------------------------------------------------------------------------ for people


def _text(measured: Measured, *, stages: bool) -> str:
    from reconciler.terminal import table

    if not measured.pipelines:
        return "no run has ended in this time, as far as this commit proves"
    total = [_cells(measured.total, "all", "")] if len(measured.pipelines) > 1 else []
    parts = [table(HEADER, [*(_cells(each, each.task_id, each.pipeline_id) for each in measured.pipelines), *total])]
    lines = [line for each in measured.pipelines for line in _stage_lines(each)] if stages else []
    parts += ["", table(STAGES_HEADER, lines)] if lines else []
    parts += [f"{measured.left_out} pipelines that ended longer ago are left out"] if measured.left_out else []
    parts += [f"{measured.damaged} manifests could not be understood"] if measured.damaged else []
    return "\n".join(parts)


def _cells(each: PipelineMeasures, task: str, pipeline: str) -> tuple[str, ...]:
    spread, recovery = each.duration_s, each.recovery_s
    recovered = f"{_took(recovery.p50)}{f', {each.unrecovered} open' if each.unrecovered else ''}"
    return (
        task,
        pipeline,
        str(spread.count),
        _percent(each.success_rate),
        *map(_took, (spread.p50, spread.p90, spread.p99, spread.max)),
        str(each.resumes["accepted"]),
        _percent(each.guardrails.coverage),
        recovered,
        _exits(each.exits),
    )


def _stage_lines(each: PipelineMeasures) -> list[tuple[str, ...]]:
    return [
        (
            each.pipeline_id,
            stage.stage_id,
            str(stage.duration_s.count),
            _percent(stage.statuses.get("succeeded", 0) / max(1, stage.duration_s.count)),
            *map(_took, (stage.duration_s.p50, stage.duration_s.p90, stage.duration_s.p99, stage.duration_s.max)),
            _exits(stage.exits),
        )
        for stage in each.stages
    ]


def _exits(counts: Mapping[str, int]) -> str:
    """Return the most frequent ways to end, most frequent first."""
    often = sorted(counts, key=lambda how: (-counts[how], how))
    more = [f"+{len(often) - EXITS_SHOWN}"] if len(often) > EXITS_SHOWN else []
    return " ".join([*(f"{how}:{counts[how]}" for how in often[:EXITS_SHOWN]), *more]) or "-"


def _took(seconds: float | None) -> str:
    from reconciler.aggregate import duration

    return "-" if seconds is None else duration(seconds)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"
