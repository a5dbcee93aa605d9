"""Measure what docs/performance.md claims about several machines, each figure beside a reference of the same run.

    python benchmarks/remote.py            # everything, about three minutes
    python benchmarks/remote.py writers    # one of: writers, failover, publish

The remote is a bare repository on this machine, and every clone counts as a machine. Nothing here fails.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from run import ENVIRONMENT, RECONCILER, git, write

NOOP = "workspace: empty\nstages:\n  - id: noop\n    command: ['true']\n"
FAST = "heartbeat: {interval: 100ms, stale_after: 1s}\ngrace: 200ms\npoll_interval: 500ms\nlease: 2s\n"
WRITERS = 50
RUNS = 1000
FILES = 100_000


def main() -> None:
    os.environ.update(ENVIRONMENT)
    for name in sys.argv[1:] or list(BENCHMARKS):
        BENCHMARKS[name]()


# ------------------------------------------------------------------------------------------------ benchmarks


def bench_writers() -> None:
    """50 hosts that each have one finished run, publishing at once onto one branch."""
    with hub() as place:
        seed = requests(place, WRITERS, "runs_max: 1\nlease: 10m\n")
        clones = [clone(place, f"host-{number}") for number in range(WRITERS)]
        alone_s = one_push(seed)
        for each in clones:
            reconcile(each)
        context = multiprocessing.get_context("fork")
        barrier, answers = context.Barrier(WRITERS + 1), context.Queue()
        writers = [context.Process(target=publish_one, args=(each, barrier, answers)) for each in clones]
        for each in writers:
            each.start()
        barrier.wait()
        began = time.perf_counter()
        took = sorted(answers.get(timeout=300) - began for _ in writers)
        for each in writers:
            each.join()
        published = [line.split()[0] for line in trailers(place)]
        print(
            f"{WRITERS} writers on one branch: the first landed after {took[0]:.2f} s, the last after {took[-1]:.2f} s"
        )
        print(f"  reference: one writer alone pushes {WRITERS} commits in {alone_s * WRITERS:.2f} s")
        print(f"  landed {len(set(published))} of {WRITERS}, published twice: {len(published) - len(set(published))}")


def publish_one(directory: Path, barrier: Any, answers: Any) -> None:
    from reconciler.loop import Loop, unproven
    from reconciler.observe import Observer
    from reconciler.world import open_world

    world = open_world(directory)
    loop = Loop(world, Observer(world))
    loop.observer.recall()
    barrier.wait()
    while True:
        result = loop.run_pass()
        if result.publication or not unproven(result.seen):
            break
        loop.sleep(result)
    answers.put(time.perf_counter())


def bench_failover() -> None:
    """A run whose host vanished, until another host has claimed it; one whose worker died, until it is resumed."""
    with hub() as place:
        seed = requests(place, 1, FAST, pipeline=NOOP.replace("['true']", "sleep 60"))
        first, second = clone(place, "first"), clone(place, "second")
        loop = subprocess.Popen([*RECONCILER, "reconcile", "--wait"], cwd=first, stderr=subprocess.DEVNULL)
        wait_for(lambda: attempt(first, 1) is not None)
        os.kill(attempt(first, 1)["worker"]["pid"], signal.SIGKILL)
        began = time.perf_counter()
        wait_for(lambda: attempt(first, 2) is not None)
        print(f"worker killed: its host resumed the run after {time.perf_counter() - began:.2f} s")
        other = subprocess.Popen([*RECONCILER, "reconcile", "--wait"], cwd=second, stderr=subprocess.DEVNULL)
        time.sleep(1.5)
        loop.kill()
        kill_below(first)
        began = time.perf_counter()
        wait_for(lambda: attempt(second, 3) is not None)
        took = time.perf_counter() - began
        print(f"host vanished: another host took over after {took:.2f} s, {took / 2:.2f} leases of 2 s")
        other.kill()
        kill_below(second)
        assert seed


def bench_publish() -> None:
    """1,000 finished runs in one commit and push; the same into a repository of 100,000 files."""
    found = {}
    for files in (0, FILES):
        with hub() as place:
            seed = requests(place, RUNS, f"runs_max: {RUNS}\nlease: 30m\n", files=files)
            host = clone(place, "host")
            reconcile(host, gather=True)
            began = time.perf_counter()
            reconcile(host)
            found[files] = time.perf_counter() - began
            landed = len({line.split()[0] for line in trailers(place)})
            print(f"one pass publishes {landed} runs beside {files} files: {found[files]:.2f} s")
            assert seed
    print(f"  ratio: {found[FILES] / found[0]:.2f}")


BENCHMARKS: dict[str, Callable[[], None]] = {
    "writers": bench_writers,
    "failover": bench_failover,
    "publish": bench_publish,
}


# ------------------------------------------------------------------------------------------------ repositories


class hub:  # noqa: N801 - reads as a verb
    """A directory with an empty bare repository, removed afterwards with every process that works in it."""

    def __enter__(self) -> Path:
        self.directory = Path(tempfile.mkdtemp(prefix="reconciler-bench-"))
        git(self.directory, "init", "-q", "--bare", "-b", "main", "hub.git")
        return self.directory

    def __exit__(self, *_: object) -> None:
        kill_below(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)


def requests(place: Path, count: int, settings: str, *, pipeline: str = NOOP, files: int = 0) -> Path:
    """Push requests, and `files` files beside them; return the clone they were pushed from."""
    seed = clone(place, "seed")
    write(seed / "reconciler.yaml", settings)
    write(seed / "pipelines/p.yaml", pipeline)
    for number in range(count):
        write(seed / f"runs.d/r{number:05d}.yaml", "task: bench\npipeline: p\n")
    for number in range(files):
        write(seed / f"files/{number // 1000:03d}/{number:06d}.txt", f"{number}\n")
    git(seed, "add", "-A")
    git(seed, "commit", "-qm", "requests")
    git(seed, "push", "-q", "origin", "HEAD:main")
    return seed


def clone(place: Path, name: str) -> Path:
    git(place, "clone", "-q", "hub.git", name)
    git(place / name, "symbolic-ref", "HEAD", "refs/heads/main")
    return place / name


def one_push(seed: Path) -> float:
    """Return how long it takes one writer to commit one file and push it."""
    began = time.perf_counter()
    for number in range(5):
        write(seed / "reference.txt", f"{number}\n")
        git(seed, "add", "reference.txt")
        git(seed, "commit", "-qm", "reference")
        git(seed, "push", "-q", "origin", "HEAD:main")
    return (time.perf_counter() - began) / 5


def reconcile(directory: Path, *, gather: bool = False) -> None:
    """Do one pass; with `gather` wait afterwards until all workers have ended, without publishing."""
    subprocess.run([*RECONCILER, "reconcile"], cwd=directory, capture_output=True, check=False)
    attempts = directory / ".runs/bench/cli"
    if gather:
        wait_for(lambda: sum(_ended(each) for each in attempts.iterdir()) == RUNS, 300)
    else:
        wait_for(lambda: not attempts.is_dir() or all(_ended(each) for each in attempts.iterdir()), 300)


def _ended(run: Path) -> bool:
    try:
        return bool(json.loads((run / "attempts/1.json").read_bytes())["outcome"])
    except (OSError, ValueError):
        return False


def attempt(directory: Path, number: int) -> dict[str, Any] | None:
    for path in directory.glob(f".runs/bench/cli/*/attempts/{number}.json"):
        found: dict[str, Any] = json.loads(path.read_bytes())
        return found
    return None


def trailers(place: Path) -> list[str]:
    """Return `<run-id> <status>` for every run that a commit at the remote published."""
    form = "--format=%(trailers:key=Reconciler-Run,valueonly)"
    return [line for line in git(place / "hub.git", "log", form, "main").splitlines() if line]


def wait_for(done: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            sys.exit("it did not happen in time")
        time.sleep(0.01)


def kill_below(directory: Path) -> None:
    """KILL every process that works below a directory."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/cwd").startswith(str(directory)):
                os.kill(int(pid), signal.SIGKILL)
        except OSError:
            continue


if __name__ == "__main__":
    main()
