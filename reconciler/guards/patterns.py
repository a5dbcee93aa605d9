"""`guard: patterns`: no rule about code finds anything. Rules are those of the run's commit, whatever stages did."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from reconciler import astgrep, patterns
from reconciler.contracts import Contracts
from reconciler.errors import ContentError
from reconciler.guards.findings import EVERYWHERE, Finding, Report, chosen, report_of
from reconciler.model import Problem, Rejection, Severity, Source
from reconciler.patterns import Match, Rule
from reconciler.values import frozen
from reconciler.worktree import CommitFiles

if TYPE_CHECKING:
    from reconciler.guards.scene import Scene

WARNING = Severity.WARNING
LARGE_BYTES, LARGE_LINES = 3_000_000, 200_000
"""ast-grep passes over a file with more than both."""


@frozen
class Look:
    """What rules found in files: the rules that can be used, problems of those that cannot, what was looked at."""

    rules: tuple[Rule, ...]
    problems: tuple[Problem, ...]
    matches: tuple[Match, ...]
    files: Mapping[str, bytes]


def check(scene: Scene, options: Mapping[str, object]) -> Report:
    """Judge the files of a workspace by the rules at the run's commit."""
    directory = str(options.get("rules", patterns.DIRECTORY))
    commit = CommitFiles(scene.repository, scene.commit).paths
    found = look(scene, scene.at_commit(rule_paths(commit, directory)), chosen(scene.paths, options, ("**",)))
    if not found.rules and not found.problems:
        reason, cure = f"there is no rule in {directory}/ at the run's commit", f"commit one: {directory}/<id>.yaml"
        return report_of([Finding(path=EVERYWHERE, reason=reason, cure=cure)], 0)
    strict = options.get("strict") is True
    told = (*found.problems, *patterns.problems_of(found.matches))
    return report_of((_finding(each, strict=strict) for each in told), len(found.files))


def _finding(problem: Problem, *, strict: bool) -> Finding:
    severity = Severity.ERROR if strict else problem.severity
    reason = f"{problem.rule}: {problem.reason}"
    return Finding(path=problem.path, line=problem.line, reason=reason, cure=problem.cure, severity=severity)


def rule_paths(paths: Iterable[str], directory: str) -> list[str]:
    """Return the paths of the rules in a directory, in order. Raise ContentError for more than are read."""
    where = posixpath.normpath(directory)
    found = sorted(each for each in paths if posixpath.dirname(each) == where and each.endswith((".yaml", ".yml")))
    if len(found) > patterns.RULES_MAX:
        raise ContentError(f"{directory}: {len(found)} rules, and {patterns.RULES_MAX} are read; merge some")
    return found


def look(scene: Scene, rules: Mapping[str, bytes | None], paths: Sequence[str]) -> Look:
    """Ask ast-grep about those of the files that rules, given by their paths, are about.

    Raise ContentError or TransientError if it cannot be asked.
    """
    sound, problems = _rules(rules)
    wanted = patterns.wanted(sound, paths)
    files = {path: data for path, data in scene.read(wanted).items() if data is not None}
    unseen = {path: reason for path, data in files.items() if (reason := unseen_because(path, data))}
    problems += (Problem(path=path, reason=reason, rule="unseen", severity=WARNING) for path, reason in unseen.items())
    files = {path: data for path, data in files.items() if path not in unseen}
    matches: list[Match] = []
    if sound and files:
        asked = {each.id: patterns.spelled(each) for each in sound}
        matches = _heard(astgrep.scan(asked, files, patterns.MATCHES_MAX), sound, files)
    return Look(rules=tuple(sound), problems=tuple(problems), matches=tuple(matches), files=files)


def unseen_because(path: str, data: bytes) -> str:
    """Return why ast-grep would pass over a file without a word, "" if it looks at it."""
    try:
        path.encode()
        data.decode()
    except UnicodeError:
        return "is not UTF-8, so nobody looked"
    if len(data) > LARGE_BYTES and data.count(b"\n") > LARGE_LINES:
        return "is too large, so nobody looked"
    return ""


def _heard(output: bytes, rules: Sequence[Rule], files: Mapping[str, bytes]) -> list[Match]:
    try:
        return patterns.matches_of(output, rules, files)
    except ValueError as error:
        raise ContentError(f"ast-grep: said something that cannot be: {error}") from None


def _rules(contents: Mapping[str, bytes | None]) -> tuple[list[Rule], list[Problem]]:
    """Return the rules that can be used, and everything that is wrong with the others."""
    rules: list[Rule] = []
    problems: list[Problem] = []
    for path, data in contents.items():
        if data is None:
            problems.append(Problem(path=path, reason="this is no regular file, or too large", rule="unreadable"))
            continue
        parsed = patterns.parse_rule(data, Source(path=path), Contracts())
        if isinstance(parsed, Rejection):
            problems += parsed.problems
        else:
            rules.append(parsed)
    return rules, problems
