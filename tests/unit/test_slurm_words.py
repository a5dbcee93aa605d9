"""What is said to Slurm and what its answers mean."""

from __future__ import annotations

import json
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.executors import slurm_words as words
from reconciler.executors.engine import Standing, Submission
from reconciler.places import Cause, Resources
from reconciler.work import handle_of

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas" / "executors" / "slurm.schema.json").read_bytes())
REPOSITORY = "0a1b2c3d"


def submission(name: str = "nightly", **given: Any) -> Submission:
    run_id = f"{name}-1a2b3c4d"
    return Submission(**{
        "handle": handle_of(REPOSITORY, run_id, 1), "repository": REPOSITORY, "run_id": run_id, "task_id": "0001-demo",
        "number": 1, "arguments": ("--url", "https://git.example.org/a", "--ref", "refs/x"),
        "secrets": {"RECONCILER_WORK_KEY": "k"}, **given,
    })  # fmt: skip


HANDLE = submission().handle


def line(state: str, reason: str = "None", *, id: str = "7", name: str = HANDLE, status: str = "0", restarts: str = "0",
         begins: str = "2026-07-29T09:30:05", nodes: str = "n1") -> str:  # fmt: skip
    return "|".join((id, name, state, status, restarts, begins, nodes, reason, ""))


def seen(state: str, reason: str = "None", **given: str) -> words.Seen:
    [found] = words.listed(line(state, reason, **given))
    return found


# ------------------------------------------------------------------------------------------------ options


def test_options_are_those_of_the_schema() -> None:
    assert {each.name for each in fields(words.Options)} == SCHEMA["properties"].keys()
    defaults = {key: each["default"] for key, each in SCHEMA["properties"].items() if "default" in each}
    assert words.options_of(defaults) == words.options_of({}) == words.Options()


def test_the_schema_explains_itself_and_its_examples_hold() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    check = jsonschema.Draft202012Validator(SCHEMA)
    for key, each in SCHEMA["properties"].items():
        assert each["title"] and each["description"].endswith(".") and each["examples"]
        for example in each["examples"]:
            check.validate({key: example})


@pytest.mark.parametrize(
    "bad",
    [
        {"program": []},
        {"program": "python3"},
        {"partition": "-x"},
        {"partition": "a b"},
        {"output": "shared"},
        {"output": "/a b"},
        {"output": "/out/%u"},
        {"scratch": "/"},
        {"environment": {"A-B": "1"}},
        {"environment": {"A": 1}},
        {"environment": {"A": "a\r\n"}},
        {"constraint": "a;b"},
        {"requeue": "yes"},
        {"walltime": "1h"},
    ],
    ids=str,
)
def test_what_is_no_option_is_refused(bad: dict[str, Any]) -> None:
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(bad)


# ------------------------------------------------------------------------------------------------ submitting


def test_resources_become_options_and_defaults_stand_in() -> None:
    options = words.options_of({"partition": "short", "account": "ci", "constraint": "ssd&avx"})
    asked = Resources(cpus=4, memory_bytes=1500, gpus=2, time_s=61.0, partition="long", qos="high", reservation="r")
    said = words.words_of(options, [submission(resources=asked)])
    for each in ("--cpus-per-task=4", "--mem=2K", "--gpus=2", "--time=2", "--partition=long", "--account=ci",
                 "--qos=high", "--reservation=r", "--constraint=ssd&avx", f"--job-name={HANDLE}",
                 "--dependency=singleton", "--no-requeue", "--export=NONE", "--output=/dev/null"):  # fmt: skip
        assert each in said
    assert all(each.startswith("--") for each in said)
    plain = words.words_of(words.options_of({"requeue": True, "output": "/out"}), [submission()])
    assert "--requeue" in plain and f"--output=/out/{HANDLE}.log" in plain
    assert not [each for each in plain if each.startswith(("--mem", "--time", "--gpus", "--partition", "--cpus"))]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"resources": Resources(partition="-x")}, "partition '-x'"),
        ({"resources": Resources(qos="a b")}, "qos 'a b'"),
        ({"arguments": ("a\0b",)}, "NUL"),
        ({"secrets": {"KEY": "a\r\nb"}}, "line end of DOS"),
        ({"secrets": {"A=B": "x"}}, "environment variable"),
    ],
)
def test_what_cannot_be_told_to_slurm_is_refused_before(asked: dict[str, Any], said: str) -> None:
    assert said in words.problem_of(submission(**asked))
    assert words.problem_of(submission()) == ""


