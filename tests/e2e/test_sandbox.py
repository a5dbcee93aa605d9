"""Stages that try to get out of their sandbox, and what they saw.

Every test lets a hostile stage print what it gets hold of. What must not be reached is planted first, so that a test
fails when the wall is missing and not only when the road is.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler import codec, process, sandbox
from reconciler.disk import DISK
from reconciler.model import Name, Pipeline, PipelineId, Plan, Request, Settings, Source, Stage, StageId, TaskId
from reconciler.order import Answer, Order, Verdict
from reconciler.resolve import Place, resolve
from reconciler.stage import DRIVER, PACKAGE
from tests.scratch import Scratch, wait_for

pytestmark = [
    pytest.mark.executed,
    pytest.mark.skipif(bool(sandbox.probe().reason), reason=sandbox.probe().reason),
]

TOKEN = "planted-Zx81qKd0Wm"
ALL = ["filesystem", "network", "processes", "environment"]
PYTHON = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
needs_python = pytest.mark.skipif(PYTHON is None, reason="there is no python3 in a system directory")


def pipeline(*stages: dict[str, Any], workspace: str = "worktree") -> str:
    return json.dumps({"workspace": workspace, "stages": list(stages)})


def let(scratch: Scratch, *stages: dict[str, Any], workspace: str = "worktree", **environment: str) -> list[str]:
    """Run stages one after the other, each in a sandbox if it says no other, and return what they printed."""
    made = [{"id": f"s{index}", "sandbox": {}, **each} for index, each in enumerate(stages)]
    planned = [{key: value for key, value in each.items() if value is not None} for each in made]
    scratch.settings()
    scratch.pipeline("p", pipeline(*planned, workspace=workspace))
    scratch.request("a", "p")
    scratch.commit()
    done = scratch.run("reconcile", "--wait", **environment)
    assert done.returncode in (0, 1), done.stderr
    return [said(scratch, each["id"]) for each in planned]


def said(scratch: Scratch, stage: str) -> str:
    path = scratch.stages("a")[stage]["log_path"]
    return scratch.git("show", f"HEAD:{path}") if path else ""


def hostile(scratch: Scratch, script: str, workspace: str = "worktree", **environment: str) -> str:
    """Return what a stage printed that was kept apart in every way, and that went on whatever failed in it."""
    [seen] = let(scratch, {"command": f"exec 2>&1\n{script}\necho end"}, workspace=workspace, **environment)
    stage = scratch.stages("a")["s0"]
    assert stage["sandbox"] == {"enforced": ALL, "unenforced": [], "reason": ""}
    assert seen.endswith("end\n"), seen
    return seen


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process of the same person, with a secret in its environment."""
    started = subprocess.Popen(["sleep", "600"], env={**os.environ, "VICTIM_TOKEN": TOKEN}, start_new_session=True)
    yield started
    started.kill()
    started.wait()


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("workspace", ["worktree", "checkout", "empty"])
def test_the_config_and_hooks_of_the_repository_are_out_of_reach(scratch: Scratch, workspace: str) -> None:
    scratch.git("config", "http.extraHeader", f"Authorization: {TOKEN}")
    scratch.write(".git/hooks/post-checkout", f"#!/bin/sh\n# {TOKEN}\n")
    scratch.write(".git/logs/planted", TOKEN)
    seen = hostile(
        scratch,
        f"""
        cat {scratch.path}/.git/config "$(git rev-parse --git-common-dir)"/config
        git config --list
        ls {scratch.path}/.git/hooks {scratch.path}/.git/logs
        grep -r {TOKEN[:-1]} {scratch.path}/.git .git
        git -C {scratch.path} log --format=subject:%s
        git config user.name evil || echo not written
        git commit --allow-empty -m evil || echo not committed
        """,
        workspace=workspace,
    )
    assert TOKEN not in seen
    assert "subject:change" in seen
    assert "not written" in seen
    assert "not committed" in seen
    assert TOKEN in scratch.git("config", "--list")
    assert scratch.git("log", "--all", "--format=%s", "--grep=evil") == ""


@pytest.mark.parametrize("workspace", ["worktree", "checkout"])
def test_git_can_be_read(scratch: Scratch, workspace: str) -> None:
    scratch.write("file", "old\n")
    scratch.commit()
    seen = hostile(scratch, "echo new > file; git status --short; git diff; git show HEAD:file", workspace=workspace)
    assert " M file" in seen
    assert "-old\n+new\n" in seen
    assert seen.endswith("old\nend\n")


