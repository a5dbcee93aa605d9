"""Damaged records of every kind: they are kept aside, nobody else suffers, and the run ends in a defined way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scratch import Scratch

RECORDS = ("plan.json", "claims/1.json", "attempts/1.json", ".heartbeat", "manifest.json", "workspace.json")
BEHIND_EVERYTHING = ("plan.json", "claims/1.json", "attempts/1.json")
"""Without one of these a run cannot be judged: damaged, it is put into quarantine."""


def put(data: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        remove(path)
        path.write_bytes(data)

    return damage


def make_directory(path: Path) -> None:
    remove(path)
    path.mkdir()


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def halve(path: Path) -> None:
    data = path.read_bytes() if path.is_file() else b'{"number": 1'
    path.write_bytes(data[: len(data) // 2])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "half": halve,
    "empty": put(b""),
    "binary": put(bytes(range(256)) * 9),
    "another type": put(b"[1, 2]\n"),
    "deep": put(b"[" * 100_000),
    "directory": make_directory,
    "gone": remove,
}


def interrupted(scratch: Scratch, names: list[str]) -> None:
    """Leave runs behind whose workers were killed while a stage was under way; the next attempt ends at once."""
    scratch.settings("attempts_max: 3\nruns_max: 20\n")
    scratch.pipeline(
        "p", f"workspace: empty\nstages:\n  - id: s\n    command: test -e {scratch.outside}/go || sleep 60\n"
    )
    for name in names:
        scratch.request(name, "p")
    scratch.commit()
    scratch.run("reconcile")
    for name in names:
        scratch.wait_for(lambda name=name: '"running"' in _text(scratch.record(name, "attempts/1.json")))
    scratch.kill(scratch.path / ".runs")
    (scratch.outside / "go").touch()


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def settle(scratch: Scratch) -> str:
    """Pass until all is proven and return what was said; what never ends is seen by the exit code 3."""
    done = scratch.run("reconcile", "--wait", "--timeout", "15s")
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (0, 1), (done.returncode, done.stdout, done.stderr)
    assert scratch.run("status").returncode == 0
    assert "nothing to do" in scratch.run("reconcile").stdout
    return done.stderr


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_records_of_many_runs_at_once(scratch: Scratch, damage: str) -> None:
    names = [f"r{number}" for number in range(len(RECORDS))]
    interrupted(scratch, [*names, "sound"])
    for name, record in zip(names, RECORDS, strict=True):
        DAMAGES[damage](scratch.record(name, record))
    said = settle(scratch)
    assert scratch.manifest("sound")["status"] == "succeeded"
    for name, record in zip(names, RECORDS, strict=True):
        assert scratch.manifest(name)["status"] == "succeeded", record
        if record in BEHIND_EVERYTHING and damage != "gone":
            assert f"{scratch.run_id(name)}/{record}: this record cannot be read" in said
            assert len(list(scratch.record(name, "quarantine").glob(f"{record.replace('/', '-')}.*"))) == 1
    assert scratch.git("status", "--porcelain") == ""


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("what", ["lock", "mark"])
def test_a_damaged_lock_or_mark_costs_no_run(scratch: Scratch, what: str, damage: str) -> None:
    interrupted(scratch, ["victim", "sound"])
    mark = scratch.path / ".git/reconciler/live" / scratch.run_id("victim")
    DAMAGES[damage](mark if what == "mark" else scratch.record("victim", "lock"))
    settle(scratch)
    assert [scratch.manifest(each)["status"] for each in ("sound", "victim")] == ["succeeded", "succeeded"]


@pytest.mark.parametrize("name", ["cache.json", "conditions.json", "pass.lock"])
def test_state_that_can_be_computed_again_may_be_damaged(scratch: Scratch, name: str) -> None:
    scratch.simple("a", "true")
    assert scratch.run("reconcile", "--wait").returncode == 0
    path = scratch.path / ".git/reconciler" / name
    known = json.loads(path.read_bytes()) if path.suffix == ".json" and path.exists() else {}
    shape = json.dumps(known | {"publish": 1, "requests": [1], "evidence": {"x": [1]}}).encode()
    wrong = {}
    for damage, do in {**DAMAGES, "another shape": put(shape)}.items():
        path.touch()
        do(path)
        scratch.request(f"after-{damage.replace(' ', '-')}", "a")
        scratch.commit()
        for words in (["status"], ["reconcile", "--wait", "--timeout", "15s"]):
            done = scratch.run(*words)
            if done.returncode != 0:
                wrong[damage, words[0]] = done.stderr.strip().splitlines()[-4:]
        remove(path)
    assert wrong == {}
    assert scratch.run("reconcile", "--wait").returncode == 0
    names = ["a", *(f"after-{damage.replace(' ', '-')}" for damage in [*DAMAGES, "another shape"])]
    assert {scratch.manifest(each)["status"] for each in names} == {"succeeded"}


def test_a_record_of_another_run_is_not_believed(scratch: Scratch) -> None:
    """An attempt that says `succeeded` for stages of another definition proves nothing for this one."""
    interrupted(scratch, ["victim"])
    scratch.simple("other", "true")
    scratch.run("reconcile", "--wait", "--timeout", "20s")
    scratch.request("third", "p", rerun=1)
    (scratch.outside / "go").unlink()
    scratch.commit()
    scratch.run("reconcile")
    scratch.wait_for(lambda: '"running"' in _text(scratch.record("third", "attempts/1.json")))
    scratch.kill_run("third")
    scratch.pipeline("p", "workspace: empty\nstages:\n  - id: s\n    command: exit 9\n")
    scratch.commit()
    attempt = scratch.attempt("other")
    scratch.record("third", "attempts/1.json").write_text(json.dumps(attempt | {"outcome": None, "ended_at": None}))
    (scratch.outside / "go").touch()
    assert scratch.run("reconcile", "--wait", "--timeout", "20s").returncode == 0
    assert scratch.stages("third")["s"]["attempt"] == 2


def test_records_of_the_verb_resume_may_be_damaged_too(scratch: Scratch) -> None:
    scratch.settings()
    command = (
        f"test -e {scratch.outside}/go && exit 1; touch {scratch.outside}/on; test -e {scratch.outside}/on2 || sleep 60"
    )
    scratch.simple("a", f"test -e {scratch.outside}/first || exit 1; {command}")
    assert scratch.run("reconcile", "--wait").returncode == 1
    (scratch.outside / "first").touch()
    assert scratch.run("resume", "a", "--no-wait").returncode == 0
    scratch.wait_for((scratch.outside / "on").exists)
    scratch.kill_run("a")
    (scratch.outside / "on2").touch()
    for each in (scratch.directory("a") / "plans").iterdir():
        halve(each)
    settle(scratch)
    manifest = scratch.manifest("a")
    assert manifest["status"] in ("succeeded", "failed"), manifest["status_detail"]
    assert len(manifest["attempts"]) >= 2
