"""What agents say, as events: lines as they were recorded, and lines that nobody should ever see."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.agents.claude_events import ClaudeReader
from reconciler.agents.codex_events import CodexReader, RolloutReader
from reconciler.agents.command_events import CommandReader, TextReader
from reconciler.agents.events import Event, Kind, Reader, Usage, clipped, looks_denied
from reconciler.agents.story import Story, line
from reconciler.agents.verdict import reason_of


def read(reader: Reader, *lines: str | dict[str, Any]) -> list[Event]:
    """Return what a reader makes of lines, each a text or what it holds as JSON."""
    texts = (each if isinstance(each, str) else json.dumps(each) for each in lines)
    return [event for text in texts for event in reader.feed(text.encode())]


def story_of(events: list[Event]) -> Story:
    story = Story()
    for each in events:
        story.add(each)
    return story


# ------------------------------------------------------------------------------------------------ codex

CODEX = [
    '{"type":"thread.started","thread_id":"01a2140f-ffe9-73a0-9534-6f03e94aba06"}',
    '{"type":"turn.started"}',
    '{"type":"item.started","item":{"id":"item_0","type":"command_execution","command":"/bin/bash -lc \'ls\'",'
    '"aggregated_output":"","exit_code":null,"status":"in_progress"}}',
    '{"type":"item.completed","item":{"id":"item_1","type":"reasoning","text":"I look"}}',
    '{"type":"item.completed","item":{"id":"item_0","type":"command_execution","command":"/bin/bash -lc \'ls\'",'
    '"aggregated_output":"hi\\n","exit_code":0,"status":"completed"}}',
    '{"type":"item.completed","item":{"id":"item_2","type":"file_change","changes":[{"path":"/w/a.py","kind":"add"},'
    '{"path":"/w/b.py","kind":"update"}],"status":"completed"}}',
    '{"type":"item.completed","item":{"id":"item_3","type":"agent_message","text":"done"}}',
    '{"type":"turn.completed","usage":{"input_tokens":200,"cached_input_tokens":50,"cache_write_input_tokens":0,'
    '"output_tokens":40,"reasoning_output_tokens":0}}',
]


def test_a_turn_of_codex() -> None:
    events = read(CodexReader(), *CODEX)
    assert [each.kind for each in events] == [
        Kind.SESSION, Kind.OTHER, Kind.STARTED, Kind.REASONING, Kind.COMMAND, Kind.FILES, Kind.MESSAGE, Kind.USAGE,
        Kind.ENDED,
    ]  # fmt: skip
    story = story_of(events)
    assert story.session == "01a2140f-ffe9-73a0-9534-6f03e94aba06"
    assert story.usage == Usage(input_tokens=200, cached_input_tokens=50, output_tokens=40)
    assert story.detail()["commands"] == [{"command": "/bin/bash -lc 'ls'", "exit_code": 0, "ok": True}]
    assert story.detail()["files_touched"] == ["/w/a.py", "/w/b.py"]
    assert (story.last_message, story.unexplained()) == ("done", ())


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("unexpected status 401 Unauthorized: scripted, url: http://127.0.0.1:39273/v1/responses", "unauthorized"),
        ("exceeded retry limit, last status: 429 Too Many Requests", "rate-limited"),
        ("You've hit your usage limit. Try again later.", "rate-limited"),
        ("We’re currently experiencing high demand, which may cause temporary errors.", "server-error"),
        ("unexpected status 503 Service Unavailable: x", "server-error"),
        ("stream disconnected before completion: Transport error: network error", "stream-cut"),
        ("stream disconnected before completion: error sending request for url", "stream-cut"),
        ("the model `nope` does not exist", "failed"),
        ("", "failed"),
    ],
)
def test_a_failed_turn_of_codex(message: str, reason: str) -> None:
    [failed] = read(CodexReader(), {"type": "turn.failed", "error": {"message": message}})
    assert (failed.kind, failed.text, reason_of(failed.text, failed.status)) == (Kind.FAILED, message, reason)


def test_what_a_sandbox_stopped() -> None:
    command = {"type": "command_execution", "command": "git add a", "exit_code": 128, "status": "failed"}
    denied = {**command, "aggregated_output": "fatal: Unable to create '.git/index.lock': Read-only file system\n"}
    plain = {**command, "command": "false", "aggregated_output": "no such thing", "exit_code": 1}
    fine = {**command, "command": "ls", "aggregated_output": "permission denied", "exit_code": 0, "status": "completed"}
    declined = {**command, "command": "rm -rf /", "exit_code": None, "status": "declined"}

    def unexplained(*items: dict[str, Any]) -> tuple[str, ...]:
        lines = [{"type": "item.completed", "item": each} for each in items]
        return story_of(read(CodexReader(), *lines)).unexplained()

    assert unexplained(denied) == ("git add a",)
    assert unexplained(plain) == ()
    assert unexplained(denied, plain) == ("git add a",)
    assert unexplained(denied, fine) == ()
    assert unexplained(declined, fine) == ("rm -rf /",)


def test_other_items_of_codex_are_kept() -> None:
    items: list[dict[str, Any]] = [
        {"type": "mcp_tool_call", "server": "tickets", "tool": "create", "status": "failed"},
        {"type": "web_search", "query": "weather"},
        {"type": "todo_list", "items": [{"text": "x", "completed": False}]},
        {"type": "error", "message": "This session was recorded with model x"},
        {"type": "hologram", "beam": 7},
        {},
    ]
    events = read(CodexReader(), *[{"type": "item.completed", "item": each} for each in items])
    assert [(each.kind, each.ok) for each in events] == [
        (Kind.TOOL, False), (Kind.TOOL, True), (Kind.OTHER, True), (Kind.ERROR, True), (Kind.OTHER, True),
        (Kind.OTHER, True),
    ]  # fmt: skip
    assert events[0].command == "tickets create"
    assert '"beam": 7' in events[4].text


def test_commands_that_only_the_record_of_codex_tells_of() -> None:
    def call(number: int, command: str) -> dict[str, Any]:
        payload = {"type": "function_call", "name": "exec_command", "call_id": f"call_{number}"}
        return {"type": "response_item", "payload": {**payload, "arguments": json.dumps({"cmd": command})}}

    def output(number: int, text: str) -> dict[str, Any]:
        payload = {"type": "function_call_output", "call_id": f"call_{number}", "output": text}
        return {"type": "response_item", "payload": payload}

    def shown(number: int) -> dict[str, Any]:
        item = {"type": "CommandExecution", "id": f"call_{number}"}
        return {"type": "event_msg", "payload": {"type": "item_completed", "item": item}}

    said = "Chunk ID: 8d7c12\nWall time: 0.0000 seconds\nProcess exited with code {}\nOutput:\n{}"
    total = {"input_tokens": 100, "cached_input_tokens": 0, "output_tokens": 20, "total_tokens": 120}
    events = read(
        RolloutReader(),
        call(1, "echo hi > a.txt"), output(1, said.format(1, "a.txt: Read-only file system")),
        call(2, "false"), shown(2), output(2, said.format(1, "")),
        call(3, "true"), output(3, said.format(0, "")),
        output(4, said.format(1, "")),
        {"type": "event_msg", "payload": {"type": "token_count", "info": {"total_token_usage": total}}},
        {"type": "event_msg", "payload": {"type": "token_count", "info": None}},
        "torn {",
    )  # fmt: skip
    assert [(each.kind, each.command, each.exit_code, each.denied) for each in events] == [
        (Kind.COMMAND, "echo hi > a.txt", 1, True), (Kind.USAGE, "", None, False),
    ]  # fmt: skip
    assert events[1].usage == Usage(input_tokens=100, output_tokens=20)


# ------------------------------------------------------------------------------------------------ claude

SESSION = "18e7e5ad-ba06-45c3-a3bd-f1cbc4d3fa00"


def assistant(number: int, *content: dict[str, Any], **keys: Any) -> dict[str, Any]:
    usage = {"input_tokens": 100, "cache_read_input_tokens": 10, "output_tokens": 1}
    message = {"id": f"msg_{number}", "content": list(content), "usage": usage}
    return {"type": "assistant", "message": message, "session_id": SESSION, **keys}


def tool_use(number: int, name: str, **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": given}


def tool_result(number: int, content: Any, is_error: bool = False) -> dict[str, Any]:
    block = {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": content, "is_error": is_error}
    return {"type": "user", "message": {"role": "user", "content": [block]}}


def result(**keys: Any) -> dict[str, Any]:
    usage = {"input_tokens": 400, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 40, "output_tokens": 40}
    known = {"type": "result", "subtype": "success", "is_error": False, "api_error_status": None, "result": "done"}
    return {**known, "total_cost_usd": 0.002, "usage": usage, "permission_denials": [], **keys}


def test_a_turn_of_claude() -> None:
    events = read(
        ClaudeReader(),
        {"type": "system", "subtype": "init", "session_id": SESSION, "tools": ["Bash"]},
        assistant(1, {"type": "thinking", "thinking": "hm"}, tool_use(1, "Bash", command="ls", description="Look")),
        tool_result(1, "hi"),
        assistant(2, tool_use(2, "Write", file_path="/w/a.py", content="x")),
        tool_result(2, [{"type": "text", "text": "File created"}]),
        assistant(3, tool_use(3, "Bash", command="make")),
        tool_result(3, "Exit code 2\nno rule", is_error=True),
        assistant(4, {"type": "text", "text": "done"}),
        result(),
    )
    story = story_of(events)
    assert (story.session, story.last_message) == (SESSION, "done")
    assert story.detail()["commands"] == [
        {"command": "ls", "exit_code": 0, "ok": True}, {"command": "make", "exit_code": 2, "ok": False},
    ]  # fmt: skip
    assert story.detail()["files_touched"] == ["/w/a.py"]
    assert story.usage == Usage(input_tokens=445, cached_input_tokens=40, output_tokens=40, cost_usd=0.002)
    assert events[-1].kind == Kind.ENDED


def test_several_lines_of_one_message_are_counted_once() -> None:
    reader = ClaudeReader()
    text = {"type": "text", "text": "a"}
    story = story_of(read(reader, assistant(1, text), assistant(1, text), assistant(2, text)))
    assert story.usage.tokens == 2 * 111


def test_what_claude_was_denied() -> None:
    denial = {"tool_name": "Bash", "tool_use_id": "toolu_1", "tool_input": {"command": "touch x"}}
    lines = [assistant(1, tool_use(1, "Bash", command="touch x")), tool_result(1, "was blocked", is_error=True)]
    denied = story_of(read(ClaudeReader(), *lines, result(permission_denials=[denial])))
    assert denied.unexplained() == ("touch x",)
    assert denied.detail()["commands"] == [{"command": "touch x", "exit_code": None, "ok": False}]
    again = [assistant(2, tool_use(2, "Bash", command="touch x")), tool_result(2, "")]
    assert story_of(read(ClaudeReader(), *lines, *again, result(permission_denials=[denial]))).unexplained() == ()


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"is_error": True, "api_error_status": 401, "result": "Failed to authenticate."}, "unauthorized"),
        ({"is_error": True, "api_error_status": 429, "result": "Request rejected (429)"}, "rate-limited"),
        ({"is_error": True, "api_error_status": 529, "result": "Overloaded"}, "server-error"),
        ({"is_error": True, "result": "API Error: Connection to the API was lost (ECONNRESET)."}, "stream-cut"),
        ({"is_error": True, "result": "Invalid API key · Please run /login"}, "unauthorized"),
        ({"subtype": "error_max_turns", "result": None}, "failed"),
        ({"subtype": "error_max_budget_usd", "result": None}, "budget-cost"),
        ({"subtype": "error_during_execution", "is_error": True, "result": None}, "failed"),
    ],
)
def test_how_claude_fails(keys: dict[str, Any], reason: str) -> None:
    failed = read(ClaudeReader(), result(**keys))[-1]
    assert (failed.kind, reason_of(failed.text, failed.status)) == (Kind.FAILED, reason)
    assert failed.text


def test_an_error_that_claude_says_as_a_message_is_no_message() -> None:
    text = {"type": "text", "text": "API Error: 500 scripted"}
    [event] = read(ClaudeReader(), assistant(1, text, error="server_error"))
    assert (event.kind, event.raw, event.text) == (Kind.ERROR, "assistant/server_error", "API Error: 500 scripted")


def test_the_structured_answer_of_claude_comes_first() -> None:
    events = read(ClaudeReader(), assistant(1, {"type": "text", "text": "chat"}), result(structured_output={"a": [1]}))
    assert json.loads(story_of(events).answer or "") == {"a": [1]}
    nothing = read(ClaudeReader(), result(result="", structured_output=None))
    assert (story_of(nothing).answer, story_of(nothing).last_message) == (None, "")


# ------------------------------------------------------------------------------------------------ a command


def test_the_words_of_a_command() -> None:
    events = read(
        CommandReader(),
        {"type": "session", "id": "s1"},
        {"type": "message", "text": "hello"},
        {"type": "command", "command": "make", "exit_code": 1},
        {"type": "files", "paths": ["a", 7, "b"]},
        {"type": "usage", "input_tokens": 5, "output_tokens": 2, "cost_usd": 0.5},
        {"type": "ended", "answer": {"ok": True}},
    )
    story = story_of(events)
    assert (story.session, story.answer, story.usage.cost_usd) == ("s1", '{"ok": true}', 0.5)
    assert story.detail()["files_touched"] == ["a", "b"]
    assert story.done[0].ok is False


def test_a_command_that_only_prints() -> None:
    assert [each.text for each in read(TextReader(), "one", "", "two \x1b[1m")] == ["one", "two \x1b[1m"]


# ------------------------------------------------------------------------------------------------ whatever comes

READERS = [CodexReader, RolloutReader, ClaudeReader, CommandReader, TextReader]
ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "item", "message", "content", "usage", "input", "payload", "info", "error", "result", "id", "name"]
        )
        | st.text(max_size=5),
        inner
        | st.sampled_from(
            [
                "item.completed", "turn.completed", "turn.failed", "command_execution", "file_change", "assistant",
                "user", "result", "tool_use", "tool_result", "token_count", "function_call", "function_call_output",
                "item_completed", "CommandExecution", "files", "ended", "failed", "usage",
            ]
        ),
        max_size=6,
    ),
    max_leaves=20,
)  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
@given(values=st.lists(ODD, max_size=5))
def test_no_value_breaks_a_reader_or_a_story(reader: type[Reader], values: list[Any]) -> None:
    story = story_of([event for each in values for event in read_all(reader(), json.dumps(each).encode())])
    json.dumps(story.detail())
    story.unexplained()


def read_all(reader: Reader, data: bytes) -> list[Event]:
    events = list(reader.feed(data))
    assert all(isinstance(line(each), str) for each in events)
    return events


@pytest.mark.parametrize("reader", READERS)
@given(data=st.binary(max_size=200))
def test_no_bytes_break_a_reader(reader: type[Reader], data: bytes) -> None:
    read_all(reader(), data)


@pytest.mark.parametrize("reader", [CodexReader, ClaudeReader, CommandReader])
def test_what_is_no_event_survives_as_one(reader: type[Reader]) -> None:
    bad = ["{", "[1]", "null", "plain words", "[" * 100_000, '{"type": 1', "\x00"]
    assert [each.kind for each in read(reader(), *bad)] == [Kind.MALFORMED] * len(bad)
    assert read(reader(), "", "  ") == []
    [unknown] = read(reader(), {"type": "from.the.future", "value": 7})
    assert (unknown.kind, unknown.raw) == (Kind.OTHER, "from.the.future")
    assert '"value": 7' in unknown.text


@pytest.mark.parametrize("reader", [CodexReader, ClaudeReader, CommandReader])
@pytest.mark.parametrize("depth", [100, 900, 980])
def test_what_is_nested_deeply_breaks_nothing(reader: type[Reader], depth: int) -> None:
    nested = "[" * depth + "]" * depth
    for line_ in (
        f'{{"type": "new", "value": {nested}}}',
        f'{{"type": "result", "subtype": "success", "structured_output": {nested}}}',
        f'{{"type": "assistant", "message": {{"content": [{{"type": "tool_use", "input": {{"a": {nested}}}}}]}}}}',
        f'{{"type": "ended", "answer": {nested}}}',
    ):
        read_all(reader(), line_.encode())


def test_long_texts_are_cut_in_the_middle() -> None:
    assert clipped("a" * 10, 10) == "a" * 10
    assert clipped("a" * 6 + "b" * 6, 10) == "aaaaa [... 2 characters left out ...] bbbbb"
    assert clipped(7) == ""


def test_a_story_is_bounded() -> None:
    command = {"type": "command", "command": "x" * 5000, "exit_code": 0}
    story = story_of(read(CommandReader(), *[command] * 1000))
    assert len(story.detail()["commands"]) == 100
    assert story.detail()["commands_left_out"] == 900
    assert len(json.dumps(story.detail())) < 40_000


@pytest.mark.parametrize("output", ["bwrap: No permissions", "a: Read-only file system", "Operation not permitted"])
def test_words_of_a_sandbox(output: str) -> None:
    assert looks_denied(output)
    assert not looks_denied("no such file or directory")
