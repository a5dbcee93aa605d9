"""A run, written down: what is folded into it, what it says of itself, and what it never says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from reconciler import codec, roles
from reconciler.manifest import (
    Records,
    artifact_root,
    carried,
    command_text,
    error_document,
    error_name,
    fold,
    kept,
    log_name,
    manifest,
    manifest_path,
    run_summary,
    status_of,
    summary_path,
)
from reconciler.model import (
    Attempt,
    Claim,
    End,
    Host,
    Instant,
    Name,
    Outcome,
    Pipeline,
    PipelineId,
    Plan,
    Process,
    Refusal,
    Request,
    Role,
    Settings,
    Source,
    Stage,
    StageId,
    StageRecord,
    StageStatus,
    Status,
    TaskId,
)
from reconciler.resolve import Place, resolve

BOOT = "4c5c4b2e-boot"
PROCESS = Process(pid=4242, start_ticks=77, boot_id=BOOT)
HOST = Host(name="build-1", system="Linux 6.1", machine="x86_64", python="3.12.1", cpus=4)


def at(minute: int) -> str:
    return f"2026-03-01T12:{minute:02d}:00.000Z"


def instant(minute: int) -> Instant:
    return Instant(at=at(minute), monotonic_s=60.0 * minute, boot_id=BOOT)


def stage(id: str, **keys: Any) -> Stage:
    return Stage(id=StageId(id), **({"command": f"make {id}"} | keys))


def plan_of(*stages: Stage, commit: str = "c" * 40, target: str | None = None) -> Plan:
    request = Request(
        name=Name("0001-a"),
        source=Source(path="runs.d/0001-a.yaml", blob="b" * 40),
        task=TaskId("t"),
        pipeline=PipelineId("p"),
        target=StageId(target) if target else None,
    )
    pipeline = Pipeline(id=PipelineId("p"), source=Source(path="pipelines/p.yaml", blob="a" * 40), stages=stages)
    plan = resolve(request, {pipeline.id: pipeline}, Settings(), Place(commit=commit, branch="main"))
    assert isinstance(plan, Plan)
    return replace(plan, resume_token_sha256="e" * 64)


PLAN = plan_of(stage("build"), stage("lint"), stage("test", role=Role.TEST))


def record(id: str, status: str, attempt: int = 1, plan: Plan = PLAN, **keys: Any) -> StageRecord:
    digest = next((each.digest for each in plan.stages if each.id == id), "0" * 64)
    ran = {} if status in ("pending", "skipped") else {"tries": 1, "log_path": log_name(0, id, attempt)}
    made = StageRecord(id=StageId(id), digest=digest, status=StageStatus(status), attempt=attempt, **ran)
    return replace(made, **keys)


def attempt(number: int, *stages: StageRecord, outcome: str | None = None, **keys: Any) -> Attempt:
    return Attempt(
        number=number,
        worker=PROCESS,
        host=HOST,
        started=instant(number),
        stages=stages,
        outcome=Outcome(outcome) if outcome else None,
        **({"elapsed_s": 30.0, "ended_at": at(number + 10) if outcome else None} | keys),
    )


def claim(number: int, plan: Plan = PLAN, **keys: Any) -> Claim:
    return Claim(
        number=number,
        **(
            {
                "series": 1,
                "claimed": instant(number),
                "claimer": PROCESS,
                "reason": "launched" if number == 1 else f"attempt {number - 1} was lost",
                "actor": "reconciler",
                "plan": "plan.json",
                "plan_digest": plan.digest,
                "commit": plan.commit,
            }
            | keys
        ),
    )


def end(number: int, outcome: str, detail: str = "as noted") -> End:
    return End(number=number, at=at(30), outcome=Outcome(outcome), detail=detail)


def records(
    claims: Iterable[Claim] | int = 1,
    attempts: Iterable[Attempt] = (),
    ends: Iterable[End] = (),
    refusals: Iterable[Refusal] = (),
    plan: Plan = PLAN,
) -> Records:
    claims = [claim(number, plan) for number in range(1, claims + 1)] if isinstance(claims, int) else claims
    return Records(
        plan=plan,
        claims={each.number: each for each in claims},
        attempts={each.number: each for each in attempts},
        ends={each.number: each for each in ends},
        refusals=tuple(refusals),
    )


def written(found: Records) -> dict[str, Any]:
    return manifest(found, updated_at=at(59), heartbeat_at=at(58))


DONE = attempt(1, *(record(each.id, "succeeded") for each in PLAN.stages), outcome="succeeded")


# ------------------------------------------------------------------------------------------------ fold


@pytest.mark.parametrize(
    ("attempts", "known"),
    [
        ([], {}),
        ([{"build": "succeeded", "lint": "failed"}], {"build": "succeeded 1", "lint": "failed 1"}),
        (
            [{"build": "succeeded", "lint": "failed"}, {"build": "succeeded", "lint": "succeeded"}],
            {"build": "succeeded 1", "lint": "succeeded 2"},
        ),
        ([{"lint": "failed"}, {"lint": "interrupted"}], {"lint": "interrupted 2"}),
        ([{"lint": "succeeded"}, {"lint": "failed"}], {"lint": "succeeded 1"}),
        ([{"lint": "interrupted"}, {"lint": "pending"}], {"lint": "pending 2"}),
        ([{"zzz": "succeeded"}], {}),
    ],
)
def test_of_every_stage_the_newest_record_counts_and_a_success_for_ever(
    attempts: list[dict[str, str]], known: dict[str, str]
) -> None:
    made = [
        attempt(number, *(record(id, status, number) for id, status in stages.items()))
        for number, stages in enumerate(attempts, 1)
    ]
    assert {id: f"{each.status} {each.attempt}" for id, each in fold(PLAN, made).items()} == known
    assert set(kept(PLAN, made)) == {id for id, said in known.items() if said.startswith("succeeded")}


@pytest.mark.parametrize(
    ("stages", "still_known"),
    [
        ((stage("build"), stage("lint"), stage("test", role=Role.TEST)), ["build", "lint", "test"]),
        ((stage("build", title="x", timeout_s=1.0), stage("lint"), stage("test")), ["build", "lint", "test"]),
        ((stage("first"), stage("build", needs=()), stage("lint"), stage("test")), ["build", "lint", "test"]),
        ((stage("build"), stage("extra", needs=()), stage("lint", needs=("build",)), stage("test")),
         ["build", "lint", "test"]),
        ((stage("build"), stage("test")), ["build"]),
        ((stage("build"), stage("lint", command="ruff"), stage("test")), ["build"]),
        ((stage("build", command="make all"), stage("lint"), stage("test")), []),
        ((stage("lint"), stage("build"), stage("test")), []),
        ((stage("compile", command="make build"), stage("check", command="make lint")), []),
    ],
)  # fmt: skip
def test_a_success_is_known_by_id_and_digest_and_never_by_position(
    stages: tuple[Stage, ...], still_known: list[str]
) -> None:
    assert sorted(kept(plan_of(*stages), [DONE])) == still_known


def test_a_success_that_is_carried_on_is_unchanged_but_no_longer_a_process() -> None:
    made = record("build", "succeeded", process=PROCESS, summary="done")
    assert carried(made) == replace(made, process=None)


@pytest.mark.parametrize(
    ("keeps_from", "builds"),
    [((1, 1, 1), "succeeded 1"), ((1, 1, 2), "failed 2"), ((1, 1, 3), "pending None"), ((1, 3, 1), "pending None")],
)
def test_a_run_that_is_asked_for_afresh_keeps_no_earlier_success(keeps_from: tuple[int, ...], builds: str) -> None:
    claims = [claim(number, keeps_from=first) for number, first in enumerate(keeps_from, 1)]
    earlier = [attempt(1, record("build", "succeeded")), attempt(2, record("build", "failed", 2))]
    [build, *_] = written(records(claims, earlier))["commands"]
    assert f"{build['status']} {build['attempt']}" == builds


# ------------------------------------------------------------------------------------------------ status


@pytest.mark.parametrize(
    ("found", "status", "detail"),
    [
        (records(), Status.QUEUED, "claimed; its worker has not started yet"),
        (records(attempts=[attempt(1)]), Status.IN_PROGRESS, ""),
        (records(attempts=[DONE]), Status.SUCCEEDED, ""),
        (records(attempts=[attempt(1, outcome="failed", detail="stage 'lint' failed")]), Status.FAILED,
         "stage 'lint' failed"),
        (records(attempts=[attempt(1, outcome="cancelled", detail="cancelled: x")]), Status.CANCELLED, "cancelled: x"),
        (records(attempts=[attempt(1, outcome="interrupted")]), Status.IN_PROGRESS,
         "attempt 1 was interrupted; the next pass resumes it"),
        (records(ends=[end(1, "failed")]), Status.FAILED, "as noted"),
        (records(attempts=[attempt(1)], ends=[end(1, "cancelled")]), Status.CANCELLED, "as noted"),
        (records(ends=[end(1, "interrupted")]), Status.QUEUED, "claimed; its worker has not started yet"),
        (records(attempts=[DONE], ends=[end(1, "interrupted")]), Status.SUCCEEDED, ""),
        (records(2, attempts=[attempt(1, outcome="failed")]), Status.QUEUED, "claimed; its worker has not started yet"),
        (records(2, attempts=[DONE, attempt(2)]), Status.IN_PROGRESS, ""),
        (records(2, attempts=[attempt(1), replace(DONE, number=2)]), Status.SUCCEEDED, ""),
        (records(2, attempts=[attempt(1)], ends=[end(1, "failed"), end(2, "cancelled")]), Status.CANCELLED, "as noted"),
        (records([], attempts=[DONE]), Status.SUCCEEDED, ""),
        (records([claim(1)], attempts=[attempt(1), replace(DONE, number=2)]), Status.SUCCEEDED, ""),
    ],
)  # fmt: skip
def test_the_newest_attempt_gives_the_status(found: Records, status: Status, detail: str) -> None:
    assert status_of(found) == (status, detail)
    assert (written(found)["status"], written(found)["status_detail"]) == (status.value, detail)
    assert (written(found)["completed_at"] is not None) == status.ended


# ------------------------------------------------------------------------------------------------ attempts


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (records(), [(1, None, "")]),
        (records(attempts=[attempt(1)]), [(1, None, "")]),
        (records(attempts=[attempt(1, outcome="failed", detail="x")]), [(1, "failed", "x")]),
        (records(2, attempts=[attempt(1), attempt(2)]), [(1, "lost", "attempt 1 was lost"), (2, None, "")]),
        (records(2), [(1, "lost", "attempt 1 was lost"), (2, None, "")]),
        (records(2, attempts=[attempt(1, outcome="interrupted", detail="told to stop")]),
         [(1, "interrupted", "told to stop"), (2, None, "")]),
        (records(attempts=[attempt(1)], ends=[end(1, "failed", "no heartbeat")]), [(1, "lost", "no heartbeat")]),
        (records(attempts=[attempt(1)], ends=[end(1, "cancelled", "too slow")]), [(1, "cancelled", "too slow")]),
        (records(2, ends=[end(1, "interrupted", "no memory")]), [(1, "interrupted", "no memory"), (2, None, "")]),
        (records(attempts=[attempt(1, outcome="interrupted", detail="told to stop")], ends=[end(1, "failed")]),
         [(1, "interrupted", "told to stop")]),
        (records([claim(1)], attempts=[attempt(1), replace(DONE, number=2)]), [(1, "lost", ""), (2, "succeeded", "")]),
        (records([], attempts=[DONE]), [(1, "succeeded", "")]),
    ],
)  # fmt: skip
def test_an_attempt_that_never_said_how_it_ended_and_is_over_was_lost(
    found: Records, said: list[tuple[int, str | None, str]]
) -> None:
    shown = [(each["number"], each["outcome"], each["detail"]) for each in written(found)["attempts"]]
    assert shown == said


def test_an_attempt_whose_claim_was_damaged_is_still_shown() -> None:
    [shown] = written(records([], attempts=[DONE]))["attempts"]
    assert (shown["reason"], shown["actor"]) == ("its claim was damaged", "unknown")
    assert (shown["plan_digest"], shown["commit"]) == (PLAN.digest, PLAN.commit)


# ------------------------------------------------------------------------------------------------ resumes


def test_resumes_and_refusals_stand_in_the_order_in_which_they_happened() -> None:
    refusals = [
        Refusal(number=1, at=at(2), actor="bob", reason="try again", detail="it is running"),
        Refusal(number=2, at=at(40), actor="eve", reason="", detail="the token does not fit"),
    ]
    claims = [claim(1), claim(2, claimed=instant(5)), claim(3, claimed=instant(30), actor="ann", reason="flaky disk")]
    events = written(records(claims, refusals=refusals))["resume_events"]
    assert [(each["at"], each["attempt"], each["actor"], each["reason"], each["outcome"]) for each in events] == [
        (at(2), 3, "bob", "try again", "refused"),
        (at(5), 2, "reconciler", "attempt 1 was lost", "accepted"),
        (at(30), 3, "ann", "flaky disk", "accepted"),
        (at(40), 3, "eve", "", "refused"),
    ]
    assert [each["detail"] for each in events] == ["it is running", "", "", "the token does not fit"]


def test_a_run_that_was_launched_and_never_resumed_has_no_resumes() -> None:
    assert written(records(attempts=[DONE]))["resume_events"] == []


def test_every_plan_that_was_executed_is_named_once_with_the_attempt_that_began_it() -> None:
    other = plan_of(stage("build"), commit="d" * 40)
    claims = [claim(1), claim(2), claim(3, other), claim(4, other), claim(5)]
    assert written(records(claims))["plan_digests"] == [
        {"digest": PLAN.digest, "commit": "c" * 40, "attempt": 1},
        {"digest": other.digest, "commit": "d" * 40, "attempt": 3},
        {"digest": PLAN.digest, "commit": "c" * 40, "attempt": 5},
    ]


def test_the_same_plan_at_another_commit_is_named_again() -> None:
    claims = [claim(1), claim(2, commit="d" * 40)]
    assert [each["commit"] for each in written(records(claims))["plan_digests"]] == ["c" * 40, "d" * 40]


# ------------------------------------------------------------------------------------------------ stages


@pytest.mark.parametrize(
    ("found", "statuses"),
    [
        (records(), ["pending", "pending", "pending"]),
        (records(attempts=[attempt(1, record("build", "running"))]), ["running", "pending", "pending"]),
        (records(attempts=[attempt(1, record("build", "failed"), outcome="failed")]), ["failed", "skipped", "skipped"]),
        (records(ends=[end(1, "cancelled")]), ["skipped", "skipped", "skipped"]),
        (records(attempts=[DONE]), ["succeeded", "succeeded", "succeeded"]),
    ],
)
def test_a_stage_that_never_ran_is_never_a_success(found: Records, statuses: list[str]) -> None:
    assert [each["status"] for each in written(found)["commands"]] == statuses


def test_a_stage_the_target_does_not_need_is_skipped_from_the_start() -> None:
    plan = plan_of(stage("build"), stage("lint", needs=()), stage("test", needs=()), target="lint")
    document = written(records(plan=plan))
    shown = [(each["id"], each["selected"], each["status"]) for each in document["commands"]]
    assert shown == [("build", False, "skipped"), ("lint", True, "pending"), ("test", False, "skipped")]
    assert (document["plan_target_id"], document["summary"].split(";")[0]) == ("lint", "0 of 1 stages succeeded")


def test_a_kept_success_names_the_attempt_and_commit_it_was_made_in() -> None:
    claims = [claim(1), claim(2, commit="d" * 40)]
    first = attempt(1, record("build", "succeeded"), record("lint", "failed"))
    second = attempt(2, record("build", "succeeded"), record("lint", "succeeded", 2), outcome="succeeded")
    commands = written(records(claims, [first, second]))["commands"]
    assert [(each["id"], each["attempt"], each["commit"]) for each in commands] == [
        ("build", 1, "c" * 40),
        ("lint", 2, "d" * 40),
        ("test", None, None),
    ]


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("make build", "make build"),
        (("ruff", "check", "."), "ruff check ."),
        (("sh", "-c", "a", "b"), "sh -c a b"),
        ((), ""),
        ("x" * 2001, "x" * 1999 + "…"),
    ],
)
def test_a_command_is_shown_as_a_person_wrote_it(command: object, text: str) -> None:
    assert command_text(plan_of(stage("a", command=command)).stages[0]) == text


@pytest.mark.parametrize(
    ("statuses", "log"),
    [
        (("succeeded", "succeeded"), "lint"),
        (("succeeded", "failed"), "lint"),
        (("failed", "succeeded"), "build"),
        (("failed", "failed"), "build"),
        (("pending", "pending"), None),
        (("running", "pending"), "build"),
    ],
)
def test_the_log_worth_reading_first(statuses: tuple[str, str], log: str | None) -> None:
    ran = attempt(1, *(record(id, status) for id, status in zip(("build", "lint"), statuses, strict=True)))
    path = written(records(attempts=[ran]))["log_path"]
    assert path == (log and f"{artifact_root('t', PLAN.run_id)}/commands/01-{log}.log")


@pytest.mark.parametrize(
    ("found", "summary"),
    [
        (records(attempts=[DONE]), "3 of 3 stages succeeded"),
        (records(attempts=[attempt(1, record("build", "succeeded"), outcome="failed", detail="stage 'lint' failed")]),
         "1 of 3 stages succeeded; stage 'lint' failed"),
        (records(ends=[end(1, "cancelled", "x" * 600)]), ("0 of 3 stages succeeded; " + "x" * 600)[:499] + "…"),
    ],
)  # fmt: skip
def test_the_summary_says_how_far_it_came_and_why_no_further(found: Records, summary: str) -> None:
    assert written(found)["summary"] == summary


def test_what_it_cost_is_summed_up_over_attempts_and_stages() -> None:
    first = attempt(1, record("build", "succeeded", cpu_user_s=1.5, memory_peak_bytes=10), elapsed_s=2.25)
    second = attempt(2, record("lint", "succeeded", 2, cpu_user_s=0.25, cpu_system_s=0.5, memory_peak_bytes=30))
    document = written(records(2, [first, second]))
    assert document["resources"] == {
        "duration_s": 32.25,
        "cpu_user_s": 1.75,
        "cpu_system_s": 0.5,
        "memory_peak_bytes": 30,
    }


def test_the_machine_is_the_one_of_the_newest_attempt() -> None:
    assert written(records())["host"] is None
    second = replace(attempt(2), host=replace(HOST, name="build-2"))
    assert written(records(2, [attempt(1), second]))["host"] == codec.dump(second.host)


def test_redactions_are_counted_by_rule() -> None:
    first = record("build", "succeeded", redactions=2, redactions_by_rule={"secret": 1, "acme": 1})
    ran = attempt(1, first, record("lint", "failed", redactions=3, redactions_by_rule={"acme": 3}))
    assert written(records(attempts=[ran]))["privacy"] == {
        "mode": "enforce",
        "redactions": 5,
        "redactions_by_rule": {"acme": 4, "secret": 1},
    }


@pytest.mark.parametrize(
    ("found", "started_at", "completed_at"),
    [
        (records(), None, None),
        (records(attempts=[DONE]), at(1), at(11)),
        (records(2, [attempt(1, outcome="failed"), replace(DONE, number=2, ended_at=at(20))]), at(1), at(20)),
        (records(ends=[end(1, "cancelled")]), None, at(30)),
        (records(attempts=[attempt(1)], ends=[end(1, "failed")]), at(1), at(30)),
    ],
)
def test_a_run_lasts_from_its_first_start_to_its_last_end(
    found: Records, started_at: str | None, completed_at: str | None
) -> None:
    assert (written(found)["started_at"], written(found)["completed_at"]) == (started_at, completed_at)


# ------------------------------------------------------------------------------------------------ bounds, privacy

MANY = plan_of(*(stage(f"stage-{number:03d}", command="x" * 65536, title="t" * 200) for number in range(200)))


def test_its_size_is_bounded_by_the_number_of_stages_and_not_by_what_they_print() -> None:
    loud = [
        record(each.id, "failed", plan=MANY, summary="s" * 200, log_bytes=2**50, log_sha256="f" * 64)
        for each in MANY.stages
    ]
    document = written(records(attempts=[attempt(1, *loud, outcome="failed", detail="d" * 10_000)], plan=MANY))
    assert len(document["commands"]) == 200
    assert len(codec.render(document)) < 200 * 4000 + 4000
    assert len(document["status_detail"]) == 500 and len(document["summary"]) == 500


def test_reasons_are_bounded() -> None:
    claims = [claim(1, reason="r" * 10_000), claim(2, reason="r" * 10_000)]
    refusal = Refusal(number=1, at=at(3), actor="bob", reason="r" * 10_000, detail="d" * 10_000)
    document = written(records(claims, refusals=[refusal]))
    said = [each[key] for each in document["resume_events"] for key in ("reason", "detail")]
    said += [each[key] for each in document["attempts"] for key in ("reason", "detail")]
    assert max(map(len, said)) == 500


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def test_it_names_no_absolute_path_and_no_process_of_this_machine() -> None:
    ran = attempt(1, *(record(each.id, "failed", process=PROCESS) for each in PLAN.stages), outcome="failed")
    document = written(records(attempts=[ran]))
    assert [each for each in _texts(document) if each.startswith("/")] == []
    text = json.dumps(document)
    assert not re.search(r"\b4242\b", text) and BOOT not in text


# ------------------------------------------------------------------------------------------------ names, summaries


def test_where_things_are() -> None:
    assert artifact_root("t", "a-1") == ".runs/t/cli/a-1"
    assert manifest_path("t", "a-1") == ".runs/t/cli/a-1/manifest.json"
    assert summary_path("t", "a-1") == ".runs/t/a-1/manifest.json"
    assert error_name(0, "build") == "errors/01-build.json"


@pytest.mark.parametrize(
    ("index", "attempt", "name"),
    [
        (0, 1, "commands/01-build.log"),
        (98, 1, "commands/99-build.log"),
        (199, 1, "commands/200-build.log"),
        (0, 2, "commands/01-build.2.log"),
    ],
)
def test_every_attempt_has_logs_of_its_own(index: int, attempt: int, name: str) -> None:
    assert log_name(index, "build", attempt) == name


@pytest.mark.parametrize(
    ("lint", "test", "said"),
    [
        ("succeeded", "succeeded", "passed"),
        ("failed", "succeeded", "passed"),
        ("succeeded", "failed", "failed"),
        ("failed", "skipped", "failed"),
    ],
)
def test_the_summary_of_a_run_says_whether_its_tests_passed(lint: str, test: str, said: str) -> None:
    ran = attempt(1, record("build", "succeeded"), record("lint", lint), record("test", test), outcome="succeeded")
    judged = roles.judge(PLAN, {each.id: each for each in ran.stages})
    found = records(attempts=[replace(ran, judgement=judged)])
    summary: Any = run_summary(written(found), "f" * 64, found)
    reasons = ["test stage 'test' did not pass"] if said == "failed" else []
    stages = [{"id": "test", "status": test}]
    assert summary["test"] == {"status": said, "by": "built-in", "reasons": reasons, "stages": stages}
    assert [each["id"] for each in summary["build"]["stages"]] == ["build", "lint", "test"]
    assert summary["plan"] == {
        "digest": PLAN.digest,
        "target": None,
        "stages": ["build", "lint", "test"],
        "by": "built-in",
        "items": [{"id": each, "mode": "mcp", "selected": True} for each in ("build", "lint", "test")],
    }
    assert (summary["manifest_path"], summary["manifest_sha256"]) == (manifest_path("t", PLAN.run_id), "f" * 64)
    assert (summary["attempts"], summary["duration_s"], summary["completed_at"]) == (1, 30.0, at(11))


def test_a_run_without_test_stages_has_no_test_result() -> None:
    plan = plan_of(stage("build"), stage("test", role=Role.TEST), target="build")
    ran = attempt(1, record("build", "succeeded", plan=plan), outcome="succeeded")
    found = records(attempts=[ran], plan=plan)
    summary: Any = run_summary(written(found), "f" * 64, found)
    assert summary["test"] == {"status": "none", "by": "built-in", "reasons": [], "stages": []}


def test_the_file_of_a_failed_stage_holds_the_reason_and_the_end_of_its_output() -> None:
    ran = attempt(1, record("build", "failed", exit_code=2, summary="no rule"), outcome="failed")
    [command, *_] = written(records(attempts=[ran]))["commands"]
    assert command["error_file"] == f"{artifact_root('t', PLAN.run_id)}/errors/01-build.json"
    assert error_document(command, "make: *** no rule\n") == {
        "schema_version": 1,
        "id": "build",
        "command": "make build",
        "exit_code": 2,
        "signal": None,
        "timed_out": False,
        "tries": 1,
        "summary": "no rule",
        "log_path": command["log_path"],
        "tail": "make: *** no rule\n",
    }
