"""Problems as SARIF: what code scanners read of them."""

from __future__ import annotations

import json
from typing import Any

from reconciler import sarif
from reconciler.model import Problem, Severity

ERROR = Problem(
    path="runs.d/a b.yaml", line=3, column=5, reason="unknown key 'x'", cure="remove it", rule="unknown-key"
)
WARNING = Problem(path="tasks/t.md", reason="too large", rule="checklist-bounds", severity=Severity.WARNING)


def run(*problems: Problem) -> dict[str, Any]:
    log = sarif.report(problems, "1.2.3")
    assert log["version"] == "2.1.0"
    assert json.loads(json.dumps(log)) == log
    (only,) = log["runs"]
    return dict(only)


def test_no_problems_are_a_run_without_results() -> None:
    found = run()
    assert found["results"] == []
    assert found["tool"]["driver"]["rules"] == []
    assert found["tool"]["driver"]["version"] == "1.2.3"


def test_a_problem_says_rule_level_words_and_place() -> None:
    (result,) = run(ERROR)["results"]
    assert result == {
        "ruleId": "unknown-key",
        "ruleIndex": 0,
        "level": "error",
        "message": {"text": "unknown key 'x'; remove it"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": "runs.d/a%20b.yaml", "uriBaseId": "%SRCROOT%"},
                    "region": {"startLine": 3, "startColumn": 5},
                }
            }
        ],
    }


def test_a_problem_of_a_whole_file_has_no_region() -> None:
    (result,) = run(WARNING)["results"]
    assert result["level"] == "warning"
    assert result["message"] == {"text": "too large"}
    assert "region" not in result["locations"][0]["physicalLocation"]


def test_every_rule_is_listed_once_and_found_by_its_index() -> None:
    found = run(ERROR, WARNING, ERROR)
    rules = found["tool"]["driver"]["rules"]
    assert [each["id"] for each in rules] == ["checklist-bounds", "unknown-key"]
    assert [rules[each["ruleIndex"]]["id"] for each in found["results"]] == [
        each["ruleId"] for each in found["results"]
    ]
    assert [each["defaultConfiguration"]["level"] for each in rules] == ["warning", "error"]


def test_a_file_outside_the_sources_has_an_absolute_uri() -> None:
    outside = Problem(path="/tmp/ä.yaml", reason="x", rule="y")
    (result,) = run(outside)["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"] == {"uri": "file:///tmp/%C3%A4.yaml"}
