"""Measure what docs/performance.md claims, each figure beside a reference measured in the same run.

    python benchmarks/run.py            # everything
    python benchmarks/run.py one idle   # some of it

Whole processes are timed from outside; the median is printed. Nothing here fails: machines differ, ratios tell.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

RUNS = 5
PEAK = 0.0
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "RECONCILER_", "PYTHONDONT"))},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Bench",
    "GIT_AUTHOR_EMAIL": "bench@example.invalid",
    "GIT_COMMITTER_NAME": "Bench",
    "GIT_COMMITTER_EMAIL": "bench@example.invalid",
}
RECONCILER = [str(Path(sys.executable).with_name("reconciler"))]
THREE_STAGES = "workspace: empty\nstages:\n" + "".join(f"  - id: s{n}\n    command: 'true'\n" for n in range(3))


def main() -> None:
    chosen = sys.argv[1:] or list(BENCHMARKS)
    python_s = median(lambda: timed([sys.executable, "-c", "pass"]), runs=15)
    print(f"reference: starting Python {python_s * 1000:6.1f} ms ({os.cpu_count()} cores)\n")
    print(f"{'what':58} {'median':>10}  {'Pythons':>8}  {'memory':>8}")
    for name in chosen:
        BENCHMARKS[name](python_s)


# ------------------------------------------------------------------------------------------------ benchmarks


def bench_verbs(python_s: float) -> None:
    """`--help`, and `status` of a settled repository."""
    with scratch() as repo:
        commit_requests(repo, 1, THREE_STAGES)
        reconcile(repo)
        for words in (["--help"], ["status"]):
            seconds = median(lambda words=words: timed([*RECONCILER, *words], repo))
            row(f"reconciler {' '.join(words)}", seconds, python_s)


def bench_one(python_s: float) -> None:
    """One new request, from process start to committed evidence; and what a further stage costs."""
    found: dict[int, float] = {}
    for stages in (3, 23):
        pipeline = "workspace: empty\nstages:\n" + "".join(
            f"  - id: s{n}\n    command: 'true'\n" for n in range(stages)
        )
        found[stages] = median(lambda pipeline=pipeline: one_request(pipeline), runs=9)
        row(f"one request, {stages} stages `true`, reconcile --wait", found[stages], python_s)
    print(f"{'  each further stage':58} {(found[23] - found[3]) / 20 * 1000:7.1f} ms")


def bench_sandbox(python_s: float) -> None:
    """What a further stage costs in a sandbox, and without one in the same run."""
    each: dict[str, float] = {}
    for keys in ("", "    sandbox: {}\n"):
        found: dict[int, float] = {}
        for stages in (3, 23):
            pipeline = "stages:\n" + "".join(f"  - id: s{n}\n    command: 'true'\n{keys}" for n in range(stages))
            found[stages] = median(lambda pipeline=pipeline: one_request(pipeline), runs=9)
        each[keys] = (found[23] - found[3]) / 20
    row("one request, 23 stages in a sandbox, reconcile --wait", found[23], python_s)
    for keys, seconds in each.items():
        print(f"{'  each further stage' + (' in a sandbox' if keys else ''):58} {seconds * 1000:7.1f} ms")


def one_request(pipeline: str) -> float:
    with scratch() as repo:
        commit_requests(repo, 1, pipeline)
        return timed([*RECONCILER, "reconcile", "--wait"], repo)


def bench_many(python_s: float) -> None:
    """1,000 new no-op requests, from commit to all evidence committed."""
    with scratch() as repo:
        commit_requests(repo, 1000, "workspace: empty\nstages:\n  - id: noop\n    command: 'true'\n")
        seconds = timed([*RECONCILER, "reconcile", "--wait"], repo)
        row("1,000 new requests of one stage, reconcile --wait", seconds, python_s)
        proven = git(repo, "ls-tree", "-r", "--name-only", "HEAD", ".runs/").count("/cli/")
        print(f"{'  committed logs and manifests':58} {proven:10d}")


def bench_idle(python_s: float) -> None:
    """A pass with nothing to do over 10,000 settled requests."""
    with scratch() as repo:
        settle(repo, 10_000)
        shutil.rmtree(repo / ".git" / "reconciler", ignore_errors=True)
        cold = timed([*RECONCILER, "reconcile"], repo)
        row("idle pass over 10,000 settled, no cache", cold, python_s, memory=True)
        warm = median(lambda: timed([*RECONCILER, "reconcile"], repo))
        row("idle pass over 10,000 settled, warm cache", warm, python_s, memory=True)
        row("status over 10,000 settled", median(lambda: timed([*RECONCILER, "status"], repo)), python_s)


def bench_bad(python_s: float) -> None:
    """Ten good requests beside a thousand bad ones."""
    with scratch() as repo:
        commit_requests(repo, 10, THREE_STAGES)
        for number in range(1000):
            write(repo / f"runs.d/bad-{number:04d}.yaml", f"task: Bad Task\npipelin: p{number}\n")
        git(repo, "add", "-A")
        git(repo, "commit", "-qm", "bad ones")
        row("ten good requests beside a thousand bad ones", timed([*RECONCILER, "reconcile"], repo), python_s)


BENCHMARKS: dict[str, Callable[[float], None]] = {
    "verbs": bench_verbs,
    "one": bench_one,
    "sandbox": bench_sandbox,
    "bad": bench_bad,
    "many": bench_many,
    "idle": bench_idle,
}


# ------------------------------------------------------------------------------------------------ repositories


class scratch:  # noqa: N801 - reads as a verb
    """A new repository, removed afterwards."""

    def __enter__(self) -> Path:
        self.directory = Path(tempfile.mkdtemp(prefix="reconciler-bench-"))
        git(self.directory, "init", "-q", "-b", "main")
        return self.directory

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


def commit_requests(repo: Path, count: int, pipeline: str) -> None:
    write(repo / "pipelines/p.yaml", pipeline)
    for number in range(count):
        write(repo / f"runs.d/r{number:05d}.yaml", "task: bench\npipeline: p\n")
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", "requests")


def settle(repo: Path, count: int) -> None:
    """Commit requests together with the evidence a reconciler would have left, made from one real run."""
    commit_requests(repo, 1, THREE_STAGES)
    reconcile(repo)
    first = next((repo / ".runs/bench/cli").iterdir()).name
    manifest = git(repo, "show", f"HEAD:.runs/bench/cli/{first}/manifest.json")
    write_requests = (
        "import sys; from reconciler import resolve; from reconciler.model import *\n"
        "for n in range(int(sys.argv[1])):\n"
        "    r = Request(name=Name(f'r{n:05d}'), source=Source(path=''),\n"
        "                task=TaskId('bench'), pipeline=PipelineId('p'))\n"
        "    print(resolve.run_id(r))\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", write_requests, str(count)], capture_output=True, text=True, check=True
    )
    # Fed piece by piece: a child inherits the memory peak of its parent, and this process is one.
    importing = subprocess.Popen(["git", "fast-import", "--quiet"], stdin=subprocess.PIPE, cwd=repo, env=ENVIRONMENT)
    with importing.stdin as feed:
        feed.write(b"commit refs/heads/main\ncommitter B <b@example.invalid> 1700000000 +0000\ndata 7\nsettled\n")
        feed.write(b"from refs/heads/main^0\n")
        for number, run_id in enumerate(asked.stdout.split()):
            for path, text in (
                (f"runs.d/r{number:05d}.yaml", "task: bench\npipeline: p\n"),
                (f".runs/bench/cli/{run_id}/manifest.json", manifest.replace(first, run_id)),
            ):
                feed.write(f"M 100644 inline {path}\ndata {len(text.encode())}\n{text}\n".encode())
    importing.wait()
    git(repo, "reset", "-q", "--hard")


def reconcile(repo: Path) -> None:
    subprocess.run([*RECONCILER, "reconcile", "--wait"], cwd=repo, env=ENVIRONMENT, capture_output=True, check=True)


def git(repo: Path, *words: str) -> str:
    asked = subprocess.run(["git", *words], cwd=repo, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    return asked.stdout


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# ------------------------------------------------------------------------------------------------ timing


def timed(command: list[str], directory: Path | None = None) -> float:
    """Run a command and return its wall seconds; PEAK then holds the resident memory of that process in MB."""
    global PEAK  # noqa: PLW0603 - one number on its way to the row that is printed next
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=directory, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    PEAK = usage.ru_maxrss / 1024
    return time.perf_counter() - began


def median(measure: Callable[[], float], runs: int = RUNS) -> float:
    return statistics.median(measure() for _ in range(runs))


def row(what: str, seconds: float, python_s: float, *, memory: bool = False) -> None:
    shown = f"{PEAK:5.0f} MB" if memory else ""
    print(f"{what:58} {seconds * 1000:7.0f} ms  {seconds / python_s:8.1f}  {shown:>8}", flush=True)


if __name__ == "__main__":
    main()
