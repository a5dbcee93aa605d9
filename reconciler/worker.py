"""One attempt of one run, executed: the process that holds the run's lock for life.

A worker is forked from a small preloaded server (`serve`) into a session of its own, so nothing that happens to
the reconciler reaches it. It imports the standard library and our record modules only. One `selectors` loop
starts stages when what they need is done, reads their output, writes the heartbeat and enforces every limit.
Writes: `attempts/<n>.json`, `.heartbeat`, `commands/*.log`, `events.jsonl`, and `manifest.json` while the run is no
evidence yet.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import os
import select
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from reconciler import codec, course, events, manifest, process, roles, rundir, sandbox
from reconciler.approve import at_gate
from reconciler.disk import DISK
from reconciler.ear import Ear
from reconciler.journal import Journal
from reconciler.lease import Leased
from reconciler.model import (
    Attempt,
    CancelIntent,
    Claim,
    Decision,
    End,
    Instant,
    Judgement,
    Outcome,
    Plan,
    PlannedStage,
    StageId,
    StageKind,
    StageRecord,
    StageStatus,
)
from reconciler.order import DOORED, Order
from reconciler.patience import Patience
from reconciler.redact import Redactor, redact_text, secret_values
from reconciler.rundir import RunDirectory
from reconciler.scrub import scrubbed_stage
from reconciler.stage import PACKAGE, Log, Ongoing, judged, open_door
from reconciler.tracing import traceparent

LOCK_PATIENCE_S = 5.0
"""A worker waits this long for the lock: observers hold it shared for microseconds, a claimer for milliseconds."""
RESERVE_BYTES = 256 * 1024
"""Space kept back at the start and given up when the disk is full, so that the end can be written down."""
RECORD_PATIENCE_S = 60.0
PR_SET_CHILD_SUBREAPER = 36
BACKOFF_MAX_S = 300.0
GUARD_INTERVAL_S = 5.0
"""How often a guard looks whether the lease was renewed, when it is not about to end."""
GUARD_MARGIN_S = 0.25
"""What a worker gets beyond its grace before its guard takes it for one that does not heed its lease."""
TERMED = 128 + signal.SIGTERM
"""What a shell exits with whose command ended by TERM."""
TOLD_PATIENCE_S = 1.0
"""How much later than a stage the worker may hear that all of an attempt is to stop."""
VIEW_INTERVAL_S = 0.2
"""Stages that end faster than this share one rewrite of the manifest that people look at."""


# ------------------------------------------------------------------------------------------------ the server


def serve(descriptor: int) -> None:
    """Fork a worker for every order that arrives on the socket; return when the other side closes it."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # What is made here is made once for all workers: they inherit it.
    codec.prepare(Plan, Claim, Attempt, Instant)
    secrets = secret_values(os.environ)
    process.this_machine()
    _libc()
    process.boot_id()
    gc.freeze()
    with socket.socket(fileno=descriptor) as connection, connection.makefile("rwb", buffering=0) as stream:
        while order := stream.readline():
            pid = os.fork()
            if pid == 0:
                os.close(descriptor)
                os._exit(_become_worker(json.loads(order), secrets))
            stream.write(codec.canonical({"pid": pid}) + b"\n")


