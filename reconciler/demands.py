"""What the registry of tasks says about where runs are executed. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from reconciler.model import Execution, ExecutionMode, TaskDemand, TaskId

REGISTRY_PATH = "tasks/index.json"
REGISTRY_BYTES_MAX = 16 * 1024 * 1024


def demands(data: bytes | None) -> Mapping[TaskId, TaskDemand]:
    """Return the tasks that demand something, by id. What cannot be read demands nothing: `validate` says so, and one
    bad entry stops no other task."""
    try:
        listed = json.loads((data or b"")[:REGISTRY_BYTES_MAX])["items"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    items = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    found = {TaskId(str(each.get("id"))): _demand(each) for each in items}
    return {task: demand for task, demand in found.items() if demand != TaskDemand()}


def _demand(item: Mapping[str, Any]) -> TaskDemand:
    said = item.get("execution")
    execution = said if isinstance(said, dict) else {}
    modes = {each.value: each for each in ExecutionMode}
    mode = execution.get("mode")
    return TaskDemand(
        requires_cloud=item.get("requires_cloud") is True,
        execution=Execution(
            mode=modes.get(mode if isinstance(mode, str) else "", ExecutionMode.AUTO),
            parallel=execution.get("parallel") is True,
        ),
    )
