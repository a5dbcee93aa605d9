"""Run directories: what is written is whole or not there, who holds the lock lives, and damage is a fact like another."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler import codec, process, rundir
from reconciler.codec import CodecError
from reconciler.disk import DISK
from reconciler.errors import LockHeld
from reconciler.model import (
    Attempt,
    CancelIntent,
    Claim,
    End,
    Host,
    Name,
    Outcome,
    Pipeline,
    PipelineId,
    Plan,
    Process,
    Request,
    Run,
    RunId,
    Settings,
    Source,
    Stage,
    StageId,
    TaskId,
)
from reconciler.resolve import Place, resolve
from reconciler.rundir import RunDirectory, Runs

TASK, ID = TaskId("t"), RunId("0001-a-1a2b3c4d")
AT = "2026-03-01T12:00:00.000Z"
DEAD = Process(pid=2**22 + 1, start_ticks=1, boot_id="another")


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(root=tmp_path / ".runs", state=tmp_path / "state")


@pytest.fixture
def directory(runs: Runs) -> RunDirectory:
    found = runs.directory(TASK, ID)
    found.path.mkdir(parents=True)
    return found


def plan() -> Plan:
    request = Request(
        name=Name("0001-a"), source=Source(path="runs.d/0001-a.yaml"), task=TASK, pipeline=PipelineId("p")
    )
    stages = (Stage(id=StageId("build"), command="make"),)
    pipeline = Pipeline(id=PipelineId("p"), source=Source(path="pipelines/p.yaml"), stages=stages)
    found = resolve(request, {pipeline.id: pipeline}, Settings(), Place(commit="c" * 40, branch="main"))
    assert isinstance(found, Plan)
    return found


def claim(number: int, claimer: Process = DEAD, file: str = "plan.json") -> Claim:
    return Claim(
        number=number,
        series=1,
        claimed=process.instant(),
        claimer=claimer,
        reason="launched",
        actor="reconciler",
        plan=file,
        plan_digest="d" * 64,
        commit="c" * 40,
    )


def attempt(number: int, worker: Process = DEAD) -> Attempt:
    host = Host(name="here", system="Linux", machine="x86_64", python="3.12.1", cpus=2)
    return Attempt(number=number, worker=worker, host=host, started=process.instant(), stages=())


def put(directory: RunDirectory, family: str, number: int, value: Any = None, data: bytes = b"{}") -> Path:
    path = directory.record(family, number)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data if value is None else codec.compact(value))
    return path


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))


def observed(runs: Runs) -> Run:
    run = runs.observe(TASK, ID)
    assert run is not None
    return run


# ------------------------------------------------------------------------------------------------ writing


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 1_000_000])
def test_a_file_is_replaced_as_a_whole_and_nothing_else_is_left(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"the old content")
    DISK.write_atomic(path, data)
    assert (path.read_bytes(), names(tmp_path)) == (data, ["a.json"])


def test_who_reads_while_a_file_is_replaced_sees_the_old_content_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with open(path, "rb") as reader:
        DISK.write_atomic(path, b"newer")
        assert reader.read() == b"old"


def test_a_new_file_is_made_with_the_directories_above_it(tmp_path: Path) -> None:
    path = tmp_path / "claims" / "1.json"
    assert DISK.write_new(path, b"first")
    assert (path.read_bytes(), names(path.parent)) == (b"first", ["1.json"])


def test_a_new_file_never_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "1.json"
    assert DISK.write_new(path, b"first")
    assert not DISK.write_new(path, b"second")
    assert (path.read_bytes(), names(tmp_path)) == (b"first", ["1.json"])


def test_of_many_that_make_the_same_file_at_once_one_succeeds(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from reconciler import rundir; from reconciler.disk import DISK;"
        "print('ready', flush=True); sys.stdin.readline();"
        "print(DISK.write_new(Path(sys.argv[1]), sys.argv[2].encode()))"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "1.json")]
    children = [
        subprocess.Popen([*words, str(each)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for each in range(4)
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate()[0].strip() for child in children]
    assert sorted(said) == ["False", "False", "False", "True"]
    assert (tmp_path / "1.json").read_text() == str(said.index("True"))
    assert names(tmp_path) == ["1.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_what_could_not_be_made_durable_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    old = tmp_path / "old.json"
    old.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=os.strerror(number)):
        DISK.write_atomic(old, b"new")
    with pytest.raises(OSError, match=os.strerror(number)):
        DISK.write_new(tmp_path / "new.json", b"new")
    assert (old.read_bytes(), names(tmp_path)) == (b"old", ["old.json"])


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_a_secret_is_for_nobody_but_its_owner(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        DISK.write_atomic(tmp_path / "token", b"x", mode=0o600)
        DISK.write_new(tmp_path / "new", b"x", mode=0o600)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / each).stat().st_mode) for each in ("token", "new")] == [0o600, 0o600]


def test_a_secret_does_not_inherit_the_mode_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"old")
    path.chmod(0o644)
    DISK.write_atomic(path, b"new", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_is_replaced_and_what_it_leads_to_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"outside")
    (tmp_path / "a.json").symlink_to(tmp_path / "outside")
    DISK.write_atomic(tmp_path / "a.json", b"new")
    assert (tmp_path / "outside").read_bytes() == b"outside"
    assert not (tmp_path / "a.json").is_symlink()


# ------------------------------------------------------------------------------------------------ reading


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert DISK.read_bounded(tmp_path / "missing") is None
    assert DISK.read_bounded(tmp_path / "file" / "below") is None
    assert rundir.RunDirectory(tmp_path).read(Process, tmp_path / "missing") is None


@pytest.mark.parametrize(("size", "fits"), [(0, True), (10, True), (11, False), (1000, False)])
def test_no_more_is_read_than_a_record_may_be_long(tmp_path: Path, size: int, fits: bool) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * size)
    if fits:
        assert DISK.read_bounded(path, 10) == b"x" * size
    else:
        with pytest.raises(CodecError, match="larger than 10 bytes"):
            DISK.read_bounded(path, 10)


def _make(path: Path, kind: str) -> None:
    match kind:
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to(__file__)
        case "dangling link":
            path.symlink_to("nowhere")
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as each:
                each.bind(os.path.relpath(path))


@pytest.mark.parametrize("kind", ["directory", "link", "dangling link", "pipe", "socket"])
def test_what_is_no_file_is_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    _make(tmp_path / "a", kind)
    with pytest.raises(CodecError):
        rundir.RunDirectory(tmp_path).read(Process, tmp_path / "a")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_record_that_may_not_be_read_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(CodecError):
        directory.read(Process, path)


# ------------------------------------------------------------------------------------------------ numbers


@pytest.mark.parametrize(
    ("files", "numbers"),
    [
        ([], ()),
        (["1.json", "10.json", "2.json"], (1, 2, 10)),
        (["1.json", ".1.json.4242.tmp", "2.json.tmp", ".2.json", "x.json", "3.txt", "3", "-4.json", "5.json~"], (1,)),
        (["1.json", "²3.json", "1.5.json", "0x7.json", " 8.json"], (1,)),
    ],
)
def test_only_whole_records_have_a_number(directory: RunDirectory, files: list[str], numbers: tuple[int, ...]) -> None:
    (directory.path / "claims").mkdir()
    for each in files:
        (directory.path / "claims" / each).write_bytes(b"")
    assert directory.numbers("claims") == numbers
    assert rundir.next_number(directory, "claims") == max(numbers, default=0) + 1


@pytest.mark.parametrize(
    ("files", "newest"),
    [
        ([], 0),
        (["claims/1.json"], 1),
        (["claims/1.json", "claims/2.json"], 2),
        (["claims/1.json", "claims/.2.json.77.tmp"], 1),
        (["quarantine/claims-1.json.1"], 1),
        (["claims/1.json", "quarantine/claims-2.json.1"], 2),
        (["claims/3.json", "quarantine/claims-2.json.1"], 3),
        (["quarantine/claims-10.json.1", "quarantine/claims-9.json.2"], 10),
        (["quarantine/attempts-7.json.1", "claims/1.json"], 1),
        (["quarantine/claims-.json.1", "quarantine/claims-x.json.1", "quarantine/other"], 0),
        (["attempts/2.json", "claims/1.json"], 2),
        (["ends/9.json", "cancels/9.json", "refusals/9.json", "claims/1.json"], 1),
    ],
)
def test_a_number_is_never_used_twice(directory: RunDirectory, files: list[str], newest: int) -> None:
    for each in files:
        path = directory.path / each
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert directory.newest() == newest


def test_records_that_can_be_read_are_read_and_others_left_out(directory: RunDirectory) -> None:
    put(directory, "claims", 1, claim(1))
    put(directory, "claims", 2, data=b"damaged")
    put(directory, "claims", 3, claim(3))
    assert list(rundir.read_all(directory, "claims", Claim)) == [1, 3]
    assert rundir.read_all(directory, "attempts", Attempt) == {}


# ------------------------------------------------------------------------------------------------ the lock

HOLD = (
    "import sys; from pathlib import Path; from reconciler import rundir; from reconciler.disk import DISK;"
    "held = rundir.take_lock(rundir.RunDirectory(Path(sys.argv[1])));"
    "print(held is not None, flush=True); sys.stdin.readline()"
)
HOLD_AND_LEAVE = (
    "import subprocess, sys; from pathlib import Path; from reconciler import rundir; from reconciler.disk import DISK;"
    "held = rundir.take_lock(rundir.RunDirectory(Path(sys.argv[1])));"
    "subprocess.Popen(['sh', '-c', 'echo True; read line'], pass_fds=[held], start_new_session=True)"
)


@pytest.fixture
def children() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for child in started:
        child.kill()
        child.communicate()


def holder(children: list[subprocess.Popen[str]], directory: RunDirectory, program: str) -> subprocess.Popen[str]:
    """Start a process that takes the lock, and return it once it has it."""
    words = [sys.executable, "-c", program, str(directory.path)]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    children.append(child)
    assert child.stdout is not None and child.stdout.readline() == "True\n"
    return child


def let_go(child: subprocess.Popen[str]) -> None:
    """Let whoever still reads the standard input of a process end, and wait until nobody writes its output."""
    child.communicate("\n", timeout=20)


def test_a_lock_nobody_ever_took_is_free(directory: RunDirectory) -> None:
    assert not DISK.lock_is_held(directory.lock)
    assert names(directory.path) == []


def test_a_lock_is_held_by_one_process_at_a_time(
    directory: RunDirectory, children: list[subprocess.Popen[str]]
) -> None:
    child = holder(children, directory, HOLD)
    assert DISK.lock_is_held(directory.lock)
    assert rundir.take_lock(directory) is None
    with pytest.raises(LockHeld), rundir.holding(directory):
        pass
    child.kill()
    child.wait()
    assert not DISK.lock_is_held(directory.lock)
    with rundir.holding(directory):
        assert DISK.lock_is_held(directory.lock)
        assert rundir.take_lock(directory) is None
    assert not DISK.lock_is_held(directory.lock)


def test_a_lock_is_held_as_long_as_anybody_lives_who_inherited_it(
    directory: RunDirectory, children: list[subprocess.Popen[str]]
) -> None:
    child = holder(children, directory, HOLD_AND_LEAVE)
    child.wait()
    assert DISK.lock_is_held(directory.lock)
    let_go(child)
    assert not DISK.lock_is_held(directory.lock)


def test_looking_at_a_lock_does_not_take_it(directory: RunDirectory) -> None:
    descriptor = rundir.take_lock(directory)
    assert descriptor is not None
    os.close(descriptor)
    assert [DISK.lock_is_held(directory.lock) for _ in range(3)] == [False] * 3
    with rundir.holding(directory):
        pass


def test_the_lock_is_let_go_when_what_was_done_under_it_fails(directory: RunDirectory) -> None:
    with pytest.raises(ZeroDivisionError), rundir.holding(directory):
        raise ZeroDivisionError
    assert not DISK.lock_is_held(directory.lock)


# ------------------------------------------------------------------------------------------------ observing


def freeze(runs: Runs, directory: RunDirectory, frozen: Plan | None = None, file: str = "plan.json") -> None:
    data = codec.render(frozen or plan())
    DISK.write_new(directory.path / file, data)
    runs.mark(TASK, ID, directory.name_of(file), data)


def test_a_plan_that_was_not_frozen_here_is_damage(runs: Runs, directory: RunDirectory) -> None:
    freeze(runs, directory)
    put(directory, "claims", 1, claim(1))
    forged = replace(plan(), title="something else")
    (directory.path / "plan.json").write_bytes(codec.render(forged))
    run = observed(runs)
    assert not run.planned
    assert [each.reason for each in run.corrupt] == [
        "this record cannot be read: it is not the plan that was frozen here"
    ]


def test_records_that_this_machine_did_not_make_are_set_aside(directory: RunDirectory) -> None:
    put(directory, "claims", 1, claim(1))
    rundir.set_aside(directory, "untrusted")
    assert not directory.path.exists()
    assert (directory.path.with_name(f"{ID}.untrusted-1") / "claims" / "1.json").exists()


def test_a_run_of_which_nothing_was_claimed_is_none(runs: Runs, directory: RunDirectory) -> None:
    assert runs.observe(TASK, ID) is None
    assert runs.observe(TASK, RunId("other-1a2b3c4d")) is None
    (directory.path / "plan.json").write_bytes(codec.render(plan()))
    assert runs.observe(TASK, ID) is None


def test_a_run_is_observed_as_its_records_say(runs: Runs, directory: RunDirectory) -> None:
    frozen, me = plan(), process.myself()
    freeze(runs, directory, frozen)
    put(directory, "claims", 1, claim(1))
    put(directory, "claims", 2, claim(2, me))
    put(directory, "attempts", 1, attempt(1))
    put(directory, "attempts", 2, attempt(2, me))
    put(directory, "cancels", 1, CancelIntent(number=1, at=AT, actor="ann", reason="x"))
    put(directory, "ends", 2, End(number=2, at=AT, outcome=Outcome.FAILED, detail="x"))
    beat = process.instant()
    DISK.write_atomic(directory.heartbeat, codec.compact(beat))
    with rundir.holding(directory):
        run = observed(runs)
    assert (run.run_id, run.task_id, run.name, run.number) == (ID, TASK, "0001-a", 2)
    assert (run.attempts_max, run.heartbeat, run.planned) == (frozen.attempts_max, frozen.heartbeat, True)
    assert (run.claim and run.claim.number, run.attempt and run.attempt.number) == (2, 2)
    assert (run.lock_held, run.claimer_alive, run.worker_alive) == (True, True, True)
    assert (run.beat, run.cancel, run.corrupt) == (beat, None, ())
    assert run.end is not None and run.end.outcome == Outcome.FAILED


def test_a_refreshed_plan_is_the_one_its_claim_names(runs: Runs, directory: RunDirectory) -> None:
    DISK.write_new(directory.path / "plan.json", b"damaged")
    freeze(runs, directory, file="plans/2.json")
    put(directory, "claims", 2, claim(2, file="plans/2.json"))
    assert observed(runs).planned
    assert observed(runs).corrupt == ()


FAMILIES = ["plan.json", "claims/1.json", "attempts/1.json", "cancels/1.json", "ends/1.json"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("data", [b"", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"number": 1}'])
def test_a_record_that_cannot_be_read_is_told_and_the_rest_is_read(
    runs: Runs, directory: RunDirectory, name: str, data: bytes
) -> None:
    freeze(runs, directory)
    put(directory, "claims", 1, claim(1))
    put(directory, "attempts", 1, attempt(1))
    (directory.path / name).parent.mkdir(exist_ok=True)
    (directory.path / name).write_bytes(data)
    run = observed(runs)
    [problem] = run.corrupt
    assert (problem.pointer, problem.path) == (name, f".runs/t/cli/{ID}/{name}")
    assert problem.reason.startswith("this record cannot be read: ")
    assert run.number == 1
    assert run.planned == (name != "plan.json")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_directory_in_the_place_of_a_record_is_damage(runs: Runs, directory: RunDirectory, name: str) -> None:
    put(directory, "claims", 1, claim(1))
    (directory.path / name).unlink(missing_ok=True)
    (directory.path / name).mkdir(parents=True)
    assert name in [each.pointer for each in observed(runs).corrupt]


def test_a_run_keeps_its_name_when_its_plan_is_lost(runs: Runs, directory: RunDirectory) -> None:
    put(directory, "claims", 1, claim(1))
    run = observed(runs)
    assert (run.planned, run.name) == (False, "0001-a")


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b"x" * 100])
def test_a_damaged_heartbeat_is_none(runs: Runs, directory: RunDirectory, data: bytes) -> None:
    put(directory, "claims", 1, claim(1))
    directory.heartbeat.write_bytes(data)
    assert observed(runs).beat is None
    assert [each.pointer for each in observed(runs).corrupt] == []


def test_a_directory_in_the_place_of_the_heartbeat_is_none(runs: Runs, directory: RunDirectory) -> None:
    put(directory, "claims", 1, claim(1))
    directory.heartbeat.mkdir()
    assert observed(runs).beat is None


@pytest.mark.parametrize("name", FAMILIES)
def test_a_damaged_record_is_put_aside_and_its_run_goes_on(runs: Runs, directory: RunDirectory, name: str) -> None:
    freeze(runs, directory)
    put(directory, "claims", 1, claim(1))
    (directory.path / name).parent.mkdir(exist_ok=True)
    (directory.path / name).write_bytes(b"damaged")
    kept = rundir.quarantine(directory, name)
    assert kept.read_bytes() == b"damaged"
    run = observed(runs)
    assert (run.corrupt, run.number) == ((), 1)


def test_what_was_put_aside_earlier_is_kept(directory: RunDirectory) -> None:
    for content in (b"first", b"second", b"third"):
        (directory.path / "plan.json").write_bytes(content)
        rundir.quarantine(directory, "plan.json")
    kept = directory.path / "quarantine"
    assert sorted(each.read_bytes() for each in kept.iterdir()) == [b"first", b"second", b"third"]
    (kept / names(kept)[0]).unlink()
    (directory.path / "plan.json").write_bytes(b"fourth")
    rundir.quarantine(directory, "plan.json")
    assert sorted(each.read_bytes() for each in kept.iterdir()) == [b"fourth", b"second", b"third"]


# ------------------------------------------------------------------------------------------------ marks


def test_a_marked_run_is_under_way_until_the_mark_is_taken_away(runs: Runs) -> None:
    for task, run in (("u", "b-1a2b3c4d"), ("t", "c-1a2b3c4d"), ("t", "a-1a2b3c4d")):
        runs.mark(task, run)
        runs.directory(task, run).path.mkdir(parents=True)
    assert list(runs.marks().items()) == [("a-1a2b3c4d", "t"), ("b-1a2b3c4d", "u"), ("c-1a2b3c4d", "t")]
    assert [runs.is_marked(run) for run in ("b-1a2b3c4d", "never-marked")] == [True, False]
    runs.unmark("b-1a2b3c4d")
    runs.unmark("never-marked")
    assert runs.marks() == {"a-1a2b3c4d": "t", "c-1a2b3c4d": "t"}


def test_nothing_is_marked_where_nothing_ever_ran(runs: Runs) -> None:
    assert runs.marks() == {}


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff\xfe", b"elsewhere\n", b"../..\n", b"a\x00b", b"x" * 1000])
def test_a_damaged_mark_still_finds_its_run(runs: Runs, directory: RunDirectory, data: bytes) -> None:
    runs.mark(TASK, ID)
    (runs.state / "live" / ID).write_bytes(data)
    assert runs.marks() == {ID: TASK}


def test_a_mark_that_is_a_directory_still_finds_its_run(runs: Runs, directory: RunDirectory) -> None:
    (runs.state / "live" / ID).mkdir(parents=True)
    assert runs.marks() == {ID: TASK}


def test_a_mark_without_a_run_is_told_with_the_task_it_names(runs: Runs) -> None:
    runs.mark(TASK, ID)
    assert runs.marks() == {ID: TASK}
    assert runs.observe(TASK, ID) is None


@pytest.mark.parametrize("said", [b"", b"../x\n", b"\xff\n", b"A task\n", b"x" * 200])
def test_a_mark_that_names_no_task_is_told_without_one_and_half_a_mark_is_passed_over(runs: Runs, said: bytes) -> None:
    runs.mark(TASK, ID)
    (runs.state / "live" / ID).write_bytes(said)
    (runs.state / "live" / f".{ID}.4242.tmp").write_bytes(b"t\n")
    assert runs.marks() == {ID: None}


def test_a_run_that_is_forgotten_was_never_ours(runs: Runs) -> None:
    runs.mark(TASK, ID)
    runs.unmark(ID)
    (runs.state / "live" / ID / "inside").mkdir(parents=True)
    runs.forget(ID)
    runs.forget(ID)
    assert runs.marks() == {}
    assert not runs.is_ours(ID)


# ------------------------------------------------------------------------------------------------ workspaces


def test_a_workspace_is_removed_also_where_the_right_to_was_taken_away(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    inner = workspace / "a" / "b"
    inner.mkdir(parents=True)
    (inner / "file").write_bytes(b"")
    (workspace / "link").symlink_to(tmp_path)
    (inner / "file").chmod(0)
    inner.chmod(0)
    (workspace / "a").chmod(0o500)
    DISK.remove_tree(workspace)
    DISK.remove_tree(workspace)
    assert names(tmp_path) == []
