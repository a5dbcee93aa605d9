"""Problems as forges show them beside the lines of a pull request: commands that they read from a log. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reconciler.model import Problem

ANNOTATIONS_MAX = 50
"""A forge shows a handful of a run's annotations; the rest is in the text."""


def commands(problems: Iterable[Problem]) -> Iterator[str]:
    """Yield one `::error` or `::warning` command a problem; no text of a repository can begin another."""
    for number, each in enumerate(problems):
        if number == ANNOTATIONS_MAX:
            return
        words = each.reason + (f"; {each.cure}" if each.cure else "")
        place = f",line={each.line},col={max(each.column, 1)}" if each.line else ""
        title = f",title={_property(each.rule)}"
        yield f"::{each.severity.value} file={_property(each.path)}{place}{title}::{_data(words)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
