"""What strangers send, as JSON values: bounded in size and depth, and without numbers that are none. Pure."""

from __future__ import annotations

import json
import math
from typing import Any

DEPTH_MAX = 40
NODES_MAX = 200_000


class Unreadable(ValueError):
    """A body that is no document; the sentence says why."""


def read(body: bytes) -> dict[str, Any]:
    """Return the object that a body spells. Raise Unreadable if it spells none."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON ({str(error)[:100]})") from None
    if not isinstance(value, dict):
        raise Unreadable("not an object")
    _bounded(value)
    return value


def spelled(value: object) -> str:
    """Return JSON text in ASCII, so that half a character is no trouble to whoever keeps it."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _bounded(value: object) -> None:
    """Raise Unreadable where a value is nested too deep or has too many parts."""
    level: list[object] = [value]
    nodes = 0
    for _ in range(DEPTH_MAX):
        level = [inner for each in level for inner in _inside(each)]
        nodes += len(level)
        if nodes > NODES_MAX:
            raise Unreadable(f"more than {NODES_MAX} values")
        if not level:
            return
    raise Unreadable(f"nested deeper than {DEPTH_MAX}")


def _inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number
