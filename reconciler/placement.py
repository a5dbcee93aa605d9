"""Where a run is executed, and whose turn it is when not all can be. Pure.

**Turns.** Candidates come in the order of their priority; neighbours of one priority are equals, and among equals tasks
take turns: first the task with the fewest runs under way, then the one that has waited longest (since it was served, or
since its first candidate arrived if that is later), then the one whose first candidate comes first. Within a task the
order is that of the candidates.

The bound: while a task has a candidate that could be placed and nothing under way, every other task is served before
it at most once, and only if it has waited longer. So where T tasks want something it waits for T - 1 launches of
others, its n-th candidate for n * (T - 1); tasks that come later come behind it. What a quota or a capability keeps
back takes no turn from others.

**Executors.** What fits offers every capability that is asked. Among those that fit and have a slot, each is given runs
in proportion to its weight, smoothly and without any memory but the runs that are under way: the next one goes where
`(2 * runs + 1) / weight` is least (the divisor method of Webster), to the one with fewer runs where two are equal, else
to the first that is named.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from reconciler.places import Executor, Instance, Placement, Quotas, Where
from reconciler.values import frozen

EVERY = "*"
NO_CLOUD = "waits for an executor elsewhere (cloud): none is configured, and it is never executed here instead"
NAMED_MAX = 10
"""So many capabilities are named in a sentence."""


CLOUD = "cloud"
"""The executor that runs go to whose execution mode is `cloud`."""


@frozen
class Needs:
    """What a run needs of its executor."""

    capabilities: tuple[str, ...] = ()
    where: Where = Where.ANYWHERE


@frozen
class Candidate:
    """A run that wants a slot: what it needs and what it counts against. `priority` is that of its request: neighbours
    with the same one are equals. `since_s` is when it arrived, in seconds since 1970, 0 where that is not known.
    `where` is where it may be executed at all."""

    run_id: str
    task: str
    labels: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    priority: int = 0
    since_s: float = 0.0
    where: Where = Where.ANYWHERE

    @property
    def needs(self) -> Needs:
        return Needs(capabilities=self.capabilities, where=self.where)


@frozen
class Busy:
    """A run under way that takes a slot: `executor` and `instance` where it is, "" where that is not known here."""

    run_id: str
    task: str
    labels: tuple[str, ...] = ()
    executor: str = ""
    instance: str = ""


@frozen
class Refused:
    """Why a run is not placed now. `settled` is True where only a person can change it; `full` where it is for want of
    a slot of this host alone."""

    reason: str
    settled: bool = False
    full: bool = False


@frozen
class Placed:
    """Everybody's place: `assignments` in the order in which to launch, `waits` with reasons in the order of turns."""

    assignments: Mapping[str, Placement]
    waits: Mapping[str, Refused]


