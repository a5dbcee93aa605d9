"""A run as a trace: which spans it has, computed from its manifest. Pure.

Ids follow from the run alone, so to tell the same evidence again is to tell the same spans, and a stage can be told its
own span before anybody has sent one: `traceparent`. This module imports the standard library only; a worker needs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from reconciler.values import frozen

TEXT_MAX = 500
"""So many characters of a sentence are told."""
RESULTS = {"succeeded": "success", "failed": "failure", "cancelled": "cancellation", "skipped": "skip"}
"""The words of the semantic conventions for our own; what was interrupted is an `error`."""
TASK_TYPES = {"build": "build", "test": "test"}

Attributes = Mapping[str, str | int | float | bool]


@frozen
class Span:
    """Something that took time. Ids are lower-case hex; `links` are ids of spans of the same trace; `failed` is why it
    failed, "" if it did not."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    failed: str = ""
    attributes: Attributes
    links: tuple[str, ...] = ()


@frozen
class Told:
    """A run, as it is told: its spans, and what it adds to metrics: its duration and the errors of its stages."""

    pipeline_id: str
    result: str
    duration_s: float
    errors: tuple[str, ...]
    spans: tuple[Span, ...]


def trace_id(run_id: str) -> str:
    """Return the id of the trace of a run: the start of the SHA-256 of `trace`, a newline and the run id."""
    return _hex(16, "trace", run_id)


def span_id(run_id: str, attempt: int = 0, stage_id: str = "") -> str:
    """Return the id of the span of a stage in an attempt, of an attempt (no stage), or of the run (attempt 0)."""
    return _hex(8, "span", run_id, str(attempt), stage_id)


def traceparent(run_id: str, attempt: int, stage_id: str) -> str:
    """Return what a stage is told of its span, as W3C Trace Context has it; it is sampled."""
    return f"00-{trace_id(run_id)}-{span_id(run_id, attempt, stage_id)}-01"


def _hex(size: int, *words: str) -> str:
    found = hashlib.sha256("\n".join(words).encode()).hexdigest()[: 2 * size]
    return found if found.strip("0") else "1".rjust(2 * size, "0")  # an id of zeros means that there is none


