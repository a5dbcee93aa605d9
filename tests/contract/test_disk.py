"""The simulated disk answers like the real one, whatever is done in whatever order; and it forgets what was not synced."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from reconciler.disk import Disk
from tests.contract.inside import inside, machines

PATHS = some.sampled_from(["a", "b", "d", "d/a", "d/e", "d/e/f", "d/e/f/g"])
DATA = some.sampled_from([b"", b"one", b"twelve bytes"])
DOINGS = some.one_of(
    some.tuples(some.just("create"), PATHS, DATA, some.booleans()),
    some.tuples(some.just("read"), PATHS, some.integers(1, 20), some.integers(0, 5)),
    some.tuples(some.just("replace"), PATHS, PATHS),
    some.tuples(some.just("link"), PATHS, PATHS),
    some.tuples(some.just("write_atomic"), PATHS, DATA, some.booleans()),
    some.tuples(some.just("write_new"), PATHS, DATA),
    some.tuples(some.just("locking"), PATHS, some.booleans()),
    some.tuples(
        some.sampled_from(
            ["unlink", "sync_directory", "make_directory", "names", "look", "remove_tree", "exists", "lock_is_held",
             "clear_directory", "read_bounded"]
        ),
        PATHS,
    ),
)  # fmt: skip


def done(disk: Disk, root: Path, doing: tuple[Any, ...]) -> object:
    """Do one thing and return what came of it: a value, or the kind of the error."""
    verb, path, *rest = doing
    try:
        match verb:
            case "create":
                return disk.create(root / path, rest[0], sync=rest[1])
            case "read":
                return disk.read(root / path, *rest)
            case "replace" | "link":
                # A rename onto itself, or into itself, is refused in ways that nobody relies on.
                apart = not f"{rest[0]}/".startswith(f"{path}/") and not f"{path}/".startswith(f"{rest[0]}/")
                return getattr(disk, verb)(root / path, root / rest[0]) if apart else None
            case "write_atomic":
                return disk.write_atomic(root / path, rest[0], sync=rest[1])
            case "locking":
                return _locked(disk, root / path, again=rest[0])
            case "names":
                return sorted(disk.names(root / path))
            case "look":
                seen = disk.look(root / path)
                return seen and (seen.is_directory, seen.is_directory or seen.bytes)
            case _:
                return getattr(disk, verb)(root / path, *rest)
    except Exception as error:
        return type(error)


def _locked(disk: Disk, path: Path, *, again: bool) -> object:
    handle = disk.take_lock(path)
    if handle is None:
        return "held"
    found = (disk.lock_is_held(path), disk.take_lock(path) if again else None)
    disk.let_go(handle)
    return (*found, disk.lock_is_held(path))


def tree(disk: Disk, path: Path) -> object:
    """Return everything below a path."""
    seen = disk.look(path)
    if seen is None or not seen.is_directory:
        return seen and disk.read(path, 100)
    return {name: tree(disk, path / name) for name in sorted(disk.names(path))}


def all_done(disk: Disk, root: Path, doings: list[tuple[Any, ...]]) -> list[object]:
    disk.make_directory(root)
    return [*(done(disk, root, each) for each in doings), tree(disk, root)]


@settings(max_examples=150, deadline=None)
@given(some.lists(DOINGS, max_size=12))
def test_the_simulated_disk_answers_like_the_real_one(doings: list[tuple[Any, ...]]) -> None:
    (host,) = machines()
    with tempfile.TemporaryDirectory() as place:
        real = all_done(Disk(), Path(place) / "root", doings)
    simulated = inside(host, lambda: all_done(host.disk, host.checkout / "root", doings))
    assert simulated == real


def test_a_directory_is_the_same_one_where_it_is_moved_and_another_one_where_it_is_copied() -> None:
    def found(disk: Disk, root: Path) -> list[bool]:
        for each in ("one/a", "copy/a"):
            disk.make_directory((root / each).parent)
            disk.create(root / each, b"data", sync=False)
        one = disk.identity(root / "one")
        disk.create(root / "one/b", b"data", sync=False)
        same = [disk.identity(root / "one") == one, disk.identity(root / "copy") == one, bool(one)]
        disk.replace(root / "one", root / "moved")
        return [*same, disk.identity(root / "moved") == one, disk.identity(root / "one") == ""]

    (host,) = machines()
    with tempfile.TemporaryDirectory() as place:
        assert found(Disk(), Path(place) / "root") == [True, False, True, True, True]
    assert inside(host, lambda: found(host.disk, host.checkout / "root")) == [True, False, True, True, True]


def test_patience_has_an_end_on_both() -> None:
    (host,) = machines()
    assert Disk().wait_for(lambda: None, 0.01) is None
    assert Disk().wait_for(lambda: 1, 0.0) == 1
    assert inside(host, lambda: host.disk.wait_for(lambda: None, 30.0)) is None
    assert inside(host, lambda: host.disk.wait_for(lambda: 1, 0.0)) == 1
    assert host.scheduler.now >= 30.0


def after_power_loss(body: Callable[[Disk, Path], object]) -> list[object]:
    """Return what is there after a power loss, for many ways in which it can go."""
    found = []
    for seed in range(40):
        (host,) = machines()
        inside(host, lambda host=host: body(host.disk, host.checkout))  # type: ignore[misc]
        host.disk.lose_power(Random(seed))
        found.append(inside(host, lambda host=host: tree(host.disk, host.checkout)))  # type: ignore[misc]
    return found


@pytest.mark.parametrize("write", ["write_new", "write_atomic"])
def test_what_is_written_durably_outlives_a_power_loss(write: str) -> None:
    def body(disk: Disk, root: Path) -> None:
        disk.make_directory(root / "d")
        getattr(disk, write)(root / "d" / "a", b"data")

    assert all(each["d"]["a"] == b"data" for each in after_power_loss(body))  # type: ignore[index]


def test_what_is_not_synced_is_there_old_empty_or_gone() -> None:
    def body(disk: Disk, root: Path) -> None:
        disk.make_directory(root / "d")
        disk.write_atomic(root / "d" / "a", b"old")
        disk.write_atomic(root / "d" / "a", b"new", sync=False)
        disk.create(root / "d" / "b", b"data", sync=True)

    found = [each["d"] for each in after_power_loss(body)]  # type: ignore[index]
    assert {each.get("a") for each in found} == {b"old", b"new", b""}
    assert {each.get("b") for each in found} == {None, b"data"}


def test_a_lock_ends_with_its_process_and_with_the_power() -> None:
    (host,) = machines()
    lock = host.checkout / "lock"
    assert inside(host, lambda: host.disk.take_lock(lock)) is not None
    assert not inside(host, lambda: host.disk.lock_is_held(lock))
