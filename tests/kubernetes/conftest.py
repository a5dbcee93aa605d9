"""The place where the engine is tried: a cluster where the environment names one, else the stand-in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.bench import CLUSTER, Bench, real, stand_in


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """An engine at whatever cluster there is."""
    made = real(tmp_path, os.environ) if os.environ.get(CLUSTER) else stand_in(tmp_path)
    with made as found:
        yield found


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Bench]:
    """An engine at the stand-in: for what no cluster can be asked to do."""
    if os.environ.get(CLUSTER):
        pytest.skip("only the stand-in can be made to do this")
    with stand_in(tmp_path) as found:
        yield found
