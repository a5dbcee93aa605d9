"""What agents changed, handed over as a pull request: once, whatever dies in between, and never silently not."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from reconciler.forges.forge import Kind
from tests.forges.server import REPOSITORY, TOKEN, Fault, ForgeServer, forge_server
from tests.scratch import Clone, Hub

AGENT = 'agents: {mine: {driver: command, command: [sh, -c, "echo new > made.txt; echo made it"]}}\n'
STAGES = "title: Make | it @ann so\nstages:\n  - id: implement\n    agent: {use: mine, prompt: Do it., deliver: pull_request}\n"


@pytest.fixture(params=[Kind.GITHUB])
def server(request: pytest.FixtureRequest) -> Iterator[ForgeServer]:
    with forge_server(request.param) as found:
        yield found


def asked(hub: Hub, server: ForgeServer, more: str = "") -> Clone:
    clone = hub.clone("first")
    forge = f"{{kind: {server.kind.value}, url: '{server.url}', api_url: '{server.site.api_url}', repository: {REPOSITORY}}}"
    clone.settings(f"{AGENT}forge: {forge}\n{more}", lease_s=60)
    clone.write("README.md", "hello\n")
    clone.pipeline("p", STAGES)
    clone.request("r", "p")
    clone.push("ask")
    return clone


def reconcile(clone: Clone, token: str = TOKEN) -> Any:
    return clone.run("reconcile", "--wait", **({"RECONCILER_FORGE_TOKEN": token} if token else {}))


def receipt(hub: Hub, branch: str = "main") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        hub.git("show", f"{branch}:{hub.manifests(branch)['r']['artifact_root']}/pull_request.json")
    )
    return found


@pytest.mark.parametrize("server", list(Kind), indirect=True)
def test_the_change_becomes_a_pull_request_that_a_receipt_proves(hub: Hub, server: ForgeServer) -> None:
    clone = asked(hub, server)
    done = reconcile(clone)
    assert done.returncode == 0, done.stderr
    run_id = clone.run_id("r")
    manifest = hub.manifests()["r"]
    commit = hub.git("rev-parse", f"refs/heads/runs/{run_id}").strip()
    assert manifest["delivered"] == {"branch": f"runs/{run_id}", "commit": commit, "pull_request": "main"}
    (pull,) = server.pulls
    assert (pull["head"], pull["base"], pull["title"]) == (f"runs/{run_id}", "main", "Make | it @ann so")
    assert f"`{run_id}`" in pull["body"]
    assert f"{manifest['artifact_root']}/manifest.json" in pull["body"]
    found = receipt(hub)
    assert (found["run_id"], found["number"], found["forge"]) == (run_id, 1, server.kind.value)
    assert f"pull request of {run_id}: {found['url']}" in done.stderr
    assert f"Reconciler-Pull-Request: {run_id} {found['url']}" in hub.git("log", "-1", "--format=%B", "main")
    assert (
        clone.run(
            "validate",
            f"{manifest['artifact_root']}/pull_request.json",
            "--commit",
            hub.git("rev-parse", "main").strip(),
        ).returncode
        == 0
    )
    # Nothing is owed any more: the forge is not even asked.
    requests = len(server.requests)
    assert reconcile(clone).returncode == 0
    assert len(server.requests) == requests


def test_a_watcher_opens_it_too_and_says_so(hub: Hub, server: ForgeServer) -> None:
    clone = asked(hub, server)
    watcher = clone.start("watch", "--format", "json", RECONCILER_FORGE_TOKEN=TOKEN)
    try:
        clone.wait_for(lambda: hub.git("log", "-1", "--format=%B", "main").count("Reconciler-Pull-Request: "))
    finally:
        watcher.send_signal(signal.SIGTERM)
        said, _ = watcher.communicate(timeout=30)
    (told,) = [each["detail"] for each in map(json.loads, said.splitlines()) if each["event"] == "told"]
    assert told == f"pull request of {clone.run_id('r')}: {receipt(hub)['url']}"
    assert len(server.pulls) == 1


def test_without_a_token_it_waits_and_says_so_until_there_is_one(hub: Hub, server: ForgeServer) -> None:
    clone = asked(hub, server)
    done = reconcile(clone, token="")
    assert done.returncode == 0
    assert "no pull request is opened: there is no token in $RECONCILER_FORGE_TOKEN" in done.stderr
    assert "pull request waits since " in clone.run("status").stdout
    assert hub.manifests()["r"]["delivered"]["pull_request"] == "main"
    assert reconcile(clone).returncode == 0
    assert len(server.pulls) == 1
    assert receipt(hub)["number"] == 1
    assert "pull request waits" not in clone.run("status").stdout


@pytest.mark.parametrize(
    "fault", [Fault(status=401), Fault(status=403, method="POST"), Fault(status=404), Fault(status=422, method="POST")]
)
def test_a_refusal_is_told_and_another_pass_tries_again(hub: Hub, server: ForgeServer, fault: Fault) -> None:
    server.faults = [fault]
    clone = asked(hub, server)
    done = reconcile(clone)
    assert "no pull request is opened: GitHub (acme/billing): " in done.stderr
    assert TOKEN not in done.stderr + done.stdout
    assert hub.manifests()["r"]["status"] == "succeeded"
    reconcile(clone)
    assert receipt(hub)["number"] == 1


def test_one_that_was_opened_before_a_crash_is_found_again(hub: Hub, server: ForgeServer) -> None:
    clone = asked(hub, server)
    before = hub.git("rev-parse", "main").strip()
    reconcile(clone)
    receipts = hub.git("rev-parse", "main").strip()
    assert receipts != before
    # The receipt is lost, as if the process had died when the pull request was there.
    hub.git("update-ref", "refs/heads/main", f"{receipts}~1")
    server.pulls[0]["state"] = "closed"
    assert reconcile(clone).returncode == 0
    assert len(server.pulls) == 1
    assert receipt(hub)["number"] == 1
    # And all evidence is lost.
    hub.git("update-ref", "refs/heads/main", before)
    assert reconcile(clone).returncode == 0
    assert len(server.pulls) == 1
    assert receipt(hub)["number"] == 1


def test_two_machines_open_one(hub: Hub, server: ForgeServer) -> None:
    clone = asked(hub, server)
    reconcile(clone, token="")
    others = [hub.clone(each) for each in ("second", "third")]
    started = [each.start("reconcile", "--wait", RECONCILER_FORGE_TOKEN=TOKEN) for each in others]
    for each in started:
        each.communicate(timeout=60)
    assert len(server.pulls) == 1
    assert receipt(hub)["number"] == 1


def test_receipts_go_where_evidence_goes(hub: Hub, server: ForgeServer) -> None:
    clone = asked(hub, server, "publish: {mode: branch, branch: proof}\n")
    assert reconcile(clone).returncode == 0
    assert receipt(hub, "proof")["number"] == 1
    assert not hub.git("ls-tree", "-r", "--name-only", "main", ".runs").strip()
    # The branch moves on, and the receipt stays.
    clone.write("more.txt", "more\n")
    clone.push("more")
    assert reconcile(clone).returncode == 0
    assert receipt(hub, "proof")["number"] == 1
    assert len(server.pulls) == 1


def test_a_forged_wish_of_another_branch_is_not_granted(hub: Hub, server: ForgeServer) -> None:
    clone = asked(hub, server)
    reconcile(clone, token="")
    clone.git("pull", "-q", "origin", "main")
    root = hub.manifests()["r"]["artifact_root"]
    document = json.loads((clone.path / root / "manifest.json").read_bytes())
    document["delivered"]["branch"] = "main"
    clone.git("checkout", "-q", "origin/main", "--", root)
    clone.write(f"{root}/manifest.json", json.dumps(document))
    clone.git("add", "-f", root)
    clone.git("commit", "-q", "-m", "forge")
    clone.git("push", "-q", "origin", "HEAD:main")
    reconcile(clone)
    assert [each["head"] for each in server.pulls if each["head"] == "main"] == []
