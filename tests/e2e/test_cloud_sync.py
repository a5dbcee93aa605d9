"""Manifests leave the repository: each once, whatever fails in between, and no secret with them."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.control_server import TOKEN as PLANE_TOKEN
from tests.control_server import serving
from tests.outside_server import Asked, Outside, Said
from tests.scratch import Scratch

TOKEN = "s3cr3t-of-the-plane"


@pytest.fixture
def outside() -> Iterator[Outside]:
    found = Outside()
    try:
        yield found
    finally:
        found.close()


def settings(scratch: Scratch, outside: Outside) -> None:
    scratch.settings(
        "credentials: {plane: {env: PLANE}}\n"
        f"cloud_sync: {{base_url: '{outside.url}/api', workspace: billing, credential: plane}}\n"
    )


def audit(scratch: Scratch) -> list[str]:
    lines = (scratch.path / "out/t/cloud-sync/audit.jsonl").read_text().splitlines()
    return [f"{each['try_number']} {each['result']} {each['said']}" for each in map(json.loads, lines)]


def test_the_control_plane_that_is_included_takes_what_is_uploaded(scratch: Scratch) -> None:
    with serving(scratch.outside / "control.sqlite", token=PLANE_TOKEN) as served:
        scratch.settings(
            "credentials: {plane: {env: PLANE}}\n"
            f"cloud_sync: {{base_url: '{served.url}', workspace: billing, credential: plane}}\n"
        )
        scratch.simple("a", "true")
        for _ in range(2):
            done = scratch.run("reconcile", "--wait", PLANE=PLANE_TOKEN)
            assert done.returncode == 0, done.stderr
        bearer = {"Authorization": f"Bearer {PLANE_TOKEN}"}
        kept = httpx.get(f"{served.url}/workspaces/billing/runs", headers=bearer, trust_env=False, timeout=20).json()
    assert [each["run_id"] for each in kept["items"]] == [scratch.run_id("a")]
    assert audit(scratch) == ["1 delivered answered 201 billing"]


def test_what_ended_before_is_not_uploaded_and_what_ends_is_once(scratch: Scratch, outside: Outside) -> None:
    scratch.settings()
    scratch.simple("old", "true")
    scratch.run("reconcile", "--wait")
    settings(scratch, outside)
    scratch.simple("new", 'echo "plane is ${PLANE-not there}"; printf "%s%s\\n" s3cr3t -of-the-plane')
    done = scratch.run("reconcile", "--wait", PLANE=TOKEN)
    assert done.returncode == 0, done.stderr
    scratch.run("reconcile", PLANE=TOKEN)
    [asked] = outside.asked
    assert asked.path == "/api/workspaces/billing/runs"
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert asked.headers["idempotency-key"] == f"t/{scratch.run_id('new')}/1"
    assert json.loads(asked.body) == scratch.manifest("new")
    assert audit(scratch) == ["1 delivered answered 201"]
    assert scratch.git("status", "--porcelain") == ""
    written = [path for path in scratch.path.rglob("*") if path.is_file()]
    assert [path for path in written if TOKEN.encode() in path.read_bytes()] == []
    [log] = (scratch.directory("new") / "commands").glob("*-s.log")
    said = log.read_text()
    assert said == "plane is not there\n[redacted:environment]\n"


def test_one_pass_publishes_and_delivers_and_a_failure_delays_no_run(scratch: Scratch, outside: Outside) -> None:
    settings(scratch, outside)
    outside.answer = lambda asked: Said(503)
    scratch.simple("a", "true")
    assert scratch.run("reconcile", PLANE=TOKEN).returncode == 0
    path = scratch.directory("a") / "attempts/1.json"
    scratch.wait_for(lambda: path.exists() and json.loads(path.read_bytes())["outcome"] == "succeeded")
    done = scratch.run("reconcile", "--format", "json", PLANE=TOKEN)
    assert done.returncode == 0
    assert json.loads(done.stdout)["troubles"] == [
        f"cloud-sync: {scratch.run_id('a')}.1 is not delivered yet: answered 503"
    ]
    listed = scratch.run("deliveries", "--format", "json")
    [owed] = json.loads(listed.stdout)["open"]
    assert (owed["outlet"], owed["tries"], owed["reason"]) == ("cloud-sync", 1, "answered 503")


def test_a_refusal_is_a_dead_letter_that_status_shows_and_a_person_revives(scratch: Scratch, outside: Outside) -> None:
    settings(scratch, outside)
    outside.answer = lambda asked: Said(422, body=b'{"message": "no such workspace, token=abcdef123456"}')
    scratch.simple("a", "true")
    done = scratch.run("reconcile", "--wait", PLANE=TOKEN)
    assert done.returncode == 0
    assert len(outside.asked) == 1
    key = f"{scratch.run_id('a')}.1"
    assert f"cloud-sync: {key} is given up: answered 422 no such workspace, token=[redacted:secret]" in done.stderr
    assert f"not delivered: {key} to cloud-sync" in scratch.run("status").stdout
    [dead] = json.loads(scratch.run("status", "--format", "json").stdout)["dead_letters"]
    assert (dead["key"], dead["outlet"]) == (key, "cloud-sync")
    outside.answer = lambda asked: Said(200)
    assert scratch.run("deliveries", "--retry", key).returncode == 0
    scratch.run("reconcile", PLANE=TOKEN)
    assert len(outside.asked) == 2
    assert json.loads(scratch.run("status", "--format", "json").stdout)["dead_letters"] == []
    said = scratch.run("deliveries", "--retry", "nothing")
    assert said.returncode == 2 and "no dead letter 'nothing'" in said.stderr


def test_a_kill_between_upload_and_receipt_costs_one_repeat_with_the_same_key(
    scratch: Scratch, outside: Outside, tmp_path: Path
) -> None:
    settings(scratch, outside)
    scratch.simple("a", "true")

    def answer(asked: Asked) -> Said:
        # The upload has arrived and its receipt cannot be there yet: whoever uploads is killed now.
        if len(outside.asked) == 1:
            started.kill()
            started.wait()
        return Said()

    outside.answer = answer
    started = scratch.start("reconcile", "--wait", PLANE=TOKEN)
    started.communicate(timeout=60)
    assert started.returncode == -9
    assert scratch.run("reconcile", "--wait", PLANE=TOKEN).returncode == 0
    scratch.run("reconcile", PLANE=TOKEN)
    first, second = outside.asked
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.body == second.body


def test_a_watcher_delivers_and_goes_on_to_when_it_was_reloaded(scratch: Scratch, outside: Outside) -> None:
    settings(scratch, outside)
    watcher = scratch.start("watch", "--format", "json", PLANE=TOKEN)
    scratch.simple("a", "true")
    scratch.wait_for(lambda: len(outside.asked) == 1, timeout=40)
    watcher.send_signal(signal.SIGHUP)
    scratch.simple("b", "true")
    scratch.wait_for(lambda: len(outside.asked) == 2, timeout=40)
    watcher.terminate()
    said, _ = watcher.communicate(timeout=40)
    assert watcher.returncode == 0 and '"event": "reloaded"' in said
    assert {each.headers["idempotency-key"].split("-")[0] for each in outside.asked} == {"t/a", "t/b"}


def test_a_secret_that_was_handed_out_is_redacted_in_what_comes_after(scratch: Scratch, outside: Outside) -> None:
    secret = scratch.outside / "token"
    secret.write_text("correct-horse-battery")
    secret.chmod(0o600)
    scratch.settings(
        f"credentials: {{plane: {{file: '{secret}'}}}}\n"
        f"cloud_sync: {{base_url: '{outside.url}', workspace: billing, credential: plane}}\n"
    )
    scratch.simple("a", "true")
    watching = scratch.start("watch", "--lines")
    scratch.wait_for(lambda: outside.asked, timeout=60)
    scratch.simple("b", f"echo it is $(cat {secret})")
    scratch.wait_for(lambda: len(outside.asked) > 1, timeout=60)
    watching.terminate()
    watching.communicate(timeout=60)
    [log] = (scratch.directory("b") / "commands").glob("*-s.log")
    assert log.read_text() == "it is [redacted:environment]\n"
    assert outside.asked[1].headers["authorization"] == "Bearer correct-horse-battery"
    assert b"correct-horse" not in outside.asked[1].body
