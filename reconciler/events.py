"""What happens to a run, in words: twelve events, each a value, and the one line of JSON that a journal holds of it.

An event tells and decides nothing: whoever misses one finds the same in the records and in the evidence. The same
happening always has the same `id`, so that who hears it twice can tell.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from enum import StrEnum
from typing import Any

from reconciler import codec
from reconciler.codec import CodecError
from reconciler.model import RunId, TaskId
from reconciler.values import frozen

SCHEMA_VERSION = 1
TEXT_MAX = 500
"""So many characters of a summary or a reason stand in an event."""
LINE_BYTES_MAX = 16 * 1024


class EventName(StrEnum):
    """The names that subscribers know events by."""

    RUN_STARTED = "run:started"
    PLAN_COMPLETED = "plan:completed"
    BUILD_COMPLETED = "build:completed"
    TEST_COMPLETED = "test:completed"
    REVIEW_COMPLETED = "review:completed"
    RUN_COMPLETED = "run:completed"
    RUN_FAILED = "run:failed"
    RUN_RESUMED = "run:resumed"
    STAGE_STARTED = "stage:started"
    STAGE_COMPLETED = "stage:completed"
    APPROVAL_REQUESTED = "approval:requested"
    APPROVAL_DECIDED = "approval:decided"


# ------------------------------------------------------------------------------------------------ what is told


@frozen
class RunStarted:
    """The first attempt of a run is executed."""

    pipeline_id: str
    commit: str


@frozen
class RunResumed:
    """A further attempt is executed: why, and who asked for it."""

    reason: str
    actor: str


@frozen
class PlanCompleted:
    """The plan of an attempt is there: its digest, and how many of its stages are to be executed."""

    plan_digest: str
    stages: int


@frozen
class StageStarted:
    """A stage is tried."""

    stage: str
    try_number: int


@frozen
class StageCompleted:
    """A try of a stage is over. `duration_s` and `exit_code` are None where there is none."""

    stage: str
    try_number: int
    status: str
    duration_s: float | None
    exit_code: int | None
    summary: str


@frozen
class BuildCompleted:
    """All stages of an attempt are over: `succeeded` or `failed`."""

    status: str


@frozen
class TestCompleted:
    """The tester's verdict: `passed`, `failed`, or `none` where nothing was to be tested."""

    status: str
    reason: str


@frozen
class ReviewCompleted:
    """The reviewer's decision: `approve`, `reject` or `escalate`."""

    decision: str
    reason: str


@frozen
class ApprovalRequested:
    """A stage waits at its gate for somebody to decide."""

    stage: str
    reason: str


@frozen
class ApprovalDecided:
    """Somebody decided at a gate: `approve` or `reject`."""

    stage: str
    decision: str
    actor: str
    reason: str


@frozen
class RunCompleted:
    """A run ended and succeeded."""

    status: str
    summary: str


@frozen
class RunFailed:
    """A run ended and did not succeed: it `failed`, or was `cancelled`."""

    status: str
    summary: str


Told = (
    RunStarted
    | RunResumed
    | PlanCompleted
    | StageStarted
    | StageCompleted
    | BuildCompleted
    | TestCompleted
    | ReviewCompleted
    | ApprovalRequested
    | ApprovalDecided
    | RunCompleted
    | RunFailed
)

KINDS: Mapping[EventName, type[Any]] = {
    EventName.RUN_STARTED: RunStarted,
    EventName.RUN_RESUMED: RunResumed,
    EventName.PLAN_COMPLETED: PlanCompleted,
    EventName.STAGE_STARTED: StageStarted,
    EventName.STAGE_COMPLETED: StageCompleted,
    EventName.BUILD_COMPLETED: BuildCompleted,
    EventName.TEST_COMPLETED: TestCompleted,
    EventName.REVIEW_COMPLETED: ReviewCompleted,
    EventName.APPROVAL_REQUESTED: ApprovalRequested,
    EventName.APPROVAL_DECIDED: ApprovalDecided,
    EventName.RUN_COMPLETED: RunCompleted,
    EventName.RUN_FAILED: RunFailed,
}
_NAMES = {kind: name for name, kind in KINDS.items()}
ENDS = (EventName.RUN_COMPLETED, EventName.RUN_FAILED)
"""The last event of a run is one of these."""
_WRITTEN_BY_OTHERS = ("summary", "reason", "actor")


@frozen
class Event:
    """Something that happened in one attempt of a run, at an instant of the machine that executes it."""

    run_id: RunId
    task_id: TaskId
    attempt: int
    at: str
    data: Told

    @property
    def name(self) -> EventName:
        return _NAMES[type(self.data)]

    @property
    def id(self) -> str:
        """What the same happening is always known by."""
        stage = getattr(self.data, "stage", "")
        number = getattr(self.data, "try_number", "")
        decided = getattr(self.data, "actor", "") if isinstance(self.data, ApprovalDecided) else ""
        parts = (self.run_id, self.attempt, self.name.value, stage, number, decided)
        return "/".join(str(each) for each in parts if each != "")


# ------------------------------------------------------------------------------------------------ as a line


def cleaned(event: Event, clean: Callable[[str], str]) -> Event:
    """Return an event of whose free text `clean` has taken what must not be seen, each text bounded."""
    texts = {each.name: getattr(event.data, each.name) for each in fields(event.data)}
    made: dict[str, Any] = {
        name: clean(text)[:TEXT_MAX] for name, text in texts.items() if name in _WRITTEN_BY_OTHERS and text
    }
    return replace(event, data=replace(event.data, **made)) if made else event


def document(event: Event) -> dict[str, Any]:
    """Return an event as plain JSON values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "id": event.id,
        "event": event.name.value,
        "at": event.at,
        "run_id": event.run_id,
        "task_id": event.task_id,
        "attempt": event.attempt,
        "data": codec.dump(event.data),
    }


def line(event: Event) -> bytes:
    """Return the line of a journal that tells an event, with its newline."""
    return codec.canonical(document(event)) + b"\n"


def parse(data: bytes) -> Event | None:
    """Return the event that a line tells, None for a line that tells none: a torn one, or one of a later version."""
    try:
        said = json.loads(data)
        kind = KINDS[EventName(said["event"])]
        return Event(
            run_id=RunId(str(said["run_id"])),
            task_id=TaskId(str(said["task_id"])),
            attempt=int(said["attempt"]),
            at=str(said["at"]),
            data=codec.load(kind, said["data"]),
        )
    except (CodecError, ValueError, KeyError, TypeError, RecursionError):
        return None
