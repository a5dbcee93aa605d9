"""A schema that a repository brings: what breaks it is said, and nothing is ever fetched for it."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.contracts import violations
from reconciler.errors import ContentError

SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["verdict"],
    "properties": {"verdict": {"$ref": "#/$defs/word"}, "reasons": {"type": "array", "items": {"type": "string"}}},
    "$defs": {"word": {"enum": ["approve", "reject"]}},
}


def said(value: object) -> list[tuple[tuple[str | int, ...], str]]:
    return [(each.path, each.reason) for each in violations(SCHEMA, value)]


def test_a_value_that_keeps_it() -> None:
    assert said({"verdict": "approve", "reasons": ["clean"]}) == []


def test_what_breaks_it_is_said_with_its_place() -> None:
    assert said({"verdict": "maybe", "reasons": ["a", 2], "more": 1}) == [
        (("more",), "unknown key 'more'"),
        (("verdict",), "'verdict' is 'maybe', expected one of: approve, reject"),
        (("reasons", 1), "item 2 of 'reasons' is a number (2), expected text"),
    ]
    assert said([]) == [((), "the file is a list, expected a mapping")]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "thing"}, "is no JSON Schema"),
        ({"$ref": "https://example.com/a.json"}, "refers to https://example.com/a.json, which lies outside the file"),
        ({"$ref": "other.json#/a"}, "refers to other.json"),
        ({"$ref": "#/$defs/missing"}, "refers to "),
        ({"$ref": "#"}, "cannot be used"),
        ({"pattern": "("}, "is no JSON Schema|cannot be used"),
    ],
)
def test_a_schema_that_cannot_be_used(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(ContentError, match=message):
        violations(schema, "x")
