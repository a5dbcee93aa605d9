"""When somebody who stays does the next pass, after one in which not all could be done."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.loop import Pass
from reconciler.pacing import BACKOFF_MAX_S, Pacing

NOTHING: Any = None


def in_s(*passes: dict[str, Any] | None) -> float:
    """Return in how many seconds is tried again what these passes could not do; None is one that could not be done."""
    pacing = Pacing()
    for each in passes:
        pacing.note(Pass(seen=NOTHING, actions=(), **each) if each is not None else None)
    return pacing.due(NOTHING, None).in_s


@pytest.mark.parametrize(
    "refused", [None, {"blocked": "the index is locked"}, {"untouched": frozenset({"a-11111111"})}]
)
def test_what_was_left_undone_is_tried_again_soon_and_then_less_often(refused: dict[str, Any] | None) -> None:
    assert [in_s(*[refused] * times) for times in (1, 2, 3, 20)] == [1.0, 2.0, 4.0, BACKOFF_MAX_S]


def test_where_all_was_done_nothing_is_tried_again() -> None:
    assert in_s({}) == float("inf") and in_s({"blocked": "x"}, {}) == float("inf")
