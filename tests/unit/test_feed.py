"""What happened to a run, told once, from its journal or its manifest, behind the event that was heard last."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler import events, journal
from reconciler.events import Event
from reconciler.feed import LATE_LOOKS_MAX, Feed
from reconciler.model import RunId, TaskId
from reconciler.retold import events_of, run_event

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "schemas/manifest.schema.json").read_bytes())
MANIFEST: dict[str, Any] = SCHEMA["examples"][0]
DECISION = SCHEMA["properties"]["approvals"]["examples"][1][0]
RUN_ID, TASK_ID = MANIFEST["run_id"], MANIFEST["task_id"]


def event(data: events.Told, attempt: int = 1) -> Event:
    at = "2026-03-01T09:30:00.123Z"
    return Event(run_id=RunId(RUN_ID), task_id=TaskId(TASK_ID), attempt=attempt, at=at, data=data)


STARTED = event(events.RunStarted(pipeline_id="diagnostics", commit="4b825dc642cb6eb9a060e54bf8d69288fbee4904"))
PLANNED = event(events.PlanCompleted(plan_digest="0", stages=1))
BEGUN = event(events.StageStarted(stage="build", try_number=1))
OVER = event(
    events.StageCompleted(stage="build", try_number=1, status="succeeded", duration_s=1.0, exit_code=0, summary="s")
)
END = event(events.RunCompleted(status="succeeded", summary=""))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def ids(found: tuple[Event, ...]) -> list[str]:
    return [each.id.removeprefix(f"{RUN_ID}/") for each in found]


def test_a_manifest_tells_the_same_events_with_the_same_ids() -> None:
    told = ["1/run:started", "1/stage:started/build/1", "1/stage:completed/build/1", "1/run:completed"]
    assert ids(events_of(MANIFEST)) == told
    assert {each.id for each in (STARTED, BEGUN, OVER, END)} == {each.id for each in events_of(MANIFEST)}
    for each in events_of(MANIFEST):
        assert events.parse(events.line(each)) == each


def test_later_attempts_and_decisions_are_told_in_their_order() -> None:
    attempts = [*MANIFEST["attempts"], {**MANIFEST["attempts"][0], "number": 2, "started_at": "2026-03-01T09:35:00Z"}]
    waiting = {**DECISION, "decision": None, "at": None}
    found = events_of({**MANIFEST, "attempts": attempts, "approvals": [waiting, DECISION], "completed_at": None})
    assert ids(found)[-3:] == [
        "1/stage:completed/build/1",
        "2/run:resumed",
        "2/approval:decided/ship/Ada Lovelace <ada@example.com>",
    ]
    assert ids(found).count("1/approval:requested/ship") == 1


def test_the_journal_is_told_as_it_grows_and_nothing_twice(path: Path) -> None:
    feed, document = Feed(), lambda: {**MANIFEST, "attempts": [], "commands": [], "completed_at": None}
    assert feed.news(path, False, document) == ()
    journal.append(path, [STARTED, PLANNED])
    assert feed.news(path, False, document) == (STARTED, PLANNED)
    assert feed.news(path, False, document) == ()
    journal.append(path, [PLANNED, BEGUN])
    assert feed.news(path, False, document) == (BEGUN,)
    assert not feed.over
    journal.append(path, [OVER, END])
    assert feed.news(path, True, lambda: MANIFEST) == (OVER, END)
    assert feed.over


def test_one_goes_on_behind_what_was_heard_last(path: Path) -> None:
    journal.append(path, [STARTED, PLANNED, BEGUN, OVER, END])
    feed = Feed(after=PLANNED.id)
    assert feed.news(path, True, lambda: MANIFEST) == (BEGUN, OVER, END)
    nothing = Feed(after=END.id)
    assert nothing.news(path, True, lambda: MANIFEST) == () and nothing.over
    # Who names an event that nobody knows hears everything: rather twice than never.
    assert len(Feed(after="gone").news(path, True, lambda: MANIFEST)) == 5


def test_without_a_journal_the_manifest_tells_it(path: Path) -> None:
    feed = Feed(after=STARTED.id)
    assert feed.news(path, False, lambda: None) == () and not feed.over
    assert ids(feed.news(path, True, lambda: MANIFEST)) == ids((BEGUN, OVER, END))
    assert feed.over


def test_a_journal_that_does_not_tell_the_end_is_waited_for_and_then_the_manifest_does(path: Path) -> None:
    journal.append(path, [STARTED, BEGUN])
    feed = Feed()
    told = [feed.news(path, True, lambda: MANIFEST) for _ in range(LATE_LOOKS_MAX)]
    assert told[0] == (STARTED, BEGUN)
    assert ids(told[-1]) == ["1/run:completed"] and feed.over
    assert set(told[1:-1]) == {()}
    late = Feed()
    late.news(path, True, lambda: MANIFEST)
    journal.append(path, [OVER, END])
    assert late.news(path, True, lambda: MANIFEST) == (OVER, END) and late.over


def test_what_is_told_in_the_words_of_the_python_api() -> None:
    asked = event(events.ApprovalRequested(stage="ship", reason="why"))
    decided = event(events.ApprovalDecided(stage="ship", decision="reject", actor="Ada", reason="no"))
    said = [
        (each.name, each.stage, each.status, each.detail)
        for each in map(run_event, (STARTED, BEGUN, OVER, asked, decided, END))
    ]
    assert said == [
        ("run:started", "", "in_progress", ""),
        ("stage:started", "build", "running", ""),
        ("stage:completed", "build", "succeeded", "s"),
        ("approval:requested", "ship", "waiting", "why"),
        ("approval:decided", "ship", "reject", "no"),
        ("run:completed", "", "succeeded", ""),
    ]
    assert run_event(replace(END, attempt=2)).attempt == 2 and run_event(END).id == END.id