def test_what_leads_to_the_repository_cannot_be_replaced(scratch: Scratch) -> None:
    """Git outside of the sandbox would believe a config that stands where the file points."""
    seen = hostile(
        scratch,
        "rm -f .git; mv .git away; echo gitdir: evil > .git; mkdir evil && mv evil .git; ln -sf evil .git; cat .git",
    )
    assert f"gitdir: {scratch.path}/.git/worktrees/" in seen


def test_a_stage_does_not_start_where_an_earlier_one_replaced_that(scratch: Scratch) -> None:
    let(scratch, {"command": "rm .git; ln -s evil .git", "sandbox": None}, {"command": "echo ran"})
    stage = scratch.stages("a")["s1"]
    assert stage["status"] == "failed"
    assert stage["summary"].startswith("cannot be sandboxed here: the file '.git' of the workspace")
    assert stage["sandbox"]["unenforced"] == ALL


@pytest.mark.parametrize("workspace", ["worktree", "checkout", "empty"])
def test_the_records_of_runs_are_out_of_reach(scratch: Scratch, workspace: str) -> None:
    seen = hostile(
        scratch,
        """
        cat $RECONCILER_RUN_DIR/.resume-token $RECONCILER_RUN_DIR/plan.json $RECONCILER_RUN_DIR/claims/1.json
        cat $RECONCILER_MANIFEST_PATH
        echo seen: $(ls -A $RECONCILER_RUN_DIR)
        echo evil > $RECONCILER_RUN_DIR/cancels || echo not written
        echo evil > $RECONCILER_RUN_DIR/lock || echo no lock
        """,
        workspace=workspace,
    )
    assert f"seen: {'home' if workspace == 'checkout' else 'home workspace'}\n" in seen
    assert "plan_digest" not in seen
    assert "resume_token_sha256" not in seen
    assert seen.count("No such file") == 4
    assert "not written" in seen
    assert "no lock" in seen
    assert (scratch.directory("a") / ".resume-token").read_text().strip() not in seen


def test_nothing_is_written_outside_of_the_workspace(scratch: Scratch) -> None:
    places = ["/usr/x", "/etc/x", "/x", "/opt/x", "..", f"{scratch.path}", f"{scratch.outside}", "/proc/sys/kernel/x"]
    seen = hostile(
        scratch,
        "\n".join(f"touch {each}/x && echo written: {each}" for each in places)
        + "\necho x > /proc/sys/kernel/domainname && echo written: sys\n"
        + "find /proc/* -maxdepth 0 -type f -writable -print\n"
        + "find /proc/sys /proc/irq /proc/bus /proc/fs -writable -type f -print\n"
        + f"echo x > /tmp/{TOKEN} && echo x > /var/tmp/{TOKEN} && echo x > inside && echo x > ~/inside && echo private",
    )
    assert "written:" not in seen
    assert "\n/proc/" not in seen
    assert "private" in seen
    assert not Path(f"/tmp/{TOKEN}").exists()
    assert not list(scratch.outside.iterdir())


def test_a_link_that_a_stage_plants_leads_nowhere(scratch: Scratch) -> None:
    (scratch.outside / "secret").write_text(TOKEN)
    seen = hostile(scratch, f"ln -s {scratch.outside} link; cat link/secret; echo evil > link/secret; ls link/")
    assert TOKEN not in seen
    assert (scratch.outside / "secret").read_text() == TOKEN


def test_a_link_that_an_earlier_stage_planted_is_not_opened(scratch: Scratch) -> None:
    (scratch.outside / "secret").write_text(TOKEN)
    [_, seen] = let(
        scratch,
        {"command": f"mkdir -p out; ln -s {scratch.outside} out/build"},
        {"command": "cat out/build/secret; echo evil > out/build/secret", "sandbox": {"write": ["out/build"]}},
    )
    assert "'out/build' leads over what is neither a directory nor a file" in seen
    assert scratch.stages("a")["s1"]["status"] == "failed"
    assert (scratch.outside / "secret").read_text() == TOKEN


