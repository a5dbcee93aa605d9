"""What a manifest tells of a run, as the events that its journal told: for where there is no journal. Pure.

An event has the same id from either, so who hears some of a run from its journal and the rest from its manifest hears
nothing twice. A manifest holds less: of a stage that was tried again only its last try, and what the roles came to not
at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler import events
from reconciler.events import Event, EventName, Told
from reconciler.model import RunId, TaskId
from reconciler.telling import RunEvent

Document = Mapping[str, Any]
ENDED = ("succeeded", "failed", "cancelled")


def events_of(document: Document) -> tuple[Event, ...]:
    """Return what a manifest tells, in the order in which it happened; the end of the run is last."""
    found = [*_begun(document), *_of_stages(document), *_of_gates(document)]
    return (*sorted(found, key=lambda each: each.at), *_ended(document))


def run_event(event: Event) -> RunEvent:
    """Return an event in the words of the Python API."""
    said = event.data
    words = {each: getattr(said, each, "") for each in ("stage", "status", "decision", "summary", "reason")}
    running = {EventName.RUN_STARTED: "in_progress", EventName.RUN_RESUMED: "in_progress"}
    standing = {**running, EventName.STAGE_STARTED: "running", EventName.APPROVAL_REQUESTED: "waiting"}
    return RunEvent(
        name=event.name.value,
        run_id=event.run_id,
        at=event.at,
        stage=words["stage"],
        status=standing.get(event.name) or words["status"] or words["decision"],
        detail=words["summary"] or words["reason"],
        id=event.id,
        attempt=event.attempt,
    )


def _event(document: Document, attempt: int, at: object, data: Told) -> Event:
    run_id, task_id = RunId(str(document["run_id"])), TaskId(str(document["task_id"]))
    return Event(run_id=run_id, task_id=task_id, attempt=attempt, at=str(at), data=data)


def _begun(document: Document) -> Iterator[Event]:
    """Yield the beginning of each attempt."""
    for each in document["attempts"]:
        number, said = int(each["number"]), {"reason": str(each["reason"]), "actor": str(each["actor"])}
        first = events.RunStarted(pipeline_id=str(document["pipeline_id"]), commit=str(each["commit"]))
        if each["started_at"]:
            yield _event(document, number, each["started_at"], first if number == 1 else events.RunResumed(**said))


def _of_stages(document: Document) -> Iterator[Event]:
    for each in document["commands"]:
        stage, number, attempt = str(each["id"]), int(each["tries"]), int(each["attempt"] or 1)
        if each["started_at"]:
            yield _event(document, attempt, each["started_at"], events.StageStarted(stage=stage, try_number=number))
        if each["completed_at"]:
            said = events.StageCompleted(
                stage=stage,
                try_number=number,
                status=str(each["status"]),
                duration_s=each["duration_s"],
                exit_code=each["exit_code"],
                summary=str(each["summary"]),
            )
            yield _event(document, attempt, each["completed_at"], said)


def _of_gates(document: Document) -> Iterator[Event]:
    """Yield what was asked at gates, once for each time of asking, and what was decided."""
    asked: set[tuple[str, str]] = set()
    for each in document["approvals"]:
        stage, attempt = str(each["stage"]), _attempt_at(document, each["asked_at"])
        if (gate := (stage, str(each["asked_at"]))) not in asked:
            asked.add(gate)
            said = events.ApprovalRequested(stage=stage, reason=str(each["prompt"]))
            yield _event(document, attempt, each["asked_at"], said)
        if each["decision"]:
            words = {key: str(each[key] or "") for key in ("decision", "actor", "reason")}
            at = _attempt_at(document, each["at"])
            yield _event(document, at, each["at"], events.ApprovalDecided(stage=stage, **words))


def _attempt_at(document: Document, at: object) -> int:
    """Return the attempt that was the newest one at an instant."""
    begun = (each for each in document["attempts"] if each["started_at"] and str(each["started_at"]) <= str(at or ""))
    return max((int(each["number"]) for each in begun), default=1)


def _ended(document: Document) -> Iterator[Event]:
    status = str(document["status"])
    if not document["completed_at"] or status not in ENDED:
        return
    number = max((int(each["number"]) for each in document["attempts"]), default=1)
    kind = events.RunCompleted if status == "succeeded" else events.RunFailed
    summary = str(document["status_detail"] or document["summary"] or "")
    yield _event(document, number, document["completed_at"], kind(status=status, summary=summary))
