"""The real Codex CLI and the real Claude Code, against a scripted model on loopback.

Both are installed from npm, once, into a directory for temporary files that later sessions use again. Without npm or
its registry these tests are skipped and say why.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from reconciler import process
from reconciler.order import Verdict
from tests.driving import Bench
from tests.model_server import (
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    Call,
    Cut,
    Hang,
    ModelServer,
    Refuse,
    Say,
    Shell,
    Turn,
    model,
)
from tests.scratch import FAST, Scratch

PACKAGES = {"codex": "@openai/codex", "claude": "@anthropic-ai/claude-code"}
PREFIX = Path(tempfile.gettempdir()) / f"reconciler-agents-{os.getuid()}"
BOTH = pytest.mark.parametrize("use", PACKAGES)
TOKENS = INPUT_TOKENS + OUTPUT_TOKENS


@pytest.fixture(scope="session")
def programs() -> Mapping[str, str]:
    """Return where the agents are, by name."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, so neither are the agents")
    PREFIX.mkdir(mode=0o700, exist_ok=True)
    found = {use: str(PREFIX / "node_modules" / ".bin" / use) for use in PACKAGES}
    with open(PREFIX / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all(map(os.path.exists, found.values())):
            command = ["npm", "install", "--no-fund", "--no-audit", "--prefix", str(PREFIX), *PACKAGES.values()]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
            if done.returncode != 0:
                pytest.skip(f"npm cannot install the agents: {done.stderr.strip()[-300:]}")
    return found


def settings_of(use: str, programs: Mapping[str, str], server: ModelServer) -> dict[str, Any]:
    """Return settings in which an agent talks to the scripted model and retries nothing itself."""
    agent: dict[str, Any] = {"driver": use, "command": [programs[use]]}
    if use == "codex":
        provider = {
            "name": "loop", "base_url": f"{server.url}/v1", "wire_api": "responses", "env_key": "LOOP_API_KEY",
            "request_max_retries": 0, "stream_max_retries": 0,
        }  # fmt: skip
        agent |= {"env": {"LOOP_API_KEY": "any"}, "model": "gpt-5.5"}
        agent["config"] = {"model_provider": "loop", "model_providers": {"loop": provider}}
    else:
        agent["env"] = {
            "ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_API_KEY": "any", "CLAUDE_CODE_MAX_RETRIES": "0",
            "DISABLE_TELEMETRY": "1", "DISABLE_ERROR_REPORTING": "1",
        }  # fmt: skip
    return {"agents": {use: agent}}


def bench_of(scratch: Scratch, use: str, programs: Mapping[str, str], server: ModelServer) -> Bench:
    return Bench(scratch, json.dumps(settings_of(use, programs, server)))


def asked_for(scratch: Scratch, use: str, programs: Mapping[str, str], server: ModelServer, **agent: Any) -> None:
    """Commit a request for a pipeline with one stage that the agent does."""
    said = "".join(f"{key}: {json.dumps(each)}\n" for key, each in settings_of(use, programs, server).items())
    scratch.write("reconciler.yaml", FAST + said)
    stage = {"id": "s", "agent": {"use": use, "prompt": "Make it so.", **agent}}
    scratch.pipeline("p", json.dumps({"stages": [stage]}))
    scratch.request("a", "p")
    scratch.commit()


def evidence(scratch: Scratch, name: str) -> str:
    """Return a committed file of evidence of stage `s`."""
    files = [each["path"] for each in scratch.stages("a")["s"]["answer"]["files"]]
    return scratch.git("show", f"HEAD:{next(each for each in files if each.endswith(name))}")


# ------------------------------------------------------------------------------------------------ the whole route


@BOTH
def test_a_plain_answer_becomes_evidence(scratch: Scratch, programs: Mapping[str, str], use: str) -> None:
    with model(Say("Nothing to do, all is well.")) as server:
        asked_for(scratch, use, programs, server)
        done = scratch.run("reconcile", "--wait")
        assert done.returncode == 0, done.stderr
        stage = scratch.stages("a")["s"]
        assert (stage["status"], stage["summary"]) == ("succeeded", "Nothing to do, all is well.")
        assert stage["answer"]["detail"]["usage"]["input_tokens"] == INPUT_TOKENS
        assert evidence(scratch, "answer.txt") == "Nothing to do, all is well.\n"
        assert '"kind": "ended"' in evidence(scratch, "events.jsonl")
        assert "Make it so." in server.asked()


@BOTH
def test_a_file_that_a_shell_call_edits_is_a_patch(scratch: Scratch, programs: Mapping[str, str], use: str) -> None:
    with model(Shell("echo hi > a.txt && cat a.txt"), Say("Wrote a.txt.")) as server:
        asked_for(scratch, use, programs, server, sandbox="workspace-write", demand={"diff": True, "files": ["a.txt"]})
        done = scratch.run("reconcile", "--wait")
        assert done.returncode == 0, done.stderr
        detail = scratch.stages("a")["s"]["answer"]["detail"]
        assert detail["diff"] == {"files": 1, "added": 1, "removed": 0}
        assert detail["commands"][0]["exit_code"] == 0 and "echo hi" in detail["commands"][0]["command"]
        assert detail["spent"]["tokens"] == 2 * TOKENS
        assert "+hi\n" in evidence(scratch, "changes.patch")
        assert not (scratch.path / "a.txt").exists()
        assert scratch.git("status", "--porcelain") == ""


@BOTH
def test_one_that_was_killed_is_resumed_in_its_own_session(
    scratch: Scratch, programs: Mapping[str, str], use: str
) -> None:
    wait = f"echo half > half.txt; touch {scratch.outside}/there; sleep 50"
    with model(Shell(wait), Say("Finished what I began.")) as server:
        asked_for(scratch, use, programs, server, sandbox="full")
        reconciler = scratch.start("reconcile", "--wait")
        scratch.wait_for((scratch.outside / "there").exists, 60)
        record = json.loads(scratch.record("a", "agents/01-s/record.json").read_text())
        worker = scratch.attempt("a")["worker"]["pid"]
        reconciler.kill()
        reconciler.communicate()
        below = set(process.descendants(worker))
        os.kill(worker, signal.SIGKILL)
        scratch.wait_for(lambda: not any(map(process.identify, below)), 30)
        done = scratch.run("reconcile", "--wait")
        assert done.returncode == 0, done.stdout + done.stderr
        answer = scratch.stages("a")["s"]["answer"]
        assert answer["detail"]["resumed"] and answer["detail"]["session"] == record["session"]
        assert answer["summary"] == "Finished what I began."
        assert "Make it so." in server.asked() and "Your work on this was interrupted" in server.asked()
        assert answer["detail"]["diff"] == {"files": 1, "added": 1, "removed": 0}
        assert len(server.requests) == 2


@BOTH
def test_it_reviews_a_run_and_again_when_asked(scratch: Scratch, programs: Mapping[str, str], use: str) -> None:
    first = json.dumps({"decision": "approve", "reasons": ["small"]})
    second = json.dumps({"decision": "reject", "reasons": ["on second thoughts"]})
    # Claude Code wants a schema kept by a tool call, and asks once more where there is none.
    turns = [Say(each) for each in (first, second) for _ in range(2 if use == "claude" else 1)]
    with model(*turns) as server:
        said = settings_of(use, programs, server)
        said["roles"] = {"reviewer": {"agent": {"use": use, "prompt": "Look for sharp edges."}}, "timeout": "1m"}
        lines = "".join(f"{key}: {json.dumps(each)}\n" for key, each in said.items())
        scratch.write("reconciler.yaml", FAST + lines)
        scratch.simple("a", "echo done")
        done = scratch.run("reconcile", "--wait")
        assert done.returncode == 0, done.stdout + done.stderr
        summary = json.loads(scratch.git("show", f"HEAD:.runs/t/{scratch.run_id('a')}/manifest.json"))
        assert summary["review"] == {"decision": "approve", "reason": "small", "by": f"agent {use}"}
        asked = scratch.run("review", "a", "--format", "json")
        assert asked.returncode == 1, asked.stderr
        review = json.loads(asked.stdout)
        assert review["reasons"] == ["on second thoughts"]
        assert review["agent"]["tokens"] == TOKENS * len(turns) / 2
        assert server.asked().count("Look for sharp edges.") >= 2


# ------------------------------------------------------------------------------------------------ what goes wrong

FAILURES: dict[str, tuple[Turn, str]] = {
    "401": (Refuse(401), "unauthorized"),
    "429": (Refuse(429), "rate-limited"),
    "500": (Refuse(500), "server-error"),
    "a cut stream": (Cut(), "stream-cut"),
    "an empty answer": (Say(""), "no-answer"),
}


@BOTH
@pytest.mark.parametrize("case", FAILURES)
def test_every_failure_has_a_reason_of_its_own(
    scratch: Scratch, programs: Mapping[str, str], use: str, case: str
) -> None:
    turn, reason = FAILURES[case]
    with model(turn) as server:
        done = bench_of(scratch, use, programs, server).drive({"use": use, "prompt": "Make it so."})
        assert (done.answer.verdict, done.answer.reason) == (Verdict.FAILED, reason), done.log
        assert use in done.answer.summary and len(done.answer.summary) > 20


@BOTH
def test_a_server_that_hangs_is_a_stall(scratch: Scratch, programs: Mapping[str, str], use: str) -> None:
    with model(Hang()) as server:
        bench = bench_of(scratch, use, programs, server)
        before = set(process.descendants(os.getpid()))
        done = bench.drive({"use": use, "prompt": "Make it so.", "stall_after": "8s"})
        assert (done.answer.reason, done.answer.summary) == ("stalled", f"{use} said nothing for 8 s and was ended")
        assert len(server.requests) == 1
        assert set(process.descendants(os.getpid())) <= before


SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["verdict"],
    "properties": {"verdict": {"type": "string", "enum": ["approve", "reject"]}},
}  # fmt: skip


