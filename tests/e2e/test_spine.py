"""The main job end to end: real git, real processes, the real command line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import git
import jsonschema
import pytest

from tests.preloaded import RECONCILER
from tests.scratch import Scratch

pytestmark = pytest.mark.executed

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"


def test_a_committed_request_becomes_committed_evidence(scratch: Scratch) -> None:
    scratch.pipeline(
        "p",
        "workspace: empty\nstages:\n  - id: hello\n    command: echo hello\n  - id: bye\n    command: [echo, bye]\n",
    )
    scratch.write("tasks/t.md", "# T\n\n- [ ] Green <!-- item: t/green -->\r\n- [ ] Other <!-- item: t/other -->")
    scratch.write("tasks/index.json", '{"items": [{"id": "t", "title": "T"}]}\n')
    scratch.request("a", "p", proves="[t/green]")
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    run_id = scratch.run_id("a")
    commit = git.Repo(scratch.path).head.commit
    assert commit.author.name == "Reconciler"
    assert commit.message.startswith("evidence: a succeeded\n")
    assert f"Reconciler-Run: {run_id} succeeded" in commit.message
    changed = set(commit.stats.files)
    root = f".runs/t/cli/{run_id}"
    assert changed == {
        f"{root}/manifest.json", f"{root}/commands/01-hello.log", f"{root}/commands/02-bye.log",
        f".runs/t/{run_id}/manifest.json", ".runs/t/metrics.json", "out/t/state.json", "out/t/README.md",
        "tasks/t.md", "tasks/index.json",
    }  # fmt: skip
    for path, schema in (
        (f"{root}/manifest.json", "manifest"),
        (f".runs/t/{run_id}/manifest.json", "run-summary"),
        (".runs/t/metrics.json", "metrics"),
        ("out/t/state.json", "state"),
        ("tasks/index.json", "task-index"),
    ):
        document = json.loads((commit.tree / path).data_stream.read())
        jsonschema.validate(document, json.loads((SCHEMAS / f"{schema}.schema.json").read_text()))
    link = f"../{root}/manifest.json"
    ticked = f"- [x] Green; Evidence: [{run_id}]({link}) <!-- item: t/green -->\r\n"
    assert (scratch.path / "tasks/t.md").read_bytes().decode() == (f"# T\n\n{ticked}- [ ] Other <!-- item: t/other -->")
    assert (scratch.path / f"{root}/commands/01-hello.log").read_text() == "hello\n"
    assert scratch.git("status", "--porcelain") == ""
    assert str(scratch.path) not in (scratch.path / f"{root}/manifest.json").read_text()


def test_a_second_pass_writes_nothing(scratch: Scratch) -> None:
    scratch.simple("a", "true")
    assert scratch.run("reconcile", "--wait").returncode == 0
    before = scratch.fingerprint()
    done = scratch.run("reconcile")
    assert done.returncode == 0
    assert "nothing to do" in done.stdout
    assert scratch.fingerprint() == before


def test_ten_reconcilers_at_once_execute_every_run_exactly_once(scratch: Scratch) -> None:
    scratch.pipeline(
        "p", f"workspace: empty\nstages:\n  - id: s\n    command: echo $RECONCILER_RUN_ID >> {scratch.outside}/ran\n"
    )
    for number in range(20):
        scratch.request(f"r{number}", "p")
    scratch.commit()
    started = [scratch.start("reconcile", "--wait") for _ in range(10)]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    ran = (scratch.outside / "ran").read_text().split()
    assert len(ran) == 20
    assert sorted(ran) == sorted(scratch.run_id(f"r{number}") for number in range(20))
    assert {scratch.manifest(f"r{number}")["status"] for number in range(20)} == {"succeeded"}
    assert scratch.git("log", "--format=%an", "--max-parents=1").count("Reconciler") >= 1


def test_a_person_s_work_is_untouched_and_waits_are_said(scratch: Scratch) -> None:
    scratch.write("tasks/t.md", "- [ ] Green <!-- item: t/green -->\n")
    scratch.write("staged.txt", "one\n")
    scratch.simple("a", "true", proves="[t/green]")
    scratch.write("staged.txt", "two\n")
    scratch.git("add", "staged.txt")
    scratch.write("untracked.txt", "mine\n")
    scratch.write("tasks/t.md", "- [ ] Green, edited by a person <!-- item: t/green -->\n")
    index = scratch.git("diff", "--cached")
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 75
    assert "tasks/t.md" in done.stderr
    assert "tasks/t.md" in scratch.run("status").stdout
    assert scratch.git("diff", "--cached") == index
    assert (scratch.path / "tasks/t.md").read_text() == "- [ ] Green, edited by a person <!-- item: t/green -->\n"
    scratch.git("commit", "-qm", "mine", "tasks/t.md")
    assert scratch.run("reconcile", "--wait").returncode == 0
    assert (scratch.path / "tasks/t.md").read_text().startswith("- [x] Green, edited by a person; Evidence: [")
    assert (scratch.path / "untracked.txt").read_text() == "mine\n"
    assert scratch.git("diff", "--cached") == index


@pytest.mark.parametrize("name", ["plan.json", "claims/1.json", "attempts/1.json", ".heartbeat", "manifest.json"])
def test_a_damaged_record_is_put_aside_and_nobody_else_suffers(scratch: Scratch, name: str) -> None:
    scratch.settings()
    scratch.pipeline("slow", "workspace: empty\nstages:\n  - id: s\n    command: sleep 30\n    timeout: 2s\n")
    scratch.request("victim", "slow")
    scratch.commit()
    scratch.run("reconcile")
    scratch.wait_for(lambda: scratch.record("victim", "attempts/1.json").exists())
    scratch.kill_run("victim")
    scratch.record("victim", name).write_bytes(b'{"half": ')
    scratch.simple("other", "true")
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 1, done.stderr
    assert scratch.manifest("other")["status"] == "succeeded"
    assert scratch.manifest("victim")["status"] == "failed", done.stderr
    assert "Traceback" not in done.stderr
    if name not in (".heartbeat", "manifest.json"):
        assert "quarantine" in done.stderr
        assert list(scratch.record("victim", "quarantine").iterdir())


def test_not_a_repository_is_one_sentence(tmp_path: Path) -> None:
    done = subprocess.run([*RECONCILER, "status"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "not in a git repository" in done.stderr
    assert "Traceback" not in done.stderr
