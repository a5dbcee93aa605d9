"""Which text a stage is given, and which stages are not trusted because of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from reconciler import trust
from reconciler.contracts import Contracts
from reconciler.model import (
    Instructions,
    Pipeline,
    Plan,
    Request,
    RoleSettings,
    RunId,
    Settings,
    Source,
    StageId,
    Text,
    Trust,
)
from reconciler.parse import parse_pipeline, parse_request
from reconciler.resolve import Place, resolve
from reconciler.settings import agent_of

CONTRACTS = Contracts()
NOBODY = Trust(paths=())
AGENT = {"id": "a", "agent": {"use": "codex", "prompt_file": "prompts/x.md", "output_schema": "schemas/y.json"}}
INSTRUCTIONS = Instructions(hash="0" * 64, sources=("AGENTS.md",))


def plan_of(
    *stages: dict[str, Any],
    settings: Trust = NOBODY,
    request: str = "",
    parent: str = "",
    roles: RoleSettings = RoleSettings(),
) -> Plan:
    said = {"parameters": {"x": {"default": "1"}}, "stages": list(stages)}
    pipeline = parse_pipeline(json.dumps(said).encode(), Source(path="pipelines/p.yaml"), CONTRACTS)
    asked = parse_request(f"task: t\npipeline: p\n{request}".encode(), Source(path="runs.d/r.yaml"), CONTRACTS)
    assert isinstance(pipeline, Pipeline), pipeline
    assert isinstance(asked, Request), asked
    if parent:
        asked = replace(asked, parent=RunId(parent))
    place = Place(commit="c" * 40, branch="main", instructions=INSTRUCTIONS)
    plan = resolve(asked, {pipeline.id: pipeline}, Settings(trust=settings, roles=roles), place)
    assert isinstance(plan, Plan), plan
    return plan


def paths(plan: Plan) -> dict[str, list[str]]:
    return {each.id: [text.path for text in each.untrusted] for each in plan.stages}


COMMAND = {"id": "c", "command": "make"}
GIVEN = "parameters: {x: '2'}\n"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Trust(), []),
        (NOBODY, ["prompts/x.md", "schemas/y.json", "AGENTS.md"]),
        (Trust(allowed_signers="signers"), ["prompts/x.md", "schemas/y.json", "AGENTS.md"]),
        (Trust(paths=("prompts/**", "AGENTS.md")), ["schemas/y.json"]),
        (Trust(paths=("**",)), []),
        (Trust(paths=("prompts",)), ["schemas/y.json", "AGENTS.md"]),
        (Trust(paths=("prompts/*.txt", "schemas/*", "*.md")), ["prompts/x.md"]),
    ],
)
def test_text_that_no_path_vouches_for(settings: Trust, expected: list[str]) -> None:
    assert paths(plan_of(AGENT, settings=settings))["a"] == expected


def test_a_prompt_in_the_pipeline_was_reviewed_with_it() -> None:
    stage = {"id": "a", "agent": {"use": "codex", "prompt": "Do it."}}
    assert paths(plan_of(stage))["a"] == ["AGENTS.md"]


def test_a_command_is_given_the_parameters_that_its_request_says() -> None:
    assert paths(plan_of(COMMAND)) == {"c": []}
    assert paths(plan_of(COMMAND, request=GIVEN)) == {"c": ["runs.d/r.yaml"]}
    assert paths(plan_of(COMMAND, request=GIVEN, parent="r-11111111")) == {"c": []}


def test_trust_changes_no_digest() -> None:
    assert plan_of(AGENT).digest == plan_of(AGENT, settings=Trust()).digest


def spread(*stages: dict[str, Any]) -> dict[str, bool]:
    """Return which stages are trusted."""
    found = trust.spread(plan_of(*stages, settings=Trust(paths=("schemas/**", "AGENTS.md"))).stages)
    return {each.id: not each.untrusted for each in found}


def command(name: str, **keys: Any) -> dict[str, Any]:
    return {"id": name, "command": "make", **keys}


def test_what_is_over_before_it_begins_stays_trusted() -> None:
    assert spread(command("b"), AGENT, command("d")) == {"b": True, "a": False, "d": False}


def test_what_may_run_beside_it_is_not() -> None:
    found = spread(command("b"), {**AGENT, "needs": ["b"]}, command("d", needs=["b"]), command("e", needs=[]))
    assert found == {"b": True, "a": False, "d": False, "e": False}


def test_what_closes_the_run_comes_behind_it() -> None:
    assert spread(AGENT, {**command("z"), "finally": True}) == {"a": False, "z": False}


def test_one_that_closes_the_run_leaves_nothing_for_those_before() -> None:
    assert spread(command("b"), {**AGENT, "finally": True}) == {"b": True, "a": False}


def test_one_that_may_write_nothing_leaves_nothing_behind() -> None:
    assert spread({**AGENT, "sandbox": {"write": []}}, command("d")) == {"a": False, "d": True}
    assert spread({**AGENT, "sandbox": {"write": ["out"]}}, command("d")) == {"a": False, "d": False}


def test_an_agent_that_judges_acts_on_its_prompt_and_on_what_others_left() -> None:
    reviewer = agent_of({"use": "codex", "prompt_file": "prompts/review.md"})
    given = {"settings": NOBODY, "request": GIVEN, "roles": RoleSettings(agent=reviewer, tester="strict")}
    tester, judge = plan_of(COMMAND, **given).roles.judges
    assert [each.path for each in judge.untrusted] == ["runs.d/r.yaml", "prompts/review.md", "AGENTS.md"]
    assert tester.untrusted == ()
    writer = replace(plan_of(COMMAND).stages[0], untrusted=(Text(path="x"),))
    left = trust.behind(replace(judge, untrusted=()), [writer, replace(writer, id=StageId("d"), untrusted=())])
    assert left.untrusted == (Text(path="x"),)
    assert trust.behind(replace(judge, untrusted=()), [replace(writer, sandbox={"write": []})]).untrusted == ()
    assert trust.behind(tester, [writer]).untrusted == ()
