"""Look without touching: what `status`, `plan`, `why` and `logs` know. Nothing is written, no lock is taken."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from reconciler.actions import Action
from reconciler.cache import Cache
from reconciler.conditions import read_conditions
from reconciler.diff import diff
from reconciler.errors import UsageError
from reconciler.explain import Row, rows
from reconciler.freeze import Freezer
from reconciler.model import RunId, TaskId
from reconciler.observe import Observation, Observer
from reconciler.values import frozen
from reconciler.world import World


@frozen
class Survey:
    """An observation, what a pass would decide about it, and the rows that show it."""

    seen: Observation
    actions: tuple[Action, ...]
    rows: tuple[Row, ...]
    conditions: Mapping[str, Mapping[str, str]]
    asked_s: float | None = None


def survey(world: World, *, complete: bool = False) -> Survey:
    """Return what there is to know now; of plans that shall be `complete`, also whose text it is and what is reused."""
    observer = Observer(world)
    observer.recall()
    seen = observer.observe()
    actions: tuple[Action, ...] = diff(seen.desired, seen.actual, seen.now, seen.limits)
    actions = Freezer(observer).complete_all(actions) if complete else actions
    commits = world.repository.evidence_commits(seen.evidence_tip) if len(seen.actual.evidence) else {}
    found = rows(seen.desired, seen.actual, actions, commits, seen.now)
    return Survey(
        seen=seen,
        actions=actions,
        rows=tuple(found),
        conditions=read_conditions(world.repository.state),
        asked_s=_asked_s(world, observer),
    )


def _asked_s(world: World, observer: Observer) -> float | None:
    """Return for how many seconds the remote has not been asked, None where there is none or nobody knows."""
    asked, now = observer.hearing.memory.asked if observer.hearing else None, world.now()
    known = asked is not None and asked.boot_id == now.boot_id
    return now.monotonic_s - asked.monotonic_s if asked is not None and known else None


def find_run(found: Survey, word: str) -> RunId:
    """Return the run that `word` means: a run id, a request's name, or its path. Raise UsageError with a suggestion."""
    name = word.removeprefix("runs.d/").removesuffix(".yaml").replace("/", ".")
    ids = {each.run_id for each in found.rows}
    if word in ids:
        return RunId(word)
    current = found.seen.desired.names.get(name)  # type: ignore[call-overload]
    if current is not None:
        return RunId(current)
    named = [each.run_id for each in found.rows if each.name == name]
    if named:
        return named[0]
    close = difflib.get_close_matches(word, [*ids, *found.seen.desired.names], 1)
    hint = f"did you mean '{close[0]}'?" if close else "see: reconciler status --all"
    raise UsageError(f"there is no run '{word}'; {hint}")


def task_of(found: Survey, run_id: RunId) -> TaskId:
    return next(each.task_id for each in found.rows if each.run_id == run_id)


def commit_of(world: World, ref: str | None) -> tuple[str, Cache | None]:
    """Return the commit whose evidence is meant, by default the tip, and what was read on the way to it. Raise
    UsageError if there is none of that name."""
    if ref is None:
        observer = Observer(world)
        observer.recall()
        seen = observer.observe()
        return seen.evidence_tip or seen.tip, observer.cache
    oid = None if "\n" in ref else world.repository.look_up([f"{ref}^{{commit}}"])[0]
    if oid is None:
        raise UsageError(f"--ref {ref}: there is no such commit here; fetch it first, or name another one")
    return oid, None
