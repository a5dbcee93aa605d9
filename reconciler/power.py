"""What a change lets run, and who may allow it: old and new, side by side. Pure.

After a merge the pipelines, settings and prompts of the merge are what counts. So whoever reviews must see them as what
they are: a change of power, and not one file among many.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from reconciler import codec
from reconciler.model import Pipeline, Rejection, Settings, Stage, StageId
from reconciler.shown import cut
from reconciler.values import frozen

LINES_MAX = 60
LINE_CHARACTERS_MAX = 4000
CHARACTERS_MAX = 9000
"""How much of one file is told: a command of some length is told whole, and what is cut says so."""
TEXT_BYTES_MAX = 64 * 1024
"""Of larger files only the sizes are told."""

_PLAIN = Stage(id=StageId(""))
_QUIET = ("id", "title", "summary_hint")
"""Keys of a stage that change nothing but what people read."""


@frozen
class Power:
    """One file that decides what runs or who may allow it. `kind` is what it is, `effect` added, changed or removed,
    `lines` begin with `-` or `+`; `more` lines are not shown. `digest` is the object id of what it is after the merge,
    "" where it is gone."""

    path: str
    kind: str
    effect: str
    lines: tuple[str, ...]
    more: int = 0
    digest: str = ""


def of_pipeline(path: str, old: Pipeline | Rejection | None, new: Pipeline | Rejection | None) -> tuple[str, ...]:
    """Return how two states of a pipeline differ, none if only in words for people."""
    return tuple(_differences(_flat_pipeline(old), _flat_pipeline(new)))


def of_settings(old: Settings, new: Settings) -> tuple[str, ...]:
    """Return how two states of the settings differ, policy by policy and key by key."""
    return tuple(_differences(_flat_settings(old), _flat_settings(new)))


def of_text(old: bytes | None, new: bytes | None) -> tuple[str, ...]:
    """Return the lines in which two texts differ, or their sizes where they are no text, or a long one."""
    texts = [_text(each) for each in (old, new)]
    if texts[0] is None or texts[1] is None:
        sizes = [f"{len(each)} bytes" if each is not None else "nothing" for each in (old, new)]
        return (f"- {sizes[0]}", f"+ {sizes[1]}")
    lines = difflib.unified_diff(texts[0], texts[1], lineterm="", n=0)
    told = (each for each in islice(lines, 2, None) if not each.startswith("@@"))
    return tuple(f"{each[0]} {each[1:]}" for each in told)


def power(path: str, kind: str, there: tuple[bool, bool], lines: Iterable[str], digest: str) -> Power:
    """Return a change of power with as many lines as are shown; `there` is whether the file is there before, after."""
    found = list(lines)
    effect = {(False, True): "added", (True, False): "removed"}.get(there, "changed")
    shown = tuple(_told(found[:LINES_MAX], digest))
    return Power(path=path, kind=kind, effect=effect, lines=shown, more=len(found) - len(shown), digest=digest)


def whole(digest: str) -> str:
    """Return how a file is seen whole, "" where it is gone."""
    return f"git show {digest[:12]}" if digest else ""


def _told(lines: Iterable[str], digest: str) -> Iterator[str]:
    """Yield lines as long as there is room, each of them whole or marked as cut."""
    left = CHARACTERS_MAX
    for each in lines:
        line = cut(each, LINE_CHARACTERS_MAX, whole(digest))
        left -= len(line)
        if left < 0:
            return
        yield line


def _text(data: bytes | None) -> list[str] | None:
    if data is None:
        return []
    if len(data) > TEXT_BYTES_MAX or b"\0" in data:
        return None
    return data.decode(errors="replace").splitlines()


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            yield from (f"{sign} {key}: {side[key]}" for sign, side in (("-", old), ("+", new)) if key in side)


def _flat_pipeline(pipeline: Pipeline | Rejection | None) -> dict[str, str]:
    if pipeline is None:
        return {}
    if isinstance(pipeline, Rejection):
        return {"cannot be read": pipeline.problems[0].sentence()}
    whole: dict[str, object] = {
        "workspace": pipeline.workspace,
        "guardrails_required": pipeline.guardrails_required or None,
    }
    whole["stages"] = " ".join(each.id for each in pipeline.stages)
    found = {key: _said(value) for key, value in whole.items() if value is not None}
    found |= {f"parameters.{name}": _said(each) for name, each in pipeline.parameters.items()}
    for stage in pipeline.stages:
        found |= {f"{stage.id}.{key}": value for key, value in _flat_stage(stage).items()}
    return found


def _flat_stage(stage: Stage) -> dict[str, str]:
    """Return what a stage says beyond the defaults."""
    said, plain = codec.dump(stage), codec.dump(_PLAIN)
    keys = (key for key in said if key not in _QUIET and said[key] != plain[key])
    return {key.removesuffix("_"): _said(said[key]) for key in keys}


def _flat_settings(settings: Settings) -> dict[str, str]:
    said = codec.dump(settings)
    policies = {each.name: each for each in settings.approvals}
    del said["approvals"]
    found = {key: _said(value) for key, value in said.items()}
    for name, policy in policies.items():
        terms = {key: value for key, value in codec.dump(policy).items() if key != "name" and value}
        found[f"approvals.{name}"] = _said(terms)
    return found


def _said(value: object) -> str:
    said = codec.dump(value)
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
