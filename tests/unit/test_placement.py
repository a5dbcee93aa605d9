"""Where runs are placed and whose turn it is, for every line of candidates: bounds, quotas, shares, and who waits how long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.model import ExecutorSettings, Settings
from reconciler.placement import Busy, Candidate, Needs, Placed, Refused, Slots, fitting, keep, place, unfit
from reconciler.places import Executor, Instance, Placement, Quotas
from reconciler.slots import executors_here

HERE = (Instance(name="here"),)
WORDS = st.lists(st.sampled_from(["gpu", "docker"]), max_size=2, unique=True).map(tuple)
TASKS = ("a", "b", "c", "d")
EXECUTORS = st.lists(
    st.builds(
        Executor,
        name=st.sampled_from(["one", "two", "three"]),
        capabilities=WORDS,
        weight=st.integers(0, 4),
        runs_max=st.one_of(st.none(), st.integers(1, 4)),
        instance_runs_max=st.one_of(st.none(), st.integers(1, 3)),
        instances=st.sampled_from([HERE, (*HERE, Instance(name="there", silent_s=10.0))]),
        silent_max_s=st.sampled_from([5.0, 20.0]),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda each: each.name,
)
LINES = st.lists(
    st.builds(
        Candidate,
        run_id=st.uuids(version=4).map(str),
        task=st.sampled_from(TASKS),
        labels=st.sampled_from([(), ("x",), ("x", "y")]),
        capabilities=WORDS,
        priority=st.integers(-1, 1),
        since_s=st.integers(0, 100).map(float),
    ),
    max_size=12,
    unique_by=lambda each: each.run_id,
)
QUOTAS = st.builds(
    Quotas,
    tasks=st.dictionaries(st.sampled_from(["*", *TASKS]), st.integers(1, 3), max_size=3),
    labels=st.dictionaries(st.sampled_from(["x", "y"]), st.integers(1, 3), max_size=2),
)


def needs(*capabilities: str) -> Needs:
    return Needs(capabilities=capabilities)


def busy(candidate: Candidate, found: Placement) -> Busy:
    return Busy(
        run_id=candidate.run_id,
        task=candidate.task,
        labels=candidate.labels,
        executor=found.executor,
        instance=found.instance,
    )


def placed(line: Sequence[Candidate], *executors: Executor, runs_max: int = 100, **keys: object) -> Placed:
    quotas = keys.pop("quotas", Quotas())
    assert isinstance(quotas, Quotas)
    return place(line, executors, (), quotas, runs_max=runs_max, **keys)  # type: ignore[arg-type]


def line(*tasks: str, **keys: object) -> list[Candidate]:
    return [Candidate(run_id=f"{task}{number}", task=task, **keys) for number, task in enumerate(tasks)]  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ bounds


@settings(deadline=None, max_examples=100)
@given(LINES, EXECUTORS, QUOTAS, st.integers(0, 6))
def test_no_bound_is_broken_and_nobody_waits_who_could_go(
    candidates: list[Candidate], executors: list[Executor], quotas: Quotas, runs_max: int
) -> None:
    found = place(candidates, executors, (), quotas, runs_max=runs_max)
    assert place(candidates, executors, (), quotas, runs_max=runs_max) == found
    assert {*found.assignments, *found.waits} == {each.run_id for each in candidates}
    assert not {*found.assignments} & {*found.waits}
    assert len(found.assignments) <= runs_max
    begun = [each for each in candidates if each.run_id in found.assignments]
    by_name = {each.name: each for each in executors}
    at = Counter((each.executor, each.instance) for each in found.assignments.values())
    for candidate in begun:
        assert set(candidate.capabilities) <= set(by_name[found.assignments[candidate.run_id].executor].capabilities)
    for name, executor in by_name.items():
        assert sum(count for (each, _), count in at.items() if each == name) <= (executor.runs_max or 100)
        assert all(count <= (executor.instance_runs_max or 100) for (each, _), count in at.items() if each == name)
        assert executor.silent_max_s > 10 or not at[name, "there"], "nothing is placed on an instance that is silent"
    tasks = Counter(each.task for each in begun)
    labels = Counter(label for each in begun for label in each.labels)
    assert all(count <= quotas.tasks.get(task, quotas.tasks.get("*", 100)) for task, count in tasks.items())
    assert all(count <= quotas.labels.get(label, 100) for label, count in labels.items())
    slots = Slots(runs_max - len(begun), tuple(executors), quotas)
    slots.count(busy(each, found.assignments[each.run_id]) for each in begun)
    assert not [each for each in candidates if each.run_id in found.waits and isinstance(slots.take(each), Placement)]


def test_what_is_under_way_counts_against_every_bound() -> None:
    executor = Executor(name="one", instance_runs_max=2, instances=HERE)
    under_way = [Busy(run_id="x", task="a", labels=("l",), executor="one", instance="here")]
    found = place(line("a", "b"), [executor], under_way, Quotas(tasks={"a": 1}), runs_max=5)
    assert [*found.assignments] == ["b1"]
    assert found.waits["a0"].reason == "waits for a run of task 'a' to end: its quota is 1 (quotas.tasks)"


# ------------------------------------------------------------------------------------------------ weight


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=4), st.integers(1, 40))
def test_shares_follow_weights_at_every_moment(weights: list[int], count: int) -> None:
    """The condition of Webster's method: nobody could give a run to another one and be nearer to the weights."""
    executors = [Executor(name=str(index), weight=weight, instances=HERE) for index, weight in enumerate(weights)]
    found = placed(line(*("a" for _ in range(count))), *executors)
    loads: Counter[str] = Counter()
    for each in found.assignments.values():
        loads[each.executor] += 1
        for one in executors:
            for other in executors:
                given_last, next_one = (
                    (2 * loads[one.name] - 1) / one.weight,
                    (2 * loads[other.name] + 1) / other.weight,
                )
                assert given_last <= next_one


