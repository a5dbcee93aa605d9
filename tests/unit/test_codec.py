"""Records to JSON and back: every value survives, and nothing that is not exactly a record is taken for one."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler import codec, model
from reconciler.codec import CodecError
from reconciler.model import (
    CancelIntent,
    Claim,
    End,
    Heartbeat,
    Instant,
    Outcome,
    Problem,
    Process,
    Refusal,
    Request,
    Severity,
    Stage,
    StageId,
)

RECORDS = [each for each in vars(model).values() if is_dataclass(each)]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a type as `model` writes it."""
    kind = getattr(kind, "__supertype__", kind)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return st.one_of([values(each) for each in get_args(kind)])
    if kind is type(None):
        return st.none()
    if origin is tuple:
        return st.lists(values(get_args(kind)[0]), max_size=2).map(tuple)
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(st.text(max_size=5), values(get_args(kind)[1]), max_size=2)
    if kind is object:
        return JSON
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{each.name: values(hints[each.name]) for each in fields(kind)})
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    return {
        str: st.text(max_size=10),
        int: st.integers(),
        bool: st.booleans(),
        float: st.floats(allow_nan=False, allow_infinity=False),
    }[kind]


# ------------------------------------------------------------------------------------------------ round trips


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_every_value_survives(kind: type, data: st.DataObject) -> None:
    value = data.draw(values(kind))
    for spell in (codec.render, codec.compact, codec.canonical):
        assert codec.parse(kind, spell(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        Instant(at="2026-03-01T12:00:00Z", monotonic_s=1e-9, boot_id=""),
        Instant(at='"\\\n\u2028\x00🦊', monotonic_s=-0.0, boot_id="\x7f"),
        Process(pid=2**63, start_ticks=-1, boot_id="b"),
        Stage(id=StageId("a"), command="make build"),
        Stage(id=StageId("a"), command=("make", "build", "")),
        Stage(id=StageId("a"), command=(), agent={"use": "codex", "budget": {"tokens": 1}, "none": None}),
        Problem(path="a", reason="b", rule="c", severity=Severity.WARNING),
    ],
)
def test_these_values_survive_too(value: Any) -> None:
    assert codec.parse(type(value), codec.render(value)) == value


@pytest.mark.parametrize("given", [True, False, 0, 1, 1.0, 0.5, "1", "", "true"])
def test_a_parameter_keeps_its_type(given: object) -> None:
    source = {"path": "runs.d/a.yaml"}
    document = {"name": "a", "source": source, "task": "t", "pipeline": "p", "parameters": {"x": given}}
    read = codec.parse(Request, json.dumps(document).encode()).parameters["x"]
    assert (type(read), read) == (type(given), given)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_a_value_is_spelled_as_the_standard_library_spells_it(kind: type, data: st.DataObject) -> None:
    value = data.draw(values(kind))
    plain = codec.dump(value)
    exact = {"ensure_ascii": False, "allow_nan": False}
    assert codec.render(value) == json.dumps(plain, indent=2, **exact).encode() + b"\n"
    assert codec.compact(value) == json.dumps(plain, **exact).encode() + b"\n"
    assert codec.canonical(value) == json.dumps(plain, sort_keys=True, separators=(",", ":"), **exact).encode()


@pytest.mark.parametrize("spell", [codec.render, codec.compact, codec.canonical])
@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": {1, 2}}, {"a": b"bytes"}, 1j])
def test_what_json_cannot_say_is_not_spelled(spell: Any, value: object) -> None:
    with pytest.raises(ValueError):
        spell(value)


@pytest.mark.parametrize("spell", [codec.render, codec.compact, codec.canonical])
def test_what_utf8_cannot_say_is_spelled_out(spell: Any) -> None:
    assert (
        codec.parse(Process, spell(Process(pid=1, start_ticks=2, boot_id="a\udcff\u00e9"))).boot_id == "a\\udcff\u00e9"
    )


def test_keys_that_are_equal_may_be_spelled_in_different_ways() -> None:
    assert [codec.compact({key: 0}) for key in (1, True, "1", 1.0)] == [
        b'{"1": 0}\n', b'{"True": 0}\n', b'{"1": 0}\n', b'{"1.0": 0}\n',
    ]  # fmt: skip


