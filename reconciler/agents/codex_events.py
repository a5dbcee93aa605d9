"""The lines of `codex exec --json` as events, and what only the agent's own record of the session says. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from reconciler.agents.events import (
    PATHS_MAX,
    Event,
    Kind,
    Usage,
    clipped,
    count,
    decoded,
    items,
    looks_denied,
    malformed,
    mapping,
    other,
)

CALLS_MAX = 10_000
_EXITED = re.compile(r"^Process exited with code (-?\d{1,9})$", re.MULTILINE)


class CodexReader:
    """Reads standard output. Items of one turn may interleave; each is complete in itself."""

    def feed(self, line: bytes) -> tuple[Event, ...]:
        value = decoded(line)
        if value is None:
            return (malformed(line),) if line.strip() else ()
        raw = str(value.get("type", ""))
        match raw:
            case "thread.started":
                return (Event(kind=Kind.SESSION, raw=raw, session=clipped(value.get("thread_id"), 200)),)
            case "turn.completed":
                ended = Event(kind=Kind.ENDED, raw=raw)
                return (Event(kind=Kind.USAGE, raw=raw, usage=_usage(mapping(value.get("usage")))), ended)
            case "turn.failed":
                text = clipped(mapping(value.get("error")).get("message"))
                return (Event(kind=Kind.FAILED, raw=raw, text=text),)
            case "error":
                return (Event(kind=Kind.ERROR, raw=raw, text=clipped(value.get("message"))),)
            case "item.started" | "item.completed":
                return (_item(mapping(value.get("item")), raw),)
        return (other(value, raw),)


def _item(item: Mapping[str, Any], raw: str) -> Event:
    kind = str(item.get("type", ""))
    raw = f"{raw}/{kind}"
    if raw.startswith("item.started/"):
        return Event(kind=Kind.STARTED, raw=raw, command=_what(item))
    match kind:
        case "agent_message":
            return Event(kind=Kind.MESSAGE, raw=raw, text=clipped(item.get("text")))
        case "reasoning":
            return Event(kind=Kind.REASONING, raw=raw, text=clipped(item.get("text")))
        case "command_execution":
            return _command(item, raw)
        case "file_change":
            paths = tuple(clipped(each.get("path"), 1000) for each in items(item.get("changes"))[:PATHS_MAX])
            return _done(Event(kind=Kind.FILES, raw=raw, paths=paths), item)
        case "mcp_tool_call" | "web_search":
            return _done(Event(kind=Kind.TOOL, raw=raw, command=_what(item)), item)
        case "error":
            return Event(kind=Kind.ERROR, raw=raw, text=clipped(item.get("message")))
    return other(item, raw)


def _what(item: Mapping[str, Any]) -> str:
    words = [item.get(each) for each in ("command", "server", "tool", "query")]
    return clipped(" ".join(each for each in words if isinstance(each, str)), 2000)


def _done(event: Event, item: Mapping[str, Any]) -> Event:
    """Return the event, marked as refused or failed if the item says so."""
    if item.get("status") == "declined":
        return replace(event, kind=Kind.REFUSED, ok=False, command=event.command or " ".join(event.paths))
    return replace(event, ok=item.get("status") not in ("failed", "error"))


def _command(item: Mapping[str, Any], raw: str) -> Event:
    code = item.get("exit_code")
    output = clipped(item.get("aggregated_output"))
    exit_code = code if isinstance(code, int) else None
    event = Event(
        kind=Kind.COMMAND,
        raw=raw,
        command=_what(item),
        exit_code=exit_code,
        text=clipped(output, 2000),
        denied=exit_code != 0 and looks_denied(output),
    )
    done = _done(event, item)
    return done if exit_code in (0, None) else replace(done, ok=False)


def _usage(value: Mapping[str, Any]) -> Usage:
    return Usage(
        input_tokens=count(value.get("input_tokens")),
        cached_input_tokens=count(value.get("cached_input_tokens")),
        output_tokens=count(value.get("output_tokens")),
    )


class RolloutReader:
    """Reads the record that the agent keeps of its session: what is spent while it works, and the commands that a
    sandbox stopped so soon that standard output says nothing of them."""

    def __init__(self) -> None:
        self._calls: dict[str, str] = {}
        self._shown: set[str] = set()

    def feed(self, line: bytes) -> tuple[Event, ...]:
        value = decoded(line) or {}
        payload = mapping(value.get("payload"))
        kind, call = payload.get("type"), str(payload.get("call_id", ""))
        if kind == "token_count":
            total = mapping(mapping(payload.get("info")).get("total_token_usage"))
            return (Event(kind=Kind.USAGE, raw="record/token_count", usage=_usage(total)),) if total else ()
        if kind == "item_completed" and mapping(payload.get("item")).get("type") == "CommandExecution":
            self._shown.add(str(payload["item"].get("id", "")))
        elif kind == "function_call" and len(self._calls) < CALLS_MAX:
            self._calls[call] = clipped(payload.get("arguments"), 2000)
        elif kind == "function_call_output":
            return self._silent(call, payload.get("output"))
        return ()

    def _silent(self, call: str, output: object) -> tuple[Event, ...]:
        """Return the command that ended with this output, if nothing else tells of it and it failed."""
        said = clipped(output)
        command, shown = self._calls.pop(call, ""), call in self._shown
        self._shown.discard(call)
        exited = _EXITED.search(said)
        if shown or not command or exited is None or int(exited[1]) == 0:
            return ()
        return (
            Event(
                kind=Kind.COMMAND,
                raw="record/function_call_output",
                command=_shell_of(command),
                exit_code=int(exited[1]),
                ok=False,
                denied=looks_denied(said),
                text=clipped(said, 2000),
            ),
        )


def _shell_of(arguments: str) -> str:
    found = (decoded(arguments.encode()) or {}).get("cmd")
    return found if isinstance(found, str) else arguments
