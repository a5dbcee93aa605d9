"""Repositories to try things in: real git, the real command line, and every process of them gone at the end.

`Scratch` is one repository on its own. `Hub` is a bare one, and `Clone` a repository that shares it with others.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Self

from tests import preloaded

NOT_OURS = ("GIT_", "RECONCILER_", "MCP_", "PYTHONDONTWRITE", "MAKE", "MFLAGS")
"""What this process has been given and the reconciler of a test must not see; without what Python compiled of a module
each start of it takes twice as long."""
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Ann Author",
    "GIT_AUTHOR_EMAIL": "ann@example.invalid",
    "GIT_COMMITTER_NAME": "Ann Author",
    "GIT_COMMITTER_EMAIL": "ann@example.invalid",
    "TZ": "UTC",
    "NO_COLOR": "1",
}
FAST = "heartbeat: {interval: 100ms, stale_after: 1s}\ngrace: 500ms\n"
SHARED = "heartbeat: {interval: 100ms, stale_after: 1s}\ngrace: 200ms\npoll_interval: 200ms\n"
LEASE_S = 2.0


class Scratch:
    """One repository below a temporary directory; `outside` is a directory that no reconciler looks at."""

    def __init__(self, place: Path, name: str = "repo") -> None:
        self.path, self.outside = place / name, place / "outside"
        self.started: list[subprocess.Popen[str]] = []
        self.path.mkdir()
        self.outside.mkdir(exist_ok=True)
        self._begin()

    def _begin(self) -> None:
        self.git("init", "-q", "-b", "main")

    # -------------------------------------------------------------------------------------------- making

    def write(self, path: str, text: str | bytes) -> Path:
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else text.encode())
        return target

    def settings(self, more: str = "") -> None:
        """Make everything that waits wait less."""
        self.write("reconciler.yaml", FAST + more)

    def pipeline(self, name: str, text: str) -> None:
        self.write(f"pipelines/{name}.yaml", text)

    def request(self, name: str, pipeline: str, **keys: object) -> None:
        more = "".join(f"{key}: {value}\n" for key, value in keys.items())
        self.write(f"runs.d/{name}.yaml", f"task: t\npipeline: {pipeline}\n{more}")

    def commit(self, message: str = "change") -> str:
        self.git("add", "-A", ".")
        self.git("commit", "-q", "-m", message)
        return self.git("rev-parse", "HEAD").strip()

    def simple(self, name: str, command: str, **keys: object) -> None:
        """Commit a request for a pipeline of its own with one stage."""
        self.pipeline(name, f"workspace: empty\nstages:\n  - id: s\n    command: {json.dumps(command)}\n")
        self.request(name, name, **keys)
        self.commit()

    # -------------------------------------------------------------------------------------------- running

    def git(self, *words: str) -> str:
        return git(self.path, *words)

    def run(self, *words: str, timeout: float = 90, **environment: str) -> subprocess.CompletedProcess[str]:
        return preloaded.run(words, cwd=self.path, env=ENVIRONMENT | environment, timeout=timeout)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        process = preloaded.start(words, cwd=self.path, env=ENVIRONMENT | environment)
        self.started.append(process)
        return process

    def wait_for(self, done: Callable[[], object], timeout: float = 20) -> None:
        wait_for(done, timeout)

    # -------------------------------------------------------------------------------------------- looking

    def run_id(self, name: str) -> str:
        """Return the newest run id of a request."""
        runs = (self.path / ".runs/t/cli").glob(f"{name}-????????")
        return max(runs, key=lambda each: each.stat().st_ctime_ns).name

    def directory(self, name: str) -> Path:
        return self.path / ".runs/t/cli" / self.run_id(name)

    def record(self, name: str, record: str) -> Path:
        try:
            return self.directory(name) / record
        except ValueError:
            return self.path / "not yet there"

    def attempt(self, name: str, number: int = 1) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.record(name, f"attempts/{number}.json").read_bytes())
        return found

    def manifest(self, name: str) -> dict[str, Any]:
        """Return the committed manifest of a request's newest run."""
        found: dict[str, Any] = json.loads(self.git("show", f"HEAD:.runs/t/cli/{self.run_id(name)}/manifest.json"))
        return found

    def stages(self, name: str) -> dict[str, dict[str, Any]]:
        return {each["id"]: each for each in self.manifest(name)["commands"]}

    def fingerprint(self) -> dict[str, int]:
        """Return when every file and directory of the repository was changed last."""
        return {str(path): path.lstat().st_mtime_ns for path in [self.path, *sorted(self.path.rglob("*"))]}

    # -------------------------------------------------------------------------------------------- copying

    def copied(self, name: str) -> Self:
        """Return a copy of everything that lies here now, as `cp -a` or a restored cache makes it."""
        found = copy.copy(self)
        found.path, found.started = self.path.with_name(name), []
        subprocess.run(["cp", "-a", f"{self.path}", f"{found.path}"], check=True, timeout=60)
        return found

    # -------------------------------------------------------------------------------------------- ending

    def processes(self, below: Path | None = None) -> list[int]:
        """Return the processes that work in this repository or have a file of it open."""
        inside = f"{below or self.path}/"
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _touches(pid, inside)]

    def kill_run(self, name: str) -> None:
        """SIGKILL everything of a run, and wait until it is gone; a reconciler that reads a record just then is spared."""
        self.kill(self.directory(name), spared={each.pid for each in self.started})

    def kill(self, below: Path | None = None, spared: AbstractSet[int] = frozenset()) -> None:
        def gone() -> bool:
            found = [pid for pid in self.processes(below) if pid not in spared]
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not found

        self.wait_for(gone)


