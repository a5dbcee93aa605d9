"""Nested runs: their wishes come from the plans of their parents, not from files.

The plan of a nested run is made from the commit that its parent works on, so that one run speaks of one commit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from reconciler import codec, resolve
from reconciler.evidence import Proofs
from reconciler.model import Name, Phase, Plan, Rejection, Request, Run, RunId, Wish, name_of_run
from reconciler.phases import phase
from reconciler.requests import Requests, rejected
from reconciler.tip import Tip
from reconciler.waiting import awaited_runs
from reconciler.wishes import Wishes
from reconciler.world import World


class Nested:
    """Makes the wishes for nested runs, each once; `tip_at` gives any commit as if it were the tip."""

    def __init__(
        self, world: World, tip: Tip, requests: Requests, wishes: Wishes, tip_at: Callable[[str], Tip]
    ) -> None:
        self.world, self.tip, self.requests, self.wishes = world, tip, requests, wishes
        self.tip_at = tip_at
        self.known: dict[RunId, Wish] = {}

    def awaited(self, runs: Mapping[RunId, Run], proofs: Proofs) -> list[Wish]:
        """Return the wishes for the nested runs that runs here wait for and that the tip does not prove."""
        now = self.world.now()
        found = []
        for run in runs.values():
            if run.planned and not run.corrupt and phase(run, now) == Phase.WAITING:
                wanted = [each for each in awaited_runs(run) if proofs.is_open(each)]
                found += [each for each in (self._wish(run, child) for child in wanted) if each is not None]
        return found

    def _wish(self, parent: Run, run_id: RunId) -> Wish | None:
        """Return the wish for a nested run, planned from the commit that its parent works on."""
        if run_id not in self.known:
            frozen = None
            with contextlib.suppress(codec.CodecError):
                frozen = self.world.runs.frozen_plan(parent.task_id, parent.run_id, parent.claim)
            children = [child for stage in frozen.stages for child in stage.children] if frozen is not None else []
            child = next((each for each in children if each.run_id == run_id), None)
            if frozen is None or child is None:
                return None
            request = resolve.nested_request(frozen, frozen.run_id, child)
            self.known[run_id] = Wish(request=request, run_id=run_id, plan=self._plan(request, frozen))
        return self.known[run_id]

    def _plan(self, request: Request, parent: Plan) -> Plan | Rejection:
        if request.name in self.requests.names:
            reason = f"the name '{request.name}' of a nested run is claimed by a request"
            return rejected(request.source.path, reason, "rename that request", "name-twin")
        plan = self.tip_at(parent.commit).plan_for(request)
        return replace(plan, branch=parent.branch) if isinstance(plan, Plan) else plan

    def of(self, run_id: RunId) -> Wish | None:
        """Return the wish for a nested run, to which a request leads whose name its own begins with; else None."""
        parts = name_of_run(run_id).split(".")
        names = (Name(".".join(parts[:count])) for count in range(1, len(parts)))
        for path in (self.requests.paths.get(self.requests.names.get(name) or RunId("")) for name in names):
            self.requests.read([path] if path else [])
            if path in self.requests.parsed and (found := self._leads_to(self.wishes.of(path).plan, run_id)):
                return found
        return None

    def _leads_to(self, plan: Plan | Rejection, run_id: RunId) -> Wish | None:
        """Return the wish for a run that is nested in a plan, however deep."""
        if isinstance(plan, Rejection):
            return None
        for child in (child for stage in plan.stages for child in stage.children):
            if child.run_id == run_id or run_id.startswith(f"{child.name}."):
                request = resolve.nested_request(plan, plan.run_id, child)
                inner = self.tip.plan_for(request)
                if child.run_id == run_id:
                    return Wish(request=request, run_id=run_id, plan=inner)
                if found := self._leads_to(inner, run_id):
                    return found
        return None
