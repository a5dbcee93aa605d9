"""Path patterns, as `.gitattributes` and `git grep` read them: `docs/**/*.md`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache


@cache
def glob(pattern: str) -> re.Pattern[str]:
    """Return a path pattern as git reads one: `**/` stands for any folders, `*` and `?` for no `/`."""
    if pattern == "**":
        return re.compile(".*", re.DOTALL)
    words = {"**/": "(?:[^/]+/)*", "/**": "/.*", "**": "[^/]*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"((?<![^/])\*\*/|/\*\*$|\*+|\?)", pattern)
    spelled = "".join(words.get(each, re.escape(each)) for each in parts)
    return re.compile(spelled if len(parts) > 1 else f"{spelled}(?:/.*)?", re.DOTALL)


def matches(patterns: Iterable[str], path: str) -> bool:
    """Return whether one of the patterns means the path; one without a wildcard means what lies below it as well."""
    return any(glob(each).fullmatch(path) for each in patterns)
