"""How findings are told, which budgets a change keeps, and how a command of one's own is judged."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler import codec
from reconciler.globs import matches
from reconciler.guards import KINDS, command, diff
from reconciler.guards.findings import FINDINGS_MAX, Finding, Report, answer_of, chosen, conclusion, listed, report_of
from reconciler.model import Severity
from reconciler.order import ANSWER_BYTES_MAX, Verdict
from reconciler.parse import GUARD_OPTIONS
from reconciler.worktree import Changed

ERROR = Finding(path="b.md", line=2, reason="bad", cure="better")
WARNING = Finding(path="a.md", reason="odd", severity=Severity.WARNING)


@pytest.mark.parametrize(
    ("finding", "sentence"),
    [
        (ERROR, "b.md:2: bad; better"),
        (WARNING, "a.md: warning: odd"),
        (Finding(path=".", reason="too much", cure="less"), "too much; less"),
    ],
)
def test_a_finding_is_one_sentence(finding: Finding, sentence: str) -> None:
    assert finding.sentence() == sentence


@pytest.mark.parametrize(
    ("findings", "dry_run", "verdict", "reason"),
    [
        ([], False, Verdict.PASSED, ""),
        ([WARNING], False, Verdict.PASSED, ""),
        ([ERROR], False, Verdict.FAILED, "findings"),
        ([WARNING, ERROR], False, Verdict.FAILED, "findings"),
        ([], True, Verdict.ADVISORY, "dry-run"),
        ([ERROR], True, Verdict.ADVISORY, "dry-run"),
    ],
)
def test_a_dry_run_is_never_a_pass(findings: list[Finding], dry_run: bool, verdict: Verdict, reason: str) -> None:
    answer = answer_of("docs", report_of(findings, 3), dry_run=dry_run)
    assert (answer.verdict, answer.reason) == (verdict, reason)
    assert answer.detail["guard"] == "docs"
    assert answer.detail["checked"] == 3
    assert [each["path"] for each in answer.detail["findings"]] == sorted(each.path for each in findings)  # type: ignore[attr-defined]
    assert (
        ("proves nothing" in answer.summary)
        == dry_run
        == ("proves nothing" in conclusion("x", Report(), dry_run=dry_run))
    )


def test_the_worst_is_told_first() -> None:
    assert answer_of("docs", report_of([WARNING, ERROR], 3), dry_run=False).summary == (
        "3 checked, 2 findings: b.md:2: bad; better"
    )


def test_an_answer_is_bounded() -> None:
    many = [Finding(path="ä" * 5000, line=n, reason="🦊" * 5000, cure="c" * 5000) for n in range(FINDINGS_MAX + 100)]
    answer = answer_of("docs", report_of(many, 1), dry_run=False)
    assert len(answer.detail["findings"]) == FINDINGS_MAX  # type: ignore[arg-type]
    assert answer.detail["left_out"] == 100
    assert len(answer.summary) <= 1000
    assert len(codec.compact(answer_of("docs", report_of(many[:50], 1), dry_run=False))) < ANSWER_BYTES_MAX


def test_there_is_a_module_for_every_kind() -> None:
    assert tuple(GUARD_OPTIONS) == KINDS


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, ["a.py", "b/c.md", "b/d.py"]),
        ({"paths": ["**"]}, ["a.py", "b/c.md", "b/d.py"]),
        ({"paths": ["b"]}, ["b/c.md", "b/d.py"]),
        ({"paths": ["*.py"]}, ["a.py"]),
        ({"paths": ["**/*.py"], "exclude": ["b/**"]}, ["a.py"]),
        ({"exclude": ["**"]}, []),
    ],
)
def test_which_files_are_looked_at(options: dict[str, Any], found: list[str]) -> None:
    assert chosen(["b/d.py", "a.py", "b/c.md"], options, ("**",)) == found


@pytest.mark.parametrize(
    ("pattern", "path", "meant"),
    [("docs/**/*.md", "docs/a.md", True), ("docs/**/*.md", "docs/a/b.md", True), ("docs/*.md", "docs/a/b.md", False),
     ("docs", "docs/a/b", True), ("docs", "docsx", False), ("a?c", "abc", True), ("a?c", "a/c", False),
     ("**", "a/b\nc", True), ("src/**", "src/a/b", True), ("src/**", "src", False), ("a.md", "axmd", False)],
)  # fmt: skip
def test_a_pattern_means_what_git_reads_in_it(pattern: str, path: str, meant: bool) -> None:
    assert matches([pattern], path) == meant


def test_some_names_are_told_and_the_rest_counted() -> None:
    assert listed(["b", "a"]) == "a, b"
    assert listed("edcba") == "a, b, c and 2 more"


# ------------------------------------------------------------------------------------------------ diff

SMALL = [Changed(path="a", added=10, removed=5), Changed(path="b", added=0, removed=85)]


@pytest.mark.parametrize(
    ("changed", "files_max", "lines_max", "said"),
    [
        ([], 0, 0, []),
        (SMALL, 2, 100, []),
        (SMALL, 1, 100, ["the change touches 2 files, and 1 are allowed"]),
        (SMALL, 2, 99, ["the change adds 10 lines and removes 90, and 99 are allowed (most of them, 85, in b)"]),
        (SMALL, 0, 0, ["the change touches 2 files, and 0 are allowed", "the change adds 10 lines and removes 90"]),
        ([Changed(path="image.png")], 1, 0, []),
    ],
)
def test_a_change_keeps_its_budget(changed: list[Changed], files_max: int, lines_max: int, said: list[str]) -> None:
    found = [each.reason for each in diff.excesses(changed, files_max, lines_max)]
    assert len(found) == len(said)
    assert all(reason.startswith(each) for reason, each in zip(found, said, strict=True))


# ------------------------------------------------------------------------------------------------ command


@pytest.mark.parametrize(
    ("status", "said"),
    [(0, ""), (1, "the command ended with exit code 1"), (255, "the command ended with exit code 255"),
     (-9, "the command was killed by SIGKILL"), (-35, "the command was killed by signal 35")],
)  # fmt: skip
def test_a_command_passes_by_its_exit_code_alone(status: int, said: str) -> None:
    assert command.fault_of(status) == said
