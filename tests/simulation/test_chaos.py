"""The verb `chaos`: the same simulation on a repository's own requests."""

from __future__ import annotations

import json

import pytest

from tests.scratch import Scratch


def test_own_requests_are_tried_and_told_in_words(scratch: Scratch) -> None:
    scratch.pipeline("p", "stages:\n  - id: build\n    command: make\n  - id: ship\n    command: ./ship\n")
    scratch.request("a", "p", proves="[t/one]")
    scratch.request("b", "p", priority=3)
    scratch.write("tasks/t.md", "- [ ] One <!-- item: t/one -->\n")
    scratch.commit()
    before = scratch.fingerprint()
    told = scratch.run("chaos", "--minutes", "0.02")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "histories" in told.stdout and "no run had two attempts at once" in told.stdout
    assert scratch.fingerprint() == before


def test_for_programs_it_is_a_document(scratch: Scratch) -> None:
    scratch.simple("a", "true")
    told = scratch.run("chaos", "--seed", "7", "--minutes", "0.01", "--format", "json")
    document = json.loads(told.stdout)
    assert (document["seed"], document["broken"], told.returncode) == (7, [], 0)
    assert document["histories"] > 0 and document["happened"]["passes"] > 0


def test_without_a_request_there_is_nothing_to_try(scratch: Scratch) -> None:
    scratch.write("README.md", "nothing\n")
    scratch.commit()
    told = scratch.run("chaos")
    assert told.returncode == 1 and "holds no request" in told.stderr


def test_time_is_needed(scratch: Scratch) -> None:
    scratch.simple("a", "true")
    assert scratch.run("chaos", "--minutes", "0").returncode == 2


def test_stages_are_reused_whatever_happens(scratch: Scratch) -> None:
    """Every citation is of a success that was executed and proven: the simulation looks at each."""
    stage = {"id": "s", "command": "make", "reuse": {"paths": ["src", "pipelines/*.yaml"]}}
    scratch.write("src/a", "a\n")
    scratch.pipeline("p", json.dumps({"stages": [stage, {"id": "t", "command": "make test"}]}))
    scratch.request("a", "p")
    for name in ("b", "c", "d"):
        scratch.request(name, "p", after="[a]")
    scratch.commit()
    told = scratch.run("chaos", "--seed", "3", "--minutes", "0.1", "--format", "json")
    document = json.loads(told.stdout)
    assert (document["broken"], told.returncode) == ([], 0), told.stdout
    assert document["happened"].get("stages reused", 0) > 0


def test_an_engine_that_settings_name_is_simulated(scratch: Scratch) -> None:
    """No real one is asked: there is no such program here, and the engine does what no real one would."""
    scratch.write(
        "reconciler.yaml", "executors: {hpc: {engine: slurm, capabilities: [gpu], options: {partition: x}}}\n"
    )
    scratch.pipeline("p", json.dumps({"stages": [{"id": "s", "command": "make", "capabilities": ["gpu"]}]}))
    scratch.request("a", "p")
    scratch.commit()
    told = scratch.run("chaos", "--minutes", "0.05")
    assert told.returncode == 0, told.stdout + told.stderr
    assert "× an attempt was handed to an engine" in told.stdout
    assert "no attempt was executed twice at an engine" in told.stdout
    assert "no run had two attempts at once" not in told.stdout


def test_an_engine_is_added_where_somebody_asks_for_it(scratch: Scratch) -> None:
    scratch.simple("a", "true")
    scratch.request("b", "a", execution="{mode: cloud}", capabilities="[tpu]")
    scratch.commit()
    told = scratch.run("chaos", "--engine", "--minutes", "0.05", "--format", "json")
    document = json.loads(told.stdout)
    assert (document["broken"], told.returncode) == ([], 0), told.stdout
    assert document["happened"]["attempts at the engine"] > 0


def test_what_is_asked_for_and_nobody_has_waits_for_a_person(scratch: Scratch) -> None:
    scratch.simple("a", "true")
    scratch.request("b", "a", execution="{mode: cloud}")
    scratch.commit()
    told = scratch.run("chaos", "--minutes", "0.01", "--format", "json")
    assert (json.loads(told.stdout)["broken"], told.returncode) == ([], 0), told.stdout


@pytest.mark.parametrize("how", ["branch", "pull_request"])
@pytest.mark.parametrize("engine", [False, True], ids=["here", "at an engine"])
def test_what_an_agent_changed_is_delivered(scratch: Scratch, how: str, engine: bool) -> None:
    agent = {"use": "command", "command": ["sh", "-c", "echo hi > f"], "prompt": "x", "deliver": how}
    scratch.pipeline("p", json.dumps({"stages": [{"id": "s", "agent": agent}, {"id": "t", "command": "make test"}]}))
    scratch.request("a", "p", proves="[t/one]")
    scratch.request("b", "p")
    scratch.write("tasks/t.md", "- [ ] One <!-- item: t/one -->\n")
    scratch.commit()
    words = ("--engine",) if engine else ()
    told = scratch.run("chaos", "--seed", "11", "--minutes", "0.1", "--format", "json", *words)
    document = json.loads(told.stdout)
    assert (document["broken"], told.returncode) == ([], 0), told.stdout
    assert document["happened"].get("changes by agents", 0) > 0
