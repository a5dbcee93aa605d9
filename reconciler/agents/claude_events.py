"""The lines of `claude -p --output-format stream-json --verbose` as events. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from reconciler.agents.events import (
    Event,
    Kind,
    Usage,
    clipped,
    count,
    decoded,
    items,
    malformed,
    mapping,
    other,
    spelled,
)

CALLS_MAX = 10_000
_WRITERS = frozenset({"Edit", "MultiEdit", "NotebookEdit", "Write"})
_EXIT_CODE = re.compile(r"^(?:Error: )?Exit code (\d{1,3})\b")


class ClaudeReader:
    """Reads standard output: calls of tools and their results come on lines of their own."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._usage: dict[str, Usage] = {}
        self._session = ""

    def feed(self, line: bytes) -> tuple[Event, ...]:
        value = decoded(line)
        if value is None:
            return (malformed(line),) if line.strip() else ()
        match value.get("type"):
            case "system" if value.get("subtype") == "init":
                return (Event(kind=Kind.SESSION, raw="system/init", session=clipped(value.get("session_id"), 200)),)
            case "assistant":
                return tuple(self._assistant(value))
            case "user":
                return tuple(self._results(value))
            case "result":
                return tuple(self._result(value))
        return (other(value, f"{value.get('type', '')}/{value.get('subtype', '')}".rstrip("/")),)

    def _assistant(self, value: Mapping[str, Any]) -> Iterator[Event]:
        message = mapping(value.get("message"))
        if isinstance(value.get("error"), str):
            text = " ".join(clipped(each.get("text"), 2000) for each in items(message.get("content")))
            yield Event(kind=Kind.ERROR, raw=f"assistant/{clipped(value['error'], 50)}", text=text)
            return
        for block in items(message.get("content")):
            yield self._block(block)
        # Several lines may tell of one message; each of them repeats what the whole message took.
        if len(self._usage) < CALLS_MAX:
            self._usage[str(message.get("id", ""))] = _usage(mapping(message.get("usage")))
        yield Event(kind=Kind.USAGE, raw="assistant/usage", usage=_sum(self._usage.values()))

    def _block(self, block: Mapping[str, Any]) -> Event:
        match block.get("type"):
            case "text":
                return Event(kind=Kind.MESSAGE, raw="assistant/text", text=clipped(block.get("text")))
            case "thinking":
                return Event(kind=Kind.REASONING, raw="assistant/thinking", text=clipped(block.get("thinking")))
            case "tool_use":
                name, given = str(block.get("name", "")), mapping(block.get("input"))
                if len(self._calls) < CALLS_MAX:
                    self._calls[str(block.get("id", ""))] = (name, given)
                return Event(kind=Kind.STARTED, raw=f"assistant/{clipped(name, 50)}", command=_what(name, given))
        return other(block, f"assistant/{block.get('type', '')}")

    def _results(self, value: Mapping[str, Any]) -> Iterator[Event]:
        content = mapping(value.get("message")).get("content")
        for block in items(content):
            if block.get("type") == "tool_result":
                yield self._done(block)
            else:
                yield other(block, f"user/{block.get('type', '')}")

    def _done(self, block: Mapping[str, Any]) -> Event:
        name, given = self._calls.get(str(block.get("tool_use_id", "")), ("", {}))
        text, failed = _text(block.get("content")), block.get("is_error") is True
        event = Event(kind=Kind.TOOL, raw=f"user/{clipped(name, 50)}", command=_what(name, given), ok=not failed)
        event = replace(event, text=clipped(text, 2000))
        if name == "Bash":
            told = _EXIT_CODE.match(text) if failed else None
            code = int(told[1]) if told else None
            return replace(event, kind=Kind.COMMAND, exit_code=code if failed else 0)
        if name in _WRITERS and not failed:
            return replace(event, kind=Kind.FILES, paths=(_path(given),))
        return event

    def _result(self, value: Mapping[str, Any]) -> Iterator[Event]:
        """Yield what the last line says: what was spent, what was denied, and how it ended."""
        cost = value.get("total_cost_usd")
        usage = _usage(mapping(value.get("usage")))
        if isinstance(cost, int | float) and not isinstance(cost, bool) and cost >= 0:
            usage = replace(usage, cost_usd=float(cost))
        yield Event(kind=Kind.USAGE, raw="result/usage", usage=usage)
        for each in items(value.get("permission_denials")):
            what = _what(str(each.get("tool_name", "")), mapping(each.get("tool_input")))
            yield Event(kind=Kind.REFUSED, raw="result/permission_denials", command=what, ok=False)
        subtype, text = clipped(value.get("subtype"), 100), clipped(value.get("result"))
        status = value.get("api_error_status")
        failed = value.get("is_error") is True or subtype != "success"
        said = value.get("structured_output")
        yield Event(
            kind=Kind.FAILED if failed else Kind.ENDED,
            raw=f"result/{subtype}",
            text=text or (subtype if failed else ""),
            status=status if isinstance(status, int) else None,
            answer=None if said is None else spelled(said),
        )


def _what(name: str, given: Mapping[str, Any]) -> str:
    """Return what a tool was asked to do: a shell command as it is, else the tool and what it was given."""
    command = given.get("command")
    if name == "Bash" and isinstance(command, str):
        return clipped(command, 2000)
    return clipped(f"{name} {_path(given) or spelled(given)}", 2000)


def _path(given: Mapping[str, Any]) -> str:
    found = given.get("file_path") or given.get("notebook_path")
    return clipped(found, 1000)


def _text(content: object) -> str:
    """Return the text of a tool's result, which is a text or a list of parts."""
    return clipped(content) or clipped(" ".join(str(each.get("text", "")) for each in items(content)))


def _usage(value: Mapping[str, Any]) -> Usage:
    cached = count(value.get("cache_read_input_tokens"))
    return Usage(
        input_tokens=count(value.get("input_tokens")) + count(value.get("cache_creation_input_tokens")) + cached,
        cached_input_tokens=cached,
        output_tokens=count(value.get("output_tokens")),
    )


def _sum(parts: Any) -> Usage:
    known = tuple(parts)
    return Usage(
        input_tokens=sum(each.input_tokens for each in known),
        cached_input_tokens=sum(each.cached_input_tokens for each in known),
        output_tokens=sum(each.output_tokens for each in known),
    )
