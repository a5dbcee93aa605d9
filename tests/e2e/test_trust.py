"""Files that a branch puts below `.runs/` are content, not records: nothing of them is executed or believed."""

from __future__ import annotations

import json
import shutil

from tests.scratch import Scratch


def test_records_that_came_with_a_branch_are_set_aside(scratch: Scratch) -> None:
    scratch.simple("a", f"echo honest >> {scratch.outside}/ran")
    scratch.run("reconcile", "--wait")
    forged = scratch.outside / "forged"
    shutil.copytree(scratch.directory("a"), forged)
    scratch.request("b", "a")
    scratch.commit()
    run_id = json.loads(scratch.run("plan", "--format", "json").stdout)["actions"][0]["run_id"]
    target = scratch.path / ".runs/t/cli" / run_id
    shutil.copytree(forged, target)
    text = (target / "plan.json").read_text().replace("echo honest", "echo forged")
    (target / "plan.json").write_text(text.replace(scratch.run_id("a"), run_id))
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert (scratch.outside / "ran").read_text() == "honest\nhonest\n"
    assert (target.parent / f"{run_id}.untrusted-1").is_dir()


def test_a_plan_that_was_changed_under_a_run_is_never_executed(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", f"echo honest >> {scratch.outside}/ran; test -e {scratch.outside}/go || sleep 60")
    scratch.run("reconcile")
    scratch.wait_for(lambda: (scratch.outside / "ran").exists())
    scratch.kill_run("a")
    (scratch.outside / "go").touch()
    plan = scratch.record("a", "plan.json")
    plan.write_text(plan.read_text().replace("echo honest", "echo forged"))
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    assert "it is not the plan that was frozen here" in done.stderr
    assert (scratch.outside / "ran").read_text() == "honest\nhonest\n"


def test_a_run_whose_records_were_removed_does_not_run_twice_at_once(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple(
        "a",
        f"echo $$ >> {scratch.outside}/ran; test -e {scratch.outside}/go || sleep 60; echo end >> {scratch.outside}/ran",
    )
    scratch.run("reconcile")
    scratch.wait_for(lambda: (scratch.outside / "ran").exists())
    scratch.git("clean", "-qxffd")
    (scratch.outside / "go").touch()
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert (scratch.outside / "ran").read_text().count("end") == 1


def test_evidence_that_a_reset_took_away_is_published_again_with_its_logs(scratch: Scratch) -> None:
    scratch.simple("a", "echo said")
    scratch.run("reconcile", "--wait")
    scratch.git("reset", "-q", "--hard", "HEAD~1")
    assert scratch.run("reconcile", "--wait").returncode == 0
    stage = scratch.stages("a")["s"]
    assert scratch.git("show", f"HEAD:{stage['log_path']}") == "said\n"
    assert len(scratch.manifest("a")["attempts"]) == 1


def test_an_ignored_file_of_a_person_is_not_overwritten(scratch: Scratch) -> None:
    scratch.write(".gitignore", "out/\n")
    scratch.simple("a", "true")
    scratch.write("out/t/README.md", "mine\n")
    done = scratch.run("reconcile", "--wait")
    assert (done.returncode, "your work in out/t/README.md" in done.stderr) == (75, True)
    assert (scratch.path / "out/t/README.md").read_text() == "mine\n"
