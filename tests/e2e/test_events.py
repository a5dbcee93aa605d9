"""What a run tells while it goes, as its journal holds it, and who hears it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from reconciler.contracts import Contracts
from tests import subscriber_package
from tests.scratch import ENVIRONMENT, Scratch

PIPELINE = """\
workspace: empty
stages:
  - id: build
    command: echo the token is $ACME_TOKEN; exit 0
  - id: ship
    approval: {reason: Publishes}
    command: "true"
    needs: [build]
"""


def told(scratch: Scratch, name: str) -> list[dict[str, Any]]:
    lines = (scratch.directory(name) / "events.jsonl").read_bytes().splitlines()
    return [json.loads(each) for each in lines]


def names(found: list[dict[str, Any]]) -> list[str]:
    return [" ".join(filter(None, (each["event"], each["data"].get("stage")))) for each in found]


def test_a_run_tells_its_whole_story_without_secrets_and_nothing_of_it_is_committed(scratch: Scratch) -> None:
    scratch.settings()
    scratch.pipeline("p", PIPELINE)
    scratch.request("r", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait", ACME_TOKEN="tokenvalue123456").returncode == 4
    first = [
        "run:started",
        "plan:completed",
        "stage:started build",
        "stage:completed build",
        "approval:requested ship",
    ]
    assert names(told(scratch, "r")) == first
    scratch.run("approve", "r", "--reason", "fine")
    assert scratch.run("reconcile", "--wait", ACME_TOKEN="tokenvalue123456").returncode == 0
    found = told(scratch, "r")
    assert names(found)[len(first) :] == [
        "run:resumed",
        "approval:decided ship",
        "stage:started ship",
        "stage:completed ship",
        "build:completed",
        "test:completed",
        "review:completed",
        "run:completed",
    ]
    assert [Contracts().check("event", each) for each in found] == [()] * len(found)
    assert len({each["id"] for each in found}) == len(found)
    assert "tokenvalue" not in (scratch.directory("r") / "events.jsonl").read_text()
    assert "events.jsonl" not in scratch.git("ls-tree", "-r", "--name-only", "HEAD")
    assert scratch.git("status", "--porcelain") == ""


def test_a_package_subscribes_and_one_that_throws_is_named_and_breaks_nobody(scratch: Scratch, tmp_path: Path) -> None:
    python, chat = subscriber_package.install(tmp_path), tmp_path / "chat"
    scratch.settings("subscribers: [broken, chat, missing]\n")
    scratch.simple("a", "true")
    done = subprocess.run(
        [str(python), "-m", "reconciler", "reconcile", "--wait"], cwd=scratch.path, capture_output=True, text=True,
        env={**ENVIRONMENT, "CHAT_FILE": str(chat)}, check=False, timeout=90,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "subscriber 'broken': ValueError at run:started: no idea what run:started is" in done.stderr
    assert "subscriber 'missing': no installed package has it; install the package" in done.stderr
    heard = [line.split(" ") for line in chat.read_text().splitlines()]
    assert heard[0][0] == "run:started" and heard[-1][0] == "run:completed"
    assert {each[1] for each in heard} == {scratch.run_id("a")}
    assert len(heard) == len({each[0] for each in heard})


def test_the_end_of_a_run_that_was_given_up_is_told_by_the_pass(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", "sleep 60", attempts_max=1)
    scratch.run("reconcile")
    scratch.wait_for(lambda: (scratch.record("a", "events.jsonl")).exists())
    scratch.kill_run("a")
    assert scratch.run("reconcile", "--wait").returncode == 1
    assert told(scratch, "a")[-1]["event"] == "run:failed"
    assert told(scratch, "a")[-1]["data"]["status"] == "failed"


def test_what_is_left_out_and_what_is_tried_again_is_told(scratch: Scratch) -> None:
    scratch.settings()
    again = f"test -e {scratch.outside}/again || {{ touch {scratch.outside}/again; exit 3; }}"
    stages = [
        {"id": "never", "command": "true", "when": "false"},
        {"id": "twice", "command": again, "attempts_max": 2, "backoff": "10ms", "needs": []},
    ]
    scratch.pipeline("p", f"workspace: empty\nstages: {json.dumps(stages)}\n")
    scratch.request("r", "p")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    found = [each["data"] for each in told(scratch, "r") if each["event"] == "stage:completed"]
    said = sorted((each["stage"], each["try_number"], each["status"], each["exit_code"]) for each in found)
    assert said == [("never", 0, "skipped", None), ("twice", 1, "failed", 3), ("twice", 2, "succeeded", 0)]
