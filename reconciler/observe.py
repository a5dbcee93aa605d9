"""Look at the world: what the tip asks for, what it proves, and what is under way on this machine.

Everything from git is read by object id and remembered by it, so looking again costs what has changed since. The parts
are `tip`, `branches`, `requests`, `evidence`, `here`, `wishes`, `nesting`, `approvals` and `adopted`; here they are put
together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from reconciler.adopted import Adopted
from reconciler.approvals import Approvals
from reconciler.branches import Branches
from reconciler.cache import read_cache, write_cache
from reconciler.evidence import Proofs, Proven
from reconciler.hearing import Hearing
from reconciler.here import Here
from reconciler.model import (
    Instant,
    Limits,
    Name,
    Phase,
    Rejection,
    Run,
    RunId,
    Settings,
    Wish,
    name_of_run,
)
from reconciler.nesting import Nested
from reconciler.phases import ENDED, phase
from reconciler.places import Executor
from reconciler.requests import Requests
from reconciler.slots import executors_here
from reconciler.state import Actual, Desired
from reconciler.tip import Tip
from reconciler.turns import read_turns
from reconciler.values import frozen
from reconciler.wishes import Wishes
from reconciler.world import World

if TYPE_CHECKING:
    # What deals with engines is loaded where settings name one, or a run is at one.
    from reconciler.afar.attempts import Afar


@frozen
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
        self.online = False
        self.afar: Afar | None = None
        self.ring: Callable[[], None] | None = None
        """What to call when an engine has answered, where passes go on meanwhile; else a pass waits for engines."""
        self.cache_path = world.repository.state / "cache.json"
        self.turns_path = world.repository.state / "turns.json"
        self.cache = read_cache(self.cache_path, world.disk)
        self.tip = Tip(world, branch)
        self.branches = Branches(world, self.tip, self.hearing)
        self.requests = Requests(world, self.cache)
        self.proofs = Proofs(world, self.cache)
        self.here = Here(world)
        self.wishes = Wishes(world, self.tip, self.requests, self.proofs, self.here, self.hearing)
        self.nested = Nested(world, self.tip, self.requests, self.wishes, self._tip_at)
        self.approvals = Approvals(world, self.tip, self.requests)
        self.adopted = Adopted(world, self.tip, self._wish_at)

    @property
    def settings(self) -> Settings:
        """The settings of the tip that was looked at last."""
        return self.tip.settings

    def ask(self) -> None:
        """Ask the remote what is new. Raise GitFailed if it does not answer: then what is known stays."""
        assert self.hearing is not None
        self.online = False
        asked = self.branches.read()
        self.hearing.ask(asked)
        if f"refs/heads/{self.tip.branch}" in self.hearing.refs:
            # A clone that never had a commit of its own learns here which branches are meant.
            self._look_at_tip()
            if self.branches.head_is_unborn and self.tip.settings.branch is not None:
                self.tip.branch = self.tip.settings.branch
            if set(self.branches.read()) - set(asked):
                self.hearing.ask(self.branches.read())
        self.online = True

    def recall(self) -> None:
        """Take what the remote said last for what it would say now: for those who look and do not act."""
        self.branches.looking = True
        if self.hearing is not None:
            self.hearing.recall(self.branches.read())
            self.online = True

    def remember(self) -> None:
        """Write down what has changed since it was read: the cache, and what was heard of other machines."""
        if self.hearing is not None:
            self.hearing.remember()
        if self.cache.changed:
            write_cache(self.cache_path, self.cache, self.world.disk)
            self.cache.changed = False

    def forget(self, seen: Observation) -> None:
        """Let go of what was remembered about requests and runs that are settled: who looks for months must not keep
        all that ever was. It is read again where somebody asks for it."""
        kept = {each.request.source.path for each in seen.desired.wishes} | set(self.requests.recurring.values())
        self.requests.parsed = {path: each for path, each in self.requests.parsed.items() if path in kept}
        self.wishes.known = {path: each for path, each in self.wishes.known.items() if path in kept}
        self.here.ended = {run_id: each for run_id, each in self.here.ended.items() if run_id in seen.actual.runs}
        self.here.quiet = {run_id: each for run_id, each in self.here.quiet.items() if run_id in seen.actual.runs}
        self.nested.known = {run_id: each for run_id, each in self.nested.known.items() if self.proofs.is_open(run_id)}
        self.approvals.forget()
        self.adopted.forget()

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
        self._look_afar(runs)
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
                held=self.adopted.held(self.hearing, me, runs, online=self.online) if self.hearing else None,
                neighbours=self.hearing.neighbours(me) if self.hearing else {},
                lost=self._lost(),
                unclaimed=tuple(each for each in marks if each not in runs),
                served=self._served(wishes),
                work=self.afar.words.refs if self.afar else {},
            ),
            limits=Limits(
                runs_max=self.tip.settings.runs_max or 2 * self.world.cpus,
                online=self.hearing is None or self.online,
                host=me if self.hearing else None,
                ageing_s=self.tip.settings.ageing_s,
                executors=self._executors(),
                quotas=self.tip.settings.quotas,
            ),
            now=self.world.now(),
        )

    def _executors(self) -> tuple[Executor, ...]:
        refusals = self.afar.engines.refusals() if self.afar is not None else {}
        return executors_here(self.tip.settings, self.world.node, self.world.capabilities, refusals)

    def _look_afar(self, runs: dict[RunId, Run]) -> None:
        """Put into `runs` what is known of attempts that engines execute; that is loaded only where there may be
        some."""
        has_engine = any(each.engine for each in self.settings.executors.values())
        if self.pinned is not None or not (self.afar or has_engine or any(each.is_afar for each in runs.values())):
            return
        if self.afar is None:
            from reconciler.afar.attempts import Afar

            self.afar = Afar(self.world)
        self.afar.engines.looks.ring = self.ring
        self.afar.look(runs, self.settings, self.hearing, acts=not self.branches.looking)

    def _desired(
        self, wishes: Sequence[Wish], runs: Mapping[RunId, Run], names: Mapping[Name, RunId | None]
    ) -> Desired:
        """Return what is wanted, and what was decided about the runs that wait for it."""
        now, policies = self.world.now(), self.tip.settings.approvals
        proven = Proven(self.proofs.rows)
        elsewhere = {each.run_id: proven[each.run_id] for each in wishes if self.proofs.waits(each.run_id)}
        here = {run_id: run for run_id, run in runs.items() if phase(run, now) == Phase.WAITING}
        wishes = [self.adopted.as_frozen(each, elsewhere, runs) for each in wishes]
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

    def _served(self, wishes: Sequence[Wish]) -> dict[str, float]:
        """Return when this host served tasks last, if several of them may have to take turns."""
        several = len({each.request.task for each in wishes}) > 1
        return read_turns(self.turns_path, self.world.disk) if several else {}

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

    def _wish_at(self, run_id: RunId, fired_at: str, commit: str | None) -> Wish | None:
        """Return the wish for a run at a commit as if it were the tip, or at the tip. Raise ContentError as `observe`
        does."""
        there = self if commit is None else Observer(self.world, self.tip.branch, pinned=commit)
        return there.wish_of(run_id, fired_at)

    # ---------------------------------------------------------------------------------------- the tip

    def _look_at_tip(self) -> tuple[str, str]:
        """Bring everything that is read from git to the tip of the branch, and return branch and tip."""
        tip = self.branches.commit() if self.pinned is None else self.pinned
        if tip != self.tip.commit:
            trees = self.tip.trees_at(tip)
            self.branches.read_settings(trees)
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

    # ---------------------------------------------------------------------------------------- other machines

    def _lost(self) -> dict[RunId, str]:
        """Return the runs whose evidence was seen once and is gone, unless this machine can publish it again."""
        if self.hearing is None:
            return {}
        for run_id in [each for each in self.hearing.memory.lost if each in self.proofs.rows]:
            self.hearing.found(run_id)
        lost = self.hearing.memory.lost
        return {RunId(run_id): commit for run_id, commit in lost.items() if not self.world.runs.is_ours(run_id)}
