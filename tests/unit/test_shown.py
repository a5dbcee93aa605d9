"""What others wrote is shown whole or with a sign that it is not, and on one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.shown import cut, visible


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("# only a comment\ntouch x", "# only a comment⏎touch x"),
        ("make\n", "make"),
        ("a\r\nb", "a␍⏎b"),
        ("a\tb\u00a0c", "a b c"),
        ("\x1b[2Ja\x00\x7f", "␛[2Ja␀␡"),
        ("a\u202eb\u2028c\ud800", "a�b�c�"),
        ("é 漢 ⏎", "é 漢 ⏎"),
    ],
)
def test_what_cannot_be_printed_has_a_sign(text: str, seen: str) -> None:
    assert visible(text) == seen


@given(st.text())
def test_it_is_one_line_of_the_same_length_however_often_it_is_shown(text: str) -> None:
    seen = visible(text)
    assert seen.isprintable() and visible(seen) == seen
    assert len(seen) == len(text.rstrip("\n"))


def test_what_is_left_out_is_counted() -> None:
    assert cut("a" * 10, 10) == "a" * 10
    assert cut("a" * 11, 10) == "a" * 10 + "… (1 more character)"
    assert cut("a" * 99, 10, "git show x") == "a" * 10 + "… (89 more characters; git show x)"
