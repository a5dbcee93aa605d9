"""`frozen`: a dataclass with slots whose definition costs a tenth. Words.

The program starts anew for every verb and for every pass in CI, and most of a start went into defining dataclasses:
`dataclass(frozen=True, slots=True)` writes five functions as text and compiles each (0.7 ms a class, of which this
package has two hundred). Here `dataclass` only finds the fields and makes the slots; comparison, hash and spelling are
functions that all values share, and `__init__` is compiled when the first value of a class is made. To everybody else
they are dataclasses: `fields`, `replace` and `is_dataclass` see no difference.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError
from operator import attrgetter
from typing import Any, TypeVar, dataclass_transform, overload

T = TypeVar("T")

_DEFAULTED = object()
"""What a parameter holds whose default is made anew for each value."""


@overload
def frozen(cls: type[T], /) -> type[T]: ...
@overload
def frozen(*, kw_only: bool = True) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def frozen(cls: type[T] | None = None, /, *, kw_only: bool = True) -> Any:
    """Make a class one of frozen values with slots, equal if of one class with equal fields, and hashable by them."""
    return _frozen(cls, kw_only) if cls is not None else lambda each: _frozen(each, kw_only)


def is_frozen(kind: object) -> bool:
    """Return whether the values of a class may be shared: whoever gets one cannot change it for others."""
    return getattr(kind, "__setattr__", None) is _refuse_to_set


def _frozen(cls: type[T], kw_only: bool) -> type[T]:
    cls.__doc__ = cls.__doc__ or cls.__name__  # or dataclass would spell the signature, which is slow
    made: Any = dataclasses.dataclass(slots=True, kw_only=kw_only, init=False, repr=False, eq=False)(cls)
    names = tuple(each.name for each in dataclasses.fields(made))
    made.__init__ = _first_init(made)
    made.__eq__, made.__hash__ = _comparison(names)
    made.__setattr__, made.__delattr__ = _refuse_to_set, _refuse_to_delete
    made.__setstate__ = _take_state
    if made.__repr__ is object.__repr__:
        made.__repr__ = _repr
    return made  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------------------ what all values share


def _comparison(names: tuple[str, ...]) -> tuple[Callable[[Any, object], Any], Callable[[Any], int]]:
    """Return `__eq__` and `__hash__` over the fields of these names."""
    known: Any = attrgetter(*names) if names else lambda _: ()

    def __eq__(self: Any, other: object) -> Any:  # noqa: N807
        if self.__class__ is not other.__class__:
            return NotImplemented
        return self is other or known(self) == known(other)

    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(known(self))

    return __eq__, __hash__


def _repr(self: Any) -> str:
    shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in dataclasses.fields(self) if each.repr)
    return f"{type(self).__qualname__}({shown})"


def _refuse_to_set(self: object, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _take_state(self: object, state: tuple[None, dict[str, Any]]) -> None:
    """Fill a copy, as `copy` and `pickle` make one: they know what stands in slots, and may not set it either."""
    for name, value in (state[1] or {}).items():
        object.__setattr__(self, name, value)


# ------------------------------------------------------------------------------------------------ making one


def _first_init(cls: type[Any]) -> Callable[..., None]:
    """Return an `__init__` that replaces itself by the compiled one."""

    def __init__(self: object, *arguments: object, **named: object) -> None:  # noqa: N807
        made = _compiled(cls)
        cls.__init__ = made
        made(self, *arguments, **named)

    return __init__


def _compiled(cls: type[Any]) -> Callable[..., None]:
    """Return the `__init__` of a class: a keyword parameter a field, each put into its slot.

    What is compiled holds names of fields only, and those are identifiers of this package's own text.
    """
    parameters, lines, known = ["self"], [], {"_DEFAULTED": _DEFAULTED}
    fields = [each for each in dataclasses.fields(cls) if each.init]
    for each in sorted(fields, key=lambda field: bool(field.kw_only)):
        if each.kw_only and "*" not in parameters:
            parameters.append("*")
        parameters.append(f"{each.name}{_default(each, known)}")
        known[f"_set_{each.name}"] = getattr(cls, each.name).__set__
        lines.append(f" _set_{each.name}(self, {_given(each)})")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    exec(f"def __init__({', '.join(parameters)}):\n" + ("\n".join(lines) or " pass"), known)  # noqa: S102
    made: Any = known["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made  # type: ignore[no-any-return]


def _default(field: dataclasses.Field[Any], known: dict[str, Any]) -> str:
    """Return how a parameter says its default."""
    if field.default_factory is not MISSING:
        known[f"_make_{field.name}"] = field.default_factory
        return "=_DEFAULTED"
    if field.default is MISSING:
        return ""
    known[f"_default_{field.name}"] = field.default
    return f"=_default_{field.name}"


def _given(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is MISSING:
        return field.name
    return f"_make_{field.name}() if {field.name} is _DEFAULTED else {field.name}"
