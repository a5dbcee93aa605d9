"""What a watcher has to tell, an event a line: what was launched, resumed, ended, published, what waits, what is wrong.

An event is told once. What goes on being wrong, or waiting for the same reason, is no news; when it is over it may be
told again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import click

from reconciler.actions import Launch, Resume, Retire, TakeOver, Wait
from reconciler.aggregate import duration
from reconciler.apply import subject_of
from reconciler.loop import Loop, Pass
from reconciler.model import Phase, RunId, TaskId
from reconciler.phases import ENDED
from reconciler.terminal import single_line
from reconciler.values import frozen
from reconciler.watcher import Face, Turn

COUNTS = re.compile(r"\b\d+(\.\d+)?(?= (s|try|tries)\b)")
"""Reasons count seconds and tries: that they grow is no news."""


@frozen
class Event:
    """One line. `event` is its kind; the rest is empty where it says nothing."""

    event: str
    run_id: str = ""
    task_id: str = ""
    status: str = ""
    commit: str = ""
    detail: str = ""

    def document(self, at: str) -> dict[str, str]:
        """Return the event as one JSON object, without what it does not say."""
        found = {"event": self.event, "run_id": self.run_id, "task_id": self.task_id, "status": self.status}
        found |= {"commit": self.commit, "detail": self.detail}
        return {"at": at} | {key: value for key, value in found.items() if value}

    def line(self, at: str) -> str:
        """Return the event as a line for people."""
        said = [self.run_id, self.status, f"in {self.commit[:12]}" if self.commit else "", self.detail]
        return single_line(f"{at[:19]}Z {self.event:<9} {' '.join(filter(None, said))}".rstrip())


@dataclass(slots=True)
class Tidings:
    """Finds what is new in each turn."""

    phases: dict[RunId, Phase] = field(default_factory=dict)
    standing: dict[tuple[str, str, str], None] = field(default_factory=dict)
    """The reasons and problems that hold, as they were told."""

    def of(self, turn: Turn) -> list[Event]:
        """Return the events of a turn, in the order in which they happened."""
        found = list(_done(turn.result)) if turn.result is not None else []
        if turn.result is not None:
            found += self._ended(turn.result)
            found += _published(turn.result)
        return found + self._news(turn)

    def _ended(self, result: Pass) -> Iterator[Event]:
        """Yield the runs that have ended since the last turn, or before the first one and are not proven yet."""
        before, self.phases = self.phases, result.phases
        for run_id, phase in self.phases.items():
            run = result.seen.actual.runs[run_id]
            if phase in ENDED and before.get(run_id) != phase and not result.seen.actual.proves_as(run, phase):
                took = f"took {duration(run.attempt.elapsed_s)}" if run.attempt is not None else ""
                yield Event(event="ended", run_id=run_id, task_id=run.task_id, status=phase.value, detail=took)

    def _news(self, turn: Turn) -> list[Event]:
        """Return what waits and what is wrong, as far as it did not already when it was told last."""
        now = list(_standing(turn))
        known, self.standing = self.standing, {_key(each): None for each in now}
        if turn.result is None:
            # Nothing was seen, so nothing is known to be over.
            self.standing |= known
        return list({_key(each): each for each in now if _key(each) not in known}.values())


def _key(event: Event) -> tuple[str, str, str]:
    return event.event, event.run_id, COUNTS.sub("0", event.detail).replace("0 try", "0 tries")


def _done(result: Pass) -> Iterator[Event]:
    """Yield what a pass did about single runs."""
    for each in result.done:
        action, sentence = each.action, each.sentence
        if each.error is not None or isinstance(action, Retire):
            continue
        if isinstance(action, Launch):
            if " launched" in sentence:
                yield Event(event="launched", run_id=action.plan.run_id, task_id=action.plan.task_id)
            continue
        kind = "resumed" if isinstance(action, Resume | TakeOver) else "repaired"
        run_id: RunId | str = getattr(action, "run_id", "")
        task_id: TaskId | str = getattr(action, "task_id", "")
        if run_id and not each.quiet:
            yield Event(event=kind, run_id=run_id, task_id=task_id, detail=sentence.removeprefix(f"{run_id}: "))


def _published(result: Pass) -> Iterator[Event]:
    if result.publication is None:
        return
    runs, phases = result.seen.actual.runs, result.phases
    for run_id in result.publication.runs:
        task_id = runs[run_id].task_id if run_id in runs else ""
        status = phases[run_id].value if run_id in phases else ""
        yield Event(event="published", run_id=run_id, task_id=task_id, status=status, commit=result.publication.commit)


def _standing(turn: Turn) -> Iterator[Event]:
    """Yield everything that waits or is wrong at this moment."""
    if turn.trouble:
        yield Event(event="problem", detail=turn.trouble)
    if turn.deaf:
        yield Event(event="problem", detail=f"no events from the file system ({turn.deaf}); looking once a second")
    result = turn.result
    if result is None:
        return
    for rejection in result.seen.desired.rejections:
        yield from (Event(event="problem", detail=f"rejected: {each.sentence()}") for each in rejection.problems)
    for each in result.done:
        if each.error is not None:
            yield Event(event="problem", run_id=subject_of(each.action), detail=each.sentence)
    if result.blocked:
        yield Event(event="problem", detail=f"evidence waits: {result.blocked}")
    if result.publication is not None:
        yield from (Event(event="problem", detail=each) for each in result.publication.warnings)
    yield from (Event(event="problem", detail=each) for each in result.troubles)
    yield from (Event(event="told", detail=each) for each in result.told)
    for action in result.actions:
        if isinstance(action, Wait):
            yield Event(event="waiting", run_id=action.subject, detail=action.reason)


class Lines(Face):
    """Prints every event as a line on standard output, and nothing when nothing happens."""

    def __init__(self, form: str) -> None:
        self.form, self.tidings = form, Tidings()
        self.loop: Loop | None = None
        self.offline = ""

    def begin(self, loop: Loop) -> None:
        self.loop = loop

    def tell(self, turn: Turn) -> None:
        for each in [*self.tidings.of(turn), *self._remote()]:
            self._print(each)

    def say(self, what: str, detail: str) -> None:
        self._print(Event(event=what, detail=detail))

    def _remote(self) -> list[Event]:
        """Return that the remote has become unreachable, or can be reached again."""
        assert self.loop is not None
        reason = condition(self.loop, "remote")
        known, self.offline = self.offline, reason
        if bool(known) == bool(reason):
            return []
        return [Event(event="problem", detail=reason) if reason else Event(event="solved", detail="the remote answers")]

    def _print(self, event: Event) -> None:
        assert self.loop is not None
        at = self.loop.world.now().at
        text = json.dumps(event.document(at), ensure_ascii=False) if self.form == "json" else event.line(at)
        click.echo(text)


def condition(loop: Loop, name: str) -> str:
    """Return why something that passes need is in the way, "" if it is not."""
    from reconciler.conditions import read_conditions

    return read_conditions(loop.world.repository.state).get(name, {}).get("reason", "")
