"""Runs at an engine, as a host sees them: real couriers, real git, the engine `process`.

What an engine of somebody else does differently is for its own tests; here it is what the loop promises of all of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.scratch import ENVIRONMENT, LEASE_S, Clone, Hub, Scratch, wait_for

FAR = "executors:\n  far: {engine: process, weight: 1, poll: 1s, beat: 1s}\n  local: {weight: 0}\n"
PATIENCE_S = 60.0


def settled(repo: Scratch, *codes: int) -> None:
    said = repo.run("reconcile", "--wait")
    assert said.returncode in (codes or (0,)), (said.stdout, said.stderr)
    assert "Traceback" not in said.stderr


def far(place: Path, more: str = "") -> Scratch:
    repo = Scratch(place)
    repo.settings(FAR + more)
    return repo


def counting(repo: Scratch, name: str, body: str = "true", **keys: object) -> Path:
    """Ask for a run whose stage writes a line for every attempt, and return the file."""
    told = repo.outside / name
    repo.simple(name, f"echo $RECONCILER_ATTEMPT >> {told}; {body}", **keys)
    return told


def handle(repo: Scratch, name: str, number: int = 1) -> str:
    claim = json.loads(repo.record(name, f"claims/{number}.json").read_bytes())
    found: str = claim["placement"]["handle"]
    return found


def couriers(repo: Scratch, name: str) -> list[int]:
    """Return the processes that are couriers of a run."""
    ref = f"refs/reconciler/work/{repo.run_id(name)}/"
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"reconciler.executors.courier" in words and any(each.startswith(ref.encode()) for each in words):
                found.append(int(pid))
    return found


def work_refs(repo: Scratch) -> list[str]:
    return repo.git("for-each-ref", "--format=%(refname)", "refs/reconciler/work").split()


def attempts(manifest: dict[str, Any]) -> list[tuple[int, str]]:
    return [(each["number"], each["outcome"]) for each in manifest["attempts"]]


# ------------------------------------------------------------------------------------------------ one machine


def test_a_run_at_an_engine_is_proven_like_any_other(tmp_path: Path) -> None:
    repo = far(tmp_path)
    repo.pipeline(
        "p",
        'stages:\n  - id: one\n    command: "echo seen; test -f reconciler.yaml"\n  - id: two\n    command: "exit 3"\n',
    )
    repo.request("x", "p")
    repo.commit()
    settled(repo, 1)
    found = repo.manifest("x")
    assert [(each["id"], each["status"]) for each in found["commands"]] == [("one", "succeeded"), ("two", "failed")]
    assert repo.git("show", f"HEAD:{found['commands'][0]['log_path']}") == "seen\n"
    placement = found["attempts"][0]["placement"]
    assert (placement["executor"], placement["instance"]) == ("far", "process")
    assert placement["handle"] == handle(repo, "x")
    assert work_refs(repo) == []
    assert not (repo.directory("x") / "workspace").exists(), "nothing was executed here"


def test_the_cloud_is_the_executor_of_that_name(tmp_path: Path) -> None:
    repo = Scratch(tmp_path)
    repo.settings("executors:\n  cloud: {engine: process, poll: 1s, beat: 1s}\n")
    repo.pipeline("p", "workspace: empty\nstages:\n  - id: s\n    command: 'true'\n    requires_cloud: true\n")
    repo.request("far", "p")
    repo.pipeline("q", "workspace: empty\nstages:\n  - id: s\n    command: 'true'\n")
    repo.request("near", "q")
    repo.commit()
    settled(repo)
    placed = {name: repo.manifest(name)["attempts"][0]["placement"] for name in ("far", "near")}
    assert [(placed[name]["executor"], placed[name]["handle"] is not None) for name in placed] == [
        ("cloud", True),
        ("local", False),
    ]


def test_a_gate_is_waited_for_and_passed(tmp_path: Path) -> None:
    repo = far(tmp_path)
    stages = "workspace: empty\nstages:\n  - id: s\n    command: 'true'\n  - id: ship\n    command: 'true'\n"
    repo.pipeline("p", f"{stages}    approval: {{reason: It is for ever}}\n")
    repo.request("x", "p", approval_policy="on-request")
    repo.commit()
    settled(repo, 4)
    assert work_refs(repo) == []
    said = repo.run("approve", "x", "--reason", "looks good")
    assert said.returncode == 0, said.stderr
    settled(repo)
    assert attempts(repo.manifest("x")) == [(1, "waiting"), (2, "succeeded")]


def test_a_cancelled_attempt_is_ended_at_its_engine_before_that_is_said(tmp_path: Path) -> None:
    repo = far(tmp_path)
    counting(repo, "x", f"echo begun > {repo.outside}/begun; sleep 300")
    reconciler = repo.start("reconcile", "--wait")
    repo.wait_for((repo.outside / "begun").exists, PATIENCE_S)
    repo.request("x", "x", cancel="not needed")
    repo.commit()
    reconciler.communicate(timeout=PATIENCE_S)
    settled(repo)
    assert couriers(repo, "x") == []
    found = repo.manifest("x")
    assert found["status"] == "cancelled"
    # The attempt knows only that it was told to stop; where it did not live to say so, the host does.
    assert attempts(found) in ([(1, "interrupted")], [(1, "cancelled")])


def test_a_killed_courier_is_followed_by_another_attempt(tmp_path: Path) -> None:
    repo = far(tmp_path)
    told = counting(repo, "x", "test $RECONCILER_ATTEMPT != 1 || sleep 300")
    reconciler = repo.start("reconcile", "--wait")
    repo.wait_for(told.exists, PATIENCE_S)
    for pid in couriers(repo, "x"):
        os.kill(pid, signal.SIGKILL)
    _, errors = reconciler.communicate(timeout=PATIENCE_S)
    assert reconciler.returncode == 0, errors
    found = repo.manifest("x")
    assert [each["number"] for each in found["attempts"]] == [1, 2]
    assert found["recoveries"][0]["lost"] == 1
    assert told.read_text().split() == ["1", "2"]


@pytest.mark.parametrize("lost", ["nothing", "afar.json", ".runs"])
def test_a_reconciler_that_died_finds_its_attempt_again(tmp_path: Path, lost: str) -> None:
    repo = far(tmp_path)
    told = counting(repo, "x", f"while ! test -e {repo.outside}/go; do sleep 0.05; done")
    reconciler = repo.start("reconcile", "--wait")
    repo.wait_for(told.exists, PATIENCE_S)
    reconciler.kill()
    reconciler.communicate()
    if lost == "afar.json":
        (repo.path / ".git/reconciler/afar.json").unlink()
    if lost == ".runs":
        # Nobody remembers the order it works on: it is ended, and another one made.
        repo.git("clean", "-fdxq", ".runs")
    (repo.outside / "go").touch()
    settled(repo)
    numbers = told.read_text().split()
    assert numbers == (["1", "2"] if lost == ".runs" else ["1"])
    assert attempts(repo.manifest("x"))[-1] == (len(numbers), "succeeded")
    assert work_refs(repo) == []


def test_an_engine_that_takes_nothing_makes_runs_wait_and_says_why(tmp_path: Path) -> None:
    repo = Scratch(tmp_path)
    options = "executors:\n  far: {engine: process, weight: 1, poll: 1s, beat: 1s, options: {processes_max: 1}}\n"
    repo.settings(options + "  local: {weight: 0}\n")
    for name in ("a", "b", "c"):
        counting(repo, name, "sleep 0.3")
    settled(repo)
    assert all(repo.manifest(name)["status"] == "succeeded" for name in ("a", "b", "c"))
    assert all((repo.outside / name).read_text().split() == ["1"] for name in ("a", "b", "c"))


def test_what_is_at_an_engine_that_settings_name_no_more_goes_on_and_is_told(tmp_path: Path) -> None:
    repo = far(tmp_path)
    for name in ("x", "y"):
        repo.simple(name, f"touch {repo.outside}/{name}; until test -e {repo.outside}/go-{name}; do sleep 0.05; done")
    repo.run("reconcile")
    repo.run("reconcile")
    repo.wait_for(lambda: (repo.outside / "x").exists() and (repo.outside / "y").exists(), 60)
    with_engine = (repo.path / "reconciler.yaml").read_text()
    repo.settings()
    repo.commit()
    (repo.outside / "go-x").touch()
    repo.wait_for(lambda: repo.run("reconcile") and "succeeded" in repo.run("status", "x").stdout, 60)
    repo.simple("y", "true", cancel="no longer needed")
    why = "executor 'far': it has attempts, and settings name no engine for it any more"
    assert why in repo.run("reconcile").stderr and why in repo.run("status").stdout
    repo.write("reconciler.yaml", with_engine)
    repo.commit()
    settled(repo, 1)
    assert repo.manifest("y")["status"] == "cancelled"
    assert why not in repo.run("status").stdout


def test_no_courier_inherits_what_holds_a_credential(tmp_path: Path) -> None:
    repo = far(tmp_path, "credentials:\n  forge: {env: FORGE_TOKEN}\n")
    told = repo.outside / "told"
    repo.simple("x", f"echo ${{FORGE_TOKEN-none}} $PLAIN >> {told}")
    said = repo.run("reconcile", "--wait", FORGE_TOKEN="a-token-of-a-forge", PLAIN="plain")
    assert said.returncode == 0, said.stderr
    assert told.read_text() == "none plain\n"


def test_what_an_attempt_has_printed_at_its_engine_is_shown(tmp_path: Path) -> None:
    repo = far(tmp_path)
    counting(repo, "x", f"echo so far so good; echo begun > {repo.outside}/begun; sleep 300")
    reconciler = repo.start("reconcile", "--wait")
    repo.wait_for((repo.outside / "begun").exists, PATIENCE_S)
    repo.wait_for(lambda: "so far so good" in repo.run("logs", "x").stdout, PATIENCE_S)
    reconciler.terminate()
    reconciler.communicate()
    repo.kill()


# ------------------------------------------------------------------------------------------------ slow ones

SLOW = """
import os, time
from reconciler.executors.local_process import LocalProcess, open_engine as open_here
from reconciler.executors.engine import Opening

