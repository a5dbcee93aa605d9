"""What a courier hands back of an attempt: its record as it stands, and at the end all that may become evidence.

The record always fits. What is left of the bytes that the order allows goes to what agents spent, the files that stages
answered for, the events, and the logs, which share what remains and are cut in the middle as evidence is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from reconciler import codec, journal, process
from reconciler.executors.ordering import files_of
from reconciler.model import Attempt, Outcome, Plan, StageRecord, StageStatus
from reconciler.redact import redact_text
from reconciler.rundir import RunDirectory
from reconciler.work import WorkOrder

CUT_LOG_BYTES_MIN = 1024
"""A log of which less would be left is not handed back."""
LOG_SUFFIX = ".log"
CRASH_BYTES, CRASH_CHARACTERS_MAX = 4096, 300


def record_of(directory: RunDirectory, number: int) -> Attempt | None:
    """Return the record of an attempt, None if there is none that can be read."""
    with contextlib.suppress(codec.CodecError):
        return directory.read(Attempt, directory.record("attempts", number))
    return None


def standing(directory: RunDirectory, order: WorkOrder) -> dict[str, bytes]:
    """Return record and events as they stand: name below the run directory -> bytes."""
    record = _record(directory, order)
    return {**record, **_events(directory, order.bytes_max - sum(map(len, record.values())))}


def everything(directory: RunDirectory, order: WorkOrder, plan: Plan) -> dict[str, bytes]:
    """Return all of an attempt that may become evidence, within what the order allows."""
    files = _record(directory, order)
    left = order.bytes_max - sum(map(len, files.values()))
    attempt = record_of(directory, order.number)
    named = list(files_of(plan, attempt)) if attempt is not None else []
    for name, bytes_max in named:
        data = None if name.endswith(LOG_SUFFIX) else _read(directory, name, min(bytes_max, left))
        if data is not None:
            files[name], left = data, left - len(data)
    told = _events(directory, left)
    left -= sum(map(len, told.values()))
    logs = [name for name, _ in named if name.endswith(LOG_SUFFIX)]
    return {**files, **told, **dict(_logs(directory, logs, left, plan.log_bytes_max))}


def _record(directory: RunDirectory, order: WorkOrder) -> dict[str, bytes]:
    name = f"attempts/{order.number}.json"
    with contextlib.suppress(codec.CodecError):
        data = directory.disk.read_bounded(directory.place(name))
        return {} if data is None else {name: data}
    return {}


def _read(directory: RunDirectory, name: str, bytes_max: int) -> bytes | None:
    """Return a file, None if it is not there or larger."""
    with contextlib.suppress(codec.CodecError):
        return directory.disk.read_bounded(directory.place(name), bytes_max) if bytes_max > 0 else None
    return None


def _events(directory: RunDirectory, bytes_max: int) -> dict[str, bytes]:
    """Return the whole lines of the journal that fit, the first ones."""
    with contextlib.suppress(OSError):
        data = directory.disk.read(directory.place(journal.NAME), max(0, min(bytes_max, journal.BYTES_MAX)))
        whole = data[: data.rfind(b"\n") + 1]
        return {journal.NAME: whole} if whole else {}
    return {}


def _logs(directory: RunDirectory, names: list[str], left: int, each_max: int) -> Iterator[tuple[str, bytes]]:
    """Yield the logs; those that are short leave their share to those behind them."""
    from reconciler.publish import bounded

    for ahead, name in zip(range(len(names), 0, -1), names, strict=True):
        share = min(each_max, left // ahead)
        with contextlib.suppress(OSError):
            if share >= CUT_LOG_BYTES_MIN:
                data = bounded(directory.disk, directory.place(name), share)
                left -= len(data)
                yield name, data


# ------------------------------------------------------------------------------------------------ mending


def mend(directory: RunDirectory, number: int, outcome: Outcome, detail: str) -> None:
    """Write down how an attempt ended of which no worker is left to say it; what it said itself stays."""
    known = record_of(directory, number)
    if known is not None and known.outcome is not None:
        return
    now_at = process.instant().at
    attempt = known or _unknown(number)
    stages = tuple(_ended(each, now_at, detail) for each in attempt.stages)
    ended = replace(attempt, stages=stages, outcome=outcome, detail=detail, ended_at=now_at)
    directory.disk.make_directory(directory.path / "attempts")
    directory.disk.write_atomic(directory.record("attempts", number), codec.compact(ended))


def last_words(directory: RunDirectory, secrets: Sequence[bytes]) -> str:
    """Return the last line that a worker said when it crashed, without secrets, "" if it said none."""
    path = directory.place("worker.err")
    found = directory.disk.look(path)
    if found is None or found.is_directory:
        return ""
    data = directory.disk.read(path, CRASH_BYTES, max(0, found.bytes - CRASH_BYTES))
    lines = redact_text(data.decode(errors="replace"), values=secrets).strip().splitlines()
    text = "".join(each if each.isprintable() else " " for each in lines[-1]) if lines else ""
    return text[:CRASH_CHARACTERS_MAX]


def _unknown(number: int) -> Attempt:
    """Return the record of an attempt that left none."""
    return Attempt(
        number=number, worker=process.myself(), host=process.this_machine(), started=process.instant(), stages=()
    )


def _ended(record: StageRecord, now_at: str, detail: str) -> StageRecord:
    if record.status != StageStatus.RUNNING:
        return record
    return replace(record, status=StageStatus.INTERRUPTED, completed_at=now_at, summary=detail)