def test_equal_bytes_are_one_value_only_where_nobody_can_change_it() -> None:
    assert codec.parse(Process, PROCESS) is codec.parse(Process, bytes(bytearray(PROCESS)))

    @dataclass
    class Open:
        number: int

    assert codec.parse(Open, b'{"number": 1}') is not codec.parse(Open, b'{"number": 1}')


# ------------------------------------------------------------------------------------------------ strictness

PROCESS = b'{"pid": 1, "start_ticks": 2, "boot_id": "b"}'
REFUSAL = {"number": 1, "at": "now", "actor": "a", "reason": "r", "detail": "d"}


@pytest.mark.parametrize(
    ("kind", "data", "words"),
    [
        (Process, b"", "not JSON"),
        (Process, b"\xff\xfe\xff", "not JSON"),
        (Process, b"{'pid': 1}", "not JSON"),
        (Process, PROCESS + b"x", "not JSON"),
        (Process, PROCESS[:-1], "not JSON"),
        (Process, b"[" * 100_000, "not JSON"),
        (Process, b"[" * 100_000 + b"]" * 100_000, "not JSON"),
        (Process, b'{"pid": ' + b"9" * 5000 + b"}", "not JSON"),
        (Process, b"null", "document is NoneType, expected an object"),
        (Process, b"[]", "document is list, expected an object"),
        (Process, b'"{}"', "document is str, expected an object"),
        (Process, b"{}", "document lacks boot_id, pid, start_ticks"),
        (Process, b'{"pid": 1, "boot_id": "b"}', "document lacks start_ticks"),
        (Process, PROCESS[:-1] + b', "more": 1}', "document has unknown more"),
        (Process, PROCESS.replace(b"1", b'"1"'), "/pid is str, expected int"),
        (Process, PROCESS.replace(b"1", b"1.0"), "/pid is float, expected int"),
        (Process, PROCESS.replace(b"1", b"true"), "/pid is bool, expected int"),
        (Process, PROCESS.replace(b"1", b"null"), "/pid is NoneType, expected int"),
        (Process, PROCESS.replace(b'"b"', b"1"), "/boot_id is int, expected str"),
        (Heartbeat, b'{"interval_s": "5"}', "/interval_s is str, expected float"),
        (Heartbeat, b'{"interval_s": true}', "/interval_s is bool, expected float"),
        (Refusal, json.dumps(REFUSAL | {"number": [1]}).encode(), "/number is list, expected int"),
    ],
)
def test_what_is_not_a_record_is_refused_with_the_reason(kind: type, data: bytes, words: str) -> None:
    with pytest.raises(CodecError) as refused:
        codec.parse(kind, data)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "number",
    ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", pytest.param("9" * 400, id="longer than any float")],
)
def test_a_number_that_is_none_is_refused(number: str) -> None:
    with pytest.raises(CodecError):
        codec.parse(Heartbeat, f'{{"interval_s": {number}}}'.encode())


@pytest.mark.parametrize(
    ("place", "wrong", "words"),
    [
        (("claimed", "monotonic_s"), "soon", "/claimed/monotonic_s is str"),
        (("claimed", "boot_id"), None, "/claimed/boot_id is NoneType"),
        (("claimer",), None, "/claimer is NoneType"),
        (("claimer", "pid"), 1.5, "/claimer/pid is float"),
        (("number",), None, "/number is NoneType"),
    ],
)
def test_the_reason_names_the_place(place: tuple[str, ...], wrong: object, words: str) -> None:
    document: Any = codec.dump(CLAIM)
    inner = document
    for each in place[:-1]:
        inner = inner[each]
    inner[place[-1]] = wrong
    with pytest.raises(CodecError) as refused:
        codec.load(Claim, document)
    assert words in str(refused.value)


@pytest.mark.parametrize("outcome", ["Succeeded", "done", "", None, 1, [], {}])
def test_a_word_outside_the_list_is_refused(outcome: object) -> None:
    document = {"number": 1, "at": "now", "outcome": outcome, "detail": ""}
    with pytest.raises(CodecError):
        codec.load(End, document)
    assert codec.load(End, document | {"outcome": "failed"}).outcome is Outcome.FAILED