def test_a_heavy_weight_does_not_get_its_share_in_one_go() -> None:
    executors = [Executor(name=name, weight=weight, instances=HERE) for name, weight in (("a", 5), ("b", 1), ("c", 1))]
    found = placed(line(*"tttttttt"), *executors)
    assert "".join(each.executor for each in found.assignments.values()) == "aabcaaaa"


def test_of_two_instances_the_one_with_fewer_runs_gets_the_next() -> None:
    executor = Executor(name="one", instances=(Instance(name="x"), Instance(name="y")), instance_runs_max=2)
    found = placed(line(*"ttttt"), executor)
    assert [each.instance for each in found.assignments.values()] == ["x", "y", "x", "y"]
    assert found.waits["t4"].reason == "waits for a free slot of executor 'one' (executors)"


def test_an_instance_that_is_lost_gets_nothing_and_its_executor_goes_on_without() -> None:
    silent = (Instance(name="x", silent_s=31.0), Instance(name="y", silent_s=1.0))
    executor = Executor(name="one", instances=silent, silent_max_s=30.0)
    found = placed(line(*"tt"), executor)
    assert {each.instance for each in found.assignments.values()} == {"y"}
    assert placed(line("t"), replace(executor, instances=silent[:1])).waits["t0"].reason.startswith("waits for a free")


# ------------------------------------------------------------------------------------------------ what fits


def test_weight_0_is_for_what_fits_nowhere_else() -> None:
    plain, heavy = Executor(name="plain", instances=HERE), Executor(name="heavy", capabilities=("gpu",), weight=0)
    assert [each.name for each in fitting(Needs(), (plain, heavy))] == ["plain"]
    assert [each.name for each in fitting(needs("gpu"), (plain, heavy))] == ["heavy"]
    assert unfit(needs("gpu"), (plain, heavy)) is None


def test_what_fits_nowhere_says_what_is_asked_and_what_is_offered() -> None:
    found = unfit(needs("tpu", "gpu"), (Executor(name="a", capabilities=("docker",)),))
    assert found == Refused(
        reason="waits for an executor with gpu, tpu: those of this host offer docker"
        " (executors, RECONCILER_CAPABILITIES)",
        settled=True,
    )
    many = unfit(needs(*(f"c{number:02}" for number in range(15))), (Executor(name="a"),))
    assert many is not None and "c09 and 5 more: those of this host offer none" in many.reason


def test_what_goes_on_stays_where_it_was_as_long_as_that_fits() -> None:
    first, second = (
        Executor(name="first", instances=HERE),
        Executor(name="second", capabilities=("gpu",), instances=HERE),
    )
    stays = keep(Needs(), (first, second), "second")
    assert isinstance(stays, Placement) and (stays.executor, stays.reason) == ("second", "it goes on where it was")
    moves = keep(needs("gpu"), (first, second), "first")
    assert isinstance(moves, Placement) and (moves.executor, moves.asked) == ("second", ("gpu",))
    assert isinstance(keep(needs("tpu"), (first, second), "first"), Refused)


def test_executors_of_a_host_offer_what_settings_say_and_what_it_has() -> None:
    said = Settings(executors={"a": ExecutorSettings(capabilities=("docker",), runs_max=2), "b": ExecutorSettings()})
    found = executors_here(said, "here", ("gpu",), {})
    assert [(each.name, each.capabilities, each.instance_runs_max) for each in found] == [
        ("a", ("docker", "gpu"), 2),
        ("b", ("gpu",), None),
    ]
    assert [each.name for each in executors_here(Settings(), "here", (), {})] == ["local"]


