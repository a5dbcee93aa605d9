"""Rules about code: what ast-grep is told, what of its answers is believed, and what a fix makes of a file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from reconciler import astgrep, patterns
from reconciler.contracts import Contracts
from reconciler.errors import ContentError, TransientError
from reconciler.guards.patterns import rule_paths, unseen_because
from reconciler.model import Rejection, Severity, Source
from reconciler.patterns import Match, Rule, is_wanted, matches_of, problems_of, rewritten, spelled, wanted


def rule(text: str = "", name: str = "no-print") -> Rule:
    said = "language: python\nmessage: no\nrule: {pattern: print($$$A)}\n" + text
    found = patterns.parse_rule(said.encode(), Source(path=f"patterns/{name}.yaml"), Contracts())
    assert not isinstance(found, Rejection), found
    return found


def scan(rules: list[Rule], **files: str) -> list[Match]:
    """Ask the real ast-grep. Names have no dots in Python: `a_py` is `a.py`."""
    contents = {name.replace("_", "."): text.encode() for name, text in files.items()}
    output = astgrep.scan({each.id: spelled(each) for each in rules}, contents, 100)
    return matches_of(output, rules, contents)


def answer(**change: Any) -> bytes:
    place = {"start": {"line": 0, "column": 0}, "byteOffset": {"start": 0, "end": 2}}
    return json.dumps({"file": "a.py", "ruleId": "no-print", "range": place, **change}).encode()


# ------------------------------------------------------------------------------------------------ with ast-grep


def test_what_is_found_has_a_place() -> None:
    found = scan(
        [rule("cure: log\nseverity: warning\n")], a_py="x = 1\nif x:\n    y = 'é', print(x)\n", b_js="print(1)"
    )
    (problem,) = problems_of(found)
    assert (problem.path, problem.line, problem.column, problem.rule) == ("a.py", 3, 14, "no-print")
    assert (problem.reason, problem.cure, problem.severity) == ("no", "log", Severity.WARNING)


def test_rules_have_files_of_their_own() -> None:
    both = [rule("paths: [a.py]\n"), rule("exclude: [a.py]\n", "other")]
    assert [(each.rule.id, each.path) for each in scan(both, a_py="print(1)", b_py="print(1)")] == [
        ("no-print", "a.py"), ("other", "b.py"),
    ]  # fmt: skip


def test_rules_of_all_kinds_are_understood() -> None:
    text = "constraints: {X: {regex: '^[0-9]$'}}\n"
    said = "language: python\nmessage: no\nrule:\n  all:\n    - any: [{pattern: print($X)}, {pattern: {context: 'say($X)', selector: call}}]\n"
    said += "    - not: {inside: {kind: function_definition, stopBy: end}}\n"
    found = patterns.parse_rule((said + text).encode(), Source(path="patterns/r.yaml"), Contracts())
    assert isinstance(found, Rule)
    code = "print(1)\nprint(22)\nsay(3)\ndef f():\n  print(4)\n"
    assert [each.line for each in scan([found], a_py=code)] == [1, 3]


def test_a_rule_that_ast_grep_refuses_is_named() -> None:
    said = b"language: python\nmessage: no\nrule: {kind: nonsense}\n"
    found = patterns.parse_rule(said, Source(path="patterns/odd.yaml"), Contracts())
    assert isinstance(found, Rule)
    with pytest.raises(ContentError, match=r"rule 'odd': ast-grep refuses it: .*nonsense"):
        astgrep.scan({"odd": spelled(found)}, {"a.py": b"x"}, 10)


def test_nothing_of_a_repository_is_an_option_or_a_configuration() -> None:
    files = {
        "--help.py": b"print(1)",
        "sgconfig.yml": b"ruleDirs: [nowhere]",
        ".gitignore": b"*",
        "-x/.h/a.py": b"print(1)",
    }
    output = astgrep.scan({"no-print": spelled(rule())}, files, 10)
    assert [each.path for each in matches_of(output, [rule()], files)] == ["--help.py", "-x/.h/a.py"]


def test_a_path_that_leads_out_is_refused() -> None:
    with pytest.raises(ContentError):
        astgrep.scan({"no-print": spelled(rule())}, {"../a.py": b"x"}, 10)


def test_fixes_take_the_place_of_what_is_found() -> None:
    code = "print(1)\né = [print(print(2))]\n"
    found = scan([rule("fix: log($$$A)\n")], a_py=code)
    after, left = rewritten(code.encode(), found)
    assert (after.decode(), left) == ("log(1)\né = [log(print(2))]\n", 1)
    again, left = rewritten(after, scan([rule("fix: log($$$A)\n")], a_py=after.decode()))
    assert (again.decode(), left) == ("log(1)\né = [log(log(2))]\n", 0)


def test_an_empty_fix_removes() -> None:
    after, _ = rewritten(b"print(1)\nx\n", scan([rule('fix: ""\n')], a_py="print(1)\nx\n"))
    assert after == b"\nx\n"


# ------------------------------------------------------------------------------------------------ alone


@pytest.mark.parametrize(
    "output",
    [b"{", b"1", b"{}", answer(file="b.py"), answer(ruleId="x"), answer(range={}), answer(file=1), answer(ruleId=[]),
     answer(replacementOffsets={"start": 0, "end": 9}), answer(replacementOffsets={"start": 2, "end": 1}),
     answer(replacementOffsets={"start": -1, "end": 1})],
)  # fmt: skip
def test_an_answer_that_cannot_be_is_not_believed(output: bytes) -> None:
    with pytest.raises(ValueError):
        matches_of(output, [rule()], {"a.py": b"xy"})


def test_files_are_chosen_by_language_and_path() -> None:
    chosen = rule("paths: [src]\nexclude: ['src/*_pb.py']\n")
    assert wanted([chosen], ["src/b/a.py", "src/a.pyi", "a.py", "src/x_pb.py", "src/a.js"]) == [
        "src/a.pyi",
        "src/b/a.py",
    ]
    assert not is_wanted(rule(), "Makefile")


def test_every_language_of_the_schema_has_suffixes() -> None:
    assert set(Contracts().schema("pattern")["properties"]["language"]["enum"]) == set(patterns.SUFFIXES)


def test_rules_lie_directly_in_their_folder() -> None:
    paths = ["patterns/a.yaml", "patterns/x/b.yaml", "patterns/README.md", "b.yaml", "patterns/c.yml"]
    assert rule_paths(paths, "patterns/") == ["patterns/a.yaml", "patterns/c.yml"]
    with pytest.raises(ContentError, match="501 rules"):
        rule_paths([f"p/{index}.yaml" for index in range(501)], "p")


@pytest.mark.parametrize(
    ("path", "data", "said"),
    [
        ("a.py", b"x", ""),
        ("a.py", b"\xff", "UTF-8"),
        ("\udcff.py", b"x", "UTF-8"),
        ("a.py", b"print(1)\n" * 400_000, "large"),
    ],
)
def test_what_ast_grep_would_pass_over_is_told(path: str, data: bytes, said: str) -> None:
    reason = unseen_because(path, data)
    assert said in reason and bool(said) == bool(reason)


# ------------------------------------------------------------------------------------------------ without it


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory that is all of PATH, with nothing beside this Python."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_where_ast_grep_is_missing_the_cure_is_said(elsewhere: Path) -> None:
    with pytest.raises(TransientError, match=r"ast-grep: is not installed; .*gitops-reconciler\[patterns\]"):
        astgrep.program()


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("while :; do echo '{}'; done", ContentError, "far too much is found"),
        ("exec sleep 600", TransientError, "no answer within 0.2 s"),
        ("echo broken >&2; exit 3", TransientError, "ended with 3: broken"),
    ],
)
def test_a_program_that_goes_wrong_is_ended_and_told(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: type[Exception], said: str
) -> None:
    (elsewhere / "ast-grep").write_text(f"#!/bin/sh\n{text}\n")
    (elsewhere / "ast-grep").chmod(0o755)
    monkeypatch.setattr(astgrep, "OUTPUT_BYTES_MAX", 1000)
    monkeypatch.setattr(astgrep, "TIMEOUT_S", 0.2 if "sleep" in text else 60.0)
    with pytest.raises(error, match=said):
        astgrep.scan({"no-print": spelled(rule())}, {"a.py": b"x"}, 10)
