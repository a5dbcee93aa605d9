"""The door for agents, asked by the client of the official SDK, and by the real Codex CLI."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from starlette.datastructures import Headers

from reconciler.cli import VERBS
from reconciler.commands.mcp import ALLOWED
from reconciler.forges.forge import Kind
from reconciler.mcpface import CALLS_MAX, Door, _text, schema_names, server
from reconciler.mcpserver import BODY_BYTES_MAX, Guard
from tests.e2e.test_agents import programs
from tests.forges.server import REPOSITORY, TOKEN, forge_server
from tests.model_server import Call, Say, model
from tests.preloaded import RECONCILER
from tests.scratch import ENVIRONMENT, Hub, Scratch

__all__ = ["programs"]

LOOKING = {"validate", "plan", "status", "wait", "logs", "evidence"}
ASKED = {"task": "t", "pipeline": "p"}
QUESTION = "workspace: empty\nstages:\n  - id: answer\n    approval: {reason: The title asks}\n    command: 'true'\n"
SECRET = "s3cret-s3cret-s3cret"
Tell = Callable[[Client], Awaitable[None]]


@pytest.fixture
def repository(scratch: Scratch) -> Scratch:
    scratch.settings("mcp: {ask: question}\n")
    scratch.pipeline("p", "workspace: empty\nstages:\n  - {id: s, command: echo said}\n")
    scratch.pipeline("question", QUESTION)
    scratch.commit()
    return scratch


def inside(place: Path, tell: Tell, *allowed: str) -> None:
    """Let a client speak with a door in this process."""
    door = Door(place, frozenset(allowed))

    async def speak() -> None:
        async with Client(server(door)) as client:
            await tell(client)

    try:
        asyncio.run(speak())
    finally:
        door.close()


async def called(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Return what a tool answers. Fail if it says that something is wrong."""
    answer = await client.call_tool(tool, arguments)
    assert not answer.is_error, answer.content
    assert answer.structured_content is not None
    return answer.structured_content


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    """Return the sentence with which a tool refuses."""
    answer = await client.call_tool(tool, arguments)
    assert answer.is_error, answer.structured_content
    return "".join(each.text for each in answer.content if each.type == "text")


# ------------------------------------------------------------------------------------------------ the whole route


def test_an_agent_asks_for_a_run_and_reads_its_evidence_over_standard_streams(repository: Scratch) -> None:
    told: list[tuple[float, str | None]] = []

    async def progress(value: float, total: float | None, message: str | None) -> None:
        told.append((value, message))

    async def speak() -> None:
        words = ["-C", str(repository.path), "mcp", "--allow", "submit,reconcile"]
        command = StdioServerParameters(command=RECONCILER[0], args=[*RECONCILER[1:], *words], env=ENVIRONMENT)
        async with Client(command) as client:
            names = {each.name for each in (await client.list_tools()).tools}
            assert names == {*LOOKING, "submit", "reconcile"}
            assert (await called(client, "validate", text="task: t\npipeline: p\n"))["ok"]
            plan = await called(client, "plan", request=ASKED)
            assert [each["does"] for each in plan["stages"]] == ["echo said"]
            asked = await called(client, "submit", request=ASKED)
            answer = await client.call_tool(
                "wait", {"run": asked["run_id"], "timeout_s": 60}, progress_callback=progress
            )
            assert answer.structured_content is not None
            assert (answer.structured_content["resting"], answer.structured_content["phase"]) == (True, "succeeded")
            await called(client, "reconcile")
            evidence = await called(client, "evidence", run=asked["run_id"])
            assert (evidence["status"], evidence["committed"]) == ("succeeded", True)
            assert (await called(client, "logs", run=asked["name"], stage="s"))["text"] == "said\n"
            (content,) = (await client.read_resource(evidence["manifest"])).contents
            assert json.loads(content.text) == repository.manifest("0001-p")  # type: ignore[union-attr]

    asyncio.run(speak())
    assert [value for value, _ in told] == sorted({value for value, _ in told})
    assert [str(message).split()[0] for _, message in told] == [
        "run:started", "stage:started", "stage:completed", "run:completed",
    ]  # fmt: skip
    asked = repository.git("log", "--format=%B", "--", "runs.d")
    assert asked == "runs: start p for t\n\nAsked for by an agent, through reconciler mcp.\n\n"


