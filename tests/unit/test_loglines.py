"""What is said about a run, as log records that stand in its trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reconciler.loglines import LogRecord, log_records
from reconciler.tracing import TEXT_MAX, span_id, told, trace_id

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "schemas/manifest.schema.json").read_bytes())
MANIFEST: dict[str, Any] = SCHEMA["examples"][0]
RUN_ID = MANIFEST["run_id"]
DECISION = SCHEMA["properties"]["approvals"]["examples"][1][0]


def records(**keys: Any) -> tuple[LogRecord, ...]:
    return log_records({**MANIFEST, **keys})


def stage(**keys: Any) -> dict[str, Any]:
    return {**MANIFEST["commands"][0], **keys}


def test_each_stands_in_a_span_that_is_told() -> None:
    attempts = [
        {**MANIFEST["attempts"][0], "outcome": "interrupted", "detail": "it was killed"},
        {**MANIFEST["attempts"][0], "number": 2, "reason": "the worker went silent"},
    ]
    found = records(attempts=attempts, approvals=[DECISION], commands=[stage(attempt=2)])
    trace = told({**MANIFEST, "attempts": attempts, "commands": [stage(attempt=2)]})
    assert trace is not None
    assert {each.span_id for each in found} <= {each.span_id for each in trace.spans}
    assert {each.trace_id for each in found} == {trace_id(RUN_ID)}
    assert [each.at_ns for each in found] == sorted(each.at_ns for each in found)
    said = {each.name: each.body for each in found}
    assert said == {
        "reconciler.run.resumed": "attempt 2: the worker went silent, asked for by reconciler",
        "reconciler.attempt.ended": "attempt 1 was interrupted: it was killed",
        "reconciler.stage.completed": "build succeeded: built demo-1.0-py3-none-any.whl",
        "reconciler.approval.decided": "ship was approved by Ada Lovelace <ada@example.com>: Changelog checked",
        "reconciler.run.completed": f"run {RUN_ID} succeeded: 1 of 1 stages succeeded",
    }


@pytest.mark.parametrize(
    ("keys", "severity"),
    [
        ({}, "INFO"),
        ({"status": "failed"}, "ERROR"),
        ({"status": "failed", "allow_failure": True}, "WARN"),
        ({"status": "cancelled"}, "WARN"),
    ],
)
def test_what_failed_is_an_error_unless_it_may_fail(keys: dict[str, Any], severity: str) -> None:
    (found,) = (each for each in records(commands=[stage(**keys)]) if each.name == "reconciler.stage.completed")
    assert found.severity == severity
    assert found.span_id == span_id(RUN_ID, 1, "build")


def test_the_same_happening_has_the_same_uid_and_no_two_have_one() -> None:
    commands = [stage(), stage(id="test")]
    first, again = (records(commands=commands, approvals=[DECISION]) for _ in range(2))
    assert first == again
    assert len({each.attributes["log.record.uid"] for each in first}) == len(first) == 4


def test_a_text_is_bounded() -> None:
    assert max(len(each.body) for each in records(commands=[stage(summary="x" * 9999)])) == TEXT_MAX


@pytest.mark.parametrize("document", [None, [], {}, {**MANIFEST, "completed_at": None}, {**MANIFEST, "commands": 1}])
def test_of_a_run_that_has_not_ended_or_is_damaged_nothing_is_said(document: Any) -> None:
    assert log_records(document) == ()
