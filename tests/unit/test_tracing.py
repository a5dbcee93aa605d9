"""A run as a trace: ids that follow from the run, spans that say what the manifest says, sums that only grow."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from reconciler.tracing import BOUNDS_S, SERIES_MAX, Sums, Told, added, span_id, told, trace_id, traceparent

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "schemas/manifest.schema.json").read_bytes())
MANIFEST: dict[str, Any] = SCHEMA["examples"][0]
SECOND_NS = 1_000_000_000


def command(stage_id: str = "build", status: str = "succeeded", **keys: Any) -> dict[str, Any]:
    return {**MANIFEST["commands"][0], "id": stage_id, "status": status, **keys}


def run(**keys: Any) -> dict[str, Any]:
    return {**MANIFEST, **keys}


def read(**keys: Any) -> Told:
    found = told(run(**keys))
    assert found is not None
    return found


def test_ids_are_those_that_the_documentation_says() -> None:
    assert trace_id("r-1a2b3c4d") == hashlib.sha256(b"trace\nr-1a2b3c4d").hexdigest()[:32]
    assert span_id("r-1a2b3c4d", 2, "build") == hashlib.sha256(b"span\nr-1a2b3c4d\n2\nbuild").hexdigest()[:16]
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-01", traceparent("r-1a2b3c4d", 1, "build"))


def test_no_two_things_have_one_id() -> None:
    ids = {
        span_id(run_id, attempt, stage) for run_id in ("a", "b") for attempt in (0, 1, 2) for stage in ("", "x", "y")
    }
    assert len(ids) == 18


def test_the_example_of_a_manifest_is_a_trace() -> None:
    found = read()
    run_id = MANIFEST["run_id"]
    root, attempt, *stages = found.spans
    assert (root.name, root.kind, root.parent_id) == (f"RUN {MANIFEST['pipeline_id']}", "server", "")
    assert {each.trace_id for each in found.spans} == {trace_id(run_id)}
    assert attempt.parent_id == root.span_id == span_id(run_id)
    assert [each.name for each in stages] == [each["id"] for each in MANIFEST["commands"]]
    assert all(each.parent_id == attempt.span_id for each in stages)
    assert all(each.start_ns <= each.end_ns for each in found.spans)
    assert told(run()) == found


def test_what_a_stage_was_told_is_the_id_of_its_span() -> None:
    found = read(commands=[command("build", attempt=2)])
    assert traceparent(MANIFEST["run_id"], 2, "build").split("-")[1:3] == [
        found.spans[-1].trace_id,
        found.spans[-1].span_id,
    ]


def test_an_attempt_that_resumes_is_linked_to_the_one_before() -> None:
    one = MANIFEST["attempts"][0]
    attempts = [
        {**one, "number": 1, "outcome": "interrupted", "detail": "it was killed"},
        {**one, "number": 2, "started_at": None, "outcome": "lost"},
        {**one, "number": 3},
    ]
    first, last = read(attempts=attempts).spans[1:3]
    assert (first.failed, first.links) == ("it was killed", ())
    assert (last.failed, last.links) == ("", (first.span_id,))


@pytest.mark.parametrize(
    ("keys", "result", "kind"),
    [
        ({"exit_code": 2}, "failure", "exit_code"),
        ({"exit_code": None, "signal": "SIGKILL"}, "failure", "SIGKILL"),
        ({"exit_code": None, "signal": "SIGTERM", "timed_out": True}, "timeout", "timeout"),
        ({"exit_code": None}, "failure", "failed"),
    ],
)
def test_how_a_stage_failed_is_told_in_words_of_the_conventions(keys: dict[str, Any], result: str, kind: str) -> None:
    found = read(
        status="failed", status_detail="build failed", commands=[command(status="failed", summary="no", **keys)]
    )
    root, stage = found.spans[0], found.spans[-1]
    assert (stage.failed, stage.attributes["cicd.pipeline.task.run.result"], stage.attributes["error.type"]) == (
        "no",
        result,
        kind,
    )
    assert (root.failed, root.attributes["cicd.pipeline.result"], found.result, found.errors) == (
        "build failed",
        result,
        result,
        (kind,),
    )


def test_a_stage_that_did_not_run_has_no_span() -> None:
    skipped = command("b", "skipped", tries=0, started_at=None)
    assert [each.name for each in read(commands=[command("a"), skipped]).spans][2:] == ["a"]


def test_a_cancelled_run_has_not_failed() -> None:
    found = read(status="cancelled")
    assert (found.result, found.spans[0].failed) == ("cancellation", "")


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        run(status="in_progress"),
        run(completed_at=None),
        run(commands=[{}]),
        run(attempts=None),
        run(started_at="x"),
    ],
)
def test_what_is_no_ended_run_is_not_told(document: Any) -> None:
    assert told(document) is None


def test_sums_only_grow_and_say_when_they_began() -> None:
    one = Told(pipeline_id="p", result="success", duration_s=4.0, errors=(), spans=())
    two = Told(pipeline_id="p", result="failure", duration_s=99999.0, errors=("timeout", "timeout"), spans=())
    once = added(Sums(since_ns=7), (one, two))
    twice = added(once, (one,))
    assert once.since_ns == twice.since_ns == 7
    success, failure = twice.durations
    assert (success.count, success.sum_s, success.buckets[1]) == (2, 8.0, 2)
    assert (failure.count, failure.buckets[-1], len(failure.buckets)) == (1, 1, len(BOUNDS_S) + 1)
    assert [(each.type, each.count) for each in twice.errors] == [("timeout", 2)]


def test_series_are_bounded() -> None:
    runs = tuple(
        Told(pipeline_id=f"p{each}", result="success", duration_s=1.0, errors=("x",), spans=()) for each in range(600)
    )
    found = added(Sums(), runs)
    assert len(found.durations) == len(found.errors) == SERIES_MAX
