"""The slots of one pass: what this host has left when all that is under way, here and elsewhere, is counted. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime

from reconciler import queueing
from reconciler.model import (
    ExecutorSettings,
    Instant,
    Limits,
    Phase,
    Plan,
    Run,
    RunId,
    Settings,
    Wish,
)
from reconciler.phases import phase
from reconciler.placement import Busy, Candidate, Needs, Refused, Slots, keep, unfit
from reconciler.places import LOCAL, Executor, Instance, Placement
from reconciler.state import Actual, Desired

BUSY = (Phase.STARTING, Phase.RUNNING, Phase.STALE)
ANYTHING = (Executor(name=LOCAL, instances=(Instance(name=""),)),)
"""Where nothing is said of executors: one that takes whatever needs nothing."""


def executors_here(
    settings: Settings, host: str, capabilities: Collection[str], refusals: Mapping[str, str]
) -> tuple[Executor, ...]:
    """Return the executors of the settings: of those that this host is, each with what it offers beside; of those with
    an engine, each with why that takes nothing now (`refusals`). Where none is this host, `local` is."""
    said = dict(settings.executors)
    if all(each.engine for each in said.values()):
        said = {LOCAL: ExecutorSettings(), **said}
    return tuple(
        _with_engine(name, each, refusals.get(name, "")) if each.engine else _of_host(name, each, host, capabilities)
        for name, each in said.items()
    )


def _of_host(name: str, said: ExecutorSettings, host: str, capabilities: Collection[str]) -> Executor:
    return Executor(
        name=name,
        capabilities=tuple(sorted({*said.capabilities, *capabilities})),
        weight=1 if said.weight is None else said.weight,
        instance_runs_max=said.runs_max,
        instances=(Instance(name=host),),
    )


def _with_engine(name: str, said: ExecutorSettings, refusal: str) -> Executor:
    return Executor(
        name=name,
        capabilities=tuple(sorted(said.capabilities)),
        weight=said.weight or 0,
        runs_max=said.runs_max,
        instances=(Instance(name=said.engine),),
        engine=said.engine,
        refusal=refusal,
    )


def slots_now(desired: Desired, actual: Actual, held_back: Collection[str], now: Instant, limits: Limits) -> Slots:
    """Return what may still be started here. Of the runs in `held_back`, those of which nothing lives take no slot."""
    wishes = {each.run_id: each for each in desired.wishes}
    here = [
        _busy(run, wishes.get(run.run_id), limits) for run in actual.runs.values() if takes_a_slot(run, held_back, now)
    ]
    now_s = datetime.fromisoformat(now.at).timestamp()
    busy = sum(not _has_engine(each.executor, limits) for each in here)
    slots = Slots(limits.runs_max - busy, executors(limits), limits.quotas, dict(actual.served), now_s)
    return slots.count([*here, *_elsewhere(wishes, actual, limits)])


def _has_engine(executor: str, limits: Limits) -> bool:
    return any(each.engine for each in limits.executors if each.name == executor)


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
        instance=_instance(placed.executor if placed is not None else "", limits),
    )


def _instance(executor: str, limits: Limits) -> str:
    """Return the instance of an executor, whatever this host was called when something was claimed there."""
    there = next((each for each in executors(limits) if each.name == executor), executors(limits)[0])
    return next((each.name for each in there.instances), "")


def _elsewhere(wishes: Mapping[RunId, Wish], actual: Actual, limits: Limits) -> Iterator[Busy]:
    """Yield the runs that other hosts execute, as far as they have not fallen silent: they count against quotas, and
    those at engines against the bounds of their executors."""
    for run_id, held in (actual.held or {}).items():
        if held.ours or held.silent or run_id in actual.runs or actual.proves(run_id, max(1, held.claim.number)):
            continue
        plan = held.plan.labels if isinstance(held.plan, Plan) else ()
        wish = wishes[run_id].request.labels if run_id in wishes else ()
        placed = held.claim.claims[-1].placement if held.claim.claims else None
        executor = placed.executor if placed is not None and _has_engine(placed.executor, limits) else ""
        instance = _instance(executor, limits) if executor else ""
        labels = (*plan, *wish)
        yield Busy(run_id=run_id, task=held.claim.task_id, labels=labels, executor=executor, instance=instance)


# ------------------------------------------------------------------------------------------------ candidates


def of_plan(plan: Plan) -> Candidate:
    """Return what a planned run asks for, where its turn has come already."""
    return Candidate(
        run_id=plan.run_id,
        task=plan.task_id,
        labels=plan.labels,
        capabilities=plan.capabilities,
        where=plan.where,
    )


def of_run(run: Run) -> Candidate:
    """Return what a run that is there asks for."""
    return Candidate(
        run_id=run.run_id,
        task=run.task_id,
        labels=run.labels,
        capabilities=run.capabilities,
        where=run.where,
    )


def needs_of(plan: Plan) -> Needs:
    """Return what a planned run needs of its executor."""
    return Needs(capabilities=plan.capabilities, where=plan.where)


def of_wish(wish: Wish, plan: Plan) -> Candidate:
    """Return what a run asks for that waits for its turn."""
    return Candidate(
        run_id=wish.run_id,
        task=wish.request.task,
        labels=wish.request.labels,
        capabilities=plan.capabilities,
        where=plan.where,
        priority=wish.request.priority,
        since_s=float(wish.arrival.at_s or 0),
    )


def misfits(wishes: Iterable[Wish], limits: Limits) -> dict[RunId, Refused]:
    """Return the wishes that no executor here can execute, and why."""
    asking = ((each.run_id, needs_of(each.plan)) for each in wishes if isinstance(each.plan, Plan))
    found = {run_id: unfit(needs, executors(limits)) for run_id, needs in asking if needs != Needs()}
    return {run_id: each for run_id, each in found.items() if each is not None}


def again(run: Run, limits: Limits) -> Placement | Refused:
    """Return where a run that has its slot already goes on: at the executor where it was, if that is there and fits."""
    placed = run.claim.placement if run.claim is not None else None
    return keep(of_run(run).needs, executors(limits), placed.executor if placed is not None else "")


def order(wish: Wish, now: Instant, ageing_s: float) -> tuple[int, int]:
    """Return what orders wishes: their priority with its points for waiting, and without them where that is equal."""
    return -queueing.priority(wish, now, ageing_s), -wish.request.priority
