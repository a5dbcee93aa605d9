"""Conditions: what may be said, what it means, and what cannot be judged."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.condition import ConditionError, fault, holds

NAMES = {
    "parameters": {"full": True, "python": "3.12", "count": 3, "status": "even"},
    "stages": {"build": {"status": "succeeded"}, "unit-tests": {"status": "failed"}},
    "labels": ["nightly"],
    "attempt": 2,
    "target": "",
}
CHANGED = ("src/a.py", "README.md")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("true", True),
        ("not true", False),
        ("parameters.full == true", True),
        ("parameters.python == '3.12' and parameters.count >= 3", True),
        ("stages.build.status == 'succeeded'", True),
        ("stages['unit-tests'].status in ['failed', 'skipped']", True),
        ("'nightly' in labels or attempt > 5", True),
        ("changed('src/*')", True),
        ("changed('docs/*', '*.toml')", False),
        ("changed('docs/*', 'README.md')", True),
        ("target == 'ship'", False),
        ("parameters.status == 'odd'", False),
        ("-1 < parameters.count < 4", True),
    ],
)
def test_a_condition_means(text: str, meaning: bool) -> None:
    assert fault(text, NAMES["parameters"], NAMES["stages"]) == ""  # type: ignore[arg-type]
    assert holds(text, NAMES, CHANGED) is meaning


@pytest.mark.parametrize(
    "text",
    [
        "().__class__.__bases__[0].__subclasses__()",
        "parameters.__class__",
        "labels.append('x')",
        "open('/etc/passwd')",
        "lambda: 1",
        "9 ** 9 ** 9",
        "'a' * 1000000000",
        "{1: 2}",
        "f'{parameters}'",
        "(x := 1)",
        "parameters['full'].real.imag",
        "changed()",
        "changed(*labels)",
        "changed(name='x')",
        "",
        "true; false",
        "not " * 500 + "true",
        "(" * 500,
        "stages.ship.status == 'x'",
        "stages['ship'].status == 'x'",
        "changed",
        "not changed",
        "parameters",
        "stages.build == 'failed'",
        "stages['build']",
        "stages.build.status == 'fialed'",
        "'passed' != stages['unit-tests'].status",
    ],
)
def test_what_is_no_condition_is_told_and_never_judged(text: str) -> None:
    assert fault(text, NAMES["parameters"], NAMES["stages"])  # type: ignore[arg-type]
    with pytest.raises(ConditionError):
        holds(text, NAMES, CHANGED)


@pytest.mark.parametrize("text", ["parameters.count < 'a'", "labels[7] == 'x'", "labels['a']"])
def test_what_makes_no_sense_with_these_values_cannot_be_judged(text: str) -> None:
    with pytest.raises(ConditionError):
        holds(text, NAMES, CHANGED)


@given(st.text(max_size=60))
def test_any_text_is_judged_or_told(text: str) -> None:
    if not fault(text, NAMES["parameters"], NAMES["stages"]):  # type: ignore[arg-type]
        with contextlib.suppress(ConditionError):
            assert holds(text, NAMES, CHANGED) in (True, False)
