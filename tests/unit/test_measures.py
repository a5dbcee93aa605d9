"""What the evidence of many runs comes to: cases as data, and what holds for all of them."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reconciler import exposition
from reconciler.measures import PIPELINES_MAX, Measured, Measures, PipelineMeasures, Spread, spread

ROOT = Path(__file__).resolve().parents[2]
EPOCH = datetime(2026, 3, 1, tzinfo=UTC)


def at(minute: float) -> str:
    return (EPOCH + timedelta(minutes=minute)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def stage(stage_id: str = "build", status: str = "succeeded", **keys: Any) -> dict[str, Any]:
    ended = {"exit_code": 0 if status == "succeeded" else 1, "signal": None, "timed_out": False}
    return {"id": stage_id, "status": status, "tries": 1, "duration_s": 1.0, **ended, **keys}


def run(minute: float, status: str = "succeeded", *stages: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """Return as much of a manifest as is measured, of a run that ended in this minute."""
    return {
        "task_id": "t",
        "pipeline_id": "p",
        "name": "r",
        "status": status,
        "completed_at": at(minute),
        "resources": {"duration_s": 10.0},
        "attempts": [{}],
        "resume_events": [],
        "commands": list(stages) or [stage(status="failed" if status == "failed" else "succeeded")],
        "guardrail_status": None,
        "privacy": {"mode": "enforce", "redactions": 0, "redactions_by_rule": {}},
    } | keys


def guarded(minute: float, **lists: list[str]) -> dict[str, Any]:
    empty: dict[str, list[str]] = {each: [] for each in ("required", "passed", "failed", "missing", "advisory")}
    return run(minute, guardrail_status=empty | lists)


def measured(*documents: Any) -> Measured:
    measures = Measures()
    for each in documents:
        measures.add(each)
    return measures.measured()


def only(*documents: Any) -> PipelineMeasures:
    (found,) = measured(*documents).pipelines
    return found


CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "every run counts, whatever it came to": (
        [run(1), run(2), run(3, "failed"), run(4, "cancelled", name="s")],
        {"runs": {"succeeded": 2, "failed": 1, "cancelled": 1}, "success_rate": 0.5, "last_completed_at": at(4)},
    ),
    "a recovery is from the first failure to the next success of the request": (
        [run(1), run(10, "failed"), run(20, "failed"), run(25, "cancelled"), run(40), run(50)],
        {"recovery_s": Spread(count=1, sum=1800.0, p50=1800.0, p90=1800.0, p99=1800.0, max=1800.0), "unrecovered": 0},
    ),
    "another request is no recovery": (
        [run(10, "failed"), run(20, name="other")],
        {"recovery_s": Spread(), "unrecovered": 1},
    ),
    "the order in which manifests are read does not matter": (
        [run(40), run(10, "failed")],
        {"recovery_s": Spread(count=1, sum=1800.0, p50=1800.0, p90=1800.0, p99=1800.0, max=1800.0)},
    ),
    "stages end in many ways": (
        [
            run(1, "failed", stage(status="failed", exit_code=127), stage("b", "skipped", tries=0)),
            run(2, "failed", stage(status="failed", exit_code=None, signal="SIGKILL")),
            run(3, "failed", stage(status="failed", exit_code=None, signal="SIGTERM", timed_out=True)),
            run(4, "failed", stage(status="failed", exit_code=None)),
            run(5),
        ],
        {"exits": {"0": 1, "127": 1, "SIGKILL": 1, "none": 1, "timeout": 1}},
    ),
    "attempts and resumes": (
        [run(1, attempts=[{}, {}, {}], resume_events=[{"outcome": "accepted"}] * 2 + [{"outcome": "refused"}]), run(2)],
        {"attempts_total": 4, "resumes": {"accepted": 2, "refused": 1}},
    ),
    "secrets by rule": (
        [run(1, privacy={"redactions": 3, "redactions_by_rule": {"acme": 2, "secret": 1}}), run(2, privacy={"redactions": 1})],
        {"redactions_by_rule": {"acme": 2, "secret": 1}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_runs_come_to(case: str) -> None:
    documents, expected = CASES[case]
    found = only(*documents)
    assert {key: getattr(found, key) for key in expected} == expected


def test_guardrails_are_counted_by_verdict_and_runs_by_their_worst() -> None:
    found = only(
        guarded(1, required=["a", "b"], passed=["a", "b"]),
        guarded(2, required=["a", "b"], passed=["a"], failed=["b"]),
        guarded(3, required=["a", "b"], passed=["a"], missing=["b"]),
        guarded(4, missing=["any"]),
        guarded(5, required=["a"], advisory=["a"]),
        guarded(6, passed=["a"]),
        run(7),
        run(8),
    ).guardrails
    assert found.runs == {"passed": 1, "failed": 1, "missing": 2, "advisory": 1}
    assert found.stages == {"passed": 5, "failed": 1, "missing": 2, "advisory": 1}
    assert found.coverage == 0.125


def test_quantiles_are_numbers_that_were_measured() -> None:
    numbers = [float(each) for each in range(1, 201)]
    random.Random(1).shuffle(numbers)
    assert spread(numbers) == Spread(count=200, sum=20100.0, p50=100.0, p90=180.0, p99=198.0, max=200.0)
    assert spread([3.0]) == Spread(count=1, sum=3.0, p50=3.0, p90=3.0, p99=3.0, max=3.0)
    assert spread([]) == Spread()


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "x",
        {},
        {"status": "in_progress"},
        run(1, completed_at="soon"),
        run(1, commands=[{}]),
        run(1, attempts=1),
    ],
)
def test_what_cannot_be_understood_is_counted_and_changes_nothing(document: Any) -> None:
    found = measured(run(1), document)
    assert found.damaged == 1
    assert found.pipelines == measured(run(1)).pipelines


def test_the_sums_over_everything_are_those_of_all_pipelines() -> None:
    found = measured(run(1, "failed"), run(2), run(3, pipeline_id="q", name="s"), run(4, task_id="u"))
    assert [(each.task_id, each.pipeline_id) for each in found.pipelines] == [("t", "p"), ("t", "q"), ("u", "p")]
    assert found.total.runs == {"succeeded": 3, "failed": 1, "cancelled": 0}
    assert found.total.recovery_s.max == 60.0


def test_pipelines_that_ended_last_are_shown() -> None:
    found = measured(*(run(each, pipeline_id=f"p{each}") for each in range(PIPELINES_MAX + 2)))
    assert (len(found.pipelines), found.left_out) == (PIPELINES_MAX, 2)
    assert not {"p0", "p1"} & {each.pipeline_id for each in found.pipelines}


def test_a_run_takes_a_few_hundred_bytes() -> None:
    measures = Measures()
    measures.add(run(0))
    tracemalloc.start()
    for each in range(2_000):
        measures.add(run(each, name=f"r{each % 50}"))
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 2_000 * 400
    assert measures.measured().total.runs["succeeded"] == 2_001


# ------------------------------------------------------------------------------------------------ Prometheus

HOSTILE = 'a"b\\c\nd'


def everything() -> Measured:
    """Return measurements in which every metric has a sample."""
    return measured(
        guarded(1, required=["a"], passed=["a"], advisory=["b"]),
        run(2, "failed", stage(status="failed", exit_code=2, duration_s=0.25), resume_events=[{"outcome": "refused"}]),
        run(3, privacy={"redactions": 1, "redactions_by_rule": {"acme": 1}}),
        run(4, pipeline_id=HOSTILE),
        None,
    )


def samples(text: str) -> dict[str, float]:
    found = (each for family in text_string_to_metric_families(text) for each in family.samples)
    return {f"{each.name}{json.dumps(each.labels, sort_keys=True)}": each.value for each in found}


def test_prometheus_reads_what_is_written() -> None:
    text = exposition.prometheus(everything(), exposition.info("c" * 40))
    found = samples(text)
    assert found['reconciler_evidence_runs_total{"pipeline": "p", "status": "failed", "task": "t"}'] == 1
    assert found['reconciler_evidence_run_duration_seconds{"pipeline": "p", "quantile": "0.99", "task": "t"}'] == 10
    assert (
        found['reconciler_evidence_stage_exits_total{"exit": "2", "pipeline": "p", "stage": "build", "task": "t"}'] == 1
    )
    assert (
        found['reconciler_evidence_last_completion_timestamp_seconds{"pipeline": "p", "task": "t"}']
        == EPOCH.timestamp() + 180
    )
    assert any(json.dumps(HOSTILE) in each for each in found)
    assert found["reconciler_evidence_damaged{}"] == 1


def test_names_and_types_follow_the_conventions() -> None:
    every = list(exposition.families(everything(), {"commit": "c"}))
    assert len({each.name for each in every}) == len(every)
    for family in text_string_to_metric_families(exposition.prometheus(everything(), {"commit": "c"})):
        assert re.fullmatch(r"reconciler_evidence_[a-z_]+[a-z]", family.name)
        assert family.documentation.endswith(".")
        assert not re.search(r"milli|minutes|hours|kib|percent|_ms", family.name)
        assert all(each.name.endswith("_total") for each in family.samples) == (family.type == "counter")
        assert all(each.timestamp is None for each in family.samples)
    assert {each.name for each in every if not each.samples} == set()


# ------------------------------------------------------------------------------------------------ Grafana

DASHBOARD = json.loads((ROOT / "docs/grafana/dashboard.json").read_bytes())
LIVE = re.findall(r'"(reconciler_[a-z_]+)"', (ROOT / "reconciler/webface.py").read_text())
GAUGES = re.findall(r'^            "([a-z_]+)": \("', (ROOT / "reconciler/webface.py").read_text(), re.MULTILINE)


def exported() -> dict[str, set[str]]:
    """Return every name that is exported, and its labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exposition.prometheus(everything(), {"commit": "c", "version": "1"})):
        for each in family.samples:
            found.setdefault(each.name, set()).update(each.labels)
    for name in (*LIVE, *(f"reconciler_{each}" for each in GAUGES)):
        found |= {f"{name}{suffix}": {"phase", "le"} for suffix in ("", "_total", "_bucket", "_count", "_sum")}
    return found


