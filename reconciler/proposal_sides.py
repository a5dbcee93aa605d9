"""What a commit, or the tree of a merge, asks for: read as a pass reads its tip, and by object id as well.

The rows of the cache are brought to the base first and to the merge from there, so this costs what differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from reconciler import resolve, schedule
from reconciler.approve import Case
from reconciler.cache import Cache
from reconciler.errors import ContentError
from reconciler.evidence import Proofs, Proven
from reconciler.model import Instant, Name, Occasion, Plan, PlannedStage, Problem, Rejection, Request, RunId, Status
from reconciler.preview import State, Wanted
from reconciler.recurring import Recurring
from reconciler.requests import Requests
from reconciler.tip import SETTINGS_PATH, Tip
from reconciler.world import World


@dataclass(slots=True, kw_only=True)
class Side:
    """One of the two: the base, or what merging makes of it. `broken` says why its settings cannot be used, if so."""

    world: World
    commit: str
    tip: Tip
    requests: Requests
    proofs: Proofs
    occasions: Recurring
    broken: tuple[Problem, ...] = ()

    def path_of(self, name: Name) -> str | None:
        """Return the file that alone claims a name and can be read, None if there is none."""
        return self.requests.recurring.get(name) or self.requests.paths.get(self.requests.names.get(name) or RunId(""))

    def request(self, name: Name) -> Request | None:
        path = self.path_of(name)
        self.requests.read([path] if path else [])
        return self.requests.parsed.get(path or "")

    def status(self, run_id: str) -> Status | None:
        """Return what is proven of a run, None if nothing is."""
        row = self.proofs.rows.get(run_id)
        return Status(row[2]) if row is not None else None

    def is_settled(self, run_id: str) -> bool:
        return not self.proofs.is_open(run_id)

    def state(self, wanted: Mapping[Name, Wanted]) -> State:
        return State(
            wanted=wanted,
            names=self.requests.names,
            settings=self.tip.settings,
            evidence=Proven(self.proofs.rows),
        )


def look(world: World, cache: Cache, commit: str, evidence_tip: str | None) -> Side:
    """Return what a commit or tree asks for; `evidence_tip` is the branch that evidence has of its own, if it has."""
    tip, broken = Tip(world, "merge"), []
    trees = tip.trees_at(commit)
    try:
        tip.read_settings(trees)
    except ContentError as error:
        broken = [Problem(path=SETTINGS_PATH, reason=f"the settings cannot be used: {error}", rule="broken-settings")]
    requests, proofs = Requests(world, cache, trees.requests), Proofs(world, cache)
    requests.read_tree(trees.requests)
    proofs.read_tree(trees.evidence)
    if evidence_tip:
        proofs.read_branch(evidence_tip, trees.evidence)
    tip.move_to(commit, trees)
    return Side(
        world=world,
        commit=commit,
        tip=tip,
        requests=requests,
        proofs=proofs,
        occasions=Recurring(world),
        broken=tuple(broken),
    )


def copied(cache: Cache) -> Cache:
    """Return a cache that can be brought elsewhere without touching this one."""
    return replace(cache, requests=dict(cache.requests), evidence=dict(cache.evidence))


# ------------------------------------------------------------------------------------------------ requests


def wanted(side: Side, names: Iterable[Name], now: Instant) -> dict[Name, Wanted]:
    """Return the requests of these names that a side has, with the plans they lead to."""
    paths = [path for name in dict.fromkeys(names) if (path := side.path_of(name)) is not None]
    side.requests.read(paths)
    asking = [side.requests.parsed[path] for path in paths if path in side.requests.parsed]
    side.occasions.prepare([each for each in asking if each.on_change], side.commit)
    return {each.name: _wanted(side, each, now) for each in asking}


def _wanted(side: Side, request: Request, now: Instant) -> Wanted:
    occasion = _occasion(side, request, now)
    if isinstance(occasion, Rejection):
        return Wanted(request=request, run_id=resolve.run_id(request), plan=occasion)
    run_id = resolve.run_id(request, occasion)
    return Wanted(
        request=request,
        run_id=run_id,
        plan=_plan(side, request, occasion),
        status=None if occasion.fired_at else side.status(run_id),
        fires_at=occasion.fired_at,
    )


def _plan(side: Side, request: Request, occasion: Occasion) -> Plan | Rejection:
    """Return the plan a request leads to, whether it is the reviewed one or not: that is told apart from it."""
    demanding = side.tip.settings
    try:
        side.tip.settings = replace(demanding, require_plan=False)
        return side.tip.plan_for(replace(request, plan=None), occasion)
    finally:
        side.tip.settings = demanding


def _occasion(side: Side, request: Request, now: Instant) -> Occasion | Rejection:
    """Return on which occasion a request asks for its run next: a schedule counts from the merge."""
    if request.schedule is not None:
        zone = side.world.contracts.zone(request.schedule.timezone)
        since_s = int(datetime.fromisoformat(now.at).timestamp())
        fire = schedule.following(request.schedule, zone, now, since_s) if zone is not None else None
        return Occasion(fired_at=fire or "")
    if request.on_change:
        found = side.occasions.asked(request, side.commit, side.tip.settings.checklists, now, None)
        return found if isinstance(found, Rejection) else found.current or resolve.ONCE
    return resolve.ONCE


def gates(plan: Plan | Rejection) -> list[PlannedStage]:
    """Return the stages of a plan that somebody must allow."""
    stages = () if isinstance(plan, Rejection) else plan.stages
    return [each for each in stages if each.selected and each.approval is not None]


def with_case(each: Wanted, case: Case) -> Wanted:
    digest = each.plan.digest if isinstance(each.plan, Plan) else ""
    return replace(each, case=replace(case, plan_digest=digest, labels=each.request.labels))