# ------------------------------------------------------------------------------------------------ turns

ARRIVALS = st.lists(st.tuples(st.sampled_from(TASKS), st.integers(0, 30), st.integers(1, 6)), min_size=2, max_size=24)


class Line:
    """Many passes over one line, each a second: runs arrive, take some seconds and end; tasks are remembered as a host
    remembers them."""

    def __init__(self, arrivals: Sequence[tuple[str, int, int]], runs_max: int) -> None:
        self.runs_max = runs_max
        self.coming = [
            (Candidate(run_id=str(index), task=task, since_s=float(at_s)), at_s, takes_s)
            for index, (task, at_s, takes_s) in enumerate(arrivals)
        ]
        self.ends: dict[str, tuple[int, Busy]] = {}
        self.served: dict[str, float] = {}
        self.begun: list[str] = []
        self.passed: dict[str, list[str]] = {}
        """By task that waits with nothing under way: the tasks that were served before it since it began to wait."""

    def waiting(self, now_s: int) -> list[Candidate]:
        return [each for each, at_s, _ in self.coming if at_s <= now_s and each.run_id not in self.begun]

    def tick(self, now_s: int) -> None:
        self.ends = {run_id: each for run_id, each in self.ends.items() if each[0] > now_s}
        waiting = self.waiting(now_s)
        under_way = [each for _, each in self.ends.values()]
        found = place(
            waiting, [Executor(name="one", instances=HERE)], under_way, Quotas(), runs_max=self.runs_max,
            served=self.served, now_s=float(now_s),
        )  # fmt: skip
        by_id = {each.run_id: each for each in waiting}
        for run_id, placement in found.assignments.items():
            self._begin(by_id[run_id], placement, now_s)

    def _begin(self, candidate: Candidate, placement: Placement, now_s: int) -> None:
        takes_s = next(takes for each, _, takes in self.coming if each.run_id == candidate.run_id)
        for task in {each.task for each in self.waiting(now_s)} - {candidate.task}:
            if not any(each.task == task for _, each in self.ends.values()):
                self.passed.setdefault(task, []).append(candidate.task)
        self.passed.pop(candidate.task, None)
        self.begun.append(candidate.run_id)
        self.ends[candidate.run_id] = (now_s + takes_s, busy(candidate, placement))
        self.served[candidate.task] = float(now_s)
        for task, before in self.passed.items():
            assert len(set(before)) == len(before), f"{task} waits, and {before} were served before it"
            assert len(before) <= len({each.task for each, *_ in self.coming}) - 1


@settings(deadline=None, max_examples=80)
@given(ARRIVALS, st.integers(1, 3))
def test_a_task_with_nothing_under_way_is_passed_over_once_by_each_other_task_at_most(
    arrivals: list[tuple[str, int, int]], runs_max: int
) -> None:
    found = Line(arrivals, runs_max)
    for now_s in range(30 + 6 * len(arrivals) + 1):
        found.tick(now_s)
    assert len(found.begun) == len(arrivals), "nothing starves"


def test_a_stream_of_new_tasks_does_not_keep_one_waiting() -> None:
    """Who comes later comes behind: tasks that were never served before are no reason to wait longer."""
    mine = [Candidate(run_id="mine", task="mine", since_s=10.0)]
    others = [Candidate(run_id=f"new{number}", task=f"new{number}", since_s=20.0 + number) for number in range(5)]
    found = placed(
        [*others, *mine], Executor(name="one", instances=HERE), runs_max=1, served={"mine": 15.0}, now_s=60.0
    )
    assert [*found.assignments] == ["mine"]


def test_who_waits_is_told_how_many_go_first() -> None:
    found = placed(line(*"aaabb"), Executor(name="one", instances=HERE), runs_max=1)
    assert [*found.assignments] == ["a0"]
    assert [(run_id, each.reason.rpartition(", and ")[2]) for run_id, each in found.waits.items()] == [
        ("b3", "it is next"),
        ("a1", "another one goes first"),
        ("b4", "2 others go first"),
        ("a2", "3 others go first"),
    ]


@pytest.mark.parametrize("ahead_s", [0.0, 1e9])
def test_an_arrival_in_the_future_counts_as_now(ahead_s: float) -> None:
    early, late = (
        Candidate(run_id="a", task="a", since_s=100.0 + ahead_s),
        Candidate(run_id="b", task="b", since_s=100.0),
    )
    assert [*placed([early, late], Executor(name="one", instances=HERE), runs_max=1, now_s=100.0).assignments] == ["a"]
