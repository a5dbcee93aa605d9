"""What a stage's agent is known by between tries: its session, and what was spent. One file below the run directory.

It is written by the process of the stage only, before anything depends on it, so that a try that was killed is gone on
with in its own session and its spending counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reconciler import codec
from reconciler.agents.verdict import Spent
from reconciler.disk import DISK
from reconciler.values import frozen

RECORD_BYTES_MAX = 64 * 1024


@frozen
class Record:
    """`digest` is that of the stage that the session belongs to: another definition begins another session.

    `before_tokens` were spent outside the session. `base` is the SHA-256 of the change that was there before the
    first try, None if nobody looked.
    """

    session: str = ""
    digest: str = ""
    spent: Spent = Spent()
    before_tokens: int = 0
    base: str | None = None


def read_record(path: Path, earlier: Mapping[str, Any]) -> Record:
    """Return what is known of earlier tries: by the file, and by what the stage answered last."""
    record = Record()
    with contextlib.suppress(OSError, codec.CodecError):
        record = codec.parse(Record, DISK.read(path, RECORD_BYTES_MAX))
    with contextlib.suppress(codec.CodecError, AttributeError):
        answered = codec.load(Spent, earlier.get("detail", {}).get("spent"))
        record = replace(record, spent=most(record.spent, answered))
    return record


def write_record(path: Path, record: Record, *, sync: bool) -> None:
    DISK.write_atomic(path, codec.compact(record), sync=sync, mode=0o600)


def most(one: Spent, other: Spent) -> Spent:
    """Return the larger of two counts of the same spending."""
    return Spent(
        seconds=max(one.seconds, other.seconds),
        tokens=max(one.tokens, other.tokens),
        cost_usd=max(one.cost_usd, other.cost_usd),
    )
