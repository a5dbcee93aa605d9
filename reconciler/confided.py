"""The secrets that this process was told: from then on no text of ours that leaves it may hold one. Kept in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence

from reconciler.redact import redact_text, secret_values

CONFIDED_MAX = 10_000

_withheld: set[str] = set()
_known: dict[bytes, None] = {}
_values: dict[str, None] = {}
_lock = threading.Lock()


def confide(value: str) -> None:
    """Remember a secret, in every form a program may print it. The oldest of very many is forgotten."""
    forms = (value.encode(), *secret_values({"A_SECRET": value}))
    with _lock:
        _known.update(dict.fromkeys(forms))
        _values[value] = None
        while len(_known) > CONFIDED_MAX:
            del _known[next(iter(_known))]
        while len(_values) > CONFIDED_MAX:
            del _values[next(iter(_values))]


def confided() -> tuple[bytes, ...]:
    """Return all that was confided, the longest first."""
    with _lock:
        return tuple(sorted(_known, key=lambda each: (-len(each), each)))


def secrets() -> tuple[str, ...]:
    """Return what was confided as it was, in that order: for those who make its forms themselves."""
    with _lock:
        return tuple(_values)


def withhold(names: Iterable[str]) -> None:
    """Remember variables of the environment that hold what is this process's own: nobody whom it starts gets them."""
    with _lock:
        _withheld.update(names)


def is_ours(name: str, value: str) -> bool:
    """Return whether a variable of the environment holds a secret that is this process's own."""
    with _lock:
        return name in _withheld or value.strip("\r\n") in _values


def cleaned(text: str, patterns: Sequence[str] = ()) -> str:
    """Return text, on one line, without anything that was confided or looks like a secret."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    return redact_text(line, patterns=patterns, values=(*confided(), *secret_values(os.environ)))
