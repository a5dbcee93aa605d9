"""What must always hold where an engine executes attempts, whatever that engine does and says.

An engine that lies can make two attempts of a run live at once; nobody can prevent that from here. What is promised all
the same is that only one of them is heard: each executes its stages at most once, the words of an older one are not
accepted once there is a newer one, and evidence holds nothing that was said after that.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from reconciler import codec
from reconciler.executors.engine import Standing, Submission
from reconciler.model import Attempt, Claim, Outcome, Plan, RunId, SharedClaim, claim_ref
from reconciler.places import Cause
from reconciler.rundir import RunDirectory
from reconciler.simulation.engine import GONE, Cluster, Node
from reconciler.simulation.host import Host
from reconciler.simulation.repository import Store
from reconciler.simulation.scheduler import NEVER, Actor, Home, Violation
from reconciler.simulation.story import Story
from reconciler.simulation.watch import Watch
from reconciler.simulation.word_watch import WordWatch
from reconciler.work import WORK, of_ref

OF_ENGINES = {
    Cause.PREEMPTED, Cause.REQUEUED, Cause.NODE_FAILED, Cause.EVICTED, Cause.TIME_LIMIT, Cause.OUT_OF_MEMORY,
    Cause.NO_IMAGE, Cause.ENGINE_CANCELLED,
}  # fmt: skip
"""Causes that only an engine can say."""

Number = tuple[str, int]


class EngineWatch(Watch):
    """Watches a history in which an engine executes attempts."""

    cluster: Cluster

    def __init__(self, store: Store, branch: str, story: Story) -> None:
        super().__init__(store, branch, story)
        self.handles: dict[str, Number] = {}
        self.names: dict[Number, str] = {}
        """The handle of every attempt that was submitted."""
        self.first: dict[Number, str] = {}
        """Which node's first word about an attempt was accepted."""
        self.hosts: Sequence[Host] = ()
        self.task_of: dict[str, str] = {}
        """The task of every run of which an attempt was submitted."""
        self.heard: dict[Number, set[object]] = {}
        """What was said of an attempt before a claim of the next one was recorded."""
        self.last: dict[Number, tuple[float, str]] = {}
        """When the last word of an attempt was accepted that says how its run ended, and how it did."""
        self.logs: set[tuple[str, str]] = set()
        """The logs that came home, by run and name."""
        self.words = WordWatch(store)
        self.unended: set[int] = set()
        """The attempts of which the manifest that is looked at has no end."""
        self.forged: set[Number] = set()
        """The attempts in whose name somebody else said something."""

    # -------------------------------------------------------------------------------------------- handing over

    def submitted(self, host: Host, submission: Submission) -> None:
        """An attempt is handed over: its handle and its key are durable, and it knows its order."""
        about = (submission.run_id, submission.number)
        path = host.checkout / ".runs" / submission.task_id / f"cli/{submission.run_id}"
        run = RunDirectory(path, host.disk)
        self.task_of[submission.run_id] = submission.task_id
        if host.slept_s and host.leased_until_s() <= host.lease_clock():
            # It was suspended between its last look and this: nobody can prevent that, and the next word is refused.
            self.cluster.lied.add(submission.handle)
        if about not in self.names:
            self.spawned(host, path, submission.number)
            self._check_lost(host, submission)
        claim = codec.parse(Claim, host.disk.file(str(run.record("claims", submission.number))).data)
        self._check_followed(about, claim)
        if claim.placement is None or claim.placement.handle != submission.handle:
            raise Violation(f"attempt {about[1]} of {about[0]} is handed over by a name that its claim does not say")
        if not host.disk.is_durable(path / f".work-key-{submission.number}"):
            raise Violation(f"attempt {about[1]} of {about[0]} is handed over before its key is durable")
        said = dict(zip(submission.arguments[::2], submission.arguments[1::2], strict=True))
        self.words.orders.setdefault(about, said.get("--order", ""))
        if said.get("--order") not in self.store.commits:
            raise Violation(f"attempt {about[1]} of {about[0]} is handed over and not told which order is its own")
        if self.names.setdefault(about, submission.handle) != submission.handle:
            raise Violation(f"attempt {about[1]} of {about[0]} has two names at the engine")
        if self.handles.setdefault(submission.handle, about) != about:
            raise Violation(f"{submission.handle} is the name of two attempts")

    def _check_lost(self, host: Host, submission: Submission) -> None:
        """The attempt before did not say how its run ended before its engine was first heard to have ended it, or who
        goes on cannot read its words."""
        before = (submission.run_id, submission.number - 1)
        if self._is_heard(before, host):
            raise Violation(f"attempt {before[1]} of {before[0]} said in time how it ended, and is followed by another")

    def _check_followed(self, about: Number, claim: Claim) -> None:
        """Of the processes of a machine that claimed an attempt, none was told last that the one before it is over, and
        all were told before the pass that claimed: then it had said its last word."""
        before, passes = (about[0], about[1] - 1), self.cluster.passes.get(claim.claimer, [])
        told = self.cluster.told.get(self.names.get(before, ""), {})
        here = [each for process, each in told.items() if process.boot_id == claim.claimer.boot_id]
        if before in self.words.over or not here or any(standing in GONE for standing, _ in here):
            return
        standing, told_s = max(here, key=lambda each: each[1])
        if any(told_s < each <= claim.claimed.monotonic_s for each in passes):
            says = f"its engine said last that it is {standing.value}"
            raise Violation(f"attempt {before[1]} of {before[0]} is followed, and {says}")

    def _is_heard(self, about: Number, host: Home) -> bool:
        """Return whether a machine must know how an attempt ended."""
        gone_s = self.cluster.gone_s.get(self.names.get(about, ""), -NEVER)
        key = f".runs/{self.task_of.get(about[0], '')}/cli/{about[0]}/.work-key-{about[1]}"
        can_read = isinstance(host, Host) and host.disk.node(f"{host.checkout}/{key}") is not None
        can_read = can_read or self.cluster.always_tells(self.names.get(about, ""))
        return can_read and self.last.get(about, (NEVER, ""))[0] < gone_s

    # -------------------------------------------------------------------------------------------- executing

    def progress(self, host: Host, run_id: str, number: int, worker: Actor, stage: str) -> None:
        """An attempt does something. On a node, its first word was accepted; and it is alone, unless the engine said
        that it is over."""
        if not isinstance(host, Node):
            super().progress(host, run_id, number, worker, stage)
            return
        if self.first.get((run_id, number)) != host.name:
            raise Violation(f"attempt {number} of {run_id} executes stage '{stage}' and its first word was not heard")
        if not self._is_excused(host):
            if self._is_followed((run_id, number)) or self._is_ended(run_id, number):
                raise Violation(f"attempt {number} of {run_id} goes on at stage '{stage}' after its host has ended it")
            super().progress(host, run_id, number, worker, stage)
            return
        other = self.executing.setdefault((run_id, number), worker)
        if other is not worker:
            raise Violation(f"attempt {number} of {run_id} is executed by two workers: {other.name}, {worker.name}")

    def alone(self, host: Host, plan: Plan, run: RunDirectory, number: int, worker: Actor) -> None:
        """What the engine said to be over counts for no member of its group."""
        members = self.groups.get(plan.group, {})
        for other in [each for each, (_, home, _) in members.items() if self._is_excused(home)]:
            del members[other]
        if not self._is_excused(host):
            super().alone(host, plan, run, number, worker)

    def _is_excused(self, host: Home) -> bool:
        return isinstance(host, Node) and host.handle in self.cluster.lied

    def power_lost(self, host: Host, standing: list[str]) -> None:
        """Nothing is kept on a node."""
        if not isinstance(host, Node):
            super().power_lost(host, standing)

    def ended(self, host: Host, run: RunDirectory, number: int) -> None:
        """An attempt has ended. Nothing is kept on a node: its end is told by a word, or lost with it."""
        if isinstance(host, Node):
            self._note_waiting(host, run, number)
            self.words.ended(host, run, number)
        else:
            super().ended(host, run, number)

    # -------------------------------------------------------------------------------------------- words

    def says(self, about: Number, known: Attempt | None, files: Mapping[str, bytes]) -> None:
        self.words.says(about, known, files)

    def fenced(self, host: Host, ref: str) -> None:
        self.words.fenced(of_ref(ref) or ("", 0), host, self.cluster.server.refs.get(ref))

    def branch_moved(self, ref: str, old: str | None, new: str | None) -> None:
        super().branch_moved(ref, old, new)
        if ref.startswith(WORK):
            self._work_moved(ref, old, new)

    def _shared(self, oid: str) -> SharedClaim | None:
        with contextlib.suppress(codec.CodecError):
            return codec.parse(SharedClaim, self.store.commits[oid].message.encode())
        return None

    def _is_followed(self, about: Number) -> bool:
        """Return whether somebody has recorded a claim of the next attempt."""
        return self._is_recorded(about[0], f"claims/{about[1] + 1}.json")

    def _is_ended(self, run_id: str, number: int) -> bool:
        """Return whether the machine that has the run wrote down that an attempt is over. What another one wrote, and
        could not say before the run was taken from it, counts for nothing."""
        oid = self.cluster.server.refs.get(claim_ref(RunId(run_id)))
        claim = self._shared(oid) if oid is not None else None
        theirs = [each for each in self.hosts if claim is None or claim.host.startswith(f"{each.name}-")]
        return self._is_recorded(run_id, f"ends/{number}.json", theirs)

    def _is_recorded(self, run_id: str, name: str, hosts: Sequence[Host] = ()) -> bool:
        path = f".runs/{self.task_of[run_id]}/cli/{run_id}/{name}"
        return any(host.disk.node(f"{host.checkout}/{path}") is not None for host in hosts or self.hosts)

    def _work_moved(self, ref: str, old: str | None, new: str | None) -> None:
        about = of_ref(ref)
        assert about is not None
        if new in self.cluster.forger.made:
            self.forged.add(about)
        if old is not None and new is not None:
            self._said(about, new)
        elif new is None:
            self._released(about)

    def _said(self, about: Number, oid: str) -> None:
        """A word was accepted: of the newest attempt that has an order."""
        run_id, number = about
        there = [of_ref(ref) or ("", 0) for ref in self.cluster.server.refs]
        newest = max(each for known, each in there if known == run_id)
        if newest > number:
            raise Violation(f"a word of attempt {number} of {run_id} is accepted and attempt {newest} has its order")
        if oid in self.cluster.forger.made:
            self.last.pop(about, None)  # what the attempt had said stands there no more
            return
        tree = self.store.commits[oid].tree
        card = self.store.at(tree, "run/courier.json")
        if card is not None:
            name = str(json.loads(self.store.blobs[card.oid])["incarnation"])
            self.first.setdefault(about, name)
            node = next(each for each in self.cluster.nodes if each.name == name)
            self.words.heard(about, oid, node, self.cluster.scheduler.now)
        record = self.store.at(tree, f"run/attempts/{number}.json")
        if record is not None and not self._is_followed(about):
            attempt = codec.parse(Attempt, self.store.blobs[record.oid])
            stages = {(each.id, each.status.value) for each in attempt.stages}
            self.heard.setdefault(about, set()).update({attempt.started.at, attempt.outcome, *stages})
            if attempt.outcome in (Outcome.SUCCEEDED, Outcome.FAILED):
                self.last.setdefault(about, (self.cluster.scheduler.now, attempt.outcome.value))
            logs = self.store.at(tree, "run/commands")
            came = self.store.trees[logs.oid] if logs is not None else {}
            self.logs |= {(run_id, name) for name, each in came.items() if self.store.blobs[each.oid]}

    def _released(self, about: Number) -> None:
        """The ref of an attempt is deleted: nobody goes on with that attempt."""
        run_id, number = about
        oid = self.cluster.server.refs.get(claim_ref(RunId(run_id)))
        claim = self._shared(oid) if oid is not None else None
        proven = self.statuses.get(run_id, (0, ""))[0]
        if claim is not None and claim.number == number > proven:
            raise Violation(f"the ref of attempt {number} of {run_id} is deleted, which is claimed and not proven")

    # -------------------------------------------------------------------------------------------- evidence

    def _check_files(self, commit: str, document: dict[str, Any]) -> None:
        self.unended = {each["number"] for each in document["attempts"] if each["ended_at"] is None}
        super()._check_files(commit, document)

    def _check_log(self, run_id: str, command: dict[str, Any], log: bytes) -> None:
        """A log is whole, or it was lost with its node and its manifest says so."""
        name = command["log_path"].rpartition("/")[2]
        came = command["attempt"] not in self.unended and (run_id, name) in self.logs
        lost = (run_id, command["attempt"]) in self.names and not came
        if not lost or log or command["log_committed_bytes"]:
            super()._check_log(run_id, command, log)

    def _check_truth(self, document: dict[str, Any]) -> None:
        super()._check_truth(document)
        newest = (document["run_id"], max(int(each["number"]) for each in document["attempts"]))
        refused = "its engine refuses" in (document["status_detail"] or "")
        if refused and self.names.get(newest) not in self.cluster.refused:
            raise Violation(
                f"evidence says that an engine refuses attempt {newest[1]} of {newest[0]}: it never said so"
            )
        for each in document["attempts"]:
            self._check_attempt(document, each)
        for each in document["recoveries"]:
            self._check_recovery(document, each)

    def _check_attempt(self, document: dict[str, Any], attempt: dict[str, Any]) -> None:
        """What evidence says of an attempt at the engine was said while it was the newest."""
        about = (document["run_id"], attempt["number"])
        if about not in self.names:
            return
        worker = self.executing.get(about)
        if worker is not None and not worker.dead and not self._is_excused(worker.host):
            raise Violation(f"attempt {about[1]} of {about[0]} is evidence and still executes")
        heard, where = self.heard.get(about, set()), f"attempt {about[1]} of {about[0]}"
        actor, said = self.cluster.scheduler.current, self.last.get(about, (NEVER, ""))[1]
        if actor is not None and self._is_heard(about, actor.host) and attempt["outcome"] not in (said, "cancelled"):
            raise Violation(f"evidence says that {where} {attempt['outcome']}, and it said in time that it {said}")
        if attempt["started_at"] is not None and attempt["started_at"] not in heard:
            raise Violation(f"evidence says when {where} began, and nobody said that in time")
        if attempt["outcome"] in ("succeeded", "waiting") and attempt["outcome"] not in heard:
            raise Violation(f"evidence says that {where} {attempt['outcome']}, and nobody said that in time")
        for each in document["commands"]:
            done = each["status"] == "succeeded" and each["attempt"] == about[1]
            if done and (each["id"], "succeeded") not in heard:
                raise Violation(f"evidence says that stage '{each['id']}' succeeded in {where}: nobody said so in time")

    def _check_recovery(self, document: dict[str, Any], recovery: dict[str, Any]) -> None:
        """What a manifest says of a lost attempt did happen, as far as the engine is said to have done it."""
        lost, cause = recovery["lost"], Cause(recovery["cause"])
        placed = [each["placement"] for each in document["attempts"] if each["number"] == lost and each["placement"]]
        handle = placed[0]["handle"] if placed else None
        said = self.cluster.said.get(handle, set()) if handle is not None else set()
        spoken = self.words.spoken.get((document["run_id"], lost))
        since_s = self.cluster.scheduler.now - (spoken.at_s if spoken is not None else 0.0)
        # It may have said something after it was given up, when it was told to end already.
        most_s = max(since_s, spoken.silent_s if spoken is not None else 0.0)
        # Who finds a word that nobody here can read takes it for one of an attempt that was executed.
        handed_over = handle in self.handles or (document["run_id"], lost) in self.forged
        wrong = (
            (cause == Cause.SILENT and handle is not None and not 0 <= recovery["silent_s"] <= 1.1 * most_s + 1)
            or (cause in OF_ENGINES and cause not in said)
            or (cause == Cause.ENGINE_FORGOT and (Standing.ABSENT not in said or not handed_over))
            or (handle is not None and cause == Cause.WORKER_DIED and Standing.ENDED not in said)
        )
        if wrong:
            where = f"attempt {lost} of {document['run_id']}"
            raise Violation(f"evidence says that {where} was lost by {cause.value}, which did not happen")

    # -------------------------------------------------------------------------------------------- the end

    def check_end(self, owned: dict[str, bytes | None]) -> None:  # type: ignore[override]
        """After all is quiet, nothing executes and nothing is waited for, but for what the engine lied about, and what
        people hold back."""
        super().check_end(owned)
        there = {self.names.get(of_ref(ref) or ("", 0)) for ref in self.cluster.server.refs}
        for handle in sorted(self.cluster.placed.keys() - self.cluster.lied - there):
            busy = [each.name for actor in self.cluster.placed[handle].living for each in actor.host.actors]
            if self.cluster.sighting(handle).standing == Standing.QUEUED or any("worker" in each for each in busy):
                raise Violation(f"{handle} is left at the engine")