def _become_worker(order: Mapping[str, str], secrets: Sequence[bytes]) -> int:
    """Detach, execute the ordered attempt and return the exit status of the process."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    directory = RunDirectory(Path(order["directory"]))
    try:
        _redirect_standard_streams(directory)
        lease = Leased(path=Path(order["lease"]), since_s=float(order["since_s"])) if order["lease"] else None
        hidden = map(bytes.fromhex, order.get("hidden", "").split())
        secrets = [*hidden, *withheld(order.get("withheld", "").split()), *secrets]
        run_attempt(directory, int(order["number"]), Path(order["checkout"]), order["plan"], secrets, lease)
    except BaseException:
        # Nobody waits for this process: the traceback goes where a person looks after a lost attempt.
        traceback.print_exc()
        return 70
    return 0


def withheld(names: Sequence[str]) -> tuple[bytes, ...]:
    """Take variables out of this process, for it and its stages have no use for them; return what must not be seen of
    them all the same."""
    return secret_values({f"{name}_SECRET": os.environ.pop(name, "") for name in names})


def _redirect_standard_streams(directory: RunDirectory) -> None:
    silent = os.open(os.devnull, os.O_RDWR)
    said = os.open(directory.path / "worker.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for target, stream in ((silent, 0), (silent, 1), (said, 2)):
        os.dup2(target, stream)
    os.close(silent)
    os.close(said)


def run_attempt(
    directory: RunDirectory,
    number: int,
    checkout: Path,
    plan_sha256: str,
    secrets: Sequence[bytes],
    lease: Leased | None = None,
) -> None:
    """Execute attempt `number` of a run on the plan with this digest, unless it is no longer the newest or was never
    to start. Where machines share a remote, `lease` says for how long its runs are this machine's."""
    descriptor = _take_lock_patiently(directory)
    if descriptor is None or not admitted(directory, number):
        return
    claim = directory.read(Claim, directory.record("claims", number))
    plan = rundir.read_frozen(directory, claim, plan_sha256)
    if claim is None or plan is None:
        return
    _adopt_orphans()
    _post_guard(directory, lease, plan.grace_s)
    Execution(directory, plan, claim, checkout, descriptor, secrets, lease).run()


def admitted(directory: RunDirectory, number: int) -> bool:
    """Return whether the holder of a run's lock may execute attempt `number`: it is the newest, and nobody began or
    ended it."""
    return directory.newest() == number and not _over(directory, number)


def _take_lock_patiently(directory: RunDirectory) -> int | None:
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while (descriptor := rundir.take_lock(directory)) is None and time.monotonic() < deadline:
        time.sleep(0.002)
    return descriptor


def _over(directory: RunDirectory, number: int) -> bool:
    return any(directory.record(each, number).exists() for each in ("attempts", "cancels", "ends"))


def _adopt_orphans() -> None:
    """Become the parent of processes whose own parent dies, so that none of a stage's can slip away (Linux)."""
    if sys.platform == "linux":
        _libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


# ------------------------------------------------------------------------------------------------ the guard


