"""Processes: who is who, who lives, and that what was fenced runs no more. All of it on real processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler import process
from reconciler.errors import SpawnFailed
from reconciler.model import Process
from reconciler.process import Target, Workers, fence, holders, identify, is_alive, send, wait_any

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells all of this on Linux only")

SLEEP = "import sys; print('ready', flush=True); sys.stdin.readline()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SLEEP
OPEN = "import os, sys; os.open(sys.argv[1], os.O_RDWR | os.O_CREAT);" + SLEEP
TAKE = "import fcntl, os, sys; held = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.flock(held, {kind});"
LOOK = TAKE.format(kind="fcntl.LOCK_SH") + SLEEP
HOLD = TAKE.format(kind="fcntl.LOCK_EX") + SLEEP
DEAF_HOLD = TAKE.format(kind="fcntl.LOCK_EX") + DEAF
LEAVE = (
    TAKE.format(kind="fcntl.LOCK_EX")
    + "import subprocess; subprocess.Popen(['sh', '-c', 'trap \"\" TERM; echo $$; read line'], pass_fds=[held],"
    + " start_new_session=True)"
)
LEAVE_AND_STAY = LEAVE + "; import time; time.sleep(600)"


class Children:
    """Starts processes that say a line when they are ready, and lets none of them outlive its test."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[str]] = []
        self.others: list[int] = []

    def start(self, program: str, *arguments: object, own_session: bool = False) -> subprocess.Popen[str]:
        child, _ = self.hear(program, *arguments, own_session=own_session)
        return child

    def hear(self, program: str, *arguments: object, own_session: bool = False) -> tuple[subprocess.Popen[str], str]:
        """Start a process and return it with the first line it says."""
        words = [sys.executable, "-c", program, *map(str, arguments)]
        child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=own_session
        )
        self.started.append(child)
        assert child.stdout is not None
        line = child.stdout.readline().strip()
        if line.isdigit():
            self.others.append(int(line))
        return child, line

    def end(self) -> None:
        for pid in self.others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for child in self.started:
            child.kill()
            child.communicate()


@pytest.fixture
def children() -> Iterator[Children]:
    found = Children()
    yield found
    found.end()


def known(pid: int) -> Process:
    found = identify(pid)
    assert found is not None
    return found


def ended(child: subprocess.Popen[str]) -> int:
    """Kill a process, leave it unreaped, and return its pid."""
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    return child.pid


def target(lock: Path, worker: Process | None = None, *leaders: Process, grace_s: float = 0.0) -> Target:
    return Target(worker=worker, leaders=leaders, lock=lock, grace_s=grace_s)


# ------------------------------------------------------------------------------------------------ who is who


def test_a_process_is_itself_and_nobody_else(children: Children) -> None:
    first, second = children.start(SLEEP), children.start(SLEEP)
    assert known(first.pid) == known(first.pid) != known(second.pid)
    assert process.myself() == known(os.getpid())
    assert is_alive(known(first.pid)) and is_alive(process.myself())


def test_a_later_process_with_the_same_pid_is_another(children: Children) -> None:
    here = known(children.start(SLEEP).pid)
    assert not is_alive(replace(here, start_ticks=here.start_ticks - 1))
    assert not is_alive(replace(here, boot_id="another"))


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1])
def test_nobody_has_this_pid(pid: int) -> None:
    assert identify(pid) is None
    assert not is_alive(Process(pid=pid, start_ticks=1, boot_id=process.boot_id()))


def test_who_has_ended_does_not_live_even_while_nobody_has_asked_how(children: Children) -> None:
    child = children.start(SLEEP)
    here = known(child.pid)
    assert ended(child) == here.pid
    assert identify(here.pid) is None and not is_alive(here)


