"""What people can say in a request, and what becomes of it."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.scratch import ENVIRONMENT, Scratch


def test_a_run_id_is_made_of_what_is_executed(scratch: Scratch) -> None:
    scratch.simple("a", f"echo x >> {scratch.outside}/ran")
    assert scratch.run("reconcile", "--wait").returncode == 0
    scratch.write("runs.d/a.yaml", "# reformatted\npipeline:   a\ntask: 't'\nlabels: [x]\ntitle: New\npriority: 5\n")
    scratch.commit()
    assert "nothing to do" in scratch.run("reconcile", "--wait").stdout
    assert (scratch.outside / "ran").read_text() == "x\n"
    scratch.request("a", "a", rerun=1)
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert (scratch.outside / "ran").read_text() == "x\nx\n"


def test_an_edit_supersedes_the_run_that_is_under_way(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", f"echo $RECONCILER_RUN_ID >> {scratch.outside}/ran; test -e {scratch.outside}/go || sleep 60")
    scratch.run("reconcile")
    scratch.wait_for(lambda: (scratch.outside / "ran").exists())
    older = scratch.run_id("a")
    (scratch.outside / "go").touch()
    scratch.request("a", "a", rerun=1)
    scratch.commit()
    scratch.run("reconcile", "--wait")
    newer = scratch.run_id("a")
    assert (scratch.outside / "ran").read_text().split() == [older, newer]
    assert newer != older
    assert scratch.manifest("a")["status"] == "succeeded"
    page = scratch.git("show", "HEAD:out/t/README.md")
    assert f"superseded by {newer}" in page.replace("\\", "")


def test_a_suspended_request_waits_until_it_may(scratch: Scratch) -> None:
    scratch.pipeline("p", "workspace: empty\nstages:\n  - id: s\n    command: 'true'\n")
    scratch.request("held", "p", suspend="{reason: freeze, until: '2999-01-01T00:00:00Z'}")
    scratch.request("free", "p", suspend="{reason: over, until: '2001-01-01T00:00:00Z'}")
    scratch.request("off", "p", suspend="true")
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0
    assert "suspended until 2999-01-01T00:00:00Z: freeze" in done.stdout
    assert [each.name[:4] for each in (scratch.path / ".runs/t/cli").iterdir()] == ["free"]
    assert "suspended" in scratch.run("why", "off").stdout


def test_a_request_can_cancel_its_run(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", "sleep 60")
    scratch.run("reconcile")
    scratch.wait_for(lambda: scratch.record("a", "attempts/1.json").exists())
    scratch.request("a", "a", cancel="wrong branch")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    manifest = scratch.manifest("a")
    assert (manifest["status"], manifest["attempts"][0]["outcome"]) == ("cancelled", "cancelled")
    assert "wrong branch" in manifest["status_detail"]
    assert scratch.processes(scratch.directory("a")) == []


def test_a_request_that_was_cancelled_first_never_starts(scratch: Scratch) -> None:
    scratch.simple("a", "true", cancel="changed my mind")
    done = scratch.run("reconcile", "--wait")
    assert "cancelled before it started: changed my mind" in done.stdout
    assert not (scratch.path / ".runs").exists()


def test_runs_max_and_priority_order_what_waits(scratch: Scratch) -> None:
    scratch.settings("runs_max: 1\n")
    scratch.pipeline(
        "p", f"workspace: empty\nstages:\n  - id: s\n    command: echo $RECONCILER_RUN_ID >> {scratch.outside}/ran\n"
    )
    scratch.request("a", "p")
    scratch.request("b", "p", priority=5)
    scratch.request("c", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert [each[0] for each in (scratch.outside / "ran").read_text().split()] == ["b", "a", "c"]


def test_good_requests_run_beside_bad_ones(scratch: Scratch) -> None:
    scratch.pipeline("p", "workspace: empty\nstages:\n  - id: s\n    command: 'true'\n")
    for number in range(10):
        scratch.request(f"good-{number}", "p")
    for number in range(1000):
        scratch.write(f"runs.d/bad-{number:04d}.yaml", f"task: T {number}\npipelin: p\n")
    scratch.request("typo", "pp")
    os.symlink("good-0.yaml", scratch.path / "runs.d/link.yaml")
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 1
    assert sum(line.startswith("succeeded") for line in done.stdout.splitlines()) == 10
    assert "runs.d/typo.yaml:2:1: there is no pipeline 'pp'; did you mean 'p'?" in done.stderr
    assert "runs.d/link.yaml: this is a symbolic link" in done.stderr
    assert "runs.d/bad-0999.yaml:2:1: unknown key 'pipelin'; did you mean 'pipeline'?" in done.stderr


def test_every_verb_names_the_place_of_what_does_not_fit(scratch: Scratch) -> None:
    scratch.settings()
    parameter = "parameters: {size: {default: small, pattern: 'small|large'}}\n"
    scratch.pipeline("p", f"workspace: empty\n{parameter}stages:\n  - id: s\n    command: 'true'\n")
    scratch.request("bad", "p", parameters="{size: huge}")
    scratch.request("late", "p", after="[nobody]")
    scratch.commit()
    wrong = "runs.d/bad.yaml:3:14: parameter 'size' is 'huge'"
    assert wrong in scratch.run("validate").stdout
    done = scratch.run("reconcile")
    assert done.returncode == 1
    assert f"rejected: {wrong}" in done.stderr
    assert "rejected: runs.d/late.yaml:3:9: " in done.stderr
    assert f"reject {wrong}" in scratch.run("plan").stdout
    assert wrong in scratch.run("status").stdout
    assert wrong in scratch.run("why", "bad").stdout
    [told] = json.loads(scratch.run("status", "--format", "json").stdout)["rejections"][:1]
    assert (told["problems"][0]["line"], told["problems"][0]["column"]) == (3, 14)


def test_two_files_that_claim_one_name_are_both_rejected(scratch: Scratch) -> None:
    scratch.pipeline("p", "workspace: empty\nstages:\n  - id: s\n    command: 'true'\n")
    scratch.request("x.y", "p")
    scratch.request("x/y", "p")
    scratch.commit()
    done = scratch.run("reconcile")
    assert done.returncode == 1
    assert "runs.d/x.y.yaml: the name 'x.y' is also claimed by runs.d/x/y.yaml" in done.stderr


def test_evidence_lands_on_a_branch_that_is_not_checked_out(scratch: Scratch) -> None:
    scratch.settings("branch: main\n")
    scratch.simple("a", "true")
    scratch.git("switch", "-q", "--detach")
    before = scratch.git("rev-parse", "HEAD")
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert scratch.git("rev-parse", "HEAD") == before
    assert "evidence: a succeeded" in scratch.git("log", "-1", "--format=%s", "main")
    assert scratch.git("status", "--porcelain") == ""


def test_publishing_waits_for_a_rebase_to_end(scratch: Scratch) -> None:
    scratch.settings("branch: main\n")
    scratch.simple("a", "true")
    scratch.write("f.txt", "1\n")
    scratch.commit()
    todo = scratch.write("../outside/edit.sh", '#!/bin/sh\nsed -i s/^pick/edit/ "$1"\n')
    todo.chmod(0o755)
    environment = ENVIRONMENT | {"GIT_SEQUENCE_EDITOR": str(todo)}
    rebase = ["git", "rebase", "-q", "-i", "HEAD~1"]
    subprocess.run(rebase, cwd=scratch.path, env=environment, check=True, capture_output=True)
    done = scratch.run("reconcile", "--wait")
    assert (done.returncode, "a rebase of 'main' is in progress" in done.stderr) == (75, True)
    assert "a rebase of 'main' is in progress" in scratch.run("status").stdout
    scratch.git("rebase", "--continue")
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert scratch.manifest("a")["status"] == "succeeded"


def test_odd_places(scratch: Scratch) -> None:
    odd = scratch.path / "a dir ünï"
    os.rename(scratch.path / ".git", scratch.path / ".git-moved")
    odd.mkdir()
    os.rename(scratch.path / ".git-moved", odd / ".git")
    scratch.path = odd
    scratch.write("tasks/söme file.md", "- [ ] Odd <!-- item: t/odd -->\n")
    scratch.simple("a", "pwd", proves="[t/odd]")
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert "[x] Odd; Evidence" in (odd / "tasks/söme file.md").read_text()
    assert scratch.git("status", "--porcelain") == ""


def test_the_loop_resumes_the_frozen_plan_and_the_verb_a_fresh_one(scratch: Scratch) -> None:
    scratch.settings()
    stages = "workspace: empty\nstages:\n  - id: one\n    command: echo one-{v} >> {out}/ran\n"
    stages += "  - id: two\n    command: echo two-{v} >> {out}/ran; test -e {out}/go || sleep 60; exit 1\n"
    scratch.pipeline("p", stages.format(v=1, out=scratch.outside))
    scratch.request("a", "p")
    scratch.commit()
    scratch.run("reconcile")
    scratch.wait_for(lambda: (scratch.outside / "ran").exists() and "two-1" in (scratch.outside / "ran").read_text())
    scratch.kill_run("a")
    (scratch.outside / "go").touch()
    changed = stages.format(v=2, out=scratch.outside).replace("exit 1", "exit 0").replace("one-2", "one-1")
    scratch.pipeline("p", changed)
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    assert (scratch.outside / "ran").read_text().split() == ["one-1", "two-1", "two-1"]
    assert len(scratch.manifest("a")["plan_digests"]) == 1
    refused = scratch.run("resume", "a", "--token", "wrong")
    assert (refused.returncode, "the token does not match" in refused.stderr) == (2, True)
    token = (scratch.directory("a") / ".resume-token").read_text().strip()
    assert scratch.run("resume", "a", "--token", token, "--reason", "fixed").returncode == 0
    assert (scratch.outside / "ran").read_text().split() == ["one-1", "two-1", "two-1", "two-2"]
    manifest = scratch.manifest("a")
    assert len(manifest["plan_digests"]) == 2
    assert [each["outcome"] for each in manifest["resume_events"]] == ["accepted", "refused", "accepted"]
    assert token not in scratch.git("log", "-p")
    assert scratch.run("resume", "a").returncode == 2


@pytest.mark.parametrize("verb", ["status", "plan", "why"])
def test_looking_writes_nothing(scratch: Scratch, verb: str) -> None:
    scratch.simple("a", "true")
    before = scratch.fingerprint()
    done = scratch.run(verb, *(["a"] if verb == "why" else []))
    assert done.returncode == 0, done.stderr
    assert "a" in done.stdout
    assert scratch.fingerprint() == before


def test_waiting_is_bounded_and_says_so(scratch: Scratch) -> None:
    gate = scratch.outside / "gate"
    scratch.simple("a", f"until test -e {gate}; do sleep 0.05; done")
    assert scratch.run("reconcile", "--wait", "--timeout", "500ms").returncode == 3
    gate.touch()
    assert scratch.run("reconcile", "--wait").returncode == 0
