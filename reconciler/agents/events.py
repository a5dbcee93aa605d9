"""What coding agents say while they work, in one form whatever the agent calls it. Pure.

Every driver has a reader that turns its lines into these. A line that is no JSON, or too long, is an event as well,
and so is one of a type that nobody knew when this was written: nothing is dropped in silence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

from reconciler.values import frozen

TEXT_CHARACTERS_MAX = 256 * 1024
"""A text of an event is kept up to here; an answer must fit, output of commands need not."""
PATHS_MAX = 100


class Kind(StrEnum):
    """What an event is. `ended` and `failed` are terminal: the agent itself says that its turn is over."""

    SESSION = "session"
    MESSAGE = "message"
    REASONING = "reasoning"
    STARTED = "started"
    COMMAND = "command"
    FILES = "files"
    TOOL = "tool"
    REFUSED = "refused"
    USAGE = "usage"
    ERROR = "error"
    ENDED = "ended"
    FAILED = "failed"
    OTHER = "other"
    MALFORMED = "malformed"


@frozen
class Usage:
    """What was spent so far, as the agent counts it. `cost_usd` is None where it does not say."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None

    @property
    def tokens(self) -> int:
        """Tokens read and written together."""
        return self.input_tokens + self.output_tokens


@frozen
class Event:
    """One thing an agent said. `raw` is what the agent calls it.

    `command` is a shell command, or the tool and what it was given; `exit_code` None with `ok` False is a failure
    without a number. `denied` is True where a sandbox seems to have said no. `status` is that of HTTP, where one is
    known. `answer` is the agent's answer as JSON, where it has one beside its last message.
    """

    kind: Kind
    raw: str = ""
    text: str = ""
    command: str = ""
    exit_code: int | None = None
    ok: bool = True
    denied: bool = False
    paths: tuple[str, ...] = ()
    session: str = ""
    usage: Usage | None = None
    status: int | None = None
    answer: str | None = None


class Reader(Protocol):
    """Turns the lines of one agent into events; it remembers what a later line refers to."""

    def feed(self, line: bytes) -> tuple[Event, ...]:
        """Return what one line says, without its line break."""
        ...


def decoded(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object on a line, None if there is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def malformed(line: bytes) -> Event:
    """Return the event of a line that cannot be read."""
    return Event(kind=Kind.MALFORMED, text=clipped(line[: 4 * TEXT_CHARACTERS_MAX].decode(errors="replace"), 2000))


def other(value: Mapping[str, Any], raw: str) -> Event:
    """Return the event of a line whose type means nothing to us, with what it says."""
    return Event(kind=Kind.OTHER, raw=clipped(raw, 100), text=clipped(spelled(value), 2000))


def spelled(value: object) -> str:
    """Return a value as JSON, "" for one that is nested too deeply to be said."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return ""


def clipped(text: object, characters_max: int = TEXT_CHARACTERS_MAX) -> str:
    """Return `text`, of which what is too much in the middle is left out; "" for what is no text."""
    if not isinstance(text, str):
        return ""
    if len(text) <= characters_max:
        return text
    half = characters_max // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters left out ...] {text[-half:]}"


def mapping(value: object) -> Mapping[str, Any]:
    """Return `value` if it is a mapping, else an empty one: an agent may change what it says with any version."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Mapping[str, Any]]:
    """Return the mappings in `value`, if it is a list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def count(value: object) -> int:
    """Return a count of tokens, 0 for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


_SANDBOX_WORDS = re.compile(
    r"read-only file system|operation not permitted|permission denied|landlock|seccomp|bwrap:|failed to write file"
    r"|sandbox(?:ed)? (?:denied|error|restriction)",
    re.IGNORECASE,
)


def looks_denied(output: str) -> bool:
    """Return whether the output of a command that failed reads as if a sandbox had stopped it."""
    return bool(_SANDBOX_WORDS.search(output))
