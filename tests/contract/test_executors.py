"""The engine `process` keeps to what every engine keeps to, and to what is its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from reconciler import process
from reconciler.confided import confide, withhold
from reconciler.executors.engine import Opening, Standing, Turned
from reconciler.executors.local_process import SECRETS_S, LocalProcess, open_engine
from reconciler.executors.ordering import bring_home, read_word
from reconciler.model import Outcome
from reconciler.work import KEY_VARIABLE, repository_of
from tests.contract.engines import PROGRAM, SECRET, Bench, EngineContract
from tests.placed import placed
from tests.scratch import Scratch, wait_for

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "schemas/executors/process.schema.json").read_bytes())


def opened(directory: Path, **options: Any) -> LocalProcess:
    return open_engine(Opening(executor="here", options={"program": PROGRAM, **options}, directory=directory))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    kept, shared = tmp_path / "kept", tmp_path / "shared"
    shared.mkdir()

    @contextlib.contextmanager
    def away() -> Iterator[None]:
        kept.write_text("this is no directory")
        yield
        kept.unlink()

    yield Bench(open=lambda: opened(kept), shared=shared, away=away, kept=(kept,), patience_s=20.0)
    for each in kept.glob("*.lock"):
        for holder in process.holders(each):
            process.send(holder, signal.SIGKILL)


class TestProcesses(EngineContract):
    pass


# ------------------------------------------------------------------------------------------------ its own


def test_how_it_ended_is_told_while_somebody_was_there(bench: Bench) -> None:
    engine = bench.open()
    well, badly, killed = (bench.submission(line) for line in ("exit 0", "exit 3", "kill -9 $$"))
    engine.submit([well, badly, killed])
    bench.until_over(engine, well.handle, badly.handle, killed.handle)
    seen = engine.observe([well.handle, badly.handle, killed.handle])
    assert [seen[each.handle].detail for each in (well, badly, killed)] == [
        "exit status 0",
        "exit status 3",
        "signal 9",
    ]
    assert {each.standing for each in seen.values()} == {Standing.ENDED}


def test_when_it_is_full_attempts_are_turned_away_until_one_has_ended(bench: Bench) -> None:
    engine = opened(bench.kept[0], processes_max=2)
    line = f"until test -e {bench.shared}/go; do sleep 0.05; done"
    one, two, three = (bench.submission(line) for _ in range(3))
    full = Turned(reason="2 of 2 processes are running; one of them has to end first")
    assert engine.submit([one, two, three]) == {three.handle: full}
    assert engine.submit([one, three]) == {three.handle: full}
    assert engine.observe([three.handle])[three.handle].standing == Standing.ABSENT
    (bench.shared / "go").touch()
    bench.until_over(engine, one.handle, two.handle)
    assert engine.submit([three]) == {}
    bench.until_over(engine, three.handle)


HOST = """
import os, signal, sys
from pathlib import Path
from reconciler.executors import local_process
from reconciler.executors.engine import Opening, Submission
from tests.contract.engines import Bench
class Killed(local_process.LocalProcess):
    def _spawn(self, each, lock):
        if sys.argv[3] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        started = super()._spawn(each, lock)
        if sys.argv[3] == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return started
