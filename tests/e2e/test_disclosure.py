"""What a branch would reveal: the change in a real worktree, searched before git writes any of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from reconciler.disclosure import revealed
from reconciler.git import Repository, open_repository
from tests.driving import Bench
from tests.scratch import Scratch

pytestmark = pytest.mark.executed

AGENT = {"use": "mine", "prompt": "Do it.", "deliver": "branch"}
TOKEN = "gh" + "p_" + "A1b2" * 9
VALUE = "Zk3vQ9xT7pLm" + "2RwY8sHd"


def bench_of(scratch: Scratch, **redact: object) -> Bench:
    mine = {"mine": {"driver": "command", "command": ["true"]}}
    bench = Bench(scratch, json.dumps({"agents": mine, "redact": redact}))
    bench.add("known.txt", f"a fixture: {TOKEN}\n")
    return bench


@pytest.fixture
def repository(scratch: Scratch) -> Iterator[Repository]:
    found = open_repository(scratch.path)
    yield found
    found.objects.close()


def test_a_change_reveals(scratch: Scratch, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", VALUE)
    bench = bench_of(scratch, rules=[{"id": "acme", "pattern": "ACME-[0-9]+"}])
    plan = bench.plan(AGENT)
    for name, data, kind in (
        ("a.txt", f"x {TOKEN} y\n".encode(), "github-token"),
        ("b.bin", b"\0\1" + VALUE.encode() + b"\0" * 3_000_000, "environment"),
        ("c.txt", b"-" * 1_048_570 + b" ACME-17" + b"-" * 9, "acme"),
        (f"{VALUE}.txt", b"", "environment"),
    ):
        (bench.place / name).write_bytes(data)
        shown = name.replace(VALUE, "[redacted:environment]")
        assert revealed(repository, bench.place, plan) == f"{shown} would reveal a secret ({kind})"
        (bench.place / name).unlink()
    (bench.place / "link").symlink_to(f"/home/{VALUE}")
    assert "link would reveal" in revealed(repository, bench.place, plan)
    (bench.place / "link").unlink()
    assert "dangling blob" not in scratch.git("fsck", "--dangling")


def test_what_was_there_before_and_what_is_only_guessed_reveals_nothing(
    scratch: Scratch, repository: Repository
) -> None:
    bench = bench_of(scratch)
    plan = bench.plan(AGENT)
    (bench.place / "known.txt").write_text(f"the same fixture, told better: {TOKEN}\n")
    (bench.place / "code.py").write_text('connect(password="hunter22-or-so")\n')
    (bench.place / "README.md").unlink()
    assert revealed(repository, bench.place, plan) == ""
    (bench.place / "known.txt").write_text(f"{TOKEN}\n{TOKEN}\n")
    assert revealed(repository, bench.place, plan) == "known.txt would reveal a secret (github-token)"


@pytest.mark.parametrize("mode", ["shadow", "off"])
def test_without_enforcement_nobody_looks(scratch: Scratch, repository: Repository, mode: str) -> None:
    bench = bench_of(scratch, mode=mode)
    (bench.place / "a.txt").write_text(TOKEN)
    assert revealed(repository, bench.place, bench.plan(AGENT)) == ""
