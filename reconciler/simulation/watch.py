"""What must always hold, looked at whenever something that could break it has changed.

Each check speaks of the world as it is (the branch, the disk, who moves), never of how the code got there.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reconciler import checklist, codec
from reconciler.executors.engine import Submission
from reconciler.git import Entry
from reconciler.model import (
    ApprovalPolicy,
    Attempt,
    Claim,
    Plan,
    PlannedStage,
    StageRecord,
    StageStatus,
    Status,
    name_of_run,
)
from reconciler.rundir import RunDirectory
from reconciler.simulation.deciding import Decisions
from reconciler.simulation.host import Host
from reconciler.simulation.repository import Store
from reconciler.simulation.scheduler import Actor, Violation
from reconciler.simulation.story import Story

DELIVERED = "refs/heads/runs/"
"""Below that lie the branches of what agents changed."""


class Watch:
    """Remembers what was promised, and raises Violation when it is broken."""

    def __init__(self, store: Store, branch: str, story: Story) -> None:
        self.store, self.branch, self.after, self.shared = store, branch, story.after(), story.remote
        self.decisions = Decisions(story.policy)
        self.decided: dict[tuple[str, int], int] = {}
        """How many decisions were committed when an attempt was spawned."""
        self.waited: dict[tuple[str, str], int] = {}
        """How many were when an attempt was that came to wait at a gate."""
        self.fires: dict[tuple[str, str, str], str] = {}
        self.groups: dict[str, dict[str, tuple[Actor, Host, Path]]] = {}
        self.quota, self.tasks = story.quota, dict[str, dict[str, tuple[Actor, Host, Path]]]()
        self.newest: dict[str, int] = {}
        self.executing: dict[tuple[str, int], Actor] = {}
        self.successes: set[tuple[str, str]] = set()
        self.citing: set[tuple[str, str]] = set()
        """Those of them that are successes of an earlier run."""
        self.statuses: dict[str, tuple[int, str]] = {}
        self.tip = ""

    # -------------------------------------------------------------------------------------------- runs

    def progress(self, host: Host, run_id: str, number: int, worker: Actor, stage: str) -> None:
        """An attempt does something: it is the newest that ever did, the only worker of it, and alone."""
        newest = self.newest.get(run_id, 0)
        if number < newest:
            raise Violation(f"attempt {number} of {run_id} goes on at stage '{stage}' after attempt {newest} has begun")
        proven = self.statuses.get(run_id)
        if proven is not None and number > proven[0] and Status(proven[1]).ended:
            raise Violation(f"attempt {number} of {run_id} begins after it was proven {proven[1]}")
        self.newest[run_id] = number
        other = self.executing.setdefault((run_id, number), worker)
        if other is not worker:
            raise Violation(f"attempt {number} of {run_id} is executed by two workers: {other.name}, {worker.name}")
        node = host.disk.lock_paths
        for each in host.actors:
            if each is worker or each.kind not in ("stage", "worker"):
                continue
            held = [lock for lock in each.handles if f"/{run_id}/lock" in node.get(lock, "")]  # type: ignore[call-overload]
            if held and not (each.kind == "stage" and worker.handles and held[0] is worker.handles[0]):
                raise Violation(f"two attempts of {run_id} live at once: {each.name} beside {worker.name}")

    def alone(self, host: Host, plan: Plan, run: RunDirectory, number: int, worker: Actor) -> None:
        """An attempt does something: no other run of its concurrency group is under way, and not too many of its task
        are."""
        self._within_quota(host, plan, run, number, worker)
        if not plan.group:
            return
        members = self.groups.setdefault(plan.group, {})
        for other, (actor, home, path) in members.items():
            if other != plan.run_id and not actor.dead and not _has_ended(home, path) and not home.outslept():
                raise Violation(f"two runs of group '{plan.group}' live at once: {plan.run_id} beside {other}")
        members[plan.run_id] = (worker, host, run.record("attempts", number))

    def _within_quota(self, host: Host, plan: Plan, run: RunDirectory, number: int, worker: Actor) -> None:
        if not self.quota:
            return
        members = self.tasks.setdefault(plan.task_id, {})
        members[plan.run_id] = (worker, host, run.record("attempts", number))
        live = sorted(
            name for name, (actor, home, path) in members.items() if not actor.dead and not _has_ended(home, path)
        )
        if len(live) > self.quota:
            raise Violation(f"{len(live)} runs of task '{plan.task_id}' live at once: {', '.join(live)}")

    def spawned(self, host: Host, directory: Path, number: int) -> None:
        """A worker is started: its claim, its plan and its mark are durable, whatever happens now."""
        run = RunDirectory(directory, host.disk)
        claim = host.disk.node(str(run.record("claims", number)))
        if claim is None:
            raise Violation(f"attempt {number} of {directory.name} is spawned without a claim")
        mark = host.repository.state / "live" / directory.name
        record = codec.parse(Claim, host.disk.file(str(run.record("claims", number))).data)
        plan_path = run.plan_path(record)
        plan = codec.parse(Plan, host.disk.file(str(plan_path)).data)
        if number - record.series >= plan.attempts_max:
            raise Violation(f"attempt {number} of {directory.name} is one more than the {plan.attempts_max} it may use")
        before = self.after.get(plan.name)
        if number == 1 and before is not None and not self._has_succeeded(before):
            raise Violation(f"{plan.run_id} begins and no run of '{before}', which it comes after, is proven")
        if number == 1 and plan.fired_at:
            self._check_fire(plan)
        # Whoever stood still between its look and this starts a worker that ends itself before it does anything.
        leased = not self.shared or host.leased_until_s() > host.lease_clock()
        if plan.parent is not None and self._is_over(plan.parent) and leased:
            raise Violation(f"attempt {number} of {plan.run_id} begins after its parent {plan.parent} was proven")
        self.decided[plan.run_id, number] = len(self.decisions.said)
        for path in (mark, run.record("claims", number), plan_path):
            if not host.disk.is_durable(path):
                raise Violation(f"attempt {number} of {directory.name} is spawned before {path.name} is durable")

    def submitted(self, host: Host, submission: Submission) -> None:
        """An attempt is handed to an engine."""
        raise Violation(f"{submission.handle} is handed to an engine that nobody has")

    def says(self, about: tuple[str, int], known: Attempt | None, files: Mapping[str, bytes]) -> None:
        """A courier is about to say a word."""

    def fenced(self, host: Host, ref: str) -> None:
        """A courier has heard that its attempt was taken from it."""

    def _check_fire(self, plan: Plan) -> None:
        """A fire of one wording of a request is executed by one run."""
        known = self.fires.setdefault((plan.name, plan.fired_at, plan.request.blob), plan.run_id)
        if known != plan.run_id:
            raise Violation(f"the fire of '{plan.name}' at {plan.fired_at} is executed by {known} and {plan.run_id}")

    def _is_over(self, run_id: str) -> bool:
        """Return whether the tip proves how a run ended: that it waits is no end."""
        return run_id in self.statuses and Status(self.statuses[run_id][1]).ended

    def passed_gate(self, plan: Plan, stage: PlannedStage, number: int) -> None:
        """A stage starts: if it has a gate, people opened it before the attempt was claimed, and nobody closed it."""
        if stage.approval is None or plan.approval_policy == ApprovalPolicy.AUTO:
            return
        about, upto = (plan.run_id, stage.id, plan.digest), self.decided[plan.run_id, number]

        def is_early(commit: str) -> bool:
            return self.store.is_ancestor(commit, plan.commit)

        if not self.decisions.approved(*about, upto, is_early):
            raise Violation(f"stage '{stage.id}' of {plan.run_id} starts in attempt {number} and is not approved")
        closed = self.decisions.rejections(*about, self.waited.get((plan.run_id, stage.id), 0), is_early)
        # Of several machines one may have seen an older tip than was there when another one began to wait.
        if not self.shared and closed & self.decisions.rejections(*about, upto, is_early):
            raise Violation(f"stage '{stage.id}' of {plan.run_id} starts in attempt {number} and was rejected")

    def nested(self, run_id: str, stage: PlannedStage, record: StageRecord) -> None:
        """A stage whose pipeline is nested is judged: the tip proves how all its runs ended, and that says how."""
        if record.status == StageStatus.WAITING:
            return
        for child in stage.children:
            if not self._is_over(child.run_id):
                raise Violation(f"stage '{stage.id}' of {run_id} is over before its run {child.run_id} is proven")
        ends = {self.statuses[child.run_id][1] for child in stage.children}
        if (record.status == StageStatus.SUCCEEDED) != (ends == {Status.SUCCEEDED.value}):
            raise Violation(f"stage '{stage.id}' of {run_id} {record.status.value}, its runs {', '.join(sorted(ends))}")
        if record.status == StageStatus.SUCCEEDED:
            self.succeeded(run_id, stage)

    def _has_succeeded(self, name: str) -> bool:
        runs = [status for run_id, (_, status) in self.statuses.items() if name_of_run(run_id) == name]
        return Status.SUCCEEDED.value in runs

    def ended(self, host: Host, run: RunDirectory, number: int) -> None:
        """A worker has ended its attempt and lets go of the lock: the end is durable."""
        path = run.record("attempts", number)
        if host.disk.node(str(path)) is not None and not host.disk.is_durable(path):
            raise Violation(f"attempt {number} of {run.path.name} has ended and its end is not durable")
        self._note_waiting(host, run, number)

    def _note_waiting(self, host: Host, run: RunDirectory, number: int) -> None:
        """Remember how many decisions were committed when an attempt was that came to wait at a gate."""
        attempt = _attempt(host, run.record("attempts", number))
        for record in attempt.stages if attempt is not None else ():
            if record.status == StageStatus.WAITING:
                self.waited.setdefault((run.path.name, record.id), self.decided[run.path.name, number])

    def succeeded(self, run_id: str, stage: PlannedStage) -> None:
        """A stage truly succeeded: only such may be called succeeded in evidence."""
        self.successes.add((run_id, stage.digest))

    def cited(self, run_id: str, stage: PlannedStage) -> None:
        """An earlier success stands for a stage: it was one, of the same definition, and executed in that run."""
        cited = stage.cited
        if cited is None or (cited.run_id, stage.digest) not in self.successes - self.citing:
            raise Violation(f"stage '{stage.id}' of {run_id} cites {cited}, which is no success of it")
        if not self._is_over(cited.run_id):
            raise Violation(f"stage '{stage.id}' of {run_id} cites {cited.run_id}, which is not proven")
        self.citing.add((run_id, stage.digest))
        self.succeeded(run_id, stage)

    def power_lost(self, host: Host, standing: list[str]) -> None:
        """Every file that somebody was told is durable is there as it was."""
        kept = set(host.disk.standing())
        for path in standing:
            if path not in kept:
                raise Violation(f"{path} was acknowledged as durable and did not survive a power loss")

    # -------------------------------------------------------------------------------------------- the branch

    def branch_moved(self, ref: str, old: str | None, new: str | None) -> None:
        """A ref moved; the branch, by a reconciler: forward, and by nothing but evidence. What was delivered stays."""
        if ref.startswith(DELIVERED) and old is not None:
            raise Violation(f"{ref}, which was delivered, was moved or deleted")
        if ref != self.branch:
            return
        if new is None:
            raise Violation(f"{ref} was deleted by a reconciler")
        if old is not None and old not in self.store.commits[new].parents:
            raise Violation(f"the branch moved from {old[:10]} to {new[:10]}, which is no child of it")
        self._check_commit(old, new)
        self.tip = new

    def person_committed(self, new: str) -> None:
        self.tip = new

    def _check_commit(self, old: str | None, new: str) -> None:
        store = self.store
        before = store.commits[old].tree if old else None
        for path, was, now in store.differences(before, store.commits[new].tree):
            if path.startswith((".runs/", "out/")):
                if now is None:
                    raise Violation(f"a commit of the reconciler removes {path}")
                parts = path.split("/")
                if parts[2:3] == ["cli"] and parts[4:] == ["manifest.json"]:
                    self._check_manifest(new, path, now)
            elif was is None or now is None:
                raise Violation(f"a commit of the reconciler adds or removes {path}")
            elif path == "tasks/index.json":
                self._check_index(was, now)
            elif path.endswith(".md"):
                self._check_checklist(new, path, store.blobs[was.oid], store.blobs[now.oid])
            else:
                raise Violation(f"a commit of the reconciler changes {path}, which is not its own")

    def _check_manifest(self, commit: str, path: str, entry: Entry) -> None:
        document = json.loads(self.store.blobs[entry.oid])
        run_id, status = document["run_id"], document["status"]
        if not Status(status).ended and status != Status.WAITING.value:
            raise Violation(f"{path} is committed with status '{status}'")
        number = max(int(each["number"]) for each in document["attempts"])
        known = self.statuses.get(run_id)
        if known is not None and not _may_follow(known, (number, status)):
            raise Violation(f"{run_id} was {known[1]} at attempt {known[0]} and becomes {status} at attempt {number}")
        if number < self.newest.get(run_id, 0):
            raise Violation(f"attempt {number} of {run_id} is published after attempt {self.newest[run_id]} has begun")
        self.statuses[run_id] = (number, status)
        self._check_superseded(commit, document)
        self._check_files(commit, document)
        self._check_truth(document)
        if status == Status.SUCCEEDED.value:
            for child in document["child_runs"]:
                if not self._is_over(child):
                    raise Violation(f"{run_id} is called succeeded and its run {child} is not proven")

    def _check_superseded(self, commit: str, document: dict[str, Any]) -> None:
        """A fire does not end the run of the one before it: only another wording of the request does."""
        request, detail = document["request"], document["status_detail"] or ""
        if document["fired_at"] and "superseded by" in detail:
            data = self.store.read(commit, request["path"])
            if data is not None and self.store.blob(data) == request["blob"]:
                raise Violation(f"{document['run_id']} was {detail}, though its request is the same as when it began")

    def _check_files(self, commit: str, document: dict[str, Any]) -> None:
        """Everything a manifest names is in the same commit, and is what it says."""
        run_id = document["run_id"]
        for command in document["commands"]:
            for name in (command["log_path"], command["error_file"]):
                data = self.store.read(commit, name) if name else b""
                if data is None:
                    raise Violation(f"the manifest of {run_id} names {name}, which is not in its commit")
            log = command["log_path"] and self.store.read(commit, command["log_path"])
            if log is not None and log is not False and command["log_path"]:
                self._check_log(run_id, command, log)
        if self.store.read(commit, f".runs/{document['task_id']}/{run_id}/manifest.json") is None:
            raise Violation(f"the manifest of {run_id} is committed without its summary")

    def _check_log(self, run_id: str, command: dict[str, Any], log: bytes) -> None:
        if command["status"] in ("succeeded", "failed") and command["log_bytes"] != len(log):
            says = f"its manifest says {command['log_bytes']} bytes and the log has {len(log)}"
            raise Violation(f"the log of stage '{command['id']}' of {run_id} is not whole: {says}")

    def _check_truth(self, document: dict[str, Any]) -> None:
        """What is called succeeded did succeed; a run that succeeded has no stage that did not, unless allowed."""
        run_id = document["run_id"]
        for command in document["commands"]:
            succeeded = command["status"] == "succeeded"
            if succeeded and (run_id, command["digest"]) not in self.successes:
                raise Violation(f"stage '{command['id']}' of {run_id} is called succeeded and never did")
            allowed = succeeded or (command["allow_failure"] and command["status"] == "failed")
            if document["status"] == "succeeded" and command["selected"] and not allowed:
                raise Violation(f"{run_id} is called succeeded, its stage '{command['id']}' {command['status']}")
            if "cannot start directory" in command["summary"]:
                raise Violation(f"stage '{command['id']}' of {run_id} failed because its workspace is gone")

    def _check_index(self, was: Entry, now: Entry) -> None:
        before, after = (json.loads(self.store.blobs[each.oid]) for each in (was, now))
        for document in (before, after):
            for item in document["items"]:
                item.pop("gate", None)
        if before != after:
            raise Violation("a commit of the reconciler changes more of tasks/index.json than gates")

    def _check_checklist(self, commit: str, path: str, was: bytes, now: bytes) -> None:
        before, after = was.splitlines(keepends=True), now.splitlines(keepends=True)
        changed = [number for number, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]]
        if len(before) != len(after) or any(b"<!-- item:" not in before[number] for number in changed):
            raise Violation(f"a commit of the reconciler changes lines of {path} that are no items")
        lines = {number + 1 for number in changed}
        for item in checklist.items(now, path):
            if item.line in lines:
                self._check_item(commit, path, item)

    def _check_item(self, commit: str, path: str, item: checklist.Item) -> None:
        where = f"item {item.id} of {path}"
        if not item.ticked or item.evidence_path is None:
            raise Violation(f"{where} was edited and is not ticked with evidence")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), item.evidence_path))
        data = self.store.read(commit, target)
        if data is None:
            raise Violation(f"{where} names {target}, which is not in its commit")
        if json.loads(data)["status"] != "succeeded":
            raise Violation(f"{where} names {target}, which has not succeeded")

    # -------------------------------------------------------------------------------------------- passes, the end

    def acknowledged(self, commit: str, heads: Iterable[str]) -> None:
        """A pass says that evidence is committed: the branch holds it from now on."""
        if not any(self.store.is_ancestor(commit, head) for head in (self.tip, *heads)):
            raise Violation(f"commit {commit[:10]} was reported as published and is not on the branch")

    def check_end(self, owned: Mapping[str, bytes | None]) -> None:
        """After all is quiet: the tip proves what it should and holds everything that people wrote."""
        tip, store = self.tip, self.store
        for path, data in owned.items():
            now = store.read(tip, path)
            if path.endswith(".md") and now is not None and data is not None:
                same = len(now.splitlines()) == len(data.splitlines())
            elif path == "tasks/index.json":
                same = now is not None
            else:
                same = now == data
            if not same:
                raise Violation(f"{path} is not what people committed")
        self._check_metrics()

    def _check_metrics(self) -> None:
        """The sums of a task are those of its manifests."""
        tree = self.store.commits[self.tip].tree
        counts: dict[str, int] = {}
        for run_id in filter(self._is_over, self.statuses):
            task = self._task_of(tree, run_id)
            if task:
                counts[task] = counts.get(task, 0) + 1
        for task, count in counts.items():
            data = self.store.read(self.tip, f".runs/{task}/metrics.json")
            total = json.loads(data or b"{}").get("runs", {}).get("total")
            if total is not None and total != count:
                raise Violation(f"the metrics of task {task} count {total} runs, the tip holds {count}")

    def _task_of(self, tree: str, run_id: str) -> str:
        runs = self.store.at(tree, ".runs")
        tasks = self.store.trees[runs.oid] if runs is not None else {}
        return next((task for task in tasks if self.store.at(tree, f".runs/{task}/cli/{run_id}/manifest.json")), "")


def _may_follow(known: tuple[int, str], now: tuple[int, str]) -> bool:
    """Return whether evidence (attempt, status) may take the place of other: of the same attempt only itself, but for
    a run that waited and was cancelled."""
    cancelled = known[1] == Status.WAITING.value and now[1] == Status.CANCELLED.value
    return now[0] > known[0] or (now[0] == known[0] and (now[1] == known[1] or cancelled))


def _has_ended(host: Host, path: Path) -> bool:
    """Return whether the record of an attempt says how it ended."""
    attempt = _attempt(host, path)
    return attempt is not None and attempt.outcome is not None


def _attempt(host: Host, path: Path) -> Attempt | None:
    if host.disk.node(str(path)) is None:
        return None
    with contextlib.suppress(codec.CodecError):
        return codec.parse(Attempt, host.disk.file(str(path)).data)
    return None
