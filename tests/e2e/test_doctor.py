"""`reconciler doctor` in repositories that are well, and in those that are not."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests import preloaded
from tests.preloaded import RECONCILER
from tests.scratch import ENVIRONMENT, Hub, Scratch

CLEAN = {
    name: value
    for name, value in ENVIRONMENT.items()
    if name in ("PATH", "HOME", "LANG", "TZ", "NO_COLOR", "TMPDIR", "VIRTUAL_ENV") or name.startswith("GIT_")
}


def ask(directory: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    asked = [*words, "doctor", "--format", "json"]
    done = preloaded.run(asked, cwd=directory, env=CLEAN | environment, timeout=90)
    assert "Traceback" not in done.stderr
    return done


def findings(directory: Path, *words: str, code: int | None = None, **environment: str) -> dict[str, dict[str, Any]]:
    """Return the findings by subject, the worst where there are several."""
    done = ask(directory, *words, **environment)
    told = json.loads(done.stdout)
    assert done.returncode == (1 if told["errors"] else 0)
    if code is not None:
        assert done.returncode == code, told
    order = ["ok", "warning", "error"]
    return {each["subject"]: each for each in sorted(told["findings"], key=lambda each: order.index(each["level"]))}


@pytest.fixture
def ready(scratch: Scratch) -> Scratch:
    scratch.simple("a", "true")
    return scratch


def test_a_repository_that_is_well(ready: Scratch) -> None:
    before = ready.fingerprint()
    found = findings(ready.path, code=0)
    assert {each["level"] for each in found.values()} - {"warning"} == {"ok"}
    assert {each["subject"] for each in found.values() if each["level"] == "warning"} <= {"sandbox", "disk"}
    assert ready.fingerprint().keys() == before.keys(), "nothing is left behind"
    assert found["branch"]["text"] == "'main'"


def test_the_text_is_grouped_and_ends_with_a_summary(ready: Scratch) -> None:
    done = preloaded.run(["doctor"], cwd=ready.path, env=CLEAN, timeout=90)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line for line in lines[:-1] if not line.startswith(" ")] == ["machine", "repository", "content", "runs"]
    assert "  ok       settings: the defaults: there is no reconciler.yaml" in lines
    assert " things looked at, " in lines[-1]
    assert "\x1b" not in done.stdout


def test_colour_is_for_terminals(ready: Scratch) -> None:
    master, slave = pty.openpty()
    environment = {name: value for name, value in CLEAN.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    process = subprocess.Popen(
        [*RECONCILER, "doctor"], cwd=ready.path, env=environment, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    said = b""
    while part := _read(master):
        said += part
    process.wait(60)
    os.close(master)
    assert b"\x1b[32mok" in said


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


# ------------------------------------------------------------------------------------------------ no repository


def test_without_a_repository_the_machine_is_looked_at_all_the_same(tmp_path: Path) -> None:
    found = findings(tmp_path, code=1)
    assert found["python"]["level"] == "ok"
    assert found["repository"]["level"] == "error"
    assert found["repository"]["cure"] == "git init && reconciler init"


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    found = findings(tmp_path, "-C", "nowhere", code=1)
    assert found["repository"]["level"] == "error"
    assert "no such directory" in found["repository"]["text"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_repository_of_another_user(ready: Scratch) -> None:
    for path in (ready.path, ready.path / ".git"):
        os.chown(path, 65534, 65534)
    found = findings(ready.path, code=1)
    assert found["repository"]["cure"] == f"git config --global --add safe.directory {ready.path}"


def test_no_git_at_all(ready: Scratch, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = findings(ready.path, code=1, PATH=str(tmp_path / "empty"))
    assert found["git"]["level"] == "error"
    assert found["git"]["cure"] == "install git 2.36 or newer"
    assert found["sandbox"]["text"] == "bubblewrap is not installed: stages cannot be sandboxed"


# ------------------------------------------------------------------------------------------------ programs


def program(place: Path, name: str, text: str) -> str:
    place.mkdir(exist_ok=True)
    (place / name).write_text(f"#!/bin/sh\n{text}\n")
    (place / name).chmod(0o755)
    return f"{place}:{CLEAN['PATH']}"


def test_a_sandbox_that_does_not_work(ready: Scratch, tmp_path: Path) -> None:
    path = program(tmp_path / "bin", "bwrap", "echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
    found = findings(ready.path, code=0, PATH=path)
    assert found["sandbox"]["level"] == "warning"
    assert "No permissions to create new namespace" in found["sandbox"]["text"]


def test_an_old_git(ready: Scratch, tmp_path: Path) -> None:
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    old = f'for each; do test "$each" = version && echo "git version 2.30.1" && exit; done; exec {real} "$@"'
    found = findings(ready.path, code=1, PATH=program(tmp_path / "bin", "git", old))
    assert found["git"]["text"] == "2.30.1 is too old; 2.36 is needed"


def test_agents_are_looked_for_where_a_pipeline_uses_them(ready: Scratch, tmp_path: Path) -> None:
    assert "codex" not in findings(ready.path)
    ready.pipeline(
        "work", "stages:\n  - {id: w, agent: {use: codex, prompt: x}}\n  - {id: v, agent: {use: claude, prompt: x}}\n"
    )
    path = program(tmp_path / "bin", "codex", 'test "$1" = --version && echo "codex-cli 9.9.9"')
    program(tmp_path / "bin", "claude", "exit 3")
    found = findings(ready.path, code=1, PATH=path)
    assert (found["codex"]["level"], found["codex"]["text"]) == ("ok", "codex-cli 9.9.9")
    assert found["claude"]["level"] == "error"
    assert found["claude"]["cure"] == "npm install -g @anthropic-ai/claude-code"
    assert "pipelines/work.yaml" in found["claude"]["text"]


def test_extras_that_settings_and_pipelines_ask_for_are_looked_for(ready: Scratch) -> None:
    assert "extras" not in findings(ready.path)
    ready.settings("telemetry: {otlp: {}}\ncredentials: {mail: {keyring: {system: mail, user: runs}}}\n")
    ready.pipeline("judge", "stages:\n  - {id: p, guard: patterns}\n  - {id: q, guard: {use: patterns}}\n")
    ready.commit()
    found = findings(ready.path, code=1)["extras"]
    # OpenTelemetry and ast-grep are there, and nothing is said of what is.
    assert (found["level"], found["cure"]) == ("error", "python3 -m pip install 'gitops-reconciler[keyring]'")
    assert found["text"] == "credentials.mail needs the extra 'keyring', which is not installed"
    ready.settings("telemetry: {otlp: {}}\n")
    ready.commit()
    assert findings(ready.path)["extras"]["level"] == "ok"


def test_credentials_are_named_and_never_shown(ready: Scratch) -> None:
    secret = "ghp_" + "x7Qk2" * 7
    done = ask(ready.path, GITHUB_TOKEN=secret, MY_PASSWORD="correct-horse-9", HARMLESS="1", RECONCILER_TOKEN=secret)
    (found,) = [each for each in json.loads(done.stdout)["findings"] if each["subject"] == "environment"]
    assert (found["level"], found["cure"]) == ("warning", "env -u GITHUB_TOKEN -u MY_PASSWORD reconciler reconcile")
    assert secret not in done.stdout + done.stderr
    assert "correct-horse-9" not in done.stdout + done.stderr
    assert done.returncode == 0


def test_few_open_files(ready: Scratch) -> None:
    words = ["sh", "-c", 'ulimit -n 100; exec "$@"', "sh", *RECONCILER, "doctor", "--format", "json"]
    done = subprocess.run(words, cwd=ready.path, env=CLEAN, capture_output=True, text=True, check=True, timeout=90)
    (found,) = [each for each in json.loads(done.stdout)["findings"] if each["subject"] == "open files"]
    assert (found["level"], found["cure"]) == ("warning", "ulimit -n 4096")


# ------------------------------------------------------------------------------------------------ the repository


def test_a_repository_without_a_commit(scratch: Scratch) -> None:
    found = findings(scratch.path, code=1)
    assert found["branch"]["text"] == "'main' has no commit"
    assert found["branch"]["cure"] == "git commit --allow-empty -m 'begin'"
    assert (found["files"]["level"], found["files"]["cure"]) == ("warning", "reconciler init")


def test_a_detached_head(ready: Scratch) -> None:
    ready.git("switch", "-q", "--detach")
    assert "HEAD is detached" in findings(ready.path, code=1)["branch"]["text"]
    ready.settings("branch: main\n")
    ready.commit()
    assert findings(ready.path, code=0)["branch"]["level"] == "ok"


def test_a_branch_whose_name_no_record_can_hold(ready: Scratch) -> None:
    ready.git("switch", "-q", "-c", "x" * 245)
    found = findings(ready.path, code=1)["branch"]
    assert (f"'{'x' * 50}" in found["text"], found["cure"]) == (True, "git branch -m NAME")


def test_a_bare_repository(ready: Scratch, tmp_path: Path) -> None:
    ready.git("clone", "-q", "--bare", ".", str(tmp_path / "bare"))
    ready.git("-C", str(tmp_path / "bare"), "remote", "remove", "origin")
    found = findings(tmp_path / "bare", code=0)
    assert found["repository"]["text"] == "bare"
    assert "checked at" in found["files"]["text"]
    ready.write("runs.d/bad.yaml", "task: t\n")
    ready.commit()
    ready.git("push", "-q", str(tmp_path / "bare"), "HEAD")
    found = findings(tmp_path / "bare", code=1)
    assert "runs.d/bad.yaml:1:1" in found["files"]["text"]


def test_wrong_settings(ready: Scratch) -> None:
    ready.write("reconciler.yaml", "runs_maxx: 3\n")
    ready.commit()
    found = findings(ready.path, code=1)
    assert "unknown key 'runs_maxx'" in found["settings"]["text"]
    assert found["settings"]["cure"] == "reconciler validate --commit HEAD"


def test_wrong_files_are_summed_up(ready: Scratch) -> None:
    ready.write("runs.d/b.yaml", "task: t\npipelin: a\n")
    ready.write("tasks/index.json", "{")
    found = findings(ready.path, code=1)["files"]
    assert (found["level"], found["cure"]) == ("error", "reconciler validate")
    assert "more)" in found["text"]


def test_a_slow_clock(ready: Scratch) -> None:
    later = f"{int(time.time()) + 86400 * 3} +0000"
    environment = ENVIRONMENT | {"GIT_COMMITTER_DATE": later, "GIT_AUTHOR_DATE": later}
    words = ["git", "commit", "-q", "--allow-empty", "-m", "later"]
    subprocess.run(words, cwd=ready.path, env=environment, check=True)
    found = findings(ready.path, code=0)["clock"]
    assert (found["level"], found["cure"]) == ("warning", "sudo timedatectl set-ntp true")


def test_stale_locks(ready: Scratch) -> None:
    lock = ready.write(".git/index.lock", "")
    assert findings(ready.path, code=0)["locks"]["level"] == "ok", "one that is new belongs to somebody"
    os.utime(lock, (1, 1))
    found = findings(ready.path, code=0)["locks"]
    assert (found["level"], found["cure"]) == ("warning", "reconciler reconcile")
    assert "index.lock" in found["text"]
    assert lock.exists()


def test_records_that_are_not_excluded(ready: Scratch) -> None:
    (ready.path / ".runs").mkdir()
    found = findings(ready.path, code=0)["exclude"]
    assert found["level"] == "warning"
    subprocess.run(["sh", "-c", found["cure"]], cwd=ready.path, check=True)
    assert findings(ready.path, code=0)["exclude"]["text"] == "/.runs/ is excluded"


@pytest.mark.parametrize("mark", ["t\n", ""], ids=["whole", "emptied by a power loss"])
def test_runs_whose_records_are_gone(ready: Scratch, mark: str) -> None:
    ready.write(".git/reconciler/live/a-12345678", mark)
    found = findings(ready.path, code=0)["runs"]
    assert (found["level"], found["cure"]) == ("warning", "reconciler reconcile --wait")
    assert "a-12345678" in found["text"]
    assert ready.run("reconcile", "--wait").returncode == 0
    assert findings(ready.path, code=0)["runs"]["level"] == "ok"


def test_what_the_last_pass_could_not_do(ready: Scratch) -> None:
    ready.write(".git/reconciler/conditions.json", json.dumps({"publish": {"reason": "your work", "since": "2026"}}))
    found = findings(ready.path, code=1)["publish"]
    assert found["text"] == "waits since 2026: your work"


def test_a_file_where_the_records_belong(ready: Scratch) -> None:
    ready.write(".git/reconciler", "no directory")
    assert ask(ready.path).returncode in (0, 1)


def test_linked_directories_are_said_to_be_wrong(ready: Scratch) -> None:
    (ready.path / "runs.d").rename(ready.outside / "runs.d")
    (ready.path / "runs.d").symlink_to(ready.outside / "runs.d")
    found = findings(ready.path, code=1)["files"]
    assert "symbolic link" in found["text"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_git_directory(ready: Scratch) -> None:
    (ready.path / ".git").chmod(0o555)
    try:
        found = findings(ready.path, code=1)["file system"]
    finally:
        (ready.path / ".git").chmod(0o755)
    assert "cannot be written: Permission denied" in found["text"]


# ------------------------------------------------------------------------------------------------ a remote


def test_a_remote_that_is_well(hub: Hub) -> None:
    (clone,) = hub.clones("one")
    before = hub.refs()
    found = findings(clone.path, code=0)
    assert found["remote"]["text"] == "origin answers and takes atomic pushes"
    assert found["branch"]["text"] == "'main' at origin"
    assert hub.refs() == before, "a rehearsal moves nothing"


def test_a_remote_that_is_away(hub: Hub) -> None:
    (clone,) = hub.clones("one")
    clone.cut()
    found = findings(clone.path, code=1)["remote"]
    assert (found["level"], found["cure"]) == ("error", "git ls-remote origin")


def test_a_remote_that_never_answers_is_waited_for_a_bounded_time(hub: Hub, tmp_path: Path) -> None:
    (clone,) = hub.clones("one")
    path = program(tmp_path / "bin", "deaf", "exec sleep 600")
    clone.git("config", "remote.origin.uploadpack", f"{tmp_path}/bin/deaf")
    began = time.monotonic()
    found = findings(clone.path, code=1, PATH=path, RECONCILER_REMOTE_TIMEOUT="1")
    assert time.monotonic() - began < 30
    assert "no answer within 1 s" in found["remote"]["text"]


def test_a_remote_without_atomic_pushes(hub: Hub) -> None:
    (clone,) = hub.clones("one")
    hub.git("config", "receive.advertiseAtomic", "false")
    found = findings(clone.path, code=0)["remote"]
    assert found["level"] == "warning"
    assert "cannot push atomically" in found["text"]


def test_a_remote_without_the_branch(hub: Hub) -> None:
    clone = hub.clone("one")
    clone.write("a", "")
    clone.commit()
    found = findings(clone.path, code=1)
    assert (found["branch"]["level"], found["branch"]["cure"]) == ("error", "git push origin main")
    subprocess.run(
        ["sh", "-c", found["branch"]["cure"]], cwd=clone.path, env=ENVIRONMENT, check=True, capture_output=True
    )
    assert findings(clone.path)["branch"]["level"] == "ok"


def test_a_remote_that_is_named_and_not_configured(ready: Scratch) -> None:
    ready.settings("remote: upstream\n")
    ready.commit()
    found = findings(ready.path, code=0)["remote"]
    assert (found["level"], found["cure"]) == ("warning", "git remote add upstream URL")


def test_a_remote_whose_name_is_misspelt(ready: Scratch) -> None:
    ready.git("remote", "add", "origin", "https://example.invalid/x.git")
    ready.settings("remote: orgin\n")
    ready.commit()
    found = findings(ready.path, code=0)["remote"]
    assert (found["level"], found["cure"]) == ("warning", "did you mean 'origin'?")


def test_shallow_and_partial_clones(hub: Hub) -> None:
    hub.clones("one")
    hub.git("config", "uploadpack.allowFilter", "true")
    assert findings(hub.clone("two", "--depth=1").path, code=0)["repository"]["text"] == "shallow"
    found = findings(hub.clone("three", "--filter=blob:none").path, code=0)["repository"]
    assert found["level"] == "warning"
    assert "git fetch --refetch origin" in found["cure"]


def test_a_wrong_timeout_is_said(ready: Scratch) -> None:
    ready.git("remote", "add", "origin", str(ready.outside))
    found = findings(ready.path, code=1, RECONCILER_REMOTE_TIMEOUT="never")["repository"]
    assert "RECONCILER_REMOTE_TIMEOUT: 'never' is no number of seconds above 0" in found["text"]
    assert found["cure"] == "for example 60"