@BOTH
def test_an_answer_that_violates_its_schema(scratch: Scratch, programs: Mapping[str, str], use: str) -> None:
    with model(Say('{"verdict": "perhaps"}')) as server:
        bench = bench_of(scratch, use, programs, server)
        bench.add("review.json", json.dumps(SCHEMA))
        agent = {"use": use, "prompt": "Review it.", "output_schema": "review.json"}
        done = bench.drive(agent)
        assert done.exit_code == 1
        assert (done.answer.reason, done.detail["exit_code"]) == ("schema-violated", 0)
        assert done.answer.summary.startswith("the answer breaks review.json: at /verdict: ")
        # The next try goes on in the same session and is told why.
        server.turns = [
            Call("StructuredOutput", {"verdict": "approve"}) if use == "claude" else Say('{"verdict": "approve"}')
        ]
        earlier = {"reason": done.answer.reason, "summary": done.answer.summary, "detail": done.detail}
        again = bench.drive(agent, try_number=2, earlier=earlier)
        assert (again.answer.verdict, again.detail["answer"]) == (Verdict.PASSED, {"verdict": "approve"}), again.log
        assert again.detail["session"] == done.detail["session"]
        assert "why the last try did not pass" in server.asked()


@BOTH
def test_what_is_refused_is_no_success(scratch: Scratch, programs: Mapping[str, str], use: str) -> None:
    with model(Shell("touch forbidden.txt"), Say("Done, I created it.")) as server:
        bench = bench_of(scratch, use, programs, server)
        done = bench.drive({"use": use, "prompt": "Create it.", "sandbox": "read-only"})
        assert (done.answer.reason, done.detail["exit_code"]) == ("refused", 0), done.log
        assert "touch forbidden.txt" in done.answer.summary
        assert done.detail["diff"]["files"] == 0


