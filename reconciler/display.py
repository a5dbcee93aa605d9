"""The live picture of `--wait` on a terminal: one line a run, redrawn in place. rich is loaded only for this."""

from __future__ import annotations

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from reconciler.loop import Pass
from reconciler.model import Run, StageStatus
from reconciler.phases import ENDED, silence
from reconciler.terminal import COLOURS, age

RUNS_SHOWN_MAX = 15


class Display:
    """Draws the runs that are under way below the lines that have been said."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.live = Live(console=self.console, refresh_per_second=8, transient=True)
        self.live.start()

    def say(self, line: str) -> None:
        self.console.print(Text(line))

    def show(self, result: Pass) -> None:
        """Redraw."""
        phases = result.phases
        runs = [run for run in result.seen.actual.runs.values() if phases[run.run_id] not in ENDED]
        table = Table.grid(padding=(0, 2))
        for run in runs[:RUNS_SHOWN_MAX]:
            phase = phases[run.run_id]
            table.add_row(Text(phase.value, style=COLOURS[phase.value]), run.run_id, *_progress(run, result))
        if len(runs) > RUNS_SHOWN_MAX:
            table.add_row("", f"and {len(runs) - RUNS_SHOWN_MAX} more")
        self.live.update(table)

    def stop(self) -> None:
        self.live.stop()


def _progress(run: Run, result: Pass) -> tuple[str, str, str]:
    stages = run.attempt.stages if run.attempt else ()
    done = sum(each.status in (StageStatus.SUCCEEDED, StageStatus.FAILED) for each in stages)
    bar = "█" * done + "░" * (len(stages) - done) if len(stages) <= 30 else f"{done}/{len(stages)}"
    now = ", ".join(each.id for each in stages if each.status == StageStatus.RUNNING)
    return bar, now, f"heartbeat {age(silence(run, result.seen.now))} ago" if run.attempt else ""