@pytest.mark.parametrize("name", ["plain", "with space", "a) R 1 2 (b", ")"])
def test_a_process_is_known_whatever_it_calls_itself(children: Children, name: str) -> None:
    program = f"open('/proc/self/comm', 'w').write({name!r});" + SLEEP
    here = known(children.start(program).pid)
    assert here.start_ticks >= process.myself().start_ticks
    assert is_alive(here)


def test_an_instant_never_goes_back() -> None:
    first, second = process.instant(), process.instant()
    assert first.monotonic_s <= second.monotonic_s
    assert first.boot_id == second.boot_id == process.boot_id() != ""
    assert first.at.endswith("Z") and len(first.at) == len("2026-03-01T12:00:00.000Z")


# ------------------------------------------------------------------------------------------------ signals


def test_a_signal_reaches_exactly_the_process_that_is_meant(children: Children) -> None:
    child = children.start(SLEEP)
    here = known(child.pid)
    send(replace(here, start_ticks=here.start_ticks + 1), signal.SIGKILL)
    send(replace(here, boot_id="another"), signal.SIGKILL)
    assert child.poll() is None
    send(here, signal.SIGTERM)
    assert child.wait(timeout=20) == -signal.SIGTERM
    send(here, signal.SIGTERM)


def test_a_signal_to_a_group_reaches_all_of_it(children: Children) -> None:
    program = "import subprocess; subprocess.Popen(['sh', '-c', 'echo $$; read line']).wait()"
    child, line = children.hear(program, own_session=True)
    inner = known(int(line))
    send(known(child.pid), signal.SIGKILL, group=True)
    child.wait(timeout=20)
    wait_any([inner], 20)
    assert not is_alive(inner)


def test_no_signal_is_ever_sent_to_ourselves() -> None:
    send(process.myself(), signal.SIGKILL)
    send(process.myself(), signal.SIGKILL, group=True)


# ------------------------------------------------------------------------------------------------ holders


def test_who_holds_the_lock_is_found_and_who_merely_has_the_file_open_is_not(
    tmp_path: Path, children: Children
) -> None:
    lock = tmp_path / "lock"
    children.start(OPEN, lock)
    assert holders(lock) == ()
    child = children.start(HOLD, lock)
    assert holders(lock) == (known(child.pid),)
    child.kill()
    child.wait()
    assert holders(lock) == ()


def test_who_inherited_the_lock_holds_it(tmp_path: Path, children: Children) -> None:
    lock = tmp_path / "lock"
    child, line = children.hear(LEAVE, lock)
    child.wait()
    assert [each.pid for each in holders(lock)] == [int(line)]


def test_who_looks_at_the_lock_does_not_hold_it(tmp_path: Path, children: Children) -> None:
    lock = tmp_path / "lock"
    children.start(LOOK, lock)
    assert holders(lock) == ()


