"""The simulated courier: what the real one does for an attempt, with the same words, on a node of a simulated engine.

Orders, words and what is handed back are made by the code that the real one uses. Its worker is the simulated one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from reconciler import codec
from reconciler.errors import ContentError, TransientError
from reconciler.executors import handback, ordering
from reconciler.executors.engine import Submission
from reconciler.executors.voice import Fenced, Voice
from reconciler.model import Attempt, Claim, Outcome, Plan, StageStatus, Workspace
from reconciler.model import Host as Machine
from reconciler.rundir import RunDirectory
from reconciler.simulation.host import Host
from reconciler.simulation.remote import Server, SimulatedRemote
from reconciler.simulation.scheduler import Actor
from reconciler.simulation.worker import SimulatedWorker
from reconciler.work import KEY_VARIABLE, WorkOrder

T = TypeVar("T")

SAY_S = 3.0
PATIENCE_S, START_PATIENCE_S = 86_400.0, 600.0
PAUSE_S, PAUSE_MAX_S = 0.5, 60.0
SILENT_BEATS = 3
MARGIN_S = 2.0
STARTED_AGAIN = "the engine started it again"
NEVER_SAID = "the worker ended without a record of its end"


class NotOurs(Exception):
    """There is nothing to do here: the ref is gone or somebody else's, or it was told to stop in time."""


