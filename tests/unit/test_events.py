"""Events as values and lines, and the journal that holds them: whole, bounded, and none the worse for a crash."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from reconciler import events, journal
from reconciler.contracts import Contracts
from reconciler.events import KINDS, Event, EventName
from reconciler.model import RunId, TaskId

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "schemas/event.schema.json").read_bytes())
RUN = RunId("r-0123abcd")
SAID: dict[str, Any] = {"stages": 2, "try_number": 1, "duration_s": 0.5, "exit_code": 0}


def event(name: EventName, attempt: int = 1, **said: Any) -> Event:
    kind = KINDS[name]
    values = {each.name: SAID.get(each.name, "word") for each in fields(kind)} | said
    return Event(run_id=RUN, task_id=TaskId("t"), attempt=attempt, at="2026-07-29T09:30:05Z", data=kind(**values))


def required() -> Iterator[tuple[str, set[str]]]:
    for each in SCHEMA["allOf"]:
        name = each["if"]["properties"]["event"]["const"]
        yield name, set(each["then"]["properties"]["data"]["required"])


def test_there_are_twelve_events_and_each_has_what_its_schema_demands() -> None:
    kinds = {name.value: {each.name for each in fields(kind)} for name, kind in KINDS.items()}
    assert dict(required()) == kinds
    assert len(kinds) == 12
    assert set(SCHEMA["properties"]["event"]["enum"]) == set(kinds)
    assert set(SCHEMA["properties"]["data"]["properties"]) == set().union(*kinds.values())


@pytest.mark.parametrize("name", list(EventName))
def test_a_line_is_an_event_again_and_keeps_its_schema(name: EventName) -> None:
    told = event(name)
    line = events.line(told)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert events.parse(line) == told
    assert Contracts().check("event", json.loads(line)) == ()
    assert told.id.startswith(f"r-0123abcd/1/{name.value}")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"event": "run:danced"}', b"[" * 100_000, b"\xff"])
def test_what_is_no_event_is_none(data: bytes) -> None:
    assert events.parse(data) is None


def test_what_others_wrote_is_cleaned_and_bounded_and_nothing_else_is_touched() -> None:
    told = event(EventName.RUN_RESUMED, reason="the token is s3cr3t" + "x" * 1000)
    clean = events.cleaned(told, lambda text: text.replace("s3cr3t", "[redacted:secret]"))
    assert isinstance(clean.data, events.RunResumed)
    assert clean.data.reason.startswith("the token is [redacted:secret]xxx")
    assert len(clean.data.reason) == events.TEXT_MAX
    assert events.cleaned(event(EventName.RUN_STARTED), lambda text: "gone") == event(EventName.RUN_STARTED)


# ------------------------------------------------------------------------------------------------ the journal


def test_a_journal_is_written_in_batches_and_read_from_where_one_was(tmp_path: Path) -> None:
    written = journal.Journal(tmp_path)
    written.flush()
    assert not written.path.exists()
    written.say(event(EventName.RUN_STARTED), event(EventName.STAGE_STARTED))
    assert not written.path.exists()
    written.flush()
    first = journal.read(written.path)
    assert [each.name for each in first.events] == [EventName.RUN_STARTED, EventName.STAGE_STARTED]
    written.say(event(EventName.RUN_COMPLETED))
    written.flush(sync=True)
    rest = journal.read(written.path, first.end)
    assert [each.name for each in rest.events] == [EventName.RUN_COMPLETED]
    assert rest.end == written.path.stat().st_size
    assert journal.read(written.path, rest.end) == journal.Heard(events=(), end=rest.end)


def test_a_torn_line_waits_for_its_rest_and_harms_no_line_behind_it(tmp_path: Path) -> None:
    path = tmp_path / journal.NAME
    line = events.line(event(EventName.RUN_STARTED))
    path.write_bytes(line + line[:30])
    assert journal.read(path).end == len(line)
    journal.append(path, [event(EventName.RUN_RESUMED, 2)])
    heard = journal.read(path, len(line))
    assert [each.name for each in heard.events] == [EventName.RUN_RESUMED]


def test_what_is_no_journal_tells_nothing(tmp_path: Path) -> None:
    path = tmp_path / journal.NAME
    assert journal.read(path) == journal.Heard(events=(), end=0)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(events.line(event(EventName.RUN_FAILED)))
    path.symlink_to(elsewhere)
    assert journal.read(path).events == ()
    with pytest.raises(OSError):
        journal.append(path, [event(EventName.RUN_STARTED)])
    refused = journal.Journal(tmp_path)
    refused.say(event(EventName.RUN_STARTED))
    refused.flush()
    assert elsewhere.read_bytes().count(b"\n") == 1


def test_a_journal_is_bounded_and_the_end_of_a_run_still_fits(tmp_path: Path) -> None:
    path = tmp_path / journal.NAME
    path.write_bytes(b"x" * (journal.STAGES_BYTES_MAX - 1) + b"\n")
    journal.append(path, [event(EventName.STAGE_COMPLETED), event(EventName.RUN_COMPLETED)])
    assert journal.read(path, journal.STAGES_BYTES_MAX).events == (event(EventName.RUN_COMPLETED),)
    path.write_bytes(b"x" * journal.BYTES_MAX)
    journal.append(path, [event(EventName.RUN_COMPLETED)])
    assert path.stat().st_size == journal.BYTES_MAX


def test_a_line_that_nobody_of_us_wrote_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / journal.NAME
    path.write_bytes(b"x" * 5000)
    assert journal.read(path, 0, 1000) == journal.Heard(events=(), end=1000)


def test_the_end_is_looked_for_in_the_last_lines(tmp_path: Path) -> None:
    path = tmp_path / journal.NAME
    assert not journal.tells_end(path, 1)
    journal.append(path, [event(EventName.STAGE_STARTED), event(EventName.RUN_FAILED)])
    assert journal.tells_end(path, 1)
    assert not journal.tells_end(path, 2)
