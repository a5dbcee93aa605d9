"""Measure what docs/performance.md claims about engines: a real Slurm on this machine, real couriers, real git.

    python benchmarks/engines.py            # everything, some minutes
    python benchmarks/engines.py one        # one of: one, many, standing

Needs what `make slurm` installs, and root. Each figure stands beside the same thing executed by the host itself.
Nothing here fails.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from run import ENVIRONMENT, RECONCILER, git, write

NOOP = "workspace: empty\nstages:\n  - id: noop\n    command: ['true']\n"
MANY, STANDING = 200, 2000
PASSES = 5


def main() -> None:
    os.environ.update(ENVIRONMENT)
    for name in sys.argv[1:] or list(BENCHMARKS):
        BENCHMARKS[name]()


# ------------------------------------------------------------------------------------------------ benchmarks


def bench_one() -> None:
    """One run of one stage that does nothing, from the start of the command to its evidence."""
    with cluster() as slurm, repository(1, slurm) as far, repository(1, None) as here:
        far_s, here_s = reconciled_s(far), reconciled_s(here)
        print(f"one no-op on Slurm, from the command to its evidence: {far_s:.2f} s")
        print(f"  reference: executed by the host itself {here_s:.2f} s; it took {far_s / here_s:.1f} times as long")


def bench_many() -> None:
    """200 such runs at once."""
    with cluster() as slurm, repository(MANY, slurm) as far, repository(MANY, None) as here:
        far_s, here_s = reconciled_s(far), reconciled_s(here)
        print(f"{MANY} runs on Slurm: {far_s:.1f} s, {MANY / far_s:.1f} a second; {proven(far)} proven")
        print(f"  reference: executed by the host itself {here_s:.1f} s, {MANY / here_s:.1f} a second")


def bench_standing() -> None:
    """2,000 runs under way at the engine: what a pass costs that finds nothing new, and what the reconciler holds."""
    with cluster() as slurm, repository(STANDING, slurm, program="sleep") as far:
        found: dict[str, float] = in_a_process(far)
        print(f"{found['runs']:.0f} runs under way on Slurm, handed over in {found['launch_s']:.1f} s")
        print(f"  a pass that asks the engine: {found['asks_s']:.2f} s ({found['asks_cpu_s']:.2f} s CPU)")
        print(f"  one that does not: {found['pass_s']:.2f} s ({found['pass_cpu_s']:.2f} s CPU)")
        print(f"  one that hands over 200 more: {found['hands_s']:.2f} s ({found['hands_cpu_s']:.2f} s CPU)")
        print(f"  the reconciler holds {found['bytes'] / 2**20:.0f} MB, {found['before'] / 2**20:.0f} MB before")


# ------------------------------------------------------------------------------------------------ small parts


@contextmanager
def cluster() -> Iterator[Any]:
    from tests import slurm

    slurm.CONFIGURATION = slurm.CONFIGURATION.replace("MaxJobCount=1000", "MaxJobCount=10000")
    slurm.MEMORY_MB = 64_000
    with slurm.cluster() as found:
        yield found


@contextmanager
def repository(count: int, slurm: Any, *, program: str = "") -> Iterator[Path]:
    """Make a repository that asks for so many runs, at an engine if there is one; with `program` `sleep`, attempts do
    nothing and do not end."""
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        repo = Path(place)
        git(repo, "init", "-q", "-b", "main")
        said = f"program: [{sys.executable}, -P, -m, reconciler.executors.courier]"
        said = "program: [sh, -c, 'exec sleep 3600']" if program else said
        far = "executors:\n  hpc:\n    engine: slurm\n    weight: 1\n    poll: 1s\n    beat: 1s\n"
        far += f"    resources: {{memory: 500MB}}\n    options:\n      {said}\n"
        if slurm is not None:
            far += f"      config: {slurm.config}\n      output: {slurm.place}/output\n  local: {{weight: 0}}\n"
        write(repo / "reconciler.yaml", f"remote: null\nattempts_max: 1\n{far if slurm is not None else ''}")
        write(repo / "pipelines/p.yaml", NOOP)
        for number in range(count):
            write(repo / f"runs.d/r{number:05d}.yaml", "task: bench\npipeline: p\n")
        git(repo, "add", "-A")
        git(repo, "commit", "-qm", "requests")
        yield repo


def reconciled_s(repo: Path) -> float:
    began_s = time.perf_counter()
    done = subprocess.run([*RECONCILER, "reconcile", "--wait"], cwd=repo, capture_output=True, text=True, check=False)
    took_s = time.perf_counter() - began_s
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-2000:])
    return took_s


def proven(repo: Path) -> int:
    names = git(repo, "ls-tree", "-r", "--name-only", "main", ".runs/bench/cli/").splitlines()
    return sum(each.endswith("/manifest.json") for each in names)


def in_a_process(repo: Path) -> dict[str, float]:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=stand, args=(repo, answers))
    process.start()
    found: dict[str, float] = answers.get(timeout=1200)
    process.join()
    return found


def stand(repo: Path, answers: Any) -> None:
    """Launch everything, then do passes that find nothing new."""
    from reconciler.loop import Loop
    from reconciler.observe import Observer
    from reconciler.world import open_world

    world = open_world(repo)
    before, began_s = held_bytes(), time.perf_counter()
    runs: Mapping[Any, Any] = {}
    loop = Loop(world, Observer(world))
    loop.run_pass()
    took: dict[str, list[tuple[float, float]]] = {"hands": [], "asks": [], "pass": []}
    while not took["hands"] or any(not each.afar or not each.afar.submitted for each in runs.values()):
        took["hands"].append(timed(loop.run_pass))
        runs = loop.observer.observe().actual.runs
    launch_s = time.perf_counter() - began_s
    time.sleep(1.0)  # run directories that have not changed for a moment are not read again
    loop.run_pass()
    afar = loop.observer.afar
    assert afar is not None
    while min(len(took["asks"]), len(took["pass"])) < PASSES:
        asks = afar.patience_s() <= 0
        took["asks" if asks else "pass"].append(timed(loop.run_pass))
        if not asks and len(took["pass"]) >= PASSES:
            time.sleep(max(0.0, min(1.0, afar.patience_s())))
    middle = {name: sorted(each)[len(each) // 2] for name, each in took.items()}
    answers.put(
        {
            "runs": len(runs),
            "launch_s": launch_s,
            **{f"{name}_s": wall_s for name, (wall_s, _) in middle.items()},
            **{f"{name}_cpu_s": cpu_s for name, (_, cpu_s) in middle.items()},
            "bytes": held_bytes(),
            "before": before,
        }
    )


def timed(do: Callable[[], object]) -> tuple[float, float]:
    """Return how long something takes, in seconds by the clock and of this process's CPU."""
    began_s, cpu_s = time.perf_counter(), time.process_time()
    do()
    return time.perf_counter() - began_s, time.process_time() - cpu_s


def held_bytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(each.split()[1] for each in lines if each.startswith("VmRSS"))) * 1024


BENCHMARKS: dict[str, Callable[[], None]] = {"one": bench_one, "many": bench_many, "standing": bench_standing}

if __name__ == "__main__":
    main()