class SimulatedCourier:
    """One execution of one submission."""

    def __init__(self, node: Host, actor: Actor, submission: Submission, server: Server) -> None:
        self.node, self.actor, self.scheduler = node, actor, node.scheduler
        self.remote = SimulatedRemote(node, node.repository, server)
        self.repository = node.repository
        said = dict(zip(submission.arguments[::2], submission.arguments[1::2], strict=True))
        self.ref, self.order = said["--ref"], said["--order"]
        self.key = submission.secrets[KEY_VARIABLE]
        path = node.checkout / ".runs" / submission.task_id / "cli" / submission.run_id
        self.directory = RunDirectory(path, node.disk)
        self.worker: Actor | None = None

    def main(self) -> None:
        # A real courier says on standard error what went wrong, and exits.
        with contextlib.suppress(NotOurs, ContentError, TransientError, OSError, codec.CodecError):
            try:
                self._run()
            except Fenced:
                self.node.history.watch.fenced(self.node, self.ref)

    def _run(self) -> None:
        there = self._patiently(self._there)
        order = ordering.read_order(self.repository, self.order)
        voice = Voice(self.remote, self.ref, self.order, order, there, self.key, self.node.now)
        if there != self.order:
            self._find_it_begun(voice)
            return
        ordering.lay_down(self.repository, self.order, order, self.directory)
        plan = self._plan(order)
        self._prepare(plan, order)
        self._patiently(lambda: voice.say(self._with_card({})))
        self.node.history.count("couriers that executed")
        self._execute(voice, plan)

    def _there(self) -> str:
        oid = self.remote.look([self.ref]).get(self.ref)
        if oid is None:
            raise NotOurs
        return oid

    def _plan(self, order: WorkOrder) -> Plan:
        claim = self.directory.read(Claim, self.directory.record("claims", order.number))
        plan = self.directory.plan(claim)
        if plan is None:
            raise ContentError(f"{self.directory.path}: there is no plan")
        return plan

    def _prepare(self, plan: Plan, order: WorkOrder) -> None:
        if plan.workspace == Workspace.WORKTREE:
            self._patiently(lambda: self.repository.add_worktree(self.directory.workspace, order.commit))
        else:
            self.node.disk.make_directory(self.directory.workspace, sync=False)

    # -------------------------------------------------------------------------------------------- the attempt

    def _execute(self, voice: Voice, plan: Plan) -> None:
        number = voice.order.number
        self.worker = self.node.new_actor(f"worker {voice.order.run_id} {number}", "worker")
        worker = SimulatedWorker(self.node, self.worker, self.directory.path, number, voice.order.plan_sha256, None)
        self.scheduler.start(self.worker, worker.main, self.node.history.late_s(voice.order.run_id, number))
        self.actor.waits_for = (self.worker,)
        try:
            self._accompany(voice, plan)
        except Fenced:
            self.scheduler.say("is fenced", self.ref)
            self.node.history.count("couriers that were fenced")
            self._end_worker(plan.grace_s)
            raise
        self._end_what_is_left()
        self._mend(number, NEVER_SAID)
        self._hand_back(voice, plan)

    def _accompany(self, voice: Voice, plan: Plan) -> None:
        """Say words until the worker has ended. Raise Fenced if nobody hears them any more."""
        assert self.worker is not None
        shown: object = None
        told_at, failed, said_s = float("inf"), 0, self.node.monotonic()
        while not self.worker.dead:
            now_s = self.node.monotonic()
            if self.actor.told_to_stop and told_at == float("inf"):
                told_at = now_s
                self.scheduler.terminate(self.worker)
            if now_s >= told_at + plan.grace_s + MARGIN_S:
                self._end_what_is_left()
                continue
            shows = self._shown(voice.order)
            wait_s = _pause_s(failed) if failed else min(SAY_S, voice.order.beat_s)
            due_s = said_s + (wait_s if failed or shows != shown else voice.order.beat_s)
            if now_s < due_s:
                self._sleep(min(due_s - now_s, 0.5 if told_at < float("inf") else SAY_S))
                continue
            try:
                files = handback.standing(self.directory, voice.order)
                self.node.history.watch.says((voice.order.run_id, voice.order.number), shows, files)
                voice.say(self._with_card(files))
                shown, failed = shows, 0
            except (TransientError, OSError):
                failed += 1
            said_s = self.node.monotonic()

    def _shown(self, order: WorkOrder) -> Attempt | None:
        attempt = handback.record_of(self.directory, order.number)
        return None if attempt is None else replace(attempt, elapsed_s=0.0)

    def _hand_back(self, voice: Voice, plan: Plan) -> None:
        """Say the last word until it is heard; who was told to stop before has one try."""
        files = self._with_card(handback.everything(self.directory, voice.order, plan))

        def speak() -> None:
            voice.say(files, ended=True)

        if self.actor.told_to_stop:
            speak()
            return
        try:
            self._patiently(speak, PATIENCE_S)
        except NotOurs:
            speak()

    def _with_card(self, files: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return the files of a word, with who says it."""
        return {**files, "courier.json": codec.compact({"incarnation": self.node.name})}

    # -------------------------------------------------------------------------------------------- begun before

    def _find_it_begun(self, voice: Voice) -> None:
        """Hand back an attempt that another courier began, unless that one lives or has said how it ended."""
        word = ordering.read_word(self.repository, voice.there, self.key)
        if word is None or word.ended or self.repository.parent(voice.there) != self.order:
            raise NotOurs
        self._ask_to_be_silent(voice.there, voice.order.beat_s)
        ordering.lay_down(self.repository, self.order, voice.order, self.directory)
        plan = self._plan(voice.order)
        ordering.bring_home(self.repository, word, self.directory, plan, bytes_max=voice.order.bytes_max)
        self._mend(voice.order.number, STARTED_AGAIN)
        voice.beat = word.beat
        self.node.history.count("couriers that found it begun")
        self._hand_back(voice, plan)

    def _ask_to_be_silent(self, oid: str, beat_s: float) -> None:
        until_s = self.node.monotonic() + SILENT_BEATS * beat_s
        while (left_s := until_s - self.node.monotonic()) > 0:
            self._sleep(max(0.05, min(beat_s / 2, left_s)))
            if self.actor.told_to_stop or self._patiently(self._there) != oid:
                raise NotOurs

    # -------------------------------------------------------------------------------------------- ending

    def _end_worker(self, grace_s: float) -> None:
        assert self.worker is not None
        self.scheduler.terminate(self.worker)
        deadline_s = self.node.monotonic() + grace_s + MARGIN_S
        while not self.worker.dead and self.node.monotonic() < deadline_s:
            self._sleep(1.0)
        self._end_what_is_left()

    def _end_what_is_left(self) -> None:
        """KILL everything on this node but the courier."""
        for each in list(self.node.actors):
            if each is not self.actor:
                self.scheduler.kill(each)
        self.scheduler.move("end what is left")

    def _mend(self, number: int, detail: str) -> None:
        """Write down how an attempt ended of which no worker is left to say it; what it said itself stays."""
        known = handback.record_of(self.directory, number)
        if known is not None and known.outcome is not None:
            return
        machine = Machine(name=self.node.name, system="simulated", machine="none", python="3", cpus=1)
        attempt = known or Attempt(
            number=number, worker=self.actor.me, host=machine, started=self.node.now(), stages=()
        )
        at = self.node.now().at
        stages = tuple(
            replace(each, status=StageStatus.INTERRUPTED, completed_at=at, summary=detail)
            if each.status == StageStatus.RUNNING
            else each
            for each in attempt.stages
        )
        ended = replace(attempt, stages=stages, outcome=Outcome.INTERRUPTED, detail=detail, ended_at=at)
        self.node.disk.make_directory(self.directory.path / "attempts")
        self.node.disk.write_atomic(self.directory.record("attempts", number), codec.compact(ended))

    def _patiently(self, ask: Callable[[], T], patience_s: float = START_PATIENCE_S) -> T:
        """Return what is asked of the remote, again and again with growing pauses. Raise NotOurs if the courier is told
        to stop meanwhile."""
        deadline_s, failed = self.node.monotonic() + patience_s, 0
        while True:
            if self.actor.told_to_stop:
                raise NotOurs
            try:
                return ask()
            except TransientError:
                if self.node.monotonic() >= deadline_s:
                    raise
            self._sleep(_pause_s(failed))
            failed += 1

    def _sleep(self, seconds: float) -> None:
        self.scheduler.sleep(max(0.01, self.node.seconds(seconds)))
        self.scheduler.move("")


def _pause_s(failed: int) -> float:
    return float(min(PAUSE_MAX_S, PAUSE_S * 2 ** min(failed, 10)))
