"""The action, the hooks and the template as they are started elsewhere: by act, by pre-commit, by a shell.

`actions/checkout` is played by an action of three lines: it clones the hub and moves to `ref`. All else of the example
in `docs/ci/github.yml` runs as it stands there, and installs this project as it lies here.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from reconciler.forges.forge import Kind
from tests.forges.server import REPOSITORY, TOKEN, ForgeServer, forge_server
from tests.git_server import GitServer, git_server
from tests.programs import program
from tests.scratch import ENVIRONMENT, Clone, Hub

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/ci/github.yml"
OURS, ZERO = "your-org/gitops-reconciler", "0" * 40
SHIPPED = ("action.yml", "pyproject.toml", "README.md", "LICENSE", "reconciler", "schemas")
"""What of this project is needed to install it; all that lies here would be copied else."""
CHECKOUT = """\
name: checkout
description: clone the hub
inputs: {ref: {default: main}, fetch-depth: {}, persist-credentials: {}}
runs:
  using: composite
  steps:
    - shell: bash
      env: {REF: "${{ inputs.ref }}"}
      run: git clone -q "$HUB" . && git checkout -q "$REF"
"""
PIP_CACHE = {"PIP_CACHE_DIR": str(ROOT / "build/pip-cache"), "PIP_NO_COMPILE": "1"}
OUT_OF_REACH = re.compile(r"No matching distribution|Could not find a version|Connection(Error| refused|.*timed out)")
ASKED = {
    "pipelines/p.yaml": "workspace: empty\nstages:\n  - {id: s, command: \"echo [$GIT_CONFIG_VALUE_1$GITHUB_TOKEN]\"}\n",
    "runs.d/r.yaml": "task: t\npipeline: p\n",
}  # fmt: skip


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(path)
    return found


# ------------------------------------------------------------------------------------------------ act


class Act:
    """Starts the example as GitHub would, on this machine and without containers."""

    def __init__(self, hub: Hub, server: ForgeServer, place: Path) -> None:
        self.hub, self.server, self.place = hub, server, place
        self.clone: Clone = hub.clone("author")
        forge = f"{{kind: github, url: '{server.url}', api_url: '{server.url}', repository: {REPOSITORY}}}"
        self.clone.settings(f"branch: main\nforge: {forge}\n", lease_s=60)
        self.base = self.clone.push("begin")
        for each in SHIPPED:
            copy = shutil.copytree if (ROOT / each).is_dir() else shutil.copy
            (place / "action").mkdir(exist_ok=True)
            copy(ROOT / each, place / "action" / each)
        (place / "checkout").mkdir()
        (place / "checkout" / "action.yml").write_text(CHECKOUT)

    def run(self, name: str, payload: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        event = self.place / "event.json"
        event.write_text(json.dumps(payload))
        (checkout,) = set(re.findall(r"actions/checkout@([0-9a-f]{40})", EXAMPLE.read_text()))
        words = [
            name, "-W", str(EXAMPLE), "-e", str(event), "-P", "ubuntu-latest=-self-hosted", "--no-skip-checkout",
            "--local-repository", f"actions/checkout@{checkout}={self.place / 'checkout'}",
            "--local-repository", f"{OURS}@{ZERO}={self.place}/action",
            "--action-cache-path", str(self.place / "cache"), "--no-cache-server", "--secret", f"GITHUB_TOKEN={TOKEN}",
            "--env", f"HUB={self.hub.path}",
        ]  # fmt: skip
        environment = ENVIRONMENT | {"HOME": str(self.place)} | PIP_CACHE
        done = subprocess.run(
            [program("act"), *words], cwd=self.clone.path, env=environment, capture_output=True, text=True,
            check=False, timeout=150, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if OUT_OF_REACH.search(done.stdout):
            pytest.skip("the action cannot install what this project needs: pip reaches no registry")
        return done


@pytest.fixture
def act(hub: Hub, tmp_path: Path) -> Iterator[Act]:
    program("act")
    with forge_server(Kind.GITHUB) as server:
        yield Act(hub, server, tmp_path)


def test_act_plans_a_pull_request_and_executes_nothing_of_it(act: Act) -> None:
    clone, marker = act.clone, act.place / "executed"
    clone.git("switch", "-q", "-c", "topic")
    for path, text in ASKED.items():
        clone.write(path, text)
    for name in ("venv", "pip", "reconciler"):
        clone.write(f"{name}.py", f"open({str(marker)!r}, 'w')\n")
    head = clone.commit("propose")
    clone.git("push", "-q", "origin", "topic")
    clone.git("switch", "-q", "main")
    repository = {"full_name": REPOSITORY, "default_branch": "main"}
    sides = {"base": {"sha": act.base, "ref": "main", "repo": repository}}
    sides["head"] = {"sha": head, "ref": "topic", "repo": repository}
    done = act.run("pull_request", {"action": "opened", "number": 3, "pull_request": {"number": 3, **sides}})
    assert done.returncode == 0, done.stdout + done.stderr
    (comment,) = act.server.comments
    assert "✅" in comment["body"] and "`r-" in comment["body"]
    assert [(each["sha"], each["name"], each["state"]) for each in act.server.statuses] == [
        (head, "reconciler/plan", "success")
    ]
    assert not marker.exists()
    assert act.hub.refs("refs/heads").keys() == {"refs/heads/main", "refs/heads/topic"}
    assert TOKEN not in done.stdout + done.stderr


def test_act_runs_what_a_push_asks_for_and_the_evidence_starts_nothing(act: Act) -> None:
    for path, text in ASKED.items():
        act.clone.write(path, text)
    head = act.clone.push("ask")
    push = {"ref": "refs/heads/main", "repository": {"default_branch": "main", "full_name": REPOSITORY}}
    done = act.run("push", {**push, "before": act.base, "after": head})
    assert done.returncode == 0, done.stdout + done.stderr
    assert act.hub.manifests()["r"]["status"] == "succeeded"
    assert {each["name"] for each in act.server.statuses} == {"reconciler/r", "reconciler"}
    assert "Say what merging would do" not in done.stdout
    assert TOKEN not in done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------ one password, two scripts


class Runner:
    """A checkout without credentials, in a CI whose git server wants a password."""

    def __init__(self, hub: Hub, server: GitServer, place: Path) -> None:
        self.hub, self.server, self.place = hub, server, place
        author = hub.clone("author")
        author.settings("branch: main\nforge: {kind: none}\n", lease_s=60)
        self.base = author.push("begin")
        for path, text in ASKED.items():
            author.write(path, text)
        self.head = author.push("ask")
        hub.git("config", "http.receivepack", "true")
        self.clone = hub.clone("runner")
        self.clone.git("remote", "set-url", "origin", f"{server.url}/hub.git")

    def run(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a script that finds the reconciler where the action, or the template, put it."""
        home = self.place / "reconciler-action"
        (home / "bin").mkdir(parents=True, exist_ok=True)
        (home / "bin/reconciler").write_text(f'#!/bin/sh\nexec {sys.executable} -m reconciler "$@"\n')
        (home / "bin/reconciler").chmod(0o755)
        script = script.replace("/tmp/reconciler/", f"{home}/")
        words = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", script]
        return subprocess.run(
            words, cwd=self.clone.path, env=ENVIRONMENT | {"RUNNER_TEMP": str(self.place)} | variables,
            capture_output=True, text=True, check=False, timeout=90, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def log(self) -> str:
        """Return what the stage printed that shows which secrets it was given."""
        found = self.hub.manifests()["r"]
        (path,) = self.hub.git("ls-tree", "-r", "--name-only", "main", f"{found['artifact_root']}/commands").split()
        return self.hub.git("show", f"main:{path}")

    def on_disk(self) -> bool:
        """Return whether the token, or what git says instead of it, is in a file of the checkout."""
        words = (TOKEN, self.server.asked[-1].partition(" ")[2])
        files = (path for path in self.clone.path.rglob("*") if path.is_file())
        return any(word.encode() in path.read_bytes() for path in files for word in words)


@pytest.fixture
def runner(hub: Hub, tmp_path: Path) -> Iterator[Runner]:
    with git_server(tmp_path, TOKEN) as server:
        yield Runner(hub, server, tmp_path)


def action_run(runner: Runner, **variables: str) -> tuple[subprocess.CompletedProcess[str], dict[str, str]]:
    """Run the last part of the action as for a push; return what it printed and its outputs."""
    event, output = runner.place / "event.json", runner.place / "output"
    repository = {"default_branch": "main", "full_name": REPOSITORY}
    push = {"ref": "refs/heads/main", "before": runner.base, "after": runner.head, "repository": repository}
    event.write_text(json.dumps(push))
    output.write_text("")
    told = {
        "GITHUB_ACTIONS": "true", "GITHUB_EVENT_NAME": "push", "GITHUB_EVENT_PATH": str(event),
        "GITHUB_SERVER_URL": runner.server.url, "GITHUB_REPOSITORY": REPOSITORY, "GITHUB_OUTPUT": str(output),
        "COMMAND": "ci", "ARGUMENTS": "", "RECONCILER_FORGE_TOKEN": TOKEN,
    }  # fmt: skip
    done = runner.run(load(ROOT / "action.yml")["runs"]["steps"][1]["run"], **told | variables)
    return done, dict(line.split("=", 1) for line in output.read_text().splitlines())


def test_the_action_gives_git_the_token_and_nobody_else(runner: Runner) -> None:
    # What a checkout left behind: two headers at once would be one too many.
    runner.clone.git("config", f"http.{runner.server.url}/.extraheader", "AUTHORIZATION: basic c3RhbGU6c3RhbGU=")
    done, outputs = action_run(runner)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outputs == {"result": "succeeded", "exit-code": "0"}
    assert runner.hub.manifests()["r"]["status"] == "succeeded"
    assert runner.log() == "[]\n"
    assert not runner.on_disk()
    masked = f"::add-mask::{runner.server.asked[-1].partition(' ')[2]}"
    assert (done.stdout + done.stderr).count(masked[12:]) == 1 and masked in done.stdout.splitlines()


def test_without_a_token_the_action_says_what_git_says(runner: Runner) -> None:
    done, outputs = action_run(runner, RECONCILER_FORGE_TOKEN="")
    assert done.returncode != 0
    assert outputs["result"] in ("later", "error", "failed")
    assert runner.hub.manifests() == {}


@pytest.mark.parametrize("word", ["", "start", "--repo=/", "ci; touch x", "$(touch x)", "ci\nx"])
def test_the_action_runs_no_other_verb(runner: Runner, word: str) -> None:
    done, outputs = action_run(runner, COMMAND=word)
    assert (done.returncode, outputs) == (2, {})
    assert "the input command: " in done.stderr
    assert not (runner.clone.path / "x").exists()


def test_arguments_are_one_a_line_and_no_shell_reads_them(runner: Runner) -> None:
    words = "--timeout\n\n$(touch x)`touch x`; touch x\n"
    done, outputs = action_run(runner, ARGUMENTS=words)
    assert (done.returncode, outputs["result"]) == (2, "error")
    assert "$(touch x)`touch x`; touch x" in done.stderr
    assert not (runner.clone.path / "x").exists()
    done, outputs = action_run(runner, ARGUMENTS="--timeout\n1m\n")
    assert outputs["result"] == "succeeded", done.stderr


def test_the_template_of_gitlab_pushes_evidence_with_its_token(runner: Runner) -> None:
    (script,) = load(ROOT / "docs/ci/gitlab.yml")[".reconciler"]["script"]
    done = runner.run(
        script, GITLAB_CI="true", CI_PIPELINE_SOURCE="push", CI_SERVER_URL=runner.server.url, GITLAB_TOKEN=TOKEN,
        CI_PROJECT_PATH=REPOSITORY, CI_COMMIT_SHA=runner.head, CI_COMMIT_BRANCH="main", CI_DEFAULT_BRANCH="main",
        CI_COMMIT_BEFORE_SHA=runner.base,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert runner.hub.manifests()["r"]["status"] == "succeeded"
    assert runner.log() == "[]\n"
    assert not runner.on_disk()


# ------------------------------------------------------------------------------------------------ pre-commit


def test_pre_commit_installs_the_hook_and_runs_it(hub: Hub, tmp_path: Path) -> None:
    """`try-repo` installs the hook from a repository, so what lies here is committed to one."""
    hooks = hub.clone("hooks")
    for each in (*SHIPPED, ".pre-commit-hooks.yaml"):
        copy = shutil.copytree if (ROOT / each).is_dir() else shutil.copy
        copy(ROOT / each, hooks.path / each)
    hooks.write(".gitignore", "__pycache__/\n")
    hooks.commit("hooks")
    (tmp_path / "author").mkdir()
    author = hub.clone("author/repo")
    for path, text in ASKED.items():
        author.write(path, text)
    author.write("runs.d/wrong.yaml", "task: t\npipeline: nobody\n")
    author.git("add", ".")
    environment = ENVIRONMENT | {"HOME": str(tmp_path), "PRE_COMMIT_HOME": str(tmp_path / "pre-commit")}
    done = subprocess.run(
        [program("pre-commit"), "try-repo", str(hooks.path), "reconciler-validate", "--verbose"], cwd=author.path,
        env=environment | PIP_CACHE, capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip
    if OUT_OF_REACH.search(done.stdout):
        pytest.skip("pre-commit cannot install what this project needs: pip reaches no registry")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "runs.d/wrong.yaml:2:" in done.stdout
    assert "3 files checked, 1 problem in 1 file" in done.stdout
