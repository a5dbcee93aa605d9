"""Text that others wrote, in comments, logs and annotations of a forge, where it can neither act nor pretend.

In a comment it stands in a code span: no mention, link, picture or HTML. In the log of Actions a line can be a command
to the runner: those that we print cannot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from reconciler.model import Problem, Severity

PLAN_MARKER = "<!-- reconciler:plan -->"
ANNOTATIONS_MAX = 10
"""The runner shows ten of a kind, and drops what comes after them."""


def code(text: str, characters_max: int = 200) -> str:
    """Return a code span that shows a text on one line, also in a cell of a table."""
    line = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    line = line if len(line) <= characters_max else f"{line[: characters_max - 1]}…"
    fence = "`" * (max((len(each) for each in re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") else ""
    # In a table, a pipe ends the cell even within code unless it is escaped; outside of one the backslash would show.
    return f"{fence}{space}{line.replace('|', '¦')}{space}{fence}" if line else "–"


def bounded(text: str, characters_max: int) -> str:
    """Return a text of whole lines that is not longer, and says if something was left out."""
    if len(text) <= characters_max:
        return text
    note = "\n\n… the rest does not fit; see the log of this run.\n"
    kept = text[: characters_max - len(note) - 16]
    kept = kept[: kept.rfind("\n") + 1 or len(kept)]
    # A block that was opened and cut must not swallow the note, nor what a forge puts behind it.
    fence = "\n```\n" if len(re.findall(r"^```", kept, re.MULTILINE)) % 2 else ""
    details = "\n</details>\n" * max(0, kept.count("<details>") - kept.count("</details>"))
    return f"{kept}{fence}{details}{note}"


def problem_rows(problems: Sequence[Problem], rows_max: int = 50) -> str:
    """Return problems as a table in Markdown."""
    head = "| where | what is wrong |\n|---|---|\n"
    rows = (f"| {code(_where(each))} | {code(_what(each), 500)} |\n" for each in problems[:rows_max])
    more = f"\n… and {len(problems) - rows_max} more.\n" if len(problems) > rows_max else ""
    return head + "".join(rows) + more


def _where(problem: Problem) -> str:
    return f"{problem.path}:{problem.line}" if problem.line else problem.path


def _what(problem: Problem) -> str:
    return problem.reason + (f"; {problem.cure}" if problem.cure else "")


# ------------------------------------------------------------------------------------------------ the runner of Actions


def marks(problems: Iterable[Problem]) -> list[str]:
    """Return the commands that let the runner show problems beside the lines they are in."""
    found = sorted(problems, key=lambda each: each.severity is not Severity.ERROR)
    kinds: dict[str, int] = {}
    lines = []
    for each in found:
        kind = "error" if each.severity is Severity.ERROR else "warning"
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] <= ANNOTATIONS_MAX:
            place = f",line={each.line},col={max(1, each.column)}" if each.line else ""
            lines.append(f"::{kind} file={_property(each.path)}{place},title=reconciler::{_data(_what(each))}")
    return lines


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def inert(text: str) -> str:
    """Return text in which no line is a command to a runner of Actions."""
    return "\n".join(_inert(each) for each in re.split(r"[\r\n]", text))


def _inert(line: str) -> str:
    line = line.replace("##[", "##\u200b[")
    return re.sub(r"^(\s*):(?=:)", "\\1:\u200b", line)
