"""Measure what docs/performance.md claims of `reconciler watch`, each figure beside references of the same run.

    python benchmarks/watch.py                 # everything
    python benchmarks/watch.py commits         # one of: commits, idle, memory

Processor time is what /proc says of the watcher and its children that it waited for. Nothing here fails: ratios tell.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from run import ENVIRONMENT, RECONCILER, commit_requests, git, scratch, settle, write

COMMITS = int(os.environ.get("COMMITS", "200"))
IDLE_S = float(os.environ.get("IDLE_S", "130"))
PASSES = int(os.environ.get("PASSES", "10000"))
SETTLED = int(os.environ.get("SETTLED", "10000"))
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    print(f"reference: starting Python {reference() * 1000:.1f} ms ({os.cpu_count()} cores)\n")
    for name in sys.argv[1:] or list(BENCHMARKS):
        BENCHMARKS[name]()


def reference() -> float:
    return statistics.median(timed([sys.executable, "-c", "pass"]) for _ in range(15))


def timed(words: list[str], directory: Path | None = None) -> float:
    began = time.perf_counter()
    subprocess.run(words, cwd=directory, env=ENVIRONMENT, check=True, capture_output=True)
    return time.perf_counter() - began


def bench_commits() -> None:
    """From the return of `git commit` in the watched repository to the first instruction of the first stage."""
    for kind in ("empty", "worktree"):
        with scratch() as repo:
            out = repo.parent / f"{repo.name}.started"
            out.mkdir(exist_ok=True)
            pipeline = f"workspace: {kind}\nstages:\n  - id: s\n    command: date +%s%N > {out}/$RECONCILER_RUN_ID\n"
            write(repo / "reconciler.yaml", "runs_max: 50\n")
            write(repo / "pipelines/p.yaml", pipeline)
            git(repo, "add", "-A")
            git(repo, "commit", "-qm", "pipeline")
            with watching(repo):
                waits, commits, began_at = measure_commits(repo, out)
        print(f"from git commit to the first stage, workspace: {kind}, {len(waits)} commits")
        print(
            f"  after it returned   p50 {at(waits, 50):7.1f} ms   p99 {at(waits, 99):7.1f} ms   max {max(waits):.1f} ms"
        )
        print(f"  since `git add`     p50 {at(began_at, 50):7.1f} ms   p99 {at(began_at, 99):7.1f} ms")
        print(f"  git add and commit  p50 {at(commits, 50):7.1f} ms   p99 {at(commits, 99):7.1f} ms\n")


def measure_commits(repo: Path, out: Path) -> tuple[list[float], list[float], list[float]]:
    """Return in milliseconds: from the return of the commit to the stage, adding and committing, both together."""
    waits, commits, whole = [], [], []
    for number in range(COMMITS):
        write(repo / f"runs.d/r{number:04d}.yaml", "task: t\npipeline: p\n")
        # The reconciler may move the checkout at this very moment: then git has to be asked again.
        began = time.time_ns()
        while quietly(repo, "add", f"runs.d/r{number:04d}.yaml") or quietly(repo, "commit", "-qm", "r"):
            time.sleep(0.01)
            began = time.time_ns()
        ended = time.time_ns()
        started = wait_for(lambda number=number: started_at(out, number))
        waits.append((started - ended) / 1e6)
        commits.append((ended - began) / 1e6)
        whole.append((started - began) / 1e6)
        time.sleep(random.uniform(0.2, 1.0))
    return waits, commits, whole


def quietly(repo: Path, *words: str) -> int:
    return subprocess.run(["git", *words], cwd=repo, env=ENVIRONMENT, check=False, capture_output=True).returncode


def started_at(out: Path, number: int) -> int | None:
    for each in out.glob(f"r{number:04d}-*"):
        text = each.read_text()
        return int(text) if text.endswith("\n") else None
    return None


def bench_idle() -> None:
    """The processor time of a watcher with nothing to do over many settled requests."""
    with scratch() as repo:
        settle(repo, SETTLED)
        with watching(repo) as process:
            wait_until_quiet(process.pid)
            before, began = cpu_s(process.pid), time.monotonic()
            time.sleep(IDLE_S)
            used, passed = cpu_s(process.pid) - before, time.monotonic() - began
            print(
                f"idle over {SETTLED} settled requests: {used:.2f} s of {passed:.0f} s, {used / passed:.2%} of a core,"
            )
            print(f"  {rss(process.pid) / 2**20:.0f} MB\n")


def bench_memory() -> None:
    """What memory does over many passes of one process, a commit now and then among them."""
    from reconciler.loop import Loop
    from reconciler.observe import Observer
    from reconciler.watcher import Face, Watcher
    from reconciler.world import open_world

    with scratch() as repo:
        commit_requests(repo, 20, "workspace: empty\nstages:\n  - id: s\n    command: 'true'\n")
        subprocess.run([*RECONCILER, "reconcile", "--wait"], cwd=repo, env=ENVIRONMENT, check=True, capture_output=True)

        def begin() -> Loop:
            world = open_world(repo)
            return Loop(world, Observer(world))

        seen: list[float] = []

        class Counter(Face):
            def tell(self, turn: object) -> None:
                if watcher.passes % (PASSES // 10) == 0:
                    seen.append(rss(os.getpid()) / 2**20)
                watcher.bell.ring("another one")

        watcher = Watcher(begin, Counter(), passes_max=PASSES)
        began = time.process_time()
        watcher.run()
        each_ms = (time.process_time() - began) / PASSES * 1000
        print(f"{PASSES} passes, {each_ms:.2f} ms of processor time each; MB after every tenth of them:")
        print("  " + " ".join(f"{each:.1f}" for each in seen) + "\n")


# ------------------------------------------------------------------------------------------------ small parts


@contextlib.contextmanager
def watching(repo: Path) -> Iterator[subprocess.Popen[bytes]]:
    with open(os.devnull, "wb") as nothing:
        process = subprocess.Popen(
            [*RECONCILER, "watch", "--format", "json"], cwd=repo, env=ENVIRONMENT, stdout=nothing, stderr=None
        )
    try:
        time.sleep(2)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def wait_until_quiet(pid: int) -> None:
    """Wait until a process has done nothing worth mentioning for five seconds: it begins by reading everything."""
    before = -1.0
    while (now := cpu_s(pid)) - before > 0.1:
        before = now
        time.sleep(5)


def wait_for(found: Callable[[], int | None]) -> int:
    deadline = time.monotonic() + 60
    while (answer := found()) is None:
        assert time.monotonic() < deadline, "it did not happen in a minute"
        time.sleep(0.002)
    return answer


def at(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def cpu_s(pid: int) -> float:
    """Return user and system time of a process, of the children it waited for, and of those that live."""
    total = 0.0
    for each in (pid, *children(pid)):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(word) for word in words[11:15]) / TICKS
    return total


def children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def rss(pid: int) -> int:
    line = next(each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


BENCHMARKS: dict[str, Callable[[], None]] = {"commits": bench_commits, "idle": bench_idle, "memory": bench_memory}

if __name__ == "__main__":
    main()
