"""The slots of one pass: what this host has left when all that is under way, here and elsewhere, is counted. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime

from reconciler import queueing
from reconciler.model import ExecutorSettings, Instant, Limits, Phase, Plan, Run, RunId, Settings, Wish
from reconciler.phases import phase
from reconciler.placement import Busy, Candidate, Refused, Slots, keep, unfit
from reconciler.places import LOCAL, Executor, Instance, Placement
from reconciler.state import Actual, Desired

BUSY = (Phase.STARTING, Phase.RUNNING, Phase.STALE)
ANYTHING = (Executor(name=LOCAL, instances=(Instance(name=""),)),)
"""Where nothing is said of executors: one that takes whatever needs nothing."""


def executors_here(settings: Settings, host: str, capabilities: Collection[str]) -> tuple[Executor, ...]:
    """Return the executors of this host: those of the settings, each with what this host offers beside."""
    said = settings.executors or {LOCAL: ExecutorSettings()}
    return tuple(
        Executor(
            name=name,
            capabilities=tuple(sorted({*each.capabilities, *capabilities})),
            weight=each.weight,
            instance_runs_max=each.runs_max,
            instances=(Instance(name=host),),
        )
        for name, each in said.items()
    )


def slots_now(desired: Desired, actual: Actual, held_back: Collection[str], now: Instant, limits: Limits) -> Slots:
    """Return what may still be started here. Of the runs in `held_back`, those of which nothing lives take no slot."""
    wishes = {each.run_id: each for each in desired.wishes}
    here = [
        _busy(run, wishes.get(run.run_id), limits) for run in actual.runs.values() if takes_a_slot(run, held_back, now)
    ]
    now_s = datetime.fromisoformat(now.at).timestamp()
    slots = Slots(limits.runs_max - len(here), executors(limits), limits.quotas, dict(actual.served), now_s)
    return slots.count([*here, *_elsewhere(wishes, actual)])


def executors(limits: Limits) -> tuple[Executor, ...]:
    """Return the executors of this host."""
    return limits.executors or ANYTHING


def takes_a_slot(run: Run, held_back: Collection[str], now: Instant) -> bool:
    """Return whether a run counts against `runs_max`: one that a person holds back and of which nothing lives does
    not."""
    if run.run_id in held_back and not run.lock_held:
        return False
    return phase(run, now) in BUSY


def _busy(run: Run, wish: Wish | None, limits: Limits) -> Busy:
    """Return what a run here counts against: the labels it was launched with, and those its request has by now."""
    placed = run.claim.placement if run.claim is not None else None
    return Busy(
        run_id=run.run_id,
        task=run.task_id,
        labels=(*run.labels, *(wish.request.labels if wish is not None else ())),
        executor=placed.executor if placed is not None else "",
        # Whatever this host was called when it was claimed.
        instance=next((each.name for each in executors(limits)[0].instances), ""),
    )


def _elsewhere(wishes: Mapping[RunId, Wish], actual: Actual) -> Iterator[Busy]:
    """Yield the runs that other hosts execute, as far as they have not fallen silent: they count against quotas."""
    for run_id, held in (actual.held or {}).items():
        if held.ours or held.silent or run_id in actual.runs or actual.proves(run_id, max(1, held.claim.number)):
            continue
        plan = held.plan.labels if isinstance(held.plan, Plan) else ()
        wish = wishes[run_id].request.labels if run_id in wishes else ()
        yield Busy(run_id=run_id, task=held.claim.task_id, labels=(*plan, *wish))


def within_quotas(
    begins: Iterable[Candidate], desired: Desired, actual: Actual, now: Instant, limits: Limits
) -> frozenset[RunId]:
    """Return those of the runs that are about to begin, in their order, that fit the quotas beside all that is under
    way here and at the remote. What this host has only just claimed is not under way."""
    if not (limits.quotas.tasks or limits.quotas.labels):
        return frozenset(RunId(each.run_id) for each in begins)
    slots, found = slots_now(desired, actual, (), now, limits), set[RunId]()
    for each in begins:
        if slots.over_quota(each) is None:
            slots.count([Busy(run_id=each.run_id, task=each.task, labels=each.labels)])
            found.add(RunId(each.run_id))
    return frozenset(found)


# ------------------------------------------------------------------------------------------------ candidates


def of_plan(plan: Plan) -> Candidate:
    """Return what a planned run asks for, where its turn has come already."""
    return Candidate(run_id=plan.run_id, task=plan.task_id, labels=plan.labels, capabilities=plan.capabilities)


def of_run(run: Run) -> Candidate:
    """Return what a run that is there asks for."""
    return Candidate(run_id=run.run_id, task=run.task_id, labels=run.labels, capabilities=run.capabilities)


def of_wish(wish: Wish, plan: Plan) -> Candidate:
    """Return what a run asks for that waits for its turn."""
    return Candidate(
        run_id=wish.run_id,
        task=wish.request.task,
        labels=wish.request.labels,
        capabilities=plan.capabilities,
        priority=wish.request.priority,
        since_s=float(wish.arrival.at_s or 0),
    )


def misfits(wishes: Iterable[Wish], limits: Limits) -> dict[RunId, Refused]:
    """Return the wishes that no executor here can execute, and why."""
    asking = ((each.run_id, each.plan.capabilities) for each in wishes if isinstance(each.plan, Plan))
    found = {run_id: unfit(words, executors(limits)) for run_id, words in asking if words}
    return {run_id: each for run_id, each in found.items() if each is not None}


def again(run: Run, limits: Limits) -> Placement | Refused:
    """Return where a run that has its slot already goes on: at the executor where it was, if that is there and fits."""
    placed = run.claim.placement if run.claim is not None else None
    return keep(run.capabilities, executors(limits), placed.executor if placed is not None else "")


def order(wish: Wish, now: Instant, ageing_s: float) -> tuple[int, int]:
    """Return what orders wishes: their priority with its points for waiting, and without them where that is equal."""
    return -queueing.priority(wish, now, ageing_s), -wish.request.priority
