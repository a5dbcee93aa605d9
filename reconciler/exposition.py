"""What was measured, in the text format of Prometheus and as CSV. Pure.

Names follow the conventions of Prometheus: base units, `_total` for what only grows, a unit before it. The same names
are in the file that `metrics` writes and at `/metrics`, so one dashboard shows both. Everything here is computed from
evidence: `reconciler_evidence_...`; what a process measures of itself has no such word in its name.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import islice

from reconciler import __version__
from reconciler.measures import Measured, PipelineMeasures, Spread
from reconciler.values import frozen

PREFIX = "reconciler_evidence_"
KIND = "text/plain; version=0.0.4; charset=utf-8"

STAGES_SHOWN_MAX = 2_000
"""How many stages are shown at most: Prometheus pays for every series."""

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]


@frozen(kw_only=False)
class Family:
    """One metric: `type` is a word of Prometheus; a sample is a suffix of the name, labels and a value."""

    name: str
    type: str
    help: str
    samples: tuple[Sample, ...]


COLUMNS = (
    "task", "pipeline", "stage", "runs", "succeeded", "failed", "cancelled", "success_rate", "attempts", "resumes",
    "resumes_refused", "duration_s_p50", "duration_s_p90", "duration_s_p99", "duration_s_max", "duration_s_sum",
    "exits", "guardrails_passed", "guardrails_failed", "guardrails_missing", "guardrails_advisory",
    "guardrail_coverage", "recovery_s_p50", "recovery_s_max", "unrecovered", "redactions", "last_completed_at",
)  # fmt: skip


def info(commit: str) -> Labels:
    """Return what is said of measurements as a whole: the commit they are of, and the version that made them."""
    return {"commit": commit, "version": __version__}


def prometheus(measured: Measured, info: Labels) -> str:
    """Return measurements in the text format; `info` says what they are of."""
    return "".join(_text(each) for each in families(measured, info) if each.samples)


def families(measured: Measured, info: Labels) -> Iterator[Family]:
    """Yield every metric there is, those without samples too."""
    yield Family(PREFIX + "info", "gauge", "What was measured.", (("", info, 1.0),))
    yield Family(PREFIX + "damaged", "gauge", "Manifests that could not be understood.", (("", {}, measured.damaged),))
    left_out = "Pipelines that ended too long ago to be shown."
    yield Family(PREFIX + "left_out_pipelines", "gauge", left_out, (("", {}, measured.left_out),))
    groups = [({"task": each.task_id, "pipeline": each.pipeline_id}, each) for each in measured.pipelines]
    yield from _of_runs(groups)
    yield from _of_guardrails(groups)
    yield from _of_stages(groups)


Groups = list[tuple[dict[str, str], PipelineMeasures]]


def _of_runs(groups: Groups) -> Iterator[Family]:
    yield _counted("runs", "Runs that have ended.", "status", groups, lambda each: each.runs)
    yield _gauge("success_ratio", "Share of ended runs that succeeded.", groups, lambda each: each.success_rate)
    yield _summary("run_duration_seconds", "How long runs took.", [(where, each.duration_s) for where, each in groups])
    longest = "How long the longest run took."
    yield _gauge("run_duration_max_seconds", longest, groups, lambda each: each.duration_s.max)
    attempts = tuple(("_total", where, float(each.attempts_total)) for where, each in groups)
    yield Family(PREFIX + "attempts", "counter", "Attempts of runs that have ended.", attempts)
    yield _counted("resumes", "Resumes that were asked for.", "outcome", groups, lambda each: each.resumes)
    recovery = "From the end of a failed run to the end of the next success of its request."
    yield _summary("recovery_seconds", recovery, [(where, each.recovery_s) for where, each in groups])
    failing = "Requests whose newest run has failed."
    yield _gauge("unrecovered_requests", failing, groups, lambda each: float(each.unrecovered))
    secrets = "Secrets that were found in output."
    yield _counted("redactions", secrets, "rule", groups, lambda each: each.redactions_by_rule)
    ended = "When the newest run ended."
    yield _gauge("last_completion_timestamp_seconds", ended, groups, lambda each: _instant(each.last_completed_at))


def _of_guardrails(groups: Groups) -> Iterator[Family]:
    of_runs = "Runs that required guardrails, by their worst verdict."
    yield _counted("guarded_runs", of_runs, "verdict", groups, lambda each: each.guardrails.runs)
    yield _counted("guardrails", "Guardrails, by verdict.", "verdict", groups, lambda each: each.guardrails.stages)
    covered = "Share of ended runs that required guardrails and passed them."
    yield _gauge("guardrail_coverage_ratio", covered, groups, lambda each: each.guardrails.coverage)


def _of_stages(groups: Groups) -> Iterator[Family]:
    found = (({**where, "stage": stage.stage_id}, stage) for where, each in groups for stage in each.stages)
    stages = list(islice(found, STAGES_SHOWN_MAX))
    statuses = ((where, "status", each.statuses) for where, each in stages)
    yield Family(PREFIX + "stages", "counter", "Stages that ran.", tuple(_labelled(statuses)))
    exits = ((where, "exit", each.exits) for where, each in stages)
    ended = "Stages that ran, by exit code, signal or timeout."
    yield Family(PREFIX + "stage_exits", "counter", ended, tuple(_labelled(exits)))
    yield _summary(
        "stage_duration_seconds", "How long stages took.", [(where, each.duration_s) for where, each in stages]
    )


def _counted(
    name: str, said: str, label: str, groups: Groups, counts: Callable[[PipelineMeasures], Mapping[str, int]]
) -> Family:
    found = ((where, label, counts(each)) for where, each in groups)
    return Family(PREFIX + name, "counter", said, tuple(_labelled(found)))


def _labelled(found: Iterable[tuple[Labels, str, Mapping[str, int]]]) -> Iterator[Sample]:
    for where, label, counts in found:
        for word, count in counts.items():
            yield "_total", {**where, label: word}, float(count)


def _gauge(name: str, said: str, groups: Groups, value: Callable[[PipelineMeasures], float | None]) -> Family:
    found = ((where, value(each)) for where, each in groups)
    return Family(
        PREFIX + name, "gauge", said, tuple(("", where, float(each)) for where, each in found if each is not None)
    )


def _summary(name: str, said: str, found: Iterable[tuple[Labels, Spread]]) -> Family:
    return Family(PREFIX + name, "summary", said, tuple(each for where, one in found for each in _spread(where, one)))


def _spread(where: Labels, found: Spread) -> Iterator[Sample]:
    quantiles = (("0.5", found.p50), ("0.9", found.p90), ("0.99", found.p99))
    for quantile, value in quantiles:
        if value is not None:
            yield "", {**where, "quantile": quantile}, value
    yield "_sum", where, found.sum
    yield "_count", where, float(found.count)


def _instant(at: str) -> float | None:
    return datetime.fromisoformat(at).timestamp() if at else None


def _text(family: Family) -> str:
    """Return one metric: what it is, then its samples."""
    name = family.name + ("_total" if family.type == "counter" else "")
    head = f"# HELP {name} {family.help}\n# TYPE {name} {family.type}\n"
    return head + "".join(
        f"{family.name}{suffix}{_labels(labels)} {_number(value)}\n" for suffix, labels, value in family.samples
    )


def _labels(labels: Labels) -> str:
    said = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{said}}}" if said else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


# ------------------------------------------------------------------------------------------------ CSV


class _Lines:
    """What a CSV writer writes to: text in memory."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line)


