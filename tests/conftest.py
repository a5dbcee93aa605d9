"""What every test has: git that knows nothing of this machine, and a repository to try things in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scratch import ENVIRONMENT, Scratch


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let git and the reconciler read nothing that the person at this machine has configured."""
    for name, value in ENVIRONMENT.items():
        if name.startswith("GIT_"):
            monkeypatch.setenv(name, value)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Scratch]:
    repository = Scratch(tmp_path)
    yield repository
    repository.kill()
