"""Bytes to values: what is accepted, where it stands in the file, and that nothing ever raises."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, tzinfo
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler import parse
from reconciler.contracts import Contracts
from reconciler.model import (
    Approval,
    ApprovalPolicy,
    Concurrency,
    Contract,
    Execution,
    ExecutionMode,
    Name,
    Parameter,
    Pipeline,
    PipelineId,
    Problem,
    Rejection,
    Request,
    Role,
    Settings,
    Source,
    Stage,
    StageId,
    Suspend,
    TaskId,
    Violation,
    Workspace,
)
from reconciler.settings import parse_settings
from reconciler.yaml_events import DEPTH_MAX, Document, load_yaml

CONTRACTS = Contracts()
REQUEST = Source(path="runs.d/team/0001-a.yaml", blob="b" * 40)
PIPELINE = Source(path="pipelines/diagnostics.yaml")


class Lenient:
    """A contract that every value keeps: for what lies behind the schema."""

    def check(self, name: str, value: object) -> tuple[Violation, ...]:
        return ()

    def zone(self, name: str) -> tzinfo | None:
        return UTC


def load(text: str) -> Document:
    document = load_yaml(text.encode(), "a.yaml", bytes_max=65536)
    assert isinstance(document, Document), document
    return document


def said(value: object) -> list[str]:
    assert isinstance(value, Rejection)
    return [each.reason for each in value.problems]


# ---------------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("Null", None),
        ("nULL", "nULL"),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("tRUE", "tRUE"),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("0", 0),
        ("-7", -7),
        ("+7", 7),
        ("0001", 1),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("1.5", 1.5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-1.5E-3", -0.0015),
        ("1e", "1e"),
        (".", "."),
        ("-", None),
        ("1:30", "1:30"),
        ("12:30:45", "12:30:45"),
        ("2026-01-31", "2026-01-31"),
        ("1.2.3", "1.2.3"),
        ("'1'", "1"),
        ('"true"', "true"),
        ('"a\\tb\\u00e9"', "a\tb\u00e9"),
        ("nan", "nan"),
        ("inf", "inf"),
        ("=", "="),
        ("'<<'", "<<"),
        ("a#b", "a#b"),
        ("a # b", "a"),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_scalars_follow_the_core_schema(written: str, value: object) -> None:
    if written == "-":
        assert load("a:\n  -\n").value == {"a": [None]}
        return
    found = load(f"a: {written}\n").value["a"]
    assert found == value
    assert type(found) is type(value)


def test_blocks_of_text_keep_their_lines() -> None:
    document = load("a: |\n  x\n  y\nb: >-\n  x\n  y\n")
    assert document.value == {"a": "x\ny\n", "b": "x y"}


def test_the_merge_sign_in_quotes_is_a_key_like_any_other() -> None:
    assert load("'<<': 1\n").value == {"<<": 1}


def test_every_value_knows_its_place() -> None:
    document = load("# comment\nb: {c: 1, d: [x,\n   y]}\ne:\n  - f: 2\n")
    assert document.marks == {
        (): (2, 1),
        ("b",): (2, 1),
        ("b", "c"): (2, 5),
        ("b", "d"): (2, 11),
        ("b", "d", 0): (2, 15),
        ("b", "d", 1): (3, 4),
        ("e",): (4, 1),
        ("e", 0): (5, 5),
        ("e", 0, "f"): (5, 5),
    }
    assert document.spellings == {("b", "c"): "1", ("e", 0, "f"): "2"}


def test_columns_count_characters_not_bytes_and_a_byte_order_mark_is_none() -> None:
    data = "\ufeffé: {ü: 1, b: 2}\n".encode()
    document = load_yaml(data, "a.yaml", bytes_max=100)
    assert isinstance(document, Document)
    assert document.marks[("é", "b")] == (1, 11)


def test_nesting_is_allowed_up_to_its_bound() -> None:
    levels = DEPTH_MAX - 1
    assert load("a: " + "[" * levels + "]" * levels).value.keys() == {"a"}


@pytest.mark.parametrize("data", [b"a: 1\nb: [x, 'y']\n", b"a: |\n  t\n", b"{a: [{b: ~}]}", b"a: \xc3\xa9\n"])
def test_without_the_c_parser_a_file_says_the_same(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = load_yaml(data, "a.yaml", bytes_max=100)
    monkeypatch.setitem(sys.modules, "_ruamel_yaml", None)
    assert load_yaml(data, "a.yaml", bytes_max=100) == fast


@pytest.mark.parametrize("data", [b"a: [", b"a: b: c", b'a: "\\U99999999"', b"a: @", b"%YAML 9999.1\n", b"a: *b"])
def test_without_the_c_parser_broken_files_are_rejected_too(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "_ruamel_yaml", None)
    assert isinstance(load_yaml(data, "a.yaml", bytes_max=100), Rejection)


# ---------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs.d/a.yaml", "a"),
        ("runs.d/0001-diagnostics.yaml", "0001-diagnostics"),
        ("runs.d/team/nightly/a_b.yaml", "team.nightly.a_b"),
        ("runs.d/v1.2/a.yaml", "v1.2.a"),
        ("runs.d/a-.yaml", "a-"),
        (f"runs.d/{'a' * 91}.yaml", "a" * 91),
    ],
)
def test_a_request_is_named_by_its_path(path: str, name: str) -> None:
    assert parse.request_name(path) == name


def test_an_approval_has_no_request_name() -> None:
    problem = parse.request_name("runs.d/a.approval.yaml")
    assert isinstance(problem, Problem)
    assert problem.reason == "the file is an approval, not a request"


def test_a_rejection_has_a_name_if_its_path_gives_one() -> None:
    for path, name in (("runs.d/a.yaml", "a"), ("runs.d/A.yaml", None)):
        rejection = parse.parse_request(b"{}", Source(path=path), CONTRACTS)
        assert isinstance(rejection, Rejection)
        assert rejection.name == name


# ---------------------------------------------------------------------------------------------- requests


def test_two_lines_are_a_request() -> None:
    request = parse.parse_request(b"task: 0001-demo\npipeline: diagnostics\n", REQUEST, CONTRACTS)
    assert request == Request(
        name=Name("team.0001-a"), source=REQUEST, task=TaskId("0001-demo"), pipeline=PipelineId("diagnostics")
    )


def test_a_request_may_say_all_it_can() -> None:
    data = b"""
    task: t
    pipeline: p
    title: Nightly
    parameters: {python: "3.12", full: true, level: 3, ratio: 0.5}
    target: lint
    approval_policy: never
    execution: {mode: mcp, parallel: false}
    attempts_max: 2.0
    timeout: 1.5h
    priority: -3
    after: []
    suspend: {reason: later, until: "2026-03-01T09:00:00Z"}
    cancel: by mistake
    proves: [t/tests, t/docs]
    labels: [nightly]
    rerun: 2
    """
    assert parse.parse_request(data, REQUEST, CONTRACTS) == Request(
        name=Name("team.0001-a"),
        source=REQUEST,
        task=TaskId("t"),
        pipeline=PipelineId("p"),
        title="Nightly",
        parameters={"python": "3.12", "full": True, "level": 3, "ratio": 0.5},
        target=StageId("lint"),
        approval_policy=ApprovalPolicy.NEVER,
        execution=Execution(mode=ExecutionMode.MCP),
        attempts_max=2,
        timeout_s=5400.0,
        priority=-3,
        suspend=Suspend(reason="later", until="2026-03-01T09:00:00Z"),
        cancel="by mistake",
        proves=("t/tests", "t/docs"),
        labels=("nightly",),
        rerun=2,
    )


@pytest.mark.parametrize(
    ("written", "suspend"), [("true", Suspend()), ("false", None), ("{reason: x}", Suspend(reason="x"))]
)
def test_a_suspension_is_a_truth_value_or_a_reason(written: str, suspend: Suspend | None) -> None:
    request = parse.parse_request(f"task: t\npipeline: p\nsuspend: {written}\n".encode(), REQUEST, CONTRACTS)
    assert isinstance(request, Request)
    assert request.suspend == suspend


def test_keys_that_few_use_have_their_fields() -> None:
    data = b"{task: t, pipeline: p, after: [a, b], concurrency: {group: g, on_conflict: cancel_running}}"
    request = parse.parse_request(data, REQUEST, CONTRACTS)
    assert isinstance(request, Request)
    assert request.after == ("a", "b")
    assert request.concurrency == Concurrency(group="g", on_conflict="cancel_running")
    data = b"{run: a-1a2b3c4d, stage: s, decision: approve, reason: ok}"
    approval = parse.parse_approval(data, REQUEST, CONTRACTS)
    assert isinstance(approval, Approval)
    assert (approval.run, approval.stage, approval.decision) == ("a-1a2b3c4d", "s", "approve")
    data = b"stages: [{id: a, guard: specs, approval: {reason: r}, when: 'true', requires_cloud: true}]"
    pipeline = parse.parse_pipeline(data, PIPELINE, CONTRACTS)
    assert isinstance(pipeline, Pipeline)
    assert pipeline.stages == (
        Stage(id=StageId("a"), guard={"use": "specs"}, approval={"reason": "r"}, when="true", requires_cloud=True),
    )


def test_a_problem_says_where_it_is_in_both_ways() -> None:
    rejection = parse.parse_request(b"task: t\npipeline: p\nlabels: [a, B, c]\nx/y~z: 1\n", REQUEST, CONTRACTS)
    assert isinstance(rejection, Rejection)
    places = [(each.line, each.column, each.pointer, each.rule) for each in rejection.problems]
    assert places == [(3, 13, "/labels/1", "wrong-form"), (4, 1, "/x~1y~0z", "unknown-key")]


# ---------------------------------------------------------------------------------------------- pipelines


def test_a_pipeline_may_say_all_it_can() -> None:
    data = b"""
    title: Diagnostics
    description: All of it.
    workspace: empty
    parameters: {python: {default: "3.12", pattern: "3\\\\.\\\\d+", description: x}, any: {}}
    guardrails_required: false
    stages:
      - id: build
        command: make build
      - id: lint
        title: Lint
        command: [ruff, check, .]
        cwd: src
        env: {CI: "1"}
        needs: []
        timeout: 10m
        attempts_max: 2
        backoff: 500ms
        allow_failure: true
        summary_hint: findings
        role: test
        requires_cloud: false
    """
    assert parse.parse_pipeline(data, PIPELINE, CONTRACTS) == Pipeline(
        id=PipelineId("diagnostics"),
        source=PIPELINE,
        title="Diagnostics",
        description="All of it.",
        workspace=Workspace.EMPTY,
        parameters={
            "python": Parameter(default="3.12", pattern="3\\.\\d+", description="x"),
            "any": Parameter(),
        },
        stages=(
            Stage(id=StageId("build"), command="make build"),
            Stage(
                id=StageId("lint"),
                title="Lint",
                command=("ruff", "check", "."),
                cwd="src",
                env={"CI": "1"},
                needs=(),
                timeout_s=600.0,
                attempts_max=2,
                backoff_s=0.5,
                allow_failure=True,
                summary_hint="findings",
                role=Role.TEST,
            ),
        ),
    )


@pytest.mark.parametrize(
    "needs",
    [
        ["", "", ""],
        [", needs: []", ", needs: [a]", ", needs: [a, b]"],
        [", needs: [c]", ", needs: [a]", ", needs: []"],
        [", needs: []", "", ", needs: [b, a]"],
    ],
)
def test_needs_without_a_circle_are_fine_in_any_order(needs: list[str]) -> None:
    stages = ", ".join(f"{{id: {each}, command: x{need}}}" for each, need in zip("abc", needs, strict=True))
    assert isinstance(parse.parse_pipeline(f"stages: [{stages}]".encode(), PIPELINE, CONTRACTS), Pipeline)


def test_a_long_circle_is_shortened_in_the_message() -> None:
    stages = "".join(
        f"  - {{id: stage-{each}, command: x, needs: [stage-{(each + 1) % 190}]}}\n" for each in range(190)
    )
    (reason,) = said(parse.parse_pipeline(b"stages:\n" + stages.encode(), PIPELINE, CONTRACTS))
    assert reason.startswith("stages need each other: stage-0 -> stage-1 -> ")
    assert len(reason) < 120


@pytest.mark.parametrize(
    "value",
    [
        {"stages": 1},
        {"stages": [1, None, []]},
        {"stages": {"id": "a"}},
        {"stages": {"x": {"id": "a", "needs": {"y": "a"}}, "[]": {"id": "a"}, "*": {"id": "a"}}},
        {"stages": [{"id": 1, "needs": "a"}, {"id": ["a"], "needs": [1, None, {}]}]},
        {"parameters": [1]},
        {"parameters": {"a": 1, "b": {"pattern": 1}, "c": {"pattern": "x", "default": [1]}}},
        {"stages": [{"id": "a", "needs": [["a"]], "pipeline": [1], "timeout": 1}]},
    ],
)
def test_sense_is_looked_for_even_in_what_has_none(value: object) -> None:
    data = json.dumps(value).encode()
    assert isinstance(parse.parse_pipeline(data, PIPELINE, CONTRACTS), Rejection)


def test_a_contract_is_all_that_parsing_needs() -> None:
    lenient: Contract = Lenient()
    request = parse.parse_request(b"task: Any Thing\npipeline: p\n", REQUEST, lenient)
    assert isinstance(request, Request)
    assert request.task == "Any Thing"


@pytest.mark.parametrize(
    "pattern", ["3\\.\\d+", "(a|b)", "(ab)*", "[(a+)+]*", "\\(a+\\)+", "(?:x-){2}y*", "(?P<n>a+)b"]
)
def test_ordinary_patterns_are_accepted(pattern: str) -> None:
    assert parse.pattern_fault(pattern, length_max=200) == ""


@pytest.mark.parametrize(
    "pattern", ["(a+)+", "(a|a)*b", "(?:a*)*", "((a+))+", "(a?){50}", "(x(a+)y)*", "(?P<n>a+)+", "(a{2,})*"]
)
def test_patterns_that_may_take_for_ever_are_not(pattern: str) -> None:
    assert "can take for ever" in parse.pattern_fault(pattern, length_max=200)


@pytest.mark.parametrize(
    "pattern", ["(", "[", "a**", "(?P<n>a)(?P<n>b)", "x{99999999999999}", "(" * 150 + ")" * 150, "\\g"]
)
def test_what_is_no_pattern_is_told(pattern: str) -> None:
    fault = parse.pattern_fault(pattern, length_max=500)
    assert "is no regular expression" in fault or pattern.startswith("((")


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0), ("7d", 604800.0), ("250ms", 0.25), ("0s", 0.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "1 s", "1S", "1w", "1e3s", "1s\n", "\u0661s", "9999999s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration such as 90s, 10m, 2h or 7d"):
        parse.parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"), [("0B", 0), ("64KiB", 65536), ("1MB", 1_000_000), ("1MiB", 1048576), ("2GB", 2 * 10**9)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "64", "64K", "64kib", "1.5MB", "-1B", "1B\n", "1 B"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size such as 64KiB or 1MB"):
        parse.parse_size(text)


# ---------------------------------------------------------------------------------------------- contracts


def test_a_file_that_keeps_its_schema_never_loads_the_slow_validator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    assert Contracts().check("request", {"task": "t", "pipeline": "p"}) == ()


@pytest.mark.parametrize("value", [{"task": "t", "pipeline": "p"}, {"task": "T\n"}, {"task": "t\n", "pipeline": "p"}])
def test_without_the_fast_validator_the_findings_are_the_same(value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    found = CONTRACTS.check("request", value)
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    assert Contracts().check("request", value) == found


def test_a_thousand_violations_are_told_as_fifty() -> None:
    assert len(CONTRACTS.check("request", {f"key-{each}": 1 for each in range(1000)})) == 50


def test_alternatives_and_lengths_are_told_by_the_one_that_was_meant(tmp_path: Path) -> None:
    schema = '{"properties": {"a": {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "array", "maxItems": 1}]}}}'
    (tmp_path / "x.schema.json").write_text(schema)
    contracts = Contracts(tmp_path)
    assert [each.reason for each in contracts.check("x", {"a": "abc"})] == ["'a' has 3 characters"]
    assert [each.reason for each in contracts.check("x", {"a": ["b", "c"]})] == ["'a' has 2 items"]
    assert [each.reason for each in contracts.check("x", {"a": {}})] == ["'a' is a mapping, expected text or a list"]


def test_a_schema_never_asks_the_network(tmp_path: Path) -> None:
    (tmp_path / "x.schema.json").write_text('{"$ref": "https://example.com/other.schema.json"}')
    with pytest.raises(Exception, match=r"example\.com"):
        Contracts(tmp_path).check("x", {})


# ---------------------------------------------------------------------------------------------- anything at all

Parser = Callable[[bytes, Source, Contract], object]
PARSERS: list[tuple[Parser, Source, type]] = [
    (parse.parse_request, REQUEST, Request),
    (parse.parse_pipeline, PIPELINE, Pipeline),
    (parse.parse_approval, Source(path="runs.d/a.approval.yaml"), Approval),
    (parse_settings, Source(path="reconciler.yaml"), Settings),
]
SEEDS = [
    "task: t\npipeline: p\ntimeout: 10m\nlabels: [a, b]\nsuspend: {until: '2026-03-01T09:00:00Z'}\n",
    "parameters: {x: {default: a, pattern: 'a|b'}}\nstages:\n"
    "  - id: a\n    command: [x]\n    needs: []\n  - {id: b, command: y}\n",
    "run: a-1a2b3c4d\nstage: s\ndecision: approve\nreason: ok\n",
    "heartbeat: {interval: 5s, stale_after: 30s}\nchecklists: ['tasks/*.md']\nredact: {patterns: [a+]}\ngrace: 10s\n",
]
SIGNS = "[]{}:,-?&*!|>'\"%@`#~\t\n\\ \x00\ufeff\u2028\u00e9\U0001f600"
WORDS = ("<<: ", "---\n", "...\n", "1", "0o7", ".nan", "1e999", "true", "&a ", "*a", "!!str ", '"\\ud800"')
LINES = ("id: ", "needs: [a, b]", "\n  - ", "a: ", "9" * 30)
FRAGMENTS = st.sampled_from([*SIGNS, *WORDS, *LINES])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A file that once was good, with pieces cut out, put in or said twice."""
    text = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 12)))
        middle = draw(st.one_of(FRAGMENTS, st.just(""), st.just(text[start:end] * 2), st.text(max_size=4)))
        text = text[:start] + middle + text[end:]
    return text.encode(errors="surrogatepass")


