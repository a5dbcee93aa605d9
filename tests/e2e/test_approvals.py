"""Gates: a run waits for a decision that somebody commits, and goes on or ends by it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.scratch import ENVIRONMENT, Hub, Scratch

SHIP = """\
workspace: empty
stages:
  - id: build
    command: echo built >> {log}
  - id: ship
    approval: {{reason: Publishes to the registry{policy}}}
    command: echo shipped >> {log}
  - id: clean
    command: echo cleaned >> {log}
    finally: true
"""
OTHER = {"GIT_AUTHOR_NAME": "Bob", "GIT_AUTHOR_EMAIL": "bob@example.invalid"}


def asked(scratch: Scratch, settings: str = "", policy: str = "", **keys: object) -> Path:
    """Commit a request whose second stage has a gate; return the file its stages write to."""
    log = scratch.outside / "log"
    scratch.settings(settings)
    scratch.pipeline("release", SHIP.format(log=log, policy=f", policy: {policy}" if policy else ""))
    scratch.request("r", "release", **keys)
    scratch.commit("ask")
    return log


def manifest(scratch: Scratch) -> dict[str, Any]:
    path = f".runs/t/cli/{scratch.run_id('r')}/manifest.json"
    found: dict[str, Any] = json.loads(scratch.git("show", f"HEAD:{path}"))
    return found


def decide(scratch: Scratch, decision: str, name: str = "d", *, more: str = "", **environment: str) -> None:
    """Commit a decision by hand, as whoever the environment says."""
    text = f"run: {scratch.run_id('r')}\nstage: ship\ndecision: {decision}\nreason: because\n{more}"
    scratch.write(f"runs.d/{name}.approval.yaml", text)
    scratch.git("add", "-A", ".")
    command = ["git", "commit", "-q", "-m", f"{decision}"]
    subprocess.run(command, cwd=scratch.path, env=ENVIRONMENT | environment, check=True)


def test_a_run_waits_publishes_that_it_does_and_goes_on_when_approved(scratch: Scratch) -> None:
    log = asked(scratch)
    waited = scratch.run("reconcile", "--wait")
    assert waited.returncode == 4, waited.stderr
    assert "waits for approval of 'ship' (Publishes to the registry): a decision is missing" in waited.stdout
    assert log.read_text() == "built\n"
    [asked_for] = manifest(scratch)["approvals"]
    assert manifest(scratch)["status"] == "waiting"
    assert (asked_for["stage"], asked_for["decision"], asked_for["prompt"]) == (
        "ship",
        None,
        "Publishes to the registry",
    )
    assert scratch.run("reconcile", "--wait").returncode == 4
    approved = scratch.run("approve", "r", "--reason", "changelog checked")
    assert approved.returncode == 0, approved.stderr
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert log.read_text() == "built\nshipped\ncleaned\n"
    [decision] = manifest(scratch)["approvals"]
    assert decision["actor"] == "Ann Author <ann@example.invalid>"
    assert (decision["decision"], decision["reason"]) == ("approve", "changelog checked")
    assert scratch.git("log", "-1", "--format=%H", "--", "runs.d/approvals").strip() == decision["commit"]
    assert [each["status"] for each in manifest(scratch)["commands"]] == ["succeeded"] * 3
    assert manifest(scratch)["status"] == "succeeded"
    assert scratch.git("status", "--porcelain") == ""


def test_a_rejection_fails_the_stage_and_what_closes_the_run_still_runs(scratch: Scratch) -> None:
    log = asked(scratch)
    scratch.run("reconcile", "--wait")
    assert scratch.run("reject", "r", "--stage", "ship", "--reason", "not today").returncode == 0
    assert scratch.run("reconcile", "--wait").returncode == 1
    assert log.read_text() == "built\ncleaned\n"
    found = manifest(scratch)
    assert found["status"] == "failed"
    assert "rejected by Ann Author <ann@example.invalid>: not today" in found["status_detail"]


def test_who_decides_what_is_decided_is_told_by_whom(scratch: Scratch) -> None:
    asked(scratch)
    assert scratch.run("reconcile", "--wait").returncode == 4
    acts = "the next pass acts on it; run: reconciler reconcile --wait"
    assert scratch.run("reject", "r", "--reason", "no", **OTHER).stdout.splitlines()[1] == acts
    late = scratch.run("approve", "r", "--reason", "yes")
    rejected = "stage 'ship' was rejected by Bob <bob@example.invalid>"
    assert late.stdout.splitlines()[1] == f"it was decided already: {rejected}; this changes nothing, and {acts}"
    time.sleep(1.1)
    changed = scratch.run("approve", "r", "--reason", "yes after all", **OTHER)
    assert changed.stdout.splitlines()[1] == f"it takes the place of an earlier decision ({rejected}); {acts}"
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert manifest(scratch)["status"] == "succeeded"


def test_a_decision_that_is_not_enough_is_told_what_is_missing(scratch: Scratch) -> None:
    asked(scratch, "approvals: {two: {stages: [ship], approvals_min: 2, approvers: ['*@example.invalid']}}\n")
    assert scratch.run("reconcile", "--wait").returncode == 4
    first = json.loads(scratch.run("approve", "r", "--reason", "yes", "--format", "json").stdout)
    assert first["settled"] is None and first["told"].startswith("the gate waits on: ")
    second = json.loads(scratch.run("approve", "r", "--reason", "yes", "--format", "json", **OTHER).stdout)
    assert (second["settled"], second["told"][:13]) == ("approve", "the next pass")


@pytest.mark.parametrize(
    ("policy", "status", "said"),
    [("never", "failed", "denied without asking"), ("auto", "succeeded", "granted without asking")],
)
def test_policies_that_ask_nobody_decide_at_once_and_it_is_recorded(
    scratch: Scratch, policy: str, status: str, said: str
) -> None:
    asked(scratch, approval_policy=policy)
    scratch.run("reconcile", "--wait")
    [decision] = manifest(scratch)["approvals"]
    assert (manifest(scratch)["status"], decision["reason"], decision["commit"]) == (status, said, None)
    assert len(manifest(scratch)["attempts"]) == 1


def test_a_policy_may_demand_another_person(scratch: Scratch) -> None:
    log = asked(scratch, "approvals: {two: {stages: [ship], other_person: true}}\n")
    scratch.run("reconcile", "--wait")
    decide(scratch, "approve")
    waits = scratch.run("reconcile", "--wait")
    assert waits.returncode == 4
    assert "another person must decide than who asked for the run" in waits.stdout
    decide(scratch, "approve", "e", **OTHER)
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert "shipped" in log.read_text()
    [decision] = manifest(scratch)["approvals"]
    assert (decision["actor"], decision["policy"]) == ("Bob <bob@example.invalid>", "two")


def test_a_policy_may_demand_several_people_of_a_list(scratch: Scratch) -> None:
    asked(scratch, "approvals: {both: {approvers: ['*@example.invalid'], approvals_min: 2}}\n", policy="both")
    scratch.run("reconcile", "--wait")
    decide(scratch, "approve")
    decide(scratch, "approve", "again")
    waits = scratch.run("reconcile", "--wait")
    assert "1 of 2 decisions of *@example.invalid are there" in waits.stdout
    decide(scratch, "approve", "mallory", GIT_AUTHOR_NAME="M", GIT_AUTHOR_EMAIL="m@evil.invalid")
    assert "policy 'both' does not let m@evil.invalid decide" in scratch.run("reconcile").stdout
    decide(scratch, "approve", "e", **OTHER)
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert len(manifest(scratch)["approvals"]) == 2


def test_a_decision_counts_for_the_plan_it_was_made_for_only(scratch: Scratch) -> None:
    log = asked(scratch)
    scratch.run("reconcile", "--wait")
    decide(scratch, "approve", more=f"plan: '{'0' * 64}'\n")
    assert "it is for another plan; what runs has changed since" in scratch.run("reconcile", "--wait").stdout
    # Whoever changes the pipeline now does not change what was asked: the frozen plan goes on.
    scratch.pipeline("release", f"workspace: empty\nstages:\n  - id: ship\n    command: echo evil >> {log}\n")
    scratch.commit("change it")
    assert scratch.run("approve", "r", "--reason", "ok").returncode == 0
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert log.read_text() == "built\nshipped\ncleaned\n"


def test_a_gate_that_nobody_answers_in_time_is_rejected(scratch: Scratch) -> None:
    asked(scratch, "approvals: {soon: {within: 1s}}\n", policy="soon")
    assert scratch.run("reconcile", "--wait").returncode in (1, 4)
    scratch.wait_for(lambda: scratch.run("reconcile", "--wait").returncode == 1)
    assert "nobody decided by" in manifest(scratch)["status_detail"]


def test_a_policy_that_does_not_exist_opens_no_gate(scratch: Scratch) -> None:
    asked(scratch, policy="nobody-wrote-it")
    scratch.run("reconcile", "--wait")
    decide(scratch, "approve")
    assert "there is no policy 'nobody-wrote-it' in reconciler.yaml" in scratch.run("reconcile", "--wait").stdout


def test_a_waiting_run_takes_no_slot_and_may_be_cancelled(scratch: Scratch) -> None:
    asked(scratch, "runs_max: 1\n")
    scratch.run("reconcile", "--wait")
    scratch.simple("other", "true")
    scratch.run("reconcile", "--wait")
    assert "succeeded" in scratch.run("status", "--all").stdout
    assert scratch.run("cancel", "r", "--reason", "not needed").returncode == 0
    assert manifest(scratch)["status"] == "cancelled"


def test_an_approval_of_nothing_is_refused_with_what_waits(scratch: Scratch) -> None:
    asked(scratch)
    early = scratch.run("approve", "r", "--reason", "x")
    assert early.returncode == 2
    assert "waits at no gate" in early.stderr
    scratch.run("reconcile", "--wait")
    wrong = scratch.run("approve", "r", "--stage", "build", "--reason", "x")
    assert wrong.returncode == 2
    assert "it waits at: ship" in wrong.stderr


# ------------------------------------------------------------------------------------------------ signatures


def key(place: Path, name: str) -> Path:
    made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(place / name)]
    try:
        subprocess.run(made, check=True)
    except FileNotFoundError:
        pytest.skip("ssh-keygen is not installed, and git needs it to sign and to verify")
    return place / name


def test_a_policy_may_demand_a_signature_that_an_author_cannot_forge(scratch: Scratch) -> None:
    ours, theirs = key(scratch.outside, "ours"), key(scratch.outside, "theirs")
    public = ours.with_suffix(".pub").read_text().split()
    scratch.write("signers", f"ann@example.invalid {public[0]} {public[1]}\n")
    settings = (
        "trust: {allowed_signers: signers}\napprovals: {sealed: {signed: true, approvers: [ann@example.invalid]}}\n"
    )
    log = asked(scratch, settings, policy="sealed")
    scratch.run("reconcile", "--wait")
    assert scratch.run("approve", "r", "--reason", "unsigned").returncode == 0
    assert "it is not signed by anybody whom trust.allowed_signers names" in scratch.run("reconcile", "--wait").stdout
    scratch.git("config", "gpg.format", "ssh")
    scratch.git("config", "user.signingkey", str(theirs))
    assert scratch.run("approve", "r", "--reason", "forged", "--sign").returncode == 0
    assert scratch.run("reconcile", "--wait").returncode == 4
    scratch.git("config", "user.signingkey", str(ours))
    signed = scratch.run("approve", "r", "--reason", "signed", "--sign")
    assert signed.returncode == 0, signed.stderr
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stdout
    [decision] = manifest(scratch)["approvals"]
    assert (decision["signer"], decision["reason"]) == ("ann@example.invalid", "signed")
    assert "shipped" in log.read_text()


# ------------------------------------------------------------------------------------------------ several machines


def test_another_machine_goes_on_when_the_first_is_gone(hub: Hub) -> None:
    log = hub.place / "log"
    first = hub.clone("first")
    first.write("pipelines/release.yaml", SHIP.format(log=log, policy=""))
    first.write("runs.d/r.yaml", "task: t\npipeline: release\n")
    first.push("ask")
    assert first.run("reconcile", "--wait").returncode == 4
    assert hub.shared() == []
    second = hub.clone("second")
    waits = second.run("reconcile", "--wait")
    assert waits.returncode == 4, waits.stdout + waits.stderr
    assert second.run("approve", "r", "--reason", "from elsewhere").returncode == 0
    done = second.run("reconcile", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    assert log.read_text() == "built\nbuilt\nshipped\ncleaned\n"
    assert first.run("reconcile", "--wait").returncode == 0
    assert log.read_text() == "built\nbuilt\nshipped\ncleaned\n"
    assert hub.shared() == []


def test_the_machine_that_waited_keeps_what_it_did(hub: Hub) -> None:
    log = hub.place / "log"
    first, second = hub.clone("first"), hub.clone("second")
    first.write("pipelines/release.yaml", SHIP.format(log=log, policy=""))
    first.write("runs.d/r.yaml", "task: t\npipeline: release\n")
    first.push("ask")
    assert first.run("reconcile", "--wait").returncode == 4
    assert second.run("reconcile").returncode in (0, 4)
    assert second.run("approve", "r", "--reason", "from elsewhere").returncode == 0
    assert first.run("reconcile", "--wait").returncode == 0
    assert log.read_text() == "built\nshipped\ncleaned\n"
