"""How agents are started: arguments, environment and configuration of each driver, and what can be gone on with."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.agent import Agent
from reconciler.agents.claude import Claude
from reconciler.agents.codex import Codex, _strict, _toml
from reconciler.agents.command import Command
from reconciler.agents.driver import Place, Task
from reconciler.agents.verdict import reason_of

SESSION = "18e7e5ad-ba06-45c3-a3bd-f1cbc4d3fa00"
STRICT = {"type": "object", "additionalProperties": False, "required": ["a"], "properties": {"a": {"type": "string"}}}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(work=tmp_path / "work", home=tmp_path / "home", temporary=tmp_path / "tmp")
    made.home.mkdir()
    return made


def task(place: Place, agent: Agent, **keys: Any) -> Task:
    schema = json.dumps(keys.pop("schema", "")) if "schema" in keys else ""
    file = Path("/run/schema.json") if schema else None
    known = {"session": "", "resumed": False, "prompt_file": Path("/run/prompt.md"), "schema_file": file}
    return Task(agent=agent, place=place, schema=schema, **(known | keys))


def agent(driver: str, **keys: Any) -> Agent:
    return Agent(**({"use": driver, "driver": driver, "command": (driver,), "prompt": "x"} | keys))


# ------------------------------------------------------------------------------------------------ codex


def test_codex_begins_and_goes_on(place: Place) -> None:
    model = agent("codex", model="gpt-5.5")
    begun = Codex().launch(task(place, model, schema=STRICT))
    assert begun.argv == (
        "codex", "exec", "--json", "--skip-git-repo-check", "-m", "gpt-5.5", "--output-schema", "/run/schema.json", "-",
    )  # fmt: skip
    assert begun.environment["CODEX_HOME"] == begun.environment["HOME"] == str(place.home)
    again = Codex().launch(task(place, model, session=SESSION, resumed=True, schema={"type": "object"}))
    assert again.argv == (
        "codex", "exec", "resume", "--json", "--skip-git-repo-check", "-m", "gpt-5.5", SESSION, "-",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sandbox", "mode"), [("read-only", "read-only"), ("workspace-write", "workspace-write"), ("full", "danger-full-access")]
)  # fmt: skip
def test_nobody_can_talk_codex_out_of_its_sandbox(place: Place, sandbox: str, mode: str) -> None:
    config = {"sandbox_mode": "danger-full-access", "approval_policy": "on-request", "model_provider": "mine"}
    Codex().launch(task(place, agent("codex", sandbox=sandbox, config=config)))
    written = tomllib.loads((place.home / "config.toml").read_text())
    assert (written["sandbox_mode"], written["approval_policy"], written["model_provider"]) == (mode, "never", "mine")
    assert written["shell_environment_policy"] == {"inherit": "all", "ignore_default_excludes": False}


def test_codex_goes_on_only_with_what_it_kept(place: Place) -> None:
    assert not Codex().kept(place, SESSION)
    record = place.home / "sessions/2026/01/02" / f"rollout-2026-01-02T03-04-05-{SESSION}.jsonl"
    record.parent.mkdir(parents=True)
    record.touch()
    assert Codex().kept(place, SESSION)
    assert not any(Codex().kept(place, each) for each in ("", "*", "../x", SESSION[:-1] + "1"))
    found = Codex().record(place, SESSION)
    assert found is not None and found[0] == record


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5).filter(str.isprintable), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(config=st.dictionaries(st.text("abc-_. \"'é", min_size=1, max_size=8), VALUES, max_size=4))
def test_a_configuration_is_read_as_it_was_said(config: dict[str, Any]) -> None:
    assert tomllib.loads(_toml(config)) == config


def test_what_is_nothing_is_left_out_of_a_configuration() -> None:
    assert tomllib.loads(_toml({"a": None, "b": {"c": None, "d": 1.5}})) == {"b": {"d": 1.5}}


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (STRICT, True),
        ({"type": "object"}, False),
        ({**STRICT, "required": []}, False),
        ({**STRICT, "additionalProperties": True}, False),
        ({"type": "array", "items": STRICT}, True),
        ({"anyOf": [STRICT, {"type": "object"}]}, False),
    ],
)
def test_a_schema_that_the_model_itself_can_be_held_to(schema: Any, strict: bool) -> None:
    assert _strict(schema) is strict


# ------------------------------------------------------------------------------------------------ claude


def test_claude_begins_with_a_session_that_we_choose_and_goes_on_with_it(place: Place) -> None:
    session = Claude().new_session()
    assert session != Claude().new_session()
    begun = Claude().launch(task(place, agent("claude", model="opus"), session=session, cost_left=1.5, schema=STRICT))
    words = " ".join(begun.argv)
    assert words.startswith("claude -p --output-format stream-json --verbose --setting-sources user ")
    assert f"--session-id {session} --model opus --json-schema" in words
    assert "--max-budget-usd 1.5000" in words and "--settings" not in words
    again = Claude().launch(task(place, agent("claude", config={"hooks": {}}), session=session, resumed=True))
    assert again.argv[-4:] == ("--resume", session, "--settings", '{"hooks": {}}')
    assert begun.environment["HOME"] == str(place.home)


def test_claude_may_write_only_where_it_is_said(place: Place) -> None:
    said = {
        each: " ".join(Claude().launch(task(place, agent("claude", sandbox=each), session=SESSION)).argv)
        for each in ("read-only", "workspace-write", "full")
    }
    assert "--permission-mode default" in said["read-only"] and "--disallowedTools Edit,Write" in said["read-only"]
    assert "--allowedTools Read,Glob,Grep,Edit,Write,NotebookEdit,Bash " in said["workspace-write"]
    assert "--add-dir" in said["full"] and "--add-dir" not in said["workspace-write"]
    assert not any("dangerously" in each for each in said.values())


def test_claude_goes_on_only_with_what_it_kept(place: Place) -> None:
    assert not Claude().kept(place, SESSION)
    record = place.home / ".claude/projects/-work" / f"{SESSION}.jsonl"
    record.parent.mkdir(parents=True)
    record.touch()
    assert Claude().kept(place, SESSION)
    assert not any(Claude().kept(place, each) for each in ("", "*", "../../x"))


# ------------------------------------------------------------------------------------------------ a command


def test_a_command_gets_the_prompt_as_input_or_as_a_file(place: Place) -> None:
    by_input = Command().launch(task(place, agent("command", command=("./a", "x"))))
    assert (by_input.argv, by_input.told_by_input) == (("./a", "x"), True)
    by_file = Command().launch(task(place, agent("command", command=("./a", "{prompt_file}"))))
    assert (by_file.argv, by_file.told_by_input) == (("./a", "/run/prompt.md"), False)


def test_a_command_is_told_of_a_session_only_if_that_goes_on(place: Place) -> None:
    mine = agent("command", model="m", sandbox="full")
    begun = Command().launch(task(place, mine, session="s", schema=STRICT)).environment
    assert (begun["AGENT_SESSION"], begun["AGENT_MODEL"], begun["AGENT_SANDBOX"]) == ("", "m", "full")
    assert begun["AGENT_SCHEMA_FILE"] == "/run/schema.json"
    assert Command().launch(task(place, mine, session="s", resumed=True)).environment["AGENT_SESSION"] == "s"


# ------------------------------------------------------------------------------------------------ words of errors


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("cannot parse line 512", "failed"),
        ("tests failed: 401 of 500", "failed"),
        ("API Error: 401 {}", "unauthorized"),
        ("error code: 503", "server-error"),
        ("read ECONNRESET", "stream-cut"),
    ],
)
def test_a_number_alone_is_no_status(text: str, reason: str) -> None:
    assert reason_of(text) == reason
