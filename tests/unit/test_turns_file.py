"""What a host remembers of whose turn it was: worth nothing when it is damaged, and bounded."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.errors import UsageError
from reconciler.turns import TASKS_MAX, note_turns, read_turns
from reconciler.world import capabilities_here


def test_what_is_noted_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "reconciler" / "turns.json"
    note_turns(path, {}, ["a", "b"], 10.0)
    note_turns(path, read_turns(path), ["b"], 20.5)
    assert read_turns(path) == {"a": 10.0, "b": 20.5}


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1]", b'{"a": "x"}', b'{"a": true}', b'{"a": 1e999}', b"[" * 9000, b"\xff"]
)
def test_what_is_damaged_says_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "turns.json"
    path.write_bytes(data)
    assert read_turns(path) == {}
    assert read_turns(tmp_path / "absent.json") == {}


def test_of_very_many_tasks_those_are_forgotten_that_were_served_longest_ago(tmp_path: Path) -> None:
    path = tmp_path / "turns.json"
    note_turns(path, {f"t{number}": float(number) for number in range(TASKS_MAX)}, ["new"], 1e6)
    found = read_turns(path)
    assert len(found) == TASKS_MAX
    assert ("new" in found, "t0" in found, "t1" in found) == (True, False, True)


def test_a_host_offers_what_its_environment_says() -> None:
    assert capabilities_here("") == ()
    assert capabilities_here(" gpu ,docker,, gpu") == ("docker", "gpu")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("GPU", "'GPU' is no capability; lower-case letters"),
        ("a b", "'a b' is no capability"),
        ("x" * 101, "is no capability"),
        (",".join(f"c{number}" for number in range(51)), "51 capabilities; at most 50 are allowed"),
    ],
)
def test_what_is_no_capability_is_said(said: str, words: str) -> None:
    with pytest.raises(UsageError, match="RECONCILER_CAPABILITIES: ") as found:
        capabilities_here(said)
    assert words in str(found.value)
