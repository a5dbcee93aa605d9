"""Slurm as an engine, on a real cluster of this machine: what is submitted, how it ends, and what survives which death."""

from __future__ import annotations

import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.executors import ordering
from reconciler.executors import slurm_words as words
from reconciler.executors.engine import EngineSilent, Sighting, Standing, Submission
from reconciler.executors.slurm import Slurm
from reconciler.executors.slurm_commands import Commands
from reconciler.model import Attempt, Outcome
from reconciler.places import Cause, Resources
from reconciler.work import CREDENTIAL_VARIABLE, KEY_VARIABLE, handle_of, repository_of
from tests.placed import Placed, placed
from tests.scratch import Scratch
from tests.slurm import PATH, Cluster, cluster, wait_for
from tests.smart_http import SmartServer

pytestmark = pytest.mark.xdist_group("slurm")

REPOSITORY = "0a1b2c3d"
SECRET = 'it\'s "secret" $HOME `id`\n#SBATCH --partition=nowhere\n'
FOREVER = "echo begun; exec sleep 1000"


def submission(name: str, script: str = "true", repository: str = REPOSITORY, **resources: Any) -> Submission:
    """Return an attempt that executes a script of the shell."""
    run_id = f"{name}-1a2b3c4d"
    return Submission(
        handle=handle_of(repository, run_id, 1), repository=repository, run_id=run_id, task_id="0001-demo",
        number=1, arguments=("-c", script, "--", run_id), secrets={"RECONCILER_WORK_KEY": SECRET},
        resources=Resources(**resources), grace_s=1.0,
    )  # fmt: skip


@pytest.fixture(scope="session")
def hasty() -> Submission:
    """Return an attempt whose time is over soon: Slurm looks every half minute, so it begins before all others."""
    return submission("hasty", FOREVER, repository="eeeeeeee", time_s=30.0)


@pytest.fixture(scope="session")
def slurm(hasty: Submission) -> Iterator[Cluster]:
    with cluster() as found:
        engine = found.engine()
        assert engine.submit([hasty]) == {}
        until(engine, hasty, Standing.RUNNING)
        end_soon(found, hasty)
        yield found


def end_soon(slurm: Cluster, each: Submission) -> None:
    """Move the end of its time to now: Slurm itself counts in minutes."""
    number = slurm.ask("squeue", "-h", "-n", each.handle, "-o", "%A").strip()
    slurm.ask("scontrol", "update", f"JobId={number}", "EndTime=now+1seconds")


@pytest.fixture
def engine(slurm: Cluster) -> Slurm:
    return slurm.engine()


def until(engine: Slurm, each: Submission, standing: Standing) -> Sighting:
    """Wait until a submission stands somewhere, and return what is seen of it."""
    found: dict[str, Sighting] = {}

    def look() -> bool:
        found.update(engine.observe([each.handle]))
        assert found[each.handle].standing in (standing, Standing.QUEUED, Standing.RUNNING), found
        return found[each.handle].standing == standing

    wait_for(look, f"it does not come to be {standing.value}")
    return found[each.handle]


def until_it_says(engine: Slurm, each: Submission, word: bytes) -> None:
    wait_for(lambda: word in engine.logs(each.handle, 4096), f"{each.handle} does not say {word!r}")


def place(engine: Slurm, *submissions: Submission) -> None:
    assert engine.submit(submissions) == {}


def living(engine: Slurm) -> set[str]:
    """Return the handles of what somebody who remembers nothing finds, and that has not ended."""
    seen = engine.observe(list(engine.adopt(REPOSITORY)))
    return {each for each, found in seen.items() if found.standing in (Standing.QUEUED, Standing.RUNNING)}


# ------------------------------------------------------------------------------------------------ what is submitted


