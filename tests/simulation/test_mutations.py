"""Every breakage that is tried on purpose speaks of a text that is there."""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_a_breakage_finds_its_text_exactly_once(mutation: Mutation) -> None:
    text = (ROOT / "reconciler" / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: each.name)
def test_a_breakage_puts_one_text_in_the_place_of_another(mutation: Mutation) -> None:
    assert isinstance(mutation.old, str)
    assert isinstance(mutation.new, str)
    assert mutation.old != mutation.new
