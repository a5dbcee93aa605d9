"""Problems as forges show them beside the lines of a pull request: commands that they read from a log. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reconciler.model import Problem, Severity

ANNOTATIONS_MAX = 10
"""The runner shows ten of a kind, and drops what comes after them; the rest is in the text."""


def commands(problems: Iterable[Problem]) -> Iterator[str]:
    """Yield an `::error` or `::warning` command a problem, errors first; no text of a repository can begin another."""
    told = dict.fromkeys(Severity, 0)
    for each in sorted(problems, key=lambda each: each.severity is not Severity.ERROR):
        told[each.severity] += 1
        if told[each.severity] > ANNOTATIONS_MAX:
            continue
        words = each.reason + (f"; {each.cure}" if each.cure else "")
        place = f",line={each.line},col={max(each.column, 1)}" if each.line else ""
        title = f",title={_property(each.rule)}"
        yield f"::{each.severity.value} file={_property(each.path)}{place}{title}::{_data(words)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
