"""Which engine an executor has: one of ours, one that a package brings, or none here."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from reconciler.errors import TransientError
from reconciler.executors.engine import EngineSilent, Renewing
from reconciler.executors.local_process import LocalProcess
from reconciler.executors.opening import open_engine
from reconciler.model import ExecutorSettings

PACKAGE = """
class Nomad:
    def __init__(self, opening):
        self.opening = opening
        if opening.options.get("broken"):
            raise ValueError("no address of a cluster")

    def observe(self, handles):
        return {each: {}[each] for each in handles}

    def logs(self, handle, bytes_max):
        return f"{self.opening.executor} {self.opening.options} {self.opening.directory}".encode()

def open_engine(opening):
    return Nomad(opening)
"""


@pytest.fixture
def nomad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a package that brings an engine, as pip would."""
    (tmp_path / "our_nomad.py").write_text(PACKAGE)
    about = tmp_path / "our_nomad-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: our-nomad\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[reconciler.executors]\nnomad = our_nomad:open_engine\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield tmp_path  # type: ignore[misc]
    sys.modules.pop("our_nomad", None)


def test_one_of_ours_is_opened_by_its_name(tmp_path: Path) -> None:
    assert isinstance(open_engine("far", ExecutorSettings(engine="process"), tmp_path), LocalProcess)


def test_a_package_brings_one_and_gets_its_options(nomad: Path, tmp_path: Path) -> None:
    found = open_engine("far", ExecutorSettings(engine="nomad", options={"region": "eu"}), tmp_path / "kept")
    told = f"far {{'region': 'eu'}} {tmp_path / 'kept'}"
    assert found.logs("a-handle", 1000).decode() == told


def test_whatever_it_throws_is_no_answer(nomad: Path, tmp_path: Path) -> None:
    found = open_engine("far", ExecutorSettings(engine="nomad"), tmp_path)
    with pytest.raises(EngineSilent, match="engine 'nomad' failed: KeyError: 'a-handle'"):
        found.observe(["a-handle"])


def test_one_that_can_renew_can_still_do_it(nomad: Path, tmp_path: Path) -> None:
    assert not isinstance(open_engine("far", ExecutorSettings(engine="nomad"), tmp_path), Renewing)
    (nomad / "our_nomad.py").write_text(
        PACKAGE + "\nNomad.renew = lambda self, secrets: [each for each in secrets if 1 / len(each)]\n"
    )
    sys.modules.pop("our_nomad", None)
    found = open_engine("far", ExecutorSettings(engine="nomad"), tmp_path)
    assert isinstance(found, Renewing) and list(found.renew({"a": {}})) == ["a"]
    with pytest.raises(EngineSilent, match="engine 'nomad' failed: ZeroDivisionError"):
        found.renew({"": {}})


def test_one_that_is_not_installed_is_named_with_its_cure(tmp_path: Path) -> None:
    with pytest.raises(TransientError, match=r"executor 'far' has no engine 'mesos'; install the package .*mesos"):
        open_engine("far", ExecutorSettings(engine="mesos"), tmp_path)


def test_what_a_package_throws_ends_no_pass(nomad: Path, tmp_path: Path) -> None:
    with pytest.raises(TransientError, match="engine 'nomad' cannot be used: no address of a cluster"):
        open_engine("far", ExecutorSettings(engine="nomad", options={"broken": True}), tmp_path)
