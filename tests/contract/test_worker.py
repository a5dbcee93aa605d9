"""The simulated worker leaves the records that the real one leaves, for the same scenario."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from reconciler import codec, parse, process, resolve
from reconciler.contracts import Contracts
from reconciler.disk import DISK, Disk
from reconciler.lease import Leased
from reconciler.model import (
    Attempt,
    CancelIntent,
    Claim,
    End,
    Instant,
    Outcome,
    Pipeline,
    Plan,
    PlannedStage,
    Process,
    Request,
    Settings,
    Source,
)
from reconciler.process import Workers
from reconciler.rundir import RunDirectory
from reconciler.simulation.host import Host
from reconciler.simulation.story import Behaviour
from reconciler.simulation.world import world_of
from tests.contract.inside import inside, machines

Records = dict[str, Any]
CONTRACTS = Contracts()


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Stages as a pipeline and as behaviours, and what stands in the run directory before the worker comes."""

    stages: str
    behaviours: dict[str, tuple[float, int, bytes]] = field(default_factory=dict)
    before: Callable[[RunDirectory, Plan], None] = lambda directory, plan: None
    number: int = 1
    term: bool = False
    cancel: bool = False
    lease: bool = False


def plan_of(scenario: Scenario) -> Plan:
    text = f"workspace: empty\nstages:\n{scenario.stages}".encode()
    pipeline = parse.parse_pipeline(text, Source(path="pipelines/p.yaml", blob="1" * 40), CONTRACTS)
    request = parse.parse_request(b"task: t\npipeline: p\n", Source(path="runs.d/a.yaml", blob="2" * 40), CONTRACTS)
    assert isinstance(pipeline, Pipeline) and isinstance(request, Request), (pipeline, request)
    settings = replace(Settings(), grace_s=0.5)
    plan = resolve.resolve(request, {pipeline.id: pipeline}, settings, resolve.Place(commit="3" * 40, branch="main"))
    assert isinstance(plan, Plan), plan
    return plan


def prepare(directory: RunDirectory, plan: Plan, scenario: Scenario, now: Instant, me: Process) -> str:
    """Write what stands there before a worker is spawned; return the digest of the plan."""
    disk, data = directory.disk, codec.compact(plan)
    disk.make_directory(directory.workspace)
    disk.write_atomic(directory.path / "plan.json", data)
    for number in range(1, scenario.number + 1):
        claim = Claim(
            number=number, series=1, claimed=now, claimer=me, reason="asked", actor="test", plan="plan.json",
            plan_digest=plan.digest, commit=plan.commit,
        )  # fmt: skip
        disk.write_new(directory.record("claims", number), codec.compact(claim))
    scenario.before(directory, plan)
    return hashlib.sha256(data).hexdigest()


def real(scenario: Scenario, place: Path) -> Records:
    plan, directory = plan_of(scenario), RunDirectory(place / "run")
    digest = prepare(directory, plan, scenario, process.instant(), process.myself())
    workers = Workers()
    try:
        worker = workers.spawn(
            directory.path,
            scenario.number,
            place,
            digest,
            Leased(path=place / "lease", since_s=0.0) if scenario.lease else None,
        )
        if scenario.term and worker is not None:
            _wait(lambda: _stage_runs(directory, scenario.number))
            _ask_to_cancel(directory, scenario)
            process.send(worker, process.signal.SIGTERM)
        _wait(lambda: worker is None or not process.is_alive(worker))
    finally:
        workers.close()
    return records(DISK, directory)


def _wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _stage_runs(directory: RunDirectory, number: int) -> bool:
    attempt = directory.read(Attempt, directory.record("attempts", number))
    return attempt is not None and any(each.process for each in attempt.stages)


def simulated(scenario: Scenario) -> Records:
    (host,) = machines()
    plan, directory = plan_of(scenario), RunDirectory(host.checkout / "run", host.disk)
    _behave(host, scenario)

    def body() -> None:
        assert host.scheduler.current is not None
        digest = prepare(directory, plan, scenario, host.now(), host.scheduler.current.me)
        host.disk.make_directory(host.repository.state / "live")
        host.disk.write_atomic(host.repository.state / "live" / "run", b"t\n")
        world = world_of(host, None)
        lease = Leased(path=host.checkout / "lease", since_s=0.0) if scenario.lease else None
        worker = world.workers.spawn(directory.path, scenario.number, host.checkout, digest, lease)
        actor = host.find(worker) if worker else None
        assert actor is not None
        host.scheduler.sleep(0.5)
        if scenario.term:
            _ask_to_cancel(directory, scenario)
            actor.told_to_stop = True
            host.scheduler.wake(actor)
        while not actor.dead:
            host.scheduler.sleep(1.0)

    inside(host, body)
    return inside(host, lambda: records(host.disk, directory))


def _ask_to_cancel(directory: RunDirectory, scenario: Scenario) -> None:
    if scenario.cancel:
        intent = CancelIntent(number=1, at="2030-01-01T00:00:00Z", actor="Ann", reason="enough")
        directory.disk.write_new(directory.record("cancels", 1), codec.compact(intent))


def _behave(host: Host, scenario: Scenario) -> None:
    def behaviour(run_id: str, stage: PlannedStage, number: int, tries: int) -> Behaviour:
        seconds, exit_code, output = scenario.behaviours.get(stage.id, (0.1, 0, b""))
        return Behaviour(seconds, 0 if exit_code == 9 and tries > 1 else exit_code, output, False)

    host.history.behaviour = behaviour  # type: ignore[method-assign]


