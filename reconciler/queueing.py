"""Whose turn it is: what a wish comes after, who is next in its concurrency group, how waiting adds to priority. Pure.

Nothing here keeps two runs of a group apart by itself: claims do. This decides who reaches for a claim, from what every
machine can see, so that all of them reach for the same one.
"""

from __future__ import annotations

import difflib
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import field, replace
from datetime import datetime
from itertools import islice

from reconciler.model import (
    Evidence,
    Instant,
    Name,
    Phase,
    Problem,
    Rejection,
    Request,
    RunId,
    Status,
    Wish,
    name_of_run,
)
from reconciler.values import frozen

AGE_POINTS_MAX = 2001
"""Priorities lie within a thousand of zero, so this many points outweigh every difference between two of them."""
SUGGESTIONS_FROM_MAX = 200
CIRCLE_SHOWN_MAX = 20
ENDED = (Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED)


@frozen(kw_only=False)
class Hold:
    """Why a wish waits. `settled` is True when only a person can change it."""

    reason: str
    settled: bool = False


@frozen
class Scene:
    """What a turn depends on. `under_way` holds every run, here or elsewhere, that is not both ended and proven;
    `groups` the concurrency groups of those; `stuck` what only a person can set going again, and why. `shared` says
    that there is a remote: there a run that has ended can be taken over and go on until its evidence lands. `misfits`
    are wishes that only another host can execute: they keep their place in a queue, which is one for all hosts."""

    names: Mapping[Name, RunId | None]
    evidence: Mapping[RunId, Evidence]
    under_way: Mapping[RunId, Phase]
    groups: Mapping[RunId, Collection[str]]
    stuck: Mapping[RunId, str] = field(default_factory=dict)
    shared: bool = False
    misfits: Mapping[RunId, str] = field(default_factory=dict)


@frozen
class Line:
    """Everybody's turn: `holds` says who waits and why, `displaced` which runs a newcomer of their group cancels."""

    holds: Mapping[RunId, Hold]
    displaced: Mapping[RunId, str]


EMPTY = Line(holds={}, displaced={})


def line_up(absent: Sequence[Wish], scene: Scene, now: Instant, ageing_s: float) -> Line:
    """Return whose turn it is among wishes of which there is no run yet; those in `scene.stuck` take no part."""
    if not any(each.request.after or each.request.concurrency for each in absent):
        return EMPTY
    holds = _after(absent, scene)
    ready = [each for each in absent if each.run_id not in holds and each.run_id not in scene.stuck]
    ready = [each for each in ready if not isinstance(each.plan, Rejection)]
    taken = groups_taken(scene)
    turns = _turns(ready, scene, taken, now, ageing_s)
    return Line(holds={**holds, **turns}, displaced=_displaced(ready, taken))


# ------------------------------------------------------------------------------------------------ priority


def priority(wish: Wish, now: Instant, ageing_s: float) -> int:
    """Return the priority of a wish with the points it got by waiting: one for every `ageing_s` since it arrived.

    When it arrived is the clock of another machine. A wrong one moves a wish in the line and does nothing else.
    """
    if wish.arrival.at_s is None:
        return wish.request.priority
    waited_s = max(0.0, datetime.fromisoformat(now.at).timestamp() - wish.arrival.at_s)
    return wish.request.priority + int(min(waited_s / ageing_s, AGE_POINTS_MAX))


# ------------------------------------------------------------------------------------------------ after


def _after(absent: Sequence[Wish], scene: Scene) -> dict[RunId, Hold]:
    """Return the wishes that something they come after keeps back. Where that waits for a person, so do they."""
    holds: dict[RunId, Hold] = {}
    waiting: dict[RunId, list[Wish]] = {}
    for wish in sorted(absent, key=lambda each: each.run_id):  # so that all machines say the same
        hold = _hold(wish, scene)
        if hold is None:
            continue
        holds[wish.run_id] = hold
        for run_id in filter(None, (scene.names.get(name) for name in wish.request.after)):
            waiting.setdefault(run_id, []).append(wish)
    stuck = {**scene.stuck, **{run_id: hold.reason for run_id, hold in holds.items() if hold.settled}}
    ahead = deque(sorted(each for each in stuck if each in waiting))
    while ahead:
        cause = ahead.popleft()
        for wish in waiting.get(cause, ()):
            if not holds[wish.run_id].settled and not _is_done(cause, scene):
                reason = f"waits for {cause}, which it comes after and which is held back: {stuck[cause]}"
                holds[wish.run_id] = Hold(reason[:500], settled=True)
                stuck[wish.run_id] = reason[:500]
                ahead.append(wish.run_id)
    return holds


