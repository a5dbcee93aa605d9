"""`reconciler eval` and `guard: eval`: real repositories, real runs, nothing left of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scratch import Scratch
from tests.test_docs import ROOT, examples

PAGE = ROOT / "docs" / "how-to" / "toolbox.md"
TOOLS = {"evals/python.eval.yaml": ("python3",), "evals/node.eval.yaml": ("node", "npm"), "evals/go.eval.yaml": ("go",)}
GREETING = """
title: A greeting
pipeline: greet
parameters: {name: Ann}
timeout: 30s
expect:
  stages: {say: succeeded}
  files: [{path: greeting, contains: [Ann]}, {path: home, matches: '/home$'}]
"""
GREET = (
    "parameters: {name: {}}\nstages:\n  - {id: say, command: 'echo $PARAM_NAME > greeting; echo $HOME > home; env'}\n"
)


def test_the_examples_of_the_page_come_out_as_they_say(scratch: Scratch) -> None:
    shown = {place: data for place, _, data in examples(PAGE) if place.startswith("evals/")}
    assert shown.keys() == TOOLS.keys()
    there = [place for place, tools in TOOLS.items() if all(map(shutil.which, tools))]
    for place in there:
        scratch.write(place, shown[place])
    ended = scratch.run("eval", "--format", "json", "--parallel", "2")
    told = json.loads(ended.stdout)
    assert {each["path"]: each["findings"] for each in told["results"]} == {place: [] for place in there}
    assert ended.returncode == 0
    missing = sorted({tool for place in TOOLS.keys() - set(there) for tool in TOOLS[place] if not shutil.which(tool)})
    if missing:
        pytest.skip(f"not all examples were tried: {', '.join(missing)} is not installed")


@pytest.mark.parametrize(
    ("adds", "said"),
    [
        ("a - b", ["passed"]),
        ("a + b", ["stage test: succeeded, expected failed", "file released: is there", "the run has succeeded"]),
        ("a - )", ["/commands/0/summary"]),
    ],
)
def test_the_python_example_judges_the_code(scratch: Scratch, adds: str, said: list[str]) -> None:
    [text] = [data.decode() for place, _, data in examples(PAGE) if place == "evals/python.eval.yaml"]
    assert text.count("return a - b") == 1
    scratch.write("evals/python.eval.yaml", text.replace("return a - b", f"return {adds}"))
    ended = scratch.run("eval")
    assert ended.returncode == (0 if said == ["passed"] else 1)
    for each in said:
        assert each in ended.stdout


def test_a_trial_leaves_nothing_and_sees_nothing(scratch: Scratch, tmp_path: Path) -> None:
    scratch.pipeline("greet", GREET)
    scratch.write("evals/greet.eval.yaml", GREETING)
    scratch.write("evals/wrong.eval.yaml", GREETING.replace("[Ann]", "[Bob]").replace("succeeded", "failed"))
    scratch.write("evals/broken.eval.yaml", "pipeline: {stages: []}\n")
    before = scratch.fingerprint()
    trials = tmp_path / "trials"
    trials.mkdir()
    ended = scratch.run("eval", TMPDIR=str(trials), SECRET_TOKEN="hidden")
    assert ended.returncode == 1
    assert "passed evals/greet.eval.yaml (A greeting)" in ended.stdout
    assert "stage say: succeeded, expected failed" in ended.stdout
    assert "file greeting: does not contain 'Bob'" in ended.stdout
    assert "line 1: 'stages' is empty" in ended.stdout and "3 scenarios tried, 2 failed" in ended.stdout
    assert scratch.fingerprint() == before
    assert list(trials.iterdir()) == []


def test_a_run_that_takes_too_long_fails_and_is_over(scratch: Scratch) -> None:
    scratch.write(
        "slow.eval.yaml",
        "pipeline: {stages: [{id: s, command: exec sleep 600}]}\ntimeout: 200ms\nexpect: {status: failed}\n",
    )
    ended = scratch.run("eval", "slow.eval.yaml")
    assert ended.returncode == 0, ended.stdout


def test_as_a_guardrail_its_results_are_evidence(scratch: Scratch) -> None:
    scratch.pipeline("greet", GREET)
    scratch.write("evals/greet.eval.yaml", GREETING)
    scratch.pipeline("p", "guardrails_required: true\nstages:\n  - {id: eval, guard: eval}\n")
    scratch.request("a", "p")
    scratch.commit()
    ended = scratch.run("reconcile", "--wait")
    assert ended.returncode == 0, ended.stderr
    manifest = scratch.manifest("a")
    assert manifest["guardrail_status"]["passed"] == ["eval"]
    files = {Path(each["path"]).name: each["path"] for each in scratch.stages("a")["eval"]["answer"]["files"]}
    assert files.keys() == {"eval.json", "eval.xml"}
    told = json.loads(scratch.git("show", f"HEAD:{files['eval.json']}"))
    assert (told["scenarios"], told["failed"], told["results"][0]["status"]) == (1, 0, "succeeded")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [((), 1, "there is no scenario here"), (("nowhere",), 2, "no such file"), (("src",), 2, "holds no scenario")],
)
def test_where_there_is_nothing_to_try(scratch: Scratch, words: tuple[str, ...], code: int, said: str) -> None:
    scratch.write("src/x", "")
    ended = scratch.run("eval", *words)
    assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr


@pytest.mark.parametrize("tell", [os.kill, os.killpg], ids=["alone", "with its group"])
def test_who_is_told_to_end_leaves_nothing(scratch: Scratch, tmp_path: Path, tell: Callable[[int, int], None]) -> None:
    scratch.write(
        "slow.eval.yaml",
        "pipeline: {stages: [{id: s, command: 'touch begun; exec sleep 600'}]}\ntimeout: 10m\n"
        "fixture: {files: {reconciler.yaml: 'heartbeat: {interval: 100ms, stale_after: 1s}'}}\n",
    )
    trials = tmp_path / "trials"
    trials.mkdir()
    started = scratch.start("eval", TMPDIR=str(trials))
    scratch.wait_for(lambda: list(trials.glob("*/repository/.runs/*/cli/*/workspace/begun")), timeout=60)
    tell(started.pid, signal.SIGTERM)
    started.communicate(timeout=60)
    assert started.returncode == 128 + signal.SIGTERM
    scratch.wait_for(lambda: not scratch.processes(trials), timeout=60)
    assert list(trials.iterdir()) == []
