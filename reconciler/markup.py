"""Text that others wrote, in comments, logs and annotations of a forge, where it can neither act nor pretend.

In a comment it stands in a code span: no mention, link, picture or HTML. In the log of Actions a line can be a command
to the runner: those that we print cannot. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from reconciler.model import Problem
from reconciler.shown import visible

PLAN_MARKER = "<!-- reconciler:plan -->"


_LOOKALIKES = str.maketrans({"`": "ˋ", "|": "│"})


def code(text: str, characters_max: int = 300) -> str:
    """Return text as a code span on one line that nothing in it can end, in or outside a table.

    What could end it is replaced by what looks like it: in a table, an escaped pipe shows its backslash elsewhere.
    """
    line = " ".join(visible(text.strip()).split()).translate(_LOOKALIKES) or "-"
    return f"`{line[: characters_max - 1]}…`" if len(line) > characters_max else f"`{line}`"


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


# ------------------------------------------------------------------------------------------------ logs


def inert(text: str) -> str:
    """Return text in which no line is a command to a runner of Actions."""
    return "\n".join(_inert(each) for each in re.split(r"[\r\n]", text))


def _inert(line: str) -> str:
    line = line.replace("##[", "##\u200b[")
    return re.sub(r"^(\s*):(?=:)", "\\1:\u200b", line)
