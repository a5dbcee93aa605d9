"""What the simulator has instead of slower ways says the same as those."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model import Instant
from reconciler.simulation.host import spelled
from reconciler.simulation.memory import _by_identity, _quick_replace
from tests.contract.inside import inside, machines

NOON = Instant(at="2030-03-17T12:00:00.000Z", monotonic_s=1.0, boot_id="boot")


@given(st.floats(min_value=1_000_000_000, max_value=4_000_000_000))
def test_an_instant_is_spelled_as_datetime_spells_it(seconds: float) -> None:
    slow = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
    assert spelled(seconds) == slow


def test_a_value_is_replaced_as_dataclasses_do_it() -> None:
    assert _quick_replace(NOON, monotonic_s=2.0) == replace(NOON, monotonic_s=2.0)
    assert _quick_replace(NOON) == NOON
    with pytest.raises(TypeError):
        _quick_replace(NOON, minute=3)


def test_a_field_that_is_made_with_the_value_is_left_to_dataclasses() -> None:
    @dataclass
    class Counted:
        first: int
        second: int = 0
        double: int = field(init=False, default=0)

        def __post_init__(self) -> None:
            self.double = 2 * self.first

    assert _quick_replace(Counted(1), first=4) == Counted(4)


def test_what_is_remembered_by_identity_is_never_another_value_s() -> None:
    seen: list[Instant] = []

    def ask(value: Instant) -> str:
        seen.append(value)
        return value.at

    quick, again = _by_identity(ask), replace(NOON)
    assert [quick(NOON), quick(NOON), quick(again)] == [NOON.at] * 3
    assert len(seen) == 2
    assert all(quick(replace(NOON, at=f"{number}")) == f"{number}" for number in range(3000))


def test_a_directory_that_was_not_there_is_found_once_it_is() -> None:
    [host] = machines(hosts=1, remote=False)
    disk, place = host.disk, Path("/host1/repo/a/b")

    def body() -> None:
        assert disk.read_bounded(place / "c") is None
        disk.make_directory(place)
        disk.write_new(place / "c", b"c")
        assert disk.read_bounded(place / "c") == b"c"
        disk.remove_tree(place.parent)
        assert disk.read_bounded(place / "c") is None
        disk.create(place.parent, b"a file", sync=False)
        with pytest.raises(NotADirectoryError):
            disk.read(place / "c", 10)

    inside(host, body)
