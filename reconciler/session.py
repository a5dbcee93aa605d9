"""One command's passes over a repository, told to whoever watches: the shared middle of `reconcile` and `start`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from reconciler.actions import Launch, Wait
from reconciler.aggregate import duration
from reconciler.apply import subject_of
from reconciler.conditions import read_conditions
from reconciler.loop import Loop, Pass, is_over, open_telemetry, unproven
from reconciler.manifest import artifact_root
from reconciler.model import Phase, RunId, StageStatus, TaskId
from reconciler.observe import Observer
from reconciler.phases import ENDED
from reconciler.process import Workers
from reconciler.pulls import open_when_owed
from reconciler.remote import misnamed
from reconciler.signals import GO_ON
from reconciler.terminal import coloured, single_line
from reconciler.world import World, open_world

WAITED_STILL_RUNNING = 3
WAITED_FOR_APPROVAL = 4
BLOCKED = 75
KEPT_MAX = 1000


class Session:
    """Passes, and lines about what changed between them: on standard error, so that output stays data."""

    def __init__(
        self, directory: Path, *, workers: Workers | None = None, quiet: bool = False, branch: str | None = None
    ) -> None:
        self.world = open_world(directory, workers)
        self.loop = Loop(
            self.world, Observer(self.world, branch), opener=open_when_owed, tells=True, teller=open_telemetry
        )
        self.published: dict[RunId, tuple[TaskId, str]] = {}
        self.quiet = quiet
        self.said: set[str] = set()
        self.told: dict[str, None] = {}
        self.troubles: dict[str, None] = {}
        self.live = None if quiet or not sys.stderr.isatty() else _live_display()

    def run(self, *, wait: bool, deadline_s: float | None = None, goal: RunId | None = None) -> Pass:
        """Do one pass, or pass until idle or until `goal` is proven; workers are left alone however this ends."""
        try:
            if wait:
                result = self.loop.run_until_idle(self._watch, deadline_s, goal)
            else:
                result = self.loop.run_settled(self._watch)
            self._finish(result)
            return result
        except KeyboardInterrupt as interruption:
            interruption.add_note(GO_ON)
            raise
        finally:
            if self.live is not None:
                self.live.stop()
            self.loop.close()
            self.world.workers.close()

    def _finish(self, result: Pass) -> None:
        wrong = misnamed(self.world.repository, result.seen.settings.remote) if self.world.remote is None else None
        notes = (f"note: reconciler.yaml: {'; '.join(wrong)}",) if wrong else ()
        for line in (*self.loop.finish(result), *notes):
            self._keep(self.troubles, (line,))
            if not self.quiet:
                self._say(single_line(line))

    def _watch(self, result: Pass) -> None:
        if result.publication is not None:
            runs, commit = result.seen.actual.runs, result.publication.commit
            self.published |= {each: (runs[each].task_id, commit) for each in result.publication.runs if each in runs}
        self._keep(self.told, result.told)
        self._keep(self.troubles, result.troubles)
        if self.quiet:
            return
        for line in news(result):
            self._say(line)
        if self.live is not None:
            self.live.show(result)

    def _keep(self, kept: dict[str, None], lines: Sequence[str]) -> None:
        """Keep what was told for those who read it as data, each sentence once, the newest ones of very many."""
        for each in lines:
            kept.pop(each, None)
            kept[each] = None
            while len(kept) > KEPT_MAX:
                del kept[next(iter(kept))]

    def _say(self, line: str) -> None:
        if line in self.said:
            return
        self.said.add(line)
        if self.live is not None:
            self.live.say(line)
        else:
            click.echo(line, err=True)

    def conclude(self, result: Pass) -> None:
        """Print the last lines: what every concerned run came to, and what is left to do."""
        words = outcomes(self, result)
        width = max(map(len, words.values()), default=0)
        for run_id, word in sorted(words.items()):
            click.echo(f"{coloured(word)}{' ' * (width - len(word))}  {run_id}")
        if not (words or waits(result) or result.seen.desired.rejections):
            click.echo(_nothing(result))
        for line in waits(result):
            click.echo(line)
        self.say_hindrance(result)
        if self.world.remote is not None and _unpushed(self.world, result):
            click.echo(
                f"note: runs.d/ at {result.seen.branch} of this clone is ahead of {self.world.remote.name}; "
                "what is not pushed is not asked for yet",
                err=True,
            )

    def say_hindrance(self, result: Pass) -> None:
        """Print what is in the way of evidence, on standard error."""
        if result.blocked:
            click.echo(single_line(f"evidence waits: {result.blocked}"), err=True)
        if not result.online:
            reason = read_conditions(self.world.repository.state).get("remote", {}).get("reason", "")
            click.echo(single_line(reason or "the remote must be asked again before more can be done"), err=True)


def _unpushed(world: World, result: Pass) -> bool:
    """Return whether this clone's own branch asks for something that the remote has not got."""
    branch, tip = f"refs/heads/{result.seen.branch}", result.seen.tip
    here, there = world.repository.look_up([f"{branch}:runs.d", f"{tip}:runs.d"])
    own = world.repository.look_up([branch])[0]
    ahead = own is not None and here not in (None, there)
    return ahead and world.repository.is_ancestor(tip, own or "")


def _nothing(result: Pass) -> str:
    """Return why a pass had nothing to do."""
    if not result.seen.desired.names:
        return "nothing to do: runs.d/ holds no request at the tip; write one, or run: reconciler init"
    if any(each.run_id not in result.seen.actual.evidence for each in result.seen.desired.wishes):
        return "nothing to do here now; what every run waits for is told by: reconciler status"
    return "nothing to do: every request is proven"


