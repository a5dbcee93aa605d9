"""What a person is told: rows of `status`, and the chain of `why`, in whole sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from reconciler import codec
from reconciler.actions import Abandon, Action, Cancel, Forget, Launch, Publish, Quarantine, Resume, Retire, Wait
from reconciler.diff import diff
from reconciler.explain import reasons, rows
from reconciler.model import (
    Attempt,
    Claim,
    Evidence,
    Heartbeat,
    Host,
    Instant,
    Limits,
    Name,
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
    Source,
    Stage,
    StageId,
    StageRecord,
    StageStatus,
    Status,
    Suspend,
    TaskId,
    Wish,
)
from reconciler.resolve import Place, resolve
from reconciler.state import Actual, Desired

AT = "2026-03-01T12:00:00.000Z"
NOW = Instant(at=AT, monotonic_s=1000.0, boot_id="boot")
ID = RunId("0001-a-1a2b3c4d")
PROCESS = Process(pid=2, start_ticks=2, boot_id="boot")
HOST = Host(name="here", system="Linux", machine="x86_64", python="3.12.1", cpus=2)
REQUEST = Request(
    name=Name("0001-a"),
    source=Source(path="runs.d/0001-a.yaml"),
    task=TaskId("t"),
    pipeline=PipelineId("p"),
    target=StageId("lint"),
)
PIPELINE = Pipeline(
    id=PipelineId("p"),
    source=Source(path="pipelines/p.yaml"),
    stages=tuple(Stage(id=StageId(each), command="x") for each in ("build", "lint", "test")),
)
RESOLVED = resolve(REQUEST, {PIPELINE.id: PIPELINE}, Settings(), Place(commit="c" * 40, branch="main"))
assert isinstance(RESOLVED, Plan)
PLAN = replace(RESOLVED, run_id=ID)
WISH = Wish(request=REQUEST, run_id=ID, plan=PLAN)
BROKEN = replace(
    WISH,
    plan=Rejection(
        path="runs.d/0001-a.yaml",
        problems=(Problem(path="runs.d/0001-a.yaml", reason="there is no pipeline 'p'", cure="fix it", rule="x"),),
    ),
)


def instant(monotonic_s: float, boot_id: str = "boot") -> Instant:
    return Instant(at=AT, monotonic_s=monotonic_s, boot_id=boot_id)


def stage(id: str, status: StageStatus) -> StageRecord:
    return StageRecord(id=StageId(id), digest="d" * 64, status=status, attempt=1, tries=2, started_at=AT)


RUNNING = Run(
    run_id=ID,
    task_id=TaskId("t"),
    name=Name("0001-a"),
    attempts_max=3,
    heartbeat=Heartbeat(interval_s=5.0, stale_after_s=30.0),
    number=2,
    claim=Claim(
        number=2,
        series=1,
        claimed=instant(900.0),
        claimer=PROCESS,
        reason="launched",
        actor="reconciler",
        plan="plan.json",
        plan_digest="d" * 64,
        commit="c" * 40,
    ),
    attempt=Attempt(
        number=2,
        worker=PROCESS,
        host=HOST,
        started=instant(900.0),
        stages=(stage("build", StageStatus.SUCCEEDED), stage("lint", StageStatus.RUNNING)),
        elapsed_s=90.0,
    ),
    beat=instant(997.0),
    lock_held=True,
    claimer_alive=True,
    worker_alive=True,
)
assert RUNNING.attempt is not None
GONE = replace(RUNNING, lock_held=False)
REBOOTED = replace(
    GONE, worker_alive=False, beat=instant(1.0, "old"), attempt=replace(RUNNING.attempt, started=instant(1.0, "old"))
)
FAILED = replace(
    RUNNING,
    attempt=replace(RUNNING.attempt, outcome=Outcome.FAILED, ended_at=AT, detail="stage 'lint' failed: exit code 1"),
)
assert RUNNING.claim is not None
LATE = replace(RUNNING, number=1, attempt=None, beat=None, lock_held=False)
CLAIMED = replace(LATE, claim=replace(RUNNING.claim, claimed=instant(999.0)))
DAMAGED = replace(
    RUNNING, corrupt=(Problem(path=".runs/t/cli/x/claims/2.json", reason="not JSON", cure="it is kept", rule="r"),)
)
EVIDENCE = Evidence(
    run_id=ID,
    task_id=TaskId("t"),
    name=Name("0001-a"),
    status=Status.FAILED,
    attempt=2,
    completed_at=AT,
    duration_s=90.0,
    manifest_blob="b" * 40,
)


def desired(*wishes: Wish) -> Desired:
    return Desired(wishes=wishes, names={each.request.name: each.run_id for each in wishes})


def actual(*facts: Run | Evidence) -> Actual:
    return Actual(
        runs={each.run_id: each for each in facts if isinstance(each, Run)},
        evidence={each.run_id: each for each in facts if isinstance(each, Evidence)},
    )


def decided(wanted: Desired, there: Actual, runs_max: int = 4) -> Sequence[Action]:
    return diff(wanted, there, NOW, Limits(runs_max=runs_max))


# ------------------------------------------------------------------------------------------------ rows


@pytest.mark.parametrize(
    ("wishes", "facts", "expected"),
    [
        (
            [WISH],
            [],
            {"phase": Phase.ABSENT, "done": 0, "total": 2, "attempts": 0, "reason": "the next pass launches it"},
        ),
        ([BROKEN], [], {"phase": Phase.ABSENT, "total": 0,
                        "reason": "runs.d/0001-a.yaml: there is no pipeline 'p'; fix it"}),
        (
            [replace(WISH, request=replace(REQUEST, suspend=Suspend(reason="budget")))],
            [],
            {"phase": Phase.ABSENT, "reason": "suspended: budget", "evidence": ""},
        ),
        ([WISH], [CLAIMED], {"phase": Phase.STARTING, "attempts": 1, "heartbeat_age_s": None, "stage": "", "total": 0}),
        (
            [WISH],
            [RUNNING],
            {"phase": Phase.RUNNING, "stage": "lint", "done": 1, "total": 2, "attempts": 2, "heartbeat_age_s": 3.0,
             "duration_s": None, "completed_at": None, "evidence": "", "reason": ""},
        ),
        ([WISH], [GONE], {"phase": Phase.STALE, "reason": "the worker of attempt 2 is gone: its lock is free"}),
        ([WISH], [DAMAGED],
         {"phase": Phase.RUNNING, "reason": ".runs/t/cli/x/claims/2.json: not JSON; it is kept"}),
        (
            [WISH],
            [FAILED],
            {"phase": Phase.FAILED, "stage": "", "heartbeat_age_s": None, "duration_s": 90.0, "completed_at": AT,
             "evidence": "", "reason": "stage 'lint' failed: exit code 1"},
        ),
        ([WISH], [FAILED, EVIDENCE], {"phase": Phase.FAILED, "evidence": "e" * 40}),
        ([WISH], [FAILED, replace(EVIDENCE, attempt=1)], {"phase": Phase.FAILED, "evidence": ""}),
        (
            [],
            [EVIDENCE],
            {"phase": Phase.FAILED, "attempts": 2, "duration_s": 90.0, "completed_at": AT, "evidence": "e" * 40,
             "task_id": "t", "name": "0001-a", "heartbeat_age_s": None},
        ),
    ],
)  # fmt: skip
def test_a_row_says_where_a_run_stands(
    wishes: list[Wish], facts: list[Run | Evidence], expected: Mapping[str, object]
) -> None:
    wanted, there = desired(*wishes), actual(*facts)
    [row] = rows(wanted, there, decided(wanted, there), {ID: "e" * 40}, NOW)
    assert row.run_id == ID
    assert {key: getattr(row, key) for key in expected} == expected


def test_evidence_whose_commit_was_not_looked_up_is_committed_all_the_same() -> None:
    [row] = rows(desired(), actual(EVIDENCE), (), {}, NOW)
    assert row.evidence == "committed"


@pytest.mark.parametrize("run", [RUNNING, GONE, REBOOTED, FAILED, CLAIMED, DAMAGED])
def test_a_row_can_be_said_in_json(run: Run) -> None:
    [row] = rows(desired(WISH), actual(run), (), {}, NOW)
    said: Any = json.loads(json.dumps(codec.dump(row), allow_nan=False))
    assert said["run_id"] == ID


def test_what_is_under_way_stands_first_and_then_the_newest_proof() -> None:
    def proof(run_id: str, completed_at: str) -> Evidence:
        return replace(EVIDENCE, run_id=RunId(run_id), completed_at=completed_at)

    waiting = replace(WISH, run_id=RunId("w-1a2b3c4d"))
    wanted = Desired(wishes=(waiting,), names={})
    old, new = proof("old-1a2b3c4d", "2026-01-01T00:00:00Z"), proof("new-1a2b3c4d", "2026-02-01T00:00:00Z")
    found = rows(wanted, actual(old, new, RUNNING), (), {}, NOW)
    assert [each.run_id for each in found] == [ID, "w-1a2b3c4d", "new-1a2b3c4d", "old-1a2b3c4d"]


# ------------------------------------------------------------------------------------------------ why

ASKED = "runs.d/0001-a.yaml asks for pipeline 'p' of task 't'"
BEAT = "its last heartbeat is 3 s old; after 30 s of silence it counts as stale"


@pytest.mark.parametrize(
    ("wishes", "facts", "said"),
    [
        ([WISH], [], [ASKED, "nothing of it was ever claimed here",
                      "next: a pass launches it (run: reconciler reconcile)"]),
        (
            [replace(WISH, request=replace(REQUEST, suspend=Suspend(reason="budget")))],
            [],
            [ASKED, "nothing of it was ever claimed here", "next: suspended: budget"],
        ),
        ([WISH], [CLAIMED], [ASKED, "it is starting"]),
        ([WISH], [LATE], [ASKED, "it is stale: attempt 1 did not start within 30 s",
                             "next: a pass will resume it, because attempt 1 did not start within 30 s"]),
        (
            [WISH],
            [RUNNING],
            [ASKED, "it is running", f"stage 'lint' has been running since {AT} (try 2)", BEAT],
        ),
        (
            [],
            [RUNNING],
            ["no request at the tip asks for it (any more)", "it is running",
             f"stage 'lint' has been running since {AT} (try 2)", BEAT],
        ),
        (
            [],
            [GONE],
            ["no request at the tip asks for it (any more)",
             "it is stale: the worker of attempt 2 is gone: its lock is free",
             "next: a pass will cancel it, because its request was deleted"],
        ),
        (
            [WISH],
            [FAILED],
            [ASKED, "it is failed: stage 'lint' failed: exit code 1",
             "next: a pass commits its evidence (run: reconciler reconcile)"],
        ),
        ([WISH], [FAILED, EVIDENCE], [ASKED, "it is failed: stage 'lint' failed: exit code 1",
                                      "next: a pass will retire it"]),
        (
            [],
            [EVIDENCE],
            ["no request at the tip asks for it (any more)", f"it failed in attempt 2, ended {AT}",
             "next: nothing; it is proven, and only a new 'rerun' or another change of its request starts it again"],
        ),
    ],
)  # fmt: skip
def test_why_is_told_oldest_cause_first(wishes: list[Wish], facts: list[Run | Evidence], said: list[str]) -> None:
    wanted, there = desired(*wishes), actual(*facts)
    assert reasons(ID, wanted, there, decided(wanted, there), NOW) == said


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (Status.SUCCEEDED, f"it succeeded in attempt 2, ended {AT}"),
        (Status.FAILED, f"it failed in attempt 2, ended {AT}"),
        (Status.CANCELLED, f"it was cancelled in attempt 2, ended {AT}"),
    ],
)
def test_how_a_proven_run_ended(status: Status, sentence: str) -> None:
    assert sentence in reasons(ID, desired(), actual(replace(EVIDENCE, status=status)), (), NOW)


def test_a_run_that_is_proven_and_still_asked_for_has_a_request() -> None:
    wanted = Desired(wishes=(), names={Name("0001-a"): ID})
    assert reasons(ID, wanted, actual(EVIDENCE), (), NOW)[0] == "its request is at the tip"


def test_resumes_are_told_and_refusals_too() -> None:
    events = [
        {"attempt": 2, "reason": "the lock was free", "outcome": "accepted", "detail": ""},
        {"attempt": 2, "reason": "again", "outcome": "refused", "detail": "it is running"},
    ]
    said = reasons(ID, desired(WISH), actual(RUNNING), (), NOW, events)
    assert said[1:3] == ["attempt 2 began because the lock was free", "a resume was refused: it is running"]


def test_what_is_in_the_way_is_said_of_a_run_that_a_pass_has_to_do_with_and_of_no_other() -> None:
    wanted, there, way = desired(WISH), actual(FAILED), ["remote waits since 1: it does not answer"]
    assert reasons(ID, wanted, there, decided(wanted, there), NOW, hindrances=way)[-1:] == way
    assert way[0] not in reasons(ID, desired(), actual(EVIDENCE), (), NOW, hindrances=way)


def test_evidence_that_cannot_be_committed_says_what_is_in_the_way() -> None:
    wanted, there = desired(WISH), actual(FAILED)
    said = reasons(ID, wanted, there, decided(wanted, there), NOW, blocked="it would overwrite your work in a.md")
    assert said[-1] == "next: its evidence is committed; so far it could not be: it would overwrite your work in a.md"


def test_damage_is_told() -> None:
    said = reasons(ID, desired(WISH), actual(DAMAGED), (), NOW)
    assert said[-1] == ".runs/t/cli/x/claims/2.json: not JSON; it is kept"


OTHER = RunId("0002-b-1a2b3c4d")
NAMED: dict[str, Any] = {"run_id": ID, "task_id": TaskId("t")}


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        (Launch(plan=PLAN), "next: a pass launches it (run: reconciler reconcile)"),
        (Wait(subject=ID, reason="waits for a free slot (runs_max)"),
         "next: it waits, because it waits for a free slot (runs_max)"),
        (Wait(subject=ID, reason="suspended", settled=True), "next: suspended"),
        (Resume(**NAMED, after=1, reason="its lock is free"), "next: a pass will resume it, because its lock is free"),
        (Cancel(**NAMED, number=1, reason="too slow"), "next: a pass will cancel it, because too slow"),
        (Abandon(**NAMED, number=1, reason="all used"), "next: a pass will abandon it, because all used"),
        (Quarantine(**NAMED, names=("x",), reason="not JSON"), "next: a pass will quarantine it, because not JSON"),
        (Retire(**NAMED), "next: a pass will retire it"),
        (Forget(run_id=ID, reason="nothing is here"), "next: a pass will forget it, because nothing is here"),
        (Publish(runs=((TaskId("t"), ID),)), "next: a pass commits its evidence (run: reconciler reconcile)"),
    ],
)  # fmt: skip
def test_what_comes_next(action: Action, sentence: str) -> None:
    of_another = Wait(subject=OTHER, reason="suspended"), Publish(runs=((TaskId("t"), OTHER),))
    said = reasons(ID, desired(WISH), actual(), [*of_another, action], NOW)
    assert said[-1] == sentence
    assert reasons(OTHER, desired(), actual(), [action], NOW)[-1] != sentence