def test_those_with_the_same_resources_are_one_array_of_bounded_size() -> None:
    small = [submission(f"a{index}") for index in range(words.ARRAY_MAX + 1)]
    large = [submission(f"b{index}", resources=Resources(cpus=2)) for index in range(2)]
    groups = words.grouped(words.Options(), [*small, *large])
    assert [len(each) for each in groups] == [words.ARRAY_MAX, 1, 2]
    assert f"--array=0-{words.ARRAY_MAX - 1}" in words.words_of(words.Options(), groups[0])
    assert not [each for each in words.words_of(words.Options(), groups[1]) if each.startswith("--array")]
    assert [len(each) for each in words.grouped(words.Options(arrays=False), large)] == [1, 1]
    heavy = [submission(f"c{index}", secrets={"K": "x" * 400_000}) for index in range(4)]
    assert [len(each) for each in words.grouped(words.Options(), heavy)] == [2, 2]


AWKWARD = st.text(st.characters(exclude_characters="\0\r", exclude_categories=("Cs",)), max_size=40)


@given(AWKWARD, AWKWARD)
def test_secrets_are_read_again_from_the_script_of_a_batch(first: str, second: str) -> None:
    group = [submission("a", secrets={"KEY": first, "B": "2"}), submission("b", secrets={"KEY": second})]
    text = words.script_of(words.options_of({"environment": {"KEY": "public"}}), group)
    told = f"scontrol: write batch_script 7 -\n{text}scontrol: \n"
    assert list(words.batches(told)) == [
        (0, group[0].handle, {"B": "2", "KEY": first}),
        (1, group[1].handle, {"KEY": second}),
    ]


def test_a_script_becomes_the_program_with_what_it_was_given_and_nothing_else() -> None:
    awkward = 'it\'s "a" $HOME `id` \\ \n#SBATCH --partition=x\n*'
    options = words.options_of({
        "program": ["/usr/bin/env"], "scratch": "/scratch", "environment": {"SHOWN": awkward}, })  # fmt: skip
    group = [submission("a", arguments=("printf", "%s|", "first")), submission("b", secrets={"KEY": awkward},
             arguments=("sh", "-c", 'printf "%s|" "$KEY" "$SHOWN" "$@"', "sh", awkward, "-"))]  # fmt: skip
    text = words.script_of(options, group)
    assert [each for each in text.splitlines()[:2] if each.startswith("#")] == ["#!/bin/sh"]
    printed = [
        subprocess.run(["/bin/sh"], input=text, capture_output=True, text=True, timeout=20, check=True,
                       env={"PATH": "/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": str(index)}).stdout
        for index in (0, 1)
    ]  # fmt: skip
    assert printed[0] == "first|--scratch|/scratch|"
    assert printed[1].split("|") == [awkward, awkward, awkward, "-", "--scratch", "/scratch", ""]


@pytest.mark.parametrize(
    ("complaint", "settled"),
    [
        ("sbatch: error: invalid partition specified: nope\n", True),
        ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified", True),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", True),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available", True),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)", True),
        ("sbatch: error: Batch job submission failed: User's group not permitted to use this partition", True),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
         "accounting/QOS policy (job submit limit, user's size and/or time limits)", False),
        ("sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)", False),
        ("sbatch: error: Batch job submission failed: Required node not available (down, drained or reserved)", False),
        ("sbatch: error: Batch job submission failed: Slurm temporarily unable to accept job", False),
        ("", False),
    ],
)  # fmt: skip
def test_a_refusal_is_settled_if_only_a_person_can_change_it(complaint: str, settled: bool) -> None:
    refusal = words.refused(complaint)
    assert refusal is not None and refusal.settled == settled
    assert "\n" not in refusal.reason and "error:" not in refusal.reason


