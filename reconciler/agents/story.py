"""What came of an agent's work, told event by event and bounded whatever it says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.agents.events import Event, Kind, Usage

COMMANDS_MAX = 100
FILES_MAX = 100
REFUSALS_MAX = 20
SHOWN_CHARACTERS_MAX = 200
"""With these an answer stays far below what one may hold, whatever an agent says."""


class Story:
    """All that is remembered of one try. What a later event corrects (usage, the last message) is replaced."""

    def __init__(self) -> None:
        self.session = ""
        self.last_message = ""
        self.answer: str | None = None
        self.terminal: Event | None = None
        self.error: Event | None = None
        self.usage = Usage()
        self.counts: dict[Kind, int] = {}
        self.done: list[Event] = []
        self.done_left_out = 0
        self.refused: list[Event] = []
        self.files: dict[str, None] = {}

    def add(self, event: Event) -> None:
        """Remember what an event changes."""
        self.counts[event.kind] = self.counts.get(event.kind, 0) + 1
        match event.kind:
            case Kind.SESSION:
                self.session = event.session or self.session
            case Kind.MESSAGE:
                self.last_message = event.text or self.last_message
            case Kind.COMMAND | Kind.TOOL | Kind.FILES:
                self._do(event)
            case Kind.REFUSED if len(self.refused) < COMMANDS_MAX:
                self.refused.append(event)
            case Kind.USAGE if event.usage is not None:
                self.usage = _latest(self.usage, event.usage)
            case Kind.ERROR:
                self.error = event
            case Kind.ENDED | Kind.FAILED:
                self._end(event)

    def _do(self, event: Event) -> None:
        if len(self.done) < COMMANDS_MAX:
            self.done.append(event)
        else:
            # The last thing done says whether a refusal before it was coped with.
            self.done[-1], self.done_left_out = event, self.done_left_out + 1
        for path in event.paths:
            if event.ok and path and len(self.files) < FILES_MAX:
                self.files[path] = None

    def _end(self, event: Event) -> None:
        self.terminal = event
        self.last_message = event.text or self.last_message
        self.answer = event.answer

    # -------------------------------------------------------------------------------------------- judging

    def unexplained(self) -> tuple[str, ...]:
        """Return what was refused and never done after all.

        A denial is explained if the very same thing succeeded. Where only the output of a command reads as if a
        sandbox had stopped it, the agent coped if anything succeeded after it.
        """
        succeeded = {each.command for each in self.done if each.ok}
        denied = [each.command for each in self.refused if each.command not in succeeded]
        last = max((index for index, each in enumerate(self.done) if each.ok), default=-1)
        stopped = [each.command for each in self.done[last + 1 :] if each.denied]
        return tuple(dict.fromkeys([*denied, *stopped]))

    # -------------------------------------------------------------------------------------------- telling

    def detail(self) -> dict[str, Any]:
        """Return what a manifest says of it."""
        commands = [each for each in self.done if each.kind == Kind.COMMAND]
        return {
            "session": self.session,
            "events": sum(self.counts.values()),
            "messages": self.counts.get(Kind.MESSAGE, 0),
            "malformed": self.counts.get(Kind.MALFORMED, 0),
            "unknown": self.counts.get(Kind.OTHER, 0),
            "commands": [
                {"command": _short(each.command), "exit_code": each.exit_code, "ok": each.ok} for each in commands
            ],
            "commands_left_out": self.done_left_out,
            "files_touched": [_short(each) for each in self.files],
            "refusals": [_short(each) for each in self.unexplained()[:REFUSALS_MAX]],
            "usage": _usage(self.usage),
            "ended": self.terminal is not None,
        }


def _latest(before: Usage, now: Usage) -> Usage:
    """Return the newer count, which never falls: a later source may know less."""
    cost = now.cost_usd if now.cost_usd is not None else before.cost_usd
    return Usage(
        input_tokens=max(before.input_tokens, now.input_tokens),
        cached_input_tokens=max(before.cached_input_tokens, now.cached_input_tokens),
        output_tokens=max(before.output_tokens, now.output_tokens),
        cost_usd=cost,
    )


def _usage(usage: Usage) -> Mapping[str, object]:
    return {
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_usd": usage.cost_usd,
    }


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[: SHOWN_CHARACTERS_MAX - 1] + "…"


def line(event: Event) -> str:
    """Return an event as a line of the stage's log, "" for one that says nothing to people."""
    text = " ".join(event.text.split())
    match event.kind:
        case Kind.MESSAGE | Kind.REASONING:
            return f"{'agent' if event.kind == Kind.MESSAGE else 'thinks'}: {event.text.strip()}"
        case Kind.STARTED:
            return f"> {_short(event.command)}"
        case Kind.COMMAND:
            how = f"exit {event.exit_code}" if event.exit_code is not None else "failed"
            return f"$ {_short(event.command)} -> {how}" + ("" if event.ok else f": {_short(text)}")
        case Kind.FILES:
            return f"files: {', '.join(event.paths)}" + ("" if event.ok else " (failed)")
        case Kind.TOOL:
            return f"tool: {_short(event.command)}" + ("" if event.ok else f" failed: {_short(text)}")
        case Kind.REFUSED:
            return f"refused: {_short(event.command)}"
        case Kind.ERROR | Kind.FAILED:
            return f"{event.kind}: {_short(text)}"
        case Kind.SESSION:
            return f"session {event.session}"
        case Kind.MALFORMED:
            return f"no event: {_short(text)}"
    return ""
