"""The lines of an agent of one's own as events. Pure.

With `events: true` every line is a JSON object with a `type` that is one of ours: `session {id}`, `message {text}`,
`command {command, exit_code}`, `files {paths}`, `refused {what}`, `usage {input_tokens, output_tokens, cost_usd}`,
`error {message}`, and at the end `ended {answer}` or `failed {message}`. Without it every line is a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.agents.events import (
    PATHS_MAX,
    Event,
    Kind,
    Usage,
    clipped,
    count,
    decoded,
    malformed,
    mapping,
    other,
    spelled,
)


class CommandReader:
    """Reads the JSON lines of a command that speaks our words."""

    def feed(self, line: bytes) -> tuple[Event, ...]:
        value = decoded(line)
        if value is None:
            return (malformed(line),) if line.strip() else ()
        return (_event(value, str(value.get("type", ""))),)


class TextReader:
    """Reads a command that only prints: what it printed last is its answer."""

    def feed(self, line: bytes) -> tuple[Event, ...]:
        text = clipped(line.decode(errors="replace"))
        return (Event(kind=Kind.MESSAGE, raw="line", text=text),) if text.strip() else ()


def _event(value: Mapping[str, Any], raw: str) -> Event:
    match raw:
        case "session":
            return Event(kind=Kind.SESSION, raw=raw, session=clipped(value.get("id"), 200))
        case "message":
            return Event(kind=Kind.MESSAGE, raw=raw, text=clipped(value.get("text")))
        case "command":
            return _command(value, raw)
        case "files":
            said = value.get("paths")
            paths = [clipped(each, 1000) for each in said[:PATHS_MAX]] if isinstance(said, list) else []
            return Event(kind=Kind.FILES, raw=raw, paths=tuple(each for each in paths if each))
        case "refused":
            return Event(kind=Kind.REFUSED, raw=raw, command=clipped(value.get("what"), 2000), ok=False)
        case "usage":
            return Event(kind=Kind.USAGE, raw=raw, usage=_usage(mapping(value)))
        case "error":
            return Event(kind=Kind.ERROR, raw=raw, text=clipped(value.get("message")))
        case "ended":
            return _ended(value, raw)
        case "failed":
            status = value.get("status")
            known = status if isinstance(status, int) else None
            return Event(kind=Kind.FAILED, raw=raw, text=clipped(value.get("message")), status=known)
    return other(value, raw)


def _command(value: Mapping[str, Any], raw: str) -> Event:
    code = value.get("exit_code")
    known = code if isinstance(code, int) else None
    return Event(
        kind=Kind.COMMAND, raw=raw, command=clipped(value.get("command"), 2000), exit_code=known, ok=known == 0
    )


def _ended(value: Mapping[str, Any], raw: str) -> Event:
    answer = value.get("answer")
    text = answer if isinstance(answer, str) else ""
    as_json = None if answer is None or isinstance(answer, str) else spelled(answer)
    return Event(kind=Kind.ENDED, raw=raw, text=clipped(text), answer=as_json)


def _usage(value: Mapping[str, Any]) -> Usage:
    cost = value.get("cost_usd")
    known = isinstance(cost, int | float) and not isinstance(cost, bool) and cost >= 0
    return Usage(
        input_tokens=count(value.get("input_tokens")),
        output_tokens=count(value.get("output_tokens")),
        cost_usd=float(cost) if known else None,  # type: ignore[arg-type]
    )
