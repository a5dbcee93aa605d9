"""Text that nobody vouches for: its stages get no secrets, no network, and agents reach their model by a door alone."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from reconciler import sandbox
from tests.e2e.test_agents import BOTH, programs, settings_of
from tests.model_server import ModelServer, Say, Shell, model
from tests.scratch import FAST, Scratch

pytestmark = pytest.mark.executed

__all__ = ["programs"]

walled = pytest.mark.skipif(bool(sandbox.probe().reason), reason=sandbox.probe().reason)
KEY = "planted-Zx81qKd0Wm-key"
ALL = ["filesystem", "network", "processes", "environment"]
WHO = {"API_TOKEN": KEY}


@pytest.fixture
def outside() -> Iterator[str]:
    """Return the address of a server on the loopback of this machine, and let it say who came."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"reached")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def settings(scratch: Scratch, **keys: Any) -> None:
    scratch.write("reconciler.yaml", FAST + "".join(f"{key}: {json.dumps(each)}\n" for key, each in keys.items()))


def reconcile(scratch: Scratch, **environment: str) -> dict[str, dict[str, Any]]:
    done = scratch.run("reconcile", "--wait", **environment)
    assert done.returncode in (0, 1), done.stderr
    return scratch.stages("a")


def said(scratch: Scratch, stage: str = "s") -> str:
    return scratch.git("show", f"HEAD:{scratch.stages('a')[stage]['log_path']}")


def key_of(scratch: Scratch) -> Path:
    """Make a key whose signatures are believed, and name it in the repository."""
    key = scratch.outside / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    scratch.write(".reconciler/allowed_signers", f"ann@example.invalid {(scratch.outside / 'key.pub').read_text()}")
    return key


def sign(scratch: Scratch, key: Path, message: str = "signed") -> str:
    scratch.git("add", "-A", ".")
    scratch.git("-c", "gpg.format=ssh", "-c", f"user.signingKey={key}", "commit", "-q", "-S", "-m", message)
    return scratch.git("rev-parse", "HEAD").strip()


SIGNERS = {"allowed_signers": ".reconciler/allowed_signers"}


# ------------------------------------------------------------------------------------------------ commands


@walled
@pytest.mark.parametrize("judged", [True, False])
def test_an_agent_that_reviews_gets_no_secrets_for_a_prompt_that_nobody_vouches_for(
    scratch: Scratch, judged: bool
) -> None:
    decide = 'cat > /dev/null; word=approve; test -z "$API_TOKEN" || word=reject'
    tell = """printf '{"decision": "%s", "reasons": []}' $word"""
    reviewer = {"use": "command", "command": ["sh", "-c", f"{decide}; {tell}"], "prompt_file": "prompts/review.md"}
    trust = {"trust": {"paths": []}} if judged else {}
    settings(scratch, roles={"reviewer": {"agent": reviewer}}, **trust)
    scratch.write("prompts/review.md", "Look.")
    scratch.simple("a", "true")
    reconcile(scratch, **WHO)
    assert scratch.manifest("a")["status"] == ("succeeded" if judged else "failed")


def parametrised(scratch: Scratch, command: str, **stage: Any) -> None:
    scratch.pipeline("p", json.dumps({"parameters": {"x": {}}, "stages": [{"id": "s", "command": command, **stage}]}))
    scratch.request("a", "p", parameters="{x: $(id)}")


@walled
def test_parameters_of_an_unsigned_request_get_no_secrets_and_no_network(scratch: Scratch, outside: str) -> None:
    settings(scratch, trust={"paths": ["prompts/**"]})
    host, _, port = outside.partition(":")
    reach = f"exec 3<>/dev/tcp/{host}/{port} && echo reached"
    asked = {"sandbox": {"network": True, "secrets": ["API_TOKEN"]}}
    parametrised(scratch, f"bash -c '{reach}'; echo \"[$API_TOKEN]\"; cat /proc/*/environ | tr '\\0' '\\n'", **asked)
    commit = scratch.commit()
    stage = reconcile(scratch, **WHO)["s"]
    assert stage["status"] == "succeeded", stage
    blob = scratch.git("rev-parse", "HEAD:runs.d/a.yaml").strip()
    text = [{"path": "runs.d/a.yaml", "blob": blob, "commit": commit}]
    assert stage["trust"] == {"trusted": False, "text": text, "enforced": ALL, "not_enforced": []}
    assert "[]" in said(scratch)
    assert "reached" not in said(scratch)
    assert KEY not in said(scratch)
    assert "gets no secrets and no network, because of runs.d/a.yaml" in scratch.run("why", "a").stdout


