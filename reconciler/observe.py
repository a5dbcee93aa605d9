"""Look at the world: what the tip asks for, what it proves, and what is under way on this machine.

Everything from git is read by object id and remembered by it, so looking again costs what has changed since. The
parser is loaded only when there is something to parse: in a settled repository there is not.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from reconciler import codec, queueing, resolve
from reconciler.approve import Case
from reconciler.cache import RECURRING, read_cache, write_cache
from reconciler.errors import ContentError, GitFailed
from reconciler.git import Entry, LastChange
from reconciler.hearing import Hearing
from reconciler.model import (
    Approval,
    Arrival,
    Decision,
    Evidence,
    Gate,
    Held,
    HostId,
    Instant,
    Instructions,
    Limits,
    Name,
    Occasion,
    Phase,
    Pipeline,
    PipelineId,
    Plan,
    Problem,
    Rejection,
    Request,
    Run,
    RunId,
    Settings,
    Source,
    StageId,
    Status,
    TaskId,
    Waiting,
    Wish,
    Workspace,
    name_of_run,
)
from reconciler.phases import ENDED, phase
from reconciler.recurring import Asked, Recurring
from reconciler.state import Actual, Desired
from reconciler.waiting import awaited_runs
from reconciler.world import World

SETTINGS_PATH = "reconciler.yaml"
APPROVAL_SUFFIX = ".approval.yaml"
DECISIONS_MAX = 100
"""So many decisions about one run are looked at, in the order of their paths."""
ARRIVALS_MAX = 1_000
"""Requests that are older than the newest so many commits below runs.d count as arrived at once, before all others."""
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


@dataclass(frozen=True, slots=True)
class Trees:
    """The object ids at one commit that everything is read from."""

    requests: str | None
    pipelines: str | None
    settings: str | None
    evidence: str | None
    instructions: tuple[str | None, ...]


class Observer:
    """Looks at one repository again and again, remembering what it has read."""

    def __init__(self, world: World, branch: str | None = None, pinned: str | None = None) -> None:
        self.world, self.branch, self.pinned = world, branch, pinned
        self.hearing = Hearing(world) if world.remote is not None and pinned is None else None
        self.online = self.head_is_unborn = self.looking = False
        self.root, self.done = str(world.runs.root), str(world.runs.state / "done")
        self.cache_path = world.repository.state / "cache.json"
        self.cache = read_cache(self.cache_path, world.disk)
        self.cache_changed = False
        self.tip: str | None = None
        self.trees = Trees(None, None, None, None, ())
        self.settings = Settings()
        self.instructions = Instructions()
        self.pipelines: dict[PipelineId, Pipeline | Rejection] | None = None
        self.requests: dict[str, Request] = {}
        self.recurring_plans: dict[RunId, tuple[object, Plan | Rejection]] = {}
        self.wishes: dict[str, tuple[tuple[object, object], Wish]] = {}
        self.ended: dict[RunId, tuple[int, Run]] = {}
        self.evidence: Mapping[str, list[Any]] = self.cache.evidence
        self.evidence_tip = ""
        self.plans: dict[str, Plan | Rejection | None] = {}
        self.nested: dict[RunId, Wish] = {}
        self.changes: dict[str, tuple[str | None, LastChange | None]] = {}
        self.changers: dict[str, tuple[str | None, tuple[tuple[str, str], ...]]] = {}
        self.held_by: dict[tuple[str, str], bool] = {}
        self.occasions = Recurring(world)
        self._index_requests()

    def ask(self) -> None:
        """Ask the remote what is new. Raise GitFailed if it does not answer: then what is known stays."""
        assert self.hearing is not None
        self.online = False
        asked = self._branches()
        self.hearing.ask(asked)
        if f"refs/heads/{self.branch}" in self.hearing.refs:
            # A clone that never had a commit of its own learns here which branches are meant.
            self._look_at_tip()
            if self.head_is_unborn and self.settings.branch is not None:
                self.branch = self.settings.branch
            if set(self._branches()) - set(asked):
                self.hearing.ask(self._branches())
        self.online = True

    def recall(self) -> None:
        """Take what the remote said last for what it would say now: for those who look and do not act."""
        self.looking = True
        if self.hearing is not None:
            self.hearing.recall(self._branches())
            self.online = True

    def observe(self) -> Observation:
        """Return the world as it is now. Raise ContentError if there is no commit or the settings are broken."""
        branch, tip = self._look_at_tip()
        marked = self.world.runs.marked()
        paths = self._unsettled(marked)
        self._read_requests(paths)
        wishes = [self._wish(path) for path in paths if path in self.requests]
        recurring, names = self._recurring_wishes(marked) if self.recurring else ([], self.names)
        wishes += recurring
        runs = self._runs(marked, wishes)
        nested = self._nested(runs)
        wishes += nested
        runs |= self._runs([(each.request.task, each.run_id) for each in nested if each.run_id not in runs], ())
        wishes = self._in_order(wishes, runs)
        me = self.world.host()
        return Observation(
            branch=branch,
            tip=tip,
            evidence_tip=self.evidence_tip,
            settings=self.settings,
            desired=self._desired(wishes, runs, names),
            actual=Actual(
                runs=runs,
                evidence=Proven(self.evidence),
                held=self._held(me, runs),
                neighbours=self.hearing.neighbours(me) if self.hearing else {},
                lost=self._lost(),
                unclaimed=tuple(each for each in marked if each[1] not in runs),
            ),
            limits=Limits(
                runs_max=self.settings.runs_max or 2 * self.world.cpus,
                online=self.hearing is None or self.online,
                host=me if self.hearing else None,
                ageing_s=self.settings.ageing_s,
            ),
            now=self.world.now(),
        )

    def _desired(
        self, wishes: Sequence[Wish], runs: Mapping[RunId, Run], names: Mapping[Name, RunId | None]
    ) -> Desired:
        """Return what is wanted, and what was decided about the runs that wait for it."""
        now, policies = self.world.now(), self.settings.approvals
        proven = Proven(self.evidence)
        elsewhere = {each.run_id: proven[each.run_id] for each in wishes if self._waits(each.run_id)}
        here = {run_id: run for run_id, run in runs.items() if phase(run, now) == Phase.WAITING}
        wishes = [self._as_frozen(each, elsewhere, runs) for each in wishes]
        waiting = [each for each in wishes if each.run_id in here or each.run_id in elsewhere]
        return Desired(
            wishes=tuple(wishes),
            rejections=self._rejections(wishes, runs),
            names={**{each.request.name: each.run_id for each in wishes if each.request.parent}, **names},
            policies=policies,
            cases={each.run_id: self._case(each, here.get(each.run_id), elsewhere) for each in waiting},
            decisions={each.run_id: self._decisions(each.run_id) for each in waiting},
            ended=frozenset(each.parent for each in runs.values() if each.parent and self._is_over(each.parent, runs)),
        )

    def _is_open(self, run_id: str) -> bool:
        return run_id not in self.evidence or self._waits(run_id)

    def _waits(self, run_id: str) -> bool:
        row = self.evidence.get(run_id)
        return row is not None and row[7] is not None

    def remember(self) -> None:
        """Write down what has changed since it was read: the cache, and what was heard of other machines."""
        if self.hearing is not None:
            self.hearing.remember()
        if self.cache_changed:
            write_cache(self.cache_path, self.cache, self.world.disk)
            self.cache_changed = False

    # -------------------------------------------------------------------------------------------- the tip

    def _look_at_tip(self) -> tuple[str, str]:
        """Bring everything that is read from git to the tip of the branch, and return branch and tip."""
        tip = self._current_tip()
        if tip != self.tip:
            trees = self._trees_at(tip)
            self._read_settings(trees)
            self._read_request_tree(trees)
            self._read_evidence_tree(trees, tip)
            self._read_instructions(trees)
            if trees.pipelines != self.trees.pipelines:
                self.pipelines = None
            self.tip, self.trees = tip, trees
        self._read_evidence_branch(tip)
        return self.branch or "", tip

    def _current_tip(self) -> str:
        """Return the commit to read from. Raise ContentError if the branch has none."""
        if self.pinned is not None:
            return self.pinned
        if self.branch is None:
            self.branch = self._chosen_branch()
        if self.hearing is not None:
            if self.hearing.asked is None and not self.hearing.refs:
                self.hearing.recall(self._branches())
            return self._tip_at_remote(self.hearing)
        tip = self.world.repository.commit_of(self.branch)
        if tip is None:
            raise ContentError(f"branch '{self.branch}' has no commit; commit something first")
        return tip

    def _tip_at_remote(self, hearing: Hearing) -> str:
        assert self.world.remote is not None and self.branch is not None
        tip = hearing.refs.get(f"refs/heads/{self.branch}")
        if tip is None:
            name = self.world.remote.name
            if hearing.asked is None:
                unknown = f"nothing is known of branch '{self.branch}' at {name} yet"
                raise ContentError(f"{unknown}; run: reconciler reconcile") if self.looking else GitFailed(unknown)
            cure = f"git push {name} {self.branch}, or name another branch in reconciler.yaml"
            raise ContentError(f"there is no branch '{self.branch}' at {name}; {cure}")
        return tip

    def _branches(self) -> list[str]:
        """Return the branches that are read from the remote."""
        if self.branch is None:
            self.branch = self._chosen_branch()
        own = self.settings.publish
        return [self.branch, *([own.branch] if own.mode == "branch" else [])]

    def _chosen_branch(self) -> str:
        """Return the branch that `reconciler.yaml` at HEAD names, else the one HEAD names."""
        self.head_is_unborn = self.world.repository.look_up(["HEAD^{commit}"])[0] is None
        self._read_settings(self._trees_at("HEAD"))
        return self.settings.branch or self.world.repository.head_branch()

    def _trees_at(self, commit: str) -> Trees:
        paths = ("runs.d", "pipelines", SETTINGS_PATH, ".runs", *resolve.INSTRUCTION_PATHS)
        found = self.world.repository.look_up([f"{commit}:{path}" for path in paths])
        return Trees(found[0], found[1], found[2], found[3], found[4:])

    def _read_settings(self, trees: Trees) -> None:
        if trees.settings == self.trees.settings and self.tip is not None:
            return
        if trees.settings is None:
            self._take_settings(Settings())
            return
        from reconciler.settings import parse_settings

        _, data = next(self.world.repository.blobs([trees.settings]))
        source = Source(path=SETTINGS_PATH, blob=trees.settings)
        settings = parse_settings(data, source, self.world.contracts)
        if isinstance(settings, Rejection):
            raise ContentError("\n".join(problem.sentence() for problem in settings.problems))
        self._take_settings(settings)

    def _take_settings(self, settings: Settings) -> None:
        self.settings = settings
        if self.hearing is not None:
            self.hearing.lease_unknown_s = settings.lease_s

    def _read_instructions(self, trees: Trees) -> None:
        if trees.instructions != self.trees.instructions:
            paths = {oid: path for path, oid in zip(resolve.INSTRUCTION_PATHS, trees.instructions, strict=True) if oid}
            read = self.world.repository.blobs(paths)
            self.instructions = resolve.instructions_of((paths[oid], data) for oid, data in read if data)

    # -------------------------------------------------------------------------------------------- requests

    def _read_request_tree(self, trees: Trees) -> None:
        """Bring the rows of requests to a tree, parsing what differs from the tree they were made from."""
        repository, cache = self.world.repository, self.cache
        if trees.requests == cache.requests_tree:
            return
        changed = [
            (f"runs.d/{path}", entry)
            for path, entry in repository.changes(cache.requests_tree, trees.requests)
            if path.endswith((".yaml", ".yml"))
        ]
        for path, entry in changed:
            self.requests.pop(path, None)
            if entry is None:
                cache.requests.pop(path, None)
        self._parse_rows([(path, entry) for path, entry in changed if entry is not None])
        cache.requests_tree, self.cache_changed = trees.requests, True
        self._index_requests()

    def _parse_rows(self, entries: Sequence[tuple[str, Entry]]) -> None:
        read = self.world.repository.blobs([entry.oid for _, entry in entries if entry.is_file])
        for path, entry in entries:
            data = next(read)[1] if entry.is_file else None
            self.cache.requests[path] = self._row(path, entry, data)

    def _row(self, path: str, entry: Entry, data: bytes | None) -> list[Any]:
        parsed = self._parse(path, entry, data)
        if isinstance(parsed, Rejection):
            return [entry.oid, None, None, codec.dump(parsed.problems)]
        if isinstance(parsed, Approval):
            return [entry.oid, None, parsed.run, []]
        self.requests[path] = parsed
        return [entry.oid, RECURRING if parsed.recurring else resolve.run_id(parsed), parsed.task, []]

    def _parse(self, path: str, entry: Entry, data: bytes | None) -> Request | Approval | Rejection:
        if not entry.is_file:
            kind = {"120000": "a symbolic link", "160000": "a submodule"}.get(entry.mode, f"mode {entry.mode}")
            return _rejected(path, f"this is {kind}, not a file", "commit the file itself", "not-a-file")
        if path.endswith(".approval.yml"):
            return _rejected(path, f"a decision must end in {APPROVAL_SUFFIX}", "rename it", "name")
        if data is None:
            return _rejected(path, "the file is missing from the object store or too large", "", "unreadable")
        from reconciler import parse

        source = Source(path=path, blob=entry.oid)
        if path.endswith(APPROVAL_SUFFIX):
            return parse.parse_approval(data, source, self.world.contracts)
        return parse.parse_request(data, source, self.world.contracts)

    def _index_requests(self) -> None:
        """Index the rows by name and by run id, and find the files that claim one name together."""
        by_name: dict[Name, list[str]] = {}
        self.approvals: dict[str, list[str]] = {}
        for path, row in self.cache.requests.items():
            if path.endswith(APPROVAL_SUFFIX):
                self.approvals.setdefault(row[2], []).append(path)
            else:
                by_name.setdefault(_name(path), []).append(path)
        self.twins = {path: paths for paths in by_name.values() if len(paths) > 1 for path in paths}
        rows = self.cache.requests
        single = {name: paths[0] for name, paths in by_name.items() if len(paths) == 1}
        self.recurring = {name: path for name, path in single.items() if rows[path][1] == RECURRING}
        ids = {name: rows[path][1] for name, path in single.items() if name not in self.recurring}
        self.names: dict[Name, RunId | None] = {**dict.fromkeys(by_name), **ids}
        known = (path for name, path in single.items() if name not in self.recurring and rows[path][1])
        self.paths = {rows[path][1]: path for path in known}

    def _unsettled(self, marked: Sequence[tuple[TaskId, RunId]]) -> list[str]:
        """Return the paths of requests that the tip does not prove, and of those that are under way again."""
        evidence = self.evidence
        found = [path for run_id, path in self.paths.items() if (row := evidence.get(run_id)) is None or row[7]]
        again = [self.paths[run_id] for _, run_id in marked if run_id in evidence and run_id in self.paths]
        return found + again

    def _read_requests(self, paths: Sequence[str]) -> None:
        """Parse the requests that are known by their rows only."""
        missing = [path for path in paths if path not in self.requests]
        read = self.world.repository.blobs([self.cache.requests[path][0] for path in missing])
        for path, (oid, data) in zip(missing, read, strict=True):
            parsed = self._parse(path, Entry("100644", oid, path), data)
            if isinstance(parsed, Request):
                self.requests[path] = parsed

    def _wish(self, path: str) -> Wish:
        """Return the wish of a request at the tip; it is made once for a tip, and its plan is resolved once as long
        as nothing the plan is made of changes."""
        request = self.requests[path]
        made_of = (request.source.blob, self.trees.pipelines, self.trees.settings, self.trees.instructions)
        known = self.wishes.get(path)
        if known is not None and known[0] == (self.tip, made_of):
            return known[1]
        plan = known[1].plan if known is not None and known[0][1] == made_of else None
        if plan is None:
            plan = self.plan_for(request)
        elif isinstance(plan, Plan):
            plan = replace(plan, commit=self.tip or "", branch=self.branch or "")
        wish = Wish(request=request, run_id=RunId(self.cache.requests[path][1]), plan=plan)
        self.wishes[path] = ((self.tip, made_of), wish)
        return wish

    # -------------------------------------------------------------------------------------------- order

    def _in_order(self, wishes: list[Wish], runs: Mapping[RunId, Run]) -> list[Wish]:
        """Return the wishes with what their order depends on: when they arrived, and what is wrong in their `after`."""
        if any(each.request.after for each in wishes):
            known = self._known_names(wishes, runs)
            problems = queueing.problems([each.request for each in wishes], known, self.names)
            wishes = [_with_problems(each, problems.get(each.request.name, ())) for each in wishes]
        grouped = any(each.request.concurrency for each in wishes)
        if len(wishes) > 1 and (grouped or len(wishes) > (self.settings.runs_max or 2 * self.world.cpus)):
            arrivals = self._arrivals()
            wishes = [replace(each, arrival=arrivals(each.request.source.path)) for each in wishes]
        return wishes

    def _known_names(self, wishes: Sequence[Wish], runs: Mapping[RunId, Run]) -> set[Name]:
        """Return the names in `after` that a request has, or a run of which something is left."""
        named = {name for each in wishes for name in each.request.after}
        known = {name for name in named if name in self.names}
        if named - known:
            ids = (*self.evidence, *runs, *(self.hearing.claims if self.hearing else ()))
            known |= named & {name_of_run(run_id) for run_id in ids}
        return known

    def _arrivals(self) -> Callable[[str], Arrival]:
        """Return the arrival of requests by path: by the commits since they were looked up last, oldest first."""
        cache, tip = self.cache, self.tip or ""
        if cache.arrivals_tip is not None and cache.arrivals_tree == self.trees.requests:
            cache.arrivals_tip = tip
        if cache.arrivals_tip != tip:
            try:
                commits = self.world.repository.touched(cache.arrivals_tip, tip, "runs.d", ARRIVALS_MAX)
            except GitFailed:
                # What was looked up last may be gone where history was rewritten.
                commits = self.world.repository.touched(None, tip, "runs.d", ARRIVALS_MAX)
            number = max((row[0] for row in cache.arrivals.values()), default=0)
            for epoch_s, paths in commits:
                number += 1
                cache.arrivals.update({path: [number, epoch_s] for path in paths})
            cache.arrivals = {path: row for path, row in cache.arrivals.items() if path in cache.requests}
            cache.arrivals_tip, cache.arrivals_tree, self.cache_changed = tip, self.trees.requests, True
        rows = cache.arrivals
        return lambda path: Arrival(number=rows[path][0], at_s=rows[path][1]) if path in rows else Arrival()

    # -------------------------------------------------------------------------------------------- recurring requests

    def _recurring_wishes(
        self, marked: Sequence[tuple[TaskId, RunId]]
    ) -> tuple[list[Wish], Mapping[Name, RunId | None]]:
        """Return what recurring requests ask for: the run that is due and not proven, else the one to come, and those
        that are under way already; and all names, with the run that is the current one of each."""
        self._read_requests(list(self.recurring.values()))
        asking = [self.requests[path] for path in self.recurring.values() if path in self.requests]
        self.occasions.prepare(asking, self.tip or "")
        under_way = self._fires_under_way(marked)
        names, wishes = dict(self.names), []
        for name, path in self.recurring.items():
            if path in self.requests:
                names[name], found = self._asked(self.requests[path], under_way)
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
        again = {run_id: each for run_id, each in ids.items() if self._is_open(run_id) or run_id in under_way}
        wanted = dict(list(again.items())[:1])
        return current, [self._occasional(request, run_id, each) for run_id, each in {**going, **wanted}.items()]

    def _occasions_of(self, request: Request) -> Asked | Rejection:
        since_s = self._arrivals()(request.source.path).at_s if request.schedule is not None else None
        checklists = self.settings.checklists
        return self.occasions.asked(request, self.tip or "", checklists, self.world.now(), since_s)

    def _fires_under_way(self, marked: Sequence[tuple[TaskId, RunId]]) -> dict[RunId, str]:
        """Return the runs of recurring requests that are under way, with the fire each is for: those that are marked
        here, and those that are claimed elsewhere and not proven."""
        claims = self.hearing.claims.values() if self.hearing is not None else ()
        unproven = (each for each in claims if each.run_id not in self.evidence)
        found = {each.run_id: each.fired_at for each in unproven if name_of_run(each.run_id) in self.recurring}
        for task_id, run_id in marked:
            if name_of_run(run_id) in self.recurring:
                run = self._run(task_id, run_id)
                found[run_id] = (run.fired_at if run is not None else "") or found.get(run_id, "")
        return found

    def _occasional(self, request: Request, run_id: RunId, occasion: Occasion) -> Wish:
        """Return the wish of a recurring request for one occasion; its plan is resolved once for a tip."""
        made_of = (self.tip, request.source.blob, self.trees.pipelines, self.trees.settings, self.trees.instructions)
        known = self.recurring_plans.get(run_id)
        if known is None or known[0] != made_of:
            known = self.recurring_plans[run_id] = (made_of, self.plan_for(request, occasion))
        return Wish(request=request, run_id=run_id, plan=known[1], due_at=occasion.fired_at)

    def _wish_of_recurring(self, run_id: RunId, fired_at: str) -> Wish | None:
        """Return the wish for one run of a recurring request, given the fire it is for, if it is known."""
        path = self.recurring.get(name_of_run(run_id), "")
        self._read_requests([path] if path else [])
        request = self.requests.get(path)
        if request is None:
            return None
        asked = self._occasions_of(request) if self.pinned is None or request.on_change else Asked(None)
        known = [] if isinstance(asked, Rejection) else [asked.current, asked.coming]
        occasions = (Occasion(fired_at=fired_at), *(each for each in known if each is not None))
        found = next((each for each in occasions if resolve.run_id(request, each) == run_id), None)
        return self._occasional(request, run_id, found) if found is not None else None

    def wish_of(self, run_id: RunId, fired_at: str = "") -> Wish | None:
        """Return the wish for a run, proven or not, at the tip as it is now; None if no request asks for it. The run of
        a schedule is known by the fire it is for."""
        self._look_at_tip()
        path = self.paths.get(run_id)
        if path is None:
            return self._wish_of_recurring(run_id, fired_at) or self._wish_of_nested(run_id)
        self._read_requests([path])
        return self._wish(path) if path in self.requests else None

    def plan_for(self, request: Request, occasion: Occasion = resolve.ONCE) -> Plan | Rejection:
        """Return the plan of any request at the tip that was observed last."""
        place = resolve.Place(
            commit=self.tip or "", branch=self.branch or "", instructions=self.instructions, occasion=occasion
        )
        plan = resolve.resolve(request, self._pipelines(), self.settings, place)
        if isinstance(plan, Plan) and plan.workspace == Workspace.CHECKOUT and self.world.repository.bare:
            reason = f"pipeline '{request.pipeline}' works in the checkout, and this clone has none"
            cure = "reconcile in a clone with a working tree, or let it work in a worktree"
            return _rejected(request.source.path, reason, cure, "no-checkout")
        return plan

    def _pipelines(self) -> dict[PipelineId, Pipeline | Rejection]:
        if self.pipelines is None:
            from reconciler import parse

            listed = self.world.repository.entries(self.trees.pipelines)
            entries = [each for each in listed if each.is_file and each.path.endswith(".yaml") and "/" not in each.path]
            read = self.world.repository.blobs([each.oid for each in entries])
            self.pipelines = {}
            for entry, (_, data) in zip(entries, read, strict=True):
                source = Source(path=f"pipelines/{entry.path}", blob=entry.oid)
                parsed = parse.parse_pipeline(data or b"", source, self.world.contracts)
                self.pipelines[PipelineId(entry.path.removesuffix(".yaml"))] = parsed
        return self.pipelines

    def _rejections(self, wishes: Sequence[Wish], runs: Mapping[RunId, Run]) -> tuple[Rejection, ...]:
        rows = [
            Rejection(path=path, name=_name(path), problems=codec.load(tuple[Problem, ...], row[3]))
            for path, row in self.cache.requests.items()
            if row[3]
        ]
        twins = [_twin(path, paths) for path, paths in self.twins.items()]
        unplanned = [wish.plan for wish in wishes if isinstance(wish.plan, Rejection) and wish.run_id not in runs]
        return tuple(sorted((*rows, *twins, *unplanned), key=lambda each: each.path))

    # -------------------------------------------------------------------------------------------- nested runs

    def _nested(self, runs: Mapping[RunId, Run]) -> list[Wish]:
        """Return the wishes for the nested runs that runs here wait for and that the tip does not prove."""
        now = self.world.now()
        found = []
        for run in runs.values():
            if run.planned and not run.corrupt and phase(run, now) == Phase.WAITING:
                wanted = [each for each in awaited_runs(run) if self._is_open(each)]
                found += [each for each in (self._nested_wish(run, child) for child in wanted) if each is not None]
        return found

    def _nested_wish(self, parent: Run, run_id: RunId) -> Wish | None:
        """Return the wish for a nested run, planned from the commit that its parent works on."""
        if run_id not in self.nested:
            frozen = None
            with contextlib.suppress(codec.CodecError):
                frozen = self.world.runs.frozen_plan(parent.task_id, parent.run_id, parent.claim)
            children = [child for stage in frozen.stages for child in stage.children] if frozen is not None else []
            child = next((each for each in children if each.run_id == run_id), None)
            if frozen is None or child is None:
                return None
            request = resolve.nested_request(frozen, frozen.run_id, child)
            self.nested[run_id] = Wish(request=request, run_id=run_id, plan=self._nested_plan(request, frozen))
        return self.nested[run_id]

    def _wish_of_nested(self, run_id: RunId) -> Wish | None:
        """Return the wish for a nested run, to which a request leads whose name its own begins with; else None."""
        parts = name_of_run(run_id).split(".")
        names = (Name(".".join(parts[:count])) for count in range(1, len(parts)))
        for path in (self.paths.get(self.names.get(name) or RunId("")) for name in names):
            self._read_requests([path] if path else [])
            if path in self.requests and (found := self._leads_to(self._wish(path).plan, run_id)):
                return found
        return None

    def _leads_to(self, plan: Plan | Rejection, run_id: RunId) -> Wish | None:
        """Return the wish for a run that is nested in a plan, however deep."""
        if isinstance(plan, Rejection):
            return None
        for child in (child for stage in plan.stages for child in stage.children):
            if child.run_id == run_id or run_id.startswith(f"{child.name}."):
                request = resolve.nested_request(plan, plan.run_id, child)
                inner = self.plan_for(request)
                if child.run_id == run_id:
                    return Wish(request=request, run_id=run_id, plan=inner)
                if found := self._leads_to(inner, run_id):
                    return found
        return None

    def _nested_plan(self, request: Request, parent: Plan) -> Plan | Rejection:
        if request.name in self.names:
            reason = f"the name '{request.name}' of a nested run is claimed by a request"
            return _rejected(request.source.path, reason, "rename that request", "name-twin")
        there = Observer(self.world, self.branch, pinned=parent.commit)
        there._look_at_tip()
        plan = there.plan_for(request)
        return replace(plan, branch=parent.branch) if isinstance(plan, Plan) else plan

    def _is_over(self, run_id: RunId, runs: Mapping[RunId, Run]) -> bool:
        if run_id in runs:
            return phase(runs[run_id], self.world.now()) in ENDED
        return run_id in self.evidence and not self._waits(run_id)

    # -------------------------------------------------------------------------------------------- gates

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

    def _case(self, wish: Wish, run: Run | None, elsewhere: Mapping[RunId, Evidence]) -> Case:
        """Return what policies look at of a run that waits."""
        request, evidence = wish.request, elsewhere.get(wish.run_id)
        waiting = evidence.waiting if evidence is not None else None
        commit, digest = (waiting.commit, waiting.plan_digest) if waiting is not None else ("", "")
        if run is not None and run.claim is not None:
            commit, digest = run.claim.commit, run.claim.plan_digest
        asked = self._change(request.source.path)
        paths = any(each.paths for each in self.settings.approvals)
        others = any(each.other_person or each.authors for each in self.settings.approvals)
        return Case(
            pipeline=request.pipeline,
            plan_digest=digest,
            labels=request.labels,
            author=asked.author if asked is not None else "",
            commit=asked.commit if asked is not None else "",
            changed=self.world.repository.first_parent_changes(commit) if paths and commit else (),
            asked=self._changers(request.source.path) if others else (),
            early=self._early(wish.run_id, commit),
            decisions_left=max(0, len(self.approvals.get(wish.run_id, ())) - DECISIONS_MAX),
        )

    def _early(self, run_id: RunId, commit: str) -> frozenset[str]:
        """Return the commits of decisions that the commit a run works on holds already."""
        decided = {each.commit for each in self._decisions(run_id) if each.commit is not None}
        new = [each for each in decided if (each, commit) not in self.held_by]
        self.held_by |= {(each, commit): self.world.repository.is_ancestor(each, commit) for each in new}
        return frozenset(each for each in decided if commit and self.held_by[each, commit])

    def _changers(self, path: str) -> tuple[tuple[str, str], ...]:
        """Return who ever touched a file, looked up once for every tip."""
        known = self.changers.get(path)
        if known is None or known[0] != self.tip:
            known = self.changers[path] = (self.tip, self.world.repository.changers(self.tip or "", path))
        return known[1]

    def _decisions(self, run_id: RunId) -> tuple[Decision, ...]:
        """Return the decisions about a run that the tip holds, in the order of their paths."""
        paths = sorted(self.approvals.get(run_id, ()))[:DECISIONS_MAX]
        read = self.world.repository.blobs([self.cache.requests[path][0] for path in paths])
        found = []
        for path, (oid, data) in zip(paths, read, strict=True):
            approval = self._parse(path, Entry("100644", oid, path), data)
            if isinstance(approval, Approval):
                found.append(self._decision(approval))
        return tuple(found)

    def _decision(self, approval: Approval) -> Decision:
        change = self._change(approval.source.path)
        return Decision(
            stage=approval.stage,
            decision=approval.decision,
            reason=approval.reason,
            actor=change.author if change is not None else "",
            at=change.at if change is not None else "",
            commit=change.commit if change is not None else None,
            signer=change.signer if change is not None else None,
            plan=approval.plan,
        )

    def _change(self, path: str) -> LastChange | None:
        """Return whose a file at the tip is, looked up once for every tip."""
        known = self.changes.get(path)
        if known is None or known[0] != self.tip:
            signers = self._signers() if path.endswith(APPROVAL_SUFFIX) else None
            known = self.changes[path] = (self.tip, self.world.repository.last_change(self.tip or "", path, signers))
        return known[1]

    def _signers(self) -> Path | None:
        """Write down the allowed signers of the tip where git finds them; None if signatures are not asked for."""
        path = self.settings.trust.allowed_signers
        if path is None:
            return None
        files = self.world.repository.files_at(self.tip or "", [path])
        data = next(self.world.repository.blobs([files[0].oid]))[1] if files else None
        place = self.world.repository.state / "allowed_signers"
        if self.world.disk.read_bounded(place) != (data or b""):
            self.world.disk.make_directory(place.parent)
            self.world.disk.write_atomic(place, data or b"", sync=False)
        return place

    # -------------------------------------------------------------------------------------------- evidence, runs

    def _read_evidence_tree(self, trees: Trees, tip: str) -> None:
        """Bring the rows of evidence to a tree, reading the manifests that differ."""
        cache, gone = self.cache, {}
        if trees.evidence != cache.evidence_tree:
            rows = self._changed_rows(cache.evidence_tree, trees.evidence)
            gone = {run_id: cache.evidence.pop(run_id) for run_id in rows if run_id in cache.evidence}
            cache.evidence.update({run_id: row for run_id, row in rows.items() if row is not None})
            gone = {run_id: row for run_id, row in gone.items() if run_id not in cache.evidence}
            cache.evidence_tree, self.cache_changed = trees.evidence, True
        self.evidence = cache.evidence
        if self.hearing is not None:
            self.hearing.missing(gone, self._asked_for(gone), tip)

    def _asked_for(self, gone: Mapping[str, object]) -> Mapping[RunId, object]:
        """Return the runs that somebody asks for, as far as their evidence may be missed."""
        if not self.recurring or self.hearing is None:
            return self.paths
        missed = (RunId(each) for each in (*gone, *self.hearing.memory.lost))
        return {**self.paths, **{each: "" for each in missed if name_of_run(each) in self.recurring}}

    def _changed_rows(self, old: str | None, new: str | None) -> dict[str, list[Any] | None]:
        """Return the rows of the manifests that differ between two trees, None for those that prove nothing (now)."""
        repository = self.world.repository
        rows: dict[str, list[Any] | None] = {}
        wanted = []
        for path, entry in repository.changes(old, new, _leads_to_manifests):
            if path.endswith("/manifest.json"):
                run_id = path.split("/")[2]
                rows[run_id] = None
                if entry is not None and entry.is_file:
                    wanted.append((run_id, entry.oid))
        read = repository.blobs([oid for _, oid in wanted])
        for (run_id, oid), (_, data) in zip(wanted, read, strict=True):
            rows[run_id] = evidence_row(run_id, oid, data)
        return rows

    def _read_evidence_branch(self, tip: str) -> None:
        """Add the rows of the branch that evidence has of its own: what it proves and the tip does not yet."""
        branch = self.settings.publish.branch if self.settings.publish.mode == "branch" else None
        if branch is None or self.pinned is not None:
            self.evidence_tip = tip
            return
        found = self.hearing.refs.get(f"refs/heads/{branch}") if self.hearing else None
        evidence_tip = found or (self.world.repository.commit_of(branch) if self.hearing is None else None) or ""
        if evidence_tip == self.evidence_tip and self.evidence is not self.cache.evidence:
            return
        self.evidence_tip = evidence_tip
        tree = self.world.repository.look_up([f"{evidence_tip}:.runs"])[0] if evidence_tip else None
        rows = self._changed_rows(self.trees.evidence, tree) if tree else {}
        self.evidence = {**self.cache.evidence, **{run_id: row for run_id, row in rows.items() if row is not None}}

    def _lost(self) -> dict[RunId, str]:
        """Return the runs whose evidence was seen once and is gone, unless this machine can publish it again."""
        if self.hearing is None:
            return {}
        for run_id in [each for each in self.hearing.memory.lost if each in self.evidence]:
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
        key = f"{held.oid} {self.tip}"
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
        if OBJECT_ID.fullmatch(commit) and self.world.repository.is_ancestor(commit, self.tip or ""):
            with contextlib.suppress(ContentError):
                found = Observer(self.world, self.branch, pinned=commit).wish_of(run_id, fired_at)
                return found.plan if found is not None else None
        return None

    def _runs(self, marked: Sequence[tuple[TaskId, RunId]], wishes: Sequence[Wish]) -> dict[RunId, Run]:
        """Return every run that is under way here, and every wished one that has records although it is not marked."""
        known = {run_id: task_id for task_id, run_id in marked}
        for wish in wishes:
            if wish.run_id not in known and self._changed_ns(f"{self.done}/{wish.run_id}"):
                known[wish.run_id] = wish.request.task
        found = {run_id: self._run(task_id, run_id) for run_id, task_id in known.items()}
        return {run_id: run for run_id, run in found.items() if run is not None}

    def _place(self, task_id: TaskId, run_id: RunId) -> str:
        """Return a run directory as text: this is asked for every unsettled run in every pass, and Paths are slow."""
        return f"{self.root}/{task_id}/cli/{run_id}"

    def _changed_ns(self, path: str) -> int:
        found = self.world.disk.look(path)
        return found.changed_ns if found else 0

    def _run(self, task_id: TaskId, run_id: RunId) -> Run | None:
        """Return a run as it is. One that has ended is read again only when it has been claimed again."""
        stamp = self._changed_ns(f"{self._place(task_id, run_id)}/claims")
        if run_id in self.ended and self.ended[run_id][0] == stamp:
            return self.ended[run_id][1]
        run = self.world.runs.observe(task_id, run_id)
        if run is not None and run.planned and not run.corrupt and phase(run, self.world.now()) in ENDED:
            self.ended[run_id] = (stamp, run)
        return run


class Proven(Mapping[RunId, Evidence]):
    """The evidence at the tip, made into values only where somebody looks."""

    def __init__(self, rows: Mapping[str, list[Any]]) -> None:
        self._rows = rows

    def __getitem__(self, run_id: RunId) -> Evidence:
        task, name, status, attempt, completed_at, duration_s, blob, waiting = self._rows[run_id]
        return Evidence(
            run_id=run_id,
            task_id=task,
            name=name,
            status=Status(status),
            attempt=attempt,
            completed_at=completed_at,
            duration_s=duration_s,
            manifest_blob=blob,
            waiting=codec.load(Waiting, waiting) if waiting is not None else None,
        )

    def __iter__(self) -> Iterator[RunId]:
        return (RunId(each) for each in self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def evidence_row(run_id: str, oid: str, data: bytes | None) -> list[Any] | None:
    """Return the row of a committed manifest, None if it proves nothing: damaged, of another run, or not ended."""
    try:
        document = json.loads(data or b"")
        status = Status(document["status"])
        if document["run_id"] != run_id or not (status.ended or status == Status.WAITING):
            return None
        attempt = max(int(each["number"]) for each in document["attempts"])
        duration_s = float(document["resources"]["duration_s"])
        completed_at = str(document["completed_at"])
        waiting = None if status.ended else _waiting(document)
        row = [str(document["task_id"]), str(document["name"]), status.value, attempt, completed_at, duration_s, oid]
        return [*row, waiting]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _waiting(document: Mapping[str, Any]) -> Any:
    """Return what a committed manifest says its run waits for, as plain JSON values."""
    gates = tuple(
        Gate(
            stage=StageId(str(each["stage"])),
            reason=str(each["prompt"]),
            policy=str(each["policy"]),
            asked_at=_instant(each["asked_at"]),
        )
        for each in document["approvals"]
        if each["decision"] is None
    )
    digest, commit = str(document["attempts"][-1]["plan_digest"]), str(document["attempts"][-1]["commit"])
    return codec.dump(Waiting(plan_digest=digest, commit=commit, gates=gates))


def _instant(text: Any) -> str:
    """Return a UTC instant as a manifest writes it. Raise ValueError if it is none: policies reckon with it."""
    if not isinstance(text, str) or not text.endswith("Z"):
        raise ValueError("not an instant")
    datetime.fromisoformat(text)
    return text


def _leads_to_manifests(path: str) -> bool:
    """Return whether a path below `.runs` is `<task>/cli/<run-id>/manifest.json` or the beginning of one."""
    parts = path.split("/")
    return parts[1:2] in ([], ["cli"]) and parts[3:4] in ([], ["manifest.json"]) and len(parts) <= 4


def _name(path: str) -> Name:
    """Return the name a path below runs.d claims, valid or not."""
    return Name(path.removeprefix("runs.d/").rpartition(".")[0].replace("/", "."))


def _with_problems(wish: Wish, problems: Sequence[Problem]) -> Wish:
    """Return a wish that cannot be launched for these problems, beside those it has already."""
    if not problems:
        return wish
    found = wish.plan.problems if isinstance(wish.plan, Rejection) else ()
    path, name = wish.request.source.path, wish.request.name
    return replace(wish, plan=Rejection(path=path, name=name, problems=(*found, *problems)))


def _twin(path: str, paths: Sequence[str]) -> Rejection:
    others = ", ".join(each for each in paths if each != path)
    return _rejected(path, f"the name '{_name(path)}' is also claimed by {others}", "rename one of them", "name-twin")


def _rejected(path: str, reason: str, cure: str, rule: str) -> Rejection:
    problem = Problem(path=path, reason=reason, cure=cure, rule=rule)
    return Rejection(path=path, problems=(problem,), name=_name(path))
