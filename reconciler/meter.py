"""What evidence comes to: the manifests of a commit, read and summed up.

Only manifests that are wanted are read, one after the other, and of each only numbers are kept. Whoever stays (`serve`)
reads only what is new.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from reconciler.archive import Kept
from reconciler.git import Repository
from reconciler.measures import Measured, Measures
from reconciler.values import frozen

RUNS_MAX = 100_000
BATCH = 256
"""How many manifests are asked for at once."""


@frozen
class Wanted:
    """Which runs are measured: of one task, "" for all; those that ended at this instant or later, "" for all."""

    task_id: str = ""
    since: str = ""

    def wants(self, kept: Kept) -> bool:
        evidence = kept.evidence
        if evidence is None or not evidence.status.ended or self.task_id not in ("", kept.task_id):
            return False
        return evidence.completed_at >= self.since


class Meter:
    """Sums over the runs of a commit, which are made anew only where a run that was counted is gone or another one."""

    def __init__(self, wanted: Wanted | None = None) -> None:
        self.wanted = wanted or Wanted()
        self._begin()

    def _begin(self) -> None:
        self._measures, self._counted = Measures(), dict[str, str]()
        self._last: tuple[str, Measured] | None = None

    def measured(self, repository: Repository, runs: Iterable[Kept], tree: str = "") -> Measured:
        """Return what runs come to: the newest `RUNS_MAX` of those that are wanted. `tree` names a state of all runs
        that need not be looked at again."""
        if self._last is None or not tree or self._last[0] != tree:
            found = islice((each for each in runs if self.wanted.wants(each)), RUNS_MAX)
            self._count(repository, {each.run_id: each.evidence.manifest_blob for each in found if each.evidence})
            self._last = (tree, self._measures.measured())
        return self._last[1]

    def _count(self, repository: Repository, blobs: Mapping[str, str]) -> None:
        if any(blobs.get(run_id) != blob for run_id, blob in self._counted.items()):
            self._begin()
        new = [(run_id, blob) for run_id, blob in blobs.items() if run_id not in self._counted]
        for data in _read(repository, [blob for _, blob in new]):
            self._measures.add(_document(data))
        self._counted.update(new)


def _read(repository: Repository, blobs: Sequence[str]) -> Iterator[bytes | None]:
    for at in range(0, len(blobs), BATCH):
        yield from (data for _, data in repository.blobs(blobs[at : at + BATCH]))


def _document(data: bytes | None) -> object:
    """Return what a manifest says, None if it is no JSON: then it is counted as damaged."""
    try:
        return json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
