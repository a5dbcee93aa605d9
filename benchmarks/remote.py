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
    """50 hosts that each have one finished run, publishing at once onto one branch: hosts at work, which have looked at
    the remote while the run was under way, and hosts that begin only then."""
    for at_work in (True, False):
        race(at_work)


def race(at_work: bool) -> None:
    with hub() as place:
        seed = requests(place, WRITERS, "runs_max: 1\nlease: 10m\n")
        clones = [clone(place, f"host-{number}") for number in range(WRITERS)]
        alone_s = one_push(seed)
        for each in clones:
            reconcile(each)
        context = multiprocessing.get_context("fork")
        barrier, answers = context.Barrier(WRITERS + 1), context.Queue()
        writers = [context.Process(target=publish_one, args=(each, at_work, barrier, answers)) for each in clones]
        for each in writers:
            each.start()
        barrier.wait()
        told = [answers.get(timeout=300) for _ in writers]
        began = min(each[5] for each in told)
        took = sorted(each[0] - began for each in told)
        for each in writers:
            each.join()
        published = [line.split()[0] for line in trailers(place)]
        print(
            f"{WRITERS} writers on one branch, {'at work' if at_work else 'that begin'}: "
            f"the first landed after {took[0]:.2f} s, the last after {took[-1]:.2f} s"
        )
        passes, own_s, git_s = (sum(each[index] for each in told) for index in (1, 2, 3))
        print(f"  CPU: {own_s:.2f} s of our own, {git_s:.2f} s of git and the server; load {os.getloadavg()[0]:.1f}")
        calls: dict[str, int] = {}
        for each in told:
            calls = {name: calls.get(name, 0) + count for name, count in each[4].items()}
        print(f"  in {passes} passes: {', '.join(f'{name} {count}' for name, count in calls.items())}")
        print(f"  reference: one writer alone pushes {WRITERS} commits in {alone_s * WRITERS:.2f} s")
        print(f"  landed {len(set(published))} of {WRITERS}, published twice: {len(published) - len(set(published))}")


def publish_one(directory: Path, at_work: bool, barrier: Any, answers: Any) -> None:
    from reconciler.loop import Loop, unproven
    from reconciler.observe import Observer
    from reconciler.remote import Remote
    from reconciler.world import open_world

    calls: dict[str, int] = {}
    for name in ("fetch", "look", "push"):
        setattr(Remote, name, noted(getattr(Remote, name), name, calls))
    world = open_world(directory)
    loop = Loop(world, Observer(world))
    loop.observer.recall()
    if at_work:
        loop.observer.ask()
        loop.observer.observe()
        calls |= dict.fromkeys(calls, 0)
    barrier.wait()
    began, before, passes = time.perf_counter(), os.times(), 0
    while True:
        result, passes = loop.run_pass(), passes + 1
        if result.publication or not unproven(result.seen):
            break
        loop.sleep(result)
    ended, after = time.perf_counter(), os.times()
    own_s = after.user + after.system - before.user - before.system
    git_s = after.children_user + after.children_system - before.children_user - before.children_system
    answers.put((ended, passes, own_s, git_s, calls, began))


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
            requests(place, RUNS, "runs_max: 1\nlease: 30m\n", files=files)
            host = clone(place, "host")
            deletions_s = push_of_deletions(place, host)
            reconcile(host)
            finish_like_the_first(host)
            context = multiprocessing.get_context("fork")
            answers = context.Queue()
            publisher = context.Process(target=publish_all, args=(host, answers))
            publisher.start()
            found[files], parts, (own_s, git_s) = answers.get(timeout=300)
            publisher.join()
            landed = set(git(place / "hub.git", "ls-tree", "-r", "--name-only", "main", ".runs/").splitlines())
            manifests = sum(f".runs/bench/cli/{name}/manifest.json" in landed for name in run_ids(host))
            commits = git(place / "hub.git", "rev-list", "--count", "main").strip()
            left = git(place / "hub.git", "for-each-ref", "refs/reconciler/").splitlines()
            print(f"one pass publishes {manifests} runs beside {files} files: {found[files]:.2f} s")
            print(
                f"  CPU: {own_s:.2f} s of our own, {git_s:.2f} s of git and the server; load {os.getloadavg()[0]:.1f}"
            )
            print(f"  of that {', '.join(f'{name} {seconds:.2f}' for name, seconds in parts.items())}")
            print(f"  at the remote: {commits} commits, {len(trailers(place))} runs named, {len(left)} refs left")
            print(f"  reference: git alone pushes the deletion of {RUNS} refs in {deletions_s:.2f} s")
    print(f"  ratio: {found[FILES] / found[0]:.2f}")


