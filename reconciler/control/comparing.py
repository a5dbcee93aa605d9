"""Where two manifests differ, by JSON pointer. Pure.

Stages and attempts are told apart by their ids and numbers, never by their position; when something happened is no
difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from reconciler.control.rules import pointer

DIFFERENCES_MAX = 200
TEXT_CHARACTERS_MAX = 200
PASSING = frozenset({"started_at", "completed_at", "updated_at", "heartbeat_at", "ended_at", "at", "elapsed_s"})
KEYED = {"commands": "id", "attempts": "number"}

Path = tuple[str | int, ...]


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return where two manifests differ, at most 200 places: the place, and what stands there in both."""
    found = _differ((), _keyed(left), _keyed(right))
    return [
        {"path": pointer(path), "left": _said(one), "right": _said(other)}
        for path, one, other in islice(found, DIFFERENCES_MAX)
    ]


def _keyed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest whose lists of stages and attempts are maps by what names an item."""
    found = {key: value for key, value in manifest.items() if key not in PASSING}
    for key, name in KEYED.items():
        rows = found.get(key)
        if isinstance(rows, list):
            found[key] = {str(each.get(name)): each for each in rows if isinstance(each, Mapping)}
    return found


def _differ(path: Path, left: Any, right: Any) -> Iterator[tuple[Path, Any, Any]]:
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for key in dict.fromkeys([*left, *right]):
            if key not in PASSING:
                yield from _differ((*path, key), left.get(key), right.get(key))
    elif type(left) is not type(right) or left != right:
        yield path, left, right


def _said(value: object) -> str | int | float | bool | None:
    """Return a value as it is told: what is long is cut, what is no scalar is counted."""
    match value:
        case str():
            return value[:TEXT_CHARACTERS_MAX]
        case None | bool() | int() | float():
            return value
        case list() | dict():
            return f"{len(value)} entries"
        case _:
            return str(type(value).__name__)
