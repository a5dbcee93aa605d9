"""What a pass decides, as data: a world in, phases and an ordered list of actions out.

A case is named by the sentence it proves. Times are seconds ago; a run is `is` one of the states in `STATES` and
whatever else the case says of it. `does` lists every action in its order, spelled by `spoken`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, assert_never

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from reconciler.actions import (
    Abandon,
    Action,
    Adopt,
    Cancel,
    Forget,
    Launch,
    Publish,
    Quarantine,
    Reclaim,
    Release,
    Restore,
    Resume,
    Retire,
    Submit,
    TakeOver,
    Wait,
    Yield,
)
from reconciler.diff import diff
from reconciler.model import (
    Afar,
    Arrival,
    Attempt,
    CancelIntent,
    Claim,
    Concurrency,
    End,
    Evidence,
    Execution,
    ExecutionMode,
    ExecutorSettings,
    Gate,
    Heartbeat,
    Held,
    Host,
    HostId,
    Instant,
    Limits,
    Name,
    Neighbour,
    Outcome,
    Phase,
    Pipeline,
    PipelineId,
    Plan,
    Problem,
    Process,
    Rejection,
    Request,
    Run,
    RunId,
    Settings,
    SharedClaim,
    Source,
    Stage,
    StageId,
    StageRecord,
    StageStatus,
    Status,
    Suspend,
    TaskId,
    Waiting,
    Wish,
    claim_ref,
)
from reconciler.phases import ENDED, phase
from reconciler.places import Cause, Executor, Placement, Quotas, Sighting, Standing
from reconciler.resolve import Place, resolve
from reconciler.slots import executors_here, of_plan, within_quotas
from reconciler.state import Actual, Desired
from reconciler.work import WORK, of_ref

AT = "2026-03-01T12:00:00.000Z"
AT_S = int(datetime.fromisoformat(AT).timestamp())
NOW = Instant(at=AT, monotonic_s=1000.0, boot_id="boot")
WORKER = Process(pid=2, start_ticks=2, boot_id="boot")
CLAIMER = Process(pid=3, start_ticks=3, boot_id="boot")
HOST = Host(name="here", system="Linux", machine="x86_64", python="3.12.1", cpus=2)
TASK = TaskId("t")
PIPELINE = Pipeline(
    id=PipelineId("p"),
    source=Source(path="pipelines/p.yaml"),
    stages=(Stage(id=StageId("build"), command="make"),),
)
STAGE = StageRecord(id=StageId("build"), digest="s" * 64, status=StageStatus.WAITING, attempt=1)

STATES: dict[str, dict[str, Any]] = {
    "claimed": {},
    "running": {"attempt": "running", "lock": "held", "worker": "alive", "beat": 1},
    "gone": {"attempt": "running", "beat": 1},
    "interrupted": {"attempt": "interrupted"},
    "succeeded": {"attempt": "succeeded"},
    "failed": {"attempt": "failed"},
    "cancelled": {"attempt": "cancelled"},
    "waiting": {"attempt": "waiting"},
}


# ------------------------------------------------------------------------------------------------ data to values


def ago(seconds: float | None, boot: str = "boot") -> Instant | None:
    return None if seconds is None else Instant(at=AT, monotonic_s=NOW.monotonic_s - seconds, boot_id=boot)


def name_of(run_id: str) -> Name:
    return Name(run_id.rpartition("-")[0])


def request_of(run: str) -> Request:
    return Request(name=name_of(run), source=Source(path="runs.d/x.yaml"), task=TASK, pipeline=PIPELINE.id)


def plan_of(request: Request, run_id: str) -> Plan:
    plan = resolve(request, {PIPELINE.id: PIPELINE}, Settings(), Place(commit="c" * 40, branch="main"))
    assert isinstance(plan, Plan)
    return replace(plan, run_id=RunId(run_id))


def wish(
    run: str,
    *,
    plan: str = "sound",
    path: str = "",
    suspend: Any = None,
    concurrency: Any = None,
    after: Sequence[str] = (),
    arrived: int = 0,
    waited: int | None = None,
    due: str = "",
    task: str = TASK,
    labels: Sequence[str] = (),
    capabilities: Sequence[str] = (),
    mode: str = "auto",
    **keys: Any,
) -> Wish:
    """Return a wish: `arrived` is the number of its arrival, `waited` for how many seconds it has been there, `due` the fire
    of a schedule it is for."""
    name = name_of(run)
    path = path or f"runs.d/{name}.yaml"
    request = Request(
        name=name,
        source=Source(path=path),
        task=TaskId(task),
        pipeline=PIPELINE.id,
        labels=tuple(labels),
        capabilities=tuple(capabilities),
        execution=Execution(mode=ExecutionMode(mode)),
        suspend=None if suspend is None else Suspend(**suspend),
        concurrency=None if concurrency is None else Concurrency(**concurrency),
        after=tuple(Name(each) for each in after),
        **keys,
    )
    rejection = Rejection(path=path, problems=(Problem(path=path, reason="no such pipeline", rule="x"),), name=name)
    return Wish(
        request=request,
        run_id=RunId(run),
        plan=plan_of(request, run) if plan == "sound" else rejection,
        due_at=due,
        arrival=Arrival(number=arrived, at_s=None if waited is None else AT_S - waited),
    )


def run_of(case: dict[str, Any]) -> Run:
    given = {"number": 1, "series": 1, "claimed": 1, "started": 60, "boot": "boot"} | STATES[case["is"]] | case
    number, boot = given["number"], given["boot"]
    return Run(
        run_id=RunId(given["run"]),
        task_id=TaskId(given.get("task", TASK)),
        name=name_of(given["run"]),
        attempts_max=given.get("attempts_max", 3),
        heartbeat=Heartbeat(interval_s=5.0, stale_after_s=30.0),
        number=number,
        claim=None if given["claimed"] == "lost" else placed(given, boot),
        attempt=attempt_of(number, given, boot) if "attempt" in given else None,
        beat=ago(given.get("beat"), boot),
        lock_held=given.get("lock") == "held",
        claimer_alive=given.get("claimer", "alive") == "alive",
        worker_alive=given.get("worker") == "alive",
        planned=given.get("planned", True),
        cancel=CancelIntent(number=number, at=AT, actor="ann", reason=given["cancel"]) if "cancel" in given else None,
        end=End(number=number, at=AT, outcome=Outcome(given["end"]), detail="as noted") if "end" in given else None,
        corrupt=tuple(damage(given["run"], each) for each in given.get("corrupt", ())),
        group=given.get("group", ""),
        labels=tuple(given.get("labels", ())),
        capabilities=tuple(given.get("capabilities", ())),
        afar=afar_of(given["at"]) if "at" in given else None,
        parent=RunId(given["parent"]) if "parent" in given else None,
    )


def afar_of(said: dict[str, Any]) -> Afar:
    """Return what is known of an attempt at an engine: `is` is what the engine says of it, nothing if it is silent."""
    standing = Standing(said["is"]) if "is" in said else None
    cause = Cause(said["cause"]) if "cause" in said else None
    seen = Sighting(standing=standing, cause=cause, detail=said.get("says", "")) if standing is not None else None
    return Afar(
        sighting=seen,
        submitted=said.get("submitted", standing not in (None, Standing.ABSENT)),
        is_final=said.get("final", False),
        silent_s=said.get("silent", 1.0),
        silent_max_s=3600.0,
        turned=said.get("turned", ""),
        alien=said.get("alien", False),
        unread=said.get("unread", False),
        given_up_s=said.get("given_up"),
    )


def placed(given: dict[str, Any], boot: str) -> Claim:
    """Return the claim of the newest attempt, at the executor that the case names."""
    claim = claim_of(given["number"], given["series"], given["claimed"], boot)
    if "executor" not in given:
        return claim
    return replace(claim, placement=place_of(given["executor"], "handle" if "at" in given else ""))


def place_of(executor: str, handle: str) -> Placement:
    return Placement(
        executor=executor,
        instance="here",
        asked=(),
        offered=(),
        weight=1,
        reason="as recorded",
        at=AT,
        handle=handle,
    )


def claim_of(number: int, series: int, seconds_ago: float, boot: str) -> Claim:
    claimed = ago(seconds_ago, boot)
    assert claimed is not None
    return Claim(
        number=number,
        series=series,
        claimed=claimed,
        claimer=CLAIMER,
        reason="launched",
        actor="reconciler",
        plan="plan.json",
        plan_digest="d" * 64,
        commit="c" * 40,
    )


def attempt_of(number: int, given: dict[str, Any], boot: str) -> Attempt:
    """Return an attempt; one that is `waits_for` runs has a stage that waits until they have ended."""
    started = ago(given["started"], boot)
    assert started is not None
    ended = None if given["attempt"] == "running" else Outcome(given["attempt"])
    awaited = tuple(RunId(each) for each in given.get("waits_for", ()))
    stages = (replace(STAGE, waits_for=awaited),) if awaited else ()
    return Attempt(
        number=number, worker=WORKER, host=HOST, started=started, stages=stages, outcome=ended, detail="as told"
    )


def held_of(case: dict[str, Any], wishes: tuple[Wish, ...]) -> Held:
    """Return a claim at the remote: `by` is "us" or another host, `silent` is in seconds, of a lease of 300."""
    run, number = case["run"], case.get("number", 1)
    claims = tuple(claim_of(each, case.get("series", 1), 60, "elsewhere") for each in range(1, number + 1))
    found = next((each.plan for each in wishes if each.run_id == run), None)
    if "engine" in case:
        known = found if isinstance(found, Plan) else plan_of(request_of(run), run)
        digest = known.digest if case.get("same_plan", True) else "d" * 64
        newest = replace(claims[-1], placement=place_of(case["engine"], "handle"), plan_digest=digest)
        claims = (*claims[:-1], newest)
    plan = {"known": found or plan_of(request_of(run), run), "unknown": None}[case.get("plan", "known")]
    if "parent" in case:
        assert isinstance(plan, Plan)
        plan = replace(plan, parent=RunId(case["parent"]))
    return Held(
        claim=SharedClaim(
            run_id=RunId(run),
            task_id=TASK,
            host=HostId(case["by"]),
            claims=claims,
            nonce="n",
            group=case.get("group", ""),
        ),
        oid=f"oid-{run}",
        ours=case["by"] == "us",
        host_name=case["by"],
        silent_s=case.get("silent", 1.0),
        lease_s=300.0,
        plan=plan,
    )


def damage(run: str, record: str) -> Problem:
    return Problem(path=f".runs/t/cli/{run}/{record}", pointer=record, reason="not JSON", rule="record-corrupt")


def evidence_of(run: str, proof: int | str) -> Evidence:
    """Return evidence of an attempt that succeeded, or, given a word, of the first attempt with that status, or of the
    one whose number follows; one that is waiting does so at a gate of its plan."""
    word, _, number = str(proof).partition(" ")
    gate = Gate(stage=StageId("ship"), reason="It is for ever", policy="", asked_at=AT)
    waiting = Waiting(plan_digest=plan_of(request_of(run), run).digest, commit="c" * 40, gates=(gate,))
    return Evidence(
        run_id=RunId(run),
        task_id=TASK,
        name=name_of(run),
        status=Status.SUCCEEDED if isinstance(proof, int) else Status(word),
        attempt=proof if isinstance(proof, int) else int(number or 1),
        completed_at=AT,
        duration_s=1.0,
        manifest_blob="b" * 40,
        waiting=waiting if word == "waiting" else None,
    )


def desired_of(case: dict[str, Any]) -> Desired:
    wishes = tuple(wish(**each) for each in case.get("wishes", ()))
    names = {each.request.name: each.run_id for each in wishes}
    return Desired(wishes=wishes, names=names | case.get("names", {}))


def actual_of(case: dict[str, Any]) -> Actual:
    runs = [run_of(each) for each in case.get("runs", ())]
    proofs = [evidence_of(run, attempt) for run, attempt in case.get("evidence", {}).items()]
    wishes = desired_of(case).wishes
    held = [held_of(each, wishes) for each in case["held"]] if "held" in case else None
    return Actual(
        runs={run.run_id: run for run in runs},
        evidence={each.run_id: each for each in proofs},
        held=None if held is None else {each.claim.run_id: each for each in held},
        neighbours={
            HostId(host): Neighbour(oid=f"oid-{host}", silent_s=silent, lease_s=300.0)
            for host, silent in case.get("neighbours", {}).items()
        },
        unclaimed=tuple(RunId(run) for run in case.get("unclaimed", ())),
        lost={RunId(run): commit for run, commit in case.get("lost", {}).items()},
        work=case.get("work", {}),
        served={task: AT_S - seconds_ago for task, seconds_ago in case.get("served", {}).items()},
    )


def limits_of(case: dict[str, Any]) -> Limits:
    return Limits(
        runs_max=case.get("runs_max", 4),
        publish_due=case.get("publish_due", True),
        online=case.get("online", True),
        ageing_s=case.get("ageing", 3600.0),
        executors=executors_at(case) if "executors" in case else (),
        quotas=Quotas(**case.get("quotas", {})),
    )


def executors_at(case: dict[str, Any]) -> tuple[Executor, ...]:
    return executors_here(executors_of(case), "here", case.get("offers", ()), case.get("refusals", {}))


def executors_of(case: dict[str, Any]) -> Settings:
    """Return settings with the executors of a case."""
    said = {
        name: ExecutorSettings(**{**each, "capabilities": tuple(each.get("capabilities", ()))})
        for name, each in case["executors"].items()
    }
    return Settings(executors=said)


def spoken(action: Action) -> str:
    """Return all that an action says, on one line."""
    match action:
        case Launch(plan=plan):
            return f"launch {plan.run_id}" + placed_at(action)
        case Resume(run_id=run, after=after, reason=reason):
            return f"resume {run} after {after}: {reason}" + placed_at(action)
        case Submit(run_id=run, number=number, reason=reason):
            return f"submit {run} attempt {number}: {reason}"
        case Adopt(run_id=run, number=number, reason=reason):
            return f"adopt {run} attempt {number}: {reason}"
        case Cancel(run_id=run, number=number, reason=reason):
            return f"cancel {run} attempt {number}: {reason}"
        case Abandon(run_id=run, number=number, reason=reason):
            return f"abandon {run} attempt {number}: {reason}"
        case Quarantine(run_id=run, names=names, reason=reason):
            return f"quarantine {run} {' '.join(names)}: {reason}"
        case Restore(run_id=run, plan=plan, reason=reason):
            return f"restore {run} from {plan.run_id}: {reason}"
        case TakeOver(run_id=run, number=number, reason=reason, outcome=outcome):
            end = f" as {outcome}" if outcome else ""
            return f"take over {run} after {number}{end}: {reason}" + placed_at(action)
        case Reclaim(run_id=run, number=number, reason=reason):
            return f"reclaim {run} as {number}: {reason}"
        case Yield(run_id=run, number=number, reason=reason):
            return f"yield {run} attempt {number}: {reason}"
        case Release(ref=ref, oid=oid, reason=reason, gives_up=gives_up):
            return f"release {ref} {oid}: {reason}" + (" (given up)" if gives_up else "")
        case Retire(run_id=run, reason=reason):
            return f"retire {run}" + (f": {reason}" if reason else "")
        case Forget(run_id=run, reason=reason):
            return f"forget {run}: {reason}"
        case Publish(runs=runs):
            return f"publish {' '.join(run for _, run in runs)}"
        case Wait(subject=subject, reason=reason, settled=settled):
            return f"wait {subject}: {reason}" + (" (settled)" if settled else "")
        case _:
            assert_never(action)


def placed_at(action: Launch | Resume | TakeOver) -> str:
    """Return in words where an attempt is placed and why, and what became of the one before: in cases that name
    executors."""
    if action.placement is None or not action.placement.instance:
        return ""
    lost = None if isinstance(action, Launch) else action.recovery
    silent = f" for {lost.silent_s:g} s" if lost is not None and lost.silent_s is not None else ""
    became = f"; attempt {lost.lost} {lost.cause}{silent}" if lost is not None else ""
    return f" [{action.placement.executor}: {action.placement.reason}{became}]"


# ------------------------------------------------------------------------------------------------ the cases


def cases() -> Iterator[Any]:
    for path in sorted((Path(__file__).parent / "decisions").glob("*.yaml")):
        for sentence, case in YAML(typ="safe").load(path).items():
            yield pytest.param(case, id=f"{path.stem}: {sentence}")


@pytest.mark.parametrize("case", list(cases()))
def test_the_pass_decides(case: dict[str, Any]) -> None:
    actual = actual_of(case)
    assert {run_id: phase(run, NOW).value for run_id, run in actual.runs.items()} == case.get("phases", {})
    actions = diff(desired_of(case), actual, NOW, limits_of(case))
    assert [spoken(each) for each in actions] == case["does"]


def test_a_case_says_nothing_that_is_not_read() -> None:
    known = {"wishes", "runs", "names", "evidence", "runs_max", "publish_due", "phases", "does"}
    known |= {"held", "neighbours", "online", "lost", "unclaimed", "ageing"}
    known |= {"executors", "offers", "quotas", "served", "refusals", "work"}
    of_run = {"run", "is", "number", "series", "claimed", "claimer", "started", "boot", "attempt", "beat", "lock"}
    of_run |= {"worker", "planned", "cancel", "end", "corrupt", "attempts_max", "group", "waits_for"}
    of_run |= {"task", "labels", "capabilities", "executor", "at", "parent"}
    for each in cases():
        case = each.values[0]
        assert case.keys() <= known
        assert {key for run in case.get("runs", ()) for key in run} <= of_run


# ------------------------------------------------------------------------------------------------ for all worlds

SECONDS = st.sampled_from([-1.0, 0.0, 1.0, 29.0, 30.0, 31.0, 1e6])
RUN_IDS = ("a-11111111", "a-22222222", "a-33333333", "b-11111111", "b-22222222", "c-11111111")
HELD = st.fixed_dictionaries(
    {
        "run": st.sampled_from(RUN_IDS),
        "by": st.sampled_from(["us", "them"]),
        "number": st.integers(1, 4),
        "silent": st.sampled_from([0.0, 300.0, 301.0]),
        "plan": st.sampled_from(["known", "unknown"]),
    },
    optional={"engine": st.sampled_from(["hpc", "other"]), "same_plan": st.booleans()},
)
AT_ENGINE = st.fixed_dictionaries(
    {"silent": st.sampled_from([1.0, 3600.0, 3601.0]), "submitted": st.booleans(), "final": st.booleans()},
    optional={
        "is": st.sampled_from([each.value for each in Standing]),
        "cause": st.sampled_from(["node_failed", "preempted", "time_limit", "engine_cancelled"]),
        "given_up": st.just(3601.0),
        "unread": st.just(True),
        "turned": st.just("there is no such partition"),
    },
)
FACTS = st.fixed_dictionaries(
    {
        "run": st.sampled_from(RUN_IDS),
        "is": st.sampled_from(sorted(STATES)),
        "number": st.integers(1, 4),
        "series": st.integers(1, 4),
        "claimed": st.one_of(SECONDS, st.just("lost")),
        "claimer": st.sampled_from(["alive", "dead"]),
        "started": SECONDS,
        "boot": st.sampled_from(["boot", "another"]),
        "lock": st.sampled_from(["held", "free"]),
        "worker": st.sampled_from(["alive", "dead"]),
        "planned": st.booleans(),
        "corrupt": st.lists(st.sampled_from(["claims/1.json", "plan.json"]), max_size=2, unique=True),
        "attempts_max": st.integers(1, 3),
    },
    optional={
        "beat": SECONDS,
        "cancel": st.just("enough"),
        "end": st.sampled_from([each.value for each in Outcome]),
        "group": st.sampled_from(["g", "h"]),
        "executor": st.just("hpc"),
        "at": AT_ENGINE,
    },
)
GROUPS = st.fixed_dictionaries(
    {"group": st.sampled_from(["g", "h"]), "on_conflict": st.sampled_from(["queue", "cancel_running"])}
)
WISHES = st.fixed_dictionaries(
    {"run": st.sampled_from(RUN_IDS), "plan": st.sampled_from(["sound", "sound", "broken"])},
    optional={
        "priority": st.integers(-1, 1),
        "cancel": st.just("enough"),
        "after": st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=2, unique=True),
        "concurrency": GROUPS,
        "arrived": st.integers(0, 2),
        "waited": st.sampled_from([0, 3600, 10**9]),
        "suspend": st.sampled_from([{}, {"until": "2026-03-01T11:00:00Z"}, {"until": "2026-03-01T13:00:00Z"}]),
        "task": st.sampled_from(["t", "u"]),
        "labels": st.just(["x"]),
        "capabilities": st.just(["gpu"]),
    },
)
WORLDS = st.fixed_dictionaries(
    {
        "wishes": st.lists(WISHES, max_size=3, unique_by=lambda each: name_of(each["run"])),
        "runs": st.lists(FACTS, max_size=6, unique_by=lambda each: each["run"]),
        "evidence": st.dictionaries(
            st.sampled_from(RUN_IDS), st.one_of(st.integers(1, 4), st.sampled_from(["failed", "cancelled"])), max_size=3
        ),
        "runs_max": st.integers(0, 3),
        "publish_due": st.booleans(),
    },
    optional={
        "held": st.lists(HELD, max_size=4, unique_by=lambda each: each["run"]),
        "neighbours": st.dictionaries(st.sampled_from(["them", "others"]), st.sampled_from([1.0, 301.0]), max_size=2),
        "online": st.booleans(),
        "quotas": st.sampled_from([{"tasks": {"*": 1}}, {"tasks": {"t": 2}, "labels": {"x": 1}}]),
        "executors": st.sampled_from(
            [
                {"local": {}},
                {"local": {"runs_max": 1}, "big": {"capabilities": ["gpu"]}},
                {"local": {}, "hpc": {"engine": "slurm", "capabilities": ["gpu"], "runs_max": 2}},
            ]
        ),
        "refusals": st.just({"hpc": "slurmctld does not answer"}),
        "work": st.dictionaries(
            st.builds("refs/reconciler/work/{}/{}".format, st.sampled_from(RUN_IDS), st.integers(1, 4)),
            st.just("oid"),
            max_size=3,
        ),
        "served": st.dictionaries(st.sampled_from(["t", "u"]), st.sampled_from([0, 60, 7200]), max_size=2),
    },
)


def decide(case: dict[str, Any]) -> tuple[Action, ...]:
    return diff(desired_of(case), actual_of(case), NOW, limits_of(case))


def subjects(action: Action) -> list[str]:
    match action:
        case Launch(plan=plan):
            return [plan.run_id]
        case Wait(subject=subject):
            return [subject]
        case Publish():
            return []
        case Release(ref=ref):
            return [ref.removeprefix("refs/reconciler/claims/")]
        case _:
            return [action.run_id]


def every_world_has_one_decision(case: dict[str, Any]) -> None:
    assert decide(case) == decide(case)
    assert all(phase(run, NOW) in Phase for run in actual_of(case).runs.values())


def the_order_in_which_the_world_was_read_does_not_matter(case: dict[str, Any], random: Any) -> None:
    shuffled = dict(case)
    for key in ("wishes", "runs"):
        shuffled[key] = random.sample(case[key], len(case[key]))
    assert decide(shuffled) == decide(case)


def a_run_is_acted_on_once_and_in_one_way(case: dict[str, Any]) -> None:
    actions = decide(case)
    concerned = [subject for action in actions for subject in subjects(action)]
    assert len(concerned) == len(set(concerned))
    assert sum(isinstance(each, Publish) for each in actions) <= 1


def no_ref_is_moved_by_two_actions(case: dict[str, Any]) -> None:
    actions = decide(case)
    claiming = [each for each in actions if isinstance(each, Launch | Resume | TakeOver | Adopt | Reclaim)]
    moved = [claim_ref(RunId(subject)) for each in claiming for subject in subjects(each)]
    moved += [each.ref for each in actions if isinstance(each, Release)]
    assert len(moved) == len(set(moved))


def only_what_was_never_claimed_is_launched_and_never_more_than_there_is_room_for(case: dict[str, Any]) -> None:
    runs = actual_of(case).runs
    launched = [each for each in decide(case) if isinstance(each, Launch)]
    claimed = {*runs} | {each["run"] for each in case.get("held", ())}
    assert not {each.plan.run_id for each in launched} & claimed
    at_work = [each for each in runs.values() if phase(each, NOW) not in (*ENDED, Phase.WAITING)]
    placements = [each.claim.placement if each.claim is not None else None for each in at_work]
    taken = [each for each in decide(case) if isinstance(each, TakeOver) and each.run_id not in runs]
    beginning = [each.placement for each in (*launched, *taken) if each.outcome is None]
    here = sum(is_here(case, each) for each in beginning)
    assert not here or here + sum(is_here(case, each) for each in placements) <= case["runs_max"]


def is_here(case: dict[str, Any], placement: Placement | None) -> bool:
    """Return whether an attempt takes up this machine, which one at an engine does not."""
    executors = case.get("executors", {})
    return placement is None or not executors.get(placement.executor, {}).get("engine")


def no_name_is_launched_while_an_older_run_of_it_has_not_ended(case: dict[str, Any]) -> None:
    open_names = {name_of(run_id) for run_id, run in actual_of(case).runs.items() if phase(run, NOW) not in ENDED}
    launched = {each.plan.name for each in decide(case) if isinstance(each, Launch)}
    assert not launched & open_names


def only_a_stale_run_is_resumed_or_given_up(case: dict[str, Any]) -> None:
    runs = actual_of(case).runs
    for action in decide(case):
        if isinstance(action, Launch | Resume | TakeOver | Reclaim | Release | Publish):
            assert case.get("online", True), "nothing that others must agree to is done behind their back"
        if isinstance(action, Resume | Abandon):
            assert phase(runs[action.run_id], NOW) == Phase.STALE
        if isinstance(action, Cancel):
            assert phase(runs[action.run_id], NOW) not in ENDED


def no_run_of_another_host_goes_on_here_before_that_host_fell_silent(case: dict[str, Any]) -> None:
    theirs = {each["run"]: each["silent"] for each in case.get("held", ()) if each["by"] == "them"}
    for action in decide(case):
        for run_id in set(subjects(action)) & theirs.keys():
            if isinstance(action, TakeOver | Adopt):
                assert theirs[run_id] > 300
            else:
                assert isinstance(action, Yield | Wait | Retire | Release | Quarantine), spoken(action)


def what_ended_is_published_until_the_tip_proves_it_and_then_put_away(case: dict[str, Any]) -> None:
    actual, actions = actual_of(case), decide(case)
    published = {run for each in actions if isinstance(each, Publish) for _, run in each.runs}
    for run_id in published:
        run = actual.runs[run_id]
        assert phase(run, NOW) in (*ENDED, Phase.WAITING) and run.planned and not run.corrupt
        held = next((each for each in case.get("held", ()) if each["run"] == run_id), None)
        assert "held" not in case or (held is not None and (held["by"], held["number"]) == ("us", run.number))
        assert not actual.proves_as(run, phase(run, NOW))
    for action in actions:
        if isinstance(action, Retire) and not action.reason:
            assert actual.proves(action.run_id, actual.runs[action.run_id].number)


def a_run_is_launched_alone_in_its_group_and_after_what_it_comes_after(case: dict[str, Any]) -> None:
    actual, desired = actual_of(case), desired_of(case)
    wishes = {each.run_id: each for each in desired.wishes}
    groups = [group for each in case["wishes"] if (group := (each.get("concurrency") or {}).get("group"))]
    launched = [wishes[each.plan.run_id].request for each in decide(case) if isinstance(each, Launch)]
    for group in set(groups):
        in_group = [each.run_id for each in wishes.values() if each.plan and _group(each) == group]
        alive = [
            run.run_id
            for run in actual.runs.values()
            if (run.group == group or run.run_id in in_group) and phase(run, NOW) not in ENDED
        ]
        assert sum(each.concurrency is not None and each.concurrency.group == group for each in launched) <= (not alive)
    for request in launched:
        for name in request.after:
            run_id = desired.names.get(name)
            proofs = [each for each in actual.evidence.values() if run_id in (None, each.run_id) and each.name == name]
            assert any(each.status == Status.SUCCEEDED for each in proofs)


def what_is_launched_breaks_no_quota_and_is_placed_where_it_fits(case: dict[str, Any]) -> None:
    actual, limits = actual_of(case), limits_of(case)
    wishes = {each.run_id: each for each in desired_of(case).wishes}
    launched = [each for each in decide(case) if isinstance(each, Launch)]
    alive = [run for run in actual.runs.values() if run.lock_held and phase(run, NOW) == Phase.RUNNING]
    for task, bound in limits.quotas.tasks.items():
        begun = [each for each in launched if task in ("*", each.plan.task_id)]
        for name in {each.plan.task_id for each in begun}:
            under_way = sum(run.task_id == name for run in alive)
            assert sum(each.plan.task_id == name for each in begun) + under_way <= max(bound, under_way)
    for label, bound in limits.quotas.labels.items():
        assert sum(label in wishes[each.plan.run_id].request.labels for each in launched) <= bound
    for each in launched:
        asked = set(wishes[each.plan.run_id].request.capabilities)
        assert each.placement is not None and asked <= set(each.placement.offered)


def the_second_look_grants_what_was_decided_and_nothing_beyond_a_quota(case: dict[str, Any]) -> None:
    """A world that has not changed since the decision grants it; one in which others took what was left grants none."""
    desired, actual, limits = desired_of(case), actual_of(case), limits_of(case)
    begins = [of_plan(each.plan) for each in decide(case) if isinstance(each, Launch)]
    assert within_quotas(begins, desired, actual, NOW, limits) == {each.run_id for each in begins}
    full = replace(limits, quotas=replace(limits.quotas, tasks={"*": 0}))
    assert within_quotas(begins, desired, actual, NOW, full) == frozenset()


def _group(each: Wish) -> str:
    return each.request.concurrency.group if each.request.concurrency is not None else ""


def an_attempt_at_an_engine_is_followed_only_when_it_is_over_or_silent(case: dict[str, Any]) -> None:
    """Whatever is unknown of it, it may live: only the engine's word, or its own silence, lets another one begin."""
    runs = actual_of(case).runs
    for action in decide(case):
        if isinstance(action, Resume) and (run := runs[action.run_id]).is_afar:
            afar = run.afar or Afar()
            running = afar.sighting is not None and afar.sighting.standing == Standing.RUNNING
            ended = run.attempt is not None and run.attempt.outcome == Outcome.WAITING
            assert ended or afar.is_final or (running and afar.silent_s > afar.silent_max_s)


