"""What a manifest of the Node orchestrator comes to here: an imported record, which is no evidence.

Pure. An imported record says what the old manifest said, below `said`, and which bytes it was made from. It has no
`status` of its own, lies where no evidence lies, and names no run of ours: nothing takes it for evidence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler import codec, parse
from reconciler.redact import redact_text
from reconciler.values import frozen
from reconciler.yaml_events import shown

MANIFEST = re.compile(r"\.runs/(?P<task>[^/]+)/(?:cli/|mcp/)?(?P<run>[^/]+)/manifest\.json")
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
STATUSES = ("queued", "in_progress", "succeeded", "failed", "cancelled")
STAGE_STATUSES = ("pending", "running", "succeeded", "failed", "skipped")
COMMANDS_MAX = 1000
TEXT_MAX = 2000
SCHEMA_VERSION = 1

_SAID = ("pipeline_id", "pipeline_title", "status_detail", "started_at", "completed_at", "summary", "approval_policy")
_COMMAND = ("title", "command", "kind", "started_at", "completed_at", "summary")
_CARRIED = {"version", "task_id", "run_id", "parent_run_id", "status", "commands", *_SAID}


@frozen
class Source:
    """The manifest that a record is made from: where it lay, and its bytes."""

    path: str
    sha256: str
    bytes: int


@frozen
class Imported:
    """An old manifest as it is kept here, and where."""

    path: str
    data: bytes
    task: str


def is_old(document: object) -> bool:
    """Return whether a JSON value is a manifest of the Node orchestrator, and none of ours or a summary."""
    return (
        isinstance(document, dict)
        and isinstance(document.get("version"), int)
        and "schema_version" not in document
        and isinstance(document.get("run_id"), str)
        and isinstance(document.get("commands"), list)
    )


def record_of(document: Mapping[str, Any], source: Source) -> Imported | tuple[str, str]:
    """Return the record of an old manifest; or why there is none, and what would be right."""
    task, run = document.get("task_id"), document.get("run_id")
    if not isinstance(task, str) or parse.id_fault(task) is not None:
        return f"the task {shown(task)} has no id that is one here", "rename the task, or leave its past runs behind"
    if not isinstance(run, str) or not RUN_ID.fullmatch(run) or len(run) > 200:
        return f"the run {shown(run)} has no id that can name a folder", "leave it behind"
    if document.get("status") not in STATUSES:
        return f"the status is {shown(document.get('status'))}", f"one of {', '.join(STATUSES)}"
    record = {
        "schema_version": SCHEMA_VERSION,
        "imported": True,
        "task_id": task,
        "run_id": run,
        "source": {"tool": "codex-orchestrator", "path": source.path, "sha256": source.sha256, "bytes": source.bytes},
        "said": said_of(document),
        "left_out": sorted(str(each)[:100] for each in set(document) - _CARRIED)[:200],
    }
    return Imported(path=f".runs/{task}/imported/{run}/manifest.json", data=_json(record), task=task)


def said_of(document: Mapping[str, Any]) -> dict[str, object]:
    """Return what an old manifest says of its run. What nobody can tell to be true is told as what was said."""
    parent = document.get("parent_run_id")
    return {
        "status": document["status"],
        **{key: _text(document.get(key)) for key in _SAID},
        "parent_run_id": _text(parent),
        "commands": list(_commands(document["commands"])),
    }


def _commands(values: list[Any]) -> Iterator[dict[str, object]]:
    for each in values[:COMMANDS_MAX]:
        if isinstance(each, dict) and isinstance(each.get("id"), str):
            status, code = each.get("status"), each.get("exit_code")
            yield {
                "id": (_text(each["id"]) or "")[:200],
                "status": status if status in STAGE_STATUSES else None,
                "exit_code": code if type(code) is int and -1000 <= code <= 100_000 else None,
                **{key: _text(each.get(key)) for key in _COMMAND},
            }


def _text(value: object) -> str | None:
    """Return bounded text without what looks like a secret: the old tool kept some."""
    return redact_text(value[: 4 * TEXT_MAX])[:TEXT_MAX] if isinstance(value, str) else None


def _json(value: object) -> bytes:
    return codec.render(value)


# ------------------------------------------------------------------------------------------------ tasks


@frozen
class Task:
    """A task that the registry here does not know yet."""

    id: str
    title: str
    path: str = ""

    @property
    def entry(self) -> dict[str, object]:
        """The entry of the registry."""
        return {"id": self.id, "title": self.title, **({"path": self.path} if self.path else {})}


def tasks_of(document: object) -> tuple[list[Task], list[tuple[int, str, str]]]:
    """Return the tasks of an old registry; and by the index of each entry that is none why, and what would be right."""
    items = document.get("items") if isinstance(document, dict) else None
    found: list[Task] = []
    faults: list[tuple[int, str, str]] = []
    for index, each in enumerate(items if isinstance(items, list) else ()):
        name = each.get("id") if isinstance(each, dict) else None
        if not isinstance(name, str) or parse.id_fault(name) is not None:
            faults.append((index, f"the task {shown(name)} has no id that is one here", "ids are lower case"))
            continue
        found.append(Task(id=name, title=_title(each.get("title"), name), path=_checklist(each.get("path"))))
        if "gate" in each:
            faults.append((index, f"the gate of task {shown(name)} is left out", "the publisher writes gates"))
    return found, faults


def _title(value: object, name: str) -> str:
    text = " ".join(value.split())[:200] if isinstance(value, str) else ""
    return text or name


def _checklist(value: object) -> str:
    """Return the path of a checklist, "" where there is none of ours."""
    sound = isinstance(value, str) and re.fullmatch(r"(?!/)(?!.*(^|/)\.\.(/|$))[^\x00-\x1f\x7f]{1,1000}\.md", value)
    return value if sound and isinstance(value, str) else ""
