"""`reconciler eval`: scenarios, each tried in a repository of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reconciler.errors import ContentError, UsageError
from reconciler.terminal import print_json, single_line

if TYPE_CHECKING:
    from reconciler.scenarios import Result

PARALLEL_MAX = 16


@click.command(short_help="try scenarios: a pipeline in a repository made for it, and what must come of it")
@click.argument("paths", nargs=-1, metavar="[SCENARIOS]...")
@click.option(
    "--parallel", type=click.IntRange(min=1, max=PARALLEL_MAX), metavar="N",
    help="How many at once. Default: the number of cores, at most 4.",
)  # fmt: skip
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "junit"]), default="text", show_default=True,
    help="Text for people, JSON for programs, JUnit XML for CI.",
)  # fmt: skip
@click.pass_obj
def command(repo: str, paths: tuple[str, ...], parallel: int | None, form: str) -> int:
    """Try scenarios (*.eval.yaml): each makes a repository, lets the reconciler run a pipeline in it, and judges.

    SCENARIOS are files, or folders in which they lie; without any, all of this repository.

    \b
    reconciler eval                            # all scenarios
    reconciler eval evals/python.eval.yaml     # one
    reconciler eval --format junit > build/eval.xml

    Each is tried in a directory of its own, with an empty home and none of your environment but PATH and language;
    nothing of it reaches this repository. As a stage, `guard: eval`, the results are evidence of the run.

    Exit codes: 0 all passed, 1 some did not or there is none, 2 wrong usage.
    """
    results = _results(Path(repo), paths, parallel or 0, form)
    if form != "text":
        _print(form, results)
    else:
        failed = sum(not each.passed for each in results)
        click.echo(f"{_counted(len(results))} tried, {failed or 'none'} failed")
    return 1 if any(not each.passed for each in results) else 0


def _results(directory: Path, words: Sequence[str], parallel: int, form: str) -> list[Result]:
    """Try what is asked for; tell people of each as soon as it is over."""
    from reconciler.commands.patterns import below, head_of, inside
    from reconciler.git import open_repository
    from reconciler.guards.eval import tried
    from reconciler.guards.scene import scene_at
    from reconciler.newfiles import refuse_bare
    from reconciler.scenarios import SUFFIX

    repository = open_repository(directory)
    refuse_bare(repository)
    root, base = repository.directory, directory.resolve()
    wanted = [inside(root, base, word) for word in words]
    with scene_at(repository, head_of(repository), root, root) as scene:
        known = sorted(each for each in scene.paths if each.endswith(SUFFIX))
        chosen = [each for each in known if not wanted or any(below(each, one) for one in wanted)]
        for word, one in zip(words, wanted, strict=True):
            if not any(below(each, one) for each in chosen):
                raise UsageError(f"{word}: holds no scenario; one is a file that ends with {SUFFIX}")
        if not chosen:
            raise ContentError(f"there is no scenario here; write one, for example evals/first{SUFFIX}")
        results = []
        for each in tried(chosen, scene.paths, scene.files.read, parallel):
            results.append(each)
            if form == "text":
                _tell(each)
        return results


def _tell(result: Result) -> None:
    word = "passed" if result.passed else "FAILED"
    title = f" ({result.title})" if result.title else ""
    click.echo(single_line(f"{word} {result.path}{title} {result.took_s:.1f} s"))
    for each in result.findings:
        click.echo(single_line(f"       {each}"))


def _print(form: str, results: Sequence[Result]) -> None:
    from reconciler import scenarios

    if form == "json":
        print_json(scenarios.document(results))
    else:
        click.echo(scenarios.junit(results), nl=False)


def _counted(number: int) -> str:
    return f"{number} scenario{'' if number == 1 else 's'}"