@dataclass(slots=True)
class Slots:
    """What may still be started, counted down as it is given away. `left` is what this host has left of `runs_max`;
    `served` says when tasks were served last, in seconds since 1970 as `now_s` is."""

    left: int
    executors: tuple[Executor, ...]
    quotas: Quotas = field(default_factory=Quotas)
    served: dict[str, float] = field(default_factory=dict)
    now_s: float = 0.0
    loads: Counter[tuple[str, str]] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)

    def count(self, busy: Iterable[Busy]) -> Slots:
        """Take note of runs that are under way, and return itself."""
        for each in busy:
            self.loads[each.executor, each.instance] += 1
            self.tasks[each.task] += 1
            self.labels.update(set(each.labels))
        return self

    def take(self, candidate: Candidate) -> Placement | Refused:
        """Return where a run is placed, and take its slot; or why it is not, and take nothing."""
        refused = unfit(candidate.needs, self.executors) or self._over_quota(candidate)
        if refused is not None:
            return refused
        found = self._choose(candidate)
        if isinstance(found, Placement):
            self.left -= not _engine_of(found.executor, self.executors)
            self.count([_busy(candidate, found)])
            self.served[candidate.task] = self.now_s
        return found

    def _over_quota(self, candidate: Candidate) -> Refused | None:
        """Return which quota a run would break, None if none."""
        task, quotas = candidate.task, self.quotas
        bound = quotas.tasks.get(task, quotas.tasks.get(EVERY))
        if bound is not None and self.tasks[task] >= bound:
            return Refused(reason=f"waits for a run of task '{task}' to end: its quota is {bound} (quotas.tasks)")
        for label in candidate.labels:
            bound = quotas.labels.get(label)
            if bound is not None and self.labels[label] >= bound:
                return Refused(
                    reason=f"waits for a run with label '{label}' to end: its quota is {bound} (quotas.labels)"
                )
        return None

    def _choose(self, candidate: Candidate) -> Placement | Refused:
        """Return the place whose turn it is by weight, of those that fit and have a slot."""
        able = fitting(candidate.needs, self.executors)
        if self.left <= 0 and not any(each.engine for each in able):
            return Refused(reason="waits for a free slot (runs_max)", full=True)
        free = [(each, instance) for each in able for instance in self._free(each)]
        if not free:
            return self._nothing_free(able)
        executor, instance = min(free, key=lambda place: self._turn(*place))
        return _placement(candidate.capabilities, executor, instance, self._why(executor, able, free))

    def _nothing_free(self, able: Sequence[Executor]) -> Refused:
        """Return what a run waits for that fits somewhere and can be placed nowhere now."""
        refusal = next(
            (f"executor '{each.name}' takes nothing now: {each.refusal}" for each in able if each.refusal), ""
        )
        names = ", ".join(f"'{each.name}'" for each in able if not each.refusal)
        slot = f"waits for a free slot of executor {names} (executors)" if names else ""
        return Refused(reason="; ".join(filter(None, (slot, refusal))))

    def _free(self, executor: Executor) -> Iterator[Instance]:
        """Yield the instances of an executor that live and have a slot."""
        if executor.refusal or (self.left <= 0 and not executor.engine):
            return
        if executor.runs_max is not None and self._load(executor) >= executor.runs_max:
            return
        bound = executor.instance_runs_max
        for each in executor.instances:
            is_full = bound is not None and self.loads[executor.name, each.name] >= bound
            if not is_full and each.silent_s <= executor.silent_max_s:
                yield each

    def _load(self, executor: Executor) -> int:
        return sum(self.loads[executor.name, each.name] for each in executor.instances)

    def _turn(self, executor: Executor, instance: Instance) -> tuple[float, int, int]:
        load = self._load(executor)
        return (2 * load + 1) / max(executor.weight, 1), load, self.loads[executor.name, instance.name]

    def _why(self, executor: Executor, able: Sequence[Executor], free: Sequence[tuple[Executor, Instance]]) -> str:
        if len(able) == 1:
            return "the only one that fits"
        others = {each.name for each, _ in free}
        if len(others) == 1:
            return f"the only one with a free slot, of {len(able)} that fit"
        return f"its turn by weight ({self._load(executor)} under way), of {len(others)} that fit"


def _placement(capabilities: Iterable[str], executor: Executor, instance: Instance, reason: str) -> Placement:
    return Placement(
        executor=executor.name,
        instance=instance.name,
        asked=tuple(sorted(set(capabilities))),
        offered=executor.capabilities,
        weight=executor.weight,
        reason=reason,
    )


def _busy(candidate: Candidate, placement: Placement) -> Busy:
    return Busy(
        run_id=candidate.run_id,
        task=candidate.task,
        labels=candidate.labels,
        executor=placement.executor,
        instance=placement.instance,
    )


# ------------------------------------------------------------------------------------------------ what fits


def fitting(needs: Needs, executors: Sequence[Executor]) -> list[Executor]:
    """Return the executors that offer all that is needed: those of weight 0 only where no other one does."""
    able = [each for each in _there(needs.where, executors) if set(needs.capabilities) <= set(each.capabilities)]
    return [each for each in able if each.weight] or able


def _there(where: Where, executors: Sequence[Executor]) -> Sequence[Executor]:
    """Return the executors that are where a run may be executed."""
    if where == Where.CLOUD:
        return [each for each in executors if each.name == CLOUD]
    return [each for each in executors if not each.engine] if where == Where.HERE else executors


def _engine_of(name: str, executors: Sequence[Executor]) -> str:
    return next((each.engine for each in executors if each.name == name), "")


def unfit(needs: Needs, executors: Sequence[Executor]) -> Refused | None:
    """Return why no executor here can execute what needs this, None if one can."""
    if fitting(needs, executors):
        return None
    asked, there = sorted(set(needs.capabilities)), _there(needs.where, executors)
    if needs.where == Where.CLOUD and not there:
        return Refused(reason=NO_CLOUD, settled=True)
    offered = sorted({word for each in there for word in each.capabilities})
    reason = f"waits for an executor with {_listed(asked)}: those of this host offer {_listed(offered)}"
    return Refused(reason=f"{reason} (executors, RECONCILER_CAPABILITIES)", settled=True)


