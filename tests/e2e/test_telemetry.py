"""What runs came to, told to a real receiver of OTLP on loopback: once, whatever fails in between."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from reconciler.tracing import span_id, trace_id
from tests.collector import Collector, attributes
from tests.scratch import Scratch

PIPELINE = """
workspace: empty
stages:
  - {id: build, role: build, command: 'echo $TRACEPARENT > told; cat told'}
  - {id: test, command: 'echo token=$CANARY_TOKEN; exit 3'}
"""
SECRET = "Zk3vQ9xT7pLm" + "2RwY8sHd"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


def ask(scratch: Scratch, collector: Collector, more: str = "timeout: 2s, ") -> None:
    scratch.settings(
        f"telemetry: {{otlp: {{{more}endpoint: '{collector.address}', headers_env: RECONCILER_HEADERS}}}}\n"
    )
    scratch.pipeline("p", PIPELINE)
    scratch.request("r", "p")
    scratch.commit()


def reconcile(scratch: Scratch) -> str:
    done = scratch.run("reconcile", "--wait", CANARY_TOKEN=SECRET, RECONCILER_HEADERS="api-key=k%20ey")
    assert done.returncode in (0, 1), done.stderr
    return done.stdout + done.stderr


def test_a_run_is_told_once_with_its_stages(scratch: Scratch, collector: Collector) -> None:
    ask(scratch, collector)
    reconcile(scratch)
    run_id = scratch.run_id("r")
    spans = {each.name: each for each in collector.spans()}
    assert len(collector.spans()) == len(spans) == 4
    assert {each.trace_id.hex() for each in spans.values()} == {trace_id(run_id)}
    root, attempt, build, test = (spans[each] for each in ("RUN p", "attempt 1", "build", "test"))
    assert (root.parent_span_id, attempt.parent_span_id) == (b"", root.span_id)
    assert {build.parent_span_id, test.parent_span_id} == {attempt.span_id}
    assert attributes(root.attributes)["cicd.pipeline.result"] == "failure"
    assert attributes(build.attributes)["cicd.pipeline.task.type"] == "build"
    assert attributes(test.attributes)["process.exit.code"] == "3"
    assert test.status.message == "exit code 3: token=[redacted:environment]"
    # What is said of a stage is a log record in its span, and of the run one in that of the run.
    records = {each.event_name + each.span_id.hex(): each for each in collector.records()}
    said = records[f"reconciler.stage.completed{test.span_id.hex()}"]
    assert (said.body.string_value, said.severity_text) == (f"test failed: {test.status.message}", "ERROR")
    assert (said.trace_id, said.flags, said.time_unix_nano) == (test.trace_id, 1, test.end_time_unix_nano)
    assert scratch.git("show", f"HEAD:{attributes(said.attributes)['log.file.path']}").strip().startswith("token=[")
    assert records[f"reconciler.run.completed{root.span_id.hex()}"].trace_id == root.trace_id
    assert len({attributes(each.attributes)["log.record.uid"] for each in records.values()}) == len(records) == 3
    assert all(each["api-key"] == "k ey" for each in collector.headers)
    assert not any(SECRET.encode() in each for each in collector.data)
    # The stage was told the very span that was sent.
    log = scratch.git("show", f"HEAD:{scratch.stages('r')['build']['log_path']}").strip()
    assert (
        log
        == f"00-{trace_id(run_id)}-{build.span_id.hex()}-01"
        == f"00-{trace_id(run_id)}-{span_id(run_id, 1, 'build')}-01"
    )
    (point,) = collector.points("cicd.pipeline.run.duration").values()
    assert (point.count, sum(point.bucket_counts)) == (1, 1)
    assert attributes(point.attributes) == {
        "cicd.pipeline.name": "p", "cicd.pipeline.run.state": "executing", "cicd.pipeline.result": "failure", "error.type": "failure",
    }  # fmt: skip
    assert collector.points("cicd.pipeline.run.errors")["exit_code", "p"].as_int == 1
    resource = attributes(collector.traces[0].resource_spans[0].resource.attributes)
    assert resource["service.name"] == "gitops-reconciler"
    # Nothing is owed any more; a run that ends later is added to the sums.
    reconcile(scratch)
    assert (len(collector.spans()), len(collector.records())) == (4, 3)
    scratch.write("runs.d/r.yaml", "task: t\npipeline: p\nrerun: 1\n")
    scratch.commit()
    reconcile(scratch)
    assert len(collector.spans()) == 8
    assert collector.points("cicd.pipeline.run.errors")["exit_code", "p"].as_int == 2


def test_a_collector_that_refuses_or_hangs_is_in_nobodys_way(scratch: Scratch, collector: Collector) -> None:
    ask(scratch, collector, "timeout: 500ms, ")
    collector.status = 400
    said = reconcile(scratch)
    assert "evidence of" in said
    status = json.loads(scratch.run("status", "--format", "json").stdout)
    assert "spans were not taken by the collector" in status["conditions"]["telemetry"]["reason"]
    collector.open.clear()
    reconcile(scratch)
    collector.status = 200
    collector.open.set()
    reconcile(scratch)
    assert {each.name for each in collector.spans()} == {"RUN p", "attempt 1", "build", "test"}
    assert collector.points("cicd.pipeline.run.errors")["exit_code", "p"].as_int == 1
    assert "telemetry" not in json.loads(scratch.run("status", "--format", "json").stdout)["conditions"]


def test_what_is_not_wanted_any_more_is_in_nobodys_way(scratch: Scratch, collector: Collector) -> None:
    ask(scratch, collector)
    collector.status = 400
    reconcile(scratch)
    conditions = scratch.path / ".git/reconciler/conditions.json"
    assert "telemetry" in json.loads(conditions.read_bytes())
    scratch.settings()
    scratch.commit()
    reconcile(scratch)
    assert "telemetry" not in json.loads(conditions.read_bytes())


def test_whoever_died_before_the_receipt_tells_the_same_again(scratch: Scratch, collector: Collector) -> None:
    ask(scratch, collector)
    reconcile(scratch)
    receipt = scratch.path / ".git/reconciler/telemetry.json"
    told = receipt.read_bytes()
    # As it was before anything was told: the receipt of the tip without evidence.
    before = json.loads(told) | {
        "tree": "",
        "ahead": [],
        "sums": {**json.loads(told)["sums"], "durations": [], "errors": []},
    }
    receipt.write_text(json.dumps(before))
    reconcile(scratch)
    first, again = collector.traces
    assert first.SerializeToString() == again.SerializeToString()
    assert json.loads(receipt.read_bytes())["sums"] == json.loads(told)["sums"]
    uids = [attributes(each.attributes)["log.record.uid"] for each in collector.records()]
    assert uids[:3] == uids[3:]


def test_the_environment_says_what_settings_leave_out_and_history_is_not_told(
    scratch: Scratch, collector: Collector
) -> None:
    scratch.settings()
    scratch.simple("early", "true")
    assert scratch.run("reconcile", "--wait").returncode == 0
    scratch.settings("telemetry: {otlp: {signals: [traces]}}\n")
    scratch.simple("late", "true")
    told = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
        "OTEL_SERVICE_NAME": "mine",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
    }
    assert scratch.run("reconcile", "--wait", **told).returncode == 0
    assert {each.name for each in collector.spans()} == {"RUN late", "attempt 1", "s"}
    assert (collector.metrics, collector.logs) == ([], [])
    assert attributes(collector.traces[0].resource_spans[0].resource.attributes)["service.name"] == "mine"


def test_without_settings_a_stage_keeps_the_trace_it_is_in(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("r", "echo $TRACEPARENT")
    outer = f"00-{'a' * 32}-{'b' * 16}-01"
    assert scratch.run("reconcile", "--wait", TRACEPARENT=outer).returncode == 0
    assert scratch.git("show", f"HEAD:{scratch.stages('r')['s']['log_path']}").strip() == outer
    assert not (scratch.path / ".git/reconciler/telemetry.json").exists()
