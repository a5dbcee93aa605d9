"""What is summed up over the runs of a task: metrics, state and the page a person reads. Pure.

Every value is a function of the previous one at the tip and of the manifests that the same commit adds or replaces, so
a commit's aggregates and manifests agree, and publishing costs what is new, not what is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from typing import Any, TypeVar

from reconciler import codec
from reconciler.values import frozen

T = TypeVar("T")

SCHEMA_VERSION = 1
PIPELINES_MAX = 50
RUNS_SHOWN_MAX = 20

Document = Mapping[str, Any]


@frozen
class Counts:
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0


@frozen
class StageCounts:
    total: int = 0
    failed: int = 0


@frozen
class Durations:
    total: float = 0.0
    mean: float = 0.0
    max: float = 0.0


@frozen
class PipelineCounts:
    total: int
    succeeded: int
    failed: int
    cancelled: int
    duration_s_total: float
    last_run_id: str
    last_status: str
    last_completed_at: str


EMPTY_PIPELINE: Document = {"total": 0, "succeeded": 0, "failed": 0, "cancelled": 0, "duration_s_total": 0.0}


@frozen
class Metrics:
    """The sums of `metrics.json` that the next ones are made from."""

    runs: Counts = Counts()
    attempts_total: int = 0
    stages: StageCounts = StageCounts()
    redactions_total: int = 0
    duration_s: Durations = Durations()
    pipelines: Mapping[str, PipelineCounts] = field(default_factory=dict)


@frozen
class Shown:
    """One row of `state.json`."""

    run_id: str
    name: str
    pipeline_id: str
    status: str
    started_at: str | None
    completed_at: str
    duration_s: float
    attempts: int
    summary: str
    manifest_path: str
    commit: str


def _sound(kind: type[T], document: Any) -> T | None:
    """Return the part of a document at the tip that is ours, None if it is damaged: a person may have edited it."""
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    known = {key: value for key, value in document.items() if key in names} if isinstance(document, dict) else None
    try:
        return codec.load(kind, known)
    except codec.CodecError:
        return None


def metrics(
    previous: Document | None, task_id: str, added: Sequence[Document], replaced: Sequence[Document], updated_at: str
) -> dict[str, Any]:
    """Return the metrics of a task after the manifests in `replaced` gave way to those in `added`."""
    found: dict[str, Any] = codec.dump(_sound(Metrics, previous or {}) or Metrics())
    for sign, documents in ((-1, replaced), (1, added)):
        for document in documents:
            found = _counted(found, document, sign)
    newest = max(found["pipelines"].values(), key=lambda each: each["last_completed_at"], default=None)
    total = found["runs"]["total"]
    return {
        "schema_version": SCHEMA_VERSION,
        "task_id": task_id,
        "updated_at": updated_at,
        **found,
        "success_rate": round(found["runs"]["succeeded"] / total, 4) if total else 0.0,
        "last_run_id": newest["last_run_id"] if newest else None,
        "last_status": newest["last_status"] if newest else None,
    }


def _counted(found: dict[str, Any], document: Document, sign: int) -> dict[str, Any]:
    """Return the sums with one run added (sign 1) or taken away (sign -1)."""
    ran = [each for each in document["commands"] if each["tries"]]
    failed = sum(each["status"] == "failed" for each in ran)
    duration_s = document["resources"]["duration_s"]
    runs = _tally(found["runs"], document["status"], sign)
    total_s = round(max(0.0, found["duration_s"]["total"] + sign * duration_s), 3)
    return {
        **found,
        "runs": runs,
        "attempts_total": max(0, found["attempts_total"] + sign * len(document["attempts"])),
        "stages": {
            "total": max(0, found["stages"]["total"] + sign * len(ran)),
            "failed": max(0, found["stages"]["failed"] + sign * failed),
        },
        "redactions_total": max(0, found["redactions_total"] + sign * document["privacy"]["redactions"]),
        "duration_s": {
            "total": total_s,
            "mean": round(total_s / runs["total"], 3) if runs["total"] else 0.0,
            "max": max(found["duration_s"]["max"], duration_s),
        },
        "pipelines": _pipelines(found["pipelines"], document, sign),
    }


def _tally(counts: Document, status: str, sign: int) -> dict[str, Any]:
    keys = ("total", status)
    return {key: max(0, value + sign) if key in keys else value for key, value in counts.items()}


def _pipelines(pipelines: Document, document: Document, sign: int) -> dict[str, Any]:
    """Return the sums by pipeline; of more than PIPELINES_MAX the ones that ended longest ago are dropped."""
    pipeline_id = document["pipeline_id"]
    counts: dict[str, Any] = {**EMPTY_PIPELINE, **pipelines.get(pipeline_id, {})}
    duration_s = counts["duration_s_total"] + sign * document["resources"]["duration_s"]
    counts = _tally(counts, document["status"], sign) | {"duration_s_total": round(max(0.0, duration_s), 3)}
    if _completed_at(document) >= counts.get("last_completed_at", ""):
        counts |= {
            "last_run_id": document["run_id"],
            "last_status": document["status"],
            "last_completed_at": _completed_at(document),
        }
    found = {**pipelines, pipeline_id: counts}
    newest = sorted(found, key=lambda each: found[each]["last_completed_at"], reverse=True)[:PIPELINES_MAX]
    return {each: found[each] for each in sorted(newest)}


def state(
    previous: Document | None, metrics_now: Document, added: Sequence[Document], updated_at: str
) -> dict[str, Any]:
    """Return `out/<task>/state.json`: where a task stands, and its newest runs, newest first."""
    kept = (previous or {}).get("runs")
    sound = (_sound(Shown, row) for row in kept) if isinstance(kept, list) else ()
    rows: dict[str, Any] = {row.run_id: codec.dump(row) for row in sound if row is not None}
    rows |= {document["run_id"]: _row(document) for document in added}
    newest = sorted(rows.values(), key=lambda row: (row["completed_at"], row["run_id"]), reverse=True)
    return {
        "schema_version": SCHEMA_VERSION,
        "task_id": metrics_now["task_id"],
        "updated_at": updated_at,
        "status": newest[0]["status"] if newest else None,
        "last_run_id": newest[0]["run_id"] if newest else None,
        "totals": metrics_now["runs"],
        "runs": newest[:RUNS_SHOWN_MAX],
    }


def _row(document: Document) -> dict[str, Any]:
    keys = ("run_id", "name", "pipeline_id", "status", "started_at", "completed_at")
    return {
        **{key: document[key] for key in keys},
        "duration_s": document["resources"]["duration_s"],
        "attempts": len(document["attempts"]),
        "summary": document["summary"],
        "manifest_path": f"{document['artifact_root']}/manifest.json",
        "commit": document["commit"],
    }


def _completed_at(document: Document) -> str:
    return document["completed_at"] or ""


# ------------------------------------------------------------------------------------------------ the page

MARKS = {"succeeded": "✅ succeeded", "failed": "❌ failed", "cancelled": "⏹ cancelled"}


def page(state_now: Document) -> str:
    """Return `out/<task>/README.md`: the newest runs of a task as a table a person likes to read."""
    totals = state_now["totals"]
    shown = len(state_now["runs"])
    counted = f"{totals['total']} run{'s' if totals['total'] != 1 else ''}"
    parts = ", ".join(f"{totals[key]} {key}" for key in ("succeeded", "failed", "cancelled") if totals[key])
    lines = [
        f"# {state_now['task_id']}",
        "",
        f"{counted} so far: {parts}. Last: {MARKS.get(state_now['status'], state_now['status'])}"
        f" at {_minute(state_now['runs'][0]['completed_at'])}.",
        "",
        "| run | pipeline | status | ended (UTC) | took | commit | result |",
        "| --- | --- | --- | --- | ---: | --- | --- |",
        *(_line(row) for row in state_now["runs"]),
        "",
    ]
    if totals["total"] > shown:
        lines += [f"The newest {shown} of {totals['total']} are shown; `git log` has them all.", ""]
    lines += ["Written by the reconciler from the manifests in this commit; edits are overwritten.", ""]
    return "\n".join(lines)


def _line(row: Document) -> str:
    link = f"[{row['run_id']}](../../{row['manifest_path']})"
    status = MARKS.get(row["status"], row["status"])
    cells = [link, row["pipeline_id"], status, _minute(row["completed_at"]), duration(row["duration_s"])]
    return f"| {' | '.join(cells)} | `{(row['commit'] or '')[:10]}` | {_cell(row['summary'])} |"


def _cell(text: str) -> str:
    """Return text that cannot end its table cell or become markup."""
    flat = " ".join(text.split())
    for each in ("\\", "|", "`", "<", "[", "*", "_", "~", "&"):
        flat = flat.replace(each, f"\\{each}")
    return flat


def _minute(at: str) -> str:
    return at[:19].replace("T", " ")


def duration(seconds: float) -> str:
    """Return a duration as people say it: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