class Slow:
    def __init__(self, opening):
        self.here = open_here(Opening(executor=opening.executor, options={}, directory=opening.directory))
        self.place = opening.options["place"]

    def observe(self, handles):
        open(f"{self.place}/asked", "w").close()
        until = time.monotonic() + 60
        while not os.path.exists(f"{self.place}/answer") and time.monotonic() < until:
            time.sleep(0.02)
        return self.here.observe(handles)

    def __getattr__(self, name):
        return getattr(self.here, name)
"""


def slow(place: Path) -> tuple[Scratch, dict[str, str]]:
    """Return a repository with an engine that a package brings, which answers when a file is there, and the environment
    in which that package is installed."""
    repo, package = Scratch(place), place / "package"
    about = package / "slow-1.0.dist-info"
    about.mkdir(parents=True)
    (package / "slow.py").write_text(SLOW)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: slow\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[reconciler.executors]\nslow = slow:Slow\n")
    repo.settings(f"executors:\n  cloud: {{engine: slow, poll: 1s, beat: 1s, options: {{place: {repo.outside}}}}}\n")
    return repo, ENVIRONMENT | {"PYTHONPATH": str(package)}


def started(repo: Scratch, environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    found = subprocess.Popen(
        [sys.executable, "-m", "reconciler", *words], cwd=repo.path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    repo.started.append(found)
    return found


@pytest.mark.parametrize("verb", [("reconcile", "--wait"), ("watch", "--lines")])
def test_passes_go_on_while_an_engine_is_slow_to_answer(tmp_path: Path, verb: tuple[str, ...]) -> None:
    repo, environment = slow(tmp_path)
    told = repo.outside / "x"
    stage = f"  - id: s\n    command: 'echo $RECONCILER_ATTEMPT >> {told}'\n    requires_cloud: true\n"
    repo.pipeline("p", f"workspace: empty\nstages:\n{stage}")
    repo.request("x", "p")
    repo.commit()
    reconciler = started(repo, environment, *verb)
    repo.wait_for((repo.outside / "asked").exists, PATIENCE_S)
    repo.simple("near", "true")
    repo.wait_for(lambda: "runs.d/near.yaml" in repo.git("log", "--format=%B", "main"), PATIENCE_S)
    assert repo.manifest("near")["status"] == "succeeded"
    assert not told.exists(), "nothing is handed over while its engine is asked"
    (repo.outside / "answer").touch()
    repo.wait_for(lambda: "runs.d/x.yaml" in repo.git("log", "--format=%B", "main"), PATIENCE_S)
    reconciler.send_signal(signal.SIGTERM)
    reconciler.communicate(timeout=PATIENCE_S)
    assert told.read_text().split() == ["1"]
    assert attempts(repo.manifest("x")) == [(1, "succeeded")]


def test_whoever_interrupts_does_not_wait_for_an_engine(tmp_path: Path) -> None:
    repo, environment = slow(tmp_path)
    stage = "  - id: s\n    command: 'true'\n    requires_cloud: true\n"
    repo.pipeline("p", f"workspace: empty\nstages:\n{stage}")
    repo.request("x", "p")
    repo.commit()
    reconciler = started(repo, environment, "reconcile", "--wait")
    repo.wait_for((repo.outside / "asked").exists, PATIENCE_S)
    reconciler.send_signal(signal.SIGINT)
    _, errors = reconciler.communicate(timeout=PATIENCE_S / 2)
    assert reconciler.returncode != 0
    assert "Traceback" not in errors


# ------------------------------------------------------------------------------------------------ who writes refs


def test_a_forged_word_proves_nothing(tmp_path: Path) -> None:
    """Whoever may write refs puts a word there that says that the attempt has ended, without its key."""
    repo = far(tmp_path)
    told = counting(repo, "x", f"while ! test -e {repo.outside}/go; do sleep 0.05; done; exit 5")
    reconciler = repo.start("reconcile", "--wait")
    repo.wait_for(told.exists, PATIENCE_S)
    [ref] = work_refs(repo)
    word = repo.git("rev-parse", ref).strip()
    said = json.loads(repo.git("log", "-1", "--format=%B", ref))
    forged = json.dumps({**said, "ended": True, "beat": said["beat"] + 1})
    other = repo.git("commit-tree", f"{word}^{{tree}}", "-p", f"{word}^", "-m", forged).strip()
    repo.git("update-ref", ref, other)
    (repo.outside / "go").touch()
    reconciler.communicate(timeout=PATIENCE_S)
    found = repo.manifest("x")
    assert found["status"] != "succeeded"
    assert all(outcome != "succeeded" for _, outcome in attempts(found))


# ------------------------------------------------------------------------------------------------ several machines


def shared(hub: Hub) -> list[Clone]:
    return hub.clones("a", "b", more=FAR)


def one_engine(hub: Hub, place: Path, *clones: Clone) -> None:
    """Let the engine be one for all, as a cluster is: its processes are no part of any machine."""
    place.mkdir()
    for each in clones:
        (each.path / ".git/reconciler/engines").mkdir(parents=True)
        (each.path / ".git/reconciler/engines/far").symlink_to(place)
    clones[0].settings(
        f"executors:\n  far: {{engine: process, weight: 1, poll: 1s, beat: 1s, url: '{hub.path}'}}\n  local: {{weight: 0}}\n"
    )


def gone_for_good(a: Clone) -> Path:
    """Have a host hand an attempt over and die; return the file in which its stage writes a line."""
    told = a.hub.outside / "x"
    a.simple("x", f"echo $RECONCILER_ATTEMPT >> {told}; while ! test -e {a.hub.outside}/go; do sleep 0.05; done")
    a.push()
    reconciler = a.start("reconcile", "--wait")
    a.wait_for(told.exists, PATIENCE_S)
    reconciler.kill()
    reconciler.communicate()
    return told


def test_another_host_adopts_the_attempt_of_one_that_is_gone(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    a, b = shared(hub)
    one_engine(hub, tmp_path / "engine", a, b)
    told = gone_for_good(a)
    other = b.start("reconcile", "--wait")
    wait_for(lambda: (b.path / ".runs").exists(), PATIENCE_S + 3 * LEASE_S)
    (hub.outside / "go").touch()
    said, errors = other.communicate(timeout=PATIENCE_S)
    assert other.returncode == 0, (said, errors)
    assert told.read_text().split() == ["1"], "it was executed once"
    assert hub.outcomes("x") == ["succeeded"]
    assert hub.shared() == []


def test_what_ended_while_its_host_was_gone_is_brought_home_by_another_one(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    a, b = shared(hub)
    one_engine(hub, tmp_path / "engine", a, b)
    told = gone_for_good(a)
    (hub.outside / "go").touch()
    wait_for(lambda: couriers(a, "x") == [], PATIENCE_S)
    settled(b)
    assert told.read_text().split() == ["1"], "it was executed once"
    assert hub.outcomes("x") == ["succeeded"] and hub.manifests()["x"]["recoveries"] == []
    assert hub.shared() == []


def test_an_attempt_that_loses_the_remote_finishes_and_is_heard_later(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    [a] = hub.clones("a", more="")
    link = tmp_path / "wire"
    link.symlink_to(hub.path)
    a.settings(
        f"executors:\n  far: {{engine: process, weight: 1, poll: 1s, beat: 1s, url: '{link}'}}\n  local: {{weight: 0}}\n"
    )
    told = hub.outside / "x"
    a.simple("x", f"echo begun >> {told}; while ! test -e {hub.outside}/go; do sleep 0.05; done; echo done >> {told}")
    a.push()
    reconciler = a.start("reconcile", "--wait")
    a.wait_for(told.exists, PATIENCE_S)
    link.unlink()
    (hub.outside / "go").touch()
    wait_for(lambda: told.read_text().split() == ["begun", "done"], PATIENCE_S)
    link.symlink_to(hub.path)
    said, errors = reconciler.communicate(timeout=PATIENCE_S)
    assert reconciler.returncode == 0, (said, errors)
    assert hub.outcomes("x") == ["succeeded"]
    assert hub.shared() == []
