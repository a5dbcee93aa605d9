"""What tests of several machines have: a repository that their clones share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import end_all
from tests.scratch import Hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    shared = Hub(tmp_path)
    try:
        yield shared
    finally:
        end_all(tmp_path)
