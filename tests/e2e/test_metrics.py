"""`reconciler metrics`: a repository with a failure and its recovery, measured in every format."""

from __future__ import annotations

import csv
import json

from prometheus_client.parser import text_string_to_metric_families

from tests.scratch import Scratch


def test_what_a_commit_proves_is_measured(scratch: Scratch) -> None:
    scratch.settings()
    scratch.pipeline(
        "p", "workspace: empty\nstages:\n  - {id: build, command: 'true'}\n  - {id: test, command: exit 3}\n"
    )
    scratch.request("r", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    broken = scratch.git("rev-parse", "HEAD").strip()
    scratch.pipeline(
        "p", "workspace: empty\nstages:\n  - {id: build, command: 'true'}\n  - {id: test, command: 'true'}\n"
    )
    scratch.write("runs.d/r.yaml", "task: t\npipeline: p\nrerun: 1\n")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0

    found = json.loads(scratch.run("metrics", "--format", "json").stdout)
    assert found["commit"] == scratch.git("rev-parse", "HEAD").strip()
    (one,) = found["pipelines"]
    assert one["runs"] == {"succeeded": 1, "failed": 1, "cancelled": 0}
    assert one["exits"] == {"0": 3, "3": 1}
    assert (one["recovery_s"]["count"], one["unrecovered"]) == (1, 0)
    assert {each["stage_id"]: each["statuses"] for each in one["stages"]} == {
        "build": {"succeeded": 2}, "test": {"failed": 1, "succeeded": 1},
    }  # fmt: skip

    earlier = json.loads(scratch.run("metrics", "--ref", broken, "--format", "json", "--since", "7d").stdout)
    assert (earlier["total"]["runs"]["failed"], earlier["total"]["unrecovered"]) == (1, 1)
    assert scratch.run("metrics", "--since", "2999-01-01").stdout.startswith("no run has ended in this time")

    text = scratch.run("metrics", "--task", "t").stdout
    assert "50 %" in text and "0:3 3:1" in text and "test" in text
    rows = list(csv.DictReader(scratch.run("metrics", "--format", "csv").stdout.splitlines()))
    assert [each["stage"] for each in rows] == ["", "build", "test"]

    target = scratch.outside / "reconciler.prom"
    target.write_text("what was there before\n")
    done = scratch.run("metrics", "--format", "prometheus", "--output", str(target))
    assert (done.returncode, done.stdout) == (0, "")
    families = {each.name: each for each in text_string_to_metric_families(target.read_text())}
    assert families["reconciler_evidence_info"].samples[0].labels["commit"] == found["commit"]
    assert [path.name for path in scratch.outside.iterdir()] == ["reconciler.prom"]
    assert scratch.git("status", "--porcelain") == ""


def test_what_makes_no_sense_is_said(scratch: Scratch) -> None:
    scratch.settings()
    scratch.commit()
    for words, said in {
        ("--since", "yesterday"): "--since yesterday: is no time; say 7d",
        ("--task", "nothing"): "--task nothing: no run of it is proven",
        ("--output", str(scratch.outside / "no/x.prom")): "make it first",
        ("--ref", "no"): "there is no such commit here",
    }.items():
        done = scratch.run("metrics", *words)
        assert done.returncode == 2 and said in done.stderr, done.stderr
