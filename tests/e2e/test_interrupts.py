"""Ctrl-C: what has been begun is finished, nothing that has been claimed is lost, and who only waits ends at once."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest

from tests.scratch import Clone, Hub, Scratch

SLOW_S = 1.0


def slow_claims(hub: Hub, seconds: float = SLOW_S) -> None:
    """Let the remote take its time when a run is claimed; `outside/claimed` is there from then on."""
    waiting = f"touch {hub.outside}/claimed; sleep {seconds}"
    hub.hook(
        "post-receive", f"while read old new ref; do case $ref in refs/reconciler/claims/*) {waiting};; esac; done\n"
    )


def interrupted(clone: Clone, hub: Hub, *words: str, number: int = signal.SIGINT) -> tuple[int, str, float]:
    """Send a signal while a run is being claimed; return how the process ended, what it said, and after how long."""
    (hub.outside / "claimed").unlink(missing_ok=True)
    process = clone.start(*words)
    clone.wait_for((hub.outside / "claimed").exists)
    process.send_signal(number)
    began_s = time.monotonic()
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors, time.monotonic() - began_s


def asked(hub: Hub, command: str) -> Clone:
    [clone] = hub.clones("a", lease_s=60)
    clone.pipeline("p", f"workspace: empty\nstages:\n  - id: s\n    command: {command}\n")
    clone.request("x", "p")
    clone.push()
    return clone


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("words", [("reconcile",), ("reconcile", "--wait")])
def test_a_run_that_is_being_claimed_is_launched_before_the_process_ends(
    hub: Hub, words: tuple[str, ...], number: signal.Signals
) -> None:
    clone = asked(hub, f"echo ran >> {hub.outside}/ran")
    slow_claims(hub)
    code, errors, _ = interrupted(clone, hub, *words, number=number)
    assert code == (130 if number == signal.SIGINT else -signal.SIGTERM)
    assert "Traceback" not in errors
    assert ("finishing what has been begun" in errors) == (number == signal.SIGINT)
    clone.wait_for((hub.outside / "ran").exists)
    assert clone.run("reconcile", "--wait").returncode == 0
    assert hub.outcomes("x") == ["succeeded"]
    assert (hub.outside / "ran").read_text() == "ran\n"


def test_a_started_run_is_launched_before_the_process_ends(hub: Hub) -> None:
    clone = asked(hub, "'true'")
    assert clone.run("reconcile", "--wait").returncode == 0
    slow_claims(hub)
    code, errors, _ = interrupted(clone, hub, "start", "p", "--task", "t")
    assert code == 130 and "runs under way go on" in errors
    assert clone.run("reconcile", "--wait").returncode == 0
    assert [hub.outcomes(name) for name in hub.manifests()] == [["succeeded"], ["succeeded"]]


def test_a_resumed_run_goes_on_before_the_process_ends(hub: Hub) -> None:
    clone = asked(hub, f"test -e {hub.outside}/go")
    assert clone.run("reconcile", "--wait").returncode == 1
    (hub.outside / "go").touch()
    slow_claims(hub)
    code, errors, _ = interrupted(clone, hub, "resume", "x")
    assert code == 130 and "Traceback" not in errors
    assert clone.run("reconcile", "--wait").returncode == 0
    assert hub.outcomes("x") == ["failed", "succeeded"]


def test_a_second_interrupt_ends_at_once_and_one_that_is_passed_on_does_not(hub: Hub) -> None:
    clone = asked(hub, "'true'")
    slow_claims(hub, 20)
    process = clone.start("reconcile", "--wait")
    clone.wait_for((hub.outside / "claimed").exists)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGINT)
    began_s = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in errors
    assert time.monotonic() - began_s < 10, "git is told to end, and nothing is waited for that takes longer"
    slow_claims(hub, 0)
    assert clone.run("reconcile", "--wait").returncode == 0
    assert hub.outcomes("x")[-1] == "succeeded"


def test_who_only_waits_ends_at_once_and_says_that_runs_go_on(hub: Hub) -> None:
    clone = asked(hub, f"touch {hub.outside}/ran; sleep 2")
    process = clone.start("reconcile", "--wait")
    clone.wait_for((hub.outside / "ran").exists)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    began_s = time.monotonic()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - began_s < 1
    assert "interrupted; runs under way go on, and the next pass picks everything up" in errors
    assert "finishing" not in errors
    assert clone.run("reconcile", "--wait").returncode == 0
    assert hub.outcomes("x") == ["succeeded"]


def test_a_verb_that_has_no_runs_says_nothing_of_runs(scratch: Scratch) -> None:
    scratch.settings()
    scratch.simple("a", "true")
    process = scratch.start("status", "--watch")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in errors and "runs under way" not in errors
