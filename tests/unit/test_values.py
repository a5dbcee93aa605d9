"""Values are dataclasses to everybody: equal, hashable, frozen, with defaults; only cheaper to define."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field, fields, is_dataclass, replace
from typing import Any

import pytest

from reconciler.values import frozen, is_frozen


@frozen
class Point:
    """Where."""

    x: int
    y: int = 2
    seen: list[int] = field(default_factory=list, repr=False)


@frozen
class Deep(Point):
    z: int = 3


@frozen(kw_only=False)
class Pair:
    left: str
    right: str = "r"


@frozen
class Empty: ...


@frozen
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number <= 0:
            raise ValueError(self.number)


def test_a_value_holds_what_it_is_given_and_its_defaults() -> None:
    assert (Point(x=1).x, Point(x=1).y, Point(x=1).seen) == (1, 2, [])
    assert Point(x=1).seen is not Point(x=1).seen
    assert (Pair("a").left, Pair("a").right, Pair("a", "b").right) == ("a", "r", "b")
    assert (Deep(x=1, z=4).z, Deep(x=1).y) == (4, 2)


@pytest.mark.parametrize("wrong", [lambda: Point(), lambda: Point(1), lambda: Point(x=1, w=2), lambda: Empty(1)])
def test_what_is_no_field_or_missing_is_refused(wrong: Callable[[], Any]) -> None:
    with pytest.raises(TypeError):
        wrong()
    with pytest.raises(TypeError):
        wrong()


def test_a_value_may_check_itself() -> None:
    assert Positive(number=1).number == 1
    with pytest.raises(ValueError, match="-1"):
        Positive(number=-1)


def test_values_are_equal_by_class_and_fields() -> None:
    assert Point(x=1) == Point(x=1) != Point(x=2)
    assert Point(x=1) != Deep(x=1)
    assert Point(x=1) != (1, 2, [])
    assert Empty() == Empty()
    assert len({Pair("a"), Pair("a", "r"), Pair("b")}) == 2
    assert len({Empty(), Empty()}) == 1


def test_a_value_cannot_be_changed() -> None:
    point: Any = Point(x=1)
    for change in (lambda: setattr(point, "x", 2), lambda: setattr(point, "w", 2), lambda: delattr(point, "x")):
        with pytest.raises(FrozenInstanceError):
            change()
    assert not hasattr(point, "__dict__")


@pytest.mark.parametrize("value", [Point(x=1, seen=[3]), Deep(x=1, z=4), Pair("a"), Empty(), Positive(number=2)])
def test_a_value_travels_to_another_process_and_can_be_copied(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == copy.copy(value) == copy.deepcopy(value) == value


def test_to_others_it_is_a_dataclass() -> None:
    assert is_dataclass(Point)
    assert [each.name for each in fields(Deep)] == ["x", "y", "seen", "z"]
    assert replace(Point(x=1), y=5) == Point(x=1, y=5)
    assert repr(Point(x=1)) == "Point(x=1, y=2)"
    match Point(x=1):
        case Point(x=found):
            assert found == 1


def test_one_knows_a_value_from_what_can_be_changed() -> None:
    @dataclass
    class Open:
        x: int

    assert is_frozen(Point)
    assert not is_frozen(Open)
    assert not is_frozen(dict)
    assert Point.__doc__ == "Where."