shared = Path(sys.argv[2])
bench = Bench(open=None, shared=shared)
engine = Killed(Path(sys.argv[1]), local_process.Options(program=("/bin/sh",)))
engine.submit([bench.submission(f"echo x >> {shared}/ran; until test -e {shared}/go; do sleep 0.05; done")])
"""


def test_in_a_copy_of_the_directory_nobody_ends_what_the_original_executes(bench: Bench, tmp_path: Path) -> None:
    engine, one = bench.open(), bench.submission(f"until test -e {bench.shared}/go; do sleep 0.05; done")
    engine.submit([one])
    bench.until_there(bench.kept[0] / f"{one.handle}.began")
    shutil.copytree(bench.kept[0], tmp_path / "copy")
    copy = opened(tmp_path / "copy")
    assert copy.observe([one.handle])[one.handle].standing == Standing.ENDED, "nothing of the copy executes it"
    copy.cancel([one.handle])
    copy.observe([one.handle])
    assert copy.submit([one]) == {}
    assert engine.observe([one.handle])[one.handle].standing == Standing.RUNNING
    (bench.shared / "go").touch()
    bench.until_over(engine, one.handle)
    assert engine.observe([one.handle])[one.handle].detail == "exit status 0"


def test_what_the_host_asked_a_variable_for_is_not_inherited(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORGE_PASS", "0f-7he-h0s7-a10ne")
    monkeypatch.setenv("SLACK_ADDRESS", "n0t-asked-yet")
    confide("0f-7he-h0s7-a10ne")
    withhold(["SLACK_ADDRESS"])
    engine, one = (
        bench.open(),
        bench.submission(f"env > {bench.shared}/env.part; mv {bench.shared}/env.part {bench.shared}/env"),
    )
    engine.submit([one])
    bench.until_there(bench.shared / "env")
    said = (bench.shared / "env").read_text()
    assert "PATH=" in said and "FORGE_PASS" not in said and "SLACK_ADDRESS" not in said and "a10ne" not in said
    bench.until_over(engine, one.handle)


def test_a_secret_of_what_was_killed_is_gone_with_the_next_look_at_anything(bench: Bench) -> None:
    engine, one = bench.open(), bench.submission("sleep 600", lent="1en7-70-7h3-d34d")
    engine.submit([one])
    [held] = bench.kept[0].glob("*.LENT")
    torn = held.with_name(f".{held.name}.4711.tmp")
    torn.write_bytes(held.read_bytes())
    assert held.stat().st_mode & 0o777 == 0o600
    for holder in process.holders(bench.kept[0] / f"{one.handle}.lock"):
        process.send(holder, signal.SIGKILL)
    wait_for(lambda: bench.open().observe([]) == {} and not held.exists() and not torn.exists())
    assert engine.renew({one.handle: {"LENT": "1en7-1a7er"}}) and not held.exists()


def test_a_secret_whose_name_is_none_is_refused(bench: Bench) -> None:
    one = replace(bench.submission("true"), renewed={"../x": "a-secret"})
    assert bench.open().submit([one])[one.handle].settled


@pytest.mark.parametrize("when", ["before", "after", "never"])
def test_killed_around_the_start_it_is_started_once(bench: Bench, when: str) -> None:
    words = [sys.executable, "-c", HOST, str(bench.kept[0]), str(bench.shared), when]
    subprocess.run(words, check=False, timeout=30, cwd=Path(__file__).resolve().parents[2])
    engine = bench.open()
    one = bench.submission(f"echo x >> {bench.shared}/ran; until test -e {bench.shared}/go; do sleep 0.05; done")
    assert engine.submit([one]) == {}
    bench.until_there(bench.shared / "ran")
    assert engine.adopt(one.repository) == {one.handle: {KEY_VARIABLE: SECRET}}
    if when == "after":  # nobody wrote down who it is, and it can be ended all the same
        engine.cancel([one.handle])
    (bench.shared / "go").touch()
    bench.until_over(engine, one.handle)
    assert bench.lines("ran") == ["x"]
    assert engine.observe([one.handle])[one.handle].standing == Standing.ENDED
    assert engine.submit([one]) == {} and bench.lines("ran") == ["x"]


def test_a_record_that_is_damaged_hides_nothing_that_lives(bench: Bench) -> None:
    engine = bench.open()
    one = bench.submission(f"touch {bench.shared}/up; sleep 600")
    engine.submit([one])
    bench.until_there(bench.shared / "up")
    (bench.kept[0] / f"{one.handle}.json").write_text("{")
    again = bench.open()
    assert again.observe([one.handle])[one.handle].standing == Standing.RUNNING
    again.cancel([one.handle])
    bench.until_over(again, one.handle)


def test_those_that_ended_longest_ago_are_forgotten(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.executors.local_process.KEPT_MAX", 2)
    engine = bench.open()
    ended = [bench.submission("true") for _ in range(4)]
    for each in ended:
        engine.submit([each])
        bench.until_over(engine, each.handle)
        time.sleep(0.01)
    assert engine.submit([]) == {}
    assert len(list(bench.kept[0].glob("*.json"))) == 2
    assert engine.observe([ended[0].handle])[ended[0].handle].standing == Standing.ABSENT


def test_an_order_is_carried_out_and_cancelled_through_the_engine(scratch: Scratch, tmp_path: Path) -> None:
    scratch.write("README.md", "hello\n")
    scratch.commit()
    up = scratch.outside / "up"
    run = placed(scratch, f"  - {{id: a, command: 'touch {up}; exec sleep 600'}}\n")
    run.place()
    engine = open_engine(Opening(executor="here", options={}, directory=tmp_path / "kept"))
    bench = Bench(open=lambda: engine, shared=tmp_path, patience_s=60.0)
    url = str(scratch.path / ".git")
    blank = bench.submission("", address=url)
    one = type(blank)(
        handle=blank.handle, repository=repository_of(url), run_id=run.plan.run_id, task_id="t", number=1,
        arguments=("--url", url, "--ref", run.ref), secrets={KEY_VARIABLE: run.key}, grace_s=10.0,
    )  # fmt: skip
    assert engine.submit([one]) == {}
    wait_for(up.exists, 60)
    engine.cancel([one.handle])
    bench.until_over(engine, one.handle)
    oid = run.at()
    word = read_word(run.repository, oid or "", run.key)
    assert word is not None and word.ended
    home = bring_home(run.repository, word, run.directory, run.plan, bytes_max=1 << 22)
    assert home.attempt is not None and home.attempt.outcome == Outcome.INTERRUPTED
    assert b"interrupted, handed back" in engine.logs(one.handle, 1000)
    assert os.listdir(tmp_path / "kept" / "scratch") == []
    run.close()


def test_what_it_starts_inherits_no_credential_and_what_reaches_repositories(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORGE_TOKEN", "RECONCILER_GITHUB_TOKEN", "GIT_DIR", "GIT_SSH_COMMAND", "PLAIN"):
        monkeypatch.setenv(name, f"is-{name}")
    opening = Opening(executor="here", options={"program": PROGRAM}, directory=bench.kept[0], withheld=("FORGE_TOKEN",))
    engine = open_engine(opening)
    one = bench.submission(f"env > {bench.shared}/env.part; mv {bench.shared}/env.part {bench.shared}/env")
    engine.submit([one])
    bench.until_over(engine, one.handle)
    found = {each.partition("=")[0] for each in bench.lines("env")}
    assert {"GIT_SSH_COMMAND", "PLAIN", KEY_VARIABLE} <= found
    assert not found & {"FORGE_TOKEN", "RECONCILER_GITHUB_TOKEN", "GIT_DIR"}


def test_the_secrets_of_what_ended_long_ago_are_gone(bench: Bench) -> None:
    engine = bench.open()
    one = bench.submission("true")
    engine.submit([one])
    bench.until_over(engine, one.handle)
    assert engine.adopt(one.repository) == {one.handle: {KEY_VARIABLE: SECRET}}
    path = bench.kept[0] / f"{one.handle}.json"
    os.utime(path, (time.time() - SECRETS_S - 60,) * 2)
    engine.submit([])
    assert engine.adopt(one.repository) == {one.handle: {}} and SECRET not in path.read_text()
    assert engine.submit([one]) == {}, "it is not started again"


def test_its_options_are_described() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    check = jsonschema.Draft202012Validator(SCHEMA)
    for good in ({}, *SCHEMA["examples"], {"program": PROGRAM}):
        check.validate(good)
    for bad in ({"program": []}, {"program": "sh"}, {"scratch": "here"}, {"processes_max": 0}, {"other": 1}):
        assert not check.is_valid(bad), bad
