"""Order between runs, with real commits and real workers: after what, in which group, who first."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from tests.scratch import ENVIRONMENT, Hub, Scratch, wait_for

NOTED = "workspace: empty\nstages:\n  - id: s\n    command: {command}\n"


def noted(scratch: Scratch, name: str, body: str = "true", **keys: object) -> None:
    """Write a request whose stage notes when it begins and ends."""
    file = scratch.outside / "noted"
    told = f"echo + {name} >> {file}\n{body} || exit 1\necho - {name} >> {file}"
    scratch.pipeline(name, NOTED.format(command=json.dumps(told)))
    scratch.request(name, name, **keys)


def notes(scratch: Scratch) -> list[str]:
    file = scratch.outside / "noted"
    return file.read_text().splitlines() if file.exists() else []


def rows(scratch: Scratch) -> dict[str, dict[str, object]]:
    found = json.loads(scratch.run("status", "--format", "json").stdout)["runs"]
    return {each["name"]: each for each in found}


# ------------------------------------------------------------------------------------------------ after


def test_a_run_begins_when_the_evidence_of_another_lands(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "a-last", after="[b-middle]")
    noted(scratch, "b-middle", after="[c-first]")
    noted(scratch, "c-first")
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    assert notes(scratch) == ["+ c-first", "- c-first", "+ b-middle", "- b-middle", "+ a-last", "- a-last"]


def test_a_single_pass_launches_what_its_own_evidence_sets_free(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "a", after="[b]")
    noted(scratch, "b")
    scratch.commit()
    scratch.run("reconcile")
    wait_for(lambda: scratch.record("b", "attempts/1.json").exists() and scratch.attempt("b")["outcome"])
    assert "which it comes after: its evidence is not committed yet" in scratch.run("why", "a").stdout
    scratch.run("reconcile")
    wait_for(lambda: notes(scratch)[-1:] == ["- a"])


def test_a_failed_predecessor_is_told_and_its_rerun_sets_free(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "a", after="[b]")
    noted(scratch, "b", body=f"test -e {scratch.outside}/good")
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 1
    said = f"comes after {scratch.run_id('b')}, which failed; run that again (raise its 'rerun'), or remove 'b' from 'after'"
    assert said in done.stdout
    assert rows(scratch)["a"]["reason"] == said
    assert said in scratch.run("why", "a").stdout
    assert said in scratch.run("plan").stdout
    (scratch.outside / "good").touch()
    noted(scratch, "b", body=f"test -e {scratch.outside}/good", rerun=1)
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert notes(scratch)[-2:] == ["+ a", "- a"]


def test_names_that_nobody_has_and_circles_are_rejected_and_stop_nobody_else(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "a", after="[b]")
    noted(scratch, "b", after="[a]")
    noted(scratch, "c", after="[goood]")
    noted(scratch, "good")
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 1
    assert notes(scratch) == ["+ good", "- good"]
    for path in ("runs.d/a.yaml", "runs.d/b.yaml"):
        assert f"rejected: {path}: requests come after each other: a -> b -> a; remove one of these" in done.stderr
    assert "runs.d/c.yaml: it comes after 'goood', and there is no such request; did you mean 'good'?" in done.stderr
    checked = scratch.run("validate")
    assert checked.returncode == 1
    assert "runs.d/a.yaml:3:1: requests come after each other: a -> b -> a" in checked.stdout
    assert "runs.d/c.yaml:3:9: warning: it comes after 'goood', and there is no such request" in checked.stdout


def test_a_request_that_was_removed_after_its_success_is_not_missed(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "b")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    (scratch.path / "runs.d/b.yaml").unlink()
    noted(scratch, "a", after="[b]")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert notes(scratch)[-1] == "- a"


# ------------------------------------------------------------------------------------------------ groups


def test_a_group_runs_one_after_the_other_in_the_order_of_the_commits(scratch: Scratch) -> None:
    scratch.settings("runs_max: 4\n")
    scratch.commit()
    for name in ("d", "a", "c", "b"):
        noted(scratch, name, concurrency="{group: g}")
        scratch.commit(f"ask for {name}")
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    assert notes(scratch) == [f"{sign} {name}" for name in "dacb" for sign in "+-"]
    cache = json.loads((scratch.path / ".git/reconciler/cache.json").read_bytes())
    order = sorted(cache["arrivals"], key=lambda path: cache["arrivals"][path][0])
    assert order == [f"runs.d/{name}.yaml" for name in "dacb"]


def test_an_edit_queues_again_and_what_history_lost_is_asked_anew(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "x", body=f"until test -e {scratch.outside}/go; do sleep 0.05; done", concurrency="{group: g}")
    scratch.commit()
    scratch.run("reconcile")
    for name in ("a", "b"):
        noted(scratch, name, concurrency="{group: g}")
        scratch.commit()
    assert "waits behind" in str(rows(scratch)["b"]["reason"])
    noted(scratch, "a", concurrency="{group: g}", title="Later")
    scratch.commit()
    scratch.run("reconcile")
    cache = scratch.path / ".git/reconciler/cache.json"
    known = json.loads(cache.read_bytes())
    cache.write_text(json.dumps({**known, "arrivals_tip": "1" * 40, "arrivals": {}}))
    (scratch.outside / "go").touch()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert notes(scratch) == [f"{sign} {name}" for name in "xba" for sign in "+-"]


def test_a_newcomer_cancels_what_runs_in_its_group(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "old", body="sleep 300", concurrency="{group: g}")
    scratch.commit()
    scratch.run("reconcile")
    wait_for(lambda: notes(scratch))
    noted(scratch, "new", concurrency="{group: g, on_conflict: cancel_running}")
    scratch.commit()
    scratch.run("reconcile", "--wait")
    assert notes(scratch) == ["+ old", "+ new", "- new"]
    old = scratch.manifest("old")
    assert old["status"] == "cancelled"
    assert f"{scratch.run_id('new')} takes its place in group 'g'" in json.dumps(old)
    assert scratch.manifest("new")["status"] == "succeeded"


def test_nobody_resumes_a_run_beside_another_one_of_its_group(scratch: Scratch) -> None:
    scratch.settings()
    noted(scratch, "a", body="false", concurrency="{group: g}")
    scratch.commit()
    scratch.run("reconcile", "--wait")
    noted(scratch, "b", body=f"until test -e {scratch.outside}/go; do sleep 0.05; done", concurrency="{group: g}")
    scratch.commit()
    scratch.run("reconcile")
    refused = scratch.run("resume", "a")
    assert refused.returncode == 2
    assert f"{scratch.run_id('b')} of its group 'g' is under way; resume it when that has ended" in refused.stderr
    (scratch.outside / "go").touch()
    scratch.run("reconcile", "--wait")


def test_machines_keep_a_group_apart(hub: Hub) -> None:
    """Four runs of one group, three machines: the stages never meet, and nobody is left out."""
    machines = hub.clones("a", "b", "c", lease_s=20)
    first = machines[0]
    for name in ("w", "x", "y", "z"):
        body = f"mkdir {hub.outside}/alone && sleep 0.3 && rmdir {hub.outside}/alone"
        first.pipeline(name, NOTED.format(command=json.dumps(body)))
        first.request(name, name, concurrency="{group: g}")
    first.commit()
    first.push()
    for each in [machine.start("reconcile", "--wait") for machine in machines]:
        said, errors = each.communicate(timeout=120)
        assert each.returncode == 0, (said, errors)
    assert hub.proofs() == {"w": 1, "x": 1, "y": 1, "z": 1}
    assert hub.shared() == []


# ------------------------------------------------------------------------------------------------ priority


@pytest.mark.parametrize(("ageing", "first"), [("1h", "b"), ("30m", "a")])
def test_waiting_adds_to_priority(scratch: Scratch, ageing: str, first: str) -> None:
    scratch.settings(f"runs_max: 1\nageing: {ageing}\n")
    noted(scratch, "a")
    scratch.git("add", "-A")
    made_at(scratch, time.time() - 3.5 * 3600)
    noted(scratch, "b", priority=5)
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert notes(scratch)[0] == f"+ {first}"


def made_at(scratch: Scratch, epoch_s: float) -> None:
    """Commit what is staged as if it were another time."""
    environment = {**ENVIRONMENT, "GIT_COMMITTER_DATE": f"{int(epoch_s)} +0000"}
    subprocess.run(["git", "commit", "-q", "-m", "old"], cwd=scratch.path, env=environment, check=True)