def _hold(wish: Wish, scene: Scene) -> Hold | None:
    """Return what a wish comes after and what has not succeeded yet: first of all what only a person can change."""
    found = [hold for name in wish.request.after if (hold := _behind(name, scene)) is not None]
    return next((each for each in found if each.settled), found[0] if found else None)


def _behind(name: Name, scene: Scene) -> Hold | None:
    run_id = scene.names.get(name)
    if run_id is not None:
        return _behind_run(name, run_id, scene)
    if name in scene.names:
        cure = f"mend it, or remove '{name}' from 'after'"
        return Hold(f"waits for '{name}', which it comes after and whose request cannot be used; {cure}", settled=True)
    return _behind_deleted(name, scene)


def _behind_run(name: Name, run_id: RunId, scene: Scene) -> Hold | None:
    """Judge the current run of a name by its evidence; what is under way must be proven anew."""
    phase, evidence = scene.under_way.get(run_id), scene.evidence.get(run_id)
    if phase is not None:
        return Hold(f"waits for {run_id}, which it comes after: {_doing(phase)}")
    if evidence is None:
        return Hold(f"waits for {run_id}, which it comes after and which has not begun")
    if evidence.status == Status.SUCCEEDED:
        return None
    if not evidence.status.ended:
        return Hold(f"waits for {run_id}, which it comes after: it is {evidence.status}")
    was = "was cancelled" if evidence.status == Status.CANCELLED else "failed"
    cure = f"run that again (raise its 'rerun'), or remove '{name}' from 'after'"
    return Hold(f"comes after {run_id}, which {was}; {cure}", settled=True)


def _behind_deleted(name: Name, scene: Scene) -> Hold | None:
    """Judge a name whose request is gone: one run of it that succeeded will do."""
    under_way = sorted(each for each in scene.under_way if name_of_run(each) == name)
    proven = sorted(each for each in scene.evidence if name_of_run(each) == name)
    if any(scene.evidence[each].status == Status.SUCCEEDED for each in proven):
        return None
    if under_way:
        return _behind_run(name, under_way[0], scene)
    if proven:
        return _behind_run(name, proven[-1], scene)
    return Hold(f"comes after '{name}', and there is no such request; remove '{name}' from 'after'", settled=True)


def _doing(phase: Phase) -> str:
    return "its evidence is not committed yet" if phase in ENDED else f"it is {phase}"


def _is_done(run_id: RunId, scene: Scene) -> bool:
    evidence = scene.evidence.get(run_id)
    return run_id not in scene.under_way and evidence is not None and evidence.status == Status.SUCCEEDED


# ------------------------------------------------------------------------------------------------ groups


def groups_taken(scene: Scene) -> dict[str, tuple[RunId, ...]]:
    """Return by group the runs that are under way in it: one, unless somebody edited it into a group that was taken."""
    found: dict[str, list[RunId]] = {}
    for run_id, phase in sorted(scene.under_way.items()):
        for group in scene.groups.get(run_id, ()) if scene.shared or phase not in ENDED else ():
            found.setdefault(group, []).append(run_id)
    return {group: tuple(runs) for group, runs in found.items()}


def _turns(
    ready: Iterable[Wish], scene: Scene, taken: Mapping[str, Sequence[RunId]], now: Instant, ageing_s: float
) -> dict[RunId, Hold]:
    """Return the wishes whose group is taken, or that are not the first in the queue of their group."""
    queues: dict[str, list[Wish]] = {}
    for wish in ready:
        if wish.request.concurrency is not None:
            queues.setdefault(wish.request.concurrency.group, []).append(wish)
    holds = {}
    for group, queue in queues.items():
        queue.sort(key=lambda each: (-priority(each, now, ageing_s), each.arrival.number, each.request.source.path))
        barred = False
        for index, wish in enumerate(queue):
            ahead = queue[index - 1].run_id if index else None
            hold = _turn(wish, group, [each for each in taken.get(group, ()) if each != wish.run_id], ahead, scene)
            if hold is not None:
                holds[wish.run_id] = replace(hold, settled=True) if barred else hold
            barred = barred or wish.run_id in scene.misfits
    return holds


