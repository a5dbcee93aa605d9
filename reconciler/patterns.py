"""Rules about code, as files: what one says, how ast-grep is told it, and what became of what it found. Pure.

Whatever is told to ast-grep has kept our schema before; and of what it prints, nothing is believed that does not fit
the files it was given.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any

from reconciler import parse
from reconciler.globs import matches
from reconciler.model import Contract, Problem, Rejection, Severity, Source
from reconciler.values import frozen

RULES_MAX = 500
DIRECTORY = "patterns"
MATCHES_MAX = 10_000

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "bash": (".bash", ".sh"),
    "c": (".c", ".h"),
    "cpp": (".cc", ".hpp", ".cpp", ".hh", ".cxx", ".cu", ".ino"),
    "csharp": (".cs",),
    "css": (".css", ".scss"),
    "elixir": (".ex", ".exs"),
    "go": (".go",),
    "haskell": (".hs",),
    "html": (".html", ".htm", ".xhtml"),
    "java": (".java",),
    "javascript": (".cjs", ".js", ".mjs", ".jsx"),
    "json": (".json",),
    "kotlin": (".kt", ".kts"),
    "lua": (".lua",),
    "php": (".php",),
    "python": (".py", ".py3", ".pyi"),
    "ruby": (".rb", ".gemspec"),
    "rust": (".rs",),
    "scala": (".scala", ".sc"),
    "swift": (".swift",),
    "tsx": (".tsx",),
    "typescript": (".ts", ".cts", ".mts"),
    "yaml": (".yaml", ".yml"),
}
"""The files in which ast-grep sees each language."""


@frozen
class Rule:
    """A rule about code. `rule` and `constraints` are ast-grep's; `fix` takes the place of what is found, None for
    nothing; `paths` and `exclude` are path patterns, () for every file of the language."""

    id: str
    language: str
    message: str
    rule: Mapping[str, object]
    cure: str = ""
    severity: Severity = Severity.ERROR
    constraints: Mapping[str, object] = field(default_factory=dict)
    fix: str | None = None
    paths: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@frozen
class Match:
    """A piece of code that a rule found: line and column count from 1, `start` and `end` are bytes of the file that
    `replacement` takes the place of, None where the rule has no fix."""

    rule: Rule
    path: str
    line: int
    column: int
    start: int = 0
    end: int = 0
    replacement: bytes | None = None


def parse_rule(data: bytes, source: Source, contract: Contract) -> Rule | Rejection:
    """Return the rule that `data` says, or everything that is wrong with it and its path."""
    name = parse.pipeline_id(source.path)
    document = parse.examine("pattern", data, source, contract)
    if isinstance(name, Problem) or isinstance(document, Rejection):
        found = (name,) if isinstance(name, Problem) else ()
        others = document.problems if isinstance(document, Rejection) else ()
        return Rejection(path=source.path, problems=(*found, *others))
    known: parse.Conversions = {
        "severity": ("severity", Severity), "paths": ("paths", tuple), "exclude": ("exclude", tuple),
    }  # fmt: skip
    return Rule(id=str(name), **parse.fields_of(document.value, known))


# ------------------------------------------------------------------------------------------------ asking


def is_wanted(rule: Rule, path: str) -> bool:
    """Return whether a rule looks at the file of a path."""
    fits = path.endswith(SUFFIXES[rule.language])
    return fits and (not rule.paths or matches(rule.paths, path)) and not matches(rule.exclude, path)


def wanted(rules: Iterable[Rule], paths: Iterable[str]) -> list[str]:
    """Return the files that one of the rules looks at, in order."""
    asked = tuple(rules)
    return sorted(each for each in paths if any(is_wanted(rule, each) for rule in asked))


def spelled(rule: Rule) -> bytes:
    """Return a rule as ast-grep reads it (JSON is YAML). Every one is a warning there: severity is ours to judge, and
    so an exit code says only whether ast-grep did its work."""
    said: dict[str, object] = {
        "id": rule.id,
        "language": rule.language,
        "severity": "warning",
        "message": rule.id,
        "rule": rule.rule,
        **({"constraints": rule.constraints} if rule.constraints else {}),
        **({"fix": rule.fix} if rule.fix is not None else {}),
    }
    return json.dumps(said).encode()


# ------------------------------------------------------------------------------------------------ hearing


def matches_of(output: bytes, rules: Sequence[Rule], files: Mapping[str, bytes]) -> list[Match]:
    """Return what ast-grep found, by path and place. Raise ValueError for what it cannot have found."""
    known = {each.id: each for each in rules}
    found = [_match(json.loads(line), known, files) for line in output.splitlines() if line.strip()]
    kept = (each for each in found if is_wanted(each.rule, each.path))
    return sorted(kept, key=lambda each: (each.path, each.start, -each.end, each.rule.id))


def _match(value: Any, rules: Mapping[str, Rule], files: Mapping[str, bytes]) -> Match:
    try:
        path, rule = value["file"].removeprefix("./"), rules[value["ruleId"]]
        place, data = value["range"]["start"], files[path]
        line, column = int(place["line"]) + 1, int(place["column"]) + 1
        replacement = value.get("replacement")
        offsets = value.get("replacementOffsets") or value["range"]["byteOffset"]
        start, end = int(offsets["start"]), int(offsets["end"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a match without {error}") from None
    if not 0 <= start <= end <= len(data):
        raise ValueError(f"a match at {start}:{end} of {len(data)} bytes")
    new = replacement.encode() if isinstance(replacement, str) and rule.fix is not None else None
    return Match(rule=rule, path=path, line=line, column=column, start=start, end=end, replacement=new)


def problems_of(found: Iterable[Match]) -> Iterator[Problem]:
    """Yield what was found as problems, by rule."""
    for each in found:
        rule = each.rule
        yield Problem(
            path=each.path, line=each.line, column=each.column, reason=rule.message, cure=rule.cure, rule=rule.id,
            severity=rule.severity,
        )  # fmt: skip


def rewritten(data: bytes, found: Iterable[Match]) -> tuple[bytes, int]:
    """Return a file with the fixes of its matches, and how many were left because they overlap another: the first
    one counts, of two that begin together the longer."""
    parts, at, left = [], 0, 0
    fixes = [each for each in found if each.replacement is not None]
    for each in sorted(fixes, key=lambda one: (one.start, -one.end)):
        if each.start < at:
            left += 1
            continue
        parts += [data[at : each.start], each.replacement or b""]
        at = each.end
    return b"".join([*parts, data[at:]]), left
