"""The simulated worker: the protocol of the real one on a simulated disk; its stages are time and an exit code.

It takes the same lock, writes the same records with the same codec in the same order, and obeys the same orders.
`tests/contract` drives the real worker and this one through the same scenarios and compares what they leave.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler import codec, course, manifest, rundir
from reconciler.approve import at_gate
from reconciler.lease import Leased
from reconciler.model import (
    Attempt,
    CancelIntent,
    Claim,
    Host,
    Instant,
    Judgement,
    Outcome,
    PlannedStage,
    StageId,
    StageKind,
    StageRecord,
    StageStatus,
)
from reconciler.rundir import RunDirectory
from reconciler.simulation.host import Host as Computer
from reconciler.simulation.scheduler import NEVER, Actor

LOCK_PATIENCE_S = 5.0
RECORD_PATIENCE_S = 60.0
BACKOFF_MAX_S = 300.0


@dataclass(slots=True)
class Ongoing:
    """A stage between its start and its record."""

    stage: PlannedStage
    record: StageRecord
    actor: Actor
    log: Path
    started_s: float
    exit_code: int
    output: bytes
    verdict: StageStatus | None = None
    reason: str = ""
    kill_at: float = NEVER
    killed: bool = False


class SimulatedWorker:
    """One attempt of one run, executed by one simulated process."""

    def __init__(
        self, host: Computer, actor: Actor, directory: Path, number: int, plan_sha256: str, lease: Leased | None
    ) -> None:
        self.host, self.actor, self.scheduler = host, actor, host.scheduler
        self.disk, self.history = host.disk, host.history
        self.directory = RunDirectory(directory, host.disk)
        self.run_id = directory.name
        self.number, self.plan_sha256 = number, plan_sha256
        self.lease, self.leased_until_s = lease, -NEVER if lease else NEVER
        self.machine = Host(name=host.name, system="simulated", machine="none", python="3", cpus=1)

    def main(self) -> None:
        # A real worker prints what went wrong to worker.err and exits; nobody waits for it.
        with contextlib.suppress(OSError, codec.CodecError):
            self._run_attempt()

    def _run_attempt(self) -> None:
        directory, number = self.directory, self.number
        handle = self.disk.wait_for(lambda: rundir.take_lock(directory), LOCK_PATIENCE_S)
        if handle is None or directory.newest() != number or self._over():
            return
        claim = directory.read(Claim, directory.record("claims", number))
        plan = rundir.read_frozen(directory, claim, self.plan_sha256)
        if claim is None or plan is None:
            return
        self.handle, self.claim, self.plan = handle, claim, plan
        self._execute()

    def _over(self) -> bool:
        records = (self.directory.record(each, self.number) for each in ("attempts", "cancels", "ends"))
        return any(self.disk.exists(each) for each in records)

    # -------------------------------------------------------------------------------------------- the attempt

    def _execute(self) -> None:
        self.started: Instant = self.host.now()
        self.place = self.disk.identity(self.directory.path)
        self.claims = rundir.read_all(self.directory, "claims", Claim)
        self.attempts = rundir.read_all(self.directory, "attempts", Attempt)
        records = manifest.Records(plan=self.plan, claims=self.claims, attempts=self.attempts, ends={})
        self.records = course.first_records(records, self.number)
        self.ongoing: dict[StageId, Ongoing] = {}
        self.not_before: dict[StageId, float] = {}
        self.judgement: Judgement | None = None
        self.stopping: Outcome | None = None
        self.detail = ""
        self.spent_s = sum(attempt.elapsed_s for attempt in self.attempts.values())
        self._beat()
        self._save(durable=False)
        self._enforce_lease()
        while self._start_ready() or self.ongoing or self._waiting_for_backoff():
            self._wait()
            self._enforce()
            self._beat_if_due()
        self._end()

    def _start_ready(self) -> bool:
        started = False
        for stage in list(course.ready(self.plan, self.records)):
            if not self._has_room(stage):
                continue
            started = True
            if self._passes_gate(stage) and not self._is_proven(stage):
                self._start(stage)
        if started:
            self._save(durable=False)
        return started

    def _has_room(self, stage: PlannedStage) -> bool:
        self._enforce_lease()
        if self.stopping or len(self.ongoing) >= self.plan.stages_max:
            return False
        return self.not_before.get(stage.id, 0.0) <= self.host.monotonic()

    def _passes_gate(self, stage: PlannedStage) -> bool:
        now_at = self.host.now().at
        record = at_gate(stage, self.records[stage.id], self.plan.approval_policy, self.claim.decisions, now_at)
        if stage.kind == StageKind.PIPELINE and record.status == StageStatus.PENDING:
            record = course.at_nested(stage, record, self.claim.children, self.number, now_at)
            self.history.watch.nested(self.run_id, stage, record)
        self.records[stage.id] = record
        return record.status == StageStatus.PENDING

    def _is_proven(self, stage: PlannedStage) -> bool:
        if stage.cited is None:
            return False
        self.history.watch.cited(self.run_id, stage)
        self.history.count("stages reused")
        self.records[stage.id] = course.cited(stage, self.records[stage.id], self.number, self.host.now().at)
        return True

    def _waiting_for_backoff(self) -> bool:
        pending = any(self.records[each].status == StageStatus.PENDING for each in self.not_before)
        return pending and not self.stopping and course.failure(self.plan, self.records) is None

    def _start(self, stage: PlannedStage) -> None:
        record = self.records[stage.id]
        path = manifest.log_name(stage.index, stage.id, self.number)
        record = replace(record, status=StageStatus.RUNNING, tries=record.tries + 1, attempt=self.number, log_path=path)
        record = replace(record, untrusted=stage.untrusted, reuse_key=stage.reuse_key)
        self.not_before.pop(stage.id, None)
        log = self.directory.path / path
        self._open_log(log)
        behaviour = self.history.behaviour(self.run_id, stage, self.number, record.tries)
        self.scheduler.move("start stage", f"{self.run_id} {self.number} {stage.id}")
        self.history.watch.passed_gate(self.plan, stage, self.number)
        self._note_progress(stage)
        actor = self.host.new_actor(f"stage {stage.id}", "stage")
        actor.told_to_stop = behaviour.stubborn
        node = self.disk.locked(self.handle)
        node.holders.append(actor)
        actor.handles.append(node)
        actor.on_death = lambda: self.scheduler.wake(self.actor)
        until_s = self.host.monotonic() + behaviour.seconds * self.host.rate
        self.scheduler.call_at(self.scheduler.now + behaviour.seconds, lambda: self._exit(actor, until_s))
        record = replace(record, started_at=self.host.now().at, process=actor.me)
        self.records[stage.id] = record
        self.ongoing[stage.id] = Ongoing(
            stage=stage,
            record=record,
            actor=actor,
            log=log,
            started_s=self.host.monotonic(),
            exit_code=behaviour.exit_code,
            output=behaviour.output,
        )
        self.scheduler.move("")

    def _note_progress(self, stage: PlannedStage) -> None:
        if self.host.slept_s and self.host.lease_clock() >= self.leased_until_s:
            # Whoever was suspended past the lease in the middle of a move finishes that move, whoever has gone on with
            # the run, and nothing after it: the next look is at the lease.
            return
        self.history.watch.progress(self.host, self.run_id, self.number, self.actor, stage.id)
        self.history.watch.alone(self.host, self.plan, self.directory, self.number, self.actor)

    def _exit(self, actor: Actor, until_s: float) -> None:
        left_s = self.host.seconds(until_s - self.host.monotonic())
        if left_s > 1e-6:
            at = max(self.scheduler.now, self.host.asleep_until) + left_s
            self.scheduler.call_at(at, lambda: self._exit(actor, until_s))
        elif not actor.dead:
            actor.name += " done"
            self.scheduler.kill(actor)

    def _open_log(self, log: Path) -> None:
        if not self.disk.exists(log):
            self.disk.make_directory(log.parent)
            self.disk.create(log, b"", sync=False)

    # -------------------------------------------------------------------------------------------- the loop

    def _wait(self) -> None:
        """Sleep until something is due, a stage ends or somebody asks to stop."""
        asked = self.actor.told_to_stop and not self.stopping
        nothing_runs = not self.ongoing and not self._waiting_for_backoff()
        if asked or nothing_runs or any(each.actor.dead for each in self.ongoing.values()):
            self.scheduler.move("")
            return
        due = [self.last_beat + self.plan.heartbeat.interval_s, *self.not_before.values()]
        if not self.stopping:
            due.append(self.leased_until_s - self.host.suspended_s())
        for each in self.ongoing.values():
            due.append(each.kill_at)
            if each.stage.timeout_s is not None and each.verdict is None:
                due.append(each.started_s + each.stage.timeout_s)
        if self.plan.timeout_s is not None:
            due.append(self.started.monotonic_s + self.plan.timeout_s - self.spent_s)
        self.scheduler.sleep(max(0.01, self.host.seconds(min(due) - self.host.monotonic())))
        self.scheduler.move("wake up")

    def _enforce(self) -> None:
        now = self.host.monotonic()
        if self.actor.told_to_stop:
            self._stop(None)
        self._enforce_lease()
        if self.plan.timeout_s is not None and now - self.started.monotonic_s + self.spent_s >= self.plan.timeout_s:
            self._stop(Outcome.FAILED, f"the run timed out after {self.plan.timeout_s:g} s")
        for stage_id, ongoing in list(self.ongoing.items()):
            self._enforce_stage(ongoing, now)
            if ongoing.actor.dead:
                del self.ongoing[stage_id]
                self.records[stage_id] = self._judge(ongoing)
                self._save(durable=any(each.status == StageStatus.PENDING for each in self.records.values()))

    def _enforce_lease(self) -> None:
        if self.lease is None or self.stopping or self.host.lease_clock() < self.leased_until_s:
            return
        self.leased_until_s = self.lease.until_s(self.directory.disk, self.host.now().boot_id)
        if self.host.lease_clock() >= self.leased_until_s:
            self._stop(Outcome.INTERRUPTED, "no reconciler here has reached the remote for two thirds of the lease")

    def _enforce_stage(self, ongoing: Ongoing, now: float) -> None:
        timeout_s = ongoing.stage.timeout_s
        late = timeout_s is not None and now >= ongoing.started_s + timeout_s
        if late and not ongoing.actor.dead and ongoing.verdict is None:
            ongoing.record = replace(ongoing.record, timed_out=True)
            self._stop_stage(ongoing, StageStatus.FAILED, f"timed out after {timeout_s:g} s")
        if now >= ongoing.kill_at and not ongoing.actor.dead:
            ongoing.killed = True
            self.scheduler.kill(ongoing.actor)

    def _stop(self, outcome: Outcome | None, detail: str = "") -> None:
        if self.stopping:
            return
        intent = None
        with contextlib.suppress(codec.CodecError, OSError):
            intent = self.directory.read(CancelIntent, self.directory.record("cancels", self.number))
        self.stopping = outcome or (Outcome.CANCELLED if intent else Outcome.INTERRUPTED)
        self.detail = detail or (f"cancelled: {intent.sentence()}" if intent else "the worker was told to stop")
        for ongoing in self.ongoing.values():
            verdict = StageStatus.FAILED if outcome == Outcome.FAILED else StageStatus.INTERRUPTED
            self._stop_stage(ongoing, verdict, self.detail)

    def _stop_stage(self, ongoing: Ongoing, verdict: StageStatus, reason: str) -> None:
        if ongoing.verdict is None:
            ongoing.verdict, ongoing.reason = verdict, reason
            self.scheduler.terminate(ongoing.actor)
            ongoing.kill_at = self.host.monotonic() + self.plan.grace_s

    def _judge(self, ongoing: Ongoing) -> StageRecord:
        """Return the record of a finished stage, its log written first."""
        self._note_progress(ongoing.stage)
        record = self._finish(ongoing)
        again = record.status == StageStatus.FAILED and record.tries < ongoing.stage.attempts_max
        if not again or self.stopping:
            return record
        pause_s = min(BACKOFF_MAX_S, ongoing.stage.backoff_s * 2 ** (record.tries - 1))
        self.not_before[record.id] = self.host.monotonic() + pause_s
        return replace(record, status=StageStatus.PENDING)

    def _finish(self, ongoing: Ongoing) -> StageRecord:
        complete = ongoing.actor.name.endswith(" done")
        output = ongoing.output if complete else b""
        problem = ""
        try:
            again = f"--- try {ongoing.record.tries} ---\n".encode() if ongoing.record.tries > 1 else b""
            whole = self.disk.append(ongoing.log, again + output)
            self.disk.sync_directory(ongoing.log.parent)
        except OSError as error:
            whole, problem = b"", f"its log could not be written: {error.strerror}"
        exit_code = ongoing.exit_code if complete else None
        status = ongoing.verdict or (StageStatus.SUCCEEDED if exit_code == 0 and not problem else StageStatus.FAILED)
        said = output.decode().strip().rpartition("\n")[2]
        how = f"exit code {exit_code}" if complete else "killed by SIGKILL"
        failed = f"{how}: {said}" if said else how
        spoken = failed if status == StageStatus.FAILED else said or ongoing.stage.summary_hint
        if status == StageStatus.SUCCEEDED:
            self.history.watch.succeeded(self.run_id, ongoing.stage)
            self._leave_change(ongoing.stage)
        return replace(
            ongoing.record,
            status=status,
            completed_at=self.host.now().at,
            duration_s=round(self.host.monotonic() - ongoing.started_s, 3),
            exit_code=exit_code,
            signal=None if complete else "SIGTERM",
            summary=problem or ongoing.reason or spoken,
            log_bytes=len(whole),
            log_sha256=hashlib.sha256(whole).hexdigest(),
            process=None,
        )

    def _leave_change(self, stage: PlannedStage) -> None:
        """Let an agent whose change is delivered have changed something, where there is room."""
        if stage.agent is not None and stage.agent.get("deliver"):
            with contextlib.suppress(OSError):
                self.disk.create(self.directory.workspace / f"made-by-{stage.id}", b"made\n", sync=False)
                self.history.count("changes by agents")

    # -------------------------------------------------------------------------------------------- the record

    def _beat_if_due(self) -> None:
        if self.host.monotonic() - self.last_beat >= self.plan.heartbeat.interval_s - 1e-6:
            self._beat()
            self._save(durable=False)

    def _beat(self) -> None:
        self.last_beat = self.host.monotonic()
        try:
            self.disk.write_atomic(self.directory.heartbeat, codec.compact(self.host.now()), sync=False)
            if self.disk.node(str(self.directory.lock)) is not self.disk.locked(self.handle):
                raise FileNotFoundError
        except FileNotFoundError:
            self._stop(Outcome.INTERRUPTED, "the run directory was removed")
        except OSError:
            pass

    def _attempt(self, outcome: Outcome | None, detail: str) -> Attempt:
        return Attempt(
            number=self.number,
            worker=self.actor.me,
            host=self.machine,
            started=self.started,
            stages=tuple(self.records.values()),
            elapsed_s=round(self.host.monotonic() - self.started.monotonic_s, 3),
            ended_at=self.host.now().at if outcome else None,
            outcome=outcome,
            detail=detail,
            judgement=self.judgement,
            place=self.place,
        )

    def _save(self, outcome: Outcome | None = None, detail: str = "", *, durable: bool = True) -> None:
        attempt = self._attempt(outcome, detail)
        path = self.directory.record("attempts", self.number)
        self._make_attempts(path.parent)
        deadline = self.host.monotonic() + RECORD_PATIENCE_S
        while True:
            try:
                self.disk.write_atomic(path, codec.compact(attempt), sync=durable)
                break
            except OSError:
                if outcome is None:
                    return
                if self.host.monotonic() > deadline:
                    raise
                self.scheduler.sleep(0.2)
        self.attempts[self.number] = attempt

    def _make_attempts(self, folder: Path) -> None:
        self.disk.make_directory(folder)

    def _end(self) -> None:
        outcome, detail = self.stopping, self.detail
        if outcome is None:
            self.records = course.untouched_skipped(self.plan, self.records)
            self.judgement = course.judgement(self.plan, self.records)
            outcome, detail = course.verdict(self.plan, self.records, self.judgement)
        self._save(outcome, detail)
        self.history.watch.ended(self.host, self.directory, self.number)
