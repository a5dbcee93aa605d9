"""Look at the world: what the tip asks for, what it proves, and what is under way on this machine.

Everything from git is read by object id and remembered by it, so looking again costs what has changed since. The parts
are `tip`, `requests`, `evidence`, `here`, `wishes`, `nesting` and `approvals`; here they are put together, and here is
decided which commit is the tip.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reconciler.approvals import Approvals
from reconciler.cache import read_cache, write_cache
from reconciler.errors import ContentError, GitFailed
from reconciler.evidence import Proofs, Proven
from reconciler.hearing import Hearing
from reconciler.here import Here
from reconciler.model import (
    Evidence,
    Held,
    HostId,
    Instant,
    Limits,
    Name,
    Phase,
    Plan,
    Rejection,
    Run,
    RunId,
    Settings,
    Wish,
    name_of_run,
)
from reconciler.nesting import Nested
from reconciler.phases import ENDED, phase
from reconciler.requests import Requests
from reconciler.state import Actual, Desired
from reconciler.tip import Tip, Trees
from reconciler.wishes import Wishes
from reconciler.world import World

OBJECT_ID = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """The world at one instant, as far as a decision needs it.

    `tip` is the commit that everything is wanted by; `evidence_tip` the one that holds the evidence, the same unless
    evidence has a branch of its own ("" if that branch does not exist yet).
    """

    branch: str
    tip: str
    evidence_tip: str
    settings: Settings
    desired: Desired
    actual: Actual
    limits: Limits
    now: Instant


class Observer:
    """Looks at one repository again and again, remembering what it has read."""

    def __init__(self, world: World, branch: str | None = None, pinned: str | None = None) -> None:
        self.world, self.pinned = world, pinned
        self.hearing = Hearing(world) if world.remote is not None and pinned is None else None
        self.online = self.head_is_unborn = self.looking = False
        self.cache_path = world.repository.state / "cache.json"
        self.cache = read_cache(self.cache_path, world.disk)
        self.tip = Tip(world, branch)
        self.requests = Requests(world, self.cache)
        self.proofs = Proofs(world, self.cache)
        self.here = Here(world)
        self.wishes = Wishes(world, self.tip, self.requests, self.proofs, self.here, self.hearing)
        self.nested = Nested(world, self.tip, self.requests, self.wishes, self._tip_at)
        self.approvals = Approvals(world, self.tip, self.requests)
        self.plans: dict[str, Plan | Rejection | None] = {}

    @property
    def settings(self) -> Settings:
        """The settings of the tip that was looked at last."""
        return self.tip.settings

    def ask(self) -> None:
        """Ask the remote what is new. Raise GitFailed if it does not answer: then what is known stays."""
        assert self.hearing is not None
        self.online = False
        asked = self._branches()
        self.hearing.ask(asked)
        if f"refs/heads/{self.tip.branch}" in self.hearing.refs:
            # A clone that never had a commit of its own learns here which branches are meant.
            self._look_at_tip()
            if self.head_is_unborn and self.tip.settings.branch is not None:
                self.tip.branch = self.tip.settings.branch
            if set(self._branches()) - set(asked):
                self.hearing.ask(self._branches())
        self.online = True

    def recall(self) -> None:
        """Take what the remote said last for what it would say now: for those who look and do not act."""
        self.looking = True
        if self.hearing is not None:
            self.hearing.recall(self._branches())
            self.online = True

    def remember(self) -> None:
        """Write down what has changed since it was read: the cache, and what was heard of other machines."""
        if self.hearing is not None:
            self.hearing.remember()
        if self.cache.changed:
            write_cache(self.cache_path, self.cache, self.world.disk)
            self.cache.changed = False

    def observe(self) -> Observation:
        """Return the world as it is now. Raise ContentError if there is no commit or the settings are broken."""
        branch, tip = self._look_at_tip()
        marks = self.world.runs.marks()
        marked = [(task_id, run_id) for run_id, task_id in marks.items() if task_id is not None]
        paths = self.requests.unsettled(marked, self.proofs.rows)
        self.requests.read(paths)
        wishes = [self.wishes.of(path) for path in paths if path in self.requests.parsed]
        recurring, names = self.wishes.recurring(marked) if self.requests.recurring else ([], self.requests.names)
        wishes += recurring
        runs = self.here.runs(marked, wishes)
        nested = self.nested.awaited(runs, self.proofs)
        wishes += nested
        runs |= self.here.runs([(each.request.task, each.run_id) for each in nested if each.run_id not in runs], ())
        wishes = self.wishes.in_order(wishes, runs)
        me = self.world.host()
        return Observation(
            branch=branch,
            tip=tip,
            evidence_tip=self.proofs.tip,
            settings=self.tip.settings,
            desired=self._desired(wishes, runs, names),
            actual=Actual(
                runs=runs,
                evidence=Proven(self.proofs.rows),
                held=self._held(me, runs),
                neighbours=self.hearing.neighbours(me) if self.hearing else {},
                lost=self._lost(),
                unclaimed=tuple(each for each in marks if each not in runs),
            ),
            limits=Limits(
                runs_max=self.tip.settings.runs_max or 2 * self.world.cpus,
                online=self.hearing is None or self.online,
                host=me if self.hearing else None,
                ageing_s=self.tip.settings.ageing_s,
            ),
            now=self.world.now(),
        )

    def _desired(
        self, wishes: Sequence[Wish], runs: Mapping[RunId, Run], names: Mapping[Name, RunId | None]
    ) -> Desired:
        """Return what is wanted, and what was decided about the runs that wait for it."""
        now, policies = self.world.now(), self.tip.settings.approvals
        proven = Proven(self.proofs.rows)
        elsewhere = {each.run_id: proven[each.run_id] for each in wishes if self.proofs.waits(each.run_id)}
        here = {run_id: run for run_id, run in runs.items() if phase(run, now) == Phase.WAITING}
        wishes = [self._as_frozen(each, elsewhere, runs) for each in wishes]
        waiting = [each for each in wishes if each.run_id in here or each.run_id in elsewhere]
        return Desired(
            wishes=tuple(wishes),
            rejections=self._rejections(wishes, runs),
            names={**{each.request.name: each.run_id for each in wishes if each.request.parent}, **names},
            policies=policies,
            cases={each.run_id: self.approvals.case(each, here.get(each.run_id), elsewhere) for each in waiting},
            decisions={each.run_id: self.approvals.decisions(each.run_id) for each in waiting},
            ended=frozenset(each.parent for each in runs.values() if each.parent and self._is_over(each.parent, runs)),
        )

    def _rejections(self, wishes: Sequence[Wish], runs: Mapping[RunId, Run]) -> tuple[Rejection, ...]:
        unplanned = [wish.plan for wish in wishes if isinstance(wish.plan, Rejection) and wish.run_id not in runs]
        return tuple(sorted((*self.requests.rejections(), *unplanned), key=lambda each: each.path))

    def _is_over(self, run_id: RunId, runs: Mapping[RunId, Run]) -> bool:
        if run_id in runs:
            return phase(runs[run_id], self.world.now()) in ENDED
        return run_id in self.proofs.rows and not self.proofs.waits(run_id)

    def wish_of(self, run_id: RunId, fired_at: str = "") -> Wish | None:
        """Return the wish for a run, proven or not, at the tip as it is now; None if no request asks for it. The run of
        a schedule is known by the fire it is for."""
        self._look_at_tip()
        path = self.requests.paths.get(run_id)
        if path is None:
            recurring = self.wishes.of_recurring(run_id, fired_at, pinned=self.pinned is not None)
            return recurring or self.nested.of(run_id)
        self.requests.read([path])
        return self.wishes.of(path) if path in self.requests.parsed else None

    # ---------------------------------------------------------------------------------------- the tip

    def _look_at_tip(self) -> tuple[str, str]:
        """Bring everything that is read from git to the tip of the branch, and return branch and tip."""
        tip = self._current_tip()
        if tip != self.tip.commit:
            trees = self.tip.trees_at(tip)
            self._read_settings(trees)
            self.requests.read_tree(trees.requests)
            gone = self.proofs.read_tree(trees.evidence)
            if self.hearing is not None:
                self.hearing.missing(gone, self._asked_for(gone), tip)
            self.tip.move_to(tip, trees)
        self._read_evidence_branch(tip)
        return self.tip.branch or "", tip

    def _tip_at(self, commit: str) -> Tip:
        """Return any commit as if it were the tip: what plans are made of, and nothing else of it is read."""
        there = Tip(self.world, self.tip.branch)
        trees = there.trees_at(commit)
        there.read_settings(trees)
        there.move_to(commit, trees)
        return there

    def _read_settings(self, trees: Trees) -> None:
        self.tip.read_settings(trees)
        if self.hearing is not None:
            self.hearing.lease_unknown_s = self.tip.settings.lease_s

    def _read_evidence_branch(self, tip: str) -> None:
        """Add what the branch proves that evidence has of its own, if it has one and one commit is not all we ask."""
        branch = self.tip.settings.publish.branch if self.tip.settings.publish.mode == "branch" else None
        if branch is None or self.pinned is not None:
            self.proofs.tip = tip
            return
        found = self.hearing.refs.get(f"refs/heads/{branch}") if self.hearing else None
        evidence_tip = found or (self.world.repository.commit_of(branch) if self.hearing is None else None) or ""
        self.proofs.read_branch(evidence_tip, self.tip.trees.evidence)

    def _asked_for(self, gone: Mapping[str, object]) -> Mapping[RunId, object]:
        """Return the runs that somebody asks for, as far as their evidence may be missed."""
        if not self.requests.recurring or self.hearing is None:
            return self.requests.paths
        missed = (RunId(each) for each in (*gone, *self.hearing.memory.lost))
        return {**self.requests.paths, **{each: "" for each in missed if name_of_run(each) in self.requests.recurring}}

    def _current_tip(self) -> str:
        """Return the commit to read from. Raise ContentError if the branch has none."""
        if self.pinned is not None:
            return self.pinned
        if self.tip.branch is None:
            self.tip.branch = self._chosen_branch()
        if self.hearing is not None:
            if self.hearing.asked is None and not self.hearing.refs:
                self.hearing.recall(self._branches())
            return self._tip_at_remote(self.hearing)
        tip = self.world.repository.commit_of(self.tip.branch)
        if tip is None:
            raise ContentError(f"branch '{self.tip.branch}' has no commit; commit something first")
        return tip

    def _tip_at_remote(self, hearing: Hearing) -> str:
        assert self.world.remote is not None and self.tip.branch is not None
        tip = hearing.refs.get(f"refs/heads/{self.tip.branch}")
        if tip is None:
            name = self.world.remote.name
            if hearing.asked is None:
                unknown = f"nothing is known of branch '{self.tip.branch}' at {name} yet"
                raise ContentError(f"{unknown}; run: reconciler reconcile") if self.looking else GitFailed(unknown)
            cure = f"git push {name} {self.tip.branch}, or name another branch in reconciler.yaml"
            raise ContentError(f"there is no branch '{self.tip.branch}' at {name}; {cure}")
        return tip

    def _branches(self) -> list[str]:
        """Return the branches that are read from the remote."""
        if self.tip.branch is None:
            self.tip.branch = self._chosen_branch()
        own = self.tip.settings.publish
        return [self.tip.branch, *([own.branch] if own.mode == "branch" else [])]

    def _chosen_branch(self) -> str:
        """Return the branch that `reconciler.yaml` at HEAD names, else the one HEAD names."""
        self.head_is_unborn = self.world.repository.look_up(["HEAD^{commit}"])[0] is None
        self._read_settings(self.tip.trees_at("HEAD"))
        return self.tip.settings.branch or self.world.repository.head_branch()

    # ---------------------------------------------------------------------------------------- other machines

    def _lost(self) -> dict[RunId, str]:
        """Return the runs whose evidence was seen once and is gone, unless this machine can publish it again."""
        if self.hearing is None:
            return {}
        for run_id in [each for each in self.hearing.memory.lost if each in self.proofs.rows]:
            self.hearing.found(run_id)
        lost = self.hearing.memory.lost
        return {RunId(run_id): commit for run_id, commit in lost.items() if not self.world.runs.is_ours(run_id)}

    def _held(self, me: HostId | None, runs: Mapping[RunId, Run]) -> dict[RunId, Held] | None:
        """Return the claims at the remote, with a plan where this machine may have to go on with a run."""
        if self.hearing is None:
            return None
        held = self.hearing.held(me)
        for run_id, each in held.items():
            run = runs.get(run_id)
            behind = run is None or run.number < each.claim.number
            if self.online and (each.silent or (each.ours and behind)):
                held[run_id] = replace(each, plan=self._plan_of(run_id, each))
        return held

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
            found = self.wish_of(run_id, held.claim.fired_at)
            return found.plan if found is not None else frozen
        return frozen

    def _plan_at(self, run_id: RunId, commit: str, fired_at: str) -> Plan | Rejection | None:
        """Return the plan of a run as it is made from a commit, None if the branch does not hold that (any more)."""
        if OBJECT_ID.fullmatch(commit) and self.world.repository.is_ancestor(commit, self.tip.commit or ""):
            with contextlib.suppress(ContentError):
                found = Observer(self.world, self.tip.branch, pinned=commit).wish_of(run_id, fired_at)
                return found.plan if found is not None else None
        return None

    def _as_frozen(self, wish: Wish, elsewhere: Mapping[RunId, Evidence], runs: Mapping[RunId, Run]) -> Wish:
        """Return a wish with the plan that its run waits on, where another machine left it waiting."""
        evidence = elsewhere.get(wish.run_id)
        if evidence is None or evidence.waiting is None or wish.run_id in runs:
            return wish
        key = f"{wish.run_id} {evidence.waiting.commit}"
        if key not in self.plans:
            self.plans[key] = self._plan_at(wish.run_id, evidence.waiting.commit, wish.due_at)
        frozen = self.plans[key]
        return replace(wish, plan=frozen) if frozen is not None else wish
