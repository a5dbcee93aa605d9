"""What is said about a run in sentences, as log records that stand in its trace; computed from its manifest. Pure.

Each carries the ids of the span it is about, so a log backend finds the trace and a trace its log. A record that is
sent twice has the same `log.record.uid` both times: spans have ids to be told apart by, log records have only that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.tracing import TEXT_MAX, instant_ns, span_id, trace_id
from reconciler.values import frozen

INFO, WARN, ERROR = "INFO", "WARN", "ERROR"
DECISIONS = {"approve": "approved", "reject": "rejected"}


@frozen
class LogRecord:
    """A sentence about a span at an instant. Ids are lower-case hex; `severity` is INFO, WARN or ERROR; `name` is the
    kind of what happened."""

    trace_id: str
    span_id: str
    at_ns: int
    severity: str
    name: str
    body: str
    attributes: Mapping[str, str | int]


def log_records(document: Any) -> tuple[LogRecord, ...]:
    """Return what is said about a run in the order in which it happened, nothing if its manifest is damaged."""
    try:
        found = (*_stages(document), *_attempts(document), *_decisions(document), _end(document))
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()
    return tuple(sorted(found, key=lambda each: each.at_ns))


def _stages(document: Any) -> Iterator[LogRecord]:
    """Yield the summary of every stage that ran, on the span of that stage."""
    for each in document["commands"]:
        if not each["tries"] or not each["started_at"] or not each["attempt"]:
            continue
        failed = each["status"] != "succeeded"
        tolerated = WARN if each["allow_failure"] or each["status"] == "cancelled" else ERROR
        about = {"cicd.pipeline.task.name": str(each["id"])}
        yield _record(
            document,
            (int(each["attempt"]), str(each["id"])),
            each["completed_at"] or each["started_at"],
            tolerated if failed else INFO,
            "reconciler.stage.completed",
            _said(f"{each['id']} {each['status']}", each["summary"]),
            {**about, **({"log.file.path": str(each["log_path"])} if each["log_path"] else {})},
        )


def _attempts(document: Any) -> Iterator[LogRecord]:
    """Yield why an attempt began that resumes another, and how one ended that was lost, on the span of the attempt."""
    for each in document["attempts"]:
        if not each["started_at"]:
            continue
        number, about = int(each["number"]), {"reconciler.attempt.number": int(each["number"])}
        if number > 1:
            said = f"attempt {number}: {each['reason']}, asked for by {each['actor']}"
            yield _record(document, (number, ""), each["started_at"], INFO, "reconciler.run.resumed", said, about)
        outcome = str(each["outcome"] or "lost")
        if outcome in ("lost", "interrupted"):
            said = _said(f"attempt {number} was {outcome}", each["detail"])
            ended_at = each["ended_at"] or each["started_at"]
            yield _record(document, (number, ""), ended_at, WARN, "reconciler.attempt.ended", said, about)


def _decisions(document: Any) -> Iterator[LogRecord]:
    """Yield who decided what at a gate, on the span of the run: a stage that was rejected has none."""
    for each in document["approvals"]:
        if not each["decision"]:
            continue
        word = DECISIONS.get(str(each["decision"]), str(each["decision"]))
        said = f"{each['stage']} was {word} by {each['actor']}: {each['reason']}"
        about = {"cicd.pipeline.task.name": str(each["stage"]), "vcs.ref.head.revision": str(each["commit"])}
        yield _record(document, (0, ""), each["at"], INFO, "reconciler.approval.decided", said, about)


def _end(document: Any) -> LogRecord:
    """Return how the run ended, on its span."""
    severity = {"succeeded": INFO, "cancelled": WARN}.get(document["status"], ERROR)
    body = _said(f"run {document['run_id']} {document['status']}", document["status_detail"] or document["summary"])
    about = {"cicd.pipeline.name": str(document["pipeline_id"]), "reconciler.task.id": str(document["task_id"])}
    return _record(document, (0, ""), document["completed_at"], severity, "reconciler.run.completed", body, about)


def _said(what: str, why: object) -> str:
    return f"{what}: {why}" if why else what


def _record(
    document: Any,
    span: tuple[int, str],
    at: object,
    severity: str,
    name: str,
    body: str,
    about: Mapping[str, str | int],
) -> LogRecord:
    """Return a record on the span of an attempt and a stage (0 and "" for those of none). Raise ValueError or TypeError
    if `at` is no instant."""
    run_id, at_ns = str(document["run_id"]), instant_ns(at)
    words = (run_id, str(span[0]), span[1], name, str(at_ns), str(about.get("cicd.pipeline.task.name", "")))
    uid = hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]
    return LogRecord(
        trace_id=trace_id(run_id),
        span_id=span_id(run_id, *span),
        at_ns=at_ns,
        severity=severity,
        name=name,
        body=body[:TEXT_MAX],
        attributes={"log.record.uid": uid, "cicd.pipeline.run.id": run_id, **about},
    )
