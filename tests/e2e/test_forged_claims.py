"""Somebody who may write refs, and not the branch, makes up claims: he opens no gate, ticks no box and stops nobody."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reconciler import codec
from reconciler.model import CLAIMS
from tests.scratch import Clone, Hub, wait_for

AT = "2026-03-01T12:00:00.000000+00:00"
LEASE_S = 2.0
FIRST_HANGS = 'test "$RECONCILER_ATTEMPT" != 1 || sleep 300'


@pytest.fixture
def two(hub: Hub) -> tuple[Clone, Clone]:
    a, b = hub.clones("a", "b", lease_s=LEASE_S)
    return a, b


def put(hub: Hub, ref: str, note: dict[str, Any]) -> None:
    """Let a ref at the remote say something."""
    commit = (
        f"tree {hub.git('mktree').strip()}\nauthor x <x@x> 1 +0000\ncommitter x <x@x> 1 +0000\n\n{json.dumps(note)}"
    )
    made = subprocess.run(
        ["git", "-C", str(hub.path), "hash-object", "-t", "commit", "-w", "--stdin"],
        input=commit, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    hub.git("update-ref", ref, made.stdout.strip())


def note_at(hub: Hub, ref: str) -> dict[str, Any]:
    note: dict[str, Any] = json.loads(hub.git("log", "-1", "--format=%B", ref))
    return note


def made_up(note: dict[str, Any], **more: object) -> dict[str, Any]:
    """Return a claim of a host that there is not, for the attempt behind the newest one."""
    newest = {**note["claims"][-1], "number": len(note["claims"]) + 1, **more}
    return {**note, "host": "ghost-00000000", "nonce": "another", "claims": [*note["claims"], newest]}


def vanish_at_work(a: Clone, hub: Hub, claims: int = 1, begun: Path | None = None) -> list[str]:
    """Let a host claim what is asked for, and be gone once it has `begun` with that; return the refs of its claims."""
    a.start("reconcile", "--wait")
    wait_for(lambda: len([each for each in hub.refs() if each.startswith(CLAIMS)]) == claims and a.processes(a.path))
    refs = sorted(each for each in hub.refs() if each.startswith(CLAIMS))
    wait_for(lambda: all(list(a.path.glob(f".runs/*/cli/{ref.removeprefix(CLAIMS)}/attempts/1.json")) for ref in refs))
    wait_for(lambda: begun is None or begun.exists())
    a.crash()
    return refs


def test_a_decision_in_a_claim_opens_no_gate(hub: Hub, two: tuple[Clone, Clone]) -> None:
    a, b = two
    shipped = hub.outside / "shipped"
    a.pipeline(
        "p",
        f"stages:\n  - id: build\n    command: '{FIRST_HANGS}'\n"
        f"  - id: ship\n    approval: {{reason: It goes out}}\n    command: touch {shipped}\n",
    )
    a.request("x", "p")
    a.push()
    [ref] = vanish_at_work(a, hub)
    said = {
        "stage": "ship", "decision": "approve", "reason": "fine", "actor": "Boss <boss@x>", "at": AT, "commit": None,
        "signer": None, "plan": None, "policy": "",
    }  # fmt: skip
    put(hub, ref, made_up(note_at(hub, ref), decisions=[said]))
    done = b.run("reconcile", "--wait", "--timeout", "40s")
    assert done.returncode == 4, (done.stdout, done.stderr)
    assert not shipped.exists()
    assert hub.manifests()["x"]["status"] == "waiting"
    assert "Boss" not in json.dumps(hub.manifests()["x"])


def test_the_end_of_a_nested_run_in_a_claim_proves_nothing(hub: Hub, two: tuple[Clone, Clone]) -> None:
    a, b = two
    begun = hub.outside / "begun"
    hangs_once = f"mkdir {begun} && sleep 300; exit 1"
    a.pipeline("inner", f"stages:\n  - id: one\n    command: '{hangs_once}'\n")
    a.pipeline("p", "stages:\n  - id: tests\n    pipeline: inner\n")
    a.request("x", "p")
    a.push()
    nested, parent = sorted(
        vanish_at_work(a, hub, claims=2, begun=begun), key=lambda each: "." not in each.removeprefix(CLAIMS)
    )
    child = nested.removeprefix(CLAIMS)
    said = {"run_id": child, "status": "succeeded", "manifest_blob": "0" * 40}
    put(hub, parent, made_up(note_at(hub, parent), children=[said]))
    hub.git("update-ref", "-d", nested)
    done = b.run("reconcile", "--wait", "--timeout", "60s")
    assert done.returncode == 1, (done.stdout, done.stderr)
    assert hub.manifests()["x"]["status"] == "failed"


def test_a_fire_that_never_was_is_executed_by_nobody(hub: Hub, two: tuple[Clone, Clone]) -> None:
    a, _ = two
    touched = hub.outside / "touched"
    a.pipeline("p", f"stages:\n  - id: one\n    command: touch {touched}\n")
    a.request("x", "p", schedule={"cron": "0 0 1 1 *"})
    commit = a.push()
    executed = {"task": "t", "pipeline": "p", "parameters": {}, "target": None, "execution_mode": "auto", "rerun": 0}
    for fire in ("2026-02-03T04:05:00Z", "garbage", "2026-99-99T99:99:99Z", "2999-01-01T00:00:00Z"):
        run_id = f"x-{codec.digest({**executed, 'fire': fire})[:8]}"
        claim = _claim(commit)
        put(hub, f"{CLAIMS}{run_id}", {**_shared(run_id), "claims": [claim], "fired_at": fire})
    a.run("reconcile")
    done = a.run("reconcile", "--wait", "--timeout", f"{3 * LEASE_S}s")
    assert "Traceback" not in done.stderr and done.returncode in (0, 3), (done.stdout, done.stderr)
    assert not touched.exists()
    assert not hub.manifests()


def _shared(run_id: str) -> dict[str, Any]:
    return {"run_id": run_id, "task_id": "t", "host": "ghost-00000000", "nonce": "n", "claims": [], "group": ""}


def _claim(commit: str) -> dict[str, Any]:
    return {
        "number": 1, "series": 1, "claimed": {"at": AT, "monotonic_s": 1.0, "boot_id": "b"}, "plan": "plan.json",
        "claimer": {"pid": 1, "start_ticks": 1, "boot_id": "b"}, "reason": "launched", "actor": "reconciler",
        "plan_digest": "0" * 64, "commit": commit, "host": "ghost-00000000",
    }  # fmt: skip


def test_what_a_claim_says_to_people_becomes_evidence_in_one_line_and_without_secrets(
    hub: Hub, two: tuple[Clone, Clone]
) -> None:
    a, b = two
    a.simple("x", FIRST_HANGS)
    a.push()
    [ref] = vanish_at_work(a, hub)
    token = "ghp_" + "0123456789abcdefghijABCDEFGHIJ012345"
    put(hub, ref, made_up(note_at(hub, ref), reason=f"\x1b[2Jbecause\n{token}", actor=f"me {token}"))
    done = b.run("reconcile", "--wait", "--timeout", "40s")
    assert done.returncode == 0, (done.stdout, done.stderr)
    text = json.dumps(hub.manifests()["x"])
    assert "because" in text
    assert token not in text and "\\u001b" not in text and "\\n" not in hub.manifests()["x"]["attempts"][1]["reason"]


def test_more_claims_of_nobody_than_a_push_can_hold_are_swept(hub: Hub, two: tuple[Clone, Clone]) -> None:
    a, _ = two
    a.simple("x", "true")
    commit = a.push()
    refs = "".join(f"create {CLAIMS}junk-{number:08x} {commit}\n" for number in range(2_600))
    subprocess.run(["git", "-C", str(hub.path), "update-ref", "--stdin"], input=refs, text=True, check=True, timeout=60)
    a.run("reconcile")
    done = a.run("reconcile", "--wait", "--timeout", "60s", timeout=120)
    wait_for(lambda: _swept(hub, a), timeout=60)
    assert done.returncode == 0, (done.stdout[-500:], done.stderr)
    assert hub.proofs() == {"x": 1}


def _swept(hub: Hub, a: Clone) -> bool:
    a.run("reconcile", timeout=120)
    return not [each for each in hub.refs() if each.startswith(CLAIMS)]