def test_without_settings_everything_that_is_merged_is_trusted(scratch: Scratch) -> None:
    settings(scratch)
    parametrised(scratch, 'test -n "$SOMETHING"')
    scratch.commit()
    stage = reconcile(scratch, SOMETHING="there")["s"]
    assert (stage["status"], stage["trust"], stage["sandbox"]) == ("succeeded", None, None)


@pytest.mark.parametrize("how", ["signed", "named", "rewritten", "revoked"])
def test_who_vouches_for_a_request(scratch: Scratch, how: str) -> None:
    key = key_of(scratch)
    settings(scratch, trust={**SIGNERS, "paths": ["runs.d/*"] if how == "named" else []}, sandbox={"missing": "record"})
    parametrised(scratch, "true")
    sign(scratch, key)
    if how in ("named", "rewritten"):
        scratch.write("runs.d/a.yaml", (scratch.path / "runs.d/a.yaml").read_text() + "title: mine\n")
        scratch.commit()
    if how == "revoked":
        scratch.write(".reconciler/allowed_signers", "")
        scratch.commit()
    trusted = reconcile(scratch)["s"]["trust"] is None
    assert trusted == (how in ("signed", "named"))


def test_a_signature_that_is_not_by_an_allowed_signer_vouches_for_nothing(scratch: Scratch) -> None:
    key_of(scratch)
    other = scratch.outside / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    settings(scratch, trust=SIGNERS, sandbox={"missing": "record"})
    parametrised(scratch, "true")
    sign(scratch, other)
    assert reconcile(scratch)["s"]["trust"]["trusted"] is False


@pytest.mark.parametrize("missing", ["refuse", "record"])
def test_where_there_are_no_walls_settings_decide(scratch: Scratch, missing: str) -> None:
    settings(scratch, trust={"paths": []}, sandbox={"missing": missing})
    parametrised(scratch, 'echo "[$API_TOKEN]"')
    scratch.commit()
    stage = reconcile(scratch, PATH=without_bubblewrap(scratch), **WHO)["s"]
    assert stage["status"] == ("failed" if missing == "refuse" else "succeeded")
    left = ["filesystem", "network", "processes"]
    assert stage["trust"]["not_enforced"] == (ALL if missing == "refuse" else left)
    assert missing == "refuse" or "[]" in said(scratch)


@walled
def test_what_comes_behind_an_untrusted_stage_is_not_trusted_either(scratch: Scratch) -> None:
    """It might execute what the one before it has left in the workspace."""
    settings(scratch, trust={"paths": []})
    scratch.write("prompts/x.md", "Do it.\n")
    agent = {"use": "command", "command": ["true"], "prompt_file": "prompts/x.md"}
    stages = [{"id": "before", "command": "true"}, {"id": "s", "agent": agent}, {"id": "after", "command": "true"}]
    scratch.pipeline("p", json.dumps({"stages": stages}))
    scratch.request("a", "p")
    scratch.commit()
    found = reconcile(scratch)
    assert found["before"]["trust"] is None
    assert [each["path"] for each in found["after"]["trust"]["text"]] == ["prompts/x.md"]


# ------------------------------------------------------------------------------------------------ agents


def untrusted_agent(
    scratch: Scratch, use: str, programs: Mapping[str, str], server: ModelServer, **keys: Any
) -> dict[str, str]:
    """Commit a request for an agent with an untrusted prompt; return the environment that holds its real key."""
    found = settings_of(use, programs, server)
    agent = found["agents"][use]
    environment = {}
    for name in ("LOOP_API_KEY", "ANTHROPIC_API_KEY"):
        if agent.get("env", {}).pop(name, None):
            environment[name] = KEY
    settings(scratch, trust={"paths": ["AGENTS.md"]}, **found, **keys)
    scratch.write("prompts/x.md", "Make it so.\n")
    stage = {"id": "s", "agent": {"use": use, "prompt_file": "prompts/x.md", "sandbox": "workspace-write"}}
    scratch.pipeline("p", json.dumps({"stages": [stage]}))
    scratch.request("a", "p")
    scratch.commit()
    return environment


@walled
@BOTH
def test_an_agent_works_through_the_door(scratch: Scratch, programs: Mapping[str, str], use: str) -> None:
    with model(Shell("echo hi > a.txt && cat a.txt"), Say("Wrote a.txt.")) as server:
        environment = untrusted_agent(scratch, use, programs, server)
        stage = reconcile(scratch, **environment)["s"]
        assert stage["status"] == "succeeded", (stage["summary"], said(scratch))
        assert stage["trust"]["enforced"] == ALL
        assert [each["path"] for each in stage["trust"]["text"]] == ["prompts/x.md"]
        assert stage["answer"]["detail"]["diff"] == {"files": 1, "added": 1, "removed": 0}
        keys = {header.get("authorization", header.get("x-api-key")) for header in server.headers}
        assert keys == {f"Bearer {KEY}" if use == "codex" else KEY}


