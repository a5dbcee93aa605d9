"""What an agent changed at an engine: delivered as if it had been changed here, once, whoever is killed over it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_engines import attempts, couriers
from tests.scratch import Clone, Hub, Scratch, wait_for

PATIENCE_S = 90.0
CLOUD = "executors:\n  cloud: {engine: process, poll: 1s, beat: 1s}\n"
AGENT = (
    'agents: {mine: {driver: command, command: [sh, -c, "echo $RECONCILER_ATTEMPT >> $TOLD; '
    'echo new > made.txt; echo more >> README.md; rm gone.txt; echo done"]}}\n'
)
IMPLEMENT = "stages:\n  - id: implement\n    agent: {use: mine, prompt: Do it., deliver: branch}\n"
CHECKED = IMPLEMENT + "  - {id: look, command: 'test -f made.txt'}\n  - {id: fresh, guard: specs}\n"
GATED = IMPLEMENT + "  - id: ship\n    command: 'cat made.txt >> README.md'\n    approval: {reason: It is for ever}\n"
HELD = """case $1 in {ref}) ;; *) exit 0 ;; esac
{more}
test -e {place}/go && exit 0
: > {place}/held
until test -e {place}/go; do sleep 0.05; done
exit {status}
"""
"""A hook of the hub, on one ref: it holds the first push, and takes it (0) or refuses it (1) when it is let go."""


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    found = Hub(tmp_path)
    found.outside.mkdir(exist_ok=True)
    return found


def asked(repo: Scratch, stages: str, settings: str = CLOUD, **keys: object) -> None:
    told = repo.hub.outside if isinstance(repo, Clone) else repo.outside
    repo.settings(settings + AGENT.replace("$TOLD", f"{told}/told"))
    repo.write("README.md", "hello\n")
    repo.write("gone.txt", "old\n")
    repo.pipeline("p", stages)
    repo.request("r", "p", execution="{mode: cloud}", **keys)


def settled(repo: Scratch, code: int = 0) -> str:
    said = repo.run("reconcile", "--wait", timeout=PATIENCE_S)
    assert said.returncode == code, (said.stdout, said.stderr)
    assert "Traceback" not in said.stderr
    return said.stderr


def the_branch(hub: Hub, manifest: dict[str, Any], base: str) -> str:
    """Return the commit that a manifest says was delivered, which is what is at the hub, and was put there once."""
    branch = f"refs/heads/runs/{manifest['run_id']}"
    commit = hub.git("rev-parse", branch).strip()
    assert manifest["delivered"] == {
        "branch": branch.removeprefix("refs/heads/"),
        "commit": commit,
        "pull_request": None,
    }
    assert hub.git("rev-parse", f"{commit}^@").split() == [base]
    assert f"Reconciler-Run: {manifest['run_id']}" in hub.git("log", "-1", "--format=%B", commit)
    assert len(hub.git("reflog", branch).splitlines()) == 1, "it was delivered once"
    assert hub.shared() == []
    return commit


def test_a_change_made_at_an_engine_is_delivered_as_one_made_here(hub: Hub) -> None:
    clone = hub.clone("a")
    asked(clone, CHECKED)
    base = clone.push("ask")
    settled(clone)
    manifest = hub.manifests()["r"]
    assert manifest["attempts"][0]["placement"]["executor"] == "cloud"
    commit = the_branch(hub, manifest, base)
    told = hub.git("diff-tree", "-r", "--name-status", base, commit).split()
    assert told == ["M", "README.md", "D", "gone.txt", "A", "made.txt"]
    by, at = hub.git("log", "-1", "--format=%an %cn%n%cI", commit).split("\n")[:2]
    assert by == "Reconciler Reconciler" and at[:19] == manifest["completed_at"][:19]
    assert clone.git("for-each-ref", "refs/reconciler/changes") == "", "nothing is kept once it is proven"
    assert not (clone.directory("r") / "workspace").exists(), "nothing was executed here"
    # Here the same change makes the same tree.
    clone.write("runs.d/here.yaml", "task: t\npipeline: p\n")
    clone.push("here")
    settled(clone)
    here = hub.manifests()["here"]["delivered"]["commit"]
    assert hub.git("rev-parse", f"{here}:made.txt") == hub.git("rev-parse", f"{commit}:made.txt")
    assert hub.git("diff", "--name-status", f"{here}^", here).split() == told


def test_a_courier_that_is_killed_over_its_change_is_followed_and_one_change_delivered(hub: Hub) -> None:
    clone = hub.clone("a")
    asked(clone, IMPLEMENT)
    base = clone.push("ask")
    with_change = 'git rev-parse -q --verify "$3^2" > /dev/null || exit 0'
    held = HELD.format(ref="refs/reconciler/work/*", more=with_change, place=hub.outside, status=1)
    hub.hook("update", held)
    reconciler = clone.start("reconcile", "--wait")
    clone.wait_for((hub.outside / "held").exists, PATIENCE_S)
    for pid in couriers(clone, "r"):
        os.kill(pid, signal.SIGKILL)
    (hub.outside / "go").touch()
    _, errors = reconciler.communicate(timeout=PATIENCE_S)
    assert reconciler.returncode == 0, errors
    manifest = hub.manifests()["r"]
    assert attempts(manifest)[-1] == (2, "succeeded")
    assert (hub.outside / "told").read_text().split() == ["1", "2"]
    commit = the_branch(hub, manifest, base)
    assert hub.git("show", f"{commit}:README.md") == "hello\nmore\n"


@pytest.mark.parametrize("status", [0, 1])
def test_a_host_that_is_killed_over_the_delivery_delivers_once(hub: Hub, status: int) -> None:
    clone = hub.clone("a")
    asked(clone, IMPLEMENT)
    base = clone.push("ask")
    hub.hook("update", HELD.format(ref="refs/heads/runs/*", more="", place=hub.outside, status=status))
    reconciler = clone.start("reconcile", "--wait")
    clone.wait_for((hub.outside / "held").exists, PATIENCE_S)
    assert clone.git("for-each-ref", "refs/reconciler/changes").count("\n") == 1
    reconciler.kill()
    reconciler.communicate()
    (hub.outside / "go").touch()
    run_id = clone.run_id("r")
    if status == 0:
        wait_for(lambda: hub.refs(f"refs/heads/runs/{run_id}"), PATIENCE_S)
    settled(clone)
    manifest = hub.manifests()["r"]
    assert attempts(manifest) == [(1, "succeeded")]
    assert (hub.outside / "told").read_text().split() == ["1"]
    the_branch(hub, manifest, base)
    assert hub.proofs()["r"] == 1


def test_a_branch_that_somebody_else_has_put_there_is_not_taken_for_it(hub: Hub) -> None:
    clone = hub.clone("a")
    asked(clone, IMPLEMENT)
    clone.push("ask")
    run_id = clone.run("plan", "--format", "json").stdout.partition('"run_id": "')[2].partition('"')[0]
    hub.git("update-ref", f"refs/heads/runs/{run_id}", "main")
    assert f"runs/{run_id} is not delivered: there is another one at origin" in settled(clone)
    assert hub.manifests()["r"]["delivered"] is None


def test_behind_a_gate_the_workspace_goes_on_and_all_of_it_is_delivered(tmp_path: Path) -> None:
    repo = Scratch(tmp_path)
    asked(repo, GATED, approval_policy="on-request")
    repo.commit()
    settled(repo, 4)
    assert repo.run("approve", "r", "--reason", "looks good").returncode == 0
    settled(repo)
    manifest = repo.manifest("r")
    assert attempts(manifest) == [(1, "waiting"), (2, "succeeded")]
    assert [(each["id"], each["attempt"]) for each in manifest["commands"]] == [("implement", 1), ("ship", 2)]
    assert (repo.outside / "told").read_text().split() == ["1"], "what was done is not done again"
    commit = manifest["delivered"]["commit"]
    assert repo.git("show", f"{commit}:README.md") == "hello\nmore\nnew\n"
    assert repo.git("for-each-ref", "refs/reconciler") == ""


def test_a_workspace_that_is_too_large_stays_and_its_run_begins_anew(tmp_path: Path) -> None:
    repo = Scratch(tmp_path)
    small = CLOUD.replace("beat: 1s", "beat: 1s, bytes_max: 64KiB")
    stages = GATED.replace("stages:\n", "stages:\n  - {id: big, command: 'head -c 100000 /dev/zero > big.bin'}\n")
    asked(repo, stages, small, approval_policy="on-request")
    repo.commit()
    settled(repo, 4)
    assert repo.run("approve", "r", "--reason", "looks good").returncode == 0
    said = settled(repo)
    assert "it begins anew: it has 1000" in said
    manifest = repo.manifest("r")
    assert "it begins anew: it has 1000" in manifest["attempts"][1]["reason"]
    assert [each["attempt"] for each in manifest["commands"]] == [2, 2, 2]
    assert (repo.outside / "told").read_text().split() == ["1", "2"]
    assert "nothing is delivered, because it has 1000" in said and manifest["delivered"] is None


def test_moved_to_this_machine_behind_its_gate_a_run_begins_anew(tmp_path: Path) -> None:
    repo = Scratch(tmp_path)
    far = "executors:\n  far: {engine: process, weight: 1, poll: 1s, beat: 1s}\n  local: {weight: 0}\n"
    asked(repo, GATED, far)
    repo.request("r", "p", approval_policy="on-request")
    repo.commit()
    settled(repo, 4)
    near = far.replace("weight: 1", "weight: 0").replace("local: {weight: 0}", "local: {weight: 1}")
    repo.settings(near + AGENT.replace("$TOLD", f"{repo.outside}/told"))
    repo.commit()
    assert repo.run("approve", "r", "--reason", "looks good").returncode == 0
    settled(repo)
    manifest = repo.manifest("r")
    assert manifest["attempts"][1]["reason"].endswith("; it begins anew: its workspace is at an engine")
    assert (repo.outside / "told").read_text().split() == ["1", "2"]
    assert repo.git("show", f"{manifest['delivered']['commit']}:README.md") == "hello\nmore\nnew\n"
    assert repo.git("for-each-ref", "refs/reconciler/changes") == ""