def test_what_is_submitted_is_executed_once_and_its_secrets_are_its_own(slurm: Cluster, engine: Slurm) -> None:
    loud = submission("loud", 'printf "%s" "$RECONCILER_WORK_KEY" | od -An -c; echo "$1"; umask; sleep 2; exit 3')
    calm, alone = submission("calm", "echo $TOOLS"), submission("alone", "kill -9 $$", cpus=2, memory_bytes=20 << 20)
    engine = slurm.engine(environment={"TOOLS": "a $b 'c'"})
    place(engine, loud, calm, alone)
    place(engine, loud, calm, alone)
    assert {each.standing for each in engine.observe([loud.handle, calm.handle]).values()} <= {"queued", "running"}

    seen = slurm.ask("scontrol", "show", "job", "--details") + slurm.ask("squeue", "--json") + listed_processes()
    assert "it's" not in seen and "#SBATCH" not in seen
    adopted = slurm.engine().adopt(REPOSITORY)
    assert adopted[loud.handle] == adopted[alone.handle] == {"RECONCILER_WORK_KEY": SECRET}
    assert slurm.engine().adopt("ffffffff") == {}

    ends = {each.handle: until(engine, each, Standing.ENDED) for each in (loud, calm, alone)}
    assert [each.cause for each in ends.values()] == [None, None, None]
    assert "FAILED (NonZeroExitCode), exit code 3" in ends[loud.handle].detail
    assert "COMPLETED, exit code 0" in ends[calm.handle].detail
    assert "signal 9" in ends[alone.handle].detail
    assert ends[calm.handle].place == slurm.node
    said = engine.logs(loud.handle, 4096).split()
    assert b"".join(said[: said.index(b"loud-1a2b3c4d")]).startswith(b'it\'s"secret"$HOME`id`\\n#SBATCH')
    assert said[-1] == b"0022"
    assert engine.logs(calm.handle, 4096) == b"a $b 'c'\n"
    assert engine.logs(calm.handle, 4) == b"'c'\n"[-4:]
    assert (slurm.place / "output" / f"{alone.handle}.log").stat().st_mode & 0o077 == 0
    late = slurm.engine().adopt(REPOSITORY)
    assert all(late[handle] == {"RECONCILER_WORK_KEY": SECRET} for handle in ends), "for who comes when it has ended"
    place(engine, loud, calm, alone)
    assert {each.standing for each in engine.observe(list(ends)).values()} == {Standing.ENDED}


def listed_processes() -> str:
    import subprocess

    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_what_is_not_known_is_absent(engine: Slurm) -> None:
    nobody = submission("nobody").handle
    assert engine.observe([nobody])[nobody].standing == Standing.ABSENT
    assert engine.observe([]) == {}
    assert engine.logs(nobody, 100) == b""
    assert engine.logs("../../etc/passwd", 100) == b""
    engine.cancel([nobody])
    engine.cancel([])


def test_a_refusal_says_whether_it_will_pass(slurm: Cluster, engine: Slurm) -> None:
    asked = {
        "no-partition": (submission("no-partition", partition="nowhere"), True),
        "no-reservation": (submission("no-reservation", reservation="never"), True),
        "memory": (submission("memory", memory_bytes=1 << 50), True),
        "gpus": (submission("gpus", gpus=4), True),
        "an-option": (submission("an-option", partition="-x --wrap=id"), True),
        "drained": (submission("drained", partition="drained"), False),
    }
    turned = engine.submit([each for each, _ in asked.values()])
    for each, settled in asked.values():
        assert turned[each.handle].settled == settled, turned[each.handle]
    assert "invalid partition" in turned[asked["no-partition"][0].handle].reason
    assert "not available" in turned[asked["drained"][0].handle].reason
    again = engine.submit([asked["memory"][0]])
    assert again[asked["memory"][0].handle].settled
    waiting = submission("waiting", partition="down")
    place(engine, waiting)
    wait_for(lambda: "its partition is down" in engine.observe([waiting.handle])[waiting.handle].detail, "no reason")
    assert engine.observe([waiting.handle])[waiting.handle].standing == Standing.QUEUED
    engine.cancel([waiting.handle])
    assert until(engine, waiting, Standing.ENDED).cause == Cause.ENGINE_CANCELLED
    assert slurm.ask("squeue", "-h", "-n", waiting.handle) == ""


def test_of_two_clients_that_submit_at_once_one_has_it_executed(slurm: Cluster) -> None:
    ledger = slurm.place / "ledger"
    asked = [submission(f"twin-{index}", f"echo $1 >> {ledger}; sleep 1") for index in range(6)]
    ready = threading.Barrier(4)

    def submit(engine: Slurm) -> None:
        ready.wait()
        place(engine, *asked)

    clients = [slurm.engine(arrays=index % 2 == 0) for index in range(4)]
    threads = [threading.Thread(target=submit, args=(each,)) for each in clients]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for each in asked:
        assert until(clients[0], each, Standing.ENDED).cause is None
    assert sorted(ledger.read_text().split()) == sorted(each.run_id for each in asked)
    assert slurm.ask("squeue", "-h", "--states=PENDING") == ""