def test_only_named_paths_can_be_changed(scratch: Scratch) -> None:
    scratch.write("kept", "kept\n")
    scratch.write("one", "one\n")
    stage = {
        "command": "echo new > one; echo x > build/x; echo x > deep/er/x; cat kept; touch kept y build/../z",
        "sandbox": {"write": ["build", "deep/er", "one"]},
    }
    [seen, after] = let(scratch, {**stage, "allow_failure": True}, {"command": "cat one build/x deep/er/x; ls"})
    assert seen.startswith("kept\n")
    assert seen.count("Read-only file system") == 3
    assert after == "new\nx\nx\nbuild\ndeep\nkept\none\npipelines\nreconciler.yaml\nruns.d\n"


def test_the_home_of_the_person_is_out_of_reach(scratch: Scratch) -> None:
    home = scratch.outside / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id_ed25519").write_text(TOKEN)
    person = Path("~").expanduser()
    seen = hostile(
        scratch,
        f"cat {home}/.ssh/id_ed25519; ls -A {person} && echo home seen; ls -A /root && echo root seen; "
        "ls -A ~ && echo empty; stat -c %a ~; echo x > ~/.profile",
        HOME=str(home),
    )
    assert TOKEN not in seen
    assert "seen" not in seen
    assert "empty\n700\n" in seen
    assert not (scratch.directory("a") / "home").exists()


def test_what_lies_in_a_system_directory_and_must_not_be_seen_is_covered(tmp_path: Path) -> None:
    scene = sandbox.Scene(
        workspace="/opt/app/.runs/t/cli/r/workspace",
        cwd="/opt/app/.runs/t/cli/r/workspace",
        home="/opt/app/.runs/t/cli/r/home",
        hidden=("/opt/app", "/opt/app/.runs"),
        links=(),
        readable=("/opt",),
    )
    words = sandbox.arguments(scene, sandbox.Demand(), {}, kept=3, files={})
    order = [words.index(each) for each in ("/opt", "/opt/app", "/opt/app/.runs", scene.home, scene.workspace)]
    assert order == sorted(order)
    assert words[order[1] - 1] == "--tmpfs"


# ------------------------------------------------------------------------------------------------ processes


def test_other_processes_are_not_seen(scratch: Scratch, victim: subprocess.Popen[bytes]) -> None:
    seen = hostile(scratch, f"cat /proc/*/environ /proc/{victim.pid}/environ | tr '\\0' '\\n'; ls -d /proc/[0-9]*")
    assert TOKEN not in seen
    assert "/proc/1\n" in seen
    assert len([line for line in seen.splitlines() if line.startswith("/proc/")]) < 6


def test_other_processes_cannot_be_killed(scratch: Scratch, victim: subprocess.Popen[bytes]) -> None:
    pids = f"{victim.pid} {os.getpid()}"
    [seen] = let(scratch, {"command": f"kill -0 {pids} && echo reached; kill -9 {pids} && echo reached; kill -9 -1"})
    assert "reached" not in seen
    assert victim.poll() is None


@needs_python
def test_other_processes_cannot_be_traced(scratch: Scratch, victim: subprocess.Popen[bytes]) -> None:
    program = (
        "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
        f"print([(libc.ptrace(16, each, 0, 0), os.strerror(ctypes.get_errno())) for each in ({victim.pid}, 2 ** 20)])"
    )
    seen = hostile(scratch, f"{PYTHON} -c '{program}'")
    assert seen.startswith("[(-1, 'No such process'), (-1, 'No such process')]")


def test_a_daemon_is_gone_when_its_stage_ends(scratch: Scratch) -> None:
    daemon = f"setsid sh -c 'while :; do echo {TOKEN} >> alive; sleep 0.01; done' < /dev/null > /dev/null 2>&1 &"
    [_, first, second] = let(
        scratch,
        {"command": f"({daemon}) ; while ! test -s alive; do sleep 0.01; done"},
        {"command": "wc -l < alive"},
        {"command": "sleep 0.2; wc -l < alive"},
    )
    assert first == second
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{name}/cmdline").read_bytes()
            assert not (TOKEN.encode() in words and b"setsid" not in words and b"pytest" not in words), words


