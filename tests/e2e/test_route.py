"""From a committed request to committed evidence: what the commit says of itself is true, wherever it is made."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import git
import jsonschema
import pytest

from tests.scratch import Scratch

SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"


def trailers(commit: git.Commit) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in commit.trailers_list:
        found.setdefault(key, []).append(value)
    return found


def read(commit: git.Commit, path: str) -> bytes:
    data: bytes = (commit.tree / path).data_stream.read()
    return data


def test_trailers_name_what_the_commit_holds(scratch: Scratch) -> None:
    for name in ("a", "b"):
        scratch.pipeline(name, f"workspace: empty\nstages:\n  - id: s\n    command: test {name} = a\n")
        scratch.request(name, name)
    asked = scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    repository = git.Repo(scratch.path)
    runs = set()
    for commit in repository.iter_commits(f"{asked}..main"):
        said = trailers(commit)
        runs |= set(said["Reconciler-Run"])
        for line in said["Reconciler-Manifest"]:
            path, _, digest = line.partition(" sha256:")
            data = read(commit, path)
            assert hashlib.sha256(data).hexdigest() == digest
            run_id = json.loads(data)["run_id"]
            assert json.loads(read(commit, f".runs/t/{run_id}/manifest.json"))["manifest_sha256"] == digest
        for line in said["Reconciler-Request"]:
            path, _, blob = line.partition("@")
            assert repository.commit(asked).tree[path].hexsha == blob
        assert len(said["Reconciler-Nonce"]) == 1
    assert runs == {f"{scratch.run_id('a')} succeeded", f"{scratch.run_id('b')} failed"}


def test_a_failure_ticks_nothing_and_is_evidence_all_the_same(scratch: Scratch) -> None:
    scratch.write("tasks/t.md", "- [ ] Green <!-- item: t/green -->\n")
    scratch.write("tasks/index.json", '{"items": [{"id": "t", "title": "T"}]}\n')
    scratch.simple("a", "echo broken; exit 3", proves="[t/green]")
    assert scratch.run("reconcile", "--wait").returncode == 1
    assert scratch.git("show", "HEAD:tasks/t.md") == "- [ ] Green <!-- item: t/green -->\n"
    gate = json.loads(scratch.git("show", "HEAD:tasks/index.json"))["items"][0]["gate"]
    assert (gate["status"], gate["run_id"]) == ("failed", scratch.run_id("a"))
    assert scratch.stages("a")["s"]["summary"] == "exit code 3: broken"
    assert scratch.git("status", "--porcelain") == ""


def test_sums_agree_with_the_manifests_in_the_same_commit(scratch: Scratch) -> None:
    scratch.pipeline("p", f"workspace: empty\nstages:\n  - id: s\n    command: test -e {scratch.outside}/go\n")
    scratch.pipeline("q", "workspace: empty\nstages:\n  - id: s\n    command: 'true'\n")
    scratch.request("a", "p")
    scratch.request("b", "q")
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 1
    (scratch.outside / "go").touch()
    assert scratch.run("resume", "a").returncode == 0
    scratch.request("c", "q", rerun=1)
    scratch.commit()
    assert scratch.run("reconcile", "--wait").returncode == 0
    for commit in git.Repo(scratch.path).iter_commits("main"):
        if commit.author.name != "Reconciler":
            continue
        files = [str(each.path) for each in commit.tree.traverse() if each.type == "blob"]
        found = [
            json.loads(read(commit, each)) for each in files if each.startswith(".runs/t/cli/") and "manifest" in each
        ]
        metrics = json.loads(read(commit, ".runs/t/metrics.json"))
        state = json.loads(read(commit, "out/t/state.json"))
        statuses = [each["status"] for each in found]
        assert metrics["runs"]["total"] == len(found) == state["totals"]["total"] == len(state["runs"])
        assert metrics["runs"]["succeeded"] == statuses.count("succeeded")
        assert metrics["runs"]["failed"] == statuses.count("failed")
        assert metrics["attempts_total"] == sum(len(each["attempts"]) for each in found)
        assert {each["run_id"]: each["status"] for each in state["runs"]} == {
            each["run_id"]: each["status"] for each in found
        }
        assert all(each["run_id"] in read(commit, "out/t/README.md").decode() for each in found)


def test_two_clones_compute_the_same_run_ids(scratch: Scratch) -> None:
    scratch.pipeline(
        "p", "workspace: empty\nparameters: {x: {default: 1}}\nstages:\n  - id: s\n    command: echo $PARAM_X\n"
    )
    scratch.request("a", "p", parameters="{x: 2}")
    scratch.request("sub/b", "p", target="s")
    scratch.commit()
    found = []
    for place in ("one", "two"):
        scratch.git("clone", "-q", str(scratch.path), str(scratch.outside / place))
        clone = scratch.outside / place
        scratch.git("-C", str(clone), "remote", "remove", "origin")
        assert scratch.run("-C", str(clone), "reconcile", "--wait").returncode == 0
        found.append(sorted(each.name for each in (clone / ".runs/t/cli").iterdir()))
    assert found[0] == found[1]
    assert [each.rpartition("-")[0] for each in found[0]] == ["a", "sub.b"]


def test_what_is_not_committed_is_not_asked_for(scratch: Scratch) -> None:
    scratch.simple("a", "echo committed")
    scratch.pipeline("a", "workspace: empty\nstages:\n  - id: s\n    command: echo edited\n")
    scratch.request("a", "a", rerun=7)
    scratch.request("untracked", "a")
    scratch.request("staged", "a")
    scratch.git("add", "runs.d/staged.yaml")
    done = scratch.run("reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    assert [each.name[:-9] for each in (scratch.path / ".runs/t/cli").iterdir()] == ["a"]
    assert scratch.manifest("a")["rerun"] == 0
    assert "committed" in scratch.run("logs", "a").stdout


@pytest.mark.parametrize("kind", ["subdirectory", "linked worktree", "bare", "sha256", "unborn index"])
def test_every_kind_of_repository_gets_its_evidence(scratch: Scratch, kind: str) -> None:
    if kind == "sha256":
        shutil.rmtree(scratch.path / ".git")
        scratch.git("init", "-q", "-b", "main", "--object-format=sha256")
    scratch.write("deep/er/file.txt", "x\n")
    scratch.write("tasks/t.md", "- [ ] Green <!-- item: t/green -->\n")
    scratch.pipeline("p", "stages:\n  - id: s\n    command: cat deep/er/file.txt\n")
    scratch.request("a", "p", proves="[t/green]")
    scratch.commit()
    place, branch = scratch.path, "main"
    if kind == "subdirectory":
        place = scratch.path / "deep/er"
    elif kind == "linked worktree":
        place, branch = scratch.outside / "linked", "side"
        scratch.git("worktree", "add", "-q", "-b", branch, str(place))
    elif kind == "bare":
        place = scratch.outside / "bare.git"
        scratch.git("clone", "-q", "--bare", ".", str(place))
        scratch.git("-C", str(place), "remote", "remove", "origin")
    elif kind == "unborn index":
        (scratch.path / ".git/index").unlink()
        scratch.git("reset", "-q")
    done = scratch.run("-C", str(place), "reconcile", "--wait")
    assert done.returncode == 0, done.stderr
    tree = scratch.git("-C", str(place), "ls-tree", "-r", "--name-only", "--full-tree", branch).split()
    path = next(each for each in tree if each.startswith(".runs/t/cli/a-") and each.endswith("/manifest.json"))
    document = json.loads(scratch.git("-C", str(place), "show", f"{branch}:{path}"))
    assert document["status"] == "succeeded"
    jsonschema.validate(document, json.loads((SCHEMAS / "manifest.schema.json").read_text()))
    assert "- [x] Green" in scratch.git("-C", str(place), "show", f"{branch}:tasks/t.md")
    assert scratch.git("status", "--porcelain") == ""
    if kind != "bare":
        assert scratch.git("-C", str(place), "status", "--porcelain") == ""
    assert "nothing to do" in scratch.run("-C", str(place), "reconcile").stdout
