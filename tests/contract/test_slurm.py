"""The engine slurm keeps to what every engine keeps to, on a real cluster; and its commands are bounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconciler.executors import slurm_words as words
from reconciler.executors.engine import EngineSilent, Submission
from reconciler.executors.slurm import Slurm
from reconciler.executors.slurm_commands import Commands
from reconciler.work import handle_of
from tests.contract.engines import Bench, EngineContract
from tests.slurm import Cluster, cluster

NAMES: list[str] = []
"""Of all attempts, because the cluster remembers those of other tests."""


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    with cluster() as found:
        yield found


@pytest.fixture
def bench(slurm: Cluster, tmp_path: Path) -> Bench:
    @contextmanager
    def away() -> Iterator[None]:
        slurm.kill("slurmctld")
        yield
        slurm.start("slurmctld")
        slurm.wait_until_idle()

    return Bench(
        open=slurm.engine, shared=tmp_path, away=away, kept=(slurm.place,), patience_s=60.0, look_s=0.1, names=NAMES
    )


@pytest.mark.xdist_group("slurm")
class TestSlurm(EngineContract):
    pass


# ------------------------------------------------------------------------------------------------ its commands


def submission(name: str) -> Submission:
    handle = handle_of("0a1b2c3d", f"{name}-1a2b3c4d", 1)
    return Submission(
        handle=handle, repository="0a1b2c3d", run_id=f"{name}-1a2b3c4d", task_id="t", number=1, arguments=()
    )


A, B, C = map(submission, "abc")


def command(place: Path, name: str, script: str) -> None:
    path = place / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_command_is_bounded_in_time_and_words(tmp_path: Path) -> None:
    command(tmp_path, "slow", "echo waits >&2; exec sleep 100")
    command(tmp_path, "loud", "exec cat /dev/zero")
    command(tmp_path, "left", "sleep 100 & echo done")
    with pytest.raises(EngineSilent, match="slow: no answer in time: waits"):
        Commands(str(tmp_path), "", 0.5).run("slow", ())
    with pytest.raises(EngineSilent, match="loud: it says more than"):
        Commands(str(tmp_path), "", 20.0).run("loud", ())
    with pytest.raises(EngineSilent, match="left: no answer in time"):
        Commands(str(tmp_path), "", 0.5).run("left", ())


def test_a_command_is_told_by_standard_input_and_sees_little_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "elsewhere")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    command(tmp_path, "told", "cat; env; umask; echo oops >&2; exit 3")
    command(tmp_path, "deaf", "exit 0")
    feed = "x" * 300_000
    said = Commands(str(tmp_path), "/etc/slurm.conf", 20.0).run("told", (), feed)
    assert (said.status, said.complaint) == (3, "oops\n")
    assert said.output.startswith(feed)
    rest = said.output[len(feed) :]
    assert "SLURM_CONF=/etc/slurm.conf" in rest and "0077" in rest
    assert "SBATCH" not in rest and "SECRET_TOKEN" not in rest
    assert Commands(str(tmp_path), "", 20.0).run("deaf", (), feed).status == 0


def test_a_cluster_that_is_full_turns_them_away(tmp_path: Path) -> None:
    command(tmp_path, "squeue", "exit 0")
    command(
        tmp_path,
        "sbatch",
        "echo 'sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying' >&2; exec sleep 100",
    )
    engine = Slurm(words.Options(commands=str(tmp_path)), 1.0)
    turned = engine.submit([A, B])
    assert turned.keys() == {A.handle, B.handle}
    assert not any(each.settled for each in turned.values())


def test_where_arrays_are_refused_each_is_submitted_by_itself(tmp_path: Path) -> None:
    command(tmp_path, "squeue", "exit 0")
    command(
        tmp_path,
        "sbatch",
        f"""echo "$@" >> {tmp_path}/said
case "$*" in *--array*) echo 'sbatch: error: Batch job submission failed: Invalid job array specification' >&2; exit 1;;
*b-0a1b*) echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; exit 1;; esac""",
    )
    engine = Slurm(words.Options(commands=str(tmp_path)))
    turned = engine.submit([A, B, C])
    assert turned.keys() == {B.handle, C.handle}
    assert len((tmp_path / "said").read_text().splitlines()) == 3
