"""A comment about a pull request is inert, bounded Markdown, whatever the pull request says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from reconciler import annotations
from reconciler.markup import code
from reconciler.model import Name, Problem, RunId
from reconciler.power import Power
from reconciler.preview import NOWHERE, Change, Coming, Doing, Effect, Preview, Touched, Verdict, preview
from reconciler.preview_gates import Asked, Judged
from reconciler.preview_markdown import CHARACTERS_MAX, block, markdown
from tests.scenarios.test_previews import NOW

HOSTILE = [
    "@everyone",
    "![x](https://evil.invalid/beacon.png)",
    "<img src=https://evil.invalid/b.png>",
    "<!-- --> <script>alert(1)</script>",
    "`` ` ``` <b>",
    "a | b | c\n| d |",
    "[click](javascript:alert(1))",
    "# title\n\n- [ ] box",
    "</details>",
    "\u202eevil\u2066",
    "https://evil.invalid www.evil.invalid #1 GH-1",
    "",
    "$`x`$ \\| \\` \\",
    "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
]
MARKDOWN = MarkdownIt("gfm-like", {"html": True, "linkify": False})


def words(rendered: str) -> set[str]:
    """Return the kinds of everything that a text becomes."""
    found = set()
    for token in MARKDOWN.parse(rendered):
        found.add(token.type)
        found |= {each.type for each in token.children or ()}
    return found


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_is_one_code_span_and_nothing_else(text: str) -> None:
    assert words(f"| a | b |\n|---|---|\n| {code(text)} | x |\n") == words("| a | b |\n|---|---|\n| `c` | x |\n")
    [row] = MARKDOWN.render(f"| a | b |\n|---|---|\n| {code(text)} | x |\n").split("<tr>")[2:]
    assert row.count("<td>") == 2


@given(st.text())
def test_no_text_ends_its_code_span(text: str) -> None:
    assert words(code(text)) == {"paragraph_open", "inline", "code_inline", "paragraph_close"}
    assert words(block([text, "```"], "text")) == {"fence"}


def run_of(text: str, number: int = 0) -> Coming:
    gate = Asked(
        stage=text, reason=text, policy=text, approvals_min=1, approvers=(text,), other_person=True, signed=False,
        within="", answer=text, instead=text,
    )  # fmt: skip
    stage = Doing(
        id=text, kind="command", command=text, needs=(text,), selected=True, gate=True, sandbox=text, runs=(text,)
    )
    return Coming(
        run_id=RunId(f"{text}{number}"), name=Name(text), path=text, task=text, pipeline=text, title=text,
        workspace="empty", mode="mcp", priority=0, parameters={"p": text}, target=text, begins=text, after=(Name(text),),
        group=text, on_conflict="queue", stages=(stage,) * 20, gates=(gate,), guardrails_required=True,
        guardrails=(text,), plan=text, named=text,
    )  # fmt: skip


def full(text: str, count: int) -> Preview:
    """Return a preview in which everything that a repository can say is `text`, `count` times."""
    problem = Problem(path=text, reason=text, rule="r", cure=text, line=1, column=1)
    touched = Touched(name=Name(text), path=text, effect=Effect.NEW, run_id=text, before=text + "b", detail=text)
    judged = Judged(
        path=text, run=text, stage=text, decision="approve", reason=text, actor=text, counts=False, why=text
    )
    power = Power(path=text, kind="pipeline", effect="changed", lines=(f"- {text}",) * 60, more=3)
    empty = preview(NOWHERE, NOWHERE, Change(base="a" * 40, head="b" * 40), NOW)
    return replace(
        empty, powers=(power,) * count, requests=(touched,) * count, decisions=(judged,) * count,
        runs=tuple(run_of(text, number) for number in range(count)), problems=(problem,) * count,
        standing=(problem,) * count,
    )  # fmt: skip


@pytest.mark.parametrize("text", [*HOSTILE, "x" * 5000])
def test_a_comment_is_bounded_and_says_what_is_left_out(text: str) -> None:
    said = markdown(full(text, 500))
    assert len(said) <= CHARACTERS_MAX
    assert "and 4" in said and " more" in said


INERT = {"html_block", "html_inline"}


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_a_repository_becomes_more_than_text(text: str) -> None:
    said, plain = markdown(full(text, 2)), markdown(full("plain", 2))
    assert words(said) == words(plain)
    assert not words(said) & {"image", "link_open"}
    assert html_of(said) == html_of(plain)


def html_of(said: str) -> list[str]:
    """Return the HTML that a text holds beside what Markdown makes."""
    tokens = [each for token in MARKDOWN.parse(said) for each in (token, *(token.children or ()))]
    return [each.content for each in tokens if each.type in INERT]


def test_a_comment_about_nothing_and_about_a_conflict() -> None:
    change: dict[str, Any] = {"base": "a" * 40, "head": "b" * 40}
    nothing = preview(NOWHERE, NOWHERE, Change(**change, verdict=Verdict.NOTHING), NOW)
    assert "nothing to do, the base holds it already" in markdown(nothing)
    conflict = preview(NOWHERE, NOWHERE, Change(**change, verdict=Verdict.CONFLICT, conflicts=("a`|b",)), NOW)
    assert conflict.fails
    assert "it cannot be merged, 1 file in conflict" in markdown(conflict)
    assert "`aˋ│b`" in markdown(conflict)


def test_an_annotation_cannot_begin_another() -> None:
    hostile = Problem(path="a,b:c\n::error::x", reason="100%\r\n::set-output name=x::y", rule="r", line=3, column=0)
    [said] = annotations.commands([hostile])
    assert said == (
        "::error file=a%2Cb%3Ac%0A%3A%3Aerror%3A%3Ax,line=3,col=1,title=r::100%25%0D%0A::set-output name=x::y"
    )
    assert len(list(annotations.commands([hostile] * 80))) == annotations.ANNOTATIONS_MAX