@pytest.mark.parametrize("count", [1, 3])
def test_what_a_killed_client_has_submitted_the_next_one_lets_begin(slurm: Cluster, count: int) -> None:
    options = words.Options(program=("/bin/sh",), output=str(slurm.place / "output"))
    asked = [submission(f"orphan-{count}-{index}", f"echo {index}") for index in range(count)]
    said = Commands("", str(slurm.config), 20.0).run(
        "sbatch", words.words_of(options, asked), words.script_of(options, asked)
    )
    assert said.status == 0, said
    time.sleep(2.5)  # longer than Slurm takes to begin what may
    assert len(slurm.ask("squeue", "-h", "-r", "--states=PENDING", "-o", "%T").split()) == count
    assert living(slurm.engine()) == {each.handle for each in asked}
    for index, each in enumerate(asked):
        assert until(slurm.engine(), each, Standing.ENDED).cause is None
        assert slurm.engine().logs(each.handle, 100) == f"{index}\n".encode()


def test_two_hundred_are_submitted_in_one_call(slurm: Cluster, engine: Slurm) -> None:
    asked = [submission(f"many-{index}", partition="down") for index in range(200)]
    handles = [each.handle for each in asked]
    spans: dict[str, float] = {}
    for name, act in (
        ("submit", lambda: place(engine, *asked)),
        ("submit again", lambda: place(engine, *asked)),
        ("observe", lambda: engine.observe(handles)),
        ("adopt", lambda: engine.adopt(REPOSITORY)),
        ("cancel", lambda: engine.cancel(handles)),
    ):
        started_s = time.monotonic()
        act()
        spans[name] = time.monotonic() - started_s
    assert {each.standing for each in engine.observe(handles).values()} == {Standing.ENDED}
    single = [submission(f"single-{index}", partition="down") for index in range(200)]
    started_s = time.monotonic()
    place(slurm.engine(arrays=False), *single)
    spans["submit without arrays"] = time.monotonic() - started_s
    engine.cancel([each.handle for each in single])
    print("200 submissions:", ", ".join(f"{name} {taken_s:.2f} s" for name, taken_s in spans.items()))


# ------------------------------------------------------------------------------------------------ how it ends


def test_cancelled_it_gets_a_term_first(engine: Slurm) -> None:
    asked = submission("polite", "trap 'echo told; exit 0' TERM; echo begun; while :; do sleep 0.1; done")
    place(engine, asked)
    until_it_says(engine, asked, b"begun")
    engine.cancel([asked.handle])
    engine.cancel([asked.handle])
    assert until(engine, asked, Standing.ENDED).cause == Cause.ENGINE_CANCELLED
    until_it_says(engine, asked, b"told")
    engine.cancel([asked.handle])


def test_one_that_does_not_heed_term_is_killed(engine: Slurm) -> None:
    asked = submission("deaf", "trap '' TERM; echo begun; while :; do sleep 0.1; done")
    place(engine, asked)
    until_it_says(engine, asked, b"begun")
    engine.cancel([asked.handle])
    assert until(engine, asked, Standing.ENDED).cause == Cause.ENGINE_CANCELLED


def test_out_of_memory(engine: Slurm) -> None:
    asked = submission("greedy", "echo begun; head -c 300m /dev/zero | tail -c 200m | sleep 100", memory_bytes=30 << 20)
    place(engine, asked)
    found = until(engine, asked, Standing.ENDED)
    assert found.cause == Cause.OUT_OF_MEMORY, (found, engine.logs(asked.handle, 4096))


def test_preempted_or_put_back_into_the_queue(slurm: Cluster, engine: Slurm) -> None:
    patient = slurm.engine(requeue=True)
    lost = submission("lost", FOREVER, cpus=32)
    back = submission("back", 'echo "begun $SLURM_RESTART_COUNT"; test -n "$SLURM_RESTART_COUNT" || sleep 1000',
                      cpus=31, partition="again")  # fmt: skip
    place(engine, lost)
    place(patient, back)
    until_it_says(engine, lost, b"begun")
    until_it_says(engine, back, b"begun")
    urgent = submission("urgent", cpus=63, partition="urgent")  # all but what `hasty` has
    place(engine, urgent)
    assert until(engine, lost, Standing.ENDED).cause == Cause.PREEMPTED
    assert until(engine, urgent, Standing.ENDED).cause is None
    waiting = wait_for(
        lambda: found if (found := engine.observe([back.handle])[back.handle]).standing == "queued" else None, ""
    )
    assert "requeued 1 times" in waiting.detail
    assert living(engine) == {back.handle}
    number = slurm.ask("squeue", "-h", "-n", back.handle, "-o", "%A").strip()
    slurm.ask("scontrol", "update", f"JobId={number}", "StartTime=now")  # Slurm would let it wait for two minutes
    assert until(engine, back, Standing.ENDED).cause == Cause.REQUEUED
    assert engine.logs(back.handle, 4096).count(b"begun") == 2


