"""What happened between two looks at a manifest."""

from __future__ import annotations

from typing import Any

from reconciler.telling import between


def stage(
    name: str, started: str | None = None, completed: str | None = None, status: str = "pending"
) -> dict[str, Any]:
    return {"id": name, "status": status, "started_at": started, "completed_at": completed, "summary": f"{name} said"}


def manifest(*commands: dict[str, Any], **said: Any) -> dict[str, Any]:
    attempts = [{"number": 1, "started_at": "00", "reason": "launched"}]
    default = {
        "title": "T",
        "started_at": "00",
        "completed_at": None,
        "status": "in_progress",
        "summary": "",
        "approvals": [],
    }
    return {"run_id": "r-1", "attempts": attempts, "commands": list(commands)} | default | said


def told(before: dict[str, Any] | None, after: dict[str, Any]) -> list[str]:
    return [" ".join(filter(None, (each.at, each.name, each.stage, each.status))) for each in between(before, after)]


def test_the_first_look_tells_everything_in_order() -> None:
    after = manifest(stage("a", "01", "03", "succeeded"), stage("b", "02", status="running"), stage("c"))
    assert told(None, after) == [
        "00 run:started in_progress", "01 stage:started a running", "02 stage:started b running",
        "03 stage:completed a succeeded",
    ]  # fmt: skip


def test_the_same_again_is_no_news() -> None:
    seen = manifest(stage("a", "01", "03", "succeeded"), completed_at="04", status="succeeded")
    assert told(seen, seen) == []


def test_a_run_that_has_not_begun_has_no_events() -> None:
    assert told(None, manifest(stage("a"), started_at=None, attempts=[])) == []


def test_the_end_comes_last_and_says_how() -> None:
    before = manifest(stage("a", "01", status="running"))
    after = manifest(stage("a", "01", "05", "failed"), completed_at="05", status="failed", summary="a failed")
    assert told(before, after) == ["05 stage:completed a failed", "05 run:failed failed"]
    (*_, end) = between(before, after)
    assert end.detail == "a failed"
    cancelled = manifest(completed_at="05", status="cancelled")
    assert told(manifest(), cancelled) == ["05 run:failed cancelled"]


def test_a_later_attempt_is_told_with_its_reason_and_its_stages() -> None:
    before = manifest(stage("a", "01", "02", "failed"), completed_at="03", status="failed")
    attempts = [*before["attempts"], {"number": 2, "started_at": "10", "reason": "registry is back"}]
    after = manifest(stage("a", "11", status="running"), attempts=attempts)
    assert told(before, after) == ["10 run:resumed in_progress", "11 stage:started a running"]
    assert between(before, after)[0].detail == "registry is back"


def gate(**said: Any) -> dict[str, Any]:
    asked = {"stage": "ship", "prompt": "Ship it?", "asked_at": "02", "decision": None, "at": None, "commit": None}
    return {**asked, "reason": "", **said}


def test_gates_are_asked_and_decided_once() -> None:
    asked = manifest(approvals=[gate()])
    assert told(manifest(), asked) == ["02 approval:requested ship waiting"]
    one = gate(decision="approve", at="05", commit="c1", reason="fine")
    assert told(asked, manifest(approvals=[one])) == ["05 approval:decided ship approve"]
    two = gate(decision="approve", at="05", commit="c2")
    assert told(manifest(approvals=[one]), manifest(approvals=[one, two])) == ["05 approval:decided ship approve"]
    assert told(None, manifest(approvals=[one, two]))[1:] == [
        "02 approval:requested ship waiting", "05 approval:decided ship approve", "05 approval:decided ship approve",
    ]  # fmt: skip
