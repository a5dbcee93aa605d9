"""Seeded histories: whatever goes wrong, the promises hold, and in the end all is quiet."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from reconciler import claims, codec, resolve
from reconciler.executors import ordering
from reconciler.model import Announcement, Attempt, Claim, Instant, Plan, SharedClaim
from reconciler.simulation import memory
from reconciler.simulation.history import History
from reconciler.simulation.memory import remembering
from reconciler.simulation.quotas import group_story, quota_story
from reconciler.simulation.shrink import shortest
from reconciler.simulation.story import story_of
from reconciler.simulation.tell import report, tell_seeds
from reconciler.values import is_frozen

CHUNK = 50
SEEDS = int(os.environ.get("SIMULATED_SEEDS", "2000"))
REGRESSIONS: list[dict[str, Any]] = YAML(typ="safe").load(Path(__file__).with_name("regressions.yaml"))


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_promises_hold(first: int) -> None:
    _, broken = tell_seeds(range(first, first + CHUNK))
    assert not broken, report(broken[0])


@pytest.mark.parametrize("first", range(0, SEEDS // 10, CHUNK))
def test_the_promises_hold_where_runs_wait(first: int) -> None:
    _, broken = tell_seeds(range(first, first + CHUNK), waits=True)
    assert not broken, report(broken[0])


@pytest.mark.parametrize("first", range(0, SEEDS // 10, CHUNK))
def test_the_promises_hold_where_an_engine_executes(first: int) -> None:
    _, broken = tell_seeds(range(first, first + CHUNK), engine=True)
    assert not broken, report(broken[0])


def test_an_engine_does_all_that_is_said_of_it() -> None:
    """Every fate is met, and couriers that come second or are fenced are among them."""
    tally, _ = tell_seeds(range(300, 360), engine=True)
    met = {what for what in tally.counts if what.endswith("at the engine")}
    assert {f"attempts {fate} at the engine" for fate in ("twice", "returns", "requeued", "node fails")} <= met
    assert {"couriers that found it begun", "couriers that were fenced", "times the engine did not answer"} <= set(
        tally.counts
    )
    assert tally.counts["refs of attempts that were forged"] > 0


def test_only_its_code_makes_a_word_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody forges what attempts say: who believes it publishes what never was."""
    monkeypatch.setattr(ordering, "is_true", lambda word, key: True)
    with remembering():
        told = (History(story_of(seed, engine=True)).tell().violation for seed in range(60))
        assert any("evidence" in each or "never did" in each for each in told)


def _name(case: dict[str, Any]) -> str:
    return f"{case['seed']}{' waits' * case.get('waits', False)}{' engine' * case.get('engine', False)}"


@pytest.mark.parametrize("case", REGRESSIONS, ids=_name)
def test_what_went_wrong_once_goes_wrong_no_more(case: dict[str, Any]) -> None:
    with remembering():
        broken = [
            result
            for remote in (False, True, None)
            if (
                result := History(
                    story_of(
                        case["seed"], remote=remote, waits=case.get("waits", False), engine=case.get("engine", False)
                    )
                ).tell()
            ).violation
        ]
    assert not broken, f"{case['found']}\n{report(broken[0])}"


def test_only_the_second_look_keeps_two_hosts_from_two_runs_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_is_crowded", lambda wanted, seen: False)
    with remembering():
        told = (History(group_story(seed)).tell().violation for seed in range(60))
        assert any("two runs of group 'g' live at once" in each for each in told)


def test_hosts_that_launch_at_once_launch_one_run_of_a_group() -> None:
    with remembering():
        broken = [result for seed in range(60) if (result := History(group_story(seed)).tell()).violation]
    assert not broken, report(broken[0])


def test_hosts_that_launch_at_once_keep_a_quota() -> None:
    with remembering():
        broken = [result for seed in range(60) if (result := History(quota_story(seed)).tell()).violation]
    assert not broken, report(broken[0])


def test_only_the_second_look_keeps_two_hosts_from_exceeding_a_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_beyond_quotas", lambda stands, seen: frozenset())
    with remembering():
        told = (History(quota_story(seed)).tell().violation for seed in range(60))
        assert any("runs of task 't" in each for each in told)


PROGRAM = """
from reconciler.simulation.history import History
from reconciler.simulation.memory import remembering
from reconciler.simulation.story import story_of
with remembering():
    for seed in range(40):
        print(seed, History(story_of(seed)).tell().digest)
"""


def test_a_seed_is_the_same_history_in_every_process() -> None:
    told = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
            check=True, timeout=300,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1


def test_remembering_changes_nothing() -> None:
    stories = [story_of(seed) for seed in range(5)]
    plain = [History(each).tell().moves for each in stories]
    with remembering():
        remembered = [History(each).tell().moves for each in stories]
    assert remembered == plain


def test_what_is_remembered_is_what_would_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are spelled as the codec spells them and read back as they were, plans are what resolving gives."""
    checked = []

    def compact(value: Any) -> bytes:
        data = memory._quick_compact(value)
        assert data == memory._compact(value)
        if is_frozen(type(value)):
            assert memory._parse(type(value), data) == value
        checked.append(type(value))
        return data

    def resolved(*arguments: Any) -> Any:
        found = memory._quick_resolve(*arguments)
        assert found == memory._resolve(*arguments)
        return found

    with remembering(), monkeypatch.context() as patched:
        patched.setattr(codec, "compact", compact)
        patched.setattr(codec, "render", compact)
        patched.setattr(resolve, "resolve", resolved)
        broken = [result for seed in range(30) if (result := History(story_of(seed)).tell()).violation]
    assert not broken, broken[0].violation
    assert {Plan, Claim, Attempt, SharedClaim, Announcement, Instant, dict} <= set(checked)


def test_a_broken_history_is_told_in_its_shortest_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that is not synced is found, and the trace that is printed is a short one."""
    from reconciler.simulation.disk import SimulatedDisk

    whole = SimulatedDisk.write_new

    def forgetful(self: SimulatedDisk, path: Path, data: bytes, *, mode: int = 0o644) -> bool:
        self.make_directory(path.parent)
        self.create(path, data, sync=False, mode=mode)
        return True

    monkeypatch.setattr(SimulatedDisk, "write_new", forgetful)
    with remembering():
        results = (History(story_of(seed)).tell() for seed in range(50))
        broken = next(each for each in results if each.violation)
        short = shortest(broken)
    monkeypatch.setattr(SimulatedDisk, "write_new", whole)
    assert "is spawned before" in short.violation
    assert not [each for each in short.story.happenings if each.kind != "switch"]
    assert short.trace and short.moves <= broken.moves
