"""Which changed files decide what runs, or who may allow it, and how they differ.

Pipelines, settings, signers and the instructions of agents are known by their paths; prompts and scripts by the stages
that name them, before the change or after it. A manifest that a change brings along proves runs that never were.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from reconciler import codec, parse, power, resolve
from reconciler.git import Entry
from reconciler.model import Pipeline, Rejection, Source
from reconciler.power import Power
from reconciler.proposal_sides import Side
from reconciler.tip import SETTINGS_PATH

POWERS_MAX = 500
STRINGS_MAX = 10_000
"""So many strings of all pipelines are looked at for names of changed files."""

_PIPELINE = re.compile(r"pipelines/([^/]+)\.yaml")
_MANIFEST = re.compile(r"\.runs/[^/]+/cli/([^/]+)/manifest\.json")
_WORD = re.compile(r"[^\s;&|()<>\"']+")

Changed = Mapping[str, Entry | None]


def powers(base: Side, merged: Side, changed: Changed) -> tuple[Power, ...]:
    """Return every change of power in a change, by path: what runs first, and what is named by it behind."""
    found = [*_pipelines(base, merged, changed), *_settings(base, merged, changed)]
    found += _texts(base, merged, changed, _named(base, merged, changed))
    found += _evidence(base, merged, changed)
    return tuple(found[:POWERS_MAX])


def _pipelines(base: Side, merged: Side, changed: Changed) -> Iterator[Power]:
    for path in sorted(changed):
        if _PIPELINE.fullmatch(path):
            data, there, digest = _contents(base, merged, path)
            parsed = [_parsed(each, path, side) for each, side in zip(data, (base, merged), strict=True)]
            lines = power.of_pipeline(path, parsed[0], parsed[1])
            if lines:
                yield power.power(path, "pipeline", there, lines, digest)


def _parsed(data: bytes | None, path: str, side: Side) -> Pipeline | Rejection | None:
    return None if data is None else parse.parse_pipeline(data, Source(path=path), side.world.contracts)


def _settings(base: Side, merged: Side, changed: Changed) -> Iterator[Power]:
    if SETTINGS_PATH in changed:
        data, there, digest = _contents(base, merged, SETTINGS_PATH)
        readable = not base.broken and not merged.broken
        lines = power.of_settings(base.tip.settings, merged.tip.settings) if readable else power.of_text(*data)
        if lines:
            yield power.power(SETTINGS_PATH, "settings", there, lines, digest)


def _texts(base: Side, merged: Side, changed: Changed, kinds: Mapping[str, str]) -> Iterator[Power]:
    for path, kind in sorted(kinds.items()):
        data, there, digest = _contents(base, merged, path)
        yield power.power(path, kind, there, power.of_text(*data), digest)


def _named(base: Side, merged: Side, changed: Changed) -> dict[str, str]:
    """Return the changed files that something powerful names, and what each is."""
    signers = {each.tip.settings.trust.allowed_signers for each in (base, merged)}
    found = {path: "signers" for path in changed if path in signers}
    found |= {path: "instructions" for path in changed if path in resolve.INSTRUCTION_PATHS}
    others = {path for path in changed if not path.startswith(("runs.d/", "pipelines/", ".runs/", "out/"))} - {*found}
    left = STRINGS_MAX
    for side in (base, merged) if others - {SETTINGS_PATH} else ():
        for kind, text in _strings(side.tip.all_pipelines().values()):
            left -= 1
            if left < 0:
                return found
            for word in _WORD.findall(text[:8192]):
                path = word.removeprefix("./")
                if path in others:
                    found.setdefault(path, kind)
    return found


def _strings(pipelines: Iterable[Pipeline | Rejection]) -> Iterator[tuple[str, str]]:
    """Yield every string by which a stage may name a file, and what that file would be."""
    for pipeline in pipelines:
        for stage in () if isinstance(pipeline, Rejection) else pipeline.stages:
            yield from (("script", each) for each in _flat(stage.command))
            yield from (("guard configuration", each) for each in _flat(stage.guard))
            yield from (("prompt", each) for each in _flat(stage.agent))


def _flat(value: object) -> Iterator[str]:
    match codec.dump(value):
        case str() as text:
            yield text
        case list() as items:
            yield from (each for item in items for each in _flat(item))
        case dict() as items:
            yield from (each for item in items.values() for each in _flat(item))


def _evidence(base: Side, merged: Side, changed: Changed) -> Iterator[Power]:
    """Yield what the change says of runs that it does not let run."""
    runs = sorted({found[1] for path in changed if (found := _MANIFEST.fullmatch(path))})
    rows: list[Mapping[str, list[Any]]] = [side.proofs.rows for side in (base, merged)]
    lines = []
    for run_id in runs:
        was, now = (f"{side[run_id][2]}" if run_id in side else "" for side in rows)
        if was != now:
            lines += [f"- {run_id}: {was}"] if was else []
            lines += [f"+ {run_id}: {now}, without being run"] if now else []
    if lines:
        yield power.power(".runs", "evidence", (True, True), lines, merged.tip.trees.evidence or "")


def _contents(base: Side, merged: Side, path: str) -> tuple[tuple[bytes | None, bytes | None], tuple[bool, bool], str]:
    """Return the bytes of a file before and after, whether it is there at all, and what it is after."""
    data, oids = [], []
    for side in (base, merged):
        files = side.world.repository.files_at(side.commit, [path])
        oids.append(files[0].oid if files else None)
        data.append(next(side.world.repository.blobs([files[0].oid]))[1] or b"\0" if files else None)
    return (data[0], data[1]), (oids[0] is not None, oids[1] is not None), oids[1] or ""