def told(document: Any) -> Told | None:
    """Return a run as it is told, None if the manifest is not one of a run that has ended, or is damaged."""
    try:
        spans = (_run(document), *_attempts(document), *_stages(document))
        failed = [each for each in document["commands"] if each["status"] == "failed" and each["tries"]]
        return Told(
            pipeline_id=str(document["pipeline_id"]),
            result=_result_of_run(document),
            duration_s=float(document["resources"]["duration_s"]),
            errors=tuple(map(_error_type, failed)),
            spans=spans,
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return None


def _run(document: Any) -> Span:
    """Return the span of a run. Raise ValueError if it has not ended."""
    run_id, result = str(document["run_id"]), _result_of_run(document)
    end_ns = instant_ns(document["completed_at"])
    failed = str(document["status_detail"])[:TEXT_MAX] if document["status"] == "failed" else ""
    return Span(
        trace_id=trace_id(run_id),
        span_id=span_id(run_id),
        parent_id="",
        name=f"RUN {document['pipeline_id']}",
        kind="server",
        start_ns=min(instant_ns(document["started_at"] or document["completed_at"]), end_ns),
        end_ns=end_ns,
        failed=failed or ("failed" if document["status"] == "failed" else ""),
        attributes={
            "cicd.pipeline.name": str(document["pipeline_id"]),
            "cicd.pipeline.action.name": "RUN",
            "cicd.pipeline.run.id": run_id,
            "cicd.pipeline.result": result,
            "vcs.ref.head.revision": str(document["commit"]),
            "vcs.ref.head.name": str(document["branch"]),
            "reconciler.task.id": str(document["task_id"]),
            "reconciler.request.name": str(document["name"]),
            "reconciler.attempts": len(document["attempts"]),
            **({"error.type": result} if document["status"] == "failed" else {}),
        },
    )


def _result_of_run(document: Any) -> str:
    if document["status"] not in ("succeeded", "failed", "cancelled"):
        raise ValueError("the run has not ended")
    failed = [each for each in document["commands"] if each["status"] == "failed" and not each["allow_failure"]]
    timed_out = document["status"] == "failed" and bool(failed) and all(each["timed_out"] for each in failed)
    return "timeout" if timed_out else RESULTS[document["status"]]


def _attempts(document: Any) -> Iterator[Span]:
    """Yield the span of every attempt that began; one that resumes another is linked to it."""
    run_id = str(document["run_id"])
    begun = [each for each in document["attempts"] if each["started_at"]]
    for each, before in zip(begun, (None, *begun), strict=False):
        number, start_ns = int(each["number"]), instant_ns(each["started_at"])
        ended = each["ended_at"]
        outcome = str(each["outcome"] or "lost")
        end_ns = instant_ns(ended) if ended else start_ns + int(float(each["elapsed_s"]) * 1e9)
        yield Span(
            trace_id=trace_id(run_id),
            span_id=span_id(run_id, number),
            parent_id=span_id(run_id),
            name=f"attempt {number}",
            kind="internal",
            start_ns=start_ns,
            end_ns=max(start_ns, end_ns),
            failed=str(each["detail"])[:TEXT_MAX] or outcome if outcome in ("failed", "lost", "interrupted") else "",
            attributes={
                "reconciler.attempt.number": number,
                "reconciler.attempt.outcome": outcome,
                "reconciler.attempt.reason": str(each["reason"])[:TEXT_MAX],
                "cicd.worker.name": str(each["host"] or ""),
            },
            links=(span_id(run_id, int(before["number"])),) if before is not None else (),
        )


def _stages(document: Any) -> Iterator[Span]:
    """Yield the span of every stage that ran, in the attempt that its record is of."""
    run_id = str(document["run_id"])
    for each in document["commands"]:
        if not each["tries"] or not each["started_at"] or not each["attempt"]:
            continue
        start_ns, attempt = instant_ns(each["started_at"]), int(each["attempt"])
        end_ns = max(start_ns, instant_ns(each["completed_at"]) if each["completed_at"] else start_ns)
        failed = each["status"] != "succeeded"
        said = str(each["summary"])[:TEXT_MAX]
        yield Span(
            trace_id=trace_id(run_id),
            span_id=span_id(run_id, attempt, str(each["id"])),
            parent_id=span_id(run_id, attempt),
            name=str(each["id"]),
            kind="internal",
            start_ns=start_ns,
            end_ns=end_ns,
            failed=(said or str(each["status"])) if failed else "",
            attributes=_stage_attributes(run_id, each),
        )


def _stage_attributes(run_id: str, each: Any) -> Attributes:
    failed, kind = each["status"] == "failed", TASK_TYPES.get(each["role"] or "")
    result = "timeout" if failed and each["timed_out"] else RESULTS.get(each["status"], "error")
    return {
        "cicd.pipeline.task.name": str(each["id"]),
        "cicd.pipeline.task.run.id": f"{run_id}.{each['attempt']}.{each['id']}",
        "cicd.pipeline.task.run.result": result,
        "reconciler.stage.kind": str(each["kind"]),
        "reconciler.stage.tries": int(each["tries"]),
        "reconciler.stage.redactions": int(each["redactions"]),
        "process.cpu_time_s": round(float(each["cpu_user_s"]) + float(each["cpu_system_s"]), 3),
        "process.memory_peak_bytes": int(each["memory_peak_bytes"]),
        **({"cicd.pipeline.task.type": kind} if kind else {}),
        **({"process.exit.code": int(each["exit_code"])} if each["exit_code"] is not None else {}),
        **({"error.type": _error_type(each)} if failed else {}),
    }


def _error_type(command: Any) -> str:
    """Return in a word how a stage failed; there are few of them, because metrics are kept apart by it."""
    if command["timed_out"]:
        return "timeout"
    return str(command["signal"]) if command["signal"] else "exit_code" if command["exit_code"] else "failed"


def instant_ns(at: object) -> int:
    """Return an instant in nanoseconds since 1970. Raise ValueError or TypeError if it is none."""
    return round(datetime.fromisoformat(at).timestamp() * 1000) * 1_000_000  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ metrics

BOUNDS_S = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21600.0)
SERIES_MAX = 500


@frozen
class Duration:
    """The runs of a pipeline with a result, as a histogram; `buckets` has one more than there are bounds."""

    pipeline_id: str
    result: str
    count: int = 0
    sum_s: float = 0.0
    buckets: tuple[int, ...] = (0,) * (len(BOUNDS_S) + 1)


@frozen
class Errors:
    """How many stages of a pipeline failed in one way."""

    pipeline_id: str
    type: str
    count: int = 0


@frozen
class Sums:
    """What was told so far, as sums that only grow: `since_ns` is when they began."""

    since_ns: int = 0
    durations: tuple[Duration, ...] = ()
    errors: tuple[Errors, ...] = ()


def added(sums: Sums, runs: tuple[Told, ...]) -> Sums:
    """Return the sums with these runs in them; a series beyond `SERIES_MAX` is not begun."""
    durations = {(each.pipeline_id, each.result): each for each in sums.durations}
    errors = {(each.pipeline_id, each.type): each for each in sums.errors}
    for run in runs:
        key = (run.pipeline_id, run.result)
        if key in durations or len(durations) < SERIES_MAX:
            durations[key] = _longer(durations.get(key, Duration(pipeline_id=key[0], result=key[1])), run.duration_s)
        for kind in run.errors:
            which = (run.pipeline_id, kind)
            if which in errors or len(errors) < SERIES_MAX:
                count = errors[which].count if which in errors else 0
                errors[which] = Errors(pipeline_id=which[0], type=kind, count=count + 1)
    return Sums(since_ns=sums.since_ns, durations=tuple(durations.values()), errors=tuple(errors.values()))


def _longer(found: Duration, duration_s: float) -> Duration:
    """Return a histogram with one more run in it."""
    index = sum(bound < duration_s for bound in BOUNDS_S)
    return Duration(
        pipeline_id=found.pipeline_id,
        result=found.result,
        count=found.count + 1,
        sum_s=round(found.sum_s + duration_s, 3),
        buckets=tuple(count + (at == index) for at, count in enumerate(found.buckets)),
    )
