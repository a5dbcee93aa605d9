"""What the evidence of many runs comes to: durations, exit codes, guardrails, successes, recoveries. Pure.

All of it is a function of committed manifests, so it can be computed again at any commit, by anybody. Of each run only
numbers are kept, so ten thousand of them take a few megabytes.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from reconciler.values import frozen

ENDED = ("succeeded", "failed", "cancelled")
VERDICTS = ("passed", "failed", "missing", "advisory")
PIPELINES_MAX = 500
STAGES_MAX = 2_000
"""How many stages of one pipeline are told apart, whatever its ids were over the years."""
EVERYTHING = ""
"""The task, and the pipeline, of the sums over all of them."""


@frozen
class Spread:
    """How numbers are spread, in seconds; the quantiles are numbers that were measured (nearest rank)."""

    count: int = 0
    sum: float = 0.0
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    max: float | None = None


@frozen
class Guarded:
    """What guardrails came to. `runs` are by their worst verdict, of those that required guardrails; `stages` are the
    guardrails themselves. `coverage` is the share of all ended runs that required guardrails and passed them."""

    runs: Mapping[str, int]
    stages: Mapping[str, int]
    coverage: float | None


@frozen
class StageMeasures:
    """What a stage of a pipeline came to, as often as it ran; `exits` are by exit code, signal or `timeout`."""

    stage_id: str
    statuses: Mapping[str, int]
    exits: Mapping[str, int]
    duration_s: Spread


@frozen
class PipelineMeasures:
    """What the runs of one pipeline for one task came to.

    `recovery_s` is from the end of a failed run to the end of the next run of the same request that succeeded;
    `unrecovered` counts requests whose newest run that was not cancelled has failed.
    """

    task_id: str
    pipeline_id: str
    runs: Mapping[str, int]
    success_rate: float | None
    duration_s: Spread
    attempts_total: int
    resumes: Mapping[str, int]
    exits: Mapping[str, int]
    guardrails: Guarded
    recovery_s: Spread
    unrecovered: int
    redactions_by_rule: Mapping[str, int]
    last_completed_at: str
    stages: tuple[StageMeasures, ...] = ()


@frozen
class Measured:
    """The sums over everything, and by task and pipeline: those that ended last, `left_out` more are not shown.
    `damaged` counts manifests that could not be understood."""

    total: PipelineMeasures
    pipelines: tuple[PipelineMeasures, ...]
    left_out: int = 0
    damaged: int = 0


@frozen
class _Facts:
    """What is taken of one manifest."""

    task_id: str
    pipeline_id: str
    name: str
    status: str
    completed_at: str
    duration_s: float
    attempts: int
    resumes: tuple[str, ...]
    stages: tuple[tuple[str, str, float, str], ...]
    verdicts: Mapping[str, int]
    worst: str
    redactions: Mapping[str, int]


def _numbers() -> array[float]:
    return array("d")


@dataclass(slots=True)
class _Stage:
    statuses: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    duration_s: array[float] = field(default_factory=_numbers)


@dataclass(slots=True)
class _Sums:
    """The sums of one group of runs while they grow."""

    runs: Counter[str] = field(default_factory=Counter)
    duration_s: array[float] = field(default_factory=_numbers)
    attempts: int = 0
    resumes: Counter[str] = field(default_factory=Counter)
    exits: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    guarded: Counter[str] = field(default_factory=Counter)
    redactions: Counter[str] = field(default_factory=Counter)
    last_completed_at: str = ""
    stages: dict[str, _Stage] = field(default_factory=dict)

    def add(self, facts: _Facts) -> None:
        self.runs[facts.status] += 1
        self.duration_s.append(facts.duration_s)
        self.attempts += facts.attempts
        self.resumes.update(facts.resumes)
        self.verdicts.update(facts.verdicts)
        self.redactions.update(facts.redactions)
        self.last_completed_at = max(self.last_completed_at, facts.completed_at)
        if facts.worst:
            self.guarded[facts.worst] += 1
        for stage_id, status, duration_s, how in facts.stages:
            self._add_stage(stage_id, status, duration_s, how)

    def _add_stage(self, stage_id: str, status: str, duration_s: float, how: str) -> None:
        self.exits[how] += 1
        if stage_id not in self.stages and len(self.stages) >= STAGES_MAX:
            return
        stage = self.stages.setdefault(stage_id, _Stage())
        stage.statuses[status] += 1
        stage.exits[how] += 1
        stage.duration_s.append(duration_s)


class Measures:
    """Sums that manifests are added to, in any order."""

    def __init__(self) -> None:
        self.damaged = 0
        self._total = _Sums()
        self._groups: dict[tuple[str, str], _Sums] = {}
        self._ends: dict[tuple[str, str], list[tuple[float, str, str]]] = {}

    def add(self, document: Any) -> bool:
        """Take a manifest in and return whether it was one of a run that has ended."""
        facts = _facts(document)
        if facts is None:
            self.damaged += 1
            return False
        group = (facts.task_id, facts.pipeline_id)
        self._groups.setdefault(group, _Sums()).add(facts)
        self._total.add(facts)
        end = (_seconds(facts.completed_at), facts.status, facts.pipeline_id)
        self._ends.setdefault((facts.task_id, facts.name), []).append(end)
        return True

    def measured(self) -> Measured:
        """Return what the manifests so far come to, in the order of task and pipeline."""
        recoveries, unrecovered = self._recoveries()
        newest = sorted(self._groups, key=lambda each: self._groups[each].last_completed_at, reverse=True)
        shown = sorted(newest[:PIPELINES_MAX])
        every = array("d", (each for numbers in recoveries.values() for each in numbers))
        total = _pipeline(EVERYTHING, EVERYTHING, self._total, every, sum(unrecovered.values()))
        return Measured(
            total=total,
            pipelines=tuple(
                _pipeline(*each, self._groups[each], recoveries.get(each, _numbers()), unrecovered[each], whole=True)
                for each in shown
            ),
            left_out=len(newest) - len(shown),
            damaged=self.damaged,
        )

    def _recoveries(self) -> tuple[dict[tuple[str, str], array[float]], Counter[tuple[str, str]]]:
        """Return by task and pipeline how long recoveries took, and how many requests have not recovered. A recovery
        belongs to the pipeline that failed first."""
        took: dict[tuple[str, str], array[float]] = {}
        unrecovered: Counter[tuple[str, str]] = Counter()
        for (task_id, _), ends in self._ends.items():
            since: tuple[float, str] | None = None
            for at_s, status, pipeline_id in sorted(ends):
                if status == "failed" and since is None:
                    since = (at_s, pipeline_id)
                elif status == "succeeded" and since is not None:
                    took.setdefault((task_id, since[1]), _numbers()).append(at_s - since[0])
                    since = None
            if since is not None:
                unrecovered[task_id, since[1]] += 1
        return took, unrecovered


def _pipeline(
    task_id: str, pipeline_id: str, sums: _Sums, recovery_s: array[float], unrecovered: int, *, whole: bool = False
) -> PipelineMeasures:
    ended = sum(sums.runs.values())
    return PipelineMeasures(
        task_id=task_id,
        pipeline_id=pipeline_id,
        runs={each: sums.runs[each] for each in ENDED},
        success_rate=_share(sums.runs["succeeded"], ended),
        duration_s=spread(sums.duration_s),
        attempts_total=sums.attempts,
        resumes={each: sums.resumes[each] for each in ("accepted", "refused")},
        exits=_sorted(sums.exits),
        guardrails=Guarded(
            runs={each: sums.guarded[each] for each in VERDICTS},
            stages={each: sums.verdicts[each] for each in VERDICTS},
            coverage=_share(sums.guarded["passed"], ended),
        ),
        recovery_s=spread(recovery_s),
        unrecovered=unrecovered,
        redactions_by_rule=_sorted(sums.redactions),
        last_completed_at=sums.last_completed_at,
        stages=tuple(_stage(each, sums.stages[each]) for each in sorted(sums.stages)) if whole else (),
    )


def _stage(stage_id: str, stage: _Stage) -> StageMeasures:
    return StageMeasures(
        stage_id=stage_id,
        statuses=_sorted(stage.statuses),
        exits=_sorted(stage.exits),
        duration_s=spread(stage.duration_s),
    )


def spread(numbers: Iterable[float]) -> Spread:
    """Return how numbers are spread; a quantile is the smallest number that so large a share does not exceed."""
    ordered = sorted(numbers)
    if not ordered:
        return Spread()
    p50, p90, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.9, 0.99))
    total = round(math.fsum(ordered), 3)
    return Spread(count=len(ordered), sum=total, p50=p50, p90=p90, p99=p99, max=ordered[-1])


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return {each: counts[each] for each in sorted(counts)}


# ------------------------------------------------------------------------------------------------ one manifest


def _facts(document: Any) -> _Facts | None:
    """Return what is taken of a manifest, None if it is none of a run that has ended."""
    try:
        if document["status"] not in ENDED:
            return None
        status = document["guardrail_status"] or {}
        verdicts = {each: len(status.get(each, ())) for each in VERDICTS}
        privacy = document["privacy"]
        _seconds(str(document["completed_at"]))
        return _Facts(
            task_id=str(document["task_id"]),
            pipeline_id=str(document["pipeline_id"]),
            name=str(document["name"]),
            status=str(document["status"]),
            completed_at=str(document["completed_at"]),
            duration_s=float(document["resources"]["duration_s"]),
            attempts=len(document["attempts"]),
            resumes=tuple(str(each["outcome"]) for each in document["resume_events"]),
            stages=tuple(_ran(each) for each in document["commands"] if each["tries"]),
            verdicts=verdicts,
            worst=_worst(status, verdicts),
            redactions={str(rule): int(count) for rule, count in privacy.get("redactions_by_rule", {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _ran(command: Mapping[str, Any]) -> tuple[str, str, float, str]:
    """Return what is taken of a stage that ran: id, status, duration, and how its process ended."""
    how = command["signal"] if command["signal"] else str(command["exit_code"])
    duration_s = command["duration_s"]
    return (
        str(command["id"]),
        str(command["status"]),
        float(duration_s) if duration_s is not None else 0.0,
        "timeout" if command["timed_out"] else "none" if how == "None" else str(how),
    )


def _worst(status: Mapping[str, Any], verdicts: Mapping[str, int]) -> str:
    """Return what a run that required guardrails came to, "" if it required none."""
    if not (status.get("required") or status.get("missing")):
        return ""
    best = "passed" if verdicts["passed"] else "advisory"
    return next((each for each in ("failed", "missing") if verdicts[each]), best)


def _seconds(at: str) -> float:
    """Return an instant in seconds since 1970. Raise ValueError if it is none."""
    return datetime.fromisoformat(at).timestamp()
