"""How things are printed: JSON or text, colour on a terminal only, durations and ages as people say them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from reconciler import codec
from reconciler.shown import visible

F = TypeVar("F", bound=Callable[..., Any])

COLOURS = {
    "succeeded": "green", "failed": "red", "cancelled": "yellow", "stale": "magenta", "running": "cyan",
    "starting": "cyan", "waiting": "yellow", "absent": "bright_black", "rejected": "red",
}  # fmt: skip

format_option = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="Text for people, JSON for programs.",
)  # fmt: skip


def print_json(value: Any) -> None:
    click.echo(json.dumps(codec.dump(value), indent=2, ensure_ascii=False))


def coloured(word: str) -> str:
    """Return a phase or status in its colour (click drops colours that are not for a terminal)."""
    return click.style(word, fg=COLOURS.get(word)) if use_colour() else word


def use_colour() -> bool:
    """Return whether standard output is a terminal that wants colour (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Return columns as wide as their content; the last one is not padded."""
    widths = [max(len(click.unstyle(line[index])) for line in [header, *lines]) for index in range(len(header))]
    return "\n".join(_line(line, widths) for line in [header, *lines])


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    padded = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(padded).rstrip()


def age(seconds: float | None) -> str:
    """Return an age in its largest unit: `3s`, `4m`, `2h`, `5d`."""
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s" if seconds != float("inf") else "?"


def single_line(text: str) -> str:
    """Return text that cannot move the cursor or end its line: what a repository says is shown, not obeyed."""
    return visible(text)