class Clone(Scratch):
    """A clone of a hub, which it reaches by a link of its own: cut the link, and this machine alone is offline."""

    def __init__(self, hub: Hub, name: str, *options: str) -> None:
        self.hub, self.name = hub, name
        self.link, self.options = hub.place / "links" / name, options
        self.heal()
        super().__init__(hub.place, name)

    def _begin(self) -> None:
        url = f"file://{self.link}" if self.options else str(self.link)
        self.git("clone", "-q", *self.options, url, str(self.path))
        self.git("remote", "set-url", "origin", url)

    def settings(self, more: str = "", lease_s: float = LEASE_S) -> None:
        self.write("reconciler.yaml", f"{SHARED}lease: {int(lease_s * 1000)}ms\n{more}")

    def push(self, message: str = "change") -> str:
        """Commit everything that differs and push it, on top of what others have pushed meanwhile."""
        if self.git("status", "--porcelain"):
            self.commit(message)
        if self.hub.refs("refs/heads/main"):
            self.git("pull", "-q", "--rebase", "origin", "main")
        self.git("push", "-q", "origin", "HEAD:main")
        return self.git("rev-parse", "HEAD").strip()

    # -------------------------------------------------------------------------------------------- the network

    def cut(self) -> None:
        self.link.unlink()

    def heal(self) -> None:
        self.link.parent.mkdir(exist_ok=True)
        self.link.symlink_to(self.hub.path)

    # -------------------------------------------------------------------------------------------- the machine

    def everything(self) -> list[int]:
        """Return every process of this machine: what is at work in the clone, and all that was started by it. What
        serves its git stands at the other end of the wire, so it is no part of it."""
        parents = _parents()
        served = _with_descendants({pid for pid in parents if _names(pid, str(self.link))}, parents)
        found = {pid for pid in parents if _touches(pid, f"{self.path}/")}
        return sorted(_with_descendants(found, parents) - served - {os.getpid()})

    def stop(self) -> list[int]:
        """SIGSTOP the whole machine, and return what of it stands still now."""
        stopped: set[int] = set()
        while new := set(self.everything()) - stopped:
            for pid in new:
                _signal(pid, signal.SIGSTOP)
            stopped |= new
        return sorted(stopped)

    def go_on(self, stopped: list[int]) -> None:
        for pid in stopped:
            _signal(pid, signal.SIGCONT)

    def crash(self) -> None:
        """SIGKILL the whole machine, all of it at one instant as far as it can tell."""
        self.stop()

        def gone() -> bool:
            found = self.everything()
            for pid in found:
                _signal(pid, signal.SIGKILL)
            return not found

        self.wait_for(gone)
        for each in self.started:
            if each.returncode is None:
                each.communicate()


