"""The control plane as people use it: runs that are shown to one before they begin, what is recorded, what is refused."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx

from tests.control_server import TOKEN, serving
from tests.scratch import Scratch, wait_for

TWO = """\
workspace: empty
stages:
  - id: build
    command: "true"
  - id: ship
    command: "echo shipped >> ../../../../../../shipped; test -e /nowhere"
"""


def furnish(scratch: Scratch, mode: str, url: str, timeout: str = "30s") -> None:
    """Commit a request, and settings that name a control plane: who is there has time to answer, however busy this
    machine is."""
    scratch.settings(f'control_plane:\n  mode: {mode}\n  url: "{url}"\n  timeout: {timeout}\n')
    scratch.pipeline("p", TWO)
    scratch.request("a", "p")
    scratch.commit()


def summary(scratch: Scratch, name: str = "a") -> dict[str, object]:
    found: dict[str, object] = json.loads(scratch.git("show", f"HEAD:.runs/t/{scratch.run_id(name)}/manifest.json"))
    return found


def everything(place: Path) -> bytes:
    return b"".join(each.read_bytes() for each in sorted(place.rglob("*")) if each.is_file())


def test_shadow_records_what_is_said_and_drift_is_summed_up(scratch: Scratch) -> None:
    with serving(token=TOKEN, capabilities=("agent",)) as served:
        furnish(scratch, "shadow", served.url)
        scratch.run("reconcile", "--wait", RECONCILER_CONTROL_TOKEN=TOKEN)
    control = scratch.manifest("a")["control_plane"]
    assert (control["mode"], control["outcome"], control["reason"]) == ("shadow", "invalid", "")
    assert [each["path"] for each in control["errors"]] == ["/pipeline/capabilities/0"]
    assert scratch.stages("a")["ship"]["tries"] == 1, "the run went its way"
    drift = json.loads(scratch.git("show", "HEAD:.runs/t/drift.json"))
    assert drift["samples"] == {"total": 1, "valid": 0, "invalid": 1, "unreachable": 0, "drifted": 0}
    assert TOKEN.encode() not in everything(scratch.path)


def test_a_run_that_is_valid_passes_enforce_and_a_damaged_drift_file_blocks_nobody(scratch: Scratch) -> None:
    with serving(scratch.outside / "c.sqlite") as served:
        furnish(scratch, "enforce", served.url)
        scratch.write(".runs/t/drift.json", '{"samples": {"total": "many"}')
        scratch.git("add", "-f", ".runs/t/drift.json")
        scratch.commit()
        done = scratch.run("reconcile", "--wait")
        assert done.returncode == 1, done.stderr
        kept = served.store.request(scratch.run_id("a"))
    assert kept is not None and json.loads(kept.document)["requested_by"]["actor"] == "Ann Author <ann@example.invalid>"
    control = summary(scratch)["control_plane"]
    assert control == {
        "mode": "enforce",
        "outcome": "valid",
        "remote_id": kept.digest[:32],
        "drift": {"total": 1, "items": [{"path": "/stages/ship", "expected": "succeeded", "found": "failed"}]},
    }
    drift = json.loads(scratch.git("show", "HEAD:.runs/t/drift.json"))
    assert (drift["samples"]["total"], drift["paths"]) == (1, {"/stages/ship": 1})


def test_enforce_stops_a_run_before_any_stage_with_the_errors_by_path(scratch: Scratch) -> None:
    with serving(capabilities=("agent",)) as served:
        furnish(scratch, "enforce", served.url)
        done = scratch.run("reconcile", "--wait")
        again = scratch.run("resume", "a", "--no-wait")
    assert done.returncode == 1
    assert "the control plane refuses it: /pipeline/capabilities/0: 'command' is not offered here" in done.stderr
    manifest = scratch.manifest("a")
    assert manifest["status"] == "failed"
    assert "/pipeline/capabilities/0" in manifest["status_detail"]
    assert [each["outcome"] for each in manifest["attempts"]] == ["failed"], "nothing was lost: nothing began"
    assert {each["tries"] for each in manifest["commands"]} == {0}
    assert not (scratch.path / "shipped").exists()
    assert again.returncode == 2
    assert "is not resumed: the control plane refuses it: /pipeline/capabilities/0" in again.stderr
    assert json.loads(scratch.record("a", "refusals/1.json").read_bytes())["actor"]
    with serving(port=served.port):
        third = scratch.run("resume", "a")
    assert third.returncode == 1, third.stdout + third.stderr
    manifest = scratch.manifest("a")
    assert [each["outcome"] for each in manifest["attempts"]] == ["failed", "failed"]
    assert manifest["control_plane"]["outcome"] == "valid", "the verdict is on the refreshed plan"
    assert scratch.stages("a")["build"]["status"] == "succeeded"


def test_a_run_waits_for_a_control_plane_that_does_not_answer_and_goes_on_when_it_does(scratch: Scratch) -> None:
    with serving() as before:
        port = before.port
    furnish(scratch, "enforce", f"http://127.0.0.1:{port}", "4s")
    process = scratch.start("reconcile", "--wait")
    conditions = scratch.path / ".git/reconciler/conditions.json"
    wait_for(lambda: conditions.is_file() and b"control plane" in conditions.read_bytes())
    assert not list((scratch.path / ".runs").glob("t/cli/*/claims/*")), "nothing is claimed that may not begin"
    with serving(port=port):
        _, said = process.communicate(timeout=60)
    assert f"control plane: POST /v2/requests: 127.0.0.1:{port} cannot be reached" in said
    assert scratch.manifest("a")["control_plane"]["outcome"] == "valid"
    assert b"control plane" not in conditions.read_bytes()


def test_who_waits_for_runs_gives_up_when_nobody_answers(scratch: Scratch) -> None:
    with serving() as before:
        port = before.port
    furnish(scratch, "enforce", f"http://127.0.0.1:{port}", "500ms")
    done = scratch.run("reconcile")
    assert done.returncode == 75
    assert f"waits for the control plane: POST /v2/requests: 127.0.0.1:{port} cannot be reached" in done.stdout
    [said] = [
        each for each in scratch.run("status").stdout.splitlines() if each.startswith("control plane waits since ")
    ]
    assert said in scratch.run("why", "a").stdout.splitlines()


def test_shadow_is_not_in_the_way_of_a_run_when_nobody_answers(scratch: Scratch) -> None:
    with serving() as before:
        port = before.port
    furnish(scratch, "shadow", f"http://127.0.0.1:{port}", "500ms")
    scratch.run("reconcile", "--wait")
    control = scratch.manifest("a")["control_plane"]
    assert (control["outcome"], control["expected"]) == ("unreachable", None)
    assert "cannot be reached" in control["reason"]


# ------------------------------------------------------------------------------------------------ the verb


def test_a_run_is_exported_validated_and_converted(scratch: Scratch) -> None:
    scratch.pipeline("p", TWO)
    scratch.request("a", "p")
    scratch.commit()
    one, all_ = scratch.run("control", "export", "a"), scratch.run("control", "export")
    document = json.loads(one.stdout)
    assert {**json.loads(all_.stdout), "requested_at": ""} == {**document, "requested_at": ""}
    scratch.write("request.json", one.stdout)
    assert scratch.run("control", "validate", "request.json").stdout == "request.json: valid\n"
    scratch.write(
        "old.json", json.dumps({"runId": "r", "taskId": "t", "pipelineId": "p", "metadata": {}, "stages": ["x"]})
    )
    converted = scratch.run("control", "convert", "old.json")
    assert converted.returncode == 0
    assert converted.stderr == "old.json: /metadata has no equivalent and is left out\n"
    assert json.loads(converted.stdout)["pipeline"]["stages"][0]["id"] == "x"
    scratch.write("bad.json", json.dumps({**document, "surprise": 1}))
    bad = scratch.run("control", "validate", "bad.json", "--format", "json")
    assert (bad.returncode, json.loads(bad.stdout)["errors"][0]["path"]) == (1, "/surprise")
    assert scratch.run("control", "export", "nobody").returncode == 2


def test_the_token_comes_from_a_credential_and_one_that_is_refused_is_asked_for_anew(scratch: Scratch) -> None:
    token = scratch.outside / "token"
    token.write_text("not-the-token-of-it")
    token.chmod(0o600)
    with serving(token=TOKEN) as served:
        scratch.settings(
            f"credentials: {{plane: {{file: '{token}'}}}}\n"
            f"control_plane: {{mode: enforce, url: '{served.url}', credential: plane, timeout: 30s}}\n"
        )
        scratch.simple("a", f"cat {token}")
        watcher = scratch.start("watch", "--format", "json")
        try:
            conditions = scratch.path / ".git/reconciler/conditions.json"
            scratch.wait_for(lambda: conditions.exists() and b"answered 401" in conditions.read_bytes())
            token.write_text(TOKEN)
            scratch.wait_for(lambda: "evidence" in scratch.git("log", "--format=%s"), timeout=60)
        finally:
            watcher.send_signal(signal.SIGTERM)
            said = "".join(map(str, watcher.communicate(timeout=20)))
    assert scratch.manifest("a")["control_plane"]["outcome"] == "valid"
    log = scratch.git("show", f"HEAD:{scratch.stages('a')['s']['log_path']}")
    assert log == "[redacted:environment]", "it was handed out before the run began"
    assert TOKEN not in said and TOKEN.encode() not in everything(scratch.path)


def test_the_server_is_started_with_one_command_and_ends_when_asked(scratch: Scratch) -> None:
    token = {"RECONCILER_CONTROL_TOKEN": TOKEN}
    process = scratch.start("control", "serve", "--listen", "127.0.0.1:0", "--data", "c.sqlite", **token)
    assert process.stderr is not None
    url = process.stderr.readline().strip()
    with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/v2/requests").status_code == 401
        assert client.get("/v2/requests", headers={"Authorization": f"Bearer {TOKEN}"}).json()["items"] == []
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0


def test_the_server_does_not_open_itself_to_others_by_mistake(scratch: Scratch) -> None:
    done = scratch.run("control", "serve", "--listen", "0.0.0.0:0", "--data", "c.sqlite")
    assert done.returncode == 2
    assert "others can reach it, and there is no token" in done.stderr