@pytest.mark.parametrize(
    "complaint",
    [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
        "sbatch: error: Batch job submission failed: Protocol authentication error",
        "sbatch: error: Batch job submission failed: Invalid authentication credential",
        "sbatch: error: If munged is up, restart with --num-threads=10\nsbatch: error: Munge encode failed: no socket",
        "sbatch: fatal: Could not establish a configuration source",
    ],
)
def test_without_anybody_who_could_refuse_there_is_no_refusal(complaint: str) -> None:
    assert words.refused(complaint) is None


# ------------------------------------------------------------------------------------------------ looking


@pytest.mark.parametrize(
    ("state", "reason", "status", "cause"),
    [
        ("COMPLETED", "None", "0", None),
        ("FAILED", "NonZeroExitCode", "256", None),
        ("FAILED", "JobLaunchFailure", "9", None),
        ("FAILED", "JobLaunchFailure", "0", Cause.NODE_FAILED),
        ("TIMEOUT", "TimeLimit", "15", Cause.TIME_LIMIT),
        ("DEADLINE", "DeadLine", "0", Cause.TIME_LIMIT),
        ("OUT_OF_MEMORY", "OutOfMemory", "0:125", Cause.OUT_OF_MEMORY),
        ("NODE_FAIL", "NodeDown", "0", Cause.NODE_FAILED),
        ("BOOT_FAIL", "None", "0", Cause.NODE_FAILED),
        ("PREEMPTED", "None", "0", Cause.PREEMPTED),
        ("CANCELLED", "None", "15", Cause.ENGINE_CANCELLED),
        ("REVOKED", "None", "0", Cause.ENGINE_CANCELLED),
    ],
)
def test_each_end_has_its_cause(state: str, reason: str, status: str, cause: Cause | None) -> None:
    found = words.sighting(seen(state, reason, status=status))
    assert (found.standing, found.cause, found.place) == (Standing.ENDED, cause, "n1")
    assert state in found.detail


def test_what_was_started_again_says_so() -> None:
    assert words.sighting(seen("COMPLETED", restarts="2")).cause == Cause.REQUEUED
    assert words.sighting(seen("PREEMPTED", restarts="1")).cause == Cause.PREEMPTED
    assert "requeued 2 times" in words.sighting(seen("PENDING", restarts="2")).detail


@pytest.mark.parametrize(
    ("state", "standing"),
    [
        ("PENDING", Standing.QUEUED),
        ("CONFIGURING", Standing.QUEUED),
        ("REQUEUE_HOLD", Standing.QUEUED),
        ("SPECIAL_EXIT", Standing.QUEUED),
        ("RUNNING", Standing.RUNNING),
        ("COMPLETING", Standing.RUNNING),
        ("SUSPENDED", Standing.RUNNING),
        ("STAGE_OUT", Standing.RUNNING),
        ("WHATEVER_COMES", Standing.RUNNING),
    ],
)
def test_what_has_not_ended_may_go_on(state: str, standing: Standing) -> None:
    assert words.sighting(seen(state)).standing == standing


def test_a_reason_is_told_with_what_it_means() -> None:
    said = {reason: words.sighting(seen("PENDING", reason)).detail for reason in
            ("Resources", "QOSMaxJobsPerUserLimit", "ReqNodeNotAvail, UnavailableNodes:n1", "None")}  # fmt: skip
    assert said["Resources"] == "Slurm: PENDING (Resources: the nodes it needs are busy), job 7"
    assert said["QOSMaxJobsPerUserLimit"] == "Slurm: PENDING (QOSMaxJobsPerUserLimit), job 7"
    assert "down, drained or reserved" in said["ReqNodeNotAvail, UnavailableNodes:n1"]
    assert said["None"] == "Slurm: PENDING, job 7"
    assert words.sighting(None).standing == Standing.ABSENT
    assert "exit code 3" in words.sighting(seen("FAILED", status="768")).detail
    assert "exit code 3" in words.sighting(seen("FAILED", status="3:0")).detail
    assert "signal 9" in words.sighting(seen("FAILED", status="0:9")).detail