class Hub:
    """A bare repository that several clones share. Its reflogs tell of every move of every ref."""

    def __init__(self, place: Path) -> None:
        self.place, self.path, self.outside = place, place / "hub.git", place / "outside"
        self.path.mkdir()
        self.git("init", "-q", "--bare", "-b", "main")
        self.git("config", "core.logAllRefUpdates", "always")

    def git(self, *words: str) -> str:
        return git(self.path, *words)

    def clone(self, name: str, *options: str) -> Clone:
        return Clone(self, name, *options)

    def clones(self, *names: str, more: str = "", lease_s: float = LEASE_S) -> list[Clone]:
        """Return clones of a hub that holds the settings of shared tests already."""
        first = self.clone(names[0])
        first.settings(more, lease_s)
        first.push("settings")
        return [first, *(self.clone(each) for each in names[1:])]

    def hook(self, name: str, text: str) -> Path:
        path = self.path / "hooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)
        return path

    # -------------------------------------------------------------------------------------------- looking

    def refs(self, *below: str) -> dict[str, str]:
        lines = self.git("for-each-ref", "--format=%(refname) %(objectname)", *below).splitlines()
        return dict(line.split(" ") for line in lines)  # type: ignore[arg-type]

    def shared(self) -> list[str]:
        """Return the refs by which machines agree; none are left when all is done."""
        return sorted(self.refs("refs/reconciler"))

    def manifests(self, branch: str = "main") -> dict[str, dict[str, Any]]:
        """Return the committed manifests by the name of their request."""
        listed = self.git("ls-tree", "-r", "-z", "--name-only", branch, ".runs/t/cli/").split("\0")
        paths = [each for each in listed if each.endswith("/manifest.json")]
        found = [json.loads(self.git("show", f"{branch}:{each}")) for each in paths]
        assert len({each["name"] for each in found}) == len(found), "two runs of one request"
        return {each["name"]: each for each in found}

    def outcomes(self, name: str) -> list[str]:
        """Return how the attempts of a run ended, as its evidence says."""
        attempts = self.manifests()[name]["attempts"]
        assert [each["number"] for each in attempts] == list(range(1, len(attempts) + 1))
        return [each["outcome"] for each in attempts]

    def proofs(self, branch: str = "main") -> dict[str, int]:
        """Return in how many commits of a branch each request's run was published."""
        found: dict[str, int] = {}
        for line in self.git("log", "--format=%(trailers:key=Reconciler-Run,valueonly)", branch).splitlines():
            if line:
                name = line.split(" ")[0][:-9]
                found[name] = found.get(name, 0) + 1
        return found


# ------------------------------------------------------------------------------------------------ small parts


def git(directory: Path, *words: str) -> str:
    """Run git as a person at this machine does, and return what it prints."""
    asked = subprocess.run(
        ["git", *words], cwd=directory, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=60
    )
    if asked.returncode:
        raise subprocess.CalledProcessError(asked.returncode, ["git", *words], asked.stdout, asked.stderr)
    return asked.stdout


def wait_for(done: Callable[[], object], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _parents() -> dict[int, int]:
    """Return process -> parent of all that lives."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            if words[0] != "Z":
                found[int(name)] = int(words[1])
    return found


def _with_descendants(found: set[int], parents: dict[int, int]) -> set[int]:
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found = found | more
    return found


def _names(pid: int, text: str) -> bool:
    """Return whether the command line of a process names a path."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").replace("'", "\0").split("\0")
        return text in words
    return False


def _touches(pid: int, inside: str) -> bool:
    if pid == os.getpid():
        return False
    with contextlib.suppress(OSError):
        links = [f"/proc/{pid}/cwd", *(f"/proc/{pid}/fd/{each}" for each in os.listdir(f"/proc/{pid}/fd"))]
        for link in links:
            with contextlib.suppress(OSError):
                if f"{os.readlink(link)}/".startswith(inside):
                    return True
    return False