def test_we_ourselves_are_never_among_the_holders(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert holders(tmp_path / "lock") == ()


def test_a_lock_that_is_not_there_is_held_by_nobody(tmp_path: Path) -> None:
    assert holders(tmp_path / "missing") == ()


def test_the_lock_of_another_run_says_nothing(tmp_path: Path, children: Children) -> None:
    children.start(HOLD, tmp_path / "one")
    (tmp_path / "two").touch()
    assert holders(tmp_path / "two") == ()


# ------------------------------------------------------------------------------------------------ fencing


def test_who_ends_when_told_to_is_not_killed(tmp_path: Path, children: Children) -> None:
    polite = (
        "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); print('ready', flush=True);"
        "signal.pause()"
    )
    child = children.start(polite)
    fence([target(tmp_path / "lock", known(child.pid), grace_s=20.0)])
    assert child.wait(timeout=20) == 3


def test_who_ignores_being_told_is_killed_after_the_grace(tmp_path: Path, children: Children) -> None:
    child = children.start(DEAF_HOLD, tmp_path / "lock")
    before = time.monotonic()
    fence([target(tmp_path / "lock", known(child.pid), grace_s=0.2)])
    assert child.wait(timeout=20) == -signal.SIGKILL
    assert time.monotonic() - before >= 0.2
    assert holders(tmp_path / "lock") == ()


def test_who_is_stopped_is_killed(tmp_path: Path, children: Children) -> None:
    child = children.start(HOLD, tmp_path / "lock")
    os.kill(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    fence([target(tmp_path / "lock", known(child.pid))])
    assert child.wait(timeout=20) in (-signal.SIGKILL, -signal.SIGTERM)


def test_a_daemon_that_was_left_with_the_lock_is_ended(tmp_path: Path, children: Children) -> None:
    lock = tmp_path / "lock"
    child, line = children.hear(LEAVE, lock)
    child.wait()
    left = known(int(line))
    fence([target(lock)])
    assert not is_alive(left) and holders(lock) == ()


def test_a_worker_and_the_daemon_it_left_are_both_ended(tmp_path: Path, children: Children) -> None:
    lock = tmp_path / "lock"
    child, line = children.hear(LEAVE_AND_STAY, lock)
    worker, left = known(child.pid), known(int(line))
    fence([target(lock, worker)])
    assert not is_alive(worker) and not is_alive(left) and holders(lock) == ()


def test_the_group_of_a_stage_is_ended_when_its_worker_is_dead(tmp_path: Path, children: Children) -> None:
    program = "import subprocess; subprocess.Popen(['sh', '-c', 'echo $$; read line']).wait()"
    child, line = children.hear(program, own_session=True)
    leader, member = known(child.pid), known(int(line))
    dead = children.start(SLEEP)
    worker = known(dead.pid)
    ended(dead)
    fence([target(tmp_path / "lock", worker, leader)])
    wait_any([member], 20)
    assert not is_alive(leader) and not is_alive(member)


def test_several_are_fenced_in_the_time_of_one(tmp_path: Path, children: Children) -> None:
    started = [children.start(DEAF) for _ in range(4)]
    fence([target(tmp_path / "lock", known(each.pid), grace_s=0.2) for each in started])
    assert [each.wait(timeout=20) for each in started] == [-signal.SIGKILL] * 4


def test_a_bystander_is_left_alone(tmp_path: Path, children: Children) -> None:
    lock = tmp_path / "lock"
    reader, looker, stranger = children.start(OPEN, lock), children.start(LOOK, lock), children.start(SLEEP)
    reused = replace(known(stranger.pid), start_ticks=1)
    fence([target(lock, reused, reused)])
    assert [each.poll() for each in (reader, looker, stranger)] == [None] * 3


def test_who_holds_a_lock_that_was_removed_is_ended_and_nobody_else(tmp_path: Path, children: Children) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "other").mkdir()
    lock, other = tmp_path / "run" / "lock", tmp_path / "other" / "lock"
    child, line = children.hear(LEAVE_AND_STAY, lock)
    removed = [known(child.pid), known(int(line))]
    stays = [children.start(HOLD, other), children.start(SLEEP)]
    process.kill_holders_of_removed(lock)
    assert all(is_alive(each) for each in removed)
    lock.unlink()
    lock.parent.rmdir()
    process.kill_holders_of_removed(lock)
    assert not any(is_alive(each) for each in removed)
    assert [each.poll() for each in stays] == [None, None]


def test_where_nothing_lives_nothing_is_waited_for(tmp_path: Path) -> None:
    before = time.monotonic()
    fence([target(tmp_path / "lock", grace_s=60.0)])
    fence([])
    assert time.monotonic() - before < 30


# ------------------------------------------------------------------------------------------------ waiting


def test_waiting_ends_when_one_of_several_ends(children: Children) -> None:
    short, long = children.start(SLEEP), children.start(SLEEP)
    both = [known(long.pid), known(short.pid)]
    assert short.stdin is not None
    short.stdin.write("\n")
    short.stdin.flush()
    wait_any(both, 600)
    assert short.wait(timeout=20) == 0
    assert is_alive(both[0])


def test_waiting_for_who_has_ended_already_is_no_waiting(children: Children) -> None:
    child, other = children.start(SLEEP), children.start(SLEEP)
    here = known(child.pid)
    ended(child)
    wait_any([known(other.pid), here], 600)
    child.wait()
    wait_any([known(other.pid), here], 600)
    wait_any([replace(known(other.pid), start_ticks=1)], 600)


def test_waiting_has_an_end_when_nobody_ends(children: Children) -> None:
    here = known(children.start(SLEEP).pid)
    wait_any([here], 0.01)
    wait_any([], 0.01)
    assert is_alive(here)


def test_waiting_leaves_no_descriptor_open(children: Children) -> None:
    living = [known(children.start(SLEEP).pid) for _ in range(3)]
    before = len(os.listdir("/proc/self/fd"))
    wait_any(living, 0)
    assert len(os.listdir("/proc/self/fd")) == before


# ------------------------------------------------------------------------------------------------ descendants


def test_descendants_are_found_over_generations_and_sessions(children: Children) -> None:
    program = (
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c',"
        '\'import subprocess; subprocess.Popen(["sh", "-c", "echo $$; read line"], start_new_session=True).wait()\''
        "]).wait()"
    )
    child, line = children.hear(program)
    found = process.descendants(child.pid)
    assert int(line) in found and len(found) == 2
    assert {child.pid, *found} <= set(process.descendants(os.getpid()))


def test_who_has_ended_is_no_descendant(children: Children) -> None:
    child = children.start(SLEEP)
    assert child.pid in process.descendants(os.getpid())
    ended(child)
    assert child.pid not in process.descendants(os.getpid())


# ------------------------------------------------------------------------------------------------ workers


@pytest.mark.parametrize(
    ("name", "inherited"),
    [
        ("PATH", True),
        ("HOME", True),
        ("MY_GIT_DIR", True),
        ("GITHUB_TOKEN", True),
        ("GIT_DIR", False),
        ("GIT_AUTHOR_NAME", False),
        ("RECONCILER_TOKEN", False),
        ("RECONCILER_RUN_ID", False),
    ],
)
def test_workers_inherit_the_environment_less_what_is_ours_and_gits(name: str, inherited: bool) -> None:
    assert process.worker_environment({name: "x"}) == ({name: "x"} if inherited else {})


@pytest.fixture
def workers() -> Iterator[Workers]:
    found = Workers()
    yield found
    found.close()


def test_a_worker_of_an_attempt_that_was_never_claimed_does_nothing(tmp_path: Path, workers: Workers) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    worker = workers.spawn(directory, 1, tmp_path, "")
    if worker is not None:
        wait_any([worker], 60)
        assert not is_alive(worker)
    assert workers.alive() == ()
    assert set(os.listdir(directory)) <= {"lock", "worker.err"}
    assert holders(directory / "lock") == ()


def test_workers_are_started_again_after_their_server_has_died(tmp_path: Path, workers: Workers) -> None:
    before = set(process.descendants(os.getpid()))
    workers.spawn(tmp_path, 1, tmp_path, "")
    started = set(process.descendants(os.getpid())) - before
    assert started
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(SpawnFailed):
        workers.spawn(tmp_path, 1, tmp_path, "")
    workers.spawn(tmp_path, 1, tmp_path, "")


def test_a_server_that_is_let_go_ends(tmp_path: Path, workers: Workers) -> None:
    before = set(process.descendants(os.getpid()))
    worker = workers.spawn(tmp_path, 1, tmp_path, "")
    started = {identify(pid) for pid in set(process.descendants(os.getpid())) - before}
    served = [each for each in started - {worker} if each is not None]
    workers.close()
    workers.close()
    assert served and not any(is_alive(each) for each in served)


def test_where_no_interpreter_is_no_worker_starts(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(SpawnFailed):
        workers.spawn(tmp_path, 1, tmp_path, "")
