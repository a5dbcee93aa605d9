"""What a run tells while it goes, as its journal holds it, and who hears it."""

from __future__ import annotations

import json
from typing import Any

from reconciler.contracts import Contracts
from tests.scratch import Scratch

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