def _turn(wish: Wish, group: str, taken: Sequence[RunId], ahead: RunId | None, scene: Scene) -> Hold | None:
    if taken and scene.under_way[taken[0]] in ENDED:
        return Hold(f"waits for the evidence of {taken[0]} of group '{group}' to be committed")
    if taken and _cancels(wish):
        return Hold(f"waits for {taken[0]} of group '{group}', which it cancels, to end")
    stuck = next((each for each in taken if each in scene.stuck), None)
    if stuck is not None:
        reason = f"waits for {stuck} of group '{group}', which is held back: {scene.stuck[stuck]}"
        return Hold(reason[:500], settled=True)
    if ahead is not None:
        return Hold(f"waits behind {ahead} in the queue of group '{group}'")
    return Hold(f"waits for {taken[0]} of group '{group}' to end") if taken else None


def _displaced(ready: Iterable[Wish], taken: Mapping[str, Sequence[RunId]]) -> dict[RunId, str]:
    """Return the runs that have to end because a wish of their group says `cancel_running`, and why."""
    found: dict[RunId, str] = {}
    for wish in sorted(filter(_cancels, ready), key=lambda each: each.run_id):
        group = wish.request.concurrency.group if wish.request.concurrency is not None else ""
        for run_id in taken.get(group, ()):
            if run_id != wish.run_id:
                found.setdefault(run_id, f"{wish.run_id} takes its place in group '{group}'")
    return found


def _cancels(wish: Wish) -> bool:
    return wish.request.concurrency is not None and wish.request.concurrency.on_conflict == "cancel_running"


# ------------------------------------------------------------------------------------------------ problems


def problems(requests: Sequence[Request], known: Collection[Name], names: Iterable[Name]) -> dict[Name, list[Problem]]:
    """Return by name what is wrong with `after`: names that nothing is known of, and circles.

    `known` holds every name that may stand there. Requests that are proven already are not in `requests`, because
    nothing waits for them; `names` are those of all requests, to suggest from.
    """
    found: dict[Name, list[Problem]] = {}
    for request in requests:
        unknown = [(index, name) for index, name in enumerate(request.after) if name not in known]
        found[request.name] = [_unknown(request, index, name, names) for index, name in unknown]
    by_name = {each.name: each for each in requests}
    for circle in circles({each.name: each.after for each in requests}):
        for name in circle:
            found[name].append(_in_circle(by_name[name], circle))
    return {name: each for name, each in found.items() if each}


def _unknown(request: Request, index: int, name: Name, names: Iterable[Name]) -> Problem:
    near = islice((each for each in names if each[:1] == name[:1]), SUGGESTIONS_FROM_MAX)
    close = difflib.get_close_matches(name, near, 1)
    cure = f"did you mean '{close[0]}'?" if close else "name a request by its path below runs.d, '/' turned into '.'"
    reason = f"it comes after '{name}', and there is no such request"
    return Problem(path=request.source.path, pointer=f"/after/{index}", reason=reason, cure=cure, rule="unknown-after")


def _in_circle(request: Request, circle: Sequence[Name]) -> Problem:
    shown = [*circle[:CIRCLE_SHOWN_MAX], *(["..."] if len(circle) > CIRCLE_SHOWN_MAX else []), circle[0]]
    reason = f"requests come after each other: {' -> '.join(shown)}"
    cure = "remove one of these names from 'after'"
    return Problem(path=request.source.path, pointer="/after", reason=reason, cure=cure, rule="after-cycle")


def circles(after: Mapping[Name, Iterable[Name]]) -> Iterator[tuple[Name, ...]]:
    """Yield every group of names that come after each other in a circle, each in its order and beginning with the
    first by name. One circle is told of names that are in several."""
    done: set[Name] = set()
    for start in sorted(after):
        way: dict[Name, Iterator[Name]] = {}
        ahead: Name | None = start if start not in done else None
        while ahead is not None:
            done.add(ahead)
            way[ahead] = iter(after.get(ahead, ()))
            ahead = None
            while way and ahead is None:
                last = next(reversed(way))
                following = next(way[last], None)
                if following is None:
                    del way[last]
                elif following in way:
                    names = list(way)
                    circle = names[names.index(following) :]
                    first = circle.index(min(circle))
                    yield (*circle[first:], *circle[:first])
                elif following not in done:
                    ahead = following
