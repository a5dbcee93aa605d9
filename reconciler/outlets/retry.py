"""When a delivery that failed is tried again: exponentially later each time, with full jitter, and not for ever."""

from __future__ import annotations

TRIES_MAX = 16
"""With the pauses below that is half a day at most, four hours on average."""
PAUSE_FIRST_S = 2.0
PAUSE_MAX_S = 3600.0
AFTER_MAX_S = 86_400.0
"""What another side asks to wait counts up to a day."""
AGAIN = frozenset({408, 425, 429})


def passes(status: int) -> bool:
    """Return whether an HTTP status says that the same request may succeed later."""
    return status >= 500 or status in AGAIN


def pause_s(tries: int, after_s: float | None, fraction: float) -> float:
    """Return the pause behind try number `tries`, from 1: what was asked for, else anything up to twice the one before;
    `fraction` is by chance, from 0 to below 1."""
    if after_s is not None:
        return min(max(after_s, 0.0), AFTER_MAX_S)
    return fraction * min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** min(tries - 1, 30))