def test_what_was_printed_before_it_was_put_back_is_kept(slurm: Cluster) -> None:
    """Of an array too, whose tasks get the place of their output when they begin."""
    engine = slurm.engine(requeue=True)
    line = 'echo "begun ${SLURM_RESTART_COUNT:-0}"; test -n "$SLURM_RESTART_COUNT" || sleep 1000'
    asked = [submission(f"kept-{index}", line, partition="again") for index in range(2)]
    place(engine, *asked)
    for each in asked:
        until_it_says(engine, each, b"begun 0")
        number = slurm.ask("squeue", "-h", "-r", "-n", each.handle, "-o", "%i").strip()
        slurm.ask("scontrol", "requeue", number)
    time.sleep(1.1)  # a node does not begin what it has killed in the same second
    for each in asked:
        wait_for(lambda each=each: "requeued 1" in engine.observe([each.handle])[each.handle].detail, "it is not back")
        number = slurm.ask("squeue", "-h", "-r", "-n", each.handle, "-o", "%i").strip()
        if number:
            # Slurm would let it wait for two minutes; it may have begun already.
            slurm.ask("scontrol", "update", f"JobId={number}", "StartTime=now", check=False)
        assert until(engine, each, Standing.ENDED).cause == Cause.REQUEUED
        printed = engine.logs(each.handle, 4096).splitlines()
        assert [line for line in printed if line.startswith(b"begun")] == [b"begun 0", b"begun 1"]


def test_time_limit(slurm: Cluster, engine: Slurm, hasty: Submission) -> None:
    found = until(engine, hasty, Standing.ENDED)
    assert found.cause == Cause.TIME_LIMIT
    assert "TIMEOUT (TimeLimit)" in found.detail


# ------------------------------------------------------------------------------------------------ who dies


def test_a_node_that_is_lost(slurm: Cluster, engine: Slurm) -> None:
    asked = submission("unlucky", FOREVER)
    place(engine, asked)
    until_it_says(engine, asked, b"begun")
    slurm.ask("scontrol", "update", f"NodeName={slurm.node}", "State=DOWN", "Reason=test")
    assert until(engine, asked, Standing.ENDED).cause == Cause.NODE_FAILED
    slurm.ask("scontrol", "update", f"NodeName={slurm.node}", "State=RESUME", check=False)  # it may be up already
    slurm.wait_until_idle()


def test_an_attempt_survives_the_death_of_slurmd(slurm: Cluster, engine: Slurm) -> None:
    go = slurm.place / "go"
    asked = submission("survivor", f"echo begun; until test -e {go}; do sleep 0.1; done; echo survived; exit 4")
    place(engine, asked)
    until_it_says(engine, asked, b"begun")
    slurm.kill("slurmd")
    assert living(engine) == {asked.handle}
    assert engine.observe([asked.handle])[asked.handle].standing == Standing.RUNNING
    slurm.start("slurmd")
    slurm.wait_until_idle()
    assert engine.observe([asked.handle])[asked.handle].standing == Standing.RUNNING
    go.touch()
    assert "exit code 4" in until(engine, asked, Standing.ENDED).detail
    assert engine.logs(asked.handle, 100) == b"begun\nsurvived\n"


