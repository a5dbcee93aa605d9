"""The engine `kubernetes` keeps to what every engine keeps to, at the stand-in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.engines import PROGRAM, Bench, EngineContract
from tests.kubernetes.bench import CLUSTER, stand_in
from tests.kubernetes_server import Server


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    if os.environ.get(CLUSTER):
        pytest.skip("the programs of this suite and the test share a directory")
    shared, kept = tmp_path / "shared", tmp_path / "kept"
    shared.mkdir()
    kept.mkdir()
    with stand_in(kept, program=PROGRAM) as found:

        @contextlib.contextmanager
        def away() -> Iterator[None]:
            assert found.server is not None and found.stand_in is not None
            port = found.server.server_address[1]
            found.server.stop()
            yield
            found.server = Server(found.stand_in, port=port)

        yield Bench(open=found.open, shared=shared, away=away, patience_s=60.0)
        if found.server is not None:
            found.server.stop()


class TestKubernetes(EngineContract):
    pass
