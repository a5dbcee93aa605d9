"""What the tests start: a process of ours that was forked is waited for as any other."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import preloaded


def test_several_threads_may_wait_for_one_process(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        for _ in range(10):
            started = preloaded.start(["--version"], cwd=tmp_path, env=dict(os.environ))
            waiting = [threads.submit(started.wait, 60) for _ in range(4)]
            out, err = started.communicate(timeout=60)
            assert (started.returncode, err) == (0, "") and out.startswith("reconciler, version ")
            assert [each.result() for each in waiting] == [0] * 4