@pytest.fixture
def listening(repository: Scratch) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Return the address of a door that listens and its process; the token is SECRET."""
    repository.simple("a", "echo one; echo two")
    repository.run("reconcile", "--wait")
    process = repository.start("mcp", "--http", "127.0.0.1:0", RECONCILER_MCP_TOKEN=SECRET)
    assert process.stderr is not None
    yield process.stderr.readline().strip(), process


def test_it_is_reached_over_http_by_who_knows_the_token_and_ends_when_told(
    listening: tuple[str, subprocess.Popen[str]],
) -> None:
    url, process = listening
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/mcp", url)
    authority = {"Authorization": f"Bearer {SECRET}"}

    async def speak() -> None:
        import httpx2

        http = httpx2.AsyncClient(headers=authority)
        async with http, Client(streamable_http_client(url, http_client=http)) as client:
            assert {each.name for each in (await client.list_tools()).tools} == LOOKING
            (run,) = (await called(client, "status"))["runs"]
            assert run["phase"] == "succeeded"
            part = await called(client, "logs", run=run["run_id"], stage="s", bytes_max=16)
            assert (part["text"], part["over"]) == ("one\ntwo\n", True)

    asyncio.run(speak())
    hello = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    form = {"Accept": "application/json, text/event-stream"}
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({**authority, "Host": "evil.example"}, 421),
        ({**authority, "Origin": "https://evil.example"}, 403),
        ({**authority, "Origin": "null"}, 403),
    ):
        assert httpx.post(url, json=hello, headers={**form, **headers}).status_code == status
    large = {**hello, "params": {"x": "y" * BODY_BYTES_MAX}}
    assert httpx.post(url, json=large, headers={**form, **authority}).status_code == 413
    process.terminate()
    said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert SECRET not in "".join(said)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:8765"}, 401),
        ({"host": "localhost", "authorization": f"Bearer {SECRET}"}, None),
        ({"host": "[::1]:8765", "authorization": f"bearer {SECRET}"}, 401),
        ({"host": "localhost.evil.example", "authorization": f"Bearer {SECRET}"}, 421),
        ({"authorization": f"Bearer {SECRET}"}, 421),
        ({"host": "localhost", "origin": "http://localhost:3000", "authorization": f"Bearer {SECRET}"}, None),
        ({"host": "localhost", "origin": "http://localhost.evil.example", "authorization": f"Bearer {SECRET}"}, 403),
        ({"host": "localhost", "origin": "http://[", "authorization": f"Bearer {SECRET}"}, 403),
        ({"host": "localhost", "origin": "", "authorization": f"Bearer {SECRET}"}, 403),
    ],
)
def test_the_guard_lets_in_only_who_may(headers: Mapping[str, str], status: int | None) -> None:
    guard = Guard(hosts=frozenset({"localhost", "127.0.0.1", "::1"}), token=SECRET.encode())
    found = guard.refusal(Headers(headers))
    assert (found[0] if found is not None else None) == status


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--allow", "submit,approve"], "--allow approve: nothing of that name can be allowed; known are submit, "),
        (["--http", "0.0.0.0:0"], "--http 0.0.0.0: others can reach it, and there is no token; give a token"),
        (["--http", "nowhere"], "not a host and a port"),
        (["--public-name", "x.example"], "--token-file and --public-name need --http HOST:PORT"),
    ],
)
def test_what_cannot_be_is_said_at_once(
    repository: Scratch, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    from reconciler.cli import cli
    from reconciler.errors import UsageError

    monkeypatch.chdir(repository.path)
    with pytest.raises(UsageError) as error:
        cli.main(["mcp", *words], standalone_mode=False)
    assert said in str(error.value)


# ------------------------------------------------------------------------------------------------ what is allowed


def test_without_being_allowed_it_only_looks(repository: Scratch) -> None:
    async def tell(client: Client) -> None:
        tools = (await client.list_tools()).tools
        assert {each.name for each in tools} == LOOKING
        assert all(each.annotations is not None and each.annotations.read_only_hint for each in tools)
        assert (await called(client, "status"))["runs_total"] == 1
        assert (await called(client, "plan"))["actions"][0]["action"] == "launch"
        assert (await called(client, "wait", run="a", timeout_s=0))["phase"] == "absent"
        assert (await called(client, "validate", text="task: t\npipeline: p\n"))["ok"]
        for each in ALLOWED:
            assert "Unknown tool" in await refused(client, each, request=ASKED)

    repository.request("a", "p")
    repository.commit()
    before = repository.fingerprint()
    inside(repository.path, tell)
    assert repository.fingerprint() == before


def test_every_tool_says_what_it_is_for_and_bounds_what_it_takes(repository: Scratch) -> None:
    async def tell(client: Client) -> None:
        tools = (await client.list_tools()).tools
        assert {each.name for each in tools} == {*LOOKING, *ALLOWED}
        for each in tools:
            assert each.description and each.description[0].isupper(), each.name
            for name, schema in each.input_schema.get("properties", {}).items():
                bounds = {"maxLength", "maximum", "enum"} & schema.keys()
                assert bounds or schema.get("type") in ("object", "boolean") or "anyOf" in schema, (each.name, name)

    inside(repository.path, tell, *ALLOWED)
    assert "mcp" in VERBS


def test_hostile_words_become_no_path_and_no_option(repository: Scratch) -> None:
    (repository.outside / "x.yaml").write_text("task: t\npipeline: p\n")

    async def tell(client: Client) -> None:
        for name in ("../../outside/x", "-rf", ".git/config", "a/../../b", "/etc/x", "a..b", "x.approval"):
            await refused(client, "submit", request=ASKED, name=name)
        for run in ("../../etc/passwd", "--all", "$(id)", "\x00", "HEAD:README.md"):
            assert "there is no run" in await refused(client, "evidence", run=run)
            assert "there is no run" in await refused(client, "logs", run=run, stage="../../x")
        assert "Input should be" in await refused(client, "logs", run="a", stage="s", offset=-1)
        assert "at most 65536" in await refused(client, "validate", text="x" * 70_000)
        assert "more than 65536 bytes" in await refused(client, "submit", request={**ASKED, "title": "x" * 70_000})
        said = await refused(client, "submit", request={**ASKED, "parameters": {"$(id)": "x"}, "task": "../t"})
        assert "'../t' is not an id" in said
        for uri in (
            "reconciler://schema/..%2F..%2Fpyproject",
            "reconciler://manifest/..%2F..%2Fx",
            "file:///etc/passwd",
        ):
            with pytest.raises(MCPError):
                await client.read_resource(uri)

    before = repository.git("rev-parse", "HEAD")
    inside(repository.path, tell, *ALLOWED)
    assert repository.git("rev-parse", "HEAD") == before and repository.git("status", "--porcelain") == ""


def test_what_is_wrong_is_told_in_our_words(repository: Scratch) -> None:
    async def tell(client: Client) -> None:
        found = await called(client, "validate", text="task: t\npipline: p\n")
        assert [each["line"] for each in found["problems"]] == [1, 2]
        assert "did you mean 'pipeline'" in "".join(each["sentence"] for each in found["problems"])
        assert "there is no pipeline 'q'" in await refused(client, "plan", request={"task": "t", "pipeline": "q"})
        assert "there is no run 'zzz'" in await refused(client, "wait", run="zzz")
        assert "there is nothing to cancel" in await refused(client, "cancel", run=await ran(client), reason="x")

    async def ran(client: Client) -> str:
        asked = await called(client, "submit", request=ASKED, name="0009-a")
        again = await called(client, "submit", request=ASKED, name="0009-a")
        assert again["new"] is False and again["run_id"] == asked["run_id"]
        assert (await called(client, "wait", run="0009-a", timeout_s=60))["phase"] == "succeeded"
        return "0009-a"

    inside(repository.path, tell, "submit", "reconcile", "cancel")


def test_a_run_is_cancelled_and_goes_on(repository: Scratch) -> None:
    repository.pipeline(
        "w", f"workspace: empty\nstages:\n  - {{id: s, command: 'test -e {repository.outside}/on || sleep 60'}}\n"
    )
    repository.commit()

    async def tell(client: Client) -> None:
        run = (await called(client, "submit", request={"task": "t", "pipeline": "w"}))["run_id"]
        assert (await called(client, "reconcile"))["done"] == [f"{run}: launched"]
        assert (await called(client, "wait", run=run, timeout_s=0))["resting"] is False
        assert (await called(client, "cancel", run=run, reason="enough"))["phase"] == "cancelled"
        (repository.outside / "on").touch()
        assert "attempt 2" in (await called(client, "resume", run=run, reason="go on"))["said"]
        assert (await called(client, "wait", run=run, timeout_s=60))["phase"] == "succeeded"

    inside(repository.path, tell, *ALLOWED)


def test_calls_that_wait_are_in_nobodys_way_and_bounded(repository: Scratch) -> None:
    repository.request("later", "p", suspend="true")
    repository.commit()

    async def tell(client: Client) -> None:
        waiting = asyncio.create_task(called(client, "wait", run="later", timeout_s=600))
        assert (await called(client, "status"))["runs_total"] == 1
        waiting.cancel()
        many = [client.call_tool("status", {}) for _ in range(3 * CALLS_MAX)]
        answers = await asyncio.gather(*many)
        assert any(each.is_error for each in answers) and not all(each.is_error for each in answers)
        assert (await called(client, "status", run="later"))["reason"]

    inside(repository.path, tell)


def test_every_schema_can_be_read(repository: Scratch) -> None:
    async def tell(client: Client) -> None:
        listed = {str(each.uri) for each in (await client.list_resources()).resources}
        assert listed == {f"reconciler://schema/{each}" for each in schema_names()} and len(listed) > 5
        (content,) = (await client.read_resource("reconciler://schema/request")).contents
        assert json.loads(content.text)["title"] == "Request"  # type: ignore[union-attr]

    inside(repository.path, tell)


def test_a_character_is_not_cut() -> None:
    data = "aä€".encode()
    assert [_text(data[:end], whole=False) for end in range(1, 7)] == [
        ("a", 0), ("a", 1), ("aä", 0), ("aä", 1), ("aä", 2), ("aä€", 0),
    ]  # fmt: skip
    assert _text(b"\xff\xe2", whole=True) == ("��", 0)


# ------------------------------------------------------------------------------------------------ asking people


def test_a_question_waits_for_a_person_and_the_reason_is_the_answer(repository: Scratch) -> None:
    async def tell(client: Client) -> None:
        asked = await called(client, "ask", question="Which port shall it use?", task="t", timeout_s=0)
        assert asked["answered"] is False
        await called(client, "wait", run=asked["run_id"], timeout_s=60)
        why = repository.run("why", asked["run_id"])
        assert "of task 't': Which port shall it use?" in why.stdout
        words = asked["how_a_person_answers"].replace("ANSWER", "8080").split()
        assert repository.run(*words[1:]).returncode == 0
        answer = await called(client, "ask", question="Which port shall it use?", task="t", timeout_s=60)
        assert (answer["answered"], answer["run_id"]) == (True, asked["run_id"])
        (said,) = answer["answers"]
        assert (said["decision"], said["answer"], said["by"]) == ("approve", "8080", "Ann Author <ann@example.invalid>")
        assert ".approval.yaml" in repository.git("show", "--name-only", "--format=", said["commit"])

    inside(repository.path, tell, "ask", "reconcile")


def test_a_question_needs_a_pipeline_with_a_gate(repository: Scratch) -> None:
    async def tell(client: Client) -> None:
        said = await refused(client, "ask", question="Why?", task="t", timeout_s=0)
        assert "pipelines/p.yaml: has no gate at which a question could wait; give a stage of it an 'approval'" in said
        repository.settings()
        repository.commit()
        said = await refused(client, "ask", question="Why?", task="t", timeout_s=0)
        assert "reconciler.yaml: nothing says how a person is asked; name a pipeline with a gate" in said

    repository.settings("mcp: {ask: p}\n")
    repository.commit()
    inside(repository.path, tell, "ask")


# ------------------------------------------------------------------------------------------------ branches


def test_a_submission_waits_on_a_branch_to_be_merged_where_settings_say_so(repository: Scratch) -> None:
    repository.settings("mcp: {submit: branch}\n")
    repository.commit()

    async def tell(client: Client) -> None:
        asked = await called(client, "submit", request=ASKED, name="0003-a")
        assert asked["branch"] == "requests/0003-a"
        waits = await called(client, "wait", run=asked["name"], timeout_s=0)
        assert waits["reason"] == "its request waits on branch 'requests/0003-a' to be merged"
        repository.git("merge", "-q", asked["branch"])
        assert (await called(client, "wait", run=asked["run_id"], timeout_s=60))["phase"] == "succeeded"

    inside(repository.path, tell, "submit", "reconcile")


def test_a_submission_becomes_a_pull_request_where_settings_say_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECONCILER_FORGE_TOKEN", TOKEN)
    with forge_server(Kind.GITHUB) as forge:
        clone = hub.clone("one")
        place = f"{{kind: github, url: '{forge.url}', api_url: '{forge.site.api_url}', repository: {REPOSITORY}}}"
        clone.settings(f"mcp: {{submit: pull_request}}\nforge: {place}\n")
        clone.pipeline("p", "workspace: empty\nstages:\n  - {id: s, command: echo said}\n")
        clone.push()

        async def tell(client: Client) -> None:
            title = "@ann <b>now</b> `x`"
            asked = await called(client, "submit", request={**ASKED, "title": title}, name="0001-a")
            (pull,) = forge.pulls
            assert (pull["head"], pull["base"], pull["title"]) == ("requests/0001-a", "main", "runs: start p for t")
            assert asked["pull_request"].endswith("/pull/1")
            shown = next(line for line in pull["body"].splitlines() if "@ann" in line)
            assert shown.startswith("    "), "it is shown as code"
            again = await called(client, "submit", request={**ASKED, "title": title}, name="0001-a")
            assert (again["new"], again["pull_request"]) == (False, asked["pull_request"])
            assert len(forge.pulls) == 1

        inside(clone.path, tell, "submit")
        assert "runs.d/0001-a.yaml" in hub.git("ls-tree", "-r", "--name-only", "requests/0001-a")
        assert "runs.d" not in hub.git("ls-tree", "-r", "--name-only", "main")


# ------------------------------------------------------------------------------------------------ Codex


def test_the_real_codex_cli_asks_through_it(repository: Scratch, programs: Mapping[str, str]) -> None:
    """The scripted model calls two tools; what they answer comes back to it."""
    calls = (
        Call("submit", {"request": ASKED, "name": "0005-codex"}, namespace="mcp__reconciler"),
        Call("wait", {"run": "0005-codex", "timeout_s": 60}, namespace="mcp__reconciler"),
    )
    home = repository.outside / "codex"
    home.mkdir()
    with model(*calls, Say("It ran.")) as told:
        provider = {
            "name": "loop", "base_url": f"{told.url}/v1", "wire_api": "responses", "env_key": "LOOP_API_KEY",
            "request_max_retries": 0, "stream_max_retries": 0,
        }  # fmt: skip
        door = {
            "command": sys.executable,
            "args": ["-m", "reconciler", "-C", str(repository.path), "mcp", "--allow", "submit,reconcile"],
            "env": {name: value for name, value in ENVIRONMENT.items() if name.startswith("GIT_")},
            "required": True, "startup_timeout_sec": 60, "default_tools_approval_mode": "approve",
        }  # fmt: skip
        said = {"model_provider": "loop", "model_providers.loop": provider, "mcp_servers.reconciler": door}
        options = [word for name, value in said.items() for word in ("-c", f"{name}={_toml(value)}")]
        command = [programs["codex"], "exec", "--json", "-C", str(repository.path), "-m", "gpt-5.5", *options, "Ask."]
        done = subprocess.run(
            command, env={**ENVIRONMENT, "CODEX_HOME": str(home), "LOOP_API_KEY": "any"}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        items = [each["item"] for each in map(json.loads, done.stdout.splitlines()) if each["type"] == "item.completed"]
        used = [(each["tool"], each["status"]) for each in items if each["type"] == "mcp_tool_call"]
        assert used == [("submit", "completed"), ("wait", "completed")], done.stdout
        outputs = [each["output"] for each in told.requests[-1]["input"] if each["type"] == "function_call_output"]
        assert "runs.d/0005-codex.yaml" in outputs[0] and '"phase":"succeeded"' in outputs[1]
    assert repository.manifest("0005-codex")["status"] == "succeeded"


def _toml(value: object) -> str:
    """Return plain values as TOML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    return json.dumps(value)
