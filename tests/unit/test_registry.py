"""A task is added to the registry as the text around it is written."""

from __future__ import annotations

import json

import pytest

from reconciler.checklist import add_task, gates
from reconciler.errors import ContentError

TASK = {"id": "b", "title": "Bé", "path": "tasks/b.md"}


def added(text: str) -> str:
    after = add_task(text.encode(), "tasks/index.json", TASK).decode()
    assert json.loads(after)["items"] == [*json.loads(text)["items"], TASK]
    return after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"items": []}', '{"items": [{"id": "b", "title": "B\\u00e9", "path": "tasks/b.md"}]}'),
        ('{"items":[]}\n', '{"items":[{"id":"b","title":"B\\u00e9","path":"tasks/b.md"}]}\n'),
        (
            '{\n  "items": []\n}\n',
            '{\n  "items": [\n    {\n      "id": "b",\n      "title": "B\\u00e9",\n      "path": "tasks/b.md"\n'
            "    }\n  ]\n}\n",
        ),
        (
            '{"items": [{"id": "a", "title": "é"}]}',
            '{"items": [{"id": "a", "title": "é"}, {"id": "b", "title": "Bé", "path": "tasks/b.md"}]}',
        ),
        (
            '{\n\t"items": [\n\t\t{"id": "a", "title": "A"}\n\t]\n}',
            '{\n\t"items": [\n\t\t{"id": "a", "title": "A"},\n'
            '\t\t{"id": "b", "title": "B\\u00e9", "path": "tasks/b.md"}\n\t]\n}',
        ),
        (
            '{"items": [ {"id":"a"} , {"id":"c"} ]}',
            '{"items": [ {"id":"a"} , {"id":"c"} , {"id":"b","title":"B\\u00e9","path":"tasks/b.md"} ]}',
        ),
    ],
    ids=["one line", "tight", "several lines", "after one", "a line each", "odd blanks"],
)
def test_a_task_is_written_as_its_neighbours_are(before: str, after: str) -> None:
    assert added(before) == after


def test_everything_else_stays_as_it_is() -> None:
    before = '{"items": [\n    {"id": "a", "gate": {"status": "failed"},\n   "x": [1,2]}\r\n] }\r\n'
    after = added(before)
    assert after.startswith(before[:-6].rstrip("\r\n"))
    assert after.endswith("\r\n] }\r\n")


def test_a_byte_order_mark_stays() -> None:
    found = add_task(b'\xef\xbb\xbf{"items": []}', "i", TASK)
    assert found.startswith(b"\xef\xbb\xbf{")
    assert gates(found, "i").keys() == {"b"}


def test_lists_go_in_whole() -> None:
    found = add_task(b'{"items": []}', "i", {"id": "b", "title": "B", "mirrors": ["x.md", "y.md"]})
    assert json.loads(found)["items"][0]["mirrors"] == ["x.md", "y.md"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"items": [\n{"id": "b"}]}', "i:2:1: task b is in the registry already; choose another id"),
        ("{", "i:1:2: is not JSON"),
        ("[]", "i:1:1: is not an object"),
        ('{"items": {}}', "`items` is not a list"),
        ('{"items": [1]}', "an item is not an object"),
        ('{"items": [], "items": []}', "stands twice"),
    ],
)
def test_what_is_no_registry_is_left_alone(text: str, reason: str) -> None:
    with pytest.raises(ContentError) as refused:
        add_task(text.encode(), "i", TASK)
    assert reason in str(refused.value)