def _post_guard(directory: RunDirectory, lease: Leased | None, grace_s: float) -> None:
    """Start a process that ends what is left of this attempt when this worker dies or outlives its lease (Linux).

    A stage whose worker was KILLed would go on with nobody to look at the lease, while another host takes the run
    over. The guard notices our death by the end of a pipe that only we hold open. It has inherited the lock, so as long
    as it is there nobody else can have it: whoever does is of this attempt, and no claimer or successor is hit.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):  # without processes to spare, passes of this machine fence all the same
        reading, writing = os.pipe2(os.O_CLOEXEC)
        if os.fork() == 0:
            # Whatever happens in it, the guard must never return into the worker's code.
            status = 70
            try:
                os.close(writing)
                status = _guard(reading, directory, lease, grace_s)
            finally:
                os._exit(status)
        os.close(reading)


def _guard(alive: int, directory: RunDirectory, lease: Leased | None, grace_s: float) -> int:
    """Wait until nobody holds the other end of the pipe `alive`, or the lease is over; then KILL who holds the lock."""
    os.setsid()
    os.chdir("/")
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ended = select.poll()
    ended.register(alive, select.POLLIN)
    began_s = process.lease_clock_s()
    while (left_s := _left_s(lease, began_s, grace_s)) > 0:
        if ended.poll(1000 * min(left_s, GUARD_INTERVAL_S)):
            break
    deadline = time.monotonic() + RECORD_PATIENCE_S
    while (found := process.holders(directory.lock)) and time.monotonic() < deadline:
        for each in found:
            process.send(each, signal.SIGKILL, group=process.leads_group(each))
        time.sleep(0.01)
    return 0


def _left_s(lease: Leased | None, began_s: float, grace_s: float) -> float:
    """Return in how many seconds a worker that heeds its lease is gone for certain, its stages too."""
    if lease is None:
        return float("inf")
    until_s = max(began_s, lease.until_s(DISK, process.boot_id()))
    return until_s + grace_s + GUARD_MARGIN_S - process.lease_clock_s()


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


# ------------------------------------------------------------------------------------------------ the attempt


class Execution:
    """The attempt as it goes: which stages run, which may start, when something is due."""

    def __init__(
        self,
        directory: RunDirectory,
        plan: Plan,
        claim: Claim,
        checkout: Path,
        lock: int,
        secrets: Sequence[bytes],
        lease: Leased | None,
    ) -> None:
        self.directory, self.plan, self.claim, self.lock, self.secrets = directory, plan, claim, lock, secrets
        self.lease, self.leased_until_s = lease, float("-inf") if lease else float("inf")
        self.number, self.checkout = claim.number, checkout
        self.run_place = DISK.identity(directory.path)
        self.place = checkout if plan.workspace.value == "checkout" else directory.workspace
        self.started = process.instant()
        self.claims = rundir.read_all(directory, "claims", Claim)
        self.attempts = rundir.read_all(directory, "attempts", Attempt)
        self.answers = self._earlier_answers()
        earlier = manifest.Records(plan=plan, claims=self.claims, attempts=self.attempts, ends={})
        self.records = course.first_records(earlier, self.number)
        self.ongoing: dict[StageId, Ongoing] = {}
        self.logs: dict[StageId, Log] = {}
        self.not_before: dict[StageId, float] = {}
        self.told_to_stop = False
        self.unseen = False
        self.judges: dict[StageId, StageRecord] = {}
        self.judgement: Judgement | None = None
        self.stopping: Outcome | None = None
        self.detail = ""
        self.last_view, self.last_beat = time.monotonic(), 0.0
        self.spent_s = sum(attempt.elapsed_s for attempt in self.attempts.values())
        self.selector = selectors.DefaultSelector()
        self.me = process.myself()
        self.journal = Journal(directory.path)
        self.ear = Ear(directory.path)
        self.built = False

    def _earlier_answers(self) -> dict[StageId, Mapping[str, object]]:
        """Return what each stage answered last in the attempts before, whatever became of it."""
        known = manifest.fold(self.plan, [self.attempts[each] for each in sorted(self.attempts)])
        return {each: record.answer for each, record in known.items() if record.answer is not None}

    def run(self) -> None:
        """Execute every selected stage that is not done, and write down how it went."""
        self._reserve()
        self._watch_signals()
        self._beat()
        self._save(durable=False)
        self._say_begun()
        self._enforce_lease()
        while self._start_ready() or self.ongoing or self._waiting_for_backoff() or self._ask_judge():
            ready = self.selector.select(self._patience_s())
            self._learn()  # before anything that was said meanwhile is written
            for key, _ in ready:
                key.data()
            self._reap()
            self._enforce()
            self._beat_if_due()
        self._end()

    # -------------------------------------------------------------------------------------------- starting

    def _start_ready(self) -> bool:
        """Start what may start now; return whether anything was done."""
        started = False
        for stage in list(course.ready(self.plan, self.records)):
            if not self._has_room(stage):
                continue
            started = True
            if self._passes_gate(stage) and not self._is_proven(stage):
                self._start(stage)
        if started:
            self._save(durable=False)
            self.journal.flush()
        return started

    def _has_room(self, stage: PlannedStage) -> bool:
        """Return whether a stage that is ready may start now, as far as time and other stages are concerned."""
        self._enforce_lease()  # writing down how the last one ended takes its time, and this machine may have slept
        if self.stopping or len(self.ongoing) >= self.plan.stages_max:
            return False
        return self.not_before.get(stage.id, 0.0) <= time.monotonic()

    def _passes_gate(self, stage: PlannedStage) -> bool:
        """Return whether a stage that is ready may start; if not, its record says what keeps it."""
        if stage.when is not None and not self._is_wanted(stage):
            self._say_completed(self.records[stage.id])
            return False
        now_at = process.instant().at
        before = self.records[stage.id]
        record = at_gate(stage, before, self.plan.approval_policy, self.claim.decisions, now_at)
        self._say_gate(stage, before, record)
        if stage.kind == StageKind.PIPELINE and record.status == StageStatus.PENDING:
            record = course.at_nested(stage, record, self.claim.children, self.number, now_at)
        self.records[stage.id] = record
        if record.status in course.OVER:
            self._say_completed(record)
        return record.status == StageStatus.PENDING

    def _is_proven(self, stage: PlannedStage) -> bool:
        """Return whether an earlier success stands for a stage that may start; if so, its record says so."""
        if stage.cited is None:
            return False
        self.records[stage.id] = course.cited(stage, self.records[stage.id], self.number, process.instant().at)
        self._say_completed(self.records[stage.id])
        return True

    def _is_wanted(self, stage: PlannedStage) -> bool:
        """Return whether the condition of a stage holds; if not, its record says so."""
        record, now_at = self.records[stage.id], process.instant().at
        if record.tries:
            return True  # it held when the stage was tried first
        order = codec.compact(self._order(stage, record))
        environment = self._environment(stage, self._wanted(stage))
        wanted, error = judged(order, environment, self._beat, self.plan.heartbeat.interval_s)
        if wanted is None:
            reason = f"its condition cannot be judged: {error}"
            self.records[stage.id] = replace(record, status=StageStatus.FAILED, completed_at=now_at, summary=reason)
        elif not wanted:
            reason = f"its condition does not hold: {stage.when}"
            self.records[stage.id] = replace(record, status=StageStatus.SKIPPED, completed_at=now_at, summary=reason)
        return bool(wanted)

    def _waiting_for_backoff(self) -> bool:
        pending = any(self.records[each].status == StageStatus.PENDING for each in self.not_before)
        return pending and not self.stopping and course.failure(self.plan, self.records) is None

    def _start(self, stage: PlannedStage) -> None:
        record = self.records[stage.id]
        record = replace(
            record,
            status=StageStatus.RUNNING,
            tries=record.tries + 1,
            attempt=self.number,
            untrusted=stage.untrusted,
            reuse_key=stage.reuse_key,
        )
        self.not_before.pop(stage.id, None)
        self._say(events.StageStarted(stage=stage.id, try_number=record.tries))
        role = roles.builder_of(self.plan, stage)
        order = self._order(stage, record) if role or stage.kind != StageKind.COMMAND else None
        self.records[stage.id] = self._run(stage, record, replace(order, role=role) if order is not None else None)

    def _run(self, stage: PlannedStage, record: StageRecord, order: Order | None) -> StageRecord:
        """Start the process of a stage, a tester or a reviewer, and return its record."""
        ongoing = Ongoing(stage=stage, record=record, log=self._log(stage), grace_s=self.plan.grace_s)
        wanted = self._wanted(stage)
        wall = self._wall(stage, wanted, order) if wanted is not None else None
        environment = self._environment(stage, wanted)
        told = codec.compact(order) if order is not None else None
        door = self._door(stage, wall)
        ongoing.start(self.place, environment, self.lock, self.selector, told, wall, door)
        self.ongoing[stage.id] = ongoing
        return ongoing.record

    def _ask_judge(self) -> bool:
        """Start the tester or the reviewer that is to be asked when the stages are over; return whether one is."""
        told = tuple(self.judges.values())
        judge = course.judge_to_ask(self.plan, self.records, told) if not self.stopping else None
        if judge is None:
            return False
        self._say_built()
        self.journal.flush()
        settled = course.untouched_skipped(self.plan, self.records)
        record = StageRecord(id=judge.id, digest=judge.digest, status=StageStatus.RUNNING, attempt=self.number, tries=1)
        order = replace(
            self._order(judge, record),
            role=roles.role_of(judge),
            results={},
            records=tuple(settled.values()),
            tested=roles.judge(self.plan, settled, told).tested,
        )
        self._run(judge, record, order)
        return True

    def _wanted(self, stage: PlannedStage) -> sandbox.Demand | None:
        """Return the sandbox that a stage gets: what it asks for, less what text that is not trusted must not have."""
        return sandbox.demand(stage.sandbox, trusted=not stage.untrusted)

    def _door(self, stage: PlannedStage, wall: sandbox.Wall | None) -> int | None:
        """Open a door to the model of an agent that has no network; None where it needs none, or nothing is started."""
        doored = stage.agent is not None and stage.agent.get("driver") in DOORED
        if not (stage.untrusted and doored) or stage.agent is None or wall is None or wall.refused:
            return None
        with contextlib.suppress(OSError):  # without one the agent does not reach its model, and says so
            return open_door(stage.agent, {**os.environ, **stage.env}, self.lock, self.directory.path)
        return None

    def _wall(self, stage: PlannedStage, wanted: sandbox.Demand, order: Order | None) -> sandbox.Wall:
        """Return what stands around a stage that gets a sandbox."""
        around = sandbox.Surroundings(
            workspace=self.place,
            run_directory=self.directory.path,
            home=self.directory.home,
            checkout=self.checkout,
            package=PACKAGE,
            artifacts=str(self.directory.path / order.artifacts) if order is not None else "",
            own=str(self.directory.path / order.own) if order is not None and stage.agent is not None else "",
            programs=self._programs(stage),
        )
        return sandbox.build(stage, wanted, around, missing=self.plan.sandbox_missing)

    def _programs(self, stage: PlannedStage) -> tuple[str, ...]:
        """Return the programs of an agent that asked for no walls: they stand for its text and must not hide those."""
        command = stage.agent.get("command") if stage.agent is not None and stage.sandbox is None else None
        return (str(command[0]), "node") if isinstance(command, Sequence) and command else ()

    def _order(self, stage: PlannedStage, record: StageRecord) -> Order:
        """Return what the process of a stage that is no command is told."""
        ended = [each for each in self.records.values() if each.status in course.OVER]
        return Order(
            plan=self.plan,
            stage=stage.id,
            number=self.number,
            try_number=record.tries,
            commit=self.claim.commit,
            run_directory=str(self.directory.path),
            workspace=str(self.place),
            checkout=str(self.checkout),
            earlier=record.answer or self.answers.get(stage.id) or {},
            results={each.id: {"status": each.status, "answer": each.answer} for each in ended},
        )

    def _log(self, stage: PlannedStage) -> Log:
        """Return the log of a stage, the same one for all its tries."""
        if stage.id not in self.logs:
            path = manifest.log_name(stage.index, stage.id, self.number)
            redactor = Redactor.of(self.plan.redact, self._secret_values(stage), Patience())
            self.logs[stage.id] = Log(path, self.directory.path / path, redactor, self.plan.log_bytes_max)
        return self.logs[stage.id]

    def _secret_values(self, stage: PlannedStage) -> Sequence[bytes]:
        """Return what must not be seen in the log of a stage: what its sandbox calls a secret is one, whatever its
        name looks like."""
        wanted = self._wanted(stage)
        named = {f"{each}_SECRET": os.environ.get(each, "") for each in wanted.secrets} if wanted else {}
        return [*secret_values(named), *self.secrets] if named else self.secrets

    def _learn(self) -> None:
        """Let nothing that is written from now on say the secrets that were just told, whoever says them."""
        told = self.ear.hear()
        values = [form for each in told for form in (each.encode(), *secret_values({"A_SECRET": each}))]
        new = [each for each in dict.fromkeys(values) if each not in self.secrets]
        if not new:
            return
        self.secrets = [*new, *self.secrets]
        for log in self.logs.values():
            log.learn(new)
        if self.plan.redact.mode == "enforce":
            self.records = {each: scrubbed_stage(record, new) for each, record in self.records.items()}
            self.judges = {each: scrubbed_stage(record, new) for each, record in self.judges.items()}

    def _environment(self, stage: PlannedStage, wanted: sandbox.Demand | None) -> dict[str, str]:
        """Return the environment of a stage: inherited, then the pipeline's, then ours, which none can replace. In a
        sandbox little is inherited."""
        ours = {
            "RUN_ID": self.plan.run_id,
            "TASK_ID": self.plan.task_id,
            "PIPELINE_ID": self.plan.pipeline_id,
            "STAGE_ID": stage.id,
            "ATTEMPT": str(self.number),
            "RUN_DIR": str(self.directory.path),
            "MANIFEST_PATH": str(self.directory.path / "manifest.json"),
            "COMMIT": self.claim.commit,
        }
        own = {
            **stage.env,
            **{f"PARAM_{name.upper()}": _text(value) for name, value in self.plan.parameters.items()},
            **{f"RECONCILER_{name}": value for name, value in ours.items()},
        }
        if self.plan.traced:
            own["TRACEPARENT"] = traceparent(self.plan.run_id, self.number, stage.id)
        if wanted is None:
            return {**os.environ, **own}
        return sandbox.environment(os.environ, own, wanted, str(self.directory.home))

    # -------------------------------------------------------------------------------------------- the loop

    def _watch_signals(self) -> None:
        """Turn signals into a readable descriptor, so that the loop wakes for them and for ended children."""
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        self._sockets = (reading, writing)
        self.selector.register(reading, selectors.EVENT_READ, lambda: _drain(reading))
        if self.ear.descriptor is not None:
            self.selector.register(self.ear.descriptor, selectors.EVENT_READ, self._learn)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)

    def _on_stop(self, *_: object) -> None:
        # Only noted here: a handler runs between any two instructions, also in the middle of starting a stage.
        self.told_to_stop = True

    def _stop(self, outcome: Outcome | None, detail: str = "") -> None:
        """End every stage: cancelled if that was asked for, else interrupted, to be resumed."""
        if self.stopping:
            return
        intent = None
        with contextlib.suppress(codec.CodecError, OSError):
            intent = self.directory.read(CancelIntent, self.directory.record("cancels", self.number))
        self.stopping = outcome or (Outcome.CANCELLED if intent else Outcome.INTERRUPTED)
        self.detail = detail or (f"cancelled: {intent.sentence()}" if intent else "the worker was told to stop")
        for ongoing in self.ongoing.values():
            ongoing.stop(StageStatus.FAILED if outcome == Outcome.FAILED else StageStatus.INTERRUPTED, self.detail)

    def _patience_s(self) -> float:
        due = [self.last_beat + self.plan.heartbeat.interval_s, *self.not_before.values()]
        due += [each.due() for each in self.ongoing.values()]
        if not self.stopping:
            due.append(self.leased_until_s - process.suspended_s())
        if self.unseen:
            due.append(self.last_view + VIEW_INTERVAL_S)
        if self.plan.timeout_s is not None:
            due.append(self.started.monotonic_s + self.plan.timeout_s - self.spent_s)
        left = min(due) - time.monotonic()
        return left if left > 0 else 0.01

    def _reap(self) -> None:
        """Collect every child that has ended: stages, and orphans that were adopted."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                for ongoing in self.ongoing.values():
                    ongoing.reaped(pid, os.waitstatus_to_exitcode(status), usage)

    def _enforce(self) -> None:
        """Apply time limits and finish the stages of which nothing is left."""
        if self.told_to_stop:
            self._stop(None)
        self._enforce_lease()
        if self.plan.timeout_s is not None and self._elapsed_s() + self.spent_s >= self.plan.timeout_s:
            self._stop(Outcome.FAILED, f"the run timed out after {self.plan.timeout_s:g} s")
        for stage_id, ongoing in list(self.ongoing.items()):
            ongoing.enforce()
            if ongoing.settled():
                del self.ongoing[stage_id]
                self._settle(stage_id, ongoing)

    def _settle(self, stage_id: StageId, ongoing: Ongoing) -> None:
        """Note how a stage, a tester or a reviewer ended."""
        if stage_id not in self.records:
            self.judges[stage_id] = ongoing.finish()
            return
        self.records[stage_id] = self._judge(ongoing)
        self._say_completed(self.records[stage_id])
        # A success must outlive a power failure before what needs it begins; the last one is saved by the end.
        pending = any(each.status == StageStatus.PENDING for each in self.records.values())
        self._save(durable=pending or bool(self.plan.roles.judges))
        self.journal.flush()

    def _enforce_lease(self) -> None:
        """Stop when the lease has run out and nobody renewed it: from then on others may take the run over."""
        if process.lease_clock_s() < self.leased_until_s or self.lease is None or self.stopping:
            return
        self.leased_until_s = self.lease.until_s(DISK, process.boot_id())
        if process.lease_clock_s() >= self.leased_until_s:
            self._stop(Outcome.INTERRUPTED, "no reconciler here has reached the remote for two thirds of the lease")

    def _judge(self, ongoing: Ongoing) -> StageRecord:
        """Return the record of a finished stage; one that may be tried again is pending once more."""
        record = ongoing.finish()
        again = record.status == StageStatus.FAILED and record.tries < ongoing.stage.attempts_max
        if not again or self.stopping or ongoing.hopeless:
            return record
        self.not_before[record.id] = time.monotonic() + min(
            BACKOFF_MAX_S, ongoing.stage.backoff_s * 2 ** (record.tries - 1)
        )
        return replace(record, status=StageStatus.PENDING)

    def _beat_if_due(self) -> None:
        if time.monotonic() - self.last_beat >= self.plan.heartbeat.interval_s:
            self._beat()
            self._save(durable=False)  # so that the time of an attempt that is killed counts
        elif self.unseen and time.monotonic() - self.last_view >= VIEW_INTERVAL_S:
            self._save_view()

    def _beat(self) -> None:
        """Write the heartbeat. If the run directory was taken away, nobody could ever fence us: stop."""
        self.last_beat = time.monotonic()
        try:
            DISK.write_atomic(self.directory.heartbeat, codec.compact(process.instant()), sync=False)
            if os.stat(self.directory.lock).st_ino != os.fstat(self.lock).st_ino:
                raise FileNotFoundError
        except FileNotFoundError:
            self._stop(Outcome.INTERRUPTED, "the run directory was removed")
        except OSError:
            pass  # a full disk: the next beat may fit, and silence leads to a resume, not to harm

    # -------------------------------------------------------------------------------------------- the record

    def _elapsed_s(self) -> float:
        return time.monotonic() - self.started.monotonic_s

    def _attempt(self, outcome: Outcome | None = None, detail: str = "") -> Attempt:
        return Attempt(
            number=self.number,
            worker=self.me,
            host=process.this_machine(),
            started=self.started,
            stages=tuple(self.records.values()),
            elapsed_s=round(self._elapsed_s(), 3),
            ended_at=process.instant().at if outcome else None,
            outcome=outcome,
            detail=detail,
            judgement=self.judgement,
            place=self.run_place,
        )

    def _save(self, outcome: Outcome | None = None, detail: str = "", *, durable: bool = True) -> None:
        """Write the attempt down. Only the end of it must succeed: for that, room is made and waited for."""
        attempt = self._attempt(outcome, detail)
        deadline = time.monotonic() + RECORD_PATIENCE_S
        path = self.directory.record("attempts", self.number)
        while True:
            try:
                DISK.make_directory(path.parent)
                DISK.write_atomic(path, codec.compact(attempt), sync=durable)
                break
            except OSError as error:
                if outcome is None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    return
                if not self._release_reserve() and time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
        self.attempts[self.number] = attempt
        self.unseen = True
        if outcome is not None or time.monotonic() - self.last_view >= VIEW_INTERVAL_S:
            self._save_view()

    def _save_view(self) -> None:
        """Show the run as a manifest, unless the path belongs to committed evidence by now (`series`)."""
        self.last_view, self.unseen = time.monotonic(), False
        if self.claim.series > 1:
            return
        ends: dict[int, End] = {}
        records = manifest.Records(plan=self.plan, claims=self.claims, attempts=self.attempts, ends=ends)
        now = process.instant().at
        with contextlib.suppress(OSError):
            document = manifest.manifest(records, updated_at=now, heartbeat_at=now)
            DISK.write_atomic(self.directory.path / "manifest.json", codec.render(document), sync=False)

    def _end(self) -> None:
        """Leave nothing running, judge the attempt, write it down."""
        _end_descendants()
        if self._failed_because_of_a_stop():
            self._stop(None)
        outcome, detail = self.stopping, self.detail
        if outcome is None:
            self.records = course.untouched_skipped(self.plan, self.records)
            self.judgement = course.judgement(self.plan, self.records, tuple(self.judges.values()))
            outcome, detail = course.verdict(self.plan, self.records, self.judgement)
        self._save(outcome, detail)
        self._say_ended(outcome, detail)
        self._release_reserve()

    def _failed_because_of_a_stop(self) -> bool:
        """Return whether a stage failed while the worker was told to stop. Who ends an attempt may send TERM to all its
        processes at once, and then a stage ends by that before the worker hears of it."""
        if self.stopping:
            return False
        failed = [each for each in self.records.values() if each.status == StageStatus.FAILED and not each.timed_out]
        if not self.told_to_stop and any(each.signal == "SIGTERM" or each.exit_code == TERMED for each in failed):
            time.sleep(TOLD_PATIENCE_S)
        return self.told_to_stop and bool(failed)

    # -------------------------------------------------------------------------------------------- the journal

    def _say(self, *told: events.Told) -> None:
        """Keep events for the next time the journal is written, without the secrets in what others wrote."""
        at, run_id, task_id = process.instant().at, self.plan.run_id, self.plan.task_id
        for data in told:
            event = events.Event(run_id=run_id, task_id=task_id, attempt=self.number, at=at, data=data)
            self.journal.say(events.cleaned(event, self._clean))

    def _clean(self, text: str) -> str:
        return redact_text(text, patterns=self.plan.redact.patterns, values=self.secrets)

    def _say_begun(self) -> None:
        claim, before = self.claim, self.claims.get(self.number - 1)
        if self.number == 1:
            self._say(events.RunStarted(pipeline_id=self.plan.pipeline_id, commit=claim.commit))
        else:
            self._say(events.RunResumed(reason=claim.reason, actor=claim.actor))
        if before is None or before.plan_digest != claim.plan_digest:
            count = sum(each.selected for each in self.plan.stages)
            self._say(events.PlanCompleted(plan_digest=self.plan.digest, stages=count))
        self.journal.flush()

    def _say_gate(self, stage: PlannedStage, before: StageRecord, record: StageRecord) -> None:
        """Tell what is new at a gate: that it is asked for, or what was decided."""
        if stage.approval is None or before.tries:
            return
        if record.status == StageStatus.WAITING and before.gate is None and record.gate is not None:
            self._say(events.ApprovalRequested(stage=stage.id, reason=record.gate.reason))
        self._say(*(_decided(each) for each in record.decisions if each not in self._decided_before()))

    def _decided_before(self) -> tuple[Decision, ...]:
        before = self.claims.get(self.number - 1)
        return before.decisions if before is not None else ()

    def _say_completed(self, record: StageRecord) -> None:
        """Tell that a try is over; one that is pending again has failed."""
        status = StageStatus.FAILED if record.status == StageStatus.PENDING else record.status
        self._say(
            events.StageCompleted(
                stage=record.id,
                try_number=record.tries,
                status=status.value,
                duration_s=record.duration_s,
                exit_code=record.exit_code,
                summary=record.summary,
            )
        )

    def _say_built(self) -> None:
        if not self.built:
            failed = course.failure(self.plan, self.records) is not None
            self._say(events.BuildCompleted(status="failed" if failed else "succeeded"))
        self.built = True

    def _say_ended(self, outcome: Outcome, detail: str) -> None:
        """Tell how the attempt ended, once that is on disk; one that is interrupted or waits is no end of the run."""
        if self.judgement is not None:
            tested, reviewed = self.judgement.tested, self.judgement.reviewed
            self._say_built()
            self._say(events.TestCompleted(status=tested.status, reason="; ".join(tested.reasons)))
            self._say(events.ReviewCompleted(decision=reviewed.decision, reason=reviewed.reason))
        if outcome == Outcome.SUCCEEDED:
            self._say(events.RunCompleted(status=outcome.value, summary=detail))
        elif outcome in (Outcome.FAILED, Outcome.CANCELLED):
            self._say(events.RunFailed(status=outcome.value, summary=detail))
        self.journal.flush(sync=True)

    def _reserve(self) -> None:
        with contextlib.suppress(OSError):
            descriptor = os.open(self.directory.path / ".reserve", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
                else:
                    os.write(descriptor, bytes(RESERVE_BYTES))
            finally:
                os.close(descriptor)

    def _release_reserve(self) -> bool:
        """Give the reserved space back; return whether there was any."""
        try:
            (self.directory.path / ".reserve").unlink()
        except OSError:
            return False
        return True


def _decided(decision: Decision) -> events.ApprovalDecided:
    return events.ApprovalDecided(
        stage=decision.stage, decision=decision.decision.value, actor=decision.actor, reason=decision.reason
    )


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _drain(reading: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while reading.recv(4096):
            pass


def _end_descendants() -> None:
    """KILL what stages left behind and wait for it; orphans were adopted, so all of it descends from here."""
    for _ in range(200):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for pid in process.descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