def test_without_slurmctld_the_engine_is_silent_and_then_everything_is_found_again(slurm: Cluster) -> None:
    engine = slurm.engine()
    done, under_way, queued = (
        submission("done"),
        submission("under-way", FOREVER),
        submission("queued", partition="down"),
    )
    place(engine, done, under_way)
    until(engine, done, Standing.ENDED)
    until_it_says(engine, under_way, b"begun")
    place(engine, queued)
    since = time.time()
    saved = slurm.place / "state" / "job_state"
    wait_for(lambda: saved.exists() and saved.stat().st_mtime > since, "slurmctld does not save")  # every five seconds
    slurm.kill("slurmctld")
    silent = (
        lambda: engine.observe([done.handle]),
        lambda: engine.submit([submission("meanwhile")]),
    )
    for ask in silent:
        with pytest.raises(EngineSilent, match=r"(?i)unable to contact|no answer"):
            ask()
    slurm.start("slurmctld")
    slurm.wait_until_idle()
    found = engine.observe([done.handle, under_way.handle, queued.handle])
    assert [each.standing.value for each in found.values()] == ["ended", "running", "queued"]
    assert living(engine) == {under_way.handle, queued.handle}
    told = engine.adopt(REPOSITORY)
    assert all(told[each.handle] == {"RECONCILER_WORK_KEY": SECRET} for each in (done, under_way, queued))
    place(engine, done, under_way, queued)
    assert len(slurm.ask("squeue", "-h").splitlines()) == 2
    engine.cancel([under_way.handle, queued.handle])
    for each in (under_way, queued):
        assert until(engine, each, Standing.ENDED).cause == Cause.ENGINE_CANCELLED


def test_without_commands_or_configuration_the_engine_is_silent(slurm: Cluster) -> None:
    with pytest.raises(EngineSilent, match="install Slurm's commands"):
        slurm.engine(commands="/nowhere").observe([submission("any").handle])
    with pytest.raises(EngineSilent, match="squeue"):
        slurm.engine(call_s=2.0, config="/nowhere/slurm.conf").observe([submission("any").handle])
    directory = next(each for each in PATH.split(":") if Path(each, "squeue").exists())
    assert slurm.engine(commands=directory).adopt("00000000") == {}


# ------------------------------------------------------------------------------------------------ a real attempt


def attempt(scratch: Scratch, engine: Slurm, stages: str, url: str = "", **lent: str) -> tuple[Placed, Submission]:
    """Place an attempt of a run with these stages, which a courier executes."""
    scratch.write("README.md", "hello\n")
    scratch.commit()
    run, url = placed(scratch, stages, "worktree"), url or str(scratch.path / ".git")
    run.place()
    repository = repository_of(url)
    asked = Submission(
        handle=handle_of(repository, run.plan.run_id, 1), repository=repository, run_id=run.plan.run_id, task_id="t",
        number=1, arguments=("--url", url, "--ref", run.ref), secrets={KEY_VARIABLE: run.key, **lent},
        resources=Resources(memory_bytes=400 << 20),
    )  # fmt: skip
    place(engine, asked)
    return run, asked


def brought_home(run: Placed) -> Attempt:
    """Return the record that an attempt has handed back."""
    word = ordering.read_word(run.repository, run.at() or "", run.key)
    assert word is not None and word.ended
    home = ordering.bring_home(run.repository, word, run.directory, run.plan, bytes_max=1 << 22)
    run.close()
    assert home.attempt is not None
    return home.attempt


@pytest.fixture
def couriers(slurm: Cluster) -> Slurm:
    program = [sys.executable, "-m", "reconciler.executors.courier"]
    return slurm.engine(program=program, scratch=str(slurm.place / "scratch"), requeue=True)


def test_a_run_is_executed_on_a_node_and_handed_back(scratch: Scratch, couriers: Slurm) -> None:
    run, asked = attempt(scratch, couriers, "  - {id: a, command: 'cat README.md; echo $RECONCILER_WORK_KEY.'}\n")
    assert "COMPLETED" in until(couriers, asked, Standing.ENDED).detail
    assert brought_home(run).outcome == Outcome.SUCCEEDED
    [log] = (run.directory.path / "commands").iterdir()
    assert log.read_bytes() == b"hello\n.\n"
    assert b"succeeded, handed back" in couriers.logs(asked.handle, 4096)


def test_a_token_that_is_lent_reaches_the_node(scratch: Scratch, couriers: Slurm) -> None:
    token = "1en7-70-4-n0de"
    bare = scratch.outside / "bare.git"
    bare.symlink_to(scratch.path / ".git")
    server = SmartServer(bare, secret=f"Basic {b64encode(f'x-access-token:{token}'.encode()).decode()}")
    try:
        url = server.url.replace("ann:hunter2@", "")
        lent = {CREDENTIAL_VARIABLE: token}
        run, asked = attempt(scratch, couriers, "  - {id: a, command: 'cat README.md; env'}\n", url, **lent)
        assert "COMPLETED" in until(couriers, asked, Standing.ENDED).detail
    finally:
        server.close()
    assert brought_home(run).outcome == Outcome.SUCCEEDED
    said = (run.directory.path / "commands/01-a.log").read_text() + couriers.logs(asked.handle, 1 << 16).decode()
    assert "hello" in said and token not in said and CREDENTIAL_VARIABLE not in said


