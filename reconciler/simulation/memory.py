"""What was computed is remembered while simulating.

The same bytes are the same frozen value, and the same frozen value is the same text.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from operator import attrgetter
from typing import Any

from reconciler import (
    apply,
    checklist,
    codec,
    evidence,
    loop,
    notes,
    observe,
    parse,
    phases,
    resolve,
    settings,
    tip,
    wishes,
)
from reconciler.model import Pipeline, PipelineId, Plan, Rejection, Request, Settings
from reconciler.values import is_frozen

REMEMBERED_MAX = 2_000


def _remembering(function: Callable[..., Any], key: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[Any, Any] = {}

    def remembered(*arguments: Any) -> Any:
        asked = key(*arguments)
        try:
            return known[asked]
        except KeyError:
            pass
        made = function(*arguments)
        made = tuple(made) if isinstance(made, Iterator) else made
        if len(known) >= REMEMBERED_MAX:
            known.clear()
        known[asked] = made
        return made

    return remembered


def _by_identity(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that remembers what it returned for the very same values, which must be frozen: to compare such
    as `Request` costs more than to look where they are. Who is remembered stays, so nobody else is at its place."""
    known: dict[tuple[int, ...], tuple[tuple[Any, ...], Any]] = {}

    def remembered(*arguments: Any) -> Any:
        key = tuple([id(each) for each in arguments])
        found = known.get(key)
        if found is not None:
            return found[1]
        made = function(*arguments)
        if len(known) >= REMEMBERED_MAX:
            known.clear()
        known[key] = (arguments, made)
        return made

    return remembered


# ------------------------------------------------------------------------------------------------ values

_fields: dict[type, tuple[tuple[str, ...], Callable[[Any], Any]]] = {}


def _quick_replace(value: Any, /, **changes: Any) -> Any:
    """Return what `dataclasses.replace` returns for a class whose fields are all given when a value is made."""
    kind = type(value)
    known = _fields.get(kind)
    if known is None:
        fields = dataclasses.fields(kind)
        if len(fields) < 2 or not all(each.init for each in fields):
            return replace(value, **changes)
        names = tuple(each.name for each in fields)
        known = _fields[kind] = (names, attrgetter(*names))
    given = dict(zip(known[0], known[1](value), strict=True))
    given.update(changes)
    return kind(**given)


# ------------------------------------------------------------------------------------------------ JSON


class _Texts(codec.Spelling):
    """How values of each type are spelled in JSON on one line: one that is frozen is spelled once."""

    def fields(self, kind: Any) -> Callable[[Any], str]:
        spell = super().fields(kind)
        known: dict[int, tuple[Any, str]] = {}

        def spell_once(value: Any) -> str:
            found = known.get(id(value))
            if found is not None:
                return found[1]
            text = spell(value)
            if len(known) >= REMEMBERED_MAX:
                known.clear()
            known[id(value)] = (value, text)
            return text

        return spell_once if is_frozen(kind) else spell


_compact, _dump, _parse, _resolve = codec.compact, codec.dump, codec._parsed, resolve.resolve
_TEXTS = _Texts(comma=", ", colon=": ")


def _quick_compact(value: Any) -> bytes:
    """Return what `codec.compact` returns, and remember what it is if it cannot change."""
    kind = type(value)
    try:
        data = f"{_TEXTS[kind](value)}\n".encode()
    except UnicodeEncodeError:
        return _compact(value)
    if is_frozen(kind) and (kind, data) not in _parsed:
        _remember_parsed(kind, data, value)
    return data


def _quick_dump(value: Any) -> Any:
    """Return what `codec.dump` returns: most values need no look at what else they could be."""
    kind = type(value)
    if kind in _LEAVES or (kind is str and value.isascii()):
        return value
    if kind is dict:
        return {str(key): _quick_dump(item) for key, item in value.items()}
    if kind is tuple or kind is list:
        return [_quick_dump(item) for item in value]
    return _dump(value)


_LEAVES = (int, float, bool, type(None))
_parsed: dict[tuple[type, bytes], Any] = {}


def _remember_parsed(kind: type, data: bytes, value: Any) -> None:
    if len(_parsed) >= REMEMBERED_MAX:
        _parsed.clear()
    _parsed[kind, data] = value


def _quick_parse(kind: type, data: bytes) -> Any:
    """Return what `codec.parse` returns."""
    found = _parsed.get((kind, data))
    if found is None:
        try:
            found = _parse(kind, data)
        except codec.CodecError as error:
            found = error
        if is_frozen(kind):
            _remember_parsed(kind, data, found)
    if type(found) is codec.CodecError:
        raise found.with_traceback(None)
    return found


# ------------------------------------------------------------------------------------------------ plans

_plans: dict[tuple[object, ...], tuple[tuple[object, ...], Plan]] = {}


def _quick_resolve(
    request: Request, pipelines: Mapping[PipelineId, Pipeline | Rejection], settings: Settings, place: resolve.Place
) -> Plan | Rejection:
    """Return what `resolve.resolve` returns: of the commit and the branch, a plan holds no more than their names."""
    pipeline, instructions = pipelines.get(request.pipeline), place.instructions
    # A plan that nests others depends on all of them.
    nests = isinstance(pipeline, Pipeline) and any(stage.pipeline is not None for stage in pipeline.stages)
    known_ones = tuple(pipelines.values()) if nests else (pipeline,)
    key = (id(request), id(pipeline), *map(id, known_ones), id(settings), instructions, place.occasion, place.task)
    known = _plans.get(key)
    if known is None:
        plan = _resolve(request, pipelines, settings, place)
        if isinstance(plan, Rejection):
            return plan
    elif (known[1].commit, known[1].branch) == (place.commit, place.branch):
        return known[1]
    else:
        plan = _quick_replace(known[1], commit=place.commit, branch=place.branch)
    if len(_plans) >= REMEMBERED_MAX:
        _plans.clear()
    _plans[key] = ((request, known_ones, settings), plan)
    return plan


# ------------------------------------------------------------------------------------------------ all of it

REMEMBERING = [
    (module, name, _remembering(getattr(module, name), key))
    for module, name, key in (
        (parse, "parse_request", lambda data, source, contracts: (data, source)),
        (parse, "parse_pipeline", lambda data, source, contracts: (data, source)),
        (parse, "parse_approval", lambda data, source, contracts: (data, source)),
        (settings, "parse_settings", lambda data, source, contracts: (data, source)),
        (checklist, "_survey", lambda data, path: (data, path)),
        (evidence, "evidence_row", lambda run_id, oid, data: (run_id, oid, data is None)),
        (tip, "demands", lambda data: data),
    )
]
BY_IDENTITY = [
    (module, name, _by_identity(getattr(module, name)))
    for module, name in ((resolve, "run_id"), (observe, "executors_here"), (phases, "judge"))
]
REPLACING = [(module, "replace", _quick_replace) for module in (apply, loop, notes, resolve, wishes)]
QUICK: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (codec, "parse", _quick_parse),
    (codec, "compact", _quick_compact),
    # Indenting is slow, and nobody reads these documents.
    (codec, "render", _quick_compact),
    (codec, "dump", _quick_dump),
    (resolve, "resolve", _quick_resolve),
    *REMEMBERING,
    *BY_IDENTITY,
    *REPLACING,
)


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Remember what parsing, spelling, resolving and judging returned."""
    before = [(module, name, getattr(module, name)) for module, name, _ in QUICK]
    try:
        for module, name, function in QUICK:
            setattr(module, name, function)
        yield
    finally:
        for module, name, function in before:
            setattr(module, name, function)
