"""What happened to a run between two looks at its manifest, as events that a program can follow. Pure.

A manifest says of everything when it was. So nothing is missed however seldom one looks, but for what a later attempt
has overwritten: of a stage that began twice in between, the newer try is told of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.model import RunId
from reconciler.values import frozen

Document = Mapping[str, Any]

ENDS = {"succeeded": "run:completed", "failed": "run:failed", "cancelled": "run:failed"}


@frozen
class RunEvent:
    """Something that happened to a run: `name` is that of an event of its journal, such as `stage:completed`.

    `at` is an instant in UTC; `stage` is "" for what is about the whole run; `status` is how a stage or the run stands
    then, or what was decided; `detail` is a sentence for people, "" for none. `id` is what the same happening is always
    known by, `attempt` its attempt; "" and 0 where it was found by comparing two manifests.
    """

    name: str
    run_id: RunId
    at: str
    stage: str = ""
    status: str = ""
    detail: str = ""
    id: str = ""
    attempt: int = 0


def between(before: Document | None, after: Document) -> tuple[RunEvent, ...]:
    """Return what happened since `before`, or since the beginning of the run, in the order in which it happened."""
    found = [*_begun(before, after), *_of_stages(before, after), *_of_gates(before, after)]
    return (*sorted(found, key=lambda each: each.at), *_ended(before, after))


def _event(document: Document, name: str, at: object, **said: object) -> RunEvent:
    words = {key: str(said.get(key) or "") for key in ("stage", "status", "detail")}
    stage, status, detail = words["stage"], words["status"], words["detail"]
    run_id = document["run_id"]
    return RunEvent(name=name, run_id=run_id, at=str(at or ""), stage=stage, status=status, detail=detail)


def _begun(before: Document | None, after: Document) -> Iterator[RunEvent]:
    """Yield the beginning of the run, and of every later attempt."""
    if after["started_at"] and not (before and before["started_at"]):
        yield _event(after, "run:started", after["started_at"], status="in_progress", detail=after["title"])
    known = {each["number"] for each in before["attempts"] if each["started_at"]} if before else set()
    for each in after["attempts"]:
        if each["number"] > 1 and each["started_at"] and each["number"] not in known:
            yield _event(after, "run:resumed", each["started_at"], status="in_progress", detail=each["reason"])


def _of_stages(before: Document | None, after: Document) -> Iterator[RunEvent]:
    known = {each["id"]: each for each in before["commands"]} if before else {}
    for each in after["commands"]:
        earlier = known.get(each["id"], {})
        if each["started_at"] and each["started_at"] != earlier.get("started_at"):
            yield _event(after, "stage:started", each["started_at"], stage=each["id"], status="running")
        if each["completed_at"] and each["completed_at"] != earlier.get("completed_at"):
            said = {"stage": each["id"], "status": each["status"], "detail": each["summary"]}
            yield _event(after, "stage:completed", each["completed_at"], **said)


def _of_gates(before: Document | None, after: Document) -> Iterator[RunEvent]:
    """Yield what was asked at gates, and what was decided."""
    entries = before["approvals"] if before else ()
    asked = {(each["stage"], each["asked_at"]) for each in entries}
    decided = {(each["stage"], each["at"], each["commit"]) for each in entries if each["decision"]}
    for each in after["approvals"]:
        if (gate := (each["stage"], each["asked_at"])) not in asked:
            asked.add(gate)
            said = {"stage": each["stage"], "status": "waiting", "detail": each["prompt"]}
            yield _event(after, "approval:requested", each["asked_at"], **said)
        if each["decision"] and (each["stage"], each["at"], each["commit"]) not in decided:
            said = {"stage": each["stage"], "status": each["decision"], "detail": each["reason"]}
            yield _event(after, "approval:decided", each["at"], **said)


def _ended(before: Document | None, after: Document) -> Iterator[RunEvent]:
    """Yield the end of the run, which comes after everything else."""
    known = before["completed_at"] if before else None
    if after["completed_at"] and after["completed_at"] != known:
        said = {"status": after["status"], "detail": after["summary"]}
        yield _event(after, ENDS[after["status"]], after["completed_at"], **said)
