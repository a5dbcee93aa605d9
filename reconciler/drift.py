"""What a control plane expects against what manifests say: of one run, and summed up over the runs of a task. Pure.

As in `aggregate`, every value is a function of the previous one at the tip and of the manifests that the same commit
adds or replaces. A previous value that is damaged counts for nothing: it is begun anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from reconciler import codec
from reconciler.values import frozen

SCHEMA_VERSION = 1
ITEMS_MAX = 20
PATHS_MAX = 50
NEWEST_MAX = 20
PATH_CHARACTERS_MAX = 500
ENDS = ("succeeded", "failed", "cancelled")

Document = Mapping[str, Any]


@frozen
class Counts:
    total: int = 0
    valid: int = 0
    invalid: int = 0
    unreachable: int = 0
    drifted: int = 0


@frozen
class Sample:
    run_id: str
    at: str
    mode: str
    outcome: str
    remote_id: str | None
    paths: tuple[str, ...] = ()


@frozen
class Sums:
    """What of a `drift.json` the next one is made from."""

    samples: Counts = Counts()
    paths: Mapping[str, int] = field(default_factory=dict)
    newest: tuple[Sample, ...] = ()


def drift_path(task_id: str) -> str:
    return f".runs/{task_id}/drift.json"


def is_sampled(document: Document) -> bool:
    """Return whether a manifest is of a run that a control plane was shown."""
    return isinstance(document.get("control_plane"), Mapping)


# ------------------------------------------------------------------------------------------------ of one run


def section(document: Document) -> dict[str, Any] | None:
    """Return what a run summary says of the control plane, None where none was asked."""
    if not is_sampled(document):
        return None
    control = document["control_plane"]
    items = list(differences(document))
    return {
        **{key: control[key] for key in ("mode", "outcome", "remote_id")},
        "drift": {"total": len(items), "items": items[:ITEMS_MAX]},
    }


def differences(document: Document) -> Iterator[dict[str, Any]]:
    """Yield where a manifest is not as expected: a place in the expectation, what stands there, what was found."""
    expected = document["control_plane"].get("expected") or {}
    found = _said(document)
    for key in ("task_id", "pipeline_id", "commit", "plan_digest", "redaction"):
        if expected.get(key) is not None and expected[key] != found[key]:
            yield {"path": f"/{key}", "expected": expected[key], "found": found[key]}
    most = expected.get("attempts_max")
    if most is not None and len(document["attempts"]) > most:
        yield {"path": "/attempts_max", "expected": most, "found": len(document["attempts"])}
    if document["status"] not in ENDS:
        return  # a run that waits is no different yet
    statuses = {each["id"]: each["status"] for each in document["commands"]}
    for stage, status in expected.get("stages", {}).items():
        if statuses.get(stage) != status:
            yield {"path": _stage_path(stage), "expected": status, "found": statuses.get(stage)}


def _said(document: Document) -> dict[str, Any]:
    keys = ("task_id", "pipeline_id", "commit", "plan_digest")
    return {**{key: document.get(key) for key in keys}, "redaction": document["privacy"]["mode"]}


def _stage_path(stage: str) -> str:
    return f"/stages/{stage.replace('~', '~0').replace('/', '~1')}"[:PATH_CHARACTERS_MAX]


# ------------------------------------------------------------------------------------------------ of a task


def aggregate(
    previous: Document | None, task_id: str, added: Sequence[Document], replaced: Sequence[Document], updated_at: str
) -> dict[str, Any]:
    """Return `drift.json` of a task after the manifests in `replaced` gave way to those in `added`."""
    sums = sums_of(previous)
    counts: dict[str, int] = codec.dump(sums.samples)
    paths: dict[str, int] = dict(sums.paths)
    for sign, documents in ((-1, replaced), (1, added)):
        for document in filter(is_sampled, documents):
            _count(counts, paths, document, sign)
    gone = {each["run_id"] for each in (*replaced, *added)}
    rows = [*(each for each in sums.newest if each.run_id not in gone), *map(_sample, filter(is_sampled, added))]
    newest = sorted(rows, key=lambda each: (each.at, each.run_id), reverse=True)[:NEWEST_MAX]
    frequent = sorted((each for each in paths if paths[each] > 0), key=lambda each: (-paths[each], each))[:PATHS_MAX]
    return {
        "schema_version": SCHEMA_VERSION,
        "task_id": task_id,
        "updated_at": updated_at,
        "samples": counts,
        "drift_rate": min(1.0, round(counts["drifted"] / counts["total"], 4)) if counts["total"] else 0.0,
        "paths": {each: paths[each] for each in sorted(frequent)},
        "newest": codec.dump(newest),
    }


def sums_of(previous: Document | None) -> Sums:
    """Return what the tip says so far, nothing where that is damaged."""
    keys = ("samples", "paths", "newest")
    try:
        found = codec.load(Sums, {key: previous[key] for key in keys if key in previous} if previous else {})
    except (codec.CodecError, TypeError):
        return Sums()
    sound = all(each >= 0 for each in (*codec.dump(found.samples).values(), *found.paths.values()))
    return found if sound else Sums()


def _count(counts: dict[str, int], paths: dict[str, int], document: Document, sign: int) -> None:
    """Add a run to the sums (sign 1), or take it away (sign -1)."""
    where = [each["path"] for each in differences(document)][:ITEMS_MAX]
    outcome = document["control_plane"]["outcome"]
    for key in ("total", *([outcome] if outcome in counts else []), *(["drifted"] if where else [])):
        counts[key] = max(0, counts[key] + sign)
    for each in where:
        paths[each] = max(0, paths.get(each, 0) + sign)


def _sample(document: Document) -> Sample:
    control = document["control_plane"]
    return Sample(
        run_id=document["run_id"],
        at=control["at"],
        mode=control["mode"],
        outcome=control["outcome"],
        remote_id=control["remote_id"],
        paths=tuple(each["path"] for each in differences(document))[:ITEMS_MAX],
    )