def only_what_an_engine_has_not_taken_is_handed_to_it(case: dict[str, Any]) -> None:
    actual = actual_of(case)
    for action in decide(case):
        if isinstance(action, Submit):
            run = actual.runs[action.run_id]
            assert run.is_afar and run.afar is not None and not run.afar.submitted and not run.afar.turned
            assert limits_of(case).online and phase(run, NOW) not in ENDED


def the_ref_of_an_attempt_that_goes_on_is_kept(case: dict[str, Any]) -> None:
    actual = actual_of(case)
    for action in decide(case):
        if not isinstance(action, Release) or not action.ref.startswith(WORK):
            continue
        assert limits_of(case).online
        run_id, number = of_ref(action.ref) or ("", 0)
        held, run = (actual.held or {}).get(RunId(run_id)), actual.runs.get(RunId(run_id))
        proven = actual.proves(RunId(run_id), number)
        assert proven or held is None or held.claim.number > number
        assert proven or run is None or not run.is_afar or run.number > number


PROMISES = (
    an_attempt_at_an_engine_is_followed_only_when_it_is_over_or_silent,
    only_what_an_engine_has_not_taken_is_handed_to_it,
    the_ref_of_an_attempt_that_goes_on_is_kept,
    every_world_has_one_decision,
    a_run_is_acted_on_once_and_in_one_way,
    no_ref_is_moved_by_two_actions,
    only_what_was_never_claimed_is_launched_and_never_more_than_there_is_room_for,
    no_name_is_launched_while_an_older_run_of_it_has_not_ended,
    only_a_stale_run_is_resumed_or_given_up,
    no_run_of_another_host_goes_on_here_before_that_host_fell_silent,
    what_ended_is_published_until_the_tip_proves_it_and_then_put_away,
    a_run_is_launched_alone_in_its_group_and_after_what_it_comes_after,
    what_is_launched_breaks_no_quota_and_is_placed_where_it_fits,
    the_second_look_grants_what_was_decided_and_nothing_beyond_a_quota,
)


@settings(deadline=None, max_examples=250)
@given(WORLDS, st.randoms(use_true_random=False))
def test_what_is_promised_holds_in_every_world(case: dict[str, Any], random: Any) -> None:
    """All at once, because to think of a world takes ten times as long as to decide about it."""
    for promise in PROMISES:
        promise(case)
    the_order_in_which_the_world_was_read_does_not_matter(case, random)
