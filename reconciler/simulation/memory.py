"""Parsing remembered, for the time of simulations only: the same bytes are the same frozen value."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any

from reconciler import checklist, codec, parse, settings

REMEMBERED_MAX = 20_000


def _remembering(function: Callable[..., Any], key: Callable[..., Any]) -> Callable[..., Any]:
    known: dict[Any, Any] = {}

    def remembered(*arguments: Any) -> Any:
        asked = key(*arguments)
        try:
            found = known[asked]
        except KeyError:
            pass
        else:
            if isinstance(found, codec.CodecError):
                raise found.with_traceback(None)
            return found
        try:
            made = function(*arguments)
            made = tuple(made) if isinstance(made, Iterator) else made
        except codec.CodecError as error:
            made = error
        if len(known) >= REMEMBERED_MAX:
            known.clear()
        known[asked] = made
        if isinstance(made, codec.CodecError):
            raise made
        return made

    return remembered


_dump, _render = codec.dump, codec.render
_LEAVES = (int, float, bool, type(None))


def _quick_dump(value: Any) -> Any:
    """Return what `codec.dump` returns: most values need no look at what else they could be."""
    kind = type(value)
    if kind in _LEAVES or (kind is str and value.isascii()):
        return value
    if kind is dict:
        return {str(key): _quick_dump(item) for key, item in value.items()}
    if kind is tuple or kind is list:
        return [_quick_dump(item) for item in value]
    names = _names.get(kind)
    if names is None:
        names = _names[kind] = codec._field_names(kind) if is_dataclass(kind) else ()
    return {name: _quick_dump(getattr(value, name)) for name in names} if names else _dump(value)


_names: dict[Any, tuple[str, ...]] = {}

KNOWN = (
    (codec, "parse", lambda kind, data: (kind, data)),
    (parse, "parse_request", lambda data, source, contracts: (data, source)),
    (parse, "parse_pipeline", lambda data, source, contracts: (data, source)),
    (settings, "parse_settings", lambda data, source, contracts: (data, source)),
    (checklist, "_survey", lambda data, path: (data, path)),
)
REMEMBERING = [(module, name, _remembering(getattr(module, name), key)) for module, name, key in KNOWN]


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Remember what parsing returned."""
    before = [(module, name, getattr(module, name)) for module, name, _ in REMEMBERING]
    try:
        for module, name, function in REMEMBERING:
            setattr(module, name, function)
        codec.dump = _quick_dump
        # Indenting is slow, and nobody reads these documents.
        codec.render = codec.compact
        yield
    finally:
        codec.dump = _dump
        codec.render = _render
        for module, name, function in before:
            setattr(module, name, function)
