"""The main job, on real input: `make demo`.

Makes a remote of this repository and a clone of that, pushes a request for its own checks, reconciles, and shows what
came of it: executed stages, a manifest pushed to the remote, a bounded log, a ticked checklist item. Your clone itself
is not changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "build" / "demo"
HUB = ROOT / "build" / "demo.git"
BIN = Path(sys.executable).parent

REQUEST = """\
task: 0002-demo
pipeline: checks
title: The demo runs this project's own checks
proves: [0002-demo/it-works]
"""
CHECKLIST = """\
# 0002-demo

- [ ] The checks pass on this machine <!-- item: 0002-demo/it-works -->
"""


def main() -> None:
    clone()
    heading("A person asks: one small file, committed and pushed")
    write("runs.d/0002-demo.yaml", REQUEST)
    write("tasks/0002-demo.md", CHECKLIST)
    show("cat", "runs.d/0002-demo.yaml")
    quiet("git", "add", "runs.d/0002-demo.yaml", "tasks/0002-demo.md")
    show("git", "commit", "--quiet", "--message", "runs: ask for the checks")
    show("git", "push", "--quiet", "origin", "demo")
    heading("What a pass would do")
    show("reconciler", "plan")
    heading("The reconciler makes it true (about a minute)")
    ended = show("reconciler", "reconcile", "--wait", check=False)
    heading("The evidence: one commit, pushed to the remote")
    show("git", "pull", "--quiet", "--ff-only", "origin", "demo")
    show("git", "log", "-1", "--stat", "--format=%an: %s%n%n%b", "--grep=^Reconciler-Run: 0002-demo")
    heading("The checklist item is ticked in the same commit")
    show("cat", "tasks/0002-demo.md")
    heading("The page people read")
    show("cat", "out/0002-demo/README.md")
    heading("The output, bounded and redacted")
    show("reconciler", "logs", "0002-demo", "decisions")
    heading("Again: nothing to do")
    show("reconciler", "status")
    print(f"\nLook around in {PLACE.relative_to(ROOT)}: git log, .runs/0002-demo/, out/0002-demo/.")
    sys.exit(ended)


def clone() -> None:
    """Make a remote with the newest commit of this repository, and a clone of it on a branch of its own."""
    for place in (HUB, PLACE):
        shutil.rmtree(place, ignore_errors=True)
    PLACE.parent.mkdir(exist_ok=True)
    run(["git", "clone", "--quiet", "--bare", "--no-local", str(ROOT), str(HUB)], cwd=ROOT)
    run(["git", "clone", "--quiet", str(HUB), str(PLACE)], cwd=ROOT)
    quiet("git", "switch", "--quiet", "--create", "demo")
    for key, value in (("user.name", "Demo"), ("user.email", "demo@example.invalid")):
        quiet("git", "config", key, value)


def heading(text: str) -> None:
    print(f"\n\033[1m# {text}\033[0m" if sys.stdout.isatty() else f"\n# {text}", flush=True)


def write(path: str, text: str) -> None:
    (PLACE / path).write_text(text)


def show(*words: str, check: bool = True) -> int:
    """Print a command, run it in the clone, and return its exit code."""
    print(f"$ {' '.join(words)}", flush=True)
    return run(list(words), check=check)


def quiet(*words: str) -> None:
    run(list(words))


def run(words: list[str], *, cwd: Path = PLACE, check: bool = True) -> int:
    without = ("GIT_", "RECONCILER_", "PYTHONDONTWRITE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment.get('PATH', '')}"
    environment["GIT_PAGER"] = "cat"
    return subprocess.run(words, cwd=cwd, env=environment, check=check).returncode


if __name__ == "__main__":
    main()