ATTACKS = """
exec 2>&1
echo key-in-env: $(env | grep -c {start})
echo key-in-proc: $(cat /proc/*/environ /proc/*/cmdline | tr '\\0' '\\n' | grep -c {start})
echo key-in-files: $(grep -rl {start} . $HOME /tmp {run} 2>/dev/null | wc -l)
curl -s -m 2 http://{outside}/ || echo no-outside
"""


@walled
@BOTH
def test_a_hostile_agent_finds_neither_key_nor_network(
    scratch: Scratch, programs: Mapping[str, str], use: str, outside: str
) -> None:
    # The pattern is written so that it does not find itself.
    script = ATTACKS.format(start="planted-Zx81qKd0W[m]", outside=outside, run=scratch.path / ".runs")
    with model(Shell(script), Say("Done.")) as server:
        environment = untrusted_agent(scratch, use, programs, server)
        stage = reconcile(scratch, **environment)["s"]
        heard = server.asked()
        assert "key-in-env: 0" in heard and "key-in-proc: 0" in heard and "key-in-files: 0" in heard, heard[-3000:]
        assert "no-outside" in heard and "reached" not in heard
        assert KEY not in json.dumps(scratch.manifest("a"))
        assert KEY not in scratch.git("log", "-p", "--all")
        assert stage["trust"]["not_enforced"] == []
    kept = [path for path in scratch.directory("a").rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert kept == []


@BOTH
def test_without_walls_an_agent_has_the_door_all_the_same(
    scratch: Scratch, programs: Mapping[str, str], use: str
) -> None:
    """The port is open to all on the machine then, and of no use without the token."""
    with model(Shell("echo env: $(env | grep -c planted-Zx81qKd0W[m])"), Say("Done.")) as server:
        environment = untrusted_agent(scratch, use, programs, server, sandbox={"missing": "record"})
        stage = reconcile(scratch, PATH=without_bubblewrap(scratch), **environment)["s"]
        assert stage["trust"]["enforced"] == ["environment"]
        assert stage["trust"]["not_enforced"] == ["filesystem", "network", "processes"]
        keys = {header.get("authorization", header.get("x-api-key")) for header in server.headers}
        assert keys == {f"Bearer {KEY}" if use == "codex" else KEY}
        # Codex may refuse to execute anything where it cannot build walls of its own.
        assert "env: 1" not in server.asked()


def without_bubblewrap(scratch: Scratch) -> str:
    """Return a place where all programs are but the one that builds walls."""
    place = scratch.outside / "bin"
    place.mkdir()
    for each in Path("/usr/bin").iterdir():
        if each.name != "bwrap":
            (place / each.name).symlink_to(each)
    return str(place)


def test_an_agent_without_a_key_says_so(scratch: Scratch, programs: Mapping[str, str]) -> None:
    with model(Say("never")) as server:
        untrusted_agent(scratch, "codex", programs, server, sandbox={"missing": "record"})
        stage = reconcile(scratch)["s"]
        assert (stage["status"], stage["answer"]["reason"]) == ("failed", "no-door")
        assert "the environment has no LOOP_API_KEY" in stage["summary"]
        assert server.requests == []
    assert doors(scratch) == []


@walled
def test_the_door_is_shut_with_a_worker_that_is_killed_and_opened_again(
    scratch: Scratch, programs: Mapping[str, str]
) -> None:
    with model(Shell(f"echo half > half.txt; touch {MARK}; sleep 50"), Say("Finished.")) as server:
        environment = untrusted_agent(scratch, "claude", programs, server)
        scratch.run("reconcile", **environment)
        scratch.wait_for(lambda: list(scratch.path.glob(f".runs/t/cli/a-*/workspace/{MARK}")), 60)
        assert len(doors(scratch)) == 1
        os.kill(scratch.attempt("a")["worker"]["pid"], signal.SIGKILL)
        scratch.wait_for(lambda: doors(scratch) == [])
        stage = reconcile(scratch, **environment)["s"]
        assert (stage["status"], stage["attempt"]) == ("succeeded", 2)
        assert stage["trust"]["not_enforced"] == []
    assert doors(scratch) == []


MARK = "there.txt"


def doors(scratch: Scratch) -> list[int]:
    """Return the doors of runs in this repository."""
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and _is_door(pid, scratch)]


def _is_door(pid: str, scratch: Scratch) -> bool:
    try:
        return b"reconciler.agents.door" in Path(f"/proc/{pid}/cmdline").read_bytes() and any(
            str(each.resolve()).startswith(str(scratch.path)) for each in Path(f"/proc/{pid}/fd").iterdir()
        )
    except OSError:
        return False