def records(disk: Disk, directory: RunDirectory) -> Records:
    """Return what a worker left, as far as two executions of one scenario can be the same."""
    found: Records = {}
    for family in ("claims", "attempts", "cancels", "ends", "commands"):
        for name in sorted(disk.names(directory.path / family)):
            path = directory.path / family / name
            data = disk.read(path, 1 << 20)
            found[f"{family}/{name}"] = _attempt(codec.parse(Attempt, data)) if family == "attempts" else len(data)
    found["lock"] = disk.lock_is_held(directory.lock)
    found["beat"] = disk.exists(directory.heartbeat)
    return {name: value for name, value in found.items() if not name.startswith(("claims/", "cancels/", "ends/"))}


def _attempt(attempt: Attempt) -> Any:
    stages = [
        (
            each.id, each.status.value, each.attempt, each.tries, each.exit_code, each.timed_out, each.log_path,
            each.log_bytes, each.log_sha256, each.process, each.summary if not each.signal else "",
            each.started_at is not None, each.completed_at is not None,
        )
        for each in attempt.stages
    ]  # fmt: skip
    return attempt.number, attempt.outcome, attempt.detail, attempt.ended_at is not None, stages


# ------------------------------------------------------------------------------------------------ scenarios


def _newer_claim(directory: RunDirectory, plan: Plan) -> None:
    directory.disk.write_new(directory.record("claims", 2), b"{}")


def _ended(directory: RunDirectory, plan: Plan) -> None:
    end = End(number=1, at="2030-01-01T00:00:00Z", outcome=Outcome.INTERRUPTED, detail="could not be started")
    directory.disk.write_new(directory.record("ends", 1), codec.compact(end))


def _other_plan(directory: RunDirectory, plan: Plan) -> None:
    directory.disk.write_atomic(directory.path / "plan.json", codec.compact(replace(plan, title="another")))


ONE = "  - id: a\n    command: 'echo hello'\n"
SLEEPS = "  - id: a\n    command: [sleep, '30']\n  - id: b\n    command: 'true'\n"
SCENARIOS = {
    "one stage succeeds": Scenario(stages=ONE, behaviours={"a": (0.1, 0, b"hello\n")}),
    "the second fails, the third is skipped": Scenario(
        stages=f"{ONE}  - id: b\n    command: 'echo no; exit 3'\n  - id: c\n    command: 'true'\n",
        behaviours={"a": (0.1, 0, b"hello\n"), "b": (0.1, 3, b"no\n")},
    ),
    "a failure is allowed": Scenario(
        stages=f"  - id: b\n    command: 'exit 3'\n    allow_failure: true\n{ONE}",
        behaviours={"b": (0.1, 3, b""), "a": (0.1, 0, b"hello\n")},
    ),
    "side by side": Scenario(
        stages="  - id: a\n    command: 'true'\n    needs: []\n  - id: b\n    command: 'true'\n    needs: []\n",
    ),
    "all tries fail": Scenario(
        stages="  - id: a\n    command: 'exit 1'\n    attempts_max: 2\n    backoff: 100ms\n", behaviours={"a": (0.1, 1, b"")}
    ),
    "a timeout": Scenario(
        stages="  - id: a\n    command: [sleep, '30']\n    timeout: 500ms\n", behaviours={"a": (30.0, 0, b"")}
    ),
    "told to stop": Scenario(stages=SLEEPS, behaviours={"a": (30.0, 0, b"")}, term=True),
    "told to cancel": Scenario(
        stages=SLEEPS, behaviours={"a": (30.0, 0, b"")}, term=True, cancel=True
    ),
    "a newer claim": Scenario(stages=ONE, before=_newer_claim),
    "ended before it began": Scenario(stages=ONE, before=_ended),
    "another plan": Scenario(stages=ONE, before=_other_plan),
    "no lease": Scenario(stages=ONE, lease=True),
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    from tests.conftest import end_all

    yield tmp_path
    end_all(tmp_path)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_simulated_worker_leaves_what_the_real_one_leaves(name: str, place: Path) -> None:
    scenario = SCENARIOS[name]
    assert simulated(scenario) == real(scenario, place)


@pytest.mark.parametrize("allowed", [False, True])
def test_told_to_stop_after_its_stages_the_worker_is_interrupted_all_the_same(place: Path, allowed: bool) -> None:
    scenario = Scenario(stages=f"  - id: a\n    command: [sleep, '30']\n    allow_failure: {str(allowed).lower()}\n")
    plan, directory = plan_of(scenario), RunDirectory(place / "run")
    digest = prepare(directory, plan, scenario, process.instant(), process.myself())
    workers = Workers()
    try:
        worker = workers.spawn(directory.path, 1, place, digest, None)
        assert worker is not None
        _wait(lambda: _stage_runs(directory, 1))
        attempt = directory.read(Attempt, directory.record("attempts", 1))
        assert attempt is not None and attempt.stages[0].process is not None
        stage = attempt.stages[0].process  # an engine sends TERM to all processes of an attempt, in any order
        process.send(stage, process.signal.SIGTERM)
        _wait(lambda: not process.is_alive(stage))
        process.send(worker, process.signal.SIGTERM)
        _wait(lambda: not process.is_alive(worker))
    finally:
        workers.close()
    attempt = directory.read(Attempt, directory.record("attempts", 1))
    assert attempt is not None
    assert (attempt.outcome, attempt.detail) == (Outcome.INTERRUPTED, "the worker was told to stop")
