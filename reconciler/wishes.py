"""From the requests at the tip to wishes: each with its run, its plan and its turn.

A request asks for one run, or, if it recurs, for one on every occasion. Plans are resolved once as long as nothing
they are made of changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from reconciler import queueing, resolve
from reconciler.evidence import Proofs
from reconciler.hearing import Hearing
from reconciler.here import Here
from reconciler.model import (
    Arrival,
    Name,
    Occasion,
    Plan,
    Problem,
    Rejection,
    Request,
    Run,
    RunId,
    TaskId,
    Wish,
    name_of_run,
)
from reconciler.recurring import Asked, Recurring
from reconciler.requests import Requests
from reconciler.tip import Tip
from reconciler.world import World


class Wishes:
    """Makes wishes of requests, remembering what was resolved."""

    def __init__(
        self, world: World, tip: Tip, requests: Requests, proofs: Proofs, here: Here, hearing: Hearing | None
    ) -> None:
        self.world, self.tip, self.requests, self.proofs = world, tip, requests, proofs
        self.here, self.hearing = here, hearing
        self.occasions = Recurring(world)
        self.known: dict[str, tuple[tuple[object, object], Wish]] = {}
        self.recurring_plans: dict[RunId, tuple[object, Plan | Rejection]] = {}

    def of(self, path: str) -> Wish:
        """Return the wish of a request at the tip; it is made once for a tip, and its plan is resolved once as long
        as nothing the plan is made of changes."""
        request = self.requests.parsed[path]
        made_of = self._made_of(request)
        known = self.known.get(path)
        if known is not None and known[0] == (self.tip.commit, made_of):
            return known[1]
        plan = known[1].plan if known is not None and known[0][1] == made_of else None
        if plan is None:
            plan = self.tip.plan_for(request)
        elif isinstance(plan, Plan):
            plan = replace(plan, commit=self.tip.commit or "", branch=self.tip.branch or "")
        wish = Wish(request=request, run_id=RunId(self.requests.cache.requests[path][1]), plan=plan)
        self.known[path] = ((self.tip.commit, made_of), wish)
        return wish

    def _made_of(self, request: Request) -> tuple[object, ...]:
        """Return what a plan is made of beside the commit it names."""
        return request.source.blob, *self.tip.made_of(request)

    def in_order(self, wishes: list[Wish], runs: Mapping[RunId, Run]) -> list[Wish]:
        """Return the wishes with what their order depends on: when they arrived, and what is wrong in their `after`."""
        if any(each.request.after for each in wishes):
            known = self._known_names(wishes, runs)
            problems = queueing.problems([each.request for each in wishes], known, self.requests.names)
            wishes = [self._with_problems(each, problems.get(each.request.name, ())) for each in wishes]
        grouped = any(each.request.concurrency for each in wishes)
        scarce = bool(self.tip.settings.executors) or len(wishes) > (self.tip.settings.runs_max or 2 * self.world.cpus)
        if len(wishes) > 1 and (grouped or scarce):
            arrivals = self._arrivals()
            wishes = [replace(each, arrival=arrivals(each.request.source.path)) for each in wishes]
        return wishes

    def _known_names(self, wishes: Sequence[Wish], runs: Mapping[RunId, Run]) -> set[Name]:
        """Return the names in `after` that a request has, or a run of which something is left."""
        named = {name for each in wishes for name in each.request.after}
        known = {name for name in named if name in self.requests.names}
        if named - known:
            ids = (*self.proofs.rows, *runs, *(self.hearing.claims if self.hearing else ()))
            known |= named & {name_of_run(run_id) for run_id in ids}
        return known

    def _arrivals(self) -> Callable[[str], Arrival]:
        return self.requests.arrivals(self.tip.commit or "", self.tip.trees.requests)

    def _with_problems(self, wish: Wish, problems: Sequence[Problem]) -> Wish:
        """Return a wish that cannot be launched for these problems, beside those it has already."""
        if not problems:
            return wish
        found = wish.plan.problems if isinstance(wish.plan, Rejection) else ()
        request, all_ = wish.request, (*found, *self.tip.located(wish.request, problems))
        return replace(wish, plan=Rejection(path=request.source.path, name=request.name, problems=all_))

    # -------------------------------------------------------------------------------------------- recurring requests

    def recurring(self, marked: Sequence[tuple[TaskId, RunId]]) -> tuple[list[Wish], Mapping[Name, RunId | None]]:
        """Return what recurring requests ask for: the run that is due and not proven, else the one to come, and those
        that are under way already; and all names, with the run that is the current one of each."""
        self.requests.read(list(self.requests.recurring.values()))
        paths, parsed = self.requests.recurring.values(), self.requests.parsed
        asking = [parsed[path] for path in paths if path in parsed]
        self.occasions.prepare(asking, self.tip.commit or "")
        under_way = self._fires_under_way(marked)
        names, wishes = dict(self.requests.names), []
        for name, path in self.requests.recurring.items():
            if path in self.requests.parsed:
                names[name], found = self._asked(self.requests.parsed[path], under_way)
                wishes += found
        kept = {each.run_id for each in wishes}
        self.recurring_plans = {run_id: each for run_id, each in self.recurring_plans.items() if run_id in kept}
        return wishes, names

    def _asked(self, request: Request, under_way: Mapping[RunId, str]) -> tuple[RunId | None, list[Wish]]:
        asked = self._occasions_of(request)
        if isinstance(asked, Rejection):
            run_id = resolve.run_id(request)
            return None, [Wish(request=request, run_id=run_id, plan=asked)]
        ids = {self.occasions.run_id(request, each): each for each in (asked.current, asked.coming) if each is not None}
        fires = {run_id: Occasion(fired_at=at) for run_id, at in under_way.items() if at}
        going = {each: fire for each, fire in fires.items() if self.occasions.run_id(request, fire) == each}
        current = next(iter(ids), None)
        again = {run_id: each for run_id, each in ids.items() if self.proofs.is_open(run_id) or run_id in under_way}
        wanted = dict(list(again.items())[:1])
        return current, [self._occasional(request, run_id, each) for run_id, each in {**going, **wanted}.items()]

    def _occasions_of(self, request: Request) -> Asked | Rejection:
        since_s = self._arrivals()(request.source.path).at_s if request.schedule is not None else None
        checklists = self.tip.settings.checklists
        return self.occasions.asked(request, self.tip.commit or "", checklists, self.world.now(), since_s)

    def _fires_under_way(self, marked: Sequence[tuple[TaskId, RunId]]) -> dict[RunId, str]:
        """Return the runs of recurring requests that are under way, with the fire each is for: those that are marked
        here, and those that are claimed elsewhere and not proven."""
        claims = self.hearing.claims.values() if self.hearing is not None else ()
        unproven = (each for each in claims if each.run_id not in self.proofs.rows)
        found = {each.run_id: each.fired_at for each in unproven if name_of_run(each.run_id) in self.requests.recurring}
        for task_id, run_id in marked:
            if name_of_run(run_id) in self.requests.recurring:
                run = self.here.run(task_id, run_id)
                found[run_id] = (run.fired_at if run is not None else "") or found.get(run_id, "")
        return found

    def _occasional(self, request: Request, run_id: RunId, occasion: Occasion) -> Wish:
        """Return the wish of a recurring request for one occasion; its plan is resolved once for a tip."""
        made_of = (self.tip.commit, *self._made_of(request))
        known = self.recurring_plans.get(run_id)
        if known is None or known[0] != made_of:
            known = self.recurring_plans[run_id] = (made_of, self.tip.plan_for(request, occasion))
        return Wish(request=request, run_id=run_id, plan=known[1], due_at=occasion.fired_at)

    def of_recurring(self, run_id: RunId, fired_at: str, *, pinned: bool) -> Wish | None:
        """Return the wish for one run of a recurring request, given the fire it is for, if it is known."""
        path = self.requests.recurring.get(name_of_run(run_id), "")
        self.requests.read([path] if path else [])
        request = self.requests.parsed.get(path)
        if request is None:
            return None
        asked = self._occasions_of(request) if not pinned or request.on_change else Asked(None)
        known = [] if isinstance(asked, Rejection) else [asked.current, asked.coming]
        fired = [Occasion(fired_at=fired_at)] if fired_at and self.occasions.has_fired(request, fired_at) else []
        occasions = (*fired, *(each for each in known if each is not None))
        found = next((each for each in occasions if resolve.run_id(request, each) == run_id), None)
        return self._occasional(request, run_id, found) if found is not None else None