@BOTH
def test_a_refusal_that_the_agent_coped_with_is_none(scratch: Scratch, programs: Mapping[str, str], use: str) -> None:
    with model(Shell("ls README.md"), Say("I looked.")) as server:
        done = bench_of(scratch, use, programs, server).drive({"use": use, "prompt": "Look.", "sandbox": "read-only"})
        assert done.answer.verdict == Verdict.PASSED, done.log


@BOTH
def test_tokens_are_counted_while_it_runs(scratch: Scratch, programs: Mapping[str, str], use: str) -> None:
    with model(*[Shell(f"sleep 0.3; echo {n}") for n in range(50)]) as server:
        bench = bench_of(scratch, use, programs, server)
        agent = {"use": use, "prompt": "Go on.", "sandbox": "workspace-write", "budget": {"tokens": 3 * TOKENS}}
        done = bench.drive(agent)
        assert done.answer.reason == "budget-tokens", done.log
        assert 2 < len(server.requests) < 20


def test_the_models_key_is_not_seen_by_commands_of_codex(scratch: Scratch, programs: Mapping[str, str]) -> None:
    with model(Shell("env | grep -c LOOP_API_KEY"), Shell("true"), Say("ok")) as server:
        done = bench_of(scratch, "codex", programs, server).drive({"use": "codex", "prompt": "x"})
        assert done.detail["commands"][0]["exit_code"] == 1, done.log