@settings(deadline=None, max_examples=200)
@given(JSON, st.sampled_from(RECORDS))
def test_reading_any_json_gives_a_record_or_a_reason(document: object, kind: type) -> None:
    try:
        assert isinstance(codec.load(kind, document), kind)
    except CodecError as error:
        assert str(error)


@settings(deadline=None, max_examples=200)
@given(st.binary(), st.sampled_from(RECORDS))
def test_reading_any_bytes_gives_a_record_or_a_reason(data: bytes, kind: type) -> None:
    try:
        assert isinstance(codec.parse(kind, data), kind)
    except CodecError as error:
        assert str(error)


# ------------------------------------------------------------------------------------------------ spelling

MOMENT = Instant(at="2026-03-01T12:00:00.000Z", monotonic_s=1.5, boot_id="boot")
CLAIM = Claim(
    number=2,
    series=1,
    claimed=MOMENT,
    claimer=Process(pid=10, start_ticks=20, boot_id="boot"),
    reason="é",
    actor="ann",
    plan="plan.json",
    plan_digest="d" * 64,
    commit="c" * 40,
)


def test_a_record_is_spelled_like_this() -> None:
    intent = CancelIntent(number=1, at="2026-03-01T12:00:00.000Z", actor="ann", reason="très lent")
    line = '{"number": 1, "at": "2026-03-01T12:00:00.000Z", "actor": "ann", "reason": "très lent"}\n'
    assert codec.compact(intent).decode() == line
    assert codec.render(intent).decode().splitlines() == [
        "{",
        '  "number": 1,',
        '  "at": "2026-03-01T12:00:00.000Z",',
        '  "actor": "ann",',
        '  "reason": "très lent"',
        "}",
    ]
    assert codec.canonical(intent).decode() == (
        '{"actor":"ann","at":"2026-03-01T12:00:00.000Z","number":1,"reason":"très lent"}'
    )


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        ({"b": 1, "a": 2}, '{"a":2,"b":1}'),
        ({1: "x"}, '{"1":"x"}'),
        ((1, 1.0, True, None, "1"), '[1,1.0,true,null,"1"]'),
        (Outcome.FAILED, '"failed"'),
        ({"a": {"z": [], "y": {}}}, '{"a":{"y":{},"z":[]}}'),
        ("é\n\u2028", '"é\\n\u2028"'),
    ],
)
def test_the_canonical_spelling(value: object, spelled: str) -> None:
    assert codec.canonical(value).decode() == spelled


def _backwards(value: object) -> object:
    """Return the same JSON value with the keys of every mapping in the opposite order."""
    if isinstance(value, dict):
        return {key: _backwards(value[key]) for key in reversed(value)}
    return [_backwards(each) for each in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(JSON)
def test_the_canonical_spelling_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    assert codec.canonical(_backwards(value)) == codec.canonical(value)
    assert codec.digest(_backwards(value)) == codec.digest(value)
    assert codec.canonical(json.loads(codec.canonical(value))) == codec.canonical(value)


@pytest.mark.parametrize("left", [1, 1.0, True, "1", None, [], {}, "", [1], {"1": 1}])
@pytest.mark.parametrize("right", [1, 1.0, True, "1", None, [], {}, "", [1], {"1": 1}])
def test_different_values_have_different_digests(left: object, right: object) -> None:
    same = (type(left), left) == (type(right), right)
    assert (codec.digest(left) == codec.digest(right)) == same


def test_a_digest_is_the_same_in_every_version() -> None:
    assert codec.digest({"a": [1, 2.5, True, None, "é"]}) == (
        "523e3fdd616cbc548ed2fd27e3c4e852b1fcbc21d9b7795cce6278b65716ab7d"
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_json_cannot_say_is_not_written(value: float) -> None:
    for spell in (codec.render, codec.compact, codec.canonical):
        with pytest.raises(ValueError, match="JSON"):
            spell({"a": value})


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), Instant])
def test_what_has_no_json_form_is_refused(value: object) -> None:
    with pytest.raises(CodecError):
        codec.dump(value)
