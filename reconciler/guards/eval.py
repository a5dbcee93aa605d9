"""`guard: eval`: the scenarios of the run's commit come out as they say. Their results are evidence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from reconciler import codec, scenarios
from reconciler.contracts import Contracts
from reconciler.errors import ContentError
from reconciler.guards.findings import EVERYWHERE, Finding, Report, chosen, report_of
from reconciler.model import Rejection, Source
from reconciler.scenarios import Result, Scenario
from reconciler.worktree import CommitFiles

if TYPE_CHECKING:
    from reconciler.guards.scene import Scene

PATTERN = "**/*.eval.yaml"
Read = Callable[[str], bytes | None]


def check(scene: Scene, options: Mapping[str, object]) -> Report:
    """Try the scenarios at the run's commit, with its fixtures and pipelines."""
    files = CommitFiles(scene.repository, scene.commit)
    paths = chosen(files.paths, options, (PATTERN,))
    if not paths:
        reason, cure = "there is no scenario at the run's commit", "commit one: evals/<name>.eval.yaml"
        return report_of([Finding(path=EVERYWHERE, reason=reason, cure=cure)], 0)
    results = list(tried(paths, files.paths, files.read))
    found = [Finding(path=each.path, reason=reason) for each in results for reason in each.findings]
    report = report_of(found, len(results))
    artifacts = {"eval.json": codec.render(scenarios.document(results)), "eval.xml": scenarios.junit(results).encode()}
    return Report(findings=report.findings, checked=report.checked, artifacts=artifacts)


def tried(paths: Sequence[str], there: Iterable[str], read: Read, parallel: int = 0) -> Iterator[Result]:
    """Try the scenarios of some paths and yield a result for each: those that cannot be tried come first.

    `there` are the files of the repository and `read` returns what one holds. Raise ContentError for too many.
    """
    from reconciler import trials

    if len(paths) > scenarios.SCENARIOS_MAX:
        raise ContentError(f"{len(paths)} scenarios; at most {scenarios.SCENARIOS_MAX} are tried at once")
    ready: list[tuple[Scenario, Mapping[str, bytes]]] = []
    for path in paths:
        found = _ready(path, there, read)
        if isinstance(found, Result):
            yield found
        else:
            ready.append(found)
    yield from trials.try_all(ready, parallel or trials.parallel_default())


def _ready(path: str, there: Iterable[str], read: Read) -> tuple[Scenario, Mapping[str, bytes]] | Result:
    """Return a scenario with the files of its repository; or its result, if it cannot be tried."""
    data = read(path)
    if data is None:
        return Result(path=path, title="", findings=("this is no regular file, or too large",))
    parsed = scenarios.parse_scenario(data, Source(path=path), Contracts())
    if isinstance(parsed, Rejection):
        return scenarios.rejected(path, parsed.problems)
    files = scenarios.laid_out(parsed, there, read)
    if isinstance(files, str):
        return Result(path=path, title=parsed.title, findings=(files,))
    return parsed, files
