"""A repository to try things in: real git, the real command line, and every process of it gone at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECONCILER = [sys.executable, "-m", "reconciler"]
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "RECONCILER_", "MCP_"))},
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


class Scratch:
    """One repository below a temporary directory; `outside` is a directory that no reconciler looks at."""

    def __init__(self, place: Path) -> None:
        self.path, self.outside = place / "repo", place / "outside"
        self.path.mkdir()
        self.outside.mkdir()
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
        asked = subprocess.run(
            ["git", *words], cwd=self.path, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=60
        )
        return asked.stdout

    def run(self, *words: str, timeout: float = 90, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*RECONCILER, *words], cwd=self.path, env=ENVIRONMENT | environment, capture_output=True, text=True,
            check=False, timeout=timeout, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*RECONCILER, *words], cwd=self.path, env=ENVIRONMENT, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def wait_for(self, done: Callable[[], object], timeout: float = 20) -> None:
        deadline = time.monotonic() + timeout
        while not done():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.01)

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

    # -------------------------------------------------------------------------------------------- ending

    def processes(self, below: Path | None = None) -> list[int]:
        """Return the processes that work in this repository or have a file of it open."""
        inside = str(below or self.path)
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _touches(pid, inside)]

    def kill_run(self, name: str) -> None:
        """SIGKILL everything of a run, and wait until it is gone."""
        self.kill(self.directory(name))

    def kill(self, below: Path | None = None) -> None:
        def gone() -> bool:
            found = self.processes(below)
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not found

        self.wait_for(gone)


def _touches(pid: int, inside: str) -> bool:
    if pid == os.getpid():
        return False
    with contextlib.suppress(OSError):
        links = [f"/proc/{pid}/cwd", *(f"/proc/{pid}/fd/{each}" for each in os.listdir(f"/proc/{pid}/fd"))]
        for link in links:
            with contextlib.suppress(OSError):
                if os.readlink(link).startswith(inside):
                    return True
    return False
