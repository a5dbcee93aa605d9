"""How a worker that is under way learns of a secret: by a pipe without a name, from whoever may look at it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler import ear, process
from reconciler.ear import Ear, tell

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc to reach a worker by")
SECRET = "a secret ü with a quote \" and 'more'"


@pytest.fixture
def found(tmp_path: Path) -> Iterator[Ear]:
    with contextlib.closing(Ear(tmp_path)) as made:
        yield made


def test_what_is_told_is_heard_once_and_no_name_is_left(found: Ear, tmp_path: Path) -> None:
    assert list(tmp_path.iterdir()) == []
    assert found.hear() == ()
    assert tell(process.myself(), SECRET) and tell(process.myself(), "another one")
    assert found.hear() == (SECRET, "another one")
    assert found.hear() == ()


def test_another_process_hears_it(tmp_path: Path) -> None:
    code = """
        import pathlib, select, sys
        sys.path.insert(0, sys.argv[1])
        from reconciler.ear import Ear
        ear = Ear(pathlib.Path(sys.argv[2]))
        print(flush=True)
        select.select([ear.descriptor], [], [], 20)
        print(ear.hear(), flush=True)
    """
    words = [sys.executable, "-c", textwrap.dedent(code), str(Path(ear.__file__).parents[1]), str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None and worker.stdout.readline() == "\n"
        known = process.identify(worker.pid)
        assert known is not None
        assert not tell(replace(known, start_ticks=known.start_ticks + 1), SECRET), "its pid alone names nobody"
        assert tell(known, SECRET)
        assert worker.stdout.readline() == f"{(SECRET,)}\n"
    assert not tell(known, SECRET)


def test_torn_and_endless_lines_are_no_secrets(found: Ear) -> None:
    assert found.descriptor is not None
    for each in (b"zz\n\n", b"6f6\n", b"ff\n"):
        os.write(found.descriptor, each)
    assert found.hear() == ()
    for _ in range(4):
        os.write(found.descriptor, b"z" * ear.READ_BYTES)
        assert found.hear() == ()
    assert tell(process.myself(), "a secret")
    assert found.hear() == ("a secret",)


def test_who_does_not_listen_is_not_told_and_may_be_asked_again(tmp_path: Path) -> None:
    assert not tell(process.myself(), SECRET)
    found = Ear(tmp_path)
    long = "x" * 16_000
    told = 0
    while tell(process.myself(), long):
        told += 1
    assert told and found.hear() == (long,) * told
    assert tell(process.myself(), long)
    assert found.hear() == (long,)
    found.close()
    assert not tell(process.myself(), SECRET)


def test_a_worker_without_a_pipe_hears_nothing(tmp_path: Path) -> None:
    assert Ear(tmp_path / "gone").hear() == ()
