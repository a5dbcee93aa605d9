"""What agents changed, handed over as a branch: once, with the evidence that names it."""

from __future__ import annotations

from tests.scratch import Clone, Hub, Scratch

AGENT = (
    'agents: {mine: {driver: command, command: [sh, -c, "echo new > made.txt; echo more >> README.md; echo done"]}}\n'
)
IDLE = 'agents: {mine: {driver: command, command: [sh, -c, "echo nothing to do"]}}\n'
STAGES = "stages:\n  - id: implement\n    agent: {use: mine, prompt: Do it., deliver: branch}\n"


def asked(scratch: Scratch, settings: str, stages: str = STAGES) -> None:
    scratch.settings(settings)
    scratch.write("README.md", "hello\n")
    scratch.write(".gitignore", "*.log\n")
    scratch.pipeline("p", stages)
    scratch.request("r", "p")


def test_the_change_becomes_a_branch_that_the_manifest_names(scratch: Scratch) -> None:
    asked(scratch, AGENT)
    base = scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stdout + done.stderr
    run_id = scratch.run_id("r")
    delivered = scratch.manifest("r")["delivered"]
    commit = scratch.git("rev-parse", f"runs/{run_id}").strip()
    assert delivered == {"branch": f"runs/{run_id}", "commit": commit, "pull_request": None}
    assert scratch.git("rev-parse", f"runs/{run_id}^").strip() == base
    assert scratch.git("show", f"runs/{run_id}:made.txt") == "new\n"
    assert scratch.git("show", f"runs/{run_id}:README.md") == "hello\nmore\n"
    assert f"Reconciler-Run: {run_id}" in scratch.git("log", "-1", "--format=%B", f"runs/{run_id}")
    assert scratch.git("status", "--porcelain") == ""


def test_a_run_that_failed_or_changed_nothing_hands_nothing_over_and_says_so(scratch: Scratch) -> None:
    asked(scratch, AGENT, STAGES + "  - {id: test, command: exit 1}\n")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    assert scratch.git("branch", "--list", "runs/*") == ""
    asked(scratch, IDLE)
    scratch.write("runs.d/r.yaml", "task: t\npipeline: p\nrerun: 1\n")
    scratch.commit()
    done = scratch.run("reconcile", "--wait")
    assert "nothing is delivered, because nothing was changed" in done.stderr
    assert scratch.manifest("r")["delivered"] is None


def test_it_is_pushed_to_the_remote_and_never_moves_a_branch_that_is_there(hub: Hub) -> None:
    first: Clone = hub.clone("first")
    asked(first, AGENT)
    first.push("ask")
    assert first.run("reconcile", "--wait").returncode == 0
    run_id = first.run_id("r")
    commit = hub.git("rev-parse", f"refs/heads/runs/{run_id}").strip()
    assert hub.manifests()["r"]["delivered"] == {"branch": f"runs/{run_id}", "commit": commit, "pull_request": None}
    assert hub.git("show", f"{commit}:made.txt") == "new\n"
    # Evidence that is lost is made again, and finds what was delivered.
    before = hub.git("rev-parse", "main~1").strip()
    hub.git("update-ref", "refs/heads/main", before)
    assert first.run("reconcile", "--wait").returncode == 0
    assert hub.manifests()["r"]["delivered"]["commit"] == commit
    assert hub.git("rev-parse", f"refs/heads/runs/{run_id}").strip() == commit
