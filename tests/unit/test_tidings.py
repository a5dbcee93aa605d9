"""What a watcher tells is news: once while it lasts, again when it was over, and counted seconds are none."""

from __future__ import annotations

import json

from reconciler.due import Due
from reconciler.tidings import Event, Tidings
from reconciler.watcher import Turn

AT = "2026-03-01T12:00:00.123Z"


def turn(trouble: str = "", deaf: str = "") -> Turn:
    due = Due(in_s=1.0, what="another try")
    return Turn(result=None, trouble=trouble, due=due, due_at_s=1.0, wake_at_s=1.0, took_s=0.1, deaf=deaf)


def told(tidings: Tidings, *args: str) -> list[str]:
    return [each.detail for each in tidings.of(turn(*args))]


def test_what_lasts_is_told_once_whatever_it_counts() -> None:
    tidings = Tidings()
    first = "the remote cannot be used (1 try, the next one after 0.5 s): git fetch: no"
    assert told(tidings, first) == [first]
    assert told(tidings, first) == []
    assert told(tidings, first.replace("1 try", "12 tries").replace("0.5", "31.25")) == []
    assert told(tidings, first.replace("fetch", "push")) == [first.replace("fetch", "push")]


def test_numbers_in_names_tell_things_apart() -> None:
    tidings = Tidings()
    for name in ("runs.d/0001.yaml: bad", "runs.d/0002.yaml: bad"):
        assert told(tidings, name) == [name]


def test_that_no_events_come_is_told() -> None:
    (said,) = told(Tidings(), "", "inotify watch limit reached")
    assert said == "no events from the file system (inotify watch limit reached); looking once a second"


def test_an_event_says_only_what_it_has_to_say() -> None:
    event = Event(event="published", run_id="a-1a2b3c4d", task_id="t", status="failed", commit="6a2c4abe47f2d3")
    assert json.loads(json.dumps(event.document(AT))) == {
        "at": AT, "event": "published", "run_id": "a-1a2b3c4d", "task_id": "t", "status": "failed",
        "commit": "6a2c4abe47f2d3",
    }  # fmt: skip
    assert event.line(AT) == "2026-03-01T12:00:00Z published a-1a2b3c4d failed in 6a2c4abe47f2"


def test_a_line_is_one_line() -> None:
    assert Event(event="problem", detail="a\nb\x1b[2J").line(AT) == "2026-03-01T12:00:00Z problem   a⏎b␛[2J"