def test_nothing_is_mounted_and_no_right_is_gained(scratch: Scratch) -> None:
    seen = hostile(
        scratch,
        """
        mkdir here
        mount -t tmpfs none here && echo gained
        mount -o remount,rw /usr && echo gained
        mount --bind / here && echo gained
        umount /proc/sys && echo gained
        unshare -Urm true && echo gained
        unshare -m true && echo gained
        chroot / true && echo gained
        mknod disk b 8 0 && echo gained
        grep -e CapEff -e CapBnd -e NoNewPrivs /proc/self/status
        """,
    )
    assert "gained" not in seen
    assert "CapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nNoNewPrivs:\t1" in seen


@needs_python
def test_a_descriptor_leads_to_no_directory_outside(scratch: Scratch) -> None:
    [seen] = let(
        scratch,
        {
            "command": f'{PYTHON} -c \'import os; [print(each, os.readlink(f"/proc/self/fd/{{each}}")) '
            'for each in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{each}")]\'',
            "sandbox": {"write": ["build"]},
        },
    )
    others = [line.split(" ")[1] for line in seen.splitlines() if int(line.split(" ")[0]) > 2]
    assert others == [f"{scratch.directory('a')}/lock"]


# ------------------------------------------------------------------------------------------------ the network


@pytest.fixture
def port() -> Iterator[int]:
    """A server on loopback that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


CONNECT = 'import socket; socket.create_connection(("127.0.0.1", {port}), 5); print("connected")'


@needs_python
def test_a_server_on_loopback_is_not_reached(scratch: Scratch, port: int) -> None:
    seen = hostile(scratch, f"{PYTHON} -c '{CONNECT.format(port=port)}'; cat /proc/net/route | wc -l")
    assert "Connection refused" in seen
    assert "connected" not in seen
    assert "\n1\nend\n" in seen


@needs_python
def test_a_stage_that_may_use_the_network_does(scratch: Scratch, port: int) -> None:
    [seen] = let(scratch, {"command": f"{PYTHON} -c '{CONNECT.format(port=port)}'", "sandbox": {"network": True}})
    assert seen == "connected\n"
    assert scratch.stages("a")["s0"]["sandbox"]["enforced"] == ["filesystem", "processes", "environment"]


# ------------------------------------------------------------------------------------------------ the environment


def test_the_environment_of_the_reconciler_is_out_of_reach(scratch: Scratch) -> None:
    given = {"AWS_SECRET_ACCESS_KEY": TOKEN, "SSH_AUTH_SOCK": "/run/agent", "SURPRISE": "surprise", "LC_TIME": "C"}
    seen = hostile(scratch, "env; cat /proc/1/environ", **given)
    assert TOKEN not in seen
    assert "surprise" not in seen
    assert "SSH_AUTH_SOCK" not in seen
    names = {line.partition("=")[0] for line in seen.splitlines() if "=" in line}
    assert {each for each in names if not each.startswith(("RECONCILER_", "LC_"))} <= {
        *("PATH", "HOME", "TMPDIR", "LANG", "LANGUAGE", "TERM", "COLORTERM", "NO_COLOR", "TZ", "USER", "LOGNAME"),
        *("PWD", "OLDPWD", "SHLVL", "_"),
    }
    assert {"RECONCILER_RUN_ID", "LC_TIME"} <= names


def test_a_secret_that_is_named_arrives_and_is_seen_nowhere(scratch: Scratch) -> None:
    [seen] = let(
        scratch,
        {
            "command": f'test "$ORDINARY" = {TOKEN[:7]}-other && echo arrived; echo $ORDINARY; cat /proc/*/cmdline',
            "env": {"OWN": "own"},
            "sandbox": {"secrets": ["ORDINARY", "NOT_THERE"]},
        },
        ORDINARY=f"{TOKEN[:7]}-other",
        OTHER=TOKEN,
    )
    assert seen.startswith("arrived\n[redacted:")
    assert f"{TOKEN[:7]}-other" not in seen.partition("cat /proc")[0].replace("echo arrived", "")


def test_a_variable_of_a_stage_reaches_no_program_outside(scratch: Scratch) -> None:
    """A library that the stage names must not be loaded by bubblewrap itself, which stands outside."""
    (scratch.outside / "evil.so").write_text("no library")
    [seen] = let(scratch, {"command": "true", "env": {"LD_PRELOAD": f"{scratch.outside}/evil.so"}})
    assert seen.count("cannot be preloaded") <= 1
    assert "bwrap" not in seen


# ------------------------------------------------------------------------------------------------ life and death


def test_a_stage_gets_its_grace(scratch: Scratch) -> None:
    scratch.settings()
    stage = {"id": "s0", "sandbox": {}, "timeout": "1s"}
    stage["command"] = "trap 'echo goodbye; exit 3' TERM; echo ready; sleep 60 & wait"
    scratch.pipeline("p", pipeline(stage))
    scratch.request("a", "p")
    scratch.commit()
    scratch.run("reconcile", "--wait")
    assert said(scratch, "s0") == "ready\ngoodbye\n"
    assert scratch.stages("a")["s0"]["timed_out"]


def test_a_stage_that_signals_its_group_does_not_end_its_sandbox(scratch: Scratch) -> None:
    [seen] = let(scratch, {"command": "trap '' TERM; kill 0; sleep 0.1; echo survived; exit 7"})
    assert seen.endswith("survived\n")
    assert scratch.stages("a")["s0"]["exit_code"] == 7


def test_a_stage_that_heeds_nothing_is_killed_with_all_of_it(scratch: Scratch) -> None:
    [seen] = let(scratch, {"command": "trap '' TERM; setsid sleep 600 & echo ready; sleep 600", "timeout": "1s"})
    assert seen == "ready\n"
    stage = scratch.stages("a")["s0"]
    assert (stage["status"], stage["signal"], stage["timed_out"]) == ("failed", "SIGKILL", True)


def test_a_stage_holds_the_lock_of_its_run_and_dies_with_its_worker(scratch: Scratch) -> None:
    scratch.settings()
    command = "test -e second || { touch second; setsid sleep 601 & sleep 600; }"
    scratch.pipeline("p", pipeline({"id": "s0", "sandbox": {}, "command": command}))
    scratch.request("a", "p")
    scratch.commit()
    scratch.run("reconcile")
    scratch.wait_for(lambda: scratch.record("a", "workspace/second").exists())
    lock = scratch.directory("a") / "lock"
    wait_for(lambda: len(sleeping(lock)) == 2)
    worker = scratch.attempt("a")["worker"]["pid"]
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: not process.holders(lock))
    assert not sleeping(lock)
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    assert [each["outcome"] for each in scratch.manifest("a")["attempts"]] == ["lost", "succeeded"]


def test_a_cancelled_stage_is_ended_with_all_of_it(scratch: Scratch) -> None:
    scratch.settings()
    scratch.pipeline("p", pipeline({"id": "s0", "sandbox": {}, "command": "setsid sleep 601 & sleep 600"}))
    scratch.request("a", "p")
    scratch.commit()
    scratch.run("reconcile")
    scratch.wait_for(lambda: scratch.record("a", "lock").exists())
    lock = scratch.directory("a") / "lock"
    wait_for(lambda: len(sleeping(lock)) == 2)
    assert scratch.run("cancel", "a", "--reason", "enough").returncode in (0, 1)
    scratch.run("reconcile", "--wait")
    assert not process.holders(lock)
    assert scratch.manifest("a")["status"] == "cancelled"


def sleeping(lock: Path) -> list[int]:
    """Return the processes called `sleep` that hold a lock."""
    found = []
    for each in process.holders(lock):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{each.pid}/comm").read_text() == "sleep\n":
                found.append(each.pid)
    return found


def test_what_a_stage_used_is_counted(scratch: Scratch) -> None:
    let(scratch, {"command": "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"})
    stage = scratch.stages("a")["s0"]
    assert stage["cpu_user_s"] > 0.05
    assert stage["memory_peak_bytes"] > 100_000


def test_the_driver_of_a_stage_works_and_answers_in_a_sandbox(tmp_path: Path) -> None:
    """A command is enough: to say how it went, the driver must read its order, import and answer."""
    run, checkout = tmp_path / "runs/t/cli/r", tmp_path / "checkout"
    for each in (run / "workspace", checkout):
        each.mkdir(parents=True)
    plan = planned()
    order = Order(
        plan=plan, stage=plan.stages[0].id, number=1, try_number=1, commit=plan.commit, run_directory=str(run),
        workspace=str(run / "workspace"), checkout=str(checkout),
    )  # fmt: skip
    around = sandbox.Surroundings(
        workspace=run / "workspace", run_directory=run, home=run / "home", checkout=checkout, package=PACKAGE,
        artifacts=str(run / order.artifacts),
    )  # fmt: skip
    wall = sandbox.build(plan.stages[0], sandbox.Demand(), around, missing="refuse")
    assert wall.record()["enforced"] == ALL
    lock = DISK.take_lock(run / "lock")
    assert lock is not None
    reading, answering = os.pipe()
    left = f"open({str(run / order.artifacts / 'left')!r}, 'w').close(); "
    argv = (sys.executable, "-I", "-c", DRIVER.replace("sys.exit(", f"{left}sys.exit("), PACKAGE, str(answering))
    found = sandbox.launch(wall, argv, {}, lock)
    done = subprocess.run(
        found.argv, input=codec.compact(order), env={}, pass_fds=(*found.given, answering), capture_output=True,
        check=False, timeout=60,
    )  # fmt: skip
    found.close()
    os.close(answering)
    answer = codec.parse(Answer, os.read(reading, 65536))
    assert answer.verdict == Verdict.PASSED, (answer, done.stderr)
    assert (run / order.artifacts / "left").exists()


def planned() -> Plan:
    pipeline = Pipeline(
        id=PipelineId("p"),
        source=Source(path="pipelines/p.yaml"),
        stages=(Stage(id=StageId("s"), command="true", sandbox={}),),
    )
    request = Request(name=Name("r"), source=Source(path="runs.d/r.yaml"), task=TaskId("t"), pipeline=pipeline.id)
    plan = resolve(request, {pipeline.id: pipeline}, Settings(), Place(commit="c" * 40, branch="main"))
    assert isinstance(plan, Plan)
    return plan


# ------------------------------------------------------------------------------------------------ without it


@pytest.fixture
def without(tmp_path: Path) -> str:
    """A PATH on which there is no bubblewrap."""
    place = tmp_path / "programs"
    place.mkdir()
    for name in ("git", "sh", "cat", "env", "touch", "ls", "sleep"):
        found = shutil.which(name)
        assert found is not None
        (place / name).symlink_to(found)
    return str(place)


def test_without_bubblewrap_a_stage_is_refused(scratch: Scratch, without: str) -> None:
    [seen] = let(scratch, {"command": "echo ran", "attempts_max": 3, "backoff": "1h"}, PATH=without)
    stage = scratch.stages("a")["s0"]
    assert (stage["status"], stage["tries"]) == ("failed", 1)
    assert stage["summary"] == (
        "cannot be sandboxed here: bubblewrap (bwrap) is not installed; install bubblewrap, or set "
        "'sandbox: {missing: record}'"
    )
    assert seen == f"{stage['summary']}\n"
    assert stage["sandbox"] == {"enforced": [], "unenforced": ALL, "reason": stage["summary"]}


def test_without_bubblewrap_a_stage_may_run_and_the_manifest_says_so(scratch: Scratch, without: str) -> None:
    scratch.settings("sandbox: {missing: record}\n")
    stage = {"id": "s0", "sandbox": {}, "command": "env"}
    scratch.pipeline("p", pipeline(stage))
    scratch.request("a", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait", PATH=without, SURPRISE="surprise").returncode == 0
    seen = said(scratch, "s0")
    assert "surprise" not in seen
    assert f"HOME={scratch.directory('a')}/home\n" in seen
    assert scratch.stages("a")["s0"]["sandbox"] == {
        "enforced": ["environment"],
        "unenforced": ["filesystem", "network", "processes"],
        "reason": "unsandboxed: bubblewrap (bwrap) is not installed",
    }


def test_a_bubblewrap_that_does_not_work_counts_as_none(scratch: Scratch, without: str) -> None:
    fake = Path(without) / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    [seen] = let(scratch, {"command": "echo ran"}, PATH=without)
    assert seen.startswith(
        "cannot be sandboxed here: bubblewrap does not work: bwrap: No permissions to create new namespace; install"
    )


def test_a_stage_that_asks_for_none_gets_none(scratch: Scratch) -> None:
    [seen] = let(scratch, {"command": "echo $SURPRISE", "sandbox": None}, SURPRISE="surprise")
    assert seen == "surprise\n"
    assert scratch.stages("a")["s0"]["sandbox"] is None
