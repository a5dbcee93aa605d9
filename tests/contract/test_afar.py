"""What a host does with attempts at an engine, pass by pass: real git, the real loop, an engine that does as it is told.

Nothing is executed and nobody waits: the tests say the words of attempts, and move the clocks of hosts.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from reconciler import apply, codec, parted, process
from reconciler.actions import Resume, Submit, TakeOver
from reconciler.executors import ordering
from reconciler.executors.engine import EngineSilent, Sighting, Standing, Submission, Turned
from reconciler.git import open_repository
from reconciler.loop import Loop
from reconciler.model import (
    Attempt,
    Claim,
    Held,
    Host,
    HostId,
    Instant,
    Outcome,
    Plan,
    SharedClaim,
    StageRecord,
    StageStatus,
)
from reconciler.observe import Observer
from reconciler.places import Cause
from reconciler.rundir import RunDirectory
from reconciler.work import KEY_VARIABLE, Word
from reconciler.world import open_world
from tests.scratch import Clone, Hub, Scratch

FAR = "executors:\n  far: {engine: process, weight: 1, poll: 1s, beat: 1s, silent_max: 3h}\n  local: {weight: 0}\n"
TWO = "workspace: empty\nstages:\n  - {id: a, command: 'true'}\n  - {id: b, command: 'true'}\n"
RUNNING, ENDED, ABSENT = (Sighting(standing=each) for each in (Standing.RUNNING, Standing.ENDED, Standing.ABSENT))
NODE_FAILED = Sighting(standing=Standing.ENDED, cause=Cause.NODE_FAILED, detail="node n7 failed")
CANCELLED = Sighting(standing=Standing.ENDED, cause=Cause.ENGINE_CANCELLED, detail="CANCELLED")
LEASE_S = 100.0
SILENT_S = 3 * 3600.0
HERE = Host(name="node1", system="Linux", machine="x", python="3", cpus=1)


@dataclass
class Obedient:
    """An engine for all hosts of a test. `seen` is what it says, `keys` whether it tells secrets, `mute` which questions
    it does not answer, `slow` whether it takes what it is given without an answer, and does not show it at first;
    `told` are those that were told to end, in their order."""

    placed: dict[str, Submission] = field(default_factory=dict)
    seen: dict[str, Sighting] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    keys: bool = True
    mute: frozenset[str] = frozenset()
    slow: bool = False

    def submit(self, submissions: Sequence[Submission]) -> Mapping[str, Turned]:
        self._answer("submit")
        for each in submissions:
            self.placed.setdefault(each.handle, each)
            self.seen.setdefault(each.handle, ABSENT if self.slow else RUNNING)
        if self.slow:
            raise EngineSilent("its answer got lost")
        return {}

    def observe(self, handles: Collection[str]) -> Mapping[str, Sighting]:
        self._answer("observe")
        return {each: self.seen.get(each, ABSENT) for each in handles}

    def cancel(self, handles: Collection[str]) -> None:
        self._answer("cancel")
        self.told += handles

    def adopt(self, repository: str) -> Mapping[str, Mapping[str, str]]:
        self._answer("adopt")
        there = {name: each for name, each in self.placed.items() if self.seen[name] != ABSENT}
        return {name: each.secrets if self.keys else {} for name, each in there.items()}

    def logs(self, handle: str, bytes_max: int) -> bytes:
        return b""

    def _answer(self, question: str) -> None:
        if question in self.mute:
            raise EngineSilent(f"it does not answer to {question}")


class Desk:
    """One host: a loop whose clock the test moves. It opens its engines anew when it begins anew."""

    def __init__(self, scratch: Scratch, engine: Obedient) -> None:
        self.scratch, self.engine, self.ahead_s = scratch, engine, 0.0
        self.loop: Loop | None = None
        self.begin()

    def begin(self) -> None:
        """Begin as a process does that remembers what is on disk."""
        if self.loop is not None:
            self.close()
        world = open_world(self.scratch.path)
        self.world = replace(world, now=self.now, open_engine=lambda *_: self.engine)
        self.loop = Loop(self.world, Observer(self.world))

    def now(self) -> Instant:
        found = process.instant()
        return replace(found, monotonic_s=found.monotonic_s + self.ahead_s)

    def look(self, times: int = 1, *, after_s: float = 2.0) -> None:
        """Do passes, each so much later than the one before."""
        assert self.loop is not None
        for _ in range(times):
            self.ahead_s += after_s
            self.loop.run_pass()

    def close(self) -> None:
        assert self.loop is not None
        self.loop.close()
        self.world.repository.objects.close()

    def claim(self, name: str, number: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scratch.record(name, f"claims/{number}.json").read_bytes())
        return found


@pytest.fixture
def engine() -> Obedient:
    return Obedient()


@pytest.fixture
def desk(scratch: Scratch, engine: Obedient) -> Iterator[Desk]:
    yield from one_host(scratch, engine, FAR, looks=2)


@pytest.fixture
def fresh(scratch: Scratch, engine: Obedient) -> Iterator[Desk]:
    """One host that was asked for a run and has not looked yet. It seldom asks its engine."""
    yield from one_host(scratch, engine, FAR.replace("poll: 1s", "poll: 1h"), looks=0)


@pytest.fixture
def pair(tmp_path: Path, engine: Obedient) -> Iterator[tuple[Desk, Desk]]:
    """Two hosts, of which the first has handed an attempt over and is gone."""
    yield from two_hosts(tmp_path, engine)


@pytest.fixture
def last_try(tmp_path: Path, engine: Obedient) -> Iterator[tuple[Desk, Desk]]:
    """The same, and the run has no other attempt."""
    yield from two_hosts(tmp_path, engine, attempts_max=1)


def one_host(scratch: Scratch, engine: Obedient, settings: str, *, looks: int) -> Iterator[Desk]:
    scratch.write("reconciler.yaml", settings)
    scratch.pipeline("p", TWO)
    scratch.request("x", "p")
    scratch.commit()
    found = Desk(scratch, engine)
    found.look(looks)
    yield found
    found.close()


def two_hosts(tmp_path: Path, engine: Obedient, **keys: object) -> Iterator[tuple[Desk, Desk]]:
    first, second = desks(tmp_path, engine, **keys)
    first.look(2)
    assert len(engine.placed) == 1
    yield first, second
    for each in (first, second):
        each.close()


def desks(tmp_path: Path, engine: Obedient, **keys: object) -> tuple[Desk, Desk]:
    """Return two hosts, of which the first has asked for a run."""
    one, other = (Hub(tmp_path)).clones("a", "b", more=FAR, lease_s=LEASE_S)
    one.pipeline("p", TWO)
    one.request("x", "p", **keys)
    one.push()
    return Desk(one, engine), Desk(other, engine)


def say(one: Submission, *done: str, outcome: Outcome | None = Outcome.SUCCEEDED) -> None:
    """Say a word of an attempt, in which some stages have succeeded; the last one, if it has an outcome."""
    told = dict(zip(one.arguments[::2], one.arguments[1::2], strict=True))
    place = Path(told["--url"])
    repository = open_repository(place.parent if place.name == ".git" else place)
    try:
        plan = codec.parse(Plan, repository.git("show", f"{told['--order']}:run/plan.json").encode())
        record = codec.compact(attempt_of(one, plan, done, outcome))
        word = Word(
            run_id=one.run_id, number=one.number, beat=1, at="2030-01-01T00:00:00Z", ended=bool(outcome), tree=""
        )
        key, files = one.secrets[KEY_VARIABLE], {f"attempts/{one.number}.json": record}
        oid, _ = ordering.make_word(repository, told["--order"], word, files, key, 1_700_000_000)
        repository.update_ref(told["--ref"], oid)
    finally:
        repository.objects.close()


def attempt_of(one: Submission, plan: Plan, done: Collection[str], outcome: Outcome | None) -> Attempt:
    """Return the record of an attempt in which some stages have succeeded."""
    stages = tuple(
        StageRecord(id=each.id, digest=each.digest, status=StageStatus.SUCCEEDED, attempt=one.number)
        for each in plan.stages
        if each.id in done
    )
    now = process.instant()
    ended_at = now.at if outcome is not None else None
    return Attempt(
        number=one.number, worker=process.myself(), host=HERE, started=now, stages=stages, outcome=outcome,
        ended_at=ended_at,
    )  # fmt: skip


def only(engine: Obedient) -> Submission:
    [found] = engine.placed.values()
    return found


def recoveries(manifest: dict[str, Any]) -> list[tuple[int, str]]:
    return [(each["lost"], each["cause"]) for each in manifest["recoveries"]]


# ------------------------------------------------------------------------------------------------ two at one desk


def test_the_order_of_one_process_of_a_host_is_no_strangers_for_another_one(scratch: Scratch, engine: Obedient) -> None:
    scratch.write("reconciler.yaml", FAR)
    scratch.pipeline("p", TWO)
    scratch.commit()
    one, other = Desk(scratch, engine), Desk(scratch, engine)
    other.look(2)
    scratch.request("x", "p")
    scratch.commit()
    engine.mute = frozenset({"submit"})
    one.look(2)
    engine.mute = frozenset()
    other.look(2, after_s=30.0)
    assert not engine.told and len(engine.placed) == 1
    for each in (one, other):
        each.close()


# ------------------------------------------------------------------------------------------------ who comes late


def gone(pair: tuple[Desk, Desk]) -> Desk:
    """Return the second host when it has heard nothing of the first one for longer than its lease."""
    _, second = pair
    second.look(2, after_s=LEASE_S + 1)
    return second


def test_what_ended_while_its_host_was_gone_is_brought_home_by_another_one(
    pair: tuple[Desk, Desk], engine: Obedient
) -> None:
    say(only(engine), "a", "b")
    engine.seen[only(engine).handle] = ENDED
    gone(pair).look(3)
    assert len(engine.placed) == 1, "it is not executed again"
    found = pair[0].scratch
    assert isinstance(found, Clone)
    assert found.hub.outcomes("x") == ["succeeded"] and found.hub.shared() == []
    assert recoveries(found.hub.manifests()["x"]) == []


def test_as_long_as_the_key_cannot_be_asked_for_it_is_neither_executed_again_nor_given_up(
    last_try: tuple[Desk, Desk], engine: Obedient
) -> None:
    say(only(engine), "a", "b")
    engine.seen[only(engine).handle] = ENDED
    engine.mute = frozenset({"adopt"})
    second = gone(last_try)
    second.look(6, after_s=70.0)
    assert len(engine.placed) == 1 and not second.scratch.record("x", "ends/1.json").exists()
    engine.mute = frozenset()
    second.look(3, after_s=70.0)
    assert isinstance(second.scratch, Clone)
    assert len(engine.placed) == 1 and second.scratch.hub.outcomes("x") == ["succeeded"]


@pytest.mark.parametrize(("keys", "seen", "cause"), [(True, ABSENT, "engine_forgot"), (False, ENDED, "record_lost")])
def test_what_the_engine_does_not_tell_any_more_is_executed_again_and_that_is_said(
    pair: tuple[Desk, Desk], engine: Obedient, keys: bool, seen: Sighting, cause: str
) -> None:
    first = only(engine)
    say(first, "a", "b")
    engine.keys, engine.seen[first.handle] = keys, seen
    second = gone(pair)
    second.look(4)
    [again] = [each for each in engine.placed.values() if each is not first]
    assert again.number == 2 and second.claim("x", 2)["recovery"]["cause"] == cause
    say(again, "a", "b")
    second.look(2)
    assert isinstance(second.scratch, Clone)
    manifest = second.scratch.hub.manifests()["x"]
    assert manifest["status"] == "succeeded" and recoveries(manifest) == [(1, cause)]


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("published", [True, False])
def test_who_slept_before_it_handed_over_cannot_hand_over_what_another_one_has_ended(
    tmp_path: Path, engine: Obedient, published: bool, heard: bool
) -> None:
    first, second = desks(tmp_path, engine)
    assert isinstance(second.scratch, Clone) and first.loop is not None
    first.look(1)
    runs = first.loop.observer.observe().actual.runs  # it is claimed here, and then its host sleeps
    second.scratch.git("pull", "-q")
    second.scratch.request("x", "p", cancel="no longer needed")
    second.scratch.push()
    if not published:
        second.scratch.hub.hook("update", 'test "$1" != refs/heads/main\n')
    second.look(6, after_s=LEASE_S + 1)
    assert second.scratch.record("x", "ends/1.json").exists() and second.scratch.hub.manifests().keys() == (
        {"x"} if published else set()
    )
    afar, [run] = first.loop.observer.afar, runs.values()
    assert afar is not None
    if heard:
        first.loop.observer.ask()  # as it does in the same pass after another push was lost
    refused = afar.submit([Submit(run_id=run.run_id, task_id=run.task_id, number=1, reason="")], runs)
    assert engine.placed == {} and refused == {run.run_id: "its claim at the remote is another one now"}
    for each in (first, second):
        each.close()


# ------------------------------------------------------------------------------------------------ whose doing it was


@pytest.mark.parametrize("again", [False, True])
def test_what_is_ended_for_its_silence_was_silent_whatever_the_engine_says(
    desk: Desk, engine: Obedient, again: bool
) -> None:
    one = only(engine)
    desk.look(after_s=SILENT_S + 1)
    assert engine.told == [one.handle] and len(engine.placed) == 1
    engine.seen[one.handle] = CANCELLED
    if again:
        desk.begin()
    say(one, "a", outcome=Outcome.INTERRUPTED)
    desk.look(3)
    claim = desk.claim("x", 2)
    assert claim["recovery"]["cause"] == "silent" and claim["recovery"]["silent_s"] > SILENT_S
    assert "so it was ended" in claim["reason"]


def test_what_somebody_else_ends_was_cancelled_at_its_engine(desk: Desk, engine: Obedient) -> None:
    say(only(engine), "a", outcome=Outcome.INTERRUPTED)
    engine.seen[only(engine).handle] = CANCELLED
    desk.look(3)
    assert desk.claim("x", 2)["recovery"]["cause"] == "engine_cancelled"


# ------------------------------------------------------------------------------------------------ who comes back


def lost(desk: Desk, engine: Obedient) -> tuple[Submission, Submission]:
    """Have the node of the first attempt fail, and return that one and the one that follows."""
    first = only(engine)
    say(first, "a", outcome=None)
    engine.seen[first.handle] = NODE_FAILED
    desk.look(4)
    [second] = [each for each in engine.placed.values() if each is not first]
    return first, second


def test_an_attempt_that_comes_back_is_told_to_end_and_holds_nobody_up(desk: Desk, engine: Obedient) -> None:
    first, second = lost(desk, engine)
    desk.look(2, after_s=parted.ASKED_S)
    assert engine.told == [], "what is over as its engine says is not told anything"
    engine.seen[first.handle] = RUNNING
    for times in range(1, 4):
        desk.look(after_s=parted.ASKED_S)
        assert engine.told == [first.handle] * times
    say(second, "a", "b")
    desk.look(2)
    assert desk.scratch.manifest("x")["status"] == "succeeded" and engine.told == [first.handle] * 3
    # The run is proven, and the attempt is looked for still, also by a process that begins anew.
    desk.begin()
    desk.look(after_s=parted.ASKED_S)
    assert engine.told == [first.handle] * 4
    desk.look(parted.TOLD_MAX, after_s=parted.ASKED_S)
    assert engine.told == [first.handle] * parted.TOLD_MAX


def test_it_is_not_looked_for_for_ever(desk: Desk, engine: Obedient) -> None:
    first, _ = lost(desk, engine)
    desk.look(after_s=parted.KEPT_S)
    engine.seen[first.handle] = RUNNING
    desk.look(2, after_s=parted.ASKED_S)
    assert first.handle not in engine.told


def test_what_another_host_goes_on_with_is_not_told_to_end(pair: tuple[Desk, Desk], engine: Obedient) -> None:
    first, _ = pair
    second = gone(pair)
    engine.seen[only(engine).handle] = NODE_FAILED
    first.look(2)
    engine.seen[only(engine).handle] = RUNNING
    first.look(2, after_s=parted.ASKED_S)
    assert engine.told == [] and len(engine.placed) == 1
    say(only(engine), "a", "b")
    second.look(2)
    assert isinstance(second.scratch, Clone) and second.scratch.hub.outcomes("x") == ["succeeded"]


# ------------------------------------------------------------------------------------------------ what counts


def test_what_was_done_at_an_engine_counts_for_no_later_attempt(desk: Desk, engine: Obedient) -> None:
    _, second = lost(desk, engine)
    assert desk.claim("x", 2)["keeps_from"] == 2
    say(second, "b")
    desk.look(2)
    stages = desk.scratch.stages("x")
    assert stages["b"]["attempt"] == 2 and stages["a"]["status"] != "succeeded", stages["a"]


@pytest.mark.parametrize("before", ["far", "local"])
@pytest.mark.parametrize("after", ["far", "local"])
def test_however_an_attempt_follows_successes_count_only_in_one_workspace(desk: Desk, before: str, after: str) -> None:
    """Resumed by a pass, taken over from another host, resumed by a person."""
    directory = RunDirectory(desk.scratch.directory("x"))
    claim, plan = directory.read(Claim, directory.record("claims", 1)), directory.plan(None)
    assert claim is not None and claim.placement is not None and plan is not None
    places = {"far": claim.placement, "local": replace(claim.placement, executor="local", handle="")}
    last, place = replace(claim, placement=places[before]), places[after]
    directory.disk.write_atomic(directory.record("claims", 1), codec.compact(last))
    about: dict[str, Any] = {"run_id": plan.run_id, "task_id": plan.task_id, "reason": "why", "placement": place}
    shared = SharedClaim(run_id=plan.run_id, task_id=plan.task_id, host=HostId("h"), claims=(last,), nonce="n")
    held = Held(claim=shared, oid="", ours=True, host_name="h", silent_s=0.0, lease_s=1.0)
    claims = (
        apply.resuming_claim(desk.world, Resume(after=1, **about)),
        apply.taking_claims(desk.world, TakeOver(number=1, plan=plan, held=held, **about))[-1],
        apply.restarting_claim(desk.world, plan, place, after=1, actor="ann", reason="why"),
    )
    assert {each.keeps_from for each in claims} == {1 if before == after == "local" else 2}


def test_what_was_not_there_yet_and_says_a_word_lives_until_its_engine_says_otherwise_once_more(
    fresh: Desk, engine: Obedient
) -> None:
    """The answer to its submission got lost, and its engine did not show it at first: that it is gone was said of an
    attempt that nobody had handed over, as far as this host knew, and says nothing of one that speaks."""
    engine.slow = True
    fresh.look(2)
    engine.mute = frozenset({"submit"})
    fresh.look(after_s=30.0)
    engine.slow, engine.mute = False, frozenset()
    one = only(engine)
    say(one, "a", outcome=None)
    fresh.look(after_s=600.0)
    assert len(engine.placed) == 1 and engine.told == [], "it is not followed while it goes on"
    say(one, "a", "b")
    fresh.look(2)
    assert len(engine.placed) == 1 and fresh.scratch.manifest("x")["status"] == "succeeded"


def test_an_end_that_came_home_is_not_replaced_by_what_is_said_later(desk: Desk, engine: Obedient) -> None:
    """Whoever has the key of an attempt may be a second courier of it, which says that it found it begun."""
    one = only(engine)
    say(one, "a", "b")
    desk.look(after_s=0.0)
    say(one, outcome=Outcome.INTERRUPTED)
    desk.look(3)
    assert len(engine.placed) == 1 and desk.scratch.manifest("x")["status"] == "succeeded"
