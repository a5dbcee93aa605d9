"""The plans on which this machine may go on with runs that another one claimed or left waiting.

Such a plan was frozen elsewhere. It is made again from the commit that it was frozen from, so that the same stages are
meant; only where the branch does not hold that commit any more, a claimed run goes on as its request at the tip says.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from reconciler.errors import ContentError
from reconciler.hearing import Hearing
from reconciler.model import Evidence, Held, HostId, Plan, Rejection, Run, RunId, Wish
from reconciler.tip import Tip
from reconciler.world import World

REMEMBERED_MAX = 1_000
"""So many plans made from other commits are remembered before all are made anew."""
OBJECT_ID = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")

WishAt = Callable[[RunId, str, str | None], Wish | None]


class Adopted:
    """Makes these plans, each once for a tip; `wish_at` gives the wish for a run and a fire at a commit, None for the
    tip."""

    def __init__(self, world: World, tip: Tip, wish_at: WishAt) -> None:
        self.world, self.tip, self.wish_at = world, tip, wish_at
        self.plans: dict[str, Plan | Rejection | None] = {}

    def held(
        self, hearing: Hearing, me: HostId | None, runs: Mapping[RunId, Run], *, online: bool
    ) -> dict[RunId, Held]:
        """Return the claims at the remote, with a plan where this machine may have to go on with a run."""
        held = hearing.held(me)
        for run_id, each in held.items():
            run = runs.get(run_id)
            behind = run is None or run.number < each.claim.number
            if online and (each.silent or (each.ours and behind)):
                held[run_id] = replace(each, plan=self._plan_of(run_id, each))
        return held

    def as_frozen(self, wish: Wish, elsewhere: Mapping[RunId, Evidence], runs: Mapping[RunId, Run]) -> Wish:
        """Return a wish with the plan that its run waits on, where another machine left it waiting."""
        evidence = elsewhere.get(wish.run_id)
        if evidence is None or evidence.waiting is None or wish.run_id in runs:
            return wish
        key = f"{wish.run_id} {evidence.waiting.commit}"
        if key not in self.plans:
            self.plans[key] = self._plan_at(wish.run_id, evidence.waiting.commit, wish.due_at)
        frozen = self.plans[key]
        return replace(wish, plan=frozen) if frozen is not None else wish

    def forget(self) -> None:
        """Let go of plans that were made, if they are many."""
        if len(self.plans) > REMEMBERED_MAX:
            self.plans = {}

    def _plan_of(self, run_id: RunId, held: Held) -> Plan | Rejection | None:
        """Return the plan of a run that was claimed elsewhere: made from the commit it was frozen from if the branch
        still holds that, else from its request at the tip."""
        key = f"{held.oid} {self.tip.commit}"
        if key not in self.plans:
            self.plans[key] = self._make_plan(run_id, held)
        return self.plans[key]

    def _make_plan(self, run_id: RunId, held: Held) -> Plan | Rejection | None:
        commit = held.claim.claims[-1].commit if held.claim.claims else ""
        frozen = self._plan_at(run_id, commit, held.claim.fired_at)
        if frozen is None or isinstance(frozen, Rejection):
            found = self.wish_at(run_id, held.claim.fired_at, None)
            return found.plan if found is not None else frozen
        return frozen

    def _plan_at(self, run_id: RunId, commit: str, fired_at: str) -> Plan | Rejection | None:
        """Return the plan of a run as it is made from a commit, None if the branch does not hold that (any more)."""
        if OBJECT_ID.fullmatch(commit) and self.world.repository.is_ancestor(commit, self.tip.commit or ""):
            with contextlib.suppress(ContentError):
                found = self.wish_at(run_id, fired_at, commit)
                return found.plan if found is not None else None
        return None
