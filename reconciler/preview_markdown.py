"""A preview as Markdown for a comment on a pull request: bounded, and inert whatever a change says. Pure.

Everything that a repository says stands in code spans and code blocks: there no mention, link, image, HTML or table
begins. What could end a span is replaced by what looks like it; the JSON form holds the exact words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from reconciler.markup import code
from reconciler.model import Problem, Severity
from reconciler.power import Power
from reconciler.preview import Coming, Preview, Touched, Verdict
from reconciler.preview_gates import Asked, Judged, demands
from reconciler.preview_text import (
    LOUD,
    PLACES,
    WORDS,
    conclusion,
    counted,
    guardrails,
    more,
    more_lines,
    placement,
    reviewed,
    stage_line,
)
from reconciler.shown import visible

CHARACTERS_MAX = 60_000
"""GitHub refuses comments of more than 65,536 characters, and others allow more."""

_ROOM = {"powers": 16_000, "problems": 9_000, "requests": 8_000, "runs": 16_000, "decisions": 4_000, "standing": 4_000}
"""Characters for each section: together less than a comment, whatever each of them holds."""


def markdown(shown: Preview) -> str:
    """Return a preview as one comment of at most `CHARACTERS_MAX` characters."""
    heading = f"### Plan: {conclusion(shown)}\n"
    return f"{heading}\nMerging {code(shown.head[:12])} into {code(shown.base[:12])}.\n\n{body(shown)}"


def body(shown: Preview) -> str:
    """Return what `markdown` holds below its first lines."""
    if shown.verdict == Verdict.NOTHING:
        return ""
    return "\n".join([*filter(None, _sections(shown)), f"Plan {code(shown.digest)}\n"])


def block(lines: Iterable[str], language: str) -> str:
    """Return lines as a code block whose fence is longer than any in it."""
    said = "\n".join(visible(line) for line in lines)
    longest = max((len(each) for each in re.findall("`+", said)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{said}\n{fence}\n"


def _sections(shown: Preview) -> Iterator[str]:
    if shown.powers:
        loud = f"> [!CAUTION]\n> **{LOUD[0].upper()}{LOUD[1:]}.** Policies of the base say who decides on it.\n"
        yield f"{loud}\n{_powers(shown.powers)}"
    yield _table(
        "Problems in the change", ("where", "what"), map(_problem, shown.problems), len(shown.problems), "problems"
    )
    yield _table(
        "Requests",
        ("effect", "run", "before", "detail"),
        map(_request, shown.requests),
        len(shown.requests),
        "requests",
    )
    if shown.runs:
        yield f"#### Runs\n\n{_bounded((_run(each) for each in shown.runs), len(shown.runs), 'runs')}"
    head = ("decision", "run", "stage", "by", "counts")
    yield _table("Decisions in the change", head, map(_decision, shown.decisions), len(shown.decisions), "decisions")
    standing = _table("", ("where", "what"), map(_problem, shown.standing), len(shown.standing), "standing")
    if standing:
        yield _details(counted(len(shown.standing), "problem") + " that were there before", standing)


def _table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], count: int, room: str) -> str:
    if not count:
        return ""
    lines = (f"| {' | '.join(each)} |" for each in rows)
    body = _bounded(lines, count, room)
    above = f"#### {title}\n\n" if title else ""
    return f"{above}| {' | '.join(head)} |\n|{'---|' * len(head)}\n{body}"


def _bounded(parts: Iterable[str], count: int, room: str) -> str:
    """Return as many parts as there is room for, and how many more there are."""
    left, said = _ROOM[room], []
    for each in parts:
        if len(each) + 1 > left:
            break
        said.append(each)
        left -= len(each) + 1
    return "\n".join([*said, *([""] if said and count > len(said) else []), *more(count - len(said)), ""])


def _details(summary: str, body: str) -> str:
    """Return what is folded away; the summary holds words of ours only, or escaped ones."""
    return f"<details><summary>{summary}</summary>\n\n{body}\n</details>\n"


def _powers(powers: Sequence[Power]) -> str:
    """Return changes of power: those for whose lines there is no room are named all the same."""
    left, said = _ROOM["powers"], []
    for each in powers:
        whole = _power(each)
        part = whole if len(whole) < left else _power(replace(each, lines=(), more=each.more + len(each.lines)))
        if len(part) + 1 > left:
            break
        said.append(part)
        left -= len(part) + 1
    return "\n".join([*said, *more(len(powers) - len(said)), ""])


def _power(each: Power) -> str:
    lines = [*each.lines, *([f"  {more_lines(each)}"] if each.more else [])]
    title = f"**{each.kind}** {code(each.path)} is {each.effect}\n"
    return f"{title}\n{block(lines, 'diff')}" if lines else title


def _problem(each: Problem) -> tuple[str, str]:
    place = f"{each.path}:{each.line}:{each.column}" if each.line else each.path
    words = each.reason + (f"; {each.cure}" if each.cure else "")
    mark = "warning: " if each.severity == Severity.WARNING else ""
    return code(place), f"{mark}{code(words)}"


def _request(each: Touched) -> tuple[str, str, str, str]:
    before = code(each.before) if each.before not in ("", each.run_id) else ""
    return WORDS[each.effect], code(each.run_id or each.name), before, code(each.detail) if each.detail else ""


def _run(run: Coming) -> str:
    stages = block((f"{number:2d}. {stage_line(each)}" for number, each in enumerate(run.stages, 1)), "text")
    facts = [
        f"pipeline {code(run.pipeline)} of task {code(run.task)} in {PLACES[run.workspace]}, mode {code(run.mode)}"
    ]
    facts += [f"order: {code(placement(run))}"] if placement(run) else []
    facts += [f"guardrails: {code(guardrails(run))}"] if guardrails(run) else []
    facts += [_gate(each) for each in run.gates]
    facts.append(f"plan {code(run.plan)}" + reviewed(run))
    listed = "\n".join(f"- {each}" for each in facts)
    folded = _details(counted(len(run.stages), "stage"), stages)
    return f"**{code(run.run_id)}** begins: {code(run.begins)}\n\n{listed}\n\n{folded}"


def _gate(gate: Asked) -> str:
    policy = f"policy {code(gate.policy)}" if gate.policy else "no policy"
    asks = code("; ".join(demands(gate.approvals_min, gate.approvers, gate.other_person, gate.signed)))
    later = f" - **after the merge it would be** {code(gate.instead)}" if gate.instead else ""
    return (
        f"needs approval before {code(gate.stage)} ({code(gate.reason)}), {policy}: {asks}, {code(gate.answer)}{later}"
    )


def _decision(each: Judged) -> tuple[str, str, str, str, str]:
    counts = "yes" if each.counts else f"no: {code(each.why)}"
    return each.decision, code(each.run), code(each.stage), code(each.actor), counts