def _live_display() -> Any:
    from reconciler.display import Display

    return Display()


def news(result: Pass) -> list[str]:
    """Return a line for everything a pass did or found wrong, and for every stage it saw begin or end."""
    lines = [
        single_line(f"rejected: {problem.sentence()}")
        for rejection in result.seen.desired.rejections
        for problem in rejection.problems
    ]
    lines += _stage_news(result)
    lines += [single_line(each.sentence) for each in result.done if each.error or not each.quiet]
    if result.publication is not None:
        count = len(result.publication.runs)
        what = result.publication.runs[0] if count == 1 else f"{count} runs"
        lines.append(f"evidence of {what} committed: {result.publication.commit[:12]}")
        lines += [f"warning: {each}" for each in result.publication.warnings]
    return [*lines, *map(single_line, (*result.told, *result.troubles))]


def _stage_news(result: Pass) -> list[str]:
    lines = []
    for run in result.seen.actual.runs.values():
        for record in run.attempt.stages if run.attempt else ():
            if record.attempt != run.number or record.status in (StageStatus.PENDING, StageStatus.SKIPPED):
                continue
            took = f" in {duration(record.duration_s)}" if record.duration_s is not None else ""
            said = f" ({record.summary})" if record.summary and record.completed_at else ""
            tries = f", try {record.tries}" if record.tries > 1 else ""
            lines.append(single_line(f"{run.run_id}: {record.id} {record.status.value}{took}{tries}{said}"))
    return lines


# ------------------------------------------------------------------------------------------------ the end


def outcomes(session: Session, result: Pass) -> dict[RunId, str]:
    """Return the word for every run that this command had to do with."""
    found = {each.action.plan.run_id: "starting" for each in result.done if isinstance(each.action, Launch)}
    phases = result.phases
    for run_id in session.loop.concerned:
        evidence = result.seen.actual.evidence.get(run_id)
        if run_id in phases:
            found[run_id] = phases[run_id].value
        elif evidence is not None:
            found[run_id] = evidence.status.value
    return found


def waits(result: Pass) -> list[str]:
    return [single_line(f"{each.subject}: {each.reason}") for each in result.actions if isinstance(each, Wait)]


def exit_code(session: Session, result: Pass, *, waited: bool, goal: RunId | None = None) -> int:
    """Return the exit code of a command that waits for runs (for `goal` alone, if given), or of a single pass."""
    wanted = set(result.seen.desired.names.values())
    # That a run was cancelled because another took its place is what its request asks for.
    told = {
        run_id: word for run_id, word in outcomes(session, result).items() if run_id in wanted or word != "cancelled"
    }
    words = {word for run_id, word in told.items() if goal in (None, run_id)}
    if (result.blocked or not result.online) and _owed(result, goal):
        return BLOCKED
    if words & {Phase.FAILED.value, Phase.CANCELLED.value} or (result.seen.desired.rejections and goal is None):
        return 1
    refused = [each for each in result.done if each.error and goal in (None, subject_of(each.action))]
    if refused or not result.online or session.loop.gate.told:
        return BLOCKED
    if waited and words & {Phase.STARTING.value, Phase.RUNNING.value, Phase.STALE.value}:
        return WAITED_STILL_RUNNING
    return WAITED_FOR_APPROVAL if Phase.WAITING.value in words else 0


def _owed(result: Pass, goal: RunId | None) -> bool:
    """Return whether evidence is owed: of any run, or of `goal`, which may also wait for a person who is to see it."""
    if goal is None:
        return bool(unproven(result.seen))
    run = result.seen.actual.runs.get(goal)
    return run is not None and is_over(result, goal) and not result.seen.actual.proves(goal, run.number)


def result_document(session: Session, result: Pass) -> dict[str, Any]:
    """Return what happened, for programs."""
    return {
        "branch": result.seen.branch,
        "tip": result.publication.commit if result.publication else result.seen.tip,
        "runs": [run_document(session, result, run_id) for run_id in sorted(outcomes(session, result))],
        "waits": [
            {"subject": each.subject, "reason": each.reason} for each in result.actions if isinstance(each, Wait)
        ],
        "rejections": result.seen.desired.rejections,
        "errors": [each.sentence for each in result.done if each.error],
        "blocked": result.blocked,
        "told": [single_line(each) for each in session.told],
        "troubles": [single_line(each) for each in session.troubles],
        "online": result.online,
    }


def run_document(session: Session, result: Pass, run_id: RunId) -> Mapping[str, Any]:
    """Return the facts about one run that scripts ask for first."""
    word = outcomes(session, result).get(run_id, Phase.ABSENT.value)
    run, evidence = result.seen.actual.runs.get(run_id), result.seen.actual.evidence.get(run_id)
    task_id = run.task_id if run else evidence.task_id if evidence else _task_asked(result, run_id)
    root = artifact_root(task_id, run_id)
    manifest = session.world.checkout / root / "manifest.json"
    return {
        "run_id": run_id,
        "task_id": task_id,
        "status": word,
        "ended": Phase(word) in ENDED,
        "artifact_root": root,
        "manifest": f"{root}/manifest.json",
        "log_path": _log_path(manifest),
    }


def _task_asked(result: Pass, run_id: RunId) -> str:
    """Return the task of a run of which there was nothing yet when the pass began, as its request says."""
    return next((each.request.task for each in result.seen.desired.wishes if each.run_id == run_id), "")


def _log_path(manifest: Path) -> str | None:
    import json

    try:
        found = json.loads(manifest.read_bytes())["log_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None