def publish_all(directory: Path, answers: Any) -> None:
    """Do the pass that publishes, in a process of its own that has loaded everything, and tell what it took."""
    from reconciler import publish
    from reconciler.git import Repository
    from reconciler.loop import Loop
    from reconciler.observe import Observer
    from reconciler.remote import Remote
    from reconciler.world import open_world

    parts: dict[str, float] = {}
    for owner, name in (
        (Observer, "ask"),
        (Observer, "observe"),
        (publish, "_proofs"),
        (publish, "_aggregates"),
        (publish, "_edits"),
        (Repository, "make_commit"),
        (publish, "_keep_full_logs"),
        (Remote, "push"),
        (Remote, "keep"),
    ):
        setattr(owner, name, counted(getattr(owner, name), name.strip("_"), parts))
    world = open_world(directory)
    loop = Loop(world, Observer(world))
    began, before = time.perf_counter(), os.times()
    result = loop.run_pass()
    took, after = time.perf_counter() - began, os.times()
    own_s = after.user + after.system - before.user - before.system
    git_s = after.children_user + after.children_system - before.children_user - before.children_system
    assert result.publication is not None, "nothing was published"
    answers.put((took, parts, (own_s, git_s)))


def noted(function: Callable[..., Any], name: str, calls: dict[str, int]) -> Callable[..., Any]:
    """Return a function that does the same and counts how often."""
    calls[name] = 0

    def called(*arguments: Any, **named: Any) -> Any:
        calls[name] += 1
        return function(*arguments, **named)

    return called


def counted(function: Callable[..., Any], name: str, parts: dict[str, float]) -> Callable[..., Any]:
    """Return a function that does the same and notes the seconds it took."""

    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            parts[name] = parts.get(name, 0.0) + time.perf_counter() - began

    return timed


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


def push_of_deletions(place: Path, host: Path) -> float:
    """Return how long git alone takes for a push that deletes as many refs as there are runs, each by its lease."""
    oid = git(place / "hub.git", "rev-parse", "main").strip()
    refs = [f"refs/bench/r{number:05d}-01234567" for number in range(RUNS)]
    made = "".join(f"create {ref} {oid}\n" for ref in refs).encode()
    subprocess.run(["git", "update-ref", "--stdin"], cwd=place / "hub.git", input=made, check=True)
    leases = [f"--force-with-lease={ref}:{oid}" for ref in refs]
    began = time.perf_counter()
    git(host, "push", "-q", "--atomic", *leases, "origin", *(f":{ref}" for ref in refs))
    return time.perf_counter() - began


def reconcile(directory: Path) -> None:
    """Do one pass, and wait until its workers have ended; what they did is not published."""
    subprocess.run([*RECONCILER, "reconcile"], cwd=directory, capture_output=True, check=False)
    attempts = directory / ".runs/bench/cli"
    wait_for(lambda: not attempts.is_dir() or all(_ended(each) for each in attempts.iterdir()), 300)


def finish_like_the_first(host: Path) -> None:
    """Leave what there would be if all runs had ended like the one that has: the records of each and its mark here,
    its claim at the remote. Runs of equal requests differ in nothing but their names and times."""
    from reconciler.claims import Claims, Wanted
    from reconciler.model import Claim
    from reconciler.observe import Observer
    from reconciler.rundir import read_all
    from reconciler.world import open_world

    world = open_world(host)
    observer = Observer(world)
    observer.ask()
    seen = observer.observe()
    [(first, task_id)] = world.runs.marks().items()
    claims, wanted = Claims(world, observer), []
    for wish in seen.desired.wishes:
        if wish.run_id == first:
            continue
        directory = world.runs.directory(task_id, wish.run_id)
        for path in world.runs.directory(task_id, first).path.rglob("*"):
            if path.is_file():
                copy = directory.path / path.relative_to(world.runs.directory(task_id, first).path)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(renamed(path.read_bytes(), first, wish.run_id))
        plan = (directory.path / "plan.json").read_bytes()
        world.runs.mark(task_id, wish.run_id, "plan.json", plan)
        shared = claims.shared(wish.run_id, task_id, read_all(directory, "claims", Claim).values(), "", "")
        wanted.append(Wanted(run_id=wish.run_id, old=None, claim=shared))
    granted = claims.keep(wanted, [], {first: 1})
    assert len(granted) == RUNS - 1, f"{len(granted)} claims"
    observer.remember()


def renamed(data: bytes, first: str, other: str) -> bytes:
    """Return a record with the name of another run in it: its id, and the path of its request."""
    for old, new in ((first, other), (first.rpartition("-")[0], other.rpartition("-")[0])):
        data = data.replace(old.encode(), new.encode())
    return data


def run_ids(host: Path) -> list[str]:
    return sorted(each.name for each in (host / ".runs/bench/cli").iterdir())


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
