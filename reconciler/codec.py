"""How values are spelled in JSON: dataclasses to plain values to bytes, and back.

Field names are keys, enum values are words, tuples are arrays, mappings are objects. Reading is strict: an
unknown key, a missing one or a value of another type raises `CodecError`, because a record that is not what
its writer wrote must be quarantined and never guessed at.
"""

from __future__ import annotations

import hashlib
import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


PLAIN = frozenset((type(None), bool, int, float))
OBJECTS = (dict, Mapping)
"""To ask for `dict` first spares asking the abstract class, which takes eight times as long."""


class CodecError(ValueError):
    """Bytes that are not the record they should be."""


def dump(value: Any) -> Any:
    """Return `value` as plain JSON values."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return value if value.isascii() else _sayable(value)
    if isinstance(value, OBJECTS):
        return {str(key): dump(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [dump(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        kind: Any = type(value)
        return {name: dump(getattr(value, name)) for name in _field_names(kind)}
    raise CodecError(f"{type(value).__name__} has no JSON form")


def _sayable(text: str) -> str:
    """Return text in which what UTF-8 cannot say (half of a name that is no UTF-8) is spelled out."""
    return text.encode(errors="backslashreplace").decode()


def render(value: Any) -> bytes:
    """Return `value` as indented JSON with a final newline: for files that people read, too."""
    return json.dumps(dump(value), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def compact(value: Any) -> bytes:
    """Return `value` as JSON on one line: for records that only programs read (no indent is three times as fast)."""
    return json.dumps(dump(value), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def canonical(value: Any) -> bytes:
    """Return the one spelling of `value` that digests are taken of: sorted keys, no spaces."""
    text = json.dumps(dump(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest(value: Any) -> str:
    """Return the SHA-256 (64 hex characters) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


def prepare(*kinds: type) -> None:
    """Make the loaders of these dataclasses now, so that processes forked later need not."""
    for kind in kinds:
        _loader(kind)


def parse(kind: type[T], data: bytes) -> T:
    """Return the `kind` that `data` spells. Raise CodecError with the reason when it spells none."""
    try:
        value = _DECODER.decode(data.decode(json.detect_encoding(data), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not JSON ({error})") from None
    return load(kind, value)


def load(kind: type[T], value: Any) -> T:
    """Return `value`, made of plain JSON values, as a `kind`. Raise CodecError."""
    wanted: Any = kind
    result: T = _loader(wanted)(value, ())
    return result


Where = tuple[Any, ...]
"""Where in a document a value stands: () for the whole, else (where its parent stands, key). It is only spelled for
an error: of a thousand records none has one."""

Loader = Callable[[Any, Where], Any]


def _at(where: Where) -> str:
    return f"{_at(where[0])}/{where[1]}" if where else ""


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))


@cache
def _loader(kind: Any) -> Loader:
    kind = getattr(kind, "__supertype__", kind)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union_loader(get_args(kind))
    if origin is tuple:
        return _tuple_loader(_loader(get_args(kind)[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_loader(_loader(get_args(kind)[1]))
    if kind is object:
        return lambda value, where: value
    if is_dataclass(kind):
        return _dataclass_loader(kind)
    if issubclass(kind, Enum):
        return _enum_loader(kind)
    if kind is float:
        return _load_float
    return _scalar_loader(kind)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def _load_float(value: Any, where: Where) -> float:
    """Return a finite number: JSON has no other, and none of ours may be compared with one that is not."""
    if type(value) not in (int, float):
        raise CodecError(f"{_at(where) or 'document'} is {type(value).__name__}, expected float")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise CodecError(f"{_at(where) or 'document'} is not a finite number")
    return number


def _scalar_loader(kind: Any) -> Loader:
    def load_scalar(value: Any, where: Where) -> Any:
        if type(value) is not kind:
            raise CodecError(f"{_at(where) or 'document'} is {type(value).__name__}, expected {kind.__name__}")
        return value

    return load_scalar


def _enum_loader(kind: Any) -> Loader:
    def load_enum(value: Any, where: Where) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise CodecError(f"{_at(where)} is {value!r}, not a {kind.__name__}") from None

    return load_enum


def _union_loader(choices: tuple[Any, ...]) -> Loader:
    loaders = [_loader(each) for each in choices if each is not type(None)]
    nullable = type(None) in choices

    def load_union(value: Any, where: Where) -> Any:
        if value is None and nullable:
            return None
        for each in loaders[:-1]:
            try:
                return each(value, where)
            except CodecError:
                continue
        return loaders[-1](value, where)

    return load_union


def _tuple_loader(item: Loader) -> Loader:
    def load_tuple(value: Any, where: Where) -> Any:
        if not isinstance(value, list):
            raise CodecError(f"{_at(where)} is {type(value).__name__}, expected an array")
        return tuple(item(each, (where, index)) for index, each in enumerate(value))

    return load_tuple


def _mapping_loader(item: Loader) -> Loader:
    def load_mapping(value: Any, where: Where) -> Any:
        if not isinstance(value, dict):
            raise CodecError(f"{_at(where)} is {type(value).__name__}, expected an object")
        return {key: item(each, (where, key)) for key, each in value.items()}

    return load_mapping


def _dataclass_loader(kind: Any) -> Loader:
    hints = get_type_hints(kind)
    loaders = {each.name: _loader(hints[each.name]) for each in fields(kind)}
    required = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}

    def load_dataclass(value: Any, where: Where) -> Any:
        if not isinstance(value, dict):
            raise CodecError(f"{_at(where) or 'document'} is {type(value).__name__}, expected an object")
        if not value.keys() >= required:
            missing = ", ".join(sorted(required - value.keys()))
            raise CodecError(f"{_at(where) or 'document'} lacks {missing}")
        if not value.keys() <= loaders.keys():
            unknown = ", ".join(sorted(value.keys() - loaders.keys()))
            raise CodecError(f"{_at(where) or 'document'} has unknown {unknown}")
        return kind(**{key: loaders[key](each, (where, key)) for key, each in value.items()})

    return load_dataclass