def asked() -> list[str]:
    of_panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [*of_panels, *(each["definition"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query")]


@pytest.mark.parametrize("expression", asked())
def test_the_dashboard_asks_for_nothing_that_is_not_exported(expression: str) -> None:
    known = exported()
    names = re.findall(r"\breconciler_[a-z_]+", expression)
    assert names
    assert set(names) <= known.keys()
    labels = set().union(*(known[each] for each in names))
    used = {
        *re.findall(r"(\w+)(?:=~|!=|=)\"", expression),
        *(word.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for word in group.split(",")),
        *re.findall(r"label_values\(.*, (\w+)\)$", expression),
    }
    assert used <= labels


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    ids = [each["id"] for each in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids) > 10
    assert DASHBOARD["uid"] and DASHBOARD["title"] and DASHBOARD["schemaVersion"] >= 36
    assert all({"x", "y", "w", "h"} == set(each["gridPos"]) for each in DASHBOARD["panels"])


def test_the_page_names_every_metric() -> None:
    page = (ROOT / "docs/how-to/metrics.md").read_text()
    families = list(text_string_to_metric_families(exposition.prometheus(everything(), {"commit": "c"})))
    expected = {f"{each.name}_total" if each.type == "counter" else each.name for each in families}
    assert set(re.findall(r"^\| `(reconciler_[a-z_]+)`", page, re.MULTILINE)) == expected


# ------------------------------------------------------------------------------------------------ CSV


def test_a_table_has_a_line_for_each_pipeline_and_each_stage() -> None:
    lines = exposition.table(measured(run(1), run(2, "failed"))).splitlines()
    assert lines[0].split(",") == list(exposition.COLUMNS)
    assert [line.split(",")[:6] for line in lines[1:]] == [
        ["t", "p", "", "2", "1", "1"],
        ["t", "p", "build", "2", "1", "1"],
    ]
