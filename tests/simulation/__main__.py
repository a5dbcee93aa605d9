"""Tell the stories of many seeds: `python -m tests.simulation --seeds 0:20000 -j 2`."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor

from reconciler.simulation.history import Result
from reconciler.simulation.tell import Tally, report, tell_seeds

CHUNK = 50


def _told(asked: tuple[range, bool, bool]) -> tuple[Tally, list[Result]]:
    return tell_seeds(asked[0], waits=asked[1], engine=asked[2])


def _chunks(first: int, last: int) -> Iterable[range]:
    return (range(at, min(at + CHUNK, last)) for at in range(first, last, CHUNK))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0:2000", help="one seed, or FIRST:LAST without LAST")
    parser.add_argument("-j", "--processes", type=int, default=2)
    parser.add_argument("--waits", action="store_true", help="let all stories have gates and nested pipelines")
    parser.add_argument("--engine", action="store_true", help="let an engine execute runs of all stories")
    parser.add_argument("--no-shrink", action="store_true", help="tell broken seeds as they are, not the shortest ones")
    parser.add_argument("--keep-going", action="store_true", help="tell every broken seed, not the first ones only")
    given = parser.parse_args()
    first, _, last = given.seeds.partition(":")
    start, end = int(first), int(last) if last else int(first) + 1
    began, whole, broken = time.monotonic(), Tally(), []
    asked = [(each, given.waits, given.engine) for each in _chunks(start, end)]
    with ProcessPoolExecutor(given.processes, multiprocessing.get_context("fork")) as pool:
        for tally, found in pool.map(_told, asked):
            whole.histories += tally.histories
            whole.moves += tally.moves
            whole.seconds += tally.seconds
            for what, count in tally.counts.items():
                whole.counts[what] = whole.counts.get(what, 0) + count
            broken += found
            if broken and not given.keep_going:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    took_s = time.monotonic() - began
    for result in broken[:3]:
        print(report(result, shrink=not given.no_shrink), "\n")
    if len(broken) > 3:
        print("also broken:", ", ".join(str(each.story.seed) for each in broken[3:]), "\n")
    print(
        f"{whole.histories} histories in {took_s:.1f} s: {whole.histories / took_s:.0f} a second on {given.processes} cores"
    )
    print(f"{whole.moves} moves, {whole.seconds / 86400:.1f} days of simulated time")
    print(", ".join(f"{count} {what}" for what, count in sorted(whole.counts.items(), key=lambda each: -each[1])))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
