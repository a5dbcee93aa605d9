"""`reconciler chaos`: what would become of this repository's requests if everything went wrong."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler.contracts import Contracts
from reconciler.errors import ContentError, UsageError
from reconciler.git import Repository, open_repository
from reconciler.model import Rejection, Settings, Source
from reconciler.terminal import format_option, print_json, single_line

if TYPE_CHECKING:
    from reconciler.simulation.history import Result
    from reconciler.simulation.story import Story
    from reconciler.simulation.tell import Tally

FOLDERS = ("runs.d/", "pipelines/", "tasks/")
FILES = ("reconciler.yaml", "AGENTS.md", "docs/AGENTS.md", ".agent/AGENTS.md")
FILE_BYTES_MAX = 256 * 1024
MINUTE_S = 60.0

HAPPENED = {
    "crash": "a process died in the middle of something",
    "kill": "a process was killed from outside",
    "stop": "a process was stopped and went on later",
    "power": "a machine lost power, and what was not synced",
    "clock": "a wall clock was set to another year",
    "disk full": "a disk was full",
    "git fails": "git did not answer",
    "spawn fails": "a worker could not be started",
    "publish blocked": "somebody's work was in the way of evidence",
    "push lost": "a push was lost",
    "push late": "a push arrived when nobody waited any more",
    "push twice": "a push arrived twice",
    "no answer": "an acknowledgement was lost",
    "fetch fails": "a fetch failed",
    "slow answer": "the answer of a fetch was old when it arrived",
    "cut off": "a machine could not reach the remote for a while",
    "away": "a machine was gone for long, or for good",
    "suspend": "a machine was suspended for seconds or minutes",
    "claims that were made up": "somebody who may write refs made up a claim",
    "attempts at the engine": "an attempt was handed to an engine",
    "times the engine did not answer": "an engine did not answer",
    "attempts refused at the engine": "an engine refused an attempt for good",
    "attempts unseen at the engine": "an engine took an attempt and did not know of it for a while",
    "attempts preempted at the engine": "an attempt had to make way for others at an engine",
    "attempts evicted at the engine": "an engine evicted an attempt",
    "attempts time limit at the engine": "an engine ended an attempt at its time limit",
    "attempts node fails at the engine": "the node of an attempt was lost",
    "attempts killed at the engine": "the courier of an attempt was killed",
    "attempts requeued at the engine": "the node of an attempt was lost, and it was started once more",
    "attempts twice at the engine": "an engine started an attempt twice",
    "attempts twice late at the engine": "an engine started an attempt once more, much later",
    "attempts returns at the engine": "an engine called an attempt over, and it went on",
    "couriers that found it begun": "a courier came second and executed nothing",
    "couriers that were fenced": "the attempt of a courier had been taken from it",
    "refs of attempts that were forged": "somebody without a key wrote what attempts and hosts say to each other",
    "commits by people": "a person committed in between",
    "publications": "evidence was committed",
    "passes": "a pass was done",
}
"""What went wrong, and what was done, each of them so and so many times."""
PROMISES = (
    "no run had two attempts at once",
    "nothing that was acknowledged was lost",
    "no attempt number went down, and no ended run changed its status",
    "every manifest came with its logs, and every ticked item with a succeeded manifest",
    "nothing that people wrote was touched",
    "once nothing went wrong any more, everything came to its end",
)
OF_ENGINES = (
    "no attempt was executed twice at an engine, and of a run's attempts only the newest was heard",
    "two attempts of a run were there at once only where an engine had said that the first one was over",
    "what evidence says of a lost attempt is what its engine said, or what was measured",
)
"""What is promised where an engine executes runs, in the place of the first promise above."""


@click.command(short_help="try this repository's requests on a simulated world in which everything goes wrong")
@click.option("--seed", default=0, show_default=True, metavar="N", help="The first history to tell; the next follow.")
@click.option("--minutes", default=0.2, show_default=True, metavar="M", help="How long to go on.")
@click.option("--engine", is_flag=True, help="Let an engine execute runs, also where the settings name none.")
@format_option
@click.pass_obj
def command(repo: str, seed: int, minutes: float, engine: bool, form: str) -> int:
    """Run this repository's own requests and pipelines in a simulated world, with stages replaced by sleeps and exit
    codes, while processes die, machines lose power, clocks jump and the network loses what it likes.

    \b
    reconciler chaos
    reconciler chaos --seed 1000 --minutes 5
    reconciler chaos --engine

    Where the settings have an executor with an engine, a simulated one takes its place: it delays, loses, duplicates
    and resurrects what it is given. With --engine there is one in any case; one that is added gets three of four runs.

    Nothing is executed and nothing is written. The same seed is the same history. Exit code 1 if a promise was broken;
    then the shortest history in which it is broken is printed.
    """
    if minutes <= 0:
        raise UsageError("--minutes is more than 0")
    stories = _stories(open_repository(Path(repo)), seed, engine=engine)
    try:
        from reconciler.simulation.tell import report, tell
    except ModuleNotFoundError as error:
        if error.name != "greenlet":
            raise
        raise UsageError("chaos needs greenlet; run: pip install 'gitops-reconciler[chaos]'") from None
    deadline_s = time.monotonic() + minutes * MINUTE_S
    tally, broken = tell(_until(stories, deadline_s, quiet=form == "json"))
    if form == "json":
        print_json(_document(seed, tally, broken))
    else:
        _show(tally, broken)
        for result in broken[:1]:
            click.echo(report(result))
    return 1 if broken else 0


def _stories(repository: Repository, seed: int, *, engine: bool) -> Iterator[Story]:
    """Yield the stories about the tip of a repository, one for each seed."""
    branch, settings, files = _content(repository)
    remote = settings.remote is not None
    has_engine = engine or any(each.engine for each in settings.executors.values())

    def stories() -> Iterator[Story]:
        from reconciler.simulation.own import own_story

        number = seed
        while True:
            yield own_story(files, settings, branch, number, remote=remote, engine=has_engine)
            number += 1

    return stories()


def _content(repository: Repository) -> tuple[str, Settings, Mapping[str, bytes]]:
    """Return branch, settings and all files at the tip that take part."""
    settings = _settings(repository, "HEAD")
    branch = settings.branch or repository.head_branch()
    tip = repository.commit_of(branch)
    if tip is None:
        raise ContentError(f"branch '{branch}' has no commit; commit something first")
    settings = _settings(repository, tip)
    tree = repository.look_up([f"{tip}^{{tree}}"])[0]
    within = (*FOLDERS, *FILES)
    wanted = [
        (path, entry.oid)
        for path, entry in repository.changes(None, tree, lambda path: _may_hold(path, within))
        if entry is not None and entry.is_file and path.startswith(within)
    ]
    read = repository.blobs([oid for _, oid in wanted])
    files = {path: data for (path, _), (_, data) in zip(wanted, read, strict=True) if data is not None}
    files = {path: data for path, data in files.items() if len(data) <= FILE_BYTES_MAX}
    if not any(path.startswith("runs.d/") for path in files):
        raise ContentError(f"runs.d/ holds no request at the tip of '{branch}'; there is nothing to try")
    return branch, settings, files


def _may_hold(path: str, within: tuple[str, ...]) -> bool:
    return path.startswith(within) or any(each.startswith(f"{path}/") for each in within)


def _settings(repository: Repository, commit: str) -> Settings:
    oid = repository.look_up([f"{commit}:reconciler.yaml"])[0]
    if oid is None:
        return Settings()
    from reconciler.settings import parse_settings

    _, data = next(repository.blobs([oid]))
    settings = parse_settings(data, Source(path="reconciler.yaml", blob=oid), Contracts())
    if isinstance(settings, Rejection):
        raise ContentError("\n".join(problem.sentence() for problem in settings.problems))
    return settings


def _until(stories: Iterator[Story], deadline_s: float, *, quiet: bool) -> Iterator[Story]:
    """Yield stories until time is over, at least one, saying on a terminal how many there were."""
    shows = not quiet and sys.stderr.isatty()
    for count, story in enumerate(stories, 1):
        yield story
        if shows and count % 20 == 0:
            click.echo(f"\r{count} histories", nl=False, err=True)
        if time.monotonic() >= deadline_s:
            break
    if shows:
        click.echo("\r", nl=False, err=True)


def _show(tally: Tally, broken: list[Result]) -> None:
    hours = tally.seconds / 3600
    many = "history" if tally.histories == 1 else "histories"
    click.echo(f"{tally.histories} {many}, {hours:.1f} hours of simulated time, {tally.moves} moves; in them")
    for what, words in HAPPENED.items():
        if count := tally.counts.get(what, 0):
            click.echo(f"{count:8d} × {words}")
    if not broken:
        click.echo("and in all of them")
        has_engine = "attempts at the engine" in tally.counts
        for promise in (*PROMISES[1:], *OF_ENGINES) if has_engine else PROMISES:
            click.echo(f"           {promise}")
        return
    seeds = ", ".join(str(each.story.seed) for each in broken[:20])
    click.echo(single_line(f"broken in {len(broken)} of them (seeds {seeds}); this is a bug in the reconciler:"))


def _document(seed: int, tally: Tally, broken: list[Result]) -> dict[str, Any]:
    from reconciler.simulation.tell import shortest_told

    return {
        "seed": seed,
        "histories": tally.histories,
        "moves": tally.moves,
        "simulated_s": round(tally.seconds, 3),
        "happened": dict(sorted(tally.counts.items())),
        "broken": [{"seed": each.story.seed, "promise": each.violation} for each in broken],
        "trace": shortest_told(broken[0]).trace if broken else [],
    }
