"""What others wrote is shown in comments and logs, and does nothing there."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from reconciler import markup
from reconciler.annotations import commands
from reconciler.model import Problem, Severity

HOSTILE = [
    "@ann look", "<img src=https://evil.example/x>", "[x](javascript:1)", "a | b", "`", "``x`` `", "![](//x)", "#1 !2 &3",
    "line\nbreak | <script>", "\x1b[31m", "</details>", "-->", "\u202eabc",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_a_code_span_shows_text_and_does_nothing(text: str) -> None:
    html = MarkdownIt("commonmark").enable("table").render(f"| a |\n|---|\n| {markup.code(text)} |\n")
    for tag in ("<img", "<a ", "<script", "</details"):
        assert tag not in html
    assert html.count("<td>") == 1
    assert "<code>" in html


def test_nothing_is_shown_as_a_dash() -> None:
    assert markup.code("\n \t") == "`-`"


def test_a_long_text_is_cut_at_a_line_and_says_so() -> None:
    text = "<details>\n```\n" + "a line\n" * 1000
    kept = markup.bounded(text, 500)
    assert len(kept) <= 500
    assert kept.count("```") == 2
    assert kept.count("</details>") == 1
    assert "does not fit" in kept
    assert markup.bounded("short", 500) == "short"


def problem(**keys: object) -> Problem:
    return Problem(**{"path": "runs.d/r.yaml", "reason": "wrong", "rule": "x", **keys})  # type: ignore[arg-type]


def test_annotations_stay_one_command_each() -> None:
    marks = list(commands([problem(path="runs.d/a,b:c%.yaml", reason="one\n::error::two\r", line=2, column=0)]))
    assert marks == ["::error file=runs.d/a%2Cb%3Ac%25.yaml,line=2,col=1,title=x::one%0A::error::two%0D"]


def test_no_more_annotations_than_a_runner_shows_and_errors_first() -> None:
    found = [problem(severity=Severity.WARNING), *(problem(reason=str(number)) for number in range(30))]
    marks = list(commands(found))
    assert [each.startswith("::error ") for each in marks] == [True] * 10 + [False]


@pytest.mark.parametrize("line", ["::add-mask::x", "  ::set-env name=a::b", "x ##[error]y", "a\r::error::b"])
def test_no_line_is_a_command_to_a_runner(line: str) -> None:
    for each in markup.inert(line).split("\n"):
        assert not each.lstrip().startswith("::")
        assert "##[" not in each


def test_many_problems_are_counted() -> None:
    table = markup.problem_rows([problem(reason=str(number)) for number in range(60)])
    assert table.count("\n| ") == 50
    assert "and 10 more" in table