KEYS = st.sampled_from(
    [
        "task",
        "pipeline",
        "stages",
        "id",
        "needs",
        "command",
        "parameters",
        "pattern",
        "default",
        "suspend",
        "until",
        "after",
        "execution",
        "mode",
        "timeout",
        "heartbeat",
        "interval",
        "redact",
        "patterns",
        "a",
        "[]",
        "*",
        "a.b",
    ]
)
TEXTS = st.sampled_from(["a", "b", "p", "diagnostics", "1s", "0s", "(", "2026-02-30T00:00:00Z", "cloud", ""])
STRUCTURES = st.recursive(
    st.one_of(TEXTS, st.integers(), st.booleans(), st.none()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)


def check_that_it_is_a_value(data: bytes) -> None:
    for parser, source, kind in PARSERS:
        value = parser(data, source, CONTRACTS)
        assert isinstance(value, kind | Rejection)
        if isinstance(value, Rejection):
            assert value.problems
            assert all(each.reason and each.rule and "\n" not in each.sentence() for each in value.problems)


@given(st.binary(max_size=200))
def test_random_bytes_always_become_a_value(data: bytes) -> None:
    check_that_it_is_a_value(data)


@given(st.dictionaries(KEYS, STRUCTURES, max_size=4))
def test_known_keys_with_any_values_always_become_a_value(value: object) -> None:
    check_that_it_is_a_value(json.dumps(value).encode())


@given(mutated())
def test_mutated_files_always_become_a_value(data: bytes) -> None:
    check_that_it_is_a_value(data)


@given(mutated())
def test_mutated_files_always_become_a_value_without_the_c_parser(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "_ruamel_yaml", None)
        check_that_it_is_a_value(data)


@given(st.text(max_size=120))
def test_any_path_gives_a_name_or_a_problem(text: str) -> None:
    for path in (text, f"runs.d/{text}.yaml"):
        name = parse.request_name(path)
        assert isinstance(name, Problem) or parse._ID.fullmatch(name)
