"""What the registry of tasks says about where runs are executed: read as it is meant, never guessed at."""

from __future__ import annotations

import json

import pytest

from reconciler.demands import demands
from reconciler.model import Execution, ExecutionMode, TaskDemand


def test_only_tasks_that_demand_something_are_told() -> None:
    items = [
        {"id": "a", "title": "A"},
        {"id": "b", "title": "B", "requires_cloud": True},
        {"id": "c", "title": "C", "execution": {"mode": "cloud", "parallel": True}},
        {"id": "d", "title": "D", "requires_cloud": False, "execution": {"mode": "auto"}},
    ]
    assert demands(json.dumps({"items": items}).encode()) == {
        "b": TaskDemand(requires_cloud=True),
        "c": TaskDemand(execution=Execution(mode=ExecutionMode.CLOUD, parallel=True)),
    }


@pytest.mark.parametrize(
    "data",
    [None, b"", b"{", b"[]", b"7", b'{"items": 7}', b'{"items": [1, null, "x"]}', b'{"items": [{"id": "a"}]}', b"\xff", b'{"items": [{"id": "a", "execution": 7, "requires_cloud": "yes"}]}', b"[" * 100000, b'{"items": [{"id": "a", "execution": {"mode": ["cloud"], "parallel": 1}}]}'],
)  # fmt: skip
def test_what_cannot_be_read_demands_nothing(data: bytes | None) -> None:
    assert demands(data) == {}


def test_one_bad_entry_stops_no_other_task() -> None:
    data = b'{"items": [{"id": 7, "execution": []}, {"id": "b", "requires_cloud": true}]}'
    assert demands(data)["b"] == TaskDemand(requires_cloud=True)  # type: ignore[index]
