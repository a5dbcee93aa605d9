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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from functools import cache, lru_cache
from json.encoder import encode_basestring
from operator import attrgetter
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from reconciler.values import is_frozen

T = TypeVar("T")


REMEMBERED_MAX, REMEMBERED_BYTES_MAX = 4096, 8192
"""So many records are remembered by what they are spelled as, and none that is longer."""
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
    try:
        return f"{_indented(value, chr(10))}\n".encode()
    except UnicodeEncodeError:
        return json.dumps(dump(value), indent=2, **_EXACT).encode() + b"\n"


def compact(value: Any) -> bytes:
    """Return `value` as JSON on one line: for records that only programs read (no indent is half the work)."""
    try:
        return f"{_ONE_LINE[type(value)](value)}\n".encode()
    except UnicodeEncodeError:
        return json.dumps(dump(value), **_EXACT).encode() + b"\n"


def canonical(value: Any) -> bytes:
    """Return the one spelling of `value` that digests are taken of: sorted keys, no spaces."""
    try:
        return _CANONICAL[type(value)](value).encode()
    except UnicodeEncodeError:
        return json.dumps(dump(value), sort_keys=True, separators=(",", ":"), **_EXACT).encode()


_EXACT: Mapping[str, Any] = {"ensure_ascii": False, "allow_nan": False}
"""What cannot be said in UTF-8 is spelled the slow way: it is rare, and to look for it in every text is not free."""


def digest(value: Any) -> str:
    """Return the SHA-256 (64 hex characters) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value)).hexdigest()


# ------------------------------------------------------------------------------------------------ spelling

Spell = Callable[[Any], str]


def _spell_float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"Out of range float values are not JSON compliant: {value!r}")
    return repr(value)


LEAVES: Mapping[type, Spell] = {
    str: encode_basestring,
    int: int.__repr__,
    float: _spell_float,
    bool: lambda value: "true" if value else "false",
    type(None): lambda value: "null",
}


class _Keys(dict[str, str]):
    """How the keys of objects are spelled, with the colon behind them."""

    def __init__(self, colon: str) -> None:
        super().__init__()
        self.colon = colon

    def __missing__(self, key: str) -> str:
        if len(self) >= REMEMBERED_MAX:
            self.clear()
        made = self[key] = f"{encode_basestring(key)}{self.colon}"
        return made


class Spelling(dict[type, Spell]):
    """How values of each type are spelled on one line. What is to be done with a type is found out when it is first
    met: to ask each value what it is, and make plain values of it first, takes twice as long."""

    def __init__(self, *, comma: str, colon: str, in_order: bool = False) -> None:
        super().__init__(LEAVES)
        self.comma, self.colon, self.in_order = comma, colon, in_order
        self.keys_spelled = _Keys(colon)

    def __missing__(self, kind: type) -> Spell:
        made = self[kind] = self._of(kind)
        return made

    def _of(self, kind: type) -> Spell:
        if issubclass(kind, Enum):
            return lambda value: self[type(value.value)](value.value)
        if issubclass(kind, str):
            return encode_basestring
        if issubclass(kind, OBJECTS):
            return self.mapping
        if issubclass(kind, tuple | list):
            return lambda value: f"[{self.comma.join([self[type(each)](each) for each in value])}]"
        if is_dataclass(kind):
            return self.fields(kind)
        raise CodecError(f"{kind.__name__} has no JSON form")

    def mapping(self, value: Mapping[Any, Any]) -> str:
        if self.in_order:
            value = dict(sorted([(str(key), item) for key, item in value.items()], key=lambda each: each[0]))
        # What is no text itself may be equal to a text, or to another key, and be spelled in another way.
        parts = [
            f"{self.keys_spelled[key if type(key) is str else str(key)]}{self[type(item)](item)}"
            for key, item in value.items()
        ]
        return f"{{{self.comma.join(parts)}}}"

    def fields(self, kind: Any) -> Spell:
        """Return how a dataclass is spelled."""
        names = sorted(_field_names(kind)) if self.in_order else _field_names(kind)
        form = f"{{{self.comma.join(f'{encode_basestring(name)}{self.colon}%s' for name in names)}}}"

        values = _getter(names)

        def spell(value: Any) -> str:
            return form % tuple([self[type(each)](each) for each in values(value)])

        return spell


def _getter(names: Sequence[str]) -> Callable[[Any], Sequence[Any]]:
    """Return what gets the values of these fields; `attrgetter` returns one by itself, and none not at all."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda value: [getattr(value, name) for name in names]


_ONE_LINE = Spelling(comma=", ", colon=": ")
_CANONICAL = Spelling(comma=",", colon=":", in_order=True)


def _indented(value: Any, line: str) -> str:
    """Return `value` on several lines; `line` is a line break with what every line of it begins with."""
    kind = type(value)
    if issubclass(kind, tuple | list):
        return _list(value, line)
    if is_dataclass(kind):
        value = {name: getattr(value, name) for name in _field_names(kind)}
    elif kind in LEAVES or not issubclass(kind, OBJECTS):
        return _ONE_LINE[kind](value)
    inner, parts = f"{line}  ", []
    for key, item in value.items():
        spell = LEAVES.get(type(item))
        text = spell(item) if spell is not None else _indented(item, inner)
        parts.append(f"{encode_basestring(str(key))}: {text}")
    return f"{{{inner}{f',{inner}'.join(parts)}{line}}}" if parts else "{}"


