"""Secrets out of what was written before anybody knew them: the values themselves, wherever they stand. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from reconciler.model import Attempt, Judgement, StageRecord

MARK = b"[redacted:environment]"
"""The same as for a value of the environment: that is what these are to a stage."""


def scrubbed(data: bytes, values: Sequence[bytes]) -> bytes:
    """Return bytes without any of the values; the longest are to come first."""
    for each in values:
        if each and each in data:
            data = data.replace(each, MARK)
    return data


def scrubbed_text(text: str, values: Sequence[bytes]) -> str:
    """Return text without any of the values."""
    data = text.encode("utf-8", "surrogatepass")
    found = scrubbed(data, values)
    return text if found is data else found.decode("utf-8", "replace")


def scrubbed_json(value: Any, values: Sequence[bytes]) -> Any:
    """Return JSON values without any of the values in their texts."""
    if isinstance(value, str):
        return scrubbed_text(value, values)
    if isinstance(value, list | tuple):
        return [scrubbed_json(each, values) for each in value]
    if isinstance(value, dict):
        return {scrubbed_text(key, values): scrubbed_json(each, values) for key, each in value.items()}
    return value


def scrubbed_stage(record: StageRecord, values: Sequence[bytes]) -> StageRecord:
    """Return what is written down of a stage without the values in what it said and answered. Its files are named by
    path and digest, and stay as they are."""
    answer = record.answer
    if answer is not None:
        answer = {key: each if key == "files" else scrubbed_json(each, values) for key, each in answer.items()}
    return replace(record, summary=scrubbed_text(record.summary, values), answer=answer)


def scrubbed_attempt(attempt: Attempt, values: Sequence[bytes]) -> Attempt:
    """Return what is written down of an attempt without the values in what others said."""
    judgement = attempt.judgement
    return replace(
        attempt,
        stages=tuple(scrubbed_stage(each, values) for each in attempt.stages),
        detail=scrubbed_text(attempt.detail, values),
        judgement=None if judgement is None else _judgement(judgement, values),
    )


def _judgement(said: Judgement, values: Sequence[bytes]) -> Judgement:
    reasons = tuple(scrubbed_text(each, values) for each in said.tested.reasons)
    return replace(
        said,
        tested=replace(said.tested, reasons=reasons),
        reviewed=replace(said.reviewed, reason=scrubbed_text(said.reviewed.reason, values)),
        records=tuple(scrubbed_stage(each, values) for each in said.records),
    )
