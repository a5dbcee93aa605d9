"""What a control plane expects against what manifests say, of one run and summed up."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from reconciler import drift
from reconciler.contracts import Contracts

CONTRACTS = Contracts()
MANIFEST: dict[str, Any] = CONTRACTS.schema("manifest")["examples"][0]
CONTROL: dict[str, Any] = {
    "mode": "shadow", "outcome": "valid", "at": "2026-03-01T09:30:00.123Z", "request_id": MANIFEST["run_id"],
    "remote_id": "5f2c", "reason": "", "errors": [],
    "expected": {
        "task_id": MANIFEST["task_id"], "pipeline_id": MANIFEST["pipeline_id"], "commit": MANIFEST["commit"],
        "plan_digest": MANIFEST["plan_digest"], "redaction": "enforce", "attempts_max": None,
        "stages": {"build": "succeeded"},
    },
}  # fmt: skip
NOW = "2026-03-01T12:00:00.000Z"


def sampled(number: int = 0, outcome: str = "valid", **expected: Any) -> dict[str, Any]:
    found = copy.deepcopy({**MANIFEST, "control_plane": CONTROL, "run_id": f"0001-a-{number:08x}"})
    found["control_plane"]["outcome"] = outcome
    found["control_plane"]["at"] = f"2026-03-01T09:{number % 60:02d}:00Z"
    found["control_plane"]["expected"] |= expected
    return found


def aggregate(previous: Any, *added: dict[str, Any], replaced: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    found = drift.aggregate(previous, "t", added, replaced, NOW)
    assert CONTRACTS.check("drift", found) == ()
    return found


@pytest.mark.parametrize(
    ("expected", "item"),
    [
        ({}, None),
        ({"commit": "b" * 40}, {"path": "/commit", "expected": "b" * 40, "found": MANIFEST["commit"]}),
        ({"redaction": "off"}, {"path": "/redaction", "expected": "off", "found": "enforce"}),
        ({"task_id": None, "commit": None}, None),
        ({"attempts_max": 1}, None),
        ({"attempts_max": 0}, {"path": "/attempts_max", "expected": 0, "found": 1}),
        ({"stages": {"build": "failed"}}, {"path": "/stages/build", "expected": "failed", "found": "succeeded"}),
        ({"stages": {"a/b~c": "failed"}}, {"path": "/stages/a~1b~0c", "expected": "failed", "found": None}),
    ],
    ids=str,
)
def test_a_difference_is_told_by_its_place(expected: dict[str, Any], item: dict[str, Any] | None) -> None:
    assert list(drift.differences(sampled(**expected))) == ([item] if item else [])


def test_a_summary_says_nothing_where_nobody_was_asked() -> None:
    assert drift.section({**MANIFEST, "control_plane": None}) is None
    assert drift.section({key: value for key, value in MANIFEST.items() if key != "control_plane"}) is None


def test_a_summary_is_bounded() -> None:
    found = drift.section(sampled(stages={f"s{number}": "succeeded" for number in range(200)}))
    assert found is not None
    assert (found["drift"]["total"], len(found["drift"]["items"])) == (200, 20)


def test_a_run_without_an_expectation_has_not_drifted() -> None:
    document = sampled(outcome="unreachable")
    document["control_plane"]["expected"] = None
    assert list(drift.differences(document)) == []
    assert aggregate(None, document)["samples"] == {
        "total": 1,
        "valid": 0,
        "invalid": 0,
        "unreachable": 1,
        "drifted": 0,
    }


def test_a_run_that_waits_has_not_drifted_yet() -> None:
    document = {**sampled(stages={"build": "failed"}), "status": "waiting"}
    assert list(drift.differences(document)) == []


def test_sums_go_on_from_the_previous_ones_and_what_is_replaced_is_taken_away() -> None:
    wrong, right = sampled(1, commit="b" * 40), sampled(1)
    first = aggregate(None, wrong, sampled(2))
    assert (first["samples"]["drifted"], first["drift_rate"], first["paths"]) == (1, 0.5, {"/commit": 1})
    second = aggregate(first, right, replaced=(wrong,))
    assert (second["samples"]["total"], second["samples"]["drifted"], second["paths"]) == (2, 0, {})
    assert [each["run_id"] for each in second["newest"]] == ["0001-a-00000002", "0001-a-00000001"]


def test_very_many_runs_stay_bounded() -> None:
    found = None
    for number in range(90):
        found = aggregate(found, sampled(number, stages={f"s{number}": "succeeded", "always": "succeeded"}))
    assert found is not None
    assert (found["samples"]["total"], len(found["paths"]), len(found["newest"])) == (90, 50, 20)
    assert found["paths"]["/stages/always"] == 90, "the most frequent stay"


@pytest.mark.parametrize(
    "previous",
    [
        {}, {"samples": "many"}, {"samples": {"total": -1}}, {"paths": {"/x": "y"}}, {"paths": {"/x": -3}},
        {"newest": [{"run_id": 1}]}, {"newest": {}}, {"samples": {"total": 1, "surprise": 2}}, {"samples": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_file_is_begun_anew(previous: dict[str, Any]) -> None:
    assert aggregate(previous, sampled())["samples"]["total"] == 1