def table(measured: Measured) -> str:
    """Return measurements as CSV: a line for each task and pipeline, and below it one for each of its stages."""
    out = _Lines()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for each in measured.pipelines:
        writer.writerow(_row(each))
        for stage in each.stages:
            where = {"task": each.task_id, "pipeline": each.pipeline_id, "stage": stage.stage_id}
            counts = {key: stage.statuses.get(key, 0) for key in ("succeeded", "failed")}
            total = {"runs": stage.duration_s.count, "exits": _exits(stage.exits)}
            writer.writerow({**where, **counts, **total, **_durations(stage.duration_s)})
    return "".join(out.lines)


def _row(each: PipelineMeasures) -> dict[str, object]:
    return {
        "task": each.task_id,
        "pipeline": each.pipeline_id,
        "runs": sum(each.runs.values()),
        **each.runs,
        "success_rate": each.success_rate,
        "attempts": each.attempts_total,
        "resumes": each.resumes["accepted"],
        "resumes_refused": each.resumes["refused"],
        **_durations(each.duration_s),
        "exits": _exits(each.exits),
        **{f"guardrails_{verdict}": count for verdict, count in each.guardrails.stages.items()},
        "guardrail_coverage": each.guardrails.coverage,
        "recovery_s_p50": each.recovery_s.p50,
        "recovery_s_max": each.recovery_s.max,
        "unrecovered": each.unrecovered,
        "redactions": sum(each.redactions_by_rule.values()),
        "last_completed_at": each.last_completed_at,
    }


def _durations(found: Spread) -> dict[str, object]:
    keys = ("p50", "p90", "p99", "max", "sum")
    return {f"duration_s_{key}": getattr(found, key) for key in keys}


def _exits(exits: Mapping[str, int]) -> str:
    return " ".join(f"{how}:{count}" for how, count in exits.items())