def _list(value: Sequence[Any], line: str) -> str:
    inner = f"{line}  "
    parts = [_indented(each, inner) for each in value]
    return f"[{inner}{f',{inner}'.join(parts)}{line}]" if parts else "[]"


# ------------------------------------------------------------------------------------------------ reading


def prepare(*kinds: type) -> None:
    """Make the loaders of these dataclasses now, so that processes forked later need not."""
    for kind in kinds:
        _loader(kind)


def parse(kind: type[T], data: bytes) -> T:
    """Return the `kind` that `data` spells. Raise CodecError with the reason when it spells none."""
    if len(data) > REMEMBERED_BYTES_MAX or not is_frozen(kind):
        return _parsed(kind, data)
    shared: Any = kind
    found: T = _parsed_once(shared, data)
    return found


def _parsed(kind: type[T], data: bytes) -> T:
    try:
        value = _DECODER.decode(data.decode(json.detect_encoding(data), "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise CodecError(f"not JSON ({error})") from None
    return load(kind, value)


_parsed_once = lru_cache(maxsize=REMEMBERED_MAX)(_parsed)
"""A pass reads what the one before it has read, and reads it again to publish it: equal bytes are one frozen value."""


def load(kind: type[T], value: Any) -> T:
    """Return `value`, made of plain JSON values, as a `kind`. Raise CodecError."""
    wanted: Any = kind
    try:
        result: T = _loader(wanted)(value)
    except _Misfit as misfit:
        where = "".join(f"/{each}" for each in reversed(misfit.where))
        raise CodecError(f"{where or 'document'} {misfit.reason}") from None
    return result


class _Misfit(Exception):
    """A value that is not what its place wants. `where` is the way to it, from within: each value on the way adds its
    key as the error passes, because of a thousand records none has one."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.where: list[object] = []


Loader = Callable[[Any], Any]


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
        return lambda value: value
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


def _load_float(value: Any) -> float:
    """Return a finite number: JSON has no other, and none of ours may be compared with one that is not."""
    if type(value) not in (int, float):
        raise _Misfit(f"is {type(value).__name__}, expected float")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _Misfit("is not a finite number")
    return number


def _scalar_loader(kind: Any) -> Loader:
    def load_scalar(value: Any) -> Any:
        if type(value) is not kind:
            raise _Misfit(f"is {type(value).__name__}, expected {kind.__name__}")
        return value

    return load_scalar


def _enum_loader(kind: Any) -> Loader:
    known = {each.value: each for each in kind}

    def load_enum(value: Any) -> Any:
        try:
            return known[value]
        except (KeyError, TypeError):
            raise _Misfit(f"is {value!r}, not a {kind.__name__}") from None

    return load_enum


def _union_loader(choices: tuple[Any, ...]) -> Loader:
    loaders = [_loader(each) for each in choices if each is not type(None)]
    nullable = type(None) in choices

    def load_union(value: Any) -> Any:
        if value is None and nullable:
            return None
        for each in loaders[:-1]:
            try:
                return each(value)
            except _Misfit:
                continue
        return loaders[-1](value)

    return load_union


def _tuple_loader(item: Loader) -> Loader:
    def load_tuple(value: Any) -> Any:
        if not isinstance(value, list):
            raise _Misfit(f"is {type(value).__name__}, expected an array")
        found: list[Any] = []
        try:
            for each in value:
                found.append(item(each))
        except _Misfit as misfit:
            misfit.where.append(len(found))
            raise
        return tuple(found)

    return load_tuple


def _mapping_loader(item: Loader) -> Loader:
    def load_mapping(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Misfit(f"is {type(value).__name__}, expected an object")
        found, key = {}, ""
        try:
            for key, each in value.items():
                found[key] = item(each)
        except _Misfit as misfit:
            misfit.where.append(key)
            raise
        return found

    return load_mapping


def _dataclass_loader(kind: Any) -> Loader:
    hints = get_type_hints(kind)
    loaders = {each.name: _loader(hints[each.name]) for each in fields(kind)}
    required = {each.name for each in fields(kind) if each.default is MISSING and each.default_factory is MISSING}

    def load_dataclass(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Misfit(f"is {type(value).__name__}, expected an object")
        if not value.keys() >= required:
            raise _Misfit(f"lacks {', '.join(sorted(required - value.keys()))}")
        if not value.keys() <= loaders.keys():
            raise _Misfit(f"has unknown {', '.join(sorted(value.keys() - loaders.keys()))}")
        found, key = {}, ""
        try:
            for key, each in value.items():
                found[key] = loaders[key](each)
        except _Misfit as misfit:
            misfit.where.append(key)
            raise
        return kind(**found)

    return load_dataclass