def test_lines_of_others_are_none_of_ours() -> None:
    text = "\n".join((
        line("RUNNING", name="somebody's | work"), line("RUNNING", name="x"), "", "squeue: nonsense",
        line("RUNNING", id="x"), line("RUNNING"), line("PENDING", id="9_3", name=words.ARRAY), line("RUNNING")[:20],
    ))  # fmt: skip
    assert [(each.id, each.handle) for each in words.listed(text)] == [("7", HANDLE), ("9_3", "")]


def test_memory_is_told_by_the_output_where_slurm_does_not_know() -> None:
    killed = seen("FAILED", "JobLaunchFailure", status="9")
    assert words.may_be_of_memory(killed)
    assert not words.may_be_of_memory(seen("FAILED", "NonZeroExitCode", status="256"))
    found = words.sighting(killed)
    said = b"slurmstepd-n1: error: Exceeded job memory limit\n"
    assert words.out_of_memory(found, b"x\n" + said).cause == Cause.OUT_OF_MEMORY
    assert words.out_of_memory(found, b"slurmstepd: error: Detected 1 oom-kill event(s)").cause == Cause.OUT_OF_MEMORY
    assert words.out_of_memory(found, b"Exceeded job memory limit").cause is None


# ------------------------------------------------------------------------------------------------ settling


def waiting(id: str, name: str = HANDLE) -> words.Seen:
    return seen("PENDING", id=id, name=name, begins=words.BEGIN)


def test_of_one_name_the_first_begins_and_the_others_are_cancelled() -> None:
    assert words.settle([waiting("12"), waiting("9"), waiting("10_4")], {}) == words.Settling(
        begun=("9",), cancelled=("12", "10_4")
    )
    assert words.settle([seen("RUNNING", id="9"), waiting("12")], {}).cancelled == ("12",)
    assert words.settle([seen("COMPLETED", id="9"), waiting("12")], {}).cancelled == ("12",)
    assert (
        words.settle([seen("RUNNING", id="9"), seen("PENDING", "Resources", id="10", name="a-0a1b2c3d00000000-1")], {})
        == words.Settling()
    )


def test_tasks_of_an_array_begin_under_their_own_name() -> None:
    tasks = [waiting("9_0", words.ARRAY), waiting("9_1", words.ARRAY), waiting("9_2", words.ARRAY)]
    assert words.unnamed(tasks) == {"9": "9_2"}
    names = {"9_0": HANDLE, "9_1": submission("b").handle}
    settling = words.settle(words.with_names([*tasks, seen("RUNNING", id="8")], names), names)
    assert settling == words.Settling(named=(("9_1", submission("b").handle),), cancelled=("9_0",))
    assert words.lines_of(words.Options(output="/out"), settling) == [
        f"update JobId=9_1 JobName={submission('b').handle} StdOut=/out/{submission('b').handle}.log StartTime=now"
    ]
    assert words.lines_of(words.Options(), words.Settling(begun=("3", "4"))) == ["update JobId=3,4 StartTime=now"]


IDS = st.one_of(
    st.integers(1, 30).map(str), st.tuples(st.integers(1, 30), st.integers(0, 3)).map(lambda x: f"{x[0]}_{x[1]}")
)
LISTED = st.lists(st.tuples(IDS, st.sampled_from(["a", "b"]), st.sampled_from(["PENDING", "RUNNING", "COMPLETED"]), st.booleans()),
                  unique_by=lambda each: each[0], max_size=12)  # fmt: skip


@given(LISTED)
def test_whoever_looks_comes_to_the_same_and_never_two_go_on(listed: list[tuple[str, str, str, bool]]) -> None:
    found = [
        seen(state, id=id, name=submission(name).handle, begins=words.BEGIN if held else "2026-01-01T00:00:00")
        for id, name, state, held in listed
    ]
    settling, again = words.settle(found, {}), words.settle(found[::-1], {})
    assert set(settling.begun) == set(again.begun) and set(settling.cancelled) == set(again.cancelled)
    for name in ("a", "b"):
        live = [each for each in found if each.handle == submission(name).handle and not each.has_ended]
        assert len([each for each in live if each.id not in settling.cancelled]) <= 1
        assert not set(settling.begun) & set(settling.cancelled)