def test_a_cancelled_run_hands_back_how_far_it_came(scratch: Scratch, couriers: Slurm) -> None:
    up = scratch.outside / "up"
    run, asked = attempt(scratch, couriers, f"  - {{id: a, command: 'touch {up}; exec sleep 600'}}\n")
    wait_for(up.exists, "the stage does not begin")
    couriers.cancel([asked.handle])
    assert until(couriers, asked, Standing.ENDED).cause == Cause.ENGINE_CANCELLED
    assert brought_home(run).outcome == Outcome.INTERRUPTED


def test_what_slurm_starts_again_ends_as_one_that_was_requeued(
    scratch: Scratch, slurm: Cluster, couriers: Slurm
) -> None:
    ups = scratch.outside / "ups"
    run, asked = attempt(scratch, couriers, f"  - {{id: a, command: 'echo x >> {ups}; exec sleep 600'}}\n")
    wait_for(ups.exists, "the stage does not begin")
    number = slurm.ask("squeue", "-h", "-n", asked.handle, "-o", "%A").strip()
    slurm.ask("scontrol", "requeue", number)
    wait_for(lambda: couriers.observe([asked.handle])[asked.handle].standing == Standing.QUEUED, "it is not requeued")
    slurm.ask("scontrol", "update", f"JobId={number}", "StartTime=now")
    assert until(couriers, asked, Standing.ENDED).cause == Cause.REQUEUED
    assert brought_home(run).outcome == Outcome.INTERRUPTED
    assert ups.read_text() == "x\n"


# ------------------------------------------------------------------------------------------------ a host


def test_runs_on_a_cluster_are_proven_whatever_becomes_of_their_attempts(slurm: Cluster, tmp_path: Path) -> None:
    repo = Scratch(tmp_path)
    repo.settings(f"""executors:
  local: {{weight: 0}}
  hpc:
    engine: slurm
    weight: 1
    poll: 1s
    beat: 1s
    resources: {{memory: 300MiB}}
    options:
      config: {slurm.config}
      output: {slurm.place}/output
      scratch: {slurm.place}/scratch
      program: [{sys.executable}, -m, reconciler.executors.courier]
""")
    once, told = repo.outside / "once", repo.outside / "told"
    repo.simple("killed", f"echo x >> {once}; sleep 1")
    repo.simple("greedy", "head -c 600m /dev/zero | tail -c 500m | sleep 100")
    repo.simple("nowhere", "true", resources="{partition: nowhere}")
    reconciler = repo.start("reconcile", "--wait")
    wait_for(lambda: "killed-" in slurm.ask("squeue", "-h", "-o", "%j"), "nothing is submitted")
    reconciler.kill()  # between the submission and the record of it, or a little later
    reconciler.communicate()
    assert repo.run("reconcile", "--wait").returncode == 1
    assert once.read_text() == "x\n"
    found = {name: repo.manifest(name) for name in ("killed", "greedy", "nowhere")}
    assert [each["status"] for each in found.values()] == ["succeeded", "failed", "failed"]
    assert found["killed"]["attempts"][0]["placement"]["executor"] == "hpc"
    assert "it used more memory than it has" in str(found["greedy"])
    assert "invalid partition specified" in str(found["nowhere"])

    repo.simple("preempted", f"echo $RECONCILER_ATTEMPT >> {told}; test $RECONCILER_ATTEMPT = 2 || sleep 600")
    reconciler = repo.start("reconcile", "--wait")
    wait_for(told.exists, "the stage does not begin")
    place(slurm.engine(), submission("in-a-hurry", cpus=64, partition="urgent"))
    reconciler.communicate(timeout=90)
    preempted = repo.manifest("preempted")
    assert (preempted["status"], told.read_text()) == ("succeeded", "1\n2\n")
    assert [each["outcome"] for each in preempted["attempts"]] == ["interrupted", "succeeded"]
    assert [each["cause"] for each in preempted["recoveries"]] == ["preempted"]
