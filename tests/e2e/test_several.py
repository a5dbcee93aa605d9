"""Several machines, one remote: each run is executed by one of them, whatever becomes of the others.

What happens when is told by the stages themselves, in files beside the clones. A stage that begins while another
process of its run is alive says so.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.test_remote import moved_back, reconciled
from tests.scratch import Clone, Hub, wait_for

PATIENCE_S = 20.0
"""What a machine under load may need beyond what the protocol takes."""


def trace(hub: Hub, name: str) -> list[list[str]]:
    """Return what the stages of a run wrote down: what happened, in which attempt, to which process."""
    path = hub.outside / name
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def happened(hub: Hub, name: str) -> list[str]:
    return [" ".join(each[:2]) for each in trace(hub, name)]


def telling(hub: Hub, name: str, body: str) -> str:
    """Return a command that tells when it begins and ends, and whether another one of its run was alive."""
    told = f"{hub.outside}/{name}"
    return (
        f"for each in $(sed -n 's/^start . //p' {told} 2>/dev/null); do\n"
        f"grep -qs . /proc/$each/cmdline && echo beside $RECONCILER_ATTEMPT $each >> {told}; done\n"
        f"echo start $RECONCILER_ATTEMPT $$ >> {told}\n{body}\necho end $RECONCILER_ATTEMPT $$ >> {told}\n"
    )


def asked(hub: Hub, clone: Clone, body: str, name: str = "x") -> None:
    clone.simple(name, telling(hub, name, body))
    clone.push()


FIRST_HANGS = "test $RECONCILER_ATTEMPT != 1 || sleep 300"


def concluded(reconciler: subprocess.Popen[str], timeout: float = 60) -> None:
    said, errors = reconciler.communicate(timeout=timeout)
    assert reconciler.returncode == 0, (said, errors)
    assert "Traceback" not in errors


# ------------------------------------------------------------------------------------------------ two hosts


def test_a_run_that_another_host_executes_is_shown_and_not_launched(hub: Hub) -> None:
    a, b = hub.clones("a", "b", lease_s=20)
    asked(hub, a, f"until test -e {hub.outside}/go; do sleep 0.05; done")
    first = a.start("reconcile", "--wait")
    wait_for(lambda: happened(hub, "x"))
    done = b.run("reconcile")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    [row] = json.loads(b.run("status", "--format", "json").stdout)["runs"]
    assert (row["phase"], row["attempts"], row["stage"]) == ("running", 1, f"at {os.uname().nodename}")
    assert "attempt 1 of it is executed by" in b.run("why", "x").stdout
    refused = b.run("cancel", "x", "--reason", "enough")
    assert (refused.returncode, f"it is executed by {os.uname().nodename}" in refused.stderr) == (2, True)
    assert "add 'cancel: <reason>' to its request" in refused.stderr
    assert b.run("reconcile", "--wait", "--timeout", "1s").returncode in (0, 3)
    assert not (b.path / ".runs").exists()
    (hub.outside / "go").touch()
    concluded(first)
    reconciled(b)
    assert happened(hub, "x") == ["start 1", "end 1"]
    assert hub.outcomes("x") == ["succeeded"]
    assert hub.shared() == []


def test_a_host_that_waits_for_another_one_ends_when_that_has_published(hub: Hub) -> None:
    a, b = hub.clones("a", "b", lease_s=20)
    asked(hub, a, "sleep 1.5")
    both = [each.start("reconcile", "--wait") for each in (a, b)]
    for each in both:
        concluded(each)
    assert happened(hub, "x") == ["start 1", "end 1"]
    assert hub.proofs() == {"x": 1}
    assert hub.shared() == []


def test_a_run_of_a_host_that_vanished_is_taken_over(hub: Hub) -> None:
    lease_s = 3.0
    a, b = hub.clones("a", "b", lease_s=lease_s)
    asked(hub, a, FIRST_HANGS)
    a.start("reconcile", "--wait")
    wait_for(lambda: happened(hub, "x"))
    second = b.start("reconcile", "--wait")
    wait_for(lambda: (b.path / ".git/reconciler/remote.json").exists())
    time.sleep(0.5)
    a.crash()
    vanished = time.monotonic()
    wait_for(lambda: "start 2" in happened(hub, "x"), 1.5 * lease_s + PATIENCE_S)
    took_s = time.monotonic() - vanished
    print(f"taken over {took_s:.2f} s after the host vanished, lease {lease_s:g} s")
    concluded(second)
    assert happened(hub, "x") == ["start 1", "start 2", "end 2"]
    assert hub.outcomes("x") == ["lost", "succeeded"]
    assert took_s > lease_s / 2, "nobody may take a run over before its lease has run out"
    assert hub.shared() == []
    [recovery] = hub.manifests()["x"]["recoveries"]
    assert (recovery["cause"], recovery["lost"]) == ("host_silent", 1)
    assert recovery["silent_s"] >= lease_s, "it is the silence that was measured"
    reconciled(a)
    assert hub.proofs() == {"x": 1}


def test_a_worker_that_died_is_resumed_by_its_own_host(hub: Hub) -> None:
    a, b = hub.clones("a", "b", lease_s=20)
    asked(hub, a, FIRST_HANGS)
    first = a.start("reconcile", "--wait")
    wait_for(lambda: happened(hub, "x") and a.record("x", "attempts/1.json").exists())
    second = b.start("reconcile", "--wait")
    a.kill_run("x")
    concluded(first)
    concluded(second)
    assert happened(hub, "x") == ["start 1", "start 2", "end 2"]
    assert hub.outcomes("x") == ["lost", "succeeded"]
    assert not (b.path / ".runs").exists()


def test_a_host_that_comes_back_goes_on_with_its_own_run(hub: Hub) -> None:
    a, b = hub.clones("a", "b", lease_s=60)
    asked(hub, a, FIRST_HANGS)
    a.start("reconcile", "--wait")
    wait_for(lambda: happened(hub, "x") and a.record("x", "attempts/1.json").exists())
    a.crash()
    assert b.run("reconcile", "--wait", "--timeout", "1s").returncode in (0, 3)
    assert happened(hub, "x") == ["start 1"]
    reconciled(a)
    assert happened(hub, "x") == ["start 1", "start 2", "end 2"]
    assert hub.outcomes("x") == ["lost", "succeeded"]


def test_a_host_that_lost_its_clone_is_a_stranger(hub: Hub) -> None:
    a, b = hub.clones("a", "b")
    asked(hub, a, FIRST_HANGS)
    a.run("reconcile")
    wait_for(lambda: happened(hub, "x"))
    a.crash()
    for each in (".runs", ".git/reconciler"):
        subprocess.run(["rm", "-rf", str(a.path / each)], check=True)
    reconciled(a)
    assert happened(hub, "x") == ["start 1", "start 2", "end 2"]
    assert hub.outcomes("x") == ["lost", "succeeded"]
    assert hub.shared() == []
    reconciled(b)


# ------------------------------------------------------------------------------------------------ zombies


@pytest.mark.parametrize("then", ["it hangs on", "it ends at once"])
def test_a_host_that_stood_still_does_not_publish_what_another_one_has_taken_over(hub: Hub, then: str) -> None:
    a, b = hub.clones("a", "b")
    wait = "sleep 300" if then == "it hangs on" else f"until test -e {hub.outside}/go; do sleep 0.05; done"
    asked(hub, a, f"test $RECONCILER_ATTEMPT != 1 || {wait}")
    first = a.start("reconcile", "--wait")
    wait_for(lambda: happened(hub, "x") and a.record("x", "attempts/1.json").exists())
    stopped = a.stop()
    reconciled(b)
    published = hub.refs()
    assert hub.outcomes("x") == ["lost", "succeeded"]
    (hub.outside / "go").touch()
    a.go_on(stopped)
    concluded(first)
    assert hub.refs() == published
    assert hub.proofs() == {"x": 1}
    assert a.processes(a.path / ".runs") == []
    assert "succeeded" in a.run("status", "x").stdout
    assert "attempt 2" in a.run("why", "x").stdout
    assert ("end 1" in happened(hub, "x")) <= (then == "it ends at once")


def test_a_host_that_stood_still_yields_a_run_that_is_executed_elsewhere(hub: Hub) -> None:
    a, b = hub.clones("a", "b", lease_s=3)
    asked(hub, a, f"test $RECONCILER_ATTEMPT = 1 && sleep 300; until test -e {hub.outside}/go; do sleep 0.05; done")
    first = a.start("reconcile", "--wait")
    wait_for(lambda: happened(hub, "x") and a.record("x", "attempts/1.json").exists())
    stopped = a.stop()
    second = b.start("reconcile", "--wait")
    wait_for(lambda: "start 2" in happened(hub, "x"), 3 * 1.5 + PATIENCE_S)
    a.go_on(stopped)
    wait_for(lambda: a.processes(a.path / ".runs") == [], PATIENCE_S)
    assert hub.manifests() == {}
    (hub.outside / "go").touch()
    concluded(first)
    concluded(second)
    assert [each for each in happened(hub, "x") if "beside" not in each] == ["start 1", "start 2", "end 2"]
    assert hub.outcomes("x") == ["lost", "succeeded"]
    assert hub.proofs() == {"x": 1}
    assert hub.shared() == []


def test_a_worker_that_stood_still_is_ended_when_it_wakes_after_its_lease(hub: Hub) -> None:
    a, b = hub.clones("a", "b", lease_s=4)
    asked(hub, a, FIRST_HANGS)
    a.run("reconcile")
    wait_for(lambda: happened(hub, "x") and a.record("x", "attempts/1.json").exists())
    stopped = a.stop()
    reconciled(b)
    a.go_on(stopped)
    wait_for(lambda: a.processes(a.path / ".runs") == [], PATIENCE_S)
    assert a.attempt("x")["outcome"] in (None, "interrupted")
    reconciled(a)
    assert hub.proofs() == {"x": 1}
    assert hub.outcomes("x") == ["lost", "succeeded"]


# ------------------------------------------------------------------------------------------------ partitions


def test_a_host_that_cannot_reach_the_remote_stops_its_runs_and_resumes_them_later(hub: Hub) -> None:
    lease_s = 3.0
    [a] = hub.clones("a", lease_s=lease_s)
    asked(hub, a, FIRST_HANGS)
    first = a.start("reconcile", "--wait")
    wait_for(lambda: happened(hub, "x") and a.record("x", "attempts/1.json").exists())
    a.cut()
    gone = time.monotonic()
    wait_for(lambda: a.attempt("x")["outcome"] == "interrupted", lease_s + PATIENCE_S)
    print(f"stopped {time.monotonic() - gone:.2f} s after the remote was gone, lease {lease_s:g} s")
    assert "two thirds of the lease" in a.attempt("x")["detail"]
    assert "remote waits" in a.run("status").stdout
    a.heal()
    concluded(first)
    assert happened(hub, "x") == ["start 1", "start 2", "end 2"]
    assert hub.outcomes("x") == ["interrupted", "succeeded"]
    assert hub.shared() == []
    assert "remote waits" not in a.run("status").stdout


def test_nothing_runs_twice_while_a_host_is_cut_off(hub: Hub) -> None:
    lease_s = 3.0
    a, b = hub.clones("a", "b", lease_s=lease_s)
    asked(hub, a, FIRST_HANGS)
    first = a.start("reconcile", "--wait")
    wait_for(lambda: happened(hub, "x") and a.record("x", "attempts/1.json").exists())
    second = b.start("reconcile", "--wait")
    wait_for(lambda: (b.path / ".git/reconciler/remote.json").exists())
    a.cut()
    gone = time.monotonic()
    wait_for(lambda: "start 2" in happened(hub, "x"), 1.5 * lease_s + PATIENCE_S)
    print(f"taken over {time.monotonic() - gone:.2f} s after the host was cut off, lease {lease_s:g} s")
    concluded(second)
    a.heal()
    concluded(first)
    assert happened(hub, "x") == ["start 1", "start 2", "end 2"], "never one beside the other"
    assert hub.outcomes("x") == ["lost", "succeeded"]
    assert hub.proofs() == {"x": 1}
    assert hub.shared() == []


def test_a_cut_shorter_than_the_lease_disturbs_nobody(hub: Hub) -> None:
    a, b = hub.clones("a", "b", lease_s=30)
    asked(hub, a, f"until test -e {hub.outside}/go; do sleep 0.05; done")
    first = a.start("reconcile", "--wait")
    wait_for(lambda: happened(hub, "x"))
    second = b.start("reconcile", "--wait")
    a.cut()
    wait_for(lambda: "remote waits" in a.run("status").stdout)
    (hub.outside / "go").touch()
    wait_for(lambda: a.attempt("x")["outcome"] == "succeeded")
    a.heal()
    concluded(first)
    concluded(second)
    assert happened(hub, "x") == ["start 1", "end 1"]
    assert hub.outcomes("x") == ["succeeded"]


def test_evidence_waits_for_a_remote_that_is_away(hub: Hub) -> None:
    [a] = hub.clones("a", lease_s=60)
    asked(hub, a, f"until test -e {hub.outside}/go; do sleep 0.05; done")
    a.run("reconcile")
    wait_for(lambda: happened(hub, "x"))
    a.cut()
    (hub.outside / "go").touch()
    wait_for(lambda: a.record("x", "attempts/1.json").exists() and a.attempt("x")["outcome"] == "succeeded")
    done = a.run("reconcile")
    assert done.returncode == 75, done.stderr
    assert "the remote cannot be used" in done.stderr
    a.heal()
    reconciled(a)
    assert happened(hub, "x") == ["start 1", "end 1"]
    assert hub.outcomes("x") == ["succeeded"]
    assert hub.shared() == []


def test_nothing_is_launched_without_the_remote(hub: Hub) -> None:
    [a] = hub.clones("a")
    asked(hub, a, "true")
    a.git("fetch", "-q")
    a.cut()
    done = a.run("reconcile")
    assert done.returncode == 75, (done.stdout, done.stderr)
    assert "waits for the remote" in done.stdout
    assert not (a.path / ".runs").exists()
    [said] = [each for each in a.run("status").stdout.splitlines() if each.startswith("remote waits since ")]
    assert said in a.run("why", "x").stdout.splitlines()
    a.heal()
    reconciled(a)
    assert "remote waits" not in a.run("why", "x").stdout
    assert happened(hub, "x") == ["start 1", "end 1"]


# ------------------------------------------------------------------------------------------------ kills


def test_a_stage_that_survives_its_worker_is_over_before_another_host_takes_the_run(hub: Hub) -> None:
    a, b = hub.clones("a", "b", lease_s=3)
    asked(hub, a, FIRST_HANGS)
    first = a.start("reconcile", "--wait")
    wait_for(lambda: happened(hub, "x") and a.record("x", "attempts/1.json").exists())
    first.kill()
    first.communicate()
    os.kill(a.attempt("x")["worker"]["pid"], signal.SIGKILL)
    reconciled(b)
    assert hub.outcomes("x") == ["lost", "succeeded"]
    assert happened(hub, "x") == ["start 1", "start 2", "end 2"]


LOCKS = ["packed-refs", "refs/reconciler/publish", "refs/reconciler/remote/heads/main", "shallow", "config"]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_that_killed_git_left_is_removed_without_a_person(hub: Hub, name: str) -> None:
    [a] = hub.clones("a", lease_s=60)
    reconciled(a)
    asked(hub, a, "true")
    lock = a.write(f".git/{name}.lock", "")
    old = time.time() - 60
    os.utime(lock, (old, old))
    reconciled(a)
    assert hub.outcomes("x") == ["succeeded"]
    assert happened(hub, "x") == ["start 1", "end 1"]
    reconciled(a)


STAGES = "workspace: empty\nstages:\n" + "".join(
    f"  - id: s{number}\n    attempts_max: 20\n    backoff: 50ms\n    command: |\n"
    f"      echo start $RECONCILER_ATTEMPT $$ >> TOLD; sleep 0.{number + 3}; echo end $RECONCILER_ATTEMPT $$ >> TOLD\n"
    for number in range(3)
)


def crossed(lines: list[list[str]]) -> list[list[str]]:
    """Return the starts of stages at which another process of the run had begun that went on to its end later."""
    found = []
    for at, (what, _, pid) in enumerate(lines):
        begun = {each[2] for each in lines[:at] if each[0] == "start"} - {pid}
        if what == "start" and any(each[0] == "end" and each[2] in begun for each in lines[at:]):
            found.append(lines[at])
    return found


class Fleet:
    """Clones whose reconcilers and workers are killed at random, while people ask for more runs."""

    def __init__(self, hub: Hub, seed: int) -> None:
        self.hub, self.chance = hub, random.Random(seed)
        more = "attempts_max: 90\nruns_max: 2\n"
        self.clones = hub.clones("a", "b", "c", more=more, lease_s=3)
        self.clones[0].pipeline("p", STAGES.replace("TOLD", f"{hub.outside}/$RECONCILER_RUN_ID"))
        self.clones[0].push()
        self.person = hub.clone("person")
        self.names: list[str] = []
        self.reconcilers: dict[str, subprocess.Popen[str]] = {}

    def ask(self) -> None:
        self.names.append(f"r{len(self.names)}")
        self.person.request(self.names[-1], "p")
        for _ in range(50):
            try:
                self.person.push()
                return
            except subprocess.CalledProcessError:
                time.sleep(0.05)
        raise AssertionError("a person cannot push")

    def revive(self) -> None:
        """Start a reconciler wherever none lives."""
        for clone in self.clones:
            known = self.reconcilers.get(clone.name)
            if known is None or known.poll() is not None:
                if known is not None:
                    _, errors = known.communicate()
                    assert "Traceback" not in errors, errors
                self.reconcilers[clone.name] = clone.start("reconcile", "--wait")

    def kill(self) -> str:
        """SIGKILL something of one machine, and return what it was."""
        clone = self.chance.choice(self.clones)
        kind = self.chance.choice(("reconciler", "machine", "machine", "run", "git"))
        reconciler = self.reconcilers[clone.name]
        if kind == "machine":
            clone.crash()
        elif kind == "run" and (runs := [each for each in clone.path.glob(".runs/t/cli/*") if clone.processes(each)]):
            clone.kill(self.chance.choice(runs))
        elif kind == "git" and (found := [each for each in clone.everything() if _is_git(each)]):
            os.kill(self.chance.choice(found), signal.SIGKILL)
        else:
            reconciler.kill()
        return f"{clone.name}: {kind}"

    def end(self) -> None:
        for each in self.reconcilers.values():
            each.kill()
            each.communicate()


def _is_git(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith("git")
    except OSError:
        return False


def kill_at_random(hub: Hub, seed: int, kills: int) -> None:
    fleet = Fleet(hub, seed)
    for number in range(kills):
        if number % 2 == 0:
            fleet.ask()
        fleet.revive()
        time.sleep(fleet.chance.uniform(0.1, 1.3))
        fleet.kill()
    fleet.end()
    [a, *others] = fleet.clones
    done = a.run("reconcile", "--wait", timeout=240)
    assert done.returncode == 0, (done.stdout, done.stderr)
    manifests = hub.manifests()
    assert {name: each["status"] for name, each in manifests.items()} == dict.fromkeys(fleet.names, "succeeded")
    for name, document in manifests.items():
        assert crossed(trace(hub, document["run_id"])) == [], (name, trace(hub, document["run_id"]))
    published = hub.refs()
    for each in others:
        assert each.run("reconcile", "--wait").returncode == 0
    assert hub.refs() == published
    assert hub.proofs() == dict.fromkeys(fleet.names, 1)
    assert hub.shared() == []
    assert moved_back(hub, "main") == []
    for place in (hub, *fleet.clones):
        assert place.git("fsck", "--no-dangling") == ""
    attempts = [len(each["attempts"]) for each in manifests.values()]
    print(f"seed {seed}: {kills} kills, {len(fleet.names)} runs, {sum(attempts)} attempts")


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.executed), 1, 2])
def test_random_kills_of_reconcilers_workers_git_and_machines(hub: Hub, seed: int) -> None:
    kill_at_random(hub, seed, 10)


# ------------------------------------------------------------------------------------------------ many


def share_the_work(hub: Hub, reconcilers: int, requests: int) -> None:
    names = [f"c{number}" for number in range(reconcilers)]
    first = hub.clone(names[0])
    first.write("reconciler.yaml", "poll_interval: 1s\nlease: 2m\n")
    first.pipeline(
        "p", f"workspace: empty\nstages:\n  - id: s\n    command: echo $RECONCILER_RUN_ID >> {hub.outside}/ran\n"
    )
    for number in range(requests):
        first.request(f"r{number}", "p")
    first.push()
    clones = [first, *(hub.clone(each) for each in names[1:])]
    began = time.monotonic()
    for each in [clone.start("reconcile", "--wait") for clone in clones]:
        concluded(each, 900)
    print(f"{reconcilers} reconcilers, {requests} requests: {time.monotonic() - began:.1f} s")
    ran = (hub.outside / "ran").read_text().split()
    assert (len(ran), len(set(ran))) == (requests, requests)
    assert {each["status"] for each in hub.manifests().values()} == {"succeeded"}
    assert hub.proofs() == {f"r{number}": 1 for number in range(requests)}
    assert hub.git("rev-list", "--merges", "main") == ""
    assert moved_back(hub, "main") == []
    assert hub.shared() == []


def test_many_reconcilers_share_the_work(hub: Hub) -> None:
    share_the_work(hub, 6, 40)
