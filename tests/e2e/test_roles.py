"""The four roles taken by a package that somebody else installed, as good and as badly as that can be."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import preloaded
from tests import scratch as scratches
from tests.conftest import end_all
from tests.role_package import install
from tests.scratch import Scratch


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("roles"))


class Repository(Scratch):
    """A repository whose reconciler has the package beside it."""

    python: Path

    def run(self, *words: str, timeout: float = 90, **environment: str) -> subprocess.CompletedProcess[str]:
        env = scratches.ENVIRONMENT | environment
        return preloaded.run(words, cwd=self.path, env=env, timeout=timeout, python=str(self.python))

    def roles(self, more: str = "", **names: object) -> None:
        self.settings(f"roles: {json.dumps(names)}\n{more}")

    def summary(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.git("show", f"HEAD:.runs/t/{self.run_id(name)}/manifest.json"))
        return found


@pytest.fixture
def repository(tmp_path: Path, python: Path) -> Iterator[Repository]:
    found = Repository(tmp_path)
    found.python = python
    try:
        yield found
    finally:
        end_all(tmp_path)


STAGES = """\
workspace: empty
stages:
  - {id: s, command: "echo plain"}
  - {id: slow, command: "touch $OUTSIDE/slow", needs: []}
"""


def test_a_package_takes_all_four_roles_and_the_summary_says_so(repository: Repository) -> None:
    repository.roles(planner="mine", builder="mine", tester="mine", reviewer="mine")
    repository.write("tasks/t.md", "- [ ] one <!-- item: t/one -->\n- [ ] two <!-- item: t/two -->\n")
    repository.pipeline("p", STAGES)
    repository.request("r", "p")
    repository.commit()
    done = repository.run("reconcile", "--wait", OUTSIDE=str(repository.outside))
    assert done.returncode == 0, done.stderr
    summary = repository.summary("r")
    assert summary["plan"]["by"] == "mine" and summary["plan"]["stages"] == ["s"]
    assert summary["plan"]["items"][1] == {"id": "slow", "mode": "mcp", "selected": False}
    assert summary["build"]["by"] == "mine"
    assert summary["test"] == {
        "status": "passed", "by": "mine", "reasons": ["1 succeeded"], "stages": [],
    }  # fmt: skip
    assert summary["review"] == {"decision": "approve", "reason": "tests passed", "by": "mine"}
    assert not (repository.outside / "slow").exists()
    plan = json.loads(repository.record("r", "plan.json").read_bytes())
    assert plan["roles"]["planner"] == "mine"
    assert plan["roles"]["answer"]["selection"] == ["s"] and plan["roles"]["answer"]["reason"] == "2 items"
    assert repository.stages("r")["s"]["summary"] == "mine passed"
    assert "built by Mine: s" in (repository.directory("r") / "commands/01-s.log").read_text()
    assert repository.run("validate", ".runs").returncode == 0


def test_the_same_request_has_the_same_id_whoever_plans_it(repository: Repository) -> None:
    repository.pipeline("p", STAGES)
    repository.request("r", "p")
    ids = []
    for planner in ("built-in", "mine"):
        repository.roles(planner=planner)
        repository.commit()
        found = json.loads(repository.run("status", "--all", "--format", "json").stdout)
        ids += [each["run_id"] for each in found["runs"]]
    assert len(ids) == 2 and len(set(ids)) == 1


@pytest.mark.parametrize(
    ("planner", "reason"),
    [
        ("raises", "planner 'raises' raised RuntimeError: no idea"),
        ("hangs", "planner 'hangs' did not answer within 0.5 s"),
        ("ends", "planner 'ends' ended without an answer, or said what is none"),
        ("garbage", "planner 'garbage' returned dict, not a Planned"),
        ("other", "planner 'other' answered for run 'other-00000000', and was asked about r-"),
        ("wrong", "planner 'wrong' names stage 'nowhere', which pipeline 'p' does not have"),
        ("huge", "planner 'huge' returned more than 64 KiB"),
        ("missing", "planner 'missing' cannot be loaded: AttributeError"),
        ("methodless", "planner 'methodless' has no method 'plan'"),
        ("nobody", "planner 'nobody' is not installed"),
    ],
)
def test_a_planner_that_says_nothing_useful_rejects_its_requests_only(
    repository: Repository, planner: str, reason: str
) -> None:
    repository.roles(planner=planner, timeout="500ms")
    repository.pipeline("p", STAGES)
    repository.request("r", "p")
    repository.commit()
    done = repository.run("reconcile", "--wait")
    assert done.returncode == 1, done.stdout + done.stderr
    assert reason in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list((repository.path / ".runs").glob("*/cli/*"))
    assert reason in repository.run("why", "r").stdout


def test_a_planner_may_send_a_stage_elsewhere_and_then_the_run_waits(repository: Repository) -> None:
    repository.roles(planner="elsewhere")
    repository.simple("r", "true")
    assert "waits for an executor elsewhere (cloud)" in repository.run("reconcile", "--wait").stdout


@pytest.mark.parametrize(
    ("tester", "reason"),
    [
        ("severe", "never good enough"),
        ("raises", "tester 'raises' gave no verdict: tester 'raises' raised RuntimeError: no idea"),
        ("hangs", "tester 'hangs' gave no verdict: timed out after 3 s"),
        ("ends", "tester 'ends' gave no verdict: "),
        ("garbage", "tester 'garbage' gave no verdict: tester 'garbage' returned dict, not a TesterAnswer"),
        ("other", "tester 'other' gave no verdict: its answer is about run 'other-00000000'"),
        ("wrong", "tester 'wrong' gave no verdict: its 'status' is 'good', not one of passed, failed, none"),
        ("huge", "tester 'huge' gave no verdict: tester 'huge' returned more than 64 KiB"),
        ("nobody", "tester 'nobody' gave no verdict: tester 'nobody' is not installed"),
    ],
)
def test_a_run_that_its_tester_does_not_pass_fails(repository: Repository, tester: str, reason: str) -> None:
    repository.roles(tester=tester, reviewer="mine", timeout="3s")
    repository.simple("r", "true")
    assert repository.run("reconcile", "--wait").returncode == 1
    summary = repository.summary("r")
    assert summary["status"] == "failed" and summary["build"]["stages"] == [{"id": "s", "status": "succeeded"}]
    assert (summary["test"]["status"], summary["test"]["by"]) == ("failed", tester)
    assert reason in summary["test"]["reasons"][0]
    assert reason in summary["status_detail"]
    assert (summary["review"]["decision"], summary["review"]["by"]) == ("reject", "built-in")


@pytest.mark.parametrize(
    ("reviewer", "decision", "reason"),
    [
        ("severe", "escalate", "ask Ann"),
        ("raises", "escalate", "reviewer 'raises' decided nothing: reviewer 'raises' raised RuntimeError: no idea"),
        ("hangs", "escalate", "reviewer 'hangs' decided nothing: timed out after 3 s"),
        ("garbage", "escalate", "reviewer 'garbage' decided nothing: reviewer 'garbage' returned dict"),
        ("other", "escalate", "reviewer 'other' decided nothing: its answer is about run 'other-00000000'"),
        ("wrong", "escalate", "reviewer 'wrong' decided nothing: its 'decision' is 'Approve', not one of"),
        ("nobody", "escalate", "reviewer 'nobody' is not installed"),
    ],
)
def test_a_run_succeeds_only_if_its_reviewer_approves(
    repository: Repository, reviewer: str, decision: str, reason: str
) -> None:
    repository.roles(reviewer=reviewer, timeout="3s")
    repository.simple("r", "true")
    assert repository.run("reconcile", "--wait").returncode == 1
    summary = repository.summary("r")
    assert (summary["status"], summary["review"]["decision"]) == ("failed", decision)
    assert summary["review"]["by"] == reviewer
    assert reason in summary["review"]["reason"]
    assert "the reviewer leaves it to a person" in summary["status_detail"]


def test_a_reviewer_can_reject_and_a_resume_asks_it_again(repository: Repository) -> None:
    repository.roles(reviewer="mine")
    repository.simple("r", "echo once >> $OUTSIDE/ran", labels=["reject"])
    outside = {"OUTSIDE": str(repository.outside)}
    assert repository.run("reconcile", "--wait", **outside).returncode == 1
    assert repository.summary("r")["status_detail"] == "the reviewer rejects it: tests none"
    repository.write("runs.d/r.yaml", "task: t\npipeline: r\n")
    repository.commit()
    assert repository.run("resume", "r", "--reason", "the label was wrong", **outside).returncode == 0
    assert repository.summary("r")["review"]["decision"] == "approve"
    assert (repository.outside / "ran").read_text() == "once\n"


@pytest.mark.parametrize(
    ("builder", "summary"),
    [
        ("raises", "builder 'raises' raised RuntimeError: no idea"),
        ("hangs", "timed out after 3 s"),
        ("garbage", "builder 'garbage' returned dict, not a Answer"),
        ("wrong", "builder 'wrong' returned a Answer that is none: "),
        ("other", "builder 'other' has no method 'build'"),
        ("nobody", "builder 'nobody' is not installed"),
    ],
)
def test_a_stage_whose_builder_says_nothing_useful_fails(repository: Repository, builder: str, summary: str) -> None:
    repository.roles(builder=builder)
    repository.pipeline("p", "workspace: empty\nstages: [{id: s, command: 'true', timeout: 3s}]\n")
    repository.request("r", "p")
    repository.commit()
    assert repository.run("reconcile", "--wait").returncode == 1
    stage = repository.stages("r")["s"]
    assert stage["status"] == "failed" and summary in stage["summary"]


def test_a_tester_cannot_waive_what_the_pipeline_requires(repository: Repository) -> None:
    repository.roles(tester="mine")
    guard = "{id: g, guard: {use: command, command: 'false'}, allow_failure: true}"
    repository.pipeline("p", f"guardrails_required: true\nstages: [{guard}]\n")
    repository.request("r", "p")
    repository.commit()
    assert repository.run("reconcile", "--wait").returncode == 1
    test = repository.summary("r")["test"]
    assert (test["status"], test["by"]) == ("failed", "mine")
    assert test["reasons"][-1] == "guardrails are required: g did not pass"


def test_doctor_and_validate_say_which_roles_are_not_installed(repository: Repository) -> None:
    repository.roles(planner="mine", tester="nobody")
    repository.simple("r", "true")
    found = repository.run("validate")
    assert found.returncode == 0 and repository.run("validate", "--strict").returncode == 1
    cure = "install the package with the entry point 'nobody' of the group reconciler.roles"
    assert f"tester 'nobody' is not installed here; {cure}" in found.stdout
    said = json.loads(repository.run("doctor", "--format", "json").stdout)
    roles = [each for each in said["findings"] if each["subject"] == "roles"]
    assert [each["level"] for each in roles] == ["error"]
    assert "tester 'nobody' is not installed" in roles[0]["text"] and "entry point 'nobody'" in roles[0]["cure"]