def keep(needs: Needs, executors: Sequence[Executor], executor: str) -> Placement | Refused:
    """Return where a run goes on that has begun, whatever slots there are: at the executor where it was, else at the
    first that fits."""
    refused = unfit(needs, executors)
    if refused is not None:
        return refused
    same = next(iter(fitting(needs, [each for each in executors if each.name == executor])), None)
    chosen = same or fitting(needs, executors)[0]
    if chosen.refusal:
        return Refused(reason=f"executor '{chosen.name}' takes nothing now: {chosen.refusal}")
    why = "it goes on where it was" if same else "the first that fits, for a run that has begun"
    return _placement(needs.capabilities, chosen, chosen.instances[0], why)


def _listed(words: Sequence[str]) -> str:
    shown = ", ".join(words[:NAMED_MAX])
    return f"{shown} and {len(words) - NAMED_MAX} more" if len(words) > NAMED_MAX else shown or "none"


# ------------------------------------------------------------------------------------------------ whose turn


def place(
    candidates: Sequence[Candidate],
    executors: Sequence[Executor],
    under_way: Iterable[Busy],
    quotas: Quotas,
    *,
    runs_max: int,
    served: Mapping[str, float] | None = None,
    now_s: float = 0.0,
) -> Placed:
    """Return who is launched now and where, and what the others wait for. `runs_max` bounds all that is under way."""
    busy = tuple(under_way)
    slots = Slots(runs_max - len(busy), tuple(executors), quotas, dict(served or {}), now_s)
    return give(candidates, slots.count(busy))


def give(candidates: Sequence[Candidate], slots: Slots) -> Placed:
    """Give slots to candidates, in the order of their turns. Those that get none are told how many go first."""
    assignments: dict[str, Placement] = {}
    waits: dict[str, Refused] = {}
    several = len({each.task for each in candidates}) > 1
    behind = 0
    for candidate in _turns(candidates, slots):
        found = slots.take(candidate)
        if isinstance(found, Placement):
            assignments[candidate.run_id] = found
            continue
        waits[candidate.run_id] = _behind(found, behind) if several and found.full else found
        behind += found.full
    return Placed(assignments=assignments, waits=waits)


def _behind(refused: Refused, count: int) -> Refused:
    """Return what a run waits for whose task takes turns with others."""
    first = f"{count} others go first" if count > 1 else "another one goes first" if count else "it is next"
    return Refused(reason=f"{refused.reason}; tasks take turns, and {first}", full=True)


def _turns(candidates: Sequence[Candidate], slots: Slots) -> Iterator[Candidate]:
    """Yield all candidates, each when it is its task's turn as `slots` stands then."""
    for _, equals in groupby(candidates, key=lambda each: each.priority):
        yield from _take_turns(list(equals), slots)


@frozen
class _Head:
    """A candidate in the queue of its task: its index in the line, and when the first of those from it on arrived."""

    candidate: Candidate
    index: int
    since_s: float


def _take_turns(equals: Sequence[Candidate], slots: Slots) -> Iterator[Candidate]:
    """Yield candidates of one priority. A task that waits in vain counts as served, so that those who wait are put in
    the order in which slots that come free would reach them."""
    queues = _queues(equals)
    in_vain: dict[str, tuple[int, int]] = {}
    number = 0
    heap = [(_turn(queue[-1], slots, (0, 0)), task) for task, queue in queues.items()]
    heapq.heapify(heap)
    while heap:
        _, task = heapq.heappop(heap)
        before = slots.tasks[task]
        yield queues[task].pop().candidate
        if slots.left <= 0 and slots.tasks[task] == before:
            number += 1
            in_vain[task] = in_vain.get(task, (0, 0))[0] + 1, number
        if queues[task]:
            heapq.heappush(heap, (_turn(queues[task][-1], slots, in_vain.get(task, (0, 0))), task))


def _queues(equals: Sequence[Candidate]) -> dict[str, list[_Head]]:
    """Return the candidates by task, the first of each last."""
    queues: dict[str, list[_Head]] = {}
    for index, candidate in reversed(list(enumerate(equals))):
        queue = queues.setdefault(candidate.task, [])
        since_s = min(candidate.since_s, queue[-1].since_s) if queue else candidate.since_s
        queue.append(_Head(candidate=candidate, index=index, since_s=since_s))
    return queues


def _turn(head: _Head, slots: Slots, in_vain: tuple[int, int]) -> tuple[int, float, bool, int, int]:
    """Return what orders tasks: how many of its runs are under way, since when it waits, and its place in the line.
    `in_vain` is how often it had its turn for nothing, and when last."""
    task = head.candidate.task
    arrived_s, served_s = min(head.since_s, slots.now_s), slots.served.get(task, -1.0)
    since_s = float("inf") if in_vain[0] else max(arrived_s, served_s)
    # Who was served at the instant at which another one began to wait comes behind it.
    return slots.tasks[task] + in_vain[0], since_s, served_s >= arrived_s, in_vain[1], head.index
