"""Problems in SARIF 2.1.0, the format in which code scanners report: pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from reconciler.model import Problem

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
INFORMATION = "https://github.com/gitops-reconciler/gitops-reconciler"


def report(problems: Sequence[Problem], version: str) -> dict[str, Any]:
    """Return the one run of a SARIF log that holds `problems`; `version` is that of this program."""
    by_rule = {each.rule: each for each in reversed(problems)}
    rules = sorted(by_rule)
    driver = {
        "name": "reconciler",
        "version": version,
        "informationUri": INFORMATION,
        "rules": [_rule(by_rule[each]) for each in rules],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(each, rules.index(each.rule)) for each in problems],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(problem: Problem) -> dict[str, Any]:
    """Return the rule that a problem breaks; its id is all that it is known by."""
    return {
        "id": problem.rule,
        "shortDescription": {"text": problem.rule.replace("-", " ")},
        "defaultConfiguration": {"level": problem.severity.value},
    }


def _result(problem: Problem, rule_index: int) -> dict[str, Any]:
    words = problem.reason + (f"; {problem.cure}" if problem.cure else "")
    location: dict[str, Any] = {"artifactLocation": _artifact(problem.path)}
    if problem.line:
        location["region"] = {"startLine": problem.line, "startColumn": max(problem.column, 1)}
    return {
        "ruleId": problem.rule,
        "ruleIndex": rule_index,
        "level": problem.severity.value,
        "message": {"text": words},
        "locations": [{"physicalLocation": location}],
    }


def _artifact(path: str) -> dict[str, str]:
    """Return where a file is: relative to the root of the sources, unless it lies elsewhere."""
    spelled = quote(path, errors="surrogateescape")
    return {"uri": f"file://{spelled}"} if path.startswith("/") else {"uri": spelled, "uriBaseId": "%SRCROOT%"}
